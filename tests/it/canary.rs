//! A token that nobody may see: shown to server and client in every way, right and wrong, then looked for in all that they have said.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use log::kv::{self, Key, VisitSource};
use log::{Log, Metadata, Record};
use rowstream::auth::{AuthError, Authenticator, Credentials, Identity, Secret, TokenFile};
use rowstream::{Client, Server, ServerHandle};
use serde_json::{Value, json};

use crate::auth::engine;
use crate::support::{DEADLINE, eventually};

/// In all tokens here, right and wrong, as they are and in base64.
const CANARY: &str = "c4n4ry";
const RIGHT: &str = "c4n4ry-c4n4ry-c4n4ry-c4n4ry-right";
const WRONG: &str = "c4n4ry-c4n4ry-c4n4ry-c4n4ry-wrong";

/// Keeps all lines of all levels.
struct Lines(Mutex<String>);

static LINES: Lines = Lines(Mutex::new(String::new()));

impl Log for Lines {
    fn enabled(&self, _metadata: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let mut pairs = Pairs(String::new());
        record.key_values().visit(&mut pairs).unwrap();
        let line = format!("{} {}: {}{}\n", record.level(), record.target(), record.args(), pairs.0);
        self.0.lock().unwrap().push_str(&line);
    }

    fn flush(&self) {}
}

/// Key-values, as they are shown.
struct Pairs(String);

impl<'kvs> VisitSource<'kvs> for Pairs {
    fn visit_pair(&mut self, key: Key<'kvs>, value: kv::Value<'kvs>) -> Result<(), kv::Error> {
        self.0.push_str(&format!(" {key}={value}"));
        Ok(())
    }
}

struct Canaries;

impl Authenticator for Canaries {
    fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Identity, AuthError> {
        log::trace!("asked for {credentials:?}");
        match credentials.token() {
            RIGHT => Ok(Identity::new("alice")),
            "c4n4ry-forbidden" => Err(AuthError::Forbidden),
            "c4n4ry-unavailable" => Err(AuthError::Unavailable("no answer".to_owned())),
            "c4n4ry-panic" => panic!("as a test wants it"),
            _ => Err(AuthError::Rejected),
        }
    }
}

/// Sends an upgrade with these headers and these messages; returns every byte that the server has sent until it closed.
fn heard(server: &ServerHandle, headers: &str, messages: &[Value]) -> String {
    let mut sent = format!(
        "GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    )
    .into_bytes();
    for message in messages {
        let text = message.to_string();
        // A text frame of less than 64 KiB, with a mask that changes nothing.
        sent.extend([0x81, 0x80 | 126]);
        sent.extend(u16::try_from(text.len()).unwrap().to_be_bytes());
        sent.extend([0; 4]);
        sent.extend(text.as_bytes());
    }
    // A close frame without a code.
    sent.extend([0x88, 0x80, 0, 0, 0, 0]);
    let mut socket = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.write_all(&sent).unwrap();
    let mut heard = Vec::new();
    socket.read_to_end(&mut heard).unwrap();
    String::from_utf8_lossy(&heard).into_owned()
}

#[test]
fn a_token_is_in_no_log_no_error_no_dump_and_never_sent_back() {
    log::set_logger(&LINES).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    let builder = Server::builder().engine("first", engine()).listen("127.0.0.1:0");
    let builder = builder.authenticator(Canaries).auth_failures_per_minute(14);
    let mut said = vec![format!("{builder:?} {builder:#?}")];
    let server = builder.auth_deadline(Duration::from_secs(30)).start().unwrap();
    said.push(format!("{server:?}"));

    let hello = |token: &str| json!({"type": "hello", "token": token});
    let query = json!({"type": "stream_query", "query": "few"});
    for token in [
        RIGHT,
        WRONG,
        "c4n4ry-forbidden",
        "c4n4ry-unavailable",
        "c4n4ry-panic",
        "c4n4ry\u{1b}[2J",
    ] {
        let header = format!("Authorization: Bearer {token}\r\n");
        let encoded = URL_SAFE_NO_PAD.encode(token);
        let subprotocol = format!("Sec-WebSocket-Protocol: rowstream.v1, rowstream.auth.bearer.{encoded}\r\n");
        for headers in [
            &header,
            &subprotocol,
            &format!("{header}{subprotocol}"),
            &format!("Authorization: {token}\r\n"),
        ] {
            said.push(heard(&server, headers, std::slice::from_ref(&query)));
        }
        // What is not HTTP, not an upgrade, and not for pages.
        said.push(heard(&server, &format!("{header}broken line {token}\r\n"), &[]));
        said.push(heard(
            &server,
            &format!("{header}Origin: https://evil.example\r\n"),
            &[],
        ));
        said.push(heard(&server, "", &[hello(token), query.clone()]));
        said.push(heard(
            &server,
            "",
            &[json!({"type": "hello", "token": [token]}), json!({"type": token})],
        ));
        said.push(format!("{:?}", Secret::from(token)));
    }
    said.push(heard(
        &server,
        &format!("Authorization: Bearer {RIGHT}\r\n"),
        &[hello(RIGHT), hello(WRONG)],
    ));

    for _ in 0..15 {
        said.push(heard(&server, &format!("Authorization: Bearer {WRONG}\r\n"), &[]));
    }
    let url = format!("ws://{}/ws", server.local_addr().unwrap());
    for token in [RIGHT, WRONG, "c4n4ry and a blank", "c4n4ry\r\n"] {
        let builder = Client::builder().token(token);
        said.push(format!("{builder:?}"));
        said.push(match builder.connect(&url) {
            Ok(client) => format!("{client:?}"),
            Err(error) => format!("{error} {error:?}"),
        });
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens");
    // Tokens where a name, a hash, a right, an engine should be.
    for line in [
        "c4n4ry",
        "a c4n4ry query",
        "c4n4ry a b c d",
        "a 00 c4n4ry",
        "c4n4ry c4n4ry c4n4ry c4n4ry c4n4ry",
    ] {
        std::fs::write(&path, line).unwrap();
        let error = TokenFile::open(&path).unwrap_err();
        said.push(format!("{error} {error:?}"));
    }
    eventually("connections", &0, || server.connections());
    server.shutdown();

    said.push(LINES.0.lock().unwrap().clone());
    let lines = said.last().unwrap();
    for expected in [
        "shows a token that nobody has",
        "may not come in",
        "cannot be found out",
        "panicked",
        "connection admitted connection=1 principal=alice",
    ] {
        assert!(lines.contains(expected), "the log has not caught {expected:?}: {lines}");
    }
    let all = said.join("\n");
    assert!(all.contains("welcome") && all.contains("UNAUTHENTICATED") && all.contains("401 "));
    assert!(all.contains("429 "), "the last ones were not looked at");
    let encoded = URL_SAFE_NO_PAD.encode(CANARY);
    for text in [CANARY, encoded.as_str()] {
        if let Some(at) = all.find(text) {
            let from = all.floor_char_boundary(at.saturating_sub(200));
            panic!("{text} is in {}", &all[from..all.ceil_char_boundary(at + 100)]);
        }
    }
}
