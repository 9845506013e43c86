//! `examples/plain_client.py` against the server, and against frames written by hand that the server would not send.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tungstenite::Message;

use crate::interop::{Ended, N_ROWS, Running, Served, python, root};
use crate::proxy::{CutKind, CutProxy};
use crate::support::DEADLINE;

/// An endless query, whose first rows come at once.
const ENDLESS: &str = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n";

#[track_caller]
fn plain_client(url: &str, query: &str, flags: &[&str]) -> Running {
    let mut command = python();
    command.arg(root().join("examples/plain_client.py")).args([url, query]);
    Running::start(command.args(flags))
}

/// Row `i` of the table, as it looks in JSON.
fn row(i: i64) -> Value {
    let blob = ["", "AA==", "AAA=", "AAAA", "AAAAAA=="][i as usize % 5];
    json!({"i": i, "r": i as f64 / 3.0, "s": format!("näme \"rows\": {i}"), "b": blob})
}

#[track_caller]
fn check_all_rows(ended: &Ended) {
    let lines = ended.lines();
    assert_eq!(lines.len() as i64, N_ROWS, "{}", ended.err);
    for (at, line) in (0..).zip(&lines) {
        assert_eq!(*line, row(at));
    }
}

#[test]
fn the_plain_client_prints_all_rows() {
    let served = Served::with_rows();
    for flags in [&[] as &[&str], &["--gzip"]] {
        let ended = plain_client(&served.url(), "SELECT * FROM t", flags).end();
        ended.check(0, "");
        assert_eq!(ended.err, "");
        check_all_rows(&ended);
        let ended = plain_client(&served.url(), "SELECT * FROM t WHERE 0", flags).end();
        assert_eq!(
            (ended.status.code(), ended.out.as_str()),
            (Some(0), ""),
            "{}",
            ended.err
        );
    }
}

#[test]
fn the_plain_client_survives_cuts_with_every_row_once() {
    let served = Served::with_rows();
    let proxy = CutProxy::start(served.server.local_addr().unwrap(), 20);
    let url = format!("ws://{}/ws", proxy.address());
    for (flags, after) in [(&[] as &[&str], 200_000..400_000), (&["--gzip"], 20_000..60_000)] {
        for kind in [CutKind::Reset, CutKind::Close] {
            let n_cuts_before = proxy.n_cuts();
            proxy.cut(Some((kind, after.clone())));
            let ended = plain_client(&url, "SELECT * FROM t", flags).end();
            ended.check(0, "connection lost");
            check_all_rows(&ended);
            assert!(proxy.n_cuts() > n_cuts_before, "it was cut at least once");
        }
    }
}

#[test]
fn the_plain_client_says_why_it_has_no_rows() {
    let served = Served::new("");
    let url = served.url();
    plain_client(&url, "SELECT nowhere", &[])
        .end()
        .check(1, "SYNTAX_ERROR: no such column: nowhere");
    plain_client(&url, "SELECT 1", &["--carving"]).end().check(2, "--gzip");
    plain_client(&url.replace("ws://", "http://"), "SELECT 1", &[])
        .end()
        .check(2, "ws[s]://HOST:PORT/ws");
    // The server speaks no TLS.
    plain_client(&url.replace("ws://", "wss://"), "SELECT 1", &[])
        .end()
        .check(3, "no connection: ");
    plain_client(&url.replace("/ws", "/"), "SELECT 1", &[])
        .end()
        .check(3, "200 OK");
    served.server.shutdown();
    plain_client(&url, "SELECT 1", &[]).end().check(3, "no connection");
}

#[test]
fn the_plain_client_cancels_on_ctrl_c() {
    let served = Served::new("");
    let running = plain_client(&served.url(), ENDLESS, &[]);
    running.has_begun();
    running.interrupt();
    running.end().check(130, "cancelled: client");
}

const TEXT: u8 = 0x01;
const BINARY: u8 = 0x02;
const PING: u8 = 0x89;
const FIN: u8 = 0x80;

/// A frame of a server.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        n @ ..126 => bytes.push(n as u8),
        n @ 126..65_536 => bytes.extend([&[126][..], &(n as u16).to_be_bytes()].concat()),
        n => bytes.extend([&[127][..], &(n as u64).to_be_bytes()].concat()),
    }
    bytes.extend(payload);
    bytes
}

fn text(message: &Value) -> Vec<u8> {
    frame(FIN | TEXT, message.to_string().as_bytes())
}

fn started() -> Value {
    json!({"type": "query_started", "stream_id": "s", "resume_token": "first", "retention": {"bytes": 1, "seconds": 5}, "rows": []})
}

/// A batch of one row, the text, with a field that the protocol does not have.
fn batch(number: u64, row: &str) -> Value {
    let rows = format!("[[{}]]", json!(row));
    json!({"type": "query_batch", "stream_id": "s", "batch_number": number, "rows": [[row]], "has_more": true, "row_count": 1,
           "row_offset": number, "checksum": format!("{:08x}", crc32fast::hash(rows.as_bytes())), "new": {"in": "version 2"}})
}

/// A batch of one row in a binary message, deflated, which claims so many bytes more than it has.
fn binary_batch(number: u64, row: &str, more: usize) -> Vec<u8> {
    let mut header = batch(number, row);
    let rows = header.as_object_mut().unwrap().remove("rows").unwrap().to_string();
    header["encoding"] = json!("json");
    header["compression"] = json!("deflate-raw");
    header["uncompressed_bytes"] = json!(rows.len() + more);
    let header = header.to_string();
    let length = (header.len() as u32).to_be_bytes();
    frame(FIN | BINARY, &[&length, header.as_bytes(), &deflated(&rows)].concat())
}

fn deflated(text: &str) -> Vec<u8> {
    let mut deflater = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    deflater.write_all(text.as_bytes()).unwrap();
    deflater.finish().unwrap()
}

fn completed(rows: &[&str]) -> Value {
    let texts: Vec<String> = rows.iter().map(|row| format!("[{}]", json!(row))).collect();
    let digest = Sha256::digest(texts.join(","));
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    json!({"type": "query_completed", "stream_id": "s", "total_rows": rows.len(), "digest": digest})
}

/// Answers a request with HTTP 503.
fn refuse(mut stream: TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    let answer = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nfull";
    stream.write_all(answer).unwrap();
}

/// Has the client run against these frames, one list for each connection, none for one that is refused with HTTP 503; how it ended, and what it said: on all connections but the
/// last only its first message.
#[track_caller]
fn play(connections: Vec<Vec<Vec<u8>>>) -> (Ended, Vec<Message>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let body = move || {
        let (mut said, mut open) = (Vec::new(), Vec::new());
        for frames in connections {
            let (stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            if frames.is_empty() {
                refuse(stream);
                continue;
            }
            let mut socket = tungstenite::accept(stream).unwrap();
            said.push(socket.read().unwrap());
            // A client that fails does not take everything.
            let _gone = socket.get_mut().write_all(&frames.concat());
            open.push(socket);
        }
        let mut last = open.pop().unwrap();
        while let Ok(message) = last.read() {
            said.push(message);
        }
        said
    };
    let server = thread::Builder::new().spawn(body).unwrap();
    let ended = plain_client(&format!("ws://{address}/ws"), "SELECT 1", &["--gzip"]).end();
    // If it has not connected as often as it should, the server waits no longer.
    drop(TcpStream::connect(address));
    let said = server.join().unwrap_or_else(|_| panic!("{}", ended.err));
    (ended, said)
}

#[track_caller]
fn check_json(message: &Message, expected: Value) {
    let found: Value = serde_json::from_str(message.to_text().unwrap()).unwrap();
    assert_eq!(found, expected);
}

#[test]
fn the_plain_client_takes_frames_in_any_form() {
    let long = "é".repeat(70_000);
    let rows = ["ä \"rows\":[1]", "", &long, "deflated"];
    let first = batch(0, rows[0]).to_string();
    let middle = first.find('ä').unwrap() + 1;
    let (start, end) = first.as_bytes().split_at(middle);
    let frames = vec![
        frame(FIN | TEXT, br#"{"type": "what nobody knows yet"}"#),
        text(&started()),
        frame(TEXT, start),
        frame(PING, b"in between"),
        frame(0, b""),
        frame(FIN, end),
        frame(PING, b""),
        text(&batch(1, rows[1])),
        text(&batch(2, rows[2])),
        binary_batch(3, rows[3], 0),
        text(&completed(&rows)),
    ];
    let (ended, said) = play(vec![frames]);
    ended.check(0, "");
    assert_eq!(ended.lines(), rows.map(|row| json!([row])));
    check_json(
        &said[0],
        json!({"type": "stream_query", "query": "SELECT 1", "request_id": "q", "window": {"batches": 16}, "resumable": true,
               "checksum": true, "compression": ["gzip", "deflate-raw"]}),
    );
    assert_eq!(said[1], Message::Pong("in between".into()));
    check_json(&said[2], json!({"type": "ack", "stream_id": "s", "batch_number": 0}));
    assert_eq!(said[3], Message::Pong("".into()));
    for (number, message) in (1..).zip(&said[4..7]) {
        check_json(
            message,
            json!({"type": "ack", "stream_id": "s", "batch_number": number}),
        );
    }
    check_json(
        &said[7],
        json!({"type": "ack", "stream_id": "s", "batch_number": 3, "end": true}),
    );
    assert!(
        matches!(&said[8], Message::Close(Some(close)) if close.code == 1000.into()),
        "{:?}",
        said[8]
    );
    assert_eq!(said.len(), 9);
}

#[test]
fn the_plain_client_believes_nothing_that_does_not_add_up() {
    let mut damaged = batch(0, "a");
    damaged["checksum"] = json!("00000000");
    let mut masked = text(&batch(0, "a"));
    masked[1] |= 0x80;
    let mut corrupt = binary_batch(0, "a", 0);
    // A block of a kind that deflate does not have.
    let payload_at = corrupt.len() - deflated("[[\"a\"]]").len();
    corrupt[payload_at] |= 0b110;
    let cases = [
        (1, "is damaged", text(&damaged)),
        (1, "one before it is missing", text(&batch(1, "a"))),
        (1, "bytes that it promises", binary_batch(0, "a", 1)),
        (1, "bytes that it promises", binary_batch(0, "a", 1 << 40)),
        (1, "not those that the server has sent", text(&completed(&["a"]))),
        (1, "cannot be read", corrupt),
        (1, "cannot be read", frame(FIN | BINARY, &[255; 8])),
        (1, "cannot be read", frame(FIN | BINARY, &[0, 0])),
        (1, "cannot be read", frame(FIN | TEXT, b"{\"type\": ")),
        (1, "cannot be read", frame(FIN | TEXT, b"\"\xff\"")),
        (1, "cannot be read", text(&json!(["query_batch"]))),
        (1, "cannot be read", text(&json!({"type": "query_batch"}))),
        (4, "may not be", masked),
        (
            4,
            "may not be",
            [&[FIN | BINARY, 127][..], &u64::MAX.to_be_bytes()].concat(),
        ),
    ];
    for (code, says, bytes) in cases {
        let (ended, _) = play(vec![vec![text(&started()), bytes]]);
        ended.check(code, says);
        assert_eq!(
            (ended.out.as_str(), ended.err.lines().count()),
            ("", 1),
            "{}",
            ended.err
        );
    }
}

#[test]
fn the_plain_client_resumes_what_it_was_too_slow_for_and_skips_replays() {
    let slow = json!({"type": "error", "code": "SLOW_CONSUMER", "message": "", "stream_id": "s"});
    let resumed = json!({"type": "query_resumed", "stream_id": "s", "resume_token": "second"});
    let refused = json!({"type": "error", "code": "RESUME_EXPIRED", "message": "too late"});
    let before = vec![text(&started()), text(&batch(0, "a")), text(&slow)];
    let after = [
        text(&resumed),
        text(&batch(0, "a")),
        text(&batch(1, "b")),
        text(&completed(&["a", "b"])),
    ];
    let (ended, said) = play(vec![before.clone(), after.to_vec()]);
    ended.check(0, "SLOW_CONSUMER");
    assert_eq!(ended.out, "[\"a\"]\n[\"b\"]\n");
    check_json(
        &said[1],
        json!({"type": "resume_query", "resume_token": "first", "last_batch": 0}),
    );
    // A server that has no room is asked again, as one that is not there.
    let (ended, _) = play(vec![before.clone(), vec![], vec![], after.to_vec()]);
    ended.check(0, "503 Service Unavailable");
    assert_eq!(ended.out, "[\"a\"]\n[\"b\"]\n");
    let (ended, _) = play(vec![before, vec![text(&refused)]]);
    ended.check(4, "RESUME_EXPIRED: too late");
    assert_eq!(ended.out, "[\"a\"]\n");
}
