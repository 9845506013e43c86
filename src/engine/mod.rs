//! What runs queries: the [`Engine`] and [`Cursor`] traits, and the engines that come with the crate.
//!
//! Must not know the protocol, streams or threads: an engine is handed a query, a token that says when to stop, and a
//! writer to put rows into.
//!
//! # Writing an engine
//! [`Engine::open`] prepares a query without running it and returns a [`Cursor`]; workers then call [`Cursor::fill`] once
//! per batch until it says [`Step::Done`]. Between two calls a cursor may rest for as long as a client is slow, and the next
//! call may come on another thread; it is dropped when its stream ends, however it ends. Dropping stops whatever still runs
//! and gives everything back.
//!
//! Calls into an engine may block: the worker that makes them waits, and a server has a fixed number of workers. The
//! [`CancelToken`] is the way out of every wait: an engine looks at it often, or [arms](CancelToken::arm) it with something
//! that wakes it. `examples/custom_engine.rs` is a complete one.

mod cancel;
pub mod memory;
pub mod sqlite;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

pub use cancel::CancelToken;

pub use crate::error::CancelReason;
use crate::error::ErrorCode;
use crate::rows::{Params, RowError, RowWriter, Schema};

/// Runs queries. One engine serves all streams of a server that name it, from many threads at once.
pub trait Engine: Send + Sync + 'static {
    /// Prepares `query` without executing it.
    ///
    /// May block (a remote engine's round trip); `cancel` must be able to end that. A query that the engine refuses is
    /// refused here: nothing has been executed then.
    ///
    /// # Errors
    /// [`EngineError`], [`EngineErrorKind::Cancelled`] once `cancel` is set.
    fn open(&self, query: &QuerySpec, cancel: &CancelToken) -> Result<Box<dyn Cursor>, EngineError>;

    /// What can honestly be said of the size of `query`'s result within `budget`, beside the running query.
    ///
    /// Called at most once a stream, on a worker, after the first rows have left, and only where a client wants progress.
    /// May block for `budget`, not much longer: a budget of zero is for what takes next to no time. `cancel` is set when the budget is used
    /// up, when the stream ends first, or when another stream waits for the worker; what has been found out by then is the answer. Defaults
    /// to knowing nothing.
    fn estimate(&self, query: &QuerySpec, budget: Duration, cancel: &CancelToken) -> Estimate {
        let _ = (query, budget, cancel);
        Estimate::default()
    }

    /// What `sql` would give, without executing it. May block as [`open`](Self::open) does; `cancel` is set after 30 seconds at the most,
    /// or when nobody wants the answer any more. Defaults to what `open` tells, which knows no parameters.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    fn describe(&self, sql: &str, cancel: &CancelToken) -> Result<Description, EngineError> {
        let cursor = self.open(&QuerySpec::new(sql), cancel)?;
        Ok(Description {
            columns: cursor.columns().cloned(),
            ..Description::default()
        })
    }

    /// What a cursor takes of memory while its stream rests, in bytes, for the server's [bound](crate::server::MemoryBound). Must not
    /// block. Defaults to 0.
    fn cursor_bytes(&self) -> usize {
        0
    }

    /// What this engine and all others of its [pool](Self::memory_pool) may take of memory together, cursors and all, in bytes, for the
    /// server's [bound](crate::server::MemoryBound); `None` where nothing bounds it. Must not block. Defaults to `None`.
    fn memory_bytes_max(&self) -> Option<usize> {
        None
    }

    /// What they take of it now, for operators; `None` where nobody counts. Must not block. Defaults to `None`.
    fn memory_bytes(&self) -> Option<usize> {
        None
    }

    /// What somebody waits for that cursors of this engine hold while their streams are at rest, such as a lock or an old snapshot:
    /// then the stream whose cursor has been open longest is stopped, if it is at rest.
    ///
    /// Called while streams of this engine are at rest and at no other time, about twice a second and after each stream that was stopped,
    /// from one thread at a time. It must be brief: cursors of other streams are closed on the same thread. Defaults to `None`.
    fn contention(&self) -> Option<Contention> {
        None
    }

    /// The name of what the engine takes its memory from. Engines that say the same share one bound, as all of SQLite in a process does; a
    /// server's engines take the largest of each pool, and the pools together.
    ///
    /// Defaults to the name of the type: engines of one type share. One whose instances have memory of their own has a name for each; one
    /// that is made of another says what that says.
    fn memory_pool(&self) -> &str {
        std::any::type_name::<Self>()
    }
}

/// What engines come to together of what those of one [pool](Engine::memory_pool) share; `None` where none says anything.
pub(crate) fn over_pools<'a>(
    engines: impl Iterator<Item = &'a dyn Engine>,
    bytes_of: impl Fn(&dyn Engine) -> Option<usize>,
) -> Option<usize> {
    let mut pools: BTreeMap<&str, usize> = BTreeMap::new();
    for engine in engines {
        if let Some(bytes) = bytes_of(engine) {
            let pool = pools.entry(engine.memory_pool()).or_default();
            *pool = bytes.max(*pool);
        }
    }
    pools.into_values().reduce(usize::saturating_add)
}

/// One running query on the engine's side. One owner at a time; may move between threads between two calls.
pub trait Cursor: Send {
    /// The columns, or `None` for an engine that knows them only once rows come: its first [`fill`](Self::fill) then
    /// returns [`Step::Columns`] without having written a row, and from then on this is `Some`.
    fn columns(&self) -> Option<&Schema>;

    /// Appends rows to `out` until it [is full](RowWriter::is_full), the result ends, or waiting for the next row would
    /// pass [`out.until()`](RowWriter::until) with rows in hand.
    ///
    /// Blocks while the engine works; the [`CancelToken`] given to [`Engine::open`] ends that with
    /// [`EngineErrorKind::Cancelled`]. Not called again after [`Step::Done`] or an error.
    ///
    /// # Errors
    /// [`EngineError`]; rows already ended in `out` are kept and sent.
    fn fill(&mut self, out: &mut RowWriter) -> Result<Step, EngineError>;

    /// How far the query is, in the engine's own units of work. Cheap, and must not block. Defaults to not knowing.
    fn progress(&self) -> CursorProgress {
        CursorProgress::default()
    }
}

// A cursor sleeps inside its parked stream and wakes on another worker.
const _: () = {
    const fn assert_send<T: Send + ?Sized>() {}
    assert_send::<dyn Cursor>();
};

/// What [`Cursor::fill`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// There may be more rows.
    More,
    /// The rows written were the last.
    Done,
    /// The columns are known now; no row was written.
    Columns,
}

/// A query as an engine sees it.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct QuerySpec {
    /// The text of exactly one statement.
    pub sql: String,
    /// Its parameters.
    pub params: Params,
}

impl QuerySpec {
    /// A query without parameters.
    #[must_use]
    pub fn new(sql: impl Into<String>) -> Self {
        Self {
            sql: sql.into(),
            params: Params::None,
        }
    }

    /// The same query with these parameters.
    #[must_use]
    pub fn with_params(mut self, params: Params) -> Self {
        self.params = params;
        self
    }
}

/// What a query would give.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Description {
    /// The columns; `None` for an engine that knows them only once rows come.
    pub columns: Option<Schema>,
    /// The parameters in the order in which they are bound, by name without the engine's sigil, where they have one.
    pub parameters: Vec<Option<String>>,
    /// Whether the query leaves the database as it is; `None` where the engine does not say.
    pub read_only: Option<bool>,
    /// How many rows there may be, where that is known without executing anything.
    pub estimated_rows: Option<u64>,
}

/// Somebody waits for what cursors of an engine hold, see [`Engine::contention`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Contention {
    /// The name of the setting that says how long, or how much, cursors may hold.
    pub setting: &'static str,
    /// For the client whose stream is stopped: what happened, and what to do.
    pub message: String,
    /// Streams whose clients have taken something within this time are left alone; zero where any stream at rest is to give way.
    pub rest_min: Duration,
}

impl Contention {
    /// The rule, in words, and which streams it leaves alone.
    #[must_use]
    pub const fn new(setting: &'static str, message: String, rest_min: Duration) -> Self {
        Self {
            setting,
            message,
            rest_min,
        }
    }
}

/// How many rows a result has, and how that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Total {
    /// Counted.
    Exact(u64),
    /// The query planner's guess.
    Planner(u64),
    /// Reckoned from statistics or from how far the scan has come.
    Statistics(u64),
    /// Nothing honest can be said.
    #[default]
    Unknown,
}

/// What [`Engine::estimate`] found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Estimate {
    /// The result's rows.
    pub total: Total,
    /// The units of work that [`CursorProgress::work_done`] counts towards, where the query does its work while it streams.
    pub work_total: Option<u64>,
}

impl Estimate {
    /// An estimate of the rows alone.
    #[must_use]
    pub const fn rows(total: Total) -> Self {
        Self {
            total,
            work_total: None,
        }
    }

    /// The same estimate with the whole of the work.
    #[must_use]
    pub const fn with_work_total(mut self, work_total: u64) -> Self {
        self.work_total = Some(work_total);
        self
    }
}

/// How far a running query is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct CursorProgress {
    /// Units of work done, e.g. rows of the scanned table; only meaningful with [`Estimate::work_total`].
    pub work_done: Option<u64>,
}

impl CursorProgress {
    /// This many units are done.
    #[must_use]
    pub const fn work(work_done: u64) -> Self {
        Self {
            work_done: Some(work_done),
        }
    }
}

/// The sort of thing that went wrong in an engine; each has its [`ErrorCode`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EngineErrorKind {
    /// The [`CancelToken`] was set, and the engine has stopped.
    Cancelled,
    /// The query is not understood: `SYNTAX_ERROR`.
    Syntax,
    /// Parameters are missing, superfluous, or of a type the engine cannot take: `PARAMETER_ERROR`.
    Parameter,
    /// A constraint was broken: `CONSTRAINT`.
    Constraint,
    /// The statement does not only read: `READ_ONLY`.
    ReadOnly,
    /// Anything else that fails while running: `QUERY_FAILED`.
    Query,
    /// The engine cannot be reached or opened: `ENGINE_UNAVAILABLE`.
    Unavailable,
    /// The engine is locked or has no room just now: `ENGINE_BUSY`.
    Busy,
    /// The [pool](Engine::memory_pool) that the engine takes its memory from is empty just now: `ENGINE_BUSY`. Where streams at rest have of
    /// it, one is stopped to make room.
    NoMemory,
    /// A value is beyond a limit of the engine: `LIMIT_EXCEEDED`.
    Limit,
    /// A value cannot be written: `ENCODING_ERROR`.
    Encoding,
    /// A row is larger than the limit: `ROW_TOO_LARGE`.
    RowTooLarge,
    /// A fault of the engine itself: `INTERNAL`.
    Internal,
}

/// What went wrong in an engine, as a client is told it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EngineError {
    /// The sort of error.
    pub kind: EngineErrorKind,
    /// The engine's own words.
    pub message: String,
    /// The engine's own code, e.g. `SQLITE_ERROR`.
    pub engine_code: Option<String>,
    /// The five-character SQLSTATE, where the engine has one.
    pub sqlstate: Option<String>,
    /// Where in the query: 0-based byte offset.
    pub position: Option<u32>,
    /// What the user might do.
    pub hint: Option<String>,
}

impl EngineError {
    /// An error with a message and nothing else.
    #[must_use]
    pub fn new(kind: EngineErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            engine_code: None,
            sqlstate: None,
            position: None,
            hint: None,
        }
    }

    /// The engine stopped because its [`CancelToken`] was set.
    #[must_use]
    pub fn cancelled() -> Self {
        Self::new(EngineErrorKind::Cancelled, "the query was cancelled")
    }

    /// The stable code of this error. A cancel has none of its own: the stream's terminator says who cancelled.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self.kind {
            EngineErrorKind::Syntax => ErrorCode::SyntaxError,
            EngineErrorKind::Parameter => ErrorCode::ParameterError,
            EngineErrorKind::Constraint => ErrorCode::Constraint,
            EngineErrorKind::ReadOnly => ErrorCode::ReadOnly,
            EngineErrorKind::Query | EngineErrorKind::Cancelled => ErrorCode::QueryFailed,
            EngineErrorKind::Unavailable => ErrorCode::EngineUnavailable,
            EngineErrorKind::Busy | EngineErrorKind::NoMemory => ErrorCode::EngineBusy,
            EngineErrorKind::Limit => ErrorCode::LimitExceeded,
            EngineErrorKind::Encoding => ErrorCode::EncodingError,
            EngineErrorKind::RowTooLarge => ErrorCode::RowTooLarge,
            EngineErrorKind::Internal => ErrorCode::Internal,
        }
    }
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code(), self.message)
    }
}

impl std::error::Error for EngineError {}

impl From<RowError> for EngineError {
    fn from(error: RowError) -> Self {
        let kind = match error {
            RowError::InvalidUtf8 { .. } | RowError::Mistyped { .. } => EngineErrorKind::Encoding,
            RowError::TooLarge { .. } => EngineErrorKind::RowTooLarge,
            RowError::CellCount { .. } => EngineErrorKind::Internal,
        };
        Self::new(kind, error.to_string())
    }
}
