//! When the client tells the server what the program has taken.

use super::*;

#[test]
fn what_is_taken_of_a_large_window_is_acknowledged_long_before_half_of_it() {
    let (client, server) = connected();
    let mut stream = client.query("q").window(64, 4 << 20).submit().unwrap();
    let id = server.hear_query();
    server.say_started(id);
    let text = "x".repeat(100 * 1024);
    for number in 0..4 {
        server.say(&batch(id, number, number, &json!([[text]])));
        stream.next().unwrap().unwrap();
    }
    // Of 4 MiB; the fourth is still in hand.
    assert_eq!(
        server.hear(),
        json!({"type": "ack", "stream_id": STREAM, "batch_number": 2})
    );
    client.ping_answered_by(&server);
}
