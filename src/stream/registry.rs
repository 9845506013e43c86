//! The live streams of a server, by id, and what became of all others.
//!
//! The lock is held to look up, insert or remove; never over I/O, a send, or somebody else's code.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::state::QueryStreamStatus;
use crate::id::StreamId;

/// Streams that have been accepted and whose engine side has not ended. `T` is whatever the owner keeps of a stream.
#[derive(Debug)]
pub(crate) struct Registry<T> {
    live: Mutex<HashMap<StreamId, Arc<T>>>,
    /// The map's length, for those who ask at every batch.
    n_live: AtomicUsize,
    emptied: Condvar,
    started: AtomicU64,
    completed: AtomicU64,
    failed: AtomicU64,
    cancelled: AtomicU64,
}

/// How many streams a server has had, by outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct RegistryStatistics {
    /// Streams whose engine side is alive now.
    pub active: u64,
    /// Streams ever accepted.
    pub started: u64,
    /// Streams that ended with all their rows.
    pub completed: u64,
    /// Streams that ended in an error.
    pub failed: u64,
    /// Streams that somebody stopped.
    pub cancelled: u64,
}

impl<T> Registry<T> {
    pub(crate) fn new() -> Self {
        Self {
            live: Mutex::new(HashMap::new()),
            n_live: AtomicUsize::new(0),
            emptied: Condvar::new(),
            started: AtomicU64::new(0),
            completed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
        }
    }

    pub(crate) fn insert(&self, id: StreamId, stream: Arc<T>) {
        self.started.fetch_add(1, Ordering::Relaxed);
        let mut live = self.live.lock();
        live.insert(id, stream);
        self.n_live.store(live.len(), Ordering::Relaxed);
    }

    /// Takes a stream out when its engine side ends, and counts how.
    pub(crate) fn remove(&self, id: StreamId, status: QueryStreamStatus) {
        let removed = {
            let mut live = self.live.lock();
            let removed = live.remove(&id);
            self.n_live.store(live.len(), Ordering::Relaxed);
            if live.is_empty() {
                self.emptied.notify_all();
            }
            removed
        };
        if removed.is_some() {
            let counter = match status {
                QueryStreamStatus::Completed => &self.completed,
                QueryStreamStatus::Cancelled => &self.cancelled,
                QueryStreamStatus::Failed
                | QueryStreamStatus::Queued
                | QueryStreamStatus::Executing
                | QueryStreamStatus::Streaming
                | QueryStreamStatus::WaitingClient => &self.failed,
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn find(&self, id: StreamId) -> Option<Arc<T>> {
        self.live.lock().get(&id).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<T>> {
        self.live.lock().values().cloned().collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.n_live.load(Ordering::Relaxed)
    }

    /// Blocks until there is no live stream, or `deadline`; returns how many are left.
    pub(crate) fn wait_until_empty(&self, deadline: Instant) -> usize {
        let mut live = self.live.lock();
        while !live.is_empty() && !self.emptied.wait_until(&mut live, deadline).timed_out() {}
        live.len()
    }

    pub(crate) fn statistics(&self) -> RegistryStatistics {
        RegistryStatistics {
            active: self.len() as u64,
            started: self.started.load(Ordering::Relaxed),
            completed: self.completed.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            cancelled: self.cancelled.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_counted_once_by_their_outcome() {
        let registry = Registry::new();
        let id = StreamId::random();
        registry.insert(id, Arc::new(()));
        assert_eq!(registry.statistics().active, 1);
        assert!(registry.find(id).is_some());
        registry.remove(id, QueryStreamStatus::Cancelled);
        registry.remove(id, QueryStreamStatus::Completed);
        let expected = RegistryStatistics {
            started: 1,
            cancelled: 1,
            ..RegistryStatistics::default()
        };
        assert_eq!(registry.statistics(), expected);
    }
}
