//! A table for reading, in windows of rows: each is laid out and written as a whole, so that memory stays flat however long
//! the result is. Columns keep the width of earlier windows, and grow where later rows need it and the terminal has room.

use std::borrow::Cow;
use std::io::{self, Write};

use comfy_table::{Cell, CellAlignment, ColumnConstraint, ContentLineStyle, LineStyle, Table, TableStyle, Width};

use super::RowWriter;
use crate::cli::text::push_printable;
use crate::client::{Batch, FromCell};
use crate::rows::{ColumnType, Schema};

/// Rows of one window, and bytes of them, at the most.
const WINDOW_ROWS: usize = 1_000;
const WINDOW_BYTES: usize = 1024 * 1024;

/// Characters of a cell that are shown.
const CELL_CHARS_MAX: usize = 1_000;

/// No column is made narrower than this to fit the terminal; with too many columns, lines are longer than it.
const COLUMN_WIDTH_MIN: u16 = 6;

/// What a NULL looks like. A text of the same letters is shown in quotes.
const NULL: &str = "NULL";

/// A space on each side of a cell.
const PADDING: u16 = 2;

pub(in crate::cli) const STYLE: TableStyle = TableStyle::new()
    .header_lines(ContentLineStyle::none().junction('│'))
    .header_separator(LineStyle::none().fill('─').junction('┼'))
    .content_lines(ContentLineStyle::none().junction('│'));

pub(super) struct TableWriter {
    width: Option<u16>,
    header: Vec<String>,
    alignments: Vec<CellAlignment>,
    /// Width of each column's text, so far.
    column_widths: Vec<u16>,
    window: Vec<Vec<String>>,
    window_bytes: usize,
    header_written: bool,
}

impl TableWriter {
    pub(super) fn new(width: Option<u16>) -> Self {
        Self {
            width,
            header: Vec::new(),
            alignments: Vec::new(),
            column_widths: Vec::new(),
            window: Vec::new(),
            window_bytes: 0,
            header_written: false,
        }
    }

    /// Lays the window out and writes it.
    fn write_window(&mut self, out: &mut dyn Write) -> io::Result<()> {
        let mut table = Table::new();
        table.load_style(STYLE);
        if !std::mem::replace(&mut self.header_written, true) {
            table.set_header(&self.header);
        }
        for row in self.window.drain(..) {
            let cells = row.into_iter().zip(&self.alignments);
            table.add_row(cells.map(|(text, alignment)| Cell::new_owned(text).set_alignment(*alignment)));
        }
        self.window_bytes = 0;
        for (width, content) in self.column_widths.iter_mut().zip(table.column_max_content_widths()) {
            *width = content.max(*width);
        }
        if let Some(width) = self.width {
            fit(&mut self.column_widths, width);
        }
        let constraints = self.column_widths.iter();
        table.set_constraints(constraints.map(|width| ColumnConstraint::Absolute(Width::Fixed(width + PADDING))));
        for line in table.lines() {
            out.write_all(line.trim_end().as_bytes())?;
            out.write_all(b"\n")?;
        }
        Ok(())
    }
}

impl RowWriter for TableWriter {
    fn columns(&mut self, columns: &Schema, _out: &mut dyn Write) -> io::Result<()> {
        let columns = columns.columns();
        self.header = columns.iter().map(|column| shown_text(&column.label)).collect();
        self.column_widths = vec![1; columns.len()];
        self.alignments = columns
            .iter()
            .map(|column| match column.ty {
                ColumnType::Int64 | ColumnType::Float64 | ColumnType::Decimal => CellAlignment::Right,
                ColumnType::Text
                | ColumnType::Blob
                | ColumnType::Boolean
                | ColumnType::Date
                | ColumnType::Time
                | ColumnType::Timestamp
                | ColumnType::TimestampTz
                | ColumnType::Json
                | ColumnType::Uuid
                | ColumnType::Any => CellAlignment::Left,
            })
            .collect();
        Ok(())
    }

    fn batch(&mut self, batch: &Batch, out: &mut dyn Write) -> io::Result<()> {
        for row in batch.rows() {
            let cells: Vec<_> = row.cells().map(shown).collect();
            self.window_bytes += cells.iter().map(String::len).sum::<usize>();
            self.window.push(cells);
            if self.window.len() >= WINDOW_ROWS || self.window_bytes >= WINDOW_BYTES {
                self.write_window(out)?;
            }
        }
        Ok(())
    }

    fn catch_up(&mut self, out: &mut dyn Write) -> io::Result<()> {
        if self.window.is_empty() {
            return Ok(());
        }
        self.write_window(out)
    }

    fn end(&mut self, is_whole: bool, out: &mut dyn Write) -> io::Result<()> {
        // The header of an empty result is worth showing, that of a failed query is not.
        if is_whole && !self.header_written && !self.header.is_empty() {
            return self.write_window(out);
        }
        self.catch_up(out)
    }
}

/// A cell as it is shown.
fn shown(json: &str) -> String {
    match Cow::from_cell(json) {
        Some(text) if text == NULL => format!("{text:?}"),
        Some(text) => shown_text(&text),
        None if json == "null" => NULL.to_owned(),
        None => shown_text(json),
    }
}

fn shown_text(text: &str) -> String {
    let (shown, is_cut) = match text.char_indices().nth(CELL_CHARS_MAX) {
        Some((end, _)) => (&text[..end], true),
        None => (text, false),
    };
    let mut out = String::with_capacity(shown.len());
    push_printable(shown, &mut out);
    if is_cut {
        out.push('…');
    }
    out
}

/// Narrows the widest columns until a line fits `width`, as far as that goes.
fn fit(column_widths: &mut [u16], width: u16) {
    // Between two columns is a line.
    let around = (usize::from(PADDING) + 1) * column_widths.len();
    let room = (usize::from(width) + 1).saturating_sub(around);
    let sum_at_most = |cap: u16| -> usize { column_widths.iter().map(|width| usize::from(*width.min(&cap))).sum() };
    // Columns beyond `cap` are cut to it, the others keep their width: the largest `cap` that fits.
    let (mut low, mut high) = (COLUMN_WIDTH_MIN, column_widths.iter().copied().max().unwrap_or(0));
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if sum_at_most(middle) <= room {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    for column_width in column_widths {
        *column_width = (*column_width).min(low);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_fit(mut widths: Vec<u16>, width: u16, expected: &[u16]) {
        fit(&mut widths, width);
        assert_eq!(widths, expected);
    }

    #[test]
    fn the_widest_columns_give_way() {
        check_fit(vec![10, 20], 80, &[10, 20]);
        check_fit(vec![10, 200], 40, &[10, 25]);
        check_fit(vec![100, 200], 45, &[20, 20]);
        check_fit(vec![100, 200, 3], 20, &[6, 6, 3]);
        check_fit(vec![2, 3], 1, &[2, 3]);
        check_fit(vec![], 80, &[]);
    }

    #[track_caller]
    fn check_shown(json: &str, expected: &str) {
        assert_eq!(shown(json), expected);
    }

    #[test]
    fn cells_are_shown_distinctly_and_safely() {
        check_shown("null", "NULL");
        check_shown("\"NULL\"", "\"NULL\"");
        check_shown("\"\"", "");
        check_shown("12345678901234567890.5", "12345678901234567890.5");
        check_shown("\"a\\nb\\u001b[0m\"", "a\\nb\\u{1b}[0m");
        let long = "é".repeat(CELL_CHARS_MAX + 1);
        check_shown(&format!("\"{long}\""), &format!("{}…", &long[..2 * CELL_CHARS_MAX]));
    }
}
