//! A server on a system that has one thread too few, at each point where it asks for one.
#![cfg(test)]
#![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

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
    /// Closed with 1013 after its upgrade.
    Closed,
}

fn query(server: &ServerHandle) -> Served {
    let (mut here, there) = memory_pair(64 * 1024);
    if server.serve_stream(there).is_err() {
        return Served::NotAtAll;
    }
    here.write_all(UPGRADE.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        here.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
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
