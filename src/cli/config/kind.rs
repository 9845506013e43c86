//! What a setting can be: how its text is read, and how its value is shown.
//!
//! A setting is text wherever it comes from, a flag, the environment or the file, and is read here in one way. Must not know which
//! settings there are.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;

use crate::cli::demo::Scale;
use crate::cli::logging::LogFormat;
use crate::engine::sqlite::SqliteProfile;
use crate::server::Rate;

/// How many texts a setting has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// One, which may be left out for `true`.
    Switch,
    One,
    /// One, which may be left out for this.
    OneOr(&'static str),
    /// Any number; in the environment with commas between.
    List,
}

/// A type that settings have.
pub(super) trait Kind: Sized {
    const SHAPE: Shape = Shape::One;
    /// What stands for the value in a usage text.
    const VALUE_NAME: &'static str;

    /// Reads the texts given, at least one.
    ///
    /// # Errors
    /// What would be right instead.
    fn read(texts: &[String]) -> Result<Self, String>;

    /// The value as the file has it; `None` where it is none.
    fn show(&self) -> Option<String>;
}

/// Bytes: a number, or one with `KiB`, `MiB`, `GiB`, `kB`, `MB` or `GB` behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) struct Bytes(pub(in crate::cli) u64);

impl Bytes {
    /// As a size in memory; what is beyond the address space is as good as all of it.
    pub(in crate::cli) fn in_memory(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

fn one(texts: &[String]) -> Result<&str, String> {
    match texts {
        [text] => Ok(text),
        _ => Err("one value, not a list".to_owned()),
    }
}

/// A text as TOML has it.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

impl Kind for bool {
    const SHAPE: Shape = Shape::Switch;
    const VALUE_NAME: &'static str = "true|false";

    fn read(texts: &[String]) -> Result<Self, String> {
        match one(texts)? {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err("true or false".to_owned()),
        }
    }

    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

macro_rules! number_kind {
    ($($number:ty)*) => {$(
        impl Kind for $number {
            const VALUE_NAME: &'static str = "N";

            fn read(texts: &[String]) -> Result<Self, String> {
                one(texts)?.parse().map_err(|_| format!("a whole number from 0 to {}", <$number>::MAX))
            }

            fn show(&self) -> Option<String> {
                Some(self.to_string())
            }
        }
    )*};
}

number_kind!(u8 u32 u64 usize);

impl Kind for Bytes {
    const VALUE_NAME: &'static str = "BYTES";

    fn read(texts: &[String]) -> Result<Self, String> {
        let size: Result<ByteSize, _> = one(texts)?.parse();
        size.map(|size| Self(size.as_u64()))
            .map_err(|_| "a number of bytes, such as 65536 or \"64KiB\"".to_owned())
    }

    fn show(&self) -> Option<String> {
        const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        let exact = UNITS
            .iter()
            .find(|(unit, _)| self.0 > 0 && self.0.is_multiple_of(*unit));
        Some(match exact {
            Some((unit, name)) => quoted(&format!("{}{name}", self.0 / unit)),
            None => self.0.to_string(),
        })
    }
}

impl Kind for Duration {
    const VALUE_NAME: &'static str = "TIME";

    fn read(texts: &[String]) -> Result<Self, String> {
        let text = one(texts)?;
        humantime::parse_duration(text)
            .map_err(|_| "a time with its unit, such as \"250ms\", \"30s\" or \"5min\"".to_owned())
    }

    fn show(&self) -> Option<String> {
        Some(quoted(&humantime::format_duration(*self).to_string()))
    }
}

impl Kind for String {
    const VALUE_NAME: &'static str = "TEXT";

    fn read(texts: &[String]) -> Result<Self, String> {
        one(texts).map(str::to_owned)
    }

    fn show(&self) -> Option<String> {
        Some(quoted(self))
    }
}

impl Kind for PathBuf {
    const VALUE_NAME: &'static str = "FILE";

    fn read(texts: &[String]) -> Result<Self, String> {
        match one(texts)? {
            "" => Err("the path of a file".to_owned()),
            path => Ok(path.into()),
        }
    }

    fn show(&self) -> Option<String> {
        Some(quoted(&self.to_string_lossy()))
    }
}

/// A list is given whole: a flag that is repeated replaces what the file says.
impl Kind for Vec<String> {
    const SHAPE: Shape = Shape::List;
    const VALUE_NAME: &'static str = "TEXT";

    fn read(texts: &[String]) -> Result<Self, String> {
        Ok(texts.to_vec())
    }

    fn show(&self) -> Option<String> {
        let items: Vec<String> = self.iter().map(|item| quoted(item)).collect();
        Some(format!("[{}]", items.join(", ")))
    }
}

/// What may be `off`: then there is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) struct OrOff<T>(pub(in crate::cli) Option<T>);

impl<T: Kind> Kind for OrOff<T> {
    const VALUE_NAME: &'static str = T::VALUE_NAME;

    fn read(texts: &[String]) -> Result<Self, String> {
        if one(texts)? == "off" {
            return Ok(Self(None));
        }
        T::read(texts)
            .map(|value| Self(Some(value)))
            .map_err(|right| format!("{right}, or \"off\""))
    }

    fn show(&self) -> Option<String> {
        self.0.as_ref().map_or_else(|| Some(quoted("off")), T::show)
    }
}

/// How often something may happen: a second on average, and at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) struct RateLimit(pub(in crate::cli) Rate);

impl Kind for RateLimit {
    const VALUE_NAME: &'static str = "RATE/BURST";

    fn read(texts: &[String]) -> Result<Self, String> {
        let number = |text: &str| text.trim().parse().ok();
        let rate = one(texts)?.split_once('/').and_then(|(rate, burst)| {
            let (per_second, burst) = (number(rate)?, number(burst)?);
            Some(Self(Rate::new(per_second, burst)))
        });
        rate.ok_or_else(|| "how many a second and how many at once, such as \"200/400\"".to_owned())
    }

    fn show(&self) -> Option<String> {
        Some(quoted(&format!("{}/{}", self.0.per_second, self.0.burst)))
    }
}

/// Whose queries a database answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Profile {
    Untrusted,
    Trusted,
}

impl From<Profile> for SqliteProfile {
    fn from(profile: Profile) -> Self {
        match profile {
            Profile::Untrusted => Self::Untrusted,
            Profile::Trusted => Self::Trusted,
        }
    }
}

impl Kind for Profile {
    const VALUE_NAME: &'static str = "untrusted|trusted";

    fn read(texts: &[String]) -> Result<Self, String> {
        match one(texts)? {
            "untrusted" => Ok(Self::Untrusted),
            "trusted" => Ok(Self::Trusted),
            _ => Err("\"untrusted\" or \"trusted\"".to_owned()),
        }
    }

    fn show(&self) -> Option<String> {
        Some(quoted(match self {
            Self::Untrusted => "untrusted",
            Self::Trusted => "trusted",
        }))
    }
}

impl Kind for LogFormat {
    const VALUE_NAME: &'static str = "text|json";

    fn read(texts: &[String]) -> Result<Self, String> {
        match one(texts)? {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("\"text\" or \"json\"".to_owned()),
        }
    }

    fn show(&self) -> Option<String> {
        Some(quoted(match self {
            Self::Text => "text",
            Self::Json => "json",
        }))
    }
}

/// How much demo data there is to be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::cli) struct DemoScale(pub(in crate::cli) Scale);

impl Kind for DemoScale {
    const SHAPE: Shape = Shape::OneOr("0.1");
    const VALUE_NAME: &'static str = "SCALE";

    fn read(texts: &[String]) -> Result<Self, String> {
        one(texts)?
            .parse()
            .map(Self)
            .map_err(|error| format!("a scale: {error}"))
    }

    fn show(&self) -> Option<String> {
        Some(self.0.to_string())
    }
}

/// What may be left out altogether.
impl<T: Kind> Kind for Option<T> {
    const SHAPE: Shape = T::SHAPE;
    const VALUE_NAME: &'static str = T::VALUE_NAME;

    fn read(texts: &[String]) -> Result<Self, String> {
        T::read(texts).map(Some)
    }

    fn show(&self) -> Option<String> {
        self.as_ref().and_then(T::show)
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use super::*;

    #[track_caller]
    fn check<T: Kind + PartialEq + Debug>(text: &str, value: T, shown: &str) {
        assert_eq!(T::read(&[text.to_owned()]), Ok(value), "{text}");
        let value = T::read(&[text.to_owned()]).ok().and_then(|value| value.show());
        assert_eq!(value.as_deref(), Some(shown));
    }

    #[test]
    fn what_is_shown_is_what_was_said() {
        check("true", true, "true");
        check("17", 17_usize, "17");
        check("64KiB", Bytes(65_536), "\"64KiB\"");
        check("1536", Bytes(1_536), "1536");
        check("3 MB", Bytes(3_000_000), "3000000");
        check("0", Bytes(0), "0");
        check("1GiB", Bytes(1 << 30), "\"1GiB\"");
        check("90s", Duration::from_secs(90), "\"1m 30s\"");
        check("250ms", Duration::from_millis(250), "\"250ms\"");
        check("a \"b\"", "a \"b\"".to_owned(), "'a \"b\"'");
        check("8", Some(8_u8), "8");
        check("off", OrOff::<usize>(None), "\"off\"");
        check("32", OrOff(Some(32_usize)), "32");
        check("200/400", RateLimit(Rate::new(200, 400)), "\"200/400\"");
        check("trusted", Profile::Trusted, "\"trusted\"");
    }

    #[test]
    fn what_is_shown_reads_back() {
        for bytes in [0, 1, 1_023, 1_024, 1 << 40, u64::MAX] {
            let shown = Bytes(bytes).show().unwrap_or_default().replace('"', "");
            assert_eq!(Bytes::read(&[shown]), Ok(Bytes(bytes)));
        }
        for millis in [0, 1, 999, 60_000, 86_400_000, 90_061_001] {
            let time = Duration::from_millis(millis);
            let shown = time.show().unwrap_or_default().replace('"', "");
            assert_eq!(Duration::read(&[shown]), Ok(time));
        }
    }

    #[test]
    fn what_is_wrong_is_told_what_would_be_right() {
        let wrong = |text: &str| vec![text.to_owned()];
        assert_eq!(u8::read(&wrong("256")), Err("a whole number from 0 to 255".to_owned()));
        assert!(u32::read(&wrong("-1")).is_err() && usize::read(&wrong("1.5")).is_err());
        assert!(Duration::read(&wrong("30")).is_err(), "thirty of what?");
        assert!(Bytes::read(&wrong("many")).is_err() && bool::read(&wrong("yes")).is_err());
        assert!(String::read(&["a".to_owned(), "b".to_owned()]).is_err());
        assert!(PathBuf::read(&wrong("")).is_err());
    }
}
