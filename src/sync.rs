//! The locks, condition variables and atomics of the concurrent pieces: parking_lot's and the standard library's, or, where the
//! crate is built with `--cfg rowstream_shuttle`, ones that a test can schedule.
//!
//! Must not know what they guard.

#[cfg(not(rowstream_shuttle))]
pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard};
#[cfg(not(rowstream_shuttle))]
pub(crate) use std::sync::atomic;

#[cfg(rowstream_shuttle)]
pub(crate) use shuttle::sync::atomic;
#[cfg(rowstream_shuttle)]
pub(crate) use shuttled::{Condvar, Mutex, MutexGuard};

/// parking_lot's interface, as far as it is used, over shuttle's locks.
#[cfg(rowstream_shuttle)]
mod shuttled {
    use std::fmt;
    use std::ops::{Deref, DerefMut};
    use std::time::Instant;

    #[derive(Default)]
    pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

    /// `None` only while it waits on a condition variable.
    pub(crate) struct MutexGuard<'a, T>(Option<shuttle::sync::MutexGuard<'a, T>>);

    #[derive(Default)]
    pub(crate) struct Condvar(shuttle::sync::Condvar);

    /// Time does not pass in a scheduled test: nothing is ever timed out.
    pub(crate) struct WaitTimeoutResult;

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(shuttle::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            MutexGuard(Some(self.0.lock().expect("no test goes on after a panic")))
        }
    }

    impl<T> fmt::Debug for Mutex<T> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Mutex")
        }
    }

    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            self.0.as_ref().expect("the guard is not waiting")
        }
    }

    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            self.0.as_mut().expect("the guard is not waiting")
        }
    }

    impl Condvar {
        pub(crate) fn new() -> Self {
            Self(shuttle::sync::Condvar::new())
        }

        pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
            let waiting = guard.0.take().expect("a guard waits once at a time");
            guard.0 = Some(self.0.wait(waiting).expect("no test goes on after a panic"));
        }

        pub(crate) fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, _until: Instant) -> WaitTimeoutResult {
            self.wait(guard);
            WaitTimeoutResult
        }

        pub(crate) fn notify_one(&self) {
            self.0.notify_one();
        }

        pub(crate) fn notify_all(&self) {
            self.0.notify_all();
        }
    }

    impl fmt::Debug for Condvar {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Condvar")
        }
    }

    impl WaitTimeoutResult {
        pub(crate) fn timed_out(&self) -> bool {
            false
        }
    }
}
