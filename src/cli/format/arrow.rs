//! Arrow IPC, as it comes.

use std::io::{self, Write};

use super::RowWriter;
use crate::client::{ArrowBatch, Batch};
use crate::rows::Schema;

/// What ends an Arrow IPC stream: a message of no length (Arrow columnar format, "IPC Streaming Format").
pub(super) const END_OF_STREAM: [u8; 8] = [0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0];

/// Writes the pieces one behind the other.
pub(super) struct StreamWriter;

impl RowWriter for StreamWriter {
    fn columns(&mut self, _columns: &Schema, _out: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }

    fn batch(&mut self, _batch: &Batch, _out: &mut dyn Write) -> io::Result<()> {
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the server sent JSON where Arrow was asked for",
        ))
    }

    fn arrow_batch(&mut self, batch: &ArrowBatch, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&batch.payload)
    }

    fn end(&mut self, is_whole: bool, out: &mut dyn Write) -> io::Result<()> {
        if is_whole {
            out.write_all(&END_OF_STREAM)?;
        }
        Ok(())
    }
}
