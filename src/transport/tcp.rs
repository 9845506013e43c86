//! TCP sockets as a transport: one descriptor per connection, shared by both directions.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

use super::{Halves, ReadHalf, Transport, TransportControl};

/// How long data may stay unacknowledged, or a window closed, before the system gives the peer up: `TCP_USER_TIMEOUT`.
const USER_TIMEOUT: Duration = Duration::from_secs(60);

/// When an idle peer is first probed, and how often then.
const KEEPALIVE_TIME: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// Bytes that may wait in the socket unsent: `TCP_NOTSENT_LOWAT`. Without it the system queues megabytes, which a cancel
/// cannot overtake.
const NOTSENT_LOWAT: u32 = 128 * 1024;

impl Transport for TcpStream {
    fn split(self: Box<Self>) -> io::Result<Halves> {
        let socket = SockRef::from(&*self);
        socket.set_tcp_nodelay(true)?;
        let keepalive = TcpKeepalive::new()
            .with_time(KEEPALIVE_TIME)
            .with_interval(KEEPALIVE_INTERVAL);
        socket.set_tcp_keepalive(&keepalive)?;
        #[cfg(target_os = "linux")]
        {
            socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
            socket.set_tcp_notsent_lowat(NOTSENT_LOWAT)?;
        }
        let shared = Shared(Arc::new(*self));
        Ok(Halves::new(
            Box::new(shared.clone()),
            Box::new(shared.clone()),
            Arc::new(shared),
        ))
    }

    fn peer(&self) -> String {
        self.peer_addr()
            .map_or_else(|_| "a peer already gone".to_owned(), |address| address.to_string())
    }
}

/// One socket with several owners: a clone is a reference, not another descriptor.
#[derive(Clone)]
struct Shared(Arc<TcpStream>);

impl Read for Shared {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self.0).read(buffer)
    }
}

impl ReadHalf for Shared {
    fn set_read_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.0.set_read_timeout(timeout)
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self.0).write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        (&*self.0).write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl TransportControl for Shared {
    fn shutdown(&self, how: Shutdown) {
        // A socket that is not connected any more has nothing to shut down.
        let _already_gone = self.0.shutdown(how);
    }
}
