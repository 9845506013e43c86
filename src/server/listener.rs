//! The listener thread: accepts, and nothing else.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::connections::Connections;
use crate::metrics::Unserved;
use crate::thread::{STACK_BYTES_CONNECTION, spawn_named};

/// How long the listener rests after a failed accept: at the limit of descriptors it would fail a million times a second.
const BACK_OFF: Duration = Duration::from_millis(50);

/// How long waking the listener may take.
const WAKE_TIMEOUT: Duration = Duration::from_secs(1);

/// What a client is told that the server has no room for.
const FULL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 38\r\n\
Retry-After: 1\r\nConnection: close\r\n\r\nthe server has no room; try again soon";

/// A listening socket and its thread. Dropping it stops and joins the thread.
#[derive(Debug)]
pub(super) struct Listener {
    local_addr: SocketAddr,
    stopping: Arc<AtomicBool>,
    /// Dropped to cut the back-off short.
    wake: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Starts accepting, on a thread of this name.
    ///
    /// # Errors
    /// Where the system has no thread to give, or does not tell the socket's address.
    pub(super) fn start(role: &str, socket: TcpListener, connections: Arc<Connections>) -> io::Result<Self> {
        let local_addr = socket.local_addr()?;
        let stopping = Arc::new(AtomicBool::new(false));
        let (wake, woken) = bounded(0);
        let thread = {
            let stopping = Arc::clone(&stopping);
            spawn_named(role, STACK_BYTES_CONNECTION, move || {
                accept_until_stopped(&socket, &stopping, &woken, &connections);
            })?
        };
        Ok(Self {
            local_addr,
            stopping,
            wake: Some(wake),
            thread: Some(thread),
        })
    }

    pub(super) fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        drop(self.wake.take());
        // An accept that blocks has no other way out than a connection.
        let woken = TcpStream::connect_timeout(&reachable(self.local_addr), WAKE_TIMEOUT);
        if let Some(thread) = self.thread.take() {
            if woken.is_err() && !thread.is_finished() {
                log::warn!(
                    "the listener on {} could not be woken; its thread is left behind",
                    self.local_addr
                );
                return;
            }
            if thread.join().is_err() {
                log::error!("the listener panicked");
            }
        }
    }
}

/// Ends when: told to stop, and woken by a connection or out of its back-off.
fn accept_until_stopped(
    socket: &TcpListener,
    stopping: &AtomicBool,
    woken: &Receiver<()>,
    connections: &Arc<Connections>,
) {
    while !stopping.load(Ordering::Acquire) {
        match socket.accept() {
            Ok(_) if stopping.load(Ordering::Acquire) => return,
            Ok((stream, _)) if connections.is_full() => {
                connections.count_unserved(Unserved::Full);
                refuse(&stream);
            }
            Ok((stream, peer)) => {
                if let Err(error) = connections.serve(Box::new(stream)) {
                    log::warn!("{peer}: not served: {error}");
                }
            }
            Err(error) => {
                log::warn!("accept: {error}");
                // Nothing is ever sent: this waits until the time is up or the listener is dropped.
                let _rested = woken.recv_timeout(BACK_OFF);
            }
        }
    }
}

fn refuse(mut stream: &TcpStream) {
    // A fresh socket's buffer takes this much without blocking; a peer that is gone needs no answer.
    let _told = stream.set_nonblocking(true).and_then(|()| stream.write_all(FULL));
    log::warn!("a connection was refused: the server is full");
}

/// An address that reaches a socket bound to `address`.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        });
    }
    address
}
