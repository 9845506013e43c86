//! A stream that outlives its connection: detach, resume, replay, supersession, expiry.

use std::time::Duration;

use rowstream::engine::memory::{Gate, MemoryEngine, Script};
use rowstream::server::{Limits, Rate};
use rowstream::{Server, ServerHandle, StreamingConfig};
use serde_json::{Value, json};
use tungstenite::Message;

use crate::flow::{ack, numbers, recv_batch};
use crate::support::{DEADLINE, Plain, Wire, eventually, serve, serve_with};

pub(crate) fn start(client: &mut Plain, query: &str, extra: Value) -> (String, String) {
    let mut fields = json!({"resumable": true, "batch_size": 10, "progress_interval_ms": 0});
    fields
        .as_object_mut()
        .unwrap()
        .extend(extra.as_object().unwrap().clone());
    client.query(query, fields);
    match client.recv_until("the start", |wire| matches!(wire, Wire::QueryStarted { .. })) {
        Wire::QueryStarted {
            stream_id,
            resume_token: Some(token),
            window: Some(_),
            retention: Some(_),
            ..
        } => (stream_id, token),
        other => panic!("not resumable: {other:?}"),
    }
}

pub(crate) fn resume(client: &mut Plain, token: &str, last_batch: i64) -> Wire {
    client
        .send(&json!({"type": "resume_query", "resume_token": token, "last_batch": last_batch, "request_id": "again"}));
    client.recv()
}

#[track_caller]
fn check_refused(answer: &Wire, code: &str) {
    match answer {
        Wire::Error {
            code: found,
            stream_id: None,
            request_id,
            ..
        } => {
            assert_eq!(found, code, "{answer:?}");
            assert_eq!(request_id.as_ref(), Some(&json!("again")));
        }
        other => panic!("not refused: {other:?}"),
    }
}

/// The next batch as it stands on the wire: number, rows, whether it says that it is a replay.
fn recv_raw_batch(client: &mut Plain) -> (u64, Value, bool) {
    match client.recv_unchecked() {
        Wire::QueryBatch {
            batch_number,
            rows,
            replay,
            ..
        } => (batch_number, Value::from(rows), replay),
        other => panic!("not a batch: {other:?}"),
    }
}

pub(crate) fn wait_until_detached(server: &ServerHandle) {
    eventually("the stream is detached", &vec![false], || {
        server
            .streams()
            .reports()
            .iter()
            .map(|report| report.attached)
            .collect()
    });
}

fn n_held(server: &ServerHandle) -> (usize, usize) {
    let streams = server.streams();
    (streams.reports().len(), streams.bytes_held())
}

#[test]
fn a_lost_connection_loses_and_repeats_no_row() {
    let script = Script::new(["n"]).generate(95, |n| vec![(n as i64).into()]);
    let server = serve(MemoryEngine::builder().query("q", script).build());
    let mut first = Plain::connect(&server);
    let (stream_id, token) = start(
        &mut first,
        "q",
        json!({"request_id": "mine", "window": {"batches": 4}, "checksum": true}),
    );
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(recv_raw_batch(&mut first));
    }
    drop(first);
    wait_until_detached(&server);
    assert_eq!(server.streams().statistics().detached, 1);
    // The client has processed two batches: the other two come again, the same to the last byte.
    let mut second = Plain::connect(&server);
    let resumed = resume(&mut second, &token, 1);
    let Wire::QueryResumed {
        stream_id: found,
        request_id,
        next_batch,
        resend_from,
        resume_token,
        ..
    } = &resumed
    else {
        panic!("not resumed: {resumed:?}")
    };
    assert_eq!((found, request_id.as_ref()), (&stream_id, Some(&json!("mine"))));
    assert_eq!((*resend_from, *next_batch), (2, 4));
    assert_ne!(*resume_token, token);
    for number in 2..4 {
        let (again, rows, is_replay) = recv_raw_batch(&mut second);
        assert_eq!((again, &rows, is_replay), (number, &seen[number as usize].1, true));
    }
    for number in 4..10_u64 {
        ack(&mut second, &stream_id, number as i64 - 1);
        let (found, rows, is_replay) = recv_raw_batch(&mut second);
        assert_eq!((found, is_replay), (number, false));
        seen.push((found, rows, is_replay));
    }
    let end = second.recv_unchecked();
    let Wire::QueryCompleted {
        total_rows: 95,
        batches: 10,
        digest: Some(_),
        ..
    } = &end
    else {
        panic!("not whole: {end:?}")
    };
    let rows: Vec<i64> = seen
        .iter()
        .flat_map(|(_, rows, _)| rows.as_array().unwrap().iter().map(|row| row["n"].as_i64().unwrap()))
        .collect();
    assert_eq!(rows, (0..95).collect::<Vec<_>>());
    // Once the client says that it has seen the end, nothing is held.
    second.send(&json!({"type": "ack", "stream_id": stream_id, "batch_number": 9, "end": true}));
    eventually("nothing is held", &(0, 0), || n_held(&server));
    check_refused(&resume(&mut second, resume_token, 9), "RESUME_EXPIRED");
}

#[test]
fn nobody_there_the_engine_goes_on_up_to_its_retention_and_stops() {
    let mut config = StreamingConfig::default();
    config.retention_bytes = 20_000;
    let server = serve_with(MemoryEngine::builder().query("q", numbers()).build(), 2, config);
    let mut client = Plain::connect(&server);
    let (_, token) = start(&mut client, "q", json!({"window": {"batches": 2}}));
    recv_batch(&mut client);
    drop(client);
    wait_until_detached(&server);
    eventually("it stands still", &true, || {
        let streams = server.streams();
        let report = &streams.reports()[0];
        report.status == rowstream::QueryStreamStatus::WaitingClient && report.rows_read > 500
    });
    let rows_read = server.streams().reports()[0].rows_read;
    assert!(rows_read < 2_000, "{rows_read}");
    // Whoever comes back finds its window respected all the same.
    let mut client = Plain::connect(&server);
    let resumed = resume(&mut client, &token, 0);
    assert!(
        matches!(resumed, Wire::QueryResumed { resend_from: 1, .. }),
        "{resumed:?}"
    );
    assert_eq!((recv_raw_batch(&mut client).0, recv_raw_batch(&mut client).0), (1, 2));
    client.assert_silence();
}

#[test]
fn a_result_that_ended_meanwhile_is_still_there() {
    let gate = Gate::new();
    let script = Script::new(["n"]).row([1.into()]).gate(&gate).row([2.into()]);
    let server = serve(MemoryEngine::builder().query("q", script).build());
    let mut client = Plain::connect(&server);
    let (_, token) = start(&mut client, "q", json!({}));
    recv_batch(&mut client);
    drop(client);
    wait_until_detached(&server);
    gate.open();
    eventually("the engine is done", &1, || server.streams().statistics().completed);
    for n in 0..2 {
        // The second time because the end was lost, too: with the token shown before, as nothing was acknowledged.
        let mut client = Plain::connect(&server);
        let resumed = resume(&mut client, &token, 0);
        assert!(
            matches!(&resumed, Wire::QueryResumed { state, .. } if state == "completed"),
            "{n}: {resumed:?}"
        );
        assert_eq!(recv_raw_batch(&mut client).0, 1);
        let end = client.recv_unchecked();
        assert!(matches!(end, Wire::QueryCompleted { total_rows: 2, .. }), "{end:?}");
    }
}

#[test]
fn the_newest_connection_wins_and_the_older_one_is_told() {
    let server = serve(MemoryEngine::builder().query("q", numbers()).build());
    let mut old = Plain::connect(&server);
    let (stream_id, token) = start(&mut old, "q", json!({"window": {"batches": 1}}));
    assert_eq!(recv_batch(&mut old), 0);
    let mut new = Plain::connect(&server);
    let resumed = resume(&mut new, &token, 0);
    let Wire::QueryResumed { resume_token, .. } = &resumed else {
        panic!("not resumed: {resumed:?}")
    };
    let told = old.recv();
    assert!(
        matches!(&told, Wire::Error { code, stream_id: Some(id), .. } if code == "SUPERSEDED" && *id == stream_id),
        "{told:?}"
    );
    // Whatever the old one still says of it changes nothing.
    assert_eq!(recv_raw_batch(&mut new).0, 1);
    ack(&mut old, &stream_id, 1);
    old.assert_silence();
    drop(old);
    new.assert_silence_unchecked();
    ack(&mut new, &stream_id, 1);
    assert_eq!(recv_raw_batch(&mut new).0, 2);
    // The token shown is dead now that the new one is known to be there.
    let mut third = Plain::connect(&server);
    check_refused(&resume(&mut third, &token, 1), "RESUME_EXPIRED");
    assert!(matches!(resume(&mut third, resume_token, 1), Wire::QueryResumed { .. }));
}

#[test]
fn a_resume_that_makes_no_sense_is_refused_and_changes_nothing() {
    let server = serve(MemoryEngine::builder().query("q", numbers()).build());
    let mut client = Plain::connect(&server);
    let (stream_id, token) = start(&mut client, "q", json!({"window": {"batches": 4}}));
    for _ in 0..4 {
        recv_batch(&mut client);
    }
    ack(&mut client, &stream_id, 2);
    for _ in 0..3 {
        recv_batch(&mut client);
    }
    check_refused(&resume(&mut client, &token, 4), "RESUME_DENIED");
    drop(client);
    wait_until_detached(&server);
    let mut client = Plain::connect(&server);
    let gap = resume(&mut client, &token, 1);
    check_refused(&gap, "RESUME_GAP");
    assert!(
        matches!(
            gap,
            Wire::Error {
                oldest_batch: Some(3),
                ..
            }
        ),
        "{gap:?}"
    );
    check_refused(&resume(&mut client, &token, 1_000_000), "BAD_MESSAGE");
    check_refused(&resume(&mut client, "AAAA", 3), "RESUME_DENIED");
    assert!(matches!(resume(&mut client, &token, 3), Wire::QueryResumed { .. }));
}

#[test]
fn who_comes_too_late_is_told_so() {
    let mut config = StreamingConfig::default();
    config.retention = Duration::from_millis(30);
    let engine = MemoryEngine::builder().query("q", numbers()).build();
    let server = serve_with(engine.clone(), 2, config);
    let mut client = Plain::connect(&server);
    let (_, token) = start(&mut client, "q", json!({}));
    recv_batch(&mut client);
    drop(client);
    eventually("it has expired", &1, || server.streams().statistics().expired);
    eventually("nothing is held", &(0, 0), || n_held(&server));
    eventually("its cursor is closed", &0, || engine.probe().cursors_open);
    assert_eq!(server.streams().statistics().cancelled, 1);
    let mut client = Plain::connect(&server);
    check_refused(&resume(&mut client, &token, 0), "RESUME_EXPIRED");
}

#[test]
fn a_restarted_server_refuses_the_tokens_of_the_one_before() {
    let engine = || MemoryEngine::builder().query("q", numbers()).build();
    let before = serve(engine());
    let mut client = Plain::connect(&before);
    let (_, token) = start(&mut client, "q", json!({}));
    recv_batch(&mut client);
    drop(client);
    before.shutdown();
    let after = serve(engine());
    let mut client = Plain::connect(&after);
    check_refused(&resume(&mut client, &token, 0), "RESUME_DENIED");
    client.assert_silence();
}

#[test]
fn a_stream_that_was_cancelled_while_nobody_was_there_says_so() {
    let server = serve(MemoryEngine::builder().query("q", numbers()).build());
    let mut client = Plain::connect(&server);
    let (stream_id, token) = start(&mut client, "q", json!({}));
    recv_batch(&mut client);
    drop(client);
    wait_until_detached(&server);
    let mut client = Plain::connect(&server);
    client.send(&json!({"type": "cancel_query", "stream_id": stream_id}));
    client.assert_silence();
    eventually("the engine has stopped", &1, || server.streams().statistics().cancelled);
    let resumed = resume(&mut client, &token, -1);
    let Wire::QueryResumed {
        next_batch,
        resend_from,
        state,
        ..
    } = &resumed
    else {
        panic!("{resumed:?}");
    };
    assert_eq!(
        (state.as_str(), resend_from),
        ("cancelled", next_batch),
        "nothing comes again"
    );
    assert!(*next_batch > 0, "{resumed:?}");
    let end = client.recv_unchecked();
    assert!(
        matches!(&end, Wire::QueryCancelled { reason, .. } if reason == "client"),
        "{end:?}"
    );
    client.assert_silence_unchecked();
}

#[test]
fn a_query_that_nobody_can_know_the_token_of_is_not_held() {
    let gate = Gate::new();
    let script = Script::new(["n"]).gate_on_open(&gate).row([1.into()]);
    let server = serve(MemoryEngine::builder().query("q", script).build());
    let mut client = Plain::connect(&server);
    client.query("q", json!({"resumable": true}));
    gate.wait_reached(DEADLINE).unwrap();
    drop(client);
    eventually("nothing is held", &(0, 0), || n_held(&server));
}

#[test]
fn where_memory_is_scarce_those_that_nobody_has_go_first() {
    let filler = "x".repeat(1_000);
    let script = Script::new(["x"]).generate(1 << 40, move |_| vec![filler.as_str().into()]);
    let mut config = StreamingConfig::default();
    config.held_bytes_max = 2 << 20;
    config.retention_bytes = 1 << 20;
    let server = serve_with(MemoryEngine::builder().query("q", script).build(), 2, config);
    let mut tokens = Vec::new();
    for n in 0..4 {
        let mut client = Plain::connect(&server);
        tokens.push(start(&mut client, "q", json!({"batch_size": 100, "window": {"batches": 1}})).1);
        recv_batch(&mut client);
        drop(client);
        eventually("it is detached", &(n + 1), || server.streams().statistics().detached);
    }
    eventually("some had to go", &true, || server.streams().statistics().expired >= 1);
    let mut client = Plain::connect(&server);
    check_refused(&resume(&mut client, &tokens[0], 0), "RESUME_EXPIRED");
    let held = server.streams().bytes_held();
    assert!(held <= (2 << 20) + 6 * 256 * 1024, "{held}");
}

/// A client that takes rows of the connection before acknowledges them on the new one before it has read the answer to its resume:
/// where that is lost, too, it has the older token only. Found by twenty thousand cuts.
#[test]
fn an_acknowledgement_of_what_came_before_proves_no_token() {
    let server = serve(MemoryEngine::builder().query("q", numbers()).build());
    let mut client = Plain::connect(&server);
    let (stream_id, token) = start(&mut client, "q", json!({"window": {"batches": 4}}));
    for _ in 0..4 {
        recv_batch(&mut client);
    }
    drop(client);
    wait_until_detached(&server);
    let mut lost = Plain::connect(&server);
    assert!(matches!(resume(&mut lost, &token, 3), Wire::QueryResumed { .. }));
    ack(&mut lost, &stream_id, 3);
    lost.send(&json!({"type": "ping"}));
    while !matches!(lost.recv_unchecked(), Wire::Pong { .. }) {}
    drop(lost);
    wait_until_detached(&server);
    let mut client = Plain::connect(&server);
    let resumed = resume(&mut client, &token, 3);
    assert!(matches!(resumed, Wire::QueryResumed { .. }), "{resumed:?}");
}

#[test]
fn a_resumed_stream_keeps_its_name_its_codec_and_its_window() {
    let endless = Script::new(["text"]).generate(1 << 40, |_| vec!["the same again ".repeat(20).into()]);
    let server = serve(MemoryEngine::builder().query("q", endless).build());
    let mut first = Plain::connect(&server);
    let extra = json!({"request_id": "mine", "window": {"batches": 2}, "compression": ["gzip"]});
    let (_, token) = start(&mut first, "q", extra);
    // What is said of a batch in a binary message: its number, and how it is compressed.
    let recv_header = |client: &mut Plain| {
        let message = client.next_raw();
        let Message::Binary(bytes) = message else {
            panic!("not a binary message: {message:?}")
        };
        let (length, rest) = bytes.split_first_chunk::<4>().unwrap();
        let header: Value = serde_json::from_slice(&rest[..u32::from_be_bytes(*length) as usize]).unwrap();
        (
            header["batch_number"].as_u64(),
            header["compression"].as_str().map(str::to_owned),
        )
    };
    for number in 0..2 {
        assert_eq!(recv_header(&mut first), (Some(number), Some("gzip".to_owned())));
    }
    drop(first);
    wait_until_detached(&server);
    let mut second = Plain::connect(&server);
    let resumed = resume(&mut second, &token, 0);
    assert!(
        matches!(&resumed, Wire::QueryResumed { request_id: Some(name), .. } if *name == "mine"),
        "{resumed:?}"
    );
    for number in 1..3 {
        assert_eq!(recv_header(&mut second), (Some(number), Some("gzip".to_owned())));
    }
    second.assert_silence_unchecked();
    second.send(&json!({"type": "ack", "request_id": "mine", "batch_number": 1}));
    assert_eq!(recv_header(&mut second), (Some(3), Some("gzip".to_owned())));
    second.send(&json!({"type": "cancel_query", "request_id": "mine"}));
    let end = second.recv_unchecked();
    assert!(
        matches!(&end, Wire::QueryCancelled { reason, .. } if reason == "client"),
        "{end:?}"
    );
}

fn rows_100() -> MemoryEngine {
    let script = Script::new(["n"]).generate(100, |n| vec![(n as i64).into()]);
    MemoryEngine::builder().query("q", script).build()
}

/// The names of a stream that has come to its end.
fn run_resumable(client: &mut Plain) -> (String, String) {
    let names = start(client, "q", json!({"batch_size": 100}));
    client.recv_until("the end", |wire| matches!(wire, Wire::QueryCompleted { .. }));
    names
}

/// T24: with a rate, one connection fills up the server more slowly; here it has none.
#[test]
fn who_hoards_streams_loses_its_own_and_nobody_else_s() {
    const RETAINED_MAX: usize = 20;
    let mut limits = Limits::default();
    limits.message_rate = None;
    limits.query_rate = None;
    let mut streaming = StreamingConfig::default();
    streaming.retained_streams_max = RETAINED_MAX;
    let builder = Server::builder().engine("memory", rows_100()).limits(limits);
    let server = builder.streaming(streaming).listen("127.0.0.1:0").start().unwrap();
    let mut honest = Plain::connect(&server);
    let tokens = [(); 3].map(|()| run_resumable(&mut honest).1);
    drop(honest);
    let mut hoarder = Plain::connect(&server);
    let hoarded: Vec<_> = (0..10 * RETAINED_MAX).map(|_| run_resumable(&mut hoarder).1).collect();
    let streams = server.streams();
    assert_eq!(
        streams.statistics().expired as usize,
        tokens.len() + hoarded.len() - RETAINED_MAX
    );
    let mut client = Plain::connect(&server);
    let mut resume = |token: &str| {
        let mut answer = resume(&mut client, token, -1);
        loop {
            match answer {
                Wire::QueryResumed { .. } | Wire::QueryBatch { .. } => answer = client.recv_unchecked(),
                Wire::QueryCompleted { total_rows, .. } => return Ok(total_rows),
                Wire::Error { code, .. } => return Err(code),
                other => panic!("{other:?}"),
            }
        }
    };
    for token in &tokens {
        assert_eq!(resume(token), Ok(100));
    }
    assert_eq!(resume(&hoarded[0]), Err("RESUME_EXPIRED".to_owned()));
    assert_eq!(resume(hoarded.last().unwrap()), Ok(100));
}

/// T24.
#[test]
fn a_resumable_query_counts_until_its_end_is_acknowledged() {
    let mut limits = Limits::default();
    limits.query_rate = Some(Rate::new(1, 30));
    let builder = Server::builder().engine("memory", rows_100()).limits(limits);
    let server = builder.listen("127.0.0.1:0").start().unwrap();
    let mut honest = Plain::connect(&server);
    for _ in 0..1_000 {
        let (stream_id, _) = run_resumable(&mut honest);
        honest.send(&json!({"type": "ack", "stream_id": stream_id, "batch_number": 0, "end": true}));
    }
    honest.assert_silence();
    assert_eq!(server.streams().reports().len(), 0);
    let mut hoarder = Plain::connect(&server);
    let code = loop {
        hoarder.query("q", json!({"resumable": true, "progress_interval_ms": 0}));
        let end = hoarder.recv_until("an end", |wire| {
            matches!(wire, Wire::QueryCompleted { .. } | Wire::Error { .. })
        });
        if let Wire::Error { code, .. } = end {
            break code;
        }
        assert!(server.streams().reports().len() < 1_000, "there is no rate");
    };
    assert_eq!((code.as_str(), hoarder.recv_close()), ("LIMIT_EXCEEDED", 4429));
    assert!(server.streams().reports().len() >= 30, "what was admitted is held");
}
