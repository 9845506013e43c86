//! Signals, heard on a thread of their own.

use std::io;

use signal_hook::iterator::Signals;

pub(super) use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::thread::{STACK_BYTES_CONNECTION, spawn_named};

/// How shells tell an end by a signal.
pub(super) fn exit_code(signal: i32) -> i32 {
    128 + signal
}

/// Calls `act` for each of these signals from now on, one at a time; while a call lasts, others wait. The thread ends when: the
/// process does.
///
/// # Errors
/// Where the system has no thread or pipe to give.
pub(super) fn on_signals(signals: &[i32], mut act: impl FnMut(i32) + Send + 'static) -> io::Result<()> {
    let mut signals = Signals::new(signals)?;
    spawn_named("signals", STACK_BYTES_CONNECTION, move || {
        for signal in signals.forever() {
            act(signal);
        }
    })
    .map(drop)
}
