//! Why a row is not sent.

use std::fmt;

/// Why a row could not be written. The row is not part of the batch; the rows before it are.
///
/// Its fields count rows and columns from 0, its message counts from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RowError {
    /// A text cell is not UTF-8.
    ///
    /// Ask for [`TextErrors`](super::TextErrors) `replace` or `blob`, or cast the column to a blob in the query.
    InvalidUtf8 {
        /// 0-based position of the row in the whole result.
        row: u64,
        /// 0-based position of the column.
        column: usize,
        /// The column's label.
        label: String,
    },
    /// A cell does not fit the type that its column has in an Arrow stream.
    ///
    /// The declared type decides it, and the first values of the result where nothing is declared. Cast the cells in the query to one
    /// type, ask for [`ArrowMixed`](super::ArrowMixed) `text`, or ask for JSON, where each cell says for itself.
    Mistyped {
        /// 0-based position of the row in the whole result.
        row: u64,
        /// 0-based position of the column.
        column: usize,
        /// The column's label.
        label: String,
        /// The column's type, by Arrow's name.
        column_type: &'static str,
        /// What the cell is.
        found: &'static str,
    },
    /// The row is larger than the server's limit for one row, `row_bytes_max`.
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
            Self::InvalidUtf8 { row, column, label } => write!(
                f,
                "the text in row {}, column {} ({label:?}) is not valid UTF-8; \
                 set text_errors to \"replace\" or \"blob\", or cast the column to BLOB in the query",
                row + 1,
                column + 1
            ),
            Self::Mistyped {
                row,
                column,
                label,
                column_type,
                found,
            } => write!(
                f,
                "the cell in row {}, column {} ({label:?}) is {found} and does not fit the column's Arrow type {column_type}; \
                 cast the column to one type in the query, set arrow_mixed to \"text\", or ask for JSON",
                row + 1,
                column + 1
            ),
            Self::TooLarge { row, bytes_max } => write!(
                f,
                "row {} is larger than {bytes_max} bytes, the server's limit row_bytes_max; \
                 select fewer or shorter columns, or have the limit raised",
                row + 1
            ),
            Self::CellCount { row, cells, columns } => {
                write!(
                    f,
                    "the engine wrote {cells} cells in row {}, which has {columns} columns",
                    row + 1
                )
            }
        }
    }
}

impl std::error::Error for RowError {}
