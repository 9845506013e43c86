//! `rowstream ps` and `rowstream cancel`: the streams of a server, seen and stopped from outside.
//!
//! Must not know the wire.

use std::io::{self, IsTerminal, Write};

use clap::Args;
use comfy_table::{ContentArrangement, Table};
use indicatif::{HumanBytes, HumanCount};
use terminal_size::terminal_size;

use super::format::TABLE_STYLE;
use super::text::printable;
use super::{Exit, complain, reach, tell};
use crate::QueryStreamId;
use crate::client::{ListMessage, StatusMessage, StreamState};

/// Characters of a query that the table shows.
const QUERY_CHARS_MAX: usize = 60;

/// What `ps` is told.
#[derive(Debug, Args)]
pub(super) struct PsArguments {
    #[command(flatten)]
    server: reach::Server,

    /// Everybody's streams, which needs the admin right, and whose they are.
    #[arg(long)]
    all: bool,

    /// One JSON object a line instead of a table.
    #[arg(long)]
    json: bool,
}

/// What `cancel` is told.
#[derive(Debug, Args)]
pub(super) struct CancelArguments {
    #[command(flatten)]
    server: reach::Server,

    /// The stream, as `rowstream ps` shows it.
    #[arg(value_name = "STREAM_ID")]
    stream: String,
}

/// Lists the streams. Blocks until the server has answered.
pub(super) fn ps(arguments: &PsArguments) -> Exit {
    let builder = match arguments.server.client() {
        Ok(builder) => builder,
        Err(exit) => return exit,
    };
    let listed = builder.connect(&arguments.server.url).and_then(|client| {
        if arguments.all {
            client.list_all()
        } else {
            client.list()
        }
    });
    let list = match listed {
        Ok(list) => list,
        Err(error) => return tell(&error),
    };
    let printed = if arguments.json {
        print_json(&list)
    } else {
        print_table(&list, arguments.all)
    };
    match printed {
        Ok(()) => Exit::Ok,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Ok,
        Err(error) => {
            complain(&format_args!("cannot write to standard output: {error}"));
            Exit::Failed
        }
    }
}

/// Stops a stream. Blocks until the server has answered.
pub(super) fn cancel(arguments: &CancelArguments) -> Exit {
    let Ok(id) = arguments.stream.parse::<QueryStreamId>() else {
        complain(&format_args!("{:?} is no stream's id", arguments.stream));
        return Exit::Usage;
    };
    let builder = match arguments.server.client() {
        Ok(builder) => builder,
        Err(exit) => return exit,
    };
    match builder
        .connect(&arguments.server.url)
        .and_then(|client| client.cancel(id))
    {
        Ok(true) => Exit::Ok,
        Ok(false) => {
            complain(&format_args!("no live stream has the id {id}"));
            Exit::Failed
        }
        Err(error) => tell(&error),
    }
}

fn print_json(list: &ListMessage) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for status in &list.queries {
        serde_json::to_writer(&mut out, status)?;
        writeln!(out)?;
    }
    Ok(())
}

fn print_table(list: &ListMessage, with_owners: bool) -> io::Result<()> {
    let mut table = Table::new();
    table.load_style(TABLE_STYLE);
    if io::stdout().is_terminal()
        && let Some((width, _)) = terminal_size()
    {
        table.set_width(width.0);
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    let owner = |text: String| with_owners.then_some(text);
    let columns = ["STREAM", "STATE", "ENGINE", "ROWS", "SENT", "HELD", "TIME", "QUERY"].map(str::to_owned);
    table.set_header(owner("WHOSE".to_owned()).into_iter().chain(columns));
    for status in &list.queries {
        let whose = printable(status.principal.as_deref().unwrap_or_default());
        table.add_row(owner(whose).into_iter().chain(row(status)));
    }
    let mut out = io::stdout().lock();
    writeln!(out, "{}", table.trim_fmt())?;
    let n_hidden = list.total.saturating_sub(list.queries.len() as u64);
    if n_hidden > 0 {
        writeln!(out, "and {n_hidden} more")?;
    }
    Ok(())
}

fn row(status: &StatusMessage) -> [String; 8] {
    let query: String = status.query.split_whitespace().collect::<Vec<_>>().join(" ");
    [
        status.stream_id.to_string(),
        state(status),
        printable(&status.engine),
        HumanCount(status.rows_processed).to_string(),
        HumanBytes(status.bytes_sent).to_string(),
        HumanBytes(status.bytes_held).to_string(),
        format!("{:.1}s", status.elapsed_ms as f64 / 1_000.0),
        printable(&query.chars().take(QUERY_CHARS_MAX).collect::<String>()),
    ]
}

fn state(status: &StatusMessage) -> String {
    let state = match status.state {
        StreamState::Queued => "queued",
        StreamState::Executing => "executing",
        StreamState::Streaming => "streaming",
        StreamState::WaitingClient => "waiting",
        StreamState::Paused => "paused",
        StreamState::Completed => "completed",
        StreamState::Failed => "failed",
        StreamState::Cancelled => "cancelled",
    };
    if status.attached {
        state.to_owned()
    } else {
        format!("{state}, detached")
    }
}
