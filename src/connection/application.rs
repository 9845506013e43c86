//! An application's own messages beside the queries on one socket: what it is offered, and how it answers.
//!
//! Must not know queries or streams.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::outbox::Outbox;
use crate::id::{ConnectionId, Principal};

/// What an application that embeds a server does with messages of types of its own: publish and subscribe, chat, anything.
///
/// Called on the connection's reader thread: while a call lasts, nothing else of that connection is read, cancels and
/// acknowledgements included. Calls of different connections run at the same time. A panic in [`message`](Self::message) is
/// answered with `error` `INTERNAL` and ends nothing.
pub trait MessageHandler: Send + Sync + 'static {
    /// A connection is there, and it is known whose it is where the server wants to know. Does nothing unless overridden.
    fn connected(&self, connection: &ConnectionSender) {
        let _ = connection;
    }

    /// A message of a type that is not the protocol's. With [`Handled::No`] the client is told `BAD_MESSAGE`.
    fn message(&self, message: ApplicationMessage<'_>, connection: &ConnectionSender) -> Handled;

    /// A connection for which [`connected`](Self::connected) was called is gone; what is sent to it from now on is dropped. Does
    /// nothing unless overridden.
    fn disconnected(&self, connection: &ConnectionSender) {
        let _ = connection;
    }
}

/// A message for the application.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct ApplicationMessage<'a> {
    /// Its `type`.
    pub kind: &'a str,
    /// The whole message as it came: a JSON object.
    pub text: &'a str,
}

/// Whether an application knows what a message is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "yes or no")]
pub enum Handled {
    /// It does.
    Yes,
    /// It does not.
    No,
}

/// What happens to a message where those before it have not been taken: an application's messages of one connection may wait up
/// to 256 KiB and 1,024 messages, as long as those of all connections are no more than an eighth of
/// [`held_bytes_max`](crate::StreamingConfig::held_bytes_max), 16 KiB of each not counted. Streams of queries never notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overflow {
    /// The oldest that wait are dropped.
    DropOldest,
    /// This one is dropped.
    DropNewest,
    /// The connection is closed with 4429.
    Disconnect,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Sent {
    /// It waits for the socket, in the order of sending.
    Queued,
    /// It waits, and so many older ones were dropped for it.
    QueuedForOthers(u64),
    /// It was dropped, by [`Overflow::DropNewest`], because it alone is larger than all that may wait, or because all connections together
    /// have as much waiting as they may.
    Dropped,
    /// The connection is closing or gone.
    Closed,
}

/// One connection, as an application writes to it. Clones are the same connection, and so are those that compare equal. It may
/// be kept and used from any thread, also after the connection is gone.
#[derive(Clone)]
pub struct ConnectionSender {
    id: ConnectionId,
    principal: Principal,
    outbox: Arc<Outbox>,
}

impl ConnectionSender {
    pub(super) fn new(id: ConnectionId, principal: Principal, outbox: Arc<Outbox>) -> Self {
        Self { id, principal, outbox }
    }

    /// The connection's number: counts up from 1 and is never used again while the server runs.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id.number()
    }

    /// Whose the connection is, as the server's [`Authenticator`](crate::auth::Authenticator) has said; `None` where it has none.
    #[must_use]
    pub fn principal(&self) -> Option<&str> {
        self.principal.name()
    }

    /// Sends a text message, which ought to be a JSON object with a `type` that is not the protocol's. Never blocks.
    pub fn send(&self, text: impl Into<String>, overflow: Overflow) -> Sent {
        self.outbox.send_application(text.into().into_bytes(), overflow)
    }

    /// Messages of the application that were dropped on this connection.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.outbox.application_dropped()
    }
}

impl fmt::Debug for ConnectionSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ConnectionSender").field(&self.id()).finish()
    }
}

impl PartialEq for ConnectionSender {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for ConnectionSender {}

impl Hash for ConnectionSender {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}
