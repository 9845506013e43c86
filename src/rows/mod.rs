//! Rows on their way out: what columns are, what values are, and the writer that engines put rows into.
//!
//! Must not know engines or the envelopes of the wire.

#[cfg(feature = "arrow")]
mod arrow;
mod cell;
mod error;
mod json;
mod number;
mod schema;
mod text;
mod writer;

use serde::{Deserialize, Serialize};

pub(crate) use cell::{CellSink, RowSource};
pub use error::RowError;
pub use schema::{Column, ColumnType, Schema};
pub use writer::RowWriter;
pub(crate) use writer::{BatchLimits, FilledBatch, FlushSink, RowShape};

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
