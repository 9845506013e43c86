//! What a server is made of, and making it.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::ServerHandle;
use super::admin::Admin;
use super::connections::Connections;
use super::listener::Listener;
use super::memory::MemoryBound;
use super::reports::Reports;
use crate::clock;
use crate::connection::{ConnectionContext, HeartbeatRules, MessageHandler, Purpose, SessionLimits, Site, SoonList};
use crate::engine::Engine;
use crate::scheduler::{NamedEngine, Scheduler};
use crate::stream::StreamingConfig;

/// Workers, at the least: on a machine of one or two cores, one long sort must not hold up everybody else.
const WORKERS_MIN: usize = 4;

/// Connections at once to the operators' address.
const ADMIN_CONNECTIONS_MAX: usize = 16;

/// Describes a server; [`start`](Self::start) makes it.
#[must_use]
pub struct ServerBuilder {
    engines: Vec<NamedEngine>,
    addresses: Vec<Result<Vec<SocketAddr>, String>>,
    /// Bound by the application.
    sockets: Vec<TcpListener>,
    admin_address: Option<Result<Vec<SocketAddr>, String>>,
    n_workers: usize,
    streaming: StreamingConfig,
    connections_max: usize,
    streams_per_connection_max: usize,
    message_bytes_max: usize,
    query_bytes_max: usize,
    purpose: Purpose,
    permessage_deflate: bool,
    heartbeat_interval: Duration,
    heartbeat_dead_after: Duration,
    handler: Option<Arc<dyn MessageHandler>>,
}

impl fmt::Debug for ServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerBuilder")
            .field("engines", &self.engines)
            .field("addresses", &self.addresses)
            .field("streaming", &self.streaming)
            .finish_non_exhaustive()
    }
}

/// Why a server did not start. Nothing of it is left running.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// There is no engine: add one with [`ServerBuilder::engine`].
    NoEngine,
    /// Two engines have the same name; clients could not tell them apart.
    DuplicateEngine(String),
    /// A setting makes no sense; the text names it and its bounds.
    Setting(String),
    /// The address is none, or cannot be listened on: in use, not this machine's, or not permitted.
    Listen {
        /// The address as it was given.
        address: String,
        /// What the system says.
        source: io::Error,
    },
    /// The system has no thread to give.
    Thread(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoEngine => f.write_str("a server needs at least one engine"),
            Self::DuplicateEngine(name) => write!(f, "two engines are called {name:?}"),
            Self::Setting(text) => f.write_str(text),
            Self::Listen { address, source } => write!(f, "cannot listen on {address}: {source}"),
            Self::Thread(source) => write!(f, "cannot start a thread: {source}"),
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Listen { source, .. } | Self::Thread(source) => Some(source),
            Self::NoEngine | Self::DuplicateEngine(_) | Self::Setting(_) => None,
        }
    }
}

impl ServerBuilder {
    pub(super) fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self {
            engines: Vec::new(),
            addresses: Vec::new(),
            sockets: Vec::new(),
            admin_address: None,
            n_workers: cores.max(WORKERS_MIN),
            streaming: StreamingConfig::default(),
            connections_max: 1_024,
            streams_per_connection_max: 128,
            message_bytes_max: 64 * 1024,
            query_bytes_max: 64 * 1024,
            purpose: Purpose::Queries,
            permessage_deflate: false,
            heartbeat_interval: Duration::from_secs(15),
            heartbeat_dead_after: Duration::from_secs(45),
            handler: None,
        }
    }

    /// Adds an engine under the name that clients ask for it by. The first one added answers those that name none.
    pub fn engine(self, name: &str, engine: impl Engine) -> Self {
        self.shared_engine(name, Arc::new(engine))
    }

    /// Adds an engine that the application keeps using too.
    pub fn shared_engine(mut self, name: &str, engine: Arc<dyn Engine>) -> Self {
        self.engines.push(NamedEngine {
            name: name.into(),
            engine,
        });
        self
    }

    /// Listens on this address; port 0 takes a free one. Without any, the server only
    /// [serves streams](ServerHandle::serve_stream). May block for a name look-up.
    pub fn listen(mut self, address: impl ToSocketAddrs + fmt::Debug) -> Self {
        let resolved = address.to_socket_addrs().map(Iterator::collect);
        self.addresses
            .push(resolved.map_err(|error| format!("{address:?}: {error}")));
        self
    }

    /// Accepts on a socket that is bound and listens already: handed over by a supervisor, or made with options of the application's own.
    /// In place of [`listen`](Self::listen). It is made blocking.
    pub fn listener(mut self, socket: TcpListener) -> Self {
        self.sockets.push(socket);
        self
    }

    /// Answers operators' questions at this address: `/metrics`, `/readyz`, `/healthz` and `/version`, and no WebSocket. `/metrics` is
    /// not at the other address then: what a server is busy with is not for everybody who may query it. Defaults to none, and all at
    /// the one address. At most 16 connections at once, beside those of [`connections_max`](Self::connections_max). May block for a
    /// name look-up.
    pub fn admin_listen(mut self, address: impl ToSocketAddrs + fmt::Debug) -> Self {
        let resolved = address.to_socket_addrs().map(Iterator::collect);
        self.admin_address = Some(resolved.map_err(|error| format!("{address:?}: {error}")));
        self
    }

    /// How many workers call engines. Defaults to the number of cores, at least 4. Streams beyond that take turns; a query that
    /// works long for one row keeps a worker for that long.
    pub fn workers(mut self, n_workers: usize) -> Self {
        self.n_workers = n_workers;
        self
    }

    /// How results are cut into batches, and the bounds of what clients may ask. Defaults to [`StreamingConfig::default`].
    pub fn streaming(mut self, streaming: StreamingConfig) -> Self {
        self.streaming = streaming;
        self
    }

    /// Connections at once; those beyond are refused with HTTP 503. Defaults to 1,024.
    pub fn connections_max(mut self, connections_max: usize) -> Self {
        self.connections_max = connections_max;
        self
    }

    /// Live streams of one connection; those beyond are refused with `TOO_MANY_STREAMS`. Defaults to 128.
    pub fn streams_per_connection_max(mut self, streams_max: usize) -> Self {
        self.streams_per_connection_max = streams_max;
        self
    }

    /// Largest message from a client, in bytes; a larger one closes the connection with 1009. Defaults to 64 KiB.
    pub fn message_bytes_max(mut self, bytes_max: usize) -> Self {
        self.message_bytes_max = bytes_max;
        self
    }

    /// Makes it a server that sends every message back as it came, text as text and binary as binary: for pointing a WebSocket
    /// conformance suite at the threads and frames that queries run on. It needs no engine.
    pub fn echo(mut self) -> Self {
        self.purpose = Purpose::Echo;
        self
    }

    /// Whether messages are deflated for clients that ask for it: the extension `permessage-deflate` (RFC 7692). Defaults to false,
    /// because every browser asks for it, near or far, and it pays only where the network is slower than about 250 MB/s for each
    /// core: rows become three times smaller, and a worker that deflates makes no others meanwhile.
    ///
    /// Each message is deflated by itself, so that idle connections hold nothing for it. Windows and limits count what is not
    /// deflated; [`message_bytes_max`](Self::message_bytes_max) bounds what is inflated.
    pub fn permessage_deflate(mut self, is_allowed: bool) -> Self {
        self.permessage_deflate = is_allowed;
        self
    }

    /// A peer that has been silent for `interval` is pinged, and one that has neither said nor taken anything for `dead_after` is
    /// taken for gone: its connection ends, its resumable streams wait for another. Defaults to 15 and 45 seconds.
    pub fn heartbeat(mut self, interval: Duration, dead_after: Duration) -> Self {
        self.heartbeat_interval = interval;
        self.heartbeat_dead_after = dead_after;
        self
    }

    /// Offers messages of types that are not the protocol's to the application.
    pub fn message_handler(mut self, handler: impl MessageHandler) -> Self {
        self.handler = Some(Arc::new(handler));
        self
    }

    /// Starts the server: its workers, its timekeeper and its listener. Returns once connections are accepted.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(self) -> Result<ServerHandle, StartError> {
        self.check()?;
        let Self {
            engines,
            addresses,
            sockets,
            admin_address,
            n_workers,
            streaming,
            connections_max,
            streams_per_connection_max,
            message_bytes_max,
            query_bytes_max,
            purpose,
            permessage_deflate,
            heartbeat_interval,
            heartbeat_dead_after,
            handler,
        } = self;
        let heartbeat = HeartbeatRules {
            interval: heartbeat_interval,
            dead_after: heartbeat_dead_after,
            stuck_after: streaming.stall_limit,
        };
        let session_limits = SessionLimits {
            streams_max: streams_per_connection_max,
            query_bytes_max,
            batch_size_max: streaming.batch_size_max,
            batch_bytes_max: streaming.batch_bytes_max as u64,
            window_batches_max: streaming.window_batches_max,
            window_bytes_max: streaming.window_bytes_max,
        };
        let socket = match addresses.into_iter().next() {
            Some(address) => Some(listen(address)?),
            None => sockets.into_iter().next().map(adopt).transpose()?,
        };
        let admin_socket = admin_address.map(listen).transpose()?;
        let cursor_bytes = engines
            .iter()
            .map(|named| named.engine.cursor_bytes())
            .max()
            .unwrap_or(0);
        let mut memory = MemoryBound::new(&streaming, n_workers, cursor_bytes, message_bytes_max);
        if permessage_deflate {
            memory.add_deflate(&streaming, n_workers);
        }
        let scheduler = Scheduler::start(engines, streaming, n_workers).map_err(StartError::Thread)?;
        let scheduler = Arc::new(scheduler);
        let site = match admin_socket {
            Some(_) => Site::Public,
            None => Site::Whole,
        };
        let reports = Arc::new(Reports {
            scheduler: Arc::clone(&scheduler),
            connections: OnceLock::new(),
            memory,
            n_workers,
            started_at: clock::now(),
            is_started: AtomicBool::new(false),
        });
        let context = ConnectionContext {
            scheduler: Arc::clone(&scheduler),
            soon: Arc::new(SoonList::new(&scheduler)),
            session_limits,
            message_bytes_max,
            purpose,
            heartbeat,
            deflaters: permessage_deflate.then(Arc::default),
            handler,
            site,
            reporter: reports.of(site),
            departure: Arc::default(),
        };
        let admin_context = ConnectionContext {
            site: Site::Admin,
            reporter: reports.of(Site::Admin),
            ..context.clone()
        };
        let connections = Arc::new(Connections::new(context, connections_max));
        reports.has_connections(&connections);
        // First the operators': they may see the server start.
        let admin = match admin_socket {
            Some(socket) => {
                let connections = Arc::new(Connections::new(admin_context, ADMIN_CONNECTIONS_MAX));
                Some(Admin::start(socket, connections).map_err(StartError::Thread)?)
            }
            None => None,
        };
        let listener = match socket {
            Some(socket) => {
                let started = Listener::start("listener", socket, Arc::clone(&connections));
                Some(started.map_err(StartError::Thread)?)
            }
            None => None,
        };
        reports.is_started.store(true, Ordering::Release);
        Ok(ServerHandle::new(listener, admin, connections, scheduler, memory))
    }

    fn check(&self) -> Result<(), StartError> {
        if self.engines.is_empty() && self.purpose == Purpose::Queries {
            return Err(StartError::NoEngine);
        }
        for (n, engine) in self.engines.iter().enumerate() {
            if self.engines[..n].iter().any(|earlier| earlier.name == engine.name) {
                return Err(StartError::DuplicateEngine(engine.name.to_string()));
            }
        }
        let StreamingConfig {
            batch_size,
            batch_size_max,
            batch_bytes,
            batch_bytes_max,
            channel_buffer_size,
            window_batches,
            window_batches_max,
            window_bytes,
            window_bytes_max,
            stall_limit,
            ..
        } = &self.streaming;
        let check = |holds: bool, text: String| if holds { Ok(()) } else { Err(StartError::Setting(text)) };
        check(
            self.addresses.len() + self.sockets.len() <= 1,
            "a server listens on one address".to_owned(),
        )?;
        check(self.n_workers > 0, "workers: at least 1".to_owned())?;
        check(
            (1..=*batch_size_max).contains(batch_size),
            format!("batch_size {batch_size}: 1 to batch_size_max, which is {batch_size_max}"),
        )?;
        check(
            (1..=*batch_bytes_max).contains(batch_bytes),
            format!("batch_bytes {batch_bytes}: 1 to batch_bytes_max, which is {batch_bytes_max}"),
        )?;
        check(*channel_buffer_size > 0, "channel_buffer_size: at least 1".to_owned())?;
        check(
            (1..=*window_batches_max).contains(window_batches) && (1..=*window_bytes_max).contains(window_bytes),
            format!(
                "window_batches {window_batches}: 1 to {window_batches_max}; window_bytes {window_bytes}: 1 to {window_bytes_max}"
            ),
        )?;
        check(
            !self.heartbeat_interval.is_zero() && self.heartbeat_interval < self.heartbeat_dead_after,
            "heartbeat: the interval is more than 0 and less than dead_after".to_owned(),
        )?;
        check(!stall_limit.is_zero(), "stall_limit: more than 0".to_owned())
    }
}

/// Makes a socket of the application's own one to accept on.
fn adopt(socket: TcpListener) -> Result<TcpListener, StartError> {
    match socket.set_nonblocking(false) {
        Ok(()) => Ok(socket),
        Err(source) => Err(StartError::Listen {
            address: "a socket handed over".to_owned(),
            source,
        }),
    }
}

fn listen(address: Result<Vec<SocketAddr>, String>) -> Result<TcpListener, StartError> {
    let addresses = address.map_err(|text| StartError::Setting(format!("not an address to listen on: {text}")))?;
    TcpListener::bind(addresses.as_slice()).map_err(|source| StartError::Listen {
        address: addresses
            .iter()
            .map(SocketAddr::to_string)
            .collect::<Vec<_>>()
            .join(", "),
        source,
    })
}
