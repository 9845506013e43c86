//! System calls that fail: `rowstream serve` under strace, which makes them. Errors have their codes, nothing panics, and the
//! server serves on.
//!
//! strace counts calls for each thread.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;

use rowstream::client::Event;
use rowstream::{Client, ClientError, ErrorCode};
use rusqlite::Connection;
use tempfile::TempDir;

use crate::cli::{Served, rowstream, signal};
use crate::process::exit_of;

const ROWS: i64 = 20_000;

/// A server that is still to be started.
struct Run {
    folder: Arc<TempDir>,
    command: Command,
}

/// A server of which some calls fail.
struct Injected {
    folder: Arc<TempDir>,
    served: Served,
}

/// A server of this many rows and with one worker, whose calls fail as strace is told.
fn prepare(what: &str, is_of_the_database: bool) -> Run {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("many.db");
    let sql = format!(
        "CREATE TABLE t(n INTEGER, text TEXT); INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n \
LIMIT {ROWS}) SELECT i, printf('%0100d', i) FROM n"
    );
    Connection::open(&path).unwrap().execute_batch(&sql).unwrap();
    let path = path.to_str().unwrap();
    let serve = rowstream(&["serve", "--listen", "127.0.0.1:0", "--workers", "1", "--db", path]);
    // The server is the child, and strace ends with it.
    let mut command = Command::new("strace");
    command.args(["-D", "-f", "-qq", "-o"]).arg(folder.path().join("trace"));
    if is_of_the_database {
        command.args(["-P", path]);
    }
    let (call, _) = what.split_once(':').unwrap();
    command.args(["-e", &format!("trace={call}"), "-e", &format!("inject={what}")]);
    command.arg(serve.get_program()).args(serve.get_args());
    command.env_remove("ROWSTREAM_LISTEN").stdin(Stdio::null());
    Run {
        folder: Arc::new(folder),
        command,
    }
}

impl Run {
    /// Where it says what is wrong.
    fn log(&self) -> Stdio {
        File::create(self.folder.path().join("log")).unwrap().into()
    }

    fn serve(self) -> Injected {
        let log = self.log();
        Injected {
            served: Served::start_with(self.command, log, Arc::clone(&self.folder)),
            folder: self.folder,
        }
    }
}

impl Injected {
    fn connect(&self) -> Result<Client, ClientError> {
        Client::connect(&self.served.url)
    }

    /// All rows of a query, each of them once and in order, or its error.
    fn read_all(&self) -> Result<(), ClientError> {
        let client = self.connect()?;
        let mut n_rows = 0;
        for batch in client.query("SELECT n, text FROM t").start()? {
            for row in batch?.rows() {
                let (n, text): (i64, String) = (row.get(0).unwrap(), row.get(1).unwrap());
                assert_eq!((n, text), (n_rows, format!("{n_rows:0100}")));
                n_rows += 1;
            }
        }
        assert_eq!(n_rows, ROWS);
        Ok(())
    }

    fn n_injected(&self) -> usize {
        let trace = fs::read_to_string(self.folder.path().join("trace")).unwrap();
        trace.matches("(INJECTED)").count()
    }

    /// Ends as every server does, and nothing has panicked.
    fn check_end(mut self) {
        signal(&self.served.process, "-TERM");
        assert_eq!(exit_of(&mut self.served.process).code(), Some(0));
        check_log(&self.folder);
    }
}

/// What it has said: nothing of a panic.
fn check_log(folder: &TempDir) -> String {
    let log = fs::read_to_string(folder.path().join("log")).unwrap();
    assert!(!log.contains("panicked"), "{log}");
    log
}

#[test]
fn a_database_that_cannot_be_read_for_a_while_is_an_error_and_read_again() {
    // A query has some 500 of these calls. One that fails may be the count of its rows, which it does without: not so thirty in a row.
    for (error, first) in [("EIO", 30), ("EIO", 400), ("ENOSPC", 200)] {
        let what = format!("pread64:error={error}:when={first}..{}", first + 29);
        let server = prepare(&what, true).serve();
        let mut n_failed = 0;
        while server.n_injected() < 30 {
            match server.read_all() {
                Ok(()) => {}
                Err(ClientError::Query(error)) => {
                    assert_eq!(error.code, ErrorCode::EngineUnavailable, "{what}: {error:?}");
                    n_failed += 1;
                }
                Err(error) => panic!("{what}: {error}"),
            }
        }
        assert!((1..=30).contains(&n_failed), "{what}: {n_failed}");
        server.read_all().unwrap();
        server.check_end();
    }
}

#[test]
fn a_server_without_descriptors_rests_and_accepts_again() {
    let server = prepare("accept4:error=EMFILE:when=2..4", false).serve();
    for _ in 0..5 {
        server.read_all().unwrap();
    }
    assert_eq!(server.n_injected(), 3);
    server.check_end();
}

/// The fourth write of each connection fails, and so does each connection.
#[test]
fn connections_that_are_reset_under_each_write_lose_and_repeat_nothing() {
    let server = prepare("sendto,writev:error=ECONNRESET:when=4", false).serve();
    let client = server.connect().unwrap();
    let query = client.query("SELECT n FROM t").batch_size(2_000).window(1, 1 << 20);
    let mut stream = query.resumable(true).start().unwrap();
    let (mut n_rows, mut n_resumed) = (0, 0);
    while let Some(event) = stream.next_event().unwrap() {
        match event {
            Event::Batch(batch) => {
                for row in batch.rows() {
                    assert_eq!(row.get::<i64>("n").unwrap(), n_rows);
                    n_rows += 1;
                }
            }
            Event::Resumed => n_resumed += 1,
            _ => {}
        }
    }
    assert_eq!(n_rows, ROWS);
    assert!(n_resumed > 0 && server.n_injected() >= n_resumed, "{n_resumed}");
    // Who does not ask for it is told.
    let query = client.query("SELECT n FROM t").batch_size(2_000).window(1, 1 << 20);
    let error = query
        .start()
        .and_then(|stream| stream.collect::<Result<Vec<_>, _>>())
        .unwrap_err();
    assert!(error.ends_connection(), "{error}");
    client.close();
    server.check_end();
}

/// Its first thread is refused, then its second, and so on until it starts.
#[test]
fn a_thread_that_is_refused_is_the_end_of_the_start() {
    for n in 1..20 {
        let mut run = prepare(&format!("clone3:error=EAGAIN:when={n}"), false);
        let log = run.log();
        let mut process = run.command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        if line.is_empty() {
            assert_eq!(process.wait().unwrap().code(), Some(1));
            let log = check_log(&run.folder);
            assert!(log.starts_with("rowstream: ") && log.contains("os error 11"), "{log}");
            continue;
        }
        process.kill().unwrap();
        process.wait().unwrap();
        assert!(n > 4, "workers, timekeeper, listener and signals have each one");
        return;
    }
    panic!("more threads than it has at its start");
}

/// The listener's twentieth and twenty-first.
#[test]
fn a_thread_that_is_refused_costs_one_connection() {
    let server = prepare("clone3:error=EAGAIN:when=20..21", false).serve();
    let mut n_refused = 0;
    for _ in 0..25 {
        match server.connect() {
            Ok(client) => {
                client.ping().unwrap();
                client.close();
            }
            Err(ClientError::Handshake { status: Some(503), .. }) => n_refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!((n_refused, server.n_injected()), (2, 2));
    server.read_all().unwrap();
    server.check_end();
}
