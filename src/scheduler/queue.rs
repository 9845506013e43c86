//! Who runs next: a pure queue that is fair in bytes, and the blocking queue that workers wait on.
//!
//! Fairness is deficit round-robin (Shreedhar and Varghese, 1995): a stream may encode [`QUANTUM_BYTES`] per round, what it
//! takes beyond that is owed. Streams that have not had a turn yet alternate with the others, so that a first row never waits
//! for a whole round and a flood of new streams cannot hold up the old ones.

use std::collections::VecDeque;

use parking_lot::{Condvar, Mutex};

/// Bytes of batches that one stream may encode before the next stream's turn.
pub(crate) const QUANTUM_BYTES: i64 = 64 * 1024;

/// Two queues, served in turn: those that wait for their first service, and the others.
#[derive(Debug)]
pub(crate) struct FairQueue<T> {
    fresh: VecDeque<T>,
    known: VecDeque<T>,
    fresh_was_last: bool,
}

impl<T> FairQueue<T> {
    pub(crate) const fn new() -> Self {
        Self {
            fresh: VecDeque::new(),
            known: VecDeque::new(),
            fresh_was_last: false,
        }
    }

    pub(crate) fn push_fresh(&mut self, item: T) {
        self.fresh.push_back(item);
    }

    pub(crate) fn push_known(&mut self, item: T) {
        self.known.push_back(item);
    }

    pub(crate) fn pop(&mut self) -> Option<T> {
        let fresh_first = !self.fresh_was_last || self.known.is_empty();
        let item = if fresh_first { self.fresh.pop_front() } else { None };
        self.fresh_was_last = item.is_some();
        item.or_else(|| self.known.pop_front())
    }

    pub(crate) fn len(&self) -> usize {
        self.fresh.len() + self.known.len()
    }

    pub(crate) fn n_fresh(&self) -> usize {
        self.fresh.len()
    }

    /// Keeps only the items that `keep` says yes to.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        self.fresh.retain(&mut keep);
        self.known.retain(&mut keep);
    }
}

/// What a worker is given to do.
#[derive(Debug)]
pub(crate) enum Work<T, E> {
    /// A stream's turn.
    Turn(T),
    /// Something beside the streams, done when a worker would otherwise be idle or when it is allowed to.
    Aside(E),
}

#[derive(Debug)]
struct State<T, E> {
    runnable: FairQueue<T>,
    asides: VecDeque<E>,
    n_idle: usize,
    /// Entries whose stream has ended while it waited; they are skipped, and swept when they are many.
    n_stale: usize,
    closed: bool,
}

/// The queue that workers wait on. Nothing here blocks but [`next`](Self::next), which a push or [`close`](Self::close) wakes.
#[derive(Debug)]
pub(crate) struct RunQueue<T, E> {
    state: Mutex<State<T, E>>,
    pushed: Condvar,
    asides_max: usize,
}

impl<T, E> RunQueue<T, E> {
    pub(crate) fn new(asides_max: usize) -> Self {
        Self {
            state: Mutex::new(State {
                runnable: FairQueue::new(),
                asides: VecDeque::new(),
                n_idle: 0,
                n_stale: 0,
                closed: false,
            }),
            pushed: Condvar::new(),
            asides_max,
        }
    }

    /// How many items a new one would wait behind before its first turn: `None` where a worker is free for it.
    pub(crate) fn wait_ahead(&self) -> Option<usize> {
        let state = self.state.lock();
        (state.n_idle <= state.runnable.len())
            .then(|| state.runnable.n_fresh() - state.n_stale.min(state.runnable.n_fresh()))
    }

    pub(crate) fn push_fresh(&self, item: T) {
        self.push(|state| state.runnable.push_fresh(item));
    }

    pub(crate) fn push_known(&self, item: T) {
        self.push(|state| state.runnable.push_known(item));
    }

    /// Adds something to do aside; dropped where [`asides_max`](Self::new) already wait.
    pub(crate) fn push_aside(&self, aside: E) {
        self.push(|state| {
            if state.asides.len() < self.asides_max {
                state.asides.push_back(aside);
            }
        });
    }

    fn push(&self, add: impl FnOnce(&mut State<T, E>)) {
        let mut state = self.state.lock();
        add(&mut state);
        if state.n_idle > 0 {
            self.pushed.notify_one();
        }
    }

    /// Gives `item` back and takes the next one, which may be the same: a worker between two turns.
    pub(crate) fn exchange(&self, item: T) -> T {
        let mut state = self.state.lock();
        state.runnable.push_known(item);
        // The item just pushed makes sure that there is one.
        state
            .runnable
            .pop()
            .expect("the queue holds at least the item just pushed")
    }

    /// Whether somebody waits for a turn.
    pub(crate) fn has_waiting(&self) -> bool {
        self.state.lock().runnable.len() > 0
    }

    /// The next thing to do: blocks until there is one, and returns `None` once the queue is closed and empty. An aside is
    /// given only where no turn waits, or where `may_do_aside` says so.
    pub(crate) fn next(&self, may_do_aside: impl Fn() -> bool) -> Option<Work<T, E>> {
        let mut state = self.state.lock();
        loop {
            if !state.asides.is_empty()
                && (state.runnable.len() == 0 || may_do_aside())
                && let Some(aside) = state.asides.pop_front()
            {
                return Some(Work::Aside(aside));
            }
            if let Some(item) = state.runnable.pop() {
                return Some(Work::Turn(item));
            }
            // Nothing waits, so nothing stale does.
            state.n_stale = 0;
            if state.closed {
                return None;
            }
            state.n_idle += 1;
            self.pushed.wait(&mut state);
            state.n_idle -= 1;
        }
    }

    /// An entry has become stale; once most are, those that `is_live` denies are swept out.
    pub(crate) fn note_stale(&self, is_live: impl Fn(&T) -> bool) {
        let mut state = self.state.lock();
        state.n_stale += 1;
        if state.n_stale * 2 > state.runnable.len() {
            state.runnable.retain(is_live);
            state.n_stale = 0;
        }
    }

    /// Lets workers go once everything queued is done. Idempotent.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.pushed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_turns_alternate_with_others() {
        let mut queue = FairQueue::new();
        for n in 0..3 {
            queue.push_known(format!("known {n}"));
            queue.push_fresh(format!("fresh {n}"));
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(
            order,
            ["fresh 0", "known 0", "fresh 1", "known 1", "fresh 2", "known 2"]
        );
    }

    #[test]
    fn a_flood_of_first_turns_does_not_starve_the_others() {
        let mut queue = FairQueue::new();
        queue.push_known(0);
        for n in 1..=100 {
            queue.push_fresh(n);
        }
        let position = std::iter::from_fn(|| queue.pop()).position(|item| item == 0);
        assert_eq!(position, Some(1));
    }

    #[test]
    fn stale_entries_are_swept() {
        let queue: RunQueue<u32, ()> = RunQueue::new(1);
        for n in 0..10 {
            queue.push_fresh(n);
        }
        for _ in 0..6 {
            queue.note_stale(|n| *n >= 6);
        }
        assert_eq!(queue.state.lock().runnable.len(), 4);
        assert_eq!(queue.wait_ahead(), Some(4));
    }

    #[test]
    fn asides_wait_for_a_lull_and_are_bounded() {
        let queue: RunQueue<u32, &str> = RunQueue::new(1);
        queue.push_aside("first");
        queue.push_aside("too many");
        queue.push_fresh(1);
        assert!(matches!(queue.next(|| false), Some(Work::Turn(1))));
        assert!(matches!(queue.next(|| false), Some(Work::Aside("first"))));
        queue.close();
        assert!(queue.next(|| true).is_none());
    }
}
