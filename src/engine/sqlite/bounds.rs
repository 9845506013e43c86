//! How large a query may be: SQLite's limits, each with its setting and its value in each profile.
//!
//! Must not know functions, tables or result codes.

use rusqlite::Connection;
use rusqlite::limits::Limit;

use super::profile::SqliteProfile;

/// What a setting bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bound {
    QueryBytes,
    CellBytes,
    Columns,
    Parameters,
    ExpressionDepth,
    CompoundParts,
    FunctionArguments,
    Operations,
    PatternBytes,
}

struct Line {
    setting: &'static str,
    limit: Limit,
    untrusted: i32,
    trusted: i32,
    /// The highest value of the setting; SQLite's own maximum but for texts and cells.
    ceiling: i32,
}

const N_BOUNDS: usize = 9;

const MIB: i32 = 1024 * 1024;

/// In the order of [`Bound`]. [`SqliteProfile`] says what the values of the untrusted profile cost.
static TABLE: [Line; N_BOUNDS] = [
    Line {
        setting: "sqlite_query_bytes_max",
        limit: Limit::SQLITE_LIMIT_SQL_LENGTH,
        untrusted: 64 * 1024,
        trusted: MIB,
        ceiling: 16 * MIB,
    },
    Line {
        setting: "sqlite_cell_bytes_max",
        limit: Limit::SQLITE_LIMIT_LENGTH,
        untrusted: MIB,
        trusted: MIB,
        ceiling: 16 * MIB,
    },
    Line {
        setting: "sqlite_columns_max",
        limit: Limit::SQLITE_LIMIT_COLUMN,
        untrusted: 2_000,
        trusted: 2_000,
        ceiling: 2_000,
    },
    Line {
        setting: "sqlite_parameters_max",
        limit: Limit::SQLITE_LIMIT_VARIABLE_NUMBER,
        untrusted: 32_766,
        trusted: 32_766,
        ceiling: 32_766,
    },
    Line {
        setting: "sqlite_expression_depth_max",
        limit: Limit::SQLITE_LIMIT_EXPR_DEPTH,
        untrusted: 1_000,
        trusted: 1_000,
        ceiling: 1_000,
    },
    Line {
        setting: "sqlite_compound_parts_max",
        limit: Limit::SQLITE_LIMIT_COMPOUND_SELECT,
        untrusted: 500,
        trusted: 500,
        ceiling: 500,
    },
    Line {
        setting: "sqlite_function_arguments_max",
        limit: Limit::SQLITE_LIMIT_FUNCTION_ARG,
        untrusted: 512,
        trusted: 1_000,
        ceiling: 1_000,
    },
    Line {
        setting: "sqlite_operations_max",
        limit: Limit::SQLITE_LIMIT_VDBE_OP,
        // SQLite doubles the room for them, which begins with 42: any number up to twice this one would be the same.
        untrusted: 172_032,
        trusted: 250_000_000,
        ceiling: 250_000_000,
    },
    Line {
        setting: "sqlite_pattern_bytes_max",
        limit: Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH,
        untrusted: 256,
        trusted: 50_000,
        ceiling: 50_000,
    },
];

/// How SQLite begins to say that a query is beyond a bound. More specific beginnings come first.
const MESSAGES: &[(&str, Bound)] = &[
    ("the query is too long", Bound::QueryBytes),
    ("statement too long", Bound::QueryBytes),
    ("string or blob too big", Bound::CellBytes),
    ("too many terms in compound SELECT", Bound::CompoundParts),
    ("too many terms in ", Bound::Columns),
    ("too many columns ", Bound::Columns),
    ("too many SQL variables", Bound::Parameters),
    ("variable number must be between", Bound::Parameters),
    ("too many arguments on function", Bound::FunctionArguments),
    ("Expression tree is too large", Bound::ExpressionDepth),
    ("VIEWs and/or subqueries nested too deep", Bound::ExpressionDepth),
    ("LIKE or GLOB pattern too complex", Bound::PatternBytes),
];

impl Bound {
    const fn line(self) -> &'static Line {
        &TABLE[self as usize]
    }

    /// The name of the setting.
    pub(super) const fn setting(self) -> &'static str {
        self.line().setting
    }

    /// The highest value that may be set.
    pub(super) const fn ceiling(self) -> i32 {
        self.line().ceiling
    }

    /// The bound that a message of SQLite is about.
    pub(super) fn of_message(message: &str) -> Option<Self> {
        let found = MESSAGES.iter().find(|(start, _)| message.starts_with(start));
        found.map(|(_, bound)| *bound)
    }
}

/// What was set by name, whatever the profile.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Chosen([Option<u32>; N_BOUNDS]);

impl Chosen {
    pub(super) fn set(&mut self, bound: Bound, value: u32) {
        self.0[bound as usize] = Some(value);
    }
}

/// A value for each [`Bound`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds([i32; N_BOUNDS]);

impl Bounds {
    /// The profile's values but for what was `chosen`, which lies between 1 and the ceiling: SQLite takes 0 for no limit.
    pub(super) fn new(profile: SqliteProfile, chosen: &Chosen) -> Self {
        let mut values = TABLE.each_ref().map(|line| match profile {
            SqliteProfile::Untrusted => line.untrusted,
            SqliteProfile::Trusted => line.trusted,
        });
        for ((value, chosen), line) in values.iter_mut().zip(chosen.0).zip(&TABLE) {
            if let Some(chosen) = chosen {
                *value = i32::try_from(chosen).unwrap_or(i32::MAX).clamp(1, line.ceiling);
            }
        }
        Self(values)
    }

    pub(super) fn of(&self, bound: Bound) -> i32 {
        self.0[bound as usize]
    }

    /// Sets SQLite's limits. The schema has to be loaded before: it is read under the same limits, and one table with more columns
    /// would make the whole database unreadable.
    pub(super) fn set(&self, connection: &Connection) -> rusqlite::Result<()> {
        for (line, value) in TABLE.iter().zip(self.0) {
            connection.set_limit(line.limit, value)?;
        }
        // Reading fires no trigger, needs no other database and starts no thread.
        for (limit, value) in [
            (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 10),
            (Limit::SQLITE_LIMIT_ATTACHED, 0),
            (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
        ] {
            connection.set_limit(limit, value)?;
        }
        Ok(())
    }
}

/// What a connection allows: for setting it up, and for the words of its errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rules {
    pub(super) profile: SqliteProfile,
    pub(super) bounds: Bounds,
}

impl Rules {
    /// Whether temporary files are memory, so that a full one is not a full disk. Trusted queries may sort more than memory holds.
    pub(super) fn sorts_in_memory(&self) -> bool {
        self.profile == SqliteProfile::Untrusted
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

    use super::*;

    /// The ceilings are those of the SQLite that is compiled in.
    #[test]
    fn sqlite_takes_every_value_as_it_is() {
        let connection = Connection::open_in_memory().unwrap();
        for profile in [SqliteProfile::Untrusted, SqliteProfile::Trusted] {
            Bounds::new(profile, &Chosen::default()).set(&connection).unwrap();
            for line in &TABLE {
                let value = match profile {
                    SqliteProfile::Untrusted => line.untrusted,
                    SqliteProfile::Trusted => line.trusted,
                };
                assert_eq!(connection.limit(line.limit).unwrap(), value, "{}", line.setting);
                assert!(value <= line.ceiling, "{}", line.setting);
                connection.set_limit(line.limit, i32::MAX).unwrap();
                assert!(
                    connection.limit(line.limit).unwrap() >= line.ceiling,
                    "{}",
                    line.setting
                );
            }
        }
    }

    #[test]
    fn what_is_set_stays_between_one_and_the_ceiling() {
        let mut chosen = Chosen::default();
        chosen.set(Bound::ExpressionDepth, 0);
        chosen.set(Bound::Columns, u32::MAX);
        chosen.set(Bound::CellBytes, 5);
        let bounds = Bounds::new(SqliteProfile::Untrusted, &chosen);
        assert_eq!(bounds.of(Bound::ExpressionDepth), 1);
        assert_eq!(bounds.of(Bound::Columns), 2_000);
        assert_eq!(bounds.of(Bound::CellBytes), 5);
        assert_eq!(bounds.of(Bound::PatternBytes), 256);
    }

    #[test]
    fn each_bound_names_its_own_setting() {
        assert_eq!(Bound::QueryBytes.setting(), "sqlite_query_bytes_max");
        assert_eq!(Bound::PatternBytes.setting(), "sqlite_pattern_bytes_max");
        assert_eq!(Bound::Operations.setting(), "sqlite_operations_max");
        assert_eq!(
            Bound::of_message("too many terms in compound SELECT"),
            Some(Bound::CompoundParts)
        );
        assert_eq!(
            Bound::of_message("too many terms in ORDER BY clause"),
            Some(Bound::Columns)
        );
        assert_eq!(Bound::of_message("no such table: t"), None);
    }
}
