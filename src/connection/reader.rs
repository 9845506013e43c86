//! Reader thread of one connection: HTTP head and upgrade under a deadline, then messages, and the end of everything.
//!
//! Acts on messages itself and never blocks on sending. Must not know SQL or engines.

use std::cell::{Cell, OnceCell};
use std::io;
use std::net::Shutdown;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::admission::{Admitted, Denial};
use super::application::{ApplicationMessage, Handled};
use super::heartbeat::{Heartbeat, Pulse, PulsingRead, PulsingWrite};
use super::http::{self, Answer, Door, Site};
use super::lane::LimitedLane;
use super::outbox::{Lane, LaneBell, Outbox};
use super::report::{list, notice, status, stream_state, welcome};
use super::session::{Action, Named, Session};
use super::writer::{Writer, WriterEnd};
use super::{ConnectionContext, ConnectionHandle, Purpose};
use crate::auth::SiteRefusal;
use crate::clock;
use crate::deflate::Deflate;
use crate::error::{CancelReason, ErrorCode};
use crate::id::RequestId;
use crate::metrics::{ConnectionEnd, StatusClass};
use crate::protocol::{
    CloseCode, DescribeQuery, ErrorMessage, ResumeQuery, ResumedMessage, ServerMessage, StreamQuery,
};
use crate::scheduler::{Acked, Alarm, AlarmGuard, Origin, Resumed, Stream, StreamSink};
use crate::stream::{AckError, BeyondSent};
use crate::sync::Mutex;
use crate::thread::{STACK_BYTES_CONNECTION, spawn_owning};
use crate::transport::websocket::{
    Coding, ControlLane, FrameWriter, InboundLimits, Incoming, MessageKind, ReadEnd, Side, Upgrade, read_messages,
};
use crate::transport::{Halves, ReadHalf, TransportControl, WriteHalf};

/// How long after the deadline for its head a connection is ended in any case, be it that reading takes no heed of time, that the
/// peer does not take its answer, or that it goes on sending. The same after its token has been looked at, where that takes longer.
const HEAD_GRACE: Duration = Duration::from_millis(500);

/// Time for the peer to end its side after we have ended ours.
const CLOSE_GRACE: Duration = Duration::from_secs(2);

/// A message of up to so many times the bytes that it may have is read, forgotten and answered with an error, because the connection may
/// have streams: reading costs as much as that of so many messages, and the message counts as one of those that are none. A larger one
/// is nobody's query, and closes the connection.
const SKIPPED_BYTES_FACTOR: usize = 16;

/// Serves one connection from its first byte to its last.
///
/// Ends when: the peer closes or goes away, an HTTP request has been answered, the writer's socket fails, or somebody shuts the
/// transport down. Blocks on reading.
pub(super) fn serve(halves: Halves, handle: &Arc<ConnectionHandle>, context: &ConnectionContext) -> ConnectionEnd {
    let Halves {
        mut read,
        mut write,
        control,
    } = halves;
    let coding = match context.deflaters {
        Some(_) => Coding::Deflate,
        None => Coding::Plain,
    };
    let metrics = context.scheduler.metrics();
    let count = |response: &[u8]| {
        if context.site != Site::Admin {
            metrics.http_responses.add(StatusClass::of(response), 1);
        }
    };
    let deadline = clock::after(clock::now(), context.peer_limits.head_deadline);
    let shut_down_at = |at| {
        let alarm = Arc::new(ShutDown(Arc::clone(&control)));
        context.scheduler.timekeeper().set(at, alarm)
    };
    let too_late = shut_down_at(deadline + HEAD_GRACE);
    let admission = &context.admission;
    let door = Door {
        site: context.site,
        sites: &context.sites,
        coding,
    };
    let answer = http::answer_request(read.as_mut(), deadline, door);
    drop(too_late);
    // Who comes is looked at under a deadline of its own.
    let screened = answer.map(|answer| admission.screen(answer, handle, context));
    let too_late = shut_down_at(deadline.max(clock::now()) + HEAD_GRACE);
    let end = match screened {
        Some((
            Answer::Upgrade {
                upgrade: Upgrade { response, deflate },
                leftover,
                is_versioned,
                ..
            },
            visitor,
        )) => {
            let ready = write.write_all(&response).and_then(|()| read.set_read_timeout(None));
            if let Err(error) = ready {
                log::debug!(connection = handle.id.number(), error:% = error; "connection gone before it was upgraded");
                return ConnectionEnd::Lost;
            }
            count(&response);
            if let (Some(window_bits), Some(deflaters)) = (deflate, &context.deflaters) {
                let deflate = Deflate::new(Arc::clone(deflaters), window_bits);
                handle.outbox.set_deflate(deflate);
            }
            let outbox = Arc::clone(&handle.outbox);
            read.set_doorbell(Arc::new(move || outbox.flush()));
            drop(too_late);
            let pulse = Pulse::new();
            let read = Box::new(PulsingRead {
                read,
                pulse: Arc::clone(&pulse),
                metrics: Arc::clone(metrics),
            });
            let write = Box::new(PulsingWrite {
                write,
                pulse: Arc::clone(&pulse),
                metrics: Arc::clone(metrics),
            });
            let messages = Messages::new(handle, context);
            let heartbeat = Heartbeat {
                rules: context.heartbeat,
                idle_timeout: context.peer_limits.idle_timeout,
                pulse,
                session: Arc::clone(&messages.session),
                handle: Arc::downgrade(handle),
            };
            let _guard = context
                .scheduler
                .timekeeper()
                .set(heartbeat.first_look(clock::now()), Arc::new(heartbeat));
            messages.receive(visitor);
            if is_versioned && context.purpose == Purpose::Queries && messages.admitted.get().is_some() {
                let rights = messages.session.lock().rights().clone();
                // An outbox that is still empty takes it.
                let _first_of_all = messages.reply(&welcome(context, &rights, None));
            }
            // From here on it can be told what concerns all: the welcome stands first.
            handle.upgraded();
            if let Some(until) = context.departure.until() {
                // It stays open for what its client may come to resume.
                handle.tell_departure(until);
            }
            messages.serve(read, leftover, FrameWriter::new(write, Side::Server))
        }
        Some((Answer::Respond(response), _)) => {
            count(&response);
            respond(read.as_mut(), write.as_mut(), control.as_ref(), &response);
            ConnectionEnd::Http
        }
        Some((Answer::Refuse { response, site, named }, _)) => {
            let peer = handle.peer_ip;
            match site {
                SiteRefusal::Host => context.site_watch.foreign_host(&named, peer),
                SiteRefusal::Origin => context.site_watch.foreign_origin(&named, peer),
            }
            count(&response);
            respond(read.as_mut(), write.as_mut(), control.as_ref(), &response);
            ConnectionEnd::Http
        }
        Some((Answer::Report { report, head_only }, _)) => {
            let response = http::respond_with(&context.reporter.report(report), head_only);
            count(&response);
            respond(read.as_mut(), write.as_mut(), control.as_ref(), &response);
            ConnectionEnd::Http
        }
        None => ConnectionEnd::Lost,
    };
    control.shutdown(Shutdown::Both);
    end
}

fn too_long(bytes_max: usize) -> ErrorMessage {
    let text = format!("the message has more than {bytes_max} bytes (message_bytes_max) and was ignored");
    ErrorMessage {
        hint: Some("shorten the query, or raise message_bytes_max on the server".to_owned()),
        ..ErrorMessage::new(ErrorCode::LimitExceeded, text)
    }
}

fn respond(read: &mut dyn ReadHalf, write: &mut dyn WriteHalf, control: &dyn TransportControl, response: &[u8]) {
    let _dead_peer_needs_no_answer = write.write_all(response).and_then(|()| write.finish());
    control.shutdown(Shutdown::Write);
    drain(read, clock::now() + CLOSE_GRACE);
}

/// Reads and forgets what the peer still sends: unread input at the end would make the system answer with a reset, which can
/// overtake what we have just said.
fn drain(read: &mut dyn ReadHalf, until: Instant) {
    const BYTES_MAX: usize = 256 * 1024;
    let mut scratch = [0; 4096];
    let mut n_left = BYTES_MAX;
    loop {
        let time_left = until.saturating_duration_since(clock::now());
        if time_left.is_zero() || read.set_read_timeout(Some(time_left)).is_err() {
            return;
        }
        match read.read(&mut scratch) {
            Ok(n) if n > 0 && n < n_left => n_left -= n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(_) | Err(_) => return,
        }
    }
}

/// A connection after its upgrade.
pub(super) struct Messages<'a> {
    pub(super) handle: &'a Arc<ConnectionHandle>,
    pub(super) context: &'a ConnectionContext,
    pub(super) outbox: &'a Arc<Outbox>,
    pub(super) session: Arc<Mutex<Session>>,
    /// Whose it is, once that is known.
    pub(super) admitted: OnceCell<Admitted>,
    /// Rings when that takes too long.
    pub(super) timeout: Cell<Option<AlarmGuard>>,
}

impl<'a> Messages<'a> {
    fn new(handle: &'a Arc<ConnectionHandle>, context: &'a ConnectionContext) -> Self {
        Self {
            handle,
            context,
            outbox: &handle.outbox,
            session: Arc::new(Mutex::new(Session::new(context.session_limits.clone(), clock::now()))),
            admitted: OnceCell::new(),
            timeout: Cell::new(None),
        }
    }

    fn serve(&self, read: Box<dyn ReadHalf>, leftover: Vec<u8>, frames: FrameWriter) -> ConnectionEnd {
        let writer = match self.start_writer(frames) {
            Ok(writer) => writer,
            Err((error, writer)) => {
                log::warn!(connection = self.handle.id.number(), error:% = error; "no thread for the writer");
                writer.refuse();
                return ConnectionEnd::Fault;
            }
        };
        let message_bytes_max = self.context.message_bytes_max;
        let limits = InboundLimits {
            message_bytes_max,
            skipped_bytes_max: match self.context.purpose {
                Purpose::Queries => message_bytes_max.saturating_mul(SKIPPED_BYTES_FACTOR),
                Purpose::Echo => 0,
            },
            fragments_max: self.context.peer_limits.fragments_max,
            coding: match self.outbox.deflate() {
                Some(_) => Coding::Deflate,
                None => Coding::Plain,
            },
        };
        let lane: Arc<dyn ControlLane> = Arc::new(LimitedLane::new(Arc::clone(self.outbox), self.context));
        let (end, read) = read_messages(read, leftover, Side::Server, limits, lane, |incoming| {
            self.on_incoming(&incoming)
        });
        log::debug!(connection = self.handle.id.number(), reason:% = end; "reading ended");
        self.detach_streams();
        self.finish(&end, read, writer);
        self.outbox.end().unwrap_or(match end {
            ReadEnd::Closed => ConnectionEnd::Closed,
            ReadEnd::Stopped | ReadEnd::Policy(_) => ConnectionEnd::Refused,
            ReadEnd::Gone(_) => ConnectionEnd::Lost,
            ReadEnd::Protocol(_) | ReadEnd::InvalidUtf8 | ReadEnd::NotDeflated => ConnectionEnd::ProtocolError,
            ReadEnd::TooBig => ConnectionEnd::TooBig,
        })
    }

    fn start_writer(&self, frames: FrameWriter) -> Result<JoinHandle<()>, (io::Error, Box<Writer>)> {
        let scheduler = Arc::clone(&self.context.scheduler);
        let writer = Writer::new(Arc::clone(self.outbox), Arc::clone(&self.session), scheduler, frames);
        let writer = Box::new(writer);
        let handle = Arc::clone(self.handle);
        let scheduler = Arc::clone(&self.context.scheduler);
        let role = format!("writer-{}", handle.id);
        spawn_owning(&role, STACK_BYTES_CONNECTION, writer, move |writer| {
            // A peer that gets no more ends its side; a broken socket ends the reader.
            handle.control.shutdown(match writer.write_until_closed() {
                WriterEnd::Closed => {
                    let alarm = ShutDown(Arc::clone(&handle.control));
                    let deadline = clock::now() + CLOSE_GRACE;
                    let guard = scheduler.timekeeper().set(deadline, Arc::new(alarm));
                    *handle.closing.lock() = Some(guard);
                    Shutdown::Write
                }
                WriterEnd::ReaderGone => Shutdown::Both,
                WriterEnd::Socket(error) => {
                    log::debug!(connection = handle.id.number(), error:% = error; "writing ended");
                    Shutdown::Both
                }
            });
        })
    }

    /// Sees to it that what is queued to be said last is said, but waits for nobody longer than the grace.
    fn finish(&self, end: &ReadEnd, mut read: Box<dyn ReadHalf>, writer: JoinHandle<()>) {
        let peer_listens = match end {
            ReadEnd::Closed
            | ReadEnd::Protocol(_)
            | ReadEnd::InvalidUtf8
            | ReadEnd::NotDeflated
            | ReadEnd::TooBig
            | ReadEnd::Policy(_)
            | ReadEnd::Stopped => true,
            ReadEnd::Gone(_) => false,
        };
        let deadline = clock::now() + CLOSE_GRACE;
        let guard = if peer_listens {
            Some(self.shut_down_at(deadline))
        } else {
            self.handle.control.shutdown(Shutdown::Both);
            None
        };
        self.outbox.reader_gone();
        if writer.join().is_err() {
            log::error!(connection = self.handle.id.number(); "the writer panicked");
        }
        if peer_listens {
            drain(read.as_mut(), deadline);
        }
        drop(guard);
    }

    fn shut_down_at(&self, at: Instant) -> AlarmGuard {
        let alarm = ShutDown(Arc::clone(&self.handle.control));
        self.context.scheduler.timekeeper().set(at, Arc::new(alarm))
    }

    fn on_incoming(&self, incoming: &Incoming<'_>) -> ControlFlow<()> {
        if self.context.purpose == Purpose::Echo {
            match incoming {
                Incoming::Text(text) => self.outbox.echo(MessageKind::Text, text.as_bytes()),
                Incoming::Binary(bytes) => self.outbox.echo(MessageKind::Binary, bytes),
                Incoming::TooLong | Incoming::Pong => {}
            }
            return ControlFlow::Continue(());
        }
        if self.handle.is_turned_out() {
            return ControlFlow::Continue(());
        }
        let action = match incoming {
            Incoming::Text(text) => self.session.lock().on_text(text, clock::now()),
            Incoming::Binary(_) => {
                let reply = ErrorMessage::new(ErrorCode::BadMessage, "a message is JSON text, not binary");
                self.session.lock().on_unread(reply, clock::now())
            }
            Incoming::TooLong => {
                let reply = too_long(self.context.message_bytes_max);
                self.session.lock().on_unread(reply, clock::now())
            }
            Incoming::Pong => return ControlFlow::Continue(()),
        };
        if let (Action::Application { name, request_id }, Incoming::Text(text)) = (&action, incoming) {
            return self.offer(name, text, request_id.clone());
        }
        self.act(action)
    }

    fn act(&self, action: Action) -> ControlFlow<()> {
        match action {
            Action::Start(query) => self.start(*query),
            Action::Resume(query) => self.resume(&query),
            Action::Cancel(named) => match self.find(named).filter(|stream| stream.is_live()) {
                Some(stream) => {
                    let is_own = stream.principal == *self.origin().principal();
                    stream.cancel(if is_own {
                        CancelReason::Client
                    } else {
                        CancelReason::Admin
                    });
                    ControlFlow::Continue(())
                }
                None => self.not_found(named),
            },
            Action::Ack {
                stream: named,
                batch_number,
                end,
                request_id,
            } => self.ack(named, batch_number, end, request_id),
            Action::Pause(named) => match self.find_here(named) {
                Some(stream) => {
                    stream.set_paused(true);
                    self.reply(&ServerMessage::QueryPaused(notice(&stream)))
                }
                None => self.not_found(named),
            },
            Action::Unpause(named) => match self.find_here(named) {
                Some(stream) => {
                    // First the answer: it stands before the rows that follow.
                    let replied = self.reply(&ServerMessage::QueryUnpaused(notice(&stream)));
                    stream.set_paused(false);
                    replied
                }
                None => self.not_found(named),
            },
            Action::SetPriority {
                stream: named,
                priority,
                weight,
            } => match self.find_here(named) {
                Some(stream) => {
                    stream.set_rank(priority, weight);
                    ControlFlow::Continue(())
                }
                None => self.not_found(named),
            },
            Action::Status(named) => match self.find(named) {
                Some(stream) => {
                    let for_admin = self.session.lock().rights().is_admin();
                    self.reply(&ServerMessage::QueryStatus(status(&stream, for_admin, clock::now())))
                }
                None => self.not_found(named),
            },
            Action::List(request_id) => {
                let mut streams = self.context.scheduler.streams();
                streams.retain(|stream| stream.principal == *self.origin().principal());
                self.reply(&ServerMessage::QueryList(list(
                    streams,
                    false,
                    request_id,
                    clock::now(),
                )))
            }
            Action::ListAll(request_id) => {
                let streams = self.context.scheduler.streams();
                self.reply(&ServerMessage::QueryList(list(streams, true, request_id, clock::now())))
            }
            Action::Describe(query) => {
                self.describe(query);
                ControlFlow::Continue(())
            }
            Action::Hello(hello) => self.hello(hello),
            Action::TurnAway(request_id) => self.turn_away(Denial::Stranger, request_id),
            Action::Application { .. } | Action::Ignore => ControlFlow::Continue(()),
            Action::Reply(message) => self.reply(&message),
            Action::Close(message, code, reason) => {
                let _closed_either_way = self.reply(&message);
                self.outbox.close_now(code, reason);
                ControlFlow::Break(())
            }
        }
    }

    /// The stream, where it is this client's, or this client may see everybody's.
    fn find(&self, named: Named) -> Option<Arc<Stream>> {
        let stream = self.context.scheduler.find(named.id)?;
        let is_seen = stream.principal == *self.origin().principal() || self.session.lock().rights().is_admin();
        is_seen.then_some(stream)
    }

    /// As streams know the connection.
    fn origin(&self) -> &Origin {
        self.admitted
            .get()
            .map_or(&self.handle.origin, |admitted| &admitted.origin)
    }

    /// The stream, where it is on this connection.
    fn find_here(&self, named: Named) -> Option<Arc<Stream>> {
        self.find(named)
            .filter(|stream| stream.is_at(self.handle.id) && stream.is_live())
    }

    fn not_found(&self, named: Named) -> ControlFlow<()> {
        let action = self.session.lock().on_not_found(named.id);
        self.act(action)
    }

    fn ack(
        &self,
        named: Named,
        batch_number: Option<u64>,
        end: bool,
        request_id: Option<RequestId>,
    ) -> ControlFlow<()> {
        let acked = match self.context.scheduler.find(named.id) {
            Some(stream) => stream.ack(self.handle.id, batch_number, end),
            None => Err(AckError::NotAttached),
        };
        match acked {
            Ok(acked) => {
                let mut session = self.session.lock();
                if acked != Acked::Nothing {
                    session.on_useful_ack();
                }
                if acked == (Acked::All { is_completed: true }) {
                    session.on_completed();
                }
                ControlFlow::Continue(())
            }
            Err(AckError::NotAttached) => {
                let action = self.session.lock().on_late_ack(named.id);
                self.act(action)
            }
            Err(AckError::Beyond(BeyondSent { sent })) => {
                let number = batch_number.map_or(-1_i128, i128::from);
                let text = format!("ack of batch {number} of stream {}: {sent} batches were sent", named.id);
                self.reply(&ServerMessage::Error(ErrorMessage {
                    request_id,
                    ..ErrorMessage::new(ErrorCode::BadMessage, text)
                }))
            }
        }
    }

    /// Offers a message to the application. What happens there ends nothing here.
    fn offer(&self, name: &str, text: &str, request_id: Option<RequestId>) -> ControlFlow<()> {
        let (Some(handler), Some(admitted)) = (&self.context.handler, self.admitted.get()) else {
            let action = self.session.lock().on_unknown(name, request_id);
            return self.act(action);
        };
        let message = ApplicationMessage { kind: name, text };
        match catch_unwind(AssertUnwindSafe(|| handler.message(message, &admitted.sender))) {
            Ok(Handled::Yes) => {
                self.session.lock().on_taken();
                ControlFlow::Continue(())
            }
            Ok(Handled::No) => {
                let action = self.session.lock().on_unknown(name, request_id);
                self.act(action)
            }
            Err(_) => {
                log::error!(connection = self.handle.id.number(); "the message handler panicked");
                self.reply(&ServerMessage::Error(ErrorMessage {
                    request_id,
                    ..ErrorMessage::new(ErrorCode::Internal, "the application failed unexpectedly")
                }))
            }
        }
    }

    pub(super) fn reply(&self, message: &ServerMessage) -> ControlFlow<()> {
        if let ServerMessage::Error(error) = message {
            self.context.scheduler.metrics().refused.add(error.code, 1);
        }
        if self.outbox.send(message) {
            ControlFlow::Continue(())
        } else {
            self.outbox.close_now(CloseCode::TooMany, "answers are not being read");
            ControlFlow::Break(())
        }
    }

    fn start(&self, query: StreamQuery) -> ControlFlow<()> {
        let request_id = query.request_id.clone();
        let bell = self.outbox.lane_bell();
        let sink = Arc::clone(&bell) as Arc<dyn StreamSink>;
        let rights = self.session.lock().rights().clone();
        match self.context.scheduler.accept(query, self.origin(), &rights, sink) {
            Ok(accepted) => {
                let stream = Arc::clone(&accepted.stream);
                stream.set_bearer(self.handle.bearer());
                self.session.lock().on_accepted(stream.id, request_id);
                let generation = stream.generation();
                self.outbox.open_lane(Lane {
                    stream: Arc::clone(&stream),
                    generation,
                    bell,
                });
                self.context.scheduler.launch(accepted);
                self.handle.recheck_stream(&self.session, &stream);
                ControlFlow::Continue(())
            }
            Err(error) => {
                let flow = self.reply(&ServerMessage::Error(ErrorMessage { request_id, ..*error }));
                // Only now: a connection that is to be closed has nothing to wait for any more.
                self.outbox.no_lane();
                flow
            }
        }
    }

    fn describe(&self, query: DescribeQuery) {
        let (outbox, session) = (Arc::clone(self.outbox), Arc::clone(&self.session));
        let metrics = Arc::clone(self.context.scheduler.metrics());
        outbox.answer_coming();
        let answer = move |message: &ServerMessage| {
            if let ServerMessage::Error(error) = message {
                metrics.refused.add(error.code, 1);
            }
            session.lock().on_answered(clock::now());
            if !outbox.send(message) {
                outbox.close_now(CloseCode::TooMany, "answers are not being read");
            }
            outbox.answered();
        };
        let rights = self.session.lock().rights().clone();
        let scheduler = &self.context.scheduler;
        scheduler.describe(query, self.origin(), &rights, Box::new(answer));
        if self.handle.is_turned_out() {
            // Whoever has turned them out may not have seen this question.
            scheduler.cancel_questions(self.handle.id, CancelReason::Admin);
        }
    }

    fn resume(&self, query: &ResumeQuery) -> ControlFlow<()> {
        let bell = self.outbox.lane_bell();
        match self.take_over(query, bell) {
            Ok(flow) => flow,
            Err(error) => {
                let metrics = self.context.scheduler.metrics();
                metrics.resumes_refused.add(error.code.into(), 1);
                let flow = self.reply(&ServerMessage::Error(ErrorMessage {
                    request_id: query.request_id.clone(),
                    ..*error
                }));
                self.outbox.no_lane();
                flow
            }
        }
    }

    fn take_over(&self, query: &ResumeQuery, bell: Arc<LaneBell>) -> Result<ControlFlow<()>, Box<ErrorMessage>> {
        let scheduler = &self.context.scheduler;
        let origin = self.origin();
        let rights = self.session.lock().rights().clone();
        let stream = scheduler.find_resumable(&query.resume_token, origin.principal(), &rights)?;
        let refusal = self
            .session
            .lock()
            .resume_refusal(stream.id, stream.request_id.as_ref());
        if let Some(error) = refusal {
            return Err(Box::new(error));
        }
        let sink = Arc::clone(&bell) as Arc<dyn StreamSink>;
        let Resumed {
            stream,
            attached,
            token,
            columns,
        } = scheduler.resume(stream, query, origin, sink)?;
        stream.set_bearer(self.handle.bearer());
        self.session.lock().on_accepted(stream.id, stream.request_id.clone());
        let resumed = ServerMessage::QueryResumed(ResumedMessage {
            stream_id: stream.id,
            request_id: stream.request_id.clone(),
            next_batch: attached.next_batch,
            resend_from: attached.resend_from,
            resume_token: token,
            state: stream_state(stream.state()),
        });
        let mut flow = self.reply(&resumed);
        if columns.is_some_and(|columns| !self.outbox.send_encoded(columns)) {
            self.outbox.close_now(CloseCode::TooMany, "answers are not being read");
            flow = ControlFlow::Break(());
        }
        // Only now: the answer stands before the rows.
        let generation = attached.generation;
        self.outbox.open_lane(Lane {
            stream: Arc::clone(&stream),
            generation,
            bell,
        });
        self.handle.recheck_stream(&self.session, &stream);
        if self.context.departure.until().is_some() {
            self.handle.close_after_streams(CloseCode::ServiceRestart);
        }
        Ok(flow)
    }

    /// The connection is over: streams that can be resumed wait for another, the others are cancelled, and so are questions.
    fn detach_streams(&self) {
        let reason = CancelReason::Disconnect;
        self.context.scheduler.cancel_questions(self.handle.id, reason);
        let known = self.session.lock().known();
        for stream in known.into_iter().filter_map(|id| self.context.scheduler.find(id)) {
            if stream.is_at(self.handle.id) {
                // Its client may have shown a newer token since it was started.
                stream.set_bearer(self.handle.bearer());
            }
            stream.detach(self.handle.id);
        }
    }
}

impl Drop for Messages<'_> {
    /// After a panic too: nobody is left to read what the streams would send.
    fn drop(&mut self) {
        self.detach_streams();
        let (Some(handler), Some(admitted)) = (&self.context.handler, self.admitted.get()) else {
            return;
        };
        // Unwinding already, a second panic would end the process.
        if catch_unwind(AssertUnwindSafe(|| handler.disconnected(&admitted.sender))).is_err() {
            log::error!(connection = self.handle.id.number(); "the message handler panicked at the end");
        }
    }
}

/// Ends a connection whose time is up, from the timekeeper's thread.
pub(super) struct ShutDown(pub(super) Arc<dyn TransportControl>);

impl Alarm for ShutDown {
    fn ring(&self, _now: Instant) -> Option<Instant> {
        self.0.shutdown(Shutdown::Both);
        None
    }
}
