//! JSON into types, each from the one shape that the specification gives it: a message or a part of one is an object, a name out of a set
//! is a string.
//!
//! What `serde` derives also takes an array for an object, its fields in the order of the declaration, and `{"name": null}` for a name.
//! [`Strict`] stands between any deserializer and any type, and asks for an object or for a string instead, at every depth. It is used for
//! all that peers send: types that are deserialized by themselves, with `serde_json`, are as lenient as `serde` makes them.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};

/// Reads what is a whole text of JSON.
///
/// # Errors
/// What serde says of the text, and of an array where an object belongs.
pub(super) fn from_str<'de, T: Deserialize<'de>>(text: &'de str) -> serde_json::Result<T> {
    let mut json = serde_json::Deserializer::from_str(text);
    let value = T::deserialize(Strict(&mut json))?;
    json.end()?;
    Ok(value)
}

/// Reads what has been parsed.
///
/// # Errors
/// As [`from_str`].
pub(super) fn from_value<T: for<'de> Deserialize<'de>>(value: serde_json::Value) -> serde_json::Result<T> {
    T::deserialize(Strict(value))
}

/// Whatever it wraps, and all that is read from there: structs come from objects only, and enums, which are names, from strings only.
struct Strict<T>(T);

macro_rules! pass_on {
    ($($method:ident($($arg:ident: $ty:ty),*))*) => {
        $(fn $method<V: Visitor<'de>>(self, $($arg: $ty,)* visitor: V) -> Result<V::Value, D::Error> {
            self.0.$method($($arg,)* Strict(visitor))
        })*
    };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Strict<D> {
    type Error = D::Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_map(OfObject(visitor))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_str(OfName(visitor))
    }

    pass_on! {
        deserialize_any() deserialize_bool() deserialize_char() deserialize_str() deserialize_string()
        deserialize_i8() deserialize_i16() deserialize_i32() deserialize_i64()
        deserialize_u8() deserialize_u16() deserialize_u32() deserialize_u64()
        deserialize_f32() deserialize_f64() deserialize_bytes() deserialize_byte_buf()
        deserialize_option() deserialize_unit() deserialize_seq() deserialize_map()
        deserialize_identifier() deserialize_ignored_any()
        deserialize_unit_struct(name: &'static str) deserialize_newtype_struct(name: &'static str)
        deserialize_tuple(len: usize) deserialize_tuple_struct(name: &'static str, len: usize)
    }

    fn is_human_readable(&self) -> bool {
        self.0.is_human_readable()
    }
}

macro_rules! pass_on_value {
    ($($method:ident: $ty:ty,)*) => {
        $(fn $method<E: de::Error>(self, value: $ty) -> Result<V::Value, E> {
            self.0.$method(value)
        })*
    };
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Strict<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }

    pass_on_value! {
        visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64,
        visit_str: &str, visit_borrowed_str: &'de str, visit_string: String,
        visit_bytes: &[u8], visit_borrowed_bytes: &'de [u8], visit_byte_buf: Vec<u8>,
    }

    fn visit_none<E: de::Error>(self) -> Result<V::Value, E> {
        self.0.visit_none()
    }

    fn visit_unit<E: de::Error>(self) -> Result<V::Value, E> {
        self.0.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.0.visit_some(Strict(deserializer))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.0.visit_newtype_struct(Strict(deserializer))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<V::Value, A::Error> {
        self.0.visit_seq(Strict(seq))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        self.0.visit_map(Strict(map))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Strict<A> {
    type Error = A::Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, A::Error> {
        self.0.next_element_seed(Strict(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Strict<A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        self.0.next_key_seed(seed)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, A::Error> {
        self.0.next_value_seed(Strict(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Strict<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        self.0.deserialize(Strict(deserializer))
    }
}

/// A struct's visitor, without its ear for arrays.
struct OfObject<V>(V);

impl<'de, V: Visitor<'de>> Visitor<'de> for OfObject<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        self.0.visit_map(Strict(map))
    }
}

/// An enum's visitor, without its ear for objects.
struct OfName<V>(V);

impl<'de, V: Visitor<'de>> Visitor<'de> for OfName<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<V::Value, E> {
        self.0.visit_enum(name.into_deserializer())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

    use serde_json::value::RawValue;
    use serde_json::{Value as Json, json};

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Colour {
        Red,
        Blue,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Point {
        x: i64,
        colour: Option<Colour>,
    }

    #[derive(Debug, Deserialize)]
    struct Shape {
        points: Vec<Point>,
        origin: Option<Point>,
        text: Option<Box<RawValue>>,
        anything: Option<Json>,
    }

    #[track_caller]
    fn check_refused(json: &Json, says: &str) {
        let by_value = from_value::<Shape>(json.clone()).unwrap_err().to_string();
        let by_text = from_str::<Shape>(&json.to_string()).unwrap_err().to_string();
        assert!(by_value.contains(says), "{json}: {by_value}");
        assert!(by_text.contains(says), "{json}: {by_text}");
    }

    #[test]
    fn an_array_is_no_object_at_any_depth() {
        check_refused(&json!([[], null, null, null]), "sequence, expected an object");
        check_refused(&json!({"points": [[1, null]]}), "sequence, expected an object");
        check_refused(
            &json!({"points": [], "origin": [1, null]}),
            "sequence, expected an object",
        );
        check_refused(&json!({"points": {"x": 1}}), "map, expected a sequence");
    }

    #[test]
    fn an_object_is_no_name() {
        let points = |colour: Json| json!({"points": [{"x": 1, "colour": colour}]});
        check_refused(&points(json!({"red": null})), "map, expected a string");
        check_refused(&points(json!("green")), "unknown variant `green`");
        assert_eq!(
            from_value::<Shape>(points(json!("blue"))).unwrap().points,
            [Point {
                x: 1,
                colour: Some(Colour::Blue)
            }]
        );
    }

    #[test]
    fn all_else_is_read_as_ever() {
        let text = r#"{"points": [{"x": 1}], "origin": {"x": -2, "colour": "red", "z": [{}]}, "text": [1,  2.0], "anything": {"a": [null]}}"#;
        let shape: Shape = from_str(text).unwrap();
        let origin = Point {
            x: -2,
            colour: Some(Colour::Red),
        };
        assert_eq!(shape.points, [Point { x: 1, colour: None }]);
        assert_eq!(shape.origin, Some(origin));
        assert_eq!(shape.text.unwrap().get(), "[1,  2.0]");
        assert_eq!(shape.anything, Some(json!({"a": [null]})));
        assert!(from_str::<Point>(r#"{"x": 1} {}"#).is_err(), "more than one value");
    }
}
