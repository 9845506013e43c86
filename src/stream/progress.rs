//! How far a query is: how much of the work is done, how much of the result the client has, a rate, and a time left; or nothing.
//!
//! Pure: the time and the counters are arguments.

use std::time::Duration;

use super::pace::{Goal, Pace, Reach};

/// Time constant of the moving average of the throughput: a change of pace shows after about this long.
const SMOOTHING: Duration = Duration::from_secs(2);
/// Less of the work than one part in this many says nothing about the whole.
const WORK_PARTS: u64 = 200;
/// Until the query is complete, percentages stay below 100. In tenths, which is as much as is known.
const TENTHS_MAX: u16 = 999;

/// What is known of a stream at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Sample {
    /// Since the stream was accepted.
    pub(crate) elapsed: Duration,
    /// What the engine has done.
    pub(crate) done: Reach,
    /// What of it the client has.
    pub(crate) delivered: Reach,
    /// The result's rows, where somebody counted or guessed them.
    pub(crate) total_rows: Option<u64>,
    /// All units of work.
    pub(crate) total_work: Option<u64>,
    /// Whether the engine has more ready than the client takes, or is done: the client alone decides on the time left.
    pub(crate) is_up_to_client: bool,
    /// Whether the client wants nothing at present.
    pub(crate) is_paused: bool,
}

impl Sample {
    fn goal(&self) -> Option<Goal> {
        // More rows than there are to be: the total was wrong.
        let total_rows = self.total_rows.filter(|total| self.done.rows <= *total);
        let work = || {
            let is_enough = |all: &u64| *all > 0 && self.done.work.saturating_mul(WORK_PARTS) >= *all;
            self.total_work.filter(is_enough).map(Goal::Work)
        };
        total_rows.map(Goal::Rows).or_else(work)
    }
}

/// What can be said.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Reading {
    /// Of the work: 0 to below 100, never falling.
    pub(crate) percentage: Option<f64>,
    /// Of the result, as far as the client has it: the same, and never more.
    pub(crate) percentage_delivered: Option<f64>,
    /// Rows per second out of the engine.
    pub(crate) throughput: f64,
    /// Until the client has everything.
    pub(crate) eta: Option<Duration>,
}

/// Turns samples into readings; one per stream.
#[derive(Debug, Clone, Default)]
pub(crate) struct ProgressMeter {
    last: Option<(Duration, u64)>,
    throughput: Option<f64>,
    done: Pace,
    delivered: Pace,
    done_tenths: Option<u16>,
    delivered_tenths: Option<u16>,
}

impl ProgressMeter {
    /// Looks at the stream: to be done at regular times, whenever it is [read](Self::read), so that nothing is measured over what
    /// moves only because somebody looks.
    pub(crate) fn look(&mut self, sample: Sample) {
        self.look_at_throughput(sample.elapsed, sample.done.rows);
        if sample.is_paused {
            self.interrupted();
        } else {
            self.done.look(sample.elapsed, sample.done);
            self.delivered.look(sample.elapsed, sample.delivered);
        }
    }

    /// What `sample` shows, and the looks before it.
    pub(crate) fn read(&mut self, sample: Sample) -> Reading {
        let goal = sample.goal();
        if let Some(goal) = goal {
            let rise = |tenths: &mut Option<u16>, reach| {
                let now = tenths_of(goal.part(reach), goal.whole());
                *tenths = Some(tenths.unwrap_or(0).max(now));
            };
            rise(&mut self.done_tenths, sample.done);
            rise(&mut self.delivered_tenths, sample.delivered);
        }
        let percentage = |tenths: Option<u16>| tenths.map(|tenths| f64::from(tenths) / 10.0);
        Reading {
            percentage: percentage(self.done_tenths),
            percentage_delivered: percentage(self.delivered_tenths),
            throughput: self.throughput.unwrap_or(0.0),
            eta: goal.and_then(|goal| self.time_left(&sample, goal)),
        }
    }

    /// The client was away, or wanted nothing: its pace is measured anew.
    pub(crate) fn interrupted(&mut self) {
        self.done.restart();
        self.delivered.restart();
    }

    /// The time that the slower of engine and client still needs.
    fn time_left(&self, sample: &Sample, goal: Goal) -> Option<Duration> {
        if sample.is_paused {
            return None;
        }
        let client = self.delivered.time_left(sample.elapsed, sample.delivered, goal);
        if sample.is_up_to_client {
            return client;
        }
        // A client that keeps up may say so late: as long as nobody waits for it, the engine is the slower one.
        let engine = self.done.time_left(sample.elapsed, sample.done, goal)?;
        Some(client.map_or(engine, |client| client.max(engine)))
    }

    fn look_at_throughput(&mut self, elapsed: Duration, rows: u64) {
        let (since, rows_before) = self.last.unwrap_or((Duration::ZERO, 0));
        let time = elapsed.saturating_sub(since);
        if !time.is_zero() {
            let rate = rows.saturating_sub(rows_before) as f64 / time.as_secs_f64();
            // An exponential moving average.
            let weight = 1.0 - (-time.as_secs_f64() / SMOOTHING.as_secs_f64()).exp();
            let before = self.throughput.unwrap_or(rate);
            self.throughput = Some(before + weight * (rate - before));
            self.last = Some((elapsed, rows));
        }
    }
}

fn tenths_of(part: u64, whole: u64) -> u16 {
    if part >= whole {
        return TENTHS_MAX;
    }
    let (part, whole) = (u128::from(part), u128::from(whole));
    // Rounded to the nearest.
    let tenths = (part * 2_000 + whole) / (2 * whole);
    u16::try_from(tenths).unwrap_or(TENTHS_MAX).min(TENTHS_MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

    use super::*;

    /// At this second, so many rows out of a million were read and delivered, with as much work each.
    fn sample(at: u64, rows: u64) -> Sample {
        let reach = Reach { rows, work: rows };
        Sample {
            elapsed: Duration::from_secs(at),
            done: reach,
            delivered: reach,
            total_rows: Some(1_000_000),
            ..Sample::default()
        }
    }

    fn read(meter: &mut ProgressMeter, sample: Sample) -> Reading {
        meter.look(sample);
        meter.read(sample)
    }

    #[test]
    fn percentages_have_one_decimal_and_stay_below_100() {
        #[track_caller]
        fn check(part: u64, whole: u64, expected: &str) {
            let total_rows = Some(whole);
            let reading = read(
                &mut ProgressMeter::default(),
                Sample {
                    total_rows,
                    ..sample(1, part)
                },
            );
            assert_eq!(reading.percentage.unwrap().to_string(), expected);
            assert_eq!(reading.percentage_delivered, reading.percentage);
        }
        check(0, 10, "0");
        check(1, 3, "33.3");
        check(2, 3, "66.7");
        check(111, 200, "55.5");
        check(999_999, 1_000_000, "99.9");
        check(10, 10, "99.9");
        check(0, 0, "99.9");
        check(u64::MAX - 1, u64::MAX, "99.9");
    }

    #[test]
    fn percentages_never_fall_whatever_is_learned() {
        let mut meter = ProgressMeter::default();
        let mut at = |second, rows, total| {
            let total_rows = Some(total);
            let reading = read(
                &mut meter,
                Sample {
                    total_rows,
                    ..sample(second, rows)
                },
            );
            reading.percentage.unwrap()
        };
        assert_eq!(at(1, 50, 100), 50.0);
        assert_eq!(at(2, 60, 1_000), 50.0);
        assert_eq!(at(3, 600, 1_000), 60.0);
        assert_eq!(at(4, 700, 650), 60.0, "the total is wrong");
    }

    #[test]
    fn work_speaks_once_it_means_something_and_where_no_total_does() {
        let mut meter = ProgressMeter::default();
        let mut at = |second, rows, total_rows, total_work| {
            let sample = Sample {
                total_rows,
                total_work,
                ..sample(second, rows)
            };
            read(&mut meter, sample).percentage
        };
        assert_eq!(at(1, 4, None, Some(1_000)), None);
        assert_eq!(at(2, 4, None, Some(0)), None);
        assert_eq!(at(3, 100, None, Some(1_000)), Some(10.0));
        assert_eq!(at(4, 400, Some(800), Some(1_000)), Some(50.0));
        assert_eq!(
            at(5, 900, Some(800), Some(1_000)),
            Some(90.0),
            "the total is wrong, the scan is not"
        );
    }

    #[test]
    fn the_slower_of_engine_and_client_decides() {
        let mut meter = ProgressMeter::default();
        // 40,000 rows a second are read, of which the client takes 10,000.
        let at = |second: u64| Sample {
            delivered: Reach {
                rows: second * 10_000,
                work: 0,
            },
            ..sample(second, second * 40_000)
        };
        for second in 1..10 {
            meter.look(at(second));
        }
        let left = |sample| meter.clone().read(sample).eta.unwrap().as_secs();
        assert_eq!(left(at(10)), 90);
        let fast = Sample {
            delivered: at(10).done,
            ..at(10)
        };
        assert!(left(fast) <= 60, "{}", left(fast));
        // Where the engine waits, only the client's pace is known to last.
        let is_up_to_client = true;
        assert_eq!(
            left(Sample {
                is_up_to_client,
                ..at(10)
            }),
            90
        );
    }

    #[test]
    fn no_estimate_is_beyond_the_bound_and_none_divides_by_nothing() {
        let mut meter = ProgressMeter::default();
        for second in 1..10 {
            let reading = read(
                &mut meter,
                Sample {
                    total_rows: Some(u64::MAX),
                    ..sample(second, second)
                },
            );
            assert_eq!(reading.eta, None);
        }
        let month = 30 * 24 * 60 * 60;
        let at = |total| {
            meter
                .clone()
                .read(Sample {
                    total_rows: Some(total),
                    ..sample(9, 9)
                })
                .eta
        };
        assert_eq!(at(9 + month), Some(Duration::from_secs(month)));
        assert_eq!(at(10 + month), None);
        let mut meter = ProgressMeter::default();
        for rows in [0, 10, 20, 30] {
            let reading = read(&mut meter, sample(0, rows));
            assert!(reading.throughput.is_finite() && reading.eta.is_none());
        }
    }
}
