//! WebSocket (RFC 6455) on two threads: a reader that never writes, and a writer that owns the wire.
//!
//! tungstenite shakes hands and reads the headers of frames; putting messages together, and the pongs and closes that come of
//! them, are the reader's, because a `WebSocket` of tungstenite's writes behind the writer's back and knows no deflated messages.
//! Frames going out are put together here too, header and payload in one vectored write, without copying the payload. Must not
//! know what messages mean.

#[cfg(test)]
mod deflate_test;
mod extension;
mod handshake;
mod input;
mod reader;
#[cfg(test)]
mod reader_test;
mod writer;

pub(crate) use handshake::{HandshakeError, Shaken, Upgrade, UpgradeRefusal, accept_response, client_handshake};
pub(crate) use reader::{ControlLane, InboundLimits, Incoming, ReadEnd, read_messages};
pub(crate) use writer::{FrameWriter, MessageKind, Payload};

/// Whose end this is: clients mask what they send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Server,
    Client,
}

/// What messages may be on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
    /// As they are.
    Plain,
    /// Deflated too, each by itself: permessage-deflate (RFC 7692) without context takeover.
    Deflate,
}

// RFC 6455 section 5.2.
const OPCODE_TEXT: u8 = 1;
const OPCODE_BINARY: u8 = 2;
const OPCODE_CLOSE: u8 = 8;
const OPCODE_PING: u8 = 9;
const OPCODE_PONG: u8 = 10;

/// Longest payload of a control frame (RFC 6455 section 5.5).
const CONTROL_BYTES_MAX: usize = 125;

/// Masks what is plain, or the other way round (RFC 6455 section 5.3).
fn apply_mask(bytes: &mut [u8], key: [u8; 4]) {
    for chunk in bytes.chunks_mut(key.len()) {
        for (byte, key) in chunk.iter_mut().zip(key) {
            *byte ^= key;
        }
    }
}
