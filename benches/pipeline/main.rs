//! How fast and how small the server is, beside the floor: the same work by one thread with nothing in between.
//!
//! ```text
//! cargo bench --bench pipeline -- DATABASE [SECTION ...]
//! ```
//!
//! DATABASE is a file with TPC-H's `lineitem`, such as `rowstream serve --demo 1` leaves in the temporary folder. Sections are
//! `throughput`, `latency`, `memory`, `stalled`, `fairness`, `cancel`, `restarts` and `estimates`; without any, all run. Each prints its figures
//! beside their targets. Figures of one section come from one run and are compared as ratios; CPU time is the server process's own.
//! The server, the clients that only drain, and the floor are processes of their own.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // a benchmark run by hand: it stops where something is wrong, and prints
#![allow(clippy::disallowed_methods)] // and it may sleep: nothing here is a test

use std::env;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use floor::{floor, run_floor};
use support::{Client, Server, cpu_ns_of, median, quantiles};

mod floor;
#[path = "../support/mod.rs"]
mod support;

const TABLE: &str = "lineitem";

fn main() {
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["--floor", database, mode] => floor(database, mode),
        ["--drain-bytes", address] => drain_bytes(address),
        ["--drain-query", address, query] => drain_query(address, query),
        ["--crowd", address, n, seconds, query] => crowd(address, n.parse().unwrap(), seconds.parse().unwrap(), query),
        [database, sections @ ..] => {
            let all = [
                ("throughput", throughput as fn(&str)),
                ("latency", latency),
                ("memory", memory),
                ("stalled", stalled),
                ("fairness", fairness),
                ("cancel", cancel),
                ("restarts", restarts),
                ("estimates", estimates),
            ];
            for (name, section) in all {
                if sections.is_empty() || sections.contains(&name) {
                    println!("\n## {name}");
                    section(database);
                }
            }
        }
        [] => println!("usage: cargo bench --bench pipeline -- DATABASE [SECTION ...]"),
    }
}

// ---- sections ----

/// Server CPU per row and rows per second, as ratios to the floor of the same round.
fn throughput(database: &str) {
    const ROUNDS: usize = 5;
    let mut table: Vec<(String, Vec<f64>, Vec<f64>)> = Vec::new();
    let mut record = |name: String, cpu: f64, rate: f64| match table.iter_mut().find(|(known, ..)| *known == name) {
        Some((_, cpus, rates)) => {
            cpus.push(cpu);
            rates.push(rate);
        }
        None => table.push((name, vec![cpu], vec![rate])),
    };
    for _ in 0..ROUNDS {
        for mode in ["step", "read", "encode", "pipe"] {
            let (rows, cpu_ns, wall_ns) = run_floor(database, mode);
            record(format!("floor: {mode}"), cpu_ns / rows, rows / wall_ns);
        }
        let server = Server::start(database, &[]);
        for (row_format, batch_size) in [("array", 1_000), ("array", 100), ("object", 1_000)] {
            let query = query_json(
                &format!("SELECT * FROM {TABLE}"),
                &format!("\"row_format\":\"{row_format}\",\"batch_size\":{batch_size}"),
            );
            let (rows, cpu_ns, wall_ns) = stream(&server, &query);
            record(
                format!("server: {row_format}, {batch_size}"),
                cpu_ns / rows,
                rows / wall_ns,
            );
        }
    }
    let (floor_cpu, floor_rate) = table
        .iter()
        .find(|(name, ..)| name == "floor: pipe")
        .map(|(_, cpus, rates)| (cpus.clone(), rates.clone()))
        .unwrap();
    println!("| what | CPU ns/row | ratio to floor | rows/s | ratio to floor |\n|---|---:|---:|---:|---:|");
    for (name, cpus, rates) in &table {
        let ratios = |ours: &[f64], floor: &[f64]| median(ours.iter().zip(floor).map(|(a, b)| a / b).collect());
        println!(
            "| {name} | {:.0} | {:.2} | {:.0} | {:.2} |",
            median(cpus.clone()),
            ratios(cpus, &floor_cpu),
            median(rates.clone()) * 1e9,
            ratios(rates, &floor_rate)
        );
    }
    println!("targets: CPU at most 1.25 with array and 1,000, 1.5 with 100; rows/s at least 0.85");
}

/// For a client that starts and cancels as fast as it can, which is a flood by the limits that `serve` has otherwise.
const AT_ANY_RATE: [&str; 4] = ["--query-rate", "off", "--message-rate", "off"];

/// For sorts that are larger than strangers may have.
const AT_ANY_SIZE: [&str; 2] = ["--sqlite-profile", "trusted"];

/// Time to the first batch, and of a whole small query, on an open connection.
fn latency(database: &str) {
    let server = Server::start(database, &AT_ANY_RATE);
    let mut client = Client::connect(&server.address);
    let scan = query_json(&format!("SELECT * FROM {TABLE}"), "\"row_format\":\"array\"");
    let mut first_batch = Vec::new();
    for n in 0..220 {
        let begun_at = Instant::now();
        client.send(&scan);
        let stream_id = client.until("query_started");
        client.until("query_batch");
        if n >= 20 {
            first_batch.push(begun_at.elapsed().as_secs_f64() * 1e3);
        }
        client.send(&format!(
            "{{\"type\":\"cancel_query\",\"stream_id\":\"{}\"}}",
            field(&stream_id, "stream_id")
        ));
        client.until("query_cancelled");
    }
    let one = query_json("SELECT 1", "");
    let mut round_trip = Vec::new();
    for n in 0..5_500 {
        let begun_at = Instant::now();
        client.send(&one);
        client.until("query_completed");
        if n >= 500 {
            round_trip.push(begun_at.elapsed().as_secs_f64() * 1e6);
        }
    }
    println!(
        "first batch of a scan: {} ms (target: median under 1.5)",
        quantiles(first_batch)
    );
    println!(
        "SELECT 1: {} microseconds (target: median under 150)",
        quantiles(round_trip)
    );
}

/// Peak memory of a large result beside a small one.
fn memory(database: &str) {
    let server = Server::start(database, &[]);
    let query = |limit: &str| query_json(&format!("SELECT * FROM {TABLE}{limit}"), "\"batch_size\":1000");
    stream(&server, &query(" LIMIT 10000"));
    let small = server.memory_kib("VmHWM");
    stream(&server, &query(""));
    let large = server.memory_kib("VmHWM");
    println!(
        "peak resident: {small} KiB after 10,000 rows, {large} KiB after all: +{} KiB (target: at most 8,192)",
        large - small
    );
}

/// One client that reads, beside a hundred that do not; and what those cost once they stand still.
fn stalled(database: &str) {
    const STALLED: usize = 100;
    const ROUNDS: usize = 3;
    let server = Server::start(database, &[]);
    let alone = query_json(
        &format!("SELECT * FROM {TABLE}"),
        "\"row_format\":\"array\",\"batch_size\":1000",
    );
    let (mut ratios, mut shares) = (Vec::new(), Vec::new());
    let mut grown = 0;
    for round in 0..ROUNDS {
        let (rows, _, wall_alone) = stream(&server, &alone);
        let before = server.memory_kib("VmRSS");
        let clients: Vec<_> = (0..STALLED)
            .map(|n| {
                let mut client = Client::connect(&server.address);
                // The same query from all, or one that the server has not seen yet from each.
                let sql = match round {
                    0 => format!("SELECT * FROM {TABLE}"),
                    _ => format!("SELECT * FROM {TABLE} WHERE l_orderkey <> -{round}{n}"),
                };
                client.send(&query_with_progress(
                    &sql,
                    "\"row_format\":\"array\",\"batch_size\":1000",
                ));
                client.until("query_started");
                client
            })
            .collect();
        thread::sleep(Duration::from_secs(3));
        let (cpu_before, since) = (server.cpu_ns(), Instant::now());
        thread::sleep(Duration::from_secs(2));
        shares.push((server.cpu_ns() - cpu_before) / since.elapsed().as_nanos() as f64);
        grown = server.memory_kib("VmRSS").saturating_sub(before);
        let (rows_beside, _, wall_beside) = stream(&server, &alone);
        assert!((rows - rows_beside).abs() < 0.5);
        ratios.push(wall_alone / wall_beside);
        drop(clients);
        thread::sleep(Duration::from_millis(500));
    }
    let worst = shares.iter().copied().fold(0.0, f64::max);
    println!(
        "CPU of {STALLED} stalled streams from three seconds after their start: {:.2} % of a core, {:.2} % in the worst round (target: under 2)",
        median(shares) * 100.0,
        worst * 100.0
    );
    println!(
        "rows/s beside {STALLED} stalled clients: {:.2} of alone (target: at least 0.95)",
        median(ratios)
    );
    println!(
        "memory of {STALLED} stalled streams: {grown} KiB (buffers are at most 64 MiB or one batch each, whichever is more)"
    );
}

/// A thousand big streams on a thousand connections.
fn fairness(database: &str) {
    const CROWD: usize = 1_000;
    const SECONDS: u64 = 8;
    let server = Server::start(database, &[]);
    let query = query_json(&format!("SELECT * FROM {TABLE}"), "\"row_format\":\"array\"");
    let run = |n: usize, seconds: u64| {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--crowd", &server.address, &n.to_string(), &seconds.to_string(), &query])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "connected");
        let idle = server.memory_kib("VmRSS");
        let cpu_before = server.cpu_ns();
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        assert_eq!(lines.next().unwrap().unwrap(), "busy");
        let busy = server.memory_kib("VmRSS");
        let crowd_cpu_line = lines.next().unwrap().unwrap();
        let cpu_ns = server.cpu_ns() - cpu_before;
        let rows: Vec<f64> = lines
            .next()
            .unwrap()
            .unwrap()
            .split(' ')
            .map(|n| n.parse().unwrap())
            .collect();
        let in_first_second: usize = lines.next().unwrap().unwrap().parse().unwrap();
        child.wait().unwrap();
        let n_rows = rows.iter().sum::<f64>();
        let crowd_cpu_ns: f64 = crowd_cpu_line.parse().unwrap();
        println!(
            "{n} streams: {:.0} rows/s, {:.0} CPU-ns per row in the server, {:.0} in the clients",
            n_rows / seconds as f64,
            cpu_ns / n_rows,
            crowd_cpu_ns / n_rows
        );
        (rows, in_first_second, idle, busy)
    };
    let start = server.memory_kib("VmRSS");
    let (few, ..) = run(10, SECONDS);
    let before = server.memory_kib("VmRSS");
    let (many, in_first_second, idle, busy) = run(CROWD, SECONDS);
    let total = |rows: &[f64]| rows.iter().sum::<f64>();
    let jain = total(&many).powi(2) / (CROWD as f64 * many.iter().map(|rows| rows * rows).sum::<f64>());
    println!("streams with rows in the first second: {in_first_second} of {CROWD} (target: all)");
    println!("Jain's index over rows after {SECONDS} s: {jain:.3} (target: at least 0.97)");
    println!(
        "rows/s: {:.2} of what 10 streams get (target: at least 0.8)",
        total(&many) / total(&few)
    );
    println!(
        "memory per idle connection: {} KiB (target: at most 64)",
        (idle.saturating_sub(before)) / CROWD as u64
    );
    println!(
        "memory per running stream: {} KiB (target: at most 200); at start {start} KiB",
        (busy.saturating_sub(before)) / CROWD as u64
    );
}

/// From `cancel_query` to `query_cancelled`, of streams that want progress.
fn cancel(database: &str) {
    let server = Server::start(database, &[&AT_ANY_RATE[..], &AT_ANY_SIZE].concat());
    let mut client = Client::connect(&server.address);
    let mut measure = |sql: &str, rounds: usize, wait: fn(usize) -> Duration| {
        let query = query_with_progress(sql, "\"row_format\":\"array\",\"batch_size\":1000");
        let mut times = Vec::new();
        for n in 0..rounds {
            client.send(&query);
            let started = client.until("query_started");
            let until = Instant::now() + wait(n);
            while Instant::now() < until {
                client.try_drain(until);
            }
            let begun_at = Instant::now();
            client.send(&format!(
                "{{\"type\":\"cancel_query\",\"stream_id\":\"{}\"}}",
                field(&started, "stream_id")
            ));
            let end = client.until("query_cancelled");
            assert!(end.contains("\"engine_stopped\":true"), "{end}");
            times.push(begun_at.elapsed().as_secs_f64() * 1e3);
        }
        quantiles(times)
    };
    let scan = measure(&format!("SELECT * FROM {TABLE}"), 300, |n| {
        Duration::from_millis(n as u64 % 20)
    });
    println!("cancel of a scan: {scan} ms (target: median at most 0.25, p99 at most 5)");
    let sort = format!("SELECT * FROM (SELECT * FROM {TABLE} LIMIT 2000000) ORDER BY l_comment, l_orderkey");
    let sort = measure(&sort, 100, |n| Duration::from_millis(50 + 20 * (n as u64 % 100)));
    println!("cancel of a sort of 2 million rows: {sort} ms (target: p99 under 100)");
}

/// Scans that are started and cancelled one after another on one connection, by default settings: the time to the first batch.
fn restarts(database: &str) {
    const SERVERS: usize = 5;
    const SCANS: usize = 100;
    let query = query_with_progress(&format!("SELECT * FROM {TABLE}"), "");
    let (mut first, mut later) = (Vec::new(), Vec::new());
    for _ in 0..SERVERS {
        let server = Server::start(database, &[]);
        let mut client = Client::connect(&server.address);
        for n in 0..SCANS {
            let begun_at = Instant::now();
            client.send(&query);
            let started = client.until("query_started");
            client.until("query_batch");
            let times = if n == 0 { &mut first } else { &mut later };
            times.push(begun_at.elapsed().as_secs_f64() * 1e3);
            client.send(&format!(
                "{{\"type\":\"cancel_query\",\"stream_id\":\"{}\"}}",
                field(&started, "stream_id")
            ));
            client.until("query_cancelled");
        }
    }
    let ratio = median(later.clone()) / median(first.clone());
    println!("first batch of the first scan of a server: {} ms", quantiles(first));
    println!(
        "of the {SCANS} scans after it: {} ms, {ratio:.2} of the first (target: at most twice)",
        quantiles(later)
    );
}

/// What it costs to find out how large a result is: the server's CPU for a client that stops reading after the first batch, with progress and
/// without.
fn estimates(database: &str) {
    const ROUNDS: usize = 5;
    let queries = [
        ("scan", format!("SELECT * FROM {TABLE}")),
        ("filtered scan", format!("SELECT * FROM {TABLE} WHERE l_quantity > 1")),
        (
            "sorted",
            format!("SELECT l_orderkey FROM {TABLE} WHERE l_orderkey < 2000000 ORDER BY l_orderkey + 0"),
        ),
        (
            "join",
            format!("SELECT a.l_tax FROM {TABLE} a, {TABLE} b WHERE a.l_tax + b.l_tax >= 0"),
        ),
        (
            "computed",
            "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 100000000) SELECT i FROM n"
                .to_owned(),
        ),
    ];
    println!(
        "| query | CPU ms with progress off | first with progress | again | cost of the estimate, first and again |\n|---|---:|---:|---:|---:|"
    );
    for (name, sql) in queries {
        let (mut without, mut first, mut again) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let server = Server::start(database, &AT_ANY_SIZE);
            let mut client = Client::connect(&server.address);
            // The first opens the file.
            cpu_of_one_batch(&server, &mut client, &query_json(&sql, ""));
            without.push(cpu_of_one_batch(&server, &mut client, &query_json(&sql, "")));
            // Longer than the benchmark, so that no message is part of the figure.
            let query = query_with_progress(&sql, "\"progress_interval_ms\":60000");
            first.push(cpu_of_one_batch(&server, &mut client, &query));
            again.push(cpu_of_one_batch(&server, &mut client, &query));
        }
        let (without, first, again) = (median(without), median(first), median(again));
        println!(
            "| {name} | {without:.1} | {first:.1} | {again:.1} | {:.1}, {:.1} |",
            first - without,
            again - without
        );
    }
    println!("target: at most 50 ms");
}

/// Milliseconds of the server's CPU until a query's first batch and for half a second after it, while its window takes no more than that.
fn cpu_of_one_batch(server: &Server, client: &mut Client, query: &str) -> f64 {
    let before = server.cpu_ns();
    client.send(&query.replacen('{', "{\"window\":{\"batches\":1},", 1));
    let started = client.until("query_started");
    client.until("query_batch");
    thread::sleep(Duration::from_millis(500));
    let cpu_ns = server.cpu_ns() - before;
    client.send(&format!(
        "{{\"type\":\"cancel_query\",\"stream_id\":\"{}\"}}",
        field(&started, "stream_id")
    ));
    client.until("query_cancelled");
    cpu_ns / 1e6
}

// ---- queries ----

/// Streams a query to a process that drops what it reads: rows, server CPU and wall time, both in nanoseconds.
fn stream(server: &Server, query: &str) -> (f64, f64, f64) {
    let before = server.cpu_ns();
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--drain-query", &server.address, query])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    // The connection is still open, so the threads that served it are still there to be asked.
    let cpu_ns = server.cpu_ns() - before;
    drop(child.stdin.take());
    child.wait().unwrap();
    let mut figures = line.split_whitespace().map(|n| n.parse::<f64>().unwrap());
    (figures.next().unwrap(), cpu_ns, figures.next().unwrap())
}

fn query_json(sql: &str, fields: &str) -> String {
    let comma = if fields.is_empty() { "" } else { "," };
    query_with_progress(sql, &format!("\"progress_interval_ms\":0{comma}{fields}"))
}

/// As clients ask that want to know how far it is: by default all of them.
fn query_with_progress(sql: &str, fields: &str) -> String {
    let comma = if fields.is_empty() { "" } else { "," };
    format!("{{\"type\":\"stream_query\",\"query\":\"{sql}\"{comma}{fields}}}")
}

/// The text of a field that is a string or a number.
fn field<'a>(message: &'a str, name: &str) -> &'a str {
    let (_, rest) = message.split_once(&format!("\"{name}\":")).unwrap();
    rest.trim_start_matches('"').split(['"', ',', '}']).next().unwrap()
}

// ---- processes of their own ----

fn wait_for_line() {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
}

fn drain_query(address: &str, query: &str) {
    let mut client = Client::connect(address);
    let begun_at = Instant::now();
    client.send(query);
    let end = client.until("query_completed");
    println!("{} {}", field(&end, "total_rows"), begun_at.elapsed().as_nanos());
    wait_for_line();
}

fn drain_bytes(address: &str) {
    let mut socket = TcpStream::connect(address).unwrap();
    let mut buffer = vec![0; 256 * 1024];
    while socket.read(&mut buffer).unwrap() > 0 {}
}

/// A connection of the crowd: its socket, and how far the frame is that it is in the middle of.
struct Member {
    socket: TcpStream,
    header: Vec<u8>,
    payload_left: usize,
    rows: f64,
    first: Option<Duration>,
}

/// Rows of each batch: the server's default, which the crowd does not change.
const CROWD_BATCH_ROWS: f64 = 100.0;

impl Member {
    /// Reads what there is. False where there is nothing.
    fn read(&mut self, buffer: &mut [u8], begun_at: Instant) -> bool {
        let Ok(n) = self.socket.read(buffer) else { return false };
        let mut bytes = &buffer[..n];
        while !bytes.is_empty() {
            let skipped = self.payload_left.min(bytes.len());
            self.payload_left -= skipped;
            bytes = &bytes[skipped..];
            let Some((byte, rest)) = bytes.split_first() else { break };
            self.header.push(*byte);
            bytes = rest;
            let wanted = match self.header.get(1) {
                Some(126) => 4,
                Some(127) => 10,
                _ => 2,
            };
            if self.header.len() == wanted {
                self.payload_left = match wanted {
                    2 => usize::from(self.header[1]),
                    _ => self.header[2..]
                        .iter()
                        .fold(0, |len, byte| len << 8 | usize::from(*byte)),
                };
                self.header.clear();
                // Only batches are that large.
                if self.payload_left > 4_096 {
                    self.rows += CROWD_BATCH_ROWS;
                    self.first.get_or_insert_with(|| begun_at.elapsed());
                }
            }
        }
        true
    }
}

/// Many connections with one big stream each, read as fast as they come by two threads that go round: as little as possible of
/// the machine goes to the clients.
fn crowd(address: &str, n: usize, seconds: u64, query: &str) {
    let mut clients: Vec<_> = (0..n).map(|_| Client::connect(address)).collect();
    println!("connected");
    wait_for_line();
    let begun_at = Instant::now();
    let cpu_before = cpu_ns_of(std::process::id());
    let end = begun_at + Duration::from_secs(seconds);
    for client in &mut clients {
        client.send(query);
    }
    let mut members: Vec<_> = clients
        .into_iter()
        .map(|client| Member {
            socket: client.socket.into_inner(),
            header: Vec::new(),
            payload_left: 0,
            rows: 0.0,
            first: None,
        })
        .collect();
    let half = members.len() / 2;
    thread::scope(|scope| {
        let (one, other) = members.split_at_mut(half);
        for part in [one, other] {
            scope.spawn(move || {
                let mut buffer = vec![0; 64 * 1024];
                part.iter()
                    .for_each(|member| member.socket.set_nonblocking(true).unwrap());
                while Instant::now() < end {
                    let n_read = part
                        .iter_mut()
                        .filter_map(|member| member.read(&mut buffer, begun_at).then_some(()))
                        .count();
                    // Going round for a few of many would cost more than it reads.
                    if n_read * 4 < part.len() {
                        thread::sleep(Duration::from_millis(5));
                    }
                }
            });
        }
        thread::sleep(Duration::from_secs(seconds / 2));
        println!("busy");
        thread::sleep((end - Duration::from_millis(50)).saturating_duration_since(Instant::now()));
        println!("{}", cpu_ns_of(std::process::id()) - cpu_before);
    });
    let rows: Vec<String> = members.iter().map(|member| member.rows.to_string()).collect();
    println!("{}", rows.join(" "));
    let early = |first: &Option<Duration>| first.is_some_and(|first| first <= Duration::from_secs(1));
    println!("{}", members.iter().filter(|member| early(&member.first)).count());
}
