//! The index of a write-ahead log, as connections share it in memory (sqlite.org/walformat.html, section 2): how far the log goes, and how
//! far checkpoints have come.
#![allow(unsafe_code)] // memory that other processes write to

use std::ffi::{c_int, c_void};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use rusqlite::ffi;

use super::super::watch::Log;

/// The numbers of 32 bits that are read here, by their place in the index: `mxFrame`, `aSalt`, `nBackfill`, `nBackfillAttempted`.
const FRAMES: usize = 16 / 4;
const SALTS: [usize; 2] = [32 / 4, 36 / 4];
const COPIED: usize = 96 / 4;
const BEGUN: usize = 128 / 4;
/// How much of the index has to be there for that, in bytes.
const BYTES_MIN: c_int = 136;

/// The read locks among those of the shared memory; the first one is that of readers that need nothing of the log.
const READ_LOCK_0: c_int = 3;

/// Which read lock a lock of the shared memory is.
pub(super) fn read_lock(offset: c_int) -> Option<c_int> {
    (READ_LOCK_0..ffi::SQLITE_SHM_NLOCK)
        .contains(&offset)
        .then(|| offset - READ_LOCK_0)
}

/// The beginning of the index.
#[derive(Clone, Copy)]
pub(super) struct Index(NonNull<AtomicU32>);

impl Index {
    /// # Safety
    /// `start` is null, or points to memory that is shared with the index's other readers, is of `bytes` bytes, and stays mapped as long as this
    /// value or a copy of it is used.
    pub(super) unsafe fn new(start: *mut c_void, bytes: c_int) -> Option<Self> {
        NonNull::new(start.cast::<AtomicU32>())
            .filter(|start| bytes >= BYTES_MIN && start.is_aligned())
            .map(Self)
    }

    pub(super) fn read(self) -> Log {
        // SAFETY: by the contract of `new`, and all places are within `BYTES_MIN`. Others write to them at any time, which atomics allow.
        let at = |place: usize| unsafe { self.0.add(place).as_ref().load(Ordering::SeqCst) };
        Log {
            salts: SALTS.map(at),
            frames: at(FRAMES),
            copied: at(COPIED),
            begun: at(BEGUN),
        }
    }
}

/// Does `look` while no checkpoint can write to the file; `None` where one is doing so.
///
/// # Safety
/// `file` is open with these methods and used by this thread alone, and does not hold read lock 0.
pub(super) unsafe fn between_checkpoints<T>(
    file: *mut ffi::sqlite3_file,
    methods: &ffi::sqlite3_io_methods,
    look: impl FnOnce() -> T,
) -> Option<T> {
    let lock = methods.xShmLock?;
    // SAFETY: by the contract above; the lock that is taken is given back.
    unsafe {
        let taken = lock(file, READ_LOCK_0, 1, ffi::SQLITE_SHM_LOCK | ffi::SQLITE_SHM_SHARED);
        if taken != ffi::SQLITE_OK {
            return None;
        }
        let looked = look();
        lock(file, READ_LOCK_0, 1, ffi::SQLITE_SHM_UNLOCK | ffi::SQLITE_SHM_SHARED);
        Some(looked)
    }
}
