//! An echo server on the production's own reader and writer loops, for WebSocket conformance suites to be pointed at.
//!
//! ```text
//! cargo run --release --example ws_echo -- 127.0.0.1:9001
//! ```
//! Each message comes back as it came, text as text and binary as binary, on the path `/ws`, deflated where the client takes that.
//! Prints the address it listens on; ends when standard input does.
#![allow(clippy::print_stdout)] // scripts read the address

use std::error::Error;
use std::io;

use rowstream::Server;
use rowstream::server::Limits;

fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".to_owned());
    // Conformance suites send messages of up to 16 MiB, and cut them into very many pieces.
    let mut limits = Limits::default();
    limits.fragments_max = usize::MAX;
    let builder = Server::builder()
        .echo()
        .limits(limits)
        .message_bytes_max(16 * 1024 * 1024)
        .permessage_deflate(true);
    let server = builder.listen(address.as_str()).start()?;
    let address = server.local_addr().ok_or("the server listens nowhere")?;
    println!("listening on ws://{address}/ws");
    io::copy(&mut io::stdin(), &mut io::sink())?;
    server.shutdown();
    Ok(())
}
