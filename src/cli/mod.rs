//! The `rowstream` program: flags, subcommands, output formats, exit codes.
//!
//! The only part of the crate that prints. Must not know locks or sockets.

mod assemble;
mod config;
mod demo;
mod format;
mod logging;
mod malloc;
mod manual;
mod query;
mod reach;
mod serve;
mod signals;
mod streams;
mod supervisor;
mod text;
mod token;

use std::fmt;
use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use logging::LogFormat;

use crate::client::ClientError;
use crate::engine::sqlite;

/// Stream large SQL results over WebSocket.
#[derive(Debug, Parser)]
#[command(name = "rowstream", version, long_version = long_version(), about, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// What `--version` prints, and `-V` only begins.
fn long_version() -> String {
    let features: Vec<_> = sqlite::library_features().collect();
    format!(
        "{}\nSQLite {} with {}",
        env!("CARGO_PKG_VERSION"),
        sqlite::library_version(),
        features.join(", ")
    )
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve databases to WebSocket clients.
    Serve(serve::Arguments),
    /// Run a query on a server and print its rows.
    Query(query::Arguments),
    /// List the streams of a server.
    Ps(streams::PsArguments),
    /// Stop a stream of a server.
    Cancel(streams::CancelArguments),
    /// Make a token for somebody who may use a server.
    Token(token::Arguments),
    /// Print every setting of `serve`, its value and who said it, and check all that serving would, without listening.
    CheckConfig(config::Arguments),
    /// Print a script that completes commands and flags in a shell.
    Completions(manual::CompletionsArguments),
    /// Print the manual page, of the program or of a command.
    Man(manual::ManArguments),
}

/// How the program ends. The numbers are a contract with scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exit {
    Ok = 0,
    /// The query failed, or the server could not start.
    Failed = 1,
    Usage = 2,
    /// Nobody listens there, or not a server of ours.
    Unreachable = 3,
    /// The connection broke before the result was whole.
    Lost = 4,
    /// By a signal, as shells have it.
    Cancelled = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// The program. Blocks until it has done what it was asked.
#[must_use]
pub fn main() -> ExitCode {
    let command = Arguments::parse().command;
    if !matches!(command, Command::Serve(_)) {
        // `serve` has settings to read first.
        logging::init(LogFormat::default());
    }
    let exit = match command {
        Command::Serve(arguments) => serve::run(arguments),
        Command::Query(arguments) => query::run(arguments),
        Command::Ps(arguments) => streams::ps(&arguments),
        Command::Cancel(arguments) => streams::cancel(&arguments),
        Command::Token(arguments) => token::run(arguments),
        Command::CheckConfig(arguments) => serve::check_config(arguments),
        Command::Completions(arguments) => manual::completions(&arguments),
        Command::Man(arguments) => manual::man(&arguments),
    };
    exit.into()
}

/// Says what went wrong between this program and a server, and how the program ends with it.
fn tell(error: &ClientError) -> Exit {
    complain(error);
    match error {
        ClientError::Query(_) | ClientError::Cancelled(_) => Exit::Failed,
        ClientError::Address(_) | ClientError::Usage(_) | ClientError::TooLong { .. } => Exit::Usage,
        ClientError::Connect { .. }
        | ClientError::Tls { .. }
        | ClientError::Handshake { .. }
        | ClientError::Version { .. }
        | ClientError::Denied { .. } => Exit::Unreachable,
        ClientError::Lost { .. } | ClientError::Closed { .. } | ClientError::Protocol(_) => Exit::Lost,
    }
}

/// Writes what was asked for to standard output.
fn print(bytes: &[u8]) -> Exit {
    match io::stdout().lock().write_all(bytes) {
        Ok(()) => Exit::Ok,
        Err(error) => {
            complain(&error);
            Exit::Failed
        }
    }
}

/// Says what went wrong. Some of it may be a stranger's words.
fn complain(error: &dyn fmt::Display) {
    let text = error.to_string();
    let lines: Vec<_> = text.lines().map(text::printable).collect();
    say(&format!("rowstream: {}", lines.join("\n")));
}

/// Writes a line to standard error.
fn say(line: &str) {
    // Nobody to tell where standard error is closed.
    let _ = writeln!(io::stderr().lock(), "{line}");
}
