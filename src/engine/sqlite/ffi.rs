//! The C interface: a statement that owns its connection, and the handlers that SQLite calls while it works.
//!
//! The only part of this engine with `unsafe`. Everything it offers is safe. Must not know pools, plans or error kinds.
#![allow(unsafe_code)] // this is the one place for it; each block says why it holds

mod file_system;
mod hold;
mod looks;
mod main_file;
mod math;
mod percentile;
mod pulse;
mod search;
mod series;
mod trim;
mod whole_pages;
mod write_ahead;

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::{self, NonNull};
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use rusqlite::{Connection, ffi};

use super::SqliteProfile;
use super::bounds::Rules;
use super::stamp::Stamp;
use super::watch::{LogMemory, Memory, Verdict};
use crate::engine::CancelToken;
use crate::rows::{CellSink, RowError, RowSource, RowWriter, Value};

pub(super) use file_system::{file_system, file_system_in_memory};
pub(super) use hold::{Hold, hold};
#[cfg(test)]
pub(super) use pulse::seen;
pub(super) use series::install as install_series;

use main_file::MainFile;
use pulse::{Inside, Pulse};

/// What SQLite may allocate in this process unless somebody says otherwise.
pub(super) const HEAP_BYTES_MAX: i64 = 256 * 1024 * 1024;

/// So many temporary files of the largest size fill the heap.
const TEMPORARY_FILES: i64 = 4;

/// SQLite's virtual machine calls the progress handler after so many operations: some tens of microseconds.
const OPERATIONS_PER_PULSE: c_int = 1_000;

/// Lookaside memory per connection: slots of this many bytes, and how many. The default of 1200 × 40 would be most of what a
/// stream costs; this serves the same small requests while a statement is prepared. Of the slots, 40 are for the functions that
/// are installed.
const LOOKASIDE_SLOT_BYTES: c_int = 128;
const LOOKASIDE_SLOTS: c_int = 64 + 40;

/// What SQLite says of a failed call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// The extended result code.
    pub(super) code: c_int,
    pub(super) message: String,
    /// Byte offset into the statement's text.
    pub(super) offset: Option<u32>,
    /// What the connection allows.
    pub(super) rules: Rules,
    /// What is known of the database's file; where it is not sound, that is why the call has failed.
    pub(super) file: Verdict,
}

impl Failure {
    /// Whether a view has a text in double quotes. Of what stands in the client's own text, SQLite says where.
    pub(super) fn is_text_in_a_view(&self) -> bool {
        self.offset.is_none()
            && self.message.starts_with("no such column: \"")
            && self.message.contains("should this be a string literal")
    }

    /// Whether a text or blob was too large to be read or made.
    pub(super) fn is_cell_too_large(&self) -> bool {
        self.code & 0xFF == ffi::SQLITE_TOOBIG && self.file == Verdict::Sound
    }
}

/// Why rows stopped coming.
#[derive(Debug)]
pub(super) enum FillError {
    Sql(Failure),
    Row(RowError),
}

/// An open connection and what its handlers look at. Dropping it closes the connection.
pub(super) struct Database {
    // Before `pulse` is freed: SQLite holds a pointer to it.
    connection: Option<Connection>,
    pulse: NonNull<Pulse>,
    /// Behind the connection's file, so there as long as the connection is open.
    main_file: Option<NonNull<MainFile>>,
    rules: Rules,
    /// Whether a name in double quotes that is no name is a text.
    quoted_texts: bool,
}

/// A connection as a token's hook sees it, which does nothing but interrupt it.
struct Interrupt(*mut ffi::sqlite3);

// SAFETY: `sqlite3_interrupt` may be called from any thread while the connection is open.
unsafe impl Send for Interrupt {}

impl Interrupt {
    fn interrupt(&self) {
        // SAFETY: the hook that owns this is disarmed, which waits for it to end, before the connection is closed (see `unwatch`).
        unsafe { ffi::sqlite3_interrupt(self.0) };
    }
}

// SAFETY: `Connection` is `Send`. `pulse` is owned by this value alone (a box that SQLite's handlers of this very connection
// also point to), and handlers run only inside calls that the owner makes. Its contents are `Send` but for `writer`, which is
// null whenever no call is under way, so never when the value changes threads. What `main_file` points to belongs to the connection, and
// is used only by its owner, and by SQLite inside calls that the owner makes.
unsafe impl Send for Database {}

impl Database {
    /// Takes over a connection that nothing was read on, and installs the handlers. The rules are for the errors that it makes.
    pub(super) fn new(connection: Connection, lock_timeout: Duration, rules: Rules, logs: Arc<LogMemory>) -> Self {
        let pulse = NonNull::from(Box::leak(Box::new(Pulse::new(lock_timeout))));
        // SAFETY: the handle is open and used by this thread alone; both handlers get a pointer that lives until after the
        // connection is closed (see `drop`). The lookaside call passes the three arguments that its verb documents, and a null
        // buffer has SQLite allocate its own; it fails harmlessly where memory is in use already.
        let main_file = unsafe {
            let db = connection.handle();
            let context = pulse.as_ptr().cast::<c_void>();
            ffi::sqlite3_progress_handler(db, OPERATIONS_PER_PULSE, Some(pulse::on_pulse), context);
            ffi::sqlite3_busy_handler(db, Some(pulse::on_busy), context);
            ffi::sqlite3_db_config(
                db,
                ffi::SQLITE_DBCONFIG_LOOKASIDE,
                ptr::null_mut::<c_void>(),
                LOOKASIDE_SLOT_BYTES,
                LOOKASIDE_SLOTS,
            );
            let main_file = MainFile::of(db);
            if let Some(mut main_file) = main_file {
                main_file.as_mut().share_logs(logs);
            }
            main_file
        };
        Self {
            connection: Some(connection),
            pulse,
            main_file,
            rules,
            quoted_texts: false,
        }
    }

    /// What is known, up to now, of the pages that the connection has read.
    pub(super) fn verdict(&self) -> Verdict {
        self.main_file.map_or(Verdict::Sound, |mut main_file| {
            // SAFETY: the connection is open, and no other thread uses it, since it is not `Sync`; no call on it is under way, since whoever
            // calls this is its owner.
            unsafe { main_file.as_mut().verdict() }
        })
    }

    /// Whether what was read so far was read of an empty file.
    pub(super) fn reads_nothing(&self) -> bool {
        self.main_file.is_some_and(|main_file| {
            // SAFETY: as in `verdict`.
            unsafe { main_file.as_ref().reads_nothing() }
        })
    }

    /// Whether what the connection, which rests, remembers is right for the file that is `there` now.
    pub(super) fn memory_of(&mut self, there: &Stamp) -> Memory {
        self.main_file.map_or(Memory::Right, |mut main_file| {
            // SAFETY: as in `verdict`.
            unsafe { main_file.as_mut().memory_of(there) }
        })
    }

    /// Adds the functions that this SQLite was compiled without, and puts those whose time is bounded in the place of its own.
    pub(super) fn install_functions(&mut self) -> Result<(), Failure> {
        let db = self.handle();
        // SAFETY: the connection is open, and ours alone.
        let codes = unsafe {
            [
                search::install(db),
                math::install(db),
                percentile::install(db),
                match self.rules.profile {
                    SqliteProfile::Untrusted => trim::install(db),
                    SqliteProfile::Trusted => ffi::SQLITE_OK,
                },
            ]
        };
        if codes.iter().all(|code| *code == ffi::SQLITE_OK) {
            Ok(())
        } else {
            Err(self.failure())
        }
    }

    /// The connection, for settings that rusqlite has safe functions for.
    /// What is done with the connection is stopped as its statements are.
    pub(super) fn with_connection<R>(&mut self, act: impl FnOnce(&mut Connection) -> R) -> R {
        let _inside = self.inside();
        let connection = self.connection.as_mut();
        act(connection.expect("the connection is there until the drop"))
    }

    /// What stops the statements that follow.
    pub(super) fn watch(&mut self, cancel: CancelToken, deadline: Option<Instant>) {
        self.unwatch();
        let (wake, cancelled) = bounded(1);
        let connection = Interrupt(self.handle());
        cancel.arm(move || {
            // A wake-up that finds one already there says nothing new.
            let _already_there = wake.try_send(());
            // Ends what the progress handler is not called in, such as counting the pages of a table.
            connection.interrupt();
        });
        // SAFETY: no call on this connection is under way, since we have it by unique reference.
        let pulse = unsafe { self.pulse.as_mut() };
        pulse.cancel = Some(cancel);
        pulse.cancelled = Some(cancelled);
        pulse.deadline = deadline;
        pulse.lock_waited = Duration::ZERO;
    }

    /// Stops what follows after so many reads of the database's files, or at `deadline`, until the connection is [watched](Self::watch) anew.
    pub(super) fn limit(&mut self, reads_max: u32, deadline: Instant) {
        // SAFETY: as in `watch`.
        let pulse = unsafe { self.pulse.as_mut() };
        pulse.reads_left = Some(reads_max);
        pulse.deadline = Some(deadline);
    }

    /// Nothing stops what follows: the connection goes back to its pool.
    pub(super) fn unwatch(&mut self) {
        // SAFETY: as in `watch`.
        let pulse = unsafe { self.pulse.as_mut() };
        pulse.deadline = None;
        pulse.reads_left = None;
        pulse.cancelled = None;
        if let Some(cancel) = pulse.cancel.take() {
            cancel.disarm();
        }
    }

    /// For the time of a call on the connection.
    fn inside(&self) -> Inside {
        // SAFETY: the pulse lives as long as `self`, and is of no use to another thread while this one makes a call. Each caller drops what it
        // is given before it returns.
        unsafe { Inside::of(self.pulse) }
    }

    /// It stays so while a statement is used, which SQLite prepares again when the schema changes.
    fn set_quoted_texts(&mut self, are_allowed: bool) {
        if self.quoted_texts != are_allowed {
            // SAFETY: the connection is open; the verb takes an integer, and a pointer that may be null.
            unsafe {
                ffi::sqlite3_db_config(
                    self.handle(),
                    ffi::SQLITE_DBCONFIG_DQS_DML,
                    c_int::from(are_allowed),
                    ptr::null_mut::<c_int>(),
                );
            }
            self.quoted_texts = are_allowed;
        }
    }

    fn handle(&self) -> *mut ffi::sqlite3 {
        let connection = self
            .connection
            .as_ref()
            .expect("the connection is there until the drop");
        // SAFETY: the handle is used while `self` is borrowed, so while the connection is open.
        unsafe { connection.handle() }
    }

    /// The failure of the call just made.
    fn failure(&self) -> Failure {
        let db = self.handle();
        // SAFETY: the handle is open, and the message is copied before any other call on it.
        let (code, message, offset) = unsafe {
            let message = ffi::sqlite3_errmsg(db);
            let message = if message.is_null() {
                String::new()
            } else {
                CStr::from_ptr(message).to_string_lossy().into_owned()
            };
            (
                ffi::sqlite3_extended_errcode(db),
                message,
                ffi::sqlite3_error_offset(db),
            )
        };
        Failure {
            code,
            message,
            offset: u32::try_from(offset).ok(),
            rules: self.rules,
            file: self.verdict(),
        }
    }

    /// Fails where what was read is not of one version of the file.
    pub(super) fn check_file(&self) -> Result<(), Failure> {
        let file = self.verdict();
        if file == Verdict::Sound {
            return Ok(());
        }
        Err(Failure {
            code: ffi::SQLITE_IOERR,
            message: "the file has changed".to_owned(),
            offset: None,
            rules: self.rules,
            file,
        })
    }

    /// Prepares the first statement of `sql`; returns it with how many bytes of `sql` it took. `None` where there is only
    /// white space and comments.
    fn prepare_first(&self, sql: &str) -> Result<(Option<NonNull<ffi::sqlite3_stmt>>, usize), Failure> {
        let mut statement = ptr::null_mut();
        let mut tail: *const c_char = ptr::null();
        let Ok(len) = c_int::try_from(sql.len()) else {
            return Err(Failure {
                code: ffi::SQLITE_TOOBIG,
                message: "the query is too long".to_owned(),
                offset: None,
                rules: self.rules,
                file: Verdict::Sound,
            });
        };
        let _inside = self.inside();
        // SAFETY: the text is `len` readable bytes; both out-pointers are valid for the call.
        let code = unsafe {
            ffi::sqlite3_prepare_v3(
                self.handle(),
                sql.as_ptr().cast(),
                len,
                0,
                &raw mut statement,
                &raw mut tail,
            )
        };
        if code != ffi::SQLITE_OK {
            return Err(self.failure());
        }
        let used = if tail.is_null() {
            sql.len()
        } else {
            tail.addr() - sql.as_ptr().addr()
        };
        Ok((NonNull::new(statement), used))
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.unwatch();
        // Closing may still call the handlers.
        drop(self.connection.take());
        // SAFETY: the box was leaked in `new`, nobody else frees it, and the connection that pointed to it is closed.
        drop(unsafe { Box::from_raw(self.pulse.as_ptr()) });
    }
}

/// One prepared statement together with its connection.
pub(super) struct Statement {
    // Finalized in `drop` and in `into_database`, before the connection it belongs to.
    statement: NonNull<ffi::sqlite3_stmt>,
    database: Option<Database>,
    /// Which columns hold booleans; empty where none does.
    booleans: Box<[bool]>,
    text_len: usize,
}

// SAFETY: the statement belongs to the connection beside it, and both are owned and move together. SQLite is compiled
// thread-safe and ties no handle to a thread; the connection is opened without its own mutex, which is sound because every
// method that calls into it takes `&mut self`, or `&self` of a value that is not `Sync`.
unsafe impl Send for Statement {}

/// What became of an attempt to prepare.
pub(super) enum Prepared {
    One(Statement),
    /// The text holds no statement.
    None(Database),
    /// There is more behind the first statement.
    Several(Database),
    Failed(Database, Failure),
}

impl Statement {
    /// Prepares `sql`, which has to be exactly one statement.
    pub(super) fn prepare(mut database: Database, sql: &str) -> Prepared {
        database.set_quoted_texts(false);
        Self::prepare_as_set(database, sql)
    }

    /// Prepares `sql`, in which there are no double quotes, where views may have texts in them.
    pub(super) fn prepare_beside_quoted_texts(mut database: Database, sql: &str) -> Prepared {
        database.set_quoted_texts(true);
        Self::prepare_as_set(database, sql)
    }

    fn prepare_as_set(database: Database, sql: &str) -> Prepared {
        let (first, mut used) = match database.prepare_first(sql) {
            Ok((Some(first), used)) => (first, used),
            Ok((None, _)) => return Prepared::None(database),
            Err(failure) => return Prepared::Failed(database, failure),
        };
        let statement = Self {
            statement: first,
            database: Some(database),
            booleans: Box::default(),
            text_len: used,
        };
        // Whatever follows may only be white space, comments and semicolons.
        while used < sql.len() {
            let found = statement.database().prepare_first(&sql[used..]);
            match found {
                Ok((None, more)) if more > 0 => used += more,
                Ok((None, _)) => break,
                Ok((Some(second), _)) => {
                    // SAFETY: prepared just now, and not kept.
                    unsafe { ffi::sqlite3_finalize(second.as_ptr()) };
                    return Prepared::Several(statement.into_database());
                }
                Err(_) => return Prepared::Several(statement.into_database()),
            }
        }
        Prepared::One(statement)
    }

    /// Finalizes the statement and gives the connection back.
    pub(super) fn into_database(mut self) -> Database {
        self.finalize();
        self.database.take().expect("the database is there until now")
    }

    fn finalize(&mut self) {
        // SAFETY: called once, from `drop` or `into_database` (which leaves `drop` nothing, see there). What the statement
        // failed with last is returned again here and means nothing now.
        unsafe { ffi::sqlite3_finalize(self.statement.as_ptr()) };
    }

    fn database(&self) -> &Database {
        self.database
            .as_ref()
            .expect("the database is there until `into_database`")
    }

    /// How many bytes of the text prepared are the statement itself, its semicolon included; what follows says nothing.
    pub(super) fn text_len(&self) -> usize {
        self.text_len
    }

    /// The text of the statement with the values of its parameters; `None` where that is too long.
    pub(super) fn expanded_sql(&self) -> Option<String> {
        // SAFETY: a live statement; the text is copied before it is freed.
        unsafe {
            let text = ffi::sqlite3_expanded_sql(self.statement.as_ptr());
            let copied = (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned());
            ffi::sqlite3_free(text.cast());
            copied
        }
    }

    pub(super) fn rules(&self) -> Rules {
        self.database().rules
    }

    /// Says which columns hold booleans, which SQLite stores as 0 and 1.
    pub(super) fn set_booleans(&mut self, is_boolean: impl Iterator<Item = bool>) {
        let booleans: Box<[bool]> = is_boolean.collect();
        if booleans.contains(&true) {
            self.booleans = booleans;
        }
    }

    /// How many columns there are, which a change of the schema before the first row may change.
    pub(super) fn n_columns(&self) -> usize {
        // SAFETY: a live statement.
        usize::try_from(unsafe { ffi::sqlite3_column_count(self.statement.as_ptr()) }).unwrap_or(0)
    }

    pub(super) fn column_name(&self, column: usize) -> String {
        self.column_text(column, ffi::sqlite3_column_name).unwrap_or_default()
    }

    pub(super) fn column_decltype(&self, column: usize) -> Option<String> {
        self.column_text(column, ffi::sqlite3_column_decltype)
    }

    fn column_text(
        &self,
        column: usize,
        get: unsafe extern "C" fn(*mut ffi::sqlite3_stmt, c_int) -> *const c_char,
    ) -> Option<String> {
        let column = c_int::try_from(column).ok()?;
        // SAFETY: both functions take any column number, and return null or a string that lives until the next call.
        unsafe {
            let text = get(self.statement.as_ptr(), column);
            (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
        }
    }

    /// Whether the statement leaves the database as it is.
    pub(super) fn is_read_only(&self) -> bool {
        // SAFETY: a live statement.
        unsafe { ffi::sqlite3_stmt_readonly(self.statement.as_ptr()) != 0 }
    }

    pub(super) fn n_parameters(&self) -> usize {
        // SAFETY: a live statement.
        usize::try_from(unsafe { ffi::sqlite3_bind_parameter_count(self.statement.as_ptr()) }).unwrap_or(0)
    }

    /// The name of the 1-based parameter, sigil included; `None` for `?`.
    pub(super) fn parameter_name(&self, parameter: usize) -> Option<String> {
        let parameter = c_int::try_from(parameter).ok()?;
        // SAFETY: any number may be asked for; the string lives as long as the statement.
        unsafe {
            let name = ffi::sqlite3_bind_parameter_name(self.statement.as_ptr(), parameter);
            (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned())
        }
    }

    /// Binds the 1-based parameter.
    pub(super) fn bind(&mut self, parameter: usize, value: &Value) -> Result<(), Failure> {
        let statement = self.statement.as_ptr();
        let parameter = c_int::try_from(parameter).unwrap_or(c_int::MAX);
        // SAFETY: texts and blobs are passed with their exact length and copied by SQLite (`SQLITE_TRANSIENT`) before the call
        // returns; a parameter number out of range is refused with an error code.
        let code = unsafe {
            match value {
                Value::Null => ffi::sqlite3_bind_null(statement, parameter),
                Value::Boolean(value) => ffi::sqlite3_bind_int64(statement, parameter, i64::from(*value)),
                Value::Integer(value) => ffi::sqlite3_bind_int64(statement, parameter, *value),
                Value::Real(value) => ffi::sqlite3_bind_double(statement, parameter, *value),
                Value::Text(text) => ffi::sqlite3_bind_text64(
                    statement,
                    parameter,
                    text.as_ptr().cast(),
                    text.len() as u64,
                    ffi::SQLITE_TRANSIENT(),
                    ffi::SQLITE_UTF8 as u8,
                ),
                Value::Blob(bytes) => ffi::sqlite3_bind_blob64(
                    statement,
                    parameter,
                    // A null pointer would bind NULL.
                    if bytes.is_empty() {
                        c"".as_ptr().cast()
                    } else {
                        bytes.as_ptr().cast()
                    },
                    bytes.len() as u64,
                    ffi::SQLITE_TRANSIENT(),
                ),
            }
        };
        if code == ffi::SQLITE_OK {
            Ok(())
        } else {
            Err(self.database().failure())
        }
    }

    /// Goes to the next row. False at the end.
    pub(super) fn step(&mut self) -> Result<bool, Failure> {
        let _inside = self.database().inside();
        // SAFETY: a live statement, used by one thread at a time.
        let more = match unsafe { ffi::sqlite3_step(self.statement.as_ptr()) } {
            ffi::SQLITE_ROW => true,
            ffi::SQLITE_DONE => false,
            _ => return Err(self.database().failure()),
        };
        self.database().check_file().map(|()| more)
    }

    /// The integer in a column of the present row; `None` for NULL.
    pub(super) fn integer(&self, column: usize) -> Option<i64> {
        let column = c_int::try_from(column).ok()?;
        // SAFETY: a live statement; a column out of range or without a row reads as NULL.
        unsafe {
            let is_null = ffi::sqlite3_column_type(self.statement.as_ptr(), column) == ffi::SQLITE_NULL;
            (!is_null).then(|| ffi::sqlite3_column_int64(self.statement.as_ptr(), column))
        }
    }

    /// The text in a column of the present row.
    pub(super) fn text(&self, column: usize) -> String {
        let column = c_int::try_from(column).unwrap_or(c_int::MAX);
        // SAFETY: a live statement; the text is copied before the next call on it.
        unsafe {
            let text = ffi::sqlite3_column_text(self.statement.as_ptr(), column);
            let len = ffi::sqlite3_column_bytes(self.statement.as_ptr(), column);
            String::from_utf8_lossy(bytes_of(text.cast(), len)).into_owned()
        }
    }

    /// Whether the schema had changed when the statement was first stepped, so that SQLite prepared it anew.
    pub(super) fn was_prepared_again(&self) -> bool {
        // SAFETY: a live statement; 0 leaves the counter as it is.
        unsafe { ffi::sqlite3_stmt_status(self.statement.as_ptr(), ffi::SQLITE_STMTSTATUS_REPREPARE, 0) > 0 }
    }

    /// Rows that full scans of this statement have passed so far.
    pub(super) fn n_scanned(&self) -> u64 {
        // SAFETY: a live statement; 0 leaves the counter as it is.
        let n = unsafe { ffi::sqlite3_stmt_status(self.statement.as_ptr(), ffi::SQLITE_STMTSTATUS_FULLSCAN_STEP, 0) };
        // A 32-bit counter in SQLite: it wraps after four thousand million rows.
        u64::from(n.cast_unsigned())
    }

    /// Steps and writes rows until `out` is full. True where the result has ended. Fails, with rows in `out` that may be of any version of the
    /// file, where the file was changed.
    pub(super) fn fill(&mut self, out: &mut RowWriter) -> Result<bool, FillError> {
        // The statement may have rested for long.
        self.database().check_file().map_err(FillError::Sql)?;
        let out: *mut RowWriter = out;
        let _inside = self.database().inside();
        let pulse = self.database().pulse.as_ptr();
        // SAFETY: `out` comes from a unique reference that is not used again before this function returns; from here on the
        // writer is reached only through this pointer, by this loop between two steps and by the progress handler inside them,
        // on one thread, so never by both at once. The handler's copy is cleared before the reference's life ends.
        unsafe {
            (*pulse).writer = out;
            let filled = self.fill_through(out);
            (*pulse).writer = ptr::null_mut();
            if !matches!(filled, Err(FillError::Sql(_))) {
                self.database().check_file().map_err(FillError::Sql)?;
            }
            filled
        }
    }

    /// # Safety
    /// `out` is valid, and nobody else uses it but the progress handler inside a step.
    unsafe fn fill_through(&mut self, out: *mut RowWriter) -> Result<bool, FillError> {
        let statement = self.statement.as_ptr();
        loop {
            // SAFETY: by the contract above; the reference ends with the expression.
            if unsafe { (*out).is_full() } {
                return Ok(false);
            }
            // SAFETY: a live statement, used by one thread at a time.
            match unsafe { ffi::sqlite3_step(statement) } {
                ffi::SQLITE_ROW => {}
                ffi::SQLITE_DONE => return Ok(true),
                _ => return Err(FillError::Sql(self.database().failure())),
            }
            // SAFETY: by the contract above; the reference ends before the next step.
            let writer = unsafe { &mut *out };
            let row = Row {
                statement,
                booleans: &self.booleans,
            };
            writer.write_row(&row).map_err(FillError::Row)?;
        }
    }
}

impl Drop for Statement {
    fn drop(&mut self) {
        // Without a database, `into_database` has finalized already.
        if self.database.is_some() {
            self.finalize();
        }
    }
}

/// The row that a statement has stepped to. Made by `fill_through` alone, for the time until the next step, of a statement that no
/// other thread uses.
struct Row<'a> {
    statement: *mut ffi::sqlite3_stmt,
    booleans: &'a [bool],
}

impl RowSource for Row<'_> {
    #[inline(always)]
    fn write_cell(&self, column_idx: usize, out: &mut impl CellSink) {
        // SAFETY: a live statement with a row; a column out of range reads as NULL. The value is unprotected, which is enough because
        // no other thread can use this connection; its text or bytes are read before the next call on it, and a text's bytes are
        // asked for after the text, as SQLite wants it.
        unsafe {
            let value = ffi::sqlite3_column_value(self.statement, column_idx as c_int);
            match ffi::sqlite3_value_type(value) {
                ffi::SQLITE_INTEGER => {
                    let integer = ffi::sqlite3_value_int64(value);
                    // Of a column that is declared to be boolean, 0 and 1 are what they mean, anything else is as it is.
                    match (integer, self.booleans.get(column_idx)) {
                        (0 | 1, Some(true)) => out.boolean(integer == 1),
                        _ => out.integer(integer),
                    }
                }
                ffi::SQLITE_FLOAT => out.real(ffi::sqlite3_value_double(value)),
                ffi::SQLITE_TEXT => {
                    let text = ffi::sqlite3_value_text(value);
                    out.text(bytes_of(text.cast(), ffi::sqlite3_value_bytes(value)));
                }
                ffi::SQLITE_BLOB => {
                    let bytes = ffi::sqlite3_value_blob(value);
                    out.blob(bytes_of(bytes, ffi::sqlite3_value_bytes(value)));
                }
                _ => out.null(),
            }
        }
    }
}

/// # Safety
/// `start` is null, or points to `len` bytes that stay as they are for `'a`.
#[inline]
unsafe fn bytes_of<'a>(start: *const c_void, len: c_int) -> &'a [u8] {
    match usize::try_from(len) {
        // SAFETY: by the contract above.
        Ok(len) if len > 0 && !start.is_null() => unsafe { std::slice::from_raw_parts(start.cast(), len) },
        _ => &[],
    }
}

/// Bounds what SQLite allocates in this process, once, before the first connection is opened; where the application has set a bound
/// already, that one stays.
///
/// SQLite counts its memory under one lock for that. With two threads on two cores, the difference was within the noise, of scans and of sorts.
pub(super) fn initialize() {
    HEAP.call_once(|| {
        // SAFETY: takes any number; a negative one only asks.
        if unsafe { ffi::sqlite3_hard_heap_limit64(-1) } == 0 {
            set_heap_limit(HEAP_BYTES_MAX);
        }
    });
}

static HEAP: Once = Once::new();

/// Sets the bound, instead of the default. 0: none.
pub(super) fn limit_heap(bytes_max: u64) {
    HEAP.call_once(|| {});
    set_heap_limit(i64::try_from(bytes_max).unwrap_or(i64::MAX));
}

fn set_heap_limit(bytes_max: i64) {
    // SAFETY: takes any number.
    unsafe { ffi::sqlite3_hard_heap_limit64(bytes_max) };
    let bounded = if bytes_max == 0 { HEAP_BYTES_MAX } else { bytes_max };
    file_system::limit_file_bytes(bounded / TEMPORARY_FILES);
}

/// The bound, or 0.
pub(super) fn heap_limit() -> u64 {
    // SAFETY: a negative number only asks.
    u64::try_from(unsafe { ffi::sqlite3_hard_heap_limit64(-1) }).unwrap_or(0)
}

/// What SQLite has allocated.
pub(super) fn heap_bytes() -> u64 {
    // SAFETY: only asks.
    u64::try_from(unsafe { ffi::sqlite3_memory_used() }).unwrap_or(0)
}

/// Whether the SQLite in use was compiled with an option, e.g. `ENABLE_FTS5`.
pub(super) fn is_compiled_with(option: &CStr) -> bool {
    // SAFETY: the text ends with NUL.
    unsafe { ffi::sqlite3_compileoption_used(option.as_ptr()) != 0 }
}

/// The most that it has had since this was last called.
#[cfg(test)]
pub(super) fn heap_bytes_highest() -> u64 {
    // SAFETY: any number says whether the mark is set back.
    u64::try_from(unsafe { ffi::sqlite3_memory_highwater(1) }).unwrap_or(0)
}
