//! Looks at engines while streams are at rest: whether somebody waits for what their cursors hold.
//!
//! The first stream that comes to rest begins it, and a look that finds none at rest is the last. A look calls an engine, so the
//! timekeeper only rings for it, and the closer takes it: workers may all be inside long calls.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::TrySendError;

use super::Core;
use super::timekeeper::{Alarm, AlarmGuard};
use super::worker::Errand;
use crate::clock;
use crate::engine::Engine;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};

/// Time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// The alarm for the next look, if there is to be one.
#[derive(Debug, Default)]
pub(super) struct Watch {
    is_on: AtomicBool,
    alarm: Mutex<Option<AlarmGuard>>,
}

impl Core {
    /// A stream has come to rest: from now on there are looks. Never blocks.
    pub(super) fn watch(self: &Arc<Self>) {
        let is_on = &self.watch.is_on;
        if !is_on.load(Ordering::Relaxed) && !is_on.swap(true, Ordering::AcqRel) {
            self.look_at(clock::now() + LOOK_INTERVAL);
        }
    }

    /// Only for whoever has turned the watch on.
    fn look_at(self: &Arc<Self>, at: Instant) {
        let alarm = LookAlarm(Arc::downgrade(self));
        let guard = self.timekeeper.set(at, Arc::new(alarm));
        let before = self.watch.alarm.lock().replace(guard);
        drop(before);
    }

    /// Looks at each engine that has a stream at rest, and has one of its streams give way where somebody waits. Blocks as the engines do.
    pub(super) fn look(self: &Arc<Self>) {
        // Before the look at the streams: one that comes to rest behind it turns the watch on.
        self.watch.is_on.store(false, Ordering::Release);
        let engines = self.engines_at_rest();
        if engines.is_empty() {
            return;
        }
        let mut has_given_way = false;
        for (name, engine) in &engines {
            match catch_unwind(AssertUnwindSafe(|| engine.contention())) {
                Ok(Some(contention)) => has_given_way |= self.give_way(name, contention, clock::now()),
                Ok(None) => {}
                Err(_) => log::error!(engine = &**name; "the engine panicked while it was asked for contention"),
            }
        }
        if !self.watch.is_on.swap(true, Ordering::AcqRel) {
            let now = clock::now();
            // Where a stream has given way, its cursor is closed before the next look, and others may have to follow.
            self.look_at(if has_given_way { now } else { now + LOOK_INTERVAL });
        }
    }

    fn engines_at_rest(&self) -> BTreeMap<Arc<str>, Arc<dyn Engine>> {
        let streams = self.registry.all();
        let at_rest = streams.iter().filter(|stream| stream.is_parked());
        at_rest
            .map(|stream| (Arc::clone(&stream.plan.engine_name), Arc::clone(&stream.engine)))
            .collect()
    }
}

/// Rings for the next look.
struct LookAlarm(Weak<Core>);

impl Alarm for LookAlarm {
    fn ring(&self, now: Instant) -> Option<Instant> {
        let core = self.0.upgrade()?;
        let closer = core.closing.lock().clone()?;
        match closer.try_send(Errand::Look) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => None,
            Err(TrySendError::Full(_)) => Some(now + LOOK_INTERVAL),
        }
    }
}
