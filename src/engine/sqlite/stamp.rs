//! What the metadata of a file say about its contents, and a handle that asks for them without touching the file's locks.
//!
//! Must not know SQLite.

use std::fs::{self, File, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

/// Seconds and nanoseconds since 1970, by the clock of the file system.
pub(super) type FileTime = (i64, i64);

/// How far apart two writes may be and leave the same time, on a file system that keeps whole seconds (FAT: every second one).
const WHOLE_SECONDS: i128 = 2_000_000_000;

/// A file's times are at most so far ahead of the clock that makes them; what is further ahead is a clock that was set back.
const AHEAD_MAX: i128 = 1_000_000_000;

/// Changes whenever the contents of the file do, unless two writes fall into one tick of the file system's clock, see
/// [`is_racy`](Self::is_racy).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: FileTime,
    /// Unlike `modified`, no program can set this: it tells of a copy that keeps the time of its source.
    changed: FileTime,
    /// Mode, owner, group and links, which move `changed` too.
    attributes: (u32, u32, u32, u64),
}

impl Stamp {
    #[cfg(unix)]
    pub(super) fn of(metadata: &Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;

        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            attributes: (metadata.mode(), metadata.uid(), metadata.gid(), metadata.nlink()),
        }
    }

    #[cfg(not(unix))]
    pub(super) fn of(metadata: &Metadata) -> Self {
        let since_1970 = |time: io::Result<_>| time.ok()?.duration_since(std::time::UNIX_EPOCH).ok();
        let modified = since_1970(metadata.modified()).map_or((0, 0), |time| {
            (
                i64::try_from(time.as_secs()).unwrap_or(0),
                i64::from(time.subsec_nanos()),
            )
        });
        Self {
            device: 0,
            inode: 0,
            bytes: metadata.len(),
            modified,
            changed: modified,
            attributes: (0, 0, 0, 0),
        }
    }

    #[cfg(test)]
    pub(super) fn modified_at(seconds: i64) -> Self {
        Self {
            device: 1,
            inode: 2,
            bytes: 4096,
            modified: (seconds, 5),
            changed: (seconds, 5),
            attributes: (0o644, 0, 0, 1),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    pub(super) fn is_same_file(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }

    /// Whether the file was written to between this stamp and a `later` one of the same file. `has_moved` is asked where only the time
    /// of the last change differs, which a renaming moves too.
    pub(super) fn contents_differ(&self, later: &Self, has_moved: impl FnOnce() -> bool) -> bool {
        if self.was_rewritten(later) {
            return true;
        }
        self.changed != later.changed && self.attributes == later.attributes && !has_moved()
    }

    /// Whether a `later` stamp of the same file can only be that of other contents. The time of the last change alone moves with an attribute too.
    pub(super) fn was_rewritten(&self, later: &Self) -> bool {
        (self.bytes, self.modified) != (later.bytes, later.modified)
    }

    /// Whether a write at `now` could leave this stamp as it is. `now` is the present reading of the clock that the file system takes
    /// its times from: as long as it has not moved on since the last write, the next one gets the same time.
    pub(super) fn is_racy(&self, now: FileTime) -> bool {
        let nanoseconds = |(seconds, rest): FileTime| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        let granularity = if self.changed.1 == 0 { WHOLE_SECONDS } else { 0 };
        let age = nanoseconds(now) - nanoseconds(self.changed);
        age <= granularity && age > -AHEAD_MAX
    }
}

/// A file that a path led to, whatever the path leads to now.
///
/// Opening a database's file a second time to ask for its metadata would be a fault: when that descriptor is closed, the locks of the
/// whole process on the file are gone (POSIX). On Linux this is a descriptor that does not open the file (`O_PATH`), which has no part in
/// locks. Elsewhere it is the path alone: a file that is overwritten and then replaced by renaming, both under one query, is not noticed
/// there.
#[derive(Debug)]
pub(super) struct FileHandle {
    path: PathBuf,
    opened: Stamp,
    #[cfg(any(target_os = "linux", target_os = "android"))]
    file: File,
}

/// One handle for each file, however many connections read it.
static HANDLES: Mutex<Vec<Weak<FileHandle>>> = Mutex::new(Vec::new());

impl FileHandle {
    /// The handle of the file that `path` leads to.
    pub(super) fn open(path: &Path) -> io::Result<Arc<Self>> {
        let there = Stamp::of(&fs::metadata(path)?);
        let known = find(&HANDLES.lock(), path, &there);
        if let Some(known) = known {
            return Ok(known);
        }
        let opened = Arc::new(Self::new(path)?);
        let mut handles = HANDLES.lock();
        // Another thread may have been faster; of the two handles the later one is closed.
        if let Some(known) = find(&handles, path, &opened.opened) {
            return Ok(known);
        }
        handles.retain(|handle| handle.strong_count() > 0);
        handles.push(Arc::downgrade(&opened));
        Ok(opened)
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn new(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::OpenOptionsExt;

        let file = File::options().read(true).custom_flags(libc::O_PATH).open(path)?;
        Ok(Self {
            path: path.to_owned(),
            opened: Stamp::of(&file.metadata()?),
            file,
        })
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn new(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            opened: Stamp::of(&fs::metadata(path)?),
        })
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub(super) fn stamp(&self) -> io::Result<Stamp> {
        Ok(Stamp::of(&self.file.metadata()?))
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    pub(super) fn stamp(&self) -> io::Result<Stamp> {
        match fs::metadata(&self.path).map(|metadata| Stamp::of(&metadata)) {
            Ok(stamp) if stamp.is_same_file(&self.opened) => Ok(stamp),
            _ => Ok(self.opened),
        }
    }

    pub(super) fn is_of(&self, stamp: &Stamp) -> bool {
        self.opened.is_same_file(stamp)
    }

    /// Whether the path leads elsewhere by now, or nowhere.
    pub(super) fn has_moved(&self) -> bool {
        fs::metadata(&self.path).map_or(true, |metadata| !Stamp::of(&metadata).is_same_file(&self.opened))
    }
}

fn find(handles: &[Weak<FileHandle>], path: &Path, there: &Stamp) -> Option<Arc<FileHandle>> {
    let mut alive = handles.iter().filter_map(Weak::upgrade);
    alive.find(|handle| handle.path == path && handle.is_of(there))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A copy that keeps the time of its source, at 200 seconds.
    fn stamp() -> Stamp {
        Stamp {
            changed: (200, 5),
            ..Stamp::modified_at(100)
        }
    }

    #[test]
    fn what_changes_contents_shows_and_what_does_not_is_told_apart() {
        let differ = |later: Stamp, moved| stamp().contents_differ(&later, || moved);
        assert!(!differ(stamp(), false));
        assert!(differ(Stamp { bytes: 8192, ..stamp() }, true));
        assert!(differ(
            Stamp {
                modified: (101, 5),
                ..stamp()
            },
            true
        ));
        // Overwritten by a copy that has kept the time of its source.
        let touched = Stamp {
            changed: (201, 5),
            ..stamp()
        };
        assert!(differ(touched, false));
        // Renamed; removed, or another file renamed over it; made readable for others.
        assert!(!differ(touched, true));
        for attributes in [(0o644, 0, 0, 0), (0o640, 0, 0, 1)] {
            assert!(!differ(Stamp { attributes, ..touched }, false));
        }
    }

    #[test]
    fn a_stamp_is_racy_until_the_clock_has_moved_on() {
        assert!(stamp().is_racy((200, 5)));
        // A file system may be finer than the clock that is looked at.
        assert!(stamp().is_racy((200, 4)) && stamp().is_racy((199, 999_999_999)));
        assert!(!stamp().is_racy((200, 6)) && !stamp().is_racy((500, 0)));
        // The clock was set back: the next write gets another time.
        assert!(!stamp().is_racy((198, 0)));
        let whole_seconds = Stamp {
            changed: (200, 0),
            ..stamp()
        };
        assert!(whole_seconds.is_racy((201, 999_999_999)) && whole_seconds.is_racy((202, 0)));
        assert!(!whole_seconds.is_racy((202, 1)));
    }

    #[test]
    fn one_file_has_one_handle_and_it_stays_with_its_file() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let path = folder.path().join("a");
        fs::write(&path, "one").expect("a file");
        let handle = FileHandle::open(&path).expect("it is there");
        assert!(Arc::ptr_eq(&handle, &FileHandle::open(&path).expect("it is there")));
        let before = handle.stamp().expect("it is there");
        assert!(!handle.has_moved());
        fs::rename(&path, folder.path().join("b")).expect("it can be renamed");
        fs::write(&path, "two").expect("a file");
        assert!(handle.has_moved());
        let after = handle.stamp().expect("it is still there");
        assert!(after.is_same_file(&before) && !before.contents_differ(&after, || true));
        let other = FileHandle::open(&path).expect("it is there");
        assert!(!other.stamp().expect("it is there").is_same_file(&before));
    }
}
