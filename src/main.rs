//! The `rowstream` binary; all of it is in the library's `cli` module.
fn main() {}
