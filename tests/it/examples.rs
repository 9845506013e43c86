//! Each example runs to its end and shows what it promises.

use std::env;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The example's program, which the build has put beside this test's.
fn example(name: &str) -> Command {
    let mut folder = env::current_exe().unwrap();
    folder.pop();
    folder.pop();
    let program: PathBuf = folder.join("examples").join(name);
    assert!(
        program.exists(),
        "{} is missing: build it with `cargo build --examples`",
        program.display()
    );
    Command::new(program)
}

/// What it prints, line by line.
#[track_caller]
fn run(name: &str) -> String {
    let output = example(name).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{name}: {}\n{text}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

#[track_caller]
fn check_says(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(text.contains(line), "{line:?} is missing in:\n{text}");
    }
}

#[test]
fn query_streaming_demo_shows_real_rows() {
    let text = run("query_streaming_demo");
    check_says(
        &text,
        &[
            "columns: id, name, city, balance",
            "batch 2:  50 rows, the first is [201,\"User 201\",\"Oslo\",917.19]",
            "completed: 250 rows in 3 batches",
            "completed: 300000 rows; reported 1 times or more",
            "cancelled by the client; the engine has stopped: true",
            "Zürich: 750 rows",
            "   100 rows a batch:   500 batches",
        ],
    );
}

#[test]
fn embed_serves_an_applications_own_data() {
    check_says(
        &run("embed"),
        &[
            "Barbara",
            "batch 1 with 1 rows",
            "streams completed: 1",
            "the server is down",
        ],
    );
}

#[test]
fn custom_engine_finds_primes() {
    let lines = [
        "9592 primes below 100000, the last is 99991",
        "refused: SYNTAX_ERROR: this engine knows only: primes below N",
        "it ended as: cancelled",
    ];
    check_says(&run("custom_engine"), &lines);
}

#[test]
fn blocking_test_asserts_what_blocks() {
    assert_eq!(run("blocking_test").matches("ok: ").count(), 3);
}

#[test]
fn ws_echo_sends_everything_back() {
    let mut child = example("ws_echo")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let url = line.trim().strip_prefix("listening on ").unwrap();
    let address = url.strip_prefix("ws://").unwrap().strip_suffix("/ws").unwrap();
    let stream = std::net::TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(crate::support::DEADLINE)).unwrap();
    let (mut socket, _) = tungstenite::client(url, stream).unwrap();
    for len in [0, 1, 125, 126, 65_535, 65_536, 1 << 20] {
        for message in [
            tungstenite::Message::text("é".repeat(len / 2)),
            tungstenite::Message::Binary(vec![7; len].into()),
        ] {
            socket.send(message.clone()).unwrap();
            assert_eq!(socket.read().unwrap(), message);
        }
    }
    socket.close(None).unwrap();
    while socket.read().is_ok() {}
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}

#[test]
fn pubsub_lives_beside_queries() {
    let text = run("pubsub");
    check_says(
        &text,
        &[
            "subscribed to \"orders.**\"",
            "published on orders.new: 1 receivers",
            "published on invoices.new: 0 receivers",
            "heard {\"id\":7} on \"orders.new\"",
            "heard {\"id\":7} on \"orders.new.eu\"",
            "batch 4 came beside them",
            "after unsubscribing: 0 receivers",
            "what nobody knows: \"BAD_MESSAGE\"",
        ],
    );
}
