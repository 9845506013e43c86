//! What `query_progress` says of the engine and of the client, against what the client has.

use rowstream::engine::memory::{Gate, MemoryEngine, Script};
use rowstream::{QueryStreamStatus, ServerHandle, StreamReport};
use serde_json::json;

use crate::flow::ack;
use crate::resume::{resume, start, wait_until_detached};
use crate::support::{DEADLINE, Plain, Wire, eventually, serve};

/// The figures of a `query_progress`.
#[derive(Debug, Clone, PartialEq)]
struct Progress {
    rows_processed: u64,
    percentage: Option<f64>,
    percentage_delivered: Option<f64>,
    eta_ms: Option<u64>,
    phase: String,
    total: (Option<u64>, String),
    rows_sent: u64,
}

fn progress(wire: &Wire) -> Option<Progress> {
    match wire.clone() {
        Wire::QueryProgress {
            rows_processed,
            percentage,
            percentage_delivered,
            eta_ms,
            phase: Some(phase),
            total_rows,
            total_kind: Some(total_kind),
            rows_sent: Some(rows_sent),
            ..
        } => Some(Progress {
            rows_processed,
            percentage,
            percentage_delivered,
            eta_ms,
            phase,
            total: (total_rows, total_kind),
            rows_sent,
        }),
        _ => None,
    }
}

/// Both fractions of a progress message that comes with them in time.
#[track_caller]
fn recv_fractions(client: &mut Plain, done: f64, delivered: f64) -> Progress {
    let mut last = None;
    for _ in 0..10_000 {
        if let Some(found) = progress(&client.recv_unchecked()) {
            if (found.percentage, found.percentage_delivered) == (Some(done), Some(delivered)) {
                return found;
            }
            last = Some(found);
        }
    }
    panic!("not {done} and {delivered}: {last:?}");
}

fn rows(n: u64) -> impl Fn(u64) -> Vec<rowstream::rows::Value> + Send + Sync + 'static {
    move |row| vec![((n + row) as i64).into()]
}

fn report<T>(server: &ServerHandle, of: impl Fn(&StreamReport) -> T) -> Option<T> {
    server.streams().reports().first().map(of)
}

#[test]
fn a_client_with_a_window_has_what_it_has_acknowledged_across_a_resume_too() {
    let gate = Gate::new();
    let script = Script::new(["n"])
        .generate(500, rows(0))
        .gate(&gate)
        .generate(500, rows(500));
    let server = serve(MemoryEngine::builder().query("q", script.total(1_000)).build());
    let mut client = Plain::connect(&server);
    let fields = json!({"batch_size": 10, "window": {"batches": 8}, "progress_interval_ms": 50});
    let (stream_id, token) = start(&mut client, "q", fields);
    let full = recv_fractions(&mut client, 8.0, 0.0);
    assert_eq!((full.phase.as_str(), full.rows_sent), ("waiting_client", 80));
    ack(&mut client, &stream_id, 3);
    recv_fractions(&mut client, 12.0, 4.0);
    drop(client);
    wait_until_detached(&server);
    gate.wait_reached_by(1, DEADLINE).unwrap();
    eventually("the engine goes on alone", &Some(500), || {
        report(&server, |report| report.rows_read)
    });

    // Of the twelve batches that were sent the client has six: the others come again, and those that nobody has seen.
    let mut client = Plain::connect(&server);
    let resumed = resume(&mut client, &token, 5);
    assert!(
        matches!(
            &resumed,
            Wire::QueryResumed {
                resend_from: 6,
                next_batch: 12,
                ..
            }
        ),
        "{resumed:?}"
    );
    let back = recv_fractions(&mut client, 50.0, 6.0);
    assert_eq!(
        (back.eta_ms, back.rows_processed),
        (None, 500),
        "its pace is not known yet"
    );
    ack(&mut client, &stream_id, 13);
    let mut last = recv_fractions(&mut client, 50.0, 14.0);
    gate.open();
    ack(&mut client, &stream_id, 14);
    loop {
        let wire = client.recv_unchecked();
        if let Wire::QueryBatch { batch_number, .. } = wire {
            ack(&mut client, &stream_id, batch_number as i64);
        } else if let Some(next) = progress(&wire) {
            assert!(next.percentage >= last.percentage, "{next:?} after {last:?}");
            assert!(
                next.percentage_delivered >= last.percentage_delivered,
                "{next:?} after {last:?}"
            );
            assert!(next.percentage_delivered <= next.percentage, "{next:?}");
            last = next;
        } else {
            assert!(
                matches!(wire, Wire::QueryCompleted { total_rows: 1_000, .. }),
                "{wire:?}"
            );
            break;
        }
    }
}

#[test]
fn a_client_without_a_window_has_what_it_has_read() {
    const HALF: u64 = 20_000;
    let text = "x".repeat(1_000);
    let row = move |_| vec![text.as_str().into()];
    let gate = Gate::new();
    let script = Script::new(["t"])
        .generate(HALF, row.clone())
        .gate(&gate)
        .generate(HALF, row);
    let server = serve(MemoryEngine::builder().query("q", script.total(2 * HALF)).build());
    let mut client = Plain::connect(&server);
    client.query("q", json!({"progress_interval_ms": 50}));
    // It reads nothing until everything between it and the engine is full.
    let parked = Some(QueryStreamStatus::WaitingClient);
    eventually("the engine waits", &parked, || report(&server, |report| report.status));
    let (mut n_rows, mut n_told) = (0, 0);
    loop {
        let wire = client.recv();
        if let Wire::QueryBatch { row_count, .. } = wire {
            n_rows += row_count;
        } else if let Some(told) = progress(&wire) {
            assert_eq!(told.rows_sent, n_rows, "{told:?}");
            let delivered = (n_rows as f64 * 1_000.0 / (2.0 * HALF as f64)).round() / 10.0;
            // The total may not be known yet.
            if told.percentage_delivered.is_some() {
                assert_eq!(told.percentage_delivered, Some(delivered), "{told:?}");
                assert!(told.percentage_delivered <= told.percentage, "{told:?}");
                n_told += 1;
            }
            if n_rows == HALF && n_told > 0 {
                gate.open();
            }
        } else if wire.is_terminator() {
            break;
        }
    }
    assert!(n_rows == 2 * HALF && n_told > 0, "{n_rows} rows, {n_told} reports");
}

#[test]
fn progress_goes_on_until_the_client_has_what_the_engine_has_made() {
    let script = Script::new(["n"]).generate(100, rows(0));
    let server = serve(MemoryEngine::builder().query("q", script).build());
    let mut client = Plain::connect(&server);
    let fields = json!({"batch_size": 10, "window": {"batches": 2}, "progress_interval_ms": 50});
    let (stream_id, token) = start(&mut client, "q", fields);
    drop(client);
    let completed = Some(QueryStreamStatus::Completed);
    eventually("the engine is done", &completed, || {
        report(&server, |report| report.status)
    });
    let mut client = Plain::connect(&server);
    client.send(&json!({"type": "resume_query", "resume_token": token, "last_batch": -1, "window": {"batches": 1}}));
    // The total is known now, though nobody had counted.
    let mut told = recv_fractions(&mut client, 99.9, 0.0);
    let total = (Some(100), "exact".to_owned());
    assert_eq!(
        (told.phase.as_str(), &told.total, told.eta_ms),
        ("waiting_client", &total, None)
    );
    for batch_number in 0..9 {
        ack(&mut client, &stream_id, batch_number);
        // With the last batch comes the terminator, and after that nothing.
        if batch_number < 8 {
            told = recv_fractions(&mut client, 99.9, 10.0 * (batch_number + 1) as f64);
        }
    }
    assert_eq!(told.rows_processed, 100);
    loop {
        match client.recv_unchecked() {
            Wire::QueryBatch { .. } | Wire::QueryProgress { .. } => {}
            Wire::QueryCompleted { total_rows: 100, .. } => break,
            other => panic!("unexpected: {other:?}"),
        }
    }
    client.assert_silence_unchecked();
}

#[test]
fn a_result_that_is_cut_off_is_as_long_as_it_may_be() {
    let gate = Gate::new();
    let script = Script::new(["n"])
        .generate(30, rows(0))
        .gate(&gate)
        .generate(1_000, rows(30));
    let server = serve(MemoryEngine::builder().query("q", script.total(1_030)).build());
    let mut client = Plain::connect(&server);
    client.query(
        "q",
        json!({"batch_size": 10, "max_rows": 200, "progress_interval_ms": 50}),
    );
    let told = recv_fractions(&mut client, 15.0, 15.0);
    assert_eq!(told.total, (Some(200), "exact".to_owned()));
    gate.open();
    let end = loop {
        let wire = client.recv_unchecked();
        if wire.is_terminator() {
            break wire;
        }
    };
    assert!(
        matches!(
            end,
            Wire::QueryCompleted {
                total_rows: 200,
                truncated: true,
                ..
            }
        ),
        "{end:?}"
    );
}

#[test]
fn a_paused_query_has_no_time_left() {
    let script = Script::new(["n"]).generate(1_000, rows(0));
    let server = serve(MemoryEngine::builder().query("q", script.total(1_000)).build());
    let mut client = Plain::connect(&server);
    client.query(
        "q",
        json!({"batch_size": 10, "window": {"batches": 2}, "progress_interval_ms": 50}),
    );
    let stream_id = client.recv_started();
    // Acknowledged step by step, until there is an estimate.
    let mut n_acked = 0_u32;
    loop {
        let told = client.recv_until("what was acknowledged", |wire| {
            let told = progress(wire);
            told.is_some_and(|told| {
                told.percentage_delivered == Some(n_acked.into()) && told.rows_sent > 10 * u64::from(n_acked)
            })
        });
        if progress(&told).is_some_and(|told| told.eta_ms.is_some()) {
            break;
        }
        ack(&mut client, &stream_id, n_acked.into());
        n_acked += 1;
    }
    client.send(&json!({"type": "pause_query", "stream_id": stream_id}));
    client.recv_until("the pause", |wire| matches!(wire, Wire::QueryPaused { .. }));
    for _ in 0..3 {
        let told = client.recv_until("progress", |wire| matches!(wire, Wire::QueryProgress { .. }));
        let told = progress(&told).unwrap();
        assert_eq!((told.phase.as_str(), told.eta_ms), ("paused", None), "{told:?}");
        assert_eq!(told.percentage_delivered, Some(n_acked.into()));
    }
}
