//! Who is connected from where, and how often they come: the limits of an address.
//!
//! Deciding is pure but for the lock around it: the time is an argument. Must not know sockets.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::limits::Limits;
use super::refusals::Refusal;
use crate::rate::{Bucket, Peer, Rate};

/// Addresses that are told apart. More than that at once are somebody who has no need to come twice from the same: they are let in up
/// to the limit of all connections.
const ADDRESSES_MAX: usize = 16_384;

/// What is known of so many addresses is worth a look at what of it can be forgotten, once in a while.
const SWEPT_MIN: usize = 256;
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Address {
    n_open: usize,
    bucket: Option<Bucket>,
}

#[derive(Debug, Default)]
struct Table {
    by_address: HashMap<Peer, Address>,
    sweep_at: Option<Instant>,
}

/// Connections by address.
#[derive(Debug)]
pub(super) struct Peers {
    each_max: Option<usize>,
    rate: Option<Rate>,
    table: Mutex<Table>,
}

/// One connection's place among those of its address, until it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    peers: Arc<Peers>,
    address: Option<Peer>,
}

impl Peers {
    pub(super) fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            each_max: limits.connections_per_address_max,
            rate: limits.connection_rate_per_address,
            table: Mutex::new(Table::default()),
        })
    }

    /// Lets everybody in.
    pub(super) fn unlimited() -> Arc<Self> {
        Arc::new(Self {
            each_max: None,
            rate: None,
            table: Mutex::new(Table::default()),
        })
    }

    /// Lets one more in, or says why not; then nothing changes.
    pub(super) fn admit(self: &Arc<Self>, address: IpAddr, now: Instant) -> Result<Seat, Refusal> {
        let is_limited = self.each_max.is_some() || self.rate.is_some();
        let mut seat = Seat {
            peers: Arc::clone(self),
            address: None,
        };
        if !is_limited || address.to_canonical().is_loopback() {
            return Ok(seat);
        }
        let address = Peer::from(address);
        let mut table = self.table.lock();
        table.sweep(now);
        if table.by_address.len() >= ADDRESSES_MAX && !table.by_address.contains_key(&address) {
            return Ok(seat);
        }
        let entry = table.by_address.entry(address).or_insert_with(|| Address {
            n_open: 0,
            bucket: self.rate.map(|rate| Bucket::new(rate, now)),
        });
        if self.each_max.is_some_and(|max| entry.n_open >= max) {
            return Err(Refusal::TooMany);
        }
        if entry.bucket.as_mut().is_some_and(|bucket| !bucket.take(now)) {
            return Err(Refusal::TooOften);
        }
        entry.n_open += 1;
        seat.address = Some(address);
        Ok(seat)
    }
}

impl Table {
    /// Forgets addresses of which a new one would be treated the same, now and then.
    fn sweep(&mut self, now: Instant) {
        if self.by_address.len() < SWEPT_MIN || self.sweep_at.is_some_and(|at| now < at) {
            return;
        }
        self.by_address.retain(|_, address| {
            address.n_open > 0 || address.bucket.as_ref().is_some_and(|bucket| !bucket.is_full(now))
        });
        self.sweep_at = Some(now + SWEEP_INTERVAL);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(address) = self.address
            && let Some(entry) = self.peers.table.lock().by_address.get_mut(&address)
        {
            entry.n_open -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

    use super::*;
    use crate::clock;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_so_many_connections_and_others_have_theirs() {
        let peers = Peers::new(&Limits::default());
        let now = clock::now();
        let mut seats: Vec<_> = (0..32).map(|_| peers.admit(ip("192.0.2.1"), now).unwrap()).collect();
        assert_eq!(peers.admit(ip("192.0.2.1"), now).unwrap_err(), Refusal::TooMany);
        assert_eq!(
            peers.admit(ip("::ffff:192.0.2.1"), now).unwrap_err(),
            Refusal::TooMany,
            "the same in IPv6's clothes"
        );
        let _other = peers.admit(ip("192.0.2.2"), now).unwrap();
        drop(seats.pop());
        seats.push(peers.admit(ip("192.0.2.1"), now).unwrap());
        assert_eq!(peers.admit(ip("192.0.2.1"), now).unwrap_err(), Refusal::TooMany);
    }

    #[test]
    fn an_address_comes_so_often_whether_it_stays_or_not() {
        let peers = Peers::new(&Limits::default());
        let start = clock::now();
        let n_let_in = |n: usize, now| (0..n).filter(|_| peers.admit(ip("192.0.2.1"), now).is_ok()).count();
        assert_eq!(n_let_in(500, start), 40);
        assert_eq!(peers.admit(ip("192.0.2.1"), start).unwrap_err(), Refusal::TooOften);
        assert_eq!(n_let_in(500, start + Duration::from_secs(1)), 20);
    }

    #[test]
    fn of_ipv6_a_network_is_an_address() {
        let peers = Peers::new(&Limits::default());
        let now = clock::now();
        let n_let_in = (0..64)
            .map(|n| peers.admit(ip(&format!("2001:db8::{n:x}")), now))
            .collect::<Vec<_>>()
            .iter()
            .filter(|seat| seat.is_ok())
            .count();
        assert_eq!(n_let_in, 32);
        assert!(peers.admit(ip("2001:db8:0:1::1"), now).is_ok());
    }

    #[test]
    fn the_machine_itself_is_not_counted_nor_is_anybody_behind_a_proxy() {
        let now = clock::now();
        let all = |peers: &Arc<Peers>, address: &str| {
            let seats: Vec<_> = (0..1_000).map(|_| peers.admit(ip(address), now)).collect();
            seats.iter().all(Result::is_ok)
        };
        let peers = Peers::new(&Limits::default());
        for address in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert!(all(&peers, address), "{address}");
        }
        let behind_proxy = Peers::new(&Limits {
            connections_per_address_max: None,
            connection_rate_per_address: None,
            ..Limits::default()
        });
        assert!(all(&behind_proxy, "192.0.2.1"));
    }

    #[test]
    fn what_is_known_of_addresses_is_bounded_and_forgotten() {
        let peers = Peers::new(&Limits::default());
        let start = clock::now();
        for n in 0..200_000_u32 {
            assert!(
                peers
                    .admit(IpAddr::from((0x5000_0000 + n).to_be_bytes()), start)
                    .is_ok()
            );
        }
        assert!(peers.table.lock().by_address.len() <= ADDRESSES_MAX);
        let later = start + Duration::from_secs(60);
        assert!(peers.admit(ip("192.0.2.1"), later).is_ok());
        assert!(peers.table.lock().by_address.len() <= 2, "all are as new ones would be");
    }
}
