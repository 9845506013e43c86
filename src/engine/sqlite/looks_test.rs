//! Whatever a query does, it looks every so often whether it is to stop: between operations, at each read of the database's files, and at each
//! access to a temporary file. How much it still does after a cancel does not grow with the data.
#![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

use rusqlite::Connection;
use tempfile::TempDir;

use super::ffi::seen;
use super::tests::{LIMITS, writer_of};
use super::*;
use crate::engine::{CancelReason, EngineErrorKind, Step};

/// Looks after the one at which it is cancelled: one that stops it, and those of the way out.
const LOOKS_AFTER_MAX: u64 = 4;

/// Each works through all rows of the data in operations of its own kind, some of which take longer the more rows there are.
const QUERIES: &[&str] = &[
    // One operation walks all pages of a table or an index.
    "SELECT count(*) FROM t",
    "SELECT count(*) FROM t NOT INDEXED",
    "SELECT count(*) FROM w",
    "SELECT (SELECT count(*) FROM t) + (SELECT count(*) FROM w)",
    "SELECT sum(length(c)) FROM t",
    "SELECT count(*) FROM t WHERE c LIKE '%x%y%z%'",
    "SELECT max(c || a) FROM t",
    // Sorters, and the merges of what they have written.
    "SELECT * FROM t ORDER BY c",
    "SELECT c FROM t ORDER BY c LIMIT 1 OFFSET 1000000",
    "SELECT count(*) FROM (SELECT c FROM t GROUP BY c)",
    "SELECT row_number() OVER (ORDER BY c) FROM t",
    "SELECT sum(b) OVER (PARTITION BY b ORDER BY c) FROM t",
    // Tables that are made on the way.
    "SELECT DISTINCT c FROM t",
    "SELECT count(DISTINCT c) FROM t",
    "SELECT c FROM t UNION SELECT k FROM w",
    "SELECT c FROM t EXCEPT SELECT k FROM w",
    "SELECT count(*) FROM t WHERE c IN (SELECT k FROM w)",
    "WITH m AS MATERIALIZED (SELECT c, b FROM t) SELECT count(*) FROM m x JOIN m y ON x.b = y.b AND x.c = y.c",
    "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < (SELECT count(*) FROM t)) SELECT sum(i) FROM n",
    // An index for the time of the query.
    "SELECT count(*) FROM t x JOIN t y ON x.c = y.c",
    // What collects.
    "SELECT length(group_concat(b, '')) FROM t",
    "SELECT json_array_length(json_group_array(b)) FROM t WHERE a < 4000",
    "SELECT count(*) FROM json_each((SELECT json_group_array(b) FROM t WHERE a < 4000)), t WHERE a < 100",
];

/// They may look into the storage.
const OF_THE_TRUSTED: &[&str] = &[
    "SELECT count(*) FROM dbstat",
    "SELECT sum(pgsize) FROM dbstat WHERE aggregate = 1",
];

struct Data {
    _folder: TempDir,
    /// Whoever closes a database last empties its log into the file.
    _writer: Connection,
    engine: SqliteEngine,
}

/// Small pages, so that few rows have many of them.
fn data(n_rows: u32, journal_mode: &str, profile: SqliteProfile) -> Data {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("data.db");
    let connection = Connection::open(&path).unwrap();
    let sql = format!(
        "PRAGMA page_size=1024; PRAGMA journal_mode={journal_mode}; PRAGMA wal_autocheckpoint=0; PRAGMA synchronous=OFF; BEGIN;
         CREATE TABLE t(a INTEGER PRIMARY KEY, b INT, c TEXT);
         INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {n_rows})
             SELECT i, i % 7, format('%08x', i * 2654435761 % 4294967296) || '-0123456789-0123456789-0123456789' FROM n;
         CREATE INDEX tb ON t(b);
         CREATE TABLE w(k TEXT PRIMARY KEY, v INT) WITHOUT ROWID;
         INSERT INTO w SELECT c || 'w', a FROM t;
         COMMIT;"
    );
    connection.execute_batch(&sql).unwrap();
    let engine = SqliteEngine::builder(&path)
        .profile(profile)
        .cache_kib(16)
        .open()
        .unwrap();
    Data {
        _folder: folder,
        _writer: connection,
        engine,
    }
}

/// Runs a query to its end, and counts the looks.
fn looks_of(data: &Data, sql: &str) -> u64 {
    let query = QuerySpec::new(sql);
    let mut cursor = data.engine.open(&query, &CancelToken::new()).unwrap();
    let mut writer = writer_of(cursor.as_ref());
    seen::start(u64::MAX, || {});
    loop {
        writer.begin_batch(Vec::new(), LIMITS, 0);
        let step = cursor
            .fill(&mut writer)
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
        drop(writer.take_batch().unwrap());
        if step == Step::Done {
            return seen::n_events();
        }
    }
}

/// Runs a query that is cancelled at the `n`-th look, and counts the looks after it. Nothing interrupts SQLite: an interrupt is lost that
/// comes as a statement begins.
fn looks_after_cancel(data: &Data, sql: &str, n: u64) -> u64 {
    let cancel = CancelToken::new();
    let mut cursor = data.engine.open(&QuerySpec::new(sql), &cancel).unwrap();
    let mut writer = writer_of(cursor.as_ref());
    seen::start(n, move || {
        cancel.disarm();
        cancel.cancel(CancelReason::Client);
    });
    let error = loop {
        writer.begin_batch(Vec::new(), LIMITS, 0);
        match cursor.fill(&mut writer) {
            Ok(Step::More) => drop(writer.take_batch().unwrap()),
            Ok(step) => panic!("{sql}, cancelled at look {n}: ended with {step:?}"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind, EngineErrorKind::Cancelled, "{sql}: {error}");
    seen::n_events() - n
}

#[test]
fn a_cancel_ends_every_kind_of_query_within_a_few_looks_however_much_data_there_is() {
    for (n_rows, journal_mode, profile) in [
        (6_000, "DELETE", SqliteProfile::Untrusted),
        (24_000, "WAL", SqliteProfile::Trusted),
    ] {
        let data = data(n_rows, journal_mode, profile);
        let trusted = if profile == SqliteProfile::Trusted {
            OF_THE_TRUSTED
        } else {
            &[]
        };
        for sql in QUERIES.iter().chain(trusted) {
            // What the first finds in the file, the second finds in the cache.
            let n = looks_of(&data, sql).min(looks_of(&data, sql));
            assert!(n >= 32, "{sql}: looked {n} times, among {n_rows} rows");
            for at in [n / 16, n / 2, n - n / 8] {
                let after = looks_after_cancel(&data, sql, at);
                assert!(
                    after <= LOOKS_AFTER_MAX,
                    "{sql}: looked {after} times after the cancel at look {at} of {n}"
                );
            }
        }
    }
}

#[test]
fn every_page_that_a_count_walks_is_a_look() {
    let small = data(6_000, "DELETE", SqliteProfile::Untrusted);
    let large = data(24_000, "WAL", SqliteProfile::Trusted);
    for sql in ["SELECT count(*) FROM t NOT INDEXED", "SELECT count(*) FROM w"] {
        let (small, large) = (looks_of(&small, sql), looks_of(&large, sql));
        assert!(small >= 300 && large >= small * 7 / 2, "{sql}: {small}, {large}");
    }
}
