//! Memory of engines that streams at rest keep from others.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rowstream::engine::EngineErrorKind;
use rowstream::rows::Value;
use rowstream::{
    CancelToken, Cursor, Engine, EngineError, Gate, MemoryEngine, QuerySpec, Script, Server, ServerHandle,
    StreamingConfig,
};
use serde_json::json;

use crate::support::{DEADLINE, Plain, Wire, eventually};

/// Says that so much of its 100 bytes is taken.
struct Crowded {
    engine: MemoryEngine,
    bytes: Arc<AtomicUsize>,
}

impl Engine for Crowded {
    fn open(&self, query: &QuerySpec, cancel: &CancelToken) -> Result<Box<dyn Cursor>, EngineError> {
        self.engine.open(query, cancel)
    }

    fn memory_bytes(&self) -> Option<usize> {
        Some(self.bytes.load(Ordering::Relaxed))
    }

    fn memory_bytes_max(&self) -> Option<usize> {
        Some(100)
    }
}

fn start(gate: &Gate) -> (ServerHandle, Arc<AtomicUsize>) {
    let row = |n: u64| vec![Value::from(n.cast_signed())];
    let fail = |kind| Script::new(["n"]).fail(EngineError::new(kind, "on purpose"));
    let engine = MemoryEngine::builder()
        .query("long", Script::new(["n"]).generate(2, row).gate(gate).generate(2, row))
        .query("short", Script::new(["n"]).row([1.into()]))
        .query("locked", fail(EngineErrorKind::Busy))
        .query("no memory", fail(EngineErrorKind::NoMemory))
        .build();
    let bytes = Arc::new(AtomicUsize::new(0));
    let crowded = Crowded {
        engine,
        bytes: Arc::clone(&bytes),
    };
    let mut streaming = StreamingConfig::default();
    // Who is gone has nothing made for it.
    streaming.retention_bytes = 1;
    let server = Server::builder()
        .engine("m", crowded)
        .streaming(streaming)
        .workers(2)
        .listen("127.0.0.1:0")
        .start()
        .unwrap();
    (server, bytes)
}

/// Begins a query that rests after its first row.
fn begin(client: &mut Plain) -> String {
    let fields = json!({"batch_size": 1, "window": {"batches": 1}, "resumable": true, "progress_interval_ms": 0});
    client.query("long", fields);
    let id = client.recv_started();
    client.recv_until("its first row", |wire| matches!(wire, Wire::QueryBatch { .. }));
    id
}

fn expired(server: &ServerHandle) -> u64 {
    server.streams().statistics().expired
}

#[test]
fn a_stream_that_its_engine_works_for_is_not_at_rest() {
    let gate = Gate::new();
    let (server, bytes) = start(&gate);
    let mut works = Plain::connect(&server);
    let id = begin(&mut works);
    for number in 0..2 {
        works.send(&json!({"type": "ack", "stream_id": id, "batch_number": number}));
        if number == 0 {
            works.recv_until("its second row", |wire| matches!(wire, Wire::QueryBatch { .. }));
        }
    }
    gate.wait_reached(DEADLINE).unwrap();
    drop(works);
    eventually("detached", &1, || server.streams().statistics().detached);
    bytes.store(100, Ordering::Relaxed);
    let other = RefCell::new(Plain::connect(&server));
    let run = || {
        let seen = other.borrow_mut().run("short", json!({}));
        seen.assert_completed();
    };
    run();
    assert_eq!(expired(&server), 0);
    gate.open();
    eventually("at rest", &1, || {
        run();
        expired(&server)
    });
}

#[test]
fn only_who_has_no_memory_has_a_stream_at_rest_stopped() {
    let gate = Gate::new();
    gate.open();
    let (server, bytes) = start(&gate);
    let mut rests = Plain::connect(&server);
    begin(&mut rests);
    drop(rests);
    eventually("detached", &1, || server.streams().statistics().detached);
    let other = RefCell::new(Plain::connect(&server));
    let refuse = |query: &str| assert_eq!(other.borrow_mut().run(query, json!({})).error_code(), "ENGINE_BUSY");
    refuse("no memory");
    bytes.store(60, Ordering::Relaxed);
    refuse("locked");
    assert_eq!(expired(&server), 0, "nothing is taken, and then it is the lock");
    eventually("at rest", &1, || {
        refuse("no memory");
        expired(&server)
    });
}
