//! Whether the pages that a connection reads, and has read, are all of one version of the file.
//!
//! SQLite trusts its locks and the counters in a database's header. Neither sees a program that writes to the file without SQLite: `cp`
//! over it, `rsync --inplace`, a restore. What the file's metadata say, see [`Stamp`], is compared at the points where SQLite's rules say that
//! nobody may have written in between:
//!
//! - **With a rollback journal**, a read transaction holds the shared lock, and every writer needs the exclusive one for its first write
//!   to the file. So nobody who keeps to the rules writes between the beginning of a read transaction and its end.
//! - **With a write-ahead log**, only checkpoints write to the file, and they hold read lock 0 exclusively while they do. A reader that
//!   needs nothing of the log holds that lock itself, and the first rule is its rule. Another reader holds one of the other read locks; beside
//!   it a checkpoint may copy what the reader takes from the log anyway. The log's index says how far checkpoints have come
//!   (`nBackfill`) and which one was begun last (`nBackfillAttempted`): where the file has changed, no checkpoint is under way and both numbers
//!   are as before, the change was not a checkpoint's. Where they have moved, a change by somebody else at the same time cannot be told
//!   from the checkpoint's, and is taken for it.
//! - **Between read transactions** everybody may write, so a stamp that differs says nothing against the file, but all against what the
//!   connection has in its page cache and its schema: SQLite goes by counters there that two files can share. Such a connection is opened anew.
//!
//! A checkpoint that is killed in the middle can look like somebody else's write: a false alarm, never a missed one.
//!
//! A log belongs to the file that it was written for. Where the file was overwritten and the log has pages that readers would lay over the new
//! file, those are of two databases: such a log is foreign, and nothing is read with it.
//!
//! Must not know SQLite's interface or ask for the metadata itself.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::stamp::Stamp;

/// How far the log's checkpoints have come. Sound only while none is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Log {
    /// Drawn anew whenever the log begins from its start.
    pub(super) salts: [u32; 2],
    /// The last frame that is part of the database.
    pub(super) frames: u32,
    /// `nBackfill`.
    pub(super) copied: u32,
    /// `nBackfillAttempted`.
    pub(super) begun: u32,
}

impl Log {
    fn is_checkpointed_like(&self, other: &Self) -> bool {
        (self.salts, self.copied, self.begun) == (other.salts, other.copied, other.begun)
    }
}

/// Who may write to the file while a read transaction lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lock {
    /// Nobody.
    File,
    /// Checkpoints. What is read comes out of the log and the file.
    Log,
}

/// A look at the file, and at the log where there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) stamp: Stamp,
    /// `None` where there is no log, or a checkpoint is under way.
    pub(super) log: Option<Log>,
}

/// What is known of the pages that the connection has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Verdict {
    /// They are of one version of the file.
    #[default]
    Sound,
    /// Those in the cache were, but the file has changed before this read transaction began.
    Stale,
    /// The file was changed under a read transaction by something else than SQLite.
    Overwritten,
    /// The log was written for a file that is no more.
    ForeignLog,
}

/// What a connection that rests has in its page cache and its schema, compared with the file that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Memory {
    Right,
    Outdated,
    OfAnotherFile,
}

/// What one connection has read its pages from.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// The file when the first page of those in the cache was read.
    cached: Option<Stamp>,
    /// The last look.
    seen: Option<Look>,
    /// The lock of the read transaction under way.
    lock: Option<Lock>,
    verdict: Verdict,
}

impl Watch {
    pub(super) fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// The lock of the read transaction under way, if there is one.
    pub(super) fn lock(&self) -> Option<Lock> {
        self.lock
    }

    /// The cache is empty: what is read next begins anew.
    pub(super) fn forget(&mut self) {
        self.cached = None;
        self.seen = None;
    }

    /// Whether a read transaction on the file as it is in `stamp` could use what is in the cache.
    pub(super) fn may_use_cache(&self, stamp: &Stamp, has_moved: impl FnOnce() -> bool) -> bool {
        self.cached
            .is_some_and(|cached| !cached.contents_differ(stamp, has_moved))
    }

    /// The file as it was when the first page of those in the cache was read; `None` while the cache is empty.
    pub(super) fn cached(&self) -> Option<Stamp> {
        self.cached
    }

    /// A read transaction begins, whose lock is held already.
    pub(super) fn begin(&mut self, lock: Lock, look: Look) {
        self.cached.get_or_insert(look.stamp);
        self.seen = Some(look);
        self.lock = Some(lock);
        self.verdict = Verdict::Sound;
    }

    /// The read transaction ends, or does not begin.
    pub(super) fn end(&mut self) {
        self.lock = None;
    }

    pub(super) fn condemn(&mut self, verdict: Verdict) {
        if self.verdict == Verdict::Sound {
            self.verdict = verdict;
        }
    }

    /// Whether the file's stamp is as it was at the last look, so that there is nothing to judge.
    pub(super) fn is_as_seen(&self, stamp: &Stamp, has_moved: impl FnOnce() -> bool) -> bool {
        self.seen
            .is_none_or(|seen| !seen.stamp.contents_differ(stamp, has_moved))
    }

    /// The file's stamp at the last look.
    pub(super) fn seen_stamp(&self) -> Option<Stamp> {
        self.seen.map(|seen| seen.stamp)
    }

    /// Judges a change of the file since the last look: whether something else than SQLite made it. Where a checkpoint can have made it, what
    /// is seen now is compared with next. `look.log` is `None` where a checkpoint is under way.
    pub(super) fn is_foreign(&mut self, look: Look) -> bool {
        let Some(seen) = self.seen else { return false };
        let not_a_checkpoint = match (seen.log, look.log) {
            (Some(before), Some(now)) => before.is_checkpointed_like(&now),
            _ => false,
        };
        // Nobody can begin the log from its start while one reads it.
        let log_is_gone = self.lock == Some(Lock::Log)
            && matches!((seen.log, look.log), (Some(before), Some(now)) if before.salts != now.salts);
        let foreign = self.lock == Some(Lock::File) || not_a_checkpoint || log_is_gone;
        if !foreign && look.log.is_some() {
            self.seen = Some(look);
        }
        foreign
    }
}

/// What the connections of a pool tell each other of the write-ahead log.
#[derive(Debug, Default)]
pub(super) struct LogMemory {
    foreign: Mutex<Option<ForeignLog>>,
    opened: AtomicBool,
}

/// A log whose file was overwritten or replaced.
#[derive(Debug)]
struct ForeignLog {
    salts: [u32; 2],
    /// The file that it was written for, unless that one was overwritten.
    file: Option<Stamp>,
}

impl LogMemory {
    /// The file that this log was written for is overwritten or, where it is told, no more where the log is.
    pub(super) fn set_foreign(&self, log: Log, file: Option<Stamp>) {
        if log.frames > 0 {
            *self.foreign.lock() = Some(ForeignLog { salts: log.salts, file });
        }
    }

    /// Whether a log with these salts is foreign to the file that `is_file` knows.
    pub(super) fn is_foreign(&self, salts: [u32; 2], is_file: impl FnOnce(&Stamp) -> bool) -> bool {
        let foreign = self.foreign.lock();
        let known = foreign.as_ref().filter(|foreign| foreign.salts == salts);
        known.is_some_and(|foreign| !foreign.file.as_ref().is_some_and(is_file))
    }

    pub(super) fn has_foreign(&self) -> bool {
        self.foreign.lock().is_some()
    }

    /// A connection has opened a log.
    pub(super) fn set_opened(&self) {
        self.opened.store(true, Ordering::Relaxed);
    }

    pub(super) fn was_opened(&self) -> bool {
        self.opened.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: Log = Log {
        salts: [1, 2],
        frames: 9,
        copied: 5,
        begun: 5,
    };

    fn look(modified: i64, log: Option<Log>) -> Look {
        Look {
            stamp: Stamp::modified_at(modified),
            log,
        }
    }

    fn reading(lock: Lock, log: Option<Log>) -> Watch {
        let mut watch = Watch::default();
        watch.begin(lock, look(1, log));
        watch
    }

    #[test]
    fn nobody_may_write_under_the_files_lock() {
        for log in [None, Some(LOG)] {
            assert!(reading(Lock::File, log).is_foreign(look(2, log)));
        }
        let watch = reading(Lock::File, None);
        assert!(watch.is_as_seen(&Stamp::modified_at(1), || false));
        assert!(!watch.is_as_seen(&Stamp::modified_at(2), || false));
    }

    #[test]
    fn a_checkpoint_shows_in_the_log_and_any_other_write_does_not() {
        let checkpoints = [
            Log {
                copied: 9,
                begun: 9,
                ..LOG
            },
            Log { begun: 9, ..LOG },
            Log { copied: 7, ..LOG },
        ];
        for after in checkpoints {
            let mut watch = reading(Lock::Log, Some(LOG));
            assert!(!watch.is_foreign(look(2, Some(after))), "{after:?}");
            // What it has written is what the next look is compared with.
            assert!(watch.is_as_seen(&Stamp::modified_at(2), || false));
            assert!(watch.is_foreign(look(3, Some(after))), "{after:?}");
        }
        // Commits append to the log; they do not write to the file.
        let committed = Log { frames: 20, ..LOG };
        assert!(reading(Lock::Log, Some(LOG)).is_foreign(look(2, Some(committed))));
        // Nothing can be said while a checkpoint writes, so the last look stays.
        let mut watch = reading(Lock::Log, Some(LOG));
        assert!(!watch.is_foreign(look(2, None)));
        assert!(watch.is_foreign(look(3, Some(LOG))));
    }

    #[test]
    fn a_log_that_is_read_cannot_begin_anew() {
        let anew = Log {
            salts: [2, 7],
            frames: 0,
            copied: 0,
            begun: 0,
        };
        assert!(reading(Lock::Log, Some(LOG)).is_foreign(look(2, Some(anew))));
        let mut at_rest = reading(Lock::Log, Some(LOG));
        at_rest.end();
        assert!(!at_rest.is_foreign(look(2, Some(anew))));
    }

    #[test]
    fn between_transactions_only_a_log_tells_foreign_writes() {
        let mut watch = reading(Lock::File, None);
        watch.end();
        assert!(!watch.is_foreign(look(2, None)));
        assert!(!watch.may_use_cache(&Stamp::modified_at(2), || false));
        assert!(watch.may_use_cache(&Stamp::modified_at(1), || false));
        let mut watch = reading(Lock::File, Some(LOG));
        watch.end();
        assert!(watch.is_foreign(look(2, Some(LOG))));
    }

    #[test]
    fn a_log_without_pages_belongs_to_any_file() {
        let logs = LogMemory::default();
        logs.set_foreign(Log { frames: 0, ..LOG }, None);
        assert!(!logs.is_foreign(LOG.salts, |_| false) && !logs.has_foreign());
        logs.set_foreign(LOG, None);
        assert!(logs.is_foreign(LOG.salts, |_| true) && !logs.is_foreign([2, 7], |_| false));
    }

    #[test]
    fn a_log_belongs_to_its_file_wherever_the_path_led_in_between() {
        let logs = LogMemory::default();
        logs.set_foreign(LOG, Some(Stamp::modified_at(1)));
        assert!(!logs.is_foreign(LOG.salts, |file| *file == Stamp::modified_at(1)));
        assert!(logs.is_foreign(LOG.salts, |file| *file == Stamp::modified_at(2)));
    }
}
