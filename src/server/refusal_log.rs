//! Says in the log what is refused: the first at once, then once a second all that there has been since, so that a flood of refusals is
//! none of lines.
//!
//! What is worth saying is for [`RefusalCounters`] to find.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use super::refusals::{Refusal, RefusalCounters, Refusals, Say, Unsaid};
use crate::clock;
use crate::connection::SiteWatch;
use crate::scheduler::{Alarm, AlarmGuard, Scheduler};

/// The refusals of one server's address.
#[derive(Debug)]
pub(super) struct RefusalLog {
    counters: Arc<RefusalCounters>,
    /// Set while refusals are unsaid.
    reminder: Mutex<Option<AlarmGuard>>,
    scheduler: Arc<Scheduler>,
}

impl RefusalLog {
    pub(super) fn new(scheduler: &Arc<Scheduler>) -> Self {
        Self {
            counters: Arc::new(RefusalCounters::new()),
            reminder: Mutex::new(None),
            scheduler: Arc::clone(scheduler),
        }
    }

    /// Counts a connection that is refused. There is no `peer` where none could be accepted.
    pub(super) fn refused(&self, refusal: Refusal, peer: Option<String>, error: Option<&io::Error>) {
        self.add(refusal, peer, error.map(io::Error::to_string));
    }

    /// What was refused.
    pub(super) fn read(&self) -> Refusals {
        self.counters.read()
    }

    /// Says what has been left unsaid. Nothing is refused from now on.
    pub(super) fn end(&self) {
        let reminder = self.reminder.lock().take();
        drop(reminder);
        if let Some(unsaid) = self.counters.rest() {
            tell(&unsaid);
        }
    }

    fn add(&self, refusal: Refusal, peer: Option<String>, error: Option<String>) {
        match self.counters.add(refusal, peer, error, clock::now()) {
            Say::Now(unsaid) => tell(&unsaid),
            Say::Later(at) => {
                let reminder = Arc::new(Reminder(Arc::clone(&self.counters)));
                let guard = self.scheduler.timekeeper().set(at, reminder);
                let rung = self.reminder.lock().replace(guard);
                drop(rung);
            }
            Say::Nothing => {}
        }
    }
}

impl SiteWatch for RefusalLog {
    fn foreign_host(&self, host: &str, peer: Option<IpAddr>) {
        let error = format!("Host {host:?} is not in allowed_hosts");
        self.add(Refusal::Host, peer.map(|peer| peer.to_string()), Some(error));
    }

    fn foreign_origin(&self, origin: &str, peer: Option<IpAddr>) {
        let error = format!("Origin {origin:?} is not in allowed_origins");
        self.add(Refusal::Origin, peer.map(|peer| peer.to_string()), Some(error));
    }
}

/// Has refusals told that there were since the last ones were.
struct Reminder(Arc<RefusalCounters>);

impl Alarm for Reminder {
    fn ring(&self, now: Instant) -> Option<Instant> {
        match self.0.later(now) {
            Say::Now(unsaid) => {
                tell(&unsaid);
                None
            }
            Say::Later(at) => Some(at),
            Say::Nothing => None,
        }
    }
}

fn tell(Unsaid { refusals, peer, error }: &Unsaid) {
    log::warn!(
        refused = refusals.total(), reasons:% = refusals, peer = peer, error = error;
        "connections refused"
    );
}
