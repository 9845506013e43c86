//! The server that `query`, `ps` and `cancel` talk to: where it is, and whom to believe that it is the one.

use std::path::PathBuf;

use clap::Args;

use super::token::TokenArguments;
use super::{Exit, complain};
use crate::client::{Client, ClientBuilder};

/// What the three are told of a server.
#[derive(Debug, Args)]
pub(super) struct Server {
    /// The server: ws://HOST:PORT/ws or wss://HOST:PORT/ws, HOST:PORT, or unix:PATH.
    #[arg(value_name = "URL")]
    pub(super) url: String,

    /// Trust servers with certificates signed by those in this PEM file, besides those that the system trusts.
    #[arg(long, env = "ROWSTREAM_CA", value_name = "FILE")]
    ca: Option<PathBuf>,

    #[command(flatten)]
    token: TokenArguments,
}

impl Server {
    /// A client's settings with this in them. Blocks on the files.
    ///
    /// # Errors
    /// Where a file cannot be used; that has been told.
    pub(super) fn client(&self) -> Result<ClientBuilder, Exit> {
        let builder = match &self.ca {
            Some(ca) => Client::builder().ca_file(ca).map_err(|error| {
                complain(&error);
                Exit::Usage
            })?,
            None => Client::builder(),
        };
        self.token.show(builder)
    }
}
