//! `rowstream serve`: databases in, a server out, until a signal.

use std::io::{self, Write};
use std::path::Path;
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;

use super::demo::{self, Scale};
use super::{Exit, complain};
use crate::StreamingConfig;
use crate::engine::sqlite::SqliteEngine;
use crate::server::{Server, ServerBuilder, ServerHandle};

/// What `serve` is told.
#[derive(Debug, Args)]
#[group(id = "databases", required = true, multiple = true)]
pub(super) struct Arguments {
    /// A SQLite database to serve, as FILE or NAME=FILE; clients choose by name, the first is the default. Repeatable.
    #[arg(long, value_name = "[NAME=]FILE", group = "databases")]
    db: Vec<String>,

    /// Serve TPC-H demo data of this scale (1 is six million rows), made on first use in the temporary folder.
    #[arg(long, value_name = "SCALE", num_args = 0..=1, default_missing_value = "0.1", group = "databases")]
    demo: Option<Scale>,

    /// The address to listen on; port 0 takes a free one.
    #[arg(
        long,
        env = "ROWSTREAM_LISTEN",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:8080"
    )]
    listen: String,

    /// Threads that call engines [default: the number of cores, at least 4].
    #[arg(long, env = "ROWSTREAM_WORKERS", value_name = "N")]
    workers: Option<usize>,

    /// Rows per batch where a client asks for none.
    #[arg(long, env = "ROWSTREAM_BATCH_SIZE", value_name = "ROWS", default_value_t = StreamingConfig::default().batch_size)]
    batch_size: u32,

    /// Deflate messages for clients that ask for it, as every browser does; for networks slower than 250 MB/s.
    #[arg(long)]
    permessage_deflate: bool,
}

/// Blocks until SIGINT or SIGTERM, and then until the server is down.
pub(super) fn run(arguments: Arguments) -> Exit {
    let Arguments {
        db,
        demo,
        listen,
        workers,
        batch_size,
        permessage_deflate,
    } = arguments;
    let mut names = Vec::new();
    let mut builder = Server::builder()
        .listen(listen.as_str())
        .permessage_deflate(permessage_deflate);
    for argument in &db {
        let (name, path) = name_and_path(argument);
        builder = match add_sqlite(builder, &name, Path::new(path)) {
            Ok(builder) => builder,
            Err(text) => return fail(&text),
        };
        names.push(name);
    }
    if let Some(scale) = demo {
        let path = match demo::prepare(scale) {
            Ok(path) => path,
            Err(error) => return fail(&error),
        };
        builder = match add_sqlite(builder, "demo", &path) {
            Ok(builder) => builder,
            Err(text) => return fail(&text),
        };
        names.push("demo".to_owned());
    }
    if let Some(workers) = workers {
        builder = builder.workers(workers);
    }
    let streaming = StreamingConfig {
        batch_size,
        ..StreamingConfig::default()
    };
    let server = match builder.streaming(streaming).start() {
        Ok(server) => server,
        Err(error) => return fail(&error),
    };
    if let Err(error) = shut_down_on_signal(&server) {
        return fail(&error);
    }
    if announce(&server, &names, demo.is_some()).is_err() {
        log::warn!("standard output is closed; the address was not told");
    }
    server.join();
    Exit::Ok
}

fn add_sqlite(builder: ServerBuilder, name: &str, path: &Path) -> Result<ServerBuilder, String> {
    let engine = SqliteEngine::open(path).map_err(|error| format!("{}: {}", path.display(), error.message))?;
    Ok(builder.engine(name, engine))
}

/// `name=FILE`, or a file under the name of its stem.
fn name_and_path(argument: &str) -> (String, &str) {
    match argument.split_once('=') {
        Some((name, path)) if !name.is_empty() && !name.contains(['/', '\\', '.']) => (name.to_owned(), path),
        _ => {
            let stem = Path::new(argument).file_stem().unwrap_or_default();
            (stem.to_string_lossy().into_owned(), argument)
        }
    }
}

/// The first signal asks the server to end, the second ends the process.
fn shut_down_on_signal(server: &ServerHandle) -> Result<(), ctrlc::Error> {
    let server = server.clone();
    let asked = AtomicBool::new(false);
    ctrlc::set_handler(move || {
        if asked.swap(true, Ordering::AcqRel) {
            process::exit(130);
        }
        let server = server.clone();
        // On a thread of its own, so that a second signal is heard.
        let stopping = crate::server::shut_down_in_background(server);
        if let Err(error) = stopping {
            complain(&error);
            process::exit(1);
        }
    })
}

fn announce(server: &ServerHandle, names: &[String], is_demo: bool) -> io::Result<()> {
    let Some(address) = server.local_addr() else {
        return Ok(());
    };
    let url = format!("ws://{address}/ws");
    {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "listening on {url}")?;
        stdout.flush()?;
    }
    let table = if is_demo { "lineitem" } else { "sqlite_schema" };
    let mut stderr = io::stderr().lock();
    writeln!(stderr, "engines: {}", names.join(", "))?;
    writeln!(stderr, "memory: at most {}", server.memory_bound())?;
    let capacity = server.capacity();
    let (connections, streams) = (capacity.connections_max, capacity.streams_max);
    writeln!(stderr, "room for {connections} connections and {streams} streams")?;
    for reason in &capacity.reasons {
        writeln!(stderr, "{reason}")?;
    }
    writeln!(stderr, "try: rowstream query {url} 'SELECT * FROM {table} LIMIT 10'")?;
    writeln!(stderr, "or open http://{address}/; Ctrl-C stops the server")
}

fn fail(error: &dyn std::fmt::Display) -> Exit {
    complain(error);
    Exit::Failed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(argument: &str, name: &str, path: &str) {
        assert_eq!(name_and_path(argument), (name.to_owned(), path));
    }

    #[test]
    fn databases_have_names() {
        check("sales=data/s.db", "sales", "data/s.db");
        check("data/sales.db", "sales", "data/sales.db");
        check("./a=b.db", "a=b", "./a=b.db");
        check("=x.db", "=x", "=x.db");
    }
}
