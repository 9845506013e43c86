//! What a query may do and how large it may be, by how far its author is trusted: functions, tables, SQLite's own limits.
//!
//! Decides, and knows no connection but to set it up. Must not know pools or cursors.

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;

/// How far those are trusted who send queries. Both profiles read only, and neither lets a query near another file.
///
/// | | untrusted | trusted |
/// |---|---|---|
/// | text of a query | 64 KiB | 1 MiB |
/// | cell, also inside a query (`cell_bytes_max`) | 100,000 bytes | 1 MiB |
/// | columns of a result, terms of `ORDER BY` and `GROUP BY` | 256 | 2,000 |
/// | parameters | 100 | 32,766 |
/// | depth of an expression, nested subqueries | 100 | 1,000 |
/// | parts of a `UNION` | 30 | 500 |
/// | arguments of a function | 16 | 1,000 |
/// | operations of the compiled query | 21,504 | 250 million |
/// | pattern of `LIKE` and `GLOB` | 50 bytes | 50,000 bytes |
/// | what is sorted, grouped or kept for later | in memory, a quarter of the [heap](super::limit_heap) each | in SQLite's temporary files |
/// | functions | those on a list | all but those that load code |
/// | full-text and R*Tree tables, `dbstat` | no | yes |
///
/// What goes beyond is refused with `LIMIT_EXCEEDED`, or with `READ_ONLY` where it is a function or table that the profile has not.
/// SQLite's documentation advises far smaller numbers still for hostile input; with those, joins of eight tables and reports of
/// forty columns do not work any more. What these cost: a list of more than some
/// thousand values in `IN (…)` (bind a JSON array and read it with `json_each`), a chain of more than a hundred `OR`, and
/// any query that reads a stored cell of more than `cell_bytes_max`; of such a cell, `length` and `typeof` can be asked, and
/// rows whose cell is not read come as ever. Tables and views that break these limits may exist, for a schema is read without them.
///
/// # Cancelling
/// SQLite can be stopped between two operations, so the longest single operation is how long a cancel may take. With the numbers of the
/// untrusted profile, `instr` and `replace` with 100,000 bytes were measured at 50 ms. They take the square of `cell_bytes_max`: with 1 MiB,
/// many seconds.
/// Functions that could take longer are not on the list (`json_patch`, `json_pretty`, `unhex` with two arguments), and `trim` takes at most
/// 256 characters to trim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum SqliteProfile {
    /// Queries come from people who may want to harm the server. The default.
    #[default]
    Untrusted,
    /// Queries come from people who would rather not harm the server, but may, by filling the disk with a sort for example.
    Trusted,
}

/// How large a query may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) query_bytes: i32,
    pub(super) cell_bytes: i32,
    pub(super) columns: i32,
    pub(super) parameters: i32,
    pub(super) expression_depth: i32,
    pub(super) compound_parts: i32,
    pub(super) function_arguments: i32,
    pub(super) operations: i32,
    pub(super) pattern_bytes: i32,
    pub(super) trigger_depth: i32,
}

/// Largest cell that may be set.
pub(super) const CELL_BYTES_CEILING: u32 = 16 * 1024 * 1024;

/// What an untrusted query may call. Not on the list, though SQLite has them: what loads code or writes to the log
/// (`load_extension`, `fts3_tokenizer`, `sqlite_log`), what looks into the storage of special tables or tells how SQLite was
/// built, what only means something where one writes (`changes`), and what takes long on one value (`json_patch` the
/// square of its length, `json_pretty` much memory).
const FUNCTIONS: &[&str] = &[
    // operators
    "->",
    "->>",
    "glob",
    "like",
    // numbers
    "abs",
    "random",
    "round",
    "sign",
    // texts and blobs
    "char",
    "concat",
    "concat_ws",
    "format",
    "hex",
    "instr",
    "length",
    "lower",
    "ltrim",
    "octet_length",
    "printf",
    "quote",
    "randomblob",
    "replace",
    "rtrim",
    "soundex",
    "substr",
    "substring",
    "trim",
    "unhex",
    "unicode",
    "unistr",
    "unistr_quote",
    "upper",
    "zeroblob",
    // any value
    "coalesce",
    "if",
    "ifnull",
    "iif",
    "likelihood",
    "likely",
    "max",
    "min",
    "nullif",
    "sqlite_version",
    "subtype",
    "typeof",
    "unlikely",
    // aggregates
    "avg",
    "count",
    "group_concat",
    "string_agg",
    "sum",
    "total",
    // windows
    "cume_dist",
    "dense_rank",
    "first_value",
    "lag",
    "last_value",
    "lead",
    "nth_value",
    "ntile",
    "percent_rank",
    "rank",
    "row_number",
    // times
    "current_date",
    "current_time",
    "current_timestamp",
    "date",
    "datetime",
    "julianday",
    "strftime",
    "time",
    "timediff",
    "unixepoch",
    // JSON
    "json",
    "json_array",
    "json_array_insert",
    "json_array_length",
    "json_error_position",
    "json_extract",
    "json_group_array",
    "json_group_object",
    "json_insert",
    "json_object",
    "json_quote",
    "json_remove",
    "json_replace",
    "json_set",
    "json_type",
    "json_valid",
    "jsonb",
    "jsonb_array",
    "jsonb_array_insert",
    "jsonb_extract",
    "jsonb_group_array",
    "jsonb_group_object",
    "jsonb_insert",
    "jsonb_object",
    "jsonb_remove",
    "jsonb_replace",
    "jsonb_set",
];

/// Tables that are there without being created, and tell of the file's pages, or of the process. `json_each` and `json_tree` are the
/// only ones of this sort that an untrusted query may read.
const HIDDEN_TABLES: &[&str] = &[
    "dbstat",
    "fts3tokenize",
    "sqlite_dbpage",
    "sqlite_stmt",
    "bytecode",
    "tables_used",
];

impl SqliteProfile {
    pub(super) const fn bounds(self) -> Bounds {
        match self {
            Self::Untrusted => Bounds {
                query_bytes: 65_536,
                cell_bytes: 100_000,
                columns: 256,
                parameters: 100,
                expression_depth: 100,
                compound_parts: 30,
                function_arguments: 16,
                // SQLite doubles the room for them, which begins with 42: any number up to twice this one would be the same.
                operations: 21_504,
                pattern_bytes: 50,
                trigger_depth: 10,
            },
            Self::Trusted => Bounds {
                query_bytes: 1024 * 1024,
                cell_bytes: 1024 * 1024,
                columns: 2_000,
                parameters: 32_766,
                expression_depth: 1_000,
                compound_parts: 500,
                function_arguments: 1_000,
                operations: 250_000_000,
                pattern_bytes: 50_000,
                trigger_depth: 1_000,
            },
        }
    }

    /// What statements may do. One of three gates, none of which is enough alone: a read-only connection, this list, and a look at
    /// the prepared statement.
    pub(super) fn authorize(self, context: &AuthContext<'_>) -> Authorization {
        #[allow(clippy::wildcard_enum_match_arm)] // an allow-list: whatever else there is, or will be, is denied
        let allowed = match context.action {
            AuthAction::Select | AuthAction::Recursive => true,
            AuthAction::Read { table_name, .. } => self == Self::Trusted || !is_hidden(table_name),
            AuthAction::Function { function_name } => self.has_function(function_name),
            // A full-text table asks this of its own database before it reads.
            AuthAction::Pragma {
                pragma_name,
                pragma_value: None,
            } => self == Self::Trusted && pragma_name.eq_ignore_ascii_case("data_version"),
            _ => false,
        };
        if allowed {
            Authorization::Allow
        } else {
            Authorization::Deny
        }
    }

    pub(super) fn has_function(self, name: &str) -> bool {
        let is = |other: &&str| name.eq_ignore_ascii_case(other);
        match self {
            Self::Untrusted => FUNCTIONS.iter().any(is),
            Self::Trusted => !["load_extension", "fts3_tokenizer"].iter().any(is),
        }
    }
}

pub(super) fn is_hidden(table: &str) -> bool {
    let is_pragma = table
        .get(..7)
        .is_some_and(|start| start.eq_ignore_ascii_case("pragma_"));
    is_pragma || HIDDEN_TABLES.iter().any(|hidden| table.eq_ignore_ascii_case(hidden))
}

impl Bounds {
    /// Sets SQLite's limits. The schema has to be loaded before: it is read under the same limits, and one table of 300 columns
    /// would make the whole database unreadable.
    pub(super) fn set(&self, connection: &Connection) -> rusqlite::Result<()> {
        let Self {
            query_bytes,
            cell_bytes,
            columns,
            parameters,
            expression_depth,
            compound_parts,
            function_arguments,
            operations,
            pattern_bytes,
            trigger_depth,
        } = *self;
        for (limit, value) in [
            (Limit::SQLITE_LIMIT_SQL_LENGTH, query_bytes),
            (Limit::SQLITE_LIMIT_LENGTH, cell_bytes),
            (Limit::SQLITE_LIMIT_COLUMN, columns),
            (Limit::SQLITE_LIMIT_VARIABLE_NUMBER, parameters),
            (Limit::SQLITE_LIMIT_EXPR_DEPTH, expression_depth),
            (Limit::SQLITE_LIMIT_COMPOUND_SELECT, compound_parts),
            (Limit::SQLITE_LIMIT_FUNCTION_ARG, function_arguments),
            (Limit::SQLITE_LIMIT_VDBE_OP, operations),
            (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, pattern_bytes),
            (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, trigger_depth),
            (Limit::SQLITE_LIMIT_ATTACHED, 0),
            (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
        ] {
            connection.set_limit(limit, value)?;
        }
        Ok(())
    }
}

/// Switches off what no reader needs, for both profiles. A name in double quotes is a name: a column that is misspelt is not a text.
pub(super) fn harden(connection: &Connection) -> rusqlite::Result<()> {
    for (switch, on) in [
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
        (DbConfig::SQLITE_DBCONFIG_DQS_DML, false),
        (DbConfig::SQLITE_DBCONFIG_DQS_DDL, false),
        (DbConfig::SQLITE_DBCONFIG_WRITABLE_SCHEMA, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_FTS3_TOKENIZER, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_ATTACH_CREATE, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_ATTACH_WRITE, false),
    ] {
        connection.set_db_config(switch, on)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

    use super::*;

    /// All that the bundled SQLite has and an untrusted query may not call. A new function in a newer SQLite is in neither list.
    const NOT_FOR_STRANGERS: &[&str] = &[
        "bm25",
        "changes",
        "fts3_tokenizer",
        "fts5",
        "fts5_get_locale",
        "fts5_insttoken",
        "fts5_locale",
        "fts5_source_id",
        "highlight",
        "json_patch",
        "json_pretty",
        "jsonb_patch",
        "last_insert_rowid",
        "load_extension",
        "match",
        "matchinfo",
        "offsets",
        "optimize",
        "rtreecheck",
        "rtreedepth",
        "rtreenode",
        "snippet",
        "sqlite_compileoption_get",
        "sqlite_compileoption_used",
        "sqlite_log",
        "sqlite_source_id",
        "total_changes",
    ];

    fn names(connection: &Connection, sql: &str) -> Vec<String> {
        let mut statement = connection.prepare(sql).unwrap();
        let names = statement.query_map([], |row| row.get(0)).unwrap();
        names.map(Result::unwrap).collect()
    }

    #[test]
    fn every_function_of_this_sqlite_is_decided_upon() {
        let connection = Connection::open_in_memory().unwrap();
        let there = names(&connection, "SELECT DISTINCT name FROM pragma_function_list ORDER BY 1");
        for name in &there {
            let refused = NOT_FOR_STRANGERS.contains(&name.as_str());
            assert_ne!(SqliteProfile::Untrusted.has_function(name), refused, "{name}");
        }
        for name in FUNCTIONS.iter().chain(NOT_FOR_STRANGERS) {
            assert!(there.iter().any(|there| there == name), "SQLite has no {name}");
        }
        assert!(!SqliteProfile::Trusted.has_function("LOAD_EXTENSION"));
    }

    #[test]
    fn every_table_that_comes_with_this_sqlite_is_decided_upon() {
        let connection = Connection::open_in_memory().unwrap();
        for name in names(&connection, "SELECT name FROM pragma_module_list") {
            // Of the rest, tables have to be created before they can be read.
            let created =
                ["fts3", "fts4", "fts4aux", "fts5", "fts5vocab", "rtree", "rtree_i32"].contains(&name.as_str());
            assert!(is_hidden(&name) || created, "{name}");
        }
        assert!(!is_hidden("json_each") && !is_hidden("pragma") && !is_hidden("lineitem"));
        assert!(is_hidden("PRAGMA_table_info") && is_hidden("DBStat"));
    }
}
