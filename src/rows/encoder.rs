//! The encodings of rows, and the choice between them.
//!
//! Must not know engines, where a batch closes, or the envelope around the rows.

#[cfg(feature = "arrow")]
use super::ArrowMixed;
#[cfg(feature = "arrow")]
use super::arrow::ArrowEncoder;
use super::cell::{Cell, CellError};
use super::checked::CheckedJson;
use super::json::{JsonEncoder, blob_len};
use super::{CellRules, Int64Encoding, RowFormat, Schema};

/// How rows are written: the encoding, and the columns it is for.
#[derive(Debug)]
pub(crate) struct RowShape {
    pub(super) columns: Schema,
    pub(super) encoder: Encoder,
}

impl RowShape {
    /// Rows as JSON.
    pub(crate) fn json(schema: &Schema, row_format: RowFormat, int64: Int64Encoding) -> Self {
        Self {
            columns: schema.clone(),
            encoder: Encoder::Json(JsonEncoder::new(schema, row_format, int64)),
        }
    }

    /// Rows as JSON, each cell looked at for what `rules` ask for.
    pub(crate) fn checked_json(schema: &Schema, row_format: RowFormat, int64: Int64Encoding, rules: CellRules) -> Self {
        let json = CheckedJson::new(schema, row_format, int64, rules);
        Self {
            columns: schema.clone(),
            encoder: Encoder::Other(Box::new(OtherEncoder::Json(json))),
        }
    }

    /// Each batch a piece of an Arrow IPC stream.
    #[cfg(feature = "arrow")]
    pub(crate) fn arrow(schema: &Schema, mixed: ArrowMixed, rules: CellRules) -> Self {
        let arrow = ArrowEncoder::new(schema, mixed, rules);
        Self {
            columns: schema.clone(),
            encoder: Encoder::Other(Box::new(OtherEncoder::Arrow(arrow))),
        }
    }
}

/// An encoding. Plain JSON is told apart from all others at once: it is what most streams ask for.
#[derive(Debug)]
pub(super) enum Encoder {
    Json(JsonEncoder),
    Other(Box<OtherEncoder>),
}

/// An encoding whose cells are handed over as [`Cell`]s.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // it is boxed as a whole
pub(super) enum OtherEncoder {
    Json(CheckedJson),
    #[cfg(feature = "arrow")]
    Arrow(ArrowEncoder),
}

/// A batch as it was encoded.
#[derive(Debug)]
pub(super) struct EncodedRows {
    /// Bytes at the end of the buffer that are its rows.
    pub(super) row_bytes: usize,
    /// Which cells are not what their column says, where that was asked for: a JSON array.
    pub(super) marks: Option<Vec<u8>>,
}

impl Encoder {
    /// Starts a batch behind what the buffer holds.
    pub(super) fn begin_batch(&mut self, buffer: Vec<u8>) {
        match self {
            Self::Json(json) => json.begin_batch(buffer),
            Self::Other(other) => match &mut **other {
                OtherEncoder::Json(checked) => checked.json.begin_batch(buffer),
                #[cfg(feature = "arrow")]
                OtherEncoder::Arrow(arrow) => arrow.begin_batch(buffer),
            },
        }
    }

    /// Starts a row behind `rows` others of the batch.
    #[inline]
    pub(super) fn begin_row(&mut self, rows: u32) {
        match self {
            Self::Json(json) => json.begin_row(rows == 0),
            Self::Other(other) => other.begin_row(rows),
        }
    }

    /// Ends a row of so many cells, and returns how many bytes the batch takes with it.
    #[inline]
    pub(super) fn end_row(&mut self, n_cells: usize) -> usize {
        match self {
            Self::Json(json) => json.end_row(n_cells),
            Self::Other(other) => other.end_row(n_cells),
        }
    }

    /// Takes back the row begun last. The rows before it have so many `bytes`.
    #[cold]
    pub(super) fn take_row_back(&mut self, bytes: usize) {
        match self {
            Self::Json(json) => json.truncate(bytes),
            Self::Other(other) => match &mut **other {
                OtherEncoder::Json(checked) => checked.take_row_back(),
                #[cfg(feature = "arrow")]
                OtherEncoder::Arrow(arrow) => arrow.take_row_back(),
            },
        }
    }

    /// Bytes that a blob takes.
    #[inline]
    pub(super) fn blob_len(&self, bytes: &[u8]) -> usize {
        match self {
            Self::Json(_) => blob_len(bytes),
            Self::Other(other) => match &**other {
                OtherEncoder::Json(_) => blob_len(bytes),
                #[cfg(feature = "arrow")]
                OtherEncoder::Arrow(_) => bytes.len(),
            },
        }
    }

    /// Appends the `rows` of the batch to its buffer, where they are not there already.
    #[cfg_attr(not(feature = "arrow"), allow(unused_variables))] // JSON's rows are in the buffer
    pub(super) fn close_batch(&mut self, rows: u32) -> EncodedRows {
        match self {
            Self::Json(json) => EncodedRows {
                row_bytes: json.rows_len(),
                marks: None,
            },
            Self::Other(other) => match &mut **other {
                OtherEncoder::Json(checked) => EncodedRows {
                    row_bytes: checked.json.rows_len(),
                    marks: checked.take_marks(),
                },
                #[cfg(feature = "arrow")]
                OtherEncoder::Arrow(arrow) => EncodedRows {
                    row_bytes: arrow.close_batch(rows),
                    marks: arrow.take_marks(),
                },
            },
        }
    }

    /// Forgets the batch; gives back its buffer.
    pub(super) fn take_buffer(&mut self) -> Vec<u8> {
        match self {
            Self::Json(json) => json.take_buffer(),
            Self::Other(other) => match &mut **other {
                OtherEncoder::Json(checked) => checked.take_buffer(),
                #[cfg(feature = "arrow")]
                OtherEncoder::Arrow(arrow) => arrow.take_buffer(),
            },
        }
    }

    /// The encoder of Arrow, where it is that, to ask it.
    #[cfg(feature = "arrow")]
    pub(super) fn arrow_ref(&self) -> Option<&ArrowEncoder> {
        match self {
            Self::Json(_) => None,
            Self::Other(other) => match &**other {
                OtherEncoder::Json(_) => None,
                OtherEncoder::Arrow(arrow) => Some(arrow),
            },
        }
    }

    /// The encoder of Arrow, where it is that.
    #[cfg(feature = "arrow")]
    pub(super) fn arrow(&mut self) -> Option<&mut ArrowEncoder> {
        match self {
            Self::Json(_) => None,
            Self::Other(other) => match &mut **other {
                OtherEncoder::Json(_) => None,
                OtherEncoder::Arrow(arrow) => Some(arrow),
            },
        }
    }
}

// Not inlined: plain JSON's way through a row stays short.
impl OtherEncoder {
    #[inline(never)]
    fn begin_row(&mut self, rows: u32) {
        match self {
            Self::Json(checked) => checked.begin_row(rows == 0),
            #[cfg(feature = "arrow")]
            Self::Arrow(arrow) => arrow.begin_row(rows),
        }
    }

    #[inline(never)]
    fn end_row(&mut self, n_cells: usize) -> usize {
        match self {
            Self::Json(checked) => checked.end_row(n_cells),
            #[cfg(feature = "arrow")]
            Self::Arrow(arrow) => arrow.bytes(),
        }
    }

    /// Writes a cell of the row behind `rows` others. A cell too many goes nowhere, or where the row's end refuses it.
    pub(super) fn write(&mut self, rows: u32, cell_idx: usize, cell: Cell<'_>) -> Result<(), CellError> {
        match self {
            Self::Json(checked) => checked.write(rows, cell_idx, cell),
            #[cfg(feature = "arrow")]
            Self::Arrow(arrow) => arrow.write(rows, cell_idx, cell),
        }
    }
}
