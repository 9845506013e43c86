//! How large a result will be, found out beside the running query and within a budget; nothing where it cannot be known.

use std::sync::Arc;
use std::time::Duration;

use super::cursor::{bind, prepare};
use super::ffi::Statement;
use super::pool::Pool;
use crate::clock;
use crate::engine::{CancelToken, Estimate, QuerySpec, Total};
use crate::rows::Params;

/// What the query plan says of how the rows come.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    /// Row by row out of a full scan of this table.
    Streaming(String),
    Other,
}

/// `None` where nothing was found out.
pub(super) fn estimate(
    pool: &Arc<Pool>,
    query: &QuerySpec,
    budget: Duration,
    cancel: &CancelToken,
) -> Option<Estimate> {
    let (database, loan) = pool.take(cancel, Some(clock::now() + budget)).ok()?;
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
        let Plan::Streaming(table) = self.plan(query)? else {
            return None;
        };
        let table = table.replace('"', "\"\"");
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

    fn plan(&mut self, query: &QuerySpec) -> Option<Plan> {
        if has_word(&query.sql, "limit") {
            // The scan would end early, and nothing in the plan says so.
            return Some(Plan::Other);
        }
        let explain = format!("EXPLAIN QUERY PLAN {}", query.sql);
        self.with_statement(&explain, &query.params, |statement| {
            let mut details = Vec::new();
            while statement.step().ok()? {
                details.push(statement.text(3));
            }
            Some(plan_of(&details))
        })
    }
}

/// Reads the lines of `EXPLAIN QUERY PLAN` (sqlite.org/eqp.html).
fn plan_of(details: &[String]) -> Plan {
    const BLOCKS: [&str; 5] = ["TEMP B-TREE", "MATERIALIZE", "CO-ROUTINE", "COMPOUND", "SUBQUERY"];
    if details
        .iter()
        .any(|detail| BLOCKS.iter().any(|block| detail.contains(block)))
    {
        return Plan::Other;
    }
    let mut scans = details.iter().filter_map(|detail| detail.strip_prefix("SCAN "));
    match (scans.next(), scans.next()) {
        (Some(scan), None) if !scan.contains("VIRTUAL TABLE") => {
            let table = scan.split(" USING ").next().unwrap_or(scan);
            Plan::Streaming(table.to_owned())
        }
        _ => Plan::Other,
    }
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
    fn check(details: &[&str], expected: Option<&str>) {
        let details: Vec<String> = details.iter().map(|detail| (*detail).to_owned()).collect();
        let expected = expected.map_or(Plan::Other, |table| Plan::Streaming(table.to_owned()));
        assert_eq!(plan_of(&details), expected, "{details:?}");
    }

    #[test]
    fn only_one_scan_and_nothing_that_collects_is_a_stream() {
        check(&["SCAN t"], Some("t"));
        check(&["SCAN t USING COVERING INDEX i"], Some("t"));
        check(&["SCAN t", "SEARCH u USING INTEGER PRIMARY KEY (rowid=?)"], Some("t"));
        check(&["SEARCH t USING INDEX i (a=?)"], None);
        check(&["SCAN t", "SCAN u"], None);
        check(&["SCAN t", "USE TEMP B-TREE FOR ORDER BY"], None);
        check(&["CO-ROUTINE x", "SCAN t", "SCAN x"], None);
        check(&["SCAN f VIRTUAL TABLE INDEX 0:"], None);
        check(&[], None);
    }

    #[test]
    fn limits_are_seen_wherever_they_stand() {
        assert!(has_word("select * from t Limit 5", "limit"));
        assert!(!has_word("select credit_limit, limits from t", "limit"));
    }
}
