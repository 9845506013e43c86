//! Unix sockets as a transport: one descriptor per connection, shared by both directions.
//!
//! Must not know what is sent, or whose end this is.

use std::io;
use std::os::unix::net::UnixStream;

use super::{Halves, Transport, shared};

impl Transport for UnixStream {
    fn split(self: Box<Self>) -> io::Result<Halves> {
        Ok(shared::split(*self))
    }

    fn peer(&self) -> String {
        "unix".to_owned()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

    use std::io::{ErrorKind, IoSlice, Read, Write};
    use std::net::Shutdown;
    use std::time::Duration;

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
