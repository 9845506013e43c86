//! Whether anybody is at the other end: pings while it is silent, and the end of a connection whose peer is gone.
//!
//! Deciding is pure; around it a pulse that reading and writing leave behind, and an alarm. Must not know messages.

use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::Weak;
use std::time::{Duration, Instant};

use super::ConnectionHandle;
use super::session::Session;
use crate::clock;
use crate::metrics::{Blocked, Metrics};
use crate::scheduler::Alarm;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::transport::{ReadHalf, WriteHalf};

/// A write that takes so long was held up by the peer, and its end is a sign that the peer takes what it is sent.
const HELD_UP: Duration = Duration::from_millis(10);

/// How a server finds out that a peer is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HeartbeatRules {
    /// A peer that has been silent this long is pinged.
    pub(crate) interval: Duration,
    /// A peer that has neither said nor taken anything for this long is gone.
    pub(crate) dead_after: Duration,
    /// A peer that takes nothing of what is being written for this long has hung.
    pub(crate) stuck_after: Duration,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Fine,
    Ping,
    Dead,
    Stuck,
}

/// What a connection has last done.
#[derive(Debug, Clone, Copy)]
struct Signs {
    /// Since anything was read.
    silent: Duration,
    /// Since the peer made room for a write that was held up, or such a write began.
    unwritten: Duration,
    /// Whether a write is under way.
    is_writing: bool,
}

impl HeartbeatRules {
    /// Who neither says nor takes anything is gone. While a write is under way no ping gets through: then the peer is judged by
    /// what it takes.
    fn decide(self, signs: Signs) -> (Verdict, Duration) {
        let Signs {
            silent,
            unwritten,
            is_writing,
        } = signs;
        let lifeless = silent.min(unwritten);
        if lifeless >= self.dead_after {
            return (Verdict::Dead, Duration::ZERO);
        }
        let dead_in = self.dead_after - lifeless;
        if is_writing {
            if unwritten >= self.stuck_after {
                return (Verdict::Stuck, Duration::ZERO);
            }
            let stuck_in = self.stuck_after - unwritten;
            return (Verdict::Fine, stuck_in.min(dead_in).min(self.interval));
        }
        let verdict = if silent >= self.interval {
            Verdict::Ping
        } else {
            Verdict::Fine
        };
        (verdict, dead_in.min(self.interval))
    }
}

/// When a connection last read and wrote; left behind by its two halves, looked at by its alarm.
#[derive(Debug)]
pub(super) struct Pulse {
    start: Instant,
    read_ms: AtomicU64,
    wrote_ms: AtomicU64,
    write_began_ms: AtomicU64,
    is_writing: AtomicBool,
}

impl Pulse {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            start: clock::now(),
            read_ms: AtomicU64::new(0),
            wrote_ms: AtomicU64::new(0),
            write_began_ms: AtomicU64::new(0),
            is_writing: AtomicBool::new(false),
        })
    }

    fn stamp(&self, at: &AtomicU64) {
        at.store(self.millis(clock::now()), Ordering::Relaxed);
    }

    fn millis(&self, now: Instant) -> u64 {
        clock::millis(now.saturating_duration_since(self.start))
    }

    fn signs(&self, now: Instant) -> Signs {
        let now = self.millis(now);
        let since = |at: &AtomicU64| Duration::from_millis(now.saturating_sub(at.load(Ordering::Relaxed)));
        let is_writing = self.is_writing.load(Ordering::Relaxed);
        let mut unwritten = since(&self.wrote_ms);
        if is_writing {
            unwritten = unwritten.min(since(&self.write_began_ms));
        }
        Signs {
            silent: since(&self.read_ms),
            unwritten,
            is_writing,
        }
    }
}

/// A reading half that leaves a pulse behind.
pub(super) struct PulsingRead {
    pub(super) read: Box<dyn ReadHalf>,
    pub(super) pulse: Arc<Pulse>,
    pub(super) metrics: Arc<Metrics>,
}

impl Read for PulsingRead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.read.read(buffer);
        if let Ok(n_bytes) = read {
            self.pulse.stamp(&self.pulse.read_ms);
            self.metrics.received_bytes.add(n_bytes as u64);
        }
        read
    }
}

impl ReadHalf for PulsingRead {
    fn set_read_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.read.set_read_timeout(timeout)
    }
}

/// A writing half that leaves a pulse behind.
pub(super) struct PulsingWrite {
    pub(super) write: Box<dyn WriteHalf>,
    pub(super) pulse: Arc<Pulse>,
    pub(super) metrics: Arc<Metrics>,
}

impl PulsingWrite {
    fn pulsing(&mut self, write: impl FnOnce(&mut dyn Write) -> io::Result<usize>) -> io::Result<usize> {
        // A write that begins now is not one that has been stuck since the one before.
        let began_at = clock::now();
        self.pulse.stamp(&self.pulse.write_began_ms);
        self.pulse.is_writing.store(true, Ordering::Relaxed);
        let written = write(self.write.as_mut());
        self.pulse.is_writing.store(false, Ordering::Relaxed);
        let time = clock::now().saturating_duration_since(began_at);
        self.metrics.blocked.add_time(Blocked::Socket, time);
        if let Ok(n_bytes) = written {
            self.metrics.sent_bytes.add(n_bytes as u64);
            // What the system takes at once says nothing of the peer.
            if time >= HELD_UP {
                self.pulse.stamp(&self.pulse.wrote_ms);
            }
        }
        written
    }
}

impl Write for PulsingWrite {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.pulsing(|write| write.write(bytes))
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.pulsing(|write| write.write_vectored(slices))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write.flush()
    }
}

impl WriteHalf for PulsingWrite {
    fn finish(&mut self) -> io::Result<()> {
        self.write.finish()
    }
}

/// Looks after one connection.
pub(super) struct Heartbeat {
    pub(super) rules: HeartbeatRules,
    /// How long the connection may have no stream and no message.
    pub(super) idle_timeout: Option<Duration>,
    pub(super) session: Arc<Mutex<Session>>,
    pub(super) pulse: Arc<Pulse>,
    pub(super) handle: Weak<ConnectionHandle>,
}

impl Heartbeat {
    /// When to ring for the first time.
    pub(super) fn first_look(&self, now: Instant) -> Instant {
        let first_in = self
            .idle_timeout
            .map_or(self.rules.interval, |idle| idle.min(self.rules.interval));
        clock::after(now, first_in)
    }

    /// How long it may still be idle; `None` while it is not, or may be for ever.
    fn idle_time_left(&self, now: Instant) -> Option<Duration> {
        let idle = self.session.lock().idle(now)?;
        self.idle_timeout.map(|timeout| timeout.saturating_sub(idle))
    }
}

impl Alarm for Heartbeat {
    fn ring(&self, now: Instant) -> Option<Instant> {
        let handle = self.handle.upgrade()?;
        let idle_left = self.idle_time_left(now);
        if idle_left.is_some_and(|left| left.is_zero()) {
            log::debug!(connection = handle.id.number(); "connection closed: it is not used");
            handle.outbox.close_idle();
            return None;
        }
        let (verdict, again_in) = self.rules.decide(self.pulse.signs(now));
        match verdict {
            Verdict::Fine => {}
            Verdict::Ping => handle.outbox.ping(),
            Verdict::Dead => return end(&handle, "the peer gives no sign of life"),
            Verdict::Stuck => return end(&handle, "the peer takes nothing any more"),
        }
        // While it is not idle it cannot be too long so before as much time has passed.
        let idle_look_in = idle_left.or(self.idle_timeout).unwrap_or(again_in);
        Some(clock::after(now, again_in.min(idle_look_in)))
    }
}

/// Wakes both of the connection's threads; they see to the rest. There is nothing to look after any more.
fn end(handle: &ConnectionHandle, why: &str) -> Option<Instant> {
    log::warn!(connection = handle.id.number(), reason = why; "connection ended by force");
    handle.control.shutdown(Shutdown::Both);
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: HeartbeatRules = HeartbeatRules {
        interval: Duration::from_secs(15),
        dead_after: Duration::from_secs(45),
        stuck_after: Duration::from_secs(60),
    };

    #[track_caller]
    fn check(silent: u64, unwritten: u64, is_writing: bool, verdict: Verdict, again_in: u64) {
        let signs = Signs {
            silent: Duration::from_secs(silent),
            unwritten: Duration::from_secs(unwritten),
            is_writing,
        };
        assert_eq!(RULES.decide(signs), (verdict, Duration::from_secs(again_in)));
    }

    #[test]
    fn the_silent_are_pinged_and_the_lifeless_are_ended() {
        check(0, 100, false, Verdict::Fine, 15);
        check(14, 1_000, false, Verdict::Fine, 15);
        check(15, 15, false, Verdict::Ping, 15);
        check(40, 41, false, Verdict::Ping, 5);
        check(45, 45, false, Verdict::Dead, 0);
        // Somebody takes what is written, though he says nothing.
        check(1_000, 1, false, Verdict::Ping, 15);
    }

    #[test]
    fn a_peer_that_is_being_written_to_is_judged_by_what_it_takes() {
        check(0, 59, true, Verdict::Fine, 1);
        check(0, 60, true, Verdict::Stuck, 0);
        check(44, 50, true, Verdict::Fine, 1);
        check(45, 45, true, Verdict::Dead, 0);
        check(1_000, 0, true, Verdict::Fine, 15);
    }
}
