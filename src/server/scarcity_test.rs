//! A server on a system that has one thread too few, at each point where it asks for one.
#![cfg(test)]
#![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here
#![allow(clippy::wildcard_enum_match_arm)] // whatever else comes is passed over

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Message, client};

use super::{Server, ServerHandle, StartError};
use crate::clock;
use crate::engine::memory::{MemoryEngine, Script};
use crate::thread::scarcity::{Outcome, refuse_nth};
use crate::transport::memory_pair;

/// Only bounds a test that fails.
const DEADLINE: Duration = Duration::from_secs(30);

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
    let (here, there) = memory_pair(64 * 1024);
    if server.serve_stream(there).is_err() {
        return Served::NotAtAll;
    }
    let (mut socket, _) = client("ws://memory/ws", here).unwrap();
    socket
        .send(Message::text(r#"{"type":"stream_query","query":"q"}"#))
        .unwrap();
    loop {
        match socket.read().unwrap() {
            Message::Text(text) if text.contains("query_completed") => return Served::Fully,
            Message::Close(frame) => {
                assert_eq!(frame.unwrap().code, CloseCode::Again);
                return Served::Closed;
            }
            _ => {}
        }
    }
}

fn health(server: &ServerHandle) -> String {
    let mut socket = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut answer = String::new();
    // The answer may be there before the question, and nobody to take that.
    let _asked = socket.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    let _reset_after_the_answer = socket.read_to_string(&mut answer);
    answer.lines().next().unwrap_or_default().to_owned()
}

fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let end = clock::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < end, "{what}");
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
