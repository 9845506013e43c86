//! Signals, heard on a thread of their own.
//!
//! Where the system has none, as Windows, nothing is ever heard: Ctrl-C ends the process at once, without draining, and no file is read
//! again.

use std::io;

#[cfg(unix)]
pub(super) use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
#[cfg(unix)]
use signal_hook::iterator::Signals;

#[cfg(unix)]
use crate::thread::{STACK_BYTES_CONNECTION, spawn_named};

// The numbers are POSIX's.
#[cfg(not(unix))]
pub(super) const SIGHUP: i32 = 1;
#[cfg(not(unix))]
pub(super) const SIGINT: i32 = 2;
#[cfg(not(unix))]
pub(super) const SIGTERM: i32 = 15;

/// How shells tell an end by a signal.
pub(super) fn exit_code(signal: i32) -> i32 {
    128 + signal
}

/// Calls `act` for each of these signals from now on, one at a time; while a call lasts, others wait. The thread ends when: the
/// process does.
///
/// # Errors
/// Where the system has no thread or pipe to give.
#[cfg(unix)]
pub(super) fn on_signals(signals: &[i32], mut act: impl FnMut(i32) + Send + 'static) -> io::Result<()> {
    let mut signals = Signals::new(signals)?;
    spawn_named("signals", STACK_BYTES_CONNECTION, move || {
        for signal in signals.forever() {
            act(signal);
        }
    })
    .map(drop)
}

/// There are none. `act` is kept all the same: what it holds says by its end that nobody will call any more, and that may be taken for a
/// call.
#[cfg(not(unix))]
pub(super) fn on_signals(_signals: &[i32], act: impl FnMut(i32) + Send + 'static) -> io::Result<()> {
    std::mem::forget(act);
    Ok(())
}
