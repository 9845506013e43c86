//! What may be held in memory: one limit for the server, one for each connection, and permits that give back what they took
//! when they are dropped.
//!
//! Nothing waits here. Messages have an eighth of the server's limit beside it and a little for each connection, and are refused beyond. A stream that finds no room is parked with at least one batch of its own still held; when that is let go,
//! it looks again. A stream that holds nothing may always make one batch, so that the limits cannot bring everything to a stop:
//! what is held stays below the limit plus one batch for each stream. Must not know streams.

use std::sync::Arc;

use crate::sync::atomic::{AtomicUsize, Ordering};

/// What messages of one connection may take whatever others hold: a few answers, so that nobody is refused for what others leave unread.
pub(crate) const MESSAGE_BYTES_ALWAYS: usize = 16 * 1024;

/// What all messages may take beyond that, of a server that may hold so much, and beside it: batches that wait leave room for answers.
pub(crate) const fn message_bytes_max(held_bytes_max: usize) -> usize {
    held_bytes_max / 8
}

/// What is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    /// In channels, windows and retention.
    Batches,
    /// Any other message on its way to a socket.
    Messages,
}

/// All that one server holds.
#[derive(Debug)]
pub(crate) struct Budget {
    bytes_max: usize,
    batches: AtomicUsize,
    messages: AtomicUsize,
}

impl Budget {
    pub(crate) fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self {
            bytes_max,
            batches: AtomicUsize::new(0),
            messages: AtomicUsize::new(0),
        })
    }

    /// Bytes held now. 0 once nothing is under way.
    pub(crate) fn held(&self) -> usize {
        self.held_as(Held::Batches) + self.held_as(Held::Messages)
    }

    /// As [`held`](Self::held), of one kind.
    pub(crate) fn held_as(&self, kind: Held) -> usize {
        self.of(kind).load(Ordering::Relaxed)
    }

    fn of(&self, kind: Held) -> &AtomicUsize {
        match kind {
            Held::Batches => &self.batches,
            Held::Messages => &self.messages,
        }
    }

    /// Whether so much is held that what nobody is there for has to go: four fifths of the limit.
    pub(crate) fn is_scarce(&self) -> bool {
        self.held() > self.bytes_max / 5 * 4
    }
}

/// What is held for one connection.
#[derive(Debug)]
pub(crate) struct Account {
    budget: Arc<Budget>,
    bytes_max: usize,
    held: AtomicUsize,
    /// Of it, in messages.
    messages: AtomicUsize,
}

impl Account {
    pub(crate) fn new(budget: &Arc<Budget>, bytes_max: usize) -> Arc<Self> {
        Arc::new(Self {
            budget: Arc::clone(budget),
            bytes_max,
            held: AtomicUsize::new(0),
            messages: AtomicUsize::new(0),
        })
    }

    /// Accounts of one budget, each without a limit of its own.
    #[cfg(test)]
    pub(crate) fn sharing<const N: usize>(bytes_max: usize) -> [Arc<Self>; N] {
        let budget = Budget::new(bytes_max);
        [(); N].map(|()| Self::new(&budget, usize::MAX))
    }

    /// An account of a budget that nobody else has.
    #[cfg(all(test, rowstream_shuttle))]
    pub(crate) fn alone(bytes_max: usize) -> Arc<Self> {
        Self::new(&Budget::new(bytes_max), bytes_max)
    }

    /// Whether more may be held, by the limits of the connection and of the server.
    pub(crate) fn has_room(&self) -> bool {
        self.held.load(Ordering::Relaxed) < self.bytes_max && self.budget.held() < self.budget.bytes_max
    }

    /// Counts `bytes` as held until the permit is dropped. Whether there is room is asked before; what is already made is counted
    /// all the same.
    pub(crate) fn hold(self: &Arc<Self>, bytes: usize, kind: Held) -> Permit {
        self.held.fetch_add(bytes, Ordering::Relaxed);
        if kind == Held::Messages {
            self.messages.fetch_add(bytes, Ordering::Relaxed);
        }
        self.budget.of(kind).fetch_add(bytes, Ordering::Relaxed);
        Permit {
            account: Arc::clone(self),
            bytes,
            kind,
        }
    }

    /// As [`hold`](Self::hold), of a message; `None` where the connection has [what it may always have](MESSAGE_BYTES_ALWAYS), and all messages
    /// [what they may](message_bytes_max).
    pub(crate) fn hold_message(self: &Arc<Self>, bytes: usize) -> Option<Permit> {
        let permit = self.hold(bytes, Held::Messages);
        let is_little = self.messages.load(Ordering::Relaxed) <= MESSAGE_BYTES_ALWAYS;
        let fits = || self.budget.held_as(Held::Messages) <= message_bytes_max(self.budget.bytes_max);
        (is_little || fits()).then_some(permit)
    }
}

/// Bytes that count as held until this is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    account: Arc<Account>,
    bytes: usize,
    kind: Held,
}

impl Permit {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.account.held.fetch_sub(self.bytes, Ordering::Relaxed);
        if self.kind == Held::Messages {
            self.account.messages.fetch_sub(self.bytes, Ordering::Relaxed);
        }
        self.account
            .budget
            .of(self.kind)
            .fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_closes_and_what_is_dropped_comes_back() {
        let budget = Budget::new(100);
        let [one, other] = [(); 2].map(|()| Account::new(&budget, 60));
        let first = one.hold(60, Held::Batches);
        assert!(!one.has_room(), "its own limit");
        assert!(other.has_room() && !budget.is_scarce());
        let second = other.hold(40, Held::Messages);
        assert!(!other.has_room(), "the server's limit");
        assert!(budget.is_scarce());
        assert_eq!(
            (budget.held_as(Held::Batches), budget.held_as(Held::Messages)),
            (60, 40)
        );
        drop(first);
        assert!(one.has_room() && other.has_room());
        assert_eq!(second.bytes(), 40);
        drop(second);
        assert_eq!((budget.held(), one.held.load(Ordering::Relaxed)), (0, 0));
    }
    #[test]
    fn messages_have_an_eighth_and_each_connection_a_little() {
        const ALWAYS: usize = MESSAGE_BYTES_ALWAYS;
        let [one, other] = Account::sharing(8 * 4 * ALWAYS);
        let batches = one.hold(8 * 4 * ALWAYS, Held::Batches);
        assert!(!one.has_room());
        let first = one.hold_message(4 * ALWAYS).expect("batches take nothing of it");
        assert!(one.hold_message(1).is_none());
        let second = other.hold_message(ALWAYS).expect("always");
        assert!(other.hold_message(1).is_none());
        assert_eq!(
            one.budget.held_as(Held::Messages),
            5 * ALWAYS,
            "what is refused is not held"
        );
        drop(first);
        let third = other.hold_message(3 * ALWAYS).expect("there is room again");
        assert!(one.hold_message(ALWAYS).is_some());
        drop((batches, second, third));
        assert_eq!((one.budget.held(), other.messages.load(Ordering::Relaxed)), (0, 0));
    }
}
