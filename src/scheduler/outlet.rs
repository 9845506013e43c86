//! The end of a stream that faces its client: what a connection takes, acknowledges, gives up and takes over.
//!
//! [`Delivery`] decides; here is the lock around it, the channel behind it, and who is told. Must not know connections or
//! sockets: it reports through a [`StreamSink`].

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::Receiver;

use super::Core;
use super::event::{EncodedBatch, StreamEnd, StreamEvent};
use super::live::Stream;
use super::standstill::Standstill;
use super::stop::LimitReached;
use crate::clock;
use crate::deflate::Deflate;
use crate::engine::CancelReason;
use crate::error::ErrorCode;
use crate::id::{ConnectionId, ResumeToken, TokenHash};
use crate::metrics::Blocked;
use crate::protocol::{BlockedBy, ErrorMessage, WindowMessage};
use crate::stream::{
    AckError, AttachError, Attached, Delivery, Generation, Gone, Item, Made, ProgressMeter, Taken, WindowLimits,
};
use crate::sync::MutexGuard;

/// How soon the other end should look at a stream's channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// Somebody waits for just this: a first batch, a terminator.
    Now,
    /// Within a few milliseconds, together with whatever else comes until then.
    Soon,
}

/// Whoever takes a stream's messages. Nothing here may block.
pub(crate) trait StreamSink: Send + Sync {
    /// There is something of `bytes` bytes to take.
    fn notify(&self, urgency: Urgency, bytes: usize);

    /// A progress message is due.
    fn progress_due(&self);

    /// What batches are to be deflated with.
    fn deflate(&self) -> Option<Deflate> {
        None
    }
}

/// Which of a stream's messages that are no batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoteKind {
    Queued,
    Started,
    /// `query_columns`: comes again on each connection, because a client may have missed it.
    Columns,
}

/// A message of a stream that is no batch and no terminator, encoded.
#[derive(Debug, Clone)]
pub(crate) struct Note {
    pub(crate) kind: NoteKind,
    pub(crate) message: Vec<u8>,
}

/// What a stream's writer is given.
pub(crate) type StreamTaken = Taken<Arc<EncodedBatch>, Note, StreamEnd>;

/// Everything under the outlet's lock.
pub(super) struct Outlet {
    pub(super) delivery: Delivery<Arc<EncodedBatch>, StreamEnd>,
    events: Receiver<StreamEvent>,
    pub(super) sink: Arc<dyn StreamSink>,
    /// The connection that has the stream, or had it last.
    owner: ConnectionId,
    pub(super) meter: ProgressMeter,
    columns: Option<Vec<u8>>,
    /// Whether a client can know the stream's token.
    is_started_given: bool,
    /// The client has shown that it knows its newest token once it acknowledges this batch or a later one: they were never sent
    /// before the answer that brought the token. `None` once it has.
    unconfirmed_until: Option<u64>,
    /// When the client last took or acknowledged something.
    pub(super) moved_at: Instant,
    pub(super) standstill: Standstill,
    /// Why its client was given up as too slow the last time, and what it could have done.
    pub(super) stalled: Option<(BlockedBy, String)>,
    /// Since when the stream is held only in case somebody comes back.
    pub(super) left_at: Option<Instant>,
    pub(super) progress_at: Option<Instant>,
}

impl fmt::Debug for Outlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outlet")
            .field("left_at", &self.left_at)
            .finish_non_exhaustive()
    }
}

impl Outlet {
    pub(super) fn new(
        limits: Option<WindowLimits>,
        is_resumable: bool,
        events: Receiver<StreamEvent>,
        sink: Arc<dyn StreamSink>,
        owner: ConnectionId,
        now: Instant,
    ) -> Self {
        Self {
            delivery: Delivery::new(limits, is_resumable),
            events,
            sink,
            owner,
            meter: ProgressMeter::default(),
            columns: None,
            is_started_given: false,
            unconfirmed_until: None,
            moved_at: now,
            standstill: Standstill::of_new_stream(now),
            stalled: None,
            left_at: None,
            progress_at: None,
        }
    }

    /// While nobody takes what is made: moves it out of the channel, so that there is room for more. Gives back what nobody wants.
    fn absorb(&mut self) -> Vec<Arc<EncodedBatch>> {
        let mut unwanted = Vec::new();
        while let Ok(event) = self.events.try_recv() {
            match self.delivery.absorb(event) {
                Some(Item::Message(note)) if note.kind == NoteKind::Columns => self.columns = Some(note.message),
                Some(Item::Batch(batch)) => unwanted.push(batch),
                Some(Item::Message(_) | Item::End(_)) | None => {}
            }
        }
        unwanted
    }

    /// The attachment of this connection, where it has the stream.
    fn attachment_of(&self, connection: ConnectionId) -> Option<Generation> {
        (self.delivery.is_attached() && self.owner == connection).then(|| self.delivery.generation())
    }

    /// Since when something has waited for a client that takes nothing; `None` where it is not the client that is waited for.
    fn stalled_since(&self) -> Option<Instant> {
        let is_up_to_it = self.delivery.is_attached() && !self.delivery.is_paused();
        let is_shut = !self.delivery.window().may_make() && !self.delivery.is_end_given();
        (is_up_to_it && (is_shut || self.delivery.has_pending())).then_some(self.moved_at)
    }
}

/// A stream that a connection has taken over.
#[derive(Debug)]
pub(crate) struct Resumed {
    pub(crate) stream: Arc<Stream>,
    pub(crate) attached: Attached,
    pub(crate) token: ResumeToken,
    /// `query_columns`, where the stream has had one.
    pub(crate) columns: Option<Vec<u8>>,
}

/// What an acknowledgement was good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Acked {
    /// All of it was known.
    Nothing,
    /// There is less to hold.
    Batches,
    /// Nothing is held of the stream any more.
    All {
        /// Whether it had come to its end, and nobody had to stop it.
        is_completed: bool,
    },
}

/// Figures of a stream's delivery.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeliveryFigures {
    pub(crate) is_attached: bool,
    pub(crate) is_paused: bool,
    pub(crate) is_resumable: bool,
    pub(crate) batches_acked: u64,
    /// Batches made and not yet given to the present connection.
    pub(crate) batches_pending: u64,
}

/// For writers.
impl Stream {
    /// What is to be written next on attachment `generation`. Never blocks.
    pub(crate) fn take(self: &Arc<Self>, generation: Generation) -> StreamTaken {
        loop {
            let mut guard = self.outlet();
            let outlet = &mut *guard;
            let was_roomy = self.is_half_empty(outlet);
            let events = &outlet.events;
            let taken = outlet.delivery.take(generation, || events.try_recv().ok());
            match &taken {
                Taken::Batch { .. } => outlet.moved_at = clock::now(),
                Taken::Message(note) => match note.kind {
                    NoteKind::Started => outlet.is_started_given = true,
                    NoteKind::Columns => outlet.columns = Some(note.message.clone()),
                    NoteKind::Queued => {}
                },
                // It is held in case the terminator is lost.
                Taken::End(_) if outlet.delivery.is_resumable() => outlet.left_at = Some(clock::now()),
                Taken::End(_) | Taken::Discarded(_) | Taken::Nothing | Taken::Gone(_) => {}
            }
            let left_at = outlet.left_at;
            // Once for each time, because waking costs a thread switch; before the write, so that there is more by the next.
            let is_roomy = !was_roomy && self.is_half_empty(outlet);
            drop(guard);
            match taken {
                Taken::Discarded(batch) => drop(batch),
                Taken::End(_) => {
                    self.core.registry.delivered(self.id);
                    match left_at {
                        Some(now) => self.left(now),
                        None => self.remove(),
                    }
                    return taken;
                }
                Taken::Batch { .. } | Taken::Message(_) | Taken::Nothing | Taken::Gone(_) => {
                    if is_roomy {
                        self.wake();
                    }
                    return taken;
                }
            }
        }
    }

    /// Whether it is held after its end, until that is acknowledged.
    pub(crate) fn is_resumable(&self) -> bool {
        self.outlet().delivery.is_resumable()
    }

    /// Whether half of the room for what waits for the writer is free.
    fn is_half_empty(&self, outlet: &Outlet) -> bool {
        let n_max = self.core.config.channel_buffer_size as u64;
        let fits = || outlet.delivery.window().unacked_bytes() <= self.core.share_bytes() as u64 / 2;
        outlet.delivery.in_channel() <= n_max / 2 && (outlet.delivery.window().limits().is_some() || fits())
    }
}

/// For connections.
impl Stream {
    /// The connection's client has processed all up to `number`; with `is_end`, the terminator too.
    ///
    /// # Errors
    /// Where the connection has not got the stream, and for what was never sent.
    pub(crate) fn ack(
        self: &Arc<Self>,
        connection: ConnectionId,
        number: Option<u64>,
        is_end: bool,
    ) -> Result<Acked, AckError> {
        let (freed, is_useful, may_wake, has_pending, sink, over) = {
            let mut outlet = self.outlet();
            let generation = outlet.attachment_of(connection).ok_or(AckError::NotAttached)?;
            let acked_before = outlet.delivery.window().acked();
            let freed = match number {
                Some(number) => outlet.delivery.ack(generation, number)?,
                None => Vec::new(),
            };
            // One that acknowledges nothing new is no sign that rows are taken.
            if is_end || outlet.delivery.window().acked() > acked_before {
                outlet.moved_at = clock::now();
            }
            // What came over the connection before may be acknowledged before the answer to the resume has been read.
            let is_proof = |batch: &mut u64| number.is_some_and(|number| number >= *batch);
            if outlet.unconfirmed_until.take_if(is_proof).is_some() {
                self.core.registry.confirm_token(self.id);
            }
            (
                freed,
                outlet.delivery.window().acked() > acked_before,
                outlet.delivery.window().is_half_open(),
                outlet.delivery.has_pending(),
                Arc::clone(&outlet.sink),
                outlet
                    .delivery
                    .end_given()
                    .filter(|_| is_end)
                    .map(StreamEnd::is_completed),
            )
        };
        drop(freed);
        if let Some(is_completed) = over {
            self.release();
            return Ok(Acked::All { is_completed });
        }
        if has_pending {
            sink.notify(Urgency::Now, 0);
        }
        if may_wake {
            self.wake();
        }
        Ok(if is_useful { Acked::Batches } else { Acked::Nothing })
    }

    /// Whether the connection has the stream.
    pub(crate) fn is_at(&self, connection: ConnectionId) -> bool {
        self.outlet().attachment_of(connection).is_some()
    }

    /// Whether the stream's client is still to get something: the engine works, or the terminator is not out.
    pub(crate) fn is_live(&self) -> bool {
        !self.status().is_terminal() || !self.outlet().delivery.is_end_given()
    }

    /// Has nothing made and nothing sent until it is unpaused, or the other way round.
    pub(crate) fn set_paused(self: &Arc<Self>, is_paused: bool) {
        let sink = {
            let mut outlet = self.outlet();
            outlet.delivery.set_paused(is_paused);
            outlet.moved_at = clock::now();
            Arc::clone(&outlet.sink)
        };
        if !is_paused {
            sink.notify(Urgency::Now, 0);
            self.wake();
        }
    }

    /// The connection is gone. A stream of its that can be resumed goes on for a while; any other is cancelled.
    pub(crate) fn detach(self: &Arc<Self>, connection: ConnectionId) {
        let attachment = self.outlet().attachment_of(connection);
        if let Some(generation) = attachment {
            self.detach_because(generation, None, CancelReason::Disconnect);
        }
    }

    fn detach_because(self: &Arc<Self>, generation: Generation, why: Option<Gone>, otherwise: CancelReason) {
        let now = clock::now();
        let (is_held, unwanted) = {
            let mut outlet = self.outlet();
            if !outlet.delivery.detach(generation, why) {
                return;
            }
            // A client that has not got the token cannot come back.
            let is_held = outlet.delivery.is_resumable() && outlet.is_started_given;
            // Under the same lock: a stream that is neither attached nor held is over.
            outlet.left_at = is_held.then_some(now);
            (is_held, outlet.absorb())
        };
        drop(unwanted);
        if is_held {
            log::debug!(stream:% = self.id, traceparent = self.plan.traceparent; "stream detached");
            self.core.registry.count_detached();
            self.left(now);
            self.wake();
        } else {
            self.cancel(otherwise);
            self.settle();
        }
    }

    /// Gives the stream to a connection whose client has processed all before batch `from`.
    ///
    /// # Errors
    /// `RESUME_GAP`, `RESUME_EXPIRED`, and `BAD_MESSAGE` for batches that were never sent.
    pub(super) fn attach(
        self: &Arc<Self>,
        from: u64,
        limits: Option<WindowLimits>,
        owner: ConnectionId,
        sink: Arc<dyn StreamSink>,
        (old, new): (TokenHash, TokenHash),
    ) -> Result<(Attached, Option<Vec<u8>>), Box<ErrorMessage>> {
        let (attached, freed, columns, before) = {
            let mut outlet = self.outlet();
            // Tokens change under this lock only: of two who show the same one, the second finds another.
            if self
                .core
                .registry
                .find_token(old)
                .is_none_or(|stream| stream.id != self.id)
            {
                drop(outlet);
                let text = "the token has been used, or the stream is over";
                return Err(Box::new(ErrorMessage::new(ErrorCode::ResumeExpired, text)));
            }
            let (attached, freed) = match outlet.delivery.attach(from, limits) {
                Ok(attached) => attached,
                Err(error) => {
                    drop(outlet);
                    return Err(Box::new(attach_refused(error, from)));
                }
            };
            let before = std::mem::replace(&mut outlet.sink, sink);
            outlet.owner = owner;
            outlet.left_at = None;
            outlet.moved_at = clock::now();
            outlet.stalled = None;
            outlet.meter.interrupted();
            self.core.registry.rotate_token(self.id, old, new);
            outlet.unconfirmed_until = Some(attached.next_batch);
            (attached, freed, outlet.columns.clone(), before)
        };
        drop(freed);
        // Whoever had it before finds out that it is gone.
        before.notify(Urgency::Now, 0);
        drop(before);
        self.arm(clock::now());
        self.wake();
        Ok((attached, columns))
    }
}

/// For the scheduler.
impl Stream {
    pub(super) fn outlet(&self) -> MutexGuard<'_, Outlet> {
        self.outlet.lock()
    }

    /// Something of `bytes` bytes has been put into the channel: whoever takes it is told, or, where nobody does, it is kept.
    pub(super) fn notify(&self, urgency: Urgency, bytes: usize) {
        let (sink, unwanted) = {
            let mut outlet = self.outlet();
            if outlet.delivery.is_attached() {
                (Some(Arc::clone(&outlet.sink)), Vec::new())
            } else {
                (None, outlet.absorb())
            }
        };
        drop(unwanted);
        if let Some(sink) = sink {
            sink.notify(urgency, bytes);
        }
    }

    /// The worker leaves the stream for now: what is in the channel has no company to wait for.
    pub(super) fn nothing_follows(&self) {
        let sink = {
            let outlet = self.outlet();
            let waits = outlet.delivery.is_attached() && outlet.delivery.has_pending();
            waits.then(|| Arc::clone(&outlet.sink))
        };
        if let Some(sink) = sink {
            sink.notify(Urgency::Now, 0);
        }
    }

    /// A batch is about to go into the channel.
    pub(super) fn announce(&self, rows: u32, bytes: usize, now: Instant) {
        let made = Made {
            bytes: bytes as u64,
            rows: u64::from(rows),
            work: self.work_done(),
        };
        let mut outlet = self.outlet();
        if !outlet.delivery.has_pending() {
            // Until now there was nothing that the client could have taken.
            outlet.moved_at = now;
        }
        outlet.delivery.made(made);
    }

    /// What batches are to be deflated with, for the connection that has the stream or had it last.
    pub(super) fn deflate(&self) -> Option<Deflate> {
        let sink = Arc::clone(&self.outlet().sink);
        sink.deflate()
    }

    /// Whether another batch may be made: by the window, by what waits for the writer, and by what is held in memory. A stream
    /// that holds nothing may always make one.
    pub(super) fn has_room(&self) -> bool {
        self.blocked_by().is_none()
    }

    /// What another batch has to wait for; `None` where there [is room](Self::has_room).
    pub(super) fn blocked_by(&self) -> Option<Blocked> {
        let (may_make, fits) = {
            let outlet = self.outlet();
            let window = outlet.delivery.window();
            // Without a window, what is unacknowledged is what has not been sent.
            let in_share = window.limits().is_some() || window.unacked_bytes() < self.core.share_bytes() as u64;
            (
                outlet.delivery.may_make(self.core.config.retention_bytes),
                in_share && outlet.delivery.in_channel() < self.core.config.channel_buffer_size as u64,
            )
        };
        if !may_make {
            Some(Blocked::Client)
        } else if self.holds_nothing() {
            None
        } else if !fits {
            Some(Blocked::Writer)
        } else {
            (!self.account.has_room()).then_some(Blocked::Memory)
        }
    }

    /// The engine has stopped after a cancel: what is still under way is dropped.
    pub(super) fn drop_pending(&self) {
        let unwanted = self.outlet().delivery.cancelled();
        drop(unwanted);
    }

    /// A cancel has come after the engine's natural end: where the client has not got everything yet, it gets the cancel's
    /// terminator in place of the rest.
    pub(super) fn cut_tail(&self, end: StreamEnd) {
        let (sink, unwanted) = {
            let mut outlet = self.outlet();
            let window = outlet.delivery.window();
            let goes_on = window.may_send() && !outlet.delivery.is_paused() && outlet.delivery.is_attached();
            let is_shutdown = matches!(
                end,
                StreamEnd::Cancelled {
                    reason: CancelReason::Shutdown,
                    ..
                }
            );
            // A server that goes away lets finish what finishes by itself.
            if outlet.delivery.is_end_given() || (is_shutdown && goes_on) {
                return;
            }
            let mut unwanted = VecDeque::new();
            if window.pending() > 0 {
                unwanted = outlet.delivery.cancelled();
                outlet.delivery.replace_end(end);
                unwanted.extend(outlet.absorb());
            } else {
                // There is nothing to cut, and only a pause can hold up the engine's own terminator.
                outlet.delivery.set_paused(false);
            }
            (Arc::clone(&outlet.sink), unwanted)
        };
        drop(unwanted);
        sink.notify(Urgency::Now, 0);
    }

    /// Removes the stream if nothing of it is left to deliver: its engine's side is over, and nobody takes the rest, or the
    /// terminator of a cancel has overtaken the engine's own.
    pub(super) fn settle(self: &Arc<Self>) {
        let is_over = {
            let outlet = self.outlet();
            let is_done = !outlet.delivery.is_attached() || outlet.delivery.is_end_given();
            outlet.delivery.is_released() || (is_done && outlet.left_at.is_none())
        };
        if is_over && self.status().is_terminal() {
            self.remove();
        }
    }

    /// The stream is held from now on in case somebody comes back, for the time of the retention.
    fn left(self: &Arc<Self>, now: Instant) {
        self.arm(now);
        let n_max = self.core.config.retained_streams_max;
        if let Some(stream) = self.core.registry.left(self.id, self.owner(), now, n_max) {
            self.core.give_up(&stream, now, "there are too many of them");
        }
        self.core.make_room();
    }

    /// Nobody has come back in time, or memory is scarce: nothing is held any more, and an engine that still works is stopped.
    pub(super) fn expire(self: &Arc<Self>) {
        let unwanted = {
            let mut outlet = self.outlet();
            if outlet.left_at.is_none() || outlet.delivery.is_released() {
                drop(outlet);
                return self.core.registry.back(self.id);
            }
            outlet.delivery.release()
        };
        let n_lost = unwanted.len();
        drop(unwanted);
        log::debug!(stream:% = self.id, batches = n_lost, traceparent = self.plan.traceparent; "stream expired");
        self.core.registry.given_up(self.id);
        self.cancel(CancelReason::Expired);
        self.settle();
    }

    /// The client has everything.
    fn release(self: &Arc<Self>) {
        let unwanted = self.outlet().delivery.release();
        drop(unwanted);
        self.remove();
    }

    fn remove(&self) {
        self.disarm();
        self.core.registry.remove(self.id);
    }

    /// What the stream's alarm is for at the next time, apart from the query's own deadline.
    pub(super) fn next_outlet_alarm(&self, now: Instant) -> Option<Instant> {
        let outlet = self.outlet();
        if let Some(left_at) = outlet.left_at {
            return Some(clock::after(left_at, self.core.config.retention));
        }
        let limit = self.core.config.stall_limit;
        let since = outlet.stalled_since().map_or(now, |since| since.max(self.accepted_at));
        let at = clock::after(since, limit);
        // What is past has been looked at: the stream has been stopped, and its client still takes nothing.
        Some(if at > now { at } else { clock::after(now, limit) })
    }

    /// Looks whether it is too late for the client. Returns whether the stream is over.
    pub(super) fn check_client(self: &Arc<Self>, now: Instant) -> bool {
        let (is_expired, stalled) = {
            let mut outlet = self.outlet();
            let left = outlet
                .left_at
                .is_some_and(|at| now >= clock::after(at, self.core.config.retention));
            let stalled = outlet
                .stalled_since()
                .is_some_and(|since| now >= clock::after(since, self.core.config.stall_limit));
            (
                left,
                stalled.then(|| {
                    let blocked_by = self.note_stall(&mut outlet);
                    (outlet.delivery.generation(), Arc::clone(&outlet.sink), blocked_by)
                }),
            )
        };
        if is_expired {
            self.expire();
        } else if let Some((generation, sink, blocked_by)) = stalled {
            if let Some(blocked_by) = blocked_by {
                log::warn!(
                    stream:% = self.id, principal = self.principal.name(), traceparent = self.plan.traceparent,
                    blocked_by = blocked_by.as_str();
                    "slow client: it took nothing for the stall limit"
                );
            }
            if self.outlet().delivery.is_resumable() {
                self.detach_because(generation, Some(Gone::Stalled), CancelReason::SlowClient);
            } else {
                let limit = LimitReached::stall(self.core.config.stall_limit);
                self.cancel_at_limit(CancelReason::SlowClient, limit);
            }
            sink.notify(Urgency::Now, 0);
        }
        is_expired
    }

    pub(crate) fn figures(&self) -> DeliveryFigures {
        let outlet = self.outlet();
        DeliveryFigures {
            is_attached: outlet.delivery.is_attached(),
            is_paused: outlet.delivery.is_paused(),
            is_resumable: outlet.delivery.is_resumable(),
            batches_acked: outlet.delivery.window().acked(),
            batches_pending: outlet.delivery.window().pending(),
        }
    }

    /// When the client was lost, where it is, and when it last took or acknowledged something, or began or ended a pause.
    pub(super) fn rests_since(&self) -> (Option<Instant>, Instant) {
        let outlet = self.outlet();
        (outlet.left_at, outlet.moved_at)
    }

    pub(crate) fn generation(&self) -> Generation {
        self.outlet().delivery.generation()
    }

    /// The window as granted; `None` without one.
    pub(super) fn window(&self) -> Option<WindowMessage> {
        let limits = self.outlet().delivery.window().limits()?;
        Some(WindowMessage {
            batches: limits.batches,
            bytes: limits.bytes,
        })
    }
}

impl Core {
    /// Gives up streams that nobody has while memory is scarce.
    pub(super) fn make_room(&self) {
        while self.budget.is_scarce()
            && let Some(stream) = self.registry.first_to_go()
        {
            self.give_up(&stream, clock::now(), "memory is scarce");
        }
    }

    pub(super) fn give_up(&self, stream: &Arc<Stream>, now: Instant, why: &str) {
        if self.registry.is_news(now) {
            log::warn!(reason = why; "streams that wait for somebody to come back are given up");
        }
        stream.expire();
    }
}

fn attach_refused(error: AttachError, from: u64) -> ErrorMessage {
    match error {
        AttachError::Gap { oldest } => ErrorMessage {
            oldest_batch: Some(oldest),
            ..ErrorMessage::new(
                ErrorCode::ResumeGap,
                format!("batch {from} has been acknowledged and is held no longer; the oldest is {oldest}"),
            )
        },
        AttachError::Beyond(beyond) => ErrorMessage::new(
            ErrorCode::BadMessage,
            format!(
                "last_batch {}: only {} batches were ever sent",
                from.saturating_sub(1),
                beyond.sent
            ),
        ),
        AttachError::Expired => ErrorMessage::new(ErrorCode::ResumeExpired, "the stream is held no longer"),
    }
}
