//! The protocol state of one connection: a message in, an action out.
//!
//! Pure: must not know threads, sockets, engines or the clock.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::auth::Rights;
use crate::error::ErrorCode;
use crate::id::{RequestId, StreamId};
use crate::protocol::{
    Ack, CancelQuery, ClientMessage, CloseCode, DescribeQuery, ErrorMessage, Hello, ListQueries, ListScope,
    PongMessage, ResumeQuery, ServerMessage, SetPriority, StreamQuery, StreamRef, WindowRequest, decode_client_message,
    quoted,
};
use crate::rate::{Bucket, Rate};
use crate::scheduler::{PRIORITY_MAX, WEIGHT_MAX};

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
    /// Batches of a window.
    pub(crate) window_batches_max: u32,
    /// Bytes of a window.
    pub(crate) window_bytes_max: u64,
    /// Messages.
    pub(crate) message_rate: Option<Rate>,
    /// Queries started.
    pub(crate) query_rate: Option<Rate>,
}

/// What is to be done about a message.
#[derive(Debug)]
pub(crate) enum Action {
    /// Start this query.
    Start(Box<StreamQuery>),
    /// Take over a stream.
    Resume(ResumeQuery),
    /// Stop this stream, which may be another connection's of the same principal.
    Cancel(Named),
    /// Batches of a stream of this connection have been processed.
    Ack {
        stream: Named,
        batch_number: Option<u64>,
        end: bool,
        request_id: Option<RequestId>,
    },
    /// Have a stream of this connection stand still.
    Pause(Named),
    /// Let it go on.
    Unpause(Named),
    /// Make a stream of this connection more or less urgent.
    SetPriority {
        stream: Named,
        priority: Option<u8>,
        weight: Option<u16>,
    },
    /// Say how a stream stands.
    Status(Named),
    /// Say which streams of this client there are.
    List(Option<RequestId>),
    /// Say which streams there are, whoever's.
    ListAll(Option<RequestId>),
    /// Say what a query would give.
    Describe(DescribeQuery),
    /// See who the client is, if that is wanted, and say what the server is and can do.
    Hello(Hello),
    /// Close the connection: it asks for something before it has said whose it is.
    TurnAway(Option<RequestId>),
    /// Offer the message to the application.
    Application {
        name: String,
        request_id: Option<RequestId>,
    },
    /// Say this.
    Reply(ServerMessage),
    /// Nothing.
    Ignore,
    /// Say this, then close the connection.
    Close(ServerMessage, CloseCode, &'static str),
}

/// A stream that a client has named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) id: StreamId,
    /// Whether it is live on this connection.
    pub(crate) is_own: bool,
}

/// Streams whose terminator is out and that are still known by their names: what a client sends before it has read the terminator is
/// no mistake.
const ENDED_KNOWN_MAX: usize = 128;

/// The streams of one connection, by both their names, and its conduct so far.
#[derive(Debug)]
pub(crate) struct Session {
    limits: SessionLimits,
    rights: Rights,
    /// Whether it has to say whose it is before anything else.
    is_stranger: bool,
    /// Streams whose terminator has not been written yet.
    live: HashMap<StreamId, Option<RequestId>>,
    by_request: HashMap<RequestId, StreamId>,
    /// Questions that have no answer yet: each counts as a live stream.
    n_questions: usize,
    /// The last ones to end.
    ended: VecDeque<(StreamId, Option<RequestId>)>,
    n_bad_in_a_row: u32,
    messages: Option<Bucket>,
    queries: Option<Bucket>,
    /// When it last had a message or the end of a stream.
    used_at: Instant,
}

impl Session {
    pub(crate) fn new(limits: SessionLimits, now: Instant) -> Self {
        let bucket = |rate: Option<Rate>| rate.map(|rate| Bucket::new(rate, now));
        Self {
            messages: bucket(limits.message_rate),
            queries: bucket(limits.query_rate),
            used_at: now,
            limits,
            rights: Rights::everyones(),
            is_stranger: false,
            live: HashMap::new(),
            by_request: HashMap::new(),
            n_questions: 0,
            ended: VecDeque::new(),
            n_bad_in_a_row: 0,
        }
    }

    /// Nothing but a `hello` counts, until [`admit`](Self::admit).
    pub(crate) fn wait_for_hello(&mut self) {
        self.is_stranger = true;
        self.rights = Rights::nobodys();
    }

    /// It is known whose the connection is, or whose it is has other rights now.
    pub(crate) fn admit(&mut self, rights: Rights) {
        self.is_stranger = false;
        self.rights = rights;
    }

    /// What may be done on this connection.
    pub(crate) fn rights(&self) -> &Rights {
        &self.rights
    }

    /// What to do about a text message.
    pub(crate) fn on_text(&mut self, text: &str, now: Instant) -> Action {
        if let Some(close) = self.count_message(now) {
            return close;
        }
        match decode_client_message(text) {
            Ok(message) if self.is_stranger && !is_strangers(&message) => Action::TurnAway(request_id_of(message)),
            // Whether it is good is for the application to say.
            Ok(ClientMessage::Other { name, request_id }) => Action::Application { name, request_id },
            Ok(message) => {
                self.n_bad_in_a_row = 0;
                self.on_message(message, now)
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

    /// What to do about a message that nobody has read as one, and is answered so.
    pub(crate) fn on_unread(&mut self, reply: ErrorMessage, now: Instant) -> Action {
        match self.count_message(now) {
            Some(action) => action,
            None if self.is_stranger => Action::TurnAway(None),
            None => self.bad(reply),
        }
    }

    /// What to do about a message that no application has taken.
    pub(crate) fn on_unknown(&mut self, name: &str, request_id: Option<RequestId>) -> Action {
        self.bad(ErrorMessage {
            request_id,
            ..ErrorMessage::new(ErrorCode::BadMessage, format!("unknown message type {}", quoted(name)))
        })
    }

    /// An application has taken a message.
    pub(crate) fn on_taken(&mut self) {
        self.n_bad_in_a_row = 0;
    }

    /// Why a stream may not be resumed on this connection.
    pub(crate) fn resume_refusal(&self, id: StreamId, request_id: Option<&RequestId>) -> Option<ErrorMessage> {
        if self.live.contains_key(&id) {
            let text = "the stream is on this connection";
            return Some(ErrorMessage::new(ErrorCode::ResumeDenied, text));
        }
        let (code, text) = self.crowding(request_id)?;
        Some(ErrorMessage::new(code, text))
    }

    /// A query of this connection was accepted.
    pub(crate) fn on_accepted(&mut self, stream_id: StreamId, request_id: Option<RequestId>) {
        if let Some(request_id) = &request_id {
            self.by_request.insert(request_id.clone(), stream_id);
        }
        self.live.insert(stream_id, request_id);
    }

    /// How long the connection has had no stream and no message; `None` while it has a stream or a question.
    pub(crate) fn idle(&self, now: Instant) -> Option<Duration> {
        (self.live.is_empty() && self.n_questions == 0).then(|| now.saturating_duration_since(self.used_at))
    }

    /// The message that came last has acknowledged something: it is not counted, because there are no more of them than batches.
    pub(crate) fn on_useful_ack(&mut self) {
        if let Some(messages) = &mut self.messages {
            messages.give_back();
        }
    }

    /// A stream has come to its end, nobody had to stop it, and nothing is held of it: that it was asked for is not counted.
    pub(crate) fn on_completed(&mut self) {
        for bucket in [&mut self.messages, &mut self.queries].into_iter().flatten() {
            bucket.give_back();
        }
    }

    /// A stream's terminator is on its way.
    pub(crate) fn on_ended(&mut self, stream_id: StreamId, now: Instant) {
        self.used_at = self.used_at.max(now);
        let Some(request_id) = self.live.remove(&stream_id) else {
            return;
        };
        if let Some(request_id) = &request_id {
            self.by_request.remove(request_id);
        }
        if self.ended.len() == ENDED_KNOWN_MAX {
            self.ended.pop_front();
        }
        self.ended.push_back((stream_id, request_id));
    }

    /// A question that was to be [asked](Action::Describe) is about to be answered.
    pub(crate) fn on_answered(&mut self, now: Instant) {
        self.used_at = self.used_at.max(now);
        self.n_questions = self.n_questions.saturating_sub(1);
    }

    /// The streams that this connection has, and those that it had last.
    pub(crate) fn known(&self) -> Vec<StreamId> {
        let ended = self.ended.iter().map(|(id, _)| id);
        self.live.keys().chain(ended).copied().collect()
    }

    /// What to do where the message is one too many.
    fn count_message(&mut self, now: Instant) -> Option<Action> {
        self.used_at = self.used_at.max(now);
        let is_admitted = self.messages.as_mut().is_none_or(|messages| messages.take(now));
        (!is_admitted).then(|| too_fast("messages", self.limits.message_rate))
    }

    fn bad(&mut self, reply: ErrorMessage) -> Action {
        self.n_bad_in_a_row += 1;
        let reply = ServerMessage::Error(reply);
        if self.n_bad_in_a_row >= BAD_MESSAGES_MAX {
            Action::Close(reply, CloseCode::BadMessages, "too many bad messages")
        } else {
            Action::Reply(reply)
        }
    }

    fn on_message(&mut self, message: ClientMessage, now: Instant) -> Action {
        if is_query(&message) && !self.rights.may_query() {
            let text = "this client may not query".to_owned();
            return refused((ErrorCode::PermissionDenied, text), request_id_of(message));
        }
        match message {
            ClientMessage::StreamQuery(query) => match self.refusal(&query) {
                Some(refusal) => refused(refusal, query.request_id),
                None if self.queries.as_mut().is_some_and(|queries| !queries.take(now)) => too_fast(
                    "queries that did not come to their end or still hold something",
                    self.limits.query_rate,
                ),
                None => Action::Start(query),
            },
            ClientMessage::CancelQuery(CancelQuery { target }) => self.on_stream(target, Action::Cancel),
            ClientMessage::Ack(Ack {
                target,
                batch_number,
                end,
            }) => {
                let request_id = name_of(&target);
                self.on_stream(self.with_ended(target), |stream| Action::Ack {
                    stream,
                    batch_number,
                    end,
                    request_id,
                })
            }
            ClientMessage::PauseQuery(target) => self.on_stream(target, Action::Pause),
            ClientMessage::UnpauseQuery(target) => self.on_stream(target, Action::Unpause),
            ClientMessage::ResumeQuery(query) => match self.window_refusal(query.window.as_ref()) {
                Some(refusal) => refused(refusal, query.request_id),
                None => Action::Resume(query),
            },
            ClientMessage::SetPriority(SetPriority {
                target,
                priority,
                weight,
            }) => match rank_refusal(priority, weight) {
                Some(refusal) => refused(refusal, name_of(&target)),
                None => self.on_stream(target, |stream| Action::SetPriority {
                    stream,
                    priority,
                    weight,
                }),
            },
            ClientMessage::QueryStatus(target) => self.on_stream(target, Action::Status),
            ClientMessage::ListQueries(ListQueries {
                scope: ListScope::Own,
                request_id,
            }) => Action::List(request_id),
            ClientMessage::ListQueries(ListQueries {
                scope: ListScope::All,
                request_id,
            }) if self.rights.is_admin() => Action::ListAll(request_id),
            ClientMessage::ListQueries(ListQueries { request_id, .. }) => {
                let text = "scope all needs the admin right".to_owned();
                refused((ErrorCode::PermissionDenied, text), request_id)
            }
            ClientMessage::DescribeQuery(query) => {
                match self.crowding(None).or_else(|| self.length_refusal(&query.query)) {
                    Some(refusal) => refused(refusal, query.request_id),
                    None => {
                        self.n_questions += 1;
                        Action::Describe(query)
                    }
                }
            }
            ClientMessage::Hello(hello) => Action::Hello(hello),
            ClientMessage::Ping { timestamp } => Action::Reply(ServerMessage::Pong(PongMessage { timestamp })),
            ClientMessage::Other { name, request_id } => Action::Application { name, request_id },
        }
    }

    fn refusal(&self, query: &StreamQuery) -> Option<(ErrorCode, String)> {
        let SessionLimits {
            batch_size_max,
            batch_bytes_max,
            ..
        } = self.limits;
        let exceeded = |text: String| Some((ErrorCode::LimitExceeded, text));
        if let Some(refusal) = self.crowding(query.request_id.as_ref()) {
            return Some(refusal);
        }
        if let Some(refusal) = self.length_refusal(&query.query) {
            return Some(refusal);
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
        if let Some(ms) = interval {
            return exceeded(format!(
                "progress_interval_ms {ms}: 0 for none, else at least {PROGRESS_INTERVAL_MS_MIN}"
            ));
        }
        rank_refusal(query.priority, query.weight).or_else(|| self.window_refusal(query.window.as_ref()))
    }

    fn length_refusal(&self, query: &str) -> Option<(ErrorCode, String)> {
        let (len, len_max) = (query.len(), self.limits.query_bytes_max);
        (len > len_max).then(|| {
            let text = format!("the query has {len} bytes, query_bytes_max is {len_max}");
            (ErrorCode::LimitExceeded, text)
        })
    }

    /// Why one more stream would be too many, or one too many of that name.
    fn crowding(&self, request_id: Option<&RequestId>) -> Option<(ErrorCode, String)> {
        if request_id.is_some_and(|id| self.by_request.contains_key(id)) {
            let text = "the request_id already names a live stream of this connection".to_owned();
            return Some((ErrorCode::DuplicateRequestId, text));
        }
        let streams_max = self.limits.streams_max;
        let n_live = self.live.len() + self.n_questions;
        (n_live >= streams_max).then(|| {
            let text = format!("this connection has {n_live} live streams, the most is {streams_max}");
            (ErrorCode::TooManyStreams, text)
        })
    }

    fn window_refusal(&self, window: Option<&WindowRequest>) -> Option<(ErrorCode, String)> {
        let window = window?;
        let SessionLimits {
            window_batches_max,
            window_bytes_max,
            ..
        } = self.limits;
        let exceeded = |text: String| Some((ErrorCode::LimitExceeded, text));
        if let Some(batches) = window.batches.filter(|n| !(1..=window_batches_max).contains(n)) {
            return exceeded(format!("window.batches {batches}: 1 to {window_batches_max}"));
        }
        if let Some(bytes) = window.bytes.filter(|n| !(1..=window_bytes_max).contains(n)) {
            return exceeded(format!("window.bytes {bytes}: 1 to {window_bytes_max}"));
        }
        None
    }

    fn on_stream(&self, target: StreamRef, action: impl FnOnce(Named) -> Action) -> Action {
        match target {
            StreamRef::Stream(Ok(id)) => action(Named {
                id,
                is_own: self.live.contains_key(&id),
            }),
            StreamRef::Stream(Err(text)) => not_found(Some(text), None),
            StreamRef::Request(request_id) => match self.by_request.get(&request_id) {
                Some(id) => action(Named { id: *id, is_own: true }),
                None => not_found(None, Some(request_id)),
            },
        }
    }

    /// What an acknowledgement is for: a client's name may be that of a stream whose terminator is out, which is what `end` is about.
    fn with_ended(&self, target: StreamRef) -> StreamRef {
        let StreamRef::Request(name) = &target else {
            return target;
        };
        if self.by_request.contains_key(name) {
            return target;
        }
        let newest = self.ended.iter().rev().find(|(_, other)| other.as_ref() == Some(name));
        newest.map_or(target, |(id, _)| StreamRef::Stream(Ok(*id)))
    }

    /// What to do where no stream of this client has that id.
    pub(crate) fn on_not_found(&self, id: StreamId) -> Action {
        if self.live.contains_key(&id) {
            // Its terminator is on the way, and is the answer.
            return Action::Ignore;
        }
        not_found(Some(id.to_string()), None)
    }

    /// What to do about an acknowledgement for a stream that this connection has not got.
    pub(crate) fn on_late_ack(&self, id: StreamId) -> Action {
        if self.ended.iter().any(|(ended, _)| *ended == id) {
            return Action::Ignore;
        }
        self.on_not_found(id)
    }
}

/// The client asks faster than it may.
fn too_fast(what: &str, rate: Option<Rate>) -> Action {
    let Rate { per_second, burst } = rate.unwrap_or(Rate::new(0, 0));
    let text = format!("more than {per_second} {what} a second, {burst} at once");
    let error = ServerMessage::Error(ErrorMessage::new(ErrorCode::LimitExceeded, text));
    Action::Close(error, CloseCode::TooMany, "messages come too fast")
}

/// What those may say who have not said who they are.
fn is_strangers(message: &ClientMessage) -> bool {
    matches!(message, ClientMessage::Hello(_) | ClientMessage::Ping { .. })
}

/// What the right to query is for.
fn is_query(message: &ClientMessage) -> bool {
    matches!(
        message,
        ClientMessage::StreamQuery(_) | ClientMessage::ResumeQuery(_) | ClientMessage::DescribeQuery(_)
    )
}

/// The name that an answer to this message has to have.
fn request_id_of(message: ClientMessage) -> Option<RequestId> {
    match message {
        ClientMessage::StreamQuery(query) => query.request_id,
        ClientMessage::ResumeQuery(query) => query.request_id,
        ClientMessage::DescribeQuery(query) => query.request_id,
        ClientMessage::ListQueries(list) => list.request_id,
        ClientMessage::Hello(hello) => hello.request_id,
        ClientMessage::Other { request_id, .. } => request_id,
        ClientMessage::CancelQuery(CancelQuery { target })
        | ClientMessage::Ack(Ack { target, .. })
        | ClientMessage::SetPriority(SetPriority { target, .. })
        | ClientMessage::PauseQuery(target)
        | ClientMessage::UnpauseQuery(target)
        | ClientMessage::QueryStatus(target) => name_of(&target),
        ClientMessage::Ping { .. } => None,
    }
}

/// The client's own name for a stream, where that is how it names it.
fn name_of(target: &StreamRef) -> Option<RequestId> {
    match target {
        StreamRef::Request(request_id) => Some(request_id.clone()),
        StreamRef::Stream(_) => None,
    }
}

fn rank_refusal(priority: Option<u8>, weight: Option<u16>) -> Option<(ErrorCode, String)> {
    let exceeded = |text: String| Some((ErrorCode::LimitExceeded, text));
    if let Some(priority) = priority.filter(|priority| *priority > PRIORITY_MAX) {
        return exceeded(format!("priority {priority}: 0 to {PRIORITY_MAX}"));
    }
    if let Some(weight) = weight.filter(|weight| *weight > WEIGHT_MAX) {
        return exceeded(format!("weight {weight}: 1 to {WEIGHT_MAX}"));
    }
    None
}

/// The answer to a request that is refused, and nothing else changes.
fn refused((code, text): (ErrorCode, String), request_id: Option<RequestId>) -> Action {
    Action::Reply(ServerMessage::Error(ErrorMessage {
        request_id,
        ..ErrorMessage::new(code, text)
    }))
}

fn not_found(stream_id: Option<String>, request_id: Option<RequestId>) -> Action {
    Action::Reply(ServerMessage::Error(ErrorMessage {
        stream_id,
        request_id,
        ..ErrorMessage::new(ErrorCode::StreamNotFound, "no live stream of this client has that name")
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::wildcard_enum_match_arm)] // whatever else comes fails the test

    use super::*;
    use crate::clock;

    const LIMITS: SessionLimits = SessionLimits {
        streams_max: 2,
        query_bytes_max: 16,
        batch_size_max: 10,
        batch_bytes_max: 1_000,
        window_batches_max: 8,
        window_bytes_max: 1_000,
        message_rate: None,
        query_rate: None,
    };

    #[track_caller]
    fn code_of(action: &Action) -> ErrorCode {
        match action {
            Action::Reply(ServerMessage::Error(error)) | Action::Close(ServerMessage::Error(error), ..) => error.code,
            other => panic!("no error: {other:?}"),
        }
    }

    #[track_caller]
    fn check_refused(fields: &str, code: ErrorCode) {
        let mut session = Session::new(LIMITS, clock::now());
        session.on_accepted(StreamId::random(), Some("taken".into()));
        let text = format!("{{\"type\":\"stream_query\",{fields}}}");
        assert_eq!(code_of(&session.on_text(&text, clock::now())), code, "{text}");
    }

    fn unread() -> ErrorMessage {
        ErrorMessage::new(ErrorCode::BadMessage, "binary")
    }

    #[test]
    fn queries_beyond_a_limit_are_refused() {
        check_refused(r#""query":"12345678901234567""#, ErrorCode::LimitExceeded);
        check_refused(r#""query":"","batch_size":11"#, ErrorCode::LimitExceeded);
        check_refused(r#""query":"","max_batch_bytes":1001"#, ErrorCode::LimitExceeded);
        check_refused(r#""query":"","progress_interval_ms":49"#, ErrorCode::LimitExceeded);
        check_refused(r#""query":"","request_id":"taken""#, ErrorCode::DuplicateRequestId);
        check_refused(r#""query":"","window":{"batches":9}"#, ErrorCode::LimitExceeded);
        check_refused(r#""query":"","window":{"batches":0}"#, ErrorCode::LimitExceeded);
        check_refused(r#""query":"","window":{"bytes":1001}"#, ErrorCode::LimitExceeded);
        check_refused(r#""query":"","priority":8"#, ErrorCode::LimitExceeded);
        check_refused(r#""query":"","weight":257"#, ErrorCode::LimitExceeded);
    }

    #[test]
    fn everybodys_streams_are_for_administrators() {
        let mut session = Session::new(LIMITS, clock::now());
        assert_eq!(
            code_of(&session.on_text(r#"{"type":"list_queries","scope":"all"}"#, clock::now())),
            ErrorCode::PermissionDenied
        );
        assert!(matches!(
            session.on_text(r#"{"type":"list_queries"}"#, clock::now()),
            Action::List(None)
        ));
    }

    #[test]
    fn a_resumed_stream_counts_as_any_other() {
        let mut session = Session::new(LIMITS, clock::now());
        let id = StreamId::random();
        session.on_accepted(id, Some("mine".into()));
        let code = |refusal: Option<ErrorMessage>| refusal.map(|error| error.code);
        let other = StreamId::random();
        assert_eq!(code(session.resume_refusal(id, None)), Some(ErrorCode::ResumeDenied));
        assert_eq!(
            code(session.resume_refusal(other, Some(&"mine".into()))),
            Some(ErrorCode::DuplicateRequestId)
        );
        assert_eq!(code(session.resume_refusal(other, None)), None);
        session.on_accepted(other, None);
        let third = session.resume_refusal(StreamId::random(), None);
        assert_eq!(code(third), Some(ErrorCode::TooManyStreams));
    }

    #[test]
    fn streams_count_until_they_have_ended() {
        let mut session = Session::new(LIMITS, clock::now());
        let ids = [StreamId::random(), StreamId::random()];
        for id in ids {
            session.on_accepted(id, None);
        }
        let query = r#"{"type":"stream_query","query":"q"}"#;
        assert_eq!(
            code_of(&session.on_text(query, clock::now())),
            ErrorCode::TooManyStreams
        );
        session.on_ended(ids[0], clock::now());
        assert!(matches!(session.on_text(query, clock::now()), Action::Start(_)));
    }

    #[test]
    fn a_stream_can_be_cancelled_by_either_name_and_only_while_it_lives() {
        let mut session = Session::new(LIMITS, clock::now());
        let id = StreamId::random();
        session.on_accepted(id, Some("mine".into()));
        let by_id = format!(r#"{{"type":"cancel_query","stream_id":"{id}"}}"#);
        let by_request = r#"{"type":"cancel_query","request_id":"mine"}"#;
        for text in [by_id.as_str(), by_request] {
            assert!(
                matches!(session.on_text(text, clock::now()), Action::Cancel(found) if found == Named { id, is_own: true })
            );
        }
        assert!(
            matches!(session.on_not_found(id), Action::Ignore),
            "its terminator is on the way"
        );
        session.on_ended(id, clock::now());
        let ack = r#"{"type":"ack","request_id":"mine","batch_number":0,"end":true}"#;
        assert!(
            matches!(session.on_text(ack, clock::now()), Action::Ack { stream: Named { id: found, is_own: false }, .. } if found == id),
            "by its name too: that its end has come"
        );
        let unheard = ack.replace("mine", "unheard-of");
        assert_eq!(
            code_of(&session.on_text(&unheard, clock::now())),
            ErrorCode::StreamNotFound
        );
        // It may be another connection's of the same client.
        assert!(
            matches!(session.on_text(&by_id, clock::now()), Action::Cancel(found) if found == Named { id, is_own: false })
        );
        assert_eq!(code_of(&session.on_not_found(id)), ErrorCode::StreamNotFound);
        for text in [by_request, r#"{"type":"cancel_query","stream_id":"x"}"#] {
            assert_eq!(code_of(&session.on_text(text, clock::now())), ErrorCode::StreamNotFound);
        }
        assert!(
            matches!(session.on_late_ack(id), Action::Ignore),
            "sent before the terminator was read"
        );
        assert_eq!(
            code_of(&session.on_late_ack(StreamId::random())),
            ErrorCode::StreamNotFound
        );
    }

    #[test]
    fn garbage_in_a_row_closes_the_connection() {
        let mut session = Session::new(LIMITS, clock::now());
        for _ in 1..BAD_MESSAGES_MAX {
            assert!(matches!(session.on_text("x", clock::now()), Action::Reply(_)));
        }
        assert!(matches!(
            session.on_text(r#"{"type":"ping"}"#, clock::now()),
            Action::Reply(ServerMessage::Pong(_))
        ));
        for _ in 1..BAD_MESSAGES_MAX {
            assert_eq!(
                code_of(&session.on_unread(unread(), clock::now())),
                ErrorCode::BadMessage
            );
        }
        assert!(matches!(
            session.on_text("x", clock::now()),
            Action::Close(_, CloseCode::BadMessages, _)
        ));
    }

    fn session(message_rate: Option<Rate>, query_rate: Option<Rate>, now: Instant) -> Session {
        let limits = SessionLimits {
            streams_max: 1_000,
            message_rate,
            query_rate,
            ..LIMITS
        };
        Session::new(limits, now)
    }

    #[track_caller]
    fn check_closed(action: &Action) {
        assert!(matches!(action, Action::Close(_, CloseCode::TooMany, _)), "{action:?}");
        assert_eq!(code_of(action), ErrorCode::LimitExceeded);
    }

    const PING: &str = r#"{"type":"ping"}"#;
    const QUERY: &str = r#"{"type":"stream_query","query":"q"}"#;

    #[test]
    fn messages_have_a_rate_and_what_acknowledges_is_not_counted() {
        let now = clock::now();
        let mut session = session(Some(Rate::new(200, 400)), None, now);
        for n in 0..400 {
            session.on_text(PING, now);
            session.on_useful_ack();
            let action = match n % 3 {
                0 => session.on_text("garbage", now),
                1 => session.on_text(PING, now),
                _ => session.on_text(r#"{"type":"hello"}"#, now),
            };
            assert!(!matches!(action, Action::Close(..)), "{n}: {action:?}");
        }
        check_closed(&session.on_text(PING, now));
        check_closed(&session.on_unread(unread(), now));
        let later = now + Duration::from_millis(5);
        assert!(matches!(session.on_text(PING, later), Action::Reply(_)));
        check_closed(&session.on_text(PING, later));
    }

    #[test]
    fn starting_only_to_cancel_has_a_rate_and_running_to_the_end_has_none() {
        let now = clock::now();
        let mut session = session(Some(Rate::new(200, 400)), Some(Rate::new(50, 100)), now);
        for n in 0..10_100 {
            assert!(matches!(session.on_text(QUERY, now), Action::Start(_)));
            let id = StreamId::random();
            session.on_accepted(id, None);
            if n < 10_000 {
                session.on_completed();
            }
            session.on_ended(id, now);
        }
        check_closed(&session.on_text(QUERY, now));
        let later = now + Duration::from_millis(20);
        assert!(matches!(session.on_text(QUERY, later), Action::Start(_)));
        check_closed(&session.on_text(QUERY, later));
    }

    #[test]
    fn a_connection_is_idle_without_streams_and_messages() {
        let start = clock::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut session = session(None, None, start);
        assert_eq!(session.idle(at(300)), Some(Duration::from_secs(300)));
        session.on_text(PING, at(200));
        assert_eq!(session.idle(at(300)), Some(Duration::from_secs(100)));
        let id = StreamId::random();
        session.on_accepted(id, None);
        assert_eq!(session.idle(at(10_000)), None);
        session.on_ended(id, at(20_000));
        assert_eq!(session.idle(at(20_300)), Some(Duration::from_secs(300)));
        session.on_unread(unread(), at(20_400));
        assert_eq!(session.idle(at(20_400)), Some(Duration::ZERO));
    }
}
