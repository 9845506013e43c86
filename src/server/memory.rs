//! How much memory a server may take, before it takes any.

use std::fmt;

use crate::deflate::{DEFLATER_BYTES, DEFLATERS_KEPT_MAX, INFLATER_BYTES};
use crate::engine::{Engine, over_pools};
use crate::scheduler::{MESSAGE_BYTES_ALWAYS, message_bytes_max};
use crate::stream::StreamingConfig;
use crate::thread::STACK_BYTES_WORKER;

/// The program, its tables and the buffers kept for reuse.
const PROGRAM_BYTES: usize = 24 * 1024 * 1024;

/// A connection's threads, as far as their stacks are touched, its read buffer and its state, measured over a thousand of them: 30
/// KiB, and as much again for what the system keeps of a socket.
const CONNECTION_BYTES: usize = 64 * 1024;

/// A stream's state beside its cursor and its query; all that is left of one that is held for its client, beside its batches.
const STREAM_BYTES: usize = 8 * 1024;

/// Batches that the columns of a stream in Arrow may take between two batches: their buffers are kept, and grow by doubling. And one for
/// the first rows, which are held back until the columns have types.
const COLUMN_BATCHES: usize = if cfg!(feature = "arrow") { 3 } else { 0 };

/// What memory a server may take, by what it is asked to do.
///
/// `fixed + streams × per_stream + connections × per_connection`, in bytes. `fixed` is the program, the workers' stacks and
/// [`held_bytes_max`](StreamingConfig::held_bytes_max), and an eighth of that for messages; a stream adds its [cursor](crate::Engine::cursor_bytes) and the one batch
/// that it may make where the budget is used up, of the server's [`batch_bytes`](StreamingConfig::batch_bytes), in Arrow with the columns
/// that it is made of, and its query, which comes in one message; a connection its threads, its buffer, 16 KiB of messages to it and one incoming message. What queries themselves need, to sort or to group, is
/// in `fixed` for engines that [bound](crate::Engine::memory_bytes_max) it, as SQLite does, cursors and all; of others it is not in it. Not
/// in it either: larger batches, for clients that ask for them or have rows of that size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryBound {
    /// Whatever happens.
    pub fixed: usize,
    /// For each running stream.
    pub per_stream: usize,
    /// For each connection.
    pub per_connection: usize,
}

/// TLS of one connection: its state and two read buffers, 64 KiB of a handshake's messages or a record as it comes in, 64 KiB of
/// records going out and the same once more on their way to the socket. An idle one has the state and the read buffers only.
const TLS_BYTES: usize = 240 * 1024;

/// As much as there is, where it would be more.
fn sum(terms: &[usize]) -> usize {
    terms.iter().fold(0, |sum, term| sum.saturating_add(*term))
}

/// What engines take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct EngineMemory {
    /// All that bound themselves: those of one pool share their bound.
    pub(super) bounded: usize,
    /// The largest cursor of the others.
    pub(super) cursor: usize,
}

impl EngineMemory {
    pub(super) fn of<'a>(engines: impl Iterator<Item = &'a dyn Engine> + Clone) -> Self {
        let others = engines.clone().filter(|engine| engine.memory_bytes_max().is_none());
        Self {
            bounded: over_pools(engines, Engine::memory_bytes_max).unwrap_or(0),
            cursor: others.map(Engine::cursor_bytes).max().unwrap_or(0),
        }
    }
}

impl MemoryBound {
    pub(super) fn new(
        config: &StreamingConfig,
        n_workers: usize,
        engines: EngineMemory,
        incoming_bytes_max: usize,
    ) -> Self {
        let fixed = [
            PROGRAM_BYTES,
            config.held_bytes_max,
            message_bytes_max(config.held_bytes_max),
            engines.bounded,
            n_workers.saturating_mul(STACK_BYTES_WORKER),
            config.retained_streams_max.saturating_mul(STREAM_BYTES),
        ];
        // A query and its parameters come in one message.
        let per_stream = [
            STREAM_BYTES,
            incoming_bytes_max,
            engines.cursor,
            config.batch_bytes.saturating_mul(1 + COLUMN_BATCHES),
        ];
        Self {
            fixed: sum(&fixed),
            per_stream: sum(&per_stream),
            per_connection: sum(&[CONNECTION_BYTES, MESSAGE_BYTES_ALWAYS, incoming_bytes_max]),
        }
    }

    /// What deflating messages adds: a deflater for each worker and for those kept, for each stream the deflated form of its batch,
    /// and for each connection a deflater and an inflater, though it holds them only while a message of its own is in work.
    pub(super) fn add_deflate(&mut self, config: &StreamingConfig, n_workers: usize) {
        let deflaters = n_workers.saturating_add(DEFLATERS_KEPT_MAX);
        self.fixed = sum(&[self.fixed, deflaters.saturating_mul(DEFLATER_BYTES)]);
        self.per_stream = sum(&[self.per_stream, config.batch_bytes]);
        self.per_connection = sum(&[self.per_connection, DEFLATER_BYTES, INFLATER_BYTES]);
    }

    /// What TLS adds to each connection, at its busiest.
    pub(super) fn add_tls(&mut self) {
        self.per_connection = sum(&[self.per_connection, TLS_BYTES]);
    }

    /// Bytes for so many connections and running streams.
    #[must_use]
    pub fn bytes(&self, connections: usize, streams: usize) -> usize {
        let streams = self.per_stream.saturating_mul(streams);
        let connections = self.per_connection.saturating_mul(connections);
        self.fixed.saturating_add(streams).saturating_add(connections)
    }
}

/// The formula with its numbers, in KiB.
impl fmt::Display for MemoryBound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kib = |bytes: usize| bytes.div_ceil(1024);
        write!(
            f,
            "{} KiB + streams x {} KiB + connections x {} KiB",
            kib(self.fixed),
            kib(self.per_stream),
            kib(self.per_connection)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{CancelToken, Cursor, EngineError, QuerySpec};

    #[test]
    fn the_bound_is_the_sum_that_it_tells() {
        let config = StreamingConfig {
            held_bytes_max: 100 << 20,
            batch_bytes: 256 << 10,
            retained_streams_max: 128,
            ..StreamingConfig::default()
        };
        let engines = EngineMemory {
            bounded: 0,
            cursor: 128 << 10,
        };
        let bound = MemoryBound::new(&config, 4, engines, 64 << 10);
        let per_stream = 136 + 64 + 256 * (1 + COLUMN_BATCHES);
        assert_eq!(
            bound.to_string(),
            format!("148992 KiB + streams x {per_stream} KiB + connections x 144 KiB")
        );
        assert_eq!(bound.bytes(0, 0), 148_992 << 10);
        assert_eq!(bound.bytes(10, 1_000), (148_992 + 1_000 * per_stream + 10 * 144) << 10);
        assert_eq!(bound.bytes(usize::MAX, 1), usize::MAX, "no overflow");
        let mut secure = bound;
        secure.add_tls();
        assert_eq!(secure.bytes(2, 0), bound.bytes(2, 0) + (480 << 10));
        let mut deflating = bound;
        deflating.add_deflate(&config, 4);
        assert_eq!(
            deflating.to_string(),
            format!(
                "152160 KiB + streams x {} KiB + connections x 456 KiB",
                per_stream + 256
            )
        );
    }

    #[test]
    fn engines_that_bound_themselves_are_counted_once_in_each_pool_and_the_others_by_stream() {
        struct Bounded(Option<usize>, usize, &'static str);
        impl Engine for Bounded {
            fn open(&self, _: &QuerySpec, _: &CancelToken) -> Result<Box<dyn Cursor>, EngineError> {
                Err(EngineError::cancelled())
            }

            fn cursor_bytes(&self) -> usize {
                self.1
            }

            fn memory_bytes_max(&self) -> Option<usize> {
                self.0
            }

            fn memory_pool(&self) -> &str {
                self.2
            }
        }
        let check = |engines: &[Bounded], bounded: usize, cursor: usize| {
            let memory = EngineMemory::of(engines.iter().map(|engine| engine as &dyn Engine));
            assert_eq!(memory, EngineMemory { bounded, cursor });
        };
        let one_pool = [
            Bounded(Some(100), 7, "a"),
            Bounded(None, 5, "a"),
            Bounded(Some(200), 9, "a"),
            Bounded(None, 3, "b"),
        ];
        check(&one_pool, 200, 5);
        check(&[Bounded(Some(100), 7, "a"), Bounded(Some(200), 9, "b")], 300, 0);
        check(
            &[Bounded(Some(usize::MAX), 0, "a"), Bounded(Some(1), 0, "b")],
            usize::MAX,
            0,
        );
        check(&[], 0, 0);
    }

    #[test]
    fn engines_share_by_their_type_unless_they_say_otherwise() {
        let memory = crate::MemoryEngine::builder().build();
        let engines: [&dyn Engine; 2] = [&memory, &memory.clone()];
        let pools = engines.map(Engine::memory_pool);
        assert!(
            pools[0] == pools[1] && pools[0].ends_with("::MemoryEngine"),
            "{pools:?}"
        );
    }
}
