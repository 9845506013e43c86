//! Why a stream was stopped before its natural end, and the limit that it reached.
//!
//! The texts are what a client reads in the terminator. Must not know how a stream is stopped.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::engine::{CancelReason, Contention};

/// The first cancel of a stream.
#[derive(Debug)]
pub(crate) struct Stop {
    pub(super) at: Instant,
    pub(super) reason: CancelReason,
    pub(super) limit: Option<Arc<LimitReached>>,
}

/// A limit, and what it means for the stream that reached it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LimitReached {
    /// The setting's name, or that of the query's own field; `None` for a limit that has none.
    pub(crate) setting: Option<&'static str>,
    /// What happened and what to do, as one clause.
    pub(crate) message: String,
}

impl LimitReached {
    fn new(setting: &'static str, message: String) -> Self {
        Self {
            setting: Some(setting),
            message,
        }
    }

    pub(super) fn query_duration(max: Duration) -> Self {
        let message = format!(
            "the query was at work for max_query_duration ({max:?}): time in the engine and waiting for a worker \
             counts, time waiting for the client does not"
        );
        Self::new("max_query_duration", message)
    }

    pub(super) fn stall(max: Duration) -> Self {
        let message = format!(
            "the client took and acknowledged nothing for stall_limit ({max:?}): acknowledge every batch, or pause \
             the stream"
        );
        Self::new("stall_limit", message)
    }

    pub(super) fn contention(contention: Contention) -> Self {
        Self::new(contention.setting, contention.message)
    }

    pub(super) fn engine_memory() -> Self {
        Self {
            setting: None,
            message: "other queries need the engine's memory, and this stream waited for its client: retry later"
                .to_owned(),
        }
    }
}

/// A limit on all the time of a stream, from its acceptance to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StreamDeadline {
    setting: &'static str,
    max: Duration,
}

impl StreamDeadline {
    /// The earlier of what the client asked for and what the server allows.
    pub(super) fn earliest(timeout: Option<Duration>, stream_max: Option<Duration>) -> Option<Self> {
        let asked = timeout.map(|max| Self {
            setting: "timeout_ms",
            max,
        });
        let allowed = stream_max.map(|max| Self {
            setting: "max_stream_duration",
            max,
        });
        asked.into_iter().chain(allowed).min_by_key(|deadline| deadline.max)
    }

    pub(super) fn after(self, accepted_at: Instant) -> Instant {
        crate::clock::after(accepted_at, self.max)
    }

    pub(super) fn reached(self) -> LimitReached {
        let Self { setting, max } = self;
        let message =
            format!("the stream took longer than {setting} ({max:?}): all time counts, waiting for the client too");
        LimitReached::new(setting, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earlier_deadline_holds_and_is_named() {
        let (short, long) = (Duration::from_millis(100), Duration::from_secs(100));
        let setting = |timeout, stream_max| {
            let reached = StreamDeadline::earliest(timeout, stream_max)?.reached();
            assert!(reached.message.contains(reached.setting?), "{reached:?}");
            reached.setting
        };
        assert_eq!(setting(None, None), None);
        assert_eq!(setting(Some(long), None), Some("timeout_ms"));
        assert_eq!(setting(Some(short), Some(long)), Some("timeout_ms"));
        assert_eq!(setting(Some(long), Some(short)), Some("max_stream_duration"));
        assert_eq!(setting(None, Some(long)), Some("max_stream_duration"));
    }
}
