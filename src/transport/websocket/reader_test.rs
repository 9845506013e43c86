//! The reader, told what a peer may send: whole and cut, well-meant and not.
#![cfg(test)]
#![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tungstenite::Message;
use tungstenite::protocol::{Role, WebSocket};

use super::input::{READ_BYTES_CLIENT, READ_BYTES_SERVER};
use super::reader::{ControlLane, FRAMING_BYTES_MAX, InboundLimits, Incoming, ReadEnd, read_messages};
use super::{Coding, Side, apply_mask};
use crate::thread::{STACK_BYTES_CONNECTION, spawn_named};
use crate::transport::ReadHalf;
use crate::transport::memory::memory_pair;

const MAX: usize = 64 * 1024;
const LIMITS: InboundLimits = InboundLimits {
    message_bytes_max: MAX,
    skipped_bytes_max: 0,
    fragments_max: usize::MAX,
    coding: Coding::Plain,
};

/// All that a reader did, in order.
#[derive(Debug, PartialEq, Eq, Clone)]
enum Event {
    Text(String),
    Binary(Vec<u8>),
    TooLong,
    Pong,
    LanePong(Vec<u8>),
    LaneClose(Option<u16>, String),
    Awaited,
    There,
}

#[derive(Default)]
struct Events(Mutex<Vec<Event>>);

/// Lets so many control frames through, and says what is waited for.
struct Strict {
    events: Arc<Events>,
    n_left: AtomicUsize,
}

impl ControlLane for Strict {
    fn pong(&self, payload: &[u8]) {
        self.events.pong(payload);
    }

    fn close(&self, code: Option<u16>, reason: &str) {
        self.events.close(code, reason);
    }

    fn admit_control(&self) -> Result<(), String> {
        let is_left = |n: usize| n.checked_sub(1);
        match self.n_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, is_left) {
            Ok(_) => Ok(()),
            Err(_) => Err("too many".to_owned()),
        }
    }

    fn rest_is_awaited(&self) {
        self.events.0.lock().push(Event::Awaited);
    }

    fn rest_is_there(&self) {
        self.events.0.lock().push(Event::There);
    }
}

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
            Incoming::TooLong => Event::TooLong,
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
        ReadEnd::Policy(_) => code == 1008,
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

/// Text that cannot become UTF-8 is told at once, not when its message is whole.
#[test]
fn bad_text_is_not_waited_for() {
    let whole = frame(0x01, b"ok\xff....");
    let in_the_frame = &frame(0x81, b"ok\xff....")[..9];
    let surrogate = [frame(0x01, b"\xed"), frame(0x00, b"\xa0")].concat();
    for bytes in [whole.as_slice(), in_the_frame, &surrogate] {
        let (events, end) = read_bytes(bytes, Side::Server);
        assert_eq!(close_of(&events), Some(1007));
        assert!(matches!(end, ReadEnd::InvalidUtf8), "{end:?}");
    }
    // A character may come in pieces.
    let halves = [frame(0x01, b"\xf0\x9f"), frame(0x00, b""), frame(0x00, b"\x98")].concat();
    let (events, end) = read_bytes(&halves, Side::Server);
    assert_eq!(events, []);
    assert!(matches!(end, ReadEnd::Gone(None)), "{end:?}");
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

const SKIPPED_MAX: usize = 4 * MAX;

fn read_skipping(script: Script, fragments_max: usize) -> (Vec<Event>, ReadEnd) {
    let events = Arc::new(Events::default());
    let lane = Arc::clone(&events) as Arc<dyn ControlLane>;
    let limits = InboundLimits {
        skipped_bytes_max: SKIPPED_MAX,
        fragments_max,
        ..LIMITS
    };
    let (end, _read) = read_messages(Box::new(script), Vec::new(), Side::Server, limits, lane, |incoming| {
        events.take(&incoming);
        ControlFlow::Continue(())
    });
    let events = std::mem::take(&mut *events.0.lock());
    (events, end)
}

#[test]
fn a_message_that_is_too_long_is_forgotten_and_the_next_is_read() {
    let half = "x".repeat(MAX / 2 + 1).into_bytes();
    let bytes = [
        frame(0x81, &[b'x'; MAX + 1]),
        frame(0x81, b"one"),
        // In fragments, the first of which is kept at first, with a ping between them, and no text.
        frame(0x01, &half),
        frame(0x89, b"in between"),
        frame(0x00, &half),
        frame(0x00, b"\xFF"),
        frame(0x80, b""),
        frame(0x82, &[1; 3 * MAX]),
        frame(0x81, b"two"),
    ]
    .concat();
    let expected = [
        Event::TooLong,
        Event::Text("one".to_owned()),
        Event::LanePong(b"in between".to_vec()),
        Event::TooLong,
        Event::TooLong,
        Event::Text("two".to_owned()),
    ];
    for step in [1, 4095, bytes.len()] {
        let script = Script(bytes.chunks(step).map(|chunk| Ok(chunk.to_vec())).collect());
        let (events, end) = read_skipping(script, usize::MAX);
        assert!(events == expected, "{step} bytes at a time: {events:?}");
        assert!(matches!(end, ReadEnd::Gone(None)), "{end:?}");
    }
}

#[test]
fn a_message_without_end_is_not_forgotten_for_ever() {
    let check = |bytes: Vec<u8>, fragments_max, code| {
        let (events, _) = read_skipping(Script([Ok(bytes)].into()), fragments_max);
        assert_eq!(events.len(), 1, "{events:?}");
        assert_eq!(close_of(&events), Some(code));
    };
    let fits = frame(0x81, &vec![0; SKIPPED_MAX - 14]);
    assert_eq!(read_skipping(Script([Ok(fits)].into()), 1).0, [Event::TooLong]);
    check(frame(0x81, &vec![0; SKIPPED_MAX - 13]), 1, 1009);
    let in_pieces = [frame(0x01, &[0; MAX + 1]), frame(0x00, &[0; MAX]).repeat(3)].concat();
    check(in_pieces, usize::MAX, 1009);
    // Its header is enough.
    check(b"\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff\0\0\0\0".to_vec(), 1, 1009);
    let in_many_pieces = [frame(0x01, &[0; MAX + 1]), frame(0x00, b"x").repeat(8)].concat();
    check(in_many_pieces, 8, 1008);
    // Pieces of nothing are no long message.
    check(
        [frame(0x01, b"x"), frame(0x00, b"").repeat(SKIPPED_MAX / 6)].concat(),
        usize::MAX,
        1009,
    );
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
            skipped_bytes_max: 0,
            fragments_max: usize::MAX,
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

/// What a strict server does about bytes that come in these pieces.
fn read_strictly(pieces: &[Vec<u8>], fragments_max: usize, n_control: usize) -> (Vec<Event>, ReadEnd) {
    let events = Arc::new(Events::default());
    let lane = Strict {
        events: Arc::clone(&events),
        n_left: AtomicUsize::new(n_control),
    };
    let limits = InboundLimits {
        fragments_max,
        ..LIMITS
    };
    let script = Script(pieces.iter().cloned().map(Ok).collect());
    let (end, _) = read_messages(
        Box::new(script),
        Vec::new(),
        Side::Server,
        limits,
        Arc::new(lane),
        |incoming| {
            events.take(&incoming);
            ControlFlow::Continue(())
        },
    );
    let events = std::mem::take(&mut *events.0.lock());
    (events, end)
}

#[test]
fn a_message_comes_in_so_many_frames_and_no_more() {
    let message = |n_frames: usize| -> Vec<u8> {
        let mut bytes = frame(0x01, b"a");
        for _ in 2..n_frames {
            // Control frames between them are no fragments.
            bytes.extend([frame(0x8A, b""), frame(0x00, b"b")].concat());
        }
        bytes.extend(frame(0x80, b"c"));
        bytes
    };
    let (events, end) = read_strictly(&[message(64), message(64)], 64, usize::MAX);
    let n_texts = events.iter().filter(|event| matches!(event, Event::Text(_))).count();
    assert_eq!(n_texts, 2, "each is counted by itself");
    assert!(matches!(end, ReadEnd::Gone(None)), "{end:?}");
    let (events, end) = read_strictly(&[message(65)], 64, usize::MAX);
    assert!(matches!(end, ReadEnd::Policy(_)), "{end:?}");
    assert_eq!(close_of(&events), Some(1008));
}

#[test]
fn endless_fragments_are_cut_off_within_what_is_read_at_once() {
    for piece in [b"".as_slice(), b"x"] {
        let n_given = Arc::new(AtomicUsize::new(0));
        let endless = Endless {
            bytes: frame(0x00, piece),
            at: 0,
            n_given: Arc::clone(&n_given),
        };
        let events = Arc::new(Events::default());
        let lane = Arc::clone(&events) as Arc<dyn ControlLane>;
        let limits = InboundLimits {
            fragments_max: 64,
            ..LIMITS
        };
        let opening = frame(0x01, b"");
        let (end, _) = read_messages(Box::new(endless), opening, Side::Server, limits, lane, |incoming| {
            panic!("no message comes of this: {incoming:?}")
        });
        assert!(matches!(end, ReadEnd::Policy(_)), "{end:?}");
        assert!(n_given.load(Ordering::Relaxed) <= READ_BYTES_SERVER);
    }
}

#[test]
fn control_frames_beyond_what_is_admitted_end_the_connection_with_1008() {
    for first in [0x89, 0x8A] {
        let (events, end) = read_strictly(&[frame(first, b"x").repeat(1_000)], 64, 10);
        assert_eq!(events.len(), 11, "ten of them, and the close");
        assert_eq!(close_of(&events), Some(1008));
        assert!(matches!(end, ReadEnd::Policy(_)), "{end:?}");
    }
}

#[test]
fn the_rest_of_a_message_is_awaited_once_and_only_where_it_has_to_be() {
    let whole = frame(0x81, b"whole");
    let cut = |bytes: Vec<u8>, at: usize| vec![bytes[..at].to_vec(), bytes[at..].to_vec()];
    let fragments = [frame(0x01, b"one"), frame(0x80, b"two")].concat();
    let (events, _) = read_strictly(&[whole.clone(), whole.repeat(3)], 64, 0);
    assert!(!events.contains(&Event::Awaited), "{events:?}");
    // Between two frames, inside a header, inside a payload; not before anything has come.
    for at in [9, 10, 12, 16] {
        let (events, _) = read_strictly(&cut(fragments.clone(), at), 64, 0);
        assert_eq!(
            events,
            [Event::Awaited, Event::There, Event::Text("onetwo".into())],
            "cut at {at}"
        );
    }
    let bytes: Vec<Vec<u8>> = fragments.iter().map(|byte| vec![*byte]).collect();
    let (events, _) = read_strictly(&bytes, 64, 0);
    assert_eq!(events, [Event::Awaited, Event::There, Event::Text("onetwo".into())]);
}

#[test]
fn what_a_header_claims_takes_no_memory_until_it_is_there() {
    /// Gives a header and a few bytes, then notes how much room it is offered.
    struct Claim {
        pieces: VecDeque<Vec<u8>>,
        largest: Arc<AtomicUsize>,
    }
    impl Read for Claim {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.largest.fetch_max(buffer.len(), Ordering::Relaxed);
            let Some(piece) = self.pieces.pop_front() else {
                return Ok(0);
            };
            buffer[..piece.len()].copy_from_slice(&piece);
            Ok(piece.len())
        }
    }
    impl ReadHalf for Claim {
        fn set_read_timeout(&mut self, _: Option<Duration>) -> io::Result<()> {
            Ok(())
        }
    }
    let largest = Arc::new(AtomicUsize::new(0));
    let claim = Claim {
        pieces: [frame(0x82, &vec![0; MAX])[..14].to_vec(), vec![0; 100], vec![0; 100]].into(),
        largest: Arc::clone(&largest),
    };
    let lane = Arc::new(Events::default()) as Arc<dyn ControlLane>;
    let (end, _) = read_messages(Box::new(claim), Vec::new(), Side::Server, LIMITS, lane, |incoming| {
        panic!("no message comes of this: {incoming:?}")
    });
    assert!(matches!(end, ReadEnd::Gone(None)), "{end:?}");
    let largest = largest.load(Ordering::Relaxed);
    assert!(largest <= READ_BYTES_SERVER, "{largest} bytes for a claim of {MAX}");
}
