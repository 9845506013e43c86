//! The memory of `rowstream serve`: what a load took goes back to the system, and a small machine has a small server.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;
use tungstenite::Message;

use crate::cli::{Served, rowstream};
use crate::config::database;
use crate::support::{Plain, Wire};

const MIB: u64 = 1024 * 1024;

/// What the server of this process has of that kind, in MiB: `VmRSS`, or `VmHWM`, which is the most that it has had.
fn memory_mib(process: &Child, what: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with(what)).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib / 1024
}

/// Rows of a few KiB, without end.
const WIDE: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) \
SELECT i, printf('%04000d', i) AS wide FROM n";

/// Sorts some MB, and stands still with them.
const SORT: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) \
SELECT i, printf('%0100d', i * 7919 % 20000) AS t FROM n ORDER BY t";

/// A resumable stream that fills its window; batches of several sizes, so that none fits where another was.
fn fill(client: &mut Plain, sql: &str, n: usize) -> String {
    client.query(
        sql,
        json!({
            "request_id": n,
            "resumable": true,
            "batch_size": ([10, 30, 100][n % 3]),
            "window": {"batches": 1_024, "bytes": 4 * MIB},
            "progress_interval_ms": 0,
        }),
    );
    match client.recv_until("the start", |wire| matches!(wire, Wire::QueryStarted { .. })) {
        Wire::QueryStarted {
            resume_token: Some(token),
            ..
        } => token,
        other => panic!("not resumable: {other:?}"),
    }
}

/// Queries, takes some MiB without an `ack`, is cut, comes back for one of two streams, pauses it, and is cut for good.
fn come_and_go(served: &Served, n_streams: usize) {
    let mut client = Plain::connect_to(served.address(), &[]);
    let tokens: Vec<String> = (0..n_streams)
        .map(|n| fill(&mut client, [WIDE, WIDE, SORT][n % 3], n))
        .collect();
    let mut n_bytes = 0;
    while n_bytes < 8 * MIB {
        if let Message::Text(text) = client.next_raw() {
            n_bytes += text.len() as u64;
        }
    }
    drop(client);
    let mut client = Plain::connect_to(served.address(), &[]);
    for token in tokens.iter().step_by(2) {
        client.send(&json!({"type": "resume_query", "resume_token": token, "last_batch": -1}));
        loop {
            match client.recv_unchecked() {
                Wire::QueryResumed { stream_id, .. } => {
                    break client.send(&json!({"type": "pause_query", "stream_id": stream_id}));
                }
                Wire::QueryBatch { .. } | Wire::QueryPaused { .. } => {}
                // Its time was over, or others needed the room.
                Wire::Error { .. } => break,
                other => panic!("not resumed: {other:?}"),
            }
        }
    }
}

#[test]
fn memory_that_a_load_took_goes_back_to_the_system() {
    const N_CLIENTS: usize = 14;
    const N_STREAMS: usize = 5;
    let served = Served::with(&["--retention", "5s", "--query-rate", "off"]);
    let rss = || memory_mib(&served.process, "VmRSS");
    Plain::connect_to(served.address(), &[])
        .run("SELECT 1", json!({}))
        .assert_completed();
    let start = rss();
    thread::scope(|scope| {
        for _ in 0..N_CLIENTS {
            scope.spawn(|| come_and_go(&served, N_STREAMS));
        }
    });
    let peak = memory_mib(&served.process, "VmHWM");
    assert!(peak > start + 96, "that was no load: {start} MiB, and at most {peak}");
    let end = Instant::now() + Duration::from_secs(60);
    while rss() > start + 64 {
        assert!(
            Instant::now() < end,
            "{start} MiB at the start, {peak} at the most, and a minute after the load {}",
            rss()
        );
        thread::yield_now();
    }
}

/// `rowstream` on a machine of so much memory: of the data limit, stacks and other memory that is never touched take half.
fn on_a_machine_of(mib: u64, arguments: &[&str]) -> Command {
    let mut command = Command::new("sh");
    let limit = format!("ulimit -d {} && exec \"$0\" \"$@\"", mib * 2 * 1024);
    let program = rowstream(arguments);
    command
        .args(["-c", &limit])
        .arg(program.get_program())
        .args(program.get_args());
    command.stdin(Stdio::null());
    command
}

#[test]
fn ten_clients_at_once_are_answered_on_a_small_machine() {
    const N_CLIENTS: usize = 10;
    let folder = TempDir::new().unwrap();
    let mut command = on_a_machine_of(128, &["serve", "--listen", "127.0.0.1:0", "--demo", "0.01"]);
    command.env("TMPDIR", folder.path());
    let mut served = Served::start_with(command, Stdio::piped(), folder);
    let mut said = BufReader::new(served.process.stderr.take().unwrap())
        .lines()
        .map(Result::unwrap);
    let scaled = said.find(|line| line.starts_with("scaled to ")).unwrap();
    assert_eq!(
        scaled,
        "scaled to 128 MiB of memory: sqlite_heap 16MiB, retained_streams_max 256, held_bytes_max 16MiB, \
connection_held_bytes_max 4MiB, buffer_bytes 4MiB"
    );
    thread::scope(|scope| {
        for _ in 0..N_CLIENTS {
            scope.spawn(|| {
                let mut client = Plain::connect_to(served.address(), &[]);
                let mut count = |sql: &str| client.run(sql, json!({})).assert_completed().rows.len();
                assert_eq!(count("SELECT * FROM lineitem"), 60_175);
                assert_eq!(
                    count("SELECT l_shipmode, count(*) FROM lineitem GROUP BY 1 ORDER BY 2"),
                    7
                );
            });
        }
    });
    let most = memory_mib(&served.process, "VmHWM");
    assert!(most <= 128, "{most} MiB");
}

/// Also where the rows of an index are more than what may sort them at once.
#[test]
fn demo_data_is_written_in_what_sqlite_may_take() {
    let folder = TempDir::new().unwrap();
    let mut command = rowstream(&["serve", "--listen", "127.0.0.1:0", "--demo", "0.01"]);
    command.args(["--sqlite-heap", "4MiB"]).env("TMPDIR", folder.path());
    let served = Served::start(command, folder);
    let mut client = Plain::connect_to(served.address(), &[]);
    let counted = client.run("SELECT count(*) FROM lineitem", json!({"row_format": "array"}));
    assert_eq!(counted.assert_completed().rows, [json!([60_175])]);
}

#[track_caller]
fn check_refused(mib: u64, flags: &[&str], variables: &[(&str, &str)], says: &str) {
    for command in ["serve", "check-config"] {
        let folder = TempDir::new().unwrap();
        let db = database(&folder);
        let arguments = [&[command, "--db", &db, "--listen", "127.0.0.1:0"], flags].concat();
        let output = on_a_machine_of(mib, &arguments)
            .envs(variables.iter().copied())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(says), "{said}");
    }
}

#[test]
fn what_is_set_and_does_not_fit_is_refused_by_its_name() {
    check_refused(
        128,
        &["--held-bytes-max", "256MiB"],
        &[],
        "lower held_bytes_max = \"256MiB\" (--held-bytes-max)",
    );
    check_refused(
        128,
        &[],
        &[("ROWSTREAM_SQLITE_HEAP", "200MiB")],
        "lower sqlite_heap = \"200MiB\" (ROWSTREAM_SQLITE_HEAP)",
    );
    check_refused(
        128,
        &["--connections-max", "1000"],
        &[],
        "connections_max = 1000 (--connections-max) does not fit this host: at most ",
    );
    check_refused(64, &[], &[], "the default settings need 96 MiB of memory");
}

#[test]
fn what_is_set_and_fits_stays_as_it_is() {
    let folder = TempDir::new().unwrap();
    let db = database(&folder);
    let flags = [
        "check-config",
        "--db",
        &db,
        "--held-bytes-max",
        "14MiB",
        "--streams-max",
        "6",
    ];
    let output = on_a_machine_of(96, &flags).output().unwrap();
    let (out, said) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert_eq!(output.status.code(), Some(0), "{said}");
    for line in [
        "held_bytes_max = \"14MiB\"  # --held-bytes-max",
        "streams_max = 6  # --streams-max",
        "sqlite_heap = \"12MiB\"  # default for 96 MiB of memory",
    ] {
        assert!(out.lines().any(|found| found == line), "{line} is not in {out}");
    }
    assert!(said.contains("scaled to 96 MiB of memory: sqlite_heap 12MiB"), "{said}");
}
