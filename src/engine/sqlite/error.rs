//! What SQLite's result codes mean to a client.

use std::ffi::c_int;

use rusqlite::ffi as codes;

use super::ffi::{self, Failure, FillError};
use crate::engine::{CancelToken, EngineError, EngineErrorKind};

/// Result codes by name (sqlite.org/rescode.html). Of extended codes the low byte is the primary one.
const NAMES: &[(c_int, &str, EngineErrorKind)] = &[
    (codes::SQLITE_ERROR, "SQLITE_ERROR", EngineErrorKind::Syntax),
    (codes::SQLITE_INTERNAL, "SQLITE_INTERNAL", EngineErrorKind::Internal),
    (codes::SQLITE_PERM, "SQLITE_PERM", EngineErrorKind::Unavailable),
    (codes::SQLITE_ABORT, "SQLITE_ABORT", EngineErrorKind::Query),
    (codes::SQLITE_BUSY, "SQLITE_BUSY", EngineErrorKind::Busy),
    (codes::SQLITE_LOCKED, "SQLITE_LOCKED", EngineErrorKind::Busy),
    (codes::SQLITE_NOMEM, "SQLITE_NOMEM", EngineErrorKind::NoMemory),
    (codes::SQLITE_READONLY, "SQLITE_READONLY", EngineErrorKind::ReadOnly),
    (codes::SQLITE_INTERRUPT, "SQLITE_INTERRUPT", EngineErrorKind::Query),
    (codes::SQLITE_IOERR, "SQLITE_IOERR", EngineErrorKind::Unavailable),
    (codes::SQLITE_CORRUPT, "SQLITE_CORRUPT", EngineErrorKind::Unavailable),
    (codes::SQLITE_FULL, "SQLITE_FULL", EngineErrorKind::Busy),
    (codes::SQLITE_CANTOPEN, "SQLITE_CANTOPEN", EngineErrorKind::Unavailable),
    (codes::SQLITE_PROTOCOL, "SQLITE_PROTOCOL", EngineErrorKind::Busy),
    (codes::SQLITE_SCHEMA, "SQLITE_SCHEMA", EngineErrorKind::Query),
    (codes::SQLITE_TOOBIG, "SQLITE_TOOBIG", EngineErrorKind::Limit),
    (
        codes::SQLITE_CONSTRAINT,
        "SQLITE_CONSTRAINT",
        EngineErrorKind::Constraint,
    ),
    (codes::SQLITE_MISMATCH, "SQLITE_MISMATCH", EngineErrorKind::Query),
    (codes::SQLITE_MISUSE, "SQLITE_MISUSE", EngineErrorKind::Internal),
    (codes::SQLITE_AUTH, "SQLITE_AUTH", EngineErrorKind::ReadOnly),
    (codes::SQLITE_RANGE, "SQLITE_RANGE", EngineErrorKind::Parameter),
    (codes::SQLITE_NOTADB, "SQLITE_NOTADB", EngineErrorKind::Unavailable),
];

/// How SQLite begins to say that a query is beyond one of its limits; to it, these are plain errors.
const BEYOND_A_LIMIT: &[&str] = &[
    "too many ",
    "Expression tree is too large",
    "Recursion limit",
    "VIEWs and/or subqueries nested too deep",
    "variable number must be between",
    "LIKE or GLOB pattern too complex",
    "JSON path too deep",
    "at most 64 tables in a join",
    "parser stack overflow",
];

const ONLY_READING: &str = "only statements that read are allowed";

fn lookup(code: c_int) -> Option<(&'static str, EngineErrorKind)> {
    NAMES
        .iter()
        .find(|(primary, ..)| *primary == code & 0xFF)
        .map(|(_, name, kind)| (*name, *kind))
}

/// A failure while preparing: a plain error is the query's fault.
pub(super) fn while_preparing(failure: Failure, cancel: &CancelToken) -> EngineError {
    // SQLite says "out of memory" of a query with too many operations too. To compile one takes little memory.
    let compiled_too_large = failure.code & 0xFF == codes::SQLITE_NOMEM && !heap_is_nearly_full();
    let mut error = engine_error(failure, cancel, EngineErrorKind::Syntax);
    if compiled_too_large {
        error.kind = EngineErrorKind::Limit;
        error.message = "the query is too large: it compiles to more operations than are allowed".to_owned();
        error.hint = Some("a long list of values can be one JSON parameter, read with json_each".to_owned());
    }
    error
}

fn heap_is_nearly_full() -> bool {
    let max = ffi::heap_limit();
    max > 0 && ffi::heap_bytes() > max - max / 8
}

/// A failure while running: a plain error came of the data.
pub(super) fn while_running(failure: Failure, cancel: &CancelToken) -> EngineError {
    engine_error(failure, cancel, EngineErrorKind::Query)
}

pub(super) fn while_filling(error: FillError, cancel: &CancelToken) -> EngineError {
    match error {
        FillError::Sql(failure) => while_running(failure, cancel),
        FillError::Row(error) => error.into(),
    }
}

fn engine_error(failure: Failure, cancel: &CancelToken, plain: EngineErrorKind) -> EngineError {
    let Failure {
        code,
        message,
        offset,
        in_memory,
    } = failure;
    // A wait for a lock that the token has ended comes back as busy.
    let stopped = matches!(code & 0xFF, codes::SQLITE_INTERRUPT | codes::SQLITE_BUSY);
    if stopped && cancel.is_cancelled() {
        return EngineError::cancelled();
    }
    // A schema that is read again under the limits of queries, see `Bounds::set`: the next connection reads it without them.
    let code = if message.starts_with("malformed database schema") {
        codes::SQLITE_CORRUPT
    } else {
        code
    };
    let (name, kind) = lookup(code).unwrap_or(("SQLITE_UNKNOWN", EngineErrorKind::Query));
    let mut error = EngineError::new(kind, message);
    error.engine_code = Some(name.to_owned());
    error.position = offset;
    match code & 0xFF {
        codes::SQLITE_ERROR => {
            let begins = |start: &&str| error.message.starts_with(start);
            error.kind = if error.message.starts_with("not authorized") {
                EngineErrorKind::ReadOnly
            } else if BEYOND_A_LIMIT.iter().any(begins) {
                EngineErrorKind::Limit
            } else {
                plain
            };
        }
        // One read that fails can come out as either. Neither says that the file is broken, and the details are the operator's.
        codes::SQLITE_CORRUPT | codes::SQLITE_IOERR => {
            log::error!(name:% = name, code = code, error = error.message; "the database could not be read");
            error.message = "the database could not be read".to_owned();
            error.engine_code = None;
            error.hint = Some("try again; if it stays so, whoever runs the server should look at the file".to_owned());
        }
        codes::SQLITE_NOMEM => {
            error.message = "SQLite has no memory left".to_owned();
            let hint = "all queries share it: try again, or sort, group and collect less at once";
            error.hint = Some(hint.to_owned());
        }
        codes::SQLITE_FULL if in_memory => {
            error.kind = EngineErrorKind::Limit;
            error.message = "the query has more to sort, to group or to keep than memory is allowed for it".to_owned();
        }
        codes::SQLITE_TOOBIG if error.message == "string or blob too big" => {
            let hint = "a text or blob that the query reads, or makes on the way, is larger than the engine allows";
            error.hint = Some(hint.to_owned());
        }
        // The path is in the message.
        codes::SQLITE_CANTOPEN => error.message = "cannot open the database".to_owned(),
        _ => {}
    }
    if error.kind == EngineErrorKind::ReadOnly {
        let function = error.message.starts_with("not authorized to use function");
        let table = error.message.starts_with("access to ");
        error.hint = Some(match (function, table) {
            (true, _) => "the function is not among those that queries may use here".to_owned(),
            (_, true) => "the table is not among those that queries may read here".to_owned(),
            _ => ONLY_READING.to_owned(),
        });
    }
    error
}

/// The statement does not only read.
pub(super) fn not_reading() -> EngineError {
    let mut error = EngineError::new(EngineErrorKind::ReadOnly, "the statement does something else than read");
    error.hint = Some(ONLY_READING.to_owned());
    error
}

/// Why a connection was not opened.
#[derive(Debug)]
pub(super) enum OpenError {
    Sqlite(rusqlite::Error),
    Failure(Failure),
    /// This SQLite cannot keep temporary files in memory, where that is asked for, or has no file system at all.
    NoFileSystem {
        in_memory: bool,
    },
}

impl From<rusqlite::Error> for OpenError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<Failure> for OpenError {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

/// A failure while opening, where a plain error is nobody's fault but the file's.
pub(super) fn while_opening(error: OpenError, cancel: &CancelToken) -> EngineError {
    #[allow(clippy::wildcard_enum_match_arm)] // the rest cannot come of opening, and would mean the same
    let failure = match error {
        OpenError::Failure(failure) => failure,
        OpenError::Sqlite(rusqlite::Error::SqliteFailure(code, message)) => Failure {
            code: code.extended_code,
            message: message.unwrap_or_else(|| code.to_string()),
            offset: None,
            in_memory: false,
        },
        OpenError::Sqlite(other) => {
            log::error!(error:% = other; "a connection to SQLite could not be set up");
            return EngineError::new(EngineErrorKind::Unavailable, "cannot open the database");
        }
        OpenError::NoFileSystem { in_memory } => {
            let text = if in_memory {
                "this SQLite cannot keep temporary files in memory; the profile for trusted queries needs none"
            } else {
                "this SQLite has no file system to build on"
            };
            return EngineError::new(EngineErrorKind::Unavailable, text);
        }
    };
    engine_error(failure, cancel, EngineErrorKind::Unavailable)
}
