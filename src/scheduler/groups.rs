//! The streams that wait for a turn, by connection. Pure: the time is an argument. Must not know workers.
//!
//! Connections take turns, whatever they have running: a priority says what is urgent among the streams of one connection, not
//! that others shall wait. Inside a connection it is a [`FairQueue`].

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use super::fair::{FairQueue, Rank, Ticket};

/// Bytes of batches that one stream may encode in one turn.
pub(crate) const QUANTUM_BYTES: usize = 64 * 1024;

/// What a turn counts for at the least after which a stream leaves its worker: it has cost a wake-up, and will cost another. A window of
/// one row would have a worker all the time otherwise, for next to no bytes.
const LEAVING_BYTES_MIN: usize = 4 * 1024;

/// Streams of lower priority wait for one of their connection that is being served, or has just been and made all that its writer
/// can hold, for so long at the most: one that works longer for a turn, or whose client takes longer for that, does not need what
/// they would take.
const PATIENCE: Duration = Duration::from_millis(10);

/// Groups that wait for nothing are forgotten once there are more than this and twice those that wait.
const GROUPS_SWEPT_MIN: usize = 64;

/// Which connection a stream belongs to, for fairness.
pub(crate) type GroupKey = u64;

/// One connection's streams that wait.
#[derive(Debug)]
struct Group<T> {
    /// Those that wait for their first turn ever.
    fresh: FairQueue<T>,
    known: FairQueue<T>,
    /// The priorities of those on a worker, and since when.
    serving: Vec<(Instant, u8)>,
    /// The highest priority that has left its worker with [as much as its writer can hold](super::queue::RunQueue::leaves_full) and has had no turn
    /// since, and when it did. The connection is busy with that: what its other streams would make meanwhile would only take
    /// the cores from its writer.
    full: Option<(Instant, u8)>,
    /// Grows by the bytes that its streams encode.
    virtual_time: u64,
}

/// The streams that wait, by connection.
///
/// First turns ever alternate with the others, so that a first row never waits for a whole round, and a flood of first turns does
/// not hold up those that run. Each time the connection is served that has had the fewest bytes.
#[derive(Debug)]
pub(crate) struct GroupedQueue<T> {
    /// Those with something waiting, and some that have just been served.
    groups: HashMap<GroupKey, Group<T>>,
    with_fresh: BTreeSet<(u64, GroupKey)>,
    with_known: BTreeSet<(u64, GroupKey)>,
    fresh_was_last: bool,
    /// Virtual time of the group served last.
    clock: u64,
    n_fresh: usize,
    n_known: usize,
}

/// A stream's place in the queue, kept by its owner between two turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Place {
    pub(crate) group: GroupKey,
    pub(crate) rank: Rank,
    pub(crate) ticket: Ticket,
}

impl<T> GroupedQueue<T> {
    pub(crate) fn new() -> Self {
        Self {
            groups: HashMap::new(),
            with_fresh: BTreeSet::new(),
            with_known: BTreeSet::new(),
            fresh_was_last: false,
            clock: 0,
            n_fresh: 0,
            n_known: 0,
        }
    }

    pub(crate) fn push_fresh(&mut self, item: T, place: Place) {
        self.n_fresh += 1;
        let Place { group: key, rank, .. } = place;
        let virtual_time = self.group(key);
        self.with_fresh.insert((virtual_time, key));
        if let Some(group) = self.groups.get_mut(&key) {
            group.fresh.push(item, rank, Ticket::default());
        }
    }

    pub(crate) fn push_known(&mut self, item: T, place: Place) {
        self.n_known += 1;
        let Place {
            group: key,
            rank,
            ticket,
        } = place;
        let virtual_time = self.group(key);
        self.with_known.insert((virtual_time, key));
        if let Some(group) = self.groups.get_mut(&key) {
            group.known.push(item, rank, ticket);
        }
    }

    /// The item whose turn it is, and the ticket for it. It counts as being served until that has [ended](Self::end).
    pub(crate) fn pop(&mut self, now: Instant) -> Option<(T, Ticket)> {
        let is_fresh = self.n_fresh > 0 && (!self.fresh_was_last || self.n_known == 0);
        let popped = if is_fresh {
            self.pop_fresh()
        } else {
            self.pop_known(now)
        };
        // Those that have had turns may all have to wait for the more urgent of their connections.
        let popped = popped.or_else(|| self.pop_fresh());
        let (key, item, ticket) = popped?;
        if let Some(group) = self.groups.get_mut(&key) {
            group.begin(now, ticket.priority());
        }
        Some((item, ticket))
    }

    fn pop_fresh(&mut self) -> Option<(GroupKey, T, Ticket)> {
        let (virtual_time, key) = *self.with_fresh.first()?;
        let group = self.groups.get_mut(&key)?;
        let (item, mut ticket) = group.fresh.pop()?;
        if group.fresh.is_empty() {
            self.with_fresh.remove(&(virtual_time, key));
        }
        self.clock = self.clock.max(virtual_time);
        self.n_fresh -= 1;
        self.fresh_was_last = true;
        // First turns of one connection are counted as if they all took the same.
        group.fresh.served(&mut ticket, Rank::default(), QUANTUM_BYTES);
        Some((key, item, group.known.newcomer(ticket.priority())))
    }

    fn pop_known(&mut self, now: Instant) -> Option<(GroupKey, T, Ticket)> {
        // Passed over are groups that a worker has, or has just left.
        let groups = &self.groups;
        let (virtual_time, key) = *self
            .with_known
            .iter()
            .find(|(_, key)| groups.get(key).is_some_and(|group| group.has_turn(now)))?;
        let group = self.groups.get_mut(&key)?;
        let (item, ticket) = group.known.pop_beside(group.highest_served(now))?;
        if group.known.is_empty() {
            self.with_known.remove(&(virtual_time, key));
        }
        self.clock = self.clock.max(virtual_time);
        self.n_known -= 1;
        self.fresh_was_last = false;
        Some((key, item, ticket))
    }

    /// Whether [`pop`](Self::pop) would give something.
    pub(crate) fn has_turn(&self, now: Instant) -> bool {
        let has_turn = |(_, key): &(u64, GroupKey)| self.groups.get(key).is_some_and(|group| group.has_turn(now));
        self.n_fresh > 0 || self.with_known.iter().any(has_turn)
    }

    /// When there may be a [turn](Self::has_turn) whatever happens until then, where there is none now; `None` where nobody waits.
    pub(crate) fn next_turn_at(&self, now: Instant) -> Option<Instant> {
        let groups = self.with_known.iter().filter_map(|(_, key)| self.groups.get(key));
        let waited_for = groups.flat_map(|group| group.serving.iter().chain(&group.full));
        let ends = waited_for.map(|(since, _)| *since + PATIENCE);
        ends.filter(|end| *end > now).min()
    }

    /// The item at `place` has encoded so many bytes. It counts as being served until that has [ended](Self::end).
    pub(crate) fn served(&mut self, place: &mut Place, bytes: usize) {
        let key = place.group;
        let before = self.group(key);
        let after = before + bytes as u64;
        for set in [&mut self.with_fresh, &mut self.with_known] {
            if set.remove(&(before, key)) {
                set.insert((after, key));
            }
        }
        if let Some(group) = self.groups.get_mut(&key) {
            group.virtual_time = after;
            group.known.served(&mut place.ticket, place.rank, bytes);
        }
    }

    /// The turn of the item at `place` is over.
    pub(crate) fn end(&mut self, place: &Place) {
        if let Some(group) = self.groups.get_mut(&place.group) {
            group.end(place.ticket.priority());
        }
    }

    /// The item at `place` has encoded so many bytes in its turn, which is over, and does not come back by itself.
    pub(crate) fn leaves(&mut self, place: &mut Place, bytes: usize) {
        self.served(place, bytes.max(LEAVING_BYTES_MIN));
        self.end(place);
    }

    /// The item at `place` has another turn without having waited for it, because nobody else does.
    pub(crate) fn serve_on(&mut self, place: &Place, now: Instant) {
        if let Some(group) = self.groups.get_mut(&place.group) {
            let priority = place.ticket.priority();
            group.end(priority);
            group.begin(now, priority);
        }
    }

    /// The item at `place`, whose turn is over, has made as much as its writer can hold.
    pub(crate) fn left_full(&mut self, place: &Place, now: Instant) {
        if let Some(group) = self.groups.get_mut(&place.group) {
            let full = (now, place.ticket.priority());
            let outranks = |(since, before): &(Instant, u8)| *before > full.1 && is_quick(*since, now);
            group.full = group.full.filter(outranks).or(Some(full));
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.n_fresh + self.n_known
    }

    pub(crate) fn n_fresh(&self) -> usize {
        self.n_fresh
    }

    /// Keeps only the items that `keep` says yes to.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        let Self { groups, .. } = self;
        for group in groups.values_mut() {
            group.fresh.retain(&mut keep);
            group.known.retain(&mut keep);
        }
        self.n_fresh = groups.values().map(|group| group.fresh.len()).sum();
        self.n_known = groups.values().map(|group| group.known.len()).sum();
        self.with_fresh.retain(|(_, key)| !groups[key].fresh.is_empty());
        self.with_known.retain(|(_, key)| !groups[key].known.is_empty());
    }

    /// Finds or makes a group; returns its virtual time. One that was away has not saved up for it.
    fn group(&mut self, key: GroupKey) -> u64 {
        let n_waiting = self.with_fresh.len() + self.with_known.len();
        if self.groups.len() > GROUPS_SWEPT_MIN + 2 * n_waiting {
            // Forgives what they had ahead of others: a turn or two, and seldom.
            self.groups
                .retain(|_, group| !group.is_empty() || !group.serving.is_empty());
        }
        let clock = self.clock;
        let group = self.groups.entry(key).or_insert_with(|| Group {
            fresh: FairQueue::new(),
            known: FairQueue::new(),
            serving: Vec::new(),
            full: None,
            virtual_time: clock,
        });
        if group.is_empty() {
            group.virtual_time = group.virtual_time.max(clock);
        }
        group.virtual_time
    }
}

impl<T> Group<T> {
    fn is_empty(&self) -> bool {
        self.fresh.is_empty() && self.known.is_empty()
    }

    /// An item of this priority is not being served any more.
    fn end(&mut self, priority: u8) {
        if let Some(idx) = self.serving.iter().position(|(_, serving)| *serving == priority) {
            self.serving.swap_remove(idx);
        }
    }

    /// An item of this priority is being served from now on.
    fn begin(&mut self, now: Instant, priority: u8) {
        self.serving.push((now, priority));
        self.full = self.full.filter(|(_, full)| *full > priority);
    }

    /// The highest priority for which those below it wait.
    fn highest_served(&self, now: Instant) -> Option<u8> {
        let waited_for = self.serving.iter().chain(&self.full);
        let quick = waited_for.filter(|(since, _)| is_quick(*since, now));
        quick.map(|(_, priority)| *priority).max()
    }

    fn has_turn(&self, now: Instant) -> bool {
        self.known.has_turn_beside(self.highest_served(now))
    }
}

/// Whether what began then is still waited for.
fn is_quick(since: Instant, now: Instant) -> bool {
    now.saturating_duration_since(since) < PATIENCE
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::clock;

    pub(in crate::scheduler) fn place(group: GroupKey) -> Place {
        Place {
            group,
            ..Place::default()
        }
    }

    /// In group 1, with a priority of its own.
    pub(in crate::scheduler) fn urgent_place(priority: u8) -> Place {
        Place {
            rank: Rank { priority, weight: 16 },
            ..place(1)
        }
    }

    #[test]
    fn first_turns_alternate_with_others() {
        let mut queue = GroupedQueue::new();
        for n in 0..3 {
            queue.push_known(format!("known {n}"), place(1));
            queue.push_fresh(format!("fresh {n}"), place(1));
        }
        assert_eq!((queue.len(), queue.n_fresh()), (6, 3));
        let order: Vec<_> = std::iter::from_fn(|| queue.pop(clock::now()).map(|(item, _)| item)).collect();
        assert_eq!(
            order,
            ["fresh 0", "known 0", "fresh 1", "known 1", "fresh 2", "known 2"]
        );
    }

    #[test]
    fn a_flood_of_first_turns_does_not_starve_the_others() {
        let mut queue = GroupedQueue::new();
        queue.push_known(0, place(1));
        for n in 1..=100 {
            queue.push_fresh(n, place(n));
        }
        let position = std::iter::from_fn(|| queue.pop(clock::now())).position(|(item, _)| item == 0);
        assert_eq!(position, Some(1));
    }

    #[test]
    fn connections_share_equally_whatever_they_call_urgent() {
        let mut queue = GroupedQueue::new();
        let urgent = Rank {
            priority: 7,
            weight: 256,
        };
        let mut places = vec![place(1)];
        places.extend((0..20).map(|_| Place {
            rank: urgent,
            ..place(2)
        }));
        for (item, place) in places.iter().enumerate() {
            queue.push_known(item, *place);
        }
        let mut got = [0_u64; 3];
        for turn in 0..10_000 {
            let (item, ticket) = queue.pop(clock::now()).expect("items are put back");
            let mut place = Place { ticket, ..places[item] };
            let bytes = if turn % 3 == 0 { 200_000 } else { 1_000 };
            got[place.group as usize] += bytes as u64;
            queue.served(&mut place, bytes);
            queue.end(&place);
            queue.push_known(item, place);
        }
        let ratio = got[1] as f64 / got[2] as f64;
        assert!((0.98..1.02).contains(&ratio), "{got:?}");
    }

    #[test]
    fn less_urgent_ones_wait_for_one_that_is_served_or_has_filled_its_writer() {
        let now = clock::now();
        let mut queue = GroupedQueue::new();
        let mut urgent = urgent_place(7);
        queue.push_known("urgent", urgent);
        queue.push_known("low", urgent_place(1));
        let (_, ticket) = queue.pop(now).expect("both wait");
        urgent.ticket = ticket;
        assert!(queue.pop(now).is_none() && !queue.has_turn(now));
        queue.leaves(&mut urgent, 1_000);
        queue.left_full(&urgent, now);
        assert!(queue.pop(now).is_none() && !queue.has_turn(now), "its writer is busy");
        let later = queue.next_turn_at(now).expect("somebody waits");
        assert_eq!(later, now + PATIENCE);
        queue.push_known("urgent", urgent);
        assert_eq!(queue.pop(now).map(|(item, _)| item), Some("urgent"));
        queue.leaves(&mut urgent, 1_000);
        assert!(queue.has_turn(now), "it has gone, and not because its writer was busy");
        queue.left_full(&urgent, now);
        assert_eq!(queue.pop(later).map(|(item, _)| item), Some("low"), "not for ever");
    }

    #[test]
    fn who_waits_for_two_sleeps_until_the_second_is_late() {
        let now = clock::now();
        let soon = now + PATIENCE / 2;
        let mut queue = GroupedQueue::new();
        for (item, priority) in [(1, 7), (2, 7), (3, 1)] {
            let rank = Rank { priority, weight: 16 };
            queue.push_known(item, Place { rank, ..place(1) });
        }
        assert!(queue.pop(now).is_some() && queue.pop(soon).is_some());
        let first_is_late = now + PATIENCE;
        assert!(queue.pop(first_is_late).is_none());
        assert_eq!(queue.next_turn_at(first_is_late), Some(soon + PATIENCE));
        assert!(queue.pop(soon + PATIENCE).is_some());
    }

    #[test]
    fn who_comes_for_a_few_bytes_at_a_time_pays_for_coming() {
        let mut queue = GroupedQueue::new();
        let mut places = [place(1), place(2)];
        for (item, place) in places.iter().enumerate() {
            queue.push_known(item, *place);
        }
        let mut turns = [0; 2];
        for _ in 0..17_000 {
            let (item, ticket) = queue.pop(clock::now()).expect("both come back at once");
            turns[item] += 1;
            let mut place = Place { ticket, ..places[item] };
            queue.leaves(&mut place, [50, QUANTUM_BYTES][item]);
            queue.push_known(item, place);
            places[item] = place;
        }
        assert!(
            turns[1] >= 990,
            "{turns:?}: a sixteenth of what the other has, where it is bytes that count"
        );
    }

    #[test]
    fn groups_that_are_gone_are_forgotten() {
        let mut queue = GroupedQueue::new();
        for group in 0..10_000 {
            let mut place = place(group);
            queue.push_fresh((), place);
            (_, place.ticket) = queue.pop(clock::now()).expect("just pushed");
            queue.leaves(&mut place, 1_000);
        }
        assert!(queue.groups.len() < 3 * GROUPS_SWEPT_MIN, "{}", queue.groups.len());
    }

    #[test]
    fn what_has_filled_its_writer_long_ago_is_not_in_the_way_of_what_does_now() {
        let now = clock::now();
        let later = now + PATIENCE;
        let mut queue = GroupedQueue::new();
        for (priority, at) in [(7, now), (5, later)] {
            let mut urgent = urgent_place(priority);
            queue.push_known(priority, urgent);
            let (item, ticket) = queue.pop(at).expect("it is alone");
            assert_eq!(item, priority);
            urgent.ticket = ticket;
            queue.leaves(&mut urgent, 1_000);
            queue.left_full(&urgent, at);
        }
        queue.push_known(1, urgent_place(1));
        assert!(queue.pop(later).is_none(), "its writer is busy");
        assert!(queue.pop(later + PATIENCE).is_some());
    }
}
