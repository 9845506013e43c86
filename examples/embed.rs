//! A server inside an application of its own: the application keeps its engine and its data, starts a server beside its other
//! work, looks at what is running, and takes the server down.
//!
//! ```text
//! cargo run --example embed
//! ```
#![allow(clippy::print_stdout)] // an example shows what it does

use std::error::Error;

use rowstream::{Client, Server, SqliteEngine, StreamingConfig};

fn main() -> Result<(), Box<dyn Error>> {
    // The application's own data.
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("orders.db");
    let database = rusqlite::Connection::open(&path)?;
    database.execute_batch(
        "CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT NOT NULL, total REAL NOT NULL);
         INSERT INTO orders (customer, total) VALUES ('Ada', 12.5), ('Grace', 99.95), ('Edsger', 7.25);",
    )?;

    // The server, on a free port, with the application's taste in batches.
    let mut streaming = StreamingConfig::default();
    streaming.batch_size = 2;
    let server = Server::builder()
        .engine("orders", SqliteEngine::open(&path)?)
        .listen("127.0.0.1:0")
        .streaming(streaming)
        .start()?;
    let address = server.local_addr().ok_or("the server listens nowhere")?;
    println!("serving orders on ws://{address}/ws");

    // The application goes on writing; whoever asks sees what is there then.
    database.execute(
        "INSERT INTO orders (customer, total) VALUES (?1, ?2)",
        ("Barbara", 42.0),
    )?;

    let client = Client::connect(&format!("ws://{address}/ws"))?;
    let query = client.query("SELECT customer, total FROM orders WHERE total >= ? ORDER BY total");
    for batch in query.param(10.0).start()? {
        let batch = batch?;
        println!("batch {} with {} rows", batch.number(), batch.len());
        for row in batch.rows() {
            println!(
                "  {:8} {:6.2}",
                row.get::<String>("customer")?,
                row.get::<f64>("total")?
            );
        }
    }
    drop(client);

    let statistics = server.streams().statistics();
    println!("streams completed: {}", statistics.completed);
    server.shutdown();
    println!("the server is down");
    Ok(())
}
