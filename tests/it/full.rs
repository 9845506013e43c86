//! A disk that is full: what needs room fails and says so, everything else goes on, and so does that once there is room.

use std::env;
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use rowstream::engine::EngineErrorKind;
use rowstream::engine::sqlite::{SqliteEngine, SqliteProfile};
use rowstream::{Server, ServerHandle};
use rusqlite::Connection;
use serde_json::json;
use tempfile::TempDir;

use crate::support::{Plain, Wire};

const NAME: &str = "full::a_full_disk_fails_what_needs_it_and_nothing_else";

/// The disk, in the process that has it.
const DISK: &str = "ROWSTREAM_TEST_DISK";

/// Sorts twenty million bytes: on the disk, if the query is trusted.
const SORT: &str = "SELECT count(*) FROM (SELECT n, row_number() OVER (ORDER BY -n, text) FROM many)";

/// In a process of its own, whose mounts are its own too, and gone with it.
#[test]
fn a_full_disk_fails_what_needs_it_and_nothing_else() {
    if let Some(disk) = env::var_os(DISK) {
        return scenario(Path::new(&disk));
    }
    let folder = TempDir::new().unwrap();
    let mut child = Command::new("unshare");
    // Who is not root is root there.
    child.args(["--map-root-user", "--mount", "sh", "-ec"]);
    child.arg(r#"mount -t tmpfs -o size=64m tmpfs "$1"; shift; exec "$@""#);
    child.arg("sh").arg(folder.path()).arg(env::current_exe().unwrap());
    child.args(["--exact", NAME, "--test-threads=1", "--nocapture"]);
    child.env(DISK, folder.path()).env("SQLITE_TMPDIR", folder.path());
    let output = child.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("1 passed"), "{said}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left");
}

fn scenario(disk: &Path) {
    let path = disk.join("many.db");
    let sql = "CREATE TABLE many(n INTEGER, text TEXT); INSERT INTO many WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 \
FROM n LIMIT 200000) SELECT i, printf('%0100d', i) FROM n";
    Connection::open(&path).unwrap().execute_batch(sql).unwrap();
    let trusted = SqliteEngine::builder(&path).profile(SqliteProfile::Trusted);
    let server = Server::builder()
        .engine("trusted", trusted.open().unwrap())
        .engine("untrusted", SqliteEngine::open(&path).unwrap())
        .listen("127.0.0.1:0")
        .start()
        .unwrap();
    let logged = disk.join("logged.db");
    let sql = "PRAGMA journal_mode = WAL; CREATE TABLE t(n); INSERT INTO t VALUES (1)";
    Connection::open(&logged).unwrap().execute_batch(sql).unwrap();
    let filler = fill(disk);
    // To be read, a database with a log needs a file beside it.
    let error = SqliteEngine::open(&logged).unwrap_err();
    assert_eq!(error.kind, EngineErrorKind::Unavailable, "{error}");
    let mut client = Plain::connect(&server);
    for _ in 0..3 {
        let failed = client.run(SORT, json!({}));
        assert!(
            matches!(&failed.end, Some(Wire::Error { code, message, retryable: true, .. })
                if code == "ENGINE_BUSY" && message == "database or disk is full"),
            "{failed:?}"
        );
        let small = client.run("SELECT count(*), max(n) FROM many", json!({}));
        assert_eq!(
            small.assert_completed().rows,
            [json!({"count(*)": 200_000, "max(n)": 199_999})]
        );
    }
    check_has_room(&server, "untrusted");
    fs::remove_file(filler).unwrap();
    check_has_room(&server, "trusted");
    SqliteEngine::open(&logged).unwrap();
    server.shutdown();
}

/// A file that takes all that is left.
fn fill(disk: &Path) -> PathBuf {
    let path = disk.join("filler");
    let mut file = File::create(&path).unwrap();
    let piece = [0; 4096];
    let error = loop {
        if let Err(error) = file.write_all(&piece) {
            break error;
        }
    };
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    path
}

/// The sort comes to its end, for this engine.
#[track_caller]
fn check_has_room(server: &ServerHandle, engine: &str) {
    let sorted = Plain::connect(server).run(SORT, json!({"engine": engine}));
    assert_eq!(
        sorted.assert_completed().rows,
        [json!({"count(*)": 200_000})],
        "{engine}"
    );
}
