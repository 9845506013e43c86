//! A file that something else than SQLite writes to: no result that is called complete has rows of two versions, and a query that begins
//! afterwards sees the new one. What SQLite writes itself is never taken for that.
#![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

use std::fs::{self, File, FileTimes, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use rusqlite::Connection;
use tempfile::TempDir;

use super::file_test::rest;
use super::tests::{LIMITS, rows, writer_of};
use super::*;
use crate::engine::{EngineErrorKind, Step};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Journal {
    Rollback,
    Wal,
}

const JOURNALS: [Journal; 2] = [Journal::Rollback, Journal::Wal];

/// Rows whose version is told by each; enough for some pages, and for more than any cache.
const FEW: u64 = 50;
const MANY_ROWS: u64 = 20_000;

struct Files {
    folder: TempDir,
    journal: Journal,
}

impl Files {
    fn new(journal: Journal) -> Self {
        Self {
            folder: TempDir::new().unwrap(),
            journal,
        }
    }

    /// A database beside the served one, made by `sql` in as many commits as any other.
    fn make(&self, name: &str, sql: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        let connection = Connection::open(&path).unwrap();
        if self.journal == Journal::Wal {
            connection.execute_batch("PRAGMA journal_mode=WAL").unwrap();
        }
        connection.execute_batch(sql).unwrap();
        path
    }

    fn make_rows(&self, name: &str, version: u64, n_rows: u64) -> PathBuf {
        self.make(name, &rows_of(version, n_rows))
    }
}

/// Same shape, same number of pages, same number of commits whatever the version.
fn rows_of(version: u64, n_rows: u64) -> String {
    format!(
        "CREATE TABLE t(i INTEGER PRIMARY KEY, version TEXT, filling);
         WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {n_rows} - 1)
         INSERT INTO t SELECT i, format('%08d', {version}), zeroblob(80) FROM n"
    )
}

fn select() -> QuerySpec {
    QuerySpec::new("SELECT i, version FROM t")
}

fn expected(version: u64, n_rows: u64) -> String {
    let rows: Vec<String> = (0..n_rows).map(|i| format!("[{i},\"{version:08}\"]")).collect();
    rows.join(",")
}

#[derive(Debug, Clone, Copy)]
enum Way {
    /// As `cp` does.
    Truncating,
    /// As `rsync --inplace` does.
    InPlace,
}

fn overwrite(path: &Path, bytes: &[u8], way: Way) {
    let truncate = matches!(way, Way::Truncating);
    let mut file = OpenOptions::new().write(true).truncate(truncate).open(path).unwrap();
    for piece in bytes.chunks(32 << 10) {
        file.write_all(piece).unwrap();
    }
}

#[track_caller]
fn check_unavailable(error: &EngineError) {
    assert_eq!(error.kind, EngineErrorKind::Unavailable, "{error:?}");
    assert!(!error.message.contains("s.db"), "{error:?}");
}

/// Lets a cursor fill one batch.
fn fill(cursor: &mut dyn Cursor) -> Result<Step, EngineError> {
    let mut writer = writer_of(cursor);
    writer.begin_batch(Vec::new(), LIMITS, 0);
    let step = cursor.fill(&mut writer);
    drop(writer.take_batch());
    step
}

fn check_overwritten(journal: Journal, n_rows: u64, way: Way) {
    let files = Files::new(journal);
    let path = files.make_rows("s.db", 1, n_rows);
    let new = fs::read(files.make_rows("new.db", 2, n_rows)).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), new.len() as u64);
    let engine = SqliteEngine::open(&path).unwrap();
    // Several connections that have read all of it, and one in the middle of it.
    let open = || engine.open(&select(), &CancelToken::new()).unwrap();
    let (mut unbegun, mut resting) = (open(), open());
    assert_eq!(fill(resting.as_mut()).unwrap(), Step::More);
    for mut cursor in [open(), open(), open()] {
        let (texts, end) = rest(cursor.as_mut(), 0);
        assert_eq!((texts.join(","), end), (expected(1, n_rows), Ok(())));
    }
    overwrite(&path, &new, way);
    for _ in 0..4 {
        assert_eq!(rows(&engine, &select()).unwrap(), expected(2, n_rows), "{journal:?}");
    }
    // A query that has not read anything reads what is there.
    let (texts, end) = rest(unbegun.as_mut(), 0);
    assert_eq!((texts.join(","), end), (expected(2, n_rows), Ok(())));
    check_unavailable(&fill(resting.as_mut()).unwrap_err());
}

#[test]
fn a_query_that_begins_after_an_overwrite_sees_the_new_file() {
    for journal in JOURNALS {
        for way in [Way::Truncating, Way::InPlace] {
            check_overwritten(journal, FEW, way);
        }
        check_overwritten(journal, MANY_ROWS, Way::Truncating);
    }
}

#[test]
fn a_schema_that_is_overwritten_is_noticed() {
    for journal in JOURNALS {
        let files = Files::new(journal);
        let path = files.make("s.db", "CREATE TABLE t(a, b); INSERT INTO t VALUES (1, 2)");
        let new = files.make("new.db", "CREATE TABLE t(b, c, a); INSERT INTO t VALUES (3, 4, 5)");
        let engine = SqliteEngine::open(&path).unwrap();
        let all = QuerySpec::new("SELECT * FROM t");
        assert_eq!(rows(&engine, &all).unwrap(), "[1,2]");
        let mut unbegun = engine.open(&all, &CancelToken::new()).unwrap();
        let mut named = engine
            .open(&QuerySpec::new("SELECT a FROM t"), &CancelToken::new())
            .unwrap();
        overwrite(&path, &fs::read(new).unwrap(), Way::Truncating);
        let described = engine.describe("SELECT * FROM t", &CancelToken::new()).unwrap();
        let names: Vec<_> = described
            .columns
            .unwrap()
            .columns()
            .iter()
            .map(|column| column.name.clone())
            .collect();
        assert_eq!(names, ["b", "c", "a"]);
        assert_eq!(rows(&engine, &all).unwrap(), "[3,4,5]");
        // Its columns were told already.
        let error = fill(unbegun.as_mut()).unwrap_err();
        check_unavailable(&error);
        assert!(error.message.contains("columns"), "{error:?}");
        assert_eq!(rest(named.as_mut(), 0), (vec!["[5]".to_owned()], Ok(())));
    }
}

/// SQLite prepares the statement again by itself; the columns that were announced are no longer those of the rows.
#[test]
fn a_column_that_is_added_before_the_first_row_is_noticed() {
    for journal in JOURNALS {
        let files = Files::new(journal);
        let path = files.make("s.db", "CREATE TABLE t(a); INSERT INTO t VALUES (1)");
        let engine = SqliteEngine::open(&path).unwrap();
        let open = || {
            engine
                .open(&QuerySpec::new("SELECT * FROM t"), &CancelToken::new())
                .unwrap()
        };
        let mut unbegun = open();
        Connection::open(&path)
            .unwrap()
            .execute_batch("ALTER TABLE t ADD COLUMN b")
            .unwrap();
        let error = fill(unbegun.as_mut()).unwrap_err();
        assert!(error.message.contains("columns"), "{error:?}");
        assert_eq!(rest(open().as_mut(), 0), (vec!["[1,null]".to_owned()], Ok(())));
    }
}

/// A writer replaces the file in place while eight readers stream: the measure of all of this.
#[test]
fn no_result_of_two_files_is_called_complete() {
    const VERSIONS: u64 = 200;
    const ROWS: u64 = 3_000;
    for journal in JOURNALS {
        let files = Files::new(journal);
        let path = files.make_rows("s.db", 0, ROWS);
        let template = fs::read(files.make_rows("new.db", 0, ROWS)).unwrap();
        let version_of = |version: u64| {
            let (from, to) = (b"00000000", format!("{version:08}"));
            let mut bytes = template.clone();
            for at in 0..bytes.len() - from.len() {
                if &bytes[at..at + from.len()] == from {
                    bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
                }
            }
            bytes
        };
        let engine = SqliteEngine::open(&path).unwrap();
        let written = AtomicU64::new(0);
        let n_complete = AtomicU64::new(0);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    while written.load(Ordering::SeqCst) < VERSIONS {
                        let before = written.load(Ordering::SeqCst);
                        match rows(&engine, &select()) {
                            Ok(all) => {
                                let version: u64 = all[4..12].parse().unwrap();
                                assert!(version >= before, "{version} is older than {before}");
                                assert_eq!(all, expected(version, ROWS), "{journal:?}: a mixture");
                                n_complete.fetch_add(1, Ordering::SeqCst);
                            }
                            Err(error) => check_unavailable(&error),
                        }
                    }
                });
            }
            for version in 1..=VERSIONS {
                // Of a file that is written over without being cut first, half of the new one at rest is as good as all of it.
                overwrite(&path, &version_of(version), Way::Truncating);
                written.store(version, Ordering::SeqCst);
                if version % 10 == 0 {
                    assert_eq!(
                        rows(&engine, &select()).unwrap(),
                        expected(version, ROWS),
                        "{journal:?}"
                    );
                }
            }
        });
        assert!(n_complete.load(Ordering::SeqCst) > 0);
    }
}

#[test]
fn a_copy_that_keeps_the_time_of_its_source_is_noticed() {
    let files = Files::new(Journal::Rollback);
    let path = files.make_rows("s.db", 1, FEW);
    let new = fs::read(files.make_rows("new.db", 2, FEW)).unwrap();
    let engine = SqliteEngine::open(&path).unwrap();
    let mut resting = engine.open(&select(), &CancelToken::new()).unwrap();
    assert_eq!(fill(resting.as_mut()).unwrap(), Step::More);
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    overwrite(&path, &new, Way::InPlace);
    let file = File::options().write(true).open(&path).unwrap();
    file.set_modified(modified).unwrap();
    check_unavailable(&fill(resting.as_mut()).unwrap_err());
    assert_eq!(rows(&engine, &select()).unwrap(), expected(2, FEW));
}

#[test]
fn metadata_that_change_alone_fail_no_query() {
    for journal in JOURNALS {
        let files = Files::new(journal);
        let path = files.make_rows("s.db", 1, FEW);
        let engine = SqliteEngine::open(&path).unwrap();
        let mut cursor = engine.open(&select(), &CancelToken::new()).unwrap();
        assert_eq!(fill(cursor.as_mut()).unwrap(), Step::More);
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        assert_eq!(fill(cursor.as_mut()).unwrap(), Step::More);
        fs::hard_link(&path, files.folder.path().join("link")).unwrap();
        assert_eq!(fill(cursor.as_mut()).unwrap(), Step::More);
        fs::rename(&path, files.folder.path().join("moved")).unwrap();
        assert_eq!(rest(cursor.as_mut(), 30).1, Ok(()));
        check_unavailable(&rows(&engine, &select()).unwrap_err());
    }
}

/// The time of the last change moves, and nothing else: a backup sets the time of access back, say.
#[test]
fn an_attribute_that_changes_condemns_no_log() {
    let files = Files::new(Journal::Wal);
    let path = files.make_rows("s.db", 1, FEW);
    let engine = SqliteEngine::open(&path).unwrap();
    let writer = Connection::open(&path).unwrap();
    let update = "UPDATE t SET version = '00000003'";
    writer.execute_batch(update).unwrap();
    assert_eq!(rows(&engine, &select()).unwrap(), expected(3, FEW));
    let accessed = FileTimes::new().set_accessed(fs::metadata(&path).unwrap().modified().unwrap());
    let file = File::options().append(true).open(&path).unwrap();
    file.set_times(accessed).unwrap();
    for _ in 0..3 {
        assert_eq!(rows(&engine, &select()).unwrap(), expected(3, FEW));
    }
}

#[test]
fn what_is_no_database_any_more_is_unavailable() {
    let files = Files::new(Journal::Rollback);
    let path = files.make_rows("s.db", 1, FEW);
    let good = fs::read(&path).unwrap();
    let engine = SqliteEngine::open(&path).unwrap();
    let check_both = |what: &str| {
        let error = rows(&engine, &select()).expect_err(what);
        check_unavailable(&error);
        check_unavailable(&engine.describe("SELECT 1", &CancelToken::new()).expect_err(what));
    };
    overwrite(&path, b"", Way::Truncating);
    check_both("an empty file");
    overwrite(&path, "no database".repeat(1_000).as_bytes(), Way::Truncating);
    check_both("a text");
    overwrite(&path, &good[..good.len() / 2], Way::Truncating);
    check_both("half a database");
    fs::remove_file(&path).unwrap();
    check_both("nothing");
    fs::create_dir(&path).unwrap();
    check_both("a folder");
    fs::remove_dir(&path).unwrap();
    fs::write(&path, &good).unwrap();
    assert_eq!(rows(&engine, &select()).unwrap(), expected(1, FEW));
    // Grown by what does not belong to it: still the same database.
    OpenOptions::new()
        .append(true)
        .open(&path)
        .unwrap()
        .write_all(&[0; 5_000])
        .unwrap();
    assert_eq!(rows(&engine, &select()).unwrap(), expected(1, FEW));
}

/// Pages of a log are laid over the file that they were not written for; SQLite cannot know.
#[test]
fn a_log_of_another_file_is_refused() {
    for renamed in [false, true] {
        let files = Files::new(Journal::Wal);
        let path = files.make_rows("s.db", 1, FEW);
        let new = files.make_rows("new.db", 2, FEW);
        let new_bytes = fs::read(&new).unwrap();
        let engine = SqliteEngine::open(&path).unwrap();
        assert_eq!(rows(&engine, &select()).unwrap(), expected(1, FEW));
        // The writer is gone, and could not checkpoint its log, for the engine has the file.
        let writer = Connection::open(&path).unwrap();
        writer
            .execute_batch("UPDATE t SET version = '00000003' WHERE i < 10")
            .unwrap();
        drop(writer);
        assert!(rows(&engine, &select()).unwrap().starts_with("[0,\"00000003\"]"));
        if renamed {
            fs::rename(&new, &path).unwrap();
        } else {
            overwrite(&path, &new_bytes, Way::Truncating);
        }
        for _ in 0..2 {
            let error = rows(&engine, &select()).unwrap_err();
            check_unavailable(&error);
            assert!(error.message.contains("write-ahead log"), "{error:?}");
        }
        for ending in ["s.db-wal", "s.db-shm"] {
            fs::remove_file(files.folder.path().join(ending)).unwrap();
        }
        overwrite(&path, &new_bytes, Way::Truncating);
        assert_eq!(rows(&engine, &select()).unwrap(), expected(2, FEW));
    }
}

/// All of the log is in the file, so that nothing is read of it; it stays where it is as long as the engine has the file.
#[test]
fn a_log_that_is_not_needed_hides_no_overwrite() {
    let files = Files::new(Journal::Wal);
    let path = files.make_rows("s.db", 1, FEW);
    let engine = SqliteEngine::open(&path).unwrap();
    assert_eq!(rows(&engine, &select()).unwrap(), expected(1, FEW));
    let writer = Connection::open(&path).unwrap();
    writer
        .execute_batch("UPDATE t SET version = '00000003'; PRAGMA wal_checkpoint(FULL)")
        .unwrap();
    drop(writer);
    assert_eq!(rows(&engine, &select()).unwrap(), expected(3, FEW));
    let new = fs::read(files.make_rows("new.db", 2, FEW)).unwrap();
    overwrite(&path, &new, Way::Truncating);
    assert_eq!(rows(&engine, &select()).unwrap(), expected(2, FEW));
}

/// Readers of all kinds of read locks while a writer commits and checkpoints after each of their batches.
#[test]
fn checkpoints_are_not_taken_for_somebody_elses_writes() {
    let files = Files::new(Journal::Wal);
    let path = files.make_rows("s.db", 0, 400);
    let engine = SqliteEngine::open(&path).unwrap();
    let writer = Connection::open(&path).unwrap();
    let modes = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"];
    writer.execute_batch("PRAGMA busy_timeout=0").unwrap();
    let mut readers: Vec<(u64, u64, Box<dyn Cursor>)> = Vec::new();
    let mut n_complete = 0;
    for version in 1..200_u64 {
        let mut cursor = engine.open(&select(), &CancelToken::new()).unwrap();
        fill(cursor.as_mut()).unwrap();
        readers.push((version - 1, u64::from(LIMITS.rows_max), cursor));
        writer
            .execute_batch(&format!("UPDATE t SET version = format('%08d', {version})"))
            .unwrap();
        let checkpoint = format!("PRAGMA wal_checkpoint({})", modes[version as usize % modes.len()]);
        writer.query_row(&checkpoint, [], |_| Ok(())).unwrap();
        for (seen, n, cursor) in &mut readers {
            let mut batch = writer_of(cursor.as_ref());
            batch.begin_batch(Vec::new(), LIMITS, *n);
            let step = cursor.fill(&mut batch).unwrap();
            let text = String::from_utf8(batch.take_batch().unwrap().buffer).unwrap();
            assert_eq!(
                text.matches(&format!("\"{seen:08}\"")).count(),
                text.matches('[').count(),
                "{text}"
            );
            *n += u64::from(LIMITS.rows_max);
            n_complete += u64::from(step == Step::Done);
        }
        readers.retain(|(_, n, _)| *n <= 400);
    }
    assert!(n_complete > 100, "{n_complete}");
}

/// The same with threads: whoever keeps to SQLite's rules fails nobody.
#[test]
fn busy_writers_fail_no_reader() {
    const VERSIONS: u64 = 100;
    const ROWS: u64 = 1_000;
    for journal in JOURNALS {
        let files = Files::new(journal);
        let path = files.make_rows("s.db", 0, ROWS);
        let patience = Duration::from_secs(60);
        let engine = SqliteEngine::builder(&path).lock_timeout(patience).open().unwrap();
        let written = AtomicU64::new(0);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while written.load(Ordering::SeqCst) < VERSIONS {
                        let before = written.load(Ordering::SeqCst);
                        let all = rows(&engine, &select()).unwrap_or_else(|error| panic!("{journal:?}: {error:?}"));
                        let version: u64 = all[4..12].parse().unwrap();
                        assert!(version >= before);
                        assert_eq!(all, expected(version, ROWS), "{journal:?}");
                    }
                });
            }
            let writer = Connection::open(&path).unwrap();
            writer.busy_timeout(patience).unwrap();
            for version in 1..=VERSIONS {
                writer
                    .execute_batch(&format!("UPDATE t SET version = format('%08d', {version})"))
                    .unwrap();
                written.store(version, Ordering::SeqCst);
                if journal == Journal::Wal {
                    writer
                        .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
                        .unwrap();
                }
            }
        });
    }
}

/// What is estimated beside an overwrite is nothing rather than a sum over two files.
#[test]
fn an_estimate_is_of_the_file_that_is_there() {
    let files = Files::new(Journal::Rollback);
    let path = files.make_rows("s.db", 1, FEW);
    let new = fs::read(files.make_rows("new.db", 2, FEW + 5)).unwrap();
    let engine = SqliteEngine::open(&path).unwrap();
    let estimate = || engine.estimate(&select(), Duration::from_secs(5), &CancelToken::new());
    assert_eq!(estimate().total, crate::engine::Total::Exact(FEW));
    overwrite(&path, &new, Way::Truncating);
    assert_eq!(estimate().total, crate::engine::Total::Exact(FEW + 5));
}
