//! Where SQLite puts what it sorts, groups and keeps for later: files that are memory, so that a query cannot fill a disk.
//!
//! `temp_store=MEMORY` would do without files, but has SQLite sort everything in one operation, which nothing can stop: some seconds
//! for some million rows. With files it sorts about a MiB at a time. So this is SQLite's usual file system, except that its temporary
//! files are those of its own "memdb", and end at a size.
#![allow(unsafe_code)] // SQLite's file system is a table of C functions

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};

use rusqlite::ffi;

/// The name of the file system; a connection is opened with it.
const NAME: &CStr = c"rowstream-memory";

const TEMPORARY: c_int = ffi::SQLITE_OPEN_TEMP_DB
    | ffi::SQLITE_OPEN_TRANSIENT_DB
    | ffi::SQLITE_OPEN_TEMP_JOURNAL
    | ffi::SQLITE_OPEN_SUBJOURNAL;

/// Largest temporary file, in bytes.
static FILE_BYTES_MAX: AtomicI64 = AtomicI64::new(super::HEAP_BYTES_MAX / super::TEMPORARY_FILES);

type Open =
    unsafe extern "C" fn(*mut ffi::sqlite3_vfs, *const c_char, *mut ffi::sqlite3_file, c_int, *mut c_int) -> c_int;

/// The two file systems that this one is made of.
struct Parts {
    disk_open: Open,
    memory: *mut ffi::sqlite3_vfs,
    memory_open: Open,
    /// Those of memory files, without the functions that map a file: one that is mapped cannot grow.
    methods: OnceLock<ffi::sqlite3_io_methods>,
}

// SAFETY: the pointer is to a file system of SQLite's, which is registered for good and is made for all threads.
unsafe impl Send for Parts {}
// SAFETY: as above; nothing here changes after it is made.
unsafe impl Sync for Parts {}

static PARTS: OnceLock<Option<Parts>> = OnceLock::new();

/// Sets the size at which temporary files opened from now on end.
pub(super) fn limit_file_bytes(max: i64) {
    FILE_BYTES_MAX.store(max, Ordering::Relaxed);
}

/// The file system's name; `None` where this SQLite lacks one of its parts.
pub(in super::super) fn file_system() -> Option<&'static CStr> {
    PARTS.get_or_init(register).as_ref().map(|_| NAME)
}

fn register() -> Option<Parts> {
    // SAFETY: SQLite returns null or file systems that stay registered; the copy of the usual one works like the original, which keeps
    // what it needs behind `pAppData`. The box is leaked because SQLite holds on to it.
    unsafe {
        let disk = ffi::sqlite3_vfs_find(ptr::null()).as_ref()?;
        let memory = ffi::sqlite3_vfs_find(c"memdb".as_ptr());
        let parts = Parts {
            disk_open: disk.xOpen?,
            memory,
            memory_open: memory.as_ref()?.xOpen?,
            methods: OnceLock::new(),
        };
        let both = Box::leak(Box::new(ffi::sqlite3_vfs {
            zName: NAME.as_ptr(),
            pNext: ptr::null_mut(),
            szOsFile: disk.szOsFile.max((*memory).szOsFile),
            xOpen: Some(open),
            ..*disk
        }));
        (ffi::sqlite3_vfs_register(both, 0) == ffi::SQLITE_OK).then_some(parts)
    }
}

/// Opens a file: a temporary one in memory, any other as ever.
unsafe extern "C" fn open(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    let Some(Some(parts)) = PARTS.get() else {
        return ffi::SQLITE_CANTOPEN;
    };
    // SAFETY: the arguments are SQLite's, for a file of `szOsFile` bytes, which is enough for either. A memory file without a name is
    // private to whoever opens it, and has a table of methods once it is open.
    unsafe {
        if flags & TEMPORARY == 0 {
            return (parts.disk_open)(vfs, name, file, flags, out_flags);
        }
        let code = (parts.memory_open)(parts.memory, ptr::null(), file, flags, out_flags);
        if code == ffi::SQLITE_OK
            && let Some(methods) = (*file).pMethods.as_ref()
        {
            let mut limit = FILE_BYTES_MAX.load(Ordering::Relaxed);
            if let Some(control) = methods.xFileControl {
                control(file, ffi::SQLITE_FCNTL_SIZE_LIMIT, (&raw mut limit).cast::<c_void>());
            }
            (*file).pMethods = parts.methods.get_or_init(|| ffi::sqlite3_io_methods {
                iVersion: 1,
                ..*methods
            });
        }
        code
    }
}
