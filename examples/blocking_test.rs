//! How to test what blocks, on what, and what wakes it, without a sleep: the scripted engine stops where it is told, and the test
//! looks at what the rest of the world does meanwhile.
//!
//! ```text
//! cargo run --example blocking_test
//! ```
#![allow(clippy::print_stdout)] // an example shows what it does

use std::error::Error;
use std::time::Duration;

use rowstream::client::Outcome;
use rowstream::{CancelReason, Client, Gate, MemoryEngine, QueryStreamStatus, Script, Server, ServerHandle};

/// Bounds a wait that fails; none that succeeds takes anywhere near it.
const DEADLINE: Duration = Duration::from_secs(30);

fn main() -> Result<(), Box<dyn Error>> {
    rows_leave_while_the_engine_waits()?;
    a_busy_worker_makes_others_wait()?;
    a_cancel_wakes_the_engine()?;
    Ok(())
}

fn serve(engine: &MemoryEngine, n_workers: usize) -> Result<(ServerHandle, Client), Box<dyn Error>> {
    let builder = Server::builder().engine("memory", engine.clone()).listen("127.0.0.1:0");
    let server = builder.workers(n_workers).start()?;
    let address = server.local_addr().ok_or("the server listens nowhere")?;
    let client = Client::connect(&format!("ws://{address}/ws"))?;
    Ok((server, client))
}

/// What blocks: the engine, at the gate. What must not: the row that is already there.
fn rows_leave_while_the_engine_waits() -> Result<(), Box<dyn Error>> {
    let gate = Gate::new();
    let script = Script::new(["n"]).row([1.into()]).gate(&gate).row([2.into()]);
    let engine = MemoryEngine::builder().query("two rows", script).build();
    let (_server, client) = serve(&engine, 1)?;

    let mut stream = client.query("two rows").batch_size(100).start()?;
    let first = stream.next().ok_or("no batch")??;
    assert_eq!(
        first.len(),
        1,
        "one row has come, though the batch could hold a hundred"
    );
    gate.wait_reached(DEADLINE)?;
    gate.open();
    let second = stream.next().ok_or("no batch")??;
    assert_eq!(second.len(), 1);
    println!("ok: rows leave while the engine waits for the next; opening the gate brings it");
    Ok(())
}

/// What blocks: the only worker, inside an engine call. Who waits for it: the next query. What wakes that: the worker's return.
fn a_busy_worker_makes_others_wait() -> Result<(), Box<dyn Error>> {
    let gate = Gate::new();
    let engine = MemoryEngine::builder()
        .query("slow", Script::new(["n"]).gate(&gate).row([1.into()]))
        .query("quick", Script::new(["n"]).row([2.into()]))
        .build();
    let (server, client) = serve(&engine, 1)?;

    let mut slow = client.query("slow").start()?;
    gate.wait_reached(DEADLINE)?;
    let mut quick = client.query("quick").submit()?;
    // An answer to a ping comes after everything sent before it: the query has been taken in, and stands in the queue.
    client.ping()?;
    let statuses: Vec<_> = server.streams().reports().iter().map(|report| report.status).collect();
    assert!(statuses.contains(&QueryStreamStatus::Queued), "{statuses:?}");
    assert_eq!(engine.probe().cursors_opened, 1, "the engine has not been asked yet");

    gate.open();
    assert_eq!(slow.next().ok_or("no batch")??.len(), 1);
    assert_eq!(quick.next().ok_or("no batch")??.len(), 1);
    assert_eq!(
        engine.probe().fills_running_max,
        1,
        "one worker is one engine call at a time"
    );
    println!("ok: a query waits for a worker, and for nothing else");
    Ok(())
}

/// What blocks: the engine, at a gate that nobody opens. What wakes it: the cancel.
fn a_cancel_wakes_the_engine() -> Result<(), Box<dyn Error>> {
    let gate = Gate::new();
    let engine = MemoryEngine::builder()
        .query("stuck", Script::new(["n"]).gate(&gate))
        .build();
    let (_server, client) = serve(&engine, 1)?;

    let mut stream = client.query("stuck").start()?;
    gate.wait_reached(DEADLINE)?;
    assert_eq!(engine.probe().fills_running, 1);
    stream.canceller().cancel();
    assert!(stream.next().is_none(), "no row comes after a cancel");
    let Some(Outcome::Cancelled(cancelled)) = stream.outcome() else {
        return Err("the stream was not cancelled".into());
    };
    assert_eq!(
        (cancelled.reason, cancelled.engine_stopped),
        (CancelReason::Client, true)
    );
    assert_eq!(
        (engine.probe().fills_running, engine.probe().cursors_open),
        (0, 0),
        "the engine has really stopped"
    );
    println!("ok: a cancel wakes an engine that waits, and closes its cursor");
    Ok(())
}
