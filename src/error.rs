//! The codes that say what went wrong, in one table, and the families of errors built on them.
//!
//! Must not know sockets or any dialect of SQL.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What an error ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ErrorScope {
    /// Answers one message; everything else goes on.
    Request,
    /// Ends one stream.
    Stream,
    /// Ends the connection.
    Connection,
}

/// One row of the error table.
struct Entry {
    code: ErrorCode,
    name: &'static str,
    scope: ErrorScope,
    retryable: bool,
    text: &'static str,
}

macro_rules! error_codes {
    ($($variant:ident $name:literal $scope:ident $retryable:literal $text:literal;)*) => {
        /// A stable name for a cause. The text beside it may change, the code does not.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[cfg_attr(test, derive(schemars::JsonSchema))]
        #[non_exhaustive]
        pub enum ErrorCode {$(
            #[doc = $text]
            #[serde(rename = $name)]
            $variant,
        )*}

        const TABLE: &[Entry] = &[$(Entry {
            code: ErrorCode::$variant,
            name: $name,
            scope: ErrorScope::$scope,
            retryable: $retryable,
            text: $text,
        },)*];
    };
}

error_codes! {
    BadMessage "BAD_MESSAGE" Request false "The message is not JSON, has no known type, or a field has a wrong type or value.";
    Unsupported "UNSUPPORTED" Request false "The message or option is known, but this server does not offer it.";
    Unauthenticated "UNAUTHENTICATED" Connection false "The server wants credentials and has none that it accepts.";
    PermissionDenied "PERMISSION_DENIED" Request false "The credentials do not allow this.";
    DuplicateRequestId "DUPLICATE_REQUEST_ID" Request false "The request_id already names a live stream of this connection.";
    StreamNotFound "STREAM_NOT_FOUND" Request false "No live stream of this client has that id.";
    SyntaxError "SYNTAX_ERROR" Stream false "The engine does not understand the query.";
    ParameterError "PARAMETER_ERROR" Stream false "The parameters do not fit the query's.";
    Constraint "CONSTRAINT" Stream false "The query broke a constraint of the database.";
    ReadOnly "READ_ONLY" Stream false "The statement would do something else than read.";
    QueryFailed "QUERY_FAILED" Stream false "The engine failed while running the query.";
    EngineUnavailable "ENGINE_UNAVAILABLE" Stream true "The engine cannot be reached or opened.";
    EngineBusy "ENGINE_BUSY" Stream true "The engine is locked or has no room; later it may.";
    QueryTimeout "QUERY_TIMEOUT" Stream true "The time allowed passed before the query was started.";
    LimitExceeded "LIMIT_EXCEEDED" Request false "A value is beyond a limit of the server.";
    RowTooLarge "ROW_TOO_LARGE" Stream false "One row is larger than the server's limit.";
    TooManyStreams "TOO_MANY_STREAMS" Request true "The connection, the client or the server already has as many live streams as it may.";
    QueueFull "QUEUE_FULL" Request true "As many queries are waiting as the server lets wait.";
    SlowConsumer "SLOW_CONSUMER" Stream true "The client took nothing for too long.";
    ResumeGap "RESUME_GAP" Request false "Batches that the client asks for are no longer held.";
    ResumeExpired "RESUME_EXPIRED" Request false "The stream was not resumed in time.";
    ResumeDenied "RESUME_DENIED" Request false "The token names no stream that this client may resume.";
    Superseded "SUPERSEDED" Stream false "A newer connection has resumed the stream.";
    ShuttingDown "SHUTTING_DOWN" Request true "The server takes no new streams because it is going away.";
    EncodingError "ENCODING_ERROR" Stream false "A value cannot be written in the format asked for.";
    Internal "INTERNAL" Stream true "A fault of the server; its log says more.";
}

impl ErrorCode {
    /// Every code, in the order of the table.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(|entry| entry.code)
    }

    /// The stable name, e.g. `SYNTAX_ERROR`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.entry().name
    }

    /// What an error of this code ends.
    #[must_use]
    pub fn scope(self) -> ErrorScope {
        self.entry().scope
    }

    /// Whether the same request may succeed later, unchanged.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        self.entry().retryable
    }

    /// One sentence for people.
    #[must_use]
    pub fn text(self) -> &'static str {
        self.entry().text
    }

    fn entry(self) -> &'static Entry {
        // The macro writes variants and table rows in one order.
        &TABLE[self as usize]
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who or what cancelled a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
#[repr(u8)]
pub enum CancelReason {
    /// The client asked.
    Client = 1,
    /// The time allowed has passed.
    Timeout,
    /// The connection is gone.
    Disconnect,
    /// The operator, or the application that embeds the server.
    Admin,
    /// The server is going away.
    Shutdown,
    /// Nobody came back for the stream in time.
    Expired,
    /// The client took nothing for too long.
    SlowClient,
}

impl CancelReason {
    pub(crate) const ALL: [Self; 7] = [
        Self::Client,
        Self::Timeout,
        Self::Disconnect,
        Self::Admin,
        Self::Shutdown,
        Self::Expired,
        Self::SlowClient,
    ];

    /// The reason with this number; `None` for 0 and for numbers that are none.
    pub(crate) fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| *reason as u8 == number)
    }

    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Timeout => "timeout",
            Self::Disconnect => "disconnect",
            Self::Admin => "admin",
            Self::Shutdown => "shutdown",
            Self::Expired => "expired",
            Self::SlowClient => "slow_client",
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

    use super::*;

    #[test]
    fn table_and_enum_agree() {
        for code in ErrorCode::all() {
            assert_eq!(code.entry().code, code);
            assert_eq!(serde_json::to_string(&code).unwrap(), format!("\"{code}\""));
        }
    }
}
