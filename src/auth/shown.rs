//! The token that an HTTP request shows: in `Authorization`, or among the subprotocols it offers, for browsers, whose scripts may set
//! no header.
//!
//! Pure. Must not know HTTP beyond these two headers.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::Secret;

/// Before a token in base64url without padding, among the subprotocols.
const SUBPROTOCOL_PREFIX: &[u8] = b"rowstream.auth.bearer.";

/// What a request shows of its sender.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    /// Nothing; a `hello` may follow.
    Nothing,
    Token(Secret),
    /// More than one token, or what cannot be one.
    Unusable,
}

/// What these values of `Authorization` and these subprotocols show together.
pub(crate) fn shown<'a>(
    authorization: impl Iterator<Item = &'a [u8]>,
    subprotocols: impl Iterator<Item = &'a [u8]>,
) -> Shown {
    let offered = subprotocols
        .filter_map(|name| name.strip_prefix(SUBPROTOCOL_PREFIX))
        .map(in_base64);
    let mut tokens = authorization.map(bearer).chain(offered);
    match (tokens.next(), tokens.next()) {
        (None, _) => Shown::Nothing,
        (Some(Some(token)), None) => Shown::Token(token),
        (Some(_), _) => Shown::Unusable,
    }
}

/// The token of `Bearer`, the only scheme there is (RFC 6750).
fn bearer(value: &[u8]) -> Option<Secret> {
    let (scheme, token) = value.split_at_checked(b"Bearer ".len())?;
    scheme
        .eq_ignore_ascii_case(b"Bearer ")
        .then_some(token)
        .and_then(token_of)
}

fn in_base64(text: &[u8]) -> Option<Secret> {
    URL_SAFE_NO_PAD.decode(text).ok().as_deref().and_then(token_of)
}

/// A token is not empty, and has neither blanks nor control characters.
fn token_of(bytes: &[u8]) -> Option<Secret> {
    let text = std::str::from_utf8(bytes).ok()?;
    let is_one = !text.is_empty() && !text.chars().any(|char| char.is_whitespace() || char.is_control());
    is_one.then(|| Secret::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(authorization: &[&str], subprotocols: &[&str], expected: &Shown) {
        let authorization: Vec<&[u8]> = authorization.iter().map(|text| text.as_bytes()).collect();
        let subprotocols: Vec<&[u8]> = subprotocols.iter().map(|text| text.as_bytes()).collect();
        let found = shown(authorization.into_iter(), subprotocols.into_iter());
        assert_eq!(found, *expected);
    }

    #[test]
    fn a_token_is_shown_in_one_of_two_ways() {
        let token = Shown::Token("se.cr-et~+/=".into());
        check(&[], &[], &Shown::Nothing);
        check(&[], &["rowstream.v1", "chat"], &Shown::Nothing);
        check(&["Bearer se.cr-et~+/="], &["rowstream.v1"], &token);
        check(&["bEARER se.cr-et~+/="], &[], &token);
        check(&[], &["rowstream.v1", "rowstream.auth.bearer.c2UuY3ItZXR-Ky89"], &token);
    }

    #[test]
    fn what_is_no_token_or_more_than_one_is_unusable() {
        for authorization in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer  x",
            "Bearer a b",
            "Basic eDp5",
            "Bearerx",
            "x",
        ] {
            check(&[authorization], &[], &Shown::Unusable);
        }
        for subprotocol in ["", "a", "YQ==", "YSBi", "gA", "AA"] {
            check(
                &[],
                &[&format!("rowstream.auth.bearer.{subprotocol}")],
                &Shown::Unusable,
            );
        }
        check(&["Bearer x", "Bearer x"], &[], &Shown::Unusable);
        check(&["Bearer a"], &["rowstream.auth.bearer.YQ"], &Shown::Unusable);
        check(
            &[],
            &["rowstream.auth.bearer.YQ", "rowstream.auth.bearer.YQ"],
            &Shown::Unusable,
        );
    }
}
