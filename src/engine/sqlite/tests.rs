//! The engine through its traits, on real files.
#![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};
use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::clock;
use crate::engine::{CancelReason, EngineErrorKind, Step, Total};
use crate::rows::{BatchLimits, FlushSink, Int64Encoding, Params, RowFormat, RowShape, RowWriter, Value};
use crate::thread::{STACK_BYTES_WORKER, spawn_named};

pub(super) const DEADLINE: Duration = Duration::from_secs(30);

pub(super) const LIMITS: BatchLimits = BatchLimits {
    rows_max: 10,
    bytes_max: 1 << 20,
    row_bytes_max: 1 << 20,
    bytes_left: None,
    until: None,
};

pub(super) struct Fixture {
    _folder: TempDir,
    pub(super) path: PathBuf,
    pub(super) engine: SqliteEngine,
}

pub(super) fn fixture(sql: &str) -> Fixture {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("test.db");
    Connection::open(&path).unwrap().execute_batch(sql).unwrap();
    let engine = SqliteEngine::open(&path).unwrap();
    Fixture {
        _folder: folder,
        path,
        engine,
    }
}

/// A table `n` with the numbers below 1,000,000, made on the fly.
pub(super) const MANY: &str = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 999999) ";

pub(super) fn writer_of(cursor: &dyn Cursor) -> RowWriter {
    RowWriter::new(RowShape::json(
        cursor.columns().unwrap(),
        RowFormat::Array,
        Int64Encoding::Number,
    ))
}

/// All rows of a query as one JSON array.
pub(super) fn rows(engine: &SqliteEngine, query: &QuerySpec) -> Result<String, EngineError> {
    let mut cursor = engine.open(query, &CancelToken::new())?;
    let mut writer = writer_of(cursor.as_ref());
    let mut all = String::new();
    let mut n = 0;
    loop {
        writer.begin_batch(Vec::new(), LIMITS, n);
        let step = cursor.fill(&mut writer)?;
        let batch = writer.take_batch().unwrap();
        n += u64::from(batch.rows);
        if !all.is_empty() && batch.rows > 0 {
            all.push(',');
        }
        all.push_str(std::str::from_utf8(&batch.buffer).unwrap());
        if step == Step::Done {
            return Ok(all);
        }
    }
}

#[track_caller]
pub(super) fn check(fixture: &Fixture, sql: &str, expected: &str) {
    assert_eq!(rows(&fixture.engine, &QuerySpec::new(sql)).unwrap(), expected, "{sql}");
}

#[track_caller]
pub(super) fn check_refused(fixture: &Fixture, query: &QuerySpec, kind: EngineErrorKind) -> EngineError {
    let error = rows(&fixture.engine, query).unwrap_err();
    assert_eq!(error.kind, kind, "{}: {error:?}", query.sql);
    error
}

#[test]
fn values_are_written_as_they_are() {
    let fixture = fixture("");
    check(
        &fixture,
        "SELECT NULL, 1, -9223372036854775808, 9223372036854775807",
        "[null,1,-9223372036854775808,9223372036854775807]",
    );
    check(
        &fixture,
        "SELECT 0.1, -0.0, 1e300, 9e999, -9e999, 24386.67",
        "[0.1,-0.0,1e+300,\"Infinity\",\"-Infinity\",24386.67]",
    );
    check(
        &fixture,
        "SELECT '', 'a\"b\\c', char(1, 10, 127, 128, 0x1F600), 'ä'",
        "[\"\",\"a\\\"b\\\\c\",\"\\u0001\\n\u{7f}\u{80}\u{1F600}\",\"ä\"]",
    );
    check(
        &fixture,
        "SELECT x'', x'00FF10', zeroblob(3)",
        "[\"\",\"AP8Q\",\"AAAA\"]",
    );
    check(&fixture, "SELECT 'a' || char(0) || 'b'", "[\"a\\u0000b\"]");
    check(&fixture, "SELECT 1 WHERE 0", "");
    check(
        &fixture,
        &format!("{MANY} SELECT i FROM n LIMIT 12"),
        "[0],[1],[2],[3],[4],[5],[6],[7],[8],[9],[10],[11]",
    );
}

#[test]
fn text_that_is_no_text_names_its_cell() {
    let fixture = fixture("");
    let sql = "SELECT 1, 'fine' UNION ALL SELECT 2, CAST(x'41FF' AS TEXT)";
    let error = check_refused(&fixture, &QuerySpec::new(sql), EngineErrorKind::Encoding);
    assert!(error.message.contains(r#"row 2, column 2 ("'fine'")"#), "{error}");
}

#[test]
fn columns_say_what_is_declared() {
    let fixture =
        fixture("CREATE TABLE t(a INTEGER, b VARCHAR(10), c DECIMAL(15,2), d DATE, e BLOB, f, g BOOLEAN, h FANCY)");
    let cursor = fixture
        .engine
        .open(&QuerySpec::new("SELECT *, a+1, a AS a FROM t"), &CancelToken::new())
        .unwrap();
    let columns = cursor.columns().unwrap().columns();
    let seen: Vec<String> = columns
        .iter()
        .map(|c| format!("{}:{:?}:{}", c.label, c.ty, c.db_type.as_deref().unwrap_or("-")))
        .collect();
    let expected = [
        "a:Int64:INTEGER",
        "b:Text:VARCHAR(10)",
        "c:Float64:DECIMAL(15,2)",
        "d:Date:DATE",
        "e:Blob:BLOB",
        "f:Any:-",
        "g:Boolean:BOOLEAN",
        "h:Any:FANCY",
        "a+1:Any:-",
        "a_2:Int64:INTEGER",
    ];
    assert_eq!(seen, expected);
}

#[test]
fn a_query_is_exactly_one_statement() {
    let fixture = fixture("");
    for sql in [
        "SELECT 1;",
        "SELECT 1 ; -- done\n /* really */ ;;",
        "-- first\nSELECT 1",
    ] {
        check(&fixture, sql, "[1]");
    }
    for sql in [
        "",
        ";",
        "-- nothing",
        "/* nothing */",
        "SELECT 1; SELECT 2",
        "SELECT 1; nonsense",
        "SELECT 1;;/**/SELECT 2",
        "SELECT 1\0",
        "SELEC 1",
        "SELECT",
        "SELECT 'open",
    ] {
        check_refused(&fixture, &QuerySpec::new(sql), EngineErrorKind::Syntax);
    }
}

#[test]
fn errors_carry_what_sqlite_says() {
    let fixture = fixture("");
    let error = check_refused(
        &fixture,
        &QuerySpec::new("SELECT 1 FROM nowhere"),
        EngineErrorKind::Syntax,
    );
    assert_eq!(error.message, "no such table: nowhere");
    assert_eq!(error.engine_code.as_deref(), Some("SQLITE_ERROR"));
    let error = check_refused(&fixture, &QuerySpec::new("SELECT abcd"), EngineErrorKind::Syntax);
    assert_eq!(error.position, Some(7));
    let error = check_refused(
        &fixture,
        &QuerySpec::new("SELECT abs(-9223372036854775808)"),
        EngineErrorKind::Query,
    );
    assert_eq!(error.message, "integer overflow");
    check_refused(
        &fixture,
        &QuerySpec::new("SELECT zeroblob(100000000)"),
        EngineErrorKind::Limit,
    );
}

#[test]
fn nothing_but_reading_is_allowed() {
    let fixture = fixture("CREATE TABLE t(a); INSERT INTO t VALUES (1); CREATE VIEW v AS SELECT a FROM t");
    let before = hash_of(&fixture.path);
    let elsewhere = fixture.path.with_extension("copy");
    let into = elsewhere.to_str().unwrap();
    for sql in [
        "INSERT INTO t VALUES (2)",
        "INSERT INTO t VALUES (2) RETURNING a",
        "UPDATE t SET a = 2",
        "DELETE FROM t",
        "REPLACE INTO t VALUES (1)",
        "CREATE TABLE u(a)",
        "CREATE TEMP TABLE u(a)",
        "CREATE VIEW w AS SELECT 1",
        "CREATE INDEX i ON t(a)",
        "CREATE TRIGGER x AFTER INSERT ON t BEGIN SELECT 1; END",
        "DROP TABLE t",
        "DROP VIEW v",
        "ALTER TABLE t RENAME TO u",
        "REINDEX",
        "ANALYZE",
        "VACUUM",
        &format!("VACUUM INTO '{into}'"),
        &format!("ATTACH '{into}' AS other"),
        "DETACH main",
        "BEGIN",
        "COMMIT",
        "ROLLBACK",
        "SAVEPOINT s",
        "RELEASE s",
        "PRAGMA query_only=0",
        "PRAGMA writable_schema=1",
        "PRAGMA journal_mode=WAL",
        "PRAGMA user_version=7",
        "PRAGMA wal_checkpoint",
        "EXPLAIN DELETE FROM t",
        "SELECT load_extension('x')",
        "CREATE VIRTUAL TABLE f USING fts5(a)",
        "WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x",
    ] {
        let error = rows(&fixture.engine, &QuerySpec::new(sql)).unwrap_err();
        let refused = matches!(error.kind, EngineErrorKind::ReadOnly | EngineErrorKind::Syntax);
        assert!(refused, "{sql}: {error:?}");
    }
    assert_eq!(hash_of(&fixture.path), before);
    assert!(!elsewhere.exists());
    check(&fixture, "SELECT a FROM v", "[1]");
}

fn hash_of(path: &std::path::Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    std::fs::read(path).unwrap().hash(&mut hasher);
    hasher.finish()
}

#[test]
fn parameters_have_to_fit() {
    let fixture = fixture("");
    let positional = |sql: &str, values: &[Value]| QuerySpec::new(sql).with_params(Params::Positional(values.to_vec()));
    let named = |sql: &str, values: &[(&str, i64)]| {
        let values = values
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).into()))
            .collect();
        QuerySpec::new(sql).with_params(Params::Named(values))
    };
    let all = [
        Value::Null,
        true.into(),
        7_i64.into(),
        0.5.into(),
        "ä".into(),
        vec![0, 255].into(),
        Vec::new().into(),
    ];
    let query = positional("SELECT ?, ?, ?, ?, ?, ?, typeof(?)", &all);
    assert_eq!(
        rows(&fixture.engine, &query).unwrap(),
        "[null,1,7,0.5,\"ä\",\"AP8=\",\"blob\"]"
    );
    let query = named("SELECT :a + @b + $c + :a", &[("c", 100), ("b", 10), ("a", 1)]);
    assert_eq!(rows(&fixture.engine, &query).unwrap(), "[112]");
    for query in [
        positional("SELECT ?", &[]),
        positional("SELECT ?", &[Value::Null, Value::Null]),
        positional("SELECT 1", &[Value::Null]),
        QuerySpec::new("SELECT ?"),
        named("SELECT :a", &[]),
        named("SELECT :a", &[("a", 1), ("b", 1)]),
        named("SELECT ?, :a", &[("a", 1)]),
    ] {
        check_refused(&fixture, &query, EngineErrorKind::Parameter);
    }
}

/// Opens a query, and cancels it from another thread once it works; the cursor must come back as cancelled.
#[track_caller]
pub(super) fn check_cancelled(fixture: &Fixture, sql: &str, until_it_works: impl Fn() -> bool + Send + 'static) {
    let cancel = CancelToken::new();
    let mut cursor = fixture.engine.open(&QuerySpec::new(sql), &cancel).unwrap();
    let (running, runs) = bounded::<()>(1);
    let canceller = {
        let cancel = cancel.clone();
        spawn_named("test", STACK_BYTES_WORKER, move || {
            runs.recv_timeout(DEADLINE).unwrap();
            while !until_it_works() {
                std::thread::yield_now();
            }
            cancel.cancel(CancelReason::Client);
        })
    };
    let mut writer = writer_of(cursor.as_ref());
    running.send(()).unwrap();
    let error = loop {
        writer.begin_batch(Vec::new(), LIMITS, 0);
        match cursor.fill(&mut writer) {
            Ok(Step::More) => drop(writer.take_batch().unwrap()),
            Ok(step) => panic!("{sql}: ended with {step:?}"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind, EngineErrorKind::Cancelled, "{sql}: {error:?}");
    drop(cursor);
    canceller.unwrap().join().unwrap();
    // The same connection serves the next query, which nothing interrupts.
    assert_eq!(fixture.engine.pool.n_idle(), 1);
    check(fixture, &format!("{MANY} SELECT count(*) FROM n"), "[1000000]");
    assert_eq!(fixture.engine.pool.n_idle(), 1);
}

#[test]
fn a_cancel_stops_whatever_runs() {
    let fixture = fixture("");
    let endless = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n) ";
    check_cancelled(&fixture, &format!("{endless} SELECT i FROM n"), || true);
    check_cancelled(&fixture, &format!("{endless} SELECT count(*) FROM n"), || true);
    check_cancelled(
        &fixture,
        &format!("{MANY} SELECT a.i FROM n a, n b WHERE a.i + b.i < 0"),
        || true,
    );
    check_cancelled(&fixture, &format!("{endless} SELECT i FROM n ORDER BY -i"), || true);
}

#[test]
fn a_cancel_ends_the_wait_for_a_lock() {
    let fixture = fixture("CREATE TABLE t(a)");
    let writer = Connection::open(&fixture.path).unwrap();
    writer.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let patient = SqliteEngine {
        pool: Arc::new(Pool::new(Settings {
            lock_timeout: Duration::from_secs(3600),
            ..SqliteEngine::builder(&fixture.path).settings
        })),
        uncounted: Uncounted::default(),
        lookout: Lookout::default(),
    };
    let cancel = CancelToken::new();
    let (started, starts) = bounded::<()>(1);
    let reader = {
        let cancel = cancel.clone();
        spawn_named("test", STACK_BYTES_WORKER, move || {
            started.send(()).unwrap();
            patient
                .open(&QuerySpec::new("SELECT * FROM t"), &cancel)
                .and_then(|mut cursor| {
                    let mut writer = writer_of(cursor.as_ref());
                    writer.begin_batch(Vec::new(), LIMITS, 0);
                    cursor.fill(&mut writer)
                })
        })
    };
    starts.recv_timeout(DEADLINE).unwrap();
    cancel.cancel(CancelReason::Client);
    assert_eq!(
        reader.unwrap().join().unwrap().unwrap_err().kind,
        EngineErrorKind::Cancelled
    );

    let hasty = SqliteEngine::builder(&fixture.path).lock_timeout(Duration::ZERO);
    assert_eq!(hasty.open().unwrap_err().kind, EngineErrorKind::Busy);
}

#[test]
fn a_cancel_at_the_end_of_one_query_never_hits_the_next() {
    let fixture = fixture("");
    let query = QuerySpec::new("SELECT 1");
    for _ in 0..2_000 {
        let cancel = CancelToken::new();
        let cursor = fixture.engine.open(&query, &cancel).unwrap();
        let late = spawn_named("test", STACK_BYTES_WORKER, move || cancel.cancel(CancelReason::Client));
        drop(cursor);
        assert_eq!(rows(&fixture.engine, &query).unwrap(), "[1]");
        late.unwrap().join().unwrap();
    }
    assert_eq!(fixture.engine.pool.n_idle(), 1);
}

#[test]
fn a_cursor_moves_between_threads() {
    let fixture = fixture("");
    let sql = format!("{MANY} SELECT i FROM n LIMIT 100");
    let mut cursor = fixture.engine.open(&QuerySpec::new(sql), &CancelToken::new()).unwrap();
    for n in 0..10_u64 {
        cursor = spawn_named("test", STACK_BYTES_WORKER, move || {
            let mut writer = writer_of(cursor.as_ref());
            writer.begin_batch(Vec::new(), LIMITS, n * 10);
            cursor.fill(&mut writer).unwrap();
            let batch = String::from_utf8(writer.take_batch().unwrap().buffer).unwrap();
            assert!(batch.starts_with(&format!("[{}],", n * 10)), "{batch}");
            cursor
        })
        .unwrap()
        .join()
        .unwrap();
    }
}

struct Leaves(Sender<u32>, CancelToken);

impl FlushSink for Leaves {
    fn flush(&mut self, writer: &mut RowWriter, _now: Instant) {
        let batch = writer.take_batch().unwrap();
        self.0.send(batch.rows).unwrap();
        writer.begin_batch(batch.buffer, LIMITS, 0);
        // What was waited for has happened.
        self.1.cancel(CancelReason::Client);
    }
}

#[test]
fn a_due_batch_leaves_while_sqlite_looks_for_the_next_row() {
    let fixture = fixture("");
    let cancel = CancelToken::new();
    // Three rows at once, then none for ever.
    let sql = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n WHERE i < 3";
    let mut cursor = fixture.engine.open(&QuerySpec::new(sql), &cancel).unwrap();
    let mut writer = writer_of(cursor.as_ref());
    let (tx, rx) = bounded(4);
    writer.set_sink(Some(Box::new(Leaves(tx, cancel))));
    writer.begin_batch(
        Vec::new(),
        BatchLimits {
            until: Some(clock::now()),
            ..LIMITS
        },
        0,
    );
    assert_eq!(cursor.fill(&mut writer).unwrap_err().kind, EngineErrorKind::Cancelled);
    assert_eq!(rx.try_recv(), Ok(3));
}

#[test]
fn a_replaced_file_is_noticed_and_a_broken_one_is_an_error() {
    let fixture = fixture("CREATE TABLE t(a); INSERT INTO t VALUES ('old')");
    check(&fixture, "SELECT a FROM t", "[\"old\"]");
    let other = fixture.path.with_extension("new");
    Connection::open(&other)
        .unwrap()
        .execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES ('new')")
        .unwrap();
    std::fs::rename(&other, &fixture.path).unwrap();
    check(&fixture, "SELECT a FROM t", "[\"new\"]");

    std::fs::remove_file(&fixture.path).unwrap();
    check_refused(
        &fixture,
        &QuerySpec::new("SELECT a FROM t"),
        EngineErrorKind::Unavailable,
    );
    std::fs::write(&fixture.path, "this is no database, whatever its name says").unwrap();
    check_refused(
        &fixture,
        &QuerySpec::new("SELECT a FROM t"),
        EngineErrorKind::Unavailable,
    );
    assert_eq!(
        SqliteEngine::open(&fixture.path).unwrap_err().kind,
        EngineErrorKind::Unavailable
    );
    assert_eq!(
        SqliteEngine::open(fixture.path.join("x")).unwrap_err().kind,
        EngineErrorKind::Unavailable
    );
}

#[test]
fn a_truncated_file_is_an_error_and_no_crash() {
    let fixture = fixture(&format!(
        "CREATE TABLE t AS {MANY} SELECT i, hex(randomblob(50)) AS x FROM n LIMIT 20000"
    ));
    let len = std::fs::metadata(&fixture.path).unwrap().len();
    let mut cursor = fixture
        .engine
        .open(&QuerySpec::new("SELECT * FROM t"), &CancelToken::new())
        .unwrap();
    let mut writer = writer_of(cursor.as_ref());
    writer.begin_batch(Vec::new(), LIMITS, 0);
    assert_eq!(cursor.fill(&mut writer).unwrap(), Step::More);
    std::fs::OpenOptions::new()
        .write(true)
        .open(&fixture.path)
        .unwrap()
        .set_len(len / 2)
        .unwrap();
    let end = loop {
        writer.begin_batch(Vec::new(), LIMITS, 0);
        match cursor.fill(&mut writer) {
            Ok(Step::More) => {}
            other => break other,
        }
    };
    let error = end.unwrap_err();
    assert_eq!(error.kind, EngineErrorKind::Unavailable);
    assert!(error.message.contains("changed by another program"), "{error:?}");
}

#[test]
fn estimates_are_counts_or_the_scans_own_measure() {
    let fixture = fixture(&format!("CREATE TABLE t AS {MANY} SELECT i FROM n LIMIT 1000"));
    let estimate = |sql: &str, budget| {
        fixture
            .engine
            .estimate(&QuerySpec::new(sql), budget, &CancelToken::new())
    };
    let exact = |rows| Estimate::rows(Total::Exact(rows));
    assert_eq!(estimate("SELECT * FROM t", DEADLINE), exact(1_000));
    assert_eq!(
        estimate("SELECT i FROM t WHERE i < 10 ORDER BY i; -- end", DEADLINE),
        exact(10)
    );
    assert_eq!(estimate("SELECT i FROM t LIMIT 7", DEADLINE), exact(7));
    assert_eq!(estimate("nonsense", DEADLINE), Estimate::default());
    // No time to count: a scan is measured by its table, anything else stays unknown.
    let none = Duration::ZERO;
    assert_eq!(
        estimate("SELECT * FROM t WHERE i >= 0", none),
        Estimate::default().with_work_total(1_000)
    );
    assert_eq!(
        estimate("SELECT * FROM t WHERE i >= 0 LIMIT 999", none),
        Estimate::default()
    );
    assert_eq!(
        estimate("SELECT * FROM t WHERE i >= 0 ORDER BY -i", none),
        Estimate::default()
    );
    assert_eq!(
        estimate(
            "SELECT x.i FROM t AS x JOIN t AS y ON y.rowid = x.i WHERE x.i >= 0",
            none
        ),
        Estimate::default().with_work_total(1_000)
    );
    let query = QuerySpec::new("SELECT * FROM t WHERE i < ?").with_params(Params::Positional(vec![5_i64.into()]));
    assert_eq!(fixture.engine.estimate(&query, DEADLINE, &CancelToken::new()), exact(5));

    let mut cursor = fixture
        .engine
        .open(&QuerySpec::new("SELECT * FROM t"), &CancelToken::new())
        .unwrap();
    let mut writer = writer_of(cursor.as_ref());
    writer.begin_batch(Vec::new(), LIMITS, 0);
    cursor.fill(&mut writer).unwrap();
    assert_eq!(
        cursor.progress().work_done,
        Some(9),
        "ten rows are nine steps from the first"
    );
}

#[test]
fn connections_come_back_whatever_happens() {
    let fixture = fixture("CREATE TABLE t(a)");
    let bad = QuerySpec::new("SELECT ?").with_params(Params::Positional(Vec::new()));
    for query in [
        QuerySpec::new("SELECT 1"),
        QuerySpec::new("nonsense"),
        QuerySpec::new("SELECT 1;SELECT 2"),
        bad,
    ] {
        drop(fixture.engine.open(&query, &CancelToken::new()));
        assert_eq!(fixture.engine.pool.n_idle(), 1, "{}", query.sql);
    }
}
