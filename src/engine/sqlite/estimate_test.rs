//! What estimates find out, and that they keep to their budget: looks at the clock and reads of the file are counted.
#![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

use super::estimate::{COUNT_READS_MAX, UNCOUNTED_FOR, UNCOUNTED_MAX};
use super::ffi::seen;
use super::tests::{DEADLINE, fixture};
use super::*;
use crate::clock;
use crate::engine::{CancelReason, Total};

/// More than a table of so many rows has levels, for all look-ups of one estimate, and what the schema takes.
const CHEAP_LOOKS_MAX: u64 = 80;

/// A table with a page for each row.
const WIDE: &str = "PRAGMA page_size=512;
    CREATE TABLE narrow(a INTEGER PRIMARY KEY, b);
    INSERT INTO narrow WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 900) SELECT i, i % 9 FROM n;
    CREATE TABLE wide(a INTEGER PRIMARY KEY, b);
    INSERT INTO wide WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 6000) SELECT i, zeroblob(400) FROM n;";

/// An estimate, and how often it looked at the clock.
fn estimated(engine: &SqliteEngine, sql: &str, budget: Duration) -> (Estimate, u64) {
    seen::start(u64::MAX, || {});
    let estimate = engine.estimate(&QuerySpec::new(sql), budget, &CancelToken::new());
    (estimate, seen::n_events())
}

fn exact(rows: u64) -> Estimate {
    Estimate::rows(Total::Exact(rows))
}

fn about(rows: u64) -> Estimate {
    Estimate::rows(Total::Statistics(rows)).with_work_total(rows)
}

fn measured(rows: u64) -> Estimate {
    Estimate::default().with_work_total(rows)
}

#[test]
fn a_count_reads_so_many_pages_at_the_most_and_is_not_tried_again() {
    let fixture = fixture(WIDE);
    let engine = &fixture.engine;
    // The first opens the connection that the others find.
    assert_eq!(estimated(engine, "SELECT * FROM narrow", DEADLINE).0, exact(900));
    for (sql, expected) in [
        ("SELECT * FROM wide", about(6_000)),
        ("SELECT * FROM wide WHERE b IS NOT NULL", measured(6_000)),
        ("SELECT * FROM wide ORDER BY -a", Estimate::default()),
    ] {
        let (estimate, n_looks) = estimated(engine, sql, DEADLINE);
        assert_eq!(estimate, expected, "{sql}");
        let n_max = u64::from(COUNT_READS_MAX) + CHEAP_LOOKS_MAX;
        assert!(
            (u64::from(COUNT_READS_MAX)..n_max).contains(&n_looks),
            "{sql}: {n_looks}"
        );
        for _ in 0..3 {
            let (estimate, n_looks) = estimated(engine, sql, DEADLINE);
            assert_eq!(estimate, expected, "{sql}, again");
            assert!(n_looks <= CHEAP_LOOKS_MAX, "{sql}, again: {n_looks}");
        }
    }
}

#[test]
fn a_scan_of_a_large_table_in_a_large_file_is_not_counted() {
    let fixture = fixture(
        "CREATE TABLE padding AS SELECT zeroblob(20000000);
         CREATE TABLE small(a); INSERT INTO small VALUES (1), (2), (3);
         CREATE TABLE t(a INTEGER PRIMARY KEY);
         INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000) SELECT i FROM n;",
    );
    let engine = &fixture.engine;
    assert_eq!(estimated(engine, "SELECT * FROM small", DEADLINE).0, exact(3));
    for (sql, expected) in [
        ("SELECT * FROM t", about(300_000)),
        ("SELECT a + 1, 'x' || a FROM t AS x", about(300_000)),
        ("SELECT * FROM t WHERE a % 2", measured(300_000)),
    ] {
        let (estimate, n_looks) = estimated(engine, sql, DEADLINE);
        assert_eq!(estimate, expected, "{sql}");
        assert!(n_looks <= CHEAP_LOOKS_MAX, "{sql}: {n_looks}");
    }
    // What finds its rows by an index may be few of them.
    assert_eq!(
        estimated(engine, "SELECT * FROM t WHERE a > 299000", DEADLINE).0,
        exact(1_000)
    );
}

#[test]
fn a_count_ends_with_its_time_or_its_stream() {
    let fixture = fixture(WIDE);
    let engine = &fixture.engine;
    let _warm = estimated(engine, "SELECT * FROM narrow", DEADLINE);
    // A time that has passed at the first look.
    let (estimate, n_looks) = estimated(engine, "SELECT * FROM narrow", Duration::from_nanos(1));
    assert_eq!(estimate, about(900));
    assert!(n_looks <= CHEAP_LOOKS_MAX, "{n_looks}");

    let cancel = CancelToken::new();
    let token = cancel.clone();
    seen::start(1_000, move || {
        token.disarm();
        token.cancel(CancelReason::Admin);
    });
    let query = QuerySpec::new("SELECT * FROM wide");
    engine.estimate(&query, DEADLINE, &cancel);
    let after = seen::n_events() - 1_000;
    assert!(after <= 4, "looked {after} times after the cancel");
    // Its query may be counted when it comes again.
    let (_, n_looks) = estimated(engine, &query.sql, DEADLINE);
    assert!(n_looks >= u64::from(COUNT_READS_MAX), "{n_looks}");
}

#[test]
fn row_numbers_far_apart_are_no_number_of_rows() {
    let fixture = fixture(
        "PRAGMA page_size=512; CREATE TABLE t(a INTEGER PRIMARY KEY, b); INSERT INTO t VALUES (1, 1), (1000000000000, 2), (3, 4);
         CREATE TABLE w(k PRIMARY KEY, v) WITHOUT ROWID; INSERT INTO w SELECT a, b FROM t;",
    );
    let cheap = |sql: &str| estimated(&fixture.engine, sql, Duration::ZERO).0;
    assert_eq!(cheap("SELECT * FROM t"), Estimate::default());
    assert_eq!(cheap("SELECT * FROM w"), Estimate::default());
    assert_eq!(estimated(&fixture.engine, "SELECT * FROM t", DEADLINE).0, exact(3));
    // Statistics, where there are any, tell both.
    rusqlite::Connection::open(&fixture.path)
        .unwrap()
        .execute_batch("ANALYZE")
        .unwrap();
    // What is cheap has a few milliseconds, in which a busy machine may get nothing done.
    let told = (0..1_000)
        .map(|_| cheap("SELECT * FROM w"))
        .find(|told| *told != Estimate::default());
    assert_eq!(told, Some(about(3)));
}

#[test]
fn what_did_not_fit_is_forgotten_with_time_with_the_schema_and_beyond_a_number() {
    let uncounted = Uncounted::default();
    let now = clock::now();
    let key = |n: usize| uncounted.key(&format!("SELECT {n}"), 7);
    uncounted.add(key(0), now);
    assert!(uncounted.has(key(0), now + UNCOUNTED_FOR / 2));
    assert!(!uncounted.has(key(0), now + UNCOUNTED_FOR));
    assert!(!uncounted.has(uncounted.key("SELECT 0", 8), now));
    for n in 1..=UNCOUNTED_MAX {
        uncounted.add(key(n), now);
    }
    assert!(!uncounted.has(key(0), now) && uncounted.has(key(1), now));
}
