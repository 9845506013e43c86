//! SQLite's values, errors and limits, as they look on the wire.

use std::time::Duration;

use rowstream::engine::sqlite::SqliteEngine;
use rowstream::{Server, ServerHandle, StreamingConfig};
use rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Plain, Wire, eventually};

fn serve_sql(sql: &str) -> (TempDir, ServerHandle) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("wire.db");
    Connection::open(&path).unwrap().execute_batch(sql).unwrap();
    let engine = SqliteEngine::open(&path).unwrap();
    let server = Server::builder()
        .engine("sqlite", engine)
        .listen("127.0.0.1:0")
        .start()
        .unwrap();
    (folder, server)
}

const MANY: &str = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 99999) ";

#[test]
fn rows_come_as_they_are_stored() {
    let (_folder, server) = serve_sql(
        "CREATE TABLE t(i INTEGER, r REAL, s TEXT, b BLOB, x);
         INSERT INTO t VALUES (9007199254740993, 0.1, 'a\"ä', x'00ff', NULL), (-9223372036854775808, 9e999, '', x'', 'text')",
    );
    let mut client = Plain::connect(&server);
    let seen = client.run("SELECT *, i AS i FROM t", json!({"int64": "safe"}));
    let expected = [
        json!({"i": "9007199254740993", "r": 0.1, "s": "a\"ä", "b": "AP8=", "x": null, "i_2": "9007199254740993"}),
        json!({"i": "-9223372036854775808", "r": "Infinity", "s": "", "b": "", "x": "text", "i_2": "-9223372036854775808"}),
    ];
    assert_eq!(seen.rows, expected);
    let seen = client.run("SELECT i FROM t LIMIT 1", json!({"row_format": "array"}));
    assert_eq!(seen.rows, [json!([9_007_199_254_740_993_i64])]);
}

#[test]
fn a_query_that_finds_few_rows_leaves_its_worker_to_others() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("wire.db");
    Connection::open(&path)
        .unwrap()
        .execute_batch("CREATE TABLE t(n)")
        .unwrap();
    let builder = Server::builder().engine("sqlite", SqliteEngine::open(&path).unwrap());
    let server = builder.workers(1).listen("127.0.0.1:0").start().unwrap();
    let [mut rare, mut other] = [(); 2].map(|()| Plain::connect(&server));
    // Batches close by time, in the middle of a step that has no other end.
    let endless =
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n WHERE i % 500000 = 0";
    rare.query(endless, json!({"batch_size": 10_000, "progress_interval_ms": 0}));
    rare.recv_until("rows", |wire| matches!(wire, Wire::QueryBatch { batch_number: 1, .. }));
    other.run("SELECT 1", json!({})).assert_completed();
    other.send(&json!({"type": "describe_query", "query": "SELECT 1"}));
    assert!(matches!(other.recv(), Wire::QueryDescription { .. }));
}

#[test]
fn parameters_are_bound_by_place_and_by_name() {
    let (_folder, server) = serve_sql("");
    let mut client = Plain::connect(&server);
    let array = |params: Value| json!({"params": params, "row_format": "array"});
    let seen = client.run("SELECT ?, ?2, ?", array(json!([1, "zwei", null])));
    assert_eq!(seen.rows, [json!([1, "zwei", null])]);
    let seen = client.run("SELECT :a, typeof($b)", array(json!({"b": 1.5, "a": true})));
    assert_eq!(seen.rows, [json!([1, "real"])]);
    // A number that a reader in a hurry takes for its neighbour.
    let seen = client.run("SELECT ? = 271 / 3.0", array(json!([90.333_333_333_333_33])));
    assert_eq!(seen.rows, [json!([1])]);
    for params in [json!([]), json!([1, 2]), json!({"b": 1}), json!({"a": 1, "b": 2})] {
        assert_eq!(client.run("SELECT :a", array(params)).error_code(), "PARAMETER_ERROR");
    }
}

/// What the specification shows of an error is what a server says.
#[test]
fn the_specifications_example_of_an_error_is_true() {
    let specification = include_str!("../../src/protocol/spec.md");
    let (_, section) = specification.split_once("### `error`").unwrap();
    let (_, example) = section.split_once("```json\n").unwrap();
    let mut expected: Value = serde_json::from_str(example.split_once("\n```").unwrap().0).unwrap();
    let (_folder, server) = serve_sql("CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT)");
    let mut client = Plain::connect(&server);
    client.send(&json!({"type": "stream_query", "request_id": "users", "query": "SELECT nme FROM users"}));
    let mut error: Value = serde_json::from_str(client.next_raw().to_text().unwrap()).unwrap();
    // The one that the server chose.
    expected["stream_id"] = json!("");
    error["stream_id"] = json!("");
    assert_eq!(error, expected);
}

#[test]
fn errors_point_at_the_query() {
    let (_folder, server) = serve_sql("");
    let mut client = Plain::connect(&server);
    let seen = client.run("SELECT 1 FROM nowhere", json!({}));
    let Some(Wire::Error {
        code,
        message,
        engine_code,
        started,
        ..
    }) = &seen.end
    else {
        panic!("{:?}", seen.end)
    };
    assert_eq!(
        (code.as_str(), message.as_str()),
        ("SYNTAX_ERROR", "no such table: nowhere")
    );
    assert_eq!((engine_code.as_deref(), *started), (Some("SQLITE_ERROR"), false));
    let seen = client.run("SELECT x FROM (SELECT 1)", json!({}));
    assert!(
        matches!(seen.end, Some(Wire::Error { position: Some(7), .. })),
        "{:?}",
        seen.end
    );
    assert_eq!(
        client.run("DROP TABLE x; SELECT 1", json!({})).error_code(),
        "SYNTAX_ERROR"
    );
    assert_eq!(client.run("ATTACH 'x' AS y", json!({})).error_code(), "READ_ONLY");
    let seen = client.run("SELECT CAST(x'ff' AS TEXT)", json!({}));
    assert_eq!(seen.error_code(), "ENCODING_ERROR");
}

#[test]
fn an_endless_query_is_cancelled_and_its_connection_reused() {
    let (_folder, server) = serve_sql("");
    let mut client = Plain::connect(&server);
    for _ in 0..20 {
        let endless = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
        client.query(endless, json!({}));
        let id = client.recv_started();
        client.send(&json!({"type": "cancel_query", "stream_id": id}));
        assert_eq!(client.finish().cancel_reason(), "client");
        let seen = client.run("SELECT 1 AS one", json!({}));
        assert_eq!(seen.assert_completed().rows, [json!({"one": 1})]);
    }
    eventually("streams", &0, || server.streams().reports().len());
}

#[test]
fn a_time_limit_stops_what_sorts_or_collects() {
    let (_folder, server) = serve_sql("");
    let mut client = Plain::connect(&server);
    for sql in [
        // Sorts again for every number.
        "SELECT i FROM n WHERE 1 < (SELECT max(c) FROM (
            WITH RECURSIVE m(j) AS (SELECT 0 UNION ALL SELECT j + 1 FROM m WHERE j < 99999)
            SELECT count(*) AS c FROM m GROUP BY -j - n.i))",
        "SELECT group_concat(i) FROM n",
        "SELECT json_group_array(i) FROM n",
        "SELECT json_group_object(i, i) FROM n",
    ] {
        let endless = format!("WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n) {sql}");
        let seen = client.run(&endless, json!({"timeout_ms": 50}));
        assert_eq!(seen.cancel_reason(), "timeout", "{sql}");
    }
    eventually("streams", &0, || server.streams().reports().len());
}

#[test]
fn a_large_result_is_complete_and_counted() {
    let (_folder, server) = serve_sql(&format!("CREATE TABLE t AS {MANY} SELECT i, hex(i) AS h FROM n"));
    let mut client = Plain::connect(&server);
    let seen = client.run(
        "SELECT * FROM t",
        json!({"batch_size": 777, "row_format": "array", "progress_interval_ms": 50}),
    );
    let numbers: Vec<i64> = seen
        .assert_completed()
        .rows
        .iter()
        .map(|row| row[0].as_i64().unwrap())
        .collect();
    assert!(numbers.iter().copied().eq(0..100_000), "every row once, in order");
    let percentages = seen.progress.iter().filter_map(|wire| match wire {
        Wire::QueryProgress { percentage, .. } => *percentage,
        _ => None,
    });
    assert!(percentages.is_sorted());
}

/// What stands still holds the database as it was, and with it the write-ahead log: until the stall limit, and no longer.
#[test]
fn a_stalled_stream_holds_its_snapshot_until_the_stall_limit() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("wal.db");
    let writer = Connection::open(&path).unwrap();
    writer
        .execute_batch("PRAGMA journal_mode = WAL; PRAGMA busy_timeout = 0; CREATE TABLE t(i INTEGER)")
        .unwrap();
    writer
        .execute_batch(&format!("INSERT INTO t {MANY} SELECT i FROM n"))
        .unwrap();
    let write = |n: usize| {
        for _ in 0..n {
            writer.execute_batch("INSERT INTO t VALUES (0)").unwrap();
        }
    };
    // Whether the log can be emptied.
    let empties = || {
        let is_busy: i64 = writer
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
            .unwrap();
        is_busy == 0
    };
    let log_bytes = || std::fs::metadata(folder.path().join("wal.db-wal")).unwrap().len();
    let stalled = |stall_limit: Duration| {
        let mut streaming = StreamingConfig::default();
        streaming.stall_limit = stall_limit;
        let builder = Server::builder().engine("sqlite", SqliteEngine::open(&path).unwrap());
        let server = builder.streaming(streaming).listen("127.0.0.1:0").start().unwrap();
        let mut client = Plain::connect(&server);
        client.query(
            "SELECT i FROM t",
            json!({"batch_size": 10, "window": {"batches": 1}, "progress_interval_ms": 0}),
        );
        client.recv_started();
        crate::flow::recv_batch(&mut client);
        (server, client)
    };
    assert!(empties());
    let (server, client) = stalled(Duration::from_secs(3_600));
    write(100);
    assert!(!empties(), "the stream is still where it was");
    drop(client);
    eventually("streams", &0, || server.streams().reports().len());
    assert!(empties());

    let (_server, mut client) = stalled(Duration::from_millis(100));
    write(100);
    let end = client.recv_until("the end", Wire::is_terminator);
    assert!(
        matches!(&end, Wire::QueryCancelled { reason, .. } if reason == "slow_client"),
        "{end:?}"
    );
    assert!(empties(), "its snapshot is given up before its client is told");
    assert_eq!(log_bytes(), 0);
}

#[test]
fn errors_never_tell_where_the_database_is() {
    let folder = TempDir::with_prefix("canary-folder").unwrap();
    let path = folder.path().join("canary-file.db");
    let create = "CREATE TABLE t(a); INSERT INTO t VALUES (1)";
    Connection::open(&path).unwrap().execute_batch(create).unwrap();
    let server = Server::builder()
        .engine("sqlite", SqliteEngine::open(&path).unwrap())
        .listen("127.0.0.1:0")
        .start()
        .unwrap();
    let mut client = Plain::connect(&server);
    let mut check = |sql: &str, code: &str| {
        let seen = client.run(sql, json!({}));
        assert_eq!(seen.error_code(), code, "{sql}");
        assert!(!format!("{:?}", seen.end).contains("canary"), "{sql}: {:?}", seen.end);
    };
    check("SELECT * FROM pragma_database_list", "READ_ONLY");
    check("PRAGMA database_list", "READ_ONLY");
    check("ATTACH 'x' AS y", "READ_ONLY");
    check("SELECT * FROM nowhere", "SYNTAX_ERROR");
    // The table's page, the second, is there in part.
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(5_000).unwrap();
    check("SELECT * FROM t", "ENGINE_UNAVAILABLE");
    std::fs::write(
        &path,
        "no database, but long enough to be taken for one at first sight".repeat(100),
    )
    .unwrap();
    check("SELECT * FROM t", "ENGINE_UNAVAILABLE");
    std::fs::remove_file(&path).unwrap();
    check("SELECT * FROM t", "ENGINE_UNAVAILABLE");
    std::fs::create_dir(&path).unwrap();
    check("SELECT * FROM t", "ENGINE_UNAVAILABLE");
}
