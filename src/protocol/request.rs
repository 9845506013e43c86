//! What clients say, as types. `spec.md` says what it means.

use serde::{Deserialize, Deserializer, Serialize};

use super::compress::Compression;
use super::decode::saturated;
use super::message::DataFormat;
use super::trace::TraceParent;
use crate::id::{RequestId, ResumeToken, StreamId};
use crate::rows::{ArrowMixed, Int64Encoding, Params, RowFormat, TextErrors};

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
    /// `describe_query`: what would this query give?
    DescribeQuery(DescribeQuery),
    /// `hello`: say what you can do.
    Hello(Hello),
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
    #[serde(
        default,
        deserialize_with = "number_of_batches",
        skip_serializing_if = "Option::is_none"
    )]
    pub batches: Option<u32>,
    /// Bytes of batch messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

fn number_of_batches<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let number = Option::deserialize(deserializer)?;
    Ok(number.map(|number| saturated(number, u32::MAX)))
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

/// `describe_query`. Nothing is executed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DescribeQuery {
    /// The query's text: one statement.
    pub query: String,
    /// Name of one of the server's engines.
    pub engine: Option<String>,
    /// Comes back in the answer.
    pub request_id: Option<RequestId>,
}

/// `hello`.
#[derive(Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Hello {
    /// Who the client is, for servers that want to know.
    pub token: Option<String>,
    /// Comes back in the answer.
    pub request_id: Option<RequestId>,
}

/// Without the token, which is a secret.
impl std::fmt::Debug for Hello {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hello")
            .field("has_token", &self.token.is_some())
            .field("request_id", &self.request_id)
            .finish()
    }
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
#[cfg_attr(test, derive(schemars::JsonSchema))]
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
    /// How rows travel.
    pub format: DataFormat,
    /// How one row is written in JSON.
    pub row_format: RowFormat,
    /// How integers are written in JSON.
    pub int64: Int64Encoding,
    /// Codecs for batches, the best first. Where the server has one of them, batches are binary messages.
    pub compression: Vec<Compression>,
    /// Milliseconds between two `query_progress`; 0 for none.
    pub progress_interval_ms: Option<u64>,
    /// A batch closes with the row that reaches this many bytes.
    pub max_batch_bytes: Option<u64>,
    /// The result is cut off after this many rows.
    pub max_rows: Option<u64>,
    /// The result is cut off before the row that would pass this many bytes of encoded rows.
    pub max_bytes: Option<u64>,
    /// The stream is stopped when it takes longer, all waiting included.
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
    /// The trace that the server's log names with the stream.
    pub traceparent: Option<TraceParent>,
    /// What becomes of a text that is not UTF-8.
    pub text_errors: TextErrors,
    /// What becomes of a column whose cells have no Arrow type in common.
    pub arrow_mixed: ArrowMixed,
    /// Whether batches say which cells are not what their column says.
    pub cell_types: bool,
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
