//! What goes in as rows comes out of Arrow's own reader as the same cells.

#![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

use std::io::Cursor;
use std::time::Instant;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Decimal128Type, Float64Type, Int64Type, Time64MicrosecondType, TimestampMicrosecondType,
};
use arrow_array::{Array, RecordBatch};
use arrow_ipc::reader::StreamReader;
use arrow_schema::{DataType, TimeUnit};
use proptest::prelude::*;

use super::*;
use crate::clock;
use crate::rows::{BatchLimits, Column, ColumnType, FlushSink, RowError, RowShape, RowWriter, Value};

pub(super) const LIMITS: BatchLimits = BatchLimits {
    rows_max: 1_000,
    bytes_max: 1 << 20,
    row_bytes_max: 1 << 16,
    bytes_left: None,
    until: None,
};

const MICROS: TimeUnit = TimeUnit::Microsecond;

/// A writer of Arrow, and the stream that its batches make.
pub(super) struct Sheet {
    pub(super) writer: RowWriter,
    pub(super) stream: Vec<u8>,
    rows: u64,
}

impl Sheet {
    pub(super) fn new(columns: Vec<Column>) -> Self {
        Self::with_limits(columns, LIMITS)
    }

    pub(super) fn with_limits(columns: Vec<Column>, limits: BatchLimits) -> Self {
        Self::with(columns, ArrowMixed::Fail, CellRules::default(), limits)
    }

    pub(super) fn with(columns: Vec<Column>, mixed: ArrowMixed, rules: CellRules, limits: BatchLimits) -> Self {
        let mut writer = RowWriter::new(RowShape::arrow(&Schema::new(columns), mixed, rules));
        assert!(writer.is_full(), "nothing fits before a batch is begun");
        writer.begin_batch(Vec::new(), limits, 0);
        Self {
            writer,
            stream: Vec::new(),
            rows: 0,
        }
    }

    pub(super) fn row(&mut self, cells: &[Value]) -> Result<(), RowError> {
        self.writer.begin_row();
        for cell in cells {
            match cell {
                Value::Null => self.writer.null(),
                Value::Boolean(value) => self.writer.boolean(*value),
                Value::Integer(value) => self.writer.integer(*value),
                Value::Real(value) => self.writer.real(*value),
                Value::Text(text) => self.writer.text(text.as_bytes()),
                Value::Blob(bytes) => self.writer.blob(bytes),
            }
        }
        self.writer.end_row()
    }

    /// Closes the batch behind a prefix, as an envelope would be, and begins the next. What is undecided is decided with the rows that
    /// there are.
    pub(super) fn close(&mut self) -> Result<u32, RowError> {
        self.close_and_begin(LIMITS)
    }

    fn close_and_begin(&mut self, limits: BatchLimits) -> Result<u32, RowError> {
        self.writer.close_sample();
        self.turn(limits)
    }

    /// The same with more rows to come: nothing is decided that they could decide.
    pub(super) fn turn(&mut self, limits: BatchLimits) -> Result<u32, RowError> {
        let taken = self.writer.take_batch();
        if let Ok(batch) = &taken {
            let piece = &batch.buffer[batch.buffer.len() - batch.row_bytes..];
            assert_eq!(piece.len() % 8, 0);
            assert_eq!(piece.is_empty(), batch.rows == 0);
            self.stream.extend_from_slice(piece);
            self.rows += u64::from(batch.rows);
        }
        self.writer.begin_batch(b"envelope".to_vec(), limits, self.rows);
        self.writer.write_held_rows()?;
        taken.map(|batch| batch.rows)
    }

    #[track_caller]
    pub(super) fn read(&self) -> Vec<RecordBatch> {
        read(&self.stream)
    }
}

#[track_caller]
fn read(stream: &[u8]) -> Vec<RecordBatch> {
    StreamReader::try_new(Cursor::new(stream), None)
        .unwrap()
        .map(|batch| {
            let batch = batch.unwrap();
            for column in batch.columns() {
                column.to_data().validate_full().unwrap();
            }
            batch
        })
        .collect()
}

/// The cells of a column as they were written; dates and times as their numbers.
#[allow(clippy::wildcard_enum_match_arm)] // Arrow has many more types than are written
fn cells(column: &dyn Array) -> Vec<Value> {
    let value = |at| match column.data_type() {
        DataType::Int64 => column.as_primitive::<Int64Type>().value(at).into(),
        DataType::Float64 => column.as_primitive::<Float64Type>().value(at).into(),
        DataType::Boolean => column.as_boolean().value(at).into(),
        DataType::Utf8 => column.as_string::<i32>().value(at).into(),
        DataType::Binary => column.as_binary::<i32>().value(at).to_vec().into(),
        DataType::Date32 => column.as_primitive::<Date32Type>().value(at).into(),
        DataType::Time64(_) => column.as_primitive::<Time64MicrosecondType>().value(at).into(),
        DataType::Timestamp(..) => column.as_primitive::<TimestampMicrosecondType>().value(at).into(),
        DataType::Decimal128(..) => column.as_primitive::<Decimal128Type>().value_as_string(at).into(),
        other => panic!("{other} is written nowhere"),
    };
    (0..column.len())
        .map(|at| if column.is_null(at) { Value::Null } else { value(at) })
        .collect()
}

pub(super) fn column_of(batches: &[RecordBatch], idx: usize) -> Vec<Value> {
    batches
        .iter()
        .flat_map(|batch| cells(batch.column(idx).as_ref()))
        .collect()
}

pub(super) fn any(n: usize) -> Vec<Column> {
    (0..n).map(|_| Column::new("c", ColumnType::Any)).collect()
}

fn text(text: &str) -> Value {
    text.into()
}

/// A first batch with one column of these cells: its type and what is read back.
fn first_batch(column: Column, written: &[Value]) -> Result<(DataType, Vec<Value>), RowError> {
    let mut sheet = Sheet::new(vec![column]);
    for cell in written {
        sheet.row(std::slice::from_ref(cell))?;
    }
    sheet.close()?;
    let batches = sheet.read();
    Ok((batches[0].schema().field(0).data_type().clone(), column_of(&batches, 0)))
}

#[track_caller]
fn check(column: &Column, written: &[Value], data_type: &DataType, read: &[Value]) {
    let (ty, cells) = first_batch(column.clone(), written).unwrap();
    assert_eq!((&ty, cells.as_slice()), (data_type, read));
    // NULL in front, between and behind changes nothing else.
    let with_nulls = |cells: &[Value]| {
        let pairs = cells.iter().flat_map(|cell| [Value::Null, cell.clone()]);
        pairs.chain([Value::Null]).collect::<Vec<_>>()
    };
    let (ty, cells) = first_batch(column.clone(), &with_nulls(written)).unwrap();
    assert_eq!((&ty, cells), (data_type, with_nulls(read)));
}

#[test]
fn each_declared_type_has_its_arrow_type() {
    let declared = |ty| Column::new("c", ty);
    let utc = DataType::Timestamp(MICROS, Some("UTC".into()));
    for (column, written, data_type, read) in [
        (
            declared(ColumnType::Int64),
            vec![i64::MIN.into(), i64::MAX.into()],
            DataType::Int64,
            None,
        ),
        (
            declared(ColumnType::Float64),
            vec![0.5.into(), (-1e300).into()],
            DataType::Float64,
            None,
        ),
        (
            declared(ColumnType::Float64),
            vec![0.5.into(), (1_i64 << 53).into(), (-1_i64 << 53).into()],
            DataType::Float64,
            Some(vec![
                0.5.into(),
                9_007_199_254_740_992.0.into(),
                (-9_007_199_254_740_992.0).into(),
            ]),
        ),
        (
            declared(ColumnType::Boolean),
            vec![true.into(), 0.into(), 1.into(), false.into()],
            DataType::Boolean,
            Some(vec![true.into(), false.into(), true.into(), false.into()]),
        ),
        (
            declared(ColumnType::Text),
            vec![text(""), text("é\0\u{10FFFF}")],
            DataType::Utf8,
            None,
        ),
        (declared(ColumnType::Json), vec![text("{}")], DataType::Utf8, None),
        (declared(ColumnType::Uuid), vec![text("0-1")], DataType::Utf8, None),
        (
            declared(ColumnType::Blob),
            vec![vec![].into(), vec![0, 255].into()],
            DataType::Binary,
            None,
        ),
        (
            declared(ColumnType::Date),
            vec![
                text("1969-12-31"),
                text("0001-01-01"),
                text("9999-12-31"),
                text("2024-02-29"),
            ],
            DataType::Date32,
            Some(vec![(-1).into(), (-719_162).into(), 2_932_896.into(), 19_782.into()]),
        ),
        (
            declared(ColumnType::Time),
            vec![text("00:00"), text("23:59:59.999999")],
            DataType::Time64(MICROS),
            Some(vec![0.into(), 86_399_999_999_i64.into()]),
        ),
        (
            declared(ColumnType::Timestamp),
            vec![text("1969-12-31T23:59:59.999999"), text("1970-01-01 00:00")],
            DataType::Timestamp(MICROS, None),
            Some(vec![(-1).into(), 0.into()]),
        ),
        (
            declared(ColumnType::TimestampTz),
            vec![text("1970-01-01T00:00Z"), text("1970-01-01 01:00:00-01:00")],
            utc,
            Some(vec![0.into(), 7_200_000_000_i64.into()]),
        ),
        (
            declared(ColumnType::Decimal).with_db_type("DECIMAL(5,2)"),
            vec![text("1.5"), text("-999.99")],
            DataType::Decimal128(5, 2),
            Some(vec![text("1.50"), text("-999.99")]),
        ),
        (
            declared(ColumnType::Decimal),
            vec![text("1.500"), text("-0")],
            DataType::Utf8,
            None,
        ),
    ] {
        check(&column, &written, &data_type, read.as_ref().unwrap_or(&written));
    }
}

#[test]
fn a_first_value_that_does_not_fit_what_is_declared_decides_by_itself() {
    for (ty, written, data_type) in [
        (ColumnType::Int64, vec![0.5.into()], DataType::Float64),
        (ColumnType::Int64, vec![text("1")], DataType::Utf8),
        (ColumnType::Float64, vec![((1_i64 << 53) + 1).into()], DataType::Int64),
        (ColumnType::Boolean, vec![2.into(), 1.into()], DataType::Int64),
        (ColumnType::Text, vec![vec![1].into()], DataType::Binary),
        (
            ColumnType::Date,
            vec![text("2023-02-29"), text("2023-02-28")],
            DataType::Utf8,
        ),
        (ColumnType::Date, vec![text("2023-02-28 00:00")], DataType::Utf8),
        (ColumnType::Date, vec![20_000.into()], DataType::Int64),
        (ColumnType::Time, vec![text("24:00")], DataType::Utf8),
        (ColumnType::Timestamp, vec![text("2023-02-28 00:00Z")], DataType::Utf8),
        (
            ColumnType::Timestamp,
            vec![text("2023-02-28 00:00:00.1234567")],
            DataType::Utf8,
        ),
        (ColumnType::TimestampTz, vec![text("2023-02-28 00:00")], DataType::Utf8),
    ] {
        check(&Column::new("c", ty), &written, &data_type, &written);
    }
    let decimal = Column::new("c", ColumnType::Decimal).with_db_type("DECIMAL(5,2)");
    check(&decimal, &[text("1.005")], &DataType::Utf8, &[text("1.005")]);
    check(&decimal, &[1.into()], &DataType::Int64, &[1.into()]);
}

#[test]
fn where_nothing_is_declared_the_first_values_decide() {
    let any = Column::new("c", ColumnType::Any);
    for (written, data_type) in [
        (vec![1.into(), (i64::MAX).into()], DataType::Int64),
        (vec![0.5.into(), f64::INFINITY.into()], DataType::Float64),
        (vec![text("a"), text("2023-01-01")], DataType::Utf8),
        (vec![vec![1, 2].into()], DataType::Binary),
        (vec![true.into(), false.into()], DataType::Boolean),
        (vec![], DataType::Utf8),
    ] {
        if !written.is_empty() {
            check(&any, &written, &data_type, &written);
        }
        let (ty, _) = first_batch(any.clone(), &[written, vec![Value::Null]].concat()).unwrap();
        assert_eq!(ty, data_type);
    }
    check(
        &any,
        &[1.into(), 0.5.into()],
        &DataType::Float64,
        &[1.0.into(), 0.5.into()],
    );
    check(
        &any,
        &[0.5.into(), 1.into()],
        &DataType::Float64,
        &[0.5.into(), 1.0.into()],
    );
}

/// Takes due batches; one that fails is let be.
struct Leaves(crossbeam_channel::Sender<Vec<u8>>);

impl FlushSink for Leaves {
    fn flush(&mut self, writer: &mut RowWriter, _now: Instant) {
        if let Ok(batch) = writer.take_batch() {
            self.0.try_send(batch.buffer).unwrap();
            writer.begin_batch(Vec::new(), LIMITS, 0);
        }
    }
}

/// A writer of one column whose batches are due at a time and leave through the channel.
pub(super) fn due_sheet() -> (Sheet, Instant, crossbeam_channel::Receiver<Vec<u8>>) {
    let (tx, rx) = crossbeam_channel::bounded(4);
    let until = clock::now();
    let limits = BatchLimits {
        until: Some(until),
        ..LIMITS
    };
    let mut sheet = Sheet::with_limits(any(1), limits);
    sheet.writer.set_sink(Some(Box::new(Leaves(tx))));
    (sheet, until, rx)
}

#[test]
fn a_due_batch_leaves_in_the_middle_of_an_engine_call() {
    let (mut sheet, until, rx) = due_sheet();
    sheet.writer.tick(until);
    sheet.row(&[0.5.into()]).unwrap();
    sheet.writer.tick(until);
    assert_eq!(sheet.writer.rows(), 0);
    sheet.row(&[1.5.into()]).unwrap();
    sheet.stream = rx.try_recv().unwrap();
    assert!(rx.try_recv().is_err(), "an empty batch is never due");
    sheet.close().unwrap();
    assert_eq!(column_of(&sheet.read(), 0), [0.5.into(), 1.5.into()]);
}

#[test]
fn a_cell_of_a_later_batch_that_does_not_fit_is_refused_with_row_and_column() {
    let mut sheet = Sheet::new(vec![
        Column::new("a", ColumnType::Int64),
        Column::new("b", ColumnType::Date),
        Column::new("c", ColumnType::Any),
    ]);
    let good = [1.into(), text("2024-02-29"), text("c")];
    sheet.row(&good).unwrap();
    sheet.close().unwrap();
    sheet.row(&good).unwrap();
    let mistyped = |column, column_type, found| {
        Err(RowError::Mistyped {
            row: 2,
            column,
            label: ["a", "b", "c"][column].to_owned(),
            column_type,
            found,
        })
    };
    let [a, b, c] = good.clone();
    assert_eq!(
        sheet.row(&[0.5.into(), b.clone(), c.clone()]),
        mistyped(0, "Int64", "a real")
    );
    assert_eq!(
        sheet.row(&[a.clone(), text("2023-02-29"), c.clone()]),
        mistyped(1, "Date32", "text that is not a date as YYYY-MM-DD")
    );
    assert_eq!(sheet.row(&[a, b, 1.into()]), mistyped(2, "Utf8", "an integer"));
    assert_eq!(sheet.row(&[Value::Null, Value::Null, Value::Null]), Ok(()));
    sheet.row(&good).unwrap();
    assert_eq!(sheet.close(), Ok(3));
    let batches = sheet.read();
    for (idx, cell) in [1.into(), 19_782.into(), c].into_iter().enumerate() {
        let expected = [cell.clone(), cell.clone(), Value::Null, cell];
        assert_eq!(column_of(&batches, idx), expected);
    }
}

#[test]
fn text_that_is_not_utf8_is_refused_as_in_json() {
    let mut sheet = Sheet::new(vec![
        Column::new("a", ColumnType::Text),
        Column::new("b", ColumnType::Date),
        Column::new("c", ColumnType::Int64),
    ]);
    for n_batches in 0..2_u64 {
        for column in 0..3 {
            sheet.writer.begin_row();
            for idx in 0..3 {
                if idx == column {
                    sheet.writer.text(b"\xFF");
                } else {
                    sheet.writer.null();
                }
            }
            let refused = sheet.writer.end_row();
            let (row, label) = (n_batches, ["a", "b", "c"][column].to_owned());
            assert_eq!(refused, Err(RowError::InvalidUtf8 { row, column, label }));
        }
        sheet.row(&[Value::Null, Value::Null, Value::Null]).unwrap();
        assert_eq!(sheet.close(), Ok(1));
    }
    assert_eq!(column_of(&sheet.read(), 0), [Value::Null, Value::Null]);
}

#[test]
fn a_refused_row_leaves_the_batch_as_it_was() {
    let mut sheet = Sheet::new(any(3));
    let good = [text("one"), 1.into(), vec![1].into()];
    for n_batches in 0..3_u64 {
        sheet.row(&good).unwrap();
        let row = 2 * n_batches + 1;
        let (columns, bytes_max) = (3, 1 << 16);
        let too_large = || text(&"x".repeat(1 << 16));
        assert_eq!(
            sheet.row(&good[..2]),
            Err(RowError::CellCount { row, cells: 2, columns })
        );
        assert_eq!(
            sheet.row(&[good.as_slice(), &good].concat()),
            Err(RowError::CellCount { row, cells: 6, columns })
        );
        assert_eq!(
            sheet.row(&[too_large(), 2.into(), vec![2].into()]),
            Err(RowError::TooLarge { row, bytes_max })
        );
        assert_eq!(
            sheet.row(&[Value::Null, 2.into(), vec![2; (1 << 16) + 1].into()]),
            Err(RowError::TooLarge { row, bytes_max })
        );
        sheet.row(&good).unwrap();
        // A cursor that fails inside a row does not end it.
        sheet.writer.begin_row();
        sheet.writer.null();
        assert_eq!(sheet.close(), Ok(2));
    }
    let batches = sheet.read();
    for (idx, cell) in good.into_iter().enumerate() {
        assert_eq!(column_of(&batches, idx), vec![cell; 6]);
    }
}

#[test]
fn a_discarded_batch_decides_and_leaves_nothing() {
    let mut sheet = Sheet::new(any(1));
    for cell in [text("a"), 1.into()] {
        sheet.row(&[cell]).unwrap();
        sheet.writer.discard_batch();
        sheet.writer.begin_batch(Vec::new(), LIMITS, 0);
    }
    sheet.row(&[0.5.into()]).unwrap();
    sheet.close().unwrap();
    sheet.row(&[1.5.into()]).unwrap();
    assert_eq!(sheet.writer.discard_batch(), b"envelope");
    assert!(sheet.writer.is_full());
    sheet.writer.begin_batch(Vec::new(), LIMITS, 1);
    sheet.row(&[2.5.into()]).unwrap();
    sheet.close().unwrap();
    assert_eq!(column_of(&sheet.read(), 0), [0.5.into(), 2.5.into()]);
}

#[test]
fn a_batch_without_rows_adds_nothing_and_decides_nothing() {
    let mut sheet = Sheet::new(any(1));
    assert_eq!(sheet.turn(LIMITS), Ok(0));
    sheet.row(&[1.into()]).unwrap();
    assert_eq!(sheet.close(), Ok(1));
    let len = sheet.stream.len();
    assert_eq!(sheet.close(), Ok(0));
    assert_eq!(sheet.stream.len(), len);
    assert_eq!(column_of(&sheet.read(), 0), [1.into()]);
}

#[test]
fn a_result_without_rows_is_its_schema() {
    let columns = vec![Column::new("a", ColumnType::Int64), Column::new("b", ColumnType::Any)];
    let mut stream = Vec::new();
    Sheet::new(columns).writer.schema_piece(&mut stream);
    let reader = StreamReader::try_new(Cursor::new(stream), None).unwrap();
    let schema = reader.schema();
    let types: Vec<_> = schema.fields().iter().map(|field| field.data_type()).collect();
    assert_eq!(types, [&DataType::Int64, &DataType::Utf8]);
    assert_eq!(reader.count(), 0);
    let mut sheet = Sheet::new(any(1));
    sheet.row(&[1.into()]).unwrap();
    sheet.close().unwrap();
    let mut stream = Vec::new();
    sheet.writer.schema_piece(&mut stream);
    assert!(stream.is_empty(), "the first batch has brought it");
}

#[test]
fn rows_without_columns_are_counted() {
    let mut sheet = Sheet::new(Vec::new());
    for _ in 0..3 {
        sheet.row(&[]).unwrap();
    }
    sheet.close().unwrap();
    assert_eq!(sheet.read()[0].num_rows(), 3);
}

#[test]
fn a_field_says_what_was_declared() {
    let columns = vec![
        Column::new("n", ColumnType::Any),
        Column::new("n", ColumnType::Float64).with_db_type("DECIMAL(15,2)"),
    ];
    let mut sheet = Sheet::new(columns);
    sheet.row(&[1.into(), 0.5.into()]).unwrap();
    sheet.close().unwrap();
    let schema = sheet.read()[0].schema();
    let told = |idx: usize, key: &str| schema.field(idx).metadata().get(key).map(|value| value.to_string());
    assert_eq!(schema.field(0).name(), "n");
    assert_eq!(schema.field(1).name(), "n_2");
    assert!(schema.fields().iter().all(|field| field.is_nullable()));
    assert_eq!(told(0, "rowstream:type").as_deref(), Some("any"));
    assert_eq!(told(0, "rowstream:db_type"), None);
    assert_eq!(told(1, "rowstream:type").as_deref(), Some("float64"));
    assert_eq!(told(1, "rowstream:db_type").as_deref(), Some("DECIMAL(15,2)"));
}

#[test]
fn a_batch_is_full_at_its_rows_and_at_its_bytes() {
    // The first batch counts a tag and a word per cell, later ones 65 bits: 9, 17, 25, 33 bytes for 1, 2, 3, 4 cells.
    for (rows_max, bytes_max, first, later) in [
        (3, 1_000, 3, 3),
        (100, 9, 1, 1),
        (100, 10, 2, 2),
        (100, 17, 2, 2),
        (100, 18, 2, 3),
        (100, 0, 1, 1),
    ] {
        let limits = BatchLimits {
            rows_max,
            bytes_max,
            ..LIMITS
        };
        let mut sheet = Sheet::with_limits(any(1), limits);
        for expected in [first, later, later] {
            while !sheet.writer.is_full() {
                sheet.row(&[7.into()]).unwrap();
            }
            assert_eq!(sheet.close_and_begin(limits), Ok(expected), "{limits:?}");
        }
    }
}

#[test]
fn the_row_that_passes_the_querys_bytes_is_left_out() {
    // Cells that are held back count as what they take in their batch.
    for (bytes_left, rows) in [(8, 0), (9, 1), (16, 1), (17, 2)] {
        let limits = BatchLimits {
            rows_max: 5,
            bytes_left: Some(bytes_left),
            ..LIMITS
        };
        let mut sheet = Sheet::with_limits(any(1), limits);
        while !sheet.writer.is_full() {
            sheet.row(&[7.into()]).unwrap();
        }
        assert!(!sheet.writer.is_exhausted());
        assert_eq!(sheet.close(), Ok(rows));
        assert!(sheet.writer.is_exhausted());
        if rows > 0 {
            assert_eq!(column_of(&sheet.read(), 0), vec![7.into(); rows as usize]);
        }
    }
}

#[test]
fn the_buffers_of_a_batch_serve_the_next() {
    let schema = Schema::new(vec![
        Column::new("a", ColumnType::Int64),
        Column::new("b", ColumnType::Text),
        Column::new("c", ColumnType::Boolean),
    ]);
    let mut encoder = ArrowEncoder::new(&schema, ArrowMixed::Fail, CellRules::default());
    encoder.close_sample(0);
    assert!(encoder.keep_sampled(0));
    let mut capacities = Vec::new();
    for _ in 0..4 {
        for row in 0..1_000 {
            encoder.begin_row(row);
            encoder.write(row, 0, Cell::Integer(1)).unwrap();
            encoder.write(row, 1, Cell::Text(b"some text")).unwrap();
            encoder.write(row, 2, Cell::Null).unwrap();
        }
        assert!(encoder.close_batch(1_000) > 0);
        encoder.take_buffer();
        let Columns::Typed(columns) = &encoder.columns else {
            panic!("the types are decided")
        };
        capacities.push(columns.iter().map(TypedColumn::capacities).collect::<Vec<_>>());
    }
    assert!(capacities.iter().all(|each| *each == capacities[0]), "{capacities:?}");
}

pub(super) const ALL_TYPES: [ColumnType; 13] = [
    ColumnType::Int64,
    ColumnType::Float64,
    ColumnType::Decimal,
    ColumnType::Text,
    ColumnType::Blob,
    ColumnType::Boolean,
    ColumnType::Date,
    ColumnType::Time,
    ColumnType::Timestamp,
    ColumnType::TimestampTz,
    ColumnType::Json,
    ColumnType::Uuid,
    ColumnType::Any,
];

/// A cell of one of the five kinds, or NULL.
fn cell_of(kind: u8) -> BoxedStrategy<Value> {
    let value = match kind {
        0 => any_value::<i64>(),
        1 => any_value::<bool>(),
        2 => proptest::num::f64::ANY
            .prop_filter("NaN is not equal to itself", |value| !value.is_nan())
            .prop_map(Value::from)
            .boxed(),
        3 => ".{0,20}".prop_map(Value::from).boxed(),
        _ => proptest::collection::vec(proptest::num::u8::ANY, 0..20)
            .prop_map(Value::from)
            .boxed(),
    };
    prop_oneof![3 => value, 1 => Just(Value::Null)].boxed()
}

fn any_value<T: Arbitrary + Into<Value> + 'static>() -> BoxedStrategy<Value> {
    proptest::arbitrary::any::<T>().prop_map(Into::into).boxed()
}

fn table() -> impl Strategy<Value = Vec<Vec<Value>>> {
    proptest::collection::vec(0..5_u8, 1..5).prop_flat_map(|kinds| {
        let row: Vec<_> = kinds.into_iter().map(cell_of).collect();
        proptest::collection::vec(row, 1..60)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn a_table_of_any_types_survives_the_way(rows in table(), batch_rows in 1..20_usize) {
        // The first rows decide the types, so each column needs a cell there.
        let n_columns = rows[0].len();
        let decides = |idx: usize| rows.iter().map(|row| &row[idx]).find(|cell| **cell != Value::Null);
        let first: Vec<Value> = (0..n_columns).map(|idx| decides(idx).cloned().unwrap_or(Value::Null)).collect();
        let rows: Vec<Vec<Value>> = std::iter::once(first).chain(rows).collect();
        let mut sheet = Sheet::new(any(n_columns));
        for batch in rows.chunks(batch_rows) {
            for row in batch {
                sheet.row(row).unwrap();
                // A row taken back in between is as if it had never been.
                prop_assert!(sheet.row(&row[1..]).is_err());
            }
            sheet.close().unwrap();
        }
        let batches = sheet.read();
        prop_assert_eq!(batches.len(), rows.len().div_ceil(batch_rows));
        for idx in 0..n_columns {
            let expected: Vec<Value> = rows.iter().map(|row| row[idx].clone()).collect();
            prop_assert_eq!(column_of(&batches, idx), expected);
        }
    }

    #[test]
    fn a_cell_is_read_as_it_was_written_or_refused(declared in 0..ALL_TYPES.len(), cells_written in proptest::collection::vec(
        proptest::strategy::Union::new((0..5).map(cell_of).chain([
            proptest::string::string_regex("[0-9]{4}-[01][0-9]-[0-3][0-9]([ T][0-9]{2}:[0-9]{2}(:[0-9]{2})?(Z|[+][0-9]{2})?)?")
                .unwrap()
                .prop_map(Value::from)
                .boxed(),
        ])), 1..12), batch_rows in 1..6_usize)
    {
        let mut sheet = Sheet::new(vec![Column::new("c", ALL_TYPES[declared])]);
        let mut kept = Vec::new();
        'batches: for batch in cells_written.chunks(batch_rows) {
            let start = kept.len();
            for cell in batch {
                if sheet.row(std::slice::from_ref(cell)).is_ok() {
                    kept.push(cell.clone());
                }
            }
            if sheet.close().is_err() {
                kept.truncate(start);
                break 'batches;
            }
        }
        if !sheet.stream.is_empty() {
            let read = column_of(&sheet.read(), 0);
            prop_assert_eq!(read.len(), kept.len());
            for (read, kept) in read.iter().zip(&kept) {
                let same = match (read, kept) {
                    (Value::Real(read), Value::Integer(kept)) => *read as i128 == i128::from(*kept),
                    (Value::Boolean(read), Value::Integer(kept)) => i64::from(*read) == *kept,
                    // A date or time, read as its number.
                    (Value::Integer(_), Value::Text(_)) => true,
                    (read, kept) => read == kept,
                };
                prop_assert!(same, "{:?} was written, {:?} read", kept, read);
            }
        }
    }
}
