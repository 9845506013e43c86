//! Identifiers that travel: streams, connections, and the client's own request names.
//!
//! Owns their text forms and limits. Must not know who hands them out.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use uuid::Uuid;

/// Longest `request_id` a client may choose, in characters.
pub(crate) const REQUEST_ID_CHARS_MAX: usize = 64;

/// Names one stream, on every connection and for its whole life: a random UUID (version 4).
///
/// Known outside the crate as [`QueryStreamId`](crate::QueryStreamId).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
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
    fn stream_ids_survive_their_text_form() {
        let id = StreamId::random();
        assert_eq!(id.to_string().parse::<StreamId>().unwrap(), id);
        assert_eq!(serde_json::to_string(&id).unwrap(), format!("\"{id}\""));
    }
}
