//! How far a query is: an honest percentage, a rate and a time left, or nothing.
//!
//! Pure: the time and the counters are arguments.

use std::time::Duration;

/// Time constant of the moving averages: a change of pace shows after about this long.
const SMOOTHING: Duration = Duration::from_secs(2);
/// A fraction below this says nothing about the whole.
const FRACTION_MIN: f64 = 0.005;
/// Until the query is complete, percentages stay below 100.
const PERCENTAGE_MAX: f64 = 99.9;

/// What is known when progress is due.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Sample {
    /// Since the stream was accepted.
    pub(crate) elapsed: Duration,
    /// Rows read from the engine.
    pub(crate) rows: u64,
    /// The result's rows, where somebody counted or guessed them.
    pub(crate) total_rows: Option<u64>,
    /// Units of work done, and all there are.
    pub(crate) work: Option<(u64, u64)>,
}

/// What can be said.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Reading {
    /// 0 to below 100, never falling.
    pub(crate) percentage: Option<f64>,
    /// Rows per second.
    pub(crate) throughput: f64,
    /// Time left; only when the fraction moves.
    pub(crate) eta: Option<Duration>,
}

/// Turns samples into readings; one per stream.
#[derive(Debug, Clone, Default)]
pub(crate) struct ProgressMeter {
    last: Option<(Duration, u64)>,
    throughput: Option<f64>,
    last_fraction: Option<(Duration, f64)>,
    /// Fraction of the whole per second.
    pace: Option<f64>,
    percentage: Option<f64>,
}

impl ProgressMeter {
    /// What `sample` shows.
    pub(crate) fn read(&mut self, sample: Sample) -> Reading {
        let Sample {
            elapsed,
            rows,
            total_rows,
            work,
        } = sample;
        let (since, rows_before) = self.last.unwrap_or((Duration::ZERO, 0));
        if let Some(rate) = per_second(rows.saturating_sub(rows_before) as f64, elapsed.saturating_sub(since)) {
            smooth(&mut self.throughput, rate, elapsed.saturating_sub(since));
            self.last = Some((elapsed, rows));
        }

        let fraction = total_rows
            .map(|total| ratio(rows, total))
            .or_else(|| work.map(|(done, all)| ratio(done, all)).filter(|f| *f >= FRACTION_MIN));
        if let Some(fraction) = fraction {
            let (since, before) = self.last_fraction.unwrap_or((Duration::ZERO, 0.0));
            if let Some(pace) = per_second(fraction - before, elapsed.saturating_sub(since)) {
                smooth(&mut self.pace, pace.max(0.0), elapsed.saturating_sub(since));
                self.last_fraction = Some((elapsed, fraction));
            }
            let percentage = (fraction * 100.0).min(PERCENTAGE_MAX);
            self.percentage = Some(self.percentage.unwrap_or(0.0).max(percentage));
        }
        let eta = match (fraction, self.pace) {
            (Some(fraction), Some(pace)) if fraction >= FRACTION_MIN && pace > 0.0 => {
                Duration::try_from_secs_f64((1.0 - fraction).max(0.0) / pace).ok()
            }
            _ => None,
        };
        Reading {
            percentage: self.percentage,
            throughput: self.throughput.unwrap_or(0.0),
            eta,
        }
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        return 1.0;
    }
    (part as f64 / whole as f64).min(1.0)
}

fn per_second(amount: f64, time: Duration) -> Option<f64> {
    (!time.is_zero()).then(|| amount / time.as_secs_f64())
}

/// Moves `average` towards `value` by how much of [`SMOOTHING`] has passed (an exponential moving average).
fn smooth(average: &mut Option<f64>, value: f64, time: Duration) {
    let weight = 1.0 - (-time.as_secs_f64() / SMOOTHING.as_secs_f64()).exp();
    *average = Some(average.map_or(value, |average| average + weight * (value - average)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(elapsed_ms: u64, rows: u64) -> Sample {
        Sample {
            elapsed: Duration::from_millis(elapsed_ms),
            rows,
            ..Sample::default()
        }
    }

    #[test]
    fn without_a_total_there_is_no_percentage_and_no_eta() {
        let mut meter = ProgressMeter::default();
        let reading = meter.read(sample(500, 1_000));
        assert_eq!((reading.percentage, reading.eta), (None, None));
        assert!((reading.throughput - 2_000.0).abs() < 1e-6);
    }

    #[test]
    fn a_steady_query_is_told_its_end() {
        let mut meter = ProgressMeter::default();
        for n in 1..=9 {
            let total_rows = Some(10_000);
            let reading = meter.read(Sample {
                total_rows,
                ..sample(n * 500, n * 1_000)
            });
            assert!((reading.percentage.unwrap_or(0.0) - n as f64 * 10.0).abs() < 1e-9);
            let eta = reading.eta.map_or(0.0, |eta| eta.as_secs_f64());
            assert!((eta - (10 - n) as f64 * 0.5).abs() < 1e-6, "{n}: {eta}");
        }
    }

    #[test]
    fn the_percentage_never_falls_and_never_says_it_is_all() {
        let mut meter = ProgressMeter::default();
        let at = |meter: &mut ProgressMeter, ms, rows, total| {
            meter
                .read(Sample {
                    total_rows: Some(total),
                    ..sample(ms, rows)
                })
                .percentage
        };
        assert_eq!(at(&mut meter, 500, 50, 100), Some(50.0));
        assert_eq!(at(&mut meter, 1_000, 60, 1_000), Some(50.0));
        assert_eq!(at(&mut meter, 1_500, 2_000, 1_000), Some(PERCENTAGE_MAX));
        assert_eq!(at(&mut meter, 2_000, 0, 0), Some(PERCENTAGE_MAX));
    }

    #[test]
    fn work_speaks_once_it_means_something() {
        let mut meter = ProgressMeter::default();
        let at = |meter: &mut ProgressMeter, ms, done| {
            meter.read(Sample {
                work: Some((done, 1_000)),
                ..sample(ms, 0)
            })
        };
        assert_eq!(at(&mut meter, 500, 4).percentage, None);
        let reading = at(&mut meter, 1_000, 100);
        assert_eq!(reading.percentage, Some(10.0));
        assert!(reading.eta.is_some());
    }

    #[test]
    fn two_samples_at_one_instant_divide_by_nothing() {
        let mut meter = ProgressMeter::default();
        meter.read(sample(0, 10));
        let reading = meter.read(Sample {
            total_rows: Some(10),
            ..sample(0, 10)
        });
        assert!(reading.throughput.is_finite());
    }
}
