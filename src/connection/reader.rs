//! Reader thread of one connection: HTTP head and upgrade under a deadline, then messages, and the end of everything.
//!
//! Acts on messages itself and never blocks on sending. Must not know SQL or engines.

use std::net::Shutdown;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::http::{self, Answer};
use super::outbox::{Lane, Outbox};
use super::session::{Action, Session};
use super::writer::{Writer, WriterEnd};
use super::{ConnectionContext, ConnectionHandle, Purpose};
use crate::clock;
use crate::error::CancelReason;
use crate::protocol::{CloseCode, ErrorMessage, ServerMessage, StreamQuery};
use crate::scheduler::{Alarm, AlarmGuard, StreamSink};
use crate::thread::{STACK_BYTES_CONNECTION, spawn_named};
use crate::transport::websocket::{
    ControlLane, FrameWriter, InboundLimits, Incoming, MessageKind, ReadEnd, Side, read_messages,
};
use crate::transport::{Halves, ReadHalf, TransportControl};

/// Time for the whole HTTP head, from the first moment of the connection.
const HEAD_DEADLINE: Duration = Duration::from_secs(5);

/// Time for the peer to end its side after we have ended ours.
const CLOSE_GRACE: Duration = Duration::from_secs(2);

/// Serves one connection from its first byte to its last.
///
/// Ends when: the peer closes or goes away, an HTTP request has been answered, the writer's socket fails, or somebody shuts the
/// transport down. Blocks on reading.
pub(super) fn serve(halves: Halves, handle: &Arc<ConnectionHandle>, context: &ConnectionContext) {
    let Halves {
        mut read,
        mut write,
        control,
    } = halves;
    let answer = http::answer_request(read.as_mut(), clock::now() + HEAD_DEADLINE);
    match answer {
        Some(Answer::Upgrade { response, leftover }) => {
            let ready = write.write_all(&response).and_then(|()| read.set_read_timeout(None));
            if let Err(error) = ready {
                log::debug!("connection {}: gone before it was upgraded: {error}", handle.id);
                return;
            }
            handle.upgraded();
            Messages::new(handle, context).serve(read, leftover, FrameWriter::new(write, Side::Server));
        }
        Some(Answer::Respond(response)) => {
            let _dead_peer_needs_no_answer = write.write_all(&response);
            control.shutdown(Shutdown::Write);
            drain(read.as_mut(), clock::now() + CLOSE_GRACE);
        }
        None => {}
    }
    control.shutdown(Shutdown::Both);
}

/// Reads and forgets what the peer still sends: unread input at the end would make the system answer with a reset, which can
/// overtake what we have just said.
fn drain(read: &mut dyn ReadHalf, until: Instant) {
    const BYTES_MAX: usize = 256 * 1024;
    let mut scratch = [0; 4096];
    let mut n_left = BYTES_MAX;
    loop {
        let time_left = until.saturating_duration_since(clock::now());
        if time_left.is_zero() || read.set_read_timeout(Some(time_left)).is_err() {
            return;
        }
        match read.read(&mut scratch) {
            Ok(n) if n > 0 && n < n_left => n_left -= n,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Ok(_) | Err(_) => return,
        }
    }
}

/// A connection after its upgrade.
struct Messages<'a> {
    handle: &'a Arc<ConnectionHandle>,
    context: &'a ConnectionContext,
    outbox: &'a Arc<Outbox>,
    session: Arc<Mutex<Session>>,
}

impl<'a> Messages<'a> {
    fn new(handle: &'a Arc<ConnectionHandle>, context: &'a ConnectionContext) -> Self {
        Self {
            handle,
            context,
            outbox: &handle.outbox,
            session: Arc::new(Mutex::new(Session::new(context.session_limits.clone()))),
        }
    }

    fn serve(&self, read: Box<dyn ReadHalf>, leftover: Vec<u8>, frames: FrameWriter) {
        let writer = match self.start_writer(frames) {
            Ok(writer) => writer,
            Err(error) => {
                log::warn!("connection {}: no thread for the writer: {error}", self.handle.id);
                return;
            }
        };
        let limits = InboundLimits {
            message_bytes_max: self.context.message_bytes_max,
        };
        let lane: Arc<dyn ControlLane> = Arc::clone(self.outbox) as _;
        let (end, read) = read_messages(read, leftover, Side::Server, limits, lane, |incoming| {
            self.on_incoming(&incoming)
        });
        log::debug!("connection {}: reading ended: {end}", self.handle.id);
        self.cancel_streams();
        self.finish(&end, read, writer);
    }

    fn start_writer(&self, frames: FrameWriter) -> std::io::Result<JoinHandle<()>> {
        let scheduler = Arc::clone(&self.context.scheduler);
        let writer = Writer::new(Arc::clone(self.outbox), Arc::clone(&self.session), scheduler, frames);
        let handle = Arc::clone(self.handle);
        spawn_named(&format!("writer-{}", handle.id), STACK_BYTES_CONNECTION, move || {
            // A peer that gets no more ends its side; a broken socket ends the reader.
            handle.control.shutdown(match writer.write_until_closed() {
                WriterEnd::Closed => Shutdown::Write,
                WriterEnd::ReaderGone => Shutdown::Both,
                WriterEnd::Socket(error) => {
                    log::debug!("connection {}: writing ended: {error}", handle.id);
                    Shutdown::Both
                }
            });
        })
    }

    /// Sees to it that what is queued to be said last is said, but waits for nobody longer than the grace.
    fn finish(&self, end: &ReadEnd, mut read: Box<dyn ReadHalf>, writer: JoinHandle<()>) {
        let peer_listens = match end {
            ReadEnd::Closed | ReadEnd::Protocol(_) | ReadEnd::InvalidUtf8 | ReadEnd::TooBig | ReadEnd::Stopped => true,
            ReadEnd::Gone(_) => false,
        };
        let deadline = clock::now() + CLOSE_GRACE;
        let guard = if peer_listens {
            Some(self.shut_down_at(deadline))
        } else {
            self.handle.control.shutdown(Shutdown::Both);
            None
        };
        self.outbox.reader_gone();
        if writer.join().is_err() {
            log::error!("connection {}: the writer panicked", self.handle.id);
        }
        if peer_listens {
            drain(read.as_mut(), deadline);
        }
        drop(guard);
    }

    fn shut_down_at(&self, at: Instant) -> AlarmGuard {
        let alarm = ShutDown(Arc::clone(&self.handle.control));
        self.context.scheduler.timekeeper().set(at, Arc::new(alarm))
    }

    fn on_incoming(&self, incoming: &Incoming<'_>) -> ControlFlow<()> {
        if self.context.purpose == Purpose::Echo {
            match incoming {
                Incoming::Text(text) => self.outbox.echo(MessageKind::Text, text.as_bytes()),
                Incoming::Binary(bytes) => self.outbox.echo(MessageKind::Binary, bytes),
                Incoming::Pong => {}
            }
            return ControlFlow::Continue(());
        }
        let action = match incoming {
            Incoming::Text(text) => self.session.lock().on_text(text),
            Incoming::Binary(_) => self.session.lock().on_binary(),
            Incoming::Pong => return ControlFlow::Continue(()),
        };
        match action {
            Action::Start(query) => self.start(*query),
            Action::Cancel(id) => {
                // A stream whose engine has ended is not in the registry: its natural terminator is the answer.
                if let Some(stream) = self.context.scheduler.find(id) {
                    stream.cancel(CancelReason::Client);
                }
                ControlFlow::Continue(())
            }
            Action::Reply(message) => self.reply(&message),
            Action::Close(message, code) => {
                let _closed_either_way = self.reply(&message);
                self.outbox.close_now(code, "too many bad messages");
                ControlFlow::Break(())
            }
        }
    }

    fn reply(&self, message: &ServerMessage) -> ControlFlow<()> {
        if self.outbox.send(message) {
            ControlFlow::Continue(())
        } else {
            self.outbox.close_now(CloseCode::TooMany, "answers are not being read");
            ControlFlow::Break(())
        }
    }

    fn start(&self, query: StreamQuery) -> ControlFlow<()> {
        let request_id = query.request_id.clone();
        let bell = self.outbox.lane_bell();
        let accepted = self
            .context
            .scheduler
            .accept(query, Arc::clone(&bell) as Arc<dyn StreamSink>);
        match accepted {
            Ok((accepted, events)) => {
                let stream = Arc::clone(&accepted.stream);
                self.session.lock().on_accepted(stream.id, request_id);
                self.outbox.open_lane(Lane { stream, events, bell });
                self.context.scheduler.launch(accepted);
                ControlFlow::Continue(())
            }
            Err(error) => self.reply(&ServerMessage::Error(ErrorMessage { request_id, ..*error })),
        }
    }

    fn cancel_streams(&self) {
        let live = self.session.lock().live();
        for stream in live.into_iter().filter_map(|id| self.context.scheduler.find(id)) {
            stream.cancel(CancelReason::Disconnect);
        }
    }
}

impl Drop for Messages<'_> {
    /// After a panic too: nobody is left to read what the streams would send.
    fn drop(&mut self) {
        self.cancel_streams();
    }
}

/// Ends a connection whose time is up, from the timekeeper's thread.
struct ShutDown(Arc<dyn TransportControl>);

impl Alarm for ShutDown {
    fn ring(&self, _now: Instant) -> Option<Instant> {
        self.0.shutdown(Shutdown::Both);
        None
    }
}
