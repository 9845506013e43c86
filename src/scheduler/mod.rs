//! Runs queries: a fixed pool of workers that take turns at streams, each turn filling one batch into the stream's bounded
//! channel.
//!
//! A stream whose channel is full is parked: its cursor sleeps inside it and costs no worker. Whoever takes a batch out wakes
//! it. Must not know connections or sockets.

mod alarm;
mod budget;
mod buffers;
mod estimates;
mod event;
mod fair;
mod groups;
mod job;
mod life;
mod live;
mod outlet;
mod producer;
mod progress;
mod question;
mod queue;
mod relief;
#[cfg(all(test, rowstream_shuttle))]
mod scheduled_test;
mod seats;
#[cfg(all(test, rowstream_shuttle))]
mod shuttle_test;
mod standstill;
mod stop;
mod timekeeper;
mod watch;
mod worker;

use std::fmt;
use std::io;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};

pub(crate) use budget::{Account, Held, MESSAGE_BYTES_ALWAYS, Permit, message_bytes_max};
pub(crate) use event::{Completion, EncodedBatch, StreamEnd, Timings};
pub(crate) use fair::{FairQueue, PRIORITY_MAX, Rank, Ticket, WEIGHT_MAX};
pub(crate) use live::Stream;
pub(crate) use outlet::{Acked, Resumed, StreamSink, Urgency};
pub(crate) use question::Answer;
pub(crate) use seats::{Full, Seat, Seats};
pub(crate) use timekeeper::{Alarm, AlarmGuard, Timekeeper};

use budget::Budget;
use buffers::{Buffers, Compressors};
use estimates::Allowance;
use fair::{PRIORITY_DEFAULT, WEIGHT_DEFAULT};
use job::Job;
use live::{Asked, StreamPlan};
use outlet::{NoteKind, Outlet};
use producer::BatchRules;
use question::{QUESTION_DURATION_MAX, Question, Questions};
use queue::RunQueue;
use relief::Relief;
use stop::StreamDeadline;
use watch::Watch;
use worker::Errand;

use crate::auth::Rights;
use crate::clock;
use crate::engine::{CancelReason, Engine, QuerySpec, over_pools};
use crate::error::ErrorCode;
use crate::id::{ConnectionId, Epoch, Principal, ResumeToken, StreamId, TokenHash};
use crate::metrics::Metrics;
use crate::protocol::{
    DescribeQuery, ErrorMessage, QueuedMessage, ResumeQuery, ServerMessage, StreamQuery, WindowRequest,
};
use crate::rows::CellRules;
use crate::stream::{Registry, RegistryStatistics, StreamingConfig, WindowLimits};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::thread::{STACK_BYTES_CONNECTION, STACK_BYTES_WORKER, spawn_named};

/// Estimates that wait for a worker. When full, further streams go without a total.
const ASIDES_MAX: usize = 256;

/// Errands that wait for the closer. When full, whoever cancels closes the cursor itself, and a look waits for the next time.
const CLOSING_MAX: usize = 1024;

/// What all parts of the scheduler share.
#[derive(Debug)]
struct Core {
    config: StreamingConfig,
    queue: RunQueue<Arc<Stream>, Weak<Stream>, Arc<Question>>,
    questions: Arc<Questions>,
    registry: Registry<Stream>,
    buffers: Buffers,
    compressors: Compressors,
    budget: Arc<Budget>,
    metrics: Arc<Metrics>,
    epoch: Epoch,
    timekeeper: Timekeeper,
    closing: Mutex<Option<Sender<Errand>>>,
    relief: Relief,
    estimates: Mutex<Allowance>,
    watch: Watch,
}

/// A connection, as its streams know it.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    principal: Principal,
    connection: ConnectionId,
    account: Arc<Account>,
}

impl Origin {
    pub(crate) fn principal(&self) -> &Principal {
        &self.principal
    }

    /// The same connection, once it is known whose it is.
    pub(crate) fn with_principal(&self, principal: Principal) -> Self {
        Self {
            principal,
            ..self.clone()
        }
    }

    /// What is held for the connection.
    pub(crate) fn account(&self) -> &Arc<Account> {
        &self.account
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").finish_non_exhaustive()
    }
}

impl Core {
    /// What one stream may have waiting in its channel: an even share of the whole.
    fn share_bytes(&self) -> usize {
        let even = self.config.buffer_bytes / self.registry.n_running().max(1);
        even.min(self.config.stream_buffer_bytes_max)
    }

    /// Closes a cancelled stream's cursor on the closer's thread: closing can take as long as an engine likes.
    fn close_elsewhere(&self, stream: Arc<Stream>, job: Box<Job>) {
        let sender = self.closing.lock().clone();
        let errand = Errand::Close(stream, job);
        let refused = match sender {
            Some(sender) => sender
                .try_send(errand)
                .err()
                .map(crossbeam_channel::TrySendError::into_inner),
            None => Some(errand),
        };
        if let Some(Errand::Close(stream, job)) = refused {
            worker::close(&stream, job);
        }
    }
}

/// The pool of workers and everything around it.
#[derive(Debug)]
pub(crate) struct Scheduler {
    core: Arc<Core>,
    engines: Vec<NamedEngine>,
    /// Of the streams whose engine side is alive.
    seats: Arc<Seats>,
    /// Whether what runs is not to run on.
    stopping: AtomicBool,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// An engine under the name that clients use.
#[derive(Clone)]
pub(crate) struct NamedEngine {
    pub(crate) name: Arc<str>,
    pub(crate) engine: Arc<dyn Engine>,
}

impl fmt::Debug for NamedEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NamedEngine").field(&self.name).finish()
    }
}

/// A stream that has been accepted and not yet been launched.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) stream: Arc<Stream>,
    job: Box<Job>,
    token: Option<TokenHash>,
    expected: Expected,
}

/// A stream that the registry counts on until it [is there](Self::arrived), or this is dropped.
struct Expected(Option<Arc<Core>>);

impl Expected {
    /// `None` once the server takes no more.
    fn new(core: &Arc<Core>) -> Option<Self> {
        core.registry.expect().then(|| Self(Some(Arc::clone(core))))
    }

    fn arrived(mut self) {
        self.0 = None;
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        if let Some(core) = &self.0 {
            core.registry.not_coming();
        }
    }
}

impl fmt::Debug for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Expected")
    }
}

impl Scheduler {
    /// Starts the workers, the closer and the timekeeper.
    ///
    /// # Errors
    /// Where the system has too few threads to give; those already started are stopped again.
    pub(crate) fn start(
        engines: Vec<NamedEngine>,
        config: StreamingConfig,
        n_workers: usize,
        seats: Arc<Seats>,
    ) -> io::Result<Self> {
        let (closing, to_close) = bounded(CLOSING_MAX);
        let budget = Budget::new(config.held_bytes_max);
        let compressors = Compressors::new(config.compression_level);
        let scheduler = Self {
            core: Arc::new(Core {
                config,
                queue: RunQueue::new(n_workers, ASIDES_MAX),
                questions: Arc::default(),
                registry: Registry::new(),
                buffers: Buffers::default(),
                compressors,
                budget,
                metrics: Arc::default(),
                epoch: Epoch::random(),
                timekeeper: Timekeeper::start()?,
                closing: Mutex::new(Some(closing)),
                relief: Relief::default(),
                estimates: Mutex::new(Allowance::new(clock::now())),
                watch: Watch::default(),
            }),
            engines,
            seats,
            stopping: AtomicBool::new(false),
            threads: Mutex::new(Vec::with_capacity(n_workers + 1)),
        };
        for n in 0..n_workers {
            let core = Arc::clone(&scheduler.core);
            let worker = spawn_named(&format!("worker-{n}"), STACK_BYTES_WORKER, move || {
                worker::work_until_closed(&core);
            });
            scheduler.keep(worker)?;
        }
        let core = Arc::clone(&scheduler.core);
        scheduler.keep(spawn_named(
            "closer",
            STACK_BYTES_WORKER.max(STACK_BYTES_CONNECTION),
            move || {
                worker::run_errands_until_disconnected(&core, &to_close);
            },
        ))?;
        Ok(scheduler)
    }

    fn keep(&self, thread: io::Result<JoinHandle<()>>) -> io::Result<()> {
        match thread {
            Ok(thread) => {
                self.threads.lock().push(thread);
                Ok(())
            }
            Err(error) => {
                self.stop();
                Err(error)
            }
        }
    }

    /// What engines that count their memory take, and may take.
    pub(crate) fn engine_memory(&self) -> (Option<usize>, Option<usize>) {
        let engines = || self.engines.iter().map(|named| &*named.engine);
        (
            over_pools(engines(), Engine::memory_bytes),
            over_pools(engines(), Engine::memory_bytes_max),
        )
    }

    /// A connection, as streams know it.
    pub(crate) fn origin(&self, connection: ConnectionId, principal: Principal) -> Origin {
        Origin {
            principal,
            connection,
            account: Account::new(&self.core.budget, self.core.config.connection_held_bytes_max),
        }
    }

    /// Accepts a query. What there is to [take](Stream::take) of it will be announced to `sink`. Nothing runs until
    /// [`launch`](Self::launch).
    ///
    /// # Errors
    /// `SHUTTING_DOWN`, `QUEUE_FULL`, `TOO_MANY_STREAMS`, or `BAD_MESSAGE` for an engine that this server does not have, as far as
    /// `rights` go.
    pub(crate) fn accept(
        &self,
        query: StreamQuery,
        origin: &Origin,
        rights: &Rights,
        sink: Arc<dyn StreamSink>,
    ) -> Result<Accepted, Box<ErrorMessage>> {
        let StreamQuery {
            query: sql,
            batch_size,
            request_id,
            params,
            engine,
            format,
            row_format,
            int64,
            compression,
            progress_interval_ms,
            max_batch_bytes,
            max_rows,
            max_bytes,
            timeout_ms,
            window,
            resumable,
            priority,
            weight,
            checksum,
            traceparent,
            text_errors,
            arrow_mixed,
            cell_types,
        } = query;
        self.check_accepting()?;
        let config = &self.core.config;
        let waiting_max = config.queries_waiting_max;
        if self.core.queue.wait_ahead().is_some_and(|n| n >= waiting_max) {
            let message = format!("{waiting_max} queries already wait for a worker");
            return Err(Box::new(ErrorMessage::new(ErrorCode::QueueFull, message)));
        }
        let NamedEngine { name, engine } = self.engine(engine.as_deref(), rights)?.clone();
        let seat = self.take_seat(origin)?;
        // From here on a drain waits for it.
        let expected = Expected::new(&self.core).ok_or_else(going_away)?;
        let progress_interval = progress_interval_ms.map_or(config.progress_interval, Duration::from_millis);
        let now = clock::now();
        let plan = StreamPlan {
            asked: Asked::new(QuerySpec::new(sql).with_params(params)),
            engine_name: name,
            deadline: StreamDeadline::earliest(timeout_ms.map(Duration::from_millis), config.max_stream_duration),
            progress_interval: (!progress_interval.is_zero()).then_some(progress_interval),
            rows_max: max_rows,
            traceparent,
        };
        let rules = BatchRules {
            format,
            compression: compression.first().copied().unwrap_or_default(),
            row_format,
            int64,
            batch_rows: batch_size.unwrap_or(config.batch_size),
            batch_bytes: max_batch_bytes
                .map_or(config.batch_bytes, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX)),
            row_bytes_max: config.row_bytes_max,
            rows_max: max_rows,
            bytes_max: max_bytes,
            first_interval: config.first_batch_interval,
            interval: config.batch_interval,
            checksum,
            cells: CellRules {
                text_errors,
                cell_types,
            },
            arrow_mixed,
        };
        let rank = Rank {
            priority: priority.unwrap_or(PRIORITY_DEFAULT),
            weight: weight.unwrap_or(WEIGHT_DEFAULT),
        };
        let (channel, events) = bounded(config.channel_buffer_size + event::OTHER_EVENTS_MAX);
        let limits = match window {
            None if !resumable => None,
            window => Some(self.window_limits(window.unwrap_or_default())),
        };
        let outlet = Outlet::new(limits, resumable, events, sink, origin.connection, now);
        let stream = Arc::new(Stream::new(
            request_id,
            plan,
            engine,
            Arc::clone(&self.core),
            origin.clone(),
            rank,
            outlet,
        ));
        let token = resumable.then(|| ResumeToken::random(self.core.epoch));
        let hash = token.as_ref().map(ResumeToken::hash);
        let job = Box::new(Job::new(&stream, rules, channel, token, seat));
        Ok(Accepted {
            stream,
            job,
            token: hash,
            expected,
        })
    }

    /// Has a query described: `answer` is given what there is to say, on a worker or, where that is a refusal, at once or at its
    /// deadline. A question has a seat like a stream. Never blocks.
    pub(crate) fn describe(&self, query: DescribeQuery, origin: &Origin, rights: &Rights, answer: Answer) {
        let DescribeQuery {
            query: sql,
            engine,
            request_id,
        } = query;
        let asked = self
            .check_accepting()
            .and_then(|()| self.engine(engine.as_deref(), rights))
            .and_then(|named| Ok((Arc::clone(&named.engine), self.take_seat(origin)?)));
        let (engine, seat) = match asked {
            Ok(asked) => asked,
            Err(error) => return answer(&ServerMessage::Error(ErrorMessage { request_id, ..*error })),
        };
        let core = &self.core;
        let asked = question::Asked {
            engine,
            sql,
            request_id,
            answer,
            seat,
        };
        let question = core.questions.open(origin.connection, asked);
        let timeout = core.config.max_query_duration.min(QUESTION_DURATION_MAX);
        question.arm(&core.timekeeper, clock::after(clock::now(), timeout));
        if let Err(question) = core.queue.push_question(Arc::clone(&question)) {
            let text = "too many questions wait for a worker";
            question.refuse(ErrorMessage::new(ErrorCode::QueueFull, text));
        }
        // A stop that came since `check_accepting` may not have seen this question.
        if self.stopping.load(Ordering::Acquire) {
            question.cancel(CancelReason::Shutdown);
        }
    }

    /// Cancels the questions of a connection.
    pub(crate) fn cancel_questions(&self, connection: ConnectionId, reason: CancelReason) {
        self.core.questions.cancel_of(connection, reason);
    }

    fn take_seat(&self, origin: &Origin) -> Result<Seat, Box<ErrorMessage>> {
        self.seats.take(&origin.principal).map_err(|full| {
            let message = match full {
                Full::All(max) => format!("the server has {max} running streams, which is the most"),
                Full::Principal(max) => format!("this client has {max} running streams, which is the most"),
            };
            Box::new(ErrorMessage::new(ErrorCode::TooManyStreams, message))
        })
    }

    /// The engines that may be asked with these rights; the first answers queries that name none.
    fn engines(&self, rights: &Rights) -> impl Iterator<Item = &NamedEngine> {
        self.engines.iter().filter(|engine| rights.may_ask(&engine.name))
    }

    /// Their names.
    pub(crate) fn engine_names(&self, rights: &Rights) -> impl Iterator<Item = &str> {
        self.engines(rights).map(|engine| engine.name.as_ref())
    }

    /// Which start of which server this is.
    pub(crate) fn epoch(&self) -> Epoch {
        self.core.epoch
    }

    /// Lets an accepted stream run. Tells it to wait, with its position, where no worker is free.
    pub(crate) fn launch(&self, accepted: Accepted) {
        let Accepted {
            stream,
            mut job,
            token,
            expected,
        } = accepted;
        if let Some(n_ahead) = self.core.queue.wait_ahead() {
            let message = ServerMessage::QueryQueued(QueuedMessage {
                stream_id: stream.id,
                request_id: stream.request_id.clone(),
                position: n_ahead as u64 + 1,
            });
            job.send_message(NoteKind::Queued, &message);
        }
        stream.log_accepted();
        stream.give_job(job);
        self.core.registry.insert(stream.id, Arc::clone(&stream), token);
        expected.arrived();
        stream.launch();
        // A stop that came between `accept` and `launch` has not seen this stream.
        if self.stopping.load(Ordering::Acquire) {
            stream.cancel(CancelReason::Shutdown);
        }
    }

    /// Which stream a token is for, as far as its bearer may know.
    ///
    /// # Errors
    /// `RESUME_EXPIRED` for a token of this server's that is good no more, `RESUME_DENIED` for any other, and where the stream's
    /// engine may not be asked with `rights`.
    pub(crate) fn find_resumable(
        &self,
        token: &ResumeToken,
        principal: &Principal,
        rights: &Rights,
    ) -> Result<Arc<Stream>, Box<ErrorMessage>> {
        let found = self.core.registry.find_token(token.hash());
        let own = found.filter(|stream| stream.principal == *principal);
        let is_known = own.is_some();
        if let Some(stream) = own.filter(|stream| rights.may_ask(&stream.plan.engine_name)) {
            return Ok(stream);
        }
        Err(Box::new(if !is_known && token.is_of(self.core.epoch) {
            let text = "the stream was not resumed in time, or the token has been used";
            ErrorMessage::new(ErrorCode::ResumeExpired, text)
        } else {
            let text = "the token names no stream of this server; it may have been restarted";
            ErrorMessage::new(ErrorCode::ResumeDenied, text)
        }))
    }

    /// Gives a stream to the connection that shows its token; whoever had it before has it no more. What there is to take will be
    /// announced to `sink`.
    ///
    /// # Errors
    /// `SHUTTING_DOWN`, and as [`find_resumable`](Self::find_resumable) and [`Stream::attach`].
    pub(crate) fn resume(
        &self,
        stream: Arc<Stream>,
        query: &ResumeQuery,
        origin: &Origin,
        sink: Arc<dyn StreamSink>,
    ) -> Result<Resumed, Box<ErrorMessage>> {
        if self.stopping.load(Ordering::Acquire) {
            return Err(going_away());
        }
        let from = match query.last_batch {
            Some(number) => number.saturating_add(1),
            None => 0,
        };
        let limits = query.window.map(|window| self.window_limits(window));
        let token = ResumeToken::random(self.core.epoch);
        let tokens = (query.resume_token.hash(), token.hash());
        let (attached, columns) = stream.attach(from, limits, origin.connection, sink, tokens)?;
        log::debug!(
            stream:% = stream.id, connection = origin.connection.number(), batch = from, traceparent = stream.plan.traceparent;
            "stream resumed"
        );
        Ok(Resumed {
            stream,
            attached,
            token,
            columns,
        })
    }

    fn check_accepting(&self) -> Result<(), Box<ErrorMessage>> {
        if self.is_accepting() { Ok(()) } else { Err(going_away()) }
    }

    fn window_limits(&self, request: WindowRequest) -> WindowLimits {
        let config = &self.core.config;
        WindowLimits {
            batches: request.batches.unwrap_or(config.window_batches),
            bytes: request.bytes.unwrap_or(config.window_bytes),
        }
    }

    fn engine(&self, name: Option<&str>, rights: &Rights) -> Result<&NamedEngine, Box<ErrorMessage>> {
        let mut engines = self.engines(rights);
        let found = match name {
            None => engines.next(),
            Some(name) => engines.find(|engine| engine.name.as_ref() == name),
        };
        found.ok_or_else(|| {
            let names: Vec<&str> = self.engine_names(rights).collect();
            let message = format!("this server has no such engine; it has: {}", names.join(", "));
            Box::new(ErrorMessage::new(ErrorCode::BadMessage, message))
        })
    }

    /// The clock that everything of this server goes by.
    pub(crate) fn timekeeper(&self) -> &Timekeeper {
        &self.core.timekeeper
    }

    /// What is counted.
    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        &self.core.metrics
    }

    /// As [`bytes_held`](Self::bytes_held), of one kind.
    pub(crate) fn bytes_held_as(&self, kind: Held) -> usize {
        self.core.budget.held_as(kind)
    }

    /// Bytes held: batches in channels, in windows and retained, and messages in outboxes.
    pub(crate) fn bytes_held(&self) -> usize {
        self.core.budget.held()
    }

    pub(crate) fn config(&self) -> &StreamingConfig {
        &self.core.config
    }

    pub(crate) fn find(&self, id: StreamId) -> Option<Arc<Stream>> {
        self.core.registry.find(id)
    }

    pub(crate) fn streams(&self) -> Vec<Arc<Stream>> {
        self.core.registry.all()
    }

    pub(crate) fn statistics(&self) -> RegistryStatistics {
        self.core.registry.statistics()
    }

    /// Refuses queries from now on with `SHUTTING_DOWN`; those that run go on, and may be resumed. When this returns, all that have
    /// been accepted count as [undelivered](Self::n_undelivered), launched or not.
    pub(crate) fn refuse_queries(&self) {
        self.core.registry.close();
    }

    /// Whether queries are taken.
    pub(crate) fn is_accepting(&self) -> bool {
        self.core.registry.is_open()
    }

    /// How many streams have been accepted whose terminator no connection has been given yet.
    pub(crate) fn n_undelivered(&self) -> usize {
        self.core.registry.n_undelivered()
    }

    /// Blocks until every stream's terminator has been given to a connection or the stream is held no more, or `deadline`; returns how
    /// many are left.
    pub(crate) fn wait_until_delivered(&self, deadline: Instant) -> usize {
        self.core.registry.wait_until_delivered(deadline)
    }

    /// Refuses resumes too, and cancels a stream that is about to be launched.
    pub(crate) fn refuse_all(&self) {
        self.refuse_queries();
        self.stopping.store(true, Ordering::Release);
    }

    /// Cancels every live stream, and every question.
    pub(crate) fn cancel_all(&self, reason: CancelReason) {
        for stream in self.streams() {
            stream.cancel(reason);
        }
        self.core.questions.cancel_all(reason);
    }

    /// Forgets the streams that are held only in case somebody comes back: nobody can any more.
    fn forget_retained(&self) {
        while let Some(stream) = self.core.registry.first_to_go() {
            stream.expire();
        }
    }

    /// Cancels what runs, and ends and joins every thread. Blocks until the engine calls that run have returned. Idempotent.
    pub(crate) fn stop(&self) {
        self.refuse_all();
        self.cancel_all(CancelReason::Shutdown);
        self.core.queue.close();
        *self.core.closing.lock() = None;
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            let name = thread.thread().name().unwrap_or("a worker").to_owned();
            if thread.join().is_err() {
                log::error!(thread = name; "a thread panicked");
            }
        }
        self.forget_retained();
        self.core.timekeeper.stop();
    }
}

fn going_away() -> Box<ErrorMessage> {
    Box::new(ErrorMessage::new(ErrorCode::ShuttingDown, "the server is going away"))
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.stop();
    }
}
