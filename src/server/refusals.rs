//! What was refused before it was a connection or an upgrade, and what operators are told of it.
//!
//! Pure but for the lock around it: the time is an argument. Must not know sockets.

use std::fmt;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::rate::News;

/// How long nothing more is said of connections that are refused: a flood of them must not become one of lines.
const SILENCE: Duration = Duration::from_secs(1);

/// Why a connection is not let in, or its request refused for where it comes from.
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
    /// Its request calls the server by a name that is not its own.
    Host,
    /// Its request comes from a page of another origin.
    Origin,
}

/// What was refused before it was a connection or an upgrade, since the server was started: see [`ServerHandle::refusals`](super::ServerHandle::refusals).
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
    /// Their request called the server by a name that [`allowed_hosts`](super::ServerBuilder::allowed_hosts) does not list.
    pub foreign_host: u64,
    /// Their request came from a page of an origin that [`allowed_origins`](super::ServerBuilder::allowed_origins) does not list.
    pub foreign_origin: u64,
}

impl Refusals {
    /// Each number of connections that were not served, under the name that operators see.
    pub(super) fn unserved(self) -> [(&'static str, u64); 5] {
        [
            ("full", self.full),
            ("address_connections", self.too_many_of_address),
            ("address_rate", self.too_often_of_address),
            ("descriptors", self.no_descriptor),
            ("threads", self.no_thread),
        ]
    }

    /// Each number of requests that were refused for where they came from, under the name that operators see.
    pub(super) fn foreign(self) -> [(&'static str, u64); 2] {
        [("host", self.foreign_host), ("origin", self.foreign_origin)]
    }

    fn by_reason(self) -> impl Iterator<Item = (&'static str, u64)> {
        self.unserved().into_iter().chain(self.foreign())
    }

    pub(super) fn total(self) -> u64 {
        self.by_reason().map(|(_, n)| n).sum()
    }

    fn add(&mut self, refusal: Refusal) {
        *match refusal {
            Refusal::Full => &mut self.full,
            Refusal::TooMany => &mut self.too_many_of_address,
            Refusal::TooOften => &mut self.too_often_of_address,
            Refusal::NoDescriptor => &mut self.no_descriptor,
            Refusal::NoThread => &mut self.no_thread,
            Refusal::Host => &mut self.foreign_host,
            Refusal::Origin => &mut self.foreign_origin,
        } += 1;
    }
}

/// The reasons that there are, each with its number.
impl fmt::Display for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reasons = self.by_reason().filter(|(_, n)| *n > 0);
        for (n, (reason, count)) in reasons.enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            write!(f, "{comma}{reason} {count}")?;
        }
        Ok(())
    }
}

/// What operators are to be told.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Unsaid {
    pub(super) refusals: Refusals,
    /// The last of them, where it was accepted.
    pub(super) peer: Option<String>,
    /// The last that the system has said, or a rule that refuses.
    pub(super) error: Option<String>,
}

/// What follows from a refusal.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Say {
    /// This is to be said now.
    Now(Unsaid),
    /// [`later`](RefusalCounters::later) is to be asked then.
    Later(Instant),
    Nothing,
}

/// Counts [`Refusals`], and finds when they are worth saying: the first at once, and then once a second those since.
#[derive(Debug)]
pub(super) struct RefusalCounters(Mutex<Counts>);

#[derive(Debug)]
struct Counts {
    all: Refusals,
    unsaid: Unsaid,
    news: News,
    /// Whether somebody will ask for what is unsaid.
    is_later: bool,
}

impl RefusalCounters {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Counts {
            all: Refusals::default(),
            unsaid: Unsaid::default(),
            news: News::once_in(SILENCE),
            is_later: false,
        }))
    }

    /// One more, of this peer and for this error, where there are.
    pub(super) fn add(&self, refusal: Refusal, peer: Option<String>, error: Option<String>, now: Instant) -> Say {
        let mut counts = self.0.lock();
        let Counts {
            all,
            unsaid,
            news,
            is_later,
        } = &mut *counts;
        all.add(refusal);
        unsaid.refusals.add(refusal);
        unsaid.peer = peer.or(unsaid.peer.take());
        unsaid.error = error.or(unsaid.error.take());
        if news.is_due(now) {
            return Say::Now(std::mem::take(unsaid));
        }
        match news.due_at() {
            Some(at) if !std::mem::replace(is_later, true) => Say::Later(at),
            Some(_) | None => Say::Nothing,
        }
    }

    /// What has been left unsaid, when its time has come.
    pub(super) fn later(&self, now: Instant) -> Say {
        let mut counts = self.0.lock();
        let Counts {
            all: _,
            unsaid,
            news,
            is_later,
        } = &mut *counts;
        match news.due_at() {
            Some(at) if now < at && unsaid.refusals.total() > 0 => return Say::Later(at),
            Some(_) | None => *is_later = false,
        }
        if unsaid.refusals.total() > 0 && news.is_due(now) {
            Say::Now(std::mem::take(unsaid))
        } else {
            Say::Nothing
        }
    }

    /// What has been left unsaid, at the end.
    pub(super) fn rest(&self) -> Option<Unsaid> {
        let unsaid = std::mem::take(&mut self.0.lock().unsaid);
        Some(unsaid).filter(|unsaid| unsaid.refusals.total() > 0)
    }

    pub(super) fn read(&self) -> Refusals {
        self.0.lock().all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn told(say: Say) -> Option<String> {
        match say {
            Say::Now(Unsaid { refusals, .. }) => Some(refusals.to_string()),
            Say::Later(_) | Say::Nothing => None,
        }
    }

    #[test]
    fn the_first_is_told_at_once_and_a_flood_once_a_second_with_its_reasons() {
        let counters = RefusalCounters::new();
        let start = clock::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut lines = Vec::new();
        let mut later = Vec::new();
        for n in 0..2_500_u64 {
            let refusal = if n % 5 == 0 { Refusal::Full } else { Refusal::TooOften };
            match counters.add(refusal, None, None, at(n)) {
                Say::Later(time) => later.push((n, time)),
                Say::Now(unsaid) => lines.push((n, unsaid.refusals.to_string())),
                Say::Nothing => {}
            }
        }
        let flood = "full 200, address_rate 800";
        assert_eq!(
            lines,
            [(0, "full 1"), (1_000, flood), (2_000, flood)].map(|(n, text)| (n, text.to_owned()))
        );
        assert_eq!(later, [(1, at(1_000))], "somebody asks once");
        // Asked a little late: it has been said since, and there is more.
        assert_eq!(counters.later(at(2_500)), Say::Later(at(3_000)));
        assert_eq!(
            told(counters.later(at(3_000))).as_deref(),
            Some("full 99, address_rate 400")
        );
        assert_eq!(counters.later(at(3_001)), Say::Nothing);
        // Nobody asks any more, so that the next has to be asked for anew.
        let next = counters.add(Refusal::NoThread, None, None, at(3_500));
        assert_eq!(next, Say::Later(at(4_000)));
        let rest = counters.rest().map(|unsaid| unsaid.refusals.to_string());
        assert_eq!((rest.as_deref(), counters.rest()), (Some("threads 1"), None));
        assert_eq!(counters.later(at(4_000)), Say::Nothing);
        assert_eq!(counters.read().total(), 2_501);
    }

    #[test]
    fn the_last_peer_and_the_last_error_are_examples() {
        let counters = RefusalCounters::new();
        let start = clock::now();
        let add = |peer: Option<&str>, error: Option<&str>, now| {
            let owned = |text: Option<&str>| text.map(str::to_owned);
            counters.add(Refusal::NoThread, owned(peer), owned(error), now)
        };
        let expect = |say, peer: Option<&str>, error: Option<&str>| {
            let Say::Now(unsaid) = say else { panic!("{say:?}") };
            assert_eq!((unsaid.peer.as_deref(), unsaid.error.as_deref()), (peer, error));
        };
        expect(add(Some("a"), None, start), Some("a"), None);
        add(None, Some("too many"), start);
        add(Some("b"), None, start);
        expect(counters.later(start + SILENCE), Some("b"), Some("too many"));
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
            Refusal::Host,
            Refusal::Origin,
        ] {
            counters.add(refusal, None, None, now);
        }
        assert_eq!(counters.read().unserved().map(|(_, n)| n), [1; 5]);
        assert_eq!(counters.read().foreign().map(|(_, n)| n), [1; 2]);
    }
}
