//! Clients that share no code with the server: the example in plain Python, and the libraries that others use.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use rowstream::engine::sqlite::SqliteEngine;
use rowstream::{Server, ServerHandle};
use rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::proxy::{CutKind, CutProxy};

/// A program that takes longer is killed, and fails the test. The slowest takes some seconds, most of them to load its libraries.
const PROGRAM_DEADLINE: Duration = Duration::from_secs(120);

const N_ROWS: i64 = 20_000;

/// An endless query, whose first rows come at once.
const ENDLESS: &str = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A server over a SQLite file of these statements.
struct Served {
    server: ServerHandle,
    _folder: TempDir,
}

impl Served {
    fn new(sql: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("interop.db");
        Connection::open(&path).unwrap().execute_batch(sql).unwrap();
        let server = Server::builder()
            .engine("sqlite", SqliteEngine::open(&path).unwrap())
            .listen("127.0.0.1:0")
            .start()
            .unwrap();
        Self {
            server,
            _folder: folder,
        }
    }

    /// With a table of many rows that say "rows", in an order of their own.
    fn with_rows() -> Self {
        Self::new(&format!(
            "CREATE TABLE t(i INTEGER PRIMARY KEY, r REAL, s TEXT, b BLOB);
             WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {N_ROWS} - 1)
             INSERT INTO t SELECT i, i / 3.0, 'näme \"rows\": ' || i, zeroblob(i % 5) FROM n"
        ))
    }

    fn url(&self) -> String {
        format!("ws://{}/ws", self.server.local_addr().unwrap())
    }
}

/// How a program ended, and all that it said.
struct Ended {
    status: ExitStatus,
    out: String,
    err: String,
}

impl Ended {
    /// The JSON documents on its standard output, one a line.
    fn lines(&self) -> Vec<Value> {
        self.out
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[track_caller]
    fn check(&self, code: i32, says: &str) {
        assert_eq!(self.status.code(), Some(code), "{}", self.err);
        assert!(self.err.contains(says), "{}", self.err);
    }
}

/// A program under way: what it says is read by threads that end with it.
struct Running {
    child: Child,
    first_line: Receiver<()>,
    said: [Receiver<String>; 2],
}

impl Running {
    #[track_caller]
    fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}: run tests/run, which installs what is missing"));
        let (mut out, mut err) = (
            BufReader::new(child.stdout.take().unwrap()),
            child.stderr.take().unwrap(),
        );
        let (first_line_tx, first_line) = sync_channel(1);
        let (out_tx, out_rx) = sync_channel(1);
        let (err_tx, err_rx) = sync_channel(1);
        let read_out = move || {
            let mut text = String::new();
            out.read_line(&mut text).unwrap();
            let _nobody_waits = first_line_tx.send(());
            out.read_to_string(&mut text).unwrap();
            let _given_up = out_tx.send(text);
        };
        let read_err = move || {
            let mut text = String::new();
            err.read_to_string(&mut text).unwrap();
            let _given_up = err_tx.send(text);
        };
        thread::Builder::new().spawn(read_out).unwrap();
        thread::Builder::new().spawn(read_err).unwrap();
        Self {
            child,
            first_line,
            said: [out_rx, err_rx],
        }
    }

    /// Waits for its first line.
    #[track_caller]
    fn has_begun(&self) {
        self.first_line.recv_timeout(PROGRAM_DEADLINE).unwrap();
    }

    /// Has it interrupted, as Ctrl-C does.
    #[track_caller]
    fn interrupt(&self) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    }

    /// Waits until it ends; kills it when it takes too long.
    #[track_caller]
    fn end(mut self) -> Ended {
        let [out, err] = self.said;
        let out = out.recv_timeout(PROGRAM_DEADLINE);
        if matches!(out, Err(RecvTimeoutError::Timeout)) {
            self.child.kill().unwrap();
        }
        let err = err.recv_timeout(PROGRAM_DEADLINE).unwrap();
        Ended {
            out: out.unwrap_or_else(|error| panic!("{error} after {PROGRAM_DEADLINE:?}: {err}")),
            status: self.child.wait().unwrap(),
            err,
        }
    }
}

fn plain_client(url: &str, query: &str, flags: &[&str]) -> Running {
    let mut command = Command::new("python3");
    command.arg(root().join("examples/plain_client.py")).args([url, query]);
    Running::start(command.args(flags))
}

/// Row `i` of the table, as it looks in JSON.
fn row(i: i64) -> Value {
    let blob = ["", "AA==", "AAA=", "AAAA", "AAAAAA=="][i as usize % 5];
    json!({"i": i, "r": i as f64 / 3.0, "s": format!("näme \"rows\": {i}"), "b": blob})
}

#[track_caller]
fn check_all_rows(ended: &Ended) {
    let lines = ended.lines();
    assert_eq!(lines.len() as i64, N_ROWS, "{}", ended.err);
    for (at, line) in (0..).zip(&lines) {
        assert_eq!(*line, row(at));
    }
}

#[test]
fn the_plain_client_prints_all_rows() {
    let served = Served::with_rows();
    for flags in [&[] as &[&str], &["--gzip"]] {
        let ended = plain_client(&served.url(), "SELECT * FROM t", flags).end();
        ended.check(0, "");
        assert_eq!(ended.err, "");
        check_all_rows(&ended);
        let ended = plain_client(&served.url(), "SELECT * FROM t WHERE 0", flags).end();
        assert_eq!(
            (ended.status.code(), ended.out.as_str()),
            (Some(0), ""),
            "{}",
            ended.err
        );
    }
}

#[test]
fn the_plain_client_survives_cuts_with_every_row_once() {
    let served = Served::with_rows();
    let proxy = CutProxy::start(served.server.local_addr().unwrap(), 20);
    let url = format!("ws://{}/ws", proxy.address());
    for (flags, after) in [(&[] as &[&str], 200_000..400_000), (&["--gzip"], 20_000..60_000)] {
        for kind in [CutKind::Reset, CutKind::Close] {
            let n_cuts_before = proxy.n_cuts();
            proxy.cut(Some((kind, after.clone())));
            let ended = plain_client(&url, "SELECT * FROM t", flags).end();
            ended.check(0, "connection lost");
            check_all_rows(&ended);
            assert!(proxy.n_cuts() > n_cuts_before, "it was cut at least once");
        }
    }
}

#[test]
fn the_plain_client_says_why_it_has_no_rows() {
    let served = Served::new("");
    let url = served.url();
    plain_client(&url, "SELECT nowhere", &[])
        .end()
        .check(1, "SYNTAX_ERROR: no such column: nowhere");
    plain_client(&url, "SELECT 1", &["--carving"]).end().check(2, "--gzip");
    plain_client(&url.replace("/ws", "/"), "SELECT 1", &[])
        .end()
        .check(3, "200 OK");
    served.server.shutdown();
    plain_client(&url, "SELECT 1", &[]).end().check(3, "no connection");
}

#[test]
fn the_plain_client_cancels_on_ctrl_c() {
    let served = Served::new("");
    let running = plain_client(&served.url(), ENDLESS, &[]);
    running.has_begun();
    running.interrupt();
    running.end().check(130, "cancelled: client");
}
