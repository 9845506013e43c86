//! Whether the server is going away, and until when it lets its streams run: what each connection is told, old or new.
//!
//! Must not know who decides.

use std::time::Instant;

use crate::sync::Mutex;

/// Set once, and then for good.
#[derive(Debug, Default)]
pub(crate) struct Departure {
    /// Under a lock, so that of a connection that opens and a server that begins to leave at the same moment one finds the other.
    until: Mutex<Option<Instant>>,
}

impl Departure {
    /// The server goes away: streams may run until then. The first time stays.
    pub(crate) fn begin(&self, until: Instant) -> Instant {
        *self.until.lock().get_or_insert(until)
    }

    /// When what is left will be stopped; `None` where the server stays.
    pub(crate) fn until(&self) -> Option<Instant> {
        *self.until.lock()
    }
}
