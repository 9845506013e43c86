//! One stream's work on a worker: open the cursor, let it fill one batch a turn, put the batch into the channel.
//!
//! Must not know the run queue, connections or sockets.

use std::any::Any;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use super::budget::{Held, Permit};
use super::live::Stream;
use super::outlet::{Note, NoteKind, Urgency};
use super::question::error_message;
use super::relief::Need;
use super::seats::Seat;
use crate::clock;
use crate::deflate::Deflated;
use crate::engine::{CancelReason, Cursor, EngineError, EngineErrorKind, Step};
use crate::error::ErrorCode;
use crate::id::ResumeToken;
use crate::metrics::Blocked;
use crate::protocol::{
    BatchEnvelope, BatchHeader, BinaryEnvelope, COMPRESSED_BYTES_MIN, ColumnsMessage, Compression, DataFormat,
    ErrorMessage, RetentionMessage, RowsDigest, ServerMessage, StartedMessage, TotalKind, TruncateReason, checksum,
    encode_message,
};
use crate::rows::{
    BatchLimits, FilledBatch, FlushSink, Int64Encoding, RowError, RowFormat, RowShape, RowWriter, Schema,
};
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
    is_binary: bool,
    raw_bytes: usize,
    deflated: Option<Deflated>,
    permit: Permit,
}

/// A message, and what there is to know of it.
struct Framed {
    message: Vec<u8>,
    is_binary: bool,
    /// What it would be without compression.
    raw_bytes: usize,
}

impl EncodedBatch {
    fn new(stream: &Arc<Stream>, rows: u32, framed: Framed) -> Arc<Self> {
        let Framed {
            message,
            is_binary,
            raw_bytes,
        } = framed;
        // Here on the worker: the writer of a connection with many streams would have it all to do. What a codec has made small
        // gets no smaller.
        let is_compressed = message.len() < raw_bytes;
        let deflate = if is_compressed { None } else { stream.deflate() };
        let deflated = deflate.and_then(|deflate| deflate.deflate(&message));
        let bytes = message.capacity() + deflated.as_ref().map_or(0, |deflated| deflated.bytes().len());
        stream.batch_made(rows, message.len(), bytes);
        Arc::new(Self {
            stream: Arc::downgrade(stream),
            rows,
            message,
            is_binary,
            raw_bytes,
            deflated,
            permit: stream.account.hold(bytes, Held::Batches),
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

    /// Whether it is a binary message.
    pub(crate) fn is_binary(&self) -> bool {
        self.is_binary
    }

    /// Bytes that the message would have without compression.
    pub(crate) fn raw_bytes(&self) -> usize {
        self.raw_bytes
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

    pub(crate) fn is_completed(&self) -> bool {
        matches!(self, Self::Completed(_))
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
    /// No room for another batch, and why.
    NoRoom(Blocked),
    /// The engine's side is over.
    End(StreamEnd),
}

/// What of a query rules how its rows are written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchRules {
    pub(crate) format: DataFormat,
    pub(crate) compression: Compression,
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

impl BatchRules {
    fn shape(&self, columns: &Schema) -> RowShape {
        match self.format {
            DataFormat::Json => RowShape::json(columns, self.row_format, self.int64),
            #[cfg(feature = "arrow")]
            DataFormat::Arrow => RowShape::arrow(columns),
            #[cfg(not(feature = "arrow"))]
            DataFormat::Arrow => unreachable!("a message that asks for Arrow is refused"),
        }
    }
}

/// A stream's work. Owned by one thread at a time.
pub(super) struct Job {
    /// Among the streams that run, until its engine side has ended.
    seat: Option<Seat>,
    cursor: Option<Box<dyn Cursor>>,
    writer: Option<RowWriter>,
    producer: Arc<Mutex<Producer>>,
    /// Whether `query_started` has been sent, and so the engine may have executed something.
    started: bool,
    estimate_asked: bool,
    /// Since when, and for what.
    parked: Option<(Instant, Blocked)>,
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
        seat: Seat,
    ) -> Self {
        Self {
            seat: Some(seat),
            cursor: None,
            writer: None,
            producer: Arc::new(Mutex::new(Producer {
                framing: Framing::new(stream, &rules),
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
            parked: None,
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
        self.unpark(stream, begun_at);
        if self.cursor.is_none() {
            let waited = begun_at.saturating_duration_since(stream.accepted_at);
            stream.core.metrics.blocked.add_time(Blocked::Worker, waited);
            if let Err(end) = self.open(stream) {
                return TurnEnd::End(end);
            }
        }
        if let Some(blocked) = stream.blocked_by() {
            self.parked = Some((begun_at, blocked));
            return TurnEnd::NoRoom(blocked);
        }
        self.fill(stream)
    }

    /// Room was made between looking for it and parking: nothing was waited for.
    pub(super) fn not_parked_after_all(&mut self) {
        self.parked = None;
    }

    /// What it was parked for has come, or is not waited for any more.
    pub(super) fn unpark(&mut self, stream: &Stream, now: Instant) {
        if let Some((parked_at, blocked)) = self.parked.take() {
            let waited = now.saturating_duration_since(parked_at);
            self.stall_time += waited;
            stream.core.metrics.blocked.add_time(blocked, waited);
        }
    }

    pub(super) fn take_cursor(&mut self) -> Option<Box<dyn Cursor>> {
        self.cursor.take()
    }

    /// The stream counts no more among those that run.
    pub(super) fn leave_seat(&mut self) {
        self.seat = None;
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
        stream.core.relieve(&*stream.engine, Need::Foreseen, clock::now());
        let opened = stream.engine.open(&stream.plan.asked.spec(), &stream.cancel);
        let cursor = opened.map_err(|error| self.failed(stream, error))?;
        let rules = self.producer.lock().rules;
        let columns = cursor.columns().map(|columns| columns.clone().with_int64(rules.int64));
        self.cursor = Some(cursor);
        if stream.cancel.is_cancelled() {
            return Err(self.cancelled(stream));
        }
        let shape = rules.shape(columns.as_ref().unwrap_or(&Schema::default()));
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
            query: stream.plan.asked.spec().sql.clone(),
            estimated_rows: None,
            request_id: stream.request_id.clone(),
            columns,
            total_kind: TotalKind::None,
            format: rules.format,
            row_format: rules.row_format,
            compression: (rules.compression != Compression::None).then_some(rules.compression),
            window: stream.window(),
            resume_token: self.token.take(),
            retention,
        }));
        self.producer.lock().send_message(NoteKind::Started, &message);
        // Not before: a progress message that says so must find `query_started` in front of it.
        stream.set_status(QueryStreamStatus::Executing);
        stream.log_started();
        Ok(())
    }

    fn fill(&mut self, stream: &Arc<Stream>) -> TurnEnd {
        let (Some(cursor), Some(writer)) = (self.cursor.as_mut(), self.writer.as_mut()) else {
            unreachable!("a turn fills only after it has opened");
        };
        let begun_at = clock::now();
        let limit = self.producer.lock().begin(writer, begun_at, u32::MAX);
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
        let bytes = match self.finish_batch(now, true) {
            Ok(bytes) => bytes,
            Err(error) => return TurnEnd::End(self.failed(stream, error.into())),
        };
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
        } else if let Err(error) = self.finish_batch(now, false) {
            return self.failed(stream, error.into());
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

    /// Puts the batch into the channel, if it has rows or is to tell a schema; returns its bytes.
    ///
    /// # Errors
    /// Of rows that cannot be written as what they are to be.
    fn finish_batch(&mut self, now: Instant, has_more: bool) -> Result<usize, RowError> {
        let Some(writer) = self.writer.as_mut() else {
            return Ok(0);
        };
        let mut producer = self.producer.lock();
        // The terminator follows a last batch at once and brings its own notice.
        let urgency = match (has_more, producer.next_batch) {
            (false, _) => None,
            (true, 0) => Some(Urgency::Now),
            (true, _) => Some(Urgency::Soon),
        };
        let bytes = producer.finish(writer, now, has_more, urgency)?;
        #[cfg(feature = "arrow")]
        if !has_more && producer.next_batch == 0 && producer.rules.format == DataFormat::Arrow {
            producer.send_schema(writer, now);
        }
        Ok(bytes)
    }

    /// Rows that were ended before an engine failed are part of the result; after a cancel nobody wants them.
    fn keep_rows_of_failed_batch(&mut self, stream: &Stream, now: Instant) {
        if stream.cancel.is_cancelled() || self.producer.lock().is_probe() {
            self.discard();
        } else {
            // What the engine failed with is told, not this.
            let _rows_of_no_type = self.finish_batch(now, true);
        }
    }

    fn discard(&mut self) {
        if let Some(writer) = self.writer.as_mut() {
            let buffer = writer.discard_batch();
            self.producer.lock().stream.core.buffers.put(buffer);
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
            let mut renewed = RowWriter::new(rules.shape(&columns));
            renewed.set_sink(Some(Box::new(DueBatches(Arc::clone(&self.producer)))));
            *writer = renewed;
        }
        self.send_message(
            NoteKind::Columns,
            &ServerMessage::QueryColumns(ColumnsMessage {
                stream_id: stream.id,
                request_id: stream.request_id.clone(),
                columns: columns.with_int64(rules.int64),
            }),
        );
        TurnEnd::Again(0)
    }

    fn failed(&self, stream: &Stream, error: EngineError) -> StreamEnd {
        if error.kind == EngineErrorKind::Cancelled && stream.cancel.is_cancelled() {
            return self.cancelled(stream);
        }
        if error.kind == EngineErrorKind::NoMemory {
            stream.core.relieve(&*stream.engine, Need::Refused, clock::now());
        }
        StreamEnd::Failed(Box::new(ErrorMessage {
            started: self.started,
            ..error_message(error)
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
        log::error!(stream:% = stream.id, said = said; "the engine panicked");
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

/// What surrounds a stream's rows.
enum Framing {
    /// Rows inside a text message.
    Text(BatchEnvelope),
    /// A payload behind a header.
    Binary(BinaryEnvelope),
}

impl Framing {
    fn new(stream: &Stream, rules: &BatchRules) -> Self {
        let (id, request_id) = (stream.id, stream.request_id.as_ref());
        match (rules.format, rules.compression) {
            (DataFormat::Json, Compression::None) => Self::Text(BatchEnvelope::new(id, request_id)),
            _ => Self::Binary(BinaryEnvelope::new(id, request_id)),
        }
    }
}

/// Makes batches and puts them into the channel: used between engine calls by the job and, for due batches, inside them.
struct Producer {
    stream: Arc<Stream>,
    framing: Framing,
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

    /// Writes what is in front of a batch's rows, or keeps a place for it.
    fn open_batch(&self, buffer: &mut Vec<u8>) {
        match &self.framing {
            Framing::Text(envelope) => envelope.open(self.next_batch, buffer),
            Framing::Binary(envelope) => {
                envelope.open(buffer);
                if self.rules.format == DataFormat::Json {
                    buffer.push(b'[');
                }
            }
        }
    }

    fn begin(&self, writer: &mut RowWriter, now: Instant, rows_max: u32) -> Limit {
        let mut buffer = self.stream.core.buffers.take();
        self.open_batch(&mut buffer);
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
                .min(rows_max)
                .min(u32::try_from(rows_left).unwrap_or(u32::MAX))
                .max(1),
            bytes_max: self.rules.batch_bytes,
            row_bytes_max: self.rules.row_bytes_max,
            bytes_left: self
                .rules
                .bytes_max
                .filter(|_| !is_probe)
                .map(|max| max.saturating_sub(self.row_bytes)),
            until: Some(clock::after(now, interval)),
        };
        writer.begin_batch(buffer, limits, self.row_offset);
        if is_probe { Limit::Probe } else { Limit::Send }
    }

    fn finish(
        &mut self,
        writer: &mut RowWriter,
        now: Instant,
        has_more: bool,
        urgency: Option<Urgency>,
    ) -> Result<usize, RowError> {
        let batch = writer.take_batch()?;
        if batch.rows == 0 {
            self.stream.core.buffers.put(batch.buffer);
            return Ok(0);
        }
        if self.first_row.is_none() {
            let time = now.saturating_duration_since(self.stream.accepted_at);
            self.first_row = Some(time);
            self.stream.core.metrics.first_row.observe(time);
        }
        let bytes = self.send_batch(batch, now, has_more);
        if let Some(urgency) = urgency {
            self.stream.notify(urgency, bytes);
        }
        Ok(bytes)
    }

    /// A result without rows has types all the same.
    #[cfg(feature = "arrow")]
    fn send_schema(&mut self, writer: &mut RowWriter, now: Instant) {
        let mut buffer = self.stream.core.buffers.take();
        self.open_batch(&mut buffer);
        let start = buffer.len();
        writer.schema_piece(&mut buffer);
        let row_bytes = buffer.len() - start;
        let batch = FilledBatch {
            buffer,
            rows: 0,
            row_bytes,
        };
        self.send_batch(batch, now, false);
    }

    fn send_batch(&mut self, batch: FilledBatch, now: Instant, has_more: bool) -> usize {
        let framed = self.frame(batch.buffer, batch.rows, batch.row_bytes, has_more);
        self.next_batch += 1;
        self.row_offset += u64::from(batch.rows);
        self.row_bytes += batch.row_bytes as u64;
        let bytes = framed.raw_bytes;
        self.stream.set_status(QueryStreamStatus::Streaming);
        self.stream.announce(bytes, now);
        self.send(Item::Batch(EncodedBatch::new(&self.stream, batch.rows, framed)));
        bytes
    }

    /// Makes a message of a buffer that ends with a batch's rows.
    fn frame(&mut self, mut buffer: Vec<u8>, rows: u32, row_bytes: usize, has_more: bool) -> Framed {
        let is_json = self.rules.format == DataFormat::Json;
        if is_json {
            buffer.push(b']');
        }
        // The rows are the last bytes: in JSON with their separators, the brackets around them.
        let payload_at = buffer.len() - row_bytes - if is_json { 2 } else { 0 };
        let checksum = self.digest.as_mut().map(|digest| {
            let payload = &buffer[payload_at..];
            if is_json {
                digest.add_rows(payload);
            } else {
                digest.add_bytes(payload);
            }
            checksum(payload)
        });
        match &self.framing {
            Framing::Text(_) => {
                BatchEnvelope::close(rows, self.row_offset, checksum, has_more, &mut buffer);
                Framed {
                    raw_bytes: buffer.len(),
                    message: buffer,
                    is_binary: false,
                }
            }
            Framing::Binary(envelope) => {
                let raw_bytes = buffer.len();
                let mut header = BatchHeader {
                    batch_number: self.next_batch,
                    row_count: rows,
                    row_offset: self.row_offset,
                    checksum,
                    has_more,
                    encoding: self.rules.format,
                    compression: Compression::None,
                    uncompressed_bytes: raw_bytes - payload_at,
                };
                let core = &self.stream.core;
                if self.rules.compression != Compression::None && header.uncompressed_bytes >= COMPRESSED_BYTES_MIN {
                    let mut compressed = core.buffers.take();
                    envelope.open(&mut compressed);
                    let codec = self.rules.compression;
                    let payload = &buffer[payload_at..];
                    let is_smaller = core
                        .compressors
                        .with(|compressor| compressor.compress(codec, payload, &mut compressed));
                    if is_smaller {
                        header.compression = codec;
                        std::mem::swap(&mut buffer, &mut compressed);
                    }
                    core.buffers.put(compressed);
                }
                envelope.close(&header, &mut buffer);
                Framed {
                    message: buffer,
                    is_binary: true,
                    raw_bytes,
                }
            }
        }
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
        // A writer that fails stays full and fails again when the engine's call is over.
        if producer.finish(writer, now, true, Some(Urgency::Now)).is_ok() {
            // Where somebody waits for a worker, the engine comes back with its next row.
            let is_wanted = producer.stream.core.queue.is_wanted();
            producer.begin(writer, now, if is_wanted { 1 } else { u32::MAX });
        }
    }
}
