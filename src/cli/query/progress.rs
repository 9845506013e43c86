//! The progress line on standard error: a bar where the server honestly knows a total, a spinner otherwise.
//!
//! Must not know connections or formats.

use std::time::Duration;

use indicatif::{HumanCount, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::client::{BlockedBy, ProgressMessage};

/// How often the line is drawn while nothing else happens, so that its clock runs.
const TICK: Duration = Duration::from_millis(100);

/// The bar's whole length: a tenth of a percent each.
const BAR_LENGTH: u64 = 1_000;

#[derive(Debug)]
pub(super) struct ProgressLine {
    bar: ProgressBar,
    has_bar: bool,
}

impl ProgressLine {
    /// Draws on standard error where that is a terminal.
    pub(super) fn new(is_wanted: bool) -> Self {
        let target = if is_wanted {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(None, target).with_style(style("{spinner} {elapsed} {msg}"));
        bar.set_message("waiting for the server");
        if !bar.is_hidden() {
            bar.enable_steady_tick(TICK);
        }
        Self { bar, has_bar: false }
    }

    pub(super) fn is_shown(&self) -> bool {
        !self.bar.is_hidden()
    }

    pub(super) fn queued(&self, position: u64) {
        self.bar.set_message(format!("waiting for its turn, number {position}"));
    }

    pub(super) fn started(&self) {
        self.bar.set_message("running");
    }

    pub(super) fn reconnecting(&self) {
        self.bar.set_message("reconnecting…");
    }

    pub(super) fn resumed(&self) {
        self.bar.set_message("resumed");
    }

    pub(super) fn update(&mut self, progress: &ProgressMessage) {
        self.bar.set_message(message(progress));
        if let Some(percentage) = Shown::of(progress).percentage {
            if !self.has_bar {
                self.has_bar = true;
                self.bar.set_style(style("{bar:20} {elapsed} {msg}"));
                self.bar.set_length(BAR_LENGTH);
            }
            self.bar.set_position((percentage * 10.0) as u64);
        }
    }

    /// Runs `write` while the line is out of the way.
    pub(super) fn aside<T>(&self, write: impl FnOnce() -> T) -> T {
        if self.is_shown() {
            self.bar.suspend(write)
        } else {
            write()
        }
    }

    /// Takes the line away. Returns how long it all took.
    pub(super) fn finish(self) -> Duration {
        let elapsed = self.bar.elapsed();
        self.bar.finish_and_clear();
        elapsed
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates above are well-formed")
}

/// What has come here, or how far the engine is where a server says no more.
struct Shown {
    percentage: Option<f64>,
    rows: u64,
}

impl Shown {
    fn of(progress: &ProgressMessage) -> Self {
        match &progress.detail {
            Some(detail) => Self {
                percentage: detail.percentage_delivered.or(progress.percentage),
                rows: detail.rows_sent,
            },
            None => Self {
                percentage: progress.percentage,
                rows: progress.rows_processed,
            },
        }
    }
}

/// The words beside bar or spinner.
fn message(progress: &ProgressMessage) -> String {
    let Shown { percentage, rows } = Shown::of(progress);
    let mut message = String::new();
    if let Some(percentage) = percentage {
        message.push_str(&format!("{percentage:.0}% "));
    }
    message.push_str(&format!(
        "{} rows, {}/s",
        HumanCount(rows),
        HumanCount(progress.throughput.max(0.0) as u64)
    ));
    let eta_ms = progress.detail.as_ref().and_then(|detail| detail.eta_ms);
    if let Some(eta_ms) = eta_ms {
        message.push_str(&format!(", {:#} left", HumanDuration(Duration::from_millis(eta_ms))));
    }
    let blocked_by = progress.detail.as_ref().and_then(|detail| detail.blocked_by);
    if let Some(blocked_by) = blocked_by {
        message.push_str(&format!(", waiting for {}", awaited(blocked_by)));
    }
    message
}

/// What a stream waits for whose client is this program: it acknowledges rows as it writes them.
fn awaited(blocked_by: BlockedBy) -> &'static str {
    match blocked_by {
        BlockedBy::WindowBatches | BlockedBy::WindowBytes => "its output to be read",
        BlockedBy::Connection => "the network",
        BlockedBy::Memory => "the server's memory",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

    use super::*;

    #[track_caller]
    fn check(fields: &str, expected: &str) {
        let json = format!(
            "{{\"stream_id\":\"6f1c0f0e-5a52-4d6f-9d54-1f1b5b0a7c11\",\"rows_processed\":1234567,\"throughput\":8912.7{fields}}}"
        );
        assert_eq!(message(&serde_json::from_str(&json).unwrap()), expected);
    }

    #[test]
    fn the_words_say_what_is_known() {
        check(",\"percentage\":null", "1,234,567 rows, 8,912/s");
        check(",\"percentage\":41.6", "42% 1,234,567 rows, 8,912/s");
        check(
            ",\"percentage\":41.6,\"eta_ms\":90000,\"elapsed_ms\":1,\"phase\":\"streaming\",\"total_rows\":5,
              \"total_kind\":\"exact\",\"rows_sent\":1,\"bytes_sent\":1,\"queue_depth\":0",
            "42% 1 rows, 8,912/s, 2m left",
        );
        // What has come here is what counts, not what the engine has read.
        check(
            ",\"percentage\":41.6,\"percentage_delivered\":7.6,\"eta_ms\":null,\"elapsed_ms\":1,\"phase\":\"waiting_client\",
              \"total_rows\":5,\"total_kind\":\"exact\",\"rows_sent\":225000,\"bytes_sent\":1,\"queue_depth\":0",
            "8% 225,000 rows, 8,912/s",
        );
        check(
            ",\"percentage\":null,\"eta_ms\":null,\"elapsed_ms\":1,\"phase\":\"waiting_client\",\"total_rows\":null,
              \"total_kind\":\"none\",\"rows_sent\":1,\"bytes_sent\":1,\"queue_depth\":0,\"blocked_by\":\"window_bytes\",\"hint\":\"x\"",
            "1 rows, 8,912/s, waiting for its output to be read",
        );
    }
}
