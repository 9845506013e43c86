//! One descriptor kept back, so that a client can be told when there are no others.
//!
//! Must not know what it is told.

use std::fs::File;
use std::io;

use super::socket::{Accept, Accepted};

/// What the descriptor is kept busy with: there on every system that runs out of descriptors one by one.
const NOTHING: &str = "/dev/null";

/// A descriptor kept back, if the system had one to give.
#[derive(Debug)]
pub(super) struct Reserve(Option<File>);

impl Reserve {
    pub(super) fn new() -> Self {
        Self(File::open(NOTHING).ok())
    }

    /// Whether an accept has failed for want of a descriptor, of the process or of the system.
    pub(super) fn helps_against(error: &io::Error) -> bool {
        const ENFILE: i32 = 23;
        const EMFILE: i32 = 24;
        cfg!(unix) && matches!(error.raw_os_error(), Some(ENFILE | EMFILE))
    }

    /// Gives the descriptor up for one more connection, which `tell` is told of, and takes one back. Does not block where a
    /// connection waits, as it does when accepting it has failed.
    pub(super) fn spend(&mut self, socket: &dyn Accept, tell: impl FnOnce(Accepted)) {
        if self.0.take().is_none() {
            return *self = Self::new();
        }
        // The connection may be gone by now: then there is nobody to tell, and nothing to wait for.
        if let Ok(accepted) = socket.accept_waiting() {
            tell(accepted);
        }
        *self = Self::new();
    }
}
