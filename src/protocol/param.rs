//! A query's parameters, read from the text of the message: whether a number is an integer is a matter of how it is written, and of a
//! document each byte counts.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::decode::{DecodeError, quoted};
use super::strict;
use crate::error::ErrorCode;
use crate::rows::{ColumnType, Params, Value};

/// Names or fields with the text behind each.
type Fields<'a> = BTreeMap<String, &'a RawValue>;

/// The parameters in a message that is known to be JSON, and to have some.
///
/// # Errors
/// `BAD_MESSAGE` where there is neither an array nor an object, `PARAMETER_ERROR` for what no engine could take.
pub(super) fn params(message: &str) -> Result<Params, DecodeError> {
    #[derive(Deserialize)]
    struct WithParams<'a> {
        #[serde(borrow)]
        params: &'a RawValue,
    }
    let bad = |error: serde_json::Error| DecodeError::bad(format!("params: {error}"));
    let text = strict::from_str::<WithParams<'_>>(message).map_err(bad)?.params.get();
    match text.as_bytes().first() {
        Some(b'[') => serde_json::from_str::<Vec<&RawValue>>(text)
            .map_err(bad)?
            .into_iter()
            .enumerate()
            .map(|(idx, value)| param(&(idx + 1).to_string(), value.get()))
            .collect::<Result<_, _>>()
            .map(Params::Positional),
        Some(b'{') => serde_json::from_str::<Fields<'_>>(text)
            .map_err(bad)?
            .into_iter()
            .map(|(name, value)| param(&quoted(&name), value.get()).map(|value| (name, value)))
            .collect::<Result<_, _>>()
            .map(Params::Named),
        _ => Err(DecodeError::bad("params: an array, or an object for named parameters")),
    }
}

fn param(which: &str, json: &str) -> Result<Value, DecodeError> {
    let refused = |text: &str| DecodeError::new(ErrorCode::ParameterError, format!("parameter {which}: {text}"));
    match json.as_bytes().first() {
        Some(b'{') => typed_param(json).map_err(refused),
        Some(b'[') => Err(refused(
            "must be null, a boolean, a number, a string, or a type with a value",
        )),
        _ => scalar(json).ok_or_else(|| refused(&format!("{json} does not fit 64 bits"))),
    }
}

/// What is neither an object nor an array; `None` for an integer beyond 64 bits.
fn scalar(json: &str) -> Option<Value> {
    if let Some(text) = string(json) {
        return Some(Value::Text(text.into_owned()));
    }
    match json {
        "null" => Some(Value::Null),
        "true" => Some(Value::Boolean(true)),
        "false" => Some(Value::Boolean(false)),
        number if is_integer(number) => number.parse().ok().map(Value::Integer),
        number => number.parse().ok().map(Value::Real),
    }
}

fn is_integer(number: &str) -> bool {
    !number.contains(['.', 'e', 'E'])
}

fn string(json: &str) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    let text: Option<Text<'_>> = json.starts_with('"').then(|| serde_json::from_str(json).ok())?;
    text.map(|Text(text)| text)
}

/// A parameter that says what it is, `{"type": …, "value": …}`; else what is wrong with it.
fn typed_param(json: &str) -> Result<Value, &'static str> {
    const SHAPE: &str = "an object is {\"type\", \"value\"}, the type one that columns have";
    let mut fields: Fields<'_> = serde_json::from_str(json).map_err(|_| SHAPE)?;
    let ty: ColumnType = fields
        .remove("type")
        .and_then(|ty| strict::from_str(ty.get()).ok())
        .ok_or(SHAPE)?;
    let value = fields.remove("value").ok_or("a typed parameter has a \"value\"")?.get();
    if !fields.is_empty() {
        return Err("a typed parameter has nothing but \"type\" and \"value\"");
    }
    typed(ty, value).ok_or("the value is not of its type")
}

fn typed(ty: ColumnType, json: &str) -> Option<Value> {
    if json == "null" {
        return Some(Value::Null);
    }
    let text = string(json);
    let is_number = json.starts_with(|first: char| first == '-' || first.is_ascii_digit());
    match ty {
        ColumnType::Any => scalar(json),
        ColumnType::Boolean => json.parse().ok().map(Value::Boolean),
        ColumnType::Int64 => text.as_deref().unwrap_or(json).parse().ok().map(Value::Integer),
        ColumnType::Float64 if is_number => json.parse().ok().map(Value::Real),
        ColumnType::Float64 => real(&text?).map(Value::Real),
        ColumnType::Blob => BASE64.decode(text?.as_bytes()).ok().map(Value::Blob),
        ColumnType::Text
        | ColumnType::Decimal
        | ColumnType::Date
        | ColumnType::Time
        | ColumnType::Timestamp
        | ColumnType::TimestampTz
        | ColumnType::Uuid => Some(Value::Text(text?.into_owned())),
        // A document, or the text of one.
        ColumnType::Json => Some(Value::Text(text.map_or_else(|| json.to_owned(), Cow::into_owned))),
    }
}

/// A double as a string: what JSON has no number for, or a number's text.
fn real(text: &str) -> Option<f64> {
    match text {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        digits if digits.starts_with(|first: char| first == '-' || first.is_ascii_digit()) => digits.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

    use super::*;

    fn read(json: &str) -> Result<Value, DecodeError> {
        match params(&format!(r#"{{"query": "", "params": [{json}]}}"#))? {
            Params::Positional(values) => Ok(values.into_iter().next().unwrap()),
            other @ (Params::None | Params::Named(_)) => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn check(json: &str, expected: Value) {
        let found = read(json).unwrap();
        match (&found, &expected) {
            // Zeros of either sign are equal, and are told apart here.
            (Value::Real(found), Value::Real(expected)) => assert_eq!(found.to_bits(), expected.to_bits(), "{json}"),
            _ => assert_eq!(found, expected, "{json}"),
        }
    }

    #[test]
    fn a_number_is_what_it_is_written_as() {
        check("-0", 0_i64.into());
        check("-0.0", (-0.0).into());
        check("0e0", 0.0.into());
        check("1E2", 100.0.into());
        check("9007199254740993", 9_007_199_254_740_993_i64.into());
        check("9007199254740993.0", 9_007_199_254_740_992.0.into());
        check("9223372036854775807", i64::MAX.into());
        check("-9223372036854775808", i64::MIN.into());
        check("9223372036854775808.0", 9_223_372_036_854_775_808.0.into());
        check("5e-324", 5e-324.into());
        for beyond in [
            "9223372036854775808",
            "-9223372036854775809",
            "18446744073709551616",
            "100000000000000000000000000000000000000000",
        ] {
            let error = read(beyond).unwrap_err();
            assert_eq!(error.code, ErrorCode::ParameterError);
            assert!(error.message.contains("64 bits"), "{error:?}");
            assert!(read(&format!(r#"{{"type": "int64", "value": {beyond}}}"#)).is_err());
        }
        check(r#"{"type": "int64", "value": -0}"#, 0_i64.into());
        check(r#"{"type": "int64", "value": "-0"}"#, 0_i64.into());
        check(r#"{"type": "any", "value": -0}"#, 0_i64.into());
        check(r#"{"type": "float64", "value": -0}"#, (-0.0).into());
        check(
            r#"{"type": "float64", "value": 18446744073709551616}"#,
            18_446_744_073_709_551_616.0.into(),
        );
    }

    #[test]
    fn texts_and_documents_are_kept_as_they_are() {
        check(r#""-0""#, "-0".into());
        check(r#""\u00e4\n\ud83d\ude00""#, "ä\n😀".into());
        check(r#"{"type": "text", "value": "null"}"#, "null".into());
        check(
            r#"{"type": "json", "value": {"b": -0, "a": [1.0, 123456789012345678901],  "b": 1}}"#,
            r#"{"b": -0, "a": [1.0, 123456789012345678901],  "b": 1}"#.into(),
        );
        check(r#"{"type": "json", "value": "{}"}"#, "{}".into());
    }

    #[test]
    fn parameters_may_say_their_type() {
        let params = params(
            r#"{"type":"stream_query","query":"","params":[{"type":"int64","value":"-9223372036854775808"},
                {"type":"int64","value":7},{"type":"float64","value":"-Infinity"},{"type":"float64","value":1},
                {"type":"blob","value":"AAEC"},{"type":"boolean","value":true},{"type":"date","value":"2026-11-26"},
                {"type":"json","value":{"a":[1]}},{"type":"text","value":null},{"type":"any","value":"x"}]}"#,
        )
        .unwrap();
        let expected = vec![
            i64::MIN.into(),
            7_i64.into(),
            f64::NEG_INFINITY.into(),
            1.0.into(),
            Value::Blob(vec![0, 1, 2]),
            true.into(),
            "2026-11-26".into(),
            r#"{"a":[1]}"#.into(),
            Value::Null,
            "x".into(),
        ];
        assert_eq!(params, Params::Positional(expected));
    }
}
