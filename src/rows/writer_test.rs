//! Where batches close, what a row costs them, and what is refused.
#![cfg(test)]
#![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

use std::time::{Duration, Instant};

use super::json::SAFE_INTEGER_MAX;
use super::{
    BatchLimits, Column, ColumnType, FlushSink, Int64Encoding, RowError, RowFormat, RowShape, RowWriter, Schema,
};
use crate::clock;

const LIMITS: BatchLimits = BatchLimits {
    rows_max: 100,
    bytes_max: 1_000,
    row_bytes_max: 100,
    bytes_left: None,
    until: None,
};

fn writer(names: &[&str], row_format: RowFormat, int64: Int64Encoding, limits: BatchLimits) -> RowWriter {
    let columns = names.iter().map(|name| Column::new(*name, ColumnType::Any)).collect();
    let mut writer = RowWriter::new(RowShape::json(&Schema::new(columns), row_format, int64));
    assert!(writer.is_full(), "nothing fits before a batch is begun");
    writer.begin_batch(b"prefix ".to_vec(), limits, 10);
    writer
}

fn arrays(n_columns: usize, limits: BatchLimits) -> RowWriter {
    writer(&vec!["c"; n_columns], RowFormat::Array, Int64Encoding::Number, limits)
}

fn text_of(writer: &mut RowWriter) -> String {
    String::from_utf8(writer.take_batch().unwrap().buffer).unwrap()
}

#[test]
fn rows_are_arrays_or_objects() {
    for (row_format, expected) in [
        (RowFormat::Array, r#"prefix [1,null],["a\"b",true]"#),
        (
            RowFormat::Object,
            r#"prefix {"x\"":1,"x\"_2":null},{"x\"":"a\"b","x\"_2":true}"#,
        ),
    ] {
        let mut writer = writer(&["x\"", "x\""], row_format, Int64Encoding::Number, LIMITS);
        writer.begin_row();
        writer.integer(1);
        writer.null();
        writer.end_row().unwrap();
        writer.begin_row();
        writer.text(b"a\"b");
        writer.boolean(true);
        writer.end_row().unwrap();
        assert_eq!(writer.rows(), 2);
        assert_eq!(text_of(&mut writer), expected.replace("\\\\", "\\"));
    }
}

#[test]
fn a_row_without_columns_is_a_row() {
    for (row_format, expected) in [(RowFormat::Array, "prefix [],[]"), (RowFormat::Object, "prefix {},{}")] {
        let mut writer = writer(&[], row_format, Int64Encoding::Number, LIMITS);
        for _ in 0..2 {
            writer.begin_row();
            writer.end_row().unwrap();
        }
        assert_eq!(text_of(&mut writer), expected);
    }
}

#[test]
fn integers_take_the_form_asked_for() {
    let (inside, outside) = (SAFE_INTEGER_MAX, -SAFE_INTEGER_MAX - 1);
    for (int64, expected) in [
        (Int64Encoding::Number, format!("prefix [{inside},{outside}]")),
        (Int64Encoding::String, format!("prefix [\"{inside}\",\"{outside}\"]")),
        (Int64Encoding::Safe, format!("prefix [{inside},\"{outside}\"]")),
    ] {
        let mut writer = writer(&["a", "b"], RowFormat::Array, int64, LIMITS);
        writer.begin_row();
        writer.integer(inside);
        writer.integer(outside);
        writer.end_row().unwrap();
        assert_eq!(text_of(&mut writer), expected);
    }
}

#[test]
fn what_json_has_no_number_for_is_a_string() {
    let mut writer = arrays(4, LIMITS);
    writer.begin_row();
    writer.real(f64::NAN);
    writer.real(f64::INFINITY);
    writer.real(f64::NEG_INFINITY);
    writer.blob(&[0xFB, 0xFF, 0xFE, 0]);
    writer.end_row().unwrap();
    assert_eq!(
        text_of(&mut writer),
        r#"prefix ["NaN","Infinity","-Infinity","+//+AA=="]"#
    );
}

#[test]
fn a_bad_row_is_taken_back_and_named() {
    let mut writer = arrays(2, LIMITS);
    let mut row = |first: &[u8], cells: usize| {
        writer.begin_row();
        writer.text(first);
        (1..cells).for_each(|_| writer.null());
        writer.end_row()
    };
    row(b"fine", 2).unwrap();
    assert_eq!(
        row(b"\xFF", 2),
        Err(RowError::InvalidUtf8 {
            row: 11,
            column: 0,
            label: "c".to_owned()
        })
    );
    assert_eq!(
        row(b"fine", 1),
        Err(RowError::CellCount {
            row: 11,
            cells: 1,
            columns: 2
        })
    );
    assert_eq!(
        row(b"fine", 3),
        Err(RowError::CellCount {
            row: 11,
            cells: 3,
            columns: 2
        })
    );
    assert_eq!(
        row(&[b'x'; 95], 2),
        Err(RowError::TooLarge {
            row: 11,
            bytes_max: 100
        })
    );
    assert_eq!(
        row(&[b'x'; 101], 2),
        Err(RowError::TooLarge {
            row: 11,
            bytes_max: 100
        })
    );
    assert_eq!(text_of(&mut writer), r#"prefix ["fine",null]"#);
}

#[test]
fn a_batch_is_full_at_its_rows_and_at_its_bytes() {
    let rows_until_full = |limits| {
        let mut writer = arrays(1, limits);
        while !writer.is_full() {
            writer.begin_row();
            writer.integer(7);
            writer.end_row().unwrap();
        }
        writer.rows()
    };
    assert_eq!(rows_until_full(BatchLimits { rows_max: 3, ..LIMITS }), 3);
    // "[7]" and then ",[7]": 3, 7, 11 bytes.
    assert_eq!(rows_until_full(BatchLimits { bytes_max: 7, ..LIMITS }), 2);
    assert_eq!(rows_until_full(BatchLimits { bytes_max: 8, ..LIMITS }), 3);
    assert_eq!(rows_until_full(BatchLimits { bytes_max: 0, ..LIMITS }), 1);
}

#[test]
fn the_row_that_passes_the_querys_bytes_is_left_out() {
    for (bytes_left, rows) in [(10, 2), (11, 3), (2, 0)] {
        let mut writer = arrays(
            1,
            BatchLimits {
                bytes_left: Some(bytes_left),
                ..LIMITS
            },
        );
        while !writer.is_full() {
            writer.begin_row();
            writer.integer(7);
            writer.end_row().unwrap();
        }
        assert!(writer.is_exhausted());
        assert_eq!(writer.rows(), rows);
    }
}

#[test]
fn a_batch_taken_inside_a_row_ends_before_it() {
    let mut writer = arrays(1, LIMITS);
    writer.begin_row();
    writer.integer(7);
    writer.end_row().unwrap();
    writer.begin_row();
    writer.text(b"\xFF");
    assert_eq!(text_of(&mut writer), "prefix [7]");
    writer.begin_batch(Vec::new(), LIMITS, 11);
    writer.begin_row();
    writer.null();
    writer.end_row().unwrap();
    assert_eq!(text_of(&mut writer), "[null]");
}

struct TakesAll(crossbeam_channel::Sender<u32>);

impl FlushSink for TakesAll {
    fn flush(&mut self, writer: &mut RowWriter, _now: Instant) {
        let batch = writer.take_batch().unwrap();
        self.0.try_send(batch.rows).unwrap();
        writer.begin_batch(batch.buffer, LIMITS, 0);
    }
}

#[test]
fn a_due_batch_leaves_if_it_has_rows() {
    let (tx, rx) = crossbeam_channel::bounded(4);
    let until = clock::now();
    for with_sink in [true, false] {
        let mut writer = arrays(
            0,
            BatchLimits {
                until: Some(until),
                ..LIMITS
            },
        );
        if with_sink {
            writer.set_sink(Some(Box::new(TakesAll(tx.clone()))));
        }
        writer.tick(until);
        assert!(!writer.is_full(), "an empty batch is never due");
        writer.begin_row();
        writer.end_row().unwrap();
        writer.tick(until - Duration::from_nanos(1));
        assert_eq!(writer.rows(), 1, "not yet");
        writer.tick(until);
        assert_eq!(writer.is_full(), !with_sink);
    }
    assert_eq!(rx.try_iter().collect::<Vec<_>>(), [1]);
}

#[test]
fn messages_count_from_1_and_name_the_label() {
    let label = || "total price".to_owned();
    let (row, column) = (41, 2);
    for (error, begins, names) in [
        (
            RowError::InvalidUtf8 {
                row,
                column,
                label: label(),
            },
            "the text in row 42, column 3 (\"total price\") is not valid UTF-8",
            "text_errors",
        ),
        (
            RowError::Mistyped {
                row,
                column,
                label: label(),
                column_type: "Int64",
                found: "a real",
            },
            "the cell in row 42, column 3 (\"total price\") is a real and does not fit the column's Arrow type Int64",
            "arrow_mixed",
        ),
        (
            RowError::TooLarge { row, bytes_max: 7 },
            "row 42 is larger than 7 bytes",
            "row_bytes_max",
        ),
        (
            RowError::CellCount {
                row,
                cells: 1,
                columns: 2,
            },
            "the engine wrote 1 cells in row 42",
            "2 columns",
        ),
    ] {
        let said = error.to_string();
        assert!(said.starts_with(begins) && said.contains(names), "{said}");
    }
}
