//! The outbox: all that waits for a connection's writer, and the doorbell that wakes it.
//!
//! Batches themselves wait in their streams' channels; the outbox knows only which channels have something. Control messages
//! and control frames have lanes of their own and overtake everything. Every lane is bounded.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::Receiver;
use parking_lot::{Condvar, Mutex};

use crate::protocol::{CloseCode, ServerMessage, encode_message};
use crate::scheduler::{Stream, StreamEvent, StreamSink, Urgency};
use crate::transport::websocket::{ControlLane, MessageKind};

/// Bytes of answers to requests that may wait. A client that asks on without reading is closed with 4429.
const CONTROL_BYTES_MAX: usize = 256 * 1024;

/// Pongs that may wait; of more, the newest stay (RFC 6455 section 5.5.3 asks for no more).
const PONGS_MAX: usize = 16;

/// So many bytes of batches are worth a write of their own; fewer wait [`SOON`] for company.
pub(super) const GATHER_BYTES_MIN: usize = 64 * 1024;

/// How long what is not urgent may wait for more.
const SOON: Duration = Duration::from_millis(2);

/// A stream as the writer sees it.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) stream: Arc<Stream>,
    pub(super) events: Receiver<StreamEvent>,
    pub(super) bell: Arc<LaneBell>,
}

/// How the writer is to close the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Closing {
    pub(super) code: Option<u16>,
    pub(super) reason: String,
    /// Whether the streams' terminators go first.
    pub(super) after_streams: bool,
}

/// What the writer takes out at once. Reused from take to take.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) pongs: VecDeque<Vec<u8>>,
    pub(super) messages: VecDeque<(MessageKind, Vec<u8>)>,
    pub(super) new_lanes: Vec<(u64, Lane)>,
    pub(super) ready: VecDeque<u64>,
    pub(super) progress_due: Vec<u64>,
    pub(super) closing: Option<Closing>,
    pub(super) reader_gone: bool,
}

/// Whether the writer may wait when it looks for more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// It has something left over.
    Not,
    /// Until something comes.
    UntilSomeComes,
    /// The same, but rows come fast: it looks by itself soon, so that they need not ring.
    ExpectingMore,
}

/// Whether a push has to ring the bell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WriterIs {
    /// Writing, or about to look.
    Busy,
    /// Asleep until something comes.
    Asleep,
    /// Asleep, but it will look again within [`SOON`].
    Dozing,
}

#[derive(Debug)]
struct State {
    waiting: Taken,
    message_bytes: usize,
    /// Bytes of batches announced since the writer last looked.
    batch_bytes: usize,
    urgent: bool,
    writer_is: WriterIs,
    lanes_opened: u64,
    /// The writer has ended: nothing is taken any more.
    writer_gone: bool,
}

/// Everything that waits for one connection's writer. Nothing here blocks but [`take`](Self::take).
pub(crate) struct Outbox {
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
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                waiting: Taken::default(),
                message_bytes: 0,
                batch_bytes: 0,
                urgent: false,
                writer_is: WriterIs::Busy,
                lanes_opened: 0,
                writer_gone: false,
            }),
            bell: Condvar::new(),
            room: Condvar::new(),
        }
    }

    /// Queues a message as it came. Blocks while others wait to go; woken by the writer's taking them, and by its end.
    pub(super) fn echo(&self, kind: MessageKind, payload: &[u8]) {
        let mut state = self.state.lock();
        while state.message_bytes > CONTROL_BYTES_MAX && !state.writer_gone {
            self.room.wait(&mut state);
        }
        if !state.writer_gone {
            state.message_bytes += payload.len();
            state.waiting.messages.push_back((kind, payload.to_vec()));
            self.ring(&mut state);
        }
    }

    /// Queues an answer. False where the client has left too many unread.
    #[must_use]
    pub(super) fn send(&self, message: &ServerMessage) -> bool {
        let mut encoded = Vec::with_capacity(128);
        encode_message(message, &mut encoded);
        let mut state = self.state.lock();
        if state.message_bytes + encoded.len() > CONTROL_BYTES_MAX && state.message_bytes > 0 {
            return false;
        }
        if !state.writer_gone {
            state.message_bytes += encoded.len();
            state.waiting.messages.push_back((MessageKind::Text, encoded));
            self.ring(&mut state);
        }
        true
    }

    /// Makes a lane's doorbell; the lane itself follows with [`open_lane`](Self::open_lane).
    pub(super) fn lane_bell(self: &Arc<Self>) -> Arc<LaneBell> {
        let mut state = self.state.lock();
        state.lanes_opened += 1;
        Arc::new(LaneBell {
            outbox: Arc::clone(self),
            key: state.lanes_opened,
            is_ready: AtomicBool::new(false),
        })
    }

    /// Gives a stream to the writer. Sessions bound how many there are.
    pub(super) fn open_lane(&self, lane: Lane) {
        let mut state = self.state.lock();
        // Dropping the lane disconnects its channel, which its worker notices.
        if !state.writer_gone {
            let key = lane.bell.key;
            state.waiting.new_lanes.push((key, lane));
        }
    }

    /// Has the writer close the connection: at once, or once every stream has its terminator. The first reason stays, though
    /// "at once" overrides "later".
    pub(super) fn close(&self, code: Option<u16>, reason: &str, after_streams: bool) {
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
            self.ring(&mut state);
        }
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

    /// Moves everything that waits into `taken`, whose lists are empty. Unless `wait` says otherwise, blocks while there is
    /// nothing, and a little longer while what there is may wait for company; every push that matters wakes it.
    pub(super) fn take(&self, taken: &mut Taken, wait: Wait) {
        let mut state = self.state.lock();
        let mut expects_more = wait == Wait::ExpectingMore;
        let mut has_waited_for_company = wait == Wait::Not;
        while !state.is_due() {
            let has_some = !state.waiting.ready.is_empty();
            if has_waited_for_company && (has_some || wait == Wait::Not) {
                break;
            }
            if has_some || expects_more {
                state.writer_is = WriterIs::Dozing;
                if self.bell.wait_for(&mut state, SOON).timed_out() {
                    expects_more = false;
                    has_waited_for_company = true;
                }
            } else {
                state.writer_is = WriterIs::Asleep;
                self.bell.wait(&mut state);
                has_waited_for_company = false;
            }
        }
        state.writer_is = WriterIs::Busy;
        state.urgent = false;
        state.batch_bytes = 0;
        state.message_bytes = 0;
        self.room.notify_all();
        let State { waiting, .. } = &mut *state;
        std::mem::swap(&mut taken.pongs, &mut waiting.pongs);
        std::mem::swap(&mut taken.messages, &mut waiting.messages);
        std::mem::swap(&mut taken.new_lanes, &mut waiting.new_lanes);
        std::mem::swap(&mut taken.ready, &mut waiting.ready);
        std::mem::swap(&mut taken.progress_due, &mut waiting.progress_due);
        taken.closing.clone_from(&waiting.closing);
        taken.reader_gone = waiting.reader_gone;
    }

    fn ring(&self, state: &mut State) {
        state.urgent = true;
        if state.writer_is != WriterIs::Busy {
            state.writer_is = WriterIs::Busy;
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
    /// Closes at once with one of our own codes.
    pub(super) fn close_now(&self, code: CloseCode, reason: &str) {
        self.close(Some(code.number()), reason, false);
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
    fn notify(&self, urgency: Urgency, bytes: usize) {
        let mut state = self.outbox.state.lock();
        if state.writer_gone {
            return;
        }
        if !self.is_ready.swap(true, Ordering::AcqRel) {
            state.waiting.ready.push_back(self.key);
        }
        state.batch_bytes += bytes;
        match urgency {
            Urgency::Now => self.outbox.ring(&mut state),
            Urgency::Soon => {
                let wakes = match state.writer_is {
                    WriterIs::Busy => false,
                    WriterIs::Asleep => true,
                    WriterIs::Dozing => state.is_due(),
                };
                if wakes {
                    state.writer_is = WriterIs::Busy;
                    self.outbox.bell.notify_one();
                }
            }
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
