//! Rows as Arrow: columns filled cell by cell, and at the end of a batch a piece of an Arrow IPC stream.
//!
//! The piece of the first batch that has rows is the schema and a record batch, every later one is a record batch. One behind
//! the other they are an Arrow IPC stream that ends without the end-of-stream marker, which readers do not ask for.
//!
//! # Types
//! A column has one type in the whole result, and no cell is ever changed to fit. The type depends on the rows alone: neither on where
//! batches end nor on time.
//!
//! | declared | Arrow type | cells that fit |
//! |---|---|---|
//! | `int64` | `Int64` | integers |
//! | `float64` | `Float64` | reals; integers within ±2^53 |
//! | `decimal` as `DECIMAL(p,s)` or `NUMERIC(p,s)`, p ≤ 38 | `Decimal128(p, s)` | text: digits, at most s behind the point and p - s before |
//! | `decimal` otherwise | `Utf8` | text |
//! | `text`, `json`, `uuid` | `Utf8` | text |
//! | `blob` | `Binary` | blobs |
//! | `boolean` | `Boolean` | booleans; the integers 0 and 1 |
//! | `date` | `Date32` | text `YYYY-MM-DD` |
//! | `time` | `Time64(µs)` | text `HH:MM[:SS[.f]]`, f of 1 to 6 digits |
//! | `timestamp` | `Timestamp(µs)` | text: a date, a blank or `T`, a time |
//! | `timestamptz` | `Timestamp(µs, "UTC")` | text: a timestamp, then `Z`, `±HH`, `±HHMM` or `±HH:MM` |
//!
//! NULL fits everywhere and decides nothing. Dates are of the proleptic Gregorian calendar, years 0000 to 9999. The first cell of a
//! column that is not NULL decides: for what is declared, if it fits that. Otherwise, and where nothing is declared (`any`), for what it is
//! itself:
//!
//! | first value | Arrow type |
//! |---|---|
//! | a real | `Float64` |
//! | text | `Utf8` |
//! | a blob | `Binary` |
//! | a boolean | `Boolean` |
//! | an integer | `Float64` if a real is among the [first rows](sample), and all integers before it are within ±2^53; else `Int64` |
//! | none among the first rows | what is declared; else `Utf8` |
//!
//! No batch leaves before every column is decided. A cell that does not fit its column is refused with
//! [`RowError::Mistyped`](super::RowError::Mistyped). Where the query asks for [`ArrowMixed::Text`], every column is `Utf8`, or `Binary` where
//! blobs are declared, nothing is held back, and every cell fits.
//!
//! Text that is not UTF-8 is refused as in JSON. Every field can be NULL, is named after the column's label, and carries in its metadata
//! `rowstream:type`, the declared type, and `rowstream:db_type`, the engine's own name for it, if there is one.

mod calendar;
mod column;
mod message;
mod sample;
#[cfg(test)]
mod sample_test;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use arrow_schema::Field;

use column::{ArrowType, TypedColumn};
use message::MessageWriter;
use sample::{HeldRows, Sample};

use super::cell::{Cell, CellError, CellSink, RowSource};
use super::marks::CellMarks;
use super::{ArrowMixed, CellRules, Schema, TextErrors};

/// No batch takes more bytes than this and the row that passes it, so that 32-bit offsets reach: with [`ROW_BYTES_MAX`] below
/// 2^31.
pub(super) const BATCH_BYTES_MAX: usize = 1 << 30;

/// No row takes more bytes than this.
pub(super) const ROW_BYTES_MAX: usize = (1 << 30) - 1;

/// The columns of a batch.
#[derive(Debug)]
enum Columns {
    /// Their types are not decided yet.
    Sampled(Sample),
    /// Their types are decided.
    Typed(Vec<TypedColumn>),
}

/// Turns rows into pieces of an Arrow IPC stream, one per batch.
#[derive(Debug)]
pub(super) struct ArrowEncoder {
    schema: Schema,
    columns: Columns,
    /// Rows of the sample that are in no batch yet. They come before any other.
    held: Option<HeldRows>,
    messages: MessageWriter,
    has_told_schema: bool,
    text_errors: TextErrors,
    marks: Option<CellMarks>,
    /// What a batch goes into when it closes.
    buffer: Vec<u8>,
    /// What the cells take, those of the row being written included.
    bits: u64,
    row_start_bits: u64,
    /// Rows before the one being written.
    rows_before: u32,
}

impl ArrowEncoder {
    pub(super) fn new(schema: &Schema, mixed: ArrowMixed, rules: CellRules) -> Self {
        let CellRules {
            text_errors,
            cell_types,
        } = rules;
        let columns = match mixed {
            ArrowMixed::Fail => Columns::Sampled(Sample::new(schema)),
            ArrowMixed::Text => {
                let types = schema.columns().iter().map(ArrowType::mixed);
                Columns::Typed(types.map(TypedColumn::new).collect())
            }
        };
        Self {
            schema: schema.clone(),
            columns,
            held: None,
            messages: MessageWriter::new(),
            has_told_schema: false,
            text_errors,
            marks: cell_types.then(CellMarks::default),
            buffer: Vec::new(),
            bits: 0,
            row_start_bits: 0,
            rows_before: 0,
        }
    }

    pub(super) fn begin_batch(&mut self, buffer: Vec<u8>) {
        self.buffer = buffer;
    }

    #[inline]
    pub(super) fn begin_row(&mut self, rows: u32) {
        self.row_start_bits = self.bits;
        self.rows_before = rows;
        if let Columns::Sampled(sample) = &mut self.columns {
            sample.begin_row(rows);
        }
        if let Some(marks) = &mut self.marks {
            marks.begin_row();
        }
    }

    /// Writes a cell. A cell too many goes nowhere; the row is refused for it at its end.
    pub(super) fn write(&mut self, rows: u32, column_idx: usize, cell: Cell<'_>) -> Result<(), CellError> {
        let Self {
            columns, marks, bits, ..
        } = self;
        *bits += cell.repaired(self.text_errors, |cell| match columns {
            Columns::Sampled(sample) => sample.push(column_idx, cell),
            Columns::Typed(columns) => {
                let Some(column) = columns.get_mut(column_idx) else {
                    return Ok(0);
                };
                let pushed = column.push(cell)?;
                if let (Some(marks), Some(ty)) = (marks, cell.ty())
                    && !column.ty().tells(cell)
                {
                    marks.add(rows, column_idx, ty);
                }
                Ok(pushed)
            }
        })?;
        Ok(())
    }

    /// Writes a whole row behind `rows` others: it has a cell for each column, none of them larger than `cell_bytes_max`. Returns how many
    /// bytes the batch takes with it. `None` where the columns have no types yet, or cells want a look: then the row is to be begun and its
    /// cells [written](Self::write) one by one.
    ///
    /// The column is known where a cell is looked at, so that a cell of the declared type costs its bytes and one comparison.
    #[inline]
    pub(super) fn write_row<R: RowSource>(
        &mut self,
        row: &R,
        rows: u32,
        cell_bytes_max: usize,
    ) -> Result<Option<usize>, RefusedCell> {
        let Columns::Typed(columns) = &mut self.columns else {
            return Ok(None);
        };
        if self.marks.is_some() || self.text_errors != TextErrors::Fail {
            return Ok(None);
        }
        let mut bits = self.bits;
        (self.row_start_bits, self.rows_before) = (bits, rows);
        for (column_idx, column) in columns.iter_mut().enumerate() {
            let mut cell = TypedCell {
                column,
                cell_bytes_max,
                pushed: Ok(0),
            };
            row.write_cell(column_idx, &mut cell);
            match cell.pushed {
                Ok(more) => bits += more,
                Err(refusal) => return Err(RefusedCell { column_idx, refusal }),
            }
        }
        self.bits = bits;
        Ok(Some(self.bytes()))
    }

    /// Bytes that the cells take: validity, offsets and values; before the types are decided, what gathering them takes. And their marks.
    #[inline]
    pub(super) fn bytes(&self) -> usize {
        let cells = usize::try_from(self.bits.div_ceil(8)).unwrap_or(usize::MAX);
        cells.saturating_add(self.marks.as_ref().map_or(0, CellMarks::len))
    }

    /// Takes back the row begun last.
    pub(super) fn take_row_back(&mut self) {
        self.truncate(self.rows_before);
        self.bits = self.row_start_bits;
        if let Some(marks) = &mut self.marks {
            marks.take_row_back();
        }
    }

    fn truncate(&mut self, rows: u32) {
        match &mut self.columns {
            Columns::Typed(columns) => columns.iter_mut().for_each(|column| column.truncate(rows as usize)),
            Columns::Sampled(sample) => sample.truncate(rows),
        }
    }

    /// Whether the types are not decided yet, so that rows are held back.
    pub(super) fn is_sampling(&self) -> bool {
        matches!(self.columns, Columns::Sampled(_))
    }

    /// Whether the `rows` of this turn cannot leave as one batch, because of types or because there are others before them.
    pub(super) fn holds_back(&mut self, rows: u32) -> bool {
        match &mut self.columns {
            // Marks, which come with the types, may make two batches of them.
            Columns::Sampled(sample) => self.marks.is_some() || !sample.is_decided_by(rows),
            Columns::Typed(_) => self.held.is_some(),
        }
    }

    /// Rows that the sample keeps from earlier turns; 0 once the types are decided.
    pub(super) fn rows_sampled(&self) -> usize {
        match &self.columns {
            Columns::Sampled(sample) => sample.kept(),
            Columns::Typed(_) => 0,
        }
    }

    /// No row will come behind the `rows` of this turn: what is undecided is decided with those that there are.
    pub(super) fn close_sample(&mut self, rows: u32) {
        if let Columns::Sampled(sample) = &mut self.columns {
            sample.close_behind(rows);
        }
    }

    /// The `rows` of this turn stay in the sample. True where the types are decided now: the rows of the sample are to be written once more,
    /// out of [`take_held`](Self::take_held).
    pub(super) fn keep_sampled(&mut self, rows: u32) -> bool {
        let Columns::Sampled(sample) = &mut self.columns else {
            return false;
        };
        self.bits = 0;
        sample.keep(rows);
        let Some((columns, held)) = sample.decided() else {
            return false;
        };
        self.columns = Columns::Typed(columns);
        self.held = Some(held);
        true
    }

    /// Rows that are to be written before any other, for whoever writes them.
    pub(super) fn take_held(&mut self) -> Option<HeldRows> {
        self.held.take()
    }

    /// Takes back what is still to be written.
    pub(super) fn hold(&mut self, held: HeldRows) {
        self.held = (!held.is_empty()).then_some(held);
    }

    /// Whether rows of the sample are in no batch yet, though the types are decided.
    pub(super) fn holds_rows(&self) -> bool {
        self.held.is_some()
    }

    /// Appends the batch to the buffer, and returns how many bytes that takes. Without rows there is nothing to append.
    pub(super) fn close_batch(&mut self, n_rows: u32) -> usize {
        let start = self.buffer.len();
        if n_rows > 0
            && let Columns::Typed(columns) = &self.columns
        {
            if !self.has_told_schema {
                self.has_told_schema = true;
                let fields = fields(&self.schema, columns.iter().map(TypedColumn::ty));
                self.messages.schema(&fields, &mut self.buffer);
            }
            self.messages.record_batch(n_rows, columns, &mut self.buffer);
        }
        self.buffer.len() - start
    }

    /// The marks of the batch, where they were asked for.
    pub(super) fn take_marks(&mut self) -> Option<Vec<u8>> {
        self.marks.as_mut().map(CellMarks::take)
    }

    /// Forgets the rows of the batch, or those of this turn where they are sampled; gives back the buffer.
    pub(super) fn take_buffer(&mut self) -> Vec<u8> {
        match &mut self.columns {
            Columns::Typed(columns) => columns.iter_mut().for_each(TypedColumn::clear),
            Columns::Sampled(sample) => sample.truncate(0),
        }
        if let Some(marks) = &mut self.marks {
            marks.clear();
        }
        self.bits = 0;
        std::mem::take(&mut self.buffer)
    }

    /// Appends the schema alone: the whole stream of a result without rows. Nothing, once a batch has brought the schema.
    pub(super) fn schema_piece(&mut self, out: &mut Vec<u8>) {
        if self.has_told_schema {
            return;
        }
        let types: Vec<ArrowType> = match &self.columns {
            Columns::Typed(columns) => columns.iter().map(TypedColumn::ty).collect(),
            Columns::Sampled(_) => {
                let declared = self.schema.columns().iter().map(ArrowType::declared);
                declared.map(|declared| declared.unwrap_or(ArrowType::Utf8)).collect()
            }
        };
        self.messages.schema(&fields(&self.schema, types.into_iter()), out);
    }
}

/// A cell that is refused, and its row with it.
#[derive(Debug)]
pub(super) struct RefusedCell {
    pub(super) column_idx: usize,
    pub(super) refusal: CellRefusal,
}

/// Why a cell is refused.
#[derive(Debug)]
pub(super) enum CellRefusal {
    Misfit(CellError),
    TooLarge,
}

/// A column that takes one cell.
struct TypedCell<'a> {
    column: &'a mut TypedColumn,
    cell_bytes_max: usize,
    /// How many bits the cell took.
    pushed: Result<u64, CellRefusal>,
}

impl TypedCell<'_> {
    #[inline(always)]
    fn push(&mut self, cell: Cell<'_>) {
        self.pushed = self.column.push(cell).map_err(CellRefusal::Misfit);
    }

    #[inline(always)]
    fn push_bytes(&mut self, cell: Cell<'_>, len: usize) {
        if len > self.cell_bytes_max {
            self.pushed = Err(CellRefusal::TooLarge);
        } else {
            self.push(cell);
        }
    }
}

impl CellSink for TypedCell<'_> {
    #[inline(always)]
    fn null(&mut self) {
        self.push(Cell::Null);
    }

    #[inline(always)]
    fn boolean(&mut self, value: bool) {
        self.push(Cell::Boolean(value));
    }

    #[inline(always)]
    fn integer(&mut self, value: i64) {
        self.push(Cell::Integer(value));
    }

    #[inline(always)]
    fn real(&mut self, value: f64) {
        self.push(Cell::Real(value));
    }

    #[inline(always)]
    fn text(&mut self, text: &[u8]) {
        self.push_bytes(Cell::Text(text), text.len());
    }

    #[inline(always)]
    fn blob(&mut self, bytes: &[u8]) {
        self.push_bytes(Cell::Blob(bytes), bytes.len());
    }
}

fn fields(schema: &Schema, types: impl Iterator<Item = ArrowType>) -> arrow_schema::Schema {
    let fields = schema.columns().iter().zip(types).map(|(column, ty)| {
        let mut metadata = HashMap::from([("rowstream:type".to_owned(), column.ty.wire_name().to_owned())]);
        if let Some(db_type) = &column.db_type {
            metadata.insert("rowstream:db_type".to_owned(), db_type.clone());
        }
        Field::new(&column.label, ty.data_type(), true).with_metadata(metadata)
    });
    arrow_schema::Schema::new(fields.collect::<Vec<_>>())
}
