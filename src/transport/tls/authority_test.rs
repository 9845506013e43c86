//! Certificates for tests, made when they run: good ones and bad ones.
//!
//! Shared by the unit tests and `tests/it`.

#![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose, date_time_ymd,
};

/// A certificate and its key, in PEM.
#[derive(Debug, Clone)]
pub(crate) struct Issued {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// Somebody who signs certificates.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        // Told apart by its name.
        let name = format!("test authority {}", uuid::Uuid::new_v4());
        let mut params = params(&[], &name, (2000, 2100));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Its own certificate, for those who trust it.
    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for `localhost` and 127.0.0.1.
    pub(crate) fn issue(&self) -> Issued {
        self.issue_for(&["localhost", "127.0.0.1"], (2000, 2100))
    }

    /// A certificate for these names, valid from the first year's beginning to the second's.
    pub(crate) fn issue_for(&self, names: &[&str], years: (i32, i32)) -> Issued {
        let key = KeyPair::generate().unwrap();
        let certificate = params(names, "server", years).signed_by(&key, &self.0).unwrap();
        Issued {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }
}

/// A certificate for `localhost` that nobody else has signed; a CA's, as `openssl req -x509` makes them, or not.
pub(crate) fn self_signed(is_ca: bool) -> Issued {
    let key = KeyPair::generate().unwrap();
    // No name that anybody has who is trusted.
    let name = format!("self-signed {}", uuid::Uuid::new_v4());
    let mut params = params(&["localhost", "127.0.0.1"], &name, (2000, 2100));
    if is_ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    Issued {
        certificate: params.self_signed(&key).unwrap().pem(),
        key: key.serialize_pem(),
    }
}

fn params(names: &[&str], common_name: &str, (from, to): (i32, i32)) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = date_time_ymd(from, 1, 1);
    params.not_after = date_time_ymd(to, 1, 1);
    params
}
