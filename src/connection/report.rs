//! How streams stand, as clients are told.
//!
//! Must not know how a client asks.

use std::sync::Arc;
use std::time::Instant;

use super::ConnectionContext;
use crate::auth::Rights;
use crate::clock::millis;
use crate::id::RequestId;
use crate::protocol::{
    Compression, LimitsMessage, ListMessage, Phase, ProgressDetail, ProgressMessage, RateMessage, ServerMessage,
    StatusMessage, StreamNotice, StreamState, WelcomeMessage,
};
use crate::rate::Rate;
use crate::scheduler::Stream;
use crate::stream::QueryStreamStatus;

/// Bytes of a query's text that a report shows.
const QUERY_BYTES_MAX: usize = 1024;

/// Streams in one list, and bytes of their queries' texts: what fits an answer that may wait unread.
const LISTED_MAX: usize = 256;
const LISTED_QUERY_BYTES_MAX: usize = 128 * 1024;

/// What a server that speaks this protocol can do beyond the fixed messages.
const CAPABILITIES: [&str; 11] = [
    "ack",
    "cell_types",
    "checksum",
    "describe_query",
    "list_queries",
    "pause_query",
    "priority",
    "query_status",
    "resume_query",
    "text_errors",
    "typed_params",
];

/// What somebody with these rights is told of the server.
pub(super) fn welcome(context: &ConnectionContext, rights: &Rights, request_id: Option<RequestId>) -> ServerMessage {
    let ConnectionContext {
        scheduler,
        session_limits,
        peer_limits,
        message_bytes_max,
        heartbeat,
        ..
    } = context;
    let config = scheduler.config();
    let mut capabilities: Vec<String> = CAPABILITIES.map(str::to_owned).into();
    if cfg!(feature = "arrow") {
        capabilities.extend(["arrow_mixed", "format:arrow"].map(str::to_owned));
    }
    let codecs = Compression::OFFERED.iter();
    capabilities.extend(codecs.map(|codec| format!("compression:{}", codec.as_str())));
    ServerMessage::Welcome(Box::new(WelcomeMessage {
        request_id,
        server: env!("CARGO_PKG_NAME").to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        server_id: scheduler.epoch().to_string(),
        capabilities,
        limits: LimitsMessage {
            message_bytes: *message_bytes_max as u64,
            query_bytes: session_limits.query_bytes_max as u64,
            batch_size: session_limits.batch_size_max,
            batch_bytes: session_limits.batch_bytes_max,
            row_bytes: config.row_bytes_max as u64,
            streams: session_limits.streams_max as u64,
            window_batches: session_limits.window_batches_max,
            window_bytes: session_limits.window_bytes_max,
            retention_bytes: config.retention_bytes,
            retention_seconds: config.retention.as_secs(),
            query_ms: millis(config.max_query_duration),
            stream_ms: config.max_stream_duration.map(millis),
            stall_ms: millis(config.stall_limit),
            fragments: peer_limits.fragments_max as u64,
            messages: session_limits.message_rate.map(rate),
            queries: session_limits.query_rate.map(rate),
            pings: peer_limits.ping_rate.map(rate),
            idle_ms: peer_limits.idle_timeout.map(millis),
        },
        engines: scheduler.engine_names(rights).map(str::to_owned).collect(),
        heartbeat_ms: millis(heartbeat.interval),
    }))
}

fn rate(rate: Rate) -> RateMessage {
    let Rate { per_second, burst } = rate;
    RateMessage { per_second, burst }
}

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

/// `for_admin` says whether to tell whose it is: everybody else knows.
pub(super) fn status(stream: &Stream, for_admin: bool, now: Instant) -> StatusMessage {
    let figures = stream.figures();
    let rank = stream.rank();
    let spec = stream.plan.asked.spec();
    let sql = &spec.sql;
    let elapsed = now.saturating_duration_since(stream.accepted_at);
    StatusMessage {
        stream_id: stream.id,
        request_id: stream.request_id.clone(),
        query: sql[..sql.floor_char_boundary(QUERY_BYTES_MAX)].to_owned(),
        engine: stream.plan.engine_name.to_string(),
        principal: stream.principal.name().filter(|_| for_admin).map(str::to_owned),
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
        elapsed_ms: millis(elapsed),
    }
}

/// How far a stream is that was doing `phase` when what is sent before this was taken.
pub(super) fn progress(stream: &Stream, phase: Phase, is_detailed: bool, now: Instant) -> ServerMessage {
    let (sample, reading) = stream.read_progress(now);
    let (total_rows, total_kind) = stream.total();
    let blocked_by = (phase == Phase::WaitingClient).then(|| stream.waits_for()).flatten();
    let hint = blocked_by.and_then(|by| stream.take_hint(by));
    let detail = is_detailed.then(|| ProgressDetail {
        percentage_delivered: reading.percentage_delivered,
        eta_ms: reading.eta.map(millis),
        elapsed_ms: millis(sample.elapsed),
        phase,
        total_rows,
        total_kind,
        rows_sent: stream.rows_sent(),
        bytes_sent: stream.bytes_sent(),
        queue_depth: stream.figures().batches_pending,
        blocked_by,
        hint,
    });
    ServerMessage::QueryProgress(ProgressMessage {
        stream_id: stream.id,
        request_id: stream.request_id.clone(),
        rows_processed: sample.done.rows,
        percentage: reading.percentage,
        throughput: reading.throughput,
        detail,
    })
}

/// The youngest of `streams`, as many as fit.
pub(super) fn list(
    mut streams: Vec<Arc<Stream>>,
    for_admin: bool,
    request_id: Option<RequestId>,
    now: Instant,
) -> ListMessage {
    let total = streams.len() as u64;
    streams.sort_by_key(|stream| std::cmp::Reverse(stream.accepted_at));
    let mut query_bytes = 0;
    let queries = streams
        .iter()
        .take(LISTED_MAX)
        .map(|stream| status(stream, for_admin, now))
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
