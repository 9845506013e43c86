//! What operators see and do: metrics, readiness, versions, a second address, and a server that drains.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use rowstream::client::Outcome;
use rowstream::engine::memory::{Gate, MemoryEngine, Script};
use rowstream::engine::{EngineError, EngineErrorKind};
use rowstream::server::{Limits, StartError};
use rowstream::{Client, ClientError, Server, ServerHandle, StreamingConfig};
use serde_json::{Value, json};

use crate::auth::ALICE;
use crate::blocking::wide;
use crate::exposition::Samples;
use crate::resume::wait_until_detached;
use crate::support::{DEADLINE, Plain, Wire, eventually, serve, serve_with};

/// The answer's head and body.
pub(crate) fn get(address: SocketAddr, path: &str) -> (String, String) {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    write!(socket, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

fn address(server: &ServerHandle) -> SocketAddr {
    server.local_addr().unwrap()
}

fn metrics(server: &ServerHandle) -> Samples {
    let (head, body) = get(server.admin_addr().unwrap_or_else(|| address(server)), "/metrics");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    let format = "\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n";
    assert!(head.contains(format), "{head}");
    Samples::parse(&body)
}

fn ready(address: SocketAddr) -> (String, String) {
    let (head, body) = get(address, "/readyz");
    (head[9..12].to_owned(), body.trim_end().to_owned())
}

fn rows(n: u64) -> Script {
    Script::new(["n"]).generate(n, |n| vec![(n as i64).into()])
}

#[test]
fn counters_agree_with_what_was_done() {
    let gate = Gate::new();
    let engine = MemoryEngine::builder()
        .query("ten", rows(10))
        .query("gated", rows(5).gate(&gate).row([1.into()]))
        .query(
            "failing",
            rows(3).fail(EngineError::new(EngineErrorKind::Query, "on purpose")),
        )
        .query("panicking", rows(1).panic("on purpose"))
        .build();
    let server = serve(engine.clone());
    let nothing = metrics(&server);
    assert_eq!(
        (nothing.get("streams_started_total"), nothing.get("rows_read_total")),
        (0, 0)
    );
    assert_eq!(nothing.get("ready"), 1);

    let mut client = Plain::connect(&server);
    let mut sent_bytes = 0;
    for _ in 0..3 {
        let seen = client.run("ten", json!({"batch_size": 4}));
        assert_eq!((seen.rows.len(), seen.batches.len()), (10, 3));
        let Some(Wire::QueryCompleted { bytes, .. }) = seen.end else {
            panic!("not completed: {:?}", seen.end)
        };
        sent_bytes += bytes;
    }
    assert_eq!(client.run("failing", json!({})).rows.len(), 3);
    assert_eq!(client.run("panicking", json!({})).error_code(), "INTERNAL");
    assert_eq!(client.run("unknown", json!({})).error_code(), "SYNTAX_ERROR");
    for _ in 0..2 {
        client.query("gated", json!({"batch_size": 5}));
        let id = client.recv_started();
        client.recv_until("rows", |wire| matches!(wire, Wire::QueryBatch { .. }));
        client.send(&json!({"type": "cancel_query", "stream_id": id}));
        client.recv_until("the end", Wire::is_terminator);
    }
    client.send(&json!({"type": "resume_query", "resume_token": "AAAA", "last_batch": -1}));
    client.recv();
    client.send(&json!({"type": "nonsense"}));
    client.recv();
    client.query("gated", json!({"batch_size": 5}));
    client.recv_started();
    client.recv_until("rows", |wire| matches!(wire, Wire::QueryBatch { .. }));

    let during = metrics(&server);
    let states = ["executing", "streaming"].map(|state| during.get(&format!("streams{{state=\"{state}\"}}")));
    assert_eq!(states.iter().sum::<u64>(), 1);
    assert_eq!(during.sum("streams"), 1);
    assert_eq!(during.get("connections"), 1, "but for the one that asks");
    gate.open();
    client.recv_until("the end", Wire::is_terminator);
    drop(client);
    eventually("connections", &0, || server.connections());

    let after = metrics(&server);
    assert_eq!(after.get("streams_started_total"), 9);
    for (outcome, n) in [("completed", 4), ("failed", 3), ("cancelled", 2)] {
        assert_eq!(
            after.get(&format!("streams_ended_total{{outcome=\"{outcome}\"}}")),
            n,
            "{outcome}"
        );
    }
    assert_eq!(after.get("streams_cancelled_total{reason=\"client\"}"), 2);
    assert_eq!(after.sum("streams_cancelled_total"), 2);
    for code in ["QUERY_FAILED", "INTERNAL", "SYNTAX_ERROR"] {
        assert_eq!(
            after.get(&format!("streams_failed_total{{code=\"{code}\"}}")),
            1,
            "{code}"
        );
    }
    assert_eq!(after.sum("streams_failed_total"), 3);
    assert_eq!(after.get("requests_refused_total{code=\"RESUME_DENIED\"}"), 1);
    assert_eq!(after.get("requests_refused_total{code=\"BAD_MESSAGE\"}"), 1);
    assert_eq!(after.sum("requests_refused_total"), 2);
    assert_eq!(after.get("resumes_total{outcome=\"denied\"}"), 1);
    assert_eq!(after.sum("resumes_total"), 1);
    let n_rows = 3 * 10 + 3 + 2 * 5 + 6;
    assert_eq!(
        (after.get("rows_sent_total"), after.get("rows_read_total")),
        (n_rows, n_rows)
    );
    assert_eq!(after.get("batches_sent_total"), 3 * 3 + 1 + 2 + 2);
    let wire = after.get("batches_wire_bytes_total");
    assert!(
        wire > sent_bytes,
        "{wire} of which {sent_bytes} are the first three streams'"
    );
    assert_eq!(wire, after.get("batches_raw_bytes_total"), "nothing was compressed");
    assert!(after.get("sent_bytes_total") > wire && after.get("received_bytes_total") > 0);
    assert_eq!(after.get("stream_first_row_seconds_count"), 7);
    assert_eq!(after.get("stream_duration_seconds_count"), 9);
    assert_eq!(after.get("cancel_latency_seconds_count"), 2);
    assert!(after.seconds("blocked_seconds_total{reason=\"worker\"}") > 0.0);
    assert!(after.seconds("blocked_seconds_total{reason=\"socket\"}") > 0.0);
    // Three looks at the metrics besides the client, the last of which is the one that asks.
    assert_eq!(after.get("connections_accepted_total"), 4);
    assert_eq!(after.get("http_responses_total{class=\"1xx\"}"), 1);
    assert_eq!(after.get("http_responses_total{class=\"2xx\"}"), 2);
    assert_eq!(after.get("connections_ended_total{outcome=\"http\"}"), 2);
    assert_eq!(after.sum("connections_ended_total"), 3);
    // Nothing is left over.
    assert_eq!(
        (after.sum("streams"), after.get("connections"), after.sum("held_bytes")),
        (0, 0, 0)
    );
    assert_eq!(
        after.get("memory_bound_bytes"),
        server.memory_bound().bytes(0, 0) as u64
    );
    assert!(after.get("threads") > after.get("workers"));
    assert_eq!(engine.probe().cursors_open, 0);
}

#[test]
fn what_waits_is_told_by_what_for() {
    let engine = MemoryEngine::builder().query("ten", rows(10)).build();
    let server = serve(engine);
    let mut client = Plain::connect(&server);
    client.query(
        "ten",
        json!({"batch_size": 2, "window": {"batches": 1}, "progress_interval_ms": 0}),
    );
    let id = client.recv_started();
    for n in 0..5 {
        client.recv_until("a batch", |wire| matches!(wire, Wire::QueryBatch { .. }));
        if n == 0 {
            eventually("parked", &1, || {
                metrics(&server).get("streams{state=\"waiting_client\"}")
            });
        }
        client.send(&json!({"type": "ack", "stream_id": id, "batch_number": n}));
    }
    client.finish().assert_completed();
    let after = metrics(&server);
    assert!(after.seconds("blocked_seconds_total{reason=\"client\"}") > 0.0);
    assert_eq!(after.seconds("blocked_seconds_total{reason=\"memory\"}"), 0.0);
}

#[test]
fn resumes_and_replays_are_counted() {
    let gate = Gate::new();
    let engine = MemoryEngine::builder().query("q", rows(10).gate(&gate)).build();
    let server = serve(engine);
    let mut client = Plain::connect(&server);
    client.query("q", json!({"batch_size": 5, "resumable": true}));
    let Wire::QueryStarted {
        resume_token: Some(token),
        ..
    } = client.recv_until("the start", |wire| matches!(wire, Wire::QueryStarted { .. }))
    else {
        panic!("no token")
    };
    for _ in 0..2 {
        client.recv_until("a batch", |wire| matches!(wire, Wire::QueryBatch { .. }));
    }
    drop(client);
    eventually("detached", &1, || metrics(&server).get("streams_detached_total"));
    let mut client = Plain::connect(&server);
    client.send(&json!({"type": "resume_query", "resume_token": token, "last_batch": 0}));
    while !matches!(client.recv_unchecked(), Wire::QueryBatch { replay: true, .. }) {}
    gate.open();
    while !matches!(client.recv_unchecked(), Wire::QueryCompleted { .. }) {}
    let after = metrics(&server);
    assert_eq!(after.get("resumes_total{outcome=\"resumed\"}"), 1);
    assert_eq!(after.get("batches_replayed_total"), 1);
    assert_eq!(after.get("rows_sent_total"), 10, "replays are not counted");
    assert_eq!(after.get("connections_ended_total{outcome=\"lost\"}"), 1);
    assert_eq!(after.get("streams{state=\"retained\"}"), 1);
}

/// Whatever a peer makes of being told: whether it closes, is silent, or has gone.
#[test]
fn a_connection_that_the_server_ends_is_counted_by_why() {
    let ended = |server: &ServerHandle| {
        let samples = metrics(server);
        ["refused", "idle", "lost", "closed"]
            .map(|outcome| samples.get(&format!("connections_ended_total{{outcome=\"{outcome}\"}}")))
    };
    let operated = || crate::auth::builder().admin_listen("127.0.0.1:0");

    let server = operated().auth_deadline(Duration::from_millis(100)).start().unwrap();
    let mut silent = Plain::connect(&server);
    assert_eq!(silent.recv_close(), 4408);
    eventually("the one who stays is thrown out", &[1, 0, 0, 0], || ended(&server));
    let mut polite = Plain::connect(&server);
    assert_eq!(polite.recv_close(), 4408);
    polite.answer_close();
    eventually("the one who closes", &[2, 0, 0, 0], || ended(&server));
    let server = operated().auth_deadline(Duration::from_secs(3_600)).start().unwrap();
    drop(Plain::connect(&server));
    eventually("the one who has gone before", &[0, 0, 1, 0], || ended(&server));

    let mut limits = Limits::default();
    limits.idle_timeout = Some(Duration::from_millis(100));
    let server = operated().limits(limits).start().unwrap();
    let known = || Plain::connect_with(&server, &[("authorization", &format!("Bearer {ALICE}"))]);
    let mut silent = known();
    assert_eq!(silent.recv_close(), 1001);
    eventually("the one who stays", &[0, 1, 0, 0], || ended(&server));
    let mut polite = known();
    assert_eq!(polite.recv_close(), 1001);
    polite.answer_close();
    eventually("the one who closes", &[0, 2, 0, 0], || ended(&server));
}

#[test]
fn a_version_says_what_is_running() {
    let server = serve(MemoryEngine::builder().build());
    let (head, body) = get(address(&server), "/version");
    assert!(
        head.contains("\r\nContent-Type: application/json; charset=utf-8\r\n"),
        "{head}"
    );
    let version: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(version["name"], "rowstream");
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(version["protocol"], "rowstream.v1");
    assert_eq!(version["sqlite"], rusqlite::version());
    let sqlite_features = version["sqlite_features"].as_array().unwrap();
    for feature in [
        "dbstat",
        "fts3",
        "fts5",
        "geopoly",
        "json",
        "math",
        "percentile",
        "rtree",
        "series",
    ] {
        assert!(sqlite_features.contains(&feature.into()), "{feature}: {version}");
    }
    let features = version["features"].as_array().unwrap();
    assert_eq!(features.contains(&json!("cli")), cfg!(feature = "cli"));
    let build = format!(
        "build_info{{version=\"{}\",sqlite_version=\"{}\"}}",
        env!("CARGO_PKG_VERSION"),
        rusqlite::version()
    );
    assert_eq!(metrics(&server).get(&build), 1);
}

#[test]
fn operators_have_an_address_of_their_own() {
    let server = Server::builder()
        .engine("memory", MemoryEngine::builder().build())
        .listen("127.0.0.1:0")
        .admin_listen("127.0.0.1:0")
        .connections_max(1)
        .start()
        .unwrap();
    let admin = server.admin_addr().unwrap();
    assert!(get(address(&server), "/metrics").0.starts_with("HTTP/1.1 404 "));
    for path in ["/", "/ws"] {
        assert!(get(admin, path).0.starts_with("HTTP/1.1 404 "), "{path}");
    }
    assert!(tungstenite::connect(format!("ws://{admin}/ws")).is_err());
    for path in ["/healthz", "/readyz", "/version", "/metrics"] {
        assert!(get(admin, path).0.starts_with("HTTP/1.1 200 "), "{path}");
    }
    eventually("connections", &0, || server.connections());
    assert_eq!(ready(admin), ("200".to_owned(), "ready".to_owned()));
    let client = Plain::connect(&server);
    assert_eq!(ready(admin), ("503".to_owned(), "full".to_owned()));
    let mut refused = TcpStream::connect(address(&server)).unwrap();
    refused.set_read_timeout(Some(DEADLINE)).unwrap();
    refused.read_to_end(&mut Vec::new()).unwrap();
    let full = metrics(&server);
    assert_eq!(full.get("connections_unserved_total{reason=\"full\"}"), 1);
    assert_eq!(
        (
            full.get("ready"),
            full.get("connections"),
            full.get("connections_limit")
        ),
        (0, 1, 1)
    );
    // What operators ask is not among what is counted.
    assert_eq!(full.get("connections_accepted_total"), 2);
    drop(client);
    eventually("ready", &"200".to_owned(), || ready(admin).0);
    server.shutdown();
    assert!(TcpStream::connect(admin).is_err(), "it goes with the server");
}

#[test]
fn an_address_that_is_taken_is_said_to_be() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let builder = Server::builder().engine("memory", MemoryEngine::builder().build());
    let error = builder
        .listen("127.0.0.1:0")
        .admin_listen(taken.local_addr().unwrap())
        .start()
        .unwrap_err();
    assert!(
        error.to_string().contains(&taken.local_addr().unwrap().to_string()),
        "{error}"
    );
}

#[test]
fn a_socket_that_is_bound_already_is_listened_on() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let address = socket.local_addr().unwrap();
    let engine = MemoryEngine::builder().query("ten", rows(10)).build();
    let server = Server::builder()
        .engine("memory", engine)
        .listener(socket)
        .start()
        .unwrap();
    assert_eq!(server.local_addr(), Some(address));
    assert_eq!(Plain::connect(&server).run("ten", json!({})).rows.len(), 10);
    // Beside an address of the server's own, and told where it is exposed as any other.
    let both = Server::builder()
        .engine("memory", MemoryEngine::builder().build())
        .listen("127.0.0.1:0")
        .listener(TcpListener::bind("127.0.0.1:0").unwrap());
    assert_eq!(both.start().unwrap().local_addrs().len(), 2);
    let exposed = Server::builder()
        .engine("memory", MemoryEngine::builder().build())
        .listener(TcpListener::bind("0.0.0.0:0").unwrap());
    assert!(matches!(exposed.start(), Err(StartError::Exposed(_))));
}

/// Has the server drain on a thread until `during` is done, and longer where streams are left.
fn drain_while(server: &ServerHandle, deadline: Duration, during: impl FnOnce()) -> (usize, usize) {
    std::thread::scope(|scope| {
        let draining = scope.spawn(|| server.drain(deadline));
        eventually("not ready", &("503".to_owned(), "draining".to_owned()), || {
            ready(address(server))
        });
        during();
        let report = draining.join().unwrap();
        (report.ended, report.cancelled)
    })
}

#[test]
fn a_draining_server_lets_streams_end_and_says_so_to_everybody() {
    let gate = Gate::new();
    let engine = MemoryEngine::builder()
        .query("gated", rows(5).gate(&gate).row([1.into()]))
        .build();
    let server = serve(engine);
    let mut idle = Plain::connect(&server);
    let mut busy = Plain::connect_with(&server, &[("Sec-WebSocket-Protocol", "rowstream.v1")]);
    assert!(matches!(busy.recv(), Wire::Welcome { .. }));
    busy.query("gated", json!({"batch_size": 5, "request_id": "running"}));
    busy.recv_until("rows", |wire| matches!(wire, Wire::QueryBatch { .. }));
    assert_eq!(ready(address(&server)), ("200".to_owned(), "ready".to_owned()));
    let report = drain_while(&server, DEADLINE, || {
        let goaway = idle.recv();
        let Wire::Goaway {
            reason,
            drain_ms,
            resumable: true,
        } = &goaway
        else {
            panic!("{goaway:?}")
        };
        assert_eq!(reason, "shutdown");
        assert!((1..=DEADLINE.as_millis() as u64).contains(drain_ms), "{drain_ms}");
        assert_eq!(idle.recv_close(), 1012);
        assert!(matches!(busy.recv(), Wire::Goaway { .. }));
        busy.query("gated", json!({"request_id": "too late"}));
        let refused = busy.recv();
        assert!(
            matches!(&refused, Wire::Error { code, stream_id: None, retryable: true, .. } if code == "SHUTTING_DOWN"),
            "{refused:?}"
        );
        assert!(
            get(address(&server), "/healthz").0.starts_with("HTTP/1.1 200 "),
            "alive"
        );
        assert_eq!(metrics(&server).get("ready"), 0);
        gate.open();
        assert_eq!(busy.finish().assert_completed().rows.len(), 1);
        assert_eq!(busy.recv_close(), 1012);
    });
    assert_eq!(report, (1, 0));
    assert!(TcpStream::connect(address(&server)).is_err(), "drained");
    server.shutdown();
    assert_eq!((server.connections(), server.streams().bytes_held()), (0, 0));
}

#[test]
fn what_runs_may_be_resumed_while_the_server_drains() {
    let gate = Gate::new();
    let engine = MemoryEngine::builder()
        .query("gated", rows(5).gate(&gate).row([5.into()]))
        .build();
    let server = serve(engine);
    let mut lost = Plain::connect(&server);
    lost.query("gated", json!({"batch_size": 5, "resumable": true}));
    let Wire::QueryStarted {
        resume_token: Some(token),
        ..
    } = lost.recv_until("the start", |wire| matches!(wire, Wire::QueryStarted { .. }))
    else {
        panic!("no token")
    };
    lost.recv_until("rows", |wire| matches!(wire, Wire::QueryBatch { .. }));
    let report = drain_while(&server, DEADLINE, || {
        assert!(matches!(lost.recv(), Wire::Goaway { .. }));
        drop(lost);
        eventually("detached", &1, || server.streams().statistics().detached);
        // It stays open until what it resumes has ended, though it has no streams when it comes.
        let mut back = Plain::connect(&server);
        assert!(matches!(back.recv(), Wire::Goaway { .. }), "told, too");
        back.assert_silence();
        back.send(&json!({"type": "resume_query", "resume_token": token, "last_batch": 0}));
        assert!(matches!(back.recv_unchecked(), Wire::QueryResumed { .. }));
        gate.open();
        let batch = back.recv_unchecked();
        assert!(
            matches!(&batch, Wire::QueryBatch { rows, .. } if *rows == [json!({"n": 5})]),
            "{batch:?}"
        );
        let end = back.recv_unchecked();
        assert!(matches!(end, Wire::QueryCompleted { total_rows: 6, .. }), "{end:?}");
        assert_eq!(back.recv_close(), 1012);
    });
    assert_eq!(report, (1, 0));
}

#[test]
fn a_drain_waits_until_the_last_row_is_taken() {
    let server = serve(MemoryEngine::builder().query("six", rows(6)).build());
    let mut slow = Plain::connect(&server);
    slow.query("six", json!({"batch_size": 2, "window": {"batches": 2}}));
    let id = slow.recv_started();
    slow.recv_until("batch 1", |wire| {
        matches!(wire, Wire::QueryBatch { batch_number: 1, .. })
    });
    let report = drain_while(&server, DEADLINE, || {
        assert!(matches!(slow.recv(), Wire::Goaway { .. }));
        slow.send(&json!({"type": "ack", "stream_id": id, "batch_number": 1}));
        slow.recv_until("batch 2", |wire| {
            matches!(wire, Wire::QueryBatch { batch_number: 2, .. })
        });
        slow.send(&json!({"type": "ack", "stream_id": id, "batch_number": 2}));
        slow.finish().assert_completed();
        assert_eq!(slow.recv_close(), 1012);
    });
    assert_eq!(report, (1, 0));
}

#[test]
fn what_is_left_at_the_deadline_is_cancelled_and_told_so_once() {
    let engine = MemoryEngine::builder()
        .query("stuck", rows(1).gate(&Gate::new()))
        .query("wide", wide())
        .build();
    let server = serve_with(engine.clone(), 2, StreamingConfig::default());
    let mut client = Plain::connect(&server);
    for n in 0..6 {
        client.query("stuck", json!({"request_id": n}));
    }
    eventually("accepted", &6, || server.streams().statistics().started);
    let mut n_ended = 0;
    server.drain(Duration::from_millis(1));
    server.shutdown();
    // Those that no worker had got to yet end in SHUTTING_DOWN: nothing of them was executed.
    while n_ended < 6 {
        let wire = client.recv();
        match &wire {
            Wire::QueryCancelled { reason, .. } => assert_eq!(reason, "shutdown"),
            Wire::Error { code, .. } => assert_eq!(code, "SHUTTING_DOWN"),
            _ => continue,
        }
        n_ended += 1;
    }
    assert_eq!(client.recv_close(), 1012);
    assert_eq!(engine.probe().cursors_open, 0);
}

#[test]
fn a_client_finishes_what_it_has_and_is_told_to_ask_elsewhere() {
    let gate = Gate::new();
    let engine = MemoryEngine::builder()
        .query("gated", rows(5).gate(&gate).row([5.into()]))
        .build();
    let server = serve(engine);
    let client = Client::connect(&format!("ws://{}/ws", address(&server))).unwrap();
    assert_eq!(client.goaway(), None);
    let mut stream = client.query("gated").batch_size(5).start().unwrap();
    assert_eq!(stream.next().unwrap().unwrap().len(), 5);
    let report = drain_while(&server, DEADLINE, || {
        eventually("told", &Some(true), || client.goaway().map(|goaway| goaway.resumable));
        let refused = client.query("gated").start().unwrap_err();
        assert!(
            matches!(&refused, ClientError::Query(error) if error.code.as_str() == "SHUTTING_DOWN" && error.retryable),
            "{refused}"
        );
        gate.open();
        assert_eq!(stream.next().unwrap().unwrap().len(), 1);
        assert!(stream.next().is_none());
        assert!(matches!(stream.outcome(), Some(Outcome::Completed(_))));
    });
    assert_eq!(report, (1, 0));
}

/// Names in the queries of a dashboard.
fn names_in(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, _) in text.match_indices("rowstream_") {
        let rest = &text[at..];
        let end = rest
            .find(|c: char| !c.is_ascii_lowercase() && c != '_')
            .unwrap_or(rest.len());
        names.insert(rest[..end].to_owned());
    }
    names
}

#[test]
fn the_dashboard_asks_only_for_what_there_is() {
    fn expressions(node: &Value, into: &mut Vec<String>) {
        match node {
            Value::Object(fields) => {
                for (name, value) in fields {
                    match (name.as_str(), value) {
                        ("expr", Value::String(expression)) => into.push(expression.clone()),
                        _ => expressions(value, into),
                    }
                }
            }
            Value::Array(list) => list.iter().for_each(|node| expressions(node, into)),
            _ => {}
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/grafana/rowstream.json");
    let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let mut asked = Vec::new();
    expressions(&dashboard, &mut asked);
    assert!(asked.len() >= 15, "{asked:?}");
    let server = serve(MemoryEngine::builder().build());
    let samples = metrics(&server);
    let there: BTreeSet<String> = samples.names().into_iter().map(str::to_owned).collect();
    let missing: Vec<_> = asked
        .iter()
        .flat_map(|text| names_in(text))
        .filter(|name| !there.contains(name))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
    // And nothing that is counted is left out of sight.
    let shown: BTreeSet<String> = asked.iter().flat_map(|text| names_in(text)).collect();
    let family_is_shown = |family: &String| shown.iter().any(|name| name.starts_with(family.as_str()));
    let hidden: Vec<_> = samples
        .families
        .keys()
        .filter(|family| !family_is_shown(family))
        .collect();
    assert!(hidden.is_empty(), "{hidden:?}");
}

#[test]
fn settings_without_end_serve_and_drain() {
    let mut streaming = StreamingConfig::default();
    streaming.max_query_duration = Duration::MAX;
    streaming.first_batch_interval = Duration::MAX;
    streaming.batch_interval = Duration::MAX;
    streaming.progress_interval = Duration::MAX;
    streaming.retention = Duration::MAX;
    streaming.stall_limit = Duration::MAX;
    let mut limits = Limits::default();
    limits.head_deadline = Duration::MAX;
    limits.idle_timeout = Some(Duration::MAX);
    limits.assembly_timeout = Duration::MAX;
    let server = crate::auth::builder()
        .streaming(streaming)
        .limits(limits)
        .heartbeat(Duration::MAX - Duration::from_nanos(1), Duration::MAX)
        .auth_deadline(Duration::MAX)
        .start()
        .unwrap();
    let mut known = Plain::connect_with(&server, &[("authorization", &format!("Bearer {ALICE}"))]);
    let mut stranger = Plain::connect(&server);
    stranger.send(&json!({"type": "hello", "token": ALICE}));
    assert!(matches!(stranger.recv(), Wire::Welcome { .. }));
    for client in [&mut known, &mut stranger] {
        let endless = json!({"timeout_ms": u64::MAX, "progress_interval_ms": 60_000});
        for extra in [json!({}), endless] {
            let seen = client.run("few", extra);
            assert_eq!(seen.assert_completed().rows.len(), 3);
        }
    }
    known.query("endless", json!({"resumable": true, "batch_size": 3}));
    let id = known.recv_started();
    known.recv_until("rows", |wire| matches!(wire, Wire::QueryBatch { .. }));
    drop(known);
    wait_until_detached(&server);
    let ended = std::thread::scope(|scope| {
        let draining = scope.spawn(|| server.drain(Duration::MAX));
        let Wire::Goaway { drain_ms, .. } = stranger.recv() else {
            panic!("no goaway")
        };
        assert!(drain_ms > 9 * 365 * 24 * 60 * 60 * 1_000, "{drain_ms}");
        server.shutdown();
        draining.join().unwrap()
    });
    assert_eq!((ended.ended, ended.cancelled), (1, 0), "{id}");
}
