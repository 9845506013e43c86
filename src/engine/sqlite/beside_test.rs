//! What is left beside a database, and databases beside which nothing can be written.
#![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use tempfile::TempDir;

use super::tests::{LIMITS, rows, writer_of};
use super::*;
use crate::engine::{EngineErrorKind, Step};

/// A database in WAL mode, closed, so that there is nothing beside it.
fn create(folder: &TempDir, name: &str, value: i64) -> PathBuf {
    let path = folder.path().join(name);
    let sql = format!(
        "PRAGMA journal_mode=WAL; CREATE TABLE t(i);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20) INSERT INTO t SELECT {value} FROM n"
    );
    Connection::open(&path).unwrap().execute_batch(&sql).unwrap();
    path
}

fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    names
}

fn sum() -> QuerySpec {
    QuerySpec::new("SELECT sum(i) FROM t")
}

#[test]
fn nothing_is_left_beside_a_database_that_nobody_has() {
    let folder = TempDir::new().unwrap();
    let path = create(&folder, "s.db", 1);
    assert_eq!(names(folder.path()), ["s.db"]);
    let engine = SqliteEngine::open(&path).unwrap();
    assert_eq!(rows(&engine, &sum()).unwrap(), "[20]");
    // A writer that comes and goes leaves its log to the engine.
    Connection::open(&path)
        .unwrap()
        .execute_batch("UPDATE t SET i = 2")
        .unwrap();
    assert_eq!(rows(&engine, &sum()).unwrap(), "[40]");
    assert_eq!(names(folder.path()), ["s.db", "s.db-shm", "s.db-wal"]);
    let mut cursor = engine
        .open(&QuerySpec::new("SELECT i FROM t"), &CancelToken::new())
        .unwrap();
    let mut writer = writer_of(cursor.as_ref());
    writer.begin_batch(Vec::new(), LIMITS, 0);
    assert_eq!(cursor.fill(&mut writer).unwrap(), Step::More);
    drop(engine);
    assert_eq!(names(folder.path()).len(), 3, "a cursor still reads");
    drop(cursor);
    assert_eq!(names(folder.path()), ["s.db"]);
    let again = SqliteEngine::builder(&path).immutable(true).open().unwrap();
    assert_eq!(rows(&again, &sum()).unwrap(), "[40]", "all of it is in the file");
}

#[test]
fn a_log_stays_with_the_programs_that_have_it() {
    let folder = TempDir::new().unwrap();
    let path = create(&folder, "s.db", 1);
    let engine = SqliteEngine::open(&path).unwrap();
    let writer = Connection::open(&path).unwrap();
    writer.execute_batch("UPDATE t SET i = 3").unwrap();
    assert_eq!(rows(&engine, &sum()).unwrap(), "[60]");
    drop(engine);
    assert_eq!(names(folder.path()).len(), 3);
    let engine = SqliteEngine::open(&path).unwrap();
    assert_eq!(rows(&engine, &sum()).unwrap(), "[60]");
}

/// To copy it would ruin the new file.
#[test]
fn a_log_of_another_file_stays_where_it_is() {
    let folder = TempDir::new().unwrap();
    let path = create(&folder, "s.db", 1);
    let new = fs::read(create(&folder, "new.db", 5)).unwrap();
    let engine = SqliteEngine::open(&path).unwrap();
    Connection::open(&path)
        .unwrap()
        .execute_batch("UPDATE t SET i = 2")
        .unwrap();
    assert_eq!(rows(&engine, &sum()).unwrap(), "[40]");
    fs::write(&path, &new).unwrap();
    drop(engine);
    assert!(names(folder.path()).contains(&"s.db-wal".to_owned()));
    assert_eq!(fs::read(&path).unwrap(), new);
}

#[test]
fn a_database_that_nobody_changes_needs_nothing_beside_it() {
    for profile in [SqliteProfile::Untrusted, SqliteProfile::Trusted] {
        let folder = TempDir::new().unwrap();
        let path = create(&folder, "50% of #1?.db", 1);
        let new = fs::read(create(&folder, "new.db", 5)).unwrap();
        let names_before = names(folder.path());
        let open = || SqliteEngine::builder(&path).profile(profile).immutable(true).open();
        let engine = open().unwrap();
        let numbers = QuerySpec::new("SELECT i FROM t");
        let mut cursor = engine.open(&numbers, &CancelToken::new()).unwrap();
        let mut writer = writer_of(cursor.as_ref());
        writer.begin_batch(Vec::new(), LIMITS, 0);
        assert_eq!(cursor.fill(&mut writer).unwrap(), Step::More);
        assert_eq!(rows(&engine, &sum()).unwrap(), "[20]");
        assert_eq!(names(folder.path()), names_before);
        // The promise is broken.
        fs::write(&path, &new).unwrap();
        drop(writer.take_batch());
        writer.begin_batch(Vec::new(), LIMITS, 10);
        let error = cursor.fill(&mut writer).unwrap_err();
        assert_eq!(error.kind, EngineErrorKind::Unavailable, "{error:?}");
        assert_eq!(rows(&engine, &sum()).unwrap(), "[100]");
        drop((engine, cursor));
        // What a writer has left in a log is part of the database.
        let keeps_it_open = SqliteEngine::open(&path).unwrap();
        Connection::open(&path)
            .unwrap()
            .execute_batch("UPDATE t SET i = 2")
            .unwrap();
        let error = open().unwrap_err();
        assert_eq!(error.kind, EngineErrorKind::Unavailable, "{error:?}");
        assert!(error.message.contains("-wal"), "{error:?}");
        assert!(error.hint.unwrap().contains("sqlite_immutable"));
        drop(keeps_it_open);
        assert_eq!(rows(&open().unwrap(), &sum()).unwrap(), "[40]");
    }
}
