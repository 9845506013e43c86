//! One live stream, as everybody but its worker sees it: what was asked, how it stands, and the ways to wake or stop it.
//!
//! Must not know connections: it reports through a [`StreamSink`].

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Core;
use super::job::{Job, StreamEnd};
use super::timekeeper::{Alarm, AlarmGuard};
use crate::clock;
use crate::engine::{CancelReason, CancelToken, Engine, Estimate, QuerySpec, Total};
use crate::id::{RequestId, StreamId};
use crate::protocol::{Phase, TotalKind};
use crate::stream::{QueryStreamStatus, Sample, Turn};

/// How soon the other end should look at a stream's channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// Somebody waits for just this: a first batch, a terminator.
    Now,
    /// Within a few milliseconds, together with whatever else comes until then.
    Soon,
}

/// Whoever takes a stream's messages out of its channel. Nothing here may block.
pub(crate) trait StreamSink: Send + Sync {
    /// Something of `bytes` bytes has been put into the channel.
    fn notify(&self, urgency: Urgency, bytes: usize);

    /// A progress message is due.
    fn progress_due(&self);
}

/// What was asked for, with the server's defaults filled in.
#[derive(Debug, Clone)]
pub(crate) struct StreamPlan {
    pub(crate) spec: QuerySpec,
    pub(crate) engine_name: Arc<str>,
    pub(crate) deadline: Instant,
    pub(crate) progress_interval: Option<Duration>,
}

/// The job while no worker has it, and whose turn it is.
struct Rest {
    turn: Turn,
    job: Option<Box<Job>>,
}

/// Everything that is counted. Written by the worker and the writer, read by anybody; each figure is true on its own.
#[derive(Debug, Default)]
struct Counters {
    status: AtomicU8,
    rows_read: AtomicU64,
    batches_queued: AtomicUsize,
    bytes_queued: AtomicUsize,
    rows_sent: AtomicU64,
    bytes_sent: AtomicU64,
    batches_sent: AtomicU64,
    /// Units of work, plus one; 0 while unknown.
    work_done: AtomicU64,
}

/// A live stream.
pub(crate) struct Stream {
    pub(crate) id: StreamId,
    pub(crate) request_id: Option<RequestId>,
    pub(crate) plan: StreamPlan,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) accepted_at: Instant,
    pub(crate) cancel: CancelToken,
    pub(super) core: Arc<Core>,
    pub(super) sink: Arc<dyn StreamSink>,
    cancelled_at: OnceLock<Instant>,
    rest: Mutex<Rest>,
    counters: Counters,
    estimate: Mutex<Estimate>,
    estimate_cancel: CancelToken,
    alarm: Mutex<Option<AlarmGuard>>,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("id", &self.id)
            .field("status", &self.status())
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

impl Stream {
    pub(super) fn new(
        id: StreamId,
        request_id: Option<RequestId>,
        plan: StreamPlan,
        engine: Arc<dyn Engine>,
        core: Arc<Core>,
        sink: Arc<dyn StreamSink>,
    ) -> Self {
        Self {
            id,
            request_id,
            plan,
            engine,
            accepted_at: clock::now(),
            cancel: CancelToken::new(),
            core,
            sink,
            cancelled_at: OnceLock::new(),
            rest: Mutex::new(Rest {
                turn: Turn::Waiting,
                job: None,
            }),
            counters: Counters::default(),
            estimate: Mutex::new(Estimate::default()),
            estimate_cancel: CancelToken::new(),
            alarm: Mutex::new(None),
        }
    }

    /// Puts the stream into the run queue for the first time.
    pub(super) fn launch(self: &Arc<Self>, job: Box<Job>) {
        let next = self.next_alarm(self.accepted_at);
        let alarm = StreamAlarm(Arc::downgrade(self));
        let guard = self.core.timekeeper.set(next, Arc::new(alarm));
        *self.alarm.lock() = Some(guard);
        self.rest.lock().job = Some(job);
        self.core.queue.push_fresh(Arc::clone(self));
    }

    /// A worker takes the job; `None` where the stream has ended while it waited.
    pub(super) fn take_job(&self) -> Option<Box<Job>> {
        let mut rest = self.rest.lock();
        if rest.turn.start() { rest.job.take() } else { None }
    }

    /// The worker found no room: the job sleeps here until [`wake`](Self::wake). Gives it back where room was made meanwhile.
    pub(super) fn park(&self, job: Box<Job>) -> Option<Box<Job>> {
        let mut rest = self.rest.lock();
        // Before the lock is let go, so that a wake that follows cannot be overwritten.
        self.set_status(QueryStreamStatus::WaitingClient);
        if rest.turn.park() {
            rest.job = Some(job);
            None
        } else {
            Some(job)
        }
    }

    /// The worker gives the job back before the stream goes into the run queue again.
    pub(super) fn put_back(&self, job: Box<Job>) {
        let mut rest = self.rest.lock();
        rest.turn.requeue();
        rest.job = Some(job);
    }

    /// The worker leaves the stream for now: what is in the channel has no company to wait for.
    pub(super) fn nothing_follows(&self) {
        if self.batches_queued() > 0 {
            self.sink.notify(Urgency::Now, 0);
        }
    }

    /// There is room again: a parked stream goes into the run queue. Never blocks.
    pub(crate) fn wake(self: &Arc<Self>) {
        let woken = self.rest.lock().turn.wake();
        if woken {
            self.core.queue.push_known(Arc::clone(self));
        }
    }

    /// Stops the stream: the engine's call is told to end, and a stream that waits or is parked ends at once, its cursor
    /// closed on another thread. Idempotent; the first reason stays. Blocks only for the engine's cancel hook.
    pub(crate) fn cancel(self: &Arc<Self>, reason: CancelReason) {
        self.cancelled_at.get_or_init(clock::now);
        self.cancel.cancel(reason);
        let job = {
            let mut rest = self.rest.lock();
            let was_waiting = rest.turn == Turn::Waiting;
            let job = if rest.turn.take_from_rest() {
                rest.job.take()
            } else {
                None
            };
            job.map(|job| (job, was_waiting))
        };
        if let Some((job, was_waiting)) = job {
            self.set_status(QueryStreamStatus::Cancelled);
            if was_waiting {
                self.core.queue.note_stale(|stream| !stream.status().is_terminal());
            }
            self.core.close_elsewhere(Arc::clone(self), job);
        }
    }

    /// Ends the stream: closes the cursor, takes it out of the registry, and sends the terminator.
    pub(super) fn finish(self: &Arc<Self>, mut job: Box<Job>, end: impl FnOnce(&Job) -> StreamEnd) {
        let cursor = job.take_cursor();
        if catch_unwind(AssertUnwindSafe(|| drop(cursor))).is_err() {
            log::error!("stream {}: the engine panicked while closing its cursor", self.id);
        }
        let end = end(&job);
        self.rest.lock().turn.end();
        self.set_status(end.status());
        self.estimate_cancel.cancel(CancelReason::Admin);
        let alarm = self.alarm.lock().take();
        drop(alarm);
        self.core.registry.remove(self.id, end.status());
        log::debug!("stream {}: {:?}", self.id, end.status());
        job.send_end(end);
        drop(job);
        self.sink.notify(Urgency::Now, 0);
    }

    /// When the stream was cancelled, if it was.
    pub(super) fn cancelled_at(&self) -> Option<Instant> {
        self.cancelled_at.get().copied()
    }

    /// Asks the engine how large the result is. On a worker, aside from the stream's own turns.
    pub(super) fn run_estimate(&self, budget: Duration) {
        if self.status().is_terminal() {
            return;
        }
        let asked = AssertUnwindSafe(|| self.engine.estimate(&self.plan.spec, budget, &self.estimate_cancel));
        match catch_unwind(asked) {
            Ok(estimate) => *self.estimate.lock() = estimate,
            Err(_) => log::error!("stream {}: the engine panicked while estimating", self.id),
        }
    }

    fn next_alarm(&self, now: Instant) -> Instant {
        let progress = self.plan.progress_interval.map(|interval| now + interval);
        progress.map_or(self.plan.deadline, |at| at.min(self.plan.deadline))
    }
}

/// Counting.
impl Stream {
    pub(crate) fn status(&self) -> QueryStreamStatus {
        QueryStreamStatus::from_number(self.counters.status.load(Ordering::Relaxed))
    }

    pub(super) fn set_status(&self, status: QueryStreamStatus) {
        self.counters.status.store(status as u8, Ordering::Relaxed);
    }

    /// A batch has been made, and takes this much memory until it is [gone](Self::batch_gone).
    pub(super) fn batch_made(&self, rows: u32, bytes: usize) {
        self.core.bytes_held.fetch_add(bytes, Ordering::Relaxed);
        self.counters.rows_read.fetch_add(u64::from(rows), Ordering::Relaxed);
        self.counters.bytes_queued.fetch_add(bytes, Ordering::AcqRel);
        self.counters.batches_queued.fetch_add(1, Ordering::AcqRel);
    }

    /// A batch has been handed to the socket, or nobody wants it any more. Wakes the stream once half of its share is free
    /// again: waking it for every batch would cost a thread switch each.
    pub(super) fn batch_gone(self: &Arc<Self>, held_bytes: usize) {
        self.core.bytes_held.fetch_sub(held_bytes, Ordering::Relaxed);
        let bytes = self.counters.bytes_queued.fetch_sub(held_bytes, Ordering::AcqRel) - held_bytes;
        let batches = self.counters.batches_queued.fetch_sub(1, Ordering::AcqRel) - 1;
        let share = self.core.share_bytes();
        if batches == 0 || (bytes <= share / 2 && batches <= self.core.config.channel_buffer_size / 2) {
            self.wake();
        }
    }

    /// Counts a batch as sent.
    pub(crate) fn count_sent(&self, rows: u32, message_bytes: usize) {
        self.counters.rows_sent.fetch_add(u64::from(rows), Ordering::Relaxed);
        self.counters
            .bytes_sent
            .fetch_add(message_bytes as u64, Ordering::Relaxed);
        self.counters.batches_sent.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether another batch may be made: there is always room for one.
    pub(super) fn has_room(&self) -> bool {
        let batches = self.counters.batches_queued.load(Ordering::Acquire);
        batches == 0
            || (batches < self.core.config.channel_buffer_size
                && self.counters.bytes_queued.load(Ordering::Acquire) < self.core.share_bytes())
    }

    pub(super) fn set_work_done(&self, units: u64) {
        self.counters
            .work_done
            .store(units.saturating_add(1), Ordering::Relaxed);
    }

    pub(crate) fn rows_read(&self) -> u64 {
        self.counters.rows_read.load(Ordering::Relaxed)
    }

    pub(crate) fn rows_sent(&self) -> u64 {
        self.counters.rows_sent.load(Ordering::Relaxed)
    }

    pub(crate) fn bytes_sent(&self) -> u64 {
        self.counters.bytes_sent.load(Ordering::Relaxed)
    }

    pub(crate) fn batches_sent(&self) -> u64 {
        self.counters.batches_sent.load(Ordering::Relaxed)
    }

    /// Batches made and not yet handed to the socket.
    pub(crate) fn batches_queued(&self) -> usize {
        self.counters.batches_queued.load(Ordering::Relaxed)
    }

    /// The result's rows, where they are known, and how.
    pub(crate) fn total(&self) -> (Option<u64>, TotalKind) {
        match self.estimate.lock().total {
            Total::Exact(rows) => (Some(rows), TotalKind::Exact),
            Total::Planner(rows) => (Some(rows), TotalKind::Planner),
            Total::Statistics(rows) => (Some(rows), TotalKind::Statistics),
            Total::Unknown => (None, TotalKind::None),
        }
    }

    /// What the progress meter needs.
    pub(crate) fn sample(&self, now: Instant) -> Sample {
        let work_done = self.counters.work_done.load(Ordering::Relaxed).checked_sub(1);
        let work_total = self.estimate.lock().work_total;
        Sample {
            elapsed: now.saturating_duration_since(self.accepted_at),
            rows: self.rows_read(),
            total_rows: self.total().0,
            work: work_done.zip(work_total),
        }
    }

    /// What the stream is doing, for clients.
    pub(crate) fn phase(&self) -> Phase {
        match self.status() {
            QueryStreamStatus::Queued => Phase::Queued,
            QueryStreamStatus::Executing => Phase::Executing,
            QueryStreamStatus::WaitingClient => Phase::WaitingClient,
            QueryStreamStatus::Streaming
            | QueryStreamStatus::Completed
            | QueryStreamStatus::Failed
            | QueryStreamStatus::Cancelled => Phase::Streaming,
        }
    }
}

/// Rings for a stream's deadline and for its progress.
struct StreamAlarm(Weak<Stream>);

impl Alarm for StreamAlarm {
    fn ring(&self, now: Instant) -> Option<Instant> {
        let stream = self.0.upgrade().filter(|stream| !stream.status().is_terminal())?;
        if now >= stream.plan.deadline {
            stream.cancel(CancelReason::Timeout);
            return None;
        }
        if stream.plan.progress_interval.is_some() {
            stream.sink.progress_due();
        }
        Some(stream.next_alarm(now))
    }
}
