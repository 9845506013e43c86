//! Messages of the embedding application: beside streams, bounded, and harmless to them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rowstream::Server;
use rowstream::engine::memory::{MemoryEngine, Script};
use rowstream::server::{ApplicationMessage, ConnectionSender, Handled, MessageHandler, Overflow, Sent};
use serde_json::{Value, json};

use crate::support::{Plain, Wire, eventually};

/// Does what the message says.
#[derive(Clone, Default)]
struct Obedient {
    n_connected: Arc<AtomicUsize>,
    n_sent: Arc<AtomicUsize>,
}

impl MessageHandler for Obedient {
    fn connected(&self, _: &ConnectionSender) {
        self.n_connected.fetch_add(1, Ordering::AcqRel);
    }

    fn message(&self, message: ApplicationMessage<'_>, connection: &ConnectionSender) -> Handled {
        let text: Value = serde_json::from_str(message.text).unwrap();
        match message.kind {
            "panic" => panic!("on purpose"),
            "echo" => {
                assert_eq!(
                    connection.send(
                        json!({"type": "pong", "timestamp": text["say"]}).to_string(),
                        Overflow::DropNewest
                    ),
                    Sent::Queued
                );
                Handled::Yes
            }
            // More than may wait, whoever reads.
            "flood" => {
                let overflow = match text["overflow"].as_str() {
                    Some("oldest") => Overflow::DropOldest,
                    Some("newest") => Overflow::DropNewest,
                    _ => Overflow::Disconnect,
                };
                let huge = "x".repeat(300 * 1024);
                assert!(matches!(connection.send(huge, Overflow::DropNewest), Sent::Dropped));
                for _ in 0..20_000 {
                    if !matches!(
                        connection.send(
                            json!({"type": "pong", "timestamp": "x".repeat(1_000)}).to_string(),
                            overflow
                        ),
                        Sent::Dropped | Sent::Closed
                    ) {
                        self.n_sent.fetch_add(1, Ordering::AcqRel);
                    }
                }
                assert!(connection.dropped() > 0);
                Handled::Yes
            }
            _ => Handled::No,
        }
    }

    fn disconnected(&self, _: &ConnectionSender) {
        self.n_connected.fetch_sub(1, Ordering::AcqRel);
    }
}

fn serve() -> (rowstream::ServerHandle, Obedient) {
    let handler = Obedient::default();
    let script = Script::new(["n"]).generate(50_000, |n| vec![(n as i64).into()]);
    let server = Server::builder()
        .engine("memory", MemoryEngine::builder().query("q", script).build())
        .message_handler(handler.clone())
        .listen("127.0.0.1:0")
        .start()
        .unwrap();
    (server, handler)
}

#[test]
fn messages_of_the_application_live_beside_streams() {
    let (server, handler) = serve();
    let mut client = Plain::connect(&server);
    client.send(&json!({"type": "echo", "say": "hello"}));
    assert_eq!(
        client.recv(),
        Wire::Pong {
            timestamp: Some("hello".into())
        }
    );
    client.send(&json!({"type": "nobody knows", "request_id": 7}));
    let answer = client.recv();
    assert!(
        matches!(&answer, Wire::Error { code, request_id: Some(id), .. } if code == "BAD_MESSAGE" && *id == 7),
        "{answer:?}"
    );
    client.send(&json!({"type": "panic", "request_id": 8}));
    let answer = client.recv();
    assert!(
        matches!(&answer, Wire::Error { code, request_id: Some(id), .. } if code == "INTERNAL" && *id == 8),
        "{answer:?}"
    );
    client.run("q", json!({})).assert_completed();
    assert_eq!(handler.n_connected.load(Ordering::Acquire), 1);
    drop(client);
    eventually("nobody is connected", &0, || {
        handler.n_connected.load(Ordering::Acquire)
    });
}

#[test]
fn a_flood_of_the_application_costs_messages_and_no_rows() {
    for overflow in ["oldest", "newest"] {
        let (server, _) = serve();
        let mut client = Plain::connect(&server);
        client.query("q", json!({"progress_interval_ms": 0}));
        client.send(&json!({"type": "flood", "overflow": overflow}));
        let (mut n_rows, mut is_over) = (0, false);
        while !is_over {
            match client.recv() {
                Wire::QueryBatch { row_count, .. } => n_rows += row_count,
                Wire::QueryCompleted { .. } => is_over = true,
                _ => {}
            }
        }
        assert_eq!(n_rows, 50_000);
        drop(client);
        eventually("nothing is held", &0, || server.streams().bytes_held());
    }
}

#[test]
fn an_application_may_rather_have_the_connection_closed() {
    let (server, handler) = serve();
    let mut client = Plain::connect(&server);
    client.send(&json!({"type": "flood"}));
    assert_eq!(client.recv_close(), 4429);
    eventually("nobody is connected", &0, || {
        handler.n_connected.load(Ordering::Acquire)
    });
    assert!(handler.n_sent.load(Ordering::Acquire) >= 1);
}
