//! Windows, pauses, priorities, limits and reports: what a client may ask of a stream while it runs.

use std::time::Duration;

use rowstream::engine::memory::{Gate, MemoryEngine, Script};
use rowstream::{QueryStreamStatus, Server, ServerHandle, StreamingConfig};
use serde_json::{Value, json};

use crate::support::{DEADLINE, Plain, Wire, eventually, serve, serve_with};

/// Numbers from 0 on without end.
pub(crate) fn numbers() -> Script {
    Script::new(["n"]).generate(1 << 40, |n| vec![(n as i64).into()])
}

pub(crate) fn recv_batch(client: &mut Plain) -> u64 {
    let wire = client.recv_until("a batch", |wire| matches!(wire, Wire::QueryBatch { .. }));
    match wire {
        Wire::QueryBatch { batch_number, .. } => batch_number,
        other => panic!("not a batch: {other:?}"),
    }
}

pub(crate) fn ack(client: &mut Plain, stream_id: &str, batch_number: i64) {
    client.send(&json!({"type": "ack", "stream_id": stream_id, "batch_number": batch_number}));
}

fn status_of(server: &ServerHandle) -> QueryStreamStatus {
    let streams = server.streams();
    let [report] = streams.reports() else {
        panic!("not one stream: {streams:?}")
    };
    report.status
}

#[track_caller]
fn wait_for_status(server: &ServerHandle, status: QueryStreamStatus) {
    eventually("the stream's status", &status, || status_of(server));
}

#[test]
fn a_client_that_never_acknowledges_gets_its_window_and_the_engine_is_not_read_ahead() {
    let engine = MemoryEngine::builder().query("q", numbers()).build();
    let server = serve(engine);
    let mut client = Plain::connect(&server);
    client.query(
        "q",
        json!({"batch_size": 10, "window": {"batches": 3}, "progress_interval_ms": 0}),
    );
    let stream_id = client.recv_started();
    for number in 0..3 {
        assert_eq!(recv_batch(&mut client), number);
    }
    wait_for_status(&server, QueryStreamStatus::WaitingClient);
    client.assert_silence();
    assert_eq!(server.streams().reports()[0].rows_read, 30, "made is what was sent");
    // Half of it is given back, and as much comes again.
    ack(&mut client, &stream_id, 1);
    assert_eq!((recv_batch(&mut client), recv_batch(&mut client)), (3, 4));
    // An old one changes nothing.
    ack(&mut client, &stream_id, 0);
    client.assert_silence();
    // Neither does one of what was never sent, apart from the answer.
    ack(&mut client, &stream_id, 5);
    let answer = client.recv();
    assert!(
        matches!(&answer, Wire::Error { code, stream_id: None, .. } if code == "BAD_MESSAGE"),
        "{answer:?}"
    );
    ack(&mut client, &stream_id, 4);
    assert_eq!(recv_batch(&mut client), 5);
}

#[test]
fn a_window_in_bytes_lets_one_batch_go_however_big() {
    let filler = "x".repeat(5_000);
    let script = Script::new(["x"]).generate(10, move |_| vec![filler.as_str().into()]);
    let server = serve(MemoryEngine::builder().query("q", script).build());
    let mut client = Plain::connect(&server);
    client.query(
        "q",
        json!({"batch_size": 1, "window": {"bytes": 100}, "progress_interval_ms": 0}),
    );
    let stream_id = client.recv_started();
    for number in 0..10 {
        assert_eq!(recv_batch(&mut client), number);
        if number < 9 {
            client.assert_silence();
            ack(&mut client, &stream_id, number as i64);
        }
    }
    let end = client.recv_until("the end", Wire::is_terminator);
    assert!(matches!(end, Wire::QueryCompleted { total_rows: 10, .. }), "{end:?}");
    // Crossed with the end, an acknowledgement is no mistake.
    ack(&mut client, &stream_id, 9);
    client.assert_silence();
}

#[test]
fn the_end_waits_behind_the_rows_that_the_window_holds_back() {
    let script = Script::new(["n"]).generate(4, |n| vec![(n as i64).into()]);
    let server = serve(MemoryEngine::builder().query("q", script).build());
    let mut client = Plain::connect(&server);
    client.query(
        "q",
        json!({"batch_size": 1, "window": {"batches": 2}, "progress_interval_ms": 0}),
    );
    let stream_id = client.recv_started();
    assert_eq!((recv_batch(&mut client), recv_batch(&mut client)), (0, 1));
    client.assert_silence();
    ack(&mut client, &stream_id, 1);
    assert_eq!((recv_batch(&mut client), recv_batch(&mut client)), (2, 3));
    assert!(
        client.recv().is_terminator(),
        "nothing is held back behind the last batch"
    );
}

#[test]
fn a_paused_stream_makes_and_sends_nothing() {
    let server = serve(MemoryEngine::builder().query("q", numbers()).build());
    let mut client = Plain::connect(&server);
    client.query(
        "q",
        json!({"batch_size": 10, "window": {"batches": 4}, "progress_interval_ms": 50}),
    );
    let stream_id = client.recv_started();
    assert_eq!(recv_batch(&mut client), 0);
    client.send(&json!({"type": "pause_query", "stream_id": stream_id}));
    let paused = client.recv_until("the pause", |wire| {
        !matches!(wire, Wire::QueryBatch { .. } | Wire::QueryProgress { .. })
    });
    assert!(matches!(&paused, Wire::QueryPaused { .. }), "{paused:?}");
    wait_for_status(&server, QueryStreamStatus::Paused);
    ack(&mut client, &stream_id, 0);
    let progress = client.recv();
    assert!(
        matches!(&progress, Wire::QueryProgress { phase: Some(phase), .. } if phase == "paused"),
        "{progress:?}"
    );
    let rows_read = server.streams().reports()[0].rows_read;
    let bytes_held = server.streams().bytes_held();
    let progress = client.recv();
    assert!(matches!(progress, Wire::QueryProgress { .. }), "{progress:?}");
    assert_eq!(server.streams().reports()[0].rows_read, rows_read);
    assert!(server.streams().bytes_held() <= bytes_held);
    client.send(&json!({"type": "unpause_query", "stream_id": stream_id}));
    let unpaused = client.recv_until("the end of the pause", |wire| {
        !matches!(wire, Wire::QueryProgress { .. })
    });
    assert!(matches!(&unpaused, Wire::QueryUnpaused { .. }), "{unpaused:?}");
    recv_batch(&mut client);
}

#[test]
fn a_paused_stream_can_be_cancelled() {
    let script = Script::new(["n"]).generate(8, |n| vec![(n as i64).into()]);
    let server = serve(
        MemoryEngine::builder()
            .query("q", numbers())
            .query("short", script)
            .build(),
    );
    for query in ["q", "short"] {
        let mut client = Plain::connect(&server);
        client.query(
            query,
            json!({"batch_size": 1, "window": {"batches": 2}, "progress_interval_ms": 0}),
        );
        let stream_id = client.recv_started();
        client.send(&json!({"type": "pause_query", "stream_id": stream_id}));
        client.recv_until("the pause", |wire| matches!(wire, Wire::QueryPaused { .. }));
        client.send(&json!({"type": "cancel_query", "stream_id": stream_id}));
        let end = client.recv();
        assert!(
            matches!(&end, Wire::QueryCancelled { reason, .. } if reason == "client"),
            "{end:?}"
        );
        client.assert_silence();
    }
    eventually("nothing is held", &(0, 0), || {
        let streams = server.streams();
        (streams.reports().len(), streams.bytes_held())
    });
}

#[test]
fn the_urgent_overtake_and_the_others_are_not_forgotten() {
    const N_LOW: usize = 8;
    let filler = "x".repeat(1_000);
    let script = Script::new(["n", "x"]).generate(1 << 40, move |n| vec![(n as i64).into(), filler.as_str().into()]);
    // One worker and nobody who reads: what is sent then is the order of the queues, not of the threads.
    let server = serve_with(
        MemoryEngine::builder().query("q", script).build(),
        1,
        StreamingConfig::default(),
    );
    let mut client = Plain::connect(&server);
    for n in 0..N_LOW {
        client.query("q", json!({"request_id": n, "priority": 1, "progress_interval_ms": 0}));
    }
    client.query(
        "q",
        json!({"request_id": "urgent", "priority": 1, "progress_interval_ms": 0}),
    );
    crate::blocking::wait_until_stalled(&server, N_LOW + 1);
    client.send(&json!({"type": "set_priority", "request_id": "urgent", "priority": 7}));
    client.send(&json!({"type": "ping", "timestamp": "set"}));
    client.recv_until("the answer", |wire| matches!(wire, Wire::Pong { .. }));
    let (mut urgent, mut others) = (0, 0);
    for _ in 0..1_000 {
        match client.recv() {
            Wire::QueryBatch { request_id, .. } if request_id == Some(Value::from("urgent")) => urgent += 1,
            Wire::QueryBatch { .. } => others += 1,
            _ => {}
        }
    }
    // How much of the connection the urgent one can use is a matter of speed; that it comes far before any other is not.
    assert!(
        urgent > 8 * others / N_LOW,
        "{urgent} of the urgent one, {others} of others"
    );
    assert!(others >= 25, "{others} of others");
}

#[test]
fn queries_beyond_the_workers_are_told_their_position_and_those_beyond_the_queue_are_refused() {
    let gate = Gate::new();
    let script = Script::new(["n"]).gate(&gate).row([1.into()]);
    let mut config = StreamingConfig::default();
    config.queries_waiting_max = 2;
    let server = serve_with(
        MemoryEngine::builder().query("q", script.ignore_cancel()).build(),
        1,
        config,
    );
    let mut client = Plain::connect(&server);
    client.query("q", json!({"request_id": 0, "progress_interval_ms": 0}));
    client.recv_started();
    gate.wait_reached(DEADLINE).unwrap();
    for position in 1..=2 {
        client.query("q", json!({"request_id": position, "progress_interval_ms": 0}));
        let queued = client.recv();
        assert!(
            matches!(&queued, Wire::QueryQueued { position: found, .. } if *found == position),
            "{queued:?}"
        );
    }
    client.query("q", json!({"request_id": 3}));
    let refused = client.recv();
    assert!(
        matches!(&refused, Wire::Error { code, retryable: true, .. } if code == "QUEUE_FULL"),
        "{refused:?}"
    );
    // Cancelled, the first still has the worker, because its engine goes on: nothing moves up.
    client.send(&json!({"type": "cancel_query", "request_id": 0}));
    client.query("q", json!({"request_id": 3}));
    let refused = client.recv();
    assert!(
        matches!(&refused, Wire::Error { code, .. } if code == "QUEUE_FULL"),
        "{refused:?}"
    );
    gate.open();
    let mut n_ended = 0;
    while n_ended < 3 {
        n_ended += usize::from(client.recv().is_terminator());
    }
}

/// The next progress of a stream that waits for its client: which bound it has reached, and what to do.
fn recv_blocked(client: &mut Plain, with_hint: bool) -> (String, Option<String>) {
    let blocked = client.recv_until(
        "progress of a stream that waits",
        |wire| matches!(wire, Wire::QueryProgress { blocked_by: Some(_), hint, .. } if hint.is_some() == with_hint),
    );
    match blocked {
        Wire::QueryProgress {
            phase: Some(phase),
            blocked_by: Some(blocked_by),
            hint,
            ..
        } => {
            assert_eq!(phase, "waiting_client");
            (blocked_by, hint)
        }
        other => panic!("not progress: {other:?}"),
    }
}

#[test]
fn a_stream_that_stands_still_says_what_it_waits_for_and_once_what_to_do() {
    let server = serve(MemoryEngine::builder().query("q", numbers()).build());
    // Never mind how seldom it reports.
    for (extra, bound, unacknowledged) in [
        (json!({"window": {"batches": 3}}), "window_batches", "3 batches ("),
        (json!({"window": {"bytes": 1}}), "window_bytes", "1 batch ("),
        (json!({"resumable": true}), "window_batches", "64 batches ("),
    ] {
        let mut client = Plain::connect(&server);
        let mut fields = json!({"batch_size": 10, "progress_interval_ms": 3_600_000});
        fields
            .as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        client.query("q", fields);
        let stream_id = client.recv_started();
        let (blocked_by, hint) = recv_blocked(&mut client, true);
        assert_eq!(blocked_by, bound);
        let hint = hint.unwrap();
        for says in [
            "acknowledge every batch",
            "acks are free",
            unacknowledged,
            "stall_limit",
        ] {
            assert!(hint.contains(says), "{says} is not in {hint}");
        }
        client.send(&json!({"type": "cancel_query", "stream_id": stream_id}));
        let end = client.recv_until("the end", Wire::is_terminator);
        let Wire::QueryCancelled { blocked_by: None, .. } = end else {
            panic!("{end:?}")
        };
    }
}

#[test]
fn a_stream_says_what_it_waits_for_as_often_as_it_reports_and_never_where_it_does_not() {
    let server = serve(MemoryEngine::builder().query("q", numbers()).build());
    let mut client = Plain::connect(&server);
    client.query(
        "q",
        json!({"batch_size": 10, "window": {"batches": 3}, "progress_interval_ms": 50}),
    );
    client.recv_started();
    assert_eq!(recv_blocked(&mut client, true).0, "window_batches");
    for _ in 0..3 {
        assert_eq!(recv_blocked(&mut client, false).0, "window_batches");
    }
    let mut quiet = Plain::connect(&server);
    quiet.query(
        "q",
        json!({"batch_size": 10, "window": {"batches": 3}, "progress_interval_ms": 0}),
    );
    quiet.recv_started();
    for number in 0..3 {
        assert_eq!(recv_batch(&mut quiet), number);
    }
    // By then it has stood still for longer than it takes to say so.
    for _ in 0..15 {
        recv_blocked(&mut client, false);
    }
    quiet.assert_silence();
}

#[test]
fn a_client_that_takes_nothing_is_cut_off() {
    let mut config = StreamingConfig::default();
    config.stall_limit = Duration::from_millis(200);
    let server = serve_with(MemoryEngine::builder().query("q", numbers()).build(), 2, config);
    let mut client = Plain::connect(&server);
    client.query(
        "q",
        json!({"batch_size": 1, "window": {"batches": 2}, "progress_interval_ms": 0}),
    );
    let seen = client.finish();
    assert_eq!(seen.cancel_reason(), "slow_client");
    assert_eq!(seen.limit(), "stall_limit");
    assert_eq!(seen.rows.len(), 2);
    let Some(Wire::QueryCancelled {
        blocked_by: Some(blocked_by),
        limit: Some(limit),
        ..
    }) = &seen.end
    else {
        panic!("{:?}", seen.end)
    };
    assert_eq!((blocked_by.as_str(), limit.as_str()), ("window_batches", "stall_limit"));
    // A resumable one waits for a better time.
    client.query(
        "q",
        json!({"batch_size": 1, "window": {"batches": 2}, "resumable": true, "progress_interval_ms": 0}),
    );
    let started = client.recv();
    let Wire::QueryStarted {
        resume_token: Some(token),
        ..
    } = started
    else {
        panic!("no token: {started:?}")
    };
    let end = client.recv_until("the end on this connection", Wire::is_terminator);
    assert!(
        matches!(&end, Wire::Error { code, hint: Some(hint), .. } if code == "SLOW_CONSUMER" && hint.starts_with("window_batches: ")),
        "{end:?}"
    );
    client.send(&json!({"type": "resume_query", "resume_token": token, "last_batch": 1}));
    let resumed = client.recv();
    assert!(
        matches!(
            &resumed,
            Wire::QueryResumed {
                next_batch: 2,
                resend_from: 2,
                ..
            }
        ),
        "{resumed:?}"
    );
}

/// Starts a query and has it stand still with a full window, paused. `None` where this took longer than the stall limit.
fn pause_with_a_full_window(client: &mut Plain) -> Option<()> {
    client.query(
        "q",
        json!({"request_id": "mine", "batch_size": 1, "window": {"batches": 2}, "progress_interval_ms": 50}),
    );
    client.recv_until("a full window", |wire| {
        matches!(wire, Wire::QueryBatch { batch_number: 1, .. })
    });
    client.send(&json!({"type": "pause_query", "request_id": "mine"}));
    let answer = client.recv_until("a pause", |wire| {
        wire.is_terminator() || matches!(wire, Wire::QueryPaused { .. })
    });
    if answer.is_terminator() {
        // That there is nothing to pause may be said, too.
        client.send(&json!({"type": "ping"}));
        client.recv_until("a pong", |wire| matches!(wire, Wire::Pong { .. }));
        return None;
    }
    Some(())
}

#[test]
fn who_has_paused_is_no_slow_client_though_its_window_is_full() {
    let mut config = StreamingConfig::default();
    config.stall_limit = Duration::from_millis(500);
    let server = serve_with(MemoryEngine::builder().query("q", numbers()).build(), 2, config);
    let mut client = Plain::connect(&server);
    while pause_with_a_full_window(&mut client).is_none() {}
    // Progress every 50 ms is the clock here, too.
    for _ in 0..14 {
        let progress = client.recv();
        assert!(matches!(progress, Wire::QueryProgress { .. }), "{progress:?}");
    }
    client.send(&json!({"type": "ack", "request_id": "mine", "batch_number": 1}));
    client.send(&json!({"type": "unpause_query", "request_id": "mine"}));
    client.recv_until("another row", |wire| {
        matches!(wire, Wire::QueryBatch { batch_number: 2, .. })
    });
}

#[test]
fn an_engine_that_takes_long_is_no_slow_client() {
    let gate = Gate::new();
    let script = Script::new(["n"]).row([1.into()]).gate(&gate).row([2.into()]);
    let mut config = StreamingConfig::default();
    config.stall_limit = Duration::from_millis(200);
    let server = serve_with(MemoryEngine::builder().query("q", script).build(), 2, config);
    let mut client = Plain::connect(&server);
    // Progress every 50 ms is the clock: eight of them, and the limit has long passed.
    client.query("q", json!({"window": {"batches": 4}, "progress_interval_ms": 50}));
    client.recv_started();
    gate.wait_reached(DEADLINE).unwrap();
    for _ in 0..8 {
        client.recv_until("progress", |wire| matches!(wire, Wire::QueryProgress { .. }));
    }
    gate.open();
    client.recv_until("the end", |wire| matches!(wire, Wire::QueryCompleted { .. }));
}

#[test]
fn streams_are_listed_with_what_is_true_of_them() {
    let gate = Gate::new();
    let script = Script::new(["n"]).row([1.into()]).gate(&gate).row([2.into()]);
    let server = serve(MemoryEngine::builder().query("q", script).build());
    let mut client = Plain::connect(&server);
    client.query(
        "q",
        json!({"request_id": "mine", "priority": 5, "weight": 32, "window": {"batches": 4}, "progress_interval_ms": 0}),
    );
    let stream_id = client.recv_started();
    recv_batch(&mut client);
    ack(&mut client, &stream_id, 0);
    client.send(&json!({"type": "query_status", "query_id": stream_id}));
    let status = client.recv();
    let Wire::QueryStatus(status) = &status else {
        panic!("no status: {status:?}")
    };
    assert_eq!(
        (status.query.as_str(), status.engine.as_str(), status.state.as_str()),
        ("q", "memory", "streaming")
    );
    assert_eq!(
        (status.priority, status.weight, status.attached, status.resumable),
        (5, 32, true, false)
    );
    assert_eq!(
        (
            status.rows_processed,
            status.rows_sent,
            status.batches_sent,
            status.batches_acked
        ),
        (1, 1, 1, 1)
    );
    // From another connection of the same client as well.
    let mut other = Plain::connect(&server);
    other.send(&json!({"type": "list_queries", "request_id": "list"}));
    let list = other.recv();
    let Wire::QueryList {
        request_id,
        queries,
        total,
    } = &list
    else {
        panic!("no list: {list:?}")
    };
    assert_eq!(
        (request_id.as_ref(), queries.len(), *total),
        (Some(&json!("list")), 1, 1)
    );
    assert_eq!(queries[0].stream_id, stream_id);
    other.send(&json!({"type": "list_queries", "scope": "all"}));
    let refused = other.recv();
    assert!(
        matches!(&refused, Wire::Error { code, .. } if code == "PERMISSION_DENIED"),
        "{refused:?}"
    );
    let report = server.streams().reports()[0].clone();
    assert_eq!((report.batches_sent, report.batches_acked, report.priority), (1, 1, 5));
    gate.open();
    client.recv_until("the end", Wire::is_terminator);
    eventually("an empty list", &0, || server.streams().reports().len());
}

#[test]
fn what_is_held_is_bounded_and_comes_back_to_nothing() {
    const N_STREAMS: usize = 32;
    let filler = "x".repeat(1_000);
    let script = Script::new(["x"]).generate(1 << 40, move |_| vec![filler.as_str().into()]);
    let mut config = StreamingConfig::default();
    config.held_bytes_max = 1 << 20;
    let (held_max, batch_max) = (config.held_bytes_max, 256 * 1024);
    let server = serve_with(MemoryEngine::builder().query("q", script).build(), 4, config);
    let mut client = Plain::connect(&server);
    for _ in 0..N_STREAMS {
        // Retained until acknowledged, so that the window is what each would hold.
        client.query(
            "q",
            json!({"batch_size": 100, "resumable": true, "window": {"bytes": 1 << 20}, "progress_interval_ms": 0}),
        );
    }
    crate::blocking::wait_until_stalled(&server, N_STREAMS);
    let held = server.streams().bytes_held();
    assert!(held > held_max / 2, "{held}");
    assert!(held <= held_max + (N_STREAMS + 4) * batch_max, "{held}");
    drop(client);
    server.shutdown();
    assert_eq!(server.streams().bytes_held(), 0);
}

#[test]
fn a_stream_whose_rows_come_slowly_takes_turns_with_others() {
    let slowly = (0..3_000).fold(Script::new(["n"]), |script, n| {
        script.row([n.into()]).delay(Duration::from_millis(100))
    });
    let few = Script::new(["n"]).rows((0..10).map(|n| vec![n.into()]));
    let engine = MemoryEngine::builder().query("slow", slowly).query("few", few).build();
    let server = Server::builder()
        .engine("m", engine)
        .workers(1)
        .listen("127.0.0.1:0")
        .start()
        .unwrap();
    let [mut slow, mut other] = [(); 2].map(|()| Plain::connect(&server));
    slow.query("slow", json!({"batch_size": 1, "progress_interval_ms": 0}));
    recv_batch(&mut slow);
    // Each batch is a turn of its own, and the only worker has others to give.
    let seen = other.run("few", json!({"batch_size": 1, "progress_interval_ms": 0}));
    seen.assert_completed();
    other.send(&json!({"type": "describe_query", "query": "few"}));
    assert!(matches!(other.recv(), Wire::QueryDescription { .. }));
}
