//! How streams share, wait and survive, as ratios measured side by side in one run.
//!
//! `cargo bench --bench sessions -- DATABASE [SECTION ...]`, where DATABASE is what `rowstream serve --demo 1` leaves in the temporary
//! folder and a section is one of `priority`, `equals`, `weights`, `windows` and `cuts`; without any, all run.
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::disallowed_methods, missing_docs)] // a program for people at a terminal

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{env, thread};

use support::{Client, Server, median};

mod support;

const QUERY: &str = "SELECT * FROM lineitem";

fn main() {
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let Some((database, sections)) = arguments.split_first() else {
        return println!("usage: cargo bench --bench sessions -- DATABASE [SECTION ...]");
    };
    let all = [
        ("priority", priority as fn(&str)),
        ("equals", equals),
        ("weights", weights),
        ("windows", windows),
        ("cuts", cuts),
    ];
    for (name, section) in all {
        if sections.is_empty() || sections.iter().any(|wanted| wanted == name) {
            println!("\n## {name}");
            section(database);
        }
    }
}

/// One stream at priority 7 beside 127 at priority 1, on one connection, against the same stream alone.
fn priority(database: &str) {
    let server = Server::start(database, &[]);
    for (pace, what) in [(None, "takes all it can get"), (Some(pace(&server)), PACED)] {
        let (mut ratios, mut others) = (Vec::new(), Vec::new());
        for _ in 0..5 {
            let urgent = ("urgent".to_owned(), 7, 16);
            let alone = share(&server, std::slice::from_ref(&urgent), 200 << 20, pace);
            let mut streams: Vec<_> = (0..127).map(|n| (format!("low {n}"), 1, 16)).collect();
            streams.push(urgent);
            let beside = share(&server, &streams, 300 << 20, pace);
            let rate = |shared: &Shared| shared.bytes["urgent"] as f64 / shared.seconds;
            ratios.push(rate(&beside) / rate(&alone));
            let total: u64 = beside.bytes.values().sum();
            others.push(1.0 - beside.bytes["urgent"] as f64 / total as f64);
        }
        println!(
            "a client that {what}: bytes/s of the urgent one beside 127 others {:.2} of alone (target: at least 0.8), share of the others {:.3}",
            median(ratios),
            median(others)
        );
    }
}

/// 128 streams of one priority and weight on one connection.
fn equals(database: &str) {
    let server = Server::start(database, &[]);
    let streams: Vec<_> = (0..128).map(|n| (n.to_string(), 3, 16)).collect();
    let shared = share(&server, &streams, 800 << 20, None);
    let bytes: Vec<f64> = shared.bytes.values().map(|bytes| *bytes as f64).collect();
    let sum: f64 = bytes.iter().sum();
    let jain = sum * sum / (128.0 * bytes.iter().map(|bytes| bytes * bytes).sum::<f64>());
    println!(
        "Jain's index over the bytes of {} streams: {jain:.4} (target: at least 0.95); {:.0} MB/s",
        bytes.len(),
        sum / 1e6 / shared.seconds
    );
}

/// Weights 1 : 2 : 4 on one connection: of 126 streams, which all want to be served at once, and of three, which have a worker each.
fn weights(database: &str) {
    let server = Server::start(database, &[]);
    let pace = pace(&server);
    let (many, few) = (
        " (target: 0.9 to 1.1)",
        " (no target: each has a core for as long as there are any)",
    );
    for (n_each, pace, what, target) in [
        (42, None, "takes all it can get", many),
        (42, Some(pace), PACED, many),
        (1, Some(pace), PACED, many),
        (1, None, "takes all it can get", few),
    ] {
        let streams: Vec<_> = (0..n_each)
            .flat_map(|n| [1_u16, 2, 4].map(|weight| (format!("{weight} {n}"), 3, 16 * weight)))
            .collect();
        let shared = share(&server, &streams, 800 << 20, pace);
        let sum: u64 = shared.bytes.values().sum();
        // Of each stream its bytes, of what they would be by weight.
        let of = |(name, _, weight): &(String, u8, u16)| {
            let part = f64::from(*weight) / (16.0 * 7.0 * f64::from(n_each));
            shared.bytes[name] as f64 / (sum as f64 * part)
        };
        let (mut least, mut most) = (f64::MAX, 0.0_f64);
        let classes = [16, 32, 64].map(|weight| {
            let of_class: Vec<f64> = streams.iter().filter(|stream| stream.2 == weight).map(of).collect();
            least = of_class.iter().copied().fold(least, f64::min);
            most = of_class.iter().copied().fold(most, f64::max);
            of_class.iter().sum::<f64>() / of_class.len() as f64
        });
        println!(
            "{} streams, a client that {what}: weights 1, 2, 4 get {:.3}, {:.3}, {:.3} of their proportions, each stream {least:.3} to {most:.3}{target}",
            streams.len(),
            classes[0],
            classes[1],
            classes[2]
        );
    }
}

/// A thousand streams whose clients do not acknowledge, and a new query beside them.
fn windows(database: &str) {
    const CONNECTIONS: usize = 10;
    const STREAMS: usize = 100;
    let server = Server::start(database, &[]);
    let before = server.memory_kib("VmRSS");
    let mut clients: Vec<Client> = (0..CONNECTIONS).map(|_| Client::connect(&server.address)).collect();
    for client in &mut clients {
        for n in 0..STREAMS {
            client.send(&format!(
                "{{\"type\":\"stream_query\",\"query\":\"{QUERY}\",\"request_id\":{n},\"window\":{{\"batches\":2}},\"progress_interval_ms\":0}}"
            ));
        }
        let mut n_batches = 0;
        while n_batches < 2 * STREAMS {
            n_batches += usize::from(client.read_message().starts_with(b"{\"type\":\"query_batch\""));
        }
    }
    let cpu_before = server.cpu_ns();
    thread::sleep(Duration::from_secs(1));
    let idle = (server.cpu_ns() - cpu_before) / 1e9;
    let grown = server.memory_kib("VmRSS").saturating_sub(before);
    let mut first = Vec::new();
    for _ in 0..200 {
        let mut client = Client::connect(&server.address);
        let begun_at = Instant::now();
        client.send(&format!(
            "{{\"type\":\"stream_query\",\"query\":\"{QUERY}\",\"window\":{{\"batches\":1}}}}"
        ));
        while !client.read_message().starts_with(b"{\"type\":\"query_batch\"") {}
        first.push(begun_at.elapsed().as_secs_f64() * 1e3);
    }
    first.sort_by(f64::total_cmp);
    println!(
        "{} streams stand still; the server's CPU meanwhile: {idle:.3} s a second (target: next to nothing)",
        CONNECTIONS * STREAMS
    );
    println!(
        "a new query's first batch: median {:.2} ms, p99 {:.2} ms (target: under 10 ms)",
        first[100], first[198]
    );
    println!(
        "memory: {grown} KiB more than at rest, {} KiB a stream; in all {} KiB; the server said: {}",
        grown / (CONNECTIONS * STREAMS) as u64,
        before + grown,
        server.memory_bound
    );
}

/// The whole table by the program's own client, through a proxy that cuts every 10 MB.
fn cuts(database: &str) {
    let server = Server::start(database, &[]);
    let query = |address: &str| {
        let begun_at = Instant::now();
        let output = Command::new(env!("CARGO_BIN_EXE_rowstream"))
            .args([
                "query",
                address,
                QUERY,
                "--format=csv",
                "--checksum",
                "--batch-size=1000",
                "--no-progress",
            ])
            .stderr(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut child = output;
        let lines = BufReader::with_capacity(1 << 20, child.stdout.take().unwrap());
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let mut n_lines = 0_u64;
        for line in lines.split(b'\n') {
            // FNV-1a: of the lines in their order.
            for byte in line.unwrap() {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
            n_lines += 1;
        }
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(child.wait().unwrap().success(), "{said}");
        (
            n_lines - 1,
            hash,
            said.lines().find(|line| line.starts_with("sha256")).unwrap().to_owned(),
            begun_at.elapsed(),
        )
    };
    let (rows, hash, digest, alone) = query(&server.address);
    let (address, n_cuts) = cutting_proxy(&server.address, 10_000_000);
    let (rows_cut, hash_cut, digest_cut, beside) = query(&address);
    let n_cuts = n_cuts.load(Ordering::Acquire);
    assert_eq!(
        (rows, hash, &digest),
        (rows_cut, hash_cut, &digest_cut),
        "the same rows in the same order"
    );
    println!("{rows_cut} rows through {n_cuts} cuts, {digest_cut}");
    println!(
        "time: {:.2} of that without a proxy",
        beside.as_secs_f64() / alone.as_secs_f64()
    );
}

/// Forwards to `target`, and closes each connection after so many bytes from there.
fn cutting_proxy(target: &str, after: u64) -> (String, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (target, n_cuts) = (target.to_owned(), Arc::new(AtomicU64::new(0)));
    let count = Arc::clone(&n_cuts);
    thread::spawn(move || {
        for client in listener.incoming() {
            let (client, server) = (client.unwrap(), TcpStream::connect(&target).unwrap());
            let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            thread::spawn(move || {
                let _over = std::io::copy(&mut from, &mut to);
                let _gone = to.shutdown(Shutdown::Both);
            });
            let count = Arc::clone(&count);
            thread::spawn(move || {
                let copied = std::io::copy(&mut (&server).take(after), &mut &client);
                if copied.is_ok_and(|n| n == after) {
                    count.fetch_add(1, Ordering::AcqRel);
                }
                let _gone = (client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
            });
        }
    });
    (address, n_cuts)
}

const PACED: &str = "takes 0.4 of what the server could send";

/// Bytes a second of [`PACED`].
fn pace(server: &Server) -> f64 {
    let alone = share(server, &[("alone".to_owned(), 3, 16)], 400 << 20, None);
    0.4 * alone.bytes["alone"] as f64 / alone.seconds
}

/// What each stream of a connection got.
struct Shared {
    bytes: HashMap<String, u64>,
    seconds: f64,
}

/// Runs the table as so many streams, by name, priority and weight, on one connection, and counts the bytes of batches that each
/// gets of `bytes_max`. What was on its way before all had something to send is not counted.
/// Where there is a `pace`, in bytes a second, the client takes no more: the connection is what is scarce.
fn share(server: &Server, streams: &[(String, u8, u16)], bytes_max: u64, pace: Option<f64>) -> Shared {
    let mut client = Client::connect(&server.address);
    for (name, priority, weight) in streams {
        client.send(&format!(
            "{{\"type\":\"stream_query\",\"query\":\"{QUERY}\",\"request_id\":\"{name}\",\"priority\":{priority},\"weight\":{weight},\
\"row_format\":\"array\",\"progress_interval_ms\":0}}"
        ));
    }
    let mut seen = HashMap::new();
    let mut skipped = 0;
    // All have begun, and so much more has come that the sockets' buffers hold nothing older.
    while seen.len() < streams.len() || skipped < 64 << 20 {
        let message = client.read_message();
        if message.starts_with(b"{\"type\":\"query_batch\"") {
            seen.insert(request_id(message), ());
            skipped += message.len();
        }
    }
    let begun_at = Instant::now();
    let mut bytes: HashMap<String, u64> = streams.iter().map(|(name, ..)| (name.clone(), 0)).collect();
    let mut total = 0;
    while total < bytes_max {
        let message = client.read_message();
        if message.starts_with(b"{\"type\":\"query_batch\"") {
            let n = message.len() as u64;
            total += n;
            if let Some(pace) = pace {
                let due = Duration::from_secs_f64(total as f64 / pace);
                thread::sleep(due.saturating_sub(begun_at.elapsed()));
            }
            *bytes.get_mut(&request_id(message)).unwrap() += n;
        }
        assert!(
            !message.starts_with(b"{\"type\":\"query_completed\""),
            "a stream was too short"
        );
    }
    Shared {
        bytes,
        seconds: begun_at.elapsed().as_secs_f64(),
    }
}

fn request_id(message: &[u8]) -> String {
    let head = String::from_utf8_lossy(&message[..160.min(message.len())]).into_owned();
    let (_, rest) = head.split_once("\"request_id\":\"").unwrap();
    rest.split('"').next().unwrap().to_owned()
}
