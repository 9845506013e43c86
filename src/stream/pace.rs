//! The pace of something that advances in steps, and the time it still needs; nothing while it stands still.
//!
//! A client takes its rows in steps: a socket accepts some hundred kilobytes at once and then nothing for seconds, a window opens
//! with every acknowledgement. So the pace is measured in whole steps, from the end of one standstill to the end of another, over the
//! newer half of the time so far, half a minute at the most. What went into empty buffers at the start belongs to no step, and a
//! change of pace is fully known half a minute later, however long the stream has run.
//!
//! Pure: times and amounts are arguments.

use std::collections::VecDeque;
use std::time::Duration;

/// The longest time over which a pace is measured, and so the time after which a change of pace is fully known.
pub(super) const HORIZON_MAX: Duration = Duration::from_secs(30);
/// Though never over fewer looks.
pub(super) const HORIZON_LOOKS: u32 = 6;
/// The shortest time over which a pace is measured.
const SPAN_MIN: Duration = Duration::from_millis(100);
/// Marks in a horizon. A horizon that grows spreads them out, so that there are at most twice as many.
const MARKS_PER_HORIZON: u32 = 8;
/// How long the next step may take before the stream counts as standing still; twice the longest step where that is more.
const PATIENCE_MIN: Duration = Duration::from_secs(5);
/// Where it has moved for so long, a standstill is an interruption and no step: the pace is measured anew after it.
const MOVED_MIN: Duration = Duration::from_secs(15);
/// No estimate goes beyond this: 30 days, which in milliseconds every client's numbers can hold.
pub(super) const TIME_LEFT_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// How far a query's result has come somewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Reach {
    pub(crate) rows: u64,
    /// Units of the engine's work.
    pub(crate) work: u64,
}

impl Reach {
    fn is_beyond(self, other: Self) -> bool {
        self.rows > other.rows || self.work > other.work
    }
}

/// The end that something advances towards, in the unit in which it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goal {
    Rows(u64),
    Work(u64),
}

impl Goal {
    pub(super) fn whole(self) -> u64 {
        let (Self::Rows(whole) | Self::Work(whole)) = self;
        whole
    }

    /// What of `reach` counts towards the goal.
    pub(super) fn part(self, reach: Reach) -> u64 {
        match self {
            Self::Rows(_) => reach.rows,
            Self::Work(_) => reach.work,
        }
    }
}

/// Where a step begins, and the longest standstill before the next mark.
#[derive(Debug, Clone, Copy)]
struct Mark {
    at: Duration,
    reach: Reach,
    stood: Duration,
}

/// Turns looks at something that advances into the time it still needs.
#[derive(Debug, Clone, Default)]
pub(super) struct Pace {
    /// Beginnings of steps within the horizon, spread out; the pace is measured from the first one.
    marks: VecDeque<Mark>,
    /// To here: the beginning of the newest step.
    newest: Option<(Duration, Reach)>,
    started_at: Duration,
    /// How far it was seen to have come, and when for the first time.
    advanced: Option<(Duration, Reach)>,
    looked_at: Duration,
    stood_last: Duration,
}

impl Pace {
    /// `reach` is how far it has come at `at`.
    pub(super) fn look(&mut self, at: Duration, reach: Reach) {
        let looked_at = std::mem::replace(&mut self.looked_at, at);
        let Some((advanced_at, before)) = self.advanced else {
            if reach.is_beyond(Reach::default()) {
                self.advanced = Some((at, reach));
            }
            return;
        };
        if !reach.is_beyond(before) {
            return;
        }
        self.advanced = Some((at, reach));
        let stood = looked_at.saturating_sub(advanced_at);
        if self.is_interruption(stood) {
            self.marks.clear();
            self.newest = None;
        } else {
            let horizon_min = HORIZON_LOOKS * at.saturating_sub(looked_at);
            self.step(looked_at, before, stood, horizon_min);
        }
        self.stood_last = stood;
    }

    /// What was measured so far says nothing about what comes.
    pub(super) fn restart(&mut self) {
        *self = Self::default();
    }

    /// The time left at `at`, where it has come to `reach`; `None` while it is unknown or longer than [`TIME_LEFT_MAX`].
    pub(super) fn time_left(&self, at: Duration, reach: Reach, goal: Goal) -> Option<Duration> {
        let base = self.marks.front()?;
        let (newest_at, newest) = self.newest?;
        let (advanced_at, advanced) = self.advanced?;
        let span = newest_at.saturating_sub(base.at);
        let done = goal.part(newest).checked_sub(goal.part(base.reach))?;
        let stands = if reach.is_beyond(advanced) {
            Duration::ZERO
        } else {
            at.saturating_sub(advanced_at)
        };
        if stands > self.patience() || span < SPAN_MIN || done == 0 {
            return None;
        }
        // Beyond the goal the goal is wrong.
        let left = goal.whole().checked_sub(goal.part(reach))?;
        let time = Duration::try_from_secs_f64(left as f64 / done as f64 * span.as_secs_f64()).ok()?;
        // Part of the next step is done, though nothing shows of it yet.
        let time = time.saturating_sub(stands.min(self.stood_longest()));
        (time <= TIME_LEFT_MAX).then_some(time)
    }

    /// A step begins at `at`: after a standstill or, where there are none, at each look.
    fn step(&mut self, at: Duration, reach: Reach, stood: Duration, horizon_min: Duration) {
        // Two looks may have seen parts of one step.
        let goes_on = |(newest_at, _)| stood.is_zero() && at < newest_at + 2 * self.stood_longest();
        if self.newest.is_some_and(goes_on) {
            return;
        }
        if self.marks.is_empty() {
            self.started_at = at;
        }
        if let Some(mark) = self.marks.back_mut() {
            mark.stood = mark.stood.max(stood);
        }
        self.newest = Some((at, reach));
        let newer_half = at.saturating_sub(self.started_at) / 2;
        let horizon = newer_half.min(HORIZON_MAX).max(horizon_min);
        let is_apart = |mark: &Mark| at >= mark.at + horizon / MARKS_PER_HORIZON;
        if self.marks.back().is_none_or(is_apart) {
            let stood = Duration::ZERO;
            self.marks.push_back(Mark { at, reach, stood });
        }
        while self.marks.get(1).is_some_and(|mark| mark.at + horizon <= at) {
            self.marks.pop_front();
        }
    }

    /// Whether it has stood for so long that this was no step of its usual way.
    fn is_interruption(&self, stood: Duration) -> bool {
        let moved = match (self.marks.front(), self.newest) {
            (Some(base), Some((newest_at, _))) => newest_at.saturating_sub(base.at),
            _ => Duration::ZERO,
        };
        stood > 2 * self.patience() && (moved >= MOVED_MIN || stood >= HORIZON_MAX)
    }

    fn patience(&self) -> Duration {
        // The last one counts though it was an interruption: where the next is as long, these are the steps.
        PATIENCE_MIN.max(2 * self.stood_longest().max(self.stood_last))
    }

    fn stood_longest(&self) -> Duration {
        self.marks.iter().map(|mark| mark.stood).max().unwrap_or_default()
    }
}
