//! Peers that mean no good, one kind after the other, on real sockets: what they do costs them their connection, and nobody else anything.
//!
//! Scaled to the time of the gate; `benches/hostile.rs` has the full numbers.

use std::env;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rowstream::engine::memory::{Gate, MemoryEngine, Script};
use rowstream::server::{HostLimits, Limits, Rate};
use rowstream::transport::{Halves, MemoryTransport, ReadHalf, Transport, memory_pair};
use rowstream::{Server, ServerHandle};
use serde_json::json;

use crate::support::{DEADLINE, Plain, Wire, eventually, number};

const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

fn engine() -> MemoryEngine {
    MemoryEngine::builder()
        .query("q", Script::new(["n"]).generate(100, |n| vec![(n as i64).into()]))
        .build()
}

fn serve_limited(engine: MemoryEngine, change: impl FnOnce(&mut Limits)) -> ServerHandle {
    let mut limits = Limits::default();
    change(&mut limits);
    let builder = Server::builder().engine("memory", engine).limits(limits);
    builder.listen("127.0.0.1:0").start().unwrap()
}

#[track_caller]
fn check_honest_client(server: &ServerHandle) {
    let mut client = Plain::connect(server);
    assert_eq!(client.run("q", json!({})).assert_completed().rows.len(), 100);
}

fn connect(server: &ServerHandle) -> TcpStream {
    let socket = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.set_write_timeout(Some(DEADLINE)).unwrap();
    socket.set_nodelay(true).unwrap();
    socket
}

/// A connection that has been upgraded, byte by byte.
fn upgraded(server: &ServerHandle) -> TcpStream {
    let mut socket = connect(server);
    socket.write_all(UPGRADE.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    socket
}

/// A short frame of a client, masked with zeros.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    assert!(payload.len() < 126);
    let mut frame = vec![first, 0x80 | payload.len() as u8, 0, 0, 0, 0];
    frame.extend_from_slice(payload);
    frame
}

/// Reads frames until the server closes; `None` where it is gone without a word.
fn close_code(socket: &mut TcpStream) -> Option<u16> {
    loop {
        let mut header = [0; 2];
        socket.read_exact(&mut header).ok()?;
        let len = match header[1] {
            126 => {
                let mut len = [0; 2];
                socket.read_exact(&mut len).ok()?;
                usize::from(u16::from_be_bytes(len))
            }
            len => usize::from(len),
        };
        let mut payload = vec![0; len];
        socket.read_exact(&mut payload).ok()?;
        if header[0] == 0x88 {
            return Some(u16::from_be_bytes([payload[0], payload[1]]));
        }
    }
}

/// What is left to read, up to the end or a reset.
fn answer(socket: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match socket.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => bytes.extend_from_slice(&buffer[..n]),
            Err(error) => {
                assert!(
                    !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
                    "not ended in time"
                );
                break;
            }
        }
    }
    String::from_utf8(bytes).unwrap()
}

/// T1.
#[test]
fn who_drips_a_request_or_says_nothing_is_ended_and_others_connect_meanwhile() {
    const EACH: usize = 12;
    let server = serve_limited(engine(), |limits| limits.head_deadline = Duration::from_secs(1));
    let mut sockets: Vec<TcpStream> = (0..3 * EACH).map(|_| connect(&server)).collect();
    for socket in &mut sockets[EACH..] {
        socket.write_all(b"GET /ws HTTP/1.1\r\nHost: localhost\r\nx: ").unwrap();
    }
    check_honest_client(&server);
    // A byte a round, or two hundred; the rounds are paced by the honest client's own.
    let mut client = Plain::connect(&server);
    while server.connections() > 1 {
        for (n, socket) in sockets[EACH..].iter_mut().enumerate() {
            let _ended = socket.write_all(if n % 2 == 0 { b"x" } else { &[b'x'; 20] });
        }
        // A message every 20 ms at the most, and an honest client stays below what messages may be.
        client.send(&json!({"type": "ping"}));
        client.recv();
        pause();
    }
    for socket in &mut sockets {
        let answer = answer(socket);
        let is_told = answer.is_empty() || answer.starts_with("HTTP/1.1 408 ") || answer.starts_with("HTTP/1.1 431 ");
        assert!(is_told, "{answer}");
    }
    client.run("q", json!({})).assert_completed();
}

/// Lets time pass between two rounds of a peer that is slow on purpose; no result depends on how long.
fn pause() {
    let (_sender, receiver) = std::sync::mpsc::sync_channel::<()>(0);
    let _nothing_comes = receiver.recv_timeout(Duration::from_millis(20));
}

/// A transport on which reads cannot time out.
struct Deaf(MemoryTransport);

struct DeafRead(Box<dyn ReadHalf>);

impl Transport for Deaf {
    fn split(self: Box<Self>) -> io::Result<Halves> {
        let Halves {
            read, write, control, ..
        } = Box::new(self.0).split()?;
        Ok(Halves::new(Box::new(DeafRead(read)), write, control))
    }

    fn peer(&self) -> String {
        "deaf".to_owned()
    }
}

impl Read for DeafRead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl ReadHalf for DeafRead {
    fn set_read_timeout(&mut self, _: Option<Duration>) -> io::Result<()> {
        Ok(())
    }
}

/// T1, where only the timekeeper can help.
#[test]
fn the_deadline_of_a_request_holds_where_reads_cannot_time_out() {
    let server = serve_limited(engine(), |limits| limits.head_deadline = Duration::from_millis(20));
    let peers: Vec<_> = (0..4)
        .map(|_| {
            let (here, there) = memory_pair(1024);
            server.serve_stream(Deaf(there)).unwrap();
            here
        })
        .collect();
    eventually("connections", &0, || server.connections());
    drop(peers);
}

/// T2.
#[test]
fn a_head_is_read_up_to_its_limit_and_no_further() {
    let server = serve_limited(engine(), |_| {});
    // 20 MB in one header: refused after 16 KiB; the rest finds nobody.
    let mut socket = connect(&server);
    socket.write_all(b"GET / HTTP/1.1\r\nx: ").unwrap();
    let piece = [b'y'; 64 * 1024];
    let mut n_sent = 0;
    while n_sent < 20_000_000 && socket.write_all(&piece).is_ok() {
        n_sent += piece.len();
    }
    drop(socket);
    // 10,000 headers.
    let mut socket = connect(&server);
    let head: String = (0..10_000).map(|n| format!("h{n}: v\r\n")).collect();
    let _refused_meanwhile = socket.write_all(format!("GET / HTTP/1.1\r\nHost: localhost\r\n{head}\r\n").as_bytes());
    let answer = answer(&mut socket);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    // 65 headers that fit.
    let mut socket = connect(&server);
    let head: String = (0..64).map(|n| format!("h{n}: v\r\n")).collect();
    socket
        .write_all(format!("GET / HTTP/1.1\r\nHost: localhost\r\n{head}\r\n").as_bytes())
        .unwrap();
    let answer = self::answer(&mut socket);
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    // A byte a packet is slow, and no fault.
    let mut socket = connect(&server);
    for byte in b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" {
        socket.write_all(&[*byte]).unwrap();
    }
    let answer = self::answer(&mut socket);
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    eventually("connections", &0, || server.connections());
}

const MARK: &str = "ROWSTREAM_TEST_HOSTILE";

/// A server in a process that may have 64 descriptors, until its standard input ends.
#[allow(clippy::print_stdout)] // its parent reads it
fn serve_with_few_descriptors() {
    let builder = Server::builder()
        .engine("memory", engine())
        .host_limits(HostLimits::default());
    let server = builder.listen("127.0.0.1:0").start().unwrap();
    let started = Instant::now();
    println!("listening {}", server.local_addr().unwrap());
    io::copy(&mut io::stdin(), &mut io::sink()).unwrap();
    let refusals = server.refusals();
    let elapsed_ms = started.elapsed().as_millis();
    server.shutdown();
    assert!(refusals.no_descriptor > 0, "{refusals:?}");
    let most = elapsed_ms / 50 + 2;
    assert!(
        u128::from(refusals.no_descriptor) <= most,
        "{refusals:?} in {elapsed_ms} ms"
    );
}

/// T3.
#[test]
fn at_the_limit_of_descriptors_the_server_rests_and_recovers() {
    const NAME: &str = "hostile::at_the_limit_of_descriptors_the_server_rests_and_recovers";
    if env::var_os(MARK).is_some() {
        return serve_with_few_descriptors();
    }
    let own = env::current_exe().unwrap();
    let mut child = Command::new("sh")
        .args(["-c", "ulimit -n 64; exec \"$0\" \"$@\""])
        .arg(own)
        .args(["--exact", NAME, "--test-threads=1", "--nocapture"])
        .env(MARK, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let address: SocketAddr = lines
        .by_ref()
        .map(Result::unwrap)
        .find_map(|line| Some(line.split_once("listening ")?.1.parse().unwrap()))
        .unwrap();
    let connect = || {
        let socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket
    };
    let mut flood: Vec<TcpStream> = (0..100).map(|_| connect()).collect();
    // Accepted one by one, the last ones with the descriptor kept back.
    let told = answer(flood.last_mut().unwrap());
    assert!(
        told.is_empty() || told.starts_with("HTTP/1.1 503 ") || told.starts_with("HTTP/1.1 408 "),
        "{told}"
    );
    drop(flood);
    let mut honest = connect();
    honest
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    let mut told = answer(&mut honest);
    while told.starts_with("HTTP/1.1 503 ") || told.is_empty() {
        honest = connect();
        honest
            .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .unwrap();
        told = answer(&mut honest);
    }
    assert!(told.starts_with("HTTP/1.1 200 "), "{told}");
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}

/// T10.
#[test]
fn floods_of_fragments_and_messages_that_never_end_are_closed() {
    let server = serve_limited(engine(), |limits| limits.assembly_timeout = Duration::from_millis(100));
    for piece in [b"".as_slice(), b" "] {
        let mut socket = upgraded(&server);
        socket.write_all(&frame(0x01, b"")).unwrap();
        let _ended_meanwhile = socket.write_all(&frame(0x00, piece).repeat(200_000));
        let code = close_code(&mut socket);
        // The close may be lost behind a reset, where the flood is still on its way.
        assert!(matches!(code, Some(1008) | None), "{code:?}");
    }
    // Too slow: between two frames, in a header, in a payload.
    for bytes in [
        frame(0x01, b"{"),
        [frame(0x01, b"{"), vec![0x00]].concat(),
        frame(0x81, b"{\"type\"")[..9].to_vec(),
        // Of one that is too long, which is not waited for either.
        vec![0x81, 0xFF, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0],
    ] {
        let mut socket = upgraded(&server);
        socket.write_all(&bytes).unwrap();
        assert_eq!(close_code(&mut socket), Some(1008));
    }
    // Too big, by its header alone.
    let mut socket = upgraded(&server);
    socket
        .write_all(&[0x81, 0xFF, 0, 0, 0, 0, 0, 16, 0, 1, 0, 0, 0, 0])
        .unwrap();
    assert_eq!(close_code(&mut socket), Some(1009));
    check_honest_client(&server);
    eventually("connections", &0, || server.connections());
}

/// T13.
#[test]
fn a_flood_of_pings_is_closed_with_1008_and_others_do_not_notice() {
    let server = serve_limited(engine(), |limits| limits.ping_rate = Some(Rate::new(1, 40)));
    let mut client = Plain::connect(&server);
    for first in [0x89, 0x8A] {
        let mut socket = upgraded(&server);
        let _ended_meanwhile = socket.write_all(&frame(first, b"are you there?").repeat(10_000));
        let code = close_code(&mut socket);
        assert!(matches!(code, Some(1008) | None), "{code:?}");
        client.run("q", json!({})).assert_completed();
    }
    drop(client);
    eventually("nothing is held", &(0, 0), || {
        (server.connections(), server.streams().bytes_held())
    });
}

/// T14: streams that were cancelled and run on are counted, on their connection and after it.
#[test]
fn what_is_cancelled_counts_until_its_engine_has_stopped() {
    let gate = Gate::new();
    let script = Script::new(["n"]).ignore_cancel().gate(&gate).row([1.into()]);
    let engine = MemoryEngine::builder().query("stuck", script).build();
    let mut limits = Limits::default();
    limits.streams_max = 3;
    let builder = Server::builder().engine("memory", engine.clone()).limits(limits);
    let builder = builder.workers(4).streams_per_connection_max(2).listen("127.0.0.1:0");
    let server = builder.start().unwrap();
    let refused = |client: &mut Plain, whose: &str| {
        client.query("stuck", json!({"progress_interval_ms": 0}));
        let answer = client.recv();
        assert!(
            matches!(&answer, Wire::Error { code, message, .. } if code == "TOO_MANY_STREAMS" && message.contains(whose)),
            "{answer:?}"
        );
    };
    let start_and_cancel = |client: &mut Plain| {
        client.query("stuck", json!({"progress_interval_ms": 0}));
        let id = client.recv_started();
        client.send(&json!({"type": "cancel_query", "stream_id": id}));
    };
    let mut client = Plain::connect(&server);
    start_and_cancel(&mut client);
    start_and_cancel(&mut client);
    refused(&mut client, "this connection");
    // Leaving them behind makes no room either.
    drop(client);
    let mut client = Plain::connect(&server);
    start_and_cancel(&mut client);
    refused(&mut client, "the server");
    assert_eq!(engine.probe().cursors_open, 3);
    gate.open();
    client.recv_until("the end", Wire::is_terminator);
    client.query("stuck", json!({}));
    client.finish().assert_completed();
    eventually("streams", &0, || server.streams().reports().len());
}

/// T14: as fast as the socket takes it.
#[test]
fn starting_and_cancelling_without_end_is_closed_with_4429_and_others_are_served() {
    let script = Script::new(["n"]).gate(&Gate::new());
    let engine = MemoryEngine::builder()
        .query("slow", script)
        .query("q", Script::new(["n"]).generate(100, |n| vec![(n as i64).into()]))
        .build();
    let server = serve_limited(engine.clone(), |limits| {
        limits.message_rate = None;
        limits.query_rate = Some(Rate::new(1, 150));
    });
    let begun = Instant::now();
    let mut honest = Plain::connect(&server);
    let mut flooder = Plain::connect(&server);
    let reader = flooder.tcp().try_clone().unwrap();
    let mut most = 0;
    for n in 0..1_000 {
        let query = json!({"type": "stream_query", "query": "slow", "request_id": n});
        let cancel = json!({"type": "cancel_query", "request_id": n});
        let sent = [query, cancel].map(|message| {
            let text = message.to_string();
            let mut frame = vec![0x81, 0x80 | 126];
            frame.extend_from_slice(&u16::try_from(text.len()).unwrap().to_be_bytes());
            frame.extend_from_slice(&[0; 4]);
            frame.extend_from_slice(text.as_bytes());
            (&reader).write_all(&frame).is_ok()
        });
        most = most.max(server.streams().statistics().active);
        if sent.contains(&false) {
            break;
        }
    }
    assert!(most <= 128, "{most} streams at once");
    honest.run("q", json!({})).assert_completed();
    assert_eq!(flooder.recv_close(), 4429);
    drop(flooder);
    eventually("nothing of it is left", &(1, 0, 0), || {
        (
            server.connections(),
            server.streams().reports().len(),
            engine.probe().cursors_open,
        )
    });
    let started = server.streams().statistics().started;
    let most = 151 + begun.elapsed().as_secs();
    assert!(started <= most, "{started} of 1,000 were started");
}

/// T15.
#[test]
fn messages_that_are_none_close_the_connection_and_start_nothing() {
    let engine = engine();
    let server = serve_limited(engine.clone(), |_| {});
    for garbage in [
        &b"{"[..],
        b"{\"type\":\"ack\"}",
        b"{\"type\":\"stream_query\",\"query\":7}",
        b"[]",
    ] {
        let mut socket = upgraded(&server);
        let _ended_meanwhile = socket.write_all(&frame(0x81, garbage).repeat(10_000));
        let code = close_code(&mut socket);
        assert!(matches!(code, Some(4400) | None), "{code:?}");
    }
    assert_eq!(engine.probe().cursors_opened, 0);
    check_honest_client(&server);
}

/// T16: an acknowledgement for each row is allowed, is no flood, and costs a turn of a worker for each.
#[test]
fn a_window_of_one_row_costs_a_turn_a_row() {
    const ROWS: u64 = 2_000;
    let script = Script::new(["n"]).generate(ROWS, |n| vec![(n as i64).into()]);
    let engine = MemoryEngine::builder().query("q", script).build();
    let server = serve_limited(engine.clone(), |limits| limits.message_rate = Some(Rate::new(1, 10)));
    let mut client = Plain::connect(&server);
    client.query(
        "q",
        json!({"request_id": "q", "batch_size": 1, "window": {"batches": 1}, "progress_interval_ms": 0}),
    );
    client.recv_started();
    for number in 0..ROWS {
        assert_eq!(crate::flow::recv_batch(&mut client), number);
        client.send(&json!({"type": "ack", "request_id": "q", "batch_number": number}));
    }
    client.recv_until("the end", |wire| matches!(wire, Wire::QueryCompleted { .. }));
    let fills = engine.probe().fills;
    assert!(fills <= 3 * ROWS, "{fills} turns for {ROWS} rows");
}

/// T16: acknowledgements that say nothing new are messages like any other.
#[test]
fn acknowledgements_of_nothing_are_a_flood() {
    let engine = MemoryEngine::builder().query("q", crate::flow::numbers()).build();
    let server = serve_limited(engine, |limits| limits.message_rate = Some(Rate::new(1, 100)));
    let mut client = Plain::connect(&server);
    client.query(
        "q",
        json!({"request_id": "q", "batch_size": 1, "window": {"batches": 2}, "progress_interval_ms": 0}),
    );
    client.recv_started();
    let mut socket = client.tcp().try_clone().unwrap();
    let ack = frame(0x81, br#"{"type":"ack","request_id":"q","batch_number":0}"#);
    let _ended_meanwhile = socket.write_all(&ack.repeat(2_000));
    assert_eq!(client.recv_close(), 4429);
}

/// T17.
#[test]
fn as_many_clients_as_workers_that_never_acknowledge_hold_up_nobody() {
    const WORKERS: usize = 2;
    let engine = MemoryEngine::builder()
        .query("endless", crate::flow::numbers())
        .query("q", Script::new(["n"]).generate(100, |n| vec![(n as i64).into()]))
        .build();
    let builder = Server::builder().engine("memory", engine.clone()).workers(WORKERS);
    let server = builder.listen("127.0.0.1:0").start().unwrap();
    let _silent: Vec<Plain> = (0..4 * WORKERS)
        .map(|_| {
            let mut client = Plain::connect(&server);
            client.query(
                "endless",
                json!({"window": {"batches": 1, "bytes": 1}, "progress_interval_ms": 0}),
            );
            client.recv_started();
            client
        })
        .collect();
    crate::blocking::wait_until_stalled(&server, 4 * WORKERS);
    eventually("no engine call runs", &0, || engine.probe().fills_running);
    check_honest_client(&server);
}

/// T19 and T20: numbers at every boundary, in every field that takes one.
#[test]
fn numbers_out_of_bounds_are_answered_and_change_nothing() {
    let engine = MemoryEngine::builder()
        .query("endless", crate::flow::numbers())
        .query("q", Script::new(["n"]).generate(100, |n| vec![(n as i64).into()]))
        .build();
    let server = serve_limited(engine, |limits| {
        limits.message_rate = None;
        limits.query_rate = None;
    });
    let mut client = Plain::connect(&server);
    client.query(
        "endless",
        json!({"request_id": "e", "batch_size": 1, "window": {"batches": 2}, "progress_interval_ms": 0}),
    );
    let id = client.recv_started();
    assert_eq!(crate::flow::recv_batch(&mut client), 0);
    assert_eq!(crate::flow::recv_batch(&mut client), 1);
    let out_of_bounds = [
        "-1",
        "-2",
        "-9223372036854775808",
        "-9223372036854775809",
        "4294967296",
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551615",
        "18446744073709551616",
        "1e308",
        "-1e308",
        "1e999",
        "0.5",
        "NaN",
        "\"1\"",
        "\"NaN\"",
        "[]",
        "{}",
        "true",
    ];
    let of_query = [
        "\"batch_size\":",
        "\"priority\":",
        "\"weight\":",
        "\"window\":{\"batches\":",
        "\"window\":{\"bytes\":",
        "\"max_batch_bytes\":",
    ];
    for number in out_of_bounds {
        for field in of_query {
            let close = if field.contains('{') { "}" } else { "" };
            client.send_text(&format!(
                "{{\"type\":\"stream_query\",\"query\":\"q\",\"request_id\":\"x\",{field}{number}{close}}}"
            ));
            let answer = client.recv_until("an answer", |wire| !matches!(wire, Wire::QueryBatch { .. }));
            assert!(
                matches!(&answer, Wire::Error { code, stream_id: None, .. } if code == "BAD_MESSAGE" || code == "LIMIT_EXCEEDED"),
                "{field}{number}: {answer:?}"
            );
            // So that it never is too much in a row.
            client.assert_silence();
        }
        let is_old = number == "-1";
        client.send_text(&format!(
            "{{\"type\":\"ack\",\"stream_id\":\"{id}\",\"batch_number\":{number}}}"
        ));
        if !is_old {
            let answer = client.recv();
            assert!(
                matches!(&answer, Wire::Error { code, .. } if code == "BAD_MESSAGE"),
                "ack {number}: {answer:?}"
            );
        }
        client.assert_silence();
        let report = server.streams().find(id.parse().unwrap()).unwrap().clone();
        assert_eq!((report.batches_sent, report.batches_acked), (2, 0), "ack {number}");
    }
    // A stream that is none of this client's, and one beyond what was sent.
    for (stream, number, code) in [
        ("00000000-0000-4000-8000-000000000000", 0, "STREAM_NOT_FOUND"),
        (id.as_str(), 2, "BAD_MESSAGE"),
    ] {
        crate::flow::ack(&mut client, stream, number);
        let answer = client.recv();
        assert!(
            matches!(&answer, Wire::Error { code: found, .. } if found == code),
            "{answer:?}"
        );
    }
    crate::flow::ack(&mut client, &id, 1);
    assert_eq!(crate::flow::recv_batch(&mut client), 2, "the stream is as it was");
    check_honest_client(&server);
}

/// T23.
#[test]
fn a_name_that_is_taken_is_refused_a_thousand_times_and_its_stream_goes_on() {
    let gate = Gate::new();
    let script = Script::new(["n"]).row([1.into()]).gate(&gate).row([2.into()]);
    let engine = MemoryEngine::builder().query("q", script).build();
    let server = serve_limited(engine.clone(), |limits| limits.message_rate = None);
    let mut client = Plain::connect(&server);
    client.query("q", json!({"request_id": "mine", "progress_interval_ms": 0}));
    client.recv_started();
    crate::flow::recv_batch(&mut client);
    for _ in 0..1_000 {
        client.query("q", json!({"request_id": "mine"}));
        let answer = client.recv();
        assert!(
            matches!(&answer, Wire::Error { code, stream_id: None, .. } if code == "DUPLICATE_REQUEST_ID"),
            "{answer:?}"
        );
    }
    assert_eq!(engine.probe().cursors_opened, 1);
    gate.open();
    let end = client.recv_until("the end", Wire::is_terminator);
    assert!(matches!(end, Wire::QueryCompleted { total_rows: 2, .. }), "{end:?}");
}

/// T24.
#[test]
fn hoarding_streams_for_nobody_is_bounded_and_what_is_given_up_is_said_to_be() {
    const HELD_MAX: usize = 2 << 20;
    let n_drops = number("ROWSTREAM_TEST_DROPS", 300);
    let filler: Arc<str> = "x".repeat(1_000).into();
    let script = Script::new(["x"]).generate(1 << 40, move |_| vec![(&*filler).into()]);
    let engine = MemoryEngine::builder().query("wide", script).build();
    let mut streaming = rowstream::StreamingConfig::default();
    streaming.held_bytes_max = HELD_MAX;
    streaming.retention_bytes = 256 << 10;
    streaming.retained_streams_max = 50;
    let builder = Server::builder().engine("memory", engine.clone()).streaming(streaming);
    let server = builder.listen("127.0.0.1:0").start().unwrap();
    let mut first_token = None;
    for _ in 0..n_drops {
        let mut client = Plain::connect(&server);
        client.query(
            "wide",
            json!({"batch_size": 20, "resumable": true, "window": {"batches": 64}, "progress_interval_ms": 0}),
        );
        let started = client.recv_until("the start", |wire| matches!(wire, Wire::QueryStarted { .. }));
        if let Wire::QueryStarted { resume_token, .. } = started {
            first_token = first_token.or(resume_token);
        }
        client.tcp().shutdown(Shutdown::Both).unwrap();
        let streams = server.streams();
        // One batch for each stream, and those that workers make, beyond what may be held.
        let beyond = (streams.reports().len() + 8) * 32 * 1024;
        assert!(streams.bytes_held() <= HELD_MAX + beyond, "{}", streams.bytes_held());
    }
    eventually("connections", &0, || server.connections());
    let streams = server.streams();
    assert!(streams.reports().len() <= 50, "{}", streams.reports().len());
    let given_up = streams.statistics().expired;
    assert!(given_up >= n_drops - 50, "{given_up}");
    let mut client = Plain::connect(&server);
    client.send(&json!({"type": "resume_query", "resume_token": first_token.unwrap(), "last_batch": -1}));
    let answer = client.recv();
    assert!(
        matches!(&answer, Wire::Error { code, .. } if code == "RESUME_EXPIRED"),
        "{answer:?}"
    );
    server.shutdown();
    assert_eq!((server.streams().bytes_held(), engine.probe().cursors_open), (0, 0));
}

#[test]
fn a_connection_without_use_is_closed_and_one_with_a_stream_is_not() {
    let gate = Gate::new();
    let engine = MemoryEngine::builder()
        .query("gated", Script::new(["n"]).gate(&gate).row([1.into()]))
        .build();
    let server = serve_limited(engine, |limits| limits.idle_timeout = Some(Duration::from_millis(200)));
    let mut used = Plain::connect(&server);
    used.query("gated", json!({"progress_interval_ms": 0}));
    used.recv_started();
    let mut idle = Plain::connect(&server);
    assert_eq!(idle.recv_close(), 1001);
    gate.open();
    used.finish().assert_completed();
    assert_eq!(used.recv_close(), 1001);
    eventually("connections", &1, || {
        // The idle client has not answered the close yet.
        server.connections().max(1)
    });
}

#[test]
fn a_server_has_room_for_what_its_host_gives() {
    let mut host = HostLimits::default();
    host.descriptors = Some(40);
    let builder = |engine| {
        Server::builder()
            .engine("memory", engine)
            .host_limits(host)
            .listen("127.0.0.1:0")
    };
    let server = builder(engine()).start().unwrap();
    let capacity = server.capacity().clone();
    assert_eq!(
        (capacity.connections_max, capacity.reasons.len()),
        (18, 1),
        "{capacity:?}"
    );
    let clients: Vec<Plain> = (0..18).map(|_| Plain::connect(&server)).collect();
    let told = answer(&mut connect(&server));
    assert!(told.starts_with("HTTP/1.1 503 "), "{told}");
    assert_eq!(server.refusals().full, 1);
    drop(clients);
    eventually("connections", &0, || server.connections());
    check_honest_client(&server);

    host.memory_bytes = Some(64 << 20);
    let builder = Server::builder().engine("memory", engine()).host_limits(host);
    let error = builder.start().unwrap_err().to_string();
    assert!(error.contains("held_bytes_max"), "{error}");
}
