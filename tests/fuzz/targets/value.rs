//! Values into JSON and out of it.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rowstream::fuzzing::value(bytes));
