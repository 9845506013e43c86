//! Which streams are held for nobody but in case somebody comes back, and which of them go first.
//!
//! Pure: the time is an argument. Must not know what is held of them.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use crate::id::{ConnectionId, Principal, StreamId};
use crate::rate::News;

/// How long nothing more is said of streams that are given up.
const SILENCE: Duration = Duration::from_secs(60);

/// At whose cost a stream is held.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Owner {
    Principal(Principal),
    /// Of nobody in particular: what started the stream.
    Connection(ConnectionId),
}

impl Owner {
    pub(crate) fn new(principal: &Principal, started_by: ConnectionId) -> Self {
        if principal.is_anonymous() {
            Self::Connection(started_by)
        } else {
            Self::Principal(principal.clone())
        }
    }
}

/// A stream, after since when it waits.
type Waiting = (Instant, StreamId);

/// How many an owner has, and the oldest of them.
type Share = (usize, Reverse<Waiting>);

/// The streams that no connection has, or that have given all they had.
#[derive(Debug)]
pub(crate) struct Retention {
    since: HashMap<StreamId, (Instant, Owner)>,
    /// Never with an empty set.
    by_owner: HashMap<Owner, BTreeSet<Waiting>>,
    /// One for each owner.
    shares: BTreeSet<Share>,
    /// That a stream is given up.
    news: News,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            since: HashMap::new(),
            by_owner: HashMap::new(),
            shares: BTreeSet::new(),
            news: News::once_in(SILENCE),
        }
    }
}

impl Retention {
    /// The stream's connection is gone, or its terminator is out.
    pub(crate) fn left(&mut self, id: StreamId, owner: Owner, now: Instant) {
        self.back(id);
        self.since.insert(id, (now, owner.clone()));
        self.change(owner, |streams| streams.insert((now, id)));
    }

    /// A connection has the stream again, or nobody will ever.
    pub(crate) fn back(&mut self, id: StreamId) {
        if let Some((since, owner)) = self.since.remove(&id) {
            self.change(owner, |streams| streams.remove(&(since, id)));
        }
    }

    /// The oldest stream of the owner that has the most, so that whoever hoards pays for it. Of two who have as many, the one whose
    /// oldest has waited longer.
    pub(crate) fn first_to_go(&self) -> Option<StreamId> {
        self.shares.last().map(|(_, Reverse((_, id)))| *id)
    }

    pub(crate) fn len(&self) -> usize {
        self.since.len()
    }

    /// Whether it is worth saying that a stream is given up: once a minute, however many are.
    pub(crate) fn is_news(&mut self, now: Instant) -> bool {
        self.news.is_due(now)
    }

    fn change(&mut self, owner: Owner, change: impl FnOnce(&mut BTreeSet<Waiting>) -> bool) {
        let mut streams = self.by_owner.remove(&owner).unwrap_or_default();
        if let Some(share) = share(&streams) {
            self.shares.remove(&share);
        }
        change(&mut streams);
        if let Some(share) = share(&streams) {
            self.shares.insert(share);
            self.by_owner.insert(owner, streams);
        }
    }
}

fn share(streams: &BTreeSet<Waiting>) -> Option<Share> {
    streams.first().map(|oldest| (streams.len(), Reverse(*oldest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(number: u64) -> Owner {
        Owner::new(&Principal::anonymous(), ConnectionId::new(number))
    }

    #[test]
    fn the_oldest_goes_first_and_who_came_back_does_not() {
        let mut retention = Retention::default();
        let start = Instant::now();
        let ids = [(); 3].map(|()| StreamId::random());
        for (n, id) in ids.iter().enumerate() {
            retention.left(*id, connection(1), start + Duration::from_secs(n as u64));
        }
        assert_eq!(retention.first_to_go(), Some(ids[0]));
        retention.back(ids[0]);
        retention.left(ids[1], connection(1), start + Duration::from_secs(9));
        assert_eq!((retention.first_to_go(), retention.len()), (Some(ids[2]), 2));
        retention.back(ids[2]);
        retention.back(ids[2]);
        assert_eq!(retention.first_to_go(), Some(ids[1]));
        retention.back(ids[1]);
        assert_eq!(retention.first_to_go(), None);
        assert!(retention.by_owner.is_empty() && retention.shares.is_empty());
    }

    #[test]
    fn who_has_the_most_pays() {
        let mut retention = Retention::default();
        let start = Instant::now();
        let honest = [(); 2].map(|()| StreamId::random());
        for id in honest {
            retention.left(id, connection(1), start);
        }
        let hoarded: Vec<_> = (1..=1_000)
            .map(|n| (StreamId::random(), start + Duration::from_millis(n)))
            .collect();
        for (id, at) in &hoarded {
            retention.left(*id, connection(2), *at);
        }
        // Down to as many as the other has.
        for (id, _) in &hoarded[..998] {
            assert_eq!(retention.first_to_go(), Some(*id));
            retention.back(*id);
        }
        let oldest = honest.into_iter().min();
        assert_eq!(retention.first_to_go(), oldest, "of two who have as many, the older");
    }

    #[test]
    fn a_name_is_one_owner_over_all_its_connections_and_nobody_is_one_for_each() {
        let ann = Principal::named("ann".into());
        let [one, two] = [1, 2].map(ConnectionId::new);
        assert_eq!(Owner::new(&ann, one), Owner::new(&ann, two));
        assert_ne!(Owner::new(&ann, one), Owner::new(&Principal::named("bob".into()), one));
        assert_ne!(connection(1), connection(2));
    }

    #[test]
    fn giving_up_many_is_said_once_a_minute() {
        let mut retention = Retention::default();
        let start = Instant::now();
        let said: Vec<u64> = (0..150)
            .filter(|n| retention.is_news(start + Duration::from_secs(*n)))
            .collect();
        assert_eq!(said, [0, 60, 120]);
    }
}
