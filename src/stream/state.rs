//! A stream's life cycle, and whose turn it is: two small state machines without locks or clocks.

/// Where a stream is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum QueryStreamStatus {
    /// Accepted; waits for its first turn on a worker.
    Queued,
    /// The engine is at work; no row has come yet.
    Executing,
    /// Rows are coming.
    Streaming,
    /// Parked: nothing more fits until the client takes what there is.
    WaitingClient,
    /// The client has paused it: nothing is made and nothing is sent.
    Paused,
    /// All rows are out of the engine.
    Completed,
    /// The engine or the server failed.
    Failed,
    /// Somebody stopped it.
    Cancelled,
}

impl QueryStreamStatus {
    const ALL: [Self; 8] = [
        Self::Queued,
        Self::Executing,
        Self::Streaming,
        Self::WaitingClient,
        Self::Paused,
        Self::Completed,
        Self::Failed,
        Self::Cancelled,
    ];

    /// Whether nothing more will happen.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }

    /// The status with this number; the numbers are the order of the variants.
    pub(crate) fn from_number(number: u8) -> Self {
        Self::ALL
            .into_iter()
            .find(|status| *status as u8 == number)
            .unwrap_or(Self::Failed)
    }
}

/// Who has a stream's job: the run queue, a worker, the stream itself while parked, or nobody any more.
///
/// The rule that loses no wake-up: whoever makes room calls [`wake`](Self::wake) *after* making it, and a worker that finds
/// no room calls [`park`](Self::park); a wake that comes while the worker still runs is kept and turns the park into another
/// turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// In the run queue.
    Waiting,
    /// On a worker.
    Running {
        /// Room was made since the turn began.
        woken: bool,
    },
    /// Asleep in the stream, until there is room.
    Parked,
    /// The job is gone.
    Ended,
}

impl Turn {
    /// A worker takes the job. False where there is none to take: the queue's entry is stale.
    pub(crate) fn start(&mut self) -> bool {
        let startable = *self == Self::Waiting;
        if startable {
            *self = Self::Running { woken: false };
        }
        startable
    }

    /// The worker found no room. True: the job is parked now. False: room was made meanwhile, go on.
    pub(crate) fn park(&mut self) -> bool {
        match *self {
            Self::Running { woken: false } => {
                *self = Self::Parked;
                true
            }
            Self::Running { woken: true } => {
                *self = Self::Running { woken: false };
                false
            }
            Self::Waiting | Self::Parked | Self::Ended => false,
        }
    }

    /// The worker gives the job back to the run queue.
    pub(crate) fn requeue(&mut self) {
        *self = Self::Waiting;
    }

    /// There is room. True: the job was parked and goes into the run queue now.
    pub(crate) fn wake(&mut self) -> bool {
        match self {
            Self::Parked => {
                *self = Self::Waiting;
                true
            }
            Self::Running { woken } => {
                *woken = true;
                false
            }
            Self::Waiting | Self::Ended => false,
        }
    }

    /// Somebody other than a worker wants to end the stream. True: the job is the caller's now. False: a worker has it, or
    /// nobody.
    pub(crate) fn take_from_rest(&mut self) -> bool {
        let resting = matches!(self, Self::Waiting | Self::Parked);
        if resting {
            *self = Self::Ended;
        }
        resting
    }

    /// The worker ended the job.
    pub(crate) fn end(&mut self) {
        *self = Self::Ended;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every order of two wakes around a worker's "look for room, then park": the job never sleeps with room unused.
    #[test]
    fn no_order_of_events_loses_a_wake_up() {
        // Steps of the worker: 0 = look for room, 1 = park. The writer makes room and wakes at any point between.
        for room_made_before in 0..=2 {
            let mut turn = Turn::Running { woken: false };
            let mut room = false;
            let mut queued = false;
            let mut make_room = |turn: &mut Turn, at: u8, room: &mut bool| {
                if at == room_made_before {
                    *room = true;
                    queued |= turn.wake();
                }
            };
            make_room(&mut turn, 0, &mut room);
            let saw_room = room;
            make_room(&mut turn, 1, &mut room);
            let parked = !saw_room && turn.park();
            make_room(&mut turn, 2, &mut room);
            assert!(!parked || queued, "slept with room made at {room_made_before}");
        }
    }

    #[test]
    fn a_job_has_one_owner() {
        let mut turn = Turn::Waiting;
        assert!(turn.start());
        assert!(!turn.start());
        assert!(!turn.take_from_rest(), "a worker has it");
        assert!(turn.park());
        assert!(turn.take_from_rest());
        assert!(!turn.wake());
        assert!(!turn.start());
        assert!(!turn.take_from_rest());
    }

    #[test]
    fn status_numbers_round_trip() {
        for status in QueryStreamStatus::ALL {
            assert_eq!(QueryStreamStatus::from_number(status as u8), status);
        }
    }
}
