//! One live stream, as everybody but its worker sees it: what was asked, how it stands, and the ways to wake or stop it.
//!
//! Its end that faces the client is in the [outlet](super::outlet). Must not know connections.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::budget::Account;
use super::event::StreamEnd;
use super::fair::{Rank, Ticket};
use super::groups::{GroupKey, Place};
use super::job::Job;
use super::outlet::{Outlet, Urgency};
use super::stop::{LimitReached, Stop, StreamDeadline};
use super::timekeeper::AlarmGuard;
use super::{Core, Origin};
use crate::auth::Bearer;
use crate::clock;
use crate::engine::{CancelReason, CancelToken, Engine, Estimate, QuerySpec, Total};
use crate::id::{ConnectionId, Principal, RequestId, StreamId};
use crate::metrics::Blocked;
use crate::protocol::{TotalKind, TraceParent};
use crate::stream::{Owner, QueryStreamStatus, QueryTime, Turn};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU8, AtomicU16, AtomicU64, AtomicUsize, Ordering};

/// Bytes of a query's text that are kept once its engine is done, for reports.
const SQL_KEPT_BYTES_MAX: usize = 1024;

/// The query, whole as long as its engine may ask for it: a stream that is held for its client may be held long after.
#[derive(Debug)]
pub(crate) struct Asked(Mutex<Arc<QuerySpec>>);

impl Asked {
    pub(crate) fn new(spec: QuerySpec) -> Self {
        Self(Mutex::new(Arc::new(spec)))
    }

    pub(crate) fn spec(&self) -> Arc<QuerySpec> {
        Arc::clone(&self.0.lock())
    }

    fn cut(&self) {
        let spec = self.spec();
        let end = spec.sql.floor_char_boundary(SQL_KEPT_BYTES_MAX);
        *self.0.lock() = Arc::new(QuerySpec::new(&spec.sql[..end]));
    }
}

/// What was asked for, with the server's defaults filled in.
#[derive(Debug)]
pub(crate) struct StreamPlan {
    pub(crate) asked: Asked,
    pub(crate) engine_name: Arc<str>,
    pub(crate) deadline: Option<StreamDeadline>,
    pub(crate) progress_interval: Option<Duration>,
    /// Rows after which the result is cut off.
    pub(crate) rows_max: Option<u64>,
    pub(crate) traceparent: Option<TraceParent>,
}

/// The job while no worker has it, whose turn it is, and how long the query has been at work.
struct Rest {
    turn: Turn,
    job: Option<Box<Job>>,
    time: QueryTime,
}

/// Everything that is counted. Written by the worker and the writer, read by anybody; each figure is true on its own.
#[derive(Debug, Default)]
struct Counters {
    status: AtomicU8,
    rows_read: AtomicU64,
    bytes_made: AtomicU64,
    batches_held: AtomicUsize,
    bytes_held: AtomicUsize,
    rows_sent: AtomicU64,
    bytes_sent: AtomicU64,
    raw_bytes_sent: AtomicU64,
    batches_sent: AtomicU64,
    /// Units of work; 0 while unknown.
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
    pub(crate) principal: Principal,
    pub(super) core: Arc<Core>,
    /// What its batches are counted for: the connection that asked for it.
    pub(super) account: Arc<Account>,
    pub(super) outlet: Mutex<Outlet>,
    /// Who has it, or had it last, and by which token; `None` where nobody is asked.
    bearer: Mutex<Option<Arc<Bearer>>>,
    group: GroupKey,
    priority: AtomicU8,
    weight: AtomicU16,
    /// What it had of the workers so far.
    ticket: Mutex<Ticket>,
    stop: OnceLock<Stop>,
    opened_at: OnceLock<Instant>,
    rest: Mutex<Rest>,
    counters: Counters,
    estimate: Mutex<Estimate>,
    estimate_cancel: CancelToken,
    pub(super) alarm: Mutex<Option<AlarmGuard>>,
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
        request_id: Option<RequestId>,
        plan: StreamPlan,
        engine: Arc<dyn Engine>,
        core: Arc<Core>,
        origin: Origin,
        rank: Rank,
        outlet: Outlet,
    ) -> Self {
        let Origin {
            principal,
            connection,
            account,
        } = origin;
        let now = clock::now();
        let time = QueryTime::begin(core.config.max_query_duration, now);
        Self {
            id: StreamId::random(),
            request_id,
            plan,
            engine,
            accepted_at: now,
            cancel: CancelToken::new(),
            principal,
            core,
            account,
            outlet: Mutex::new(outlet),
            bearer: Mutex::new(None),
            group: connection.number(),
            priority: AtomicU8::new(rank.priority),
            weight: AtomicU16::new(rank.weight),
            ticket: Mutex::new(Ticket::default()),
            stop: OnceLock::new(),
            opened_at: OnceLock::new(),
            rest: Mutex::new(Rest {
                turn: Turn::Waiting,
                job: None,
                time,
            }),
            counters: Counters::default(),
            estimate: Mutex::new(Estimate::default()),
            estimate_cancel: CancelToken::new(),
            alarm: Mutex::new(None),
        }
    }

    /// At whose cost it is held while it waits for somebody to come back.
    pub(super) fn owner(&self) -> Owner {
        Owner::new(&self.principal, ConnectionId::new(self.group))
    }

    /// Who has it from now on.
    pub(crate) fn set_bearer(&self, bearer: Option<Arc<Bearer>>) {
        *self.bearer.lock() = bearer;
    }

    /// Who has it or, where no connection has, had it last.
    pub(crate) fn bearer(&self) -> Option<Arc<Bearer>> {
        self.bearer.lock().clone()
    }

    /// Gives the stream its job. Before anybody else can find it: a cancel that found no job would end nothing.
    pub(super) fn give_job(&self, job: Box<Job>) {
        self.rest.lock().job = Some(job);
    }

    /// Puts the stream into the run queue for the first time.
    pub(super) fn launch(self: &Arc<Self>) {
        self.outlet().progress_at = self.progress_after(self.accepted_at);
        self.arm(self.accepted_at);
        self.core.queue.push_fresh(Arc::clone(self), self.place());
    }

    /// A worker takes the job; `None` where the stream has ended while it waited.
    pub(super) fn take_job(&self) -> Option<Box<Job>> {
        let mut rest = self.rest.lock();
        if rest.turn.start() { rest.job.take() } else { None }
    }

    /// The worker found no room: the job sleeps here until [`wake`](Self::wake). Gives it back where room was made meanwhile, or the
    /// stream was cancelled.
    pub(super) fn park(&self, job: Box<Job>) -> Option<Box<Job>> {
        let mut rest = self.rest.lock();
        // A cancel that came while the worker had the job has left it to the worker.
        if self.cancel.is_cancelled() {
            return Some(job);
        }
        // Before the lock is let go, so that a wake that follows cannot be overwritten.
        self.set_status(QueryStreamStatus::WaitingClient);
        if rest.turn.park() {
            rest.time.rest(clock::now());
            rest.job = Some(job);
            drop(rest);
            self.core.watch();
            None
        } else {
            Some(job)
        }
    }

    /// Whether the job sleeps here. The status goes on to say so until the engine has made something again.
    pub(super) fn is_parked(&self) -> bool {
        self.rest.lock().turn == Turn::Parked
    }

    /// The engine has opened the stream's cursor.
    pub(super) fn opened(&self, now: Instant) {
        self.opened_at.get_or_init(|| now);
    }

    pub(super) fn opened_at(&self) -> Option<Instant> {
        self.opened_at.get().copied()
    }

    /// Looks at how long the query has been at work.
    pub(super) fn with_time<T>(&self, look: impl FnOnce(&QueryTime) -> T) -> T {
        look(&self.rest.lock().time)
    }

    /// The worker gives the job back before the stream goes into the run queue again.
    pub(super) fn put_back(&self, job: Box<Job>) {
        let mut rest = self.rest.lock();
        rest.turn.requeue();
        rest.job = Some(job);
    }

    /// There is room again: a parked stream goes into the run queue. Never blocks.
    pub(crate) fn wake(self: &Arc<Self>) {
        let woken = {
            let mut rest = self.rest.lock();
            let woken = rest.turn.wake();
            if woken {
                rest.time.go_on(clock::now());
            }
            woken
        };
        if woken {
            self.core.queue.push_known(Arc::clone(self), self.place());
        }
    }

    /// Stops the stream: the engine's call is told to end, and a stream that waits or is parked ends at once, its cursor
    /// closed on another thread. Idempotent; the first reason stays. Blocks only for the engine's cancel hook.
    pub(crate) fn cancel(self: &Arc<Self>, reason: CancelReason) {
        self.stop(reason, None);
    }

    /// As [`cancel`](Self::cancel), because the stream has reached a limit.
    pub(super) fn cancel_at_limit(self: &Arc<Self>, reason: CancelReason, limit: LimitReached) {
        self.stop(reason, Some(limit));
    }

    fn stop(self: &Arc<Self>, reason: CancelReason, limit: Option<LimitReached>) {
        let stop = self.stop.get_or_init(|| Stop {
            at: clock::now(),
            reason,
            limit: limit.map(Arc::new),
        });
        self.cancel.cancel(stop.reason);
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
        } else if self.status().is_terminal() {
            self.cut_tail(StreamEnd::cancelled(stop, stop.at));
        }
    }

    /// Ends the stream's engine side: closes the cursor, counts the outcome, and sends the terminator.
    pub(super) fn finish(self: &Arc<Self>, mut job: Box<Job>, end: impl FnOnce(&Job) -> StreamEnd) {
        let now = clock::now();
        job.unpark(self, now);
        let cursor = job.take_cursor();
        if catch_unwind(AssertUnwindSafe(|| drop(cursor))).is_err() {
            log::error!(stream:% = self.id; "the engine panicked while closing its cursor");
        }
        self.core.relief.closed(self.id);
        // Before the client hears of the end: it may have another then.
        job.leave_seat();
        let end = end(&job);
        let status = end.status();
        {
            let mut rest = self.rest.lock();
            // Under one lock: a cancel finds that a worker has the job, or how it has ended.
            self.set_status(status);
            rest.turn.end();
        }
        self.estimate_cancel.cancel(CancelReason::Admin);
        if status == QueryStreamStatus::Cancelled {
            self.drop_pending();
        }
        self.count_end(&end, now);
        self.core.registry.ended(self.id, status);
        self.log_ended(&end, now);
        self.plan.asked.cut();
        job.send_end(end);
        drop(job);
        if status != QueryStreamStatus::Cancelled
            && let Some(stop) = self.stop.get()
        {
            // It came when the engine was done and nobody had said so yet, and has left the rest to this thread.
            self.cut_tail(StreamEnd::cancelled(stop, stop.at));
        }
        self.notify(Urgency::Now, 0);
        self.settle();
    }

    fn count_end(&self, end: &StreamEnd, now: Instant) {
        let metrics = &self.core.metrics;
        metrics
            .duration
            .observe(now.saturating_duration_since(self.accepted_at));
        match end {
            StreamEnd::Completed(_) => {}
            StreamEnd::Failed(error) => metrics.failed.add(error.code, 1),
            StreamEnd::Cancelled { reason, latency, .. } => {
                metrics.cancelled.add(*reason, 1);
                metrics.cancel_latency.observe(*latency);
            }
        }
    }

    /// Why the stream was cancelled, if it was.
    pub(super) fn stopped(&self) -> Option<&Stop> {
        self.stop.get()
    }

    /// Asks the engine how large the result is. On a worker, aside from the stream's own turns.
    pub(super) fn run_estimate(&self, budget: Duration) {
        if self.status().is_terminal() {
            return;
        }
        let asked = AssertUnwindSafe(|| {
            self.engine
                .estimate(&self.plan.asked.spec(), budget, &self.estimate_cancel)
        });
        match catch_unwind(asked) {
            Ok(estimate) => *self.estimate.lock() = estimate,
            Err(_) => log::error!(stream:% = self.id; "the engine panicked while estimating"),
        }
    }

    /// Tells the engine to be done with its [estimate](Self::run_estimate). Blocks only for the engine's cancel hook.
    pub(super) fn stop_estimate(&self, reason: CancelReason) {
        self.estimate_cancel.cancel(reason);
    }

    /// Its place in the run queue.
    pub(super) fn place(&self) -> Place {
        Place {
            group: self.group,
            rank: self.rank(),
            ticket: *self.ticket.lock(),
        }
    }

    /// Its place in the run queue, for the worker that has this ticket: who had it before may not have [said](Self::parked) so yet.
    pub(super) fn place_with(&self, ticket: Ticket) -> Place {
        Place { ticket, ..self.place() }
    }

    /// A turn is over in which so many bytes were encoded, and the stream leaves its worker.
    pub(super) fn turn_over(&self, ticket: Ticket, bytes: usize) {
        let mut place = self.place_with(ticket);
        self.core.queue.leaves(&mut place, bytes);
        *self.ticket.lock() = place.ticket;
    }

    /// As [`turn_over`](Self::turn_over), because there was no room for more.
    pub(super) fn parked(&self, ticket: Ticket, bytes: usize, blocked: Blocked) {
        if blocked != Blocked::Writer {
            return self.turn_over(ticket, bytes);
        }
        let mut place = self.place_with(ticket);
        self.core.queue.leaves_full(&mut place, bytes);
        *self.ticket.lock() = place.ticket;
    }

    /// A turn is over in which so many bytes were encoded. True where the stream has the next, because nobody else waits for it.
    pub(super) fn next_turn(&self, ticket: &mut Ticket, bytes: usize) -> bool {
        let mut place = self.place_with(*ticket);
        let goes_on = self.core.queue.served_and_goes_on(&mut place, bytes);
        *ticket = place.ticket;
        *self.ticket.lock() = place.ticket;
        goes_on
    }

    pub(crate) fn rank(&self) -> Rank {
        Rank {
            priority: self.priority.load(Ordering::Relaxed),
            weight: self.weight.load(Ordering::Relaxed),
        }
    }

    /// Makes the stream more or less urgent from its next turn on.
    pub(crate) fn set_rank(&self, priority: Option<u8>, weight: Option<u16>) {
        if let Some(priority) = priority {
            self.priority.store(priority, Ordering::Relaxed);
        }
        if let Some(weight) = weight {
            self.weight.store(weight, Ordering::Relaxed);
        }
    }
}

/// Counting.
impl Stream {
    pub(crate) fn status(&self) -> QueryStreamStatus {
        QueryStreamStatus::from_number(self.counters.status.load(Ordering::Relaxed))
    }

    /// What clients are told: the status, and whether the client has paused it.
    pub(crate) fn state(&self) -> QueryStreamStatus {
        let status = self.status();
        if !status.is_terminal() && self.figures().is_paused {
            return QueryStreamStatus::Paused;
        }
        status
    }

    /// The connection that asked for it.
    pub(super) fn connection_number(&self) -> u64 {
        self.group
    }

    pub(super) fn set_status(&self, status: QueryStreamStatus) {
        self.counters.status.store(status as u8, Ordering::Relaxed);
    }

    /// A batch has been made, and takes this much memory until it is [gone](Self::batch_gone).
    pub(super) fn batch_made(&self, rows: u32, message_bytes: usize, bytes: usize) {
        self.counters
            .bytes_made
            .fetch_add(message_bytes as u64, Ordering::Relaxed);
        self.counters.rows_read.fetch_add(u64::from(rows), Ordering::Relaxed);
        self.core.metrics.rows_read.add(u64::from(rows));
        self.counters.bytes_held.fetch_add(bytes, Ordering::AcqRel);
        self.counters.batches_held.fetch_add(1, Ordering::AcqRel);
    }

    /// A batch has been let go. A stream that held nothing else may make another, whatever the limits.
    pub(super) fn batch_gone(self: &Arc<Self>, held_bytes: usize) {
        self.counters.bytes_held.fetch_sub(held_bytes, Ordering::AcqRel);
        if self.counters.batches_held.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.wake();
        }
    }

    pub(super) fn holds_nothing(&self) -> bool {
        self.counters.batches_held.load(Ordering::Acquire) == 0
    }

    /// Counts a batch as sent.
    pub(crate) fn count_sent(&self, rows: u32, message_bytes: usize, raw_bytes: usize) {
        self.counters.rows_sent.fetch_add(u64::from(rows), Ordering::Relaxed);
        self.counters
            .bytes_sent
            .fetch_add(message_bytes as u64, Ordering::Relaxed);
        self.counters
            .raw_bytes_sent
            .fetch_add(raw_bytes as u64, Ordering::Relaxed);
        self.counters.batches_sent.fetch_add(1, Ordering::Relaxed);
        let metrics = &self.core.metrics;
        metrics.rows_sent.add(u64::from(rows));
        metrics.wire_bytes.add(message_bytes as u64);
        metrics.raw_bytes.add(raw_bytes as u64);
        metrics.batches_sent.add(1);
    }

    pub(super) fn set_work_done(&self, units: u64) {
        self.counters.work_done.store(units, Ordering::Relaxed);
    }

    /// Units of work done; 0 while unknown.
    pub(super) fn work_done(&self) -> u64 {
        self.counters.work_done.load(Ordering::Relaxed)
    }

    pub(crate) fn rows_read(&self) -> u64 {
        self.counters.rows_read.load(Ordering::Relaxed)
    }

    /// What `bytes_sent` comes to once all that is made has been sent.
    pub(super) fn bytes_made(&self) -> u64 {
        self.counters.bytes_made.load(Ordering::Relaxed)
    }

    pub(crate) fn rows_sent(&self) -> u64 {
        self.counters.rows_sent.load(Ordering::Relaxed)
    }

    pub(crate) fn bytes_sent(&self) -> u64 {
        self.counters.bytes_sent.load(Ordering::Relaxed)
    }

    /// What `bytes_sent` would be without compression.
    pub(crate) fn raw_bytes_sent(&self) -> u64 {
        self.counters.raw_bytes_sent.load(Ordering::Relaxed)
    }

    pub(crate) fn batches_sent(&self) -> u64 {
        self.counters.batches_sent.load(Ordering::Relaxed)
    }

    /// Memory of the batches that are held.
    pub(crate) fn bytes_held(&self) -> usize {
        self.counters.bytes_held.load(Ordering::Relaxed)
    }

    /// The result's rows, where they are known, and how.
    pub(crate) fn total(&self) -> (Option<u64>, TotalKind) {
        // What a finished engine has read is the whole result.
        if self.status() == QueryStreamStatus::Completed {
            return (Some(self.rows_read()), TotalKind::Exact);
        }
        let rows_max = self.plan.rows_max.unwrap_or(u64::MAX);
        let rows = |rows: u64| Some(rows.min(rows_max));
        match self.estimate.lock().total {
            Total::Exact(n) => (rows(n), TotalKind::Exact),
            Total::Planner(n) => (rows(n), TotalKind::Planner),
            Total::Statistics(n) => (rows(n), TotalKind::Statistics),
            Total::Unknown => (None, TotalKind::None),
        }
    }

    /// All units of work. `None` for a query with `max_rows`, which ends before them.
    pub(super) fn total_work(&self) -> Option<u64> {
        let is_whole = self.plan.rows_max.is_none();
        self.estimate.lock().work_total.filter(|_| is_whole)
    }
}
