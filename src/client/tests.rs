//! The client against a server that says what the test tells it to.

#![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

mod acks;
mod welcome;

use std::net::Shutdown;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;
use serde_json::{Value as Json, json};

use super::*;
use crate::rows::{Int64Encoding, RowFormat, Value};
use crate::thread::{STACK_BYTES_CONNECTION, spawn_named};
use crate::transport::websocket::{
    Coding, ControlLane, FrameWriter, InboundLimits, Incoming, MessageKind, Payload, ReadEnd, Side, accept_response,
    read_messages,
};
use crate::transport::{Halves, MemoryTransport, ReadHalf, Transport, TransportControl, memory_pair};

const URL: &str = "ws://memory/ws";

/// Longer than anything here takes on a busy machine.
const DEADLINE: Duration = Duration::from_secs(20);

const STREAM: &str = "6f1c0f0e-5a52-4d6f-9d54-1f1b5b0a7c11";

/// The server's end of a connection.
struct FakeServer {
    heard: Receiver<String>,
    frames: Arc<Mutex<FrameWriter>>,
    has_closed: Arc<AtomicBool>,
    control: Arc<dyn TransportControl>,
    reader: JoinHandle<ReadEnd>,
}

/// Answers pings and closes, as every server does, and keeps what it was told.
struct Lane {
    frames: Arc<Mutex<FrameWriter>>,
    has_closed: Arc<AtomicBool>,
    heard: Sender<String>,
}

impl ControlLane for Lane {
    fn pong(&self, payload: &[u8]) {
        self.frames.lock().write_pong(payload).unwrap();
    }

    fn close(&self, code: Option<u16>, reason: &str) {
        let _test_over = self.heard.try_send(format!("close {code:?} {reason:?}"));
        if !self.has_closed.swap(true, Ordering::Relaxed) {
            let _gone = self.frames.lock().write_close(code, reason);
        }
    }
}

fn read_head(read: &mut dyn ReadHalf) -> Vec<u8> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        assert_eq!(read.read(&mut byte).unwrap(), 1, "the client hung up");
        head.push(byte[0]);
    }
    head
}

/// Upgrades, and says that it speaks this subprotocol.
fn answer_upgrade(read: &mut dyn ReadHalf, write: &mut dyn io::Write, subprotocol: Option<&str>) {
    let head = read_head(read);
    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut request = httparse::Request::new(&mut headers);
    request.parse(&head).unwrap();
    let headers: Vec<_> = request
        .headers
        .iter()
        .map(|header| (header.name, header.value))
        .collect();
    assert!(headers.contains(&("Host", b"memory:80")), "{headers:?}");
    assert!(
        headers.contains(&("Sec-WebSocket-Protocol", b"rowstream.v1")),
        "{headers:?}"
    );
    let upgrade = accept_response(&headers, Coding::Plain).unwrap();
    let mut response = String::from_utf8(upgrade.response).unwrap();
    if let Some(subprotocol) = subprotocol {
        response.insert_str(
            response.len() - 2,
            &format!("Sec-WebSocket-Protocol: {subprotocol}\r\n"),
        );
    }
    write.write_all(response.as_bytes()).unwrap();
}

impl FakeServer {
    /// One that passes over the subprotocol.
    fn start(transport: MemoryTransport) -> JoinHandle<Self> {
        Self::start_speaking(transport, None)
    }

    fn start_speaking(transport: MemoryTransport, subprotocol: Option<&'static str>) -> JoinHandle<Self> {
        let accept = move || {
            let Halves {
                mut read,
                mut write,
                control,
            } = Box::new(transport).split().unwrap();
            answer_upgrade(read.as_mut(), write.as_mut(), subprotocol);
            let frames = Arc::new(Mutex::new(FrameWriter::new(write, Side::Server)));
            let (heard_tx, heard) = bounded(64);
            let has_closed = Arc::new(AtomicBool::new(false));
            let lane = Arc::new(Lane {
                frames: Arc::clone(&frames),
                has_closed: Arc::clone(&has_closed),
                heard: heard_tx.clone(),
            });
            let at_end = Arc::clone(&control);
            let read_all = move || {
                let limits = InboundLimits {
                    message_bytes_max: 1 << 20,
                    skipped_bytes_max: 0,
                    fragments_max: usize::MAX,
                    coding: Coding::Plain,
                };
                let (end, _) = read_messages(read, Vec::new(), Side::Server, limits, lane, |incoming| {
                    if let Incoming::Text(text) = incoming {
                        let _test_over = heard_tx.try_send(text.to_owned());
                    }
                    ControlFlow::Continue(())
                });
                at_end.shutdown(Shutdown::Both);
                end
            };
            Self {
                heard,
                frames,
                has_closed,
                control,
                reader: spawn_named("fake-reader", STACK_BYTES_CONNECTION, read_all).unwrap(),
            }
        };
        spawn_named("fake-server", STACK_BYTES_CONNECTION, accept).unwrap()
    }

    #[track_caller]
    fn hear_text(&self) -> String {
        self.heard.recv_timeout(DEADLINE).expect("the client says something")
    }

    #[track_caller]
    fn hear(&self) -> Json {
        let text = self.hear_text();
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"))
    }

    /// The request id of the query that comes next.
    #[track_caller]
    fn hear_query(&self) -> i64 {
        let query = self.hear();
        assert_eq!(query["type"], "stream_query", "{query}");
        query["request_id"].as_i64().unwrap()
    }

    #[track_caller]
    fn say(&self, message: &Json) {
        self.frames.lock().write_text(message.to_string().as_bytes()).unwrap();
    }

    fn say_started(&self, id: i64) {
        let columns = json!([{"name": "n", "label": "n", "type": "int64"}]);
        self.say(
            &json!({"type": "query_started", "stream_id": STREAM, "request_id": id, "query": "q",
            "estimated_rows": null, "columns": columns, "total_kind": "none", "format": "json", "row_format": "array"}),
        );
    }

    fn say_batch(&self, id: i64, number: u64) {
        self.say(&batch(id, number, number, &json!([[number]])));
    }

    fn say_completed(&self, id: i64, batches: u64) {
        self.say(&completed(id, batches, batches));
    }

    fn say_cancelled(&self, id: i64, reason: &str) {
        self.say(
            &json!({"type": "query_cancelled", "stream_id": STREAM, "request_id": id, "reason": reason,
            "rows_sent": 1, "last_batch": 0, "engine_stopped": true, "cancel_latency_ms": 0}),
        );
    }

    fn say_progress(&self, id: i64) {
        self.say(
            &json!({"type": "query_progress", "stream_id": STREAM, "request_id": id, "rows_processed": 7,
            "percentage": 50.0, "throughput": 1.5}),
        );
    }
}

fn batch(id: i64, number: u64, row_offset: u64, rows: &Json) -> Json {
    let n_rows = rows.as_array().map_or(0, Vec::len);
    json!({"type": "query_batch", "stream_id": STREAM, "request_id": id, "batch_number": number, "rows": rows,
        "row_count": n_rows, "row_offset": row_offset, "has_more": true})
}

fn completed(id: i64, rows: u64, batches: u64) -> Json {
    json!({"type": "query_completed", "stream_id": STREAM, "request_id": id, "total_rows": rows, "execution_time_ms": 1,
        "batches": batches, "bytes": 1, "time_to_first_row_ms": null, "engine_ms": 1, "stall_ms": 0, "truncated": false})
}

fn connected() -> (Client, FakeServer) {
    let (here, there) = memory_pair(1 << 16);
    let server = FakeServer::start(there);
    let client = Client::over(here, URL).unwrap();
    (client, server.join().unwrap())
}

/// A query that has started, and its request id.
fn started(client: &Client, server: &FakeServer) -> (QueryStream, i64) {
    // A window smaller than what some servers here send: what they get wrong must not hurt.
    let mut stream = client.query("q").window(4, 1 << 20).submit().unwrap();
    let id = server.hear_query();
    server.say_started(id);
    stream.wait_until_started().unwrap();
    (stream, id)
}

fn numbers(batch: &Batch) -> Vec<i64> {
    batch.rows().map(|row| row.get(0).unwrap()).collect()
}

#[test]
fn every_setting_of_a_query_is_sent() {
    let (client, server) = connected();
    let _stream = client
        .query("SELECT ?")
        .param(1.0)
        .param(Value::Null)
        .batch_size(10)
        .max_batch_bytes(11)
        .engine("e")
        .row_format(RowFormat::Object)
        .int64(Int64Encoding::Safe)
        .max_rows(12)
        .max_bytes(13)
        .timeout(Duration::from_millis(14))
        .progress_interval(Duration::ZERO)
        .window(15, 16)
        .resumable(true)
        .checksum(true)
        .priority(7)
        .weight(17)
        .submit()
        .unwrap();
    assert_eq!(
        server.hear(),
        json!({"type": "stream_query", "query": "SELECT ?", "request_id": 1, "params": [1.0, null], "batch_size": 10,
            "max_batch_bytes": 11, "engine": "e", "row_format": "object", "int64": "safe", "max_rows": 12,
            "max_bytes": 13, "timeout_ms": 14, "progress_interval_ms": 0, "window": {"batches": 15, "bytes": 16},
            "resumable": true, "checksum": true, "priority": 7, "weight": 17})
    );
    let _stream = client.query("q").named_param("a", "b").submit().unwrap();
    assert_eq!(
        server.hear(),
        json!({"type": "stream_query", "query": "q", "request_id": 2, "params": {"a": "b"}, "row_format": "array",
            "int64": "number", "window": {"batches": 64, "bytes": 4_194_304}})
    );
}

#[test]
fn what_cannot_be_sent_is_a_usage_error_and_nothing_more() {
    let (client, server) = connected();
    for query in [
        client.query("q").param(1_i64).named_param("a", 1_i64),
        client.query("q").named_param("a", 1_i64).param(1_i64),
    ] {
        let error = query.submit().unwrap_err();
        assert!(matches!(error, ClientError::Usage(_)), "{error:?}");
        assert!(!error.ends_connection());
    }
    started(&client, &server);
}

#[test]
fn events_come_in_order_and_end_with_the_outcome() {
    let (client, server) = connected();
    let mut stream = client.query("q").submit().unwrap();
    assert!(stream.started().is_none() && stream.columns().is_none() && !stream.has_event());
    let id = server.hear_query();
    server.say(&json!({"type": "query_queued", "stream_id": STREAM, "request_id": id, "position": 3}));
    server.say_started(id);
    server.say_progress(id);
    server.say_batch(id, 0);
    server.say(&json!({"type": "of_a_newer_server"}));
    server.say(&batch(id, 1, 1, &json!([[1], [2]])));
    server.say(&completed(id, 3, 2));
    let mut seen = Vec::new();
    while let Some(event) = stream.next_event().unwrap() {
        seen.push(match event {
            Event::Queued(queued) => format!("queued {}", queued.position),
            Event::Started => format!("started {:?}", stream.started().unwrap().query),
            Event::Columns => "columns".to_owned(),
            Event::Batch(batch) => format!("batch {} {:?}", batch.number(), numbers(&batch)),
            Event::ArrowBatch(batch) => format!("arrow {}", batch.number),
            Event::Progress(progress) => format!("progress {:?}", progress.percentage),
            Event::Reconnecting => "reconnecting".to_owned(),
            Event::Resumed => "resumed".to_owned(),
        });
    }
    let expected = [
        "queued 3",
        "started \"q\"",
        "progress Some(50.0)",
        "batch 0 [0]",
        "batch 1 [1, 2]",
    ];
    assert_eq!(seen, expected);
    assert_eq!(stream.columns().unwrap().columns()[0].label, "n");
    assert!(matches!(stream.outcome(), Some(Outcome::Completed(completed)) if completed.total_rows == 3));
    assert!(stream.next_event().unwrap().is_none());
    drop(stream);
    client.ping_answered_by(&server); // and no cancel before
}

#[test]
fn columns_may_come_later_than_the_start() {
    let (client, server) = connected();
    let mut stream = client.query("q").submit().unwrap();
    let id = server.hear_query();
    server.say(
        &json!({"type": "query_started", "stream_id": STREAM, "request_id": id, "query": "q",
        "estimated_rows": null, "columns": null, "total_kind": "none", "format": "json", "row_format": "object"}),
    );
    server.say(&json!({"type": "query_columns", "stream_id": STREAM, "request_id": id,
        "columns": [{"name": "n", "label": "n", "type": "any"}]}));
    server.say(&batch(id, 0, 0, &json!([{"n": 5}])));
    server.say_completed(id, 1);
    let batches: Vec<_> = stream.by_ref().map(|batch| numbers(&batch.unwrap())).collect();
    assert_eq!(batches, [[5]]);
}

#[test]
fn queries_of_one_client_do_not_mix() {
    let (client, server) = connected();
    let (mut first, first_id) = started(&client, &server);
    let (mut second, second_id) = started(&client, &server);
    for number in 0..3 {
        server.say_batch(second_id, number);
        server.say_batch(first_id, number);
    }
    server.say_completed(second_id, 3);
    server.say_completed(first_id, 3);
    for stream in [&mut first, &mut second] {
        let batches: Vec<_> = stream.map(|batch| batch.unwrap().number()).collect();
        assert_eq!(batches, [0, 1, 2]);
    }
}

#[test]
fn a_refused_query_is_an_error_and_the_connection_goes_on() {
    let (client, server) = connected();
    let stream = client.query("SELEC").submit().unwrap();
    let id = server.hear_query();
    server.say(
        &json!({"type": "error", "code": "SYNTAX_ERROR", "message": "near SELEC", "request_id": id,
        "position": 0, "retryable": false, "started": false}),
    );
    let mut stream = stream;
    let error = stream.wait_until_started().unwrap_err();
    assert!(
        matches!(&error, ClientError::Query(message) if message.position == Some(0)),
        "{error:?}"
    );
    assert_eq!(error.to_string(), "SYNTAX_ERROR: near SELEC");
    assert!(stream.next().is_none());
    drop(stream);
    client.ping_answered_by(&server);
}

#[test]
fn a_failing_query_gives_its_rows_and_then_the_error() {
    let (client, server) = connected();
    let (mut stream, id) = started(&client, &server);
    server.say_batch(id, 0);
    server.say(
        &json!({"type": "error", "code": "QUERY_FAILED", "message": "m", "request_id": id, "stream_id": STREAM,
        "retryable": false, "started": true}),
    );
    assert!(stream.next().unwrap().is_ok());
    assert!(matches!(stream.next(), Some(Err(ClientError::Query(_)))));
    assert!(stream.next().is_none());
    assert!(stream.outcome().is_none());
}

#[test]
fn cancelling_ends_the_query_quietly() {
    let (client, server) = connected();
    let (mut stream, id) = started(&client, &server);
    let canceller = stream.canceller();
    canceller.cancel();
    assert_eq!(server.hear(), json!({"type": "cancel_query", "request_id": id}));
    server.say_batch(id, 0);
    server.say_cancelled(id, "client");
    assert_eq!(stream.by_ref().map(Result::unwrap).count(), 1);
    assert!(matches!(stream.outcome(), Some(Outcome::Cancelled(cancelled)) if cancelled.rows_sent == 1));
    // Over: nothing more is sent, and nothing breaks.
    canceller.cancel();
    drop(stream);
    client.ping_answered_by(&server);
    drop(client);
    canceller.cancel();
}

#[test]
fn a_result_cut_short_by_others_is_not_taken_for_the_whole() {
    let (client, server) = connected();
    let (mut stream, id) = started(&client, &server);
    server.say_batch(id, 0);
    server.say_cancelled(id, "timeout");
    assert!(stream.next().unwrap().is_ok());
    let error = stream.next().unwrap().unwrap_err();
    assert_eq!(error.to_string(), "cancelled (timeout) after 1 rows");
    assert!(stream.next().is_none());

    let mut queued = client.query("q").submit().unwrap();
    let id = server.hear_query();
    server.say_cancelled(id, "timeout");
    let error = queued.wait_until_started().unwrap_err();
    assert!(matches!(error, ClientError::Cancelled(_)), "{error:?}");
}

#[test]
fn a_cancel_that_crossed_the_end_changes_nothing() {
    let (client, server) = connected();
    let (mut stream, id) = started(&client, &server);
    // The server's answer to the cancel overtakes the terminator.
    server.say(
        &json!({"type": "error", "code": "STREAM_NOT_FOUND", "message": "m", "request_id": id,
        "retryable": false, "started": false}),
    );
    server.say_completed(id, 0);
    assert!(stream.next().is_none());
    assert!(matches!(stream.outcome(), Some(Outcome::Completed(_))));
}

#[test]
fn a_dropped_query_is_cancelled_and_holds_nobody_up() {
    let (client, server) = connected();
    let (stream, id) = started(&client, &server);
    // More than the query's channel takes: the reader waits for room when the query is dropped, or finds it gone.
    for number in 0..40 {
        server.say_batch(id, number);
    }
    drop(stream);
    assert_eq!(server.hear(), json!({"type": "cancel_query", "request_id": id}));
    server.say_cancelled(id, "client");
    client.ping_answered_by(&server);
    started(&client, &server);
}

#[test]
fn rows_wait_for_the_program_and_progress_does_not() {
    const N_BATCHES: u64 = 200;
    let (here, there) = memory_pair(256); // smaller than two messages: the server waits, too
    let server = FakeServer::start(there);
    let client = Client::over(here, URL).unwrap();
    let server = server.join().unwrap();
    let (mut stream, id) = started(&client, &server);
    let speaker = spawn_named("fake-speaker", STACK_BYTES_CONNECTION, move || {
        for number in 0..N_BATCHES {
            server.say_batch(id, number);
            server.say_progress(id);
        }
        server.say_completed(id, N_BATCHES);
        server
    });
    for number in 0..N_BATCHES {
        assert_eq!(numbers(&stream.next().unwrap().unwrap()), [number as i64]);
    }
    assert!(stream.next().is_none());
    assert!(stream.outcome().is_some());
    speaker.unwrap().join().unwrap();
}

#[test]
fn a_program_that_is_slower_than_the_server_still_hears_how_far_it_is() {
    // Each batch fills the channel before the progress behind it comes: all but the first find it full.
    const N_BATCHES: u64 = 200;
    let (client, server) = connected();
    let (mut stream, id) = started(&client, &server);
    let speaker = spawn_named("fake-speaker", STACK_BYTES_CONNECTION, move || {
        for number in 0..N_BATCHES {
            server.say_batch(id, number);
            if number > 100 {
                server.say_progress(id);
            }
        }
        server.say_completed(id, N_BATCHES);
        server
    });
    let mut n_progress = 0;
    while let Some(event) = stream.next_event().unwrap() {
        if matches!(event, Event::Progress(_)) {
            n_progress += 1;
        }
    }
    assert!(n_progress > 0);
    speaker.unwrap().join().unwrap();
}

#[test]
fn closing_ends_the_wait_for_a_query_that_nobody_reads() {
    let (client, server) = connected();
    let (stream, id) = started(&client, &server);
    for number in 0..40 {
        server.say_batch(id, number);
    }
    client.close();
    assert_eq!(server.hear_text(), "close Some(1000) \"\"");
    assert!(matches!(
        server.reader.join().unwrap(),
        ReadEnd::Closed | ReadEnd::Gone(_)
    ));
    let mut last = None;
    let n_batches = stream.inspect(|item| last = item.as_ref().err().cloned()).count() - 1;
    assert!(n_batches < 40, "{n_batches}");
    assert!(matches!(last, Some(ClientError::Closed { .. })), "{last:?}");
    client.close();
}

#[test]
fn a_lost_connection_is_told_to_everybody() {
    let (client, server) = connected();
    let (mut stream, _) = started(&client, &server);
    server.control.shutdown(Shutdown::Both);
    let error = stream.next().unwrap().unwrap_err();
    assert!(
        matches!(error, ClientError::Lost { .. }) && error.ends_connection(),
        "{error:?}"
    );
    assert!(stream.next().is_none());
    assert!(matches!(client.query("q").submit(), Err(ClientError::Lost { .. })));
    assert!(matches!(client.ping(), Err(ClientError::Lost { .. })));
}

#[test]
fn a_server_that_closes_says_why() {
    let (client, server) = connected();
    let (mut stream, _) = started(&client, &server);
    server.has_closed.store(true, Ordering::Relaxed);
    server.frames.lock().write_close(Some(1001), "going away").unwrap();
    let error = stream.next().unwrap().unwrap_err();
    assert_eq!(error.to_string(), "connection closed with code 1001: going away");
    let error = client.ping().unwrap_err();
    assert!(
        matches!(error, ClientError::Closed { code: Some(1001), .. }),
        "{error:?}"
    );
}

#[test]
fn a_query_outlives_a_server_that_is_being_replaced() {
    let (mut here, there): (Vec<_>, Vec<_>) = [(); 2].map(|()| memory_pair(1 << 16)).into_iter().unzip();
    let [first, second] = <[_; 2]>::try_from(there).unwrap().map(FakeServer::start);
    here.reverse();
    let dial = move || here.pop().ok_or_else(|| io::ErrorKind::ConnectionRefused.into());
    let client = Client::builder().connect_with(URL, dial).unwrap();
    let server = first.join().unwrap();
    let mut stream = client.query("q").resumable(true).submit().unwrap();
    let id = server.hear_query();
    server.say(
        &json!({"type": "query_started", "stream_id": STREAM, "request_id": id, "query": "q", "estimated_rows": null,
        "columns": [{"name": "n", "label": "n", "type": "int64"}], "total_kind": "none", "format": "json",
        "row_format": "array", "resume_token": "AAAA"}),
    );
    server.say_batch(id, 0);
    assert_eq!(numbers(&stream.next().unwrap().unwrap()), [0]);
    server.say(&json!({"type": "goaway", "reason": "shutdown", "drain_ms": 1_000, "resumable": true}));
    client.ping_answered_by(&server);
    assert_eq!(client.goaway().map(|goaway| goaway.drain_ms), Some(1_000));

    server.has_closed.store(true, Ordering::Relaxed);
    server.frames.lock().write_close(Some(1012), "restart").unwrap();
    let next = second.join().unwrap();
    let resume = next.hear();
    assert_eq!(
        (&resume["type"], &resume["resume_token"], &resume["last_batch"]),
        (&json!("resume_query"), &json!("AAAA"), &json!(0))
    );
    assert_eq!(client.goaway(), None, "it was the server before that went away");
    next.say(
        &json!({"type": "query_resumed", "stream_id": STREAM, "request_id": id, "next_batch": 1, "resend_from": 1,
        "resume_token": "BBBB", "state": "streaming"}),
    );
    next.say_batch(id, 1);
    next.say_completed(id, 2);
    assert_eq!(numbers(&stream.next().unwrap().unwrap()), [1]);
    assert!(stream.next().is_none());
}

#[track_caller]
fn check_violation(says: &str, act: impl FnOnce(&FakeServer, i64)) {
    let (client, server) = connected();
    let (mut stream, id) = started(&client, &server);
    act(&server, id);
    let error = stream.find_map(Result::err).expect("an error");
    assert!(matches!(error, ClientError::Protocol(_)), "{error:?}");
    assert!(error.to_string().contains(says), "{error}");
    assert!(stream.next().is_none());
}

/// Sends a batch of one row, that its checksum is for, as `text`.
fn delivered(text: &[u8], checksum: &str) -> Option<Result<Batch, ClientError>> {
    let (client, server) = connected();
    let mut stream = client.query("q").checksum(true).window(4, 1 << 20).submit().unwrap();
    let id = server.hear_query();
    server.say_started(id);
    let head = format!(
        r#"{{"type":"query_batch","stream_id":"{STREAM}","request_id":{id},"batch_number":0,"row_count":1,"row_offset":0,"has_more":true,"checksum":"{checksum}","rows":"#
    );
    let message = [head.as_bytes(), text, b"}"].concat();
    server.frames.lock().write_text(&message).unwrap();
    stream.next()
}

#[test]
fn a_batch_that_was_changed_on_its_way_is_not_delivered() {
    const ROWS: &[u8] = br#"[["text and 1234567890"]]"#;
    let checksum = format!("{:08x}", crate::protocol::checksum(ROWS));
    let batch = delivered(ROWS, &checksum).unwrap().unwrap();
    assert_eq!(
        batch.rows().next().unwrap().get::<String>(0).unwrap(),
        "text and 1234567890"
    );
    for bit in 0..ROWS.len() * 8 {
        let mut changed = ROWS.to_vec();
        changed[bit / 8] ^= 1 << (bit % 8);
        let refused = delivered(&changed, &checksum).unwrap();
        // Where it still is JSON, it is asked for again over a new connection, if the stream is resumable.
        assert!(
            matches!(refused, Err(ClientError::Lost { .. } | ClientError::Protocol(_))),
            "bit {bit}: {refused:?}"
        );
    }
}

#[test]
fn a_server_that_breaks_the_protocol_is_not_believed() {
    check_violation("batch_number 1 with row_offset 0, expected 0 with 0", |server, id| {
        server.say(&batch(id, 1, 0, &json!([])));
    });
    check_violation("row_offset 5", |server, id| server.say(&batch(id, 0, 5, &json!([]))));
    check_violation("row 1 of the batch", |server, id| {
        server.say(&batch(id, 0, 0, &json!([[1, 2]])))
    });
    check_violation("2 rows in 1 batches, and 1 in 1 came", |server, id| {
        server.say_batch(id, 0);
        server.say(&completed(id, 2, 1));
    });
    check_violation("cannot be read", |server, _| {
        server.say(&json!({"type": "query_batch"}))
    });
    check_violation("request_id", |server, _| {
        let mut nameless = completed(0, 0, 0);
        nameless.as_object_mut().unwrap().remove("request_id");
        server.say(&nameless);
    });
    check_violation("binary", |server, _| {
        server
            .frames
            .lock()
            .write_messages(&[Payload::plain(MessageKind::Binary, b"x")])
            .unwrap();
    });
    check_violation("UTF-8", |server, _| server.frames.lock().write_text(b"\xff").unwrap());
}

/// Those of `tests/vectors/binary.json` that are not to be believed; what is read in the others, `protocol::binary` tests.
#[test]
fn binary_messages_that_the_vectors_refuse_end_the_connection() {
    use base64::Engine as _;
    let vectors: Json = serde_json::from_str(include_str!("../../tests/vectors/binary.json")).unwrap();
    let say = |server: &FakeServer, case: &Json| {
        let message = case["message_base64"].as_str().unwrap();
        let message = base64::engine::general_purpose::STANDARD.decode(message).unwrap();
        let message = Payload::plain(MessageKind::Binary, &message);
        server.frames.lock().write_messages(&[message]).unwrap();
    };
    let cases = vectors["cases"].as_array().unwrap();
    let is_refused = |case: &&Json| case.get("refused").is_some();
    // A codec that a build does not have it refuses as well.
    for case in cases.iter().filter(is_refused) {
        check_violation("not a binary message", |server, _| say(server, case));
    }
    let (client, server) = connected();
    let (mut stream, id) = started(&client, &server);
    for case in cases.iter().filter(|case| case.get("ignored").is_some()) {
        say(&server, case);
    }
    server.say_batch(id, 0);
    assert_eq!(stream.next().unwrap().unwrap().len(), 1);
}

#[test]
fn messages_are_bounded() {
    let (here, there) = memory_pair(1 << 16);
    let server = FakeServer::start(there);
    let client = Client::builder().message_bytes_max(1000).over(here, URL).unwrap();
    let server = server.join().unwrap();
    let (mut stream, id) = started(&client, &server);
    let message = batch(id, 0, 0, &json!([["x".repeat(2000)]])).to_string();
    // The client may hang up before the whole of it is written.
    let _hung_up = server.frames.lock().write_text(message.as_bytes());
    let error = stream.next().unwrap().unwrap_err();
    assert!(error.to_string().contains("more than the 1000 bytes"), "{error}");
}

#[track_caller]
fn check_no_handshake(answer: &'static [u8]) -> ClientError {
    let (here, there) = memory_pair(1 << 16);
    let server = spawn_named("fake-server", STACK_BYTES_CONNECTION, move || {
        let Halves {
            mut read, mut write, ..
        } = Box::new(there).split().unwrap();
        read_head(read.as_mut());
        write.write_all(answer).unwrap();
    });
    let error = Client::over(here, URL).unwrap_err();
    server.unwrap().join().unwrap();
    error
}

#[test]
fn whoever_is_no_websocket_server_is_found_out() {
    let busy = check_no_handshake(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 5\r\n\r\nbusy\n");
    assert_eq!(busy.to_string(), "no WebSocket there: HTTP status 503: busy");
    let other = check_no_handshake(b"SSH-2.0-OpenSSH_9\r\n\r\n");
    assert!(
        matches!(other, ClientError::Handshake { status: None, .. }),
        "{other:?}"
    );
    let gone = check_no_handshake(b"HTTP/1.1 101");
    assert!(matches!(gone, ClientError::Connect { .. }), "{gone:?}");

    let (here, _silent) = memory_pair(1 << 16);
    let silent = Client::builder()
        .connect_timeout(Duration::from_millis(20))
        .over(here, URL);
    assert_eq!(
        silent.unwrap_err().to_string(),
        "cannot connect to memory:80: no answer within 20ms"
    );
}

#[test]
fn nobody_listening_is_a_connect_error() {
    // A port that was free a moment ago.
    let address = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let error = Client::connect(&address.to_string()).unwrap_err();
    assert!(matches!(error, ClientError::Connect { .. }), "{error:?}");
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    #[cfg(not(feature = "tls"))]
    {
        let error = Client::connect("wss://h").unwrap_err();
        assert!(
            matches!(&error, ClientError::Address(text) if text.contains("no TLS")),
            "{error}"
        );
    }
}

impl Client {
    /// A ping there and back; whatever the client said before would be heard first.
    #[track_caller]
    fn ping_answered_by(&self, server: &FakeServer) {
        std::thread::scope(|scope| {
            let ping = scope.spawn(|| self.ping());
            let heard = server.hear();
            assert_eq!(heard["type"], "ping", "{heard}");
            server.say(&json!({"type": "pong", "timestamp": heard["timestamp"]}));
            ping.join().unwrap().unwrap();
        });
    }
}
