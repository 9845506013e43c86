//! How often something may happen: a rate and the bucket that keeps to it, who counts as one, and how often it is worth saying.
//!
//! Pure: the time is an argument.

use std::net::{IpAddr, Ipv4Addr};
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
    /// In which one token comes back.
    interval: Duration,
    /// In which all do.
    fills_in: Duration,
    full_at: Instant,
}

impl Bucket {
    pub(crate) fn new(rate: Rate, now: Instant) -> Self {
        let interval = rate.interval();
        Self {
            interval,
            fills_in: interval * rate.burst,
            full_at: now,
        }
    }

    /// A bucket of so many tokens as come back in that time; of one at least.
    pub(crate) fn of(n_tokens: u32, time: Duration, now: Instant) -> Self {
        Self {
            interval: time / n_tokens.max(1),
            fills_in: time,
            full_at: now,
        }
    }

    /// Takes a token; false where there is none, and then nothing is taken.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let fits = self.wait(now).is_zero();
        if fits {
            self.full_at = self.full_at.max(now) + self.interval;
        }
        fits
    }

    /// Takes a token whether or not there is one: up to twice as many as there may be, and what is beyond that is forgiven.
    pub(crate) fn overdraw(&mut self, now: Instant) {
        self.full_at = (self.full_at.max(now) + self.interval).min(now + 2 * self.fills_in);
    }

    /// Gives a token back: what it was taken for has turned out to cost nothing.
    pub(crate) fn give_back(&mut self) {
        if let Some(full_at) = self.full_at.checked_sub(self.interval) {
            self.full_at = full_at;
        }
    }

    /// Until there is a token; nothing where there is one.
    pub(crate) fn wait(&self, now: Instant) -> Duration {
        let missing = self.full_at.saturating_duration_since(now);
        (missing + self.interval).saturating_sub(self.fills_in)
    }

    /// When all tokens will be back.
    pub(crate) fn full_at(&self) -> Instant {
        self.full_at
    }

    /// Whether it is as a new one would be.
    pub(crate) fn is_full(&self, now: Instant) -> bool {
        self.full_at <= now
    }
}

/// Whoever is counted as one: an IPv4 address, or the 64 bits that name an IPv6 network, because one household or machine is given all of
/// the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Peer {
    V4(Ipv4Addr),
    V6Network(u64),
}

impl From<IpAddr> for Peer {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => Self::V6Network((address.to_bits() >> 64) as u64),
        }
    }
}

/// Something that may happen so often that not each time is worth a line in the log: the first is, and then one once in a while.
#[derive(Debug)]
pub(crate) struct News {
    /// For how long nothing more is said.
    silence: Duration,
    said_at: Option<Instant>,
}

impl News {
    pub(crate) const fn once_in(silence: Duration) -> Self {
        Self { silence, said_at: None }
    }

    /// It has happened: whether that is to be said now.
    pub(crate) fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self.said_at.is_none_or(|at| now >= at + self.silence);
        if is_due {
            self.said_at = Some(now);
        }
        is_due
    }

    /// From when on it may be said again.
    pub(crate) fn due_at(&self) -> Option<Instant> {
        self.said_at.map(|at| at + self.silence)
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
    fn what_is_overdrawn_has_to_be_made_up_for_up_to_a_bound() {
        let start = clock::now();
        let minute = Duration::from_secs(60);
        let mut bucket = Bucket::of(10, minute, start);
        assert_eq!(bucket.wait(start), Duration::ZERO);
        assert_eq!(taken(&mut bucket, 100, start), 10);
        assert_eq!(bucket.wait(start), Duration::from_secs(6));
        for _ in 0..100 {
            bucket.overdraw(start);
        }
        assert_eq!(bucket.full_at(), start + 2 * minute);
        assert_eq!(bucket.wait(start), minute + Duration::from_secs(6));
        assert!(!bucket.take(start + minute) && bucket.take(start + minute + Duration::from_secs(6)));
        assert_eq!(Bucket::of(0, minute, start).wait(start), Duration::ZERO, "one at least");
    }

    #[test]
    fn of_ipv6_a_network_is_one_and_ipv4_is_itself_in_any_clothes() {
        let peer = |text: &str| Peer::from(text.parse::<IpAddr>().expect("an address"));
        assert_eq!(peer("192.0.2.1"), peer("::ffff:192.0.2.1"));
        assert_ne!(peer("192.0.2.1"), peer("192.0.2.2"));
        assert_eq!(peer("2001:db8::1"), peer("2001:db8::ffff:ffff:ffff:ffff"));
        assert_ne!(peer("2001:db8::1"), peer("2001:db8:0:1::1"));
    }

    #[test]
    fn the_first_is_news_and_then_one_once_in_a_while() {
        let start = clock::now();
        let mut news = News::once_in(Duration::from_secs(60));
        let said: Vec<u64> = (0..150)
            .filter(|n| news.is_due(start + Duration::from_secs(*n)))
            .collect();
        assert_eq!(said, [0, 60, 120]);
        assert_eq!(news.due_at(), Some(start + Duration::from_secs(180)));
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
