//! How streams stand, as clients are told.
//!
//! Must not know how a client asks.

use std::sync::Arc;
use std::time::Instant;

use crate::id::RequestId;
use crate::protocol::{ListMessage, StatusMessage, StreamNotice, StreamState};
use crate::scheduler::Stream;
use crate::stream::QueryStreamStatus;

/// Bytes of a query's text that a report shows.
const QUERY_BYTES_MAX: usize = 1024;

/// Streams in one list, and bytes of their queries' texts: what fits an answer that may wait unread.
const LISTED_MAX: usize = 256;
const LISTED_QUERY_BYTES_MAX: usize = 128 * 1024;

pub(super) fn notice(stream: &Stream) -> StreamNotice {
    StreamNotice {
        stream_id: stream.id,
        request_id: stream.request_id.clone(),
    }
}

pub(super) fn stream_state(status: QueryStreamStatus) -> StreamState {
    match status {
        QueryStreamStatus::Queued => StreamState::Queued,
        QueryStreamStatus::Executing => StreamState::Executing,
        QueryStreamStatus::Streaming => StreamState::Streaming,
        QueryStreamStatus::WaitingClient => StreamState::WaitingClient,
        QueryStreamStatus::Paused => StreamState::Paused,
        QueryStreamStatus::Completed => StreamState::Completed,
        QueryStreamStatus::Failed => StreamState::Failed,
        QueryStreamStatus::Cancelled => StreamState::Cancelled,
    }
}

pub(super) fn status(stream: &Stream, now: Instant) -> StatusMessage {
    let figures = stream.figures();
    let rank = stream.rank();
    let sql = &stream.plan.spec.sql;
    let elapsed = now.saturating_duration_since(stream.accepted_at);
    StatusMessage {
        stream_id: stream.id,
        request_id: stream.request_id.clone(),
        query: sql[..sql.floor_char_boundary(QUERY_BYTES_MAX)].to_owned(),
        engine: stream.plan.engine_name.to_string(),
        state: stream_state(stream.state()),
        attached: figures.is_attached,
        resumable: figures.is_resumable,
        priority: rank.priority,
        weight: rank.weight,
        rows_processed: stream.rows_read(),
        rows_sent: stream.rows_sent(),
        bytes_sent: stream.bytes_sent(),
        batches_sent: stream.batches_sent(),
        batches_acked: figures.batches_acked,
        bytes_held: stream.bytes_held() as u64,
        elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
    }
}

/// The youngest of `streams`, as many as fit.
pub(super) fn list(mut streams: Vec<Arc<Stream>>, request_id: Option<RequestId>, now: Instant) -> ListMessage {
    let total = streams.len() as u64;
    streams.sort_by_key(|stream| std::cmp::Reverse(stream.accepted_at));
    let mut query_bytes = 0;
    let queries = streams
        .iter()
        .take(LISTED_MAX)
        .map(|stream| status(stream, now))
        .take_while(|status| {
            query_bytes += status.query.len();
            query_bytes <= LISTED_QUERY_BYTES_MAX
        })
        .collect();
    ListMessage {
        request_id,
        queries,
        total,
    }
}
