//! How long a query has been at work: in its engine or waiting for a worker, but not while its stream waits for its client.

use std::time::{Duration, Instant};

/// Measures the work of one query against the most that it may take.
#[derive(Debug)]
pub(crate) struct QueryTime {
    max: Duration,
    /// Spent before the present stretch of work.
    spent: Duration,
    /// When the present stretch of work began; `None` while the stream is at rest.
    since: Option<Instant>,
}

impl QueryTime {
    /// The query is at work from `now` on.
    pub(crate) fn begin(max: Duration, now: Instant) -> Self {
        Self {
            max,
            spent: Duration::ZERO,
            since: Some(now),
        }
    }

    /// The stream waits for its client from `now` on.
    pub(crate) fn rest(&mut self, now: Instant) {
        self.spent = self.spent(now);
        self.since = None;
    }

    /// The stream waits for its client no longer.
    pub(crate) fn go_on(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// Whether all the time is spent. A stream at rest spends none: it may still finish what needs no more work.
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        self.since.is_some() && self.left(now).is_zero()
    }

    /// Time left: the query is not [over](Self::is_over) earlier than that, whether its stream rests meanwhile or not.
    pub(crate) fn left(&self, now: Instant) -> Duration {
        self.max.saturating_sub(self.spent(now))
    }

    pub(crate) fn is_at_rest(&self) -> bool {
        self.since.is_none()
    }

    /// The most that the query may take.
    pub(crate) fn max(&self) -> Duration {
        self.max
    }

    fn spent(&self, now: Instant) -> Duration {
        let present = self
            .since
            .map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        self.spent.saturating_add(present)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(begin: Instant, seconds: u64) -> Instant {
        begin + Duration::from_secs(seconds)
    }

    #[test]
    fn time_at_rest_is_not_counted() {
        let begin = crate::clock::now();
        let mut time = QueryTime::begin(10 * SECOND, begin);
        time.rest(at(begin, 4));
        assert_eq!(time.left(at(begin, 1_000)), 6 * SECOND);
        assert!(!time.is_over(at(begin, 1_000)));
        time.go_on(at(begin, 1_000));
        assert!(!time.is_over(at(begin, 1_005)));
        assert!(time.is_over(at(begin, 1_006)));
    }

    #[test]
    fn work_adds_up_over_any_number_of_rests() {
        let begin = crate::clock::now();
        let mut time = QueryTime::begin(10 * SECOND, begin);
        for n in 0..9 {
            time.rest(at(begin, n * 100 + 1));
            time.go_on(at(begin, n * 100 + 100));
        }
        assert_eq!(time.left(at(begin, 900)), SECOND);
        assert!(time.is_over(at(begin, 901)));
    }

    #[test]
    fn events_that_say_nothing_new_change_nothing() {
        let begin = crate::clock::now();
        let mut time = QueryTime::begin(10 * SECOND, begin);
        time.go_on(at(begin, 5));
        assert_eq!(time.left(at(begin, 6)), 4 * SECOND);
        time.rest(at(begin, 6));
        time.rest(at(begin, 8));
        assert_eq!(time.left(at(begin, 9)), 4 * SECOND);
    }

    #[test]
    fn a_stream_at_rest_is_not_over_though_its_time_is_spent() {
        let begin = crate::clock::now();
        let mut time = QueryTime::begin(SECOND, begin);
        time.rest(at(begin, 2));
        assert!(time.left(at(begin, 3)).is_zero() && !time.is_over(at(begin, 3)));
        time.go_on(at(begin, 4));
        assert!(time.is_over(at(begin, 4)));
    }

    #[test]
    fn endless_is_endless() {
        let begin = crate::clock::now();
        let mut time = QueryTime::begin(Duration::MAX, begin);
        time.rest(at(begin, 1));
        time.go_on(at(begin, 2));
        assert!(!time.is_over(at(begin, 1_000_000)));
    }
}
