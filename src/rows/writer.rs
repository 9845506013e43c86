//! `RowWriter`: what cursors write their rows into, whatever the rows are encoded as, and where a batch closes.
//!
//! Must not know engines or the envelope around the rows.

mod held;

use std::fmt;
use std::time::Instant;

#[cfg(feature = "arrow")]
use super::arrow::{self, CellRefusal, RefusedCell};
use super::cell::{Cell, CellError, RowSource};
use super::encoder::{EncodedRows, Encoder, RowShape};
use super::{RowError, Schema};

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
    /// How many bytes were appended: JSON's separators and Arrow's metadata included.
    pub(crate) row_bytes: usize,
    /// Which cells are not what their column says, as a JSON array; `None` where nobody asked.
    pub(crate) marks: Option<Vec<u8>>,
}

/// Takes a due batch out of a writer while the engine is still busy inside one call.
pub(crate) trait FlushSink: Send {
    /// Takes the batch with [`RowWriter::take_batch`] and starts the next with [`RowWriter::begin_batch`], or, where there
    /// is no room for a batch, leaves the writer as it is. Where taking fails, the writer stays full, and taking from it fails
    /// again when the engine has returned. Must not block.
    fn flush(&mut self, writer: &mut RowWriter, now: Instant);
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
    encoder: Encoder,
    columns: Schema,
    n_columns: usize,
    limits: BatchLimits,
    /// What the batch's rows take.
    bytes: usize,
    /// The batch is full with so many bytes; 0 while there is no batch, so that the writer is full.
    full_at: usize,
    rows: u32,
    /// Rows of earlier batches: where this batch begins in the result.
    row_offset: u64,
    /// Cells of the row being written.
    cells: usize,
    /// What is wrong with the row being written.
    error: Option<RowError>,
    in_row: bool,
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
        self.bytes >= self.full_at || self.rows >= self.limits.rows_max || self.due || self.exhausted
    }

    /// Starts a row.
    #[inline]
    pub fn begin_row(&mut self) {
        debug_assert!(!self.in_row, "the row before is ended first");
        self.in_row = true;
        self.cells = 0;
        self.encoder.begin_row(self.rows);
    }

    /// Writes NULL as the next cell.
    #[inline]
    pub fn null(&mut self) {
        let cell_idx = self.begin_cell();
        match &mut self.encoder {
            Encoder::Json(json) => json.null(cell_idx),
            Encoder::Other(_) => self.write_other(cell_idx, Cell::Null),
        }
    }

    /// Writes true or false as the next cell.
    #[inline]
    pub fn boolean(&mut self, value: bool) {
        let cell_idx = self.begin_cell();
        match &mut self.encoder {
            Encoder::Json(json) => json.boolean(cell_idx, value),
            Encoder::Other(_) => self.write_other(cell_idx, Cell::Boolean(value)),
        }
    }

    /// Writes an integer as the next cell, in JSON in the form the client asked for.
    #[inline]
    pub fn integer(&mut self, value: i64) {
        let cell_idx = self.begin_cell();
        match &mut self.encoder {
            Encoder::Json(json) => json.integer(cell_idx, value),
            Encoder::Other(_) => self.write_other(cell_idx, Cell::Integer(value)),
        }
    }

    /// Writes a double as the next cell, in JSON with its shortest digits that read back as the same double; NaN and the
    /// infinities as the strings `"NaN"`, `"Infinity"`, `"-Infinity"`.
    #[inline]
    pub fn real(&mut self, value: f64) {
        let cell_idx = self.begin_cell();
        match &mut self.encoder {
            Encoder::Json(json) => json.real(cell_idx, value),
            Encoder::Other(_) => self.write_other(cell_idx, Cell::Real(value)),
        }
    }

    /// Writes text as the next cell. Bytes that are not UTF-8 make [`end_row`](Self::end_row) fail, unless the query asked for
    /// [`TextErrors`](super::TextErrors) that let them pass.
    #[inline]
    pub fn text(&mut self, text: &[u8]) {
        let cell_idx = self.begin_cell();
        if self.is_too_large(text.len()) {
            return;
        }
        match &mut self.encoder {
            Encoder::Json(json) => {
                if !json.text(cell_idx, text) {
                    self.refuse_cell(cell_idx, CellError::InvalidUtf8);
                }
            }
            Encoder::Other(_) => self.write_other(cell_idx, Cell::Text(text)),
        }
    }

    /// Writes bytes as the next cell, in JSON as padded standard base64 (RFC 4648 section 4).
    #[inline]
    pub fn blob(&mut self, bytes: &[u8]) {
        let cell_idx = self.begin_cell();
        if self.is_too_large(self.encoder.blob_len(bytes)) {
            return;
        }
        match &mut self.encoder {
            Encoder::Json(json) => json.blob(cell_idx, bytes),
            Encoder::Other(_) => self.write_other(cell_idx, Cell::Blob(bytes)),
        }
    }

    /// Ends the row and makes it part of the batch.
    ///
    /// # Errors
    /// [`RowError`]; the row is taken back, the batch keeps the rows before it.
    #[inline]
    pub fn end_row(&mut self) -> Result<(), RowError> {
        let bytes = self.encoder.end_row(self.cells);
        self.in_row = false;
        self.accept_row(bytes)
    }

    /// Makes the row that was written part of the batch, which takes so many bytes with it; or takes it back.
    #[inline]
    fn accept_row(&mut self, bytes: usize) -> Result<(), RowError> {
        let row_bytes = bytes - self.bytes;
        if self.error.is_some() || self.cells != self.n_columns || row_bytes > self.limits.row_bytes_max {
            return Err(self.refuse_row());
        }
        if let Some(bytes_left) = self.limits.bytes_left
            && (self.exhausted || bytes as u64 > bytes_left && !self.is_sampling())
        {
            self.take_row_back();
            self.exhausted = true;
            return Ok(());
        }
        self.bytes = bytes;
        self.rows += 1;
        Ok(())
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
    pub fn tick(&mut self, now: Instant) {
        if self.rows > 0 && !self.in_row && self.limits.until.is_some_and(|until| now >= until) {
            self.leave(now);
        }
    }

    /// The position of the cell that comes now.
    #[inline]
    fn begin_cell(&mut self) -> usize {
        debug_assert!(self.in_row, "a cell belongs to a row");
        let cell_idx = self.cells;
        self.cells += 1;
        cell_idx
    }

    // Not inlined: JSON's way through a cell stays short.
    #[inline(never)]
    fn write_other(&mut self, cell_idx: usize, cell: Cell<'_>) {
        if let Encoder::Other(other) = &mut self.encoder
            && let Err(error) = other.write(self.rows, cell_idx, cell)
        {
            self.refuse_cell(cell_idx, error);
        }
    }

    /// Remembers why the row cannot be written. The first reason counts.
    #[cold]
    fn refuse_cell(&mut self, cell_idx: usize, error: CellError) {
        let error = self.cell_refused(cell_idx, error);
        self.error.get_or_insert(error);
    }

    fn cell_refused(&self, column: usize, error: CellError) -> RowError {
        let row = self.row_number();
        let label = self
            .columns
            .columns()
            .get(column)
            .map_or_else(String::new, |column| column.label.clone());
        match error {
            CellError::InvalidUtf8 => RowError::InvalidUtf8 { row, column, label },
            #[cfg(feature = "arrow")]
            CellError::Mistyped { column_type, found } => RowError::Mistyped {
                row,
                column,
                label,
                column_type,
                found,
            },
        }
    }

    /// Refuses a cell that is beyond the limit for a row before it is copied.
    #[inline]
    fn is_too_large(&mut self, cell_bytes: usize) -> bool {
        let too_large = cell_bytes > self.limits.row_bytes_max;
        if too_large {
            let (row, bytes_max) = (self.row_number(), self.limits.row_bytes_max);
            self.error.get_or_insert(RowError::TooLarge { row, bytes_max });
        }
        too_large
    }

    /// 0-based position of the next row in the whole result.
    pub(crate) fn row_number(&self) -> u64 {
        self.row_offset + u64::from(self.rows)
    }

    #[cold]
    fn refuse_row(&mut self) -> RowError {
        self.take_row_back();
        let row = self.row_number();
        self.error.take().unwrap_or(if self.cells == self.n_columns {
            RowError::TooLarge {
                row,
                bytes_max: self.limits.row_bytes_max,
            }
        } else {
            RowError::CellCount {
                row,
                cells: self.cells,
                columns: self.n_columns,
            }
        })
    }

    #[cold]
    fn take_row_back(&mut self) {
        self.in_row = false;
        self.encoder.take_row_back(self.bytes);
    }

    #[cold]
    fn leave(&mut self, now: Instant) {
        match self.sink.take() {
            // What is held back does not leave; the engine comes back, for others to have their turn.
            Some(sink) if self.holds_back() => {
                self.sink = Some(sink);
                self.due = true;
            }
            Some(mut sink) => {
                sink.flush(self, now);
                self.sink = Some(sink);
            }
            None => self.due = true,
        }
    }
}

/// For engines whose rows can be looked at cell by cell: the encoding is chosen once a row, and not once a cell.
impl RowWriter {
    /// Writes a whole row, of as many cells as there are columns.
    ///
    /// # Errors
    /// As [`end_row`](Self::end_row).
    #[inline]
    pub(crate) fn write_row<R: RowSource>(&mut self, row: &R) -> Result<(), RowError> {
        #[cfg(feature = "arrow")]
        if let Some(arrow) = self.encoder.arrow() {
            match arrow.write_row(row, self.rows, self.limits.row_bytes_max) {
                Ok(Some(bytes)) => {
                    self.cells = self.n_columns;
                    return self.accept_row(bytes);
                }
                Ok(None) => {}
                Err(refused) => return Err(self.refuse_row_for(refused)),
            }
        }
        self.begin_row();
        for column_idx in 0..self.n_columns {
            row.write_cell(column_idx, self);
        }
        self.end_row()
    }

    #[cfg(feature = "arrow")]
    #[cold]
    fn refuse_row_for(&mut self, RefusedCell { column_idx, refusal }: RefusedCell) -> RowError {
        let row = self.row_number();
        self.take_row_back();
        match refusal {
            CellRefusal::Misfit(error) => self.cell_refused(column_idx, error),
            CellRefusal::TooLarge => RowError::TooLarge {
                row,
                bytes_max: self.limits.row_bytes_max,
            },
        }
    }
}

/// For the worker: beginning and taking batches.
impl RowWriter {
    /// A writer without a batch: full until [`begin_batch`](Self::begin_batch).
    pub(crate) fn new(shape: RowShape) -> Self {
        let RowShape { columns, encoder } = shape;
        Self {
            encoder,
            n_columns: columns.len(),
            columns,
            limits: BatchLimits {
                rows_max: 0,
                bytes_max: 0,
                row_bytes_max: 0,
                bytes_left: None,
                until: None,
            },
            bytes: 0,
            full_at: 0,
            rows: 0,
            row_offset: 0,
            cells: 0,
            error: None,
            in_row: false,
            exhausted: false,
            due: false,
            sink: None,
        }
    }

    /// Who takes a due batch in the middle of an engine call; without one, a due batch is merely full.
    pub(crate) fn set_sink(&mut self, sink: Option<Box<dyn FlushSink>>) {
        self.sink = sink;
    }

    /// Starts a batch behind what `buffer` already holds; `row_offset` rows of the result came before it. The rows of a batch
    /// begun before and not taken are gone.
    pub(crate) fn begin_batch(&mut self, buffer: Vec<u8>, limits: BatchLimits, row_offset: u64) {
        self.discard_batch();
        self.limits = limits;
        self.full_at = limits.bytes_max.max(1);
        self.row_offset = row_offset;
        self.due = false;
        self.encoder.begin_batch(buffer);
        #[cfg(feature = "arrow")]
        if let Some(arrow) = self.encoder.arrow() {
            self.row_offset += arrow.rows_sampled() as u64;
            self.limits.row_bytes_max = limits.row_bytes_max.min(arrow::ROW_BYTES_MAX);
            self.full_at = self.full_at.min(arrow::BATCH_BYTES_MAX);
        }
    }

    /// Ends the batch and hands it over. Without rows the buffer is as it was given.
    ///
    /// # Errors
    /// Of rows that were held back, see [`write_held_rows`](Self::write_held_rows).
    pub(crate) fn take_batch(&mut self) -> Result<FilledBatch, RowError> {
        if self.in_row {
            // The cursor failed in the middle of it.
            self.take_row_back();
        }
        #[cfg(feature = "arrow")]
        self.settle_sample()?;
        let rows = self.rows;
        let EncodedRows { row_bytes, marks } = self.encoder.close_batch(rows);
        Ok(FilledBatch {
            buffer: self.discard_batch(),
            rows,
            row_bytes,
            marks,
        })
    }

    /// Ends the batch without its rows; gives back the buffer, with which nothing is to be done but to use it again.
    pub(crate) fn discard_batch(&mut self) -> Vec<u8> {
        self.full_at = 0;
        self.bytes = 0;
        self.rows = 0;
        self.in_row = false;
        self.error = None;
        self.encoder.take_buffer()
    }

    /// Whether a row was taken back because it would have passed `bytes_left`.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.exhausted
    }
}
