//! What a result's columns are called and what they hold.
//!
//! Owns the labels: every column has one, unique in its result, so that rows sent as objects never overwrite a cell.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::Int64Encoding;

/// What kind of value a column declares. A stable set: engines map their own types onto it and keep theirs in
/// [`Column::db_type`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ColumnType {
    /// A 64-bit signed integer.
    Int64,
    /// An IEEE 754 double.
    Float64,
    /// An exact decimal number, sent as its digits.
    Decimal,
    /// UTF-8 text.
    Text,
    /// Bytes, sent as padded standard base64.
    Blob,
    /// True or false.
    Boolean,
    /// A calendar date.
    Date,
    /// A time of day.
    Time,
    /// A date and time of day without a zone.
    Timestamp,
    /// A point in time.
    TimestampTz,
    /// A JSON document.
    Json,
    /// A UUID.
    Uuid,
    /// Nothing is declared: each cell says for itself.
    Any,
}

impl ColumnType {
    /// What it is called on the wire.
    pub(crate) fn wire_name(self) -> &'static str {
        match self {
            Self::Int64 => "int64",
            Self::Float64 => "float64",
            Self::Decimal => "decimal",
            Self::Text => "text",
            Self::Blob => "blob",
            Self::Boolean => "boolean",
            Self::Date => "date",
            Self::Time => "time",
            Self::Timestamp => "timestamp",
            Self::TimestampTz => "timestamptz",
            Self::Json => "json",
            Self::Uuid => "uuid",
            Self::Any => "any",
        }
    }
}

/// One column of a result. `ty` is what the engine *declares*; SQLite's cells may hold something else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Column {
    /// The name as the engine gave it; may be empty or occur twice.
    pub name: String,
    /// Unique among the result's columns (`a`, `a_2`, …): the key in rows sent as objects.
    pub label: String,
    /// The declared kind of value.
    #[serde(rename = "type")]
    pub ty: ColumnType,
    /// The engine's own name for the type, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub db_type: Option<String>,
    /// Whether a cell can be NULL, where the engine knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nullable: Option<bool>,
    /// How cells are written where JSON alone does not say it, e.g. `base64`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
}

impl Column {
    /// A column called `name`. [`Schema::new`] makes its label unique.
    #[must_use]
    pub fn new(name: impl Into<String>, ty: ColumnType) -> Self {
        let name = name.into();
        Self {
            label: name.clone(),
            name,
            ty,
            db_type: None,
            nullable: None,
            encoding: (ty == ColumnType::Blob).then(|| "base64".to_owned()),
        }
    }

    /// The same column with the engine's own name for its type.
    #[must_use]
    pub fn with_db_type(mut self, db_type: impl Into<String>) -> Self {
        self.db_type = Some(db_type.into());
        self
    }
}

/// The columns of one result, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "Columns"))]
#[serde(transparent)]
pub struct Schema {
    columns: Vec<Column>,
}

impl Schema {
    /// The columns with labels made unique: the first column of a name keeps it, the next gets `_2`, and so on;
    /// a column without a name is called `column_N` after its 1-based position.
    #[must_use]
    pub fn new(mut columns: Vec<Column>) -> Self {
        let names: HashSet<String> = columns.iter().map(|column| column.name.clone()).collect();
        let mut taken = HashSet::with_capacity(columns.len());
        for (idx, column) in columns.iter_mut().enumerate() {
            let base = if column.name.is_empty() {
                format!("column_{}", idx + 1)
            } else {
                column.name.clone()
            };
            let mut label = base.clone();
            let mut n = 2_usize;
            // A made-up label must not take the name of a column still to come.
            while taken.contains(&label) || (label != column.name && names.contains(&label)) {
                label = format!("{base}_{n}");
                n += 1;
            }
            taken.insert(label.clone());
            column.label = label;
        }
        Self { columns }
    }

    /// The same columns, that say how the client wants integers written where that is not as JSON numbers.
    #[must_use]
    pub(crate) fn with_int64(mut self, int64: Int64Encoding) -> Self {
        let encoding = match int64 {
            Int64Encoding::Number => return self,
            Int64Encoding::String => "string",
            Int64Encoding::Safe => "safe",
        };
        for column in &mut self.columns {
            if column.ty == ColumnType::Int64 {
                column.encoding = Some(encoding.to_owned());
            }
        }
        self
    }

    /// The columns, in order.
    #[must_use]
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// How many columns there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.columns.len()
    }

    /// Whether there is no column at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.columns.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(names: &[&str], expected: &[&str]) {
        let columns = names.iter().map(|name| Column::new(*name, ColumnType::Any));
        let schema = Schema::new(columns.collect());
        let labels: Vec<_> = schema.columns().iter().map(|c| c.label.as_str()).collect();
        assert_eq!(labels, expected);
    }

    #[test]
    fn labels_are_unique_whatever_the_names() {
        check(&["a", "b"], &["a", "b"]);
        check(&["a", "a", "a"], &["a", "a_2", "a_3"]);
        check(&["a", "a", "a_2"], &["a", "a_3", "a_2"]);
        check(&["", "x", ""], &["column_1", "x", "column_3"]);
        check(&["", "column_1"], &["column_1_2", "column_1"]);
    }
}
