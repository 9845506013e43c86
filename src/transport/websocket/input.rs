//! Bytes of a transport as frames are read from them: headers, and payloads in pieces.
//!
//! Must not know what a frame is part of.

use std::io::{Cursor, ErrorKind};

use tungstenite::protocol::frame::FrameHeader;

use super::Side;
use super::reader::ReadEnd;
use crate::transport::ReadHalf;

/// Bytes read at once from a client. Resident for every connection, idle ones too, and a client's messages are short.
pub(super) const READ_BYTES_SERVER: usize = 4 * 1024;

/// Bytes read at once from a server: a client has few connections, and batches are long.
pub(super) const READ_BYTES_CLIENT: usize = 64 * 1024;

/// Bytes from the transport, a buffer at a time. Gives the end of the connection as an error.
pub(super) struct Input {
    read: Box<dyn ReadHalf>,
    read_bytes: usize,
    /// At first what is left over from the handshake, of any length; then `read_bytes`.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Input {
    pub(super) fn new(read: Box<dyn ReadHalf>, leftover: Vec<u8>, side: Side) -> Self {
        let read_bytes = match side {
            Side::Server => READ_BYTES_SERVER,
            Side::Client => READ_BYTES_CLIENT,
        };
        Self {
            read,
            read_bytes,
            start: 0,
            end: leftover.len(),
            buffer: leftover,
        }
    }

    /// Whether so many bytes of one frame are better read past the buffer.
    pub(super) fn is_better_passed(&self, n: usize) -> bool {
        self.is_empty() && n >= self.read_bytes
    }

    pub(super) fn into_read(self) -> Box<dyn ReadHalf> {
        self.read
    }

    /// Whether something is there that has not been taken.
    pub(super) fn has_more(&self) -> bool {
        !self.is_empty()
    }

    /// Bytes that are read at once.
    pub(super) fn read_bytes(&self) -> usize {
        self.read_bytes
    }

    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The next frame's header, the length of its payload, and its own; `None` where it is not there yet.
    pub(super) fn header(&mut self) -> Result<Option<(FrameHeader, u64, usize)>, ReadEnd> {
        let mut cursor = Cursor::new(&self.buffer[self.start..self.end]);
        let parsed = FrameHeader::parse(&mut cursor).map_err(|error| ReadEnd::Protocol(error.to_string()))?;
        Ok(parsed.map(|(header, len)| {
            let header_len = usize::try_from(cursor.position()).unwrap_or_default();
            self.start += header_len;
            (header, len, header_len)
        }))
    }

    /// At least one byte and at most `n` of what comes next.
    pub(super) fn piece(&mut self, n: usize) -> Result<&mut [u8], ReadEnd> {
        if self.is_empty() {
            self.refill()?;
        }
        let from = self.start;
        self.start = self.end.min(from.saturating_add(n));
        Ok(&mut self.buffer[from..self.start])
    }

    /// Reads behind what is still there: nothing, or the beginning of a header.
    pub(super) fn refill(&mut self) -> Result<(), ReadEnd> {
        let n_there = self.end - self.start;
        if self.buffer.len() == self.read_bytes {
            self.buffer.copy_within(self.start..self.end, 0);
        } else {
            let mut buffer = vec![0; self.read_bytes];
            buffer[..n_there].copy_from_slice(&self.buffer[self.start..self.end]);
            self.buffer = buffer;
        }
        (self.start, self.end) = (0, n_there);
        self.end += read_some(self.read.as_mut(), &mut self.buffer[n_there..])?;
        Ok(())
    }

    /// Reads past the buffer, which is empty.
    pub(super) fn read_into(&mut self, bytes: &mut [u8]) -> Result<usize, ReadEnd> {
        read_some(self.read.as_mut(), bytes)
    }
}

/// Blocks until there is at least one byte.
fn read_some(read: &mut dyn ReadHalf, bytes: &mut [u8]) -> Result<usize, ReadEnd> {
    loop {
        match read.read(bytes) {
            // `TimedOut` is not among them: a TCP socket says so when its peer no longer acknowledges anything.
            Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
            Ok(0) => return Err(ReadEnd::Gone(None)),
            Ok(n) => return Ok(n),
            Err(error) => return Err(ReadEnd::Gone(Some(error))),
        }
    }
}
