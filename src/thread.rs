//! The only place that starts threads: named, owned by whoever holds the handle, and refused rather than fatal
//! where the system has no more to give.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{Builder, JoinHandle};

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

/// Starts a thread called `rowstream-{role}`.
///
/// # Errors
/// Whatever the system says when it has no thread to give; nothing has been started then.
pub(crate) fn spawn_named<T, F>(role: &str, stack_bytes: usize, body: F) -> io::Result<JoinHandle<T>>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    Builder::new()
        .name(format!("rowstream-{role}"))
        .stack_size(stack_bytes)
        .spawn(move || {
            let _alive = Alive::new();
            body()
        })
}
