//! The writing side of a WebSocket: frames onto the wire, payloads straight from where they are.
//!
//! Owns the transport's write half. Must not know who asks for a frame, or what it means.

use std::io::{self, ErrorKind, IoSlice, Write};

use uuid::Uuid;

use super::{CONTROL_BYTES_MAX, OPCODE_BINARY, OPCODE_CLOSE, OPCODE_PING, OPCODE_PONG, OPCODE_TEXT, Side, apply_mask};
use crate::transport::WriteHalf;

/// Slices that one vectored write may have: `IOV_MAX` on Linux.
const SLICES_MAX: usize = 1024;

/// Longest header: two bytes, eight of length, four of mask.
const HEADER_BYTES_MAX: usize = 14;

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

/// A data message, as it goes into a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Payload<'a> {
    pub(crate) kind: MessageKind,
    pub(crate) bytes: &'a [u8],
    /// Whether the bytes are deflated, which the peer must have agreed to.
    pub(crate) is_deflated: bool,
}

impl<'a> Payload<'a> {
    pub(crate) fn plain(kind: MessageKind, bytes: &'a [u8]) -> Self {
        Self {
            kind,
            bytes,
            is_deflated: false,
        }
    }

    /// The first bits of its frame, but for the one that says that it is the last.
    fn opening(&self) -> u8 {
        // RFC 7692 section 6.
        const RSV1: u8 = 0x40;
        self.kind.opcode() | if self.is_deflated { RSV1 } else { 0 }
    }
}

/// Puts frames on the wire; the only one that does.
///
/// Every call blocks until the transport has taken all of it, and is woken by shutting the transport down. After an error a
/// frame may have gone out in part, and after a close nothing may follow: from then on every call fails with `BrokenPipe` and
/// writes nothing.
pub(crate) struct FrameWriter {
    write: Box<dyn WriteHalf>,
    side: Side,
    /// Nothing more may go out.
    is_spent: bool,
    /// Headers of one write. Kept from write to write.
    headers: Vec<Header>,
}

impl FrameWriter {
    pub(crate) fn new(write: Box<dyn WriteHalf>, side: Side) -> Self {
        Self {
            write,
            side,
            is_spent: false,
            headers: Vec::new(),
        }
    }

    /// Writes one text message.
    pub(crate) fn write_text(&mut self, payload: &[u8]) -> io::Result<()> {
        self.write_messages(&[Payload::plain(MessageKind::Text, payload)])
    }

    /// Writes each payload as one message of its kind, text being UTF-8: headers and payloads in as few writes as the transport
    /// takes them. Copies no payload, except that a client has to mask it.
    pub(crate) fn write_messages(&mut self, messages: &[Payload<'_>]) -> io::Result<()> {
        self.write_and_flush(|this| match this.side {
            Side::Server => this.write_unmasked(messages),
            Side::Client => messages
                .iter()
                .try_for_each(|message| this.write_masked(message.opening(), message.bytes)),
        })
    }

    /// Writes a pong that answers a ping.
    ///
    /// # Errors
    /// `InvalidInput` for more than 125 bytes, which no control frame may have; nothing has been written then.
    pub(crate) fn write_pong(&mut self, payload: &[u8]) -> io::Result<()> {
        self.write_control(OPCODE_PONG, payload)
    }

    /// Writes a ping.
    ///
    /// # Errors
    /// As [`write_pong`](Self::write_pong).
    pub(crate) fn write_ping(&mut self, payload: &[u8]) -> io::Result<()> {
        self.write_control(OPCODE_PING, payload)
    }

    /// Has the transport write what it has left to say of itself. Allowed at any time.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        retrying(|| self.write.flush())
    }

    /// Writes a close frame, the last of all; a reason that does not fit is cut, and one without a code is left out.
    pub(crate) fn write_close(&mut self, code: Option<u16>, reason: &str) -> io::Result<()> {
        let mut payload = Vec::new();
        if let Some(code) = code {
            payload.extend_from_slice(&code.to_be_bytes());
            let len = reason.floor_char_boundary(CONTROL_BYTES_MAX - payload.len());
            payload.extend_from_slice(&reason.as_bytes()[..len]);
        }
        let written = self.write_control(OPCODE_CLOSE, &payload);
        self.is_spent = true;
        written.and_then(|()| self.write.finish())
    }

    fn write_control(&mut self, opcode: u8, payload: &[u8]) -> io::Result<()> {
        if payload.len() > CONTROL_BYTES_MAX {
            let text = format!(
                "a control frame has {} bytes, more than {CONTROL_BYTES_MAX}",
                payload.len()
            );
            return Err(io::Error::new(ErrorKind::InvalidInput, text));
        }
        self.write_and_flush(|this| match this.side {
            Side::Server => {
                let header = Header::new(opcode, payload.len(), None);
                let mut slices = [IoSlice::new(header.bytes()), IoSlice::new(payload)];
                write_all_vectored(this.write.as_mut(), &mut slices)
            }
            Side::Client => this.write_masked(opcode, payload),
        })
    }

    fn write_and_flush(&mut self, write: impl FnOnce(&mut Self) -> io::Result<()>) -> io::Result<()> {
        if self.is_spent {
            return Err(ErrorKind::BrokenPipe.into());
        }
        // A transport with a buffer of its own must not keep what the peer is waiting for.
        let written = write(self).and_then(|()| retrying(|| self.write.flush()));
        self.is_spent = written.is_err();
        written
    }

    fn write_unmasked(&mut self, messages: &[Payload<'_>]) -> io::Result<()> {
        for messages in messages.chunks(SLICES_MAX / 2) {
            self.headers.clear();
            let headers = messages
                .iter()
                .map(|message| Header::new(message.opening(), message.bytes.len(), None));
            self.headers.extend(headers);
            let mut slices = Vec::with_capacity(2 * messages.len());
            for (header, message) in self.headers.iter().zip(messages) {
                slices.push(IoSlice::new(header.bytes()));
                slices.push(IoSlice::new(message.bytes));
            }
            write_all_vectored(self.write.as_mut(), &mut slices)?;
        }
        Ok(())
    }

    fn write_masked(&mut self, opening: u8, payload: &[u8]) -> io::Result<()> {
        // Any unpredictable key will do (RFC 6455 section 10.3); a random UUID begins with 48 random bits.
        let [a, b, c, d, ..] = Uuid::new_v4().into_bytes();
        let key = [a, b, c, d];
        let header = Header::new(opening, payload.len(), Some(key));
        let mut frame = Vec::with_capacity(HEADER_BYTES_MAX + payload.len());
        frame.extend_from_slice(header.bytes());
        frame.extend_from_slice(payload);
        apply_mask(&mut frame[header.bytes().len()..], key);
        self.write.write_all(&frame)
    }
}

/// The header of a frame that is a whole message (RFC 6455 section 5.2).
struct Header {
    buffer: [u8; HEADER_BYTES_MAX],
    len: usize,
}

impl Header {
    fn new(opening: u8, payload_len: usize, mask: Option<[u8; 4]>) -> Self {
        const FINAL: u8 = 0x80;
        const MASKED: u8 = 0x80;
        let mut buffer = [0; HEADER_BYTES_MAX];
        buffer[0] = FINAL | opening;
        let mut len = match payload_len {
            0..=125 => {
                buffer[1] = payload_len as u8;
                2
            }
            126..=0xFFFF => {
                buffer[1] = 126;
                buffer[2..4].copy_from_slice(&(payload_len as u16).to_be_bytes());
                4
            }
            _ => {
                buffer[1] = 127;
                buffer[2..10].copy_from_slice(&(payload_len as u64).to_be_bytes());
                10
            }
        };
        if let Some(key) = mask {
            buffer[1] |= MASKED;
            buffer[len..len + key.len()].copy_from_slice(&key);
            len += key.len();
        }
        Self { buffer, len }
    }

    fn bytes(&self) -> &[u8] {
        &self.buffer[..self.len]
    }
}

fn write_all_vectored(write: &mut dyn Write, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    // Skips empty slices at the front, which would otherwise read as "nothing written".
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        match retrying(|| write.write_vectored(slices))? {
            0 => return Err(ErrorKind::WriteZero.into()),
            n => IoSlice::advance_slices(&mut slices, n),
        }
    }
    Ok(())
}

/// A signal that interrupts a system call is no reason to give up.
fn retrying<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

    use std::sync::Arc;

    use parking_lot::Mutex;
    use tungstenite::protocol::{Role, WebSocket};
    use tungstenite::{Error, Message};

    use super::*;
    use crate::thread::{STACK_BYTES_CONNECTION, spawn_named};
    use crate::transport::memory::memory_pair;

    const SIZES: [usize; 9] = [0, 1, 125, 126, 127, 65_535, 65_536, 65_537, 1024 * 1024];

    /// Text with characters of one to four bytes, so that cuts anywhere would show.
    fn text_of(len: usize) -> String {
        let mut text: String = "aé€😀".chars().cycle().take(len / 2).collect();
        text.truncate(text.floor_char_boundary(len));
        text.extend(std::iter::repeat_n('.', len - text.len()));
        text
    }

    /// What a [`Stingy`] writer was given.
    #[derive(Debug, Default)]
    struct Taken {
        bytes: Vec<u8>,
        n_writes: usize,
        n_slices_max: usize,
    }

    /// Takes a few bytes at a time, first is interrupted each time, and fails for good at its n-th write.
    struct Stingy {
        taken: Arc<Mutex<Taken>>,
        bytes_max: usize,
        interrupts: bool,
        fail_at: usize,
        was_interrupted: bool,
    }

    impl Stingy {
        fn new(bytes_max: usize) -> (Self, Arc<Mutex<Taken>>) {
            let taken = Arc::new(Mutex::new(Taken::default()));
            let stingy = Self {
                taken: Arc::clone(&taken),
                bytes_max,
                interrupts: false,
                fail_at: usize::MAX,
                was_interrupted: false,
            };
            (stingy, taken)
        }
    }

    impl WriteHalf for Stingy {}

    impl Write for Stingy {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.write_vectored(&[IoSlice::new(bytes)])
        }

        fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
            if self.interrupts && !self.was_interrupted {
                self.was_interrupted = true;
                return Err(ErrorKind::Interrupted.into());
            }
            self.was_interrupted = false;
            let mut taken = self.taken.lock();
            if taken.n_writes == self.fail_at {
                return Err(ErrorKind::ConnectionReset.into());
            }
            taken.n_writes += 1;
            taken.n_slices_max = taken.n_slices_max.max(slices.len());
            let mut room = self.bytes_max;
            for slice in slices {
                let n = room.min(slice.len());
                taken.bytes.extend_from_slice(&slice[..n]);
                room -= n;
            }
            Ok(self.bytes_max - room)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn as_texts<'a>(payloads: &[&'a [u8]]) -> Vec<Payload<'a>> {
        let texts = payloads.iter();
        texts
            .map(|payload| Payload::plain(MessageKind::Text, payload))
            .collect()
    }

    fn written(side: Side, write: impl FnOnce(&mut FrameWriter)) -> Vec<u8> {
        let (stingy, taken) = Stingy::new(usize::MAX);
        write(&mut FrameWriter::new(Box::new(stingy), side));
        std::mem::take(&mut taken.lock().bytes)
    }

    #[track_caller]
    fn check_frame(write: impl FnOnce(&mut FrameWriter), expected: &[u8]) {
        assert_eq!(written(Side::Server, write), expected);
    }

    #[test]
    fn frames_are_as_the_rfc_draws_them() {
        check_frame(|w| w.write_text(b"Hello").unwrap(), b"\x81\x05Hello");
        check_frame(
            |w| {
                w.write_messages(&[Payload::plain(MessageKind::Binary, b"\0")]).unwrap();
            },
            b"\x82\x01\0",
        );
        for (kind, expected) in [(MessageKind::Text, b"\xC1\x01x"), (MessageKind::Binary, b"\xC2\x01x")] {
            let deflated = Payload {
                is_deflated: true,
                ..Payload::plain(kind, b"x")
            };
            check_frame(|w| w.write_messages(&[deflated]).unwrap(), expected);
        }
        check_frame(
            |w| w.write_messages(&as_texts(&[b"", b"a"])).unwrap(),
            b"\x81\x00\x81\x01a",
        );
        check_frame(|w| w.write_messages(&[]).unwrap(), b"");
        check_frame(|w| w.write_pong(b"Hello").unwrap(), b"\x8a\x05Hello");
        check_frame(|w| w.write_pong(b"").unwrap(), b"\x8a\x00");
        check_frame(|w| w.write_close(Some(1000), "bye").unwrap(), b"\x88\x05\x03\xe8bye");
        check_frame(|w| w.write_close(None, "left out").unwrap(), b"\x88\x00");
        let header = |len: usize| Header::new(OPCODE_TEXT, len, None).bytes().to_vec();
        assert_eq!(header(125), b"\x81\x7d");
        assert_eq!(header(126), b"\x81\x7e\x00\x7e");
        assert_eq!(header(65_535), b"\x81\x7e\xff\xff");
        assert_eq!(header(65_536), b"\x81\x7f\0\0\0\0\0\x01\0\0");
    }

    #[test]
    fn a_client_masks_with_a_new_key_each_time() {
        let frames = written(Side::Client, |w| {
            w.write_messages(&as_texts(&[b"Hello", b"Hello"])).unwrap()
        });
        let [first, second] = [&frames[..11], &frames[11..]].map(|frame| {
            assert_eq!(frame[..2], [0x81, 0x85]);
            let key: [u8; 4] = frame[2..6].try_into().unwrap();
            let mut payload = frame[6..].to_vec();
            apply_mask(&mut payload, key);
            assert_eq!(payload, b"Hello");
            key
        });
        assert_ne!(first, second, "one time in four thousand million this is chance");
    }

    /// tungstenite, which knows nothing of this writer, reads everything back.
    #[track_caller]
    fn check_read_back(side: Side, bytes_max: usize, sizes: &'static [usize]) {
        let (here, there) = memory_pair(16 * 1024);
        let writer = spawn_named("test", STACK_BYTES_CONNECTION, move || {
            let limited = Limited(here, bytes_max);
            let mut frames = FrameWriter::new(Box::new(limited), side);
            let texts: Vec<String> = sizes.iter().map(|&len| text_of(len)).collect();
            let payloads: Vec<&[u8]> = texts.iter().map(String::as_bytes).collect();
            frames.write_messages(&as_texts(&payloads)).unwrap();
            frames.write_pong(&[7; CONTROL_BYTES_MAX]).unwrap();
            let mixed: Vec<_> = payloads
                .iter()
                .flat_map(|payload| [MessageKind::Binary, MessageKind::Text].map(|kind| Payload::plain(kind, payload)))
                .collect();
            frames.write_messages(&mixed).unwrap();
            frames.write_pong(b"").unwrap();
            frames.write_close(Some(1001), "going away").unwrap();
        });
        let role = match side {
            Side::Server => Role::Client,
            Side::Client => Role::Server,
        };
        let mut socket = WebSocket::from_raw_socket(there, role, None);
        let mut next = || socket.read().unwrap();
        for &len in sizes {
            assert_eq!(next(), Message::text(text_of(len)));
        }
        assert_eq!(next(), Message::Pong(vec![7; CONTROL_BYTES_MAX].into()));
        for &len in sizes {
            assert_eq!(next(), Message::binary(text_of(len)));
            assert_eq!(next(), Message::text(text_of(len)));
        }
        assert_eq!(next(), Message::Pong(Vec::new().into()));
        let Message::Close(Some(close)) = next() else {
            panic!("no close frame")
        };
        assert_eq!((u16::from(close.code), close.reason.as_str()), (1001, "going away"));
        writer.unwrap().join().unwrap();
    }

    /// Lets at most so many bytes through at once.
    struct Limited<W>(W, usize);

    impl<W: Write + Send> WriteHalf for Limited<W> {}

    impl<W: Write> Write for Limited<W> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.write(&bytes[..bytes.len().min(self.1)])
        }

        fn flush(&mut self) -> io::Result<()> {
            self.0.flush()
        }
    }

    #[test]
    fn another_implementation_reads_every_size() {
        for side in [Side::Server, Side::Client] {
            check_read_back(side, usize::MAX, &SIZES);
            check_read_back(side, 1000, &SIZES);
            for bytes_max in 1..=9 {
                check_read_back(side, bytes_max, &SIZES[..6]);
            }
        }
    }

    #[test]
    fn partial_and_interrupted_writes_change_nothing() {
        let texts: Vec<String> = [0, 3, 125, 126, 700].map(text_of).to_vec();
        let payloads: Vec<&[u8]> = texts.iter().map(String::as_bytes).collect();
        let whole = written(Side::Server, |w| w.write_messages(&as_texts(&payloads)).unwrap());
        for bytes_max in (1..=20).chain([129, whole.len() - 1, whole.len()]) {
            for interrupts in [false, true] {
                let (mut stingy, taken) = Stingy::new(bytes_max);
                stingy.interrupts = interrupts;
                let mut frames = FrameWriter::new(Box::new(stingy), Side::Server);
                frames.write_messages(&as_texts(&payloads)).unwrap();
                let taken = taken.lock();
                assert_eq!(taken.bytes, whole, "{bytes_max} at a time");
                assert_eq!(taken.n_writes, whole.len().div_ceil(bytes_max));
            }
        }
    }

    #[test]
    fn many_messages_need_few_writes() {
        let payloads = vec![b"x".as_slice(); 1200];
        let (stingy, taken) = Stingy::new(usize::MAX);
        FrameWriter::new(Box::new(stingy), Side::Server)
            .write_messages(&as_texts(&payloads))
            .unwrap();
        let taken = taken.lock();
        assert_eq!((taken.n_writes, taken.n_slices_max), (3, SLICES_MAX));
        assert_eq!(taken.bytes, b"\x81\x01x".repeat(1200));
    }

    /// Fails each write in turn, until a run is clean.
    #[test]
    fn after_a_failed_write_nothing_more_goes_out() {
        for side in [Side::Server, Side::Client] {
            let mut fail_at = 0;
            loop {
                let (mut stingy, taken) = Stingy::new(3);
                stingy.fail_at = fail_at;
                let mut frames = FrameWriter::new(Box::new(stingy), side);
                let result = frames
                    .write_messages(&as_texts(&[b"one", b"two"]))
                    .and_then(|()| frames.write_pong(b"three"));
                let Err(error) = result else { break };
                assert_eq!(error.kind(), ErrorKind::ConnectionReset, "write {fail_at}");
                // The transport would take more, but a frame would begin in the middle of another.
                let bytes_before = taken.lock().bytes.len();
                assert_eq!(bytes_before.div_ceil(3), fail_at);
                for result in [
                    frames.write_text(b"x"),
                    frames.write_pong(b"x"),
                    frames.write_close(None, ""),
                ] {
                    assert_eq!(result.unwrap_err().kind(), ErrorKind::BrokenPipe, "write {fail_at}");
                }
                assert_eq!(taken.lock().bytes.len(), bytes_before);
                fail_at += 1;
            }
            assert!(fail_at >= 3, "only {fail_at} writes were made");
        }
    }

    #[test]
    fn a_transport_that_takes_nothing_is_an_error() {
        let (stingy, _taken) = Stingy::new(0);
        let error = FrameWriter::new(Box::new(stingy), Side::Server).write_text(b"x");
        assert_eq!(error.unwrap_err().kind(), ErrorKind::WriteZero);
    }

    #[test]
    fn nothing_follows_a_close() {
        let bytes = written(Side::Server, |frames| {
            frames.write_close(Some(1000), "").unwrap();
            assert_eq!(frames.write_pong(b"late").unwrap_err().kind(), ErrorKind::BrokenPipe);
            assert_eq!(frames.write_text(b"late").unwrap_err().kind(), ErrorKind::BrokenPipe);
            assert_eq!(frames.write_close(None, "").unwrap_err().kind(), ErrorKind::BrokenPipe);
        });
        assert_eq!(bytes, b"\x88\x02\x03\xe8");
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        for n_before in 0..4 {
            let reason = "x".repeat(n_before) + &"😀".repeat(40);
            let frame = written(Side::Server, |frames| frames.write_close(Some(1011), &reason).unwrap());
            assert!((120..=125).contains(&frame[1]), "{} bytes", frame[1]);
            let cut = std::str::from_utf8(&frame[4..]).unwrap();
            assert!(reason.starts_with(cut));
            assert_eq!(cut.len(), n_before + (123 - n_before) / 4 * 4);
        }
    }

    #[test]
    fn a_control_frame_has_at_most_125_bytes() {
        let bytes = written(Side::Server, |frames| {
            let refused = frames.write_pong(&[0; 126]).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::InvalidInput);
            frames.write_pong(b"").expect("nothing has gone out in part");
        });
        assert_eq!(bytes, b"\x8a\x00");
    }

    #[test]
    fn a_transport_that_is_shut_down_ends_a_blocked_write() {
        let (here, there) = memory_pair(1);
        let writer = spawn_named("test", STACK_BYTES_CONNECTION, move || {
            FrameWriter::new(Box::new(here), Side::Server).write_text(b"more than fits")
        });
        drop(there);
        let error = writer.unwrap().join().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_foreign_reader_sees_a_cut_connection_as_cut() {
        let (here, there) = memory_pair(1024);
        let mut frames = FrameWriter::new(Box::new(Limited(here, 4)), Side::Server);
        frames.write_text(b"whole").unwrap();
        drop(frames);
        let mut socket = WebSocket::from_raw_socket(there, Role::Client, None);
        assert_eq!(socket.read().unwrap(), Message::text("whole"));
        assert!(matches!(socket.read(), Err(Error::Protocol(_))));
    }
}
