//! Certificates and keys as rustls wants them: a server's own, and those that a client trusts.
//!
//! Reads files when told to, and never at another time. Must not know streams of bytes.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::error::{CertificateError, TlsError};
use super::stream::{Begin, TlsTransport};
use crate::transport::Transport;

/// The application protocol (RFC 7301): a WebSocket begins as HTTP/1.1. Browsers offer HTTP/2 besides.
const ALPN: &[u8] = b"http/1.1";

/// What a server shows to prove who it is: its certificate, those that lead from it to one that clients trust, and its key.
///
/// TLS 1.3 and 1.2, sessions resumed by tickets, no early data (it could be replayed).
#[derive(Clone)]
pub struct TlsConfig {
    source: Source,
    config: Arc<ServerConfig>,
}

#[derive(Debug, Clone)]
enum Source {
    Files { certificates: PathBuf, key: PathBuf },
    Bytes,
}

impl fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsConfig")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

impl TlsConfig {
    /// Reads PEM files: the server's certificate followed by its issuers', and its key (PKCS #8, PKCS #1 or SEC 1, not encrypted).
    /// They may be one file. Blocks on the files.
    ///
    /// # Errors
    /// [`CertificateError`], which names the file.
    pub fn from_files(certificates: impl AsRef<Path>, key: impl AsRef<Path>) -> Result<Self, CertificateError> {
        let (certificates, key) = (certificates.as_ref(), key.as_ref());
        let config = server_config(
            &read(certificates)?,
            &certificates.display().to_string(),
            &read(key)?,
            &key.display().to_string(),
        )?;
        warn_if_public(key);
        Ok(Self {
            source: Source::Files {
                certificates: certificates.to_owned(),
                key: key.to_owned(),
            },
            config,
        })
    }

    /// As [`from_files`](Self::from_files), from bytes. Never blocks.
    ///
    /// # Errors
    /// [`CertificateError::Pem`] and [`CertificateError::Unusable`].
    pub fn from_pem(certificates: &[u8], key: &[u8]) -> Result<Self, CertificateError> {
        Ok(Self {
            source: Source::Bytes,
            config: server_config(certificates, "the certificates given", key, "the key given")?,
        })
    }
}

/// A server's side of TLS: makes transports of connections that come in, with the certificate that is in force.
#[derive(Debug)]
pub(crate) struct Acceptor {
    current: Mutex<TlsConfig>,
}

impl Acceptor {
    pub(crate) fn new(config: TlsConfig) -> Self {
        Self {
            current: Mutex::new(config),
        }
    }

    /// TLS over `transport`. Hands are shaken by whoever reads first. Never blocks.
    pub(crate) fn accept(&self, transport: Box<dyn Transport>) -> TlsTransport {
        let config = Arc::clone(&self.current.lock().config);
        TlsTransport::new(transport, Begin::Server(config))
    }

    #[cfg(test)]
    pub(super) fn config_in_force(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.lock().config)
    }

    /// Puts another certificate in force, for connections that come from now on.
    pub(crate) fn replace(&self, config: TlsConfig) {
        let before = std::mem::replace(&mut *self.current.lock(), config);
        drop(before);
    }

    /// Reads the certificate's files again. Blocks on them.
    ///
    /// # Errors
    /// Where they cannot be used; what was in force still is.
    pub(crate) fn reload(&self) -> Result<(), CertificateError> {
        let source = self.current.lock().source.clone();
        match source {
            Source::Files { certificates, key } => {
                self.replace(TlsConfig::from_files(certificates, key)?);
                Ok(())
            }
            Source::Bytes => Err(CertificateError::NoFiles),
        }
    }
}

/// Whom a client trusts besides those that its system trusts.
#[derive(Debug, Clone)]
pub(crate) struct Trust {
    more: RootCertStore,
}

impl Trust {
    pub(crate) fn new() -> Self {
        Self {
            more: RootCertStore::empty(),
        }
    }

    /// Trusts those whose certificates are in a PEM file. Blocks on it.
    pub(crate) fn add_file(&mut self, path: &Path) -> Result<(), CertificateError> {
        self.add(&read(path)?, &path.display().to_string())
    }

    pub(crate) fn add_pem(&mut self, pem: &[u8]) -> Result<(), CertificateError> {
        self.add(pem, "the certificates given")
    }

    fn add(&mut self, pem: &[u8], place: &str) -> Result<(), CertificateError> {
        for certificate in certificates(pem, place)? {
            self.more.add(certificate).map_err(|error| unusable(place, &error))?;
        }
        Ok(())
    }

    /// Those, and the system's. Blocks on the system's files.
    fn roots(&self) -> RootCertStore {
        let mut roots = self.more.clone();
        let system = rustls_native_certs::load_native_certs();
        for error in &system.errors {
            log::debug!(error:% = error; "trusted certificates of the system cannot be read");
        }
        let (_, n_ignored) = roots.add_parsable_certificates(system.certs);
        if n_ignored > 0 {
            log::debug!(certificates = n_ignored; "trusted certificates of the system are of no use");
        }
        roots
    }
}

/// A client's side of TLS with one server.
#[derive(Debug, Clone)]
pub(crate) struct Connector {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Connector {
    /// For a server that has to prove that it is `host`: a name, or an address without brackets. Blocks on the system's files.
    pub(crate) fn new(trust: &Trust, host: &str) -> Result<Self, TlsError> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| TlsError::Certificate(format!("there is none for the name {host:?}")))?;
        let roots = trust.roots();
        if roots.is_empty() {
            return Err(TlsError::NobodyTrusted);
        }
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self {
            config: Arc::new(config),
            name,
        })
    }

    /// TLS over `transport`. Hands are shaken by whoever reads first. Never blocks.
    pub(crate) fn connect(&self, transport: Box<dyn Transport>) -> TlsTransport {
        let begin = Begin::Client(Arc::clone(&self.config), self.name.clone());
        TlsTransport::new(transport, begin)
    }
}

fn server_config(
    certificates_pem: &[u8],
    certificates_place: &str,
    key_pem: &[u8],
    key_place: &str,
) -> Result<Arc<ServerConfig>, CertificateError> {
    let certificates = certificates(certificates_pem, certificates_place)?;
    let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|error| {
        if matches!(error, pem::Error::NoItemsFound) {
            no_pem(key_place, "no private key in PEM; an encrypted one cannot be read")
        } else {
            no_pem(key_place, &error.to_string())
        }
    })?;
    let refused = |error: rustls::Error| {
        if matches!(error, rustls::Error::InconsistentKeys(_)) {
            let text = format!("the key does not belong to the certificate in {certificates_place}");
            let place = key_place.to_owned();
            return CertificateError::Unusable { place, text };
        }
        unusable(certificates_place, &error)
    };
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(refused)?
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .map_err(refused)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.max_early_data_size = 0;
    // Sessions that the clients keep, instead of 256 that the server does.
    config.ticketer = ring::Ticketer::new().map_err(refused)?;
    Ok(Arc::new(config))
}

fn certificates(pem: &[u8], place: &str) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let certificates = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| no_pem(place, &error.to_string()))?;
    if certificates.is_empty() {
        return Err(no_pem(place, "no certificate in PEM"));
    }
    Ok(certificates)
}

fn read(path: &Path) -> Result<Vec<u8>, CertificateError> {
    fs::read(path).map_err(|source| CertificateError::File {
        path: path.to_owned(),
        source: Arc::new(source),
    })
}

fn no_pem(place: &str, text: &str) -> CertificateError {
    CertificateError::Pem {
        place: place.to_owned(),
        text: text.to_owned(),
    }
}

fn unusable(place: &str, error: &rustls::Error) -> CertificateError {
    CertificateError::Unusable {
        place: place.to_owned(),
        text: error.to_string(),
    }
}

/// A key that everybody on the machine can read is none.
fn warn_if_public(key: &Path) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;

        const OTHERS_READ: u32 = 0o004;
        if fs::metadata(key).is_ok_and(|metadata| metadata.permissions().mode() & OTHERS_READ != 0) {
            log::warn!(path:% = key.display(); "everybody on this machine can read the private key");
        }
    }
    #[cfg(not(unix))]
    let _ = key;
}
