//! The blocking queue that workers wait on.
//!
//! Connections take turns, whatever they have running: a priority says what is urgent among the streams of one connection, not
//! that others shall wait. Inside a connection it is a [`FairQueue`].

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::convert::Infallible;
use std::time::{Duration, Instant};

use super::fair::{FairQueue, Rank, Ticket};
use crate::clock;
use crate::sync::{Condvar, Mutex};

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
    /// The highest priority that has left its worker with [as much as its writer can hold](RunQueue::leaves_full) and has had no turn
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

/// What a worker is given to do.
#[derive(Debug)]
pub(crate) enum Work<T, E, Q> {
    /// A stream's turn, and the ticket for it.
    Turn(T, Ticket),
    /// A question, short enough to stand before every second turn.
    Question(Q),
    /// Something beside the streams, done when a worker would otherwise be idle or when it is allowed to. One at a time, so that
    /// what comes next finds a core.
    Aside(E),
}

#[derive(Debug)]
struct State<T, E, Q> {
    runnable: GroupedQueue<T>,
    questions: VecDeque<Q>,
    question_was_last: bool,
    /// Questions that workers have.
    n_asking: usize,
    /// Half of the workers: an engine that is slow to answer holds up no stream.
    asking_max: usize,
    asides: VecDeque<E>,
    aside_runs: bool,
    /// Workers that have nothing to do, those included that have not come for work yet.
    n_free: usize,
    /// Entries whose stream has ended while it waited; they are skipped, and swept when they are many.
    n_stale: usize,
    closed: bool,
}

impl<T, E, Q> State<T, E, Q> {
    /// Whether there is a question, and a worker for it.
    fn may_ask(&self) -> bool {
        !self.questions.is_empty() && self.n_asking < self.asking_max
    }

    /// Whether a question stands before the next turn.
    fn is_question_next(&self) -> bool {
        !self.question_was_last && self.may_ask()
    }
}

/// The queue that workers wait on. Nothing here blocks but [`next`](Self::next), which a push or [`close`](Self::close) wakes.
#[derive(Debug)]
pub(crate) struct RunQueue<T, E, Q = Infallible> {
    state: Mutex<State<T, E, Q>>,
    pushed: Condvar,
    /// Asides that may wait, and questions.
    asides_max: usize,
}

impl<T, E, Q> RunQueue<T, E, Q> {
    /// A queue for so many workers, none of which has anything to do yet.
    pub(crate) fn new(n_workers: usize, asides_max: usize) -> Self {
        Self {
            state: Mutex::new(State {
                runnable: GroupedQueue::new(),
                questions: VecDeque::new(),
                question_was_last: false,
                n_asking: 0,
                asking_max: (n_workers / 2).max(1),
                asides: VecDeque::new(),
                aside_runs: false,
                n_free: n_workers,
                n_stale: 0,
                closed: false,
            }),
            pushed: Condvar::new(),
            asides_max,
        }
    }

    /// How many items a new one would wait behind before its first turn: `None` where a worker is free for it.
    pub(crate) fn wait_ahead(&self) -> Option<usize> {
        let state = self.state.lock();
        let n_fresh = state.runnable.n_fresh();
        (n_fresh - state.n_stale.min(n_fresh)).checked_sub(state.n_free)
    }

    pub(crate) fn push_fresh(&self, item: T, place: Place) {
        self.push(|state| state.runnable.push_fresh(item, place));
    }

    pub(crate) fn push_known(&self, item: T, place: Place) {
        self.push(|state| state.runnable.push_known(item, place));
    }

    /// Adds something to do aside; dropped where [`asides_max`](Self::new) already wait.
    pub(crate) fn push_aside(&self, aside: E) {
        self.push(|state| {
            if state.asides.len() < self.asides_max {
                state.asides.push_back(aside);
            }
        });
    }

    /// Adds a question. Gives it back where as many as [may](Self::new) wait already, or the queue is closed.
    pub(crate) fn push_question(&self, question: Q) -> Result<(), Q> {
        let mut state = self.state.lock();
        if state.closed || state.questions.len() >= self.asides_max {
            return Err(question);
        }
        state.questions.push_back(question);
        if state.n_free > 0 {
            self.pushed.notify_one();
        }
        Ok(())
    }

    fn push(&self, add: impl FnOnce(&mut State<T, E, Q>)) {
        let mut state = self.state.lock();
        add(&mut state);
        if state.n_free > 0 {
            self.pushed.notify_one();
        }
    }

    /// What the stream at `place` has encoded in its turn, after which it leaves its worker.
    pub(crate) fn leaves(&self, place: &mut Place, bytes: usize) {
        let mut state = self.state.lock();
        state.runnable.leaves(place, bytes);
        self.wake_for_turn(&state);
    }

    /// As [`leaves`](Self::leaves) for a stream that makes no more until its writer has taken what it has made.
    pub(crate) fn leaves_full(&self, place: &mut Place, bytes: usize) {
        let mut state = self.state.lock();
        state.runnable.leaves(place, bytes);
        state.runnable.left_full(place, clock::now());
        self.wake_for_turn(&state);
    }

    /// What the stream at `place` has encoded in its turn, where it could go on at once. True where it does, because nobody waits, nor a
    /// question; else it counts as being served until it is [exchanged](Self::exchange).
    pub(crate) fn served_and_goes_on(&self, place: &mut Place, bytes: usize) -> bool {
        let mut state = self.state.lock();
        state.runnable.served(place, bytes);
        let goes_on = state.runnable.len() == 0 && !state.is_question_next();
        if goes_on {
            state.question_was_last = false;
            state.runnable.serve_on(place, clock::now());
        }
        goes_on
    }

    /// Gives `item` back and takes the next one, which may be the same: a worker between two turns. `None` where there is none
    /// for now, or a question stands before it.
    pub(crate) fn exchange(&self, item: T, place: Place) -> Option<(T, Ticket)> {
        let mut state = self.state.lock();
        state.runnable.end(&place);
        state.runnable.push_known(item, place);
        let mut popped = None;
        if !state.is_question_next() {
            popped = state.runnable.pop(clock::now());
            state.question_was_last = false;
        }
        self.wake_for_turn(&state);
        popped
    }

    /// Wakes a worker that had nothing to do but wait for another's turn to end.
    fn wake_for_turn(&self, state: &State<T, E, Q>) {
        if state.n_free > 0 && state.runnable.len() > 0 && state.runnable.has_turn(clock::now()) {
            self.pushed.notify_one();
        }
    }

    /// The next thing to do: blocks until there is one, and returns `None` once the queue is closed and empty. An aside is
    /// given only where no turn waits, or where `may_do_aside` says so. The worker is not free until it says that it is
    /// [done](Self::done).
    pub(crate) fn next(&self, may_do_aside: impl Fn() -> bool) -> Option<Work<T, E, Q>> {
        let mut state = self.state.lock();
        loop {
            let now = clock::now();
            if (state.is_question_next() || !state.runnable.has_turn(now))
                && state.may_ask()
                && let Some(question) = state.questions.pop_front()
            {
                state.question_was_last = true;
                state.n_asking += 1;
                state.n_free -= 1;
                return Some(Work::Question(question));
            }
            if !state.aside_runs
                && !state.asides.is_empty()
                && (state.runnable.len() == 0 || may_do_aside())
                && let Some(aside) = state.asides.pop_front()
            {
                state.aside_runs = true;
                state.n_free -= 1;
                return Some(Work::Aside(aside));
            }
            if let Some((item, ticket)) = state.runnable.pop(now) {
                state.question_was_last = false;
                state.n_free -= 1;
                return Some(Work::Turn(item, ticket));
            }
            if state.runnable.len() == 0 {
                // Nothing waits, so nothing stale does.
                state.n_stale = 0;
                if state.closed {
                    return None;
                }
            }
            match state.runnable.next_turn_at(now) {
                None => self.pushed.wait(&mut state),
                Some(until) => drop(self.pushed.wait_until(&mut state, until)),
            }
        }
    }

    /// A worker has done the turn that [`next`](Self::next) gave it, and those it exchanged it for.
    pub(crate) fn done(&self) {
        self.state.lock().n_free += 1;
    }

    /// A worker has done the question that [`next`](Self::next) gave it. It comes for the next one itself, where one waits for that.
    pub(crate) fn question_done(&self) {
        let mut state = self.state.lock();
        state.n_free += 1;
        state.n_asking -= 1;
    }

    /// A worker has done the aside that [`next`](Self::next) gave it.
    pub(crate) fn aside_done(&self) {
        let mut state = self.state.lock();
        state.n_free += 1;
        state.aside_runs = false;
        if !state.asides.is_empty() {
            self.pushed.notify_one();
        }
    }

    /// An entry has become stale; once most are, those that `is_live` denies are swept out.
    pub(crate) fn note_stale(&self, is_live: impl Fn(&T) -> bool) {
        let mut state = self.state.lock();
        state.n_stale += 1;
        if state.n_stale * 2 > state.runnable.len() {
            state.runnable.retain(is_live);
            state.n_stale = 0;
        }
    }

    /// Lets workers go once everything queued is done. Idempotent.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.pushed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(group: GroupKey) -> Place {
        Place {
            group,
            ..Place::default()
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
        let with_priority = |priority| Place {
            rank: Rank { priority, weight: 16 },
            ..place(1)
        };
        let mut urgent = with_priority(7);
        queue.push_known("urgent", urgent);
        queue.push_known("low", with_priority(1));
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
    fn nobody_slips_in_between_two_turns_of_a_more_urgent_one() {
        let queue: RunQueue<&str, ()> = RunQueue::new(2, 1);
        let begun_at = clock::now();
        let with_priority = |priority| Place {
            rank: Rank { priority, weight: 16 },
            ..place(1)
        };
        let mut urgent = with_priority(7);
        queue.push_known("urgent", urgent);
        let Some(Work::Turn("urgent", ticket)) = queue.next(|| false) else {
            panic!("it is alone");
        };
        urgent.ticket = ticket;
        queue.push_known("low", with_priority(1));
        assert!(!queue.served_and_goes_on(&mut urgent, 1_000), "somebody waits");
        let has_turn = || queue.state.lock().runnable.has_turn(begun_at);
        assert!(!has_turn(), "though not for a turn");
        let next = queue.exchange("urgent", urgent);
        assert_eq!(next.map(|(item, _)| item), Some("urgent"));
        urgent.ticket = ticket;
        queue.leaves(&mut urgent, 1_000);
        assert!(has_turn(), "it has left");
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
    fn stale_entries_are_swept() {
        let queue: RunQueue<u32, ()> = RunQueue::new(1, 1);
        for n in 0..10 {
            queue.push_fresh(n, place(u64::from(n % 3)));
        }
        for _ in 0..6 {
            queue.note_stale(|n| *n >= 6);
        }
        assert_eq!(queue.state.lock().runnable.len(), 4);
        assert_eq!(
            queue.wait_ahead(),
            Some(3),
            "one of the four has a worker that is on its way"
        );
        let left: Vec<_> = std::iter::from_fn(|| queue.state.lock().runnable.pop(clock::now())).collect();
        assert_eq!(left.len(), 4);
    }

    #[test]
    fn a_worker_is_free_until_it_has_work() {
        let queue: RunQueue<u32, ()> = RunQueue::new(2, 1);
        assert_eq!(queue.wait_ahead(), None, "no worker has come for work yet");
        for (n, ahead) in [None, Some(0), Some(1)].into_iter().enumerate() {
            queue.push_fresh(n as u32, place(1));
            assert_eq!(queue.wait_ahead(), ahead);
        }
        assert!(queue.next(|| false).is_some());
        assert!(queue.next(|| false).is_some());
        assert_eq!(queue.wait_ahead(), Some(1), "both are at work, and one item waits");
        queue.done();
        assert_eq!(queue.wait_ahead(), Some(0), "it has a worker that is on its way");
        assert!(queue.next(|| false).is_some());
        queue.done();
        assert_eq!(queue.wait_ahead(), None);
    }

    #[test]
    fn questions_stand_before_every_second_turn_and_are_bounded() {
        let queue: RunQueue<u32, (), &str> = RunQueue::new(8, 2);
        assert_eq!(queue.push_question("first"), Ok(()));
        assert_eq!(queue.push_question("second"), Ok(()));
        assert_eq!(queue.push_question("too many"), Err("too many"));
        queue.push_fresh(1, place(1));
        assert!(matches!(queue.next(|| false), Some(Work::Question("first"))));
        assert!(matches!(queue.next(|| false), Some(Work::Turn(1, _))));
        assert!(matches!(queue.next(|| false), Some(Work::Question("second"))));
        assert_eq!(queue.push_question("third"), Ok(()));
        queue.close();
        assert_eq!(queue.push_question("late"), Err("late"));
        assert!(matches!(queue.next(|| false), Some(Work::Question("third"))));
        assert!(queue.next(|| false).is_none());
    }

    #[test]
    fn questions_have_half_of_the_workers() {
        let queue: RunQueue<u32, (), u32> = RunQueue::new(4, 8);
        for n in 0..3 {
            assert_eq!(queue.push_question(n), Ok(()));
        }
        assert!(matches!(queue.next(|| false), Some(Work::Question(0))));
        assert!(matches!(queue.next(|| false), Some(Work::Question(1))));
        queue.push_fresh(1, place(1));
        queue.push_fresh(2, place(1));
        assert!(
            matches!(queue.next(|| false), Some(Work::Turn(1, _))),
            "two are asked already"
        );
        queue.question_done();
        assert!(matches!(queue.next(|| false), Some(Work::Question(2))));
        queue.close();
        assert!(matches!(queue.next(|| false), Some(Work::Turn(2, _))));
        assert!(queue.next(|| false).is_none());
    }

    #[test]
    fn questions_stand_before_every_second_turn_of_a_worker_that_never_rests_too() {
        let queue: RunQueue<u32, (), &str> = RunQueue::new(1, 2);
        let mut only = place(1);
        queue.push_known(1, only);
        let Some(Work::Turn(1, ticket)) = queue.next(|| false) else {
            panic!("it is alone");
        };
        only.ticket = ticket;
        assert!(queue.served_and_goes_on(&mut only, 1_000), "nobody waits");
        for question in ["first", "second"] {
            assert_eq!(queue.push_question(question), Ok(()));
        }
        assert!(!queue.served_and_goes_on(&mut only, 1_000), "a question waits");
        assert!(queue.exchange(1, only).is_none());
        queue.done();
        assert!(matches!(queue.next(|| false), Some(Work::Question("first"))));
        queue.question_done();
        assert!(matches!(queue.next(|| false), Some(Work::Turn(1, _))));
        assert!(!queue.served_and_goes_on(&mut only, 1_000), "the second waits");
        assert!(queue.exchange(1, only).is_none());
        queue.done();
        assert!(matches!(queue.next(|| false), Some(Work::Question("second"))));
        assert_eq!(queue.push_question("third"), Ok(()));
        queue.question_done();
        assert!(matches!(queue.next(|| false), Some(Work::Turn(1, _))));
    }

    #[test]
    fn a_question_is_not_kept_waiting_by_those_whose_turn_it_is_not() {
        let queue: RunQueue<u32, (), &str> = RunQueue::new(4, 2);
        let with_priority = |priority| Place {
            rank: Rank { priority, weight: 16 },
            ..place(1)
        };
        assert_eq!(queue.push_question("first"), Ok(()));
        assert!(matches!(queue.next(|| false), Some(Work::Question("first"))));
        queue.state.lock().runnable.push_known(1, with_priority(7));
        // Begun in the future, so that it is waited for however late this thread is.
        let soon = clock::now() + Duration::from_secs(3_600);
        assert!(queue.state.lock().runnable.pop(soon).is_some());
        queue.push_known(2, with_priority(1));
        assert_eq!(queue.push_question("second"), Ok(()));
        assert!(matches!(queue.next(|| false), Some(Work::Question("second"))));
    }

    #[test]
    fn what_has_filled_its_writer_long_ago_is_not_in_the_way_of_what_does_now() {
        let now = clock::now();
        let later = now + PATIENCE;
        let mut queue = GroupedQueue::new();
        let with_priority = |priority| Place {
            rank: Rank { priority, weight: 16 },
            ..place(1)
        };
        for (priority, at) in [(7, now), (5, later)] {
            let mut urgent = with_priority(priority);
            queue.push_known(priority, urgent);
            let (item, ticket) = queue.pop(at).expect("it is alone");
            assert_eq!(item, priority);
            urgent.ticket = ticket;
            queue.leaves(&mut urgent, 1_000);
            queue.left_full(&urgent, at);
        }
        queue.push_known(1, with_priority(1));
        assert!(queue.pop(later).is_none(), "its writer is busy");
        assert!(queue.pop(later + PATIENCE).is_some());
    }

    #[test]
    fn asides_wait_for_a_lull_and_are_bounded() {
        let queue: RunQueue<u32, &str> = RunQueue::new(4, 1);
        queue.push_aside("first");
        queue.push_aside("too many");
        queue.push_fresh(1, place(1));
        assert!(matches!(queue.next(|| false), Some(Work::Turn(1, _))));
        assert!(matches!(queue.next(|| false), Some(Work::Aside("first"))));
        queue.push_aside("second");
        queue.push_fresh(2, place(1));
        assert!(
            matches!(queue.next(|| true), Some(Work::Turn(2, _))),
            "one aside at a time"
        );
        queue.aside_done();
        assert!(matches!(queue.next(|| true), Some(Work::Aside("second"))));
        queue.aside_done();
        queue.close();
        assert!(queue.next(|| true).is_none());
    }
}
