//! The reading side of a WebSocket: messages under limits, and the control frames that the reader owes the peer.
//!
//! Never writes to the transport. Must not know what messages mean, or when a pong goes out.

use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

use super::input::Input;
use super::{CONTROL_BYTES_MAX, Coding, MessageKind, Side, apply_mask};
use crate::deflate::{InflateError, Inflater, reserve};
use crate::transport::ReadHalf;

/// The buffer that a message was put together in is kept for the next up to this size.
const MESSAGE_BYTES_KEPT_SERVER: usize = 4 * 1024;
const MESSAGE_BYTES_KEPT_CLIENT: usize = 1024 * 1024;

/// Bytes of a long frame that are read at once, straight to where the message is put together.
const DIRECT_BYTES_MAX: usize = 64 * 1024;

/// Bytes that the frames of one message may have beyond what the message may: headers, empty fragments, and empty blocks of a deflated
/// one. A peer that sends empty fragments for ever is cut off here.
pub(super) const FRAMING_BYTES_MAX: usize = 16 * 1024;

/// Where the reader leaves the control frames that it owes the peer. Nothing here may block.
pub(crate) trait ControlLane: Send + Sync {
    /// A pong that answers a ping.
    fn pong(&self, payload: &[u8]);

    /// A close that answers the peer's, or names its fault; nothing goes out after it. Where this end has closed first, the
    /// peer's answer arrives here too, and is to be forgotten.
    fn close(&self, code: Option<u16>, reason: &str);

    /// A ping or a pong has come: asked before anything else is done about it. Where it is one too many, what the peer is told.
    fn admit_control(&self) -> Result<(), String> {
        Ok(())
    }

    /// The reader is about to wait for the rest of a message: once for each message that does not come in one piece.
    fn rest_is_awaited(&self) {}

    /// That message is whole.
    fn rest_is_there(&self) {}
}

/// What is taken from a peer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InboundLimits {
    /// The largest message, however many frames it comes in, and whatever it was deflated to.
    pub(crate) message_bytes_max: usize,
    /// Bytes of the frames of a message that is larger and not deflated, up to which it is read and forgotten; 0 for not at all.
    pub(crate) skipped_bytes_max: usize,
    /// The most frames of one message.
    pub(crate) fragments_max: usize,
    /// What messages may be on the wire.
    pub(crate) coding: Coding,
}

/// A message that came in.
#[derive(Debug)]
pub(crate) enum Incoming<'a> {
    Text(&'a str),
    Binary(&'a [u8]),
    /// A message that is larger than it may be has come, and is forgotten.
    TooLong,
    /// The peer is alive.
    Pong,
}

/// Why reading ended.
#[derive(Debug)]
pub(crate) enum ReadEnd {
    /// The peer closed.
    Closed,
    /// The caller wanted no more.
    Stopped,
    /// The connection is gone without a close: with an error, or at an end of file.
    Gone(Option<io::Error>),
    /// The peer broke the protocol, and has been told 1002.
    Protocol(String),
    /// A text message was not UTF-8; told 1007.
    InvalidUtf8,
    /// A deflated message cannot be inflated; told 1007.
    NotDeflated,
    /// A message was too big; told 1009.
    TooBig,
    /// The peer keeps to the protocol and not to the limits; told 1008.
    Policy(String),
}

impl fmt::Display for ReadEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the peer closed"),
            Self::Stopped => f.write_str("stopped"),
            Self::Gone(None) => f.write_str("the peer is gone"),
            Self::Gone(Some(error)) => write!(f, "the peer is gone: {error}"),
            Self::Protocol(text) => write!(f, "the peer broke the protocol: {text}"),
            Self::InvalidUtf8 => f.write_str("a text message was not UTF-8"),
            Self::NotDeflated => f.write_str("a deflated message cannot be inflated"),
            Self::TooBig => f.write_str("a message was too big"),
            Self::Policy(text) => write!(f, "the peer went beyond a limit: {text}"),
        }
    }
}

impl From<InflateError> for ReadEnd {
    fn from(error: InflateError) -> Self {
        match error {
            InflateError::Corrupt => Self::NotDeflated,
            InflateError::TooBig => Self::TooBig,
        }
    }
}

/// Reads messages until the connection ends or `on_message` breaks.
///
/// Blocks on the transport; woken by the peer and by shutting the transport down. A read timeout that is still set only makes
/// it look again. Gives the transport's half back, for whatever is still to be read of a connection that ends.
pub(crate) fn read_messages(
    read: Box<dyn ReadHalf>,
    leftover: Vec<u8>,
    side: Side,
    limits: InboundLimits,
    lane: Arc<dyn ControlLane>,
    mut on_message: impl FnMut(Incoming<'_>) -> ControlFlow<()>,
) -> (ReadEnd, Box<dyn ReadHalf>) {
    let mut messages = Messages::new(Input::new(read, leftover, side), side, limits);
    let end = loop {
        let flow = match messages.next(lane.as_ref()) {
            Ok(Received::Message(MessageKind::Binary)) => on_message(Incoming::Binary(&messages.message)),
            Ok(Received::Message(MessageKind::Text)) => match std::str::from_utf8(&messages.message) {
                Ok(text) => on_message(Incoming::Text(text)),
                Err(_) => break ReadEnd::InvalidUtf8,
            },
            Ok(Received::TooLong) => on_message(Incoming::TooLong),
            Ok(Received::Pong) => on_message(Incoming::Pong),
            Err(end) => break end,
        };
        if flow.is_break() {
            break ReadEnd::Stopped;
        }
    };
    match &end {
        ReadEnd::Protocol(text) => lane.close(Some(1002), text),
        ReadEnd::InvalidUtf8 => lane.close(Some(1007), "a text message is not UTF-8"),
        ReadEnd::NotDeflated => lane.close(Some(1007), "a deflated message cannot be inflated"),
        ReadEnd::TooBig => {
            let bytes_max = limits.message_bytes_max;
            let text = format!("a message has more than the {bytes_max} bytes allowed, or comes in too many pieces");
            lane.close(Some(1009), &text);
        }
        ReadEnd::Policy(text) => lane.close(Some(1008), text),
        ReadEnd::Closed | ReadEnd::Stopped | ReadEnd::Gone(_) => {}
    }
    (end, messages.input.into_read())
}

/// What has come in whole.
enum Received {
    /// A message, in [`Messages::message`].
    Message(MessageKind),
    /// A message that was too large, and is [forgotten](InboundLimits::skipped_bytes_max).
    TooLong,
    Pong,
}

/// A message of which some frames have come.
struct Partial {
    kind: MessageKind,
    /// Of a deflated one. Made for the message and dropped with it: an idle connection holds none.
    inflater: Option<Inflater>,
    /// Bytes of its frames.
    framed_bytes: usize,
    n_fragments: usize,
    /// Whether it has been waited for.
    is_awaited: bool,
    /// Bytes of text that are known to be UTF-8.
    valid_bytes: usize,
    /// Whether it is too large, and what is still to come of it is read and forgotten.
    is_skipped: bool,
}

impl Partial {
    fn await_rest(&mut self, lane: &dyn ControlLane) {
        if !std::mem::replace(&mut self.is_awaited, true) {
            lane.rest_is_awaited();
        }
    }
}

/// Puts messages together from frames.
struct Messages {
    input: Input,
    side: Side,
    limits: InboundLimits,
    /// The message that came last, or as much as has come of the next.
    message: Vec<u8>,
    partial: Option<Partial>,
}

impl Messages {
    fn new(input: Input, side: Side, limits: InboundLimits) -> Self {
        Self {
            input,
            side,
            limits,
            message: Vec::new(),
            partial: None,
        }
    }

    /// Reads on until a message is whole or something else has come that the caller must know of.
    fn next(&mut self, lane: &dyn ControlLane) -> Result<Received, ReadEnd> {
        if self.partial.is_none() {
            self.forget_message();
        }
        loop {
            let (header, len, header_len) = self.header(lane)?;
            if header.rsv2 || header.rsv3 {
                return Err(broken("a reserved bit is set"));
            }
            match header.opcode {
                OpCode::Control(control) => {
                    let payload = self.control_payload(&header, len)?;
                    if matches!(control, Control::Ping | Control::Pong) {
                        lane.admit_control().map_err(ReadEnd::Policy)?;
                    }
                    match control {
                        Control::Ping => lane.pong(&payload),
                        Control::Pong => return Ok(Received::Pong),
                        Control::Close => return Err(close(&payload, lane)),
                        Control::Reserved(_) => return Err(broken("an unknown opcode")),
                    }
                }
                OpCode::Data(data) => {
                    if let Some(received) = self.data_frame(&header, data, len, header_len, lane)? {
                        return Ok(received);
                    }
                }
            }
        }
    }

    fn header(&mut self, lane: &dyn ControlLane) -> Result<(FrameHeader, u64, usize), ReadEnd> {
        loop {
            if let Some(parsed) = self.input.header()? {
                return Ok(parsed);
            }
            if let Some(partial) = &mut self.partial {
                partial.await_rest(lane);
            }
            self.input.refill()?;
        }
    }

    fn forget_message(&mut self) {
        let kept_bytes = match self.side {
            Side::Server => MESSAGE_BYTES_KEPT_SERVER,
            Side::Client => MESSAGE_BYTES_KEPT_CLIENT,
        };
        if self.message.capacity() > kept_bytes {
            self.message = Vec::new();
        }
        self.message.clear();
    }

    fn check_mask(&self, header: &FrameHeader) -> Result<[u8; 4], ReadEnd> {
        match (self.side, header.mask) {
            (Side::Server, Some(key)) => Ok(key),
            (Side::Client, None) => Ok([0; 4]),
            (Side::Server, None) => Err(broken("a frame of a client is not masked")),
            (Side::Client, Some(_)) => Err(broken("a frame of a server is masked")),
        }
    }

    fn control_payload(&mut self, header: &FrameHeader, len: u64) -> Result<Vec<u8>, ReadEnd> {
        if header.rsv1 {
            return Err(broken("a reserved bit of a control frame is set"));
        }
        if !header.is_final {
            return Err(broken("a control frame comes in fragments"));
        }
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if len > CONTROL_BYTES_MAX {
            return Err(broken("a control frame has more than 125 bytes"));
        }
        let key = self.check_mask(header)?;
        let mut payload = Vec::with_capacity(len);
        while payload.len() < len {
            let piece = self.input.piece(len - payload.len())?;
            payload.extend_from_slice(piece);
        }
        apply_mask(&mut payload, key);
        Ok(payload)
    }

    /// Takes in a frame of a message; returns what came of the message when that is whole.
    fn data_frame(
        &mut self,
        header: &FrameHeader,
        data: Data,
        len: u64,
        header_len: usize,
        lane: &dyn ControlLane,
    ) -> Result<Option<Received>, ReadEnd> {
        let mut partial = match (data, self.partial.take()) {
            (Data::Continue, Some(_)) if header.rsv1 => return Err(broken("a fragment says that it is deflated")),
            (Data::Continue, Some(partial)) => partial,
            (Data::Continue, None) => return Err(broken("a continuation of nothing")),
            (Data::Text, None) => self.begin(MessageKind::Text, header)?,
            (Data::Binary, None) => self.begin(MessageKind::Binary, header)?,
            (Data::Text | Data::Binary, Some(_)) => return Err(broken("a message begins inside another")),
            (Data::Reserved(_), _) => return Err(broken("an unknown opcode")),
        };
        let bytes_max = self.limits.message_bytes_max;
        let len = usize::try_from(len).map_err(|_| ReadEnd::TooBig)?;
        partial.framed_bytes = partial.framed_bytes.saturating_add(header_len).saturating_add(len);
        if partial.inflater.is_none() && len > bytes_max.saturating_sub(self.message.len()) {
            partial.is_skipped = true;
            self.message = Vec::new();
        }
        let framed_bytes_max = if partial.is_skipped {
            self.limits.skipped_bytes_max
        } else {
            bytes_max.saturating_add(FRAMING_BYTES_MAX)
        };
        if partial.framed_bytes > framed_bytes_max {
            return Err(ReadEnd::TooBig);
        }
        let key = self.check_mask(header)?;
        partial.n_fragments += 1;
        let fragments_max = self.limits.fragments_max;
        // One that is not the last is followed by another.
        if partial.n_fragments + usize::from(!header.is_final) > fragments_max {
            return Err(ReadEnd::Policy(format!(
                "a message comes in more than {fragments_max} frames"
            )));
        }
        self.payload(&mut partial, key, len, lane)?;
        if !header.is_final {
            check_text_so_far(&mut partial, &self.message)?;
            self.partial = Some(partial);
            return Ok(None);
        }
        if partial.is_awaited {
            lane.rest_is_there();
        }
        if let Some(inflater) = partial.inflater {
            inflater.finish(&mut self.message, bytes_max)?;
        }
        Ok(Some(if partial.is_skipped {
            Received::TooLong
        } else {
            Received::Message(partial.kind)
        }))
    }

    fn begin(&self, kind: MessageKind, header: &FrameHeader) -> Result<Partial, ReadEnd> {
        let inflater = match (header.rsv1, self.limits.coding) {
            (false, _) => None,
            (true, Coding::Deflate) => Some(Inflater::new()),
            (true, Coding::Plain) => return Err(broken("a message is deflated, which nobody has agreed to")),
        };
        Ok(Partial {
            kind,
            inflater,
            framed_bytes: 0,
            n_fragments: 0,
            is_awaited: false,
            valid_bytes: 0,
            is_skipped: false,
        })
    }

    /// Appends the payload of one frame to the message.
    fn payload(
        &mut self,
        partial: &mut Partial,
        mut key: [u8; 4],
        len: usize,
        lane: &dyn ControlLane,
    ) -> Result<(), ReadEnd> {
        let bytes_max = self.limits.message_bytes_max;
        let mut n_left = len;
        while n_left > 0 {
            if !self.input.has_more() {
                partial.await_rest(lane);
            }
            let n = match &mut partial.inflater {
                None if partial.is_skipped => self.input.piece(n_left)?.len(),
                None if self.input.is_better_passed(n_left) => {
                    let from = self.message.len();
                    // Room for as much again as has come: what a header claims takes no memory until it is there.
                    let n = n_left.min(DIRECT_BYTES_MAX).min(from.max(self.input.read_bytes()));
                    reserve(&mut self.message, n, bytes_max);
                    self.message.resize(from + n, 0);
                    let n = self.input.read_into(&mut self.message[from..])?;
                    self.message.truncate(from + n);
                    apply_mask(&mut self.message[from..], key);
                    n
                }
                inflater => {
                    let piece = self.input.piece(n_left)?;
                    apply_mask(piece, key);
                    match inflater {
                        Some(inflater) => inflater.inflate(piece, &mut self.message, bytes_max)?,
                        None => {
                            reserve(&mut self.message, piece.len(), bytes_max);
                            self.message.extend_from_slice(piece);
                        }
                    }
                    piece.len()
                }
            };
            key.rotate_left(n % 4);
            n_left -= n;
            // What is wrong already is not waited for; a whole message is looked at as a whole.
            if n_left > 0 {
                check_text_so_far(partial, &self.message)?;
            }
        }
        Ok(())
    }
}

/// Whether what is to be text may become UTF-8 with what follows.
fn check_text_so_far(partial: &mut Partial, text: &[u8]) -> Result<(), ReadEnd> {
    if partial.kind == MessageKind::Binary || partial.is_skipped {
        return Ok(());
    }
    let new = &text[partial.valid_bytes..];
    match std::str::from_utf8(new) {
        Ok(_) => partial.valid_bytes = text.len(),
        Err(error) if error.error_len().is_none() => partial.valid_bytes += error.valid_up_to(),
        Err(_) => return Err(ReadEnd::InvalidUtf8),
    }
    Ok(())
}

/// The peer closes: it gets its answer.
fn close(payload: &[u8], lane: &dyn ControlLane) -> ReadEnd {
    match payload {
        [] => lane.close(None, ""),
        [_] => return broken("half a close code"),
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            let Ok(reason) = std::str::from_utf8(reason) else {
                return ReadEnd::InvalidUtf8;
            };
            if CloseCode::from(code).is_allowed() {
                lane.close(Some(code), reason);
            } else {
                lane.close(Some(1002), "a close code that may not be sent");
            }
        }
    }
    ReadEnd::Closed
}

fn broken(text: &str) -> ReadEnd {
    ReadEnd::Protocol(text.to_owned())
}
