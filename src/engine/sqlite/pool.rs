//! Read-only connections, kept open between queries.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rusqlite::hooks::AuthContext;
use rusqlite::{Connection, OpenFlags};

use super::bounds::{Bounds, Chosen, Rules};
use super::error::{OpenError, while_opening};
use super::ffi::{self, Database, Hold};
use super::profile::{self, SqliteProfile};
use crate::engine::{CancelToken, EngineError, EngineErrorKind};

/// How connections are opened.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) path: PathBuf,
    pub(super) cache_kib: u32,
    pub(super) lock_timeout: Duration,
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

/// Which file a path leads to, so that a replaced file is noticed.
type Identity = (u64, u64);

struct Idle {
    database: Database,
    identity: Identity,
}

/// Hands out connections and takes them back. The lock is never held while one is opened, used or closed.
pub(super) struct Pool {
    pub(super) settings: Settings,
    idle: Mutex<Vec<Idle>>,
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
    identity: Identity,
}

impl Pool {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            settings,
            idle: Mutex::new(Vec::new()),
        }
    }

    /// A connection that `cancel` and `deadline` stop: one that was idle, or a new one. Blocks for opening the file, which can
    /// mean waiting for a lock.
    pub(super) fn take(
        self: &Arc<Self>,
        cancel: &CancelToken,
        deadline: Option<Instant>,
    ) -> Result<(Database, Loan), EngineError> {
        let identity = identity(&self.settings.path).map_err(|error| unreachable_file(&error))?;
        let loan = Loan {
            pool: Arc::clone(self),
            identity,
        };
        loop {
            let idle = self.idle.lock().pop();
            match idle {
                Some(mut idle) if idle.identity == identity => {
                    idle.database.watch(cancel.clone(), deadline);
                    return Ok((idle.database, loan));
                }
                // Another file is there now: this one's connections are of no use any more.
                Some(stale) => drop(stale),
                None => {
                    let opened = open(&self.settings, cancel, deadline);
                    return opened
                        .map(|database| (database, loan))
                        .map_err(|error| while_opening(error, self.settings.rules(), cancel));
                }
            }
        }
    }

    /// What a query holds of the database, seen from a connection of its own that waits for no lock. Blocks on the file.
    pub(super) fn hold(&self) -> Result<Hold, OpenError> {
        let settings = Settings {
            lock_timeout: Duration::ZERO,
            ..self.settings.clone()
        };
        let database = open(&settings, &CancelToken::new(), None);
        match database.and_then(|database| Ok(database.hold()?)) {
            Err(error) if error.is_busy() => Ok(Hold::Lock { writer_waits: true }),
            seen => seen,
        }
    }

    #[cfg(test)]
    pub(super) fn n_idle(&self) -> usize {
        self.idle.lock().len()
    }
}

impl Loan {
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
        let Self { pool, identity } = self;
        let mut idle = pool.idle.lock();
        if idle.len() < pool.settings.idle_max {
            idle.push(Idle { database, identity });
        } else {
            drop(idle);
            drop(database);
        }
    }
}

fn open(settings: &Settings, cancel: &CancelToken, deadline: Option<Instant>) -> Result<Database, OpenError> {
    ffi::initialize();
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let rules = settings.rules();
    let in_memory = rules.sorts_in_memory();
    let file_system = if in_memory {
        ffi::file_system_in_memory()
    } else {
        ffi::file_system()
    };
    let file_system = file_system.ok_or(OpenError::NoFileSystem { in_memory })?;
    let connection = Connection::open_with_flags_and_vfs(&settings.path, flags, file_system)?;
    let mut database = Database::new(connection, settings.lock_timeout, rules);
    database.watch(cancel.clone(), deadline);
    database.install_functions()?;
    ffi::install_series(database.connection())?;
    configure(database.connection(), settings)?;
    Ok(database)
}

fn configure(connection: &mut Connection, settings: &Settings) -> rusqlite::Result<()> {
    profile::harden(connection)?;
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

#[cfg(unix)]
fn identity(path: &Path) -> io::Result<Identity> {
    use std::os::unix::fs::MetadataExt;

    let metadata = fs::metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

#[cfg(not(unix))]
fn identity(path: &Path) -> io::Result<Identity> {
    fs::metadata(path).map(|_| (0, 0))
}

/// Says nothing of the path: clients read it.
fn unreachable_file(error: &io::Error) -> EngineError {
    EngineError::new(
        EngineErrorKind::Unavailable,
        format!("cannot open the database: {}", error.kind()),
    )
}
