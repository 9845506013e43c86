//! Streams the results of SQL queries over WebSocket: batches as they are produced, honest progress, cancellation that really
//! stops the engine, and memory that does not grow with the result.
//!
//! A server, an embeddable library and a program, on plain threads: there is no async runtime in the dependency tree.
//!
//! - Serve databases: [`Server`], with [`SqliteEngine`] or an [engine of your own](engine).
//! - Query a server: [`Client`].
//! - Test what blocks and what wakes it: [`MemoryEngine`], [`Gate`].
//! - Speak the protocol from anywhere: [`protocol`] has the specification.
//!
//! # A stream's life
//! A client sends `stream_query`. The **reader** thread of its connection decodes it and hands it to the scheduler, which gives
//! it an id and puts it into the run queue. A **worker** takes it, has the engine prepare the query, and announces the columns
//! with `query_started`. From then on each turn of a worker lets the engine's cursor fill one batch: rows are encoded as they
//! are read, straight into the message that will be sent. The batch goes into the stream's bounded channel, and the stream back
//! into the queue, behind those that wait. The **writer** thread of the connection takes batches out of the channels of its
//! streams, in turn, and puts several of them on the wire in one write.
//!
//! When the client is slow, the socket fills up, then the channel, and the stream is *parked*: its cursor sleeps inside it and
//! no thread waits for it. The writer wakes it once half of its room is free. With a *window*, what was sent counts until the
//! client acknowledges it, and the acknowledgement wakes the stream. When the client cancels, a flag is set that the engine reads
//! while it works; a stream at rest is closed at once by the **closer**, which also has it give way where somebody waits for what its
//! engine holds for it. Whatever happens, exactly one message ends the stream:
//! `query_completed`, `query_cancelled`, or `error`. The **timekeeper** sees to deadlines and progress, pings peers that are
//! silent, and ends the wait for those that are gone.
//!
//! A *resumable* stream outlives its connection. The batches that it has sent are retained until they are acknowledged; when the
//! connection is lost it is *detached*, goes on up to its retention, and waits for a client that shows its token. Then it is
//! attached to the new connection, sends again what was not processed, and goes on.
//!
//! # Threads
//! All are named `rowstream-…`, owned and joined: a listener per address, a reader and a writer per connection, a fixed number of workers,
//! one closer, one timekeeper. The operators' address has a listener of its own, and a reader for each that asks.
//!
//! # The house
//! | module | owns | may name |
//! |---|---|---|
//! | `rows` | columns, values, and the encoder that cursors write into | – |
//! | `id`, `error` | names of streams; the table of error codes | `error`: `id` |
//! | `clock`, `thread`, `sync` | the only look at the time; the only start of a thread; the locks that tests can schedule | – |
//! | `rate` | how often something may happen, who counts as one, how often it is worth saying | – |
//! | `metrics` | what is counted: atomics that every part adds to, and nobody but the server reads | `error` |
//! | [`protocol`] | messages, bytes in and bytes out | `rows error id` |
//! | [`transport`] | sockets, memory pairs, TLS, WebSocket frames | `clock error thread` |
//! | [`engine`] | the traits, the scripted engine, SQLite | `rows error clock sync` |
//! | [`auth`] | who a client is and may be: tokens, rights, whose pages may connect, how often a wrong token may be shown | `id rate sync` |
//! | `stream` | life cycle, window, delivery, progress arithmetic, the registry of streams | `rows error id rate sync` |
//! | `scheduler` | run queue, fairness, workers, what may be held, timekeeper | `auth rows clock engine error id metrics protocol stream sync thread` |
//! | `connection` | reader, writer, outbox, session, heartbeat, the HTTP head | `auth rows clock error id metrics protocol rate scheduler stream sync thread transport` |
//! | [`client`] | the synchronous client | `auth rows clock error id protocol thread transport` |
//! | `server` | listener, connections, reports to operators, start and end of everything | `auth clock connection engine error id metrics rate scheduler stream thread transport` |
//! | `cli` | flags, output formats, signals, exit codes | `auth rows client engine error server thread` |
//! | `fuzzing` | what must hold of whatever a peer sends, in the tests' and the fuzzers' builds only | `auth clock client connection deflate error id protocol rows transport` |
//!
//! A test reads the sources and holds them to this table.
//!
//! # Memory
//! One budget, [`StreamingConfig::held_bytes_max`], for all that is held: batches in channels, in windows and retained, and messages
//! on their way. Whatever takes of it gives back when it is dropped; [`StreamingRegistry::bytes_held`] is the gauge. A stream that
//! holds nothing may always make one batch, so that what is held stays below the budget plus one batch for each stream, and nothing
//! can come to a stop. Above four fifths of it, streams that no connection has are given up, the oldest of whoever has the most of them first. Of streams without a
//! window, batches wait in channels only up to [`StreamingConfig::buffer_bytes`] in all, in even shares.
//!
//! To that come an eighth of it for messages that are not read, answers and an application's, and per connection 16 KiB of them, two
//! threads and a read buffer of 4 KiB; per running SQLite query a connection with its page cache (64 KiB unless set otherwise).
//! [`server::MemoryBound`] is all of it in one formula, which `rowstream serve` tells at its start. The defaults are made for a host with 2 GiB
//! of memory and more; [`server::HostLimits::part_of`] computes what fits a smaller one.
//!
//! What is freed goes back to the application's allocator, and the library leaves to the application which one that is, and when it gives
//! memory back to the system. The program runs on the C library's allocator, which SQLite and zstd use too, limits the number of its arenas,
//! and has it give back what is free after a load (`malloc_trim`).
//!
//! # Peers
//! A peer costs its own connection and no other's: [`server::Limits`] has what it may do, and what becomes of one that does more. What takes
//! too long is ended by the timekeeper, which shuts the socket down: it needs neither the peer nor a thread that waits for it. What
//! comes too fast is counted before it is understood. Before a server starts it is measured by its [host](server::HostLimits).
//!
//! # Logs
//! By the `log` crate. `error`: the operator must act. `warn`: misuse, or a limit was hit. `info`: start and stop, and, once
//! for each stream, that it stands still and what for. `debug`: the life of connections and streams, with ids. `trace`: frames.
//!
//! What an event is about is in its key-values: `connection` and `peer`; `stream`, and once each when it is accepted, started and
//! ended, `request_id`, `principal`, `engine`, `traceparent`, `rows`, `bytes`, `ms`, `status`, `code`, `reason`. Queries are logged at
//! `debug` only, their first KiB; values of parameters and tokens never. What peers have said is in values as it came: a logger has
//! to escape it, as that of `rowstream serve` does.

pub mod auth;
#[cfg(feature = "cli")]
#[doc(hidden)] // the program; not a library to build on
pub mod cli;
pub mod client;
mod clock;
mod connection;
mod deflate;
pub mod engine;
mod error;
#[cfg(any(test, fuzzing))]
#[doc(hidden)] // the fuzzers' door; in no build but theirs
pub mod fuzzing;
mod id;
mod metrics;
pub mod protocol;
mod rate;
pub mod rows;
mod scheduler;
pub mod server;
mod stream;
mod sync;
mod thread;
pub mod transport;

pub use client::{Client, ClientError};
pub use engine::memory::{Gate, MemoryEngine, Script};
pub use engine::sqlite::SqliteEngine;
pub use engine::{CancelToken, Cursor, Engine, EngineError, EngineErrorKind, QuerySpec, Step};
pub use error::{CancelReason, ErrorCode};
pub use id::{RequestId, StreamId as QueryStreamId};
pub use protocol::ServerMessage as StreamingMessage;
pub use server::{QueryStreamer, Server, ServerHandle, StreamReport, StreamingRegistry};
pub use stream::{QueryStreamStatus, StreamingConfig};

/// Compiles the README's Rust.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
