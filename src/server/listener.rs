//! The listener thread: accepts, and nothing else.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::connections::Connections;
use super::socket::{Accepted, Socket};
use super::tls::Tls;
use crate::thread::{STACK_BYTES_CONNECTION, spawn_named};
use crate::transport::Transport;

/// How long the listener rests after a failed accept: at the limit of descriptors it would fail a million times a second.
const BACK_OFF: Duration = Duration::from_millis(50);

/// What a client is told that the server has no room for.
const FULL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 38\r\n\
Retry-After: 1\r\nConnection: close\r\n\r\nthe server has no room; try again soon";

/// A listening socket and its thread. Dropping it stops and joins the thread.
#[derive(Debug)]
pub(super) struct Listener {
    socket: Arc<Socket>,
    stopping: Arc<AtomicBool>,
    /// Dropped to cut the back-off short.
    wake: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Starts accepting. What comes by TCP has to speak TLS, where there is `tls`.
    ///
    /// # Errors
    /// Where the system has no thread to give.
    pub(super) fn start(socket: Socket, tls: Tls, connections: Arc<Connections>) -> io::Result<Self> {
        let socket = Arc::new(socket);
        let stopping = Arc::new(AtomicBool::new(false));
        let (wake, woken) = bounded(0);
        let thread = {
            let socket = Arc::clone(&socket);
            let stopping = Arc::clone(&stopping);
            spawn_named("listener", STACK_BYTES_CONNECTION, move || {
                accept_until_stopped(&socket, &tls, &stopping, &woken, &connections);
            })?
        };
        Ok(Self {
            socket,
            stopping,
            wake: Some(wake),
            thread: Some(thread),
        })
    }

    /// `None` for a unix socket.
    pub(super) fn local_addr(&self) -> Option<SocketAddr> {
        self.socket.local_addr()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        drop(self.wake.take());
        let woken = self.socket.wake();
        if let Some(thread) = self.thread.take() {
            if !woken && !thread.is_finished() {
                log::warn!(
                    "the listener on {} could not be woken; its thread is left behind",
                    self.socket
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
    socket: &Socket,
    tls: &Tls,
    stopping: &AtomicBool,
    woken: &Receiver<()>,
    connections: &Arc<Connections>,
) {
    while !stopping.load(Ordering::Acquire) {
        match socket.accept() {
            Ok(_) | Err(_) if stopping.load(Ordering::Acquire) => return,
            Ok(accepted) if connections.is_full() => refuse(accepted, tls),
            Ok(accepted) => {
                let peer = accepted.peer();
                if let Err(error) = connections.serve(transport(accepted, tls)) {
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

fn transport(accepted: Accepted, tls: &Tls) -> Box<dyn Transport> {
    match accepted {
        Accepted::Tcp(stream, _) => tls.accept(stream),
        #[cfg(unix)]
        Accepted::Unix(stream) => Box::new(stream),
    }
}

fn refuse(accepted: Accepted, tls: &Tls) {
    log::warn!("a connection was refused: the server is full");
    // A fresh socket's buffer takes this much without blocking; a peer that is gone needs no answer.
    let _told = match accepted {
        // Hands would have to be shaken first, and not on this thread.
        Accepted::Tcp(..) if tls.is_on() => Ok(()),
        Accepted::Tcp(mut stream, _) => stream.set_nonblocking(true).and_then(|()| stream.write_all(FULL)),
        #[cfg(unix)]
        Accepted::Unix(mut stream) => stream.set_nonblocking(true).and_then(|()| stream.write_all(FULL)),
    };
}
