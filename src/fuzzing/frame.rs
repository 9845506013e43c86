//! Frames: the same come out however the bytes are cut, and messages that were read are read again out of the frames that our writer
//! makes of them.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::sync::Arc;

use parking_lot::Mutex;

use super::allocated::{self, peak_of};
use super::source::Pieces;
use crate::deflate::INFLATER_BYTES;
use crate::transport::WriteHalf;
use crate::transport::websocket::{
    Coding, ControlLane, FrameWriter, InboundLimits, Incoming, MessageKind, Payload, ReadEnd, Side, read_messages,
};

/// Frames of one message: as many as by default.
const FRAGMENTS_MAX: usize = 64;

/// The largest message taken.
const MESSAGE_BYTES_MAX: usize = 4 * 1024;

/// What the longest buffer takes that is read into at once: the client's.
const READ_BYTES_MAX: usize = 64 * 1024;

pub(super) fn check(bytes: &[u8]) {
    for side in [Side::Server, Side::Client] {
        // Deflated messages are a fault of a peer that has not agreed to them, and all that makes a difference.
        if check_with(bytes, side, Coding::Plain) {
            check_with(bytes, side, Coding::Deflate);
        }
    }
}

/// Whether it ended with a deflated message that nobody has agreed to.
fn check_with(bytes: &[u8], side: Side, coding: Coding) -> bool {
    let (whole, end) = read(Pieces::whole(bytes), side, coding);
    let (cut, cut_end) = read(Pieces::cut(bytes), side, coding);
    assert_eq!(whole, cut, "{side:?}, {coding:?}: {end:?} and {cut_end:?}");
    assert_eq!(class_of(&end, coding), class_of(&cut_end, coding));
    check_round_trip(&whole, side);
    coding == Coding::Plain && matches!(end, ReadEnd::Protocol(text) if text.contains("agreed"))
}

/// All that came in, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Event {
    Text(String),
    Binary(Vec<u8>),
    Ponged,
    /// A ping.
    Pinged(Vec<u8>),
    Close(Option<u16>, String),
}

impl Event {
    fn bytes(&self) -> usize {
        let bytes = match self {
            Self::Text(text) | Self::Close(_, text) => text.len(),
            Self::Binary(bytes) | Self::Pinged(bytes) => bytes.len(),
            Self::Ponged => 0,
        };
        assert!(bytes <= MESSAGE_BYTES_MAX, "{bytes} bytes");
        bytes
    }
}

#[derive(Default)]
struct Events(Mutex<Vec<Event>>);

impl ControlLane for Events {
    fn pong(&self, payload: &[u8]) {
        self.0.lock().push(Event::Pinged(payload.to_vec()));
    }

    fn close(&self, code: Option<u16>, reason: &str) {
        self.0.lock().push(Event::Close(code, reason.to_owned()));
    }
}

fn limits(coding: Coding) -> InboundLimits {
    InboundLimits {
        message_bytes_max: MESSAGE_BYTES_MAX,
        skipped_bytes_max: 0,
        fragments_max: FRAGMENTS_MAX,
        coding,
    }
}

/// What was read, but for how the end was told, and the end.
fn read(source: Pieces, side: Side, coding: Coding) -> (Vec<Event>, ReadEnd) {
    let events = Arc::new(Events::default());
    let lane = Arc::clone(&events) as Arc<dyn ControlLane>;
    let source = Box::new(source);
    let on_message = |incoming: Incoming<'_>| {
        events.0.lock().push(match incoming {
            Incoming::Text(text) => Event::Text(text.to_owned()),
            Incoming::Binary(bytes) => Event::Binary(bytes.to_vec()),
            Incoming::TooLong => unreachable!("nothing is skipped here"),
            Incoming::Pong => Event::Ponged,
        });
        ControlFlow::Continue(())
    };
    let ((end, _read), peak) = peak_of(|| read_messages(source, Vec::new(), side, limits(coding), lane, on_message));
    let mut events = std::mem::take(&mut *events.0.lock());
    // The list of events was there twice when it grew last.
    let events_bytes = 3 * events.capacity() * size_of::<Event>() + events.iter().map(Event::bytes).sum::<usize>();
    let bytes_max = READ_BYTES_MAX + INFLATER_BYTES + 3 * MESSAGE_BYTES_MAX + 1024;
    allocated::check(peak, bytes_max + events_bytes);
    let is_told = matches!(events.last(), Some(Event::Close(..)));
    let is_to_be_told = !matches!(end, ReadEnd::Gone(_) | ReadEnd::Stopped);
    assert_eq!(is_told, is_to_be_told, "{end:?}: {events:?}");
    if is_told && !matches!(end, ReadEnd::Closed) {
        events.pop();
    }
    assert!(
        !events
            .iter()
            .rev()
            .skip(1)
            .any(|event| matches!(event, Event::Close(..))),
        "{events:?}"
    );
    (events, end)
}

/// What an end is called. Where a message is deflated, how much of it is inflated at once decides which of its faults is seen first.
fn class_of(end: &ReadEnd, coding: Coding) -> String {
    match (end, coding) {
        (ReadEnd::TooBig | ReadEnd::InvalidUtf8 | ReadEnd::NotDeflated, Coding::Deflate) => "content".to_owned(),
        _ => end.to_string(),
    }
}

/// A transport's writing half into memory.
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

/// Has the peer of `side` write what was read, and reads it again.
fn check_round_trip(events: &[Event], side: Side) {
    let wire = Wire::default();
    let peer = match side {
        Side::Server => Side::Client,
        Side::Client => Side::Server,
    };
    let mut writer = FrameWriter::new(Box::new(wire.clone()), peer);
    for event in events {
        let written = match event {
            Event::Text(text) => writer.write_text(text.as_bytes()),
            Event::Binary(bytes) => writer.write_messages(&[Payload::plain(MessageKind::Binary, bytes)]),
            Event::Ponged => writer.write_pong(b""),
            Event::Pinged(payload) => writer.write_ping(payload),
            Event::Close(code, reason) => writer.write_close(*code, reason),
        };
        written.unwrap();
    }
    let written = std::mem::take(&mut *wire.0.lock());
    let (again, end) = read(Pieces::cut(&written), side, Coding::Plain);
    assert_eq!(again, events, "{end:?}");
}
