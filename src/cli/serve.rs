//! `rowstream serve`: databases in, a server out, until a signal.

use std::convert::Infallible;
use std::io::{self, Write};
use std::process;
use std::thread::JoinHandle;
use std::time::Duration;

use clap::Args;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::assemble::{Assembly, DemoData, Reloadable, assemble};
use super::config::{self, Explained, Settings};
use super::logging::{self, LogFormat};
use super::malloc::{self, Trimmer};
use super::signals::{SIGHUP, SIGINT, SIGTERM, exit_code, on_signals};
use super::supervisor::{Supervisor, handed_over};
use super::{Exit, complain, print, say};
use crate::server::{Capacity, HostLimits, ServerBuilder, ServerHandle, StartError};
use crate::thread::{STACK_BYTES_CONNECTION, spawn_named};

/// What `serve` is told.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: config::Arguments,

    /// Print a file with every setting and its default, and end.
    #[arg(long)]
    print_default_config: bool,
}

/// Blocks until SIGINT or SIGTERM, and then until the server is down; without end where there are [no signals](super::signals). A socket
/// that a service manager hands over goes before `--listen`.
pub(super) fn run(arguments: Arguments) -> Exit {
    malloc::limit_arenas();
    if arguments.print_default_config {
        return print(config::default_file().as_bytes());
    }
    let explained = match arguments.config.explained(&HostLimits::of_this_host()) {
        Ok(explained) => explained,
        Err(problems) => return refuse(&problems),
    };
    let settings = &explained.settings;
    logging::init(settings.log_format);
    let supervisor = Supervisor::from_env();
    let Assembly {
        builder,
        names,
        engines,
        reloadables,
        unix,
        has_tls,
        notes,
    } = match prepare(settings, DemoData::Made) {
        Ok(assembly) => assembly,
        Err(exit) => return exit,
    };
    let started =
        check(&builder, &explained).and_then(|_| builder.start().map_err(|error| refused(&error, &explained)));
    let server = match started {
        Ok(server) => server,
        Err(error) => return fail(&error),
    };
    let heard = start_reloading(server.clone(), reloadables).and_then(hear_signals);
    let asked = match heard {
        Ok(asked) => asked,
        Err(error) => return fail(&format_args!("cannot listen to signals: {error}")),
    };
    let _trims_until_dropped = match start_trimming(server.clone()) {
        Ok(trims) => trims,
        Err(error) => return fail(&format_args!("cannot start a thread: {error}")),
    };
    let drain = Duration::from_secs(settings.drain_seconds);
    let drainer = match Drainer::start(server.clone(), drain) {
        Ok(drainer) => drainer,
        Err(error) => return fail(&format_args!("cannot start a thread: {error}")),
    };
    let told = announce(
        &server,
        &Announcement {
            scheme: if has_tls { "wss" } else { "ws" },
            unix: &unix,
            names: &names,
            table: if settings.demo.is_some() {
                "lineitem"
            } else {
                "sqlite_schema"
            },
            log_format: settings.log_format,
            scaled: explained.scaled(),
        },
    );
    if told.is_err() {
        log::warn!("standard output is closed; the address was not told");
    }
    for note in notes {
        log::warn!("{note}");
    }
    serve_until_asked(&server, &supervisor, &asked, drainer);
    // Threads that end with the process hold the server, and so the engines.
    for engine in engines {
        engine.close();
    }
    Exit::Ok
}

/// Prints every setting, its value and who said it, and then does all that `serve` does before it listens, but for demo data: what it
/// would complain of is complained of here, and the program ends as with it. What can be read is printed even so: it shows who has
/// said what is wrong.
pub(super) fn check_config(config: config::Arguments) -> Exit {
    let explained = match config.explained(&HostLimits::of_this_host()) {
        Ok(explained) => explained,
        Err(problems) => return refuse(&problems),
    };
    let printed = print(explained.text().as_bytes());
    let assembly = match prepare(&explained.settings, DemoData::LeftAlone) {
        Ok(assembly) => assembly,
        Err(exit) => return exit,
    };
    match check(&assembly.builder, &explained) {
        Ok(capacity) => {
            for told in explained
                .scaled()
                .iter()
                .chain(&assembly.notes)
                .chain(&capacity.reasons)
            {
                say(told);
            }
            printed
        }
        Err(error) => fail(&error),
    }
}

/// What the host has room for. Connections and streams that no source limits are fewer where there is less room.
///
/// # Errors
/// Why the server would not start: also where a limit that a source sets does not fit.
fn check(builder: &ServerBuilder, explained: &Explained) -> Result<Capacity, String> {
    let capacity = builder.check().map_err(|error| refused(&error, explained))?;
    let settings = &explained.settings;
    for (name, asked, room) in [
        ("connections_max", settings.connections_max, capacity.connections_max),
        ("streams_max", settings.streams_max, capacity.streams_max),
    ] {
        if room < asked
            && let [set] = explained.set(&[name]).as_slice()
        {
            return Err(format!("{set} does not fit this host: {}", capacity.reasons.join("; ")));
        }
    }
    Ok(capacity)
}

/// Settings that take memory whatever clients do.
const MEMORY_SETTINGS: [&str; 6] = [
    "held_bytes_max",
    "sqlite_heap",
    "workers",
    "retained_streams_max",
    "batch_bytes",
    "message_bytes_max",
];

/// Why the server does not start, with the settings that would have it do so.
fn refused(error: &StartError, explained: &Explained) -> String {
    let remedy = match error {
        StartError::Memory(shortage) => {
            let set = explained.set(&MEMORY_SETTINGS);
            return if set.is_empty() {
                format!("{shortage}: the default settings need 96 MiB of memory")
            } else {
                format!("{shortage}: lower {}", set.join(" or "))
            };
        }
        StartError::Exposed(_) => "--token-file, --listen, --insecure",
        StartError::InClear(_) => "--tls-certificate and --tls-key, --listen, --insecure",
        StartError::AdminExposed(_) => "--admin-listen, --insecure",
        StartError::NoEngine
        | StartError::DuplicateEngine(_)
        | StartError::Setting(_)
        | StartError::Host(_)
        | StartError::Listen { .. }
        | StartError::Thread(_) => return error.to_string(),
    };
    format!("{error}: see {remedy}")
}

/// All that a server is started from, opened and read; says what is wrong where that cannot be.
fn prepare(settings: &Settings, demo_data: DemoData) -> Result<Assembly, Exit> {
    if settings.db.is_empty() && settings.demo.is_none() {
        let text = "there is nothing to serve: name a database with --db, or try --demo";
        return Err(refuse(&[text.to_owned()]));
    }
    let assembled = handed_over()
        .map_err(|error| error.to_string())
        .and_then(|socket| assemble(settings, socket, demo_data));
    assembled.map_err(|error| fail(&error))
}

fn refuse(problems: &[String]) -> Exit {
    for problem in problems {
        complain(problem);
    }
    Exit::Usage
}

/// The first SIGINT or SIGTERM asks for the server's end, the second ends the process; SIGHUP has files read again.
fn hear_signals(reload: Sender<()>) -> io::Result<Receiver<()>> {
    let (ask, asked) = bounded(1);
    let mut ask = Some(ask);
    on_signals(&[SIGINT, SIGTERM, SIGHUP], move |signal| {
        if signal == SIGHUP {
            // Where it is full, files are going to be read again anyway.
            let _told = reload.try_send(());
        } else if let Some(ask) = ask.take() {
            // Room for one, and this is the only one.
            let _heard = ask.try_send(());
        } else {
            process::exit(exit_code(signal));
        }
    })?;
    Ok(asked)
}

/// Starts the thread that reads files again when it is told, once for all that it is told meanwhile: a file may take as long as it likes
/// to be read, and signals are heard all the same.
///
/// Ends when: nobody can tell it any more, which is with the process.
fn start_reloading(server: ServerHandle, reloadables: Vec<Reloadable>) -> io::Result<Sender<()>> {
    let (tell, told) = bounded(1);
    spawn_named("reload", STACK_BYTES_CONNECTION, move || {
        for () in told {
            reload(&server, &reloadables);
        }
    })?;
    Ok(tell)
}

/// Reads everything again that can be. What fails stays as it was.
fn reload(server: &ServerHandle, reloadables: &[Reloadable]) {
    if reloadables.is_empty() {
        log::warn!("SIGHUP: there is nothing to read again");
    }
    for reloadable in reloadables {
        let name = reloadable.name();
        match reloadable.reload(server) {
            Ok(()) => log::info!(name = name; "read again"),
            Err(error) => log::error!(name = name, error = error; "not read again, and as it was"),
        }
    }
}

/// Starts the thread that gives free memory back to the system, where the allocator does not by itself.
///
/// Ends when: what it returns is dropped.
fn start_trimming(server: ServerHandle) -> io::Result<Option<Sender<Infallible>>> {
    let Some(interval) = malloc::INTERVAL else {
        return Ok(None);
    };
    let (until_dropped, dropped) = bounded::<Infallible>(0);
    let mut trimmer = Trimmer::new(activity(&server));
    spawn_named("trim", STACK_BYTES_CONNECTION, move || {
        while let Err(RecvTimeoutError::Timeout) = dropped.recv_timeout(interval) {
            if trimmer.look(activity(&server)) {
                malloc::trim();
            }
        }
    })?;
    Ok(Some(until_dropped))
}

/// Whatever changes when a server frees much.
fn activity(server: &ServerHandle) -> impl PartialEq + use<> {
    let streams = server.streams();
    (streams.statistics(), streams.bytes_held(), server.connections())
}

/// A thread that drains the server when it is told, and ends it.
struct Drainer {
    begin: Sender<()>,
    /// Disconnected when the server is down.
    ended: Receiver<Infallible>,
    thread: JoinHandle<()>,
}

impl Drainer {
    /// Started with the server: when its end is asked for, the system may have no thread to give.
    ///
    /// Ends when: the server is down, or nobody can tell it to begin any more.
    fn start(server: ServerHandle, deadline: Duration) -> io::Result<Self> {
        let (begin, begun) = bounded::<()>(1);
        let (done, ended) = bounded(0);
        let thread = spawn_named("drain", STACK_BYTES_CONNECTION, move || {
            let _done = done;
            if begun.recv().is_err() {
                return;
            }
            server.drain(deadline);
            server.shutdown();
        })?;
        Ok(Self { begin, ended, thread })
    }
}

/// Blocks until the end is asked for, and then until the server is down: by the drain's deadline and a few seconds.
fn serve_until_asked(server: &ServerHandle, supervisor: &Supervisor, asked: &Receiver<()>, drainer: Drainer) {
    supervisor.ready(&status(server));
    while let Err(RecvTimeoutError::Timeout) = wait(asked, supervisor) {
        supervisor.alive(&status(server));
    }
    supervisor.stopping("draining");
    // Room for one, and this is the only one.
    let _told = drainer.begin.try_send(());
    while let Err(RecvTimeoutError::Timeout) = wait(&drainer.ended, supervisor) {
        supervisor.alive(&format!("draining: {}", status(server)));
    }
    if drainer.thread.join().is_err() {
        log::error!("draining panicked");
    }
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

/// What is told once the server is there.
struct Announcement<'a> {
    scheme: &'a str,
    unix: &'a [String],
    names: &'a [String],
    /// One that is worth a try.
    table: &'a str,
    log_format: LogFormat,
    /// Budgets that are lower than their defaults, in one line.
    scaled: Option<String>,
}

/// Each address a line of standard output, the rest for people.
fn announce(server: &ServerHandle, announcement: &Announcement<'_>) -> io::Result<()> {
    let Announcement {
        scheme,
        unix,
        names,
        table,
        log_format,
        scaled,
    } = announcement;
    let tcp = server
        .local_addrs()
        .iter()
        .map(|address| format!("{scheme}://{address}/ws"));
    let urls: Vec<String> = tcp.chain(unix.iter().cloned()).collect();
    {
        let mut stdout = io::stdout().lock();
        for url in &urls {
            writeln!(stdout, "listening on {url}")?;
        }
        if let Some(address) = server.admin_addr() {
            writeln!(stdout, "operators: http://{address}/metrics")?;
        }
        stdout.flush()?;
    }
    if *log_format == LogFormat::Json {
        // People do not read a log in JSON.
        if let Some(scaled) = scaled {
            log::warn!("{scaled}");
        }
        return Ok(());
    }
    let mut stderr = io::stderr().lock();
    writeln!(stderr, "engines: {}", names.join(", "))?;
    if let Some(scaled) = scaled {
        writeln!(stderr, "{scaled}")?;
    }
    writeln!(stderr, "memory: at most {}", server.memory_bound())?;
    let capacity = server.capacity();
    let (connections, streams) = (capacity.connections_max, capacity.streams_max);
    writeln!(stderr, "room for {connections} connections and {streams} streams")?;
    for reason in &capacity.reasons {
        writeln!(stderr, "{reason}")?;
    }
    if let Some(url) = urls.first() {
        writeln!(stderr, "try: rowstream query {url} 'SELECT * FROM {table} LIMIT 10'")?;
    }
    if let Some(address) = server.local_addr() {
        let page = scheme.replace("ws", "http");
        writeln!(stderr, "or open {page}://{address}/; Ctrl-C stops the server")?;
    }
    Ok(())
}

fn fail(error: &dyn std::fmt::Display) -> Exit {
    complain(error);
    Exit::Failed
}
