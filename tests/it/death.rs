//! Clients that die, in every phase of their stream's life.

use std::net::Shutdown;
use std::time::Duration;

use rowstream::engine::memory::{Gate, MemoryEngine, Script};
use rowstream::{Server, ServerHandle, StreamingConfig};
use serde_json::json;

use crate::blocking::{wait_until_stalled, wide};
use crate::support::{DEADLINE, Plain, eventually, serve, serve_with, unhurried};

/// How a client can go.
const DEATHS: [fn(Plain); 3] = [
    // Without a word.
    |client| drop(client),
    // Half: it will say nothing more, but would still listen.
    |client| client.tcp().shutdown(Shutdown::Write).unwrap(),
    // Hard: unread data makes the system answer with a reset.
    |client| client.tcp().shutdown(Shutdown::Both).unwrap(),
];

#[track_caller]
fn check_nothing_is_left(server: &ServerHandle, engine: &MemoryEngine) {
    eventually("connections", &0, || server.connections());
    eventually("streams", &0, || server.streams().reports().len());
    eventually("cursors", &0, || engine.probe().cursors_open);
    eventually("bytes", &0, || server.streams().bytes_held());
}

#[test]
fn while_idle() {
    let engine = MemoryEngine::builder().build();
    let server = serve(engine.clone());
    for die in DEATHS {
        die(Plain::connect(&server));
        check_nothing_is_left(&server, &engine);
    }
}

#[test]
fn while_queued() {
    let gate = Gate::new();
    let engine = MemoryEngine::builder()
        .query("q", Script::new(["n"]).gate(&gate))
        .build();
    let server = serve_with(engine.clone(), 1, StreamingConfig::default());
    let mut busy = Plain::connect(&server);
    busy.query("q", json!({}));
    gate.wait_reached(DEADLINE).unwrap();
    for die in DEATHS {
        let mut client = Plain::connect(&server);
        client.query("q", json!({}));
        client.recv();
        die(client);
        eventually("only the busy stream", &1, || server.streams().reports().len());
    }
    gate.open();
    busy.finish().assert_completed();
    drop(busy);
    check_nothing_is_left(&server, &engine);
}

#[test]
fn while_the_engine_opens() {
    let engine = MemoryEngine::builder()
        .query("q", Script::new(["n"]).gate_on_open(&Gate::new()))
        .build();
    let server = serve(engine.clone());
    for die in DEATHS {
        let mut client = Plain::connect(&server);
        client.query("q", json!({}));
        eventually("the stream is there", &1, || server.streams().reports().len());
        die(client);
        check_nothing_is_left(&server, &engine);
    }
}

#[test]
fn while_the_engine_works() {
    let engine = MemoryEngine::builder()
        .query("q", Script::new(["n"]).row([1.into()]).gate(&Gate::new()))
        .build();
    let server = serve(engine.clone());
    for die in DEATHS {
        let mut client = Plain::connect(&server);
        client.query("q", json!({}));
        client.recv_started();
        client.recv();
        die(client);
        check_nothing_is_left(&server, &engine);
    }
}

#[test]
fn while_rows_are_flowing_and_while_stalled() {
    let engine = MemoryEngine::builder().query("wide", wide()).build();
    let server = serve(engine.clone());
    for die in DEATHS {
        let mut client = Plain::connect(&server);
        client.query("wide", json!({}));
        client.recv_started();
        client.recv();
        die(client);
        check_nothing_is_left(&server, &engine);

        let mut client = Plain::connect(&server);
        client.query("wide", json!({}));
        wait_until_stalled(&server, 1);
        die(client);
        check_nothing_is_left(&server, &engine);
    }
}

#[test]
fn a_close_is_answered_and_takes_the_streams_along() {
    let engine = MemoryEngine::builder()
        .query("q", Script::new(["n"]).gate(&Gate::new()))
        .build();
    let server = serve(engine.clone());
    let mut client = Plain::connect(&server);
    client.query("q", json!({}));
    client.recv_started();
    let frame = tungstenite::protocol::CloseFrame {
        code: tungstenite::protocol::frame::coding::CloseCode::Normal,
        reason: "enough".into(),
    };
    client.send_raw(tungstenite::Message::Close(Some(frame)));
    assert_eq!(client.recv_close(), 1000);
    check_nothing_is_left(&server, &engine);
}

/// A peer that does not answer pings, though its system goes on taking bytes.
#[test]
fn a_peer_without_a_sign_of_life_is_given_up() {
    let script = Script::new(["n"]).row([1.into()]).gate(&Gate::new());
    let engine = MemoryEngine::builder().query("q", script).build();
    let server = Server::builder()
        .engine("memory", engine.clone())
        .heartbeat(Duration::from_millis(100), Duration::from_millis(1_500))
        .limits(unhurried())
        .listen("127.0.0.1:0")
        .start()
        .unwrap();
    let mut lively = Plain::connect(&server);
    let mut dead = Plain::connect(&server);
    dead.query("q", json!({"resumable": true}));
    dead.recv_started();
    // Whoever reads answers pings, and stays: its own messages are the clock.
    while server.connections() > 1 {
        lively.send(&json!({"type": "ping"}));
        lively.recv();
    }
    eventually("its stream waits for it", &vec![false], || {
        server
            .streams()
            .reports()
            .iter()
            .map(|report| report.attached)
            .collect()
    });
    server.shutdown();
    assert_eq!(engine.probe().cursors_open, 0);
}
