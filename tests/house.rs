//! The rules of the house, read off the sources: who may name whom, and what has only one home.

#![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What each part of the crate may name of the others. `engine` names the clock because batches are due at a time, `transport` because
/// one read of TLS is many of a socket, and has one time-out.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("rows", &[]),
    ("clock", &[]),
    ("thread", &[]),
    ("sync", &[]),
    ("deflate", &["sync"]),
    ("id", &[]),
    ("rate", &[]),
    ("error", &["id"]),
    ("auth", &["id", "rate", "sync"]),
    ("metrics", &["error"]),
    ("protocol", &["rows", "error", "id"]),
    ("transport", &["clock", "deflate", "error", "thread"]),
    ("engine", &["rows", "error", "clock", "sync"]),
    ("stream", &["rows", "error", "id", "rate", "sync"]),
    (
        "scheduler",
        &[
            "auth", "rows", "clock", "deflate", "engine", "error", "id", "metrics", "protocol", "stream", "sync",
            "thread",
        ],
    ),
    (
        "connection",
        &[
            "auth",
            "rows",
            "clock",
            "deflate",
            "error",
            "id",
            "metrics",
            "protocol",
            "rate",
            "scheduler",
            "stream",
            "sync",
            "thread",
            "transport",
        ],
    ),
    (
        "client",
        &[
            "auth",
            "clock",
            "rows",
            "error",
            "id",
            "protocol",
            "thread",
            "transport",
        ],
    ),
    (
        "server",
        &[
            "auth",
            "clock",
            "connection",
            "deflate",
            "engine",
            "error",
            "id",
            "metrics",
            "rate",
            "scheduler",
            "stream",
            "thread",
            "transport",
        ],
    ),
    (
        "cli",
        &["auth", "rows", "client", "engine", "error", "server", "thread"],
    ),
    // In no build but the tests' and the fuzzers'.
    (
        "fuzzing",
        &[
            "auth",
            "clock",
            "client",
            "connection",
            "deflate",
            "error",
            "id",
            "protocol",
            "rows",
            "transport",
        ],
    ),
];

/// A word of code, and the only files it may stand in (a prefix each).
const ONE_HOME: &[(&str, &[&str])] = &[
    ("Instant::now", &["clock.rs"]),
    ("SystemTime", &[]),
    ("thread::Builder", &["thread.rs"]),
    (
        "thread::spawn",
        &[
            "scheduler/scheduled_test.rs",
            "scheduler/shuttle_test.rs",
            "connection/scheduled_test.rs",
            "connection/shuttle_test.rs",
        ],
    ),
    ("thread::sleep", &[]),
    ("unbounded", &[]),
    ("mpsc::channel", &[]),
    ("tungstenite", &["transport/websocket/"]),
    ("rustls", &["transport/tls/"]),
    ("rusqlite", &["engine/sqlite/", "cli/demo/"]),
    // Counting what is allocated takes an allocator, in the tests' and the fuzzers' build only; the program tells the C library's to give
    // back what is free.
    (
        "unsafe",
        &[
            "cli/malloc.rs",
            "engine/sqlite/ffi.rs",
            "engine/sqlite/ffi/",
            "fuzzing/allocated.rs",
        ],
    ),
    // A table of estimates against the truth: whether they are good is for people to judge, too.
    ("println!", &["cli/", "stream/progress_test.rs"]),
    ("eprintln!", &["cli/"]),
    ("stdout()", &["cli/"]),
    ("stderr()", &["cli/"]),
    ("todo!", &[]),
    ("unimplemented!", &[]),
    ("dbg!", &[]),
    ("#[ignore", &[]),
];

/// What may lie at the top of the repository.
const TOP_LEVEL: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "src",
    "tests",
    "examples",
    "benches",
    "README.md",
    "CHANGELOG.md",
    "LICENSE-MIT",
    "LICENSE-APACHE",
    "clippy.toml",
    "rustfmt.toml",
    "target",
];

const LINES_MAX: usize = 800;
const ROOT_NAMES_MAX: usize = 25;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust files under a folder, as paths below it with their text.
fn sources(folder: &str) -> Vec<(String, String)> {
    fn collect(folder: &Path, base: &Path, into: &mut Vec<(String, String)>) {
        let Ok(entries) = fs::read_dir(folder) else { return };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, base, into);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(base).unwrap().to_string_lossy().into_owned();
                into.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let base = root().join(folder);
    let mut found = Vec::new();
    collect(&base, &base, &mut found);
    found.sort();
    assert!(!found.is_empty(), "no sources in {}", base.display());
    found
}

/// The lines that are code of the product, with their numbers: no comments, no documentation, no text in quotes, and nothing from
/// the first `#[cfg(test)]` module on, which may name what it tests with.
fn code(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let mut rest = text.lines().enumerate().peekable();
    while let Some((number, line)) = rest.next() {
        let trimmed = line.trim();
        let next_opens_module = rest
            .peek()
            .is_some_and(|(_, next)| next.trim_start().starts_with("mod "));
        if trimmed == "#[cfg(test)]" && next_opens_module {
            let (_, module) = rest.next().unwrap();
            if module.trim_end().ends_with('{') {
                break;
            }
            continue;
        }
        if !trimmed.starts_with("//") {
            lines.push((number + 1, without_texts(line)));
        }
    }
    lines
}

/// A line with the insides of its string literals taken out, and the comment at its end.
fn without_texts(line: &str) -> String {
    let mut out = String::new();
    let mut in_text = false;
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\\' if in_text => drop(characters.next()),
            '\'' if !in_text && characters.peek() == Some(&'"') => {
                characters.next();
            }
            '"' => in_text = !in_text,
            '/' if !in_text && characters.peek() == Some(&'/') => break,
            _ if !in_text => out.push(character),
            _ => {}
        }
    }
    out
}

/// The part of the crate that a file belongs to.
fn part(file: &str) -> &str {
    file.split('/').next().unwrap().trim_end_matches(".rs")
}

/// The parts that a line names, as `crate::part` or inside `use crate::{part, …}`.
fn named(line: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in line.match_indices("crate::") {
        let rest = &line[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0;
            for item in group.split_inclusive([',', '{', '}']) {
                if depth == 0 {
                    found.extend(
                        item.split([':', ',', '{', '}'])
                            .next()
                            .map(|name| name.trim().to_owned()),
                    );
                }
                depth += item.matches('{').count();
                depth -= item.matches('}').count().min(depth);
            }
        } else {
            let end = rest
                .find(|c: char| !c.is_alphanumeric() && c != '_')
                .unwrap_or(rest.len());
            found.push(rest[..end].to_owned());
        }
    }
    found
}

fn naming_violations(file: &str, text: &str) -> Vec<String> {
    let own = part(file);
    let Some((_, may)) = MAY_NAME.iter().find(|(name, _)| *name == own) else {
        return vec![format!("{file}: `{own}` has no place in the table")];
    };
    let mut found = Vec::new();
    for (number, line) in code(text) {
        for name in named(&line) {
            let is_part = MAY_NAME.iter().any(|(part, _)| *part == name);
            if is_part && name != own && !may.contains(&name.as_str()) {
                found.push(format!("{file}:{number}: `{own}` may not name `{name}`"));
            }
        }
    }
    found
}

fn home_violations(file: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (number, line) in code(text) {
        for (word, homes) in ONE_HOME {
            let lint = line.contains("unsafe_code");
            if line.contains(word) && !lint && !homes.iter().any(|home| file.starts_with(home)) {
                found.push(format!("{file}:{number}: `{word}` lives in {homes:?}"));
            }
        }
    }
    found
}

#[track_caller]
fn check_none(found: &[String]) {
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn each_part_names_only_what_it_may() {
    let files = sources("src");
    // A `tests.rs` is a test module in a file of its own.
    let inside = files.iter().filter(|(file, _)| {
        file != "lib.rs" && file != "main.rs" && !file.ends_with("/tests.rs") && !file.ends_with("_test.rs")
    });
    check_none(
        &inside
            .flat_map(|(file, text)| naming_violations(file, text))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn what_has_one_home_stays_there() {
    check_none(
        &sources("src")
            .iter()
            .flat_map(|(file, text)| home_violations(file, text))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn every_file_says_what_it_is_and_is_one_noun() {
    let mut found = Vec::new();
    for folder in ["src", "tests", "examples", "benches"] {
        for (file, text) in sources(folder) {
            if !text.starts_with("//!") {
                found.push(format!("{folder}/{file}:1: opens without `//!`"));
            }
            let n_lines = text.lines().count();
            if n_lines > LINES_MAX {
                found.push(format!("{folder}/{file}: {n_lines} lines, the most is {LINES_MAX}"));
            }
        }
    }
    check_none(&found);
}

#[test]
fn no_test_sleeps_or_is_left_out() {
    let mut found = Vec::new();
    for (file, text) in sources("tests") {
        if file == "house.rs" {
            continue;
        }
        for (number, line) in code(&text) {
            for word in ["thread::sleep", "#[ignore", "todo!", "unimplemented!"] {
                if line.contains(word) {
                    found.push(format!("tests/{file}:{number}: `{word}`"));
                }
            }
        }
    }
    check_none(&found);
}

#[test]
fn the_crates_root_is_a_short_list() {
    let text = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let code: String = code(&text).into_iter().map(|(_, line)| line + " ").collect();
    let names: BTreeSet<String> = code
        .split(';')
        .filter_map(|item| item.trim().strip_prefix("pub use "))
        .flat_map(|item| {
            let list = item
                .rsplit_once('{')
                .map_or(item, |(_, list)| list.trim_end_matches('}'));
            list.split(',')
                .map(|name| name.trim().rsplit([':', ' ']).next().unwrap().to_owned())
                .collect::<Vec<_>>()
        })
        .filter(|name| !name.is_empty())
        .collect();
    assert!(
        names.len() <= ROOT_NAMES_MAX,
        "{} names at the root: {names:?}",
        names.len()
    );
}

#[test]
fn the_top_of_the_repository_is_tidy() {
    let found: Vec<String> = fs::read_dir(root())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with('.') && !TOP_LEVEL.contains(&name.as_str()))
        .collect();
    check_none(&found);
}

#[test]
fn the_scanner_finds_what_it_looks_for() {
    let naming = |file: &str, text: &str| naming_violations(file, text).len();
    assert_eq!(naming("rows/mod.rs", "use crate::engine::Engine;"), 1);
    assert_eq!(
        naming("rows/mod.rs", "use crate::{engine::{Cursor, Engine}, rows, server};"),
        2
    );
    assert_eq!(naming("rows/mod.rs", "fn f() { crate::clock::now(); }"), 1);
    assert_eq!(
        naming(
            "rows/mod.rs",
            "// crate::engine\n/// crate::engine\nlet x = \"crate::engine\";"
        ),
        0
    );
    assert_eq!(
        naming("rows/mod.rs", "#[cfg(test)]\nmod tests {\n use crate::clock;\n}"),
        0
    );
    assert_eq!(
        naming("engine/mod.rs", "#[cfg(test)]\nmod tests;\nuse crate::server;"),
        1
    );
    assert_eq!(naming("nowhere/mod.rs", ""), 1);
    let homes = |file: &str, text: &str| home_violations(file, text).len();
    assert_eq!(homes("scheduler/mod.rs", "let now = Instant::now();"), 1);
    assert_eq!(homes("clock.rs", "Instant::now()"), 0);
    assert_eq!(homes("rows/mod.rs", "unsafe { x() } // why"), 1);
    assert_eq!(homes("rows/mod.rs", "let c = unbounded();"), 1);
    assert_eq!(homes("rows/mod.rs", "#![allow(unsafe_code)]"), 0);
}
