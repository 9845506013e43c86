//! WebSocket (RFC 6455) on two threads: a reader that never writes, and a writer that owns the wire.
//!
//! tungstenite reads: its writing half is redirected into the connection's outbox, so that an automatic pong or close never
//! reaches the socket behind the writer's back. Frames going out are put together here, header and payload in one vectored
//! write, without copying the payload. Must not know what messages mean.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use tungstenite::error::{CapacityError, ProtocolError};
use tungstenite::handshake::client::generate_key;
use tungstenite::handshake::derive_accept_key;
use tungstenite::handshake::server::{Request, create_response, write_response};
use tungstenite::protocol::{Role, WebSocket, WebSocketConfig};
use tungstenite::{Error, Message};
use uuid::Uuid;

use super::ReadHalf;

/// Bytes that tungstenite reads at once. Resident for every connection, idle ones too.
const READ_BUFFER_BYTES: usize = 4096;

/// Bytes of frames beyond a whole message that may come in without any message coming of them: headers, and control frames.
/// A peer that sends empty fragments for ever is cut off here.
const FRAMING_BYTES_MAX: usize = 16 * 1024;

/// Slices that one vectored write may have: `IOV_MAX` on Linux.
const SLICES_MAX: usize = 1024;

/// Longest payload of a control frame, and the reason that fits one beside its code (RFC 6455 section 5.5).
const REASON_BYTES_MAX: usize = 123;

const OPCODE_TEXT: u8 = 1;
const OPCODE_BINARY: u8 = 2;
const OPCODE_CLOSE: u8 = 8;
const OPCODE_PONG: u8 = 10;

/// Where the reader leaves the control frames that it owes the peer. Nothing here may block.
pub(crate) trait ControlLane: Send + Sync {
    /// A pong that answers a ping.
    fn pong(&self, payload: &[u8]);

    /// A close that answers the peer's, or names its fault; nothing goes out after it.
    fn close(&self, code: Option<u16>, reason: &str);
}

/// Whose end this is: clients mask what they send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Server,
    Client,
}

/// What is taken from a peer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InboundLimits {
    /// The largest message, however many frames it comes in.
    pub(crate) message_bytes_max: usize,
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
    /// The connection is gone without a close.
    Gone(Option<io::Error>),
    /// The peer broke the protocol, and has been told 1002.
    Protocol(String),
    /// A text message was not UTF-8; told 1007.
    InvalidUtf8,
    /// A message was too big; told 1009.
    TooBig,
}

/// Reads messages until the connection ends or `on_message` breaks. Blocks on the transport; woken by the peer and by shutting
/// the transport down. Gives the transport's half back, for whatever is still to be read of a connection that ends.
pub(crate) fn read_messages(
    read: Box<dyn ReadHalf>,
    leftover: Vec<u8>,
    side: Side,
    limits: InboundLimits,
    lane: Arc<dyn ControlLane>,
    mut on_message: impl FnMut(Incoming<'_>) -> ControlFlow<()>,
) -> (ReadEnd, Box<dyn ReadHalf>) {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(READ_BUFFER_BYTES)
        .max_message_size(Some(limits.message_bytes_max))
        .max_frame_size(Some(limits.message_bytes_max));
    let role = match side {
        Side::Server => Role::Server,
        Side::Client => Role::Client,
    };
    let bytes_max = limits.message_bytes_max + FRAMING_BYTES_MAX;
    let redirected = Redirected {
        read,
        lane: Arc::clone(&lane),
        bytes_since_message: leftover.len(),
        bytes_max,
    };
    let mut socket = WebSocket::from_partially_read(redirected, leftover, role, Some(config));
    let end = loop {
        let flow = match socket.read() {
            Ok(Message::Text(text)) => on_message(Incoming::Text(text.as_str())),
            Ok(Message::Binary(bytes)) => on_message(Incoming::Binary(&bytes)),
            Ok(Message::Pong(_)) => on_message(Incoming::Pong),
            Ok(Message::Ping(_) | Message::Close(_) | Message::Frame(_)) => ControlFlow::Continue(()),
            Err(error) => break read_end(error, lane.as_ref()),
        };
        if flow.is_break() {
            break ReadEnd::Stopped;
        }
        socket.get_mut().bytes_since_message = 0;
    };
    (end, socket.into_inner().read)
}

fn read_end(error: Error, lane: &dyn ControlLane) -> ReadEnd {
    #[allow(clippy::wildcard_enum_match_arm)] // the rest cannot come of reading, and would end it all the same
    match error {
        Error::ConnectionClosed | Error::AlreadyClosed => ReadEnd::Closed,
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => ReadEnd::Gone(None),
        Error::Protocol(error) => {
            lane.close(Some(1002), &error.to_string());
            ReadEnd::Protocol(error.to_string())
        }
        Error::Utf8(_) => {
            lane.close(Some(1007), "a text message is not UTF-8");
            ReadEnd::InvalidUtf8
        }
        Error::Capacity(CapacityError::MessageTooLong { max_size, .. }) => {
            lane.close(Some(1009), &format!("a message has at most {max_size} bytes"));
            ReadEnd::TooBig
        }
        Error::Io(error) if error.kind() == ErrorKind::FileTooLarge => {
            lane.close(Some(1009), "too many fragments");
            ReadEnd::TooBig
        }
        Error::Io(error) => ReadEnd::Gone(Some(error)),
        other => ReadEnd::Gone(Some(io::Error::other(other.to_string()))),
    }
}

/// What tungstenite believes to be the socket: reads are real, writes go to the lane.
struct Redirected {
    read: Box<dyn ReadHalf>,
    lane: Arc<dyn ControlLane>,
    bytes_since_message: usize,
    bytes_max: usize,
}

impl Read for Redirected {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.bytes_since_message > self.bytes_max {
            // Any kind that no transport uses for itself: it comes back out of `socket.read()`.
            return Err(ErrorKind::FileTooLarge.into());
        }
        loop {
            match self.read.read(buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(n) => {
                    self.bytes_since_message += n;
                    return Ok(n);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Write for Redirected {
    /// Takes whole control frames, as tungstenite writes them with a write buffer of 0; it has masked a client's.
    fn write(&mut self, frames: &[u8]) -> io::Result<usize> {
        let mut rest = frames;
        while let [first, second, after @ ..] = rest {
            let len = usize::from(second & 0x7F);
            let (mask, after) = match after.split_first_chunk::<4>() {
                Some((mask, after)) if second & 0x80 != 0 => (*mask, after),
                _ => ([0; 4], after),
            };
            let Some((payload, after)) = after.split_at_checked(len) else {
                return Err(ErrorKind::InvalidData.into());
            };
            let payload: Vec<u8> = payload
                .iter()
                .zip(mask.iter().cycle())
                .map(|(byte, key)| byte ^ key)
                .collect();
            match first & 0x0F {
                OPCODE_PONG => self.lane.pong(&payload),
                OPCODE_CLOSE => {
                    let (code, reason) = match payload.split_first_chunk::<2>() {
                        Some((code, reason)) => (Some(u16::from_be_bytes(*code)), reason),
                        None => (None, &[][..]),
                    };
                    self.lane.close(code, &String::from_utf8_lossy(reason));
                }
                _ => return Err(ErrorKind::InvalidData.into()),
            }
            rest = after;
        }
        Ok(frames.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The kind of a data message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MessageKind {
    Text,
    Binary,
}

impl MessageKind {
    const fn opcode(self) -> u8 {
        match self {
            Self::Text => OPCODE_TEXT,
            Self::Binary => OPCODE_BINARY,
        }
    }
}

/// Puts frames on the wire; the only one that does. After an error the connection is of no use any more: a frame may have gone
/// out in part.
pub(crate) struct FrameWriter {
    write: Box<dyn Write + Send>,
    side: Side,
    headers: Vec<([u8; 14], usize)>,
}

impl FrameWriter {
    pub(crate) fn new(write: Box<dyn Write + Send>, side: Side) -> Self {
        Self {
            write,
            side,
            headers: Vec::new(),
        }
    }

    /// Writes one text message. Blocks until the transport has taken it.
    pub(crate) fn write_text(&mut self, payload: &[u8]) -> io::Result<()> {
        self.write_messages(&[(MessageKind::Text, payload)])
    }

    /// Writes each payload as one message of its kind: headers and payloads in as few writes as the transport takes them.
    /// Blocks until it has taken them all.
    pub(crate) fn write_messages(&mut self, messages: &[(MessageKind, &[u8])]) -> io::Result<()> {
        if self.side == Side::Client {
            return messages
                .iter()
                .try_for_each(|(kind, payload)| self.write_masked(kind.opcode(), payload));
        }
        for messages in messages.chunks(SLICES_MAX / 2) {
            self.headers.clear();
            let headers = messages
                .iter()
                .map(|(kind, payload)| header(kind.opcode(), payload.len(), None));
            self.headers.extend(headers);
            let mut slices = Vec::with_capacity(2 * messages.len());
            for ((header, len), (_, payload)) in self.headers.iter().zip(messages) {
                slices.push(IoSlice::new(&header[..*len]));
                slices.push(IoSlice::new(payload));
            }
            write_all_vectored(self.write.as_mut(), &mut slices)?;
        }
        self.write.flush()
    }

    pub(crate) fn write_pong(&mut self, payload: &[u8]) -> io::Result<()> {
        self.write_control(OPCODE_PONG, payload)
    }

    /// Writes a close frame; a reason that does not fit is cut.
    pub(crate) fn write_close(&mut self, code: Option<u16>, reason: &str) -> io::Result<()> {
        let mut payload = Vec::new();
        if let Some(code) = code {
            payload.extend_from_slice(&code.to_be_bytes());
            payload.extend_from_slice(&reason.as_bytes()[..reason.floor_char_boundary(REASON_BYTES_MAX)]);
        }
        self.write_control(OPCODE_CLOSE, &payload)
    }

    fn write_control(&mut self, opcode: u8, payload: &[u8]) -> io::Result<()> {
        debug_assert!(payload.len() <= REASON_BYTES_MAX + 2, "a control frame is short");
        if self.side == Side::Client {
            return self.write_masked(opcode, payload);
        }
        let (header, len) = header(opcode, payload.len(), None);
        let mut slices = [IoSlice::new(&header[..len]), IoSlice::new(payload)];
        write_all_vectored(self.write.as_mut(), &mut slices)?;
        self.write.flush()
    }

    fn write_masked(&mut self, opcode: u8, payload: &[u8]) -> io::Result<()> {
        // Any unpredictable key will do (RFC 6455 section 10.3); the first bytes of a random UUID are four random bytes.
        let random = Uuid::new_v4().into_bytes();
        let key = [random[0], random[1], random[2], random[3]];
        let (header, len) = header(opcode, payload.len(), Some(key));
        let mut frame = Vec::with_capacity(len + payload.len());
        frame.extend_from_slice(&header[..len]);
        frame.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
        self.write.write_all(&frame)?;
        self.write.flush()
    }
}

/// A frame's header (RFC 6455 section 5.2), final and whole, and its length.
fn header(opcode: u8, payload_len: usize, mask: Option<[u8; 4]>) -> ([u8; 14], usize) {
    let mut header = [0; 14];
    header[0] = 0x80 | opcode;
    let mut len = match payload_len {
        0..=125 => {
            header[1] = payload_len as u8;
            2
        }
        126..=0xFFFF => {
            header[1] = 126;
            header[2..4].copy_from_slice(&(payload_len as u16).to_be_bytes());
            4
        }
        _ => {
            header[1] = 127;
            header[2..10].copy_from_slice(&(payload_len as u64).to_be_bytes());
            10
        }
    };
    if let Some(mask) = mask {
        header[1] |= 0x80;
        header[len..len + 4].copy_from_slice(&mask);
        len += 4;
    }
    (header, len)
}

fn write_all_vectored(write: &mut dyn Write, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    // Skips empty slices at the front, which would otherwise read as "nothing written".
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        match write.write_vectored(slices) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => IoSlice::advance_slices(&mut slices, n),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The response that upgrades this request, or what is wrong with the request.
pub(crate) fn accept_response(path: &str, headers: &[(&str, &[u8])]) -> Result<Vec<u8>, String> {
    let mut builder = Request::builder().method("GET").uri(path);
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    let request = builder.body(()).map_err(|error| error.to_string())?;
    let response = create_response(&request).map_err(|error| error.to_string())?;
    let mut bytes = Vec::with_capacity(256);
    write_response(&mut bytes, &response).map_err(|error| error.to_string())?;
    Ok(bytes)
}

/// Why a server did not upgrade the connection.
#[derive(Debug)]
pub(crate) enum HandshakeError {
    /// The connection failed, or the server took too long.
    Io(io::Error),
    /// The server answered with another status than 101.
    Status {
        code: u16,
        /// The beginning of what it said.
        body: String,
    },
    /// The answer is no upgrade to a WebSocket.
    Malformed(String),
}

/// Largest head of a server's answer, and how much of an error's body is kept.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

/// Asks the server at the other end to upgrade to a WebSocket. Returns the bytes that came after its answer. Blocks; the read
/// timeout set before is what bounds one wait.
pub(crate) fn client_handshake(
    read: &mut dyn ReadHalf,
    write: &mut dyn Write,
    host: &str,
    path: &str,
) -> Result<Vec<u8>, HandshakeError> {
    let key = generate_key();
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    );
    write
        .write_all(request.as_bytes())
        .and_then(|()| write.flush())
        .map_err(HandshakeError::Io)?;
    let mut answer = Vec::new();
    let head_len = loop {
        if let Some(at) = answer.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if answer.len() > ANSWER_BYTES_MAX {
            let text = format!("the answer's head has more than {ANSWER_BYTES_MAX} bytes");
            return Err(HandshakeError::Malformed(text));
        }
        if read_some(read, &mut answer).map_err(HandshakeError::Io)? == 0 {
            return Err(HandshakeError::Io(ErrorKind::UnexpectedEof.into()));
        }
    };
    let leftover = answer.split_off(head_len);
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    response
        .parse(&answer)
        .map_err(|error| HandshakeError::Malformed(error.to_string()))?;
    let code = response.code.unwrap_or(0);
    if code != 101 {
        return Err(HandshakeError::Status {
            code,
            body: error_body(read, leftover),
        });
    }
    let accept = response
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("sec-websocket-accept"))
        .map(|header| header.value);
    if accept != Some(derive_accept_key(key.as_bytes()).as_bytes()) {
        let text = "the answer is no WebSocket server's: Sec-WebSocket-Accept does not fit";
        return Err(HandshakeError::Malformed(text.to_owned()));
    }
    Ok(leftover)
}

/// What a refusing server says, as far as it comes soon.
fn error_body(read: &mut dyn ReadHalf, mut body: Vec<u8>) -> String {
    const BODY_BYTES_MAX: usize = 512;
    const PATIENCE: Duration = Duration::from_millis(500);
    let patient = read.set_read_timeout(Some(PATIENCE)).is_ok();
    while patient && body.len() < BODY_BYTES_MAX && read_some(read, &mut body).is_ok_and(|n| n > 0) {}
    body.truncate(BODY_BYTES_MAX);
    String::from_utf8_lossy(&body).trim().to_owned()
}

fn read_some(read: &mut dyn ReadHalf, into: &mut Vec<u8>) -> io::Result<usize> {
    let mut buffer = [0; 1024];
    loop {
        match read.read(&mut buffer) {
            Ok(n) => {
                into.extend_from_slice(&buffer[..n]);
                return Ok(n);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
