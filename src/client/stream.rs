//! One query's result as it comes in: batches, progress, and how it ended.
//!
//! Must not know how messages reach it.

use std::collections::VecDeque;
use std::iter::FusedIterator;
use std::sync::{Arc, Weak};

use crossbeam_channel::never;

use super::link::{Heard, Inbox, Link};
use super::{Batch, ClientError};
use crate::error::CancelReason;
use crate::protocol::{
    CancelledMessage, CellType, CompletedMessage, ProgressMessage, QueuedMessage, RowsDigest, ServerMessage,
    StartedMessage, WindowRequest,
};
use crate::rows::{RowFormat, Schema};

/// What happens to a query, in order.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// All workers of the server are busy; the query waits for its turn.
    Queued(QueuedMessage),
    /// The query is about to run; [`QueryStream::started`] has the details from now on.
    Started,
    /// The columns are known; [`QueryStream::columns`] has them from now on.
    Columns,
    /// Rows.
    Batch(Batch),
    /// Rows in columns, where the query asked for [Arrow](super::QueryBuilder::arrow).
    ArrowBatch(ArrowBatch),
    /// How far the query is. Where the program takes events more slowly than they come, only the newest.
    Progress(ProgressMessage),
    /// The connection is lost; a new one is being made, on which the query goes on.
    Reconnecting,
    /// The query goes on over a new connection.
    Resumed,
}

/// A piece of an Arrow IPC stream: all pieces of a result, one behind the other, are such a stream. The first begins with the schema.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ArrowBatch {
    /// 0-based position of the batch in its result.
    pub number: u64,
    /// 0-based position of the batch's first row in the result.
    pub row_offset: u64,
    /// How many rows the batch has.
    pub rows: u64,
    /// The piece.
    pub payload: Vec<u8>,
    /// The cells that are not what their field's type says, such as a number in a field that is text; empty unless the query asked for
    /// [`cell_types`](super::QueryBuilder::cell_types).
    pub cell_types: Vec<CellType>,
}

/// How a query ended.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Outcome {
    /// All rows have come, or as many as [`max_rows`](super::QueryBuilder::max_rows) and
    /// [`max_bytes`](super::QueryBuilder::max_bytes) allow.
    Completed(CompletedMessage),
    /// The query was stopped; what has come is the beginning of the result.
    Cancelled(CancelledMessage),
}

/// A running query. Iterating gives its batches; [`next_event`](Self::next_event) gives everything.
///
/// What the program has taken is acknowledged to the server as it takes more: a query that nobody reads from stands still once its
/// [window](super::QueryBuilder::window) is full. Dropping it before its end cancels it; what still comes is thrown away.
#[derive(Debug)]
pub struct QueryStream {
    link: Arc<Link>,
    id: i64,
    inbox: Inbox,
    /// Rows that the last progress given out spoke of: older ones are passed over.
    rows_reported: u64,
    /// Taken before the program asked for events.
    early: VecDeque<Event>,
    started: Option<Box<StartedMessage>>,
    columns: Option<Arc<Schema>>,
    row_format: RowFormat,
    n_batches: u64,
    n_rows: u64,
    consumption: Consumption,
    digest: Option<RowsDigest>,
    state: State,
}

/// What surrounds the rows of a batch message, at the most: the server counts whole messages, and to count too few would leave
/// its window shut.
const ENVELOPE_BYTES_MAX: u64 = 512;

/// A mark with its comma, at the most.
const MARK_BYTES_MAX: u64 = 34;

/// What the marks of a batch take of its message, at the most.
fn marks_bytes(marks: Option<&[CellType]>) -> u64 {
    marks.map_or(0, |marks| marks.len() as u64 * MARK_BYTES_MAX)
}

/// Bytes that the program may have taken before the server is told, where half of the window is more. The server tells the time left by
/// what it has been told, and a slow program takes long for half of a large window.
const UNTOLD_BYTES_MAX: u64 = 256 * 1024;

/// What the program has taken and the server does not know of yet.
#[derive(Debug)]
pub(super) struct Consumption {
    window: WindowRequest,
    n_batches: u64,
    bytes: u64,
    /// Bytes of the batch given out last: it counts as processed once the program asks for more.
    in_hand: Option<u64>,
}

impl Consumption {
    pub(super) fn new(window: WindowRequest) -> Self {
        Self {
            window,
            n_batches: 0,
            bytes: 0,
            in_hand: None,
        }
    }

    /// The program asks for more, and so is done with what it had. True once that much is to be acknowledged.
    fn on_asked(&mut self) -> bool {
        if let Some(bytes) = self.in_hand.take() {
            self.n_batches += 1;
            self.bytes += bytes;
        }
        let half_batches = u64::from(self.window.batches.unwrap_or(1)).div_ceil(2);
        let bytes_max = self.window.bytes.unwrap_or(1).div_ceil(2).min(UNTOLD_BYTES_MAX);
        let is_due = self.n_batches > 0 && (self.n_batches >= half_batches || self.bytes >= bytes_max);
        if is_due {
            (self.n_batches, self.bytes) = (0, 0);
        }
        is_due
    }
}

#[derive(Debug)]
enum State {
    Live,
    Ended(Outcome),
    /// The error has been given out.
    Failed,
}

impl QueryStream {
    pub(super) fn new(link: Arc<Link>, id: i64, inbox: Inbox, consumption: Consumption, has_checksums: bool) -> Self {
        Self {
            link,
            id,
            inbox,
            rows_reported: 0,
            early: VecDeque::new(),
            started: None,
            columns: None,
            row_format: RowFormat::default(),
            n_batches: 0,
            n_rows: 0,
            consumption,
            digest: has_checksums.then(RowsDigest::default),
            state: State::Live,
        }
    }

    /// Blocks until the query has started; what happens before is kept for [`next_event`](Self::next_event).
    pub(super) fn wait_until_started(&mut self) -> Result<(), ClientError> {
        while self.started.is_none() {
            match self.receive()? {
                Some(event) => self.early.push_back(event),
                None => {
                    return Err(self
                        .cut_short()
                        .unwrap_or_else(|| violation("a query ended before it started")));
                }
            }
        }
        Ok(())
    }

    /// What happens next; `None` after the query's end, when [`outcome`](Self::outcome) says how that was.
    ///
    /// Blocks until the server says something; ends with the connection, at the latest.
    ///
    /// # Errors
    /// [`ClientError::Query`] where the query fails, and everything that ends a connection. After an error comes `None`.
    pub fn next_event(&mut self) -> Result<Option<Event>, ClientError> {
        match self.early.pop_front() {
            Some(event) => Ok(Some(event)),
            None => self.receive(),
        }
    }

    /// Whether [`next_event`](Self::next_event) would give something without waiting. Never blocks.
    #[must_use]
    pub fn has_event(&self) -> bool {
        !self.early.is_empty() || !self.inbox.messages.is_empty()
    }

    /// Stops the query from anywhere, for instance from a signal handler's thread.
    #[must_use]
    pub fn canceller(&self) -> Canceller {
        Canceller {
            link: Arc::downgrade(&self.link),
            id: self.id,
        }
    }

    /// What the server said when the query started; `None` before.
    #[must_use]
    pub fn started(&self) -> Option<&StartedMessage> {
        self.started.as_deref()
    }

    /// The result's columns; `None` while they are not known. They are known before the first batch, and with most engines
    /// when the query starts.
    #[must_use]
    pub fn columns(&self) -> Option<&Schema> {
        self.columns.as_deref()
    }

    /// How the query ended; `None` while it has not, and where it failed.
    #[must_use]
    pub fn outcome(&self) -> Option<&Outcome> {
        match &self.state {
            State::Ended(outcome) => Some(outcome),
            State::Live | State::Failed => None,
        }
    }

    fn receive(&mut self) -> Result<Option<Event>, ClientError> {
        if !matches!(self.state, State::Live) {
            return Ok(None);
        }
        if self.consumption.on_asked() {
            self.ack(false);
        }
        let taken = loop {
            let late = self.inbox.late_progress.lock().take();
            let heard = match late {
                Some(progress) => Ok(Heard::Message(ServerMessage::QueryProgress(progress))),
                None => self.inbox.messages.recv().map_err(|_| self.end()),
            };
            match heard {
                Ok(Heard::Message(ServerMessage::QueryProgress(progress)))
                    if progress.rows_processed < self.rows_reported => {}
                Ok(Heard::Message(message)) => break self.take(message),
                Ok(Heard::Reconnecting) => break Ok(Some(Event::Reconnecting)),
                // Only now that the program takes rows again.
                Ok(Heard::Detached) => self.link.resume(self.id),
                Err(error) => break Err(error),
            }
        };
        if taken.is_err() {
            self.state = State::Failed;
            // A result with holes is of no use: nothing more is wanted of it.
            self.let_go();
        }
        taken
    }

    /// Why there are no more messages.
    fn end(&self) -> ClientError {
        self.inbox.end.lock().clone().unwrap_or_else(|| self.link.end())
    }

    /// Tells the server what the program has taken.
    fn ack(&self, is_end: bool) {
        if let Some(started) = &self.started {
            self.link.ack(started.stream_id, self.n_batches.checked_sub(1), is_end);
        }
    }

    /// The terminator has come: the server need hold nothing more.
    fn ack_end(&self) {
        let is_held = self
            .started
            .as_ref()
            .is_some_and(|started| started.resume_token.is_some());
        if is_held {
            self.ack(true);
        }
    }

    /// `None` for the terminator.
    fn take(&mut self, message: ServerMessage) -> Result<Option<Event>, ClientError> {
        match message {
            ServerMessage::QueryQueued(queued) => Ok(Some(Event::Queued(queued))),
            ServerMessage::QueryStarted(started) => {
                self.row_format = started.row_format;
                self.columns = started.columns.clone().map(Arc::new);
                self.started = Some(started);
                Ok(Some(Event::Started))
            }
            ServerMessage::QueryColumns(columns) => {
                self.columns = Some(Arc::new(columns.columns));
                Ok(Some(Event::Columns))
            }
            ServerMessage::QueryBatch(message) => {
                self.check_order(message.batch_number, message.row_offset)?;
                let columns = self
                    .columns
                    .as_ref()
                    .ok_or_else(|| violation("rows came before the columns"))?;
                if let Some(digest) = &mut self.digest {
                    digest.add_rows(message.rows.get().as_bytes());
                }
                let marks = marks_bytes(message.cell_types.as_deref());
                self.consumption.in_hand = Some(message.rows.get().len() as u64 + marks + ENVELOPE_BYTES_MAX);
                let batch = Batch::new(message, columns, self.row_format).map_err(ClientError::Protocol)?;
                self.n_batches += 1;
                self.n_rows += batch.len() as u64;
                Ok(Some(Event::Batch(batch)))
            }
            ServerMessage::ArrowBatch(message) => {
                self.check_order(message.batch_number, message.row_offset)?;
                if let Some(digest) = &mut self.digest {
                    digest.add_bytes(&message.payload);
                }
                let marks = marks_bytes(message.cell_types.as_deref());
                self.consumption.in_hand = Some(message.payload.len() as u64 + marks + ENVELOPE_BYTES_MAX);
                self.n_batches += 1;
                self.n_rows += message.row_count;
                Ok(Some(Event::ArrowBatch(ArrowBatch {
                    number: message.batch_number,
                    row_offset: message.row_offset,
                    rows: message.row_count,
                    payload: message.payload,
                    cell_types: message.cell_types.unwrap_or_default(),
                })))
            }
            ServerMessage::QueryProgress(progress) => {
                self.rows_reported = progress.rows_processed;
                Ok(Some(Event::Progress(progress)))
            }
            ServerMessage::QueryCompleted(completed) => {
                if (completed.total_rows, completed.batches) != (self.n_rows, self.n_batches) {
                    return Err(violation(format!(
                        "the result has {} rows in {} batches, and {} in {} came",
                        completed.total_rows, completed.batches, self.n_rows, self.n_batches
                    )));
                }
                if let Some(digest) = &self.digest
                    && completed.digest.as_deref() != Some(digest.hex().as_str())
                {
                    return Err(violation(
                        "the rows are not those that the server sent: their digests differ",
                    ));
                }
                self.ack_end();
                self.state = State::Ended(Outcome::Completed(completed));
                Ok(None)
            }
            ServerMessage::QueryCancelled(cancelled) => {
                self.ack_end();
                self.state = State::Ended(Outcome::Cancelled(cancelled));
                Ok(None)
            }
            ServerMessage::QueryResumed(_) => Ok(Some(Event::Resumed)),
            ServerMessage::Error(error) => {
                self.ack_end();
                Err(ClientError::Query(Box::new(error)))
            }
            ServerMessage::Goaway(_)
            | ServerMessage::Pong(_)
            | ServerMessage::QueryPaused(_)
            | ServerMessage::QueryUnpaused(_)
            | ServerMessage::QueryStatus(_)
            | ServerMessage::QueryList(_)
            | ServerMessage::QueryDescription(_)
            | ServerMessage::Welcome(_) => Err(violation("a message that is of no query")),
        }
    }

    fn check_order(&self, batch_number: u64, row_offset: u64) -> Result<(), ClientError> {
        if (batch_number, row_offset) == (self.n_batches, self.n_rows) {
            return Ok(());
        }
        Err(violation(format!(
            "batch_number {batch_number} with row_offset {row_offset}, expected {} with {}",
            self.n_batches, self.n_rows
        )))
    }

    /// The error of a result that somebody else cut short; `None` where it is whole, or was cancelled by this client.
    pub(super) fn cut_short(&self) -> Option<ClientError> {
        match self.outcome() {
            Some(Outcome::Cancelled(cancelled)) if cancelled.reason != CancelReason::Client => {
                Some(ClientError::Cancelled(Box::new(cancelled.clone())))
            }
            Some(Outcome::Cancelled(_) | Outcome::Completed(_)) | None => None,
        }
    }

    /// Wants no more messages, and cancels the query if it has not ended.
    fn let_go(&mut self) {
        // The receiver first: the reader may be waiting for room in the channel, and the cancel's answer is behind that.
        self.inbox.messages = never();
        self.link.cancel(self.id);
    }
}

/// The batches, in order. [`next_event`](QueryStream::next_event) passes over nothing; this passes over everything else.
///
/// A result that was cut short by somebody else than this client ends with [`ClientError::Cancelled`]: no loop over batches
/// takes it for the whole.
impl Iterator for QueryStream {
    type Item = Result<Batch, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        let was_live = matches!(self.state, State::Live);
        loop {
            match self.next_event() {
                Ok(Some(Event::Batch(batch))) => return Some(Ok(batch)),
                Ok(Some(Event::ArrowBatch(_))) => {
                    self.state = State::Failed;
                    self.let_go();
                    let text = "the query asked for Arrow: its batches come by next_event";
                    return Some(Err(ClientError::Usage(text.to_owned())));
                }
                Ok(Some(
                    Event::Queued(_)
                    | Event::Started
                    | Event::Columns
                    | Event::Progress(_)
                    | Event::Reconnecting
                    | Event::Resumed,
                )) => {}
                Ok(None) if was_live => return self.cut_short().map(Err),
                Ok(None) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

impl FusedIterator for QueryStream {}

impl Drop for QueryStream {
    fn drop(&mut self) {
        if matches!(self.state, State::Live) {
            self.let_go();
        }
    }
}

/// Stops one query. Clones stop the same one; it may be used from any thread and at any time.
#[derive(Debug, Clone)]
pub struct Canceller {
    link: Weak<Link>,
    id: i64,
}

impl Canceller {
    /// Asks the server to stop the query, and returns: that it has stopped is the query's [`outcome`](QueryStream::outcome).
    /// Rows already on their way still come. Does nothing when the query or the connection is over.
    ///
    /// Blocks only while the connection takes no bytes.
    pub fn cancel(&self) {
        if let Some(link) = self.link.upgrade() {
            link.cancel(self.id);
        }
    }
}

fn violation(text: impl Into<String>) -> ClientError {
    ClientError::Protocol(text.into())
}
