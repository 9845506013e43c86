//! Text messages, of clients and of servers.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rowstream::fuzzing::message(bytes));
