//! How often somebody may show a token that nobody has, from one address.
//!
//! What is counted is guesses: one wrong token that a program shows again and again is one guess, and locks out that token alone. A token
//! that has let somebody in before is looked at in any case. Tokens are told apart as a whole, by their hashes: those of one issuer begin
//! alike.
//!
//! Pure: the time is an argument.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::secret::Fingerprint;
use crate::rate::{Bucket, Peer};
use crate::sync::Mutex;

/// Failed attempts of one address in a minute, unless set otherwise.
pub(crate) const FAILURES_PER_MINUTE: u32 = 10;

const MINUTE: Duration = Duration::from_secs(60);

/// Addresses that are remembered. When full, the one that is forgiven soonest is forgotten for the next.
const PEERS_MAX: usize = 4_096;

/// Wrong tokens of one address that are told apart. When full, the oldest is forgotten for the next.
const TOKENS_OF_PEER_MAX: usize = 8;

/// Right tokens that are remembered. When full, the oldest is forgotten for the next.
const RIGHT_MAX: usize = 4_096;

/// A bucket for each address, of so many guesses as a minute allows, and one for each wrong token of it: each failure takes one out, and
/// one comes back each so many seconds. Peers without an address are not counted: it could only be all of them together.
#[derive(Debug)]
pub(crate) struct FailureLimit {
    /// 0 where they are not counted.
    per_minute: u32,
    /// Of those who have failures to make up for.
    peers: Mutex<HashMap<Peer, Failures>>,
    right: Mutex<RightTokens>,
}

/// A token's hash; `None` for what cannot be one.
type Shown<'a> = Option<&'a Fingerprint>;

/// What one address has to make up for.
#[derive(Debug)]
struct Failures {
    guesses: Bucket,
    /// The oldest first.
    by_token: VecDeque<(Option<[u8; 32]>, Bucket)>,
}

impl Failures {
    fn of_token(&mut self, token: Shown<'_>) -> Option<&mut Bucket> {
        let token = token.map(Fingerprint::as_bytes);
        let mut known = self.by_token.iter_mut();
        known
            .find(|(known, _)| known.as_ref() == token)
            .map(|(_, bucket)| bucket)
    }
}

/// The last tokens that have let somebody in.
#[derive(Debug, Default)]
struct RightTokens {
    known: HashSet<[u8; 32]>,
    /// The oldest first.
    order: VecDeque<[u8; 32]>,
}

impl RightTokens {
    fn add(&mut self, token: &[u8; 32]) {
        if !self.known.insert(*token) {
            return;
        }
        if self.order.len() == RIGHT_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.order.push_back(*token);
    }

    fn forget(&mut self, token: &[u8; 32]) {
        if self.known.remove(token) {
            self.order.retain(|known| known != token);
        }
    }
}

impl FailureLimit {
    /// 0 for no limit.
    pub(crate) fn new(failures_per_minute: u32) -> Self {
        Self {
            per_minute: failures_per_minute,
            peers: Mutex::default(),
            right: Mutex::default(),
        }
    }

    /// Whether an attempt from this address with this token is one too many.
    ///
    /// # Errors
    /// The time to wait, where it is.
    pub(crate) fn check(&self, peer: Option<IpAddr>, token: Shown<'_>, now: Instant) -> Result<(), Duration> {
        let Some(peer) = peer.filter(|_| self.per_minute > 0) else {
            return Ok(());
        };
        let wait = {
            let mut peers = self.peers.lock();
            let Some(failures) = peers.get_mut(&Peer::from(peer)) else {
                return Ok(());
            };
            let of_token = failures.of_token(token).map(|bucket| bucket.wait(now));
            failures.guesses.wait(now).max(of_token.unwrap_or_default())
        };
        let is_right = |token: &Fingerprint| self.right.lock().known.contains(token.as_bytes());
        if wait.is_zero() || token.is_some_and(is_right) {
            Ok(())
        } else {
            Err(wait)
        }
    }

    /// An attempt from this address has failed. Those that were under way together are all counted, up to twice as many as a minute
    /// allows.
    pub(crate) fn failed(&self, peer: Option<IpAddr>, token: Shown<'_>, now: Instant) {
        let Some(peer) = peer.filter(|_| self.per_minute > 0).map(Peer::from) else {
            return;
        };
        if let Some(token) = token {
            self.right.lock().forget(token.as_bytes());
        }
        let mut peers = self.peers.lock();
        if peers.len() >= PEERS_MAX && !peers.contains_key(&peer) {
            peers.retain(|_, failures| !failures.guesses.is_full(now));
            let soonest = peers.iter().min_by_key(|(_, failures)| failures.guesses.full_at());
            let soonest = soonest.map(|(peer, _)| *peer);
            if let Some(soonest) = soonest.filter(|_| peers.len() >= PEERS_MAX) {
                peers.remove(&soonest);
            }
        }
        let bucket = || Bucket::of(self.per_minute, MINUTE, now);
        let failures = peers.entry(peer).or_insert_with(|| Failures {
            guesses: bucket(),
            by_token: VecDeque::new(),
        });
        match failures.of_token(token) {
            Some(again) if !again.is_full(now) => again.overdraw(now),
            Some(long_ago) => {
                long_ago.overdraw(now);
                failures.guesses.overdraw(now);
            }
            None => {
                if failures.by_token.len() == TOKENS_OF_PEER_MAX {
                    failures.by_token.pop_front();
                }
                let mut first = bucket();
                first.overdraw(now);
                failures
                    .by_token
                    .push_back((token.map(|token| *token.as_bytes()), first));
                failures.guesses.overdraw(now);
            }
        }
    }

    /// This token has let somebody in.
    pub(crate) fn succeeded(&self, token: &Fingerprint) {
        if self.per_minute > 0 {
            self.right.lock().add(token.as_bytes());
        }
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

    fn guess(n: u32) -> Fingerprint {
        Fingerprint::of(&format!("guess {n}"))
    }

    #[test]
    fn after_ten_failures_in_a_minute_there_is_one_each_six_seconds() {
        let limit = FailureLimit::new(FAILURES_PER_MINUTE);
        let (peer, start) = (address("192.0.2.1"), clock::now());
        let check = |n, now| limit.check(peer, Some(&guess(n)), now);
        let failed = |n, now| limit.failed(peer, Some(&guess(n)), now);
        for n in 0..10 {
            assert_eq!(check(n, start), Ok(()), "attempt {n}");
            failed(n, start);
        }
        assert_eq!(check(10, start), Err(Duration::from_secs(6)));
        assert_eq!(limit.check(peer, None, start), Err(Duration::from_secs(6)));
        let elsewhere = address("192.0.2.2");
        assert_eq!(
            limit.check(elsewhere, Some(&guess(10)), start),
            Ok(()),
            "another address"
        );
        let later = start + Duration::from_secs(6);
        assert_eq!(
            check(10, later - Duration::from_millis(1)),
            Err(Duration::from_millis(1))
        );
        assert_eq!(check(10, later), Ok(()));
        failed(10, later);
        assert_eq!(check(11, later), Err(Duration::from_secs(6)));
        let much_later = later + MINUTE;
        for n in 20..30 {
            assert_eq!(check(n, much_later), Ok(()));
            failed(n, much_later);
        }
        assert!(check(30, much_later).is_err());
    }

    #[test]
    fn one_wrong_token_again_and_again_locks_out_itself_alone() {
        let limit = FailureLimit::new(FAILURES_PER_MINUTE);
        let (peer, start) = (address("192.0.2.1"), clock::now());
        let wrong = guess(0);
        let mut n_looked_at = 0;
        for n in 0..1_000 {
            let now = start + Duration::from_millis(n);
            if limit.check(peer, Some(&wrong), now).is_ok() {
                n_looked_at += 1;
                limit.failed(peer, Some(&wrong), now);
            }
            assert_eq!(limit.check(peer, Some(&guess(1)), now), Ok(()), "after {n}");
        }
        assert_eq!(n_looked_at, 10);
        // Nine more guesses there are, not ten.
        let now = start + Duration::from_secs(1);
        for n in 1..10 {
            assert_eq!(limit.check(peer, Some(&guess(n)), now), Ok(()));
            limit.failed(peer, Some(&guess(n)), now);
        }
        assert!(limit.check(peer, Some(&guess(10)), now).is_err());
        // Shown for hours, slowly, it is one guess now and then.
        for n in 0..1_000 {
            let now = start + Duration::from_secs(100 + 7 * n);
            assert_eq!(limit.check(peer, Some(&wrong), now), Ok(()));
            limit.failed(peer, Some(&wrong), now);
        }
    }

    #[test]
    fn a_token_that_was_right_is_looked_at_until_it_is_wrong() {
        let limit = FailureLimit::new(1);
        let (peer, now) = (address("192.0.2.1"), clock::now());
        let right = Fingerprint::of("right");
        limit.succeeded(&right);
        for n in 0..100 {
            limit.failed(peer, Some(&guess(n)), now);
        }
        assert!(limit.check(peer, Some(&guess(100)), now).is_err());
        assert_eq!(limit.check(peer, Some(&right), now), Ok(()));
        limit.failed(peer, Some(&right), now);
        assert!(limit.check(peer, Some(&right), now).is_err());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let limit = FailureLimit::new(1);
        let (peer, now) = (address("192.0.2.1"), clock::now());
        for n in 0..2 * RIGHT_MAX as u32 {
            limit.succeeded(&guess(n));
            // Wrong in between, and right again.
            if n % 3 == 0 {
                limit.failed(peer, Some(&guess(n)), now);
                limit.succeeded(&guess(n));
            }
        }
        let right = limit.right.lock();
        assert_eq!((right.known.len(), right.order.len()), (RIGHT_MAX, RIGHT_MAX));
        let peers = limit.peers.lock();
        assert_eq!(peers.values().next().unwrap().by_token.len(), TOKENS_OF_PEER_MAX);
    }

    #[test]
    fn failures_that_were_under_way_together_are_made_up_for_too() {
        let limit = FailureLimit::new(FAILURES_PER_MINUTE);
        let (peer, now) = (address("192.0.2.1"), clock::now());
        for n in 0..1_000 {
            limit.failed(peer, Some(&guess(n)), now);
        }
        assert_eq!(limit.check(peer, None, now), Err(Duration::from_secs(66)));
    }

    #[test]
    fn one_network_of_ipv6_is_one_peer_and_ipv4_in_ipv6_is_ipv4() {
        let limit = FailureLimit::new(1);
        let now = clock::now();
        limit.failed(address("2001:db8:1:2::1"), None, now);
        assert!(limit.check(address("2001:db8:1:2:ffff::9"), None, now).is_err());
        assert!(limit.check(address("2001:db8:1:3::1"), None, now).is_ok());
        limit.failed(address("::ffff:192.0.2.1"), None, now);
        assert!(limit.check(address("192.0.2.1"), None, now).is_err());
    }

    #[test]
    fn nobody_is_counted_without_an_address_or_a_limit() {
        let now = clock::now();
        let limit = FailureLimit::new(1);
        limit.failed(None, None, now);
        assert!(limit.check(None, None, now).is_ok());
        let limit = FailureLimit::new(0);
        limit.failed(address("192.0.2.1"), None, now);
        assert!(limit.check(address("192.0.2.1"), None, now).is_ok());
        limit.succeeded(&guess(0));
        assert!(limit.right.lock().known.is_empty());
    }

    #[test]
    fn so_many_addresses_are_remembered_and_those_forgiven_are_forgotten_first() {
        let limit = FailureLimit::new(1);
        let start = clock::now();
        let nth = |n: usize| Some(IpAddr::from(u32::try_from(n).unwrap().to_be_bytes()));
        for n in 0..PEERS_MAX {
            limit.failed(nth(n), None, start + Duration::from_millis(n as u64));
        }
        let now = start + Duration::from_secs(30);
        limit.failed(nth(PEERS_MAX), None, now);
        assert_eq!(limit.peers.lock().len(), PEERS_MAX);
        assert!(limit.check(nth(0), None, now).is_ok(), "the soonest to be forgiven");
        assert!(limit.check(nth(1), None, now).is_err());
        assert!(limit.check(nth(PEERS_MAX), None, now).is_err());
        let now = start + 3 * MINUTE;
        limit.failed(nth(PEERS_MAX + 1), None, now);
        assert_eq!(limit.peers.lock().len(), 1, "all others are forgiven");
    }
}
