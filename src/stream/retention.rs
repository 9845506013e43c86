//! Which streams are held for nobody but in case somebody comes back, and which of them go first.
//!
//! Pure: the time is an argument. Must not know what is held of them.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use crate::id::StreamId;

/// The streams that no connection has, or that have given all they had, by how long ago.
#[derive(Debug, Default)]
pub(crate) struct Retention {
    by_age: BTreeSet<(Instant, StreamId)>,
    since: HashMap<StreamId, Instant>,
}

impl Retention {
    /// The stream's connection is gone, or its terminator is out.
    pub(crate) fn left(&mut self, id: StreamId, now: Instant) {
        self.back(id);
        self.since.insert(id, now);
        self.by_age.insert((now, id));
    }

    /// A connection has the stream again, or nobody will ever.
    pub(crate) fn back(&mut self, id: StreamId) {
        if let Some(since) = self.since.remove(&id) {
            self.by_age.remove(&(since, id));
        }
    }

    /// The stream that has waited longest.
    pub(crate) fn oldest(&self) -> Option<StreamId> {
        self.by_age.first().map(|(_, id)| *id)
    }

    pub(crate) fn len(&self) -> usize {
        self.since.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_oldest_goes_first_and_who_came_back_does_not() {
        let mut retention = Retention::default();
        let start = Instant::now();
        let ids = [(); 3].map(|()| StreamId::random());
        for (n, id) in ids.iter().enumerate() {
            retention.left(*id, start + Duration::from_secs(n as u64));
        }
        assert_eq!(retention.oldest(), Some(ids[0]));
        retention.back(ids[0]);
        retention.left(ids[1], start + Duration::from_secs(9));
        assert_eq!((retention.oldest(), retention.len()), (Some(ids[2]), 2));
        retention.back(ids[2]);
        retention.back(ids[2]);
        assert_eq!(retention.oldest(), Some(ids[1]));
    }
}
