//! Rows as Arrow: columns filled cell by cell, and at the end of a batch a piece of an Arrow IPC stream.
//!
//! The piece of the first batch that has rows is the schema and a record batch, every later one is a record batch. One behind
//! the other they are an Arrow IPC stream that ends without the end-of-stream marker, which readers do not ask for.
//!
//! # Types
//! A column is fixed to one type when the first batch closes. No cell is ever changed to fit.
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
//! NULL fits everywhere. Dates are of the proleptic Gregorian calendar, years 0000 to 9999. Where a cell of the first batch
//! does not fit what is declared, and where nothing is declared (`any`), the cells of the first batch that are not NULL decide:
//!
//! | cells of the first batch | Arrow type |
//! |---|---|
//! | integers | `Int64` |
//! | reals; reals and integers within ±2^53 | `Float64` |
//! | text | `Utf8` |
//! | blobs | `Binary` |
//! | booleans | `Boolean` |
//! | none | `Utf8` |
//! | any other mixture | refused: [`RowError::Mistyped`](super::RowError::Mistyped) |
//!
//! A cell of a later batch that does not fit is refused in the same way, with the row it is in. Text that is not UTF-8 is
//! refused as in JSON. Every field can be NULL, is named after the column's label, and carries in its metadata
//! `rowstream:type`, the declared type, and `rowstream:db_type`, the engine's own name for it, if there is one.

mod calendar;
mod column;
mod gather;
mod message;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use arrow_schema::Field;

use column::{ArrowType, TypedColumn};
use gather::GatheredColumn;
use message::MessageWriter;

use super::cell::{CellSink, RowSource};
use super::{ColumnType, Schema};

/// No batch takes more bytes than this and the row that passes it, so that 32-bit offsets reach: with [`ROW_BYTES_MAX`] below
/// 2^31.
pub(super) const BATCH_BYTES_MAX: usize = 1 << 30;

/// No row takes more bytes than this.
pub(super) const ROW_BYTES_MAX: usize = (1 << 30) - 1;

/// A cell on its way into a column.
#[derive(Debug, Clone, Copy)]
pub(super) enum Cell<'a> {
    Null,
    Boolean(bool),
    Integer(i64),
    Real(f64),
    Text(&'a [u8]),
    Blob(&'a [u8]),
}

impl Cell<'_> {
    /// What it is, for a message.
    fn kind(self) -> &'static str {
        match self {
            Self::Null => "NULL",
            Self::Boolean(_) => "a boolean",
            Self::Integer(_) => "an integer",
            Self::Real(_) => "a real",
            Self::Text(_) => "text",
            Self::Blob(_) => "a blob",
        }
    }
}

/// Why a cell has no place in its column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CellError {
    /// A text is not UTF-8.
    InvalidUtf8,
    /// It does not fit the type.
    Mistyped {
        column_type: &'static str,
        found: &'static str,
    },
}

/// The columns of a batch.
#[derive(Debug)]
enum Columns {
    /// Of the first batch: the types are decided when it closes.
    Gathered(Vec<GatheredColumn>),
    /// Of every later one.
    Typed(Vec<TypedColumn>),
}

/// Turns rows into pieces of an Arrow IPC stream, one per batch.
#[derive(Debug)]
pub(super) struct ArrowEncoder {
    schema: Schema,
    columns: Columns,
    messages: MessageWriter,
    /// What the cells take, those of the row being written included.
    bits: u64,
    row_start_bits: u64,
}

impl ArrowEncoder {
    pub(super) fn new(schema: &Schema) -> Self {
        Self {
            columns: Columns::Gathered(schema.columns().iter().map(|_| GatheredColumn::default()).collect()),
            schema: schema.clone(),
            messages: MessageWriter::new(),
            bits: 0,
            row_start_bits: 0,
        }
    }

    #[inline]
    pub(super) fn begin_row(&mut self) {
        self.row_start_bits = self.bits;
    }

    /// Writes a cell. A cell too many goes nowhere; the row is refused for it at its end.
    pub(super) fn write(&mut self, column_idx: usize, cell: Cell<'_>) -> Result<(), CellError> {
        self.bits += match &mut self.columns {
            Columns::Typed(columns) => columns.get_mut(column_idx).map_or(Ok(0), |column| column.push(cell)),
            Columns::Gathered(columns) => columns.get_mut(column_idx).map_or(Ok(0), |column| column.push(cell)),
        }?;
        Ok(())
    }

    /// Writes all cells of a row that has one for each column, none of them larger than `cell_bytes_max`. False where the columns have
    /// no types yet: then the cells are to be [written](Self::write) one by one.
    ///
    /// The column is known where a cell is looked at, so that a cell of the declared type costs its bytes and one comparison.
    #[inline]
    pub(super) fn write_row<R: RowSource>(&mut self, row: &R, cell_bytes_max: usize) -> Result<bool, RefusedCell> {
        let Columns::Typed(columns) = &mut self.columns else {
            return Ok(false);
        };
        let mut bits = self.bits;
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
        Ok(true)
    }

    /// Bytes that the cells take: validity, offsets and values; while they are gathered, what that takes.
    #[inline]
    pub(super) fn bytes(&self) -> usize {
        usize::try_from(self.bits.div_ceil(8)).unwrap_or(usize::MAX)
    }

    /// Takes back the row begun last; `n_rows` stay.
    pub(super) fn take_row_back(&mut self, n_rows: u32) {
        let len = n_rows as usize;
        match &mut self.columns {
            Columns::Typed(columns) => columns.iter_mut().for_each(|column| column.truncate(len)),
            Columns::Gathered(columns) => columns.iter_mut().for_each(|column| column.truncate(len)),
        }
        self.bits = self.row_start_bits;
    }

    /// Appends the batch to `out`, and forgets it. Without rows there is nothing to append.
    pub(super) fn take_batch(&mut self, n_rows: u32, out: &mut Vec<u8>) -> Result<(), MistypedColumn> {
        if n_rows > 0 {
            if let Columns::Gathered(columns) = &mut self.columns {
                let columns = decide(columns, &self.schema)?;
                let fields = fields(&self.schema, columns.iter().map(TypedColumn::ty));
                self.messages.schema(&fields, out);
                self.columns = Columns::Typed(columns);
            }
            if let Columns::Typed(columns) = &self.columns {
                self.messages.record_batch(n_rows, columns, out);
            }
        }
        self.discard_batch();
        Ok(())
    }

    /// Forgets the rows of the batch. They decide no type.
    pub(super) fn discard_batch(&mut self) {
        match &mut self.columns {
            Columns::Typed(columns) => columns.iter_mut().for_each(TypedColumn::clear),
            Columns::Gathered(columns) => columns.iter_mut().for_each(GatheredColumn::clear),
        }
        self.bits = 0;
    }

    /// Appends the schema alone: the whole stream of a result without rows. Nothing, once a batch has brought the schema.
    pub(super) fn schema_piece(&mut self, out: &mut Vec<u8>) {
        if matches!(self.columns, Columns::Typed(_)) {
            return;
        }
        let declared = self.schema.columns().iter().map(ArrowType::declared);
        let types = declared.map(|declared| declared.unwrap_or(ArrowType::Utf8));
        self.messages.schema(&fields(&self.schema, types), out);
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

/// A column of the first batch that has no type.
#[derive(Debug)]
pub(super) struct MistypedColumn {
    pub(super) column: usize,
    /// The row of the batch where that shows.
    pub(super) row_idx: usize,
    pub(super) error: CellError,
}

/// Gives each column its type. What was gathered is let go column by column.
fn decide(gathered: &mut [GatheredColumn], schema: &Schema) -> Result<Vec<TypedColumn>, MistypedColumn> {
    let mut columns = Vec::with_capacity(gathered.len());
    for (idx, (gathered, column)) in gathered.iter_mut().zip(schema.columns()).enumerate() {
        let typed = std::mem::take(gathered).typed(ArrowType::declared(column));
        columns.push(typed.map_err(|misfit| MistypedColumn {
            column: idx,
            row_idx: misfit.row_idx,
            error: misfit.error,
        })?);
    }
    Ok(columns)
}

fn fields(schema: &Schema, types: impl Iterator<Item = ArrowType>) -> arrow_schema::Schema {
    let fields = schema.columns().iter().zip(types).map(|(column, ty)| {
        let mut metadata = HashMap::from([("rowstream:type".to_owned(), wire_name(column.ty).to_owned())]);
        if let Some(db_type) = &column.db_type {
            metadata.insert("rowstream:db_type".to_owned(), db_type.clone());
        }
        Field::new(&column.label, ty.data_type(), true).with_metadata(metadata)
    });
    arrow_schema::Schema::new(fields.collect::<Vec<_>>())
}

/// What a type is called on the wire.
fn wire_name(ty: ColumnType) -> &'static str {
    match ty {
        ColumnType::Int64 => "int64",
        ColumnType::Float64 => "float64",
        ColumnType::Decimal => "decimal",
        ColumnType::Text => "text",
        ColumnType::Blob => "blob",
        ColumnType::Boolean => "boolean",
        ColumnType::Date => "date",
        ColumnType::Time => "time",
        ColumnType::Timestamp => "timestamp",
        ColumnType::TimestampTz => "timestamptz",
        ColumnType::Json => "json",
        ColumnType::Uuid => "uuid",
        ColumnType::Any => "any",
    }
}
