//! Binary messages: `u32 big-endian header length | UTF-8 JSON header | payload | cell types, where they were asked for`.
//!
//! The header is written in front of a payload that is there already: its place is kept free, and what it does not need is filled
//! with spaces, which JSON allows behind a value. Must not know streams or connections.

use std::fmt;

use serde::Deserialize;

use super::compress::{Compression, decompress};
use super::encode::{push_batch_fields, push_batch_head};
use super::message::{ArrowBatchMessage, BatchMessage, CellType, DataFormat, ServerMessage};
use super::strict::from_str;
use crate::id::{RequestId, StreamId};

/// Bytes of the length in front of the header.
const LENGTH_BYTES: usize = 4;

/// Longest header that is read.
const HEADER_BYTES_MAX: usize = 64 * 1024;

/// A place that is enough for all fields behind `batch_number`, and for `replay`, at their longest.
const FIELDS_BYTES_MAX: usize = 288;

/// Where a payload begins in its message, as a multiple: Arrow's readers like their buffers aligned.
const ALIGNMENT: usize = 8;

/// The same for what a batch with cell types says besides.
const CELL_TYPES_BYTES_MAX: usize = 48;

const REPLAY: &[u8] = b",\"replay\":true}";

/// What the header of a batch says beside the stream's names.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchHeader {
    pub(crate) batch_number: u64,
    pub(crate) row_count: u32,
    pub(crate) row_offset: u64,
    pub(crate) checksum: Option<u32>,
    pub(crate) has_more: bool,
    pub(crate) encoding: DataFormat,
    pub(crate) compression: Compression,
    /// Of the payload before it was compressed.
    pub(crate) uncompressed_bytes: usize,
    /// Of the cell types behind the payload, where they were asked for.
    pub(crate) cell_types_bytes: Option<usize>,
}

/// What surrounds the payloads of one stream's binary batches.
#[derive(Debug)]
pub(crate) struct BinaryEnvelope {
    /// Up to and including `"batch_number":`.
    head: Box<[u8]>,
    /// Bytes in front of a payload.
    room: usize,
}

impl BinaryEnvelope {
    pub(crate) fn new(stream_id: StreamId, request_id: Option<&RequestId>, has_cell_types: bool) -> Self {
        let head = push_batch_head(stream_id, request_id);
        let fields = FIELDS_BYTES_MAX + if has_cell_types { CELL_TYPES_BYTES_MAX } else { 0 };
        Self {
            room: (LENGTH_BYTES + head.len() + fields).next_multiple_of(ALIGNMENT),
            head,
        }
    }

    /// Starts a batch message: the payload is to follow.
    pub(crate) fn open(&self, out: &mut Vec<u8>) {
        out.resize(out.len() + self.room, b' ');
    }

    /// Writes what goes in front of the payload of `message`, which was begun with [`open`](Self::open).
    pub(crate) fn close(&self, header: &BatchHeader, message: &mut [u8]) {
        let mut text = Vec::with_capacity(self.room);
        text.extend_from_slice(&self.head);
        push_batch_fields(header, &mut text);
        debug_assert!(
            LENGTH_BYTES + text.len() + REPLAY.len() <= self.room,
            "there is room for every header"
        );
        let (front, _payload) = message.split_at_mut(self.room);
        // The header has less than `HEADER_BYTES_MAX` bytes.
        front[..LENGTH_BYTES].copy_from_slice(&((self.room - LENGTH_BYTES) as u32).to_be_bytes());
        front[LENGTH_BYTES..][..text.len()].copy_from_slice(&text);
    }
}

/// A binary batch that is sent once more: what it was, and a field that says so in the place of some spaces.
pub(crate) fn replayed_binary(message: &[u8]) -> Vec<u8> {
    let mut out = message.to_vec();
    if let Ok((header, _)) = split(message) {
        let end = header.trim_ascii_end().len();
        let at = LENGTH_BYTES + end - 1;
        if end > 0 && header.len() >= end - 1 + REPLAY.len() {
            out[at..at + REPLAY.len()].copy_from_slice(REPLAY);
        }
    }
    out
}

/// Why bytes are no binary message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BinaryError(String);

impl fmt::Display for BinaryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a binary message: {}", self.0)
    }
}

impl std::error::Error for BinaryError {}

/// Takes a message apart into header and payload.
fn split(message: &[u8]) -> Result<(&[u8], &[u8]), BinaryError> {
    let (length, rest) = message
        .split_first_chunk::<LENGTH_BYTES>()
        .ok_or_else(|| BinaryError(format!("{} bytes", message.len())))?;
    let length = u32::from_be_bytes(*length) as usize;
    if length > HEADER_BYTES_MAX {
        return Err(BinaryError(format!(
            "a header of {length} bytes, the most is {HEADER_BYTES_MAX}"
        )));
    }
    rest.split_at_checked(length)
        .ok_or_else(|| BinaryError(format!("a header of {length} bytes in a message of {}", message.len())))
}

/// Takes the cell types off a payload that they stand behind.
fn split_behind(payload: &[u8], bytes: usize) -> Result<(&[u8], &[u8]), BinaryError> {
    let at = payload.len().checked_sub(bytes).ok_or_else(|| {
        BinaryError(format!(
            "cell types of {bytes} bytes behind a payload, with which they have {}",
            payload.len()
        ))
    })?;
    Ok(payload.split_at(at))
}

/// Reads one binary message of a server; its payload comes out uncompressed and has `payload_bytes_max` bytes at the most. `Ok(None)`
/// for a type that this version does not know.
///
/// # Errors
/// For lengths, headers and payloads that are not what they have to be.
pub(crate) fn decode_binary_message(
    message: &[u8],
    payload_bytes_max: usize,
) -> Result<Option<ServerMessage>, BinaryError> {
    #[derive(Deserialize)]
    struct Header {
        #[serde(rename = "type")]
        name: String,
    }
    #[derive(Deserialize)]
    struct BatchFields {
        stream_id: StreamId,
        #[serde(default)]
        request_id: Option<RequestId>,
        batch_number: u64,
        row_count: u64,
        row_offset: u64,
        #[serde(default)]
        checksum: Option<String>,
        has_more: bool,
        #[serde(default)]
        replay: bool,
        encoding: DataFormat,
        compression: Compression,
        uncompressed_bytes: usize,
        #[serde(default)]
        cell_types_bytes: Option<usize>,
    }
    let wrong = |part: &str, error: &dyn fmt::Display| BinaryError(format!("{part}: {error}"));
    let (header, payload) = split(message)?;
    let header = std::str::from_utf8(header).map_err(|error| wrong("its header", &error))?;
    let Header { name } = from_str(header).map_err(|error| wrong("its header", &error))?;
    if name != "query_batch" {
        return Ok(None);
    }
    let BatchFields {
        stream_id,
        request_id,
        batch_number,
        row_count,
        row_offset,
        checksum,
        has_more,
        replay,
        encoding,
        compression,
        uncompressed_bytes,
        cell_types_bytes,
    } = from_str(header).map_err(|error| wrong("its header", &error))?;
    if uncompressed_bytes > payload_bytes_max {
        return Err(BinaryError(format!(
            "a payload of {uncompressed_bytes} bytes, the most is {payload_bytes_max}"
        )));
    }
    let (payload, cell_types) = match cell_types_bytes {
        None => (payload, None),
        Some(bytes) => {
            let (payload, cell_types) = split_behind(payload, bytes)?;
            let cell_types = std::str::from_utf8(cell_types).map_err(|error| wrong("its cell types", &error))?;
            let cell_types: Vec<CellType> = from_str(cell_types).map_err(|error| wrong("its cell types", &error))?;
            (payload, Some(cell_types))
        }
    };
    let payload =
        decompress(compression, payload, uncompressed_bytes).map_err(|error| BinaryError(error.to_string()))?;
    Ok(Some(match encoding {
        DataFormat::Json => {
            let text = String::from_utf8(payload).map_err(|error| wrong("its rows", &error))?;
            let rows = serde_json::value::RawValue::from_string(text).map_err(|error| wrong("its rows", &error))?;
            ServerMessage::QueryBatch(BatchMessage {
                stream_id,
                request_id,
                batch_number,
                rows,
                has_more,
                row_count,
                row_offset,
                checksum,
                cell_types,
                replay,
            })
        }
        DataFormat::Arrow => ServerMessage::ArrowBatch(ArrowBatchMessage {
            stream_id,
            request_id,
            batch_number,
            payload,
            has_more,
            row_count,
            row_offset,
            checksum,
            cell_types,
            replay,
        }),
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)] // a failed unwrap is the failed assertion here

    use proptest::prelude::*;

    use super::*;
    use crate::protocol::compress::Compressor;
    use crate::rows::ColumnType;

    const LONGEST: BatchHeader = BatchHeader {
        batch_number: u64::MAX,
        row_count: u32::MAX,
        row_offset: u64::MAX,
        checksum: Some(u32::MAX),
        has_more: false,
        encoding: DataFormat::Arrow,
        compression: Compression::DeflateRaw,
        uncompressed_bytes: usize::MAX,
        cell_types_bytes: None,
    };

    fn message(request_id: Option<&RequestId>, header: &BatchHeader, payload: &[u8]) -> Vec<u8> {
        let envelope = BinaryEnvelope::new(StreamId::random(), request_id, header.cell_types_bytes.is_some());
        let mut message = Vec::new();
        envelope.open(&mut message);
        assert_eq!(message.len(), envelope.room);
        message.extend_from_slice(payload);
        envelope.close(header, &mut message);
        message
    }

    #[test]
    fn the_longest_header_has_room_for_a_replay() {
        let request_id = RequestId::from("\u{1}".repeat(64).as_str());
        for cell_types_bytes in [None, Some(usize::MAX)] {
            let longest = BatchHeader {
                cell_types_bytes,
                ..LONGEST
            };
            let message = replayed_binary(&message(Some(&request_id), &longest, b"payload"));
            let (header, payload) = split(&message).unwrap();
            assert_eq!(payload, b"payload");
            assert_eq!((LENGTH_BYTES + header.len()) % ALIGNMENT, 0);
            let header: serde_json::Value = serde_json::from_slice(header).unwrap();
            assert_eq!(header["replay"], true);
            assert_eq!(header["uncompressed_bytes"], u64::MAX);
        }
    }

    #[test]
    fn rows_come_out_as_they_went_in() {
        let rows = format!("[{}[1]]", "[1],".repeat(1_000));
        for compression in [Compression::None].iter().chain(Compression::OFFERED) {
            let mut payload = Vec::new();
            if !Compressor::new(1).compress(*compression, rows.as_bytes(), &mut payload) {
                payload = rows.clone().into_bytes();
            }
            let header = BatchHeader {
                batch_number: 3,
                row_count: 1_001,
                row_offset: 7,
                checksum: None,
                has_more: true,
                encoding: DataFormat::Json,
                compression: *compression,
                uncompressed_bytes: rows.len(),
                cell_types_bytes: None,
            };
            let plain = message(None, &header, &payload);
            for (message, is_replay) in [(&plain, false), (&replayed_binary(&plain), true)] {
                match decode_binary_message(message, rows.len()).unwrap() {
                    Some(ServerMessage::QueryBatch(batch)) => {
                        assert_eq!(batch.rows.get(), rows);
                        assert_eq!((batch.batch_number, batch.row_count, batch.row_offset), (3, 1_001, 7));
                        assert_eq!((batch.has_more, batch.replay), (true, is_replay));
                    }
                    other => panic!("{other:?}"),
                }
            }
            let refused = decode_binary_message(&plain, rows.len() - 1).unwrap_err();
            assert!(refused.to_string().contains("the most is"), "{refused}");
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        #[track_caller]
        fn check(message: &[u8], said: &str) {
            let error = decode_binary_message(message, 1_000).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
        let with_header = |header: &str| {
            let mut message = (header.len() as u32).to_be_bytes().to_vec();
            message.extend_from_slice(header.as_bytes());
            message
        };
        check(b"", "0 bytes");
        check(&[0, 0, 0], "3 bytes");
        check(&[0, 0, 0, 1], "a header of 1 bytes in a message of 4");
        check(&[0xFF; 8], "the most is 65536");
        check(&[0, 0, 0, 0], "EOF");
        check(&with_header("{}"), "type");
        check(&with_header("[]"), "expected an object");
        check(&with_header("\u{1}"), "expected value");
        check(&[0, 0, 0, 1, 0xFF], "utf-8");
        check(&with_header(r#"{"type":"query_batch"}"#), "stream_id");
        check(&with_header(&"[".repeat(10_000)), "invalid type");
        // Unknown fields are passed over without recursion.
        let deep = format!(r#"{{"type":"query_batch","x":{}"#, "[".repeat(10_000));
        check(&with_header(&deep), "EOF");
        assert!(matches!(
            decode_binary_message(&with_header(r#"{"type":"later"}"#), 0),
            Ok(None)
        ));
        let header = BatchHeader {
            encoding: DataFormat::Json,
            compression: Compression::None,
            uncompressed_bytes: 2,
            ..LONGEST
        };
        check(&message(None, &header, b"[}"), "expected");
        check(&message(None, &header, b"\xFF\xFF"), "utf-8");
        check(&message(None, &header, b"[ ]"), "another length");
    }

    #[test]
    fn cell_types_stand_behind_the_payload() {
        let cell_types = r#"[[0,1,"blob"],[7,0,"float64"]]"#;
        let header = |cell_types_bytes| BatchHeader {
            encoding: DataFormat::Json,
            compression: Compression::None,
            uncompressed_bytes: 3,
            cell_types_bytes: Some(cell_types_bytes),
            ..LONGEST
        };
        let read = |cell_types_bytes, behind: &str| {
            let mut message = message(None, &header(cell_types_bytes), b"[1]");
            message.extend_from_slice(behind.as_bytes());
            decode_binary_message(&message, 3)
        };
        let Some(ServerMessage::QueryBatch(batch)) = read(cell_types.len(), cell_types).unwrap() else {
            panic!("not a batch")
        };
        assert_eq!(batch.rows.get(), "[1]");
        let expected = [(0, 1, ColumnType::Blob), (7, 0, ColumnType::Float64)].map(CellType::from);
        assert_eq!(batch.cell_types, Some(expected.to_vec()));
        let refused = |bytes, behind| read(bytes, behind).unwrap_err().to_string();
        assert!(refused(100, "[]").contains("cell types of 100 bytes"));
        assert!(refused(2, "[}").contains("its cell types"));
        assert!(refused(8, r#"[[0,"x"]]"#).contains("its cell types"));
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Vectors {
        #[serde(rename = "description")]
        _description: String,
        payload_bytes_max: usize,
        cases: Vec<Vector>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Vector {
        name: String,
        message_base64: String,
        header: Option<serde_json::Value>,
        payload_text: Option<String>,
        payload_hex: Option<String>,
        cell_types: Option<Vec<CellType>>,
        refused: Option<String>,
        #[serde(default)]
        ignored: bool,
        #[serde(default)]
        requires: Vec<String>,
    }

    impl Vector {
        fn is_for_this_build(&self) -> bool {
            self.requires.iter().all(|name| {
                let codec = name.strip_prefix("compression:").unwrap();
                Compression::offered(codec).is_some()
            })
        }

        /// Checks what was read; says what is wrong with it.
        fn check(&self, message: &[u8], decoded: Result<Option<ServerMessage>, BinaryError>) -> Result<(), String> {
            let (header, payload, cell_types) = match decoded {
                Err(error) => {
                    let class = class_of(&error);
                    let is_expected = self.refused.as_deref() == Some(class);
                    return is_expected.then_some(()).ok_or(format!("{class}: {error}"));
                }
                Ok(None) => return self.ignored.then_some(()).ok_or("passed over".to_owned()),
                Ok(Some(ServerMessage::QueryBatch(mut batch))) => {
                    let rows = batch.rows.get().as_bytes().to_vec();
                    let cell_types = batch.cell_types.take();
                    (serde_json::to_value(&batch).unwrap(), rows, cell_types)
                }
                Ok(Some(ServerMessage::ArrowBatch(batch))) => {
                    let mut header = serde_json::json!({"stream_id": batch.stream_id, "batch_number": batch.batch_number,
                        "row_count": batch.row_count, "row_offset": batch.row_offset, "has_more": batch.has_more});
                    if batch.replay {
                        header["replay"] = true.into();
                    }
                    (header, batch.payload, batch.cell_types)
                }
                Ok(Some(other)) => return Err(format!("{other:?}")),
            };
            let expected = self.header.as_ref().ok_or("read, and was to be refused")?;
            let written: serde_json::Value = serde_json::from_slice(split(message).unwrap().0).unwrap();
            assert_eq!(written, *expected, "{}", self.name);
            for (field, value) in header.as_object().unwrap() {
                if field != "rows" && expected[field] != *value {
                    return Err(format!("{field} is {value}"));
                }
            }
            if cell_types != self.cell_types {
                return Err(format!("the cell types are {cell_types:?}"));
            }
            let hex: String = payload.iter().map(|byte| format!("{byte:02x}")).collect();
            let is_expected = match (&self.payload_text, &self.payload_hex) {
                (Some(text), None) => text.as_bytes() == payload,
                (None, Some(expected)) => *expected == hex,
                _ => panic!("{} has one payload", self.name),
            };
            is_expected.then_some(()).ok_or(format!("the payload is {hex}"))
        }
    }

    /// The class of a refusal, as the vectors' README has them.
    fn class_of(error: &BinaryError) -> &'static str {
        let text = error.0.as_str();
        let is_payload = |part: &str| text.starts_with("a payload") && text.contains(part);
        if text.ends_with("bytes") && !text.starts_with('a') {
            "too_short"
        } else if text.starts_with("a header") {
            if text.contains("the most is") {
                "header_too_long"
            } else {
                "header_beyond_message"
            }
        } else if is_payload("the most is") {
            "payload_too_large"
        } else if is_payload("another length") {
            "payload_length"
        } else if is_payload("cannot be decompressed") {
            "payload_corrupt"
        } else if text.starts_with("its header") {
            "header_invalid"
        } else if text.starts_with("cell types of") {
            "cell_types_beyond_message"
        } else if text.starts_with("its cell types") {
            "cell_types_invalid"
        } else if text.starts_with("its rows") {
            "payload_invalid"
        } else {
            panic!("of no class: {text}")
        }
    }

    #[test]
    fn the_vectors_are_read_as_they_say() {
        use base64::Engine as _;
        let vectors: Vectors = serde_json::from_str(include_str!("../../tests/vectors/binary.json")).unwrap();
        let mut wrong = Vec::new();
        for case in vectors.cases.into_iter().filter(Vector::is_for_this_build) {
            let message = base64::engine::general_purpose::STANDARD
                .decode(&case.message_base64)
                .unwrap();
            let decoded = decode_binary_message(&message, vectors.payload_bytes_max);
            if let Err(why) = case.check(&message, decoded) {
                wrong.push(format!("{}: {why}", case.name));
            }
        }
        assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, payload: Vec<u8>, flips in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..8)) {
            let _refused = decode_binary_message(&bytes, 1_000);
            let header = BatchHeader { encoding: DataFormat::Arrow, uncompressed_bytes: payload.len(), compression: Compression::None, ..LONGEST };
            let mut message = message(None, &header, &payload);
            match decode_binary_message(&message, payload.len()).unwrap() {
                Some(ServerMessage::ArrowBatch(batch)) => prop_assert_eq!(batch.payload, payload),
                other => panic!("{other:?}"),
            }
            for (at, byte) in flips {
                let at = at.index(message.len());
                message[at] = byte;
            }
            let _refused = decode_binary_message(&message, 1_000);
        }
    }
}
