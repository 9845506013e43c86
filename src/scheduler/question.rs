//! What is asked of an engine beside the running of a query: what would a query give?
//!
//! A question waits for a worker as a stream does, has a seat among those that run until its engine has returned, and is cancelled as
//! a stream is: by its deadline, by the end of its connection, by that of the server. It has exactly one answer, unless its
//! connection is gone.

use std::collections::HashMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::seats::Seat;
use super::timekeeper::{Alarm, AlarmGuard, Timekeeper};
use crate::engine::{CancelReason, CancelToken, Description, Engine, EngineError, EngineErrorKind};
use crate::error::ErrorCode;
use crate::id::{ConnectionId, RequestId};
use crate::protocol::{DescriptionMessage, ErrorMessage, ParameterMessage, ServerMessage};
use crate::sync::Mutex;

/// Longest time for one question, waiting included, where queries may take longer. Nothing is executed for it, and it stands before
/// every second turn of a worker: whoever waits behind it waits for its engine.
pub(super) const QUESTION_DURATION_MAX: Duration = Duration::from_secs(30);

/// Takes the answer to where it was asked. Must not block.
pub(crate) type Answer = Box<dyn FnOnce(&ServerMessage) + Send>;

/// A `describe_query`, as everybody but its worker sees it.
pub(super) struct Question {
    number: u64,
    connection: ConnectionId,
    cancel: CancelToken,
    /// Until somebody takes it to answer it: a worker, or whoever cancels it before.
    asked: Mutex<Option<Asked>>,
    /// For its deadline.
    alarm: Mutex<Option<AlarmGuard>>,
    all: Weak<Questions>,
}

/// What it takes to answer a question.
pub(super) struct Asked {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) sql: String,
    pub(super) request_id: Option<RequestId>,
    pub(super) answer: Answer,
    /// Among the streams that run.
    pub(super) seat: Seat,
}

/// The questions of a server that wait or are being asked, to be cancelled.
#[derive(Debug, Default)]
pub(super) struct Questions {
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    n_ever: u64,
    /// Those that a worker or the run queue has: both bound them.
    questions: HashMap<u64, Weak<Question>>,
}

impl fmt::Debug for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Question")
            .field("number", &self.number)
            .field("connection", &self.connection)
            .finish_non_exhaustive()
    }
}

impl Questions {
    /// A question of that connection's, to be found until it is dropped.
    pub(super) fn open(self: &Arc<Self>, connection: ConnectionId, asked: Asked) -> Arc<Question> {
        let mut open = self.open.lock();
        open.n_ever += 1;
        let question = Arc::new(Question {
            number: open.n_ever,
            connection,
            cancel: CancelToken::new(),
            asked: Mutex::new(Some(asked)),
            alarm: Mutex::new(None),
            all: Arc::downgrade(self),
        });
        open.questions.insert(question.number, Arc::downgrade(&question));
        question
    }

    /// Cancels those of a connection.
    pub(super) fn cancel_of(&self, connection: ConnectionId, reason: CancelReason) {
        for question in self.all() {
            if question.connection == connection {
                question.cancel(reason);
            }
        }
    }

    /// Cancels every one.
    pub(super) fn cancel_all(&self, reason: CancelReason) {
        for question in self.all() {
            question.cancel(reason);
        }
    }

    fn all(&self) -> Vec<Arc<Question>> {
        let open = self.open.lock();
        open.questions.values().filter_map(Weak::upgrade).collect()
    }
}

impl Question {
    /// Has the question cancelled at `deadline`.
    pub(super) fn arm(self: &Arc<Self>, timekeeper: &Timekeeper, deadline: Instant) {
        let alarm = QuestionAlarm(Arc::downgrade(self));
        let guard = timekeeper.set(deadline, Arc::new(alarm));
        *self.alarm.lock() = Some(guard);
    }

    /// Asks the engine and says what it said; does nothing where somebody has answered. Blocks for as long as the engine does.
    pub(super) fn answer(&self) {
        let Some(asked) = self.take_asked() else {
            return;
        };
        let described = if self.cancel.is_cancelled() {
            Ok(Err(EngineError::cancelled()))
        } else {
            catch_unwind(AssertUnwindSafe(|| asked.engine.describe(&asked.sql, &self.cancel)))
        };
        match described {
            Ok(Ok(description)) => {
                let message = description_message(description, asked.request_id.clone());
                asked.say(&message);
            }
            Ok(Err(error)) if error.kind == EngineErrorKind::Cancelled && self.cancel.is_cancelled() => {
                asked.end(self.cancel.reason());
            }
            Ok(Err(error)) => asked.refuse(error_message(error)),
            Err(_) => {
                log::error!("the engine panicked while it described a query");
                asked.refuse(ErrorMessage::new(ErrorCode::Internal, "the engine failed unexpectedly"));
            }
        }
    }

    /// Nobody is to ask it: `error` is the answer, unless there has been one.
    pub(super) fn refuse(&self, error: ErrorMessage) {
        if let Some(asked) = self.take_asked() {
            asked.refuse(error);
        }
    }

    /// Stops the question: the engine's call is told to end, and one that waits is answered at once. Idempotent; the first reason
    /// stays. Blocks only for the engine's cancel hook.
    pub(super) fn cancel(&self, reason: CancelReason) {
        self.cancel.cancel(reason);
        if let Some(asked) = self.take_asked() {
            asked.end(self.cancel.reason());
        }
    }

    fn take_asked(&self) -> Option<Asked> {
        self.asked.lock().take()
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        if let Some(all) = self.all.upgrade() {
            all.open.lock().questions.remove(&self.number);
        }
    }
}

impl Asked {
    /// The engine has stopped, or was never asked, after a cancel.
    fn end(self, reason: Option<CancelReason>) {
        match reason {
            // Nobody is there to be told.
            Some(CancelReason::Disconnect) => {}
            Some(CancelReason::Timeout) => self.refuse(ErrorMessage::new(
                ErrorCode::QueryTimeout,
                "the time allowed passed before the query was described",
            )),
            Some(CancelReason::Shutdown) => self.refuse(ErrorMessage::new(
                ErrorCode::ShuttingDown,
                "the server went away before the query was described",
            )),
            Some(CancelReason::Client | CancelReason::Admin | CancelReason::Expired | CancelReason::SlowClient)
            | None => self.refuse(error_message(EngineError::cancelled())),
        }
    }

    pub(super) fn refuse(self, error: ErrorMessage) {
        let request_id = self.request_id.clone();
        self.say(&ServerMessage::Error(ErrorMessage { request_id, ..error }));
    }

    fn say(self, message: &ServerMessage) {
        let Self { answer, seat, .. } = self;
        // Before the client hears of it: it may ask the next one then.
        drop(seat);
        answer(message);
    }
}

/// Rings for a question's deadline.
struct QuestionAlarm(Weak<Question>);

impl Alarm for QuestionAlarm {
    fn ring(&self, _now: Instant) -> Option<Instant> {
        self.0.upgrade()?.cancel(CancelReason::Timeout);
        None
    }
}

fn description_message(description: Description, request_id: Option<RequestId>) -> ServerMessage {
    let Description {
        columns,
        parameters,
        read_only,
        estimated_rows,
    } = description;
    ServerMessage::QueryDescription(Box::new(DescriptionMessage {
        request_id,
        columns,
        parameters: parameters.into_iter().map(|name| ParameterMessage { name }).collect(),
        read_only,
        estimated_rows,
    }))
}

/// What a client is told of an engine's refusal.
pub(super) fn error_message(error: EngineError) -> ErrorMessage {
    let code = error.code();
    ErrorMessage {
        engine_code: error.engine_code,
        sqlstate: error.sqlstate,
        position: error.position,
        hint: error.hint,
        ..ErrorMessage::new(code, error.message)
    }
}
