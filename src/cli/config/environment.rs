//! Which variables of the environment belong to `rowstream serve`: a name that nothing reads is a mistake, and refused.
//!
//! Must not know what settings mean.

use super::layers::{Entry, nearest};

/// What the variables of all commands begin with.
const PREFIX: &str = "ROWSTREAM_";

/// Variables that are no setting's: of the other commands, and of this project's own tests, which start servers.
const OTHERS: [&str; 6] = [
    "ROWSTREAM_CONFIG",
    "ROWSTREAM_TOKEN",
    "ROWSTREAM_CA",
    "ROWSTREAM_FUZZ_CASES",
    "ROWSTREAM_NODE_MODULES",
    "ROWSTREAM_WRITE_SCHEMA",
];

/// What further variables of the tests begin with.
const TESTS: &str = "ROWSTREAM_TEST_";

/// A line for each of these variables, names and values, that nothing reads, in the order of their names. Of values nothing is said: one
/// may be a secret.
pub(super) fn problems(variables: impl Iterator<Item = (String, String)>, entries: &[Entry]) -> Vec<String> {
    let is_read = |name: &str, value: &str| {
        entries.iter().any(|entry| entry.variable() == name)
            || OTHERS.contains(&name)
            || name.starts_with(TESTS)
            || is_of_a_service(name, value)
    };
    let mut unread: Vec<String> = variables
        .filter(|(name, value)| name.starts_with(PREFIX) && !is_read(name, value))
        .map(|(name, _)| name)
        .collect();
    unread.sort_unstable();
    unread.into_iter().map(|name| problem(&name, entries)).collect()
}

fn problem(name: &str, entries: &[Entry]) -> String {
    let setting = name.strip_prefix(PREFIX).unwrap_or(name).to_ascii_lowercase();
    let advice = match nearest(&setting, entries) {
        Some(entry) => format!("did you mean {}?", entry.variable()),
        None => "`rowstream serve --help` lists the settings; unset the variable if it is not meant for rowstream"
            .to_owned(),
    };
    format!("{name}: no setting has this name; {advice}")
}

/// Whether Kubernetes or Docker's links set such a variable, for a service called `rowstream` or `rowstream-…`:
/// `ROWSTREAM_SERVICE_HOST`, `ROWSTREAM_PORT=tcp://10.0.0.7:8080`, `ROWSTREAM_PORT_8080_TCP_ADDR`.
fn is_of_a_service(name: &str, value: &str) -> bool {
    let is_number = |rest: &str| rest.starts_with(|first: char| first.is_ascii_digit());
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || (name.ends_with("_PORT") && value.contains("://"))
        || name.split_once("_PORT_").is_some_and(|(_, rest)| is_number(rest))
}

#[cfg(test)]
mod tests {
    use super::super::ENTRIES;
    use super::*;

    fn problems_of(names: &[&str], value: &str) -> Vec<String> {
        let variables = names.iter().map(|name| ((*name).to_owned(), value.to_owned()));
        problems(variables, ENTRIES)
    }

    #[test]
    fn a_name_that_nothing_reads_is_a_problem_and_the_likely_one_is_told() {
        let names = [
            "ROWSTREAM_WORKRS",
            "ROWSTREAM_STAL_LIMIT",
            "ROWSTREAM_XYZZY",
            "rowstream_x",
            "PATH",
        ];
        let problems = problems_of(&names, "hunter2");
        assert_eq!(
            problems[..2],
            [
                "ROWSTREAM_STAL_LIMIT: no setting has this name; did you mean ROWSTREAM_STALL_LIMIT?",
                "ROWSTREAM_WORKRS: no setting has this name; did you mean ROWSTREAM_WORKERS?",
            ]
        );
        assert!(
            problems[2].starts_with("ROWSTREAM_XYZZY: ") && problems[2].contains("--help"),
            "{problems:?}"
        );
        assert_eq!(problems.len(), 3);
        assert_eq!(problems_of(&["ROWSTREAM_PORT"], "8080").len(), 1);
    }

    #[test]
    fn what_others_read_or_set_is_no_problem() {
        let of_settings: Vec<String> = ENTRIES.iter().map(Entry::variable).collect();
        let of_settings: Vec<&str> = of_settings.iter().map(String::as_str).collect();
        let is_ambiguous = |name: &&&str| is_of_a_service(name, "://");
        assert_eq!(of_settings.iter().find(is_ambiguous), None);
        let of_services = [
            "ROWSTREAM_SERVICE_HOST",
            "ROWSTREAM_SERVICE_PORT",
            "ROWSTREAM_SERVICE_PORT_HTTP",
            "ROWSTREAM_PORT",
            "ROWSTREAM_PORT_8080_TCP",
            "ROWSTREAM_PORT_8080_TCP_ADDR",
            "ROWSTREAM_READERS_SERVICE_HOST",
            "ROWSTREAM_READERS_PORT_443_TCP_PROTO",
        ];
        for names in [&of_settings[..], &OTHERS, &["ROWSTREAM_TEST_SEED"], &of_services] {
            assert_eq!(problems_of(names, "tcp://10.0.0.7:8080"), Vec::<String>::new());
        }
    }
}
