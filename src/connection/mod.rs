//! One client's connection: a reader thread that acts on messages, a writer thread that owns the wire, and the outbox between
//! them.
//!
//! Must not know SQL or engines.

mod admission;
mod application;
mod departure;
mod heartbeat;
pub(crate) mod http;
mod lane;
mod outbox;
mod page;
mod reader;
mod recheck;
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
use std::time::{Duration, Instant};

pub(crate) use crate::protocol::SUBPROTOCOL;
pub(crate) use admission::Admission;
pub use application::{ApplicationMessage, ConnectionSender, Handled, MessageHandler, Overflow, Sent};
pub(crate) use departure::Departure;
pub(crate) use heartbeat::HeartbeatRules;
pub(crate) use http::{Report, Reported, Reporter, Site};
use outbox::Outbox;
use recheck::Guest;
pub(crate) use session::SessionLimits;
pub(crate) use soon::SoonList;

use crate::auth::SiteRules;
use crate::clock::{self, millis};
use crate::deflate::Deflaters;
use crate::id::{ConnectionId, Principal};
use crate::metrics::ConnectionEnd;
pub(crate) use crate::protocol::CloseCode;
use crate::protocol::{GoawayMessage, ServerMessage};
use crate::rate::Rate;
use crate::scheduler::{AlarmGuard, Origin, Scheduler, Seats};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::transport::{Halves, Transport, TransportControl};

/// What all connections of a server share.
#[derive(Clone)]
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
    pub(crate) admission: Arc<Admission>,
    /// Of the address that they come to.
    pub(crate) sites: Arc<SiteRules>,
    /// What messages are deflated with where a client asks for it; `None` where they are not.
    pub(crate) deflaters: Option<Arc<Deflaters>>,
    /// Gets the messages that are not the protocol's.
    pub(crate) handler: Option<Arc<dyn MessageHandler>>,
    /// What there is at the address that they come to.
    pub(crate) site: Site,
    pub(crate) reporter: Arc<dyn Reporter>,
    pub(crate) departure: Arc<Departure>,
    pub(crate) site_watch: Arc<dyn SiteWatch>,
}

/// Hears of requests that are refused by the [`SiteRules`]. Nothing here may block.
pub(crate) trait SiteWatch: Send + Sync {
    /// One calls the server `host`.
    fn foreign_host(&self, host: &str, peer: Option<IpAddr>);

    /// One comes from a page of `origin`.
    fn foreign_origin(&self, origin: &str, peer: Option<IpAddr>);
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
    /// Whether the client knows that the server goes away, or need not be told.
    knows_departure: AtomicBool,
    /// Ends the connection if the peer does not, once our close frame is out.
    closing: Mutex<Option<AlarmGuard>>,
    /// Who has come in, where that is asked.
    guest: Mutex<Option<Guest>>,
    /// Whether nothing counts any more of what the peer says.
    is_turned_out: AtomicBool,
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
            knows_departure: AtomicBool::new(context.purpose == Purpose::Echo),
            closing: Mutex::new(None),
            guest: Mutex::new(None),
            is_turned_out: AtomicBool::new(false),
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
        let served = catch_unwind(AssertUnwindSafe(|| reader::serve(halves, &handle, context)));
        let end = served.unwrap_or_else(|_| {
            log::error!(connection = handle.id.number(); "the reader panicked");
            handle.outbox.reader_gone();
            handle.abort();
            ConnectionEnd::Fault
        });
        if context.site != Site::Admin {
            context.scheduler.metrics().connections_ended.add(end, 1);
        }
    }
}

impl ConnectionHandle {
    fn upgraded(&self) {
        self.is_upgraded.store(true, Ordering::Release);
    }

    /// Tells the client, once, that the server goes away and lets streams run until then. A client that leaves too much unread is not
    /// told.
    pub(crate) fn tell_departure(&self, until: Instant) {
        if self.is_upgraded.load(Ordering::Acquire) && !self.knows_departure.swap(true, Ordering::AcqRel) {
            let goaway = ServerMessage::Goaway(GoawayMessage {
                reason: "shutdown".to_owned(),
                drain_ms: millis(until.saturating_duration_since(clock::now())),
                resumable: true,
            });
            let _told = self.outbox.send(&goaway);
        }
    }

    /// Has a WebSocket closed once its streams have their terminators: at once where it has none.
    /// False for what is none yet.
    pub(crate) fn close_after_streams(&self, code: CloseCode) -> bool {
        let is_upgraded = self.is_upgraded.load(Ordering::Acquire);
        if is_upgraded {
            self.outbox.close(Some(code.number()), "the server is going away", true);
        }
        is_upgraded
    }

    /// As [`close_after_streams`](Self::close_after_streams); what is not a WebSocket yet is dropped.
    pub(crate) fn close_gracefully(&self, code: CloseCode) {
        if !self.close_after_streams(code) {
            self.abort();
        }
    }

    /// Ends the connection now, without a word.
    pub(crate) fn abort(&self) {
        self.control.shutdown(Shutdown::Both);
    }
}
