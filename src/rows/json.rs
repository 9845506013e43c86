//! `RowWriter`: the concrete, inlined encoder that cursors write their rows into.
//!
//! Must not know engines, and not the envelope around the rows: it appends after whatever its buffer already holds.

use std::fmt;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::number::{push_integer, push_real};
use super::text::push_text;
use super::{Int64Encoding, RowFormat, Schema};

/// Largest integer that JavaScript's numbers hold exactly: 2^53 - 1.
const SAFE_INTEGER_MAX: i64 = (1 << 53) - 1;

/// How rows are written: the format, and the keys of rows sent as objects.
#[derive(Debug, Clone)]
pub(crate) struct RowShape {
    row_format: RowFormat,
    int64: Int64Encoding,
    n_columns: usize,
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
        let keys = schema.columns().iter().enumerate().map(|(idx, column)| {
            let mut key = vec![if idx == 0 { b'{' } else { b',' }];
            // A name that came from the engine's own strings is UTF-8.
            push_text(column.label.as_bytes(), &mut key);
            key.push(b':');
            key.into_boxed_slice()
        });
        Self {
            row_format,
            int64,
            n_columns: schema.len(),
            keys: match row_format {
                RowFormat::Object => keys.collect(),
                RowFormat::Array => Vec::new(),
            },
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
    /// Where the batch's first row begins in the buffer.
    rows_start: usize,
    /// Where the row being written begins, its comma included.
    row_start: usize,
    /// The first byte that would be beyond `bytes_max`; 0 while there is no batch, so that the writer is full.
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
        self.buffer.len() >= self.full_at || self.rows >= self.limits.rows_max || self.due || self.exhausted
    }

    /// Starts a row.
    #[inline]
    pub fn begin_row(&mut self) {
        debug_assert!(!self.in_row, "the row before is ended first");
        self.in_row = true;
        self.cells = 0;
        self.row_start = self.buffer.len();
        if self.rows > 0 {
            self.buffer.push(b',');
        }
    }

    /// Writes NULL as the next cell.
    #[inline]
    pub fn null(&mut self) {
        self.begin_cell();
        self.buffer.extend_from_slice(b"null");
    }

    /// Writes true or false as the next cell.
    #[inline]
    pub fn boolean(&mut self, value: bool) {
        self.begin_cell();
        self.buffer.extend_from_slice(if value { b"true" } else { b"false" });
    }

    /// Writes an integer as the next cell, in the form the client asked for.
    #[inline]
    pub fn integer(&mut self, value: i64) {
        self.begin_cell();
        let quoted = match self.shape.int64 {
            Int64Encoding::Number => false,
            Int64Encoding::String => true,
            Int64Encoding::Safe => !(-SAFE_INTEGER_MAX..=SAFE_INTEGER_MAX).contains(&value),
        };
        if quoted {
            self.buffer.push(b'"');
            push_integer(value, &mut self.buffer);
            self.buffer.push(b'"');
        } else {
            push_integer(value, &mut self.buffer);
        }
    }

    /// Writes a double as the next cell: its shortest digits that read back as the same double; NaN and the infinities as
    /// the strings `"NaN"`, `"Infinity"`, `"-Infinity"`.
    #[inline]
    pub fn real(&mut self, value: f64) {
        self.begin_cell();
        if value.is_finite() {
            push_real(value, &mut self.buffer);
        } else {
            let name: &[u8] = match (value.is_nan(), value > 0.0) {
                (true, _) => b"\"NaN\"",
                (false, true) => b"\"Infinity\"",
                (false, false) => b"\"-Infinity\"",
            };
            self.buffer.extend_from_slice(name);
        }
    }

    /// Writes text as the next cell. Bytes that are not UTF-8 make [`end_row`](Self::end_row) fail.
    #[inline]
    pub fn text(&mut self, text: &[u8]) {
        self.begin_cell();
        if self.is_too_large(text.len()) {
            return;
        }
        if !push_text(text, &mut self.buffer) {
            let (row, column) = (self.row_number(), self.cells - 1);
            self.error.get_or_insert(RowError::InvalidUtf8 { row, column });
        }
    }

    /// Writes bytes as the next cell, as padded standard base64 (RFC 4648 section 4).
    #[inline]
    pub fn blob(&mut self, bytes: &[u8]) {
        self.begin_cell();
        // Four characters for every three bytes begun.
        let encoded_len = bytes.len().div_ceil(3).saturating_mul(4);
        if self.is_too_large(encoded_len) {
            return;
        }
        self.buffer.push(b'"');
        let start = self.buffer.len();
        self.buffer.resize(start + encoded_len, 0);
        let written = BASE64.encode_slice(bytes, &mut self.buffer[start..]);
        debug_assert_eq!(written.ok(), Some(encoded_len), "the length is exact");
        self.buffer.push(b'"');
    }

    /// Ends the row and makes it part of the batch.
    ///
    /// # Errors
    /// [`RowError`]; the row is taken back, the batch keeps the rows before it.
    #[inline]
    pub fn end_row(&mut self) -> Result<(), RowError> {
        let closing: &[u8] = match (self.shape.row_format, self.cells) {
            (RowFormat::Array, 0) => b"[]",
            (RowFormat::Array, _) => b"]",
            (RowFormat::Object, 0) => b"{}",
            (RowFormat::Object, _) => b"}",
        };
        self.buffer.extend_from_slice(closing);
        self.in_row = false;
        let row_bytes = self.buffer.len() - self.row_start;
        if self.error.is_some() || self.cells != self.shape.n_columns || row_bytes > self.limits.row_bytes_max {
            return Err(self.take_row_back());
        }
        if let Some(bytes_left) = self.limits.bytes_left
            && (self.buffer.len() - self.rows_start) as u64 > bytes_left
        {
            self.buffer.truncate(self.row_start);
            self.exhausted = true;
            return Ok(());
        }
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

    /// Between the parts of a row: the bracket, comma or key in front of a cell.
    #[inline]
    fn begin_cell(&mut self) {
        debug_assert!(self.in_row, "a cell belongs to a row");
        match self.shape.row_format {
            RowFormat::Array => self.buffer.push(if self.cells == 0 { b'[' } else { b',' }),
            // A cell too many has no key; the row is refused for it at its end.
            RowFormat::Object => match self.shape.keys.get(self.cells) {
                Some(key) => self.buffer.extend_from_slice(key),
                None => self.buffer.push(b','),
            },
        }
        self.cells += 1;
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

    fn row_number(&self) -> u64 {
        self.row_offset + u64::from(self.rows)
    }

    #[cold]
    fn take_row_back(&mut self) -> RowError {
        self.buffer.truncate(self.row_start);
        let row = self.row_number();
        self.error.take().unwrap_or(if self.cells == self.shape.n_columns {
            RowError::TooLarge {
                row,
                bytes_max: self.limits.row_bytes_max,
            }
        } else {
            RowError::CellCount {
                row,
                cells: self.cells,
                columns: self.shape.n_columns,
            }
        })
    }

    #[cold]
    fn leave(&mut self, now: Instant) {
        match self.sink.take() {
            Some(mut sink) => {
                sink.flush(self, now);
                self.sink = Some(sink);
            }
            None => self.due = true,
        }
    }
}

/// For the worker: beginning and taking batches.
impl RowWriter {
    /// A writer without a batch: full until [`begin_batch`](Self::begin_batch).
    pub(crate) fn new(shape: RowShape) -> Self {
        Self {
            buffer: Vec::new(),
            shape,
            limits: BatchLimits {
                rows_max: 0,
                bytes_max: 0,
                row_bytes_max: 0,
                bytes_left: None,
                until: None,
            },
            rows_start: 0,
            row_start: 0,
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

    /// Starts a batch behind what `buffer` already holds; `row_offset` rows of the result came before it.
    pub(crate) fn begin_batch(&mut self, buffer: Vec<u8>, limits: BatchLimits, row_offset: u64) {
        self.rows_start = buffer.len();
        self.full_at = self.rows_start.saturating_add(limits.bytes_max.max(1));
        self.buffer = buffer;
        self.limits = limits;
        self.row_offset = row_offset;
        self.rows = 0;
        self.due = false;
    }

    /// Ends the batch and hands it over.
    pub(crate) fn take_batch(&mut self) -> FilledBatch {
        let buffer = std::mem::take(&mut self.buffer);
        let batch = FilledBatch {
            row_bytes: buffer.len() - self.rows_start,
            rows: self.rows,
            buffer,
        };
        self.full_at = 0;
        self.rows_start = 0;
        self.rows = 0;
        batch
    }

    /// Whether a row was taken back because it would have passed `bytes_left`.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.exhausted
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

    use std::time::Duration;

    use super::*;
    use crate::clock;
    use crate::rows::{Column, ColumnType};

    const LIMITS: BatchLimits = BatchLimits {
        rows_max: 100,
        bytes_max: 1_000,
        row_bytes_max: 100,
        bytes_left: None,
        until: None,
    };

    fn writer(names: &[&str], row_format: RowFormat, int64: Int64Encoding, limits: BatchLimits) -> RowWriter {
        let columns = names.iter().map(|name| Column::new(*name, ColumnType::Any)).collect();
        let mut writer = RowWriter::new(RowShape::new(&Schema::new(columns), row_format, int64));
        assert!(writer.is_full(), "nothing fits before a batch is begun");
        writer.begin_batch(b"prefix ".to_vec(), limits, 10);
        writer
    }

    fn arrays(n_columns: usize, limits: BatchLimits) -> RowWriter {
        writer(&vec!["c"; n_columns], RowFormat::Array, Int64Encoding::Number, limits)
    }

    fn text_of(writer: &mut RowWriter) -> String {
        String::from_utf8(writer.take_batch().buffer).unwrap()
    }

    #[test]
    fn rows_are_arrays_or_objects() {
        for (row_format, expected) in [
            (RowFormat::Array, r#"prefix [1,null],["a\"b",true]"#),
            (
                RowFormat::Object,
                r#"prefix {"x\"":1,"x\"_2":null},{"x\"":"a\"b","x\"_2":true}"#,
            ),
        ] {
            let mut writer = writer(&["x\"", "x\""], row_format, Int64Encoding::Number, LIMITS);
            writer.begin_row();
            writer.integer(1);
            writer.null();
            writer.end_row().unwrap();
            writer.begin_row();
            writer.text(b"a\"b");
            writer.boolean(true);
            writer.end_row().unwrap();
            assert_eq!(writer.rows(), 2);
            assert_eq!(text_of(&mut writer), expected.replace("\\\\", "\\"));
        }
    }

    #[test]
    fn a_row_without_columns_is_a_row() {
        for (row_format, expected) in [(RowFormat::Array, "prefix [],[]"), (RowFormat::Object, "prefix {},{}")] {
            let mut writer = writer(&[], row_format, Int64Encoding::Number, LIMITS);
            for _ in 0..2 {
                writer.begin_row();
                writer.end_row().unwrap();
            }
            assert_eq!(text_of(&mut writer), expected);
        }
    }

    #[test]
    fn integers_take_the_form_asked_for() {
        let (inside, outside) = (SAFE_INTEGER_MAX, -SAFE_INTEGER_MAX - 1);
        for (int64, expected) in [
            (Int64Encoding::Number, format!("prefix [{inside},{outside}]")),
            (Int64Encoding::String, format!("prefix [\"{inside}\",\"{outside}\"]")),
            (Int64Encoding::Safe, format!("prefix [{inside},\"{outside}\"]")),
        ] {
            let mut writer = writer(&["a", "b"], RowFormat::Array, int64, LIMITS);
            writer.begin_row();
            writer.integer(inside);
            writer.integer(outside);
            writer.end_row().unwrap();
            assert_eq!(text_of(&mut writer), expected);
        }
    }

    #[test]
    fn what_json_has_no_number_for_is_a_string() {
        let mut writer = arrays(4, LIMITS);
        writer.begin_row();
        writer.real(f64::NAN);
        writer.real(f64::INFINITY);
        writer.real(f64::NEG_INFINITY);
        writer.blob(&[0xFB, 0xFF, 0xFE, 0]);
        writer.end_row().unwrap();
        assert_eq!(
            text_of(&mut writer),
            r#"prefix ["NaN","Infinity","-Infinity","+//+AA=="]"#
        );
    }

    #[test]
    fn a_bad_row_is_taken_back_and_named() {
        let mut writer = arrays(2, LIMITS);
        let mut row = |first: &[u8], cells: usize| {
            writer.begin_row();
            writer.text(first);
            (1..cells).for_each(|_| writer.null());
            writer.end_row()
        };
        row(b"fine", 2).unwrap();
        assert_eq!(row(b"\xFF", 2), Err(RowError::InvalidUtf8 { row: 11, column: 0 }));
        assert_eq!(
            row(b"fine", 1),
            Err(RowError::CellCount {
                row: 11,
                cells: 1,
                columns: 2
            })
        );
        assert_eq!(
            row(b"fine", 3),
            Err(RowError::CellCount {
                row: 11,
                cells: 3,
                columns: 2
            })
        );
        assert_eq!(
            row(&[b'x'; 95], 2),
            Err(RowError::TooLarge {
                row: 11,
                bytes_max: 100
            })
        );
        assert_eq!(
            row(&[b'x'; 101], 2),
            Err(RowError::TooLarge {
                row: 11,
                bytes_max: 100
            })
        );
        assert_eq!(text_of(&mut writer), r#"prefix ["fine",null]"#);
    }

    #[test]
    fn a_batch_is_full_at_its_rows_and_at_its_bytes() {
        let rows_until_full = |limits| {
            let mut writer = arrays(1, limits);
            while !writer.is_full() {
                writer.begin_row();
                writer.integer(7);
                writer.end_row().unwrap();
            }
            writer.rows()
        };
        assert_eq!(rows_until_full(BatchLimits { rows_max: 3, ..LIMITS }), 3);
        // "[7]" and then ",[7]": 3, 7, 11 bytes.
        assert_eq!(rows_until_full(BatchLimits { bytes_max: 7, ..LIMITS }), 2);
        assert_eq!(rows_until_full(BatchLimits { bytes_max: 8, ..LIMITS }), 3);
        assert_eq!(rows_until_full(BatchLimits { bytes_max: 0, ..LIMITS }), 1);
    }

    #[test]
    fn the_row_that_passes_the_querys_bytes_is_left_out() {
        for (bytes_left, rows) in [(10, 2), (11, 3), (2, 0)] {
            let mut writer = arrays(
                1,
                BatchLimits {
                    bytes_left: Some(bytes_left),
                    ..LIMITS
                },
            );
            while !writer.is_full() {
                writer.begin_row();
                writer.integer(7);
                writer.end_row().unwrap();
            }
            assert!(writer.is_exhausted());
            assert_eq!(writer.rows(), rows);
        }
    }

    struct TakesAll(crossbeam_channel::Sender<u32>);

    impl FlushSink for TakesAll {
        fn flush(&mut self, writer: &mut RowWriter, _now: Instant) {
            let batch = writer.take_batch();
            self.0.try_send(batch.rows).unwrap();
            writer.begin_batch(batch.buffer, LIMITS, 0);
        }
    }

    #[test]
    fn a_due_batch_leaves_if_it_has_rows() {
        let (tx, rx) = crossbeam_channel::bounded(4);
        let until = clock::now();
        for with_sink in [true, false] {
            let mut writer = arrays(
                0,
                BatchLimits {
                    until: Some(until),
                    ..LIMITS
                },
            );
            if with_sink {
                writer.set_sink(Some(Box::new(TakesAll(tx.clone()))));
            }
            writer.tick(until);
            assert!(!writer.is_full(), "an empty batch is never due");
            writer.begin_row();
            writer.end_row().unwrap();
            writer.tick(until - Duration::from_nanos(1));
            assert_eq!(writer.rows(), 1, "not yet");
            writer.tick(until);
            assert_eq!(writer.is_full(), !with_sink);
        }
        assert_eq!(rx.try_iter().collect::<Vec<_>>(), [1]);
    }
}
