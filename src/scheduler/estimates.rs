//! What it may cost to find out how large results are: at most a small part of one core over time, nothing that a stream waits for.
//!
//! An estimate runs on a worker, beside the streams. Its engine is given a budget, and is told to stop when that is used up, when its stream
//! has ended, or when every worker is taken and a stream waits for one. Must not know engines or clients.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::Core;
use super::live::Stream;
use super::timekeeper::Alarm;
use crate::clock;
use crate::engine::CancelReason;

/// What one estimate may take at most, beside [`LOOK_UPS_MAX`]: 50 ms in all.
const BUDGET_MAX: Duration = Duration::from_millis(45);

/// Less than this is no budget to count anything in.
const BUDGET_MIN: Duration = Duration::from_millis(1);

/// What an engine may take beside its budget, for what is cheap.
const LOOK_UPS_MAX: Duration = Duration::from_millis(5);

/// How long an estimate runs before it is looked at, and then between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// What estimates may take together after a time of rest: ten that use up their budget.
const ALLOWANCE_MAX: Duration = Duration::from_millis(450);

/// Of the time that passes, one part in this many comes back to the allowance.
const ALLOWANCE_SHARE: u32 = 100;

/// The time that the estimates of a server may still take. Pure: the time is an argument.
#[derive(Debug)]
pub(super) struct Allowance {
    left: Duration,
    as_of: Instant,
}

impl Allowance {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            left: ALLOWANCE_MAX,
            as_of: now,
        }
    }

    /// What the next estimate may take; zero for nothing but what is cheap.
    fn budget(&mut self, now: Instant) -> Duration {
        let earned = now.saturating_duration_since(self.as_of) / ALLOWANCE_SHARE;
        self.left = (self.left + earned).min(ALLOWANCE_MAX);
        self.as_of = now;
        if self.left < BUDGET_MIN {
            return Duration::ZERO;
        }
        self.left.min(BUDGET_MAX)
    }

    /// An estimate has taken so much.
    fn spend(&mut self, time: Duration) {
        self.left = self.left.saturating_sub(time);
    }
}

/// Estimates `stream`'s size, and returns how long that took. Blocks for the engine.
pub(super) fn run(core: &Core, stream: &Arc<Stream>) -> Duration {
    let begun_at = clock::now();
    let budget = core.estimates.lock().budget(begun_at);
    let limit = Limit {
        stream: Arc::downgrade(stream),
        // An engine that keeps to its budget is there first.
        over_at: begun_at + budget + LOOK_UPS_MAX,
    };
    let guard = core.timekeeper.set(begun_at + LOOK_INTERVAL, Arc::new(limit));
    stream.run_estimate(budget);
    drop(guard);
    let taken = clock::now().saturating_duration_since(begun_at);
    core.estimates.lock().spend(taken);
    taken
}

/// Rings while an estimate runs.
struct Limit {
    stream: Weak<Stream>,
    over_at: Instant,
}

impl Alarm for Limit {
    fn ring(&self, now: Instant) -> Option<Instant> {
        let stream = self.stream.upgrade()?;
        if now >= self.over_at {
            stream.stop_estimate(CancelReason::Timeout);
            return None;
        }
        if stream.core.queue.is_short_of_workers() {
            stream.stop_estimate(CancelReason::Admin);
            return None;
        }
        Some(now + LOOK_INTERVAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates_take_a_hundredth_of_the_time_after_a_first_allowance() {
        let start = clock::now();
        let mut allowance = Allowance::new(start);
        let mut spent = Duration::ZERO;
        for n in 0..100_000_u32 {
            let now = start + n * Duration::from_millis(1);
            let budget = allowance.budget(now);
            assert!(budget <= BUDGET_MAX);
            assert!(budget.is_zero() || budget >= BUDGET_MIN);
            // Each uses up what it is given, and a little more.
            if !budget.is_zero() {
                spent += budget;
                allowance.spend(budget);
            }
        }
        assert!(spent <= ALLOWANCE_MAX + Duration::from_secs(1), "{spent:?}");
        assert!(spent >= Duration::from_secs(1), "{spent:?}");
    }

    #[test]
    fn what_is_not_used_is_kept_up_to_a_bound() {
        let start = clock::now();
        let mut allowance = Allowance::new(start);
        let hour = Duration::from_secs(3_600);
        assert_eq!(allowance.budget(start + hour), BUDGET_MAX);
        for _ in 0..10 {
            allowance.spend(BUDGET_MAX);
        }
        assert_eq!(allowance.budget(start + hour), Duration::ZERO);
        // One that takes longer than it may does not bring the next ones into debt.
        allowance.spend(hour);
        assert_eq!(
            allowance.budget(start + hour + Duration::from_millis(200)),
            Duration::from_millis(2)
        );
    }
}
