//! The only place that starts threads: named, owned by whoever holds the handle, and refused rather than fatal
//! where the system has no more to give.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{Builder, JoinHandle};

use crossbeam_channel::bounded;

/// Stack of a connection's reader and writer: they parse and copy, and recurse nowhere.
pub(crate) const STACK_BYTES_CONNECTION: usize = 256 * 1024;

/// Stack of a worker: SQLite's parser and an engine of the application's own run on it.
pub(crate) const STACK_BYTES_WORKER: usize = 2 * 1024 * 1024;

/// Threads of this process that were started here and have not ended.
static ALIVE: AtomicUsize = AtomicUsize::new(0);

/// A thread that counts as alive until this is dropped, after a panic too.
struct Alive;

impl Alive {
    fn new() -> Self {
        ALIVE.fetch_add(1, Ordering::Relaxed);
        Self
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        ALIVE.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many threads this process has that were started here, of all its servers and clients.
pub(crate) fn n_alive() -> usize {
    ALIVE.load(Ordering::Relaxed)
}

/// Starts a thread called `rowstream-{role}` that is given `value`.
///
/// # Errors
/// As [`spawn_named`]; `value` comes back then, for whoever has something to say about it.
pub(crate) fn spawn_owning<V, F>(
    role: &str,
    stack_bytes: usize,
    value: V,
    body: F,
) -> Result<JoinHandle<()>, (io::Error, V)>
where
    V: Send + 'static,
    F: FnOnce(V) + Send + 'static,
{
    let (give, given) = bounded(1);
    let started = spawn_named(role, stack_bytes, move || {
        if let Ok(value) = given.recv() {
            body(value);
        }
    });
    match started {
        Ok(thread) => {
            let _it_waits_for_nothing_else = give.send(value);
            Ok(thread)
        }
        Err(error) => Err((error, value)),
    }
}

/// Starts a thread called `rowstream-{role}`.
///
/// # Errors
/// Whatever the system says when it has no thread to give; nothing has been started then.
pub(crate) fn spawn_named<T, F>(role: &str, stack_bytes: usize, body: F) -> io::Result<JoinHandle<T>>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    #[cfg(test)]
    let body = scarcity::start(body)?;
    Builder::new()
        .name(format!("rowstream-{role}"))
        .stack_size(stack_bytes)
        .spawn(move || {
            let _alive = Alive::new();
            body()
        })
}

/// A system that refuses the n-th thread, and no other: for the thread that a test runs on, and all that are started from there.
#[cfg(test)]
pub(crate) mod scarcity {
    use std::cell::RefCell;
    use std::io;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Debug)]
    struct Plan {
        refused: usize,
        n_asked: AtomicUsize,
        n_alive: AtomicUsize,
    }

    thread_local! {
        static PLAN: RefCell<Option<Arc<Plan>>> = const { RefCell::new(None) };
    }

    /// What came of it.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) struct Outcome {
        pub(crate) has_refused: bool,
        /// Threads that had not ended when `body` had.
        pub(crate) n_alive: usize,
    }

    /// Runs `body` on a system that refuses the `n`-th thread that it asks for, counted from 0.
    pub(crate) fn refuse_nth(n: usize, body: impl FnOnce()) -> Outcome {
        let plan = Arc::new(Plan {
            refused: n,
            n_asked: AtomicUsize::new(0),
            n_alive: AtomicUsize::new(0),
        });
        PLAN.set(Some(Arc::clone(&plan)));
        body();
        PLAN.set(None);
        Outcome {
            has_refused: plan.n_asked.load(Ordering::Acquire) > n,
            n_alive: plan.n_alive.load(Ordering::Acquire),
        }
    }

    pub(super) fn start<T>(body: impl FnOnce() -> T) -> io::Result<impl FnOnce() -> T> {
        let plan = PLAN.with_borrow(Clone::clone);
        if let Some(plan) = &plan {
            if plan.n_asked.fetch_add(1, Ordering::AcqRel) == plan.refused {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            plan.n_alive.fetch_add(1, Ordering::AcqRel);
        }
        Ok(move || {
            PLAN.set(plan.clone());
            let value = body();
            if let Some(plan) = plan {
                plan.n_alive.fetch_sub(1, Ordering::AcqRel);
            }
            value
        })
    }
}
