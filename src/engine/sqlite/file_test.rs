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

/// Reads the rest of a stream. Where it ends well, the rows that came have to be those of `tag`, in order from `n` on, and all of them.
/// Where it ends with an error, some before the error may be wrong: of a page that is half there SQLite takes the rest for zeros.
#[track_caller]
fn check_rest(cursor: &mut dyn Cursor, tag: &str, mut n: u64) -> Result<u64, EngineError> {
    let mut writer = writer_of(cursor);
    let mut wrong = None;
    loop {
        writer.begin_batch(Vec::new(), LIMITS, n);
        let step = cursor.fill(&mut writer)?;
        let batch = writer.take_batch().unwrap();
        let text = String::from_utf8(batch.buffer).unwrap();
        let expected: Vec<String> = (n..n + u64::from(batch.rows))
            .map(|i| format!("[{i},\"{tag}\"]"))
            .collect();
        if text != expected.join(",") {
            wrong = Some(text);
        }
        n += u64::from(batch.rows);
        if step == Step::Done {
            assert_eq!(
                (n, wrong),
                (ROWS, None),
                "a stream that ends well has all rows, and no other"
            );
            return Ok(n);
        }
    }
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
            Ok(_) => n_complete += 1,
            Err(error) => check_typed(&error),
        }
        drop(cursor);
        // Between streams.
        match open(&fixture).and_then(|mut cursor| check_rest(cursor.as_mut(), &tag, 0)) {
            Ok(_) => {}
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
