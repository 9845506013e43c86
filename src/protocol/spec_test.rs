//! Holds `spec.md` and the code together, both ways.
#![cfg(test)]
#![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value as Json, json};

use super::{
    CloseCode, Compression, ServerMessage, decode_binary_message, decode_client_message, decode_server_message,
    encode_message,
};
use crate::error::ErrorCode;

pub(super) const SPEC: &str = include_str!("spec.md");

/// The specification by sections: the heading of level 2 or 3, and the text below it.
fn sections() -> Vec<(&'static str, &'static str)> {
    SPEC.split("\n##")
        .skip(1)
        .map(|section| {
            let section = section.trim_start_matches('#').trim_start();
            section.split_once('\n').unwrap()
        })
        .collect()
}

pub(super) fn section(heading: &str) -> &'static str {
    let found = sections().into_iter().find(|(found, _)| *found == heading);
    found.unwrap_or_else(|| panic!("no section {heading:?}")).1
}

/// Whose messages a chapter describes. One name stands in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chapter {
    Client,
    Server,
}

/// The sections of a chapter, by the name of their message.
pub(super) fn chapter(chapter: Chapter) -> impl Iterator<Item = (&'static str, &'static str)> {
    let heading = match chapter {
        Chapter::Client => "3. Messages of a client",
        Chapter::Server => "4. Messages of a server",
    };
    sections()
        .into_iter()
        .skip_while(move |(found, _)| *found != heading)
        .skip(1)
        .map_while(|(heading, text)| Some((heading.strip_prefix('`')?.strip_suffix('`')?, text)))
}

/// The cells of each row of the tables in a section, without the headings and the rules.
pub(super) fn table_rows(text: &str) -> Vec<Vec<String>> {
    text.lines()
        .filter(|line| line.starts_with('|') && !line.starts_with("|---"))
        .map(|line| {
            line.trim_matches('|')
                .split(" | ")
                .map(|cell| cell.trim().to_owned())
                .collect()
        })
        .filter(|cells: &Vec<String>| {
            !matches!(
                cells[0].as_str(),
                "field" | "header field" | "token" | "declared" | "code" | "limit" | "value" | "crossing"
            )
        })
        .collect()
}

/// The messages of a chapter, by name, with their examples.
pub(super) fn messages(of: Chapter) -> BTreeMap<&'static str, Json> {
    chapter(of)
        .map(|(name, text)| {
            let (_, example) = text
                .split_once("```json\n")
                .unwrap_or_else(|| panic!("{name} has no example"));
            let example = example.split_once("\n```").unwrap().0;
            let example = serde_json::from_str(example).unwrap_or_else(|error| panic!("{name}: {error}"));
            (name, example)
        })
        .collect()
}

/// The fields that a message's tables list; true for those that may be absent.
fn fields(of: Chapter, name: &str) -> BTreeMap<String, bool> {
    let (_, text) = chapter(of).find(|(found, _)| *found == name).unwrap();
    table_rows(text)
        .into_iter()
        .map(|cells| {
            let optional = cells[0].ends_with('?');
            (cells[0].trim_matches(['`', '?']).to_owned(), optional)
        })
        .collect()
}

pub(super) const CLIENT_MESSAGES: [&str; 12] = [
    "stream_query",
    "cancel_query",
    "ack",
    "pause_query",
    "unpause_query",
    "resume_query",
    "set_priority",
    "query_status",
    "list_queries",
    "ping",
    "describe_query",
    "hello",
];
pub(super) const SERVER_MESSAGES: [&str; 17] = [
    "welcome",
    "query_description",
    "query_queued",
    "query_started",
    "query_columns",
    "query_batch",
    "query_progress",
    "query_completed",
    "query_cancelled",
    "query_paused",
    "query_unpaused",
    "query_resumed",
    "query_status",
    "query_list",
    "error",
    "goaway",
    "pong",
];

#[test]
fn each_message_has_a_section_and_each_section_a_message() {
    let documented = |of| messages(of).into_keys().collect::<BTreeSet<&str>>();
    assert_eq!(documented(Chapter::Client), CLIENT_MESSAGES.into());
    assert_eq!(documented(Chapter::Server), SERVER_MESSAGES.into());
}

#[test]
fn examples_of_servers_are_what_the_code_writes() {
    for (name, example) in messages(Chapter::Server) {
        let message = decode_server_message(&example.to_string()).unwrap();
        let message = message.unwrap_or_else(|| panic!("{name} is not known"));
        let mut encoded = Vec::new();
        encode_message(&message, &mut encoded);
        let encoded: Json = serde_json::from_slice(&encoded).unwrap();
        assert_eq!(encoded, example, "{name}");
    }
}

#[test]
fn examples_of_servers_show_the_fields_that_the_tables_list() {
    for name in SERVER_MESSAGES {
        let example = messages(Chapter::Server)[name].clone();
        let shown: BTreeSet<String> = example.as_object().unwrap().keys().cloned().collect();
        let listed = fields(Chapter::Server, name);
        let column_fields = ["name", "label", "db_type", "nullable", "encoding"];
        for field in &shown {
            assert!(
                listed.contains_key(field),
                "{name}: {field} is in the example and not in the table"
            );
        }
        for (field, optional) in &listed {
            let elsewhere = *optional || column_fields.contains(&field.as_str());
            assert!(
                elsewhere || shown.contains(field),
                "{name}: {field} is in the table and not in the example"
            );
        }
        // Each field that must be there is one that the code insists on.
        for (field, _) in listed
            .iter()
            .filter(|(field, optional)| !**optional && shown.contains(*field))
        {
            let mut without = example.clone();
            without.as_object_mut().unwrap().remove(field);
            let nullable = example[field].is_null()
                || [
                    "columns",
                    "estimated_rows",
                    "percentage",
                    "last_batch",
                    "read_only",
                    "raw_bytes",
                ]
                .contains(&field.as_str());
            let nullable = nullable || field == "time_to_first_row_ms";
            assert!(
                nullable || decode_server_message(&without.to_string()).is_err(),
                "{name}: {field} may be absent"
            );
        }
    }
}

#[test]
fn columns_are_as_their_table_says() {
    let columns = &messages(Chapter::Server)["query_started"]["columns"];
    let mut shown = BTreeSet::new();
    for column in columns.as_array().unwrap() {
        shown.extend(column.as_object().unwrap().keys().cloned());
    }
    let all = ["name", "label", "type", "db_type", "nullable", "encoding"].map(str::to_owned);
    assert_eq!(shown, BTreeSet::from(all.clone()));
    let listed = fields(Chapter::Server, "query_started");
    assert!(all.iter().all(|field| listed.contains_key(field)));
}

#[test]
fn examples_of_clients_are_understood_and_their_fields_listed() {
    for name in CLIENT_MESSAGES {
        let example = messages(Chapter::Client)[name].clone();
        decode_client_message(&example.to_string()).unwrap();
        for field in example.as_object().unwrap().keys() {
            assert!(fields(Chapter::Client, name).contains_key(field), "{name}: {field}");
        }
    }
}

#[test]
fn each_field_of_a_client_is_read() {
    // A value of a wrong type shows whether the code looks at the field at all.
    for (name, example) in messages(Chapter::Client) {
        for (field, _) in fields(Chapter::Client, name) {
            if field == "timestamp" {
                continue; // anything goes
            }
            let mut message = example.clone();
            // The names of a stream are looked at in turn.
            if ["request_id", "query_id"].contains(&field.as_str()) {
                message.as_object_mut().unwrap().remove("stream_id");
            }
            message[&field] = json!([[]]);
            let refused = decode_client_message(&message.to_string());
            assert!(refused.is_err(), "{name}: {field} is listed and not read");
        }
    }
}

#[test]
fn the_error_table_is_the_codes() {
    let listed: Vec<Vec<String>> = table_rows(section("5. Errors"))
        .into_iter()
        .filter(|cells| cells.len() == 4)
        .collect();
    let known: Vec<Vec<String>> = ErrorCode::all()
        .map(|code| {
            let scope = serde_json::to_value(code.scope()).unwrap();
            let retryable = if code.is_retryable() { "yes" } else { "no" };
            vec![
                format!("`{code}`"),
                scope.as_str().unwrap().to_owned(),
                retryable.to_owned(),
                code.text().to_owned(),
            ]
        })
        .collect();
    assert_eq!(listed, known);
}

#[test]
fn the_close_codes_listed_are_the_codes() {
    let listed: BTreeSet<u16> = table_rows(section("5. Errors"))
        .into_iter()
        .filter(|cells| cells.len() == 2)
        .map(|cells| cells[0].parse().unwrap())
        .collect();
    let used = [
        CloseCode::Normal,
        CloseCode::GoingAway,
        CloseCode::ProtocolError,
        CloseCode::InvalidPayload,
        CloseCode::PolicyViolation,
        CloseCode::MessageTooBig,
        CloseCode::ServiceRestart,
        CloseCode::TryAgainLater,
        CloseCode::BadMessages,
        CloseCode::Unauthenticated,
        CloseCode::Forbidden,
        CloseCode::AuthTimeout,
        CloseCode::TooMany,
    ];
    assert_eq!(listed, used.map(CloseCode::number).into());
}

/// The example of a binary message's header, which the text form must not have.
#[test]
fn the_header_of_a_binary_message_is_as_its_section_says() {
    let text = section("7. Binary messages");
    let example = text.split_once("```json\n").unwrap().1.split_once("\n```").unwrap().0;
    let mut message = u32::try_from(example.len()).unwrap().to_be_bytes().to_vec();
    message.extend_from_slice(example.as_bytes());
    message.extend_from_slice(br#"[[18,"Ada"],[19,null]]"#);
    let header: Json = serde_json::from_str(example).unwrap();
    let payload_bytes = message.len() - 4 - example.len();
    assert_eq!(header["uncompressed_bytes"], payload_bytes);
    assert!(matches!(
        decode_binary_message(&message, 100),
        Ok(Some(ServerMessage::QueryBatch(_)))
    ));
    let (of_header, _of_arrow) = text.split_once("| declared |").unwrap();
    let listed: BTreeSet<String> = table_rows(of_header)
        .into_iter()
        .map(|cells| cells[0].trim_matches('`').to_owned())
        .collect();
    let of_text = fields(Chapter::Server, "query_batch");
    for field in header.as_object().unwrap().keys() {
        assert!(listed.contains(field) != of_text.contains_key(field), "{field}");
    }
    for codec in Compression::OFFERED {
        assert!(text.contains(&format!("`{}`", codec.as_str())), "{codec:?}");
    }
}
