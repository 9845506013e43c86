//! Listening sockets, TCP's and unix ones: made, woken, and taken away.
//!
//! Must not know who is served.

use std::fmt;
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use socket2::SockRef;

use super::tls::Tls;

/// How long waking whoever accepts may take.
const WAKE_TIMEOUT: Duration = Duration::from_secs(1);

/// Connections that the system may hold for the listener. With the usual 128, a flood of a few hundred at once has others wait for a
/// second, until the system tries again.
const BACKLOG: i32 = 1024;

/// Where a server listens.
#[derive(Debug)]
pub(super) enum Place {
    Tcp(Vec<SocketAddr>),
    /// A socket that listens already.
    Bound(TcpListener),
    #[cfg(unix)]
    Unix(std::path::PathBuf),
}

impl Place {
    /// Whether it can be reached by an address.
    pub(super) fn is_tcp(&self) -> bool {
        match self {
            Self::Tcp(_) | Self::Bound(_) => true,
            #[cfg(unix)]
            Self::Unix(_) => false,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addresses) => {
                for (n, address) in addresses.iter().enumerate() {
                    let comma = if n == 0 { "" } else { ", " };
                    write!(f, "{comma}{address}")?;
                }
                Ok(())
            }
            Self::Bound(_) => f.write_str("a socket handed over"),
            #[cfg(unix)]
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A connection that has come in.
pub(super) enum Accepted {
    Tcp(TcpStream, SocketAddr),
    #[cfg(unix)]
    Unix(std::os::unix::net::UnixStream),
}

impl Accepted {
    /// Who it is, for logs.
    pub(super) fn peer(&self) -> String {
        match self {
            Self::Tcp(_, peer) => peer.to_string(),
            #[cfg(unix)]
            Self::Unix(_) => "unix".to_owned(),
        }
    }

    /// What it is counted by; nobody on this machine's unix sockets has one.
    pub(super) fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(_, peer) => Some(peer.ip()),
            #[cfg(unix)]
            Self::Unix(_) => None,
        }
    }

    /// Whether it has to speak TLS.
    pub(super) fn speaks(&self, tls: &Tls) -> bool {
        match self {
            Self::Tcp(..) => tls.is_on(),
            #[cfg(unix)]
            Self::Unix(_) => false,
        }
    }

    /// Says something and closes. Never blocks: a fresh socket's buffer takes this much, and a peer that is gone needs no answer.
    pub(super) fn tell(self, text: &[u8]) {
        let _told = match self {
            Self::Tcp(mut stream, _) => stream.set_nonblocking(true).and_then(|()| stream.write_all(text)),
            #[cfg(unix)]
            Self::Unix(mut stream) => stream.set_nonblocking(true).and_then(|()| stream.write_all(text)),
        };
    }
}

/// Where connections come from.
pub(super) trait Accept: fmt::Debug + fmt::Display + Send + Sync {
    /// Blocks until somebody connects; ended by [`wake`](Self::wake), with a connection or an error.
    ///
    /// # Errors
    /// What the system says: that it has no descriptor or no memory, or that the connection is gone again. The next one may be had.
    fn accept(&self) -> io::Result<Accepted>;

    /// Takes a connection that waits already; blocks for none.
    ///
    /// # Errors
    /// Where none waits, and as [`accept`](Self::accept).
    fn accept_waiting(&self) -> io::Result<Accepted>;

    /// Ends an [`accept`](Self::accept) that blocks. False where that did not work.
    fn wake(&self) -> bool;

    /// `None` for a unix socket.
    fn local_addr(&self) -> Option<SocketAddr>;
}

/// A socket that listens. Dropping it closes it, and takes away the file of a unix one.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp {
        socket: TcpListener,
        local_addr: SocketAddr,
        /// False where it was handed over.
        is_ours: bool,
    },
    #[cfg(unix)]
    Unix(unix::Socket),
}

impl Socket {
    /// Listens at `place`, of several addresses at the first that can be had.
    ///
    /// # Errors
    /// In use, not this machine's, not permitted; or the path of a unix socket is taken by something else.
    pub(super) fn bind(place: Place) -> io::Result<Self> {
        match place {
            Place::Bound(socket) => {
                socket.set_nonblocking(false)?;
                let local_addr = socket.local_addr()?;
                Ok(Self::Tcp {
                    socket,
                    local_addr,
                    is_ours: false,
                })
            }
            Place::Tcp(addresses) => {
                let socket = TcpListener::bind(addresses.as_slice())?;
                SockRef::from(&socket).listen(BACKLOG)?;
                let local_addr = socket.local_addr()?;
                Ok(Self::Tcp {
                    socket,
                    local_addr,
                    is_ours: true,
                })
            }
            #[cfg(unix)]
            Place::Unix(path) => unix::Socket::bind(&path).map(Self::Unix),
        }
    }

    fn set_nonblocking(&self, is_nonblocking: bool) -> io::Result<()> {
        match self {
            Self::Tcp { socket, .. } => socket.set_nonblocking(is_nonblocking),
            #[cfg(unix)]
            Self::Unix(socket) => socket.set_nonblocking(is_nonblocking),
        }
    }

    /// What wakes whoever accepts where there is no descriptor to connect with. Only Linux does it, and only a socket of our own may be
    /// treated so: one that was handed over goes on to listen for who has handed it over.
    fn shut_down(&self) -> bool {
        match self {
            Self::Tcp {
                socket, is_ours: true, ..
            } => cfg!(target_os = "linux") && SockRef::from(socket).shutdown(Shutdown::Both).is_ok(),
            Self::Tcp { .. } => false,
            #[cfg(unix)]
            Self::Unix(_) => false,
        }
    }
}

impl Accept for Socket {
    fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp { socket, .. } => socket.accept().map(|(stream, peer)| Accepted::Tcp(stream, peer)),
            #[cfg(unix)]
            Self::Unix(socket) => socket.accept().map(Accepted::Unix),
        }
    }

    fn accept_waiting(&self) -> io::Result<Accepted> {
        let accepted = self.set_nonblocking(true).and_then(|()| self.accept());
        if let Err(error) = self.set_nonblocking(false) {
            log::error!(error:% = error; "the listening socket cannot be made to block again");
        }
        accepted
    }

    fn wake(&self) -> bool {
        match self {
            Self::Tcp { local_addr, .. } => {
                TcpStream::connect_timeout(&reachable(*local_addr), WAKE_TIMEOUT).is_ok() || self.shut_down()
            }
            #[cfg(unix)]
            Self::Unix(socket) => socket.wake(),
        }
    }

    fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp { local_addr, .. } => Some(*local_addr),
            #[cfg(unix)]
            Self::Unix(_) => None,
        }
    }
}

impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { local_addr, .. } => local_addr.fmt(f),
            #[cfg(unix)]
            Self::Unix(socket) => write!(f, "unix:{}", socket.path().display()),
        }
    }
}

/// An address that reaches a socket bound to `address`.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        });
    }
    address
}

#[cfg(unix)]
mod unix {
    use std::fs::{self, Metadata, Permissions};
    use std::io::{self, ErrorKind};
    use std::net::Shutdown;
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::path::{Path, PathBuf};

    use socket2::{Domain, SockAddr, SockRef, Type};

    /// For its owner alone. Whoever else is to connect is let in by changing the file's mode or owner, or its folder's.
    const MODE: u32 = 0o600;

    /// A listening socket and its file.
    #[derive(Debug)]
    pub(in crate::server) struct Socket {
        socket: UnixListener,
        path: PathBuf,
        /// The file as it was made, to know it from another of the same name.
        identity: (u64, u64),
    }

    impl Socket {
        pub(super) fn bind(path: &Path) -> io::Result<Self> {
            remove_stale(path)?;
            let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
            socket.bind(&SockAddr::unix(path)?)?;
            // Nobody can connect before it listens: there is no moment at which it is open to all whom the umask lets.
            let ready = fs::set_permissions(path, Permissions::from_mode(MODE))
                .and_then(|()| fs::symlink_metadata(path))
                .and_then(|metadata| socket.listen(super::BACKLOG).map(|()| identity(&metadata)));
            match ready {
                Ok(identity) => Ok(Self {
                    socket: socket.into(),
                    path: path.to_owned(),
                    identity,
                }),
                Err(error) => {
                    let _gone_already = fs::remove_file(path);
                    Err(error)
                }
            }
        }

        pub(super) fn accept(&self) -> io::Result<UnixStream> {
            self.socket.accept().map(|(stream, _unnamed)| stream)
        }

        pub(super) fn set_nonblocking(&self, is_nonblocking: bool) -> io::Result<()> {
            self.socket.set_nonblocking(is_nonblocking)
        }

        /// Somebody may have taken the file away, so that no connection reaches the socket any more. Linux wakes whoever accepts when
        /// it is shut down; others need the connection.
        pub(super) fn wake(&self) -> bool {
            let shut_down = SockRef::from(&self.socket).shutdown(Shutdown::Both);
            let connected = UnixStream::connect(&self.path);
            shut_down.is_ok() || connected.is_ok()
        }

        pub(super) fn path(&self) -> &Path {
            &self.path
        }
    }

    impl Drop for Socket {
        fn drop(&mut self) {
            let is_ours = fs::symlink_metadata(&self.path).is_ok_and(|metadata| identity(&metadata) == self.identity);
            if is_ours && let Err(error) = fs::remove_file(&self.path) {
                log::warn!(path:% = self.path.display(), error:% = error; "the socket's file is left behind");
            }
        }
    }

    fn identity(metadata: &Metadata) -> (u64, u64) {
        (metadata.dev(), metadata.ino())
    }

    /// Takes away the file of a server that died: a socket on which nobody answers. Anything else stays, and is in the way.
    fn remove_stale(path: &Path) -> io::Result<()> {
        let found = match fs::symlink_metadata(path) {
            Ok(found) => found,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        if !found.file_type().is_socket() {
            let text = "there is a file of that name, and it is no socket";
            return Err(io::Error::new(ErrorKind::AlreadyExists, text));
        }
        match UnixStream::connect(path) {
            Ok(_) => Err(ErrorKind::AddrInUse.into()),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                // Another server may have put its own there since.
                if fs::symlink_metadata(path).is_ok_and(|now| identity(&now) == identity(&found)) {
                    fs::remove_file(path)?;
                }
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

    use super::*;

    #[test]
    fn whoever_accepts_is_woken_without_a_descriptor_unless_the_socket_is_somebody_elses() {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let ours = Socket::bind(Place::Tcp(vec![any])).unwrap();
        std::thread::scope(|scope| {
            let accepting = scope.spawn(|| ours.accept().is_err());
            assert!(ours.shut_down());
            assert!(accepting.join().unwrap());
        });
        let socket = TcpListener::bind(any).unwrap();
        let theirs = socket.try_clone().unwrap();
        let handed_over = Socket::bind(Place::Bound(socket)).unwrap();
        assert!(!handed_over.shut_down());
        assert!(handed_over.wake());
        drop(handed_over);
        let _still_listens = TcpStream::connect(theirs.local_addr().unwrap()).unwrap();
    }
}
