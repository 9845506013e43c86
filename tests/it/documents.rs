//! What the specification has for programs, held to by programs of others: `tsc`, JSON Schema's and AsyncAPI's own schemas, and the
//! transcripts as a client in another language runs them.

use std::fmt::Write;
use std::fs;
use std::process::Command;

use tempfile::TempDir;

use crate::interop::{Running, by_command, installed, python, root};
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
