//! What a server says of itself, and of which version it is.

use super::*;

fn welcome(server_id: &str) -> Json {
    let limits = json!({"message_bytes": 1, "query_bytes": 2, "batch_size": 3, "batch_bytes": 4, "row_bytes": 5, "streams": 6,
        "window_batches": 7, "window_bytes": 8, "retention_bytes": 9, "retention_seconds": 10, "query_ms": 11, "stall_ms": 12, "fragments": 13});
    json!({"type": "welcome", "server": "fake", "version": "9", "server_id": server_id, "capabilities": ["ack"],
        "limits": limits, "engines": ["e"], "heartbeat_ms": 13})
}

#[test]
fn the_first_welcome_is_kept_and_others_are_answers() {
    let (here, there) = memory_pair(1 << 16);
    let server = FakeServer::start_speaking(there, Some("rowstream.v1"));
    let client = Client::over(here, URL).unwrap();
    let server = server.join().unwrap();
    thread::scope(|scope| {
        // Asked for before it has come.
        let asked = scope.spawn(|| client.welcome());
        let ping = server.hear();
        server.say(&welcome("first"));
        server.say(&json!({"type": "pong", "timestamp": ping["timestamp"]}));
        let welcome = asked.join().unwrap().unwrap().unwrap();
        assert_eq!((&*welcome.server_id, welcome.limits.streams), ("first", 6));
        assert_eq!(welcome.capabilities, ["ack"]);
        let asked = scope.spawn(|| client.hello());
        assert_eq!(server.hear()["type"], "hello");
        server.say(&self::welcome("second"));
        let ping = server.hear();
        server.say(&json!({"type": "pong", "timestamp": ping["timestamp"]}));
        assert_eq!(asked.join().unwrap().unwrap().server_id, "second");
    });
    assert_eq!(client.welcome().unwrap().unwrap().server_id, "first");
}

#[test]
fn a_server_that_passes_over_the_subprotocol_welcomes_nobody() {
    let (client, server) = connected();
    assert!(client.welcome().unwrap().is_none());
    started(&client, &server);
}

#[test]
fn a_server_that_agrees_and_says_no_welcome_is_borne_with() {
    let (here, there) = memory_pair(1 << 16);
    let server = FakeServer::start_speaking(there, Some("rowstream.v1"));
    let client = Client::over(here, URL).unwrap();
    let server = server.join().unwrap();
    started(&client, &server);
    assert!(client.welcome().unwrap().is_none());
}

#[test]
fn a_server_of_another_version_is_refused_by_its_name() {
    let (here, there) = memory_pair(1 << 16);
    let server = FakeServer::start_speaking(there, Some("rowstream.v2"));
    let error = Client::over(here, URL).unwrap_err();
    assert!(
        matches!(&error, ClientError::Version { spoken } if spoken == "rowstream.v2"),
        "{error:?}"
    );
    assert_eq!(
        error.to_string(),
        "the server speaks \"rowstream.v2\", this client rowstream.v1"
    );
    assert!(error.ends_connection());
    drop(server.join());
}
