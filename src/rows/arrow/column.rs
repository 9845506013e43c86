//! One column of a batch, in the buffers that Arrow lays it out in.

use arrow_schema::{DataType, TimeUnit};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::calendar;
use crate::rows::cell::{Cell, CellError};
use crate::rows::number::{non_finite, push_integer, push_real};
use crate::rows::{Column, ColumnType};

/// Integers up to here, in both directions, are exact as doubles: 2^53.
pub(super) const EXACT_INTEGER_MAX: u64 = 1 << 53;

/// Largest precision of a `Decimal128`.
const DECIMAL_PRECISION_MAX: u8 = 38;

/// The Arrow type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ArrowType {
    Int64,
    Float64,
    Boolean,
    Utf8,
    Binary,
    Date32,
    Time64,
    Timestamp,
    TimestampUtc,
    Decimal128 {
        precision: u8,
        scale: u8,
    },
    /// `Utf8` that takes every cell, in the form that it has in JSON.
    AnyText,
    /// `Binary` that takes every cell: blobs as they are, others as the bytes of their text.
    AnyBytes,
}

impl ArrowType {
    /// The type that takes every cell of a column.
    pub(super) fn mixed(column: &Column) -> Self {
        if column.ty == ColumnType::Blob {
            Self::AnyBytes
        } else {
            Self::AnyText
        }
    }

    /// Whether the type says of a cell what it is.
    pub(super) fn tells(self, cell: Cell<'_>) -> bool {
        match self {
            Self::Int64 => matches!(cell, Cell::Integer(_)),
            Self::Float64 => matches!(cell, Cell::Real(_)),
            Self::Boolean => matches!(cell, Cell::Boolean(_)),
            Self::Binary | Self::AnyBytes => matches!(cell, Cell::Blob(_)),
            Self::Utf8
            | Self::AnyText
            | Self::Date32
            | Self::Time64
            | Self::Timestamp
            | Self::TimestampUtc
            | Self::Decimal128 { .. } => matches!(cell, Cell::Text(_)),
        }
    }

    /// What a column's declaration asks for; none where nothing is declared.
    pub(super) fn declared(column: &Column) -> Option<Self> {
        match column.ty {
            ColumnType::Int64 => Some(Self::Int64),
            ColumnType::Float64 => Some(Self::Float64),
            ColumnType::Boolean => Some(Self::Boolean),
            ColumnType::Text | ColumnType::Json | ColumnType::Uuid => Some(Self::Utf8),
            ColumnType::Blob => Some(Self::Binary),
            ColumnType::Date => Some(Self::Date32),
            ColumnType::Time => Some(Self::Time64),
            ColumnType::Timestamp => Some(Self::Timestamp),
            ColumnType::TimestampTz => Some(Self::TimestampUtc),
            ColumnType::Decimal => Some(column.db_type.as_deref().and_then(decimal_of).unwrap_or(Self::Utf8)),
            ColumnType::Any => None,
        }
    }

    pub(super) fn data_type(self) -> DataType {
        match self {
            Self::Int64 => DataType::Int64,
            Self::Float64 => DataType::Float64,
            Self::Boolean => DataType::Boolean,
            Self::Utf8 | Self::AnyText => DataType::Utf8,
            Self::Binary | Self::AnyBytes => DataType::Binary,
            Self::Date32 => DataType::Date32,
            Self::Time64 => DataType::Time64(TimeUnit::Microsecond),
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self::TimestampUtc => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::Decimal128 { precision, scale } => {
                DataType::Decimal128(precision, i8::try_from(scale).unwrap_or(i8::MAX))
            }
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Int64 => "Int64",
            Self::Float64 => "Float64",
            Self::Boolean => "Boolean",
            Self::Utf8 | Self::AnyText => "Utf8",
            Self::Binary | Self::AnyBytes => "Binary",
            Self::Date32 => "Date32",
            Self::Time64 => "Time64",
            Self::Timestamp => "Timestamp",
            Self::TimestampUtc => "Timestamp(UTC)",
            Self::Decimal128 { .. } => "Decimal128",
        }
    }

    fn layout(self) -> Layout {
        match self {
            Self::Boolean => Layout::Bits,
            Self::Utf8 | Self::Binary | Self::AnyText | Self::AnyBytes => Layout::Offsets,
            Self::Date32 => Layout::Fixed(4),
            Self::Int64 | Self::Float64 | Self::Time64 | Self::Timestamp | Self::TimestampUtc => Layout::Fixed(8),
            Self::Decimal128 { .. } => Layout::Fixed(16),
        }
    }
}

/// How a column's values lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// One bit each.
    Bits,
    /// So many bytes each.
    Fixed(usize),
    /// Bytes one behind the other, and for each value where it ends.
    Offsets,
}

/// The cells of one column in one batch. The buffers are kept from batch to batch.
#[derive(Debug)]
pub(super) struct TypedColumn {
    ty: ArrowType,
    layout: Layout,
    len: usize,
    n_nulls: usize,
    /// One bit per cell, set where it is not NULL; empty as long as no cell is.
    validity: Vec<u8>,
    /// Where each value begins, and where the last one ends: 32-bit integers, for [`Layout::Offsets`] only.
    offsets: Vec<u8>,
    values: Vec<u8>,
}

impl TypedColumn {
    pub(super) fn new(ty: ArrowType) -> Self {
        let mut column = Self {
            ty,
            layout: ty.layout(),
            len: 0,
            n_nulls: 0,
            validity: Vec::new(),
            offsets: Vec::new(),
            values: Vec::new(),
        };
        column.clear();
        column
    }

    pub(super) fn clear(&mut self) {
        self.len = 0;
        self.n_nulls = 0;
        self.validity.clear();
        self.values.clear();
        self.offsets.clear();
        if self.layout == Layout::Offsets {
            self.offsets.extend_from_slice(&[0; 4]);
        }
    }

    /// Appends a cell that fits, and returns how many bits it takes. The column is as before where it does not fit.
    // Inlined where the kind of cell is known, which leaves one comparison of it.
    #[inline(always)]
    pub(super) fn push(&mut self, cell: Cell<'_>) -> Result<u64, CellError> {
        match (self.ty, cell) {
            (_, Cell::Null) => Ok(self.push_null()),
            (ArrowType::Int64, Cell::Integer(value)) => Ok(self.push_fixed(value.to_le_bytes())),
            (ArrowType::Float64, Cell::Real(value)) => Ok(self.push_fixed(value.to_le_bytes())),
            (ArrowType::Utf8, Cell::Text(text)) => {
                // Most text is ASCII, and the look for that is short.
                if !text.is_ascii() && std::str::from_utf8(text).is_err() {
                    return Err(CellError::InvalidUtf8);
                }
                Ok(self.push_bytes(text))
            }
            (ArrowType::Date32, Cell::Text(text)) => match calendar::date(text) {
                Some(days) => Ok(self.push_fixed(days.to_le_bytes())),
                None => Err(misfit(self.ty, cell, "text that is not a date as YYYY-MM-DD")),
            },
            (ArrowType::Binary, Cell::Blob(bytes)) => Ok(self.push_bytes(bytes)),
            (_, cell) => self.push_converted(cell),
        }
    }

    /// Takes back what is behind the first `len` cells: one cell at most.
    pub(super) fn truncate(&mut self, len: usize) {
        if self.len <= len {
            return;
        }
        if bit(&self.validity, len) == Some(false) {
            self.n_nulls -= 1;
        }
        self.len = len;
        truncate_bits(&mut self.validity, if self.n_nulls == 0 { 0 } else { len });
        match self.layout {
            Layout::Bits => truncate_bits(&mut self.values, len),
            Layout::Fixed(width) => self.values.truncate(len * width),
            Layout::Offsets => {
                self.offsets.truncate((len + 1) * 4);
                let end = self.offsets.last_chunk().map_or(0, |end| u32::from_le_bytes(*end));
                self.values.truncate(end as usize);
            }
        }
    }

    pub(super) fn ty(&self) -> ArrowType {
        self.ty
    }

    pub(super) fn n_nulls(&self) -> usize {
        self.n_nulls
    }

    /// The buffers as Arrow's record batch has them, in order. Without a NULL the validity may be empty.
    pub(super) fn buffers(&self) -> impl Iterator<Item = &[u8]> {
        let offsets = (self.layout == Layout::Offsets).then_some(self.offsets.as_slice());
        [Some(self.validity.as_slice()), offsets, Some(self.values.as_slice())]
            .into_iter()
            .flatten()
    }

    #[cfg(test)]
    pub(super) fn capacities(&self) -> [usize; 3] {
        [&self.validity, &self.offsets, &self.values].map(Vec::capacity)
    }

    /// Cells that fit after a look at them, and are not the most common ones.
    #[inline(never)]
    fn push_converted(&mut self, cell: Cell<'_>) -> Result<u64, CellError> {
        let ty = self.ty;
        let mistyped = |found| Err(misfit(ty, cell, found));
        match (self.ty, cell) {
            (ArrowType::Boolean, Cell::Boolean(value)) => Ok(self.push_bit(value)),
            (ArrowType::Boolean, Cell::Integer(value @ (0 | 1))) => Ok(self.push_bit(value == 1)),
            (ArrowType::Boolean, Cell::Integer(_)) => mistyped("an integer other than 0 and 1"),
            (ArrowType::Float64, Cell::Integer(value)) if value.unsigned_abs() <= EXACT_INTEGER_MAX => {
                Ok(self.push_fixed((value as f64).to_le_bytes()))
            }
            (ArrowType::Float64, Cell::Integer(_)) => mistyped("an integer beyond 2^53"),
            (ArrowType::Time64, Cell::Text(text)) => match calendar::time(text) {
                Some(micros) => Ok(self.push_fixed(micros.to_le_bytes())),
                None => mistyped("text that is not a time as HH:MM:SS.ffffff"),
            },
            (ArrowType::Timestamp, Cell::Text(text)) => match calendar::timestamp(text) {
                Some(micros) => Ok(self.push_fixed(micros.to_le_bytes())),
                None => mistyped("text that is not a timestamp as YYYY-MM-DD HH:MM:SS.ffffff without a zone"),
            },
            (ArrowType::TimestampUtc, Cell::Text(text)) => match calendar::timestamp_with_zone(text) {
                Some(micros) => Ok(self.push_fixed(micros.to_le_bytes())),
                None => mistyped("text that is not a timestamp as YYYY-MM-DD HH:MM:SS.ffffff with a zone"),
            },
            (ArrowType::Decimal128 { precision, scale }, Cell::Text(text)) => match decimal(text, precision, scale) {
                Some(value) => Ok(self.push_fixed(value.to_le_bytes())),
                None => mistyped("text that is not a decimal of the declared digits"),
            },
            (ArrowType::AnyText | ArrowType::AnyBytes, cell) => self.push_any(cell),
            (_, cell) => mistyped(cell.kind()),
        }
    }

    /// Appends a cell of any kind, as bytes.
    fn push_any(&mut self, cell: Cell<'_>) -> Result<u64, CellError> {
        if let Cell::Text(text) = cell
            && std::str::from_utf8(text).is_err()
        {
            return Err(CellError::InvalidUtf8);
        }
        let start = self.values.len();
        self.push_valid();
        let out = &mut self.values;
        match cell {
            Cell::Null => {}
            Cell::Boolean(value) => out.extend_from_slice(if value { b"true" } else { b"false" }),
            Cell::Integer(value) => push_integer(value, out),
            Cell::Real(value) if value.is_finite() => push_real(value, out),
            Cell::Real(value) => out.extend_from_slice(non_finite(value).as_bytes()),
            Cell::Blob(bytes) if self.ty == ArrowType::AnyText => {
                out.extend_from_slice(BASE64.encode(bytes).as_bytes())
            }
            Cell::Text(bytes) | Cell::Blob(bytes) => out.extend_from_slice(bytes),
        }
        self.push_offset();
        self.len += 1;
        Ok(33 + 8 * (self.values.len() - start) as u64)
    }

    #[inline(never)]
    fn push_null(&mut self) -> u64 {
        if self.n_nulls == 0 {
            fill_bits(&mut self.validity, self.len);
        }
        push_bit(&mut self.validity, self.len, false);
        self.n_nulls += 1;
        let bits = match self.layout {
            Layout::Bits => {
                push_bit(&mut self.values, self.len, false);
                1
            }
            Layout::Fixed(width) => {
                self.values.resize(self.values.len() + width, 0);
                8 * width as u64
            }
            Layout::Offsets => {
                self.push_offset();
                32
            }
        };
        self.len += 1;
        1 + bits
    }

    fn push_bit(&mut self, value: bool) -> u64 {
        self.push_valid();
        push_bit(&mut self.values, self.len, value);
        self.len += 1;
        2
    }

    #[inline]
    fn push_fixed<const WIDTH: usize>(&mut self, value: [u8; WIDTH]) -> u64 {
        self.push_valid();
        self.values.extend_from_slice(&value);
        self.len += 1;
        1 + 8 * WIDTH as u64
    }

    #[inline]
    fn push_bytes(&mut self, bytes: &[u8]) -> u64 {
        self.push_valid();
        self.values.extend_from_slice(bytes);
        self.push_offset();
        self.len += 1;
        33 + 8 * bytes.len() as u64
    }

    #[inline]
    fn push_valid(&mut self) {
        if self.n_nulls > 0 {
            push_bit(&mut self.validity, self.len, true);
        }
    }

    #[inline]
    fn push_offset(&mut self) {
        // `BATCH_BYTES_MAX` and `ROW_BYTES_MAX` together are below 2^31.
        self.offsets
            .extend_from_slice(&(self.values.len() as u32).to_le_bytes());
    }
}

/// Why a cell does not fit. Text that is not UTF-8 fits nowhere.
#[cold]
fn misfit(ty: ArrowType, cell: Cell<'_>, found: &'static str) -> CellError {
    match cell {
        Cell::Text(text) if std::str::from_utf8(text).is_err() => CellError::InvalidUtf8,
        Cell::Null | Cell::Boolean(_) | Cell::Integer(_) | Cell::Real(_) | Cell::Text(_) | Cell::Blob(_) => {
            CellError::Mistyped {
                column_type: ty.name(),
                found,
            }
        }
    }
}

/// Appends bit `len` to a bitmap of `len` bits, whose last byte has zeros behind them.
#[inline]
fn push_bit(bits: &mut Vec<u8>, len: usize, value: bool) {
    match bits.last_mut() {
        Some(last) if !len.is_multiple_of(8) => *last |= u8::from(value) << (len % 8),
        _ => bits.push(u8::from(value)),
    }
}

/// Makes an empty bitmap one of `len` set bits.
#[cold]
fn fill_bits(bits: &mut Vec<u8>, len: usize) {
    bits.resize(len.div_ceil(8), u8::MAX);
    truncate_bits(bits, len);
}

fn bit(bits: &[u8], at: usize) -> Option<bool> {
    bits.get(at / 8).map(|byte| byte >> (at % 8) & 1 == 1)
}

fn truncate_bits(bits: &mut Vec<u8>, len: usize) {
    bits.truncate(len.div_ceil(8));
    if !len.is_multiple_of(8)
        && let Some(last) = bits.last_mut()
    {
        *last &= (1 << (len % 8)) - 1;
    }
}

/// The type that `DECIMAL(p,s)`, `DECIMAL(p)` or the same with `NUMERIC` says.
fn decimal_of(db_type: &str) -> Option<ArrowType> {
    let (name, rest) = db_type.split_once('(')?;
    let name = name.trim();
    if !name.eq_ignore_ascii_case("decimal") && !name.eq_ignore_ascii_case("numeric") {
        return None;
    }
    let digits = rest.trim_end().strip_suffix(')')?;
    let (precision, scale) = digits.split_once(',').unwrap_or((digits, "0"));
    let (precision, scale) = (precision.trim().parse().ok()?, scale.trim().parse().ok()?);
    ((1..=DECIMAL_PRECISION_MAX).contains(&precision) && scale <= precision)
        .then_some(ArrowType::Decimal128 { precision, scale })
}

/// The number that decimal digits say, in units of 10^-`scale`; none where it has more digits than declared, on either side
/// of the point.
fn decimal(text: &[u8], precision: u8, scale: u8) -> Option<i128> {
    let (is_negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    let point = digits.iter().position(|byte| *byte == b'.');
    let (whole, fraction) = match point {
        Some(at) => (digits.get(..at)?, digits.get(at + 1..)?),
        None => (digits, &[][..]),
    };
    if whole.is_empty() || point.is_some() && fraction.is_empty() || fraction.len() > usize::from(scale) {
        return None;
    }
    let padding = usize::from(scale) - fraction.len();
    let mut value = 0_i128;
    for digit in whole.iter().chain(fraction).chain(std::iter::repeat_n(&b'0', padding)) {
        let digit = digit.is_ascii_digit().then(|| i128::from(digit - b'0'))?;
        value = value.checked_mul(10)?.checked_add(digit)?;
    }
    if value >= 10_i128.checked_pow(u32::from(precision))? {
        return None;
    }
    Some(if is_negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decimal_keeps_its_value_or_does_not_fit() {
        for (text, expected) in [
            ("0", Some(0)),
            ("1.5", Some(150)),
            ("-1.05", Some(-105)),
            ("+999.99", Some(99_999)),
            ("000999.9", Some(99_990)),
            ("1000", None),
            ("1.005", None),
            ("1.", None),
            (".5", None),
            ("-", None),
            ("", None),
            ("1e2", None),
            ("--1", None),
            ("1.0.0", None),
            (" 1", None),
        ] {
            assert_eq!(decimal(text.as_bytes(), 5, 2), expected, "{text}");
        }
        let nines = "9".repeat(38);
        assert_eq!(decimal(nines.as_bytes(), 38, 0), nines.parse().ok());
        assert_eq!(decimal("9".repeat(400).as_bytes(), 38, 0), None);
        assert_eq!(decimal(nines.as_bytes(), 38, 38), None);
    }

    #[test]
    fn a_decimal_is_declared_with_its_digits() {
        for (db_type, expected) in [
            ("DECIMAL(15,2)", Some((15, 2))),
            ("numeric ( 38 , 38 )", Some((38, 38))),
            ("Decimal(7)", Some((7, 0))),
            ("DECIMAL", None),
            ("DECIMAL()", None),
            ("DECIMAL(39,2)", None),
            ("DECIMAL(0,0)", None),
            ("DECIMAL(2,3)", None),
            ("DECIMAL(5,-2)", None),
            ("FANCY(5,2)", None),
            ("DECIMAL(5,2) UNSIGNED", None),
        ] {
            let expected = expected.map(|(precision, scale)| ArrowType::Decimal128 { precision, scale });
            assert_eq!(decimal_of(db_type), expected, "{db_type}");
        }
    }

    #[test]
    fn a_cell_taken_back_leaves_nothing_behind() {
        let cells = [
            (ArrowType::Boolean, Cell::Boolean(true)),
            (ArrowType::Int64, Cell::Integer(-1)),
            (ArrowType::Date32, Cell::Text(b"2024-02-29")),
            (ArrowType::Utf8, Cell::Text(b"text")),
        ];
        for (ty, cell) in cells {
            for len in 0..20 {
                let (mut plain, mut other) = (TypedColumn::new(ty), TypedColumn::new(ty));
                for at in 0..=len {
                    for taken_back in [cell, Cell::Null] {
                        assert!(other.push(taken_back).is_ok());
                        other.truncate(at);
                    }
                    let kept = if at % 3 == 0 { Cell::Null } else { cell };
                    assert_eq!(plain.push(kept), other.push(kept));
                }
                assert_eq!(plain.n_nulls(), other.n_nulls());
                assert!(plain.buffers().eq(other.buffers()));
            }
        }
    }
}
