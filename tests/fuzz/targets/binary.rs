//! Binary messages of servers.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rowstream::fuzzing::binary(bytes));
