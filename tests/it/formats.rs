//! How rows can travel: binary messages, codecs, types; and what a client is told that asks what there is.

use std::io::Read;
use std::time::Duration;

use rowstream::engine::sqlite::SqliteEngine;
use rowstream::{MemoryEngine, Script, Server, ServerHandle, StreamingConfig};
use rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::TempDir;
use tungstenite::Message;

use crate::flow::ack;
use crate::resume::wait_until_detached;
use crate::support::{Plain, Wire, serve, serve_with};

/// A binary message, taken apart as the specification says.
struct Binary {
    header: Value,
    payload: Vec<u8>,
    bytes: usize,
}

impl Binary {
    fn new(message: &[u8]) -> Self {
        let (length, rest) = message.split_first_chunk::<4>().unwrap();
        let (header, payload) = rest.split_at(u32::from_be_bytes(*length) as usize);
        assert_eq!((4 + header.len()) % 8, 0, "a payload is aligned");
        Self {
            header: serde_json::from_slice(header).unwrap(),
            payload: payload.to_vec(),
            bytes: message.len(),
        }
    }

    /// The payload's text, by a reader that is not ours.
    fn text(&self) -> String {
        let mut text = String::new();
        let payload = self.payload.as_slice();
        let read = match self.header["compression"].as_str().unwrap() {
            "none" => { payload }.read_to_string(&mut text),
            "deflate-raw" => flate2::read::DeflateDecoder::new(payload).read_to_string(&mut text),
            "gzip" => flate2::read::GzDecoder::new(payload).read_to_string(&mut text),
            #[cfg(feature = "compression")]
            "zstd" => zstd::Decoder::new(payload).unwrap().read_to_string(&mut text),
            #[cfg(feature = "compression")]
            "lz4" => lz4_flex::frame::FrameDecoder::new(payload).read_to_string(&mut text),
            other => panic!("unknown codec {other}"),
        };
        assert_eq!(read.unwrap(), self.header["uncompressed_bytes"]);
        text
    }
}

fn numbers(n_rows: i64) -> MemoryEngine {
    let rows = (0..n_rows).map(|n| vec![n.into(), format!("row number {n}").into()]);
    let script = Script::new(["n", "text"]).rows(rows.collect::<Vec<_>>());
    MemoryEngine::builder().query("numbers", script).build()
}

/// A stream in binary batches, to its end.
fn run_binary(client: &mut Plain, extra: Value) -> (Option<String>, Vec<Binary>, Wire) {
    let mut fields = json!({"row_format": "array", "progress_interval_ms": 0});
    fields
        .as_object_mut()
        .unwrap()
        .extend(extra.as_object().unwrap().clone());
    client.query("numbers", fields);
    let (mut codec, mut batches) = (None, Vec::new());
    loop {
        match client.next_raw() {
            Message::Binary(bytes) => batches.push(Binary::new(&bytes)),
            Message::Text(text) => match serde_json::from_str(&text).unwrap() {
                Wire::QueryStarted { compression, .. } => codec = compression,
                end @ (Wire::QueryCompleted { .. } | Wire::Error { .. }) => return (codec, batches, end),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn rows_are_the_same_whatever_they_are_compressed_with() {
    let server = serve(numbers(1_000));
    let mut client = Plain::connect(&server);
    let plain = client.run("numbers", json!({"row_format": "array", "checksum": true}));
    let Some(Wire::QueryCompleted {
        digest,
        bytes,
        raw_bytes,
        ..
    }) = &plain.end
    else {
        panic!("{:?}", plain.end)
    };
    assert_eq!(bytes, raw_bytes);
    let mut codecs = vec!["deflate-raw", "gzip"];
    if cfg!(feature = "compression") {
        codecs.extend(["zstd", "lz4"]);
    }
    for codec in codecs {
        let (chosen, batches, end) = run_binary(&mut client, json!({"compression": ["br", codec], "checksum": true}));
        assert_eq!(chosen.as_deref(), Some(codec));
        let mut rows = Vec::new();
        let (mut wire, mut raw) = (0, 0);
        for (number, batch) in batches.iter().enumerate() {
            assert_eq!(batch.header["type"], "query_batch");
            assert_eq!(batch.header["batch_number"], number);
            assert_eq!(batch.header["row_offset"], rows.len());
            assert_eq!(
                (&batch.header["encoding"], &batch.header["compression"]),
                (&json!("json"), &json!(codec))
            );
            let text = batch.text();
            assert_eq!(
                batch.header["checksum"],
                format!("{:08x}", crc32fast::hash(text.as_bytes()))
            );
            let of_batch: Vec<Value> = serde_json::from_str(&text).unwrap();
            assert_eq!(batch.header["row_count"], of_batch.len());
            rows.extend(of_batch);
            wire += batch.bytes as u64;
            raw += (batch.bytes - batch.payload.len() + text.len()) as u64;
        }
        assert_eq!(rows, plain.rows, "{codec}");
        match &end {
            Wire::QueryCompleted {
                bytes,
                raw_bytes,
                digest: of_binary,
                ..
            } => {
                assert_eq!((*bytes, *raw_bytes, of_binary), (wire, raw, digest), "{codec}");
                assert!(bytes < raw_bytes);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn small_batches_are_not_compressed_and_say_so() {
    let server = serve(numbers(20));
    let mut client = Plain::connect(&server);
    let (chosen, batches, _end) = run_binary(&mut client, json!({"compression": ["gzip"]}));
    assert_eq!(chosen.as_deref(), Some("gzip"));
    assert_eq!(batches[0].header["compression"], "none");
    assert!(batches[0].text().starts_with(r#"[[0,"row number 0"],"#));
}

#[test]
fn codecs_that_nobody_has_leave_batches_as_they_are() {
    let server = serve(numbers(100));
    let mut client = Plain::connect(&server);
    let seen = client.run("numbers", json!({"compression": ["br", "none"]}));
    assert_eq!(seen.assert_completed().rows.len(), 100);
}

#[test]
fn windows_count_what_was_not_compressed() {
    // No batch closes on time.
    let long = Duration::from_secs(3_600);
    let mut streaming = StreamingConfig::default();
    (streaming.first_batch_interval, streaming.batch_interval) = (long, long);
    let server = serve_with(numbers(10_000), 1, streaming);
    let mut client = Plain::connect(&server);
    // Each batch has about 2,600 bytes, and a fifth of that on the wire.
    let window = json!({"batches": 100, "bytes": 6_000});
    client.query(
        "numbers",
        json!({"compression": ["gzip"], "window": window, "row_format": "array", "progress_interval_ms": 0}),
    );
    let id = client.recv_started();
    for last in [2, 5, 8] {
        for _ in 0..3 {
            assert!(matches!(client.next_raw(), Message::Binary(_)));
        }
        client.assert_silence_unchecked();
        ack(&mut client, &id, last);
    }
}

#[test]
fn a_resumed_stream_sends_the_same_bytes_again() {
    let server = serve_with(numbers(1_000), 1, StreamingConfig::default());
    let mut client = Plain::connect(&server);
    client.query(
        "numbers",
        json!({"compression": ["gzip"], "resumable": true, "window": {"batches": 3}, "progress_interval_ms": 0}),
    );
    let Wire::QueryStarted {
        resume_token: Some(token),
        ..
    } = client.recv()
    else {
        panic!("no token")
    };
    let next = |client: &mut Plain| match client.next_raw() {
        Message::Binary(bytes) => Binary::new(&bytes),
        other => panic!("{other:?}"),
    };
    let before: Vec<Binary> = (0..3).map(|_| next(&mut client)).collect();
    drop(client);
    wait_until_detached(&server);
    let mut client = Plain::connect(&server);
    client.send(&json!({"type": "resume_query", "resume_token": token, "last_batch": 0}));
    assert!(matches!(
        client.recv_unchecked(),
        Wire::QueryResumed {
            resend_from: 1,
            next_batch: 3,
            ..
        }
    ));
    for (number, sent) in before.iter().enumerate().skip(1) {
        let mut again = next(&mut client);
        assert_eq!(
            again.header.as_object_mut().unwrap().remove("replay"),
            Some(json!(true))
        );
        assert_eq!(
            (again.header, again.payload),
            (sent.header.clone(), sent.payload.clone()),
            "{number}"
        );
    }
    let fresh = next(&mut client);
    assert_eq!(
        (&fresh.header["batch_number"], fresh.header.get("replay")),
        (&json!(3), None)
    );
}

fn serve_sql(sql: &str) -> (TempDir, ServerHandle) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("types.db");
    Connection::open(&path).unwrap().execute_batch(sql).unwrap();
    let server = Server::builder()
        .engine("sqlite", SqliteEngine::open(&path).unwrap())
        .engine("memory", numbers(1))
        .listen("127.0.0.1:0")
        .start()
        .unwrap();
    (folder, server)
}

#[test]
fn booleans_are_what_is_declared_so() {
    let (_folder, server) = serve_sql(
        "CREATE TABLE t(b BOOLEAN, i INTEGER);
         INSERT INTO t VALUES (1, 1), (0, 0), (2, 2), (NULL, NULL), ('yes', 1)",
    );
    let mut client = Plain::connect(&server);
    let seen = client.run("SELECT b, i FROM t ORDER BY rowid", json!({"row_format": "array"}));
    let expected = [
        json!([true, 1]),
        json!([false, 0]),
        json!([2, 2]),
        json!([null, null]),
        json!(["yes", 1]),
    ];
    assert_eq!(seen.rows, expected);
}

#[test]
fn typed_parameters_say_what_json_cannot() {
    let (_folder, server) = serve_sql("");
    let mut client = Plain::connect(&server);
    let params = json!([
        {"type": "blob", "value": "AP8="},
        {"type": "int64", "value": "9007199254740993"},
        {"type": "float64", "value": "Infinity"},
        {"type": "float64", "value": 1},
        {"type": "text", "value": "1"},
        {"type": "json", "value": {"a": 1}}
    ]);
    let sql = "SELECT hex(?1), ?2, ?3, typeof(?4), typeof(?5), json_extract(?6, '$.a')";
    let seen = client.run(sql, json!({"params": params, "row_format": "array"}));
    assert_eq!(
        seen.rows,
        [json!([
            "00FF",
            9_007_199_254_740_993_i64,
            "Infinity",
            "real",
            "text",
            1
        ])]
    );
    client.query(
        "SELECT ?",
        json!({"params": [{"type": "blob", "value": "not base64"}], "request_id": 1}),
    );
    assert!(matches!(client.recv(), Wire::Error { code, stream_id: None, .. } if code == "PARAMETER_ERROR"));
}

#[test]
fn columns_say_how_integers_are_written() {
    let (_folder, server) = serve_sql("CREATE TABLE t(i INTEGER, s TEXT); INSERT INTO t VALUES (1, 'x')");
    let mut client = Plain::connect(&server);
    for (int64, expected) in [("number", None), ("string", Some("string")), ("safe", Some("safe"))] {
        client.query("SELECT * FROM t", json!({"int64": int64}));
        let Wire::QueryStarted {
            columns: Some(columns), ..
        } = client.recv()
        else {
            panic!("no columns")
        };
        assert_eq!(columns[0].encoding.as_deref(), expected);
        assert_eq!(columns[1].encoding, None);
        client.finish();
    }
}

#[test]
fn whoever_asks_for_the_protocol_by_name_is_welcomed_first() {
    let (_folder, server) = serve_sql("");
    for offered in ["rowstream.v1", "chat, rowstream.v1", "rowstream.v9,rowstream.v1"] {
        let mut client = Plain::connect_with(&server, &[("sec-websocket-protocol", offered)]);
        let first = client.recv();
        client.send(&json!({"type": "hello", "request_id": "again"}));
        for (welcome, named) in [(first, None), (client.recv(), Some(json!("again")))] {
            match welcome {
                Wire::Welcome {
                    request_id,
                    server,
                    version,
                    server_id,
                    capabilities,
                    limits,
                    engines,
                    heartbeat_ms,
                } => {
                    assert_eq!(request_id, named);
                    assert_eq!(
                        (server.as_str(), version.as_str()),
                        ("rowstream", env!("CARGO_PKG_VERSION"))
                    );
                    assert_eq!(
                        (server_id.len(), engines, heartbeat_ms),
                        (12, vec!["sqlite".to_owned(), "memory".to_owned()], 15_000)
                    );
                    assert!(capabilities.contains(&"compression:gzip".to_owned()));
                    assert_eq!(limits["batch_size"], 10_000);
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(client.run("SELECT 1 AS one", json!({})).rows, [json!({"one": 1})]);
    }
    let mut plain = Plain::connect(&server);
    assert!(plain.run("SELECT 1", json!({})).started, "and nobody else is");
}

#[test]
fn a_query_is_described_without_being_executed() {
    let (_folder, server) = serve_sql("CREATE TABLE t(id INTEGER, name TEXT); INSERT INTO t VALUES (1, 'x')");
    let mut client = Plain::connect(&server);
    let mut describe = |query: &str, extra: Value| {
        let mut message = json!({"type": "describe_query", "query": query, "request_id": "d"});
        message
            .as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        client.send(&message);
        client.recv()
    };
    match describe("SELECT id, name, id FROM t WHERE id > :least AND name <> ?", json!({})) {
        Wire::QueryDescription {
            request_id,
            columns: Some(columns),
            parameters,
            read_only,
            estimated_rows,
        } => {
            assert_eq!(request_id, Some(json!("d")));
            let labels: Vec<&str> = columns.iter().map(|column| column.label.as_str()).collect();
            assert_eq!(labels, ["id", "name", "id_2"]);
            assert_eq!(parameters, [json!({"name": "least"}), json!({"name": null})]);
            assert_eq!((read_only, estimated_rows), (Some(true), None));
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        describe("numbers", json!({"engine": "memory"})),
        Wire::QueryDescription { columns: Some(_), .. }
    ));
    for (query, extra, expected) in [
        ("SELECT nothing", json!({}), "SYNTAX_ERROR"),
        ("DELETE FROM t", json!({}), "READ_ONLY"),
        ("SELECT 1", json!({"engine": "none"}), "BAD_MESSAGE"),
    ] {
        match describe(query, extra) {
            Wire::Error {
                code,
                request_id,
                stream_id: None,
                started: false,
                ..
            } => {
                assert_eq!((code.as_str(), request_id), (expected, Some(json!("d"))), "{query}");
            }
            other => panic!("{other:?}"),
        }
    }
    // Connections came back.
    assert_eq!(
        client.run("SELECT count(*) AS n FROM t", json!({})).rows,
        [json!({"n": 1})]
    );
}

#[test]
fn the_client_library_asks_and_reads_all_of_it() {
    let (_folder, server) = serve_sql("CREATE TABLE t(id INTEGER); INSERT INTO t VALUES (1)");
    let client = rowstream::Client::connect(&format!("ws://{}/ws", server.local_addr().unwrap())).unwrap();
    let (welcome, hello) = (client.welcome().unwrap().unwrap(), client.hello().unwrap());
    assert_eq!(hello.engines, ["sqlite", "memory"]);
    assert_eq!(welcome, hello, "unasked and asked");
    let description = client.describe("SELECT id FROM t WHERE id = ?").unwrap();
    assert_eq!((description.parameters.len(), description.read_only), (1, Some(true)));
    assert!(client.describe("SELECT").is_err());
    for codec in [
        rowstream::client::Compression::Gzip,
        rowstream::client::Compression::Zstd,
    ] {
        let sql = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 9999) SELECT i FROM n";
        let query = client.query(sql).compression([codec]).checksum(true).resumable(true);
        let mut n_rows = 0;
        for batch in query.start().unwrap() {
            for row in batch.unwrap().rows() {
                assert_eq!(row.get::<i64>(0).unwrap(), n_rows);
                n_rows += 1;
            }
        }
        assert_eq!(n_rows, 10_000);
    }
    let blob: Vec<u8> = client
        .query("SELECT ?")
        .param(vec![0_u8, 255])
        .start()
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .rows()
        .next()
        .unwrap()
        .get(0)
        .unwrap();
    assert_eq!(blob, [0, 255]);
}

#[cfg(feature = "arrow")]
mod arrow {
    use arrow_array::cast::AsArray;
    use arrow_array::types::{Date32Type, Float64Type, Int64Type};
    use arrow_array::{Array, RecordBatch, RecordBatchReader};
    use arrow_schema::DataType;
    use rowstream::client::{ClientError, Event, Outcome};
    use rowstream::{Client, ErrorCode};

    use super::*;

    fn connect(server: &ServerHandle) -> Client {
        Client::connect(&format!("ws://{}/ws", server.local_addr().unwrap())).unwrap()
    }

    #[test]
    fn record_batches_have_true_types_and_all_rows() {
        let (_folder, server) = serve_sql(
            "CREATE TABLE t(i INTEGER, r REAL, s TEXT, b BLOB, d DATE, yes BOOLEAN);
             INSERT INTO t VALUES (9223372036854775807, -1.5, 'ä', x'00ff', '2026-11-26', 1), (NULL, NULL, NULL, NULL, NULL, NULL)",
        );
        let client = connect(&server);
        let query = client
            .query("SELECT *, i + 0 AS e FROM t")
            .checksum(true)
            .compression([rowstream::client::Compression::Gzip]);
        let mut reader = query.record_batches().unwrap();
        let schema = reader.schema();
        let types: Vec<&DataType> = schema.fields().iter().map(|field| field.data_type()).collect();
        assert_eq!(
            types,
            [
                &DataType::Int64,
                &DataType::Float64,
                &DataType::Utf8,
                &DataType::Binary,
                &DataType::Date32,
                &DataType::Boolean,
                &DataType::Int64
            ]
        );
        let batches: Vec<RecordBatch> = reader.by_ref().map(Result::unwrap).collect();
        let [batch] = batches.as_slice() else {
            panic!("{batches:?}")
        };
        assert_eq!(batch.num_rows(), 2);
        assert_eq!(batch.column(0).as_primitive::<Int64Type>().value(0), i64::MAX);
        assert_eq!(
            batch.column(1).as_primitive::<Float64Type>().value(0).to_bits(),
            (-1.5_f64).to_bits()
        );
        assert_eq!(batch.column(2).as_string::<i32>().value(0), "ä");
        assert_eq!(batch.column(3).as_binary::<i32>().value(0), [0, 255]);
        // Days from 1970-01-01.
        assert_eq!(batch.column(4).as_primitive::<Date32Type>().value(0), 20_783);
        assert!(batch.column(5).as_boolean().value(0));
        assert!(batch.columns().iter().all(|column| column.is_null(1)));
        assert!(matches!(reader.stream().outcome(), Some(Outcome::Completed(completed)) if completed.digest.is_some()));
    }

    #[test]
    fn a_long_result_is_the_same_as_in_json() {
        let (_folder, server) = serve_sql("");
        let client = connect(&server);
        let sql = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 49999) SELECT i, i / 7.0 AS r, 'row ' || i AS t FROM n";
        let mut next = 0;
        for batch in client.query(sql).resumable(true).record_batches().unwrap() {
            let batch = batch.unwrap();
            let (numbers, reals) = (
                batch.column(0).as_primitive::<Int64Type>(),
                batch.column(1).as_primitive::<Float64Type>(),
            );
            for row in 0..batch.num_rows() {
                assert_eq!(numbers.value(row), next);
                assert_eq!(reals.value(row).to_bits(), (next as f64 / 7.0).to_bits());
                assert_eq!(batch.column(2).as_string::<i32>().value(row), format!("row {next}"));
                next += 1;
            }
        }
        assert_eq!(next, 50_000);
    }

    #[test]
    fn a_result_without_rows_has_types() {
        let (_folder, server) = serve_sql("CREATE TABLE t(i INTEGER)");
        let client = connect(&server);
        let mut reader = client.query("SELECT i FROM t").record_batches().unwrap();
        assert_eq!(reader.schema().field(0).data_type(), &DataType::Int64);
        assert!(reader.next().is_none());
    }

    #[test]
    fn cells_of_no_common_type_are_refused_by_row_and_column() {
        let (_folder, server) = serve_sql("CREATE TABLE t(x); INSERT INTO t VALUES (1), (NULL), ('two'), (3)");
        let client = connect(&server);
        let mut stream = client.query("SELECT 0 AS a, x FROM t").arrow().start().unwrap();
        let error = loop {
            match stream.next_event() {
                Ok(Some(Event::ArrowBatch(batch))) => assert_eq!(batch.rows, 2, "the rows before it stand"),
                Ok(Some(_)) => {}
                Ok(None) => panic!("no error"),
                Err(ClientError::Query(error)) => break error,
                Err(other) => panic!("{other}"),
            }
        };
        assert_eq!(error.code, ErrorCode::EncodingError);
        assert!(
            error.message.contains("row 3, column 2 (\"x\")") && error.message.contains("arrow_mixed"),
            "{}",
            error.message
        );
        assert!(error.started);
        // The connection goes on, and so does the same query as JSON.
        assert_eq!(
            client
                .query("SELECT x FROM t")
                .start()
                .unwrap()
                .map(|batch| batch.unwrap().len())
                .sum::<usize>(),
            4
        );
    }

    #[test]
    fn iterating_over_batches_of_cells_says_that_there_are_none() {
        let (_folder, server) = serve_sql("");
        let client = connect(&server);
        let mut stream = client.query("SELECT 1").arrow().start().unwrap();
        assert!(matches!(stream.next(), Some(Err(ClientError::Usage(_)))));
        assert!(stream.next().is_none());
    }

    #[test]
    fn limits_on_rows_hold() {
        let server = serve(numbers(1_000));
        let client = connect(&server);
        for (n_wanted, truncated) in [(250, true), (1_000, false)] {
            let mut reader = client.query("numbers").max_rows(n_wanted).record_batches().unwrap();
            let n_rows: usize = reader.by_ref().map(|batch| batch.unwrap().num_rows()).sum();
            assert_eq!(n_rows as u64, n_wanted);
            assert!(
                matches!(reader.stream().outcome(), Some(Outcome::Completed(completed)) if completed.truncated == truncated)
            );
        }
    }
}
