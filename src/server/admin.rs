//! The operators' address: a listener and a few connections of its own, which never become WebSockets.
//!
//! Must not know what is reported.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use super::connections::Connections;
use super::listener::Listener;
use super::socket::Socket;
use super::tls::Tls;

/// A second address of a server. Dropping it ends its connections and joins its threads.
#[derive(Debug)]
pub(super) struct Admin {
    /// `None` once it is stopped.
    listener: Option<Listener>,
    local_addr: Option<SocketAddr>,
    connections: Arc<Connections>,
}

impl Admin {
    /// Starts accepting.
    ///
    /// # Errors
    /// As [`Listener::start`].
    pub(super) fn start(socket: Socket, connections: Arc<Connections>) -> io::Result<Self> {
        let listener = Listener::start("admin", socket, Tls::default(), Arc::clone(&connections))?;
        Ok(Self {
            local_addr: listener.local_addr(),
            listener: Some(listener),
            connections,
        })
    }

    pub(super) fn local_addr(&self) -> Option<SocketAddr> {
        self.local_addr
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        drop(self.listener.take());
        self.connections.stop();
    }
}
