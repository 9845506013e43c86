//! Whether a writer of the database waits for what queries at rest hold of it: a lock, or a snapshot that keeps the write-ahead log
//! from being checkpointed.
//!
//! Decides what is worth saying. Must not know streams.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::ffi::Hold;
use super::pool::{Pool, Settings};
use crate::clock;
use crate::engine::Contention;

/// How long after one query has given way for the log the next one is asked to: a checkpoint is the writers' to make.
const CHECKPOINT_PATIENCE: Duration = Duration::from_secs(10);

/// How a database keeps what a transaction changes, and so what a reader holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum JournalMode {
    /// In a rollback journal: a query holds a shared lock, and a writer waits for its end.
    Rollback,
    /// In a write-ahead log: a query holds a snapshot, and the log cannot be checkpointed beyond it.
    Wal,
}

impl JournalMode {
    pub(super) fn of(hold: Hold) -> Self {
        match hold {
            Hold::Lock { .. } => Self::Rollback,
            Hold::Log { .. } => Self::Wal,
        }
    }
}

/// What has been seen so far.
#[derive(Debug, Default)]
pub(super) struct Lookout(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    /// When a writer that still waits was first seen.
    writer_since: Option<Instant>,
    log_told: Option<LogTold>,
}

/// When the log was last said to be too large, and how it was then.
#[derive(Debug)]
struct LogTold {
    at: Instant,
    n_frames: u32,
    n_checkpointed: u32,
}

impl Lookout {
    /// Opens a connection for the look, which waits for no lock.
    pub(super) fn look(&self, pool: &Arc<Pool>) -> Option<Contention> {
        let settings = &pool.settings;
        let has_limit = settings.writer_wait_max.is_some() || settings.wal_bytes_max.is_some();
        if settings.immutable || !has_limit {
            return None;
        }
        // What cannot be looked at is the next query's to report.
        let hold = pool.hold().ok()?;
        self.0.lock().judge(hold, settings, clock::now())
    }
}

impl Seen {
    fn judge(&mut self, hold: Hold, settings: &Settings, now: Instant) -> Option<Contention> {
        match hold {
            Hold::Lock { writer_waits } => {
                self.log_told = None;
                self.judge_writer(writer_waits, settings.writer_wait_max?, now)
            }
            Hold::Log {
                frame_bytes,
                n_frames,
                n_checkpointed,
            } => {
                self.writer_since = None;
                let told = LogTold {
                    at: now,
                    n_frames,
                    n_checkpointed,
                };
                let bytes = u64::from(n_frames.saturating_sub(n_checkpointed)) * u64::from(frame_bytes);
                self.judge_log(bytes, told, settings.wal_bytes_max?)
            }
        }
    }

    /// A lock that is there only for a moment is none that anybody waits for: it is seen twice.
    fn judge_writer(&mut self, waits: bool, max: Duration, now: Instant) -> Option<Contention> {
        let seen_before = self.writer_since.filter(|_| waits);
        self.writer_since = waits.then(|| seen_before.unwrap_or(now));
        let waited = now.saturating_duration_since(seen_before?);
        let message = format!(
            "a writer of the database waits for this query to end, and sqlite_writer_wait_max ({max:?}) has passed: \
             read faster, or have the database put into WAL mode, where queries and writers do not wait for each other"
        );
        let rest_min = if waited >= max { Duration::ZERO } else { max };
        Some(Contention::new("sqlite_writer_wait_max", message, rest_min))
    }

    fn judge_log(&mut self, bytes: u64, now: LogTold, max: u64) -> Option<Contention> {
        if bytes <= max {
            self.log_told = None;
            return None;
        }
        if self.log_told.as_ref().is_some_and(|told| !told.is_old_news(&now)) {
            return None;
        }
        self.log_told = Some(now);
        let message = format!(
            "the database's write-ahead log has {bytes} bytes that cannot be checkpointed while queries hold old \
             snapshots, which is more than sqlite_wal_bytes_max ({max} bytes): read faster, or ask for less at once"
        );
        Some(Contention::new("sqlite_wal_bytes_max", message, Duration::ZERO))
    }
}

impl LogTold {
    /// Whether the query that gave way since cannot have been the one that mattered, or not alone.
    fn is_old_news(&self, now: &Self) -> bool {
        let was_checkpointed = now.n_checkpointed != self.n_checkpointed;
        let was_written = now.n_frames != self.n_frames;
        was_checkpointed || was_written && now.at >= self.at + CHECKPOINT_PATIENCE
    }
}

#[cfg(test)]
#[path = "contention_test.rs"]
mod tests;
