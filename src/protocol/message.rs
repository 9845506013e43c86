//! The messages, as types. `spec.md` says what they mean.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::error::{CancelReason, ErrorCode};
use crate::id::{RequestId, ResumeToken, StreamId};
use crate::rows::{Int64Encoding, Params, RowFormat, Schema};

/// What a client says.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum ClientMessage {
    /// `stream_query`: run a query and stream its result.
    StreamQuery(Box<StreamQuery>),
    /// `cancel_query`: stop a stream.
    CancelQuery(CancelQuery),
    /// `ack`: batches have been processed.
    Ack(Ack),
    /// `pause_query`: make and send nothing more for now.
    PauseQuery(StreamRef),
    /// `unpause_query`: go on.
    UnpauseQuery(StreamRef),
    /// `resume_query`: go on with a stream whose connection was lost.
    ResumeQuery(ResumeQuery),
    /// `set_priority`: make a stream more or less urgent.
    SetPriority(SetPriority),
    /// `query_status`: how does this stream stand?
    QueryStatus(StreamRef),
    /// `list_queries`: which streams are there?
    ListQueries(ListQueries),
    /// `ping`: answer with `pong`, and the same timestamp.
    Ping {
        /// Anything; comes back unchanged.
        timestamp: Option<Box<serde_json::Value>>,
    },
    /// A message of the application that embeds the server.
    Other {
        /// Its `type`.
        name: String,
        /// Its `request_id`, if it has one.
        request_id: Option<RequestId>,
    },
}

/// `window`: how much may be unacknowledged. `None` leaves a bound to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct WindowRequest {
    /// Batches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batches: Option<u32>,
    /// Bytes of batch messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// `ack`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ack {
    /// The stream.
    pub target: StreamRef,
    /// The highest batch up to which all have been processed; `None` where the result has none.
    pub batch_number: Option<u64>,
    /// Whether the terminator has come: nothing of the stream need be kept.
    pub end: bool,
}

/// `resume_query`.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ResumeQuery {
    /// The token given out last.
    pub resume_token: ResumeToken,
    /// The last batch processed; `None` for none at all.
    pub last_batch: Option<u64>,
    /// A window in place of the one before.
    pub window: Option<WindowRequest>,
    /// Comes back in an `error` that refuses this.
    pub request_id: Option<RequestId>,
}

/// `set_priority`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SetPriority {
    /// The stream.
    pub target: StreamRef,
    /// Its new priority.
    pub priority: Option<u8>,
    /// Its new weight.
    pub weight: Option<u16>,
}

/// `list_queries`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListQueries {
    /// Whose streams.
    pub scope: ListScope,
    /// Comes back in the answer.
    pub request_id: Option<RequestId>,
}

/// Whose streams `list_queries` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ListScope {
    /// The client's own.
    #[default]
    Own,
    /// Everybody's.
    All,
}

/// `stream_query`. `None` leaves the choice to the server.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct StreamQuery {
    /// The query's text: one statement.
    pub query: String,
    /// Rows per batch.
    pub batch_size: Option<u32>,
    /// The client's own name for the query.
    pub request_id: Option<RequestId>,
    /// Parameters.
    pub params: Params,
    /// Name of one of the server's engines.
    pub engine: Option<String>,
    /// How one row is written.
    pub row_format: RowFormat,
    /// How integers are written.
    pub int64: Int64Encoding,
    /// Milliseconds between two `query_progress`; 0 for none.
    pub progress_interval_ms: Option<u64>,
    /// A batch closes with the row that reaches this many bytes.
    pub max_batch_bytes: Option<u64>,
    /// The result is cut off after this many rows.
    pub max_rows: Option<u64>,
    /// The result is cut off before the row that would pass this many bytes of encoded rows.
    pub max_bytes: Option<u64>,
    /// The query is stopped when it takes longer.
    pub timeout_ms: Option<u64>,
    /// How much may be unacknowledged.
    pub window: Option<WindowRequest>,
    /// Whether the stream shall survive a lost connection.
    pub resumable: bool,
    /// 0 to 7, the most urgent.
    pub priority: Option<u8>,
    /// 1 to 256: the share among streams of the same priority.
    pub weight: Option<u16>,
    /// Whether batches carry a checksum, and the end a digest of all rows.
    pub checksum: bool,
}

impl StreamQuery {
    /// A query that leaves everything else to the server.
    #[must_use]
    pub fn new(query: impl Into<String>) -> Self {
        Self {
            query: query.into(),
            ..Self::default()
        }
    }
}

/// `cancel_query`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CancelQuery {
    /// The stream to stop.
    pub target: StreamRef,
}

/// How a client names one of its streams.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StreamRef {
    /// By the `stream_id` in the server's messages. Kept as text where it is no UUID: it then names no stream.
    Stream(Result<StreamId, String>),
    /// By the `request_id` of its `stream_query`.
    Request(RequestId),
}

/// What a server says. Known outside the crate also as [`StreamingMessage`](crate::StreamingMessage).
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ServerMessage {
    /// No worker is free; the query waits for its turn.
    QueryQueued(QueuedMessage),
    /// The query is about to run.
    QueryStarted(Box<StartedMessage>),
    /// The columns, from an engine that knows them only once rows come.
    QueryColumns(ColumnsMessage),
    /// Rows.
    QueryBatch(BatchMessage),
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
    /// The answer to `ping`.
    Pong(PongMessage),
}

/// `query_columns`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
#[non_exhaustive]
pub struct PongMessage {
    /// The ping's timestamp, unchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<Box<serde_json::Value>>,
}

/// `query_queued`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// How rows are written.
    pub row_format: RowFormat,
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
#[non_exhaustive]
pub struct WindowMessage {
    /// Batches that may be unacknowledged.
    pub batches: u32,
    /// Bytes of batch messages that may be unacknowledged.
    pub bytes: u64,
}

/// What is kept of a stream whose connection is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RetentionMessage {
    /// Bytes of batches that the engine may go on to make meanwhile.
    pub bytes: u64,
    /// How long.
    pub seconds: u64,
}

/// How rows travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum DataFormat {
    /// As JSON, in text messages.
    #[default]
    Json,
}

/// How a total is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
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
    /// Whether the batch was sent before, on a connection that was lost.
    #[serde(default, skip_serializing_if = "is_false")]
    pub replay: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_false(value: &bool) -> bool {
    !value
}

/// `query_progress`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ProgressMessage {
    /// The stream.
    pub stream_id: StreamId,
    /// The client's own name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<RequestId>,
    /// Rows read from the engine so far.
    pub rows_processed: u64,
    /// 0 to 100, never falling; `None` without an honest total.
    pub percentage: Option<f64>,
    /// Rows per second, a moving average.
    pub throughput: f64,
    /// The fields beyond the fixed ones.
    #[serde(flatten)]
    pub detail: Option<ProgressDetail>,
}

/// The fields of `query_progress` beyond the fixed ones; left out where the server's `detailed_progress` is off.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ProgressDetail {
    /// Milliseconds left; `None` until they can be bounded.
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
}

/// What a stream is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
#[non_exhaustive]
pub struct CancelledMessage {
    /// The stream.
    pub stream_id: StreamId,
    /// The client's own name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<RequestId>,
    /// Who or what stopped it.
    pub reason: CancelReason,
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
