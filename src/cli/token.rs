//! Tokens on both sides: `rowstream token` makes one, and the commands that talk to a server take one from a file or the environment.
//!
//! Never from an argument: everybody on the machine can read the arguments of its processes.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use clap::Args;

use super::{Exit, complain, say};
use crate::auth::{Identity, Secret, TokenFile};
use crate::client::ClientBuilder;

/// The token itself, where no file is named.
const VARIABLE: &str = "ROWSTREAM_TOKEN";

/// Largest file with one token.
const TOKEN_BYTES_MAX: u64 = 8 * 1024;

/// What the commands that talk to a server are told.
#[derive(Debug, Args)]
pub(super) struct TokenArguments {
    /// Show the server the token in this file [default: the one in the environment variable ROWSTREAM_TOKEN, if it is set].
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl TokenArguments {
    /// Has the client show the token, if there is one. Blocks on reading its file.
    ///
    /// # Errors
    /// Where it cannot be read. Why has been told, then.
    pub(super) fn show(&self, builder: ClientBuilder) -> Result<ClientBuilder, Exit> {
        let token = self.read().map_err(|text| {
            complain(&text);
            Exit::Usage
        })?;
        Ok(match token {
            Some(token) => builder.token(token.expose().trim()),
            None => builder,
        })
    }

    /// No error has anything of the token.
    fn read(&self) -> Result<Option<Secret>, String> {
        let token = match &self.token_file {
            Some(path) => {
                let mut text = String::new();
                let read = File::open(path).and_then(|file| file.take(TOKEN_BYTES_MAX).read_to_string(&mut text));
                read.map_err(|error| format!("{}: {error}", path.display()))?;
                if text.trim().is_empty() {
                    return Err(format!("{}: there is no token in it", path.display()));
                }
                Some(text)
            }
            None => match std::env::var(VARIABLE) {
                Ok(token) => Some(token).filter(|token| !token.is_empty()),
                Err(std::env::VarError::NotPresent) => None,
                Err(std::env::VarError::NotUnicode(_)) => return Err(format!("{VARIABLE} is not UTF-8")),
            },
        };
        Ok(token.map(Secret::from))
    }
}

/// What `token` is told.
#[derive(Debug, Args)]
#[command(after_help = "\
The line for the server's token file goes to standard output, the token to standard error, and nowhere else:
rowstream token alice >> tokens")]
pub(super) struct Arguments {
    /// Whose token it is: 1 to 64 characters without blanks.
    #[arg(value_name = "NAME")]
    name: String,

    /// May also list, look at and cancel everybody's streams.
    #[arg(long)]
    admin: bool,

    /// May not run queries.
    #[arg(long, requires = "admin")]
    no_query: bool,

    /// May ask this engine only. Repeatable.
    #[arg(short, long, value_name = "NAME")]
    engine: Vec<String>,
}

/// Makes a token.
pub(super) fn run(arguments: Arguments) -> Exit {
    let Arguments {
        name,
        admin,
        no_query,
        engine,
    } = arguments;
    let mut identity = Identity::new(name);
    if admin {
        identity = identity.with_admin();
    }
    if no_query {
        identity = identity.without_query();
    }
    if !engine.is_empty() {
        identity = identity.with_engines(engine);
    }
    let (token, line) = match TokenFile::generate(&identity) {
        Ok(made) => made,
        Err(error) => {
            complain(&error);
            return Exit::Usage;
        }
    };
    let mut stdout = io::stdout().lock();
    if let Err(error) = writeln!(stdout, "{line}").and_then(|()| stdout.flush()) {
        complain(&format_args!("cannot write to standard output: {error}"));
        return Exit::Failed;
    }
    say(token.expose());
    Exit::Ok
}
