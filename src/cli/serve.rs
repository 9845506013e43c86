//! `rowstream serve`: databases in, a server out, until a signal.

use std::convert::Infallible;
use std::io::{self, Write};
use std::path::Path;
use std::process;
use std::time::Duration;

use clap::Args;
use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

use super::demo::{self, Scale};
use super::logging::LogFormat;
use super::signals::{SIGHUP, SIGINT, SIGTERM, exit_code, on_signals};
use super::supervisor::{Supervisor, handed_over};
use super::{Exit, complain};
use crate::StreamingConfig;
use crate::engine::sqlite::SqliteEngine;
use crate::server::{Server, ServerBuilder, ServerHandle};
use crate::thread::{STACK_BYTES_CONNECTION, spawn_named};

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

    /// An address for operators: /metrics, /readyz, /healthz and /version; /metrics is not at the other address then.
    #[arg(long, env = "ROWSTREAM_ADMIN_LISTEN", value_name = "ADDRESS")]
    admin_listen: Option<String>,

    /// How long streams may run on after SIGTERM or SIGINT.
    #[arg(long, env = "ROWSTREAM_DRAIN_SECONDS", value_name = "SECONDS", default_value_t = 30)]
    drain_seconds: u64,

    /// How the log is written to standard error; RUST_LOG says what of it.
    #[arg(long, env = "ROWSTREAM_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub(super) log_format: LogFormat,
}

/// Blocks until SIGINT or SIGTERM, and then until the server is down. A socket that a service manager hands over goes before
/// `--listen`.
pub(super) fn run(arguments: Arguments) -> Exit {
    let Arguments {
        db,
        demo,
        listen,
        workers,
        batch_size,
        permessage_deflate,
        admin_listen,
        drain_seconds,
        log_format,
    } = arguments;
    let supervisor = Supervisor::from_env();
    let mut names = Vec::new();
    let mut builder = Server::builder().permessage_deflate(permessage_deflate);
    builder = match handed_over() {
        Ok(Some(socket)) => builder.listener(socket),
        Ok(None) => builder.listen(listen.as_str()),
        Err(error) => return fail(&error),
    };
    if let Some(address) = admin_listen {
        builder = builder.admin_listen(address.as_str());
    }
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
    let asked = match hear_signals(Vec::new()) {
        Ok(asked) => asked,
        Err(error) => return fail(&error),
    };
    if announce(&server, &names, demo.is_some(), log_format).is_err() {
        log::warn!("standard output is closed; the address was not told");
    }
    match serve_until_asked(server, &supervisor, &asked, Duration::from_secs(drain_seconds)) {
        Ok(()) => Exit::Ok,
        Err(error) => fail(&error),
    }
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

/// Something that is read again on SIGHUP, and its name.
type Reload = (&'static str, Box<dyn FnMut() -> Result<(), String> + Send>);

/// The first SIGINT or SIGTERM asks for the server's end, the second ends the process; SIGHUP has files read again.
fn hear_signals(mut reloads: Vec<Reload>) -> io::Result<Receiver<()>> {
    let (ask, asked) = bounded(1);
    let mut ask = Some(ask);
    on_signals(&[SIGINT, SIGTERM, SIGHUP], move |signal| {
        if signal == SIGHUP {
            reload(&mut reloads);
        } else if let Some(ask) = ask.take() {
            // Room for one, and this is the only one.
            let _heard = ask.try_send(());
        } else {
            process::exit(exit_code(signal));
        }
    })?;
    Ok(asked)
}

/// Reads everything again that can be. What fails stays as it was.
fn reload(reloads: &mut [Reload]) {
    if reloads.is_empty() {
        log::warn!("SIGHUP: there is nothing to read again");
    }
    for (name, reload) in reloads {
        match reload() {
            Ok(()) => log::info!(name:% = name; "read again"),
            Err(error) => log::error!(name:% = name, error = error; "not read again, and as it was"),
        }
    }
}

/// Blocks until the end is asked for, and then until the server is down: by the drain's deadline and a few seconds.
fn serve_until_asked(
    server: ServerHandle,
    supervisor: &Supervisor,
    asked: &Receiver<()>,
    drain: Duration,
) -> io::Result<()> {
    supervisor.ready(&status(&server));
    while let Err(RecvTimeoutError::Timeout) = wait(asked, supervisor) {
        supervisor.alive(&status(&server));
    }
    supervisor.stopping("draining");
    let (done, ended) = bounded::<Infallible>(0);
    let draining = server.clone();
    let thread = spawn_named("drain", STACK_BYTES_CONNECTION, move || {
        let _done = done;
        draining.drain(drain);
        draining.shutdown();
    })?;
    while let Err(RecvTimeoutError::Timeout) = wait(&ended, supervisor) {
        supervisor.alive(&format!("draining: {}", status(&server)));
    }
    if thread.join().is_err() {
        log::error!("draining panicked");
    }
    Ok(())
}

/// What comes, or that it is time to tell the supervisor something. Blocks for either.
fn wait<T>(events: &Receiver<T>, supervisor: &Supervisor) -> Result<T, RecvTimeoutError> {
    match supervisor.interval() {
        Some(interval) => events.recv_timeout(interval),
        None => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
    }
}

/// How the server is. Looking takes the locks that matter: a server that hangs on them tells nothing, and is found out.
fn status(server: &ServerHandle) -> String {
    let n_streams = server.streams().statistics().active;
    format!("{} connections, {n_streams} streams", server.connections())
}

/// The addresses for programs; the rest for people, who do not read a log in JSON.
fn announce(server: &ServerHandle, names: &[String], is_demo: bool, log_format: LogFormat) -> io::Result<()> {
    let Some(address) = server.local_addr() else {
        return Ok(());
    };
    let url = format!("ws://{address}/ws");
    {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "listening on {url}")?;
        if let Some(address) = server.admin_addr() {
            writeln!(stdout, "operators: http://{address}/metrics")?;
        }
        stdout.flush()?;
    }
    if log_format == LogFormat::Json {
        return Ok(());
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
