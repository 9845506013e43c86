//! Rows on their way out: what columns are, what values are, and the writer that engines put rows into.
//!
//! Must not know engines or the envelopes of the wire.

#[cfg(feature = "arrow")]
mod arrow;
mod cell;
mod checked;
mod encoder;
mod error;
mod json;
mod marks;
mod number;
mod schema;
mod text;
mod writer;
#[cfg(test)]
mod writer_test;

use serde::{Deserialize, Serialize};

pub(crate) use cell::{CellSink, RowSource};
pub(crate) use encoder::RowShape;
pub use error::RowError;
pub(crate) use number::non_finite;
pub use schema::{Column, ColumnType, Schema};
pub use writer::RowWriter;
pub(crate) use writer::{BatchLimits, FilledBatch, FlushSink};

/// A value on its way into an engine: one parameter of a query, one cell of a scripted row.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// SQL NULL.
    Null,
    /// True or false; engines without the type store 1 or 0.
    Boolean(bool),
    /// A 64-bit signed integer.
    Integer(i64),
    /// An IEEE 754 double.
    Real(f64),
    /// UTF-8 text.
    Text(String),
    /// Bytes.
    Blob(Vec<u8>),
}

macro_rules! value_from {
    ($($from:ty => $variant:ident),* $(,)?) => {$(
        impl From<$from> for Value {
            fn from(value: $from) -> Self {
                Self::$variant(value.into())
            }
        }
    )*};
}

value_from!(bool => Boolean, i64 => Integer, i32 => Integer, f64 => Real, String => Text, &str => Text, Vec<u8> => Blob);

/// The parameters of one query.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub enum Params {
    /// None at all.
    #[default]
    None,
    /// Bound to the first, second, … parameter of the query.
    Positional(Vec<Value>),
    /// Bound by name, without the engine's sigil (`:`, `@`, `$`).
    Named(Vec<(String, Value)>),
}

/// How one row is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum RowFormat {
    /// `{"label": cell, …}`: the default.
    #[default]
    Object,
    /// `[cell, …]`, in the order of the columns.
    Array,
}

/// How a 64-bit integer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Int64Encoding {
    /// Exact digits as a JSON number: the default. JavaScript's `JSON.parse` rounds them beyond ±(2^53-1).
    #[default]
    Number,
    /// Every integer as a string.
    String,
    /// A number within ±(2^53-1), a string beyond.
    Safe,
}

/// What becomes of a text that is not UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum TextErrors {
    /// The stream ends with an error that names the cell: the default.
    #[default]
    Fail,
    /// Each part that is not UTF-8 is replaced by U+FFFD.
    Replace,
    /// The cell is written as a blob.
    Blob,
}

/// What becomes of a column whose cells have no Arrow type in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ArrowMixed {
    /// The stream ends with an error that names the first cell that does not fit: the default.
    #[default]
    Fail,
    /// Every column is text, or binary where blobs are declared: no cell can fail to fit.
    Text,
}

/// Per-query options of how cells are written, in every format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct CellRules {
    /// What becomes of a text that is not UTF-8.
    pub(crate) text_errors: TextErrors,
    /// Whether cells that are not what their column says are marked.
    pub(crate) cell_types: bool,
}

impl CellRules {
    /// Whether no cell needs a look.
    pub(crate) fn are_default(self) -> bool {
        self == Self::default()
    }
}
