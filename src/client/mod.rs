//! A synchronous client: one connection, any number of queries on it, from any number of threads.
//!
//! Must not know the server or its engines.

mod address;
mod batch;
mod connection;
mod error;
mod query;
mod stream;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use address::Address;
use connection::{Connection, LinkConfig};

pub use batch::{Batch, CellError, ColumnRef, FromCell, Row};
pub use error::ClientError;
pub use query::QueryBuilder;
pub use stream::{Canceller, Event, Outcome, QueryStream};

// What the server says about a query, as events, outcomes and errors carry it.
pub use crate::protocol::{
    CancelledMessage, CompletedMessage, ErrorMessage, ProgressDetail, ProgressMessage, QueuedMessage, StartedMessage,
};
use crate::transport::Transport;

/// A connection to a server.
///
/// All methods take `&self`: put it in an [`Arc`] or a scope to use it from several threads. Queries on one client share its
/// socket, so that one whose rows nobody takes holds up the others; a program that leaves results lying about opens a client
/// for each.
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
    /// Connects to `ws://host:port/path`, or `host:port` for short; the path defaults to `/ws`.
    ///
    /// Blocks for at most 10 seconds per address that the name stands for, the name's look-up aside.
    ///
    /// # Errors
    /// [`ClientError::Address`], [`ClientError::Connect`] and [`ClientError::Handshake`].
    pub fn connect(url: &str) -> Result<Self, ClientError> {
        Self::builder().connect(url)
    }

    /// Connects over a transport that is already there: one end of [`memory_pair`](crate::transport::memory_pair), or a
    /// socket of the program's own. `url` says which path to ask for.
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
        }
    }

    /// Starts describing a query. Never blocks.
    pub fn query(&self, sql: impl Into<String>) -> QueryBuilder<'_> {
        QueryBuilder::new(self.connection.link(), sql.into())
    }

    /// Asks the server for a sign of life.
    ///
    /// Blocks until it comes; ends with the connection, at the latest. A query that nobody reads from holds it up.
    ///
    /// # Errors
    /// Everything that ends a connection.
    pub fn ping(&self) -> Result<(), ClientError> {
        self.connection.link().ping()
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

    /// Connects as [`Client::connect`] does.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn connect(self, url: &str) -> Result<Client, ClientError> {
        let address = Address::parse(url)?;
        let socket = self.dial(&address).map_err(|source| ClientError::Connect {
            address: address.authority(),
            source: Arc::new(source),
        })?;
        self.open(Box::new(socket), address)
    }

    /// Connects as [`Client::over`] does.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn over(self, transport: impl Transport, url: &str) -> Result<Client, ClientError> {
        let address = Address::parse(url)?;
        self.open(Box::new(transport), address)
    }

    /// Tries every address that the name stands for; the last failure is the one told.
    fn dial(&self, address: &Address) -> io::Result<TcpStream> {
        let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for socket_address in (address.host.as_str(), address.port).to_socket_addrs()? {
            match TcpStream::connect_timeout(&socket_address, self.connect_timeout) {
                Ok(socket) => return Ok(socket),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    fn open(self, transport: Box<dyn Transport>, address: Address) -> Result<Client, ClientError> {
        let authority = address.authority();
        let halves = transport.split().map_err(|source| ClientError::Connect {
            address: authority.clone(),
            source: Arc::new(source),
        })?;
        let config = LinkConfig {
            authority,
            path: address.path,
            handshake_timeout: self.connect_timeout,
            message_bytes_max: self.message_bytes_max,
        };
        let connection = Connection::open(halves, &config)?;
        Ok(Client { connection })
    }
}
