//! Unix sockets, and servers that listen in several places.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;

use rowstream::client::{Client, ClientError};
use rowstream::engine::memory::{MemoryEngine, Script};
use rowstream::server::{ServerBuilder, StartError};
use rowstream::{Server, ServerHandle};

use crate::support::eventually;

fn builder() -> ServerBuilder {
    let script = Script::new(["n"]).generate(10_000, |n| vec![(n as i64).into()]);
    Server::builder().engine("memory", MemoryEngine::builder().query("q", script).build())
}

fn serve_at(path: &Path) -> Result<ServerHandle, StartError> {
    builder().listen_unix(path).start()
}

fn n_rows(url: &str) -> usize {
    let client = Client::connect(url).unwrap();
    let stream = client.query("q").start().unwrap();
    stream.map(|batch| batch.unwrap().len()).sum()
}

fn unix(path: &Path) -> String {
    format!("unix:{}", path.display())
}

#[track_caller]
fn check_not_started(path: &Path, kind: ErrorKind) {
    match serve_at(path).map(drop) {
        Err(StartError::Listen { address, source }) => {
            assert_eq!((address, source.kind()), (unix(path), kind), "{source}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_server_listens_in_several_places() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rowstream.sock");
    let server = builder()
        .listen_unix(&path)
        .listen("127.0.0.1:0")
        .listen("127.0.0.1:0")
        .start()
        .unwrap();
    let [first, second] = *server.local_addrs() else {
        panic!("{:?}", server.local_addrs())
    };
    assert_ne!(first, second);
    assert_eq!(server.local_addr(), Some(first));
    for url in [format!("ws://{first}"), format!("ws://{second}"), unix(&path)] {
        assert_eq!(n_rows(&url), 10_000, "{url}");
    }
    eventually("connections", &0, || server.connections());
    server.shutdown();
    assert!(!path.exists());
    for url in [format!("ws://{first}"), format!("ws://{second}"), unix(&path)] {
        let error = Client::connect(&url).unwrap_err();
        assert!(matches!(error, ClientError::Connect { .. }), "{error}");
    }
}

#[test]
fn a_second_address_in_use_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rowstream.sock");
    let server = serve_at(&path).unwrap();
    assert_eq!((server.local_addr(), server.local_addrs().len()), (None, 0));
    let taken = builder().listen("127.0.0.1:0").start().unwrap();
    let other = folder.path().join("other.sock");
    let failed = builder()
        .listen_unix(&other)
        .listen(taken.local_addr().unwrap())
        .start();
    assert!(matches!(failed, Err(StartError::Listen { .. })));
    assert!(!other.exists());
}

#[test]
fn the_socket_belongs_to_its_user_and_goes_with_its_server() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rowstream.sock");
    let server = serve_at(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    check_not_started(&path, ErrorKind::AddrInUse);
    assert_eq!(n_rows(&unix(&path)), 10_000, "whose it is has not noticed");
    drop(server);
    assert!(!path.exists());
}

#[test]
fn what_a_dead_server_left_is_replaced_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rowstream.sock");
    // Closed without its file being taken away.
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let server = serve_at(&path).unwrap();
    assert_eq!(n_rows(&unix(&path)), 10_000);
    drop(server);
    fs::write(&path, "somebody's").unwrap();
    check_not_started(&path, ErrorKind::AlreadyExists);
    assert_eq!(fs::read_to_string(&path).unwrap(), "somebody's");
    check_not_started(&folder.path().join("no/where.sock"), ErrorKind::NotFound);
    let long = folder.path().join("x".repeat(200));
    check_not_started(&long, ErrorKind::InvalidInput);
}

#[test]
fn a_server_whose_file_was_taken_away_still_ends() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rowstream.sock");
    let server = serve_at(&path).unwrap();
    fs::remove_file(&path).unwrap();
    // Another's of the same name is not ours to remove.
    let other = serve_at(&path).unwrap();
    server.shutdown();
    assert_eq!(n_rows(&unix(&path)), 10_000);
    drop(other);
    assert!(!path.exists());
}
