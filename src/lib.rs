//! rowstream.
#[cfg(feature = "cli")]
#[doc(hidden)] // the program; not a library to build on
pub mod cli;
pub mod client;
mod clock;
mod connection;
pub mod engine;
mod error;
mod id;
pub mod protocol;
mod rows;
mod scheduler;
mod server;
mod stream;
mod thread;
pub mod transport;

pub use client::{Client, ClientError};
pub use id::StreamId as QueryStreamId;
pub use protocol::ServerMessage as StreamingMessage;

pub use engine::memory::{Gate, MemoryEngine, Script};
pub use server::{Server, ServerHandle, StreamReport};
pub use stream::{QueryStreamStatus, StreamingConfig};
