//! What a query may take: of its engine, and of time.

use std::time::Duration;

use rowstream::{Gate, MemoryEngine, Script, ServerHandle, StreamingConfig};
use serde_json::json;

use crate::support::{Plain, Seen, Wire, serve_with};

fn start(script: Script, configure: impl FnOnce(&mut StreamingConfig)) -> ServerHandle {
    let mut streaming = StreamingConfig::default();
    configure(&mut streaming);
    serve_with(MemoryEngine::builder().query("q", script).build(), 2, streaming)
}

fn numbers() -> Script {
    Script::new(["n"]).generate(3, |n| vec![n.cast_signed().into()])
}

/// Begins a query that rests after its first row, and lets it rest until the server says that it has been there for so long.
fn begin_and_rest(client: &mut Plain, duration: Duration) {
    let fields = json!({"request_id": "q", "batch_size": 1, "window": {"batches": 1}, "progress_interval_ms": 50});
    client.query("q", fields);
    client.recv_until("enough rest", |wire| {
        assert!(!wire.is_terminator(), "{wire:?}");
        matches!(wire, Wire::QueryProgress { elapsed_ms: Some(ms), .. } if u128::from(*ms) > duration.as_millis())
    });
}

#[test]
fn time_that_a_stream_waits_for_its_client_is_not_its_query_s() {
    let max = Duration::from_secs(2);
    let server = start(numbers(), |streaming| streaming.max_query_duration = max);
    let mut client = Plain::connect(&server);
    begin_and_rest(&mut client, max + Duration::from_millis(200));
    client.ack_to_the_end("q", 0).assert_completed();
}

#[test]
fn time_in_the_engine_is_the_query_s_whether_its_stream_has_rested_or_not() {
    let max = Duration::from_secs(1);
    let gate = Gate::new();
    let script = numbers().gate(&gate);
    let server = start(script, |streaming| streaming.max_query_duration = max);
    let mut client = Plain::connect(&server);
    let check = |seen: &Seen| {
        assert_eq!((seen.cancel_reason(), seen.limit()), ("timeout", "max_query_duration"));
    };
    client.query("q", json!({"progress_interval_ms": 0}));
    check(&client.finish());
    // The alarm that was set before the rest has rung, and the query is stopped all the same.
    begin_and_rest(&mut client, max + Duration::from_millis(200));
    check(&client.ack_to_the_end("q", 0));
}

#[test]
fn all_time_is_the_stream_s() {
    let max = Some(Duration::from_secs(1));
    let server = start(numbers(), |streaming| streaming.max_stream_duration = max);
    let mut client = Plain::connect(&server);
    client.query(
        "q",
        json!({"batch_size": 1, "window": {"batches": 1}, "timeout_ms": 3_600_000}),
    );
    let seen = client.finish();
    assert_eq!((seen.cancel_reason(), seen.limit()), ("timeout", "max_stream_duration"));
}

#[test]
fn a_client_s_own_limit_is_on_all_time_and_may_be_longer_than_a_query_s() {
    let server = start(numbers(), |streaming| {
        streaming.max_query_duration = Duration::from_millis(900);
    });
    let mut client = Plain::connect(&server);
    let fields = json!({"batch_size": 1, "window": {"batches": 1}, "timeout_ms": 1_000});
    let seen = client.run("q", fields);
    assert_eq!((seen.cancel_reason(), seen.limit()), ("timeout", "timeout_ms"));
}
