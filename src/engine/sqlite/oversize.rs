//! Which cell of a result was too large to read: SQLite says only that one was.
//!
//! Must not know cursors.

use std::time::Duration;

use super::bounds::{Bound, Rules};
use super::ffi::{Database, Prepared, Statement};
use crate::clock;
use crate::engine::CancelToken;

/// How many pages the search may read, and how long it may take. What it does not find within both, the error does not say.
const READS_MAX: u32 = 4_096;
const BUDGET: Duration = Duration::from_millis(250);

/// A stored cell beyond the limit.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Oversized {
    /// Whether it is in the row that could not be read, not only somewhere in the result.
    pub(super) is_in_the_row: bool,
    /// 0-based position of the column.
    pub(super) column_idx: usize,
    pub(super) bytes: u64,
}

/// Measures cells of the result of `sql`, which has its parameters filled in, without reading them: those of the row, or of any row where
/// a sort is in the way. `None` where no stored cell of the result is found to be too large.
pub(super) fn find(
    mut database: Database,
    rules: &Rules,
    sql: &str,
    n_columns: usize,
    row_idx: u64,
    cancel: &CancelToken,
) -> (Database, Option<Oversized>) {
    database.watch(cancel.clone(), None);
    database.limit(READS_MAX, clock::after(clock::now(), BUDGET));
    let limit = rules.bounds.of(Bound::CellBytes);
    let columns = |format: &dyn Fn(usize) -> String| {
        let columns: Vec<String> = (0..n_columns).map(format).collect();
        columns.join(",")
    };
    // The line end ends a comment that the query may close with.
    let measured = format!(
        "WITH measured({}) AS ({}\n) SELECT {} FROM measured",
        columns(&|n| format!("c{n}")),
        sql.trim_end_matches(';'),
        columns(&|n| format!("octet_length(c{n})"))
    );
    // The join has SQLite leave out the sort, which would read the cells.
    let anywhere = format!(
        "{measured}, (SELECT 1) WHERE max(0,{}) > {limit} LIMIT 1",
        columns(&|n| format!("ifnull(octet_length(c{n}),0)"))
    );
    let in_the_row = format!("{measured} LIMIT 1 OFFSET {row_idx}");
    for (sql, is_in_the_row) in [(in_the_row, true), (anywhere, false)] {
        let found;
        (database, found) = largest(database, &sql, n_columns);
        if let Some((column_idx, bytes)) = found
            && u64::try_from(limit).is_ok_and(|limit| bytes > limit)
        {
            let oversized = Oversized {
                is_in_the_row,
                column_idx,
                bytes,
            };
            return (database, Some(oversized));
        }
    }
    (database, None)
}

/// The largest number in the first row of a statement of our own, and its column.
fn largest(database: Database, sql: &str, n_columns: usize) -> (Database, Option<(usize, u64)>) {
    match Statement::prepare(database, sql) {
        Prepared::One(mut statement) => {
            let size_of = |statement: &Statement, column| u64::try_from(statement.integer(column)?).ok();
            let found = match statement.step() {
                Ok(true) => (0..n_columns)
                    .filter_map(|column| Some((column, size_of(&statement, column)?)))
                    .max_by_key(|(_, bytes)| *bytes),
                _ => None,
            };
            (statement.into_database(), found)
        }
        Prepared::None(database) | Prepared::Several(database) | Prepared::Failed(database, _) => (database, None),
    }
}
