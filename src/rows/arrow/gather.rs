//! One column of the first batch, whose type is not decided yet.

use super::column::{ArrowType, TypedColumn};
use super::{Cell, CellError};

/// Bits that a gathered cell takes, the bytes of a text or blob besides: its tag and a word.
const CELL_BITS: u64 = 8 + 64;

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

/// A cell that has no place in its column's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Misfit {
    pub(super) row_idx: usize,
    pub(super) error: CellError,
}

/// Cells as they came.
#[derive(Debug, Default)]
pub(super) struct GatheredColumn {
    tags: Vec<Tag>,
    /// The bits of an integer, real or boolean, the length of a text or blob.
    words: Vec<u64>,
    /// Texts and blobs, one behind the other.
    bytes: Vec<u8>,
}

impl GatheredColumn {
    pub(super) fn clear(&mut self) {
        self.tags.clear();
        self.words.clear();
        self.bytes.clear();
    }

    /// Appends a cell, and returns how many bits it takes.
    pub(super) fn push(&mut self, cell: Cell<'_>) -> Result<u64, CellError> {
        let (tag, word, bytes): (_, _, &[u8]) = match cell {
            Cell::Null => (Tag::Null, 0, &[]),
            Cell::Boolean(value) => (Tag::Boolean, u64::from(value), &[]),
            Cell::Integer(value) => (Tag::Integer, value.cast_unsigned(), &[]),
            Cell::Real(value) => (Tag::Real, value.to_bits(), &[]),
            Cell::Text(text) if std::str::from_utf8(text).is_err() => return Err(CellError::InvalidUtf8),
            Cell::Text(text) => (Tag::Text, text.len() as u64, text),
            Cell::Blob(bytes) => (Tag::Blob, bytes.len() as u64, bytes),
        };
        self.tags.push(tag);
        self.words.push(word);
        self.bytes.extend_from_slice(bytes);
        Ok(CELL_BITS + 8 * bytes.len() as u64)
    }

    /// Takes back what is behind the first `len` cells.
    pub(super) fn truncate(&mut self, len: usize) {
        while self.tags.len() > len {
            if let (Some(Tag::Text | Tag::Blob), Some(word)) = (self.tags.pop(), self.words.pop()) {
                self.bytes.truncate(self.bytes.len().saturating_sub(word as usize));
            }
        }
    }

    /// The cells in the type that is declared, where they all fit; else in the one that they have in common.
    pub(super) fn typed(&self, declared: Option<ArrowType>) -> Result<TypedColumn, Misfit> {
        let misfit = match declared.map(|ty| self.typed_as(ty)) {
            Some(Ok(column)) => return Ok(column),
            Some(Err(misfit)) => Some(misfit),
            None => None,
        };
        // A column that mixes types is best told what it declares, if it does.
        self.common()
            .and_then(|ty| self.typed_as(ty))
            .map_err(|mixed| misfit.unwrap_or(mixed))
    }

    fn typed_as(&self, ty: ArrowType) -> Result<TypedColumn, Misfit> {
        let mut column = TypedColumn::new(ty);
        for (row_idx, cell) in self.cells().enumerate() {
            column.push(cell).map_err(|error| Misfit { row_idx, error })?;
        }
        Ok(column)
    }

    /// The type of all cells that are not NULL; `Utf8` where there is none.
    fn common(&self) -> Result<ArrowType, Misfit> {
        let mut common: Option<ArrowType> = None;
        for (row_idx, cell) in self.cells().enumerate() {
            let own = match cell {
                Cell::Null => continue,
                Cell::Boolean(_) => ArrowType::Boolean,
                Cell::Integer(_) => ArrowType::Int64,
                Cell::Real(_) => ArrowType::Float64,
                Cell::Text(_) => ArrowType::Utf8,
                Cell::Blob(_) => ArrowType::Binary,
            };
            common = Some(match (common, own) {
                (None, own) => own,
                (Some(ty), own) if ty == own => ty,
                // Whether the integers are exact as doubles shows when they are put there.
                (Some(ArrowType::Int64 | ArrowType::Float64), ArrowType::Int64 | ArrowType::Float64) => {
                    ArrowType::Float64
                }
                (Some(ty), _) => {
                    let error = CellError::Mistyped {
                        column_type: ty.name(),
                        found: cell.kind(),
                    };
                    return Err(Misfit { row_idx, error });
                }
            });
        }
        Ok(common.unwrap_or(ArrowType::Utf8))
    }

    fn cells(&self) -> impl Iterator<Item = Cell<'_>> {
        let mut rest = self.bytes.as_slice();
        let mut take = move |len: u64| {
            // The lengths are those of what was appended.
            let (bytes, behind) = rest.split_at_checked(len as usize).unwrap_or((rest, &[]));
            rest = behind;
            bytes
        };
        self.tags.iter().zip(&self.words).map(move |(tag, &word)| match tag {
            Tag::Null => Cell::Null,
            Tag::Boolean => Cell::Boolean(word != 0),
            Tag::Integer => Cell::Integer(word.cast_signed()),
            Tag::Real => Cell::Real(f64::from_bits(word)),
            Tag::Text => Cell::Text(take(word)),
            Tag::Blob => Cell::Blob(take(word)),
        })
    }
}
