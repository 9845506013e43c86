//! The server through its public door: a real socket, strict wire types of the tests' own, and the engine that does as told.

#![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here
#![allow(clippy::wildcard_enum_match_arm)] // whatever else comes fails the test

mod application;
mod auth;
#[cfg(feature = "tls")]
#[path = "../../src/transport/tls/authority_test.rs"]
mod authority;
mod baseline;
#[cfg(all(unix, feature = "cli"))]
mod behind;
#[cfg(all(target_os = "linux", feature = "cli"))]
mod beside;
mod blocking;
mod canary;
mod cancel;
mod cells;
#[cfg(feature = "cli")]
mod cli;
#[cfg(feature = "cli")]
mod config;
mod cuts;
mod death;
mod deflate;
#[cfg(feature = "cli")]
mod documents;
mod durations;
mod errors;
mod examples;
mod exposition;
mod faults;
mod flow;
mod formats;
#[cfg(target_os = "linux")]
mod full;
mod hostile;
mod http;
#[cfg(all(target_os = "linux", feature = "cli"))]
mod injected;
#[cfg(feature = "cli")]
mod interop;
mod io_faults;
#[cfg(feature = "cli")]
mod logs;
#[cfg(all(target_os = "linux", feature = "cli"))]
mod memory;
mod operations;
#[cfg(feature = "cli")]
mod plain_client;
#[cfg(feature = "cli")]
mod process;
mod progress;
mod proxy;
mod questions;
mod relief;
mod rest;
mod resume;
mod revocation;
#[path = "../../src/protocol/schema_check_test.rs"]
mod schema_check;
mod sites;
mod sqlite;
mod streaming;
mod support;
#[cfg(feature = "tls")]
mod tls;
#[cfg(unix)]
mod unix;
mod vectors;
