//! What a server is made of, and making it.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::admin::Admin;
use super::capacity::{Capacity, MemoryShortage, Shortage, Wish};
use super::connections::Connections;
use super::exposure::exposed;
use super::host::HostLimits;
use super::limits::Limits;
use super::listener::Listener;
use super::memory::{EngineMemory, MemoryBound};
use super::peers::Peers;
use super::refusal_log::RefusalLog;
use super::reports::Reports;
use super::socket::{Place, Socket};
use super::tls::Tls;
use super::{Ends, ServerHandle};
use crate::auth::{Authenticator, FAILURES_PER_MINUTE, FailureLimit, SiteRules, UnlistedHosts};
use crate::clock;
use crate::connection::{
    Admission, ConnectionContext, HeartbeatRules, MessageHandler, PeerLimits, Purpose, SessionLimits, Site, SiteWatch,
    SoonList,
};
use crate::engine::Engine;
use crate::scheduler::{NamedEngine, Scheduler, Seats};
use crate::stream::StreamingConfig;

/// Workers, at the least: on a machine of one or two cores, one long sort must not hold up everybody else.
const WORKERS_MIN: usize = 4;

/// Largest message that may be allowed to clients.
const MESSAGE_BYTES_CEILING: usize = 1024 * 1024;

/// Connections at once to the operators' address.
const ADMIN_CONNECTIONS_MAX: usize = 16;

/// Describes a server; [`start`](Self::start) makes it.
#[must_use]
pub struct ServerBuilder {
    engines: Vec<NamedEngine>,
    places: Vec<Result<Place, String>>,
    admin_place: Option<Result<Place, String>>,
    tls: Tls,
    n_workers: usize,
    streaming: StreamingConfig,
    connections_max: usize,
    streams_per_connection_max: usize,
    message_bytes_max: usize,
    query_bytes_max: usize,
    limits: Limits,
    host: Option<HostLimits>,
    purpose: Purpose,
    permessage_deflate: bool,
    heartbeat_interval: Duration,
    heartbeat_dead_after: Duration,
    handler: Option<Arc<dyn MessageHandler>>,
    authenticator: Option<Arc<dyn Authenticator>>,
    auth_deadline: Duration,
    auth_failures_per_minute: u32,
    allowed_origins: Vec<String>,
    allowed_hosts: Vec<String>,
    own_names: Vec<String>,
    insecure: bool,
}

impl fmt::Debug for ServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerBuilder")
            .field("engines", &self.engines)
            .field("places", &self.places)
            .field("streaming", &self.streaming)
            .finish_non_exhaustive()
    }
}

/// What a description comes to on its host.
struct Plan {
    sites: SiteRules,
    admin_sites: SiteRules,
    memory: MemoryBound,
    capacity: Capacity,
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
    /// Other machines can reach the address, and nobody asks who they are: set [`ServerBuilder::authenticator`], or say with
    /// [`ServerBuilder::insecure`] that it is meant, for instance because something in front of the server asks.
    Exposed(SocketAddr),
    /// Other machines can reach the address, and tokens and rows would travel as everybody on the way can read them: set
    /// [`ServerBuilder::tls`], or say with [`ServerBuilder::insecure`] that it is meant, for instance because what is in front of the
    /// server has TLS.
    InClear(SocketAddr),
    /// Other machines can reach the [operators' address](ServerBuilder::admin_listen), where nobody is asked who they are: choose one
    /// that they cannot, or say with [`ServerBuilder::insecure`] that it is meant.
    AdminExposed(SocketAddr),
    /// The system has no thread to give.
    Thread(io::Error),
    /// The host has too little memory for what is asked of the server: lower
    /// [`held_bytes_max`](StreamingConfig::held_bytes_max), the memory that engines bound ([`limit_heap`](crate::engine::sqlite::limit_heap)
    /// for SQLite), or [`workers`](ServerBuilder::workers); [`HostLimits::part_of`] tells what fits.
    Memory(MemoryShortage),
    /// The host has too few descriptors, threads or memory maps for what is asked of the server; the text says of what, and what can be done.
    Host(String),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoEngine => f.write_str("a server needs at least one engine"),
            Self::DuplicateEngine(name) => write!(f, "two engines are called {name:?}"),
            Self::Setting(text) | Self::Host(text) => f.write_str(text),
            Self::Memory(shortage) => write!(
                f,
                "{shortage}: lower held_bytes_max, the memory that engines bound, or the number of workers"
            ),
            Self::Listen { address, source } => write!(f, "cannot listen on {address}: {source}"),
            Self::Exposed(address) => write!(
                f,
                "everybody who can reach {address} could query: have clients show tokens (an authenticator), listen on 127.0.0.1, or \
say that it is meant (insecure)"
            ),
            Self::InClear(address) => write!(
                f,
                "everybody on the way to {address} could read tokens and rows: set a certificate (tls), listen on 127.0.0.1, or say that \
it is meant (insecure)"
            ),
            Self::AdminExposed(address) => write!(
                f,
                "everybody who can reach {address} could see what the server is busy with: have operators come to 127.0.0.1, or say that \
it is meant (insecure)"
            ),
            Self::Thread(source) => write!(f, "cannot start a thread: {source}"),
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Listen { source, .. } | Self::Thread(source) => Some(source),
            Self::NoEngine
            | Self::DuplicateEngine(_)
            | Self::Setting(_)
            | Self::Exposed(_)
            | Self::InClear(_)
            | Self::AdminExposed(_)
            | Self::Memory(_)
            | Self::Host(_) => None,
        }
    }
}

impl ServerBuilder {
    pub(super) fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self {
            engines: Vec::new(),
            places: Vec::new(),
            admin_place: None,
            tls: Tls::default(),
            n_workers: cores.max(WORKERS_MIN),
            streaming: StreamingConfig::default(),
            connections_max: 1_024,
            streams_per_connection_max: 128,
            message_bytes_max: 64 * 1024,
            query_bytes_max: 64 * 1024,
            limits: Limits::default(),
            host: None,
            purpose: Purpose::Queries,
            permessage_deflate: false,
            heartbeat_interval: Duration::from_secs(15),
            heartbeat_dead_after: Duration::from_secs(45),
            handler: None,
            authenticator: None,
            auth_deadline: Duration::from_secs(3),
            auth_failures_per_minute: FAILURES_PER_MINUTE,
            allowed_origins: Vec::new(),
            allowed_hosts: Vec::new(),
            own_names: Vec::new(),
            insecure: false,
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

    /// Listens on this address, too; port 0 takes a free one. Without any, and without [`listen_unix`](Self::listen_unix), the server
    /// only [serves streams](ServerHandle::serve_stream). May block for a name look-up.
    pub fn listen(mut self, address: impl ToSocketAddrs + fmt::Debug) -> Self {
        self.places.push(resolve(address));
        self
    }

    /// Listens on a unix socket at this path, too; there is no [TLS](Self::tls) on it. The file belongs to the server's user alone
    /// (mode 0600, whatever the umask): let others in by changing its mode or owner once the server has started. The file that a
    /// dead server has left is replaced, and nothing else is; at the end the server takes its own away.
    #[cfg(unix)]
    pub fn listen_unix(mut self, path: impl AsRef<std::path::Path>) -> Self {
        self.places.push(Ok(Place::Unix(path.as_ref().to_owned())));
        self
    }

    /// Connections that come by TCP speak TLS: clients ask for `wss://`. Defaults to none. The certificate can be
    /// [changed](ServerHandle::reload_certificates) while the server runs.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, config: crate::transport::TlsConfig) -> Self {
        self.tls = Tls::new(config);
        self
    }

    /// Accepts on a socket that is bound and listens already, besides what [`listen`](Self::listen) says: handed over by a supervisor, or
    /// made with options of the application's own. It is made blocking.
    pub fn listener(mut self, socket: TcpListener) -> Self {
        self.places.push(Ok(Place::Bound(socket)));
        self
    }

    /// Answers operators' questions at this address: `/metrics`, `/readyz`, `/healthz` and `/version`, and no WebSocket; in clear text, also
    /// where there is [TLS](Self::tls). `/metrics` is not at the other addresses then: what a server is busy with is not for everybody who
    /// may query it. Defaults to none, and all at the same address, but for `/metrics` where there is an
    /// [authenticator](Self::authenticator). Beyond loopback it needs [`insecure`](Self::insecure), as nobody is asked who they are. At most 16 connections at once, beside those of
    /// [`connections_max`](Self::connections_max). May block for a name look-up.
    pub fn admin_listen(mut self, address: impl ToSocketAddrs + fmt::Debug) -> Self {
        self.admin_place = Some(resolve(address));
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

    /// What peers may do before and beside their queries. Defaults to [`Limits::default`].
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// What the host gives, by which the server is measured before it starts: connections and streams are
    /// [lowered](ServerHandle::capacity) to what fits. Defaults to [`HostLimits::of_this_host`];
    /// [`HostLimits::default`], which knows nothing, lets everything fit. Budgets stay as they are set, or at their defaults: the memory may
    /// be the application's too, which can give the server the part that it [wants](HostLimits::part_of).
    pub fn host_limits(mut self, host: HostLimits) -> Self {
        self.host = Some(host);
        self
    }

    /// Connections at once; those beyond are refused with HTTP 503. Defaults to 1,024, or what the host has
    /// [room](ServerHandle::capacity) for.
    pub fn connections_max(mut self, connections_max: usize) -> Self {
        self.connections_max = connections_max;
        self
    }

    /// Live streams of one connection, and queries that are being described; those beyond are refused with `TOO_MANY_STREAMS`. Defaults to 128.
    pub fn streams_per_connection_max(mut self, streams_max: usize) -> Self {
        self.streams_per_connection_max = streams_max;
        self
    }

    /// Largest message from a client, in bytes, up to 1 MiB; a larger one closes the connection with 1009. Defaults to 64 KiB.
    pub fn message_bytes_max(mut self, bytes_max: usize) -> Self {
        self.message_bytes_max = bytes_max;
        self
    }

    /// Longest text of a query, in bytes; a longer one is refused with `LIMIT_EXCEEDED`. Defaults to 64 KiB. It comes in one
    /// [message](Self::message_bytes_max), and engines have [bounds of their own](crate::engine::sqlite::SqliteEngineBuilder::query_bytes_max).
    pub fn query_bytes_max(mut self, bytes_max: usize) -> Self {
        self.query_bytes_max = bytes_max;
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

    /// Asks clients who they are: those that show no token that `authenticator` knows may ask for nothing. Without one, nobody is
    /// asked, and all clients are one. [`TokenFile`](crate::auth::TokenFile) is one; [`Arc`]s are, too.
    pub fn authenticator(mut self, authenticator: impl Authenticator) -> Self {
        self.authenticator = Some(Arc::new(authenticator));
        self
    }

    /// How long a client may take to say who it is, after the upgrade, before it is closed with 4408; and how long the authenticator may
    /// take for a token that comes with the upgrade. Defaults to 3 seconds.
    pub fn auth_deadline(mut self, deadline: Duration) -> Self {
        self.auth_deadline = deadline;
        self
    }

    /// How many different wrong tokens may come from one address in a minute, or from one IPv6 network of 64 bits, and how often the same
    /// one. Beyond that, the answer to a wrong token is HTTP 429 or close code 4429. Right tokens are let in all the same, if the
    /// authenticator [is guess-proof](crate::auth::Authenticator::is_guess_proof), as a token file is, or has let them in before; a token
    /// that is new to another authenticator is not verified until the address has waited. 0 for no limit. Defaults to 10.
    pub fn auth_failures_per_minute(mut self, n_failures: u32) -> Self {
        self.auth_failures_per_minute = n_failures;
        self
    }

    /// Web pages that may connect beside those of the server's own address, each as browsers send it in `Origin`:
    /// `https://app.example`. All others are refused with HTTP 403 before the upgrade. Programs send no `Origin`. Defaults to none.
    pub fn allowed_origins<T: Into<String>>(mut self, origins: impl IntoIterator<Item = T>) -> Self {
        self.allowed_origins = origins.into_iter().map(Into::into).collect();
        self
    }

    /// Names by which clients call the server, beside `localhost` and addresses, as `name` or `name:port`: requests for another `Host` are
    /// refused with HTTP 421, so that no web page can reach the server by a name of its own that is made to point to it.
    ///
    /// By default no name is taken by a server that listens on loopback, or that asks nobody who they are; any name is by one that other
    /// machines can reach and that asks, because a page has no token to show, and by one that listens on unix sockets only or not at all,
    /// because no page connects there: where a proxy does for it, the names are to be listed. The [operators'
    /// address](Self::admin_listen), where nobody is asked, takes none but these whatever the others do.
    pub fn allowed_hosts<T: Into<String>>(mut self, hosts: impl IntoIterator<Item = T>) -> Self {
        self.allowed_hosts = hosts.into_iter().map(Into::into).collect();
        self
    }

    /// A name in an address to listen at: clients may call the server by it, on whatever port. Unlike
    /// [`allowed_hosts`](Self::allowed_hosts) it excludes no other.
    #[cfg(feature = "cli")]
    pub(crate) fn own_name(mut self, name: &str) -> Self {
        self.own_names.push(name.to_owned());
        self
    }

    /// Whether to listen where other machines can reach the server although nobody is asked who they are, or although there is no TLS.
    /// Defaults to false: then [`start`](Self::start) fails with [`StartError::Exposed`], [`StartError::InClear`] or
    /// [`StartError::AdminExposed`].
    pub fn insecure(mut self, is_meant: bool) -> Self {
        self.insecure = is_meant;
        self
    }

    /// Looks at everything that can be known before a server is there: settings, engines, addresses, and what the
    /// [host](Self::host_limits) has room for, which is the answer. [`start`](Self::start) begins with it. Listens nowhere and starts nothing;
    /// reads of `/proc` on Linux what the host gives.
    ///
    /// # Errors
    /// [`StartError`], as of [`start`](Self::start), but for [`StartError::Listen`] and [`StartError::Thread`], which only trying can tell.
    pub fn check(&self) -> Result<Capacity, StartError> {
        self.plan().map(|plan| plan.capacity)
    }

    /// Starts the server: its workers, its timekeeper and its listener. Returns once connections are accepted.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(self) -> Result<ServerHandle, StartError> {
        let Plan {
            sites,
            admin_sites,
            memory,
            capacity,
        } = self.plan()?;
        let Self {
            engines,
            places,
            admin_place,
            tls,
            n_workers,
            streaming,
            streams_per_connection_max,
            message_bytes_max,
            query_bytes_max,
            limits,
            purpose,
            permessage_deflate,
            heartbeat_interval,
            heartbeat_dead_after,
            handler,
            authenticator,
            auth_deadline,
            auth_failures_per_minute,
            connections_max: _planned,
            host: _measured,
            allowed_origins: _in_sites,
            allowed_hosts: _too,
            own_names: _and_these,
            insecure: _checked,
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
            message_rate: limits.message_rate,
            query_rate: limits.query_rate,
        };
        let peer_limits = PeerLimits {
            head_deadline: limits.head_deadline,
            idle_timeout: limits.idle_timeout.filter(|_| handler.is_none()),
            fragments_max: limits.fragments_max,
            assembly_timeout: limits.assembly_timeout,
            ping_rate: limits.ping_rate,
        };
        let asks_who = authenticator.is_some();
        let admission = Arc::new(Admission {
            authenticator,
            deadline: auth_deadline,
            failures: FailureLimit::new(auth_failures_per_minute),
            rounds: Default::default(),
        });
        let sockets = places.into_iter().map(listen).collect::<Result<Vec<_>, _>>()?;
        let admin_socket = admin_place.map(listen).transpose()?;
        for reason in &capacity.reasons {
            log::warn!("{reason}");
        }
        let seats = Seats::new(capacity.streams_max, limits.streams_per_principal_max);
        let scheduler = Scheduler::start(engines, streaming, n_workers, seats).map_err(StartError::Thread)?;
        let scheduler = Arc::new(scheduler);
        // What a server is busy with is not for everybody who may query it, let alone for those who may not.
        let site = if admin_socket.is_some() || asks_who {
            Site::Public
        } else {
            Site::Whole
        };
        let reports = Arc::new(Reports {
            scheduler: Arc::clone(&scheduler),
            connections: OnceLock::new(),
            memory,
            n_workers,
            started_at: clock::now(),
            is_started: AtomicBool::new(false),
        });
        let refusals = Arc::new(RefusalLog::new(&scheduler));
        let admin_refusals = Arc::new(RefusalLog::new(&scheduler));
        let context = ConnectionContext {
            scheduler: Arc::clone(&scheduler),
            soon: Arc::new(SoonList::new(&scheduler)),
            session_limits,
            peer_limits,
            principals: Seats::new(usize::MAX, limits.connections_per_principal_max),
            message_bytes_max,
            purpose,
            heartbeat,
            admission,
            sites: Arc::new(sites),
            deflaters: permessage_deflate.then(Arc::default),
            handler,
            site,
            reporter: reports.of(site),
            departure: Arc::default(),
            site_watch: Arc::clone(&refusals) as Arc<dyn SiteWatch>,
        };
        let admin_context = ConnectionContext {
            site: Site::Admin,
            sites: Arc::new(admin_sites),
            reporter: reports.of(Site::Admin),
            site_watch: Arc::clone(&admin_refusals) as Arc<dyn SiteWatch>,
            ..context.clone()
        };
        let peers = Peers::new(&limits);
        let connections = Arc::new(Connections::new(context, capacity.connections_max, peers, refusals));
        reports.has_connections(&connections);
        // First the operators': they may see the server start.
        let admin = match admin_socket {
            Some(socket) => {
                let connections =
                    Connections::new(admin_context, ADMIN_CONNECTIONS_MAX, Peers::unlimited(), admin_refusals);
                Some(Admin::start(socket, Arc::new(connections)).map_err(StartError::Thread)?)
            }
            None => None,
        };
        let addresses: Vec<String> = sockets.iter().map(Socket::to_string).collect();
        let listeners = sockets
            .into_iter()
            .map(|socket| Listener::start("listener", socket, tls.clone(), Arc::clone(&connections)))
            .collect::<Result<Vec<_>, _>>()
            .map_err(StartError::Thread)?;
        reports.is_started.store(true, Ordering::Release);
        let ends = Ends { listeners, admin, tls };
        let (connections_max, streams_max) = (capacity.connections_max, capacity.streams_max);
        let server = ServerHandle::new(ends, connections, scheduler, memory, capacity);
        log::info!(
            addresses = addresses.join(" "), admin = server.admin_addr().map(|address| address.to_string()),
            connections_max = connections_max, streams_max = streams_max, memory:% = memory;
            "server started"
        );
        Ok(server)
    }

    fn plan(&self) -> Result<Plan, StartError> {
        self.check_settings()?;
        if let Some(Err(text)) = self.places.iter().chain(&self.admin_place).find(|place| place.is_err()) {
            return Err(no_address(text));
        }
        let hosts = [&self.allowed_hosts[..], &self.own_names].concat();
        let sites =
            |unlisted| SiteRules::new(self.allowed_origins.clone(), &hosts, unlisted).map_err(StartError::Setting);
        let (sites, admin_sites) = (sites(self.unlisted_hosts())?, sites(UnlistedHosts::Refused)?);
        let engine_memory = EngineMemory::of(self.engines.iter().map(|named| &*named.engine));
        let mut memory = MemoryBound::new(&self.streaming, self.n_workers, engine_memory, self.message_bytes_max);
        if self.permessage_deflate {
            memory.add_deflate(&self.streaming, self.n_workers);
        }
        if self.tls.is_on() {
            memory.add_tls();
        }
        let wish = Wish {
            connections_max: self.connections_max,
            streams_max: self.limits.streams_max,
            n_workers: self.n_workers,
            memory,
        };
        let host = self.host.unwrap_or_else(HostLimits::of_this_host);
        let capacity = wish.fit(&host).map_err(|shortage| match shortage {
            Shortage::Memory(shortage) => StartError::Memory(shortage),
            Shortage::Other(text) => StartError::Host(text),
        })?;
        Ok(Plan {
            sites,
            admin_sites,
            memory,
            capacity,
        })
    }

    /// What is thought of names that are in no list, where a web page could have made one point here. No page connects to a unix
    /// socket.
    fn unlisted_hosts(&self) -> UnlistedHosts {
        let is_exposed = exposed_place(&self.places).is_some();
        let pages_can_come = self.places.iter().flatten().any(Place::is_tcp);
        let asks_who = self.authenticator.is_some();
        if self.allowed_hosts.is_empty() && (!pages_can_come || (is_exposed && asks_who)) {
            UnlistedHosts::Taken
        } else {
            UnlistedHosts::Refused
        }
    }

    fn check_settings(&self) -> Result<(), StartError> {
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
        check(!stall_limit.is_zero(), "stall_limit: more than 0".to_owned())?;
        check(
            self.purpose == Purpose::Echo || (1..=MESSAGE_BYTES_CEILING).contains(&self.message_bytes_max),
            format!(
                "message_bytes_max {}: 1 to {MESSAGE_BYTES_CEILING}",
                self.message_bytes_max
            ),
        )?;
        self.limits.check().map_err(StartError::Setting)?;
        check(!self.auth_deadline.is_zero(), "auth_deadline: more than 0".to_owned())?;
        check(
            self.authenticator.is_none() || self.purpose == Purpose::Queries,
            "an echo server asks nobody who they are: it takes no authenticator".to_owned(),
        )?;
        if let Some(address) = self.admin_place.as_ref().and_then(exposed_at)
            && !self.insecure
        {
            return Err(StartError::AdminExposed(address));
        }
        match exposed_place(&self.places).filter(|_| !self.insecure) {
            Some(address) if self.authenticator.is_none() => Err(StartError::Exposed(address)),
            Some(address) if !self.tls.is_on() => Err(StartError::InClear(address)),
            _ => Ok(()),
        }
    }
}

/// Looks a name up, where the address has one.
fn resolve(address: impl ToSocketAddrs + fmt::Debug) -> Result<Place, String> {
    let resolved = address.to_socket_addrs().map(Iterator::collect);
    resolved
        .map(Place::Tcp)
        .map_err(|error| format!("{address:?}: {error}"))
}

/// An address that other machines can reach, if there is one. A unix socket is none.
fn exposed_place(places: &[Result<Place, String>]) -> Option<SocketAddr> {
    places.iter().find_map(exposed_at)
}

fn exposed_at(place: &Result<Place, String>) -> Option<SocketAddr> {
    match place.as_ref().ok()? {
        Place::Tcp(addresses) => exposed(addresses),
        Place::Bound(socket) => socket.local_addr().ok().and_then(|address| exposed(&[address])),
        #[cfg(unix)]
        Place::Unix(_) => None,
    }
}

fn no_address(text: &str) -> StartError {
    StartError::Setting(format!("not an address to listen on: {text}"))
}

fn listen(place: Result<Place, String>) -> Result<Socket, StartError> {
    let place = place.map_err(|text| no_address(&text))?;
    let address = place.to_string();
    Socket::bind(place).map_err(|source| StartError::Listen { address, source })
}

#[cfg(all(test, feature = "cli"))]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

    use super::*;
    use crate::server::Server;

    /// The name of an address excludes no other where others are taken, and is taken where they are not.
    #[test]
    fn a_server_is_called_by_the_name_it_listens_at() {
        let taken = |builder: ServerBuilder| {
            let plan = builder.own_name("db.example").plan().unwrap();
            let of = |sites: &SiteRules| {
                ["db.example:9090", "evil.example"].map(|host| sites.check_host(Some(host.as_bytes())).is_ok())
            };
            (of(&plan.sites), of(&plan.admin_sites))
        };
        let builder = || Server::builder().echo();
        assert_eq!(taken(builder()), ([true, true], [true, false]));
        assert_eq!(taken(builder().listen("127.0.0.1:0")), ([true, false], [true, false]));
    }
}
