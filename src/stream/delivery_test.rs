//! Delivery, held to its promises: random histories against a plain reference, and every history of a small world.
//!
//! The promises: a client processes a prefix of the batches, in order, once each, whatever is cut, resumed, acknowledged or
//! cancelled; exactly one terminator ends it, and after it nothing comes; no connection gets anything of a stream that another
//! has; what is unacknowledged stays within the window. Planted bugs show that breaking them is noticed.
//!
//! `PROPTEST_CASES=100000 cargo test --release delivery_test` is the long mode of the random histories.
#![cfg(test)]
#![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

use std::collections::{HashMap, HashSet, VecDeque};

use proptest::prelude::*;

use super::delivery::{AckError, Delivery, Generation, Item, Taken};
use super::window::{Made, WindowLimits};

/// A batch is its number.
type Batch = u8;

/// The terminators of this world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum End {
    Completed,
    Cancelled,
}

/// What can be wrong with a server, each a small change to how it uses or answers for the delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Bug {
    None,
    /// Resumes from what was acknowledged, not from what the client says.
    NoDeduplication,
    /// An acknowledgement of n frees n + 1 too.
    AckOffByOne,
    /// A batch in the channel is sent although the stream was cancelled.
    BatchAfterCancel,
    /// The writer of an older connection is taken for the present one.
    NoGenerationCheck,
}

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Step {
    /// The engine makes a batch, or comes to its end.
    Make,
    /// Somebody cancels.
    Cancel,
    /// The writer of the newest connection, or of the one before, takes something and puts it on the wire.
    Write {
        newest: bool,
    },
    /// The client reads what is first on the wire of the newest connection.
    Read,
    /// The client acknowledges what it has processed.
    Ack,
    /// What the client has acknowledged last reaches the server.
    HearAck,
    /// The connection is lost with everything on its wire, and the server notices.
    Cut,
    /// The client comes back; the server may not have noticed that it was gone.
    Resume,
    Pause(bool),
    /// Nobody has come back in time.
    Expire,
}

/// What is on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Wire {
    Batch(Batch),
    End(End),
}

/// The whole world: one stream, its engine, two connections, and its client.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    bug: Bug,
    n_batches: u8,
    retention_bytes: u64,
    delivery: Delivery<Batch, End>,
    channel: VecDeque<Item<Batch, (), End>>,
    made: u8,
    engine_done: bool,
    cancelled: bool,
    /// The attachment of the newest connection, and of the one before.
    newest: Generation,
    before: Generation,
    wire: VecDeque<Wire>,
    connected: bool,
    /// Batches that the client has processed.
    processed: u8,
    acked: Option<u8>,
    ack_in_flight: Option<u8>,
    end_seen: Option<End>,
    resumes_left: u8,
    expired: bool,
}

impl World {
    fn new(bug: Bug, n_batches: u8, window: u32, retention_bytes: u64) -> Self {
        let limits = WindowLimits {
            batches: window,
            bytes: u64::MAX,
        };
        let delivery = Delivery::new(Some(limits), true);
        let generation = delivery.generation();
        Self {
            bug,
            n_batches,
            retention_bytes,
            delivery,
            channel: VecDeque::new(),
            made: 0,
            engine_done: false,
            cancelled: false,
            newest: generation,
            before: generation,
            wire: VecDeque::new(),
            connected: true,
            processed: 0,
            acked: None,
            ack_in_flight: None,
            end_seen: None,
            resumes_left: 2,
            expired: false,
        }
    }

    /// Does a step; `Ok(false)` where it cannot happen now, an error where a promise is broken.
    fn step(&mut self, step: Step) -> Result<bool, String> {
        let happened = match step {
            Step::Make => self.make(),
            Step::Cancel => self.cancel(),
            Step::Write { newest } => self.write(newest)?,
            Step::Read => self.read()?,
            Step::Ack => self.ack(),
            Step::HearAck => self.hear_ack()?,
            Step::Cut => self.cut(),
            Step::Resume => self.resume()?,
            Step::Pause(paused) => !self.expired && self.connected && self.delivery.set_paused(paused),
            Step::Expire => self.expire(),
        };
        if happened {
            self.check()?;
        }
        Ok(happened)
    }

    fn put(&mut self, item: Item<Batch, (), End>) {
        self.channel.push_back(item);
        if !self.delivery.is_attached() {
            while let Some(item) = self.channel.pop_front() {
                let _unwanted = self.delivery.absorb(item);
            }
        }
    }

    fn make(&mut self) -> bool {
        if self.engine_done || self.expired {
            return false;
        }
        if self.made == self.n_batches {
            self.engine_done = true;
            self.put(Item::End(End::Completed));
            return true;
        }
        if !self.delivery.may_make(self.retention_bytes) {
            return false;
        }
        self.delivery.made(Made {
            bytes: 1,
            ..Made::default()
        });
        let batch = self.made;
        self.made += 1;
        self.put(Item::Batch(batch));
        true
    }

    fn cancel(&mut self) -> bool {
        if self.engine_done || self.expired {
            return false;
        }
        self.engine_done = true;
        self.cancelled = true;
        if self.bug != Bug::BatchAfterCancel {
            let _unwanted = self.delivery.cancelled();
        }
        let end = Item::End(End::Cancelled);
        if self.bug == Bug::BatchAfterCancel {
            // The terminator overtakes what is in the channel, which nobody has emptied.
            self.channel.push_front(end);
        } else {
            self.put(end);
        }
        true
    }

    fn write(&mut self, newest: bool) -> Result<bool, String> {
        let mine = if newest { self.newest } else { self.before };
        if !newest && self.before == self.newest {
            return Ok(false);
        }
        let shown = if self.bug == Bug::NoGenerationCheck {
            self.delivery.generation()
        } else {
            mine
        };
        let channel = &mut self.channel;
        let taken = if self.bug == Bug::BatchAfterCancel && self.cancelled {
            match channel.pop_front() {
                Some(Item::Batch(batch)) => Taken::Batch {
                    batch,
                    is_replay: false,
                },
                Some(Item::End(end)) => Taken::End(end),
                Some(Item::Message(())) | None => Taken::Nothing,
            }
        } else {
            self.delivery.take(shown, || channel.pop_front())
        };
        let wire = match taken {
            Taken::Nothing | Taken::Gone(_) => return Ok(false),
            Taken::Discarded(_) | Taken::Message(()) => return Ok(true),
            Taken::Batch { batch, .. } => Wire::Batch(batch),
            Taken::End(end) => Wire::End(end),
        };
        if !newest {
            return Err(format!("an older connection was given {wire:?}"));
        }
        if self.connected {
            self.wire.push_back(wire);
        }
        Ok(true)
    }

    fn read(&mut self) -> Result<bool, String> {
        let Some(wire) = self.wire.pop_front() else {
            return Ok(false);
        };
        if let Some(end) = self.end_seen {
            return Err(format!("{wire:?} after {end:?}"));
        }
        match wire {
            Wire::Batch(batch) if batch == self.processed => self.processed += 1,
            Wire::Batch(batch) => return Err(format!("batch {batch} where {} was due", self.processed)),
            Wire::End(End::Completed) if self.processed != self.n_batches => {
                return Err(format!("complete after {} batches", self.processed));
            }
            Wire::End(end) => self.end_seen = Some(end),
        }
        Ok(true)
    }

    fn ack(&mut self) -> bool {
        let last = self.processed.checked_sub(1);
        if !self.connected || last == self.acked {
            return false;
        }
        self.acked = last;
        self.ack_in_flight = last;
        true
    }

    fn hear_ack(&mut self) -> Result<bool, String> {
        let Some(number) = self.ack_in_flight.take() else {
            return Ok(false);
        };
        let off = u64::from(self.bug == Bug::AckOffByOne);
        match self.delivery.ack(self.newest, u64::from(number) + off) {
            Ok(_) => Ok(true),
            Err(AckError::Beyond(_)) if self.bug == Bug::AckOffByOne => Ok(true),
            // The terminator has been read and the stream let go.
            Err(AckError::NotAttached) if self.expired => Ok(true),
            Err(error) => Err(format!("an honest acknowledgement was refused: {error:?}")),
        }
    }

    fn cut(&mut self) -> bool {
        if !self.connected {
            return false;
        }
        self.connected = false;
        self.wire.clear();
        self.ack_in_flight = None;
        if self.delivery.detach(self.newest, None) {
            while let Some(item) = self.channel.pop_front() {
                let _unwanted = self.delivery.absorb(item);
            }
        }
        true
    }

    fn resume(&mut self) -> Result<bool, String> {
        if self.resumes_left == 0 || self.end_seen.is_some() {
            return Ok(false);
        }
        self.resumes_left -= 1;
        let from = if self.bug == Bug::NoDeduplication {
            self.delivery.window().acked()
        } else {
            u64::from(self.processed)
        };
        match self.delivery.attach(from, None) {
            Ok((attached, _freed)) => {
                if self.expired {
                    return Err("resumed after it had expired".to_owned());
                }
                self.before = self.newest;
                self.newest = attached.generation;
                self.connected = true;
                self.wire.clear();
                self.ack_in_flight = None;
                // What comes from now on is told to the server as it is processed.
                self.acked = None;
                Ok(true)
            }
            Err(_) if self.expired => Ok(false),
            Err(error) => Err(format!("an honest client was refused: {error:?}")),
        }
    }

    fn expire(&mut self) -> bool {
        if self.delivery.is_attached() || self.expired {
            return false;
        }
        self.expired = true;
        let _dropped = self.delivery.release();
        true
    }

    fn check(&self) -> Result<(), String> {
        let window = self.delivery.window();
        if !(window.acked() <= window.next() && window.acked() <= window.sent().max(window.acked())) {
            return Err(format!("the window is out of order: {window:?}"));
        }
        let limits = window.limits().unwrap();
        if self.delivery.is_attached() && window.next() - window.acked() > u64::from(limits.batches.max(1)) {
            return Err(format!("more than the window is under way: {window:?}"));
        }
        if !self.cancelled && !self.expired && u64::from(self.processed) > window.sent() {
            return Err("processed what was never sent".to_owned());
        }
        Ok(())
    }

    /// Whether the client has what it will ever get: asked of worlds in which nothing more can happen.
    fn is_settled(&self) -> bool {
        self.end_seen.is_some() || self.expired || !self.connected || self.delivery.is_paused()
    }
}

const STEPS: [Step; 12] = [
    Step::Make,
    Step::Write { newest: true },
    Step::Read,
    Step::Ack,
    Step::HearAck,
    Step::Cut,
    Step::Resume,
    Step::Cancel,
    Step::Write { newest: false },
    Step::Pause(true),
    Step::Pause(false),
    Step::Expire,
];

/// Visits every world that can be reached, breadth first; returns how many there are, or the shortest history that breaks a
/// promise.
fn explore(start: World) -> Result<usize, String> {
    let mut histories: Vec<(usize, Option<Step>)> = vec![(0, None)];
    let mut seen: HashMap<World, usize> = HashMap::from([(start.clone(), 0)]);
    let mut queue = VecDeque::from([start]);
    let history = |histories: &[(usize, Option<Step>)], mut at: usize| {
        let mut steps = Vec::new();
        while let (parent, Some(step)) = histories[at] {
            steps.push(step);
            at = parent;
        }
        steps.reverse();
        steps
    };
    while let Some(world) = queue.pop_front() {
        let at = seen[&world];
        let mut is_stuck = true;
        for step in STEPS {
            let mut next = world.clone();
            match next.step(step) {
                Err(broken) => {
                    let steps = history(&histories, at);
                    return Err(format!("{broken}, after {steps:?} and {step:?}"));
                }
                Ok(false) => {}
                Ok(true) => {
                    // A pause, a loss or a return alone is no progress.
                    is_stuck &= matches!(step, Step::Pause(_) | Step::Cut | Step::Resume | Step::Cancel);
                    if !seen.contains_key(&next) {
                        histories.push((at, Some(step)));
                        seen.insert(next.clone(), histories.len() - 1);
                        queue.push_back(next);
                    }
                }
            }
        }
        if is_stuck && !world.is_settled() {
            return Err(format!("nothing goes on after {:?}", history(&histories, at)));
        }
    }
    Ok(seen.len())
}

#[test]
fn every_history_of_a_small_world_keeps_the_promises() {
    // Twelve batches, a window of five, room for four while nobody is there, three returns.
    let mut world = World::new(Bug::None, 12, 5, 4);
    world.resumes_left = 3;
    let n_worlds = explore(world).unwrap();
    assert!(n_worlds >= 100_000, "{n_worlds} worlds");
}

#[test]
fn planted_bugs_are_found() {
    let mut found = HashSet::new();
    for bug in [
        Bug::NoDeduplication,
        Bug::AckOffByOne,
        Bug::BatchAfterCancel,
        Bug::NoGenerationCheck,
    ] {
        let broken = explore(World::new(bug, 3, 2, 2)).expect_err(&format!("{bug:?} is not noticed"));
        found.insert(broken);
    }
    assert_eq!(found.len(), 4, "each by a history of its own: {found:#?}");
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => Just(Step::Make),
        8 => Just(Step::Write { newest: true }),
        8 => Just(Step::Read),
        4 => Just(Step::Ack),
        4 => Just(Step::HearAck),
        1 => Just(Step::Cut),
        2 => Just(Step::Resume),
        1 => Just(Step::Write { newest: false }),
        1 => Just(Step::Pause(true)),
        2 => Just(Step::Pause(false)),
    ];
    prop::collection::vec(step, 0..400)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    /// Whatever happens on the way, a client that goes on gets the whole result.
    #[test]
    fn random_histories_end_well(steps in steps(), n_batches in 0_u8..40, window in 1_u32..12, retention in 1_u64..20) {
        let mut world = World::new(Bug::None, n_batches, window, retention);
        for step in steps {
            world.resumes_left = 1;
            world.step(step).map_err(TestCaseError::fail)?;
        }
        world.resumes_left = 1;
        if !world.connected && world.end_seen.is_none() {
            world.step(Step::Resume).map_err(TestCaseError::fail)?;
        }
        world.step(Step::Pause(false)).map_err(TestCaseError::fail)?;
        let calm = [Step::Make, Step::Write { newest: true }, Step::Read, Step::Ack, Step::HearAck];
        while world.end_seen.is_none() {
            let mut moved = false;
            for step in calm {
                moved |= world.step(step).map_err(TestCaseError::fail)?;
            }
            prop_assert!(moved || world.end_seen.is_some(), "stuck: {world:?}");
        }
        prop_assert_eq!(world.processed, n_batches);
        prop_assert_eq!(world.end_seen, Some(End::Completed));
    }
}

/// A few thousand, unless the environment says otherwise.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(2_000)
}
