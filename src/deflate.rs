//! Messages deflated each on its own, as permessage-deflate without context takeover has them (RFC 7692 section 7.2), and inflated
//! under a limit.
//!
//! Must not know frames, connections or streams.

use std::fmt;
use std::sync::Arc;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use crate::sync::Mutex;

/// Shorter messages are sent as they are: there is nothing to gain.
pub(crate) const PLAIN_BYTES_MAX: usize = 127;

/// The fastest level. Higher ones make rows a third smaller and take three times as long, which a worker has better uses for.
const LEVEL: u32 = 1;

/// What one deflater holds, at the largest window: zlib's own figure for its tables.
pub(crate) const DEFLATER_BYTES: usize = 264 * 1024;

/// What one inflater holds: its window and its tables.
pub(crate) const INFLATER_BYTES: usize = 48 * 1024;

/// Deflaters kept for the next message. Beyond that, one that is given back is dropped: making another costs little beside the
/// message it is made for.
pub(crate) const DEFLATERS_KEPT_MAX: usize = 8;

/// Bytes that come out of a step.
const STEP_BYTES: usize = 8 * 1024;

/// What ends a flushed block (RFC 1951 section 3.2.4): left out on the wire.
const FLUSH_TAIL: [u8; 4] = [0, 0, 0xFF, 0xFF];

/// The base-2 logarithm of how far back a deflated message refers to itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WindowBits(u8);

impl WindowBits {
    pub(crate) const MAX: Self = Self(15);

    /// `None` for what no deflater here can keep to; zlib's cannot for 8.
    pub(crate) fn new(bits: u8) -> Option<Self> {
        (9..=15).contains(&bits).then_some(Self(bits))
    }

    pub(crate) fn bits(self) -> u8 {
        self.0
    }
}

/// A deflated message, as it goes into a frame.
#[derive(Debug)]
pub(crate) struct Deflated {
    bytes: Vec<u8>,
    window_bits: WindowBits,
}

impl Deflated {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// Deflaters that are not in use, shared by all threads of a server. A thread has one for as long as a message takes; an idle
/// connection has none.
#[derive(Default)]
pub(crate) struct Deflaters(Mutex<Vec<(WindowBits, Compress)>>);

impl fmt::Debug for Deflaters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deflaters").finish_non_exhaustive()
    }
}

impl Deflaters {
    fn take(&self, window_bits: WindowBits) -> Compress {
        let mut kept = self.0.lock();
        // The one used last is the one still in the processor's cache.
        if let Some(at) = kept.iter().rposition(|(bits, _)| *bits == window_bits) {
            return kept.swap_remove(at).1;
        }
        drop(kept);
        Compress::new_with_window_bits(Compression::new(LEVEL), false, window_bits.0)
    }

    fn put(&self, window_bits: WindowBits, mut deflater: Compress) {
        deflater.reset();
        let mut kept = self.0.lock();
        // The oldest goes: it may have a window that nobody asks for any more.
        let unwanted = (kept.len() == DEFLATERS_KEPT_MAX).then(|| kept.remove(0));
        kept.push((window_bits, deflater));
        drop(kept);
        drop(unwanted);
    }
}

/// One peer's way to have messages deflated.
#[derive(Debug, Clone)]
pub(crate) struct Deflate {
    deflaters: Arc<Deflaters>,
    window_bits: WindowBits,
}

impl Deflate {
    pub(crate) fn new(deflaters: Arc<Deflaters>, window_bits: WindowBits) -> Self {
        Self { deflaters, window_bits }
    }

    /// `None` where the message is better sent as it is.
    pub(crate) fn deflate(&self, plain: &[u8]) -> Option<Deflated> {
        if plain.len() <= PLAIN_BYTES_MAX {
            return None;
        }
        let mut deflater = self.deflaters.take(self.window_bits);
        let bytes = deflate(&mut deflater, plain);
        self.deflaters.put(self.window_bits, deflater);
        Some(Deflated {
            bytes: bytes?,
            window_bits: self.window_bits,
        })
    }

    /// Whether the peer can inflate what was deflated for another.
    pub(crate) fn understands(&self, deflated: &Deflated) -> bool {
        deflated.window_bits <= self.window_bits
    }
}

/// `None` where nothing is gained.
fn deflate(deflater: &mut Compress, plain: &[u8]) -> Option<Vec<u8>> {
    let mut step = [0; STEP_BYTES];
    let mut out = Vec::with_capacity(plain.len() / 3);
    let mut rest = plain;
    loop {
        let (in_before, out_before) = (deflater.total_in(), deflater.total_out());
        deflater.compress(rest, &mut step, FlushCompress::Sync).ok()?;
        let n_in = usize::try_from(deflater.total_in() - in_before).ok()?;
        let n_out = usize::try_from(deflater.total_out() - out_before).ok()?;
        rest = rest.get(n_in..)?;
        out.extend_from_slice(step.get(..n_out)?);
        if out.len() >= plain.len() + FLUSH_TAIL.len() {
            return None;
        }
        // The last step is the one that leaves room.
        if rest.is_empty() && n_out < step.len() {
            break;
        }
    }
    let len = out.strip_suffix(&FLUSH_TAIL)?.len();
    out.truncate(len);
    out.shrink_to_fit();
    (out.len() < plain.len()).then_some(out)
}

/// Why a message cannot be inflated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InflateError {
    /// It is not deflated, or refers to what was not in it.
    Corrupt,
    /// More comes out than may.
    TooBig,
}

/// Inflates one message, piece by piece.
#[derive(Debug)]
pub(crate) struct Inflater(Decompress);

impl Inflater {
    pub(crate) fn new() -> Self {
        Self(Decompress::new(false))
    }

    /// Appends what comes of `input` to `out`, which never gets more than `bytes_max`.
    pub(crate) fn inflate(&mut self, input: &[u8], out: &mut Vec<u8>, bytes_max: usize) -> Result<(), InflateError> {
        let mut step = [0; STEP_BYTES];
        let mut rest = input;
        loop {
            let (in_before, out_before) = (self.0.total_in(), self.0.total_out());
            let status = self.0.decompress(rest, &mut step, FlushDecompress::Sync);
            let status = status.map_err(|_| InflateError::Corrupt)?;
            let n_in = usize::try_from(self.0.total_in() - in_before).map_err(|_| InflateError::Corrupt)?;
            let n_out = usize::try_from(self.0.total_out() - out_before).map_err(|_| InflateError::Corrupt)?;
            if n_out > bytes_max.saturating_sub(out.len()) {
                return Err(InflateError::TooBig);
            }
            let inflated = step.get(..n_out).ok_or(InflateError::Corrupt)?;
            reserve(out, n_out, bytes_max);
            out.extend_from_slice(inflated);
            rest = rest.get(n_in..).ok_or(InflateError::Corrupt)?;
            match status {
                // A block may say that it is the last, and others follow all the same (RFC 7692 section 7.2.3.4).
                Status::StreamEnd => self.0.reset(false),
                Status::Ok | Status::BufError if n_in == 0 && n_out == 0 && !rest.is_empty() => {
                    return Err(InflateError::Corrupt);
                }
                Status::Ok | Status::BufError => {}
            }
            if rest.is_empty() && n_out < step.len() {
                return Ok(());
            }
        }
    }

    /// The message has no more pieces.
    pub(crate) fn finish(mut self, out: &mut Vec<u8>, bytes_max: usize) -> Result<(), InflateError> {
        self.inflate(&FLUSH_TAIL, out, bytes_max)
    }
}

/// Makes room for `n` bytes: grows by doubling, but not beyond `bytes_max` in all.
pub(crate) fn reserve(out: &mut Vec<u8>, n: usize, bytes_max: usize) {
    if out.capacity() - out.len() < n {
        let doubled = out.len().saturating_mul(2).min(bytes_max);
        out.reserve_exact(doubled.saturating_sub(out.len()).max(n));
    }
}
