//! The outbox: all that waits for a connection's writer, and the doorbell that wakes it.
//!
//! Batches themselves wait in their streams' channels; the outbox knows only which channels have something. Control messages
//! and control frames have lanes of their own and overtake everything. Every lane is bounded.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use super::application::{Overflow, Sent};
use super::soon::SoonList;
use crate::deflate::Deflate;
use crate::metrics::ConnectionEnd;
use crate::protocol::{CloseCode, ServerMessage, encode_message};
use crate::scheduler::{Account, Held, Permit, Stream, StreamSink, Urgency};
use crate::stream::Generation;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Condvar, Mutex};
use crate::transport::websocket::{ControlLane, MessageKind};

/// Bytes of answers to requests that may wait, where there is [room](Account::hold_message) for them. A client that asks on without
/// reading is closed with 4429.
const CONTROL_BYTES_MAX: usize = 256 * 1024;

/// Bytes of an application's messages that may wait. Beyond that, its own [`Overflow`] decides.
const APPLICATION_BYTES_MAX: usize = 256 * 1024;

/// Messages of an application that may wait.
const APPLICATION_MESSAGES_MAX: usize = 1024;

/// Pongs that may wait; of more, the newest stay (RFC 6455 section 5.5.3 asks for no more).
const PONGS_MAX: usize = 16;

/// So many bytes of batches are worth a write of their own; fewer wait for company, as long as the [`SoonList`] lets them.
const GATHER_BYTES_MIN: usize = 64 * 1024;

/// A stream as the writer sees it.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) stream: Arc<Stream>,
    pub(super) generation: Generation,
    pub(super) bell: Arc<LaneBell>,
}

/// A whole message. It counts as held until it is dropped.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) kind: MessageKind,
    pub(super) bytes: Vec<u8>,
    _held: Permit,
}

impl Message {
    fn text(bytes: Vec<u8>, held: Permit) -> Self {
        Self {
            kind: MessageKind::Text,
            bytes,
            _held: held,
        }
    }
}

/// How the writer is to close the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Closing {
    pub(super) code: Option<u16>,
    pub(super) reason: String,
    /// Whether the streams' terminators go first.
    pub(super) after_streams: bool,
}

/// How long the writer waits for something to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// Not at all.
    None,
    /// For anything, until then.
    Until(Instant),
    /// For something worth a write, for ever.
    Long,
}

/// What the writer takes out at once. Reused from take to take.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) pongs: VecDeque<Vec<u8>>,
    pub(super) ping_due: bool,
    pub(super) flush_due: bool,
    pub(super) messages: VecDeque<Message>,
    pub(super) application: VecDeque<Message>,
    pub(super) new_lanes: Vec<(u64, Lane)>,
    pub(super) ready: VecDeque<u64>,
    pub(super) progress_due: Vec<u64>,
    pub(super) closing: Option<Closing>,
    pub(super) reader_gone: bool,
    /// Lanes that the reader is about to open, or not to, and answers that a worker is to give.
    pub(super) lanes_coming: usize,
}

#[derive(Debug)]
struct State {
    waiting: Taken,
    message_bytes: usize,
    application_bytes: usize,
    application_dropped: u64,
    /// Bytes of batches announced since the writer last looked.
    batch_bytes: usize,
    urgent: bool,
    writer_sleeps: bool,
    /// Whether the writer wants to be woken for anything.
    writer_is_eager: bool,
    /// Whether the outbox is in the [`SoonList`].
    listed: bool,
    lanes_opened: u64,
    /// The writer has ended: nothing is taken any more.
    writer_gone: bool,
    /// What the connection ends by, where it is the server that has had enough of it.
    end: Option<ConnectionEnd>,
}

/// Everything that waits for one connection's writer. Nothing here blocks but [`take`](Self::take).
pub(crate) struct Outbox {
    soon: Arc<SoonList>,
    account: Arc<Account>,
    /// Set before anything is sent, where messages may be deflated.
    deflate: OnceLock<Deflate>,
    state: Mutex<State>,
    bell: Condvar,
    /// Rung when the writer has taken messages, for an echo that waits for room.
    room: Condvar,
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").finish_non_exhaustive()
    }
}

impl Outbox {
    pub(super) fn new(soon: Arc<SoonList>, account: Arc<Account>) -> Self {
        Self {
            soon,
            account,
            deflate: OnceLock::new(),
            state: Mutex::new(State {
                waiting: Taken::default(),
                message_bytes: 0,
                application_bytes: 0,
                application_dropped: 0,
                batch_bytes: 0,
                urgent: false,
                writer_sleeps: false,
                writer_is_eager: false,
                listed: false,
                lanes_opened: 0,
                writer_gone: false,
                end: None,
            }),
            bell: Condvar::new(),
            room: Condvar::new(),
        }
    }

    /// The client takes deflated messages.
    pub(super) fn set_deflate(&self, deflate: Deflate) {
        let _set_once = self.deflate.set(deflate);
    }

    /// What messages may be deflated with; `None` where they go as they are.
    pub(super) fn deflate(&self) -> Option<&Deflate> {
        self.deflate.get()
    }

    /// Queues a message as it came. Blocks while others wait to go; woken by the writer's taking them, and by its end.
    pub(super) fn echo(&self, kind: MessageKind, payload: &[u8]) {
        let mut state = self.state.lock();
        while state.message_bytes > CONTROL_BYTES_MAX && !state.writer_gone {
            self.room.wait(&mut state);
        }
        if !state.writer_gone {
            state.message_bytes += payload.len();
            let bytes = payload.to_vec();
            // Counted and not refused: whoever sends it waits.
            let held = self.account.hold(bytes.capacity(), Held::Messages);
            state.waiting.messages.push_back(Message {
                kind,
                bytes,
                _held: held,
            });
            self.ring(&mut state);
        }
    }

    /// Queues an answer. False where the client has left too many unread, or all clients together.
    #[must_use]
    pub(super) fn send(&self, message: &ServerMessage) -> bool {
        let mut encoded = Vec::with_capacity(128);
        encode_message(message, &mut encoded);
        self.send_encoded(encoded)
    }

    /// As [`send`](Self::send).
    pub(super) fn send_encoded(&self, encoded: Vec<u8>) -> bool {
        let mut state = self.state.lock();
        if state.message_bytes + encoded.len() > CONTROL_BYTES_MAX && state.message_bytes > 0 {
            return false;
        }
        if !state.writer_gone {
            let Some(held) = self.account.hold_message(encoded.capacity()) else {
                return false;
            };
            state.message_bytes += encoded.len();
            state.waiting.messages.push_back(Message::text(encoded, held));
            self.ring(&mut state);
        }
        true
    }

    /// Queues a message of the application's.
    pub(super) fn send_application(&self, bytes: Vec<u8>, overflow: Overflow) -> Sent {
        let mut n_dropped = 0;
        let mut state = self.state.lock();
        if state.writer_gone || state.waiting.closing.is_some() {
            return Sent::Closed;
        }
        let fits = |state: &State| {
            state.application_bytes + bytes.len() <= APPLICATION_BYTES_MAX
                && state.waiting.application.len() < APPLICATION_MESSAGES_MAX
        };
        let mut held = self.account.hold_message(bytes.capacity());
        if held.is_none() || !fits(&state) {
            match overflow {
                Overflow::Disconnect => {
                    drop(state);
                    self.close_now(CloseCode::TooMany, "messages are not being read");
                    return Sent::Closed;
                }
                Overflow::DropOldest if bytes.len() <= APPLICATION_BYTES_MAX => {
                    while (held.is_none() || !fits(&state))
                        && let Some(oldest) = state.waiting.application.pop_front()
                    {
                        state.application_bytes -= oldest.bytes.len();
                        n_dropped += 1;
                        // What it held may be what this one needs.
                        drop(oldest);
                        held = held.or_else(|| self.account.hold_message(bytes.capacity()));
                    }
                }
                Overflow::DropOldest | Overflow::DropNewest => {
                    state.application_dropped += 1;
                    return Sent::Dropped;
                }
            }
        }
        state.application_dropped += n_dropped;
        let Some(held) = held else {
            state.application_dropped += 1;
            return Sent::Dropped;
        };
        state.application_bytes += bytes.len();
        state.waiting.application.push_back(Message::text(bytes, held));
        self.ring(&mut state);
        drop(state);
        match n_dropped {
            0 => Sent::Queued,
            n => Sent::QueuedForOthers(n),
        }
    }

    pub(super) fn application_dropped(&self) -> u64 {
        self.state.lock().application_dropped
    }

    /// Has the peer pinged.
    pub(super) fn ping(&self) {
        let mut state = self.state.lock();
        state.waiting.ping_due = true;
        self.ring(&mut state);
    }

    /// The transport has something to write of its own.
    pub(super) fn flush(&self) {
        let mut state = self.state.lock();
        state.waiting.flush_due = true;
        self.ring(&mut state);
    }

    /// Makes a lane's doorbell; the lane itself follows with [`open_lane`](Self::open_lane), or [`no_lane`](Self::no_lane) says that it
    /// does not. A connection that closes after its streams waits for that.
    pub(super) fn lane_bell(self: &Arc<Self>) -> Arc<LaneBell> {
        let mut state = self.state.lock();
        state.lanes_opened += 1;
        state.waiting.lanes_coming += 1;
        Arc::new(LaneBell {
            outbox: Arc::clone(self),
            key: state.lanes_opened,
            is_ready: AtomicBool::new(false),
        })
    }

    /// Gives a stream to the writer. Sessions bound how many there are.
    pub(super) fn open_lane(&self, lane: Lane) {
        let mut state = self.state.lock();
        state.waiting.lanes_coming = state.waiting.lanes_coming.saturating_sub(1);
        if !state.writer_gone {
            let bell = Arc::clone(&lane.bell);
            state.waiting.new_lanes.push((bell.key, lane));
            // Whatever has been rung for before, the writer had no lane for.
            bell.is_ready.store(true, Ordering::Release);
            state.waiting.ready.push_back(bell.key);
            self.ring(&mut state);
        }
    }

    /// A worker is to give an answer, and says then that it [has](Self::answered). A connection that closes after its streams waits for
    /// that, too.
    pub(super) fn answer_coming(&self) {
        self.state.lock().waiting.lanes_coming += 1;
    }

    /// The answer is among the messages.
    pub(super) fn answered(&self) {
        self.no_lane();
    }

    /// The stream that a doorbell was made for has been refused.
    pub(super) fn no_lane(&self) {
        let mut state = self.state.lock();
        state.waiting.lanes_coming = state.waiting.lanes_coming.saturating_sub(1);
        if state.waiting.closing.is_some() {
            self.ring(&mut state);
        }
    }

    /// Has the writer close the connection: at once, or once every stream has its terminator. The first reason stays, though
    /// "at once" overrides "later".
    pub(super) fn close(&self, code: Option<u16>, reason: &str, after_streams: bool) {
        self.close_by(None, code, reason, after_streams);
    }

    fn close_by(&self, end: Option<ConnectionEnd>, code: Option<u16>, reason: &str, after_streams: bool) {
        let mut state = self.state.lock();
        let replace = state
            .waiting
            .closing
            .as_ref()
            .is_none_or(|closing| closing.after_streams && !after_streams);
        if replace {
            state.waiting.closing = Some(Closing {
                code,
                reason: reason.to_owned(),
                after_streams,
            });
            // A writer that is gone says nothing any more: something else has ended the connection.
            if !state.writer_gone {
                state.end = end;
            }
            self.ring(&mut state);
        }
    }

    /// What the connection ends by, where the server has ended it, whatever the peer has made of that.
    pub(super) fn end(&self) -> Option<ConnectionEnd> {
        self.state.lock().end
    }

    /// The reader has ended, so nobody will ask for anything more.
    pub(super) fn reader_gone(&self) {
        let mut state = self.state.lock();
        state.waiting.reader_gone = true;
        self.ring(&mut state);
    }

    /// The writer has ended: whatever waits is dropped, and so is whatever comes.
    pub(super) fn writer_gone(&self) {
        let mut state = self.state.lock();
        state.writer_gone = true;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        self.room.notify_all();
        drop(waiting);
    }

    /// Moves everything that waits into `taken`, whose lists are empty. With [`Patience::Long`], blocks until there is something worth
    /// a write; woken by every push that is urgent or makes it enough, and by the [`SoonList`]. With [`Patience::Until`], by every
    /// push, and then.
    pub(super) fn take(&self, taken: &mut Taken, patience: Patience) {
        let mut state = self.state.lock();
        match patience {
            Patience::None => {}
            Patience::Long => {
                while !state.is_due() {
                    state.writer_sleeps = true;
                    self.bell.wait(&mut state);
                }
            }
            Patience::Until(until) => {
                state.writer_is_eager = true;
                while !state.is_due() && state.waiting.ready.is_empty() {
                    state.writer_sleeps = true;
                    if self.bell.wait_until(&mut state, until).timed_out() {
                        break;
                    }
                }
                state.writer_is_eager = false;
            }
        }
        state.writer_sleeps = false;
        state.urgent = false;
        state.batch_bytes = 0;
        state.message_bytes = 0;
        state.application_bytes = 0;
        self.room.notify_all();
        let State { waiting, .. } = &mut *state;
        std::mem::swap(&mut taken.pongs, &mut waiting.pongs);
        std::mem::swap(&mut taken.messages, &mut waiting.messages);
        std::mem::swap(&mut taken.application, &mut waiting.application);
        taken.ping_due = std::mem::take(&mut waiting.ping_due);
        taken.flush_due = std::mem::take(&mut waiting.flush_due);
        std::mem::swap(&mut taken.new_lanes, &mut waiting.new_lanes);
        std::mem::swap(&mut taken.ready, &mut waiting.ready);
        std::mem::swap(&mut taken.progress_due, &mut waiting.progress_due);
        taken.closing.clone_from(&waiting.closing);
        taken.reader_gone = waiting.reader_gone;
        taken.lanes_coming = waiting.lanes_coming;
    }

    /// What is not urgent has waited long enough.
    pub(super) fn soon_is_now(&self) {
        let mut state = self.state.lock();
        state.listed = false;
        if !state.waiting.ready.is_empty() {
            self.ring(&mut state);
        }
    }

    fn ring(&self, state: &mut State) {
        state.urgent = true;
        self.wake(state);
    }

    fn wake(&self, state: &mut State) {
        if std::mem::take(&mut state.writer_sleeps) {
            self.bell.notify_one();
        }
    }
}

impl State {
    fn is_due(&self) -> bool {
        self.urgent || self.batch_bytes >= GATHER_BYTES_MIN
    }
}

impl ControlLane for Outbox {
    fn pong(&self, payload: &[u8]) {
        let mut state = self.state.lock();
        if state.waiting.pongs.len() == PONGS_MAX {
            state.waiting.pongs.pop_front();
        }
        state.waiting.pongs.push_back(payload.to_vec());
        self.ring(&mut state);
    }

    fn close(&self, code: Option<u16>, reason: &str) {
        Outbox::close(self, code, reason, false);
    }
}

impl Outbox {
    /// Closes at once with one of our own codes: the server does not put up with the peer any longer.
    pub(super) fn close_now(&self, code: CloseCode, reason: &str) {
        self.close_by(Some(ConnectionEnd::Refused), Some(code.number()), reason, false);
    }

    /// As [`close_now`](Self::close_now), though once every stream has its terminator.
    pub(super) fn close_refused(&self, code: CloseCode, reason: &str) {
        self.close_by(Some(ConnectionEnd::Refused), Some(code.number()), reason, true);
    }

    /// Closes at once a connection that is not used.
    pub(super) fn close_idle(&self) {
        let code = CloseCode::GoingAway.number();
        self.close_by(Some(ConnectionEnd::Idle), Some(code), "the connection is idle", false);
    }
}

/// A stream's way to ring for the writer.
pub(super) struct LaneBell {
    outbox: Arc<Outbox>,
    key: u64,
    /// Whether the lane is in the ready list, so that it is there once.
    is_ready: AtomicBool,
}

impl fmt::Debug for LaneBell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LaneBell").field(&self.key).finish()
    }
}

impl LaneBell {
    /// The writer is about to empty the channel: what comes from now on has to ring again.
    pub(super) fn reset(&self) {
        self.is_ready.store(false, Ordering::Release);
    }
}

impl StreamSink for LaneBell {
    fn deflate(&self) -> Option<Deflate> {
        self.outbox.deflate().cloned()
    }

    fn notify(&self, urgency: Urgency, bytes: usize) {
        let mut state = self.outbox.state.lock();
        if state.writer_gone {
            return;
        }
        if !self.is_ready.swap(true, Ordering::AcqRel) {
            state.waiting.ready.push_back(self.key);
        }
        state.batch_bytes += bytes;
        if urgency == Urgency::Now || state.writer_is_eager {
            self.outbox.ring(&mut state);
        } else if state.is_due() {
            self.outbox.wake(&mut state);
        } else if !std::mem::replace(&mut state.listed, true) {
            drop(state);
            self.outbox.soon.add(Arc::clone(&self.outbox));
        }
    }

    fn progress_due(&self) {
        let mut state = self.outbox.state.lock();
        if !state.writer_gone && !state.waiting.progress_due.contains(&self.key) {
            state.waiting.progress_due.push(self.key);
            self.outbox.ring(&mut state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_leave_unread_is_bounded_and_what_one_has_to_be_told_is_not_in_its_way() {
        let text = |kib: usize| {
            let mut text = Vec::with_capacity(kib * 1024);
            text.resize(kib * 1024, b' ');
            text
        };
        let soon = Arc::new(SoonList::still());
        let [greedy, modest, chatty] =
            Account::sharing(8 * 128 * 1024).map(|account| Outbox::new(Arc::clone(&soon), account));
        assert!(greedy.send_encoded(text(120)));
        // Its writer is stuck with it: it is held all the same.
        let mut taken = Taken::default();
        greedy.take(&mut taken, Patience::None);
        assert!(greedy.send_encoded(text(8)));
        assert!(!greedy.send_encoded(text(1)), "an eighth is held");
        assert!(modest.send_encoded(text(16)));
        assert!(!modest.send_encoded(text(1)));
        let send = |overflow| chatty.send_application(text(10), overflow);
        assert_eq!(send(Overflow::DropNewest), Sent::Queued, "little enough");
        assert_eq!(send(Overflow::DropNewest), Sent::Dropped);
        assert_eq!(send(Overflow::DropOldest), Sent::QueuedForOthers(1));
        assert_eq!(chatty.send_application(text(20), Overflow::DropOldest), Sent::Dropped);
        assert_eq!(chatty.application_dropped(), 4);
        drop(taken);
        assert!(modest.send_encoded(text(64)), "there is room again");
        assert_eq!(send(Overflow::DropNewest), Sent::Queued);
        assert_eq!(send(Overflow::Disconnect), Sent::Queued);
        assert!(greedy.send_encoded(text(15)));
        assert_eq!(send(Overflow::Disconnect), Sent::Closed);
    }
}
