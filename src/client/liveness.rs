//! Whether the server is still there: reads that ask for a sign of life when nothing comes, and give up in the end.

use std::io::{self, ErrorKind, Read};
use std::sync::Arc;
use std::time::Duration;

use super::link::Link;
use crate::transport::ReadHalf;

/// A reading half that pings after each `interval` of silence, and fails with `TimedOut` after `dead_after`.
pub(super) struct PatientRead {
    read: Box<dyn ReadHalf>,
    link: Arc<Link>,
    interval: Duration,
    dead_after: Duration,
    silent: Duration,
}

impl PatientRead {
    pub(super) fn new(
        mut read: Box<dyn ReadHalf>,
        link: Arc<Link>,
        interval: Duration,
        dead_after: Duration,
    ) -> io::Result<Self> {
        read.set_read_timeout(Some(interval))?;
        Ok(Self {
            read,
            link,
            interval,
            dead_after,
            silent: Duration::ZERO,
        })
    }
}

impl Read for PatientRead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.read.read(buffer) {
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    self.silent += self.interval;
                    if self.silent >= self.dead_after {
                        let text = format!("no sign of life for {:?}", self.silent);
                        return Err(io::Error::new(ErrorKind::TimedOut, text));
                    }
                    self.link.ping_peer();
                }
                read => {
                    self.silent = Duration::ZERO;
                    return read;
                }
            }
        }
    }
}

impl ReadHalf for PatientRead {
    /// The time-out is this half's own.
    fn set_read_timeout(&mut self, _timeout: Option<Duration>) -> io::Result<()> {
        Ok(())
    }
}
