//! Writer thread of one connection: the only one that puts bytes on the wire after the upgrade.
//!
//! Takes control frames and answers first, then batches of the streams that have some, fair in bytes, several in one write.
//! Must not know SQL or engines.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::outbox::{Closing, Lane, Message, Outbox, Patience, Taken};
use super::report;
use super::session::Session;
use crate::clock::{self, millis};
use crate::deflate::Deflate;
use crate::error::{CancelReason, ErrorCode};
use crate::id::StreamId;
use crate::protocol::{
    CancelledMessage, CloseCode, CompletedMessage, ErrorMessage, ServerMessage, encode_message, replayed,
    replayed_binary,
};
use crate::scheduler::{Completion, EncodedBatch, FairQueue, Scheduler, Stream, StreamEnd, Ticket, Timings};
use crate::stream::{Gone, Taken as StreamTaken};
use crate::sync::Mutex;
use crate::transport::websocket::{FrameWriter, MessageKind, Payload};

/// Bytes of batches that go into one write.
const GATHER_BYTES_MAX: usize = 256 * 1024;

/// Bytes for which a write is worth while, though more could go into it.
const WORTH_A_WRITE_BYTES: usize = 32 * 1024;

/// Bytes of batches that one stream may put into a write before the next stream's turn.
const QUANTUM_BYTES: usize = 32 * 1024;

/// How long what is less urgent waits for what is more urgent and may come.
const MOMENT: Duration = Duration::from_millis(1);

/// Why the writer ended.
#[derive(Debug)]
pub(super) enum WriterEnd {
    /// Its close frame is on the wire; nothing may follow.
    Closed,
    /// The reader has ended, and with it the connection.
    ReaderGone,
    /// The socket failed, or was shut down under us.
    Socket(io::Error),
}

/// One stream on this connection.
struct OpenLane {
    lane: Lane,
    /// What it had of the connection so far.
    ticket: Ticket,
    /// Whether it waits for its turn, so that it does so once.
    is_ready: bool,
}

/// One message of a write.
enum Piece {
    Text(Vec<u8>),
    Binary(Vec<u8>),
    Message(Message),
    Batch(Arc<EncodedBatch>),
    /// A batch that a worker has deflated for a connection like this.
    DeflatedBatch(Arc<EncodedBatch>),
    /// A message that was deflated here.
    Deflated(MessageKind, Vec<u8>),
}

impl Piece {
    fn payload(&self) -> Payload<'_> {
        let deflated = |kind, bytes| Payload {
            kind,
            bytes,
            is_deflated: true,
        };
        match self {
            Self::Text(text) => Payload::plain(MessageKind::Text, text),
            Self::Binary(bytes) => Payload::plain(MessageKind::Binary, bytes),
            Self::Message(message) => Payload::plain(message.kind, &message.bytes),
            Self::Batch(batch) => Payload::plain(kind_of(batch), batch.message()),
            Self::DeflatedBatch(batch) => match batch.deflated() {
                Some(message) => deflated(kind_of(batch), message.bytes()),
                None => Payload::plain(kind_of(batch), batch.message()),
            },
            Self::Deflated(kind, bytes) => deflated(*kind, bytes),
        }
    }
}

fn kind_of(batch: &EncodedBatch) -> MessageKind {
    if batch.is_binary() {
        MessageKind::Binary
    } else {
        MessageKind::Text
    }
}

/// The writer's own state: nobody else sees it, so nothing here is locked.
pub(super) struct Writer {
    outbox: Arc<Outbox>,
    session: Arc<Mutex<Session>>,
    scheduler: Arc<Scheduler>,
    frames: FrameWriter,
    lanes: HashMap<u64, OpenLane>,
    /// Lanes that have something, by priority, weight and bytes.
    ready: FairQueue<u64>,
    /// The highest priority in the write before.
    highest_before: Option<u8>,
    /// The highest priority of late, and the bytes that the next write without it may have.
    of_late: Option<(u8, usize)>,
    pieces: Vec<Piece>,
    gathered_bytes: usize,
}

impl Writer {
    pub(super) fn new(
        outbox: Arc<Outbox>,
        session: Arc<Mutex<Session>>,
        scheduler: Arc<Scheduler>,
        frames: FrameWriter,
    ) -> Self {
        Self {
            outbox,
            session,
            scheduler,
            frames,
            lanes: HashMap::new(),
            ready: FairQueue::new(),
            highest_before: None,
            of_late: None,
            pieces: Vec::new(),
            gathered_bytes: 0,
        }
    }

    /// Closes a connection for which there is no thread that could write more. The frame fits what the system takes at once.
    pub(super) fn refuse(mut self) {
        let code = Some(CloseCode::TryAgainLater.number());
        let _told = self.frames.write_close(code, "the server has no thread to spare");
    }

    /// Ends when: the connection is to be closed and has been, the reader is gone, or the socket fails. Blocks on the outbox
    /// and on the socket.
    pub(super) fn write_until_closed(mut self) -> WriterEnd {
        let end = self.run().unwrap_or_else(WriterEnd::Socket);
        self.outbox.writer_gone();
        end
    }

    fn run(&mut self) -> io::Result<WriterEnd> {
        let mut taken = Taken::default();
        loop {
            let patience = self.patience();
            self.outbox.take(&mut taken, patience);
            for payload in taken.pongs.drain(..) {
                self.frames.write_pong(&payload)?;
            }
            if std::mem::take(&mut taken.ping_due) {
                self.frames.write_ping(&[])?;
            }
            if std::mem::take(&mut taken.flush_due) {
                self.frames.flush()?;
            }
            for message in taken.messages.drain(..).chain(taken.application.drain(..)) {
                self.gather(Piece::Message(message));
            }
            for (key, lane) in taken.new_lanes.drain(..) {
                let open = OpenLane {
                    lane,
                    ticket: Ticket::default(),
                    is_ready: false,
                };
                self.lanes.insert(key, open);
            }
            for key in taken.ready.drain(..) {
                self.make_ready(key);
            }
            for key in taken.progress_due.drain(..) {
                self.report_progress(key);
            }
            let closing = taken.closing.take();
            if let Some(closing) = &closing
                && !closing.after_streams
            {
                self.write_gathered()?;
                return self.close(closing);
            }
            self.take_turns();
            self.write_gathered()?;
            if let Some(closing) = &closing
                && self.lanes.is_empty()
                && taken.lanes_coming == 0
            {
                return self.close(closing);
            }
            if taken.reader_gone {
                return Ok(WriterEnd::ReaderGone);
            }
        }
    }

    /// What was more urgent in the last write may have more in a moment, and then goes first: what is less urgent waits for that
    /// moment, once.
    fn patience(&mut self) -> Patience {
        let before = self.highest_before.take();
        match self.ready.next_priority() {
            None if self.ready.is_empty() => Patience::Long,
            Some(next) if before.is_some_and(|before| before > next) => Patience::Until(clock::now() + MOMENT),
            Some(_) | None => Patience::None,
        }
    }

    fn gather(&mut self, piece: Piece) {
        let piece = match self.outbox.deflate() {
            Some(deflate) => deflated(piece, deflate),
            None => piece,
        };
        self.gathered_bytes += piece.payload().bytes.len();
        self.pieces.push(piece);
    }

    fn make_ready(&mut self, key: u64) {
        if let Some(open) = self.lanes.get_mut(&key)
            && !std::mem::replace(&mut open.is_ready, true)
        {
            self.ready.push(key, open.lane.stream.rank(), open.ticket);
        }
    }

    /// Lets the ready lanes take turns until there is enough for a write, or nothing more. What is less urgent does not fill up a
    /// write that is worth while without it: by the next one there may be more of what is urgent. Nor do others fill up the share of
    /// one that has run dry in this write: it could not have its share otherwise where its channel holds less than that. Where there is
    /// nothing urgent at all, the first write without it is small, and each one after it may have twice the bytes.
    fn take_turns(&mut self) {
        let mut highest = None;
        let mut ran_dry = false;
        let mut bytes_max = WORTH_A_WRITE_BYTES;
        while self.gathered_bytes < GATHER_BYTES_MAX {
            // Nothing, for a turn out of what a lower priority has earned.
            if let Some(next) = self.ready.next_priority() {
                if highest.is_none() {
                    highest = Some(next);
                    bytes_max = self.bytes_max(next);
                }
                let others_may_come = ran_dry || highest > Some(next);
                if (others_may_come && self.gathered_bytes >= WORTH_A_WRITE_BYTES) || self.gathered_bytes >= bytes_max {
                    break;
                }
            }
            let Some((key, mut ticket)) = self.ready.pop() else {
                break;
            };
            let Some(open) = self.lanes.get_mut(&key) else {
                continue;
            };
            open.is_ready = false;
            let rank = open.lane.stream.rank();
            let (bytes, may_have_more) = self.serve(key);
            self.ready.served(&mut ticket, rank, bytes);
            if let Some(open) = self.lanes.get_mut(&key) {
                open.ticket = ticket;
                ran_dry |= !may_have_more;
            }
            if may_have_more {
                self.make_ready(key);
            }
        }
        self.highest_before = highest;
    }

    /// Bytes that a write may have whose most urgent stream is of this priority.
    fn bytes_max(&mut self, highest: u8) -> usize {
        let (of_late, bytes_max) = match self.of_late {
            Some((of_late, bytes_max)) if of_late > highest => (of_late, bytes_max),
            _ => {
                self.of_late = Some((highest, WORTH_A_WRITE_BYTES));
                return GATHER_BYTES_MAX;
            }
        };
        self.of_late = (bytes_max < GATHER_BYTES_MAX).then_some((of_late, 2 * bytes_max));
        bytes_max
    }

    /// One lane's turn. Returns the bytes of batches that it had, and whether there may be more.
    fn serve(&mut self, key: u64) -> (usize, bool) {
        let Some(OpenLane { lane, .. }) = self.lanes.get(&key) else {
            return (0, false);
        };
        let (stream, generation) = (Arc::clone(&lane.stream), lane.generation);
        lane.bell.reset();
        let mut turn_bytes = 0;
        loop {
            match stream.take(generation) {
                StreamTaken::Message(note) => self.gather(Piece::Text(note.message)),
                StreamTaken::Batch { batch, is_replay } => {
                    let bytes = batch.message().len();
                    turn_bytes += bytes;
                    if is_replay {
                        self.scheduler.metrics().batches_replayed.add(1);
                    }
                    if is_replay && batch.is_binary() {
                        self.gather(Piece::Binary(replayed_binary(batch.message())));
                    } else if is_replay {
                        self.gather(Piece::Text(replayed(batch.message())));
                    } else {
                        stream.count_sent(batch.rows(), bytes, batch.raw_bytes());
                        self.gather(Piece::Batch(batch));
                    }
                    if turn_bytes >= QUANTUM_BYTES || self.gathered_bytes >= GATHER_BYTES_MAX {
                        return (turn_bytes, true);
                    }
                }
                StreamTaken::End(end) => {
                    // One that is held in case the end is lost costs until the client says that it was not.
                    if end.is_completed() && !stream.is_resumable() {
                        self.session.lock().on_completed();
                    }
                    self.end_lane(key, &stream, &terminator(&stream, end));
                    return (turn_bytes, false);
                }
                StreamTaken::Gone(gone) => {
                    self.end_lane(key, &stream, &gone_message(&stream, gone));
                    return (turn_bytes, false);
                }
                StreamTaken::Nothing | StreamTaken::Discarded(_) => return (turn_bytes, false),
            }
        }
    }

    /// The last message of a stream on this connection.
    fn end_lane(&mut self, key: u64, stream: &Stream, message: &ServerMessage) {
        self.gather(Piece::Text(encoded(message)));
        self.session.lock().on_ended(stream.id, clock::now());
        self.lanes.remove(&key);
    }

    fn write_gathered(&mut self) -> io::Result<()> {
        if self.pieces.is_empty() {
            return Ok(());
        }
        let messages: Vec<_> = self.pieces.iter().map(Piece::payload).collect();
        let written = self.frames.write_messages(&messages);
        self.gathered_bytes = 0;
        // Dropped, batches make room for their streams' next.
        self.pieces.clear();
        written
    }

    fn close(&mut self, closing: &Closing) -> io::Result<WriterEnd> {
        self.frames.write_close(closing.code, &closing.reason)?;
        Ok(WriterEnd::Closed)
    }

    fn report_progress(&mut self, key: u64) {
        let detailed = self.scheduler.config().detailed_progress;
        let Some(OpenLane { lane, .. }) = self.lanes.get(&key) else {
            return;
        };
        // First the look, then the channel: what the look shows has its messages in the channel already.
        let phase = lane.stream.phase();
        let (_, may_have_more) = self.serve(key);
        if may_have_more {
            self.make_ready(key);
        }
        let Some(OpenLane { lane, .. }) = self.lanes.get(&key) else {
            return;
        };
        if !lane.stream.has_progress() {
            return;
        }
        let message = report::progress(&lane.stream, phase, detailed, clock::now());
        self.gather(Piece::Text(encoded(&message)));
    }
}

/// A piece as it goes to a client that takes deflated messages. What no worker has deflated is done here, though not a batch: it was
/// made for another connection, and there may be many.
fn deflated(piece: Piece, deflate: &Deflate) -> Piece {
    match piece {
        Piece::Batch(batch) if batch.deflated().is_some_and(|message| deflate.understands(message)) => {
            Piece::DeflatedBatch(batch)
        }
        Piece::Text(_) | Piece::Message(_) => {
            let Payload { kind, bytes, .. } = piece.payload();
            match deflate.deflate(bytes) {
                Some(message) => Piece::Deflated(kind, message.into_bytes()),
                None => piece,
            }
        }
        // The replay of a batch that may be compressed already.
        Piece::Binary(_) | Piece::Batch(_) | Piece::DeflatedBatch(_) | Piece::Deflated(..) => piece,
    }
}

fn terminator(stream: &Stream, end: StreamEnd) -> ServerMessage {
    let stream_id: StreamId = stream.id;
    let request_id = stream.request_id.clone();
    match end {
        StreamEnd::Completed(completion) => {
            let Completion {
                timings,
                truncated,
                digest,
            } = *completion;
            let Timings {
                execution,
                first_row,
                engine,
                stall,
            } = timings;
            ServerMessage::QueryCompleted(CompletedMessage {
                stream_id,
                request_id,
                total_rows: stream.rows_sent(),
                execution_time_ms: millis(execution),
                batches: stream.batches_sent(),
                bytes: stream.bytes_sent(),
                raw_bytes: stream.raw_bytes_sent(),
                time_to_first_row_ms: first_row.map(millis),
                engine_ms: millis(engine),
                stall_ms: millis(stall),
                truncated: truncated.is_some(),
                truncate_reason: truncated,
                digest,
            })
        }
        StreamEnd::Cancelled { reason, latency, limit } => ServerMessage::QueryCancelled(CancelledMessage {
            stream_id,
            request_id,
            reason,
            limit: limit.as_ref().and_then(|limit| limit.setting).map(str::to_owned),
            message: limit.as_ref().map(|limit| limit.message.clone()),
            blocked_by: stream
                .stall()
                .filter(|_| reason == CancelReason::SlowClient)
                .map(|(by, _)| by),
            rows_sent: stream.rows_sent(),
            last_batch: stream.batches_sent().checked_sub(1),
            engine_stopped: true,
            cancel_latency_ms: millis(latency),
        }),
        StreamEnd::Failed(error) => ServerMessage::Error(ErrorMessage {
            stream_id: Some(stream_id.to_string()),
            request_id,
            ..*error
        }),
    }
}

/// What a connection is told of a stream that has left it.
fn gone_message(stream: &Stream, gone: Gone) -> ServerMessage {
    let (code, text) = match gone {
        Gone::Superseded => (ErrorCode::Superseded, "another connection has resumed the stream"),
        Gone::Stalled => (
            ErrorCode::SlowConsumer,
            "the client took nothing for the stall limit (stall_limit); the stream can be resumed",
        ),
    };
    let stall = (gone == Gone::Stalled).then(|| stream.stall()).flatten();
    ServerMessage::Error(ErrorMessage {
        hint: stall.map(|(by, hint)| format!("{}: {hint}", by.as_str())),
        stream_id: Some(stream.id.to_string()),
        request_id: stream.request_id.clone(),
        started: true,
        ..ErrorMessage::new(code, text)
    })
}

fn encoded(message: &ServerMessage) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    encode_message(message, &mut out);
    out
}
