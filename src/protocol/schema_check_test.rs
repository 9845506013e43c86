//! A check of values against `schema.json`, as much of JSON Schema as that uses.
//!
//! The tests of whole connections include this file, too: it must name nothing of the crate.
#![cfg(test)]
#![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

use serde_json::Value as Json;

/// The name of the definition that a node refers to.
pub(crate) fn referred(node: &Json) -> Option<&str> {
    node.get("$ref")?.as_str()?.strip_prefix("#/$defs/")
}

/// Says why `value` is not what `node` describes. Objects must have no other properties than those described: the schema lets
/// unknown ones pass, these tests do not.
pub(crate) fn refusal(value: &Json, node: &Json, schema: &Json) -> Option<String> {
    // The schema `true` has no keyword and refuses nothing.
    for (keyword, says) in node.as_object().into_iter().flatten() {
        let refused = match keyword.as_str() {
            "$ref" => refusal(value, &schema["$defs"][referred(node).unwrap()], schema),
            "type" => {
                let is = |name: &Json| match name.as_str().unwrap() {
                    "null" => value.is_null(),
                    "boolean" => value.is_boolean(),
                    "string" => value.is_string(),
                    "array" => value.is_array(),
                    "object" => value.is_object(),
                    "number" => value.is_number(),
                    "integer" => value.is_i64() || value.is_u64(),
                    other => panic!("type {other}"),
                };
                let fits = says.as_array().map_or_else(|| is(says), |names| names.iter().any(is));
                (!fits).then(|| format!("{value} is not of type {says}"))
            }
            "const" => (value != says).then(|| format!("{value} is not {says}")),
            "enum" => (!says.as_array().unwrap().contains(value)).then(|| format!("{value} is not one of {says}")),
            "minimum" => (value.as_f64() < says.as_f64() && value.is_number()).then(|| format!("{value} is too small")),
            "maximum" => (value.as_f64() > says.as_f64() && value.is_number()).then(|| format!("{value} is too big")),
            "maxLength" => {
                let n_chars = value.as_str().map_or(0, |text| text.chars().count() as u64);
                (n_chars > says.as_u64().unwrap()).then(|| format!("{value} is too long"))
            }
            "required" => says.as_array().unwrap().iter().find_map(|field| {
                let absent = value.get(field.as_str().unwrap()).is_none();
                absent.then(|| format!("{field} is missing in {value}"))
            }),
            "properties" => value.as_object().into_iter().flatten().find_map(|(field, value)| {
                match says.get(field) {
                    Some(property) => refusal(value, property, schema).map(|why| format!("{field}: {why}")),
                    // What only adds a condition need not know all fields.
                    None => node.get("type").map(|_| format!("{field} is not described")),
                }
            }),
            "additionalProperties" if says.is_object() => value
                .as_object()
                .into_iter()
                .flatten()
                .find_map(|(field, value)| refusal(value, says, schema).map(|why| format!("{field}: {why}"))),
            "items" => value
                .as_array()
                .into_iter()
                .flatten()
                .find_map(|item| refusal(item, says, schema)),
            "prefixItems" => says
                .as_array()
                .unwrap()
                .iter()
                .zip(value.as_array().into_iter().flatten())
                .find_map(|(node, item)| refusal(item, node, schema)),
            "minItems" => {
                let n_items = value.as_array().map(|items| items.len() as u64);
                (n_items < says.as_u64() && value.is_array()).then(|| format!("{value} has too few items"))
            }
            "maxItems" => {
                let n_items = value.as_array().map(|items| items.len() as u64);
                (n_items > says.as_u64() && value.is_array()).then(|| format!("{value} has too many items"))
            }
            "anyOf" | "oneOf" => {
                let refusals: Vec<_> = says
                    .as_array()
                    .unwrap()
                    .iter()
                    .filter_map(|node| refusal(value, node, schema))
                    .collect();
                let n_fit = says.as_array().unwrap().len() - refusals.len();
                let fits = n_fit == 1 || keyword == "anyOf" && n_fit > 1;
                (!fits).then(|| format!("{n_fit} of {keyword} fit: {}", refusals.join(" / ")))
            }
            "description" | "title" | "format" | "default" | "additionalProperties" => None,
            other => panic!("the check does not know {other:?}"),
        };
        if refused.is_some() {
            return refused;
        }
    }
    None
}
