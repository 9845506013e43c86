//! JSON objects with the cells exactly as the server wrote them: one per line, or as one array.

use std::io::{self, Write};

use super::RowWriter;
use crate::client::Batch;
use crate::rows::Schema;

/// What is around and between the objects.
struct Frame {
    opening: &'static str,
    /// Before every object but the first.
    separator: &'static str,
    /// After every object: a line is whole as soon as it is written.
    line_end: &'static str,
    /// After the last object, if there is one.
    last_line_end: &'static str,
    /// After a whole result.
    closing: &'static str,
}

pub(super) struct JsonWriter {
    frame: Frame,
    /// `{"label":` for the first column, `,"label":` for the rest.
    keys: Vec<Vec<u8>>,
    is_open: bool,
    has_rows: bool,
}

impl JsonWriter {
    /// A line each.
    pub(super) fn lines() -> Self {
        Self::framed(Frame {
            opening: "",
            separator: "",
            line_end: "\n",
            last_line_end: "",
            closing: "",
        })
    }

    /// An array, a line per element.
    pub(super) fn array() -> Self {
        Self::framed(Frame {
            opening: "[\n",
            separator: ",\n",
            line_end: "",
            last_line_end: "\n",
            closing: "]\n",
        })
    }

    fn framed(frame: Frame) -> Self {
        Self {
            frame,
            keys: Vec::new(),
            is_open: false,
            has_rows: false,
        }
    }

    fn open(&mut self, out: &mut dyn Write) -> io::Result<()> {
        if std::mem::replace(&mut self.is_open, true) {
            return Ok(());
        }
        out.write_all(self.frame.opening.as_bytes())
    }
}

impl RowWriter for JsonWriter {
    fn columns(&mut self, columns: &Schema, out: &mut dyn Write) -> io::Result<()> {
        self.keys.clear();
        for (idx, column) in columns.columns().iter().enumerate() {
            let mut key = vec![if idx == 0 { b'{' } else { b',' }];
            serde_json::to_writer(&mut key, &column.label)?;
            key.push(b':');
            self.keys.push(key);
        }
        self.open(out)
    }

    fn batch(&mut self, batch: &Batch, out: &mut dyn Write) -> io::Result<()> {
        for row in batch.rows() {
            if self.has_rows {
                out.write_all(self.frame.separator.as_bytes())?;
            }
            self.has_rows = true;
            for (key, cell) in self.keys.iter().zip(row.cells()) {
                out.write_all(key)?;
                out.write_all(cell.as_bytes())?;
            }
            out.write_all(if self.keys.is_empty() { b"{}" } else { b"}" })?;
            out.write_all(self.frame.line_end.as_bytes())?;
        }
        Ok(())
    }

    fn end(&mut self, is_whole: bool, out: &mut dyn Write) -> io::Result<()> {
        self.open(out)?;
        if self.has_rows {
            out.write_all(self.frame.last_line_end.as_bytes())?;
        }
        // A missing bracket is how a reader of the array knows that the result broke off.
        if is_whole {
            out.write_all(self.frame.closing.as_bytes())?;
        }
        Ok(())
    }
}
