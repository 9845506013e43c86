//! Whose web pages may connect, and by which names a server may be called: what keeps a stranger's page in somebody's browser out.
//!
//! A browser lets any page connect a WebSocket to anywhere, and says whose page it is in `Origin`: pages of others are refused. A
//! page whose own name its owner makes point to this server (DNS rebinding) calls the server by that name in `Host`, and looks as if it
//! came from here: names that nobody has given the server are refused. Programs send what they like; for them there are tokens.
//!
//! Pure. Must not know HTTP beyond these two headers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SiteRefusal {
    /// It calls the server by a name that is not its own.
    Host,
    /// It comes from a page of somebody else.
    Origin,
}

/// What is thought of names that are in no list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UnlistedHosts {
    /// They are taken.
    Taken,
    /// Only `localhost` and addresses are, which nobody else can make point here.
    Refused,
}

/// The lists.
#[derive(Debug)]
pub(crate) struct SiteRules {
    origins: Vec<String>,
    hosts: Vec<Authority>,
    unlisted_hosts: UnlistedHosts,
}

/// A host and perhaps a port, as they stand in a URL.
#[derive(Debug, PartialEq, Eq)]
struct Authority {
    host: Host,
    port: Option<u16>,
}

#[derive(Debug, PartialEq, Eq)]
enum Host {
    /// In lower case.
    Name(String),
    Address(IpAddr),
}

impl SiteRules {
    /// Rules by these lists, beside which pages of the server's own origin are taken.
    ///
    /// # Errors
    /// Where an entry is no origin or no host; the text says which.
    pub(crate) fn new(origins: Vec<String>, hosts: &[String], unlisted_hosts: UnlistedHosts) -> Result<Self, String> {
        if let Some(wrong) = origins.iter().find(|origin| !is_origin(origin)) {
            return Err(format!(
                "allowed_origins: {wrong:?} is no origin as browsers send it: scheme://host or scheme://host:port, in lower case, \
without a path and without the scheme's own port"
            ));
        }
        let hosts = hosts.iter().map(|host| {
            Authority::parse(host).ok_or_else(|| format!("allowed_hosts: {host:?} is neither a host nor host:port"))
        });
        Ok(Self {
            origins,
            hosts: hosts.collect::<Result<_, _>>()?,
            unlisted_hosts,
        })
    }

    /// Whether a server may be called by this name. A request of HTTP/1.0 may have none; it is no browser's.
    pub(crate) fn check_host(&self, host: Option<&[u8]>) -> Result<(), SiteRefusal> {
        let Some(host) = host else { return Ok(()) };
        if self.unlisted_hosts == UnlistedHosts::Taken {
            return Ok(());
        }
        let is_own = text(host).and_then(Authority::parse).is_some_and(|called| {
            called.is_local()
                || self
                    .hosts
                    .iter()
                    .any(|listed| listed.host == called.host && (listed.port.is_none() || listed.port == called.port))
        });
        if is_own { Ok(()) } else { Err(SiteRefusal::Host) }
    }

    /// Whether a page of this origin may connect to a server that it calls `host`. No origin is a program's.
    pub(crate) fn check_origin<'a>(
        &self,
        mut origins: impl Iterator<Item = &'a [u8]>,
        host: Option<&[u8]>,
    ) -> Result<(), SiteRefusal> {
        let Some(origin) = origins.next() else { return Ok(()) };
        let (Some(origin), None) = (text(origin), origins.next()) else {
            return Err(SiteRefusal::Origin);
        };
        let is_listed = self.origins.iter().any(|listed| listed == origin);
        if is_listed || host.and_then(text).is_some_and(|host| is_same(origin, host)) {
            Ok(())
        } else {
            Err(SiteRefusal::Origin)
        }
    }
}

impl Authority {
    /// `host`, `host:port`, `[v6]` or `[v6]:port`, and nothing more lenient.
    fn parse(text: &str) -> Option<Self> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, port) = rest.split_once(']')?;
                (Host::Address(address.parse::<Ipv6Addr>().ok()?.into()), port)
            }
            None => {
                let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
                let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
                if host.is_empty() || !host.bytes().all(is_name) {
                    return None;
                }
                let address = host.parse::<Ipv4Addr>().map(IpAddr::from);
                let named = |_| Host::Name(host.to_ascii_lowercase());
                (address.map_or_else(named, Host::Address), port)
            }
        };
        let port = match port.strip_prefix(':') {
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => Some(digits.parse().ok()?),
            Some(_) => return None,
            None if port.is_empty() => None,
            None => return None,
        };
        Some(Self { host, port })
    }

    fn is_local(&self) -> bool {
        match &self.host {
            Host::Name(name) => name == "localhost",
            Host::Address(_) => true,
        }
    }
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

/// The port that a URL of this scheme need not name.
fn port_of(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

/// Whether a page of `origin` has been served under the name `host`. It need not have been the same scheme: in front of the server
/// may be a proxy that speaks TLS.
fn is_same(origin: &str, host: &str) -> bool {
    let Some((scheme, page)) = origin.split_once("://") else {
        return false;
    };
    let (Some(port), Some(page), Some(called)) = (port_of(scheme), Authority::parse(page), Authority::parse(host))
    else {
        return false;
    };
    page.host == called.host && page.port.unwrap_or(port) == called.port.unwrap_or(port)
}

fn is_origin(text: &str) -> bool {
    let Some((scheme, authority)) = text.split_once("://") else {
        return false;
    };
    let is_scheme = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte);
    !scheme.is_empty()
        && scheme.bytes().all(is_scheme)
        && !text.bytes().any(|byte| byte.is_ascii_uppercase())
        && Authority::parse(authority)
            .is_some_and(|authority| authority.port.is_none() || authority.port != port_of(scheme))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

    use super::*;

    fn rules(origins: &[&str], hosts: &[&str], unlisted_hosts: UnlistedHosts) -> Result<SiteRules, String> {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        SiteRules::new(owned(origins), &owned(hosts), unlisted_hosts)
    }

    #[track_caller]
    fn check_origin(origins: &[&str], host: &str, allowed: bool) {
        let rules = rules(
            &["https://app.example", "http://dev.example:3000"],
            &[],
            UnlistedHosts::Taken,
        )
        .unwrap();
        let origins_bytes = origins.iter().map(|origin| origin.as_bytes());
        let found = rules.check_origin(origins_bytes, Some(host.as_bytes()));
        assert_eq!(found.is_ok(), allowed, "{origins:?} at {host}");
    }

    /// The strings that pages of others, and tricks with prefixes and suffixes, come with.
    const FOREIGN: [&str; 36] = [
        "null",
        "",
        "http://evil.example",
        "http://evil.example:8080",
        "https://evil.example",
        "file://",
        "*",
        "https://app.example.evil.example",
        "https://evilapp.example",
        "https://app.example:8443",
        "https://app.example:443",
        "https://app.example/",
        "https://app.example,https://evil.example",
        "https://evil.example https://app.example",
        "https://app.example@evil.example",
        "https://evil.example#https://app.example",
        "https://evil.example?https://app.example",
        "http://app.example",
        "HTTPS://APP.EXAMPLE",
        "https://app.example.",
        "https://sub.app.example",
        "https:app.example",
        "https:///app.example",
        "//app.example",
        "app.example",
        "wss://app.example",
        "http://dev.example",
        "http://dev.example:30000",
        "http://db.example",
        "http://db.example:80800",
        "http://db.example:8081",
        "http://db.example:8080/",
        "http://db.example:8080.evil.example",
        "http://evil-db.example:8080",
        "http://db.example:8080@evil.example",
        "ws://db.example:8080",
    ];

    #[test]
    fn pages_of_others_may_not_connect() {
        for origin in FOREIGN {
            check_origin(&[origin], "db.example:8080", false);
        }
        check_origin(
            &["http://db.example:8080", "https://app.example"],
            "db.example:8080",
            false,
        );
        check_origin(
            &["https://app.example", "https://app.example"],
            "db.example:8080",
            false,
        );
        check_origin(&["http://\u{e9}"], "\u{e9}", false);
    }

    #[test]
    fn own_pages_listed_ones_and_programs_may() {
        check_origin(&[], "db.example:8080", true);
        check_origin(&["https://app.example"], "db.example:8080", true);
        check_origin(&["http://dev.example:3000"], "db.example:8080", true);
        check_origin(&["http://db.example:8080"], "db.example:8080", true);
        check_origin(&["http://db.example:8080"], "DB.example:8080", true);
        check_origin(&["https://db.example"], "db.example", true);
        check_origin(&["https://db.example"], "db.example:443", true);
        check_origin(&["http://db.example"], "db.example:80", true);
        check_origin(&["https://db.example"], "db.example:80", false);
        check_origin(&["http://[::1]:8080"], "[::1]:8080", true);
        check_origin(&["http://127.0.0.1:8080"], "127.0.0.1:8080", true);
        check_origin(&["http://127.0.0.1:8080"], "localhost:8080", false);
    }

    #[track_caller]
    fn check_host(host: &[u8], allowed: bool) {
        let rules = rules(&[], &["db.example", "dev.example:8080"], UnlistedHosts::Refused).unwrap();
        let shown = String::from_utf8_lossy(host);
        assert_eq!(rules.check_host(Some(host)).is_ok(), allowed, "{shown}");
    }

    #[test]
    fn names_that_are_not_the_servers_are_refused() {
        for host in [
            "evil.example",
            "evil.example:8080",
            "localhost.evil.example",
            "127.0.0.1.nip.io:8080",
            "127.0.0.1.evil.example",
            "127.0.0.1@evil.example",
            "localhost:8080@evil.example",
            "localhost, evil.example",
            "localhost:99999",
            "localhost:",
            "localhost:+80",
            "[::1].evil.example",
            "[::1",
            "[::1%25lo]",
            "db.example.evil.example",
            "evil-db.example",
            "dev.example",
            "dev.example:8081",
            "",
            ":8080",
        ] {
            check_host(host.as_bytes(), false);
        }
        check_host(b"\xff", false);
    }

    #[test]
    fn the_servers_names_and_addresses_are_taken() {
        for host in [
            "localhost",
            "LocalHost:1",
            "127.0.0.1",
            "127.0.0.1:8080",
            "[::1]",
            "[::1]:8080",
            "192.0.2.7:1",
            "db.example",
            "DB.EXAMPLE:9",
            "dev.example:8080",
        ] {
            check_host(host.as_bytes(), true);
        }
        let rules = rules(&[], &[], UnlistedHosts::Taken).unwrap();
        assert_eq!(rules.check_host(Some(b"anything at all")), Ok(()));
        assert_eq!(rules.check_host(None), Ok(()));
    }

    #[test]
    fn lists_have_what_browsers_can_send() {
        for wrong in [
            "null",
            "*",
            "",
            "https://",
            "app.example",
            "https://App.example",
            "https://app.example/",
            "https://app.example:443",
            "http://a:80",
            "https://*.example",
            "https://a b",
        ] {
            let error = rules(&[wrong], &[], UnlistedHosts::Taken).unwrap_err();
            assert!(error.contains(&format!("{wrong:?}")), "{error}");
        }
        for wrong in [
            "",
            "http://db.example",
            "db.example/",
            "*.example",
            "a b",
            "db.example:x",
        ] {
            let error = rules(&[], &[wrong], UnlistedHosts::Taken).unwrap_err();
            assert!(error.contains(&format!("{wrong:?}")), "{error}");
        }
        assert!(
            rules(
                &["chrome-extension://abc", "http://[::1]:3000"],
                &["[::1]:1"],
                UnlistedHosts::Taken
            )
            .is_ok()
        );
    }
}
