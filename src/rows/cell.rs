//! Rows that are there already, and what takes their cells one by one.
//!
//! Must not know how cells are encoded.

use super::RowWriter;

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
