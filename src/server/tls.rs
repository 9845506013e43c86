//! Whether connections that come by TCP speak TLS, and with which certificate.
//!
//! Without the feature `tls` none does, and this is nothing.

use std::net::TcpStream;
#[cfg(feature = "tls")]
use std::sync::Arc;

use crate::transport::Transport;
#[cfg(feature = "tls")]
use crate::transport::tls::Acceptor;
#[cfg(feature = "tls")]
use crate::transport::{CertificateError, TlsConfig};

/// One for all listeners of a server: clones share the certificate that is in force.
#[derive(Debug, Clone, Default)]
pub(super) struct Tls {
    #[cfg(feature = "tls")]
    acceptor: Option<Arc<Acceptor>>,
}

impl Tls {
    #[cfg(feature = "tls")]
    pub(super) fn new(config: TlsConfig) -> Self {
        Self {
            acceptor: Some(Arc::new(Acceptor::new(config))),
        }
    }

    pub(super) fn is_on(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.acceptor.is_some();
        #[cfg(not(feature = "tls"))]
        return false;
    }

    /// The connection as it is to be served. Never blocks: hands are shaken on the connection's own thread.
    pub(super) fn accept(&self, stream: TcpStream) -> Box<dyn Transport> {
        #[cfg(feature = "tls")]
        if let Some(acceptor) = &self.acceptor {
            return Box::new(acceptor.accept(Box::new(stream)));
        }
        Box::new(stream)
    }

    #[cfg(feature = "tls")]
    pub(super) fn reload(&self) -> Result<(), CertificateError> {
        match &self.acceptor {
            Some(acceptor) => acceptor.reload(),
            None => Err(CertificateError::NoFiles),
        }
    }

    /// False where the server has no TLS to replace the certificate of.
    #[cfg(feature = "tls")]
    pub(super) fn replace(&self, config: TlsConfig) -> bool {
        match &self.acceptor {
            Some(acceptor) => {
                acceptor.replace(config);
                true
            }
            None => false,
        }
    }
}
