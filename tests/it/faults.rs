//! Engines that panic or fail at every point: one stream ends, and nothing else.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rowstream::engine::memory::{Gate, MemoryEngine, Script};
use rowstream::engine::{Description, EngineError, EngineErrorKind, Estimate};
use rowstream::server::{ApplicationMessage, ConnectionSender, Handled, MessageHandler};
use rowstream::{CancelToken, Cursor, Engine, QuerySpec, Server, StreamingConfig};
use serde_json::json;

use crate::support::{DEADLINE, Plain, Wire, eventually, serve_with};

const ROWS: u64 = 12;

fn rows(n: u64) -> Script {
    Script::new(["n"]).generate(n, |n| vec![(n as i64).into()])
}

/// Runs each script in turn beside a healthy stream, on as few workers as there can be, and checks how it ends.
fn check_each(scripts: Vec<(String, Script, &str, u64)>) {
    let gate = Gate::new();
    let mut builder = MemoryEngine::builder().query("healthy", rows(ROWS).gate(&gate).row([99.into()]));
    for (name, script, ..) in &scripts {
        builder = builder.query(name, script.clone());
    }
    let engine = builder.query("afterwards", rows(ROWS)).build();
    let server = serve_with(engine.clone(), 2, StreamingConfig::default());
    let mut healthy = Plain::connect(&server);
    healthy.query("healthy", json!({"batch_size": 5}));
    let mut client = Plain::connect(&server);
    for (name, _, code, n_rows) in &scripts {
        let seen = client.run(name, json!({"batch_size": 5}));
        assert_eq!(seen.error_code(), *code, "{name}");
        assert_eq!(seen.rows.len() as u64, *n_rows, "{name}");
        client.assert_silence();
        client.run("afterwards", json!({})).assert_completed();
    }
    gate.open();
    assert_eq!(healthy.finish().assert_completed().rows.len() as u64, ROWS + 1);
    eventually("cursors", &0, || engine.probe().cursors_open);
    let statistics = server.streams().statistics();
    assert_eq!((statistics.active, statistics.failed), (0, scripts.len() as u64));
}

#[test]
fn a_failure_at_any_row_keeps_the_rows_before_it() {
    let error = EngineError::new(EngineErrorKind::Query, "on purpose");
    let at = |n: u64| (format!("fail at {n}"), rows(n).fail(error.clone()), "QUERY_FAILED", n);
    check_each((0..=ROWS).map(at).collect());
}

#[test]
fn a_panic_at_any_row_ends_one_stream() {
    // Rows of the batch that was being filled are lost with it: whole batches before it are not.
    let at = |n: u64| {
        (
            format!("panic at {n}"),
            rows(n).panic("on purpose"),
            "INTERNAL",
            n / 5 * 5,
        )
    };
    check_each((0..=ROWS).map(at).collect());
}

#[test]
fn a_panic_while_opening_ends_one_stream() {
    let script = Script::new(["n"]).panic_on_open("on purpose");
    check_each(vec![("panic on open".to_owned(), script, "INTERNAL", 0)]);
}

#[test]
fn a_panic_while_closing_changes_nothing_for_the_client() {
    let script = rows(ROWS).panic_on_close("on purpose");
    let engine = MemoryEngine::builder().query("q", script).build();
    let server = serve_with(engine.clone(), 1, StreamingConfig::default());
    let mut client = Plain::connect(&server);
    for _ in 0..3 {
        assert_eq!(client.run("q", json!({})).assert_completed().rows.len() as u64, ROWS);
    }
    eventually("cursors", &0, || engine.probe().cursors_open);
}

/// Opens as told, and panics wherever else it is asked something.
struct Touchy(MemoryEngine);

impl Engine for Touchy {
    fn open(&self, query: &QuerySpec, cancel: &CancelToken) -> Result<Box<dyn Cursor>, EngineError> {
        self.0.open(query, cancel)
    }

    fn estimate(&self, _: &QuerySpec, _: Duration, _: &CancelToken) -> Estimate {
        panic!("on purpose")
    }

    fn describe(&self, _: &str, _: &CancelToken) -> Result<Description, EngineError> {
        panic!("on purpose")
    }
}

#[test]
fn a_panic_while_estimating_or_describing_ends_nothing() {
    let engine = MemoryEngine::builder().query("q", rows(ROWS)).build();
    let server = Server::builder()
        .engine("touchy", Touchy(engine.clone()))
        .workers(1)
        .listen("127.0.0.1:0")
        .start()
        .unwrap();
    let mut client = Plain::connect(&server);
    for n in 0..3 {
        client.send(&json!({"type": "describe_query", "query": "q", "request_id": n}));
        let answer = client.recv();
        assert!(
            matches!(&answer, Wire::Error { code, stream_id: None, request_id, .. }
                if code == "INTERNAL" && *request_id == Some(json!(n))),
            "{answer:?}"
        );
        // Asked after the first batch, on the one worker there is.
        let seen = client.run("q", json!({"batch_size": 1}));
        assert_eq!(seen.assert_completed().rows.len() as u64, ROWS);
    }
    eventually("cursors", &0, || engine.probe().cursors_open);
}

/// Panics as soon as there is a connection, or once it is gone.
struct Fragile {
    at_start: AtomicBool,
    n_gone: Arc<AtomicUsize>,
}

impl MessageHandler for Fragile {
    fn connected(&self, _: &ConnectionSender) {
        assert!(!self.at_start.swap(false, Ordering::AcqRel), "on purpose");
    }

    fn message(&self, _: ApplicationMessage<'_>, _: &ConnectionSender) -> Handled {
        Handled::No
    }

    fn disconnected(&self, _: &ConnectionSender) {
        self.n_gone.fetch_add(1, Ordering::AcqRel);
        panic!("on purpose")
    }
}

#[test]
fn an_application_that_panics_at_either_end_of_a_connection_ends_that_one() {
    let gate = Gate::new();
    let engine = MemoryEngine::builder().query("q", rows(ROWS).gate(&gate)).build();
    let n_gone = Arc::new(AtomicUsize::new(0));
    let server = Server::builder()
        .engine("memory", engine.clone())
        .message_handler(Fragile {
            at_start: AtomicBool::new(true),
            n_gone: Arc::clone(&n_gone),
        })
        .listen("127.0.0.1:0")
        .start()
        .unwrap();
    // Upgraded, and gone.
    let mut first = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    first.set_read_timeout(Some(DEADLINE)).unwrap();
    first
        .write_all(
            b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )
        .unwrap();
    first.read_to_end(&mut Vec::new()).unwrap();
    eventually("connections", &0, || server.connections());
    let mut lively = Plain::connect(&server);
    lively.query("q", json!({}));
    lively.recv_started();
    drop(Plain::connect(&server));
    eventually("gone", &1, || n_gone.load(Ordering::Acquire));
    eventually("connections", &1, || server.connections());
    gate.open();
    assert_eq!(lively.finish().assert_completed().rows.len() as u64, ROWS);
    drop(lively);
    eventually("connections", &0, || server.connections());
    server.shutdown();
    assert_eq!(engine.probe().cursors_open, 0);
}

#[test]
fn an_engine_that_ignores_cancel_is_not_said_to_have_stopped() {
    let gate = Gate::new();
    let script = Script::new(["n"])
        .ignore_cancel()
        .gate(&gate)
        .generate(1_000, |n| vec![(n as i64).into()]);
    let engine = MemoryEngine::builder().query("q", script).build();
    let server = serve_with(engine.clone(), 1, StreamingConfig::default());
    let mut client = Plain::connect(&server);
    client.query("q", json!({"batch_size": 10}));
    let id = client.recv_started();
    client.send(&json!({"type": "cancel_query", "stream_id": id}));
    client.assert_silence();
    gate.open();
    let end = client.recv_until("the end", Wire::is_terminator);
    assert!(
        matches!(
            end,
            Wire::QueryCancelled {
                engine_stopped: true,
                ..
            }
        ),
        "{end:?}"
    );
    assert_eq!(engine.probe().cursors_open, 0);
}
