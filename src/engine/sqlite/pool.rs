//! Read-only connections, kept open between queries.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use rusqlite::{Connection, OpenFlags};

use super::error::while_opening;
use super::ffi::{self, Database};
use crate::engine::{CancelToken, EngineError, EngineErrorKind};

/// How connections are opened.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) path: PathBuf,
    pub(super) cache_kib: u32,
    pub(super) lock_timeout: Duration,
    pub(super) idle_max: usize,
    pub(super) cell_bytes_max: u32,
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
        let identity = identity(&self.settings.path).map_err(|error| unreachable_file(&self.settings.path, &error))?;
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
                        .map_err(|error| while_opening(error, cancel));
                }
            }
        }
    }

    #[cfg(test)]
    pub(super) fn n_idle(&self) -> usize {
        self.idle.lock().len()
    }
}

impl Loan {
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

fn open(settings: &Settings, cancel: &CancelToken, deadline: Option<Instant>) -> rusqlite::Result<Database> {
    ffi::initialize();
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(&settings.path, flags)?;
    let mut database = Database::new(connection, settings.lock_timeout);
    database.watch(cancel.clone(), deadline);
    configure(database.connection(), settings)?;
    Ok(database)
}

fn configure(connection: &mut Connection, settings: &Settings) -> rusqlite::Result<()> {
    let length = i32::try_from(settings.cell_bytes_max).unwrap_or(i32::MAX);
    connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, length)?;
    connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
    connection.set_limit(Limit::SQLITE_LIMIT_WORKER_THREADS, 0)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.execute_batch(&format!(
        "PRAGMA query_only=1; PRAGMA cache_size=-{}; PRAGMA mmap_size=0;",
        settings.cache_kib
    ))?;
    // Last, for it would refuse the pragmas.
    connection.authorizer(Some(|context: AuthContext<'_>| authorize(&context)))
}

/// One of three gates, none of which is enough alone: a read-only connection, this list, and a look at the prepared statement.
fn authorize(context: &AuthContext<'_>) -> Authorization {
    #[allow(clippy::wildcard_enum_match_arm)] // an allow-list: whatever else there is, or will be, is denied
    match context.action {
        AuthAction::Select | AuthAction::Read { .. } | AuthAction::Recursive => Authorization::Allow,
        AuthAction::Function { function_name } if !function_name.eq_ignore_ascii_case("load_extension") => {
            Authorization::Allow
        }
        _ => Authorization::Deny,
    }
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

fn unreachable_file(path: &Path, error: &io::Error) -> EngineError {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    EngineError::new(EngineErrorKind::Unavailable, format!("cannot open {name}: {error}"))
}
