//! Text from elsewhere, made safe for a terminal.
//!
//! Must not know where the text comes from.

use std::fmt::Write as _;

/// Appends `text` with everything escaped that would move the cursor, change the colours or turn the writing round.
pub(super) fn push_printable(text: &str, out: &mut String) {
    for char in text.chars() {
        match char {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            char if acts(char) => {
                write!(out, "\\u{{{:x}}}", u32::from(char)).expect("a String takes every text");
            }
            char => out.push(char),
        }
    }
}

/// As [`push_printable`], into a text of its own.
pub(super) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    push_printable(text, &mut out);
    out
}

/// Whether it would do something rather than be seen.
pub(super) fn acts(char: char) -> bool {
    char.is_control() || is_invisible(char)
}

/// Line breaks that are no control characters, and marks that change the direction of writing.
fn is_invisible(char: char) -> bool {
    matches!(
        char,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(printable(text), expected);
    }

    #[test]
    fn what_acts_on_a_terminal_is_shown_instead() {
        check("plain é 漢 \u{1f600} \\", "plain é 漢 \u{1f600} \\");
        check("a\nb\r\tc", "a\\nb\\r\\tc");
        check("\u{1b}[31m\0\u{7f}\u{9b}", "\\u{1b}[31m\\u{0}\\u{7f}\\u{9b}");
        check("\u{202e}abc\u{2028}\u{61c}", "\\u{202e}abc\\u{2028}\\u{61c}");
    }
}
