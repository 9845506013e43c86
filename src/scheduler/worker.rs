//! The threads that call engines: workers, which take turns at streams, and the closer, which closes the cursors of streams
//! that were stopped at rest.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use super::job::TurnEnd;
use super::live::Stream;
use super::queue::{QUANTUM_BYTES, Work};
use super::{Core, Resting};
use crate::clock;

/// What one estimate may take of a worker.
pub(super) const ESTIMATE_BUDGET: Duration = Duration::from_millis(50);

/// While streams wait for their turns, estimates get at most one part in this many of a worker's time.
const ESTIMATE_SHARE: u32 = 20;

/// Ends when: the run queue is closed and empty.
pub(super) fn work_until_closed(core: &Arc<Core>) {
    let mut estimate_again_at: Option<Instant> = None;
    loop {
        let may_estimate = || estimate_again_at.is_none_or(|at| clock::now() >= at);
        match core.queue.next(may_estimate) {
            Some(Work::Turn(stream)) => take_turns(core, stream),
            Some(Work::Aside(stream)) => {
                if let Some(stream) = stream.upgrade() {
                    let begun_at = clock::now();
                    stream.run_estimate(ESTIMATE_BUDGET);
                    let now = clock::now();
                    estimate_again_at = Some(now + now.saturating_duration_since(begun_at) * (ESTIMATE_SHARE - 1));
                }
            }
            None => return,
        }
    }
}

/// Takes turns at `stream` and, without letting go of the queue in between, at those that wait behind it.
fn take_turns(core: &Arc<Core>, mut stream: Arc<Stream>) {
    let Some(mut job) = stream.take_job() else {
        return;
    };
    loop {
        job.deficit = (job.deficit + QUANTUM_BYTES).min(QUANTUM_BYTES);
        while job.deficit > 0 {
            let turn = catch_unwind(AssertUnwindSafe(|| job.turn(&stream)));
            match turn {
                Ok(TurnEnd::Again(bytes)) => job.deficit -= i64::try_from(bytes).unwrap_or(QUANTUM_BYTES),
                Ok(TurnEnd::NoRoom) => match stream.park(job) {
                    None => return stream.nothing_follows(),
                    Some(awake) => {
                        job = awake;
                        job.not_parked_after_all();
                    }
                },
                Ok(TurnEnd::End(end)) => return stream.finish(job, |_| end),
                Err(panic) => {
                    let end = job.panicked(&stream, panic.as_ref());
                    return stream.finish(job, |_| end);
                }
            }
        }
        if core.queue.has_waiting() {
            stream.put_back(job);
            stream.nothing_follows();
            stream = core.queue.exchange(stream);
            let Some(next) = stream.take_job() else {
                return;
            };
            job = next;
        } else {
            job.deficit = 0;
        }
    }
}

/// Ends when: every sender of the channel is gone.
pub(super) fn close_until_disconnected(jobs: &Receiver<Resting>) {
    for (stream, job) in jobs {
        let cancelled = Arc::clone(&stream);
        stream.finish(job, |job| job.cancelled(&cancelled));
    }
}
