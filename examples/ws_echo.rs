//! An echo server on the production's own reader and writer loops, for WebSocket conformance suites to be pointed at.
//!
//! ```text
//! cargo run --release --example ws_echo -- 127.0.0.1:9001
//! ```
//! Each message comes back as it came, text as text and binary as binary, on any path. Prints the address it listens on; ends
//! when standard input does.
#![allow(clippy::print_stdout)] // scripts read the address

use std::error::Error;
use std::io;

fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let server = rowstream::server::EchoServer::start(address.as_str())?;
    println!("listening on ws://{}/", server.local_addr());
    io::copy(&mut io::stdin(), &mut io::sink())?;
    server.shutdown();
    Ok(())
}
