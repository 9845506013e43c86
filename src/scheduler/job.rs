//! One stream's work on a worker: open the cursor, let it fill one batch a turn, put the batch into the channel.
//!
//! Must not know the run queue, connections or sockets.

use std::any::Any;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use super::budget::Permit;
use super::live::Stream;
use super::outlet::{Note, NoteKind, Urgency};
use crate::clock;
use crate::deflate::Deflated;
use crate::engine::{CancelReason, Cursor, EngineError, EngineErrorKind, Step};
use crate::error::ErrorCode;
use crate::id::ResumeToken;
use crate::protocol::{
    BatchEnvelope, ColumnsMessage, DataFormat, ErrorMessage, RetentionMessage, RowsDigest, ServerMessage,
    StartedMessage, TotalKind, TruncateReason, checksum, encode_message,
};
use crate::rows::{BatchLimits, FlushSink, Int64Encoding, RowFormat, RowShape, RowWriter, Schema};
use crate::stream::{Item, QueryStreamStatus};
use crate::sync::Mutex;

/// What goes through a stream's channel, in the order it is to be sent.
pub(crate) type StreamEvent = Item<Arc<EncodedBatch>, Note, StreamEnd>;

/// How many messages besides batches a stream ever puts into its channel: queued, started, columns, terminator.
pub(super) const OTHER_EVENTS_MAX: usize = 4;

/// A whole `query_batch` message, ready for the socket. It counts as held until it is dropped, wherever that happens; its buffer is
/// used again then. For a connection that wants it so it is deflated, beside the plain one: that is what is sent again, and what
/// another connection may need.
#[derive(Debug)]
pub(crate) struct EncodedBatch {
    // Weak: the stream retains batches.
    stream: Weak<Stream>,
    rows: u32,
    message: Vec<u8>,
    deflated: Option<Deflated>,
    permit: Permit,
}

impl EncodedBatch {
    fn new(stream: &Arc<Stream>, rows: u32, message: Vec<u8>) -> Arc<Self> {
        // Here on the worker: the writer of a connection with many streams would have it all to do.
        let deflated = stream.deflate().and_then(|deflate| deflate.deflate(&message));
        let bytes = message.capacity() + deflated.as_ref().map_or(0, |deflated| deflated.bytes().len());
        stream.batch_made(rows, bytes);
        Arc::new(Self {
            stream: Arc::downgrade(stream),
            rows,
            message,
            deflated,
            permit: stream.account.hold(bytes),
        })
    }

    /// How many rows it has.
    pub(crate) fn rows(&self) -> u32 {
        self.rows
    }

    /// The message.
    pub(crate) fn message(&self) -> &[u8] {
        &self.message
    }

    /// The message deflated, where that was worth while.
    pub(crate) fn deflated(&self) -> Option<&Deflated> {
        self.deflated.as_ref()
    }
}

impl Drop for EncodedBatch {
    fn drop(&mut self) {
        if let Some(stream) = self.stream.upgrade() {
            stream.core.buffers.put(std::mem::take(&mut self.message));
            stream.batch_gone(self.permit.bytes());
        }
    }
}

/// Why a stream is over.
#[derive(Debug, Clone)]
pub(crate) enum StreamEnd {
    /// All rows are out.
    Completed(Box<Completion>),
    /// Somebody stopped it; the engine has returned.
    Cancelled { reason: CancelReason, latency: Duration },
    /// The engine or the server failed.
    Failed(Box<ErrorMessage>),
}

impl StreamEnd {
    pub(crate) fn status(&self) -> QueryStreamStatus {
        match self {
            Self::Completed(_) => QueryStreamStatus::Completed,
            Self::Cancelled { .. } => QueryStreamStatus::Cancelled,
            Self::Failed(_) => QueryStreamStatus::Failed,
        }
    }
}

/// The end of a whole result.
#[derive(Debug, Clone)]
pub(crate) struct Completion {
    pub(crate) timings: Timings,
    pub(crate) truncated: Option<TruncateReason>,
    pub(crate) digest: Option<String>,
}

/// Where the time went.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Timings {
    /// From acceptance to the end of the engine's work.
    pub(crate) execution: Duration,
    /// From acceptance until the first batch was closed.
    pub(crate) first_row: Option<Duration>,
    /// Inside the engine, encoding included.
    pub(crate) engine: Duration,
    /// Parked because the client took nothing.
    pub(crate) stall: Duration,
}

/// What one turn came to.
#[derive(Debug)]
pub(super) enum TurnEnd {
    /// The stream wants another turn; this one encoded so many bytes.
    Again(usize),
    /// No room in the channel.
    NoRoom,
    /// The engine's side is over.
    End(StreamEnd),
}

/// What of a query rules how its rows are written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchRules {
    pub(crate) row_format: RowFormat,
    pub(crate) int64: Int64Encoding,
    pub(crate) batch_rows: u32,
    pub(crate) batch_bytes: usize,
    pub(crate) row_bytes_max: usize,
    pub(crate) rows_max: Option<u64>,
    pub(crate) bytes_max: Option<u64>,
    pub(crate) first_interval: Duration,
    pub(crate) interval: Duration,
    pub(crate) checksum: bool,
}

/// A stream's work. Owned by one thread at a time.
pub(super) struct Job {
    cursor: Option<Box<dyn Cursor>>,
    writer: Option<RowWriter>,
    producer: Arc<Mutex<Producer>>,
    /// Whether `query_started` has been sent, and so the engine may have executed something.
    started: bool,
    estimate_asked: bool,
    parked_at: Option<Instant>,
    engine_time: Duration,
    stall_time: Duration,
    /// Given out with `query_started`.
    token: Option<ResumeToken>,
}

impl Job {
    pub(super) fn new(
        stream: &Arc<Stream>,
        rules: BatchRules,
        channel: Sender<StreamEvent>,
        token: Option<ResumeToken>,
    ) -> Self {
        Self {
            cursor: None,
            writer: None,
            producer: Arc::new(Mutex::new(Producer {
                envelope: BatchEnvelope::new(stream.id, stream.request_id.as_ref()),
                stream: Arc::clone(stream),
                rules,
                channel,
                next_batch: 0,
                row_offset: 0,
                row_bytes: 0,
                first_row: None,
                digest: rules.checksum.then(RowsDigest::default),
            })),
            started: false,
            estimate_asked: false,
            parked_at: None,
            engine_time: Duration::ZERO,
            stall_time: Duration::ZERO,
            token,
        }
    }

    /// One turn: at most one engine call that fills one batch.
    pub(super) fn turn(&mut self, stream: &Arc<Stream>) -> TurnEnd {
        if stream.cancel.is_cancelled() {
            return TurnEnd::End(self.cancelled(stream));
        }
        let begun_at = clock::now();
        if let Some(parked_at) = self.parked_at.take() {
            self.stall_time += begun_at.saturating_duration_since(parked_at);
        }
        if self.cursor.is_none()
            && let Err(end) = self.open(stream)
        {
            return TurnEnd::End(end);
        }
        if !stream.has_room() {
            self.parked_at = Some(begun_at);
            return TurnEnd::NoRoom;
        }
        self.fill(stream)
    }

    /// Room was made between looking for it and parking: nothing was waited for.
    pub(super) fn not_parked_after_all(&mut self) {
        self.parked_at = None;
    }

    pub(super) fn take_cursor(&mut self) -> Option<Box<dyn Cursor>> {
        self.cursor.take()
    }

    /// What to tell the client of a stream that was cancelled.
    pub(super) fn cancelled(&self, stream: &Stream) -> StreamEnd {
        let reason = stream.cancel.reason().unwrap_or(CancelReason::Admin);
        let refused = match reason {
            CancelReason::Timeout => Some((
                ErrorCode::QueryTimeout,
                "the time allowed passed before the query was started",
            )),
            CancelReason::Shutdown => Some((
                ErrorCode::ShuttingDown,
                "the server went away before the query was started",
            )),
            CancelReason::Client
            | CancelReason::Disconnect
            | CancelReason::Admin
            | CancelReason::Expired
            | CancelReason::SlowClient => None,
        };
        match refused {
            Some((code, message)) if !self.started => StreamEnd::Failed(Box::new(ErrorMessage::new(code, message))),
            _ => {
                let latency = stream
                    .cancelled_at()
                    .map_or(Duration::ZERO, |at| clock::now().saturating_duration_since(at));
                StreamEnd::Cancelled { reason, latency }
            }
        }
    }

    pub(super) fn send_end(&mut self, end: StreamEnd) {
        self.producer.lock().send(Item::End(end));
    }

    /// Sends a message that stands before the first turn.
    pub(super) fn send_message(&mut self, kind: NoteKind, message: &ServerMessage) {
        self.producer.lock().send_message(kind, message);
    }

    fn open(&mut self, stream: &Arc<Stream>) -> Result<(), StreamEnd> {
        let opened = stream.engine.open(&stream.plan.spec, &stream.cancel);
        let cursor = opened.map_err(|error| self.failed(stream, error))?;
        let columns = cursor.columns().cloned();
        self.cursor = Some(cursor);
        if stream.cancel.is_cancelled() {
            return Err(self.cancelled(stream));
        }
        let rules = self.producer.lock().rules;
        let shape = RowShape::new(
            columns.as_ref().unwrap_or(&Schema::default()),
            rules.row_format,
            rules.int64,
        );
        let mut writer = RowWriter::new(shape);
        writer.set_sink(Some(Box::new(DueBatches(Arc::clone(&self.producer)))));
        self.writer = Some(writer);
        self.started = true;
        let retention = self.token.is_some().then_some(RetentionMessage {
            bytes: stream.core.config.retention_bytes,
            seconds: stream.core.config.retention.as_secs(),
        });
        let message = ServerMessage::QueryStarted(Box::new(StartedMessage {
            stream_id: stream.id,
            query: stream.plan.spec.sql.clone(),
            estimated_rows: None,
            request_id: stream.request_id.clone(),
            columns,
            total_kind: TotalKind::None,
            format: DataFormat::Json,
            row_format: rules.row_format,
            window: stream.window(),
            resume_token: self.token.take(),
            retention,
        }));
        self.producer.lock().send_message(NoteKind::Started, &message);
        // Not before: a progress message that says so must find `query_started` in front of it.
        stream.set_status(QueryStreamStatus::Executing);
        Ok(())
    }

    fn fill(&mut self, stream: &Arc<Stream>) -> TurnEnd {
        let (Some(cursor), Some(writer)) = (self.cursor.as_mut(), self.writer.as_mut()) else {
            unreachable!("a turn fills only after it has opened");
        };
        let begun_at = clock::now();
        let limit = self.producer.lock().begin(writer, begun_at);
        let filled = cursor.fill(writer);
        let now = clock::now();
        self.engine_time += now.saturating_duration_since(begun_at);
        let step = match filled {
            Ok(step) => step,
            Err(error) => {
                self.keep_rows_of_failed_batch(stream, now);
                return TurnEnd::End(self.failed(stream, error));
            }
        };
        if let Some(work_done) = cursor.progress().work_done {
            stream.set_work_done(work_done);
        }
        if step == Step::Done {
            let truncated = (limit == Limit::Probe && writer.rows() > 0 || writer.is_exhausted()).then_some(
                if writer.is_exhausted() {
                    TruncateReason::MaxBytes
                } else {
                    TruncateReason::MaxRows
                },
            );
            return TurnEnd::End(self.complete(stream, now, limit, truncated));
        }
        if stream.cancel.is_cancelled() {
            self.discard();
            return TurnEnd::End(self.cancelled(stream));
        }
        if step == Step::Columns {
            return self.columns_known(stream);
        }
        if writer.is_exhausted() {
            return TurnEnd::End(self.complete(stream, now, limit, Some(TruncateReason::MaxBytes)));
        }
        if limit == Limit::Probe {
            if writer.rows() > 0 {
                return TurnEnd::End(self.complete(stream, now, limit, Some(TruncateReason::MaxRows)));
            }
            self.discard();
            return TurnEnd::Again(0);
        }
        let bytes = self.finish_batch(now, true);
        if bytes > 0 && !self.estimate_asked && stream.plan.progress_interval.is_some() {
            self.estimate_asked = true;
            stream.core.queue.push_aside(Arc::downgrade(stream));
        }
        TurnEnd::Again(bytes)
    }

    fn complete(
        &mut self,
        stream: &Arc<Stream>,
        now: Instant,
        limit: Limit,
        truncated: Option<TruncateReason>,
    ) -> StreamEnd {
        if limit == Limit::Probe {
            self.discard();
        } else {
            self.finish_batch(now, false);
        }
        let timings = Timings {
            execution: now.saturating_duration_since(stream.accepted_at),
            first_row: self.producer.lock().first_row,
            engine: self.engine_time,
            stall: self.stall_time,
        };
        let digest = self.producer.lock().digest.as_ref().map(RowsDigest::hex);
        StreamEnd::Completed(Box::new(Completion {
            timings,
            truncated,
            digest,
        }))
    }

    /// Puts the batch into the channel, if it has rows; returns its bytes.
    fn finish_batch(&mut self, now: Instant, has_more: bool) -> usize {
        let Some(writer) = self.writer.as_mut() else { return 0 };
        let mut producer = self.producer.lock();
        // The terminator follows a last batch at once and brings its own notice.
        let urgency = match (has_more, producer.next_batch) {
            (false, _) => None,
            (true, 0) => Some(Urgency::Now),
            (true, _) => Some(Urgency::Soon),
        };
        producer.finish(writer, now, has_more, urgency)
    }

    /// Rows that were ended before an engine failed are part of the result; after a cancel nobody wants them.
    fn keep_rows_of_failed_batch(&mut self, stream: &Stream, now: Instant) {
        if stream.cancel.is_cancelled() || self.producer.lock().is_probe() {
            self.discard();
        } else {
            self.finish_batch(now, true);
        }
    }

    fn discard(&mut self) {
        if let Some(writer) = self.writer.as_mut() {
            let batch = writer.take_batch();
            self.producer.lock().stream.core.buffers.put(batch.buffer);
        }
    }

    fn columns_known(&mut self, stream: &Arc<Stream>) -> TurnEnd {
        self.discard();
        let Some(columns) = self.cursor.as_ref().and_then(|cursor| cursor.columns().cloned()) else {
            let error = EngineError::new(EngineErrorKind::Internal, "the engine announced columns and has none");
            return TurnEnd::End(self.failed(stream, error));
        };
        let rules = self.producer.lock().rules;
        if let Some(writer) = self.writer.as_mut() {
            let mut renewed = RowWriter::new(RowShape::new(&columns, rules.row_format, rules.int64));
            renewed.set_sink(Some(Box::new(DueBatches(Arc::clone(&self.producer)))));
            *writer = renewed;
        }
        self.send_message(
            NoteKind::Columns,
            &ServerMessage::QueryColumns(ColumnsMessage {
                stream_id: stream.id,
                request_id: stream.request_id.clone(),
                columns,
            }),
        );
        TurnEnd::Again(0)
    }

    fn failed(&self, stream: &Stream, error: EngineError) -> StreamEnd {
        if error.kind == EngineErrorKind::Cancelled && stream.cancel.is_cancelled() {
            return self.cancelled(stream);
        }
        let code = error.code();
        StreamEnd::Failed(Box::new(ErrorMessage {
            engine_code: error.engine_code,
            sqlstate: error.sqlstate,
            position: error.position,
            hint: error.hint,
            started: self.started,
            ..ErrorMessage::new(code, error.message)
        }))
    }

    /// What to tell the client after a panic, which a worker caught.
    pub(super) fn panicked(&self, stream: &Stream, panic: &(dyn Any + Send)) -> StreamEnd {
        let said = panic
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("no message");
        // What a panic says may hold anything, so it goes to the log only.
        log::error!("stream {}: the engine panicked: {said:?}", stream.id);
        StreamEnd::Failed(Box::new(ErrorMessage {
            started: self.started,
            ..ErrorMessage::new(ErrorCode::Internal, "the engine failed unexpectedly")
        }))
    }
}

/// Whether a batch is for the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limit {
    /// Its rows are sent.
    Send,
    /// `max_rows` has been reached: the batch only shows whether there is one row more.
    Probe,
}

/// Makes batches and puts them into the channel: used between engine calls by the job and, for due batches, inside them.
struct Producer {
    stream: Arc<Stream>,
    envelope: BatchEnvelope,
    rules: BatchRules,
    channel: Sender<StreamEvent>,
    next_batch: u64,
    row_offset: u64,
    row_bytes: u64,
    /// From acceptance until the first batch with a row was closed.
    first_row: Option<Duration>,
    digest: Option<RowsDigest>,
}

impl Producer {
    fn is_probe(&self) -> bool {
        self.rules.rows_max.is_some_and(|rows_max| self.row_offset >= rows_max)
    }

    fn begin(&self, writer: &mut RowWriter, now: Instant) -> Limit {
        let mut buffer = self.stream.core.buffers.take();
        self.envelope.open(self.next_batch, &mut buffer);
        let is_probe = self.is_probe();
        let rows_left = self
            .rules
            .rows_max
            .map_or(u64::MAX, |rows_max| rows_max.saturating_sub(self.row_offset));
        let interval = if self.next_batch == 0 {
            self.rules.first_interval
        } else {
            self.rules.interval
        };
        let limits = BatchLimits {
            rows_max: self
                .rules
                .batch_rows
                .min(u32::try_from(rows_left).unwrap_or(u32::MAX))
                .max(1),
            bytes_max: self.rules.batch_bytes,
            row_bytes_max: self.rules.row_bytes_max,
            bytes_left: self
                .rules
                .bytes_max
                .filter(|_| !is_probe)
                .map(|max| max.saturating_sub(self.row_bytes)),
            until: Some(now + interval),
        };
        writer.begin_batch(buffer, limits, self.row_offset);
        if is_probe { Limit::Probe } else { Limit::Send }
    }

    fn finish(&mut self, writer: &mut RowWriter, now: Instant, has_more: bool, urgency: Option<Urgency>) -> usize {
        let mut batch = writer.take_batch();
        if batch.rows == 0 {
            self.stream.core.buffers.put(batch.buffer);
            return 0;
        }
        self.first_row
            .get_or_insert_with(|| now.saturating_duration_since(self.stream.accepted_at));
        BatchEnvelope::close_rows(&mut batch.buffer);
        let checksum = self.digest.as_mut().map(|digest| {
            // The rows are the last bytes: with their separators, the brackets around them.
            let rows = &batch.buffer[batch.buffer.len() - batch.row_bytes - 2..];
            digest.add(rows);
            checksum(rows)
        });
        BatchEnvelope::close(batch.rows, self.row_offset, checksum, has_more, &mut batch.buffer);
        self.next_batch += 1;
        self.row_offset += u64::from(batch.rows);
        self.row_bytes += batch.row_bytes as u64;
        let bytes = batch.buffer.len();
        self.stream.set_status(QueryStreamStatus::Streaming);
        self.stream.announce(bytes, now);
        self.send(Item::Batch(EncodedBatch::new(&self.stream, batch.rows, batch.buffer)));
        if let Some(urgency) = urgency {
            self.stream.notify(urgency, bytes);
        }
        bytes
    }

    fn send_message(&self, kind: NoteKind, message: &ServerMessage) {
        let mut encoded = Vec::with_capacity(256);
        encode_message(message, &mut encoded);
        let bytes = encoded.len();
        let message = encoded;
        self.send(Item::Message(Note { kind, message }));
        self.stream.notify(Urgency::Soon, bytes);
    }

    /// There is always room: batches are made only where `has_room` said so, and the channel holds all other events besides.
    /// Where nobody reads any more, the stream is on its way out.
    fn send(&self, event: StreamEvent) {
        if let Err(error) = self.channel.try_send(event) {
            debug_assert!(error.is_disconnected(), "the channel holds every event it may get");
        }
    }
}

/// Lets a due batch leave in the middle of an engine call.
struct DueBatches(Arc<Mutex<Producer>>);

impl FlushSink for DueBatches {
    fn flush(&mut self, writer: &mut RowWriter, now: Instant) {
        let mut producer = self.0.lock();
        if producer.is_probe() || !producer.stream.has_room() {
            return;
        }
        producer.finish(writer, now, true, Some(Urgency::Now));
        producer.begin(writer, now);
    }
}
