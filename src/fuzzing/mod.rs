//! What must hold of whatever a peer sends, as one function per door that its bytes come in by: no panic, a typed error or a value
//! that goes out and in again unchanged, and memory that stays in proportion.
//!
//! The fuzzers in `tests/fuzz` call these functions, and so does a seeded test: both try the very same properties. Not part of any
//! build but those.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc)] // a panic is what these functions are for

mod allocated;
mod binary;
mod frame;
mod head;
mod message;
#[cfg(test)]
mod mutation_test;
mod source;
mod value;

/// Text messages, in both directions: what a server takes from clients, and clients from a server.
pub fn message(bytes: &[u8]) {
    message::check(bytes);
}

/// Binary messages, as a client takes them from a server, down to the cells of their rows.
pub fn binary(bytes: &[u8]) {
    binary::check(bytes);
}

/// The head of an HTTP request, as a server takes it, in pieces of any length.
pub fn head(bytes: &[u8]) {
    head::check(bytes);
}

/// WebSocket frames, as both ends take them, in pieces of any length.
pub fn frame(bytes: &[u8]) {
    frame::check(bytes);
}

/// Values into JSON and out of it: the cells of rows, and the parameters of queries. The bytes say which values.
pub fn value(bytes: &[u8]) {
    value::check(bytes);
}
