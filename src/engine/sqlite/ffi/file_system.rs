//! How SQLite opens files here: with its usual file system, but for three things.
//!
//! The database's own file is watched, see [`main_file`]. Every access to a file looks whether the query is to
//! stop, see [`looks`]. And for queries that are not trusted, what SQLite
//! sorts, groups and keeps for later goes to files that are memory, so that a query cannot fill a disk.
//!
//! `temp_store=MEMORY` would do without such files, but has SQLite sort everything in one operation, which nothing can stop: some seconds
//! for some million rows. With files it sorts about a MiB at a time. So temporary files are those of its own "memdb", and end at a size.
#![allow(unsafe_code)] // SQLite's file system is a table of C functions

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};

use rusqlite::ffi;

use super::looks;
use super::main_file::{self, Open};

/// The names of the file systems; a connection is opened with one.
const USUAL_NAME: &CStr = c"rowstream";
const MEMORY_NAME: &CStr = c"rowstream-memory";

const TEMPORARY: c_int = ffi::SQLITE_OPEN_TEMP_DB
    | ffi::SQLITE_OPEN_TRANSIENT_DB
    | ffi::SQLITE_OPEN_TEMP_JOURNAL
    | ffi::SQLITE_OPEN_SUBJOURNAL;

/// Largest temporary file in memory, in bytes.
static FILE_BYTES_MAX: AtomicI64 = AtomicI64::new(super::HEAP_BYTES_MAX / super::TEMPORARY_FILES);

/// SQLite's file system in memory.
struct Memory {
    file_system: *mut ffi::sqlite3_vfs,
    open: Open,
    /// Those of its files, without the functions that map a file: one that is mapped cannot grow.
    methods: OnceLock<ffi::sqlite3_io_methods>,
}

// SAFETY: the pointer is to a file system of SQLite's, which is registered for good and is made for all threads.
unsafe impl Send for Memory {}
// SAFETY: as above; nothing here changes after it is made.
unsafe impl Sync for Memory {}

/// How the usual file system opens a file.
static USUAL: OnceLock<Option<Open>> = OnceLock::new();
static MEMORY: OnceLock<Option<Memory>> = OnceLock::new();

/// Sets the size at which temporary files in memory that are opened from now on end.
pub(super) fn limit_file_bytes(max: i64) {
    FILE_BYTES_MAX.store(max, Ordering::Relaxed);
}

/// The file system whose temporary files are files; `None` where SQLite does not take it.
pub(in super::super) fn file_system() -> Option<&'static CStr> {
    USUAL.get_or_init(register_usual).map(|_| USUAL_NAME)
}

/// The file system whose temporary files are memory; `None` where this SQLite lacks a part of it.
pub(in super::super) fn file_system_in_memory() -> Option<&'static CStr> {
    file_system()?;
    MEMORY.get_or_init(register_memory).as_ref().map(|_| MEMORY_NAME)
}

fn register_usual() -> Option<Open> {
    // SAFETY: SQLite returns null or a file system that stays registered.
    unsafe {
        let usual = ffi::sqlite3_vfs_find(ptr::null()).as_ref()?;
        let file_bytes = main_file::file_bytes(usual.szOsFile).max(looks::file_bytes(usual.szOsFile));
        register(usual, USUAL_NAME, file_bytes, open_usual).then_some(usual.xOpen?)
    }
}

fn register_memory() -> Option<Memory> {
    // SAFETY: as in `register_usual`.
    unsafe {
        let usual = ffi::sqlite3_vfs_find(USUAL_NAME.as_ptr()).as_ref()?;
        let file_system = ffi::sqlite3_vfs_find(c"memdb".as_ptr());
        let memory = Memory {
            file_system,
            open: file_system.as_ref()?.xOpen?,
            methods: OnceLock::new(),
        };
        let file_bytes = usual.szOsFile.max(looks::file_bytes((*file_system).szOsFile));
        register(usual, MEMORY_NAME, file_bytes, open_memory).then_some(memory)
    }
}

/// Registers a file system that is `like` another, whose copy works as the original, which keeps what it needs behind `pAppData`.
fn register(like: &ffi::sqlite3_vfs, name: &'static CStr, file_bytes: c_int, open: Open) -> bool {
    // SQLite holds on to it.
    let file_system = Box::leak(Box::new(ffi::sqlite3_vfs {
        zName: name.as_ptr(),
        pNext: ptr::null_mut(),
        szOsFile: file_bytes,
        xOpen: Some(open),
        ..*like
    }));
    // SAFETY: the box is never freed, and nobody else has it.
    unsafe { ffi::sqlite3_vfs_register(file_system, 0) == ffi::SQLITE_OK }
}

/// Opens a file as ever; the database's own is watched.
unsafe extern "C" fn open_usual(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    let Some(Some(open)) = USUAL.get() else {
        return ffi::SQLITE_CANTOPEN;
    };
    // SAFETY: the arguments are SQLite's. Its file is of `szOsFile` bytes, which were asked for with `main_file::file_bytes`, and is opened
    // by the file system that the number came from.
    unsafe {
        if flags & ffi::SQLITE_OPEN_MAIN_DB != 0 {
            return main_file::open_with(*open, vfs, name, file, flags, out_flags);
        }
        let code = open(vfs, name, file, flags, out_flags);
        if code == ffi::SQLITE_OK && flags & (TEMPORARY | ffi::SQLITE_OPEN_WAL) != 0 {
            looks::begin(file, (*vfs).szOsFile, flags & TEMPORARY != 0);
        }
        code
    }
}

/// Opens a file: a temporary one in memory, any other as `open_usual` does.
unsafe extern "C" fn open_memory(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    let Some(Some(memory)) = MEMORY.get() else {
        return ffi::SQLITE_CANTOPEN;
    };
    // SAFETY: the arguments are SQLite's, for a file of `szOsFile` bytes, which is enough for either. A memory file without a name is
    // private to whoever opens it, and has a table of methods once it is open.
    unsafe {
        if flags & TEMPORARY == 0 {
            return open_usual(vfs, name, file, flags, out_flags);
        }
        let code = (memory.open)(memory.file_system, ptr::null(), file, flags, out_flags);
        if code == ffi::SQLITE_OK
            && let Some(methods) = (*file).pMethods.as_ref()
        {
            let mut limit = FILE_BYTES_MAX.load(Ordering::Relaxed);
            if let Some(control) = methods.xFileControl {
                control(file, ffi::SQLITE_FCNTL_SIZE_LIMIT, (&raw mut limit).cast::<c_void>());
            }
            (*file).pMethods = memory.methods.get_or_init(|| ffi::sqlite3_io_methods {
                iVersion: 1,
                ..*methods
            });
            looks::begin(file, (*vfs).szOsFile, true);
        }
        code
    }
}
