//! What goes wrong is said clearly, with a stable code, and touches nothing else.

use rowstream::client::{Client, ClientError};
use rowstream::engine::memory::{Gate, MemoryEngine, Script};
use rowstream::engine::{EngineError, EngineErrorKind};
use rowstream::server::HostLimits;
use rowstream::{Server, StreamingConfig};
use serde_json::{Value, json};
use tungstenite::Message;

use crate::support::{DEADLINE, Plain, Wire, serve, serve_with, unhurried};

#[track_caller]
fn check_refused(client: &mut Plain, message: &Value, code: &str) {
    client.send(message);
    let answer = client.recv();
    let Wire::Error {
        code: found,
        stream_id: None,
        started: false,
        request_id,
        ..
    } = &answer
    else {
        panic!("{message}: {answer:?}");
    };
    assert_eq!(found, code, "{message}: {answer:?}");
    assert_eq!(request_id.as_ref(), message.get("request_id"), "{message}");
}

#[test]
fn requests_that_cannot_be_are_refused_one_by_one() {
    let server = serve(MemoryEngine::builder().query("q", Script::new(["n"])).build());
    let mut client = Plain::connect(&server);
    let query = |extra: Value| {
        let mut message = json!({"type": "stream_query", "query": "q", "request_id": "r"});
        message
            .as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        message
    };
    check_refused(&mut client, &json!([1]), "BAD_MESSAGE");
    check_refused(&mut client, &json!({"type": "unheard_of"}), "BAD_MESSAGE");
    check_refused(
        &mut client,
        &json!({"type": "stream_query", "request_id": 5}),
        "BAD_MESSAGE",
    );
    check_refused(&mut client, &query(json!({"batch_size": 0})), "BAD_MESSAGE");
    check_refused(&mut client, &query(json!({"batch_size": "many"})), "BAD_MESSAGE");
    check_refused(&mut client, &query(json!({"engine": "nowhere"})), "BAD_MESSAGE");
    check_refused(&mut client, &query(json!({"batch_size": 10_001})), "LIMIT_EXCEEDED");
    check_refused(
        &mut client,
        &query(json!({"max_batch_bytes": 2_000_000})),
        "LIMIT_EXCEEDED",
    );
    check_refused(
        &mut client,
        &query(json!({"progress_interval_ms": 1})),
        "LIMIT_EXCEEDED",
    );
    check_refused(&mut client, &query(json!({"format": "parquet"})), "UNSUPPORTED");
    check_refused(
        &mut client,
        &json!({"type": "resume_query", "request_id": 1}),
        "BAD_MESSAGE",
    );
    check_refused(
        &mut client,
        &json!({"type": "resume_query", "resume_token": "x", "last_batch": -1, "request_id": 1}),
        "RESUME_DENIED",
    );
    for (extra, code) in [
        (json!({"window": {"batches": 0}}), "LIMIT_EXCEEDED"),
        (json!({"window": {"bytes": 1_u64 << 40}}), "LIMIT_EXCEEDED"),
        (json!({"window": {"bytes": -1}}), "BAD_MESSAGE"),
        (json!({"window": 7}), "BAD_MESSAGE"),
        (json!({"priority": 8}), "LIMIT_EXCEEDED"),
        (json!({"weight": 1000}), "LIMIT_EXCEEDED"),
        (json!({"resumable": "yes"}), "BAD_MESSAGE"),
    ] {
        check_refused(&mut client, &query(extra), code);
    }
    let unknown = "7f1b4c1e-5a0e-4a53-9d8f-1c5f5f1f4f10";
    for kind in ["pause_query", "unpause_query", "set_priority", "query_status", "ack"] {
        client.send(&json!({"type": kind, "stream_id": unknown, "batch_number": 1}));
        let answer = client.recv();
        assert!(
            matches!(&answer, Wire::Error { code, .. } if code == "STREAM_NOT_FOUND"),
            "{kind}: {answer:?}"
        );
    }
    check_refused(&mut client, &query(json!({"params": [{}]})), "PARAMETER_ERROR");
    check_refused(
        &mut client,
        &json!({"type": "cancel_query", "request_id": "none"}),
        "STREAM_NOT_FOUND",
    );
    client.run("q", json!({})).assert_completed();
}

#[test]
fn a_name_in_use_is_refused_and_free_again_afterwards() {
    let gate = Gate::new();
    let script = Script::new(["n"]).gate(&gate);
    let server = serve(MemoryEngine::builder().query("q", script).build());
    let mut client = Plain::connect(&server);
    client.query("q", json!({"request_id": "x"}));
    client.recv_started();
    check_refused(
        &mut client,
        &json!({"type": "stream_query", "query": "q", "request_id": "x"}),
        "DUPLICATE_REQUEST_ID",
    );
    gate.open();
    client.finish().assert_completed();
    client.run("q", json!({"request_id": "x"})).assert_completed();
}

#[test]
fn streams_beyond_the_connections_limit_are_refused() {
    let gate = Gate::new();
    let engine = MemoryEngine::builder()
        .query("q", Script::new(["n"]).gate(&gate))
        .build();
    let builder = Server::builder().engine("memory", engine).listen("127.0.0.1:0");
    let server = builder.streams_per_connection_max(2).start().unwrap();
    let mut client = Plain::connect(&server);
    for _ in 0..2 {
        client.query("q", json!({}));
        client.recv_started();
    }
    check_refused(
        &mut client,
        &json!({"type": "stream_query", "query": "q"}),
        "TOO_MANY_STREAMS",
    );
    gate.open();
    for _ in 0..2 {
        client.recv_until("an end", Wire::is_terminator);
    }
    client.run("q", json!({})).assert_completed();
}

#[test]
fn a_full_queue_is_said_to_be_full() {
    const WAITING_MAX: usize = 4096;
    let gate = Gate::new();
    let engine = MemoryEngine::builder()
        .query("q", Script::new(["n"]).gate(&gate))
        .build();
    let builder = Server::builder().engine("memory", engine).listen("127.0.0.1:0");
    let server = builder
        .workers(1)
        .streams_per_connection_max(WAITING_MAX * 2)
        .host_limits(HostLimits::default())
        .limits(unhurried())
        .start()
        .unwrap();
    let mut client = Plain::connect(&server);
    client.query("q", json!({"progress_interval_ms": 0}));
    gate.wait_reached(DEADLINE).unwrap();
    client.recv_started();
    for n in 0..WAITING_MAX as u64 {
        client.query("q", json!({"progress_interval_ms": 0}));
        let queued = client.recv();
        assert!(
            matches!(queued, Wire::QueryQueued { position, .. } if position == n + 1),
            "{queued:?}"
        );
    }
    check_refused(
        &mut client,
        &json!({"type": "stream_query", "query": "q"}),
        "QUEUE_FULL",
    );
    gate.open();
    for _ in 0..=WAITING_MAX {
        client.recv_until("an end", Wire::is_terminator);
    }
}

#[test]
fn what_an_engine_says_reaches_the_client_before_and_after_rows() {
    use EngineErrorKind as Kind;

    let kinds = [
        (Kind::Syntax, "SYNTAX_ERROR"),
        (Kind::Parameter, "PARAMETER_ERROR"),
        (Kind::Constraint, "CONSTRAINT"),
        (Kind::ReadOnly, "READ_ONLY"),
        (Kind::Query, "QUERY_FAILED"),
        (Kind::Cancelled, "QUERY_FAILED"),
        (Kind::Unavailable, "ENGINE_UNAVAILABLE"),
        (Kind::Busy, "ENGINE_BUSY"),
        (Kind::NoMemory, "ENGINE_BUSY"),
        (Kind::Limit, "LIMIT_EXCEEDED"),
        (Kind::Encoding, "ENCODING_ERROR"),
        (Kind::RowTooLarge, "ROW_TOO_LARGE"),
        (Kind::Internal, "INTERNAL"),
    ];
    let mut builder = MemoryEngine::builder();
    for (kind, code) in kinds {
        let mut error = EngineError::new(kind, "what the engine says");
        error.engine_code = Some("E42".to_owned());
        error.position = Some(7);
        error.hint = Some("try again".to_owned());
        builder = builder
            .query(
                &format!("open {kind:?} {code}"),
                Script::new(["n"]).fail_on_open(error.clone()),
            )
            .query(
                &format!("run {kind:?} {code}"),
                Script::new(["n"]).row([1.into()]).row([2.into()]).fail(error),
            );
    }
    let server = serve(builder.build());
    let mut client = Plain::connect(&server);
    for (kind, code) in kinds {
        for (phase, rows) in [("open", 0), ("run", 2)] {
            let seen = client.run(&format!("{phase} {kind:?} {code}"), json!({}));
            let Some(Wire::Error {
                code: found,
                message,
                engine_code,
                position,
                hint,
                started,
                stream_id,
                ..
            }) = &seen.end
            else {
                panic!("{:?}", seen.end);
            };
            assert_eq!((found.as_str(), message.as_str()), (code, "what the engine says"));
            assert_eq!(
                (engine_code.as_deref(), *position, hint.as_deref()),
                (Some("E42"), Some(7), Some("try again"))
            );
            assert_eq!(
                (seen.rows.len(), *started, seen.started),
                (rows, rows > 0, rows > 0),
                "{phase} {kind:?}"
            );
            assert!(stream_id.is_some());
            assert_ne!(
                seen.last_has_more,
                Some(false),
                "the last batch could not be known as the last"
            );
        }
    }
    client.assert_silence();
}

#[test]
fn a_row_beyond_the_limit_ends_its_stream() {
    let script = Script::new(["t"]).row(["small".into()]).row(["x".repeat(100).into()]);
    let mut config = StreamingConfig::default();
    config.row_bytes_max = 100;
    let server = serve_with(MemoryEngine::builder().query("q", script).build(), 2, config);
    let mut client = Plain::connect(&server);
    let seen = client.run("q", json!({}));
    assert_eq!((seen.error_code(), seen.rows.len()), ("ROW_TOO_LARGE", 1));
}

#[test]
fn a_client_that_sends_garbage_is_shown_the_door() {
    let server = serve(MemoryEngine::builder().build());
    let mut client = Plain::connect(&server);
    for n in 0..16 {
        client.send_text(&format!("garbage {n}"));
    }
    for _ in 0..16 {
        assert!(matches!(client.recv(), Wire::Error { code, .. } if code == "BAD_MESSAGE"));
    }
    assert_eq!(client.recv_close(), 4400);
}

/// A ping of this many bytes.
fn padded(bytes: usize) -> String {
    let ping = json!({"type": "ping"}).to_string();
    let padding = " ".repeat(bytes - ping.len());
    ping + &padding
}

#[test]
fn a_message_that_is_too_long_is_refused_and_the_streams_of_its_connection_go_on() {
    let gate = Gate::new();
    let script = Script::new(["n"]).row([1.into()]).gate(&gate).row([2.into()]);
    let server = serve(MemoryEngine::builder().query("q", script).build());
    let mut client = Plain::connect(&server);
    client.query("q", json!({"batch_size": 1, "progress_interval_ms": 0}));
    client.recv_started();
    assert!(matches!(client.recv(), Wire::QueryBatch { .. }));
    gate.wait_reached(DEADLINE).unwrap();
    // As long as it may be, a byte more, and as long as is still read, with a header of 14 bytes.
    client.send_text(&padded(64 * 1024));
    assert!(matches!(client.recv(), Wire::Pong { .. }));
    for bytes in [64 * 1024 + 1, 16 * 64 * 1024 - 14] {
        client.send_text(&padded(bytes));
        let refused = client.recv();
        let Wire::Error {
            code,
            message,
            hint,
            stream_id: None,
            ..
        } = &refused
        else {
            panic!("{refused:?}")
        };
        assert_eq!(code, "LIMIT_EXCEEDED");
        assert!(message.contains("65536 bytes (message_bytes_max)"), "{message}");
        assert!(hint.as_deref().is_some_and(|hint| hint.contains("message_bytes_max")));
    }
    client.assert_silence();
    gate.open();
    client.finish().assert_completed();
}

#[test]
fn a_message_that_is_far_too_long_closes_the_connection_and_so_do_many_that_are_too_long() {
    let server = serve(MemoryEngine::builder().build());
    let mut client = Plain::connect(&server);
    client.send_text(&padded(16 * 64 * 1024 - 13));
    assert_eq!(client.recv_close(), 1009);
    let mut client = Plain::connect(&server);
    for _ in 0..16 {
        client.send_text(&padded(64 * 1024 + 1));
    }
    assert_eq!(client.recv_close(), 4400);
}

#[test]
fn a_client_sends_no_query_that_is_longer_than_its_server_takes() {
    let server = serve(MemoryEngine::builder().query("q", Script::new(["n"])).build());
    let client = Client::connect(&format!("ws://{}/ws", server.local_addr().unwrap())).unwrap();
    let long = "x".repeat(64 * 1024);
    let refused = [
        client.query(long.as_str()).submit().map(|_| ()).unwrap_err(),
        client.query("q").param(long.as_str()).start().map(|_| ()).unwrap_err(),
        client.describe(long.as_str()).map(|_| ()).unwrap_err(),
    ];
    for error in refused {
        let is_too_long = matches!(&error, ClientError::TooLong { bytes, bytes_max: 65_536 } if *bytes > 65_536);
        assert!(is_too_long && !error.ends_connection(), "{error:?}");
    }
    let mut stream = client.query("q").start().unwrap();
    while stream.next_event().unwrap().is_some() {}
}

#[test]
fn a_binary_message_is_a_bad_message() {
    let server = serve(MemoryEngine::builder().build());
    let mut client = Plain::connect(&server);
    client.send_raw(Message::Binary(vec![1, 2, 3].into()));
    assert!(matches!(client.recv(), Wire::Error { code, .. } if code == "BAD_MESSAGE"));
    client.assert_silence();
}

#[test]
fn a_client_that_asks_and_never_reads_is_shown_the_door() {
    use std::io::{Read, Write};

    let server = serve(MemoryEngine::builder().build());
    let client = Plain::connect(&server);
    let mut socket = client.tcp();
    // Text frames with a key of 0: pings whose answers are as large as they are.
    let ping = json!({"type": "ping", "timestamp": "x".repeat(60_000)}).to_string();
    let mut frame = vec![0x81, 0xFE];
    frame.extend(u16::try_from(ping.len()).unwrap().to_be_bytes());
    frame.extend([0; 4]);
    frame.extend(ping.as_bytes());
    // The server stops reading once it has closed: the writes come to an end by themselves.
    let end = (0..100_000).find(|_| socket.write_all(&frame).is_err());
    assert!(end.is_some(), "the server took everything");
    let mut rest = Vec::new();
    let _reset_or_end = socket.read_to_end(&mut rest);
    crate::support::eventually("connections", &0, || server.connections());
}
