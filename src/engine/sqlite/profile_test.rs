//! What a profile refuses and what it lets through, through the engine's door.
#![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use rusqlite::Connection;

use super::tests::{Fixture, check, check_refused, fixture, rows};
use super::*;
use crate::engine::EngineErrorKind::{Limit, Query, ReadOnly, Syntax, Unavailable};
use crate::engine::{EngineErrorKind, QuerySpec};
use crate::rows::{Params, Value};
use crate::thread::{STACK_BYTES_WORKER, spawn_named};

/// The same file with the profile for queries that are trusted.
fn trusted(fixture: &Fixture) -> SqliteEngine {
    SqliteEngine::builder(&fixture.path)
        .profile(SqliteProfile::Trusted)
        .open()
        .unwrap()
}

/// All files in the database's folder with their bytes.
fn folder_of(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(path.parent().unwrap()).unwrap();
    entries
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.display().to_string(), fs::read(&path).unwrap())
        })
        .collect()
}

/// Every sort of statement that does something else than read one database. `OTHER` stands for a path beside the database.
const FORBIDDEN: &[(&str, EngineErrorKind)] = &[
    ("INSERT INTO t VALUES (2)", ReadOnly),
    ("INSERT INTO t DEFAULT VALUES", ReadOnly),
    ("INSERT INTO t VALUES (2) RETURNING a", ReadOnly),
    ("INSERT INTO t SELECT a + 1 FROM t", ReadOnly),
    ("INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING", ReadOnly),
    ("REPLACE INTO t VALUES (1)", ReadOnly),
    ("UPDATE t SET a = 2", ReadOnly),
    ("UPDATE t SET a = 2 RETURNING a", ReadOnly),
    ("DELETE FROM t", ReadOnly),
    ("DELETE FROM t RETURNING a", ReadOnly),
    ("WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x", ReadOnly),
    ("WITH x AS (SELECT 1) DELETE FROM t", ReadOnly),
    ("DELETE FROM sqlite_schema", Syntax),
    ("UPDATE sqlite_schema SET sql = ''", Syntax),
    (
        "INSERT INTO sqlite_schema VALUES ('table', 'x', 'x', 2, 'CREATE TABLE x(a)')",
        ReadOnly,
    ),
    ("INSERT INTO v VALUES (1)", ReadOnly),
    ("CREATE TABLE u(a)", ReadOnly),
    ("CREATE TABLE IF NOT EXISTS u(a)", ReadOnly),
    ("CREATE TABLE u AS SELECT * FROM t", ReadOnly),
    ("CREATE TEMP TABLE u(a)", ReadOnly),
    ("CREATE TEMP VIEW w AS SELECT 1", ReadOnly),
    ("CREATE VIEW w AS SELECT 1", ReadOnly),
    ("CREATE INDEX i ON t(a)", ReadOnly),
    ("CREATE UNIQUE INDEX i ON t(a)", ReadOnly),
    ("CREATE TRIGGER x AFTER INSERT ON t BEGIN SELECT 1; END", ReadOnly),
    ("CREATE TEMP TRIGGER x AFTER INSERT ON t BEGIN SELECT 1; END", ReadOnly),
    ("CREATE VIRTUAL TABLE f USING fts5(a)", ReadOnly),
    ("CREATE VIRTUAL TABLE f USING rtree(a, b, c)", ReadOnly),
    ("CREATE VIRTUAL TABLE temp.f USING fts4(a)", ReadOnly),
    ("DROP TABLE t", ReadOnly),
    ("DROP TABLE IF EXISTS t", ReadOnly),
    ("DROP VIEW v", ReadOnly),
    ("DROP INDEX there", ReadOnly),
    ("DROP TRIGGER fires", ReadOnly),
    ("ALTER TABLE t RENAME TO u", ReadOnly),
    ("ALTER TABLE t RENAME COLUMN a TO b", ReadOnly),
    ("ALTER TABLE t ADD COLUMN b", ReadOnly),
    ("ALTER TABLE t DROP COLUMN a", Syntax),
    ("REINDEX", ReadOnly),
    ("REINDEX t", ReadOnly),
    ("ANALYZE", ReadOnly),
    ("ANALYZE t", ReadOnly),
    ("VACUUM", ReadOnly),
    ("VACUUM INTO 'OTHER'", ReadOnly),
    ("VACUUM main INTO 'file:OTHER?mode=rwc'", ReadOnly),
    ("ATTACH 'OTHER' AS other", ReadOnly),
    ("ATTACH DATABASE 'file:OTHER?mode=rwc' AS other", ReadOnly),
    ("ATTACH ':memory:' AS other", ReadOnly),
    ("ATTACH '' AS other", ReadOnly),
    ("DETACH main", ReadOnly),
    ("DETACH temp", ReadOnly),
    ("BEGIN", ReadOnly),
    ("BEGIN EXCLUSIVE", ReadOnly),
    ("COMMIT", ReadOnly),
    ("ROLLBACK", ReadOnly),
    ("SAVEPOINT s", ReadOnly),
    ("RELEASE s", ReadOnly),
    ("ROLLBACK TO s", ReadOnly),
    ("PRAGMA query_only=0", ReadOnly),
    ("PRAGMA writable_schema=1", ReadOnly),
    ("PRAGMA journal_mode=WAL", ReadOnly),
    ("PRAGMA journal_mode=DELETE", ReadOnly),
    ("PRAGMA user_version=7", ReadOnly),
    ("PRAGMA application_id=7", ReadOnly),
    ("PRAGMA schema_version=7", ReadOnly),
    ("PRAGMA wal_checkpoint", ReadOnly),
    ("PRAGMA temp_store_directory='OTHER'", ReadOnly),
    ("PRAGMA data_store_directory='OTHER'", ReadOnly),
    ("PRAGMA mmap_size=1000000000", ReadOnly),
    ("PRAGMA cache_size=1000000000", ReadOnly),
    ("PRAGMA temp_store=1", ReadOnly),
    ("PRAGMA hard_heap_limit=0", ReadOnly),
    ("PRAGMA soft_heap_limit=1", ReadOnly),
    ("PRAGMA threads=8", ReadOnly),
    ("PRAGMA trusted_schema=1", ReadOnly),
    ("PRAGMA integrity_check", ReadOnly),
    ("PRAGMA database_list", ReadOnly),
    ("PRAGMA optimize", ReadOnly),
    ("EXPLAIN DELETE FROM t", ReadOnly),
    ("EXPLAIN QUERY PLAN INSERT INTO t VALUES (1)", ReadOnly),
    ("EXPLAIN ATTACH 'OTHER' AS other", ReadOnly),
    ("SELECT load_extension('x')", ReadOnly),
    ("SELECT load_extension('x', 'y')", ReadOnly),
    ("SELECT * FROM t WHERE a = LOAD_EXTENSION('x')", ReadOnly),
    ("SELECT fts3_tokenizer('simple')", ReadOnly),
    ("SELECT fts3_tokenizer('simple', x'0000000000000000')", ReadOnly),
];

/// What an untrusted query may not even read or call.
const NOT_FOR_STRANGERS: &[&str] = &[
    "SELECT * FROM dbstat",
    "SELECT count(*) FROM DBSTAT",
    "SELECT * FROM pragma_table_info('t')",
    "SELECT file FROM pragma_database_list",
    "SELECT count(*) FROM pragma_function_list",
    "SELECT * FROM fts3tokenize",
    "SELECT sqlite_log(1, 'forged')",
    "SELECT sqlite_compileoption_get(1)",
    "SELECT sqlite_source_id()",
    "SELECT json_patch('{}', '{}')",
    "SELECT jsonb_patch('{}', '{}')",
    "SELECT json_pretty('[]')",
    "SELECT json_pretty('[]', ' ')",
    "SELECT rtreecheck('t')",
    "SELECT rtreenode(2, x'00')",
    "SELECT matchinfo(t) FROM t",
    "SELECT total_changes()",
];

#[test]
fn statements_that_do_more_than_read_are_refused_and_leave_no_trace() {
    let fixture = fixture(
        "CREATE TABLE t(a); INSERT INTO t VALUES (1); CREATE VIEW v AS SELECT a FROM t; CREATE INDEX there ON t(a);
         CREATE TRIGGER fires INSTEAD OF INSERT ON v BEGIN DELETE FROM t; END",
    );
    let before = folder_of(&fixture.path);
    let other = fixture.path.with_extension("other").display().to_string();
    let engines = [&fixture.engine, &trusted(&fixture)];
    assert!(FORBIDDEN.len() >= 60);
    for (sql, kind) in FORBIDDEN {
        let query = QuerySpec::new(sql.replace("OTHER", &other));
        for engine in engines {
            let error = rows(engine, &query).unwrap_err();
            assert_eq!(error.kind, *kind, "{sql}: {error:?}");
            let error = engine.describe(&query.sql, &CancelToken::new()).unwrap_err();
            assert_eq!(error.kind, *kind, "described, {sql}: {error:?}");
            assert!(!error.message.contains(&other), "{error:?}");
        }
    }
    for sql in NOT_FOR_STRANGERS {
        check_refused(&fixture, &QuerySpec::new(*sql), ReadOnly);
    }
    assert_eq!(folder_of(&fixture.path), before);
    check(&fixture, "SELECT a FROM v", "[1]");
    check(
        &fixture,
        "SELECT name FROM sqlite_schema WHERE type = 'table'",
        "[\"t\"]",
    );
}

#[test]
fn one_statement_and_nothing_behind_it() {
    let fixture = fixture("CREATE TABLE t(a)");
    let before = folder_of(&fixture.path);
    for sql in [
        "",
        " ",
        ";",
        ";;;",
        "--",
        "-- a comment",
        "/* a comment */",
        "/* open",
        "\u{feff}",
        "SELECT 1; SELECT 2",
        "SELECT 1; DELETE FROM t",
        "SELECT 1; garbage",
        "SELECT 1; 'open",
        "SELECT 1;;/**/;SELECT 2",
        "SELECT 1 -- one\n; -- two\nSELECT 2",
        "SELECT 1\0",
        "SELECT 1;\0DROP TABLE t",
        "\0",
        "SELECT 'a\0b'",
        "SELECT 1 garbage here",
        "SELECT 1)",
        "SELECT 1; )",
        "garbage",
        "SELECT \"no such column\"",
    ] {
        check_refused(&fixture, &QuerySpec::new(sql), Syntax);
    }
    assert_eq!(folder_of(&fixture.path), before);
}

/// One below a limit, on it, and one above it.
#[track_caller]
fn check_limit(engine: &SqliteEngine, limit: usize, query: impl Fn(usize) -> QuerySpec) {
    for n in [limit - 1, limit] {
        let read = rows(engine, &query(n));
        assert!(read.is_ok(), "{n}: {read:?}");
    }
    let error = rows(engine, &query(limit + 1)).unwrap_err();
    assert_eq!(error.kind, Limit, "{error:?}");
}

fn ones(n: usize, between: &str) -> String {
    vec!["1"; n].join(between)
}

const MIB: usize = 1 << 20;

fn parameters(n: usize) -> QuerySpec {
    QuerySpec::new(format!("SELECT ?{n}")).with_params(Params::Positional(vec![Value::Null; n]))
}

fn one_of_length(n: usize) -> QuerySpec {
    QuerySpec::new(format!("SELECT 1{}", " ".repeat(n - "SELECT 1".len())))
}

/// A query of a size, and the setting that bounds it.
type Sized = (&'static str, fn(usize) -> QuerySpec);

const SIZED: &[Sized] = &[
    ("sqlite_query_bytes_max", one_of_length),
    ("sqlite_cell_bytes_max", |n| {
        QuerySpec::new(format!("SELECT length(zeroblob({n}))"))
    }),
    ("sqlite_columns_max", |n| {
        QuerySpec::new(format!("SELECT {}", ones(n, ",")))
    }),
    ("sqlite_columns_max", |n| {
        QuerySpec::new(format!("SELECT id FROM t ORDER BY {}", ones(n, ",")))
    }),
    ("sqlite_parameters_max", parameters),
    ("sqlite_expression_depth_max", |n| {
        QuerySpec::new(format!("SELECT id FROM t WHERE {}", ones(n, "+")))
    }),
    ("sqlite_compound_parts_max", |n| {
        QuerySpec::new(format!("SELECT {}", ones(n, " UNION ALL SELECT ")))
    }),
    ("sqlite_function_arguments_max", |n| {
        QuerySpec::new(format!("SELECT concat({})", ones(n, ",")))
    }),
    ("sqlite_pattern_bytes_max", |n| {
        QuerySpec::new(format!("SELECT 'a' LIKE '{}'", "b".repeat(n)))
    }),
    ("sqlite_pattern_bytes_max", |n| {
        QuerySpec::new(format!("SELECT 'a' GLOB '{}'", "b".repeat(n)))
    }),
];

/// Every limit that has a value of `values` holds to the last one, and its error names the setting.
#[track_caller]
fn check_limits(engine: &SqliteEngine, values: &[(&str, usize)]) {
    for (setting, limit) in values {
        let mut n_sized = 0;
        for (_, query) in SIZED.iter().filter(|(name, _)| name == setting) {
            check_limit(engine, *limit, query);
            let error = rows(engine, &query(limit + 1)).unwrap_err();
            assert!(error.message.contains(&format!("`{setting}`")), "{error:?}");
            assert!(error.message.contains(&limit.to_string()), "{error:?}");
            assert!(error.hint.is_some(), "{error:?}");
            n_sized += 1;
        }
        assert!(n_sized > 0, "{setting}");
    }
}

#[test]
fn limits_hold_to_the_last_byte() {
    let blob = |n: usize| Params::Positional(vec![Value::Blob(vec![7; n])]);
    let fixture = fixture("CREATE TABLE t(id INTEGER PRIMARY KEY, b)");
    {
        let connection = Connection::open(&fixture.path).unwrap();
        for n in [MIB - 1, MIB, MIB + 1] {
            connection
                .execute("INSERT INTO t VALUES (?1, zeroblob(?1))", [i64::try_from(n).unwrap()])
                .unwrap();
        }
    }
    let untrusted = &fixture.engine;
    check_limits(
        untrusted,
        &[
            ("sqlite_query_bytes_max", 65_536),
            ("sqlite_cell_bytes_max", MIB),
            ("sqlite_columns_max", 2_000),
            ("sqlite_parameters_max", 32_766),
            ("sqlite_expression_depth_max", 1_000),
            ("sqlite_compound_parts_max", 500),
            ("sqlite_function_arguments_max", 512),
            ("sqlite_pattern_bytes_max", 256),
        ],
    );
    check_limit(untrusted, MIB - 1, |n| {
        QuerySpec::new(format!("SELECT length(format('%.*c', {n}, 'x'))"))
    });
    check_limit(untrusted, MIB, |n| {
        QuerySpec::new("SELECT length(?)").with_params(blob(n))
    });
    check_limit(untrusted, MIB, |n| {
        QuerySpec::new(format!("SELECT length(b || '') FROM t WHERE id = {n}"))
    });
    check_limits(
        &trusted(&fixture),
        &[
            ("sqlite_query_bytes_max", MIB),
            ("sqlite_cell_bytes_max", MIB),
            ("sqlite_function_arguments_max", 1_000),
            ("sqlite_pattern_bytes_max", 50_000),
        ],
    );
}

#[test]
fn each_limit_has_a_setting() {
    let fixture = fixture("CREATE TABLE t(id)");
    let set = SqliteEngine::builder(&fixture.path)
        .query_bytes_max(1_000)
        .cell_bytes_max(500)
        .columns_max(7)
        .parameters_max(6)
        .expression_depth_max(20)
        .compound_parts_max(4)
        .function_arguments_max(5)
        .pattern_bytes_max(10)
        .open()
        .unwrap();
    check_limits(
        &set,
        &[
            ("sqlite_query_bytes_max", 1_000),
            ("sqlite_cell_bytes_max", 500),
            ("sqlite_columns_max", 7),
            ("sqlite_parameters_max", 6),
            ("sqlite_expression_depth_max", 20),
            ("sqlite_compound_parts_max", 4),
            ("sqlite_function_arguments_max", 5),
            ("sqlite_pattern_bytes_max", 10),
        ],
    );
    let few = SqliteEngine::builder(&fixture.path).operations_max(42).open().unwrap();
    let error = rows(&few, &QuerySpec::new(format!("SELECT 1 IN ({})", ones(100, ",")))).unwrap_err();
    assert_eq!(error.kind, Limit, "{error:?}");
    assert!(error.message.contains("`sqlite_operations_max` (42)"), "{error:?}");
}

/// What people of other services met and could not lift.
#[test]
fn ordinary_queries_meet_no_limit() {
    let fixture = fixture("CREATE TABLE t(a, b); INSERT INTO t VALUES (7, zeroblob(1000000))");
    let pairs: Vec<String> = (0..100).map(|n| format!("'k{n}', a")).collect();
    let object = QuerySpec::new(format!("SELECT length(json_object({})) FROM t", pairs.join(",")));
    assert_eq!(rows(&fixture.engine, &object).unwrap(), "[791]");
    let list = QuerySpec::new(format!("SELECT a FROM t WHERE a IN ({})", vec!["?"; 20_000].join(",")));
    let list = list.with_params(Params::Positional((0..20_000).map(Value::Integer).collect()));
    assert_eq!(rows(&fixture.engine, &list).unwrap(), "[7]");
    let pattern = format!("SELECT '{0}' LIKE '%{0}%'", "x".repeat(250));
    assert_eq!(rows(&fixture.engine, &QuerySpec::new(pattern)).unwrap(), "[1]");
    check(
        &fixture,
        "SELECT count(b), length(b), typeof(b) FROM t ORDER BY length(b)",
        "[1,1000000,\"blob\"]",
    );
    // The row's limit in these tests is 1 MiB too, and base64 takes four bytes for three.
    let query = QuerySpec::new("SELECT substr(b, 1, 700000) FROM t");
    assert_eq!(rows(&fixture.engine, &query).unwrap().len(), 933_340);
}

#[test]
fn a_cell_beyond_the_limit_can_be_measured_and_skipped() {
    let fixture = fixture(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, b); INSERT INTO t VALUES (1, 'small'), (2, zeroblob(2000000)), (3, 'b')",
    );
    check(
        &fixture,
        "SELECT id, length(b), typeof(b) FROM t WHERE id = 2",
        "[2,2000000,\"blob\"]",
    );
    check(&fixture, "SELECT id FROM t ORDER BY length(b) DESC LIMIT 1", "[2]");
    check(&fixture, "SELECT id FROM t WHERE b IS NOT NULL", "[1],[2],[3]");
    check(&fixture, "SELECT sum(length(b)) FROM t", "[2000006]");
    for sql in [
        "SELECT * FROM t",
        "SELECT id FROM t ORDER BY b",
        "SELECT hex(b) FROM t WHERE id > 1",
    ] {
        let error = check_refused(&fixture, &QuerySpec::new(sql), Limit);
        assert!(error.message.contains("`sqlite_cell_bytes_max`"), "{error:?}");
        assert!(error.hint.is_some(), "{error:?}");
    }
}

#[test]
fn a_denial_names_the_profile_and_what_lifts_it() {
    let fixture = fixture("CREATE TABLE t(a)");
    let trusted = trusted(&fixture);
    for (engine, sql, message, hint) in [
        (
            &fixture.engine,
            "SELECT json_patch('{}', '{}')",
            "profile `untrusted` (`sqlite_profile`) does not allow the function json_patch",
            "`sqlite_profile = \"trusted\"` allows it",
        ),
        (
            &fixture.engine,
            "SELECT * FROM dbstat",
            "profile `untrusted` (`sqlite_profile`) does not allow the table dbstat",
            "`sqlite_profile = \"trusted\"` allows it",
        ),
        (
            &fixture.engine,
            "SELECT * FROM pragma_table_info('t')",
            "does not allow the table pragma_table_info",
            "no profile allows it",
        ),
        (
            &fixture.engine,
            "SELECT load_extension('x')",
            "does not allow the function load_extension",
            "no profile allows it",
        ),
        (
            &trusted,
            "SELECT load_extension('x')",
            "profile `trusted` (`sqlite_profile`) does not allow the function load_extension",
            "no profile allows it",
        ),
        (
            &trusted,
            "PRAGMA user_version",
            "the statement does not only read",
            "only statements that read",
        ),
        (
            &trusted,
            "/* why not */ DELETE FROM t",
            "the statement does not only read",
            "only statements that read",
        ),
        (
            &trusted,
            "WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x",
            "the statement does not only read",
            "only statements that read",
        ),
    ] {
        let error = rows(engine, &QuerySpec::new(sql)).unwrap_err();
        assert_eq!(error.kind, ReadOnly, "{error:?}");
        assert!(error.message.contains(message), "{error:?}");
        assert!(
            error.hint.as_ref().is_some_and(|found| found.contains(hint)),
            "{error:?}"
        );
    }
}

#[test]
fn queries_at_the_limits_of_depth_fit_a_workers_stack() {
    let fixture = fixture("CREATE TABLE t(a)");
    let trusted = trusted(&fixture);
    let on_a_worker = spawn_named("test", STACK_BYTES_WORKER, move || {
        for n in [90, 490, 990, 5_000] {
            for sql in [
                format!("SELECT {}1", "NOT ".repeat(n)),
                format!("SELECT {}1{}", "(".repeat(n), ")".repeat(n)),
                format!("SELECT {}a FROM t{}", "* FROM (SELECT ".repeat(n), ")".repeat(n)),
                format!("SELECT {}1{}", "(SELECT ".repeat(n), ")".repeat(n)),
                format!("SELECT {}1{}", "abs(".repeat(n), ")".repeat(n)),
                format!("SELECT {}1{}", "CASE WHEN 1 THEN ".repeat(n), " END".repeat(n)),
            ] {
                for engine in [&fixture.engine, &trusted] {
                    match rows(engine, &QuerySpec::new(sql.clone())) {
                        Ok(_) => {}
                        Err(error) => assert_eq!(error.kind, Limit, "{error:?}"),
                    }
                }
            }
        }
    });
    on_a_worker.unwrap().join().unwrap();
}

#[test]
fn a_schema_beyond_the_limits_can_be_read() {
    let columns: Vec<String> = (0..300).map(|n| format!("c{n}")).collect();
    let long_comment = "y".repeat(70_000);
    let mut fixture = fixture(&format!(
        "CREATE TABLE small(a); INSERT INTO small VALUES (1);
         CREATE TABLE wide({}); INSERT INTO wide(c7) VALUES (7);
         CREATE VIEW long AS SELECT a FROM small /* {long_comment} */;
         CREATE VIEW deep AS SELECT a FROM small WHERE {};
         CREATE VIEW many AS SELECT {};
         CREATE VIEW arguments AS SELECT concat({}) AS x",
        columns.join(","),
        ones(300, " OR a = "),
        ones(60, " UNION ALL SELECT "),
        ones(30, ","),
    ));
    fixture.engine = SqliteEngine::builder(&fixture.path)
        .columns_max(256)
        .expression_depth_max(100)
        .compound_parts_max(30)
        .function_arguments_max(16)
        .open()
        .unwrap();
    check(&fixture, "SELECT a FROM small", "[1]");
    check(&fixture, "SELECT c7 FROM wide", "[7]");
    check(&fixture, "SELECT a FROM long", "[1]");
    for sql in ["SELECT * FROM wide", "SELECT * FROM deep"] {
        check_refused(&fixture, &QuerySpec::new(sql), Limit);
    }
    // Somebody changes the schema: idle connections read it anew, under their limits. That is an error once, and then no more.
    let writer = Connection::open(&fixture.path).unwrap();
    writer
        .execute_batch("CREATE TABLE later(a); INSERT INTO later VALUES (2)")
        .unwrap();
    let query = QuerySpec::new("SELECT a FROM later");
    if let Err(error) = rows(&fixture.engine, &query) {
        assert_eq!(error.kind, Unavailable, "{error:?}");
        assert!(error.code().is_retryable());
    }
    check(&fixture, "SELECT a FROM later", "[2]");
    check(&fixture, "SELECT c7 FROM wide", "[7]");
}

/// All values of a query as SQLite alone gives them, as texts.
fn plainly(sql: &str) -> Vec<String> {
    let connection = Connection::open_in_memory().unwrap();
    let mut statement = connection.prepare(sql).unwrap();
    let n = statement.column_count();
    let row = |row: &rusqlite::Row<'_>| (0..n).map(|column| row.get(column)).collect();
    statement.query_row([], row).unwrap()
}

#[test]
fn trim_is_sqlites_own_for_sets_of_a_reasonable_size() {
    let fixture = fixture("");
    let texts = [
        "NULL",
        "''",
        "'xxabcxx'",
        "'  a b  '",
        "'ääöaöä'",
        "x'78780078'",
        "x'C3A4C378A4C3'",
        "CAST(x'FFC3A4FF' AS TEXT)",
        "12321",
        "1.5e300",
        "'xx'",
        "x''",
        "'日本語日'",
        "CAST(x'80C0808041C080' AS TEXT)",
    ];
    let sets = [
        "NULL",
        "''",
        "'x'",
        "' '",
        "'äö'",
        "x'78'",
        "x'C3A4'",
        "CAST(x'C3' AS TEXT)",
        "1",
        "1.5",
        "'x' || char(0) || 'a'",
        "'日語'",
        "CAST(x'80' AS TEXT)",
        "CAST(x'C080C0' AS TEXT)",
        "'xx'",
        "0",
    ];
    for text in texts {
        for set in sets {
            for function in ["trim", "ltrim", "rtrim"] {
                let call = format!("{function}({text}, {set})");
                let sql = format!("SELECT typeof({call}), hex({call})");
                let expected: Vec<String> = plainly(&sql).iter().map(|value| format!("\"{value}\"")).collect();
                check(&fixture, &sql, &format!("[{}]", expected.join(",")));
            }
        }
    }
    check(
        &fixture,
        "SELECT trim(' a '), ltrim(' a'), rtrim('a ')",
        "[\"a\",\"a\",\"a\"]",
    );
    let set = |n: usize| QuerySpec::new(format!("SELECT trim('aha', '{}')", "a".repeat(n)));
    check_limit(&fixture.engine, 256, set);
    check(&fixture, "SELECT unhex('4142')", "[\"QUI=\"]");
    check_refused(&fixture, &QuerySpec::new("SELECT unhex('41-42', '-')"), Query);
    // A view, and an index on an expression, use the same functions.
    let stored = fixture_with_trim();
    check(&stored, "SELECT x FROM v", "[\"a\"]");
    check(&stored, "SELECT a FROM t WHERE trim(a, '-') = 'a'", "[\"-a-\"]");
}

#[test]
fn instr_and_replace_are_sqlites_own() {
    let fixture = fixture("");
    let texts = [
        "NULL",
        "''",
        "'a'",
        "'xaxaxa'",
        "'ääöaöä'",
        "x''",
        "x'61C3A461'",
        "CAST(x'80C3A4FF8061' AS TEXT)",
        "x'80C3A4FF8061'",
        "12321",
        "1.5",
        "'a' || char(0) || 'b'",
        "'xaaaaaaaaaab'",
        "'日本語日'",
    ];
    let needles = [
        "NULL",
        "''",
        "'a'",
        "'xa'",
        "'ä'",
        "'öaö'",
        "x''",
        "x'A4'",
        "CAST(x'A4' AS TEXT)",
        "CAST(x'80' AS TEXT)",
        "x'8061'",
        "CAST(x'8061' AS TEXT)",
        "2",
        "char(0)",
        "char(0) || 'b'",
        "'aab'",
        "'語日'",
        "'longer than any of the texts'",
    ];
    for text in texts {
        for needle in needles {
            let mut calls = vec![format!("instr({text}, {needle})")];
            for replacement in ["NULL", "''", "'a'", "'yy'", "'äöü'", "x'00'", "17"] {
                calls.push(format!("replace({text}, {needle}, {replacement})"));
            }
            let columns: Vec<String> = calls
                .iter()
                .map(|call| format!("typeof({call}), hex({call})"))
                .collect();
            let sql = format!("SELECT {}", columns.join(","));
            let expected: Vec<String> = plainly(&sql).iter().map(|value| format!("\"{value}\"")).collect();
            check(&fixture, &sql, &format!("[{}]", expected.join(",")));
        }
    }
    // A blob beside a text is read as one, and stays a blob.
    check(
        &fixture,
        "SELECT instr(b, 'c'), typeof(b), instr('abc', b), typeof(b) FROM (SELECT x'6263' AS b)",
        "[2,\"blob\",2,\"blob\"]",
    );
    // One more byte is too long.
    check_limit(&fixture.engine, MIB, |n| {
        let sql = format!(
            "SELECT length(replace(format('%.*c', 1000, 'x') || 'y', 'x', format('%.*c', 1048, 'z')) || format('%.*c', {n} - 1048001, 'a'))"
        );
        QuerySpec::new(sql)
    });
    check_limit(&fixture.engine, 1_048, |n| {
        QuerySpec::new(format!(
            "SELECT length(replace(format('%.*c', 1000, 'x'), 'x', format('%.*c', {n}, 'z')))"
        ))
    });
}

fn fixture_with_trim() -> Fixture {
    fixture(
        "CREATE TABLE t(a TEXT, g TEXT AS (rtrim(a, '-'))); INSERT INTO t VALUES ('-a-');
         CREATE INDEX i ON t(trim(a, '-')); CREATE VIEW v AS SELECT trim(a, '-') AS x FROM t",
    )
}

#[test]
fn full_text_tables_are_for_those_who_are_trusted() {
    let fixture = fixture("CREATE VIRTUAL TABLE f USING fts5(a); INSERT INTO f VALUES ('some words'), ('other words')");
    let query = QuerySpec::new("SELECT highlight(f, 0, '<', '>') FROM f WHERE f MATCH 'some'");
    assert_eq!(rows(&trusted(&fixture), &query).unwrap(), "[\"<some> words\"]");
    check_refused(&fixture, &query, ReadOnly);
}
