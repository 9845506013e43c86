//! What the declared type of a column says about its values.
//!
//! SQLite itself goes by fragments of the name (sqlite.org/datatype3.html section 3.1): to it, POINT is an integer and ENUM a number. That rules
//! how it stores values and says little about them, so that here a name counts as a whole.

use crate::rows::ColumnType;

/// The names that databases use, in upper case, without lengths, UNSIGNED and its kind.
///
/// NUMERIC and its synonyms are doubles: SQLite stores their values as integers or doubles. NUM is missing on purpose: it is what
/// `CREATE TABLE … AS SELECT` makes of DATE, DECIMAL, BOOLEAN and everything else that it has no affinity of its own for.
const NAMES: [(&[&str], ColumnType); 12] = [
    (
        &[
            "INT",
            "INTEGER",
            "TINYINT",
            "SMALLINT",
            "MEDIUMINT",
            "BIGINT",
            "BIG INT",
            "LONG",
            "INT2",
            "INT4",
            "INT8",
            "INT16",
            "INT32",
            "INT64",
            "SERIAL",
            "SMALLSERIAL",
            "BIGSERIAL",
            "SERIAL2",
            "SERIAL4",
            "SERIAL8",
        ],
        ColumnType::Int64,
    ),
    (
        &[
            "REAL",
            "FLOAT",
            "DOUBLE",
            "DOUBLE PRECISION",
            "FLOAT4",
            "FLOAT8",
            "FLOAT32",
            "FLOAT64",
            "NUMERIC",
            "DECIMAL",
            "DEC",
            "NUMBER",
        ],
        ColumnType::Float64,
    ),
    (
        &[
            "TEXT",
            "TINYTEXT",
            "MEDIUMTEXT",
            "LONGTEXT",
            "NTEXT",
            "CITEXT",
            "STRING",
            "CLOB",
            "NCLOB",
            "CHAR",
            "CHARACTER",
            "BPCHAR",
            "VARCHAR",
            "VARCHAR2",
            "LONGVARCHAR",
            "CHAR VARYING",
            "CHARACTER VARYING",
            "VARYING CHARACTER",
            "NCHAR",
            "NATIVE CHARACTER",
            "NATIONAL CHARACTER",
            "NATIONAL CHARACTER VARYING",
            "NVARCHAR",
            "NVARCHAR2",
        ],
        ColumnType::Text,
    ),
    (
        &[
            "BLOB",
            "TINYBLOB",
            "MEDIUMBLOB",
            "LONGBLOB",
            "BYTEA",
            "BINARY",
            "VARBINARY",
            "BINARY VARYING",
            "LONGVARBINARY",
        ],
        ColumnType::Blob,
    ),
    (&["BOOL", "BOOLEAN"], ColumnType::Boolean),
    (&["DATE"], ColumnType::Date),
    (&["TIME", "TIME WITHOUT TIME ZONE"], ColumnType::Time),
    (
        &["DATETIME", "TIMESTAMP", "TIMESTAMP WITHOUT TIME ZONE"],
        ColumnType::Timestamp,
    ),
    (&["TIMESTAMPTZ", "TIMESTAMP WITH TIME ZONE"], ColumnType::TimestampTz),
    (&["JSON", "JSONB"], ColumnType::Json),
    (&["UUID"], ColumnType::Uuid),
    (&["ANY", ""], ColumnType::Any),
];

/// Words that a number's name may have in front of it or behind it, as MySQL writes them.
const MODIFIERS: [&str; 3] = ["UNSIGNED", "SIGNED", "ZEROFILL"];

/// The type that `declared` names. `Any` for a name that is not known.
pub(super) fn type_of(declared: &str) -> ColumnType {
    let name = normalized(declared);
    let find = |name: &str| NAMES.iter().find(|(names, _)| names.contains(&name)).map(|(_, ty)| *ty);
    if let Some(ty) = find(&name) {
        return ty;
    }
    let words: Vec<&str> = name.split(' ').filter(|word| !MODIFIERS.contains(word)).collect();
    let is_number = |ty: &ColumnType| matches!(ty, ColumnType::Int64 | ColumnType::Float64);
    find(&words.join(" ")).filter(is_number).unwrap_or(ColumnType::Any)
}

/// Upper case, one blank between words, no quotes, and nothing of what stands in parentheses.
fn normalized(declared: &str) -> String {
    let mut depth = 0_u32;
    let mut bare = String::with_capacity(declared.len());
    for letter in declared.chars() {
        match letter {
            '(' => {
                depth += 1;
                bare.push(' ');
            }
            ')' => depth = depth.saturating_sub(1),
            '"' | '`' | '[' | ']' => {}
            letter if depth == 0 => bare.push(letter.to_ascii_uppercase()),
            _ => {}
        }
    }
    bare.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(expected: ColumnType, names: &[&str]) {
        for name in names {
            assert_eq!(type_of(name), expected, "{name}");
        }
    }

    #[test]
    fn names_that_databases_use_are_known_as_whole_words() {
        check(
            ColumnType::Int64,
            &[
                "INT",
                "integer",
                "Int(11)",
                "TINYINT(1)",
                "SMALLINT",
                "MEDIUMINT",
                "BIGINT",
                "UNSIGNED BIG INT",
                "BIGINT UNSIGNED",
                "int(10) unsigned zerofill",
                "\"INTEGER\"",
                "[int]",
                "INT2",
                "INT8",
                "LONG",
                "SERIAL",
                "BIGSERIAL",
            ],
        );
        check(
            ColumnType::Float64,
            &[
                "REAL",
                "FLOAT",
                "float(24)",
                "DOUBLE",
                "DOUBLE  PRECISION",
                "double\nprecision",
                "FLOAT8",
                "NUMERIC",
                "NUMERIC(10,2)",
                "NUMERIC ( 10 , 2 )",
                "DECIMAL(10,5)",
                "DECIMAL(5,2) UNSIGNED",
                "DEC",
                "NUMBER(38)",
            ],
        );
        check(
            ColumnType::Text,
            &[
                "TEXT",
                "CHARACTER(20)",
                "VARCHAR(255)",
                "VARYING CHARACTER(255)",
                "character varying(20)",
                "NCHAR(55)",
                "NATIVE CHARACTER(70)",
                "NVARCHAR(100)",
                "nvarchar(max)",
                "CLOB",
                "STRING",
                "LONGVARCHAR",
                "mediumtext",
            ],
        );
        check(ColumnType::Blob, &["BLOB", "bytea", "VARBINARY(16)", "LONGBLOB"]);
        check(ColumnType::Boolean, &["BOOL", "boolean"]);
        check(ColumnType::Date, &["DATE"]);
        check(ColumnType::Time, &["TIME", "TIME(6)", "time without time zone"]);
        check(
            ColumnType::Timestamp,
            &["DATETIME", "datetime(6)", "TIMESTAMP", "TIMESTAMP(3) WITHOUT TIME ZONE"],
        );
        check(
            ColumnType::TimestampTz,
            &[
                "TIMESTAMPTZ",
                "timestamp with time zone",
                "TIMESTAMP (6) WITH TIME ZONE",
            ],
        );
        check(ColumnType::Json, &["JSON", "JSONB"]);
        check(ColumnType::Uuid, &["UUID"]);
    }

    #[test]
    fn a_fragment_of_a_name_says_nothing() {
        check(
            ColumnType::Any,
            &[
                "",
                "()",
                "ANY",
                "NUM",
                "ENUM",
                "ENUM('a','b')",
                "POINT",
                "FLOATING POINT",
                "LAST_UPDATED",
                "TIMESPAN",
                "PHONENUMBER",
                "INTERVALTEXT",
                "INTERVAL",
                "INTEGER_OR_TEXT",
                "INTEGER OR TEXT",
                "BOOLEANISH",
                "UNSIGNED TEXT",
                "UNSIGNED",
                "MULTIPOLYGON",
                "XML",
                "DATE OF BIRTH",
                "TIME WITH TIME ZONE",
                "ДАТА",
            ],
        );
    }
}
