//! How large a result will be, found out beside the running query and within a budget; nothing where it cannot be known.
//!
//! What is cheap comes first: the query's plan, and a few look-ups for the rows of the table that it scans. Rows are counted only where that can
//! be expected to fit, and never beyond the budget: a count reads at most [`COUNT_READS_MAX`] pages and ends in time, because every read
//! looks at the clock. A count that did not fit is not tried again for a while.

use std::collections::VecDeque;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::cursor::prepare;
use super::ffi::{Database, Statement};
use super::parameters::bind;
use super::pool::Pool;
use crate::clock;
use crate::engine::{CancelReason, CancelToken, Estimate, QuerySpec, Total};
use crate::rows::Params;

/// Reads for everything but a count: the plan needs the schema, a look-up at one end of a table a page for each level of its tree.
const LOOK_UP_READS_MAX: u32 = 256;

/// For look-ups where the budget is less.
const LOOK_UP_TIME_MAX: Duration = Duration::from_millis(5);

/// Reads of one count: 16 MiB of pages of the usual size, which takes some milliseconds where the system has them in memory.
pub(super) const COUNT_READS_MAX: u32 = 4_096;

/// Scans of tables are counted in files up to this size, whatever the rows.
const COUNTED_FILE_BYTES_MAX: u64 = 16 << 20;

/// Scans of tables are counted up to so many rows, whatever the file.
const COUNTED_ROWS_MAX: u64 = 250_000;

/// What a row takes of its file at the least: a cell of four bytes and its place in the page.
const ROW_BYTES_MIN: u64 = 6;

/// Counts that did not fit are remembered: so many, the oldest makes room.
pub(super) const UNCOUNTED_MAX: usize = 256;

/// For so long: the data may be others then, and so may the parameters.
pub(super) const UNCOUNTED_FOR: Duration = Duration::from_secs(5 * 60);

/// Queries whose rows could not be counted within the budget.
#[derive(Debug, Default)]
pub(super) struct Uncounted {
    hasher: RandomState,
    /// Hashes, and until when each holds; the newest is the last.
    entries: Mutex<VecDeque<(u64, Instant)>>,
}

impl Uncounted {
    pub(super) fn key(&self, sql: &str, schema_cookie: i64) -> u64 {
        self.hasher.hash_one((sql, schema_cookie))
    }

    pub(super) fn has(&self, key: u64, now: Instant) -> bool {
        self.entries
            .lock()
            .iter()
            .any(|(known, until)| *known == key && now < *until)
    }

    pub(super) fn add(&self, key: u64, now: Instant) {
        let mut entries = self.entries.lock();
        entries.retain(|(known, until)| *known != key && now < *until);
        if entries.len() >= UNCOUNTED_MAX {
            entries.pop_front();
        }
        entries.push_back((key, now + UNCOUNTED_FOR));
    }
}

/// `None` where nothing was found out.
pub(super) fn estimate(
    pool: &Arc<Pool>,
    uncounted: &Uncounted,
    query: &QuerySpec,
    budget: Duration,
    cancel: &CancelToken,
) -> Option<Estimate> {
    let begun_at = clock::now();
    let look_up_until = clock::after(begun_at, budget.max(LOOK_UP_TIME_MAX));
    let (mut database, loan) = pool.take(cancel, Some(look_up_until)).ok()?;
    database.limit(LOOK_UP_READS_MAX, look_up_until);
    let mut lookup = Lookup {
        database: Some(database),
        cancel,
        file_bytes: file_bytes(&pool.settings.path),
    };
    let estimate = lookup.program(query).and_then(|program| {
        let scan = lookup.scan(query, &program);
        let key = uncounted.key(&query.sql, program.schema_cookie);
        if !budget.is_zero() && lookup.may_fit(scan) && !uncounted.has(key, clock::now()) {
            match lookup.count(query, &program, clock::after(begun_at, budget)) {
                Some(rows) => return Some(Estimate::rows(Total::Exact(rows))),
                // That the stream has ended, or another needs the worker, says nothing about the query.
                None if cancel.reason().is_some_and(|reason| reason != CancelReason::Timeout) => {}
                None => uncounted.add(key, clock::now()),
            }
        }
        scan.map(|Scan { rows, is_whole }| {
            let total = if is_whole {
                Total::Statistics(rows)
            } else {
                Total::Unknown
            };
            Estimate::rows(total).with_work_total(rows)
        })
    });
    if let Some(database) = lookup.database {
        loan.give_back(database);
    }
    estimate
}

/// Of the database's file and its write-ahead log; 0 where they cannot be looked at.
fn file_bytes(path: &Path) -> u64 {
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    let bytes = |path: &Path| fs::metadata(path).map_or(0, |metadata| metadata.len());
    bytes(path) + bytes(Path::new(&wal))
}

/// What `EXPLAIN` tells of a compiled query.
struct Program {
    /// Bytes of the query's text without what follows its statement.
    text_len: usize,
    /// Changes with the schema.
    schema_cookie: i64,
    /// The root page of the table or index of the main database that is scanned, where it is one alone.
    scanned_root: Option<i64>,
    /// Whether every row that is scanned is a row of the result.
    is_whole: bool,
}

/// A query whose rows come while one full scan goes on, so that the scan's progress is the query's.
#[derive(Clone, Copy)]
struct Scan {
    /// About how many rows the table has.
    rows: u64,
    is_whole: bool,
}

struct Lookup<'a> {
    /// Lent to each statement in turn.
    database: Option<Database>,
    cancel: &'a CancelToken,
    file_bytes: u64,
}

impl Lookup<'_> {
    fn with_statement<T>(
        &mut self,
        sql: &str,
        params: &Params,
        read: impl FnOnce(&mut Statement) -> Option<T>,
    ) -> Option<T> {
        let database = self.database.take()?;
        match prepare(database, sql, self.cancel) {
            Ok(mut statement) => {
                let found = bind(&mut statement, params, self.cancel)
                    .ok()
                    .and_then(|()| read(&mut statement));
                self.database = Some(statement.into_database());
                found
            }
            Err((database, _)) => {
                self.database = Some(database);
                None
            }
        }
    }

    fn one_number(&mut self, sql: &str, params: &Params) -> Option<u64> {
        self.with_statement(sql, params, |statement| {
            let found = statement.step().ok()?;
            statement
                .integer(0)
                .filter(|_| found)
                .and_then(|n| u64::try_from(n).ok())
        })
    }

    fn program(&mut self, query: &QuerySpec) -> Option<Program> {
        const EXPLAIN: &str = "EXPLAIN ";
        let explain = format!("{EXPLAIN}{}", query.sql);
        self.with_statement(&explain, &query.params, |statement| {
            let mut program = Program {
                text_len: statement.text_len().checked_sub(EXPLAIN.len())?,
                schema_cookie: 0,
                scanned_root: None,
                is_whole: true,
            };
            let (mut opened, mut scanned) = (Vec::new(), Vec::new());
            while statement.step().ok()? {
                // addr, opcode, p1 (the cursor), p2 (the root page), p3 (the database: 0 is the main one)
                let (opcode, cursor) = (statement.text(1), statement.integer(2)?);
                program.is_whole &= KEEPS_EVERY_ROW.contains(&opcode.as_str());
                match opcode.as_str() {
                    "OpenRead" if statement.integer(4) == Some(0) => opened.push((cursor, statement.integer(3)?)),
                    "Rewind" | "Last" => scanned.push(cursor),
                    "Transaction" if cursor == 0 => program.schema_cookie = statement.integer(4)?,
                    _ => {}
                }
            }
            if let [scan] = scanned.as_slice() {
                let found = opened.iter().find(|(cursor, _)| cursor == scan);
                program.scanned_root = found.map(|(_, root_page)| *root_page);
            }
            Some(program)
        })
    }

    fn scan(&mut self, query: &QuerySpec, program: &Program) -> Option<Scan> {
        let root_page = program.scanned_root?;
        // With a LIMIT the scan would end early, and nothing in the plan says so.
        if has_word(&query.sql, "limit") || !self.streams_out_of_one_scan(query) {
            return None;
        }
        // The plan may call the table by an alias, but the scan's cursor is opened by its root page.
        let owner = Params::Positional(vec![root_page.into()]);
        let owner_sql = "SELECT tbl_name FROM sqlite_schema WHERE rootpage = ?";
        let table = self.with_statement(owner_sql, &owner, |statement| {
            let found = statement.step().ok()?;
            found.then(|| statement.text(0))
        })?;
        Some(Scan {
            rows: self.rows_of(&table)?,
            is_whole: program.is_whole,
        })
    }

    fn streams_out_of_one_scan(&mut self, query: &QuerySpec) -> bool {
        let explain = format!("EXPLAIN QUERY PLAN {}", query.sql);
        let streams = self.with_statement(&explain, &query.params, |statement| {
            let mut details = Vec::new();
            while statement.step().ok()? {
                details.push(statement.text(3));
            }
            Some(is_one_scan(&details))
        });
        streams == Some(true)
    }

    /// About how many rows a table has, without counting: as many as there are numbers from its first row's to its last one's, unless the file
    /// has no room for them; else what `ANALYZE` has found.
    fn rows_of(&mut self, table: &str) -> Option<u64> {
        let quoted = table.replace('"', "\"\"");
        // Two look-ups at the ends of the table: one SELECT with both would scan it.
        let span = format!("SELECT (SELECT max(rowid) FROM \"{quoted}\") - (SELECT min(rowid) FROM \"{quoted}\") + 1");
        let span = self.one_number(&span, &Params::None);
        let rows_max = self.file_bytes / ROW_BYTES_MIN;
        span.filter(|rows| *rows <= rows_max).or_else(|| {
            let owner = Params::Positional(vec![table.into()]);
            // The first number of each line is that of the rows in the index, of which a partial one has fewer.
            let sql = "SELECT max(CAST(stat AS INTEGER)) FROM sqlite_stat1 WHERE tbl = ?";
            self.one_number(sql, &owner)
        })
    }

    /// Whether a count may fit into its budget. A scan takes a page for some rows; of anything else only the attempt shows it.
    fn may_fit(&self, scan: Option<Scan>) -> bool {
        self.file_bytes <= COUNTED_FILE_BYTES_MAX || scan.is_none_or(|scan| scan.rows <= COUNTED_ROWS_MAX)
    }

    fn count(&mut self, query: &QuerySpec, program: &Program, until: Instant) -> Option<u64> {
        let inner = query.sql.get(..program.text_len)?.trim_end_matches(';');
        // The outer ORDER BY of one row costs nothing, and lets SQLite leave out an inner one that only costs time. The line end
        // ends a comment that the query may close with.
        let count = format!("SELECT count(*) FROM ({inner}\n) ORDER BY 1");
        self.database.as_mut()?.limit(COUNT_READS_MAX, until);
        self.one_number(&count, &query.params)
    }
}

/// Operations of which none leaves out a row: those of a scan, and of expressions that have no branches.
const KEEPS_EVERY_ROW: [&str; 31] = [
    "Add",
    "Affinity",
    "Blob",
    "Cast",
    "Column",
    "Concat",
    "Copy",
    "Divide",
    "Explain",
    "Function",
    "Goto",
    "Halt",
    "Init",
    "Int64",
    "Integer",
    "Multiply",
    "Next",
    "Noop",
    "Null",
    "OpenRead",
    "PureFunc",
    "Real",
    "RealAffinity",
    "Remainder",
    "ResultRow",
    "Rewind",
    "Rowid",
    "SCopy",
    "String8",
    "Subtract",
    "Transaction",
];

/// Reads the lines of `EXPLAIN QUERY PLAN` (sqlite.org/eqp.html).
fn is_one_scan(details: &[String]) -> bool {
    const BLOCKS: [&str; 6] = [
        "TEMP B-TREE",
        "MATERIALIZE",
        "CO-ROUTINE",
        "COMPOUND",
        "SUBQUERY",
        "VIRTUAL TABLE",
    ];
    let n_scans = details.iter().filter(|detail| detail.starts_with("SCAN ")).count();
    n_scans == 1
        && !details
            .iter()
            .any(|detail| BLOCKS.iter().any(|block| detail.contains(block)))
}

/// Whether `word` stands somewhere in `sql` by itself; in a string or comment too, which errs on the side of saying nothing.
fn has_word(sql: &str, word: &str) -> bool {
    sql.split(|character: char| !character.is_alphanumeric() && character != '_')
        .any(|found| found.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(details: &[&str], expected: bool) {
        let details: Vec<String> = details.iter().map(|detail| (*detail).to_owned()).collect();
        assert_eq!(is_one_scan(&details), expected, "{details:?}");
    }

    #[test]
    fn only_one_scan_and_nothing_that_collects_is_a_stream() {
        check(&["SCAN t"], true);
        check(&["SCAN t USING COVERING INDEX i"], true);
        check(&["SCAN t", "SEARCH u USING INTEGER PRIMARY KEY (rowid=?)"], true);
        check(&["SEARCH t USING INDEX i (a=?)"], false);
        check(&["SCAN t", "SCAN u"], false);
        check(&["SCAN t", "USE TEMP B-TREE FOR ORDER BY"], false);
        check(&["CO-ROUTINE x", "SCAN t", "SCAN x"], false);
        check(&["SCAN f VIRTUAL TABLE INDEX 0:"], false);
        check(&[], false);
    }

    #[test]
    fn limits_are_seen_wherever_they_stand() {
        assert!(has_word("select * from t Limit 5", "limit"));
        assert!(!has_word("select credit_limit, limits from t", "limit"));
    }
}
