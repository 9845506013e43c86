//! One stream's work on a worker: open the cursor, let it fill one batch a turn, put the batch into the channel.
//!
//! Must not know the run queue, connections or sockets.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use super::event::{Completion, StreamEnd, StreamEvent, Timings};
use super::live::Stream;
use super::outlet::{NoteKind, Urgency};
use super::producer::{BatchRules, DueBatches, Limit, Producer};
use super::question::error_message;
use super::relief::Need;
use super::seats::Seat;
use crate::clock;
use crate::engine::{CancelReason, Cursor, EngineError, EngineErrorKind, Step};
use crate::error::ErrorCode;
use crate::id::ResumeToken;
use crate::metrics::Blocked;
use crate::protocol::{
    ColumnsMessage, Compression, ErrorMessage, RetentionMessage, ServerMessage, StartedMessage, TotalKind,
    TruncateReason,
};
use crate::rows::{RowError, RowWriter, Schema};
use crate::stream::{Item, QueryStreamStatus};
use crate::sync::Mutex;

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

/// A stream's work. Owned by one thread at a time.
pub(super) struct Job {
    /// Among the streams that run, until its engine side has ended.
    seat: Option<Seat>,
    cursor: Option<Box<dyn Cursor>>,
    writer: Option<RowWriter>,
    /// How the engine has ended while rows were still held back. It is asked for no more.
    engine_end: Option<Result<(), EngineError>>,
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
            engine_end: None,
            producer: Arc::new(Mutex::new(Producer::new(stream, rules, channel))),
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
        let now = clock::now();
        let Some(stop) = stream.stopped() else {
            // An engine has set the token that it was given.
            return StreamEnd::Cancelled {
                reason: stream.cancel.reason().unwrap_or(CancelReason::Admin),
                latency: Duration::ZERO,
                limit: None,
            };
        };
        let refused = match stop.reason {
            CancelReason::Timeout => {
                let limit = stop.limit.as_ref().map_or("", |limit| limit.message.as_str());
                Some((ErrorCode::QueryTimeout, format!("the query has not started: {limit}")))
            }
            CancelReason::Shutdown => {
                let message = "the server went away before the query was started";
                Some((ErrorCode::ShuttingDown, message.to_owned()))
            }
            CancelReason::Client
            | CancelReason::Disconnect
            | CancelReason::Admin
            | CancelReason::Expired
            | CancelReason::SlowClient => None,
        };
        match refused {
            Some((code, message)) if !self.started => StreamEnd::Failed(Box::new(ErrorMessage::new(code, message))),
            _ => StreamEnd::cancelled(stop, now),
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
        let rules = self.producer.lock().rules();
        let columns = cursor.columns().map(|columns| columns.clone().with_int64(rules.int64));
        self.cursor = Some(cursor);
        stream.opened(clock::now());
        if stream.cancel.is_cancelled() {
            return Err(self.cancelled(stream));
        }
        let shape = rules.shape(columns.as_ref().unwrap_or(&Schema::default()));
        let mut writer = RowWriter::new(shape);
        writer.set_sink(Some(Box::new(DueBatches::new(&self.producer))));
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
        if let Err(error) = writer.write_held_rows() {
            return TurnEnd::End(self.failed(stream, error.into()));
        }
        let filled = match self.engine_end.take() {
            Some(end) => end.map(|()| Step::Done),
            None if writer.is_full() => Ok(Step::More),
            None => cursor.fill(writer),
        };
        let now = clock::now();
        self.engine_time += now.saturating_duration_since(begun_at);
        let step = match filled {
            Ok(step) => step,
            Err(error) => return self.engine_failed(stream, now, error),
        };
        // Rows that are held back are not on their way to the client yet.
        if let Some(work_done) = cursor.progress().work_done
            && !writer.keeps_rows_back()
        {
            stream.set_work_done(work_done);
        }
        if step == Step::Done {
            return self.complete(stream, now, limit);
        }
        if stream.cancel.is_cancelled() {
            self.discard();
            return TurnEnd::End(self.cancelled(stream));
        }
        if step == Step::Columns {
            return self.columns_known(stream);
        }
        if writer.is_exhausted() {
            return self.complete(stream, now, limit);
        }
        if limit == Limit::Probe {
            if writer.rows() > 0 {
                return self.complete(stream, now, limit);
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

    /// The engine has given all that the client is to get. Rows that were held back leave first, a batch a turn.
    fn complete(&mut self, stream: &Arc<Stream>, now: Instant, limit: Limit) -> TurnEnd {
        let mut truncated = None;
        if limit == Limit::Probe {
            let is_cut = self.writer.as_ref().is_some_and(|writer| writer.rows() > 0);
            truncated = is_cut.then_some(TruncateReason::MaxRows);
            self.discard();
        } else {
            let bytes = match self.finish_batch(now, false) {
                Ok(bytes) => bytes,
                Err(error) => return TurnEnd::End(self.failed(stream, error.into())),
            };
            if self.writer.as_ref().is_some_and(RowWriter::is_exhausted) {
                truncated = Some(TruncateReason::MaxBytes);
            } else if self.holds_rows() {
                self.engine_end = Some(Ok(()));
                return TurnEnd::Again(bytes);
            }
        }
        let timings = Timings {
            execution: now.saturating_duration_since(stream.accepted_at),
            first_row: self.producer.lock().first_row(),
            engine: self.engine_time,
            stall: self.stall_time,
        };
        let digest = self.producer.lock().digest();
        TurnEnd::End(StreamEnd::Completed(Box::new(Completion {
            timings,
            truncated,
            digest,
        })))
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
        let urgency = if producer.is_first_batch() {
            Urgency::Now
        } else {
            Urgency::Soon
        };
        let bytes = producer.finish(writer, now, has_more, urgency)?;
        if !has_more {
            producer.finish_result(writer, now);
        }
        Ok(bytes)
    }

    /// Rows that were ended before an engine failed are part of the result, and leave first, a batch a turn; after a cancel nobody wants
    /// them.
    fn engine_failed(&mut self, stream: &Arc<Stream>, now: Instant, error: EngineError) -> TurnEnd {
        if stream.cancel.is_cancelled() || self.producer.lock().is_probe() {
            self.discard();
        } else {
            if let Some(writer) = self.writer.as_mut() {
                writer.close_sample();
            }
            // What the engine failed with is told, not this.
            let bytes = self.finish_batch(now, true).unwrap_or(0);
            if self.writer.as_ref().is_some_and(RowWriter::is_exhausted) {
                // The result ends before the row that failed.
                return self.complete(stream, now, Limit::Send);
            }
            if self.holds_rows() {
                self.engine_end = Some(Err(error));
                return TurnEnd::Again(bytes);
            }
        }
        TurnEnd::End(self.failed(stream, error))
    }

    fn holds_rows(&self) -> bool {
        self.writer.as_ref().is_some_and(RowWriter::holds_rows)
    }

    fn discard(&mut self) {
        if let Some(writer) = self.writer.as_mut() {
            let buffer = writer.discard_batch();
            self.producer.lock().put_back(buffer);
        }
    }

    fn columns_known(&mut self, stream: &Arc<Stream>) -> TurnEnd {
        self.discard();
        let Some(columns) = self.cursor.as_ref().and_then(|cursor| cursor.columns().cloned()) else {
            let error = EngineError::new(EngineErrorKind::Internal, "the engine announced columns and has none");
            return TurnEnd::End(self.failed(stream, error));
        };
        let rules = self.producer.lock().rules();
        if let Some(writer) = self.writer.as_mut() {
            let mut renewed = RowWriter::new(rules.shape(&columns));
            renewed.set_sink(Some(Box::new(DueBatches::new(&self.producer))));
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
