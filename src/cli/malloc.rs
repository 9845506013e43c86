//! The C library's allocator as the program uses it: few arenas, and memory that is free goes back to the system after a load.
//!
//! SQLite and zstd allocate there as well as Rust does. Only glibc's needs this: others give back by themselves. Must not know what
//! the memory was for.

/// Looks at which memory is given back once something has changed: what is freed a little later, by a thread that was still at it, goes with
/// the second.
const TRIMS_PER_CHANGE: u8 = 2;

/// Decides when free memory goes back to the system: when a server has done something, and not while it rests.
#[derive(Debug)]
pub(super) struct Trimmer<T> {
    seen: T,
    trims_due: u8,
}

impl<T: PartialEq> Trimmer<T> {
    /// `seen` is how the server is: anything that changes when memory is freed.
    pub(super) fn new(seen: T) -> Self {
        Self { seen, trims_due: 0 }
    }

    /// Whether to give back what is free, now that the server is like that.
    pub(super) fn look(&mut self, now: T) -> bool {
        if now != self.seen {
            self.seen = now;
            self.trims_due = TRIMS_PER_CHANGE;
        }
        let is_due = self.trims_due > 0;
        self.trims_due = self.trims_due.saturating_sub(1);
        is_due
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod platform {
    #![allow(unsafe_code)] // the C library's own functions

    use std::time::Duration;

    /// Heaps that threads share. By default glibc has eight for each core, and no thread uses what is free in the heap of another.
    const ARENAS_MAX: libc::c_int = 4;

    /// How often a server is looked at. Free memory has gone back after two looks.
    pub(crate) const LOOK_INTERVAL: Option<Duration> = Some(Duration::from_secs(5));

    pub(crate) fn limit_arenas() {
        // SAFETY: takes any number, and says no to what it does not like.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, ARENAS_MAX) };
    }

    pub(crate) fn trim() {
        // SAFETY: has no preconditions; it locks what it looks at.
        unsafe { libc::malloc_trim(0) };
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
mod platform {
    use std::time::Duration;

    pub(crate) const LOOK_INTERVAL: Option<Duration> = None;

    pub(crate) fn limit_arenas() {}

    pub(crate) fn trim() {}
}

pub(super) use platform::{LOOK_INTERVAL as INTERVAL, limit_arenas, trim};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_rests_is_left_alone() {
        let mut trimmer = Trimmer::new(0);
        let mut looks = |states: &[u32]| -> Vec<bool> { states.iter().map(|state| trimmer.look(*state)).collect() };
        assert_eq!(looks(&[0, 0]), [false, false]);
        assert_eq!(looks(&[1, 1, 1, 1]), [true, true, false, false]);
        assert_eq!(looks(&[2, 3, 3, 3]), [true, true, true, false]);
    }
}
