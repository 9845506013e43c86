//! What servers say, as types. `spec.md` says what it means.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value as Json};

use super::compress::Compression;
use super::encode::is_default;
use super::strict::from_value;
use crate::error::{CancelReason, ErrorCode};
use crate::id::{RequestId, ResumeToken, StreamId};
use crate::rows::{ColumnType, RowFormat, Schema};

/// What a server says. Known outside the crate also as [`StreamingMessage`](crate::StreamingMessage).
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ServerMessage {
    /// What the server is and can do: the first message to a client that asked for the subprotocol, and the answer to `hello`.
    Welcome(Box<WelcomeMessage>),
    /// The answer to `describe_query`.
    QueryDescription(Box<DescriptionMessage>),
    /// No worker is free; the query waits for its turn.
    QueryQueued(QueuedMessage),
    /// The query is about to run.
    QueryStarted(Box<StartedMessage>),
    /// The columns, from an engine that knows them only once rows come.
    QueryColumns(ColumnsMessage),
    /// Rows.
    QueryBatch(BatchMessage),
    /// Rows in columns: a `query_batch` in a binary message.
    #[serde(skip)]
    ArrowBatch(ArrowBatchMessage),
    /// How far the query is.
    QueryProgress(ProgressMessage),
    /// The stream stands still until it is unpaused.
    QueryPaused(StreamNotice),
    /// The stream goes on.
    QueryUnpaused(StreamNotice),
    /// The stream has a new connection.
    QueryResumed(ResumedMessage),
    /// How a stream stands.
    QueryStatus(StatusMessage),
    /// The streams that there are.
    QueryList(ListMessage),
    /// Terminator: all rows have been sent.
    QueryCompleted(CompletedMessage),
    /// Terminator: the stream was stopped.
    QueryCancelled(CancelledMessage),
    /// With `stream_id` a terminator, without the answer to a request.
    Error(ErrorMessage),
    /// The server is going away: streams may run on for a while, new ones are refused.
    Goaway(GoawayMessage),
    /// The answer to `ping`.
    Pong(PongMessage),
}

/// `goaway`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct GoawayMessage {
    /// Why; so far always `shutdown`.
    pub reason: String,
    /// Milliseconds after which streams that still run are cancelled.
    pub drain_ms: u64,
    /// Whether a stream whose connection is lost before that may still be resumed on this server.
    pub resumable: bool,
}

/// `welcome`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct WelcomeMessage {
    /// The `hello`'s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<RequestId>,
    /// The program's name.
    pub server: String,
    /// The program's version.
    pub version: String,
    /// Another one each time the server is started: tokens and streams of the one before are gone.
    pub server_id: String,
    /// What may be asked for beyond the fixed messages; see the specification's table.
    pub capabilities: Vec<String>,
    /// The most that may be asked for.
    pub limits: LimitsMessage,
    /// The engines' names; the first answers queries that name none.
    pub engines: Vec<String>,
    /// A peer that is silent for so many milliseconds is pinged.
    pub heartbeat_ms: u64,
}

/// `limits` in `welcome`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "Limits"))]
#[non_exhaustive]
pub struct LimitsMessage {
    /// Bytes of a message from a client.
    pub message_bytes: u64,
    /// Bytes of a query's text.
    pub query_bytes: u64,
    /// Rows of a batch.
    pub batch_size: u32,
    /// Bytes at which a batch closes.
    pub batch_bytes: u64,
    /// Bytes of one row.
    pub row_bytes: u64,
    /// Live streams of a connection.
    pub streams: u64,
    /// Batches of a window.
    pub window_batches: u32,
    /// Bytes of a window.
    pub window_bytes: u64,
    /// Bytes held for a stream that no connection has.
    pub retention_bytes: u64,
    /// Seconds that it is held.
    pub retention_seconds: u64,
    /// Milliseconds that a query may be at work, in its engine or waiting for a worker.
    pub query_ms: u64,
    /// Milliseconds that a stream may take, waiting for its client included; absent where there is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream_ms: Option<u64>,
    /// Milliseconds that a client may take nothing while something waits for it.
    pub stall_ms: u64,
    /// Frames of one message.
    pub fragments: u64,
    /// Messages a second on average, and at once; absent where there is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<RateMessage>,
    /// Queries a second that do not come to their end, and at once; absent where there is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queries: Option<RateMessage>,
    /// Pings and pongs a second, and at once; absent where there is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pings: Option<RateMessage>,
    /// Milliseconds without a stream and without a message; absent where there is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_ms: Option<u64>,
}

/// How often something may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "Rate"))]
#[non_exhaustive]
pub struct RateMessage {
    /// On average.
    pub per_second: u32,
    /// At once, after a time of rest.
    pub burst: u32,
}

/// `query_description`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct DescriptionMessage {
    /// The request's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<RequestId>,
    /// The columns; `None` where the engine knows them only once rows come.
    pub columns: Option<Schema>,
    /// The parameters, in the order in which they are bound.
    pub parameters: Vec<ParameterMessage>,
    /// Whether the query leaves the database as it is; `None` where the engine does not say.
    pub read_only: Option<bool>,
    /// How many rows there may be, where that is known without executing anything.
    pub estimated_rows: Option<u64>,
}

/// One parameter in `query_description`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "Parameter"))]
#[non_exhaustive]
pub struct ParameterMessage {
    /// Its name without the engine's sigil; `None` for one that has only its position.
    pub name: Option<String>,
}

/// `query_columns`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ColumnsMessage {
    /// The stream.
    pub stream_id: StreamId,
    /// The client's own name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<RequestId>,
    /// The columns, in order.
    pub columns: Schema,
}

/// `query_paused` and `query_unpaused`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct StreamNotice {
    /// The stream.
    pub stream_id: StreamId,
    /// The client's own name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<RequestId>,
}

/// `query_resumed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ResumedMessage {
    /// The stream.
    pub stream_id: StreamId,
    /// The client's own name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<RequestId>,
    /// The first batch that was never sent before.
    pub next_batch: u64,
    /// The first batch that comes again; `next_batch` where none does.
    pub resend_from: u64,
    /// The token for the next time; the one shown is dead.
    pub resume_token: ResumeToken,
    /// Where the stream is in its life.
    pub state: StreamState,
}

/// Where a stream is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StreamState {
    /// Waiting for its first turn on a worker.
    Queued,
    /// The engine is at work and no row has come yet.
    Executing,
    /// Rows are coming.
    Streaming,
    /// Nothing can be sent until the client takes what there is.
    WaitingClient,
    /// The client has paused it.
    Paused,
    /// All rows are out of the engine.
    Completed,
    /// The engine or the server failed.
    Failed,
    /// Somebody stopped it.
    Cancelled,
}

/// `query_status`, and one entry of `query_list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "Status"))]
#[non_exhaustive]
pub struct StatusMessage {
    /// The stream.
    pub stream_id: StreamId,
    /// The client's own name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<RequestId>,
    /// The query's text, its first 1,024 bytes.
    pub query: String,
    /// The name of its engine.
    pub engine: String,
    /// Whose it is, which only administrators are told; `None` where the server asks nobody who they are, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// Where it is in its life.
    pub state: StreamState,
    /// Whether a connection has it.
    pub attached: bool,
    /// Whether it survives a lost connection.
    pub resumable: bool,
    /// 0 to 7, the most urgent.
    pub priority: u8,
    /// Its share among streams of the same priority.
    pub weight: u16,
    /// Rows read from the engine.
    pub rows_processed: u64,
    /// Rows handed to the socket.
    pub rows_sent: u64,
    /// Bytes of batch messages handed to the socket.
    pub bytes_sent: u64,
    /// Batches handed to the socket.
    pub batches_sent: u64,
    /// Batches acknowledged; without a window, those handed to the socket.
    pub batches_acked: u64,
    /// Memory of the batches that are made and neither sent nor, where they are retained, acknowledged.
    pub bytes_held: u64,
    /// Milliseconds since the query was accepted.
    pub elapsed_ms: u64,
}

/// `query_list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ListMessage {
    /// The request's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<RequestId>,
    /// The streams, the youngest first, as many as fit.
    pub queries: Vec<StatusMessage>,
    /// How many there are.
    pub total: u64,
}

/// `pong`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct PongMessage {
    /// The ping's timestamp, unchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<Box<serde_json::Value>>,
}

/// `query_queued`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct QueuedMessage {
    /// The stream.
    pub stream_id: StreamId,
    /// The client's own name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<RequestId>,
    /// How many queries, this one included, wait for their first turn.
    pub position: u64,
}

/// `query_started`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct StartedMessage {
    /// The stream.
    pub stream_id: StreamId,
    /// The query as it was asked.
    pub query: String,
    /// How many rows there will be; `None` while unknown.
    pub estimated_rows: Option<u64>,
    /// The client's own name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<RequestId>,
    /// The columns; `None` where `query_columns` will tell.
    pub columns: Option<Schema>,
    /// How `estimated_rows` is known.
    pub total_kind: TotalKind,
    /// How batches are written.
    pub format: DataFormat,
    /// How rows are written in JSON.
    pub row_format: RowFormat,
    /// The codec that batches may be compressed with; `None` where they never are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,
    /// How much may be unacknowledged; `None` where nothing need be acknowledged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<WindowMessage>,
    /// The right to resume the stream; `None` where it was not asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume_token: Option<ResumeToken>,
    /// What is kept when the connection is lost; `None` where nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<RetentionMessage>,
}

/// The window of a stream, as granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "GrantedWindow"))]
#[non_exhaustive]
pub struct WindowMessage {
    /// Batches that may be unacknowledged.
    pub batches: u32,
    /// Bytes of batch messages that may be unacknowledged.
    pub bytes: u64,
}

/// What is kept of a stream whose connection is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "Retention"))]
#[non_exhaustive]
pub struct RetentionMessage {
    /// Bytes of batches that the engine may go on to make meanwhile.
    pub bytes: u64,
    /// How long.
    pub seconds: u64,
}

/// How rows travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum DataFormat {
    /// As JSON: in text messages, or in binary ones where batches are compressed.
    #[default]
    Json,
    /// As an Arrow IPC stream, a piece in each binary message.
    Arrow,
}

/// How a total is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum TotalKind {
    /// Counted.
    Exact,
    /// Guessed by the query planner.
    Planner,
    /// Reckoned from statistics, or from how far the scan has come.
    Statistics,
    /// Not known.
    #[default]
    None,
}

/// `query_batch`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct BatchMessage {
    /// The stream.
    pub stream_id: StreamId,
    /// The client's own name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<RequestId>,
    /// 0-based position of the batch in its stream.
    pub batch_number: u64,
    /// The rows, a JSON array, exactly as the server wrote it.
    #[cfg_attr(test, schemars(with = "super::schema_client_test::Rows"))]
    pub rows: Box<RawValue>,
    /// False only on a batch known to be the last.
    pub has_more: bool,
    /// How many rows the batch has.
    pub row_count: u64,
    /// 0-based position of the batch's first row in the result.
    pub row_offset: u64,
    /// CRC-32 of the text of `rows`, 8 hexadecimal digits; `None` where it was not asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<String>,
    /// The cells that are not what their column says; `None` where it was not asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cell_types: Option<Vec<CellType>>,
    /// Whether the batch was sent before, on a connection that was lost.
    #[serde(default, skip_serializing_if = "is_default")]
    pub replay: bool,
}

/// A cell that is not what its column says, and what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(from = "(u32, u32, ColumnType)", into = "(u32, u32, ColumnType)")]
#[non_exhaustive]
pub struct CellType {
    /// 0-based position of its row in the batch.
    pub row: u32,
    /// 0-based position of its column.
    pub column: u32,
    /// What it is: `int64`, `float64`, `text`, `blob` or `boolean`.
    pub ty: ColumnType,
}

impl From<(u32, u32, ColumnType)> for CellType {
    fn from((row, column, ty): (u32, u32, ColumnType)) -> Self {
        Self { row, column, ty }
    }
}

impl From<CellType> for (u32, u32, ColumnType) {
    fn from(CellType { row, column, ty }: CellType) -> Self {
        (row, column, ty)
    }
}

/// `query_batch` in a binary message, with rows as columns.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ArrowBatchMessage {
    /// The stream.
    pub stream_id: StreamId,
    /// The client's own name for it.
    pub request_id: Option<RequestId>,
    /// 0-based position of the batch in its stream.
    pub batch_number: u64,
    /// A piece of an Arrow IPC stream: with batch 0 the schema, and a record batch.
    pub payload: Vec<u8>,
    /// False only on a batch known to be the last.
    pub has_more: bool,
    /// How many rows the batch has.
    pub row_count: u64,
    /// 0-based position of the batch's first row in the result.
    pub row_offset: u64,
    /// CRC-32 of the payload, 8 hexadecimal digits; `None` where it was not asked for.
    pub checksum: Option<String>,
    /// The cells that are not what their field says; `None` where it was not asked for.
    pub cell_types: Option<Vec<CellType>>,
    /// Whether the batch was sent before, on a connection that was lost.
    pub replay: bool,
}

/// `query_progress`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ProgressMessage {
    /// The stream.
    pub stream_id: StreamId,
    /// The client's own name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<RequestId>,
    /// Rows read from the engine so far.
    pub rows_processed: u64,
    /// How much of the work is done: 0 to below 100, never falling; `None` without an honest total.
    pub percentage: Option<f64>,
    /// Rows per second, a moving average.
    pub throughput: f64,
    /// The fields beyond the fixed ones.
    #[serde(flatten, deserialize_with = "detail")]
    pub detail: Option<ProgressDetail>,
}

/// All of them or none: what `serde` makes of an optional part takes a field of a wrong type for none.
fn detail<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ProgressDetail>, D::Error> {
    let fields = Map::deserialize(deserializer)?;
    let is_there = fields.contains_key("phase");
    let detail = is_there.then(|| from_value(Json::Object(fields))).transpose();
    detail.map_err(D::Error::custom)
}

/// The fields of `query_progress` beyond the fixed ones; left out where the server's `detailed_progress` is off.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ProgressDetail {
    /// How much of the result the client has: acknowledged where the stream has a window, sent otherwise. 0 to below 100, never
    /// falling, at most `percentage`; `None` without an honest total.
    #[serde(default)]
    pub percentage_delivered: Option<f64>,
    /// Milliseconds until the client has everything, at the pace of the slower of engine and client; at most 30 days. `None` while
    /// that is unknown: the pace is not measured yet, or nothing moves.
    pub eta_ms: Option<u64>,
    /// Milliseconds since the query was accepted.
    pub elapsed_ms: u64,
    /// What the stream is doing.
    pub phase: Phase,
    /// The result's rows, where known.
    pub total_rows: Option<u64>,
    /// How `total_rows` is known.
    pub total_kind: TotalKind,
    /// Rows handed to the socket.
    pub rows_sent: u64,
    /// Bytes of batch messages handed to the socket.
    pub bytes_sent: u64,
    /// Batches waiting for the socket.
    pub queue_depth: u64,
    /// The bound that a stream in the phase `waiting_client` has reached; `None` in other phases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked_by: Option<BlockedBy>,
    /// What to do about that, for people: once, when the stream has stood still for half a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Which bound keeps a stream from going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BlockedBy {
    /// As many batches are unacknowledged as `window.batches` allows.
    WindowBatches,
    /// As many bytes are unacknowledged as `window.bytes` allows.
    WindowBytes,
    /// The connection takes no more: the client reads more slowly than rows are made.
    Connection,
    /// Other streams hold the server's memory for results.
    Memory,
}

impl BlockedBy {
    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WindowBatches => "window_batches",
            Self::WindowBytes => "window_bytes",
            Self::Connection => "connection",
            Self::Memory => "memory",
        }
    }
}

/// What a stream is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Phase {
    /// Waiting for its first turn on a worker.
    Queued,
    /// The engine is at work and no row has come yet.
    Executing,
    /// Rows are coming.
    Streaming,
    /// Nothing can be sent until the client takes what there is.
    WaitingClient,
    /// The client has paused it.
    Paused,
}

/// `query_completed`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct CompletedMessage {
    /// The stream.
    pub stream_id: StreamId,
    /// The client's own name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<RequestId>,
    /// Rows sent.
    pub total_rows: u64,
    /// Milliseconds from acceptance to the last row.
    pub execution_time_ms: u64,
    /// Batches sent.
    pub batches: u64,
    /// Bytes of batch messages sent.
    pub bytes: u64,
    /// What those would have been without compression.
    #[serde(default)]
    pub raw_bytes: u64,
    /// Milliseconds from acceptance until the engine gave its first row; `None` without one.
    pub time_to_first_row_ms: Option<u64>,
    /// Milliseconds spent in the engine, encoding included.
    pub engine_ms: u64,
    /// Milliseconds the stream could not go on because the client took nothing.
    pub stall_ms: u64,
    /// Whether rows were left out because of `max_rows` or `max_bytes`.
    pub truncated: bool,
    /// Which of the two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncate_reason: Option<TruncateReason>,
    /// SHA-256 of all rows, 64 hexadecimal digits; `None` where it was not asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// Which limit cut a result off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TruncateReason {
    /// The query's `max_rows`.
    MaxRows,
    /// The query's `max_bytes`.
    MaxBytes,
}

/// `query_cancelled`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct CancelledMessage {
    /// The stream.
    pub stream_id: StreamId,
    /// The client's own name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<RequestId>,
    /// Who or what stopped it.
    pub reason: CancelReason,
    /// The server's setting, or the query's own field, whose limit it reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,
    /// What happened, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// With `slow_client`, the bound behind which the client left everything for too long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked_by: Option<BlockedBy>,
    /// Rows sent before.
    pub rows_sent: u64,
    /// The last batch sent before; `None` where there was none.
    pub last_batch: Option<u64>,
    /// True once the engine call has returned.
    pub engine_stopped: bool,
    /// Milliseconds from the cancel to the engine's standstill.
    pub cancel_latency_ms: u64,
}

/// `error`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ErrorMessage {
    /// The stable code.
    pub code: ErrorCode,
    /// For people.
    pub message: String,
    /// The stream that this ends, or the id that named no stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream_id: Option<String>,
    /// The client's own name for the query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<RequestId>,
    /// The engine's own code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine_code: Option<String>,
    /// SQLSTATE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sqlstate: Option<String>,
    /// 0-based byte offset into the query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<u32>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// With `RESUME_GAP`, the oldest batch that is still held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_batch: Option<u64>,
    /// Whether the same request may succeed later.
    pub retryable: bool,
    /// Whether the engine had begun to execute: false means that provably nothing ran.
    pub started: bool,
}

impl ErrorMessage {
    /// An error that answers a request and concerns no stream.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            stream_id: None,
            request_id: None,
            engine_code: None,
            sqlstate: None,
            position: None,
            hint: None,
            oldest_batch: None,
            retryable: code.is_retryable(),
            started: false,
        }
    }
}
