//! Files whose every access looks at the [pulse] first: the write-ahead log and temporary files.
//!
//! One operation of a sort reads and writes millions of records; it ends at the next access once the query is to stop. The database's own file
//! looks for itself, see [`main_file`](super::main_file).
#![allow(unsafe_code)] // SQLite's file system is a table of C functions

use std::ffi::{c_int, c_void};
use std::mem::{align_of, size_of};

use rusqlite::ffi;

use super::pulse;

type Read = unsafe extern "C" fn(*mut ffi::sqlite3_file, *mut c_void, c_int, ffi::sqlite3_int64) -> c_int;
type Write = unsafe extern "C" fn(*mut ffi::sqlite3_file, *const c_void, c_int, ffi::sqlite3_int64) -> c_int;

/// Behind each file: its own methods, but for `xRead` and `xWrite`. SQLite sees the first field.
#[repr(C)]
struct Looks {
    methods: ffi::sqlite3_io_methods,
    read: Read,
    write: Write,
    is_temporary: bool,
}

/// How many bytes a file takes whose file system takes `usual` of them.
pub(super) fn file_bytes(usual: c_int) -> c_int {
    let align = align_of::<Looks>() as c_int;
    (usual + align - 1) / align * align + size_of::<Looks>() as c_int
}

/// Has each access to `file` look first from now on.
///
/// # Safety
/// `file` was just opened and is of `bytes` bytes, a multiple of 8 that is at least the [`file_bytes`] of its file system, aligned as SQLite
/// aligns what it allocates.
pub(super) unsafe fn begin(file: *mut ffi::sqlite3_file, bytes: c_int, is_temporary: bool) {
    let at = usize::try_from(bytes).unwrap_or(0).saturating_sub(size_of::<Looks>());
    // SAFETY: by the contract above, what is at `at` is aligned, belongs to this file and is not used by its file system. It lives until SQLite
    // has closed the file, and needs no drop.
    unsafe {
        let Some(methods) = (*file).pMethods.as_ref() else {
            return;
        };
        let (Some(usual_read), Some(usual_write)) = (methods.xRead, methods.xWrite) else {
            return;
        };
        let behind = file.byte_add(at).cast::<Looks>();
        behind.write(Looks {
            methods: ffi::sqlite3_io_methods {
                xRead: Some(read),
                xWrite: Some(write),
                ..*methods
            },
            read: usual_read,
            write: usual_write,
            is_temporary,
        });
        (*file).pMethods = behind.cast();
    }
}

unsafe extern "C" fn read(
    file: *mut ffi::sqlite3_file,
    buffer: *mut c_void,
    len: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: only files that `begin` has seen have this method, so their methods are the first field of what it has written. The arguments are
    // SQLite's.
    unsafe {
        let behind = (*file).pMethods.cast::<Looks>();
        let stops = if (*behind).is_temporary {
            pulse::stops_temporary()
        } else {
            pulse::stops_read()
        };
        if stops {
            return ffi::SQLITE_INTERRUPT;
        }
        ((*behind).read)(file, buffer, len, offset)
    }
}

unsafe extern "C" fn write(
    file: *mut ffi::sqlite3_file,
    buffer: *const c_void,
    len: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: as in `read`.
    unsafe {
        let behind = (*file).pMethods.cast::<Looks>();
        // Nothing but temporary files is written by those who only read.
        if (*behind).is_temporary && pulse::stops_temporary() {
            return ffi::SQLITE_INTERRUPT;
        }
        ((*behind).write)(file, buffer, len, offset)
    }
}
