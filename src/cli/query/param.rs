//! What is typed on the command line, as values: parameters and durations.
//!
//! Must not know what is done with them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde_json::Value as Json;

use crate::rows::{Params, Value};

/// `NAME=VALUE`, where the name is one: bound by name. Everything else is a value, and bound by position.
///
/// The form decides, not the query: a text that has the form by chance is written as a JSON string, `"x=3"`.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Param {
    ByPosition(Value),
    ByName(NamedParam),
}

impl FromStr for Param {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, _)) if is_name(without_sigil(name)) => text.parse().map(Self::ByName),
            _ => value(text).map(Self::ByPosition),
        }
    }
}

fn is_name(text: &str) -> bool {
    let is_letter = |char: char| char.is_alphabetic() || char == '_';
    text.starts_with(is_letter) && text.chars().all(|char| is_letter(char) || char.is_numeric())
}

fn without_sigil(name: &str) -> &str {
    name.strip_prefix([':', '@', '$']).unwrap_or(name)
}

/// What is a JSON scalar is that scalar, everything else is text.
fn value(text: &str) -> Result<Value, String> {
    Ok(match serde_json::from_str(text) {
        Ok(Json::Null) => Value::Null,
        Ok(Json::Bool(value)) => Value::Boolean(value),
        Ok(Json::String(value)) => Value::Text(value),
        Ok(Json::Number(number)) if is_integer(text) => match number.as_i64() {
            Some(value) => Value::Integer(value),
            None => {
                return Err(format!(
                    "the integer {text} does not fit 64 bits; in \"quotes\" it is text"
                ));
            }
        },
        Ok(Json::Number(number)) => Value::Real(number.as_f64().unwrap_or(f64::NAN)),
        Ok(Json::Array(_) | Json::Object(_)) | Err(_) => Value::Text(text.to_owned()),
    })
}

fn is_integer(text: &str) -> bool {
    !text.contains(['.', 'e', 'E'])
}

/// `NAME=VALUE`; the engine's sigil before the name may be left out.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct NamedParam {
    pub(super) name: String,
    pub(super) value: Value,
}

impl FromStr for NamedParam {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, text) = text.split_once('=').ok_or("a named parameter is NAME=VALUE")?;
        let name = without_sigil(name);
        if name.is_empty() {
            return Err("the name before = is missing".to_owned());
        }
        Ok(Self {
            name: name.to_owned(),
            value: value(text)?,
        })
    }
}

/// The parameters of one query, in the order in which they were given.
///
/// # Errors
/// Where some are by name and some by position; the text says how each is written.
pub(super) fn params(params: Vec<Param>, named: Vec<NamedParam>) -> Result<Params, String> {
    let mut by_position = Vec::new();
    let mut by_name = Vec::new();
    for param in params {
        match param {
            Param::ByPosition(value) => by_position.push(value),
            Param::ByName(NamedParam { name, value }) => by_name.push((name, value)),
        }
    }
    by_name.extend(named.into_iter().map(|NamedParam { name, value }| (name, value)));
    match (by_position.is_empty(), by_name.first()) {
        (true, None) => Ok(Params::None),
        (false, None) => Ok(Params::Positional(by_position)),
        (true, Some(_)) => Ok(Params::Named(by_name)),
        (false, Some((name, _))) => Err(format!(
            "parameters are bound by name or by position, not both: {name:?} is bound by name; {QUOTED}"
        )),
    }
}

const QUOTED: &str = "a text of the form NAME=VALUE is bound by position in quotes: --param '\"NAME=VALUE\"'";

/// How parameters are written, for one whose query and parameters do not match.
pub(super) fn hint(params: &Params) -> &'static str {
    match params {
        Params::None | Params::Positional(_) => "--param VALUE binds by position, --param NAME=VALUE by name",
        Params::Named(_) => QUOTED,
    }
}

/// A time as people write it: `1.5` and `1.5s` for seconds, `200ms`, `5m`, `1h`. At least a millisecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span(pub(super) Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits_end = text
            .find(|char: char| !char.is_ascii_digit() && char != '.')
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(digits_end);
        let millis_of_unit = match unit {
            "ms" => 1.0,
            "" | "s" => 1_000.0,
            "m" | "min" => 60_000.0,
            "h" => 3_600_000.0,
            _ => return Err(format!("the unit {unit:?} is none of ms, s, m and h")),
        };
        let number: f64 = number
            .parse()
            .map_err(|_| "a time is a number and a unit, for instance 30s".to_owned())?;
        let millis = number * millis_of_unit;
        // 2^53 milliseconds are 285,000 years.
        if !(1.0..=9e15).contains(&millis) {
            return Err("a time is at least 1ms".to_owned());
        }
        Ok(Self(Duration::from_millis(millis as u64)))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

    use super::*;

    #[track_caller]
    fn check(text: &str, expected: impl Into<Value>) {
        assert_eq!(text.parse(), Ok(Param::ByPosition(expected.into())), "{text}");
    }

    #[test]
    fn parameters_are_json_scalars_or_text() {
        check("null", Value::Null);
        check("true", true);
        check("False", "False");
        check("42", 42_i64);
        check("-9223372036854775808", i64::MIN);
        check("1.0", 1.0);
        check("-1e3", -1000.0);
        check("007", "007");
        check("+1", "+1");
        check("1_000", "1_000");
        check("NaN", "NaN");
        check("", "");
        check("plain text", "plain text");
        check("\"42\"", "42");
        check("\"a\\nb\"", "a\nb");
        check("\"unbalanced", "\"unbalanced");
        check("[1]", "[1]");
        check("{}", "{}");
        let error = "9223372036854775808".parse::<Param>().unwrap_err();
        assert!(error.contains("64 bits"), "{error}");
    }

    #[track_caller]
    fn check_named(text: &str, name: &str, value: impl Into<Value>) {
        let (name, value) = (name.to_owned(), value.into());
        assert_eq!(text.parse(), Ok(Param::ByName(NamedParam { name, value })), "{text}");
    }

    #[test]
    fn what_has_the_form_of_a_name_and_a_value_is_by_name() {
        check_named("x=3", "x", 3_i64);
        check_named(":x=3", "x", 3_i64);
        check_named("$x=3", "x", 3_i64);
        check_named("@x=null", "x", Value::Null);
        check_named("größe_2=a=b", "größe_2", "a=b");
        check_named("x=", "x", "");
        check_named("x=\"3\"", "x", "3");
        assert!("x=9223372036854775808".parse::<Param>().is_err());
        check("\"x=3\"", "x=3");
        check("=x", "=x");
        check("1=1", "1=1");
        check("https://host/?x=3", "https://host/?x=3");
        check("a b=c", "a b=c");
        check("$1=x", "$1=x");
        check("::x=3", "::x=3");
    }

    #[test]
    fn a_query_has_parameters_of_one_kind() {
        let all = |params: &[&str], named: &[&str]| {
            super::params(
                params.iter().map(|text| text.parse().unwrap()).collect(),
                named.iter().map(|text| text.parse().unwrap()).collect(),
            )
        };
        let named = |pairs: &[(&str, i64)]| {
            Params::Named(
                pairs
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), (*value).into()))
                    .collect(),
            )
        };
        assert_eq!(all(&[], &[]), Ok(Params::None));
        assert_eq!(
            all(&["1", "x"], &[]),
            Ok(Params::Positional(vec![1_i64.into(), "x".into()]))
        );
        assert_eq!(all(&["x=1"], &["y=2"]), Ok(named(&[("x", 1), ("y", 2)])));
        for (params, by_name) in [(["1", "x=2"], [].as_slice()), (["1", "2"], &["x=2"])] {
            let error = all(&params, by_name).unwrap_err();
            assert!(error.contains("\"x\" is bound by name"), "{error}");
            assert!(error.contains("--param '\"NAME=VALUE\"'"), "{error}");
        }
    }

    #[test]
    fn named_parameters_have_a_name() {
        let parsed = |text: &str| text.parse::<NamedParam>().map(|param| (param.name, param.value));
        assert_eq!(parsed("a=1"), Ok(("a".into(), 1_i64.into())));
        assert_eq!(parsed(":a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(parsed("$a="), Ok(("a".into(), "".into())));
        assert!(parsed("a").is_err());
        assert!(parsed("=1").is_err());
        assert!(parsed(":=1").is_err());
    }

    #[track_caller]
    fn check_span(text: &str, millis: Option<u64>) {
        let span = text.parse::<Span>().ok();
        assert_eq!(span, millis.map(|millis| Span(Duration::from_millis(millis))), "{text}");
    }

    #[test]
    fn times_have_units() {
        check_span("30", Some(30_000));
        check_span("1.5s", Some(1_500));
        check_span("200ms", Some(200));
        check_span("5m", Some(300_000));
        check_span("1h", Some(3_600_000));
        check_span("0", None);
        check_span("0.5ms", None);
        check_span("-1", None);
        check_span("1d", None);
        check_span("", None);
        check_span("s", None);
        check_span("1.2.3", None);
        check_span("99999999999999999999", None);
    }
}
