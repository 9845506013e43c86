//! Demo data: the eight TPC-H tables in an SQLite file of the temporary folder, written once and then reused.
//!
//! Owns the file's name, its mark of completeness, and who writes it when several processes start at once. Must not know
//! what is in the tables.

#[cfg(test)]
mod queries_test;
mod tables;

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use indicatif::{HumanCount, HumanDuration, ProgressBar, ProgressStyle};
use rusqlite::{Connection, OpenFlags};

use super::say;

/// In the header of a finished file (`PRAGMA application_id`): the letters `rows`.
const APPLICATION_ID: i32 = 0x726f_7773;

/// In the header of a finished file (`PRAGMA user_version`). Goes up when the tables change, so that old files are
/// written anew.
const TABLES_VERSION: i32 = 2;

/// Largest page cache while data is written.
const CACHE_KIB_MAX: u64 = 64 * 1024;

/// How often the progress line is drawn while nothing else happens, so that its clock runs.
const PROGRESS_TICK: Duration = Duration::from_millis(100);

/// TPC-H's scale factor: 1 is about six million rows of `lineitem`, and 1.3 GB.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Scale(f64);

impl Scale {
    /// Below it some tables would be empty.
    const MIN: f64 = 0.001;
    /// Beyond it the file would not fit most disks.
    const MAX: f64 = 100.0;
}

impl FromStr for Scale {
    type Err = DemoError;

    fn from_str(text: &str) -> Result<Self, DemoError> {
        match text.parse::<f64>() {
            Ok(scale) if (Self::MIN..=Self::MAX).contains(&scale) => Ok(Self(scale)),
            Ok(_) | Err(_) => Err(DemoError::Scale(text.to_owned())),
        }
    }
}

impl fmt::Display for Scale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why there is no demo data.
#[derive(Debug)]
#[non_exhaustive]
pub(crate) enum DemoError {
    /// The scale is no number, or out of range. Choose one within it.
    Scale(String),
    /// The temporary folder cannot be written, or another user's file is in the way. `TMPDIR` chooses another folder.
    File {
        /// What was to be done.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// SQLite could not write the tables; most often the disk is full.
    Sqlite {
        /// The unfinished file.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
}

impl fmt::Display for DemoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scale(given) => write!(
                f,
                "scale {given:?} is not a number from {} to {}",
                Scale::MIN,
                Scale::MAX
            ),
            Self::File { doing, path, source } => write!(f, "cannot {doing} {}: {source}", path.display()),
            Self::Sqlite { path, source } => write!(f, "cannot write demo data to {}: {source}", path.display()),
        }
    }
}

impl std::error::Error for DemoError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Scale(_) => None,
            Self::File { source, .. } => Some(source),
            Self::Sqlite { source, .. } => Some(source),
        }
    }
}

/// The database file of this scale, written first if it is not there yet; says on standard error how that goes.
///
/// Blocks while the data is written, by this process or by another that has begun already; a signal that ends the process
/// ends the wait. A run that is killed leaves nothing that a later one would take for finished. SQLite may take `heap_bytes_max`, or, with 0,
/// as much as there is.
pub(crate) fn prepare(scale: Scale, heap_bytes_max: u64) -> Result<PathBuf, DemoError> {
    let bar = ProgressBar::no_length().with_style(
        ProgressStyle::with_template("demo data {bar:30} {percent:>3}% {human_pos} rows {elapsed} {msg}")
            .expect("the template is well-formed"),
    );
    bar.enable_steady_tick(PROGRESS_TICK);
    let prepared = prepare_in(&std::env::temp_dir(), scale, cache_kib(heap_bytes_max), &bar);
    let n_rows = bar.position(); // before the bar is made to look full
    bar.finish_and_clear();
    let prepared = prepared?;
    let what = if prepared.written {
        format!(
            "written, {} rows in {}",
            HumanCount(n_rows),
            HumanDuration(bar.elapsed())
        )
    } else {
        "already there".to_owned()
    };
    say(&format!(
        "demo data: TPC-H at scale {scale} in {} ({what})",
        prepared.path.display()
    ));
    Ok(prepared.path)
}

/// SQLite's page cache while the data is written: a quarter of what SQLite may take, up to the size beyond which it is no faster. What sorts the
/// rows of an index takes as much again, and twice that while it grows.
fn cache_kib(heap_bytes_max: u64) -> u64 {
    match heap_bytes_max {
        0 => CACHE_KIB_MAX,
        bytes_max => (bytes_max / 4 / 1024).min(CACHE_KIB_MAX),
    }
}

/// Where the demo data of this scale is, or would be.
pub(crate) fn path(scale: Scale) -> PathBuf {
    path_in(&std::env::temp_dir(), scale)
}

fn path_in(folder: &Path, scale: Scale) -> PathBuf {
    folder.join(format!("rowstream-demo-{scale}.db"))
}

#[derive(Debug)]
struct Prepared {
    path: PathBuf,
    written: bool,
}

fn prepare_in(folder: &Path, scale: Scale, cache_kib: u64, bar: &ProgressBar) -> Result<Prepared, DemoError> {
    let path = path_in(folder, scale);
    if is_complete(&path) {
        return Ok(Prepared { path, written: false });
    }
    // Released when this function returns, and by the system when the process is killed. The file itself stays: to
    // remove it would let a third process lock another file of the same name.
    let _lock = lock(&path.with_extension("db.lock"), bar)?;
    if is_complete(&path) {
        return Ok(Prepared { path, written: false });
    }
    let partial = path.with_extension("db.partial");
    let written = write(&partial, scale, cache_kib, bar).and_then(|()| {
        fs::rename(&partial, &path).map_err(|source| DemoError::File {
            doing: "rename the finished demo data to",
            path: path.clone(),
            source,
        })
    });
    if let Err(error) = written {
        // Best effort: the next run removes what is left.
        let _ = fs::remove_file(&partial);
        return Err(error);
    }
    Ok(Prepared { path, written: true })
}

/// Whether `path` is a database that [`write`] has finished, and of the tables as they are now.
fn is_complete(path: &Path) -> bool {
    let marks = || -> rusqlite::Result<(i32, i32)> {
        let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let application_id = db.pragma_query_value(None, "application_id", |row| row.get(0))?;
        let version = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
        Ok((application_id, version))
    };
    marks().is_ok_and(|marks| marks == (APPLICATION_ID, TABLES_VERSION))
}

/// Waits until no other process writes demo data of this scale.
fn lock(path: &Path, bar: &ProgressBar) -> Result<File, DemoError> {
    let failed = |doing, source| DemoError::File {
        doing,
        path: path.to_owned(),
        source,
    };
    // Another user's lock file can be locked, but not opened for writing.
    let file = File::open(path)
        .or_else(|_| OpenOptions::new().create(true).append(true).open(path))
        .map_err(|source| failed("open", source))?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => bar.set_message("waiting for another process that writes it"),
        Err(TryLockError::Error(source)) => return Err(failed("lock", source)),
    }
    file.lock().map_err(|source| failed("lock", source))?;
    Ok(file)
}

/// Writes a complete database to `partial`, over whatever a killed run has left there.
fn write(partial: &Path, scale: Scale, cache_kib: u64, bar: &ProgressBar) -> Result<(), DemoError> {
    let failed = |doing, source| DemoError::File {
        doing,
        path: partial.to_owned(),
        source,
    };
    match fs::remove_file(partial) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("remove", error)),
    }
    // Created here and not by SQLite, which would follow a link that somebody has put in place.
    File::create_new(partial).map_err(|source| failed("create", source))?;
    fill(partial, scale, cache_kib, bar).map_err(|source| DemoError::Sqlite {
        path: partial.to_owned(),
        source,
    })
}

fn fill(partial: &Path, scale: Scale, cache_kib: u64, bar: &ProgressBar) -> rusqlite::Result<()> {
    let mut db = Connection::open_with_flags(partial, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    // Nobody reads the file before it is renamed, and a half-written one is thrown away: no need for a journal.
    db.execute_batch(&format!(
        "PRAGMA page_size = 4096; PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA locking_mode = EXCLUSIVE;
         PRAGMA cache_size = -{cache_kib}; PRAGMA temp_store = FILE;",
    ))?;
    let tx = db.transaction()?;
    tables::write(&tx, scale.0, bar)?;
    // The marks are in the first page, which goes to the file with the commit, the last of all.
    tx.pragma_update(None, "application_id", APPLICATION_ID)?;
    tx.pragma_update(None, "user_version", TABLES_VERSION)?;
    tx.commit()?;
    db.close().map_err(|(_, error)| error)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

    use std::sync::Barrier;
    use std::thread;

    use super::*;

    const TINY: Scale = Scale(0.001);

    fn prepare_tiny(folder: &Path) -> Prepared {
        prepare_in(folder, TINY, CACHE_KIB_MAX, &ProgressBar::hidden()).unwrap()
    }

    fn count(path: &Path, table: &str) -> i64 {
        let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))
            .unwrap()
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn scales_are_numbers_in_range() {
        assert_eq!("0.1".parse::<Scale>().unwrap().to_string(), "0.1");
        assert_eq!("1.0".parse::<Scale>().unwrap().to_string(), "1");
        for bad in ["", "x", "0", "-1", "NaN", "inf", "0.0009", "100.1"] {
            let error = bad.parse::<Scale>().unwrap_err().to_string();
            assert!(error.contains("from 0.001 to 100"), "{error}");
        }
    }

    #[test]
    fn tables_have_the_rows_of_the_specification() {
        let folder = tempfile::tempdir().unwrap();
        let Prepared { path, written } = prepare_tiny(folder.path());
        assert!(written);
        assert_eq!(
            names(folder.path()),
            ["rowstream-demo-0.001.db", "rowstream-demo-0.001.db.lock"]
        );
        let lineitems = tpchgen::generators::LineItemGenerator::new(TINY.0, 1, 1).iter().count();
        for (table, rows) in [
            ("region", 5),
            ("nation", 25),
            ("supplier", 10),
            ("customer", 150),
            ("part", 200),
            ("partsupp", 800),
            ("orders", 1500),
            ("lineitem", i64::try_from(lineitems).unwrap()),
        ] {
            assert_eq!(count(&path, table), rows, "{table}");
        }
        let db = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        let text = |sql: &str| -> String { db.query_row(sql, [], |row| row.get(0)).unwrap() };
        assert_eq!(text("PRAGMA integrity_check"), "ok");
        assert_eq!(text("PRAGMA journal_mode"), "delete");
        // The first row of the generator's documentation but for its comment, cell by cell and with the types as stored.
        assert_eq!(
            text(
                "SELECT l_orderkey || ' ' || l_linenumber || ' ' || l_quantity || ' ' || typeof(l_extendedprice) || ' ' ||
                        l_discount || ' ' || l_shipdate || ' ' || l_shipmode || ' ' || l_comment
                 FROM lineitem ORDER BY rowid LIMIT 1"
            ),
            "1 1 17 real 0.04 1996-03-13 TRUCK ular accounts. carefull"
        );
        let plan: String = db
            .query_row(
                "EXPLAIN QUERY PLAN SELECT * FROM lineitem WHERE l_orderkey = 1 AND l_linenumber = 1",
                [],
                |row| row.get(3),
            )
            .unwrap();
        assert!(plan.starts_with("SEARCH"), "{plan}");
    }

    #[test]
    fn a_finished_file_is_reused_and_anything_else_is_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let first = prepare_tiny(folder.path());
        assert!(first.written);
        assert!(!prepare_tiny(folder.path()).written);

        // As an older version would have left it.
        let db = Connection::open(&first.path).unwrap();
        db.pragma_update(None, "user_version", TABLES_VERSION - 1).unwrap();
        drop(db);
        assert!(prepare_tiny(folder.path()).written);

        fs::write(&first.path, b"not a database").unwrap();
        assert!(prepare_tiny(folder.path()).written);
        assert_eq!(count(&first.path, "orders"), 1500);
    }

    #[test]
    fn what_a_killed_run_left_is_not_taken_for_data() {
        let folder = tempfile::tempdir().unwrap();
        let partial = folder.path().join("rowstream-demo-0.001.db.partial");
        fs::write(&partial, b"SQLite format 3\0 and no more").unwrap();
        let prepared = prepare_tiny(folder.path());
        assert!(prepared.written);
        assert!(!partial.exists());
        assert_eq!(count(&prepared.path, "orders"), 1500);
    }

    #[test]
    fn of_several_that_start_at_once_one_writes() {
        const STARTS: usize = 4;
        let folder = tempfile::tempdir().unwrap();
        let barrier = Barrier::new(STARTS);
        let written = thread::scope(|scope| {
            let starts: Vec<_> = (0..STARTS)
                .map(|_| {
                    scope.spawn(|| {
                        barrier.wait();
                        prepare_tiny(folder.path()).written
                    })
                })
                .collect();
            starts
                .into_iter()
                .map(|start| start.join().unwrap())
                .collect::<Vec<_>>()
        });
        assert_eq!(written.iter().filter(|written| **written).count(), 1, "{written:?}");
        assert_eq!(count(&folder.path().join("rowstream-demo-0.001.db"), "orders"), 1500);
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing");
        let error = prepare_in(&missing, TINY, CACHE_KIB_MAX, &ProgressBar::hidden()).unwrap_err();
        assert!(matches!(error, DemoError::File { .. }), "{error:?}");
        assert!(error.to_string().contains("missing"), "{error}");
    }
}
