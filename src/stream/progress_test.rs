//! Progress, held to the truth: what clients of a [simulated world](super::progress_world_test) read is compared with what becomes of
//! them.
//!
//! `cargo test --lib progress_test -- --nocapture` prints a table of the estimates against the truth.
#![cfg(test)]
#![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here
#![allow(clippy::print_stdout)] // the table is read by people who judge the estimates

use std::time::Duration;

use super::pace::HORIZON_MAX;
use super::progress_world_test::{Acks, Client, FAST, KIB, Known, MIB, ROW_BYTES, Report, Run, SECOND, Scenario, TICK};

impl Run {
    /// Reports written from `from` on and read until `to`.
    fn between(&self, from: Duration, to: Duration) -> impl Iterator<Item = &Report> {
        let is_within = move |report: &&Report| report.written_at >= from && report.at <= to;
        self.reports.iter().filter(is_within)
    }

    /// The seconds that it really took from then on.
    fn left(&self, at: Duration) -> f64 {
        (self.end - at).as_secs_f64()
    }

    /// What must hold of whatever is told.
    #[track_caller]
    fn check_rules(&self) {
        let (mut done, mut delivered) = (None, None);
        for Report { at, reading, .. } in &self.reports {
            for (before, now) in [
                (&mut done, reading.percentage),
                (&mut delivered, reading.percentage_delivered),
            ] {
                assert!(now >= *before, "{at:?}: {now:?} after {before:?}");
                assert!(now.is_none_or(|now| (0.0..100.0).contains(&now)), "{at:?}: {now:?}");
                let text = now.map_or(String::new(), |now| now.to_string());
                assert!(text.len() <= 4, "{at:?}: no more digits than are known: {text}");
                *before = now;
            }
            assert!(
                reading.percentage_delivered <= reading.percentage,
                "{at:?}: {reading:?}"
            );
        }
    }

    /// Reports written from `from` on and read until `to` are as near to the truth as 30 %, or as two seconds. Gives back what share of
    /// them had an estimate.
    #[track_caller]
    fn check_estimates(&self, from: Duration, to: Duration) -> f64 {
        let (mut n_told, mut n) = (0_u32, 0_u32);
        for report in self.between(from, to) {
            n += 1;
            let Some(eta) = report.eta() else { continue };
            n_told += 1;
            let truth = self.left(report.at);
            assert!(
                (eta - truth).abs() <= (0.3 * truth).max(2.0),
                "at {:.1} of {:.1} s: {eta:.1} s left, and it was {truth:.1} s",
                report.at.as_secs_f64(),
                self.end.as_secs_f64()
            );
        }
        assert!(n > 0, "nothing was told from {from:?} to {to:?}");
        f64::from(n_told) / f64::from(n)
    }

    /// Estimates against the truth when so many percent of the time had passed.
    fn row(&self, name: &str) -> String {
        let columns = [10, 25, 50, 75, 90].map(|percent| {
            let at = self.end * percent / 100;
            let report = self.reports.iter().take_while(|report| report.at <= at).last();
            let Some(report) = report else { return "-".to_owned() };
            let eta = report.eta().map_or("null".to_owned(), |eta| format!("{eta:.0}"));
            format!("{eta} / {:.0}", self.left(report.at))
        });
        let mut row = format!("{name:42} {:>6.0}", self.end.as_secs_f64());
        for column in columns {
            row += &format!(" {column:>11}");
        }
        row
    }
}

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// 83 MB, which at 200 KB/s are seven minutes.
const LARGE: u64 = 556_000;
/// Rows of a batch that is full by its bytes.
const WIDE_ROWS: u64 = 256 * KIB / ROW_BYTES;

/// Clients that take steadily, each in its own way, and what share of the reports has an estimate from a tenth of the time on.
fn steady() -> Vec<(&'static str, Scenario, f64)> {
    let large = || Scenario::new(LARGE);
    let wide = || large().batch_rows(WIDE_ROWS);
    let bursts = |at: Duration| Client::Takes(if at.as_secs().is_multiple_of(4) { 800e3 } else { 0.0 });
    let jitter = |at: Duration| {
        // Another rate each second, from a fifth of the mean to nearly twice.
        let random = at.as_secs().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        Client::Takes(40e3 + 320.0 * (random % 1_000) as f64)
    };
    let by_scan = || large().known(Known::Work);
    let (half, each) = (Acks::HalfWindow, Acks::Each);
    let buffered = large().socket_bytes(8 * MIB);
    let rare = Scenario::new(200_000).known(Known::Work).engine(|_| 1e3);
    vec![
        (
            "fast client, 200,000 rows/s",
            Scenario::new(6_000_000).takes(FAST).engine(|_| 2e5),
            1.0,
        ),
        (
            "fast client, 20 rows/s",
            Scenario::new(6_000).takes(FAST).engine(|_| 20.0),
            1.0,
        ),
        (
            "fast client, 20 rows/s, window",
            Scenario::new(6_000).engine(|_| 20.0).default_window(half),
            1.0,
        ),
        (
            "scan that finds a row a second, window",
            rare.rows_of(|work| work / 1_000).default_window(half),
            1.0,
        ),
        ("200 KB/s", large(), 1.0),
        ("200 KB/s, by the scan", by_scan(), 1.0),
        (
            "200 KB/s, rows in the scan's second half",
            by_scan().rows_of(|work| work.saturating_sub(LARGE / 2)),
            1.0,
        ),
        ("200 KB/s, 8 MiB in buffers", buffered, 1.0),
        ("200 KB/s, engine 300 KB/s", large().engine(|_| 2_000.0), 1.0),
        ("200 KB/s, a second in four", large().client(bursts), 1.0),
        ("40 to 360 KB/s, by the second", large().client(jitter), 1.0),
        ("200 KB/s, every 50 ms", large().every(Duration::from_millis(50)), 1.0),
        ("200 KB/s, every 10 s", large().every(seconds(10)), 1.0),
        ("200 KB/s, window, each acknowledged", large().default_window(each), 1.0),
        ("200 KB/s, window, half acknowledged", large().default_window(half), 1.0),
        (
            "20 KB/s, window, half acknowledged",
            Scenario::new(LARGE / 4).takes(20e3).default_window(half),
            1.0,
        ),
        ("200 KB/s, window of 4 MiB", wide().window(half, 64, 4 * MIB), 1.0),
        (
            "200 KB/s, window of 4 MiB, every 10 s",
            wide().window(half, 64, 4 * MIB).every(seconds(10)),
            0.9,
        ),
        // It says something every 42 seconds.
        ("200 KB/s, window of 16 MiB", wide().window(half, 64, 16 * MIB), 0.5),
    ]
}

#[test]
fn a_steady_client_is_told_the_time_that_it_takes() {
    println!("time left in seconds, as told / as it was, at a part of the whole time");
    println!(
        "{:42} {:>6} {:>11} {:>11} {:>11} {:>11} {:>11}",
        "", "whole", "10 %", "25 %", "50 %", "75 %", "90 %"
    );
    for (name, scenario, share) in steady() {
        let run = scenario.run();
        println!("{}", run.row(name));
        run.check_rules();
        let told = run.check_estimates(run.end / 10, run.end);
        assert!(told >= share, "{name}: {told} of the reports have an estimate");
    }
}

/// 1 MB of rows is under way at the most before the server hears what became of it, or a third of the socket's buffers.
fn step(bytes_per_second: f64) -> Duration {
    Duration::from_secs_f64(1.1e6 / bytes_per_second)
}

#[test]
fn a_change_of_pace_is_known_half_a_minute_and_two_steps_later() {
    const CHANGE: Duration = seconds(120);
    for (before, after) in [(400e3, 40e3), (40e3, 400e3), (200e3, 100e3)] {
        let changing = move |at| Client::Takes(if at < CHANGE { before } else { after });
        for (scenario, name) in [
            (Scenario::new(LARGE), "socket"),
            (Scenario::new(LARGE).default_window(Acks::Each), "window, each"),
            (Scenario::new(LARGE).default_window(Acks::HalfWindow), "window, half"),
        ] {
            let run = scenario.client(changing).run();
            println!(
                "{}",
                run.row(&format!("{:.0} to {:.0} KB/s, {name}", before / 1e3, after / 1e3))
            );
            run.check_rules();
            let known = CHANGE + HORIZON_MAX + 2 * step(after);
            assert_eq!(run.check_estimates(known, run.end), 1.0);
        }
    }
    // The engine's pace, which a fast client follows.
    let engine = |at| if at < CHANGE { 2_000.0 } else { 200.0 };
    let run = Scenario::new(LARGE / 2).takes(FAST).engine(engine).run();
    run.check_rules();
    assert_eq!(run.check_estimates(CHANGE + HORIZON_MAX + SECOND, run.end), 1.0);
}

const STOP: Duration = seconds(120);
const GO: Duration = seconds(180);

/// 200 KB/s, and from [`STOP`] to [`GO`] something else.
fn interrupted(by: Client) -> impl Fn(Duration) -> Client {
    move |at| {
        if (STOP..GO).contains(&at) {
            by
        } else {
            Client::Takes(200e3)
        }
    }
}

#[test]
fn nothing_is_told_of_a_stream_that_stands_still() {
    for acks in [Acks::Each, Acks::HalfWindow] {
        for interval in [Duration::from_millis(500), seconds(10)] {
            let stalled = Scenario::new(LARGE).client(interrupted(Client::Takes(0.0)));
            let run = stalled.default_window(acks).every(interval).run();
            println!("{}", run.row(&format!("a minute's stall, window, every {interval:?}")));
            run.check_rules();
            let standing: Vec<_> = run.between(STOP + step(200e3) + interval + seconds(5), GO).collect();
            assert!(!standing.is_empty() && standing.iter().all(|report| report.reading.eta.is_none()));
            let again = run.check_estimates(GO + 3 * step(200e3) + 2 * interval, run.end);
            assert!(again > 0.9, "{again}");
        }
    }
    // Where the socket is what is full, the writer waits for it, and what it writes afterwards is about what is afterwards.
    let run = Scenario::new(LARGE).client(interrupted(Client::Takes(0.0))).run();
    println!("{}", run.row("a minute's stall, socket"));
    run.check_rules();
    assert_eq!(run.between(STOP, GO).count(), 0);
    run.check_estimates(GO, run.end);
}

#[test]
fn a_pause_has_no_end_that_is_known() {
    let run = Scenario::new(LARGE)
        .client(interrupted(Client::Pauses))
        .default_window(Acks::HalfWindow)
        .run();
    println!("{}", run.row("a minute's pause, window"));
    run.check_rules();
    let paused: Vec<_> = run.between(STOP, GO).collect();
    assert!(paused.len() > 100 && paused.iter().all(|report| report.reading.eta.is_none()));
    let again = run.check_estimates(GO + 3 * step(200e3), run.end);
    assert_eq!(again, 1.0);
}

#[test]
fn a_resumed_stream_is_as_far_as_its_client() {
    for acks in [Acks::Each, Acks::HalfWindow] {
        let run = Scenario::new(LARGE)
            .client(interrupted(Client::Away))
            .default_window(acks)
            .run();
        println!("{}", run.row("away for a minute, window"));
        run.check_rules();
        assert_eq!(run.between(STOP, GO - TICK).count(), 0);
        // While nobody was there the engine went on, and what had been sent is sent again: neither is the client's.
        let back = run.between(GO, run.end).next().unwrap();
        let delivered = back.reading.percentage_delivered.unwrap();
        assert!((delivered - percentage(back.had, LARGE)).abs() <= 0.2, "{back:?}");
        assert!(back.reading.percentage.unwrap() > delivered + 5.0, "{back:?}");
        assert_eq!(run.check_estimates(GO + 3 * step(200e3), run.end), 1.0);
    }
}

fn percentage(part: u64, whole: u64) -> f64 {
    part as f64 * 100.0 / whole as f64
}

#[test]
fn what_is_delivered_is_what_the_client_has() {
    // Without a window, once the client has read the report; the engine is up to 4 MB ahead.
    let run = Scenario::new(LARGE).run();
    for report in &run.reports {
        let delivered = report.reading.percentage_delivered.unwrap();
        assert!((delivered - percentage(report.had, LARGE)).abs() <= 0.051, "{report:?}");
    }
    // With one, what it has acknowledged.
    let run = Scenario::new(LARGE).default_window(Acks::Each).run();
    for report in &run.reports {
        let delivered = report.reading.percentage_delivered.unwrap();
        assert!((delivered - percentage(report.had, LARGE)).abs() <= 0.1, "{report:?}");
        let is_ahead = report.reading.percentage.unwrap() > delivered;
        assert!(is_ahead || report.at > run.end * 9 / 10, "{report:?}");
    }
    // By the scan: where it was when it came to the last row that the client has. Here no row comes out of its first half.
    let half = LARGE / 2;
    let scenario = Scenario::new(LARGE).known(Known::Work);
    let run = scenario.rows_of(|work| work.saturating_sub(LARGE / 2)).run();
    for report in run.reports.iter().filter(|report| report.at < run.end * 9 / 10) {
        let delivered = report.reading.percentage_delivered.unwrap();
        assert!(
            (delivered - percentage(half + report.had, LARGE)).abs() <= 0.1,
            "{report:?}"
        );
    }
}

#[test]
fn without_a_total_nothing_is_told_until_the_engine_is_done() {
    let run = Scenario::new(LARGE).known(Known::Nothing).run();
    run.check_rules();
    let (known, unknown): (Vec<_>, Vec<_>) = run
        .reports
        .iter()
        .partition(|report| report.reading.percentage_delivered.is_some());
    assert!(unknown.len() > 10 && !known.is_empty());
    let is_silent = |report: &&&Report| report.reading.percentage.is_none() && report.reading.eta.is_none();
    assert_eq!(unknown.iter().filter(is_silent).count(), unknown.len());
    // Then it is known, and what the client has not got yet is told.
    for report in known {
        let delivered = report.reading.percentage_delivered.unwrap();
        assert!((delivered - percentage(report.had, LARGE)).abs() <= 0.051, "{report:?}");
    }
}

#[test]
fn a_total_that_is_learned_late_or_wrong_makes_nothing_fall() {
    let by_scan = || Scenario::new(LARGE).rows_of(|work| work / 4);
    let run = by_scan().known(Known::RowsSince(seconds(30))).run();
    println!("{}", run.row("200 KB/s, total known after 30 s"));
    run.check_rules();
    assert_eq!(run.check_estimates(run.end / 10, run.end), 1.0);
    // A guess that was too low: where it is disproved, nothing is left to say, and nothing wrong is said.
    let run = Scenario::new(LARGE).known(Known::Guess(LARGE / 2)).run();
    run.check_rules();
    let disproved = run.reports.iter().filter(|report| report.had > LARGE / 2);
    let told: Vec<_> = disproved.take_while(|report| report.at < run.end * 9 / 10).collect();
    assert!(
        !told.is_empty() && told.iter().all(|report| report.reading.eta.is_none()),
        "{told:?}"
    );
}

#[test]
fn a_tiny_result_is_over_before_anything_is_told_of_it() {
    for rows in [0, 1, 100, 10_000] {
        let run = Scenario::new(rows).takes(FAST).run();
        assert_eq!(run.reports.len(), 0, "{rows} rows");
    }
    // One that fits a window or the buffers is out, and its terminator with it, however long the client takes.
    for scenario in [
        Scenario::new(3_000).takes(20e3),
        Scenario::new(3_000).takes(20e3).default_window(Acks::HalfWindow),
    ] {
        assert_eq!(scenario.run().reports.len(), 0);
    }
    // Twice a window: as soon as there is an estimate, it holds.
    let run = Scenario::new(27_000).takes(20e3).default_window(Acks::HalfWindow).run();
    println!("{}", run.row("4 MB at 20 KB/s, window"));
    run.check_rules();
    run.check_estimates(Duration::ZERO, run.end);
}
