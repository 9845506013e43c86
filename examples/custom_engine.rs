//! An engine of your own: everything between a query's text and its rows.
//!
//! This one knows a single query, `primes below N`, and finds the rows while it streams them.
//!
//! ```text
//! cargo run --example custom_engine
//! ```
#![allow(clippy::print_stdout)] // an example shows what it does

use std::error::Error;
use std::time::Instant;

use rowstream::engine::{CursorProgress, Estimate};
use rowstream::rows::{Column, ColumnType, RowWriter, Schema};
use rowstream::{
    CancelToken, Client, ClientError, Cursor, Engine, EngineError, EngineErrorKind, QuerySpec, Server, Step,
};

/// Answers `primes below N`.
struct Primes;

impl Engine for Primes {
    // Prepares only: nothing is computed here, so a query that makes no sense is refused before anything has run.
    fn open(&self, query: &QuerySpec, cancel: &CancelToken) -> Result<Box<dyn Cursor>, EngineError> {
        let limit = query
            .sql
            .strip_prefix("primes below ")
            .and_then(|limit| limit.trim().parse().ok());
        let Some(limit) = limit else {
            let mut error = EngineError::new(EngineErrorKind::Syntax, "this engine knows only: primes below N");
            error.position = Some(0);
            return Err(error);
        };
        let columns = vec![
            Column::new("n", ColumnType::Int64),
            Column::new("prime", ColumnType::Int64),
        ];
        Ok(Box::new(PrimesCursor {
            schema: Schema::new(columns),
            cancel: cancel.clone(),
            limit,
            candidate: 2,
            found: 0,
        }))
    }

    // How many primes there will be is not known, but how many numbers have to be looked at is: progress can be honest.
    fn estimate(&self, query: &QuerySpec, _: std::time::Duration, _: &CancelToken) -> Estimate {
        let limit = query
            .sql
            .strip_prefix("primes below ")
            .and_then(|limit| limit.trim().parse().ok());
        limit.map_or_else(Estimate::default, |limit| Estimate::default().with_work_total(limit))
    }
}

struct PrimesCursor {
    schema: Schema,
    cancel: CancelToken,
    limit: u64,
    candidate: u64,
    found: i64,
}

impl Cursor for PrimesCursor {
    fn columns(&self) -> Option<&Schema> {
        Some(&self.schema)
    }

    fn fill(&mut self, out: &mut RowWriter) -> Result<Step, EngineError> {
        while !out.is_full() {
            // Between two rows there may be much to compute: look at the token and at the time often enough.
            loop {
                if self.candidate >= self.limit {
                    return Ok(Step::Done);
                }
                if self.cancel.is_cancelled() {
                    return Err(EngineError::cancelled());
                }
                out.tick(Instant::now());
                if is_prime(self.candidate) {
                    break;
                }
                self.candidate += 1;
            }
            self.found += 1;
            out.begin_row();
            out.integer(self.found);
            out.integer(i64::try_from(self.candidate).unwrap_or(i64::MAX));
            out.end_row()?;
            self.candidate += 1;
        }
        Ok(Step::More)
    }

    fn progress(&self) -> CursorProgress {
        CursorProgress::work(self.candidate)
    }
}

fn is_prime(n: u64) -> bool {
    (2..)
        .take_while(|divisor| divisor * divisor <= n)
        .all(|divisor| !n.is_multiple_of(divisor))
}

fn main() -> Result<(), Box<dyn Error>> {
    let server = Server::builder()
        .engine("primes", Primes)
        .listen("127.0.0.1:0")
        .start()?;
    let address = server.local_addr().ok_or("the server listens nowhere")?;
    let client = Client::connect(&format!("ws://{address}/ws"))?;

    let mut last = 0;
    let mut n_rows = 0;
    for batch in client.query("primes below 100000").batch_size(1_000).start()? {
        for row in batch?.rows() {
            last = row.get::<i64>("prime")?;
            n_rows += 1;
        }
    }
    println!("{n_rows} primes below 100000, the last is {last}");

    match client.query("primes above 5").start() {
        Err(ClientError::Query(error)) => println!("refused: {}: {}", error.code, error.message),
        Err(error) => return Err(error.into()),
        Ok(_) => return Err("a query without sense was accepted".into()),
    }

    // One that would take for ever, stopped.
    let mut endless = client.query(format!("primes below {}", u64::MAX)).start()?;
    let first = endless.next().ok_or("no batch")??;
    println!("an endless query has given {} rows, and is cancelled", first.len());
    endless.canceller().cancel();
    for batch in &mut endless {
        batch?;
    }
    println!(
        "it ended as: {}",
        if endless.outcome().is_some() {
            "cancelled"
        } else {
            "unknown"
        }
    );
    Ok(())
}
