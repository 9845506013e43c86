//! TLS through the public door: the same rows, the same cancels and resumes, and nobody let in or talked to who should not be.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rowstream::client::{Client, ClientError, TlsError};
use rowstream::engine::memory::{Gate, MemoryEngine, Script};
use rowstream::server::{CertificateError, ServerBuilder, TlsConfig};
use rowstream::{Server, ServerHandle, StreamingConfig};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::json;
use tungstenite::Message;

use crate::authority::{Authority, Issued, self_signed};
use crate::blocking::{wait_until_stalled, wide};
use crate::cuts::{Seen, everything_is_as_before, numbers, take_all};
use crate::proxy::{CutKind, CutProxy};
use crate::support::{DEADLINE, eventually, serve};

fn builder(engine: MemoryEngine, issued: &Issued) -> ServerBuilder {
    let tls = TlsConfig::from_pem(issued.certificate.as_bytes(), issued.key.as_bytes()).unwrap();
    Server::builder()
        .engine("memory", engine)
        .listen("127.0.0.1:0")
        .tls(tls)
}

/// A server with a certificate for `localhost`, and whom clients have to trust.
pub(crate) fn serve_tls(engine: MemoryEngine) -> (ServerHandle, String) {
    let authority = Authority::new();
    let server = builder(engine, &authority.issue()).start().unwrap();
    (server, authority.pem())
}

fn url(server: &ServerHandle) -> String {
    format!("wss://localhost:{}/ws", server.local_addr().unwrap().port())
}

fn connect(server: &ServerHandle, ca: &str) -> Result<Client, ClientError> {
    let builder = Client::builder().ca_pem(ca.as_bytes()).unwrap();
    builder.connect(&url(server))
}

fn rows(client: &Client, query: &str) -> Vec<(i64, String)> {
    let mut rows = Vec::new();
    for batch in client.query(query).start().unwrap() {
        let batch = batch.unwrap();
        rows.extend(batch.rows().map(|row| (row.get(0).unwrap(), row.get(1).unwrap())));
    }
    rows
}

#[test]
fn rows_are_the_same_with_and_without() {
    let script = || {
        Script::new(["n", "text"]).generate(100_000, |n| {
            vec![
                (n as i64).into(),
                format!("{n}: {}", "é".repeat((n % 97) as usize)).into(),
            ]
        })
    };
    let engine = || MemoryEngine::builder().query("q", script()).build();
    let plain = serve(engine());
    let without = rows(
        &Client::connect(&format!("ws://{}", plain.local_addr().unwrap())).unwrap(),
        "q",
    );
    let (server, ca) = serve_tls(engine());
    let client = connect(&server, &ca).unwrap();
    assert_eq!(without.len(), 100_000);
    for _ in 0..2 {
        assert!(rows(&client, "q") == without, "the same rows");
    }
    client.close();
    eventually("connections", &0, || server.connections());
    everything_is_as_before(&server);
}

#[test]
fn a_client_talks_only_to_whom_it_knows() {
    let authority = Authority::new();
    let engine = || MemoryEngine::builder().build();
    let refused = |issued: &Issued| {
        let server = builder(engine(), issued).start().unwrap();
        let error = connect(&server, &authority.pem()).unwrap_err();
        eventually("connections", &0, || server.connections());
        assert!(error.ends_connection());
        match error {
            ClientError::Tls { source, address } => {
                assert_eq!(address, format!("localhost:{}", server.local_addr().unwrap().port()));
                source
            }
            error => panic!("{error}"),
        }
    };
    let elsewhere = refused(&authority.issue_for(&["db.example"], (2000, 2100)));
    let names = vec!["db.example".to_owned()];
    assert_eq!(elsewhere, TlsError::WrongName { names });
    assert_eq!(
        refused(&authority.issue_for(&["localhost"], (2000, 2001))),
        TlsError::Expired
    );
    assert_eq!(refused(&Authority::new().issue()), TlsError::UnknownIssuer);
    assert_eq!(refused(&self_signed(false)), TlsError::UnknownIssuer);
    // Without being told of the authority.
    let server = builder(engine(), &authority.issue()).start().unwrap();
    let error = Client::connect(&url(&server)).unwrap_err();
    assert!(matches!(error, ClientError::Tls { .. }), "{error}");
    connect(&server, &authority.pem()).unwrap().ping().unwrap();
    let junk = Client::builder().ca_file("/nowhere/ca.pem");
    assert!(matches!(junk, Err(CertificateError::File { .. })));
}

#[test]
fn clear_text_and_tls_tell_each_other_apart() {
    let (server, ca) = serve_tls(MemoryEngine::builder().build());
    let mut socket = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.write_all(b"GET /ws HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 400 ") && answer.contains("wss://"),
        "{answer}"
    );
    let error = Client::connect(&format!("ws://{}", server.local_addr().unwrap())).unwrap_err();
    let ClientError::Handshake { status, message } = error else {
        panic!("{error}")
    };
    assert_eq!(status, Some(400));
    assert!(message.contains("wss://"), "{message}");
    eventually("connections", &0, || server.connections());

    let plain = serve(MemoryEngine::builder().build());
    let error = connect(&plain, &ca).unwrap_err();
    let ClientError::Tls { source, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(source, TlsError::NotTls);
    eventually("connections", &0, || plain.connections());
}

#[test]
fn those_who_never_finish_shaking_hands_hold_up_nobody() {
    let (server, ca) = serve_tls(MemoryEngine::builder().query("q", Script::new(["n"])).build());
    let half: Vec<TcpStream> = (0..20)
        .map(|_| {
            let mut socket = TcpStream::connect(server.local_addr().unwrap()).unwrap();
            // The beginning of a record of 512 bytes.
            socket.write_all(&[22, 3, 1, 2, 0, 1, 0]).unwrap();
            socket
        })
        .collect();
    let client = connect(&server, &ca).unwrap();
    client.ping().unwrap();
    client.close();
    server.shutdown();
    assert_eq!(server.connections(), 0);
    drop(half);
}

#[test]
fn a_certificate_is_replaced_under_running_connections() {
    let folder = tempfile::tempdir().unwrap();
    let (chain, key) = (folder.path().join("chain.pem"), folder.path().join("key.pem"));
    let lay = |issued: &Issued| {
        fs::write(&chain, &issued.certificate).unwrap();
        fs::write(&key, &issued.key).unwrap();
    };
    let (old, new) = (Authority::new(), Authority::new());
    lay(&old.issue());
    let gate = Gate::new();
    let script = Script::new(["n", "text"])
        .row([1.into(), "before".into()])
        .gate(&gate)
        .row([2.into(), "after".into()]);
    let engine = MemoryEngine::builder().query("q", script).build();
    let server = Server::builder()
        .engine("memory", engine)
        .listen("127.0.0.1:0")
        .tls(TlsConfig::from_files(&chain, &key).unwrap())
        .start()
        .unwrap();
    let client = connect(&server, &old.pem()).unwrap();
    let running = client.query("q").start().unwrap();
    gate.wait_reached(DEADLINE).unwrap();

    fs::write(&key, "no key").unwrap();
    let error = server.reload_certificates().unwrap_err();
    assert!(error.to_string().starts_with(&key.display().to_string()), "{error}");
    connect(&server, &old.pem()).unwrap().ping().unwrap();

    lay(&new.issue());
    server.reload_certificates().unwrap();
    connect(&server, &new.pem()).unwrap().ping().unwrap();
    let error = connect(&server, &old.pem()).unwrap_err();
    assert!(matches!(error, ClientError::Tls { .. }), "{error}");
    gate.open();
    let n_rows: usize = running.map(|batch| batch.unwrap().len()).sum();
    assert_eq!(n_rows, 2, "who was there goes on");
    client.ping().unwrap();

    let issued = old.issue();
    let tls = TlsConfig::from_pem(issued.certificate.as_bytes(), issued.key.as_bytes()).unwrap();
    assert!(server.replace_certificates(tls.clone()));
    connect(&server, &old.pem()).unwrap().ping().unwrap();
    assert!(matches!(server.reload_certificates(), Err(CertificateError::NoFiles)));
    let plain = serve(MemoryEngine::builder().build());
    assert!(!plain.replace_certificates(tls));
    assert!(matches!(plain.reload_certificates(), Err(CertificateError::NoFiles)));
}

/// A WebSocket over TLS of other people's making.
pub(crate) type Foreign = tungstenite::WebSocket<ForeignStream>;
pub(crate) type ForeignStream = StreamOwned<ClientConnection, TcpStream>;

fn foreign(server: &ServerHandle, ca: &str, version: &'static rustls::SupportedProtocolVersion) -> Foreign {
    tungstenite::client(url(server), stream(server, ca, version)).unwrap().0
}

fn stream(server: &ServerHandle, ca: &str, version: &'static rustls::SupportedProtocolVersion) -> ForeignStream {
    stream_to(server.local_addr().unwrap(), ca, version)
}

/// As [`stream`], to whoever is at the address.
pub(crate) fn stream_to(
    address: SocketAddr,
    ca: &str,
    version: &'static rustls::SupportedProtocolVersion,
) -> ForeignStream {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), socket)
}

#[test]
fn the_page_says_how_to_come_back() {
    let (server, ca) = serve_tls(MemoryEngine::builder().build());
    let mut stream = stream(&server, &ca, &rustls::version::TLS13);
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: localhost:8443\r\n\r\n")
        .unwrap();
    let mut page = String::new();
    // Ends with TLS's own word for it, or this fails.
    stream.read_to_string(&mut page).unwrap();
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
    assert!(
        page.contains("wss://localhost:8443/ws") && !page.contains(" ws://"),
        "{page}"
    );
}

pub(crate) fn next(socket: &mut Foreign) -> serde_json::Value {
    loop {
        match socket.read().unwrap() {
            Message::Text(text) => return serde_json::from_str(&text).unwrap(),
            Message::Ping(_) | Message::Pong(_) => {}
            message => panic!("{message:?}"),
        }
    }
}

#[test]
fn a_cancel_arrives_while_a_write_is_blocked() {
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let engine = MemoryEngine::builder().query("wide", wide()).build();
        let authority = Authority::new();
        let mut streaming = StreamingConfig::default();
        // Far more than sockets hold.
        streaming.batch_size = 20_000;
        streaming.batch_size_max = 20_000;
        streaming.batch_bytes = 15 << 20;
        streaming.batch_bytes_max = 16 << 20;
        let server = builder(engine.clone(), &authority.issue())
            .streaming(streaming)
            .start()
            .unwrap();
        let mut client = foreign(&server, &authority.pem(), version);
        let query = json!({"type": "stream_query", "query": "wide", "request_id": 1});
        client.send(Message::text(query.to_string())).unwrap();
        wait_until_stalled(&server, 1);
        let cancel = json!({"type": "cancel_query", "request_id": 1});
        client.send(Message::text(cancel.to_string())).unwrap();
        // Nothing has been read: the server is still inside its write.
        eventually("cursors", &0, || engine.probe().cursors_open);
        let end = loop {
            let message = next(&mut client);
            if message["type"] == "query_cancelled" {
                break message;
            }
        };
        assert_eq!(end["reason"], "client");
        client.close(None).unwrap();
        // The server answers, says TLS's own word for the end, and goes.
        let end = loop {
            match client.read() {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert!(matches!(end, tungstenite::Error::ConnectionClosed), "{end}");
        eventually("connections", &0, || server.connections());
    }
}

#[test]
fn the_end_of_an_answer_is_said_in_so_many_words() {
    let (server, ca) = serve_tls(MemoryEngine::builder().build());
    let mut client = foreign(&server, &ca, &rustls::version::TLS13);
    client.close(None).unwrap();
    while client.read().is_ok() {}
    let mut rest = Vec::new();
    // An end of file alone would be an error.
    assert_eq!(client.get_mut().read_to_end(&mut rest).unwrap(), 0);
    assert_eq!(client.get_ref().conn.alpn_protocol(), None, "none was offered");
}

#[test]
fn cuts_in_the_middle_of_records_lose_and_repeat_nothing() {
    const CUTS: u64 = 100;
    let engine = MemoryEngine::builder()
        .query("long", numbers(100_000))
        .query("short", numbers(3_000))
        .build();
    let authority = Authority::new();
    let mut streaming = StreamingConfig::default();
    // Those that nobody can come back for are gone by the end of the test.
    streaming.retention = Duration::from_secs(5);
    let server = builder(engine, &authority.issue())
        .streaming(streaming)
        .start()
        .unwrap();
    let proxy = CutProxy::start(server.local_addr().unwrap(), 42);
    // From within the handshake to far behind it.
    proxy.cut(Some((CutKind::ResetOrClose, 0..150_000)));
    let url = format!("wss://localhost:{}/ws", proxy.address().port());
    let builder = Client::builder()
        .ca_pem(authority.pem().as_bytes())
        .unwrap()
        .heartbeat(Duration::from_millis(100), Duration::from_millis(300));
    let client = loop {
        match builder.clone().connect(&url) {
            Ok(client) => break client,
            Err(error) => assert!(proxy.n_cuts() > 0, "{error}"),
        }
    };
    let mut seen = Seen::default();
    while proxy.n_cuts() < CUTS {
        take_all(&client, "long", 100_000, &mut seen);
        take_all(&client, "short", 3_000, &mut seen);
    }
    proxy.cut(None);
    take_all(&client, "short", 3_000, &mut seen);
    drop(client);
    assert!(seen.n_resumed > 0, "{seen:?}");
    eventually("connections", &0, || server.connections());
    everything_is_as_before(&server);
}
