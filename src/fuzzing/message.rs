//! Text messages: whatever is read is written and read again as the same.

use super::allocated::{self, peak_of};
use crate::error::ErrorCode;
use crate::protocol::{
    ClientMessage, ServerMessage, decode_client_message, decode_server_message, encode_client_message, encode_message,
};

/// Bytes of memory for each byte of a message: the nodes of a JSON tree are an order of magnitude larger than the shortest texts for
/// them, `0,` and `[],`.
const BYTES_PER_BYTE: usize = 128;

const BYTES_AT_LEAST: usize = 16 * 1024;

pub(super) fn check(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let bytes_max = BYTES_AT_LEAST + BYTES_PER_BYTE * text.len();
    let (decoded, peak) = peak_of(|| decode_client_message(&text));
    allocated::check(peak, bytes_max);
    match decoded {
        Ok(message) => check_client_message(&message),
        Err(error) => {
            let codes = [ErrorCode::BadMessage, ErrorCode::Unsupported, ErrorCode::ParameterError];
            assert!(codes.contains(&error.code), "{error:?}");
            // With what it quotes of the message, escaped.
            assert!(
                error.message.len() <= 1024 + 6 * text.len(),
                "{} bytes",
                error.message.len()
            );
        }
    }
    let (decoded, peak) = peak_of(|| decode_server_message(&text));
    allocated::check(peak, bytes_max);
    if let Ok(Some(message)) = decoded {
        check_server_message(&message);
    }
}

/// Compared as text: a NaN is not equal to itself.
pub(super) fn check_client_message(message: &ClientMessage) {
    let written = client_text(message);
    let again = decode_client_message(&written).unwrap_or_else(|error| panic!("{written}: {error:?}"));
    assert_eq!(client_text(&again), written);
    assert_eq!(format!("{again:?}"), format!("{message:?}"));
}

fn client_text(message: &ClientMessage) -> String {
    let mut out = Vec::new();
    encode_client_message(message, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn check_server_message(message: &ServerMessage) {
    let written = server_text(message);
    let again = decode_server_message(&written).unwrap_or_else(|error| panic!("{written}: {error}"));
    assert_eq!(server_text(&again.unwrap()), written);
}

fn server_text(message: &ServerMessage) -> String {
    let mut out = Vec::new();
    encode_message(message, &mut out);
    String::from_utf8(out).unwrap()
}
