//! One socket for both directions: a descriptor with several owners, whatever family it is of.
//!
//! Must not know how sockets are made.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use super::{Halves, ReadHalf, TransportControl, WriteHalf};

/// A socket that can be read and written through a shared reference.
pub(super) trait Socket: Send + Sync + 'static {
    fn bytes(&self) -> impl Read + Write;

    fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()>;

    fn shutdown(&self, how: Shutdown) -> io::Result<()>;
}

macro_rules! socket {
    ($($stream:ty),*) => {$(
        impl Socket for $stream {
            fn bytes(&self) -> impl Read + Write {
                self
            }

            fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
                Self::set_read_timeout(self, timeout)
            }

            fn shutdown(&self, how: Shutdown) -> io::Result<()> {
                Self::shutdown(self, how)
            }
        }
    )*};
}

socket!(TcpStream);
#[cfg(unix)]
socket!(std::os::unix::net::UnixStream);

/// Takes a socket apart.
pub(super) fn split(socket: impl Socket) -> Halves {
    let socket = Arc::new(socket);
    let owner = || Shared(Arc::clone(&socket));
    Halves::new(Box::new(owner()), Box::new(owner()), Arc::new(owner()))
}

/// One of several owners: not another descriptor.
struct Shared<S>(Arc<S>);

impl<S: Socket> Read for Shared<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.bytes().read(buffer)
    }
}

impl<S: Socket> ReadHalf for Shared<S> {
    fn set_read_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.0.set_read_timeout(timeout)
    }
}

impl<S: Socket> Write for Shared<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.bytes().write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.bytes().write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<S: Socket> WriteHalf for Shared<S> {}

impl<S: Socket> TransportControl for Shared<S> {
    fn shutdown(&self, how: Shutdown) {
        // A socket that is not connected any more has nothing to shut down.
        let _already_gone = self.0.shutdown(how);
    }
}
