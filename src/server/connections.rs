//! The connections of a server: their threads, and how many there may be.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::peers::{Peers, Seat};
use super::refusal_log::RefusalLog;
use super::refusals::{Refusal, Refusals};
use crate::clock;
use crate::connection::{CloseCode, Connection, ConnectionContext, ConnectionHandle, Site};
use crate::id::ConnectionId;
use crate::metrics::ConnectionEnd;
use crate::thread::{STACK_BYTES_CONNECTION, spawn_owning};
use crate::transport::Transport;

/// How long a stopping server waits for clients to take their last messages before it ends their connections.
const STOP_GRACE: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
struct State {
    live: HashMap<ConnectionId, Arc<ConnectionHandle>>,
    /// Threads that are running or have just ended; those that have ended are joined at the next chance.
    threads: HashMap<ConnectionId, JoinHandle<()>>,
    ended: Vec<ConnectionId>,
    stopping: bool,
    stopped: bool,
}

/// All connections of a server.
#[derive(Debug)]
pub(super) struct Connections {
    context: Arc<ConnectionContext>,
    connections_max: usize,
    peers: Arc<Peers>,
    refusals: Arc<RefusalLog>,
    ids: AtomicU64,
    state: Mutex<State>,
    changed: Condvar,
}

/// Why a connection is not served.
pub(super) struct Unserved {
    pub(super) error: io::Error,
    /// The connection, where it can still be told: the system had no thread for it.
    pub(super) connection: Option<Connection>,
}

impl From<io::Error> for Unserved {
    fn from(error: io::Error) -> Self {
        Self {
            error,
            connection: None,
        }
    }
}

impl Connections {
    pub(super) fn new(
        context: ConnectionContext,
        connections_max: usize,
        peers: Arc<Peers>,
        refusals: Arc<RefusalLog>,
    ) -> Self {
        Self {
            context: Arc::new(context),
            connections_max,
            peers,
            refusals,
            ids: AtomicU64::new(0),
            state: Mutex::new(State::default()),
            changed: Condvar::new(),
        }
    }

    /// Has every connection told, once, that the server goes away, and closed once its streams have ended; those that come later are
    /// told when they come.
    pub(super) fn go_away(&self, until: Instant) {
        let until = self.context.departure.begin(until);
        for handle in self.handles() {
            handle.tell_departure(until);
            handle.close_after_streams(CloseCode::ServiceRestart);
        }
    }

    /// Looks again at everybody who is in, and at the streams of those who are not; returns how many are turned out. Blocks as the
    /// authenticator does.
    pub(super) fn recheck(&self) -> usize {
        self.context.admission.begin_recheck();
        let turned_out = self
            .handles()
            .iter()
            .filter(|handle| handle.recheck(&self.context))
            .count();
        // Only now: what a connection had that is gone meanwhile is among them.
        self.context.admission.recheck_detached(&self.context.scheduler);
        turned_out
    }

    fn handles(&self) -> Vec<Arc<ConnectionHandle>> {
        self.state.lock().live.values().cloned().collect()
    }

    pub(super) fn len(&self) -> usize {
        self.state.lock().live.len()
    }

    pub(super) fn max(&self) -> usize {
        self.connections_max
    }

    /// Whether one more connection would be too many.
    pub(super) fn is_full(&self) -> bool {
        self.len() >= self.connections_max
    }

    /// Lets one more in from that address, or says why not.
    pub(super) fn admit(&self, address: IpAddr) -> Result<Seat, Refusal> {
        self.peers.admit(address, clock::now())
    }

    /// What was refused.
    pub(super) fn refusals(&self) -> Refusals {
        self.refusals.read()
    }

    /// Counts a connection that is refused, and says so. There is no `peer` where none could be accepted.
    pub(super) fn refused(&self, refusal: Refusal, peer: Option<String>, error: Option<&io::Error>) {
        self.refusals.refused(refusal, peer, error);
    }

    /// Serves a connection on a reader thread of its own, and gives its seat up when it is over.
    ///
    /// # Errors
    /// Where the server stops, has no room or no thread, or the transport fails.
    pub(super) fn serve(self: &Arc<Self>, transport: Box<dyn Transport>, seat: Option<Seat>) -> Result<(), Unserved> {
        self.join_ended();
        let id = ConnectionId::new(self.ids.fetch_add(1, Ordering::Relaxed) + 1);
        let peer = transport.peer();
        let connection = Connection::new(id, transport, &self.context)
            .inspect_err(|error| self.refused(Refusal::NoDescriptor, Some(peer.clone()), Some(error)))?;
        {
            let mut state = self.state.lock();
            if state.stopping || state.live.len() >= self.connections_max {
                drop(state);
                connection.handle().abort();
                let text = format!("no room: the most connections is {}", self.connections_max);
                self.refused(Refusal::Full, Some(peer), None);
                return Err(io::Error::new(ErrorKind::ConnectionRefused, text).into());
            }
            state.live.insert(id, connection.handle());
        }
        if self.context.site != Site::Admin {
            self.context.scheduler.metrics().connections_accepted.add(1);
        }
        log::debug!(connection = id.number(), peer:% = peer; "connection accepted");
        let connections = Arc::clone(self);
        let role = format!("reader-{id}");
        let thread = spawn_owning(&role, STACK_BYTES_CONNECTION, connection, move |connection| {
            connection.serve(&connections.context);
            drop(seat);
            connections.on_ended(id);
        });
        match thread {
            Ok(thread) => {
                self.state.lock().threads.insert(id, thread);
                Ok(())
            }
            Err((error, connection)) => {
                if self.context.site != Site::Admin {
                    let metrics = self.context.scheduler.metrics();
                    metrics.connections_ended.add(ConnectionEnd::Fault, 1);
                }
                self.refused(Refusal::NoThread, Some(peer), Some(&error));
                self.state.lock().live.remove(&id);
                self.changed.notify_all();
                Err(Unserved {
                    error,
                    connection: Some(connection),
                })
            }
        }
    }

    fn on_ended(&self, id: ConnectionId) {
        let removed = {
            let mut state = self.state.lock();
            state.ended.push(id);
            state.live.remove(&id)
        };
        drop(removed);
        self.changed.notify_all();
    }

    /// Joins the threads of connections that are over: they have nothing left to do but end.
    fn join_ended(&self) {
        let threads: Vec<_> = {
            let mut state = self.state.lock();
            let State { threads, ended, .. } = &mut *state;
            // A thread may end before its handle has been kept: its turn comes the next time.
            let (known, unknown): (Vec<_>, Vec<_>) = ended.drain(..).partition(|id| threads.contains_key(id));
            *ended = unknown;
            known.iter().filter_map(|id| threads.remove(id)).collect()
        };
        for thread in threads {
            if thread.join().is_err() {
                log::error!("a reader panicked at its end");
            }
        }
    }

    /// Closes all connections, those that do not listen by force, and joins their threads. No new ones are served.
    pub(super) fn stop(&self) {
        self.refusals.end();
        let handles: Vec<_> = {
            let mut state = self.state.lock();
            state.stopping = true;
            state.live.values().cloned().collect()
        };
        let code = match self.context.departure.until() {
            Some(_) => CloseCode::ServiceRestart,
            None => CloseCode::GoingAway,
        };
        for handle in &handles {
            handle.close_gracefully(code);
        }
        self.wait_until_none(clock::now() + STOP_GRACE);
        for handle in &handles {
            handle.abort();
        }
        drop(handles);
        let mut state = self.state.lock();
        while !state.live.is_empty() {
            self.changed.wait(&mut state);
        }
        let threads = std::mem::take(&mut state.threads);
        state.ended.clear();
        drop(state);
        for (id, thread) in threads {
            if thread.join().is_err() {
                log::error!(connection = id.number(); "the reader panicked at its end");
            }
        }
    }

    fn wait_until_none(&self, deadline: Instant) {
        let mut state = self.state.lock();
        while !state.live.is_empty() {
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                return;
            }
        }
    }

    /// The whole server is down: [`wait_until_stopped`](Self::wait_until_stopped) returns. Whether that is news.
    pub(super) fn stopped(&self) -> bool {
        let was_stopped = std::mem::replace(&mut self.state.lock().stopped, true);
        self.changed.notify_all();
        !was_stopped
    }

    pub(super) fn wait_until_stopped(&self) {
        let mut state = self.state.lock();
        while !state.stopped {
            self.changed.wait(&mut state);
        }
    }
}
