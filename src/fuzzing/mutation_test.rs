//! Each property of the doors, tried with good inputs changed at random: what the gate runs of the fuzzers.
//!
//! The inputs changed are those in `tests/fuzz/corpus` and the conformance vectors. `ROWSTREAM_FUZZ_CASES=10000000
//! ROWSTREAM_TEST_SEED=7 cargo test --release --lib fuzzing:: -- --nocapture` is the long mode.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value as Json;

use super::source::Random;

type Mutate = fn(&[Vec<u8>], &mut Random, usize) -> Vec<u8>;

/// How much is tried, and how.
struct Effort {
    mutate: Mutate,
    /// In the gate; 100,000 and some of all doors together.
    cases: u64,
    /// A mutated input is cut off here: beyond the limits that can be reached, and not longer than need be.
    input_bytes_max: usize,
}

/// What parsers may stumble over, put in as it is.
const WORDS: &[&[u8]] = &[
    b"null",
    b"true",
    b"-1",
    b"0",
    b"1e999",
    b"-0.0",
    b"9223372036854775807",
    b"18446744073709551616",
    b"5e-324",
    b"\"\"",
    b"\\u0000",
    b"\\ud800",
    b"\"type\":",
    b"\"value\":",
    b"\"request_id\":",
    b"\"stream_id\":",
    b"[[[[[[[[",
    b"{\"a\":{\"a\":",
    b"]",
    b"}",
    b",",
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\r",
    b": ",
    b"\t",
    b"Host: h\r\n",
    b"Upgrade: websocket\r\n",
    b"Content-Length: 1\r\n",
    b"HTTP/1.1",
    b" ",
    b"\0",
    b"\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF",
    b"\x80\0\0\0\0\0\0\0",
    b"\0\0\0\0",
    b"\x81\xFE\xFF\xFF",
    b"\x81\xFF\0\0\0\0\0\0",
    b"\xC1\x80\0\0\0\0",
    b"\x00\x80\0\0\0\0",
    b"\x80\x80\0\0\0\0",
    b"\x89\x80\0\0\0\0",
    b"\x88\x82\0\0\0\0\x03\xE8",
    b"\xED\xA0\x80",
    b"\xF4\x90\x80\x80",
    b"\xC0\xAF",
    b"\xE2\x82",
    b"\xF0\x9F\x98\x80",
    b"\0\0\xFF\xFF",
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

/// The files of a folder, in the order of their names.
fn files(folder: &Path) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let found = files(&folder().join("fuzz/corpus").join(name));
    assert!(found.len() >= 8, "{} inputs for {name}", found.len());
    found
}

fn vectors(name: &str) -> Vec<Json> {
    let text = fs::read(folder().join("vectors").join(name)).unwrap();
    let mut vectors: Json = serde_json::from_slice(&text).unwrap();
    serde_json::from_value(vectors["cases"].take()).unwrap()
}

/// All that is said in the transcripts, and a query for each of the values.
fn said_in_vectors() -> Vec<Vec<u8>> {
    let mut said = Vec::new();
    for text in files(&folder().join("vectors/transcripts")) {
        let transcript: Json = serde_json::from_slice(&text).unwrap();
        for step in transcript["steps"].as_array().unwrap() {
            for from in ["client", "server"] {
                said.extend(step.get(from).map(|message| message.to_string().into_bytes()));
            }
            said.extend(step["client_text"].as_str().map(|text| text.as_bytes().to_vec()));
        }
    }
    for case in vectors("values.json") {
        let query = serde_json::json!({"type": "stream_query", "query": case["sql"], "params": case["params"],
            "int64": case["int64"], "row_format": case["row_format"]});
        said.push(query.to_string().into_bytes());
    }
    assert!(said.len() > 100);
    said
}

/// A binary message of which, half of the time, only the header or only the payload is changed, and the length put right.
fn mutated_binary(seeds: &[Vec<u8>], random: &mut Random, bytes_max: usize) -> Vec<u8> {
    let seed = &seeds[random.below(seeds.len())];
    let length = seed
        .first_chunk()
        .map_or(0, |length| u32::from_be_bytes(*length) as usize);
    let parts = seed.get(4..).and_then(|rest| rest.split_at_checked(length));
    let (Some((header, payload)), 0) = (parts, random.below(2)) else {
        return mutated(seeds, random, bytes_max);
    };
    let (mut header, mut payload) = (header.to_vec(), payload.to_vec());
    let part = if random.below(2) == 0 {
        &mut header
    } else {
        &mut payload
    };
    *part = mutated(std::slice::from_ref(part), random, bytes_max);
    [&(header.len() as u32).to_be_bytes(), header.as_slice(), &payload].concat()
}

/// One input out of others.
fn mutated(seeds: &[Vec<u8>], random: &mut Random, bytes_max: usize) -> Vec<u8> {
    let mut input = seeds[random.below(seeds.len())].clone();
    let n_changes = 1 + random.small(2);
    for _ in 0..n_changes {
        let at = random.below(input.len() + 1);
        let n = random.small(10).min(input.len() - at);
        match random.below(16) {
            0 | 1 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
            2 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte = random.next().to_le_bytes()[0];
                }
            }
            3 => drop(input.drain(at..at + n)),
            4 => {
                let word = WORDS[random.below(WORDS.len())];
                input.splice(at..at, word.iter().copied());
            }
            5 => {
                let word = WORDS[random.below(WORDS.len())];
                let until = input.len().min(at + word.len());
                input.splice(at..until, word.iter().copied());
            }
            6 => {
                let piece = input[at..at + n].repeat(1 + random.small(6));
                input.splice(at..at, piece);
            }
            7 => {
                let other = &seeds[random.below(seeds.len())];
                let from = random.below(other.len() + 1);
                input.splice(at..at + n, other[from..].iter().copied());
            }
            8 => input.truncate(at),
            9 | 10 => {
                if let Some(digit) = input[at..].iter_mut().find(|byte| byte.is_ascii_digit()) {
                    *digit = b"0123456789"[random.below(10)];
                }
            }
            // What stands between two separators, of JSON or of a head, for something that may stand there.
            _ => {
                let is_separator = |byte: &u8| b":,[]{}\r\n; ".contains(byte);
                let from = input[..at].iter().rposition(is_separator).map_or(0, |at| at + 1);
                let until = input[at..]
                    .iter()
                    .position(is_separator)
                    .map_or(input.len(), |n| at + n);
                let word = WORDS[random.below(WORDS.len())];
                input.splice(from..until, word.iter().copied());
            }
        }
        input.truncate(bytes_max);
    }
    input
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Tries a door with each seed as it is, and then with what comes of them.
#[track_caller]
fn check(door: fn(&[u8]), seeds: &[Vec<u8>], effort: Effort) {
    let Effort {
        mutate,
        cases,
        input_bytes_max,
    } = effort;
    let seed = number("ROWSTREAM_TEST_SEED").unwrap_or(42);
    let mut random = Random::new(seed);
    let try_one = |case: u64, input: &[u8]| {
        let held = catch_unwind(AssertUnwindSafe(|| door(input)));
        let shown = input.escape_ascii();
        assert!(
            held.is_ok(),
            "ROWSTREAM_TEST_SEED={seed}, case {case}: the input is\n{shown}"
        );
    };
    for (case, input) in (0..).zip(seeds) {
        try_one(case, input);
    }
    for case in 0..number("ROWSTREAM_FUZZ_CASES").unwrap_or(cases) {
        try_one(case, &mutate(seeds, &mut random, input_bytes_max));
    }
}

#[test]
fn text_messages() {
    check(
        super::message,
        &[corpus("message"), said_in_vectors()].concat(),
        Effort {
            mutate: mutated,
            cases: 60_000,
            input_bytes_max: 4 * 1024,
        },
    );
}

#[test]
fn binary_messages() {
    let vectors = vectors("binary.json").into_iter();
    let messages = vectors.map(|case| BASE64.decode(case["message_base64"].as_str().unwrap()).unwrap());
    check(
        super::binary,
        &[corpus("binary"), messages.collect()].concat(),
        Effort {
            mutate: mutated_binary,
            cases: 60_000,
            input_bytes_max: 8 * 1024,
        },
    );
}

#[test]
fn heads() {
    check(
        super::head,
        &corpus("head"),
        Effort {
            mutate: mutated,
            cases: 15_000,
            input_bytes_max: 20 * 1024,
        },
    );
}

#[test]
fn frames() {
    check(
        super::frame,
        &corpus("frame"),
        Effort {
            mutate: mutated,
            cases: 15_000,
            input_bytes_max: 6 * 1024,
        },
    );
}

#[test]
fn values() {
    check(
        super::value,
        &corpus("value"),
        Effort {
            mutate: mutated,
            cases: 10_000,
            input_bytes_max: 2 * 1024,
        },
    );
}

/// Different inputs are tried, and the same ones again for the same seed.
#[test]
fn mutation_is_random_and_repeatable() {
    let seeds = corpus("head");
    let run = |seed| {
        let mut random = Random::new(seed);
        (0..1_000)
            .map(|_| mutated(&seeds, &mut random, 1_000))
            .collect::<Vec<_>>()
    };
    let inputs = run(1);
    assert_eq!(inputs, run(1));
    assert_ne!(inputs, run(2));
    let distinct: std::collections::BTreeSet<_> = inputs.iter().collect();
    assert!(distinct.len() > 800, "{}", distinct.len());
}
