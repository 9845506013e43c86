//! The wire protocol: message types, bytes in under limits, bytes out into a caller's buffer.
//!
//! Must not know sockets, threads, channels, the clock or engines.
//!
#![doc = include_str!("spec.md")]

mod close;
mod decode;
mod encode;
mod integrity;
mod message;
#[cfg(test)]
mod spec_test;

pub use close::CloseCode;
pub(crate) use decode::{decode_client_message, decode_server_message, quoted};
pub(crate) use encode::{BatchEnvelope, encode_client_message, encode_message, replayed};
pub(crate) use integrity::{RowsDigest, checksum};
pub use message::{
    Ack, BatchMessage, CancelQuery, CancelledMessage, ClientMessage, ColumnsMessage, CompletedMessage, DataFormat,
    ErrorMessage, ListMessage, ListQueries, ListScope, Phase, PongMessage, ProgressDetail, ProgressMessage,
    QueuedMessage, ResumeQuery, ResumedMessage, RetentionMessage, ServerMessage, SetPriority, StartedMessage,
    StatusMessage, StreamNotice, StreamQuery, StreamRef, StreamState, TotalKind, TruncateReason, WindowMessage,
    WindowRequest,
};
