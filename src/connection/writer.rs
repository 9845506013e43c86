//! Writer thread of one connection: the only one that puts bytes on the wire after the upgrade.
//!
//! Takes control frames and answers first, then batches of the streams that have some, fair in bytes, several in one write.
//! Must not know SQL or engines.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::outbox::{Closing, Lane, Outbox, Taken};
use super::session::Session;
use crate::clock;
use crate::id::StreamId;
use crate::protocol::{
    CancelledMessage, CompletedMessage, ErrorMessage, ProgressDetail, ProgressMessage, ServerMessage, encode_message,
};
use crate::scheduler::{EncodedBatch, Scheduler, Stream, StreamEnd, StreamEvent, Timings};
use crate::stream::{ProgressMeter, QueryStreamStatus};
use crate::transport::websocket::{FrameWriter, MessageKind};

/// Bytes of batches that go into one write.
const GATHER_BYTES_MAX: usize = 256 * 1024;

/// Bytes of batches that one stream may put into a write before the next stream's turn.
const QUANTUM_BYTES: usize = 32 * 1024;

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
    meter: ProgressMeter,
}

/// One message of a write.
enum Piece {
    Message(MessageKind, Vec<u8>),
    Batch(EncodedBatch),
}

impl Piece {
    fn text(message: Vec<u8>) -> Self {
        Self::Message(MessageKind::Text, message)
    }

    fn message(&self) -> (MessageKind, &[u8]) {
        match self {
            Self::Message(kind, message) => (*kind, message),
            Self::Batch(batch) => (MessageKind::Text, batch.message()),
        }
    }
}

/// The writer's own state: nobody else sees it, so nothing here is locked.
pub(super) struct Writer {
    outbox: Arc<Outbox>,
    session: Arc<Mutex<Session>>,
    scheduler: Arc<Scheduler>,
    frames: FrameWriter,
    lanes: HashMap<u64, OpenLane>,
    /// Lanes that have something, in the order of their turns.
    ready: VecDeque<u64>,
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
            ready: VecDeque::new(),
            pieces: Vec::new(),
            gathered_bytes: 0,
        }
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
            let nothing_left_over = self.ready.is_empty();
            self.outbox.take(&mut taken, nothing_left_over);
            for payload in taken.pongs.drain(..) {
                self.frames.write_pong(&payload)?;
            }
            for (kind, message) in taken.messages.drain(..) {
                self.gather(Piece::Message(kind, message));
            }
            for (key, lane) in taken.new_lanes.drain(..) {
                let meter = ProgressMeter::default();
                self.lanes.insert(key, OpenLane { lane, meter });
            }
            self.ready.extend(taken.ready.drain(..));
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
            {
                return self.close(closing);
            }
            if taken.reader_gone {
                return Ok(WriterEnd::ReaderGone);
            }
        }
    }

    fn gather(&mut self, piece: Piece) {
        self.gathered_bytes += piece.message().1.len();
        self.pieces.push(piece);
    }

    /// Lets the ready lanes take turns until there is enough for a write, or nothing more.
    fn take_turns(&mut self) {
        while self.gathered_bytes < GATHER_BYTES_MAX
            && let Some(key) = self.ready.pop_front()
        {
            if self.serve(key) {
                self.ready.push_back(key);
            }
        }
    }

    /// One lane's turn. True where it may have more.
    fn serve(&mut self, key: u64) -> bool {
        let Some(OpenLane { lane, .. }) = self.lanes.get(&key) else {
            return false;
        };
        let (stream, events) = (Arc::clone(&lane.stream), lane.events.clone());
        lane.bell.reset();
        let mut quantum = QUANTUM_BYTES;
        while let Ok(event) = events.try_recv() {
            match event {
                StreamEvent::Message(message) => self.gather(Piece::text(message)),
                // After a cancel nobody wants what is still under way.
                StreamEvent::Batch(batch) if stream.status() == QueryStreamStatus::Cancelled => drop(batch),
                StreamEvent::Batch(batch) => {
                    let bytes = batch.message().len();
                    stream.count_sent(batch.rows(), bytes);
                    quantum = quantum.saturating_sub(bytes);
                    self.gather(Piece::Batch(batch));
                    if quantum == 0 {
                        return true;
                    }
                }
                StreamEvent::End(end) => {
                    self.gather(Piece::text(encoded(&terminator(&stream, end))));
                    self.session.lock().on_ended(stream.id);
                    self.lanes.remove(&key);
                    return false;
                }
            }
        }
        false
    }

    fn write_gathered(&mut self) -> io::Result<()> {
        if self.pieces.is_empty() {
            return Ok(());
        }
        let messages: Vec<_> = self.pieces.iter().map(Piece::message).collect();
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
        if self.serve(key) {
            self.ready.push_back(key);
        }
        let Some(OpenLane { lane, meter }) = self.lanes.get_mut(&key) else {
            return;
        };
        let stream = &lane.stream;
        if stream.status().is_terminal() {
            return;
        }
        let sample = stream.sample(clock::now());
        let reading = meter.read(sample);
        let (total_rows, total_kind) = stream.total();
        let detail = detailed.then(|| ProgressDetail {
            eta_ms: reading.eta.map(millis),
            elapsed_ms: millis(sample.elapsed),
            phase,
            total_rows,
            total_kind,
            rows_sent: stream.rows_sent(),
            bytes_sent: stream.bytes_sent(),
            queue_depth: stream.batches_queued() as u64,
        });
        let message = ServerMessage::QueryProgress(ProgressMessage {
            stream_id: stream.id,
            request_id: stream.request_id.clone(),
            rows_processed: sample.rows,
            percentage: reading.percentage,
            throughput: reading.throughput,
            detail,
        });
        self.gather(Piece::text(encoded(&message)));
    }
}

fn terminator(stream: &Stream, end: StreamEnd) -> ServerMessage {
    let stream_id: StreamId = stream.id;
    let request_id = stream.request_id.clone();
    match end {
        StreamEnd::Completed(timings, truncate_reason) => {
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
                time_to_first_row_ms: first_row.map(millis),
                engine_ms: millis(engine),
                stall_ms: millis(stall),
                truncated: truncate_reason.is_some(),
                truncate_reason,
            })
        }
        StreamEnd::Cancelled { reason, latency } => ServerMessage::QueryCancelled(CancelledMessage {
            stream_id,
            request_id,
            reason,
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

fn encoded(message: &ServerMessage) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    encode_message(message, &mut out);
    out
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
