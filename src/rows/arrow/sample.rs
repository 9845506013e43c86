//! The first rows of a result, held back until the types of its columns are decided.
//!
//! What decides depends on the rows alone: neither on where batches end nor on time.

use super::Cell;
use super::column::{ArrowType, EXACT_INTEGER_MAX, TypedColumn};
use crate::rows::Schema;
use crate::rows::cell::{CellError, CellSink, RowSource};

/// A column is decided after so many rows at the latest, the NULLs in it included.
pub(super) const SAMPLE_ROWS: usize = 10_000;

/// A column is decided with the row that reaches this many bytes of cells at the latest.
pub(super) const SAMPLE_BYTES: u64 = 256 * 1024;

/// Bits that a gathered cell takes, the bytes of a text or blob besides: its tag and a word. No less than it takes in its batch, so that
/// the rows of a turn fit the batch that they make.
const CELL_BITS: u64 = 8 + 64;

/// The same of a column that may be one of `Decimal128`, whose cells are larger in their batch.
const DECIMAL_CELL_BITS: u64 = 8 + 128;

/// Rows as they came, and what they say of the types.
#[derive(Debug)]
pub(super) struct Sample {
    columns: Vec<SampledColumn>,
    /// Rows of earlier turns of the engine, which stay whatever becomes of those of this turn.
    kept: usize,
    /// Rows that have said what they say.
    learned: usize,
    learned_bits: u64,
}

#[derive(Debug)]
struct SampledColumn {
    cells: GatheredColumn,
    /// Bits that a cell takes, its bytes besides.
    cell_bits: u64,
    leaning: Leaning,
}

/// What is known of a column's type.
#[derive(Debug)]
enum Leaning {
    /// All cells so far are NULL. What is declared, if anything is.
    Open(Option<ArrowType>),
    /// All values so far are integers, and nothing is declared that they fit: a real makes doubles of them, where that is exact.
    Integers { are_exact: bool },
    /// A column of this type, that tries cells one at a time.
    Decided(TypedColumn),
}

impl Sample {
    pub(super) fn new(schema: &Schema) -> Self {
        let columns = schema.columns().iter().map(|column| {
            let declared = ArrowType::declared(column);
            SampledColumn {
                cells: GatheredColumn::default(),
                cell_bits: match declared {
                    Some(ArrowType::Decimal128 { .. }) => DECIMAL_CELL_BITS,
                    Some(_) | None => CELL_BITS,
                },
                leaning: Leaning::Open(declared),
            }
        });
        Self {
            columns: columns.collect(),
            kept: 0,
            learned: 0,
            learned_bits: 0,
        }
    }

    /// Rows that stay whatever becomes of those of this turn.
    pub(super) fn kept(&self) -> usize {
        self.kept
    }

    /// Starts a row behind `rows` of this turn.
    pub(super) fn begin_row(&mut self, rows: u32) {
        self.learn(self.kept + rows as usize);
    }

    /// Appends a cell, and returns how many bits it takes.
    pub(super) fn push(&mut self, column_idx: usize, cell: Cell<'_>) -> Result<u64, CellError> {
        let Some(column) = self.columns.get_mut(column_idx) else {
            return Ok(0);
        };
        column.leaning.check(cell)?;
        column.cells.push(cell);
        Ok(column.cell_bits + 8 * bytes_of(cell).len() as u64)
    }

    /// Takes back what is behind the first `rows` of this turn.
    pub(super) fn truncate(&mut self, rows: u32) {
        let len = self.kept + rows as usize;
        self.learned = self.learned.min(len);
        self.columns.iter_mut().for_each(|column| column.cells.truncate(len));
    }

    /// The `rows` of this turn stay.
    pub(super) fn keep(&mut self, rows: u32) {
        self.kept += rows as usize;
        self.learn(self.kept);
    }

    /// Whether the `rows` of this turn, with none before them, decide every type.
    pub(super) fn is_decided_by(&mut self, rows: u32) -> bool {
        self.learn(self.kept + rows as usize);
        self.kept == 0 && self.columns.iter().all(|column| column.leaning.decided().is_some())
    }

    /// Decides what is still open: no row will come behind the `rows` of this turn.
    pub(super) fn close_behind(&mut self, rows: u32) {
        self.learn(self.kept + rows as usize);
        self.close();
    }

    fn close(&mut self) {
        self.columns.iter_mut().for_each(|column| column.leaning.close());
    }

    /// The columns in their types, and the rows to be written into them, once each type is decided.
    pub(super) fn decided(&mut self) -> Option<(Vec<TypedColumn>, HeldRows)> {
        let types = self.columns.iter().map(|column| column.leaning.decided());
        let columns = types.map(|ty| ty.map(TypedColumn::new)).collect::<Option<Vec<_>>>()?;
        let held = HeldRows {
            columns: self.columns.drain(..).map(|column| column.cells.shrunk()).collect(),
            next: 0,
            n_rows: self.kept,
        };
        Some((columns, held))
    }

    /// Has the rows up to `n_rows` say what they say of the types, each once.
    fn learn(&mut self, n_rows: usize) {
        while self.learned < n_rows {
            for column in &mut self.columns {
                let cell = column.cells.cell(self.learned);
                self.learned_bits += column.cell_bits + 8 * bytes_of(cell).len() as u64;
                column.leaning.learn(cell);
            }
            self.learned += 1;
            if self.learned >= SAMPLE_ROWS || self.learned_bits >= 8 * SAMPLE_BYTES {
                self.close();
            }
        }
    }
}

impl Leaning {
    /// Whether a cell fits what is known. Text that is not UTF-8 never does.
    fn check(&mut self, cell: Cell<'_>) -> Result<(), CellError> {
        let mistyped = |found| {
            Err(CellError::Mistyped {
                column_type: ArrowType::Int64.name(),
                found,
            })
        };
        match (self, cell) {
            (_, Cell::Text(text)) if std::str::from_utf8(text).is_err() => Err(CellError::InvalidUtf8),
            (Self::Open(_), _)
            | (Self::Integers { .. }, Cell::Null | Cell::Integer(_))
            | (Self::Integers { are_exact: true }, Cell::Real(_)) => Ok(()),
            (Self::Integers { are_exact: false }, Cell::Real(_)) => mistyped("a real after an integer beyond 2^53"),
            (Self::Integers { .. }, cell) => mistyped(cell.kind()),
            (Self::Decided(column), cell) => {
                let pushed = column.push(cell);
                column.clear();
                pushed.map(drop)
            }
        }
    }

    /// A cell that fits says what it says.
    fn learn(&mut self, cell: Cell<'_>) {
        match (&mut *self, cell) {
            (_, Cell::Null) | (Self::Decided(_), _) => {}
            (Self::Open(declared), cell) => {
                let mut declared = declared.map(TypedColumn::new);
                *self = match declared.as_mut().map(|column| column.push(cell)) {
                    Some(Ok(_)) => Self::decide(declared.map_or(ArrowType::Utf8, |column| column.ty())),
                    Some(Err(_)) | None => Self::of(cell),
                };
            }
            (Self::Integers { are_exact }, Cell::Integer(value)) => *are_exact &= is_exact(value),
            (Self::Integers { .. }, _) => *self = Self::decide(ArrowType::Float64),
        }
    }

    /// What a first value says by itself.
    fn of(cell: Cell<'_>) -> Self {
        match cell {
            Cell::Integer(value) => Self::Integers {
                are_exact: is_exact(value),
            },
            Cell::Boolean(_) => Self::decide(ArrowType::Boolean),
            Cell::Real(_) => Self::decide(ArrowType::Float64),
            Cell::Null | Cell::Text(_) => Self::decide(ArrowType::Utf8),
            Cell::Blob(_) => Self::decide(ArrowType::Binary),
        }
    }

    fn decide(ty: ArrowType) -> Self {
        Self::Decided(TypedColumn::new(ty))
    }

    fn close(&mut self) {
        match self {
            Self::Open(declared) => *self = Self::decide(declared.unwrap_or(ArrowType::Utf8)),
            Self::Integers { .. } => *self = Self::decide(ArrowType::Int64),
            Self::Decided(_) => {}
        }
    }

    fn decided(&self) -> Option<ArrowType> {
        match self {
            Self::Open(_) | Self::Integers { .. } => None,
            Self::Decided(column) => Some(column.ty()),
        }
    }
}

fn is_exact(value: i64) -> bool {
    value.unsigned_abs() <= EXACT_INTEGER_MAX
}

/// Rows of the sample on their way into batches.
#[derive(Debug)]
pub(in crate::rows) struct HeldRows {
    columns: Vec<GatheredColumn>,
    /// The row that is to be written next.
    next: usize,
    n_rows: usize,
}

impl HeldRows {
    /// Whether all have been written.
    pub(in crate::rows) fn is_empty(&self) -> bool {
        self.next >= self.n_rows
    }

    /// The row that is to be written next. There is one unless they [are empty](Self::is_empty).
    pub(in crate::rows) fn row(&self) -> impl RowSource {
        HeldRow {
            columns: &self.columns,
            row_idx: self.next,
        }
    }

    /// That row has been written.
    pub(in crate::rows) fn advance(&mut self) {
        self.next += 1;
    }
}

struct HeldRow<'a> {
    columns: &'a [GatheredColumn],
    row_idx: usize,
}

impl RowSource for HeldRow<'_> {
    fn write_cell(&self, column_idx: usize, out: &mut impl CellSink) {
        let column = self.columns.get(column_idx);
        column.map_or(Cell::Null, |column| column.cell(self.row_idx)).write(out);
    }
}

/// What a gathered cell is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tag {
    Null,
    Boolean,
    Integer,
    Real,
    Text,
    Blob,
}

/// Cells as they came.
#[derive(Debug, Default)]
struct GatheredColumn {
    tags: Vec<Tag>,
    /// The bits of an integer, real or boolean; of a text or blob, where it begins and its length, 32 bits each.
    words: Vec<u64>,
    /// Texts and blobs, one behind the other.
    bytes: Vec<u8>,
}

fn bytes_of(cell: Cell<'_>) -> &[u8] {
    match cell {
        Cell::Text(bytes) | Cell::Blob(bytes) => bytes,
        Cell::Null | Cell::Boolean(_) | Cell::Integer(_) | Cell::Real(_) => &[],
    }
}

impl GatheredColumn {
    fn push(&mut self, cell: Cell<'_>) {
        // A sample and a row together have less than 4 GiB.
        let place = |bytes: &[u8]| (self.bytes.len() as u64) << 32 | bytes.len() as u64;
        let (tag, word) = match cell {
            Cell::Null => (Tag::Null, 0),
            Cell::Boolean(value) => (Tag::Boolean, u64::from(value)),
            Cell::Integer(value) => (Tag::Integer, value.cast_unsigned()),
            Cell::Real(value) => (Tag::Real, value.to_bits()),
            Cell::Text(text) => (Tag::Text, place(text)),
            Cell::Blob(bytes) => (Tag::Blob, place(bytes)),
        };
        self.tags.push(tag);
        self.words.push(word);
        self.bytes.extend_from_slice(bytes_of(cell));
    }

    /// Takes back what is behind the first `len` cells.
    fn truncate(&mut self, len: usize) {
        while self.tags.len() > len {
            if let (Some(Tag::Text | Tag::Blob), Some(word)) = (self.tags.pop(), self.words.pop()) {
                self.bytes.truncate((word >> 32) as usize);
            }
        }
    }

    /// The same in no more memory than it needs.
    fn shrunk(mut self) -> Self {
        self.tags.shrink_to_fit();
        self.words.shrink_to_fit();
        self.bytes.shrink_to_fit();
        self
    }

    /// The cell of a row; NULL behind the last.
    fn cell(&self, row_idx: usize) -> Cell<'_> {
        let (Some(tag), Some(&word)) = (self.tags.get(row_idx), self.words.get(row_idx)) else {
            return Cell::Null;
        };
        let bytes = || {
            let start = (word >> 32) as usize;
            let len = (word & u64::from(u32::MAX)) as usize;
            self.bytes.get(start..start + len).unwrap_or_default()
        };
        match tag {
            Tag::Null => Cell::Null,
            Tag::Boolean => Cell::Boolean(word != 0),
            Tag::Integer => Cell::Integer(word.cast_signed()),
            Tag::Real => Cell::Real(f64::from_bits(word)),
            Tag::Text => Cell::Text(bytes()),
            Tag::Blob => Cell::Blob(bytes()),
        }
    }
}
