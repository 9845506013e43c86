//! HTTP/1.1 (RFC 9112) as far as a WebSocket server needs it: a bounded head, read under an absolute deadline, and the answers.
//!
//! Must not know sessions, streams or the WebSocket frames that follow an upgrade.

use std::io::ErrorKind;
use std::time::Instant;

use super::page;
use crate::auth::{Shown, SiteRefusal, SiteRules, shown};
use crate::clock;
use crate::protocol::SUBPROTOCOL as SUBPROTOCOL_NAME;
use crate::transport::ReadHalf;
use crate::transport::http::{self, respond};
use crate::transport::websocket::{Coding, Upgrade, UpgradeRefusal, accept_response};

/// Largest head: request line and headers.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Most header lines.
const HEADERS_MAX: usize = 64;

/// How a connection begins on which the peer speaks TLS (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 22;
/// Longest host or origin that is shown: a name of 255 bytes, a colon and a port. The page does so twice, and escaped.
const HOST_BYTES_MAX: usize = 261;

/// What to do with a connection after its request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Say this and speak WebSocket from now on; `leftover` came behind the head.
    Upgrade {
        upgrade: Upgrade,
        leftover: Vec<u8>,
        /// Whether the client asked for the protocol by name and version.
        is_versioned: bool,
        /// What it shows of who it is.
        shown: Shown,
    },
    /// Say this and close. The request may have a body that nobody has read.
    Respond(Vec<u8>),
    /// As `Respond`, because of the host or the origin that the request names.
    Refuse {
        response: Vec<u8>,
        site: SiteRefusal,
        named: String,
    },
    /// Say what the server reports of itself, and close.
    Report { report: Report, head_only: bool },
}

/// What a server reports of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Report {
    /// Whether it takes queries.
    Ready,
    /// What it counts.
    Metrics,
    /// What it is.
    Version,
}

/// A report, to be sent as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reported {
    pub(crate) status: &'static str,
    pub(crate) content_type: &'static str,
    pub(crate) body: String,
}

/// Whoever knows how the server is. Called on the thread of the connection that asks; must not block.
pub(crate) trait Reporter: Send + Sync {
    fn report(&self, report: Report) -> Reported;
}

/// What there is at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Site {
    /// Everything.
    Whole,
    /// All but the metrics, which are at another address.
    Public,
    /// What operators ask for, and no WebSocket.
    Admin,
}

impl Site {
    fn has(self, path: &str) -> bool {
        match path {
            "/healthz" | "/readyz" | "/version" => true,
            "/metrics" => self != Self::Public,
            "/" | "/ws" => self != Self::Admin,
            _ => false,
        }
    }

    fn not_found(self) -> Refusal {
        let text = match self {
            Self::Whole => "there is /, /ws, /healthz, /readyz, /metrics and /version",
            Self::Public => "there is /, /ws, /healthz, /readyz and /version",
            Self::Admin => "there is /healthz, /readyz, /metrics and /version",
        };
        Refusal::new("404 Not Found", text, "")
    }
}

/// A request that is refused, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Refusal {
    status: &'static str,
    text: &'static str,
    /// Header lines with their line ends, or nothing.
    headers: &'static str,
    /// The rule of sites that refuses it, where one does.
    site: Option<SiteRefusal>,
}

impl Refusal {
    const fn new(status: &'static str, text: &'static str, headers: &'static str) -> Self {
        Self {
            status,
            text,
            headers,
            site: None,
        }
    }

    const fn bad_request(text: &'static str) -> Self {
        Self::new("400 Bad Request", text, "")
    }
}

const TLS: Refusal = Refusal::bad_request("this port does not speak TLS: ask for http:// here, or ws://");
const NOT_HTTP: Refusal = Refusal::bad_request("this is not an HTTP/1.1 request");
const HOST: Refusal = Refusal::bad_request("a request of HTTP/1.1 has one Host header");
const KEY: Refusal = Refusal::bad_request("Sec-WebSocket-Key has 16 bytes in base64, once");
const SUBPROTOCOL: Refusal =
    Refusal::bad_request("this server knows none of the subprotocols offered; offer rowstream.v1, or none");
const FOREIGN_ORIGIN: Refusal = Refusal::new(
    "403 Forbidden",
    "pages of this origin may not connect here; the server's allowed_origins says which may",
    "",
);
const FOREIGN_HOST: Refusal = Refusal::new(
    "421 Misdirected Request",
    "this server is not called by that name; its allowed_hosts says how it is",
    "",
);
const METHOD: Refusal = Refusal::new(
    "405 Method Not Allowed",
    "there is GET and HEAD",
    "Allow: GET, HEAD\r\n",
);
const TIMEOUT: Refusal = Refusal::new("408 Request Timeout", "the request took too long", "");
const BODY: Refusal = Refusal::new("413 Content Too Large", "a request has no body here", "");
const UPGRADE: Refusal = Refusal::new(
    "426 Upgrade Required",
    "this is a WebSocket endpoint, of version 13",
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n",
);
const HEAD_TOO_LARGE: Refusal = Refusal::new(
    "431 Request Header Fields Too Large",
    "a request's head has at most 16384 bytes and 64 header lines",
    "",
);

/// What requests are held to, and what there is for them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Door<'a> {
    /// The part of the server that they come to.
    pub(crate) site: Site,
    /// Whose pages may ask for an upgrade, and what the server is called.
    pub(crate) sites: &'a SiteRules,
    /// What messages may be after an upgrade.
    pub(crate) coding: Coding,
}

/// Reads one request and decides on its answer. `None` where the peer went away without asking anything.
///
/// Blocks until the head is complete, the peer goes away, or `deadline`, however slowly bytes drip in; woken before that by
/// shutting the transport down. Leaves a read timeout set.
pub(crate) fn answer_request(read: &mut dyn ReadHalf, deadline: Instant, door: Door<'_>) -> Option<Answer> {
    let mut bytes = Vec::with_capacity(512);
    let head_len = match read_head(read, deadline, &mut bytes) {
        Ok(Some(head_len)) => head_len,
        Ok(None) => return None,
        Err(refusal) => return Some(Answer::Respond(refuse(refusal, false))),
    };
    let leftover = bytes.split_off(head_len);
    Some(answer(&bytes, leftover, door, read.scheme()))
}

/// Reads until the head is complete; returns its length.
fn read_head(read: &mut dyn ReadHalf, deadline: Instant, bytes: &mut Vec<u8>) -> Result<Option<usize>, Refusal> {
    let mut buffer = [0; 2048];
    let mut searched_len = 0_usize;
    loop {
        let from = searched_len.saturating_sub(3);
        let end = bytes[from..].windows(4).position(|window| window == b"\r\n\r\n");
        let head_len = end.map_or(bytes.len(), |end| from + end + 4);
        if head_len > HEAD_BYTES_MAX {
            return Err(HEAD_TOO_LARGE);
        }
        // A TLS handshake has no end that could be waited for.
        if bytes.first() == Some(&TLS_HANDSHAKE) {
            return Err(TLS);
        }
        if end.is_some() {
            return Ok(Some(head_len));
        }
        searched_len = bytes.len();
        // The time left, not a time per read: who drips bytes gets no more of it.
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
fn answer(head: &[u8], leftover: Vec<u8>, door: Door<'_>, scheme: &str) -> Answer {
    let mut storage = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut storage);
    let routed = match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => route(&request, door),
        Err(httparse::Error::TooManyHeaders) => Err(HEAD_TOO_LARGE),
        Ok(httparse::Status::Partial) | Err(_) => Err(NOT_HTTP),
    };
    let head_only = request.method == Some("HEAD");
    match routed {
        Ok(Routed::Upgrade {
            upgrade,
            is_versioned,
            shown,
        }) => Answer::Upgrade {
            upgrade,
            leftover,
            is_versioned,
            shown,
        },
        Ok(Routed::Page { host, is_behind_tls }) => Answer::Respond(respond(
            "200 OK",
            "text/html",
            page::HEADERS,
            &page::page(if is_behind_tls { "wss" } else { scheme }, &host),
            head_only,
        )),
        Ok(Routed::Health) => Answer::Respond(respond("200 OK", "text/plain", "", "ok\n", head_only)),
        Ok(Routed::Report(report)) => Answer::Report { report, head_only },
        Err(refusal) => {
            let response = refuse(refusal, head_only);
            match refusal.site {
                None => Answer::Respond(response),
                Some(site) => Answer::Refuse {
                    response,
                    site,
                    named: named(request.headers, site),
                },
            }
        }
    }
}

/// What a request that is refused calls the server, or the page it comes from.
fn named(headers: &[httparse::Header<'_>], site: SiteRefusal) -> String {
    let header = match site {
        SiteRefusal::Host => "host",
        SiteRefusal::Origin => "origin",
    };
    let value = values_of(headers, header).next().unwrap_or_default();
    String::from_utf8_lossy(&value[..value.len().min(HOST_BYTES_MAX)]).into_owned()
}

/// The response with a report.
pub(crate) fn respond_with(reported: &Reported, head_only: bool) -> Vec<u8> {
    let Reported {
        status,
        content_type,
        body,
    } = reported;
    respond(status, content_type, "", body, head_only)
}

/// What a request asks for, and may have.
enum Routed {
    Page {
        host: String,
        /// Whether a proxy says that the client speaks TLS to it. Nothing but what the page shows depends on it.
        is_behind_tls: bool,
    },
    Health,
    Report(Report),
    Upgrade {
        upgrade: Upgrade,
        is_versioned: bool,
        shown: Shown,
    },
}

impl From<SiteRefusal> for Refusal {
    fn from(refusal: SiteRefusal) -> Self {
        let answer = match refusal {
            SiteRefusal::Host => FOREIGN_HOST,
            SiteRefusal::Origin => FOREIGN_ORIGIN,
        };
        Self {
            site: Some(refusal),
            ..answer
        }
    }
}

fn route(request: &httparse::Request<'_, '_>, Door { site, sites, coding }: Door<'_>) -> Result<Routed, Refusal> {
    let (Some(method), Some(target), Some(minor_version)) = (request.method, request.path, request.version) else {
        return Err(NOT_HTTP);
    };
    let headers = &*request.headers;
    let mut hosts = values_of(headers, "host");
    let host = hosts.next();
    if hosts.next().is_some() || (host.is_none() && minor_version > 0) {
        return Err(HOST);
    }
    sites.check_host(host)?;
    let path = path_of(target);
    if !site.has(path) {
        return Err(site.not_found());
    }
    if !matches!(method, "GET" | "HEAD") {
        return Err(METHOD);
    }
    let has_body = values_of(headers, "transfer-encoding").next().is_some()
        || values_of(headers, "content-length").any(|length| length != b"0");
    if has_body {
        return Err(BODY);
    }
    match path {
        "/" => Ok(Routed::Page {
            host: host.filter(|host| host.len() <= HOST_BYTES_MAX).map_or_else(
                || "localhost".to_owned(),
                |host| String::from_utf8_lossy(host).into_owned(),
            ),
            is_behind_tls: values_of(headers, "x-forwarded-proto").next() == Some(b"https"),
        }),
        "/healthz" => Ok(Routed::Health),
        "/readyz" => Ok(Routed::Report(Report::Ready)),
        "/metrics" => Ok(Routed::Report(Report::Metrics)),
        "/version" => Ok(Routed::Report(Report::Version)),
        _ if method == "GET" && minor_version > 0 => {
            sites.check_origin(values_of(headers, "origin"), host)?;
            upgrade(headers, coding)
        }
        _ => Err(UPGRADE),
    }
}

/// The path of a request's target, which may be a whole URL (RFC 9112 section 3.2.2).
fn path_of(target: &str) -> &str {
    let path = match target
        .strip_prefix("http://")
        .or_else(|| target.strip_prefix("https://"))
    {
        Some(after_scheme) => after_scheme.find('/').map_or("/", |at| &after_scheme[at..]),
        None => target,
    };
    path.split_once('?').map_or(path, |(path, _query)| path)
}

fn upgrade(headers: &[httparse::Header<'_>], coding: Coding) -> Result<Routed, Refusal> {
    let pairs: Vec<(&str, &[u8])> = headers.iter().map(|header| (header.name, header.value)).collect();
    let mut upgrade = accept_response(&pairs, coding).map_err(|refusal| match refusal {
        UpgradeRefusal::NotAnUpgrade | UpgradeRefusal::Version => UPGRADE,
        UpgradeRefusal::Key => KEY,
    })?;
    let is_versioned = match chooses_subprotocol(headers) {
        None => false,
        Some(true) => {
            // In front of the empty line.
            upgrade.response.truncate(upgrade.response.len() - 2);
            let header = format!("Sec-WebSocket-Protocol: {SUBPROTOCOL_NAME}\r\n\r\n");
            upgrade.response.extend_from_slice(header.as_bytes());
            true
        }
        // A browser that offered some would drop a connection that chose none: say why instead.
        Some(false) => return Err(SUBPROTOCOL),
    };
    Ok(Routed::Upgrade {
        upgrade,
        is_versioned,
        shown: shown(values_of(headers, "authorization"), subprotocols(headers)),
    })
}

/// Whether ours is among the subprotocols offered; `None` where none is.
fn chooses_subprotocol(headers: &[httparse::Header<'_>]) -> Option<bool> {
    let mut names = subprotocols(headers).peekable();
    names.peek()?;
    Some(names.any(|name| name == SUBPROTOCOL_NAME.as_bytes()))
}

/// The subprotocols offered, over however many lines.
fn subprotocols<'a>(headers: &[httparse::Header<'a>]) -> impl Iterator<Item = &'a [u8]> {
    let values = values_of(headers, "sec-websocket-protocol");
    values.flat_map(|value| value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii))
}

fn values_of<'a>(headers: &[httparse::Header<'a>], name: &str) -> impl Iterator<Item = &'a [u8]> {
    headers
        .iter()
        .filter(move |header| header.name.eq_ignore_ascii_case(name))
        .map(|header| header.value.trim_ascii())
}

fn refuse(refusal: Refusal, head_only: bool) -> Vec<u8> {
    let Refusal {
        status,
        text,
        headers,
        site: _,
    } = refusal;
    http::refuse(status, headers, text, head_only)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

    use std::io::{self, Read, Write};
    use std::net::Shutdown;
    use std::time::Duration;

    use super::*;
    use crate::auth::UnlistedHosts;
    use crate::thread::{STACK_BYTES_CONNECTION, spawn_named};
    use crate::transport::{Transport, memory_pair};

    /// Only bounds a test that fails.
    const LONG: Duration = Duration::from_secs(10);

    const UPGRADE_REQUEST: &str = "GET /ws HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\
Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

    fn ask(request: &[u8], time: Duration) -> Option<Answer> {
        let (server, mut client) = memory_pair(64 * 1024);
        client.write_all(request).unwrap();
        let mut halves = Box::new(server).split().unwrap();
        answer_request(halves.read.as_mut(), clock::now() + time, door(&any_site()))
    }

    fn door(sites: &SiteRules) -> Door<'_> {
        Door {
            site: Site::Whole,
            sites,
            coding: Coding::Plain,
        }
    }

    fn any_site() -> SiteRules {
        SiteRules::new(Vec::new(), &[], UnlistedHosts::Taken).unwrap()
    }

    #[track_caller]
    fn response_to(request: &str) -> String {
        match ask(request.as_bytes(), LONG).unwrap() {
            Answer::Respond(response) | Answer::Refuse { response, .. } => String::from_utf8(response).unwrap(),
            Answer::Upgrade { upgrade, .. } => String::from_utf8(upgrade.response).unwrap(),
            Answer::Report { report, .. } => panic!("a report: {report:?}"),
        }
    }

    #[track_caller]
    fn check(request: &str, status: &str) {
        assert_eq!(&response_to(request)[9..12], status, "{request:?}");
    }

    #[test]
    fn each_request_has_its_status() {
        check("GET / HTTP/1.1\r\nHost: h\r\n\r\n", "200");
        check("GET / HTTP/1.0\r\n\r\n", "200");
        check("GET /?x=1 HTTP/1.1\r\nHost: h\r\n\r\n", "200");
        check("GET http://h:1/healthz?x HTTP/1.1\r\nHost: h:1\r\n\r\n", "200");
        check("GET http://h HTTP/1.1\r\nHost: h\r\n\r\n", "200");
        check("HEAD / HTTP/1.1\r\nHost: h\r\n\r\n", "200");
        check("\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", "200");
        check("GET /healthz HTTP/1.1\r\nhost:h\r\nContent-Length: 0\r\n\r\n", "200");
        check("GET /nothing HTTP/1.1\r\nHost: h\r\n\r\n", "404");
        check("GET /ws/ HTTP/1.1\r\nHost: h\r\n\r\n", "404");
        check("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", "404");
        check("DELETE / HTTP/1.1\r\nHost: h\r\n\r\n", "405");
        check("get / HTTP/1.1\r\nHost: h\r\n\r\n", "405");
        check("POST /ws HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx", "405");
        check("GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx", "413");
        check(
            "GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nContent-Length: 1\r\n\r\nx",
            "413",
        );
        check("GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", "413");
        check("GET / HTTP/1.1\r\n\r\n", "400");
        check("GET / HTTP/1.1\r\nHost: h\r\nHost: i\r\n\r\n", "400");
        check("GET / HTTP/2.0\r\n\r\n", "400");
        check("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "400");
        check("GET /\r\n\r\n", "400");
        check("\r\n\r\n", "400");
        check("GET / HTTP/1.1\r\nHost: h\r\n folded: x\r\n\r\n", "400");
        check("GET / HTTP/1.1\r\nHost: h\r\nno colon\r\n\r\n", "400");
        check("GET / HTTP/1.1\r\nHost : h\r\n\r\n", "400");
        check("GET /a b HTTP/1.1\r\nHost: h\r\n\r\n", "400");
        check("GET / HTTP/1.1\r\nHost: a\0b\r\n\r\n", "400");
        check("\u{16}\u{3}\u{1} client hello\r\n\r\n", "400");
    }

    #[test]
    fn each_address_has_what_it_is_for() {
        let head = |method: &str, path: &str| format!("{method} {path} HTTP/1.1\r\nHost: h\r\n\r\n").into_bytes();
        let sites = any_site();
        let at = |site| Door { site, ..door(&sites) };
        let asked = |path: &str, site| answer(&head("GET", path), Vec::new(), at(site), "ws");
        let is_there = |path: &str, site| match asked(path, site) {
            Answer::Respond(response) => !response.starts_with(b"HTTP/1.1 404 "),
            Answer::Refuse { .. } => false,
            Answer::Report { .. } | Answer::Upgrade { .. } => true,
        };
        let all = ["/", "/ws", "/healthz", "/readyz", "/metrics", "/version", "/no"];
        for (site, expected) in [
            (Site::Whole, [true, true, true, true, true, true, false]),
            (Site::Public, [true, true, true, true, false, true, false]),
            (Site::Admin, [false, false, true, true, true, true, false]),
        ] {
            assert_eq!(all.map(|path| is_there(path, site)), expected, "{site:?}");
            let Answer::Respond(not_found) = asked("/no", site) else {
                panic!("something is at /no")
            };
            let not_found = String::from_utf8(not_found).unwrap();
            let (_, text) = not_found.split_once("\r\n\r\n").unwrap();
            let told: Vec<_> = text
                .split(&[' ', ',', '\n'][..])
                .filter(|word| word.starts_with('/'))
                .collect();
            let there: Vec<_> = all.into_iter().filter(|path| is_there(path, site)).collect();
            assert_eq!(told, there, "{site:?}");
        }
        assert_eq!(
            answer(&head("HEAD", "/metrics?x"), Vec::new(), at(Site::Admin), "ws"),
            Answer::Report {
                report: Report::Metrics,
                head_only: true
            }
        );
        assert!(matches!(
            answer(UPGRADE_REQUEST.as_bytes(), Vec::new(), at(Site::Admin), "ws"),
            Answer::Respond(_)
        ));
    }

    #[test]
    fn a_head_has_its_limits() {
        let with_headers = |n| format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "a: b\r\n".repeat(n));
        check(&with_headers(HEADERS_MAX - 1), "200");
        check(&with_headers(HEADERS_MAX), "431");
        let with_bytes = |n: usize| {
            let start = "GET / HTTP/1.1\r\nHost: h\r\na: ";
            format!("{start}{}\r\n\r\n", "b".repeat(n - start.len() - 4))
        };
        check(&with_bytes(HEAD_BYTES_MAX), "200");
        check(&with_bytes(HEAD_BYTES_MAX + 1), "431");
        // Refused as soon as it is too long, not at its end.
        check(&format!("GET / HTTP/1.1\r\na: {}", "b".repeat(17_000)), "431");
        check(&"x".repeat(17_000), "431");
        check(&with_headers(5000), "431");
        let text = HEAD_TOO_LARGE.text;
        assert!(text.contains(&HEAD_BYTES_MAX.to_string()) && text.contains(&HEADERS_MAX.to_string()));
    }

    #[test]
    fn upgrades_and_what_is_none() {
        check(UPGRADE_REQUEST, "101");
        check(&UPGRADE_REQUEST.replace("/ws", "/ws?token=x"), "101");
        check(&UPGRADE_REQUEST.replace("GET", "HEAD"), "426");
        check(&UPGRADE_REQUEST.replace("HTTP/1.1", "HTTP/1.0"), "426");
        check(&UPGRADE_REQUEST.replace("Upgrade: WebSocket\r\n", ""), "426");
        check(&UPGRADE_REQUEST.replace("Version: 13", "Version: 12"), "426");
        check(
            &UPGRADE_REQUEST.replace("Version: 13", "Version: 13\r\nSec-WebSocket-Version: 8"),
            "426",
        );
        check(&UPGRADE_REQUEST.replace("dGhl", "dGh"), "400");
        check(
            &UPGRADE_REQUEST.replace("Host", "Sec-WebSocket-Protocol: chat\r\nHost"),
            "400",
        );
        check(&UPGRADE_REQUEST.replace("/ws", "/"), "200");
        check("GET /ws HTTP/1.1\r\nHost: h\r\n\r\n", "426");
        let response = response_to("GET /ws HTTP/1.1\r\nHost: h\r\n\r\n");
        assert!(response.contains("\r\nSec-WebSocket-Version: 13\r\n"), "{response}");
    }

    #[test]
    fn every_plain_answer_closes_and_is_not_kept() {
        for request in [
            "GET / HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET /no HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET /ws HTTP/1.1\r\nHost: h\r\n\r\n",
            "nonsense\r\n\r\n",
        ] {
            let response = response_to(request);
            let (head, body) = response.split_once("\r\n\r\n").unwrap();
            for line in [
                "Connection: close",
                "Cache-Control: no-store",
                "X-Content-Type-Options: nosniff",
            ] {
                assert!(head.lines().any(|other| other == line), "{line} is missing in {head}");
            }
            let length = format!("Content-Length: {}", body.len());
            assert!(
                head.lines().any(|other| other == length),
                "{length} is missing in {head}"
            );
        }
        let post = response_to("POST / HTTP/1.1\r\nHost: h\r\n\r\n");
        assert!(post.contains("\r\nAllow: GET, HEAD\r\n"), "{post}");
    }

    #[test]
    fn a_head_request_gets_the_head_of_what_a_get_gets() {
        for path in ["/", "/healthz", "/ws", "/no"] {
            let get = response_to(&format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n"));
            let head = response_to(&format!("HEAD {path} HTTP/1.1\r\nHost: h\r\n\r\n"));
            assert_eq!(head, get[..get.find("\r\n\r\n").unwrap() + 4]);
        }
    }

    #[test]
    fn a_frame_behind_the_head_is_kept() {
        let mut bytes = UPGRADE_REQUEST.as_bytes().to_vec();
        bytes.extend_from_slice(&[0x89, 0x80, 0, 0, 0, 0]);
        let answer = ask(&bytes, LONG);
        let Some(Answer::Upgrade { leftover, .. }) = answer else {
            panic!("{answer:?}")
        };
        assert_eq!(leftover, [0x89, 0x80, 0, 0, 0, 0]);
    }

    #[test]
    fn a_head_may_come_in_any_pieces() {
        for capacity_bytes in [1, 2, 3, 5, 7, 100] {
            let (server, mut client) = memory_pair(capacity_bytes);
            let sender = spawn_named("test", STACK_BYTES_CONNECTION, move || {
                client.write_all(UPGRADE_REQUEST.as_bytes()).unwrap();
                client
            });
            let mut halves = Box::new(server).split().unwrap();
            let answer = answer_request(halves.read.as_mut(), clock::now() + LONG, door(&any_site()));
            assert!(matches!(answer, Some(Answer::Upgrade { .. })), "{answer:?}");
            drop(sender.unwrap().join().unwrap());
        }
    }

    #[track_caller]
    fn check_timeout(answer: Option<Answer>) {
        match answer {
            Some(Answer::Respond(response)) if response.starts_with(b"HTTP/1.1 408") => {}
            other => panic!("no timeout: {other:?}"),
        }
    }

    #[test]
    fn a_head_that_does_not_end_is_refused_at_the_deadline() {
        check_timeout(ask(b"GET / HTTP/1.1\r\n", Duration::from_millis(5)));
        check_timeout(ask(b"", Duration::from_millis(5)));
        // Not even what has arrived is looked at after the deadline.
        check_timeout(ask(UPGRADE_REQUEST.as_bytes(), Duration::ZERO));
    }

    /// A client that always has one more byte, and notes how long it may take with it.
    #[derive(Default)]
    struct Dripping {
        timeouts: Vec<Duration>,
    }

    impl Read for Dripping {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.timeouts.len() == 1000 {
                return Err(ErrorKind::WouldBlock.into());
            }
            buffer[0] = b'x';
            Ok(1)
        }
    }

    impl ReadHalf for Dripping {
        fn set_read_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
            self.timeouts.push(timeout.unwrap());
            Ok(())
        }
    }

    #[test]
    fn dripping_bytes_buy_no_time() {
        let mut dripping = Dripping::default();
        check_timeout(answer_request(&mut dripping, clock::now() + LONG, door(&any_site())));
        assert_eq!(dripping.timeouts.len(), 1000);
        assert!(
            dripping
                .timeouts
                .is_sorted_by(|earlier, later| earlier >= later && *earlier <= LONG)
        );
        assert!(dripping.timeouts[0] > dripping.timeouts[999], "time has passed");
    }

    #[test]
    fn whoever_goes_away_gets_no_answer() {
        for sent in ["", "GET / HTTP/1.1\r\n"] {
            let (server, mut client) = memory_pair(64);
            client.write_all(sent.as_bytes()).unwrap();
            drop(client);
            let mut halves = Box::new(server).split().unwrap();
            assert_eq!(
                answer_request(halves.read.as_mut(), clock::now() + LONG, door(&any_site())),
                None
            );
        }
    }

    #[test]
    fn shutting_down_ends_the_wait_for_a_head() {
        let (server, client) = memory_pair(64);
        let mut halves = Box::new(server).split().unwrap();
        let control = std::sync::Arc::clone(&halves.control);
        let asked = spawn_named("test", STACK_BYTES_CONNECTION, move || {
            answer_request(halves.read.as_mut(), clock::now() + 60 * LONG, door(&any_site()))
        });
        control.shutdown(Shutdown::Both);
        assert_eq!(asked.unwrap().join().unwrap(), None);
        drop(client);
    }

    #[test]
    fn the_page_names_the_server_as_the_client_does() {
        let response = response_to("GET / HTTP/1.1\r\nHost: db.example:8080\r\n\r\n");
        assert!(response.contains("ws://db.example:8080/ws"), "{response}");
        assert!(
            response.contains("Content-Security-Policy: default-src 'none';"),
            "{response}"
        );
        assert!(!response.contains("wss://"), "{response}");
        let behind_proxy = "GET / HTTP/1.1\r\nHost: db.example\r\nX-Forwarded-Proto: https\r\n\r\n";
        let response = response_to(behind_proxy);
        assert!(
            response.contains("wss://db.example/ws") && !response.contains(" ws://"),
            "{response}"
        );
    }

    #[test]
    fn the_page_escapes_the_host() {
        let response = response_to("GET / HTTP/1.1\r\nHost: <script>alert(1)</script>\r\n\r\n");
        assert!(!response.contains("<script"), "{response}");
    }
}
