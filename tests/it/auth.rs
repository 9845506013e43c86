//! Who may come in, by which way, and what is told to who may not.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use crossbeam_channel::{Receiver, bounded};
use rowstream::auth::{AuthError, Authenticator, Credentials, Identity, TokenFile};
use rowstream::client::{Client, ClientError, Event};
use rowstream::server::{ApplicationMessage, ConnectionSender, Handled, MessageHandler, Overflow, ServerBuilder};
use rowstream::{Gate, MemoryEngine, Script, Server, ServerHandle};
use serde_json::{Value, json};

use crate::support::{DEADLINE, Plain, Wire, eventually};

pub(crate) const ALICE: &str = "token-of-alice-0000000000";
/// Another one of the same principal, with other rights.
const ALICE_AS_ADMIN: &str = "token-of-alice-1111111111";
/// And one that may ask another engine only.
const ALICE_ELSEWHERE: &str = "token-of-alice-2222222222";
pub(crate) const BOB: &str = "token-of-bob-000000000000";
pub(crate) const ADMIN: &str = "token-of-admin-0000000000";

/// A few tokens, and what else an authenticator may say.
#[derive(Debug)]
pub(crate) struct Few;

impl Authenticator for Few {
    fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Identity, AuthError> {
        assert!(credentials.peer().is_some_and(|peer| peer.is_loopback()));
        match credentials.token() {
            ALICE => Ok(Identity::new("alice")),
            ALICE_AS_ADMIN => Ok(Identity::new("alice").with_admin()),
            ALICE_ELSEWHERE => Ok(Identity::new("alice").with_engines(["second"])),
            BOB => Ok(Identity::new("bob").with_engines(["second"])),
            ADMIN => Ok(Identity::new("ops").without_query().with_admin()),
            "banned" => Err(AuthError::Forbidden),
            "unlucky" => Err(AuthError::Unavailable("no answer".to_owned())),
            "panic" => panic!("as a test wants it"),
            _ => Err(AuthError::Rejected),
        }
    }
}

pub(crate) fn engine() -> MemoryEngine {
    let rows = |n: i64| (0..n).map(|n| vec![n.into()]);
    MemoryEngine::builder()
        .query("few", Script::new(["n"]).rows(rows(3)))
        .query(
            "endless",
            Script::new(["n"]).rows(rows(3)).gate(&Gate::new()).rows(rows(1)),
        )
        .build()
}

pub(crate) fn builder() -> ServerBuilder {
    Server::builder()
        .engine("first", engine())
        .engine("second", engine())
        .listen("127.0.0.1:0")
        .authenticator(Few)
}

fn server() -> ServerHandle {
    // Guessing is told apart from asking too fast, which has tests of its own.
    let mut limits = rowstream::server::Limits::default();
    limits.message_rate = None;
    builder().auth_failures_per_minute(0).limits(limits).start().unwrap()
}

fn connect(server: &ServerHandle, token: &str) -> Plain {
    Plain::connect_with(server, &[("authorization", &format!("Bearer {token}"))])
}

fn subprotocol(token: &str) -> String {
    format!("rowstream.auth.bearer.{}", URL_SAFE_NO_PAD.encode(token))
}

/// What the server answers to an upgrade with these headers besides, up to the end of its head.
pub(crate) fn upgrade(server: &ServerHandle, headers: &str) -> String {
    let host = if headers.contains("Host: ") {
        ""
    } else {
        "Host: localhost\r\n"
    };
    let request = format!(
        "GET /ws HTTP/1.1\r\n{host}Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    );
    let mut socket = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte).unwrap();
        answer.extend(byte);
    }
    String::from_utf8(answer).unwrap()
}

#[track_caller]
pub(crate) fn check_status(server: &ServerHandle, headers: &str, status: &str) {
    let answer = upgrade(server, headers);
    assert_eq!(&answer[9..12], status, "{headers}: {answer}");
}

/// A `hello` that is refused, and how.
#[track_caller]
fn check_hello(client: &mut Plain, token: &str, code: &str, close: u16) {
    client.send(&json!({"type": "hello", "token": token, "request_id": "h"}));
    check_turned_away(client, code, Some("h".into()), close);
}

#[track_caller]
fn check_turned_away(client: &mut Plain, expected: &str, id: Option<Value>, close: u16) {
    let answer = client.recv();
    let Wire::Error { code, request_id, .. } = &answer else {
        panic!("{answer:?}")
    };
    assert_eq!((code.as_str(), request_id), (expected, &id), "{answer:?}");
    assert_eq!(client.recv_close(), close);
}

#[test]
fn there_are_three_ways_in() {
    let server = server();
    let mut by_header = connect(&server, ALICE);
    by_header.run("few", json!({})).assert_completed();

    let offered = format!("rowstream.v1, {}", subprotocol(ALICE));
    let headers = [("sec-websocket-protocol", offered.as_str())];
    let mut by_subprotocol = Plain::connect_with(&server, &headers);
    assert!(matches!(by_subprotocol.recv(), Wire::Welcome { .. }));
    by_subprotocol.run("few", json!({})).assert_completed();

    let mut by_hello = Plain::connect_with(&server, &[("sec-websocket-protocol", "rowstream.v1")]);
    // Nobody is welcomed who is not known yet.
    by_hello.assert_silence();
    by_hello.send(&json!({"type": "hello", "token": ALICE, "request_id": "me"}));
    let welcome = by_hello.recv();
    assert!(
        matches!(&welcome, Wire::Welcome { request_id: Some(id), .. } if id == "me"),
        "{welcome:?}"
    );
    by_hello.run("few", json!({})).assert_completed();
}

#[test]
fn a_token_among_the_subprotocols_is_never_echoed() {
    let server = server();
    let token = subprotocol(ALICE);
    for offered in [
        format!("Sec-WebSocket-Protocol: rowstream.v1, {token}\r\n"),
        format!("Sec-WebSocket-Protocol: {token}\r\nSec-WebSocket-Protocol: rowstream.v1\r\n"),
    ] {
        let answer = upgrade(&server, &offered).to_lowercase();
        assert!(answer.starts_with("http/1.1 101 "), "{answer}");
        assert!(
            answer.contains("\r\nsec-websocket-protocol: rowstream.v1\r\n"),
            "{answer}"
        );
        assert!(!answer.contains("bearer"), "{answer}");
    }
    // A browser would drop a connection of which no subprotocol was chosen.
    check_status(&server, &format!("Sec-WebSocket-Protocol: {token}\r\n"), "400");
}

#[test]
fn who_shows_a_wrong_token_is_told_so_before_the_upgrade() {
    let server = server();
    for headers in [
        "Authorization: Bearer nobodys\r\n",
        "Authorization: Bearer \r\n",
        "Authorization: Basic YTpi\r\n",
        &format!("Authorization: Bearer {ALICE}\r\nAuthorization: Bearer {ALICE}\r\n"),
        &format!(
            "Authorization: Bearer {ALICE}\r\nSec-WebSocket-Protocol: rowstream.v1, {}\r\n",
            subprotocol(ALICE)
        ),
        &format!("Sec-WebSocket-Protocol: rowstream.v1, {}\r\n", subprotocol("nobodys")),
        "Sec-WebSocket-Protocol: rowstream.v1, rowstream.auth.bearer.\r\n",
    ] {
        let answer = upgrade(&server, headers);
        assert!(
            answer.starts_with("HTTP/1.1 401 Unauthorized\r\n"),
            "{headers}: {answer}"
        );
        assert!(
            answer.contains("\r\nWWW-Authenticate: Bearer realm=\"rowstream\""),
            "{answer}"
        );
    }
    check_status(&server, "Authorization: Bearer banned\r\n", "403");
    check_status(&server, "Authorization: Bearer unlucky\r\n", "503");
    check_status(&server, "Authorization: Bearer panic\r\n", "503");
    eventually("connections", &0, || server.connections());
}

#[test]
fn who_says_hello_with_a_wrong_token_is_told_so_and_closed() {
    let server = server();
    check_hello(&mut Plain::connect(&server), "nobodys", "UNAUTHENTICATED", 4401);
    check_hello(&mut Plain::connect(&server), "", "UNAUTHENTICATED", 4401);
    check_hello(&mut Plain::connect(&server), "banned", "PERMISSION_DENIED", 4403);
    check_hello(&mut Plain::connect(&server), "unlucky", "INTERNAL", 1013);
    check_hello(&mut Plain::connect(&server), "panic", "INTERNAL", 1013);
    let mut without = Plain::connect(&server);
    without.send(&json!({"type": "hello"}));
    check_turned_away(&mut without, "UNAUTHENTICATED", None, 4401);
    eventually("connections", &0, || server.connections());
}

/// Counts its calls.
#[derive(Default)]
struct Calls {
    connected: AtomicUsize,
    messages: AtomicUsize,
    disconnected: AtomicUsize,
}

struct Counting(Arc<Calls>);

impl MessageHandler for Counting {
    fn connected(&self, connection: &ConnectionSender) {
        self.0.connected.fetch_add(1, Ordering::Relaxed);
        let whose = json!({"type": "whose", "name": connection.principal()}).to_string();
        connection.send(whose, Overflow::Disconnect);
    }

    fn message(&self, _message: ApplicationMessage<'_>, _connection: &ConnectionSender) -> Handled {
        self.0.messages.fetch_add(1, Ordering::Relaxed);
        Handled::Yes
    }

    fn disconnected(&self, _connection: &ConnectionSender) {
        self.0.disconnected.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn strangers_are_served_nothing_but_ping_and_hello() {
    let calls = Arc::new(Calls::default());
    let server = builder().message_handler(Counting(Arc::clone(&calls))).start().unwrap();
    let id = "7f1b4c1e-5a0e-4a53-9d8f-1c5f5f1f4f10";
    for (message, request_id) in [
        (
            json!({"type": "stream_query", "query": "few", "request_id": "q"}),
            Some("q".into()),
        ),
        (
            json!({"type": "describe_query", "query": "few", "request_id": 7}),
            Some(7.into()),
        ),
        (
            json!({"type": "resume_query", "resume_token": "x", "last_batch": 0}),
            None,
        ),
        (json!({"type": "list_queries"}), None),
        (json!({"type": "cancel_query", "stream_id": id}), None),
        (json!({"type": "cancel_query", "request_id": "c"}), Some("c".into())),
        (json!({"type": "query_status", "stream_id": id}), None),
        (json!({"type": "ack", "stream_id": id, "batch_number": 0}), None),
        (json!({"type": "pause_query", "stream_id": id}), None),
        (json!({"type": "unpause_query", "stream_id": id}), None),
        (json!({"type": "set_priority", "stream_id": id}), None),
        (json!({"type": "subscribe", "request_id": "s"}), Some("s".into())),
    ] {
        let mut stranger = Plain::connect(&server);
        stranger.assert_silence();
        stranger.send(&message);
        check_turned_away(&mut stranger, "UNAUTHENTICATED", request_id, 4401);
    }
    eventually("connections", &0, || server.connections());
    assert_eq!(server.streams().statistics().started, 0);
    let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    assert_eq!((count(&calls.connected), count(&calls.messages)), (0, 0));

    let mut alice = connect(&server, ALICE);
    let whose: Value = serde_json::from_str(&alice.next_raw().into_text().unwrap()).unwrap();
    assert_eq!(whose["name"], "alice", "{whose}");
    alice.send(&json!({"type": "subscribe"}));
    alice.assert_silence();
    drop(alice);
    eventually("connections", &0, || server.connections());
    assert_eq!(count(&calls.messages), 1);
    assert_eq!((count(&calls.connected), count(&calls.disconnected)), (1, 1));
}

#[test]
fn silent_connections_are_closed_at_the_deadline() {
    let server = builder().auth_deadline(Duration::from_millis(300)).start().unwrap();
    let mut known = connect(&server, ALICE);
    let mut late: Vec<Plain> = (0..48).map(|_| Plain::connect(&server)).collect();
    for stranger in &mut late {
        assert_eq!(stranger.recv_close(), 4408);
    }
    // Also those that do not answer the close: nothing here has.
    eventually("connections", &1, || server.connections());
    // Its deadline was before theirs.
    known.assert_silence();
    eventually("bytes held", &0, || server.streams().bytes_held());
}

#[test]
fn a_token_is_looked_at_no_longer_than_the_deadline() {
    struct Slow(Receiver<()>);

    impl Authenticator for Slow {
        fn authenticate(&self, _credentials: &Credentials<'_>) -> Result<Identity, AuthError> {
            let _released = self.0.recv_timeout(DEADLINE);
            Ok(Identity::new("late"))
        }
    }

    let (release, released) = bounded::<()>(0);
    let builder = Server::builder().engine("first", engine()).listen("127.0.0.1:0");
    let builder = builder.auth_deadline(Duration::from_millis(100));
    let server = builder.authenticator(Arc::new(Slow(released))).start().unwrap();

    let mut by_header = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    by_header.set_read_timeout(Some(DEADLINE)).unwrap();
    let request = "GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: Bearer x\r\n\r\n";
    by_header.write_all(request.as_bytes()).unwrap();
    assert_eq!(by_header.read(&mut [0; 64]).unwrap(), 0, "cut off without a word");

    let mut by_hello = Plain::connect(&server);
    by_hello.send(&json!({"type": "hello", "token": "x"}));
    assert_eq!(by_hello.recv_close(), 4408);
    drop(release);
    eventually("connections", &0, || server.connections());
}

#[test]
fn the_deadline_of_the_request_is_none_for_its_token() {
    /// Takes longer than any request may.
    struct Slow;

    impl Authenticator for Slow {
        fn authenticate(&self, _credentials: &Credentials<'_>) -> Result<Identity, AuthError> {
            let (_never, nothing) = bounded::<()>(0);
            let _time_is_up = nothing.recv_timeout(Duration::from_millis(2_000));
            Ok(Identity::new("late"))
        }
    }

    let mut limits = rowstream::server::Limits::default();
    limits.head_deadline = Duration::from_secs(1);
    let builder = Server::builder().engine("first", engine()).listen("127.0.0.1:0");
    let builder = builder.limits(limits).auth_deadline(DEADLINE);
    let server = builder.authenticator(Slow).start().unwrap();
    let mut client = connect(&server, "x");
    assert_eq!(client.run("few", json!({})).rows.len(), 3);
}

#[test]
fn a_token_can_be_refreshed_by_its_principal_only() {
    let server = server();
    let mut alice = connect(&server, ALICE);
    let everybodys = json!({"type": "list_queries", "scope": "all"});
    alice.send(&everybodys);
    assert!(matches!(alice.recv(), Wire::Error { code, .. } if code == "PERMISSION_DENIED"));
    alice.send(&json!({"type": "hello", "token": ALICE_AS_ADMIN}));
    assert!(matches!(alice.recv(), Wire::Welcome { .. }));
    alice.send(&everybodys);
    assert!(matches!(alice.recv(), Wire::QueryList { total: 0, .. }));
    // Who is known need not say it again.
    alice.send(&json!({"type": "hello"}));
    assert!(matches!(alice.recv(), Wire::Welcome { .. }));
    check_hello(&mut alice, BOB, "PERMISSION_DENIED", 4403);
    let mut alice = connect(&server, ALICE);
    check_hello(&mut alice, "nobodys", "UNAUTHENTICATED", 4401);
}

/// An answer without what tells streams apart.
fn anonymous(answer: &Wire, id: &str) -> String {
    format!("{answer:?}").replace(id, "ID")
}

#[test]
fn to_anyone_else_a_stream_does_not_exist() {
    let server = server();
    let mut alice = connect(&server, ALICE);
    alice.query("endless", json!({"resumable": true, "batch_size": 1}));
    let id = alice.recv_started();
    let mut bob = connect(&server, BOB);
    let unknown = rowstream::QueryStreamId::random().to_string();
    for message in [
        json!({"type": "cancel_query"}),
        json!({"type": "query_status"}),
        json!({"type": "pause_query"}),
        json!({"type": "unpause_query"}),
        json!({"type": "set_priority", "priority": 7}),
        json!({"type": "ack", "batch_number": 0}),
        json!({"type": "ack", "batch_number": -1, "end": true}),
    ] {
        let mut answers = Vec::new();
        for named in [&id, &unknown] {
            let mut message = message.clone();
            message["stream_id"] = named.as_str().into();
            bob.send(&message);
            let answer = bob.recv();
            assert!(
                matches!(&answer, Wire::Error { code, .. } if code == "STREAM_NOT_FOUND"),
                "{answer:?}"
            );
            answers.push(anonymous(&answer, named));
        }
        assert_eq!(answers[0], answers[1], "{message}");
    }
    bob.send(&json!({"type": "list_queries"}));
    assert!(matches!(bob.recv(), Wire::QueryList { total: 0, .. }));
    bob.send(&json!({"type": "list_queries", "scope": "all"}));
    assert!(matches!(bob.recv(), Wire::Error { code, .. } if code == "PERMISSION_DENIED"));

    for n in 0..10_000 {
        bob.send(&json!({"type": "cancel_query", "stream_id": rowstream::QueryStreamId::random()}));
        let answer = bob.recv();
        assert!(
            matches!(&answer, Wire::Error { code, .. } if code == "STREAM_NOT_FOUND"),
            "{n}: {answer:?}"
        );
    }
    // To its own client it does, from every connection.
    let mut again = connect(&server, ALICE);
    again.send(&json!({"type": "query_status", "stream_id": id}));
    let status = again.recv_unchecked();
    assert!(
        matches!(&status, Wire::QueryStatus(status) if status.stream_id == id && status.principal.is_none()),
        "{status:?}"
    );
    again.send(&json!({"type": "cancel_query", "stream_id": id}));
    assert_eq!(alice.finish().cancel_reason(), "client");
}

#[test]
fn a_stolen_resume_token_is_good_for_nothing() {
    let server = server();
    let mut alice = connect(&server, ALICE);
    alice.query("few", json!({"resumable": true, "request_id": "mine"}));
    let Wire::QueryStarted {
        resume_token: Some(token),
        ..
    } = alice.recv()
    else {
        panic!("no token")
    };
    alice.finish();
    // The next one is of this server too, and good no more.
    alice.query("few", json!({"resumable": true}));
    let Wire::QueryStarted {
        stream_id: used_up,
        resume_token: Some(dead),
        ..
    } = alice.recv()
    else {
        panic!("no token")
    };
    let end = alice.finish();
    alice.send(&json!({"type": "ack", "stream_id": used_up, "batch_number": end.batches.len() - 1, "end": true}));
    alice.assert_silence();

    let resume =
        |token: &str| json!({"type": "resume_query", "resume_token": token, "last_batch": -1, "request_id": "r"});
    let mut bob = connect(&server, BOB);
    bob.send(&resume(&token));
    let stolen = bob.recv();
    bob.send(&resume(&dead));
    assert_eq!(stolen, bob.recv(), "as for a token that is nobody's");
    assert!(
        matches!(&stolen, Wire::Error { code, .. } if code == "RESUME_EXPIRED"),
        "{stolen:?}"
    );
    // An administrator is not the client either.
    let mut admin = connect(&server, ALICE_AS_ADMIN);
    admin.send(&resume(&token));
    assert!(
        matches!(admin.recv_unchecked(), Wire::QueryResumed { .. }),
        "the same principal"
    );
}

#[test]
fn administrators_see_and_cancel_everybodys_streams_and_are_named_as_the_reason() {
    let server = server();
    let mut alice = connect(&server, ALICE);
    alice.query("endless", json!({}));
    let of_alice = alice.recv_started();
    let mut bob = connect(&server, BOB);
    bob.query("endless", json!({}));
    let of_bob = bob.recv_started();
    let mut reports: Vec<_> = server
        .streams()
        .reports()
        .iter()
        .map(|report| report.principal.clone())
        .collect();
    reports.sort();
    assert_eq!(reports, [Some("alice".to_owned()), Some("bob".to_owned())]);

    let mut admin = connect(&server, ADMIN);
    admin.send(&json!({"type": "list_queries"}));
    assert!(matches!(admin.recv(), Wire::QueryList { total: 0, .. }));
    admin.send(&json!({"type": "list_queries", "scope": "all", "request_id": "all"}));
    let Wire::QueryList {
        queries,
        total: 2,
        request_id: Some(_),
    } = admin.recv()
    else {
        panic!("no list")
    };
    let whose = |id: &str| {
        let found = queries.iter().find(|status| status.stream_id == id);
        found.and_then(|status| status.principal.as_deref())
    };
    assert_eq!((whose(&of_alice), whose(&of_bob)), (Some("alice"), Some("bob")));
    admin.send(&json!({"type": "query_status", "stream_id": of_alice}));
    let status = admin.recv_unchecked();
    assert!(
        matches!(&status, Wire::QueryStatus(status) if status.principal.as_deref() == Some("alice")),
        "{status:?}"
    );
    for (client, id) in [(&mut alice, &of_alice), (&mut bob, &of_bob)] {
        admin.send(&json!({"type": "cancel_query", "stream_id": id}));
        assert_eq!(client.finish().cancel_reason(), "admin");
    }
    // Seeing is not having: only the connection that has a stream paces it.
    alice.query("endless", json!({}));
    let id = alice.recv_started();
    admin.send(&json!({"type": "pause_query", "stream_id": id}));
    assert!(matches!(admin.recv(), Wire::Error { code, .. } if code == "STREAM_NOT_FOUND"));
    // It may not query.
    for message in [
        json!({"type": "stream_query", "query": "few", "request_id": "q"}),
        json!({"type": "describe_query", "query": "few", "request_id": "q"}),
        json!({"type": "resume_query", "resume_token": "x", "last_batch": -1, "request_id": "q"}),
    ] {
        admin.send(&message);
        let answer = admin.recv();
        assert!(
            matches!(&answer, Wire::Error { code, request_id: Some(id), .. } if code == "PERMISSION_DENIED" && id == "q"),
            "{answer:?}"
        );
    }
}

#[test]
fn an_engine_that_somebody_may_not_ask_does_not_exist_for_them() {
    let server = server();
    let mut bob = connect(&server, BOB);
    for kind in ["stream_query", "describe_query"] {
        let mut answers = Vec::new();
        for engine in ["first", "third"] {
            bob.send(&json!({"type": kind, "query": "few", "engine": engine}));
            let answer = bob.recv();
            assert!(
                matches!(&answer, Wire::Error { code, .. } if code == "BAD_MESSAGE"),
                "{answer:?}"
            );
            let text = format!("{answer:?}");
            assert!(text.contains("second") && !text.contains("first"), "{text}");
            answers.push(text);
        }
        assert_eq!(answers[0], answers[1]);
    }
    bob.send(&json!({"type": "hello"}));
    assert!(matches!(bob.recv(), Wire::Welcome { engines, .. } if engines == ["second"]));
    bob.run("few", json!({"engine": "second"})).assert_completed();
    // The first that it may ask is its default.
    bob.query("endless", json!({}));
    bob.recv_started();
    assert_eq!(server.streams().reports()[0].engine, "second");
}

#[test]
fn a_stream_is_not_resumed_without_the_right_to_its_engine() {
    let server = server();
    let mut alice = connect(&server, ALICE);
    let mut start = |engine: &str| {
        alice.query("few", json!({"resumable": true, "engine": engine}));
        let Wire::QueryStarted {
            resume_token: Some(token),
            ..
        } = alice.recv()
        else {
            panic!("no token")
        };
        alice.finish();
        token
    };
    let (token, other) = (start("first"), start("second"));
    drop(alice);
    let resume = |token: &str| json!({"type": "resume_query", "resume_token": token, "last_batch": -1});
    let mut elsewhere = connect(&server, ALICE_ELSEWHERE);
    elsewhere.send(&resume(&token));
    let denied = elsewhere.recv();
    assert!(
        matches!(&denied, Wire::Error { code, .. } if code == "RESUME_DENIED"),
        "{denied:?}"
    );
    elsewhere.send(&resume("nobody's"));
    assert_eq!(denied, elsewhere.recv(), "as for a token that is nobody's");
    elsewhere.send(&resume(&other));
    assert!(matches!(elsewhere.recv(), Wire::QueryResumed { .. }));
    // That changed nothing for whoever may.
    let mut alice = connect(&server, ALICE);
    alice.send(&resume(&token));
    assert!(matches!(alice.recv(), Wire::QueryResumed { .. }));
}

#[test]
fn guessing_is_over_after_ten_tokens() {
    let server = builder().start().unwrap();
    let mut before = connect(&server, ALICE);
    for n in 0..9 {
        check_status(&server, &format!("Authorization: Bearer guess-{n}\r\n"), "401");
    }
    check_hello(&mut Plain::connect(&server), "guess", "UNAUTHENTICATED", 4401);
    // Of one that has never been right nobody knows whether it is a guess.
    for token in ["guess", ALICE_ELSEWHERE] {
        let answer = upgrade(&server, &format!("Authorization: Bearer {token}\r\n"));
        assert!(answer.starts_with("HTTP/1.1 429 Too Many Requests\r\n"), "{answer}");
        assert!(answer.contains("\r\nRetry-After: "), "{answer}");
        check_hello(&mut Plain::connect(&server), token, "UNAUTHENTICATED", 4429);
    }
    // One that has been right is.
    check_status(&server, &format!("Authorization: Bearer {ALICE}\r\n"), "101");
    // Nobody else waits for it.
    before.run("few", json!({})).assert_completed();
}

#[test]
fn a_program_with_a_wrong_token_locks_out_no_other() {
    let server = builder().start().unwrap();
    for n in 0..12 {
        let status = if n < 10 { "401" } else { "429" };
        check_status(&server, "Authorization: Bearer the same again\r\n", status);
    }
    check_status(&server, &format!("Authorization: Bearer {ALICE}\r\n"), "101");
}

#[test]
fn a_token_of_a_file_is_let_in_whatever_else_its_address_has_shown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens");
    let (token, line) = TokenFile::generate(&Identity::new("alice")).unwrap();
    std::fs::write(&path, line + "\n").unwrap();
    let server = Server::builder()
        .engine("first", engine())
        .listen("127.0.0.1:0")
        .authenticator(TokenFile::open(&path).unwrap())
        .start()
        .unwrap();
    for n in 0..12 {
        let status = if n < 10 { "401" } else { "429" };
        check_status(
            &server,
            &format!("Authorization: Bearer a-guess-of-more-than-22-chars-{n}\r\n"),
            status,
        );
    }
    check_status(&server, &format!("Authorization: Bearer {}\r\n", token.expose()), "101");
    let mut client = Plain::connect(&server);
    client.send(&json!({"type": "hello", "token": token.expose()}));
    assert!(matches!(client.recv(), Wire::Welcome { .. }));
    check_status(
        &server,
        "Authorization: Bearer a-guess-of-more-than-22-chars-x\r\n",
        "429",
    );
}

#[test]
fn without_an_authenticator_nobody_is_asked() {
    let server = Server::builder()
        .engine("first", engine())
        .listen("127.0.0.1:0")
        .start()
        .unwrap();
    check_status(&server, "Authorization: Bearer whatever\r\n", "101");
    check_status(&server, "Authorization: nonsense\r\n", "101");
    let mut client = Plain::connect(&server);
    client.send(&json!({"type": "hello", "token": "whatever"}));
    assert!(matches!(client.recv(), Wire::Welcome { .. }));
    client.send(&json!({"type": "list_queries", "scope": "all"}));
    assert!(matches!(client.recv(), Wire::Error { code, .. } if code == "PERMISSION_DENIED"));
    client.run("few", json!({})).assert_completed();
}

#[track_caller]
fn check_denied(result: Result<Client, ClientError>, says: &str) {
    match result {
        Err(ClientError::Denied { message }) => assert!(message.contains(says), "{message}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_client_library_shows_its_token() {
    let server = server();
    let url = format!("ws://{}/ws", server.local_addr().unwrap());
    let client = Client::builder().token(ALICE).connect(&url).unwrap();
    let n_rows: usize = client
        .query("few")
        .start()
        .unwrap()
        .map(|batch| batch.unwrap().len())
        .sum();
    assert_eq!(n_rows, 3);
    let refused = client.list_all().unwrap_err();
    assert!(matches!(&refused, ClientError::Query(error) if error.code.as_str() == "PERMISSION_DENIED"));
    assert_eq!(client.list().unwrap().total, 0);
    check_denied(
        Client::builder().token("nobodys").connect(&url),
        "nobody has this token",
    );
    check_denied(Client::builder().token("banned").connect(&url), "may not come in");
    let broken = Client::builder().token("a b\r\nx: y").connect(&url).unwrap_err();
    assert!(!format!("{broken} {broken:?}").contains("x: y"), "{broken}");

    // Without one, the server finds out with the first question.
    let stranger = Client::connect(&url).unwrap();
    let refused = stranger.list().unwrap_err();
    assert!(matches!(&refused, ClientError::Denied { .. }), "{refused:?}");
    let stranger = Client::connect(&url).unwrap();
    let refused = stranger.query("few").start().unwrap_err();
    assert!(
        matches!(&refused, ClientError::Query(error) if error.code.as_str() == "UNAUTHENTICATED"),
        "{refused:?}"
    );
}

#[test]
fn the_client_library_shows_its_token_again_when_it_connects_anew() {
    let gate = Gate::new();
    let script = Script::new(["n"])
        .rows([vec![1.into()]])
        .gate(&gate)
        .rows([vec![2.into()]]);
    let engine = MemoryEngine::builder().query("q", script).build();
    let builder = Server::builder().engine("m", engine).listen("127.0.0.1:0");
    let server = builder.authenticator(Few).start().unwrap();
    let address = server.local_addr().unwrap();
    let (sockets, dialled) = bounded(8);
    let dial = move || {
        let socket = TcpStream::connect(address)?;
        sockets.send(socket.try_clone()?).expect("the test waits for it");
        Ok(socket)
    };
    let client = Client::builder()
        .token(ALICE)
        .connect_with(&format!("ws://{address}/ws"), dial)
        .unwrap();
    let mut stream = client.query("q").resumable(true).batch_size(1).submit().unwrap();
    let mut n_rows = 0;
    let mut is_cut = false;
    while let Some(event) = stream.next_event().unwrap() {
        match event {
            Event::Batch(batch) => {
                n_rows += batch.len();
                if !is_cut {
                    is_cut = true;
                    dialled.recv().unwrap().shutdown(Shutdown::Both).unwrap();
                }
            }
            Event::Resumed => gate.open(),
            _ => {}
        }
    }
    assert_eq!((n_rows, dialled.len()), (2, 1));
}
