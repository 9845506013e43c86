//! What a server counts of its life: relaxed atomics, added to where things happen and read when somebody asks.
//!
//! An addition for a batch, a turn or a write, never for a row. What the registry of streams and the budget count already is not
//! here a second time. Labels are closed lists: no text of a client's is one. Must not know the clock, sockets, or who reads.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::error::{CancelReason, ErrorCode};

/// Only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A cause or an outcome that is counted by itself: one of a list that is known beforehand.
pub(crate) trait Label: Copy + PartialEq + 'static {
    fn all() -> impl Iterator<Item = Self>;
    fn name(self) -> &'static str;
}

/// A counter for each label.
#[derive(Debug)]
pub(crate) struct By<L> {
    counters: Box<[Counter]>,
    labels: PhantomData<L>,
}

impl<L: Label> Default for By<L> {
    fn default() -> Self {
        Self {
            counters: L::all().map(|_| Counter::default()).collect(),
            labels: PhantomData,
        }
    }
}

impl<L: Label> By<L> {
    pub(crate) fn add(&self, label: L, n: u64) {
        let counters = L::all().zip(&self.counters);
        if let Some((_, counter)) = counters.into_iter().find(|(known, _)| *known == label) {
            counter.add(n);
        }
    }

    /// Adds a time, of which [`seconds`](Self::seconds) is the sum.
    pub(crate) fn add_time(&self, label: L, time: Duration) {
        self.add(label, nanos(time));
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = (&'static str, u64)> {
        L::all()
            .zip(&self.counters)
            .map(|(label, counter)| (label.name(), counter.value()))
    }

    pub(crate) fn seconds(&self) -> impl Iterator<Item = (&'static str, f64)> {
        self.values().map(|(name, nanos)| (name, nanos as f64 / 1e9))
    }
}

/// Upper bounds of the buckets of every histogram, in seconds: from a cancel in memory to the longest query allowed.
pub(crate) const BOUNDS: [f64; 16] = [
    0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];

/// How often a time was how long.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    buckets: [Counter; BOUNDS.len()],
    /// Beyond the last bound.
    longer: Counter,
    sum_nanos: Counter,
}

impl Histogram {
    pub(crate) fn observe(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        let fits = BOUNDS.iter().position(|bound| seconds <= *bound);
        fits.map_or(&self.longer, |n| &self.buckets[n]).add(1);
        self.sum_nanos.add(nanos(time));
    }

    /// For each bound, how many were no longer; and how many there are at all, which agrees with them.
    pub(crate) fn cumulative(&self) -> (Vec<(f64, u64)>, u64) {
        let mut n = 0;
        let below = BOUNDS.iter().zip(&self.buckets).map(|(bound, bucket)| {
            n += bucket.value();
            (*bound, n)
        });
        let below: Vec<_> = below.collect();
        (below, n + self.longer.value())
    }

    pub(crate) fn sum_seconds(&self) -> f64 {
        self.sum_nanos.value() as f64 / 1e9
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

macro_rules! labels {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident $label:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum $name {$(
            $(#[$variant_doc])*
            $variant,
        )*}

        impl Label for $name {
            fn all() -> impl Iterator<Item = Self> {
                [$(Self::$variant),*].into_iter()
            }

            fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $label,)*
                }
            }
        }
    };
}

labels! {
    /// How a connection ended.
    ConnectionEnd {
        /// By an answer of HTTP's: it was never a WebSocket.
        Http "http",
        /// With close frames.
        Closed "closed",
        /// The peer was gone, or was given up.
        Lost "lost",
        /// The peer broke the WebSocket protocol.
        ProtocolError "protocol_error",
        /// A message was larger than the limit.
        TooBig "too_big",
        /// The server ended it: who it is was not said, or not in time, too many bad messages, answers that nobody reads.
        Refused "refused",
        /// The server ended it, because it had no stream and no message for too long.
        Idle "idle",
        /// By a fault of the server's.
        Fault "fault",
    }
}

labels! {
    /// What an HTTP request came to.
    StatusClass {
        Upgraded "1xx",
        Success "2xx",
        Redirection "3xx",
        ClientError "4xx",
        ServerError "5xx",
    }
}

impl StatusClass {
    /// Of a response, which begins with `HTTP/1.1 ` and the status.
    pub(crate) fn of(response: &[u8]) -> Self {
        match response.get(9) {
            Some(b'1') => Self::Upgraded,
            Some(b'2') => Self::Success,
            Some(b'3') => Self::Redirection,
            Some(b'4') => Self::ClientError,
            _ => Self::ServerError,
        }
    }
}

labels! {
    /// What a stream or a connection has waited for.
    Blocked {
        /// A stream, for a worker to begin with it.
        Worker "worker",
        /// A stream, for its client's acknowledgement, the end of a pause, or somebody to resume it.
        Client "client",
        /// A stream, for its connection's writer.
        Writer "writer",
        /// A stream, for memory that others hold.
        Memory "memory",
        /// A writer, for its socket.
        Socket "socket",
    }
}

labels! {
    /// Why a stream was not resumed.
    ResumeRefusal {
        Gap "gap",
        Expired "expired",
        Denied "denied",
        /// For any other reason, limits among them.
        Other "refused",
    }
}

impl From<ErrorCode> for ResumeRefusal {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "a request can be refused for many reasons"
    )]
    fn from(code: ErrorCode) -> Self {
        match code {
            ErrorCode::ResumeGap => Self::Gap,
            ErrorCode::ResumeExpired => Self::Expired,
            ErrorCode::ResumeDenied => Self::Denied,
            _ => Self::Other,
        }
    }
}

impl Label for ErrorCode {
    fn all() -> impl Iterator<Item = Self> {
        ErrorCode::all()
    }

    fn name(self) -> &'static str {
        self.as_str()
    }
}

impl Label for CancelReason {
    fn all() -> impl Iterator<Item = Self> {
        CancelReason::ALL.into_iter()
    }

    fn name(self) -> &'static str {
        self.as_str()
    }
}

/// All that one server counts.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) connections_accepted: Counter,
    pub(crate) connections_ended: By<ConnectionEnd>,
    pub(crate) http_responses: By<StatusClass>,
    /// Of WebSocket connections.
    pub(crate) received_bytes: Counter,
    pub(crate) sent_bytes: Counter,
    /// Streams by who stopped them.
    pub(crate) cancelled: By<CancelReason>,
    /// Streams by what they failed with.
    pub(crate) failed: By<ErrorCode>,
    /// Errors that answered a request.
    pub(crate) refused: By<ErrorCode>,
    pub(crate) resumes_refused: By<ResumeRefusal>,
    pub(crate) rows_read: Counter,
    pub(crate) rows_sent: Counter,
    pub(crate) batches_sent: Counter,
    pub(crate) batches_replayed: Counter,
    /// What `wire_bytes` would be without compression.
    pub(crate) raw_bytes: Counter,
    /// Of batch messages, as they are before `permessage-deflate`.
    pub(crate) wire_bytes: Counter,
    pub(crate) blocked: By<Blocked>,
    pub(crate) first_row: Histogram,
    pub(crate) duration: Histogram,
    pub(crate) cancel_latency: Histogram,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_label_is_counted_by_itself() {
        let counts = By::<Blocked>::default();
        counts.add_time(Blocked::Client, Duration::from_millis(1_500));
        counts.add_time(Blocked::Client, Duration::from_millis(500));
        counts.add_time(Blocked::Socket, Duration::from_micros(1));
        let seconds: Vec<_> = counts.seconds().collect();
        let expected = [
            ("worker", 0.0),
            ("client", 2.0),
            ("writer", 0.0),
            ("memory", 0.0),
            ("socket", 1e-6),
        ];
        assert_eq!(seconds, expected);
        for code in ErrorCode::all() {
            let counts = By::<ErrorCode>::default();
            counts.add(code, 1);
            let counted: Vec<_> = counts.values().filter(|(_, n)| *n > 0).collect();
            assert_eq!(counted, [(code.as_str(), 1)]);
        }
    }

    #[test]
    fn a_bucket_has_what_is_no_longer_than_its_bound() {
        let histogram = Histogram::default();
        for millis in [0, 1, 2, 300_000, 300_001] {
            histogram.observe(Duration::from_millis(millis));
        }
        let (below, n) = histogram.cumulative();
        assert_eq!((below[0], below[1], below[2]), ((0.001, 2), (0.002_5, 3), (0.005, 3)));
        assert_eq!((below[BOUNDS.len() - 1], n), ((300.0, 4), 5));
        assert!((histogram.sum_seconds() - 600.004).abs() < 1e-6);
    }

    #[test]
    fn a_response_shows_its_class() {
        assert_eq!(
            StatusClass::of(b"HTTP/1.1 101 Switching Protocols"),
            StatusClass::Upgraded
        );
        assert_eq!(StatusClass::of(b"HTTP/1.1 200 OK"), StatusClass::Success);
        assert_eq!(StatusClass::of(b"HTTP/1.1 431 x"), StatusClass::ClientError);
        assert_eq!(StatusClass::of(b"HTTP/1.1 503 x"), StatusClass::ServerError);
    }
}
