//! A TLS connection on two threads: one reads while another writes.
//!
//! rustls has one state for both directions, so there is one lock around it; it is held while bytes are encrypted or decrypted, and
//! never while anybody waits for the transport. What either direction has for the wire is taken out under the lock by whoever holds
//! the wire, and written in that order. Must not know certificates, or what is said.
//!
//! # Who writes
//! Until hands are shaken, whoever reads also writes, and there is only one thread. Later reading may still leave something to be
//! written, an alert or an answer to a request for new keys: the reader then rings, and the writer sends it. The reader itself never
//! waits for the peer to take anything.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};

use super::error::TlsError;
use crate::clock;
use crate::transport::http::refuse;
use crate::transport::{Doorbell, Halves, ReadHalf, Transport, WriteHalf};

/// Bytes read at once from the transport: a client's messages are short, a server's are long.
const READ_BYTES_SERVER: usize = 4 * 1024;
const READ_BYTES_CLIENT: usize = 32 * 1024;

/// The buffer for records going out is kept from write to write up to this size: an idle connection holds no more.
const OUT_BYTES_KEPT: usize = 4 * 1024;

/// What somebody is told who speaks plain HTTP.
const PLAIN_HTTP: &str = "this port speaks TLS: ask for https:// here, or wss://";

/// Whose end of TLS this is, and with what.
pub(super) enum Begin {
    Server(Arc<ServerConfig>),
    Client(Arc<ClientConfig>, ServerName<'static>),
}

/// TLS over another transport.
///
/// Hands are shaken inside the first reads, whose time-out is one for all of it; what is written before that, up to 64 KiB, waits
/// for it. A peer that ends without TLS's own word for the end makes a read fail with `UnexpectedEof`: somebody may have cut off
/// what it said.
pub(crate) struct TlsTransport {
    inner: Box<dyn Transport>,
    begin: Begin,
}

impl TlsTransport {
    pub(super) fn new(inner: Box<dyn Transport>, begin: Begin) -> Self {
        Self { inner, begin }
    }
}

impl Transport for TlsTransport {
    fn split(self: Box<Self>) -> io::Result<Halves> {
        let Self { inner, begin } = *self;
        let peer = inner.peer();
        let (connection, side) = match begin {
            Begin::Server(config) => (ServerConnection::new(config).map(Connection::Server), Side::Server),
            Begin::Client(config, name) => (
                ClientConnection::new(config, name).map(Connection::Client),
                Side::Client,
            ),
        };
        let connection = connection.map_err(|error| TlsError::from(error).into_io())?;
        let Halves { read, write, control } = inner.split()?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                connection,
                wire: Wire::Free(write),
            }),
        });
        let read = TlsRead {
            inner: read,
            shared: Arc::clone(&shared),
            side,
            buffer: Vec::new(),
            start: 0,
            end: 0,
            timeout: None,
            timeout_set: None,
            bell: None,
            shaking: Some(Shaking {
                peer,
                anything_came: false,
            }),
        };
        let write = TlsWrite {
            shared,
            out: Vec::new(),
        };
        Ok(Halves::new(Box::new(read), Box::new(write), control))
    }

    fn peer(&self) -> String {
        self.inner.peer()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Server,
    Client,
}

/// What both directions share.
struct Shared {
    state: Mutex<State>,
}

struct State {
    connection: Connection,
    wire: Wire,
}

/// The transport's writing half.
enum Wire {
    Free(Box<dyn WriteHalf>),
    /// Somebody writes, and looks for more before it is free again.
    Taken,
    /// A record may have gone out in part: nothing can follow.
    Broken,
}

impl Shared {
    /// Writes what there is for the wire. Blocks on the transport, without the lock. Where somebody else is writing, that one sees
    /// to it.
    fn send<'a>(&'a self, mut state: MutexGuard<'a, State>, out: &mut Vec<u8>) -> io::Result<()> {
        while state.connection.wants_write() {
            let mut wire = match mem::replace(&mut state.wire, Wire::Taken) {
                Wire::Free(wire) => wire,
                Wire::Taken => return Ok(()),
                Wire::Broken => {
                    state.wire = Wire::Broken;
                    return Err(ErrorKind::BrokenPipe.into());
                }
            };
            out.clear();
            let mut taken = Ok(0);
            while state.connection.wants_write() && taken.is_ok() {
                taken = state.connection.write_tls(out);
            }
            drop(state);
            let written = taken.and_then(|_| wire.write_all(out)).and_then(|()| wire.flush());
            let after = match &written {
                Ok(()) => Wire::Free(wire),
                Err(_) => {
                    drop(wire);
                    Wire::Broken
                }
            };
            state = self.state.lock();
            state.wire = after;
            written?;
        }
        Ok(())
    }

    /// Writes bytes that are not TLS, to a peer that does not speak it either.
    fn send_plain(&self, bytes: &[u8]) -> io::Result<()> {
        let wire = mem::replace(&mut self.state.lock().wire, Wire::Broken);
        match wire {
            Wire::Free(mut wire) => wire.write_all(bytes).and_then(|()| wire.finish()),
            Wire::Taken | Wire::Broken => Ok(()),
        }
    }
}

/// The writing direction.
struct TlsWrite {
    shared: Arc<Shared>,
    /// Records on their way.
    out: Vec<u8>,
}

impl Write for TlsWrite {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    /// Takes at most what rustls has room for, 64 KiB, and blocks until the transport has taken that.
    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut state = self.shared.state.lock();
        let taken = state.connection.writer().write_vectored(slices);
        // Also where the connection has failed: the peer is told why.
        let sent = self.shared.send(state, &mut self.out);
        taken.and_then(|n| sent.map(|()| n))
    }

    fn flush(&mut self) -> io::Result<()> {
        let sent = self.shared.send(self.shared.state.lock(), &mut self.out);
        if self.out.capacity() > OUT_BYTES_KEPT {
            self.out = Vec::new();
        }
        sent
    }
}

impl WriteHalf for TlsWrite {
    fn finish(&mut self) -> io::Result<()> {
        self.shared.state.lock().connection.send_close_notify();
        self.flush()
    }
}

/// The reading direction.
struct TlsRead {
    inner: Box<dyn ReadHalf>,
    shared: Arc<Shared>,
    side: Side,
    /// Bytes that have come, of which those from `start` to `end` are still to be decrypted.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    timeout: Option<Duration>,
    /// What the transport's own time-out is.
    timeout_set: Option<Duration>,
    /// Rung where something is to be written; without one, the reader writes.
    bell: Option<Doorbell>,
    /// Until hands are shaken.
    shaking: Option<Shaking>,
}

/// A connection on which hands are being shaken.
struct Shaking {
    peer: String,
    anything_came: bool,
}

impl Read for TlsRead {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        let read = self.read_in_time(into);
        if let (Err(error), Some(Shaking { peer, .. })) = (&read, &self.shaking) {
            log::debug!(peer = peer, error:% = error; "no TLS");
        }
        read
    }
}

impl ReadHalf for TlsRead {
    fn set_read_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.timeout = timeout;
        Ok(())
    }

    fn set_doorbell(&mut self, bell: Doorbell) {
        self.bell = Some(bell);
    }

    fn scheme(&self) -> &'static str {
        "wss"
    }
}

impl TlsRead {
    fn read_in_time(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if let Some(n) = self.decrypted(into)? {
            return Ok(n);
        }
        // One read of ours may take many of the transport's: the time-out is for all of them together.
        let until = self.timeout.map(|timeout| clock::after(clock::now(), timeout));
        let mut timeout = self.timeout;
        loop {
            self.fill(timeout)?;
            if let Some(n) = self.decrypted(into)? {
                return Ok(n);
            }
            timeout = match until.map(|until: Instant| until.saturating_duration_since(clock::now())) {
                Some(left) if left.is_zero() => return Err(self.timed_out(ErrorKind::TimedOut.into())),
                left => left,
            };
        }
    }

    /// What has come as far as it can be decrypted; `None` where more has to come first.
    fn decrypted(&mut self, into: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            let mut state = self.shared.state.lock();
            let State { connection, .. } = &mut *state;
            match connection.reader().read(into) {
                Ok(n) => return Ok(Some(n)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Err(truncated()),
                Err(error) => return Err(error),
            }
            if self.start == self.end {
                return Ok(None);
            }
            let n = connection.read_tls(&mut &self.buffer[self.start..self.end])?;
            // Of what comes after the peer's last word nothing is taken.
            self.start = if n == 0 { self.end } else { self.start + n };
            let processed = connection.process_new_packets();
            if !connection.is_handshaking() {
                self.shaking = None;
            }
            match &self.bell {
                Some(bell) if connection.wants_write() => {
                    drop(state);
                    bell();
                }
                Some(_) => drop(state),
                None => {
                    let sent = self.shared.send(state, &mut Vec::new());
                    // Where both fail, the peer's fault is the cause.
                    if processed.is_ok() {
                        sent?;
                    }
                }
            }
            if let Err(error) = processed {
                return Err(TlsError::from(error).into_io());
            }
        }
    }

    /// Waits for more from the transport.
    fn fill(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        if self.bell.is_none() {
            // A client speaks first.
            self.shared.send(self.shared.state.lock(), &mut Vec::new())?;
        }
        if timeout != self.timeout_set {
            self.inner.set_read_timeout(timeout)?;
            self.timeout_set = timeout;
        }
        if self.buffer.is_empty() {
            self.buffer = vec![0; self.read_bytes()];
        }
        let n = match self.inner.read(&mut self.buffer) {
            Ok(n) => n,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Err(self.timed_out(error));
            }
            Err(error) => return Err(error),
        };
        (self.start, self.end) = (0, n);
        if n == 0 {
            if self.shaking.is_some() {
                return Err(io::Error::new(
                    ErrorKind::UnexpectedEof,
                    "the other end went away while hands were shaken",
                ));
            }
            let mut state = self.shared.state.lock();
            state.connection.read_tls(&mut io::empty())?;
        }
        self.check_first()
    }

    fn read_bytes(&self) -> usize {
        match self.side {
            Side::Server => READ_BYTES_SERVER,
            Side::Client => READ_BYTES_CLIENT,
        }
    }

    /// Whether what has come first of all is TLS.
    fn check_first(&mut self) -> io::Result<()> {
        // RFC 8446 section 5.1.
        const ALERT: u8 = 21;
        const HANDSHAKE: u8 = 22;
        let (Some(shaking), Some(first)) = (&mut self.shaking, self.buffer.first()) else {
            return Ok(());
        };
        if mem::replace(&mut shaking.anything_came, true) || matches!(*first, ALERT | HANDSHAKE) {
            return Ok(());
        }
        match self.side {
            Side::Server if first.is_ascii_uppercase() => {
                let response = refuse("400 Bad Request", "", PLAIN_HTTP, false);
                self.shared.send_plain(&response)?;
            }
            // Who has been told in clear text cannot be told in TLS.
            Side::Server => return Ok(()),
            Side::Client => {}
        }
        Err(TlsError::NotTls.into_io())
    }

    /// A time-out is for the caller to deal with, but not while hands are shaken: those are withdrawn.
    fn timed_out(&self, error: io::Error) -> io::Error {
        if self.shaking.is_some() {
            return io::Error::new(ErrorKind::ConnectionAborted, "shaking hands took too long");
        }
        error
    }
}

fn truncated() -> io::Error {
    io::Error::new(
        ErrorKind::UnexpectedEof,
        "the connection ended without TLS's word for the end",
    )
}
