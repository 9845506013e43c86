//! Streams that stand still: which bound they have reached, and when that is worth saying.
//!
//! A stream that waits for its client looks, from outside, like one that is broken. So its client is told what it waits for and what to do
//! about it, and the log says so, once for each stream. Must not know connections.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::live::Stream;
use super::outlet::Outlet;
use crate::clock;
use crate::metrics::Blocked;
use crate::protocol::BlockedBy;
use crate::stream::Window;

/// How long a stream stands before that is worth saying: longer than the acknowledgements of a client that is well take over any network,
/// and short enough for somebody who watches. Until then the stream is looked at as often, which costs what progress at its usual interval
/// does; a client that asked for progress more seldom is told in between, once, because its next word might come after the stall limit.
const STANDSTILL: Duration = Duration::from_millis(500);

/// Whether a stream's client has been told that it stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standstill {
    /// It has not stood long enough so far; it is looked at then.
    LookAt(Instant),
    /// It has, and the next `query_progress` says what to do.
    Due,
    Told,
}

impl Standstill {
    pub(super) fn of_new_stream(now: Instant) -> Self {
        Self::LookAt(clock::after(now, STANDSTILL))
    }

    pub(super) fn look_at(self) -> Option<Instant> {
        match self {
            Self::LookAt(at) => Some(at),
            Self::Due | Self::Told => None,
        }
    }
}

/// The bound that a stream has reached, in numbers.
#[derive(Debug, Clone, Copy)]
struct Reached {
    by: BlockedBy,
    batches: u64,
    bytes: u64,
    stall_limit: Duration,
}

/// What the client can do.
impl fmt::Display for Reached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            by,
            batches,
            bytes,
            stall_limit,
        } = self;
        match by {
            BlockedBy::WindowBatches | BlockedBy::WindowBytes => {
                let noun = if *batches == 1 { "batch" } else { "batches" };
                write!(
                    f,
                    "acknowledge every batch that you have processed, acks are free: the window is full with {batches} {noun} \
                     ({bytes} bytes); without an ack for {stall_limit:?} (stall_limit) the stream ends"
                )
            }
            BlockedBy::Connection => write!(
                f,
                "read faster, or ask for fewer columns or for compression: the connection takes no more rows; if it takes none for \
                 {stall_limit:?} (stall_limit) the stream ends"
            ),
            BlockedBy::Memory => f.write_str(
                "wait, or retry later: other streams hold the memory for results (held_bytes_max, connection_held_bytes_max)",
            ),
        }
    }
}

impl Stream {
    /// Which bound the stream has reached, while it waits for its client; `None` where there is room.
    pub(crate) fn waits_for(&self) -> Option<BlockedBy> {
        match self.blocked_by()? {
            Blocked::Client => full(self.outlet().delivery.window()),
            Blocked::Writer => Some(BlockedBy::Connection),
            Blocked::Memory => Some(BlockedBy::Memory),
            // What is waited for elsewhere.
            Blocked::Worker | Blocked::Socket => None,
        }
    }

    /// What to do about the bound that the stream has reached, to be told now; `None` where that is not due, or has been told.
    pub(crate) fn take_hint(&self, by: BlockedBy) -> Option<String> {
        let mut outlet = self.outlet();
        if outlet.standstill != Standstill::Due {
            return None;
        }
        outlet.standstill = Standstill::Told;
        Some(self.reached(&outlet, by).to_string())
    }

    /// The client is given up as too slow: keeps, for its last word, the bound behind which it has left everything. The bound, where that
    /// is news.
    pub(super) fn note_stall(&self, outlet: &mut Outlet) -> Option<BlockedBy> {
        if outlet.stalled.is_some() {
            return None;
        }
        let by = full(outlet.delivery.window()).unwrap_or(BlockedBy::Connection);
        outlet.stalled = Some((by, self.reached(outlet, by).to_string()));
        Some(by)
    }

    /// Why the client was given up as too slow, and what it could have done; `None` where it was not.
    pub(crate) fn stall(&self) -> Option<(BlockedBy, String)> {
        self.outlet().stalled.clone()
    }

    fn reached(&self, outlet: &Outlet, by: BlockedBy) -> Reached {
        let window = outlet.delivery.window();
        Reached {
            by,
            batches: window.unacked(),
            bytes: window.unacked_bytes(),
            stall_limit: self.core.config.stall_limit,
        }
    }

    /// Looks whether the stream stands still, if that is due and has not been told.
    pub(super) fn look_for_standstill(self: &Arc<Self>, now: Instant) {
        let is_due = |outlet: &Outlet| outlet.standstill.look_at().is_some_and(|at| now >= at);
        if !is_due(&self.outlet()) {
            return;
        }
        let by = if self.is_parked() { self.waits_for() } else { None };
        let (sink, by, hint) = {
            let mut outlet = self.outlet();
            let stands = outlet.delivery.is_attached() && !outlet.delivery.is_paused();
            let stood_at = clock::after(outlet.moved_at, STANDSTILL);
            let Some(by) = by.filter(|_| stands && now >= stood_at) else {
                let again = if by.is_some() { stood_at } else { now };
                outlet.standstill = Standstill::LookAt(again.max(clock::after(now, STANDSTILL / 2)));
                return;
            };
            outlet.standstill = Standstill::Due;
            let is_wanted = self.plan.progress_interval.is_some();
            let sink = is_wanted.then(|| Arc::clone(&outlet.sink));
            (sink, by, self.reached(&outlet, by).to_string())
        };
        log::info!(
            stream:% = self.id, principal = self.principal.name(), blocked_by = by.as_str(), hint = hint;
            "stream stands still"
        );
        if let Some(sink) = sink {
            sink.progress_due();
        }
    }
}

/// The bound of a window that is full.
fn full(window: &Window) -> Option<BlockedBy> {
    let limits = window.limits().filter(|_| !window.may_make())?;
    Some(if window.unacked() >= u64::from(limits.batches) {
        BlockedBy::WindowBatches
    } else {
        BlockedBy::WindowBytes
    })
}
