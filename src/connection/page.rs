//! The page at `/`: what this is, and how to talk to it.
//!
//! Pure text. Must not know requests.

use std::fmt::Write as _;

/// The page has a style of its own and nothing else: no script, no frame, no form, nothing from elsewhere. What somebody types into the
/// browser's console there may connect to this server.
pub(super) const HEADERS: &str = "Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; \
connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\nReferrer-Policy: no-referrer\r\n";

/// The page, for somebody who calls the server `host` and gets to it by WebSocket under this scheme.
pub(super) fn page(scheme: &str, host: &str) -> String {
    let host = escaped(host);
    format!(
        r#"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>rowstream</title>
<style>body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 44rem; margin: 3rem auto; padding: 0 1rem }}
pre {{ background: #8882; padding: 1rem; overflow-x: auto }}</style>
<h1>rowstream</h1>
<p>This server streams the results of SQL queries over WebSocket, in batches as they are produced.</p>
<p>Connect to <code>{scheme}://{host}/ws</code> and send</p>
<pre>{{"type": "stream_query", "query": "SELECT 1 AS one", "batch_size": 100}}</pre>
<p>If the server asks for a token, send <code>{{"type": "hello", "token": "…"}}</code> first.</p>
<p>From a shell:</p>
<pre>rowstream query {scheme}://{host}/ws "SELECT 1 AS one"</pre>
<p>In this browser: open the developer tools (F12) on this page and paste this into the console.</p>
<pre>const url = new URL("ws", location.href);
url.protocol = url.protocol.replace("http", "ws");
const socket = new WebSocket(url);
socket.onopen = () =&gt; socket.send(JSON.stringify(
  {{type: "stream_query", query: "SELECT 1 AS one", batch_size: 100}}));
socket.onmessage = event =&gt; console.log(JSON.parse(event.data));</pre>
<p>Pages of other origins may connect once the setting <code>allowed_origins</code> lists them.</p>
</html>
"#
    )
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '<' | '>' | '&' | '"' | '\'' => {
                write!(out, "&#{};", u32::from(character)).expect("a String takes every character");
            }
            character if character.is_control() => {}
            character => out.push(character),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_shows_the_host_as_text() {
        let page = page("wss", "<h>&\"'\u{7f}:1");
        assert_eq!(
            page.matches("wss://&#60;h&#62;&#38;&#34;&#39;:1/ws").count(),
            2,
            "{page}"
        );
    }

    #[test]
    fn what_the_page_has_pasted_into_its_console_connects_to_where_it_came_from() {
        let page = page("ws", "h");
        let snippet = page.rsplit("<pre>").next().unwrap_or_default();
        assert!(snippet.contains("new URL(\"ws\", location.href)"), "{snippet}");
        assert!(
            !snippet.contains("://"),
            "what is in front of the server may speak TLS: {snippet}"
        );
        assert!(HEADERS.contains("; connect-src 'self';"));
    }
}
