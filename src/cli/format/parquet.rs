//! Parquet: Arrow's batches, gathered into row groups.

use std::io::{self, Write};

use arrow_ipc::reader::StreamDecoder;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use super::RowWriter;
use crate::client::{ArrowBatch, decodable};

/// Encoded bytes of one row group, which are held until it is written.
const GROUP_BYTES: usize = 16 * 1024 * 1024;

/// Writes a Parquet file. It is one only with its footer, which comes when the result is whole.
#[derive(Default)]
pub(super) struct FileWriter {
    decoder: StreamDecoder,
    /// Made once the types are known. It writes into memory that is emptied after each batch.
    writer: Option<ArrowWriter<Vec<u8>>>,
}

impl RowWriter for FileWriter {
    fn arrow_batch(&mut self, batch: &ArrowBatch, out: &mut dyn Write) -> io::Result<()> {
        let mut piece = decodable(batch.clone());
        loop {
            let decoded = self.decoder.decode(&mut piece).map_err(io::Error::other)?;
            if self.writer.is_none()
                && let Some(schema) = self.decoder.schema()
            {
                let level = ZstdLevel::default();
                let properties = WriterProperties::builder()
                    .set_compression(Compression::ZSTD(level))
                    .build();
                self.writer = Some(ArrowWriter::try_new(Vec::new(), schema, Some(properties))?);
            }
            let (Some(rows), Some(writer)) = (decoded, &mut self.writer) else {
                return Ok(());
            };
            writer.write(&rows)?;
            if writer.in_progress_size() > GROUP_BYTES {
                writer.flush()?;
            }
            out.write_all(&std::mem::take(writer.inner_mut()))?;
        }
    }

    fn end(&mut self, is_whole: bool, out: &mut dyn Write) -> io::Result<()> {
        match self.writer.take() {
            Some(mut writer) if is_whole => {
                writer.finish()?;
                out.write_all(writer.inner_mut())
            }
            Some(_) | None => Ok(()),
        }
    }
}
