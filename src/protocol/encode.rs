//! Bytes out: messages into a caller's buffer, and the envelope that a batch's rows are written into.

use std::io::Write;

use super::message::ServerMessage;
use crate::id::{RequestId, StreamId};

/// Appends `message` as JSON to `out`.
pub(crate) fn encode_message(message: &ServerMessage, out: &mut Vec<u8>) {
    serde_json::to_writer(out, message).expect("a server message has only string keys, and a Vec takes every byte");
}

/// What surrounds the rows of one stream's batches: everything but the numbers is encoded once per stream.
#[derive(Debug)]
pub(crate) struct BatchEnvelope {
    /// Up to and including `"batch_number":`.
    head: Box<[u8]>,
}

impl BatchEnvelope {
    pub(crate) fn new(stream_id: StreamId, request_id: Option<&RequestId>) -> Self {
        let mut head = format!("{{\"type\":\"query_batch\",\"stream_id\":\"{stream_id}\"").into_bytes();
        if let Some(request_id) = request_id {
            head.extend_from_slice(b",\"request_id\":");
            serde_json::to_writer(&mut head, request_id).expect("a string or a number, into a Vec");
        }
        head.extend_from_slice(b",\"batch_number\":");
        Self { head: head.into() }
    }

    /// Starts a batch message: the rows are to follow.
    pub(crate) fn open(&self, batch_number: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.head);
        push_u64(batch_number, out);
        out.extend_from_slice(b",\"rows\":[");
    }

    /// Ends a batch message behind its rows.
    pub(crate) fn close(row_count: u32, row_offset: u64, has_more: bool, out: &mut Vec<u8>) {
        out.extend_from_slice(b"],\"row_count\":");
        push_u64(u64::from(row_count), out);
        out.extend_from_slice(b",\"row_offset\":");
        push_u64(row_offset, out);
        write!(out, ",\"has_more\":{has_more}}}").expect("a Vec takes every byte");
    }
}

fn push_u64(number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

    use super::*;
    use crate::protocol::decode_server_message;

    #[test]
    fn an_envelope_makes_a_batch_message() {
        let stream_id = StreamId::random();
        for request_id in [None, Some(RequestId::from("quo\"te")), Some(RequestId::from(7))] {
            let envelope = BatchEnvelope::new(stream_id, request_id.as_ref());
            let mut out = Vec::new();
            envelope.open(u64::MAX, &mut out);
            out.extend_from_slice(b"[1],[2]");
            BatchEnvelope::close(2, 98, false, &mut out);
            let text = String::from_utf8(out).unwrap();
            let Some(ServerMessage::QueryBatch(batch)) = decode_server_message(&text).unwrap() else {
                panic!("not a batch: {text}");
            };
            assert_eq!(batch.stream_id, stream_id);
            assert_eq!(batch.request_id, request_id);
            assert_eq!(batch.batch_number, u64::MAX);
            assert_eq!(batch.rows.get(), "[[1],[2]]");
            assert_eq!((batch.row_count, batch.row_offset, batch.has_more), (2, 98, false));
        }
    }
}
