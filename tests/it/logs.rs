//! What the program logs of peers that want to write the log themselves: one line an event, nothing that acts on a terminal, and no secret.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cli::{Served, signal};
use crate::support::{DEADLINE, Plain, Wire};

/// In whatever peers say that may not be logged: parameters and tokens.
const CANARY: &str = "c4n4ry";

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// What ends lines, acts on a terminal, turns the writing round, or looks like an event or a field of one; as JSON has it, in quotes.
fn nasty_texts() -> Vec<String> {
    let long = |n_bytes: usize| format!("\"{}\"", "\\u001b[2Jé\\n".repeat(n_bytes / 14));
    let mut texts = [
        "\"\\r\\n[2001-01-01T00:00:00.000Z ERROR] forged\"",
        "\"\\n{\\\"ts\\\":\\\"2001\\\",\\\"level\\\":\\\"ERROR\\\",\\\"message\\\":\\\"forged\\\"}\"",
        "\"\\u001b[31mred\\u001b]0;title\\u0007\\u0000\\u0008\"",
        "\"\\u007f\\u009b2J\\u0085\u{2028}\u{2029}\u{202e}\u{2066}\u{61c}\"",
        "\"\\\" principal=\\\"root\\\", \\\\ \\\\n 'x' = --\"",
        "\"\\ud800\"",
        "\"\\udfff \\ud83d\"",
        "\"\u{1b}[2J raw \u{9b} \r\n \u{0}\"",
    ]
    .map(str::to_owned)
    .to_vec();
    texts.extend([long(40_000), long(1_000_000)]);
    texts
}

/// Stops the program, which logs JSON to `path`, and reads all that it has logged.
fn events_at_the_end(served: &mut Served, path: &Path) -> Vec<Value> {
    signal(&served.process, "-TERM");
    assert!(served.process.wait().unwrap().success());
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn said<'a>(events: &'a [Value], message: &'a str) -> impl Iterator<Item = &'a Value> {
    events.iter().filter(move |event| event["message"] == message)
}

/// A message for each place that a text can be put in.
fn messages(text: &str) -> Vec<String> {
    let secret = format!("\"{CANARY} {}", &text[1..]);
    [
        format!(r#"{{"type":"stream_query","query":{text}}}"#),
        format!(r#"{{"type":"stream_query","query":"SELECT 1","request_id":{text}}}"#),
        format!(r#"{{"type":"stream_query","query":"SELECT 1","engine":{text}}}"#),
        format!(r#"{{"type":"stream_query","query":"SELECT ?","params":[{secret}]}}"#),
        format!(r#"{{"type":"stream_query","query":"SELECT abs(:n)","params":{{"n":{secret}}}}}"#),
        format!(r#"{{"type":"stream_query","query":"SELECT 1","traceparent":{text}}}"#),
        format!(r#"{{"type":"describe_query","query":{text}}}"#),
        format!(r#"{{"type":"cancel_query","stream_id":{text}}}"#),
        format!(r#"{{"type":"hello","token":{secret}}}"#),
        format!(r#"{{"type":{text}}}"#),
    ]
    .to_vec()
}

/// Shows a token, says one message and a close frame, and waits until the server has closed.
fn say(address: SocketAddr, message: &str) {
    let mut sent = format!(
        "GET /ws?{CANARY} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: Bearer {CANARY}\r\n\r\n"
    )
    .into_bytes();
    // A text frame with a mask that changes nothing.
    sent.extend([0x81, 0x80 | 127]);
    sent.extend((message.len() as u64).to_be_bytes());
    sent.extend([0; 4]);
    sent.extend(message.as_bytes());
    sent.extend([0x88, 0x80, 0, 0, 0, 0]);
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    // A server that has had enough neither reads nor answers the rest.
    let _sent = socket.write_all(&sent);
    let _closed = socket.read_to_end(&mut Vec::new());
}

/// What a server in this format has logged of everything, until it was stopped.
fn logged(folder: &Path, format: &str) -> String {
    let path = folder.join(format);
    let log = File::create(&path).unwrap();
    let mut served = Served::logging_to(log, &["--log-format", format], &[("RUST_LOG", "trace")]);
    let address = served.address();
    let mut n_messages = 0;
    for text in nasty_texts() {
        for message in messages(&text) {
            say(address, &message);
            n_messages += 1;
        }
    }
    assert_eq!(n_messages, 100);
    let mut client = Plain::connect_to(address, &[]);
    let query = "SELECT n FROM t WHERE n < ?";
    let end = client.run(
        query,
        json!({"request_id": "good one", "params": [3], "traceparent": TRACE}),
    );
    assert!(
        matches!(end.end, Some(Wire::QueryCompleted { total_rows: 2, .. })),
        "{end:?}"
    );
    signal(&served.process, "-TERM");
    assert!(served.process.wait().unwrap().success());
    let bytes = std::fs::read(&path).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let acting = |char: char| {
        (char.is_control() && char != '\n')
            || matches!(char, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if let Some(at) = text.find(acting) {
        panic!(
            "acts on a terminal: {:?}",
            &text[text.floor_char_boundary(at.saturating_sub(200))..=at]
        );
    }
    assert!(
        !text.contains(CANARY),
        "{:?}",
        text.lines().find(|line| line.contains(CANARY))
    );
    text
}

#[test]
fn a_log_in_json_is_an_object_a_line_whatever_peers_say() {
    let folder = TempDir::new().unwrap();
    let text = logged(folder.path(), "json");
    let mut streams: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut of_good_one = Vec::new();
    let mut started_and_stopped = Vec::new();
    let mut cut = 0;
    for line in text.lines() {
        let event: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let object = event.as_object().unwrap();
        let mut keys: Vec<&str> = object.keys().map(String::as_str).collect();
        keys.sort_unstable();
        keys.retain(|key| *key != "kv");
        assert_eq!(keys, ["level", "message", "target", "ts"], "{line}");
        let ts = event["ts"].as_str().unwrap();
        assert!(ts.len() == 24 && !ts.starts_with("2001") && ts.ends_with('Z'), "{line}");
        let message = event["message"].as_str().unwrap();
        assert!(message.len() <= 1024, "{line}");
        let kv = &event["kv"];
        for value in kv
            .as_object()
            .iter()
            .flat_map(|kv| kv.values())
            .filter_map(Value::as_str)
        {
            assert!(value.len() <= 1024, "{line}");
        }
        if let Some(sql) = kv["sql"].as_str() {
            assert!(["DEBUG", "TRACE"].contains(&event["level"].as_str().unwrap()), "{line}");
            cut += usize::from(kv["sql_bytes"].as_u64().unwrap() > sql.len() as u64);
        }
        if let Some(id) = kv["stream"].as_str() {
            streams.entry(id.to_owned()).or_default().push(message.to_owned());
        }
        if kv["traceparent"] == TRACE {
            of_good_one.push(event.clone());
        }
        if event["level"] == "INFO" {
            started_and_stopped.push(message.to_owned());
        }
    }
    assert!(cut > 0, "no query was cut");
    assert_eq!(
        started_and_stopped,
        ["server started", "draining", "drained", "server stopped"]
    );
    assert!(streams.len() > 20, "{streams:?}");
    for (id, events) in &streams {
        let n = |wanted: &str| events.iter().filter(|event| *event == wanted).count();
        let counts = (n("stream accepted"), n("stream ended"));
        assert_eq!(counts, (1, 1), "{id}: {events:?}");
        assert!(n("stream started") <= 1, "{id}: {events:?}");
    }
    let messages: Vec<&str> = of_good_one
        .iter()
        .filter_map(|event| event["message"].as_str())
        .collect();
    assert_eq!(messages, ["stream accepted", "stream started", "stream ended"]);
    let (accepted, ended) = (&of_good_one[0]["kv"], &of_good_one[2]["kv"]);
    assert_eq!(accepted["sql"], "SELECT n FROM t WHERE n < ?");
    for kv in [accepted, ended] {
        assert_eq!(
            (&kv["request_id"], &kv["engine"]),
            (&json!("good one"), &json!("shop")),
            "{kv}"
        );
        assert!(kv["connection"].is_u64(), "{kv}");
    }
    assert_eq!(
        (&ended["status"], &ended["rows"]),
        (&json!("Completed"), &json!(2)),
        "{ended}"
    );
    assert!(ended["ms"].is_u64() && ended["bytes"].as_u64() > Some(0), "{ended}");
}

#[test]
fn a_log_in_text_is_a_line_an_event_whatever_peers_say() {
    let folder = TempDir::new().unwrap();
    let text = logged(folder.path(), "text");
    let (events, others): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.starts_with('['));
    // What `serve` tells people at its start.
    assert!(others.len() < 10, "{others:?}");
    assert!(others.iter().all(|line| !line.contains("forged")), "{others:?}");
    for event in &events {
        let (time, rest) = event.split_once(' ').unwrap();
        assert!(
            time.len() == 25 && time.ends_with('Z') && !time.starts_with("[2001"),
            "{event}"
        );
        let level = rest.split_once("] ").unwrap().0.trim_end();
        assert!(["ERROR", "WARN", "INFO", "DEBUG", "TRACE"].contains(&level), "{event}");
        // Each field at most 1 KiB, of which an escape takes up to eight times as much.
        assert!(event.len() < 20 * 1024, "{event}");
    }
    let accepted = events
        .iter()
        .filter(|event| event.contains("] stream accepted stream="))
        .count();
    let ended = events
        .iter()
        .filter(|event| event.contains("] stream ended stream="))
        .count();
    assert!(accepted > 20, "{accepted}");
    assert_eq!(accepted, ended);
    let traced = format!(
        "request_id=\"good one\" engine=shop traceparent={TRACE} sql_bytes=27 sql=\"SELECT n FROM t WHERE n < ?\""
    );
    assert!(events.iter().any(|event| event.contains(&traced)), "{traced}");
}

#[test]
fn a_flood_of_refused_connections_is_no_flood_of_lines() {
    const REFUSED: u64 = 300;
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("log");
    let flags = ["--log-format", "json", "--connections-max", "1"];
    let mut served = Served::logging_to(File::create(&path).unwrap(), &flags, &[("RUST_LOG", "warn")]);
    let address = served.address();
    let holds_the_only_place = Plain::connect_to(address, &[]);
    let start = Instant::now();
    for _ in 0..REFUSED {
        let mut socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut answer = Vec::new();
        // Reset, perhaps, after the answer.
        let _read = socket.read_to_end(&mut answer);
        assert!(answer.starts_with(b"HTTP/1.1 503 "), "{answer:?}");
    }
    let seconds = start.elapsed().as_secs();
    drop(holds_the_only_place);
    let events = events_at_the_end(&mut served, &path);
    let told: Vec<&Value> = said(&events, "connections refused").map(|event| &event["kv"]).collect();
    // And those that are left at the end.
    assert!(told.len() as u64 <= seconds + 2, "{} in {seconds} s", told.len());
    assert_eq!(
        (&told[0]["refused"], &told[0]["reasons"]),
        (&json!(1), &json!("full 1")),
        "{events:?}"
    );
    assert!(
        told[0]["peer"].as_str().unwrap().starts_with("127.0.0.1:"),
        "{events:?}"
    );
    let n_told: u64 = told.iter().filter_map(|kv| kv["refused"].as_u64()).sum();
    assert_eq!(n_told, REFUSED, "{events:?}");
}

#[test]
fn requests_for_other_hosts_and_from_other_origins_are_told_with_what_they_named() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("log");
    let flags = ["--log-format", "json", "--allowed-origins", "https://app.example"];
    let mut served = Served::logging_to(File::create(&path).unwrap(), &flags, &[("RUST_LOG", "warn")]);
    let ask = |headers: &str| {
        let mut socket = TcpStream::connect(served.address()).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        let request = format!(
            "GET /ws HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
        );
        socket.write_all(request.as_bytes()).unwrap();
        let mut status = [0; 12];
        socket.read_exact(&mut status).unwrap();
        String::from_utf8(status[9..].to_vec()).unwrap()
    };
    assert_eq!(ask("Host: localhost\r\nOrigin: https://app.example\r\n"), "101");
    assert_eq!(ask("Host: localhost\r\nOrigin: https://evil.example\r\n"), "403");
    for _ in 0..20 {
        assert_eq!(ask("Host: rebound.example\r\n"), "421");
    }
    let events = events_at_the_end(&mut served, &path);
    let told: Vec<&Value> = said(&events, "connections refused").map(|event| &event["kv"]).collect();
    let first = json!({
        "refused": 1, "reasons": "origin 1", "peer": "127.0.0.1",
        "error": "Origin \"https://evil.example\" is not in allowed_origins",
    });
    assert_eq!(*told[0], first, "{events:?}");
    assert_eq!(
        told[told.len() - 1]["error"],
        "Host \"rebound.example\" is not in allowed_hosts",
        "{events:?}"
    );
    let n_told: u64 = told.iter().filter_map(|kv| kv["refused"].as_u64()).sum();
    assert_eq!(n_told, 21, "{events:?}");
    assert!(told.len() < 21, "each by itself: {events:?}");
}

#[test]
fn a_stream_that_stands_still_is_told_once_and_so_is_its_end() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("log");
    let flags = ["--log-format", "json", "--stall-limit", "2s"];
    let mut served = Served::logging_to(File::create(&path).unwrap(), &flags, &[("RUST_LOG", "info")]);
    let mut client = Plain::connect_to(served.address(), &[]);
    client.query(
        crate::cli::ENDLESS,
        json!({"window": {"batches": 2}, "progress_interval_ms": 100}),
    );
    let end = client.recv_until("the end", Wire::is_terminator);
    assert!(
        matches!(&end, Wire::QueryCancelled { reason, .. } if reason == "slow_client"),
        "{end:?}"
    );
    let events = events_at_the_end(&mut served, &path);
    let told = |message| -> Vec<&Value> { said(&events, message).collect() };
    let [still] = told("stream stands still")[..] else {
        panic!("{events:?}")
    };
    assert_eq!(
        (&still["level"], &still["kv"]["blocked_by"]),
        (&json!("INFO"), &json!("window_batches"))
    );
    assert!(
        still["kv"]["hint"].as_str().unwrap().contains("acks are free"),
        "{events:?}"
    );
    let [slow] = told("slow client: it took nothing for the stall limit")[..] else {
        panic!("{events:?}")
    };
    assert_eq!(
        (&slow["level"], &slow["kv"]["blocked_by"]),
        (&json!("WARN"), &json!("window_batches"))
    );
}
