//! What streams at rest hold of their engine, and others need.
//!
//! A stream that waits for its client keeps its cursor, and with it what that has of its engine: memory in which it has sorted or grouped, a
//! lock, an old snapshot. Where others need that, one stream at rest is stopped, and the next one only once the engine has back what the
//! first one had.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Core;
use super::live::Stream;
use super::stop::LimitReached;
use crate::engine::{CancelReason, Contention, Engine};
use crate::id::StreamId;
use crate::sync::Mutex;

/// For so long, whoever is connected may leave a stream at rest whatever memory others need.
pub(super) const REST_MIN: Duration = Duration::from_secs(5);

/// Who needs an engine's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// A query that is to begin may find too little: a quarter of the bound is left at the most.
    Foreseen,
    /// A query has been refused memory, which by now it has given back. Half of the bound or more is with others.
    Refused,
}

impl Need {
    fn is_felt_by(self, engine: &dyn Engine) -> bool {
        let (Some(bytes), Some(bytes_max)) = (engine.memory_bytes(), engine.memory_bytes_max()) else {
            return false;
        };
        match self {
            Self::Foreseen => bytes > bytes_max / 4 * 3,
            Self::Refused => bytes > bytes_max / 2,
        }
    }
}

/// How long others wait for what a stopped stream had, where its cursor does not close.
const CLOSING_MAX: Duration = Duration::from_secs(1);

/// The stream that was stopped last, and when, until its cursor is closed: what it had is not free before, and to stop another meanwhile
/// would be to stop all of them.
#[derive(Debug, Default)]
pub(super) struct Relief(Mutex<Option<(StreamId, Instant)>>);

impl Relief {
    /// False where another is being stopped.
    fn begin(&self, stream: StreamId, now: Instant) -> bool {
        let mut under_way = self.0.lock();
        if under_way.is_some_and(|(_, since)| now < since + CLOSING_MAX) {
            return false;
        }
        *under_way = Some((stream, now));
        true
    }

    /// The stream's cursor is closed.
    pub(super) fn closed(&self, stream: StreamId) {
        self.0.lock().take_if(|(under_way, _)| *under_way == stream);
    }
}

impl Core {
    /// Stops the stream that has rested longest, those that nobody has before all others, where an engine's memory is needed: how much each has,
    /// no engine says. What it had is free a moment later.
    pub(super) fn relieve(self: &Arc<Self>, engine: &dyn Engine, need: Need, now: Instant) {
        if !need.is_felt_by(engine) {
            return;
        }
        let streams = self.registry.all();
        let of_pool = streams
            .iter()
            .filter(|stream| stream.engine.memory_pool() == engine.memory_pool());
        let resting = of_pool.filter_map(|stream| Some((rest(stream, REST_MIN, now)?, stream)));
        if let Some((rest, stream)) = resting.min_by_key(|(rest, _)| *rest) {
            self.stop_at_rest(stream, rest, LimitReached::engine_memory(), now);
        }
    }

    /// Stops the stream of the engine with this name whose cursor has been open longest, if it is at rest. While that one is at work nobody is
    /// stopped, for what others hold is not what is waited for. Returns whether one was.
    pub(super) fn give_way(self: &Arc<Self>, engine_name: &str, contention: Contention, now: Instant) -> bool {
        let streams = self.registry.all();
        let open = streams
            .iter()
            .filter(|stream| *stream.plan.engine_name == *engine_name && !stream.status().is_terminal())
            .filter_map(|stream| Some((stream.opened_at()?, stream)));
        let Some((_, stream)) = open.min_by_key(|(opened_at, _)| *opened_at) else {
            return false;
        };
        let Some(rest) = rest(stream, contention.rest_min, now) else {
            return false;
        };
        self.stop_at_rest(stream, rest, LimitReached::contention(contention), now)
    }

    fn stop_at_rest(self: &Arc<Self>, stream: &Arc<Stream>, rest: Rest, limit: LimitReached, now: Instant) -> bool {
        if !self.relief.begin(stream.id, now) {
            return false;
        }
        log::warn!(
            stream:% = stream.id, principal = stream.principal.name(), limit = limit.setting;
            "a stream at rest is stopped: {}", limit.message
        );
        if rest.is_attached {
            stream.cancel_at_limit(CancelReason::SlowClient, limit);
        } else {
            self.give_up(stream, now, "what they hold of their engine is needed");
        }
        true
    }
}

/// A stream at rest: the least gives way first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rest {
    is_attached: bool,
    since: Instant,
}

/// `None` for a stream that does not rest or, while a client is connected to it, has not for long enough.
fn rest(stream: &Stream, rest_min: Duration, now: Instant) -> Option<Rest> {
    if !stream.is_parked() {
        return None;
    }
    let (left_at, moved_at) = stream.rests_since();
    match left_at {
        Some(since) => Some(Rest {
            is_attached: false,
            since,
        }),
        None => (now >= moved_at + rest_min).then_some(Rest {
            is_attached: true,
            since: moved_at,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn one_stream_is_stopped_at_a_time() {
        let [first, second, third] = [(); 3].map(|()| StreamId::random());
        let (relief, now) = (Relief::default(), clock::now());
        assert!(relief.begin(first, now));
        assert!(!relief.begin(second, now));
        relief.closed(second);
        assert!(!relief.begin(second, now), "that was another");
        relief.closed(first);
        assert!(relief.begin(second, now));
        assert!(relief.begin(third, now + CLOSING_MAX), "nobody waits for ever");
    }
}
