//! Cells on their way: what one is, rows that are there already, and what takes their cells one by one.
//!
//! Must not know how cells are encoded.

use super::{ColumnType, RowWriter, TextErrors};

/// A cell on its way into an encoder.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Cell<'a> {
    Null,
    Boolean(bool),
    Integer(i64),
    Real(f64),
    Text(&'a [u8]),
    Blob(&'a [u8]),
}

impl Cell<'_> {
    /// What it is, as a column would declare it; `None` for NULL.
    pub(super) fn ty(self) -> Option<ColumnType> {
        match self {
            Self::Null => None,
            Self::Boolean(_) => Some(ColumnType::Boolean),
            Self::Integer(_) => Some(ColumnType::Int64),
            Self::Real(_) => Some(ColumnType::Float64),
            Self::Text(_) => Some(ColumnType::Text),
            Self::Blob(_) => Some(ColumnType::Blob),
        }
    }

    /// What it is, for a message.
    #[cfg(feature = "arrow")]
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::Null => "NULL",
            Self::Boolean(_) => "a boolean",
            Self::Integer(_) => "an integer",
            Self::Real(_) => "a real",
            Self::Text(_) => "text",
            Self::Blob(_) => "a blob",
        }
    }

    /// Writes it as the next cell of a row.
    #[cfg(any(test, feature = "arrow"))]
    pub(super) fn write(self, out: &mut impl CellSink) {
        match self {
            Self::Null => out.null(),
            Self::Boolean(value) => out.boolean(value),
            Self::Integer(value) => out.integer(value),
            Self::Real(value) => out.real(value),
            Self::Text(text) => out.text(text),
            Self::Blob(bytes) => out.blob(bytes),
        }
    }

    /// Hands on the cell as `text_errors` wants it written. Only a text that is not UTF-8 costs memory, and only to replace it.
    pub(super) fn repaired<R>(self, text_errors: TextErrors, write: impl FnOnce(Cell<'_>) -> R) -> R {
        match self {
            Self::Text(text) if text_errors != TextErrors::Fail && std::str::from_utf8(text).is_err() => {
                match text_errors {
                    TextErrors::Replace => write(Cell::Text(String::from_utf8_lossy(text).as_bytes())),
                    TextErrors::Fail | TextErrors::Blob => write(Cell::Blob(text)),
                }
            }
            Self::Null | Self::Boolean(_) | Self::Integer(_) | Self::Real(_) | Self::Text(_) | Self::Blob(_) => {
                write(self)
            }
        }
    }
}

/// Why a cell cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CellError {
    /// A text is not UTF-8.
    InvalidUtf8,
    /// It does not fit the type of its column.
    #[cfg(feature = "arrow")]
    Mistyped {
        column_type: &'static str,
        found: &'static str,
    },
}

/// A row that is there already, of which each cell can be written for itself.
pub(crate) trait RowSource {
    /// Writes the cell of this column: exactly one, into whatever takes it.
    fn write_cell(&self, column_idx: usize, out: &mut impl CellSink);
}

/// What takes a cell.
pub(crate) trait CellSink {
    fn null(&mut self);
    fn boolean(&mut self, value: bool);
    fn integer(&mut self, value: i64);
    fn real(&mut self, value: f64);
    fn text(&mut self, text: &[u8]);
    fn blob(&mut self, bytes: &[u8]);
}

impl CellSink for RowWriter {
    #[inline]
    fn null(&mut self) {
        Self::null(self);
    }

    #[inline]
    fn boolean(&mut self, value: bool) {
        Self::boolean(self, value);
    }

    #[inline]
    fn integer(&mut self, value: i64) {
        Self::integer(self, value);
    }

    #[inline]
    fn real(&mut self, value: f64) {
        Self::real(self, value);
    }

    #[inline]
    fn text(&mut self, text: &[u8]) {
        Self::text(self, text);
    }

    #[inline]
    fn blob(&mut self, bytes: &[u8]) {
        Self::blob(self, bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &[u8], text_errors: TextErrors, expected: Cell<'_>) {
        Cell::Text(text).repaired(text_errors, |cell| assert_eq!(cell, expected));
    }

    #[test]
    fn text_that_is_not_utf8_is_what_was_asked_for() {
        for text_errors in [TextErrors::Fail, TextErrors::Replace, TextErrors::Blob] {
            check("é".as_bytes(), text_errors, Cell::Text("é".as_bytes()));
        }
        check(b"a\xFFb", TextErrors::Fail, Cell::Text(b"a\xFFb"));
        check(b"a\xFFb", TextErrors::Replace, Cell::Text("a\u{FFFD}b".as_bytes()));
        // One replacement for each part that could have begun a character.
        check(
            b"\xE2\x82z\xC0\x80",
            TextErrors::Replace,
            Cell::Text("\u{FFFD}z\u{FFFD}\u{FFFD}".as_bytes()),
        );
        check(b"a\xFFb", TextErrors::Blob, Cell::Blob(b"a\xFFb"));
    }
}
