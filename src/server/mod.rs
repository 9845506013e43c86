//! The server: engines, listeners and connections put together, and taken apart again.
//!
//! Must not know what messages say.

mod admin;
mod builder;
mod capacity;
mod connections;
mod exposition;
mod exposure;
mod host;
mod limits;
mod listener;
mod memory;
mod peers;
mod refusal_log;
mod refusals;
mod reports;
mod reserve;
#[cfg(test)]
mod scarcity_test;
mod socket;
mod tls;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

pub use builder::{ServerBuilder, StartError};
pub use capacity::{Capacity, MemoryShortage};

use admin::Admin;
use connections::Connections;
pub use host::HostLimits;
pub use limits::{Limits, Rate};
use listener::Listener;
pub use memory::MemoryBound;
pub use refusals::Refusals;
use tls::Tls;

use crate::clock;
pub use crate::connection::{ApplicationMessage, ConnectionSender, Handled, MessageHandler, Overflow, Sent};
use crate::engine::CancelReason;
use crate::id::{RequestId, StreamId};
use crate::scheduler::{Scheduler, Stream};
pub use crate::stream::RegistryStatistics;
use crate::stream::{QueryStreamStatus, StreamingConfig};
use crate::transport::Transport;
#[cfg(feature = "tls")]
pub use crate::transport::{CertificateError, TlsConfig};

/// Entry point: [`Server::builder`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Server {}

impl Server {
    /// Starts describing a server.
    ///
    /// ```
    /// use rowstream::{Client, MemoryEngine, Script, Server};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let engine = MemoryEngine::builder()
    ///     .query("numbers", Script::new(["n"]).rows((0..3_i64).map(|n| vec![n.into()])))
    ///     .build();
    /// let server = Server::builder().engine("memory", engine).listen("127.0.0.1:0").start()?;
    ///
    /// let address = server.local_addr().ok_or("no listener")?;
    /// let client = Client::connect(&format!("ws://{address}/ws"))?;
    /// let mut n_rows = 0;
    /// for batch in client.query("numbers").start()? {
    ///     n_rows += batch?.len();
    /// }
    /// assert_eq!(n_rows, 3);
    /// server.shutdown();
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder() -> ServerBuilder {
        ServerBuilder::new()
    }
}

/// A running server. Clones are the same server; when the last is dropped, the server shuts down and is joined.
#[derive(Debug, Clone)]
pub struct ServerHandle {
    running: Arc<Running>,
}

#[derive(Debug)]
struct Running {
    // In the order of their end: no new connections, no connections, no streams.
    listeners: Mutex<Vec<Listener>>,
    connections: Arc<Connections>,
    scheduler: Arc<Scheduler>,
    /// Until the very end: operators watch.
    admin: Mutex<Option<Admin>>,
    local_addrs: Vec<SocketAddr>,
    admin_addr: Option<SocketAddr>,
    #[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "nothing to reload"))]
    tls: Tls,
    memory: MemoryBound,
    capacity: Capacity,
}

/// Where a server can be reached, and how.
struct Ends {
    listeners: Vec<Listener>,
    admin: Option<Admin>,
    tls: Tls,
}

/// What [`ServerHandle::drain`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct DrainReport {
    /// Streams that ended by themselves in the time given.
    pub ended: usize,
    /// Streams that were still alive at the deadline and have been cancelled.
    pub cancelled: usize,
}

/// How one stream stands.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct StreamReport {
    /// The stream.
    pub id: StreamId,
    /// The client's own name for it.
    pub request_id: Option<RequestId>,
    /// The name of its engine.
    pub engine: String,
    /// Whose it is; `None` where the server asks nobody who they are.
    pub principal: Option<String>,
    /// The query's text; once its engine is done, the first KiB of it.
    pub query: String,
    /// Where it is in its life.
    pub status: QueryStreamStatus,
    /// Whether a connection has it.
    pub attached: bool,
    /// Whether it survives a lost connection.
    pub resumable: bool,
    /// 0 to 7, the most urgent.
    pub priority: u8,
    /// Its share among streams of the same priority.
    pub weight: u16,
    /// Rows read from the engine.
    pub rows_read: u64,
    /// Rows handed to the socket.
    pub rows_sent: u64,
    /// Bytes of batches handed to the socket.
    pub bytes_sent: u64,
    /// Batches handed to the socket.
    pub batches_sent: u64,
    /// Batches acknowledged; without a window, those handed to the socket.
    pub batches_acked: u64,
    /// Memory of the batches that are held for it.
    pub bytes_held: usize,
    /// Since the query was accepted.
    pub elapsed: Duration,
}

/// The live streams of a server: a view taken by [`ServerHandle::streams`].
#[derive(Debug, Clone)]
pub struct StreamingRegistry {
    reports: Vec<StreamReport>,
    statistics: RegistryStatistics,
    bytes_held: usize,
}

impl StreamingRegistry {
    /// The streams of which something was still to be delivered, or might be: those whose engine worked, and those that were held
    /// for a client that had lost its connection.
    #[must_use]
    pub fn reports(&self) -> &[StreamReport] {
        &self.reports
    }

    /// The stream of that id, if it was alive.
    #[must_use]
    pub fn find(&self, id: StreamId) -> Option<&StreamReport> {
        self.reports.iter().find(|report| report.id == id)
    }

    /// Bytes held: batches in channels, windows and retention, and messages on their way to sockets. 0 once nothing is under way.
    #[must_use]
    pub fn bytes_held(&self) -> usize {
        self.bytes_held
    }

    /// How many streams there have been, by outcome.
    #[must_use]
    pub fn statistics(&self) -> RegistryStatistics {
        self.statistics
    }
}

/// What runs a server's queries: the workers, the streams they work at, and the rules they go by.
#[derive(Debug, Clone)]
pub struct QueryStreamer {
    scheduler: Arc<Scheduler>,
}

impl QueryStreamer {
    /// The rules. Never blocks.
    #[must_use]
    pub fn config(&self) -> &StreamingConfig {
        self.scheduler.config()
    }

    /// The live streams and the statistics. Never blocks.
    #[must_use]
    pub fn streams(&self) -> StreamingRegistry {
        let now = clock::now();
        let streams = self.scheduler.streams();
        StreamingRegistry {
            reports: streams.iter().map(|stream| report(stream, now)).collect(),
            statistics: self.scheduler.statistics(),
            bytes_held: self.scheduler.bytes_held(),
        }
    }

    /// Cancels a stream: its client is told `query_cancelled` with reason `admin`. False where no such stream lives. Returns
    /// before the engine has stopped; blocks only for the engine's cancel hook.
    pub fn cancel(&self, id: StreamId) -> bool {
        let stream = self.scheduler.find(id);
        if let Some(stream) = &stream {
            stream.cancel(CancelReason::Admin);
        }
        stream.is_some()
    }
}

impl ServerHandle {
    fn new(
        Ends { listeners, admin, tls }: Ends,
        connections: Arc<Connections>,
        scheduler: Arc<Scheduler>,
        memory: MemoryBound,
        capacity: Capacity,
    ) -> Self {
        let local_addrs = listeners.iter().filter_map(Listener::local_addr).collect();
        let admin_addr = admin.as_ref().and_then(Admin::local_addr);
        Self {
            running: Arc::new(Running {
                listeners: Mutex::new(listeners),
                connections,
                scheduler,
                admin: Mutex::new(admin),
                local_addrs,
                admin_addr,
                tls,
                memory,
                capacity,
            }),
        }
    }

    /// The address listened on, the first of several, with the real port where 0 was asked for; `None` for a server that has only unix
    /// sockets, or only [serves streams](Self::serve_stream). Never blocks.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.running.local_addrs.first().copied()
    }

    /// All addresses listened on, in the order they were given, without unix sockets. Never blocks.
    #[must_use]
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.running.local_addrs
    }

    /// Reads the files of the [certificate](ServerBuilder::tls) again: connections that come from now on are shown the new one, those
    /// that are there go on. Blocks on the files.
    ///
    /// # Errors
    /// Where they cannot be used, or there are none; what was in force still is.
    #[cfg(feature = "tls")]
    pub fn reload_certificates(&self) -> Result<(), CertificateError> {
        self.running.tls.reload()?;
        log::info!("the certificate was read again");
        Ok(())
    }

    /// As [`reload_certificates`](Self::reload_certificates), with a certificate that the application has read. False where the server
    /// was started without TLS; it has none now, either. Never blocks.
    #[cfg(feature = "tls")]
    pub fn replace_certificates(&self, config: TlsConfig) -> bool {
        self.running.tls.replace(config)
    }

    /// Has the [authenticator](crate::auth::Authenticator::recheck) look again at every client that is in, by the token that it came with: for
    /// when tokens or rights have changed, as after [`TokenFile::reload`](crate::auth::TokenFile::reload). Returns how many are turned out.
    ///
    /// Who may not stay is told `error` `UNAUTHENTICATED` or `PERMISSION_DENIED`, its streams end in `query_cancelled` with reason `admin`, and
    /// the connection is closed with 4401 or 4403. Who has other rights stays; streams of engines that it may not ask any more are
    /// cancelled in the same way, those that wait for a client to resume them too. Blocks as the authenticator does, for one client after
    /// the other.
    pub fn recheck_clients(&self) -> usize {
        let turned_out = self.running.connections.recheck();
        log::info!(turned_out = turned_out; "clients were looked at again");
        turned_out
    }

    /// The address of [`admin_listen`](ServerBuilder::admin_listen), with the real port; `None` without one. Never blocks.
    #[must_use]
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.running.admin_addr
    }

    /// What runs this server's queries; it does not keep the server alive. Never blocks.
    #[must_use]
    pub fn query_streamer(&self) -> QueryStreamer {
        QueryStreamer {
            scheduler: Arc::clone(&self.running.scheduler),
        }
    }

    /// The live streams and the statistics. Never blocks.
    #[must_use]
    pub fn streams(&self) -> StreamingRegistry {
        self.query_streamer().streams()
    }

    /// What memory this server may take, by the connections and streams it has. Never blocks.
    #[must_use]
    pub fn memory_bound(&self) -> MemoryBound {
        self.running.memory
    }

    /// How many connections and streams there is room for, and why it is less than was asked for, if it is. Never blocks.
    #[must_use]
    pub fn capacity(&self) -> &Capacity {
        &self.running.capacity
    }

    /// What has been refused before it was a connection. Never blocks.
    #[must_use]
    pub fn refusals(&self) -> Refusals {
        self.running.connections.refusals()
    }

    /// How many connections are open. Never blocks.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.running.connections.len()
    }

    /// Cancels a stream, as [`QueryStreamer::cancel`] does.
    pub fn cancel(&self, id: StreamId) -> bool {
        self.query_streamer().cancel(id)
    }

    /// Serves one more connection on a thread of its own: for an application's own accept loop, and for tests in memory. The
    /// peer speaks HTTP first, as over TCP. Returns at once.
    ///
    /// # Errors
    /// Where the server is shutting down or has no room or no thread for it, or the transport fails. It is closed then.
    pub fn serve_stream(&self, transport: impl Transport) -> io::Result<()> {
        let served = self.running.connections.serve(Box::new(transport), None);
        served.map_err(|unserved| unserved.error)
    }

    /// Lets the streams that live end, and takes no others: `/readyz` says no from now on, every client is told `goaway`, queries are
    /// refused with `SHUTTING_DOWN`, and connections without streams are closed with 1012, the others when their last stream has ended.
    /// New connections are accepted all the same until then, because streams may be resumed, and because somebody has to be told that
    /// the server is not ready. Where streams are left at the `deadline`, resumable ones that nobody has come back for among them, they
    /// are cancelled with reason `shutdown`.
    ///
    /// The server still has to be [shut down](Self::shutdown). Blocks; woken by the last stream's end and the deadline.
    pub fn drain(&self, deadline: Duration) -> DrainReport {
        let Running {
            connections, scheduler, ..
        } = &*self.running;
        let until = clock::after(clock::now(), deadline);
        scheduler.refuse_queries();
        let before = scheduler.n_undelivered();
        log::info!(streams = before, ms = clock::millis(deadline); "draining");
        connections.go_away(until);
        let cancelled = scheduler.wait_until_delivered(until);
        self.running.close_listeners();
        scheduler.refuse_all();
        scheduler.cancel_all(CancelReason::Shutdown);
        let ended = before.saturating_sub(cancelled);
        log::info!(ended = ended, cancelled = cancelled; "drained");
        DrainReport { ended, cancelled }
    }

    /// Ends everything: no new connections, every stream cancelled and told so, connections closed with 1001, or 1012 after a
    /// [drain](Self::drain), all threads joined. Idempotent, from any thread that is not the server's own. Blocks until engine calls that run have returned and
    /// for at most a few seconds more for clients that do not take their last messages.
    pub fn shutdown(&self) {
        self.running.shutdown();
    }

    /// Blocks until the server has been shut down, by whatever thread.
    pub fn join(&self) {
        self.running.connections.wait_until_stopped();
    }
}

impl Running {
    fn close_listeners(&self) {
        let listeners = std::mem::take(&mut *self.listeners.lock());
        drop(listeners);
    }

    fn shutdown(&self) {
        self.close_listeners();
        self.scheduler.refuse_all();
        self.scheduler.cancel_all(CancelReason::Shutdown);
        self.connections.stop();
        self.scheduler.stop();
        let admin = self.admin.lock().take();
        drop(admin);
        if self.connections.stopped() {
            log::info!("server stopped");
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown();
    }
}

fn report(stream: &Stream, now: Instant) -> StreamReport {
    let figures = stream.figures();
    let rank = stream.rank();
    StreamReport {
        id: stream.id,
        request_id: stream.request_id.clone(),
        engine: stream.plan.engine_name.to_string(),
        principal: stream.principal.name().map(str::to_owned),
        query: stream.plan.asked.spec().sql.clone(),
        status: stream.state(),
        attached: figures.is_attached,
        resumable: figures.is_resumable,
        priority: rank.priority,
        weight: rank.weight,
        rows_read: stream.rows_read(),
        rows_sent: stream.rows_sent(),
        bytes_sent: stream.bytes_sent(),
        batches_sent: stream.batches_sent(),
        batches_acked: figures.batches_acked,
        bytes_held: stream.bytes_held(),
        elapsed: now.saturating_duration_since(stream.accepted_at),
    }
}
