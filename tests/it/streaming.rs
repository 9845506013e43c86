//! What a client that behaves sees.

use std::time::Duration;

use rowstream::engine::Estimate;
use rowstream::engine::memory::{Gate, MemoryEngine, Script};
use rowstream::{Server, StreamingConfig};
use serde_json::{Value, json};

use crate::support::{DEADLINE, Plain, Wire, eventually, serve, serve_with};

fn numbers(n_rows: u64) -> MemoryEngine {
    let script = Script::new(["n", "name"]).generate(n_rows, |n| vec![(n as i64).into(), format!("row {n}").into()]);
    MemoryEngine::builder().query("numbers", script).build()
}

#[test]
fn a_plain_client_gets_everything_in_order() {
    let server = serve(numbers(250));
    let mut client = Plain::connect(&server);
    client.query("numbers", json!({"batch_size": 100}));
    let started = client.recv();
    let Wire::QueryStarted {
        query,
        estimated_rows,
        columns,
        row_format,
        ..
    } = &started
    else {
        panic!("{started:?}");
    };
    assert_eq!(
        (query.as_str(), *estimated_rows, row_format.as_str()),
        ("numbers", None, "object")
    );
    assert_eq!(columns.as_ref().unwrap()[1].label, "name");
    let seen = client.finish();
    assert_eq!(seen.batches, [100, 100, 50]);
    assert_eq!(seen.rows[249], json!({"n": 249, "name": "row 249"}));
    assert_eq!(seen.last_has_more, Some(false));
    let Some(Wire::QueryCompleted {
        total_rows,
        batches,
        truncated,
        truncate_reason,
        time_to_first_row_ms,
        ..
    }) = seen.end
    else {
        panic!("{:?}", seen.end);
    };
    assert_eq!((total_rows, batches, truncated, truncate_reason), (250, 3, false, None));
    assert!(time_to_first_row_ms.is_some());
    client.assert_silence();
}

#[test]
fn rows_can_be_arrays_and_batches_any_size() {
    let server = serve(numbers(10));
    let mut client = Plain::connect(&server);
    for (batch_size, batches) in [
        (1, vec![1; 10]),
        (3, vec![3, 3, 3, 1]),
        (10, vec![10]),
        (10_000, vec![10]),
    ] {
        let seen = client.run("numbers", json!({"batch_size": batch_size, "row_format": "array"}));
        assert_eq!(seen.assert_completed().batches, batches);
        assert_eq!(seen.rows[9], json!([9, "row 9"]));
    }
}

#[test]
fn batches_close_on_bytes_too() {
    let server = serve(numbers(100));
    let mut client = Plain::connect(&server);
    // `[0,"row 0"]` has 11 bytes, `,[1,"row 1"]` 12: the second row reaches 20.
    let seen = client.run(
        "numbers",
        json!({"row_format": "array", "max_batch_bytes": 20, "max_rows": 6}),
    );
    assert_eq!(seen.assert_completed().batches, [2, 2, 2]);
}

#[test]
fn an_empty_result_is_complete_without_a_batch() {
    let engine = MemoryEngine::builder().query("nothing", Script::new(["a"])).build();
    let server = serve(engine);
    let mut client = Plain::connect(&server);
    let seen = client.run("nothing", json!({}));
    assert!(seen.assert_completed().batches.is_empty());
    assert_eq!(seen.columns, ["a"]);
}

#[test]
fn the_clients_own_name_is_on_every_message() {
    let server = serve(numbers(5));
    let mut client = Plain::connect(&server);
    for request_id in [json!("my query"), json!(-7)] {
        client.query("numbers", json!({"request_id": request_id, "batch_size": 2}));
        loop {
            let wire = client.recv();
            let named = match &wire {
                Wire::QueryStarted { request_id, .. }
                | Wire::QueryBatch { request_id, .. }
                | Wire::QueryCompleted { request_id, .. } => request_id.clone(),
                other => panic!("{other:?}"),
            };
            assert_eq!(named.as_ref(), Some(&request_id));
            if wire.is_terminator() {
                break;
            }
        }
    }
}

#[test]
fn results_are_cut_off_only_where_rows_are_left_out() {
    let server = serve(numbers(10));
    let mut client = Plain::connect(&server);
    let mut run = |extra: Value| {
        let seen = client.run("numbers", extra);
        let rows = seen.rows.len();
        match seen.end {
            Some(Wire::QueryCompleted {
                truncate_reason,
                truncated,
                ..
            }) => {
                assert_eq!(truncated, truncate_reason.is_some());
                (rows, truncate_reason)
            }
            other => panic!("{other:?}"),
        }
    };
    let max_rows = Some("max_rows".to_owned());
    let max_bytes = Some("max_bytes".to_owned());
    assert_eq!(run(json!({"max_rows": 9})), (9, max_rows.clone()));
    assert_eq!(run(json!({"max_rows": 4, "batch_size": 3})), (4, max_rows.clone()));
    assert_eq!(run(json!({"max_rows": 1, "batch_size": 1})), (1, max_rows));
    assert_eq!(run(json!({"max_rows": 10})), (10, None));
    assert_eq!(run(json!({"max_rows": 11})), (10, None));
    // Ten rows of 11 bytes and nine commas are 119; the row that would pass the limit stays away.
    let bytes = |max_bytes: u64, batch_size: u64| json!({"row_format": "array", "max_bytes": max_bytes, "batch_size": batch_size});
    assert_eq!(run(bytes(119, 100)), (10, None));
    assert_eq!(run(bytes(118, 100)), (9, max_bytes.clone()));
    assert_eq!(run(bytes(11, 1)), (1, max_bytes.clone()));
    assert_eq!(run(bytes(10, 1)), (0, max_bytes));
}

#[test]
fn columns_that_are_known_late_come_in_a_message_of_their_own() {
    let script = Script::new(["late"]).columns_late().row([1.into()]);
    let server = serve(MemoryEngine::builder().query("late", script).build());
    let mut client = Plain::connect(&server);
    client.query("late", json!({}));
    let started = client.recv();
    assert!(
        matches!(started, Wire::QueryStarted { columns: None, .. }),
        "{started:?}"
    );
    let columns = client.recv();
    assert!(matches!(columns, Wire::QueryColumns { .. }), "{columns:?}");
    let seen = client.finish();
    assert_eq!(seen.rows, [json!({"late": 1})]);
}

#[test]
fn many_streams_share_one_connection() {
    const STREAMS: u64 = 100;
    let server = serve(numbers(1_000));
    let mut client = Plain::connect(&server);
    for n in 0..STREAMS {
        client.query("numbers", json!({"request_id": n, "batch_size": 10 + n}));
    }
    let mut n_completed = 0;
    while n_completed < STREAMS {
        let wire = client.recv();
        if wire.is_terminator() {
            assert!(
                matches!(wire, Wire::QueryCompleted { total_rows: 1_000, .. }),
                "{wire:?}"
            );
            n_completed += 1;
        }
    }
    client.assert_silence();
    assert_eq!(server.streams().statistics().completed, STREAMS);
}

#[test]
fn engines_are_chosen_by_name() {
    let engine = |value: i64| {
        let script = Script::new(["v"]).row([value.into()]);
        MemoryEngine::builder().query("which", script).build()
    };
    let builder = Server::builder().engine("one", engine(1)).engine("two", engine(2));
    let server = builder.listen("127.0.0.1:0").start().unwrap();
    let mut client = Plain::connect(&server);
    assert_eq!(client.run("which", json!({})).rows, [json!({"v": 1})]);
    assert_eq!(client.run("which", json!({"engine": "two"})).rows, [json!({"v": 2})]);
    client.query("which", json!({"engine": "three", "request_id": 3}));
    let refused = client.recv();
    let Wire::Error {
        code,
        message,
        stream_id: None,
        started: false,
        ..
    } = &refused
    else {
        panic!("{refused:?}")
    };
    assert_eq!(code, "BAD_MESSAGE");
    assert!(message.contains("one, two"), "{message}");
}

#[test]
fn pings_are_answered_with_what_they_carry() {
    let server = serve(numbers(0));
    let mut client = Plain::connect(&server);
    for timestamp in [json!(12.5), json!("now"), json!({"a": [1]})] {
        client.send(&json!({"type": "ping", "timestamp": timestamp}));
        assert_eq!(
            client.recv(),
            Wire::Pong {
                timestamp: Some(timestamp)
            }
        );
    }
    client.send(&json!({"type": "ping"}));
    assert_eq!(client.recv(), Wire::Pong { timestamp: None });
}

#[test]
fn progress_says_what_is_known() {
    let gate = Gate::new();
    let script = Script::new(["n"])
        .generate(30, |n| vec![(n as i64).into()])
        .gate(&gate)
        .generate(70, |n| vec![(n as i64).into()]);
    let server = serve(MemoryEngine::builder().query("q", script.total(100)).build());
    let mut client = Plain::connect(&server);
    client.query("q", json!({"batch_size": 10, "progress_interval_ms": 50}));
    let wire = client.recv_until("progress with a total", |wire| {
        matches!(
            wire,
            Wire::QueryProgress {
                total_rows: Some(_),
                ..
            }
        )
    });
    let Wire::QueryProgress {
        rows_processed,
        percentage,
        total_kind,
        total_rows,
        rows_sent,
        phase,
        ..
    } = wire
    else {
        unreachable!();
    };
    assert_eq!((rows_processed, percentage, rows_sent), (30, Some(30.0), Some(30)));
    assert_eq!(
        (total_kind.as_deref(), total_rows, phase.as_deref()),
        (Some("exact"), Some(100), Some("streaming"))
    );
    gate.open();
    client.finish().assert_completed();
}

#[test]
fn without_an_honest_total_there_is_no_percentage() {
    let gate = Gate::new();
    let script = Script::new(["n"]).row([1.into()]).gate(&gate);
    let engine = MemoryEngine::builder().query("q", script).build();
    let server = serve(engine.clone());
    let mut client = Plain::connect(&server);
    client.query("q", json!({"progress_interval_ms": 50}));
    for _ in 0..2 {
        let wire = client.recv_until("progress", |wire| matches!(wire, Wire::QueryProgress { .. }));
        let Wire::QueryProgress {
            percentage,
            eta_ms,
            total_kind,
            ..
        } = wire
        else {
            unreachable!()
        };
        assert_eq!((percentage, eta_ms, total_kind.as_deref()), (None, None, Some("none")));
    }
    gate.open();
    client.finish().assert_completed();
}

#[test]
fn work_done_stands_in_for_a_count() {
    let gate = Gate::new();
    let script = Script::new(["n"]).generate(25, |_| vec![0.into()]).gate(&gate);
    let script = script.estimate(Estimate::default().with_work_total(100));
    let server = serve(MemoryEngine::builder().query("q", script).build());
    let mut client = Plain::connect(&server);
    client.query("q", json!({"progress_interval_ms": 50, "batch_size": 5}));
    let wire = client.recv_until("a percentage", |wire| {
        matches!(
            wire,
            Wire::QueryProgress {
                percentage: Some(_),
                ..
            }
        )
    });
    let Wire::QueryProgress {
        percentage, total_rows, ..
    } = wire
    else {
        unreachable!()
    };
    assert_eq!((percentage, total_rows), (Some(25.0), None));
    gate.open();
    client.finish().assert_completed();
}

#[test]
fn progress_can_be_plain_or_off() {
    let gate = Gate::new();
    let script = Script::new(["n"]).row([1.into()]).gate(&gate);
    let engine = MemoryEngine::builder().query("q", script.total(2)).build();
    let mut plain = StreamingConfig::default();
    plain.detailed_progress = false;
    plain.progress_interval = Duration::from_millis(50);
    let server = serve_with(engine.clone(), 4, plain);
    let mut client = Plain::connect(&server);
    client.query("q", json!({}));
    let wire = client.recv_until("progress", |wire| matches!(wire, Wire::QueryProgress { .. }));
    assert!(
        matches!(
            wire,
            Wire::QueryProgress {
                phase: None,
                elapsed_ms: None,
                ..
            }
        ),
        "{wire:?}"
    );
    let mut quiet = Plain::connect(&server);
    quiet.query("q", json!({"progress_interval_ms": 0}));
    quiet.recv_started();
    gate.wait_reached_by(2, DEADLINE).unwrap();
    gate.open();
    assert!(quiet.finish().progress.is_empty());
    eventually("no cursor", &0, || engine.probe().cursors_open);
}
