//! permessage-deflate through the public door: a client that frames, masks, deflates and inflates by itself.

use std::io::{Read, Write};
use std::net::TcpStream;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use rowstream::engine::memory::{MemoryEngine, Script};
use rowstream::{Client, ClientError, Server, ServerHandle};
use serde_json::{Value, json};

use crate::support::{DEADLINE, Plain, Wire, eventually, serve};

const OFFER: &str = "permessage-deflate; client_max_window_bits";

/// What ends a flushed block, and is left out on the wire.
const TAIL: [u8; 4] = [0, 0, 0xFF, 0xFF];

fn rows() -> Script {
    Script::new(["id", "name"]).generate(3_000, |n| {
        vec![(n as i64).into(), format!("customer {}", n % 100).into()]
    })
}

fn engine() -> MemoryEngine {
    MemoryEngine::builder().query("rows", rows()).build()
}

fn deflating() -> ServerHandle {
    let builder = Server::builder().engine("memory", engine()).listen("127.0.0.1:0");
    builder.permessage_deflate(true).start().unwrap()
}

fn deflated(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + 1024);
    let mut deflater = Compress::new(Compression::best(), false);
    deflater.compress_vec(message, &mut out, FlushCompress::Sync).unwrap();
    out.strip_suffix(&TAIL).unwrap().to_vec()
}

fn inflated(message: &[u8]) -> Vec<u8> {
    let input = [message, &TAIL].concat();
    let mut out = Vec::with_capacity(1 << 20);
    let mut inflater = Decompress::new(false);
    inflater
        .decompress_vec(&input, &mut out, FlushDecompress::Sync)
        .unwrap();
    assert_eq!(
        inflater.total_in(),
        input.len() as u64,
        "a message has room in the buffer"
    );
    out
}

/// A client that does everything by hand.
struct Raw {
    socket: TcpStream,
    /// What the server has answered to the offer.
    extensions: Option<String>,
    /// Bytes of payloads as they came, and inflated.
    wire_bytes: u64,
    plain_bytes: u64,
}

impl Raw {
    fn connect(server: &ServerHandle, offer: &str) -> Self {
        let mut socket = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        let request = format!(
            "GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Extensions: {offer}\r\n\r\n"
        );
        socket.write_all(request.as_bytes()).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            socket.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 101 "), "{head}");
        let extensions = head
            .lines()
            .find_map(|line| line.strip_prefix("sec-websocket-extensions: "))
            .map(str::to_owned);
        Self {
            socket,
            extensions,
            wire_bytes: 0,
            plain_bytes: 0,
        }
    }

    fn send_frame(&mut self, first: u8, payload: &[u8]) {
        const KEY: [u8; 4] = [0xA5, 0x5A, 0x0F, 0xF0];
        let mut frame = vec![first];
        match payload.len() {
            len @ 0..=125 => frame.push(0x80 | len as u8),
            len => {
                frame.push(0x80 | 126);
                frame.extend_from_slice(&u16::try_from(len).unwrap().to_be_bytes());
            }
        }
        frame.extend_from_slice(&KEY);
        frame.extend(payload.iter().zip(KEY.iter().cycle()).map(|(byte, key)| byte ^ key));
        self.socket.write_all(&frame).unwrap();
    }

    fn send_deflated(&mut self, message: &Value) {
        self.send_frame(0xC1, &deflated(message.to_string().as_bytes()));
    }

    /// The next frame's first byte and payload.
    fn recv_frame(&mut self) -> (u8, Vec<u8>) {
        let mut read = |n: usize| {
            let mut bytes = vec![0; n];
            self.socket.read_exact(&mut bytes).unwrap();
            bytes
        };
        let start = read(2);
        let len = match start[1] {
            126 => u64::from(u16::from_be_bytes(read(2).try_into().unwrap())),
            127 => u64::from_be_bytes(read(8).try_into().unwrap()),
            len => u64::from(len),
        };
        let payload = read(len as usize);
        (start[0], payload)
    }

    /// The next message, and whether it came deflated.
    fn recv(&mut self) -> (Wire, bool) {
        let (first, payload) = self.recv_frame();
        self.wire_bytes += payload.len() as u64;
        let (plain, is_deflated) = match first {
            0xC1 => (inflated(&payload), true),
            0x81 => (payload, false),
            other => panic!("not a text message: {other:#x} {payload:?}"),
        };
        let text = String::from_utf8(plain).unwrap();
        let wire = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        if matches!(wire, Wire::QueryBatch { .. }) {
            self.plain_bytes += text.len() as u64;
        }
        (wire, is_deflated)
    }

    fn recv_close(&mut self) -> u16 {
        loop {
            let (first, payload) = self.recv_frame();
            if first == 0x88 {
                return u16::from_be_bytes([payload[0], payload[1]]);
            }
        }
    }

    /// Takes everything up to the terminator: the rows, and of each batch whether it came deflated.
    fn finish(&mut self) -> (Vec<Value>, Vec<bool>, Wire) {
        let (mut all_rows, mut batches) = (Vec::new(), Vec::new());
        loop {
            let (wire, is_deflated) = self.recv();
            match wire {
                Wire::QueryBatch { rows, .. } => {
                    all_rows.extend(rows);
                    batches.push(is_deflated);
                }
                wire if wire.is_terminator() => return (all_rows, batches, wire),
                _ => {}
            }
        }
    }
}

fn query(extra: Value) -> Value {
    let mut message = json!({"type": "stream_query", "query": "rows", "progress_interval_ms": 0});
    let Value::Object(extra) = extra else {
        panic!("extra fields are an object")
    };
    message.as_object_mut().unwrap().extend(extra);
    message
}

fn plain_rows() -> Vec<Value> {
    let server = serve(engine());
    let seen = Plain::connect(&server).run("rows", json!({}));
    seen.assert_completed();
    seen.rows
}

#[test]
fn a_deflated_query_has_the_rows_of_a_plain_one() {
    let server = deflating();
    for offer in [OFFER, "permessage-deflate; server_max_window_bits=9"] {
        let mut client = Raw::connect(&server, offer);
        let answer = client.extensions.as_ref().unwrap();
        assert!(
            answer.starts_with("permessage-deflate; server_no_context_takeover; client_no_context_takeover"),
            "{answer}"
        );
        client.send_deflated(&query(json!({"batch_size": 100})));
        let (rows, batches, end) = client.finish();
        assert_eq!(rows, plain_rows());
        assert_eq!(batches, [true; 30]);
        let Wire::QueryCompleted { bytes, total_rows, .. } = end else {
            panic!("{end:?}")
        };
        assert_eq!(
            (bytes, total_rows),
            (client.plain_bytes, 3_000),
            "figures are of what is not deflated"
        );
        assert!(client.wire_bytes * 3 < bytes, "{} of {bytes} bytes", client.wire_bytes);
    }
    // Plain messages are taken too, and what is short is sent so.
    let mut client = Raw::connect(&server, OFFER);
    client.send_frame(0x81, br#"{"type": "ping", "timestamp": 1}"#);
    assert_eq!(
        client.recv(),
        (
            Wire::Pong {
                timestamp: Some(1.into())
            },
            false
        )
    );
    client.send_frame(0xC9, b"");
    assert_eq!(client.recv_close(), 1002, "a control frame is never deflated");
    // Clients that have not asked for it are served as ever.
    let seen = Plain::connect(&server).run("rows", json!({}));
    assert_eq!(seen.assert_completed().rows, plain_rows());
    eventually("bytes held", &0, || server.streams().bytes_held());
}

#[test]
fn it_is_off_unless_the_operator_turns_it_on() {
    let server = serve(engine());
    let mut client = Raw::connect(&server, OFFER);
    assert_eq!(client.extensions, None);
    client.send_frame(0x81, query(json!({})).to_string().as_bytes());
    let (rows, batches, _) = client.finish();
    assert_eq!(rows, plain_rows());
    assert!(batches.iter().all(|is_deflated| !is_deflated));
    client.send_deflated(&query(json!({})));
    assert_eq!(client.recv_close(), 1002);
}

#[test]
fn what_cannot_be_inflated_closes_the_connection() {
    let server = deflating();
    let bomb = deflated(&vec![b' '; 1 << 20]);
    assert!(bomb.len() < 2_000);
    for (payload, code) in [(bomb.as_slice(), 1009), (b"\x06\0\0", 1007), (&deflated(b"\xFF"), 1007)] {
        let mut client = Raw::connect(&server, OFFER);
        client.send_frame(0xC1, payload);
        assert_eq!(client.recv_close(), code);
    }
    assert!(Plain::connect(&server).run("rows", json!({})).end.is_some());
}

/// Batches that a stream holds are sent in whatever form the connection takes that it goes on with.
#[test]
fn a_stream_goes_on_over_a_connection_of_another_kind() {
    let server = deflating();
    let offers = [OFFER, "none", "permessage-deflate; server_max_window_bits=10"];
    for first in offers {
        for second in offers {
            let mut client = Raw::connect(&server, first);
            let extra = json!({"resumable": true, "batch_size": 50, "window": {"batches": 20}});
            client.send_frame(0x81, query(extra).to_string().as_bytes());
            let mut token = String::new();
            let mut all_rows = Vec::new();
            // Five batches are processed, and more are made and perhaps sent.
            while all_rows.len() < 250 {
                match client.recv().0 {
                    Wire::QueryStarted { resume_token, .. } => token = resume_token.unwrap(),
                    Wire::QueryBatch { rows, .. } => all_rows.extend(rows),
                    other => panic!("{other:?}"),
                }
            }
            drop(client);
            let mut client = Raw::connect(&server, second);
            let resume =
                json!({"type": "resume_query", "resume_token": token, "last_batch": 4, "window": {"batches": 1024}});
            client.send_frame(0x81, resume.to_string().as_bytes());
            let (rows, batches, end) = client.finish();
            assert!(matches!(end, Wire::QueryCompleted { total_rows: 3_000, .. }), "{end:?}");
            all_rows.extend(rows);
            assert_eq!(all_rows, plain_rows(), "{first}, then {second}");
            // What was made for the first connection may come plain on the second.
            if first == second || second == "none" {
                let expected = vec![second != "none"; batches.len()];
                assert_eq!(batches, expected, "{first}, then {second}");
            }
        }
    }
}

#[test]
fn the_client_library_asks_for_it() {
    let expected: Vec<i64> = (0..3_000).collect();
    for server in [deflating(), serve(engine())] {
        let url = format!("ws://{}/ws", server.local_addr().unwrap());
        for is_wanted in [true, false] {
            let client = Client::builder().permessage_deflate(is_wanted).connect(&url).unwrap();
            let mut ids = Vec::new();
            for batch in client.query("rows").batch_size(500).checksum(true).start().unwrap() {
                ids.extend(batch.unwrap().rows().map(|row| row.get::<i64>("id").unwrap()));
            }
            assert_eq!(ids, expected);
        }
    }
    // What it takes is bounded by what comes out.
    let server = deflating();
    let url = format!("ws://{}/ws", server.local_addr().unwrap());
    let builder = Client::builder().permessage_deflate(true).message_bytes_max(20_000);
    let client = builder.connect(&url).unwrap();
    let mut stream = client.query("rows").batch_size(1_000).start().unwrap();
    let error = stream.find_map(Result::err).unwrap();
    assert!(
        matches!(&error, ClientError::Protocol(text) if text.contains("20000")),
        "{error}"
    );
}

#[test]
fn an_echo_is_deflated_where_that_is_worth_while() {
    let builder = Server::builder().echo().listen("127.0.0.1:0").permessage_deflate(true);
    let server = builder.start().unwrap();
    let mut client = Raw::connect(&server, OFFER);
    for (first, len, is_deflated) in [
        (0xC1, 5, false),
        (0xC2, 5, false),
        (0xC1, 5_000, true),
        (0xC2, 50_000, true),
    ] {
        let message = b"echo ".repeat(len / 5);
        client.send_frame(first, &deflated(&message));
        let (answer, payload) = client.recv_frame();
        assert_eq!(answer, if is_deflated { first } else { first & !0x40 });
        assert_eq!(if is_deflated { inflated(&payload) } else { payload }, message);
    }
    // In fragments, with a ping between them.
    let payload = deflated(&b"fragment ".repeat(50));
    let (one, two) = payload.split_at(payload.len() / 2);
    client.send_frame(0x41, one);
    client.send_frame(0x89, b"?");
    client.send_frame(0x80, two);
    assert_eq!(client.recv_frame(), (0x8A, b"?".to_vec()));
    let (first, payload) = client.recv_frame();
    assert_eq!((first, inflated(&payload)), (0xC1, b"fragment ".repeat(50)));
}
