//! A server on a system that has one thread too few, at each point where it asks for one, or that fails to accept, at any connection.
#![cfg(test)]
#![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};

use super::listener::Listener;
use super::socket::{Accept, Accepted, Place, Socket};
use super::tls::Tls;
use super::{Server, ServerHandle, StartError};
use crate::clock;
use crate::engine::memory::{MemoryEngine, Script};
use crate::protocol::CloseCode;
use crate::thread::scarcity::{Outcome, refuse_nth};
use crate::transport::memory_pair;

/// Only bounds a test that fails.
const DEADLINE: Duration = Duration::from_secs(30);

const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

fn start(engine: &MemoryEngine) -> Result<ServerHandle, StartError> {
    let builder = Server::builder().engine("m", engine.clone()).workers(2);
    builder.listen("127.0.0.1:0").start()
}

/// What became of one connection.
#[derive(Debug, PartialEq, Eq)]
enum Served {
    Fully,
    NotAtAll,
    /// Told 503, without an upgrade.
    Refused,
    /// Closed with 1013 after its upgrade.
    Closed,
}

fn query(server: &ServerHandle) -> Served {
    let (here, there) = memory_pair(64 * 1024);
    match server.serve_stream(there) {
        Ok(_) => ask(here),
        Err(_) => Served::NotAtAll,
    }
}

/// Asks over a connection for what there is, and reads it to its end.
fn ask(mut here: impl Read + Write) -> Served {
    // Who is refused may be answered, and closed, before it has asked.
    let _asked = here.write_all(UPGRADE.as_bytes());
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        here.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    if head.starts_with(b"HTTP/1.1 503") {
        return Served::Refused;
    }
    // A text frame, masked with zeros.
    let query = br#"{"type":"stream_query","query":"q"}"#;
    let frame = [&[0x81, 0x80 | query.len() as u8, 0, 0, 0, 0], &query[..]].concat();
    // Who has no thread for it may have said so and gone already.
    let _taken = here.write_all(&frame);
    loop {
        let mut header = [0; 2];
        here.read_exact(&mut header).unwrap();
        let len = match header[1] {
            126 => {
                let mut len = [0; 2];
                here.read_exact(&mut len).unwrap();
                usize::from(u16::from_be_bytes(len))
            }
            len => usize::from(len),
        };
        let mut payload = vec![0; len];
        here.read_exact(&mut payload).unwrap();
        if header[0] == 0x88 {
            assert_eq!(payload[..2], CloseCode::TryAgainLater.number().to_be_bytes());
            return Served::Closed;
        }
        if payload.starts_with(br#"{"type":"query_completed""#) {
            return Served::Fully;
        }
    }
}

fn health(server: &ServerHandle) -> String {
    let mut socket = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut answer = String::new();
    // The answer may be there before the question, and nobody to take that.
    let _asked = socket.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let _reset_after_the_answer = socket.read_to_string(&mut answer);
    answer.lines().next().unwrap_or_default().to_owned()
}

fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let end = clock::now() + DEADLINE;
    while !holds() {
        assert!(clock::now() < end, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_thread_that_is_refused_costs_one_connection_or_the_start() {
    let engine = MemoryEngine::builder()
        .query("q", Script::new(["n"]).row([1.into()]))
        .build();
    let mut seen = Vec::new();
    for n in 0.. {
        let outcome = refuse_nth(n, || {
            let server = match start(&engine) {
                Ok(server) => server,
                Err(error) => {
                    assert!(matches!(error, StartError::Thread(_)), "{error}");
                    seen.push("no start".to_owned());
                    start(&engine).unwrap()
                }
            };
            for _ in 0..2 {
                let first = query(&server);
                if first != Served::Fully {
                    seen.push(format!("{first:?}"));
                    assert_eq!(query(&server), Served::Fully, "only one thread is refused");
                }
            }
            wait_until("connections end", || server.connections() == 0);
            let status = health(&server);
            if !status.contains("200") {
                seen.push(status);
                assert!(health(&server).contains("200"), "only one thread is refused");
            }
            let refusals = server.refusals();
            server.shutdown();
            assert!(refusals.no_thread <= 1);
            assert_eq!((engine.probe().cursors_open, server.streams().bytes_held()), (0, 0));
        });
        assert_eq!(outcome.n_alive, 0, "all threads are joined");
        if !outcome.has_refused {
            assert_eq!(
                outcome,
                Outcome {
                    has_refused: false,
                    n_alive: 0
                }
            );
            break;
        }
    }
    for what in ["no start", "NotAtAll", "Closed", "HTTP/1.1 503 Service Unavailable"] {
        assert!(seen.iter().any(|seen| seen == what), "{what}: {seen:?}");
    }
}

/// A socket whose `n`-th accept fails, counted from 0, once somebody waits to be accepted.
#[derive(Debug)]
struct Failing {
    socket: Socket,
    n: usize,
    /// The system's number.
    error: i32,
    n_asked: AtomicUsize,
    connected: Receiver<()>,
}

impl Accept for Failing {
    fn accept(&self) -> io::Result<Accepted> {
        if self.n_asked.fetch_add(1, Ordering::AcqRel) != self.n {
            return self.socket.accept();
        }
        let _somebody_waits = self.connected.recv();
        Err(io::Error::from_raw_os_error(self.error))
    }

    fn accept_waiting(&self) -> io::Result<Accepted> {
        self.socket.accept_waiting()
    }

    fn wake(&self) -> bool {
        self.socket.wake()
    }

    fn local_addr(&self) -> Option<SocketAddr> {
        self.socket.local_addr()
    }
}

impl fmt::Display for Failing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.socket.fmt(f)
    }
}

/// What `accept` fails with on Linux, and what that comes to for whoever waits: out of descriptors, of the system or of the process, there
/// is one kept back to say so with; out of memory, forbidden by a firewall, or a connection that is gone again, the listener rests
/// and goes on.
const FAILURES: [(i32, Served); 7] = [
    (23, Served::Refused),
    (24, Served::Refused),
    (12, Served::Fully),
    (105, Served::Fully),
    (1, Served::Fully),
    (71, Served::Fully),
    (103, Served::Fully),
];

#[test]
fn an_accept_that_fails_costs_one_connection_at_the_most() {
    const CONNECTIONS: usize = 3;
    let engine = MemoryEngine::builder()
        .query("q", Script::new(["n"]).row([1.into()]))
        .build();
    let server = start(&engine).unwrap();
    for (n, (error, becomes)) in (0..CONNECTIONS).flat_map(|n| FAILURES.iter().map(move |failure| (n, failure))) {
        let (connect, connected) = bounded(1);
        let failing = Failing {
            socket: Socket::bind(Place::Tcp(vec![([127, 0, 0, 1], 0).into()])).unwrap(),
            n,
            error: *error,
            n_asked: AtomicUsize::new(0),
            connected,
        };
        let before = server.refusals().no_descriptor;
        let listener = Listener::start(
            "failing",
            failing,
            Tls::default(),
            Arc::clone(&server.running.connections),
        )
        .unwrap();
        let address = listener.local_addr().unwrap();
        for connection in 0..CONNECTIONS {
            let stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            if connection == n {
                connect.send(()).unwrap();
            }
            let expected = if connection == n { becomes } else { &Served::Fully };
            assert_eq!(
                ask(stream),
                *expected,
                "error {error} at accept {n}, connection {connection}"
            );
        }
        drop(listener);
        assert_eq!(server.refusals().no_descriptor, before + 1);
        wait_until("connections end", || server.connections() == 0);
    }
    server.shutdown();
    assert_eq!((engine.probe().cursors_open, server.streams().bytes_held()), (0, 0));
}
