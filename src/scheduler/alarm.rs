//! A stream's alarm: for its time limits, its progress, and its client's absence.
//!
//! One alarm for all of them, set at the earliest. A limit may move while the alarm is set, but only to a later time: then the alarm
//! rings too early and is set again.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::live::Stream;
use super::stop::LimitReached;
use super::timekeeper::Alarm;
use crate::clock;
use crate::engine::CancelReason;

/// How often the alarm of a stream at rest rings that has less than this left of its time at work: it may go on at any moment, and sets
/// no alarm when it does. So much may a query run over its time.
const REST_ALARM_MIN: Duration = Duration::from_millis(50);

impl Stream {
    /// Sets the stream's alarm anew.
    pub(super) fn arm(self: &Arc<Self>, now: Instant) {
        let Some(next) = self.next_alarm(now) else {
            return self.disarm();
        };
        let alarm = StreamAlarm(Arc::downgrade(self));
        let guard = self.core.timekeeper.set(next, Arc::new(alarm));
        let before = self.alarm.lock().replace(guard);
        drop(before);
    }

    pub(super) fn disarm(&self) {
        let guard = self.alarm.lock().take();
        drop(guard);
    }

    fn next_alarm(&self, now: Instant) -> Option<Instant> {
        let is_running = !self.status().is_terminal();
        let is_limited = is_running && !self.cancel.is_cancelled();
        let work = is_limited.then(|| self.work_alarm(now));
        let deadline = self.plan.deadline.filter(|_| is_limited);
        let deadline = deadline.map(|deadline| deadline.after(self.accepted_at));
        let standstill = if is_running {
            self.outlet().standstill.look_at()
        } else {
            None
        };
        [
            work,
            deadline,
            self.next_progress(),
            standstill,
            self.next_outlet_alarm(now),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn work_alarm(&self, now: Instant) -> Instant {
        let left = self.with_time(|time| match time.is_at_rest() {
            true => time.left(now).max(REST_ALARM_MIN),
            false => time.left(now),
        });
        clock::after(now, left)
    }

    /// The limit that the stream, which runs, has reached by now.
    fn limit_reached(&self, now: Instant) -> Option<LimitReached> {
        let deadline = self.plan.deadline;
        if let Some(deadline) = deadline.filter(|deadline| now >= deadline.after(self.accepted_at)) {
            return Some(deadline.reached());
        }
        let max = self.with_time(|time| time.is_over(now).then(|| time.max()));
        max.map(LimitReached::query_duration)
    }
}

/// Rings for a stream's limits, its progress, and its client's absence.
struct StreamAlarm(Weak<Stream>);

impl Alarm for StreamAlarm {
    fn ring(&self, now: Instant) -> Option<Instant> {
        let stream = self.0.upgrade()?;
        let is_running = !stream.status().is_terminal();
        let limit = stream.limit_reached(now);
        match limit.filter(|_| is_running && !stream.cancel.is_cancelled()) {
            Some(limit) => stream.cancel_at_limit(CancelReason::Timeout, limit),
            None => {
                stream.progress_due(now);
                if is_running {
                    stream.look_for_standstill(now);
                }
            }
        }
        if stream.check_client(now) {
            return None;
        }
        stream.next_alarm(now)
    }
}
