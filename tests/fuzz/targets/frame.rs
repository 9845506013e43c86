//! WebSocket frames, at both ends.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rowstream::fuzzing::frame(bytes));
