//! Clients that share no code with the server: libraries that others have written, as programs that a test runs.

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

/// A program that takes longer is killed, and fails the test. The slowest takes some seconds, most of them to load its libraries.
const PROGRAM_DEADLINE: Duration = Duration::from_secs(120);

pub(crate) const N_ROWS: i64 = 20_000;

pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A server over a SQLite file of these statements.
pub(crate) struct Served {
    pub(crate) server: ServerHandle,
    folder: TempDir,
}

impl Served {
    pub(crate) fn new(sql: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("interop.db");
        Connection::open(&path).unwrap().execute_batch(sql).unwrap();
        // The corpus has cells above the default of 100,000 bytes.
        let engine = SqliteEngine::builder(&path).cell_bytes_max(1 << 20).open().unwrap();
        let server = Server::builder()
            .engine("sqlite", engine)
            .listen("127.0.0.1:0")
            .permessage_deflate(true)
            .start()
            .unwrap();
        Self { server, folder }
    }

    /// With a table of many rows that say "rows", in an order of their own.
    pub(crate) fn with_rows() -> Self {
        Self::new(&format!(
            "CREATE TABLE t(i INTEGER PRIMARY KEY, r REAL, s TEXT, b BLOB);
             WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {N_ROWS} - 1)
             INSERT INTO t SELECT i, i / 3.0, 'näme \"rows\": ' || i, zeroblob(i % 5) FROM n"
        ))
    }

    /// The file, for those who read it without the server.
    fn database(&self) -> String {
        self.folder.path().join("interop.db").to_str().unwrap().to_owned()
    }

    pub(crate) fn url(&self) -> String {
        format!("ws://{}/ws", self.server.local_addr().unwrap())
    }
}

/// How a program ended, and all that it said.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ended {
    /// The JSON documents on its standard output, one a line.
    pub(crate) fn lines(&self) -> Vec<Value> {
        self.out
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[track_caller]
    pub(crate) fn check(&self, code: i32, says: &str) {
        assert_eq!(self.status.code(), Some(code), "{}", self.err);
        assert!(self.err.contains(says), "{}", self.err);
    }
}

/// A program that does not outlive its test.
struct Kept(Child);

impl Drop for Kept {
    fn drop(&mut self) {
        let _ended_already = self.0.kill();
        let _status = self.0.wait();
    }
}

/// A program under way: what it says is read by threads that end with it.
pub(crate) struct Running {
    child: Kept,
    first_line: Receiver<()>,
    said: [Receiver<String>; 2],
}

impl Running {
    #[track_caller]
    pub(crate) fn start(command: &mut Command) -> Self {
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
            child: Kept(child),
            first_line,
            said: [out_rx, err_rx],
        }
    }

    /// Waits for its first line.
    #[track_caller]
    pub(crate) fn has_begun(&self) {
        self.first_line.recv_timeout(PROGRAM_DEADLINE).unwrap();
    }

    /// Has it interrupted, as Ctrl-C does.
    #[track_caller]
    pub(crate) fn interrupt(&self) {
        let id = self.child.0.id().to_string();
        assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    }

    /// Waits until it ends; kills it when it takes too long.
    #[track_caller]
    pub(crate) fn end(mut self) -> Ended {
        let [out, err] = self.said;
        let out = out.recv_timeout(PROGRAM_DEADLINE);
        if matches!(out, Err(RecvTimeoutError::Timeout)) {
            self.child.0.kill().unwrap();
        }
        let err = err.recv_timeout(PROGRAM_DEADLINE).unwrap();
        Ended {
            out: out.unwrap_or_else(|error| panic!("{error} after {PROGRAM_DEADLINE:?}: {err}")),
            status: self.child.0.wait().unwrap(),
            err,
        }
    }
}

/// What `tests/run` has put below `target/interop`.
#[track_caller]
pub(crate) fn installed(path: &str) -> PathBuf {
    let path = root().join("target/interop").join(path);
    assert!(
        path.exists(),
        "{} is missing: run tests/run, which installs what these tests need",
        path.display()
    );
    path
}

#[track_caller]
pub(crate) fn python() -> Command {
    installed("venv/installed.txt");
    Command::new(installed("venv/bin/python"))
}

/// What a command of `python.py` prints.
#[track_caller]
fn by_python(words: &[&str]) -> Value {
    let mut command = python();
    command.arg(root().join("tests/interop/python.py")).args(words);
    by_command(&mut command)
}

/// What a command of `node.mjs` prints.
#[track_caller]
fn by_node(words: &[&str]) -> Value {
    let packages = installed("node/installed.json");
    let mut command = Command::new("node");
    command.env("ROWSTREAM_NODE_MODULES", packages);
    command.arg(root().join("tests/interop/node.mjs")).args(words);
    by_command(&mut command)
}

/// What it prints.
#[track_caller]
pub(crate) fn by_command(command: &mut Command) -> Value {
    let ended = Running::start(command).end();
    assert!(ended.status.success(), "{command:?}: {}\n{}", ended.status, ended.err);
    serde_json::from_str(&ended.out).unwrap()
}

#[test]
fn libraries_of_others_get_the_same_rows_in_every_form() {
    let served = Served::with_rows();
    let query = "SELECT * FROM t";
    let (python, node) = (
        by_python(&["rows", &served.url(), query]),
        by_node(&["rows", &served.url(), query]),
    );
    let digest = &python["plain"]["digest"];
    for (who, forms, n_forms) in [("python", &python, 7), ("node", &node, 5)] {
        let forms = forms.as_object().unwrap();
        assert_eq!(forms.len(), n_forms);
        for (form, said) in forms {
            assert_eq!(
                (&said["digest"], &said["n_rows"]),
                (digest, &json!(N_ROWS)),
                "{who}: {form}"
            );
            assert_eq!(said["subprotocol"], "rowstream.v1", "{who}: {form}");
            let is_deflated = form.contains("permessage-deflate");
            let extensions = if is_deflated { "permessage-deflate" } else { "" };
            assert_eq!(said["extensions"], extensions, "{who}: {form}");
            let codec = match form.as_str() {
                "plain" | "permessage-deflate" => "text",
                form => form.split(' ').next().unwrap(),
            };
            let codecs: Vec<&String> = said["codecs"].as_object().unwrap().keys().collect();
            assert_eq!(codecs, [codec], "{who}: {form}");
        }
    }
    let [deflated, plain] = ["permessage-deflate", "plain"].map(|form| {
        let count = |name: &str| node[form][name].as_u64().unwrap();
        (count("wire_bytes"), count("message_bytes"))
    });
    assert!(deflated.0 * 2 < deflated.1, "{deflated:?}");
    assert!(plain.0 > plain.1, "{plain:?}");
}

/// How a query over the corpus is to come out in Arrow.
struct ArrowCase {
    query: &'static str,
    params: Value,
    /// A letter for each column, as `python.py` lists them.
    kinds: &'static str,
    names: &'static [&'static str],
    types: &'static [&'static str],
}

impl ArrowCase {
    /// Compares what both readers find with SQLite's own answer, cell by cell; how many cells that were.
    #[track_caller]
    fn check(&self, served: &Served) -> usize {
        let params = self.params.to_string();
        let expected = by_python(&["expected", &served.database(), self.query, self.kinds, &params]);
        for fields in [json!({"batch_size": 7}), json!({"compression": ["gzip"]})] {
            let mut fields = fields;
            fields["params"] = self.params.clone();
            let words = ["arrow", &served.url(), self.query, &fields.to_string()];
            for (who, columns) in [("pyarrow", by_python(&words)), ("apache-arrow", by_node(&words))] {
                self.check_columns(who, &columns, &expected);
            }
        }
        let columns = expected.as_array().unwrap().iter();
        columns.map(|column| column["cells"].as_array().unwrap().len()).sum()
    }

    #[track_caller]
    fn check_columns(&self, who: &str, columns: &Value, expected: &Value) {
        let said = |key: &str| -> Vec<&str> {
            let columns = columns.as_array().unwrap().iter();
            columns.map(|column| column[key].as_str().unwrap()).collect()
        };
        assert_eq!(said("name"), self.names, "{who}: {}", self.query);
        assert_eq!(said("type"), self.types, "{who}: {}", self.query);
        assert_eq!(said("kind").concat(), self.kinds, "{who}: {}", self.query);
        for (at, name) in self.names.iter().enumerate() {
            let cells = |columns: &Value| columns[at]["cells"].as_array().unwrap().clone();
            let (found, expected) = (cells(columns), cells(expected));
            assert_eq!(found.len(), expected.len(), "{who}: {name}");
            for (row, (found, expected)) in found.iter().zip(&expected).enumerate() {
                assert_eq!(found, expected, "{who}: column {name:?}, row {row}: {}", self.query);
            }
        }
    }
}

#[test]
fn arrow_is_sqlites_answer_value_by_value_to_two_readers() {
    let served = Served::new("");
    let n_values = by_python(&["corpus", &served.database()]).as_u64().unwrap();
    assert!(n_values >= 200, "{n_values}");
    let declared = ArrowCase {
        query: "SELECT * FROM corpus ORDER BY id",
        params: json!([]),
        kinds: "iirtbodmszrrtttitibrttr",
        names: &[
            "id", "i", "r", "s", "b", "o", "d", "m", "s6", "z", "n", "x", "j", "u", "w", "y", "e", "f", "g", "h", "k",
            "p", "q",
        ],
        types: &[
            "int64",
            "int64",
            "float64",
            "text",
            "blob",
            "boolean",
            "date",
            "time",
            "timestamp",
            "timestamptz",
            "float64",
            "any",
            "json",
            "uuid",
            "int64",
            "boolean",
            "date",
            "timestamp",
            "text",
            "blob",
            "float64",
            "timestamp",
            "int64",
        ],
    };
    let n_cells = declared.check(&served);
    assert!(n_cells as u64 >= n_values, "{n_cells}");
    let undeclared = ArrowCase {
        query: "SELECT i, i AS i, r AS \"\", s AS \"\", i + 0 AS sum, s || '' AS joined, +b AS same, NOT o AS negated, \
                NULL AS empty, d AS \"d\"\"q\", abs(x) AS x FROM corpus ORDER BY id",
        params: json!([]),
        kinds: "iirtitbitdr",
        names: &[
            "i", "i_2", "column_3", "column_4", "sum", "joined", "same", "negated", "empty", "d\"q", "x",
        ],
        types: &[
            "int64", "int64", "float64", "text", "any", "any", "any", "any", "any", "date", "any",
        ],
    };
    undeclared.check(&served);
    let given = ArrowCase {
        query: "SELECT ? AS zero, ? AS least, ? AS third, ? AS most, ? AS odd, ? AS text, -0.0 AS literal, 9e999 AS endless",
        params: json!([
            -0.0,
            5e-324,
            271.0 / 3.0,
            f64::MAX,
            9_007_199_254_740_993_i64,
            "a\u{0}\u{ffff}"
        ]),
        kinds: "rrrritrr",
        names: &["zero", "least", "third", "most", "odd", "text", "literal", "endless"],
        types: &["any"; 8],
    };
    given.check(&served);
    let zero = by_node(&["arrow", &served.url(), "SELECT ? AS zero", r#"{"params": [-0.0]}"#]);
    assert_eq!(zero[0]["cells"], json!(["8000000000000000"]), "-0.0 keeps its sign");
    let empty = ArrowCase {
        query: "SELECT * FROM corpus WHERE 0",
        // Nothing but the declarations decides.
        kinds: "iirtbodmszrtttiodstbrsi",
        ..declared
    };
    assert_eq!(empty.check(&served), 0);
}
