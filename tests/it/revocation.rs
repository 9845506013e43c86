//! Those who are in and may not be any more, or not so much.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};
use rowstream::auth::{AuthError, Authenticator, Credentials, Fingerprint, Identity, TokenFile};
use rowstream::{Gate, MemoryEngine, Script, Server, ServerHandle};
use serde_json::json;

use crate::auth::{ALICE, BOB, Few, builder, check_status};
use crate::support::{DEADLINE, Plain, Wire, eventually};

/// What is asked about tokens, as it stands.
#[derive(Default)]
struct Directory(Mutex<HashMap<[u8; 32], Identity>>);

impl Directory {
    fn set(&self, token: &str, identity: Identity) {
        let token = *Fingerprint::of(token).as_bytes();
        self.0.lock().unwrap().insert(token, identity);
    }

    fn revoke(&self, token: &str) {
        self.0.lock().unwrap().remove(Fingerprint::of(token).as_bytes());
    }

    fn find(&self, token: &Fingerprint) -> Result<Identity, AuthError> {
        let found = self.0.lock().unwrap().get(token.as_bytes()).cloned();
        found.ok_or(AuthError::Rejected)
    }
}

impl Authenticator for Directory {
    fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Identity, AuthError> {
        self.find(&Fingerprint::of(credentials.token()))
    }

    fn recheck(&self, token: &Fingerprint, _: &Identity) -> Result<Identity, AuthError> {
        self.find(token)
    }
}

fn connect(server: &ServerHandle, token: &str) -> Plain {
    Plain::connect_with(server, &[("authorization", &format!("Bearer {token}"))])
}

/// Starts a query that does not end by itself, and takes what comes of it.
fn start_endless(client: &mut Plain, engine: &str) -> String {
    let fields = json!({"engine": engine, "request_id": engine, "resumable": true, "progress_interval_ms": 0});
    client.query("endless", fields);
    let id = client.recv_started();
    client.recv_until("its rows", |wire| matches!(wire, Wire::QueryBatch { .. }));
    id
}

#[track_caller]
fn check_turned_out(client: &mut Plain, expected: &str, streams: &[String], close: u16) {
    let error = client.recv();
    let Wire::Error {
        code, stream_id: None, ..
    } = &error
    else {
        panic!("{error:?}")
    };
    assert_eq!(code, expected);
    for _ in streams {
        let end = client.recv();
        let Wire::QueryCancelled { stream_id, reason, .. } = &end else {
            panic!("{end:?}")
        };
        assert!(streams.contains(stream_id) && reason == "admin", "{end:?}");
    }
    assert_eq!(client.recv_close(), close);
}

pub(crate) fn write_tokens(path: &Path, lines: &[&str]) {
    fs::write(path, lines.concat()).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }
}

#[test]
fn who_has_no_token_any_more_is_turned_out_and_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens");
    let [(alice, alices), (bob, bobs)] = ["alice", "bob"].map(|name| {
        let (token, line) = TokenFile::generate(&Identity::new(name)).unwrap();
        (token, line + "\n")
    });
    write_tokens(&path, &[&alices, &bobs]);
    let tokens = TokenFile::open(&path).unwrap();
    let server = builder().authenticator(tokens.clone()).start().unwrap();
    let (mut turned_out, mut stays) = (connect(&server, alice.expose()), connect(&server, bob.expose()));
    let streams = [
        start_endless(&mut turned_out, "first"),
        start_endless(&mut turned_out, "second"),
    ];
    start_endless(&mut stays, "first");
    assert_eq!(server.recheck_clients(), 0, "nothing has changed");

    write_tokens(&path, &[&bobs]);
    tokens.reload().unwrap();
    turned_out.assert_silence();
    assert_eq!(server.recheck_clients(), 1);
    check_turned_out(&mut turned_out, "UNAUTHENTICATED", &streams, 4401);
    drop(turned_out);
    check_status(&server, &format!("Authorization: Bearer {}\r\n", alice.expose()), "401");
    eventually("connections", &1, || server.connections());
    stays.assert_silence();
    assert_eq!(server.streams().statistics().active, 1);
}

#[test]
fn streams_that_wait_to_be_resumed_are_cancelled_with_their_token() {
    let directory = Arc::new(Directory::default());
    for (token, name) in [("alices-first", "alice"), ("alices-second", "alice"), ("bobs", "bob")] {
        directory.set(token, Identity::new(name));
    }
    let server = builder().authenticator(Arc::clone(&directory)).start().unwrap();
    for token in ["alices-first", "alices-second", "bobs"] {
        let mut lost = connect(&server, token);
        start_endless(&mut lost, "first");
    }
    eventually("detached", &3, || server.streams().statistics().detached);
    directory.revoke("alices-first");
    assert_eq!(server.recheck_clients(), 0, "nobody is in");
    let statistics = || server.streams().statistics();
    eventually("cancelled", &(1, 2), || (statistics().cancelled, statistics().active));
}

#[test]
fn a_stream_is_its_new_connection_s_once_it_is_resumed() {
    let directory = Arc::new(Directory::default());
    for token in ["alices-first", "alices-second"] {
        directory.set(token, Identity::new("alice"));
    }
    let server = builder().authenticator(Arc::clone(&directory)).start().unwrap();
    let mut lost = connect(&server, "alices-first");
    lost.query("endless", json!({"resumable": true, "progress_interval_ms": 0}));
    let started = lost.recv();
    let Wire::QueryStarted {
        resume_token: Some(token),
        ..
    } = started
    else {
        panic!("{started:?}")
    };
    drop(lost);
    eventually("detached", &1, || server.streams().statistics().detached);
    let mut resumed = connect(&server, "alices-second");
    resumed.send(&json!({"type": "resume_query", "resume_token": token, "last_batch": -1}));
    let answer = resumed.recv_unchecked();
    assert!(matches!(answer, Wire::QueryResumed { .. }), "{answer:?}");
    drop(resumed);
    eventually("detached again", &2, || server.streams().statistics().detached);
    directory.revoke("alices-first");
    server.recheck_clients();
    assert_eq!(server.streams().statistics().active, 1);
    directory.revoke("alices-second");
    server.recheck_clients();
    eventually("active", &0, || server.streams().statistics().active);
}

#[test]
fn who_has_fewer_rights_stays_without_the_streams_beyond_them() {
    let directory = Arc::new(Directory::default());
    directory.set(ALICE, Identity::new("alice"));
    let server = builder().authenticator(Arc::clone(&directory)).start().unwrap();
    let mut alice = connect(&server, ALICE);
    let [first, second] = ["first", "second"].map(|engine| start_endless(&mut alice, engine));

    directory.set(ALICE, Identity::new("alice").with_engines(["second"]));
    assert_eq!(server.recheck_clients(), 0);
    let end = alice.recv();
    let Wire::QueryCancelled { stream_id, reason, .. } = &end else {
        panic!("{end:?}")
    };
    assert_eq!((stream_id, reason.as_str()), (&first, "admin"));
    alice.query("few", json!({"engine": "first"}));
    assert!(matches!(alice.recv(), Wire::Error { code, .. } if code == "BAD_MESSAGE"));
    assert_eq!(server.streams().statistics().active, 1);

    // And more of them hold at once, too.
    directory.set(ALICE, Identity::new("alice").with_admin());
    assert_eq!(server.recheck_clients(), 0);
    alice.send(&json!({"type": "list_queries", "scope": "all"}));
    assert!(matches!(alice.recv(), Wire::QueryList { .. }));

    directory.set(ALICE, Identity::new("somebody else"));
    assert_eq!(server.recheck_clients(), 1);
    check_turned_out(&mut alice, "PERMISSION_DENIED", &[second], 4403);
}

#[test]
fn an_authenticator_that_does_not_look_again_lets_everybody_stay() {
    let server = builder().start().unwrap();
    let mut clients = [connect(&server, ALICE), connect(&server, BOB), Plain::connect(&server)];
    assert_eq!(server.recheck_clients(), 0);
    for client in &mut clients {
        client.assert_silence();
    }
    let answer = Few.recheck(&Fingerprint::of(ALICE), &Identity::new("alice"));
    assert_eq!(answer, Ok(Identity::new("alice")));
    let unasked = Server::builder()
        .engine("m", MemoryEngine::builder().build())
        .start()
        .unwrap();
    assert_eq!(unasked.recheck_clients(), 0);
}

/// Lets everybody in, some time after it has looked at who it is, and nobody stay.
struct Hesitant {
    looked: Sender<()>,
    go_on: Receiver<()>,
}

impl Authenticator for Hesitant {
    fn authenticate(&self, _: &Credentials<'_>) -> Result<Identity, AuthError> {
        self.looked.send(()).unwrap();
        self.go_on.recv_timeout(DEADLINE).unwrap();
        Ok(Identity::new("alice"))
    }

    fn recheck(&self, _: &Fingerprint, _: &Identity) -> Result<Identity, AuthError> {
        Err(AuthError::Forbidden)
    }
}

#[test]
fn who_is_let_in_while_all_are_looked_at_again_is_looked_at_again() {
    let (looked, has_looked) = bounded(1);
    let (tell, go_on) = bounded(1);
    let server = builder()
        .authenticator(Hesitant { looked, go_on })
        .auth_deadline(DEADLINE)
        .start()
        .unwrap();
    thread::scope(|scope| {
        let comes = scope.spawn(|| connect(&server, ALICE));
        has_looked.recv_timeout(DEADLINE).unwrap();
        assert_eq!(server.recheck_clients(), 0, "nobody is in yet");
        tell.send(()).unwrap();
        check_turned_out(&mut comes.join().unwrap(), "PERMISSION_DENIED", &[], 4403);
    });
}

/// Looks at once, and says what it has seen when it is told to: the first two times.
struct Pensive {
    directory: Directory,
    looks: Mutex<Vec<(Sender<()>, Receiver<()>)>>,
}

impl Authenticator for Pensive {
    fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Identity, AuthError> {
        self.directory.authenticate(credentials)
    }

    fn recheck(&self, token: &Fingerprint, _: &Identity) -> Result<Identity, AuthError> {
        let found = self.directory.find(token);
        let look = self.looks.lock().unwrap().pop();
        if let Some((looked, go_on)) = look {
            looked.send(()).unwrap();
            go_on.recv_timeout(DEADLINE).unwrap();
        }
        found
    }
}

#[test]
fn of_two_rounds_the_later_one_holds() {
    let (looked, has_looked) = bounded(2);
    let [(tell_first, first), (tell_second, second)] = [(); 2].map(|()| bounded(1));
    let authenticator = Arc::new(Pensive {
        directory: Directory::default(),
        looks: Mutex::new(vec![(looked.clone(), second), (looked, first)]),
    });
    let directory = &authenticator.directory;
    directory.set(ALICE, Identity::new("alice"));
    let server = builder().authenticator(Arc::clone(&authenticator)).start().unwrap();
    let mut alice = connect(&server, ALICE);
    let stream = start_endless(&mut alice, "first");
    thread::scope(|scope| {
        let wait_looked = || has_looked.recv_timeout(DEADLINE).unwrap();
        directory.set(ALICE, Identity::new("alice").with_admin());
        let round = scope.spawn(|| server.recheck_clients());
        wait_looked();
        directory.revoke(ALICE);
        let next_round = scope.spawn(|| server.recheck_clients());
        wait_looked();
        tell_first.send(()).unwrap();
        let n_first = round.join().unwrap();
        tell_second.send(()).unwrap();
        assert_eq!(n_first + next_round.join().unwrap(), 1);
    });
    check_turned_out(&mut alice, "UNAUTHENTICATED", &[stream], 4401);
}

#[test]
fn an_engine_that_does_not_stop_keeps_nobody_in() {
    let gate = Gate::new();
    let engine = MemoryEngine::builder()
        .query("deaf", Script::new(["n"]).ignore_cancel().gate(&gate))
        .build();
    let directory = Arc::new(Directory::default());
    directory.set(ALICE, Identity::new("alice"));
    let server = Server::builder()
        .engine("m", engine)
        .listen("127.0.0.1:0")
        .authenticator(Arc::clone(&directory))
        .start()
        .unwrap();
    let mut alice = connect(&server, ALICE);
    alice.query("deaf", json!({"progress_interval_ms": 0}));
    alice.recv_started();
    gate.wait_reached(DEADLINE).unwrap();
    directory.revoke(ALICE);
    assert_eq!(server.recheck_clients(), 1);
    assert_eq!(server.recheck_clients(), 0, "that is no news, and gives no more time");
    // What it asks for is not looked at.
    alice.send(&json!({"type": "list_queries"}));
    check_turned_out(&mut alice, "UNAUTHENTICATED", &[], 4401);
    gate.open();
}
