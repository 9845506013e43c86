//! What `rowstream serve` can be told, in one table: by flags, by the environment, by a file, in that order.
//!
//! The table is the only place where a setting is named; flags, variables, the file with all defaults and what `check-config` prints are
//! made of it. Must not know how a server is made of them.

mod budgets;
mod environment;
mod kind;
mod layers;

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgMatches, Command, FromArgMatches};

use kind::Kind;
pub(super) use kind::{Bytes, DemoScale, OrOff, Profile, RateLimit};
use layers::{Entry, Layers, Shown, Source};

use super::logging::LogFormat;
use crate::StreamingConfig;
use crate::server::{HostLimits, Limits};

/// The settings that the file has are in the file named by this one.
const CONFIG: &str = "config";

macro_rules! settings {
    ($($section:literal { $($(#[doc = $doc:literal])+ $name:ident: $kind:ty = $default:expr;)+ })+) => {
        /// Every setting, read and with its default where nobody has said anything.
        #[derive(Debug, Clone)]
        pub(super) struct Settings {$($(
            $(#[doc = $doc])+
            pub(super) $name: $kind,
        )+)+}

        const ENTRIES: &[Entry] = &[$($(Entry {
            name: stringify!($name),
            section: $section,
            doc: &[$($doc),+],
            shape: <$kind as Kind>::SHAPE,
            value_name: <$kind as Kind>::VALUE_NAME,
            default: || {
                let default: $kind = $default;
                default.show()
            },
        },)+)+];

        fn read(layers: &Layers) -> (Settings, Vec<Shown>, Vec<String>) {
            let (mut shown, mut problems) = (Vec::new(), Vec::new());
            let settings = Settings {$($(
                $name: layers.read(stringify!($name), $default, &mut shown, &mut problems),
            )+)+};
            (settings, shown, problems)
        }
    };
}

settings! {
    "Databases" {
        /// A SQLite database to serve, as FILE or NAME=FILE; clients choose by name, the first is the default. Repeatable.
        db: Vec<String> = Vec::new();
        /// Serve TPC-H demo data of this scale (1 is six million rows), made on first use in the temporary folder.
        demo: Option<DemoScale> = None;
        /// What queries may do: `untrusted` for authors who may want to harm the server, `trusted` for those who may not.
        sqlite_profile: Profile = Profile::Untrusted;
        /// Memory that SQLite may take in the whole process; 0 for as much as there is. Less on hosts with less than 2 GiB of memory.
        sqlite_heap: Bytes = Bytes(256 << 20);
        /// SQLite's page cache for each running query.
        sqlite_cache: Bytes = Bytes(64 << 10);
        /// How long a query waits for a lock that a writer of the database holds.
        sqlite_lock_timeout: Duration = Duration::from_secs(2);
        /// How long a stream that waits for its client may keep a writer waiting, of a database in rollback-journal mode.
        sqlite_writer_wait_max: OrOff<Duration> = OrOff(Some(Duration::from_secs(5)));
        /// How much of a write-ahead log a stream that waits for its client may keep from being checkpointed.
        sqlite_wal_bytes_max: OrOff<Bytes> = OrOff(Some(Bytes(256 << 20)));
        /// A database that no program changes while it is served, by name; its folder need not be writable. Repeatable.
        sqlite_immutable: Vec<String> = Vec::new();
        /// Largest text or blob that a query may make or read; defaults to 1 MiB.
        sqlite_cell_bytes_max: Option<Bytes> = None;
        /// Longest query; defaults to 64 KiB, or 1 MiB with the profile `trusted`.
        sqlite_query_bytes_max: Option<Bytes> = None;
        /// Most columns of a result, and terms of ORDER BY and GROUP BY; defaults to 2000.
        sqlite_columns_max: Option<u32> = None;
        /// Most parameters of a query; defaults to 32766.
        sqlite_parameters_max: Option<u32> = None;
        /// Deepest expression, and deepest nesting of subqueries; defaults to 1000.
        sqlite_expression_depth_max: Option<u32> = None;
        /// Most parts of a UNION, INTERSECT or EXCEPT; defaults to 500.
        sqlite_compound_parts_max: Option<u32> = None;
        /// Most arguments of a function; defaults to 512, or 1000 with the profile `trusted`.
        sqlite_function_arguments_max: Option<u32> = None;
        /// Most operations of a compiled query; defaults to 172032, or 250000000 with the profile `trusted`.
        sqlite_operations_max: Option<u32> = None;
        /// Longest pattern of LIKE and GLOB; defaults to 256 bytes, or 50000 with the profile `trusted`.
        sqlite_pattern_bytes_max: Option<Bytes> = None;
    }
    "Addresses" {
        /// Where to listen, as HOST:PORT or unix:PATH; port 0 takes a free one. Repeatable.
        listen: Vec<String> = vec!["127.0.0.1:8080".to_owned()];
        /// The certificate chain in PEM, for TLS; read again on SIGHUP.
        tls_certificate: Option<PathBuf> = None;
        /// Its private key in PEM.
        tls_key: Option<PathBuf> = None;
        /// An address for operators: /metrics, /readyz, /healthz and /version; /metrics is not at the other address then.
        admin_listen: Option<String> = None;
        /// Listen where others can reach the server although there are no tokens or no TLS, which then is in front of it.
        insecure: bool = false;
    }
    "Who may come in" {
        /// The file with tokens, of lines that `rowstream token` makes; read again on SIGHUP. Without one, nobody is asked.
        token_file: Option<PathBuf> = None;
        /// Time for saying who a client is, after the upgrade.
        auth_deadline: Duration = Duration::from_secs(3);
        /// Different wrong tokens from one address in a minute, and repetitions of one, before the answer is 429; right tokens are let in all the same. 0 for any number.
        auth_failures_per_minute: u32 = 10;
        /// Origins whose pages may connect beside the server's own, such as `https://app.example`. Repeatable.
        allowed_origins: Vec<String> = Vec::new();
        /// Names that the server is called by in the header Host, beside those in `listen` and `admin_listen`. Repeatable.
        allowed_hosts: Vec<String> = Vec::new();
    }
    "Work" {
        /// Threads that call engines [default: the number of cores, at least 4, and beyond that one per 32 MiB of memory].
        workers: Option<usize> = None;
        /// Deflate messages for clients that ask for it, as every browser does; for networks slower than 250 MB/s.
        permessage_deflate: bool = false;
        /// How hard batches are compressed for clients that ask for it: 1 is the fastest.
        compression_level: u8 = StreamingConfig::default().compression_level;
        /// How long streams may run on after SIGTERM or SIGINT, in seconds.
        drain_seconds: u64 = 30;
        /// How the log is written to standard error; RUST_LOG says what of it.
        log_format: LogFormat = LogFormat::Text;
    }
    "Streams" {
        /// Rows per batch where a client asks for none.
        batch_size: u32 = StreamingConfig::default().batch_size;
        /// Most rows per batch that a client may ask for.
        batch_size_max: u32 = StreamingConfig::default().batch_size_max;
        /// A batch closes with the row that reaches this.
        batch_bytes: Bytes = Bytes(StreamingConfig::default().batch_bytes as u64);
        /// Largest `max_batch_bytes` that a client may ask for.
        batch_bytes_max: Bytes = Bytes(StreamingConfig::default().batch_bytes_max as u64);
        /// Largest encoded row.
        row_bytes_max: Bytes = Bytes(StreamingConfig::default().row_bytes_max as u64);
        /// The first batch leaves this long after execution began if it holds a row by then.
        first_batch_interval: Duration = StreamingConfig::default().first_batch_interval;
        /// Later batches leave this long after the one before, if they hold a row.
        batch_interval: Duration = StreamingConfig::default().batch_interval;
        /// Time between two `query_progress` where the client asks for none.
        progress_interval: Duration = StreamingConfig::default().progress_interval;
        /// Longest time for which a query may be at work, in its engine or waiting for a worker; time waiting for its client does not count.
        max_query_duration: Duration = StreamingConfig::default().max_query_duration;
        /// Longest time for one stream, waiting for its client included.
        max_stream_duration: OrOff<Duration> = OrOff(StreamingConfig::default().max_stream_duration);
        /// How long a client may take nothing of what waits for it.
        stall_limit: Duration = StreamingConfig::default().stall_limit;
        /// The window in batches where a client asks for one without saying how many.
        window_batches: u32 = StreamingConfig::default().window_batches;
        /// Largest window in batches.
        window_batches_max: u32 = StreamingConfig::default().window_batches_max;
        /// The window in bytes where a client asks for one without saying how many.
        window_bytes: Bytes = Bytes(StreamingConfig::default().window_bytes);
        /// Largest window in bytes.
        window_bytes_max: Bytes = Bytes(StreamingConfig::default().window_bytes_max);
        /// How long a resumable stream is held for a client that has lost its connection.
        retention: Duration = StreamingConfig::default().retention;
        /// What the engine may make for a resumable stream while no connection has it.
        retention_bytes: Bytes = Bytes(StreamingConfig::default().retention_bytes);
        /// Streams held for nobody but in case somebody comes back. Fewer on hosts with less than 2 GiB of memory.
        retained_streams_max: usize = StreamingConfig::default().retained_streams_max;
    }
    "Memory" {
        /// What is held in all: batches in channels, in windows and retained, and answers on their way. Less on hosts with less than 2 GiB of
        /// memory, as are the next two.
        held_bytes_max: Bytes = Bytes(StreamingConfig::default().held_bytes_max as u64);
        /// The same for one connection.
        connection_held_bytes_max: Bytes = Bytes(StreamingConfig::default().connection_held_bytes_max as u64);
        /// What waits between workers and writers, in all streams together.
        buffer_bytes: Bytes = Bytes(StreamingConfig::default().buffer_bytes as u64);
        /// Largest share of that for one stream.
        stream_buffer_bytes_max: Bytes = Bytes(StreamingConfig::default().stream_buffer_bytes_max as u64);
        /// Batches that wait between worker and writer, for each stream.
        channel_buffer_size: usize = StreamingConfig::default().channel_buffer_size;
    }
    "Limits" {
        /// Connections at once.
        connections_max: usize = 1_024;
        /// Connections of one address at once; `off` behind a proxy.
        connections_per_address_max: OrOff<usize> = OrOff(Limits::default().connections_per_address_max);
        /// New connections of one address, a second and at once; `off` behind a proxy.
        connection_rate_per_address: OrOff<RateLimit> = OrOff(Limits::default().connection_rate_per_address.map(RateLimit));
        /// Connections of one principal at once.
        connections_per_principal_max: usize = Limits::default().connections_per_principal_max;
        /// Running streams of one connection.
        streams_per_connection_max: usize = 128;
        /// Running streams of one principal.
        streams_per_principal_max: usize = Limits::default().streams_per_principal_max;
        /// Running streams of the server.
        streams_max: usize = Limits::default().streams_max;
        /// Queries that may wait for their first turn on a worker.
        queries_waiting_max: usize = StreamingConfig::default().queries_waiting_max;
        /// Largest message from a client, at most 1MiB.
        message_bytes_max: Bytes = Bytes(64 << 10);
        /// Longest text of a query; SQLite has a bound of its own.
        query_bytes_max: Bytes = Bytes(64 << 10);
        /// Frames of one message.
        fragments_max: usize = Limits::default().fragments_max;
        /// Time from the first frame of a message to its last byte.
        assembly_timeout: Duration = Limits::default().assembly_timeout;
        /// Time for TLS and the head of a request.
        head_deadline: Duration = Limits::default().head_deadline;
        /// How long a connection may be without a stream and without a message.
        idle_timeout: OrOff<Duration> = OrOff(Limits::default().idle_timeout);
        /// Messages of a connection, a second and at once.
        message_rate: OrOff<RateLimit> = OrOff(Limits::default().message_rate.map(RateLimit));
        /// Queries of a connection that do not come to their end, a second and at once.
        query_rate: OrOff<RateLimit> = OrOff(Limits::default().query_rate.map(RateLimit));
        /// Pings and pongs of a connection, a second and at once.
        ping_rate: OrOff<RateLimit> = OrOff(Limits::default().ping_rate.map(RateLimit));
        /// A peer that has been silent for so long is pinged.
        heartbeat_interval: Duration = Duration::from_secs(15);
        /// A peer that has neither said nor taken anything for so long is gone.
        heartbeat_dead_after: Duration = Duration::from_secs(45);
    }
}

/// What flags and the environment say, and where the file is.
#[derive(Debug, Clone)]
pub(super) struct Arguments {
    layers: Layers,
    config: Option<PathBuf>,
}

impl FromArgMatches for Arguments {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self {
            layers: Layers::of_matches(matches, ENTRIES),
            config: matches.get_one::<PathBuf>(CONFIG).cloned(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl clap::Args for Arguments {
    fn augment_args(command: Command) -> Command {
        let config = clap::Arg::new(CONFIG)
            .long(CONFIG)
            .env("ROWSTREAM_CONFIG")
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .help("A file with settings; see --print-default-config");
        layers::augment(command.arg(config), ENTRIES)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// Settings as they are in force, and where each comes from.
#[derive(Debug)]
pub(super) struct Explained {
    pub(super) settings: Settings,
    shown: Vec<Shown>,
}

impl Explained {
    /// Every setting with its value and its source, a line each.
    pub(super) fn text(&self) -> String {
        let lines = self.shown.iter().map(|Shown { name, value, source }| match value {
            Some(value) => format!("{name} = {value}  # {source}\n"),
            None => format!("# {name}: none  # {source}\n"),
        });
        lines.collect()
    }

    /// The budgets that are lower than their defaults because the host has little memory, in one line; `None` where none is.
    pub(super) fn scaled(&self) -> Option<String> {
        let mut memory = None;
        let budgets: Vec<String> = self
            .shown
            .iter()
            .filter_map(|Shown { name, value, source }| match source {
                Source::Host { memory_bytes } => {
                    memory = Some(memory_bytes >> 20);
                    Some(format!(
                        "{name} {}",
                        value.as_deref().unwrap_or_default().replace('"', "")
                    ))
                }
                Source::Flag(_) | Source::Environment(_) | Source::File(_) | Source::Default => None,
            })
            .collect();
        memory.map(|mib| format!("scaled to {mib} MiB of memory: {}", budgets.join(", ")))
    }

    /// Of these settings, those that a source sets, each as `name = value (source)`.
    pub(super) fn set(&self, names: &[&str]) -> Vec<String> {
        self.shown
            .iter()
            .filter(|shown| names.contains(&shown.name))
            .filter_map(|Shown { name, value, source }| match source {
                Source::Flag(_) | Source::Environment(_) | Source::File(_) => {
                    Some(format!("{name} = {} ({source})", value.as_deref().unwrap_or("none")))
                }
                Source::Default | Source::Host { .. } => None,
            })
            .collect()
    }
}

impl Arguments {
    /// Reads everything; budgets of memory that no source sets fit `host`. Blocks on the file.
    ///
    /// # Errors
    /// All that is wrong, each with its source.
    pub(super) fn explained(self, host: &HostLimits) -> Result<Explained, Vec<String>> {
        let Self { mut layers, config } = self;
        if let Some(path) = config {
            layers.add_file(&path, ENTRIES)?;
        }
        let (mut settings, mut shown, mut problems) = read(&layers);
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())));
        problems.extend(environment::problems(variables, ENTRIES));
        if settings.tls_certificate.is_some() != settings.tls_key.is_some() {
            problems.push("tls_certificate and tls_key belong together".to_owned());
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        budgets::scale(&mut settings, &mut shown, host);
        Ok(Explained { settings, shown })
    }
}

#[cfg(test)]
impl Settings {
    /// Nobody has said anything.
    pub(super) fn of_defaults() -> Self {
        read(&Layers::default()).0
    }
}

/// The file with every setting at its default, as comments.
pub(super) fn default_file() -> String {
    layers::default_file(ENTRIES)
}

#[cfg(test)]
mod tests {
    use clap::Args as _;

    use super::*;

    fn arguments(flags: &[&str]) -> Arguments {
        let command = Arguments::augment_args(Command::new("test").no_binary_name(true));
        let matches = command.try_get_matches_from(flags).expect("flags that are known");
        Arguments::from_arg_matches(&matches).expect("everything is text")
    }

    #[test]
    fn every_default_is_one_that_the_file_could_have_said() {
        let said: String = default_file()
            .lines()
            .filter_map(|line| line.strip_prefix('#'))
            .filter(|line| !line.starts_with(' ') && !line.ends_with("= # none"))
            .map(|line| format!("{line}\n"))
            .collect();
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("rowstream.toml");
        std::fs::write(&path, &said).expect("a file");
        let path = path.to_str().expect("a path in ASCII");
        let explained = |flags: &[&str]| {
            let explained = arguments(flags).explained(&HostLimits::default());
            explained.expect("nothing is wrong").text()
        };
        let without_source = |text: String| -> Vec<String> {
            text.lines()
                .map(|line| line.split("  # ").next().unwrap_or_default().to_owned())
                .collect()
        };
        let (plain, by_file) = (explained(&[]), explained(&["--config", path]));
        assert!(by_file.matches(path).count() > 50, "{by_file}");
        assert_eq!(without_source(plain), without_source(by_file));
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        let problems = arguments(&["--batch-size=many", "--stall-limit", "60", "--idle-timeout", "never"])
            .explained(&HostLimits::default());
        let problems = problems.expect_err("three are wrong");
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(problems[0].starts_with("--batch-size: "), "{problems:?}");
    }

    #[test]
    fn settings_are_told_apart_by_their_names() {
        let mut names: Vec<_> = ENTRIES.iter().map(|entry| entry.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ENTRIES.len());
        assert!(ENTRIES.iter().all(|entry| entry.help().ends_with(['.', ']'])));
    }
}
