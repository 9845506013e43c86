//! TLS over any transport: certificates in, a transport out whose bytes nobody on the way can read or change.
//!
//! The only files that name rustls. Must not know sockets, HTTP, or what is said.

#[cfg(test)]
mod authority_test;
mod certificates;
mod error;
mod stream;
#[cfg(test)]
mod tests;

pub use certificates::TlsConfig;
pub(crate) use certificates::{Acceptor, Connector, Trust};
pub use error::{CertificateError, TlsError};
