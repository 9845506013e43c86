//! The only place that asks what time it is.
//!
//! Everything else takes the time as an argument, so that tests can choose it.

use std::time::{Duration, Instant};

/// The monotone clock's present reading. Never blocks.
#[inline]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// The end of a time that somebody has chosen, a setting or a peer: `Instant + Duration` panics where there is no such end, and here
/// what is further away than anybody waits is ten years away.
pub(crate) fn after(now: Instant, duration: Duration) -> Instant {
    const FAR: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
    now + duration.min(FAR)
}

/// Whole milliseconds, as messages have them.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_over_when_it_says_and_one_without_end_in_ten_years() {
        let now = now();
        let years = |n: u64| Duration::from_secs(n * 365 * 24 * 60 * 60);
        assert_eq!(after(now, Duration::ZERO), now);
        assert_eq!(after(now, Duration::from_secs(5)), now + Duration::from_secs(5));
        for endless in [Duration::MAX, Duration::from_millis(u64::MAX), years(500), years(10)] {
            assert_eq!(after(now, endless), now + years(10), "{endless:?}");
        }
        // There is room for whatever comes on top of it.
        assert!(after(after(now, Duration::MAX), Duration::MAX) > after(now, Duration::MAX));
    }
}
