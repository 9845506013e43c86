//! `rowstream serve` as a service: signals, an end by force, and a service manager.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use rowstream::auth::{Identity, TokenFile};
use rowstream::client::Event;
use rowstream::{Client, ClientError, ErrorCode};
use rusqlite::Connection;
use serde_json::json;
use tempfile::TempDir;
use tungstenite::Message;

use crate::cli::{ENDLESS, Served, signal};
use crate::exposition::Samples;
use crate::operations::get;
use crate::revocation::write_tokens;
use crate::support::{DEADLINE, Plain, Wire, number};

fn connect(served: &Served) -> Plain {
    Plain::connect_to(served.address(), &[])
}

/// Starts a query without end that stands still after each batch.
fn start(client: &mut Plain, request_id: u64) {
    client.query(
        ENDLESS,
        json!({"request_id": request_id, "batch_size": 10, "window": {"batches": 1}, "progress_interval_ms": 0}),
    );
}

/// How the process ended. Waits without looking at a clock but to fail.
#[track_caller]
pub(crate) fn exit_of(process: &mut Child) -> ExitStatus {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(status) = process.try_wait().unwrap() {
            return status;
        }
        assert!(Instant::now() < end, "the process goes on");
        std::thread::yield_now();
    }
}

#[test]
fn a_hundred_streams_end_once_each_when_the_server_is_terminated() {
    let mut served = Served::with(&["--drain-seconds", "1"]);
    let mut clients: Vec<Plain> = (0..4).map(|_| connect(&served)).collect();
    for client in &mut clients {
        for n in 0..25 {
            start(client, n);
        }
        let mut n_batches = 0;
        while n_batches < 25 {
            n_batches += u32::from(matches!(client.recv(), Wire::QueryBatch { .. }));
        }
    }
    signal(&served.process, "-TERM");
    for client in &mut clients {
        let mut n_ends = BTreeMap::new();
        let mut n_goaways = 0;
        let code = loop {
            match client.next_raw() {
                Message::Text(text) => match serde_json::from_str(&text).unwrap() {
                    Wire::Goaway { drain_ms, .. } => {
                        assert!(drain_ms <= 1_000, "{drain_ms}");
                        n_goaways += 1;
                    }
                    Wire::QueryCancelled {
                        request_id: Some(id),
                        reason,
                        rows_sent: 10,
                        ..
                    } if reason == "shutdown" => *n_ends.entry(id.as_u64()).or_insert(0) += 1,
                    other => panic!("unexpected: {other:?}"),
                },
                Message::Close(frame) => break frame.map(|frame| u16::from(frame.code)),
                other => panic!("unexpected: {other:?}"),
            }
        };
        assert_eq!((n_goaways, code), (1, Some(1012)));
        assert_eq!(n_ends, (0..25).map(|n| (Some(n), 1)).collect());
    }
    assert_eq!(exit_of(&mut served.process).code(), Some(0));
}

#[test]
fn a_second_signal_leaves_at_once() {
    for (name, code) in [("-TERM", 143), ("-INT", 130)] {
        let mut served = Served::with(&["--drain-seconds", "3600"]);
        let mut client = connect(&served);
        start(&mut client, 0);
        client.recv_started();
        signal(&served.process, name);
        client.recv_until("goaway", |wire| matches!(wire, Wire::Goaway { .. }));
        signal(&served.process, name);
        assert_eq!(exit_of(&mut served.process).code(), Some(code), "{name}");
    }
}

#[test]
fn a_server_without_streams_ends_long_before_the_deadline() {
    let mut served = Served::with(&["--drain-seconds", "3600"]);
    let mut client = connect(&served);
    client.run("SELECT 1", json!({})).assert_completed();
    signal(&served.process, "-INT");
    assert_eq!(client.recv_close(), 1012);
    assert_eq!(exit_of(&mut served.process).code(), Some(0));
}

#[test]
fn a_hang_up_ends_nothing() {
    let served = Served::new();
    let mut client = connect(&served);
    start(&mut client, 0);
    client.recv_until("rows", |wire| matches!(wire, Wire::QueryBatch { .. }));
    signal(&served.process, "-HUP");
    client.assert_silence();
    connect(&served).run("SELECT 1", json!({})).assert_completed();
}

#[test]
fn a_hang_up_turns_out_whose_token_is_gone() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("tokens");
    let (token, line) = TokenFile::generate(&Identity::new("alice")).unwrap();
    write_tokens(&path, &[&line]);
    let served = Served::with(&["--token-file", path.to_str().unwrap()]);
    let shown = format!("Bearer {}", token.expose());
    let mut client = Plain::connect_to(served.address(), &[("authorization", &shown)]);
    start(&mut client, 0);
    client.recv_until("rows", |wire| matches!(wire, Wire::QueryBatch { .. }));
    write_tokens(&path, &["# nobody\n"]);
    signal(&served.process, "-HUP");
    let error = client.recv();
    assert!(
        matches!(&error, Wire::Error { code, .. } if code == "UNAUTHENTICATED"),
        "{error:?}"
    );
    let end = client.recv();
    assert!(
        matches!(&end, Wire::QueryCancelled { reason, .. } if reason == "admin"),
        "{end:?}"
    );
    assert_eq!(client.recv_close(), 4401);
}

#[test]
fn after_an_end_by_force_every_resume_is_refused_and_no_row_is_wrong() {
    let mut served = Served::new();
    let address = served.address().to_string();
    let n_kills = i64::try_from(number("ROWSTREAM_TEST_KILLS", 5)).unwrap();
    let mut is_hung_up = 0;
    for round in 0..n_kills {
        let client = Client::connect(&served.url).unwrap();
        let query = client.query(ENDLESS).batch_size(10).window(4, 1 << 20);
        let mut stream = query.resumable(true).start().unwrap();
        let mut plain = connect(&served);
        plain.query(ENDLESS, json!({"resumable": true, "window": {"batches": 1}}));
        let Wire::QueryStarted {
            resume_token: Some(token),
            ..
        } = plain.recv_until("the start", |wire| matches!(wire, Wire::QueryStarted { .. }))
        else {
            panic!("no token")
        };
        let (mut n_rows, mut is_killed) = (0_i64, false);
        let error = loop {
            match stream.next_event() {
                Ok(Some(Event::Batch(batch))) => {
                    for row in batch.rows() {
                        assert_eq!(row.get::<i64>("i").unwrap(), n_rows, "round {round}");
                        n_rows += 1;
                    }
                }
                Ok(Some(Event::Reconnecting)) => is_hung_up += 1,
                Ok(Some(Event::Resumed)) => panic!("another server has resumed it"),
                Ok(Some(_)) => {}
                Ok(None) => panic!("an endless query has an end"),
                Err(error) => break error,
            }
            if n_rows >= 30 + 10 * round && !is_killed {
                is_killed = true;
                served = served.killed_and_restarted(&address);
            }
        };
        assert!(
            matches!(&error, ClientError::Query(error) if error.code == ErrorCode::ResumeDenied && error.stream_id.is_none()),
            "{error}"
        );
        let mut plain = connect(&served);
        plain.send(&json!({"type": "resume_query", "resume_token": token, "last_batch": -1}));
        let refused = plain.recv();
        assert!(
            matches!(&refused, Wire::Error { code, .. } if code == "RESUME_DENIED"),
            "{refused:?}"
        );
        plain.run("SELECT 1", json!({})).assert_completed();
    }
    assert_eq!(is_hung_up, n_kills, "each time the program was told");
}

/// Sorts some 3.5 MB.
const SORT: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000) \
SELECT i, printf('%0100d', i * 7919 % 30000) AS t FROM n ORDER BY t";

/// Fills the engine's memory with sorts that stand still.
#[track_caller]
fn hoard(hoarder: &mut Plain, resumable: bool) {
    let mut n_held = 0;
    loop {
        let extra =
            json!({"request_id": n_held, "window": {"batches": 1}, "resumable": resumable, "progress_interval_ms": 0});
        hoarder.query(SORT, extra);
        match hoarder.recv_until("a batch, or a refusal", |wire| {
            matches!(wire, Wire::QueryBatch { .. } | Wire::Error { .. })
        }) {
            Wire::QueryBatch { .. } => n_held += 1,
            Wire::Error { code, .. } => break assert_eq!(code, "ENGINE_BUSY"),
            other => panic!("{other:?}"),
        }
    }
    assert!(n_held > 1, "one alone is within bounds");
}

/// Sorts, again and again until there is room for it.
#[track_caller]
fn sort_among_others(served: &Served) {
    let mut other = connect(served);
    let end = Instant::now() + DEADLINE;
    loop {
        let seen = other.run(SORT, json!({"batch_size": 10_000, "progress_interval_ms": 0}));
        if matches!(seen.end, Some(Wire::QueryCompleted { .. })) {
            break;
        }
        assert_eq!(seen.error_code(), "ENGINE_BUSY");
        assert!(Instant::now() < end, "no room is made");
    }
}

#[test]
fn sorts_that_nobody_has_make_room_for_others_at_once() {
    let served = Served::with(&["--sqlite-heap", "24MiB", "--query-rate", "off"]);
    let mut hoarder = connect(&served);
    hoard(&mut hoarder, true);
    drop(hoarder);
    sort_among_others(&served);
}

#[test]
fn sorts_that_are_left_at_rest_make_room_for_others() {
    let served = Served::with(&["--sqlite-heap", "24MiB", "--query-rate", "off"]);
    let mut hoarder = connect(&served);
    hoard(&mut hoarder, false);
    sort_among_others(&served);
    let ended = hoarder.recv_until("its oldest is stopped", Wire::is_terminator);
    assert!(
        matches!(&ended, Wire::QueryCancelled { reason, request_id: Some(id), .. } if reason == "slow_client" && *id == 0),
        "{ended:?}"
    );
}

/// The next thing that the service manager is told.
#[track_caller]
fn told(manager: &UnixDatagram) -> String {
    let mut bytes = [0; 1024];
    let n = manager.recv(&mut bytes).unwrap();
    String::from_utf8(bytes[..n].to_vec()).unwrap()
}

#[track_caller]
fn check_told(manager: &UnixDatagram, served: &mut Served) {
    assert_eq!(told(manager), "READY=1\nSTATUS=0 connections, 0 streams");
    let mut client = connect(served);
    start(&mut client, 0);
    client.recv_started();
    while told(manager) != "WATCHDOG=1\nSTATUS=1 connections, 1 streams" {}
    signal(&served.process, "-TERM");
    while told(manager) != "STOPPING=1\nSTATUS=draining" {}
    assert!(matches!(
        client.recv_until("goaway", |wire| matches!(wire, Wire::Goaway { .. })),
        Wire::Goaway { .. }
    ));
    // The watchdog is fed while streams end.
    let draining = told(manager);
    assert!(draining.starts_with("WATCHDOG=1\nSTATUS=draining: "), "{draining}");
    client.send(&json!({"type": "cancel_query", "request_id": 0}));
    assert_eq!(client.recv_close(), 1012);
    assert_eq!(exit_of(&mut served.process).code(), Some(0));
}

#[test]
fn a_service_manager_is_told_what_it_wants_to_know() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("notify");
    let by_path = UnixDatagram::bind(&path).unwrap();
    by_path.set_read_timeout(Some(DEADLINE)).unwrap();
    let name = path.to_str().unwrap();
    let variables = [("NOTIFY_SOCKET", name), ("WATCHDOG_USEC", "100000")];
    check_told(&by_path, &mut Served::with_environment(&variables));
}

#[cfg(target_os = "linux")]
#[test]
fn a_service_manager_may_have_a_name_that_is_no_path() {
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::SocketAddr;

    let name = format!("rowstream-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let manager = UnixDatagram::bind_addr(&address).unwrap();
    manager.set_read_timeout(Some(DEADLINE)).unwrap();
    let name = format!("@{name}");
    let variables = [("NOTIFY_SOCKET", name.as_str()), ("WATCHDOG_USEC", "100000")];
    check_told(&manager, &mut Served::with_environment(&variables));
}

/// Becomes the program, with a socket of its own making as descriptor 3, as systemd has it.
const ACTIVATE: &str = "
import os, socket, sys
sock = socket.create_server(('127.0.0.1', 0))
open(sys.argv[1], 'w').write(str(sock.getsockname()[1]))
if sock.fileno() != 3:
    os.dup2(sock.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS=sys.argv[2], LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[3], sys.argv[3:])
";

fn activated(n_sockets: &str, folder: &TempDir) -> Command {
    let path = folder.path().join("shop.db");
    Connection::open(&path)
        .unwrap()
        .execute_batch("CREATE TABLE t(n)")
        .unwrap();
    let mut command = Command::new("python3");
    command
        .args(["-c", ACTIVATE])
        .arg(folder.path().join("port"))
        .args([
            n_sockets,
            env!("CARGO_BIN_EXE_rowstream"),
            "serve",
            "--listen",
            "none:0",
            "--db",
        ])
        .arg(path)
        .stdin(Stdio::null());
    command
}

#[test]
fn a_socket_that_is_handed_over_is_listened_on() {
    let folder = TempDir::new().unwrap();
    let port = folder.path().join("port");
    let command = activated("1", &folder);
    let mut served = Served::start(command, folder);
    assert_eq!(
        served.address().port().to_string(),
        std::fs::read_to_string(port).unwrap()
    );
    connect(&served).run("SELECT n FROM t", json!({})).assert_completed();
    signal(&served.process, "-TERM");
    assert_eq!(exit_of(&mut served.process).code(), Some(0));
}

#[test]
fn two_sockets_that_are_handed_over_are_one_too_many() {
    let folder = TempDir::new().unwrap();
    let output = activated("2", &folder).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("2 sockets were handed over"), "{said}");
}

#[test]
fn operators_are_told_where_to_look() {
    let mut served = Served::with(&["--admin-listen", "127.0.0.1:0"]);
    let mut line = String::new();
    served.out.read_line(&mut line).unwrap();
    let address = line
        .trim()
        .strip_prefix("operators: http://")
        .and_then(|rest| rest.strip_suffix("/metrics"));
    let address = address.unwrap_or_else(|| panic!("{line}")).parse().unwrap();
    connect(&served).run("SELECT 1", json!({})).assert_completed();
    let samples = Samples::parse(&get(address, "/metrics").1);
    assert_eq!(samples.get("rows_sent_total"), 1);
    assert!(get(served.address(), "/metrics").0.starts_with("HTTP/1.1 404 "));
}
