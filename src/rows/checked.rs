//! `CheckedJson`: JSON whose cells are looked at one by one, for queries with `text_errors` or `cell_types`. All others write JSON
//! without that look.

use super::cell::{Cell, CellError};
use super::json::JsonEncoder;
use super::marks::CellMarks;
use super::{CellRules, ColumnType, Int64Encoding, RowFormat, Schema, TextErrors};

/// Encodes each cell as it comes, as its query wants text that is not UTF-8 and marks.
#[derive(Debug)]
pub(super) struct CheckedJson {
    pub(super) json: JsonEncoder,
    text_errors: TextErrors,
    marks: Option<CellMarks>,
    column_types: Box<[ColumnType]>,
    int64: Int64Encoding,
    /// Bytes of the rows before the one being written.
    row_start: usize,
}

impl CheckedJson {
    pub(super) fn new(schema: &Schema, row_format: RowFormat, int64: Int64Encoding, rules: CellRules) -> Self {
        let CellRules {
            text_errors,
            cell_types,
        } = rules;
        Self {
            json: JsonEncoder::new(schema, row_format, int64),
            text_errors,
            marks: cell_types.then(CellMarks::default),
            column_types: schema.columns().iter().map(|column| column.ty).collect(),
            int64,
            row_start: 0,
        }
    }

    pub(super) fn begin_row(&mut self, is_first: bool) {
        self.row_start = self.json.rows_len();
        self.json.begin_row(is_first);
        if let Some(marks) = &mut self.marks {
            marks.begin_row();
        }
    }

    pub(super) fn write(&mut self, row_idx: u32, cell_idx: usize, cell: Cell<'_>) -> Result<(), CellError> {
        let Self {
            json,
            text_errors,
            marks,
            column_types,
            int64,
            row_start: _,
        } = self;
        cell.repaired(*text_errors, |cell| {
            if let (Some(marks), Some(ty)) = (marks, cell.ty())
                && column_types
                    .get(cell_idx)
                    .is_some_and(|column| !is_told(*column, *int64, cell))
            {
                marks.add(row_idx, cell_idx, ty);
            }
            match cell {
                Cell::Null => json.null(cell_idx),
                Cell::Boolean(value) => json.boolean(cell_idx, value),
                Cell::Integer(value) => json.integer(cell_idx, value),
                Cell::Real(value) => json.real(cell_idx, value),
                Cell::Text(text) => {
                    let is_utf8 = json.text(cell_idx, text);
                    return is_utf8.then_some(()).ok_or(CellError::InvalidUtf8);
                }
                Cell::Blob(bytes) => json.blob(cell_idx, bytes),
            }
            Ok(())
        })
    }

    /// Ends a row of `n_cells`, and returns how many bytes the rows of the batch and their marks take with it.
    pub(super) fn end_row(&mut self, n_cells: usize) -> usize {
        self.json.end_row(n_cells) + self.marks.as_ref().map_or(0, CellMarks::len)
    }

    /// Takes back the row begun last.
    pub(super) fn take_row_back(&mut self) {
        self.json.truncate(self.row_start);
        if let Some(marks) = &mut self.marks {
            marks.take_row_back();
        }
    }

    /// The marks of the batch, where they were asked for.
    pub(super) fn take_marks(&mut self) -> Option<Vec<u8>> {
        self.marks.as_mut().map(CellMarks::take)
    }

    /// Forgets the rows of the batch; gives back the buffer.
    pub(super) fn take_buffer(&mut self) -> Vec<u8> {
        self.row_start = 0;
        if let Some(marks) = &mut self.marks {
            marks.clear();
        }
        self.json.take_buffer()
    }
}

/// Whether the column's type and the cell's JSON together say what the cell is.
fn is_told(column: ColumnType, int64: Int64Encoding, cell: Cell<'_>) -> bool {
    let is_number = |value| !int64.quotes(value);
    match (column, cell) {
        (_, Cell::Null) => true,
        (ColumnType::Int64, cell) => matches!(cell, Cell::Integer(_)),
        (ColumnType::Float64, Cell::Integer(value)) => is_number(value),
        (ColumnType::Float64, cell) => matches!(cell, Cell::Real(_)),
        (ColumnType::Boolean, cell) => matches!(cell, Cell::Boolean(_)),
        (ColumnType::Blob, cell) => matches!(cell, Cell::Blob(_)),
        (ColumnType::Any, Cell::Integer(value)) => is_number(value),
        (ColumnType::Any, Cell::Real(value)) => value.is_finite(),
        (ColumnType::Any, cell) => matches!(cell, Cell::Boolean(_) | Cell::Text(_)),
        (
            ColumnType::Text
            | ColumnType::Json
            | ColumnType::Uuid
            | ColumnType::Decimal
            | ColumnType::Date
            | ColumnType::Time
            | ColumnType::Timestamp
            | ColumnType::TimestampTz,
            cell,
        ) => matches!(cell, Cell::Text(_)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

    use super::*;
    use crate::rows::{BatchLimits, Column, RowError, RowShape, RowWriter};

    const LIMITS: BatchLimits = BatchLimits {
        rows_max: 100,
        bytes_max: 10_000,
        row_bytes_max: 1_000,
        bytes_left: None,
        until: None,
    };

    /// A column of each of these types.
    fn writer(types: &[ColumnType], int64: Int64Encoding, text_errors: TextErrors, limits: BatchLimits) -> RowWriter {
        let columns = types.iter().map(|ty| Column::new("c", *ty)).collect();
        let rules = CellRules {
            text_errors,
            cell_types: true,
        };
        let shape = RowShape::checked_json(&Schema::new(columns), RowFormat::Array, int64, rules);
        let mut writer = RowWriter::new(shape);
        writer.begin_batch(b"prefix ".to_vec(), limits, 0);
        writer
    }

    fn write(writer: &mut RowWriter, cells: &[Cell<'_>]) -> Result<(), RowError> {
        writer.begin_row();
        cells.iter().for_each(|cell| cell.write(writer));
        writer.end_row()
    }

    fn taken(writer: &mut RowWriter) -> (String, String) {
        let batch = writer.take_batch().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        assert_eq!(batch.row_bytes, batch.buffer.len() - "prefix ".len());
        (text(batch.buffer), text(batch.marks.unwrap()))
    }

    const CELLS: [Cell<'static>; 8] = [
        Cell::Null,
        Cell::Boolean(true),
        Cell::Integer(1),
        Cell::Integer(i64::MAX),
        Cell::Real(0.5),
        Cell::Real(f64::INFINITY),
        Cell::Text(b"Infinity"),
        Cell::Blob(b"a"),
    ];

    /// The cells of [`CELLS`] that are marked in a column of this type.
    #[track_caller]
    fn check(ty: ColumnType, int64: Int64Encoding, expected: &[usize]) {
        let mut writer = writer(&[ty], int64, TextErrors::Fail, LIMITS);
        for cell in CELLS {
            write(&mut writer, &[cell]).unwrap();
        }
        let expected: Vec<String> = expected
            .iter()
            .map(|row| format!("[{row},0,\"{}\"]", CELLS[*row].ty().unwrap().wire_name()))
            .collect();
        assert_eq!(
            taken(&mut writer).1,
            format!("[{}]", expected.join(",")),
            "{ty:?} {int64:?}"
        );
    }

    #[test]
    fn a_cell_is_marked_unless_its_column_and_its_json_say_what_it_is() {
        use Int64Encoding::{Number, Safe, String};
        for int64 in [Number, Safe, String] {
            check(ColumnType::Int64, int64, &[1, 4, 5, 6, 7]);
            check(ColumnType::Boolean, int64, &[2, 3, 4, 5, 6, 7]);
            check(ColumnType::Blob, int64, &[1, 2, 3, 4, 5, 6]);
            for ty in [
                ColumnType::Text,
                ColumnType::Json,
                ColumnType::Uuid,
                ColumnType::Decimal,
                ColumnType::Date,
                ColumnType::Time,
                ColumnType::Timestamp,
                ColumnType::TimestampTz,
            ] {
                check(ty, int64, &[1, 2, 3, 4, 5, 7]);
            }
        }
        for (int64, quoted) in [(Number, &[][..]), (Safe, &[3]), (String, &[2, 3])] {
            let with = |others: &[usize]| {
                let mut all = [quoted, others].concat();
                all.sort_unstable();
                all
            };
            check(ColumnType::Float64, int64, &with(&[1, 6, 7]));
            check(ColumnType::Any, int64, &with(&[5, 7]));
        }
    }

    #[test]
    fn rows_are_those_of_plain_json() {
        let mut checked = writer(&[ColumnType::Any; 8], Int64Encoding::Safe, TextErrors::Fail, LIMITS);
        write(&mut checked, &CELLS).unwrap();
        let columns = Schema::new(vec![Column::new("c", ColumnType::Any); 8]);
        let mut plain = RowWriter::new(RowShape::json(&columns, RowFormat::Array, Int64Encoding::Safe));
        plain.begin_batch(b"prefix ".to_vec(), LIMITS, 0);
        write(&mut plain, &CELLS).unwrap();
        let batch = plain.take_batch().unwrap();
        assert!(batch.marks.is_none());
        assert_eq!(taken(&mut checked).0.as_bytes(), batch.buffer);
    }

    #[test]
    fn text_that_is_not_utf8_is_refused_replaced_or_a_blob() {
        let cell = Cell::Text(b"a\xFF");
        let mut fails = writer(&[ColumnType::Text], Int64Encoding::Number, TextErrors::Fail, LIMITS);
        let refused = write(&mut fails, &[cell]);
        assert!(
            matches!(&refused, Err(RowError::InvalidUtf8 { row: 0, column: 0, label }) if label == "c"),
            "{refused:?}"
        );
        for (text_errors, rows, marks) in [
            (TextErrors::Replace, "prefix [\"a\u{FFFD}\"]", "[]"),
            (TextErrors::Blob, "prefix [\"Yf8=\"]", "[[0,0,\"blob\"]]"),
        ] {
            let mut writer = writer(&[ColumnType::Text], Int64Encoding::Number, text_errors, LIMITS);
            write(&mut writer, &[cell]).unwrap();
            assert_eq!(taken(&mut writer), (rows.to_owned(), marks.to_owned()));
        }
    }

    #[test]
    fn the_marks_of_a_row_go_with_it_and_count_as_its_bytes() {
        let types = [ColumnType::Text; 2];
        let mut writer = writer(&types, Int64Encoding::Number, TextErrors::Fail, LIMITS);
        write(&mut writer, &[Cell::Integer(1), Cell::Null]).unwrap();
        assert!(write(&mut writer, &[Cell::Integer(1)]).is_err());
        assert!(write(&mut writer, &[Cell::Integer(1), Cell::Text(b"\xFF")]).is_err());
        write(&mut writer, &[Cell::Null, Cell::Real(0.5)]).unwrap();
        let expected = ("prefix [1,null],[null,0.5]", "[[0,0,\"int64\"],[1,1,\"float64\"]]");
        let (rows, marks) = taken(&mut writer);
        assert_eq!((rows.as_str(), marks.as_str()), expected);
        // "[1]" and a mark of 13 bytes; the next row adds 4 and 14.
        for (bytes_max, n_rows) in [(16, 1), (17, 2), (34, 2), (35, 3)] {
            let limits = BatchLimits { bytes_max, ..LIMITS };
            let mut writer = self::writer(&types[..1], Int64Encoding::Number, TextErrors::Fail, limits);
            while !writer.is_full() {
                write(&mut writer, &[Cell::Integer(1)]).unwrap();
            }
            assert_eq!(writer.rows(), n_rows, "{bytes_max}");
        }
        let limits = BatchLimits {
            row_bytes_max: 15,
            ..LIMITS
        };
        let mut writer = self::writer(&types[..1], Int64Encoding::Number, TextErrors::Fail, limits);
        assert!(matches!(
            write(&mut writer, &[Cell::Integer(1)]),
            Err(RowError::TooLarge { .. })
        ));
        writer.begin_batch(b"prefix ".to_vec(), LIMITS, 0);
        write(&mut writer, &[Cell::Text(b"x")]).unwrap();
        assert_eq!(taken(&mut writer), ("prefix [\"x\"]".to_owned(), "[]".to_owned()));
    }
}
