//! What SQLite's result codes mean to a client.

use std::ffi::c_int;

use rusqlite::ffi as codes;

use super::bounds::{Bound, Rules};
use super::ffi::{self, Failure, FillError};
use super::profile::SqliteProfile;
use super::watch::Verdict;
use super::words::words;
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

/// How SQLite begins to say that a query is beyond a limit of its own, which no setting rules; to it, these are plain errors.
const BEYOND_A_LIMIT: &[&str] = &[
    "too many ",
    "Recursion limit",
    "JSON path too deep",
    "at most 64 tables in a join",
    "parser stack overflow",
];

/// How SQLite begins to say that the authorizer has denied something: the function that follows, or else the statement itself or one
/// that a virtual table prepares.
const DENIED: &str = "not authorized";
const FUNCTION: &str = "not authorized to use function: ";

const ONLY_READING: &str = "only statements that read are allowed: SELECT, WITH, VALUES, EXPLAIN";

fn lookup(code: c_int) -> Option<(&'static str, EngineErrorKind)> {
    NAMES
        .iter()
        .find(|(primary, ..)| *primary == code & 0xFF)
        .map(|(_, name, kind)| (*name, *kind))
}

/// A failure while preparing `sql`: a plain error is the query's fault.
pub(super) fn while_preparing(failure: Failure, sql: &str, cancel: &CancelToken) -> EngineError {
    if failure.message.starts_with(DENIED) && !failure.message.starts_with(FUNCTION) && !only_reads(sql) {
        return not_reading();
    }
    // SQLite says "out of memory" of a query with too many operations too. To compile one takes little memory.
    let compiled_too_large = failure.code & 0xFF == codes::SQLITE_NOMEM && !heap_is_nearly_full();
    let rules = failure.rules;
    let mut error = engine_error(failure, cancel, EngineErrorKind::Syntax);
    if compiled_too_large {
        error.kind = EngineErrorKind::Limit;
        let (setting, value) = (Bound::Operations.setting(), rules.bounds.of(Bound::Operations));
        error.message = format!("the query compiles to more operations than `{setting}` ({value}) allows");
        let hint = "pass a long list of values as one JSON parameter and read it with json_each";
        error.hint = Some(hint.to_owned());
    }
    error
}

/// Whether the statement's words are those of one that reads.
fn only_reads(sql: &str) -> bool {
    const WRITING: [&str; 3] = ["into", "update", "delete"];
    match words(sql).next() {
        Some(first) if first.eq_ignore_ascii_case("with") => {
            !words(sql).any(|word| WRITING.iter().any(|writing| word.eq_ignore_ascii_case(writing)))
        }
        Some(first) => ["select", "values"].iter().any(|word| first.eq_ignore_ascii_case(word)),
        None => false,
    }
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
        rules,
        file,
    } = failure;
    // A wait for a lock that the token has ended comes back as busy.
    let stopped = matches!(code & 0xFF, codes::SQLITE_INTERRUPT | codes::SQLITE_BUSY);
    if stopped && cancel.is_cancelled() {
        return EngineError::cancelled();
    }
    // Whatever SQLite says of pages of two versions means nothing.
    if let Some(error) = changed_file(file) {
        return error;
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
            error.kind = if error.message.starts_with(DENIED) {
                EngineErrorKind::ReadOnly
            } else if BEYOND_A_LIMIT.iter().any(begins) || Bound::of_message(&error.message).is_some() {
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
            error.message = "the memory of SQLite (`sqlite_heap`) is exhausted".to_owned();
            let hint = "all queries share it: retry later, or sort, group and collect less at once";
            error.hint = Some(hint.to_owned());
        }
        codes::SQLITE_FULL if rules.sorts_in_memory() => {
            error.kind = EngineErrorKind::Limit;
            error.message = format!(
                "the query sorts, groups or stores more than a quarter of `sqlite_heap`, the limit of {}",
                said(rules.profile)
            );
            error.hint = Some(lifted_by_trust("sorts on disk"));
        }
        // The path is in the message.
        codes::SQLITE_CANTOPEN => error.message = "cannot open the database".to_owned(),
        _ => {}
    }
    if let Some(bound) = Bound::of_message(&error.message) {
        say_bound(&mut error, bound, &rules);
    }
    if error.kind == EngineErrorKind::ReadOnly {
        say_denied(&mut error, rules.profile);
    }
    error
}

/// Names the bound that a query is beyond.
fn say_bound(error: &mut EngineError, bound: Bound, rules: &Rules) {
    let (setting, value, ceiling) = (bound.setting(), rules.bounds.of(bound), bound.ceiling());
    if bound == Bound::CellBytes {
        error.message =
            format!("the query reads or makes a text or blob of more than {value} bytes, the limit of `{setting}`");
        error.hint = Some(format!(
            "leave the column out, or ask for its length() and typeof() only; the operator may set up to {ceiling} bytes"
        ));
        return;
    }
    error.message = format!("{}: `{setting}` is {value}", error.message);
    error.hint = Some(if value < ceiling {
        format!("split the query up; the operator may set up to {ceiling}")
    } else {
        "split the query up: SQLite allows no more".to_owned()
    });
}

/// Names what the authorizer has denied, and what would allow it.
fn say_denied(error: &mut EngineError, profile: SqliteProfile) {
    const NO_PROFILE: &str = "no profile allows it";
    let table = error.message.strip_prefix("access to ");
    let table = table.and_then(|rest| Some(rest.strip_suffix(" is prohibited")?.rsplit_once('.')?.0));
    let (what, is_trusted_with_it) = if let Some(function) = error.message.strip_prefix(FUNCTION) {
        (
            format!("the function {function}"),
            SqliteProfile::Trusted.has_function(function),
        )
    } else if let Some(table) = table {
        (format!("the table {table}"), SqliteProfile::Trusted.has_table(table))
    } else if error.message.starts_with(DENIED) {
        (
            "full-text, R*Tree and other virtual tables".to_owned(),
            profile == SqliteProfile::Untrusted,
        )
    } else {
        error.hint = Some(ONLY_READING.to_owned());
        return;
    };
    error.message = format!("{} does not allow {what}", said(profile));
    error.hint = Some(if is_trusted_with_it {
        lifted_by_trust("allows it")
    } else {
        NO_PROFILE.to_owned()
    });
}

fn said(profile: SqliteProfile) -> String {
    format!("the profile `{}` (`sqlite_profile`)", profile.name())
}

/// Advice to choose the other profile.
fn lifted_by_trust(does: &str) -> String {
    format!(
        "`sqlite_profile = \"{}\"` {does}: for the operator to set where the authors of queries are trusted",
        SqliteProfile::Trusted.name()
    )
}

/// What was read is not of one version of the file.
fn changed_file(file: Verdict) -> Option<EngineError> {
    let (message, hint) = match file {
        Verdict::Sound => return None,
        Verdict::Stale | Verdict::Overwritten => (
            "the database file was changed by another program while the query read it",
            "run the query again; to replace the file without failing queries, rename a new file over it",
        ),
        Verdict::ForeignLog => (
            "the database file was replaced, but its write-ahead log still holds pages of the former file",
            "stop the programs that use the database; if the file was replaced on purpose, delete the files whose names end in -wal and -shm and replace it again; if not, keep them: they may hold committed changes",
        ),
    };
    Some(unavailable(message, hint))
}

fn unavailable(message: &str, hint: &str) -> EngineError {
    let mut error = EngineError::new(EngineErrorKind::Unavailable, message);
    error.hint = Some(hint.to_owned());
    error
}

/// The statement does not only read.
pub(super) fn not_reading() -> EngineError {
    let mut error = EngineError::new(EngineErrorKind::ReadOnly, "the statement does not only read");
    error.hint = Some(ONLY_READING.to_owned());
    error
}

/// The schema has changed between the preparation of a query and its first row.
pub(super) fn other_columns() -> EngineError {
    unavailable(
        "the columns of the result have changed since the query was prepared",
        "run the query again",
    )
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
    /// The file is empty, and was not.
    Empty,
    /// The database needs a write-ahead log that can be neither opened nor created.
    NoLog,
    /// The file beside the database that ends so holds changes, which are not in the database.
    NotImmutable {
        ending: &'static str,
    },
    /// There is no folder that the path starts from.
    NoPath,
}

impl OpenError {
    /// A failure of the first read. A connection that is open already opens nothing else then but the log and its index.
    pub(super) fn of_reading(error: rusqlite::Error) -> Self {
        let code = error
            .sqlite_error()
            .map_or(codes::SQLITE_OK, |error| error.extended_code);
        let is_log = matches!(
            code,
            codes::SQLITE_READONLY_DIRECTORY | codes::SQLITE_READONLY_CANTINIT | codes::SQLITE_READONLY_RECOVERY
        );
        if is_log || code & 0xFF == codes::SQLITE_CANTOPEN {
            Self::NoLog
        } else {
            Self::Sqlite(error)
        }
    }

    /// Whether the file is why.
    pub(super) fn is_of_file(&self, verdict: Verdict) -> bool {
        matches!(self, Self::Failure(failure) if failure.file == verdict)
    }
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
pub(super) fn while_opening(error: OpenError, rules: Rules, cancel: &CancelToken) -> EngineError {
    #[allow(clippy::wildcard_enum_match_arm)] // the rest cannot come of opening, and would mean the same
    let failure = match error {
        OpenError::Failure(failure) => failure,
        OpenError::Sqlite(rusqlite::Error::SqliteFailure(code, message)) => Failure {
            code: code.extended_code,
            message: message.unwrap_or_else(|| code.to_string()),
            offset: None,
            rules,
            file: Verdict::Sound,
        },
        OpenError::Sqlite(other) => {
            log::error!(error:% = other; "a connection to SQLite could not be set up");
            return EngineError::new(EngineErrorKind::Unavailable, "cannot open the database");
        }
        OpenError::NoFileSystem { in_memory } => {
            let text = if in_memory {
                "this SQLite cannot keep temporary files in memory: only the profile `trusted` works without"
            } else {
                "this SQLite has no file system to build on"
            };
            return EngineError::new(EngineErrorKind::Unavailable, text);
        }
        OpenError::Empty => {
            return unavailable(
                "the database file has become empty",
                "another program has cut it or is about to overwrite it: run the query again",
            );
        }
        OpenError::NoLog => {
            return unavailable(
                "cannot open the write-ahead log of the database: its folder cannot be written",
                "let the server write to the folder, or, if no program changes the database while it is served, set `immutable` for it \
                 (`sqlite_immutable` of `rowstream serve`, `SqliteEngineBuilder::immutable`)",
            );
        }
        OpenError::NotImmutable { ending } => {
            return unavailable(
                &format!("the database is set to `immutable`, but its {ending} file holds changes"),
                "open the database once with a program that may write to it, or remove it from `sqlite_immutable`",
            );
        }
        OpenError::NoPath => return EngineError::new(EngineErrorKind::Unavailable, "cannot open the database"),
    };
    engine_error(failure, cancel, EngineErrorKind::Unavailable)
}
