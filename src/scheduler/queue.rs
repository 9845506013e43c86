//! The blocking queue that workers wait on: whose turn it is among the streams is for [`GroupedQueue`] to say.

use std::collections::VecDeque;
use std::convert::Infallible;

use super::fair::Ticket;
use super::groups::{GroupedQueue, Place};
use crate::clock;
use crate::sync::{Condvar, Mutex};

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

    /// Whether somebody waits for a worker.
    pub(crate) fn is_wanted(&self) -> bool {
        let state = self.state.lock();
        state.runnable.len() > 0 || state.may_ask()
    }

    /// Whether somebody waits for a worker, and none is free.
    pub(crate) fn is_short_of_workers(&self) -> bool {
        let state = self.state.lock();
        state.n_free == 0 && (state.runnable.has_turn(clock::now()) || state.may_ask())
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
            if state.may_ask()
                && (!state.question_was_last || !state.runnable.has_turn(now))
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
    use std::time::Duration;

    use super::super::groups::tests::{place, urgent_place};
    use super::*;

    #[test]
    fn nobody_slips_in_between_two_turns_of_a_more_urgent_one() {
        let queue: RunQueue<&str, ()> = RunQueue::new(2, 1);
        let begun_at = clock::now();
        let mut urgent = urgent_place(7);
        queue.push_known("urgent", urgent);
        let Some(Work::Turn("urgent", ticket)) = queue.next(|| false) else {
            panic!("it is alone");
        };
        urgent.ticket = ticket;
        queue.push_known("low", urgent_place(1));
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
    fn a_worker_with_an_aside_is_missed_where_a_turn_waits_and_none_is_free() {
        let queue: RunQueue<u32, &str> = RunQueue::new(1, 1);
        queue.push_aside("aside");
        assert!(matches!(queue.next(|| true), Some(Work::Aside("aside"))));
        assert!(!queue.is_short_of_workers(), "nothing waits");
        queue.push_fresh(1, place(1));
        assert!(queue.is_short_of_workers());
        queue.aside_done();
        assert!(!queue.is_short_of_workers(), "the worker is on its way");
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
        assert_eq!(queue.push_question("first"), Ok(()));
        assert!(matches!(queue.next(|| false), Some(Work::Question("first"))));
        queue.state.lock().runnable.push_known(1, urgent_place(7));
        // Begun in the future, so that it is waited for however late this thread is.
        let soon = clock::now() + Duration::from_secs(3_600);
        assert!(queue.state.lock().runnable.pop(soon).is_some());
        queue.push_known(2, urgent_place(1));
        assert_eq!(queue.push_question("second"), Ok(()));
        assert!(matches!(queue.next(|| false), Some(Work::Question("second"))));
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
