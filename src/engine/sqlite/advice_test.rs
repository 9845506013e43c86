//! What the errors of queries advise, through the engine's door.
#![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

use rusqlite::Connection;

use super::tests::{Fixture, check, check_refused, fixture, rows};
use super::*;
use crate::engine::EngineErrorKind::{Limit, Parameter, Syntax};
use crate::rows::{Params, Value};

fn people() -> Fixture {
    fixture(
        "CREATE TABLE people(id INTEGER PRIMARY KEY, name TEXT, \"e-mail\" TEXT); CREATE TABLE \"my orders\"(total);
         CREATE VIEW summary AS SELECT name AS label FROM people; INSERT INTO people VALUES (1, 'Ann', 'a@b')",
    )
}

#[track_caller]
fn check_hint(fixture: &Fixture, sql: &str, expected: Option<&str>) {
    let error = check_refused(fixture, &QuerySpec::new(sql), Syntax);
    assert_eq!(error.hint.as_deref(), expected, "{sql}: {error:?}");
    let described = fixture.engine.describe(sql, &CancelToken::new()).unwrap_err();
    assert_eq!(described.hint.as_deref(), expected, "described, {sql}");
}

#[test]
fn a_misspelt_name_is_put_right() {
    let people = people();
    for (sql, expected) in [
        ("SELECT nme FROM people", Some("did you mean \"name\"?")),
        ("SELECT p.nmae FROM people p", Some("did you mean \"name\"?")),
        ("SELECT \"nme\" FROM people", Some("did you mean \"name\"?")),
        ("SELECT [e_mail] FROM people", Some("did you mean \"e-mail\"?")),
        ("SELECT lable FROM summary", Some("did you mean \"label\"?")),
        ("SELECT totl FROM \"my orders\"", Some("did you mean \"total\"?")),
        ("SELECT * FROM poeple", Some("did you mean \"people\"?")),
        ("SELECT * FROM main.Peeple", Some("did you mean \"people\"?")),
        ("SELECT * FROM sumary", Some("did you mean \"summary\"?")),
        ("SELECT lenght(name) FROM people", Some("did you mean \"length\"?")),
        ("SELECT quantity FROM people", None),
        ("SELECT * FROM nowhere", None),
        ("SELECT levenshtein(name) FROM people", None),
    ] {
        check_hint(&people, sql, expected);
    }
}

/// No hint names what the query could not read if it knew the name.
#[test]
fn hidden_tables_are_not_advised() {
    let fixture = fixture("CREATE TABLE t(a)");
    for sql in [
        "SELECT * FROM dbstt",
        "SELECT * FROM sqlite_shema",
        "SELECT * FROM pragma_table_inf",
    ] {
        check_hint(&fixture, sql, None);
    }
    check_hint(&fixture, "SELECT json_ptch('{}', '{}')", None);
}

#[test]
fn words_of_other_dialects_have_sqlites() {
    let people = people();
    for (sql, expected) in [
        (".tables", "sqlite_schema"),
        (".schema people", "sqlite_schema"),
        ("\\d people", "sqlite_schema"),
        ("show tables", "sqlite_schema"),
        ("describe people", "sqlite_schema"),
        ("DESC people", "sqlite_schema"),
        ("use people", "`engine`"),
        ("SELECT TOP 10 * FROM people", "LIMIT n"),
        ("SELECT * FROM people FETCH FIRST 5 ROWS ONLY", "LIMIT n"),
        ("SELECT * FROM people WHERE name ILIKE 'a%'", "LIKE"),
        ("SELECT id::text FROM people", "CAST(x AS type)"),
        ("SELECT now()", "datetime('now')"),
        ("SELECT * FROM people WHERE name REGEXP 'a'", "LIKE and GLOB"),
        ("SELECT left(name, 2) FROM people", "substr"),
        ("SELECT * FROM information_schema.tables", "sqlite_schema"),
        ("SELECT 1 FROM dual", "SELECT 1"),
        ("SELECT * FROM people WHERE name = \"Ann\"", "single quotes"),
    ] {
        let error = check_refused(&people, &QuerySpec::new(sql), Syntax);
        let hint = error.hint.clone().unwrap_or_default();
        assert!(hint.contains(expected), "{sql}: {error:?}");
    }
}

/// SQLite's own library accepts such a view, and its readers cannot repair it.
#[test]
fn a_view_may_have_texts_in_double_quotes_and_a_query_may_not() {
    let fixture = fixture(
        "CREATE TABLE t(a, \"b c\"); INSERT INTO t VALUES (7, 8);
         CREATE VIEW v AS SELECT \"I-\" || a AS x, \"b c\", \"it's\" AS y FROM t;
         CREATE INDEX i ON t(a) WHERE \"b c\" <> \"none\"",
    );
    check(&fixture, "SELECT * FROM v", "[\"I-7\",8,\"it's\"]");
    check(
        &fixture,
        "SELECT \"x\", v.\"b c\" FROM \"v\" WHERE \"y\" = 'it''s';",
        "[\"I-7\",8]",
    );
    check(&fixture, "SELECT a FROM t WHERE a = 7", "[7]");
    for sql in [
        "SELECT \"I-\" FROM t",
        "SELECT \"I-\" FROM v",
        "SELECT * FROM v WHERE x = \"I-7\"",
    ] {
        check_refused(&fixture, &QuerySpec::new(sql), Syntax);
    }
    let described = fixture.engine.describe("SELECT x FROM v", &CancelToken::new()).unwrap();
    assert_eq!(described.columns.unwrap().columns()[0].name, "x");
    // A changed schema has the query prepared anew, in the middle of being used.
    Connection::open(&fixture.path)
        .unwrap()
        .execute_batch("CREATE TABLE u(a)")
        .unwrap();
    check(&fixture, "SELECT x FROM v", "[\"I-7\"]");
    check_refused(&fixture, &QuerySpec::new("SELECT \"I-\" FROM t"), Syntax);
}

#[test]
fn a_cell_that_is_too_large_is_named() {
    let fixture = fixture(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b); CREATE VIEW v AS SELECT id AS n, b AS photo FROM t;
         INSERT INTO t VALUES (1, 'x', zeroblob(10)), (2, 'x', zeroblob(20)), (3, 'y', zeroblob(2000000)), (4, 'z', 1)",
    );
    for (sql, cell) in [
        (
            "SELECT * FROM t",
            "the cell in row 3, column 3 (\"b\") has 2000000 bytes",
        ),
        (
            "SELECT b AS \"the photo\", id FROM t WHERE id >= 3; -- all",
            "the cell in row 1, column 1 (\"the photo\") has 2000000 bytes",
        ),
        (
            "SELECT photo FROM v ORDER BY n DESC",
            "the cell in column 1 (\"photo\") has 2000000 bytes",
        ),
        (
            "WITH x AS (SELECT id, b FROM t) SELECT * FROM x WHERE id > 1",
            "the cell in row 2, column 2 (\"b\") has 2000000 bytes",
        ),
        // Of a cell that is made, or used on the way, nothing more is known.
        (
            "SELECT zeroblob(2000000)",
            "the query reads or makes a text or blob of more than 1048576 bytes",
        ),
        (
            "SELECT max(b) FROM t",
            "the query reads or makes a text or blob of more than 1048576 bytes",
        ),
    ] {
        let error = check_refused(&fixture, &QuerySpec::new(sql), Limit);
        assert!(error.message.starts_with(cell), "{sql}: {error:?}");
        assert!(error.message.contains("`sqlite_cell_bytes_max`"), "{error:?}");
        assert!(error.hint.is_some_and(|hint| hint.contains("16777216")), "{sql}");
    }
    let query = QuerySpec::new("SELECT b FROM t WHERE id > ? AND a <> ?");
    let query = query.with_params(Params::Positional(vec![Value::Integer(1), Value::Text("q".to_owned())]));
    let error = rows(&fixture.engine, &query).unwrap_err();
    assert!(
        error
            .message
            .starts_with("the cell in row 2, column 1 (\"b\") has 2000000 bytes"),
        "{error:?}"
    );
    // The connection goes on.
    assert_eq!(fixture.engine.pool.n_idle(), 1);
    check(&fixture, "SELECT id FROM t WHERE length(b) > 100", "[3]");
}

#[test]
fn what_parameters_lack_is_counted() {
    let fixture = fixture("");
    let named = |names: &[&str]| Params::Named(names.iter().map(|name| ((*name).to_owned(), Value::Null)).collect());
    for (sql, params, expected) in [
        ("SELECT ?", Params::None, "the query has 1 parameter, but got 0 values"),
        (
            "SELECT ?, ?",
            Params::Positional(vec![Value::Null]),
            "the query has 2 parameters, but got 1 value",
        ),
        (
            "SELECT 1",
            Params::Positional(vec![Value::Null; 3]),
            "the query has 0 parameters, but got 3 values",
        ),
        ("SELECT :a, :b", named(&["a"]), "parameter \"b\" has no value"),
        (
            "SELECT :a",
            named(&["a", "c"]),
            "the query has no parameter called \"c\"",
        ),
        (
            "SELECT :a, ?",
            named(&["a"]),
            "parameter 2 has no name: give the values of the query in order",
        ),
    ] {
        let error = check_refused(&fixture, &QuerySpec::new(sql).with_params(params), Parameter);
        assert_eq!(error.message, expected, "{sql}");
    }
}
