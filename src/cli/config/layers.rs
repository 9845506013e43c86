//! Where settings come from: flags, then the environment, then the file, then the defaults.
//!
//! Must not know which settings there are, but for their names.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};

use super::kind::{Kind, Shape};

/// One setting, as every source of it needs to know it.
#[derive(Debug)]
pub(super) struct Entry {
    /// As in the file; with hyphens it is the flag, in capitals behind `ROWSTREAM_` the variable.
    pub(super) name: &'static str,
    pub(super) section: &'static str,
    pub(super) doc: &'static [&'static str],
    pub(super) shape: Shape,
    pub(super) value_name: &'static str,
    /// The default as the file would have it; `None` where there is none.
    pub(super) default: fn() -> Option<String>,
}

impl Entry {
    pub(super) fn flag(&self) -> String {
        self.name.replace('_', "-")
    }

    pub(super) fn variable(&self) -> String {
        format!("ROWSTREAM_{}", self.name.to_ascii_uppercase())
    }

    /// What it is for, in one line.
    pub(super) fn help(&self) -> String {
        let lines: Vec<_> = self.doc.iter().map(|line| line.trim()).collect();
        lines.join(" ")
    }
}

/// Who said what a setting is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    Flag(String),
    Environment(String),
    File(PathBuf),
    Default,
    /// The part of the default that a host of so much memory has room for.
    Host {
        memory_bytes: u64,
    },
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Flag(flag) => write!(f, "--{flag}"),
            Self::Environment(variable) => f.write_str(variable),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Default => f.write_str("default"),
            Self::Host { memory_bytes } => write!(f, "default for {} MiB of memory", memory_bytes >> 20),
        }
    }
}

/// A setting's value and who said it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) name: &'static str,
    pub(super) value: Option<String>,
    pub(super) source: Source,
}

/// All that was said, before it is read.
#[derive(Debug, Clone, Default)]
pub(super) struct Layers {
    said: BTreeMap<String, (Vec<String>, Source)>,
}

/// Adds a flag for each setting.
pub(super) fn augment(command: Command, entries: &'static [Entry]) -> Command {
    entries.iter().fold(command, |command, entry| {
        let mut help = entry.help();
        if let Some(default) = (entry.default)() {
            help.push_str(&format!(" [default: {}]", default.trim_matches('"')));
        }
        let arg = Arg::new(entry.name)
            .long(entry.flag())
            .env(entry.variable())
            .hide_env_values(true)
            .value_name(entry.value_name)
            .help_heading(entry.section)
            .help(help);
        command.arg(match entry.shape {
            Shape::Switch => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
            Shape::One => arg.action(ArgAction::Set),
            Shape::OneOr(value) => arg.num_args(0..=1).default_missing_value(value),
            Shape::List => arg.action(ArgAction::Append),
        })
    })
}

impl Layers {
    /// What flags and the environment say.
    pub(super) fn of_matches(matches: &ArgMatches, entries: &'static [Entry]) -> Self {
        let mut said = BTreeMap::new();
        for entry in entries {
            let source = match matches.value_source(entry.name) {
                Some(ValueSource::CommandLine) => Source::Flag(entry.flag()),
                Some(ValueSource::EnvVariable) => Source::Environment(entry.variable()),
                _ => continue,
            };
            let texts = matches.get_many::<String>(entry.name).into_iter().flatten();
            let texts: Vec<String> = match (&source, entry.shape) {
                (Source::Environment(_), Shape::List) => texts
                    .flat_map(|text| text.split(','))
                    .map(|text| text.trim().to_owned())
                    .filter(|text| !text.is_empty())
                    .collect(),
                _ => texts.cloned().collect(),
            };
            said.insert(entry.name.to_owned(), (texts, source));
        }
        Self { said }
    }

    /// Adds what the file at `path` says, where nothing else has said it.
    ///
    /// # Errors
    /// Every line that cannot be taken, each with a name that may have been meant.
    pub(super) fn add_file(&mut self, path: &Path, entries: &[Entry]) -> Result<(), Vec<String>> {
        let text = fs::read_to_string(path).map_err(|error| vec![format!("{}: {error}", path.display())])?;
        self.add_text(&text, path, entries)
    }

    fn add_text(&mut self, text: &str, path: &Path, entries: &[Entry]) -> Result<(), Vec<String>> {
        let table: toml::Table = text
            .parse()
            .map_err(|error: toml::de::Error| vec![format!("{}: {}", path.display(), error.to_string().trim_end())])?;
        let mut problems = Vec::new();
        for (name, value) in table {
            let Some(entry) = entries.iter().find(|entry| entry.name == name) else {
                problems.push(format!("{}: {}", path.display(), unknown(&name, entries)));
                continue;
            };
            if value.is_array() && entry.shape != Shape::List {
                problems.push(format!("{}: {name} takes one value, not a list", path.display()));
                continue;
            }
            match texts_of(&value) {
                Some(texts) => {
                    let source = Source::File(path.to_owned());
                    self.said.entry(name).or_insert((texts, source));
                }
                None => problems.push(format!(
                    "{}: {name}: a text, a number, true or false, or a list of texts",
                    path.display()
                )),
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// Reads one setting. Where that fails, `problems` says why, and the default stands in for it.
    pub(super) fn read<T: Kind>(
        &self,
        name: &'static str,
        default: T,
        shown: &mut Vec<Shown>,
        problems: &mut Vec<String>,
    ) -> T {
        let (value, source) = match self.said.get(name) {
            None => (default, Source::Default),
            Some((texts, source)) => match T::read(texts) {
                Ok(value) => (value, source.clone()),
                Err(expected) => {
                    problems.push(format!("{source}: {name} = {}: expected {expected}", texts.join(", ")));
                    (default, Source::Default)
                }
            },
        };
        shown.push(Shown {
            name,
            value: value.show(),
            source,
        });
        value
    }
}

fn unknown(name: &str, entries: &[Entry]) -> String {
    match nearest(name, entries) {
        Some(entry) => format!("there is no setting {name}; did you mean {}?", entry.name),
        None => format!("there is no setting {name}; `rowstream serve --print-default-config` has them all"),
    }
}

/// The setting that a wrong name may have meant.
pub(super) fn nearest<'a>(name: &str, entries: &'a [Entry]) -> Option<&'a Entry> {
    let likenesses = entries
        .iter()
        .map(|entry| (strsim::jaro_winkler(name, entry.name), entry));
    let (likeness, entry) = likenesses.max_by(|(one, _), (other, _)| one.total_cmp(other))?;
    (likeness > 0.8).then_some(entry)
}

/// A value of the file as the texts that a flag would have given.
fn texts_of(value: &toml::Value) -> Option<Vec<String>> {
    #[allow(clippy::wildcard_enum_match_arm)] // dates and tables are no setting's value
    match value {
        toml::Value::Array(items) => {
            let texts: Option<Vec<Vec<String>>> = items
                .iter()
                .map(|item| if item.is_array() { None } else { texts_of(item) })
                .collect();
            texts.map(|texts| texts.concat())
        }
        toml::Value::String(text) => Some(vec![text.clone()]),
        toml::Value::Integer(number) => Some(vec![number.to_string()]),
        toml::Value::Float(number) => Some(vec![number.to_string()]),
        toml::Value::Boolean(value) => Some(vec![value.to_string()]),
        _ => None,
    }
}

/// The file with every setting at its default, as comments.
pub(super) fn default_file(entries: &[Entry]) -> String {
    let mut text = "# Settings of `rowstream serve`. A flag goes before a variable of the environment, which goes before this file: `workers` here
# is --workers and ROWSTREAM_WORKERS. What is a comment here is the default.
"
    .to_owned();
    let mut section = "";
    for entry in entries {
        if entry.section != section {
            section = entry.section;
            text.push_str(&format!("\n# ---- {section}\n"));
        }
        text.push('\n');
        for line in entry.doc {
            text.push_str(&format!("# {}\n", line.trim()));
        }
        match (entry.default)() {
            Some(default) => text.push_str(&format!("#{} = {default}\n", entry.name)),
            None => text.push_str(&format!("#{} = # none\n", entry.name)),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRIES: &[Entry] = &[
        Entry {
            name: "workers",
            section: "Work",
            doc: &[" Threads that work."],
            shape: Shape::One,
            value_name: "N",
            default: || Some("4".to_owned()),
        },
        Entry {
            name: "allowed_hosts",
            section: "Who",
            doc: &[" Names."],
            shape: Shape::List,
            value_name: "TEXT",
            default: || Some("[]".to_owned()),
        },
        Entry {
            name: "insecure",
            section: "Who",
            doc: &[" Whether it is meant."],
            shape: Shape::Switch,
            value_name: "true|false",
            default: || Some("false".to_owned()),
        },
    ];

    fn layers(flags: &[&str]) -> Layers {
        let command = augment(Command::new("test").no_binary_name(true), ENTRIES);
        let matches = command.try_get_matches_from(flags).expect("flags that are known");
        Layers::of_matches(&matches, ENTRIES)
    }

    #[track_caller]
    fn check<T: Kind + PartialEq + std::fmt::Debug>(
        layers: &Layers,
        name: &'static str,
        default: T,
        expected: T,
        source: &str,
    ) {
        let (mut shown, mut problems) = (Vec::new(), Vec::new());
        let value = layers.read(name, default, &mut shown, &mut problems);
        assert_eq!((value, problems.as_slice()), (expected, &[][..]));
        assert_eq!(shown[0].source.to_string(), source);
    }

    #[test]
    fn a_flag_goes_before_the_file_and_the_file_before_the_default() {
        let mut layers = layers(&["--workers", "7", "--insecure"]);
        let file = "workers = 3\nallowed_hosts = [\"a\", \"b\"]\n";
        assert_eq!(layers.add_text(file, Path::new("f.toml"), ENTRIES), Ok(()));
        check(&layers, "workers", 4_usize, 7, "--workers");
        check(&layers, "insecure", false, true, "--insecure");
        let hosts = vec!["a".to_owned(), "b".to_owned()];
        check(&layers, "allowed_hosts", Vec::new(), hosts, "f.toml");
        check(&Layers::default(), "workers", 4_usize, 4, "default");
    }

    #[test]
    fn a_switch_can_be_turned_off_and_a_list_repeated() {
        let layers = layers(&["--insecure=false", "--allowed-hosts", "a", "--allowed-hosts", "b,c"]);
        check(&layers, "insecure", true, false, "--insecure");
        let hosts = vec!["a".to_owned(), "b,c".to_owned()];
        check(&layers, "allowed_hosts", Vec::new(), hosts, "--allowed-hosts");
    }

    #[test]
    fn what_the_file_should_not_say_is_refused_with_a_suggestion() {
        let mut layers = Layers::default();
        let file = "wokers = 3\nallowed_hosts = [[\"a\"]]\nsomething = 1\nworkers = [3]\n";
        let problems = layers
            .add_text(file, Path::new("f.toml"), ENTRIES)
            .expect_err("it is wrong");
        assert_eq!(problems.len(), 4, "{problems:?}");
        assert!(problems.contains(&"f.toml: workers takes one value, not a list".to_owned()));
        assert!(problems.contains(&"f.toml: there is no setting wokers; did you mean workers?".to_owned()));
        assert!(
            problems
                .iter()
                .any(|problem| problem.contains("--print-default-config"))
        );
        let problems = layers
            .add_text("workers = ", Path::new("f.toml"), ENTRIES)
            .expect_err("it is wrong");
        assert!(
            problems[0].starts_with("f.toml: TOML parse error at line 1"),
            "{problems:?}"
        );
    }

    #[test]
    fn a_value_that_does_not_fit_names_its_source() {
        let layers = layers(&["--workers", "many"]);
        let (mut shown, mut problems) = (Vec::new(), Vec::new());
        layers.read("workers", 4_u8, &mut shown, &mut problems);
        assert_eq!(
            problems,
            ["--workers: workers = many: expected a whole number from 0 to 255"]
        );
    }

    #[test]
    fn the_default_file_says_nothing_but_comments() {
        let text = default_file(ENTRIES);
        assert!(text.parse::<toml::Table>().is_ok_and(|table| table.is_empty()));
        assert!(
            text.contains("# ---- Work\n\n# Threads that work.\n#workers = 4\n"),
            "{text}"
        );
    }
}
