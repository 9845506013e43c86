//! Five scenarios against a real server and a real database in this process: basic streaming, progress, cancellation, concurrent
//! streams, and batch sizes.
//!
//! ```text
//! cargo run --release --example query_streaming_demo
//! ```
#![allow(clippy::print_stdout)] // an example shows what it does

use std::error::Error;
use std::time::{Duration, Instant};

use rowstream::client::{Event, Outcome};
use rowstream::{Client, Server, SqliteEngine};

const ROWS: i64 = 300_000;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("demo.db");
    rusqlite::Connection::open(&path)?.execute_batch(&format!(
        "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL, city TEXT, balance REAL);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS})
         INSERT INTO users SELECT i, 'User ' || i,
           CASE i % 4 WHEN 0 THEN 'Lisbon' WHEN 1 THEN 'Oslo' WHEN 2 THEN 'Zürich' END, (i * 7919 % 100000) / 100.0 FROM n;"
    ))?;
    let engine = SqliteEngine::open(&path)?;
    let server = Server::builder().engine("demo", engine).listen("127.0.0.1:0").start()?;
    let address = server.local_addr().ok_or("the server listens nowhere")?;
    let client = Client::connect(&format!("ws://{address}/ws"))?;

    basic_streaming(&client)?;
    progress(&client)?;
    cancellation(&client)?;
    concurrent_streams(&client)?;
    batch_sizes(&client)?;
    server.shutdown();
    Ok(())
}

fn basic_streaming(client: &Client) -> Result<(), Box<dyn Error>> {
    println!("== 1. basic streaming");
    let mut stream = client
        .query("SELECT * FROM users WHERE id <= 250")
        .batch_size(100)
        .start()?;
    let columns = stream.columns().ok_or("no columns")?;
    let names: Vec<&str> = columns.columns().iter().map(|column| column.label.as_str()).collect();
    println!("columns: {}", names.join(", "));
    for batch in &mut stream {
        let batch = batch?;
        let first = batch.rows().next().ok_or("an empty batch")?;
        println!(
            "batch {}: {:3} rows, the first is {}",
            batch.number(),
            batch.len(),
            first.as_json()
        );
    }
    if let Some(Outcome::Completed(end)) = stream.outcome() {
        println!("completed: {} rows in {} batches", end.total_rows, end.batches);
    }
    Ok(())
}

fn progress(client: &Client) -> Result<(), Box<dyn Error>> {
    println!("== 2. progress");
    // A join that takes a while, so that there is something to report.
    let sql = "SELECT a.id, b.name FROM users a JOIN users b ON b.id = (a.id * 31) % 300000 + 1";
    let mut stream = client
        .query(sql)
        .batch_size(1_000)
        .progress_interval(Duration::from_millis(50))
        .start()?;
    let mut n_reports = 0;
    while let Some(event) = stream.next_event()? {
        if let Event::Progress(progress) = event {
            n_reports += 1;
            if n_reports <= 5 {
                let percentage = progress
                    .percentage
                    .map_or("no honest total yet".to_owned(), |p| format!("{p:.1} %"));
                println!(
                    "{:7} rows, {:9.0} rows/s, {percentage}",
                    progress.rows_processed, progress.throughput
                );
            }
        }
    }
    if let Some(Outcome::Completed(end)) = stream.outcome() {
        println!(
            "completed: {} rows; reported {} times or more",
            end.total_rows,
            n_reports.min(1)
        );
    }
    Ok(())
}

fn cancellation(client: &Client) -> Result<(), Box<dyn Error>> {
    println!("== 3. cancellation");
    let mut stream = client
        .query("SELECT a.id, b.id FROM users a, users b")
        .batch_size(500)
        .start()?;
    let canceller = stream.canceller();
    let mut n_rows = 0;
    let mut asked_at = None;
    for batch in &mut stream {
        n_rows += batch?.len();
        if n_rows >= 5_000 && asked_at.is_none() {
            println!(
                "{n_rows} of {} million rows have come; that is enough",
                (ROWS * ROWS) / 1_000_000
            );
            canceller.cancel();
            asked_at = Some(Instant::now());
        }
    }
    let Some(Outcome::Cancelled(end)) = stream.outcome() else {
        return Err("the stream was not cancelled".into());
    };
    println!(
        "cancelled by the {}; the engine has stopped: {}",
        end.reason.as_str(),
        end.engine_stopped
    );
    Ok(())
}

fn concurrent_streams(client: &Client) -> Result<(), Box<dyn Error>> {
    println!("== 4. concurrent streams on one connection");
    let cities = ["Lisbon", "Oslo", "Zürich"];
    let mut streams = Vec::new();
    for city in cities {
        let query = client
            .query("SELECT id, balance FROM users WHERE city = ? AND id <= 3000")
            .param(city);
        streams.push((city, query.batch_size(250).start()?, 0));
    }
    // One batch of each in turn.
    let mut n_running = streams.len();
    while n_running > 0 {
        n_running = 0;
        for (_, stream, n_rows) in &mut streams {
            if let Some(batch) = stream.next() {
                *n_rows += batch?.len();
                n_running += 1;
            }
        }
    }
    for (city, _, n_rows) in streams {
        println!("{city}: {n_rows} rows");
    }
    Ok(())
}

fn batch_sizes(client: &Client) -> Result<(), Box<dyn Error>> {
    println!("== 5. batch sizes");
    for batch_size in [10, 100, 1_000, 10_000] {
        let mut stream = client
            .query("SELECT * FROM users LIMIT 50000")
            .batch_size(batch_size)
            .start()?;
        for batch in &mut stream {
            batch?;
        }
        let Some(Outcome::Completed(end)) = stream.outcome() else {
            return Err("the stream did not complete".into());
        };
        println!(
            "{batch_size:6} rows a batch: {:5} batches, {:4} ms",
            end.batches, end.execution_time_ms
        );
    }
    Ok(())
}
