//! One client's connection, and the next when that is lost: a reader thread that hands messages to the queries they belong to.
//!
//! Must not know what a query does with its messages.
//!
//! # What blocks, and what wakes it
//! The reader puts each message into the bounded channel of its query, which has room for the query's whole window: a server that
//! keeps to it never makes the reader wait. After a resume, when a program has not taken rows for long, it may; then it reads
//! nothing for the others either, until the messages are taken, the `QueryStream` is dropped, or the client closes. Messages going
//! out are a few hundred bytes; they are written under a lock by whoever sends them. A server takes them at any time; shutting the
//! transport down ends a write to one that does not.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::Shutdown;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use uuid::Uuid;

use super::ClientError;
use super::link::{CLOSE_PATIENCE, Fault, Link};
use super::liveness::PatientRead;
use super::retry::Backoff;
use crate::auth::Secret;
use crate::clock;
use crate::protocol::{self, CloseCode};
use crate::thread::{STACK_BYTES_CONNECTION, spawn_named};
use crate::transport::websocket::{
    Coding, ControlLane, FrameWriter, HandshakeError, InboundLimits, ReadEnd, Shaken, Side, client_handshake,
    read_messages,
};
use crate::transport::{Halves, ReadHalf, Transport};

/// Makes the transport of a next connection.
pub(super) type Dial = Box<dyn FnMut() -> io::Result<Box<dyn Transport>> + Send>;

/// What a connection is made with.
#[derive(Debug, Clone)]
pub(super) struct LinkConfig {
    /// For errors.
    pub(super) address: String,
    /// For the HTTP `Host` header.
    pub(super) authority: String,
    pub(super) path: String,
    /// Who the client is, shown with each handshake.
    pub(super) token: Option<Secret>,
    /// The time from the first byte to the end of the handshake.
    pub(super) handshake_timeout: Duration,
    pub(super) message_bytes_max: usize,
    /// What the server is asked for; it may decline.
    pub(super) coding: Coding,
    /// How long to try for a next connection; zero for not at all.
    pub(super) reconnect_for: Duration,
    pub(super) heartbeat_interval: Duration,
    pub(super) heartbeat_dead_after: Duration,
}

/// An open connection and its thread. Dropping it closes the connection and joins the thread.
#[derive(Debug)]
pub(super) struct Connection {
    link: Arc<Link>,
    /// Disconnected when the reader has ended.
    ended: Receiver<Infallible>,
    reader: Option<JoinHandle<()>>,
}

impl Connection {
    /// Shakes hands over `halves` and starts the reader.
    ///
    /// Blocks for at most `handshake_timeout`.
    pub(super) fn open(halves: Halves, dial: Option<Dial>, config: &LinkConfig) -> Result<Self, ClientError> {
        let control = Arc::clone(&halves.control);
        let failed = |source: io::Error| ClientError::connect(config.address.clone(), source);
        // The handshake runs on the reader's thread, so that the deadline is one for the whole of it, and shutting the
        // transport down is what ends it.
        let (open_tx, open_rx) = bounded(1);
        let (ended_tx, ended) = bounded(0);
        let (open, closing) = bounded(0);
        let link = Arc::new(Link::new(Arc::clone(&control), open, config.message_bytes_max));
        let mut reader = Reader {
            link: Arc::clone(&link),
            closing,
            dial,
            config: config.clone(),
        };
        let body = move || {
            let _ended = ended_tx;
            reader.read_until_closed(halves, &open_tx);
        };
        let reader = spawn_named("client-reader", STACK_BYTES_CONNECTION, body).map_err(failed)?;
        match open_rx.recv_timeout(config.handshake_timeout) {
            Ok(Ok(())) => Ok(Self {
                link,
                ended,
                reader: Some(reader),
            }),
            failure => {
                control.shutdown(Shutdown::Both);
                let panicked = reader.join().is_err();
                Err(match failure {
                    Ok(Err(HandshakeError::Status { code, body })) => refused(code, body),
                    Ok(Err(HandshakeError::Malformed(message))) => ClientError::Handshake { status: None, message },
                    Ok(Err(HandshakeError::Subprotocol(spoken))) => ClientError::Version { spoken },
                    Ok(Err(HandshakeError::Io(source))) => failed(source),
                    Err(RecvTimeoutError::Disconnected) if panicked => failed(io::Error::other("the reader panicked")),
                    Ok(Ok(())) | Err(_) => failed(io::Error::new(
                        io::ErrorKind::TimedOut,
                        format!("no answer within {:?}", config.handshake_timeout),
                    )),
                })
            }
        }
    }

    pub(super) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Says goodbye and waits until the server has, for a second at most. Idempotent.
    pub(super) fn close(&self) {
        self.link.say_goodbye();
        let _ended_or_timeout = self.ended.recv_timeout(CLOSE_PATIENCE);
        self.link.shut_down();
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.close();
        if let Some(reader) = self.reader.take() {
            // A panic has been reported by the panic hook, and to the queries as a lost connection.
            let _panicked = reader.join();
        }
    }
}

/// The reader: shakes hands, reads until the connection is over, and makes the next where a query is to survive that.
struct Reader {
    link: Arc<Link>,
    /// Disconnected when the client closes.
    closing: Receiver<Infallible>,
    dial: Option<Dial>,
    config: LinkConfig,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

/// A connection on which hands have been shaken.
struct Open {
    read: Box<dyn ReadHalf>,
    shaken: Shaken,
    frames: FrameWriter,
}

impl Reader {
    /// Ends when: the server closes or is gone for good, it breaks the protocol, or the client closes.
    fn read_until_closed(&mut self, halves: Halves, opened: &Sender<Result<(), HandshakeError>>) {
        let mut ending = Ending {
            link: Arc::clone(&self.link),
            end: None,
        };
        // Whoever waits for this one has an eye on the clock.
        let open = match self.shake_hands(halves, None) {
            Ok(open) => open,
            // Nobody listens any more once the time for the handshake is up.
            Err(error) => return opened.try_send(Err(error)).unwrap_or_default(),
        };
        let Open {
            mut read,
            mut shaken,
            frames,
        } = open;
        self.link.reconnected(frames, shaken.has_subprotocol);
        if opened.try_send(Ok(())).is_err() {
            return;
        }
        let mut backoff = Backoff::default();
        loop {
            let (end, n_messages) = self.read(read, shaken);
            if n_messages > 0 {
                backoff.reset();
            }
            let next = if may_go_on(&end) && self.link.has_survivors() {
                self.reconnect(end, &mut backoff)
            } else {
                Err(end)
            };
            let open = match next {
                Ok(open) => open,
                Err(end) => {
                    ending.end = Some(end);
                    return;
                }
            };
            (read, shaken) = (open.read, open.shaken);
            self.link.reconnected(open.frames, shaken.has_subprotocol);
        }
    }

    /// Blocks until the server has answered; each read for at most `patience`.
    fn shake_hands(&self, halves: Halves, patience: Option<Duration>) -> Result<Open, HandshakeError> {
        let Halves {
            mut read,
            mut write,
            control,
        } = halves;
        self.link.set_control(control);
        let LinkConfig {
            authority,
            path,
            token,
            coding,
            ..
        } = &self.config;
        let token = token.as_ref().map(Secret::expose);
        read.set_read_timeout(patience).map_err(HandshakeError::Io)?;
        let shaken = client_handshake(
            read.as_mut(),
            write.as_mut(),
            authority,
            path,
            token,
            *coding,
            protocol::SUBPROTOCOL,
        )?;
        read.set_read_timeout(None).map_err(HandshakeError::Io)?;
        let link = Arc::downgrade(&self.link);
        read.set_doorbell(Arc::new(move || {
            if let Some(link) = link.upgrade() {
                link.flush();
            }
        }));
        Ok(Open {
            read,
            shaken,
            frames: FrameWriter::new(write, Side::Client),
        })
    }

    /// Reads until the connection is over; returns why, and how many messages came besides a welcome that nobody has asked for.
    fn read(&self, read: Box<dyn ReadHalf>, shaken: Shaken) -> (ClientError, u64) {
        let Shaken {
            leftover,
            coding,
            has_subprotocol: _,
        } = shaken;
        let limits = InboundLimits {
            message_bytes_max: self.config.message_bytes_max,
            skipped_bytes_max: 0,
            fragments_max: usize::MAX,
            coding,
        };
        let interval = self.config.heartbeat_interval;
        let read = match PatientRead::new(read, Arc::clone(&self.link), interval, self.config.heartbeat_dead_after) {
            Ok(read) => Box::new(read),
            Err(error) => {
                let source = Some(Arc::new(error));
                return (ClientError::Lost { source }, 0);
            }
        };
        let mut fault = None;
        let mut n_messages = 0;
        let lane = Arc::clone(&self.link) as Arc<dyn ControlLane>;
        let (end, _read) = read_messages(read, leftover, Side::Client, limits, lane, |incoming| {
            n_messages += u64::from(!self.link.awaits_welcome());
            match self.link.take(&incoming, &self.closing) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    fault = Some(error);
                    ControlFlow::Break(())
                }
            }
        });
        (self.describe(end, fault), n_messages)
    }

    fn describe(&self, end: ReadEnd, fault: Option<Fault>) -> ClientError {
        match (end, fault) {
            (_, Some(Fault::Protocol(text))) => {
                self.link.send_close(Some(CloseCode::ProtocolError.number()), "");
                ClientError::Protocol(text)
            }
            (_, Some(Fault::Corrupt(text))) => {
                // What was not changed on its way comes again over a new connection.
                self.link.shut_down();
                let source = io::Error::new(io::ErrorKind::InvalidData, text);
                ClientError::Lost {
                    source: Some(Arc::new(source)),
                }
            }
            (ReadEnd::Closed, None) => match self.link.take_close().unwrap_or_default() {
                (Some(code), message) if DENIALS.contains(&code) => ClientError::Denied { message },
                (code, reason) => ClientError::Closed { code, reason },
            },
            // The transport was shut down by us.
            (ReadEnd::Gone(_), None) if self.link.is_closing() => ClientError::Closed {
                code: Some(CloseCode::Normal.number()),
                reason: "the client has closed".to_owned(),
            },
            (ReadEnd::Gone(source), None) => ClientError::Lost {
                source: source.map(Arc::new),
            },
            (ReadEnd::Protocol(text) | ReadEnd::Policy(text), None) => ClientError::Protocol(text),
            (ReadEnd::InvalidUtf8, None) => ClientError::Protocol("a text message is not UTF-8".to_owned()),
            (ReadEnd::NotDeflated, None) => ClientError::Protocol("a message cannot be inflated".to_owned()),
            (ReadEnd::TooBig, None) => ClientError::Protocol(format!(
                "a message has more than the {} bytes allowed",
                self.config.message_bytes_max
            )),
            (ReadEnd::Stopped, None) => ClientError::Lost { source: None },
        }
    }

    /// Makes the next connection.
    ///
    /// # Errors
    /// Why the one before is over, where there is no way to the next, the time is up, or the client closes; and where the server does not
    /// let this client in any more.
    fn reconnect(&mut self, lost: ClientError, backoff: &mut Backoff) -> Result<Open, ClientError> {
        if self.config.reconnect_for.is_zero() || self.dial.is_none() || self.link.is_abandoned() {
            return Err(lost);
        }
        log::debug!(error:% = lost; "connection lost; connecting anew");
        self.link.shut_down();
        self.link.disconnected(&lost);
        let deadline = clock::after(clock::now(), self.config.reconnect_for);
        while self.wait(backoff, deadline) {
            let Some(dial) = &mut self.dial else { break };
            let dialled = dial().and_then(Transport::split);
            let opened = dialled
                .map_err(HandshakeError::Io)
                .and_then(|halves| self.shake_hands(halves, Some(self.config.handshake_timeout)));
            match opened {
                Ok(open) => return Ok(open),
                Err(HandshakeError::Status { code, body }) if matches!(code, 401 | 403) => {
                    return Err(refused(code, body));
                }
                Err(error) => log::debug!(error:? = error; "no new connection yet"),
            }
        }
        Err(lost)
    }

    /// Waits for the next try. False where there is none. Woken by the client's close.
    fn wait(&self, backoff: &mut Backoff, deadline: Instant) -> bool {
        let [a, b, c, d, e, f, ..] = *Uuid::new_v4().as_bytes();
        let chance = u64::from_be_bytes([a, b, c, d, e, f, 0, 0]);
        let delay = backoff.next(chance);
        let is_closing = || self.closing.recv_timeout(delay) == Err(RecvTimeoutError::Disconnected);
        clock::now() + delay < deadline && !is_closing()
    }
}

/// Close codes of servers that do not let a client in, or not let it stay.
const DENIALS: [u16; 3] = [
    CloseCode::Unauthenticated.number(),
    CloseCode::Forbidden.number(),
    CloseCode::AuthTimeout.number(),
];

/// What an answer means that is no upgrade.
fn refused(status: u16, message: String) -> ClientError {
    match status {
        401 | 403 => ClientError::Denied { message },
        _ => ClientError::Handshake {
            status: Some(status),
            message,
        },
    }
}

/// Whether a next connection may have what this one had: it broke, or its server is being replaced.
fn may_go_on(end: &ClientError) -> bool {
    let restart = Some(CloseCode::ServiceRestart.number());
    matches!(end, ClientError::Lost { .. }) || matches!(end, ClientError::Closed { code, .. } if *code == restart)
}

/// Tells everybody that the reader has ended, also when it panics.
struct Ending {
    link: Arc<Link>,
    end: Option<ClientError>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        let panicked = || ClientError::Lost {
            source: Some(Arc::new(io::Error::other("the client's reader panicked"))),
        };
        self.link.finish(self.end.take().unwrap_or_else(panicked));
    }
}
