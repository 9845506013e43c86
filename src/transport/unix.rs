//! Unix sockets as a transport: one descriptor per connection, shared by both directions.
//!
//! Must not know what is sent, or whose end this is.

use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use super::{Halves, ReadHalf, Transport, TransportControl, WriteHalf};

impl Transport for UnixStream {
    fn split(self: Box<Self>) -> io::Result<Halves> {
        let shared = Shared(Arc::new(*self));
        Ok(Halves::new(
            Box::new(shared.clone()),
            Box::new(shared.clone()),
            Arc::new(shared),
        ))
    }

    fn peer(&self) -> String {
        "unix".to_owned()
    }
}

/// One socket with several owners: a clone is a reference, not another descriptor.
#[derive(Clone)]
struct Shared(Arc<UnixStream>);

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

impl WriteHalf for Shared {}

impl TransportControl for Shared {
    fn shutdown(&self, how: Shutdown) {
        // A socket that is not connected any more has nothing to shut down.
        let _already_gone = self.0.shutdown(how);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

    use std::io::ErrorKind;

    use super::*;
    use crate::thread::{STACK_BYTES_CONNECTION, spawn_named};

    fn pair() -> (Halves, UnixStream) {
        let (here, there) = UnixStream::pair().unwrap();
        let here: Box<dyn Transport> = Box::new(here);
        assert_eq!(here.peer(), "unix");
        (here.split().unwrap(), there)
    }

    #[test]
    fn both_directions_at_once() {
        let (mut halves, mut peer) = pair();
        let heard = spawn_named("test", STACK_BYTES_CONNECTION, move || {
            let mut heard = [0; 4];
            halves.read.read_exact(&mut heard).map(|()| heard)
        })
        .unwrap();
        let slices = [b"he".as_slice(), b"", b"llo"].map(IoSlice::new);
        assert_eq!(halves.write.write_vectored(&slices).unwrap(), 5);
        halves.write.finish().unwrap();
        let mut answer = [0; 5];
        peer.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"hello");
        peer.write_all(b"back").unwrap();
        assert_eq!(&heard.join().unwrap().unwrap(), b"back");
    }

    #[test]
    fn shutting_down_wakes_whoever_is_blocked() {
        let (mut halves, _peer) = pair();
        let read = spawn_named("test", STACK_BYTES_CONNECTION, move || halves.read.read(&mut [0])).unwrap();
        let written = spawn_named("test", STACK_BYTES_CONNECTION, move || {
            // Far more than the system takes for a peer that does not read.
            halves.write.write_all(&vec![0; 64 * 1024 * 1024])
        })
        .unwrap();
        halves.control.shutdown(Shutdown::Both);
        assert_eq!(read.join().unwrap().unwrap(), 0);
        assert_eq!(written.join().unwrap().unwrap_err().kind(), ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_read_timeout_is_kept() {
        let (mut halves, _peer) = pair();
        halves.read.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        assert_eq!(halves.read.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    }
}
