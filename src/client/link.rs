//! What the reader, the queries and the client share of one connection, and of the next: the messages going out, and the table of
//! whom those coming in are for.
//!
//! Must not know how a connection is made, or what a query does with its messages.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, select};
use parking_lot::Mutex;

use super::ClientError;
use crate::error::ErrorCode;
use crate::id::{RequestId, ResumeToken, StreamId};
use crate::protocol::{
    Ack, CancelQuery, ClientMessage, CloseCode, GoawayMessage, PongMessage, ProgressMessage, ResumeQuery,
    ServerMessage, StreamQuery, StreamRef, WelcomeMessage, checksum, decode_binary_message, decode_server_message,
    encode_client_message,
};
use crate::transport::TransportControl;
use crate::transport::websocket::{ControlLane, FrameWriter, Incoming};

/// Messages of one query that wait to be taken, beside the batches that its window allows. When full, the connection's reader
/// waits; of progress the newest is kept aside instead.
const QUERY_MESSAGES_MAX: usize = 16;

/// A message that any server takes: up to so many bytes none is asked what it takes.
const SHORT_BYTES: usize = 4 * 1024;

/// How long a closing client waits for a lock that somebody holds who writes to a peer that takes nothing.
pub(super) const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

/// What the reader, the queries and the client share of one connection.
pub(super) struct Link {
    outgoing: Mutex<Outgoing>,
    table: Mutex<Table>,
    control: Mutex<Arc<dyn TransportControl>>,
    /// Dropped when the client closes: the reader then waits for no query any more.
    open: Mutex<Option<Sender<Infallible>>>,
    /// Largest payload of a binary message, uncompressed.
    payload_bytes_max: usize,
    /// One question at a time, so that its answer can be told from others.
    asking: Mutex<()>,
}

struct Outgoing {
    /// `None` between a lost connection and the next.
    frames: Option<FrameWriter>,
    scratch: Vec<u8>,
    close_sent: bool,
}

#[derive(Default)]
struct Table {
    /// The last id given to a query or a ping.
    last_id: i64,
    /// The queries whose terminator has not come, dropped ones too.
    live: HashMap<i64, Live>,
    pings: HashMap<i64, Sender<Infallible>>,
    /// Where answers go that concern no query of this client.
    answers: Option<Sender<ServerMessage>>,
    /// Whether the server has agreed to say first what it is, and has not yet.
    awaits_welcome: bool,
    /// What the server has said it is, on this connection or, until it has, the one before.
    welcome: Option<WelcomeMessage>,
    /// What the server of the present connection has said, if it goes away.
    goaway: Option<GoawayMessage>,
    /// What the peer's close frame said, or what we told it.
    close: Option<(Option<u16>, String)>,
    /// Why the connection is over.
    end: Option<ClientError>,
}

/// The newest progress message that found its query's channel full.
type LateProgress = Arc<Mutex<Option<ProgressMessage>>>;

/// What a query hears.
#[derive(Debug)]
pub(super) enum Heard {
    Message(ServerMessage),
    /// The connection is lost, and the next is being made.
    Reconnecting,
    /// The server has taken the stream from this connection because nobody took its rows: it has to be resumed.
    Detached,
}

/// Where a query's messages come.
#[derive(Debug)]
pub(super) struct Inbox {
    pub(super) messages: Receiver<Heard>,
    /// Newer than what waits in the channel.
    pub(super) late_progress: LateProgress,
    /// Why the messages ended without a terminator.
    pub(super) end: Arc<Mutex<Option<ClientError>>>,
}

struct Live {
    messages: Sender<Heard>,
    late_progress: LateProgress,
    end: Arc<Mutex<Option<ClientError>>>,
    /// To be sent again should the connection be lost before the server has said that it started; `None` once it has, and for
    /// one that is not to survive that.
    unstarted: Option<Box<StreamQuery>>,
    is_started: bool,
    is_resumable: bool,
    has_checksums: bool,
    token: Option<ResumeToken>,
    /// Batches that have come.
    n_batches: u64,
    cancel_asked: bool,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}

impl Link {
    pub(super) fn new(control: Arc<dyn TransportControl>, open: Sender<Infallible>, payload_bytes_max: usize) -> Self {
        Self {
            outgoing: Mutex::new(Outgoing {
                frames: None,
                scratch: Vec::new(),
                close_sent: false,
            }),
            table: Mutex::default(),
            control: Mutex::new(control),
            open: Mutex::new(Some(open)),
            payload_bytes_max,
            asking: Mutex::new(()),
        }
    }

    /// Sends a query and returns its id and where its messages will come. They end without a terminator when the connection
    /// does: [`Inbox::end`] or [`end`](Self::end) then says why.
    ///
    /// Blocks while the transport takes nothing and, where the query is long, until the server has said what it takes.
    pub(super) fn submit(&self, mut query: StreamQuery) -> Result<(i64, Inbox), ClientError> {
        // Before the reader can find it, which sends it again should the connection be lost meanwhile.
        query.request_id = Some(RequestId::Number(self.table.lock().last_id + 1));
        match self.check_length(&ClientMessage::StreamQuery(Box::new(query.clone()))) {
            Err(ClientError::Lost { .. }) if query.resumable => {}
            checked => checked?,
        }
        let window = query.window.and_then(|window| window.batches).unwrap_or(0);
        // The server sends no more than the window; after a resume as much again may come before the program has taken any.
        let capacity = QUERY_MESSAGES_MAX + 2 * usize::try_from(window).unwrap_or(usize::MAX / 4);
        let (messages, received) = bounded(capacity);
        let (late_progress, end) = (LateProgress::default(), Arc::default());
        let inbox = Inbox {
            messages: received,
            late_progress: Arc::clone(&late_progress),
            end: Arc::clone(&end),
        };
        let (is_resumable, has_checksums) = (query.resumable, query.checksum);
        let id = self.table.lock().add(|table, id| {
            query.request_id = Some(RequestId::Number(id));
            let live = Live {
                messages,
                late_progress,
                end,
                unstarted: is_resumable.then(|| Box::new(query.clone())),
                is_started: false,
                is_resumable,
                has_checksums,
                token: None,
                n_batches: 0,
                cancel_asked: false,
            };
            table.live.insert(id, live);
        })?;
        match self.send(&ClientMessage::StreamQuery(Box::new(query))) {
            // The reader makes the next connection and asks again.
            Err(ClientError::Lost { .. }) if is_resumable => Ok((id, inbox)),
            Err(error) => {
                self.forget(id);
                Err(error)
            }
            Ok(()) => Ok((id, inbox)),
        }
    }

    fn forget(&self, id: i64) {
        let forgotten = self.table.lock().live.remove(&id);
        drop(forgotten);
    }

    /// Refuses a message that the server is known not to take: it would ignore it, or close the connection with all that is on it.
    ///
    /// Where the message is long, blocks until the server has said what it takes.
    fn check_length(&self, message: &ClientMessage) -> Result<(), ClientError> {
        let mut text = Vec::new();
        encode_client_message(message, &mut text).map_err(|error| ClientError::Usage(error.to_string()))?;
        let bytes = text.len();
        if bytes > SHORT_BYTES
            && let Some(bytes_max) = self.welcome()?.map(|welcome| welcome.limits.message_bytes)
            && bytes as u64 > bytes_max
        {
            return Err(ClientError::TooLong { bytes, bytes_max });
        }
        Ok(())
    }

    /// Sends a message. Blocks while the transport takes nothing.
    pub(super) fn send(&self, message: &ClientMessage) -> Result<(), ClientError> {
        let mut outgoing = self.outgoing.lock();
        let Outgoing {
            frames,
            scratch,
            close_sent,
        } = &mut *outgoing;
        if *close_sent {
            drop(outgoing);
            return Err(self.end());
        }
        scratch.clear();
        encode_client_message(message, scratch).map_err(|error| ClientError::Usage(error.to_string()))?;
        let Some(frames) = frames else {
            return Err(ClientError::Lost { source: None });
        };
        let written = frames.write_text(scratch);
        drop(outgoing);
        written.map_err(|error| {
            // A frame may have gone out in part. The reader ends with this, and tells everybody.
            self.shut_down();
            ClientError::Lost {
                source: Some(Arc::new(error)),
            }
        })
    }

    /// The program has taken all batches of a query up to `number`. Where that is not heard, a later one will be.
    pub(super) fn ack(&self, stream: StreamId, number: Option<u64>, end: bool) {
        let _lost_or_later = self.send(&ClientMessage::Ack(Ack {
            target: StreamRef::Stream(Ok(stream)),
            batch_number: number,
            end,
        }));
    }

    /// Has the server go on with a query on this connection.
    pub(super) fn resume(&self, id: i64) {
        let message = self.table.lock().live.get(&id).and_then(|live| live.resume_message(id));
        if let Some(message) = message {
            let _reader_will_find_out = self.send(&message);
        }
    }

    /// Asks what concerns no query of this client: the answer is what comes before the answer to a ping, if anything does.
    ///
    /// Blocks until the server has answered, or the connection is over.
    pub(super) fn ask(&self, message: &ClientMessage) -> Result<Option<ServerMessage>, ClientError> {
        let _one_at_a_time = self.asking.lock();
        let (answers, answered) = bounded(1);
        self.table.lock().answers = Some(answers);
        let pinged = self.send(message).and_then(|()| self.ping());
        self.table.lock().answers = None;
        pinged.map(|()| answered.try_recv().ok())
    }

    /// Asks what the server answers in its own time.
    ///
    /// Blocks until it has, or the connection is over.
    pub(super) fn ask_and_wait(&self, message: &ClientMessage) -> Result<Option<ServerMessage>, ClientError> {
        let _one_at_a_time = self.asking.lock();
        let (answers, answered) = bounded(1);
        self.table.lock().answers = Some(answers);
        let sent = self.check_length(message).and_then(|()| self.send(message));
        let answer = sent.and_then(|()| answered.recv().map_err(|_| self.end()));
        self.table.lock().answers = None;
        answer.map(Some)
    }

    /// Asks the server to stop a query. Nothing happens where it has ended. Errors are left to the query itself to find.
    pub(super) fn cancel(&self, id: i64) {
        let is_live = match self.table.lock().live.get_mut(&id) {
            Some(live) => {
                live.cancel_asked = true;
                true
            }
            None => false,
        };
        if is_live {
            let target = StreamRef::Request(RequestId::Number(id));
            let _query_will_tell = self.send(&ClientMessage::CancelQuery(CancelQuery { target }));
        }
    }

    /// Blocks until the server has answered, or the connection is over.
    pub(super) fn ping(&self) -> Result<(), ClientError> {
        let (answered, answer) = bounded(0);
        let id = self.table.lock().add(|table, id| {
            table.pings.insert(id, answered);
        })?;
        let timestamp = Some(Box::new(id.into()));
        self.send(&ClientMessage::Ping { timestamp })?;
        let _disconnected = answer.recv();
        match &self.table.lock().end {
            Some(end) => Err(end.clone()),
            None => Ok(()),
        }
    }

    /// Whether the server is yet to say what it is, unasked.
    pub(super) fn awaits_welcome(&self) -> bool {
        self.table.lock().awaits_welcome
    }

    /// What the server has said it is, unasked; `None` where it says so only to those who ask.
    ///
    /// Blocks until it has, or the connection is over.
    pub(super) fn welcome(&self) -> Result<Option<WelcomeMessage>, ClientError> {
        if self.awaits_welcome() {
            // It is the server's first message: with the answer to anything it is there.
            self.ping()?;
        }
        Ok(self.table.lock().welcome.clone())
    }

    /// What the server has said, if it goes away.
    pub(super) fn goaway(&self) -> Option<GoawayMessage> {
        self.table.lock().goaway.clone()
    }

    /// Why the connection is over; to be asked once it is.
    pub(super) fn end(&self) -> ClientError {
        self.table.lock().end.clone().unwrap_or(ClientError::Closed {
            code: None,
            reason: "the client is closing".to_owned(),
        })
    }

    /// Ends both directions of the present connection.
    pub(super) fn shut_down(&self) {
        let control = Arc::clone(&self.control.lock());
        control.shutdown(Shutdown::Both);
    }

    pub(super) fn say_goodbye(&self) {
        drop(self.open.lock().take());
        // What could be resumed would otherwise be held for somebody who does not come back.
        let resumable: Vec<i64> = {
            let table = self.table.lock();
            let held = table.live.iter().filter(|(_, live)| live.is_resumable);
            held.map(|(id, _)| *id).collect()
        };
        for id in resumable {
            self.cancel(id);
        }
        self.send_close(Some(CloseCode::Normal.number()), "");
    }

    pub(super) fn send_close(&self, code: Option<u16>, reason: &str) {
        // Whoever has held the lock for so long writes to a peer that takes nothing.
        if let Some(mut outgoing) = self.outgoing.try_lock_for(CLOSE_PATIENCE)
            && !outgoing.close_sent
        {
            outgoing.close_sent = true;
            if let Some(frames) = &mut outgoing.frames {
                // A connection that cannot take it is over anyway.
                let _gone = frames.write_close(code, reason);
            }
        }
    }

    /// Has the transport write what it has to say of itself. Where somebody is writing, that goes out with it, or with what comes next.
    pub(super) fn flush(&self) {
        if let Some(mut outgoing) = self.outgoing.try_lock()
            && let Some(frames) = &mut outgoing.frames
        {
            let _reader_will_find_out = frames.flush();
        }
    }

    /// Hands a message to whom it belongs. Blocks while that query's channel is full; see the module.
    pub(super) fn route(&self, message: ServerMessage, closing: &Receiver<Infallible>) -> Result<(), Fault> {
        {
            let mut table = self.table.lock();
            if std::mem::take(&mut table.awaits_welcome)
                && let ServerMessage::Welcome(welcome) = message
            {
                table.welcome = Some(*welcome);
                return Ok(());
            }
        }
        let (request_id, is_end) = match &message {
            ServerMessage::Pong(PongMessage { timestamp }) => {
                let id = timestamp.as_ref().and_then(|timestamp| timestamp.as_i64());
                let answered = id.and_then(|id| self.table.lock().pings.remove(&id));
                drop(answered);
                return Ok(());
            }
            ServerMessage::QueryStatus(_)
            | ServerMessage::QueryList(_)
            | ServerMessage::QueryDescription(_)
            | ServerMessage::Welcome(_) => {
                self.answer(message);
                return Ok(());
            }
            ServerMessage::Goaway(goaway) => {
                log::debug!(ms = goaway.drain_ms, reason = goaway.reason; "the server goes away");
                self.table.lock().goaway = Some(goaway.clone());
                return Ok(());
            }
            // This client neither pauses nor unpauses.
            ServerMessage::QueryPaused(_) | ServerMessage::QueryUnpaused(_) => return Ok(()),
            ServerMessage::QueryQueued(queued) => (&queued.request_id, false),
            ServerMessage::QueryStarted(started) => (&started.request_id, false),
            ServerMessage::QueryColumns(columns) => (&columns.request_id, false),
            ServerMessage::QueryBatch(batch) => (&batch.request_id, false),
            ServerMessage::ArrowBatch(batch) => (&batch.request_id, false),
            ServerMessage::QueryProgress(progress) => (&progress.request_id, false),
            ServerMessage::QueryResumed(resumed) => (&resumed.request_id, false),
            ServerMessage::QueryCompleted(completed) => (&completed.request_id, true),
            ServerMessage::QueryCancelled(cancelled) => (&cancelled.request_id, true),
            ServerMessage::Error(error) => (&error.request_id, true),
        };
        let Some(RequestId::Number(id)) = request_id else {
            if let ServerMessage::Error(error) = &message {
                // Concerns no query: an answer to a question, the server's last words, or something this client does not send.
                log::debug!(code:% = error.code, error = error.message; "the server reports an error");
                self.answer(message);
                return Ok(());
            }
            return Err(Fault::Protocol(
                "a message of a query without the query's request_id".to_owned(),
            ));
        };
        let id = *id;
        let (heard, destination) = {
            let mut table = self.table.lock();
            let Some(live) = table.live.get_mut(&id) else {
                return Ok(()); // an answer that crossed the query's end
            };
            let heard = match live.hear(message)? {
                Some(heard) => heard,
                None => return Ok(()),
            };
            let is_end = is_end && matches!(heard, Heard::Message(_));
            let destination = if is_end {
                table.live.remove(&id).map(|live| (live.messages, live.late_progress))
            } else {
                Some((live.messages.clone(), Arc::clone(&live.late_progress)))
            };
            (heard, destination)
        };
        if let Some((messages, late_progress)) = destination {
            deliver(heard, &messages, &late_progress, closing);
        }
        Ok(())
    }

    fn answer(&self, message: ServerMessage) {
        let answers = self.table.lock().answers.clone();
        if let Some(answers) = answers {
            let _one_is_enough = answers.try_send(message);
        }
    }

    /// Whether a query is to survive the loss of this connection.
    pub(super) fn has_survivors(&self) -> bool {
        self.table.lock().live.values().any(Live::survives)
    }

    /// The connection is lost and the next will be made: what cannot survive that is told.
    pub(super) fn disconnected(&self, error: &ClientError) {
        {
            let mut outgoing = self.outgoing.lock();
            outgoing.frames = None;
            // The answer to the server's close ends that connection only.
            outgoing.close_sent &= self.is_abandoned();
        }
        let (lost, waiting, pings) = {
            let mut table = self.table.lock();
            let lost: Vec<_> = table.live.extract_if(|_, live| !live.survives()).collect();
            let waiting: Vec<_> = table.live.values().map(|live| live.messages.clone()).collect();
            table.answers = None;
            table.goaway = None;
            (lost, waiting, std::mem::take(&mut table.pings))
        };
        for (_, live) in &lost {
            *live.end.lock() = Some(error.clone());
        }
        drop((lost, pings));
        for messages in waiting {
            // Where it finds no room the program is busy with rows that came before.
            let _busy = messages.try_send(Heard::Reconnecting);
        }
    }

    /// The next connection is there: queries go on where they were. The server may have agreed to say first what it is.
    pub(super) fn reconnected(&self, frames: FrameWriter, awaits_welcome: bool) {
        self.table.lock().awaits_welcome = awaits_welcome;
        self.outgoing.lock().frames = Some(frames);
        let messages: Vec<ClientMessage> = {
            let table = self.table.lock();
            let mut ids: Vec<_> = table.live.keys().copied().collect();
            ids.sort_unstable();
            ids.iter()
                .flat_map(|id| table.live[id].messages_after_loss(*id))
                .collect()
        };
        for message in messages {
            if self.send(&message).is_err() {
                return; // lost again, as the reader finds out
            }
        }
    }

    pub(super) fn set_control(&self, control: Arc<dyn TransportControl>) {
        *self.control.lock() = control;
    }

    /// Whether the client has said goodbye.
    pub(super) fn is_abandoned(&self) -> bool {
        self.open.lock().is_none()
    }

    /// Whether a close frame has been sent, of our own or in answer to the server's.
    pub(super) fn is_closing(&self) -> bool {
        self.outgoing.lock().close_sent
    }

    /// What the peer's close frame said, or what we told it.
    pub(super) fn take_close(&self) -> Option<(Option<u16>, String)> {
        self.table.lock().close.take()
    }

    /// Asks the peer for a sign of life. Where the connection takes nothing, that is none either.
    pub(super) fn ping_peer(&self) {
        if let Some(mut outgoing) = self.outgoing.try_lock_for(CLOSE_PATIENCE)
            && !outgoing.close_sent
            && let Some(frames) = &mut outgoing.frames
        {
            let _gone = frames.write_ping(&[]);
        }
    }

    /// The connection is over: everybody who waits is told.
    pub(super) fn finish(&self, end: ClientError) {
        let (live, pings) = {
            let mut table = self.table.lock();
            table.end.get_or_insert(end);
            table.answers = None;
            (std::mem::take(&mut table.live), std::mem::take(&mut table.pings))
        };
        drop((live, pings));
        self.outgoing.lock().close_sent = true;
        self.shut_down();
    }
}

impl Table {
    /// Gives out the next id, unless the connection is over.
    fn add(&mut self, insert: impl FnOnce(&mut Self, i64)) -> Result<i64, ClientError> {
        if let Some(end) = &self.end {
            return Err(end.clone());
        }
        self.last_id += 1;
        insert(self, self.last_id);
        Ok(self.last_id)
    }
}

impl Live {
    /// Whether the query goes on when the connection is lost.
    fn survives(&self) -> bool {
        self.token.is_some() || self.unstarted.is_some()
    }

    /// Takes in a message of the query's; `None` where it is not for the program.
    fn hear(&mut self, message: ServerMessage) -> Result<Option<Heard>, Fault> {
        match &message {
            ServerMessage::QueryStarted(started) => {
                self.is_started = true;
                self.unstarted = None;
                self.token.clone_from(&started.resume_token);
            }
            ServerMessage::QueryResumed(resumed) => self.token = Some(resumed.resume_token.clone()),
            ServerMessage::QueryBatch(batch) => {
                if batch.replay && batch.batch_number < self.n_batches {
                    return Ok(None);
                }
                if self.has_checksums {
                    check_integrity(
                        batch.batch_number,
                        batch.checksum.as_deref(),
                        batch.rows.get().as_bytes(),
                    )?;
                }
                self.n_batches = batch.batch_number + 1;
            }
            ServerMessage::ArrowBatch(batch) => {
                if batch.replay && batch.batch_number < self.n_batches {
                    return Ok(None);
                }
                if self.has_checksums {
                    check_integrity(batch.batch_number, batch.checksum.as_deref(), &batch.payload)?;
                }
                self.n_batches = batch.batch_number + 1;
            }
            ServerMessage::Error(error) if self.is_detached_by(error.code) => return Ok(Some(Heard::Detached)),
            ServerMessage::Error(error) if !self.is_ended_by(error.code, error.stream_id.is_some()) => return Ok(None),
            ServerMessage::QueryQueued(_)
            | ServerMessage::QueryColumns(_)
            | ServerMessage::QueryProgress(_)
            | ServerMessage::QueryCompleted(_)
            | ServerMessage::QueryCancelled(_)
            | ServerMessage::QueryPaused(_)
            | ServerMessage::QueryUnpaused(_)
            | ServerMessage::QueryStatus(_)
            | ServerMessage::QueryList(_)
            | ServerMessage::QueryDescription(_)
            | ServerMessage::Welcome(_)
            | ServerMessage::Error(_)
            | ServerMessage::Goaway(_)
            | ServerMessage::Pong(_) => {}
        }
        Ok(Some(Heard::Message(message)))
    }

    /// Whether the server holds the stream for us to come back.
    fn is_detached_by(&self, code: ErrorCode) -> bool {
        code == ErrorCode::SlowConsumer && self.token.is_some()
    }

    /// Whether an error ends the query. A cancel that crossed the query's end is answered by an error too, and that may come
    /// before the terminator.
    fn is_ended_by(&self, code: ErrorCode, has_stream_id: bool) -> bool {
        let is_resume_refused = matches!(
            code,
            ErrorCode::ResumeGap | ErrorCode::ResumeExpired | ErrorCode::ResumeDenied | ErrorCode::ShuttingDown
        );
        code != ErrorCode::StreamNotFound && (has_stream_id || !self.is_started || is_resume_refused)
    }

    fn resume_message(&self, id: i64) -> Option<ClientMessage> {
        let token = self.token.clone()?;
        Some(ClientMessage::ResumeQuery(ResumeQuery {
            resume_token: token,
            last_batch: self.n_batches.checked_sub(1),
            window: None,
            request_id: Some(RequestId::Number(id)),
        }))
    }

    /// What to say on a new connection, so that the query goes on.
    fn messages_after_loss(&self, id: i64) -> Vec<ClientMessage> {
        let again = match &self.unstarted {
            Some(query) => Some(ClientMessage::StreamQuery(query.clone())),
            None => self.resume_message(id),
        };
        let cancel = self.cancel_asked.then(|| {
            let target = StreamRef::Request(RequestId::Number(id));
            ClientMessage::CancelQuery(CancelQuery { target })
        });
        again.into_iter().chain(cancel).collect()
    }
}

/// Whether the rows are those that the server sent.
fn check_integrity(number: u64, sent: Option<&str>, payload: &[u8]) -> Result<(), Fault> {
    let sent = sent.unwrap_or("none");
    let got = format!("{:08x}", checksum(payload));
    if sent == got {
        return Ok(());
    }
    Err(Fault::Corrupt(format!(
        "batch {number} came with checksum {sent} and has {got}"
    )))
}

/// What makes a connection unusable.
#[derive(Debug)]
pub(super) enum Fault {
    /// The server says what makes no sense.
    Protocol(String),
    /// What the server said was changed on its way.
    Corrupt(String),
}

/// The reader answers pings and closes where it finds them; a server that sends them reads the answers.
impl ControlLane for Link {
    fn pong(&self, payload: &[u8]) {
        let mut outgoing = self.outgoing.lock();
        if !outgoing.close_sent {
            // The reader finds out by itself when the connection is gone.
            let _gone = outgoing.frames.as_mut().map(|frames| frames.write_pong(payload));
        }
    }

    fn close(&self, code: Option<u16>, reason: &str) {
        self.table.lock().close.get_or_insert((code, reason.to_owned()));
        self.send_close(code, reason);
    }
}

fn deliver(heard: Heard, messages: &Sender<Heard>, late_progress: &LateProgress, closing: &Receiver<Infallible>) {
    match messages.try_send(heard) {
        Ok(()) | Err(TrySendError::Disconnected(_)) => {}
        Err(TrySendError::Full(Heard::Message(ServerMessage::QueryProgress(progress)))) => {
            *late_progress.lock() = Some(progress);
        }
        // Woken by whoever takes a message, by the query's end of the channel being dropped, and by the client's close.
        Err(TrySendError::Full(heard)) => select! {
            send(messages, heard) -> _taken_or_dropped => {}
            recv(closing) -> _closed => {}
        },
    }
}

impl Link {
    pub(super) fn take(&self, incoming: &Incoming<'_>, closing: &Receiver<Infallible>) -> Result<(), Fault> {
        match incoming {
            Incoming::Text(text) => match decode_server_message(text) {
                Ok(Some(message)) => self.route(message, closing),
                Ok(None) => Ok(()), // a newer server's, or an application's own
                Err(error) => Err(Fault::Protocol(format!("a message cannot be read: {error}"))),
            },
            Incoming::Binary(bytes) => match decode_binary_message(bytes, self.payload_bytes_max) {
                Ok(Some(message)) => self.route(message, closing),
                Ok(None) => Ok(()),
                Err(error) => Err(Fault::Protocol(error.to_string())),
            },
            // None is skipped: it ends the connection.
            Incoming::TooLong | Incoming::Pong => Ok(()),
        }
    }
}
