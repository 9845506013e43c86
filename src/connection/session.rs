//! The protocol state of one connection: a message in, an action out.
//!
//! Pure: must not know threads, sockets, engines or the clock.

use std::collections::HashMap;

use crate::error::ErrorCode;
use crate::id::{RequestId, StreamId};
use crate::protocol::{
    CancelQuery, ClientMessage, CloseCode, ErrorMessage, PongMessage, ServerMessage, StreamQuery, StreamRef,
    decode_client_message,
};

/// Smallest `progress_interval_ms` apart from 0.
const PROGRESS_INTERVAL_MS_MIN: u64 = 50;

/// After so many messages in a row that are none, the connection is closed with 4400.
const BAD_MESSAGES_MAX: u32 = 16;

/// What one connection may ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SessionLimits {
    /// Live streams at once.
    pub(crate) streams_max: usize,
    /// Bytes of one query's text.
    pub(crate) query_bytes_max: usize,
    /// Rows of one batch.
    pub(crate) batch_size_max: u32,
    /// Bytes of one batch.
    pub(crate) batch_bytes_max: u64,
}

/// What is to be done about a message.
#[derive(Debug)]
pub(crate) enum Action {
    /// Start this query.
    Start(Box<StreamQuery>),
    /// Stop this stream.
    Cancel(StreamId),
    /// Say this.
    Reply(ServerMessage),
    /// Say this, then close the connection.
    Close(ServerMessage, CloseCode),
}

/// The streams of one connection, by both their names, and its conduct so far.
#[derive(Debug)]
pub(crate) struct Session {
    limits: SessionLimits,
    /// Streams whose terminator has not been written yet.
    live: HashMap<StreamId, Option<RequestId>>,
    by_request: HashMap<RequestId, StreamId>,
    n_bad_in_a_row: u32,
}

impl Session {
    pub(crate) fn new(limits: SessionLimits) -> Self {
        Self {
            limits,
            live: HashMap::new(),
            by_request: HashMap::new(),
            n_bad_in_a_row: 0,
        }
    }

    /// What to do about a text message.
    pub(crate) fn on_text(&mut self, text: &str) -> Action {
        match decode_client_message(text) {
            Ok(message) => {
                self.n_bad_in_a_row = 0;
                self.on_message(message)
            }
            Err(error) => {
                let reply = ErrorMessage {
                    request_id: error.request_id,
                    ..ErrorMessage::new(error.code, error.message)
                };
                if error.code == ErrorCode::BadMessage {
                    self.bad(reply)
                } else {
                    Action::Reply(ServerMessage::Error(reply))
                }
            }
        }
    }

    /// What to do about a binary message: the protocol has none from clients.
    pub(crate) fn on_binary(&mut self) -> Action {
        self.bad(ErrorMessage::new(
            ErrorCode::BadMessage,
            "a message is JSON text, not binary",
        ))
    }

    /// A query of this connection was accepted.
    pub(crate) fn on_accepted(&mut self, stream_id: StreamId, request_id: Option<RequestId>) {
        if let Some(request_id) = &request_id {
            self.by_request.insert(request_id.clone(), stream_id);
        }
        self.live.insert(stream_id, request_id);
    }

    /// A stream's terminator is on its way.
    pub(crate) fn on_ended(&mut self, stream_id: StreamId) {
        if let Some(Some(request_id)) = self.live.remove(&stream_id) {
            self.by_request.remove(&request_id);
        }
    }

    /// The streams whose terminator has not been written.
    pub(crate) fn live(&self) -> Vec<StreamId> {
        self.live.keys().copied().collect()
    }

    fn bad(&mut self, reply: ErrorMessage) -> Action {
        self.n_bad_in_a_row += 1;
        let reply = ServerMessage::Error(reply);
        if self.n_bad_in_a_row >= BAD_MESSAGES_MAX {
            Action::Close(reply, CloseCode::BadMessages)
        } else {
            Action::Reply(reply)
        }
    }

    fn on_message(&mut self, message: ClientMessage) -> Action {
        match message {
            ClientMessage::StreamQuery(query) => match self.refusal(&query) {
                Some((code, text)) => Action::Reply(ServerMessage::Error(ErrorMessage {
                    request_id: query.request_id,
                    ..ErrorMessage::new(code, text)
                })),
                None => Action::Start(query),
            },
            ClientMessage::CancelQuery(CancelQuery { target }) => self.cancel(target),
            ClientMessage::Ping { timestamp } => Action::Reply(ServerMessage::Pong(PongMessage { timestamp })),
        }
    }

    fn refusal(&self, query: &StreamQuery) -> Option<(ErrorCode, String)> {
        let SessionLimits {
            streams_max,
            query_bytes_max,
            batch_size_max,
            batch_bytes_max,
        } = self.limits;
        let exceeded = |text: String| Some((ErrorCode::LimitExceeded, text));
        if query
            .request_id
            .as_ref()
            .is_some_and(|id| self.by_request.contains_key(id))
        {
            let text = "the request_id already names a live stream of this connection".to_owned();
            return Some((ErrorCode::DuplicateRequestId, text));
        }
        if self.live.len() >= streams_max {
            let text = format!(
                "this connection has {} live streams, the most is {streams_max}",
                self.live.len()
            );
            return Some((ErrorCode::TooManyStreams, text));
        }
        if query.query.len() > query_bytes_max {
            return exceeded(format!(
                "the query has {} bytes, the most is {query_bytes_max}",
                query.query.len()
            ));
        }
        if let Some(batch_size) = query.batch_size.filter(|size| *size > batch_size_max) {
            return exceeded(format!("batch_size {batch_size}: the most is {batch_size_max}"));
        }
        if let Some(bytes) = query.max_batch_bytes.filter(|bytes| *bytes > batch_bytes_max) {
            return exceeded(format!("max_batch_bytes {bytes}: the most is {batch_bytes_max}"));
        }
        let interval = query
            .progress_interval_ms
            .filter(|ms| (1..PROGRESS_INTERVAL_MS_MIN).contains(ms));
        interval.and_then(|ms| {
            exceeded(format!(
                "progress_interval_ms {ms}: 0 for none, else at least {PROGRESS_INTERVAL_MS_MIN}"
            ))
        })
    }

    fn cancel(&self, target: StreamRef) -> Action {
        let (stream_id, request_id) = match target {
            StreamRef::Stream(Ok(id)) if self.live.contains_key(&id) => return Action::Cancel(id),
            StreamRef::Stream(Ok(id)) => (Some(id.to_string()), None),
            StreamRef::Stream(Err(text)) => (Some(text), None),
            StreamRef::Request(request_id) => match self.by_request.get(&request_id) {
                Some(id) => return Action::Cancel(*id),
                None => (None, Some(request_id)),
            },
        };
        Action::Reply(ServerMessage::Error(ErrorMessage {
            stream_id,
            request_id,
            ..ErrorMessage::new(
                ErrorCode::StreamNotFound,
                "no live stream of this connection has that name",
            )
        }))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::wildcard_enum_match_arm)] // whatever else comes fails the test

    use super::*;

    const LIMITS: SessionLimits = SessionLimits {
        streams_max: 2,
        query_bytes_max: 16,
        batch_size_max: 10,
        batch_bytes_max: 1_000,
    };

    #[track_caller]
    fn code_of(action: &Action) -> ErrorCode {
        match action {
            Action::Reply(ServerMessage::Error(error)) | Action::Close(ServerMessage::Error(error), _) => error.code,
            other => panic!("no error: {other:?}"),
        }
    }

    #[track_caller]
    fn check_refused(fields: &str, code: ErrorCode) {
        let mut session = Session::new(LIMITS);
        session.on_accepted(StreamId::random(), Some("taken".into()));
        let text = format!("{{\"type\":\"stream_query\",{fields}}}");
        assert_eq!(code_of(&session.on_text(&text)), code, "{text}");
    }

    #[test]
    fn queries_beyond_a_limit_are_refused() {
        check_refused(r#""query":"12345678901234567""#, ErrorCode::LimitExceeded);
        check_refused(r#""query":"","batch_size":11"#, ErrorCode::LimitExceeded);
        check_refused(r#""query":"","max_batch_bytes":1001"#, ErrorCode::LimitExceeded);
        check_refused(r#""query":"","progress_interval_ms":49"#, ErrorCode::LimitExceeded);
        check_refused(r#""query":"","request_id":"taken""#, ErrorCode::DuplicateRequestId);
    }

    #[test]
    fn streams_count_until_they_have_ended() {
        let mut session = Session::new(LIMITS);
        let ids = [StreamId::random(), StreamId::random()];
        for id in ids {
            session.on_accepted(id, None);
        }
        let query = r#"{"type":"stream_query","query":"q"}"#;
        assert_eq!(code_of(&session.on_text(query)), ErrorCode::TooManyStreams);
        session.on_ended(ids[0]);
        assert!(matches!(session.on_text(query), Action::Start(_)));
    }

    #[test]
    fn a_stream_can_be_cancelled_by_either_name_and_only_while_it_lives() {
        let mut session = Session::new(LIMITS);
        let id = StreamId::random();
        session.on_accepted(id, Some("mine".into()));
        let by_id = format!(r#"{{"type":"cancel_query","stream_id":"{id}"}}"#);
        let by_request = r#"{"type":"cancel_query","request_id":"mine"}"#;
        for text in [by_id.as_str(), by_request] {
            assert!(matches!(session.on_text(text), Action::Cancel(found) if found == id));
        }
        session.on_ended(id);
        for text in [by_id.as_str(), by_request, r#"{"type":"cancel_query","stream_id":"x"}"#] {
            assert_eq!(code_of(&session.on_text(text)), ErrorCode::StreamNotFound);
        }
    }

    #[test]
    fn garbage_in_a_row_closes_the_connection() {
        let mut session = Session::new(LIMITS);
        for _ in 1..BAD_MESSAGES_MAX {
            assert!(matches!(session.on_text("x"), Action::Reply(_)));
        }
        assert!(matches!(
            session.on_text(r#"{"type":"ping"}"#),
            Action::Reply(ServerMessage::Pong(_))
        ));
        for _ in 1..BAD_MESSAGES_MAX {
            assert_eq!(code_of(&session.on_binary()), ErrorCode::BadMessage);
        }
        assert!(matches!(session.on_text("x"), Action::Close(_, CloseCode::BadMessages)));
    }
}
