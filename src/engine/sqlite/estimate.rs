//! How large a result will be, found out beside the running query and within a budget; nothing where it cannot be known.

use std::sync::Arc;
use std::time::Duration;

use super::cursor::{bind, prepare};
use super::ffi::Statement;
use super::pool::Pool;
use crate::clock;
use crate::engine::{CancelToken, Estimate, QuerySpec, Total};
use crate::rows::Params;

/// `None` where nothing was found out.
pub(super) fn estimate(
    pool: &Arc<Pool>,
    query: &QuerySpec,
    budget: Duration,
    cancel: &CancelToken,
) -> Option<Estimate> {
    let (database, loan) = pool.take(cancel, Some(clock::after(clock::now(), budget))).ok()?;
    let mut lookup = Lookup {
        database: Some(database),
        cancel,
    };
    let estimate = lookup.run(query);
    if let Some(database) = lookup.database {
        loan.give_back(database);
    }
    estimate
}

struct Lookup<'a> {
    /// Lent to each statement in turn.
    database: Option<super::ffi::Database>,
    cancel: &'a CancelToken,
}

impl Lookup<'_> {
    fn run(&mut self, query: &QuerySpec) -> Option<Estimate> {
        let len = self.with_statement(&query.sql, &query.params, |statement| Some(statement.text_len()))?;
        let inner = query.sql.get(..len)?.trim_end_matches(';');
        // The outer ORDER BY of one row costs nothing, and lets SQLite leave out an inner one that only costs time. The line end
        // ends a comment that the query may close with.
        let count = format!("SELECT count(*) FROM ({inner}\n) ORDER BY 1");
        if let Some(rows) = self.one_number(&count, &query.params) {
            return Some(Estimate::rows(Total::Exact(rows)));
        }
        if !self.streams_out_of_one_scan(query) {
            return None;
        }
        let table = self.scanned_table(query)?.replace('"', "\"\"");
        // Two look-ups at the ends of the table: one SELECT with both would scan it.
        let span = format!("SELECT (SELECT max(rowid) FROM \"{table}\") - (SELECT min(rowid) FROM \"{table}\") + 1");
        let work_total = self.one_number(&span, &Params::None)?;
        Some(Estimate::rows(Total::Unknown).with_work_total(work_total))
    }

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

    /// Whether rows come while one full scan goes on, so that its progress is the query's.
    fn streams_out_of_one_scan(&mut self, query: &QuerySpec) -> bool {
        // With a LIMIT the scan would end early, and nothing in the plan says so.
        if has_word(&query.sql, "limit") {
            return false;
        }
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

    /// The table that the query scans: the plan may call it by an alias, but the scan's cursor is opened by its root page.
    fn scanned_table(&mut self, query: &QuerySpec) -> Option<String> {
        let explain = format!("EXPLAIN {}", query.sql);
        let root_page = self.with_statement(&explain, &query.params, |statement| {
            let (mut opened, mut scanned) = (Vec::new(), Vec::new());
            while statement.step().ok()? {
                // addr, opcode, p1 (the cursor), p2 (the root page), p3 (the database: 0 is the main one)
                let (opcode, cursor) = (statement.text(1), statement.integer(2)?);
                match opcode.as_str() {
                    "OpenRead" if statement.integer(4) == Some(0) => opened.push((cursor, statement.integer(3)?)),
                    "Rewind" => scanned.push(cursor),
                    _ => {}
                }
            }
            let [scan] = scanned.as_slice() else { return None };
            opened
                .iter()
                .find(|(cursor, _)| cursor == scan)
                .map(|(_, root_page)| *root_page)
        })?;
        let owner = Params::Positional(vec![root_page.into()]);
        self.with_statement(
            "SELECT tbl_name FROM sqlite_schema WHERE rootpage = ?",
            &owner,
            |statement| {
                let found = statement.step().ok()?;
                found.then(|| statement.text(0))
            },
        )
    }
}

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
