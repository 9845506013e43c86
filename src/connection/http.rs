//! HTTP/1.1 (RFC 9112) as far as a WebSocket server needs it: a bounded head, read under an absolute deadline, and the answers.
//!
//! Must not know sessions, streams or the WebSocket frames that follow an upgrade.

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::time::Instant;

use crate::clock;
use crate::transport::ReadHalf;
use crate::transport::websocket::accept_response;

/// Largest head: request line and headers.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Most header lines.
const HEADERS_MAX: usize = 64;

/// What to do with a connection after its request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Say this and speak WebSocket from now on; `leftover` came behind the head.
    Upgrade { response: Vec<u8>, leftover: Vec<u8> },
    /// Say this and close.
    Respond(Vec<u8>),
}

/// A request that is refused, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Refusal {
    status: &'static str,
    text: &'static str,
    /// A header line with its line end, or nothing.
    header: &'static str,
}

impl Refusal {
    const fn new(status: &'static str, text: &'static str) -> Self {
        Self {
            status,
            text,
            header: "",
        }
    }
}

const BAD_REQUEST: Refusal = Refusal::new("400 Bad Request", "this is not an HTTP/1.1 request");
const TIMEOUT: Refusal = Refusal::new("408 Request Timeout", "the request took too long");
const HEAD_TOO_LARGE: Refusal = Refusal::new("431 Request Header Fields Too Large", "the request's head is too large");
const BODY: Refusal = Refusal::new("413 Content Too Large", "a request has no body here");
const NOT_FOUND: Refusal = Refusal::new("404 Not Found", "there is /, /healthz and /ws");
const SUBPROTOCOL: Refusal = Refusal::new("400 Bad Request", "this server knows none of the subprotocols offered");
const METHOD: Refusal = Refusal {
    status: "405 Method Not Allowed",
    text: "there is GET and HEAD",
    header: "Allow: GET, HEAD\r\n",
};
const UPGRADE: Refusal = Refusal {
    status: "426 Upgrade Required",
    text: "this is a WebSocket endpoint",
    header: "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
};

/// Reads one request and decides on its answer. `None` where the peer went away without asking anything. Blocks until the head
/// is complete, the peer goes away, or `deadline`, however slowly bytes drip in.
pub(crate) fn answer_request(read: &mut dyn ReadHalf, deadline: Instant) -> Option<Answer> {
    let mut bytes = Vec::with_capacity(512);
    let head_len = match read_head(read, deadline, &mut bytes) {
        Ok(Some(head_len)) => head_len,
        Ok(None) => return None,
        Err(refusal) => return Some(Answer::Respond(refuse(refusal, false))),
    };
    let leftover = bytes.split_off(head_len);
    Some(answer(&bytes, leftover))
}

/// Reads until the head is complete; returns its length.
fn read_head(read: &mut dyn ReadHalf, deadline: Instant, bytes: &mut Vec<u8>) -> Result<Option<usize>, Refusal> {
    let mut buffer = [0; 2048];
    let mut looked_at = 0_usize;
    loop {
        let from = looked_at.saturating_sub(3);
        if let Some(at) = bytes[from..].windows(4).position(|window| window == b"\r\n\r\n") {
            return Ok(Some(from + at + 4));
        }
        looked_at = bytes.len();
        if bytes.len() > HEAD_BYTES_MAX {
            return Err(HEAD_TOO_LARGE);
        }
        let time_left = deadline.saturating_duration_since(clock::now());
        if time_left.is_zero() {
            return Err(TIMEOUT);
        }
        if read.set_read_timeout(Some(time_left)).is_err() {
            return Ok(None);
        }
        match read.read(&mut buffer) {
            Ok(0) => return Ok(None),
            Ok(n) => bytes.extend_from_slice(&buffer[..n]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Err(TIMEOUT),
            Err(_) => return Ok(None),
        }
    }
}

/// The answer to a complete head. Pure.
fn answer(head: &[u8], leftover: Vec<u8>) -> Answer {
    let mut storage = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut storage);
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Answer::Respond(refuse(BAD_REQUEST, false)),
        Err(httparse::Error::TooManyHeaders) => return Answer::Respond(refuse(HEAD_TOO_LARGE, false)),
        Err(_) => return Answer::Respond(refuse(BAD_REQUEST, false)),
    }
    let (Some(method), Some(target), Some(1)) = (request.method, request.path, request.version) else {
        return Answer::Respond(refuse(BAD_REQUEST, false));
    };
    let head_only = method == "HEAD";
    let headers = request.headers;
    let path = target.split('?').next().unwrap_or(target);
    let has_body = value_of(headers, "transfer-encoding").is_some()
        || value_of(headers, "content-length").is_some_and(|length| length.trim_ascii() != b"0");
    let refusal = if method != "GET" && method != "HEAD" {
        METHOD
    } else if has_body {
        BODY
    } else {
        match path {
            "/" => {
                let host = value_of(headers, "host").map(String::from_utf8_lossy);
                let page = page(host.as_deref().unwrap_or("127.0.0.1:8080"));
                return Answer::Respond(respond("200 OK", "text/html", PAGE_HEADERS, &page, head_only));
            }
            "/healthz" => return Answer::Respond(respond("200 OK", "text/plain", "", "ok\n", head_only)),
            "/ws" if method == "GET" && has_token(headers, "upgrade", "websocket") => {
                return upgrade(target, headers, leftover);
            }
            "/ws" => UPGRADE,
            _ => NOT_FOUND,
        }
    };
    Answer::Respond(refuse(refusal, head_only))
}

fn upgrade(target: &str, headers: &[httparse::Header<'_>], leftover: Vec<u8>) -> Answer {
    // A browser that offered a subprotocol would drop a connection that chose none: say why instead.
    if value_of(headers, "sec-websocket-protocol").is_some() {
        return Answer::Respond(refuse(SUBPROTOCOL, false));
    }
    let pairs: Vec<(&str, &[u8])> = headers.iter().map(|header| (header.name, header.value)).collect();
    match accept_response(target, &pairs) {
        Ok(response) => Answer::Upgrade { response, leftover },
        Err(_) => Answer::Respond(refuse(UPGRADE, false)),
    }
}

fn value_of<'a>(headers: &[httparse::Header<'a>], name: &str) -> Option<&'a [u8]> {
    headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case(name))
        .map(|header| header.value)
}

fn has_token(headers: &[httparse::Header<'_>], name: &str, token: &str) -> bool {
    headers
        .iter()
        .filter(|header| header.name.eq_ignore_ascii_case(name))
        .flat_map(|header| header.value.split(|byte| *byte == b','))
        .any(|value| value.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

fn refuse(refusal: Refusal, head_only: bool) -> Vec<u8> {
    let Refusal { status, text, header } = refusal;
    respond(status, "text/plain", header, &format!("{text}\n"), head_only)
}

fn respond(status: &str, content_type: &str, headers: &str, body: &str, head_only: bool) -> Vec<u8> {
    let mut response = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}; charset=utf-8\r\nContent-Length: {}\r\n\
Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n{headers}Connection: close\r\n\r\n",
        body.len()
    );
    if !head_only {
        response.push_str(body);
    }
    response.into_bytes()
}

const PAGE_HEADERS: &str = "Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'\r\n";

/// The page at `/`: what this is, and how to talk to it.
fn page(host: &str) -> String {
    let host = escaped(host);
    format!(
        r#"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>rowstream</title>
<style>body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 44rem; margin: 3rem auto; padding: 0 1rem }}
pre {{ background: #8882; padding: 1rem; overflow-x: auto }}</style>
<h1>rowstream</h1>
<p>This server streams the results of SQL queries over WebSocket, in batches as they are produced.</p>
<p>Connect to <code>ws://{host}/ws</code> and send</p>
<pre>{{"type": "stream_query", "query": "SELECT 1 AS one", "batch_size": 100}}</pre>
<p>In a browser:</p>
<pre>const socket = new WebSocket("ws://{host}/ws");
socket.onopen = () =&gt; socket.send(JSON.stringify(
  {{type: "stream_query", query: "SELECT 1 AS one", batch_size: 100}}));
socket.onmessage = event =&gt; console.log(JSON.parse(event.data));</pre>
<p>From a shell: <code>rowstream query ws://{host}/ws "SELECT 1 AS one"</code></p>
</html>
"#
    )
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '<' | '>' | '&' | '"' | '\'' => {
                write!(out, "&#{};", u32::from(character)).expect("a String takes every character");
            }
            character if character.is_control() => {}
            character => out.push(character),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

    use std::io::Write;
    use std::time::Duration;

    use super::*;
    use crate::thread::{STACK_BYTES_CONNECTION, spawn_named};
    use crate::transport::{MemoryTransport, Transport, memory_pair};

    const UPGRADE_REQUEST: &str = "GET /ws HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\
Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

    fn ask(request: &[u8], deadline: Duration) -> Option<Answer> {
        let (server, mut client) = memory_pair(64 * 1024);
        client.write_all(request).unwrap();
        let mut halves = Box::new(server).split().unwrap();
        answer_request(halves.read.as_mut(), clock::now() + deadline)
    }

    #[track_caller]
    fn status_of(request: &str) -> String {
        match ask(request.as_bytes(), Duration::from_secs(10)).unwrap() {
            Answer::Respond(response) | Answer::Upgrade { response, .. } => {
                String::from_utf8(response).unwrap()[9..12].to_owned()
            }
        }
    }

    #[track_caller]
    fn check(request: &str, status: &str) {
        assert_eq!(status_of(request), status, "{request:?}");
    }

    #[test]
    fn each_request_has_its_status() {
        check("GET / HTTP/1.1\r\n\r\n", "200");
        check("GET /?x=1 HTTP/1.1\r\nHost: h\r\n\r\n", "200");
        check("HEAD / HTTP/1.1\r\n\r\n", "200");
        check("GET /healthz HTTP/1.1\r\nContent-Length: 0\r\n\r\n", "200");
        check("GET /nothing HTTP/1.1\r\n\r\n", "404");
        check("DELETE / HTTP/1.1\r\n\r\n", "405");
        check("POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\nx", "405");
        check("GET / HTTP/1.1\r\nContent-Length: 1\r\n\r\nx", "413");
        check("GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", "413");
        check("GET /ws HTTP/1.1\r\n\r\n", "426");
        check("HEAD /ws HTTP/1.1\r\nUpgrade: websocket\r\n\r\n", "426");
        check("GET /ws HTTP/1.1\r\nUpgrade: websocket\r\n\r\n", "426");
        check("GET / HTTP/1.0\r\n\r\n", "400");
        check("GET / HTTP/2.0\r\n\r\n", "400");
        check("\u{16}\u{3}\u{1} client hello\r\n\r\n", "400");
        check(&format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(65)), "431");
        check(&format!("GET / HTTP/1.1\r\na: {}", "b".repeat(17_000)), "431");
        check(UPGRADE_REQUEST, "101");
        check(&UPGRADE_REQUEST.replace("Version: 13", "Version: 12"), "426");
        check(
            &UPGRADE_REQUEST.replace("Host", "Sec-WebSocket-Protocol: chat\r\nHost"),
            "400",
        );
    }

    #[test]
    fn the_accept_key_is_the_one_of_the_rfc() {
        let Some(Answer::Upgrade { response, leftover }) = ask(UPGRADE_REQUEST.as_bytes(), Duration::from_secs(10))
        else {
            panic!("no upgrade");
        };
        let response = String::from_utf8(response).unwrap().to_ascii_lowercase();
        assert!(
            response.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="),
            "{response}"
        );
        assert!(leftover.is_empty());
    }

    #[test]
    fn a_frame_behind_the_head_is_kept() {
        let mut bytes = UPGRADE_REQUEST.as_bytes().to_vec();
        bytes.extend_from_slice(&[0x89, 0x80, 0, 0, 0, 0]);
        let answer = ask(&bytes, Duration::from_secs(10));
        let Some(Answer::Upgrade { leftover, .. }) = answer else {
            panic!("{answer:?}")
        };
        assert_eq!(leftover, [0x89, 0x80, 0, 0, 0, 0]);
    }

    #[test]
    fn a_head_that_never_ends_is_refused_at_the_deadline() {
        let Some(Answer::Respond(response)) = ask(b"GET / HTTP/1.1\r\n", Duration::from_millis(5)) else {
            panic!("no response");
        };
        assert!(response.starts_with(b"HTTP/1.1 408"));
    }

    #[test]
    fn a_head_in_single_bytes_is_a_head() {
        let (server, mut client): (MemoryTransport, MemoryTransport) = memory_pair(1);
        let sender = spawn_named("test", STACK_BYTES_CONNECTION, move || {
            client.write_all(UPGRADE_REQUEST.as_bytes()).unwrap();
            client
        });
        let mut halves = Box::new(server).split().unwrap();
        let answer = answer_request(halves.read.as_mut(), clock::now() + Duration::from_secs(10));
        assert!(matches!(answer, Some(Answer::Upgrade { .. })));
        drop(sender.unwrap().join().unwrap());
    }

    #[test]
    fn whoever_says_nothing_gets_no_answer() {
        let (server, client) = memory_pair(1);
        drop(client);
        let mut halves = Box::new(server).split().unwrap();
        assert_eq!(
            answer_request(halves.read.as_mut(), clock::now() + Duration::from_secs(10)),
            None
        );
    }

    #[test]
    fn the_page_escapes_the_host() {
        let text = page("<script>\u{7}\"");
        assert!(!text.contains("<script>") && !text.contains('\u{7}'));
    }
}
