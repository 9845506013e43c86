//! The server through its public door: a real socket, strict wire types of the tests' own, and the engine that does as told.

#![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here
#![allow(clippy::wildcard_enum_match_arm)] // whatever else comes fails the test

mod application;
mod baseline;
mod blocking;
mod cancel;
#[cfg(feature = "cli")]
mod cli;
mod cuts;
mod death;
mod deflate;
mod errors;
mod examples;
mod exposition;
mod faults;
mod flow;
mod formats;
mod http;
#[cfg(feature = "cli")]
mod interop;
mod operations;
#[cfg(feature = "cli")]
mod plain_client;
#[cfg(feature = "cli")]
mod process;
mod proxy;
mod resume;
#[path = "../../src/protocol/schema_check_test.rs"]
mod schema_check;
mod sqlite;
mod streaming;
mod support;
mod vectors;
