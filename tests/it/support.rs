//! A plain WebSocket client with strict types of its own, and waits that fail with the state they saw.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rowstream::server::Limits;
use rowstream::{MemoryEngine, Server, ServerHandle, StreamingConfig};
use serde::Deserialize;
use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest;
use tungstenite::protocol::WebSocket;
use tungstenite::{Message, client};

/// Every wait in these tests ends by then, with a message.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// What the server says, field for field as the specification has it. Anything else fails the test.
#[derive(Debug, Clone, Deserialize, PartialEq)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Wire {
    Welcome {
        request_id: Option<Value>,
        server: String,
        version: String,
        server_id: String,
        capabilities: Vec<String>,
        limits: Value,
        engines: Vec<String>,
        heartbeat_ms: u64,
    },
    QueryDescription {
        request_id: Option<Value>,
        columns: Option<Vec<WireColumn>>,
        parameters: Vec<Value>,
        read_only: Option<bool>,
        estimated_rows: Option<u64>,
    },
    QueryQueued {
        stream_id: String,
        request_id: Option<Value>,
        position: u64,
    },
    QueryStarted {
        stream_id: String,
        query: String,
        estimated_rows: Option<u64>,
        request_id: Option<Value>,
        columns: Option<Vec<WireColumn>>,
        total_kind: String,
        format: String,
        row_format: String,
        compression: Option<String>,
        window: Option<Value>,
        resume_token: Option<String>,
        retention: Option<Value>,
    },
    QueryColumns {
        stream_id: String,
        request_id: Option<Value>,
        columns: Vec<WireColumn>,
    },
    QueryBatch {
        stream_id: String,
        request_id: Option<Value>,
        batch_number: u64,
        rows: Vec<Value>,
        has_more: bool,
        row_count: u64,
        row_offset: u64,
        checksum: Option<String>,
        cell_types: Option<Value>,
        #[serde(default)]
        replay: bool,
    },
    QueryProgress {
        stream_id: String,
        request_id: Option<Value>,
        rows_processed: u64,
        percentage: Option<f64>,
        throughput: f64,
        percentage_delivered: Option<f64>,
        eta_ms: Option<u64>,
        elapsed_ms: Option<u64>,
        phase: Option<String>,
        total_rows: Option<u64>,
        total_kind: Option<String>,
        rows_sent: Option<u64>,
        bytes_sent: Option<u64>,
        queue_depth: Option<u64>,
        blocked_by: Option<String>,
        hint: Option<String>,
    },
    QueryCompleted {
        stream_id: String,
        request_id: Option<Value>,
        total_rows: u64,
        execution_time_ms: u64,
        batches: u64,
        bytes: u64,
        raw_bytes: u64,
        time_to_first_row_ms: Option<u64>,
        engine_ms: u64,
        stall_ms: u64,
        truncated: bool,
        truncate_reason: Option<String>,
        digest: Option<String>,
    },
    QueryPaused {
        stream_id: String,
        request_id: Option<Value>,
    },
    QueryUnpaused {
        stream_id: String,
        request_id: Option<Value>,
    },
    QueryResumed {
        stream_id: String,
        request_id: Option<Value>,
        next_batch: u64,
        resend_from: u64,
        resume_token: String,
        state: String,
    },
    QueryStatus(WireStatus),
    QueryList {
        request_id: Option<Value>,
        queries: Vec<WireStatus>,
        total: u64,
    },
    QueryCancelled {
        stream_id: String,
        request_id: Option<Value>,
        reason: String,
        limit: Option<String>,
        message: Option<String>,
        blocked_by: Option<String>,
        rows_sent: u64,
        last_batch: Option<u64>,
        engine_stopped: bool,
        cancel_latency_ms: u64,
    },
    Error {
        code: String,
        message: String,
        stream_id: Option<String>,
        request_id: Option<Value>,
        engine_code: Option<String>,
        sqlstate: Option<String>,
        position: Option<u64>,
        hint: Option<String>,
        oldest_batch: Option<u64>,
        retryable: bool,
        started: bool,
    },
    Goaway {
        reason: String,
        drain_ms: u64,
        resumable: bool,
    },
    Pong {
        timestamp: Option<Value>,
    },
}

#[derive(Debug, Clone, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct WireColumn {
    pub(crate) name: String,
    pub(crate) label: String,
    #[serde(rename = "type")]
    pub(crate) ty: String,
    pub(crate) db_type: Option<String>,
    pub(crate) nullable: Option<bool>,
    pub(crate) encoding: Option<String>,
}

#[derive(Debug, Clone, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct WireStatus {
    pub(crate) stream_id: String,
    pub(crate) request_id: Option<Value>,
    pub(crate) query: String,
    pub(crate) engine: String,
    pub(crate) principal: Option<String>,
    pub(crate) state: String,
    pub(crate) attached: bool,
    pub(crate) resumable: bool,
    pub(crate) priority: u8,
    pub(crate) weight: u16,
    pub(crate) rows_processed: u64,
    pub(crate) rows_sent: u64,
    pub(crate) bytes_sent: u64,
    pub(crate) batches_sent: u64,
    pub(crate) batches_acked: u64,
    pub(crate) bytes_held: u64,
    pub(crate) elapsed_ms: u64,
}

impl Wire {
    pub(crate) fn stream_id(&self) -> Option<&str> {
        match self {
            Self::QueryQueued { stream_id, .. }
            | Self::QueryStarted { stream_id, .. }
            | Self::QueryColumns { stream_id, .. }
            | Self::QueryBatch { stream_id, .. }
            | Self::QueryProgress { stream_id, .. }
            | Self::QueryPaused { stream_id, .. }
            | Self::QueryUnpaused { stream_id, .. }
            | Self::QueryResumed { stream_id, .. }
            | Self::QueryCompleted { stream_id, .. }
            | Self::QueryCancelled { stream_id, .. } => Some(stream_id),
            Self::Error { stream_id, .. } => stream_id.as_deref(),
            Self::QueryStatus(status) => Some(&status.stream_id),
            Self::QueryList { .. }
            | Self::Pong { .. }
            | Self::Goaway { .. }
            | Self::Welcome { .. }
            | Self::QueryDescription { .. } => None,
        }
    }

    pub(crate) fn is_terminator(&self) -> bool {
        match self {
            Self::QueryCompleted { .. } | Self::QueryCancelled { .. } => true,
            Self::Error { stream_id, code, .. } => stream_id.is_some() && code != "STREAM_NOT_FOUND",
            _ => false,
        }
    }
}

/// A stream's whole life as the client saw it; made by [`Plain::finish`], which checks the invariants of every stream.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) started: bool,
    pub(crate) queued: Option<u64>,
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<Value>,
    pub(crate) batches: Vec<usize>,
    pub(crate) last_has_more: Option<bool>,
    pub(crate) progress: Vec<Wire>,
    pub(crate) end: Option<Wire>,
}

/// A client that knows only WebSocket and JSON.
pub(crate) struct Plain {
    socket: WebSocket<TcpStream>,
    streams: BTreeMap<String, (u64, u64)>,
}

impl Plain {
    pub(crate) fn connect(server: &ServerHandle) -> Self {
        Self::connect_with(server, &[])
    }

    /// Connects with these headers besides.
    pub(crate) fn connect_with(server: &ServerHandle, headers: &[(&'static str, &str)]) -> Self {
        Self::connect_to(server.local_addr().unwrap(), headers)
    }

    /// As [`connect_with`](Self::connect_with), to a server of another process.
    pub(crate) fn connect_to(address: SocketAddr, headers: &[(&'static str, &str)]) -> Self {
        let mut request = format!("ws://{address}/ws").into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let (socket, _response) = client(request, stream).unwrap();
        Self {
            socket,
            streams: BTreeMap::new(),
        }
    }

    pub(crate) fn tcp(&self) -> &TcpStream {
        self.socket.get_ref()
    }

    pub(crate) fn send(&mut self, message: &Value) {
        self.send_text(&message.to_string());
    }

    pub(crate) fn send_text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).unwrap();
    }

    pub(crate) fn send_raw(&mut self, message: Message) {
        self.socket.send(message).unwrap();
    }

    /// Starts a query with the bold fields and whatever `extra` has.
    pub(crate) fn query(&mut self, query: &str, extra: Value) {
        let mut message = json!({"type": "stream_query", "query": query});
        let Value::Object(extra) = extra else {
            panic!("extra fields are an object")
        };
        message.as_object_mut().unwrap().extend(extra);
        self.send(&message);
    }

    /// The next message that is no control frame; panics where none comes in time.
    pub(crate) fn next_raw(&mut self) -> Message {
        loop {
            match self.socket.read() {
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                Ok(message) => return message,
                Err(error) => panic!("no message: {error}"),
            }
        }
    }

    /// The next message, of a stream that this connection has not seen from its start.
    pub(crate) fn recv_unchecked(&mut self) -> Wire {
        let message = self.next_raw();
        let Message::Text(text) = message else {
            panic!("not a text message: {message:?}")
        };
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// The next message, checked against what must hold of every message in every stream.
    pub(crate) fn recv(&mut self) -> Wire {
        let wire = self.recv_unchecked();
        self.check(&wire);
        wire
    }

    fn check(&mut self, wire: &Wire) {
        match wire {
            Wire::QueryStarted { stream_id, .. } => {
                let before = self.streams.insert(stream_id.clone(), (0, 0));
                assert_eq!(before, None, "started twice: {stream_id}");
            }
            Wire::QueryBatch {
                stream_id,
                batch_number,
                rows,
                row_count,
                row_offset,
                ..
            } => {
                let (batches, n_rows) = self.streams.get_mut(stream_id).expect("a batch only of a live stream");
                assert_eq!(
                    (*batch_number, *row_offset),
                    (*batches, *n_rows),
                    "batches and rows count without gaps"
                );
                assert_eq!(*row_count, rows.len() as u64);
                assert!(*row_count > 0, "a batch has rows");
                *batches += 1;
                *n_rows += row_count;
            }
            Wire::QueryProgress { stream_id, phase, .. } => {
                let alive = self.streams.contains_key(stream_id) || phase.as_deref() == Some("queued");
                assert!(alive, "progress only of a live stream: {wire:?}");
            }
            Wire::QueryCompleted {
                stream_id,
                total_rows,
                batches,
                ..
            } => {
                let seen = self
                    .streams
                    .remove(stream_id)
                    .expect("completes only once, after its start");
                assert_eq!(seen, (*batches, *total_rows), "what was sent is what is claimed");
            }
            Wire::QueryCancelled {
                stream_id,
                rows_sent,
                last_batch,
                engine_stopped,
                ..
            } => {
                let (batches, n_rows) = self.streams.remove(stream_id).unwrap_or_default();
                assert_eq!((batches.checked_sub(1), n_rows), (*last_batch, *rows_sent));
                assert!(engine_stopped);
            }
            Wire::Error {
                stream_id: Some(id),
                started,
                ..
            } => {
                if wire.is_terminator() {
                    let was_started = self.streams.remove(id).is_some();
                    assert_eq!(was_started, *started, "{wire:?}");
                }
            }
            Wire::QueryPaused { stream_id, .. } | Wire::QueryUnpaused { stream_id, .. } => {
                assert!(
                    self.streams.contains_key(stream_id),
                    "only a live stream is paused: {wire:?}"
                );
            }
            Wire::Error { .. }
            | Wire::QueryQueued { .. }
            | Wire::QueryColumns { .. }
            | Wire::QueryResumed { .. }
            | Wire::QueryStatus(_)
            | Wire::QueryList { .. }
            | Wire::Welcome { .. }
            | Wire::QueryDescription { .. }
            | Wire::Goaway { .. }
            | Wire::Pong { .. } => {}
        }
    }

    /// The next message that `wanted` says yes to; others are passed over.
    pub(crate) fn recv_until(&mut self, what: &str, wanted: impl Fn(&Wire) -> bool) -> Wire {
        let mut passed = Vec::new();
        let end = Instant::now() + DEADLINE;
        while Instant::now() < end {
            let wire = self.recv();
            if wanted(&wire) {
                return wire;
            }
            passed.push(wire);
            if passed.len() > 8 {
                passed.remove(0);
            }
        }
        panic!("no {what}; last seen: {passed:#?}");
    }

    pub(crate) fn recv_started(&mut self) -> String {
        let started = self.recv_until("query_started", |wire| matches!(wire, Wire::QueryStarted { .. }));
        started.stream_id().unwrap().to_owned()
    }

    /// Takes everything until the terminator of the only stream there is.
    pub(crate) fn finish(&mut self) -> Seen {
        let mut seen = Seen::default();
        loop {
            let wire = self.recv();
            match wire {
                Wire::QueryQueued { position, .. } => seen.queued = Some(position),
                Wire::QueryStarted { columns, .. } => {
                    seen.started = true;
                    seen.columns = columns.into_iter().flatten().map(|column| column.label).collect();
                }
                Wire::QueryColumns { columns, .. } => {
                    seen.columns = columns.into_iter().map(|column| column.label).collect();
                }
                Wire::QueryBatch { rows, has_more, .. } => {
                    assert_ne!(seen.last_has_more, Some(false), "a batch after the last");
                    seen.batches.push(rows.len());
                    seen.rows.extend(rows);
                    seen.last_has_more = Some(has_more);
                }
                Wire::QueryProgress { .. } => seen.progress.push(wire),
                wire if wire.is_terminator() => {
                    seen.end = Some(wire);
                    return seen;
                }
                wire => panic!("unexpected: {wire:?}"),
            }
        }
    }

    /// Acknowledges batch `number` of a stream and each that follows, until the terminator of the only stream there is.
    pub(crate) fn ack_to_the_end(&mut self, request_id: &str, number: u64) -> Seen {
        let ack = |number: u64| json!({"type": "ack", "request_id": request_id, "batch_number": number});
        self.send(&ack(number));
        loop {
            match self.recv() {
                Wire::QueryBatch { batch_number, .. } => self.send(&ack(batch_number)),
                Wire::QueryProgress { .. } => {}
                wire => {
                    assert!(wire.is_terminator(), "unexpected: {wire:?}");
                    return Seen {
                        end: Some(wire),
                        ..Seen::default()
                    };
                }
            }
        }
    }

    /// Runs a query to its end.
    pub(crate) fn run(&mut self, query: &str, extra: Value) -> Seen {
        self.query(query, extra);
        self.finish()
    }

    /// Says that nothing more is coming: a ping comes back with nothing before it.
    #[track_caller]
    pub(crate) fn assert_silence(&mut self) {
        self.send(&json!({"type": "ping", "timestamp": "silence"}));
        let next = self.recv();
        assert_eq!(
            next,
            Wire::Pong {
                timestamp: Some("silence".into())
            }
        );
    }

    /// As [`assert_silence`](Self::assert_silence), of streams that this connection has not seen from their start.
    #[track_caller]
    pub(crate) fn assert_silence_unchecked(&mut self) {
        self.send(&json!({"type": "ping", "timestamp": "silence"}));
        let next = self.recv_unchecked();
        assert!(matches!(next, Wire::Pong { .. }), "{next:?}");
    }

    /// Reads until the server closes; returns its close code.
    pub(crate) fn recv_close(&mut self) -> u16 {
        loop {
            match self.socket.read() {
                Ok(Message::Close(Some(frame))) => return frame.code.into(),
                Ok(Message::Close(None)) => return 1005,
                Ok(_) => {}
                Err(error) => panic!("no close frame: {error}"),
            }
        }
    }

    /// Answers a close that has been read, and waits until the server has gone.
    pub(crate) fn answer_close(&mut self) {
        while self.socket.read().is_ok() {}
    }
}

impl Seen {
    #[track_caller]
    pub(crate) fn assert_completed(&self) -> &Self {
        assert!(matches!(self.end, Some(Wire::QueryCompleted { .. })), "{:?}", self.end);
        self
    }

    #[track_caller]
    pub(crate) fn error_code(&self) -> &str {
        match &self.end {
            Some(Wire::Error { code, .. }) => code,
            other => panic!("no error: {other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn cancel_reason(&self) -> &str {
        match &self.end {
            Some(Wire::QueryCancelled { reason, .. }) => reason,
            other => panic!("not cancelled: {other:?}"),
        }
    }
}

impl Seen {
    /// The limit that a cancelled stream has reached; its message has to name it, too.
    #[track_caller]
    pub(crate) fn limit(&self) -> &str {
        match &self.end {
            Some(Wire::QueryCancelled {
                limit: Some(limit),
                message: Some(message),
                ..
            }) if message.contains(limit) => limit,
            other => panic!("no limit: {other:?}"),
        }
    }
}

/// Limits for tests that say and ask more in a moment than anybody else would.
pub(crate) fn unhurried() -> Limits {
    let mut limits = Limits::default();
    limits.message_rate = None;
    limits.query_rate = None;
    limits.streams_max = 10_000;
    limits
}

/// How often, or with which seed: for full modes, the environment may have a number other than the gate's.
pub(crate) fn number(name: &str, in_the_gate: u64) -> u64 {
    match std::env::var(name) {
        Ok(number) => number
            .parse()
            .unwrap_or_else(|_| panic!("{name}={number} is no number")),
        Err(_) => in_the_gate,
    }
}

/// Starts a server with this engine on a free port.
pub(crate) fn serve(engine: MemoryEngine) -> ServerHandle {
    serve_with(engine, 4, StreamingConfig::default())
}

pub(crate) fn serve_with(engine: MemoryEngine, n_workers: usize, streaming: StreamingConfig) -> ServerHandle {
    let builder = Server::builder().engine("memory", engine).listen("127.0.0.1:0");
    builder.workers(n_workers).streaming(streaming).start().unwrap()
}

/// Waits until `look` gives `expected`: for counters that follow an event without a message of their own. Yields between two
/// looks; the deadline only bounds a failing test.
#[track_caller]
pub(crate) fn eventually<T: PartialEq + Debug>(what: &str, expected: &T, look: impl Fn() -> T) {
    let end = Instant::now() + DEADLINE;
    let mut last = look();
    while last != *expected {
        assert!(Instant::now() < end, "{what}: {last:?} instead of {expected:?}");
        std::thread::yield_now();
        last = look();
    }
}
