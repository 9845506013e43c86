//! Queries made to use up memory, time or disk: each ends with an error, or when it is cancelled, and harms nobody else.
#![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::Connection;

use super::ffi;
use super::tests::{DEADLINE, LIMITS, MANY, check, check_cancelled, check_refused, fixture, rows, writer_of};
use super::*;
use crate::clock;
use crate::engine::EngineErrorKind::{Limit, NoMemory, Query, ReadOnly};
use crate::engine::{EngineErrorKind, Step};

const ENDLESS: &str = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n) ";

/// They end by themselves, for want of room.
const FAILING: &[(&str, EngineErrorKind)] = &[
    ("SELECT zeroblob(1000000000)", Limit),
    ("SELECT randomblob(1000000000)", Limit),
    ("SELECT hex(zeroblob(600000))", Limit),
    ("SELECT quote(zeroblob(600000))", Limit),
    ("SELECT format('%.*c', 1000000000, 'x')", Limit),
    ("SELECT printf('%1000000000d', 1)", Limit),
    ("SELECT replace(hex(zeroblob(400000)), '0', '0123456789')", Limit),
    (
        "WITH RECURSIVE s(x) AS (SELECT 'aa' UNION ALL SELECT x || x FROM s) SELECT max(x) FROM s",
        Limit,
    ),
    (
        "ENDLESS SELECT json_group_array(x) FROM (SELECT format('%.*c', 90000, 'x') AS x FROM n LIMIT 4000)",
        NoMemory,
    ),
    (
        "ENDLESS SELECT json_group_object(1, x) FROM (SELECT format('%.*c', 90000, 'x') AS x FROM n LIMIT 4000)",
        NoMemory,
    ),
    (
        "ENDLESS SELECT format('%.*c', 90000, 'x') || i AS x FROM n ORDER BY x",
        Limit,
    ),
    ("ENDLESS SELECT i FROM n ORDER BY -i", Limit),
    (
        "ENDLESS SELECT DISTINCT format('%.*c', 9000, 'x') || i AS x FROM n ORDER BY x",
        Limit,
    ),
    (
        "ENDLESS SELECT count(*) FROM n GROUP BY format('%.*c', 9000, 'x') || i",
        Limit,
    ),
    (
        "ENDLESS SELECT row_number() OVER (ORDER BY format('%.*c', 9000, 'x') || i) FROM n",
        Limit,
    ),
    (
        "ENDLESS, m AS MATERIALIZED (SELECT format('%.*c', 9000, 'x') || i AS x FROM n) SELECT count(*) FROM m a, m b",
        Limit,
    ),
    (
        "WITH RECURSIVE n(i) AS (SELECT 'x' UNION SELECT format('%.*c', 9000, 'x') || random() FROM n) SELECT count(*) FROM n",
        Limit,
    ),
    (
        "ENDLESS SELECT 1 IN (SELECT format('%.*c', 9000, 'x') || i FROM n)",
        Limit,
    ),
    ("SELECT trim('x', format('%.*c', 8000, 'y'))", Limit),
    (
        "SELECT json_set('{}', '$' || replace(format('%.*c', 40000, 'x'), 'x', '.a'), 1)",
        Limit,
    ),
    (
        "SELECT unhex(format('%.*c', 90000, '-'), format('%.*c', 90000, 'x') || '-')",
        Query,
    ),
    (
        "SELECT json_pretty('[[[[[[1]]]]]]', format('%.*c', 90000, ' '))",
        ReadOnly,
    ),
    ("SELECT json_patch('{}', '{}')", ReadOnly),
];

/// They would never end, and spend their time in one operation after another that takes as long as any can.
const CANCELLED: &[&str] = &[
    "SELECT count(*) FROM n",
    "SELECT i FROM n WHERE i < 0",
    "SELECT count(*) FROM n WHERE instr(format('%.*c', 1000000, 'a'), format('%.*c', 490000, 'a') || 'b') + i < 0",
    "SELECT count(replace(format('%.*c', 1000000, 'a'), format('%.*c', 490000, 'a') || 'b', i)) FROM n",
    "SELECT count(trim(format('%.*c', 20000, 'b') || i, format('%.*c', 255, 'a') || 'b')) FROM n",
    "SELECT sum(format('%.*c', 1000000, 'a') || i LIKE '%' || replace(format('%.*c', 127, 'x'), 'x', 'a_') || 'b') FROM n",
    "SELECT sum(format('%.*c', 1000000, 'a') || i GLOB '*' || replace(format('%.*c', 63, 'x'), 'x', '[^b]') || 'b') FROM n",
    "SELECT count(json(format('%.*c', 900, '[') || i || format('%.*c', 900, ']'))) FROM n",
    "SELECT count(json_extract(doc, PATHS)) FROM n, (SELECT '[' || format('%.*c', 1000000, ' ') || i || ']' AS doc FROM n)",
    "SELECT count(DISTINCT i % 10) FROM n",
    // They find out at the end that the text is too long, and keep none of it.
    "SELECT group_concat(i) FROM n",
    "SELECT string_agg(i, ' ') FROM n",
    "SELECT json_group_array(format('%.*c', 90000, 'x')) FROM n",
    "SELECT json_group_array(i) FROM n",
    "SELECT json_group_object(i, i) FROM n",
    "SELECT jsonb_group_array(i) FROM n",
    "SELECT group_concat(format('%.*c', 90000, 'x'), '') FROM n",
    "SELECT count(randomblob(1000000)) FROM n",
    "SELECT count(hex(zeroblob(520000 + i % 2))) FROM n",
    "SELECT max(strftime(replace(format('%.*c', 90000, 'x'), 'x', '%d'), i)) FROM n",
];

#[test]
fn bombs_fail_and_their_neighbours_live() {
    let fixture = fixture("");
    let _before = ffi::heap_bytes_highest();
    let query = QuerySpec::new(format!("{MANY} SELECT i FROM n"));
    let mut neighbour = fixture.engine.open(&query, &CancelToken::new()).unwrap();
    let mut writer = writer_of(neighbour.as_ref());
    assert!(FAILING.len() + CANCELLED.len() >= 20);
    for (n, (sql, kind)) in (0_u64..).zip(FAILING) {
        let sql = sql.replace("ENDLESS", ENDLESS.trim_end());
        check_refused(&fixture, &QuerySpec::new(sql), *kind);
        writer.begin_batch(Vec::new(), LIMITS, n * 10);
        assert_eq!(neighbour.fill(&mut writer).unwrap(), Step::More);
        let batch = String::from_utf8(writer.take_batch().unwrap().buffer).unwrap();
        assert!(batch.starts_with(&format!("[{}],", n * 10)), "{batch}");
        check(&fixture, "SELECT 1", "[1]");
    }
    drop(neighbour);
    assert!(ffi::heap_bytes_highest() <= ffi::heap_limit());
    assert_eq!(ffi::heap_limit(), 256 << 20);
}

#[test]
fn bombs_that_never_end_are_cancelled() {
    let fixture = fixture("");
    for sql in CANCELLED {
        let sql = sql.replace("PATHS", &vec!["'$[1]'"; 500].join(","));
        check_cancelled(&fixture, &format!("{ENDLESS}{sql}"), || true);
    }
}

/// What collects ends also when it has long found more than it may keep: after as much work of another query as a million rows are.
#[test]
fn what_collects_without_end_is_cancelled_at_any_time() {
    let fixture = fixture("");
    for sql in [
        "SELECT group_concat(i) FROM n",
        "SELECT string_agg(i, ', ') FROM n",
        "SELECT json_group_array(i) FROM n",
        "SELECT json_group_object(i, i) FROM n",
        "SELECT max(group_concat) FROM (SELECT group_concat(i) AS group_concat FROM n)",
    ] {
        let other = super::tests::fixture("");
        let count = QuerySpec::new(format!("{MANY} SELECT count(*) FROM n"));
        check_cancelled(&fixture, &format!("{ENDLESS}{sql}"), move || {
            rows(&other.engine, &count).is_ok()
        });
    }
}

/// It sorts more than SQLite keeps outside of temporary files, over and over, and has no row to say.
const SORTING: &str = "SELECT i FROM n WHERE 1 < (SELECT max(c) FROM (
    WITH RECURSIVE m(j) AS (SELECT 0 UNION ALL SELECT j + 1 FROM m WHERE j < 999999)
    SELECT count(*) AS c FROM m GROUP BY -j - n.i))";

/// More than SQLite keeps at one time of what is in files: it sorts about one MiB, in memory that doubles.
const SORTED_WITHOUT_FILES: u64 = 8 << 20;

#[test]
fn a_sort_in_temporary_files_is_cancelled() {
    let fixture = fixture("");
    let highest = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&highest);
    let deadline = clock::now() + DEADLINE;
    check_cancelled(&fixture, &format!("{ENDLESS}{SORTING}"), move || {
        let bytes = ffi::heap_bytes();
        seen.fetch_max(bytes, Ordering::Relaxed);
        bytes > SORTED_WITHOUT_FILES || clock::now() > deadline
    });
    let highest = highest.load(Ordering::Relaxed);
    assert!(
        highest > SORTED_WITHOUT_FILES,
        "{highest} bytes are no sort in temporary files"
    );
}

/// Operations that SQLite makes room for at most.
const OPERATIONS_MAX: usize = 172_032;

#[test]
fn a_compiled_query_is_bounded_to_the_last_operation() {
    let fixture = fixture("");
    let plain = Connection::open(&fixture.path).unwrap();
    let n_operations = |sql: &str| {
        let mut explained = plain.prepare(&format!("EXPLAIN {sql}")).unwrap();
        explained.query_map([], |_| Ok(())).unwrap().count()
    };
    let query = |n: usize, n_columns: usize| {
        let listed: Vec<String> = (0..n).map(|i| i.to_string()).collect();
        format!("SELECT 1 IN ({}){}", listed.join(","), ",1".repeat(n_columns))
    };
    // A number in the list costs some operations, a column costs one.
    let each = n_operations(&query(1_001, 0)) - n_operations(&query(1_000, 0));
    let engine = SqliteEngine::builder(&fixture.path)
        .query_bytes_max(1 << 20)
        .open()
        .unwrap();
    let n = 1_000 + (OPERATIONS_MAX - n_operations(&query(1_000, 0))) / each;
    let missing = OPERATIONS_MAX - n_operations(&query(n, 0));
    let largest = query(n, missing);
    assert_eq!(n_operations(&largest), OPERATIONS_MAX);
    assert!(rows(&engine, &QuerySpec::new(largest)).is_ok());
    let larger = query(n, missing + 1);
    assert_eq!(n_operations(&larger), OPERATIONS_MAX + 1);
    let error = rows(&engine, &QuerySpec::new(larger)).unwrap_err();
    assert_eq!(error.kind, Limit, "{error:?}");
}

#[test]
fn queries_that_are_too_large_are_refused_before_they_run() {
    let fixture = fixture("CREATE TABLE t(a)");
    let chained = |n: usize, link: &dyn Fn(usize) -> String| {
        let links: Vec<String> = (0..n).map(link).collect();
        format!("WITH a0 AS (SELECT 1 AS x){} SELECT count(*) FROM a{n}", links.concat())
    };
    for sql in [
        format!("SELECT 1{}", " IN (1,1)".repeat(7_000)),
        format!("SELECT 1 FROM t {}", ", t".repeat(70)),
        format!("SELECT {}1{}", "(".repeat(30_000), ")".repeat(30_000)),
        format!("SELECT {}1", "- ".repeat(30_000)),
        chained(1_500, &|n| format!(",a{} AS (SELECT * FROM a{n})", n + 1)),
        chained(40, &|n| format!(",a{} AS (SELECT p.x FROM a{n} p, a{n} q)", n + 1)),
        chained(30, &|n| {
            format!(",a{} AS (SELECT x FROM a{n} UNION ALL SELECT x FROM a{n})", n + 1)
        }),
    ] {
        check_refused(&fixture, &QuerySpec::new(sql), Limit);
        check(&fixture, "SELECT 1", "[1]");
    }
}

/// Temporary files have no name: they show as open files of the process that are deleted.
#[cfg(target_os = "linux")]
fn n_temporary_files() -> usize {
    let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    open.filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .filter(|path| {
            ["/etilqs_", "/#"]
                .iter()
                .any(|name| path.to_string_lossy().contains(name))
        })
        .count()
}

/// Not beside another test that sorts as much for trusted queries, of which there is none.
#[cfg(target_os = "linux")]
#[test]
fn a_sort_leaves_the_disk_alone_unless_it_is_trusted() {
    let fixture = fixture("");
    let query = QuerySpec::new(format!("{MANY} SELECT i FROM n ORDER BY -i"));
    let sorting = |engine: &SqliteEngine| {
        let mut cursor = engine.open(&query, &CancelToken::new()).unwrap();
        let mut writer = writer_of(cursor.as_ref());
        writer.begin_batch(Vec::new(), LIMITS, 0);
        assert_eq!(cursor.fill(&mut writer).unwrap(), Step::More);
        let batch = String::from_utf8(writer.take_batch().unwrap().buffer).unwrap();
        assert!(batch.starts_with("[999999],[999998],"), "{batch}");
        n_temporary_files()
    };
    assert_eq!(sorting(&fixture.engine), 0);
    let trusted = SqliteEngine::builder(&fixture.path).profile(SqliteProfile::Trusted);
    assert_ne!(
        sorting(&trusted.open().unwrap()),
        0,
        "what is looked for is there to be found"
    );
    // Sorted in pieces and merged, in memory, it is still the whole.
    let sum =
        format!("{MANY} SELECT count(*), sum(i), max(x) FROM (SELECT i, row_number() OVER (ORDER BY -i) AS x FROM n)");
    assert_eq!(
        rows(&fixture.engine, &QuerySpec::new(sum)).unwrap(),
        "[1000000,499999500000,1000000]"
    );
}
