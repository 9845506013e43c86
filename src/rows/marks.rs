//! `CellMarks`: which cells of a batch are not what their column says, for clients that ask for `cell_types`.
//!
//! Must not know what a column says in which encoding: it is told.

use std::io::Write;

use super::ColumnType;

/// The marks of a batch as a JSON array, `[[row, column, "type"], …]`, without its brackets until it is taken.
#[derive(Debug, Default)]
pub(super) struct CellMarks {
    text: Vec<u8>,
    /// Where those of the row being written begin.
    row_start: usize,
}

impl CellMarks {
    /// Bytes that they take so far, those of the row being written included.
    pub(super) fn len(&self) -> usize {
        self.text.len()
    }

    pub(super) fn begin_row(&mut self) {
        self.row_start = self.text.len();
    }

    /// Takes back those of the row begun last.
    pub(super) fn take_row_back(&mut self) {
        self.text.truncate(self.row_start);
    }

    /// Adds a mark: the cell at this place of the batch is a `ty`.
    pub(super) fn add(&mut self, row_idx: u32, column_idx: usize, ty: ColumnType) {
        if !self.text.is_empty() {
            self.text.push(b',');
        }
        write!(self.text, "[{row_idx},{column_idx},\"{}\"]", ty.wire_name()).expect("a Vec takes every byte");
    }

    pub(super) fn clear(&mut self) {
        self.text.clear();
        self.row_start = 0;
    }

    /// The whole array.
    pub(super) fn take(&mut self) -> Vec<u8> {
        let mut array = Vec::with_capacity(self.text.len() + 2);
        array.push(b'[');
        array.append(&mut self.text);
        array.push(b']');
        self.row_start = 0;
        array
    }
}
