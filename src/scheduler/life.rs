//! What the log says of a stream's life, at debug: once that it is accepted, once that it is started, once that it has ended.
//!
//! Queries are cut, values of parameters are never told.

use std::time::Instant;

use super::{Stream, StreamEnd};
use crate::clock::millis;

/// Bytes of a query that are logged.
const SQL_BYTES_MAX: usize = 1024;

impl Stream {
    pub(super) fn log_accepted(&self) {
        let spec = self.plan.asked.spec();
        let sql = spec.sql.as_str();
        log::debug!(
            stream:% = self.id,
            connection = self.connection_number(),
            request_id = self.request_id,
            principal = self.principal.name(),
            engine = &*self.plan.engine_name,
            traceparent = self.plan.traceparent,
            sql_bytes = sql.len(),
            sql = &sql[..sql.floor_char_boundary(SQL_BYTES_MAX)];
            "stream accepted"
        );
    }

    pub(super) fn log_started(&self) {
        log::debug!(stream:% = self.id, traceparent = self.plan.traceparent; "stream started");
    }

    /// Rows and bytes are those of the batches that were made: when the engine is done, some are still on their way.
    pub(super) fn log_ended(&self, end: &StreamEnd, now: Instant) {
        let (code, reason, limit) = match end {
            StreamEnd::Completed(_) => (None, None, None),
            StreamEnd::Cancelled { reason, limit, .. } => (
                None,
                Some(reason.as_str()),
                limit.as_ref().and_then(|limit| limit.setting),
            ),
            StreamEnd::Failed(error) => (Some(error.code.as_str()), None, None),
        };
        log::debug!(
            stream:% = self.id,
            connection = self.connection_number(),
            request_id = self.request_id,
            principal = self.principal.name(),
            engine = &*self.plan.engine_name,
            traceparent = self.plan.traceparent,
            status:? = end.status(),
            code = code,
            reason = reason,
            limit = limit,
            rows = self.rows_read(),
            bytes = self.bytes_made(),
            ms = millis(now.saturating_duration_since(self.accepted_at));
            "stream ended"
        );
    }
}
