//! What the specification has for programs, held to by programs of others: `tsc`, JSON Schema's and AsyncAPI's own schemas, and the
//! transcripts as a client in another language runs them. And its figures, held to by the defaults.

use std::fmt::Write;
use std::fs;
use std::process::Command;
use std::time::Duration;

use rowstream::server::{Limits, Rate};
use rowstream::{MemoryEngine, Server, StreamingConfig};
use serde_json::Value;
use tempfile::TempDir;

use crate::interop::{Running, by_command, installed, python, root};
use crate::support::{Plain, Wire};
use crate::vectors::{offered, serve, transcripts};

/// What a command of `conformance.py` prints.
#[track_caller]
fn by_conformance(words: &[String]) -> u64 {
    let mut command = python();
    command.arg(root().join("tests/interop/conformance.py")).args(words);
    by_command(&mut command).as_u64().unwrap()
}

fn in_root(path: &str) -> String {
    root().join(path).to_str().unwrap().to_owned()
}

#[test]
fn the_documents_are_what_json_schema_and_asyncapi_say() {
    let metaschema = installed("node/node_modules/@asyncapi/specs/schemas/3.0.0.json");
    let words = [
        "documents".to_owned(),
        in_root("src/protocol/schema.json"),
        in_root("src/protocol/asyncapi.json"),
        metaschema.to_str().unwrap().to_owned(),
    ];
    let n_references = by_conformance(&words);
    assert!(n_references > 100, "{n_references}");
}

#[test]
fn a_client_of_others_runs_the_transcripts_as_the_readme_says() {
    let offered = offered();
    let mut words = vec!["transcripts".to_owned(), in_root("src/protocol/schema.json")];
    let mut servers = Vec::new();
    let mut n_steps = 0;
    for (file, transcript) in transcripts() {
        if transcript.is_for(&offered) {
            n_steps += transcript.steps.len() as u64;
            let (folder, server) = serve(&transcript.server);
            words.push(file.to_str().unwrap().to_owned());
            words.push(format!("ws://{}/ws", server.local_addr().unwrap()));
            servers.push((folder, server));
        }
    }
    assert_eq!(by_conformance(&words), n_steps);
}

/// The blocks of this language below a heading of the specification, up to the next of its level.
fn blocks<'a>(spec: &'a str, heading: &str, language: &str) -> Vec<&'a str> {
    let (_, section) = spec.split_once(&format!("\n## {heading}\n")).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let opening = format!("```{language}\n");
    let blocks = section.split(&opening).skip(1);
    blocks.map(|block| block.split("\n```").next().unwrap()).collect()
}

#[test]
fn tsc_takes_the_types_the_examples_and_a_client_that_is_exhaustive() {
    let spec = fs::read_to_string(root().join("src/protocol/spec.md")).unwrap();
    let folder = TempDir::new().unwrap();
    let types = blocks(&spec, "10. TypeScript types", "ts");
    assert_eq!(types.len(), 3);
    fs::write(folder.path().join("types.ts"), types.join("\n")).unwrap();
    let mut examples = String::new();
    for (name, ty, heading, n_examples_min) in [
        ("clientExamples", "ClientMessage", "3. Messages of a client", 12),
        ("serverExamples", "ServerMessage", "4. Messages of a server", 16),
        ("headerExamples", "ServerQueryBatchHeader", "7. Binary messages", 1),
    ] {
        let blocks = blocks(&spec, heading, "json");
        assert!(blocks.len() >= n_examples_min, "{heading}: {}", blocks.len());
        writeln!(examples, "const {name}: {ty}[] = [{}];", blocks.join(",\n")).unwrap();
    }
    fs::write(folder.path().join("examples.ts"), examples).unwrap();
    fs::copy(root().join("tests/interop/typed.ts"), folder.path().join("typed.ts")).unwrap();
    let compile = |files: &[&str]| {
        let mut command = Command::new("node");
        command.arg(installed("node/node_modules/typescript/bin/tsc"));
        command.args([
            "--noEmit",
            "--strict",
            "--exactOptionalPropertyTypes",
            "--noUncheckedIndexedAccess",
        ]);
        command.args(["--target", "es2022", "--lib", "es2022"]);
        Running::start(command.args(files.iter().map(|file| folder.path().join(file)))).end()
    };
    let ended = compile(&["types.ts", "examples.ts", "typed.ts"]);
    assert!(ended.status.success(), "{}{}", ended.out, ended.err);
    // It is the types that decide: with one message more, the client knows too few.
    let more = types.join("\n").replace(
        "type ServerMessage =",
        "interface ServerMore { type: \"more\"; }\ntype ServerMessage = ServerMore |",
    );
    fs::write(folder.path().join("types.ts"), more).unwrap();
    let ended = compile(&["types.ts", "examples.ts", "typed.ts"]);
    assert!(
        ended
            .out
            .contains("'ServerMore' is not assignable to parameter of type 'never'"),
        "{}",
        ended.out
    );
}

/// A number with a comma before each three digits.
fn count(n: impl TryInto<u64>) -> String {
    let n = n.try_into().ok().unwrap();
    match n / 1_000 {
        0 => n.to_string(),
        thousands => format!("{},{:03}", count(thousands), n % 1_000),
    }
}

fn bytes(n: impl TryInto<u64>) -> String {
    let n = n.try_into().ok().unwrap();
    match n >> 20 {
        0 => format!("{} KiB", n >> 10),
        mib => format!("{mib} MiB"),
    }
}

fn time(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..=119 => format!("{seconds} s"),
        seconds => format!("{} min", seconds / 60),
    }
}

fn rate(rate: Option<Rate>) -> String {
    let rate = rate.unwrap();
    format!("{} a second, {} at once", rate.per_second, rate.burst)
}

#[test]
fn the_figures_of_the_specification_are_the_defaults() {
    let spec = fs::read_to_string(root().join("src/protocol/spec.md")).unwrap();
    let server = Server::builder()
        .engine("memory", MemoryEngine::builder().build())
        .listen("127.0.0.1:0");
    let server = server.start().unwrap();
    let mut client = Plain::connect(&server);
    client.send(&serde_json::json!({"type": "hello"}));
    let Wire::Welcome {
        limits, heartbeat_ms, ..
    } = client.recv()
    else {
        panic!("no welcome");
    };
    let example = blocks(&spec, "4. Messages of a server", "json")[0];
    let example: Value = serde_json::from_str(example).unwrap();
    assert_eq!(
        (&example["limits"], &example["heartbeat_ms"]),
        (&limits, &heartbeat_ms.into())
    );

    let (s, l) = (StreamingConfig::default(), Limits::default());
    let figure = |name: &str| limits[name].as_u64().unwrap();
    let expected = [
        ("message from a client", bytes(figure("message_bytes"))),
        ("frames of one message", count(l.fragments_max)),
        (
            "time for one message to come, from its first frame",
            time(l.assembly_timeout),
        ),
        ("pings and pongs of a connection", rate(l.ping_rate)),
        ("messages of a connection", rate(l.message_rate)),
        (
            "queries of a connection that do not come to their end",
            rate(l.query_rate),
        ),
        (
            "time without a stream and without a message",
            time(l.idle_timeout.unwrap()),
        ),
        ("text of a query", bytes(figure("query_bytes"))),
        ("rows of a batch", count(s.batch_size_max)),
        ("`max_batch_bytes`", bytes(s.batch_bytes_max)),
        ("one row", bytes(s.row_bytes_max)),
        ("live streams of a connection", count(figure("streams"))),
        (
            "live streams of a principal, of the server",
            format!("{}, {}", count(l.streams_per_principal_max), count(l.streams_max)),
        ),
        (
            "window",
            format!("{} batches, {}", count(s.window_batches_max), bytes(s.window_bytes_max)),
        ),
        (
            "held for a detached stream",
            format!("{}, {}", bytes(s.retention_bytes), time(s.retention)),
        ),
        ("detached streams, and ended ones held", count(s.retained_streams_max)),
        ("time without taking anything", time(s.stall_limit)),
        (
            "bytes held in all, and for one connection",
            format!("{}, {}", bytes(s.held_bytes_max), bytes(s.connection_held_bytes_max)),
        ),
        ("queries that wait for a worker", count(s.queries_waiting_max)),
        ("connections of a principal", count(l.connections_per_principal_max)),
        (
            "connections of an address",
            count(l.connections_per_address_max.unwrap()),
        ),
        ("new connections of an address", rate(l.connection_rate_per_address)),
        ("time for TLS and the HTTP head", time(l.head_deadline)),
    ];
    for (limit, default) in expected {
        let start = format!("\n| {limit} | {default} | ");
        assert!(spec.contains(&start), "{start:?} is not in section 9");
    }
}
