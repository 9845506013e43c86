//! Why a row is not sent.

use std::fmt;

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
    /// A cell does not fit the type that its column has in an Arrow stream.
    ///
    /// The declared type and the first batch with rows decide it. Cast the cells in the query to one type, or ask for JSON,
    /// where each cell says for itself.
    Mistyped {
        /// 0-based position of the row in the whole result.
        row: u64,
        /// 0-based position of the column.
        column: usize,
        /// The column's type, by Arrow's name.
        column_type: &'static str,
        /// What the cell is.
        found: &'static str,
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
            Self::Mistyped {
                row,
                column,
                column_type,
                found,
            } => write!(
                f,
                "row {row}, column {column} is {found}, which does not fit the column's type {column_type}; \
                 cast it in the query, or ask for JSON"
            ),
            Self::TooLarge { row, bytes_max } => {
                write!(f, "row {row} is larger than {bytes_max} bytes")
            }
            Self::CellCount { row, cells, columns } => write!(f, "row {row} has {cells} cells for {columns} columns"),
        }
    }
}

impl std::error::Error for RowError {}
