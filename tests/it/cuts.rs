//! Connections cut at random byte positions, a thousand times: no row lost, repeated or out of order.
//!
//! `ROWSTREAM_TEST_CUTS=100000 ROWSTREAM_TEST_SEED=7 cargo test --release --test it cuts::resets -- --nocapture` is the long mode.

#![allow(clippy::print_stdout)] // the seed, to repeat a failed run with, and how long it took

use std::time::{Duration, Instant};

use rowstream::client::{Client, Event, Outcome};
use rowstream::engine::memory::{MemoryEngine, Script};
use rowstream::{ServerHandle, StreamingConfig};

use crate::proxy::{CutKind, CutProxy};
use crate::support::{eventually, number, serve_with};

/// What the cuts of one run came to.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) n_resumed: u64,
    /// From the loss of a connection to the first row after it.
    gaps: Vec<Duration>,
}

/// The rows that [`take_all`] expects.
pub(crate) fn numbers(n_rows: u64) -> Script {
    Script::new(["n", "text"]).generate(n_rows, |n| {
        vec![(n as i64).into(), "x".repeat((n % 97) as usize).into()]
    })
}

fn engine() -> MemoryEngine {
    MemoryEngine::builder()
        .query("long", numbers(400_000))
        .query("short", numbers(3_000))
        .build()
}

/// Takes a whole result and checks it row by row.
pub(crate) fn take_all(client: &Client, query: &str, n_rows: i64, seen: &mut Seen) {
    let mut stream = client
        .query(query)
        .resumable(true)
        .checksum(true)
        .batch_size(100)
        .window(16, 1 << 20)
        .progress_interval(Duration::ZERO)
        .submit()
        .unwrap();
    let mut expected = 0;
    let mut lost_at = None;
    while let Some(event) = stream
        .next_event()
        .unwrap_or_else(|error| panic!("after {expected} rows: {error}"))
    {
        match event {
            Event::Batch(batch) => {
                if let Some(lost_at) = lost_at.take() {
                    seen.gaps.push(Instant::elapsed(&lost_at));
                }
                for row in batch.rows() {
                    assert_eq!(row.get::<i64>(0).unwrap(), expected, "in order, once each");
                    assert_eq!(row.get::<String>(1).unwrap().len() as i64, expected % 97);
                    expected += 1;
                }
            }
            Event::Reconnecting => lost_at = Some(Instant::now()),
            Event::Resumed => seen.n_resumed += 1,
            _ => {}
        }
    }
    assert_eq!(expected, n_rows);
    let Some(Outcome::Completed(completed)) = stream.outcome() else {
        panic!("not whole: {:?}", stream.outcome())
    };
    assert_eq!(
        (completed.total_rows, completed.digest.is_some()),
        (n_rows as u64, true)
    );
}

/// A client whose every connection is cut, the first one too.
fn client(proxy: &CutProxy) -> Client {
    let url = format!("ws://{}/ws", proxy.address());
    let builder = Client::builder().heartbeat(Duration::from_millis(100), Duration::from_millis(300));
    loop {
        match builder.clone().connect(&url) {
            Ok(client) => return client,
            // Cut in the middle of the handshake.
            Err(error) => assert!(proxy.n_cuts() > 0, "{error}"),
        }
    }
}

pub(crate) fn everything_is_as_before(server: &ServerHandle) {
    eventually("nothing is held", &(0, 0), || {
        let streams = server.streams();
        (streams.reports().len(), streams.bytes_held())
    });
    let statistics = server.streams().statistics();
    // A query whose start was lost is asked again, and the one before it expires or is cancelled.
    assert_eq!(
        statistics.started,
        statistics.completed + statistics.cancelled,
        "{statistics:?}"
    );
    assert_eq!((statistics.failed, statistics.active), (0, 0));
}

/// Long results and short ones, until there were so many cuts.
fn run(kind: CutKind, n_cuts: u64, after: std::ops::Range<u64>, seed: u64) -> Seen {
    let mut config = StreamingConfig::default();
    // Those that nobody can come back for are gone by the end of the test.
    config.retention = Duration::from_secs(5);
    let server = serve_with(engine(), 4, config);
    let proxy = CutProxy::start(server.local_addr().unwrap(), seed);
    proxy.cut(Some((kind, after)));
    let client = client(&proxy);
    let mut seen = Seen::default();
    let mut is_long = false;
    while proxy.n_cuts() < n_cuts {
        is_long = !is_long;
        let (query, n_rows) = if is_long { ("long", 400_000) } else { ("short", 3_000) };
        take_all(&client, query, n_rows, &mut seen);
    }
    proxy.cut(None);
    take_all(&client, "short", 3_000, &mut seen);
    drop(client);
    assert!(seen.n_resumed > n_cuts / 2, "{seen:?}");
    assert!(proxy.n_connections() > n_cuts);
    eventually("connections", &0, || server.connections());
    everything_is_as_before(&server);
    seen
}

#[test]
fn resets_and_closes_lose_and_repeat_nothing() {
    let seed = number("ROWSTREAM_TEST_SEED", 42);
    println!("ROWSTREAM_TEST_SEED={seed}");
    let n_cuts = number("ROWSTREAM_TEST_CUTS", 1_000);
    let mut gaps = run(CutKind::ResetOrClose, n_cuts, 0..200_000, seed).gaps;
    gaps.sort_unstable();
    let at = |share: usize| gaps[(gaps.len() - 1) * share / 100];
    // For people to read: how fast is for benchmarks to judge.
    println!(
        "{} gaps: median {:?}, p99 {:?}, longest {:?}",
        gaps.len(),
        at(50),
        at(99),
        at(100)
    );
}

#[test]
fn black_holes_are_found_out() {
    run(CutKind::BlackHole, 8, 1_000..4_000_000, 7);
}
