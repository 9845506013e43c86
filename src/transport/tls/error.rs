//! What can go wrong with TLS: certificates that cannot be used, and hands that cannot be shaken.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::{CertificateError as Fault, Error, OtherError};

/// Why certificates or a key cannot be used. What was in force before still is.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum CertificateError {
    /// The file cannot be read.
    File {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: Arc<io::Error>,
    },
    /// What was read is not PEM, or has none of what is looked for in it.
    Pem {
        /// The file, or what else was read.
        place: String,
        /// What is wrong with it.
        text: String,
    },
    /// It is PEM, but nothing that TLS can use; or the key is another certificate's.
    Unusable {
        /// The file, or what else was read.
        place: String,
        /// What is wrong with it.
        text: String,
    },
    /// There are no files to read again: the server has no TLS, or was given its certificate as bytes.
    NoFiles,
}

impl fmt::Display for CertificateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, source } => write!(f, "{}: {source}", path.display()),
            Self::Pem { place, text } | Self::Unusable { place, text } => write!(f, "{place}: {text}"),
            Self::NoFiles => f.write_str("there are no certificate files to read again"),
        }
    }
}

impl std::error::Error for CertificateError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::File { source, .. } => Some(source.as_ref()),
            Self::Pem { .. } | Self::Unusable { .. } | Self::NoFiles => None,
        }
    }
}

/// Why TLS did not come about, or came to an end. Nothing that was to be kept from others has been said.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TlsError {
    /// The server's certificate is for other names. Ask for one of them, or have the certificate made for this one.
    WrongName {
        /// The names it is for, as far as they are told.
        names: Vec<String>,
    },
    /// The server's certificate is no longer valid, or this machine's clock is wrong.
    Expired,
    /// The server's certificate is not valid yet, or this machine's clock is wrong.
    NotYetValid,
    /// Nobody who is trusted has signed the server's certificate. Name who has with
    /// [`ca_file`](crate::client::ClientBuilder::ca_file).
    UnknownIssuer,
    /// The server's certificate proves nothing, for another reason.
    Certificate(String),
    /// This machine trusts nobody, and nobody was named with [`ca_file`](crate::client::ClientBuilder::ca_file).
    NobodyTrusted,
    /// What came is not TLS: most likely the other end speaks without.
    NotTls,
    /// The other end has refused, with this alert.
    Refused(String),
    /// The other end breaks the protocol, or has no version or cipher in common with this one.
    Protocol(String),
}

impl TlsError {
    /// What an error of reading or writing has in it.
    pub(crate) fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }

    pub(super) fn into_io(self) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, self)
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongName { names } if names.is_empty() => {
                f.write_str("the server's certificate is for another name")
            }
            Self::WrongName { names } => {
                write!(f, "the server's certificate is for another name: {}", names.join(", "))
            }
            Self::Expired => f.write_str("the server's certificate has expired"),
            Self::NotYetValid => f.write_str("the server's certificate is not valid yet"),
            Self::UnknownIssuer => f.write_str("the server's certificate is signed by nobody who is trusted here"),
            Self::Certificate(text) => write!(f, "the server's certificate is not good: {text}"),
            Self::NobodyTrusted => f.write_str("no trusted certificates: this system has none, and none were given"),
            Self::NotTls => f.write_str("the other end does not speak TLS"),
            Self::Refused(alert) => write!(f, "the other end has refused: {alert}"),
            Self::Protocol(text) => write!(f, "no TLS with the other end: {text}"),
        }
    }
}

impl std::error::Error for TlsError {}

impl From<Error> for TlsError {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "of the many, these have a remedy of their own"
    )]
    fn from(error: Error) -> Self {
        match error {
            Error::InvalidCertificate(fault) => match fault {
                Fault::NotValidForName => Self::WrongName { names: Vec::new() },
                Fault::NotValidForNameContext { presented, .. } => Self::WrongName {
                    names: presented.iter().map(|name| plain_name(name)).collect(),
                },
                Fault::Expired | Fault::ExpiredContext { .. } => Self::Expired,
                Fault::NotValidYet | Fault::NotValidYetContext { .. } => Self::NotYetValid,
                Fault::UnknownIssuer => Self::UnknownIssuer,
                Fault::Other(OtherError(why)) if why.to_string().contains("CaUsedAsEndEntity") => {
                    Self::Certificate("it is a CA's own; a server needs one with basicConstraints CA:FALSE".to_owned())
                }
                Fault::UnsupportedSignatureAlgorithmContext { .. }
                | Fault::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => Self::Certificate(
                    "it is signed in a way that is not trusted; one that is signed by itself has to be named as trusted".to_owned(),
                ),
                fault => Self::Certificate(fault.to_string()),
            },
            Error::AlertReceived(alert) => Self::Refused(format!("{alert:?}")),
            error => Self::Protocol(error.to_string()),
        }
    }
}

/// A name in a certificate, without what its kind is called.
fn plain_name(presented: &str) -> String {
    let inside = presented.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inside.unwrap_or(presented).trim_matches('"').to_owned()
}
