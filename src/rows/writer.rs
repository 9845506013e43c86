//! `RowWriter`: what cursors write their rows into, whatever the rows are encoded as, and where a batch closes.
//!
//! Must not know engines or the envelope around the rows.

use std::fmt;
use std::time::Instant;

#[cfg(feature = "arrow")]
use super::arrow::{self, ArrowEncoder, Cell, CellError, CellRefusal, RefusedCell};
use super::cell::RowSource;
use super::json::{JsonEncoder, blob_len};
use super::{Int64Encoding, RowError, RowFormat, Schema};

/// How rows are written: the encoding, and the columns it is for.
#[derive(Debug)]
pub(crate) struct RowShape {
    n_columns: usize,
    encoder: Encoder,
}

/// The encodings. JSON comes first: it is what most streams ask for.
#[derive(Debug)]
enum Encoder {
    Json(JsonEncoder),
    #[cfg(feature = "arrow")]
    Arrow(Box<Arrow>),
}

/// Rows as Arrow, and the buffer that a batch goes into when it closes.
#[cfg(feature = "arrow")]
#[derive(Debug)]
struct Arrow {
    encoder: ArrowEncoder,
    buffer: Vec<u8>,
    /// Why the first batch had no types. There is no batch after that.
    failed: Option<RowError>,
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
    /// How many bytes were appended: JSON's separators and Arrow's metadata included.
    pub(crate) row_bytes: usize,
}

/// Takes a due batch out of a writer while the engine is still busy inside one call.
pub(crate) trait FlushSink: Send {
    /// Takes the batch with [`RowWriter::take_batch`] and starts the next with [`RowWriter::begin_batch`], or, where there
    /// is no room for a batch, leaves the writer as it is. Where taking fails, the writer stays full, and taking from it fails
    /// again when the engine has returned. Must not block.
    fn flush(&mut self, writer: &mut RowWriter, now: Instant);
}

impl RowShape {
    pub(crate) fn json(schema: &Schema, row_format: RowFormat, int64: Int64Encoding) -> Self {
        Self {
            n_columns: schema.len(),
            encoder: Encoder::Json(JsonEncoder::new(schema, row_format, int64)),
        }
    }

    /// Each batch a piece of an Arrow IPC stream.
    #[cfg(feature = "arrow")]
    pub(crate) fn arrow(schema: &Schema) -> Self {
        Self {
            n_columns: schema.len(),
            encoder: Encoder::Arrow(Box::new(Arrow {
                encoder: ArrowEncoder::new(schema),
                buffer: Vec::new(),
                failed: None,
            })),
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
    encoder: Encoder,
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
        match &mut self.encoder {
            Encoder::Json(json) => json.begin_row(self.rows == 0),
            #[cfg(feature = "arrow")]
            Encoder::Arrow(arrow) => arrow.encoder.begin_row(),
        }
    }

    /// Writes NULL as the next cell.
    #[inline]
    pub fn null(&mut self) {
        let cell_idx = self.begin_cell();
        match &mut self.encoder {
            Encoder::Json(json) => json.null(cell_idx),
            #[cfg(feature = "arrow")]
            Encoder::Arrow(_) => self.write_arrow(cell_idx, Cell::Null),
        }
    }

    /// Writes true or false as the next cell.
    #[inline]
    pub fn boolean(&mut self, value: bool) {
        let cell_idx = self.begin_cell();
        match &mut self.encoder {
            Encoder::Json(json) => json.boolean(cell_idx, value),
            #[cfg(feature = "arrow")]
            Encoder::Arrow(_) => self.write_arrow(cell_idx, Cell::Boolean(value)),
        }
    }

    /// Writes an integer as the next cell, in JSON in the form the client asked for.
    #[inline]
    pub fn integer(&mut self, value: i64) {
        let cell_idx = self.begin_cell();
        match &mut self.encoder {
            Encoder::Json(json) => json.integer(cell_idx, value),
            #[cfg(feature = "arrow")]
            Encoder::Arrow(_) => self.write_arrow(cell_idx, Cell::Integer(value)),
        }
    }

    /// Writes a double as the next cell, in JSON with its shortest digits that read back as the same double; NaN and the
    /// infinities as the strings `"NaN"`, `"Infinity"`, `"-Infinity"`.
    #[inline]
    pub fn real(&mut self, value: f64) {
        let cell_idx = self.begin_cell();
        match &mut self.encoder {
            Encoder::Json(json) => json.real(cell_idx, value),
            #[cfg(feature = "arrow")]
            Encoder::Arrow(_) => self.write_arrow(cell_idx, Cell::Real(value)),
        }
    }

    /// Writes text as the next cell. Bytes that are not UTF-8 make [`end_row`](Self::end_row) fail.
    #[inline]
    pub fn text(&mut self, text: &[u8]) {
        let cell_idx = self.begin_cell();
        if self.is_too_large(text.len()) {
            return;
        }
        match &mut self.encoder {
            Encoder::Json(json) => {
                if !json.text(cell_idx, text) {
                    let (row, column) = (self.row_number(), cell_idx);
                    self.error.get_or_insert(RowError::InvalidUtf8 { row, column });
                }
            }
            #[cfg(feature = "arrow")]
            Encoder::Arrow(_) => self.write_arrow(cell_idx, Cell::Text(text)),
        }
    }

    /// Writes bytes as the next cell, in JSON as padded standard base64 (RFC 4648 section 4).
    #[inline]
    pub fn blob(&mut self, bytes: &[u8]) {
        let cell_idx = self.begin_cell();
        let encoded_len = match &self.encoder {
            Encoder::Json(_) => blob_len(bytes),
            #[cfg(feature = "arrow")]
            Encoder::Arrow(_) => bytes.len(),
        };
        if self.is_too_large(encoded_len) {
            return;
        }
        match &mut self.encoder {
            Encoder::Json(json) => json.blob(cell_idx, bytes),
            #[cfg(feature = "arrow")]
            Encoder::Arrow(_) => self.write_arrow(cell_idx, Cell::Blob(bytes)),
        }
    }

    /// Ends the row and makes it part of the batch.
    ///
    /// # Errors
    /// [`RowError`]; the row is taken back, the batch keeps the rows before it.
    #[inline]
    pub fn end_row(&mut self) -> Result<(), RowError> {
        let bytes = match &mut self.encoder {
            Encoder::Json(json) => json.end_row(self.cells),
            #[cfg(feature = "arrow")]
            Encoder::Arrow(arrow) => arrow.encoder.bytes(),
        };
        self.in_row = false;
        let row_bytes = bytes - self.bytes;
        if self.error.is_some() || self.cells != self.n_columns || row_bytes > self.limits.row_bytes_max {
            return Err(self.refuse_row());
        }
        if let Some(bytes_left) = self.limits.bytes_left
            && bytes as u64 > bytes_left
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
    #[cfg(feature = "arrow")]
    #[inline(never)]
    fn write_arrow(&mut self, cell_idx: usize, cell: Cell<'_>) {
        if let Encoder::Arrow(arrow) = &mut self.encoder
            && let Err(error) = arrow.encoder.write(cell_idx, cell)
        {
            let error = cell_refused(error, self.row_number(), cell_idx);
            self.error.get_or_insert(error);
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

    fn row_number(&self) -> u64 {
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
        match &mut self.encoder {
            Encoder::Json(json) => json.truncate(self.bytes),
            #[cfg(feature = "arrow")]
            Encoder::Arrow(arrow) => arrow.encoder.take_row_back(self.rows),
        }
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

/// For engines whose rows can be looked at cell by cell: the encoding is chosen once a row, and not once a cell.
impl RowWriter {
    /// Writes a whole row, of as many cells as there are columns.
    ///
    /// # Errors
    /// As [`end_row`](Self::end_row).
    #[inline]
    pub(crate) fn write_row<R: RowSource>(&mut self, row: &R) -> Result<(), RowError> {
        self.begin_row();
        #[cfg(feature = "arrow")]
        if let Encoder::Arrow(arrow) = &mut self.encoder {
            match arrow.encoder.write_row(row, self.limits.row_bytes_max) {
                Ok(true) => {
                    self.cells = self.n_columns;
                    return self.end_row();
                }
                Ok(false) => {}
                Err(refused) => return Err(self.refuse_cell(refused)),
            }
        }
        for column_idx in 0..self.n_columns {
            row.write_cell(column_idx, self);
        }
        self.end_row()
    }

    #[cfg(feature = "arrow")]
    #[cold]
    fn refuse_cell(&mut self, RefusedCell { column_idx, refusal }: RefusedCell) -> RowError {
        let row = self.row_number();
        self.in_row = false;
        self.take_row_back();
        match refusal {
            CellRefusal::Misfit(error) => cell_refused(error, row, column_idx),
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
        Self {
            encoder: shape.encoder,
            n_columns: shape.n_columns,
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
        match &mut self.encoder {
            Encoder::Json(json) => json.begin_batch(buffer),
            #[cfg(feature = "arrow")]
            Encoder::Arrow(arrow) => {
                arrow.buffer = buffer;
                self.limits.row_bytes_max = limits.row_bytes_max.min(arrow::ROW_BYTES_MAX);
                self.full_at = match &arrow.failed {
                    Some(_) => 0,
                    None => self.full_at.min(arrow::BATCH_BYTES_MAX),
                };
            }
        }
    }

    /// Ends the batch and hands it over. Without rows the buffer is as it was given.
    ///
    /// # Errors
    /// [`RowError::Mistyped`] of Arrow's first batch: there is no type for one of its columns. The batch is lost, and so is
    /// the writer: it stays full, and fails in the same way whenever a batch is taken. JSON does not fail.
    pub(crate) fn take_batch(&mut self) -> Result<FilledBatch, RowError> {
        if self.in_row {
            // The cursor failed in the middle of it.
            self.take_row_back();
        }
        let rows = self.rows;
        let closed = match &mut self.encoder {
            Encoder::Json(_) => Ok(self.bytes),
            #[cfg(feature = "arrow")]
            Encoder::Arrow(arrow) => arrow.close(rows, self.row_offset),
        };
        let buffer = self.discard_batch();
        closed.map(|row_bytes| FilledBatch {
            buffer,
            rows,
            row_bytes,
        })
    }

    /// Ends the batch without its rows; gives back the buffer, with which nothing is to be done but to use it again.
    pub(crate) fn discard_batch(&mut self) -> Vec<u8> {
        self.full_at = 0;
        self.bytes = 0;
        self.rows = 0;
        self.in_row = false;
        self.error = None;
        match &mut self.encoder {
            Encoder::Json(json) => json.take_buffer(),
            #[cfg(feature = "arrow")]
            Encoder::Arrow(arrow) => {
                arrow.encoder.discard_batch();
                std::mem::take(&mut arrow.buffer)
            }
        }
    }

    /// Appends what makes a result without any batch a stream that can be read: Arrow's schema, of JSON nothing. Nothing
    /// either once there was a batch with rows.
    #[cfg(feature = "arrow")]
    pub(crate) fn schema_piece(&mut self, out: &mut Vec<u8>) {
        if let Encoder::Arrow(arrow) = &mut self.encoder {
            arrow.encoder.schema_piece(out);
        }
    }

    /// Whether a row was taken back because it would have passed `bytes_left`.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.exhausted
    }
}

#[cfg(feature = "arrow")]
impl Arrow {
    /// Appends the batch to the buffer; returns how many bytes that took.
    fn close(&mut self, rows: u32, row_offset: u64) -> Result<usize, RowError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let start = self.buffer.len();
        match self.encoder.take_batch(rows, &mut self.buffer) {
            Ok(()) => Ok(self.buffer.len() - start),
            Err(mistyped) => {
                let row = row_offset + mistyped.row_idx as u64;
                let error = cell_refused(mistyped.error, row, mistyped.column);
                self.failed = Some(error.clone());
                Err(error)
            }
        }
    }
}

#[cfg(feature = "arrow")]
#[cold]
fn cell_refused(error: CellError, row: u64, column: usize) -> RowError {
    match error {
        CellError::InvalidUtf8 => RowError::InvalidUtf8 { row, column },
        CellError::Mistyped { column_type, found } => RowError::Mistyped {
            row,
            column,
            column_type,
            found,
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

    use std::time::Duration;

    use super::*;
    use crate::clock;
    use crate::rows::json::SAFE_INTEGER_MAX;
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
        let mut writer = RowWriter::new(RowShape::json(&Schema::new(columns), row_format, int64));
        assert!(writer.is_full(), "nothing fits before a batch is begun");
        writer.begin_batch(b"prefix ".to_vec(), limits, 10);
        writer
    }

    fn arrays(n_columns: usize, limits: BatchLimits) -> RowWriter {
        writer(&vec!["c"; n_columns], RowFormat::Array, Int64Encoding::Number, limits)
    }

    fn text_of(writer: &mut RowWriter) -> String {
        String::from_utf8(writer.take_batch().unwrap().buffer).unwrap()
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

    #[test]
    fn a_batch_taken_inside_a_row_ends_before_it() {
        let mut writer = arrays(1, LIMITS);
        writer.begin_row();
        writer.integer(7);
        writer.end_row().unwrap();
        writer.begin_row();
        writer.text(b"\xFF");
        assert_eq!(text_of(&mut writer), "prefix [7]");
        writer.begin_batch(Vec::new(), LIMITS, 11);
        writer.begin_row();
        writer.null();
        writer.end_row().unwrap();
        assert_eq!(text_of(&mut writer), "[null]");
    }

    struct TakesAll(crossbeam_channel::Sender<u32>);

    impl FlushSink for TakesAll {
        fn flush(&mut self, writer: &mut RowWriter, _now: Instant) {
            let batch = writer.take_batch().unwrap();
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
