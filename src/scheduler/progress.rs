//! How far a stream is, as its client is told: when that is due, what is looked at, and what the stream is doing.
//!
//! The arithmetic is the [meter's](crate::stream::ProgressMeter). Must not know connections.

use std::sync::Arc;
use std::time::Instant;

use super::live::Stream;
use super::outlet::Outlet;
use crate::clock;
use crate::protocol::Phase;
use crate::stream::{QueryStreamStatus, Reach, Reading, Sample};

/// Progress comes up to one part in this many of its interval early: streams that have the same interval hear of it together.
const BEATS_PER_INTERVAL: u32 = 8;

impl Stream {
    /// The first time that the client is to hear of the progress after `now`.
    pub(super) fn progress_after(&self, now: Instant) -> Option<Instant> {
        let interval = self.plan.progress_interval?;
        let at = clock::after(now, interval);
        Some(self.core.timekeeper.beat(at, interval / BEATS_PER_INTERVAL))
    }

    /// When the client is to hear of the progress next. It hears of it until it has everything, also of what the engine is done with.
    pub(super) fn next_progress(&self) -> Option<Instant> {
        if !self.has_progress() {
            return None;
        }
        let outlet = self.outlet();
        let is_wanted = outlet.delivery.is_attached() && !outlet.delivery.is_end_given();
        outlet.progress_at.filter(|_| is_wanted)
    }

    /// Whether the stream goes on to its natural end.
    pub(crate) fn has_progress(&self) -> bool {
        !matches!(self.status(), QueryStreamStatus::Failed | QueryStreamStatus::Cancelled)
    }

    pub(super) fn progress_due(&self, now: Instant) {
        if self.next_progress().is_none_or(|at| now < at) {
            return;
        }
        let sink = {
            let mut outlet = self.outlet();
            let sample = self.sample(&outlet, now);
            outlet.meter.look(sample);
            outlet.progress_at = self.progress_after(now);
            Arc::clone(&outlet.sink)
        };
        sink.progress_due();
    }

    /// What progress looks like now.
    pub(crate) fn read_progress(&self, now: Instant) -> (Sample, Reading) {
        let mut outlet = self.outlet();
        let sample = self.sample(&outlet, now);
        (sample, outlet.meter.read(sample))
    }

    fn sample(&self, outlet: &Outlet, now: Instant) -> Sample {
        let done = Reach {
            rows: self.rows_read(),
            work: self.work_done(),
        };
        Sample {
            elapsed: now.saturating_duration_since(self.accepted_at),
            done,
            delivered: outlet.delivery.window().delivered(done),
            total_rows: self.total().0,
            total_work: self.total_work(),
            is_up_to_client: matches!(
                self.status(),
                QueryStreamStatus::WaitingClient | QueryStreamStatus::Completed
            ),
            is_paused: outlet.delivery.is_paused(),
        }
    }

    /// What the stream is doing, for clients.
    pub(crate) fn phase(&self) -> Phase {
        match self.state() {
            QueryStreamStatus::Paused => Phase::Paused,
            QueryStreamStatus::Queued => Phase::Queued,
            QueryStreamStatus::Executing => Phase::Executing,
            QueryStreamStatus::WaitingClient => Phase::WaitingClient,
            QueryStreamStatus::Completed => self.phase_of_rest(),
            QueryStreamStatus::Streaming | QueryStreamStatus::Failed | QueryStreamStatus::Cancelled => Phase::Streaming,
        }
    }

    /// Of a stream whose engine is done, while its client has not got everything.
    fn phase_of_rest(&self) -> Phase {
        let outlet = self.outlet();
        if outlet.delivery.is_paused() {
            Phase::Paused
        } else if outlet.delivery.window().may_send() {
            Phase::Streaming
        } else {
            Phase::WaitingClient
        }
    }
}
