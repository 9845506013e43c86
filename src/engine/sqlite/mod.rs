//! SQLite, bundled: the engine that comes with the crate.
//!
//! Each running query has a connection of its own, from a pool, opened for reading only. Rows go from SQLite's cells straight
//! into the batch. Must not know streams or the protocol.
//!
//! What keeps a database as it is: the connection is read-only, an authorizer lets statements do nothing but select, and a
//! prepared statement that would write, or that has no columns, is refused. None of the three is enough alone. How large a query may be
//! is a matter of the [profile](SqliteProfile).

#[cfg(test)]
mod additions_test;
mod advice;
#[cfg(test)]
mod advice_test;
mod beside;
#[cfg(test)]
mod beside_test;
#[cfg(test)]
mod bombs_test;
mod bounds;
mod contention;
mod cursor;
mod declared;
mod error;
mod estimate;
#[cfg(test)]
mod estimate_test;
mod ffi;
#[cfg(test)]
mod file_test;
#[cfg(test)]
mod looks_test;
mod oversize;
#[cfg(all(test, unix))]
mod overwritten_test;
mod parameters;
mod pool;
mod profile;
#[cfg(test)]
mod profile_test;
mod quotes;
mod stamp;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod virtual_tables_test;
mod watch;
mod words;

use std::ffi::CStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bounds::{Bound, Chosen};
use contention::Lookout;
use cursor::SqliteCursor;
use estimate::Uncounted;
use pool::{Pool, Settings};

pub use contention::JournalMode;
pub use profile::SqliteProfile;

use super::{CancelToken, Contention, Cursor, Description, Engine, EngineError, Estimate, QuerySpec};

/// A connection and a prepared statement without the page cache: half of it is SQLite's lookaside memory (48,000 bytes by default),
/// the rest schema and program.
const CONNECTION_BYTES: usize = 96 * 1024;

/// The version of the SQLite that is compiled in, e.g. `3.51.0`.
pub(crate) fn library_version() -> &'static str {
    rusqlite::version()
}

/// What the SQLite in use can do beside plain SQL, as far as it is optional, by the names of its documentation.
pub(crate) fn library_features() -> impl Iterator<Item = &'static str> {
    const COMPILED: [(&str, &CStr); 6] = [
        ("dbstat", c"ENABLE_DBSTAT_VTAB"),
        ("fts3", c"ENABLE_FTS3"),
        ("fts5", c"ENABLE_FTS5"),
        ("geopoly", c"ENABLE_GEOPOLY"),
        ("rtree", c"ENABLE_RTREE"),
        ("stat4", c"ENABLE_STAT4"),
    ];
    let compiled = COMPILED.iter().filter(|(_, option)| ffi::is_compiled_with(option));
    // SQLite has the first unless it is left out; connections of this engine have the others.
    ["json", "math", "percentile", "series"]
        .into_iter()
        .chain(compiled.map(|(name, _)| *name))
}

/// One SQLite database file, opened for reading only.
///
/// # Blocking
/// [`open`](Engine::open) blocks for preparing the statement, and on a locked database for the lock timeout;
/// [`fill`](Cursor::fill) for as long as SQLite computes. The [`CancelToken`] ends each of these waits: every thousand operations of a query,
/// each read of the database's files and each access to a temporary file look at it. Two things end only by themselves. One is a function
/// call on one huge value; the [profile](SqliteProfile#cancelling) says how long that may be. The other is the sort of one piece in memory,
/// which is 1 MiB or, where that is more, the [page cache](SqliteEngineBuilder::cache_kib).
///
/// # Memory
/// All that SQLite allocates in this process is bounded, see [`limit_heap`].
///
/// # Replacing the file
/// Rename another file over it: running queries read the old file to its end, new ones see the new file.
///
/// A file that another program writes to without SQLite (`cp` over it, `rsync --inplace`, a restore) fails the queries that are reading it
/// with `ENGINE_UNAVAILABLE`; rows that they have sent may be of either file. Queries that begin afterwards see the new file. No query completes
/// with rows of both, and a file that is cut makes no rows of what is missing. For that the engine compares the size and times of the file at
/// the beginning and end of each query and batch. A query that begins right after a write to the file waits until the clock of the file system has
/// moved on, which takes at most 10 ms on Linux, or two seconds on a file system that keeps whole seconds.
///
/// Some cases cannot be told apart:
/// - a program that overwrites the file without cutting it first (`rsync --inplace`), for queries that begin and end while it pauses or is
///   in one long call to write: what is there then is the file. After `cp`, which cuts it, such queries fail;
/// - a write without SQLite between two looks at the file, between which another program checkpoints its write-ahead log too;
/// - a write-ahead log that was written for another file, if the file was replaced while no engine had it open. An engine that has seen the
///   replacement refuses the log until its `-wal` and `-shm` files are deleted.
///
/// # Writers
/// A query holds a read transaction from its first row to its last, also while its stream waits for a slow client. What that costs writers
/// depends on the database's [`JournalMode`]:
/// - In a rollback journal, a writer cannot commit until the query ends. Once a writer waits, a stream gives way (it is stopped with
///   `slow_client`) when its client has taken nothing for [`writer_wait_max`](SqliteEngineBuilder::writer_wait_max), or when it is at rest
///   and the writer has waited for so long. A query at work is not stopped: its time is the server's `max_query_duration`.
/// - In a write-ahead log, nobody waits, but the log cannot be checkpointed beyond the query's snapshot and grows with every write. Where
///   more than [`wal_bytes_max`](SqliteEngineBuilder::wal_bytes_max) of it cannot be checkpointed, the stream at rest that has held its
///   snapshot longest gives way.
///
/// A writer in the same process is seen like any other. WAL is the mode for a database that is written to while it is served.
///
/// # Files beside the database
/// In WAL mode SQLite needs two files beside the database, which end in `-wal` and `-shm`; the engine creates them where no other program has.
/// When the engine is dropped and no other program has the database open, both are removed as SQLite does at the end of its last connection,
/// after what the log holds has been copied into the database. They stay where the process may not write to the database, where it is
/// killed, or where the log was written for another file.
///
/// A WAL database whose folder cannot be written needs [`immutable`](SqliteEngineBuilder::immutable).
#[derive(Debug)]
pub struct SqliteEngine {
    pool: Arc<Pool>,
    uncounted: Uncounted,
    lookout: Lookout,
}

/// Settings of a [`SqliteEngine`].
#[derive(Debug, Clone)]
#[must_use]
pub struct SqliteEngineBuilder {
    settings: Settings,
}

impl SqliteEngine {
    /// Opens `path` with the default settings and makes sure that it is a database.
    ///
    /// # Errors
    /// [`EngineErrorKind::Unavailable`](super::EngineErrorKind::Unavailable) where it cannot be opened or is no database.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, EngineError> {
        Self::builder(path).open()
    }

    /// Does what dropping it does, while others may hold it still.
    #[cfg(feature = "cli")]
    pub(crate) fn close(&self) {
        self.pool.close();
    }

    /// How the database keeps what a transaction changes, see [Writers](Self#writers). Blocks on the file.
    ///
    /// # Errors
    /// [`EngineErrorKind::Unavailable`](super::EngineErrorKind::Unavailable) where it cannot be read.
    pub fn journal_mode(&self) -> Result<JournalMode, EngineError> {
        let hold = self.pool.hold();
        hold.map(JournalMode::of)
            .map_err(|error| error::while_opening(error, self.pool.settings.rules(), &CancelToken::new()))
    }

    /// Starts describing an engine for the database at `path`.
    pub fn builder(path: impl AsRef<Path>) -> SqliteEngineBuilder {
        SqliteEngineBuilder {
            settings: Settings {
                path: PathBuf::from(path.as_ref()),
                cache_kib: 64,
                lock_timeout: Duration::from_secs(2),
                immutable: false,
                idle_max: 16,
                profile: SqliteProfile::default(),
                chosen: Chosen::default(),
                writer_wait_max: Some(Duration::from_secs(5)),
                wal_bytes_max: Some(256 << 20),
            },
        }
    }
}

impl SqliteEngineBuilder {
    /// SQLite's page cache per connection, in KiB. Defaults to 64: a scan needs no more, the system's own cache has the file,
    /// and a thousand streams have a thousand of them. Joins that jump about in a large index like more. SQLite sorts pieces of this size in
    /// memory, and at least 1 MiB; a cancel waits for the piece.
    pub fn cache_kib(mut self, cache_kib: u32) -> Self {
        self.settings.cache_kib = cache_kib;
        self
    }

    /// How long a query waits in all for a lock that a writer holds, before it fails with `ENGINE_BUSY`. Defaults to 2 s.
    pub fn lock_timeout(mut self, lock_timeout: Duration) -> Self {
        self.settings.lock_timeout = lock_timeout;
        self
    }

    /// Promises that no program changes the database while the engine has it (SQLite's `immutable=1`). It is read without locks and without files
    /// beside it, so a WAL database can be read in a folder that cannot be written. Defaults to false.
    ///
    /// Where the promise is broken, SQLite's own writers count as other programs: queries fail as after an
    /// [overwrite](SqliteEngine#replacing-the-file), and later ones see the file as it is then. A database with a write-ahead log or a rollback
    /// journal that is not empty is refused.
    pub fn immutable(mut self, immutable: bool) -> Self {
        self.settings.immutable = immutable;
        self
    }

    /// Connections kept open while no query uses them. Defaults to 16; more are opened when needed and closed afterwards.
    pub fn idle_max(mut self, idle_max: usize) -> Self {
        self.settings.idle_max = idle_max;
        self
    }

    /// How far the authors of queries are trusted. Defaults to [`Untrusted`](SqliteProfile::Untrusted). The limits below are the
    /// profile's unless they are set too, before or after.
    pub fn profile(mut self, profile: SqliteProfile) -> Self {
        self.settings.profile = profile;
        self
    }

    /// Longest text of a query, in bytes (`SQLITE_LIMIT_SQL_LENGTH`). Defaults to 64 KiB, or 1 MiB where queries are trusted. A server
    /// has a limit of its own besides.
    pub fn query_bytes_max(mut self, bytes_max: u32) -> Self {
        self.settings.chosen.set(Bound::QueryBytes, bytes_max);
        self
    }

    /// Largest text or blob, in bytes, that a query may make or read (`SQLITE_LIMIT_LENGTH`), and so the largest row that it may sort.
    /// Defaults to 1 MiB; at most 16 MiB. How long a [cancel](SqliteProfile#cancelling) may take at worst grows in proportion. A row
    /// has a limit besides: [`row_bytes_max`](crate::StreamingConfig::row_bytes_max).
    pub fn cell_bytes_max(mut self, bytes_max: u32) -> Self {
        self.settings.chosen.set(Bound::CellBytes, bytes_max);
        self
    }

    /// Most columns of a result, and terms of `ORDER BY` and `GROUP BY` (`SQLITE_LIMIT_COLUMN`). Defaults to 2,000, which is also the
    /// most.
    pub fn columns_max(mut self, columns_max: u32) -> Self {
        self.settings.chosen.set(Bound::Columns, columns_max);
        self
    }

    /// Most parameters (`SQLITE_LIMIT_VARIABLE_NUMBER`). Defaults to 32,766, which is also the most.
    pub fn parameters_max(mut self, parameters_max: u32) -> Self {
        self.settings.chosen.set(Bound::Parameters, parameters_max);
        self
    }

    /// Deepest expression and deepest nesting of subqueries (`SQLITE_LIMIT_EXPR_DEPTH`). Defaults to 1,000, which is also the most.
    pub fn expression_depth_max(mut self, depth_max: u32) -> Self {
        self.settings.chosen.set(Bound::ExpressionDepth, depth_max);
        self
    }

    /// Most parts of a `UNION`, `INTERSECT` or `EXCEPT` (`SQLITE_LIMIT_COMPOUND_SELECT`). Defaults to 500, which is also the most.
    pub fn compound_parts_max(mut self, parts_max: u32) -> Self {
        self.settings.chosen.set(Bound::CompoundParts, parts_max);
        self
    }

    /// Most arguments of a function (`SQLITE_LIMIT_FUNCTION_ARG`). Defaults to 512, or 1,000 where queries are trusted, which is also the
    /// most.
    pub fn function_arguments_max(mut self, arguments_max: u32) -> Self {
        self.settings.chosen.set(Bound::FunctionArguments, arguments_max);
        self
    }

    /// Most operations of a compiled query (`SQLITE_LIMIT_VDBE_OP`), of which a value in `IN (…)` takes about three. Defaults to
    /// 172,032, or 250 million where queries are trusted, which is also the most. SQLite rounds it up to 42 times a power of two.
    pub fn operations_max(mut self, operations_max: u32) -> Self {
        self.settings.chosen.set(Bound::Operations, operations_max);
        self
    }

    /// Longest pattern of `LIKE` and `GLOB`, in bytes (`SQLITE_LIMIT_LIKE_PATTERN_LENGTH`). Defaults to 256, or 50,000 where queries are
    /// trusted, which is also the most. How long a [cancel](SqliteProfile#cancelling) may take at worst grows in proportion.
    pub fn pattern_bytes_max(mut self, bytes_max: u32) -> Self {
        self.settings.chosen.set(Bound::PatternBytes, bytes_max);
        self
    }

    /// How long a stream that waits for its client may keep a writer of the database waiting, where that is in rollback-journal mode;
    /// `None` for any time. Defaults to 5 s.
    pub fn writer_wait_max(mut self, wait_max: Option<Duration>) -> Self {
        self.settings.writer_wait_max = wait_max;
        self
    }

    /// How much of the database's write-ahead log may be held up by a stream that waits for its client, in bytes; `None` for any amount.
    /// Defaults to 256 MiB: some sixty of SQLite's automatic checkpoints, which a disk catches up with in a few seconds.
    pub fn wal_bytes_max(mut self, bytes_max: Option<u64>) -> Self {
        self.settings.wal_bytes_max = bytes_max;
        self
    }

    /// Opens the database.
    ///
    /// # Errors
    /// [`EngineErrorKind::Unavailable`](super::EngineErrorKind::Unavailable) where it cannot be opened or is no database.
    pub fn open(self) -> Result<SqliteEngine, EngineError> {
        let pool = Arc::new(Pool::new(self.settings));
        let (database, loan) = pool.take(&CancelToken::new(), None)?;
        // A file that is no database shows only when it is read.
        cursor::probe(database, loan)?;
        Ok(SqliteEngine {
            pool,
            uncounted: Uncounted::default(),
            lookout: Lookout::default(),
        })
    }

    /// The engine of a file that nobody has looked at, and that need not be there: its queries fail then.
    #[cfg(feature = "cli")]
    pub(crate) fn unopened(self) -> SqliteEngine {
        SqliteEngine {
            pool: Arc::new(Pool::new(self.settings)),
            uncounted: Uncounted::default(),
            lookout: Lookout::default(),
        }
    }
}

/// Bounds what SQLite may allocate in this process, in bytes; 0 means no bound. Defaults to 256 MiB, from when the first engine is opened.
///
/// It holds for the whole process: for all engines, and for what the application does with SQLite itself, whose own bound
/// (`sqlite3_hard_heap_limit64`) stays if it was set before. In it are the connections with their page caches, and whatever queries sort, group
/// or collect. A query that finds no room fails with `ENGINE_BUSY`: it may be one that asks for too much, or its neighbour. So that it is
/// mostly the former, one sort, group or intermediate table of an [untrusted](SqliteProfile::Untrusted) query may have a quarter of the bound,
/// and then fails with `LIMIT_EXCEEDED`.
///
/// Without effect where the application has switched SQLite's memory statistics off.
pub fn limit_heap(bytes_max: u64) {
    ffi::limit_heap(bytes_max);
}

/// What SQLite has allocated in this process, in bytes: the gauge of [`limit_heap`].
#[must_use]
pub fn heap_bytes() -> u64 {
    ffi::heap_bytes()
}

impl Engine for SqliteEngine {
    fn open(&self, query: &QuerySpec, cancel: &CancelToken) -> Result<Box<dyn Cursor>, EngineError> {
        let (database, loan) = self.pool.take(cancel, None)?;
        Ok(Box::new(SqliteCursor::open(database, loan, query, cancel)?))
    }

    /// Counts the rows on a second connection where that can be expected to fit into `budget`; for a query that streams out of one table,
    /// otherwise tells about how many rows that table has, which the scan's own counter is measured against. The count is of this moment,
    /// not of the running query's snapshot. The count reads at most 4,096 pages, and ends with the first read or some thousand operations after its
    /// time. With a budget of zero nothing is counted.
    fn estimate(&self, query: &QuerySpec, budget: Duration, cancel: &CancelToken) -> Estimate {
        estimate::estimate(&self.pool, &self.uncounted, query, budget, cancel).unwrap_or_default()
    }

    fn describe(&self, sql: &str, cancel: &CancelToken) -> Result<Description, EngineError> {
        let (database, loan) = self.pool.take(cancel, None)?;
        cursor::describe(database, loan, sql, cancel)
    }

    fn contention(&self) -> Option<Contention> {
        self.lookout.look(&self.pool)
    }

    /// The page cache, and as much as a connection with its statement has been seen to take.
    fn cursor_bytes(&self) -> usize {
        CONNECTION_BYTES + self.pool.settings.cache_kib as usize * 1024
    }

    /// The bound of [`limit_heap`], if there is one.
    fn memory_bytes_max(&self) -> Option<usize> {
        match ffi::heap_limit() {
            0 => None,
            bytes_max => usize::try_from(bytes_max).ok(),
        }
    }

    /// SQLite counts what it takes in the whole process.
    fn memory_pool(&self) -> &str {
        "sqlite"
    }

    fn memory_bytes(&self) -> Option<usize> {
        usize::try_from(ffi::heap_bytes()).ok()
    }
}
