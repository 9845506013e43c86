//! After everything, everything is as it was: threads, descriptors, streams, cursors.
//!
//! Runs the scenarios in a process of its own, so that other tests' threads do not count.

use std::env;
use std::fs;
use std::process::Command;

use rowstream::engine::memory::{Gate, MemoryEngine, Script};
use serde_json::json;

use crate::blocking::{wait_until_stalled, wide};
use crate::support::{Plain, Wire, eventually, serve};

const MARK: &str = "ROWSTREAM_TEST_BASELINE";

/// Threads and descriptors of this process.
fn resources() -> (usize, usize) {
    let count = |what: &str| fs::read_dir(format!("/proc/self/{what}")).unwrap().count();
    (count("task"), count("fd"))
}

#[test]
fn nothing_is_left_behind() {
    if env::var_os(MARK).is_none() {
        let own = env::current_exe().unwrap();
        let output = Command::new(own)
            .args([
                "--exact",
                "baseline::nothing_is_left_behind",
                "--test-threads=1",
                "--nocapture",
            ])
            .env(MARK, "1")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    scenarios();
    let before = resources();
    for _ in 0..3 {
        scenarios();
        assert_eq!(resources(), before, "threads and descriptors");
    }
}

fn scenarios() {
    let gate = Gate::new();
    let engine = MemoryEngine::builder()
        .query("wide", wide())
        .query("gated", Script::new(["n"]).row([1.into()]).gate(&gate))
        .query("quick", Script::new(["n"]).generate(1_000, |n| vec![(n as i64).into()]))
        .query("panic", Script::new(["n"]).panic("on purpose"))
        .build();
    let server = serve(engine.clone());
    let mut clients: Vec<Plain> = (0..4).map(|_| Plain::connect(&server)).collect();
    for client in &mut clients {
        client.run("quick", json!({})).assert_completed();
        assert_eq!(client.run("panic", json!({})).error_code(), "INTERNAL");
        assert_eq!(client.run("no such query", json!({})).error_code(), "SYNTAX_ERROR");
        client.query("gated", json!({}));
        let id = client.recv_started();
        client.send(&json!({"type": "cancel_query", "stream_id": id}));
        client.recv_until("the end", Wire::is_terminator);
    }
    // One dies in mid-stream, one stalls, one waits at the gate, one is idle.
    clients[0].query("wide", json!({}));
    clients[0].recv_started();
    drop(clients.remove(0));
    clients[0].query("wide", json!({"progress_interval_ms": 0}));
    wait_until_stalled(&server, 1);
    clients[1].query("gated", json!({}));
    clients[1].recv_started();
    eventually("two streams", &2, || server.streams().reports().len());
    server.shutdown();
    assert_eq!(engine.probe().cursors_open, 0);
    assert_eq!(server.streams().statistics().active, 0);
    assert_eq!(server.streams().bytes_held(), 0);
    drop(clients);
}
