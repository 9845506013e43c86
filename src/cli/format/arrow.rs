//! Arrow IPC, as it comes.

use std::io::{self, Write};

use super::RowWriter;
use crate::client::{ArrowBatch, END_OF_STREAM};

/// Writes the pieces one behind the other.
pub(super) struct StreamWriter;

impl RowWriter for StreamWriter {
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
