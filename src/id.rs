//! Identifiers that travel: streams, connections, and the client's own request names.
//!
//! Owns their text forms and limits. Must not know who hands them out.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// Longest `request_id` a client may choose, in characters.
pub(crate) const REQUEST_ID_CHARS_MAX: usize = 64;

/// Names one stream, on every connection and for its whole life: a random UUID (version 4).
///
/// Known outside the crate as [`QueryStreamId`](crate::QueryStreamId).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct StreamId(Uuid);

impl StreamId {
    /// A fresh random id (122 random bits, so ids cannot be guessed or collide).
    #[must_use]
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// The id of these 16 bytes: for tests and for callers that keep ids elsewhere.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl FromStr for StreamId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::parse_str(text).map(Self)
    }
}

/// Random bytes of a [`ResumeToken`] after its epoch: 192 bits, where 128 would be enough against guessing.
const TOKEN_SECRET_BYTES: usize = 24;

/// Which server process a token belongs to: its tokens mean nothing to the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Epoch([u8; 6]);

/// 12 hexadecimal digits.
impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Epoch {
    pub(crate) fn random() -> Self {
        let [a, b, c, d, e, f, ..] = *Uuid::new_v4().as_bytes();
        Self([a, b, c, d, e, f])
    }
}

/// The right to resume one stream, once: whoever shows it gets the stream. A secret; `Debug` does not show it.
///
/// In text, base64url without padding (RFC 4648 section 5) of the epoch's 6 bytes and 24 random ones.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(
    test,
    derive(schemars::JsonSchema),
    schemars(description = "The right to resume one stream: whoever shows it gets the stream. A secret.")
)]
#[serde(transparent)]
pub struct ResumeToken(String);

/// What a server keeps of a token: its SHA-256, so that a look into the server's memory or a dump gives no tokens away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct TokenHash([u8; 32]);

impl ResumeToken {
    pub(crate) fn random(epoch: Epoch) -> Self {
        let mut bytes = [0; 6 + TOKEN_SECRET_BYTES];
        let (head, secret) = bytes.split_at_mut(6);
        head.copy_from_slice(&epoch.0);
        getrandom::fill(secret).expect("the system gives random bytes");
        Self(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Whether the token was given out by the server process of this epoch, as far as can be seen from outside.
    pub(crate) fn is_of(&self, epoch: Epoch) -> bool {
        URL_SAFE_NO_PAD
            .decode(&self.0)
            .is_ok_and(|bytes| bytes.len() == 6 + TOKEN_SECRET_BYTES && bytes.starts_with(&epoch.0))
    }

    pub(crate) fn hash(&self) -> TokenHash {
        TokenHash(Sha256::digest(self.0.as_bytes()).into())
    }
}

impl fmt::Debug for ResumeToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResumeToken(…)")
    }
}

impl From<String> for ResumeToken {
    fn from(text: String) -> Self {
        Self(text)
    }
}

/// On whose behalf a connection speaks. Streams can be seen, cancelled and resumed by the principal that started them only.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Principal(Option<Arc<str>>);

impl Principal {
    /// Everybody, where a server asks nobody who they are. Nobody's name is the same.
    pub(crate) fn anonymous() -> Self {
        Self(None)
    }

    pub(crate) fn named(name: Arc<str>) -> Self {
        Self(Some(name))
    }

    /// Its name; `None` where nobody was asked.
    pub(crate) fn name(&self) -> Option<&str> {
        self.0.as_deref()
    }

    /// Whether it is nobody in particular, so that what one principal may have is no measure.
    pub(crate) fn is_anonymous(&self) -> bool {
        self.0.is_none()
    }
}

/// Names one connection of one server process: counts up from 1, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ConnectionId(u64);

impl ConnectionId {
    /// The id with this number.
    #[must_use]
    pub(crate) const fn new(number: u64) -> Self {
        Self(number)
    }
}

impl ConnectionId {
    /// Its number.
    pub(crate) const fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The client's own name for a query: a string of at most 64 characters, or an integer.
///
/// Echoed unchanged on every message of the stream, and unique among the connection's live streams.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RequestId {
    /// A name.
    Text(String),
    /// A number.
    Number(i64),
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Number(number) => number.fmt(f),
        }
    }
}

impl log::kv::ToValue for RequestId {
    fn to_value(&self) -> log::kv::Value<'_> {
        match self {
            Self::Text(text) => text.as_str().into(),
            Self::Number(number) => (*number).into(),
        }
    }
}

impl From<i64> for RequestId {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<&str> for RequestId {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl Serialize for RequestId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => serializer.serialize_str(text),
            Self::Number(number) => serializer.serialize_i64(*number),
        }
    }
}

impl<'de> Deserialize<'de> for RequestId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = RequestId;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a string of at most {REQUEST_ID_CHARS_MAX} characters or an integer")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<RequestId, E> {
                Ok(RequestId::Number(number))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<RequestId, E> {
                i64::try_from(number)
                    .map(RequestId::Number)
                    .map_err(|_| E::invalid_value(de::Unexpected::Unsigned(number), &self))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<RequestId, E> {
                if text.chars().count() > REQUEST_ID_CHARS_MAX {
                    return Err(E::invalid_length(text.chars().count(), &self));
                }
                Ok(RequestId::Text(text.to_owned()))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

    use super::*;

    #[track_caller]
    fn check(json: &str, expected: Option<RequestId>) {
        assert_eq!(serde_json::from_str::<RequestId>(json).ok(), expected);
    }

    #[test]
    fn request_ids_are_short_strings_or_integers() {
        check("\"a\"", Some(RequestId::from("a")));
        check("-7", Some(RequestId::Number(-7)));
        check("9223372036854775807", Some(RequestId::Number(i64::MAX)));
        check("9223372036854775808", None);
        check("1.5", None);
        check("null", None);
        check("{}", None);
        let longest = "é".repeat(REQUEST_ID_CHARS_MAX);
        check(&format!("\"{longest}\""), Some(RequestId::Text(longest.clone())));
        check(&format!("\"{longest}x\""), None);
    }

    #[test]
    fn tokens_are_of_one_epoch_all_different_and_never_shown() {
        let (ours, theirs) = (Epoch::random(), Epoch::random());
        let (a, b) = (ResumeToken::random(ours), ResumeToken::random(ours));
        assert!(a.is_of(ours) && !a.is_of(theirs));
        assert_ne!(a.hash(), b.hash());
        assert!(!ResumeToken::from("x".to_owned()).is_of(ours));
        assert!(!format!("{a:?}").contains(&a.0));
        assert_eq!(a.0.len(), 40);
    }

    #[test]
    fn stream_ids_survive_their_text_form() {
        let id = StreamId::random();
        assert_eq!(id.to_string().parse::<StreamId>().unwrap(), id);
        assert_eq!(serde_json::to_string(&id).unwrap(), format!("\"{id}\""));
    }
}
