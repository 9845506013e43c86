//! The listener thread: accepts, and nothing else.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::connections::Connections;
use super::refusals::Refusal;
use super::reserve::Reserve;
use super::socket::{Accept, Accepted};
use super::tls::Tls;
use crate::thread::{STACK_BYTES_CONNECTION, spawn_named};
use crate::transport::Transport;
use crate::transport::http::refuse;

/// How long the listener rests after a failed accept: at the limit of descriptors it would fail a million times a second.
const BACK_OFF: Duration = Duration::from_millis(50);

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
                connections.refused(Refusal::NoDescriptor, None, Some(&error));
                if Reserve::helps_against(&error) {
                    reserve.spend(socket, |accepted| answer(accepted, tls, Refusal::NoDescriptor));
                }
                // Nothing is ever sent: this waits until the time is up or the listener is dropped.
                let _rested = woken.recv_timeout(BACK_OFF);
            }
        }
    }
}

/// Serves a connection, or tells it why not.
fn receive(accepted: Accepted, tls: &Tls, connections: &Arc<Connections>) {
    let admitted = if connections.is_full() {
        Err(Refusal::Full)
    } else {
        // Whoever comes by a unix socket is on this machine, and has no address to be counted by.
        let address = accepted.address();
        address.map(|address| connections.admit(address)).transpose()
    };
    let seat = match admitted {
        Ok(seat) => seat,
        Err(refusal) => {
            connections.refused(refusal, Some(accepted.peer()), None);
            return answer(accepted, tls, refusal);
        }
    };
    let speaks_tls = accepted.speaks(tls);
    if let Err(unserved) = connections.serve(transport(accepted, tls), seat)
        && let Some(connection) = unserved.connection.filter(|_| !speaks_tls)
    {
        connection.refuse(&response(Refusal::NoThread));
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
fn answer(accepted: Accepted, tls: &Tls, refusal: Refusal) {
    if !accepted.speaks(tls) {
        accepted.tell(&response(refusal));
    }
}

/// What a client is told that is not served. What the server has too little of is not for everybody to know.
fn response(refusal: Refusal) -> Vec<u8> {
    let (status, text) = match refusal {
        Refusal::Full | Refusal::NoDescriptor | Refusal::NoThread => {
            ("503 Service Unavailable", "the server has no room; try again soon")
        }
        Refusal::TooMany => ("429 Too Many Requests", "this address has too many connections already"),
        Refusal::TooOften => ("429 Too Many Requests", "this address connects too often now"),
        // A connection says who it is only in its request, which has an answer of its own.
        Refusal::Host | Refusal::Origin => ("403 Forbidden", "this request may not come from there"),
    };
    refuse(status, "Retry-After: 1\r\n", text, false)
}
