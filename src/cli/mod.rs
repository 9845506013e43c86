//! The `rowstream` program: flags, subcommands, output formats, exit codes.
//!
//! The only part of the crate that prints. Must not know locks or sockets.

mod demo;
