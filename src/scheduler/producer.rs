//! Makes batches of rows: what surrounds them, what they may hold, and their way into the stream's channel.
//!
//! Must not know cursors, turns or the run queue's order.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use super::event::{EncodedBatch, Framed, StreamEvent};
use super::live::Stream;
use super::outlet::{Note, NoteKind, Urgency};
use crate::clock;
use crate::protocol::{
    BatchEnvelope, BatchHeader, BinaryEnvelope, COMPRESSED_BYTES_MIN, Compression, DataFormat, RowsDigest,
    ServerMessage, checksum, encode_message,
};
use crate::rows::{
    ArrowMixed, BatchLimits, CellRules, FilledBatch, FlushSink, Int64Encoding, RowError, RowFormat, RowShape,
    RowWriter, Schema,
};
use crate::stream::{Item, QueryStreamStatus};
use crate::sync::Mutex;

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
    pub(crate) cells: CellRules,
    #[cfg_attr(not(feature = "arrow"), allow(dead_code))] // a message that asks for Arrow is refused
    pub(crate) arrow_mixed: ArrowMixed,
}

impl BatchRules {
    pub(super) fn shape(&self, columns: &Schema) -> RowShape {
        match self.format {
            DataFormat::Json if self.cells.are_default() => RowShape::json(columns, self.row_format, self.int64),
            DataFormat::Json => RowShape::checked_json(columns, self.row_format, self.int64, self.cells),
            #[cfg(feature = "arrow")]
            DataFormat::Arrow => RowShape::arrow(columns, self.arrow_mixed, self.cells),
            #[cfg(not(feature = "arrow"))]
            DataFormat::Arrow => unreachable!("a message that asks for Arrow is refused"),
        }
    }
}

/// Whether a batch is for the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
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
            _ => Self::Binary(BinaryEnvelope::new(id, request_id, rules.cells.cell_types)),
        }
    }
}

/// Makes batches and puts them into the channel: used between engine calls by the job and, for due batches, inside them.
pub(super) struct Producer {
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
    pub(super) fn new(stream: &Arc<Stream>, rules: BatchRules, channel: Sender<StreamEvent>) -> Self {
        Self {
            framing: Framing::new(stream, &rules),
            stream: Arc::clone(stream),
            rules,
            channel,
            next_batch: 0,
            row_offset: 0,
            row_bytes: 0,
            first_row: None,
            digest: rules.checksum.then(RowsDigest::default),
        }
    }

    pub(super) fn rules(&self) -> BatchRules {
        self.rules
    }

    pub(super) fn first_row(&self) -> Option<Duration> {
        self.first_row
    }

    /// The digest of all rows so far, where it was asked for.
    pub(super) fn digest(&self) -> Option<String> {
        self.digest.as_ref().map(RowsDigest::hex)
    }

    /// Gives a buffer back that no batch was made in.
    pub(super) fn put_back(&self, buffer: Vec<u8>) {
        self.stream.core.buffers.put(buffer);
    }

    /// Whether no batch has been made yet.
    pub(super) fn is_first_batch(&self) -> bool {
        self.next_batch == 0
    }

    pub(super) fn is_probe(&self) -> bool {
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

    pub(super) fn begin(&self, writer: &mut RowWriter, now: Instant, rows_max: u32) -> Limit {
        let mut buffer = self.stream.core.buffers.take();
        self.open_batch(&mut buffer);
        let is_probe = self.is_probe();
        let rows_left = self.rules.rows_max.map_or(u64::MAX, |rows_max| {
            rows_max.saturating_sub(self.row_offset + writer.rows_sampled())
        });
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

    /// Puts the batch into the channel, if it has rows; returns its bytes. Without `has_more` the engine has given all rows: what was
    /// held back leaves now, or as much of it as one batch takes.
    ///
    /// # Errors
    /// Of rows that cannot be written as what they are to be.
    pub(super) fn finish(
        &mut self,
        writer: &mut RowWriter,
        now: Instant,
        has_more: bool,
        urgency: Urgency,
    ) -> Result<usize, RowError> {
        let rows_read = self.row_offset + writer.rows_sampled() + u64::from(writer.rows());
        if !has_more || self.rules.rows_max.is_some_and(|rows_max| rows_read >= rows_max) {
            writer.close_sample();
        }
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
        let has_more = has_more || writer.holds_rows() && !writer.is_exhausted();
        let bytes = self.send_batch(batch, now, has_more);
        // The terminator follows a last batch at once and brings its own notice.
        if has_more {
            self.stream.notify(urgency, bytes);
        }
        Ok(bytes)
    }

    /// All rows are in batches. In Arrow, a result without any has types all the same.
    pub(super) fn finish_result(&mut self, writer: &mut RowWriter, now: Instant) {
        #[cfg(feature = "arrow")]
        if self.is_first_batch() && self.rules.format == DataFormat::Arrow {
            self.send_schema(writer, now);
        }
        #[cfg(not(feature = "arrow"))]
        let _json_has_none = (writer, now);
    }

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
            marks: self.rules.cells.cell_types.then(|| b"[]".to_vec()),
        };
        self.send_batch(batch, now, false);
    }

    fn send_batch(&mut self, batch: FilledBatch, now: Instant, has_more: bool) -> usize {
        let rows = batch.rows;
        self.row_bytes += (batch.row_bytes + batch.marks.as_ref().map_or(0, Vec::len)) as u64;
        let framed = self.frame(batch, has_more);
        self.next_batch += 1;
        self.row_offset += u64::from(rows);
        let bytes = framed.raw_bytes;
        self.stream.set_status(QueryStreamStatus::Streaming);
        self.stream.announce(rows, bytes, now);
        self.send(Item::Batch(EncodedBatch::new(&self.stream, rows, framed)));
        bytes
    }

    /// Makes a message of a buffer that ends with a batch's rows.
    fn frame(&mut self, batch: FilledBatch, has_more: bool) -> Framed {
        let FilledBatch {
            mut buffer,
            rows,
            row_bytes,
            marks,
        } = batch;
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
                let marks = marks.as_deref();
                BatchEnvelope::close(rows, self.row_offset, checksum, marks, has_more, &mut buffer);
                Framed {
                    raw_bytes: buffer.len(),
                    message: buffer,
                    is_binary: false,
                }
            }
            Framing::Binary(envelope) => {
                let payload_end = buffer.len();
                let mut header = BatchHeader {
                    batch_number: self.next_batch,
                    row_count: rows,
                    row_offset: self.row_offset,
                    checksum,
                    has_more,
                    encoding: self.rules.format,
                    compression: Compression::None,
                    uncompressed_bytes: payload_end - payload_at,
                    cell_types_bytes: marks.as_ref().map(Vec::len),
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
                let marks = marks.unwrap_or_default();
                buffer.extend_from_slice(&marks);
                Framed {
                    message: buffer,
                    is_binary: true,
                    raw_bytes: payload_end + marks.len(),
                }
            }
        }
    }

    pub(super) fn send_message(&self, kind: NoteKind, message: &ServerMessage) {
        let mut encoded = Vec::with_capacity(256);
        encode_message(message, &mut encoded);
        let bytes = encoded.len();
        let message = encoded;
        self.send(Item::Message(Note { kind, message }));
        self.stream.notify(Urgency::Soon, bytes);
    }

    /// There is always room: batches are made only where `has_room` said so, and the channel holds all other events besides.
    /// Where nobody reads any more, the stream is on its way out.
    pub(super) fn send(&self, event: StreamEvent) {
        if let Err(error) = self.channel.try_send(event) {
            debug_assert!(error.is_disconnected(), "the channel holds every event it may get");
        }
    }
}

/// Lets a due batch leave in the middle of an engine call.
pub(super) struct DueBatches(Arc<Mutex<Producer>>);

impl DueBatches {
    pub(super) fn new(producer: &Arc<Mutex<Producer>>) -> Self {
        Self(Arc::clone(producer))
    }
}

impl FlushSink for DueBatches {
    fn flush(&mut self, writer: &mut RowWriter, now: Instant) {
        let mut producer = self.0.lock();
        if producer.is_probe() || !producer.stream.has_room() {
            return;
        }
        // A writer that fails stays full and fails again when the engine's call is over.
        if producer.finish(writer, now, true, Urgency::Now).is_ok() {
            // Where somebody waits for a worker, the engine comes back with its next row.
            let is_wanted = producer.stream.core.queue.is_wanted();
            producer.begin(writer, now, if is_wanted { 1 } else { u32::MAX });
        }
    }
}
