//! The threads that call engines: workers, which take turns at streams, and the closer, which closes the cursors of streams
//! that were stopped at rest, and looks whether somebody waits for what those hold that are still there.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use super::fair::Ticket;
use super::groups::QUANTUM_BYTES;
use super::job::{Job, TurnEnd};
use super::live::Stream;
use super::queue::Work;
use super::{Core, estimates};
use crate::clock;

/// While streams wait for their turns, estimates get at most one part in this many of a worker's time.
const ESTIMATE_SHARE: u32 = 20;

/// How long one turn may take. A stream that has made next to nothing by then has had a whole turn all the same: one whose rows come slowly
/// would have its worker for as long as it takes to make so many bytes.
const TURN_MAX: Duration = Duration::from_millis(10);

/// What a stream's last turn counts for at the least: a flood of small queries takes time, too.
const TURN_BYTES_MIN: usize = 16 * 1024;

/// Ends when: the run queue is closed and empty.
pub(super) fn work_until_closed(core: &Arc<Core>) {
    let mut estimate_again_at: Option<Instant> = None;
    loop {
        let may_estimate = || estimate_again_at.is_none_or(|at| clock::now() >= at);
        match core.queue.next(may_estimate) {
            Some(Work::Turn(stream, ticket)) => {
                take_turns(core, stream, ticket);
                core.queue.done();
            }
            Some(Work::Question(question)) => {
                question.answer();
                core.queue.question_done();
            }
            Some(Work::Aside(stream)) => {
                if let Some(stream) = stream.upgrade() {
                    let taken = estimates::run(core, &stream);
                    estimate_again_at = Some(clock::now() + taken * (ESTIMATE_SHARE - 1));
                }
                core.queue.aside_done();
            }
            None => return,
        }
    }
}

/// Takes turns at `stream` and, without letting go of the queue in between, at those that wait behind it.
fn take_turns(core: &Arc<Core>, mut stream: Arc<Stream>, mut ticket: Ticket) {
    let Some(mut job) = stream.take_job() else {
        return stream.turn_over(ticket, 0);
    };
    loop {
        let mut bytes = 0;
        let over_at = clock::now() + TURN_MAX;
        while bytes < QUANTUM_BYTES {
            let turn = catch_unwind(AssertUnwindSafe(|| job.turn(&stream)));
            match turn {
                Ok(TurnEnd::Again(n)) => {
                    bytes += n.max(1);
                    if clock::now() >= over_at {
                        bytes = bytes.max(QUANTUM_BYTES);
                    }
                }
                Ok(TurnEnd::NoRoom(blocked)) => match stream.park(job) {
                    None => {
                        stream.parked(ticket, bytes, blocked);
                        return stream.nothing_follows();
                    }
                    Some(awake) => {
                        job = awake;
                        job.not_parked_after_all();
                    }
                },
                Ok(TurnEnd::End(end)) => {
                    stream.turn_over(ticket, bytes.max(TURN_BYTES_MIN));
                    return stream.finish(job, |_| end);
                }
                Err(panic) => {
                    stream.turn_over(ticket, bytes);
                    let end = job.panicked(&stream, panic.as_ref());
                    return stream.finish(job, |_| end);
                }
            }
        }
        if stream.next_turn(&mut ticket, bytes) {
            continue;
        }
        stream.put_back(job);
        stream.nothing_follows();
        let place = stream.place_with(ticket);
        let Some((next, next_ticket)) = core.queue.exchange(stream, place) else {
            return;
        };
        let Some(next_job) = next.take_job() else {
            return next.turn_over(next_ticket, 0);
        };
        (stream, ticket, job) = (next, next_ticket, next_job);
    }
}

/// What the closer does.
#[derive(Debug)]
pub(super) enum Errand {
    /// A stream that was stopped at rest, with its job.
    Close(Arc<Stream>, Box<Job>),
    /// A [look](Core::look) at engines.
    Look,
}

/// Ends when: every sender of the channel is gone.
pub(super) fn run_errands_until_disconnected(core: &Arc<Core>, errands: &Receiver<Errand>) {
    for errand in errands {
        match errand {
            Errand::Close(stream, job) => close(&stream, job),
            Errand::Look => core.look(),
        }
    }
}

/// Ends a stream that was stopped at rest.
pub(super) fn close(stream: &Arc<Stream>, job: Box<Job>) {
    stream.finish(job, |job| job.cancelled(stream));
}
