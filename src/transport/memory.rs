//! Two ends that meet in memory: a connection without a socket, for tests and for applications that bring their own bytes.
//!
//! Owns the bounded buffer of each direction and who waits on it. Must not know what the bytes mean.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::{Halves, ReadHalf, Transport, TransportControl, WriteHalf};

/// Two connected transports: what one end writes, the other reads.
///
/// They block and wake like a pair of sockets. Each direction holds at most `capacity_bytes` (at least 1).
///
/// - A `write` blocks while its direction is full. Woken by the other end reading, or by either end being shut down or dropped;
///   then it fails with `BrokenPipe`.
/// - A `read` blocks while there is nothing to read. Woken by the other end writing, by either end being shut down or dropped
///   (then it returns 0), and by the read timeout (then it fails with `WouldBlock`).
/// - What was written before a shutdown can still be read after it.
///
/// ```
/// use std::io::{Read, Write};
///
/// let (mut here, mut there) = rowstream::transport::memory_pair(1024);
/// here.write_all(b"hello")?;
/// drop(here);
/// let mut heard = String::new();
/// there.read_to_string(&mut heard)?;
/// assert_eq!(heard, "hello");
/// # Ok::<(), std::io::Error>(())
/// ```
#[must_use]
pub fn memory_pair(capacity_bytes: usize) -> (MemoryTransport, MemoryTransport) {
    let (there, back) = (Pipe::new(capacity_bytes), Pipe::new(capacity_bytes));
    let end = |incoming: &Arc<Pipe>, outgoing: &Arc<Pipe>| MemoryTransport {
        read: Reader {
            pipe: Arc::clone(incoming),
            timeout: None,
        },
        write: Writer(Arc::clone(outgoing)),
    };
    (end(&back, &there), end(&there, &back))
}

/// One of the two ends made by [`memory_pair`]. Reads and writes like a socket; dropping it shuts both directions down.
///
/// After [`split`](Transport::split) each half ends its own direction when it is dropped. `Debug` shows how many bytes wait in
/// either direction and who is blocked, for tests that have waited too long.
pub struct MemoryTransport {
    read: Reader,
    write: Writer,
}

impl MemoryTransport {
    /// How long one `read` may block before it fails with `WouldBlock`; `None` for ever.
    pub fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.read.timeout = timeout;
    }
}

impl fmt::Debug for MemoryTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryTransport")
            .field("incoming", &self.read.pipe)
            .field("outgoing", &self.write.0)
            .finish_non_exhaustive()
    }
}

impl Transport for MemoryTransport {
    fn split(self: Box<Self>) -> io::Result<Halves> {
        let Self { read, write } = *self;
        let control = Control {
            incoming: Arc::clone(&read.pipe),
            outgoing: Arc::clone(&write.0),
        };
        Ok(Halves::new(Box::new(read), Box::new(write), Arc::new(control)))
    }

    fn peer(&self) -> String {
        "memory".to_owned()
    }
}

impl Read for MemoryTransport {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read.read(buffer)
    }
}

impl Write for MemoryTransport {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write.write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.write.write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl WriteHalf for MemoryTransport {}

struct Reader {
    pipe: Arc<Pipe>,
    timeout: Option<Duration>,
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

impl Drop for Reader {
    fn drop(&mut self) {
        self.pipe.close_reader();
        self.pipe.forget();
    }
}

struct Writer(Arc<Pipe>);

impl WriteHalf for Writer {}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.write(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.close_writer();
    }
}

struct Control {
    incoming: Arc<Pipe>,
    outgoing: Arc<Pipe>,
}

impl TransportControl for Control {
    fn shutdown(&self, how: Shutdown) {
        if matches!(how, Shutdown::Read | Shutdown::Both) {
            self.incoming.close_reader();
        }
        if matches!(how, Shutdown::Write | Shutdown::Both) {
            self.outgoing.close_writer();
        }
    }
}

/// One direction.
struct Pipe {
    state: Mutex<PipeState>,
    /// Rung at every change of the state. At most two wait on it: this direction's reader and its writer, never both at once.
    changed: Condvar,
    capacity_bytes: usize,
}

#[derive(Default)]
struct PipeState {
    bytes: VecDeque<u8>,
    /// Nothing more is written; what is there can still be read.
    writer_closed: bool,
    /// Nothing more is taken in; what is there can still be read.
    reader_closed: bool,
    reader_blocked: bool,
    writer_blocked: bool,
}

impl PipeState {
    fn is_closed(&self) -> bool {
        self.writer_closed || self.reader_closed
    }
}

impl Pipe {
    fn new(capacity_bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(PipeState::default()),
            changed: Condvar::new(),
            capacity_bytes: capacity_bytes.max(1),
        })
    }

    fn read(&self, buffer: &mut [u8], timeout: Option<Duration>) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let mut state = self.state.lock();
        let has_nothing = |state: &mut PipeState| state.bytes.is_empty() && !state.is_closed();
        if has_nothing(&mut state) {
            state.reader_blocked = true;
            match timeout {
                None => self.changed.wait_while(&mut state, has_nothing),
                Some(timeout) => {
                    let _a_last_look_decides = self.changed.wait_while_for(&mut state, has_nothing, timeout);
                }
            }
            state.reader_blocked = false;
            if has_nothing(&mut state) {
                return Err(ErrorKind::WouldBlock.into());
            }
        }
        let n = state.bytes.read(buffer)?;
        if n > 0 {
            self.changed.notify_all();
        }
        Ok(n)
    }

    fn write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if slices.iter().all(|slice| slice.is_empty()) {
            return Ok(0);
        }
        let mut state = self.state.lock();
        let is_full = |state: &mut PipeState| state.bytes.len() >= self.capacity_bytes && !state.is_closed();
        if is_full(&mut state) {
            state.writer_blocked = true;
            self.changed.wait_while(&mut state, is_full);
            state.writer_blocked = false;
        }
        if state.is_closed() {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let mut n_written = 0;
        for slice in slices {
            let room = self.capacity_bytes - state.bytes.len();
            let taken = &slice[..room.min(slice.len())];
            state.bytes.extend(taken);
            n_written += taken.len();
        }
        self.changed.notify_all();
        Ok(n_written)
    }

    fn close_writer(&self) {
        self.state.lock().writer_closed = true;
        self.changed.notify_all();
    }

    fn close_reader(&self) {
        self.state.lock().reader_closed = true;
        self.changed.notify_all();
    }

    /// The reader is gone: what nobody will read needs no memory, however long the other end keeps its handles.
    fn forget(&self) {
        let unread = std::mem::take(&mut self.state.lock().bytes);
        drop(unread);
    }
}

impl fmt::Debug for Pipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        f.debug_struct("Pipe")
            .field("bytes", &state.bytes.len())
            .field("capacity_bytes", &self.capacity_bytes)
            .field("writer_closed", &state.writer_closed)
            .field("reader_closed", &state.reader_closed)
            .field("reader_blocked", &state.reader_blocked)
            .field("writer_blocked", &state.writer_blocked)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

    use crossbeam_channel::{Receiver, bounded};

    use super::*;
    use crate::clock;
    use crate::thread::{STACK_BYTES_CONNECTION, spawn_named};

    /// Only bounds a test that fails.
    const DEADLINE: Duration = Duration::from_secs(10);

    /// One end taken apart, with a look at its pipes.
    struct Apart {
        read: Box<dyn ReadHalf>,
        write: Box<dyn WriteHalf>,
        control: Arc<dyn TransportControl>,
        incoming: Arc<Pipe>,
        outgoing: Arc<Pipe>,
    }

    fn apart(end: MemoryTransport) -> Apart {
        let (incoming, outgoing) = (Arc::clone(&end.read.pipe), Arc::clone(&end.write.0));
        let Halves { read, write, control } = Box::new(end).split().unwrap();
        Apart {
            read,
            write,
            control,
            incoming,
            outgoing,
        }
    }

    /// Runs a call that is about to block; what it returns comes through the channel.
    fn blocked<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
        let (sender, receiver) = bounded(1);
        spawn_named("test", STACK_BYTES_CONNECTION, move || {
            sender.send(call()).expect("the test waits for it");
        })
        .unwrap();
        receiver
    }

    #[track_caller]
    fn woken<T>(call: &Receiver<T>, pipe: &Pipe) -> T {
        call.recv_timeout(DEADLINE)
            .unwrap_or_else(|_| panic!("nothing has woken it: {pipe:?}"))
    }

    /// Waits until the pipe's reader or writer really sleeps.
    #[track_caller]
    fn until(pipe: &Pipe, what: &str, holds: impl Fn(&PipeState) -> bool) {
        let end = clock::now() + DEADLINE;
        while !holds(&pipe.state.lock()) {
            assert!(clock::now() < end, "never {what}: {pipe:?}");
            std::thread::yield_now();
        }
    }

    #[track_caller]
    fn until_reader_sleeps(pipe: &Pipe) {
        until(pipe, "a blocked reader", |state| state.reader_blocked);
    }

    #[track_caller]
    fn until_writer_sleeps(pipe: &Pipe) {
        until(pipe, "a blocked writer", |state| state.writer_blocked);
    }

    fn read_one(mut read: Box<dyn ReadHalf>) -> Receiver<io::Result<usize>> {
        blocked(move || {
            let result = read.read(&mut [0]);
            // Kept until here: dropping the half would close it.
            drop(read);
            result
        })
    }

    #[test]
    fn bytes_cross_in_both_directions_and_in_order() {
        for capacity_bytes in [0, 1, 2, 7, 64] {
            let (mut a, mut b) = memory_pair(capacity_bytes);
            let pipe = Arc::clone(&a.read.pipe);
            let answer = blocked(move || {
                a.write_all(b"hello, other end").unwrap();
                let mut answer = [0; 2];
                a.read_exact(&mut answer).unwrap();
                answer
            });
            let mut heard = [0; 16];
            b.read_exact(&mut heard).unwrap();
            assert_eq!(&heard, b"hello, other end");
            b.write_all(b"ok").unwrap();
            assert_eq!(&woken(&answer, &pipe), b"ok");
        }
    }

    #[test]
    fn a_write_takes_what_fits_and_no_more() {
        let (mut a, mut b) = memory_pair(5);
        let slices = [b"ab".as_slice(), b"", b"cde", b"fg"].map(IoSlice::new);
        assert_eq!(a.write_vectored(&slices).unwrap(), 5);
        let mut heard = [0; 9];
        assert_eq!(b.read(&mut heard).unwrap(), 5);
        assert_eq!(&heard[..5], b"abcde");
        assert_eq!(a.write(b"").unwrap(), 0, "writing nothing never blocks");
        assert_eq!(b.read(&mut []).unwrap(), 0, "reading nothing never blocks");
    }

    #[test]
    fn a_blocked_read_is_woken_by_a_write() {
        let (a, mut b) = memory_pair(4);
        let a = apart(a);
        let read = read_one(a.read);
        until_reader_sleeps(&a.incoming);
        b.write_all(b"x").unwrap();
        assert_eq!(woken(&read, &a.incoming).unwrap(), 1);
        assert!(!a.incoming.state.lock().reader_blocked);
    }

    #[test]
    fn a_blocked_write_is_woken_by_a_read() {
        let (a, mut b) = memory_pair(2);
        let mut a = apart(a);
        a.write.write_all(b"ab").unwrap();
        let outgoing = Arc::clone(&a.outgoing);
        let written = blocked(move || a.write.write(b"cd"));
        until_writer_sleeps(&outgoing);
        b.read_exact(&mut [0]).unwrap();
        assert_eq!(woken(&written, &outgoing).unwrap(), 1);
    }

    /// Ends one way or another while both a read and a write of `a` are blocked; says what became of them.
    #[track_caller]
    fn check_wake(
        what: &str,
        end: impl FnOnce(&dyn TransportControl, MemoryTransport),
        read_ends: bool,
        write_ends: bool,
    ) {
        let (a, b) = memory_pair(1);
        let mut a = apart(a);
        a.write.write_all(b"x").unwrap();
        let read = read_one(a.read);
        let (mut write, outgoing) = (a.write, Arc::clone(&a.outgoing));
        let written = blocked(move || write.write(b"y"));
        until_reader_sleeps(&a.incoming);
        until_writer_sleeps(&a.outgoing);
        end(a.control.as_ref(), b);
        if read_ends {
            assert_eq!(woken(&read, &a.incoming).unwrap(), 0, "{what}");
        } else {
            assert!(a.incoming.state.lock().reader_blocked, "{what}: the read stays blocked");
        }
        if write_ends {
            let error = woken(&written, &outgoing).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BrokenPipe, "{what}");
        } else {
            assert!(outgoing.state.lock().writer_blocked, "{what}: the write stays blocked");
        }
        a.control.shutdown(Shutdown::Both);
    }

    #[test]
    fn shutting_down_and_dropping_wake_what_they_end() {
        // The other end is kept in a cell of its own, so that it does not end anything by being dropped.
        let parked = Mutex::new(Vec::new());
        let keep = |b| parked.lock().push(b);
        let own = |how| {
            move |control: &dyn TransportControl, b| {
                control.shutdown(how);
                keep(b);
            }
        };
        check_wake("shutdown(Both)", own(Shutdown::Both), true, true);
        check_wake("shutdown(Read)", own(Shutdown::Read), true, false);
        check_wake("shutdown(Write)", own(Shutdown::Write), false, true);
        check_wake("the other end dropped", |_, b| drop(b), true, true);

        let others = |how| {
            move |_: &dyn TransportControl, b: MemoryTransport| {
                let halves = Box::new(b).split().unwrap();
                halves.control.shutdown(how);
                // Dropping them would end both directions.
                std::mem::forget(halves);
            }
        };
        check_wake("the other's shutdown(Both)", others(Shutdown::Both), true, true);
        check_wake("the other's shutdown(Read)", others(Shutdown::Read), false, true);
        check_wake("the other's shutdown(Write)", others(Shutdown::Write), true, false);
        check_wake(
            "the other's read half dropped",
            |_, b| drop_half(b, Shutdown::Read),
            false,
            true,
        );
        check_wake(
            "the other's write half dropped",
            |_, b| drop_half(b, Shutdown::Write),
            true,
            false,
        );
    }

    fn drop_half(end: MemoryTransport, which: Shutdown) {
        let Halves { read, write, control } = Box::new(end).split().unwrap();
        match which {
            Shutdown::Read => {
                drop(read);
                std::mem::forget(write);
            }
            Shutdown::Write | Shutdown::Both => {
                drop(write);
                std::mem::forget(read);
            }
        }
        drop(control);
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
    fn what_had_arrived_can_be_read_after_shutting_down() {
        for how in [Shutdown::Read, Shutdown::Both] {
            let (mut a, b) = memory_pair(16);
            let mut b = apart(b);
            a.write_all(b"last").unwrap();
            b.control.shutdown(how);
            assert_eq!(a.write(b"more").unwrap_err().kind(), ErrorKind::BrokenPipe);
            let mut heard = Vec::new();
            b.read.read_to_end(&mut heard).unwrap();
            assert_eq!(heard, b"last");
            b.control.shutdown(how);
        }
    }

    #[test]
    fn nothing_is_held_for_a_reader_that_is_gone() {
        let (mut a, b) = memory_pair(16);
        a.write_all(b"unread").unwrap();
        drop(b);
        assert_eq!(a.write.0.state.lock().bytes.capacity(), 0);
        let pipe = Arc::downgrade(&a.write.0);
        drop(a);
        assert!(pipe.upgrade().is_none(), "a pipe outlives both of its ends");
    }

    #[test]
    fn taking_an_end_apart_keeps_nothing_alive() {
        let (a, b) = memory_pair(16);
        let pipe = Arc::downgrade(&a.write.0);
        drop(apart(a));
        drop(b);
        assert!(pipe.upgrade().is_none(), "a pipe outlives both of its ends");
    }

    #[test]
    fn a_read_timeout_is_kept_and_can_be_taken_back() {
        let (mut a, b) = memory_pair(1);
        a.set_read_timeout(Some(Duration::from_millis(1)));
        assert_eq!(a.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        let mut a = apart(a);
        assert_eq!(a.read.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        assert!(!a.incoming.state.lock().reader_blocked);
        a.read.set_read_timeout(None).unwrap();
        let read = read_one(a.read);
        until_reader_sleeps(&a.incoming);
        drop(b);
        assert_eq!(woken(&read, &a.incoming).unwrap(), 0);
    }

    #[test]
    fn what_is_ready_is_read_whatever_the_timeout() {
        let (mut a, mut b) = memory_pair(1);
        b.write_all(b"x").unwrap();
        a.set_read_timeout(Some(Duration::ZERO));
        assert_eq!(a.read(&mut [0]).unwrap(), 1);
        assert_eq!(a.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    }

    #[test]
    fn debug_says_who_waits() {
        let (a, b) = memory_pair(3);
        let a = apart(a);
        let read = read_one(a.read);
        until_reader_sleeps(&a.incoming);
        let text = format!("{b:?}");
        assert!(text.contains("reader_blocked: true"), "{text}");
        drop(b);
        assert_eq!(woken(&read, &a.incoming).unwrap(), 0);
    }
}
