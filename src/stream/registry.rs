//! The live streams of a server, by id, and what became of all others.
//!
//! The lock is held to look up, insert or remove; never over I/O, a send, or somebody else's code.

use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::retention::{Owner, Retention};
use super::state::QueryStreamStatus;
use crate::id::{StreamId, TokenHash};
use crate::sync::{Condvar, Mutex};

/// One stream, and how far it is.
#[derive(Debug)]
struct Entry<T> {
    stream: Arc<T>,
    /// Whether its engine side is alive.
    is_running: bool,
    /// Whether its terminator has been given to a connection.
    is_delivered: bool,
    token: Option<TokenHash>,
    /// Shown last, and good until the client has shown that it has the newer one: the answer that brought that may be lost.
    token_before: Option<TokenHash>,
}

#[derive(Debug)]
struct State<T> {
    streams: HashMap<StreamId, Entry<T>>,
    tokens: HashMap<TokenHash, StreamId>,
    retention: Retention,
}

/// Streams that have been accepted and of which something is still to be delivered, or may be. `T` is whatever the owner keeps
/// of a stream.
#[derive(Debug)]
pub(crate) struct Registry<T> {
    state: Mutex<State<T>>,
    /// Streams whose engine side is alive, for those who ask at every batch.
    n_running: AtomicUsize,
    /// Streams whose terminator no connection has been given yet, and those that are [expected](Self::expect). Changed under the lock.
    n_undelivered: AtomicUsize,
    /// Whether streams may still be expected. Changed under the lock.
    is_open: AtomicBool,
    emptied: Condvar,
    started: AtomicU64,
    completed: AtomicU64,
    failed: AtomicU64,
    cancelled: AtomicU64,
    detached: AtomicU64,
    resumed: AtomicU64,
    expired: AtomicU64,
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
    /// How often a resumable stream lost its connection.
    pub detached: u64,
    /// How often a stream was taken over by a new connection.
    pub resumed: u64,
    /// Resumable streams that were given up because nobody came back for them, or because memory was scarce.
    pub expired: u64,
}

impl<T> Registry<T> {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                streams: HashMap::new(),
                tokens: HashMap::new(),
                retention: Retention::default(),
            }),
            n_running: AtomicUsize::new(0),
            n_undelivered: AtomicUsize::new(0),
            is_open: AtomicBool::new(true),
            emptied: Condvar::new(),
            started: AtomicU64::new(0),
            completed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
            detached: AtomicU64::new(0),
            resumed: AtomicU64::new(0),
            expired: AtomicU64::new(0),
        }
    }

    /// Counts a stream that is about to be [inserted](Self::insert), or [not](Self::not_coming): whoever waits for all to be delivered
    /// waits for it, too. False once the registry is closed.
    pub(crate) fn expect(&self) -> bool {
        let _state = self.state.lock();
        let is_open = self.is_open();
        if is_open {
            self.n_undelivered.fetch_add(1, Ordering::Relaxed);
        }
        is_open
    }

    /// A stream that was [expected](Self::expect) does not come.
    pub(crate) fn not_coming(&self) {
        let _state = self.state.lock();
        self.one_undelivered_less();
    }

    /// Has no more streams expected: all that will ever be inserted are counted when this returns. Idempotent.
    pub(crate) fn close(&self) {
        let _state = self.state.lock();
        self.is_open.store(false, Ordering::Relaxed);
    }

    /// Whether streams may still be expected.
    pub(crate) fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Relaxed)
    }

    /// Adds a stream that was [expected](Self::expect) and is about to run, to be found by its id and, where it is resumable, by its token.
    pub(crate) fn insert(&self, id: StreamId, stream: Arc<T>, token: Option<TokenHash>) {
        self.started.fetch_add(1, Ordering::Relaxed);
        let entry = Entry {
            stream,
            is_running: true,
            is_delivered: false,
            token,
            token_before: None,
        };
        let mut state = self.state.lock();
        if let Some(token) = token {
            state.tokens.insert(token, id);
        }
        state.streams.insert(id, entry);
        self.n_running.fetch_add(1, Ordering::Relaxed);
    }

    /// A stream's engine side has ended: counts how. It stays to be found until it is [removed](Self::remove).
    pub(crate) fn ended(&self, id: StreamId, status: QueryStreamStatus) {
        let mut state = self.state.lock();
        let Some(entry) = state.streams.get_mut(&id) else {
            return;
        };
        if !std::mem::replace(&mut entry.is_running, false) {
            return;
        }
        let counter = match status {
            QueryStreamStatus::Completed => &self.completed,
            QueryStreamStatus::Cancelled => &self.cancelled,
            QueryStreamStatus::Failed
            | QueryStreamStatus::Queued
            | QueryStreamStatus::Executing
            | QueryStreamStatus::Streaming
            | QueryStreamStatus::WaitingClient
            | QueryStreamStatus::Paused => &self.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.n_running.fetch_sub(1, Ordering::Relaxed);
    }

    /// A connection has been given the stream's terminator.
    pub(crate) fn delivered(&self, id: StreamId) {
        let mut state = self.state.lock();
        let entry = state.streams.get_mut(&id);
        self.no_longer_undelivered(entry);
    }

    /// Under the lock.
    fn no_longer_undelivered(&self, entry: Option<&mut Entry<T>>) {
        let was_undelivered = entry.is_some_and(|entry| !std::mem::replace(&mut entry.is_delivered, true));
        if was_undelivered {
            self.one_undelivered_less();
        }
    }

    /// Under the lock.
    fn one_undelivered_less(&self) {
        if self.n_undelivered.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.emptied.notify_all();
        }
    }

    /// Takes out a stream of which nothing is left to deliver; one whose engine side is alive stays until that has
    /// [ended](Self::ended).
    pub(crate) fn remove(&self, id: StreamId) {
        let removed = {
            let mut state = self.state.lock();
            state.retention.back(id);
            if state.streams.get(&id).is_some_and(|entry| entry.is_running) {
                return;
            }
            let mut removed = state.streams.remove(&id);
            self.no_longer_undelivered(removed.as_mut());
            if let Some(entry) = &removed {
                for token in [entry.token, entry.token_before].into_iter().flatten() {
                    state.tokens.remove(&token);
                }
            }
            removed
        };
        drop(removed);
    }

    pub(crate) fn find(&self, id: StreamId) -> Option<Arc<T>> {
        self.state
            .lock()
            .streams
            .get(&id)
            .map(|entry| Arc::clone(&entry.stream))
    }

    /// The stream that a token is for.
    pub(crate) fn find_token(&self, token: TokenHash) -> Option<Arc<T>> {
        let state = self.state.lock();
        let id = state.tokens.get(&token)?;
        state.streams.get(id).map(|entry| Arc::clone(&entry.stream))
    }

    /// A connection has taken the stream over by showing `shown`, and is being given `new`. Any other token of the stream's is dead.
    pub(crate) fn rotate_token(&self, id: StreamId, shown: TokenHash, new: TokenHash) {
        let mut state = self.state.lock();
        let State {
            streams,
            tokens,
            retention,
        } = &mut *state;
        if let Some(entry) = streams.get_mut(&id) {
            let old = [entry.token.replace(new), entry.token_before.replace(shown)];
            for token in old.into_iter().flatten().filter(|token| *token != shown) {
                tokens.remove(&token);
            }
            tokens.insert(new, id);
            retention.back(id);
            self.resumed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The client has got its newest token.
    pub(crate) fn confirm_token(&self, id: StreamId) {
        let mut state = self.state.lock();
        let before = state.streams.get_mut(&id).and_then(|entry| entry.token_before.take());
        if let Some(token) = before {
            state.tokens.remove(&token);
        }
    }

    /// A connection has the stream after all.
    pub(crate) fn back(&self, id: StreamId) {
        self.state.lock().retention.back(id);
    }

    /// The stream is not held for anybody any more, though it may take its engine a while to stop.
    pub(crate) fn given_up(&self, id: StreamId) {
        self.state.lock().retention.back(id);
        self.expired.fetch_add(1, Ordering::Relaxed);
    }

    /// The stream is held only in case somebody comes back for it, at `owner`'s cost. Returns the one to give up where there are
    /// more than `streams_max` of them.
    pub(crate) fn left(&self, id: StreamId, owner: Owner, now: Instant, streams_max: usize) -> Option<Arc<T>> {
        let mut state = self.state.lock();
        if !state.streams.contains_key(&id) {
            return None;
        }
        state.retention.left(id, owner, now);
        if state.retention.len() <= streams_max {
            return None;
        }
        Self::first(&state)
    }

    pub(crate) fn count_detached(&self) {
        self.detached.fetch_add(1, Ordering::Relaxed);
    }

    /// Of the streams that are held for nobody, the one to give up first.
    pub(crate) fn first_to_go(&self) -> Option<Arc<T>> {
        Self::first(&self.state.lock())
    }

    /// Whether it is worth saying that one is given up.
    pub(crate) fn is_news(&self, now: Instant) -> bool {
        self.state.lock().retention.is_news(now)
    }

    fn first(state: &State<T>) -> Option<Arc<T>> {
        let id = state.retention.first_to_go()?;
        state.streams.get(&id).map(|entry| Arc::clone(&entry.stream))
    }

    pub(crate) fn all(&self) -> Vec<Arc<T>> {
        let state = self.state.lock();
        state.streams.values().map(|entry| Arc::clone(&entry.stream)).collect()
    }

    /// How many streams have an engine side that is alive.
    pub(crate) fn n_running(&self) -> usize {
        self.n_running.load(Ordering::Relaxed)
    }

    /// How many streams have a terminator that no connection has been given yet, or are expected.
    pub(crate) fn n_undelivered(&self) -> usize {
        self.n_undelivered.load(Ordering::Relaxed)
    }

    /// Blocks until there is no such stream, or `deadline`; returns how many are left.
    pub(crate) fn wait_until_delivered(&self, deadline: Instant) -> usize {
        let mut state = self.state.lock();
        while self.n_undelivered() > 0 && !self.emptied.wait_until(&mut state, deadline).timed_out() {}
        self.n_undelivered()
    }

    pub(crate) fn statistics(&self) -> RegistryStatistics {
        RegistryStatistics {
            active: self.n_running() as u64,
            started: self.started.load(Ordering::Relaxed),
            completed: self.completed.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            cancelled: self.cancelled.load(Ordering::Relaxed),
            detached: self.detached.load(Ordering::Relaxed),
            resumed: self.resumed.load(Ordering::Relaxed),
            expired: self.expired.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::id::{ConnectionId, Epoch, Principal, ResumeToken};

    fn insert<T>(registry: &Registry<T>, id: StreamId, stream: Arc<T>, token: Option<TokenHash>) {
        assert!(registry.expect());
        registry.insert(id, stream, token);
    }

    #[test]
    fn streams_are_counted_once_by_their_outcome() {
        let registry = Registry::new();
        let id = StreamId::random();
        insert(&registry, id, Arc::new(()), None);
        assert_eq!(registry.statistics().active, 1);
        assert!(registry.find(id).is_some());
        registry.ended(id, QueryStreamStatus::Cancelled);
        registry.ended(id, QueryStreamStatus::Completed);
        let expected = RegistryStatistics {
            started: 1,
            cancelled: 1,
            ..RegistryStatistics::default()
        };
        assert_eq!(registry.statistics(), expected);
        assert!(registry.find(id).is_some(), "until its last message is out");
        registry.remove(id);
        assert!(registry.find(id).is_none());
    }

    #[test]
    fn what_is_expected_counts_as_undelivered_and_nothing_is_once_it_is_closed() {
        let registry = Registry::new();
        let id = StreamId::random();
        assert!(registry.expect() && registry.expect());
        registry.not_coming();
        assert_eq!(registry.n_undelivered(), 1, "one does not come");
        registry.close();
        assert!(!registry.expect() && !registry.is_open());
        registry.insert(id, Arc::new(()), None);
        assert_eq!(registry.n_undelivered(), 1, "the other has come");
        registry.delivered(id);
        assert_eq!(registry.wait_until_delivered(Instant::now()), 0);
    }

    #[test]
    fn a_token_is_good_until_a_newer_one_is_known_and_dies_with_its_stream() {
        let registry = Registry::new();
        let id = StreamId::random();
        let epoch = Epoch::random();
        let tokens = [(); 3].map(|()| ResumeToken::random(epoch).hash());
        insert(&registry, id, Arc::new(()), Some(tokens[0]));
        let good = |registry: &Registry<()>| tokens.map(|token| registry.find_token(token).is_some());
        registry.rotate_token(id, tokens[0], tokens[1]);
        assert_eq!(good(&registry), [true, true, false], "the answer may have been lost");
        registry.rotate_token(id, tokens[0], tokens[2]);
        assert_eq!(good(&registry), [true, false, true]);
        registry.confirm_token(id);
        assert_eq!(good(&registry), [false, false, true]);
        registry.rotate_token(id, tokens[2], tokens[1]);
        assert_eq!(good(&registry), [false, true, true]);
        registry.ended(id, QueryStreamStatus::Completed);
        registry.remove(id);
        assert_eq!(good(&registry), [false; 3]);
        assert!(registry.state.lock().tokens.is_empty());
    }

    #[test]
    fn only_so_many_are_held_for_nobody() {
        let registry = Registry::new();
        let ids = [(); 3].map(|()| StreamId::random());
        let start = Instant::now();
        let left = |n: usize| {
            let owner = Owner::new(&Principal::anonymous(), ConnectionId::new(1));
            registry.left(ids[n], owner, start + Duration::from_secs(n as u64), 2)
        };
        for id in ids {
            insert(&registry, id, Arc::new(id), None);
        }
        assert_eq!((left(0), left(1)), (None, None));
        assert_eq!(left(2).as_deref(), Some(&ids[0]));
        registry.given_up(ids[0]);
        assert_eq!(registry.first_to_go().as_deref(), Some(&ids[1]));
    }

    #[test]
    fn one_owner_s_streams_make_no_other_s_go() {
        let registry = Registry::new();
        let start = Instant::now();
        let left = |name: &str, n: u64| {
            let id = StreamId::random();
            insert(&registry, id, Arc::new(id), None);
            let owner = Owner::new(&Principal::named(name.into()), ConnectionId::new(n));
            let gone = registry.left(id, owner, start + Duration::from_secs(n), 8);
            if let Some(gone) = &gone {
                registry.given_up(**gone);
            }
            (id, gone)
        };
        let (honest, _) = left("honest", 0);
        let hoarded: Vec<_> = (1..=100).map(|n| left("hoarder", n)).collect();
        let gone: Vec<_> = hoarded
            .iter()
            .filter_map(|(_, gone)| gone.as_deref().copied())
            .collect();
        let oldest: Vec<_> = hoarded.iter().map(|(id, _)| *id).take(93).collect();
        assert_eq!(gone, oldest);
        assert!(!gone.contains(&honest));
    }
}
