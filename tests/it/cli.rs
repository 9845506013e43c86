//! The program, as a process: what it prints, and how it ends.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::Arc;
use std::thread;

use rusqlite::Connection;
use tempfile::TempDir;

pub(crate) fn rowstream(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rowstream"));
    command
        .args(arguments)
        .env_remove("ROWSTREAM_LISTEN")
        .env_remove("ROWSTREAM_TOKEN")
        .stdin(Stdio::null());
    command
}

/// A `rowstream serve` process on a free port.
pub(crate) struct Served {
    pub(crate) process: Child,
    pub(crate) url: String,
    /// What it prints after its address.
    pub(crate) out: BufReader<ChildStdout>,
    folder: Arc<TempDir>,
}

impl Served {
    pub(crate) fn new() -> Self {
        Self::with(&[])
    }

    /// With these arguments besides.
    pub(crate) fn with(arguments: &[&str]) -> Self {
        let (mut command, folder) = Self::command();
        command.args(arguments);
        Self::start(command, folder)
    }

    /// To be given arguments, and the folder of its database.
    fn command() -> (Command, TempDir) {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("shop.db");
        let sql =
            "CREATE TABLE t(n INTEGER, name TEXT); INSERT INTO t VALUES (1, 'one'), (2, 'two, \"too\"'), (3, NULL)";
        Connection::open(&path).unwrap().execute_batch(sql).unwrap();
        let command = rowstream(&["serve", "--listen", "127.0.0.1:0", "--db", path.to_str().unwrap()]);
        (command, folder)
    }

    /// With these variables in its environment.
    pub(crate) fn with_environment(variables: &[(&str, &str)]) -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("shop.db");
        Connection::open(&path)
            .unwrap()
            .execute_batch("CREATE TABLE t(n)")
            .unwrap();
        let mut command = rowstream(&["serve", "--listen", "127.0.0.1:0", "--db", path.to_str().unwrap()]);
        command.envs(variables.iter().copied());
        Self::start(command, folder)
    }

    /// Ends by force, and another of the same database at this address.
    pub(crate) fn killed_and_restarted(mut self, address: &str) -> Self {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        let path = self.folder.path().join("shop.db");
        let command = rowstream(&["serve", "--listen", address, "--db", path.to_str().unwrap()]);
        Self::start(command, Arc::clone(&self.folder))
    }

    /// With these arguments and variables besides, and its standard error in a file.
    pub(crate) fn logging_to(log: File, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let (mut command, folder) = Self::command();
        command.args(arguments).envs(variables.iter().copied());
        Self::start_with(command, log.into(), folder)
    }

    pub(crate) fn start(command: Command, folder: impl Into<Arc<TempDir>>) -> Self {
        Self::start_with(command, Stdio::null(), folder)
    }

    /// What it logs goes there.
    pub(crate) fn start_with(mut command: Command, log: Stdio, folder: impl Into<Arc<TempDir>>) -> Self {
        let mut process = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut out = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let url = line.trim().strip_prefix("listening on ").unwrap().to_owned();
        Self {
            process,
            url,
            out,
            folder: folder.into(),
        }
    }

    /// The folder of its database.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        let authority = self.url.strip_prefix("ws://").and_then(|rest| rest.strip_suffix("/ws"));
        authority.unwrap().parse().unwrap()
    }

    fn query(&self, arguments: &[&str]) -> Output {
        let mut all = vec!["query", &self.url];
        all.extend(arguments);
        rowstream(&all).output().unwrap()
    }

    #[track_caller]
    fn check(&self, arguments: &[&str], expected: &str) {
        let output = self.query(arguments);
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            expected,
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert_eq!(output.status.code(), Some(0));
    }

    #[track_caller]
    fn check_fails(&self, arguments: &[&str], code: i32, says: &str) {
        let output = self.query(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(says), "{said}");
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // A test may have ended it already.
        let _gone = self.process.kill();
        self.process.wait().unwrap();
    }
}

pub(crate) fn signal(process: &Child, name: &str) {
    let status = Command::new("kill")
        .args([name, &process.id().to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn limits_of_sqlite_are_settings_and_their_errors_name_them() {
    let served = Served::with(&["--sqlite-pattern-bytes-max", "5", "--sqlite-function-arguments-max=3"]);
    served.check_fails(&["SELECT 'a' LIKE '%abcdef%'"], 1, "`sqlite_pattern_bytes_max` is 5");
    served.check_fails(&["SELECT max(1, 2, 3, 4)"], 1, "`sqlite_function_arguments_max` is 3");
}

#[test]
fn the_version_says_what_sqlite_can_do() {
    let output = rowstream(&["--version"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let start = format!(
        "rowstream {}\nSQLite {} with ",
        env!("CARGO_PKG_VERSION"),
        rusqlite::version()
    );
    assert!(text.starts_with(&start), "{text}");
    assert!(text.contains("fts5") && text.contains("math"), "{text}");
}

#[test]
fn results_come_in_four_formats() {
    let served = Served::new();
    let sql = "SELECT n, name FROM t ORDER BY n";
    served.check(
        &[sql],
        "{\"n\":1,\"name\":\"one\"}\n{\"n\":2,\"name\":\"two, \\\"too\\\"\"}\n{\"n\":3,\"name\":null}\n",
    );
    served.check(&[sql, "--format", "csv"], "n,name\n1,one\n2,\"two, \"\"too\"\"\"\n3,\n");
    let table = String::from_utf8(served.query(&[sql, "--format", "table"]).stdout).unwrap();
    assert!(table.contains("one") && table.contains("NULL"), "{table}");
    let json = served.query(&[sql, "--format", "json"]);
    let rows: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(rows[1]["name"], "two, \"too\"");
}

#[test]
fn parameters_reach_the_query() {
    let served = Served::new();
    served.check(
        &["SELECT name FROM t WHERE n = ?", "--param", "1"],
        "{\"name\":\"one\"}\n",
    );
    served.check(&["SELECT :x AS x", "--named", "x=text"], "{\"x\":\"text\"}\n");
    served.check(
        &["SELECT :x AS x, $y AS y", "--param", "x=3", "--param", "$y=a=b"],
        "{\"x\":3,\"y\":\"a=b\"}\n",
    );
    served.check(&["SELECT ? AS x", "--param", "\"x=3\""], "{\"x\":\"x=3\"}\n");
    let in_quotes = "in quotes: --param '\"NAME=VALUE\"'";
    served.check_fails(&["SELECT ? AS x", "--param", "x=3"], 1, in_quotes);
    served.check_fails(&["SELECT ?, ?", "--param", "1", "--param", "x=3"], 2, in_quotes);
    served.check_fails(
        &["SELECT ?, ?", "--param", "1"],
        1,
        "hint: --param VALUE binds by position",
    );
}

#[test]
fn each_end_has_its_exit_code() {
    let served = Served::new();
    served.check_fails(&["SELECT * FROM nowhere"], 1, "no such table: nowhere");
    served.check_fails(&["DROP TABLE t"], 1, "READ_ONLY");
    served.check_fails(&["SELECT 1", "--format", "carving"], 2, "carving");
    let long = format!("SELECT 1 -- {}", "x".repeat(64 * 1024));
    served.check_fails(&[&long], 2, "--message-bytes-max");
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = rowstream(&["query", &format!("ws://{free}/ws"), "SELECT 1"])
        .output()
        .unwrap();
    assert_eq!(
        output.status.code(),
        Some(3),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(rowstream(&["serve"]).output().unwrap().status.code(), Some(2));
    let output = rowstream(&["serve", "--db", "/no/such/file.db"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn cells_that_are_not_what_their_column_says_are_read_as_asked_for() {
    let served = Served::new();
    let invalid = "SELECT CAST(x'61ff' AS TEXT) AS t";
    served.check_fails(&[invalid], 1, "row 1, column 1 (\"t\")");
    served.check(&[invalid, "--text-errors", "replace"], "{\"t\":\"a\u{FFFD}\"}\n");
    served.check(&[invalid, "--text-errors", "blob"], "{\"t\":\"Yf8=\"}\n");
    served.check_fails(&[invalid, "--text-errors", "lossy"], 2, "fail, replace, blob");
    let output = served.query(&["SELECT 'x' AS t, x'00' AS b", "--cell-types"]);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "{\"t\":\"x\",\"b\":\"AA==\"}\n"
    );
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "row 1, column 2 (\"b\") is a blob\n"
    );
    let mixed = "SELECT 1 AS x UNION ALL SELECT 'a'";
    served.check_fails(&[mixed, "--format", "arrow"], 1, "arrow_mixed");
    let output = served.query(&[mixed, "--format", "arrow", "--arrow-mixed", "text"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stdout.starts_with(&[0xFF; 4]), "an Arrow stream");
}

pub(crate) const ENDLESS: &str = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n";

/// A query without end, of which the first row has come.
fn endless(served: &Served) -> (Child, BufReader<impl Read + use<>>) {
    let mut process = rowstream(&["query", &served.url, ENDLESS, "--reconnect=300ms"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(process.stdout.take().unwrap());
    let mut first = String::new();
    out.read_line(&mut first).unwrap();
    assert_eq!(first, "{\"i\":0}\n");
    (process, out)
}

#[test]
fn an_interrupt_cancels_and_says_so() {
    let served = Served::new();
    let (mut process, mut out) = endless(&served);
    signal(&process, "-INT");
    std::io::copy(&mut out, &mut std::io::sink()).unwrap();
    let mut said = String::new();
    process.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(process.wait().unwrap().code(), Some(130), "{said}");
    assert!(said.contains("cancel"), "{said}");
}

#[test]
fn a_closed_pipe_ends_it_quietly() {
    let served = Served::new();
    let (mut process, out) = endless(&served);
    drop(out);
    let mut said = String::new();
    process.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!((process.wait().unwrap().code(), said.as_str()), (Some(0), ""));
}

#[test]
fn a_lost_server_is_said_to_be_lost() {
    let mut served = Served::new();
    let (mut process, mut out) = endless(&served);
    served.process.kill().unwrap();
    std::io::copy(&mut out, &mut std::io::sink()).unwrap();
    assert_eq!(process.wait().unwrap().code(), Some(4));
}

#[test]
fn a_terminated_server_ends_its_streams_and_itself() {
    let mut served = Served::with(&["--drain-seconds", "0"]);
    let (mut process, mut out) = endless(&served);
    signal(&served.process, "-TERM");
    std::io::copy(&mut out, &mut std::io::sink()).unwrap();
    let code = process.wait().unwrap().code();
    assert_eq!(code, Some(1), "the query was cancelled by the server");
    assert_eq!(served.process.wait().unwrap().code(), Some(0));
}

#[test]
fn a_query_can_come_on_standard_input() {
    let served = Served::new();
    let mut process = rowstream(&["query", &served.url, "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    process
        .stdin
        .take()
        .unwrap()
        .write_all(b"SELECT count(*) AS n\nFROM t")
        .unwrap();
    let output = process.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "{\"n\":3}\n");
}

#[test]
fn streams_are_listed_and_stopped_from_outside() {
    let served = Served::new();
    let (mut process, mut out) = endless(&served);
    let listed = rowstream(&["ps", &served.url, "--json"]).output().unwrap();
    let text = String::from_utf8(listed.stdout).unwrap();
    let stream: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
    assert_eq!(
        (stream["attached"].as_bool(), stream["resumable"].as_bool()),
        (Some(true), Some(true))
    );
    let id = stream["stream_id"].as_str().unwrap();
    let table = rowstream(&["ps", &served.url]).output().unwrap();
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.contains(id) && table.contains("STATE"), "{table}");
    let unknown = "7f1b4c1e-5a0e-4a53-9d8f-1c5f5f1f4f10";
    assert_eq!(
        rowstream(&["cancel", &served.url, unknown])
            .output()
            .unwrap()
            .status
            .code(),
        Some(1)
    );
    assert_eq!(
        rowstream(&["cancel", &served.url, "x"]).output().unwrap().status.code(),
        Some(2)
    );
    assert_eq!(
        rowstream(&["cancel", &served.url, id]).output().unwrap().status.code(),
        Some(0)
    );
    std::io::copy(&mut out, &mut std::io::sink()).unwrap();
    assert_eq!(process.wait().unwrap().code(), Some(1), "stopped by somebody else");
}

#[cfg(feature = "arrow")]
#[test]
fn an_arrow_stream_is_whole_or_has_no_end() {
    use arrow_ipc::reader::StreamReader;

    let served = Served::new();
    let file = served.folder.path().join("rows.arrows");
    let path = file.to_str().unwrap();
    for (sql, n_rows) in [("SELECT n, name FROM t", 3), ("SELECT n, name FROM t WHERE n > 3", 0)] {
        served.check(
            &[sql, "--format", "arrow", "--output", path, "--compression", "zstd"],
            "",
        );
        let bytes = std::fs::read(&file).unwrap();
        assert!(
            bytes.ends_with(&[0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0]),
            "the end of the stream"
        );
        let reader = StreamReader::try_new(bytes.as_slice(), None).unwrap();
        let labels: Vec<_> = reader
            .schema()
            .fields()
            .iter()
            .map(|field| field.name().clone())
            .collect();
        assert_eq!(labels, ["n", "name"]);
        let batches: Vec<_> = reader.map(Result::unwrap).collect();
        assert_eq!(batches.iter().map(|batch| batch.num_rows()).sum::<usize>(), n_rows);
    }
    let output = served.query(&[
        "SELECT CASE WHEN n = 3 THEN abs(-9223372036854775808) ELSE n END FROM t",
        "--format",
        "arrow",
    ]);
    assert_eq!(output.status.code(), Some(1));
    assert!(!output.stdout.ends_with(&[0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0]));
}

#[cfg(feature = "parquet")]
#[test]
fn a_parquet_file_has_all_rows_or_no_footer() {
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    let served = Served::new();
    let path = served.folder.path().join("rows.parquet");
    let many = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 99999) SELECT i, 'row ' || i AS text FROM n";
    for (sql, n_rows) in [(many, 100_000), ("SELECT n, name FROM t WHERE n > 3", 0)] {
        served.check(&[sql, "--format", "parquet", "--output", path.to_str().unwrap()], "");
        let builder = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(&path).unwrap()).unwrap();
        assert_eq!(builder.metadata().file_metadata().num_rows(), n_rows);
        let batches = builder.build().unwrap().map(Result::unwrap);
        assert_eq!(batches.map(|batch| batch.num_rows() as i64).sum::<i64>(), n_rows);
    }
    let failing = "SELECT CASE WHEN n = 3 THEN abs(-9223372036854775808) ELSE n END FROM t";
    let output = served.query(&[failing, "--format", "parquet", "--output", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(&path).unwrap()).is_err());
}

#[test]
fn rows_are_the_same_compressed_on_their_way_and_in_a_file() {
    let served = Served::new();
    let sql = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 9999) SELECT i FROM n";
    let plain = served.query(&[sql, "--checksum"]);
    let path = served.folder.path().join("rows.ndjson");
    for codec in ["zstd", "lz4", "gzip", "deflate-raw", "zstd,gzip"] {
        let output = served.query(&[
            sql,
            "--checksum",
            "--compression",
            codec,
            "--output",
            path.to_str().unwrap(),
        ]);
        assert_eq!(output.status.code(), Some(0));
        assert!(output.stdout.is_empty());
        assert_eq!(output.stderr, plain.stderr, "the same digest");
        assert_eq!(std::fs::read(&path).unwrap(), plain.stdout, "{codec}");
    }
    served.check_fails(&[sql, "--compression", "br"], 2, "zstd, lz4, gzip, deflate-raw");
    served.check_fails(&[sql, "--output", "/nowhere/at/all"], 1, "/nowhere/at/all");
}

#[test]
fn servers_are_reached_by_tls_and_by_unix_sockets() {
    let folder = TempDir::new().unwrap();
    let (ca, path) = (folder.path().join("ca.pem"), folder.path().join("rowstream.sock"));
    let authority = crate::authority::Authority::new();
    std::fs::write(&ca, authority.pem()).unwrap();
    let issued = authority.issue();
    let tls = rowstream::server::TlsConfig::from_pem(issued.certificate.as_bytes(), issued.key.as_bytes()).unwrap();
    let script = rowstream::Script::new(["n"]).row([7.into()]);
    let server = rowstream::Server::builder()
        .engine("m", rowstream::MemoryEngine::builder().query("q", script).build())
        .listen("127.0.0.1:0")
        .listen_unix(&path)
        .tls(tls)
        .start()
        .unwrap();
    let (ca, unix) = (ca.to_str().unwrap(), format!("unix:{}", path.display()));
    let port = server.local_addr().unwrap().port();
    let secure = format!("wss://localhost:{port}/ws");
    let check = |arguments: &[&str], code: i32, out: &str, says: &str| {
        let output = rowstream(arguments).env_remove("ROWSTREAM_CA").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), out, "{arguments:?}");
        assert!(said.contains(says), "{arguments:?}: {said}");
    };
    check(&["query", &secure, "q", "--ca", ca], 0, "{\"n\":7}\n", "");
    check(&["query", &unix, "q"], 0, "{\"n\":7}\n", "");
    check(&["ps", &secure, "--json", "--ca", ca], 0, "", "");
    check(&["ps", &unix, "--json"], 0, "", "");
    let id = "00000000-0000-4000-8000-000000000000";
    check(&["cancel", &secure, id, "--ca", ca], 1, "", "no live stream");
    check(&["query", &secure, "q"], 3, "", "signed by nobody who is trusted");
    let elsewhere = format!("wss://127.0.0.2:{port}/ws");
    check(&["query", &elsewhere, "q", "--ca", ca], 3, "", "cannot connect");
    check(&["query", &secure, "q", "--ca", "/nowhere"], 2, "", "/nowhere: ");
    check(&["query", &format!("ws://localhost:{port}/ws"), "q"], 3, "", "wss://");
}

/// A query over a relay, and the bytes that the server has sent.
fn relayed(served: &Served, arguments: &[&str]) -> (Output, u64) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = served.url.strip_prefix("ws://").unwrap().strip_suffix("/ws").unwrap();
    let server = TcpStream::connect(address).unwrap();
    let url = format!("ws://{}/ws", listener.local_addr().unwrap());
    thread::scope(|scope| {
        let relay = scope.spawn(|| {
            let (client, _) = listener.accept().unwrap();
            thread::scope(|scope| {
                scope.spawn(|| {
                    let _either_has_gone = std::io::copy(&mut &client, &mut &server);
                    let _gone = server.shutdown(Shutdown::Write);
                });
                let n_bytes = std::io::copy(&mut &server, &mut &client).unwrap();
                let _gone = client.shutdown(Shutdown::Both);
                n_bytes
            })
        });
        let output = rowstream(&[&["query", &url], arguments].concat()).output().unwrap();
        (output, relay.join().unwrap())
    })
}

#[test]
fn messages_are_deflated_where_both_sides_want_it() {
    let sql = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 9999) SELECT i, 'much the same' AS s FROM n";
    let allowing = Served::with(&["--permessage-deflate"]);
    let (plain, n_plain) = relayed(&allowing, &[sql]);
    let (deflated, n_deflated) = relayed(&allowing, &[sql, "--permessage-deflate"]);
    assert_eq!(plain.stdout.iter().filter(|byte| **byte == b'\n').count(), 10_000);
    assert_eq!(deflated.stdout, plain.stdout);
    assert!(n_deflated * 2 < n_plain, "{n_deflated} of {n_plain} bytes");
    // A server that does not allow it sends its messages as they are.
    let (output, n_bytes) = relayed(&Served::new(), &[sql, "--permessage-deflate"]);
    assert_eq!(output.stdout, plain.stdout);
    assert!(n_bytes * 2 > n_plain, "{n_bytes} of {n_plain} bytes");
}

#[test]
fn tokens_are_made_and_shown_and_never_an_argument() {
    let made = |arguments: &[&str]| {
        let output = rowstream(&[&["token"], arguments].concat()).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().trim().to_owned();
        (text(output.stderr), text(output.stdout))
    };
    let (alice, line_of_alice) = made(&["alice"]);
    let (ops, line_of_ops) = made(&["ops", "--admin"]);
    assert!(!line_of_alice.contains(&alice) && line_of_ops.ends_with(" query,admin"));
    let folder = TempDir::new().unwrap();
    let tokens = folder.path().join("tokens");
    std::fs::write(&tokens, format!("{line_of_alice}\n{line_of_ops}\n")).unwrap();
    let server = crate::auth::builder()
        .authenticator(rowstream::auth::TokenFile::open(&tokens).unwrap())
        .start()
        .unwrap();
    let url = format!("ws://{}/ws", server.local_addr().unwrap());
    let kept = folder.path().join("token");
    std::fs::write(&kept, format!("{alice}\n")).unwrap();
    let kept = kept.to_str().unwrap();

    let run = |arguments: &[&str], token: Option<&str>| {
        let mut command = rowstream(arguments);
        if let Some(token) = token {
            command.env("ROWSTREAM_TOKEN", token);
        }
        let output = command.output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    };
    let query = ["query", &url, "few", "--format", "csv"];
    let (code, said) = run(&query, Some(&alice));
    assert_eq!((code, said.as_str()), (Some(0), "n\n0\n1\n2\n"));
    // The file goes first.
    let (code, said) = run(&[&query[..], &["--token-file", kept]].concat(), Some("nobodys"));
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = run(&query, Some("nobodys"));
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("not let in: nobody has this token"), "{said}");
    let (code, said) = run(&query, None);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("UNAUTHENTICATED"), "{said}");
    let (code, said) = run(&[&query[..], &["--token-file", "/nowhere"]].concat(), None);
    assert_eq!(code, Some(2), "{said}");

    let client = rowstream::Client::builder()
        .token(alice.as_str())
        .connect(&url)
        .unwrap();
    let mut stream = client.query("endless").start().unwrap();
    stream.next().unwrap().unwrap();
    let (code, said) = run(&["ps", &url, "--all"], Some(&alice));
    assert_eq!(code, Some(1), "{said}");
    let (code, said) = run(&["ps", &url], Some(&ops));
    assert!(code == Some(0) && !said.contains("endless"), "{said}");
    let (code, said) = run(&["ps", &url, "--all"], Some(&ops));
    assert!(
        code == Some(0) && said.contains("alice") && said.contains("endless"),
        "{said}"
    );
    let id = server.streams().reports()[0].id.to_string();
    assert_eq!(run(&["cancel", &url, &id], Some(&ops)).0, Some(0));
    let ended = stream.find_map(Result::err).unwrap();
    assert!(ended.to_string().contains("admin"), "{ended}");
}
