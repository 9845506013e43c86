//! Read-only connections, kept open between queries.

use std::borrow::Cow;
use std::ffi::CStr;
use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rusqlite::hooks::AuthContext;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::beside;
use super::bounds::{Bounds, Chosen, Rules};
use super::error::{OpenError, while_opening};
use super::ffi::{self, Database, Hold};
use super::profile::{self, SqliteProfile};
use super::stamp::Stamp;
use super::watch::{LogMemory, Memory, Verdict};
use crate::engine::{CancelToken, EngineError, EngineErrorKind};

/// How connections are opened.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) path: PathBuf,
    pub(super) cache_kib: u32,
    pub(super) lock_timeout: Duration,
    pub(super) immutable: bool,
    pub(super) idle_max: usize,
    pub(super) profile: SqliteProfile,
    /// What was set by name, whatever the profile.
    pub(super) chosen: Chosen,
    /// `None`: without limit.
    pub(super) writer_wait_max: Option<Duration>,
    pub(super) wal_bytes_max: Option<u64>,
}

impl Settings {
    pub(super) fn rules(&self) -> Rules {
        Rules {
            profile: self.profile,
            bounds: Bounds::new(self.profile, &self.chosen),
        }
    }
}

/// How often a connection is opened that found the file changed before it had read anything.
const OPEN_ATTEMPTS: usize = 5;

/// Hands out connections and takes them back. The lock is never held while one is opened, used or closed.
pub(super) struct Pool {
    pub(super) settings: Settings,
    idle: Mutex<Vec<Database>>,
    logs: Arc<LogMemory>,
    /// Whether there was ever something in the file.
    had_contents: AtomicBool,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// A connection on loan; it goes back when this is dropped with the connection inside.
pub(super) struct Loan {
    pool: Arc<Pool>,
    /// Whether the connection is of no further use.
    once: bool,
}

/// When a connection that is opened begins to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begin {
    /// With each statement.
    EachTime,
    /// At once, and until it is closed: what its schema says is true as long as it lives.
    AtOnce,
}

impl Pool {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            settings,
            idle: Mutex::new(Vec::new()),
            logs: Arc::default(),
            had_contents: AtomicBool::new(false),
        }
    }

    /// A connection that `cancel` and `deadline` stop: one that was idle, or a new one. Blocks for opening the file, which can
    /// mean waiting for a lock.
    pub(super) fn take(
        self: &Arc<Self>,
        cancel: &CancelToken,
        deadline: Option<Instant>,
    ) -> Result<(Database, Loan), EngineError> {
        let there = self.look()?;
        let mut loan = Loan {
            pool: Arc::clone(self),
            once: false,
        };
        let mut outdated = Vec::new();
        loop {
            let Some(mut database) = self.idle.lock().pop() else {
                break;
            };
            match database.memory_of(&there) {
                Memory::Right => {
                    database.watch(cancel.clone(), deadline);
                    return Ok((database, loan));
                }
                Memory::Outdated => outdated.push(database),
                Memory::OfAnotherFile => drop(database),
            }
        }
        let mut opened = self.open(Begin::EachTime, cancel, deadline);
        // As long as an outdated connection is open, so is the index of its log, which may say that nothing of the log is needed any more.
        // Without it, a log that was left behind is read from its start, unless it was removed with the file that it belonged to.
        let shared_index = !outdated.is_empty();
        drop(outdated);
        match &opened {
            Err(error) if shared_index && error.is_of_file(Verdict::ForeignLog) => {
                opened = self.open(Begin::EachTime, cancel, deadline);
            }
            // A commit between two reads of the schema.
            Err(error) if error.is_of_file(Verdict::Stale) => {
                loan.once = true;
                opened = self.open_reading(cancel, deadline);
            }
            _ => {}
        }
        opened
            .map(|database| (database, loan))
            .map_err(|error| while_opening(error, self.settings.rules(), cancel))
    }

    /// A connection that reads already, for a query whose connection was outdated before it began: nothing can come between this and its first row.
    pub(super) fn take_reading(self: &Arc<Self>, cancel: &CancelToken) -> Result<(Database, Loan), EngineError> {
        self.look()?;
        let loan = Loan {
            pool: Arc::clone(self),
            once: true,
        };
        self.open_reading(cancel, None)
            .map(|database| (database, loan))
            .map_err(|error| while_opening(error, self.settings.rules(), cancel))
    }

    /// What is at the path now, if it can be a database.
    fn look(&self) -> Result<Stamp, EngineError> {
        let metadata = fs::metadata(&self.settings.path).map_err(|error| unreachable_file(&error))?;
        if !metadata.is_file() {
            return Err(unreachable_file(&io::ErrorKind::InvalidInput.into()));
        }
        Ok(Stamp::of(&metadata))
    }

    /// SQLite may take the lock more than once before it reads, and a checkpoint may write in between.
    fn open_reading(&self, cancel: &CancelToken, deadline: Option<Instant>) -> Result<Database, OpenError> {
        let mut opened = self.open(Begin::AtOnce, cancel, deadline);
        for _ in 1..OPEN_ATTEMPTS {
            match &opened {
                Err(error) if error.is_of_file(Verdict::Stale) => opened = self.open(Begin::AtOnce, cancel, deadline),
                _ => break,
            }
        }
        opened
    }

    fn open(&self, begin: Begin, cancel: &CancelToken, deadline: Option<Instant>) -> Result<Database, OpenError> {
        ffi::initialize();
        let settings = &self.settings;
        let rules = settings.rules();
        let in_memory = rules.sorts_in_memory();
        let file_system = if in_memory {
            ffi::file_system_in_memory()
        } else {
            ffi::file_system()
        };
        let file_system = file_system.ok_or(OpenError::NoFileSystem { in_memory })?;
        let connection = self.connect(Some(file_system))?;
        let mut database = Database::new(connection, settings.lock_timeout, rules, Arc::clone(&self.logs));
        database.watch(cancel.clone(), deadline);
        database.install_functions()?;
        let configured = database.with_connection(|connection| {
            ffi::install_series(connection)?;
            configure(connection, settings, begin)
        });
        // Whatever has failed, this is why.
        database.check_file()?;
        configured.map_err(OpenError::of_reading)?;
        // An empty file is a database without tables. One that has become empty was cut, or is being overwritten.
        if !database.reads_nothing() {
            self.had_contents.store(true, Ordering::Relaxed);
        } else if self.had_contents.load(Ordering::Relaxed) {
            return Err(OpenError::Empty);
        }
        Ok(database)
    }

    /// What a query holds of the database, seen from a connection of its own, which waits for no lock and reads nothing but the first page.
    /// Blocks on the file.
    pub(super) fn hold(&self) -> Result<Hold, OpenError> {
        ffi::initialize();
        let connection = self.connect(None)?;
        connection.busy_timeout(Duration::ZERO)?;
        match ffi::hold(&connection) {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {
                Ok(Hold::Lock { writer_waits: true })
            }
            seen => seen.map_err(OpenError::of_reading),
        }
    }

    /// Opens the file, `None`: as SQLite itself does.
    fn connect(&self, file_system: Option<&CStr>) -> Result<Connection, OpenError> {
        let mut flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut path = Cow::Borrowed(&*self.settings.path);
        if self.settings.immutable {
            path = Cow::Owned(PathBuf::from(beside::immutable_uri(&path)?));
            flags |= OpenFlags::SQLITE_OPEN_URI;
        }
        let opened = match file_system {
            Some(name) => Connection::open_with_flags_and_vfs(path, flags, name),
            None => Connection::open_with_flags(path, flags),
        };
        opened.map_err(OpenError::from)
    }

    #[cfg(test)]
    pub(super) fn n_idle(&self) -> usize {
        self.idle.lock().len()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.close();
    }
}

impl Pool {
    /// Closes the connections that are back, and removes what was opened beside the database unless somebody has the database open. Blocks on
    /// the file.
    pub(super) fn close(&self) {
        let idle = std::mem::take(&mut *self.idle.lock());
        let Ok(there) = self.look() else { return };
        // The last look of each shows whether the log belongs to the file. Where no connection is left to look, nobody knows.
        let mut is_known = !idle.is_empty();
        for mut database in idle {
            is_known &= database.memory_of(&there) != Memory::OfAnotherFile;
        }
        if is_known && self.logs.was_opened() && !self.logs.has_foreign() {
            beside::remove_log(&self.settings.path);
        }
    }
}

impl Loan {
    /// Whether the connection is closed after its query: it reads since before its schema was read.
    pub(super) fn is_once(&self) -> bool {
        self.once
    }

    pub(super) fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Closes the connection, and all that are idle: what it could not read, or the schema that it could not load, they may have in
    /// their caches.
    pub(super) fn give_up(self, database: Database) {
        drop(database);
        let idle = std::mem::take(&mut *self.pool.idle.lock());
        drop(idle);
    }

    /// Gives the connection back.
    pub(super) fn give_back(self, mut database: Database) {
        database.unwatch();
        let Self { pool, once } = self;
        let mut idle = pool.idle.lock();
        if !once && idle.len() < pool.settings.idle_max {
            idle.push(database);
        } else {
            drop(idle);
            drop(database);
        }
    }
}

fn configure(connection: &mut Connection, settings: &Settings, begin: Begin) -> rusqlite::Result<()> {
    profile::harden(connection)?;
    if begin == Begin::AtOnce {
        // The pragma begins to read, and needs no schema: the next ones load it.
        connection.execute_batch("BEGIN; PRAGMA schema_version")?;
    }
    connection.execute_batch(&format!(
        "PRAGMA query_only=1; PRAGMA cell_size_check=1; PRAGMA mmap_size=0; PRAGMA temp_store=FILE; PRAGMA cache_size=-{};",
        settings.cache_kib
    ))?;
    // Loads the schema, under SQLite's own limits.
    drop(connection.prepare("SELECT 1 FROM sqlite_schema")?);
    settings.rules().bounds.set(connection)?;
    // Last, for it would refuse the pragmas.
    let profile = settings.profile;
    connection.authorizer(Some(move |context: AuthContext<'_>| profile.authorize(&context)))
}

/// Says nothing of the path: clients read it.
fn unreachable_file(error: &io::Error) -> EngineError {
    EngineError::new(
        EngineErrorKind::Unavailable,
        format!("cannot open the database: {}", error.kind()),
    )
}
