//! What each way of sending rows costs the server, the wire and the client, beside JSON arrays, as ratios measured side by side in one
//! run.
//!
//! `cargo bench --bench formats -- DATABASE [PYTHON]`, where DATABASE is what `rowstream serve --demo 1` leaves in the temporary folder
//! and PYTHON is an interpreter with pyarrow, such as the one that `tests/run` makes; without it, nothing is said of clients.
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::disallowed_methods, missing_docs)] // a program for people at a terminal

use std::fs::File;
use std::io::{BufWriter, Write};
use std::process::Command;
use std::time::Instant;
use std::{env, fs};

use support::{Client, Server, median};

mod support;

const ROUNDS: usize = 5;

const FORMATS: [(&str, &str); 7] = [
    ("array", r#""row_format":"array""#),
    ("object", r#""row_format":"object""#),
    ("arrow", r#""format":"arrow""#),
    ("array, zstd", r#""row_format":"array","compression":["zstd"]"#),
    ("array, lz4", r#""row_format":"array","compression":["lz4"]"#),
    ("array, gzip", r#""row_format":"array","compression":["gzip"]"#),
    ("arrow, zstd", r#""format":"arrow","compression":["zstd"]"#),
];

fn main() {
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.as_slice() {
        [database] => server(database),
        [database, python] => {
            server(database);
            client(database, python);
        }
        _ => println!("usage: cargo bench --bench formats -- DATABASE [PYTHON]"),
    }
}

/// Streams the whole table in every format, and measures the server's CPU and the bytes on the wire.
fn server(database: &str) {
    let mut cpu: Vec<Vec<f64>> = vec![Vec::new(); FORMATS.len()];
    let mut bytes = vec![0.0; FORMATS.len()];
    for _ in 0..ROUNDS {
        let server = Server::start(database, &[]);
        for (idx, (_, fields)) in FORMATS.iter().enumerate() {
            let mut client = Client::connect(&server.address);
            let before = server.cpu_ns();
            client.send(&query("SELECT * FROM lineitem", fields));
            let completed = client.until("query_completed");
            let n_rows = number(&completed, "total_rows");
            cpu[idx].push((server.cpu_ns() - before) / n_rows);
            bytes[idx] = number(&completed, "bytes") / n_rows;
        }
    }
    println!("| format | CPU ns/row in the server | of JSON arrays | bytes/row on the wire | of JSON arrays |");
    println!("|---|---:|---:|---:|---:|");
    for (idx, (name, _)) in FORMATS.iter().enumerate() {
        let ratio = median(
            cpu[idx]
                .iter()
                .zip(&cpu[0])
                .map(|(ours, arrays)| ours / arrays)
                .collect(),
        );
        println!(
            "| {name} | {:.0} | {ratio:.2} | {:.1} | {:.2} |",
            median(cpu[idx].clone()),
            bytes[idx],
            bytes[idx] / bytes[0]
        );
    }
    println!("targets: arrow at most 1.0 of the CPU; zstd at most 1.6 of the CPU and 0.35 of the bytes");
}

/// A million rows, as they come, turned into columns by Python's `json` and by pyarrow.
fn client(database: &str, python: &str) {
    const PROGRAM: &str = r#"
import json, sys, time, pyarrow, pyarrow.ipc
folder = sys.argv[1]
lines = open(folder + "/rows.json", "rb").read().splitlines()
begun = time.process_time()
columns = None
for line in lines:
    rows = json.loads(line)
    batch = list(zip(*rows))
    if columns is None:
        columns = [list(column) for column in batch]
    else:
        for column, more in zip(columns, batch):
            column.extend(more)
of_json = time.process_time() - begun
stream = open(folder + "/rows.arrows", "rb").read()
begun = time.process_time()
table = pyarrow.ipc.open_stream(stream).read_all()
of_arrow = time.process_time() - begun
assert table.num_rows == len(columns[0])
print(of_json, of_arrow)
"#;
    let folder = env::temp_dir().join(format!("rowstream-formats-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let server = Server::start(database, &[]);
    let sql = "SELECT * FROM lineitem LIMIT 1000000";
    // Gathered as a client would get them: the rows of each message in one piece.
    for (name, fields) in [
        ("rows.json", r#""row_format":"array""#),
        ("rows.arrows", r#""format":"arrow""#),
    ] {
        let mut out = BufWriter::new(File::create(folder.join(name)).unwrap());
        let mut client = Client::connect(&server.address);
        client.send(&query(sql, fields));
        loop {
            let message = client.read_message();
            if message.starts_with(b"{\"type\":\"query_completed\"") {
                break;
            }
            if message.starts_with(b"{\"type\":\"query_batch\"") {
                let start = find(message, b"\"rows\":") + 7;
                let end = find(message, b",\"row_count\":");
                out.write_all(&message[start..end]).unwrap();
                out.write_all(b"\n").unwrap();
            } else if message[0] == 0 {
                let header = u32::from_be_bytes(message[..4].try_into().unwrap()) as usize;
                out.write_all(&message[4 + header..]).unwrap();
            }
        }
        out.flush().unwrap();
    }
    let begun_at = Instant::now();
    let mut ratios = Vec::new();
    let (mut of_json, mut of_arrow) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let output = Command::new(python)
            .args(["-c", PROGRAM])
            .arg(&folder)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let said = String::from_utf8(output.stdout).unwrap();
        let mut seconds = said.split_whitespace().map(|number| number.parse::<f64>().unwrap());
        let (json, arrow) = (seconds.next().unwrap(), seconds.next().unwrap());
        ratios.push(arrow / json);
        of_json.push(json);
        of_arrow.push(arrow);
    }
    fs::remove_dir_all(&folder).unwrap();
    println!(
        "\na client that makes columns of 1,000,000 rows: json {:.2} s, pyarrow {:.3} s of CPU, {:.3} of it (target: at most 0.2; {:.0} s)",
        median(of_json),
        median(of_arrow),
        median(ratios),
        begun_at.elapsed().as_secs_f64()
    );
}

fn find(message: &[u8], wanted: &[u8]) -> usize {
    message
        .windows(wanted.len())
        .rposition(|window| window == wanted)
        .unwrap()
}

fn query(sql: &str, fields: &str) -> String {
    format!("{{\"type\":\"stream_query\",\"query\":\"{sql}\",\"batch_size\":1000,\"progress_interval_ms\":0,{fields}}}")
}

fn number(message: &str, name: &str) -> f64 {
    let (_, rest) = message.split_once(&format!("\"{name}\":")).unwrap();
    rest.split([',', '}']).next().unwrap().parse().unwrap()
}
