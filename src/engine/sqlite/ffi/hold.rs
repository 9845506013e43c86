//! What a query holds of a database's file, as others feel it: whether a writer waits for a lock, how much of the write-ahead log
//! cannot be checkpointed.
//!
//! All is asked through SQLite's own file, never by opening it here: closing any descriptor of a file takes away all locks that the
//! process has of it.
#![allow(unsafe_code)] // SQLite's files are tables of C functions

#[cfg(unix)]
use std::ffi::c_short;
use std::ffi::{c_int, c_void};
use std::ptr;

use rusqlite::{Connection, ffi};

/// What is held for as long as a query has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Hold {
    /// A shared lock.
    Lock {
        /// Whether somebody has announced to write, and waits until nobody reads.
        writer_waits: bool,
    },
    /// A snapshot.
    Log {
        /// Bytes of a page in the log.
        frame_bytes: u32,
        /// Pages in the log, and how many of them have been written to the database.
        n_frames: u32,
        n_checkpointed: u32,
    },
}

/// Where a database says how it is written: 1 for a rollback journal, 2 for a write-ahead log (sqlite.org/fileformat2.html).
const WRITE_VERSION_AT: i64 = 18;

/// The byte that a writer locks so that no reader begins any more (sqlite.org/lockingv3.html).
#[cfg(unix)]
const PENDING_BYTE: libc::off_t = 0x4000_0000;

/// The first piece of the log's index, and what is where in it (sqlite.org/walformat.html).
const INDEX_BYTES: c_int = 32_768;
const PAGE_SIZE_AT: usize = 14;
const FRAMES_AT: usize = 16;
const FRAMES_COPY_AT: usize = 48 + 16;
const CHECKPOINTED_AT: usize = 96;

/// In the log, in front of each page.
const FRAME_HEADER_BYTES: u32 = 24;

/// Looks while a read transaction of the connection holds its own: `SQLITE_BUSY` where that is refused. The connection is of no use after
/// this but to be closed.
pub(in super::super) fn hold(connection: &Connection) -> rusqlite::Result<Hold> {
    // The pragma begins to read, and needs no schema.
    connection.execute_batch("BEGIN; PRAGMA schema_version")?;
    Ok(look(connection))
}

fn look(connection: &Connection) -> Hold {
    let nothing = Hold::Lock { writer_waits: false };
    let mut file: *mut ffi::sqlite3_file = ptr::null_mut();
    // SAFETY: the connection is open and used by this thread alone, and the pointer is of the type that this question wants. The file is open
    // as long as the connection is, which this function borrows. The byte is written, or the code says otherwise.
    unsafe {
        let db = connection.handle();
        let code = ffi::sqlite3_file_control(
            db,
            c"main".as_ptr(),
            ffi::SQLITE_FCNTL_FILE_POINTER,
            (&raw mut file).cast::<c_void>(),
        );
        if code != ffi::SQLITE_OK || file.is_null() {
            return nothing;
        }
        let Some(methods) = (*file).pMethods.as_ref() else {
            return nothing;
        };
        let mut version = 0_u8;
        let read = methods
            .xRead
            .map(|read| read(file, (&raw mut version).cast::<c_void>(), 1, WRITE_VERSION_AT));
        if read != Some(ffi::SQLITE_OK) || version != 2 {
            return Hold::Lock {
                writer_waits: writer_waits(db, file),
            };
        }
        log(file, methods)
    }
}

/// Nothing is in the log where its index cannot be read, or is just being written.
///
/// # Safety
/// The file is open, a database's in WAL mode, and its connection is in a read transaction: then SQLite has mapped the index, and unmaps it.
unsafe fn log(file: *mut ffi::sqlite3_file, methods: &ffi::sqlite3_io_methods) -> Hold {
    let empty = Hold::Log {
        frame_bytes: 0,
        n_frames: 0,
        n_checkpointed: 0,
    };
    let Some(map) = methods.xShmMap.filter(|_| methods.iVersion >= 2) else {
        return empty;
    };
    let mut index: *mut c_void = ptr::null_mut();
    // SAFETY: by the contract above; nothing is made larger, and where the call succeeds the pointer is null or to so many bytes.
    let code = unsafe { map(file, 0, INDEX_BYTES, 0, &raw mut index) };
    if code != ffi::SQLITE_OK || index.is_null() {
        return empty;
    }
    // SAFETY: each is aligned and inside the index, which stays mapped while the connection lives. Other processes write to it.
    let (page_size, n_frames, n_frames_copy, n_checkpointed) = unsafe {
        (
            index.byte_add(PAGE_SIZE_AT).cast::<u16>().read_volatile(),
            index.byte_add(FRAMES_AT).cast::<u32>().read_volatile(),
            index.byte_add(FRAMES_COPY_AT).cast::<u32>().read_volatile(),
            index.byte_add(CHECKPOINTED_AT).cast::<u32>().read_volatile(),
        )
    };
    let page_bytes = if page_size == 1 { 65_536 } else { u32::from(page_size) };
    if n_frames != n_frames_copy {
        return empty;
    }
    Hold::Log {
        frame_bytes: FRAME_HEADER_BYTES + page_bytes,
        n_frames,
        n_checkpointed,
    }
}

/// Whether another process has the byte that announces a writer. One of this process is announced in SQLite, which then refuses to read.
///
/// # Safety
/// The file is that of the connection, which is open and used by this thread alone.
#[cfg(unix)]
unsafe fn writer_waits(db: *mut ffi::sqlite3, file: *mut ffi::sqlite3_file) -> bool {
    // SAFETY: by the contract above. Of a lock, any bytes are a value, and the kernel writes to nothing else.
    unsafe {
        let Some(descriptor) = descriptor(db, file) else {
            return false;
        };
        let mut lock: libc::flock = std::mem::zeroed();
        lock.l_type = libc::F_RDLCK as c_short;
        lock.l_whence = libc::SEEK_SET as c_short;
        lock.l_start = PENDING_BYTE;
        lock.l_len = 1;
        libc::fcntl(descriptor, libc::F_GETLK, &raw mut lock) == 0 && lock.l_type != libc::F_UNLCK as c_short
    }
}

/// Elsewhere SQLite refuses to read whichever process has announced it.
///
/// # Safety
/// None is needed.
#[cfg(not(unix))]
unsafe fn writer_waits(_: *mut ffi::sqlite3, _: *mut ffi::sqlite3_file) -> bool {
    false
}

/// The file's descriptor, which SQLite tells nobody: it stands behind three pointers. Whatever is found there is used only if it is a
/// descriptor of the file that the path leads to.
///
/// # Safety
/// As [`writer_waits`].
#[cfg(unix)]
unsafe fn descriptor(db: *mut ffi::sqlite3, file: *mut ffi::sqlite3_file) -> Option<c_int> {
    const BEFORE: usize = 3 * size_of::<*const c_void>();
    // SAFETY: by the contract above. The verb writes a pointer to the place that it is given; what the file system says of its files' size is
    // so, and they are aligned for pointers. A number that is no descriptor is refused by the kernel, as is a path that leads nowhere. Of what
    // they fill in, any bytes are a value.
    unsafe {
        let mut file_system: *mut ffi::sqlite3_vfs = ptr::null_mut();
        let place = (&raw mut file_system).cast::<c_void>();
        ffi::sqlite3_file_control(db, c"main".as_ptr(), ffi::SQLITE_FCNTL_VFS_POINTER, place);
        let bytes = usize::try_from(file_system.as_ref()?.szOsFile).ok()?;
        let path = ffi::sqlite3_db_filename(db, c"main".as_ptr());
        if path.is_null() || bytes < BEFORE + size_of::<c_int>() {
            return None;
        }
        let descriptor = file.byte_add(BEFORE).cast::<c_int>().read();
        let (mut found, mut expected): (libc::stat, libc::stat) = (std::mem::zeroed(), std::mem::zeroed());
        let known = libc::fstat(descriptor, &raw mut found) == 0 && libc::stat(path, &raw mut expected) == 0;
        let is_same = found.st_dev == expected.st_dev && found.st_ino == expected.st_ino;
        (known && is_same).then_some(descriptor)
    }
}
