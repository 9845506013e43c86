//! What a server says of itself over plain HTTP: whether it is ready, what it counts, what it is.
//!
//! Reads what others count, at the moment somebody asks. No text of a client's is in it. Must not know HTTP's heads.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use super::connections::Connections;
use super::exposition::{CONTENT_TYPE, Exposition};
use super::memory::MemoryBound;
use super::refusals::Refusals;
use crate::clock;
use crate::connection::{Report, Reported, Reporter, SUBPROTOCOL, Site};
use crate::engine::sqlite;
use crate::scheduler::{Held, Scheduler};
use crate::stream::{QueryStreamStatus, RegistryStatistics};
use crate::thread::n_alive;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Optional parts that are compiled in.
const FEATURES: [(&str, bool); 5] = [
    ("arrow", cfg!(feature = "arrow")),
    ("cli", cfg!(feature = "cli")),
    ("compression", cfg!(feature = "compression")),
    ("parquet", cfg!(feature = "parquet")),
    ("tls", cfg!(feature = "tls")),
];

/// What all of a server's addresses report about.
pub(super) struct Reports {
    pub(super) scheduler: Arc<Scheduler>,
    /// Set before the first of them comes. Weak, because they report, too.
    pub(super) connections: OnceLock<Weak<Connections>>,
    pub(super) memory: MemoryBound,
    pub(super) n_workers: usize,
    pub(super) started_at: Instant,
    /// Set once connections are accepted.
    pub(super) is_started: AtomicBool,
}

/// The reports of one address.
struct SiteReports {
    reports: Arc<Reports>,
    site: Site,
}

impl Reporter for SiteReports {
    fn report(&self, report: Report) -> Reported {
        match report {
            Report::Ready => {
                let unreadiness = self.reports.unreadiness(self.site);
                Reported {
                    status: match unreadiness {
                        None => "200 OK",
                        Some(_) => "503 Service Unavailable",
                    },
                    content_type: "text/plain",
                    body: format!("{}\n", unreadiness.unwrap_or("ready")),
                }
            }
            Report::Metrics => Reported {
                status: "200 OK",
                content_type: CONTENT_TYPE,
                body: self.reports.metrics(self.site),
            },
            Report::Version => Reported {
                status: "200 OK",
                content_type: "application/json",
                body: version(),
            },
        }
    }
}

/// Why a server should get no new clients; `None` where it should.
fn unreadiness(
    is_started: bool,
    is_accepting: bool,
    n_connections: usize,
    connections_max: usize,
) -> Option<&'static str> {
    if !is_started {
        Some("starting")
    } else if !is_accepting {
        Some("draining")
    } else if n_connections >= connections_max {
        Some("full")
    } else {
        None
    }
}

fn version() -> String {
    let features: Vec<_> = FEATURES
        .iter()
        .filter(|(_, is_in)| *is_in)
        .map(|(name, _)| *name)
        .collect();
    let version = serde_json::json!({
        "name": env!("CARGO_PKG_NAME"),
        "version": VERSION,
        "protocol": SUBPROTOCOL,
        "sqlite": sqlite::library_version(),
        "sqlite_features": sqlite::library_features().collect::<Vec<_>>(),
        "features": features,
    });
    format!("{version}\n")
}

impl Reports {
    /// The reports of an address.
    pub(super) fn of(self: &Arc<Self>, site: Site) -> Arc<dyn Reporter> {
        let reports = Arc::clone(self);
        Arc::new(SiteReports { reports, site })
    }

    pub(super) fn has_connections(&self, connections: &Arc<Connections>) {
        let _set_once = self.connections.set(Arc::downgrade(connections));
    }

    fn unreadiness(&self, site: Site) -> Option<&'static str> {
        let (n_connections, connections_max) = self.connections(site);
        let is_started = self.is_started.load(Ordering::Acquire);
        unreadiness(
            is_started,
            self.scheduler.is_accepting(),
            n_connections,
            connections_max,
        )
    }

    /// Connections, but for the one that asks, and the most that there may be.
    fn connections(&self, site: Site) -> (usize, usize) {
        let (n, n_max) = self
            .connections
            .get()
            .and_then(Weak::upgrade)
            .map_or((0, 0), |connections| (connections.len(), connections.max()));
        (n.saturating_sub(usize::from(site != Site::Admin)), n_max)
    }

    fn metrics(&self, site: Site) -> String {
        let mut out = Exposition::default();
        self.expose_server(site, &mut out);
        self.expose_connections(site, &mut out);
        self.expose_streams(&mut out);
        self.expose_rows(&mut out);
        out.into_text()
    }

    fn expose_server(&self, site: Site, out: &mut Exposition) {
        let labels = [("version", VERSION), ("sqlite_version", sqlite::library_version())];
        out.facts("build_info", "What is running; always 1.", &labels);
        let uptime = clock::now().saturating_duration_since(self.started_at);
        out.gauge(
            "uptime_seconds",
            "Time since the server was started.",
            uptime.as_secs_f64(),
        );
        let is_ready = u8::from(self.unreadiness(site).is_none());
        out.gauge("ready", "1 where /readyz says yes, else 0.", is_ready);
        out.gauge(
            "threads",
            "Threads of this library that are alive in the process.",
            n_alive(),
        );
        out.gauge("workers", "Threads that call engines.", self.n_workers);
        let held = [("batches", Held::Batches), ("messages", Held::Messages)];
        out.gauges(
            "held_bytes",
            "Memory of what waits for clients: batches in channels, windows and retention, and other messages.",
            "kind",
            held.map(|(name, kind)| (name, self.scheduler.bytes_held_as(kind))),
        );
        let held_max = self.scheduler.config().held_bytes_max;
        out.gauge(
            "held_limit_bytes",
            "The most that may be held; a batch for each stream may go beyond.",
            held_max,
        );
        let (engines, engines_max) = self.scheduler.engine_memory();
        out.gauge(
            "engine_memory_bytes",
            "What engines have allocated, as far as they count it.",
            engines.unwrap_or(0),
        );
        out.gauge(
            "engine_memory_limit_bytes",
            "The most that they may; 0 where nothing bounds it. A query that finds no room fails with ENGINE_BUSY.",
            engines_max.unwrap_or(0),
        );
        let (n_connections, _) = self.connections(site);
        let n_streams = self.scheduler.statistics().active as usize;
        let bound = self.memory.bytes(n_connections, n_streams);
        out.gauge(
            "memory_bound_bytes",
            "What the process may take, with the connections and streams it has.",
            bound,
        );
    }

    fn expose_connections(&self, site: Site, out: &mut Exposition) {
        let metrics = self.scheduler.metrics();
        let (n, n_max) = self.connections(site);
        let connections = self.connections.get().and_then(Weak::upgrade);
        let refusals = connections.map_or_else(Refusals::default, |connections| connections.refusals());
        out.gauge(
            "connections",
            "Connections that are open, but for the one that asks.",
            n,
        );
        out.gauge("connections_limit", "The most connections that may be open.", n_max);
        out.counter(
            "connections_accepted_total",
            "Connections that were served.",
            metrics.connections_accepted.value(),
        );
        out.counters(
            "connections_unserved_total",
            "Connections that were not served, by why.",
            "reason",
            refusals.unserved(),
        );
        out.counters(
            "requests_foreign_total",
            "Requests that were refused for the host that they named or the origin that they came from, by which.",
            "reason",
            refusals.foreign(),
        );
        out.counters(
            "connections_ended_total",
            "Connections that have ended, by how.",
            "outcome",
            metrics.connections_ended.values(),
        );
        out.counters(
            "http_responses_total",
            "Answers to HTTP requests, by class of status; 1xx are those that became WebSockets.",
            "class",
            metrics.http_responses.values(),
        );
        out.counter(
            "received_bytes_total",
            "Bytes read from WebSockets.",
            metrics.received_bytes.value(),
        );
        out.counter(
            "sent_bytes_total",
            "Bytes written to WebSockets.",
            metrics.sent_bytes.value(),
        );
    }

    fn expose_streams(&self, out: &mut Exposition) {
        let metrics = self.scheduler.metrics();
        let RegistryStatistics {
            active: _,
            started,
            completed,
            failed,
            cancelled,
            detached,
            resumed,
            expired,
        } = self.scheduler.statistics();
        out.gauges("streams", "Streams that live, by state.", "state", self.states());
        out.counter("streams_started_total", "Streams that were accepted.", started);
        let outcomes = [("completed", completed), ("failed", failed), ("cancelled", cancelled)];
        out.counters(
            "streams_ended_total",
            "Streams whose query is over, by how.",
            "outcome",
            outcomes,
        );
        out.counters(
            "streams_cancelled_total",
            "Streams that were stopped, by who or what did it.",
            "reason",
            metrics.cancelled.values(),
        );
        out.counters(
            "streams_failed_total",
            "Streams that failed, by error code.",
            "code",
            metrics.failed.values(),
        );
        out.counter(
            "streams_detached_total",
            "How often a resumable stream lost its connection.",
            detached,
        );
        out.counter(
            "streams_expired_total",
            "Resumable streams that nobody came back for, or that memory was too scarce for.",
            expired,
        );
        out.counters(
            "resumes_total",
            "Tries to resume a stream, by what came of them.",
            "outcome",
            [("resumed", resumed)]
                .into_iter()
                .chain(metrics.resumes_refused.values()),
        );
        out.counters(
            "requests_refused_total",
            "Requests answered with an error, by its code.",
            "code",
            metrics.refused.values(),
        );
        out.counters(
            "blocked_seconds_total",
            "Time that streams and writers have waited, by what for.",
            "reason",
            metrics.blocked.seconds(),
        );
        out.histogram(
            "stream_first_row_seconds",
            "From a query's acceptance until its first batch of rows.",
            &metrics.first_row,
        );
        out.histogram(
            "stream_duration_seconds",
            "From a query's acceptance until its end.",
            &metrics.duration,
        );
        out.histogram(
            "cancel_latency_seconds",
            "From a cancel until the engine stood still.",
            &metrics.cancel_latency,
        );
    }

    fn expose_rows(&self, out: &mut Exposition) {
        let metrics = self.scheduler.metrics();
        out.counter("rows_read_total", "Rows read from engines.", metrics.rows_read.value());
        out.counter(
            "rows_sent_total",
            "Rows handed to sockets, replays not counted.",
            metrics.rows_sent.value(),
        );
        out.counter(
            "batches_sent_total",
            "Batches handed to sockets, replays not counted.",
            metrics.batches_sent.value(),
        );
        out.counter(
            "batches_replayed_total",
            "Batches that were sent again after a resume.",
            metrics.batches_replayed.value(),
        );
        out.counter(
            "batches_raw_bytes_total",
            "Bytes that the batches sent would have without compression.",
            metrics.raw_bytes.value(),
        );
        out.counter(
            "batches_wire_bytes_total",
            "Bytes of the batches sent, as messages.",
            metrics.wire_bytes.value(),
        );
    }

    /// How many streams are in each state. `retained` are those whose query is over and of which something is to be delivered still,
    /// or held in case it was lost.
    fn states(&self) -> [(&'static str, u64); 6] {
        let mut states = [
            "queued",
            "executing",
            "streaming",
            "waiting_client",
            "paused",
            "retained",
        ]
        .map(|name| (name, 0));
        for stream in self.scheduler.streams() {
            let n = match stream.state() {
                QueryStreamStatus::Queued => 0,
                QueryStreamStatus::Executing => 1,
                QueryStreamStatus::Streaming => 2,
                QueryStreamStatus::WaitingClient => 3,
                QueryStreamStatus::Paused => 4,
                QueryStreamStatus::Completed | QueryStreamStatus::Failed | QueryStreamStatus::Cancelled => 5,
            };
            states[n].1 += 1;
        }
        states
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_ready_while_it_takes_queries_and_has_room() {
        assert_eq!(unreadiness(true, true, 9, 10), None);
        assert_eq!(unreadiness(true, true, 10, 10), Some("full"));
        assert_eq!(unreadiness(true, false, 10, 10), Some("draining"));
        assert_eq!(unreadiness(false, true, 0, 10), Some("starting"));
    }
}
