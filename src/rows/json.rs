//! `RowWriter`: the concrete, inlined encoder that cursors write their rows into.
//!
//! Must not know engines, and not the envelope around the rows: it appends after whatever its buffer already holds.

use std::fmt;
use std::time::Instant;

use super::{Int64Encoding, RowFormat, Schema};

/// How rows are written: the format, and the keys of rows sent as objects.
#[derive(Debug, Clone)]
pub(crate) struct RowShape {
    row_format: RowFormat,
    int64: Int64Encoding,
    /// For objects, per column: `{"label":` for the first, `,"label":` for the rest, already escaped.
    keys: Vec<Box<[u8]>>,
}

/// Where a batch closes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchLimits {
    /// Rows of one batch, at least 1.
    pub(crate) rows_max: u32,
    /// The batch closes with the row that reaches this many bytes of rows.
    pub(crate) bytes_max: usize,
    /// A row larger than this is refused with [`RowError::TooLarge`].
    pub(crate) row_bytes_max: usize,
    /// What the query may still send in all (`max_bytes`): the row that would pass it is taken back, and the writer is
    /// [`exhausted`](RowWriter::is_exhausted).
    pub(crate) bytes_left: Option<u64>,
    /// The batch is due at this time if it holds a row.
    pub(crate) until: Option<Instant>,
}

/// What a filled writer gives back.
#[derive(Debug)]
pub(crate) struct FilledBatch {
    /// The buffer given to [`RowWriter::begin_batch`], with the rows appended.
    pub(crate) buffer: Vec<u8>,
    /// How many rows were appended.
    pub(crate) rows: u32,
    /// How many bytes those rows take, separators included.
    pub(crate) row_bytes: usize,
}

/// Takes a due batch out of a writer while the engine is still busy inside one call.
pub(crate) trait FlushSink: Send {
    /// Takes the batch with [`RowWriter::take_batch`] and starts the next with [`RowWriter::begin_batch`], or, where there
    /// is no room for a batch, leaves the writer as it is. Must not block.
    fn flush(&mut self, writer: &mut RowWriter, now: Instant);
}

/// Why a row could not be written. The row is not part of the batch; the rows before it are.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RowError {
    /// A text cell is not UTF-8. Row and column are 0-based; the row counts from the start of the result.
    InvalidUtf8 {
        /// 0-based position of the row in the whole result.
        row: u64,
        /// 0-based position of the column.
        column: usize,
    },
    /// The row is larger than the server's limit for one row.
    TooLarge {
        /// 0-based position of the row in the whole result.
        row: u64,
        /// The limit, in encoded bytes.
        bytes_max: usize,
    },
    /// The engine wrote another number of cells than the result has columns.
    CellCount {
        /// 0-based position of the row in the whole result.
        row: u64,
        /// Cells written.
        cells: usize,
        /// Columns of the result.
        columns: usize,
    },
}

impl fmt::Display for RowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidUtf8 { row, column } => {
                write!(f, "text in row {row}, column {column} is not valid UTF-8")
            }
            Self::TooLarge { row, bytes_max } => {
                write!(f, "row {row} is larger than {bytes_max} bytes")
            }
            Self::CellCount { row, cells, columns } => write!(f, "row {row} has {cells} cells for {columns} columns"),
        }
    }
}

impl std::error::Error for RowError {}

impl RowShape {
    pub(crate) fn new(schema: &Schema, row_format: RowFormat, int64: Int64Encoding) -> Self {
        let _ = schema;
        Self {
            row_format,
            int64,
            keys: Vec::new(),
        }
    }
}

/// Takes the rows of one batch, encoding each cell as it comes: no tree, no allocation per row.
///
/// A cursor gets it in [`Cursor::fill`](crate::engine::Cursor::fill) and writes row by row:
///
/// ```text
/// while !out.is_full() {
///     // find the next row, or return Step::Done
///     out.begin_row();
///     out.integer(1);
///     out.text(b"one");
///     out.end_row()?;
/// }
/// Ok(Step::More)
/// ```
///
/// Nothing here blocks. An error of a cell is kept and returned by [`end_row`](Self::end_row).
pub struct RowWriter {
    buffer: Vec<u8>,
    shape: RowShape,
    limits: BatchLimits,
    rows: u32,
    /// Rows of earlier batches: where this batch begins in the result.
    row_offset: u64,
    exhausted: bool,
    due: bool,
    sink: Option<Box<dyn FlushSink>>,
}

impl fmt::Debug for RowWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RowWriter")
            .field("rows", &self.rows)
            .field("row_offset", &self.row_offset)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// For cursors: writing rows.
impl RowWriter {
    /// Whether the batch takes no further row: it has its rows or bytes, it is due, or a limit of the query is reached.
    /// Ask before looking for the next row.
    #[inline]
    #[must_use]
    pub fn is_full(&self) -> bool {
        unimplemented!()
    }

    /// Starts a row.
    #[inline]
    pub fn begin_row(&mut self) {
        unimplemented!()
    }

    /// Writes NULL as the next cell.
    #[inline]
    pub fn null(&mut self) {
        unimplemented!()
    }

    /// Writes true or false as the next cell.
    #[inline]
    pub fn boolean(&mut self, _value: bool) {
        unimplemented!()
    }

    /// Writes an integer as the next cell, in the form the client asked for.
    #[inline]
    pub fn integer(&mut self, _value: i64) {
        unimplemented!()
    }

    /// Writes a double as the next cell: its shortest digits that read back as the same double; NaN and the infinities as
    /// the strings `"NaN"`, `"Infinity"`, `"-Infinity"`.
    #[inline]
    pub fn real(&mut self, _value: f64) {
        unimplemented!()
    }

    /// Writes text as the next cell. Bytes that are not UTF-8 make [`end_row`](Self::end_row) fail.
    #[inline]
    pub fn text(&mut self, _text: &[u8]) {
        unimplemented!()
    }

    /// Writes bytes as the next cell, as padded standard base64 (RFC 4648 section 4).
    #[inline]
    pub fn blob(&mut self, _bytes: &[u8]) {
        unimplemented!()
    }

    /// Ends the row and makes it part of the batch.
    ///
    /// # Errors
    /// [`RowError`]; the row is taken back, the batch keeps the rows before it.
    #[inline]
    pub fn end_row(&mut self) -> Result<(), RowError> {
        unimplemented!()
    }

    /// How many rows the batch holds.
    #[must_use]
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// When the batch wants to leave if it holds a row by then. A cursor that waits for something outside with rows in
    /// hand waits until then at the most, and returns [`Step::More`](crate::engine::Step::More).
    #[must_use]
    pub fn until(&self) -> Option<Instant> {
        self.limits.until
    }

    /// Says that it is `now`, between two rows. A cursor that computes calls it now and then (SQLite: from the progress
    /// handler), also in the middle of looking for the next row: a due batch that holds rows leaves at once.
    #[inline]
    pub fn tick(&mut self, _now: Instant) {
        unimplemented!()
    }
}

/// For the worker: beginning and taking batches.
impl RowWriter {
    /// A writer without a batch: full until [`begin_batch`](Self::begin_batch).
    pub(crate) fn new(_shape: RowShape) -> Self {
        unimplemented!()
    }

    /// Who takes a due batch in the middle of an engine call; without one, a due batch is merely full.
    pub(crate) fn set_sink(&mut self, sink: Option<Box<dyn FlushSink>>) {
        self.sink = sink;
    }

    /// Starts a batch behind what `buffer` already holds; `row_offset` rows of the result came before it.
    pub(crate) fn begin_batch(&mut self, _buffer: Vec<u8>, _limits: BatchLimits, _row_offset: u64) {
        unimplemented!()
    }

    /// Ends the batch and hands it over.
    pub(crate) fn take_batch(&mut self) -> FilledBatch {
        unimplemented!()
    }

    /// Whether a row was taken back because it would have passed `bytes_left`.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.exhausted
    }
}
