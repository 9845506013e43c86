//! The wire protocol: message types, bytes in under limits, bytes out into a caller's buffer.
//!
//! Must not know sockets, threads, channels, the clock or engines.
//!
#![doc = include_str!("spec.md")]

mod close;
mod decode;
mod encode;
mod message;
#[cfg(test)]
mod spec_test;

pub use close::CloseCode;
pub(crate) use decode::{decode_client_message, decode_server_message};
pub(crate) use encode::{BatchEnvelope, encode_client_message, encode_message};
pub use message::{
    BatchMessage, CancelQuery, CancelledMessage, ClientMessage, ColumnsMessage, CompletedMessage, DataFormat,
    ErrorMessage, Phase, PongMessage, ProgressDetail, ProgressMessage, QueuedMessage, ServerMessage, StartedMessage,
    StreamQuery, StreamRef, TotalKind, TruncateReason,
};
