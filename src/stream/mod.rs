//! One query's result on its way: its configuration, life cycle, progress arithmetic, and the registry of live streams.
//!
//! Pure but for the registry. Must not know clocks, sockets, engines or JSON.

mod progress;
mod registry;
mod state;

use std::time::Duration;

pub(crate) use progress::{ProgressMeter, Sample};
pub(crate) use registry::Registry;
pub use registry::RegistryStatistics;
pub use state::QueryStreamStatus;
pub(crate) use state::Turn;

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
    /// Longest time for one query, from its acceptance. Defaults to 5 minutes.
    pub max_query_duration: Duration,
    /// Batches that wait between worker and writer, per stream, at the most. Defaults to 32.
    pub channel_buffer_size: usize,
    /// Bytes that wait between workers and writers, in all streams together; each running stream gets an even share, though
    /// always room for one batch. Defaults to 64 MiB.
    pub buffer_bytes: usize,
    /// Largest share of [`buffer_bytes`](Self::buffer_bytes) for one stream. Defaults to 1 MiB.
    pub stream_buffer_bytes_max: usize,
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
            channel_buffer_size: 32,
            buffer_bytes: 64 * 1024 * 1024,
            stream_buffer_bytes_max: 1024 * 1024,
            detailed_progress: true,
        }
    }
}
