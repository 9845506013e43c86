//! The wire protocol: message types, bytes in under limits, bytes out into a caller's buffer.
//!
//! Must not know sockets, threads, channels, the clock or engines.
//!
#![doc = include_str!("spec.md")]

mod binary;
mod close;
mod compress;
mod decode;
mod encode;
mod integrity;
mod message;
mod param;
mod request;
#[cfg(test)]
mod schema_check_test;
#[cfg(test)]
mod schema_client_test;
#[cfg(test)]
mod schema_test;
#[cfg(test)]
mod spec_test;
mod strict;
mod trace;

pub(crate) use binary::{BatchHeader, BinaryEnvelope, decode_binary_message, replayed_binary};
pub use close::CloseCode;
pub use compress::Compression;
pub(crate) use compress::{COMPRESSED_BYTES_MIN, Compressor};
pub(crate) use decode::{decode_client_message, decode_server_message, quoted};
pub(crate) use encode::{BatchEnvelope, encode_client_message, encode_message, replayed};
pub(crate) use integrity::{RowsDigest, checksum};
pub use message::{
    ArrowBatchMessage, BatchMessage, BlockedBy, CancelledMessage, CellType, ColumnsMessage, CompletedMessage,
    DataFormat, DescriptionMessage, ErrorMessage, GoawayMessage, LimitsMessage, ListMessage, ParameterMessage, Phase,
    PongMessage, ProgressDetail, ProgressMessage, QueuedMessage, RateMessage, ResumedMessage, RetentionMessage,
    ServerMessage, StartedMessage, StatusMessage, StreamNotice, StreamState, TotalKind, TruncateReason, WelcomeMessage,
    WindowMessage,
};
pub use request::{
    Ack, CancelQuery, ClientMessage, DescribeQuery, Hello, ListQueries, ListScope, ResumeQuery, SetPriority,
    StreamQuery, StreamRef, WindowRequest,
};
pub use trace::TraceParent;

/// The subprotocol of the WebSocket handshake: this protocol, in this version.
pub(crate) const SUBPROTOCOL: &str = "rowstream.v1";
