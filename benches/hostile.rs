//! Hostile peers in full numbers against `rowstream serve` as it comes: what they get, what they cost, and what others notice.
//!
//! `cargo bench --bench hostile -- DATABASE [SECTION ...]`, where DATABASE is what `rowstream serve --demo` leaves in the temporary folder
//! and a section is one of `drip`, `heads`, `descriptors`, `fragments`, `claims`, `pings`, `resets`, `garbage`, `acks`, `silent` and `idle`;
//! without any, all run, in about a minute. CPU is that of the server's process, in steps of 10 ms; the shell's `ulimit -n` must be 2,048
//! at least.
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::disallowed_methods, missing_docs)] // a program for people at a terminal

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use crossbeam_channel::bounded;
use support::{Client, Server, quantiles};

mod support;

/// Bounds every wait.
const DEADLINE: Duration = Duration::from_secs(30);

const PROBE: &str = r#"{"type":"stream_query","query":"SELECT 1 AS n","progress_interval_ms":0}"#;

fn main() {
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let Some((database, sections)) = arguments.split_first() else {
        return println!("usage: cargo bench --bench hostile -- DATABASE [SECTION ...]");
    };
    let all = [
        ("drip", drip as fn(&str)),
        ("heads", heads),
        ("descriptors", descriptors),
        ("fragments", fragments),
        ("claims", claims),
        ("pings", pings),
        ("resets", resets),
        ("garbage", garbage),
        ("acks", acks),
        ("silent", silent),
        ("idle", idle),
    ];
    for (name, section) in all {
        if sections.is_empty() || sections.iter().any(|wanted| wanted == name) {
            println!("\n## {name}");
            section(database);
        }
    }
}

/// CPU that the process has had, of threads that have ended too.
fn cpu_ms(server: &Server) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", server.process.id())).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks = |n: usize| fields[n].parse::<u64>().unwrap();
    (ticks(11) + ticks(12)) * 10
}

fn connect(server: &Server) -> TcpStream {
    let socket = TcpStream::connect(&server.address).unwrap();
    socket.set_nodelay(true).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.set_write_timeout(Some(DEADLINE)).unwrap();
    socket
}

/// Writes until the end or the first failure; returns whether all of it went out.
fn pour(socket: &mut TcpStream, bytes: &[u8], times: usize) -> bool {
    (0..times).all(|_| socket.write_all(bytes).is_ok())
}

/// Reads up to the end or a reset; the start of what came.
fn answer(socket: &mut TcpStream) -> String {
    let mut said = Vec::new();
    let mut buffer = [0; 16 * 1024];
    while let Ok(n @ 1..) = socket.read(&mut buffer) {
        said.extend_from_slice(&buffer[..n]);
    }
    let end = said.len().min(12);
    String::from_utf8_lossy(&said[..end]).into_owned()
}

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first, 0x80 | payload.len() as u8, 0, 0, 0, 0];
    frame.extend_from_slice(payload);
    frame
}

/// The code of the close frame at the end of what came, if one has come before a reset.
fn close_code(socket: &mut TcpStream) -> Option<u16> {
    let mut said = Vec::new();
    let mut buffer = [0; 64 * 1024];
    while let Ok(n @ 1..) = socket.read(&mut buffer) {
        said.extend_from_slice(&buffer[..n]);
    }
    let at = said.windows(2).rposition(|pair| pair[0] == 0x88 && pair[1] >= 2)?;
    Some(u16::from_be_bytes([*said.get(at + 2)?, *said.get(at + 3)?]))
}

/// Asks short queries, one after another, for as long as `attack` takes and at least so many times; the times, in milliseconds.
fn probe_beside(server: &Server, n_least: usize, attack: impl FnOnce() + Send) -> Vec<f64> {
    let mut client = Client::connect(&server.address);
    thread::scope(|scope| {
        let attack = scope.spawn(attack);
        let mut times = Vec::new();
        while times.len() < n_least || !attack.is_finished() {
            let begun = Instant::now();
            client.send(PROBE);
            client.until("query_completed");
            times.push(begun.elapsed().as_secs_f64() * 1e3);
            thread::sleep(Duration::from_millis(1));
        }
        times
    })
}

/// 200 peers that drip their request, at two paces, and an honest one.
fn drip(database: &str) {
    let server = Server::start(database, &[]);
    let begun = Instant::now();
    let mut sockets: Vec<Option<TcpStream>> = (0..200).map(|_| Some(connect(&server))).collect();
    for socket in sockets.iter_mut().flatten() {
        socket.write_all(b"GET /ws HTTP/1.1\r\nHost: localhost\r\nx: ").unwrap();
        socket.set_nonblocking(true).unwrap();
    }
    let mut honest = 0.0_f64;
    let mut ended = begun;
    while sockets.iter().any(Option::is_some) {
        for (n, slot) in sockets.iter_mut().enumerate() {
            let Some(socket) = slot else { continue };
            let is_out = socket
                .write_all(if n % 2 == 0 { b"x".as_slice() } else { &[b'x'; 200] })
                .is_err();
            let mut buffer = [0; 1024];
            let is_told = !matches!(socket.read(&mut buffer), Err(error) if error.kind() == ErrorKind::WouldBlock);
            if is_out || is_told {
                ended = Instant::now();
                *slot = None;
            }
        }
        let before = Instant::now();
        drop(Client::connect(&server.address));
        honest = honest.max(before.elapsed().as_secs_f64() * 1e3);
        thread::sleep(Duration::from_millis(400));
    }
    println!(
        "200 drippers: all ended after {:.1} s (limit 6); an honest client connected within {honest:.1} ms (limit 1,000); CPU {} ms",
        ended.duration_since(begun).as_secs_f64(),
        cpu_ms(&server)
    );
}

/// 20 MB of header, 10,000 headers, a byte a packet.
fn heads(database: &str) {
    let server = Server::start(database, &[]);
    let run = |what: &str, attack: &dyn Fn(&mut TcpStream)| {
        let before = cpu_ms(&server);
        let mut socket = connect(&server);
        attack(&mut socket);
        let answer = answer(&mut socket);
        println!("{what}: {answer:?}, CPU {} ms (limit 100)", cpu_ms(&server) - before);
    };
    run("20 MB in one header", &|socket| {
        socket.write_all(b"GET / HTTP/1.1\r\nx: ").unwrap();
        pour(socket, &[b'y'; 20_000], 1_000);
    });
    run("10,000 headers", &|socket| {
        let head: String = (0..10_000).map(|n| format!("h{n}: v\r\n")).collect();
        let _refused_meanwhile =
            socket.write_all(format!("GET / HTTP/1.1\r\nHost: localhost\r\n{head}\r\n").as_bytes());
    });
    run("16 KiB in packets of a byte", &|socket| {
        let head = format!("GET / HTTP/1.1\r\nHost: localhost\r\nx: {}\r\n\r\n", "y".repeat(16_000));
        for byte in head.as_bytes() {
            socket.write_all(&[*byte]).unwrap();
        }
    });
}

/// 500 connections to a server that has 64 descriptors.
fn descriptors(database: &str) {
    let server = Server::start_in_shell("ulimit -n 64", database, &[]);
    let (begun, before) = (Instant::now(), cpu_ms(&server));
    let mut sockets: Vec<TcpStream> = (0..500).map(|_| connect(&server)).collect();
    let mut n_refused = 0;
    for socket in &mut sockets {
        socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        n_refused += usize::from(answer(socket).starts_with("HTTP/1.1 503"));
    }
    let (seconds, cpu) = (begun.elapsed().as_secs_f64(), cpu_ms(&server) - before);
    drop(sockets);
    let freed = Instant::now();
    let mut socket = connect(&server);
    socket
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    while answer(&mut socket) != "HTTP/1.1 200" {
        socket = connect(&server);
        let _refused = socket.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
    }
    println!(
        "500 connections: {n_refused} told 503, CPU {cpu} ms in {seconds:.2} s; accepts again {:.0} ms after (limit 1,000)",
        freed.elapsed().as_secs_f64() * 1e3
    );
}

/// Empty continuations for four seconds, or as long as anybody takes them.
fn fragments(database: &str) {
    let server = Server::start(database, &[]);
    for (what, piece) in [("empty", &b""[..]), ("of a byte", b" ")] {
        let mut client = Client::connect(&server.address);
        let socket = client.socket.get_mut();
        let (begun, before) = (Instant::now(), cpu_ms(&server));
        socket.write_all(&frame(0x01, b"")).unwrap();
        let flood = frame(0x00, piece).repeat(10_000);
        let mut n_sent = 0_u64;
        while begun.elapsed() < Duration::from_secs(4) && socket.write_all(&flood).is_ok() {
            n_sent += 10_000;
        }
        let seconds = begun.elapsed().as_secs_f64();
        println!(
            "continuations that are {what}: {n_sent} sent, ended after {seconds:.3} s (limit 1), CPU {} ms (limit 200)",
            cpu_ms(&server) - before
        );
    }
}

/// 400 connections that claim a message as large as allowed, and send little of it.
fn claims(database: &str) {
    let server = Server::start(database, &[]);
    let clients: Vec<Client> = (0..400).map(|_| Client::connect(&server.address)).collect();
    thread::sleep(Duration::from_millis(300));
    let before = server.memory_kib("VmRSS");
    for client in &clients {
        let mut claim = vec![0x81, 0xFF, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        claim.extend_from_slice(b"{\"type\":");
        client.socket.get_ref().write_all(&claim).unwrap();
    }
    thread::sleep(Duration::from_millis(1_000));
    let grown = server.memory_kib("VmRSS").saturating_sub(before) as f64 / 400.0;
    println!("400 claims of 64 KiB: {grown:.1} KiB each (limit 20)");
}

/// A million pings, on as many connections as it takes.
fn pings(database: &str) {
    let server = Server::start(database, &[]);
    let alone = probe_beside(&server, 500, || {});
    let before = (server.memory_kib("VmRSS"), cpu_ms(&server));
    let flood = frame(0x89, b"are you there?").repeat(1_000);
    let mut n_closed = 0;
    let beside = probe_beside(&server, 500, || {
        for _ in 0..20 {
            let mut client = Client::connect(&server.address);
            pour(client.socket.get_mut(), &flood, 50);
            n_closed += usize::from(matches!(close_code(client.socket.get_mut()), Some(1008) | None));
        }
    });
    println!(
        "1,000,000 pings on 20 connections: {n_closed} ended; memory {:+} KiB; CPU {} ms with the client beside it",
        server.memory_kib("VmRSS") as i64 - before.0 as i64,
        cpu_ms(&server) - before.1
    );
    println!("a query of another client in ms, alone: {}", quantiles(alone));
    println!(
        "                                beside: {} (p99: at most twice)",
        quantiles(beside)
    );
}

/// 100,000 times started and cancelled at once, over new connections whenever one is closed.
fn resets(database: &str) {
    const N: usize = 100_000;
    let server = Server::start(database, &[]);
    let alone = probe_beside(&server, 500, || {});
    let before = cpu_ms(&server);
    let (mut n_sent, mut codes) = (0, std::collections::BTreeMap::<String, usize>::new());
    let begun = Instant::now();
    let beside = probe_beside(&server, 500, || {
        let query = r#"{"type":"stream_query","query":"SELECT * FROM lineitem ORDER BY l_comment","request_id":1}"#;
        let cancel = r#"{"type":"cancel_query","request_id":1}"#;
        let pair = [frame(0x81, query.as_bytes()), frame(0x81, cancel.as_bytes())].concat();
        while n_sent < N {
            let mut client = Client::connect(&server.address);
            let socket = client.socket.get_mut();
            while n_sent < N && socket.write_all(&pair.repeat(100)).is_ok() {
                n_sent += 100;
            }
            let code = close_code(socket).map_or_else(|| "reset".to_owned(), |code| code.to_string());
            *codes.entry(code).or_default() += 1;
        }
    });
    let mut client = Client::connect(&server.address);
    client.send(r#"{"type":"list_queries"}"#);
    let list = client.until("query_list");
    println!(
        "{N} starts and cancels in {:.1} s: connections ended {codes:?}, CPU {} ms; left over: {}",
        begun.elapsed().as_secs_f64(),
        cpu_ms(&server) - before,
        list.split("\"total\":").nth(1).unwrap_or("?")
    );
    println!("a query of another client in ms, alone: {}", quantiles(alone));
    println!(
        "                                beside: {} (p99: at most twice)",
        quantiles(beside)
    );
}

/// 10,000 messages that are none.
fn garbage(database: &str) {
    let server = Server::start(database, &[]);
    let before = cpu_ms(&server);
    let mut client = Client::connect(&server.address);
    pour(client.socket.get_mut(), &frame(0x81, b"{\"type\":7}"), 10_000);
    let code = close_code(client.socket.get_mut());
    println!(
        "10,000 messages that are none: {code:?}, CPU {} ms",
        cpu_ms(&server) - before
    );
}

const CROWD: usize = 1_000;

/// Connects so many, upgrades them, and has read nothing yet. With the memory that the server took for each, in KiB.
fn crowd(server: &Server) -> (Vec<Client>, f64) {
    // What the first one has the server allocate is not each one's.
    drop(Client::connect(&server.address));
    let before = server.memory_kib("VmRSS");
    let clients: Vec<_> = (0..CROWD).map(|_| Client::connect(&server.address)).collect();
    let grown = server.memory_kib("VmRSS").saturating_sub(before);
    (clients, grown as f64 / CROWD as f64)
}

/// 1,000 connections that never say who they are.
fn silent(database: &str) {
    let made = Command::new(env!("CARGO_BIN_EXE_rowstream"))
        .args(["token", "somebody"])
        .output()
        .unwrap();
    let tokens = env::temp_dir().join(format!("rowstream-bench-tokens-{}", std::process::id()));
    fs::write(&tokens, made.stdout).unwrap();
    let server = Server::start(database, &["--token-file", tokens.to_str().unwrap()]);
    let begun = Instant::now();
    let (mut clients, kib) = crowd(&server);
    let connected = begun.elapsed();
    let codes: Vec<_> = clients
        .iter_mut()
        .map(|client| close_code(client.socket.get_mut()))
        .collect();
    let ended = begun.elapsed();
    fs::remove_file(tokens).unwrap();
    println!(
        "{CROWD} connections that say nothing: {} closed with 4408; all are gone after {:.1} s from the first one's connect, {:.1} from the \
last one's (limit 4); {kib:.0} KiB each meanwhile (limit 64)",
        codes.iter().filter(|code| **code == Some(4408)).count(),
        ended.as_secs_f64(),
        (ended - connected).as_secs_f64()
    );
}

/// 1,000 connections that may ask and do not.
fn idle(database: &str) {
    let server = Server::start(database, &[]);
    let (mut clients, kib) = crowd(&server);
    println!("{CROWD} idle connections: {kib:.0} KiB each (limit 64)");
    for client in &mut clients {
        client.send(PROBE);
        client.until("query_completed");
    }
    let after = server.memory_kib("VmRSS");
    drop(clients);
    println!("    the server's memory once each has asked a short query: {after} KiB in all");
}

/// CPU of a peer that answers so many acknowledgements with a row each, and hands each on to as many threads of its own in between. What no
/// server can do for less.
fn round_trip_us(n_hops: usize, n_trips: usize) -> f64 {
    const ACK: usize = 60;
    const ROW: usize = 110;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut from, _) = listener.accept().unwrap();
    let to = from.try_clone().unwrap();
    for socket in [&client, &from] {
        socket.set_nodelay(true).unwrap();
    }
    let ns: f64 = thread::scope(|scope| {
        let mut threads = Vec::new();
        let (first, mut last) = bounded::<()>(1);
        threads.push(scope.spawn(move || {
            cpu_ns_of_thread(|| {
                let mut ack = [0; ACK];
                for _ in 0..n_trips {
                    from.read_exact(&mut ack).unwrap();
                    match n_hops {
                        0 => from.write_all(&[0; ROW]).unwrap(),
                        _ => first.send(()).unwrap(),
                    }
                }
            })
        }));
        for hop in 1..=n_hops {
            let (next, received) = bounded::<()>(1);
            let hopped = std::mem::replace(&mut last, received);
            let is_last = hop == n_hops;
            let to = is_last.then(|| to.try_clone().unwrap());
            threads.push(scope.spawn(move || {
                cpu_ns_of_thread(|| {
                    for () in hopped {
                        match to.as_ref() {
                            Some(mut to) => to.write_all(&[0; ROW]).unwrap(),
                            None => next.send(()).unwrap(),
                        }
                    }
                })
            }));
        }
        let mut row = [0; ROW];
        for _ in 0..n_trips {
            client.write_all(&[0; ACK]).unwrap();
            client.read_exact(&mut row).unwrap();
        }
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    ns / 1e3 / n_trips as f64
}

fn cpu_ns_of_thread(work: impl FnOnce()) -> f64 {
    let now = || -> f64 {
        let line = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    let before = now();
    work();
    now() - before
}

/// 100,000 rows, acknowledged one by one, and all the same without a window.
fn acks(database: &str) {
    const ROWS: usize = 100_000;
    let server = Server::start(database, &[]);
    let query = format!(
        "\"type\":\"stream_query\",\"query\":\"SELECT l_orderkey FROM lineitem LIMIT {ROWS}\",\"request_id\":1,\"progress_interval_ms\":0"
    );
    let cost = |extra: &str, acknowledges: bool| {
        let mut client = Client::connect(&server.address);
        let before = server.cpu_ns();
        client.send(&format!("{{{query}{extra}}}"));
        let mut number = 0;
        loop {
            let message = client.read_message();
            if message.starts_with(b"{\"type\":\"query_completed\"") {
                break;
            }
            if acknowledges && message.starts_with(b"{\"type\":\"query_batch\"") {
                client.send(&format!(
                    "{{\"type\":\"ack\",\"request_id\":1,\"batch_number\":{number}}}"
                ));
                number += 1;
            }
        }
        (server.cpu_ns() - before) / 1e3 / ROWS as f64
    };
    let bulk = cost("", false);
    let rows = cost(",\"batch_size\":1", false);
    let dribble = cost(",\"batch_size\":1,\"window\":{\"batches\":1}", true);
    println!(
        "CPU a row: {bulk:.2} us in batches of 100, {rows:.2} us in batches of one, {dribble:.2} us with a window of one"
    );
    println!(
        "a window of one, which is a round trip a row, costs {:.0} times what batches of one cost without",
        dribble / rows
    );
    for (n_hops, who) in [(0, "one thread that echoes"), (2, "three threads that hand it on")] {
        let floor = round_trip_us(n_hops, ROWS);
        println!(
            "a round trip of the same bytes through {who} and does nothing else: {floor:.2} us of CPU, {:.1} times a row in batches of one; \
a window of one costs {:.2} times that",
            floor / rows,
            dribble / floor
        );
    }
    let alone = probe_beside(&server, 500, || {});
    let beside = probe_beside(&server, 500, || {
        cost(",\"batch_size\":1,\"window\":{\"batches\":1}", true);
    });
    println!("a query of another client in ms, alone: {}", quantiles(alone));
    println!("                                beside: {}", quantiles(beside));
}
