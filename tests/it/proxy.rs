//! A TCP proxy that breaks connections on purpose: after a random number of bytes, in one of several ways.
//!
//! Seeded, so that a run can be repeated. One thread per direction; a thread ends when either side of its connection does.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::SockRef;

/// How a connection breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CutKind {
    /// Both sides are reset.
    Reset,
    /// Both sides are closed in an orderly way, in the middle of whatever was being said.
    Close,
    /// Both sides stay open and nothing is forwarded any more.
    BlackHole,
    /// One of the first two.
    ResetOrClose,
}

#[derive(Debug, Clone)]
struct Plan {
    kind: CutKind,
    after: Range<u64>,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    plan: Mutex<Option<Plan>>,
    random: Mutex<u64>,
    stopping: AtomicBool,
    n_cuts: AtomicU64,
    n_connections: AtomicU64,
    /// The connections, to be ended with the proxy.
    pairs: Mutex<Vec<Weak<Pair>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// Both ends of a connection. No socket has a second descriptor: a reset leaves when the last one is closed.
#[derive(Debug)]
struct Pair {
    client: TcpStream,
    server: TcpStream,
    /// How it was cut; nothing is forwarded any more.
    cut: Mutex<Option<CutKind>>,
}

impl Pair {
    /// Ends both sides, unless they are to be reset: then their threads only let go of them.
    fn end(&self) {
        let how = match *self.cut.lock().unwrap() {
            Some(CutKind::Reset) => Shutdown::Read,
            _ => Shutdown::Both,
        };
        let _gone = (self.client.shutdown(how), self.server.shutdown(how));
    }
}

/// The proxy. Dropping it ends its connections and joins its threads.
#[derive(Debug)]
pub(crate) struct CutProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
}

impl CutProxy {
    pub(crate) fn start(target: SocketAddr, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            target,
            plan: Mutex::new(None),
            random: Mutex::new(seed),
            stopping: AtomicBool::new(false),
            n_cuts: AtomicU64::new(0),
            n_connections: AtomicU64::new(0),
            pairs: Mutex::new(Vec::new()),
            threads: Mutex::new(Vec::new()),
        });
        let accepting = Arc::clone(&shared);
        let body = move || {
            for client in listener.incoming() {
                if accepting.stopping.load(Ordering::Acquire) {
                    return;
                }
                accepting.serve(client.unwrap());
            }
        };
        Self {
            address,
            shared,
            listener: Some(thread::Builder::new().spawn(body).unwrap()),
        }
    }

    /// Has connections that come from now on cut, each after a random number of bytes from the server; `None` lets them be.
    pub(crate) fn cut(&self, plan: Option<(CutKind, Range<u64>)>) {
        *self.shared.plan.lock().unwrap() = plan.map(|(kind, after)| Plan { kind, after });
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn n_cuts(&self) -> u64 {
        self.shared.n_cuts.load(Ordering::Acquire)
    }

    pub(crate) fn n_connections(&self) -> u64 {
        self.shared.n_connections.load(Ordering::Acquire)
    }
}

impl Drop for CutProxy {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        let _woken = TcpStream::connect(self.address);
        self.listener.take().unwrap().join().unwrap();
        for pair in self
            .shared
            .pairs
            .lock()
            .unwrap()
            .drain(..)
            .filter_map(|pair| pair.upgrade())
        {
            let _gone = (
                pair.client.shutdown(Shutdown::Both),
                pair.server.shutdown(Shutdown::Both),
            );
        }
        let threads = std::mem::take(&mut *self.shared.threads.lock().unwrap());
        for thread in threads {
            thread.join().unwrap();
        }
    }
}

impl Shared {
    /// SplitMix64 (Steele, Lea and Flood, 2014).
    fn next_random(&self) -> u64 {
        let mut state = self.random.lock().unwrap();
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn serve(self: &Arc<Self>, client: TcpStream) {
        let Ok(server) = TcpStream::connect_timeout(&self.target, Duration::from_secs(5)) else {
            return;
        };
        self.n_connections.fetch_add(1, Ordering::AcqRel);
        for socket in [&client, &server] {
            socket.set_nodelay(true).unwrap();
        }
        let plan = self.plan.lock().unwrap().clone();
        let cut = plan.map(|Plan { kind, after }| {
            let kind = match kind {
                CutKind::ResetOrClose if self.next_random().is_multiple_of(2) => CutKind::Reset,
                CutKind::ResetOrClose => CutKind::Close,
                kind => kind,
            };
            (
                kind,
                after.start + self.next_random() % (after.end - after.start).max(1),
            )
        });
        let pair = Arc::new(Pair {
            client,
            server,
            cut: Mutex::new(None),
        });
        let mut pairs = self.pairs.lock().unwrap();
        pairs.retain(|pair| pair.strong_count() > 0);
        pairs.push(Arc::downgrade(&pair));
        drop(pairs);
        let (down, up) = (Arc::clone(&pair), pair);
        let shared = Arc::clone(self);
        let threads = [
            thread::Builder::new().spawn(move || forward_up(&up)).unwrap(),
            thread::Builder::new()
                .spawn(move || shared.forward_down(&down, cut))
                .unwrap(),
        ];
        let mut all = self.threads.lock().unwrap();
        all.retain(|thread| !thread.is_finished());
        all.extend(threads);
    }

    /// Forwards what the server says until the cut, or the end.
    fn forward_down(&self, pair: &Pair, cut: Option<(CutKind, u64)>) {
        let mut buffer = vec![0; 16 * 1024];
        let mut left = cut.map_or(u64::MAX, |(_, after)| after);
        while left > 0 {
            let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            match (&pair.server).read(&mut buffer[..want]) {
                Ok(n) if n > 0 && (&pair.client).write_all(&buffer[..n]).is_ok() => left -= n as u64,
                Ok(_) | Err(_) => return pair.end(),
            }
        }
        self.n_cuts.fetch_add(1, Ordering::AcqRel);
        let kind = cut.unwrap().0;
        *pair.cut.lock().unwrap() = Some(kind);
        match kind {
            CutKind::Reset => {
                for socket in [&pair.client, &pair.server] {
                    SockRef::from(socket).set_linger(Some(Duration::ZERO)).unwrap();
                }
                pair.end();
            }
            CutKind::Close | CutKind::ResetOrClose => pair.end(),
            // The other direction's thread keeps both sides open, and forwards nothing.
            CutKind::BlackHole => {}
        }
    }
}

/// Forwards what the client says.
fn forward_up(pair: &Pair) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        match (&pair.client).read(&mut buffer) {
            Ok(n) if n > 0 => {
                let is_cut = pair.cut.lock().unwrap().is_some();
                if !is_cut && (&pair.server).write_all(&buffer[..n]).is_err() {
                    return pair.end();
                }
            }
            Ok(_) | Err(_) => return pair.end(),
        }
    }
}

#[test]
fn what_is_not_cut_passes_unchanged_and_a_cut_comes_where_it_was_planned() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = CutProxy::start(listener.local_addr().unwrap(), 7);
    for kind in [None, Some(CutKind::Close), Some(CutKind::Reset)] {
        proxy.cut(kind.map(|kind| (kind, 1_000..1_001)));
        let mut client = TcpStream::connect(proxy.address()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(b"up").unwrap();
        let mut heard = [0; 2];
        server.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"up");
        server.write_all(&[7; 5_000]).unwrap();
        let _cut_already = server.shutdown(Shutdown::Write);
        let mut got = Vec::new();
        let _reset = client.read_to_end(&mut got);
        assert_eq!(got.len(), if kind.is_some() { 1_000 } else { 5_000 }, "{kind:?}");
    }
    assert_eq!((proxy.n_cuts(), proxy.n_connections()), (2, 3));
}
