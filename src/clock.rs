//! The only place that asks what time it is.
//!
//! Everything else takes the time as an argument, so that tests can choose it.

use std::time::{Duration, Instant};

/// The monotone clock's present reading. Never blocks.
#[inline]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Whole milliseconds, as messages have them.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
