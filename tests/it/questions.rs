//! What is asked beside the running of queries: bounded, and ended from outside, as queries are.

use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use rowstream::engine::Description;
use rowstream::server::{Limits, ServerBuilder};
use rowstream::{CancelToken, Cursor, Engine, EngineError, QuerySpec, Server, ServerHandle, StreamingConfig};
use serde_json::json;

use crate::auth::{ALICE, BOB, Few};
use crate::support::{DEADLINE, Plain, Wire, eventually};

/// What a test hears of the engine, and says to it.
struct Asked {
    /// Each question that it was asked.
    begun: Receiver<String>,
    /// Why each stopped.
    stopped: Receiver<Option<String>>,
    release: Sender<()>,
}

/// Takes its time to describe a query: "deaf" until the test releases it, anything else until it is told to stop.
struct Slow {
    begun: Sender<String>,
    stopped: Sender<Option<String>>,
    released: Receiver<()>,
}

impl Engine for Slow {
    fn open(&self, _: &QuerySpec, _: &CancelToken) -> Result<Box<dyn Cursor>, EngineError> {
        Err(EngineError::cancelled())
    }

    fn describe(&self, sql: &str, cancel: &CancelToken) -> Result<Description, EngineError> {
        self.begun.send(sql.to_owned()).unwrap();
        if sql == "deaf" {
            self.released.recv_timeout(DEADLINE).unwrap();
            return Ok(Description::default());
        }
        let (tell, told) = bounded(1);
        cancel.arm(move || {
            let _told_once = tell.try_send(());
        });
        told.recv_timeout(DEADLINE).unwrap();
        cancel.disarm();
        let reason = cancel.reason().map(|reason| reason.as_str().to_owned());
        self.stopped.send(reason).unwrap();
        Err(EngineError::cancelled())
    }
}

fn slow() -> (Slow, Asked) {
    let (begin, begun) = bounded(64);
    let (stop, stopped) = bounded(64);
    let (release, released) = bounded(64);
    let engine = Slow {
        begun: begin,
        stopped: stop,
        released,
    };
    let asked = Asked {
        begun,
        stopped,
        release,
    };
    (engine, asked)
}

impl Asked {
    #[track_caller]
    fn wait_begun(&self) {
        self.begun.recv_timeout(DEADLINE).unwrap();
    }

    #[track_caller]
    fn wait_stopped(&self) -> String {
        self.stopped.recv_timeout(DEADLINE).unwrap().unwrap()
    }
}

fn builder(engine: Slow) -> ServerBuilder {
    Server::builder().engine("first", engine).listen("127.0.0.1:0")
}

fn timely(engine: Slow, n_workers: usize, timeout: Duration) -> ServerHandle {
    let mut streaming = StreamingConfig::default();
    streaming.max_query_duration = timeout;
    builder(engine).workers(n_workers).streaming(streaming).start().unwrap()
}

fn ask(client: &mut Plain, query: &str, id: &str) {
    client.send(&json!({"type": "describe_query", "query": query, "request_id": id}));
}

#[track_caller]
fn check_refused(client: &mut Plain, expected: &str, id: &str) {
    let answer = client.recv();
    let Wire::Error {
        code,
        request_id,
        stream_id: None,
        ..
    } = &answer
    else {
        panic!("{answer:?}")
    };
    assert_eq!((code.as_str(), request_id), (expected, &Some(id.into())), "{answer:?}");
}

#[test]
fn a_question_has_a_time_limit_and_its_worker_comes_back() {
    let (engine, asked) = slow();
    let server = timely(engine, 1, Duration::from_millis(50));
    let mut client = Plain::connect(&server);
    for id in ["one", "two"] {
        ask(&mut client, "slow", id);
        check_refused(&mut client, "QUERY_TIMEOUT", id);
        // The only worker there is.
        assert_eq!(asked.wait_stopped(), "timeout");
    }
}

#[test]
fn a_question_that_waits_has_its_time_limit_although_no_worker_is_free() {
    let (engine, asked) = slow();
    let server = timely(engine, 1, Duration::from_millis(50));
    let mut client = Plain::connect(&server);
    ask(&mut client, "deaf", "asked");
    asked.wait_begun();
    ask(&mut client, "slow", "waiting");
    check_refused(&mut client, "QUERY_TIMEOUT", "waiting");
    asked.release.send(()).unwrap();
    // Late, and an answer all the same.
    let answer = client.recv();
    assert!(matches!(answer, Wire::QueryDescription { .. }), "{answer:?}");
    assert!(asked.begun.is_empty(), "nobody asks what has been answered");
}

#[test]
fn questions_are_counted_with_the_streams_of_their_connection() {
    let (engine, asked) = slow();
    let server = builder(engine)
        .workers(1)
        .streams_per_connection_max(2)
        .start()
        .unwrap();
    let mut client = Plain::connect(&server);
    ask(&mut client, "deaf", "asked");
    asked.wait_begun();
    ask(&mut client, "deaf", "waiting");
    ask(&mut client, "deaf", "refused");
    check_refused(&mut client, "TOO_MANY_STREAMS", "refused");
    client.query("few", json!({"request_id": "query"}));
    check_refused(&mut client, "TOO_MANY_STREAMS", "query");
    for _ in 0..2 {
        asked.release.send(()).unwrap();
        assert!(matches!(client.recv(), Wire::QueryDescription { .. }));
        // There is room as soon as there is an answer.
        ask(&mut client, "deaf", "again");
    }
    for _ in 0..2 {
        asked.release.send(()).unwrap();
        assert!(matches!(client.recv(), Wire::QueryDescription { .. }));
    }
}

#[test]
fn questions_are_counted_with_the_streams_of_their_principal_and_of_the_server() {
    let (engine, asked) = slow();
    let (second, _) = slow();
    let mut limits = Limits::default();
    limits.streams_per_principal_max = 1;
    limits.streams_max = 1;
    let server = builder(engine)
        .engine("second", second)
        .authenticator(Few)
        .limits(limits)
        .start()
        .unwrap();
    let connect = |token: &str| Plain::connect_with(&server, &[("authorization", &format!("Bearer {token}"))]);
    let mut clients = [connect(ALICE), connect(ALICE), connect(BOB)];
    ask(&mut clients[0], "deaf", "asked");
    asked.wait_begun();
    for client in &mut clients[1..] {
        ask(client, "deaf", "refused");
        check_refused(client, "TOO_MANY_STREAMS", "refused");
    }
    asked.release.send(()).unwrap();
    assert!(matches!(clients[0].recv(), Wire::QueryDescription { .. }));
    ask(&mut clients[1], "deaf", "again");
    asked.release.send(()).unwrap();
    assert!(matches!(clients[1].recv(), Wire::QueryDescription { .. }));
}

#[test]
fn questions_end_with_their_connection() {
    let (engine, asked) = slow();
    let server = builder(engine)
        .workers(1)
        .streams_per_connection_max(2)
        .start()
        .unwrap();
    let mut lost = Plain::connect(&server);
    ask(&mut lost, "slow", "asked");
    asked.wait_begun();
    ask(&mut lost, "slow", "waiting");
    lost.assert_silence();
    drop(lost);
    assert_eq!(asked.wait_stopped(), "disconnect");
    eventually("connections", &0, || server.connections());
    let mut client = Plain::connect(&server);
    ask(&mut client, "deaf", "next");
    asked.release.send(()).unwrap();
    assert!(matches!(client.recv(), Wire::QueryDescription { .. }));
    let begun: Vec<_> = asked.begun.try_iter().collect();
    assert_eq!(begun, ["deaf"], "what waited is never asked");
}

#[test]
fn a_server_that_goes_away_answers_its_questions() {
    for drains in [true, false] {
        let (engine, asked) = slow();
        let server = builder(engine).workers(1).start().unwrap();
        let mut client = Plain::connect(&server);
        ask(&mut client, "slow", "asked");
        asked.wait_begun();
        ask(&mut client, "slow", "waiting");
        client.assert_silence();
        thread::scope(|scope| {
            scope.spawn(|| {
                if drains {
                    server.drain(DEADLINE);
                }
                server.shutdown();
            });
            if drains {
                let goaway = client.recv();
                assert!(matches!(goaway, Wire::Goaway { .. }), "{goaway:?}");
            }
            let mut ids = Vec::new();
            for _ in 0..2 {
                let answer = client.recv();
                let Wire::Error { code, request_id, .. } = answer else {
                    panic!("{answer:?}")
                };
                assert_eq!(code, "SHUTTING_DOWN");
                ids.push(request_id.unwrap());
            }
            assert!(
                ids.contains(&"waiting".into()) && ids.contains(&"asked".into()),
                "{ids:?}"
            );
            assert_eq!(client.recv_close(), if drains { 1012 } else { 1001 });
            assert_eq!(asked.wait_stopped(), "shutdown");
            drop(client);
        });
    }
}
