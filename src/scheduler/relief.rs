//! Memory of engines that streams at rest keep from others.
//!
//! What a query has sorted or grouped stays in its engine's memory while its stream rests, and engines of one pool may have one bound for
//! all their queries. Where others come near that, the stream goes that has rested longest, those that nobody has before all others. One at a
//! time: how much each has, no engine says.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Core;
use super::live::Stream;
use super::stop::LimitReached;
use crate::engine::{CancelReason, Engine};
use crate::id::StreamId;
use crate::sync::Mutex;

/// For so long, whoever is connected may leave a stream at rest whatever others need.
pub(super) const REST_MIN: Duration = Duration::from_secs(5);

/// What somebody has met with.
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
    /// Stops a stream that rests at the cost of others, where there is need and such a stream. What it had is free a moment later.
    pub(super) fn relieve(self: &Arc<Self>, engine: &dyn Engine, need: Need, now: Instant) {
        if !need.is_felt_by(engine) {
            return;
        }
        let streams = self.registry.all();
        let resting = streams.iter().filter_map(|stream| Some((rest(stream, now)?, stream)));
        let longest = resting
            .filter(|(_, stream)| stream.engine.memory_pool() == engine.memory_pool())
            .min_by_key(|(rest, _)| *rest);
        let Some(((is_attached, _), stream)) = longest else {
            return;
        };
        if !self.relief.begin(stream.id, now) {
            return;
        }
        if is_attached {
            log::warn!(stream:% = stream.id, principal = stream.principal.name(); "a stream is stopped whose client leaves it at rest: the engine's memory is scarce");
            stream.cancel_at_limit(CancelReason::SlowClient, LimitReached::engine_memory());
        } else {
            self.give_up(stream, now, "the engine's memory is scarce");
        }
    }
}

/// Whether somebody is connected to the stream, and since when it rests; `None` for one that does not, or has not for long enough.
fn rest(stream: &Stream, now: Instant) -> Option<(bool, Instant)> {
    if !stream.is_parked() {
        return None;
    }
    let (left_at, moved_at) = stream.rests_since();
    match left_at {
        Some(left_at) => Some((false, left_at)),
        None => (now >= moved_at + REST_MIN).then_some((true, moved_at)),
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
