//! The listener thread: accepts, and nothing else.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::connections::{Connections, Unserved};
use super::peers::Refusal;
use super::reserve::Reserve;
use super::socket::{Accept, Accepted};
use super::tls::Tls;
use crate::thread::{STACK_BYTES_CONNECTION, spawn_named};
use crate::transport::Transport;

/// How long the listener rests after a failed accept: at the limit of descriptors it would fail a million times a second.
const BACK_OFF: Duration = Duration::from_millis(50);

/// What a client is told that the server has no room for.
const FULL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 38\r\n\
Retry-After: 1\r\nConnection: close\r\n\r\nthe server has no room; try again soon";

/// What a client is told whose address has its share of connections.
const TOO_MANY: &[u8] =
    b"HTTP/1.1 429 Too Many Requests\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 45\r\n\
Retry-After: 1\r\nConnection: close\r\n\r\nthis address has too many connections already";

/// What a client is told whose address comes too often.
const TOO_OFTEN: &[u8] =
    b"HTTP/1.1 429 Too Many Requests\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 35\r\n\
Retry-After: 1\r\nConnection: close\r\n\r\nthis address connects too often now";

/// A listening socket and its thread. Dropping it stops and joins the thread.
#[derive(Debug)]
pub(super) struct Listener {
    socket: Arc<dyn Accept>,
    stopping: Arc<AtomicBool>,
    /// Dropped to cut the back-off short.
    wake: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Starts accepting, on a thread of this name. What comes by TCP has to speak TLS, where there is `tls`.
    ///
    /// # Errors
    /// Where the system has no thread to give.
    pub(super) fn start(
        role: &str,
        socket: impl Accept + 'static,
        tls: Tls,
        connections: Arc<Connections>,
    ) -> io::Result<Self> {
        let socket: Arc<dyn Accept> = Arc::new(socket);
        let stopping = Arc::new(AtomicBool::new(false));
        let (wake, woken) = bounded(0);
        let thread = {
            let socket = Arc::clone(&socket);
            let stopping = Arc::clone(&stopping);
            spawn_named(role, STACK_BYTES_CONNECTION, move || {
                accept_until_stopped(&*socket, &tls, &stopping, &woken, &connections);
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
                log::warn!(address:% = self.socket; "the listener could not be woken; its thread is left behind");
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
    socket: &dyn Accept,
    tls: &Tls,
    stopping: &AtomicBool,
    woken: &Receiver<()>,
    connections: &Arc<Connections>,
) {
    let mut reserve = Reserve::new();
    while !stopping.load(Ordering::Acquire) {
        match socket.accept() {
            Ok(_) | Err(_) if stopping.load(Ordering::Acquire) => return,
            Ok(accepted) => receive(accepted, tls, connections),
            Err(error) => {
                log::warn!(error:% = error; "no connection could be accepted");
                connections.refusals().no_descriptor();
                if Reserve::helps_against(&error) {
                    reserve.spend(socket, |accepted| answer(accepted, tls, FULL));
                }
                // Nothing is ever sent: this waits until the time is up or the listener is dropped.
                let _rested = woken.recv_timeout(BACK_OFF);
            }
        }
    }
}

/// Serves a connection, or tells it why not.
fn receive(accepted: Accepted, tls: &Tls, connections: &Arc<Connections>) {
    let peer = accepted.peer();
    if connections.is_full() {
        connections.refusals().full();
        log::warn!(peer:% = peer; "connection refused: the server is full");
        return answer(accepted, tls, FULL);
    }
    // Whoever comes by a unix socket is on this machine, and has no address to be counted by.
    let seat = match accepted.address().map(|address| connections.admit(address)).transpose() {
        Ok(seat) => seat,
        Err(refusal) => {
            connections.refusals().address(refusal);
            log::warn!(peer:% = peer, reason:? = refusal; "connection refused");
            let text = match refusal {
                Refusal::TooMany => TOO_MANY,
                Refusal::TooOften => TOO_OFTEN,
            };
            return answer(accepted, tls, text);
        }
    };
    let speaks_tls = accepted.speaks(tls);
    if let Err(Unserved { error, connection }) = connections.serve(transport(accepted, tls), seat) {
        log::warn!(peer:% = peer, error:% = error; "connection not served");
        if let Some(connection) = connection.filter(|_| !speaks_tls) {
            connection.refuse(FULL);
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

/// Tells a connection why it is not served. One that is to speak TLS is closed without a word: hands would have to be shaken first, and
/// not on this thread.
fn answer(accepted: Accepted, tls: &Tls, text: &[u8]) {
    if !accepted.speaks(tls) {
        accepted.tell(text);
    }
}
