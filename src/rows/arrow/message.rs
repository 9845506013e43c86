//! Encapsulated messages of the Arrow IPC stream format: a schema, a record batch.
//!
//! Each is the continuation marker, the length of the metadata, the metadata, and the body, all on 8-byte boundaries
//! (arrow.apache.org/docs/format/Columnar.html, "Encapsulated message format").

use std::fmt;

use arrow_ipc::convert::IpcSchemaEncoder;
use arrow_ipc::{FieldNode, Message, MessageArgs, MessageHeader, MetadataVersion, RecordBatch, RecordBatchArgs};
use flatbuffers::{FlatBufferBuilder, UnionWIPOffset, WIPOffset};

use super::column::TypedColumn;

const CONTINUATION: [u8; 4] = [0xFF; 4];
const ALIGNMENT: usize = 8;

/// Appends messages to a buffer, with working memory of its own.
pub(super) struct MessageWriter {
    metadata: FlatBufferBuilder<'static>,
    nodes: Vec<FieldNode>,
    /// Place and length of each buffer in the body.
    buffers: Vec<arrow_ipc::Buffer>,
}

impl fmt::Debug for MessageWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageWriter").finish_non_exhaustive()
    }
}

impl MessageWriter {
    pub(super) fn new() -> Self {
        Self {
            metadata: FlatBufferBuilder::new(),
            nodes: Vec::new(),
            buffers: Vec::new(),
        }
    }

    pub(super) fn schema(&mut self, schema: &arrow_schema::Schema, out: &mut Vec<u8>) {
        self.metadata.reset();
        let header = IpcSchemaEncoder::new().schema_to_fb_offset(&mut self.metadata, schema);
        self.append_metadata(MessageHeader::Schema, header.as_union_value(), 0, out);
    }

    pub(super) fn record_batch(&mut self, n_rows: u32, columns: &[TypedColumn], out: &mut Vec<u8>) {
        self.nodes.clear();
        self.buffers.clear();
        let mut body_len = 0;
        for column in columns {
            self.nodes
                .push(FieldNode::new(i64::from(n_rows), column.n_nulls() as i64));
            for buffer in column.buffers() {
                self.buffers
                    .push(arrow_ipc::Buffer::new(body_len as i64, buffer.len() as i64));
                body_len += buffer.len().next_multiple_of(ALIGNMENT);
            }
        }
        self.metadata.reset();
        let args = RecordBatchArgs {
            length: i64::from(n_rows),
            nodes: Some(self.metadata.create_vector(&self.nodes)),
            buffers: Some(self.metadata.create_vector(&self.buffers)),
            compression: None,
            variadicBufferCounts: None,
        };
        let header = RecordBatch::create(&mut self.metadata, &args);
        self.append_metadata(MessageHeader::RecordBatch, header.as_union_value(), body_len, out);
        for buffer in columns.iter().flat_map(TypedColumn::buffers) {
            out.extend_from_slice(buffer);
            let padding = buffer.len().next_multiple_of(ALIGNMENT) - buffer.len();
            out.extend_from_slice(&[0; ALIGNMENT][..padding]);
        }
    }

    /// Finishes the metadata and appends everything in front of the body, for which it makes room.
    fn append_metadata(
        &mut self,
        header_type: MessageHeader,
        header: WIPOffset<UnionWIPOffset>,
        body_len: usize,
        out: &mut Vec<u8>,
    ) {
        let args = MessageArgs {
            version: MetadataVersion::V5,
            header_type,
            header: Some(header),
            bodyLength: body_len as i64,
            custom_metadata: None,
        };
        let message = Message::create(&mut self.metadata, &args);
        self.metadata.finish(message, None);
        let metadata = self.metadata.finished_data();
        // The marker and the length together take 8 bytes.
        let metadata_len = metadata.len().next_multiple_of(ALIGNMENT);
        out.reserve(ALIGNMENT + metadata_len + body_len);
        out.extend_from_slice(&CONTINUATION);
        out.extend_from_slice(&(metadata_len as u32).to_le_bytes());
        out.extend_from_slice(metadata);
        out.extend_from_slice(&[0; ALIGNMENT][..metadata_len - metadata.len()]);
    }
}
