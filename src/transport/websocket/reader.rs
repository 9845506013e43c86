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
const FRAMING_BYTES_MAX: usize = 16 * 1024;

/// Where the reader leaves the control frames that it owes the peer. Nothing here may block.
pub(crate) trait ControlLane: Send + Sync {
    /// A pong that answers a ping.
    fn pong(&self, payload: &[u8]);

    /// A close that answers the peer's, or names its fault; nothing goes out after it. Where this end has closed first, the
    /// peer's answer arrives here too, and is to be forgotten.
    fn close(&self, code: Option<u16>, reason: &str);
}

/// What is taken from a peer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InboundLimits {
    /// The largest message, however many frames it comes in, and whatever it was deflated to.
    pub(crate) message_bytes_max: usize,
    /// What messages may be on the wire.
    pub(crate) coding: Coding,
}

/// A message that came in.
#[derive(Debug)]
pub(crate) enum Incoming<'a> {
    Text(&'a str),
    Binary(&'a [u8]),
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
    /// A message was too big, or in too many pieces; told 1009.
    TooBig,
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
        ReadEnd::Closed | ReadEnd::Stopped | ReadEnd::Gone(_) => {}
    }
    (end, messages.input.into_read())
}

/// What has come in whole.
enum Received {
    /// A message, in [`Messages::message`].
    Message(MessageKind),
    Pong,
}

/// A message of which some frames have come.
struct Partial {
    kind: MessageKind,
    /// Of a deflated one. Made for the message and dropped with it: an idle connection holds none.
    inflater: Option<Inflater>,
    /// Bytes of its frames.
    framed_bytes: usize,
    /// Bytes of text that are known to be UTF-8.
    valid_bytes: usize,
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
            let (header, len, header_len) = self.input.header()?;
            if header.rsv2 || header.rsv3 {
                return Err(broken("a reserved bit is set"));
            }
            match header.opcode {
                OpCode::Control(control) => {
                    let payload = self.control_payload(&header, len)?;
                    match control {
                        Control::Ping => lane.pong(&payload),
                        Control::Pong => return Ok(Received::Pong),
                        Control::Close => return Err(close(&payload, lane)),
                        Control::Reserved(_) => return Err(broken("an unknown opcode")),
                    }
                }
                OpCode::Data(data) => {
                    if let Some(kind) = self.data_frame(&header, data, len, header_len)? {
                        return Ok(Received::Message(kind));
                    }
                }
            }
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

    /// Takes in a frame of a message; returns the message's kind when that is whole.
    fn data_frame(
        &mut self,
        header: &FrameHeader,
        data: Data,
        len: u64,
        header_len: usize,
    ) -> Result<Option<MessageKind>, ReadEnd> {
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
        let is_too_big = partial.framed_bytes > bytes_max.saturating_add(FRAMING_BYTES_MAX)
            || (partial.inflater.is_none() && len > bytes_max.saturating_sub(self.message.len()));
        if is_too_big {
            return Err(ReadEnd::TooBig);
        }
        let key = self.check_mask(header)?;
        self.payload(&mut partial, key, len)?;
        if !header.is_final {
            self.partial = Some(partial);
            return Ok(None);
        }
        if let Some(inflater) = partial.inflater {
            inflater.finish(&mut self.message, bytes_max)?;
        }
        Ok(Some(partial.kind))
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
            valid_bytes: 0,
        })
    }

    /// Appends the payload of one frame to the message.
    fn payload(&mut self, partial: &mut Partial, mut key: [u8; 4], len: usize) -> Result<(), ReadEnd> {
        let bytes_max = self.limits.message_bytes_max;
        let mut n_left = len;
        while n_left > 0 {
            let n = match &mut partial.inflater {
                None if self.input.is_better_passed(n_left) => {
                    let from = self.message.len();
                    let n = n_left.min(DIRECT_BYTES_MAX);
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
            if partial.kind == MessageKind::Text && n_left > 0 {
                check_text_so_far(partial, &self.message)?;
            }
        }
        Ok(())
    }
}

/// Whether the text may become UTF-8 with what follows.
fn check_text_so_far(partial: &mut Partial, text: &[u8]) -> Result<(), ReadEnd> {
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

    use std::collections::VecDeque;
    use std::io::{ErrorKind, Read};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use parking_lot::Mutex;
    use tungstenite::Message;
    use tungstenite::protocol::{Role, WebSocket};

    use super::super::input::{READ_BYTES_CLIENT, READ_BYTES_SERVER};
    use super::*;
    use crate::thread::{STACK_BYTES_CONNECTION, spawn_named};
    use crate::transport::memory::memory_pair;

    const MAX: usize = 64 * 1024;
    const LIMITS: InboundLimits = InboundLimits {
        message_bytes_max: MAX,
        coding: Coding::Plain,
    };

    /// All that a reader did, in order.
    #[derive(Debug, PartialEq, Eq, Clone)]
    enum Event {
        Text(String),
        Binary(Vec<u8>),
        Pong,
        LanePong(Vec<u8>),
        LaneClose(Option<u16>, String),
    }

    #[derive(Default)]
    struct Events(Mutex<Vec<Event>>);

    impl ControlLane for Events {
        fn pong(&self, payload: &[u8]) {
            self.0.lock().push(Event::LanePong(payload.to_vec()));
        }

        fn close(&self, code: Option<u16>, reason: &str) {
            self.0.lock().push(Event::LaneClose(code, reason.to_owned()));
        }
    }

    impl Events {
        fn take(&self, incoming: &Incoming<'_>) {
            self.0.lock().push(match incoming {
                Incoming::Text(text) => Event::Text((*text).to_owned()),
                Incoming::Binary(bytes) => Event::Binary(bytes.to_vec()),
                Incoming::Pong => Event::Pong,
            });
        }
    }

    /// A transport that gives what the test says, step by step, and then the end of file.
    #[derive(Default)]
    struct Script(VecDeque<Result<Vec<u8>, ErrorKind>>);

    impl Read for Script {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            match self.0.pop_front() {
                None => Ok(0),
                Some(Err(kind)) => Err(kind.into()),
                Some(Ok(mut bytes)) => {
                    let n = bytes.len().min(buffer.len());
                    buffer[..n].copy_from_slice(&bytes[..n]);
                    let rest = bytes.split_off(n);
                    if !rest.is_empty() {
                        self.0.push_front(Ok(rest));
                    }
                    Ok(n)
                }
            }
        }
    }

    impl ReadHalf for Script {
        fn set_read_timeout(&mut self, _: Option<Duration>) -> io::Result<()> {
            Ok(())
        }
    }

    fn read_script(script: Script, leftover: &[u8], side: Side) -> (Vec<Event>, ReadEnd) {
        let events = Arc::new(Events::default());
        let lane = Arc::clone(&events) as Arc<dyn ControlLane>;
        let (end, _read) = read_messages(Box::new(script), leftover.to_vec(), side, LIMITS, lane, |incoming| {
            events.take(&incoming);
            ControlFlow::Continue(())
        });
        let events = std::mem::take(&mut *events.0.lock());
        (events, end)
    }

    fn read_bytes(bytes: &[u8], side: Side) -> (Vec<Event>, ReadEnd) {
        read_script(Script([Ok(bytes.to_vec())].into()), &[], side)
    }

    /// A frame as the peer of a server, or of a client, sends it.
    fn frame_to(side: Side, first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first];
        let mask_bit = if side == Side::Server { 0x80 } else { 0 };
        match payload.len() {
            len @ 0..=125 => frame.push(mask_bit | len as u8),
            len @ 126..=0xFFFF => {
                frame.push(mask_bit | 126);
                frame.extend_from_slice(&(len as u16).to_be_bytes());
            }
            len => {
                frame.push(mask_bit | 127);
                frame.extend_from_slice(&(len as u64).to_be_bytes());
            }
        }
        let start = frame.len() + if side == Side::Server { 4 } else { 0 };
        if side == Side::Server {
            frame.extend_from_slice(&[0x37, 0xFA, 0x21, 0x3D]);
        }
        frame.extend_from_slice(payload);
        if side == Side::Server {
            apply_mask(&mut frame[start..], [0x37, 0xFA, 0x21, 0x3D]);
        }
        frame
    }

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        frame_to(Side::Server, first, payload)
    }

    fn close_of(events: &[Event]) -> Option<u16> {
        match events.last() {
            Some(Event::LaneClose(code, _)) => *code,
            other => panic!("the lane was not closed: {other:?}"),
        }
    }

    const SIDES: [Side; 2] = [Side::Server, Side::Client];

    #[test]
    fn messages_come_whole_however_they_are_cut() {
        for side in SIDES {
            let frame = |first, payload: &[u8]| frame_to(side, first, payload);
            let bytes = [
                frame(0x81, "one é".as_bytes()),
                frame(0x01, b"tw\xc3"),
                frame(0x89, b"in between"),
                frame(0x80, b"\xb6"),
                frame(0x82, &[0, 255]),
                frame(0x8A, b"alive"),
                frame(0x81, b""),
                frame(0x88, b"\x03\xe8bye"),
            ]
            .concat();
            let expected = [
                Event::Text("one é".to_owned()),
                Event::LanePong(b"in between".to_vec()),
                Event::Text("twö".to_owned()),
                Event::Binary(vec![0, 255]),
                Event::Pong,
                Event::Text(String::new()),
                Event::LaneClose(Some(1000), "bye".to_owned()),
            ];
            for step in [1, 2, 3, 5, 8, 13, bytes.len()] {
                let script = Script(bytes.chunks(step).map(|chunk| Ok(chunk.to_vec())).collect());
                let (events, end) = read_script(script, &[], side);
                assert_eq!(events, expected, "{step} bytes at a time");
                assert!(matches!(end, ReadEnd::Closed), "{end:?}");
            }
            for cut in 0..=bytes.len() {
                let script = Script([Ok(bytes[cut..].to_vec())].into());
                let (events, end) = read_script(script, &bytes[..cut], side);
                assert_eq!(events, expected, "{cut} bytes left over from the handshake");
                assert!(matches!(end, ReadEnd::Closed), "{end:?}");
            }
        }
    }

    #[test]
    fn every_ping_has_its_pong_in_order() {
        for side in SIDES {
            let pings: Vec<u8> = (0..100).flat_map(|n| frame_to(side, 0x89, &[n; 125])).collect();
            let (events, end) = read_bytes(&pings, side);
            let expected: Vec<Event> = (0..100).map(|n| Event::LanePong(vec![n; 125])).collect();
            assert_eq!(events, expected);
            assert!(matches!(end, ReadEnd::Gone(None)), "{end:?}");
        }
    }

    #[track_caller]
    fn check_close(payload: &[u8], expected: Option<u16>, reason: &str) {
        for side in SIDES {
            let mut bytes = frame_to(side, 0x88, payload);
            bytes.extend(frame_to(side, 0x81, b"nobody reads this"));
            let (events, end) = read_bytes(&bytes, side);
            assert_eq!(events, [Event::LaneClose(expected, reason.to_owned())], "{side:?}");
            assert!(matches!(end, ReadEnd::Closed), "{side:?}: {end:?}");
        }
    }

    #[test]
    fn a_close_is_answered_and_ends_reading() {
        check_close(b"", None, "");
        check_close(b"\x03\xe8", Some(1000), "");
        check_close(b"\x0f\xa0see you", Some(4000), "see you");
    }

    #[track_caller]
    fn check_fault(what: &str, bytes: &[u8], code: u16, side: Side) {
        let (events, end) = read_bytes(bytes, side);
        assert_eq!(close_of(&events), Some(code), "{what}");
        assert_eq!(events.len(), 1, "{what}: {events:?}");
        let fits = match end {
            ReadEnd::Protocol(_) => code == 1002,
            ReadEnd::InvalidUtf8 | ReadEnd::NotDeflated => code == 1007,
            ReadEnd::TooBig => code == 1009,
            ReadEnd::Closed | ReadEnd::Stopped | ReadEnd::Gone(_) => false,
        };
        assert!(fits, "{what}: {end:?}");
    }

    #[test]
    fn faults_are_named_to_the_peer() {
        for side in SIDES {
            let frame = |first, payload: &[u8]| frame_to(side, first, payload);
            let fault = |what, bytes: &[u8], code| check_fault(what, bytes, code, side);
            for bit in [0x40, 0x20, 0x10] {
                fault("a reserved bit", &frame(0x81 | bit, b"x"), 1002);
            }
            for opcode in [3, 7, 11, 15] {
                fault("an unknown opcode", &frame(0x80 | opcode, b""), 1002);
            }
            fault("a ping in fragments", &frame(0x09, b""), 1002);
            fault("a long ping", &frame(0x89, &[0; 126]), 1002);
            fault("a continuation of nothing", &frame(0x80, b"x"), 1002);
            let two_starts = [frame(0x01, b"x"), frame(0x81, b"y")].concat();
            fault("a start in the middle", &two_starts, 1002);
            fault("half a close code", &frame(0x88, b"\x03"), 1002);
            let other = if side == Side::Server {
                Side::Client
            } else {
                Side::Server
            };
            fault("wrongly masked", &frame_to(other, 0x81, b"x"), 1002);
            fault("not UTF-8", &frame(0x81, b"\xff"), 1007);
            fault("a surrogate", &frame(0x81, b"\xed\xa0\x80"), 1007);
            let fragments = [frame(0x01, b"\xc3"), frame(0x80, b"x")].concat();
            fault("not UTF-8 across fragments", &fragments, 1007);
            fault("half a character", &frame(0x81, b"\xc3"), 1007);
            fault("a reason that is not UTF-8", &frame(0x88, b"\x03\xe8\xff"), 1007);
            fault("too big", &frame(0x82, &vec![0; MAX + 1]), 1009);
            fault(
                "a length beyond all memory",
                b"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff\0\0\0\0",
                1009,
            );
            let sum = [frame(0x02, &vec![0; MAX]), frame(0x80, b"x")].concat();
            fault("too big in all", &sum, 1009);
        }
    }

    #[test]
    fn a_close_code_that_may_not_be_sent_is_answered_with_1002() {
        for code in [0_u16, 999, 1004, 1005, 1006, 1016, 2999, 5000, 65_535] {
            let (events, end) = read_bytes(&frame(0x88, &code.to_be_bytes()), Side::Server);
            assert_eq!(close_of(&events), Some(1002), "{code}");
            assert!(matches!(end, ReadEnd::Closed), "{code}: {end:?}");
        }
    }

    #[test]
    fn a_message_may_be_as_long_as_the_limit() {
        for side in SIDES {
            let whole = frame_to(side, 0x82, &vec![7; MAX]);
            let halves = [
                frame_to(side, 0x02, &vec![7; MAX / 2]),
                frame_to(side, 0x80, &vec![7; MAX / 2]),
            ]
            .concat();
            // Several in a row: what one has used up is not held against the next.
            let (events, _) = read_bytes(&[whole.clone(), halves, whole].concat(), side);
            assert_eq!(events, vec![Event::Binary(vec![7; MAX]); 3]);
        }
    }

    /// Gives the same bytes for ever and counts them.
    struct Endless {
        bytes: Vec<u8>,
        at: usize,
        n_given: Arc<AtomicUsize>,
    }

    impl Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            for byte in buffer.iter_mut() {
                *byte = self.bytes[self.at % self.bytes.len()];
                self.at += 1;
            }
            self.n_given.fetch_add(buffer.len(), Ordering::Relaxed);
            Ok(buffer.len())
        }
    }

    impl ReadHalf for Endless {
        fn set_read_timeout(&mut self, _: Option<Duration>) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn empty_fragments_without_end_are_cut_off() {
        for (side, read_bytes) in [(Side::Server, READ_BYTES_SERVER), (Side::Client, READ_BYTES_CLIENT)] {
            for opening in [frame_to(side, 0x01, b""), frame_to(side, 0x02, b"x")] {
                let n_given = Arc::new(AtomicUsize::new(0));
                let endless = Endless {
                    bytes: frame_to(side, 0x00, b""),
                    at: 0,
                    n_given: Arc::clone(&n_given),
                };
                let events = Arc::new(Events::default());
                let lane = Arc::clone(&events) as Arc<dyn ControlLane>;
                let (end, _) = read_messages(Box::new(endless), opening, side, LIMITS, lane, |incoming| {
                    panic!("no message comes of this: {incoming:?}")
                });
                assert!(matches!(end, ReadEnd::TooBig), "{end:?}");
                assert_eq!(close_of(&events.0.lock()), Some(1009));
                let n_given = n_given.load(Ordering::Relaxed);
                let limit = MAX + FRAMING_BYTES_MAX;
                assert!(n_given <= limit + read_bytes, "{n_given} bytes read, {limit} allowed");
            }
        }
    }

    #[test]
    fn control_frames_for_ever_are_no_flood() {
        let pings = frame(0x89, &[0; 125]).repeat(4 * MAX / 125);
        let (events, end) = read_bytes(&pings, Side::Server);
        assert_eq!(events.len(), 4 * MAX / 125);
        assert!(matches!(end, ReadEnd::Gone(None)), "{end:?}");
    }

    #[test]
    fn what_is_no_end_is_no_end() {
        let bytes = frame(0x81, b"patience");
        let mut steps = VecDeque::new();
        for byte in &bytes {
            steps.push_back(Err(ErrorKind::Interrupted));
            steps.push_back(Err(ErrorKind::WouldBlock));
            steps.push_back(Ok(vec![*byte]));
        }
        let (events, end) = read_script(Script(steps), &[], Side::Server);
        assert_eq!(events, [Event::Text("patience".to_owned())]);
        assert!(matches!(end, ReadEnd::Gone(None)), "{end:?}");
    }

    #[test]
    fn a_connection_that_is_gone_says_how() {
        for kind in [ErrorKind::ConnectionReset, ErrorKind::TimedOut] {
            // In the middle of a frame: the part of a message is not a message.
            let script = Script([Ok(frame(0x81, b"cut")[..8].to_vec()), Err(kind)].into());
            let (events, end) = read_script(script, &[], Side::Server);
            assert_eq!(events, []);
            assert!(
                matches!(&end, ReadEnd::Gone(Some(error)) if error.kind() == kind),
                "{end:?}"
            );
        }
        let (events, end) = read_bytes(&frame(0x81, b"cut")[..8], Side::Server);
        assert_eq!(events, []);
        assert!(matches!(end, ReadEnd::Gone(None)), "{end:?}");
    }

    #[test]
    fn whoever_breaks_gets_nothing_more_and_the_transport_back() {
        let script = Script([Ok(frame(0x81, b"stop")), Ok(b"unread".to_vec())].into());
        let lane = Arc::new(Events::default());
        let mut n_messages = 0;
        let (end, mut read) = read_messages(Box::new(script), Vec::new(), Side::Server, LIMITS, lane, |_| {
            n_messages += 1;
            ControlFlow::Break(())
        });
        assert!(matches!(end, ReadEnd::Stopped), "{end:?}");
        assert_eq!(n_messages, 1);
        let mut rest = Vec::new();
        read.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"unread");
    }

    /// tungstenite, with its own framing and masking, at the other end of a small pipe.
    #[test]
    fn another_implementation_is_understood() {
        const SIZES: [usize; 8] = [0, 1, 125, 126, 65_535, 65_536, 65_537, 1024 * 1024];
        for side in SIDES {
            let (here, there) = memory_pair(8 * 1024);
            let role = match side {
                Side::Server => Role::Client,
                Side::Client => Role::Server,
            };
            let peer = spawn_named("test", STACK_BYTES_CONNECTION, move || {
                let mut socket = WebSocket::from_raw_socket(there, role, None);
                for len in SIZES {
                    socket.send(Message::text("x".repeat(len))).unwrap();
                    socket.send(Message::Ping(len.to_be_bytes().to_vec().into())).unwrap();
                    socket.send(Message::binary(vec![1; len])).unwrap();
                }
                socket.close(None).unwrap();
            });
            let events = Arc::new(Events::default());
            let lane = Arc::clone(&events) as Arc<dyn ControlLane>;
            let halves = crate::transport::Transport::split(Box::new(here)).unwrap();
            let limits = InboundLimits {
                message_bytes_max: 1024 * 1024,
                coding: Coding::Plain,
            };
            let (end, _read) = read_messages(halves.read, Vec::new(), side, limits, lane, |incoming| {
                events.take(&incoming);
                ControlFlow::Continue(())
            });
            assert!(matches!(end, ReadEnd::Closed), "{end:?}");
            let mut expected = Vec::new();
            for len in SIZES {
                expected.push(Event::Text("x".repeat(len)));
                expected.push(Event::LanePong(len.to_be_bytes().to_vec()));
                expected.push(Event::Binary(vec![1; len]));
            }
            expected.push(Event::LaneClose(None, String::new()));
            assert!(*events.0.lock() == expected, "{side:?}: events differ");
            peer.unwrap().join().unwrap();
        }
    }
}
