//! Advice for queries that SQLite does not understand: the name that may have been meant, and SQLite's way to say what another dialect says
//! in its own.
//!
//! Only errors pay for it, and no more than some hundred tables or two thousand columns of the schema, which the query's author may read anyway. Must not know
//! cursors.

use super::ffi::{Database, Prepared, Statement};
use super::profile::{self, is_hidden};
use super::words::words;
use crate::engine::{EngineError, EngineErrorKind};

/// Tables and views that are looked at.
const TABLES_MAX: usize = 500;

/// Tables of the query whose columns are looked at.
const QUERIED_TABLES_MAX: usize = 16;

/// Columns that are looked at in all.
const COLUMNS_MAX: usize = 2_000;

/// Names longer than this are nobody's slip of the finger.
const NAME_LEN_MAX: usize = 64;

const SHELL: &str =
    "this is a command of a shell, not SQL: `SELECT name, sql FROM sqlite_schema` lists tables and views";
const COLUMNS: &str = "`SELECT sql FROM sqlite_schema WHERE name = 'TABLE'` shows a table's columns";
const FORMAT_TIME: &str = "SQLite has strftime(FORMAT, TIME) and date(TIME, 'start of month')";
const NO_REGEX: &str = "SQLite has LIKE and GLOB, and no regular expressions";

/// What other dialects have where SQLite stops reading, by the token it stops at.
const TOKENS: &[(&str, &str)] = &[
    (".", SHELL),
    ("\\", SHELL),
    ("show", SHELL),
    ("desc", COLUMNS),
    ("describe", COLUMNS),
    ("use", "a query names its database by `engine`, not by USE"),
    ("ilike", "SQLite's LIKE already ignores the case of ASCII letters"),
    ("fetch", "SQLite has LIMIT n for FETCH FIRST n ROWS ONLY"),
    ("::", "SQLite has CAST(x AS type) for x::type"),
];

/// Functions of other dialects.
const FUNCTIONS: &[(&str, &str)] = &[
    ("array_agg", "SQLite has json_group_array(x)"),
    ("charindex", "SQLite has instr(TEXT, SEARCHED)"),
    ("curdate", "SQLite has date('now')"),
    ("date_format", FORMAT_TIME),
    ("date_part", FORMAT_TIME),
    ("date_trunc", FORMAT_TIME),
    ("getdate", "SQLite has datetime('now')"),
    ("greatest", "SQLite has max(a, b, …)"),
    ("isnull", "SQLite has ifnull(x, y)"),
    ("json_agg", "SQLite has json_group_array(x)"),
    ("least", "SQLite has min(a, b, …)"),
    ("left", "SQLite has substr(x, 1, n)"),
    ("len", "SQLite has length(x)"),
    ("now", "SQLite has datetime('now')"),
    ("nvl", "SQLite has ifnull(x, y)"),
    ("rand", "SQLite has random()"),
    ("regexp", NO_REGEX),
    ("regexp_like", NO_REGEX),
    ("regexp_matches", NO_REGEX),
    ("regexp_replace", NO_REGEX),
    ("right", "SQLite has substr(x, -n)"),
    ("strpos", "SQLite has instr(TEXT, SEARCHED)"),
    ("to_char", FORMAT_TIME),
    ("to_date", FORMAT_TIME),
];

/// Tables of other dialects.
const TABLES: &[(&str, &str)] = &[
    ("dual", "SQLite needs no FROM: `SELECT 1`"),
    ("information_schema.columns", COLUMNS),
    (
        "information_schema.tables",
        "SQLite lists tables and views in sqlite_schema",
    ),
    ("pg_catalog.pg_tables", "SQLite lists tables and views in sqlite_schema"),
    ("pg_tables", "SQLite lists tables and views in sqlite_schema"),
    ("unnest", "SQLite has json_each(ARRAY)"),
];

/// Adds a hint to an error of preparing `sql`, where one can be given and there is none yet.
pub(super) fn advise(database: Database, sql: &str, error: &mut EngineError) -> Database {
    if error.kind != EngineErrorKind::Syntax || error.hint.is_some() {
        return database;
    }
    let message = error.message.clone();
    let after = |start: &str| message.strip_prefix(start).map(unquoted);
    let (database, hint) = if let Some(table) = after("no such table: ") {
        let told = told(TABLES, table).or_else(|| told(TABLES, last_part(table)));
        match told {
            Some(hint) => (database, Some(hint)),
            None => {
                let (database, names) = tables(database);
                (
                    database,
                    did_you_mean(last_part(table), names.iter().map(String::as_str)),
                )
            }
        }
    } else if let Some(column) = after("no such column: ") {
        let (database, names) = columns(database, sql);
        let near = did_you_mean(last_part(column), names.iter().map(String::as_str));
        (database, near.or_else(|| text_in_double_quotes(sql, column)))
    } else if let Some(function) = after("no such function: ") {
        let told = told(FUNCTIONS, function);
        (database, told.or_else(|| did_you_mean(function, profile::functions())))
    } else {
        (database, dialect(sql, &message))
    };
    error.hint = hint;
    database
}

/// The name in what SQLite says of one, which may be quoted and may have an explanation behind it.
fn unquoted(said: &str) -> &str {
    match said.strip_prefix('"').and_then(|said| said.rsplit_once("\" - ")) {
        Some((name, _explanation)) => name,
        None => said,
    }
}

fn last_part(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(_, last)| last)
}

fn told(table: &[(&str, &str)], name: &str) -> Option<String> {
    let found = table.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    found.map(|(_, hint)| (*hint).to_owned())
}

fn text_in_double_quotes(sql: &str, column: &str) -> Option<String> {
    let is_quoted = sql.contains(&format!("\"{column}\""));
    is_quoted.then(|| "double quotes are for names: a text is in single quotes".to_owned())
}

/// What another dialect says where SQLite stopped.
fn dialect(sql: &str, message: &str) -> Option<String> {
    let token = message
        .strip_prefix("near \"")
        .and_then(|rest| rest.strip_suffix("\": syntax error"))
        .or_else(|| message.strip_prefix("unrecognized token: \"")?.strip_suffix('"'))?;
    let is = |word: Option<&str>, other: &str| word.is_some_and(|word| word.eq_ignore_ascii_case(other));
    let mut first_words = words(sql);
    if is(first_words.next(), "select") && is(first_words.next(), "top") {
        return Some("SQLite has LIMIT n at the end of the query for TOP n".to_owned());
    }
    let lower = token.to_ascii_lowercase();
    let token = match lower.as_str() {
        ":" if sql.contains("::") => "::",
        // SQLite has taken the word before for an alias.
        "first" | "next" if words(sql).any(|word| is(Some(word), "fetch")) => "fetch",
        token => token,
    };
    told(TOKENS, token)
}

/// The nearest of the names, if it is near enough to have been meant.
fn did_you_mean<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<String> {
    let len = name.chars().count();
    if len > NAME_LEN_MAX {
        return None;
    }
    let slips_max = (len / 3).clamp(1, 3);
    let name = name.to_lowercase();
    let near = names.filter(|known| known.len().abs_diff(name.len()) <= slips_max * 4);
    let (slips, nearest) = near
        .map(|known| (strsim::osa_distance(&name, &known.to_lowercase()), known))
        .min_by_key(|(slips, _)| *slips)?;
    (slips <= slips_max).then(|| format!("did you mean \"{nearest}\"?"))
}

/// The names of tables and views, without SQLite's own.
fn tables(database: Database) -> (Database, Vec<String>) {
    let sql = format!("SELECT name FROM sqlite_schema WHERE type IN ('table', 'view') LIMIT {TABLES_MAX}");
    with_statement(database, &sql, |statement| {
        let mut names = Vec::new();
        while statement.step().unwrap_or(false) {
            let name = statement.text(0);
            if !name.starts_with("sqlite_") && !is_hidden(&name) {
                names.push(name);
            }
        }
        names
    })
}

/// The names of the columns of tables that the query's text names.
fn columns(database: Database, sql: &str) -> (Database, Vec<String>) {
    let text = sql.to_lowercase();
    let (mut database, tables) = tables(database);
    let queried = tables.iter().filter(|table| text.contains(&table.to_lowercase()));
    let mut names = Vec::new();
    for table in queried.take(QUERIED_TABLES_MAX) {
        let all = format!("SELECT * FROM \"{}\"", table.replace('"', "\"\""));
        let found;
        (database, found) = with_statement(database, &all, |statement| {
            (0..statement.n_columns())
                .take(COLUMNS_MAX - names.len())
                .map(|column| statement.column_name(column))
                .collect::<Vec<_>>()
        });
        names.extend(found);
    }
    (database, names)
}

/// What is read of a statement of our own; nothing where it cannot be prepared.
fn with_statement<T: Default>(database: Database, sql: &str, read: impl FnOnce(&mut Statement) -> T) -> (Database, T) {
    match Statement::prepare(database, sql) {
        Prepared::One(mut statement) => {
            let found = read(&mut statement);
            (statement.into_database(), found)
        }
        Prepared::None(database) | Prepared::Several(database) | Prepared::Failed(database, _) => {
            (database, T::default())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, names: &[&str], expected: Option<&str>) {
        let hint = did_you_mean(name, names.iter().copied());
        assert_eq!(hint.as_deref(), expected);
    }

    #[test]
    fn only_near_names_are_meant() {
        check("nme", &["id", "name", "email"], Some("did you mean \"name\"?"));
        check("ORDRES", &["orders", "lineitem"], Some("did you mean \"orders\"?"));
        check("grösse", &["größe"], Some("did you mean \"größe\"?"));
        check("x", &["id", "name"], None);
        check("nowhere", &["orders", "people"], None);
        check("a", &[], None);
        let long = "a".repeat(NAME_LEN_MAX + 1);
        check(&long, &[&long], None);
    }
}
