//! How rows are written for people and programs: a table, CSV, or JSON.
//!
//! Must not know where the rows come from or where the bytes go.

#[cfg(feature = "arrow")]
mod arrow;
mod csv;
mod json;
#[cfg(feature = "parquet")]
mod parquet;
mod table;

use std::io::{self, Write};

use clap::ValueEnum;

use crate::client::{ArrowBatch, Batch};
use crate::rows::Schema;

pub(super) use table::STYLE as TABLE_STYLE;

/// The formats to choose from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Columns side by side, for reading.
    Table,
    /// A line of labels, then a line per row; NULL is empty.
    Csv,
    /// A JSON object per line, cells exactly as the server sent them.
    Ndjson,
    /// One JSON array of objects; closed only when the result is whole.
    Json,
    /// An Arrow IPC stream; ended only when the result is whole.
    #[cfg(feature = "arrow")]
    Arrow,
    /// A Parquet file; it has its footer only when the result is whole.
    #[cfg(feature = "parquet")]
    Parquet,
}

/// Writes one result, batch by batch, in memory that does not grow with it.
pub(super) trait RowWriter {
    /// The columns are known. Called once, before the first batch.
    fn columns(&mut self, columns: &Schema, out: &mut dyn Write) -> io::Result<()> {
        let _ = (columns, out);
        Ok(())
    }

    /// Rows.
    fn batch(&mut self, batch: &Batch, out: &mut dyn Write) -> io::Result<()> {
        let _ = (batch, out);
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the server sent JSON where Arrow was asked for",
        ))
    }

    /// Rows in columns, for a format that [is made of them](Format::is_arrow).
    fn arrow_batch(&mut self, batch: &ArrowBatch, out: &mut dyn Write) -> io::Result<()> {
        let _ = (batch, out);
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "this format is not made of Arrow batches",
        ))
    }

    /// Writes what has been held back to be written with later rows.
    fn catch_up(&mut self, out: &mut dyn Write) -> io::Result<()> {
        let _ = out;
        Ok(())
    }

    /// There are no more rows. `is_whole` where these were all, and not the beginning of a result that broke off.
    fn end(&mut self, is_whole: bool, out: &mut dyn Write) -> io::Result<()>;
}

impl Format {
    /// Whether it is not for people to look at.
    pub(super) fn is_binary(self) -> bool {
        self.is_arrow()
    }

    /// Whether it is made of Arrow batches.
    pub(super) fn is_arrow(self) -> bool {
        match self {
            Self::Table | Self::Csv | Self::Ndjson | Self::Json => false,
            #[cfg(feature = "arrow")]
            Self::Arrow => true,
            #[cfg(feature = "parquet")]
            Self::Parquet => true,
        }
    }

    /// A writer of this format. A table is kept within `width` columns of text, where there is a terminal.
    pub(super) fn writer(self, width: Option<u16>) -> Box<dyn RowWriter> {
        match self {
            Self::Table => Box::new(table::TableWriter::new(width)),
            Self::Csv => Box::new(csv::CsvWriter::new()),
            Self::Ndjson => Box::new(json::JsonWriter::lines()),
            Self::Json => Box::new(json::JsonWriter::array()),
            #[cfg(feature = "arrow")]
            Self::Arrow => Box::new(arrow::StreamWriter),
            #[cfg(feature = "parquet")]
            Self::Parquet => Box::new(parquet::FileWriter::default()),
        }
    }
}

#[cfg(test)]
mod tests;
