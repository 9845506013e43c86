//! Makes `schema.json` and `asyncapi.json` out of the types, and holds them, `spec.md` and the code together.
//!
//! `ROWSTREAM_WRITE_SCHEMA=1 cargo test --lib protocol::schema_test` writes both anew.
#![cfg(test)]
#![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value as Json, json};

use super::schema_check_test::{referred, refusal};
use super::schema_client_test as wire;
use super::spec_test::{CLIENT_MESSAGES, Chapter, SERVER_MESSAGES, chapter, messages, section, table_rows};
use super::{
    BatchHeader, BinaryEnvelope, Compression, DataFormat, ServerMessage, decode_client_message, decode_server_message,
};
use crate::error::ErrorCode;
use crate::id::StreamId;

const WRITE: &str = "ROWSTREAM_WRITE_SCHEMA";

/// A message's name in the schema and in TypeScript: `ServerQueryBatch`.
fn def_name(side: &str, message: &str) -> String {
    let words = message.split('_').map(|word| {
        let (first, rest) = word.split_at(1);
        first.to_uppercase() + rest
    });
    side.to_owned() + &words.collect::<String>()
}

fn reference(name: &str) -> Json {
    json!({"$ref": format!("#/$defs/{name}")})
}

/// Adds the definitions of one side's messages, one for each, and the union of them.
fn add_side<T: JsonSchema>(settings: SchemaSettings, side: &str, defs: &mut Map<String, Json>) {
    let root = settings.into_generator().into_root_schema_for::<T>().to_value();
    let found = root["$defs"].as_object().unwrap();
    let mut members = Vec::new();
    for variant in root["oneOf"].as_array().unwrap() {
        let tag = variant["properties"]["type"].clone();
        let name = def_name(side, tag["const"].as_str().unwrap());
        let mut def = found[referred(variant).unwrap()].clone();
        def["description"] = variant["description"].clone();
        let mut required = vec![json!("type")];
        required.extend(def["required"].as_array().into_iter().flatten().cloned());
        def["required"] = required.into();
        def["properties"]["type"] = tag;
        members.push(reference(&name));
        assert!(defs.insert(name, def).is_none(), "two messages of one name");
    }
    let union = json!({"description": root["description"], "oneOf": members});
    defs.insert(format!("{side}Message"), union);
    for (name, def) in found {
        let before = defs.insert(name.clone(), def.clone());
        // A shared type reads the same from both sides.
        assert!(before.is_none_or(|before| before == *def), "{name} is two things");
    }
}

/// The header of a binary batch: the batch without rows, and what is in their place.
fn add_header(defs: &mut Map<String, Json>) {
    let settings = SchemaSettings::draft2020_12().for_serialize();
    let fields = settings.into_generator().into_root_schema_for::<wire::BinaryFields>();
    let fields = fields.to_value();
    let mut header = defs["ServerQueryBatch"].clone();
    header["description"] = json!("The JSON header of a `query_batch` in a binary message.");
    let properties = header["properties"].as_object_mut().unwrap();
    properties.remove("rows");
    properties.remove("cell_types");
    properties.extend(fields["properties"].as_object().unwrap().clone());
    let required = header["required"].as_array_mut().unwrap();
    required.retain(|field| field != "rows");
    required.extend(fields["required"].as_array().unwrap().iter().cloned());
    defs.extend(fields["$defs"].as_object().unwrap().clone());
    defs.insert("ServerQueryBatchHeader".to_owned(), header);
}

fn mark_referred(node: &Json, defs: &Map<String, Json>, marked: &mut BTreeSet<String>) {
    if let Some(name) = referred(node)
        && marked.insert(name.to_owned())
    {
        mark_referred(&defs[name], defs, marked);
    }
    match node {
        Json::Object(object) => object.values().for_each(|node| mark_referred(node, defs, marked)),
        Json::Array(list) => list.iter().for_each(|node| mark_referred(node, defs, marked)),
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => {}
    }
}

/// What a type says of Rust, put as what it says of JSON: `None` is null where the field must be there, and absence where not.
fn put_as_json(name: &str, def: &mut Json) {
    let text = def["description"].as_str().unwrap_or_default();
    def["description"] = json!(text.split("\n\n").next());
    let required = def["required"].clone();
    let Some(properties) = def.get_mut("properties").and_then(Json::as_object_mut) else {
        return;
    };
    for (field, property) in properties {
        // In the part of `query_progress` that is there as a whole or not at all.
        let nullable_part = ["eta_ms", "percentage_delivered", "total_rows"];
        let is_nullable_part = name == "ServerQueryProgress" && nullable_part.contains(&field.as_str());
        let is_required = required.as_array().is_some_and(|all| all.contains(&json!(field)));
        let is_nullable = is_required || is_nullable_part || name.starts_with("Client") || name == "WindowRequest";
        if let Some(text) = property.get("description").and_then(Json::as_str) {
            let none = if is_nullable { "null" } else { "absent" };
            property["description"] = json!(text.replace("`None`", none));
        }
        if is_nullable {
            continue;
        }
        if let Some([one, null]) = property["type"].as_array().map(Vec::as_slice) {
            assert_eq!(null, "null");
            property["type"] = one.clone();
        }
        if let Some([one, null]) = property["anyOf"].as_array().map(Vec::as_slice) {
            assert_eq!(null["type"], "null");
            let one = one.clone();
            property.as_object_mut().unwrap().remove("anyOf");
            property["$ref"] = one["$ref"].clone();
        }
        property.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    }
}

fn schema() -> Json {
    let mut defs = Map::new();
    add_side::<wire::ClientMessage>(SchemaSettings::draft2020_12(), "Client", &mut defs);
    add_side::<ServerMessage>(SchemaSettings::draft2020_12().for_serialize(), "Server", &mut defs);
    add_header(&mut defs);
    let any_of = [
        reference("ClientMessage"),
        reference("ServerMessage"),
        reference("ServerQueryBatchHeader"),
    ];
    let mut root = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "rowstream.v1",
        "description": "The messages of the rowstream protocol, version 1. spec.md says what they mean.",
        "anyOf": any_of,
    });
    let mut marked = BTreeSet::new();
    mark_referred(&root, &defs, &mut marked);
    defs.retain(|name, _| marked.contains(name));
    for (name, def) in &mut defs {
        put_as_json(name, def);
    }
    root["$defs"] = defs.into();
    root
}

fn asyncapi(schema: &Json) -> Json {
    let mut components = Map::new();
    let mut in_channel = Map::new();
    let mut add = |side: &str, message: &str| {
        let name = def_name(side, message);
        let summary = schema["$defs"][&name]["description"].clone();
        let payload = json!({"$ref": format!("./schema.json#/$defs/{name}")});
        let content_type = "application/json";
        components.insert(
            name.clone(),
            json!({"name": message, "summary": summary, "contentType": content_type, "payload": payload}),
        );
        in_channel.insert(name.clone(), json!({"$ref": format!("#/components/messages/{name}")}));
        json!({"$ref": format!("#/channels/ws/messages/{name}")})
    };
    let from_clients: Vec<Json> = CLIENT_MESSAGES.map(|message| add("Client", message)).into();
    let mut from_servers: Vec<Json> = SERVER_MESSAGES.map(|message| add("Server", message)).into();
    from_servers.push(add("Server", "query_batch_header"));
    let header = &mut components["ServerQueryBatchHeader"];
    header["name"] = json!("query_batch");
    header["contentType"] = json!("application/octet-stream");
    header["description"] = json!(
        "A binary message: the header's length as a big-endian u32, the header, and the payload. The schema is that of the header."
    );
    let close_codes = table_rows(section("5. Errors"))
        .into_iter()
        .filter(|cells| cells.len() == 2)
        .map(|cells| format!("{}: {}", cells[0], cells[1]))
        .collect::<Vec<_>>();
    let channel = format!(
        "One WebSocket (RFC 6455) for any number of queries. A client may offer the subprotocol `rowstream.v1`, and gets `welcome` \
         as the first message then; one that offers only others is refused with HTTP 400. Each message is one JSON object in one \
         text message, but for batches in binary messages. Close codes: {}.",
        close_codes.join("; ")
    );
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "rowstream",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Streams the results of SQL queries over WebSocket. Protocol version 1, subprotocol `rowstream.v1`; \
                            spec.md says what the messages mean.",
            "license": {"name": env!("CARGO_PKG_LICENSE")},
        },
        "defaultContentType": "application/json",
        "channels": {"ws": {
            "address": "/ws",
            "title": "The WebSocket endpoint",
            "description": channel,
            "messages": in_channel,
            "bindings": {"ws": {"method": "GET", "bindingVersion": "0.1.0"}},
        }},
        "operations": {
            "receive": {
                "action": "receive",
                "summary": "What the server takes from clients.",
                "channel": {"$ref": "#/channels/ws"},
                "messages": from_clients,
            },
            "send": {
                "action": "send",
                "summary": "What the server sends to clients.",
                "channel": {"$ref": "#/channels/ws"},
                "messages": from_servers,
            },
        },
        "components": {"messages": components},
    })
}

#[track_caller]
fn check_file(name: &str, expected: &Json, found: &str) {
    let text = serde_json::to_string_pretty(expected).unwrap() + "\n";
    if std::env::var_os(WRITE).is_some() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("src/protocol")
            .join(name);
        std::fs::write(path, text).unwrap();
    } else {
        assert!(
            text == found,
            "src/protocol/{name} is not what the types say; `{WRITE}=1 cargo test --lib protocol::schema_test` writes it anew"
        );
    }
}

#[test]
fn the_schema_on_file_is_that_of_the_types() {
    check_file("schema.json", &schema(), include_str!("schema.json"));
}

#[test]
fn the_asyncapi_document_on_file_is_that_of_the_schema() {
    check_file("asyncapi.json", &asyncapi(&schema()), include_str!("asyncapi.json"));
}

#[track_caller]
fn check_valid(value: &Json, name: &str, schema: &Json) {
    let refused = refusal(value, &schema["$defs"][name], schema);
    assert_eq!(refused, None, "{name}: {value}");
}

/// Fails where this text is no message of a client, or has a field that the schema has not.
#[track_caller]
pub(super) fn check_client_message(text: &str) {
    check_valid(&serde_json::from_str(text).unwrap(), "ClientMessage", &schema());
}

const SIDES: [(Chapter, &str); 2] = [(Chapter::Client, "Client"), (Chapter::Server, "Server")];

#[test]
fn every_example_of_the_specification_is_valid() {
    let schema = schema();
    for (side, prefix) in SIDES {
        for (name, example) in messages(side) {
            check_valid(&example, &def_name(prefix, name), &schema);
            check_valid(&example, &format!("{prefix}Message"), &schema);
            // The check is one: without its name the message is none, and not with a field that nobody knows.
            let mut other = example.clone();
            other["type"] = json!("other");
            assert!(refusal(&other, &schema["$defs"][format!("{prefix}Message")], &schema).is_some());
            other = example;
            other["unheard_of"] = json!(1);
            assert!(refusal(&other, &schema["$defs"][def_name(prefix, name)], &schema).is_some());
        }
    }
}

#[test]
fn the_header_that_is_written_is_valid() {
    let schema = schema();
    let envelope = BinaryEnvelope::new(StreamId::random(), Some(&7.into()), true);
    for checksum in [None, Some(1)] {
        let mut message = Vec::new();
        envelope.open(&mut message);
        let header = BatchHeader {
            batch_number: 0,
            row_count: 1,
            row_offset: 0,
            checksum,
            has_more: true,
            encoding: DataFormat::Arrow,
            compression: Compression::DeflateRaw,
            uncompressed_bytes: 1,
            cell_types_bytes: checksum.map(|_| 2),
        };
        envelope.close(&header, &mut message);
        for message in [super::replayed_binary(&message), message] {
            let header = serde_json::from_slice(&message[4..]).unwrap();
            check_valid(&header, "ServerQueryBatchHeader", &schema);
        }
    }
    let text = section("7. Binary messages");
    let example = text.split_once("```json\n").unwrap().1.split_once("\n```").unwrap().0;
    check_valid(
        &serde_json::from_str(example).unwrap(),
        "ServerQueryBatchHeader",
        &schema,
    );
}

/// A table's fields, each with whether it may be absent and whether it may be null.
fn table(text: &str) -> BTreeMap<String, (bool, bool)> {
    table_rows(text)
        .into_iter()
        .map(|cells| {
            let is_nullable = cells[1].ends_with(" or null");
            let name = cells[0].trim_matches(['`', '?']).to_owned();
            (name, (cells[0].ends_with('?'), is_nullable))
        })
        .collect()
}

/// The same of a definition. Clients may write null for what is absent, which their tables do not repeat for each field.
fn described(schema: &Json, name: &str) -> BTreeMap<String, (bool, bool)> {
    let def = &schema["$defs"][name];
    let required = def["required"].as_array().unwrap();
    let properties = def["properties"].as_object().unwrap().iter();
    properties
        .map(|(field, property)| {
            let is_anything = property.get("type").is_none() && property.as_object().unwrap().len() <= 1;
            let is_nullable = refusal(&Json::Null, property, schema).is_none() && !is_anything;
            let is_optional = !required.contains(&json!(field));
            (field.clone(), (is_optional, is_nullable && !name.starts_with("Client")))
        })
        .collect()
}

#[test]
fn the_tables_list_what_the_schema_has() {
    let schema = schema();
    for (side, prefix) in SIDES {
        for (name, text) in chapter(side) {
            let (text, columns) = text.split_once("\nA column:").unwrap_or((text, ""));
            assert_eq!(table(text), described(&schema, &def_name(prefix, name)), "{name}");
            if !columns.is_empty() {
                assert_eq!(table(columns), described(&schema, "Column"));
            }
        }
    }
    let (text, _of_arrow) = section("7. Binary messages").split_once("| declared |").unwrap();
    let mut header = described(&schema, "ServerQueryBatchHeader");
    let of_text = described(&schema, "ServerQueryBatch");
    header.retain(|field, _| !of_text.contains_key(field));
    assert_eq!(table(text), header);
}

#[test]
fn servers_insist_on_what_the_schema_requires_of_clients() {
    let schema = schema();
    for (name, example) in messages(Chapter::Client) {
        for (field, (is_optional, _)) in described(&schema, &def_name("Client", name)) {
            let mut message = example.clone();
            message.as_object_mut().unwrap().remove(&field);
            // Another name of the stream in its place.
            match field.as_str() {
                "stream_id" | "query_id" => message["request_id"] = json!("x"),
                "request_id" if example.get("stream_id").is_some() => message["stream_id"] = json!("x"),
                _ => {}
            }
            let decoded = decode_client_message(&message.to_string());
            assert_eq!(decoded.is_ok(), is_optional, "{name} without {field}: {decoded:?}");
            let valid = refusal(&message, &schema["$defs"][def_name("Client", name)], &schema);
            assert_eq!(valid.is_none(), is_optional, "{name} without {field}: {valid:?}");
            // And null is as good as absent.
            if is_optional {
                message[&field] = Json::Null;
                decode_client_message(&message.to_string()).unwrap();
                check_valid(&message, &def_name("Client", name), &schema);
            }
        }
    }
}

/// A value with everything that `node` describes, each optional field included.
fn instance(node: &Json, schema: &Json) -> Json {
    if let Some(name) = referred(node) {
        return instance(&schema["$defs"][name], schema);
    }
    if let Some(value) = node.get("const") {
        return value.clone();
    }
    if let Some(values) = node.get("enum") {
        return values[0].clone();
    }
    if let Some(properties) = node.get("properties").and_then(Json::as_object)
        && node.get("type").is_some()
    {
        let fields = properties.iter();
        return fields
            .map(|(name, node)| (name.clone(), instance(node, schema)))
            .collect();
    }
    if let Some(nodes) = node.get("anyOf").or_else(|| node.get("oneOf")) {
        return instance(&nodes[0], schema);
    }
    let name = node
        .get("type")
        .map(|name| name.as_array().map_or(name, |names| &names[0]));
    match name.and_then(Json::as_str) {
        Some("null") | None => Json::Null,
        Some("boolean") => json!(true),
        Some("string") if node.get("format") == Some(&json!("uuid")) => json!(StreamId::from_bytes([7; 16])),
        Some("string") => json!("x"),
        Some("integer" | "number") => json!(1),
        Some("array") => match node.get("prefixItems").and_then(Json::as_array) {
            Some(items) => items.iter().map(|item| instance(item, schema)).collect(),
            None => json!([instance(&node["items"], schema)]),
        },
        Some("object") => json!({"x": instance(&node["additionalProperties"], schema)}),
        Some(other) => panic!("type {other}"),
    }
}

/// `value` with something else in the place of each of its parts in turn: values of each shape, what is in an object as an array, and a
/// string as the only field of an object.
fn changed(value: &Json) -> Vec<Json> {
    let mut all = vec![
        json!(true),
        json!(1.5),
        json!("\u{1}"),
        json!([]),
        json!({}),
        json!([[]]),
    ];
    match value {
        Json::Object(fields) => {
            all.push(fields.values().cloned().collect());
            for (name, part) in fields {
                all.extend(changed(part).into_iter().map(|part| {
                    let mut fields = fields.clone();
                    fields[name] = part;
                    fields.into()
                }));
            }
        }
        Json::Array(items) => {
            for (idx, item) in items.iter().enumerate() {
                all.extend(changed(item).into_iter().map(|item| {
                    let mut items = items.clone();
                    items[idx] = item;
                    items.into()
                }));
            }
        }
        Json::String(text) => all.push(json!({text: null})),
        Json::Null | Json::Bool(_) | Json::Number(_) => {}
    }
    all
}

#[test]
fn what_the_schema_refuses_of_a_type_is_refused() {
    let schema = schema();
    let mut n_refused = 0;
    for (side, prefix) in SIDES {
        for (name, _) in messages(side) {
            let def = &schema["$defs"][def_name(prefix, name)];
            let whole = instance(def, &schema);
            assert_eq!(refusal(&whole, def, &schema), None, "{whole}");
            let decode = |message: &Json| match side {
                Chapter::Client => decode_client_message(&message.to_string())
                    .map(|_| ())
                    .map_err(|error| (Some(error.code), error.message)),
                Chapter::Server => decode_server_message(&message.to_string())
                    .map(|_| ())
                    .map_err(|error| (None, error.to_string())),
            };
            assert_eq!(decode(&whole), Ok(()), "{whole}");
            for (field, part) in whole.as_object().unwrap() {
                // The rows of a batch are read by whoever takes the batch.
                if field == "type" || field == "rows" {
                    continue;
                }
                for part in changed(part) {
                    let mut message = whole.clone();
                    message[field] = part;
                    let Some(why) = refusal(&message, def, &schema) else {
                        continue;
                    };
                    // Clients make do without a field that could be null.
                    if side == Chapter::Server && why.contains("is missing in") {
                        continue;
                    }
                    n_refused += 1;
                    let (code, text) = decode(&message).expect_err(&format!("{message} is taken"));
                    assert!(
                        code.is_none() || text.contains(field.as_str()) || field == "params",
                        "{message}: {text}"
                    );
                    let is_of_type = [ErrorCode::BadMessage, ErrorCode::ParameterError, ErrorCode::Unsupported];
                    assert!(
                        code.is_none_or(|code| is_of_type.contains(&code)),
                        "{message}: {code:?}"
                    );
                }
            }
            // A message is no array either, whatever is in it.
            assert!(decode(&whole.as_object().unwrap().values().cloned().collect()).is_err());
        }
    }
    assert!(n_refused > 1_000, "{n_refused}");
}

#[test]
fn what_servers_refuse_the_schema_refuses() {
    let schema = schema();
    for message in [
        json!({"type": "cancel_query", "stream_id": null}),
        json!({"type": "query_status", "stream_id": null, "request_id": null}),
        json!({"type": "ack", "stream_id": "x", "batch_number": -2}),
        json!({"type": "ack", "stream_id": "x", "batch_number": 1.5}),
        json!({"type": "stream_query", "query": 7}),
        json!({"type": "stream_query", "query": "q", "batch_size": 0}),
        json!({"type": "stream_query", "query": "q", "batch_size": "ten"}),
        json!({"type": "stream_query", "query": "q", "request_id": 1.5}),
        json!({"type": "stream_query", "query": "q", "request_id": "x".repeat(65)}),
        json!({"type": "stream_query", "query": "q", "params": "text"}),
        json!({"type": "stream_query", "query": "q", "params": [[1]]}),
        json!({"type": "stream_query", "query": "q", "params": [{"type": "unheard_of", "value": 1}]}),
        json!({"type": "stream_query", "query": "q", "params": [{"type": "blob"}]}),
        json!({"type": "stream_query", "query": "q", "format": "unheard-of"}),
        json!({"type": "stream_query", "query": "q", "row_format": "unheard-of"}),
        json!({"type": "stream_query", "query": "q", "window": 7}),
        json!({"type": "list_queries", "scope": "unheard-of"}),
        json!({"type": "hello", "token": 7}),
    ] {
        assert!(decode_client_message(&message.to_string()).is_err(), "{message}");
        let refused = refusal(&message, &schema["$defs"]["ClientMessage"], &schema);
        assert!(refused.is_some(), "the schema takes {message}");
    }
}

#[test]
fn the_codes_in_the_schema_are_all_the_codes() {
    let schema = schema();
    for code in ErrorCode::all() {
        check_valid(&json!(code), "ErrorCode", &schema);
    }
    let n_codes = schema["$defs"]["ErrorCode"]["oneOf"].as_array().unwrap().len();
    assert_eq!(n_codes, ErrorCode::all().count());
}

/// A definition's property in TypeScript.
fn typescript(node: &Json) -> String {
    let union = |nodes: &Json| {
        let parts: Vec<String> = nodes.as_array().unwrap().iter().map(typescript).collect();
        parts.join(" | ")
    };
    if let Some(name) = referred(node) {
        return name.to_owned();
    }
    if let Some(value) = node.get("const") {
        return value.to_string();
    }
    if let Some(nodes) = node.get("anyOf").or_else(|| node.get("oneOf")) {
        return union(nodes);
    }
    let of = |name: &Json| match name.as_str().unwrap() {
        "null" => "null".to_owned(),
        "boolean" => "boolean".to_owned(),
        "string" => "string".to_owned(),
        "number" | "integer" => "number".to_owned(),
        "array" if node.get("prefixItems").is_some() => {
            let items: Vec<String> = node["prefixItems"].as_array().unwrap().iter().map(typescript).collect();
            format!("[{}]", items.join(", "))
        }
        "array" => typescript(&node["items"]) + "[]",
        "object" => format!("{{ [name: string]: {} }}", typescript(&node["additionalProperties"])),
        other => panic!("type {other}"),
    };
    match node.get("type") {
        Some(Json::Array(names)) => names.iter().map(of).collect::<Vec<_>>().join(" | "),
        Some(name) => of(name),
        None => "unknown".to_owned(),
    }
}

/// The schema's definitions in TypeScript: an interface's fields by name with `?` where they may be absent, or a type under no name.
fn typescript_of_schema() -> BTreeMap<String, BTreeMap<String, String>> {
    let schema = schema();
    let defs = schema["$defs"].as_object().unwrap().iter();
    defs.map(|(name, def)| {
        let fields = def.get("properties").and_then(Json::as_object).map_or_else(
            || BTreeMap::from([(String::new(), typescript(def))]),
            |properties| {
                let required = def["required"].as_array().cloned().unwrap_or_default();
                let fields = properties.iter().map(|(field, property)| {
                    let mark = if required.contains(&json!(field)) { "" } else { "?" };
                    (format!("{field}{mark}"), typescript(property))
                });
                fields.collect()
            },
        );
        (name.clone(), fields)
    })
    .collect()
}

/// The same as the specification's appendix has it, line by line.
fn typescript_of_spec() -> BTreeMap<String, BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    let mut open: Option<(&str, BTreeMap<String, String>)> = None;
    for block in section("10. TypeScript types").split("```ts\n").skip(1) {
        for line in block.split("```").next().unwrap().lines() {
            let line = line.split(" //").next().unwrap().trim();
            if let Some(name) = line.strip_prefix("interface ") {
                open = Some((name.strip_suffix(" {").unwrap(), BTreeMap::new()));
            } else if let Some(alias) = line.strip_prefix("type ") {
                let (name, ty) = alias.trim_end_matches(';').split_once(" = ").unwrap();
                found.insert(name.to_owned(), BTreeMap::from([(String::new(), ty.to_owned())]));
            } else if line == "}" {
                let (name, fields) = open.take().unwrap();
                assert!(found.insert(name.to_owned(), fields).is_none(), "{name} is there twice");
            } else if !line.is_empty() {
                let (field, ty) = line.trim_end_matches(';').split_once(": ").unwrap();
                open.as_mut().unwrap().1.insert(field.to_owned(), ty.to_owned());
            }
        }
    }
    found
}

#[test]
fn the_typescript_of_the_specification_is_the_schema() {
    let (schema, spec) = (typescript_of_schema(), typescript_of_spec());
    assert!(schema.keys().eq(spec.keys()), "{:?}\n{:?}", schema.keys(), spec.keys());
    for (name, fields) in &schema {
        assert_eq!(spec[name], *fields, "{name}");
    }
}
