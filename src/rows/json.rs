//! `JsonEncoder`: rows as JSON arrays or objects, one behind the other with commas between them.
//!
//! Must not know engines, batches and their limits, or the envelope around the rows: it appends after whatever its buffer
//! already holds.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::number::{non_finite, push_integer, push_real};
use super::text::push_text;
use super::{Int64Encoding, RowFormat, Schema};

/// Largest integer that JavaScript's numbers hold exactly: 2^53 - 1.
pub(super) const SAFE_INTEGER_MAX: i64 = (1 << 53) - 1;

impl Int64Encoding {
    /// Whether an integer is written as a string.
    #[inline]
    pub(super) fn quotes(self, value: i64) -> bool {
        match self {
            Self::Number => false,
            Self::String => true,
            Self::Safe => !(-SAFE_INTEGER_MAX..=SAFE_INTEGER_MAX).contains(&value),
        }
    }
}

/// Encodes each cell as it comes. Cells are told by their position in the row.
#[derive(Debug)]
pub(super) struct JsonEncoder {
    row_format: RowFormat,
    int64: Int64Encoding,
    /// For objects, per column: `{"label":` for the first, `,"label":` for the rest, already escaped.
    keys: Vec<Box<[u8]>>,
    buffer: Vec<u8>,
    /// Where the batch's first row begins in the buffer.
    rows_start: usize,
}

impl JsonEncoder {
    pub(super) fn new(schema: &Schema, row_format: RowFormat, int64: Int64Encoding) -> Self {
        let keys = schema.columns().iter().enumerate().map(|(idx, column)| {
            let mut key = vec![if idx == 0 { b'{' } else { b',' }];
            // A name that came from the engine's own strings is UTF-8.
            push_text(column.label.as_bytes(), &mut key);
            key.push(b':');
            key.into_boxed_slice()
        });
        Self {
            row_format,
            int64,
            keys: match row_format {
                RowFormat::Object => keys.collect(),
                RowFormat::Array => Vec::new(),
            },
            buffer: Vec::new(),
            rows_start: 0,
        }
    }

    pub(super) fn begin_batch(&mut self, buffer: Vec<u8>) {
        self.rows_start = buffer.len();
        self.buffer = buffer;
    }

    #[inline]
    pub(super) fn begin_row(&mut self, is_first: bool) {
        if !is_first {
            self.buffer.push(b',');
        }
    }

    #[inline]
    pub(super) fn null(&mut self, cell_idx: usize) {
        self.begin_cell(cell_idx);
        self.buffer.extend_from_slice(b"null");
    }

    #[inline]
    pub(super) fn boolean(&mut self, cell_idx: usize, value: bool) {
        self.begin_cell(cell_idx);
        self.buffer.extend_from_slice(if value { b"true" } else { b"false" });
    }

    #[inline]
    pub(super) fn integer(&mut self, cell_idx: usize, value: i64) {
        self.begin_cell(cell_idx);
        if self.int64.quotes(value) {
            self.buffer.push(b'"');
            push_integer(value, &mut self.buffer);
            self.buffer.push(b'"');
        } else {
            push_integer(value, &mut self.buffer);
        }
    }

    /// The shortest digits that read back as the same double; NaN and the infinities as strings.
    #[inline]
    pub(super) fn real(&mut self, cell_idx: usize, value: f64) {
        self.begin_cell(cell_idx);
        if value.is_finite() {
            push_real(value, &mut self.buffer);
        } else {
            self.buffer.push(b'"');
            self.buffer.extend_from_slice(non_finite(value).as_bytes());
            self.buffer.push(b'"');
        }
    }

    /// False where the text is not UTF-8: the row is of no use then.
    #[inline]
    pub(super) fn text(&mut self, cell_idx: usize, text: &[u8]) -> bool {
        self.begin_cell(cell_idx);
        push_text(text, &mut self.buffer)
    }

    #[inline]
    pub(super) fn blob(&mut self, cell_idx: usize, bytes: &[u8]) {
        self.begin_cell(cell_idx);
        let encoded_len = blob_len(bytes);
        self.buffer.push(b'"');
        let start = self.buffer.len();
        self.buffer.resize(start + encoded_len, 0);
        let written = BASE64.encode_slice(bytes, &mut self.buffer[start..]);
        debug_assert_eq!(written.ok(), Some(encoded_len), "the length is exact");
        self.buffer.push(b'"');
    }

    /// Ends a row of `n_cells`, and returns how many bytes the rows of the batch take with it.
    #[inline]
    pub(super) fn end_row(&mut self, n_cells: usize) -> usize {
        let closing: &[u8] = match (self.row_format, n_cells) {
            (RowFormat::Array, 0) => b"[]",
            (RowFormat::Array, _) => b"]",
            (RowFormat::Object, 0) => b"{}",
            (RowFormat::Object, _) => b"}",
        };
        self.buffer.extend_from_slice(closing);
        self.buffer.len() - self.rows_start
    }

    /// How many bytes the rows of the batch take.
    pub(super) fn rows_len(&self) -> usize {
        self.buffer.len() - self.rows_start
    }

    /// Takes back what is behind the first `bytes` of the rows.
    pub(super) fn truncate(&mut self, bytes: usize) {
        self.buffer.truncate(self.rows_start + bytes);
    }

    pub(super) fn take_buffer(&mut self) -> Vec<u8> {
        self.rows_start = 0;
        std::mem::take(&mut self.buffer)
    }

    /// Between the parts of a row: the bracket, comma or key in front of a cell.
    #[inline]
    fn begin_cell(&mut self, cell_idx: usize) {
        match self.row_format {
            RowFormat::Array => self.buffer.push(if cell_idx == 0 { b'[' } else { b',' }),
            // A cell too many has no key; the row is refused for it at its end.
            RowFormat::Object => match self.keys.get(cell_idx) {
                Some(key) => self.buffer.extend_from_slice(key),
                None => self.buffer.push(b','),
            },
        }
    }
}

/// How many characters a blob takes: four for every three bytes begun.
#[inline]
pub(super) fn blob_len(bytes: &[u8]) -> usize {
    bytes.len().div_ceil(3).saturating_mul(4)
}
