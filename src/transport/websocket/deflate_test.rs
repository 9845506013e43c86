//! Deflated messages, from the deflater over the writer and back through the reader: whatever the message, its fragments and the
//! pieces that it is read in; and what a hostile peer may try.
#![cfg(test)]
#![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use proptest::prelude::*;

use super::reader::{ControlLane, InboundLimits, Incoming, ReadEnd, read_messages};
use super::writer::{FrameWriter, MessageKind, Payload};
use super::{Coding, Side, apply_mask};
use crate::deflate::{Deflate, Deflaters, InflateError, Inflater, PLAIN_BYTES_MAX, WindowBits};
use crate::transport::{ReadHalf, WriteHalf};

const MAX: usize = 64 * 1024;

/// The payload that RFC 7692 section 7.2.3.1 has for "Hello".
const HELLO: [u8; 7] = [0xF2, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00];

fn deflate(window_bits: u8) -> Deflate {
    Deflate::new(Arc::new(Deflaters::default()), WindowBits::new(window_bits).unwrap())
}

/// Deflates without regard to whether it is worth while, as other implementations may, and cuts the message into blocks at `cuts`.
fn deflate_anyway(message: &[u8], level: u32, cuts: &[usize]) -> Vec<u8> {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::new(level));
    let mut from = 0;
    for &cut in cuts {
        let to = cut.clamp(from, message.len());
        encoder.write_all(&message[from..to]).unwrap();
        encoder.flush().unwrap();
        from = to;
    }
    encoder.write_all(&message[from..]).unwrap();
    encoder.flush().unwrap();
    let mut bytes = encoder.get_ref().clone();
    if bytes.ends_with(&[0, 0, 0xFF, 0xFF]) {
        bytes.truncate(bytes.len() - 4);
    }
    bytes
}

#[derive(Debug, PartialEq, Eq)]
enum Got {
    Text(String),
    Binary(Vec<u8>),
    Pong,
}

#[derive(Default)]
struct Lane {
    pongs: Mutex<Vec<Vec<u8>>>,
    close: Mutex<Option<u16>>,
}

impl ControlLane for Lane {
    fn pong(&self, payload: &[u8]) {
        self.pongs.lock().push(payload.to_vec());
    }

    fn close(&self, code: Option<u16>, _: &str) {
        *self.close.lock() = code;
    }
}

/// Gives bytes in pieces of these lengths, again and again.
struct Pieces {
    bytes: VecDeque<u8>,
    lens: Vec<usize>,
    at: usize,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.lens[self.at % self.lens.len()].max(1).min(buffer.len());
        self.at += 1;
        let n = len.min(self.bytes.len());
        for (to, from) in buffer.iter_mut().zip(self.bytes.drain(..n)) {
            *to = from;
        }
        Ok(n)
    }
}

impl ReadHalf for Pieces {
    fn set_read_timeout(&mut self, _: Option<Duration>) -> io::Result<()> {
        Ok(())
    }
}

struct ReadBack {
    got: Vec<Got>,
    end: ReadEnd,
    lane: Arc<Lane>,
}

fn read_back(bytes: &[u8], lens: &[usize], side: Side, coding: Coding) -> ReadBack {
    let lane = Arc::new(Lane::default());
    let pieces = Pieces {
        bytes: bytes.iter().copied().collect(),
        lens: lens.to_vec(),
        at: 0,
    };
    let limits = InboundLimits {
        message_bytes_max: MAX,
        skipped_bytes_max: 0,
        fragments_max: usize::MAX,
        coding,
    };
    let mut got = Vec::new();
    let (end, _) = read_messages(
        Box::new(pieces),
        Vec::new(),
        side,
        limits,
        Arc::clone(&lane) as _,
        |incoming| {
            got.push(match incoming {
                Incoming::Text(text) => Got::Text(text.to_owned()),
                Incoming::Binary(bytes) => Got::Binary(bytes.to_vec()),
                Incoming::TooLong => unreachable!("nothing is skipped here"),
                Incoming::Pong => Got::Pong,
            });
            ControlFlow::Continue(())
        },
    );
    ReadBack { got, end, lane }
}

/// A frame of a client.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const KEY: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];
    let mut frame = vec![first];
    match payload.len() {
        len @ 0..=125 => frame.push(0x80 | len as u8),
        len @ 126..=0xFFFF => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&KEY);
    let at = frame.len();
    frame.extend_from_slice(payload);
    apply_mask(&mut frame[at..], KEY);
    frame
}

/// A message of a client in fragments that end at `cuts`, with a ping before each but the first.
fn fragments(opening: u8, payload: &[u8], cuts: &[usize]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut from = 0;
    for &cut in cuts {
        let to = cut.clamp(from, payload.len());
        bytes.extend(frame(if bytes.is_empty() { opening } else { 0 }, &payload[from..to]));
        bytes.extend(frame(0x89, b"?"));
        from = to;
    }
    let first = if bytes.is_empty() { opening } else { 0 };
    bytes.extend(frame(0x80 | first, &payload[from..]));
    bytes
}

/// Messages of all kinds: repetitive, random, and in between.
fn messages() -> impl Strategy<Value = Vec<u8>> {
    let repetitive = (prop::collection::vec(any::<u8>(), 1..40), 0..2000_usize)
        .prop_map(|(unit, n)| unit.iter().copied().cycle().take(n * 7).collect());
    let rows = (0..600_usize).prop_map(|n| {
        (0..n)
            .flat_map(|row| format!("{{\"id\":{row},\"name\":\"customer {}\"}},", row * 7919 % 1000).into_bytes())
            .collect()
    });
    let random = prop::collection::vec(any::<u8>(), 0..20_000);
    prop_oneof![repetitive, rows, random]
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(0..3000_usize, 0..6).prop_map(|mut cuts| {
        cuts.sort_unstable();
        cuts
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_a_client_deflates_comes_back(
        message in messages(),
        level in 0..=9_u32,
        blocks in cuts(),
        cuts in cuts(),
        lens in prop::collection::vec(1..5000_usize, 1..5),
        is_text in any::<bool>(),
    ) {
        let payload = deflate_anyway(&message, level, &blocks);
        let bytes = fragments(if is_text { 0x41 } else { 0x42 }, &payload, &cuts);
        // Twice: nothing is left of the first when the second comes.
        let read = read_back(&bytes.repeat(2), &lens, Side::Server, Coding::Deflate);
        match String::from_utf8(message.clone()) {
            Ok(text) if is_text => prop_assert_eq!(read.got, [Got::Text(text.clone()), Got::Text(text)]),
            Err(_) if is_text => {
                prop_assert!(read.got.is_empty());
                prop_assert!(matches!(read.end, ReadEnd::InvalidUtf8), "{:?}", read.end);
                return Ok(());
            }
            Ok(_) | Err(_) => prop_assert_eq!(read.got, [Got::Binary(message.clone()), Got::Binary(message)]),
        }
        prop_assert_eq!(read.lane.pongs.lock().len(), 2 * cuts.len());
        prop_assert!(matches!(read.end, ReadEnd::Gone(None)), "{:?}", read.end);
    }

    #[test]
    fn what_a_server_deflates_is_read_by_a_client(
        messages in prop::collection::vec(messages(), 1..4),
        window_bits in 9..=15_u8,
        lens in prop::collection::vec(1..70_000_usize, 1..5),
    ) {
        let deflate = deflate(window_bits);
        let deflated: Vec<_> = messages.iter().map(|message| deflate.deflate(message)).collect();
        for (message, deflated) in messages.iter().zip(&deflated) {
            if let Some(deflated) = deflated {
                prop_assert!(message.len() > PLAIN_BYTES_MAX && deflated.bytes().len() < message.len());
                prop_assert_eq!(inflate_slowly(deflated.bytes()), Some(message.clone()));
            }
        }
        let payloads: Vec<_> = messages
            .iter()
            .zip(&deflated)
            .map(|(message, deflated)| Payload {
                kind: MessageKind::Binary,
                bytes: deflated.as_ref().map_or(message.as_slice(), |deflated| deflated.bytes()),
                is_deflated: deflated.is_some(),
            })
            .collect();
        let wire = Wire::default();
        FrameWriter::new(Box::new(wire.clone()), Side::Server).write_messages(&payloads).unwrap();
        let read = read_back(&wire.0.lock(), &lens, Side::Client, Coding::Deflate);
        let expected: Vec<_> = messages.into_iter().map(Got::Binary).collect();
        prop_assert_eq!(read.got, expected);
    }

    /// Noise ends in a close or an inflated message, never in a panic or more than the limit.
    #[test]
    fn noise_breaks_nothing(
        noise in prop::collection::vec(any::<u8>(), 0..2000),
        payload in messages(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        lens in prop::collection::vec(1..500_usize, 1..5),
    ) {
        read_back(&noise, &lens, Side::Server, Coding::Deflate);
        let mut payload = deflate_anyway(&payload, 1, &[]);
        for (at, byte) in &flips {
            let at = at.index(payload.len());
            payload[at] = *byte;
        }
        for bytes in [frame(0xC2, &noise), frame(0xC2, &payload)] {
            let read = read_back(&bytes, &lens, Side::Server, Coding::Deflate);
            match (read.got.as_slice(), read.end) {
                ([Got::Binary(bytes)], ReadEnd::Gone(None)) => prop_assert!(bytes.len() <= MAX),
                ([], ReadEnd::NotDeflated) => prop_assert_eq!(*read.lane.close.lock(), Some(1007)),
                ([], ReadEnd::TooBig) => prop_assert_eq!(*read.lane.close.lock(), Some(1009)),
                other => prop_assert!(false, "{other:?}"),
            }
        }
    }
}

/// A wire that keeps what is written.
#[derive(Clone, Default)]
struct Wire(Arc<Mutex<Vec<u8>>>);

impl WriteHalf for Wire {}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Inflates without any of the code under test, a byte at a time.
fn inflate_slowly(deflated: &[u8]) -> Option<Vec<u8>> {
    let mut inflater = flate2::Decompress::new(false);
    let input = [deflated, &[0, 0, 0xFF, 0xFF]].concat();
    let mut out = Vec::new();
    let mut byte = [0];
    loop {
        let (n_in, n_out) = (inflater.total_in() as usize, inflater.total_out());
        let rest = &input[n_in..];
        inflater
            .decompress(rest, &mut byte, flate2::FlushDecompress::Sync)
            .ok()?;
        match inflater.total_out() - n_out {
            0 if rest.is_empty() => return Some(out),
            0 => {}
            _ => out.push(byte[0]),
        }
    }
}

#[test]
fn the_examples_of_the_rfc_are_understood() {
    // Section 7.2.3: compressed, in fragments, stored, with a final block, in two blocks, and empty.
    let whole = frame(0xC1, &HELLO);
    let fragmented = [frame(0x41, &HELLO[..3]), frame(0x80, &HELLO[3..])].concat();
    let stored = frame(0xC1, b"\x00\x05\x00\xFA\xFFHello\x00");
    let with_final = frame(0xC1, b"\xF3\x48\xCD\xC9\xC9\x07\x00\x00");
    let two_blocks = frame(0xC1, b"\xF2\x48\x05\x00\x00\x00\xFF\xFF\xCA\xC9\xC9\x07\x00");
    let plain = frame(0x81, b"Hello");
    let bytes = [
        whole,
        fragmented,
        stored,
        with_final,
        two_blocks,
        plain,
        frame(0xC1, b"\0"),
    ]
    .concat();
    for len in [1, 2, 7, 1000] {
        let read = read_back(&bytes, &[len], Side::Server, Coding::Deflate);
        let mut expected: Vec<_> = (0..6).map(|_| Got::Text("Hello".to_owned())).collect();
        expected.push(Got::Text(String::new()));
        assert_eq!(read.got, expected);
    }
}

#[track_caller]
fn check_fault(what: &str, bytes: &[u8], coding: Coding, code: u16) {
    let read = read_back(bytes, &[1000], Side::Server, coding);
    assert!(read.got.is_empty(), "{what}: {:?}", read.got);
    assert_eq!(*read.lane.close.lock(), Some(code), "{what}: {:?}", read.end);
}

#[test]
fn the_bit_is_for_the_first_frame_of_an_agreed_message() {
    check_fault("not agreed", &frame(0xC1, &HELLO), Coding::Plain, 1002);
    for coding in [Coding::Plain, Coding::Deflate] {
        for (opening, kind) in [(0x01, "plain"), (0x41, "deflated")] {
            let bytes = [frame(opening, b""), frame(0xC0, &HELLO)].concat();
            check_fault(&format!("on a continuation of a {kind} message"), &bytes, coding, 1002);
        }
        for opcode in [8, 9, 10] {
            check_fault("on a control frame", &frame(0xC0 | opcode, b""), coding, 1002);
        }
        for bits in [0x20, 0x10, 0x30] {
            check_fault("another bit", &frame(0xC1 | bits, &HELLO), coding, 1002);
        }
        check_fault("on nothing", &frame(0xC0, &HELLO), coding, 1002);
    }
}

#[test]
fn what_cannot_be_inflated_is_told() {
    check_fault("a block of no kind", &frame(0xC1, &[0x06, 0, 0]), Coding::Deflate, 1007);
    check_fault(
        "not what it was",
        &frame(0xC1, b"\x00\x05\x00\xFB\xFFHello"),
        Coding::Deflate,
        1007,
    );
    // Refers to what was in the message before: there is no context to take over.
    let text = b"once upon a time there was a message, once upon a time".repeat(4);
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(&text).unwrap();
    encoder.flush().unwrap();
    let first = encoder.get_ref().len();
    encoder.write_all(&text).unwrap();
    encoder.flush().unwrap();
    let second = &encoder.get_ref()[first..];
    check_fault("an old context", &frame(0xC1, second), Coding::Deflate, 1007);
    // What is text is so after it has been inflated.
    check_fault(
        "not UTF-8",
        &frame(0xC1, &deflate_anyway(b"\xFF", 1, &[])),
        Coding::Deflate,
        1007,
    );
    let surrogate = deflate_anyway(b"\xED\xA0\x80", 1, &[2]);
    check_fault("a surrogate", &fragments(0x41, &surrogate, &[3]), Coding::Deflate, 1007);
}

#[test]
fn a_message_may_inflate_to_the_limit_and_no_further() {
    let inflated = |len: usize| {
        let payload = deflate_anyway(&vec![b'x'; len], 9, &[]);
        read_back(&frame(0xC1, &payload), &[1000], Side::Server, Coding::Deflate)
    };
    assert_eq!(inflated(MAX).got, [Got::Text("x".repeat(MAX))]);
    let read = inflated(MAX + 1);
    assert!(matches!(read.end, ReadEnd::TooBig), "{:?}", read.end);
    assert_eq!(*read.lane.close.lock(), Some(1009));
}

#[test]
fn a_bomb_is_refused_for_little() {
    // Deflate makes at most a thousand bytes of one.
    let bomb = deflate_anyway(&vec![0; 100 << 20], 9, &[]);
    assert!(bomb.len() < 110 << 10, "{} bytes", bomb.len());
    let mut out = Vec::new();
    let refused = Inflater::new().inflate(&bomb, &mut out, MAX);
    assert_eq!(refused, Err(InflateError::TooBig));
    assert!(out.len() <= MAX && out.capacity() <= MAX, "{} bytes", out.capacity());
    check_fault("a kibibyte of it", &frame(0xC2, &bomb[..1024]), Coding::Deflate, 1009);
    check_fault(
        "in fragments",
        &fragments(0x42, &bomb[..60_000], &[10, 20, 500]),
        Coding::Deflate,
        1009,
    );
}

#[test]
fn blocks_of_nothing_without_end_are_cut_off() {
    let nothing = [0x00, 0x00, 0x00, 0xFF, 0xFF].repeat(200);
    let mut bytes = frame(0x42, &nothing);
    for _ in 0..MAX {
        bytes.extend(frame(0x00, &nothing));
        if bytes.len() > 2 * MAX {
            break;
        }
    }
    check_fault("empty blocks", &bytes, Coding::Deflate, 1009);
    // Each says that it is the last.
    let ends = [0x03, 0x00].repeat(1000);
    let read = read_back(&frame(0xC2, &ends), &[1000], Side::Server, Coding::Deflate);
    assert_eq!(read.got, [Got::Binary(Vec::new())]);
}

#[test]
fn a_message_is_deflated_where_that_is_worth_while() {
    let deflate = deflate(15);
    assert!(deflate.deflate(&[b'x'; PLAIN_BYTES_MAX]).is_none());
    assert!(deflate.deflate(&[b'x'; PLAIN_BYTES_MAX + 1]).is_some());
    let mut random = 1_u32;
    let noise: Vec<u8> = (0..100_000)
        .map(|_| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (random >> 24) as u8
        })
        .collect();
    assert!(deflate.deflate(&noise).is_none());
    // A deflater that was stopped half way has nothing left of that.
    let text = b"rows and rows and rows ".repeat(100);
    let deflated = deflate.deflate(&text).unwrap();
    assert_eq!(inflate_slowly(deflated.bytes()), Some(text.clone()));
    // Noise that comes again is found only where the window reaches back to it.
    let far = noise[..2000].repeat(2);
    let deflated = deflate.deflate(&far).unwrap();
    let small = self::deflate(9);
    assert!(small.deflate(&far).is_none());
    assert!(!small.understands(&deflated) && deflate.understands(&deflated));
    assert!(deflate.understands(&small.deflate(&text).unwrap()));
}
