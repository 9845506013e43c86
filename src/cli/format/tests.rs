//! Every format on the same rows.

#![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

use super::*;
use crate::rows::{Column, ColumnType};

/// Batches of a column of integers and a column of text.
fn batches(rows: &[&str]) -> (Schema, Vec<Batch>) {
    let schema = Schema::new(vec![
        Column::new("n", ColumnType::Int64),
        Column::new("a \"b\"", ColumnType::Text),
    ]);
    (schema.clone(), Batch::sequence(&schema, rows))
}

fn written(format: Format, width: Option<u16>, rows: &[&str], is_whole: bool) -> String {
    let (schema, batches) = batches(rows);
    let mut writer = format.writer(width);
    let mut out = Vec::new();
    writer.columns(&schema, &mut out).unwrap();
    for batch in &batches {
        writer.batch(batch, &mut out).unwrap();
    }
    writer.end(is_whole, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[track_caller]
fn check(format: Format, rows: &[&str], expected: &str) {
    assert_eq!(written(format, None, rows, true), expected);
}

const ROWS: [&str; 2] = [
    r#"[[1,"x"],[9223372036854775807,"say \"hi\", é\n"]]"#,
    r#"[[null,null],[-2.50,""]]"#,
];

#[test]
fn ndjson_is_an_object_per_line_with_cells_verbatim() {
    check(
        Format::Ndjson,
        &ROWS,
        "{\"n\":1,\"a \\\"b\\\"\":\"x\"}\n\
         {\"n\":9223372036854775807,\"a \\\"b\\\"\":\"say \\\"hi\\\", é\\n\"}\n\
         {\"n\":null,\"a \\\"b\\\"\":null}\n\
         {\"n\":-2.50,\"a \\\"b\\\"\":\"\"}\n",
    );
    check(Format::Ndjson, &["[]"], "");
}

#[test]
fn json_is_one_array_closed_when_whole() {
    check(
        Format::Json,
        &["[[1,\"x\"]]", "[[2,null]]"],
        "[\n{\"n\":1,\"a \\\"b\\\"\":\"x\"},\n{\"n\":2,\"a \\\"b\\\"\":null}\n]\n",
    );
    check(Format::Json, &[], "[\n]\n");
    let broken_off = written(Format::Json, None, &["[[1,\"x\"]]"], false);
    assert_eq!(broken_off, "[\n{\"n\":1,\"a \\\"b\\\"\":\"x\"}\n");
}

#[test]
fn csv_has_a_header_and_quotes_what_must_be() {
    check(
        Format::Csv,
        &ROWS,
        "n,\"a \"\"b\"\"\"\n1,x\n9223372036854775807,\"say \"\"hi\"\", é\n\"\n,\n-2.50,\n",
    );
    check(Format::Csv, &[], "n,\"a \"\"b\"\"\"\n");
}

#[test]
fn tables_are_aligned_and_show_null() {
    check(
        Format::Table,
        &ROWS,
        concat!(
            " n                   │ a \"b\"\n",
            "─────────────────────┼───────────────\n",
            "                   1 │ x\n",
            " 9223372036854775807 │ say \"hi\", é\\n\n",
            "                NULL │ NULL\n",
            "               -2.50 │\n",
        ),
    );
    check(Format::Table, &[], concat!(" n │ a \"b\"\n", "───┼───────\n"));
    assert_eq!(written(Format::Table, None, &[], false), "");
}

#[test]
fn tables_stay_within_the_terminal() {
    let long = format!("[[1,\"{}\"]]", "word ".repeat(20));
    let table = written(Format::Table, Some(30), &[&long], true);
    assert!(table.lines().count() > 4, "{table}");
    assert!(table.lines().all(|line| line.chars().count() <= 30), "{table}");
    assert_eq!(table.matches("word").count(), 20, "{table}");
}

#[test]
fn long_tables_come_in_windows_with_one_header() {
    let small = vec!["[[1,\"x\"]]"; 1_500];
    let mut rows = small.clone();
    rows.push("[[1,\"wider than before\"]]");
    let table = written(Format::Table, None, &rows, true);
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(lines.len(), 1_503);
    assert_eq!(lines.iter().filter(|line| line.contains('┼')).count(), 1);
    assert_eq!(lines[2], " 1 │ x");
    assert_eq!(lines[1_502], " 1 │ wider than before");
}

#[test]
fn rows_held_back_are_written_when_asked_for() {
    let (schema, batches) = batches(&["[[1,\"x\"]]"]);
    let mut writer = Format::Table.writer(None);
    let mut out = Vec::new();
    writer.columns(&schema, &mut out).unwrap();
    writer.batch(&batches[0], &mut out).unwrap();
    assert!(out.is_empty());
    writer.catch_up(&mut out).unwrap();
    let len = out.len();
    assert!(len > 0);
    writer.catch_up(&mut out).unwrap();
    writer.end(true, &mut out).unwrap();
    assert_eq!(out.len(), len);
}
