//! Bytes in: one text message into one [`ClientMessage`] or [`ServerMessage`], or a clear error.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::{Map, Value as Json};

use super::compress::Compression;
use super::message::{DataFormat, ServerMessage};
use super::param::params;
use super::request::{
    Ack, CancelQuery, ClientMessage, DescribeQuery, Hello, ListQueries, ResumeQuery, SetPriority, StreamQuery,
    StreamRef,
};
use super::strict::{from_str, from_value};
use super::trace::TraceParent;
use crate::error::ErrorCode;
use crate::id::RequestId;
use crate::rows::Params;

/// Why bytes are no message. `request_id` is filled in wherever the message has a usable one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DecodeError {
    pub(crate) code: ErrorCode,
    pub(crate) message: String,
    pub(crate) request_id: Option<RequestId>,
}

impl DecodeError {
    pub(super) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            request_id: None,
        }
    }

    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::BadMessage, message)
    }
}

/// Reads one text message. Unknown fields are ignored.
///
/// # Errors
/// `BAD_MESSAGE` for anything that is not a message, `UNSUPPORTED` for known messages and options that this server does
/// not offer, `PARAMETER_ERROR` for parameters that no engine could take.
pub(crate) fn decode_client_message(text: &str) -> Result<ClientMessage, DecodeError> {
    let mut object: Map<String, Json> = match serde_json::from_str(text) {
        Ok(Json::Object(object)) => object,
        Ok(_) => return Err(DecodeError::bad("a message is a JSON object")),
        Err(error) => return Err(DecodeError::bad(format!("not JSON: {error}"))),
    };
    let request_id = field::<RequestId>(&mut object, "request_id")?;
    let decoded = match object.get("type").and_then(Json::as_str) {
        Some("stream_query") => stream_query(text, &mut object, request_id.clone()),
        Some("cancel_query") => {
            stream_ref(&mut object, request_id.clone()).map(|target| ClientMessage::CancelQuery(CancelQuery { target }))
        }
        Some("ack") => ack(&mut object, request_id.clone()),
        Some("pause_query") => stream_ref(&mut object, request_id.clone()).map(ClientMessage::PauseQuery),
        Some("unpause_query") => stream_ref(&mut object, request_id.clone()).map(ClientMessage::UnpauseQuery),
        Some("resume_query") => resume_query(&mut object, request_id.clone()),
        Some("set_priority") => set_priority(&mut object, request_id.clone()),
        Some("query_status") => query_status(&mut object, request_id.clone()),
        Some("list_queries") => field(&mut object, "scope").map(|scope| {
            ClientMessage::ListQueries(ListQueries {
                scope: scope.unwrap_or_default(),
                request_id: request_id.clone(),
            })
        }),
        Some("ping") => Ok(ClientMessage::Ping {
            timestamp: object.remove("timestamp").map(Box::new),
        }),
        Some("describe_query") => describe_query(&mut object, request_id.clone()),
        Some("hello") => field(&mut object, "token").map(|token| {
            ClientMessage::Hello(Hello {
                token,
                request_id: request_id.clone(),
            })
        }),
        Some(other) => Ok(ClientMessage::Other {
            name: other.to_owned(),
            request_id: request_id.clone(),
        }),
        None => Err(DecodeError::bad("a message has a \"type\", a string")),
    };
    decoded.map_err(|mut error| {
        error.request_id = request_id;
        error
    })
}

fn stream_query(
    text: &str,
    object: &mut Map<String, Json>,
    request_id: Option<RequestId>,
) -> Result<ClientMessage, DecodeError> {
    let query =
        field::<String>(object, "query")?.ok_or_else(|| DecodeError::bad("stream_query has a \"query\", a string"))?;
    let format = match field::<String>(object, "format")?.as_deref() {
        None | Some("json") => DataFormat::Json,
        Some("arrow") if cfg!(feature = "arrow") => DataFormat::Arrow,
        Some(other) => {
            let text = format!("format {}: this server does not offer it", quoted(other));
            return Err(DecodeError::new(ErrorCode::Unsupported, text));
        }
    };
    // Codecs that this server does not have are passed over: a client lists all that it could read.
    let codecs = field::<Vec<String>>(object, "compression")?.unwrap_or_default();
    let compression = codecs.iter().filter_map(|name| Compression::offered(name)).collect();
    Ok(ClientMessage::StreamQuery(Box::new(StreamQuery {
        query,
        request_id,
        batch_size: positive(object, "batch_size")?.map(|size| saturated(size, u32::MAX)),
        params: match object.remove("params") {
            None | Some(Json::Null) => Params::None,
            Some(_) => params(text)?,
        },
        engine: field(object, "engine")?,
        format,
        compression,
        row_format: field(object, "row_format")?.unwrap_or_default(),
        int64: field(object, "int64")?.unwrap_or_default(),
        progress_interval_ms: field(object, "progress_interval_ms")?,
        max_batch_bytes: positive(object, "max_batch_bytes")?,
        max_rows: positive(object, "max_rows")?,
        max_bytes: positive(object, "max_bytes")?,
        timeout_ms: positive(object, "timeout_ms")?,
        window: field(object, "window")?,
        resumable: field(object, "resumable")?.unwrap_or_default(),
        priority: field(object, "priority")?.map(|priority| saturated(priority, u8::MAX)),
        weight: positive(object, "weight")?.map(|weight| saturated(weight, u16::MAX)),
        checksum: field(object, "checksum")?.unwrap_or_default(),
        traceparent: field::<String>(object, "traceparent")?.and_then(|text| TraceParent::parse(&text)),
        text_errors: field(object, "text_errors")?.unwrap_or_default(),
        arrow_mixed: field(object, "arrow_mixed")?.unwrap_or_default(),
        cell_types: field(object, "cell_types")?.unwrap_or_default(),
    })))
}

fn describe_query(object: &mut Map<String, Json>, request_id: Option<RequestId>) -> Result<ClientMessage, DecodeError> {
    let query = field(object, "query")?.ok_or_else(|| DecodeError::bad("describe_query has a \"query\", a string"))?;
    Ok(ClientMessage::DescribeQuery(DescribeQuery {
        query,
        engine: field(object, "engine")?,
        request_id,
    }))
}

fn stream_ref(object: &mut Map<String, Json>, request_id: Option<RequestId>) -> Result<StreamRef, DecodeError> {
    let stream_id = field::<String>(object, "stream_id")?;
    match (stream_id, request_id) {
        (Some(text), _) => Ok(StreamRef::Stream(text.parse().map_err(|_| text))),
        (None, Some(request_id)) => Ok(StreamRef::Request(request_id)),
        (None, None) => Err(DecodeError::bad("the message has a \"stream_id\" or a \"request_id\"")),
    }
}

fn ack(object: &mut Map<String, Json>, request_id: Option<RequestId>) -> Result<ClientMessage, DecodeError> {
    let target = stream_ref(object, request_id)?;
    let batch_number = last_batch(object, "batch_number")?;
    let end = field(object, "end")?.unwrap_or_default();
    Ok(ClientMessage::Ack(Ack {
        target,
        batch_number,
        end,
    }))
}

fn resume_query(object: &mut Map<String, Json>, request_id: Option<RequestId>) -> Result<ClientMessage, DecodeError> {
    let resume_token = field(object, "resume_token")?
        .ok_or_else(|| DecodeError::bad("resume_query has a \"resume_token\", a string"))?;
    let last_batch = last_batch(object, "last_batch")?;
    let window = field(object, "window")?;
    Ok(ClientMessage::ResumeQuery(ResumeQuery {
        resume_token,
        last_batch,
        window,
        request_id,
    }))
}

fn set_priority(object: &mut Map<String, Json>, request_id: Option<RequestId>) -> Result<ClientMessage, DecodeError> {
    let target = stream_ref(object, request_id)?;
    Ok(ClientMessage::SetPriority(SetPriority {
        target,
        priority: field(object, "priority")?.map(|priority| saturated(priority, u8::MAX)),
        weight: positive(object, "weight")?.map(|weight| saturated(weight, u16::MAX)),
    }))
}

fn query_status(object: &mut Map<String, Json>, request_id: Option<RequestId>) -> Result<ClientMessage, DecodeError> {
    let query_id = field::<String>(object, "query_id")?;
    let stream_id = object.entry("stream_id").or_insert(Json::Null);
    if stream_id.is_null() {
        *stream_id = query_id.map_or(Json::Null, Json::String);
    }
    stream_ref(object, request_id).map(ClientMessage::QueryStatus)
}

/// A batch's number, where -1 stands for none.
fn last_batch(object: &mut Map<String, Json>, name: &'static str) -> Result<Option<u64>, DecodeError> {
    let number: i64 =
        field(object, name)?.ok_or_else(|| DecodeError::bad(format!("the message has a \"{name}\", an integer")))?;
    match number {
        -1 => Ok(None),
        number => u64::try_from(number)
            .map(Some)
            .map_err(|_| DecodeError::bad(format!("{name}: {number} is no batch, and less than -1"))),
    }
}

/// Reads one text message of a server. `Ok(None)` for a type that this version does not know.
///
/// # Errors
/// What serde says of anything that is not a message.
pub(crate) fn decode_server_message(text: &str) -> serde_json::Result<Option<ServerMessage>> {
    #[derive(Deserialize)]
    struct Tag<'a> {
        #[serde(borrow, rename = "type")]
        name: Cow<'a, str>,
    }
    // Batches are most of the bytes, and our own servers put the tag first: they are read once.
    let tag = if text.starts_with("{\"type\":\"query_batch\"") {
        Cow::Borrowed("query_batch")
    } else {
        from_str::<Tag<'_>>(text)?.name
    };
    Ok(Some(match tag.as_ref() {
        "welcome" => ServerMessage::Welcome(from_str(text)?),
        "query_description" => ServerMessage::QueryDescription(from_str(text)?),
        "query_queued" => ServerMessage::QueryQueued(from_str(text)?),
        "query_started" => ServerMessage::QueryStarted(from_str(text)?),
        "query_columns" => ServerMessage::QueryColumns(from_str(text)?),
        "query_batch" => ServerMessage::QueryBatch(from_str(text)?),
        "query_progress" => ServerMessage::QueryProgress(from_str(text)?),
        "query_paused" => ServerMessage::QueryPaused(from_str(text)?),
        "query_unpaused" => ServerMessage::QueryUnpaused(from_str(text)?),
        "query_resumed" => ServerMessage::QueryResumed(from_str(text)?),
        "query_status" => ServerMessage::QueryStatus(from_str(text)?),
        "query_list" => ServerMessage::QueryList(from_str(text)?),
        "query_completed" => ServerMessage::QueryCompleted(from_str(text)?),
        "query_cancelled" => ServerMessage::QueryCancelled(from_str(text)?),
        "error" => ServerMessage::Error(from_str(text)?),
        "goaway" => ServerMessage::Goaway(from_str(text)?),
        "pong" => ServerMessage::Pong(from_str(text)?),
        _ => return Ok(None),
    }))
}

/// Takes a field out of the message; null counts as absent.
fn field<T: for<'de> Deserialize<'de>>(
    object: &mut Map<String, Json>,
    name: &'static str,
) -> Result<Option<T>, DecodeError> {
    match object.remove(name) {
        None | Some(Json::Null) => Ok(None),
        Some(value) => from_value(value)
            .map(Some)
            .map_err(|error| DecodeError::bad(format!("{name}: {error}"))),
    }
}

fn positive<T: for<'de> Deserialize<'de> + Default + PartialEq>(
    object: &mut Map<String, Json>,
    name: &'static str,
) -> Result<Option<T>, DecodeError> {
    match field::<T>(object, name)? {
        Some(value) if value == T::default() => Err(DecodeError::bad(format!("{name}: must be at least 1"))),
        value => Ok(value),
    }
}

/// A number that is too large for its field is beyond the field's limit, which is for others to say.
pub(super) fn saturated<T: TryFrom<u64>>(number: u64, most: T) -> T {
    T::try_from(number).unwrap_or(most)
}

/// A peer's text in quotes, shortened, with control characters escaped.
pub(crate) fn quoted(text: &str) -> String {
    const CHARS_MAX: usize = 64;
    let shown: String = text.chars().take(CHARS_MAX).collect();
    let ellipsis = if shown.len() < text.len() { "…" } else { "" };
    format!("{shown:?}{ellipsis}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

    use super::*;
    use crate::protocol::WindowRequest;
    use crate::rows::{ArrowMixed, Int64Encoding, RowFormat, TextErrors, Value};

    #[track_caller]
    fn query(text: &str) -> StreamQuery {
        match decode_client_message(text) {
            Ok(ClientMessage::StreamQuery(query)) => *query,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[track_caller]
    fn check_refused(text: &str, code: ErrorCode, says: &str) {
        let error = decode_client_message(text).unwrap_err();
        assert_eq!(error.code, code, "{text}: {error:?}");
        assert!(error.message.contains(says), "{text}: {error:?}");
    }

    #[test]
    fn the_plain_query_is_enough() {
        let plain = query(r#"{"type":"stream_query","query":"SELECT 1","batch_size":100}"#);
        assert_eq!(plain.query, "SELECT 1");
        assert_eq!(plain.batch_size, Some(100));
        assert_eq!(plain.params, Params::None);
    }

    #[test]
    fn every_field_is_read_and_unknown_ones_are_not() {
        let full = query(
            r#"{"type":"stream_query","query":"q","request_id":"r","params":[1,-2.5,"x",null,true],"engine":"e",
                "row_format":"array","int64":"safe","progress_interval_ms":0,"max_batch_bytes":1,"max_rows":2,
                "max_bytes":3,"timeout_ms":4,"format":"json","compression":["br","gzip","none"],"batch_size":null,"colour":"blue","window":{"batches":1},
                "resumable":true,"priority":7,"weight":256,"checksum":true,
                "text_errors":"blob","arrow_mixed":"text","cell_types":true,
                "traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}"#,
        );
        let expected = StreamQuery {
            query: "q".into(),
            batch_size: None,
            request_id: Some("r".into()),
            params: Params::Positional(vec![1_i64.into(), (-2.5).into(), "x".into(), Value::Null, true.into()]),
            engine: Some("e".into()),
            format: DataFormat::Json,
            compression: vec![Compression::Gzip],
            row_format: RowFormat::Array,
            int64: Int64Encoding::Safe,
            progress_interval_ms: Some(0),
            max_batch_bytes: Some(1),
            max_rows: Some(2),
            max_bytes: Some(3),
            timeout_ms: Some(4),
            window: Some(WindowRequest {
                batches: Some(1),
                bytes: None,
            }),
            resumable: true,
            priority: Some(7),
            weight: Some(256),
            checksum: true,
            traceparent: TraceParent::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
            text_errors: TextErrors::Blob,
            arrow_mixed: ArrowMixed::Text,
            cell_types: true,
        };
        assert_eq!(full, expected);
        let untraced = query(r#"{"type":"stream_query","query":"q","traceparent":"\u001b[2J"}"#);
        assert_eq!(untraced.traceparent, None);
        let vast = query(r#"{"type":"stream_query","query":"q","batch_size":4294967296,"weight":65536}"#);
        assert_eq!((vast.batch_size, vast.weight), (Some(u32::MAX), Some(u16::MAX)));
        let named = query(r#"{"type":"stream_query","query":"q","params":{"a":1}}"#);
        assert_eq!(named.params, Params::Named(vec![("a".into(), 1_i64.into())]));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        use ErrorCode::{BadMessage, ParameterError, Unsupported};
        check_refused("", BadMessage, "not JSON");
        check_refused("[]", BadMessage, "object");
        check_refused("{}", BadMessage, "type");
        check_refused(r#"{"type":7}"#, BadMessage, "type");
        check_refused(r#"{"type":"stream_query"}"#, BadMessage, "query");
        check_refused(r#"{"type":"stream_query","query":1}"#, BadMessage, "query");
        check_refused(
            r#"{"type":"stream_query","query":"","batch_size":0}"#,
            BadMessage,
            "batch_size",
        );
        check_refused(
            r#"{"type":"stream_query","query":"","batch_size":-1}"#,
            BadMessage,
            "batch_size",
        );
        check_refused(
            r#"{"type":"stream_query","query":"","batch_size":18446744073709551616}"#,
            BadMessage,
            "batch_size",
        );
        check_refused(r#"{"type":"stream_query","query":"","int64":"x"}"#, BadMessage, "int64");
        for (field, value) in [
            ("text_errors", r#""lossy""#),
            ("text_errors", "true"),
            ("arrow_mixed", r#""union""#),
            ("cell_types", r#""yes""#),
        ] {
            let text = format!(r#"{{"type":"stream_query","query":"","{field}":{value}}}"#);
            check_refused(&text, BadMessage, field);
        }
        check_refused(r#"{"type":"stream_query","query":"","params":1}"#, BadMessage, "params");
        check_refused(
            r#"{"type":"stream_query","query":"","traceparent":1}"#,
            BadMessage,
            "traceparent",
        );
        check_refused(
            r#"{"type":"stream_query","query":"","params":[[]]}"#,
            ParameterError,
            "parameter 1",
        );
        check_refused(
            r#"{"type":"stream_query","query":"","params":[9223372036854775808]}"#,
            ParameterError,
            "64 bits",
        );
        check_refused(
            r#"{"type":"stream_query","query":"","format":"parquet"}"#,
            Unsupported,
            "parquet",
        );
        check_refused(r#"{"type":"cancel_query"}"#, BadMessage, "stream_id");
        check_refused(r#"{"type":"hello","token":1}"#, BadMessage, "token");
        check_refused(r#"{"type":"describe_query"}"#, BadMessage, "query");
        for refused in [
            r#"{}"#,
            r#"{"value":1}"#,
            r#"{"type":"int64"}"#,
            r#"{"type":"integer","value":1}"#,
            r#"{"type":"int64","value":1,"unit":"m"}"#,
            r#"{"type":"int64","value":1.5}"#,
            r#"{"type":"int64","value":"9223372036854775808"}"#,
            r#"{"type":"float64","value":"nan"}"#,
            r#"{"type":"float64","value":true}"#,
            r#"{"type":"boolean","value":1}"#,
            r#"{"type":"blob","value":"AA"}"#,
            r#"{"type":"date","value":20261126}"#,
            r#"{"type":"any","value":{"type":"any","value":1}}"#,
        ] {
            let text = format!(r#"{{"type":"stream_query","query":"","params":{{"p":{refused}}}}}"#);
            check_refused(&text, ParameterError, "parameter \"p\"");
        }
        check_refused(r#"{"type":"ack","batch_number":1}"#, BadMessage, "stream_id");
        check_refused(r#"{"type":"ack","stream_id":""}"#, BadMessage, "batch_number");
        for number in ["-2", "1e308", "1.5", "18446744073709551615", "\"1\""] {
            let text = format!(r#"{{"type":"ack","stream_id":"","batch_number":{number}}}"#);
            check_refused(&text, BadMessage, "batch_number");
        }
        check_refused(r#"{"type":"resume_query","last_batch":1}"#, BadMessage, "resume_token");
        check_refused(
            r#"{"type":"resume_query","resume_token":"x"}"#,
            BadMessage,
            "last_batch",
        );
        check_refused(
            r#"{"type":"set_priority","stream_id":"","priority":-1}"#,
            BadMessage,
            "priority",
        );
        check_refused(
            r#"{"type":"set_priority","stream_id":"","weight":0}"#,
            BadMessage,
            "weight",
        );
        check_refused(r#"{"type":"list_queries","scope":"mine"}"#, BadMessage, "scope");
        check_refused(
            r#"{"type":"stream_query","query":"","window":{"bytes":-1}}"#,
            BadMessage,
            "window",
        );
        check_refused(r#"{"type":"ping","request_id":{}}"#, BadMessage, "request_id");
        check_refused(&"[".repeat(100_000), BadMessage, "recursion");
    }

    #[test]
    fn errors_name_the_request_they_answer() {
        let error = decode_client_message(r#"{"type":"stream_query","request_id":5}"#).unwrap_err();
        assert_eq!(error.request_id, Some(RequestId::from(5)));
    }

    #[test]
    fn cancels_name_a_stream_or_a_request() {
        let id = crate::id::StreamId::random();
        let by_id = decode_client_message(&format!(r#"{{"type":"cancel_query","stream_id":"{id}"}}"#)).unwrap();
        let expected = CancelQuery {
            target: StreamRef::Stream(Ok(id)),
        };
        assert_eq!(by_id, ClientMessage::CancelQuery(expected));
        let by_request = decode_client_message(r#"{"type":"cancel_query","request_id":1}"#).unwrap();
        let expected = CancelQuery {
            target: StreamRef::Request(1.into()),
        };
        assert_eq!(by_request, ClientMessage::CancelQuery(expected));
    }
}
