//! Bytes out: messages into a caller's buffer, and the envelope that a batch's rows are written into.

use std::io::Write;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};

use super::binary::BatchHeader;
use super::compress::Compression;
use super::message::{DataFormat, ServerMessage};
use super::request::{
    Ack, ClientMessage, DescribeQuery, Hello, ListQueries, ListScope, ResumeQuery, SetPriority, StreamQuery, StreamRef,
    WindowRequest,
};
use super::trace::TraceParent;
use crate::id::{RequestId, ResumeToken, StreamId};
use crate::rows::{ArrowMixed, Int64Encoding, Params, RowFormat, TextErrors, Value, non_finite};

/// Appends `message` as JSON to `out`.
pub(crate) fn encode_message(message: &ServerMessage, out: &mut Vec<u8>) {
    serde_json::to_writer(out, message).expect("a server message has only string keys, and a Vec takes every byte");
}

/// Appends `message` as JSON to `out`.
///
/// # Errors
/// For a parameter that JSON cannot carry: bytes, and reals that are no numbers. `out` is as it was then.
pub(crate) fn encode_client_message(message: &ClientMessage, out: &mut Vec<u8>) -> serde_json::Result<()> {
    let len = out.len();
    let encoded = serde_json::to_writer(&mut *out, &WireMessage::from(message));
    if encoded.is_err() {
        out.truncate(len);
    }
    encoded
}

/// A [`ClientMessage`] with its fields as they are written.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum WireMessage<'a> {
    StreamQuery(WireQuery<'a>),
    CancelQuery(WireRef<'a>),
    Ack {
        #[serde(flatten)]
        target: WireRef<'a>,
        batch_number: i64,
        #[serde(skip_serializing_if = "is_default")]
        end: bool,
    },
    PauseQuery(WireRef<'a>),
    UnpauseQuery(WireRef<'a>),
    ResumeQuery {
        resume_token: &'a ResumeToken,
        last_batch: i64,
        #[serde(skip_serializing_if = "Option::is_none")]
        window: Option<WindowRequest>,
        #[serde(skip_serializing_if = "Option::is_none")]
        request_id: Option<&'a RequestId>,
    },
    SetPriority {
        #[serde(flatten)]
        target: WireRef<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        priority: Option<u8>,
        #[serde(skip_serializing_if = "Option::is_none")]
        weight: Option<u16>,
    },
    QueryStatus(WireRef<'a>),
    ListQueries {
        scope: ListScope,
        #[serde(skip_serializing_if = "Option::is_none")]
        request_id: Option<&'a RequestId>,
    },
    Ping {
        #[serde(skip_serializing_if = "Option::is_none")]
        timestamp: Option<&'a serde_json::Value>,
    },
    DescribeQuery {
        query: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        engine: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        request_id: Option<&'a RequestId>,
    },
    Hello {
        #[serde(skip_serializing_if = "Option::is_none")]
        token: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        request_id: Option<&'a RequestId>,
    },
    #[serde(untagged)]
    Other {
        #[serde(rename = "type")]
        name: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        request_id: Option<&'a RequestId>,
    },
}

/// A stream by one of its names.
#[derive(Serialize)]
struct WireRef<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a RequestId>,
}

impl<'a> From<&'a StreamRef> for WireRef<'a> {
    fn from(target: &'a StreamRef) -> Self {
        match target {
            StreamRef::Stream(stream) => Self {
                stream_id: Some(stream.as_ref().map_or_else(Clone::clone, ToString::to_string)),
                request_id: None,
            },
            StreamRef::Request(request_id) => Self {
                stream_id: None,
                request_id: Some(request_id),
            },
        }
    }
}

/// A batch's number as clients write it: -1 for none.
fn wire_number(number: Option<u64>) -> i64 {
    number.map_or(-1, |number| i64::try_from(number).unwrap_or(i64::MAX))
}

/// Whether a field says what its absence says.
pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[derive(Serialize)]
struct WireQuery<'a> {
    query: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a RequestId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    batch_size: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    params: Option<WireParams<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    engine: Option<&'a str>,
    #[serde(skip_serializing_if = "is_default")]
    format: DataFormat,
    row_format: RowFormat,
    int64: Int64Encoding,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    compression: &'a [Compression],
    #[serde(skip_serializing_if = "Option::is_none")]
    progress_interval_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_batch_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_rows: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    window: Option<WindowRequest>,
    #[serde(skip_serializing_if = "is_default")]
    resumable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    weight: Option<u16>,
    #[serde(skip_serializing_if = "is_default")]
    checksum: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a str>,
    #[serde(skip_serializing_if = "is_default")]
    text_errors: TextErrors,
    #[serde(skip_serializing_if = "is_default")]
    arrow_mixed: ArrowMixed,
    #[serde(skip_serializing_if = "is_default")]
    cell_types: bool,
}

impl<'a> From<&'a ClientMessage> for WireMessage<'a> {
    fn from(message: &'a ClientMessage) -> Self {
        match message {
            ClientMessage::StreamQuery(query) => Self::StreamQuery(query.as_ref().into()),
            ClientMessage::CancelQuery(cancel) => Self::CancelQuery((&cancel.target).into()),
            ClientMessage::Ack(Ack {
                target,
                batch_number,
                end,
            }) => Self::Ack {
                target: target.into(),
                batch_number: wire_number(*batch_number),
                end: *end,
            },
            ClientMessage::PauseQuery(target) => Self::PauseQuery(target.into()),
            ClientMessage::UnpauseQuery(target) => Self::UnpauseQuery(target.into()),
            ClientMessage::ResumeQuery(ResumeQuery {
                resume_token,
                last_batch,
                window,
                request_id,
            }) => Self::ResumeQuery {
                resume_token,
                last_batch: wire_number(*last_batch),
                window: *window,
                request_id: request_id.as_ref(),
            },
            ClientMessage::SetPriority(SetPriority {
                target,
                priority,
                weight,
            }) => Self::SetPriority {
                target: target.into(),
                priority: *priority,
                weight: *weight,
            },
            ClientMessage::QueryStatus(target) => Self::QueryStatus(target.into()),
            ClientMessage::ListQueries(ListQueries { scope, request_id }) => Self::ListQueries {
                scope: *scope,
                request_id: request_id.as_ref(),
            },
            ClientMessage::DescribeQuery(DescribeQuery {
                query,
                engine,
                request_id,
            }) => Self::DescribeQuery {
                query,
                engine: engine.as_deref(),
                request_id: request_id.as_ref(),
            },
            ClientMessage::Hello(Hello { token, request_id }) => Self::Hello {
                token: token.as_deref(),
                request_id: request_id.as_ref(),
            },
            ClientMessage::Other { name, request_id } => Self::Other {
                name,
                request_id: request_id.as_ref(),
            },
            ClientMessage::Ping { timestamp } => Self::Ping {
                timestamp: timestamp.as_deref(),
            },
        }
    }
}

impl<'a> From<&'a StreamQuery> for WireQuery<'a> {
    fn from(query: &'a StreamQuery) -> Self {
        let StreamQuery {
            query,
            batch_size,
            request_id,
            params,
            engine,
            format,
            row_format,
            int64,
            compression,
            progress_interval_ms,
            max_batch_bytes,
            max_rows,
            max_bytes,
            timeout_ms,
            window,
            resumable,
            priority,
            weight,
            checksum,
            traceparent,
            text_errors,
            arrow_mixed,
            cell_types,
        } = query;
        Self {
            query,
            request_id: request_id.as_ref(),
            batch_size: *batch_size,
            params: (*params != Params::None).then_some(WireParams(params)),
            engine: engine.as_deref(),
            format: *format,
            row_format: *row_format,
            int64: *int64,
            compression,
            progress_interval_ms: *progress_interval_ms,
            max_batch_bytes: *max_batch_bytes,
            max_rows: *max_rows,
            max_bytes: *max_bytes,
            timeout_ms: *timeout_ms,
            window: *window,
            resumable: *resumable,
            priority: *priority,
            weight: *weight,
            checksum: *checksum,
            traceparent: traceparent.as_ref().map(TraceParent::as_str),
            text_errors: *text_errors,
            arrow_mixed: *arrow_mixed,
            cell_types: *cell_types,
        }
    }
}

struct WireParams<'a>(&'a Params);

impl Serialize for WireParams<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Params::None => serializer.serialize_none(),
            Params::Positional(values) => {
                let mut list = serializer.serialize_seq(Some(values.len()))?;
                for value in values {
                    list.serialize_element(&WireParam(value))?;
                }
                list.end()
            }
            Params::Named(values) => {
                let mut object = serializer.serialize_map(Some(values.len()))?;
                for (name, value) in values {
                    object.serialize_entry(name, &WireParam(value))?;
                }
                object.end()
            }
        }
    }
}

struct WireParam<'a>(&'a Value);

impl Serialize for WireParam<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Null => serializer.serialize_none(),
            Value::Boolean(value) => serializer.serialize_bool(*value),
            Value::Integer(value) => serializer.serialize_i64(*value),
            // Always with a point or an exponent, and so still a real at the other end.
            Value::Real(value) if value.is_finite() => serializer.serialize_f64(*value),
            Value::Real(value) => typed(serializer, "float64", non_finite(*value)),
            Value::Text(value) => serializer.serialize_str(value),
            Value::Blob(value) => typed(serializer, "blob", &BASE64.encode(value)),
        }
    }
}

fn typed<S: Serializer>(serializer: S, ty: &str, value: &str) -> Result<S::Ok, S::Error> {
    let mut object = serializer.serialize_map(Some(2))?;
    object.serialize_entry("type", ty)?;
    object.serialize_entry("value", value)?;
    object.end()
}

/// What surrounds the rows of one stream's batches: everything but the numbers is encoded once per stream.
#[derive(Debug)]
pub(crate) struct BatchEnvelope {
    /// Up to and including `"batch_number":`.
    head: Box<[u8]>,
}

/// The beginning of every batch of a stream, up to and including `"batch_number":`.
pub(super) fn push_batch_head(stream_id: StreamId, request_id: Option<&RequestId>) -> Box<[u8]> {
    let mut head = format!("{{\"type\":\"query_batch\",\"stream_id\":\"{stream_id}\"").into_bytes();
    if let Some(request_id) = request_id {
        head.extend_from_slice(b",\"request_id\":");
        serde_json::to_writer(&mut head, request_id).expect("a string or a number, into a Vec");
    }
    head.extend_from_slice(b",\"batch_number\":");
    head.into()
}

/// What follows in the header of a binary batch, from the batch's number on.
pub(super) fn push_batch_fields(header: &BatchHeader, out: &mut Vec<u8>) {
    push_u64(header.batch_number, out);
    push_counts(header.row_count, header.row_offset, header.checksum, out);
    if let Some(bytes) = header.cell_types_bytes {
        write!(out, ",\"cell_types_bytes\":{bytes}").expect("a Vec takes every byte");
    }
    let encoding = match header.encoding {
        DataFormat::Json => "json",
        DataFormat::Arrow => "arrow",
    };
    let BatchHeader {
        compression,
        uncompressed_bytes,
        has_more,
        ..
    } = header;
    write!(
        out,
        ",\"encoding\":\"{encoding}\",\"compression\":\"{}\",\"uncompressed_bytes\":{uncompressed_bytes},\"has_more\":{has_more}}}",
        compression.as_str()
    )
    .expect("a Vec takes every byte");
}

fn push_counts(row_count: u32, row_offset: u64, checksum: Option<u32>, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"row_count\":");
    push_u64(u64::from(row_count), out);
    out.extend_from_slice(b",\"row_offset\":");
    push_u64(row_offset, out);
    if let Some(checksum) = checksum {
        write!(out, ",\"checksum\":\"{checksum:08x}\"").expect("a Vec takes every byte");
    }
}

impl BatchEnvelope {
    pub(crate) fn new(stream_id: StreamId, request_id: Option<&RequestId>) -> Self {
        Self {
            head: push_batch_head(stream_id, request_id),
        }
    }

    /// Starts a batch message: the rows are to follow, from the last byte on, which is their opening bracket.
    pub(crate) fn open(&self, batch_number: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.head);
        push_u64(batch_number, out);
        out.extend_from_slice(b",\"rows\":[");
    }

    /// Ends a batch message behind its rows and their closing bracket.
    /// `cell_types` is a JSON array.
    pub(crate) fn close(
        row_count: u32,
        row_offset: u64,
        checksum: Option<u32>,
        cell_types: Option<&[u8]>,
        has_more: bool,
        out: &mut Vec<u8>,
    ) {
        push_counts(row_count, row_offset, checksum, out);
        if let Some(cell_types) = cell_types {
            out.extend_from_slice(b",\"cell_types\":");
            out.extend_from_slice(cell_types);
        }
        write!(out, ",\"has_more\":{has_more}}}").expect("a Vec takes every byte");
    }
}

/// A batch message that is sent once more: what it was, and a field that says so.
pub(crate) fn replayed(message: &[u8]) -> Vec<u8> {
    const SUFFIX: &[u8] = b",\"replay\":true}";
    let body = message.strip_suffix(b"}").unwrap_or(message);
    let mut out = Vec::with_capacity(body.len() + SUFFIX.len());
    out.extend_from_slice(body);
    out.extend_from_slice(SUFFIX);
    out
}

fn push_u64(number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

    use super::*;
    use crate::protocol::schema_test::check_client_message;
    use crate::protocol::{CancelQuery, decode_client_message, decode_server_message};

    fn encoded(message: &ClientMessage) -> serde_json::Result<String> {
        let mut out = Vec::new();
        encode_client_message(message, &mut out).map(|()| String::from_utf8(out).unwrap())
    }

    #[track_caller]
    fn check_round_trip(message: ClientMessage) {
        let text = encoded(&message).unwrap();
        if !matches!(message, ClientMessage::Other { .. }) {
            check_client_message(&text);
        }
        assert_eq!(decode_client_message(&text), Ok(message), "{text}");
    }

    fn query_with(params: Params) -> ClientMessage {
        ClientMessage::StreamQuery(Box::new(StreamQuery {
            params,
            ..StreamQuery::new("SELECT \"ä\"\n")
        }))
    }

    #[test]
    fn client_messages_survive_the_wire() {
        check_round_trip(query_with(Params::None));
        check_round_trip(query_with(Params::Positional(vec![
            Value::Null,
            true.into(),
            i64::MIN.into(),
            i64::MAX.into(),
            1.0.into(),
            (-0.0).into(),
            1e300.into(),
            f64::MIN_POSITIVE.into(),
            "q\"\u{0}".into(),
        ])));
        check_round_trip(query_with(Params::Named(vec![
            ("a b".into(), 1_i64.into()),
            ("b".into(), 2.0.into()),
        ])));
        check_round_trip(ClientMessage::StreamQuery(Box::new(StreamQuery {
            query: "q".into(),
            batch_size: Some(1),
            request_id: Some("r".into()),
            params: Params::None,
            engine: Some("e".into()),
            format: DataFormat::Json,
            row_format: RowFormat::Array,
            int64: Int64Encoding::Safe,
            compression: vec![Compression::Gzip, Compression::DeflateRaw],
            progress_interval_ms: Some(0),
            max_batch_bytes: Some(2),
            max_rows: Some(3),
            max_bytes: Some(4),
            timeout_ms: Some(u64::MAX),
            window: Some(WindowRequest {
                batches: Some(5),
                bytes: None,
            }),
            resumable: true,
            priority: Some(0),
            weight: Some(1),
            checksum: true,
            traceparent: TraceParent::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
            text_errors: TextErrors::Replace,
            arrow_mixed: ArrowMixed::Text,
            cell_types: true,
        })));
        for target in [
            StreamRef::Stream(Ok(StreamId::random())),
            StreamRef::Stream(Err("no id".into())),
            StreamRef::Request(7.into()),
        ] {
            check_round_trip(ClientMessage::PauseQuery(target.clone()));
            check_round_trip(ClientMessage::UnpauseQuery(target.clone()));
            check_round_trip(ClientMessage::QueryStatus(target.clone()));
            for (batch_number, end) in [(None, true), (Some(0), false), (Some(1 << 62), true)] {
                check_round_trip(ClientMessage::Ack(Ack {
                    target: target.clone(),
                    batch_number,
                    end,
                }));
            }
            check_round_trip(ClientMessage::SetPriority(SetPriority {
                target: target.clone(),
                priority: Some(7),
                weight: None,
            }));
            check_round_trip(ClientMessage::CancelQuery(CancelQuery { target }));
        }
        for (last_batch, window) in [(None, None), (Some(7), Some(WindowRequest::default()))] {
            check_round_trip(ClientMessage::ResumeQuery(ResumeQuery {
                resume_token: ResumeToken::from("token".to_owned()),
                last_batch,
                window,
                request_id: Some("r".into()),
            }));
        }
        for scope in [ListScope::Own, ListScope::All] {
            check_round_trip(ClientMessage::ListQueries(ListQueries {
                scope,
                request_id: None,
            }));
        }
        check_round_trip(ClientMessage::DescribeQuery(DescribeQuery {
            query: "q".into(),
            engine: Some("e".into()),
            request_id: Some(1.into()),
        }));
        check_round_trip(ClientMessage::Hello(Hello {
            token: Some("secret".into()),
            request_id: None,
        }));
        check_round_trip(ClientMessage::Other {
            name: "chat".to_owned(),
            request_id: Some(1.into()),
        });
        for timestamp in [None, Some(Box::new(serde_json::json!({"a": [1]})))] {
            check_round_trip(ClientMessage::Ping { timestamp });
        }
    }

    #[test]
    fn what_json_cannot_carry_travels_with_its_type() {
        check_round_trip(query_with(Params::Positional(vec![
            Value::Blob(vec![]),
            Value::Blob(vec![0, 255]),
            f64::INFINITY.into(),
            f64::NEG_INFINITY.into(),
        ])));
        let text = encoded(&query_with(Params::Positional(vec![f64::NAN.into()]))).unwrap();
        assert!(
            text.contains(r#""params":[{"type":"float64","value":"NaN"}]"#),
            "{text}"
        );
        assert!(decode_client_message(&text).is_ok());
    }

    #[test]
    fn an_envelope_makes_a_batch_message() {
        let stream_id = StreamId::random();
        for request_id in [None, Some(RequestId::from("quo\"te")), Some(RequestId::from(7))] {
            let envelope = BatchEnvelope::new(stream_id, request_id.as_ref());
            let mut out = Vec::new();
            envelope.open(u64::MAX, &mut out);
            out.extend_from_slice(b"[1],[2]");
            out.push(b']');
            BatchEnvelope::close(2, 98, Some(0x00c0_ffee), Some(b"[[1,0,\"blob\"]]"), false, &mut out);
            let again = String::from_utf8(replayed(&out)).unwrap();
            let text = String::from_utf8(out).unwrap();
            let Some(ServerMessage::QueryBatch(batch)) = decode_server_message(&text).unwrap() else {
                panic!("not a batch: {text}");
            };
            assert_eq!(batch.stream_id, stream_id);
            assert_eq!(batch.request_id, request_id);
            assert_eq!(batch.batch_number, u64::MAX);
            assert_eq!(batch.rows.get(), "[[1],[2]]");
            assert_eq!((batch.row_count, batch.row_offset, batch.has_more), (2, 98, false));
            assert_eq!((batch.checksum.as_deref(), batch.replay), (Some("00c0ffee"), false));
            assert_eq!(
                batch.cell_types,
                Some(vec![(1, 0, crate::rows::ColumnType::Blob).into()])
            );
            let Some(ServerMessage::QueryBatch(again)) = decode_server_message(&again).unwrap() else {
                panic!("not a batch: {again}");
            };
            assert!(again.replay && again.rows.get() == batch.rows.get());
        }
    }
}
