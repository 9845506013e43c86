//! What the engine sees of writers: decided by figures, and on real files. A writer of another process is in `tests/it/rest.rs`.
#![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

use std::time::Duration;

use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::engine::sqlite::tests::{LIMITS, writer_of};
use crate::engine::sqlite::{SqliteEngine, SqliteEngineBuilder};
use crate::engine::{CancelToken, Cursor, Engine, QuerySpec};

const ROWS: &str = "CREATE TABLE t(a); \
    INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) SELECT i FROM n;";

struct Fixture {
    _folder: TempDir,
    engine: SqliteEngine,
    writer: Connection,
}

fn fixture(mode: &str, configure: impl FnOnce(SqliteEngineBuilder) -> SqliteEngineBuilder) -> Fixture {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("t.db");
    let writer = Connection::open(&path).unwrap();
    writer.busy_timeout(Duration::ZERO).unwrap();
    writer
        .execute_batch(&format!("PRAGMA journal_mode = {mode}; {ROWS}"))
        .unwrap();
    Fixture {
        engine: configure(SqliteEngine::builder(path)).open().unwrap(),
        _folder: folder,
        writer,
    }
}

impl Fixture {
    /// A query that has begun and has not ended.
    fn rest(&self) -> Box<dyn Cursor> {
        let mut cursor = self
            .engine
            .open(&QuerySpec::new("SELECT a FROM t"), &CancelToken::new())
            .unwrap();
        let mut writer = writer_of(&*cursor);
        writer.begin_batch(Vec::new(), LIMITS, 0);
        cursor.fill(&mut writer).unwrap();
        cursor
    }

    fn setting(&self) -> Option<&'static str> {
        let contention = self.engine.contention()?;
        assert!(contention.message.contains(contention.setting), "{contention:?}");
        Some(contention.setting)
    }

    /// Some 100 KB in as many transactions.
    fn write(&self) {
        for _ in 0..100 {
            self.writer
                .execute_batch("INSERT INTO t VALUES (zeroblob(1000))")
                .unwrap();
        }
    }
}

#[test]
fn a_writer_that_a_shared_lock_keeps_waiting_is_seen() {
    let fixture = fixture("DELETE", |builder| builder);
    let cursor = fixture.rest();
    let write = "BEGIN IMMEDIATE; INSERT INTO t VALUES (0)";
    fixture.writer.execute_batch(write).unwrap();
    for _ in 0..3 {
        assert_eq!(fixture.setting(), None, "it writes, and does not wait");
    }
    assert!(fixture.writer.execute_batch("COMMIT").is_err(), "the lock is shared");
    assert_eq!(fixture.setting(), None, "it may be there for a moment");
    assert_eq!(fixture.setting(), Some("sqlite_writer_wait_max"));
    drop(cursor);
    fixture.writer.execute_batch("COMMIT").unwrap();
    assert_eq!(fixture.setting(), None);
}

#[test]
fn a_log_that_a_snapshot_keeps_from_being_checkpointed_is_seen_once_for_each_checkpoint() {
    let fixture = fixture("WAL", |builder| builder.wal_bytes_max(Some(64 << 10)));
    let checkpoint = || {
        fixture
            .writer
            .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
            .unwrap();
    };
    checkpoint();
    let first = fixture.rest();
    assert_eq!(fixture.setting(), None);
    fixture.write();
    assert_eq!(fixture.setting(), Some("sqlite_wal_bytes_max"));
    assert_eq!(fixture.setting(), None, "a checkpoint is awaited");
    let second = fixture.rest();
    fixture.write();
    drop(first);
    checkpoint();
    assert_eq!(fixture.setting(), Some("sqlite_wal_bytes_max"), "that was not enough");
    drop(second);
    checkpoint();
    assert_eq!(fixture.setting(), None);
}

#[test]
fn a_log_that_is_large_and_checkpointed_is_in_nobody_s_way() {
    let fixture = fixture("WAL", |builder| builder.wal_bytes_max(Some(64 << 10)));
    fixture.write();
    fixture
        .writer
        .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
        .unwrap();
    let _cursor = fixture.rest();
    assert_eq!(fixture.setting(), None);
}

#[test]
fn what_is_off_is_not_said() {
    let off = |builder: SqliteEngineBuilder| builder.wal_bytes_max(None).writer_wait_max(None);
    let (locked, logged) = (fixture("DELETE", off), fixture("WAL", off));
    let _cursors = (locked.rest(), logged.rest());
    let write = "BEGIN IMMEDIATE; INSERT INTO t VALUES (0); COMMIT";
    assert!(locked.writer.execute_batch(write).is_err(), "it waits");
    logged.write();
    for fixture in [locked, logged] {
        assert_eq!((fixture.setting(), fixture.setting()), (None, None));
    }
}

#[test]
fn journal_modes_are_told() {
    for (mode, expected) in [
        ("DELETE", JournalMode::Rollback),
        ("TRUNCATE", JournalMode::Rollback),
        ("WAL", JournalMode::Wal),
    ] {
        let fixture = fixture(mode, |builder| builder);
        assert_eq!(fixture.engine.journal_mode().unwrap(), expected, "{mode}");
    }
}

#[test]
fn a_writer_is_waited_for_as_long_as_is_set() {
    let max = Duration::from_secs(5);
    let start = crate::clock::now();
    let mut seen = Seen::default();
    let mut rest_min = |waits, seconds| {
        let contention = seen.judge_writer(waits, max, start + Duration::from_secs(seconds))?;
        Some(contention.rest_min)
    };
    assert_eq!(rest_min(true, 0), None);
    assert_eq!(
        rest_min(true, 1),
        Some(max),
        "streams that have rested for so long give way at once"
    );
    assert_eq!(rest_min(true, 4), Some(max));
    assert_eq!(rest_min(true, 5), Some(Duration::ZERO), "and then whichever rests");
    assert_eq!(rest_min(false, 6), None);
    assert_eq!(
        (rest_min(true, 7), rest_min(true, 8)),
        (None, Some(max)),
        "it is another"
    );
}

#[test]
fn a_second_query_gives_way_only_where_the_first_was_not_enough() {
    let start = crate::clock::now();
    let mut seen = Seen::default();
    let mut is_said = |bytes, seconds, n_frames, n_checkpointed| {
        let at = start + Duration::from_secs(seconds);
        let told = LogTold {
            at,
            n_frames,
            n_checkpointed,
        };
        seen.judge_log(bytes, told, 1_000).is_some()
    };
    assert!(!is_said(1_000, 0, 10, 0));
    assert!(is_said(1_001, 1, 11, 0));
    assert!(!is_said(1_001, 60, 11, 0), "nobody writes");
    assert!(is_said(1_002, 61, 12, 0), "somebody writes, and it is not checkpointed");
    assert!(!is_said(1_003, 70, 13, 0), "it may be yet");
    assert!(is_said(1_003, 71, 13, 1), "it is, and that was not enough");
    assert!(!is_said(900, 72, 13, 5));
    assert!(is_said(1_001, 73, 14, 5), "it grows again");
}
