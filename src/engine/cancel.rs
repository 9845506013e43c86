//! `CancelToken`: how a stream tells its engine to stop. Level-triggered: the flag is the truth, the hook only wakes.

use std::fmt;
use std::sync::Arc;

use crate::error::CancelReason;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicU8, Ordering};

/// Something that ends an engine's wait: an interrupt, a cancel request, a channel's wake-up.
type Hook = Box<dyn FnMut() + Send>;

struct Inner {
    cancelled: AtomicBool,
    /// The first reason, as `CancelReason as u8`; 0 while not cancelled.
    reason: AtomicU8,
    hook: Mutex<Option<Hook>>,
}

/// Says whether a query is to stop. Cloned freely; all clones are one token.
///
/// Once set it stays set. Engines read [`is_cancelled`](Self::is_cancelled) often (one relaxed load), or arm a hook before
/// they block.
#[derive(Clone)]
pub struct CancelToken(Arc<Inner>);

impl CancelToken {
    /// A token that is not set.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Inner {
            cancelled: AtomicBool::new(false),
            reason: AtomicU8::new(0),
            hook: Mutex::new(None),
        }))
    }

    /// Sets the flag and runs the hook, if one is armed. The first reason stays. Returns whether this call was the first.
    ///
    /// Blocks for as long as the hook takes.
    pub fn cancel(&self, reason: CancelReason) -> bool {
        let first = self
            .0
            .reason
            .compare_exchange(0, reason as u8, Ordering::AcqRel, Ordering::Acquire)
            .is_ok();
        self.0.cancelled.store(true, Ordering::Release);
        if let Some(hook) = self.0.hook.lock().as_mut() {
            hook();
        }
        first
    }

    /// Whether the query is to stop.
    #[inline]
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::Relaxed)
    }

    /// Who cancelled first; `None` while nobody has.
    #[must_use]
    pub fn reason(&self) -> Option<CancelReason> {
        let code = self.0.reason.load(Ordering::Acquire);
        CancelReason::from_number(code)
    }

    /// Installs `hook`, replacing an earlier one, before the engine blocks. Runs it at once if the token is already set.
    ///
    /// The hook may run several times, on the thread that cancels, and must not call back into this token.
    pub fn arm(&self, hook: impl FnMut() + Send + 'static) {
        let mut slot = self.0.hook.lock();
        let hook = slot.insert(Box::new(hook));
        if self.0.cancelled.load(Ordering::Acquire) {
            hook();
        }
    }

    /// Removes the hook. Waits for one that is running: afterwards what it wakes may be used for something else.
    pub fn disarm(&self) {
        let hook = self.0.hook.lock().take();
        drop(hook);
    }
}

impl Default for CancelToken {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelToken")
            .field("cancelled", &self.is_cancelled())
            .field("reason", &self.reason())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_stays_and_the_hook_runs() {
        let token = CancelToken::new();
        let (tx, rx) = crossbeam_channel::bounded(4);
        token.arm(move || tx.try_send(()).unwrap_or_default());
        assert!(!token.is_cancelled());
        assert!(token.cancel(CancelReason::Client));
        assert!(!token.cancel(CancelReason::Timeout));
        assert_eq!(token.reason(), Some(CancelReason::Client));
        assert_eq!(rx.len(), 2);
    }

    #[test]
    fn a_hook_armed_too_late_runs_at_once() {
        let token = CancelToken::new();
        token.cancel(CancelReason::Admin);
        let (tx, rx) = crossbeam_channel::bounded(1);
        token.arm(move || tx.try_send(()).unwrap_or_default());
        assert_eq!(rx.len(), 1);
        token.disarm();
        token.cancel(CancelReason::Admin);
        assert_eq!(rx.len(), 1);
    }
}
