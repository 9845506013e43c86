//! The timekeeper: one thread that rings alarms when they are due.
//!
//! Owns all waiting for a time to come. Must not know what an alarm is about.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::clock;
use crate::sync::{Condvar, Mutex};
use crate::thread::{STACK_BYTES_CONNECTION, spawn_named};

/// An alarm does not ring again before so much time has passed.
const AGAIN_MIN: Duration = Duration::from_millis(1);

/// Something to do at a time. Rung on the timekeeper's thread with no lock held; must not block.
pub(crate) trait Alarm: Send + Sync {
    /// It is `now`, which is not before the time set. Returns when to ring again.
    fn ring(&self, now: Instant) -> Option<Instant>;
}

#[derive(Default)]
struct State {
    by_time: BTreeMap<(Instant, u64), Arc<dyn Alarm>>,
    /// The time of every alarm whose guard lives; an alarm that is being rung is in here alone.
    times: HashMap<u64, Instant>,
    ids: u64,
    closed: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// Sets alarms. Dropping it ends the thread and joins it.
pub(crate) struct Timekeeper {
    shared: Arc<Shared>,
    /// The first beat.
    started_at: Instant,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for Timekeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timekeeper").finish_non_exhaustive()
    }
}

/// An alarm that is set. Dropping it takes the alarm back: it does not ring again, though one that is ringing right now may
/// still finish.
pub(crate) struct AlarmGuard {
    shared: Arc<Shared>,
    id: u64,
}

impl fmt::Debug for AlarmGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AlarmGuard").field(&self.id).finish()
    }
}

impl Timekeeper {
    /// Starts the thread.
    ///
    /// # Errors
    /// Where the system has no thread to give.
    pub(crate) fn start() -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State::default()),
            changed: Condvar::new(),
        });
        let thread = {
            let shared = Arc::clone(&shared);
            spawn_named("timekeeper", STACK_BYTES_CONNECTION, move || shared.ring_until_closed())?
        };
        Ok(Self {
            shared,
            started_at: clock::now(),
            thread: Mutex::new(Some(thread)),
        })
    }

    /// One that never rings: for tests in which time does not pass.
    #[cfg(all(test, rowstream_shuttle))]
    pub(super) fn still() -> Self {
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(State::default()),
                changed: Condvar::new(),
            }),
            started_at: clock::now(),
            thread: Mutex::new(None),
        }
    }

    /// What the thread would do: for tests that schedule it.
    #[cfg(all(test, rowstream_shuttle))]
    pub(super) fn ring(&self) -> impl FnOnce() + Send + use<> {
        let shared = Arc::clone(&self.shared);
        move || shared.ring_until_closed()
    }

    /// Makes all alarms due that are set.
    #[cfg(all(test, rowstream_shuttle))]
    pub(crate) fn let_time_pass(&self) {
        let mut guard = self.shared.state.lock();
        let state = &mut *guard;
        let now = clock::now();
        for ((_, id), alarm) in std::mem::take(&mut state.by_time) {
            state.by_time.insert((now, id), alarm);
            state.times.insert(id, now);
        }
        drop(guard);
        self.shared.changed.notify_one();
    }

    /// Has `alarm` rung at `at`, or at once if that has passed. Never blocks.
    #[must_use]
    pub(crate) fn set(&self, at: Instant, alarm: Arc<dyn Alarm>) -> AlarmGuard {
        let mut state = self.shared.state.lock();
        state.ids += 1;
        let id = state.ids;
        let first = state
            .by_time
            .first_key_value()
            .is_none_or(|((earliest, _), _)| at < *earliest);
        state.by_time.insert((at, id), alarm);
        state.times.insert(id, at);
        if first {
            self.shared.changed.notify_one();
        }
        AlarmGuard {
            shared: Arc::clone(&self.shared),
            id,
        }
    }

    /// The last beat up to `at`, where beats are `every` so much time. Alarms that need not be exact are set to beats: then many ring with one
    /// wake-up of the thread.
    pub(crate) fn beat(&self, at: Instant, every: Duration) -> Instant {
        let since = at.saturating_duration_since(self.started_at);
        let beyond = since.as_nanos().checked_rem(every.as_nanos()).unwrap_or(0);
        at - Duration::from_nanos(u64::try_from(beyond).unwrap_or(0))
    }

    /// Ends the thread and waits for it. Alarms not yet rung never are. Idempotent.
    pub(crate) fn stop(&self) {
        self.shared.state.lock().closed = true;
        self.shared.changed.notify_one();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
            && thread.join().is_err()
        {
            log::error!("the timekeeper panicked");
        }
        // An alarm may hold what holds the timekeeper.
        let left = std::mem::take(&mut self.shared.state.lock().by_time);
        drop(left);
    }

    /// How many alarms are set.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.shared.state.lock().times.len()
    }
}

impl Drop for Timekeeper {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Drop for AlarmGuard {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        let removed = state
            .times
            .remove(&self.id)
            .and_then(|at| state.by_time.remove(&(at, self.id)));
        drop(state);
        // The alarm's own drop is foreign code: not under the lock.
        drop(removed);
    }
}

impl Shared {
    /// Ends when: [`Timekeeper::stop`].
    fn ring_until_closed(&self) {
        let mut state = self.state.lock();
        while !state.closed {
            let Some((&(at, id), _)) = state.by_time.first_key_value() else {
                self.changed.wait(&mut state);
                continue;
            };
            let now = clock::now();
            if now < at {
                let _timed_out = self.changed.wait_until(&mut state, at);
                continue;
            }
            let Some(alarm) = state.by_time.remove(&(at, id)) else {
                continue;
            };
            drop(state);
            let again = alarm.ring(now);
            state = self.state.lock();
            // Not at once: an alarm that is due for ever would keep all others from being rung.
            let again = again.map(|at| at.max(clock::after(now, AGAIN_MIN)));
            match again {
                Some(at) if state.times.contains_key(&id) => {
                    state.times.insert(id, at);
                    state.by_time.insert((at, id), alarm);
                }
                _ => {
                    state.times.remove(&id);
                    drop(state);
                    drop(alarm);
                    state = self.state.lock();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

    use crossbeam_channel::{Receiver, Sender, bounded};

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(10);

    struct Bell {
        rung: Sender<&'static str>,
        name: &'static str,
        again: Mutex<Option<Instant>>,
    }

    impl Alarm for Bell {
        fn ring(&self, _now: Instant) -> Option<Instant> {
            self.rung.send(self.name).unwrap();
            self.again.lock().take()
        }
    }

    fn bell(name: &'static str, rung: &Sender<&'static str>, again: Option<Instant>) -> Arc<Bell> {
        Arc::new(Bell {
            rung: rung.clone(),
            name,
            again: Mutex::new(again),
        })
    }

    fn bells() -> (Sender<&'static str>, Receiver<&'static str>) {
        bounded(16)
    }

    #[test]
    fn alarms_ring_in_order_and_again() {
        let (tx, rx) = bells();
        let keeper = Timekeeper::start().unwrap();
        let now = clock::now();
        let _late = keeper.set(now + Duration::from_millis(2), bell("late", &tx, None));
        let _early = keeper.set(now, bell("early", &tx, Some(now + Duration::from_millis(4))));
        let order: Vec<_> = (0..3).map(|_| rx.recv_timeout(DEADLINE).unwrap()).collect();
        assert_eq!(order, ["early", "late", "early"]);
    }

    /// Wants to be rung at once, whenever it is rung.
    struct Overdue;

    impl Alarm for Overdue {
        fn ring(&self, now: Instant) -> Option<Instant> {
            Some(now)
        }
    }

    #[test]
    fn an_alarm_that_is_always_due_keeps_no_other_from_ringing() {
        let (tx, rx) = bells();
        let keeper = Timekeeper::start().unwrap();
        let now = clock::now();
        let _overdue = keeper.set(now, Arc::new(Overdue));
        let _bell = keeper.set(now + Duration::from_millis(2), bell("rung", &tx, None));
        assert_eq!(rx.recv_timeout(DEADLINE), Ok("rung"));
    }

    #[test]
    fn a_dropped_guard_takes_the_alarm_back() {
        let (tx, rx) = bells();
        let keeper = Timekeeper::start().unwrap();
        let guard = keeper.set(clock::now() + DEADLINE, bell("never", &tx, None));
        assert_eq!(keeper.len(), 1);
        drop(guard);
        assert_eq!(keeper.len(), 0);
        keeper.stop();
        assert!(rx.is_empty());
    }

    #[test]
    fn beats_are_as_far_apart_as_they_are_asked_to_be_and_the_same_for_all() {
        let keeper = Timekeeper::start().unwrap();
        let every = Duration::from_millis(50);
        let first = keeper.beat(clock::now() + DEADLINE, every);
        for later in [0, 1, 49_999_999] {
            assert_eq!(keeper.beat(first + Duration::from_nanos(later), every), first);
        }
        assert_eq!(keeper.beat(first + every, every), first + every);
        assert_eq!(keeper.beat(first, Duration::ZERO), first);
    }

    #[test]
    fn stopping_waits_for_nothing_that_is_not_due() {
        let (tx, _rx) = bells();
        let keeper = Timekeeper::start().unwrap();
        let _guard = keeper.set(clock::now() + Duration::from_secs(3600), bell("never", &tx, None));
        drop(keeper);
    }
}
