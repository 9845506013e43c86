//! The database's own file as SQLite opens it here: a page is there in whole or is an error, see [`whole_pages`], and what is read in one
//! transaction is of one version of the file, see [`watch`](super::super::watch).
//!
//! Each such file has its own table of methods behind what its file system keeps of it. Locks are where transactions begin and end, so that is
//! where the file is looked at; between two batches it is looked at when the engine asks.
#![allow(unsafe_code)] // SQLite's file system is a table of C functions

use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::{align_of, size_of};
use std::path::Path;
use std::ptr;
use std::sync::Arc;

use rusqlite::ffi;

use super::super::stamp::{FileHandle, FileTime, Stamp};
use super::super::watch::{Lock, Log, LogMemory, Look, Memory, Verdict, Watch};
use super::{pulse, whole_pages, write_ahead};

/// Most waits of a millisecond for the file system's clock to move on: enough for one that counts in whole seconds.
const CLOCK_WAITS_MAX: usize = 2_100;

/// How often a path may lead to another file while it is opened.
const OPEN_ATTEMPTS: usize = 5;

/// The query that waits was cancelled, or has reached its deadline.
struct Stopped;

pub(super) type Open =
    unsafe extern "C" fn(*mut ffi::sqlite3_vfs, *const c_char, *mut ffi::sqlite3_file, c_int, *mut c_int) -> c_int;

/// Behind each file. SQLite sees the first field.
#[repr(C)]
pub(super) struct MainFile {
    methods: ffi::sqlite3_io_methods,
    /// Those of its file system.
    usual: &'static ffi::sqlite3_io_methods,
    /// The file that this is behind.
    file: *mut ffi::sqlite3_file,
    handle: Arc<FileHandle>,
    watch: Watch,
    /// Of the write-ahead log, once it is open.
    index: Option<write_ahead::Index>,
    /// What the other connections of the pool know of the log.
    logs: Arc<LogMemory>,
}

/// How many bytes a file takes whose file system takes `usual` of them.
pub(super) fn file_bytes(usual: c_int) -> c_int {
    let align = align_of::<MainFile>() as c_int;
    (usual + align - 1) / align * align + size_of::<MainFile>() as c_int
}

/// Opens the file with `open`, its file system's own function, and watches it from then on.
///
/// # Safety
/// The arguments are those that SQLite calls `open` with; the file is of [`file_bytes`], as `vfs` says too.
pub(super) unsafe fn open_with(
    open: Open,
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: by the contract above. `name` is null or ends with NUL, as SQLite passes it. A file that is open has methods, which a file system
    // keeps for good.
    unsafe {
        if name.is_null() {
            return open(vfs, name, file, flags, out_flags);
        }
        let path = path_of(CStr::from_ptr(name));
        for _ in 0..OPEN_ATTEMPTS {
            // What cannot be looked at, SQLite cannot open either, and says why.
            let handle = FileHandle::open(path).ok();
            let code = open(vfs, name, file, flags, out_flags);
            if code != ffi::SQLITE_OK {
                return code;
            }
            let Some(usual) = (*file).pMethods.as_ref() else {
                return ffi::SQLITE_CANTOPEN;
            };
            // The file that is open is the one that the handle is of, for the path led there before and after.
            match handle {
                Some(handle) if !handle.has_moved() => {
                    let immutable = ffi::sqlite3_uri_boolean(name, c"immutable".as_ptr(), 0) != 0;
                    if wrap(file, (*vfs).szOsFile, usual, handle).begin_if(immutable) == ffi::SQLITE_OK {
                        return ffi::SQLITE_OK;
                    }
                    close(file);
                }
                _ => {
                    close_usual(file, usual);
                }
            }
            (*file).pMethods = ptr::null();
        }
    }
    ffi::SQLITE_CANTOPEN
}

/// # Safety
/// `file` was just opened, is of `bytes` bytes, which are of [`file_bytes`], and `usual` are its methods.
unsafe fn wrap<'a>(
    file: *mut ffi::sqlite3_file,
    bytes: c_int,
    usual: &'static ffi::sqlite3_io_methods,
    handle: Arc<FileHandle>,
) -> &'a mut MainFile {
    let at = usize::try_from(bytes)
        .unwrap_or(0)
        .saturating_sub(size_of::<MainFile>());
    // SAFETY: by the contract above, what is at `at` is aligned as SQLite aligns what it allocates, belongs to this file and is not used by its
    // file system. It is dropped when SQLite closes the file.
    unsafe {
        let behind = file.byte_add(at).cast::<MainFile>();
        behind.write(MainFile {
            methods: ffi::sqlite3_io_methods {
                xClose: Some(close),
                xRead: usual.xRead.map(|_| read as _),
                xLock: usual.xLock.map(|_| lock as _),
                xUnlock: usual.xUnlock.map(|_| unlock as _),
                xShmMap: usual.xShmMap.map(|_| map_index as _),
                xShmLock: usual.xShmLock.map(|_| lock_index as _),
                xShmUnmap: usual.xShmUnmap.map(|_| unmap_index as _),
                ..*usual
            },
            usual,
            file,
            handle,
            watch: Watch::default(),
            index: None,
            logs: Arc::default(),
        });
        (*file).pMethods = behind.cast();
        &mut *behind
    }
}

#[cfg(unix)]
fn path_of(name: &CStr) -> &Path {
    use std::os::unix::ffi::OsStrExt;

    Path::new(std::ffi::OsStr::from_bytes(name.to_bytes()))
}

#[cfg(not(unix))]
fn path_of(name: &CStr) -> &Path {
    Path::new(name.to_str().unwrap_or_default())
}

/// The clock that the file system takes its times from.
#[cfg(unix)]
fn file_clock() -> FileTime {
    // Linux writes the time of the last tick, not the present one.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    const CLOCK: libc::clockid_t = libc::CLOCK_REALTIME_COARSE;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    const CLOCK: libc::clockid_t = libc::CLOCK_REALTIME;
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a value of the type that is asked for.
    unsafe { libc::clock_gettime(CLOCK, &raw mut now) };
    #[allow(clippy::useless_conversion)] // not on every system
    (i64::from(now.tv_sec), i64::from(now.tv_nsec))
}

#[cfg(not(unix))]
fn file_clock() -> FileTime {
    (i64::MAX, 0)
}

impl MainFile {
    /// The file of an open connection, if it was opened here.
    ///
    /// # Safety
    /// The connection is open, and no call on it is under way. The pointer is good until it is closed.
    pub(super) unsafe fn of(db: *mut ffi::sqlite3) -> Option<ptr::NonNull<Self>> {
        let mut file: *mut ffi::sqlite3_file = ptr::null_mut();
        // SAFETY: by the contract above; the verb writes a pointer to the place that it is given. Only files of this module close with `close`.
        unsafe {
            let place = (&raw mut file).cast::<c_void>();
            ffi::sqlite3_file_control(db, c"main".as_ptr(), ffi::SQLITE_FCNTL_FILE_POINTER, place);
            let methods = file.as_ref()?.pMethods;
            let closes = methods.as_ref()?.xClose?;
            ptr::fn_addr_eq(closes, close as unsafe extern "C" fn(*mut ffi::sqlite3_file) -> c_int)
                .then(|| ptr::NonNull::new(methods.cast_mut().cast::<Self>()))?
        }
    }

    pub(super) fn share_logs(&mut self, logs: Arc<LogMemory>) {
        self.logs = logs;
    }

    pub(super) fn reads_nothing(&self) -> bool {
        self.watch.cached().is_some_and(|stamp| stamp.is_empty())
    }

    /// The file's lock is never taken where nobody may ever write.
    ///
    /// # Safety
    /// As [`is_overwritten`](Self::is_overwritten).
    unsafe fn begin_if(&mut self, immutable: bool) -> c_int {
        if !immutable {
            return ffi::SQLITE_OK;
        }
        // SAFETY: by the contract of this function.
        unsafe { self.begin(Lock::File) }
    }

    /// A read transaction has its lock. `SQLITE_OK` if it may go on.
    ///
    /// # Safety
    /// As [`is_overwritten`](Self::is_overwritten).
    unsafe fn begin(&mut self, lock: Lock) -> c_int {
        // Before the stamp: a checkpoint in between then shows in the log's numbers later.
        let log = self.index.map(write_ahead::Index::read);
        let is_foreign = |log: Log| self.logs.is_foreign(log.salts, |file| self.handle.is_of(file));
        if lock == Lock::Log && log.is_some_and(is_foreign) {
            return self.refuse(Verdict::ForeignLog);
        }
        let Ok(mut stamp) = self.handle.stamp() else {
            return self.refuse(Verdict::Overwritten);
        };
        if self.watch.cached().is_none() {
            stamp = match self.settled(stamp, lock) {
                Ok(Some(settled)) => settled,
                Ok(None) => return self.refuse(Verdict::Overwritten),
                Err(Stopped) => return ffi::SQLITE_INTERRUPT,
            };
        } else if !self.watch.may_use_cache(&stamp, || self.handle.has_moved()) {
            // Whoever opens the file next is told whether the log belongs to it.
            // SAFETY: by the contract above.
            let _stale_anyway = unsafe { self.is_overwritten() };
            return self.refuse(Verdict::Stale);
        }
        self.watch.begin(lock, Look { stamp, log });
        ffi::SQLITE_OK
    }

    fn refuse(&mut self, verdict: Verdict) -> c_int {
        self.watch.condemn(verdict);
        ffi::SQLITE_IOERR_LOCK
    }

    /// The stamp once the next write cannot leave it as it is, which takes a tick of a clock where the file was written to just now. `None` where
    /// it is being written to although nobody may.
    fn settled(&self, stamp: Stamp, lock: Lock) -> Result<Option<Stamp>, Stopped> {
        let mut n_waits = 0;
        while stamp.is_racy(file_clock()) && n_waits < CLOCK_WAITS_MAX {
            if pulse::stops() {
                return Err(Stopped);
            }
            // SAFETY: takes any number of milliseconds.
            unsafe { ffi::sqlite3_sleep(1) };
            n_waits += 1;
        }
        if n_waits == 0 {
            return Ok(Some(stamp));
        }
        let Ok(later) = self.handle.stamp() else {
            return Ok(None);
        };
        let unchanged = !stamp.contents_differ(&later, || self.handle.has_moved());
        Ok((unchanged || lock == Lock::Log).then_some(later))
    }

    /// The read transaction under way, if there is one, ends.
    ///
    /// # Safety
    /// As [`is_overwritten`](Self::is_overwritten).
    unsafe fn end(&mut self) {
        // SAFETY: by the contract above.
        unsafe { self.verdict() };
        self.watch.end();
    }

    /// Whether something else than SQLite has written to the file since the last look.
    ///
    /// # Safety
    /// The file is open, and no other thread uses it.
    unsafe fn is_overwritten(&mut self) -> bool {
        let Ok(stamp) = self.handle.stamp() else {
            return true;
        };
        if self.watch.is_as_seen(&stamp, || self.handle.has_moved()) {
            return false;
        }
        // SAFETY: by the contract above.
        let look = unsafe { self.look_at_both(stamp) };
        let before = self.watch.seen_stamp();
        let foreign = self.watch.is_foreign(look);
        // The query is not to go on in either case. The log is refused for good, so a changed attribute or a checkpoint that has not come
        // to its end is not enough.
        let is_another =
            |log: &Log| log.copied == log.begun && before.is_some_and(|before| before.was_rewritten(&look.stamp));
        if let Some(log) = look.log.filter(is_another).filter(|_| foreign) {
            self.logs.set_foreign(log, None);
        }
        foreign
    }

    /// # Safety
    /// As [`is_overwritten`](Self::is_overwritten).
    unsafe fn look_at_both(&self, stamp: Stamp) -> Look {
        let Some(index) = self.index else {
            return Look { stamp, log: None };
        };
        if self.watch.lock() == Some(Lock::File) {
            let log = Some(index.read());
            return Look { stamp, log };
        }
        // SAFETY: by the contract above; a transaction that holds read lock 0 has `Lock::File`.
        let looked = unsafe {
            write_ahead::between_checkpoints(self.file, self.usual, || Look {
                stamp: self.handle.stamp().unwrap_or(stamp),
                log: Some(index.read()),
            })
        };
        looked.unwrap_or(Look { stamp, log: None })
    }

    /// What is known, up to now, of the pages that the connection has read.
    ///
    /// # Safety
    /// As [`is_overwritten`](Self::is_overwritten).
    pub(super) unsafe fn verdict(&mut self) -> Verdict {
        // SAFETY: by the contract above.
        if self.watch.lock().is_some() && unsafe { self.is_overwritten() } {
            self.watch.condemn(Verdict::Overwritten);
        }
        self.watch.verdict()
    }

    /// Whether what the connection, which rests, remembers is right for the file that is `there` now.
    ///
    /// # Safety
    /// As [`is_overwritten`](Self::is_overwritten).
    pub(super) unsafe fn memory_of(&mut self, there: &Stamp) -> Memory {
        if !self.handle.is_of(there) {
            // The log was written for a file that is there no more.
            if let Some(index) = self.index {
                self.logs.set_foreign(index.read(), self.handle.stamp().ok());
            }
            return Memory::OfAnotherFile;
        }
        if self.watch.cached().is_none() || self.watch.may_use_cache(there, || false) {
            return Memory::Right;
        }
        // SAFETY: by the contract above.
        let _outdated_anyway = unsafe { self.is_overwritten() };
        Memory::Outdated
    }
}

/// # Safety
/// `file` is open, with the methods that `wrap` has given it.
unsafe fn behind<'a>(file: *mut ffi::sqlite3_file) -> &'a mut MainFile {
    // SAFETY: by the contract above the methods are the first field of what `wrap` has written. SQLite calls one method of a file at a time.
    unsafe { &mut *(*file).pMethods.cast_mut().cast() }
}

/// # Safety
/// `file` is open, and `usual` are its file system's methods.
unsafe fn close_usual(file: *mut ffi::sqlite3_file, usual: &ffi::sqlite3_io_methods) -> c_int {
    // SAFETY: by the contract above.
    usual.xClose.map_or(ffi::SQLITE_OK, |close| unsafe { close(file) })
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: only files that `wrap` has seen have this method, as all below; it is the last that is called.
    unsafe {
        let main_file: *mut MainFile = behind(file);
        let code = close_usual(file, (*main_file).usual);
        main_file.drop_in_place();
        code
    }
}

unsafe extern "C" fn read(
    file: *mut ffi::sqlite3_file,
    buffer: *mut c_void,
    len: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    if pulse::stops_read() {
        return ffi::SQLITE_INTERRUPT;
    }
    // SAFETY: as in `close`. The buffer is of `len` bytes, all of them written after a short read: with zeros from where the file ends.
    unsafe {
        let Some(usual) = behind(file).usual.xRead else {
            return ffi::SQLITE_IOERR_READ;
        };
        let code = usual(file, buffer, len, offset);
        if code == ffi::SQLITE_IOERR_SHORT_READ {
            let read = std::slice::from_raw_parts(buffer.cast(), usize::try_from(len).unwrap_or(0));
            if whole_pages::would_be_taken(read, offset) {
                return ffi::SQLITE_IOERR_READ;
            }
        }
        code
    }
}

/// With a rollback journal, a read transaction begins with the shared lock. With a write-ahead log, a connection does: it reads the first page to
/// learn that there is a log, and takes its read lock then.
unsafe extern "C" fn lock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    // SAFETY: as in `close`.
    unsafe {
        let usual = behind(file).usual;
        let Some(lock) = usual.xLock else {
            return ffi::SQLITE_IOERR_LOCK;
        };
        let code = lock(file, level);
        if code != ffi::SQLITE_OK || level != ffi::SQLITE_LOCK_SHARED {
            return code;
        }
        let held = if has_log(file, usual) { Lock::Log } else { Lock::File };
        let begun = behind(file).begin(held);
        if begun != ffi::SQLITE_OK {
            usual.xUnlock.map(|unlock| unlock(file, ffi::SQLITE_LOCK_NONE));
        }
        begun
    }
}

/// Whether the header says that the database has a write-ahead log.
///
/// # Safety
/// `file` is open, and `usual` are its file system's methods.
unsafe fn has_log(file: *mut ffi::sqlite3_file, usual: &ffi::sqlite3_io_methods) -> bool {
    /// The version that readers go by: 2 stands for a log.
    const READ_VERSION_AT: ffi::sqlite3_int64 = 19;
    let mut version = 0_u8;
    // SAFETY: by the contract above; one byte is asked for, and there is room for it.
    let code = usual
        .xRead
        .map(|read| unsafe { read(file, (&raw mut version).cast(), 1, READ_VERSION_AT) });
    code == Some(ffi::SQLITE_OK) && version == 2
}

/// It ends when the lock is given back: the last moment at which nobody may have written.
unsafe extern "C" fn unlock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    // SAFETY: as in `close`.
    unsafe {
        let main_file = behind(file);
        if level == ffi::SQLITE_LOCK_NONE {
            main_file.end();
        }
        let unlock = main_file.usual.xUnlock;
        unlock.map_or(ffi::SQLITE_IOERR_UNLOCK, |unlock| unlock(file, level))
    }
}

/// The log is opened with the first piece of its index. What was read before that is read again.
unsafe extern "C" fn map_index(
    file: *mut ffi::sqlite3_file,
    piece: c_int,
    bytes: c_int,
    extend: c_int,
    start: *mut *mut c_void,
) -> c_int {
    // SAFETY: as in `close`. SQLite passes a place for the piece's address, which is written whatever comes of it; the piece stays mapped until
    // `unmap_index`.
    unsafe {
        let main_file = behind(file);
        let Some(map) = main_file.usual.xShmMap else {
            return ffi::SQLITE_IOERR_SHMMAP;
        };
        let code = map(file, piece, bytes, extend, start);
        if piece == 0
            && let Some(index) = write_ahead::Index::new(*start, bytes)
        {
            if main_file.index.is_none() {
                main_file.watch.forget();
                main_file.logs.set_opened();
            }
            main_file.index = Some(index);
        }
        code
    }
}

unsafe extern "C" fn unmap_index(file: *mut ffi::sqlite3_file, delete: c_int) -> c_int {
    // SAFETY: as in `close`.
    unsafe {
        let main_file = behind(file);
        main_file.index = None;
        let unmap = main_file.usual.xShmUnmap;
        unmap.map_or(ffi::SQLITE_OK, |unmap| unmap(file, delete))
    }
}

/// With a write-ahead log, a read transaction begins and ends with a read lock.
unsafe extern "C" fn lock_index(file: *mut ffi::sqlite3_file, offset: c_int, n: c_int, flags: c_int) -> c_int {
    const LOCK: c_int = ffi::SQLITE_SHM_LOCK | ffi::SQLITE_SHM_SHARED;
    const UNLOCK: c_int = ffi::SQLITE_SHM_UNLOCK | ffi::SQLITE_SHM_SHARED;
    // SAFETY: as in `close`.
    unsafe {
        let main_file = behind(file);
        let Some(lock) = main_file.usual.xShmLock else {
            return ffi::SQLITE_IOERR_SHMLOCK;
        };
        let read_lock = write_ahead::read_lock(offset);
        if read_lock.is_some() && flags == UNLOCK {
            main_file.end();
        }
        let code = lock(file, offset, n, flags);
        if code != ffi::SQLITE_OK || flags != LOCK {
            return code;
        }
        let begun = match read_lock {
            Some(0) => behind(file).begin(Lock::File),
            Some(_) => behind(file).begin(Lock::Log),
            None => ffi::SQLITE_OK,
        };
        if begun != ffi::SQLITE_OK {
            lock(file, offset, n, UNLOCK);
        }
        begun
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_behind_a_file_is_aligned() {
        for usual in [1, 8, 119, 120, 121] {
            let at = file_bytes(usual) - size_of::<MainFile>() as c_int;
            assert!(at >= usual && at < usual + 8 && at % align_of::<MainFile>() as c_int == 0);
            assert_eq!(file_bytes(usual) % 8, 0);
        }
    }
}
