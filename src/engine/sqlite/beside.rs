//! The files that SQLite keeps beside a database: the write-ahead log, its index, the rollback journal.
//!
//! Must not know pools or queries.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::error::OpenError;
use super::ffi;
use super::profile;

/// The name of a database as SQLite takes it with options: here, that nothing will change it.
///
/// # Errors
/// Where a file beside it holds changes that are not in the database: SQLite would not look at it.
pub(super) fn immutable_uri(path: &Path) -> Result<String, OpenError> {
    let has_contents = |ending| fs::metadata(beside(path, ending)).is_ok_and(|found| found.len() > 0);
    if let Some(ending) = ["-wal", "-journal"].into_iter().find(|ending| has_contents(ending)) {
        return Err(OpenError::NotImmutable { ending });
    }
    let path = std::path::absolute(path).map_err(|_| OpenError::NoPath)?;
    let mut uri = "file://".to_owned();
    if cfg!(windows) {
        uri.push('/');
    }
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'\\' if cfg!(windows) => uri.push('/'),
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' | b':' => uri.push(char::from(*byte)),
            _ => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri.push_str("?immutable=1");
    Ok(uri)
}

/// Removes the log and its index where no other program has the database open. Connections that only read cannot do it; one that may write
/// does when it is closed, after it has copied what is in the log.
pub(super) fn remove_log(path: &Path) {
    if !["-wal", "-shm"].into_iter().any(|ending| beside(path, ending).exists()) {
        return;
    }
    if let Err(error) = open_and_close(path) {
        log::debug!(error:% = error; "the write-ahead log stays");
    }
}

fn open_and_close(path: &Path) -> rusqlite::Result<()> {
    let Some(file_system) = ffi::file_system() else {
        return Ok(());
    };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags_and_vfs(path, flags, file_system)?;
    // What somebody else has locked is somebody else's to remove.
    connection.busy_timeout(Duration::ZERO)?;
    profile::harden(&connection)?;
    // Opens the log, and reads no schema.
    connection.execute_batch("PRAGMA schema_version")?;
    connection.close().map_err(|(_, error)| error)
}

/// Beside the file that a symbolic link leads to.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name: OsString = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()).into();
    name.push(ending);
    name.into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_path_stays_what_it_is_in_a_uri() {
        let check = |path: &str, uri: &str| assert_eq!(immutable_uri(Path::new(path)).unwrap(), uri);
        check("/data/s.db", "file:///data/s.db?immutable=1");
        check(
            "/a b/50%?mode=rw#x&y",
            "file:///a%20b/50%25%3Fmode%3Drw%23x%26y?immutable=1",
        );
        check("/\u{fc}.db", "file:///%C3%BC.db?immutable=1");
    }
}
