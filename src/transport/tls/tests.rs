//! Both ends over memory pairs, and peers that do not do as they should.

#![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

use std::fs;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use rustls::crypto::cipher::{OutboundChunks, OutboundPlainMessage};
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject;
use rustls::{
    ClientConfig, ClientConnection, ConnectionTrafficSecrets, ContentType, ProtocolVersion, RootCertStore,
    SupportedCipherSuite,
};

use super::super::{Halves, MemoryTransport, ReadHalf, Transport, memory_pair};
use super::authority_test::{Authority, Issued, self_signed};
use super::*;
use crate::thread::{STACK_BYTES_CONNECTION, spawn_named};

/// Only bounds a test that fails.
const DEADLINE: Duration = Duration::from_secs(30);

fn config(issued: &Issued) -> TlsConfig {
    TlsConfig::from_pem(issued.certificate.as_bytes(), issued.key.as_bytes()).unwrap()
}

fn acceptor() -> (Acceptor, String) {
    let authority = Authority::new();
    (Acceptor::new(config(&authority.issue())), authority.pem())
}

fn connector(ca: &str, host: &str) -> Connector {
    let mut trust = Trust::new();
    trust.add_pem(ca.as_bytes()).unwrap();
    Connector::new(&trust, host).unwrap()
}

fn split(transport: impl Transport) -> Halves {
    Box::new(transport).split().unwrap()
}

/// A server's and a client's ends, between which nobody has said anything.
fn pair(capacity_bytes: usize) -> (Halves, Halves) {
    let (acceptor, ca) = acceptor();
    let (here, there) = memory_pair(capacity_bytes);
    let server = split(acceptor.accept(Box::new(here)));
    let client = split(connector(&ca, "localhost").connect(Box::new(there)));
    (server, client)
}

fn spawn<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    spawn_named("test", STACK_BYTES_CONNECTION, body).unwrap()
}

/// A doorbell that leaves word.
fn bell() -> (super::super::Doorbell, Receiver<()>) {
    let (rung, ringing) = bounded(64);
    (Arc::new(move || rung.try_send(()).unwrap()), ringing)
}

fn pattern(n: usize) -> Vec<u8> {
    (0..n).map(|at| (at % 251) as u8).collect()
}

#[test]
fn both_directions_carry_megabytes_at_the_same_time() {
    const BYTES: usize = 4 * 1024 * 1024;
    // Smaller than a record: everything comes in pieces.
    let (mut server, mut client) = pair(1_000);
    let shaken = spawn(move || {
        client.write.write_all(b"hello").unwrap();
        let mut heard = [0; 5];
        client.read.read_exact(&mut heard).unwrap();
        (client, heard)
    });
    let mut heard = [0; 5];
    server.read.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"hello");
    server.write.write_all(b"world").unwrap();
    let (client, heard) = shaken.join().unwrap();
    assert_eq!(&heard, b"world");
    let threads: Vec<_> = [server, client]
        .into_iter()
        .map(
            |Halves {
                 mut read, mut write, ..
             }| {
                let (bell, _ringing) = bell();
                read.set_doorbell(bell);
                let writer = spawn(move || {
                    let bytes = pattern(BYTES);
                    for piece in bytes.chunks(300_000) {
                        let (head, rest) = piece.split_at(7);
                        let n = write.write_vectored(&[IoSlice::new(head), IoSlice::new(rest)]).unwrap();
                        write.write_all(&piece[n..]).unwrap();
                    }
                    write.finish().unwrap();
                    write
                });
                let reader = spawn(move || {
                    let mut heard = Vec::new();
                    read.read_to_end(&mut heard).unwrap();
                    heard
                });
                (writer, reader)
            },
        )
        .collect();
    for (writer, reader) in threads {
        assert!(
            reader.join().unwrap() == pattern(BYTES),
            "what was said is what was heard"
        );
        drop(writer.join().unwrap());
    }
}

#[test]
fn reading_goes_on_while_a_write_is_blocked() {
    let (mut server, mut client) = pair(16 * 1024);
    let client = spawn(move || {
        client.write.write_all(b"x").unwrap();
        client.read.read_exact(&mut [0]).unwrap();
        client
    });
    server.read.read_exact(&mut [0]).unwrap();
    server.write.write_all(b"y").unwrap();
    let mut client = client.join().unwrap();
    let (bell, _ringing) = bell();
    server.read.set_doorbell(bell);
    let Halves {
        mut read,
        mut write,
        control,
        ..
    } = server;
    // Far more than finds room, and nobody takes it.
    let blocked = spawn(move || write.write_all(&pattern(15 * 1024 * 1024)));
    for n in 0..100_u8 {
        client.write.write_all(&[n]).unwrap();
        let mut heard = [0];
        read.read_exact(&mut heard).unwrap();
        assert_eq!(heard, [n]);
    }
    assert!(!blocked.is_finished());
    control.shutdown(Shutdown::Both);
    assert_eq!(blocked.join().unwrap().unwrap_err().kind(), ErrorKind::BrokenPipe);
}

#[test]
fn an_end_without_the_word_for_it_is_no_end() {
    for says_so in [true, false] {
        let (mut server, mut client) = pair(64 * 1024);
        let server = spawn(move || {
            server.read.read_exact(&mut [0]).unwrap();
            server.write.write_all(b"all?").unwrap();
            if says_so {
                server.write.finish().unwrap();
            }
            server.control.shutdown(Shutdown::Both);
        });
        client.write.write_all(b"x").unwrap();
        let mut heard = Vec::new();
        let end = client.read.read_to_end(&mut heard);
        assert_eq!(heard, b"all?");
        match says_so {
            true => assert_eq!(end.unwrap(), 4),
            false => {
                for error in [end.unwrap_err(), client.read.read(&mut [0]).unwrap_err()] {
                    assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{error}");
                }
            }
        }
        server.join().unwrap();
    }
}

/// What a client that trusts `ca` makes of a server with this certificate, and the server of that.
fn shake(issued: &Issued, ca: &str, host: &str) -> (Option<TlsError>, Option<TlsError>) {
    let (here, there) = memory_pair(64 * 1024);
    let server = Acceptor::new(config(issued)).accept(Box::new(here));
    let server = spawn(move || {
        let mut halves = split(server);
        let read = halves.read.read(&mut [0]);
        read.err().map(|error| TlsError::of(&error).unwrap().clone())
    });
    let mut client = split(connector(ca, host).connect(Box::new(there)));
    client.write.write_all(b"x").unwrap();
    // Waits for the server's word for the end, or shakes hands in vain.
    client.read.set_read_timeout(Some(DEADLINE)).unwrap();
    let shaken = client.read.read(&mut [0]);
    drop(client);
    let refused = match shaken {
        Err(error) => TlsError::of(&error).cloned(),
        Ok(_) => None,
    };
    (refused, server.join().unwrap())
}

#[track_caller]
fn check_refused(issued: &Issued, ca: &str, host: &str, expected: &TlsError, told: &str) {
    let (refused, heard) = shake(issued, ca, host);
    assert_eq!(refused.as_ref(), Some(expected));
    // The server hears from the client why.
    assert_eq!(heard, Some(TlsError::Refused(told.to_owned())));
}

#[test]
fn a_server_that_does_not_prove_who_it_is_is_refused() {
    let authority = Authority::new();
    let ca = authority.pem();
    for host in ["localhost", "127.0.0.1"] {
        assert_eq!(shake(&authority.issue(), &ca, host), (None, None), "{host}");
    }
    let wrong = TlsError::WrongName {
        names: vec!["localhost".to_owned(), "127.0.0.1".to_owned()],
    };
    check_refused(&authority.issue(), &ca, "db.example", &wrong, "BadCertificate");
    check_refused(&authority.issue(), &ca, "127.0.0.2", &wrong, "BadCertificate");
    let expired = authority.issue_for(&["localhost"], (2000, 2001));
    check_refused(&expired, &ca, "localhost", &TlsError::Expired, "CertificateExpired");
    let early = authority.issue_for(&["localhost"], (2099, 2100));
    check_refused(&early, &ca, "localhost", &TlsError::NotYetValid, "CertificateExpired");
    let stranger = Authority::new().issue();
    check_refused(&stranger, &ca, "localhost", &TlsError::UnknownIssuer, "UnknownCA");
    let own = self_signed(false);
    check_refused(&own, &ca, "localhost", &TlsError::UnknownIssuer, "UnknownCA");
    assert_eq!(
        shake(&own, &own.certificate, "localhost"),
        (None, None),
        "named, it is trusted"
    );
    let (refused, _) = shake(&self_signed(true), &self_signed(true).certificate, "localhost");
    assert!(refused.is_some(), "a CA's certificate is no server's");
    let (refused, _) = {
        let own = self_signed(true);
        shake(&own, &own.certificate, "localhost")
    };
    let text = refused.unwrap().to_string();
    assert!(text.contains("CA:FALSE"), "{text}");
    let trust = Trust::new();
    assert!(matches!(
        Connector::new(&trust, "no name"),
        Err(TlsError::Certificate(_))
    ));
}

/// A server that reads once, what it says on the wire, and how its read ended.
fn answer_to(bytes: &[u8], closes: bool) -> (io::Error, Vec<u8>) {
    let (acceptor, _) = acceptor();
    let (here, mut there) = memory_pair(64 * 1024);
    let mut server = split(acceptor.accept(Box::new(here)));
    there.write_all(bytes).unwrap();
    let Halves {
        read: mut heard, write, ..
    } = split(there);
    if closes {
        drop(write);
    }
    let error = server.read.read(&mut [0]).unwrap_err();
    drop(server);
    let mut answer = Vec::new();
    heard.read_to_end(&mut answer).unwrap();
    (error, answer)
}

/// A ClientHello (RFC 5246 section 7.4.1.2) of a client that knows at most this version, and only this cipher suite.
fn hello(version: [u8; 2], suite: [u8; 2]) -> Vec<u8> {
    let mut body = version.to_vec();
    body.extend_from_slice(&[7; 32]); // random
    body.push(0); // no session
    body.extend_from_slice(&[0, 2, suite[0], suite[1]]);
    body.extend_from_slice(&[1, 0]); // no compression
    let signatures = [0, 13, 0, 4, 0, 2, 4, 3];
    let groups = [0, 10, 0, 4, 0, 2, 0, 23];
    body.extend_from_slice(&[0, 16]);
    body.extend_from_slice(&signatures);
    body.extend_from_slice(&groups);
    let mut record = vec![22, 3, 1];
    record.extend_from_slice(&(body.len() as u16 + 4).to_be_bytes());
    record.extend_from_slice(&[1, 0]);
    record.extend_from_slice(&(body.len() as u16).to_be_bytes());
    record.extend_from_slice(&body);
    record
}

#[test]
fn old_versions_and_ciphers_get_an_alert() {
    const AES_128_GCM: [u8; 2] = [0xc0, 0x2b];
    const RC4: [u8; 2] = [0x00, 0x05];
    const CBC: [u8; 2] = [0xc0, 0x09];
    const PROTOCOL_VERSION: u8 = 70;
    const HANDSHAKE_FAILURE: u8 = 40;
    for (version, suite, alert) in [
        ([3, 2], AES_128_GCM, PROTOCOL_VERSION),
        ([3, 1], AES_128_GCM, PROTOCOL_VERSION),
        ([3, 0], AES_128_GCM, PROTOCOL_VERSION),
        ([3, 3], RC4, HANDSHAKE_FAILURE),
        ([3, 3], CBC, HANDSHAKE_FAILURE),
    ] {
        let (error, answer) = answer_to(&hello(version, suite), false);
        assert!(matches!(TlsError::of(&error), Some(TlsError::Protocol(_))), "{error}");
        let [21, 3, _, 0, 2, 2, description] = answer[..] else {
            panic!("{version:?} {suite:?}: no alert: {answer:?}");
        };
        assert_eq!(description, alert, "{version:?} {suite:?}");
    }
    // The same with what is allowed gets an answer: it is the version and the suite that are refused.
    let (error, answer) = answer_to(&hello([3, 3], AES_128_GCM), true);
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    assert_eq!(answer[0], 22, "a ServerHello: {answer:?}");
}

#[test]
fn what_is_not_tls_is_told_so_where_it_can_be() {
    let (error, answer) = answer_to(b"GET /ws HTTP/1.1\r\nHost: x\r\n\r\n", false);
    assert_eq!(TlsError::of(&error), Some(&TlsError::NotTls));
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{head}");
    assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
    assert!(body.contains("https://"), "{body}");
    // Neither HTTP nor TLS.
    let (error, _) = answer_to(b"\0\0\0\0\0\0\0\0", false);
    assert!(TlsError::of(&error).is_some(), "{error}");
    // A client that is answered in clear text.
    let (_, ca) = acceptor();
    let (here, mut there) = memory_pair(64 * 1024);
    let mut client = split(connector(&ca, "localhost").connect(Box::new(here)));
    there.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
    let error = client.read.read(&mut [0]).unwrap_err();
    assert_eq!(TlsError::of(&error), Some(&TlsError::NotTls));
}

#[test]
fn a_client_that_stops_in_the_middle_ends_the_read() {
    let whole = hello([3, 3], [0xc0, 0x2b]);
    for n in [0, 1, 5, whole.len() - 1] {
        let (error, _) = answer_to(&whole[..n], true);
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{n}: {error}");
    }
    // One that neither goes on nor goes away: somebody else ends it.
    let (acceptor, _) = acceptor();
    let (here, mut there) = memory_pair(64 * 1024);
    let Halves { mut read, control, .. } = split(acceptor.accept(Box::new(here)));
    there.write_all(&whole).unwrap();
    let read = spawn(move || read.read(&mut [0]));
    // Its answer is there: it waits.
    there.read_exact(&mut [0]).unwrap();
    control.shutdown(Shutdown::Both);
    assert_eq!(read.join().unwrap().unwrap_err().kind(), ErrorKind::UnexpectedEof);
}

/// A peer that says one byte after the other, each a little later, and writes down how long each was waited for.
struct Dripping {
    bytes: std::vec::IntoIter<u8>,
    never: Receiver<()>,
    waits: Sender<Option<Duration>>,
    _never: Sender<()>,
}

impl Transport for Dripping {
    fn split(self: Box<Self>) -> io::Result<Halves> {
        let (other, _) = memory_pair(64 * 1024);
        let Halves { write, control, .. } = split(other);
        Ok(Halves::new(self, write, control))
    }

    fn peer(&self) -> String {
        "drip".to_owned()
    }
}

impl Read for Dripping {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let _nothing_comes = self.never.recv_timeout(Duration::from_millis(5));
        into[0] = self.bytes.next().unwrap();
        Ok(1)
    }
}

impl ReadHalf for Dripping {
    fn set_read_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.waits.send(timeout).unwrap();
        Ok(())
    }
}

#[test]
fn a_read_timeout_is_one_for_the_whole_handshake_however_it_drips() {
    const PATIENCE: Duration = Duration::from_millis(50);
    let (acceptor, _) = acceptor();
    let (waits, waited) = bounded(10_000);
    let (_never, never) = bounded(0);
    // A record that would take a minute at this rate.
    let mut bytes = vec![22, 3, 1, 0x30, 0, 1, 0, 0x2f, 0xfc];
    bytes.resize(12_000, 7);
    let drip = Dripping {
        bytes: bytes.into_iter(),
        never,
        waits,
        _never,
    };
    let mut halves = split(acceptor.accept(Box::new(drip)));
    halves.read.set_read_timeout(Some(PATIENCE)).unwrap();
    let error = halves.read.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionAborted, "{error}");
    drop(halves);
    let waits: Vec<Duration> = waited.iter().map(Option::unwrap).collect();
    assert_eq!(waits[0], PATIENCE);
    assert!(
        waits.is_sorted_by(|earlier, later| later < earlier),
        "the time left: {waits:?}"
    );
    assert!(waits.len() <= 11, "at 5 ms each: {}", waits.len());
}

/// A client of rustls's own, to do what ours never does.
struct Bare {
    client: ClientConnection,
    wire: MemoryTransport,
    /// All that has been sent.
    sent: Vec<u8>,
}

impl Bare {
    /// Shakes hands in this version, and says "x".
    fn connect(wire: MemoryTransport, ca: &str, version: &'static rustls::SupportedProtocolVersion) -> Self {
        let mut roots = RootCertStore::empty();
        let ca = rustls::pki_types::CertificateDer::from_pem_slice(ca.as_bytes()).unwrap();
        roots.add(ca).unwrap();
        let provider = rustls::crypto::CryptoProvider {
            cipher_suites: vec![
                rustls::crypto::ring::cipher_suite::TLS13_AES_256_GCM_SHA384,
                rustls::crypto::ring::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            ],
            ..rustls::crypto::ring::default_provider()
        };
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.enable_secret_extraction = true;
        let name = ServerName::try_from("localhost").unwrap();
        let client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bare = Self {
            client,
            wire,
            sent: Vec::new(),
        };
        bare.send();
        while bare.client.is_handshaking() {
            bare.receive();
            bare.send();
        }
        bare.client.writer().write_all(b"x").unwrap();
        bare.send();
        bare
    }

    fn send(&mut self) {
        let mut out = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut out).unwrap();
        }
        self.wire.write_all(&out).unwrap();
        self.sent.extend_from_slice(&out);
    }

    fn receive(&mut self) {
        self.client.read_tls(&mut self.wire).unwrap();
        self.client.process_new_packets().unwrap();
    }
}

/// A server that has shaken hands with a bare client and rings from now on.
fn with_bare(version: &'static rustls::SupportedProtocolVersion) -> (Halves, Receiver<()>, Bare) {
    let (acceptor, ca) = acceptor();
    let (here, there) = memory_pair(64 * 1024);
    let bare = spawn(move || Bare::connect(there, &ca, version));
    let mut server = split(acceptor.accept(Box::new(here)));
    server.read.read_exact(&mut [0]).unwrap();
    let (bell, ringing) = bell();
    server.read.set_doorbell(bell);
    (server, ringing, bare.join().unwrap())
}

#[test]
fn new_keys_asked_for_are_used_for_what_is_written_next() {
    let (mut server, _ringing, mut bare) = with_bare(&rustls::version::TLS13);
    for n in 0..4_u8 {
        bare.client.refresh_traffic_keys().unwrap();
        bare.client.writer().write_all(&[n]).unwrap();
        bare.send();
        let mut heard = [0];
        server.read.read_exact(&mut heard).unwrap();
        assert_eq!(heard, [n]);
        server.write.write_all(&[n; 100]).unwrap();
        let mut heard = Vec::new();
        while heard.len() < 100 {
            bare.receive();
            let mut piece = [0; 100];
            let n = bare.client.reader().read(&mut piece).unwrap_or(0);
            heard.extend_from_slice(&piece[..n]);
        }
        assert_eq!(heard, [n; 100]);
    }
    // One who does nothing but ask is not served any longer.
    let mut flood = || {
        bare.client.refresh_traffic_keys().unwrap();
        bare.send();
        server.read.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        server.read.read(&mut [0]).unwrap_err()
    };
    let end = (0..100)
        .map(|_| flood())
        .find(|error| error.kind() != ErrorKind::WouldBlock);
    let end = end.expect("the flood is cut off");
    assert!(matches!(TlsError::of(&end), Some(TlsError::Protocol(_))), "{end}");
}

#[test]
fn what_reading_leaves_to_be_written_goes_through_the_writer() {
    let (mut server, ringing, mut bare) = with_bare(&rustls::version::TLS13);
    // Nothing that anybody with the keys would say.
    bare.wire.write_all(&[23, 3, 3, 0, 20]).unwrap();
    bare.wire.write_all(&[7; 20]).unwrap();
    let error = server.read.read(&mut [0]).unwrap_err();
    assert!(TlsError::of(&error).is_some(), "{error}");
    ringing.recv_timeout(DEADLINE).expect("it has rung");
    // Tickets have come before; the reader itself has written nothing since.
    bare.wire.set_read_timeout(Some(Duration::from_millis(1)));
    while let Ok(n) = bare.client.read_tls(&mut bare.wire)
        && n > 0
    {
        bare.client.process_new_packets().unwrap();
    }
    server.write.flush().unwrap();
    bare.wire.set_read_timeout(Some(DEADLINE));
    bare.client.read_tls(&mut bare.wire).unwrap();
    let told = bare.client.process_new_packets().unwrap_err();
    assert!(matches!(told, rustls::Error::AlertReceived(_)), "{told}");
    assert!(server.write.write(b"y").is_err(), "nothing can follow");
}

#[test]
fn shaking_hands_anew_is_declined_and_then_cut_off() {
    let (mut server, ringing, bare) = with_bare(&rustls::version::TLS12);
    let Bare { client, mut wire, sent } = bare;
    // The same hello again, as a record of the connection that there is.
    let len = usize::from(u16::from_be_bytes([sent[3], sent[4]]));
    let hello = &sent[5..5 + len];
    let SupportedCipherSuite::Tls12(suite) = client.negotiated_cipher_suite().unwrap() else {
        panic!("not TLS 1.2")
    };
    let (mut number, secrets) = client.dangerous_extract_secrets().unwrap().tx;
    let ConnectionTrafficSecrets::Aes256Gcm { key, iv } = secrets else {
        panic!("not the cipher asked for")
    };
    let mut encrypter = suite.aead_alg.encrypter(key, &iv.as_ref()[..4], &iv.as_ref()[4..]);
    let mut renegotiate = || {
        let message = OutboundPlainMessage {
            typ: ContentType::Handshake,
            version: ProtocolVersion::TLSv1_2,
            payload: OutboundChunks::Single(hello),
        };
        let record = encrypter.encrypt(message, number).unwrap().encode();
        number += 1;
        wire.write_all(&record).unwrap();
        server.read.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        server.read.read(&mut [0]).unwrap_err()
    };
    assert_eq!(renegotiate().kind(), ErrorKind::WouldBlock, "declined");
    ringing.recv_timeout(DEADLINE).expect("the decline is to be written");
    let end = renegotiate();
    assert!(matches!(TlsError::of(&end), Some(TlsError::Protocol(_))), "{end}");
}

#[track_caller]
fn check_unusable(certificates: &str, key: &str, part: &str) {
    let error = TlsConfig::from_pem(certificates.as_bytes(), key.as_bytes()).unwrap_err();
    assert!(error.to_string().contains(part), "{error}");
}

#[test]
fn certificates_that_cannot_be_used_are_refused_with_the_reason() {
    let authority = Authority::new();
    let (one, other) = (authority.issue(), authority.issue());
    check_unusable("", &one.key, "the certificates given: no certificate in PEM");
    check_unusable(&one.certificate, "", "the key given: no private key in PEM");
    check_unusable(&one.certificate, &one.certificate, "no private key in PEM");
    check_unusable(
        &one.certificate,
        &other.key,
        "the key does not belong to the certificate",
    );
    let cut = &one.certificate[..one.certificate.len() - 30];
    check_unusable(cut, &one.key, "the certificates given: ");
    let junk = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    check_unusable(junk, &one.key, "the certificates given: ");
    assert!(matches!(
        Trust::new().add_pem(junk.as_bytes()),
        Err(CertificateError::Unusable { .. })
    ));
}

#[test]
fn reading_the_files_again_replaces_what_is_in_force_or_leaves_it() {
    let authority = Authority::new();
    let (one, other) = (authority.issue(), authority.issue());
    let folder = tempfile::tempdir().unwrap();
    let (certificates, key) = (folder.path().join("chain.pem"), folder.path().join("key.pem"));
    let missing = TlsConfig::from_files(&certificates, &key).unwrap_err();
    assert!(
        missing.to_string().starts_with(&certificates.display().to_string()),
        "{missing}"
    );
    fs::write(&certificates, &one.certificate).unwrap();
    fs::write(&key, &one.key).unwrap();
    let acceptor = Acceptor::new(TlsConfig::from_files(&certificates, &key).unwrap());
    let first = acceptor.config_in_force();
    let is_first = || Arc::ptr_eq(&first, &acceptor.config_in_force());
    fs::write(&certificates, &other.certificate).unwrap();
    let error = acceptor.reload().unwrap_err();
    assert!(error.to_string().starts_with(&key.display().to_string()), "{error}");
    assert!(is_first(), "the old one stays");
    fs::remove_file(&key).unwrap();
    assert!(matches!(acceptor.reload(), Err(CertificateError::File { path, .. }) if path == key));
    assert!(is_first());
    fs::write(&key, &other.key).unwrap();
    acceptor.reload().unwrap();
    assert!(!is_first());
    let of_bytes = Acceptor::new(config(&one));
    assert!(matches!(of_bytes.reload(), Err(CertificateError::NoFiles)));
}
