//! Functions and tables that connections add to a SQLite that was compiled without them, through the engine's door. The expected values
//! are those of a SQLite that has them.
#![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

use rusqlite::Connection;

use super::bounds::{Bounds, Chosen, Rules};
use super::ffi::Database;
use super::tests::{Fixture, check, check_cancelled, check_refused, fixture};
use super::*;
use crate::engine::EngineErrorKind::{Query, Syntax};

/// A database whose schema uses the functions, made as a SQLite that has them would make it.
fn fixture_with_functions(sql: &str) -> Fixture {
    let fixture = fixture("");
    let profile = SqliteProfile::Trusted;
    let rules = Rules {
        profile,
        bounds: Bounds::new(profile, &Chosen::default()),
    };
    let mut database = Database::new(
        Connection::open(&fixture.path).unwrap(),
        Duration::ZERO,
        rules,
        Arc::default(),
    );
    database.install_functions().unwrap();
    database
        .with_connection(|connection| connection.execute_batch(sql))
        .unwrap();
    fixture
}

#[test]
fn mathematical_functions() {
    let fixture = fixture_with_functions(
        "CREATE TABLE t(a, g AS (sqrt(a))); INSERT INTO t VALUES (16); CREATE INDEX i ON t(sqrt(a));
         CREATE VIEW v AS SELECT floor(g) AS f FROM t",
    );
    check(&fixture, "SELECT g, f FROM t, v WHERE sqrt(a) = 4", "[4.0,4.0]");
    for (sql, expected) in [
        (
            "ceil(1.2), ceiling(-1.2), floor(-1.2), trunc(-1.7), floor(7), trunc('8')",
            "2.0,-1.0,-2.0,-1.0,7,8",
        ),
        (
            "sqrt(2.25), pow(2, 10), power(2, -1), exp(0), mod(-7, 3), mod(7.5, 2)",
            "1.5,1024.0,0.5,1.0,-1.0,1.5",
        ),
        (
            "ln(1), log(1000), log10(100), log2(8), log(2, 8), log(3, 9)",
            "0.0,3.0,2.0,3.0,3.0,2.0",
        ),
        (
            "degrees(pi()), round(radians(180), 9), sin(0), cos(0), tan(0)",
            "180.0,3.141592654,0.0,1.0,0.0",
        ),
        (
            "asin(0), acos(1), atan(0), round(atan2(1, 1), 6), sinh(0), cosh(0), tanh(0)",
            "0.0,0.0,0.0,0.785398,0.0,1.0,0.0",
        ),
        (
            "asinh(0), acosh(1), atanh(0), sqrt('9'), sqrt(' 4 '), typeof(pi())",
            "0.0,0.0,0.0,3.0,2.0,\"real\"",
        ),
        (
            "sqrt(-1), sqrt('x'), sqrt(NULL), sqrt(x'34'), ln(0), log(1, 2), log(-2, 4), acos(2), mod(1, 0), pow('a', 1)",
            "null,null,null,null,null,null,null,null,null,null",
        ),
        (
            "floor(9223372036854775807), ceil(-9223372036854775808), floor(1e300)",
            "9223372036854775807,-9223372036854775808,1e+300",
        ),
    ] {
        check(&fixture, &format!("SELECT {sql}"), &format!("[{expected}]"));
    }
    check_refused(&fixture, &QuerySpec::new("SELECT sqrt(1, 2)"), Syntax);
}

#[test]
fn percentiles() {
    let fixture = fixture(
        "CREATE TABLE t(g, x); INSERT INTO t VALUES (1, 4), (1, 1), (1, NULL), (1, 3), (1, 2), (2, 7), (3, NULL)",
    );
    for (sql, expected) in [
        (
            "SELECT median(x), percentile(x, 25), percentile_cont(x, 0.9), percentile_disc(x, 0.9) FROM t WHERE g = 1",
            "[2.5,1.75,3.7,3.0]",
        ),
        (
            "SELECT median(x), percentile(x, 0), percentile(x, 100) FROM t",
            "[3.0,1.0,7.0]",
        ),
        ("SELECT g, median(x) FROM t GROUP BY g", "[1,2.5],[2,7.0],[3,null]"),
        ("SELECT median(x) FROM t WHERE 0", "[null]"),
        (
            "SELECT value, median(value) OVER (ORDER BY value ROWS 2 PRECEDING) FROM json_each('[5,1,3,9]')",
            "[1,1.0],[3,2.0],[5,3.0],[9,5.0]",
        ),
        ("SELECT median(value) FROM generate_series(1, 100000)", "[50000.5]"),
    ] {
        check(&fixture, sql, expected);
    }
    for sql in [
        "SELECT percentile(x, 101) FROM t",
        "SELECT percentile_cont(x, 1.1) FROM t",
        "SELECT percentile(x, 'half') FROM t",
        "SELECT percentile(x, g * 10) FROM t",
        "SELECT median('a') FROM t",
        "SELECT median(1e999) FROM t",
    ] {
        check_refused(&fixture, &QuerySpec::new(sql), Query);
    }
}

#[test]
fn series() {
    let fixture = fixture("CREATE VIEW v AS SELECT value FROM generate_series(5, 6)");
    for (sql, expected) in [
        ("SELECT value FROM generate_series(1, 10, 4)", "[1],[5],[9]"),
        ("SELECT value FROM generate_series(3, 1, -1)", "[3],[2],[1]"),
        ("SELECT value FROM generate_series(3, 1)", ""),
        ("SELECT value FROM generate_series(1, 3, 0)", "[1],[2],[3]"),
        ("SELECT value FROM generate_series(1, sqrt(4))", "[1],[2]"),
        ("SELECT value FROM generate_series('1x', 2.9)", "[1],[2]"),
        ("SELECT value FROM generate_series(' -1', '+0', 'x')", "[-1],[0]"),
        ("SELECT value FROM generate_series(7) LIMIT 2", "[7],[8]"),
        ("SELECT value FROM generate_series(NULL, 3)", ""),
        ("SELECT value FROM generate_series(1, NULL)", ""),
        (
            "SELECT value, start, stop, step FROM generate_series WHERE stop = 2 AND start = 1 AND step = 1",
            "[1,1,2,1],[2,1,2,1]",
        ),
        (
            "SELECT value FROM generate_series(1, 5) WHERE value > 3 ORDER BY value DESC",
            "[5],[4]",
        ),
        (
            "SELECT value FROM generate_series(9223372036854775806, 9223372036854775807)",
            "[9223372036854775806],[9223372036854775807]",
        ),
        (
            "SELECT value FROM generate_series(-9223372036854775807, -9223372036854775808, -9223372036854775808)",
            "[-9223372036854775807]",
        ),
        (
            "SELECT a.value, b.value FROM generate_series(1, 2) a, generate_series(1, a.value) b",
            "[1,1],[2,1],[2,2]",
        ),
        ("SELECT * FROM v", "[5],[6]"),
    ] {
        check(&fixture, sql, expected);
    }
    check_refused(&fixture, &QuerySpec::new("SELECT value FROM generate_series"), Query);
    check_cancelled(
        &fixture,
        "SELECT count(*) FROM generate_series(1, 9223372036854775807)",
        || true,
    );
}
