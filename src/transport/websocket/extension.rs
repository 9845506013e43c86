//! Agreeing on permessage-deflate (RFC 7692 sections 5 and 7.1): what a client offers, what a server answers.
//!
//! Neither side keeps a context from one message to the next: any thread can deflate any message, and an idle connection keeps no
//! window. Must not know how messages are deflated.

use crate::deflate::WindowBits;

const NAME: &str = "permessage-deflate";
const SERVER_NO_CONTEXT: &str = "server_no_context_takeover";
const CLIENT_NO_CONTEXT: &str = "client_no_context_takeover";
const SERVER_WINDOW: &str = "server_max_window_bits";
const CLIENT_WINDOW: &str = "client_max_window_bits";

/// What a client asks for in its `Sec-WebSocket-Extensions`.
pub(super) const OFFER: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// A server's answer to the first of a client's offers that it can keep to, and the window that it then has: the header's value.
pub(super) fn accept_offer<'a>(values: impl Iterator<Item = &'a [u8]>) -> Option<(String, WindowBits)> {
    values.filter_map(parse).flatten().find_map(|offer| {
        let Parameters { server_window, .. } = offer.parameters()?;
        // The client need not have asked for either (section 7.1.1): the one is what this server does, the other it may demand.
        let mut answer = OFFER.to_owned();
        let Some(bits) = server_window else {
            return Some((answer, WindowBits::MAX));
        };
        let window_bits = WindowBits::new(bits)?;
        answer.push_str(&format!("; {SERVER_WINDOW}={}", window_bits.bits()));
        Some((answer, window_bits))
    })
}

/// Whether a server has accepted [`OFFER`].
///
/// # Errors
/// Where it has answered with something else than it was offered.
pub(super) fn check_answer<'a>(values: impl Iterator<Item = &'a [u8]>) -> Result<bool, &'static str> {
    let mut answers = Vec::new();
    for value in values {
        answers.extend(parse(value).ok_or("the answer's Sec-WebSocket-Extensions cannot be read")?);
    }
    let [answer] = answers.as_slice() else {
        return if answers.is_empty() {
            Ok(false)
        } else {
            Err("the answer names more extensions than were asked for")
        };
    };
    match answer.parameters() {
        // Whatever its window: the largest is the one that is inflated with.
        Some(Parameters {
            server_no_context: true,
            client_window: false,
            ..
        }) => Ok(true),
        Some(_) => Err("the answer has permessage-deflate in a way that nobody asked for"),
        None => Err("the answer names an extension that nobody asked for"),
    }
}

/// What an offer of permessage-deflate says, or an answer.
#[derive(Debug, Default, PartialEq, Eq)]
struct Parameters {
    server_no_context: bool,
    client_no_context: bool,
    server_window: Option<u8>,
    /// Whatever its value: nothing here makes use of it.
    client_window: bool,
}

/// One element of the header's list.
#[derive(Debug)]
struct Extension<'a> {
    name: &'a str,
    parameters: Vec<(&'a str, Option<String>)>,
}

impl Extension<'_> {
    /// `None` for another extension, and for parameters that are unknown, twice there, or out of bounds: such an offer is declined.
    fn parameters(&self) -> Option<Parameters> {
        if !self.name.eq_ignore_ascii_case(NAME) {
            return None;
        }
        let mut found = Parameters::default();
        for (name, value) in &self.parameters {
            let value = value.as_deref();
            let is_new = match (name.to_ascii_lowercase().as_str(), value) {
                (SERVER_NO_CONTEXT, None) => !std::mem::replace(&mut found.server_no_context, true),
                (CLIENT_NO_CONTEXT, None) => !std::mem::replace(&mut found.client_no_context, true),
                (SERVER_WINDOW, Some(value)) => found.server_window.replace(window_bits(value)?).is_none(),
                (CLIENT_WINDOW, value) => {
                    if let Some(value) = value {
                        window_bits(value)?;
                    }
                    !std::mem::replace(&mut found.client_window, true)
                }
                _ => false,
            };
            if !is_new {
                return None;
            }
        }
        Some(found)
    }
}

/// 8 to 15, without leading zeros (section 7.1.2).
fn window_bits(value: &str) -> Option<u8> {
    let bits = match value.as_bytes() {
        [ones @ b'8'..=b'9'] => ones - b'0',
        [b'1', ones @ b'0'..=b'5'] => 10 + ones - b'0',
        _ => return None,
    };
    Some(bits)
}

/// The elements of one header line (RFC 6455 section 9.1); `None` where it cannot be read.
fn parse(value: &[u8]) -> Option<Vec<Extension<'_>>> {
    let mut rest = Rest(std::str::from_utf8(value).ok()?);
    let mut found = Vec::new();
    loop {
        while rest.eat(',') {}
        if rest.0.is_empty() {
            return Some(found);
        }
        let name = rest.token()?;
        let mut parameters = Vec::new();
        while rest.eat(';') {
            let name = rest.token()?;
            let value = if rest.eat('=') { Some(rest.value()?) } else { None };
            parameters.push((name, value));
        }
        found.push(Extension { name, parameters });
        if !rest.0.is_empty() && !rest.eat(',') {
            return None;
        }
    }
}

/// What is still to be read of a line.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    fn skip_blanks(&mut self) {
        self.0 = self.0.trim_start_matches([' ', '\t']);
    }

    /// Whether this comes next, blanks around it aside.
    fn eat(&mut self, character: char) -> bool {
        self.skip_blanks();
        let Some(rest) = self.0.strip_prefix(character) else {
            return false;
        };
        self.0 = rest;
        self.skip_blanks();
        true
    }

    fn token(&mut self) -> Option<&'a str> {
        let len = self.0.find(|c| !is_token(c)).unwrap_or(self.0.len());
        let (token, rest) = self.0.split_at(len);
        self.0 = rest;
        self.skip_blanks();
        (!token.is_empty()).then_some(token)
    }

    /// A token, or one in quotes.
    fn value(&mut self) -> Option<String> {
        let Some(quoted) = self.0.strip_prefix('"') else {
            return self.token().map(str::to_owned);
        };
        let mut value = String::new();
        let mut characters = quoted.chars();
        loop {
            let character = match characters.next()? {
                '"' => break,
                '\\' => characters.next()?,
                character => character,
            };
            if !is_token(character) {
                return None;
            }
            value.push(character);
        }
        self.0 = characters.as_str();
        self.skip_blanks();
        (!value.is_empty()).then_some(value)
    }
}

/// RFC 9110 section 5.6.2.
fn is_token(character: char) -> bool {
    character.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(character)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_offers(lines: &[&str], expected: Option<&str>) {
        let accepted = accept_offer(lines.iter().map(|line| line.as_bytes()));
        let expected = expected.map(|after| format!("{OFFER}{after}"));
        assert_eq!(
            accepted.as_ref().map(|(answer, _)| answer),
            expected.as_ref(),
            "{lines:?}"
        );
        if let Some((answer, window_bits)) = accepted {
            let told = answer.split_once("bits=").map_or("15", |(_, bits)| bits);
            assert_eq!(window_bits.bits().to_string(), told, "{lines:?}");
        }
    }

    #[test]
    fn the_first_offer_that_can_be_kept_is_accepted() {
        for plain in [
            "permessage-deflate",
            "permessage-deflate; client_max_window_bits",
            "permessage-deflate; client_max_window_bits=8",
            "permessage-deflate;client_max_window_bits=\"15\"",
            "Permessage-Deflate ; Server_No_Context_Takeover ; client_no_context_takeover",
            "permessage-deflate; server_no_context_takeover, permessage-deflate",
            "x-webkit-deflate-frame, permessage-deflate",
            "foo; a; b=c; d=\"e\", , permessage-deflate",
            ",\tpermessage-deflate ,",
        ] {
            check_offers(&[plain], Some(""));
        }
        for bits in 9..=15 {
            let after = format!("; server_max_window_bits={bits}");
            check_offers(&[&format!("permessage-deflate{after}")], Some(&after));
        }
        let after = Some("; server_max_window_bits=10");
        check_offers(&["permessage-deflate; server_max_window_bits=\"1\\0\""], after);
        check_offers(
            &["permessage-deflate; server_max_window_bits=8, permessage-deflate; server_max_window_bits=10"],
            after,
        );
        check_offers(
            &["nonsense = , ;", "permessage-deflate; server_max_window_bits=10"],
            after,
        );
        check_offers(
            &["foo", "bar", "permessage-deflate; server_max_window_bits = 10"],
            after,
        );
    }

    #[test]
    fn other_offers_are_declined() {
        check_offers(&[], None);
        for offer in [
            "",
            ",",
            "permessage-deflated",
            "permessage-deflate; unknown",
            "permessage-deflate; unknown=1",
            "permessage-deflate; server_no_context_takeover=1",
            "permessage-deflate; client_no_context_takeover=\"true\"",
            "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
            "permessage-deflate; client_max_window_bits; client_max_window_bits=10",
            "permessage-deflate; server_max_window_bits=10; server_max_window_bits=10",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; server_max_window_bits=8",
            "permessage-deflate; server_max_window_bits=7",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; server_max_window_bits=010",
            "permessage-deflate; server_max_window_bits=+9",
            "permessage-deflate; server_max_window_bits=-9",
            "permessage-deflate; server_max_window_bits=1e1",
            "permessage-deflate; server_max_window_bits=",
            "permessage-deflate; server_max_window_bits=\"\"",
            "permessage-deflate; server_max_window_bits=\"10",
            "permessage-deflate; client_max_window_bits=0",
            "permessage-deflate; client_max_window_bits=99999999999999999999",
            "permessage-deflate;",
            "permessage-deflate; ;",
            "permessage-deflate server_no_context_takeover",
            "permessage-deflate=1",
            "foo; a=\"x, permessage-deflate, y\"",
            "\"permessage-deflate\"",
            "permessage-deflate\u{e9}",
        ] {
            check_offers(&[offer], None);
        }
        assert_eq!(accept_offer([b"permessage-deflate\xff".as_slice()].into_iter()), None);
    }

    #[test]
    fn a_client_takes_only_what_it_asked_for() {
        let check = |lines: &[&str]| check_answer(lines.iter().map(|line| line.as_bytes()));
        assert_eq!(check(&[]), Ok(false));
        assert_eq!(check(&[""]), Ok(false));
        for good in [
            OFFER,
            "permessage-deflate; server_no_context_takeover",
            "permessage-deflate; server_no_context_takeover; server_max_window_bits=8",
        ] {
            assert_eq!(check(&[good]), Ok(true), "{good}");
        }
        for bad in [
            "permessage-deflate",
            "permessage-deflate; client_no_context_takeover",
            "permessage-deflate; server_no_context_takeover; client_max_window_bits=15",
            "permessage-deflate; server_no_context_takeover; unknown",
            "foo",
            "permessage-deflate; server_no_context_takeover, foo",
            "permessage-deflate; =",
        ] {
            assert!(check(&[bad]).is_err(), "{bad}");
        }
        assert!(check(&[OFFER, OFFER]).is_err());
    }
}
