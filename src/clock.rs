//! The only place that asks what time it is.
//!
//! Everything else takes the time as an argument, so that tests can choose it.

use std::time::Instant;

/// The monotone clock's present reading. Never blocks.
#[inline]
pub(crate) fn now() -> Instant {
    Instant::now()
}
