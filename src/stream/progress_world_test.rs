//! A simulated world around a stream: an engine, a server's buffers, a socket and a client, with a clock of its own, drive the real
//! delivery and the real progress meter.
//!
//! Sizes and intervals are the server's defaults. Must not know what is to come of it.
#![cfg(test)]
#![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

use std::collections::VecDeque;
use std::time::Duration;

use super::{
    Delivery, Generation, Item, Made, ProgressMeter, Reach, Reading, Sample, StreamingConfig, Taken, WindowLimits,
};

pub(super) const TICK: Duration = Duration::from_millis(10);
pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const KIB: u64 = 1024;
pub(super) const MIB: u64 = 1024 * KIB;
/// One write of a connection's writer.
const GATHER_BYTES: u64 = 256 * KIB;
/// Both ends' buffers of a connection whose reader is slow, as Linux has them by default.
const SOCKET_BYTES: u64 = 2_600 * KIB;
pub(super) const ROW_BYTES: u64 = 150;
/// Faster than anything else here.
pub(super) const FAST: f64 = 1e9;

/// What the client does at a time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Client {
    /// Takes so many bytes a second.
    Takes(f64),
    Pauses,
    /// Has lost its connection.
    Away,
}

/// When a client with a window acknowledges.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Acks {
    Each,
    HalfWindow,
}

/// What the server knows of the result's size.
#[derive(Debug, Clone, Copy)]
pub(super) enum Known {
    Rows,
    /// A guess at the rows.
    Guess(u64),
    /// How far the scan is.
    Work,
    /// The rows, from this time on; until then how far the scan is.
    RowsSince(Duration),
    Nothing,
}

type At<T> = Box<dyn Fn(Duration) -> T>;

/// A stream, and everybody who has a part in it.
pub(super) struct Scenario {
    /// Units of work, and units a second at a time.
    work: u64,
    engine: At<f64>,
    /// The rows that so many units of work have brought.
    rows_of: fn(u64) -> u64,
    known: Known,
    client: At<Client>,
    window: Option<(WindowLimits, Acks)>,
    socket_bytes: u64,
    batch_rows: u64,
    interval: Duration,
}

impl Scenario {
    /// One row for each unit of work, a fast engine, a counted total, no window, and a client that takes 200 KB/s.
    pub(super) fn new(rows: u64) -> Self {
        Self {
            work: rows,
            engine: Box::new(|_| 1e6),
            rows_of: |work| work,
            known: Known::Rows,
            client: Box::new(|_| Client::Takes(200e3)),
            window: None,
            socket_bytes: SOCKET_BYTES,
            batch_rows: StreamingConfig::default().batch_size.into(),
            interval: StreamingConfig::default().progress_interval,
        }
    }

    pub(super) fn known(self, known: Known) -> Self {
        Self { known, ..self }
    }

    pub(super) fn client(self, client: impl Fn(Duration) -> Client + 'static) -> Self {
        let client = Box::new(client);
        Self { client, ..self }
    }

    pub(super) fn takes(self, bytes_per_second: f64) -> Self {
        self.client(move |_| Client::Takes(bytes_per_second))
    }

    pub(super) fn engine(self, work_per_second: impl Fn(Duration) -> f64 + 'static) -> Self {
        let engine = Box::new(work_per_second);
        Self { engine, ..self }
    }

    pub(super) fn rows_of(self, rows_of: fn(u64) -> u64) -> Self {
        Self { rows_of, ..self }
    }

    pub(super) fn window(self, acks: Acks, batches: u32, bytes: u64) -> Self {
        let window = Some((WindowLimits { batches, bytes }, acks));
        Self { window, ..self }
    }

    pub(super) fn default_window(self, acks: Acks) -> Self {
        let config = StreamingConfig::default();
        self.window(acks, config.window_batches, config.window_bytes)
    }

    pub(super) fn batch_rows(self, batch_rows: u64) -> Self {
        Self { batch_rows, ..self }
    }

    pub(super) fn socket_bytes(self, socket_bytes: u64) -> Self {
        Self { socket_bytes, ..self }
    }

    pub(super) fn every(self, interval: Duration) -> Self {
        Self { interval, ..self }
    }

    pub(super) fn run(self) -> Run {
        World::new(self).run()
    }
}

#[derive(Debug, Clone, Copy)]
struct Batch {
    number: u64,
    rows: u64,
    bytes: u64,
}

/// What the client was told: when that was written, and when it was read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Report {
    pub(super) written_at: Duration,
    pub(super) at: Duration,
    pub(super) reading: Reading,
    /// What the client had of the rows by then.
    pub(super) had: u64,
}

impl Report {
    pub(super) fn eta(&self) -> Option<f64> {
        self.reading.eta.map(|eta| eta.as_secs_f64())
    }
}

/// What is on its way to the client.
#[derive(Debug)]
enum Piece {
    Batch(Batch),
    Report(Duration, Reading),
}

/// What became of a stream.
pub(super) struct Run {
    pub(super) reports: Vec<Report>,
    /// When the client had everything.
    pub(super) end: Duration,
}

struct World {
    scenario: Scenario,
    config: StreamingConfig,
    now: Duration,
    meter: ProgressMeter,
    delivery: Delivery<Batch, ()>,
    generation: Generation,
    // The engine and its worker.
    work: f64,
    done: Reach,
    n_batches: u64,
    batch_due: Duration,
    is_parked: bool,
    is_done: bool,
    channel: VecDeque<Item<Batch, (), ()>>,
    // The writer.
    progress_at: Duration,
    is_due: bool,
    write_left: u64,
    is_blocked: bool,
    // The connection: pieces, and where each ends in all that was ever written or read.
    wire: VecDeque<(u64, Piece)>,
    written: u64,
    in_socket: u64,
    read: f64,
    // The client.
    doing: Client,
    inbox: VecDeque<Batch>,
    processing: f64,
    rows_processed: u64,
    processed: Option<u64>,
    unacked: (u64, u64),
    reports: Vec<Report>,
}

impl World {
    fn new(scenario: Scenario) -> Self {
        let limits = scenario.window.map(|(limits, _)| limits);
        // A stream that can be resumed has a window.
        let delivery = Delivery::new(limits, limits.is_some());
        Self {
            config: StreamingConfig::default(),
            now: Duration::ZERO,
            meter: ProgressMeter::default(),
            generation: delivery.generation(),
            delivery,
            work: 0.0,
            done: Reach::default(),
            n_batches: 0,
            batch_due: StreamingConfig::default().first_batch_interval,
            is_parked: false,
            is_done: false,
            channel: VecDeque::new(),
            progress_at: scenario.interval,
            is_due: false,
            write_left: 0,
            is_blocked: false,
            wire: VecDeque::new(),
            written: 0,
            in_socket: 0,
            read: 0.0,
            doing: Client::Takes(0.0),
            inbox: VecDeque::new(),
            processing: 0.0,
            rows_processed: 0,
            processed: None,
            unacked: (0, 0),
            reports: Vec::new(),
            scenario,
        }
    }

    fn run(mut self) -> Run {
        while !(self.is_done && self.rows_processed == self.done.rows) {
            assert!(self.now < Duration::from_secs(100_000), "the stream never ends");
            self.now += TICK;
            self.change_client();
            self.engine();
            self.timekeeper();
            self.writer();
            self.client();
        }
        Run {
            reports: self.reports,
            end: self.now,
        }
    }

    fn per_tick(rate: f64) -> f64 {
        rate * TICK.as_secs_f64()
    }

    fn in_channel_is(&self, part: u64) -> bool {
        let config = &self.config;
        let share = config.stream_buffer_bytes_max as u64 / part;
        let has_window = self.scenario.window.is_some();
        self.delivery.in_channel() < (config.channel_buffer_size as u64 / part).max(1)
            && (has_window || self.delivery.window().unacked_bytes() < share)
    }

    fn may_make(&self) -> bool {
        self.delivery.may_make(self.config.retention_bytes) && self.in_channel_is(1)
    }

    fn is_woken(&self) -> bool {
        let is_half = !self.delivery.is_attached() || self.delivery.window().is_half_open();
        self.may_make() && is_half && self.in_channel_is(2)
    }

    fn engine(&mut self) {
        if self.is_done || (self.is_parked && !self.is_woken()) {
            return;
        }
        self.is_parked = false;
        let work_to = (self.work + Self::per_tick((self.scenario.engine)(self.now))).min(self.scenario.work as f64);
        while self.work < work_to {
            if !self.may_make() {
                self.is_parked = true;
                return;
            }
            self.work = (self.work + 1.0).min(work_to);
            self.done.work = self.work as u64;
            let rows = (self.scenario.rows_of)(self.done.work) - self.done.rows;
            if rows >= self.scenario.batch_rows {
                self.make(rows);
            }
        }
        let rows = (self.scenario.rows_of)(self.done.work) - self.done.rows;
        let is_done = self.done.work == self.scenario.work;
        if rows > 0 && (is_done || self.now >= self.batch_due) && self.may_make() {
            self.make(rows);
        }
        if is_done && self.done.rows == (self.scenario.rows_of)(self.done.work) {
            self.is_done = true;
            self.put(Item::End(()));
        }
    }

    fn make(&mut self, rows: u64) {
        let bytes = rows * ROW_BYTES;
        let work = self.done.work;
        self.delivery.made(Made { bytes, rows, work });
        let number = self.n_batches;
        self.n_batches += 1;
        self.done.rows += rows;
        self.batch_due = self.now + self.config.batch_interval;
        self.put(Item::Batch(Batch { number, rows, bytes }));
    }

    fn put(&mut self, item: Item<Batch, (), ()>) {
        self.channel.push_back(item);
        if !self.delivery.is_attached() {
            self.absorb();
        }
    }

    fn absorb(&mut self) {
        for item in self.channel.drain(..) {
            assert!(self.delivery.absorb(item).is_none(), "everything is kept");
        }
    }

    fn sample(&self) -> Sample {
        let (rows, work) = ((self.scenario.rows_of)(self.scenario.work), self.scenario.work);
        let (total_rows, total_work) = match self.scenario.known {
            _ if self.is_done => (Some(self.done.rows), None),
            Known::Rows => (Some(rows), None),
            Known::Guess(rows) => (Some(rows), None),
            Known::RowsSince(at) if self.now >= at => (Some(rows), Some(work)),
            Known::Work | Known::RowsSince(_) => (None, Some(work)),
            Known::Nothing => (None, None),
        };
        Sample {
            elapsed: self.now,
            done: self.done,
            delivered: self.delivery.window().delivered(self.done),
            total_rows,
            total_work,
            is_up_to_client: self.is_parked || self.is_done,
            is_paused: self.delivery.is_paused(),
        }
    }

    fn timekeeper(&mut self) {
        if self.now >= self.progress_at && self.delivery.is_attached() && !self.delivery.is_end_given() {
            self.progress_at = self.now + self.scenario.interval;
            self.meter.look(self.sample());
            self.is_due = true;
        }
    }

    fn writer(&mut self) {
        while self.delivery.is_attached() {
            let free = self.scenario.socket_bytes - self.in_socket;
            // A writer that has to wait is woken once a third is free.
            if self.is_blocked && free < self.scenario.socket_bytes / 3 {
                return;
            }
            let n = free.min(self.write_left);
            self.in_socket += n;
            self.write_left -= n;
            self.is_blocked = self.write_left > 0;
            if self.is_blocked {
                return;
            }
            let mut gathered = 0;
            while gathered < GATHER_BYTES {
                let channel = &mut self.channel;
                match self.delivery.take(self.generation, || channel.pop_front()) {
                    Taken::Batch { batch, .. } => {
                        gathered += batch.bytes;
                        self.written += batch.bytes;
                        self.wire.push_back((self.written, Piece::Batch(batch)));
                    }
                    Taken::End(()) | Taken::Nothing => break,
                    other @ (Taken::Message(()) | Taken::Discarded(_) | Taken::Gone(_)) => {
                        panic!("not for this writer: {other:?}")
                    }
                }
            }
            if std::mem::take(&mut self.is_due) {
                let reading = self.meter.read(self.sample());
                self.wire.push_back((self.written, Piece::Report(self.now, reading)));
            }
            self.write_left = gathered;
            if gathered == 0 {
                return;
            }
        }
    }

    fn change_client(&mut self) {
        let (before, now) = (self.doing, (self.scenario.client)(self.now));
        self.doing = now;
        if before == now {
            return;
        }
        self.delivery.set_paused(now == Client::Pauses);
        if now == Client::Away {
            assert!(self.delivery.detach(self.generation, None));
            self.absorb();
            (self.write_left, self.is_blocked, self.is_due) = (0, false, false);
            // Whatever was under way is lost.
            self.wire.clear();
            self.inbox.clear();
            (self.in_socket, self.read, self.processing) = (0, self.written as f64, 0.0);
        } else if before == Client::Away {
            let from = self.processed.map_or(0, |number| number + 1);
            let (attached, _) = self.delivery.attach(from, None).unwrap();
            self.generation = attached.generation;
            self.unacked = (0, 0);
            self.meter.interrupted();
        }
    }

    fn client(&mut self) {
        let rate = match self.doing {
            Client::Takes(rate) => rate,
            Client::Pauses => 0.0,
            Client::Away => return,
        };
        // With a window the client reads on while it works on its rows; without, it reads what it works on.
        let read_rate = if self.scenario.window.is_some() { FAST } else { rate };
        let n = Self::per_tick(read_rate).min(self.in_socket as f64);
        let before = self.read as u64;
        self.read += n;
        self.in_socket -= self.read as u64 - before;
        while let Some((end, _)) = self.wire.front()
            && *end as f64 <= self.read
        {
            match self.wire.pop_front().unwrap().1 {
                Piece::Batch(batch) if self.scenario.window.is_none() => self.process(batch),
                Piece::Batch(batch) => self.inbox.push_back(batch),
                Piece::Report(written_at, reading) => self.reports.push(Report {
                    written_at,
                    at: self.now,
                    reading,
                    had: self.rows_processed,
                }),
            }
        }
        self.processing += Self::per_tick(rate);
        while let Some(batch) = self.inbox.front()
            && batch.bytes as f64 <= self.processing
        {
            self.processing -= batch.bytes as f64;
            let batch = self.inbox.pop_front().unwrap();
            self.process(batch);
        }
        if self.inbox.is_empty() {
            self.processing = 0.0;
        }
    }

    fn process(&mut self, batch: Batch) {
        let expected = self.processed.map_or(0, |number| number + 1);
        assert_eq!(batch.number, expected, "every batch once, in order");
        self.processed = Some(batch.number);
        self.rows_processed += batch.rows;
        let Some((limits, acks)) = self.scenario.window else {
            return;
        };
        self.unacked.0 += 1;
        self.unacked.1 += batch.bytes;
        let is_half = self.unacked.0 * 2 >= u64::from(limits.batches) || self.unacked.1 * 2 >= limits.bytes;
        if acks == Acks::Each || is_half {
            self.unacked = (0, 0);
            self.delivery.ack(self.generation, batch.number).unwrap();
        }
    }
}
