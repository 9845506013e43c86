//! Who somebody is, and what that allows.

use std::sync::Arc;

use crate::id::Principal;

/// Who a client is, as an [`Authenticator`](super::Authenticator) has found out, and what it may do.
///
/// Two clients of the same name are the same principal: each may see, cancel and resume the streams of the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    name: Arc<str>,
    pub(super) rights: Rights,
}

impl Identity {
    /// Somebody of this name, who may query all engines. The name is not secret: logs have it, and administrators see it.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self {
            name: name.into(),
            rights: Rights::everyones(),
        }
    }

    /// May also list, look at and cancel everybody's streams.
    #[must_use]
    pub fn with_admin(mut self) -> Self {
        self.rights.admin = true;
        self
    }

    /// May not run, describe or resume queries.
    #[must_use]
    pub fn without_query(mut self) -> Self {
        self.rights.query = false;
        self
    }

    /// May ask these engines only. The others do not exist for it: that is what it is told, and its default is the first of the
    /// server's engines that it may ask.
    #[must_use]
    pub fn with_engines<T: Into<String>>(mut self, names: impl IntoIterator<Item = T>) -> Self {
        self.rights.engines = Some(names.into_iter().map(Into::into).collect());
        self
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn principal(&self) -> Principal {
        Principal::named(Arc::clone(&self.name))
    }

    pub(crate) fn rights(&self) -> &Rights {
        &self.rights
    }
}

/// What somebody may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rights {
    pub(super) query: bool,
    pub(super) admin: bool,
    /// `None` for all.
    pub(super) engines: Option<Arc<[String]>>,
}

impl Rights {
    /// Of everybody, where a server asks nobody who they are: everything but to see what others do.
    pub(crate) fn everyones() -> Self {
        Self {
            query: true,
            admin: false,
            engines: None,
        }
    }

    /// Of somebody who has not said who they are.
    pub(crate) fn nobodys() -> Self {
        Self {
            query: false,
            admin: false,
            engines: Some(Arc::default()),
        }
    }

    pub(crate) fn may_query(&self) -> bool {
        self.query
    }

    /// Whether everybody's streams may be seen and stopped.
    pub(crate) fn is_admin(&self) -> bool {
        self.admin
    }

    pub(crate) fn may_ask(&self, engine: &str) -> bool {
        match &self.engines {
            Some(names) => names.iter().any(|name| name == engine),
            None => true,
        }
    }
}
