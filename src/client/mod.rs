//! A synchronous client: one connection, any number of queries on it, from any number of threads.
//!
//! Must not know the server or its engines.

mod address;
#[cfg(feature = "arrow")]
mod arrow;
mod batch;
mod connection;
mod dial;
mod error;
mod link;
mod liveness;
mod query;
mod retry;
mod stream;
#[cfg(test)]
mod tests;

use std::io;
#[cfg(feature = "tls")]
use std::path::Path;
use std::time::Duration;

use address::Address;
use connection::{Connection, Dial, LinkConfig};
use dial::{Security, dial};

#[cfg(feature = "arrow")]
pub use arrow::ArrowReader;
#[cfg(all(feature = "arrow", feature = "cli"))]
pub(crate) use arrow::END_OF_STREAM;
#[cfg(feature = "parquet")]
pub(crate) use arrow::decodable;
pub use batch::{Batch, CellError, ColumnRef, FromCell, Row};
pub use error::ClientError;
pub use query::QueryBuilder;
pub use stream::{ArrowBatch, Canceller, Event, Outcome, QueryStream};

// What the server says about a query, as events, outcomes and errors carry it.
use crate::auth::Secret;
use crate::id::StreamId;
pub use crate::protocol::{
    BlockedBy, CancelledMessage, CellType, CompletedMessage, Compression, DataFormat, DescriptionMessage, ErrorMessage,
    GoawayMessage, LimitsMessage, ListMessage, ParameterMessage, ProgressDetail, ProgressMessage, QueuedMessage,
    RateMessage, StartedMessage, StatusMessage, StreamState, WelcomeMessage,
};
use crate::protocol::{
    CancelQuery, ClientMessage, DescribeQuery, Hello, ListQueries, ListScope, ServerMessage, StreamRef,
};
use crate::transport::Transport;
#[cfg(feature = "tls")]
use crate::transport::tls::Trust;
use crate::transport::websocket::Coding;
#[cfg(feature = "tls")]
pub use crate::transport::{CertificateError, TlsError};

/// How long one try for a next connection may take: others follow.
const REDIAL_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection to a server.
///
/// All methods take `&self`: put it in an [`Arc`](std::sync::Arc) or a scope to use it from several threads. Queries on one client
/// share its socket, and each has a window of its own: one whose rows nobody takes stands still and holds up nobody.
///
/// When the connection is lost, [resumable](QueryBuilder::resumable) queries go on over a new one without losing or repeating a
/// row; all others end with [`ClientError::Lost`]. Without a resumable query the client is over then.
///
/// A server closes a connection that is not used, by default after five minutes
/// ([`Limits::idle_timeout`](crate::server::Limits::idle_timeout)): keep a client for as long as there is something to ask.
///
/// ```
/// use rowstream::{Client, MemoryEngine, Script, Server};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let engine = MemoryEngine::builder()
/// #     .query("numbers", Script::new(["n"]).rows((0..3_i64).map(|n| vec![n.into()])))
/// #     .build();
/// # let server = Server::builder().engine("memory", engine).listen("127.0.0.1:0").start()?;
/// # let url = format!("ws://{}/ws", server.local_addr().ok_or("no listener")?);
/// let client = Client::connect(&url)?;
/// let mut sum = 0;
/// for batch in client.query("numbers").batch_size(1_000).start()? {
///     for row in batch?.rows() {
///         sum += row.get::<i64>("n")?;
///     }
/// }
/// assert_eq!(sum, 3);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Client {
    connection: Connection,
}

impl Client {
    /// Connects to `ws://host:port/path`, or `host:port` for short; to `wss://host:port/path` by TLS, where the server has to prove that
    /// it is `host`; or to `unix:` followed by the path of a socket. The path behind the host defaults to `/ws`.
    ///
    /// Blocks for at most 10 seconds per address that the name stands for, the name's look-up aside.
    ///
    /// # Errors
    /// [`ClientError::Address`], [`ClientError::Connect`], `ClientError::Tls`, [`ClientError::Handshake`], [`ClientError::Version`] and
    /// [`ClientError::Denied`].
    pub fn connect(url: &str) -> Result<Self, ClientError> {
        Self::builder().connect(url)
    }

    /// Connects over a transport that is already there: one end of [`memory_pair`](crate::transport::memory_pair), or a
    /// socket of the program's own. `url` says which path to ask for; with `wss://` TLS is spoken over it, to the host named.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub fn over(transport: impl Transport, url: &str) -> Result<Self, ClientError> {
        Self::builder().over(transport, url)
    }

    /// For what [`connect`](Self::connect) leaves at its default.
    pub fn builder() -> ClientBuilder {
        ClientBuilder {
            connect_timeout: Duration::from_secs(10),
            message_bytes_max: 16 * 1024 * 1024,
            permessage_deflate: false,
            reconnect_for: Duration::from_secs(60),
            heartbeat_interval: Duration::from_secs(15),
            heartbeat_dead_after: Duration::from_secs(45),
            #[cfg(feature = "tls")]
            trust: Trust::new(),
            token: None,
        }
    }

    /// Starts describing a query. Never blocks.
    pub fn query(&self, sql: impl Into<String>) -> QueryBuilder<'_> {
        QueryBuilder::new(self.connection.link(), sql.into())
    }

    /// Asks the server for a sign of life.
    ///
    /// Blocks until it comes; ends with the connection, at the latest.
    ///
    /// # Errors
    /// Everything that ends a connection.
    pub fn ping(&self) -> Result<(), ClientError> {
        self.connection.link().ping()
    }

    /// How a stream of the server's stands, of this connection or another; `None` where this client may see no such stream.
    ///
    /// Blocks until the server has answered; ends with the connection, at the latest.
    ///
    /// # Errors
    /// Everything that ends a connection.
    pub fn status(&self, id: StreamId) -> Result<Option<StatusMessage>, ClientError> {
        let message = ClientMessage::QueryStatus(StreamRef::Stream(Ok(id)));
        Ok(match self.connection.link().ask(&message)? {
            Some(ServerMessage::QueryStatus(status)) => Some(status),
            _ => None,
        })
    }

    /// What a query would give, without executing it: its columns and its parameters.
    ///
    /// Blocks as [`status`](Self::status) does, and while the server's workers are busy.
    ///
    /// # Errors
    /// [`ClientError::Query`] where the server refuses the query; everything that ends a connection.
    pub fn describe(&self, sql: impl Into<String>) -> Result<DescriptionMessage, ClientError> {
        let message = ClientMessage::DescribeQuery(DescribeQuery {
            query: sql.into(),
            engine: None,
            request_id: None,
        });
        match self.connection.link().ask_and_wait(&message)? {
            Some(ServerMessage::QueryDescription(description)) => Ok(*description),
            Some(ServerMessage::Error(error)) => Err(ClientError::Query(Box::new(error))),
            _ => Err(ClientError::Protocol("no description came".to_owned())),
        }
    }

    /// What the server has said, unasked, that it is and can do: on this connection or, after a loss, the newest. `None` of a server
    /// that has passed over the subprotocol `rowstream.v1`, which this client offers; [`hello`](Self::hello) asks.
    ///
    /// Blocks, right after connecting, until it has come; ends with the connection, at the latest.
    ///
    /// # Errors
    /// Everything that ends a connection.
    pub fn welcome(&self) -> Result<Option<WelcomeMessage>, ClientError> {
        self.connection.link().welcome()
    }

    /// What the server is and can do.
    ///
    /// Blocks as [`status`](Self::status) does.
    ///
    /// # Errors
    /// [`ClientError::Query`] where the server refuses to say; everything that ends a connection.
    pub fn hello(&self) -> Result<WelcomeMessage, ClientError> {
        match self.connection.link().ask(&ClientMessage::Hello(Hello::default()))? {
            Some(ServerMessage::Welcome(welcome)) => Ok(*welcome),
            Some(ServerMessage::Error(error)) => Err(ClientError::Query(Box::new(error))),
            _ => Err(ClientError::Protocol("no welcome came".to_owned())),
        }
    }

    /// What the server has said, if it is going away: queries that run go on for that long, new ones are refused. For those, connect
    /// anew, to another server where there are several. Never blocks.
    #[must_use]
    pub fn goaway(&self) -> Option<GoawayMessage> {
        self.connection.link().goaway()
    }

    /// The streams that this client may see, of all connections: the youngest, and how many there are.
    ///
    /// Blocks as [`status`](Self::status) does.
    ///
    /// # Errors
    /// [`ClientError::Query`] where the server refuses to say; everything that ends a connection.
    pub fn list(&self) -> Result<ListMessage, ClientError> {
        self.list_of(ListScope::Own)
    }

    /// The streams of everybody, as [`list`](Self::list) has this client's own. It needs the admin right.
    ///
    /// Blocks as [`status`](Self::status) does.
    ///
    /// # Errors
    /// As [`list`](Self::list); `PERMISSION_DENIED` without the right.
    pub fn list_all(&self) -> Result<ListMessage, ClientError> {
        self.list_of(ListScope::All)
    }

    fn list_of(&self, scope: ListScope) -> Result<ListMessage, ClientError> {
        let message = ClientMessage::ListQueries(ListQueries {
            scope,
            request_id: None,
        });
        match self.connection.link().ask(&message)? {
            Some(ServerMessage::QueryList(list)) => Ok(list),
            Some(ServerMessage::Error(error)) => Err(ClientError::Query(Box::new(error))),
            _ => Err(ClientError::Protocol("no list came".to_owned())),
        }
    }

    /// Stops a stream of any connection. Its own client is told; here it is only said whether there was such a stream.
    ///
    /// Blocks as [`status`](Self::status) does.
    ///
    /// # Errors
    /// Everything that ends a connection.
    pub fn cancel(&self, id: StreamId) -> Result<bool, ClientError> {
        let target = StreamRef::Stream(Ok(id));
        let message = ClientMessage::CancelQuery(CancelQuery { target });
        Ok(!matches!(
            self.connection.link().ask(&message)?,
            Some(ServerMessage::Error(_))
        ))
    }

    /// Closes the connection: queries still running are cancelled by the server, and end here with
    /// [`ClientError::Closed`]. May be called from any thread, and again; dropping the client does the same.
    ///
    /// Blocks until the server has closed, too, for a second at most, and before that while the connection takes no bytes.
    pub fn close(&self) {
        self.connection.close();
    }
}

/// Settings of a [`Client`].
#[derive(Debug, Clone)]
#[must_use]
pub struct ClientBuilder {
    connect_timeout: Duration,
    message_bytes_max: usize,
    permessage_deflate: bool,
    reconnect_for: Duration,
    heartbeat_interval: Duration,
    heartbeat_dead_after: Duration,
    #[cfg(feature = "tls")]
    trust: Trust,
    token: Option<Secret>,
}

impl ClientBuilder {
    /// How long to wait for a connection, and then for the server's answer. Defaults to 10 seconds.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Largest message taken from the server, in bytes; a larger one ends the connection. Defaults to 16 MiB.
    pub fn message_bytes_max(mut self, bytes: usize) -> Self {
        self.message_bytes_max = bytes;
        self
    }

    /// Whether to ask the server to deflate its messages: the extension `permessage-deflate` (RFC 7692). A server that does not allow
    /// it sends them as they are. Defaults to false: it makes rows three times smaller, and costs both ends time that a fast network
    /// does not. What the client sends is short and goes as it is; [`message_bytes_max`](Self::message_bytes_max) bounds what is
    /// inflated.
    pub fn permessage_deflate(mut self, is_wanted: bool) -> Self {
        self.permessage_deflate = is_wanted;
        self
    }

    /// How long to try for a new connection when one is lost while [resumable](QueryBuilder::resumable) queries run, with growing
    /// random pauses; zero for not at all. Defaults to 60 seconds, for which servers hold streams unless set otherwise.
    pub fn reconnect_for(mut self, time: Duration) -> Self {
        self.reconnect_for = time;
        self
    }

    /// After `interval` without a byte from the server it is pinged; after `dead_after` the connection counts as lost. Defaults to
    /// 15 and 45 seconds.
    pub fn heartbeat(mut self, interval: Duration, dead_after: Duration) -> Self {
        self.heartbeat_interval = interval;
        self.heartbeat_dead_after = dead_after;
        self
    }

    /// Trusts servers whose certificates are signed by those in this PEM file, or are themselves there, besides those that the
    /// system trusts. Blocks on the file.
    ///
    /// # Errors
    /// [`CertificateError`].
    #[cfg(feature = "tls")]
    pub fn ca_file(mut self, path: impl AsRef<Path>) -> Result<Self, CertificateError> {
        self.trust.add_file(path.as_ref())?;
        Ok(self)
    }

    /// As [`ca_file`](Self::ca_file), from bytes. Never blocks.
    ///
    /// # Errors
    /// [`CertificateError`].
    #[cfg(feature = "tls")]
    pub fn ca_pem(mut self, pem: &[u8]) -> Result<Self, CertificateError> {
        self.trust.add_pem(pem)?;
        Ok(self)
    }

    /// Shows the server this token, now and each time it connects anew, in the header `Authorization`. Without TLS, everybody on the
    /// way can read it. Defaults to none.
    pub fn token(mut self, token: impl Into<Secret>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Connects as [`Client::connect`] does.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn connect(self, url: &str) -> Result<Client, ClientError> {
        let address = Address::parse(url)?;
        let security = self.security(&address)?;
        let socket =
            dial(&address, self.connect_timeout).map_err(|source| ClientError::connect(address.to_string(), source))?;
        let transport = security.over(socket);
        let again = address.clone();
        let redial_timeout = self.connect_timeout.min(REDIAL_TIMEOUT);
        let redial: Dial = Box::new(move || dial(&again, redial_timeout).map(|socket| security.over(socket)));
        self.open(transport, Some(redial), address)
    }

    /// Connects as [`Client::over`] does.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn over(self, transport: impl Transport, url: &str) -> Result<Client, ClientError> {
        let address = Address::parse(url)?;
        let transport = self.security(&address)?.over(Box::new(transport));
        self.open(transport, None, address)
    }

    /// Connects over transports that `dial` makes, this time and each time a connection is lost while resumable queries run.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn connect_with<T: Transport>(
        self,
        url: &str,
        mut dial: impl FnMut() -> io::Result<T> + Send + 'static,
    ) -> Result<Client, ClientError> {
        let address = Address::parse(url)?;
        let security = self.security(&address)?;
        let transport = dial().map_err(|source| ClientError::connect(address.to_string(), source))?;
        let transport = security.over(Box::new(transport));
        let redial: Dial = Box::new(move || Ok(security.over(Box::new(dial()?))));
        self.open(transport, Some(redial), address)
    }

    fn security(&self, address: &Address) -> Result<Security, ClientError> {
        #[cfg(feature = "tls")]
        return Security::new(address, &self.trust);
        #[cfg(not(feature = "tls"))]
        return Security::new(address);
    }

    fn open(self, transport: Box<dyn Transport>, dial: Option<Dial>, address: Address) -> Result<Client, ClientError> {
        let halves = transport
            .split()
            .map_err(|source| ClientError::connect(address.to_string(), source))?;
        let config = LinkConfig {
            address: address.to_string(),
            authority: address.authority(),
            path: address.path,
            token: self.token,
            handshake_timeout: self.connect_timeout,
            message_bytes_max: self.message_bytes_max,
            coding: if self.permessage_deflate {
                Coding::Deflate
            } else {
                Coding::Plain
            },
            reconnect_for: self.reconnect_for,
            heartbeat_interval: self.heartbeat_interval,
            heartbeat_dead_after: self.heartbeat_dead_after,
        };
        let connection = Connection::open(halves, dial, &config)?;
        Ok(Client { connection })
    }
}
