//! The floor: the same work by one thread with nothing in between.
#![allow(unsafe_code)] // it calls SQLite's C interface directly: that is its point

use std::env;
use std::ffi::CString;
use std::io::Write;
use std::net::TcpListener;
use std::process::Command;
use std::ptr;
use std::time::Instant;

use rusqlite::ffi;

use super::TABLE;
use super::support::cpu_ns_of;

const PIECE_BYTES: usize = 128 * 1024;

/// Runs the floor in a process of its own: rows, CPU and wall time, both in nanoseconds.
pub(crate) fn run_floor(database: &str, mode: &str) -> (f64, f64, f64) {
    let output = Command::new(env::current_exe().unwrap())
        .args(["--floor", database, mode])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut figures = text.split_whitespace().map(|n| n.parse::<f64>().unwrap());
    (
        figures.next().unwrap(),
        figures.next().unwrap(),
        figures.next().unwrap(),
    )
}

/// One thread: steps the statement (`step`), reads every cell (`read`), encodes JSON arrays (`encode`), and writes them in
/// pieces of 128 KiB to a socket that another process drains (`pipe`).
pub(crate) fn floor(database: &str, mode: &str) {
    let sink = (mode == "pipe").then(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let drain = Command::new(env::current_exe().unwrap())
            .args(["--drain-bytes", &address])
            .spawn()
            .unwrap();
        let (socket, _) = listener.accept().unwrap();
        socket.set_nodelay(true).unwrap();
        (socket, drain)
    });
    let (mut socket, drain) = sink.map_or((None, None), |(socket, drain)| (Some(socket), Some(drain)));
    let path = CString::new(database).unwrap();
    let sql = CString::new(format!("SELECT * FROM {TABLE}")).unwrap();
    let process = std::process::id();
    let (before, begun_at) = (cpu_ns_of(process), Instant::now());
    let mut rows = 0_u64;
    let mut out: Vec<u8> = Vec::with_capacity(PIECE_BYTES + 4_096);
    // SAFETY: one connection and one statement, used by this thread alone and closed at the end; each text is read before the
    // next call on the statement.
    unsafe {
        let mut db = ptr::null_mut();
        let flags = ffi::SQLITE_OPEN_READONLY | ffi::SQLITE_OPEN_NOMUTEX;
        assert_eq!(
            ffi::sqlite3_open_v2(path.as_ptr(), &raw mut db, flags, ptr::null()),
            ffi::SQLITE_OK
        );
        let mut statement = ptr::null_mut();
        let prepared = ffi::sqlite3_prepare_v2(db, sql.as_ptr(), -1, &raw mut statement, ptr::null_mut());
        assert_eq!(prepared, ffi::SQLITE_OK);
        let n_columns = ffi::sqlite3_column_count(statement);
        while ffi::sqlite3_step(statement) == ffi::SQLITE_ROW {
            rows += 1;
            match mode {
                "step" => {}
                "read" => {
                    for column in 0..n_columns {
                        std::hint::black_box(read_cell(statement, column));
                    }
                }
                _ => {
                    out.extend_from_slice(if out.is_empty() { b"[" } else { b",[" });
                    for column in 0..n_columns {
                        if column > 0 {
                            out.push(b',');
                        }
                        encode_cell(&read_cell(statement, column), &mut out);
                    }
                    out.push(b']');
                    if out.len() >= PIECE_BYTES {
                        if let Some(socket) = &mut socket {
                            socket.write_all(&out).unwrap();
                        }
                        std::hint::black_box(&out);
                        out.clear();
                    }
                }
            }
        }
        ffi::sqlite3_finalize(statement);
        ffi::sqlite3_close(db);
    }
    if let Some(socket) = &mut socket {
        socket.write_all(&out).unwrap();
    }
    println!(
        "{rows} {} {}",
        cpu_ns_of(process) - before,
        begun_at.elapsed().as_nanos()
    );
    drop(socket);
    if let Some(mut drain) = drain {
        drain.wait().unwrap();
    }
}

enum Cell<'a> {
    Null,
    Integer(i64),
    Real(f64),
    Bytes(&'a [u8]),
}

/// # Safety
/// The statement has a row, and the cell is not used after the next call on it.
unsafe fn read_cell<'a>(statement: *mut ffi::sqlite3_stmt, column: i32) -> Cell<'a> {
    // SAFETY: by the contract above.
    unsafe {
        let value = ffi::sqlite3_column_value(statement, column);
        match ffi::sqlite3_value_type(value) {
            ffi::SQLITE_INTEGER => Cell::Integer(ffi::sqlite3_value_int64(value)),
            ffi::SQLITE_FLOAT => Cell::Real(ffi::sqlite3_value_double(value)),
            ffi::SQLITE_TEXT => {
                let text = ffi::sqlite3_value_text(value);
                let len = ffi::sqlite3_value_bytes(value) as usize;
                Cell::Bytes(std::slice::from_raw_parts(text, len))
            }
            _ => Cell::Null,
        }
    }
}

fn encode_cell(cell: &Cell<'_>, out: &mut Vec<u8>) {
    match cell {
        Cell::Null => out.extend_from_slice(b"null"),
        Cell::Integer(value) => out.extend_from_slice(itoa::Buffer::new().format(*value).as_bytes()),
        Cell::Real(value) => encode_real(*value, out),
        Cell::Bytes(text) => {
            out.push(b'"');
            if is_plain(text) {
                out.extend_from_slice(text);
            } else {
                for character in String::from_utf8_lossy(text).escape_default() {
                    out.push(character as u8);
                }
            }
            out.push(b'"');
        }
    }
}

/// Whether nothing needs an escape, eight bytes at a time.
fn is_plain(text: &[u8]) -> bool {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let special = |word: u64| {
        let (quote, backslash) = (word ^ (ONES * 0x22), word ^ (ONES * 0x5C));
        let zeros = (quote.wrapping_sub(ONES) & !quote) | (backslash.wrapping_sub(ONES) & !backslash);
        (zeros | (word.wrapping_sub(ONES * 0x20) & !word) | word) & (ONES * 0x80)
    };
    let (words, rest) = text.as_chunks::<8>();
    let mut last = [b' '; 8];
    last[..rest.len()].copy_from_slice(rest);
    let found = words
        .iter()
        .fold(0, |found, word| found | special(u64::from_le_bytes(*word)));
    found | special(u64::from_le_bytes(last)) == 0
}

/// Two decimals at the most, as TPC-H's are; anything else by the general printer.
fn encode_real(value: f64, out: &mut Vec<u8>) {
    let hundredths = (value * 100.0).round();
    if hundredths.abs() < 1e15 && hundredths / 100.0 == value {
        let n = hundredths as i64;
        if n < 0 {
            out.push(b'-');
        }
        let n = n.unsigned_abs();
        out.extend_from_slice(itoa::Buffer::new().format(n / 100).as_bytes());
        let rest = (n % 100) as u8;
        out.extend_from_slice(&[b'.', b'0' + rest / 10]);
        if !rest.is_multiple_of(10) {
            out.push(b'0' + rest % 10);
        }
    } else {
        out.extend_from_slice(zmij::Buffer::new().format(value).as_bytes());
    }
}
