//! Heads of HTTP requests: every one gets the same answer however it is cut, and every answer is one that a client can read.

use std::time::Duration;

use super::allocated::{self, peak_of};
use super::source::Pieces;
use crate::auth::{SiteRules, UnlistedHosts};
use crate::clock;
use crate::connection::Site;
use crate::connection::http::{Answer, Door, answer_request};
use crate::transport::websocket::Coding;

/// Heads have 16 KiB at the most, what comes behind them as much as one read gives, and both are there twice while their buffer grows;
/// pages are short.
const BYTES_MAX: usize = 64 * 1024;

/// Only bounds a case that hangs.
const LONG: Duration = Duration::from_secs(3600);

pub(super) fn check(bytes: &[u8]) {
    // What messages may be makes a difference to upgrades only.
    if check_with(bytes, Coding::Plain) {
        assert!(check_with(bytes, Coding::Deflate));
    }
}

/// Whether it is an upgrade.
fn check_with(bytes: &[u8], coding: Coding) -> bool {
    let whole = ask(Pieces::whole(bytes), coding);
    let cut = ask(Pieces::cut(bytes), coding);
    match (whole, cut) {
        (None, None) => false,
        (Some((Answer::Respond(whole), _)), Some((Answer::Respond(cut), _))) => {
            assert!(whole == cut, "{} and {}", ascii(&whole), ascii(&cut));
            check_response(&whole);
            false
        }
        (Some((whole @ (Answer::Report { .. } | Answer::Refuse { .. }), _)), Some((cut, _))) => {
            assert_eq!(whole, cut);
            false
        }
        (Some((whole, n_whole)), Some((cut, n_cut))) => {
            check_upgrade(&whole, &bytes[..n_whole]);
            check_upgrade(&cut, &bytes[..n_cut]);
            assert_eq!(without_leftover(whole), without_leftover(cut));
            true
        }
        (whole, cut) => panic!("whole: {whole:?}, cut: {cut:?}"),
    }
}

/// The answer, and how many bytes were read for it.
fn ask(mut source: Pieces, coding: Coding) -> Option<(Answer, usize)> {
    let sites = SiteRules::new(Vec::new(), &[], UnlistedHosts::Taken).expect("an empty list has nothing wrong in it");
    let door = Door {
        site: Site::Whole,
        sites: &sites,
        coding,
    };
    let (answer, peak) = peak_of(|| answer_request(&mut source, clock::now() + LONG, door));
    allocated::check(peak, BYTES_MAX);
    answer.map(|answer| (answer, source.n_taken()))
}

fn without_leftover(mut answer: Answer) -> Answer {
    if let Answer::Upgrade { leftover, .. } = &mut answer {
        leftover.clear();
    }
    answer
}

fn check_upgrade(answer: &Answer, taken: &[u8]) {
    let Answer::Upgrade { upgrade, leftover, .. } = answer else {
        panic!("{answer:?}")
    };
    let at = taken.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    assert_eq!(*leftover, taken[at + 4..]);
    let (status, body) = check_head(&upgrade.response);
    assert_eq!((status.as_str(), body), ("101", b"".as_slice()));
}

fn check_response(response: &[u8]) {
    let (status, body) = check_head(response);
    assert!(("200".."600").contains(&status.as_str()), "{status}");
    // What the peer says its host is adds no element to the page, and ends none.
    if body.starts_with(b"<") {
        let page = ask(Pieces::whole(b"GET / HTTP/1.0\r\n\r\n"), Coding::Plain);
        let Some((Answer::Respond(page), _)) = page else {
            panic!("{page:?}")
        };
        for mark in [b'<', b'>', b'"'] {
            let count = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == mark).count();
            assert_eq!(count(body), count(check_head(&page).1), "{}", ascii(body));
        }
    }
}

/// Status and body of a response whose head is well-formed, every line of it.
fn check_head(response: &[u8]) -> (String, &[u8]) {
    let (head, body) = std::str::from_utf8(response).unwrap().split_once("\r\n\r\n").unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().strip_prefix("HTTP/1.1 ").unwrap();
    let mut length = None;
    for line in lines {
        assert!(!line.contains(char::is_control), "{line:?}");
        let (name, value) = line.split_once(": ").unwrap();
        assert!(
            name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'),
            "{line:?}"
        );
        if name == "Content-Length" {
            length = Some(value.parse::<usize>().unwrap());
        }
    }
    // The answer to HEAD has no body.
    assert!(body.is_empty() || length == Some(body.len()), "{}", ascii(response));
    (status.get(..3).unwrap().to_owned(), body.as_bytes())
}

fn ascii(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}
