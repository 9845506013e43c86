//! What a query may do and how large it may be, by how far its author is trusted: functions, tables, SQLite's own limits.
//!
//! Decides, and knows no connection but to set it up. Must not know pools or cursors.

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};

/// How far the authors of queries are trusted. Both profiles only read, and neither lets a query near another file.
///
/// | limit | setting | untrusted | trusted | what the untrusted value costs at worst |
/// |---|---|---|---|---|
/// | text of a query | `sqlite_query_bytes_max` | 64 KiB | 1 MiB | 0.4 s to compile 13,000 named parameters |
/// | cell, also inside a query | `sqlite_cell_bytes_max` | 1 MiB | 1 MiB | see [cancelling](#cancelling); at most 16 MiB |
/// | columns of a result, terms of `ORDER BY` and `GROUP BY` | `sqlite_columns_max` | 2,000 | 2,000 | 0.07 s and 2 MB to compile |
/// | parameters | `sqlite_parameters_max` | 32,766 | 32,766 | 2 MB for each running query |
/// | depth of an expression, nested subqueries | `sqlite_expression_depth_max` | 1,000 | 1,000 | 0.02 s to compile |
/// | parts of a `UNION` | `sqlite_compound_parts_max` | 500 | 500 | 0.006 s and 2 MB to compile |
/// | arguments of a function | `sqlite_function_arguments_max` | 512 | 1,000 | 0.9 s: `json_extract` of 511 paths from 1 MiB |
/// | operations of the compiled query | `sqlite_operations_max` | 172,032 | 250 million | 4 MB for each running query |
/// | pattern of `LIKE` and `GLOB` | `sqlite_pattern_bytes_max` | 256 bytes | 50,000 bytes | 1.1 s: `GLOB` on 1 MiB |
/// | sorted, grouped or stored data | [`limit_heap`](super::limit_heap) | in memory, a quarter of the heap each | in SQLite's temporary files | |
/// | functions | `sqlite_profile` | those on a list | all except those that load code | |
/// | R*Tree and geopoly tables, full-text search, `dbstat` | `sqlite_profile` | no | yes | |
///
/// The settings are those of the program; the methods of [`SqliteEngineBuilder`](super::SqliteEngineBuilder) have the same names
/// without `sqlite_`. A query beyond a limit is refused with `LIMIT_EXCEEDED`, and one that uses a function or table outside its
/// profile with `READ_ONLY`; the error names the setting. A setting below 1, or above what SQLite allows, is brought into that range.
///
/// A query may ask for the `length` and `typeof` of a stored cell above `sqlite_cell_bytes_max`, and may skip it. Reading it is an
/// error that names the row, the column and the size where the query only reads columns. Tables and views beyond a limit may exist:
/// SQLite loads the schema without limits.
///
/// # Functions
/// Beside SQLite's own, both profiles have its mathematical functions (`floor`, `ceil`, `sqrt`, `pow`, `log`, `mod`, `pi`, `trunc`
/// …), even where the SQLite in use was compiled without them. A table, an index or a view of the database may use them too.
///
/// # Cancelling
/// SQLite stops between two operations, so the longest single operation decides how long a cancel takes: microseconds for ordinary
/// queries. A hostile query reaches about one second with the limits of the untrusted profile, and costs only its own stream and
/// one engine thread that long. The last column has the CPU time of the worst queries found, on one core of a slow machine; those of
/// `LIKE`, `GLOB` and functions grow in proportion to `sqlite_cell_bytes_max`. `instr` and `replace` take time in proportion to their
/// texts, unlike SQLite's own. Functions that could take longer are not on the list (`json_patch`, `json_pretty`, `unhex` with two
/// arguments), and `trim` takes at most 256 characters to trim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum SqliteProfile {
    /// The authors of queries may want to harm the server. The default.
    #[default]
    Untrusted,
    /// The authors of queries mean no harm, but a mistake of theirs may do some: a large sort fills the disk, for example.
    Trusted,
}

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
    // mathematics
    "acos",
    "acosh",
    "asin",
    "asinh",
    "atan",
    "atan2",
    "atanh",
    "ceil",
    "ceiling",
    "cos",
    "cosh",
    "degrees",
    "exp",
    "floor",
    "ln",
    "log",
    "log10",
    "log2",
    "mod",
    "pi",
    "pow",
    "power",
    "radians",
    "sin",
    "sinh",
    "sqrt",
    "tan",
    "tanh",
    "trunc",
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
    "median",
    "percentile",
    "percentile_cont",
    "percentile_disc",
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

/// Tables that are there without being created, and tell of the file's pages, or of the process. `json_each`, `json_tree` and
/// `generate_series` are the only ones of this sort that an untrusted query may read.
const HIDDEN_TABLES: &[&str] = &[
    "dbstat",
    "fts3tokenize",
    "sqlite_dbpage",
    "sqlite_stmt",
    "bytecode",
    "tables_used",
];

impl SqliteProfile {
    /// The profile's name in settings and messages.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Untrusted => "untrusted",
            Self::Trusted => "trusted",
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
            // Full-text tables ask this of their own database before they read.
            AuthAction::Pragma {
                pragma_name,
                pragma_value: None,
            } => self == Self::Trusted && ["data_version", "page_size"].contains(&pragma_name),
            // R*Tree and geopoly tables prepare all their statements before they read, and run no such one. SQLite tells it from a
            // client's by no argument of this call. A client's is refused all the same: for the tables behind an R*Tree table while it is
            // prepared, for any other table because the prepared statement does not only read. Were it run, the connection would refuse.
            AuthAction::Insert { table_name }
            | AuthAction::Delete { table_name }
            | AuthAction::Update { table_name, .. } => {
                self == Self::Trusted && context.database_name == Some("main") && is_behind_an_rtree(table_name)
            }
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

    /// Whether a table that is there without being created may be read.
    pub(super) fn has_table(self, name: &str) -> bool {
        match self {
            Self::Untrusted => !is_hidden(name),
            // What it would run is denied.
            Self::Trusted => !runs_a_pragma(name),
        }
    }
}

/// Whether the name is one that SQLite gives to the tables in which it stores R*Tree tables.
fn is_behind_an_rtree(table: &str) -> bool {
    ["_node", "_parent", "_rowid"].iter().any(|end| table.ends_with(end))
}

/// The functions that all queries may call.
pub(super) fn functions() -> impl Iterator<Item = &'static str> {
    FUNCTIONS.iter().copied()
}

pub(super) fn is_hidden(table: &str) -> bool {
    runs_a_pragma(table) || HIDDEN_TABLES.iter().any(|hidden| table.eq_ignore_ascii_case(hidden))
}

fn runs_a_pragma(table: &str) -> bool {
    table
        .get(..7)
        .is_some_and(|start| start.eq_ignore_ascii_case("pragma_"))
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

    use std::sync::Arc;
    use std::time::Duration;

    use super::super::bounds::{Bounds, Chosen, Rules};
    use super::super::ffi::{self, Database};
    use super::*;

    /// All that the bundled SQLite has and an untrusted query may not call, but for geopoly's functions, which may be compiled in. A new
    /// function in a newer SQLite is in neither list.
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

    /// A connection with all functions and tables that connections of an engine have.
    fn database() -> Database {
        let rules = Rules {
            profile: SqliteProfile::Trusted,
            bounds: Bounds::new(SqliteProfile::Trusted, &Chosen::default()),
        };
        let connection = Connection::open_in_memory().unwrap();
        let mut database = Database::new(connection, Duration::ZERO, rules, Arc::default());
        database.install_functions().unwrap();
        database
            .with_connection(|connection| ffi::install_series(connection))
            .unwrap();
        database
    }

    #[test]
    fn every_function_of_this_sqlite_is_decided_upon() {
        let mut database = database();
        let functions = "SELECT DISTINCT name FROM pragma_function_list ORDER BY 1";
        let there = database.with_connection(|connection| names(connection, functions));
        for name in &there {
            let refused = NOT_FOR_STRANGERS.contains(&name.as_str()) || name.starts_with("geopoly_");
            assert_ne!(SqliteProfile::Untrusted.has_function(name), refused, "{name}");
        }
        for name in FUNCTIONS.iter().chain(NOT_FOR_STRANGERS) {
            assert!(there.iter().any(|there| there == name), "SQLite has no {name}");
        }
        assert!(!SqliteProfile::Trusted.has_function("LOAD_EXTENSION"));
    }

    #[test]
    fn every_table_that_comes_with_this_sqlite_is_decided_upon() {
        let mut database = database();
        for name in database.with_connection(|connection| names(connection, "SELECT name FROM pragma_module_list")) {
            // Of the rest, tables have to be created before they can be read.
            let created = [
                "fts3",
                "fts4",
                "fts4aux",
                "fts5",
                "fts5vocab",
                "geopoly",
                "rtree",
                "rtree_i32",
            ]
            .contains(&name.as_str());
            assert!(is_hidden(&name) || created || name == "generate_series", "{name}");
        }
        assert!(!is_hidden("json_each") && !is_hidden("pragma") && !is_hidden("lineitem"));
        assert!(is_hidden("PRAGMA_table_info") && is_hidden("DBStat"));
    }
}
