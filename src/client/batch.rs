//! Rows as they came: where each cell is in the batch's JSON, and its value on demand.
//!
//! Must not know connections or queries.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{DeserializeSeed, Deserializer as _, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::protocol::{BatchMessage, CellType};
use crate::rows::{ColumnType, RowFormat, Schema};

/// A few rows of a result, in order.
#[derive(Debug, Clone)]
pub struct Batch {
    number: u64,
    row_offset: u64,
    columns: Arc<Schema>,
    text: Box<RawValue>,
    /// Where in `text` each row is.
    rows: Vec<Span>,
    /// Where in `text` each cell is, row by row.
    cells: Vec<Span>,
    /// In the order of their cells.
    cell_types: Vec<CellType>,
}

/// A range of bytes; batches are smaller than 4 GiB.
type Span = (u32, u32);

impl Batch {
    /// Finds rows and cells in `message`, or says what is wrong with it.
    pub(crate) fn new(message: BatchMessage, columns: &Arc<Schema>, row_format: RowFormat) -> Result<Self, String> {
        let mut batch = Self {
            number: message.batch_number,
            row_offset: message.row_offset,
            columns: Arc::clone(columns),
            text: message.rows,
            rows: Vec::new(),
            cells: Vec::new(),
            cell_types: message.cell_types.unwrap_or_default(),
        };
        let text = batch.text.get();
        if u32::try_from(text.len()).is_err() {
            return Err(format!("batch {} has {} bytes", batch.number, text.len()));
        }
        let n_rows = usize::try_from(message.row_count).unwrap_or(usize::MAX);
        let seed = RowsSeed {
            finder: Finder {
                text,
                columns,
                row_format,
                // A row has two bytes at least, and a cell one with a comma or bracket: a wrong count allocates little.
                rows: Vec::with_capacity(n_rows.min(text.len() / 2)),
                cells: Vec::with_capacity(n_rows.saturating_mul(columns.len()).min(text.len() / 2)),
            },
        };
        let found = seed
            .deserialize(&mut serde_json::Deserializer::from_str(text))
            .map_err(|error| format!("batch {}: {error}", batch.number))?;
        if found.rows.len() != n_rows {
            return Err(format!(
                "batch {} says that it has {} rows and has {}",
                batch.number,
                message.row_count,
                found.rows.len()
            ));
        }
        (batch.rows, batch.cells) = (found.rows, found.cells);
        batch.check_cell_types()?;
        Ok(batch)
    }

    /// Marks are of cells that there are, each once and in order, so that they can be searched.
    fn check_cell_types(&self) -> Result<(), String> {
        let place = |mark: &CellType| (mark.row, mark.column);
        let is_there =
            |mark: &CellType| (mark.row as usize) < self.rows.len() && (mark.column as usize) < self.columns.len();
        if self.cell_types.is_sorted_by(|one, next| place(one) < place(next)) && self.cell_types.iter().all(is_there) {
            return Ok(());
        }
        Err(format!(
            "batch {}: cell_types are not of its cells, in their order",
            self.number
        ))
    }

    /// 0-based position of the batch in its result.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// 0-based position of the batch's first row in the result.
    #[must_use]
    pub fn row_offset(&self) -> u64 {
        self.row_offset
    }

    /// The result's columns.
    #[must_use]
    pub fn columns(&self) -> &Schema {
        &self.columns
    }

    /// How many rows the batch has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether the batch has no row at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The cells that are not what their column says, in order; empty unless the query asked for
    /// [`cell_types`](super::QueryBuilder::cell_types).
    #[must_use]
    pub fn cell_types(&self) -> &[CellType] {
        &self.cell_types
    }

    /// The rows, in order.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = Row<'_>> + DoubleEndedIterator {
        let n_columns = self.columns.len();
        self.rows.iter().enumerate().map(move |(idx, span)| Row {
            columns: &self.columns,
            text: self.text.get(),
            row: *span,
            cells: &self.cells[idx * n_columns..][..n_columns],
            cell_types: self.cell_types_of(idx),
        })
    }
}

impl Batch {
    /// The marks of one row.
    fn cell_types_of(&self, row_idx: usize) -> &[CellType] {
        let begins_at = |row_idx: usize| self.cell_types.partition_point(|mark| (mark.row as usize) < row_idx);
        if self.cell_types.is_empty() {
            return &[];
        }
        &self.cell_types[begins_at(row_idx)..begins_at(row_idx + 1)]
    }
}

/// One row of a [`Batch`].
///
/// ```
/// # use rowstream::{Client, MemoryEngine, Script, Server};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let engine = MemoryEngine::builder()
/// #     .query("people", Script::new(["name", "age"]).rows([vec!["Ada".into(), 36_i64.into()]]))
/// #     .build();
/// # let server = Server::builder().engine("memory", engine).listen("127.0.0.1:0").start()?;
/// # let client = Client::connect(&format!("ws://{}/ws", server.local_addr().ok_or("no listener")?))?;
/// for batch in client.query("people").start()? {
///     for row in batch?.rows() {
///         let name: String = row.get("name")?;
///         let age: Option<i64> = row.get(1)?;
///         assert_eq!((name.as_str(), age, row.json(1)?), ("Ada", Some(36), "36"));
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy)]
pub struct Row<'a> {
    columns: &'a Schema,
    text: &'a str,
    row: Span,
    cells: &'a [Span],
    cell_types: &'a [CellType],
}

impl<'a> Row<'a> {
    /// The result's columns.
    #[must_use]
    pub fn columns(&self) -> &'a Schema {
        self.columns
    }

    /// How many cells the row has: as many as there are columns.
    #[must_use]
    pub fn len(&self) -> usize {
        self.cells.len()
    }

    /// Whether the row has no cell at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// The whole row as the server wrote it: a JSON array, or an object where the query asked for objects.
    #[must_use]
    pub fn as_json(&self) -> &'a str {
        slice(self.text, self.row)
    }

    /// The cells' JSON as the server wrote it, in the order of the columns.
    pub fn cells(&self) -> impl ExactSizeIterator<Item = &'a str> + use<'a> {
        let text = self.text;
        self.cells.iter().map(move |span| slice(text, *span))
    }

    /// One cell's JSON as the server wrote it, every digit of it; by position or by label.
    ///
    /// # Errors
    /// [`CellError::NoSuchColumn`].
    pub fn json(&self, column: impl ColumnRef) -> Result<&'a str, CellError> {
        let span = column.find(self.columns).and_then(|idx| self.cells.get(idx));
        match span {
            Some(span) => Ok(slice(self.text, *span)),
            None => Err(CellError::NoSuchColumn(column.describe())),
        }
    }

    /// What a cell is, where it is not what its column says: `int64`, `float64`, `text`, `blob` or `boolean`. `None` for all others, and
    /// for every cell unless the query asked for [`cell_types`](super::QueryBuilder::cell_types).
    ///
    /// # Errors
    /// [`CellError::NoSuchColumn`].
    pub fn cell_type(&self, column: impl ColumnRef) -> Result<Option<ColumnType>, CellError> {
        let idx = column
            .find(self.columns)
            .ok_or_else(|| CellError::NoSuchColumn(column.describe()))?;
        let mark = self.cell_types.iter().find(|mark| mark.column as usize == idx);
        Ok(mark.map(|mark| mark.ty))
    }

    /// One cell's value, by position or by label: `i64`, `f64`, `bool`, `String`, `Cow<str>`, `Vec<u8>`, or an `Option` of
    /// one of them for cells that can be NULL. Where a cell's [type](Self::cell_type) is told, only what is of that type can be had.
    ///
    /// # Errors
    /// [`CellError`], when there is no such column or its cell holds something else.
    pub fn get<T: FromCell<'a>>(&self, column: impl ColumnRef) -> Result<T, CellError> {
        let json = self.json(&column)?;
        let ty = if self.cell_types.is_empty() {
            None
        } else {
            self.cell_type(&column)?
        };
        let value = if ty.is_none_or(T::is_of) {
            T::from_cell(json)
        } else {
            None
        };
        value.ok_or_else(|| match json {
            "null" => CellError::Null(column.describe()),
            _ => CellError::Type {
                column: column.describe(),
                wanted: T::WANTED,
                found: shortened(json),
            },
        })
    }
}

impl fmt::Debug for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Row").field(&self.as_json()).finish()
    }
}

/// Why a cell has no value of the type asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CellError {
    /// The result has no column of this label or at this position.
    NoSuchColumn(String),
    /// The cell is NULL; ask for an `Option`.
    Null(String),
    /// The cell holds something else, or a number beyond the type's range.
    Type {
        /// The column, as it was asked for.
        column: String,
        /// What was asked for.
        wanted: &'static str,
        /// The beginning of the cell's JSON.
        found: String,
    },
}

impl fmt::Display for CellError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchColumn(column) => write!(f, "the result has no column {column}"),
            Self::Null(column) => write!(f, "column {column} is NULL"),
            Self::Type { column, wanted, found } => write!(f, "column {column} holds {found}, which is not {wanted}"),
        }
    }
}

impl std::error::Error for CellError {}

/// How a column is named: by its 0-based position or by its label.
pub trait ColumnRef {
    /// The position of the column.
    fn find(&self, columns: &Schema) -> Option<usize>;

    /// The column as an error calls it.
    fn describe(&self) -> String;
}

impl ColumnRef for usize {
    fn find(&self, columns: &Schema) -> Option<usize> {
        (*self < columns.len()).then_some(*self)
    }

    /// Counted from 1, as people do.
    fn describe(&self) -> String {
        self.saturating_add(1).to_string()
    }
}

impl ColumnRef for str {
    fn find(&self, columns: &Schema) -> Option<usize> {
        columns.columns().iter().position(|column| column.label == self)
    }

    fn describe(&self) -> String {
        format!("{self:?}")
    }
}

impl<C: ColumnRef + ?Sized> ColumnRef for &C {
    fn find(&self, columns: &Schema) -> Option<usize> {
        (**self).find(columns)
    }

    fn describe(&self) -> String {
        (**self).describe()
    }
}

/// A type that [`Row::get`] can give.
pub trait FromCell<'a>: Sized {
    /// What the type takes, for errors: "an integer of 64 bits".
    const WANTED: &'static str;

    /// The value that a cell's JSON stands for, if it is of this type.
    fn from_cell(json: &'a str) -> Option<Self>;

    /// Whether it can be the value of a cell that is marked to be of this type. Defaults to true.
    #[must_use]
    fn is_of(ty: ColumnType) -> bool {
        let _ = ty;
        true
    }
}

impl FromCell<'_> for i64 {
    const WANTED: &'static str = "an integer of 64 bits";

    fn from_cell(json: &str) -> Option<Self> {
        // In quotes where the query asked for integers as strings.
        unquoted(json).unwrap_or(json).parse().ok()
    }

    fn is_of(ty: ColumnType) -> bool {
        ty == ColumnType::Int64
    }
}

impl FromCell<'_> for f64 {
    const WANTED: &'static str = "a number";

    fn from_cell(json: &str) -> Option<Self> {
        match unquoted(json) {
            Some("NaN") => Some(Self::NAN),
            Some("Infinity") => Some(Self::INFINITY),
            Some("-Infinity") => Some(Self::NEG_INFINITY),
            Some(_) => None,
            None => json.parse().ok(),
        }
    }

    fn is_of(ty: ColumnType) -> bool {
        matches!(ty, ColumnType::Float64 | ColumnType::Int64)
    }
}

impl FromCell<'_> for bool {
    const WANTED: &'static str = "true or false";

    fn from_cell(json: &str) -> Option<Self> {
        match json {
            "true" | "1" => Some(true),
            "false" | "0" => Some(false),
            _ => None,
        }
    }
}

impl<'a> FromCell<'a> for Cow<'a, str> {
    const WANTED: &'static str = "text";

    fn from_cell(json: &'a str) -> Option<Self> {
        let inner = unquoted(json)?;
        if inner.contains('\\') {
            serde_json::from_str(json).ok().map(Cow::Owned)
        } else {
            Some(Cow::Borrowed(inner))
        }
    }

    fn is_of(ty: ColumnType) -> bool {
        ty == ColumnType::Text
    }
}

impl FromCell<'_> for String {
    const WANTED: &'static str = "text";

    fn from_cell(json: &str) -> Option<Self> {
        Cow::from_cell(json).map(Cow::into_owned)
    }

    fn is_of(ty: ColumnType) -> bool {
        ty == ColumnType::Text
    }
}

/// Bytes, which travel as base64.
impl FromCell<'_> for Vec<u8> {
    const WANTED: &'static str = "bytes in base64";

    fn from_cell(json: &str) -> Option<Self> {
        STANDARD.decode(unquoted(json)?).ok()
    }

    fn is_of(ty: ColumnType) -> bool {
        ty == ColumnType::Blob
    }
}

impl<'a, T: FromCell<'a>> FromCell<'a> for Option<T> {
    const WANTED: &'static str = T::WANTED;

    fn from_cell(json: &'a str) -> Option<Self> {
        match json {
            "null" => Some(None),
            json => T::from_cell(json).map(Some),
        }
    }

    fn is_of(ty: ColumnType) -> bool {
        T::is_of(ty)
    }
}

/// What is between the quotes of a JSON string, escapes and all.
fn unquoted(json: &str) -> Option<&str> {
    json.strip_prefix('"')?.strip_suffix('"')
}

fn shortened(json: &str) -> String {
    const BYTES_MAX: usize = 40;
    let shown = &json[..json.floor_char_boundary(BYTES_MAX)];
    let ellipsis = if shown.len() < json.len() { "…" } else { "" };
    format!("{shown}{ellipsis}")
}

fn slice(text: &str, (start, end): Span) -> &str {
    // Spans were taken from this text, at the borders of its JSON values.
    &text[Range {
        start: start as usize,
        end: end as usize,
    }]
}

/// Collects the spans of rows and cells in one pass over the JSON.
struct Finder<'a> {
    text: &'a str,
    columns: &'a Schema,
    row_format: RowFormat,
    rows: Vec<Span>,
    cells: Vec<Span>,
}

impl Finder<'_> {
    /// Where `value` is, which was borrowed from the text.
    fn span(&self, value: &str) -> Span {
        let start = value.as_ptr() as usize - self.text.as_ptr() as usize;
        // The caller has made sure that the text is short enough.
        (start as u32, (start + value.len()) as u32)
    }
}

struct RowsSeed<'a> {
    finder: Finder<'a>,
}

impl<'a> DeserializeSeed<'a> for RowsSeed<'a> {
    type Value = Finder<'a>;

    fn deserialize<D: serde::Deserializer<'a>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'a> Visitor<'a> for RowsSeed<'a> {
    type Value = Finder<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of rows")
    }

    fn visit_seq<A: SeqAccess<'a>>(mut self, mut rows: A) -> Result<Self::Value, A::Error> {
        while let Some(row) = rows.next_element::<&RawValue>()? {
            let span = self.finder.span(row.get());
            self.finder.rows.push(span);
            let mut json = serde_json::Deserializer::from_str(row.get());
            let seed = CellsVisitor(&mut self.finder);
            let found = match seed.0.row_format {
                RowFormat::Array => json.deserialize_seq(seed),
                RowFormat::Object => json.deserialize_map(seed),
            };
            found.map_err(|error| A::Error::custom(format!("row {} of the batch: {error}", self.finder.rows.len())))?;
        }
        Ok(self.finder)
    }
}

struct CellsVisitor<'f, 'a>(&'f mut Finder<'a>);

impl<'a> Visitor<'a> for CellsVisitor<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.0.row_format {
            RowFormat::Array => "array",
            RowFormat::Object => "object",
        };
        write!(f, "an {kind} of {} cells", self.0.columns.len())
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut cells: A) -> Result<(), A::Error> {
        let first = self.0.cells.len();
        while let Some(cell) = cells.next_element::<&RawValue>()? {
            self.0.cells.push(self.0.span(cell.get()));
        }
        let n_cells = self.0.cells.len() - first;
        if n_cells == self.0.columns.len() {
            Ok(())
        } else {
            Err(A::Error::invalid_length(n_cells, &self))
        }
    }

    fn visit_map<A: MapAccess<'a>>(self, mut cells: A) -> Result<(), A::Error> {
        const NOT_SEEN: Span = (0, 0);
        let columns = self.0.columns.columns();
        let first = self.0.cells.len();
        self.0.cells.resize(first + columns.len(), NOT_SEEN);
        let mut n_cells = 0;
        while let Some((Label(label), cell)) = cells.next_entry::<Label<'a>, &RawValue>()? {
            // Servers write the cells in the order of the columns.
            let idx = match columns.get(n_cells) {
                Some(column) if column.label == label => n_cells,
                _ => columns
                    .iter()
                    .position(|column| column.label == label)
                    .ok_or_else(|| A::Error::custom(format!("there is no column {label:?}")))?,
            };
            self.0.cells[first + idx] = self.0.span(cell.get());
            n_cells += 1;
        }
        if self.0.cells[first..].contains(&NOT_SEEN) {
            return Err(A::Error::invalid_length(n_cells, &self));
        }
        Ok(())
    }
}

/// A key, borrowed where it has no escapes.
#[derive(serde::Deserialize)]
#[serde(transparent)]
struct Label<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(all(test, feature = "cli"))] // for the tests of the output formats
impl Batch {
    /// Batches with these rows, each a JSON array of arrays: for tests of what is done with batches.
    #[allow(clippy::unwrap_used)] // a failed unwrap is a test's mistake
    pub(crate) fn sequence(columns: &Schema, batches: &[&str]) -> Vec<Self> {
        let columns = Arc::new(columns.clone());
        let mut row_offset = 0;
        let batch = |(number, rows): (usize, &&str)| {
            let rows_json: Vec<&RawValue> = serde_json::from_str(rows).unwrap();
            let row_count = rows_json.len() as u64;
            let message = BatchMessage {
                stream_id: crate::id::StreamId::random(),
                request_id: None,
                batch_number: number as u64,
                rows: RawValue::from_string((*rows).to_owned()).unwrap(),
                has_more: true,
                row_count,
                row_offset,
                checksum: None,
                cell_types: None,
                replay: false,
            };
            row_offset += row_count;
            Self::new(message, &columns, RowFormat::Array).unwrap()
        };
        batches.iter().enumerate().map(batch).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

    use super::*;
    use crate::id::StreamId;
    use crate::rows::{Column, ColumnType};

    fn batch_of(labels: &[&str], row_format: RowFormat, row_count: u64, rows: &str) -> Result<Batch, String> {
        let columns = labels
            .iter()
            .map(|label| Column::new(*label, ColumnType::Any))
            .collect();
        let message = BatchMessage {
            stream_id: StreamId::random(),
            request_id: None,
            batch_number: 3,
            rows: RawValue::from_string(rows.to_owned()).unwrap(),
            has_more: true,
            row_count,
            row_offset: 300,
            checksum: None,
            cell_types: None,
            replay: false,
        };
        Batch::new(message, &Arc::new(Schema::new(columns)), row_format)
    }

    fn cells(batch: &Batch) -> Vec<Vec<&str>> {
        batch.rows().map(|row| row.cells().collect()).collect()
    }

    #[test]
    fn cells_are_found_in_both_row_formats() {
        let arrays = batch_of(&["a", "b"], RowFormat::Array, 2, r#"[[1,"x],[\"]"], [ 1e400 , null ]]"#).unwrap();
        assert_eq!(cells(&arrays), [["1", r#""x],[\"]""#], ["1e400", "null"]]);
        assert_eq!((arrays.number(), arrays.row_offset(), arrays.len()), (3, 300, 2));
        assert_eq!(arrays.rows().nth(1).unwrap().as_json(), "[ 1e400 , null ]");

        let objects = batch_of(
            &["a", "q\"é"],
            RowFormat::Object,
            3,
            r#"[{"a":1,"q\"é":2},{"q\"\u00e9":4,"a":3},{"a":[{}],"q\"é":{"a":7}}]"#,
        )
        .unwrap();
        assert_eq!(cells(&objects), [["1", "2"], ["3", "4"], ["[{}]", r#"{"a":7}"#]]);

        let none = batch_of(&["a"], RowFormat::Array, 0, "[]").unwrap();
        assert!(none.is_empty());
        let no_columns = batch_of(&[], RowFormat::Array, 2, "[[],[]]").unwrap();
        assert_eq!(cells(&no_columns), [[""; 0]; 2]);
    }

    #[track_caller]
    fn check_refused(row_format: RowFormat, row_count: u64, rows: &str, says: &str) {
        let error = batch_of(&["a", "b"], row_format, row_count, rows).unwrap_err();
        assert!(error.contains("batch 3") && error.contains(says), "{rows}: {error}");
    }

    #[test]
    fn batches_of_another_shape_are_refused() {
        check_refused(RowFormat::Array, 1, "{}", "array of rows");
        check_refused(RowFormat::Array, 1, "[[1,2],[3]]", "row 2 of the batch");
        check_refused(RowFormat::Array, 1, "[[1,2,3]]", "3");
        check_refused(RowFormat::Array, 1, r#"[{"a":1,"b":2}]"#, "array of 2 cells");
        check_refused(RowFormat::Array, u64::MAX, "[[1,2]]", "has 1");
        check_refused(RowFormat::Object, 1, r#"[{"a":1}]"#, "object of 2 cells");
        check_refused(RowFormat::Object, 1, r#"[{"a":1,"a":2}]"#, "object of 2 cells");
        check_refused(RowFormat::Object, 1, r#"[{"a":1,"b":2,"c":3}]"#, "no column \"c\"");
        check_refused(RowFormat::Object, 1, "[[1,2]]", "object of 2 cells");
    }

    #[track_caller]
    fn check<T>(json: &str, expected: Option<T>)
    where
        T: for<'a> FromCell<'a> + PartialEq + fmt::Debug,
    {
        let batch = batch_of(&["c"], RowFormat::Array, 1, &format!("[[{json}]]")).unwrap();
        let row = batch.rows().next().unwrap();
        assert_eq!(row.get::<T>(0).ok(), expected, "{json} by position");
        assert_eq!(row.get::<T>("c").ok(), expected, "{json} by label");
        assert_eq!(row.json("c").unwrap(), json);
    }

    #[test]
    fn cells_have_the_value_asked_for_or_none() {
        check::<i64>("-9223372036854775808", Some(i64::MIN));
        check::<i64>("9223372036854775807", Some(i64::MAX));
        check::<i64>("\"9223372036854775807\"", Some(i64::MAX));
        check::<i64>("9223372036854775808", None);
        check::<i64>("1.0", None);
        check::<i64>("true", None);
        check::<i64>("null", None);
        check::<Option<i64>>("null", Some(None));
        check::<Option<i64>>("7", Some(Some(7)));
        check::<Option<i64>>("\"x\"", None);
        check::<f64>("1", Some(1.0));
        check::<f64>("-1.5e-3", Some(-0.0015));
        check::<f64>("\"-Infinity\"", Some(f64::NEG_INFINITY));
        check::<f64>("\"1\"", None);
        check::<bool>("true", Some(true));
        check::<bool>("0", Some(false));
        check::<bool>("2", None);
        check::<String>(r#""plain é""#, Some("plain é".to_owned()));
        check::<String>(r#""\u0000\n\"\\""#, Some("\0\n\"\\".to_owned()));
        check::<String>("7", None);
        check::<Vec<u8>>("\"AP8=\"", Some(vec![0, 255]));
        check::<Vec<u8>>("\"\"", Some(vec![]));
        check::<Vec<u8>>("\"AP8\"", None);
    }

    #[test]
    fn errors_name_column_and_cell() {
        let batch = batch_of(
            &["a", "b"],
            RowFormat::Array,
            1,
            r#"[["long text that goes on and on, and on, and on",null]]"#,
        )
        .unwrap();
        let row = batch.rows().next().unwrap();
        let says = |error: CellError| error.to_string();
        assert_eq!(says(row.get::<i64>(2).unwrap_err()), "the result has no column 3");
        assert_eq!(says(row.get::<i64>(1).unwrap_err()), "column 2 is NULL");
        assert_eq!(says(row.get::<i64>("x").unwrap_err()), "the result has no column \"x\"");
        assert_eq!(says(row.get::<i64>("b").unwrap_err()), "column \"b\" is NULL");
        assert_eq!(
            says(row.get::<i64>("a").unwrap_err()),
            "column \"a\" holds \"long text that goes on and on, and on, …, which is not an integer of 64 bits"
        );
        let text: Cow<'_, str> = row.get("a").unwrap();
        assert!(matches!(text, Cow::Borrowed(_)));
    }
}
