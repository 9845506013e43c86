//! How often something may happen: a rate, and the bucket that keeps to it.
//!
//! Pure: the time is an argument.

use std::time::{Duration, Instant};

/// So many a second on average, and so many at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rate {
    /// How many come back each second. At least 1.
    pub per_second: u32,
    /// How many there may be at once after a time of rest. At least 1.
    pub burst: u32,
}

impl Rate {
    /// So many a second on average, and so many at once.
    #[must_use]
    pub const fn new(per_second: u32, burst: u32) -> Self {
        Self { per_second, burst }
    }

    pub(crate) fn is_sensible(self) -> bool {
        self.per_second > 0 && self.burst > 0
    }

    fn interval(self) -> Duration {
        Duration::from_secs(1) / self.per_second.max(1)
    }
}

/// Tokens: each thing that happens takes one, and they come back at the rate. Full at first.
#[derive(Debug, Clone)]
pub(crate) struct Bucket {
    rate: Rate,
    /// When all tokens will be back.
    full_at: Instant,
}

impl Bucket {
    pub(crate) fn new(rate: Rate, now: Instant) -> Self {
        Self { rate, full_at: now }
    }

    /// Takes a token; false where there is none, and then nothing is taken.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let interval = self.rate.interval();
        let full_at = self.full_at.max(now) + interval;
        let fits = full_at - now <= interval * self.rate.burst;
        if fits {
            self.full_at = full_at;
        }
        fits
    }

    /// Gives a token back: what it was taken for has turned out to cost nothing.
    pub(crate) fn give_back(&mut self) {
        if let Some(full_at) = self.full_at.checked_sub(self.rate.interval()) {
            self.full_at = full_at;
        }
    }

    /// Whether it is as a new one would be.
    pub(crate) fn is_full(&self, now: Instant) -> bool {
        self.full_at <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn taken(bucket: &mut Bucket, n: usize, now: Instant) -> usize {
        (0..n).filter(|_| bucket.take(now)).count()
    }

    #[test]
    fn a_burst_goes_through_and_then_the_rate() {
        let start = clock::now();
        let mut bucket = Bucket::new(Rate::new(50, 100), start);
        assert_eq!(taken(&mut bucket, 1_000, start), 100);
        let later = |ms| start + Duration::from_millis(ms);
        assert!(!bucket.take(later(19)));
        assert!(bucket.take(later(20)) && !bucket.take(later(20)));
        assert_eq!(taken(&mut bucket, 1_000, later(1_020)), 50);
        // A long rest saves up no more than the burst.
        assert!(bucket.is_full(later(1_000_000)));
        assert_eq!(taken(&mut bucket, 1_000, later(1_000_000)), 100);
    }

    #[test]
    fn who_keeps_to_the_rate_is_never_refused() {
        let start = clock::now();
        let mut bucket = Bucket::new(Rate::new(200, 1), start);
        assert!((0..10_000).all(|n| bucket.take(start + Duration::from_millis(5) * n)));
    }

    #[test]
    fn what_is_given_back_can_be_taken_again_and_saves_up_nothing() {
        let start = clock::now();
        let mut bucket = Bucket::new(Rate::new(1, 2), start);
        for _ in 0..1_000 {
            assert!(bucket.take(start));
            bucket.give_back();
        }
        bucket.give_back();
        assert_eq!(taken(&mut bucket, 10, start), 2);
    }

    #[test]
    fn extremes_neither_panic_nor_overflow() {
        let start = clock::now();
        let mut bucket = Bucket::new(Rate::new(u32::MAX, u32::MAX), start);
        assert!(bucket.take(start));
        let mut slow = Bucket::new(Rate::new(1, u32::MAX), start);
        assert_eq!(taken(&mut slow, 1_000, start), 1_000);
        // An earlier time is no time.
        assert!(bucket.take(start) && !slow.is_full(start));
        assert!(!Rate::new(0, 1).is_sensible() && !Rate::new(1, 0).is_sensible());
    }
}
