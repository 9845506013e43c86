//! WebSocket (RFC 6455) on two threads: a reader that never writes, and a writer that owns the wire.
//!
//! tungstenite reads: its writing half is redirected into the connection's outbox, so that an automatic pong or close never
//! reaches the socket behind the writer's back. Frames going out are put together here, header and payload in one vectored
//! write, without copying the payload. Must not know what messages mean.

mod handshake;
mod reader;
mod writer;

pub(crate) use handshake::{HandshakeError, UpgradeRefusal, accept_response, client_handshake};
pub(crate) use reader::{ControlLane, InboundLimits, Incoming, ReadEnd, read_messages};
pub(crate) use writer::{FrameWriter, MessageKind};

/// Whose end this is: clients mask what they send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Server,
    Client,
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
