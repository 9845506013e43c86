//! One client's connection: a reader thread that hands messages to the queries they belong to, and the writer they share.
//!
//! Must not know what a query does with its messages.
//!
//! # What blocks, and what wakes it
//! The reader puts each message into the bounded channel of its query and waits where that is full. While it waits it reads
//! nothing, the socket fills up, and the server stops sending: so a query that nobody reads holds up the other queries of its
//! connection. The wait ends when the query's messages are taken, when its `QueryStream` is dropped, and when the client
//! closes. Messages going out are a few hundred bytes; they are written under a lock by whoever sends them. A server takes
//! them at any time; shutting the transport down ends a write to one that does not.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::Shutdown;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded, select};
use parking_lot::Mutex;

use super::ClientError;
use crate::error::ErrorCode;
use crate::id::RequestId;
use crate::protocol::{
    CancelQuery, ClientMessage, CloseCode, PongMessage, ProgressMessage, ServerMessage, StreamRef,
    decode_server_message, encode_client_message,
};
use crate::thread::{STACK_BYTES_CONNECTION, spawn_named};
use crate::transport::websocket::{
    ControlLane, FrameWriter, HandshakeError, InboundLimits, Incoming, ReadEnd, Side, client_handshake, read_messages,
};
use crate::transport::{Halves, ReadHalf, TransportControl};

/// Messages of one query that wait to be taken. When full, the connection's reader waits; of progress the newest is kept aside
/// instead.
const QUERY_MESSAGES_MAX: usize = 16;

/// How long a closing client waits for the server's own close before it hangs up.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

/// What a connection is made with.
#[derive(Debug, Clone)]
pub(super) struct LinkConfig {
    /// For the HTTP `Host` header, and for errors.
    pub(super) authority: String,
    pub(super) path: String,
    /// The time from the first byte to the end of the handshake.
    pub(super) handshake_timeout: Duration,
    pub(super) message_bytes_max: usize,
}

/// An open connection and its thread. Dropping it closes the connection and joins the thread.
#[derive(Debug)]
pub(super) struct Connection {
    link: Arc<Link>,
    /// Disconnected when the reader has ended.
    ended: Receiver<Infallible>,
    reader: Option<JoinHandle<()>>,
}

impl Connection {
    /// Shakes hands over `halves` and starts the reader.
    ///
    /// Blocks for at most `handshake_timeout`.
    pub(super) fn open(halves: Halves, config: &LinkConfig) -> Result<Self, ClientError> {
        let Halves { read, write, control } = halves;
        let failed = |source: io::Error| ClientError::Connect {
            address: config.authority.clone(),
            source: Arc::new(source),
        };
        // The handshake runs on the reader's thread, so that the deadline is one for the whole of it, and shutting the
        // transport down is what ends it.
        let (open_tx, open_rx) = bounded(1);
        let (ended_tx, ended) = bounded(0);
        let body = {
            let (control, config) = (Arc::clone(&control), config.clone());
            move || {
                let _ended = ended_tx;
                read_until_closed(read, write, control, &config, &open_tx);
            }
        };
        let reader = spawn_named("client-reader", STACK_BYTES_CONNECTION, body).map_err(failed)?;
        match open_rx.recv_timeout(config.handshake_timeout) {
            Ok(Ok(link)) => Ok(Self {
                link,
                ended,
                reader: Some(reader),
            }),
            failure => {
                control.shutdown(Shutdown::Both);
                let panicked = reader.join().is_err();
                Err(match failure {
                    Ok(Err(HandshakeError::Status { code, body })) => ClientError::Handshake {
                        status: Some(code),
                        message: body,
                    },
                    Ok(Err(HandshakeError::Malformed(message))) => ClientError::Handshake { status: None, message },
                    Ok(Err(HandshakeError::Io(source))) => failed(source),
                    Err(RecvTimeoutError::Disconnected) if panicked => failed(io::Error::other("the reader panicked")),
                    Ok(Ok(_)) | Err(_) => failed(io::Error::new(
                        io::ErrorKind::TimedOut,
                        format!("no answer within {:?}", config.handshake_timeout),
                    )),
                })
            }
        }
    }

    pub(super) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Says goodbye and waits until the server has, for a second at most. Idempotent.
    pub(super) fn close(&self) {
        self.link.say_goodbye();
        let _ended_or_timeout = self.ended.recv_timeout(CLOSE_PATIENCE);
        self.link.control.shutdown(Shutdown::Both);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.close();
        if let Some(reader) = self.reader.take() {
            // A panic has been reported by the panic hook, and to the queries as a lost connection.
            let _panicked = reader.join();
        }
    }
}

/// What the reader, the queries and the client share of one connection.
pub(super) struct Link {
    outgoing: Mutex<Outgoing>,
    table: Mutex<Table>,
    control: Arc<dyn TransportControl>,
    /// Dropped when the client closes: the reader then waits for no query any more.
    open: Mutex<Option<Sender<Infallible>>>,
}

struct Outgoing {
    frames: FrameWriter,
    scratch: Vec<u8>,
    close_sent: bool,
}

#[derive(Default)]
struct Table {
    /// The last id given to a query or a ping.
    last_id: i64,
    /// The queries whose terminator has not come, dropped ones too.
    live: HashMap<i64, Live>,
    pings: HashMap<i64, Sender<Infallible>>,
    /// What the peer's close frame said, or what we told it.
    close: Option<(Option<u16>, String)>,
    /// Why the connection is over.
    end: Option<ClientError>,
}

/// The newest progress message that found its query's channel full.
type LateProgress = Arc<Mutex<Option<ProgressMessage>>>;

/// Where a query's messages come.
#[derive(Debug)]
pub(super) struct Inbox {
    pub(super) messages: Receiver<ServerMessage>,
    /// Newer than what waits in the channel.
    pub(super) late_progress: LateProgress,
}

struct Live {
    messages: Sender<ServerMessage>,
    late_progress: LateProgress,
    is_started: bool,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}

impl Link {
    /// A new query: its id, and where its messages will come. They end without a terminator when the connection does:
    /// [`end`](Self::end) then says why.
    pub(super) fn register(&self) -> Result<(i64, Inbox), ClientError> {
        let (messages, received) = bounded(QUERY_MESSAGES_MAX);
        let late_progress = LateProgress::default();
        let id = self.table.lock().add(|table, id| {
            let live = Live {
                messages,
                late_progress: Arc::clone(&late_progress),
                is_started: false,
            };
            table.live.insert(id, live);
        })?;
        let inbox = Inbox {
            messages: received,
            late_progress,
        };
        Ok((id, inbox))
    }

    /// Takes a query back that was never sent.
    pub(super) fn forget(&self, id: i64) {
        let forgotten = self.table.lock().live.remove(&id);
        drop(forgotten);
    }

    /// Sends a message. Blocks while the transport takes nothing.
    pub(super) fn send(&self, message: &ClientMessage) -> Result<(), ClientError> {
        let mut outgoing = self.outgoing.lock();
        let Outgoing {
            frames,
            scratch,
            close_sent,
        } = &mut *outgoing;
        if *close_sent {
            drop(outgoing);
            return Err(self.end());
        }
        scratch.clear();
        encode_client_message(message, scratch).map_err(|error| ClientError::Usage(error.to_string()))?;
        let written = frames.write_text(scratch);
        drop(outgoing);
        written.map_err(|error| {
            // A frame may have gone out in part. The reader ends with this, and tells everybody.
            self.control.shutdown(Shutdown::Both);
            ClientError::Lost {
                source: Some(Arc::new(error)),
            }
        })
    }

    /// Asks the server to stop a query. Nothing happens where it has ended. Errors are left to the query itself to find.
    pub(super) fn cancel(&self, id: i64) {
        if self.table.lock().live.contains_key(&id) {
            let target = StreamRef::Request(RequestId::Number(id));
            let _query_will_tell = self.send(&ClientMessage::CancelQuery(CancelQuery { target }));
        }
    }

    /// Blocks until the server has answered, or the connection is over.
    pub(super) fn ping(&self) -> Result<(), ClientError> {
        let (answered, answer) = bounded(0);
        let id = self.table.lock().add(|table, id| {
            table.pings.insert(id, answered);
        })?;
        let timestamp = Some(Box::new(id.into()));
        self.send(&ClientMessage::Ping { timestamp })?;
        let _disconnected = answer.recv();
        match &self.table.lock().end {
            Some(end) => Err(end.clone()),
            None => Ok(()),
        }
    }

    /// Why the connection is over; to be asked once it is.
    pub(super) fn end(&self) -> ClientError {
        self.table.lock().end.clone().unwrap_or(ClientError::Closed {
            code: None,
            reason: "the client is closing".to_owned(),
        })
    }

    fn say_goodbye(&self) {
        drop(self.open.lock().take());
        self.send_close(Some(CloseCode::Normal.number()), "");
    }

    fn send_close(&self, code: Option<u16>, reason: &str) {
        // Whoever has held the lock for so long writes to a peer that takes nothing.
        if let Some(mut outgoing) = self.outgoing.try_lock_for(CLOSE_PATIENCE)
            && !outgoing.close_sent
        {
            outgoing.close_sent = true;
            // A connection that cannot take it is over anyway.
            let _gone = outgoing.frames.write_close(code, reason);
        }
    }

    /// Hands a message to whom it belongs. Blocks while that query's channel is full; see the module.
    fn route(&self, message: ServerMessage, closing: &Receiver<Infallible>) -> Result<(), String> {
        let (request_id, is_end) = match &message {
            ServerMessage::Pong(PongMessage { timestamp }) => {
                let id = timestamp.as_ref().and_then(|timestamp| timestamp.as_i64());
                let answered = id.and_then(|id| self.table.lock().pings.remove(&id));
                drop(answered);
                return Ok(());
            }
            ServerMessage::QueryQueued(queued) => (&queued.request_id, false),
            ServerMessage::QueryStarted(started) => (&started.request_id, false),
            ServerMessage::QueryColumns(columns) => (&columns.request_id, false),
            ServerMessage::QueryBatch(batch) => (&batch.request_id, false),
            ServerMessage::QueryProgress(progress) => (&progress.request_id, false),
            ServerMessage::QueryCompleted(completed) => (&completed.request_id, true),
            ServerMessage::QueryCancelled(cancelled) => (&cancelled.request_id, true),
            ServerMessage::Error(error) => (&error.request_id, true),
        };
        let Some(RequestId::Number(id)) = request_id else {
            if let ServerMessage::Error(error) = &message {
                // Concerns no query: the server's last words, or an answer to something this client does not send.
                log::warn!("server: {}: {}", error.code, error.message);
                return Ok(());
            }
            return Err("a message of a query without the query's request_id".to_owned());
        };
        let destination = {
            let mut table = self.table.lock();
            let Some(live) = table.live.get_mut(id) else {
                return Ok(()); // an answer that crossed the query's end
            };
            if let ServerMessage::Error(error) = &message
                && !live.is_ended_by(error.code, error.stream_id.is_some())
            {
                return Ok(());
            }
            live.is_started |= matches!(message, ServerMessage::QueryStarted(_));
            if is_end {
                table.live.remove(id).map(|live| (live.messages, live.late_progress))
            } else {
                Some((live.messages.clone(), Arc::clone(&live.late_progress)))
            }
        };
        if let Some((messages, late_progress)) = destination {
            deliver(message, &messages, &late_progress, closing);
        }
        Ok(())
    }

    /// The connection is over: everybody who waits is told.
    fn finish(&self, end: ClientError) {
        let (live, pings) = {
            let mut table = self.table.lock();
            table.end.get_or_insert(end);
            (std::mem::take(&mut table.live), std::mem::take(&mut table.pings))
        };
        drop((live, pings));
        self.outgoing.lock().close_sent = true;
        self.control.shutdown(Shutdown::Both);
    }
}

impl Table {
    /// Gives out the next id, unless the connection is over.
    fn add(&mut self, insert: impl FnOnce(&mut Self, i64)) -> Result<i64, ClientError> {
        if let Some(end) = &self.end {
            return Err(end.clone());
        }
        self.last_id += 1;
        insert(self, self.last_id);
        Ok(self.last_id)
    }
}

impl Live {
    /// Whether an error ends the query. A cancel that crossed the query's end is answered by an error too, and that may come
    /// before the terminator.
    fn is_ended_by(&self, code: ErrorCode, has_stream_id: bool) -> bool {
        code != ErrorCode::StreamNotFound && (has_stream_id || !self.is_started)
    }
}

/// The reader answers pings and closes where it finds them; a server that sends them reads the answers.
impl ControlLane for Link {
    fn pong(&self, payload: &[u8]) {
        let mut outgoing = self.outgoing.lock();
        if !outgoing.close_sent {
            // The reader finds out by itself when the connection is gone.
            let _gone = outgoing.frames.write_pong(payload);
        }
    }

    fn close(&self, code: Option<u16>, reason: &str) {
        self.table.lock().close.get_or_insert((code, reason.to_owned()));
        self.send_close(code, reason);
    }
}

fn deliver(
    message: ServerMessage,
    messages: &Sender<ServerMessage>,
    late_progress: &LateProgress,
    closing: &Receiver<Infallible>,
) {
    match messages.try_send(message) {
        Ok(()) | Err(TrySendError::Disconnected(_)) => {}
        Err(TrySendError::Full(ServerMessage::QueryProgress(progress))) => {
            *late_progress.lock() = Some(progress);
        }
        // Woken by whoever takes a message, by the query's end of the channel being dropped, and by the client's close.
        Err(TrySendError::Full(message)) => select! {
            send(messages, message) -> _taken_or_dropped => {}
            recv(closing) -> _closed => {}
        },
    }
}

/// The reader: shakes hands, then reads until the connection is over.
///
/// Ends when: the server closes or is gone, it breaks the protocol, or the transport is shut down.
fn read_until_closed(
    mut read: Box<dyn ReadHalf>,
    mut write: Box<dyn io::Write + Send>,
    control: Arc<dyn TransportControl>,
    config: &LinkConfig,
    opened: &Sender<Result<Arc<Link>, HandshakeError>>,
) {
    // Nobody listens any more once the time for the handshake is up.
    let leftover = match client_handshake(read.as_mut(), write.as_mut(), &config.authority, &config.path) {
        Ok(leftover) => leftover,
        Err(error) => return opened.try_send(Err(error)).unwrap_or_default(),
    };
    let (open, closing) = bounded(0);
    let link = Arc::new(Link {
        outgoing: Mutex::new(Outgoing {
            frames: FrameWriter::new(write, Side::Client),
            scratch: Vec::new(),
            close_sent: false,
        }),
        table: Mutex::default(),
        control,
        open: Mutex::new(Some(open)),
    });
    if opened.try_send(Ok(Arc::clone(&link))).is_err() {
        return;
    }
    let mut ending = Ending { link: &link, end: None };
    let limits = InboundLimits {
        message_bytes_max: config.message_bytes_max,
    };
    let mut violation = None;
    let lane = Arc::clone(&link) as Arc<dyn ControlLane>;
    let (end, _read) = read_messages(read, leftover, Side::Client, limits, lane, |incoming| {
        match link.take(&incoming, &closing) {
            Ok(()) => ControlFlow::Continue(()),
            Err(text) => {
                violation = Some(text);
                ControlFlow::Break(())
            }
        }
    });
    ending.end = Some(match (end, violation) {
        (_, Some(text)) => {
            link.send_close(Some(CloseCode::ProtocolError.number()), "");
            ClientError::Protocol(text)
        }
        (ReadEnd::Closed, None) => {
            let (code, reason) = link.table.lock().close.take().unwrap_or_default();
            ClientError::Closed { code, reason }
        }
        // The transport was shut down by us.
        (ReadEnd::Gone(_), None) if link.outgoing.lock().close_sent => ClientError::Closed {
            code: Some(CloseCode::Normal.number()),
            reason: "the client has closed".to_owned(),
        },
        (ReadEnd::Gone(source), None) => ClientError::Lost {
            source: source.map(Arc::new),
        },
        (ReadEnd::Protocol(text), None) => ClientError::Protocol(text),
        (ReadEnd::InvalidUtf8, None) => ClientError::Protocol("a text message is not UTF-8".to_owned()),
        (ReadEnd::TooBig, None) => ClientError::Protocol(format!(
            "a message has more than the {} bytes allowed",
            config.message_bytes_max
        )),
        (ReadEnd::Stopped, None) => ClientError::Lost { source: None },
    });
}

impl Link {
    fn take(&self, incoming: &Incoming<'_>, closing: &Receiver<Infallible>) -> Result<(), String> {
        match incoming {
            Incoming::Text(text) => match decode_server_message(text) {
                Ok(Some(message)) => self.route(message, closing),
                Ok(None) => Ok(()), // a newer server's, or an application's own
                Err(error) => Err(format!("a message cannot be read: {error}")),
            },
            Incoming::Binary(_) => Err("a binary message that nobody asked for".to_owned()),
            Incoming::Pong => Ok(()),
        }
    }
}

/// Tells everybody that the reader has ended, also when it panics.
struct Ending<'a> {
    link: &'a Link,
    end: Option<ClientError>,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let panicked = || ClientError::Lost {
            source: Some(Arc::new(io::Error::other("the client's reader panicked"))),
        };
        self.link.finish(self.end.take().unwrap_or_else(panicked));
    }
}
