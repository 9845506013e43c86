//! How a failed query is told to a person: what went wrong, where in the query, and what to do.
//!
//! Must not know how the query was run.

use std::fmt::Write as _;

use crate::cli::text::printable;
use crate::client::ErrorMessage;

/// Characters of the query's line that are shown before and after the place.
const CONTEXT_CHARS: usize = 36;

/// The error in one or more lines, without a line end. All of it may come from a stranger's server.
pub(super) fn describe(error: &ErrorMessage, sql: &str) -> String {
    let mut text = format!("{}: {}", error.code, printable(&error.message));
    let codes: Vec<_> = [&error.engine_code, &error.sqlstate].into_iter().flatten().collect();
    for code in codes {
        write!(text, " ({})", printable(code)).expect("a String takes every text");
    }
    if let Some((line, caret)) = error.position.and_then(|position| point_at(sql, position as usize)) {
        write!(text, "\n  {line}\n  {caret}").expect("a String takes every text");
    }
    if let Some(hint) = &error.hint {
        write!(text, "\nhint: {}", printable(hint)).expect("a String takes every text");
    }
    text
}

/// The line of `sql` around the byte at `position`, and a line with a caret under it.
fn point_at(sql: &str, position: usize) -> Option<(String, String)> {
    if position > sql.len() || !sql.is_char_boundary(position) {
        return None;
    }
    let (before, after) = sql.split_at(position);
    let before = before.rsplit('\n').next().unwrap_or_default();
    let after = after.split('\n').next().unwrap_or_default();
    let n_before = before.chars().count();
    let skipped = n_before.saturating_sub(CONTEXT_CHARS);
    let mut line = if skipped > 0 { "…".to_owned() } else { String::new() };
    let shown: String = before.chars().skip(skipped).collect();
    line.push_str(&printable(&shown.replace('\t', " ")));
    let caret = format!("{}^", " ".repeat(line.chars().count()));
    let shown: String = after.chars().take(CONTEXT_CHARS).collect();
    line.push_str(&printable(&shown.replace('\t', " ")));
    if shown.len() < after.len() {
        line.push('…');
    }
    Some((line, caret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(sql: &str, position: usize, expected: Option<(&str, &str)>) {
        let pointed = point_at(sql, position);
        let pointed = pointed.as_ref().map(|(line, caret)| (line.as_str(), caret.as_str()));
        assert_eq!(pointed, expected);
    }

    #[test]
    fn the_caret_is_under_the_place() {
        check("SELEC 1", 0, Some(("SELEC 1", "^")));
        check("SELECT x", 7, Some(("SELECT x", "       ^")));
        check("SELECT", 6, Some(("SELECT", "      ^")));
        check("SELECT\n\tä, x\nFROM t", 12, Some((" ä, x", "    ^")));
        check("é", 1, None);
        check("x", 2, None);
        let long = format!("{}x{}", "a".repeat(50), "b".repeat(50));
        let line = format!("…{}x{}…", "a".repeat(36), "b".repeat(35));
        check(&long, 50, Some((&line, &format!("{}^", " ".repeat(37)))));
    }

    #[test]
    fn everything_known_is_said_and_nothing_acts_on_the_terminal() {
        let mut error = ErrorMessage::new(crate::error::ErrorCode::SyntaxError, "near \"x\u{1b}[2J\"");
        error.engine_code = Some("SQLITE_ERROR".to_owned());
        error.position = Some(7);
        error.hint = Some("try y".to_owned());
        assert_eq!(
            describe(&error, "SELECT x"),
            "SYNTAX_ERROR: near \"x\\u{1b}[2J\" (SQLITE_ERROR)\n  SELECT x\n         ^\nhint: try y"
        );
    }
}
