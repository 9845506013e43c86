//! A server out of settings: engines opened, limits set, and what SIGHUP has read again.
//!
//! Must not know where settings come from.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::sync::Arc;

use super::config::{Bytes, DemoScale, OrOff, RateLimit, Settings};
use super::demo;
use crate::StreamingConfig;
use crate::auth::TokenFile;
use crate::engine::sqlite::{JournalMode, SqliteEngine, SqliteEngineBuilder, limit_heap};
use crate::server::{Limits, Server, ServerBuilder, ServerHandle, TlsConfig};

/// A file that can be read again while the server runs.
#[derive(Debug)]
pub(super) enum Reloadable {
    Tokens(Arc<TokenFile>),
    Certificate,
}

impl Reloadable {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Tokens(_) => "tokens",
            Self::Certificate => "certificate",
        }
    }

    /// Reads it again; what is wrong with it leaves the server as it was. Blocks on the file.
    pub(super) fn reload(&self, server: &ServerHandle) -> Result<(), String> {
        match self {
            Self::Tokens(tokens) => {
                tokens.reload().map_err(|error| error.to_string())?;
                server.recheck_clients();
                Ok(())
            }
            Self::Certificate => server.reload_certificates().map_err(|error| error.to_string()),
        }
    }
}

/// What becomes of demo data that is not there yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DemoData {
    /// It is made, which takes its time and its space.
    Made,
    /// It is not looked at: for a server that is not started.
    LeftAlone,
}

/// What a server is started from.
#[derive(Debug)]
pub(super) struct Assembly {
    pub(super) builder: ServerBuilder,
    /// The engines' names, in order.
    pub(super) names: Vec<String>,
    pub(super) engines: Vec<Arc<SqliteEngine>>,
    pub(super) reloadables: Vec<Reloadable>,
    /// Unix sockets that the server will listen on.
    pub(super) unix: Vec<String>,
    pub(super) has_tls: bool,
    /// What an operator should know of the databases.
    pub(super) notes: Vec<String>,
}

impl Assembly {
    fn with_engine(mut self, name: String, engine: SqliteEngine) -> Self {
        let engine = Arc::new(engine);
        let shared = Arc::clone(&engine);
        self.builder = self.builder.shared_engine(&name, shared);
        self.names.push(name);
        self.engines.push(engine);
        self
    }
}

/// Opens databases and files, and sees to demo data where it is asked for; a socket that was `handed_over` stands for the addresses.
/// Blocks on all of that.
///
/// # Errors
/// What cannot be opened or makes no sense, for whoever has set it.
pub(super) fn assemble(
    settings: &Settings,
    handed_over: Option<TcpListener>,
    demo_data: DemoData,
) -> Result<Assembly, String> {
    let mut assembly = Assembly {
        builder: Server::builder()
            .permessage_deflate(settings.permessage_deflate)
            .streaming(streaming(settings))
            .limits(limits(settings))
            .connections_max(settings.connections_max)
            .streams_per_connection_max(settings.streams_per_connection_max)
            .message_bytes_max(settings.message_bytes_max.in_memory())
            .query_bytes_max(settings.query_bytes_max.in_memory())
            .heartbeat(settings.heartbeat_interval, settings.heartbeat_dead_after)
            .auth_deadline(settings.auth_deadline)
            .auth_failures_per_minute(settings.auth_failures_per_minute)
            .allowed_origins(settings.allowed_origins.iter().cloned())
            .allowed_hosts(settings.allowed_hosts.iter().cloned())
            .insecure(settings.insecure),
        names: Vec::new(),
        engines: Vec::new(),
        reloadables: Vec::new(),
        unix: Vec::new(),
        has_tls: false,
        notes: Vec::new(),
    };
    if let Some(workers) = settings.workers {
        assembly.builder = assembly.builder.workers(workers);
    }
    assembly = add_addresses(assembly, settings, handed_over)?;
    assembly = add_tls(
        assembly,
        settings.tls_certificate.as_deref(),
        settings.tls_key.as_deref(),
    )?;
    if let Some(path) = &settings.token_file {
        let tokens = TokenFile::open(path).map_err(|error| error.to_string())?;
        let tokens = Arc::new(tokens);
        assembly.builder = assembly.builder.authenticator(Arc::clone(&tokens));
        assembly.reloadables.push(Reloadable::Tokens(tokens));
    }
    add_databases(assembly, settings, demo_data)
}

fn add_addresses(
    mut assembly: Assembly,
    settings: &Settings,
    handed_over: Option<TcpListener>,
) -> Result<Assembly, String> {
    let listen = match handed_over {
        Some(socket) => {
            assembly.builder = assembly.builder.listener(socket);
            &[][..]
        }
        None => settings.listen.as_slice(),
    };
    for address in listen {
        assembly.builder = match address.strip_prefix("unix:") {
            Some(path) => {
                assembly.unix.push(address.clone());
                listen_unix(assembly.builder, path)?
            }
            None => named(assembly.builder, address).listen(address.as_str()),
        };
    }
    if let Some(address) = &settings.admin_listen {
        assembly.builder = named(assembly.builder, address).admin_listen(address.as_str());
    }
    Ok(assembly)
}

/// A server that is told to listen at a name is called by it.
fn named(builder: ServerBuilder, address: &str) -> ServerBuilder {
    match name_in(address) {
        Some(name) => builder.own_name(name),
        None => builder,
    }
}

/// The name in `NAME:PORT`; `None` where it is an address, or nothing of the kind.
fn name_in(address: &str) -> Option<&str> {
    let (host, _port) = address.rsplit_once(':')?;
    let is_name = !host.starts_with('[') && host.parse::<Ipv4Addr>().is_err();
    is_name.then_some(host)
}

#[cfg(unix)]
fn listen_unix(builder: ServerBuilder, path: &str) -> Result<ServerBuilder, String> {
    Ok(builder.listen_unix(path))
}

#[cfg(not(unix))]
fn listen_unix(_: ServerBuilder, path: &str) -> Result<ServerBuilder, String> {
    Err(format!("unix:{path}: this system has no unix sockets"))
}

fn add_tls(mut assembly: Assembly, certificate: Option<&Path>, key: Option<&Path>) -> Result<Assembly, String> {
    if let (Some(certificate), Some(key)) = (certificate, key) {
        let config = TlsConfig::from_files(certificate, key).map_err(|error| error.to_string())?;
        assembly.builder = assembly.builder.tls(config);
        assembly.reloadables.push(Reloadable::Certificate);
        assembly.has_tls = true;
    }
    Ok(assembly)
}

fn add_databases(mut assembly: Assembly, settings: &Settings, demo_data: DemoData) -> Result<Assembly, String> {
    limit_heap(settings.sqlite_heap.0);
    for argument in &settings.db {
        let (name, path) = name_and_path(argument);
        let engine = open(settings, &name, Path::new(path))?;
        assembly.notes.extend(journal_note(&name, &engine, settings));
        assembly = assembly.with_engine(name, engine);
    }
    if let Some(DemoScale(scale)) = settings.demo {
        let engine = match demo_data {
            DemoData::Made => {
                let path = demo::prepare(scale, settings.sqlite_heap.0).map_err(|error| error.to_string())?;
                open(settings, DEMO, &path)?
            }
            DemoData::LeftAlone => sqlite(settings, DEMO, &demo::path(scale)).unopened(),
        };
        assembly = assembly.with_engine(DEMO.to_owned(), engine);
    }
    match settings
        .sqlite_immutable
        .iter()
        .find(|name| !assembly.names.contains(name))
    {
        Some(unknown) => Err(format!("sqlite_immutable: no database is named {unknown:?}")),
        None => Ok(assembly),
    }
}

/// The name of the demo data.
const DEMO: &str = "demo";

fn open(settings: &Settings, name: &str, path: &Path) -> Result<SqliteEngine, String> {
    sqlite(settings, name, path).open().map_err(|error| match error.hint {
        Some(hint) => format!("{}: {}: {hint}", path.display(), error.message),
        None => format!("{}: {}", path.display(), error.message),
    })
}

/// What to do about a database whose readers and writers wait for each other. Nothing is said of demo data, which nobody writes to.
fn journal_note(name: &str, engine: &SqliteEngine, settings: &Settings) -> Option<String> {
    let is_written = !settings.sqlite_immutable.iter().any(|immutable| immutable == name);
    if !is_written || engine.journal_mode().ok()? != JournalMode::Rollback {
        return None;
    }
    let wait = match settings.sqlite_writer_wait_max.0 {
        Some(max) => format!("for up to sqlite_writer_wait_max ({max:?})"),
        None => "without limit (sqlite_writer_wait_max is off)".to_owned(),
    };
    Some(format!(
        "{name}: the database is in rollback-journal mode: a stream whose client is slow makes writers wait {wait}. If anything \
         writes to it, switch it to WAL: PRAGMA journal_mode=WAL"
    ))
}

fn sqlite(settings: &Settings, name: &str, path: &Path) -> SqliteEngineBuilder {
    type Set = fn(SqliteEngineBuilder, u32) -> SqliteEngineBuilder;
    let u32_of = |bytes: Bytes| u32::try_from(bytes.0).unwrap_or(u32::MAX);
    let builder = SqliteEngine::builder(path)
        .profile(settings.sqlite_profile.into())
        .cache_kib(u32_of(Bytes(settings.sqlite_cache.0.div_ceil(1024))))
        .lock_timeout(settings.sqlite_lock_timeout)
        .immutable(settings.sqlite_immutable.iter().any(|immutable| immutable == name))
        .writer_wait_max(settings.sqlite_writer_wait_max.0)
        .wal_bytes_max(settings.sqlite_wal_bytes_max.0.map(|bytes| bytes.0));
    let limits: [(Option<u32>, Set); 9] = [
        (
            settings.sqlite_cell_bytes_max.map(u32_of),
            SqliteEngineBuilder::cell_bytes_max,
        ),
        (
            settings.sqlite_query_bytes_max.map(u32_of),
            SqliteEngineBuilder::query_bytes_max,
        ),
        (settings.sqlite_columns_max, SqliteEngineBuilder::columns_max),
        (settings.sqlite_parameters_max, SqliteEngineBuilder::parameters_max),
        (
            settings.sqlite_expression_depth_max,
            SqliteEngineBuilder::expression_depth_max,
        ),
        (
            settings.sqlite_compound_parts_max,
            SqliteEngineBuilder::compound_parts_max,
        ),
        (
            settings.sqlite_function_arguments_max,
            SqliteEngineBuilder::function_arguments_max,
        ),
        (settings.sqlite_operations_max, SqliteEngineBuilder::operations_max),
        (
            settings.sqlite_pattern_bytes_max.map(u32_of),
            SqliteEngineBuilder::pattern_bytes_max,
        ),
    ];
    limits.into_iter().fold(builder, |builder, (limit, set)| match limit {
        Some(limit) => set(builder, limit),
        None => builder,
    })
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

fn streaming(settings: &Settings) -> StreamingConfig {
    StreamingConfig {
        batch_size: settings.batch_size,
        batch_size_max: settings.batch_size_max,
        batch_bytes: settings.batch_bytes.in_memory(),
        batch_bytes_max: settings.batch_bytes_max.in_memory(),
        row_bytes_max: settings.row_bytes_max.in_memory(),
        first_batch_interval: settings.first_batch_interval,
        batch_interval: settings.batch_interval,
        progress_interval: settings.progress_interval,
        max_query_duration: settings.max_query_duration,
        max_stream_duration: settings.max_stream_duration.0,
        channel_buffer_size: settings.channel_buffer_size,
        buffer_bytes: settings.buffer_bytes.in_memory(),
        stream_buffer_bytes_max: settings.stream_buffer_bytes_max.in_memory(),
        held_bytes_max: settings.held_bytes_max.in_memory(),
        connection_held_bytes_max: settings.connection_held_bytes_max.in_memory(),
        window_batches_max: settings.window_batches_max,
        window_bytes_max: settings.window_bytes_max.0,
        window_batches: settings.window_batches,
        window_bytes: settings.window_bytes.0,
        retention: settings.retention,
        retention_bytes: settings.retention_bytes.0,
        retained_streams_max: settings.retained_streams_max,
        stall_limit: settings.stall_limit,
        queries_waiting_max: settings.queries_waiting_max,
        compression_level: settings.compression_level,
        detailed_progress: StreamingConfig::default().detailed_progress,
    }
}

fn limits(settings: &Settings) -> Limits {
    let rate = |limit: OrOff<RateLimit>| limit.0.map(|RateLimit(rate)| rate);
    Limits {
        head_deadline: settings.head_deadline,
        idle_timeout: settings.idle_timeout.0,
        fragments_max: settings.fragments_max,
        assembly_timeout: settings.assembly_timeout,
        ping_rate: rate(settings.ping_rate),
        message_rate: rate(settings.message_rate),
        query_rate: rate(settings.query_rate),
        connections_per_address_max: settings.connections_per_address_max.0,
        connection_rate_per_address: rate(settings.connection_rate_per_address),
        connections_per_principal_max: settings.connections_per_principal_max,
        streams_per_principal_max: settings.streams_per_principal_max,
        streams_max: settings.streams_max,
    }
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

    #[test]
    fn an_address_may_have_a_name() {
        for (address, name) in [
            ("db.example:8080", Some("db.example")),
            ("localhost:0", Some("localhost")),
            ("192.0.2.1:80", None),
            ("[::1]:80", None),
            ("db.example", None),
        ] {
            assert_eq!(name_in(address), name, "{address}");
        }
    }

    /// The program's defaults are the library's.
    #[test]
    fn nothing_said_is_the_default() {
        let settings = super::super::config::Settings::of_defaults();
        assert_eq!(streaming(&settings), StreamingConfig::default());
        assert_eq!(limits(&settings), Limits::default());
    }
}
