//! Runs every vector under `tests/vectors` against a server, as the README there tells others to.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Instant;
use std::{fs, io};

use rowstream::engine::memory::Script;
use rowstream::engine::sqlite::SqliteEngine;
use rowstream::{MemoryEngine, Server, ServerHandle, StreamingConfig};
use rusqlite::Connection;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tempfile::TempDir;
use tungstenite::Message;

use crate::schema_check::refusal;
use crate::support::{DEADLINE, Plain};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")
}

fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> T {
    let text = fs::read_to_string(path).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What a transcript has of the server that is not as the README describes it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Setup {
    workers: Option<usize>,
    streams: Option<usize>,
    queries_waiting: Option<usize>,
    engine: Option<SetupEngine>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SetupEngine {
    LateColumns,
}

/// A server as the README describes it: an empty SQLite database, all limits at their defaults, but for what `setup` has.
pub(crate) fn serve(setup: &Setup) -> (TempDir, ServerHandle) {
    let folder = TempDir::new().unwrap();
    let mut server = Server::builder().listen("127.0.0.1:0");
    server = match setup.engine {
        Some(SetupEngine::LateColumns) => {
            let script = Script::new(["n"]).columns_late().row([1.into()]);
            server.engine("main", MemoryEngine::builder().query("SELECT 1 AS n", script).build())
        }
        None => {
            let path = folder.path().join("empty.db");
            Connection::open(&path).unwrap().execute_batch("VACUUM").unwrap();
            server.engine("main", SqliteEngine::open(&path).unwrap())
        }
    };
    if let Some(n_workers) = setup.workers {
        server = server.workers(n_workers);
    }
    if let Some(n_streams) = setup.streams {
        server = server.streams_per_connection_max(n_streams);
    }
    if let Some(queries_waiting_max) = setup.queries_waiting {
        let mut streaming = StreamingConfig::default();
        streaming.queries_waiting_max = queries_waiting_max;
        server = server.streaming(streaming);
    }
    (folder, server.start().unwrap())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Values {
    #[serde(rename = "description")]
    _description: String,
    cases: Vec<ValueCase>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ValueCase {
    name: String,
    sql: String,
    params: Option<Box<RawValue>>,
    int64: Option<String>,
    row_format: Option<String>,
    text_errors: Option<String>,
    #[serde(default)]
    cell_types: bool,
    expect: ValueExpectation,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ValueExpectation {
    columns: Option<Value>,
    rows: Option<String>,
    cell_types: Option<Value>,
    error: Option<String>,
}

/// A batch whose rows are left as they were written.
#[derive(Deserialize)]
struct RawBatch<'a> {
    #[serde(borrow)]
    rows: &'a RawValue,
}

/// Fails where the schema on file does not describe this message, or one of its fields.
#[track_caller]
fn check_described(message: &Value, name: &str) {
    let schema: Value = serde_json::from_str(include_str!("../../src/protocol/schema.json")).unwrap();
    let refused = refusal(message, &schema["$defs"][name], &schema);
    assert_eq!(refused, None, "{name}: {message}");
}

fn next_text(client: &mut Plain) -> String {
    match client.next_raw() {
        Message::Text(text) => text.to_string(),
        other => panic!("not a text message: {other:?}"),
    }
}

impl ValueCase {
    /// As it goes out, digit for digit: a number of the file is not read and written anew.
    fn message(&self) -> String {
        let mut message = format!(
            r#"{{"type":"stream_query","progress_interval_ms":0,"query":{}"#,
            json!(self.sql)
        );
        if let Some(params) = &self.params {
            message += &format!(r#","params":{}"#, params.get());
        }
        if let Some(int64) = &self.int64 {
            message += &format!(r#","int64":{}"#, json!(int64));
        }
        if let Some(text_errors) = &self.text_errors {
            message += &format!(r#","text_errors":{}"#, json!(text_errors));
        }
        if self.cell_types {
            message += r#","cell_types":true"#;
        }
        let row_format = self.row_format.as_deref().unwrap_or("array");
        message + &format!(r#","row_format":{}}}"#, json!(row_format))
    }

    fn run(&self, client: &mut Plain) {
        client.send_text(&self.message());
        let (mut columns, mut rows, mut cell_types) = (Value::Null, Vec::new(), None);
        let error = loop {
            let text = next_text(client);
            let message: Value = serde_json::from_str(&text).unwrap();
            match message["type"].as_str().unwrap() {
                "query_started" | "query_columns" => columns = message["columns"].clone(),
                "query_batch" => {
                    let rows_text = serde_json::from_str::<RawBatch<'_>>(&text).unwrap().rows.get();
                    rows.push(rows_text[1..rows_text.len() - 1].to_owned());
                    cell_types = message.get("cell_types").cloned();
                }
                "query_completed" => break None,
                "error" => break Some(message["code"].as_str().unwrap().to_owned()),
                "query_queued" => {}
                other => panic!("{}: {other}", self.name),
            }
        };
        assert_eq!(error, self.expect.error, "{}", self.name);
        if let Some(expected) = &self.expect.rows {
            assert_eq!(format!("[{}]", rows.join(",")), *expected, "{}", self.name);
        }
        assert_eq!(cell_types, self.expect.cell_types, "{}", self.name);
        if let Some(expected) = &self.expect.columns {
            let matched = Bindings::default().check(expected, Some(&columns));
            assert_eq!(matched, Ok(()), "{}", self.name);
        }
    }
}

#[test]
fn values_are_written_as_the_vectors_say() {
    let Values { cases, .. } = read(&folder().join("values.json"));
    let (_folder, server) = serve(&Setup::default());
    let mut client = Plain::connect(&server);
    for case in cases {
        case.run(&mut client);
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Transcript {
    #[serde(rename = "description")]
    _description: String,
    /// Capabilities without which it cannot be run.
    #[serde(default)]
    requires: Vec<String>,
    #[serde(default)]
    pub(crate) server: Setup,
    pub(crate) steps: Vec<Step>,
}

impl Transcript {
    /// Whether it can be run against a server that offers this.
    pub(crate) fn is_for(&self, offered: &[Value]) -> bool {
        self.requires.iter().all(|name| offered.contains(&json!(name)))
    }
}

/// All of them, by their files.
pub(crate) fn transcripts() -> Vec<(PathBuf, Transcript)> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder().join("transcripts"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() >= 45, "{} transcripts", files.len());
    files
        .into_iter()
        .map(|file| {
            let transcript = read(&file);
            (file, transcript)
        })
        .collect()
}

/// What is done, and on which connection.
#[derive(Debug, Deserialize)]
#[serde(try_from = "serde_json::Map<String, Value>")]
pub(crate) struct Step {
    connection: String,
    act: Act,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Act {
    Connect { subprotocol: Option<String> },
    Client(Value),
    ClientText(String),
    ClientBinaryHex(String),
    Server(Value),
    ServerInAnyOrder(Vec<Value>),
    ServerBinary { header: Value, rows: Option<Value> },
    Disconnect {},
    ServerCloses(u16),
}

impl TryFrom<serde_json::Map<String, Value>> for Step {
    type Error = serde_json::Error;

    fn try_from(mut fields: serde_json::Map<String, Value>) -> Result<Self, Self::Error> {
        let connection = fields.remove("connection").map(serde_json::from_value).transpose()?;
        Ok(Self {
            connection: connection.unwrap_or_default(),
            act: serde_json::from_value(Value::Object(fields))?,
        })
    }
}

impl Step {
    /// The type of the message that a client says.
    fn said(&self) -> Option<String> {
        match &self.act {
            Act::Client(message) => Some(message["type"].as_str()?.to_owned()),
            _ => None,
        }
    }
}

/// What placeholders stand for, by their names.
#[derive(Debug, Default, Clone)]
struct Bindings(BTreeMap<String, Value>);

impl Bindings {
    /// Whether `found` is what `expected` describes; placeholders with names are bound by the way.
    fn check(&mut self, expected: &Value, found: Option<&Value>) -> Result<(), String> {
        let wrong = || Err(format!("expected {expected}, found {found:?}"));
        match (expected, found) {
            (Value::String(text), found) if text.starts_with('$') && !text.starts_with("$$") => {
                let (kind, name) = text
                    .split_once(':')
                    .map_or((&**text, None), |(kind, name)| (kind, Some(name)));
                let fits = match (kind, found) {
                    ("$absent", found) => found.is_none(),
                    (_, None) => false,
                    ("$any", Some(_)) => true,
                    ("$integer", Some(value)) => value.is_u64() || value.is_i64(),
                    ("$number", Some(value)) => value.is_number(),
                    ("$boolean", Some(value)) => value.is_boolean(),
                    ("$string", Some(value)) => value.is_string(),
                    ("$id", Some(value)) => value.as_str().is_some_and(is_uuid),
                    (other, _) => panic!("no placeholder is called {other}"),
                };
                let (Some(name), Some(found)) = (name, found) else {
                    return if fits { Ok(()) } else { wrong() };
                };
                let bound = self.0.entry(name.to_owned()).or_insert_with(|| found.clone());
                if fits && bound == found { Ok(()) } else { wrong() }
            }
            (Value::String(text), Some(Value::String(found))) => {
                let text = text.strip_prefix('$').unwrap_or(text);
                if text == found { Ok(()) } else { wrong() }
            }
            (Value::Object(expected), Some(found @ Value::Object(_))) => {
                expected.iter().try_for_each(|(field, value)| {
                    self.check(value, found.get(field))
                        .map_err(|why| format!("{field}: {why}"))
                })
            }
            (Value::Array(expected), Some(Value::Array(found))) if expected.len() == found.len() => expected
                .iter()
                .zip(found)
                .try_for_each(|(expected, found)| self.check(expected, Some(found))),
            (expected, Some(found)) if expected == found => Ok(()),
            _ => wrong(),
        }
    }

    /// A message of the client with what is bound in the place of placeholders.
    fn fill(&self, template: &Value) -> Value {
        match template {
            Value::String(text) if text.starts_with("$$") => json!(text[1..]),
            Value::String(text) if text.starts_with('$') => {
                let (_, name) = text.split_once(':').expect("a client's placeholder has a name");
                self.0
                    .get(name)
                    .unwrap_or_else(|| panic!("{name} is not bound"))
                    .clone()
            }
            Value::Array(items) => items.iter().map(|item| self.fill(item)).collect(),
            Value::Object(fields) => {
                let filled = fields.iter().map(|(name, value)| (name.clone(), self.fill(value)));
                Value::Object(filled.collect())
            }
            other => other.clone(),
        }
    }
}

fn is_uuid(text: &str) -> bool {
    let is_hex = |part: &str| part.bytes().all(|byte| byte.is_ascii_hexdigit());
    text.split('-').map(str::len).eq([8, 4, 4, 4, 12]) && text.split('-').all(is_hex)
}

/// The next message in text, without those that may come at any time.
fn next_message(client: &mut Plain, expected: &[Value]) -> Value {
    loop {
        let message: Value = serde_json::from_str(&next_text(client)).unwrap();
        check_described(&message, "ServerMessage");
        let is_asked = expected.iter().any(|expected| expected["type"] == message["type"]);
        if is_asked || message["type"] != "query_queued" && message["type"] != "query_progress" {
            return message;
        }
    }
}

/// The JSON text in a binary message's payload, decompressed.
fn payload_text(codec: &str, payload: &[u8]) -> String {
    let text = match codec {
        "none" => io::read_to_string(payload),
        "deflate-raw" => io::read_to_string(flate2::read::DeflateDecoder::new(payload)),
        "gzip" => io::read_to_string(flate2::read::GzDecoder::new(payload)),
        #[cfg(feature = "compression")]
        "zstd" => io::read_to_string(zstd::Decoder::new(payload).unwrap()),
        #[cfg(feature = "compression")]
        "lz4" => io::read_to_string(lz4_flex::frame::FrameDecoder::new(payload)),
        other => panic!("no codec is called {other}"),
    };
    text.unwrap()
}

fn check_binary(bindings: &mut Bindings, message: &[u8], header: &Value, rows: Option<&Value>) -> Result<(), String> {
    let (length, rest) = message.split_first_chunk::<4>().unwrap();
    let (found, payload) = rest.split_at(u32::from_be_bytes(*length) as usize);
    let found: Value = serde_json::from_slice(found).unwrap();
    check_described(&found, "ServerQueryBatchHeader");
    bindings.check(header, Some(&found))?;
    if let Some(rows) = rows {
        let text = payload_text(found["compression"].as_str().unwrap(), payload);
        assert_eq!(found["uncompressed_bytes"], text.len());
        bindings.check(rows, Some(&serde_json::from_str(&text).unwrap()))?;
    }
    Ok(())
}

/// By their names.
type Clients = BTreeMap<String, Plain>;

/// Takes a step; says what was wrong with what the server said.
fn take(step: &Step, server: &ServerHandle, clients: &mut Clients, bindings: &mut Bindings) -> Result<(), String> {
    let Step { connection, act } = step;
    if let Act::Connect { subprotocol } = act {
        let headers = subprotocol.as_deref().map(|name| ("sec-websocket-protocol", name));
        clients.insert(connection.clone(), Plain::connect_with(server, headers.as_slice()));
        return Ok(());
    }
    if matches!(act, Act::Disconnect {}) {
        clients.remove(connection);
        return Ok(());
    }
    let client = clients.get_mut(connection).ok_or("there is no such connection")?;
    match act {
        Act::Connect { .. } | Act::Disconnect {} => {}
        Act::Client(message) => client.send(&bindings.fill(message)),
        Act::ClientText(text) => client.send_text(text),
        Act::ClientBinaryHex(digits) => client.send_raw(Message::Binary(bytes_of_hex(digits).into())),
        Act::Server(expected) => {
            let mut checked = Err("no message came".to_owned());
            let end = Instant::now() + DEADLINE;
            while checked.is_err() && Instant::now() < end {
                let found = next_message(client, std::slice::from_ref(expected));
                checked = bindings
                    .check(expected, Some(&found))
                    .map_err(|why| format!("{why}\nin {found}"));
                if found["type"] != "query_progress" {
                    break;
                }
            }
            checked?;
        }
        Act::ServerInAnyOrder(expected) => {
            let mut missing = expected.clone();
            while !missing.is_empty() {
                let found = next_message(client, &missing);
                let fitting = missing.iter().position(|expected| {
                    let mut tried = bindings.clone();
                    let fits = tried.check(expected, Some(&found)).is_ok();
                    if fits {
                        *bindings = tried;
                    }
                    fits
                });
                missing.remove(fitting.ok_or_else(|| format!("{found} is none of {missing:?}"))?);
            }
        }
        Act::ServerBinary { header, rows } => match client.next_raw() {
            Message::Binary(message) => check_binary(bindings, &message, header, rows.as_ref())?,
            other => return Err(format!("not a binary message: {other}")),
        },
        Act::ServerCloses(code) => {
            let found = client.recv_close();
            if found != *code {
                return Err(format!("closed with {found}"));
            }
        }
    }
    Ok(())
}

fn bytes_of_hex(digits: &str) -> Vec<u8> {
    let pairs = digits.as_bytes().chunks(2);
    pairs
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// The capabilities of the server.
pub(crate) fn offered() -> Vec<Value> {
    let (_folder, server) = serve(&Setup::default());
    let mut client = Plain::connect(&server);
    client.send(&json!({"type": "hello"}));
    let welcome = next_message(&mut client, &[]);
    welcome["capabilities"].as_array().unwrap().clone()
}

#[test]
fn transcripts_go_as_they_are_written() {
    let offered = offered();
    let mut failed = Vec::new();
    let mut said = BTreeSet::new();
    for (file, transcript) in transcripts() {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        if !transcript.is_for(&offered) {
            continue;
        }
        let (_folder, server) = serve(&transcript.server);
        let (mut clients, mut bindings) = (Clients::default(), Bindings::default());
        said.extend(transcript.steps.iter().filter_map(Step::said));
        for (number, step) in transcript.steps.iter().enumerate() {
            if let Err(why) = take(step, &server, &mut clients, &mut bindings) {
                failed.push(format!("{name}, step {number}: {why}"));
                break;
            }
        }
    }
    assert!(failed.is_empty(), "\n{}", failed.join("\n"));
    // The schema names every message of a client; one more comes from nobody's protocol.
    let schema: Value = serde_json::from_str(include_str!("../../src/protocol/schema.json")).unwrap();
    let n_messages = schema["$defs"]["ClientMessage"]["oneOf"].as_array().unwrap().len();
    assert_eq!(said.len(), n_messages + 1, "{said:?}");
}

#[track_caller]
fn check_match(expected: Value, found: Value, fits: bool) {
    let result = Bindings::default().check(&expected, Some(&found));
    assert_eq!(result.is_ok(), fits, "{expected} {found}: {result:?}");
}

#[test]
fn the_matcher_does_what_the_readme_says() {
    check_match(json!({"a": 1}), json!({"a": 1, "b": 2}), true);
    check_match(json!({"a": 1}), json!({"b": 2}), false);
    check_match(json!({"a": "$absent"}), json!({"b": 2}), true);
    check_match(json!({"a": "$absent"}), json!({"a": null}), false);
    check_match(json!({"a": "$any"}), json!({"a": null}), true);
    check_match(json!({"a": "$any"}), json!({}), false);
    check_match(json!([1]), json!([1, 2]), false);
    check_match(json!(["$integer:x", "$integer:x"]), json!([7, 7]), true);
    check_match(json!(["$integer:x", "$integer:x"]), json!([7, 8]), false);
    check_match(json!("$integer"), json!(1.5), false);
    check_match(json!("$number"), json!(1.5), true);
    check_match(json!("$id"), json!("7f1b4c1e-5a0e-4a53-9d8f-1c5f5f1f4f10"), true);
    check_match(json!("$id"), json!("7f1b4c1e"), false);
    check_match(json!("$$id"), json!("$id"), true);
}
