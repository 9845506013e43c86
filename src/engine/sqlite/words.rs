//! The words of a query's text: enough to tell what it is about, for messages and plans.
//!
//! Must not know SQLite or the engine.

/// The words of a statement in order, but for those of comments in front of it; those in later comments and in strings are among them.
pub(super) fn words(sql: &str) -> impl Iterator<Item = &str> {
    without_first_comments(sql)
        .split(|character: char| !character.is_alphanumeric() && character != '_')
        .filter(|word| !word.is_empty())
}

fn without_first_comments(sql: &str) -> &str {
    let mut rest = sql.trim_start();
    loop {
        let after = match (rest.strip_prefix("--"), rest.strip_prefix("/*")) {
            (Some(comment), _) => comment.split_once('\n'),
            (_, Some(comment)) => comment.split_once("*/"),
            _ => return rest,
        };
        let Some((_, after)) = after else { return "" };
        rest = after.trim_start();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(sql: &str, expected: &[&str]) {
        assert!(words(sql).eq(expected.iter().copied()), "{sql}");
    }

    #[test]
    fn words_are_found_wherever_they_stand() {
        check("select*from t1;", &["select", "from", "t1"]);
        check(" -- a\n/* b */--\n(SELECT 'c d') -- e", &["SELECT", "c", "d", "e"]);
        check("-- only a comment", &[]);
        check("/* open", &[]);
    }
}
