//! What is not urgent leaves soon: one list of the outboxes in which something waits for company, and one alarm for all of them.
//!
//! A timer of each writer's own would wake a thousand threads to save each a write.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::outbox::Outbox;
use crate::clock;
use crate::scheduler::{Alarm, AlarmGuard, Scheduler};
use crate::sync::Mutex;

/// How long what is not urgent may wait for more.
const SOON: Duration = Duration::from_millis(2);

#[derive(Default)]
struct State {
    /// Each outbox is in here once at the most.
    waiting: Vec<Arc<Outbox>>,
    armed: bool,
    guard: Option<AlarmGuard>,
}

/// The outboxes in which something waits for company.
pub(crate) struct SoonList {
    // Weak: the scheduler's timekeeper holds the alarm, and this is in the alarm.
    scheduler: Weak<Scheduler>,
    state: Mutex<State>,
}

impl fmt::Debug for SoonList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SoonList").finish_non_exhaustive()
    }
}

impl SoonList {
    pub(crate) fn new(scheduler: &Arc<Scheduler>) -> Self {
        Self {
            scheduler: Arc::downgrade(scheduler),
            state: Mutex::new(State::default()),
        }
    }

    /// One that wakes nobody: for tests in which time does not pass.
    #[cfg(test)]
    pub(super) fn still() -> Self {
        Self {
            scheduler: Weak::new(),
            state: Mutex::new(State::default()),
        }
    }

    /// Has the outbox's writer woken soon. Never blocks.
    pub(super) fn add(self: &Arc<Self>, outbox: Arc<Outbox>) {
        // Before the lock, and so let go after it: the last one to let go of a scheduler stops it.
        let scheduler = self.scheduler.upgrade();
        let mut state = self.state.lock();
        state.waiting.push(outbox);
        if !std::mem::replace(&mut state.armed, true)
            && let Some(scheduler) = &scheduler
        {
            let alarm = Arc::clone(self) as Arc<dyn Alarm>;
            // Under the lock: whoever set the next alarm before this one is kept would have it taken back.
            let guard = scheduler.timekeeper().set(clock::now() + SOON, alarm);
            state.guard = Some(guard);
        }
    }
}

impl Alarm for SoonList {
    fn ring(&self, now: Instant) -> Option<Instant> {
        let waiting = {
            let mut state = self.state.lock();
            if state.waiting.is_empty() {
                // Quiet since the last time: whoever comes next sets the alarm again.
                state.armed = false;
                return None;
            }
            std::mem::take(&mut state.waiting)
        };
        for outbox in waiting {
            outbox.soon_is_now();
        }
        Some(now + SOON)
    }
}
