//! Rows that Arrow holds back until it has types for them, as a worker deals with them.

use super::RowWriter;
use crate::rows::RowError;
#[cfg(feature = "arrow")]
use crate::rows::arrow::ArrowEncoder;

#[cfg(feature = "arrow")]
impl RowWriter {
    /// Whether rows are held back, so that batches taken are empty.
    pub(super) fn is_sampling(&self) -> bool {
        self.encoder.arrow_ref().is_some_and(ArrowEncoder::is_sampling)
    }

    /// Whether the rows of the batch cannot leave as one.
    pub(super) fn holds_back(&mut self) -> bool {
        let rows = self.rows;
        self.encoder.arrow().is_some_and(|arrow| arrow.holds_back(rows))
    }

    /// Rows that are held back until there are types for them, those of the batch not included.
    pub(crate) fn rows_sampled(&self) -> u64 {
        self.encoder.arrow_ref().map_or(0, |arrow| arrow.rows_sampled() as u64)
    }

    /// No row will come any more: the next batch taken has what is held back, or the beginning of it.
    pub(crate) fn close_sample(&mut self) {
        let rows = self.rows;
        if let Some(arrow) = self.encoder.arrow() {
            arrow.close_sample(rows);
        }
    }

    /// Whether rows that were held back are in no batch yet, though they may.
    pub(crate) fn holds_rows(&self) -> bool {
        self.encoder.arrow_ref().is_some_and(ArrowEncoder::holds_rows)
    }

    /// Puts rows that were held back into the batch, as many as it takes. They come before any other: with some left, the batch is full.
    ///
    /// # Errors
    /// None is expected: each row was judged when it came.
    pub(crate) fn write_held_rows(&mut self) -> Result<(), RowError> {
        let Some(mut held) = self.encoder.arrow().and_then(ArrowEncoder::take_held) else {
            return Ok(());
        };
        let row_bytes_max = std::mem::replace(&mut self.limits.row_bytes_max, usize::MAX);
        let mut written = Ok(());
        while written.is_ok() && !held.is_empty() && !self.is_full() {
            written = self.write_row(&held.row());
            held.advance();
        }
        self.limits.row_bytes_max = row_bytes_max;
        if let Some(arrow) = self.encoder.arrow() {
            arrow.hold(held);
        }
        written
    }

    /// The rows of this batch go to the sample, if there is one; where that decides the types, rows come back from it.
    pub(super) fn settle_sample(&mut self) -> Result<(), RowError> {
        let rows = self.rows;
        let Some(arrow) = self.encoder.arrow().filter(|arrow| arrow.is_sampling()) else {
            return Ok(());
        };
        let rows_sampled = arrow.rows_sampled() as u64;
        let is_decided = arrow.keep_sampled(rows);
        (self.rows, self.bytes, self.due) = (0, 0, false);
        if is_decided {
            self.row_offset -= rows_sampled;
            self.write_held_rows()?;
        }
        Ok(())
    }

    /// Appends what makes a result without any batch a stream that can be read: Arrow's schema, of JSON nothing. Nothing
    /// either once there was a batch with rows.
    pub(crate) fn schema_piece(&mut self, out: &mut Vec<u8>) {
        if let Some(arrow) = self.encoder.arrow() {
            arrow.schema_piece(out);
        }
    }
}

/// JSON holds nothing back.
impl RowWriter {
    /// Whether rows that came are in no batch yet, or the next one would be in none.
    pub(crate) fn keeps_rows_back(&self) -> bool {
        self.is_sampling() || self.holds_rows()
    }
}

#[cfg(not(feature = "arrow"))]
#[allow(clippy::unused_self)] // as with Arrow
impl RowWriter {
    pub(super) fn is_sampling(&self) -> bool {
        false
    }

    pub(super) fn holds_back(&self) -> bool {
        false
    }

    pub(crate) fn rows_sampled(&self) -> u64 {
        0
    }

    pub(crate) fn close_sample(&mut self) {}

    pub(crate) fn holds_rows(&self) -> bool {
        false
    }

    pub(crate) fn write_held_rows(&mut self) -> Result<(), RowError> {
        Ok(())
    }
}
