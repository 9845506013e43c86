//! Where a server is: `ws://host:port/path`, `wss://` with TLS, `host:port` for short, or `unix:` and the path of a socket.
//!
//! Must not know sockets.

use std::fmt;
use std::path::PathBuf;

use super::ClientError;

/// Path of the WebSocket endpoint, where the address names none.
const PATH_DEFAULT: &str = "/ws";

/// Port where the address has none: a server's default behind the short form, HTTP's behind `ws://` and `wss://`.
const PORT_SHORT: u16 = 8080;
const PORT_WS: u16 = 80;
const PORT_WSS: u16 = 443;

/// An address taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) place: Place,
    /// Whether TLS is asked for.
    pub(super) is_secure: bool,
    /// Of the endpoint; with the query, if there is one.
    pub(super) path: String,
}

/// What there is to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Tcp {
        /// Without the brackets of an IPv6 address.
        host: String,
        port: u16,
    },
    Unix(PathBuf),
}

impl Address {
    /// # Errors
    /// [`ClientError::Address`].
    pub(super) fn parse(text: &str) -> Result<Self, ClientError> {
        let refused = |why: &str| ClientError::Address(format!("{text:?} is no address of a server: {why}"));
        if let Some(path) = text.strip_prefix("unix:") {
            if path.is_empty() {
                return Err(refused("the path of the socket is missing"));
            }
            return Ok(Self {
                place: Place::Unix(path.into()),
                is_secure: false,
                path: PATH_DEFAULT.to_owned(),
            });
        }
        let (rest, port_default, is_secure) = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("ws") => (rest, PORT_WS, false),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("wss") => (rest, PORT_WSS, true),
            Some(_) => return Err(refused("it starts with ws://, wss:// or unix:, or with the host")),
            None => (text, PORT_SHORT, false),
        };
        if !rest.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(refused("it has a character that must be escaped"));
        }
        let rest = rest.split_once('#').map_or(rest, |(before, _)| before);
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(refused("a user name is not supported"));
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(v6) => v6.split_once(']').ok_or_else(|| refused("a bracket is missing"))?,
            None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
        };
        let port = match port.strip_prefix(':') {
            Some(digits) if !digits.is_empty() => digits
                .parse()
                .map_err(|_| refused("the port is a number from 0 to 65535"))?,
            Some(_) => port_default,
            None if port.is_empty() => port_default,
            None => return Err(refused("after the bracket comes the port")),
        };
        if host.is_empty() {
            return Err(refused("the host is missing"));
        }
        let path = match path {
            "" | "/" => PATH_DEFAULT.to_owned(),
            query if query.starts_with('?') => format!("{PATH_DEFAULT}{query}"),
            path => path.to_owned(),
        };
        Ok(Self {
            place: Place::Tcp {
                host: host.to_owned(),
                port,
            },
            is_secure,
            path,
        })
    }

    /// Host and port as an HTTP `Host` header has them.
    pub(super) fn authority(&self) -> String {
        match &self.place {
            Place::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
            Place::Tcp { host, port } => format!("{host}:{port}"),
            Place::Unix(_) => "localhost".to_owned(),
        }
    }
}

/// As people write it.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Tcp { .. } => f.write_str(&self.authority()),
            Place::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

    use super::*;

    #[track_caller]
    fn check(text: &str, authority: &str, path: &str) {
        let address = Address::parse(text).unwrap();
        assert_eq!((address.authority().as_str(), address.path.as_str()), (authority, path));
        let scheme = text.split("://").next().unwrap_or_default();
        assert_eq!(address.is_secure, scheme.eq_ignore_ascii_case("wss"));
    }

    #[track_caller]
    fn check_refused(text: &str, why: &str) {
        let error = Address::parse(text).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }

    #[test]
    fn addresses_are_urls_or_hosts() {
        check("ws://h:1/ws", "h:1", "/ws");
        check("WS://h:1", "h:1", "/ws");
        check("ws://h:1/", "h:1", "/ws");
        check("ws://h/other?a=b#c", "h:80", "/other?a=b");
        check("ws://h:1?a=b", "h:1", "/ws?a=b");
        check("ws://h:", "h:80", "/ws");
        check("localhost:9", "localhost:9", "/ws");
        check("localhost", "localhost:8080", "/ws");
        check("127.0.0.1:9/x", "127.0.0.1:9", "/x");
        check("ws://[::1]:9", "[::1]:9", "/ws");
        check("[::1]", "[::1]:8080", "/ws");
        check("wss://h", "h:443", "/ws");
        check("WSS://[::1]:9/x", "[::1]:9", "/x");
        check("unix:/run/a b.sock", "localhost", "/ws");
        assert_eq!(
            Address::parse("unix:/run/a b.sock").unwrap().to_string(),
            "unix:/run/a b.sock"
        );
    }

    #[test]
    fn other_addresses_are_refused_with_the_reason() {
        check_refused("unix:", "path of the socket");
        check_refused("http://h", "ws://");
        check_refused("", "host is missing");
        check_refused("ws:///ws", "host is missing");
        check_refused("h:x", "port");
        check_refused("h:65536", "port");
        check_refused("::1", "port");
        check_refused("[::1", "bracket");
        check_refused("[::1]9", "bracket");
        check_refused("u:p@h", "user name");
        check_refused("h/a b", "escaped");
        check_refused("h/a\r\nX: y", "escaped");
    }
}
