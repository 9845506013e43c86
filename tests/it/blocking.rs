//! What blocks, on what, and what wakes it.

use std::time::Duration;

use rowstream::engine::memory::{Gate, MemoryEngine, Script};
use rowstream::{Server, StreamingConfig};
use serde_json::json;

use crate::support::{DEADLINE, Plain, Wire, eventually, serve, serve_with};

/// More rows than any socket's buffers hold.
const ENDLESS: u64 = 1 << 40;

/// Wide rows without end: a client that does not read stalls its stream soon.
pub(crate) fn wide() -> Script {
    let filler = "x".repeat(1_000);
    Script::new(["n", "filler"]).generate(ENDLESS, move |n| vec![(n as i64).into(), filler.as_str().into()])
}

/// Waits until a stream of this server stands because its client does not read.
#[track_caller]
pub(crate) fn wait_until_stalled(server: &rowstream::ServerHandle, n_streams: usize) {
    eventually("streams that wait for their clients", &n_streams, || {
        let streams = server.streams();
        let waiting = |report: &&rowstream::StreamReport| report.status == rowstream::QueryStreamStatus::WaitingClient;
        streams.reports().iter().filter(waiting).count()
    });
}

#[test]
fn the_first_rows_leave_while_the_engine_waits_for_the_next() {
    let (first, second) = (Gate::new(), Gate::new());
    let script = Script::new(["n"])
        .row([1.into()])
        .row([2.into()])
        .gate(&first)
        .row([3.into()])
        .gate(&second)
        .row([4.into()]);
    let server = serve(MemoryEngine::builder().query("q", script).build());
    let mut client = Plain::connect(&server);
    client.query("q", json!({"batch_size": 100}));
    client.recv_started();
    let Wire::QueryBatch {
        rows, has_more: true, ..
    } = client.recv()
    else {
        panic!("no first batch")
    };
    assert_eq!(rows.len(), 2, "both rows that were ready");
    first.open();
    let batch = client.recv_until("the second batch", |wire| matches!(wire, Wire::QueryBatch { .. }));
    assert!(matches!(batch, Wire::QueryBatch { row_count: 1, .. }), "{batch:?}");
    second.open();
    client.finish().assert_completed();
}

#[test]
fn a_stream_says_that_it_has_started_before_the_engine_gives_a_row() {
    let gate = Gate::new();
    let script = Script::new(["n"]).gate(&gate).row([1.into()]);
    let server = serve(MemoryEngine::builder().query("q", script).build());
    let mut client = Plain::connect(&server);
    client.query("q", json!({}));
    client.recv_started();
    gate.wait_reached(DEADLINE).unwrap();
    gate.open();
    client.finish().assert_completed();
}

#[test]
fn clients_that_do_not_read_cost_no_worker() {
    const STALLED: usize = 8;
    let quick = Script::new(["n"]).rows((0..1_000_i64).map(|n| vec![n.into()]));
    let engine = MemoryEngine::builder()
        .query("wide", wide())
        .query("quick", quick)
        .build();
    let server = serve_with(engine.clone(), 1, StreamingConfig::default());
    let stalled: Vec<_> = (0..STALLED)
        .map(|_| {
            let mut client = Plain::connect(&server);
            client.query("wide", json!({}));
            client
        })
        .collect();
    wait_until_stalled(&server, STALLED);
    eventually("no engine call runs", &0, || engine.probe().fills_running);
    let rows_before = engine.probe().rows_written;

    // The only worker serves whoever reads.
    let mut client = Plain::connect(&server);
    assert_eq!(client.run("quick", json!({})).assert_completed().rows.len(), 1_000);
    assert_eq!(
        engine.probe().rows_written,
        rows_before + 1_000,
        "nothing was read ahead of the stalled clients"
    );

    drop(stalled);
    eventually("cursors", &0, || engine.probe().cursors_open);
}

#[test]
fn a_stalled_stream_goes_on_where_it_stood_once_its_client_reads() {
    let filler = "x".repeat(1_000);
    let n_rows = 30_000;
    let script =
        Script::new(["n", "filler"]).generate(n_rows, move |n| vec![(n as i64).into(), filler.as_str().into()]);
    let server = serve(MemoryEngine::builder().query("q", script).build());
    let mut client = Plain::connect(&server);
    client.query("q", json!({"progress_interval_ms": 0}));
    wait_until_stalled(&server, 1);
    let seen = client.finish();
    let stalled = matches!(seen.end, Some(Wire::QueryCompleted { total_rows, .. }) if total_rows == n_rows);
    assert!(stalled, "{:?}", seen.end);
    assert_eq!(seen.rows.len() as u64, n_rows);
}

#[test]
fn what_one_stream_holds_is_bounded() {
    let engine = MemoryEngine::builder().query("wide", wide()).build();
    let mut config = StreamingConfig::default();
    config.channel_buffer_size = 3;
    let server = serve_with(engine.clone(), 2, config);
    let mut client = Plain::connect(&server);
    client.query("wide", json!({"batch_size": 10}));
    wait_until_stalled(&server, 1);
    eventually("no engine call runs", &0, || engine.probe().fills_running);
    let report = server.streams().reports()[0].clone();
    let held_rows = report.rows_read - report.rows_sent;
    assert!(
        held_rows <= 3 * 10,
        "{held_rows} rows in a channel of three batches of ten"
    );
}

#[test]
fn queries_beyond_the_workers_wait_and_are_told_their_place() {
    let gate = Gate::new();
    let script = Script::new(["n"]).gate(&gate).row([1.into()]);
    let server = serve_with(
        MemoryEngine::builder().query("q", script).build(),
        1,
        StreamingConfig::default(),
    );
    let mut client = Plain::connect(&server);
    client.query("q", json!({"request_id": 0}));
    client.recv_started();
    gate.wait_reached(DEADLINE).unwrap();
    for n in 1..=3 {
        client.query("q", json!({"request_id": n}));
        let queued = client.recv();
        let Wire::QueryQueued {
            position, request_id, ..
        } = &queued
        else {
            panic!("{queued:?}")
        };
        assert_eq!((*position, request_id.as_ref()), (n, Some(&json!(n))));
    }
    gate.open();
    for _ in 0..4 {
        client.recv_until("an end", Wire::is_terminator);
    }
    client.assert_silence();
}

#[test]
fn time_spent_in_the_queue_ends_with_a_clear_refusal() {
    let gate = Gate::new();
    let script = Script::new(["n"]).gate(&gate).row([1.into()]);
    let server = serve_with(
        MemoryEngine::builder().query("q", script).build(),
        1,
        StreamingConfig::default(),
    );
    let mut first = Plain::connect(&server);
    first.query("q", json!({}));
    gate.wait_reached(DEADLINE).unwrap();
    let mut second = Plain::connect(&server);
    let seen = second.run("q", json!({"timeout_ms": 1}));
    assert!(!seen.started && seen.queued == Some(1));
    assert_eq!(seen.error_code(), "QUERY_TIMEOUT");
    assert!(
        matches!(&seen.end, Some(Wire::Error { message, .. }) if message.contains("timeout_ms (1ms)")),
        "{seen:?}"
    );
    gate.open();
    first.finish().assert_completed();
}

#[test]
fn an_estimate_never_holds_a_row_back() {
    let gate = Gate::new();
    let script = Script::new(["n"])
        .generate(500, |n| vec![(n as i64).into()])
        .gate_on_estimate(&gate);
    let engine = MemoryEngine::builder().query("q", script).build();
    let server = serve_with(engine.clone(), 2, StreamingConfig::default());
    let mut client = Plain::connect(&server);
    // Its estimate stands at the gate for ever; the end of the stream takes it away.
    client.run("q", json!({"batch_size": 1})).assert_completed();
    eventually("nobody at the gate", &0, || gate.waiting());
    client.run("q", json!({})).assert_completed();
}

#[test]
fn an_estimate_that_takes_longer_than_it_may_is_stopped() {
    let gate = Gate::new();
    let script = Script::new(["n"])
        .generate(1_000_000, |n| vec![(n as i64).into()])
        .gate_on_estimate(&gate);
    let server = serve_with(
        MemoryEngine::builder().query("q", script).build(),
        1,
        StreamingConfig::default(),
    );
    let mut stalled = Plain::connect(&server);
    stalled.query("q", json!({"window": {"batches": 1}}));
    gate.wait_reached(DEADLINE).unwrap();
    eventually("nobody at the gate", &0, || gate.waiting());
    // Its stream lives, and the only worker is free for another.
    assert_eq!(server.streams().reports().len(), 1);
    let mut other = Plain::connect(&server);
    other.query("q", json!({"max_rows": 5, "progress_interval_ms": 0}));
    other.finish().assert_completed();
}

#[test]
fn shutting_down_needs_no_client_to_help() {
    let gate = Gate::new();
    let engine = MemoryEngine::builder()
        .query("wide", wide())
        .query("gated", Script::new(["n"]).gate(&gate).row([1.into()]))
        .build();
    let server = serve(engine.clone());
    let mut idle = Plain::connect(&server);
    let mut gated = Plain::connect(&server);
    gated.query("gated", json!({}));
    gated.recv_started();
    gate.wait_reached(DEADLINE).unwrap();
    let mut stalled = Plain::connect(&server);
    stalled.query("wide", json!({}));
    wait_until_stalled(&server, 1);

    server.shutdown();
    assert_eq!(gated.finish().cancel_reason(), "shutdown");
    assert_eq!(gated.recv_close(), 1001);
    assert_eq!(idle.recv_close(), 1001);
    assert_eq!(engine.probe().cursors_open, 0);
    assert_eq!(server.connections(), 0);
    server.shutdown();
    server.join();
}

#[test]
fn draining_lets_streams_end_and_takes_no_more() {
    let gate = Gate::new();
    let script = Script::new(["n"]).gate(&gate).row([1.into()]);
    let server = serve(
        MemoryEngine::builder()
            .query("q", script)
            .query("stuck", Script::new(["n"]).gate(&Gate::new()))
            .build(),
    );
    let mut client = Plain::connect(&server);
    client.query("q", json!({"request_id": "q"}));
    client.query("stuck", json!({"request_id": "stuck"}));
    client.recv_started();
    client.recv_started();
    gate.wait_reached(DEADLINE).unwrap();
    gate.open();
    client.recv_until("the end of q", Wire::is_terminator);
    let report = server.drain(Duration::ZERO);
    assert_eq!((report.ended, report.cancelled), (0, 1));
    let told = client.recv();
    assert!(matches!(told, Wire::Goaway { drain_ms: 0, .. }), "{told:?}");
    let end = client.recv_until("the end of the other", Wire::is_terminator);
    assert!(
        matches!(&end, Wire::QueryCancelled { reason, .. } if reason == "shutdown"),
        "{end:?}"
    );
    assert_eq!(client.recv_close(), 1012, "nothing of it is left");
}

#[test]
fn a_server_can_live_in_memory_alone() {
    use std::io::{Read, Write};

    let engine = MemoryEngine::builder()
        .query("q", Script::new(["n"]).row([1.into()]))
        .build();
    let server = Server::builder().engine("memory", engine).start().unwrap();
    assert_eq!(server.local_addr(), None);
    let (mut here, there) = rowstream::transport::memory_pair(4096);
    server.serve_stream(there).unwrap();
    here.write_all(b"GET /healthz HTTP/1.1\r\nHost: memory\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    here.read_to_string(&mut answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("ok\n"),
        "{answer}"
    );

    let (here, there) = rowstream::transport::memory_pair(64);
    server.serve_stream(there).unwrap();
    let (mut socket, _) = tungstenite::client("ws://memory/ws", here).unwrap();
    socket.send(r#"{"type":"stream_query","query":"q"}"#.into()).unwrap();
    let types: Vec<String> = (0..3).map(|_| socket.read().unwrap().to_string()).collect();
    assert!(types[2].contains("query_completed"), "{types:?}");
    drop(socket);
    eventually("connections", &0, || server.connections());
}
