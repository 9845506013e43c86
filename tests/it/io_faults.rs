//! Transports that fail at every point: a connection ends, and nothing of it is left.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rowstream::engine::memory::{Gate, MemoryEngine, Script};
use rowstream::transport::{Halves, MemoryTransport, ReadHalf, Transport, memory_pair};
use rowstream::{Server, ServerHandle};
use tungstenite::{Message, client};

use crate::support::eventually;

/// A transport that fails at its n-th read, write, or setting of a time, whichever is `what`.
struct Faulty {
    inner: MemoryTransport,
    what: Fault,
    counter: Arc<AtomicUsize>,
    fails_at: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Read,
    Write,
    /// As `Write`, and every write before takes only half of what it is given.
    ShortWrite,
    SetTimeout,
}

/// One half, and when it fails.
struct FaultyHalf<T> {
    inner: T,
    what: Fault,
    counter: Arc<AtomicUsize>,
    fails_at: usize,
}

impl<T> FaultyHalf<T> {
    /// Counts one more of these; an error from the n-th on.
    fn count(&self, what: Fault) -> io::Result<()> {
        if self.what != what {
            return Ok(());
        }
        let n = self.counter.fetch_add(1, Ordering::AcqRel);
        if n < self.fails_at {
            return Ok(());
        }
        Err(io::Error::from(ErrorKind::ConnectionReset))
    }
}

impl rowstream::transport::WriteHalf for FaultyHalf<Box<dyn rowstream::transport::WriteHalf>> {}

impl Transport for Faulty {
    fn split(self: Box<Self>) -> io::Result<Halves> {
        let Self {
            inner,
            what,
            counter,
            fails_at,
        } = *self;
        let Halves {
            read, write, control, ..
        } = Box::new(inner).split()?;
        let read = FaultyHalf {
            inner: read,
            what,
            counter: Arc::clone(&counter),
            fails_at,
        };
        let write = FaultyHalf {
            inner: write,
            what,
            counter,
            fails_at,
        };
        Ok(Halves::new(Box::new(read), Box::new(write), control))
    }

    fn peer(&self) -> String {
        "faulty".to_owned()
    }
}

impl Read for FaultyHalf<Box<dyn ReadHalf>> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.count(Fault::Read)?;
        self.inner.read(buffer)
    }
}

impl ReadHalf for FaultyHalf<Box<dyn ReadHalf>> {
    fn set_read_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.count(Fault::SetTimeout)?;
        self.inner.set_read_timeout(timeout)
    }
}

impl Write for FaultyHalf<Box<dyn rowstream::transport::WriteHalf>> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.count(Fault::Write)?;
        if self.what == Fault::ShortWrite {
            self.count(Fault::ShortWrite)?;
            return self.inner.write(&bytes[..bytes.len().div_ceil(2)]);
        }
        self.inner.write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self.what {
            Fault::ShortWrite => self.write(slices.iter().find(|slice| !slice.is_empty()).map_or(&[], |slice| slice)),
            Fault::Read | Fault::Write | Fault::SetTimeout => {
                self.count(Fault::Write)?;
                self.inner.write_vectored(slices)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Upgrades, runs a query to its end, stops another, leaves a third behind, and closes. What does not come any more ends it.
fn talk(transport: MemoryTransport) -> Option<()> {
    let (mut socket, _) = client("ws://memory/ws", transport).ok()?;
    let say = |socket: &mut tungstenite::WebSocket<MemoryTransport>, text: &str| socket.send(Message::text(text)).ok();
    let hear = |socket: &mut tungstenite::WebSocket<MemoryTransport>, what: &str| -> Option<()> {
        loop {
            if socket.read().ok()?.to_text().is_ok_and(|text| text.contains(what)) {
                return Some(());
            }
        }
    };
    say(
        &mut socket,
        r#"{"type":"stream_query","query":"q","batch_size":5,"progress_interval_ms":0}"#,
    )?;
    hear(&mut socket, "query_completed")?;
    say(
        &mut socket,
        r#"{"type":"stream_query","query":"gated","request_id":"g","progress_interval_ms":0}"#,
    )?;
    hear(&mut socket, "query_batch")?;
    say(&mut socket, r#"{"type":"cancel_query","request_id":"g"}"#)?;
    hear(&mut socket, "query_cancelled")?;
    say(
        &mut socket,
        r#"{"type":"stream_query","query":"gated","progress_interval_ms":0}"#,
    )?;
    hear(&mut socket, "query_started")?;
    socket.close(None).ok()?;
    while socket.read().is_ok() {}
    Some(())
}

fn check_nothing_is_left(server: &ServerHandle, engine: &MemoryEngine) {
    eventually("nothing is left", &(0, 0, 0, 0), || {
        let streams = server.streams();
        let n_streams = streams.reports().len();
        (
            server.connections(),
            n_streams,
            streams.bytes_held(),
            engine.probe().cursors_open,
        )
    });
}

fn n_threads() -> usize {
    fs::read_dir("/proc/self/task").map_or(0, |tasks| tasks.count())
}

fn scenarios() {
    let engine = MemoryEngine::builder()
        .query("q", Script::new(["n"]).generate(20, |n| vec![(n as i64).into()]))
        .query("gated", Script::new(["n"]).row([1.into()]).gate(&Gate::new()))
        .build();
    let server = Server::builder().engine("memory", engine.clone()).start().unwrap();
    let n_before = n_threads();
    for what in [Fault::Read, Fault::Write, Fault::ShortWrite, Fault::SetTimeout] {
        let mut ways = BTreeSet::new();
        for fails_at in 0.. {
            let (here, there) = memory_pair(64 * 1024);
            let counter = Arc::new(AtomicUsize::new(0));
            let faulty = Faulty {
                inner: there,
                what,
                counter: Arc::clone(&counter),
                fails_at,
            };
            server.serve_stream(faulty).unwrap();
            let is_whole = talk(here).is_some();
            check_nothing_is_left(&server, &engine);
            ways.insert(is_whole);
            if counter.load(Ordering::Acquire) <= fails_at {
                assert!(is_whole, "{what:?}: nothing failed at {fails_at}, and it was not whole");
                break;
            }
        }
        assert_eq!(ways.len(), 2, "{what:?}: some failed, and one did not");
    }
    // Whoever has ended is joined when the next one comes.
    let (here, there) = memory_pair(64 * 1024);
    server.serve_stream(there).unwrap();
    assert_eq!(talk(here), Some(()));
    check_nothing_is_left(&server, &engine);
    eventually("threads", &n_before, n_threads);
    server.shutdown();
}

#[test]
fn a_transport_that_fails_at_any_point_ends_its_connection_and_nothing_else() {
    const NAME: &str = "io_faults::a_transport_that_fails_at_any_point_ends_its_connection_and_nothing_else";
    const MARK: &str = "ROWSTREAM_TEST_IO_FAULTS";
    if env::var_os(MARK).is_some() {
        return scenarios();
    }
    // In a process of its own, so that other tests' threads do not count.
    let mut child = Command::new(env::current_exe().unwrap());
    child.args(["--exact", NAME, "--test-threads=1", "--nocapture"]);
    let output = child.env(MARK, "1").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
