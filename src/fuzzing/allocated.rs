//! How much memory a call takes, on its own thread.
//!
//! Must not know what is called. Memory that C code takes is not seen.

#![allow(unsafe_code)] // an allocator cannot be counted without it

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// Bytes that this thread has taken and not given back; below zero where it gave back another thread's.
    static HELD: Cell<isize> = const { Cell::new(0) };
    /// The most that `HELD` was.
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// The system's, counted.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: everything is the system allocator's; counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: by the caller's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: by the caller's contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        count(0, layout.size());
        // SAFETY: by the caller's contract.
        unsafe { System.dealloc(start, layout) }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // Both are there while one is copied into the other.
        count(new_size, 0);
        count(0, layout.size());
        // SAFETY: by the caller's contract.
        unsafe { System.realloc(start, layout, new_size) }
    }
}

fn count(taken: usize, given_back: usize) {
    // A thread that ends may have no counters any more.
    let _ended = HELD.try_with(|held| {
        held.set(
            held.get()
                .wrapping_add_unsigned(taken)
                .wrapping_sub_unsigned(given_back),
        );
        PEAK.try_with(|peak| peak.set(peak.get().max(held.get())))
    });
}

/// Calls `body`; with what it returns, the most bytes that it held at once beyond what was held before.
pub(super) fn peak_of<T>(body: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.get();
    PEAK.set(before);
    let out = body();
    (out, PEAK.get().wrapping_sub(before).unsigned_abs())
}

/// Panics where `peak` is beyond `bytes_max`.
#[track_caller]
pub(super) fn check(peak: usize, bytes_max: usize) {
    assert!(
        peak <= bytes_max,
        "took {peak} bytes of memory, the most is {bytes_max}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_what_was_held_at_once() {
        let (len, peak) = peak_of(|| (0..100).map(|_| vec![0_u8; 1_000].len()).sum::<usize>());
        assert_eq!((len, peak), (100_000, 1_000));
        let (kept, peak) = peak_of(|| Vec::<u8>::with_capacity(1 << 20));
        assert_eq!((kept.capacity(), peak), (1 << 20, 1 << 20));
        let ((), peak) = peak_of(|| drop(kept));
        assert_eq!(peak, 0);
    }
}
