//! Cancelling, in every phase of a stream's life.

use rowstream::engine::memory::{Gate, MemoryEngine, Script};
use rowstream::{Server, StreamingConfig};
use serde_json::json;

use crate::blocking::{wait_until_stalled, wide};
use crate::support::{DEADLINE, Plain, Wire, eventually, serve, serve_with, unhurried};

fn cancel(client: &mut Plain, stream_id: &str) {
    client.send(&json!({"type": "cancel_query", "stream_id": stream_id}));
}

#[test]
fn while_it_waits_for_a_worker() {
    let gate = Gate::new();
    let script = Script::new(["n"]).gate(&gate).row([1.into()]);
    let engine = MemoryEngine::builder().query("q", script).build();
    let server = serve_with(engine.clone(), 1, StreamingConfig::default());
    let mut busy = Plain::connect(&server);
    busy.query("q", json!({}));
    gate.wait_reached(DEADLINE).unwrap();

    let mut client = Plain::connect(&server);
    client.query("q", json!({"request_id": "waiting"}));
    let queued = client.recv();
    assert!(matches!(queued, Wire::QueryQueued { .. }), "{queued:?}");
    client.send(&json!({"type": "cancel_query", "request_id": "waiting"}));
    // The only worker is still inside the other query: somebody else has ended this one.
    let seen = client.finish();
    assert_eq!((seen.cancel_reason(), seen.started), ("client", false));
    assert_eq!(engine.probe().cursors_opened, 1);
    gate.open();
    busy.finish().assert_completed();
    client.assert_silence();
}

#[test]
fn while_the_engine_opens_it() {
    let script = Script::new(["n"]).gate_on_open(&Gate::new());
    let server = serve(MemoryEngine::builder().query("q", script).build());
    let mut client = Plain::connect(&server);
    client.query("q", json!({"request_id": 1}));
    eventually("the stream is with the engine", &1, || server.streams().reports().len());
    client.send(&json!({"type": "cancel_query", "request_id": 1}));
    let seen = client.finish();
    assert_eq!((seen.cancel_reason(), seen.started), ("client", false));
    client.assert_silence();
}

#[test]
fn while_the_engine_works() {
    let gate = Gate::new();
    let script = Script::new(["n"]).row([1.into()]).gate(&gate);
    let engine = MemoryEngine::builder().query("q", script).build();
    let server = serve(engine.clone());
    let mut client = Plain::connect(&server);
    client.query("q", json!({}));
    let stream_id = client.recv_started();
    client.recv_until("the first row", |wire| matches!(wire, Wire::QueryBatch { .. }));
    gate.wait_reached(DEADLINE).unwrap();
    cancel(&mut client, &stream_id);
    assert_eq!(client.finish().cancel_reason(), "client");
    assert_eq!(
        engine.probe().cursors_open,
        0,
        "the cursor is closed before the client is told"
    );
    client.assert_silence();
}

#[test]
fn while_rows_are_flowing() {
    let engine = MemoryEngine::builder().query("wide", wide()).build();
    let server = serve(engine.clone());
    let mut client = Plain::connect(&server);
    for n_batches in [1, 2, 5, 20, 100] {
        client.query("wide", json!({"batch_size": 10}));
        let stream_id = client.recv_started();
        for _ in 0..n_batches {
            client.recv_until("a batch", |wire| matches!(wire, Wire::QueryBatch { .. }));
        }
        cancel(&mut client, &stream_id);
        let end = client.recv_until("the end", Wire::is_terminator);
        assert!(
            matches!(&end, Wire::QueryCancelled { reason, .. } if reason == "client"),
            "{end:?}"
        );
        client.assert_silence();
    }
    assert_eq!(engine.probe().cursors_open, 0);
}

#[test]
fn while_it_is_parked_and_every_worker_is_busy() {
    let gate = Gate::new();
    let engine = MemoryEngine::builder()
        .query("wide", wide())
        .query("busy", Script::new(["n"]).gate(&gate))
        .build();
    let server = serve_with(engine.clone(), 1, StreamingConfig::default());
    let mut client = Plain::connect(&server);
    client.query("wide", json!({"progress_interval_ms": 0}));
    wait_until_stalled(&server, 1);
    let mut busy = Plain::connect(&server);
    busy.query("busy", json!({}));
    gate.wait_reached(DEADLINE).unwrap();

    let stream_id = client.recv_started();
    cancel(&mut client, &stream_id);
    let end = client.recv_until("the end", Wire::is_terminator);
    assert!(
        matches!(&end, Wire::QueryCancelled { reason, .. } if reason == "client"),
        "{end:?}"
    );
    assert_eq!(engine.probe().cursors_open, 1, "only the busy one's is left");
    gate.open();
    busy.finish().assert_completed();
}

#[test]
fn twice_is_once() {
    let gate = Gate::new();
    let script = Script::new(["n"]).ignore_cancel().gate(&gate);
    let server = serve(MemoryEngine::builder().query("q", script).build());
    let mut client = Plain::connect(&server);
    client.query("q", json!({}));
    let stream_id = client.recv_started();
    gate.wait_reached(DEADLINE).unwrap();
    for _ in 0..3 {
        cancel(&mut client, &stream_id);
    }
    client.assert_silence();
    gate.open();
    // The engine did not listen and came to its natural end.
    client.finish().assert_completed();
    client.assert_silence();
}

#[test]
fn after_the_end_there_is_nothing_to_cancel() {
    let server = serve(MemoryEngine::builder().query("q", Script::new(["n"])).build());
    let mut client = Plain::connect(&server);
    client.query("q", json!({}));
    let stream_id = client.recv_started();
    client.finish().assert_completed();
    for id in [
        stream_id.as_str(),
        "00000000-0000-4000-8000-000000000000",
        "no id at all",
    ] {
        cancel(&mut client, id);
        let answer = client.recv();
        let Wire::Error { code, stream_id, .. } = &answer else {
            panic!("{answer:?}")
        };
        assert_eq!((code.as_str(), stream_id.as_deref()), ("STREAM_NOT_FOUND", Some(id)));
    }
}

#[test]
fn another_connection_of_the_same_client_can_cancel_by_id() {
    let gate = Gate::new();
    let script = Script::new(["n"]).gate(&gate).row([1.into()]);
    let server = serve(MemoryEngine::builder().query("q", script).build());
    let mut owner = Plain::connect(&server);
    owner.query("q", json!({}));
    let stream_id = owner.recv_started();
    let mut other = Plain::connect(&server);
    cancel(&mut other, "7f1b4c1e-5a0e-4a53-9d8f-1c5f5f1f4f10");
    let answer = other.recv();
    assert!(
        matches!(&answer, Wire::Error { code, .. } if code == "STREAM_NOT_FOUND"),
        "{answer:?}"
    );
    cancel(&mut other, &stream_id);
    other.assert_silence();
    assert_eq!(owner.finish().cancel_reason(), "client");
}

#[test]
fn one_cancel_touches_no_other_stream() {
    let gate = Gate::new();
    let script = Script::new(["n"]).gate(&gate).row([1.into()]);
    let server = serve(MemoryEngine::builder().query("q", script).build());
    let mut client = Plain::connect(&server);
    client.query("q", json!({"request_id": "stays"}));
    client.query("q", json!({"request_id": "goes"}));
    gate.wait_reached_by(2, DEADLINE).unwrap();
    client.send(&json!({"type": "cancel_query", "request_id": "goes"}));
    let end = client.recv_until("an end", Wire::is_terminator);
    assert!(
        matches!(&end, Wire::QueryCancelled { request_id: Some(id), .. } if id == "goes"),
        "{end:?}"
    );
    gate.open();
    let end = client.recv_until("an end", Wire::is_terminator);
    assert!(
        matches!(&end, Wire::QueryCompleted { request_id: Some(id), .. } if id == "stays"),
        "{end:?}"
    );
}

#[test]
fn by_the_clock() {
    let gate = Gate::new();
    let script = Script::new(["n"]).row([1.into()]).gate(&gate);
    let engine = MemoryEngine::builder().query("q", script).build();
    let server = serve(engine.clone());
    let mut client = Plain::connect(&server);
    let seen = client.run("q", json!({"timeout_ms": 100}));
    assert_eq!(seen.cancel_reason(), "timeout");
    assert_eq!(seen.limit(), "timeout_ms");
    assert_eq!(seen.rows.len(), 1);
    assert_eq!(engine.probe().cursors_open, 0);
}

#[test]
fn by_the_operator() {
    let gate = Gate::new();
    let script = Script::new(["n"]).gate(&gate);
    let server = serve(MemoryEngine::builder().query("q", script).build());
    let mut client = Plain::connect(&server);
    client.query("q", json!({}));
    let stream_id = client.recv_started();
    let id = stream_id.parse().unwrap();
    assert_eq!(
        server.streams().find(id).map(|report| report.query.clone()).as_deref(),
        Some("q")
    );
    assert!(server.cancel(id));
    assert_eq!(client.finish().cancel_reason(), "admin");
    assert!(!server.cancel(id));
    assert_eq!(server.streams().statistics().cancelled, 1);
}

#[test]
fn a_race_of_cancel_and_end_has_one_outcome() {
    let script = Script::new(["n"]).rows((0..10_i64).map(|n| vec![n.into()]));
    let builder = Server::builder()
        .engine("memory", MemoryEngine::builder().query("q", script).build())
        .limits(unhurried());
    let server = builder.listen("127.0.0.1:0").start().unwrap();
    let mut client = Plain::connect(&server);
    for n in 0..500 {
        client.query("q", json!({"request_id": n, "batch_size": 2}));
        client.send(&json!({"type": "cancel_query", "request_id": n}));
        // One terminator, or with the cancel too late, also the word that there was nothing to cancel.
        client.recv_until("an end", Wire::is_terminator);
        client.send(&json!({"type": "ping"}));
        loop {
            match client.recv() {
                Wire::Pong { .. } => break,
                Wire::Error { code, .. } if code == "STREAM_NOT_FOUND" => {}
                other => panic!("after the end: {other:?}"),
            }
        }
    }
}
