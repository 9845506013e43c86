//! What is asked of an engine beside the running of a query: what would a query give?

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::engine::{CancelToken, Description, Engine, EngineError};
use crate::error::ErrorCode;
use crate::id::RequestId;
use crate::protocol::{DescriptionMessage, ErrorMessage, ParameterMessage, ServerMessage};

/// Takes the answer to where it was asked. Must not block.
pub(crate) type Answer = Box<dyn FnOnce(&ServerMessage) + Send>;

/// A `describe_query` that waits for a worker.
pub(super) struct Question {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) sql: String,
    pub(super) request_id: Option<RequestId>,
    pub(super) answer: Answer,
}

impl fmt::Debug for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Question")
            .field("request_id", &self.request_id)
            .finish_non_exhaustive()
    }
}

impl Question {
    /// Asks the engine and says what it said. Blocks for as long as the engine does.
    pub(super) fn answer(self) {
        let Self {
            engine,
            sql,
            request_id,
            answer,
        } = self;
        let cancel = CancelToken::new();
        let message = match catch_unwind(AssertUnwindSafe(|| engine.describe(&sql, &cancel))) {
            Ok(Ok(description)) => description_message(description, request_id),
            Ok(Err(error)) => ServerMessage::Error(ErrorMessage {
                request_id,
                ..error_message(error)
            }),
            Err(_) => {
                log::error!("the engine panicked while it described a query");
                ServerMessage::Error(ErrorMessage {
                    request_id,
                    ..ErrorMessage::new(ErrorCode::Internal, "the engine failed unexpectedly")
                })
            }
        };
        answer(&message);
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
