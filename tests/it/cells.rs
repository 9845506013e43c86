//! Cells that are not what their columns declare: what a client may ask for them, over whole connections.

use rowstream::engine::sqlite::SqliteEngine;
use rowstream::rows::{ColumnType, TextErrors};
use rowstream::{Client, Server, ServerHandle};
use rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::TempDir;
use tungstenite::Message;

use crate::support::{Plain, Wire};

fn serve_sql(sql: &str) -> (TempDir, ServerHandle) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("cells.db");
    Connection::open(&path).unwrap().execute_batch(sql).unwrap();
    let server = Server::builder()
        .engine("sqlite", SqliteEngine::open(&path).unwrap())
        .listen("127.0.0.1:0")
        .start()
        .unwrap();
    (folder, server)
}

fn connect(server: &ServerHandle) -> Client {
    Client::connect(&format!("ws://{}/ws", server.local_addr().unwrap())).unwrap()
}

const DIRTY: &str = "CREATE TABLE t(id INTEGER, \"full name\" TEXT, x REAL);
    INSERT INTO t VALUES (1, 'Ada', 1.5), (2, x'00ff', 9e999), (3, CAST(x'47ff' AS TEXT), 'Infinity'), ('four', 'x', NULL)";

#[test]
fn text_that_is_not_utf8_ends_the_stream_unless_the_query_says_otherwise() {
    let (_folder, server) = serve_sql(DIRTY);
    let mut client = Plain::connect(&server);
    let sql = "SELECT \"full name\" FROM t WHERE id = 3";
    let run = |client: &mut Plain, extra: Value| client.run(sql, extra);
    for extra in [json!({}), json!({"text_errors": "fail"}), json!({"cell_types": true})] {
        match run(&mut client, extra).end {
            Some(Wire::Error { code, message, .. }) => {
                assert_eq!(code, "ENCODING_ERROR");
                assert!(message.contains("row 1, column 1 (\"full name\")"), "{message}");
                assert!(message.contains("text_errors"), "{message}");
            }
            other => panic!("{other:?}"),
        }
    }
    let extra = |choice: &str| json!({"text_errors": choice, "row_format": "array"});
    assert_eq!(run(&mut client, extra("replace")).rows, [json!(["G\u{FFFD}"])]);
    assert_eq!(run(&mut client, extra("blob")).rows, [json!(["R/8="])]);
    // The rows before it were sent, and the error counts them.
    let seen = client.run("SELECT \"full name\" FROM t ORDER BY rowid", json!({}));
    assert_eq!(seen.rows.len(), 2);
    assert!(matches!(&seen.end, Some(Wire::Error { message, .. }) if message.contains("row 3, column 1")));
}

#[test]
fn marks_say_which_cells_are_not_what_their_column_says() {
    let (_folder, server) = serve_sql(DIRTY);
    let mut client = Plain::connect(&server);
    let sql = "SELECT * FROM t ORDER BY rowid";
    let fields =
        json!({"row_format": "array", "cell_types": true, "text_errors": "replace", "progress_interval_ms": 0});
    client.query(sql, fields.clone());
    client.recv_started();
    let expected = json!([[1, 1, "blob"], [2, 2, "text"], [3, 0, "text"]]);
    match client.recv() {
        Wire::QueryBatch { rows, cell_types, .. } => {
            assert_eq!(cell_types, Some(expected.clone()));
            assert_eq!(rows[1], json!([2, "AP8=", "Infinity"]));
            assert_eq!(rows[2], json!([3, "G\u{FFFD}", "Infinity"]));
        }
        other => panic!("{other:?}"),
    }
    client.finish();
    // The same behind a compressed payload.
    let mut fields = fields;
    fields["compression"] = json!(["gzip"]);
    client.query(sql, fields);
    client.recv_started();
    let Message::Binary(message) = client.next_raw() else {
        panic!("not binary")
    };
    let (length, rest) = message.split_first_chunk::<4>().unwrap();
    let (header, payload) = rest.split_at(u32::from_be_bytes(*length) as usize);
    let header: Value = serde_json::from_slice(header).unwrap();
    let bytes = usize::try_from(header["cell_types_bytes"].as_u64().unwrap()).unwrap();
    let marks = &payload[payload.len() - bytes..];
    assert_eq!(serde_json::from_slice::<Value>(marks).unwrap(), expected);
}

#[test]
fn nothing_is_said_of_cells_unless_it_is_asked_for() {
    let (_folder, server) = serve_sql(DIRTY);
    let mut client = Plain::connect(&server);
    client.query("SELECT id, x FROM t", json!({"progress_interval_ms": 0}));
    client.recv_started();
    assert!(matches!(client.recv(), Wire::QueryBatch { cell_types: None, .. }));
}

#[test]
fn the_client_library_tells_marked_cells_apart() {
    let (_folder, server) = serve_sql(DIRTY);
    let client = connect(&server);
    for batch_size in [1, 100] {
        let query = client.query("SELECT * FROM t ORDER BY rowid").batch_size(batch_size);
        let query = query.cell_types(true).text_errors(TextErrors::Blob).resumable(true);
        let batches: Vec<_> = query.start().unwrap().map(Result::unwrap).collect();
        let rows: Vec<_> = batches.iter().flat_map(|batch| batch.rows()).collect();
        let n_marks: usize = batches.iter().map(|batch| batch.cell_types().len()).sum();
        assert_eq!(n_marks, 4);
        assert_eq!(rows[0].cell_type("full name"), Ok(None));
        assert_eq!(rows[0].get::<String>("full name").unwrap(), "Ada");
        for (row, bytes) in [(1, [0, 255]), (2, [b'G', 255])] {
            assert_eq!(rows[row].cell_type("full name"), Ok(Some(ColumnType::Blob)));
            assert_eq!(rows[row].get::<Vec<u8>>("full name").unwrap(), bytes);
            assert!(rows[row].get::<String>("full name").is_err());
        }
        assert_eq!(rows[1].get::<f64>("x"), Ok(f64::INFINITY));
        assert_eq!(rows[2].cell_type("x"), Ok(Some(ColumnType::Text)));
        assert!(rows[2].get::<f64>("x").is_err());
        assert_eq!(rows[2].get::<String>("x").unwrap(), "Infinity");
        assert_eq!(rows[3].cell_type(0), Ok(Some(ColumnType::Text)));
        assert!(rows[3].cell_type("y").is_err());
    }
}

#[test]
fn fragments_of_a_declared_name_declare_nothing() {
    let (_folder, server) = serve_sql(
        "CREATE TABLE t(a ENUM, b POINT, c LAST_UPDATED, d INTEGER_OR_TEXT, e \"VARCHAR\", f UNSIGNED BIG INT, g DOUBLE PRECISION)",
    );
    let client = connect(&server);
    let stream = client.query("SELECT *, a + 1 FROM t").start().unwrap();
    let types: Vec<ColumnType> = stream
        .columns()
        .unwrap()
        .columns()
        .iter()
        .map(|column| column.ty)
        .collect();
    let any = ColumnType::Any;
    let [text, int64, float64] = [ColumnType::Text, ColumnType::Int64, ColumnType::Float64];
    assert_eq!(types, [any, any, any, any, text, int64, float64, any]);
}

#[cfg(feature = "arrow")]
mod arrow {
    use arrow_array::cast::AsArray;
    use arrow_array::types::{Float64Type, Int64Type};
    use arrow_array::{Array, RecordBatch, RecordBatchReader};
    use arrow_schema::DataType;
    use rowstream::ErrorCode;
    use rowstream::client::{CellType, ClientError, Event, QueryBuilder};
    use rowstream::rows::ArrowMixed;

    use super::*;

    /// Everything of a result: the types, and the batches.
    fn read(query: QueryBuilder<'_>) -> (Vec<DataType>, Vec<RecordBatch>) {
        let mut reader = query.record_batches().unwrap();
        let types = reader
            .schema()
            .fields()
            .iter()
            .map(|field| field.data_type().clone())
            .collect();
        let batches = reader.by_ref().map(Result::unwrap).collect();
        (types, batches)
    }

    /// Numbers from 1, of which those from `real_at` on are halves.
    fn turning(real_at: u32, n: u32) -> String {
        format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {n}) \
             SELECT CASE WHEN i < {real_at} THEN i ELSE i + 0.5 END AS x, NULL AS nulls FROM n"
        )
    }

    #[test]
    fn types_do_not_depend_on_the_size_of_batches() {
        let (_folder, server) = serve_sql("");
        let client = connect(&server);
        for batch_size in [1, 100, 200, 10_000] {
            let (types, batches) = read(client.query(turning(101, 250)).batch_size(batch_size));
            assert_eq!(types, [DataType::Float64, DataType::Utf8], "{batch_size}");
            assert!(batches.iter().all(|batch| batch.num_rows() <= batch_size as usize));
            let values: Vec<f64> = batches
                .iter()
                .flat_map(|batch| batch.column(0).as_primitive::<Float64Type>().values().to_vec())
                .collect();
            assert_eq!((values.len(), values[99], values[100]), (250, 100.0, 101.5));
        }
    }

    #[test]
    fn a_long_result_that_turns_late_fails_in_the_same_row_whatever_its_batches() {
        let (_folder, server) = serve_sql("");
        let client = connect(&server);
        for batch_size in [77, 1_000] {
            let query = client
                .query(turning(12_001, 20_000))
                .batch_size(batch_size)
                .resumable(true);
            let mut reader = query.record_batches().unwrap();
            let mut n_rows = 0;
            let error = loop {
                match reader.next().unwrap() {
                    Ok(batch) => n_rows += batch.num_rows(),
                    Err(error) => break error.to_string(),
                }
            };
            assert_eq!(n_rows, 12_000);
            assert!(error.contains("row 12001, column 1 (\"x\") is a real"), "{error}");
            assert!(error.contains("Int64") && error.contains("arrow_mixed"), "{error}");
        }
    }

    #[test]
    fn limits_hold_for_rows_that_were_held_back() {
        let (_folder, server) = serve_sql("");
        let client = connect(&server);
        for (max_rows, truncated) in [(1, true), (250, true), (999, true), (1_000, false)] {
            let query = client
                .query(turning(2_000, 1_000))
                .max_rows(max_rows)
                .batch_size(100)
                .window(1, 1 << 20);
            let mut reader = query.record_batches().unwrap();
            let n_rows: usize = reader.by_ref().map(|batch| batch.unwrap().num_rows()).sum();
            assert_eq!(n_rows as u64, max_rows);
            match reader.stream().outcome() {
                Some(rowstream::client::Outcome::Completed(completed)) => assert_eq!(completed.truncated, truncated),
                other => panic!("{other:?}"),
            }
        }
        let mut reader = client
            .query(turning(2_000, 1_000))
            .max_bytes(4_000)
            .record_batches()
            .unwrap();
        let n_rows: usize = reader.by_ref().map(|batch| batch.unwrap().num_rows()).sum();
        assert!((1..400).contains(&n_rows), "{n_rows}");
    }

    #[test]
    fn a_result_that_is_cut_before_a_row_that_fails_is_cut() {
        let (_folder, server) = serve_sql("");
        let client = connect(&server);
        let read = |max_bytes| {
            let query = client
                .query("SELECT column1 FROM (VALUES (1), (2), (3), ('x'))")
                .max_bytes(max_bytes);
            let mut reader = query.record_batches().unwrap();
            let (mut n_rows, mut error) = (0, None);
            for batch in reader.by_ref() {
                match batch {
                    Ok(batch) => n_rows += batch.num_rows(),
                    Err(failed) => error = Some(failed.to_string()),
                }
            }
            let is_cut =
                matches!(reader.stream().outcome(), Some(rowstream::client::Outcome::Completed(end)) if end.truncated);
            (n_rows, is_cut, error)
        };
        assert_eq!(read(1), (0, true, None));
        let (n_rows, is_cut, error) = read(10);
        assert!(n_rows < 3 && is_cut && error.is_none(), "{n_rows} {error:?}");
        let (n_rows, is_cut, error) = read(1_000);
        assert!(n_rows == 3 && !is_cut, "{n_rows}");
        assert!(error.unwrap().contains("row 4, column 1"));
    }

    /// Columns as geodetic catalogues declare them, with integers and text in one, and a blob.
    const CATALOGUE: &str = "CREATE TABLE alias(id INTEGER_OR_TEXT, name TEXT, accuracy FLOAT, deprecated BOOLEAN, shape BLOB);
        INSERT INTO alias VALUES (4326, 'WGS 84', 2.0, 0, x'00ff'), ('ESRI-1', x'57', 'unknown', 7, 'none'), (NULL, 1, NULL, 1, 9e999)";

    #[test]
    fn every_result_can_be_had_as_text() {
        let (_folder, server) = serve_sql(CATALOGUE);
        let client = connect(&server);
        let strict = client
            .query("SELECT id FROM alias")
            .record_batches()
            .unwrap()
            .find_map(Result::err);
        let said = strict.unwrap().to_string();
        assert!(said.contains("row 2, column 1 (\"id\") is text"), "{said}");
        let query = client
            .query("SELECT * FROM alias ORDER BY rowid")
            .arrow_mixed(ArrowMixed::Text);
        let (types, batches) = read(query);
        let [text, binary] = [DataType::Utf8, DataType::Binary];
        assert_eq!(types, [text.clone(), text.clone(), text.clone(), text, binary]);
        let column = |idx: usize| -> Vec<Option<String>> {
            let column = batches[0].column(idx).as_string::<i32>();
            column.iter().map(|cell| cell.map(str::to_owned)).collect()
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(column(0), [some("4326"), some("ESRI-1"), None]);
        assert_eq!(column(1), [some("WGS 84"), some("Vw=="), some("1")]);
        assert_eq!(column(2), [some("2.0"), some("unknown"), None]);
        assert_eq!(column(3), [some("false"), some("7"), some("true")]);
        let shapes = batches[0].column(4).as_binary::<i32>();
        assert_eq!(
            (shapes.value(0), shapes.value(1), shapes.value(2)),
            (&[0, 255][..], &b"none"[..], &b"Infinity"[..])
        );
    }

    #[test]
    fn arrow_batches_come_with_their_marks() {
        let (_folder, server) = serve_sql(CATALOGUE);
        let client = connect(&server);
        let query = client
            .query("SELECT id, accuracy FROM alias ORDER BY rowid")
            .arrow()
            .cell_types(true);
        let mut stream = query.arrow_mixed(ArrowMixed::Text).checksum(true).start().unwrap();
        let mut marks: Vec<CellType> = Vec::new();
        while let Some(event) = stream.next_event().unwrap() {
            if let Event::ArrowBatch(batch) = event {
                marks.extend(batch.cell_types);
            }
        }
        let [integer, real] = [ColumnType::Int64, ColumnType::Float64];
        assert_eq!(marks, [(0, 0, integer), (0, 1, real)].map(CellType::from));
    }

    #[test]
    fn the_cells_of_a_column_that_is_null_at_first_decide_its_type() {
        let (_folder, server) = serve_sql(
            "CREATE TABLE t(x, d DATETIME);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400)
             INSERT INTO t SELECT CASE WHEN i > 300 THEN i END, CASE WHEN i > 300 THEN 1700000000 + i END FROM n",
        );
        let client = connect(&server);
        let (types, batches) = read(client.query("SELECT x, d FROM t ORDER BY rowid").batch_size(50));
        assert_eq!(types, [DataType::Int64, DataType::Int64]);
        let last = batches.last().unwrap();
        assert_eq!(
            last.column(0).as_primitive::<Int64Type>().value(last.num_rows() - 1),
            400
        );
        assert_eq!(batches[0].column(1).null_count(), 50);
    }

    #[test]
    fn an_engine_that_fails_while_rows_are_held_back_has_them_sent_first() {
        let script = rowstream::Script::new(["n"])
            .generate(250, |n| vec![(n as i64).into()])
            .fail(rowstream::EngineError::new(rowstream::EngineErrorKind::Query, "broken"));
        let engine = rowstream::MemoryEngine::builder().query("q", script).build();
        let server = crate::support::serve(engine);
        let client = connect(&server);
        let mut stream = client.query("q").arrow().batch_size(100).start().unwrap();
        let mut batches = Vec::new();
        let error = loop {
            match stream.next_event() {
                Ok(Some(Event::ArrowBatch(batch))) => batches.push(batch.rows),
                Ok(Some(_)) => {}
                Ok(None) => panic!("no error"),
                Err(ClientError::Query(error)) => break error,
                Err(other) => panic!("{other}"),
            }
        };
        assert_eq!((batches, error.code), (vec![100, 100, 50], ErrorCode::QueryFailed));
    }

    #[test]
    fn a_row_found_first_leaves_before_the_engine_comes_back_where_columns_are_declared() {
        let gate = rowstream::Gate::new();
        let script = rowstream::Script::new(["t"])
            .row(["text".into()])
            .gate(&gate)
            .row(["more".into()]);
        let engine = rowstream::MemoryEngine::builder().query("q", script).build();
        let server = crate::support::serve(engine);
        let client = connect(&server);
        let mut stream = client.query("q").arrow().start().unwrap();
        let first = loop {
            if let Some(Event::ArrowBatch(batch)) = stream.next_event().unwrap() {
                break batch;
            }
        };
        assert_eq!(first.rows, 1);
        gate.open();
    }
}
