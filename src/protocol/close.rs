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
    /// The peer went beyond a limit on what is no message: pings, fragments, the time for a message to come.
    PolicyViolation = 1008,
    /// A message was larger than the limit.
    MessageTooBig = 1009,
    /// The server is being replaced: connecting anew is worth while.
    ServiceRestart = 1012,
    /// The server has no room, or cannot do it now; later it may.
    TryAgainLater = 1013,
    /// The client keeps sending what is no message.
    BadMessages = 4400,
    /// The server wants to know who the client is, and does not.
    Unauthenticated = 4401,
    /// The client may not come in, or not as somebody else.
    Forbidden = 4403,
    /// The client has not said who it is in time.
    AuthTimeout = 4408,
    /// The client asks faster than it takes answers, or than it may, or has shown too many wrong tokens.
    TooMany = 4429,
}

impl CloseCode {
    /// The number in the close frame.
    #[must_use]
    pub const fn number(self) -> u16 {
        self as u16
    }
}
