//! Names in double quotes: SQLite takes one that is no name for a text, if that is allowed, and cannot tell the text of a view from a
//! client's misspelt name. Written with other quotes, a name stays a name.
//!
//! Must not know connections.

/// The same statement with names in brackets or backticks where they were in double quotes, each byte of the rest in its place. `None` where
/// no such name is in it, or one that no other quotes can hold in as many bytes.
pub(super) fn without_double_quotes(sql: &str) -> Option<String> {
    let mut written = String::with_capacity(sql.len());
    let mut rest = sql;
    while let Some(at) = rest.find(['\'', '"', '[', '`', '-', '/']) {
        let (before, from) = rest.split_at(at);
        written.push_str(before);
        let len = token_len(from);
        let (token, after) = from.split_at(len);
        match token.strip_prefix('"').and_then(|token| token.strip_suffix('"')) {
            Some(name) => requoted(name, &mut written)?,
            None => written.push_str(token),
        }
        rest = after;
    }
    written.push_str(rest);
    Some(written)
}

/// How long the string, quoted name or comment is that `text` begins with; one byte where it is none. What is not closed goes to the end.
fn token_len(text: &str) -> usize {
    let through = |end: &str, skipped: usize| {
        let found = text.get(skipped..).and_then(|rest| rest.find(end));
        found.map_or(text.len(), |at| skipped + at + end.len())
    };
    match text.as_bytes() {
        [b'-', b'-', ..] => through("\n", 2),
        [b'/', b'*', ..] => through("*/", 2),
        [b'[', ..] => through("]", 1),
        [quote @ (b'\'' | b'"' | b'`'), ..] => {
            // A quote inside is written twice.
            let mut bytes = text.bytes().enumerate().skip(1).peekable();
            while let Some((at, byte)) = bytes.next() {
                if byte == *quote && bytes.next_if(|(_, next)| next == quote).is_none() {
                    return at + 1;
                }
            }
            text.len()
        }
        _ => 1,
    }
}

/// Writes a name that stood between double quotes. Spaces stand for the quotes that were written twice.
fn requoted(name: &str, out: &mut String) -> Option<()> {
    let plain = name.replace("\"\"", "\"");
    let (open, close) = if !plain.contains(']') {
        ('[', ']')
    } else if !plain.contains('`') {
        ('`', '`')
    } else {
        return None;
    };
    out.push(open);
    out.push_str(&plain);
    out.push(close);
    out.extend(std::iter::repeat_n(' ', name.len() - plain.len()));
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(sql: &str, expected: Option<&str>) {
        let written = without_double_quotes(sql);
        assert_eq!(written.as_deref(), expected);
        if let Some(written) = written {
            assert_eq!(written.len(), sql.len());
        }
    }

    #[test]
    fn names_keep_their_place_in_other_quotes() {
        check("SELECT 1", Some("SELECT 1"));
        check("SELECT \"a\", t.\"b c\" FROM t", Some("SELECT [a], t.[b c] FROM t"));
        check("SELECT \"a\"\"b\" + 1", Some("SELECT [a\"b]  + 1"));
        check("SELECT \"a]\", \"ä\"", Some("SELECT `a]`, [ä]"));
        check("SELECT \"\"", Some("SELECT []"));
        check("SELECT \"a]`\"", None);
    }

    #[test]
    fn strings_and_comments_are_left_alone() {
        for sql in [
            "SELECT 'a \"b\" c', 'it''s \"x\"'",
            "SELECT [a \"b\"], `a \"b\"`",
            "SELECT 1 -- \"a\"",
            "SELECT 1 /* \"a\" */ - 2 / 3",
            "SELECT '\"open",
            "SELECT \"open",
            "SELECT 1 /* \"a\"",
        ] {
            check(sql, Some(sql));
        }
        check(
            "SELECT 1 -- \"a\"\n, \"b\" /* \"c\" */ FROM '\"d\"'",
            Some("SELECT 1 -- \"a\"\n, [b] /* \"c\" */ FROM '\"d\"'"),
        );
    }
}
