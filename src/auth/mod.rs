//! Who a client is and what it may do: what it shows, who judges that, and what follows from it.
//!
//! A server without an [`Authenticator`] asks nobody who they are. With one, a client shows a token, in one of three ways that the
//! [specification](crate::protocol) describes, and is a principal from then on: its streams are its own, and its [`Identity`] says what
//! it may do. [`TokenFile`] is the authenticator that comes with the crate; an application's own is a trait away:
//!
//! ```
//! use rowstream::auth::{AuthError, Authenticator, Credentials, Identity};
//!
//! struct Directory;
//!
//! impl Authenticator for Directory {
//!     fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Identity, AuthError> {
//!         match credentials.token() {
//!             "a token that this directory has given out" => Ok(Identity::new("alice").with_engines(["sales"])),
//!             _ => Err(AuthError::Rejected),
//!         }
//!     }
//! }
//! ```
//!
//! Pure, but for the file that [`TokenFile`] reads when it is told to. Must not know sockets, sessions, or the time.

mod failures;
mod identity;
mod secret;
mod shown;
mod sites;
mod tokens;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

pub use identity::Identity;
pub use secret::{Fingerprint, Secret};
pub use tokens::{TokenFile, TokenFileError};

pub(crate) use failures::{FAILURES_PER_MINUTE, FailureLimit};
pub(crate) use identity::Rights;
pub(crate) use shown::{Shown, shown};
pub(crate) use sites::{SiteRefusal, SiteRules, UnlistedHosts};

/// Finds out who a client is, by the token it shows.
///
/// Called on the reader thread of the connection that shows one, once for each; calls of different connections run at the same time.
/// A call may block, for instance on a directory service: nobody else waits for it, and a client whose call is not back by the
/// [deadline](crate::server::ServerBuilder::auth_deadline) is cut off. The thread is free only when the call returns, so it should have a
/// time limit of its own. A panic counts as [`AuthError::Unavailable`].
pub trait Authenticator: Send + Sync + 'static {
    /// Who shows these credentials.
    ///
    /// A token is a secret: it belongs into no log and no error. Comparing it with what is known should take the same time however
    /// much of it is right; comparing hashes does.
    ///
    /// # Errors
    /// [`AuthError::Rejected`] where nobody has them, [`AuthError::Forbidden`] where somebody has who is not to come in,
    /// [`AuthError::Unavailable`] where that cannot be found out now.
    fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Identity, AuthError>;

    /// Whether tokens are too long to be guessed, and looking at one blocks on nothing and costs little. Then a right token always lets its
    /// client in, however many wrong ones came from the same address; else an address that has shown too many wrong ones has to wait, with
    /// tokens that were never right before: see [`auth_failures_per_minute`](crate::server::ServerBuilder::auth_failures_per_minute).
    /// Defaults to false.
    fn is_guess_proof(&self) -> bool {
        false
    }

    /// Who a client is now that has come in before, as `identity`, by the token that has this fingerprint.
    ///
    /// Called for every client when the application says that something [may have changed](crate::server::ServerHandle::recheck_clients), on
    /// its thread. Where the answer is an error, or has another name, the client's streams are cancelled and its connection is closed;
    /// other rights hold from then on, and streams that they do not allow are cancelled. A panic counts as [`AuthError::Unavailable`].
    /// Defaults to nothing having changed.
    ///
    /// # Errors
    /// [`AuthError::Rejected`] where the token is good no more, [`AuthError::Forbidden`] where its client is to go,
    /// [`AuthError::Unavailable`] where that cannot be found out now: the client stays who it was.
    fn recheck(&self, token: &Fingerprint, identity: &Identity) -> Result<Identity, AuthError> {
        let _ = token;
        Ok(identity.clone())
    }
}

/// One authenticator for several servers, or kept to be told things.
impl<T: Authenticator + ?Sized> Authenticator for Arc<T> {
    fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Identity, AuthError> {
        (**self).authenticate(credentials)
    }

    fn is_guess_proof(&self) -> bool {
        (**self).is_guess_proof()
    }

    fn recheck(&self, token: &Fingerprint, identity: &Identity) -> Result<Identity, AuthError> {
        (**self).recheck(token, identity)
    }
}

/// Who has come in, and by which token.
#[derive(Debug, Clone)]
pub(crate) struct Bearer {
    pub(crate) identity: Identity,
    pub(crate) token: Fingerprint,
}

impl Bearer {
    pub(crate) fn has_token_of(&self, other: &Self) -> bool {
        self.token.as_bytes() == other.token.as_bytes()
    }
}

/// What a client shows of itself. `Debug` does not show the token.
#[derive(Clone, Copy)]
pub struct Credentials<'a> {
    token: &'a str,
    peer: Option<IpAddr>,
}

impl<'a> Credentials<'a> {
    /// This token, shown from this address.
    #[must_use]
    pub const fn new(token: &'a str, peer: Option<IpAddr>) -> Self {
        Self { token, peer }
    }

    /// The token, exactly as the client has it. A secret.
    #[must_use]
    pub const fn token(&self) -> &'a str {
        self.token
    }

    /// Where it comes from; `None` over a transport that has no addresses. Behind a proxy, the proxy.
    #[must_use]
    pub const fn peer(&self) -> Option<IpAddr> {
        self.peer
    }
}

impl fmt::Debug for Credentials<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

/// Why a client is not let in.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum AuthError {
    /// Nobody has this token. The client is told so, with HTTP status 401, or `UNAUTHENTICATED` and close code 4401. Counts as a
    /// failed attempt: [`auth_failures_per_minute`](crate::server::ServerBuilder::auth_failures_per_minute).
    Rejected,
    /// Somebody has it, who may not come in. The client is told so, with HTTP status 403, or `PERMISSION_DENIED` and close code 4403.
    Forbidden,
    /// It could not be found out, for instance because a directory service does not answer. The client is told to come back, with
    /// HTTP status 503 or close code 1013. The text is for the log alone, and must have nothing of the token.
    Unavailable(String),
}

impl fmt::Display for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected => f.write_str("nobody has this token"),
            Self::Forbidden => f.write_str("who has this token may not come in"),
            Self::Unavailable(text) => write!(f, "whose token it is cannot be found out: {text}"),
        }
    }
}

impl std::error::Error for AuthError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_and_secrets_do_not_show_themselves() {
        let token = "canary-canary-canary-canary";
        let shown = format!("{:?} {:#?}", Credentials::new(token, None), Secret::from(token));
        assert!(!shown.contains("canary"), "{shown}");
        assert_eq!(format!("{:?}", Fingerprint::of(token)), "Fingerprint(…)");
    }
}
