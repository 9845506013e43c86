//! What streaming costs in allocations: none for a row, whatever it is encoded as.
#![allow(unsafe_code)] // an allocator cannot be counted without it
#![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};

use rowstream::engine::sqlite::SqliteEngine;
use rowstream::{Server, ServerHandle};

/// The system's, counted.
struct Counting;

static COUNT: AtomicU64 = AtomicU64::new(0);

// SAFETY: everything is the system allocator's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: by the caller's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: by the caller's contract.
        unsafe { System.dealloc(start, layout) }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: by the caller's contract.
        unsafe { System.realloc(start, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A client that allocates nothing while it reads.
struct Reader {
    socket: TcpStream,
    buffer: Box<[u8]>,
}

impl Reader {
    fn connect(server: &ServerHandle) -> Self {
        let mut socket = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        let request = "GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        socket.write_all(request.as_bytes()).unwrap();
        let mut last = [0; 4];
        while &last != b"\r\n\r\n" {
            last.rotate_left(1);
            socket.read_exact(&mut last[3..]).unwrap();
        }
        Self {
            socket,
            buffer: vec![0; 1 << 20].into(),
        }
    }

    /// Runs a query to its end; returns the allocations of the whole process meanwhile.
    fn run(&mut self, n_rows: u32, fields: &str) -> u64 {
        let text = format!(
            "{{\"type\":\"stream_query\",\"query\":\"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {n_rows}) \
SELECT i, i / 7.0 AS r, 'row number ' || i AS t FROM n\",\"progress_interval_ms\":0,\"batch_size\":1000,{fields}}}"
        );
        let mut frame = vec![0x81, 0xFE];
        frame.extend((text.len() as u16).to_be_bytes());
        frame.extend([0; 4]);
        frame.extend(text.as_bytes());
        let before = COUNT.load(Ordering::Relaxed);
        self.socket.write_all(&frame).unwrap();
        while !self.read_message().starts_with(b"{\"type\":\"query_completed\"") {}
        COUNT.load(Ordering::Relaxed) - before
    }

    fn read_message(&mut self) -> &[u8] {
        let mut head = [0; 2];
        self.socket.read_exact(&mut head).unwrap();
        let mut length = [0; 8];
        let n_more = match head[1] {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        self.socket.read_exact(&mut length[8 - n_more..]).unwrap();
        let length = match n_more {
            0 => usize::from(head[1]),
            _ => u64::from_be_bytes(length) as usize,
        };
        let message = &mut self.buffer[..length];
        self.socket.read_exact(message).unwrap();
        assert!(
            !message.starts_with(b"{\"type\":\"error\""),
            "{}",
            String::from_utf8_lossy(message)
        );
        message
    }
}

#[test]
fn a_row_costs_no_allocation() {
    const MORE_ROWS: u32 = 200_000;
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("empty.db");
    rusqlite::Connection::open(&path)
        .unwrap()
        .execute_batch("CREATE TABLE t(i)")
        .unwrap();
    let server = Server::builder()
        .engine("sqlite", SqliteEngine::open(&path).unwrap())
        .listen("127.0.0.1:0")
        .start()
        .unwrap();
    let mut reader = Reader::connect(&server);
    let mut kinds = vec![
        r#""row_format":"array""#,
        r#""row_format":"object""#,
        r#""compression":["gzip"]"#,
        r#""checksum":true"#,
    ];
    if cfg!(feature = "compression") {
        kinds.push(r#""compression":["zstd"]"#);
    }
    if cfg!(feature = "arrow") {
        kinds.push(r#""format":"arrow""#);
    }
    for fields in kinds {
        reader.run(20_000, fields);
        let few = reader.run(20_000, fields);
        let many = reader.run(20_000 + MORE_ROWS, fields);
        let per_row = many.saturating_sub(few) as f64 / f64::from(MORE_ROWS);
        // A batch of 1,000 rows may cost some.
        assert!(per_row < 0.05, "{fields}: {per_row} allocations a row");
    }
}
