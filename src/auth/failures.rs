//! How often somebody may show a token that nobody has, from one address.
//!
//! Pure: the time is an argument.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::rate::{Bucket, Peer};
use crate::sync::Mutex;

/// Failed attempts of one address in a minute, unless set otherwise.
pub(crate) const FAILURES_PER_MINUTE: u32 = 10;

const MINUTE: Duration = Duration::from_secs(60);

/// Addresses that are remembered. When full, the one that is forgiven soonest is forgotten for the next.
const PEERS_MAX: usize = 4_096;

/// A bucket for each address, of so many failures as a minute allows: each takes one out, and one comes back each so many seconds.
/// Peers without an address are not counted: it could only be all of them together.
#[derive(Debug)]
pub(crate) struct FailureLimit {
    /// 0 where they are not counted.
    per_minute: u32,
    /// Of those who have failures to make up for.
    buckets: Mutex<HashMap<Peer, Bucket>>,
}

impl FailureLimit {
    /// 0 for no limit.
    pub(crate) fn new(failures_per_minute: u32) -> Self {
        Self {
            per_minute: failures_per_minute,
            buckets: Mutex::default(),
        }
    }

    /// Whether an attempt from this address is looked at now.
    ///
    /// # Errors
    /// The time to wait, where it is not.
    pub(crate) fn check(&self, peer: Option<IpAddr>, now: Instant) -> Result<(), Duration> {
        let Some(peer) = peer.filter(|_| self.per_minute > 0) else {
            return Ok(());
        };
        let wait = self
            .buckets
            .lock()
            .get(&Peer::from(peer))
            .map(|bucket| bucket.wait(now));
        match wait {
            None | Some(Duration::ZERO) => Ok(()),
            Some(wait) => Err(wait),
        }
    }

    /// An attempt from this address has failed. Those that were under way together are all counted, up to twice as many as a minute
    /// allows.
    pub(crate) fn failed(&self, peer: Option<IpAddr>, now: Instant) {
        let Some(peer) = peer.filter(|_| self.per_minute > 0).map(Peer::from) else {
            return;
        };
        let mut buckets = self.buckets.lock();
        if buckets.len() >= PEERS_MAX && !buckets.contains_key(&peer) {
            buckets.retain(|_, bucket| !bucket.is_full(now));
            let soonest = buckets.iter().min_by_key(|(_, bucket)| bucket.full_at());
            let soonest = soonest.map(|(peer, _)| *peer);
            if let Some(soonest) = soonest.filter(|_| buckets.len() >= PEERS_MAX) {
                buckets.remove(&soonest);
            }
        }
        let bucket = buckets
            .entry(peer)
            .or_insert_with(|| Bucket::of(self.per_minute, MINUTE, now));
        bucket.overdraw(now);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

    use super::*;
    use crate::clock;

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn after_ten_failures_in_a_minute_there_is_one_each_six_seconds() {
        let limit = FailureLimit::new(FAILURES_PER_MINUTE);
        let (peer, start) = (address("192.0.2.1"), clock::now());
        for n in 0..10 {
            assert_eq!(limit.check(peer, start), Ok(()), "attempt {n}");
            limit.failed(peer, start);
        }
        assert_eq!(limit.check(peer, start), Err(Duration::from_secs(6)));
        assert_eq!(limit.check(address("192.0.2.2"), start), Ok(()), "somebody else");
        let later = start + Duration::from_secs(6);
        assert_eq!(
            limit.check(peer, later - Duration::from_millis(1)),
            Err(Duration::from_millis(1))
        );
        assert_eq!(limit.check(peer, later), Ok(()));
        limit.failed(peer, later);
        assert_eq!(limit.check(peer, later), Err(Duration::from_secs(6)));
        let much_later = later + MINUTE;
        for _ in 0..10 {
            assert_eq!(limit.check(peer, much_later), Ok(()));
            limit.failed(peer, much_later);
        }
        assert!(limit.check(peer, much_later).is_err());
    }

    #[test]
    fn failures_that_were_under_way_together_are_made_up_for_too() {
        let limit = FailureLimit::new(FAILURES_PER_MINUTE);
        let (peer, now) = (address("192.0.2.1"), clock::now());
        for _ in 0..1_000 {
            limit.failed(peer, now);
        }
        assert_eq!(limit.check(peer, now), Err(Duration::from_secs(66)));
    }

    #[test]
    fn one_network_of_ipv6_is_one_peer_and_ipv4_in_ipv6_is_ipv4() {
        let limit = FailureLimit::new(1);
        let now = clock::now();
        limit.failed(address("2001:db8:1:2::1"), now);
        assert!(limit.check(address("2001:db8:1:2:ffff::9"), now).is_err());
        assert!(limit.check(address("2001:db8:1:3::1"), now).is_ok());
        limit.failed(address("::ffff:192.0.2.1"), now);
        assert!(limit.check(address("192.0.2.1"), now).is_err());
    }

    #[test]
    fn nobody_is_counted_without_an_address_or_a_limit() {
        let now = clock::now();
        let limit = FailureLimit::new(1);
        limit.failed(None, now);
        assert!(limit.check(None, now).is_ok());
        let limit = FailureLimit::new(0);
        limit.failed(address("192.0.2.1"), now);
        assert!(limit.check(address("192.0.2.1"), now).is_ok());
    }

    #[test]
    fn so_many_addresses_are_remembered_and_those_forgiven_are_forgotten_first() {
        let limit = FailureLimit::new(1);
        let start = clock::now();
        let nth = |n: usize| Some(IpAddr::from(u32::try_from(n).unwrap().to_be_bytes()));
        for n in 0..PEERS_MAX {
            limit.failed(nth(n), start + Duration::from_millis(n as u64));
        }
        let now = start + Duration::from_secs(30);
        limit.failed(nth(PEERS_MAX), now);
        assert_eq!(limit.buckets.lock().len(), PEERS_MAX);
        assert!(limit.check(nth(0), now).is_ok(), "the soonest to be forgiven");
        assert!(limit.check(nth(1), now).is_err());
        assert!(limit.check(nth(PEERS_MAX), now).is_err());
        let now = start + 3 * MINUTE;
        limit.failed(nth(PEERS_MAX + 1), now);
        assert_eq!(limit.buckets.lock().len(), 1, "all others are forgiven");
    }
}
