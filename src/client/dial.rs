//! Making a client's connections: to an address by TCP or a unix socket, with TLS or without.
//!
//! Must not know what is said on them.

use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use super::ClientError;
use super::address::{Address, Place};
use crate::transport::Transport;
#[cfg(feature = "tls")]
use crate::transport::tls::{Connector, Trust};

/// Puts TLS over transports, where the address asks for it.
#[derive(Debug, Clone, Default)]
pub(super) struct Security {
    #[cfg(feature = "tls")]
    connector: Option<Connector>,
}

impl Security {
    /// Blocks on the files of the system's certificates.
    #[cfg(feature = "tls")]
    pub(super) fn new(address: &Address, trust: &Trust) -> Result<Self, ClientError> {
        let connector = match &address.place {
            Place::Tcp { host, .. } if address.is_secure => {
                let connector = Connector::new(trust, host).map_err(|source| ClientError::Tls {
                    address: address.to_string(),
                    source,
                })?;
                Some(connector)
            }
            Place::Tcp { .. } | Place::Unix(_) => None,
        };
        Ok(Self { connector })
    }

    #[cfg(not(feature = "tls"))]
    pub(super) fn new(address: &Address) -> Result<Self, ClientError> {
        if address.is_secure {
            let text = format!("{address}: this build has no TLS (the feature `tls`), only ws://");
            return Err(ClientError::Address(text));
        }
        Ok(Self {})
    }

    /// Never blocks: hands are shaken when it is used.
    pub(super) fn over(&self, transport: Box<dyn Transport>) -> Box<dyn Transport> {
        #[cfg(feature = "tls")]
        if let Some(connector) = &self.connector {
            return Box::new(connector.connect(transport));
        }
        transport
    }
}

/// Connects. Of the addresses that a name stands for every one is tried; the last failure is the one told.
pub(super) fn dial(address: &Address, timeout: Duration) -> io::Result<Box<dyn Transport>> {
    let (host, port) = match &address.place {
        Place::Tcp { host, port } => (host.as_str(), *port),
        #[cfg(unix)]
        Place::Unix(path) => return Ok(Box::new(std::os::unix::net::UnixStream::connect(path)?)),
        #[cfg(not(unix))]
        Place::Unix(_) => return Err(io::ErrorKind::Unsupported.into()),
    };
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for socket_address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&socket_address, timeout) {
            Ok(socket) => return Ok(Box::new(socket)),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}
