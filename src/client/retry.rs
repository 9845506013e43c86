//! How long to wait before trying again: longer each time, and never two clients in step.
//!
//! Pure: chance is an argument.

use std::time::Duration;

/// The first wait after a try that failed, at the most.
const FIRST: Duration = Duration::from_millis(50);

/// The longest.
const LONGEST: Duration = Duration::from_secs(5);

/// Exponential back-off with full jitter, as Brooker described it ("Exponential Backoff And Jitter", 2015): a random part of a
/// bound that doubles.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    n_failed: u32,
}

impl Backoff {
    /// How long to wait before the next try: nothing before the first. `chance` is any random number.
    pub(super) fn next(&mut self, chance: u64) -> Duration {
        let n_failed = self.n_failed;
        self.n_failed = n_failed.saturating_add(1);
        let Some(n_doubled) = n_failed.checked_sub(1) else {
            return Duration::ZERO;
        };
        let bound = FIRST.saturating_mul(1 << n_doubled.min(16)).min(LONGEST);
        bound.mul_f64(chance as f64 / u64::MAX as f64)
    }

    /// The last try was good for something.
    pub(super) fn reset(&mut self) {
        self.n_failed = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_bound_and_start_anew() {
        let mut backoff = Backoff::default();
        let longest: Vec<_> = (0..12).map(|_| backoff.next(u64::MAX).as_millis()).collect();
        assert_eq!(longest[..5], [0, 50, 100, 200, 400]);
        assert_eq!(longest[11], 5_000);
        assert_eq!(backoff.next(0), Duration::ZERO);
        backoff.reset();
        assert_eq!(backoff.next(u64::MAX), Duration::ZERO);
        assert!(backoff.next(u64::MAX / 2) <= FIRST / 2);
    }
}
