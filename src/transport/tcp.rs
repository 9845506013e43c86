//! TCP sockets as a transport: one descriptor per connection, shared by both directions.
//!
//! Owns the socket options. Must not know what is sent, or whose end this is.

use std::io;
use std::net::{IpAddr, TcpStream};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

use super::{Halves, Transport, shared};

/// How long data may stay unacknowledged, or a window closed, before the system gives the peer up: `TCP_USER_TIMEOUT`.
const USER_TIMEOUT: Duration = Duration::from_secs(60);

/// When an idle peer is first probed, and how often then. `USER_TIMEOUT` says when it is given up.
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
        Ok(shared::split(*self))
    }

    fn peer(&self) -> String {
        self.peer_addr()
            .map_or_else(|_| "a peer already gone".to_owned(), |address| address.to_string())
    }

    fn peer_ip(&self) -> Option<IpAddr> {
        self.peer_addr().ok().map(|address| address.ip())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

    use std::io::{ErrorKind, IoSlice, Read, Write};
    use std::net::{Shutdown, TcpListener};

    use crossbeam_channel::{Receiver, bounded};

    use super::*;
    use crate::thread::{STACK_BYTES_CONNECTION, spawn_named};

    /// Only bounds a test that fails.
    const DEADLINE: Duration = Duration::from_secs(10);

    fn pair() -> (Halves, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, address) = listener.accept().unwrap();
        let socket: Box<dyn Transport> = Box::new(socket);
        assert_eq!(socket.peer(), address.to_string());
        assert_eq!(socket.peer_ip(), Some(address.ip()));
        (socket.split().unwrap(), peer)
    }

    fn blocked<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
        let (sender, receiver) = bounded(1);
        spawn_named("test", STACK_BYTES_CONNECTION, move || {
            sender.send(call()).expect("the test waits for it");
        })
        .unwrap();
        receiver
    }

    #[track_caller]
    fn woken<T>(call: &Receiver<T>) -> T {
        call.recv_timeout(DEADLINE).expect("something has woken the call")
    }

    #[test]
    fn both_directions_at_once() {
        let (mut halves, mut peer) = pair();
        // The read is on its way, blocked or about to be, while the same socket writes.
        let heard = blocked(move || {
            let mut heard = [0; 4];
            halves.read.read_exact(&mut heard).map(|()| heard)
        });
        let slices = [b"he".as_slice(), b"", b"llo"].map(IoSlice::new);
        assert_eq!(halves.write.write_vectored(&slices).unwrap(), 5);
        let mut answer = [0; 5];
        peer.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"hello");
        peer.write_all(b"back").unwrap();
        assert_eq!(&woken(&heard).unwrap(), b"back");
    }

    #[test]
    fn shutting_down_wakes_a_blocked_read() {
        for how in [Shutdown::Read, Shutdown::Both] {
            let (mut halves, _peer) = pair();
            let read = blocked(move || halves.read.read(&mut [0]));
            halves.control.shutdown(how);
            assert_eq!(woken(&read).unwrap(), 0);
        }
    }

    #[test]
    fn shutting_down_wakes_a_blocked_write() {
        for how in [Shutdown::Write, Shutdown::Both] {
            let (mut halves, peer) = pair();
            let (started, has_started) = bounded(1);
            // Far more than the system takes for a peer that does not read.
            let written = blocked(move || {
                halves.write.write_all(&[0; 1024])?;
                started.send(()).expect("the test waits for it");
                halves.write.write_all(&vec![0; 64 * 1024 * 1024])
            });
            has_started.recv_timeout(DEADLINE).expect("the first bytes find room");
            halves.control.shutdown(how);
            assert_eq!(woken(&written).unwrap_err().kind(), ErrorKind::BrokenPipe);
            // Once more, and after the peer is gone: never an error, never a wait.
            drop(peer);
            halves.control.shutdown(how);
        }
    }

    #[test]
    fn a_read_timeout_is_kept_and_can_be_taken_back() {
        let (mut halves, mut peer) = pair();
        halves.read.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        let error = halves.read.read(&mut [0]).unwrap_err();
        assert!(
            matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
            "{error}"
        );
        halves.read.set_read_timeout(None).unwrap();
        peer.write_all(b"x").unwrap();
        assert_eq!(halves.read.read(&mut [0]).unwrap(), 1);
    }

    #[test]
    fn the_peer_sees_the_end_when_the_last_part_is_dropped() {
        let (Halves { read, write, control }, mut peer) = pair();
        peer.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        drop((read, write));
        let error = peer.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock, "one part still holds the socket");
        drop(control);
        peer.set_read_timeout(Some(DEADLINE)).unwrap();
        assert_eq!(peer.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_socket_has_its_options() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        // A second descriptor of the same socket, to look at what the first was given.
        let look = socket.try_clone().unwrap();
        let _halves = Box::new(socket).split().unwrap();
        let look = SockRef::from(&look);
        assert!(look.tcp_nodelay().unwrap());
        assert!(look.keepalive().unwrap());
        assert_eq!(look.tcp_keepalive_time().unwrap(), KEEPALIVE_TIME);
        assert_eq!(look.tcp_keepalive_interval().unwrap(), KEEPALIVE_INTERVAL);
        assert_eq!(look.tcp_user_timeout().unwrap(), Some(USER_TIMEOUT));
        assert_eq!(look.tcp_notsent_lowat().unwrap(), NOTSENT_LOWAT);
    }
}
