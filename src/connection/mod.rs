//! One client's connection: a reader thread that acts on messages, a writer thread that owns the wire, and the outbox between
//! them.
//!
//! Must not know SQL or engines.

mod admission;
mod application;
mod heartbeat;
pub(crate) mod http;
mod lane;
mod outbox;
mod rate;
mod reader;
mod report;
#[cfg(all(test, rowstream_shuttle))]
mod scheduled_test;
mod session;
#[cfg(all(test, rowstream_shuttle))]
mod shuttle_test;
mod soon;
mod writer;

use std::fmt;
use std::io;
use std::net::{IpAddr, Shutdown};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

pub(crate) use admission::Admission;
pub use application::{ApplicationMessage, ConnectionSender, Handled, MessageHandler, Overflow, Sent};
pub(crate) use heartbeat::HeartbeatRules;
use outbox::Outbox;
pub(crate) use rate::Bucket;
pub use rate::Rate;
pub(crate) use session::SessionLimits;
pub(crate) use soon::SoonList;

use crate::deflate::Deflaters;
use crate::id::{ConnectionId, Principal};
use crate::protocol::CloseCode;
use crate::scheduler::{AlarmGuard, Origin, Scheduler, Seats};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::transport::{Halves, Transport, TransportControl};

/// What all connections of a server share.
pub(crate) struct ConnectionContext {
    pub(crate) scheduler: Arc<Scheduler>,
    pub(crate) soon: Arc<SoonList>,
    pub(crate) session_limits: SessionLimits,
    pub(crate) peer_limits: PeerLimits,
    /// Of the connections of principals.
    pub(crate) principals: Arc<Seats>,
    /// Largest message taken from a client.
    pub(crate) message_bytes_max: usize,
    pub(crate) purpose: Purpose,
    pub(crate) heartbeat: HeartbeatRules,
    pub(crate) admission: Admission,
    /// What messages are deflated with where a client asks for it; `None` where they are not.
    pub(crate) deflaters: Option<Arc<Deflaters>>,
    /// Gets the messages that are not the protocol's.
    pub(crate) handler: Option<Arc<dyn MessageHandler>>,
}

impl fmt::Debug for ConnectionContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionContext").finish_non_exhaustive()
    }
}

/// What a connection's peer may do besides sending messages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PeerLimits {
    /// Time for the whole HTTP head, from the first moment of the connection.
    pub(crate) head_deadline: Duration,
    /// How long it may have no stream and say nothing.
    pub(crate) idle_timeout: Option<Duration>,
    /// Frames of one message.
    pub(crate) fragments_max: usize,
    /// Time for one message to come.
    pub(crate) assembly_timeout: Duration,
    /// Pings and pongs.
    pub(crate) ping_rate: Option<Rate>,
}

/// What a server's connections are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The protocol.
    Queries,
    /// Every message comes back as it came.
    Echo,
}

/// A connection that is ready to be served.
pub(crate) struct Connection {
    halves: Halves,
    handle: Arc<ConnectionHandle>,
}

/// What a server may do to a connection from outside.
pub(crate) struct ConnectionHandle {
    pub(crate) id: ConnectionId,
    /// As streams know it; until it is known whose it is, nobody's.
    origin: Origin,
    peer_ip: Option<IpAddr>,
    outbox: Arc<Outbox>,
    control: Arc<dyn TransportControl>,
    is_upgraded: AtomicBool,
    /// Ends the connection if the peer does not, once our close frame is out.
    closing: Mutex<Option<AlarmGuard>>,
}

impl fmt::Debug for ConnectionHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ConnectionHandle").field(&self.id).finish()
    }
}

impl Connection {
    /// Takes the transport apart.
    ///
    /// # Errors
    /// Whatever the transport says; it is closed then.
    pub(crate) fn new(
        id: ConnectionId,
        transport: Box<dyn Transport>,
        context: &ConnectionContext,
    ) -> io::Result<Self> {
        let peer_ip = transport.peer_ip();
        let halves = transport.split()?;
        let origin = context.scheduler.origin(id, Principal::anonymous());
        let outbox = Outbox::new(Arc::clone(&context.soon), Arc::clone(origin.account()));
        let handle = Arc::new(ConnectionHandle {
            id,
            origin,
            peer_ip,
            outbox: Arc::new(outbox),
            control: Arc::clone(&halves.control),
            is_upgraded: AtomicBool::new(false),
            closing: Mutex::new(None),
        });
        Ok(Self { halves, handle })
    }

    pub(crate) fn handle(&self) -> Arc<ConnectionHandle> {
        Arc::clone(&self.handle)
    }

    /// Says `answer` to a peer that has said nothing yet and cannot be served, and ends the connection. `answer` fits what the system
    /// takes of a fresh socket at once.
    pub(crate) fn refuse(mut self, answer: &[u8]) {
        let _told = self.halves.write.write_all(answer);
        self.halves.control.shutdown(Shutdown::Write);
    }

    /// Serves the connection on this thread until it is over, whoever ends it. Panics end the connection and nothing else.
    pub(crate) fn serve(self, context: &ConnectionContext) {
        let Self { halves, handle } = self;
        if catch_unwind(AssertUnwindSafe(|| reader::serve(halves, &handle, context))).is_err() {
            log::error!("connection {}: the reader panicked", handle.id);
            handle.outbox.reader_gone();
            handle.abort();
        }
    }
}

impl ConnectionHandle {
    fn upgraded(&self) {
        self.is_upgraded.store(true, Ordering::Release);
    }

    /// Has the connection closed with 1001 once its streams have their terminators; one that is not a WebSocket yet is dropped.
    pub(crate) fn close_gracefully(&self) {
        if self.is_upgraded.load(Ordering::Acquire) {
            let code = Some(CloseCode::GoingAway.number());
            self.outbox.close(code, "the server is going away", true);
        } else {
            self.abort();
        }
    }

    /// Ends the connection now, without a word.
    pub(crate) fn abort(&self) {
        self.control.shutdown(Shutdown::Both);
    }
}
