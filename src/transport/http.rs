//! Responses of HTTP/1.1 (RFC 9112) after which the connection ends: whatever answers in HTTP answers with one of these.
//!
//! Must not know requests.

/// A response with this body. `headers` are lines with their ends, or nothing; the body is left out where only the head was asked for.
pub(crate) fn respond(status: &str, content_type: &str, headers: &str, body: &str, head_only: bool) -> Vec<u8> {
    let mut response = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}; charset=utf-8\r\nContent-Length: {}\r\n\
Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n{headers}Connection: close\r\n\r\n",
        body.len()
    );
    if !head_only {
        response.push_str(body);
    }
    response.into_bytes()
}

/// A response that says in a line why there is no other.
pub(crate) fn refuse(status: &str, headers: &str, text: &str, head_only: bool) -> Vec<u8> {
    respond(status, "text/plain", headers, &format!("{text}\n"), head_only)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_is_that_of_the_body_also_where_it_is_left_out() {
        let texts = [false, true].map(|head_only| refuse("503 S", "Retry-After: 1\r\n", "\u{e9}", head_only));
        let [whole, head] = texts.map(|bytes| String::from_utf8(bytes).expect("text"));
        assert!(
            whole.starts_with("HTTP/1.1 503 S\r\n") && whole.contains("\r\nContent-Length: 3\r\n"),
            "{whole}"
        );
        assert!(
            whole.contains("\r\nRetry-After: 1\r\nConnection: close\r\n\r\n"),
            "{whole}"
        );
        assert_eq!(whole, head + "\u{e9}\n");
    }
}
