//! The same port, asked by something that speaks plain HTTP, or nothing sensible.

use std::io::{Read, Write};
use std::net::TcpStream;

use rowstream::{MemoryEngine, Server, ServerHandle};

use crate::support::{DEADLINE, Plain, eventually, serve};

fn ask(server: &ServerHandle, request: &str) -> String {
    let mut socket = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn people_and_load_balancers_are_answered() {
    let builder = Server::builder().engine("memory", MemoryEngine::builder().build());
    let server = builder
        .listen("127.0.0.1:0")
        .allowed_hosts(["db.example", "x"])
        .start()
        .unwrap();
    let page = ask(&server, "GET / HTTP/1.1\r\nHost: db.example:8080\r\n\r\n");
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
    assert!(page.contains("ws://db.example:8080/ws"), "{page}");
    let health = ask(&server, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(
        health.starts_with("HTTP/1.1 200 OK\r\n") && health.ends_with("\r\n\r\nok\n"),
        "{health}"
    );
    let head = ask(&server, "HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(
        head.contains("Content-Length: 3\r\n") && head.ends_with("\r\n\r\n"),
        "{head}"
    );
    let upgrade = ask(&server, "GET /ws HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(upgrade.starts_with("HTTP/1.1 426 "), "{upgrade}");
    eventually("connections", &0, || server.connections());
}

#[test]
fn a_head_without_end_is_cut_off() {
    let server = serve(MemoryEngine::builder().build());
    let answer = ask(&server, &format!("GET / HTTP/1.1\r\nx: {}", "y".repeat(20_000)));
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    eventually("connections", &0, || server.connections());
}

#[test]
fn connections_beyond_the_limit_are_told_to_come_back() {
    let engine = MemoryEngine::builder().build();
    let server = Server::builder()
        .engine("m", engine)
        .listen("127.0.0.1:0")
        .connections_max(1)
        .start()
        .unwrap();
    let client = Plain::connect(&server);
    let mut refused = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    refused.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut answer = String::new();
    refused.read_to_string(&mut answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 503 ") && answer.contains("Retry-After: 1"),
        "{answer}"
    );
    drop(client);
    eventually("connections", &0, || server.connections());
    drop(Plain::connect(&server));
}
