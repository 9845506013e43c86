//! What a stream's work comes to: batches as whole messages, other messages, and one end.
//!
//! Must not know engines, or how a batch is made.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::budget::{Held, Permit};
use super::live::Stream;
use super::outlet::Note;
use super::stop::{LimitReached, Stop};
use crate::deflate::Deflated;
use crate::engine::CancelReason;
use crate::protocol::{ErrorMessage, TruncateReason};
use crate::stream::{Item, QueryStreamStatus};

/// What goes through a stream's channel, in the order it is to be sent.
pub(crate) type StreamEvent = Item<Arc<EncodedBatch>, Note, StreamEnd>;

/// How many messages besides batches a stream ever puts into its channel: queued, started, columns, terminator.
pub(super) const OTHER_EVENTS_MAX: usize = 4;

/// A whole `query_batch` message, ready for the socket. It counts as held until it is dropped, wherever that happens; its buffer is
/// used again then. For a connection that wants it so it is deflated, beside the plain one: that is what is sent again, and what
/// another connection may need.
#[derive(Debug)]
pub(crate) struct EncodedBatch {
    // Weak: the stream retains batches.
    stream: Weak<Stream>,
    rows: u32,
    message: Vec<u8>,
    is_binary: bool,
    raw_bytes: usize,
    deflated: Option<Deflated>,
    permit: Permit,
}

/// A message, and what there is to know of it.
pub(super) struct Framed {
    pub(super) message: Vec<u8>,
    pub(super) is_binary: bool,
    /// What it would be without compression.
    pub(super) raw_bytes: usize,
}

impl EncodedBatch {
    pub(super) fn new(stream: &Arc<Stream>, rows: u32, framed: Framed) -> Arc<Self> {
        let Framed {
            message,
            is_binary,
            raw_bytes,
        } = framed;
        // Here on the worker: the writer of a connection with many streams would have it all to do. What a codec has made small
        // gets no smaller.
        let is_compressed = message.len() < raw_bytes;
        let deflate = if is_compressed { None } else { stream.deflate() };
        let deflated = deflate.and_then(|deflate| deflate.deflate(&message));
        let bytes = message.capacity() + deflated.as_ref().map_or(0, |deflated| deflated.bytes().len());
        stream.batch_made(rows, message.len(), bytes);
        Arc::new(Self {
            stream: Arc::downgrade(stream),
            rows,
            message,
            is_binary,
            raw_bytes,
            deflated,
            permit: stream.account.hold(bytes, Held::Batches),
        })
    }

    /// How many rows it has.
    pub(crate) fn rows(&self) -> u32 {
        self.rows
    }

    /// The message.
    pub(crate) fn message(&self) -> &[u8] {
        &self.message
    }

    /// Whether it is a binary message.
    pub(crate) fn is_binary(&self) -> bool {
        self.is_binary
    }

    /// Bytes that the message would have without compression.
    pub(crate) fn raw_bytes(&self) -> usize {
        self.raw_bytes
    }

    /// The message deflated, where that was worth while.
    pub(crate) fn deflated(&self) -> Option<&Deflated> {
        self.deflated.as_ref()
    }
}

impl Drop for EncodedBatch {
    fn drop(&mut self) {
        if let Some(stream) = self.stream.upgrade() {
            stream.core.buffers.put(std::mem::take(&mut self.message));
            stream.batch_gone(self.permit.bytes());
        }
    }
}

/// Why a stream is over.
#[derive(Debug, Clone)]
pub(crate) enum StreamEnd {
    /// All rows are out.
    Completed(Box<Completion>),
    /// Somebody stopped it; the engine has returned.
    Cancelled {
        reason: CancelReason,
        /// From the cancel to the engine's standstill.
        latency: Duration,
        limit: Option<Arc<LimitReached>>,
    },
    /// The engine or the server failed.
    Failed(Box<ErrorMessage>),
}

impl StreamEnd {
    /// The engine has returned at `now`.
    pub(super) fn cancelled(stop: &Stop, now: Instant) -> Self {
        Self::Cancelled {
            reason: stop.reason,
            latency: now.saturating_duration_since(stop.at),
            limit: stop.limit.clone(),
        }
    }

    pub(crate) fn status(&self) -> QueryStreamStatus {
        match self {
            Self::Completed(_) => QueryStreamStatus::Completed,
            Self::Cancelled { .. } => QueryStreamStatus::Cancelled,
            Self::Failed(_) => QueryStreamStatus::Failed,
        }
    }

    pub(crate) fn is_completed(&self) -> bool {
        matches!(self, Self::Completed(_))
    }
}

/// The end of a whole result.
#[derive(Debug, Clone)]
pub(crate) struct Completion {
    pub(crate) timings: Timings,
    pub(crate) truncated: Option<TruncateReason>,
    pub(crate) digest: Option<String>,
}

/// Where the time went.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Timings {
    /// From acceptance to the end of the engine's work.
    pub(crate) execution: Duration,
    /// From acceptance until the first batch was closed.
    pub(crate) first_row: Option<Duration>,
    /// Inside the engine, encoding included.
    pub(crate) engine: Duration,
    /// Parked because the client took nothing.
    pub(crate) stall: Duration,
}
