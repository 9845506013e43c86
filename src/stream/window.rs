//! Flow control of one stream: which batches were made, sent and acknowledged, and whether another may follow.
//!
//! Pure arithmetic over batch numbers and bytes. Must not know what a batch is, who sends it, or what time it is.

use std::collections::VecDeque;

use super::pace::Reach;

/// How much may be unacknowledged. With nothing unacknowledged, one batch may always go, however big.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct WindowLimits {
    pub(crate) batches: u32,
    pub(crate) bytes: u64,
}

impl WindowLimits {
    /// Whether one more batch fits behind `batches` that have `bytes`.
    fn admit(self, batches: u64, bytes: u64) -> bool {
        batches == 0 || (batches < u64::from(self.batches) && bytes < self.bytes)
    }
}

/// What a batch brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Made {
    pub(crate) bytes: u64,
    pub(crate) rows: u64,
    /// The engine's work up to its last row, from the start of the query.
    pub(crate) work: u64,
}

/// An acknowledgement, or a resume position, beyond what was ever sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct BeyondSent {
    /// How many batches were sent.
    pub(crate) sent: u64,
}

/// A resume position before what is still held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum RewindError {
    /// Batches before this one have been acknowledged and given up.
    Gap {
        oldest: u64,
    },
    Beyond(BeyondSent),
}

/// The batches of one stream by number: `acked ≤ next ≤ made` and `next ≤ sent ≤ made`, where each is the number of batches
/// that have come that far.
///
/// Without limits nobody acknowledges, so a batch counts as acknowledged once it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Window {
    limits: Option<WindowLimits>,
    acked: u64,
    /// The next to send on the present connection.
    next: u64,
    /// Sent at least once, on whatever connection.
    sent: u64,
    /// Each batch from `acked` on.
    unacked: VecDeque<Made>,
    bytes_made: u64,
    /// Of the batches from `acked` to `next`.
    bytes_flying: u64,
    /// What the batches before `acked` brought.
    delivered: Reach,
}

impl Window {
    pub(crate) fn new(limits: Option<WindowLimits>) -> Self {
        Self {
            limits,
            acked: 0,
            next: 0,
            sent: 0,
            unacked: VecDeque::new(),
            bytes_made: 0,
            bytes_flying: 0,
            delivered: Reach::default(),
        }
    }

    /// The engine has made the next batch.
    pub(crate) fn made(&mut self, made: Made) {
        self.unacked.push_back(made);
        self.bytes_made += made.bytes;
    }

    /// The next batch goes out. Returns its number, and whether this is the first time.
    pub(crate) fn send(&mut self) -> (u64, bool) {
        let number = self.next;
        debug_assert!(number < self.made_count(), "only what was made is sent");
        self.bytes_flying += self.size(number);
        self.next += 1;
        let is_first = self.next > self.sent;
        self.sent = self.sent.max(self.next);
        if self.limits.is_none() {
            self.free_to(self.next);
        }
        (number, is_first)
    }

    /// Batches up to and including `number` have been processed. Returns how many of them were not acknowledged before; none for
    /// an old acknowledgement that came late.
    pub(crate) fn ack(&mut self, number: u64) -> Result<u64, BeyondSent> {
        if number >= self.sent {
            return Err(BeyondSent { sent: self.sent });
        }
        Ok(self.free_to(number + 1))
    }

    /// A new connection wants everything from batch `from` on; what is before has been processed. Returns how many batches that
    /// acknowledges.
    pub(crate) fn rewind(&mut self, from: u64) -> Result<u64, RewindError> {
        if from > self.sent {
            return Err(RewindError::Beyond(BeyondSent { sent: self.sent }));
        }
        if from < self.acked {
            return Err(RewindError::Gap { oldest: self.acked });
        }
        let freed = self.free_to(from);
        self.next = from;
        self.bytes_flying = 0;
        Ok(freed)
    }

    /// Nothing that is held will be sent any more. Later acknowledgements find nothing to free.
    pub(crate) fn give_up(&mut self) {
        self.acked = self.made_count();
        self.next = self.acked;
        self.unacked.clear();
        self.bytes_made = 0;
        self.bytes_flying = 0;
    }

    pub(crate) fn set_limits(&mut self, limits: WindowLimits) {
        self.limits = Some(limits);
    }

    pub(crate) fn limits(&self) -> Option<WindowLimits> {
        self.limits
    }

    /// Whether the engine may make another batch for a client that is there.
    pub(crate) fn may_make(&self) -> bool {
        self.limits
            .is_none_or(|limits| limits.admit(self.unacked(), self.bytes_made))
    }

    /// Whether at most half of the window is taken: worth waking a worker for.
    pub(crate) fn is_half_open(&self) -> bool {
        self.limits
            .is_none_or(|limits| self.unacked() <= u64::from(limits.batches / 2) && self.bytes_made <= limits.bytes / 2)
    }

    /// Whether the next batch may be sent now.
    pub(crate) fn may_send(&self) -> bool {
        self.limits
            .is_none_or(|limits| limits.admit(self.next - self.acked, self.bytes_flying))
    }

    /// Batches made and not acknowledged.
    pub(crate) fn unacked(&self) -> u64 {
        self.unacked.len() as u64
    }

    /// Bytes of the batches made and not acknowledged.
    pub(crate) fn unacked_bytes(&self) -> u64 {
        self.bytes_made
    }

    /// Batches made and not yet sent on the present connection.
    pub(crate) fn pending(&self) -> u64 {
        self.made_count() - self.next
    }

    /// What of `done` has come to the client: acknowledged, or sent where nobody acknowledges. The work after the last batch has
    /// brought nothing that it could lack.
    pub(crate) fn delivered(&self, done: Reach) -> Reach {
        Reach {
            rows: self.delivered.rows,
            work: if self.unacked.is_empty() {
                done.work
            } else {
                self.delivered.work
            },
        }
    }

    pub(crate) fn acked(&self) -> u64 {
        self.acked
    }

    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    fn made_count(&self) -> u64 {
        self.acked + self.unacked.len() as u64
    }

    fn size(&self, number: u64) -> u64 {
        let idx = usize::try_from(number - self.acked).unwrap_or(usize::MAX);
        self.unacked.get(idx).map_or(0, |made| made.bytes)
    }

    /// Acknowledges all before `end`.
    fn free_to(&mut self, end: u64) -> u64 {
        let before = self.acked;
        while self.acked < end
            && let Some(Made { bytes, rows, work }) = self.unacked.pop_front()
        {
            self.bytes_made -= bytes;
            if self.acked < self.next {
                self.bytes_flying -= bytes;
            }
            self.delivered.rows += rows;
            self.delivered.work = self.delivered.work.max(work);
            self.acked += 1;
        }
        self.next = self.next.max(self.acked);
        self.acked - before
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

    use super::*;

    fn batch(bytes: u64) -> Made {
        Made {
            bytes,
            ..Made::default()
        }
    }

    fn window(batches: u32, bytes: u64) -> Window {
        Window::new(Some(WindowLimits { batches, bytes }))
    }

    #[test]
    fn both_bounds_close_it_and_an_ack_opens_it() {
        let mut by_count = window(2, 1_000);
        let mut by_bytes = window(100, 10);
        for window in [&mut by_count, &mut by_bytes] {
            assert!(window.may_make());
            window.made(batch(5));
            window.made(batch(5));
            assert!(!window.may_make());
            assert_eq!(window.send(), (0, true));
            assert_eq!(window.send(), (1, true));
            assert!(!window.may_send());
            assert_eq!(window.ack(0), Ok(1));
            assert!(window.may_make() && window.may_send());
        }
    }

    #[test]
    fn with_nothing_unacknowledged_one_batch_may_go_however_big() {
        let mut window = window(1, 1);
        assert!(window.may_make());
        window.made(batch(u64::from(u32::MAX)));
        assert!(window.may_send());
        window.send();
        assert!(!window.may_make());
        window.ack(0).unwrap();
        assert!(window.may_make());
    }

    #[test]
    fn acks_never_go_back_and_never_beyond_what_was_sent() {
        let mut window = window(10, 1_000);
        window.made(batch(1));
        assert_eq!(window.ack(0), Err(BeyondSent { sent: 0 }), "made, not sent");
        window.made(batch(1));
        window.send();
        window.send();
        assert_eq!(window.ack(1), Ok(2));
        assert_eq!(window.ack(0), Ok(0));
        assert_eq!(window.ack(u64::MAX), Err(BeyondSent { sent: 2 }));
        assert_eq!(window.acked(), 2);
    }

    #[test]
    fn a_rewind_starts_the_window_anew_and_knows_its_bounds() {
        let mut window = window(2, 1_000);
        for _ in 0..2 {
            window.made(batch(1));
            window.send();
        }
        assert_eq!(window.rewind(3), Err(RewindError::Beyond(BeyondSent { sent: 2 })));
        assert_eq!(window.rewind(1), Ok(1));
        assert_eq!(window.rewind(0), Err(RewindError::Gap { oldest: 1 }));
        assert_eq!(window.send(), (1, false));
        assert_eq!(window.pending(), 0);
        // What was sent on the connection before may be acknowledged on this one.
        window.rewind(1).unwrap();
        assert_eq!(window.ack(1), Ok(1));
        assert_eq!((window.next(), window.unacked()), (2, 0));
    }

    #[test]
    fn without_limits_what_is_sent_is_done_with() {
        let mut window = Window::new(None);
        for _ in 0..100 {
            window.made(batch(u64::from(u32::MAX)));
            assert!(window.may_make() && window.may_send());
        }
        for _ in 0..100 {
            window.send();
        }
        assert_eq!((window.unacked(), window.unacked_bytes()), (0, 0));
    }

    #[test]
    fn what_a_client_has_counts_once_whatever_is_sent_again() {
        let mut window = window(3, 1_000);
        let done = Reach { rows: 30, work: 99 };
        assert_eq!(
            window.delivered(done),
            Reach { rows: 0, work: 99 },
            "there is nothing to have"
        );
        for work in [10, 40, 80] {
            let (bytes, rows) = (1, 10);
            window.made(Made { bytes, rows, work });
            window.send();
        }
        assert_eq!(window.delivered(done), Reach::default());
        window.ack(0).unwrap();
        window.rewind(2).unwrap();
        assert_eq!(window.delivered(done), Reach { rows: 20, work: 40 });
        assert_eq!(window.send(), (2, false));
        assert_eq!(window.delivered(done), Reach { rows: 20, work: 40 });
        window.ack(2).unwrap();
        assert_eq!(window.delivered(done), done);
    }
}
