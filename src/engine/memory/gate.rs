//! Where a scripted query waits until somebody opens.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::clock;
use crate::engine::{CancelToken, EngineError};

#[derive(Debug, Default)]
struct State {
    open: bool,
    waiting: usize,
    /// How often a query has come to the gate and found it closed.
    reached: u64,
}

/// A point at which queries wait. Closed at first; once open it stays open. Clones are the same gate.
#[derive(Debug, Clone, Default)]
pub struct Gate {
    shared: Arc<(Mutex<State>, Condvar)>,
}

/// Nobody came to a gate in time.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GateTimeout {
    /// How long was waited.
    pub waited: Duration,
}

impl fmt::Display for GateTimeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no query reached the gate within {:?}", self.waited)
    }
}

impl std::error::Error for GateTimeout {}

impl Gate {
    /// A closed gate.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets every query through, those that wait and those that come later. Never blocks.
    pub fn open(&self) {
        let (state, changed) = &*self.shared;
        state.lock().open = true;
        changed.notify_all();
    }

    /// How many queries wait here now.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.shared.0.lock().waiting
    }

    /// Blocks until a query has come to the closed gate, at any time since the gate was made; woken by its coming.
    ///
    /// # Errors
    /// [`GateTimeout`] once `deadline` has passed without one.
    pub fn wait_reached(&self, deadline: Duration) -> Result<(), GateTimeout> {
        self.wait_reached_by(1, deadline)
    }

    /// Blocks until queries have come to the closed gate `n` times in all.
    ///
    /// # Errors
    /// [`GateTimeout`] once `deadline` has passed before.
    pub fn wait_reached_by(&self, n: u64, deadline: Duration) -> Result<(), GateTimeout> {
        let (state, changed) = &*self.shared;
        let until = clock::after(clock::now(), deadline);
        let mut state = state.lock();
        while state.reached < n {
            if changed.wait_until(&mut state, until).timed_out() && state.reached < n {
                return Err(GateTimeout { waited: deadline });
            }
        }
        Ok(())
    }

    /// Waits as a query. True where the gate is open, false where `until` came first.
    pub(super) fn wait(
        &self,
        cancel: &CancelToken,
        ignores_cancel: bool,
        until: Option<Instant>,
    ) -> Result<bool, EngineError> {
        let (state, changed) = &*self.shared;
        if state.lock().open {
            return Ok(true);
        }
        let shared = Arc::clone(&self.shared);
        // With the lock held, so that a waiter is either before its look at the token or already asleep.
        cancel.arm(move || {
            let _state = shared.0.lock();
            shared.1.notify_all();
        });
        let waited = {
            let mut state = state.lock();
            state.waiting += 1;
            state.reached += 1;
            changed.notify_all();
            let end = loop {
                if state.open {
                    break Ok(true);
                }
                if cancel.is_cancelled() && !ignores_cancel {
                    break Err(EngineError::cancelled());
                }
                match until {
                    None => changed.wait(&mut state),
                    Some(until) => {
                        if changed.wait_until(&mut state, until).timed_out() && !state.open {
                            break Ok(false);
                        }
                    }
                }
            };
            state.waiting -= 1;
            end
        };
        cancel.disarm();
        waited
    }
}
