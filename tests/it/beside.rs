//! Databases in WAL mode whose folder cannot be written, and what serving leaves beside those whose folder can.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rusqlite::Connection;
use tempfile::TempDir;

use crate::cli::{Served, rowstream, signal};
use crate::process::exit_of;

/// A user that has nothing.
const NOBODY: u32 = 65_534;

/// A folder with a database in WAL mode.
fn database() -> TempDir {
    let folder = TempDir::new().unwrap();
    let sql = "PRAGMA journal_mode=WAL; CREATE TABLE t(n); INSERT INTO t VALUES (7)";
    let connection = Connection::open(folder.path().join("s.db")).unwrap();
    connection.execute_batch(sql).unwrap();
    folder
}

fn serve(folder: &TempDir) -> Command {
    let path = folder.path().join("s.db");
    rowstream(&["serve", "--listen", "127.0.0.1:0", "--db", path.to_str().unwrap()])
}

/// The same, but nothing can be written: by a user who may not, for to root every folder is open.
fn serve_read_only(folder: &TempDir) -> Command {
    let mut command = serve(folder);
    fs::set_permissions(folder.path().join("s.db"), Permissions::from_mode(0o444)).unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o555)).unwrap();
    if fs::metadata("/proc/self").unwrap().uid() == 0 {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    names
}

/// What `rowstream query` prints.
fn asked(served: &Served) -> String {
    let output = rowstream(&["query", &served.url, "SELECT n FROM t", "--format", "csv"])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_folder_that_cannot_be_written_needs_immutable_and_the_error_says_so() {
    let folder = database();
    let output = serve_read_only(&folder).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains("s.db: cannot open the write-ahead log"), "{said}");
    assert!(said.contains("sqlite_immutable"), "{said}");

    let mut command = serve_read_only(&folder);
    command.args(["--sqlite-immutable", "s"]);
    let served = Served::start(command, folder);
    assert_eq!(asked(&served), "n\n7\n");
    assert_eq!(names(served.folder()), ["s.db"]);
    fs::set_permissions(served.folder(), Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn immutable_names_a_database_that_is_served() {
    let folder = database();
    let mut command = serve(&folder);
    let output = command.args(["--sqlite-immutable", "sales"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(
        said.contains("sqlite_immutable: no database is named \"sales\""),
        "{said}"
    );
}

#[test]
fn nothing_is_left_beside_a_database_when_the_server_has_stopped() {
    let folder = database();
    let mut served = Served::start(serve(&folder), folder);
    assert_eq!(asked(&served), "n\n7\n");
    let path = served.folder().join("s.db");
    Connection::open(&path)
        .unwrap()
        .execute_batch("UPDATE t SET n = 8")
        .unwrap();
    assert_eq!(asked(&served), "n\n8\n");
    assert_eq!(names(served.folder()), ["s.db", "s.db-shm", "s.db-wal"]);
    signal(&served.process, "-TERM");
    assert!(exit_of(&mut served.process).success());
    assert_eq!(names(served.folder()), ["s.db"]);
    let value: i64 = Connection::open(&path)
        .unwrap()
        .query_row("SELECT n FROM t", [], |row| row.get(0))
        .unwrap();
    assert_eq!(value, 8);
}
