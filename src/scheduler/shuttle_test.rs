//! Workers, writers and clients of real streams, scheduled in thousands of orders: nobody sleeps with work to do.
//!
//! A wake-up that is lost shows as a deadlock, which the scheduler reports with the order that led to it.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::bounded;

use super::budget::Account;
use super::buffers::Compressors;
use super::event::OTHER_EVENTS_MAX;
use super::fair::Rank;
use super::groups::Place;
use super::job::Job;
use super::live::{Asked, StreamPlan};
use super::outlet::Outlet;
use super::producer::BatchRules;
use super::queue::Work;
use super::*;
use crate::engine::Engine;
use crate::engine::memory::{MemoryEngine, Script};
use crate::rows::{ArrowMixed, CellRules, Int64Encoding, RowFormat};
use crate::stream::{AttachError, QueryStreamStatus, Taken};
use crate::sync::Condvar;
use crate::sync::atomic::AtomicUsize;

const ORDERS: usize = 3_000;

pub(super) fn core(config: StreamingConfig, n_workers: usize) -> Arc<Core> {
    let budget = Budget::new(config.held_bytes_max);
    let compressors = Compressors::new(config.compression_level);
    Arc::new(Core {
        config,
        queue: RunQueue::new(n_workers, 1),
        questions: Arc::default(),
        registry: Registry::new(),
        buffers: Buffers::default(),
        compressors,
        budget,
        metrics: Arc::default(),
        epoch: Epoch::random(),
        timekeeper: Timekeeper::still(),
        closing: Mutex::new(None),
        watch: Default::default(),
        relief: Relief::default(),
        estimates: Mutex::new(Allowance::new(clock::now())),
    })
}

/// A writer's doorbell.
#[derive(Default)]
pub(super) struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Bell {
    pub(super) fn wait(&self) {
        let mut rung = self.rung.lock();
        while !std::mem::take(&mut *rung) {
            self.changed.wait(&mut rung);
        }
    }
}

impl StreamSink for Bell {
    fn notify(&self, _urgency: Urgency, _bytes: usize) {
        *self.rung.lock() = true;
        self.changed.notify_one();
    }

    fn progress_due(&self) {}
}

/// A stream of so many one-row batches, launched.
fn launch(core: &Arc<Core>, n_rows: u64, window: Option<u32>, is_resumable: bool, bell: &Arc<Bell>) -> Arc<Stream> {
    let engine: Arc<dyn Engine> = Arc::new(
        MemoryEngine::builder()
            .query("q", Script::new(["n"]).generate(n_rows, |n| vec![(n as i64).into()]))
            .build(),
    );
    let now = clock::now();
    let hour = Duration::from_secs(3_600);
    let connection = ConnectionId::new(1);
    let limits = window.map(|batches| WindowLimits {
        batches,
        bytes: u64::MAX,
    });
    let (channel, events) = bounded(core.config.channel_buffer_size + OTHER_EVENTS_MAX);
    let sink = Arc::clone(bell) as Arc<dyn StreamSink>;
    let stream = Arc::new(Stream::new(
        None,
        StreamPlan {
            asked: Asked::new(QuerySpec::new("q")),
            engine_name: "memory".into(),
            rows_max: None,
            deadline: None,
            progress_interval: None,
            traceparent: None,
        },
        engine,
        Arc::clone(core),
        Origin {
            principal: Principal::anonymous(),
            connection,
            account: Account::new(&core.budget, 1 << 30),
        },
        Rank::default(),
        Outlet::new(limits, is_resumable, events, sink, connection, now),
    ));
    let rules = BatchRules {
        format: crate::protocol::DataFormat::Json,
        compression: crate::protocol::Compression::None,
        row_format: RowFormat::Array,
        int64: Int64Encoding::Number,
        batch_rows: 1,
        batch_bytes: 1 << 20,
        row_bytes_max: 1 << 20,
        rows_max: None,
        bytes_max: None,
        first_interval: hour,
        interval: hour,
        checksum: false,
        cells: CellRules::default(),
        arrow_mixed: ArrowMixed::Fail,
    };
    let seat = Seats::new(1, 1).take(&Principal::anonymous()).unwrap();
    let job = Box::new(Job::new(&stream, rules, channel, None, seat));
    stream.give_job(job);
    assert!(core.registry.expect());
    core.registry.insert(stream.id, Arc::clone(&stream), None);
    stream.launch();
    stream
}

/// Takes everything until the terminator, acknowledging each batch where there is a window; returns the batches.
fn write_all(stream: &Arc<Stream>, bell: &Bell, has_window: bool) -> (u64, StreamEnd) {
    let generation = stream.generation();
    let mut n_batches = 0;
    loop {
        match stream.take(generation) {
            Taken::Batch { batch, .. } => {
                drop(batch);
                n_batches += 1;
                if has_window {
                    stream.ack(ConnectionId::new(1), Some(n_batches - 1), false).unwrap();
                }
            }
            Taken::End(end) => return (n_batches, end),
            Taken::Nothing => bell.wait(),
            Taken::Message(_) | Taken::Discarded(_) => {}
            Taken::Gone(gone) => panic!("{gone:?}"),
        }
    }
}

fn small_channel() -> StreamingConfig {
    StreamingConfig {
        channel_buffer_size: 2,
        ..StreamingConfig::default()
    }
}

fn nothing_is_left(core: &Core) {
    assert_eq!((core.budget.held(), core.registry.n_running()), (0, 0));
    assert!(core.registry.all().is_empty());
}

#[test]
fn shuttle_whoever_makes_room_wakes_who_waits_for_it() {
    let run = |window: Option<u32>| {
        let core = core(small_channel(), 1);
        let bell = Arc::new(Bell::default());
        let stream = launch(&core, 5, window, false, &bell);
        let working = Arc::clone(&core);
        let worker = shuttle::thread::spawn(move || worker::work_until_closed(&working));
        let (n_batches, end) = write_all(&stream, &bell, window.is_some());
        assert_eq!((n_batches, end.status()), (5, QueryStreamStatus::Completed));
        core.queue.close();
        worker.join().unwrap();
        drop(stream);
        nothing_is_left(&core);
    };
    shuttle::check_random(move || run(None), ORDERS);
    shuttle::check_random(move || run(Some(1)), ORDERS);
    shuttle::check_pct(move || run(Some(3)), ORDERS, 3);
}

#[test]
fn shuttle_a_cancel_at_any_point_ends_the_stream_once() {
    let run = || {
        let core = core(small_channel(), 1);
        let bell = Arc::new(Bell::default());
        let stream = launch(&core, 4, Some(2), false, &bell);
        let working = Arc::clone(&core);
        let worker = shuttle::thread::spawn(move || worker::work_until_closed(&working));
        let cancelled = Arc::clone(&stream);
        let client = shuttle::thread::spawn(move || cancelled.cancel(CancelReason::Client));
        // Acknowledges nothing: a cancel that is lost leaves it waiting for ever.
        let generation = stream.generation();
        let end = loop {
            match stream.take(generation) {
                Taken::End(end) => break end,
                Taken::Nothing => bell.wait(),
                _ => {}
            }
        };
        assert_eq!(end.status(), QueryStreamStatus::Cancelled);
        client.join().unwrap();
        core.queue.close();
        worker.join().unwrap();
        drop(stream);
        nothing_is_left(&core);
    };
    shuttle::check_random(run, ORDERS);
    shuttle::check_pct(run, ORDERS, 3);
}

#[test]
fn shuttle_a_connection_lost_at_any_point_leaves_nothing_behind() {
    let run = |is_resumable: bool| {
        let core = core(small_channel(), 1);
        let bell = Arc::new(Bell::default());
        let stream = launch(&core, 4, Some(2), is_resumable, &bell);
        let working = Arc::clone(&core);
        let worker = shuttle::thread::spawn(move || worker::work_until_closed(&working));
        let lost = Arc::clone(&stream);
        let reader = shuttle::thread::spawn(move || {
            let connection = ConnectionId::new(1);
            lost.detach(connection);
            // Nobody comes back.
            lost.expire();
        });
        let generation = stream.generation();
        loop {
            match stream.take(generation) {
                Taken::End(_) | Taken::Gone(_) => break,
                Taken::Nothing if !stream.outlet().delivery.is_attached() => break,
                Taken::Nothing => shuttle::thread::yield_now(),
                _ => {}
            }
        }
        reader.join().unwrap();
        // A tail whose terminator was taken is held until its time is up.
        stream.expire();
        core.queue.close();
        worker.join().unwrap();
        drop(stream);
        nothing_is_left(&core);
    };
    shuttle::check_random(move || run(false), ORDERS);
    shuttle::check_random(move || run(true), ORDERS);
}

#[test]
fn shuttle_of_two_who_resume_exactly_one_has_the_stream() {
    let run = || {
        let core = core(small_channel(), 1);
        let bell = Arc::new(Bell::default());
        let stream = launch(&core, 3, Some(2), true, &bell);
        let tokens = [(); 3].map(|()| ResumeToken::random(core.epoch).hash());
        core.registry.rotate_token(stream.id, tokens[0], tokens[0]);
        let working = Arc::clone(&core);
        let worker = shuttle::thread::spawn(move || worker::work_until_closed(&working));
        let racers = [1, 2].map(|n: usize| {
            let (stream, shown, new) = (Arc::clone(&stream), tokens[0], tokens[n]);
            shuttle::thread::spawn(move || {
                let sink = Arc::new(Bell::default());
                let connection = ConnectionId::new(n as u64 + 1);
                stream.attach(0, None, connection, sink, (shown, new)).is_ok()
            })
        });
        let won = racers.map(|racer| racer.join().unwrap());
        assert!(won[0] && won[1], "the token shown is good until the newer one is known");
        let at = [1, 2, 3].map(|n| stream.is_at(ConnectionId::new(n)));
        assert_eq!(at.iter().filter(|at| **at).count(), 1, "{at:?}");
        assert!(!at[0]);
        for connection in 2..=3 {
            stream.detach(ConnectionId::new(connection));
        }
        stream.cancel(CancelReason::Admin);
        stream.expire();
        core.queue.close();
        worker.join().unwrap();
        let refused = stream.outlet().delivery.attach(0, None).map(|_| ());
        assert!(matches!(refused, Err(AttachError::Expired)) || stream.status().is_terminal());
    };
    shuttle::check_random(run, ORDERS);
}

#[test]
fn shuttle_everything_queued_is_handed_out_once_and_workers_go_home() {
    let run = || {
        let queue: Arc<RunQueue<u32, ()>> = Arc::new(RunQueue::new(2, 1));
        let n_taken = Arc::new(AtomicUsize::new(0));
        let workers: Vec<_> = (0..2)
            .map(|_| {
                let (queue, n_taken) = (Arc::clone(&queue), Arc::clone(&n_taken));
                shuttle::thread::spawn(move || {
                    while let Some(work) = queue.next(|| false) {
                        if let Work::Turn(n, _) = work {
                            n_taken.fetch_add(n as usize, atomic_ordering());
                        }
                        queue.done();
                    }
                })
            })
            .collect();
        for n in 0..4_u32 {
            let place = Place {
                group: u64::from(n % 2),
                ..Place::default()
            };
            queue.push_fresh(1 << (4 * n), place);
        }
        queue.close();
        for worker in workers {
            worker.join().unwrap();
        }
        assert_eq!(n_taken.load(atomic_ordering()), 0x1111, "each once");
    };
    shuttle::check_random(run, ORDERS);
}

fn atomic_ordering() -> crate::sync::atomic::Ordering {
    crate::sync::atomic::Ordering::SeqCst
}

#[test]
fn shuttle_what_is_held_comes_back_to_nothing() {
    let run = || {
        let budget = Budget::new(100);
        let holders: Vec<_> = (0..3)
            .map(|n| {
                let account = Account::new(&budget, 60);
                shuttle::thread::spawn(move || {
                    let first = account.hold(10 * n, Held::Batches);
                    let second = account.hold(7, Held::Messages);
                    drop(first);
                    assert!(account.has_room() || n > 0);
                    second
                })
            })
            .collect();
        let permits: Vec<_> = holders.into_iter().map(|holder| holder.join().unwrap()).collect();
        assert_eq!(budget.held(), 21);
        drop(permits);
        assert_eq!(budget.held(), 0);
    };
    shuttle::check_random(run, ORDERS);
}

#[test]
fn shuttle_a_drain_sees_the_last_stream_end() {
    let run = || {
        let registry = Arc::new(Registry::new());
        let ids = [(); 3].map(|()| StreamId::random());
        for id in ids {
            assert!(registry.expect());
            registry.insert(id, Arc::new(()), None);
        }
        let enders = ids.map(|id| {
            let registry = Arc::clone(&registry);
            shuttle::thread::spawn(move || {
                registry.ended(id, QueryStreamStatus::Completed);
                registry.remove(id);
            })
        });
        assert_eq!(
            registry.wait_until_delivered(clock::now() + Duration::from_secs(3_600)),
            0
        );
        assert_eq!(
            registry.statistics().completed,
            3,
            "counted before it is seen to have ended"
        );
        for ender in enders {
            ender.join().unwrap();
        }
        assert!(registry.all().is_empty());
    };
    shuttle::check_random(run, ORDERS);
}
