//! Binary messages: what is read is written and read again as the same, also as a replay, and its rows are what JSON has them to be.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::value::RawValue;

use super::allocated::{self, peak_of};
use crate::client::Batch;
use crate::id::{RequestId, StreamId};
use crate::protocol::{
    BatchHeader, BatchMessage, BinaryEnvelope, CellType, Compression, DataFormat, ServerMessage, decode_binary_message,
    replayed_binary,
};
use crate::rows::{Column, ColumnType, RowFormat, Schema};

/// The largest payload taken.
const PAYLOAD_BYTES_MAX: usize = 32 * 1024;

/// What a codec may take beside the payload: LZ4's frames have blocks of up to 4 MiB, and one that is read is there twice.
const CODEC_BYTES_MAX: usize = 10 * 1024 * 1024;

pub(super) fn check(bytes: &[u8]) {
    let (decoded, peak) = peak_of(|| decode_binary_message(bytes, PAYLOAD_BYTES_MAX));
    allocated::check(peak, CODEC_BYTES_MAX + 2 * PAYLOAD_BYTES_MAX + 4 * bytes.len());
    let _sent_again = replayed_binary(bytes);
    match decoded {
        Ok(Some(ServerMessage::QueryBatch(batch))) => {
            assert!(batch.rows.get().len() <= PAYLOAD_BYTES_MAX);
            check_round_trip(&parts_of_json(&batch));
            check_rows(&batch);
        }
        Ok(Some(ServerMessage::ArrowBatch(batch))) => {
            assert!(batch.payload.len() <= PAYLOAD_BYTES_MAX);
            check_round_trip(&Parts {
                stream_id: batch.stream_id,
                request_id: batch.request_id,
                numbers: [batch.batch_number, batch.row_count, batch.row_offset],
                checksum: batch.checksum,
                has_more: batch.has_more,
                encoding: DataFormat::Arrow,
                payload: batch.payload,
                cell_types: batch.cell_types,
            });
        }
        Ok(Some(other)) => panic!("no other message is binary: {other:?}"),
        Ok(None) | Err(_) => {}
    }
}

/// What a batch says, but for whether it is a replay.
#[derive(Debug, PartialEq, Eq)]
struct Parts {
    stream_id: StreamId,
    request_id: Option<RequestId>,
    /// Of the batch, of its rows, and of those before it.
    numbers: [u64; 3],
    checksum: Option<String>,
    has_more: bool,
    encoding: DataFormat,
    payload: Vec<u8>,
    cell_types: Option<Vec<CellType>>,
}

fn parts_of_json(batch: &BatchMessage) -> Parts {
    Parts {
        stream_id: batch.stream_id,
        request_id: batch.request_id.clone(),
        numbers: [batch.batch_number, batch.row_count, batch.row_offset],
        checksum: batch.checksum.clone(),
        has_more: batch.has_more,
        encoding: DataFormat::Json,
        payload: batch.rows.get().as_bytes().to_vec(),
        cell_types: batch.cell_types.clone(),
    }
}

fn check_round_trip(parts: &Parts) {
    let [batch_number, row_count, row_offset] = parts.numbers;
    // What no server of ours says is not written: more rows than a batch can have, a checksum that is none.
    let Ok(row_count) = u32::try_from(row_count) else {
        return;
    };
    let checksum = parts.checksum.as_deref().map(|text| u32::from_str_radix(text, 16));
    let Ok(checksum) = checksum.transpose() else { return };
    if checksum.map(|number| format!("{number:08x}")) != parts.checksum {
        return;
    }
    let cell_types = parts
        .cell_types
        .as_ref()
        .map(|marks| serde_json::to_vec(marks).unwrap());
    let envelope = BinaryEnvelope::new(parts.stream_id, parts.request_id.as_ref(), cell_types.is_some());
    let mut written = Vec::new();
    envelope.open(&mut written);
    written.extend_from_slice(&parts.payload);
    let header = BatchHeader {
        batch_number,
        row_count,
        row_offset,
        checksum,
        has_more: parts.has_more,
        encoding: parts.encoding,
        compression: Compression::None,
        uncompressed_bytes: parts.payload.len(),
        cell_types_bytes: cell_types.as_ref().map(Vec::len),
    };
    envelope.close(&header, &mut written);
    written.extend(cell_types.unwrap_or_default());
    for (message, is_replay) in [(&written, false), (&replayed_binary(&written), true)] {
        let again = match decode_binary_message(message, parts.payload.len()) {
            Ok(Some(ServerMessage::QueryBatch(batch))) => {
                assert_eq!(batch.replay, is_replay);
                parts_of_json(&batch)
            }
            Ok(Some(ServerMessage::ArrowBatch(batch))) => {
                assert_eq!(batch.replay, is_replay);
                Parts {
                    stream_id: batch.stream_id,
                    request_id: batch.request_id,
                    numbers: [batch.batch_number, batch.row_count, batch.row_offset],
                    checksum: batch.checksum,
                    has_more: batch.has_more,
                    encoding: DataFormat::Arrow,
                    payload: batch.payload,
                    cell_types: batch.cell_types,
                }
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(again, *parts);
    }
}

/// The client's rows are those of the JSON, whatever that is; each cell can be asked for as whatever type.
fn check_rows(batch: &BatchMessage) {
    let text = batch.rows.get();
    let columns = ["a", "b"].map(|name| Column::new(name, ColumnType::Any));
    let columns = Arc::new(Schema::new(columns.to_vec()));
    for row_format in [RowFormat::Array, RowFormat::Object] {
        let (found, peak) = peak_of(|| Batch::new(batch.clone(), &columns, row_format));
        // Places of rows and cells, 8 bytes each, as many as half of the bytes may be, the text, and marks.
        let n_marks = batch.cell_types.as_ref().map_or(0, Vec::len);
        allocated::check(peak, 16 * 1024 + 24 * text.len() + size_of::<CellType>() * n_marks);
        let Ok(found) = found else { continue };
        let expected = cells_of(text, row_format);
        assert_eq!(found.len(), expected.len());
        for (row, expected) in found.rows().zip(&expected) {
            assert!(row.cells().eq(expected.iter().map(|cell| cell.get())), "{row:?}");
            for idx in 0..row.len() {
                let _typed = (row.get::<i64>(idx), row.get::<f64>(idx), row.get::<bool>(idx));
                let _owned = (row.get::<String>(idx), row.get::<Vec<u8>>(idx));
                let _null = row.get::<Option<i64>>(idx);
            }
        }
    }
}

/// The text of each cell, as serde_json finds it. As text, because JSON has numbers that nothing else has.
fn cells_of(text: &str, row_format: RowFormat) -> Vec<Vec<&RawValue>> {
    match row_format {
        RowFormat::Array => serde_json::from_str(text).unwrap(),
        RowFormat::Object => {
            let rows: Vec<BTreeMap<String, &RawValue>> = serde_json::from_str(text).unwrap();
            // Sorted by the label, as the columns are.
            rows.into_iter().map(|row| row.into_values().collect()).collect()
        }
    }
}
