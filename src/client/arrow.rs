//! A result as Arrow record batches.

use std::fmt;

use arrow_array::{RecordBatch, RecordBatchReader};
use arrow_buffer::Buffer;
use arrow_ipc::reader::StreamDecoder;
use arrow_schema::{ArrowError, SchemaRef};

use super::{ArrowBatch, ClientError, Event, QueryStream};

/// What ends an Arrow IPC stream: a message of no length (Arrow columnar format, "IPC Streaming Format").
pub(crate) const END_OF_STREAM: [u8; 8] = [0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0];

/// The batches of a running query as Arrow's own [`RecordBatch`]es, whose buffers are those that came. With the feature `arrow`.
///
/// Made by [`QueryBuilder::record_batches`](super::QueryBuilder::record_batches). Iterating blocks as
/// [`QueryStream::next_event`] does. Dropping it before its end cancels the query.
pub struct ArrowReader {
    stream: QueryStream,
    decoder: StreamDecoder,
    /// What of the last message is not decoded yet.
    undecoded: Buffer,
    schema: SchemaRef,
    /// What came with the schema.
    first: Option<RecordBatch>,
    has_ended: bool,
}

impl fmt::Debug for ArrowReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArrowReader")
            .field("stream", &self.stream)
            .finish_non_exhaustive()
    }
}

impl ArrowReader {
    /// Blocks until the first batch has come: it tells the types.
    pub(super) fn new(mut stream: QueryStream) -> Result<Self, ClientError> {
        let mut decoder = StreamDecoder::new();
        let mut undecoded = match next_piece(&mut stream)? {
            Some(batch) => decodable(batch),
            None => {
                return Err(ClientError::Protocol(
                    "the result ended before its types were told".to_owned(),
                ));
            }
        };
        let first = decoder.decode(&mut undecoded).map_err(|error| violation(&error))?;
        let Some(schema) = decoder.schema() else {
            return Err(ClientError::Protocol("the first batch has no types".to_owned()));
        };
        Ok(Self {
            stream,
            decoder,
            undecoded,
            schema,
            first,
            has_ended: false,
        })
    }

    /// The query, for how it [ended](QueryStream::outcome) and for [stopping](QueryStream::canceller) it.
    #[must_use]
    pub fn stream(&self) -> &QueryStream {
        &self.stream
    }

    fn next_batch(&mut self) -> Result<Option<RecordBatch>, ArrowError> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        loop {
            if let Some(batch) = self.decoder.decode(&mut self.undecoded)? {
                return Ok(Some(batch));
            }
            match next_piece(&mut self.stream).map_err(external)? {
                Some(batch) => self.undecoded = decodable(batch),
                None => return Ok(None),
            }
        }
    }
}

/// A piece as a [`StreamDecoder`] takes it, without copying it: behind a schema alone the decoder would wait for more.
pub(crate) fn decodable(mut batch: ArrowBatch) -> Buffer {
    if batch.rows == 0 {
        batch.payload.extend_from_slice(&END_OF_STREAM);
    }
    Buffer::from(batch.payload)
}

/// The next piece; progress and the like are passed over. A result cut short by others ends with an error.
fn next_piece(stream: &mut QueryStream) -> Result<Option<ArrowBatch>, ClientError> {
    loop {
        match stream.next_event()? {
            Some(Event::ArrowBatch(batch)) => return Ok(Some(batch)),
            Some(Event::Batch(_)) => {
                return Err(ClientError::Protocol(
                    "the server sent JSON where Arrow was asked for".to_owned(),
                ));
            }
            Some(_) => {}
            None => return stream.cut_short().map_or(Ok(None), Err),
        }
    }
}

fn violation(error: &ArrowError) -> ClientError {
    ClientError::Protocol(format!("a batch is no Arrow: {error}"))
}

fn external(error: ClientError) -> ArrowError {
    ArrowError::ExternalError(Box::new(error))
}

impl Iterator for ArrowReader {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.has_ended {
            return None;
        }
        let next = self.next_batch().transpose();
        self.has_ended = !matches!(next, Some(Ok(_)));
        next
    }
}

impl RecordBatchReader for ArrowReader {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
}
