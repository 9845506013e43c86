//! The only place that starts threads: named, owned by whoever holds the handle, and refused rather than fatal
//! where the system has no more to give.

use std::io;
use std::thread::{Builder, JoinHandle};

use crossbeam_channel::bounded;

/// Stack of a connection's reader and writer: they parse and copy, and recurse nowhere.
pub(crate) const STACK_BYTES_CONNECTION: usize = 256 * 1024;

/// Stack of a worker: SQLite's parser and an engine of the application's own run on it.
pub(crate) const STACK_BYTES_WORKER: usize = 2 * 1024 * 1024;

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
    Builder::new()
        .name(format!("rowstream-{role}"))
        .stack_size(stack_bytes)
        .spawn(body)
}
