//! What can go wrong for a client, split by what it ends.
//!
//! Must not know how the connection is made.

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::protocol::{CancelledMessage, ErrorMessage};

/// Why a client could not connect, or a query gave no (more) rows.
///
/// [`Query`](Self::Query), [`Cancelled`](Self::Cancelled), [`Usage`](Self::Usage) and [`TooLong`](Self::TooLong) end one query;
/// everything else ends the connection with all its queries.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ClientError {
    /// The address is none that this client can connect to; the text says what is wrong with it.
    Address(String),
    /// No connection came about: nobody listens there, the name is unknown, or no answer came within
    /// [`connect_timeout`](super::ClientBuilder::connect_timeout). Trying again later may help.
    Connect {
        /// Where to.
        address: String,
        /// What the system says.
        source: Arc<io::Error>,
    },
    /// Somebody listens, but TLS with them did not come about: they did not prove who they are, or do not speak it. Nothing has been
    /// asked.
    #[cfg(feature = "tls")]
    Tls {
        /// Where to.
        address: String,
        /// Why.
        source: crate::transport::TlsError,
    },
    /// Somebody listens, but does not speak WebSocket there. Check port and path.
    Handshake {
        /// The HTTP status, where the answer was HTTP.
        status: Option<u16>,
        /// What was answered.
        message: String,
    },
    /// The server speaks another version of the protocol, and says which. A client of that version is needed.
    Version {
        /// The subprotocol that the server has chosen.
        spoken: String,
    },
    /// The server does not let this client in, or not let it stay: it wants a [token](super::ClientBuilder::token), the one it was shown
    /// is nobody's or somebody's who may not come in, or a proxy or the server takes nobody from here. Trying again does not help.
    Denied {
        /// Why, in the server's words.
        message: String,
    },
    /// The connection broke without a word: the server is gone, or the network between. What had not come is lost; connect
    /// anew.
    Lost {
        /// What the system says; `None` where the connection simply ended.
        source: Option<Arc<io::Error>>,
    },
    /// The connection was closed in an orderly way, by the server or by [`Client::close`](super::Client::close).
    Closed {
        /// The WebSocket close code, e.g. 1001 for a server that is going away.
        code: Option<u16>,
        /// The reason beside it; often empty.
        reason: String,
    },
    /// The server said what this client cannot make sense of, or a result has holes. Rows of the query cannot be relied on;
    /// the text is worth a bug report.
    Protocol(String),
    /// The server refused the query or the query failed; the message says why. The connection goes on.
    Query(Box<ErrorMessage>),
    /// The query was stopped before its end, by somebody else than this client's [`Canceller`](super::Canceller): for
    /// instance because it took longer than allowed. The rows that came are not the whole result. The connection goes on.
    Cancelled(Box<CancelledMessage>),
    /// The query cannot be sent as it is; the text says why. Nothing has been sent, the connection goes on.
    Usage(String),
    /// The query, with its parameters, is longer than the server takes, as its `welcome` says. Shorten it, or start the server with a
    /// larger `message_bytes_max`. Nothing has been sent, the connection goes on.
    TooLong {
        /// Bytes of the message that the query would be.
        bytes: usize,
        /// The server's `message_bytes_max`.
        bytes_max: u64,
    },
}

impl ClientError {
    /// No connection came about.
    pub(super) fn connect(address: String, source: io::Error) -> Self {
        #[cfg(feature = "tls")]
        if let Some(error) = crate::transport::TlsError::of(&source) {
            let source = error.clone();
            return Self::Tls { address, source };
        }
        Self::Connect {
            address,
            source: Arc::new(source),
        }
    }

    /// Whether the connection is over, and a new [`Client`](super::Client) is needed.
    #[must_use]
    pub fn ends_connection(&self) -> bool {
        match self {
            Self::Query(_) | Self::Cancelled(_) | Self::Usage(_) | Self::TooLong { .. } => false,
            #[cfg(feature = "tls")]
            Self::Tls { .. } => true,
            Self::Address(_)
            | Self::Connect { .. }
            | Self::Handshake { .. }
            | Self::Version { .. }
            | Self::Denied { .. }
            | Self::Lost { .. }
            | Self::Closed { .. }
            | Self::Protocol(_) => true,
        }
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(text) | Self::Usage(text) => f.write_str(text),
            Self::Connect { address, source } => write!(f, "cannot connect to {address}: {source}"),
            #[cfg(feature = "tls")]
            Self::Tls { address, source } => write!(f, "cannot connect to {address}: {source}"),
            Self::Handshake { status, message } => {
                f.write_str("no WebSocket there: ")?;
                match status {
                    Some(status) if message.is_empty() => write!(f, "HTTP status {status}"),
                    Some(status) => write!(f, "HTTP status {status}: {message}"),
                    None => f.write_str(message),
                }
            }
            Self::Version { spoken } => {
                write!(
                    f,
                    "the server speaks {spoken:?}, this client {}",
                    crate::protocol::SUBPROTOCOL
                )
            }
            Self::Denied { message } => write!(f, "not let in: {message}"),
            Self::Lost { source: Some(source) } => write!(f, "connection lost: {source}"),
            Self::Lost { source: None } => f.write_str("connection lost"),
            Self::Closed { code, reason } => {
                f.write_str("connection closed")?;
                if let Some(code) = code {
                    write!(f, " with code {code}")?;
                }
                if reason.is_empty() {
                    Ok(())
                } else {
                    write!(f, ": {reason}")
                }
            }
            Self::TooLong { bytes, bytes_max } => write!(
                f,
                "the query is too long: its message has {bytes} bytes, and this server takes {bytes_max}; shorten the query, or start the \
                 server with a larger --message-bytes-max"
            ),
            Self::Protocol(text) => write!(f, "the server breaks the protocol: {text}"),
            Self::Query(error) => write!(f, "{}: {}", error.code, error.message),
            Self::Cancelled(cancelled) => {
                write!(
                    f,
                    "cancelled ({}) after {} rows",
                    cancelled.reason.as_str(),
                    cancelled.rows_sent
                )?;
                match &cancelled.message {
                    Some(message) => write!(f, ": {message}"),
                    None => Ok(()),
                }
            }
        }
    }
}

impl std::error::Error for ClientError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Connect { source, .. } | Self::Lost { source: Some(source) } => Some(source.as_ref()),
            #[cfg(feature = "tls")]
            Self::Tls { source, .. } => Some(source),
            Self::Address(_)
            | Self::Handshake { .. }
            | Self::Version { .. }
            | Self::Denied { .. }
            | Self::Lost { source: None }
            | Self::Closed { .. }
            | Self::Protocol(_)
            | Self::Query(_)
            | Self::Cancelled(_)
            | Self::Usage(_)
            | Self::TooLong { .. } => None,
        }
    }
}
