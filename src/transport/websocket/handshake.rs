//! The two ends of the opening handshake (RFC 6455 section 4): the response that upgrades, and a client's request for it.
//!
//! Must not know what else HTTP is used for, or how long anybody may take: read timeouts are the caller's.

use std::io::{self, ErrorKind, Write};
use std::time::Duration;

use tungstenite::handshake::client::generate_key;
use tungstenite::handshake::derive_accept_key;
use tungstenite::handshake::server::{Request, create_response, write_response};
use tungstenite::http::HeaderValue;

use super::Coding;
use super::extension::{OFFER, accept_offer, check_answer};
use crate::deflate::WindowBits;
use crate::transport::ReadHalf;

/// Largest head of a server's answer.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Most header lines of a server's answer.
const HEADERS_MAX: usize = 64;

/// How much of a refusal's body is kept.
const BODY_BYTES_MAX: usize = 512;

/// How long each piece of a refusal's body is waited for, and how many pieces.
const BODY_PATIENCE: Duration = Duration::from_millis(500);
const BODY_READS_MAX: usize = 8;

/// Why a request does not get an upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UpgradeRefusal {
    /// It does not ask for WebSocket.
    NotAnUpgrade,
    /// It does not ask for version 13, the only one there is.
    Version,
    /// Its `Sec-WebSocket-Key` is not one line of 16 bytes in base64.
    Key,
}

/// How a server upgrades a connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Upgrade {
    pub(crate) response: Vec<u8>,
    /// The window to deflate with; `None` where messages are sent and taken as they are.
    pub(crate) deflate: Option<WindowBits>,
}

/// The response that upgrades a GET request of HTTP/1.1 with these headers. Messages are deflated only where `coding` allows it and
/// the client has offered it.
pub(crate) fn accept_response(headers: &[(&str, &[u8])], coding: Coding) -> Result<Upgrade, UpgradeRefusal> {
    let values = |name| values_of(headers.iter().copied(), name);
    if !has_token(values("upgrade"), "websocket") || !has_token(values("connection"), "upgrade") {
        return Err(UpgradeRefusal::NotAnUpgrade);
    }
    if the_only(values("sec-websocket-version")) != Some(b"13".as_slice()) {
        return Err(UpgradeRefusal::Version);
    }
    let key = the_only(values("sec-websocket-key")).ok_or(UpgradeRefusal::Key)?;
    // tungstenite looks at the first line of each header only, so it is shown one that says what all of them say.
    let request = Request::get("/")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", key)
        .body(())
        .map_err(|_| UpgradeRefusal::Key)?;
    let mut response = create_response(&request).map_err(|_| UpgradeRefusal::Key)?;
    let accepted = match coding {
        Coding::Plain => None,
        Coding::Deflate => accept_offer(values("sec-websocket-extensions")),
    };
    let mut deflate = None;
    if let Some((answer, window_bits)) = accepted
        && let Ok(answer) = HeaderValue::from_str(&answer)
    {
        response.headers_mut().insert("sec-websocket-extensions", answer);
        deflate = Some(window_bits);
    }
    let mut bytes = Vec::with_capacity(256);
    write_response(&mut bytes, &response).map_err(|_| UpgradeRefusal::Key)?;
    Ok(Upgrade {
        response: bytes,
        deflate,
    })
}

/// Why a server did not upgrade the connection.
#[derive(Debug)]
pub(crate) enum HandshakeError {
    /// The connection failed, or the server took too long.
    Io(io::Error),
    /// The server answered with another status than 101.
    Status {
        code: u16,
        /// The beginning of what it said.
        body: String,
    },
    /// The answer is no upgrade to a WebSocket.
    Malformed(String),
    /// The answer names this subprotocol, which is not the one that was asked for.
    Subprotocol(String),
}

/// A connection that has become a WebSocket, as a client sees it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Shaken {
    /// The bytes that came after the server's answer.
    pub(crate) leftover: Vec<u8>,
    /// What the server's messages may be.
    pub(crate) coding: Coding,
    /// Whether the server speaks the subprotocol that it was asked for, and says so.
    pub(crate) has_subprotocol: bool,
}

/// Asks the server at the other end to upgrade to a WebSocket that speaks `subprotocol`, and shows it the token, if there is one; with
/// [`Coding::Deflate`], it may deflate its messages. A server that passes over the subprotocol is taken at its word: it upgrades.
///
/// Blocks on the transport; the read timeout set before bounds one wait, and shutting the transport down ends it.
pub(crate) fn client_handshake(
    read: &mut dyn ReadHalf,
    write: &mut dyn Write,
    host: &str,
    path: &str,
    token: Option<&str>,
    coding: Coding,
    subprotocol: &str,
) -> Result<Shaken, HandshakeError> {
    let is_broken = |part: &str| part.bytes().any(|byte| byte <= b' ' || byte == 0x7F);
    for part in [host, path] {
        if is_broken(part) {
            let text = format!("a space or control character in {part:?}");
            return Err(HandshakeError::Io(io::Error::new(ErrorKind::InvalidInput, text)));
        }
    }
    let authorization = match token {
        None => String::new(),
        Some(token) if is_broken(token) || token.is_empty() => {
            let text = "a token has no spaces or control characters, and is not empty";
            return Err(HandshakeError::Io(io::Error::new(ErrorKind::InvalidInput, text)));
        }
        Some(token) => format!("Authorization: Bearer {token}\r\n"),
    };
    let key = generate_key();
    let extensions = match coding {
        Coding::Plain => String::new(),
        Coding::Deflate => format!("Sec-WebSocket-Extensions: {OFFER}\r\n"),
    };
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: {subprotocol}\r\n{authorization}{extensions}\r\n"
    );
    write
        .write_all(request.as_bytes())
        .and_then(|()| write.flush())
        .map_err(HandshakeError::Io)?;
    let mut head = Vec::new();
    let head_len = read_head(read, &mut head)?;
    let leftover = head.split_off(head_len);
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    response
        .parse(&head)
        .map_err(|error| HandshakeError::Malformed(format!("the answer is not HTTP: {error}")))?;
    let code = response.code.unwrap_or(0);
    let headers = || response.headers.iter().map(|header| (header.name, header.value));
    if code != 101 {
        let body_bytes = the_only(values_of(headers(), "content-length"))
            .and_then(|value| std::str::from_utf8(value).ok()?.parse().ok())
            .unwrap_or(usize::MAX);
        let body = refusal_body(read, leftover, body_bytes);
        return Err(HandshakeError::Status { code, body });
    }
    let coding = check_upgrade(headers, &key, coding).map_err(|text| HandshakeError::Malformed(text.to_owned()))?;
    let mut subprotocols = values_of(headers(), "sec-websocket-protocol").peekable();
    let has_subprotocol = subprotocols.peek().is_some();
    if let Some(other) = subprotocols.find(|name| *name != subprotocol.as_bytes()) {
        return Err(HandshakeError::Subprotocol(String::from_utf8_lossy(other).into_owned()));
    }
    Ok(Shaken {
        leftover,
        coding,
        has_subprotocol,
    })
}

/// What RFC 6455 section 4.1 has a client check of a 101 that answers what it asked for. Returns what it got of that.
fn check_upgrade<'a, I>(headers: impl Fn() -> I, key: &str, asked: Coding) -> Result<Coding, &'static str>
where
    I: Iterator<Item = (&'a str, &'a [u8])>,
{
    let accept = derive_accept_key(key.as_bytes());
    if the_only(values_of(headers(), "sec-websocket-accept")) != Some(accept.as_bytes()) {
        return Err("the answer is no WebSocket server's: Sec-WebSocket-Accept does not fit");
    }
    if !has_token(values_of(headers(), "upgrade"), "websocket")
        || !has_token(values_of(headers(), "connection"), "upgrade")
    {
        return Err("the answer upgrades to something else than a WebSocket");
    }
    let mut extensions = values_of(headers(), "sec-websocket-extensions").peekable();
    let coding = match asked {
        Coding::Plain if extensions.peek().is_some() => {
            return Err("the answer names an extension that nobody asked for");
        }
        Coding::Deflate if check_answer(extensions)? => Coding::Deflate,
        Coding::Plain | Coding::Deflate => Coding::Plain,
    };
    Ok(coding)
}

/// Reads until the head of the answer is complete; returns its length.
fn read_head(read: &mut dyn ReadHalf, bytes: &mut Vec<u8>) -> Result<usize, HandshakeError> {
    let mut searched_len = 0_usize;
    loop {
        let from = searched_len.saturating_sub(3);
        let end = bytes[from..].windows(4).position(|window| window == b"\r\n\r\n");
        let head_len = end.map_or(bytes.len(), |end| from + end + 4);
        if head_len > HEAD_BYTES_MAX {
            let text = format!("the answer's head has more than {HEAD_BYTES_MAX} bytes");
            return Err(HandshakeError::Malformed(text));
        }
        if end.is_some() {
            return Ok(head_len);
        }
        searched_len = bytes.len();
        if read_some(read, bytes).map_err(HandshakeError::Io)? == 0 {
            return Err(HandshakeError::Io(ErrorKind::UnexpectedEof.into()));
        }
    }
}

/// What a refusing server says, as far as it comes soon.
fn refusal_body(read: &mut dyn ReadHalf, mut body: Vec<u8>, body_bytes: usize) -> String {
    let wanted_bytes = body_bytes.min(BODY_BYTES_MAX);
    if read.set_read_timeout(Some(BODY_PATIENCE)).is_ok() {
        for _ in 0..BODY_READS_MAX {
            if body.len() >= wanted_bytes || !read_some(read, &mut body).is_ok_and(|n| n > 0) {
                break;
            }
        }
    }
    body.truncate(wanted_bytes);
    String::from_utf8_lossy(&body).trim().to_owned()
}

fn read_some(read: &mut dyn ReadHalf, into: &mut Vec<u8>) -> io::Result<usize> {
    let mut buffer = [0; 1024];
    loop {
        match read.read(&mut buffer) {
            Ok(n) => {
                into.extend_from_slice(&buffer[..n]);
                return Ok(n);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn values_of<'a>(headers: impl Iterator<Item = (&'a str, &'a [u8])>, name: &str) -> impl Iterator<Item = &'a [u8]> {
    headers
        .filter(move |(other, _)| other.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim_ascii())
}

/// Whether a comma-separated list, over however many lines, has this token.
fn has_token<'a>(mut values: impl Iterator<Item = &'a [u8]>, token: &str) -> bool {
    values.any(|value| {
        value
            .split(|byte| *byte == b',')
            .any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
    })
}

/// The value of a header that may be there only once.
fn the_only<'a>(mut values: impl Iterator<Item = &'a [u8]>) -> Option<&'a [u8]> {
    let value = values.next()?;
    values.next().is_none().then_some(value)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

    use std::io::Read;

    use super::*;
    use crate::thread::{STACK_BYTES_CONNECTION, spawn_named};
    use crate::transport::{MemoryTransport, Transport, memory_pair};

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    fn accept(headers: &str) -> Result<String, UpgradeRefusal> {
        accept_as(headers, Coding::Plain).map(|(response, _)| response)
    }

    fn accept_as(headers: &str, coding: Coding) -> Result<(String, Option<WindowBits>), UpgradeRefusal> {
        let headers: Vec<(&str, &[u8])> = headers
            .lines()
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name, value.as_bytes()))
            .collect();
        accept_response(&headers, coding).map(|upgrade| (String::from_utf8(upgrade.response).unwrap(), upgrade.deflate))
    }

    fn good() -> String {
        format!("Connection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: {KEY}")
    }

    #[track_caller]
    fn check_refused(headers: &str, expected: UpgradeRefusal) {
        assert_eq!(accept(headers), Err(expected), "{headers}");
    }

    #[test]
    fn the_accept_key_is_the_one_of_the_rfc() {
        let response = accept(&good()).unwrap();
        assert!(
            response.starts_with("HTTP/1.1 101 Switching Protocols\r\n"),
            "{response}"
        );
        assert!(response.ends_with("\r\n\r\n"), "{response}");
        let response = response.to_ascii_lowercase();
        for line in [
            "connection: upgrade",
            "upgrade: websocket",
            "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=",
        ] {
            assert!(
                response.lines().any(|other| other == line),
                "{line} is missing in {response}"
            );
        }
    }

    #[test]
    fn lists_over_several_lines_are_understood() {
        for (from, to) in [
            ("Connection: Upgrade", "connection: keep-alive, UPGRADE"),
            ("Connection: Upgrade", "Connection: keep-alive\nConnection: foo,upgrade"),
            ("Upgrade: websocket", "Upgrade: h2c, WebSocket"),
            ("Upgrade: websocket", "Upgrade: h2c\nUpgrade: websocket"),
        ] {
            let headers = good().replace(from, to);
            assert!(accept(&headers).is_ok(), "{headers}");
        }
    }

    #[test]
    fn what_is_no_upgrade_is_refused() {
        use UpgradeRefusal::{Key, NotAnUpgrade, Version};
        check_refused("", NotAnUpgrade);
        check_refused(&good().replace("Connection: Upgrade\n", ""), NotAnUpgrade);
        check_refused(
            &good().replace("Connection: Upgrade", "Connection: upgraded"),
            NotAnUpgrade,
        );
        check_refused(&good().replace("Upgrade: websocket", "Upgrade: h2c"), NotAnUpgrade);
        check_refused(&good().replace("Version: 13", "Version: 8"), Version);
        check_refused(&good().replace("Version: 13", "Version: 13, 8"), Version);
        check_refused(&(good() + "\nSec-WebSocket-Version: 13"), Version);
        check_refused(&good().replace(KEY, ""), Key);
        check_refused(&good().replace(KEY, "c2hvcnQ="), Key);
        check_refused(&good().replace(KEY, "not base64 at all!!!!!!!"), Key);
        check_refused(&good().replace(KEY, "\u{7}"), Key);
        check_refused(&(good() + "\nSec-WebSocket-Key: " + KEY), Key);
    }

    /// A server that reads the request and answers what `answer` makes of its key, then what `after` says.
    #[track_caller]
    fn shake(
        answer: impl FnOnce(&str) -> String + Send + 'static,
        after: &'static [u8],
    ) -> Result<Vec<u8>, HandshakeError> {
        shake_as(answer, after, Coding::Plain).map(|shaken| {
            assert_eq!(shaken.coding, Coding::Plain);
            shaken.leftover
        })
    }

    #[track_caller]
    fn shake_as(
        answer: impl FnOnce(&str) -> String + Send + 'static,
        after: &'static [u8],
        coding: Coding,
    ) -> Result<Shaken, HandshakeError> {
        let (server, client) = memory_pair(64 * 1024);
        let server = spawn_named("test", STACK_BYTES_CONNECTION, move || {
            let mut server = server;
            let request = read_request(&mut server);
            let key = request
                .lines()
                .find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "))
                .unwrap();
            let answer = answer(key);
            // The client may have seen enough before everything is written.
            let _left_early = server
                .write_all(answer.as_bytes())
                .and_then(|()| server.write_all(after));
            (request, server)
        });
        let mut halves = Box::new(client).split().unwrap();
        halves.read.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let result = client_handshake(
            halves.read.as_mut(),
            halves.write.as_mut(),
            "db.example:8080",
            "/ws",
            None,
            coding,
            "chat.v1",
        );
        // Both halves are kept until the server is done.
        let (request, _server) = server.unwrap().join().unwrap();
        assert!(
            request.starts_with("GET /ws HTTP/1.1\r\nHost: db.example:8080\r\n"),
            "{request}"
        );
        assert!(request.contains("\r\nSec-WebSocket-Protocol: chat.v1\r\n"), "{request}");
        let is_offered = request.contains(&format!("\r\nSec-WebSocket-Extensions: {OFFER}\r\n"));
        assert_eq!(is_offered, coding == Coding::Deflate, "{request}");
        result
    }

    fn read_request(server: &mut MemoryTransport) -> String {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            server.read_exact(&mut byte).unwrap();
            request.push(byte[0]);
        }
        String::from_utf8(request).unwrap()
    }

    fn upgrade(key: &str) -> String {
        let accept = derive_accept_key(key.as_bytes());
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
        )
    }

    #[test]
    fn what_follows_the_upgrade_is_kept() {
        assert_eq!(shake(upgrade, b"").unwrap(), b"");
        // Whether it comes in the same packet is the server's choice: as leftover or with the next read.
        let leftover = shake(|key| upgrade(key) + "\u{1}\u{2}", b"").unwrap();
        assert_eq!(leftover, b"\x01\x02");
    }

    #[track_caller]
    fn check_malformed(change: impl Fn(String) -> String + Send + 'static, what: &str) {
        let error = shake(move |key| change(upgrade(key)), b"").unwrap_err();
        assert!(
            matches!(&error, HandshakeError::Malformed(text) if text.contains(what)),
            "{error:?}"
        );
    }

    #[test]
    fn what_is_no_upgrade_is_not_taken_for_one() {
        check_malformed(|ok| ok.replace("Accept: ", "Accept: x"), "Sec-WebSocket-Accept");
        check_malformed(|ok| ok.replace("Sec-WebSocket-Accept", "X"), "Sec-WebSocket-Accept");
        check_malformed(|ok| ok.replace("websocket", "h2c"), "something else");
        check_malformed(|ok| ok.replace("Connection: Upgrade\r\n", ""), "something else");
        check_malformed(
            |ok| {
                ok.replace(
                    "Upgrade: w",
                    "Sec-WebSocket-Extensions: permessage-deflate\r\nUpgrade: w",
                )
            },
            "extension",
        );
        check_malformed(|_| "SSH-2.0-x\r\n\r\n".to_owned(), "not HTTP");
        check_malformed(
            |_| format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(65)),
            "not HTTP",
        );
        check_malformed(|_| "x".repeat(20_000), "16384");
    }

    #[test]
    fn the_subprotocol_is_the_one_asked_for_or_none() {
        let answer =
            |lines: &'static str| move |key: &str| upgrade(key).replace("Upgrade: w", &format!("{lines}Upgrade: w"));
        for (lines, expected) in [("", false), ("sec-websocket-protocol: chat.v1\r\n", true)] {
            let shaken = shake_as(answer(lines), b"", Coding::Plain).unwrap();
            assert_eq!(shaken.has_subprotocol, expected, "{lines}");
        }
        for (lines, named) in [
            ("Sec-WebSocket-Protocol: chat.v2\r\n", "chat.v2"),
            ("Sec-WebSocket-Protocol: chat.v1, chat.v2\r\n", "chat.v1, chat.v2"),
            (
                "Sec-WebSocket-Protocol: chat.v1\r\nSec-WebSocket-Protocol: CHAT.V1\r\n",
                "CHAT.V1",
            ),
            ("Sec-WebSocket-Protocol:\r\n", ""),
        ] {
            let error = shake_as(answer(lines), b"", Coding::Plain).unwrap_err();
            assert!(
                matches!(&error, HandshakeError::Subprotocol(other) if other == named),
                "{error:?}"
            );
        }
    }

    #[test]
    fn deflating_is_agreed_on() {
        let offer = good() + "\nSec-WebSocket-Extensions: foo\nsec-websocket-extensions: permessage-deflate";
        let line = format!("\r\nsec-websocket-extensions: {OFFER}\r\n");
        let (response, deflate) = accept_as(&offer, Coding::Deflate).unwrap();
        assert!(response.to_ascii_lowercase().contains(&line), "{response}");
        assert_eq!(deflate, Some(WindowBits::MAX));
        for (headers, coding) in [(&good(), Coding::Deflate), (&offer, Coding::Plain)] {
            let (response, deflate) = accept_as(headers, coding).unwrap();
            assert!(!response.to_ascii_lowercase().contains("extensions"), "{response}");
            assert_eq!(deflate, None);
        }
        let answer = |value: &'static str| {
            move |key: &str| {
                upgrade(key).replace(
                    "Upgrade: w",
                    &format!("Sec-WebSocket-Extensions: {value}\r\nUpgrade: w"),
                )
            }
        };
        let shaken = shake_as(answer(OFFER), b"", Coding::Deflate).unwrap();
        assert_eq!(shaken.coding, Coding::Deflate);
        let shaken = shake_as(upgrade, b"", Coding::Deflate).unwrap();
        assert_eq!(shaken.coding, Coding::Plain, "a server need not");
        let error = shake_as(answer("permessage-deflate"), b"", Coding::Deflate).unwrap_err();
        assert!(
            matches!(&error, HandshakeError::Malformed(text) if text.contains("nobody asked for")),
            "{error:?}"
        );
    }

    #[track_caller]
    fn check_status(answer: &'static str, code: u16, text: &str) {
        match shake(move |_| answer.to_owned(), b"") {
            Err(HandshakeError::Status { code: other, body }) => assert_eq!((other, body.as_str()), (code, text)),
            other => panic!("no status: {other:?}"),
        }
    }

    #[test]
    fn a_refusal_is_told_with_its_words() {
        check_status(
            "HTTP/1.1 400 Bad Request\r\nContent-Length: 5\r\n\r\nno!\r\n",
            400,
            "no!",
        );
        check_status("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", 404, "");
        check_status(
            "HTTP/1.0 503 Busy\r\nContent-Length: 2\r\n\r\nlater, and more",
            503,
            "la",
        );
    }

    #[test]
    fn a_long_refusal_is_cut() {
        let result = shake(|_| format!("HTTP/1.1 500 Oh\r\n\r\n{}", "x".repeat(5000)), b"");
        let Err(HandshakeError::Status { body, .. }) = result else {
            panic!("{result:?}")
        };
        assert_eq!(body.len(), BODY_BYTES_MAX);
    }

    #[test]
    fn a_server_that_goes_away_or_says_nothing_is_an_error() {
        let (server, client) = memory_pair(1024);
        let mut halves = Box::new(client).split().unwrap();
        halves.read.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        let mut shake = || {
            client_handshake(
                halves.read.as_mut(),
                halves.write.as_mut(),
                "h",
                "/",
                None,
                Coding::Plain,
                "p",
            )
        };
        let error = shake().unwrap_err();
        assert!(
            matches!(&error, HandshakeError::Io(error) if error.kind() == ErrorKind::WouldBlock),
            "{error:?}"
        );
        let mut server = Box::new(server).split().unwrap();
        server.write.write_all(b"HTTP/1.1 101").unwrap();
        drop(server.write);
        let error = shake().unwrap_err();
        assert!(
            matches!(&error, HandshakeError::Io(error) if error.kind() == ErrorKind::UnexpectedEof),
            "{error:?}"
        );
        drop(server.read);
        let error = shake().unwrap_err();
        assert!(
            matches!(&error, HandshakeError::Io(error) if error.kind() == ErrorKind::BrokenPipe),
            "{error:?}"
        );
    }

    #[test]
    fn nothing_can_be_smuggled_into_the_request() {
        for (host, path) in [("h\r\nX: y", "/"), ("h", "/ HTTP/1.0\r\n"), ("h", "/a b"), ("h\0", "/")] {
            let (_server, client) = memory_pair(1024);
            let mut halves = Box::new(client).split().unwrap();
            let error = client_handshake(
                halves.read.as_mut(),
                halves.write.as_mut(),
                host,
                path,
                None,
                Coding::Plain,
                "p",
            )
            .unwrap_err();
            assert!(
                matches!(&error, HandshakeError::Io(error) if error.kind() == ErrorKind::InvalidInput),
                "{error:?}"
            );
        }
    }

    #[test]
    fn another_implementation_accepts_the_request() {
        let (server, client) = memory_pair(1024);
        let server = spawn_named("test", STACK_BYTES_CONNECTION, move || {
            let mut socket = tungstenite::accept(server).unwrap();
            socket.send("hello".into()).unwrap();
            socket
        });
        let mut halves = Box::new(client).split().unwrap();
        let shaken = client_handshake(
            halves.read.as_mut(),
            halves.write.as_mut(),
            "h",
            "/",
            None,
            Coding::Deflate,
            "p",
        )
        .unwrap();
        assert_eq!(shaken.coding, Coding::Plain, "tungstenite knows no extension");
        let mut frame = shaken.leftover;
        while frame.len() < 7 {
            read_some(halves.read.as_mut(), &mut frame).unwrap();
        }
        assert_eq!(frame, b"\x81\x05hello");
        drop(server.unwrap().join().unwrap());
    }

    #[test]
    fn another_implementation_accepts_the_response() {
        let (mut server, client) = memory_pair(1024);
        let client = spawn_named("test", STACK_BYTES_CONNECTION, move || {
            let (socket, response) = tungstenite::client("ws://db.example/ws", client).unwrap();
            (socket.can_write(), response.status().as_u16())
        });
        let request = read_request(&mut server);
        let headers: Vec<(&str, &[u8])> = request
            .lines()
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name, value.as_bytes()))
            .collect();
        let upgrade = accept_response(&headers, Coding::Deflate).unwrap();
        assert_eq!(upgrade.deflate, None, "nobody has offered it");
        server.write_all(&upgrade.response).unwrap();
        assert_eq!(client.unwrap().join().unwrap(), (true, 101));
    }
}
