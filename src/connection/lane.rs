//! What the reader owes its peer, under the limits for what is no message: pings answered, the time that a message may take to come.
//!
//! Must not know what messages mean.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::outbox::Outbox;
use super::{ConnectionContext, PeerLimits};
use crate::clock;
use crate::protocol::CloseCode;
use crate::rate::{Bucket, Rate};
use crate::scheduler::{Alarm, AlarmGuard, Scheduler};
use crate::sync::Mutex;
use crate::transport::websocket::ControlLane;

/// Between the reader and the outbox.
pub(super) struct LimitedLane {
    outbox: Arc<Outbox>,
    scheduler: Arc<Scheduler>,
    pings: Option<(Rate, Mutex<Bucket>)>,
    assembly_timeout: Duration,
    /// Set while a message has come in part.
    assembly: Mutex<Option<AlarmGuard>>,
}

impl LimitedLane {
    pub(super) fn new(outbox: Arc<Outbox>, context: &ConnectionContext) -> Self {
        let PeerLimits {
            ping_rate,
            assembly_timeout,
            ..
        } = context.peer_limits;
        Self {
            outbox,
            scheduler: Arc::clone(&context.scheduler),
            pings: ping_rate.map(|rate| (rate, Mutex::new(Bucket::new(rate, clock::now())))),
            assembly_timeout,
            assembly: Mutex::new(None),
        }
    }
}

impl ControlLane for LimitedLane {
    fn pong(&self, payload: &[u8]) {
        self.outbox.pong(payload);
    }

    fn close(&self, code: Option<u16>, reason: &str) {
        self.outbox.close(code, reason, false);
    }

    fn admit_control(&self) -> Result<(), String> {
        match &self.pings {
            Some((rate, bucket)) if !bucket.lock().take(clock::now()) => {
                let Rate { per_second, burst } = rate;
                Err(format!("more than {per_second} pings a second, {burst} at once"))
            }
            _ => Ok(()),
        }
    }

    fn rest_is_awaited(&self) {
        let alarm = TooSlow {
            outbox: Arc::downgrade(&self.outbox),
            timeout: self.assembly_timeout,
        };
        let at = clock::after(clock::now(), self.assembly_timeout);
        let guard = self.scheduler.timekeeper().set(at, Arc::new(alarm));
        let before = self.assembly.lock().replace(guard);
        drop(before);
    }

    fn rest_is_there(&self) {
        let guard = self.assembly.lock().take();
        drop(guard);
    }
}

/// Closes a connection of which a message takes too long to come. The reader ends with the peer, or with the grace for it.
struct TooSlow {
    outbox: Weak<Outbox>,
    timeout: Duration,
}

impl Alarm for TooSlow {
    fn ring(&self, _now: Instant) -> Option<Instant> {
        let outbox = self.outbox.upgrade()?;
        let text = format!("a message takes more than {} ms to come", clock::millis(self.timeout));
        outbox.close_now(CloseCode::PolicyViolation, &text);
        None
    }
}
