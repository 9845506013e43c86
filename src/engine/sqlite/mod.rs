//! SQLite, bundled: the engine that comes with the crate.

use std::path::Path;

use super::{CancelToken, Cursor, Engine, EngineError, QuerySpec};

/// One SQLite database file, opened for reading only.
#[derive(Debug)]
pub struct SqliteEngine {}

impl SqliteEngine {
    /// Opens `path` and makes sure that it is a database.
    ///
    /// # Errors
    /// [`EngineErrorKind::Unavailable`](super::EngineErrorKind::Unavailable) where it cannot be opened.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, EngineError> {
        let _ = path;
        unimplemented!()
    }
}

impl Engine for SqliteEngine {
    fn open(&self, _query: &QuerySpec, _cancel: &CancelToken) -> Result<Box<dyn Cursor>, EngineError> {
        unimplemented!()
    }
}
