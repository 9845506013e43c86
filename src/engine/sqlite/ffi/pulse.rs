//! What a connection goes by while SQLite works: when to stop, how long to wait for a lock, how many pages to read.
//!
//! SQLite calls the progress handler every so many operations. One operation can take long without it: `count(*)` of a table walks all
//! its pages in one. So the pulse is looked at before each read of the database's files and each access to a temporary file, too.
#![allow(unsafe_code)] // SQLite calls the handlers with a pointer, and reads files without one

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, NonNull};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use crate::clock;
use crate::engine::CancelToken;
use crate::rows::RowWriter;

/// How long the n-th wait for a lock takes: short at first, for writers mostly are.
const LOCK_WAITS_MS: [u64; 8] = [1, 2, 5, 10, 15, 20, 25, 50];

/// Read and written only by the thread that is inside a call on this connection, through the pointer alone, so that no reference to it
/// ever overlaps another.
pub(super) struct Pulse {
    /// Stops the statement when set.
    pub(super) cancel: Option<CancelToken>,
    /// Stops the statement when passed.
    pub(super) deadline: Option<Instant>,
    /// Reads of the database's files until the statement is stopped; `None` for no limit.
    pub(super) reads_left: Option<u32>,
    /// Told the time while a fill is under way; null otherwise.
    pub(super) writer: *mut RowWriter,
    /// Woken by the token.
    pub(super) cancelled: Option<Receiver<()>>,
    pub(super) lock_timeout: Duration,
    /// Waited for a lock so far, in this statement.
    pub(super) lock_waited: Duration,
}

impl Pulse {
    pub(super) fn new(lock_timeout: Duration) -> Self {
        Self {
            cancel: None,
            deadline: None,
            reads_left: None,
            writer: ptr::null_mut(),
            cancelled: None,
            lock_timeout,
            lock_waited: Duration::ZERO,
        }
    }
}

thread_local! {
    /// Of the connection that this thread is inside a call of; null outside of one.
    static PRESENT: Cell<*mut Pulse> = const { Cell::new(ptr::null_mut()) };
}

/// A call on a connection is under way on this thread: file accesses look at the connection's pulse until this is dropped.
pub(super) struct Inside {
    outer: *mut Pulse,
}

impl Inside {
    /// # Safety
    /// `pulse` is valid until the value is dropped, and used by this thread alone.
    pub(super) unsafe fn of(pulse: NonNull<Pulse>) -> Self {
        Self {
            outer: PRESENT.replace(pulse.as_ptr()),
        }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        PRESENT.set(self.outer);
    }
}

/// Whether the call under way is to stop rather than read from a file of the database.
pub(super) fn stops_read() -> bool {
    #[cfg(test)]
    seen::event();
    let pulse = PRESENT.get();
    if pulse.is_null() {
        return false;
    }
    // SAFETY: valid by the contract of `Inside::of`; the fields are read through the pointer one by one, on the thread that is inside
    // the call.
    unsafe {
        if let Some(left) = (*pulse).reads_left {
            let Some(left) = left.checked_sub(1) else {
                return true;
            };
            (*pulse).reads_left = Some(left);
        }
    }
    stops()
}

/// Whether the call under way is to stop rather than use a temporary file.
pub(super) fn stops_temporary() -> bool {
    #[cfg(test)]
    seen::event();
    stops()
}

/// Whether the call under way is to stop rather than wait for anything.
pub(super) fn stops() -> bool {
    let pulse = PRESENT.get();
    if pulse.is_null() {
        return false;
    }
    // SAFETY: as in `stops_read`.
    let (cancel, deadline) = unsafe { (&(*pulse).cancel, (*pulse).deadline) };
    cancel.as_ref().is_some_and(CancelToken::is_cancelled) || deadline.is_some_and(|deadline| clock::now() >= deadline)
}

/// The progress handler: returns non-zero to stop the statement.
pub(super) extern "C" fn on_pulse(context: *mut c_void) -> c_int {
    let pulse: *mut Pulse = context.cast();
    #[cfg(test)]
    seen::event();
    // A panic must not cross into C: it stops the statement instead.
    let stop = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: the context is the pulse of the connection that is working (see `Database::new`), which this thread is inside
        // a call of. The fields are read through the pointer one by one; `writer` is null or valid (see `Statement::fill`), and the
        // loop there does not touch it during a step.
        unsafe {
            if (*pulse).cancel.as_ref().is_some_and(CancelToken::is_cancelled) {
                return true;
            }
            let (writer, deadline) = ((*pulse).writer, (*pulse).deadline);
            if writer.is_null() && deadline.is_none() {
                return false;
            }
            let now = clock::now();
            if !writer.is_null() {
                (*writer).tick(now);
            }
            deadline.is_some_and(|deadline| now >= deadline)
        }
    }));
    c_int::from(stop.unwrap_or(true))
}

/// The busy handler: waits a little for a lock and returns non-zero to try again. The token ends the wait.
pub(super) extern "C" fn on_busy(context: *mut c_void, n_before: c_int) -> c_int {
    let pulse: *mut Pulse = context.cast();
    let again = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: as in `on_pulse`; nobody else refers to the pulse during the call.
        let pulse = unsafe { &mut *pulse };
        let n = usize::try_from(n_before).unwrap_or(0).min(LOCK_WAITS_MS.len() - 1);
        let wait = Duration::from_millis(LOCK_WAITS_MS[n]);
        if pulse.lock_waited + wait > pulse.lock_timeout {
            return false;
        }
        pulse.lock_waited += wait;
        let (Some(cancel), Some(cancelled)) = (&pulse.cancel, &pulse.cancelled) else {
            return false;
        };
        if pulse.deadline.is_some_and(|deadline| clock::now() + wait >= deadline) {
            return false;
        }
        let _woken_or_not = cancelled.recv_timeout(wait);
        !cancel.is_cancelled()
    }));
    c_int::from(again.unwrap_or(false))
}

/// What tests see of the looks at the pulse on their thread.
#[cfg(test)]
pub(in super::super) mod seen {
    use std::cell::{Cell, RefCell};

    /// Something to do at a look.
    struct Plan {
        at: u64,
        act: Box<dyn FnOnce()>,
    }

    thread_local! {
        static EVENTS: Cell<u64> = const { Cell::new(0) };
        static PLAN: RefCell<Option<Plan>> = const { RefCell::new(None) };
    }

    pub(super) fn event() {
        let n = EVENTS.get() + 1;
        EVENTS.set(n);
        let due = PLAN.with_borrow_mut(|plan| plan.take_if(|plan| plan.at <= n));
        if let Some(plan) = due {
            (plan.act)();
        }
    }

    /// How many there have been since the last [`start`].
    pub(in super::super::super) fn n_events() -> u64 {
        EVENTS.get()
    }

    /// Counts from here on, and acts at the `n`-th look.
    pub(in super::super::super) fn start(n: u64, act: impl FnOnce() + 'static) {
        EVENTS.set(0);
        PLAN.set(Some(Plan {
            at: n,
            act: Box::new(act),
        }));
    }
}
