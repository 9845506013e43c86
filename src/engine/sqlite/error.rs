//! What SQLite's result codes mean to a client.

use std::ffi::c_int;

use rusqlite::ffi as codes;

use super::ffi::{Failure, FillError};
use crate::engine::{CancelToken, EngineError, EngineErrorKind};

/// Result codes by name (sqlite.org/rescode.html). Of extended codes the low byte is the primary one.
const NAMES: &[(c_int, &str, EngineErrorKind)] = &[
    (codes::SQLITE_ERROR, "SQLITE_ERROR", EngineErrorKind::Syntax),
    (codes::SQLITE_INTERNAL, "SQLITE_INTERNAL", EngineErrorKind::Internal),
    (codes::SQLITE_PERM, "SQLITE_PERM", EngineErrorKind::Unavailable),
    (codes::SQLITE_ABORT, "SQLITE_ABORT", EngineErrorKind::Query),
    (codes::SQLITE_BUSY, "SQLITE_BUSY", EngineErrorKind::Busy),
    (codes::SQLITE_LOCKED, "SQLITE_LOCKED", EngineErrorKind::Busy),
    (codes::SQLITE_NOMEM, "SQLITE_NOMEM", EngineErrorKind::Busy),
    (codes::SQLITE_READONLY, "SQLITE_READONLY", EngineErrorKind::ReadOnly),
    (codes::SQLITE_INTERRUPT, "SQLITE_INTERRUPT", EngineErrorKind::Query),
    (codes::SQLITE_IOERR, "SQLITE_IOERR", EngineErrorKind::Query),
    (codes::SQLITE_CORRUPT, "SQLITE_CORRUPT", EngineErrorKind::Query),
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

fn lookup(code: c_int) -> Option<(&'static str, EngineErrorKind)> {
    NAMES
        .iter()
        .find(|(primary, ..)| *primary == code & 0xFF)
        .map(|(_, name, kind)| (*name, *kind))
}

/// A failure while preparing: a plain error is the query's fault.
pub(super) fn while_preparing(failure: Failure, cancel: &CancelToken) -> EngineError {
    engine_error(failure, cancel, EngineErrorKind::Syntax)
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
    let Failure { code, message, offset } = failure;
    // A wait for a lock that the token has ended comes back as busy.
    let stopped = matches!(code & 0xFF, codes::SQLITE_INTERRUPT | codes::SQLITE_BUSY);
    if stopped && cancel.is_cancelled() {
        return EngineError::cancelled();
    }
    let (name, kind) = lookup(code).unwrap_or(("SQLITE_UNKNOWN", EngineErrorKind::Query));
    let mut error = EngineError::new(
        if code & 0xFF == codes::SQLITE_ERROR {
            plain
        } else {
            kind
        },
        message,
    );
    error.engine_code = Some(name.to_owned());
    error.position = offset;
    if error.kind == EngineErrorKind::ReadOnly {
        error.hint = Some("only statements that read are allowed".to_owned());
    }
    error
}

/// A failure while opening, where a plain error is nobody's fault but the file's.
pub(super) fn while_opening(error: rusqlite::Error, cancel: &CancelToken) -> EngineError {
    #[allow(clippy::wildcard_enum_match_arm)] // the rest cannot come of opening, and would mean the same
    match error {
        rusqlite::Error::SqliteFailure(code, message) => {
            let failure = Failure {
                code: code.extended_code,
                message: message.unwrap_or_else(|| code.to_string()),
                offset: None,
            };
            engine_error(failure, cancel, EngineErrorKind::Unavailable)
        }
        other => EngineError::new(EngineErrorKind::Unavailable, other.to_string()),
    }
}
