//! The text exposition format of Prometheus, version 0.0.4, as far as a server needs it.
//!
//! By hand: it is three kinds of line, and the libraries bring registries of their own. Must not know what is exposed.

use std::fmt::{Display, Write};

use crate::metrics::Histogram;

/// What the format is called in `Content-Type`; the character set follows.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4";

/// Stands in front of each name.
const PREFIX: &str = "rowstream_";

/// A text that grows family by family.
#[derive(Debug, Default)]
pub(super) struct Exposition {
    text: String,
}

impl Exposition {
    /// A value that goes up and down.
    pub(super) fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "gauge", help);
        self.sample(name, "", value);
    }

    /// A value that only grows; the name ends in `_total`.
    pub(super) fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "counter", help);
        self.sample(name, "", value);
    }

    /// As [`gauge`](Self::gauge), for each value of a label.
    pub(super) fn gauges<V: Display>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (&'static str, V)>,
    ) {
        self.family(name, "gauge", help);
        self.labelled(name, label, values);
    }

    /// As [`counter`](Self::counter), for each value of a label.
    pub(super) fn counters<V: Display>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (&'static str, V)>,
    ) {
        self.family(name, "counter", help);
        self.labelled(name, label, values);
    }

    /// How often a time was how long; the name ends in `_seconds`.
    pub(super) fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.family(name, "histogram", help);
        let (below, n) = histogram.cumulative();
        let bucket = format!("{name}_bucket");
        for (bound, n_below) in below {
            self.sample(&bucket, &format!("{{le=\"{bound}\"}}"), n_below);
        }
        self.sample(&bucket, "{le=\"+Inf\"}", n);
        self.sample(&format!("{name}_sum"), "", histogram.sum_seconds());
        self.sample(&format!("{name}_count"), "", n);
    }

    /// What is 1 so that its labels can be looked up.
    pub(super) fn facts(&mut self, name: &str, help: &str, labels: &[(&str, &str)]) {
        self.family(name, "gauge", help);
        let labels: Vec<_> = labels
            .iter()
            .map(|(label, value)| format!("{label}=\"{value}\""))
            .collect();
        self.sample(name, &format!("{{{}}}", labels.join(",")), 1);
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }

    fn labelled<V: Display>(&mut self, name: &str, label: &str, values: impl IntoIterator<Item = (&'static str, V)>) {
        for (of, value) in values {
            self.sample(name, &format!("{{{label}=\"{of}\"}}"), value);
        }
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.write(format_args!(
            "# HELP {PREFIX}{name} {help}\n# TYPE {PREFIX}{name} {kind}\n"
        ));
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl Display) {
        self.write(format_args!("{PREFIX}{name}{labels} {value}\n"));
    }

    fn write(&mut self, line: std::fmt::Arguments<'_>) {
        self.text.write_fmt(line).expect("a String takes every character");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_kind_of_line_is_as_prometheus_has_it() {
        let histogram = Histogram::default();
        histogram.observe(Duration::from_millis(20));
        let mut exposition = Exposition::default();
        exposition.gauge("threads", "How many.", 3);
        exposition.counters("ends_total", "By how.", "outcome", [("good", 1_u64), ("bad", 0)]);
        exposition.counters("blocked_seconds_total", "By what.", "reason", [("socket", 0.000_001)]);
        exposition.facts("build_info", "What.", &[("version", "1.2"), ("sqlite", "3")]);
        exposition.histogram("wait_seconds", "How long.", &histogram);
        let text = exposition.into_text();
        let expected = "\
# HELP rowstream_threads How many.
# TYPE rowstream_threads gauge
rowstream_threads 3
# HELP rowstream_ends_total By how.
# TYPE rowstream_ends_total counter
rowstream_ends_total{outcome=\"good\"} 1
rowstream_ends_total{outcome=\"bad\"} 0
# HELP rowstream_blocked_seconds_total By what.
# TYPE rowstream_blocked_seconds_total counter
rowstream_blocked_seconds_total{reason=\"socket\"} 0.000001
# HELP rowstream_build_info What.
# TYPE rowstream_build_info gauge
rowstream_build_info{version=\"1.2\",sqlite=\"3\"} 1
# HELP rowstream_wait_seconds How long.
# TYPE rowstream_wait_seconds histogram
rowstream_wait_seconds_bucket{le=\"0.001\"} 0
";
        assert!(text.starts_with(expected), "{text}");
        let end = "\
rowstream_wait_seconds_bucket{le=\"300\"} 1
rowstream_wait_seconds_bucket{le=\"+Inf\"} 1
rowstream_wait_seconds_sum 0.02
rowstream_wait_seconds_count 1
";
        assert!(text.ends_with(end), "{text}");
        assert!(
            text.contains("{le=\"0.01\"} 0\n") && text.contains("{le=\"0.025\"} 1\n"),
            "{text}"
        );
    }
}
