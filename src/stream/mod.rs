//! One query's result on its way: its configuration, life cycle, flow control, delivery and progress arithmetic, and the registry
//! of streams.
//!
//! Pure but for the registry. Must not know clocks, sockets, engines or JSON.

mod delivery;
#[cfg(test)]
mod delivery_test;
mod pace;
mod progress;
#[cfg(test)]
mod progress_test;
#[cfg(test)]
mod progress_world_test;
mod query_time;
mod registry;
mod retention;
mod state;
mod window;

use std::time::Duration;

pub(crate) use delivery::{AckError, AttachError, Attached, Delivery, Generation, Gone, Item, Taken};
pub(crate) use pace::Reach;
pub(crate) use progress::{ProgressMeter, Reading, Sample};
pub(crate) use query_time::QueryTime;
pub(crate) use registry::Registry;
pub use registry::RegistryStatistics;
pub(crate) use retention::Owner;
pub use state::QueryStreamStatus;
pub(crate) use state::Turn;
pub(crate) use window::{BeyondSent, Made, Window, WindowLimits};

/// How results are cut into batches and how long queries may take; the server's defaults for what a client leaves open.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamingConfig {
    /// Rows per batch where the client asks for none. Defaults to 100.
    pub batch_size: u32,
    /// Largest number of rows per batch that a client may ask for. Defaults to 10,000.
    pub batch_size_max: u32,
    /// A batch closes with the row that reaches this many bytes, where the client asks for less or nothing. Defaults to 256 KiB.
    pub batch_bytes: usize,
    /// Largest `max_batch_bytes` that a client may ask for. Defaults to 1 MiB.
    pub batch_bytes_max: usize,
    /// Largest encoded row. Defaults to 2 MiB.
    pub row_bytes_max: usize,
    /// The first batch leaves this long after execution began if it holds a row by then. Defaults to 25 ms.
    pub first_batch_interval: Duration,
    /// Later batches leave this long after the one before, if they hold a row. Defaults to 100 ms.
    pub batch_interval: Duration,
    /// Time between two `query_progress` where the client asks for none. Defaults to 500 ms.
    pub progress_interval: Duration,
    /// Longest time for which one query may be at work: in its engine, and waiting for a worker. Time in which its stream waits for
    /// its client does not count: a download may take as long as it likes, see [`stall_limit`](Self::stall_limit). For describing a
    /// query, 30 seconds where this is more. Defaults to 5 minutes.
    pub max_query_duration: Duration,
    /// Longest time for one stream from the acceptance of its query until its engine has made all of it, whatever it waits for.
    /// Defaults to `None`: no limit.
    pub max_stream_duration: Option<Duration>,
    /// Batches that wait between worker and writer, per stream, at the most. Defaults to 32.
    pub channel_buffer_size: usize,
    /// Bytes that wait between workers and writers, in all streams together; each running stream gets an even share, though
    /// always room for one batch. Defaults to 64 MiB.
    pub buffer_bytes: usize,
    /// Largest share of [`buffer_bytes`](Self::buffer_bytes) for one stream. Defaults to 1 MiB.
    pub stream_buffer_bytes_max: usize,
    /// Bytes held in all: batches in channels, in windows and retained for resumption, and answers on their way. Streams stand
    /// still when it is reached, each with at most one batch beyond; above four fifths, streams that no connection has are given
    /// up, of whoever has the most of them, the oldest first. Messages may take an eighth of it more, and 16 KiB for each connection.
    /// Defaults to 256 MiB.
    pub held_bytes_max: usize,
    /// Bytes held for one connection. Defaults to 64 MiB.
    pub connection_held_bytes_max: usize,
    /// Largest window in batches that a client may ask for. Defaults to 1,024.
    pub window_batches_max: u32,
    /// Largest window in bytes that a client may ask for. Defaults to 16 MiB.
    pub window_bytes_max: u64,
    /// The window where a client asks for one, or for a resumable stream, without saying how many batches. Defaults to 64.
    pub window_batches: u32,
    /// The same for bytes. Defaults to 2 MiB.
    pub window_bytes: u64,
    /// How long a resumable stream is held for a client that has lost its connection, and after its end in case the end was lost.
    /// Defaults to 60 seconds.
    pub retention: Duration,
    /// Bytes of batches that the engine may make for a resumable stream while no connection has it. Defaults to 8 MiB.
    pub retention_bytes: u64,
    /// Streams held for nobody but in case somebody comes back; of more, the oldest of whoever has the most are given up: a
    /// principal or, where nobody is asked, a connection. Defaults to 4,096.
    pub retained_streams_max: usize,
    /// How long a client may take nothing and acknowledge nothing while something waits for it: then a resumable stream is
    /// detached with `SLOW_CONSUMER`, any other cancelled with `slow_client`. A stream that stands still keeps its engine's cursor, and
    /// with it what that holds of a database, such as a lock or a snapshot: for so long, and a resumable one for its
    /// [`retention`](Self::retention) more, unless somebody [waits for it](crate::Engine::contention). Defaults to 60 seconds.
    pub stall_limit: Duration,
    /// Queries that may wait for their first turn on a worker; those beyond are refused with `QUEUE_FULL`. Defaults to 4,096.
    pub queries_waiting_max: usize,
    /// How hard batches are compressed for clients that ask for it: 1 to 9 for `deflate-raw` and `gzip`, 1 to 19 for `zstd`, a
    /// level beyond being the highest; `lz4` has none. Defaults to 1, which is the fastest.
    pub compression_level: u8,
    /// Whether `query_progress` carries the fields beyond the four fixed ones. Defaults to true.
    pub detailed_progress: bool,
}

impl Default for StreamingConfig {
    fn default() -> Self {
        Self {
            batch_size: 100,
            batch_size_max: 10_000,
            batch_bytes: 256 * 1024,
            batch_bytes_max: 1024 * 1024,
            row_bytes_max: 2 * 1024 * 1024,
            first_batch_interval: Duration::from_millis(25),
            batch_interval: Duration::from_millis(100),
            progress_interval: Duration::from_millis(500),
            max_query_duration: Duration::from_secs(300),
            max_stream_duration: None,
            channel_buffer_size: 32,
            buffer_bytes: 64 * 1024 * 1024,
            stream_buffer_bytes_max: 1024 * 1024,
            held_bytes_max: 256 * 1024 * 1024,
            connection_held_bytes_max: 64 * 1024 * 1024,
            window_batches_max: 1_024,
            window_bytes_max: 16 * 1024 * 1024,
            window_batches: 64,
            window_bytes: 2 * 1024 * 1024,
            retention: Duration::from_secs(60),
            retention_bytes: 8 * 1024 * 1024,
            retained_streams_max: 4_096,
            stall_limit: Duration::from_secs(60),
            queries_waiting_max: 4_096,
            compression_level: 1,
            detailed_progress: true,
        }
    }
}
