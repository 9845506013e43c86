//! A strict reader of Prometheus' text exposition format, version 0.0.4: whatever a server may get wrong fails the test.

use std::collections::{BTreeMap, BTreeSet};

/// The samples of an exposition by their full names, labels included, as they are written.
#[derive(Debug)]
pub(crate) struct Samples {
    values: BTreeMap<String, f64>,
    /// Each family's kind.
    pub(crate) families: BTreeMap<String, String>,
}

impl Samples {
    /// Reads an exposition, and checks what must hold of each.
    pub(crate) fn parse(text: &str) -> Self {
        assert!(text.ends_with('\n'), "the last line has an end");
        let mut samples = Self {
            values: BTreeMap::new(),
            families: BTreeMap::new(),
        };
        let mut current: Option<(String, String)> = None;
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, help) = help.split_once(' ').unwrap();
                assert!(help.ends_with('.') && !help.contains('\\'), "{line}");
                let kind = lines.next().and_then(|line| line.strip_prefix("# TYPE "));
                let kind = kind
                    .and_then(|kind| kind.strip_prefix(name))
                    .unwrap_or_else(|| panic!("no TYPE after {line}"));
                let kind = kind.trim_start().to_owned();
                check_name(name, &kind);
                let before = samples.families.insert(name.to_owned(), kind.clone());
                assert_eq!(before, None, "{name} stands in one place");
                current = Some((name.to_owned(), kind));
                continue;
            }
            let (family, kind) = current
                .as_ref()
                .unwrap_or_else(|| panic!("a sample without a family: {line}"));
            let (full, value) = line.rsplit_once(' ').unwrap();
            let value: f64 = value.parse().unwrap();
            assert!(value.is_finite() && value >= 0.0, "{line}");
            let (name, labels) = full.split_once('{').unwrap_or((full, "}"));
            check_labels(labels);
            let suffix = name
                .strip_prefix(family.as_str())
                .unwrap_or_else(|| panic!("{line} in {family}"));
            let suffixes: &[&str] = match kind.as_str() {
                "histogram" => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            assert!(suffixes.contains(&suffix), "{line}");
            assert_eq!(suffix == "_bucket", labels.contains("le=\""), "{line}");
            assert_eq!(samples.values.insert(full.to_owned(), value), None, "{full} comes once");
        }
        samples.check_histograms(text);
        samples
    }

    /// Buckets are in order and cumulative, and the last is the count.
    fn check_histograms(&self, text: &str) {
        for (family, _) in self.families.iter().filter(|(_, kind)| *kind == "histogram") {
            let start = format!("{family}_bucket{{le=\"");
            let buckets: Vec<(f64, f64)> = text
                .lines()
                .filter_map(|line| line.strip_prefix(&start))
                .map(|rest| {
                    let (bound, n) = rest.split_once("\"} ").unwrap();
                    let bound = if bound == "+Inf" {
                        f64::INFINITY
                    } else {
                        bound.parse().unwrap()
                    };
                    (bound, n.parse().unwrap())
                })
                .collect();
            assert!(buckets.len() > 2, "{family}");
            for pair in buckets.windows(2) {
                assert!(pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1, "{family}: {pair:?}");
            }
            let (last, n) = buckets[buckets.len() - 1];
            assert!(last.is_infinite(), "{family}");
            assert_eq!(n.to_bits(), self.of(&format!("{family}_count")).to_bits(), "{family}");
            let sum = self.of(&format!("{family}_sum"));
            assert!(n > 0.0 || sum == 0.0, "{family}");
        }
    }

    /// The sample of that name after the common prefix, labels included.
    #[track_caller]
    pub(crate) fn get(&self, name: &str) -> u64 {
        let value = self.of(&format!("rowstream_{name}"));
        assert_eq!(value.fract(), 0.0, "{name} counts");
        value as u64
    }

    /// As [`get`](Self::get), of one that need not be whole.
    #[track_caller]
    pub(crate) fn seconds(&self, name: &str) -> f64 {
        self.of(&format!("rowstream_{name}"))
    }

    #[track_caller]
    fn of(&self, full: &str) -> f64 {
        *self.values.get(full).unwrap_or_else(|| panic!("no sample {full}"))
    }

    /// The sum of a family's samples.
    pub(crate) fn sum(&self, family: &str) -> u64 {
        let start = format!("rowstream_{family}{{");
        let of = self.values.iter().filter(|(name, _)| name.starts_with(&start));
        of.map(|(_, value)| *value as u64).sum()
    }

    /// All names that a query may use.
    pub(crate) fn names(&self) -> BTreeSet<&str> {
        self.values.keys().map(|name| name.split('{').next().unwrap()).collect()
    }
}

/// The conventions: a prefix, lower case, base units, `_total` on counters and on nothing else.
#[track_caller]
fn check_name(name: &str, kind: &str) {
    assert!(name.starts_with("rowstream_"), "{name}");
    assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
    assert!(["counter", "gauge", "histogram"].contains(&kind), "{name}: {kind}");
    assert_eq!(name.ends_with("_total"), kind == "counter", "{name}");
    assert!(kind != "histogram" || name.ends_with("_seconds"), "{name}");
    for unit in ["_ms", "_millis", "_kb", "_mb", "_kib", "_percent"] {
        assert!(!name.contains(unit), "{name} has a unit that is none of the base ones");
    }
}

/// `name="value",…}`, with names and values that need no escapes.
#[track_caller]
fn check_labels(labels: &str) {
    let inside = labels.strip_suffix('}').unwrap();
    let mut names = BTreeSet::new();
    for label in inside.split(',').filter(|label| !label.is_empty()) {
        let (name, value) = label.split_once('=').unwrap();
        assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{label}");
        assert!(names.insert(name), "{labels}");
        let value = value
            .strip_prefix('"')
            .and_then(|value| value.strip_suffix('"'))
            .unwrap();
        assert!(!value.is_empty() && value.len() <= 32, "{label}");
        assert!(
            value.chars().all(|c| c.is_ascii_alphanumeric() || "._+-".contains(c)),
            "{label}"
        );
    }
}
