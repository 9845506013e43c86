//! A service manager that speaks systemd's protocols: what it is told (`sd_notify(3)`), and the socket that it hands over
//! (`sd_listen_fds(3)`).
//!
//! Telling is a datagram to an address out of the environment, and done here; taking a descriptor over is not safe Rust, and left to
//! a crate. Where there are no unix sockets, as on Windows, nobody is told anything.

use std::env;
use std::ffi::OsString;
use std::io;
use std::net::TcpListener;
use std::process;
use std::time::Duration;

use channel::Channel;
use listenfd::ListenFd;

/// How often a manager hears how the server is, where it does not ask for more.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);

/// Whoever has started the program, as far as it wants to be told anything.
#[derive(Debug)]
pub(super) struct Supervisor {
    channel: Option<Channel>,
    interval: Duration,
}

impl Supervisor {
    /// As `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` have it.
    pub(super) fn from_env() -> Self {
        let channel = env::var_os("NOTIFY_SOCKET").and_then(|name| match Channel::connect(&name) {
            Ok(channel) => Some(channel),
            Err(error) => {
                log::warn!(path:% = name.display(), error:% = error; "NOTIFY_SOCKET cannot be used");
                None
            }
        });
        let watchdog = watchdog_interval(env::var_os("WATCHDOG_USEC"), env::var_os("WATCHDOG_PID"), process::id());
        Self {
            channel,
            interval: watchdog.map_or(STATUS_INTERVAL, |interval| interval.min(STATUS_INTERVAL)),
        }
    }

    /// How often to tell that all is well; `None` where nobody listens.
    pub(super) fn interval(&self) -> Option<Duration> {
        self.channel.is_some().then_some(self.interval)
    }

    /// The server takes connections.
    pub(super) fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={status}"));
    }

    /// The server is alive: also what its watchdog waits for.
    pub(super) fn alive(&self, status: &str) {
        self.tell(&format!("WATCHDOG=1\nSTATUS={status}"));
    }

    /// The server is going away.
    pub(super) fn stopping(&self, status: &str) {
        self.tell(&format!("STOPPING=1\nSTATUS={status}"));
    }

    fn tell(&self, state: &str) {
        if let Some(channel) = &self.channel
            && let Err(error) = channel.send(state)
        {
            log::warn!(error:% = error; "the service manager was not told");
        }
    }
}

#[cfg(unix)]
mod channel {
    use std::ffi::OsStr;
    use std::io;
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    use std::time::Duration;

    /// How long a manager may take to take a datagram.
    const TELL_TIMEOUT: Duration = Duration::from_secs(1);

    /// The way to a manager.
    #[derive(Debug)]
    pub(super) struct Channel(UnixDatagram);

    impl Channel {
        /// To a path, or behind an `@` a name in Linux's own space of them.
        pub(super) fn connect(name: &OsStr) -> io::Result<Self> {
            let address = match name.as_bytes() {
                #[cfg(target_os = "linux")]
                [b'@', name @ ..] => {
                    use std::os::linux::net::SocketAddrExt as _;
                    SocketAddr::from_abstract_name(name)?
                }
                _ => SocketAddr::from_pathname(name)?,
            };
            let socket = UnixDatagram::unbound()?;
            socket.connect_addr(&address)?;
            socket.set_write_timeout(Some(TELL_TIMEOUT))?;
            Ok(Self(socket))
        }

        pub(super) fn send(&self, state: &str) -> io::Result<()> {
            self.0.send(state.as_bytes()).map(drop)
        }
    }
}

#[cfg(not(unix))]
mod channel {
    use std::ffi::OsStr;
    use std::io;

    /// There is none.
    #[derive(Debug)]
    pub(super) enum Channel {}

    impl Channel {
        pub(super) fn connect(_name: &OsStr) -> io::Result<Self> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub(super) fn send(&self, _state: &str) -> io::Result<()> {
            match *self {}
        }
    }
}

/// Half of the time after which this process is taken for hung, as `sd_watchdog_enabled(3)` advises.
fn watchdog_interval(usec: Option<OsString>, pid: Option<OsString>, own_pid: u32) -> Option<Duration> {
    let number = |text: OsString| text.to_str().and_then(|text| text.parse::<u64>().ok());
    if pid.is_some_and(|pid| number(pid) != Some(u64::from(own_pid))) {
        return None;
    }
    let usec = number(usec?).filter(|usec| *usec > 0)?;
    Some(Duration::from_micros(usec.div_ceil(2)))
}

/// The listening socket that was handed over, if one was.
///
/// # Errors
/// Where it is no listening socket of TCP, or not the only one.
pub(super) fn handed_over() -> io::Result<Option<TcpListener>> {
    let mut sockets = ListenFd::from_env();
    if sockets.len() > 1 {
        let text = format!("{} sockets were handed over; a server listens on one", sockets.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    sockets.take_tcp_listener(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watchdog_is_fed_twice_as_often_as_it_bites() {
        let interval = |usec: &str, pid: Option<&str>| watchdog_interval(Some(usec.into()), pid.map(Into::into), 7);
        assert_eq!(interval("30000000", None), Some(Duration::from_secs(15)));
        assert_eq!(interval("1", Some("7")), Some(Duration::from_micros(1)));
        assert_eq!(interval("30000000", Some("8")), None, "another process");
        assert_eq!(interval("0", None), None);
        assert_eq!(interval("soon", None), None);
        assert_eq!(watchdog_interval(None, Some("7".into()), 7), None);
    }
}
