//! What becomes of queries when the file is cut, replaced, removed or overwritten under them.
#![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

use rusqlite::Connection;

use super::tests::{Fixture, LIMITS, fixture, rows, writer_of};
use super::*;
use crate::engine::{EngineErrorKind, Step};

const ROUNDS: usize = 50;
const ROWS: u64 = 400;

/// A database whose rows say their number and `tag`, some to a page.
fn create(path: &Path, tag: &str) {
    let sql = format!(
        "CREATE TABLE t(i INTEGER PRIMARY KEY, tag TEXT, filling);
         WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {})
         INSERT INTO t SELECT i, '{tag}', zeroblob(900) FROM n",
        ROWS - 1
    );
    Connection::open(path).unwrap().execute_batch(&sql).unwrap();
}

/// Reads the rest of a stream: what came of it, be it well ended or not.
pub(super) fn rest(cursor: &mut dyn Cursor, mut n: u64) -> (Vec<String>, Result<(), EngineError>) {
    let mut writer = writer_of(cursor);
    let mut texts = Vec::new();
    loop {
        writer.begin_batch(Vec::new(), LIMITS, n);
        let step = cursor.fill(&mut writer);
        let batch = writer.take_batch().unwrap();
        n += u64::from(batch.rows);
        if batch.rows > 0 {
            texts.push(String::from_utf8(batch.buffer).unwrap());
        }
        match step {
            Ok(Step::More | Step::Columns) => {}
            Ok(Step::Done) => return (texts, Ok(())),
            Err(error) => return (texts, Err(error)),
        }
    }
}

/// Reads the rest of a stream, whose rows have to be those of `tag`, in order from `n` on; where it ends well, all of them.
#[track_caller]
fn check_rest(cursor: &mut dyn Cursor, tag: &str, n: u64) -> Result<(), EngineError> {
    let expected: Vec<String> = (n..ROWS).map(|i| format!("[{i},\"{tag}\"]")).collect();
    let (texts, end) = rest(cursor, n);
    check_rows(&texts, &expected.join(","), &end);
    end
}

#[track_caller]
fn check_rows(texts: &[String], expected: &str, end: &Result<(), EngineError>) {
    let text = texts.join(",");
    assert!(
        expected.starts_with(&text),
        "rows that were never in the database: {text}, {end:?}"
    );
    assert!(end.is_err() || text == expected, "rows are missing: {text}");
}

fn open(fixture: &Fixture) -> Result<Box<dyn Cursor>, EngineError> {
    let query = QuerySpec::new("SELECT i, tag FROM t");
    fixture.engine.open(&query, &CancelToken::new())
}

/// Does `harm` to the file while a stream has read a part of it, and to the file that idle connections have open; then puts a new
/// database in its place, which new streams have to see. Returns how many streams ended well in spite of the harm.
fn check_harm(harm: impl Fn(&Path, usize), survives: bool) {
    let fixture = fixture("");
    fs::remove_file(&fixture.path).unwrap();
    create(&fixture.path, "old");
    let mut n_complete = 0;
    for round in 0..ROUNDS {
        let tag = format!("round {round}");
        let other = fixture.path.with_extension("new");
        create(&other, &tag);
        fs::rename(&other, &fixture.path).unwrap();

        let mut cursor = open(&fixture).unwrap();
        let mut writer = writer_of(cursor.as_ref());
        for _ in 0..round % 3 {
            writer.begin_batch(Vec::new(), LIMITS, 0);
            cursor.fill(&mut writer).unwrap();
            drop(writer.take_batch());
        }
        let n_before = (round % 3) as u64 * u64::from(LIMITS.rows_max);
        // An idle connection that has read the file.
        if round % 2 == 0 {
            assert!(rows(&fixture.engine, &QuerySpec::new("SELECT count(*) FROM t")).is_ok());
        }
        harm(&fixture.path, round);
        match check_rest(cursor.as_mut(), &tag, n_before) {
            Ok(()) => n_complete += 1,
            Err(error) => check_typed(&error),
        }
        drop(cursor);
        // Between streams.
        match open(&fixture).and_then(|mut cursor| check_rest(cursor.as_mut(), &tag, 0)) {
            Ok(()) => {}
            Err(error) => check_typed(&error),
        }
    }
    assert_eq!(
        n_complete == ROUNDS,
        survives,
        "{n_complete} of {ROUNDS} streams were complete"
    );
    // The engine serves whatever is there next.
    fs::write(fixture.path.with_extension("new"), []).unwrap();
    fs::rename(fixture.path.with_extension("new"), &fixture.path).unwrap();
    create(&fixture.path, "last");
    let mut cursor = open(&fixture).unwrap();
    check_rest(cursor.as_mut(), "last", 0).unwrap();
}

#[track_caller]
fn check_typed(error: &EngineError) {
    // Cut to nothing, a database is a valid one without tables.
    let empty = error.message == "no such table: t";
    assert!(error.kind == EngineErrorKind::Unavailable || empty, "{error:?}");
    assert_ne!(error.engine_code.as_deref(), Some("SQLITE_CORRUPT"));
    assert!(!error.message.contains("malformed"), "{error:?}");
}

#[test]
fn a_file_that_is_cut_gives_all_rows_or_an_error() {
    check_harm(
        |path, round| {
            let file = OpenOptions::new().write(true).open(path).unwrap();
            let len = file.metadata().unwrap().len();
            file.set_len(len * (round as u64 % 10) / 10).unwrap();
        },
        false,
    );
}

#[test]
fn a_file_that_is_overwritten_gives_all_rows_or_an_error() {
    check_harm(
        |path, round| {
            let mut file = OpenOptions::new().write(true).open(path).unwrap();
            let len = usize::try_from(file.metadata().unwrap().len()).unwrap();
            let garbage = ["this is no page of a database; ", "\u{1}\u{2}\u{3}", "\u{7f}"][round % 3];
            file.write_all(garbage.repeat(len / garbage.len()).as_bytes()).unwrap();
        },
        false,
    );
}

#[test]
fn a_file_that_is_replaced_is_read_to_its_end() {
    check_replaced("new");
}

/// The stream goes on with the file that it has; the next one sees the new file.
fn check_replaced(tag: &str) {
    let fixture = fixture("");
    fs::remove_file(&fixture.path).unwrap();
    create(&fixture.path, "0");
    for round in 0..ROUNDS {
        let mut cursor = open(&fixture).unwrap();
        assert!(rows(&fixture.engine, &QuerySpec::new("SELECT 1")).is_ok());
        let other = fixture.path.with_extension(tag);
        create(&other, &(round + 1).to_string());
        fs::rename(&other, &fixture.path).unwrap();
        check_rest(cursor.as_mut(), &round.to_string(), 0).unwrap();
        drop(cursor);
        let mut cursor = open(&fixture).unwrap();
        check_rest(cursor.as_mut(), &(round + 1).to_string(), 0).unwrap();
    }
}

#[test]
fn a_file_that_is_removed_is_read_to_its_end() {
    check_harm(|path, _| fs::remove_file(path).unwrap(), true);
}

/// What is read in ways of its own: tables, keys, values that go on on other pages, sums, the first page.
const TABLES: &str = "
    CREATE TABLE numbers(i INTEGER PRIMARY KEY, half REAL, name TEXT);
    CREATE TABLE keyed(k TEXT PRIMARY KEY, v) WITHOUT ROWID;
    CREATE TABLE long(i INTEGER PRIMARY KEY, x TEXT, y);
    CREATE INDEX by_name ON numbers(name);
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 600)
    INSERT INTO numbers SELECT i, i / 2.0, format('number %d %.*c', i, 90, 'n') FROM n;
    INSERT INTO keyed SELECT format('key %03d', i), -i FROM numbers;
    INSERT INTO long SELECT i, format('%.*c', 9000, char(65 + i)), i FROM numbers LIMIT 20;";

const READ: &[&str] = &[
    "SELECT * FROM numbers",
    "SELECT name, i FROM numbers ORDER BY name",
    "SELECT * FROM keyed ORDER BY k DESC",
    "SELECT * FROM long",
    "SELECT i, substr(x, 8990) FROM long",
    "SELECT name, sql FROM sqlite_schema",
    "SELECT count(*), sum(i), total(half), max(name) FROM numbers",
    "SELECT numbers.i, v FROM numbers, keyed WHERE k = format('key %03d', i)",
];

const PROFILES: [SqliteProfile; 2] = [SqliteProfile::Untrusted, SqliteProfile::Trusted];

fn engine_of(path: &Path, profile: SqliteProfile) -> SqliteEngine {
    SqliteEngine::builder(path).profile(profile).open().unwrap()
}

#[test]
fn no_row_is_made_of_what_a_cut_took() {
    let fixture = fixture(TABLES);
    let bytes = fs::read(&fixture.path).unwrap();
    for engine in PROFILES.map(|profile| engine_of(&fixture.path, profile)) {
        for sql in READ {
            let query = QuerySpec::new(*sql);
            let expected = rows(&engine, &query).unwrap();
            let mut n_failed = 0;
            for cut in 1..48 {
                // Through all pages, and to all places of a page.
                let len = bytes.len() - bytes.len() * cut / 48 - cut * 85 % 4096;
                let mut cursor = engine.open(&query, &CancelToken::new()).unwrap();
                let mut writer = writer_of(cursor.as_ref());
                writer.begin_batch(Vec::new(), LIMITS, 0);
                let before = (cut % 2 == 1).then(|| {
                    let step = cursor.fill(&mut writer).unwrap();
                    (step, writer.take_batch().unwrap())
                });
                let file = OpenOptions::new().write(true).open(&fixture.path).unwrap();
                file.set_len(len as u64).unwrap();
                let done = before.as_ref().is_some_and(|(step, _)| *step == Step::Done);
                let mut texts: Vec<String> = before
                    .into_iter()
                    .map(|(_, batch)| String::from_utf8(batch.buffer).unwrap())
                    .collect();
                if !done {
                    let (more, end) = rest(cursor.as_mut(), 0);
                    texts.extend(more);
                    check_rows(&texts, &expected, &end);
                    if let Err(error) = end {
                        check_typed(&error);
                        n_failed += 1;
                    }
                }
                drop(cursor);
                for _ in 0..2 {
                    match engine.open(&query, &CancelToken::new()) {
                        Ok(mut cursor) => {
                            let (texts, end) = rest(cursor.as_mut(), 0);
                            check_rows(&texts, &expected, &end);
                        }
                        Err(error) => check_typed(&error),
                    }
                }
                fs::write(&fixture.path, &bytes).unwrap();
                assert_eq!(rows(&engine, &query).unwrap(), expected, "whole again");
            }
            assert!(n_failed > 0 || sql.contains("schema"), "{sql}: no cut was noticed");
        }
    }
}

#[test]
fn a_log_with_more_pages_than_the_file_is_read() {
    for profile in PROFILES {
        let fixture = fixture("PRAGMA journal_mode=WAL");
        let writer = Connection::open(&fixture.path).unwrap();
        writer.execute_batch("PRAGMA wal_autocheckpoint=0").unwrap();
        let engine = engine_of(&fixture.path, profile);
        writer.execute_batch(TABLES).unwrap();
        let len = || fs::metadata(&fixture.path).unwrap().len();
        assert!(len() <= 4096, "all of it is in the log");
        let count = QuerySpec::new("SELECT count(*), sum(i), max(name) FROM numbers");
        let expected = rows(&engine, &count).unwrap();
        assert!(expected.starts_with("[600,180300,"), "{expected}");
        // Half of the pages in the file, half in the log, and then the file is cut.
        writer.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        assert_eq!(rows(&engine, &count).unwrap(), expected);
        writer
            .execute_batch("UPDATE numbers SET half = 0 WHERE i > 300")
            .unwrap();
        assert_eq!(rows(&engine, &count).unwrap(), expected);
        let file = OpenOptions::new().write(true).open(&fixture.path).unwrap();
        file.set_len(4096 * 3 + 1000).unwrap();
        for engine in [&engine, &engine_of(&fixture.path, profile)] {
            let error = rows(engine, &count).unwrap_err();
            check_typed(&error);
            let later = QuerySpec::new("SELECT count(*) FROM numbers NOT INDEXED WHERE i > 400");
            if let Ok(text) = rows(engine, &later) {
                assert_eq!(text, "[200]");
            }
        }
    }
}

#[test]
fn an_empty_file_is_a_database_and_a_text_is_none() {
    for profile in PROFILES {
        let fixture = fixture("");
        assert_eq!(fs::metadata(&fixture.path).unwrap().len(), 0);
        let engine = engine_of(&fixture.path, profile);
        let query = QuerySpec::new("SELECT a FROM t");
        let error = rows(&engine, &query).unwrap_err();
        assert_eq!(error.message, "no such table: t");
        // The idle connection takes pages for larger than the whole file.
        let create = "PRAGMA page_size=512; CREATE TABLE t(a); INSERT INTO t VALUES (1)";
        Connection::open(&fixture.path).unwrap().execute_batch(create).unwrap();
        assert_eq!(fs::metadata(&fixture.path).unwrap().len(), 1024);
        assert_eq!(rows(&engine, &query).unwrap(), "[1]");

        for len in [100, 1_000, 5_000] {
            fs::write(&fixture.path, "x".repeat(len)).unwrap();
            let error = SqliteEngine::builder(&fixture.path)
                .profile(profile)
                .open()
                .unwrap_err();
            assert_eq!(error.engine_code.as_deref(), Some("SQLITE_NOTADB"), "{error:?}");
        }
    }
}
