//! Why a connection is closed, as the WebSocket close frame says it.

/// Close codes: 1000 to 1015 as RFC 6455 section 7.4.1 and the IANA registry have them, 44xx our own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u16)]
pub enum CloseCode {
    /// The purpose is fulfilled.
    Normal = 1000,
    /// The server is going away.
    GoingAway = 1001,
    /// The peer broke the WebSocket protocol.
    ProtocolError = 1002,
    /// A text message was not UTF-8.
    InvalidPayload = 1007,
    /// A message was larger than the limit.
    MessageTooBig = 1009,
    /// The server is being replaced: connecting anew is worth while.
    ServiceRestart = 1012,
    /// The client keeps sending what is no message.
    BadMessages = 4400,
    /// The client asks faster than it takes answers.
    TooMany = 4429,
}

impl CloseCode {
    /// The number in the close frame.
    #[must_use]
    pub const fn number(self) -> u16 {
        self as u16
    }
}
