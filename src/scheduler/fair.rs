//! Who is next among those that share something: priority first, then by weight and bytes, and nobody starves.
//!
//! Used twice by the same rule: by workers for the streams of one connection, and by a connection's writer. Pure: must not know
//! streams, threads or the clock.
//!
//! - A higher priority goes first, though each lower priority in which somebody waits earns one byte for every
//!   [`SHARE_ABOVE`] bytes served above it: a twentieth of the whole, 5 %.
//! - Inside a priority, bytes are shared by weight: start-time fair queueing (Goyal, Vin and Cheng, 1996). Each item has a
//!   virtual time that grows by bytes over weight while it is served; the smallest goes first. Unlike deficit round-robin it
//!   needs no rounds, so that a small weight costs no empty turns and a large one no long ones.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// Highest priority.
pub(crate) const PRIORITY_MAX: u8 = 7;

/// Priority where the client chooses none.
pub(crate) const PRIORITY_DEFAULT: u8 = 3;

/// Largest weight.
pub(crate) const WEIGHT_MAX: u16 = 256;

/// Weight where the client chooses none.
pub(crate) const WEIGHT_DEFAULT: u16 = 16;

/// For so many bytes served above it, a lower priority may have one.
const SHARE_ABOVE: i64 = 19;

/// What a lower priority has earned is given to it in turns of this size.
const SHARE_QUANTUM_BYTES: i64 = 16 * 1024;

/// What a lower priority may have earned and not used.
const EARNED_BYTES_MAX: i64 = 4 * SHARE_QUANTUM_BYTES;

/// How an item stands against the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Rank {
    /// 0 to [`PRIORITY_MAX`], the highest.
    pub(crate) priority: u8,
    /// 1 to [`WEIGHT_MAX`].
    pub(crate) weight: u16,
}

impl Default for Rank {
    fn default() -> Self {
        Self {
            priority: PRIORITY_DEFAULT,
            weight: WEIGHT_DEFAULT,
        }
    }
}

/// What an item has had so far. Its owner keeps it from one turn to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Ticket {
    /// The priority whose clock the times are of; they mean nothing to another's.
    priority: u8,
    finish: u64,
    /// Whether this turn was taken out of what its priority has earned.
    is_share: bool,
}

impl Ticket {
    pub(crate) fn priority(self) -> u8 {
        self.priority
    }
}

#[derive(Debug)]
struct Entry<T> {
    start: u64,
    /// Breaks ties in the order of arrival.
    sequence: u64,
    item: T,
}

impl<T> Entry<T> {
    fn key(&self) -> (u64, u64) {
        (self.start, self.sequence)
    }
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl<T> Eq for Entry<T> {}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Entry<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

/// The items of one priority.
#[derive(Debug)]
struct Class<T> {
    waiting: BinaryHeap<Reverse<Entry<T>>>,
    /// Virtual time: the start of the item served last.
    clock: u64,
    /// Bytes that it may have before those above it.
    earned: i64,
}

impl<T> Class<T> {
    const fn new() -> Self {
        Self {
            waiting: BinaryHeap::new(),
            clock: 0,
            earned: 0,
        }
    }
}

/// A queue that serves by priority, weight and bytes.
#[derive(Debug)]
pub(crate) struct FairQueue<T> {
    classes: [Class<T>; PRIORITY_MAX as usize + 1],
    sequence: u64,
}

impl<T> FairQueue<T> {
    pub(crate) const fn new() -> Self {
        Self {
            classes: [const { Class::new() }; PRIORITY_MAX as usize + 1],
            sequence: 0,
        }
    }

    /// Adds an item, with the ticket of its last turn.
    pub(crate) fn push(&mut self, item: T, rank: Rank, ticket: Ticket) {
        self.sequence += 1;
        let sequence = self.sequence;
        let class = &mut self.classes[usize::from(rank.priority.min(PRIORITY_MAX))];
        let finish = if ticket.priority == rank.priority {
            ticket.finish
        } else {
            0
        };
        // Who was away has not saved up for it.
        let start = finish.max(class.clock);
        class.waiting.push(Reverse(Entry { start, sequence, item }));
    }

    /// The item whose turn it is, and the ticket for it. What it is given is to be [told](Self::served).
    pub(crate) fn pop(&mut self) -> Option<(T, Ticket)> {
        self.pop_beside(None)
    }

    /// The ticket of an item of this priority that is served for the first time, without having waited here.
    pub(crate) fn newcomer(&self, priority: u8) -> Ticket {
        Ticket {
            priority,
            finish: self.classes[usize::from(priority.min(PRIORITY_MAX))].clock,
            is_share: false,
        }
    }

    /// As [`pop`](Self::pop), where others are being served at the same time: those below the highest priority of them have only
    /// what they have earned, so that `None` is given also where somebody waits.
    pub(crate) fn pop_beside(&mut self, highest_served: Option<u8>) -> Option<(T, Ticket)> {
        let (idx, is_share) = self.choose(highest_served)?;
        let class = &mut self.classes[idx];
        let Reverse(Entry { start, item, .. }) = class.waiting.pop()?;
        class.clock = class.clock.max(start);
        let ticket = Ticket {
            priority: idx as u8,
            finish: start,
            is_share,
        };
        Some((item, ticket))
    }

    /// Whether [`pop_beside`](Self::pop_beside) would give something.
    pub(crate) fn has_turn_beside(&self, highest_served: Option<u8>) -> bool {
        self.choose(highest_served).is_some()
    }

    /// The priority of whoever is next and not out of what it has earned; `None` also where nobody waits.
    pub(crate) fn next_priority(&self) -> Option<u8> {
        self.choose(None)
            .and_then(|(idx, is_share)| (!is_share).then_some(idx as u8))
    }

    /// The priority whose turn it is, and whether it is out of what it has earned.
    fn choose(&self, highest_served: Option<u8>) -> Option<(usize, bool)> {
        let waits = |class: &Class<T>| !class.waiting.is_empty();
        let highest = self.classes.iter().rposition(waits)?;
        let below = highest.max(highest_served.map_or(0, usize::from));
        let starved = self.classes[..below]
            .iter()
            .position(|class| waits(class) && class.earned >= SHARE_QUANTUM_BYTES);
        match starved {
            Some(idx) => Some((idx, true)),
            None => (highest == below).then_some((highest, false)),
        }
    }

    /// An item with this ticket has been given so many bytes.
    pub(crate) fn served(&mut self, ticket: &mut Ticket, rank: Rank, bytes: usize) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX / 1024);
        let scaled = bytes.unsigned_abs() * u64::from(WEIGHT_MAX) / u64::from(rank.weight.max(1));
        ticket.finish = ticket.finish.saturating_add(scaled);
        let above = usize::from(ticket.priority.min(PRIORITY_MAX));
        if ticket.is_share {
            self.classes[above].earned -= bytes;
        }
        for class in &mut self.classes[..above] {
            // Nobody saves up while nobody waits, though debts are paid then too; and nobody saves up for a burst.
            let earned_max = if class.waiting.is_empty() { 0 } else { EARNED_BYTES_MAX };
            class.earned = (class.earned + bytes / SHARE_ABOVE + 1).min(earned_max);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.classes.iter().all(|class| class.waiting.is_empty())
    }

    pub(crate) fn len(&self) -> usize {
        self.classes.iter().map(|class| class.waiting.len()).sum()
    }

    /// Keeps only the items that `keep` says yes to.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        for class in &mut self.classes {
            class.waiting.retain(|Reverse(entry)| keep(&entry.item));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const TURN_BYTES: usize = 32 * 1024;

    fn rank(priority: u8, weight: u16) -> Rank {
        Rank { priority, weight }
    }

    /// Serves items that always have more, `sizes` at a time in turn, and returns the bytes that each got.
    fn share(ranks: &[Rank], sizes: &[usize], n_turns: usize) -> Vec<u64> {
        let mut queue = FairQueue::new();
        let mut got = vec![0; ranks.len()];
        for (item, rank) in ranks.iter().enumerate() {
            queue.push(item, *rank, Ticket::default());
        }
        for turn in 0..n_turns {
            let (item, mut ticket) = queue.pop().expect("items are put back");
            let bytes = sizes[turn % sizes.len()];
            got[item] += bytes as u64;
            queue.served(&mut ticket, ranks[item], bytes);
            queue.push(item, ranks[item], ticket);
        }
        got
    }

    /// (sum x)^2 / (n * sum x^2), Jain, Chiu and Hawe, 1984: 1 where all have the same.
    fn jain(got: &[u64]) -> f64 {
        let sum: f64 = got.iter().map(|x| *x as f64).sum();
        let squares: f64 = got.iter().map(|x| (*x as f64).powi(2)).sum();
        sum * sum / (got.len() as f64 * squares)
    }

    #[test]
    fn equals_share_equally_whatever_their_batches() {
        let got = share(&[Rank::default(); 128], &[1_000, 250_000, 30_000, 7], 20_000);
        assert!(jain(&got) > 0.99, "{got:?}");
    }

    #[test]
    fn weights_are_proportions() {
        let ranks = [rank(3, 16), rank(3, 32), rank(3, 64)];
        let got = share(&ranks, &[TURN_BYTES, 15_000], 7_000);
        let unit = got.iter().sum::<u64>() as f64 / 7.0;
        for (bytes, weight) in got.iter().zip([1.0, 2.0, 4.0]) {
            assert!((*bytes as f64 / (unit * weight) - 1.0).abs() < 0.01, "{got:?}");
        }
        let extremes = share(&[rank(0, 1), rank(0, 256)], &[TURN_BYTES], 25_700);
        assert!(
            (extremes[1] as f64 / extremes[0] as f64 / 256.0 - 1.0).abs() < 0.05,
            "{extremes:?}"
        );
    }

    #[test]
    fn the_urgent_go_first_and_nobody_starves() {
        let mut ranks = vec![rank(1, 16); 127];
        ranks.push(rank(7, 16));
        for sizes in [&[TURN_BYTES][..], &[250_000], &[500]] {
            let got = share(&ranks, sizes, 20_000);
            let all: u64 = got.iter().sum();
            let urgent = got[127] as f64 / all as f64;
            assert!((0.94..0.96).contains(&urgent), "{urgent}");
        }
        let every: Vec<Rank> = (0..=PRIORITY_MAX).map(|priority| rank(priority, 16)).collect();
        let got = share(&every, &[TURN_BYTES], 20_000);
        let all: u64 = got.iter().sum();
        let shares: Vec<f64> = got.iter().map(|bytes| *bytes as f64 / all as f64).collect();
        assert!(shares.iter().all(|share| *share >= 0.03), "{shares:?}");
        assert!(shares[0] >= 0.05 && shares[7] > 0.6, "{shares:?}");
    }

    #[test]
    fn who_was_away_has_not_saved_up() {
        let mut queue = FairQueue::new();
        queue.push("busy", Rank::default(), Ticket::default());
        for _ in 0..100 {
            let (item, mut ticket) = queue.pop().expect("it is put back");
            queue.served(&mut ticket, Rank::default(), TURN_BYTES);
            queue.push(item, Rank::default(), ticket);
        }
        queue.push("back", Rank::default(), Ticket::default());
        let mut turns = HashMap::new();
        for _ in 0..100 {
            let (item, mut ticket) = queue.pop().expect("they are put back");
            *turns.entry(item).or_insert(0) += 1;
            queue.served(&mut ticket, Rank::default(), TURN_BYTES);
            queue.push(item, Rank::default(), ticket);
        }
        assert!(turns["back"] <= 51, "{turns:?}");
    }

    #[test]
    fn beside_somebody_urgent_there_is_only_what_was_earned() {
        let mut queue = FairQueue::new();
        queue.push("low", rank(1, 16), Ticket::default());
        assert!(queue.pop_beside(Some(7)).is_none());
        assert!(queue.has_turn_beside(Some(1)) && queue.has_turn_beside(None));
        let mut urgent = Ticket {
            priority: 7,
            ..Ticket::default()
        };
        for _ in 0..10 {
            queue.served(&mut urgent, rank(7, 16), TURN_BYTES);
        }
        let (_, mut ticket) = queue.pop_beside(Some(7)).expect("its share");
        queue.served(&mut ticket, rank(1, 16), TURN_BYTES);
        queue.push("low", rank(1, 16), ticket);
        assert!(queue.pop_beside(Some(7)).is_none(), "which it has had");
    }

    #[test]
    fn another_priority_is_another_clock() {
        let mut queue = FairQueue::new();
        queue.push("old", rank(7, 1), Ticket::default());
        let (_, mut ticket) = queue.pop().expect("just pushed");
        queue.served(&mut ticket, rank(7, 1), 1 << 30);
        queue.push("new", rank(2, 16), Ticket::default());
        queue.push("old", rank(2, 16), ticket);
        assert_eq!(queue.pop().map(|(item, _)| item), Some("new"));
        assert_eq!(
            queue.pop().map(|(item, _)| item),
            Some("old"),
            "its long turn does not count here"
        );
    }
}
