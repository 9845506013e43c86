//! Bytes in and out: what a connection runs over, and WebSocket framing on top of it.
//!
//! The only files that name tungstenite and rustls. Must not know what a message means.

pub(crate) mod http;
pub(crate) mod memory;
mod shared;
pub(crate) mod tcp;
#[cfg(feature = "tls")]
pub(crate) mod tls;
#[cfg(unix)]
pub(crate) mod unix;
pub(crate) mod websocket;

use std::io;
use std::net::{IpAddr, Shutdown};
use std::sync::Arc;
use std::time::Duration;

pub use memory::{MemoryTransport, memory_pair};
#[cfg(feature = "tls")]
pub use tls::{CertificateError, TlsConfig, TlsError};

/// A two-way stream of bytes that a connection can run over: one thread reads while another writes.
///
/// TCP and unix sockets are such; [`memory_pair`] makes two ends that meet in memory.
pub trait Transport: Send + 'static {
    /// The two directions and the means to end both.
    ///
    /// # Errors
    /// Whatever the system says; the transport is closed then.
    fn split(self: Box<Self>) -> io::Result<Halves>;

    /// Who is at the other end, for logs.
    fn peer(&self) -> String;

    /// The address of who is at the other end, for limits that go by address; `None`, as here unless overridden, where there is none,
    /// and no such limit then.
    fn peer_ip(&self) -> Option<IpAddr> {
        None
    }
}

/// A transport taken apart.
#[expect(missing_debug_implementations, reason = "three trait objects, nothing to show")]
#[non_exhaustive]
pub struct Halves {
    /// Bytes from the peer.
    pub read: Box<dyn ReadHalf>,
    /// Bytes to the peer.
    pub write: Box<dyn WriteHalf>,
    /// Ends both directions from any thread.
    pub control: Arc<dyn TransportControl>,
}

impl Halves {
    /// Puts the three together.
    #[must_use]
    pub fn new(read: Box<dyn ReadHalf>, write: Box<dyn WriteHalf>, control: Arc<dyn TransportControl>) -> Self {
        Self { read, write, control }
    }
}

/// The reading direction.
pub trait ReadHalf: io::Read + Send {
    /// How long one `read` may block before it fails with `WouldBlock` or `TimedOut`; `None` for ever. Takes effect with the
    /// next `read`.
    ///
    /// # Errors
    /// Whatever the system says.
    fn set_read_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()>;

    /// From now on another thread writes. Where a read leaves something to be written, as TLS does, it rings for that thread to
    /// [flush](io::Write::flush) the other half; until then it writes that itself. What never has any need not ring.
    fn set_doorbell(&mut self, _bell: Doorbell) {}

    /// How URLs begin of what is reached this way.
    fn scheme(&self) -> &'static str {
        "ws"
    }
}

/// Rings for the thread that writes. Neither blocks nor fails; rung without a lock held.
pub type Doorbell = Arc<dyn Fn() + Send + Sync>;

/// The writing direction.
pub trait WriteHalf: io::Write + Send {
    /// Says that nothing more will come, where the transport has a word for that besides being
    /// [shut down](TransportControl::shutdown). Blocks as a write does, and nothing is written after it.
    ///
    /// # Errors
    /// As of a write.
    fn finish(&mut self) -> io::Result<()> {
        self.flush()
    }
}

/// What any thread may do to a transport, at any time, without blocking.
pub trait TransportControl: Send + Sync {
    /// Ends one direction or both. A blocked `read` then returns 0, a blocked `write` fails with `BrokenPipe`. Errors are
    /// not reported: a transport that cannot be shut down is already gone.
    fn shutdown(&self, how: Shutdown);
}
