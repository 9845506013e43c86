//! Values: rows come out of JSON as they went in, in every form that they can be asked for in, and parameters arrive as they were sent.

use std::sync::Arc;

use serde_json::Value as Json;

use super::allocated::{self, peak_of};
use super::message::check_client_message;
use super::source::Script;
use crate::client::{Batch, Row};
use crate::id::StreamId;
use crate::protocol::{BatchMessage, ClientMessage, StreamQuery};
use crate::rows::{
    BatchLimits, Column, ColumnType, Int64Encoding, Params, RowError, RowFormat, RowShape, RowWriter, Schema, Value,
};

/// The largest row taken.
const ROW_BYTES_MAX: usize = 512;

pub(super) fn check(bytes: &[u8]) {
    let mut script = Script(bytes);
    let row_format = [RowFormat::Array, RowFormat::Object][usize::from(script.byte() % 2)];
    let encodings = [Int64Encoding::Number, Int64Encoding::String, Int64Encoding::Safe];
    let int64 = encodings[usize::from(script.byte() % 3)];
    let n_columns = script.byte() % 5;
    let columns = (0..n_columns).map(|_| {
        let n = usize::from(script.byte() % 8);
        Column::new(String::from_utf8_lossy(script.bytes(n)), ColumnType::Any)
    });
    let columns = Arc::new(Schema::new(columns.collect()));
    let mut writer = RowWriter::new(RowShape::json(&columns, row_format, int64));
    let limits = BatchLimits {
        rows_max: 64,
        bytes_max: usize::MAX,
        row_bytes_max: ROW_BYTES_MAX,
        bytes_left: None,
        until: None,
    };
    writer.begin_batch(Vec::new(), limits, 0);
    let mut rows: Vec<Vec<Value>> = Vec::new();
    while !script.is_empty() && !writer.is_full() {
        let cells: Vec<Cell<'_>> = columns.columns().iter().map(|_| Cell::read(&mut script)).collect();
        if cells.is_empty() {
            script.byte();
        }
        match write_row(&mut writer, &cells) {
            Ok(()) => rows.push(cells.iter().map(|cell| cell.value().unwrap()).collect()),
            Err(RowError::InvalidUtf8 { column, .. }) => assert_eq!(cells[column].value(), None),
            Err(RowError::TooLarge { .. }) => assert!(bytes_at_most(&cells, &columns) > ROW_BYTES_MAX),
            Err(error) => panic!("{error}"),
        }
        assert_eq!(writer.rows() as usize, rows.len());
    }
    let filled = writer.take_batch().unwrap();
    assert_eq!(
        (filled.rows as usize, filled.row_bytes),
        (rows.len(), filled.buffer.len())
    );
    let text = format!("[{}]", String::from_utf8(filled.buffer).unwrap());
    check_json(&text, &rows, &columns, row_format, int64);
    check_client(&text, &rows, &columns, row_format);
    check_params(&rows, &columns);
}

/// A cell as a case has it.
#[derive(Debug)]
enum Cell<'a> {
    Value(Value),
    /// Text that may be none.
    Bytes(&'a [u8]),
}

impl<'a> Cell<'a> {
    fn read(script: &mut Script<'a>) -> Self {
        let tag = script.byte();
        Self::Value(match tag % 8 {
            0 => Value::Null,
            1 => Value::Boolean(script.byte() % 2 == 1),
            2 => Value::Integer(i64::from_le_bytes(script.array())),
            3 => Value::Integer(i64::from(i16::from_le_bytes(script.array()))),
            4 => Value::Real(f64::from_le_bytes(script.array())),
            5 => {
                let n = script.byte();
                Value::Text(String::from_utf8_lossy(script.bytes(n.into())).into_owned())
            }
            6 => {
                let n = script.byte();
                Value::Blob(script.bytes(n.into()).to_vec())
            }
            _ => {
                let n = script.byte();
                return Self::Bytes(script.bytes(n.into()));
            }
        })
    }

    /// The value that the cell is; `None` where it is none.
    fn value(&self) -> Option<Value> {
        match self {
            Self::Value(value) => Some(value.clone()),
            Self::Bytes(bytes) => std::str::from_utf8(bytes).ok().map(Value::from),
        }
    }
}

fn write_row(writer: &mut RowWriter, cells: &[Cell<'_>]) -> Result<(), RowError> {
    let (ended, peak) = peak_of(|| {
        writer.begin_row();
        for cell in cells {
            match cell {
                Cell::Value(Value::Null) => writer.null(),
                Cell::Value(Value::Boolean(value)) => writer.boolean(*value),
                Cell::Value(Value::Integer(value)) => writer.integer(*value),
                Cell::Value(Value::Real(value)) => writer.real(*value),
                Cell::Value(Value::Text(text)) => writer.text(text.as_bytes()),
                Cell::Value(Value::Blob(bytes)) => writer.blob(bytes),
                Cell::Bytes(bytes) => writer.text(bytes),
            }
        }
        writer.end_row()
    });
    // The buffer, doubled, beside the one before; five cells of text, each escaped six times as long.
    allocated::check(peak, 3 * 64 * ROW_BYTES_MAX + 5 * 6 * 2 * ROW_BYTES_MAX);
    ended
}

/// The most that a row can take: all of its text and labels escaped.
fn bytes_at_most(cells: &[Cell<'_>], columns: &Schema) -> usize {
    let keys: usize = columns.columns().iter().map(|column| 6 * column.label.len() + 4).sum();
    let cells = cells.iter().map(|cell| match cell {
        Cell::Value(Value::Text(text)) => 6 * text.len() + 3,
        Cell::Value(Value::Blob(bytes)) => 4 * bytes.len().div_ceil(3) + 3,
        Cell::Value(_) => 32,
        Cell::Bytes(bytes) => 6 * bytes.len() + 3,
    });
    2 + keys + cells.sum::<usize>()
}

fn check_json(text: &str, rows: &[Vec<Value>], columns: &Schema, row_format: RowFormat, int64: Int64Encoding) {
    let parsed: Vec<Json> = serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    assert_eq!(parsed.len(), rows.len());
    for (parsed, row) in parsed.iter().zip(rows) {
        let n_cells = parsed
            .as_array()
            .map(Vec::len)
            .or(parsed.as_object().map(serde_json::Map::len));
        assert_eq!(n_cells, Some(row.len()));
        for (idx, (value, column)) in row.iter().zip(columns.columns()).enumerate() {
            let found = match row_format {
                RowFormat::Array => &parsed[idx],
                RowFormat::Object => &parsed[column.label.as_str()],
            };
            check_cell(found, value, int64);
        }
    }
}

fn check_cell(found: &Json, value: &Value, int64: Int64Encoding) {
    use base64::Engine as _;
    const SAFE: std::ops::RangeInclusive<i64> = -9_007_199_254_740_991..=9_007_199_254_740_991;
    let expected = match value {
        Value::Null => Json::Null,
        Value::Boolean(value) => Json::Bool(*value),
        Value::Integer(value) => match int64 {
            Int64Encoding::Number => Json::from(*value),
            Int64Encoding::Safe if SAFE.contains(value) => Json::from(*value),
            Int64Encoding::String | Int64Encoding::Safe => Json::from(value.to_string()),
        },
        Value::Real(value) if value.is_finite() => {
            assert!(found.is_f64(), "{found}");
            assert_eq!(found.as_f64().map(f64::to_bits), Some(value.to_bits()), "{found}");
            return;
        }
        Value::Real(value) if value.is_nan() => Json::from("NaN"),
        Value::Real(value) => Json::from(if *value > 0.0 { "Infinity" } else { "-Infinity" }),
        Value::Text(text) => Json::from(text.as_str()),
        Value::Blob(bytes) => Json::from(base64::engine::general_purpose::STANDARD.encode(bytes)),
    };
    assert_eq!(*found, expected);
}

fn check_client(text: &str, rows: &[Vec<Value>], columns: &Arc<Schema>, row_format: RowFormat) {
    let message = BatchMessage {
        stream_id: StreamId::from_bytes([0; 16]),
        request_id: None,
        batch_number: 0,
        rows: serde_json::value::RawValue::from_string(text.to_owned()).unwrap(),
        has_more: false,
        row_count: rows.len() as u64,
        row_offset: 0,
        checksum: None,
        cell_types: None,
        replay: false,
    };
    let batch = Batch::new(message, columns, row_format).unwrap();
    for (found, row) in batch.rows().zip(rows) {
        for (idx, value) in row.iter().enumerate() {
            assert!(is_read(&found, idx, value), "{found:?}, cell {idx}: {value:?}");
        }
    }
}

/// Whether the client gives the value that went in.
fn is_read(row: &Row<'_>, idx: usize, value: &Value) -> bool {
    match value {
        Value::Null => row.get::<Option<i64>>(idx) == Ok(None),
        Value::Boolean(value) => row.get::<bool>(idx) == Ok(*value),
        Value::Integer(value) => row.get::<i64>(idx) == Ok(*value),
        Value::Real(value) => row
            .get::<f64>(idx)
            .is_ok_and(|found| found.to_bits() == value.to_bits() || (found.is_nan() && value.is_nan())),
        Value::Text(text) => row.get::<String>(idx).as_ref() == Ok(text),
        Value::Blob(bytes) => row.get::<Vec<u8>>(idx).as_ref() == Ok(bytes),
    }
}

fn check_params(rows: &[Vec<Value>], columns: &Schema) {
    let labels = || columns.columns().iter().map(|column| column.label.clone());
    for row in rows.iter().take(4) {
        let mut named: Vec<_> = labels().zip(row.iter().cloned()).collect();
        // As they come out of a JSON object.
        named.sort_by(|(one, _), (other, _)| one.cmp(other));
        for params in [Params::Positional(row.clone()), Params::Named(named)] {
            let mut query = StreamQuery::new("SELECT 1");
            query.params = params;
            check_client_message(&ClientMessage::StreamQuery(Box::new(query)));
        }
    }
}
