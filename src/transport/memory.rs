//! Two ends that meet in memory: a connection without a socket, for tests and for applications that bring their own bytes.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::{Halves, ReadHalf, Transport, TransportControl};

/// Two connected transports: what one end writes, the other reads.
///
/// Each direction holds at most `capacity_bytes` (at least 1). A `write` blocks while its direction is full, until the other end
/// reads or either end is shut down or dropped; a `read` blocks while there is nothing, until the other end writes, or either
/// is shut down or dropped, or the read timeout passes.
#[must_use]
pub fn memory_pair(capacity_bytes: usize) -> (MemoryTransport, MemoryTransport) {
    let pipe = || {
        Arc::new(Pipe {
            state: Mutex::new(PipeState::default()),
            changed: Condvar::new(),
            capacity_bytes: capacity_bytes.max(1),
        })
    };
    let (there, back) = (pipe(), pipe());
    let end = |incoming: &Arc<Pipe>, outgoing: &Arc<Pipe>| MemoryTransport {
        end: End {
            incoming: Arc::clone(incoming),
            outgoing: Arc::clone(outgoing),
        },
        read_timeout: None,
    };
    (end(&back, &there), end(&there, &back))
}

/// One of the two ends made by [`memory_pair`]. Reads and writes like a socket; dropping it shuts both directions down.
pub struct MemoryTransport {
    end: End,
    read_timeout: Option<Duration>,
}

impl fmt::Debug for MemoryTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryTransport").finish_non_exhaustive()
    }
}

struct Pipe {
    state: Mutex<PipeState>,
    changed: Condvar,
    capacity_bytes: usize,
}

#[derive(Default)]
struct PipeState {
    bytes: VecDeque<u8>,
    /// Nothing more is written; what is there can still be read.
    writer_closed: bool,
    /// Nothing is read any more.
    reader_closed: bool,
}

impl Pipe {
    fn read(&self, buffer: &mut [u8], timeout: Option<Duration>) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let mut state = self.state.lock();
        while state.bytes.is_empty() && !state.writer_closed && !state.reader_closed {
            match timeout {
                None => self.changed.wait(&mut state),
                Some(timeout) => {
                    let timed_out = self.changed.wait_for(&mut state, timeout).timed_out();
                    if timed_out && state.bytes.is_empty() && !state.writer_closed && !state.reader_closed {
                        return Err(ErrorKind::WouldBlock.into());
                    }
                }
            }
        }
        if state.reader_closed {
            return Ok(0);
        }
        let n = state.bytes.read(buffer)?;
        self.changed.notify_all();
        Ok(n)
    }

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let mut state = self.state.lock();
        loop {
            if state.writer_closed || state.reader_closed {
                return Err(ErrorKind::BrokenPipe.into());
            }
            let room = self.capacity_bytes - state.bytes.len();
            if room > 0 {
                let n = room.min(bytes.len());
                state.bytes.extend(&bytes[..n]);
                self.changed.notify_all();
                return Ok(n);
            }
            self.changed.wait(&mut state);
        }
    }

    fn close_writer(&self) {
        self.state.lock().writer_closed = true;
        self.changed.notify_all();
    }

    fn close_reader(&self) {
        self.state.lock().reader_closed = true;
        self.changed.notify_all();
    }
}

/// What one end is made of. Dropping the last holder is not the end: halves are dropped one by one.
#[derive(Clone)]
struct End {
    incoming: Arc<Pipe>,
    outgoing: Arc<Pipe>,
}

impl TransportControl for End {
    fn shutdown(&self, how: Shutdown) {
        if matches!(how, Shutdown::Read | Shutdown::Both) {
            self.incoming.close_reader();
        }
        if matches!(how, Shutdown::Write | Shutdown::Both) {
            self.outgoing.close_writer();
        }
    }
}

struct Reader {
    pipe: Arc<Pipe>,
    timeout: Option<Duration>,
}

struct Writer(Arc<Pipe>);

impl Drop for Reader {
    fn drop(&mut self) {
        self.pipe.close_reader();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.close_writer();
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.pipe.read(buffer, self.timeout)
    }
}

impl ReadHalf for Reader {
    fn set_read_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.timeout = timeout;
        Ok(())
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Transport for MemoryTransport {
    fn split(self: Box<Self>) -> io::Result<Halves> {
        let end = self.end.clone();
        let reader = Reader {
            pipe: Arc::clone(&end.incoming),
            timeout: self.read_timeout,
        };
        let writer = Writer(Arc::clone(&end.outgoing));
        // The halves close their directions from now on.
        std::mem::forget(self);
        Ok(Halves::new(Box::new(reader), Box::new(writer), Arc::new(end)))
    }

    fn peer(&self) -> String {
        "memory".to_owned()
    }
}

impl MemoryTransport {
    /// How long one `read` may block; `None` for ever.
    pub fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.read_timeout = timeout;
    }
}

impl Read for MemoryTransport {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.end.incoming.read(buffer, self.read_timeout)
    }
}

impl Write for MemoryTransport {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.end.outgoing.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for MemoryTransport {
    fn drop(&mut self) {
        self.end.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

    use super::*;
    use crate::thread::{STACK_BYTES_CONNECTION, spawn_named};

    #[test]
    fn bytes_cross_in_both_directions_and_in_order() {
        let (mut a, mut b) = memory_pair(3);
        let writer = spawn_named("test", STACK_BYTES_CONNECTION, move || {
            a.write_all(b"hello, other end").unwrap();
            let mut answer = [0; 2];
            a.read_exact(&mut answer).unwrap();
            answer
        });
        let mut heard = [0; 16];
        b.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello, other end");
        b.write_all(b"ok").unwrap();
        assert_eq!(&writer.unwrap().join().unwrap(), b"ok");
    }

    #[test]
    fn what_was_written_before_the_end_is_read_before_it() {
        let (mut a, mut b) = memory_pair(16);
        a.write_all(b"last").unwrap();
        drop(a);
        let mut heard = Vec::new();
        b.read_to_end(&mut heard).unwrap();
        assert_eq!(heard, b"last");
        assert_eq!(b.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_read_timeout_is_kept() {
        let (mut a, _b) = memory_pair(1);
        a.set_read_timeout(Some(Duration::from_millis(1)));
        assert_eq!(a.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    }

    #[test]
    fn shutting_down_wakes_a_blocked_read_and_a_blocked_write() {
        for how in [Shutdown::Both, Shutdown::Write, Shutdown::Read] {
            let (a, b) = memory_pair(1);
            let Halves {
                mut read,
                mut write,
                control,
            } = Box::new(a).split().unwrap();
            let reads = matches!(how, Shutdown::Both | Shutdown::Read);
            let writes = matches!(how, Shutdown::Both | Shutdown::Write);
            let reader = spawn_named("test", STACK_BYTES_CONNECTION, move || read.read(&mut [0]).unwrap());
            let writer = spawn_named("test", STACK_BYTES_CONNECTION, move || {
                write.write_all(b"more than fits")
            });
            control.shutdown(how);
            if reads {
                assert_eq!(reader.unwrap().join().unwrap(), 0);
            }
            if writes {
                assert_eq!(
                    writer.unwrap().join().unwrap().unwrap_err().kind(),
                    ErrorKind::BrokenPipe
                );
            }
            drop(b);
        }
    }
}
