//! What streams at rest hold of their engine while somebody waits for it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rowstream::engine::Contention;
use rowstream::rows::Value;
use rowstream::{
    CancelToken, Cursor, Engine, EngineError, Gate, MemoryEngine, QuerySpec, Script, Server, ServerHandle,
    StreamingConfig,
};
use serde_json::json;

use crate::support::{DEADLINE, Plain, Wire, eventually};

/// Says what it is told to, and counts how often it is asked.
#[derive(Clone)]
struct Contended {
    engine: MemoryEngine,
    contention: Arc<Mutex<Option<Contention>>>,
    looks: Arc<AtomicUsize>,
}

impl Contended {
    fn new(gate: &Gate) -> Self {
        let row = |n: u64| vec![Value::from(n.cast_signed())];
        let engine = MemoryEngine::builder()
            .query("rests", Script::new(["n"]).generate(3, row))
            .query("works", Script::new(["n"]).generate(1, row).gate(gate))
            .build();
        Self {
            engine,
            contention: Arc::default(),
            looks: Arc::default(),
        }
    }

    fn serve(&self) -> ServerHandle {
        let mut streaming = StreamingConfig::default();
        // For a client that is gone nothing is made.
        streaming.retention_bytes = 1;
        let builder = Server::builder().engine("m", self.clone()).workers(2);
        builder.streaming(streaming).listen("127.0.0.1:0").start().unwrap()
    }

    fn say(&self, rest_min: Duration) {
        let contention = Contention::new("some_setting", "some_setting has passed".to_owned(), rest_min);
        *self.contention.lock().unwrap() = Some(contention);
    }

    fn n_looks(&self) -> usize {
        self.looks.load(Ordering::Relaxed)
    }

    /// Waits until it has been asked so often again, after what has happened so far.
    fn wait_for_looks(&self, n: usize) {
        let enough = self.n_looks() + n;
        eventually("looks", &true, || self.n_looks() >= enough);
    }
}

impl Engine for Contended {
    fn open(&self, query: &QuerySpec, cancel: &CancelToken) -> Result<Box<dyn Cursor>, EngineError> {
        self.engine.open(query, cancel)
    }

    fn contention(&self) -> Option<Contention> {
        self.looks.fetch_add(1, Ordering::Relaxed);
        self.contention.lock().unwrap().clone()
    }
}

/// Begins a query that rests after its first row.
fn rest(client: &mut Plain, name: &str) {
    let fields = json!({"request_id": name, "batch_size": 1, "window": {"batches": 1}, "progress_interval_ms": 0});
    client.query("rests", fields);
    client.recv_until("its first row", |wire| matches!(wire, Wire::QueryBatch { .. }));
}

/// Lets it go on to its end.
fn go_on(client: &mut Plain, name: &str) {
    client.ack_to_the_end(name, 0).assert_completed();
}

#[test]
fn an_engine_is_asked_only_while_streams_rest() {
    let gate = Gate::new();
    let engine = Contended::new(&gate);
    let server = engine.serve();
    let mut client = Plain::connect(&server);
    client.query("works", json!({"progress_interval_ms": 0}));
    gate.wait_reached(DEADLINE).unwrap();
    gate.open();
    client.finish().assert_completed();
    assert_eq!(engine.n_looks(), 0);
    rest(&mut client, "a");
    engine.wait_for_looks(2);
    go_on(&mut client, "a");
}

#[test]
fn a_stream_rests_as_long_as_it_likes_where_nobody_waits_or_has_not_for_long_enough() {
    let engine = Contended::new(&Gate::new());
    let server = engine.serve();
    let mut client = Plain::connect(&server);
    rest(&mut client, "a");
    engine.wait_for_looks(3);
    engine.say(Duration::from_secs(3_600));
    engine.wait_for_looks(3);
    go_on(&mut client, "a");
}

#[test]
fn streams_at_rest_give_way_where_somebody_waits_the_longest_open_first() {
    let engine = Contended::new(&Gate::new());
    let server = engine.serve();
    let mut client = Plain::connect(&server);
    for name in ["a", "b", "c"] {
        rest(&mut client, name);
    }
    engine.say(Duration::ZERO);
    for name in ["a", "b", "c"] {
        let end = client.recv_until("an end", Wire::is_terminator);
        assert!(
            matches!(&end, Wire::QueryCancelled { request_id: Some(id), reason, limit: Some(limit), message: Some(_), .. }
                if id == name && reason == "slow_client" && limit == "some_setting"),
            "{end:?}"
        );
    }
}

#[test]
fn a_stream_that_nobody_is_connected_to_gives_way_at_once() {
    let engine = Contended::new(&Gate::new());
    let server = engine.serve();
    let mut client = Plain::connect(&server);
    let fields = json!({"batch_size": 1, "window": {"batches": 1}, "resumable": true, "progress_interval_ms": 0});
    client.query("rests", fields);
    client.recv_until("its first row", |wire| matches!(wire, Wire::QueryBatch { .. }));
    engine.say(Duration::from_secs(3_600));
    engine.wait_for_looks(2);
    assert_eq!(server.streams().statistics().expired, 0);
    drop(client);
    eventually("given up", &1, || server.streams().statistics().expired);
}

#[test]
fn a_stream_at_work_does_not_give_way_and_none_does_in_vain() {
    let gate = Gate::new();
    let engine = Contended::new(&gate);
    let server = engine.serve();
    let mut worker = Plain::connect(&server);
    worker.query("works", json!({"progress_interval_ms": 0}));
    gate.wait_reached(DEADLINE).unwrap();
    let mut rester = Plain::connect(&server);
    rest(&mut rester, "b");
    engine.say(Duration::ZERO);
    engine.wait_for_looks(3);
    rester.assert_silence();
    gate.open();
    worker.finish().assert_completed();
    let end = rester.recv_until("an end", Wire::is_terminator);
    assert!(
        matches!(&end, Wire::QueryCancelled { limit: Some(limit), .. } if limit == "some_setting"),
        "{end:?}"
    );
}

/// The program, and writers of its database in this process.
#[cfg(all(unix, feature = "cli"))]
mod writers {
    use rusqlite::Connection;
    use tempfile::TempDir;

    use super::*;
    use crate::cli::Served;

    const ROWS: &str = "CREATE TABLE t(a); \
        INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) SELECT i FROM n;";

    /// A program with a stream at rest of a database in this mode, its client, and a writer of the database.
    fn beside_a_stream_at_rest(mode: &str, arguments: &[&str]) -> (TempDir, Served, Plain, Connection) {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("big.db");
        let writer = Connection::open(&path).unwrap();
        writer.busy_timeout(DEADLINE).unwrap();
        writer
            .execute_batch(&format!("PRAGMA journal_mode = {mode}; {ROWS}"))
            .unwrap();
        let mut all = vec!["--db", path.to_str().unwrap()];
        all.extend(arguments);
        let served = Served::with(&all);
        let mut client = Plain::connect_to(served.address(), &[]);
        let fields = json!({"engine": "big", "batch_size": 10, "window": {"batches": 1}, "progress_interval_ms": 0});
        client.query("SELECT a FROM t", fields);
        client.recv_until("its first rows", |wire| matches!(wire, Wire::QueryBatch { .. }));
        (folder, served, client, writer)
    }

    #[track_caller]
    fn check_ended(client: &mut Plain, setting: &str) {
        let end = client.recv_until("an end", Wire::is_terminator);
        assert!(
            matches!(&end, Wire::QueryCancelled { reason, limit: Some(limit), .. }
                if reason == "slow_client" && limit == setting),
            "{end:?}"
        );
    }

    #[test]
    fn a_writer_that_waits_for_a_lock_gets_it() {
        let arguments = ["--sqlite-writer-wait-max", "100ms"];
        let (_folder, _served, mut client, writer) = beside_a_stream_at_rest("DELETE", &arguments);
        // Waits for as long as the tests do.
        writer.execute_batch("INSERT INTO t VALUES (0)").unwrap();
        check_ended(&mut client, "sqlite_writer_wait_max");
    }

    #[test]
    fn a_log_that_grows_beside_a_snapshot_is_checkpointed_again() {
        let arguments = ["--sqlite-wal-bytes-max", "100KiB"];
        let (_folder, _served, mut client, writer) = beside_a_stream_at_rest("WAL", &arguments);
        for _ in 0..100 {
            writer.execute_batch("INSERT INTO t VALUES (zeroblob(1000))").unwrap();
        }
        check_ended(&mut client, "sqlite_wal_bytes_max");
        let (n_frames, n_checkpointed): (i64, i64) = writer
            .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
                Ok((row.get(1)?, row.get(2)?))
            })
            .unwrap();
        assert_eq!(n_checkpointed, n_frames, "no snapshot is in the way any more");
    }
}
