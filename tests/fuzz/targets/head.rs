//! Heads of HTTP requests.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rowstream::fuzzing::head(bytes));
