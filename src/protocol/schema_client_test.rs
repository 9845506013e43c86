//! What clients may write and what has no type of its own, as types: only the schema is made of them, and tests hold them to the code.
//!
//! The types in `request.rs` are what a message means, those in `encode.rs` what our client writes; a client may leave out more.
#![cfg(test)]
#![allow(dead_code)] // only their schemas are used

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Value as Json, json};

use super::compress::Compression;
use super::message::DataFormat;
use super::request::ListScope;
use crate::id::{REQUEST_ID_CHARS_MAX, RequestId, ResumeToken};
use crate::rows::{ArrowMixed, ColumnType, Int64Encoding, RowFormat, TextErrors};

/// A condition: this name of a stream is there, and is not null.
fn is_there(field: &str) -> Json {
    let types = if field == "request_id" {
        json!(["string", "integer"])
    } else {
        json!("string")
    };
    json!({"required": [field], "properties": {field: {"type": types}}})
}

/// The rows of a batch, at least one.
#[derive(JsonSchema)]
#[schemars(inline)]
pub(super) struct Rows(Vec<Row>);

/// One row, as the query's `row_format` says.
#[derive(JsonSchema)]
#[serde(untagged)]
pub(super) enum Row {
    /// The columns' labels and cells.
    Object(BTreeMap<String, Json>),
    /// The cells, in the order of the columns.
    Array(Vec<Json>),
}

impl JsonSchema for RequestId {
    fn schema_name() -> Cow<'static, str> {
        "RequestId".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "The client's own name for a query: a string of at most 64 characters, or an integer of 64 bits.",
            "anyOf": [
                {"type": "string", "maxLength": REQUEST_ID_CHARS_MAX},
                {"type": "integer", "format": "int64"},
            ],
        })
    }
}

/// What the header of a binary `query_batch` has in the place of `rows`.
#[derive(JsonSchema)]
pub(super) struct BinaryFields {
    /// What the payload is: `json`, the text that `rows` would have; `arrow`, a piece of an Arrow IPC stream.
    encoding: DataFormat,
    /// How the payload is compressed.
    compression: Compression,
    /// The payload's length before compression.
    uncompressed_bytes: u64,
    /// Bytes behind the payload, to the end of the message, that are the batch's `cell_types`; absent where it was not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    cell_types_bytes: Option<u64>,
}

/// What a client says. A field that is `null` counts as absent; fields that are not known are ignored.
#[derive(JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum ClientMessage {
    /// Run a query and stream its result.
    StreamQuery(Box<StreamQuery>),
    /// Stop a stream.
    CancelQuery(StreamRef),
    /// Batches have been processed. Cumulative.
    Ack(Ack),
    /// Make and send nothing more for now.
    PauseQuery(StreamRef),
    /// Go on.
    UnpauseQuery(StreamRef),
    /// Go on with a stream whose connection was lost.
    ResumeQuery(ResumeQuery),
    /// Make a stream more or less urgent. There is no answer.
    SetPriority(SetPriority),
    /// How does this stream stand?
    QueryStatus(StatusRef),
    /// Which streams are there?
    ListQueries(ListQueries),
    /// Answer with `pong`, and the same timestamp.
    Ping(Ping),
    /// What would this query give? Nothing is executed.
    DescribeQuery(DescribeQuery),
    /// Say what you can do.
    Hello(Hello),
}

/// `stream_query`.
#[derive(JsonSchema)]
pub(super) struct StreamQuery {
    /// The text of exactly one statement.
    query: String,
    /// Rows per batch, at most `limits.batch_size` of `welcome`; default 100.
    #[schemars(range(min = 1))]
    batch_size: Option<u32>,
    /// The client's own name for the stream; unique among the connection's live streams.
    request_id: Option<RequestId>,
    /// Parameters by position, or by name without a sigil.
    params: Option<Params>,
    /// One of the server's engines; default the first.
    engine: Option<String>,
    /// How rows travel; default `json`.
    format: Option<DataFormat>,
    /// Names of codecs that the client can read, the best first; those that the server has not are passed over.
    compression: Option<Vec<String>>,
    /// How one row is written in JSON; default `object`.
    row_format: Option<RowFormat>,
    /// How integers are written in JSON; default `number`.
    int64: Option<Int64Encoding>,
    /// Milliseconds between two `query_progress`, at least 50; 0 for none; default 500.
    progress_interval_ms: Option<u64>,
    /// A batch closes with the row that reaches this many bytes of rows, at most `limits.batch_bytes`; default 262,144.
    #[schemars(range(min = 1))]
    max_batch_bytes: Option<u64>,
    /// The result is cut off after this many rows.
    #[schemars(range(min = 1))]
    max_rows: Option<u64>,
    /// The result is cut off before the row that would make all rows more than this many bytes.
    #[schemars(range(min = 1))]
    max_bytes: Option<u64>,
    /// The stream is stopped when it takes longer, all waiting included, for a worker and for the client; default none.
    #[schemars(range(min = 1))]
    timeout_ms: Option<u64>,
    /// How much may be unacknowledged; absent: nothing need be acknowledged.
    window: Option<WindowRequest>,
    /// Whether the stream survives a lost connection; implies a `window`; default false.
    resumable: Option<bool>,
    /// The most urgent is 7; default 3.
    #[schemars(range(min = 0, max = 7))]
    priority: Option<u8>,
    /// The share among streams of the same priority; default 16.
    #[schemars(range(min = 1, max = 256))]
    weight: Option<u16>,
    /// Whether batches carry a `checksum` and the end a `digest`; default false.
    checksum: Option<bool>,
    /// The trace of the client's that the server's log names with the stream, as W3C Trace Context has it; ignored where it is malformed.
    traceparent: Option<String>,
    /// What becomes of a text that is not UTF-8; default `fail`.
    text_errors: Option<TextErrors>,
    /// What becomes of a column whose cells have no Arrow type in common; default `fail`.
    arrow_mixed: Option<ArrowMixed>,
    /// Whether batches say which cells are not what their column says; default false.
    cell_types: Option<bool>,
}

/// Parameters by position, or by name without a sigil.
#[derive(JsonSchema)]
#[serde(untagged)]
pub(super) enum Params {
    /// By position.
    Positional(Vec<Param>),
    /// By name, without a sigil.
    Named(BTreeMap<String, Param>),
}

/// One parameter. A number without a fraction or an exponent is an integer, any other is a double.
#[derive(JsonSchema)]
#[serde(untagged)]
pub(super) enum Param {
    /// NULL.
    Null(()),
    /// True or false.
    Boolean(bool),
    /// An integer or a double.
    Number(f64),
    /// Text.
    Text(String),
    /// What JSON cannot say.
    Typed(TypedParam),
}

/// A parameter that says what it is.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct TypedParam {
    /// One of the types that columns have.
    #[serde(rename = "type")]
    ty: ColumnType,
    /// In the form of that type, or null.
    value: Json,
}

/// How much may be unacknowledged.
#[derive(JsonSchema)]
pub(super) struct WindowRequest {
    /// Batches, at most `limits.window_batches`; default 64.
    #[schemars(range(min = 1))]
    batches: Option<u32>,
    /// Bytes of batch messages, without compression, at most `limits.window_bytes`; default 2,097,152.
    #[schemars(range(min = 1))]
    bytes: Option<u64>,
}

/// A stream, by one of its names.
#[derive(JsonSchema)]
#[schemars(extend("anyOf" = [is_there("stream_id"), is_there("request_id")]))]
pub(super) struct StreamRef {
    /// The stream.
    stream_id: Option<String>,
    /// The stream, by the client's own name, where `stream_id` is absent.
    request_id: Option<RequestId>,
}

/// A stream, by one of its names.
#[derive(JsonSchema)]
#[schemars(extend("anyOf" = [is_there("stream_id"), is_there("query_id"), is_there("request_id")]))]
pub(super) struct StatusRef {
    /// The stream, of whatever connection of the client.
    stream_id: Option<String>,
    /// The same.
    query_id: Option<String>,
    /// The stream, by the client's own name, where both are absent.
    request_id: Option<RequestId>,
}

/// `ack`.
#[derive(JsonSchema)]
#[schemars(extend("anyOf" = [is_there("stream_id"), is_there("request_id")]))]
pub(super) struct Ack {
    /// The stream, on this connection.
    stream_id: Option<String>,
    /// The stream, by the client's own name, where `stream_id` is absent.
    request_id: Option<RequestId>,
    /// The batch up to which all have been processed; -1 for none.
    #[schemars(range(min = -1))]
    batch_number: i64,
    /// Whether the terminator has come too, so that nothing of a resumable stream need be held; default false.
    end: Option<bool>,
}

/// `resume_query`.
#[derive(JsonSchema)]
pub(super) struct ResumeQuery {
    /// The token given out last.
    resume_token: ResumeToken,
    /// The batch up to which all have been processed; -1 for none.
    #[schemars(range(min = -1))]
    last_batch: i64,
    /// A window in place of the one before.
    window: Option<WindowRequest>,
    /// Comes back in the `error` that refuses this, and nowhere else.
    request_id: Option<RequestId>,
}

/// `set_priority`. What is absent stays as it is.
#[derive(JsonSchema)]
#[schemars(extend("anyOf" = [is_there("stream_id"), is_there("request_id")]))]
pub(super) struct SetPriority {
    /// The stream, on this connection.
    stream_id: Option<String>,
    /// The stream, by the client's own name, where `stream_id` is absent.
    request_id: Option<RequestId>,
    /// The most urgent is 7.
    #[schemars(range(min = 0, max = 7))]
    priority: Option<u8>,
    /// The share among streams of the same priority.
    #[schemars(range(min = 1, max = 256))]
    weight: Option<u16>,
}

/// `list_queries`.
#[derive(JsonSchema)]
pub(super) struct ListQueries {
    /// Whose streams; default `own`. `all` needs the admin right.
    scope: Option<ListScope>,
    /// Comes back in the answer.
    request_id: Option<RequestId>,
}

/// `ping`.
#[derive(JsonSchema)]
pub(super) struct Ping {
    /// Anything; comes back in the `pong`.
    timestamp: Option<Json>,
}

/// `describe_query`.
#[derive(JsonSchema)]
pub(super) struct DescribeQuery {
    /// The text of exactly one statement.
    query: String,
    /// One of the server's engines; default the first.
    engine: Option<String>,
    /// Comes back in the answer.
    request_id: Option<RequestId>,
}

/// `hello`.
#[derive(JsonSchema)]
pub(super) struct Hello {
    /// Who the client is, for servers that want to know.
    token: Option<String>,
    /// Comes back in the answer.
    request_id: Option<RequestId>,
}
