//! What was refused before it was a connection, and what operators are told of it.
//!
//! Pure but for the lock around it: the time is an argument. Must not know sockets.

use std::fmt;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::rate::News;

/// How long nothing more is said of connections that are refused: a flood of them must not become one of lines.
const SILENCE: Duration = Duration::from_secs(1);

/// Why a connection is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The server has as many as it may.
    Full,
    /// Its address has as many as it may.
    TooMany,
    /// Its address comes too often.
    TooOften,
    /// The system has no descriptor, or fails otherwise to hand it over.
    NoDescriptor,
    /// The system has no thread.
    NoThread,
}

/// What was refused before it was a connection, since the server was started: see [`ServerHandle::refusals`](super::ServerHandle::refusals).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Refusals {
    /// The server had as many connections as it may.
    pub full: u64,
    /// Their address had as many as it may.
    pub too_many_of_address: u64,
    /// Their address came too often.
    pub too_often_of_address: u64,
    /// The system had no descriptor, or failed otherwise to accept.
    pub no_descriptor: u64,
    /// The system had no thread.
    pub no_thread: u64,
}

impl Refusals {
    /// Each number under the name that operators see.
    pub(super) fn by_reason(self) -> [(&'static str, u64); 5] {
        [
            ("full", self.full),
            ("address_connections", self.too_many_of_address),
            ("address_rate", self.too_often_of_address),
            ("descriptors", self.no_descriptor),
            ("threads", self.no_thread),
        ]
    }

    pub(super) fn total(self) -> u64 {
        self.by_reason().iter().map(|(_, n)| n).sum()
    }

    fn add(&mut self, refusal: Refusal) {
        *match refusal {
            Refusal::Full => &mut self.full,
            Refusal::TooMany => &mut self.too_many_of_address,
            Refusal::TooOften => &mut self.too_often_of_address,
            Refusal::NoDescriptor => &mut self.no_descriptor,
            Refusal::NoThread => &mut self.no_thread,
        } += 1;
    }
}

/// The reasons that there are, each with its number.
impl fmt::Display for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reasons = self.by_reason().into_iter().filter(|(_, n)| *n > 0);
        for (n, (reason, count)) in reasons.enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            write!(f, "{comma}{reason} {count}")?;
        }
        Ok(())
    }
}

/// Counts [`Refusals`], and finds when it is worth saying.
#[derive(Debug)]
pub(super) struct RefusalCounters(Mutex<Counts>);

#[derive(Debug)]
struct Counts {
    all: Refusals,
    /// Those that nothing has been said of yet.
    unsaid: Refusals,
    news: News,
}

impl RefusalCounters {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Counts {
            all: Refusals::default(),
            unsaid: Refusals::default(),
            news: News::once_in(SILENCE),
        }))
    }

    /// One more. What has been refused since the last time that something was to be said, where it is time again.
    pub(super) fn add(&self, refusal: Refusal, now: Instant) -> Option<Refusals> {
        let mut counts = self.0.lock();
        let Counts { all, unsaid, news } = &mut *counts;
        all.add(refusal);
        unsaid.add(refusal);
        news.is_due(now).then(|| std::mem::take(unsaid))
    }

    pub(super) fn read(&self) -> Refusals {
        self.0.lock().all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn the_first_is_told_at_once_and_a_flood_once_a_second_with_its_reasons() {
        let counters = RefusalCounters::new();
        let start = clock::now();
        let mut told = Vec::new();
        for n in 0..2_500_u64 {
            let refusal = if n % 5 == 0 { Refusal::Full } else { Refusal::TooOften };
            if let Some(refusals) = counters.add(refusal, start + Duration::from_millis(n)) {
                told.push((n, refusals.total(), refusals.to_string()));
            }
        }
        let expected = [
            (0, 1, "full 1"),
            (1_000, 1_000, "full 200, address_rate 800"),
            (2_000, 1_000, "full 200, address_rate 800"),
        ];
        assert_eq!(told, expected.map(|(n, total, text)| (n, total, text.to_owned())));
        // What was left over is told with the next, however much later.
        let later = counters.add(Refusal::NoThread, start + Duration::from_secs(3_600));
        let text = later.map(|refusals| refusals.to_string());
        assert_eq!(text.as_deref(), Some("full 99, address_rate 400, threads 1"));
        assert_eq!(counters.read().total(), 2_501);
    }

    #[test]
    fn each_reason_is_counted_by_itself() {
        let counters = RefusalCounters::new();
        let now = clock::now();
        for refusal in [
            Refusal::Full,
            Refusal::TooMany,
            Refusal::TooOften,
            Refusal::NoDescriptor,
            Refusal::NoThread,
        ] {
            counters.add(refusal, now);
        }
        assert_eq!(counters.read().by_reason().map(|(_, n)| n), [1; 5]);
    }
}
