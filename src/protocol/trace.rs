//! Which trace of the client's a query belongs to, in the form of W3C Trace Context.
//!
//! Must not know what traces are for.

use std::fmt;

use log::kv::{ToValue, Value};

/// Bytes of version, trace-id, parent-id, flags, and the hyphens between them.
const BYTES: usize = 55;

/// A `traceparent`: `00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01`. Of a version after 00, what that version has in common with
/// it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TraceParent(Box<str>);

impl TraceParent {
    /// `None` for what is none, and so to be ignored.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (known, rest) = text.split_at_checked(BYTES)?;
        let mut fields = known.split('-');
        let mut field = |n_digits: usize| {
            let field = fields.next()?;
            let is_hex = field.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
            (field.len() == n_digits && is_hex).then_some(field)
        };
        let version = field(2)?;
        let (trace_id, parent_id, _flags) = (field(32)?, field(16)?, field(2)?);
        let is_zero = |field: &str| field.bytes().all(|byte| byte == b'0');
        let ends_well = rest.is_empty() || (version != "00" && rest.starts_with('-'));
        (version != "ff" && !is_zero(trace_id) && !is_zero(parent_id) && ends_well).then(|| Self(known.into()))
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl ToValue for TraceParent {
    fn to_value(&self) -> Value<'_> {
        self.as_str().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<&str>) {
        assert_eq!(
            TraceParent::parse(text).as_ref().map(TraceParent::as_str),
            expected,
            "{text}"
        );
    }

    #[test]
    fn what_is_no_traceparent_is_none() {
        const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        check(GOOD, Some(GOOD));
        let later = GOOD.replacen("00", "cc", 1);
        check(&later, Some(&later));
        check(&format!("{later}-what-the-future-brings"), Some(&later));
        for bad in [
            String::new(),
            GOOD[..54].to_owned(),
            format!("{GOOD}-"),
            format!("{GOOD}0"),
            format!("{later}0"),
            GOOD.to_uppercase(),
            GOOD.replacen("00", "ff", 1),
            GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            GOOD.replace("00f067aa0ba902b7", &"0".repeat(16)),
            GOOD.replace('-', "_"),
            GOOD.replace("-01", "-0g"),
            GOOD.replace("-01", "\r\n1"),
            GOOD.replace("b7-01", "-b701"),
            format!(" {}", &GOOD[..54]),
            "é".repeat(28),
            "-".repeat(BYTES),
        ] {
            check(&bad, None);
        }
    }
}
