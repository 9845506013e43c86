//! What decides the types of columns: the rows, and nothing else.

#![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

use arrow_schema::DataType;
use proptest::prelude::{Just, ProptestConfig, prop_assert_eq, prop_oneof, proptest};
use proptest::strategy::Strategy as _;

use super::sample::{SAMPLE_BYTES, SAMPLE_ROWS};
use super::tests::{ALL_TYPES, LIMITS, Sheet, any, column_of, due_sheet};
use super::*;
use crate::rows::{BatchLimits, Column, ColumnType, RowError, Value};

const DECLARED: [ColumnType; 4] = [
    ColumnType::Any,
    ColumnType::Int64,
    ColumnType::Float64,
    ColumnType::Boolean,
];

/// What a client gets of rows: the type of the first column and its cells, and how it ends.
type Seen = (Option<DataType>, Vec<Value>, Result<(), RowError>);

/// A result of one column, its batches closed after so many rows.
fn seen(ty: ColumnType, rows: &[Value], batch_rows: u32) -> Seen {
    let limits = BatchLimits {
        rows_max: batch_rows,
        ..LIMITS
    };
    let mut sheet = Sheet::with_limits(vec![Column::new("c", ty)], limits);
    let mut end = Ok(());
    for row in rows {
        while sheet.writer.is_full() {
            sheet.turn(limits).unwrap();
        }
        end = sheet.row(std::slice::from_ref(row));
        if end.is_err() {
            break;
        }
    }
    sheet.writer.close_sample();
    while sheet.turn(limits).unwrap() > 0 {}
    if sheet.stream.is_empty() {
        return (None, Vec::new(), end);
    }
    let batches = sheet.read();
    assert!(batches.iter().all(|batch| batch.num_rows() <= batch_rows as usize));
    let ty = batches[0].schema().field(0).data_type().clone();
    (Some(ty), column_of(&batches, 0), end)
}

/// The same whatever the batches; gives the type and how it ends.
#[track_caller]
fn check(ty: ColumnType, rows: &[Value], data_type: &DataType, kept: usize) -> Result<(), RowError> {
    let (expected_ty, expected, end) = seen(ty, rows, 1_000);
    assert_eq!(expected_ty.as_ref(), Some(data_type));
    assert_eq!(expected.len(), kept);
    for batch_rows in [1, 7, 100, 300] {
        let again = seen(ty, rows, batch_rows);
        assert_eq!(
            again,
            (expected_ty.clone(), expected.clone(), end.clone()),
            "batches of {batch_rows}"
        );
    }
    end
}

fn numbers(n: i64) -> Vec<Value> {
    (0..n).map(Value::from).collect()
}

#[track_caller]
fn assert_mistyped(end: Result<(), RowError>, row: u64, column_type: &str, found: &str) {
    match end {
        Err(RowError::Mistyped {
            row: at,
            column: 0,
            label,
            column_type: told,
            found: what,
        }) => assert_eq!((at, label.as_str(), told, what), (row, "c", column_type, found)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn integers_before_a_real_are_reals_wherever_batches_end() {
    let rows = [numbers(100), vec![1.5.into(), Value::Null, 2.into()]].concat();
    check(ColumnType::Any, &rows, &DataType::Float64, 103).unwrap();
    check(ColumnType::Any, &numbers(103), &DataType::Int64, 103).unwrap();
    let rows = [numbers(2_000), vec![1.5.into()]].concat();
    check(ColumnType::Any, &rows, &DataType::Float64, 2_001).unwrap();
}

#[test]
fn null_decides_nothing() {
    let nulls = vec![Value::Null; 500];
    for (value, data_type) in [
        (7.into(), DataType::Int64),
        (0.5.into(), DataType::Float64),
        ("text".into(), DataType::Utf8),
        (vec![1].into(), DataType::Binary),
        (true.into(), DataType::Boolean),
    ] {
        let rows = [nulls.clone(), vec![value]].concat();
        check(ColumnType::Any, &rows, &data_type, 501).unwrap();
    }
    check(ColumnType::Any, &nulls, &DataType::Utf8, 500).unwrap();
    check(ColumnType::Int64, &nulls, &DataType::Int64, 500).unwrap();
    // Unix time in a column that is declared to hold dates, behind NULLs.
    let rows = [nulls, numbers(3)].concat();
    check(ColumnType::Timestamp, &rows, &DataType::Int64, 503).unwrap();
}

#[test]
fn a_value_that_does_not_fit_is_refused_with_its_row_and_the_rows_before_it_stand() {
    let beyond = (1_i64 << 53) + 1;
    let end = check(
        ColumnType::Any,
        &[1.into(), Value::Null, "a".into()],
        &DataType::Int64,
        2,
    );
    assert_mistyped(end, 2, "Int64", "text");
    let end = check(ColumnType::Any, &["a".into(), vec![1].into()], &DataType::Utf8, 1);
    assert_mistyped(end, 1, "Utf8", "a blob");
    let end = check(ColumnType::Any, &[beyond.into(), 0.5.into()], &DataType::Int64, 1);
    assert_mistyped(end, 1, "Int64", "a real after an integer beyond 2^53");
    let end = check(ColumnType::Any, &[0.5.into(), beyond.into()], &DataType::Float64, 1);
    assert_mistyped(end, 1, "Float64", "an integer beyond 2^53");
    // What is declared and fits the first value stays.
    let end = check(ColumnType::Int64, &[1.into(), 0.5.into()], &DataType::Int64, 1);
    assert_mistyped(end, 1, "Int64", "a real");
    let end = check(ColumnType::Boolean, &[true.into(), 2.into()], &DataType::Boolean, 1);
    assert_mistyped(end, 1, "Boolean", "an integer other than 0 and 1");
}

#[test]
fn no_row_behind_the_first_ten_thousand_decides() {
    let n = SAMPLE_ROWS as i64;
    let last = [numbers(n - 1), vec![0.5.into(), 7.into()]].concat();
    check(ColumnType::Any, &last, &DataType::Float64, SAMPLE_ROWS + 1).unwrap();
    let behind = [numbers(n), vec![0.5.into()]].concat();
    let end = check(ColumnType::Any, &behind, &DataType::Int64, SAMPLE_ROWS);
    assert_mistyped(end, SAMPLE_ROWS as u64, "Int64", "a real");
    let nulls = [vec![Value::Null; SAMPLE_ROWS], vec![7.into()]].concat();
    let end = check(ColumnType::Any, &nulls, &DataType::Utf8, SAMPLE_ROWS);
    assert_mistyped(end, SAMPLE_ROWS as u64, "Utf8", "an integer");
}

#[test]
fn no_row_behind_the_first_bytes_decides() {
    let columns = || vec![Column::new("n", ColumnType::Any), Column::new("t", ColumnType::Text)];
    // Of each row two tags and words, and the text.
    let row_bytes = SAMPLE_BYTES / 16;
    let row = |n: Value| [n, "x".repeat(row_bytes as usize - 18).into()];
    for (real_at, data_type) in [(15, DataType::Float64), (16, DataType::Int64)] {
        for batch_rows in [1, 5, 100] {
            let limits = BatchLimits {
                rows_max: batch_rows,
                ..LIMITS
            };
            let mut sheet = Sheet::with_limits(columns(), limits);
            let mut end = Ok(());
            for n in 0..=real_at {
                while sheet.writer.is_full() {
                    sheet.turn(limits).unwrap();
                }
                end = sheet.row(&row(if n < real_at { n.into() } else { 0.5.into() }));
            }
            assert_eq!(end.is_ok(), data_type == DataType::Float64, "{end:?}");
            sheet.writer.close_sample();
            while sheet.turn(limits).unwrap() > 0 {}
            assert_eq!(*sheet.read()[0].schema().field(0).data_type(), data_type);
        }
    }
}

#[test]
fn nothing_is_held_back_once_every_column_is_decided() {
    let mut sheet = Sheet::new(vec![
        Column::new("a", ColumnType::Int64),
        Column::new("b", ColumnType::Any),
        Column::new("c", ColumnType::Text),
    ]);
    sheet.row(&[1.into(), Value::Null, Value::Null]).unwrap();
    assert_eq!(sheet.turn(LIMITS), Ok(0));
    sheet.row(&[1.into(), 0.5.into(), Value::Null]).unwrap();
    assert_eq!(sheet.turn(LIMITS), Ok(0));
    sheet.row(&[1.into(), 1.into(), "c".into()]).unwrap();
    assert_eq!(sheet.turn(LIMITS), Ok(3));
    sheet.row(&[Value::Null, Value::Null, Value::Null]).unwrap();
    assert_eq!(sheet.turn(LIMITS), Ok(1));
    assert_eq!(
        column_of(&sheet.read(), 1),
        [Value::Null, 0.5.into(), 1.0.into(), Value::Null]
    );
}

#[test]
fn a_due_batch_that_is_held_back_ends_the_engines_turn() {
    let (mut sheet, until, rx) = due_sheet();
    sheet.row(&[1.into()]).unwrap();
    sheet.writer.tick(until);
    assert!(sheet.writer.is_full(), "the engine comes back");
    assert!(rx.try_recv().is_err(), "and nothing has left");
    assert_eq!(sheet.turn(LIMITS), Ok(0));
    assert!(!sheet.writer.is_full());
    sheet.row(&[2.into()]).unwrap();
    assert_eq!(sheet.close(), Ok(2));
    assert_eq!(column_of(&sheet.read(), 0), [1.into(), 2.into()]);
}

#[test]
fn rows_are_counted_from_the_first_one_held_back() {
    let mut sheet = Sheet::new(any(1));
    for _ in 0..3 {
        sheet.row(&[1.into()]).unwrap();
        sheet.turn(LIMITS).unwrap();
    }
    assert_eq!(sheet.writer.rows_sampled(), 3);
    sheet.row(&[1.into()]).unwrap();
    assert_mistyped_row(sheet.row(&["a".into()]), 4);
    sheet.close().unwrap();
    assert_eq!(sheet.writer.rows_sampled(), 0);
    assert_mistyped_row(sheet.row(&["a".into()]), 4);
}

#[track_caller]
fn assert_mistyped_row(refused: Result<(), RowError>, expected: u64) {
    match refused {
        Err(RowError::Mistyped { row, .. }) => assert_eq!(row, expected),
        other => panic!("{other:?}"),
    }
}

fn mixed(column: Column, rules: CellRules) -> Sheet {
    Sheet::with(vec![column], ArrowMixed::Text, rules, LIMITS)
}

#[test]
fn as_text_every_cell_fits_every_column_and_nothing_is_held_back() {
    let cells: [Value; 9] = [
        Value::Null,
        "text".into(),
        i64::MIN.into(),
        0.1.into(),
        1e300.into(),
        f64::NAN.into(),
        f64::NEG_INFINITY.into(),
        true.into(),
        vec![0, 255].into(),
    ];
    let texts = [
        "text",
        "-9223372036854775808",
        "0.1",
        "1e+300",
        "NaN",
        "-Infinity",
        "true",
        "AP8=",
    ];
    for ty in ALL_TYPES {
        let mut sheet = mixed(Column::new("c", ty), CellRules::default());
        for cell in &cells {
            sheet.row(std::slice::from_ref(cell)).unwrap();
            assert_eq!(sheet.turn(LIMITS), Ok(1));
        }
        let batches = sheet.read();
        let read = column_of(&batches, 0);
        let field = batches[0].schema().field(0).clone();
        assert_eq!(field.metadata()["rowstream:type"], ty.wire_name());
        let expected = texts.iter().map(|text| match (ty == ColumnType::Blob, *text) {
            (false, text) => Value::from(text),
            // Blobs stay what they are.
            (true, "AP8=") => vec![0, 255].into(),
            (true, text) => text.as_bytes().to_vec().into(),
        });
        assert_eq!(
            read,
            std::iter::once(Value::Null).chain(expected).collect::<Vec<_>>(),
            "{ty:?}"
        );
    }
    let mut sheet = mixed(Column::new("c", ColumnType::Int64), CellRules::default());
    sheet.writer.begin_row();
    sheet.writer.text(b"\xFF");
    assert!(matches!(sheet.writer.end_row(), Err(RowError::InvalidUtf8 { .. })));
    let mut stream = Vec::new();
    sheet.writer.schema_piece(&mut stream);
    assert!(!stream.is_empty(), "a result without rows has types");
}

/// One column of these cells, in one batch, with its marks.
#[track_caller]
fn check_marks(ty: ColumnType, mode: ArrowMixed, written: &[Value], expected: &str) {
    let rules = CellRules {
        cell_types: true,
        ..CellRules::default()
    };
    let mut sheet = Sheet::with(vec![Column::new("c", ty)], mode, rules, LIMITS);
    for cell in written {
        sheet.row(std::slice::from_ref(cell)).unwrap();
    }
    sheet.writer.close_sample();
    let batch = sheet.writer.take_batch().unwrap();
    assert_eq!(batch.rows as usize, written.len());
    assert_eq!(String::from_utf8(batch.marks.unwrap()).unwrap(), expected);
}

#[test]
fn cells_that_are_not_what_their_field_says_are_marked() {
    let numbers = [Value::Null, 1.into(), 0.5.into()];
    check_marks(ColumnType::Any, ArrowMixed::Fail, &numbers, r#"[[1,0,"int64"]]"#);
    check_marks(ColumnType::Int64, ArrowMixed::Fail, &numbers[..2], "[]");
    check_marks(
        ColumnType::Timestamp,
        ArrowMixed::Fail,
        &["2024-02-29 10:00".into()],
        "[]",
    );
    let all = [
        "a".into(),
        1.into(),
        0.5.into(),
        true.into(),
        vec![1].into(),
        Value::Null,
    ];
    let marks = r#"[[1,0,"int64"],[2,0,"float64"],[3,0,"boolean"],[4,0,"blob"]]"#;
    check_marks(ColumnType::Any, ArrowMixed::Text, &all, marks);
    let marks = r#"[[0,0,"text"],[1,0,"int64"],[2,0,"float64"],[3,0,"boolean"]]"#;
    check_marks(ColumnType::Blob, ArrowMixed::Text, &all, marks);
}

#[test]
fn text_that_is_not_utf8_is_replaced_or_a_blob_before_it_has_a_type() {
    for (text_errors, first, data_type, read) in [
        (TextErrors::Replace, true, DataType::Utf8, Value::from("a\u{FFFD}")),
        (TextErrors::Replace, false, DataType::Utf8, Value::from("a\u{FFFD}")),
        (TextErrors::Blob, true, DataType::Binary, vec![b'a', 0xFF].into()),
    ] {
        let rules = CellRules {
            text_errors,
            cell_types: false,
        };
        let mut sheet = Sheet::with(any(1), ArrowMixed::Fail, rules, LIMITS);
        if !first {
            sheet.row(&["b".into()]).unwrap();
            sheet.close().unwrap();
        }
        sheet.writer.begin_row();
        sheet.writer.text(b"a\xFF");
        sheet.writer.end_row().unwrap();
        sheet.close().unwrap();
        let batches = sheet.read();
        assert_eq!(*batches[0].schema().field(0).data_type(), data_type);
        assert_eq!(column_of(&batches, 0).last(), Some(&read));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(100) })]

    #[test]
    fn batches_make_no_difference(
        ty in proptest::sample::select(&DECLARED[..]),
        rows in proptest::collection::vec(prop_oneof![
            3 => Just(Value::Null),
            5 => (-3..3_i64).prop_map(Value::from),
            2 => Just(Value::from(0.5)),
            1 => Just(Value::from((1_i64 << 53) + 1)),
            1 => Just(Value::from(true)),
            1 => Just(Value::from("text")),
        ], 1..60),
        batch_rows in 1..20_u32,
    ) {
        prop_assert_eq!(seen(ty, &rows, batch_rows), seen(ty, &rows, 1_000));
    }
}
