//! The program's log on standard error: one line an event, as text or as JSON, whatever is in it.
//!
//! Must not know what is logged.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::{panic, thread};

use log::Record;
use log::kv::{self, Key, VisitSource, VisitValue};
use serde::Serialize;
use serde_json::Value as Json;
use serde_json::ser::{Formatter, Serializer};

use super::text::{acts, printable, push_printable};

/// The most of a message, and of each value, before escaping. What is longer is cut, and ends in `…`.
const FIELD_BYTES_MAX: usize = 1024;

const CUT: &str = "…";

/// How events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum LogFormat {
    /// For people: `[time LEVEL] message key=value`.
    #[default]
    Text,
    /// For programs: an object with `ts`, `level`, `target`, `message`, and where there are any, key-values under `kv`.
    Json,
}

/// Writes what is logged from now on, as `RUST_LOG` selects it: what an operator must act on or should know of, where that says nothing.
/// The libraries below have nothing to say at that level.
///
/// # Panics
/// The second time.
pub(super) fn init(format: LogFormat) {
    let env = env_logger::Env::default().default_filter_or("warn");
    env_logger::Builder::from_env(env)
        .format(move |out, record| {
            let line = line(format, &out.timestamp_millis(), record);
            out.write_all(line.as_bytes())
        })
        .init();
    if format == LogFormat::Json {
        // What a panic says by itself is several lines of text.
        panic::set_hook(Box::new(|panic| {
            let place = panic.location().map(ToString::to_string);
            log::error!(thread = thread::current().name(), place = place, said = panic.payload_as_str(); "panicked");
        }));
    }
}

/// An event with the end of its line. `at` is in RFC 3339.
fn line(format: LogFormat, at: &dyn fmt::Display, record: &Record<'_>) -> String {
    let message = clipped(record.args());
    let mut fields = Fields::default();
    // Fails where a value fails to be shown; the others are there.
    let _shown = record.key_values().visit(&mut fields);
    let mut line = match format {
        LogFormat::Text => text_line(at, record, &message, &fields),
        LogFormat::Json => json_line(at, record, message, fields),
    };
    line.push('\n');
    line
}

fn text_line(at: &dyn fmt::Display, record: &Record<'_>, message: &str, Fields(fields): &Fields) -> String {
    let mut line = format!("[{at} {:<5}] {}", record.level(), printable(message));
    for (key, value) in fields {
        line.push(' ');
        push_printable(key, &mut line);
        line.push('=');
        if let Json::String(text) = value {
            push_value(text, &mut line);
        } else {
            write!(line, "{value}").expect("a String takes every text");
        }
    }
    line
}

/// In quotes where it could be taken for something else.
fn push_value(text: &str, line: &mut String) {
    let is_plain = |char: char| char.is_alphanumeric() || "-_.:/@+".contains(char);
    if !text.is_empty() && text.chars().all(is_plain) {
        line.push_str(text);
    } else {
        line.push('"');
        push_printable(&text.replace('\\', "\\\\").replace('"', "\\\""), line);
        line.push('"');
    }
}

fn json_line(at: &dyn fmt::Display, record: &Record<'_>, message: String, fields: Fields) -> String {
    #[derive(Serialize)]
    struct Event<'a> {
        ts: String,
        level: &'static str,
        target: &'a str,
        message: String,
        #[serde(skip_serializing_if = "Fields::is_empty")]
        kv: Fields,
    }

    let event = Event {
        ts: at.to_string(),
        level: record.level().as_str(),
        target: record.target(),
        message,
        kv: fields,
    };
    let mut line = Vec::new();
    let written = event.serialize(&mut Serializer::with_formatter(&mut line, Escaped));
    written.expect("texts and numbers are JSON, and a Vec takes every byte");
    String::from_utf8(line).expect("JSON is UTF-8")
}

/// The key-values of an event, in their order.
#[derive(Default)]
struct Fields(Vec<(String, Json)>);

impl Fields {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Fields {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

impl<'kvs> VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: kv::Value<'kvs>) -> Result<(), kv::Error> {
        let mut field = Field(None);
        value.visit(&mut field)?;
        self.0.extend(field.0.map(|json| (clipped(&key), json)));
        Ok(())
    }
}

/// One value; none where there is nothing to tell.
struct Field(Option<Json>);

impl<'v> VisitValue<'v> for Field {
    fn visit_any(&mut self, value: kv::Value<'_>) -> Result<(), kv::Error> {
        self.0 = Some(clipped(&value).into());
        Ok(())
    }

    fn visit_null(&mut self) -> Result<(), kv::Error> {
        Ok(())
    }

    fn visit_u64(&mut self, value: u64) -> Result<(), kv::Error> {
        self.0 = Some(value.into());
        Ok(())
    }

    fn visit_i64(&mut self, value: i64) -> Result<(), kv::Error> {
        self.0 = Some(value.into());
        Ok(())
    }

    fn visit_f64(&mut self, value: f64) -> Result<(), kv::Error> {
        self.0 = Some(value.into());
        Ok(())
    }

    fn visit_bool(&mut self, value: bool) -> Result<(), kv::Error> {
        self.0 = Some(value.into());
        Ok(())
    }
}

/// What it shows, as far as there is room. What is beyond is never made.
fn clipped(shown: &dyn fmt::Display) -> String {
    struct Clip(String);

    impl fmt::Write for Clip {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            let room = FIELD_BYTES_MAX - self.0.len();
            self.0.push_str(&text[..text.floor_char_boundary(room)]);
            if text.len() > room { Err(fmt::Error) } else { Ok(()) }
        }
    }

    let mut clip = Clip(String::new());
    let is_whole = write!(clip, "{shown}").is_ok();
    let Clip(mut text) = clip;
    if !is_whole {
        text.truncate(text.floor_char_boundary(FIELD_BYTES_MAX - CUT.len()));
        text.push_str(CUT);
    }
    text
}

/// Compact JSON that escapes all that acts on a terminal, which JSON itself would leave as it is.
struct Escaped;

impl Formatter for Escaped {
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, out: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(acts) {
            let (plain, acting) = rest.split_at(at);
            out.write_all(plain.as_bytes())?;
            let mut chars = acting.chars();
            for unit in chars.next().into_iter().flat_map(|char| {
                let mut units = [0; 2];
                char.encode_utf16(&mut units).to_vec()
            }) {
                write!(out, "\\u{unit:04x}")?;
            }
            rest = chars.as_str();
        }
        out.write_all(rest.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use log::Level;
    use serde_json::json;

    use super::*;

    const AT: &str = "2026-11-26T22:33:59.123Z";

    /// What somebody may have put into any text: acts on a terminal, ends lines, or looks like another field.
    const NASTY: &str = "a\r\nb\u{1b}[2J\0\u{7f}\u{9b}\u{85}\u{2028}\u{202e}\u{61c}\" k=v \\u000a é \u{1f600}";

    fn logged(format: LogFormat, message: &str, pairs: &[(&str, kv::Value<'_>)]) -> String {
        let args = format_args!("{message}");
        let record = Record::builder()
            .level(Level::Warn)
            .target("rowstream::x")
            .args(args)
            .key_values(&pairs)
            .build();
        line(format, &AT, &record)
    }

    #[track_caller]
    fn check_is_one_line(line: &str) {
        let text = line.strip_suffix('\n').expect("the line ends");
        assert!(!text.contains(acts), "{text:?}");
    }

    #[test]
    fn an_event_is_a_line_of_text() {
        let pairs = [
            ("connection", 7_u64.into()),
            ("nothing", kv::Value::from_display(&"")),
            ("engine", "shop".into()),
            ("said", "two words".into()),
            ("forged", "x\" principal=\"root".into()),
        ];
        assert_eq!(
            logged(LogFormat::Text, "stream accepted", &pairs),
            "[2026-11-26T22:33:59.123Z WARN ] stream accepted connection=7 nothing=\"\" engine=shop said=\"two words\" \
forged=\"x\\\" principal=\\\"root\"\n"
        );
        let nasty = logged(LogFormat::Text, NASTY, &[(NASTY, NASTY.into())]);
        check_is_one_line(&nasty);
        assert!(nasty.contains("a\\r\\nb\\u{1b}[2J\\u{0}"), "{nasty}");
    }

    #[test]
    fn an_event_is_an_object_of_json_that_reads_back() {
        let pairs = [
            ("connection", 7_u64.into()),
            ("left", (-7_i64).into()),
            ("share", 0.5.into()),
            ("ok", true.into()),
            ("absent", kv::ToValue::to_value(&None::<u64>)),
            ("sql", NASTY.into()),
            (NASTY, kv::Value::from_debug(&NASTY)),
        ];
        let line = logged(LogFormat::Json, NASTY, &pairs);
        check_is_one_line(&line);
        let debug = format!("{NASTY:?}");
        let expected = json!({"ts": AT, "level": "WARN", "target": "rowstream::x", "message": NASTY,
            "kv": {"connection": 7, "left": -7, "share": 0.5, "ok": true, "sql": NASTY, NASTY: debug}});
        assert_eq!(serde_json::from_str::<Json>(&line).ok(), Some(expected));
        let plain = logged(LogFormat::Json, "stopped", &[]);
        assert!(plain.ends_with("\"message\":\"stopped\"}\n"), "{plain}");
    }

    #[test]
    fn what_is_too_long_is_cut_between_characters() {
        let long = "é\n".repeat(1_000_000);
        for format in [LogFormat::Text, LogFormat::Json] {
            let line = logged(format, &long, &[("sql", long.as_str().into())]);
            check_is_one_line(&line);
            assert_eq!(line.matches('…').count(), 2);
        }
        let cut = clipped(&long);
        assert!(
            (FIELD_BYTES_MAX - 3..=FIELD_BYTES_MAX).contains(&cut.len()),
            "{}",
            cut.len()
        );
        let just_fits = "x".repeat(FIELD_BYTES_MAX);
        assert_eq!(clipped(&just_fits), just_fits);
    }
}
