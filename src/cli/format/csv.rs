//! CSV (RFC 4180 but for the line ends, which are `\n`): labels first, NULL as nothing at all.

use std::borrow::Cow;
use std::io::{self, Write};

use super::RowWriter;
use crate::client::{Batch, FromCell};
use crate::rows::Schema;

pub(super) struct CsvWriter {
    /// Quotes fields into memory; emptied after each batch.
    csv: ::csv::Writer<Vec<u8>>,
}

impl CsvWriter {
    pub(super) fn new() -> Self {
        Self {
            csv: ::csv::Writer::from_writer(Vec::new()),
        }
    }

    fn write_out(&mut self, out: &mut dyn Write) -> io::Result<()> {
        let full = std::mem::replace(&mut self.csv, ::csv::Writer::from_writer(Vec::new()));
        let bytes = full.into_inner().map_err(|error| io::Error::other(error.to_string()))?;
        out.write_all(&bytes)
    }
}

impl RowWriter for CsvWriter {
    fn columns(&mut self, columns: &Schema, out: &mut dyn Write) -> io::Result<()> {
        self.csv
            .write_record(columns.columns().iter().map(|column| column.label.as_str()))?;
        self.write_out(out)
    }

    fn batch(&mut self, batch: &Batch, out: &mut dyn Write) -> io::Result<()> {
        for row in batch.rows() {
            for cell in row.cells() {
                let field = match cell {
                    "null" => Cow::Borrowed(""),
                    cell => Cow::from_cell(cell).unwrap_or(Cow::Borrowed(cell)),
                };
                self.csv.write_field(field.as_bytes())?;
            }
            self.csv.write_record(None::<&[u8]>)?;
        }
        self.write_out(out)
    }

    fn end(&mut self, _is_whole: bool, _out: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }
}
