//! The `rowstream` binary; all of it is in the library's `cli` module.

use std::process::ExitCode;

fn main() -> ExitCode {
    rowstream::cli::main()
}
