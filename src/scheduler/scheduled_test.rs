//! A whole scheduler whose threads shuttle schedules: streams that are cancelled while they are launched, closed by another
//! thread, paused, and taken over by another connection.
//!
//! What is waited for in vain shows as a deadlock.

#![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::Value;
use shuttle::thread::JoinHandle;

use super::shuttle_test::Bell;
use super::*;
use crate::engine::memory::{MemoryEngine, Script};
use crate::stream::{QueryStreamStatus, Taken};
use crate::sync::atomic::AtomicUsize;

const ORDERS: usize = 2_000;

/// Threads that end when their scheduler is stopped.
pub(crate) struct Threads(Vec<JoinHandle<()>>);

impl Threads {
    pub(crate) fn join(self) {
        for thread in self.0 {
            thread.join().expect("no thread panics");
        }
    }
}

impl Scheduler {
    /// One whose workers and timekeeper shuttle schedules. Its query `q` has `n_rows` rows, each a batch of its own. There is no
    /// closer: whoever cancels closes the cursor. Time passes only [when told](Timekeeper::let_time_pass).
    pub(crate) fn scheduled(n_rows: u64, n_workers: usize) -> (Arc<Self>, Threads) {
        let engine = MemoryEngine::builder()
            .query("q", Script::new(["n"]).generate(n_rows, |n| vec![(n as i64).into()]))
            .build();
        let hour = Duration::from_secs(3_600);
        let config = StreamingConfig {
            batch_size: 1,
            channel_buffer_size: 2,
            // While nobody is there one batch is made ahead, so that the engine has to be woken when somebody comes back.
            retention_bytes: 1,
            progress_interval: Duration::ZERO,
            first_batch_interval: hour,
            batch_interval: hour,
            ..StreamingConfig::default()
        };
        let scheduler = Arc::new(Self {
            core: super::shuttle_test::core(config, n_workers),
            engines: vec![NamedEngine {
                name: "memory".into(),
                engine: Arc::new(engine),
            }],
            seats: Seats::new(usize::MAX, usize::MAX),
            stopping: AtomicBool::new(false),
            threads: Mutex::new(Vec::new()),
        });
        let mut threads = vec![shuttle::thread::spawn(scheduler.timekeeper().ring())];
        for _ in 0..n_workers {
            let core = Arc::clone(&scheduler.core);
            threads.push(shuttle::thread::spawn(move || worker::work_until_closed(&core)));
        }
        (scheduler, Threads(threads))
    }

    /// That everything has been given back.
    #[track_caller]
    pub(crate) fn check_nothing_is_left(&self) {
        assert_eq!((self.core.budget.held(), self.core.registry.n_running()), (0, 0));
        assert!(self.streams().is_empty());
    }
}

/// A client's connection.
fn origin(scheduler: &Scheduler, number: u64) -> Origin {
    scheduler.origin(ConnectionId::new(number), Principal::anonymous())
}

/// From the first connection there is.
fn try_accept(scheduler: &Scheduler, query: StreamQuery, bell: &Arc<Bell>) -> Result<Accepted, Box<ErrorMessage>> {
    let sink = Arc::clone(bell) as Arc<dyn StreamSink>;
    scheduler.accept(query, &origin(scheduler, 1), &Rights::everyones(), sink)
}

fn accept(scheduler: &Scheduler, query: StreamQuery, bell: &Arc<Bell>) -> Accepted {
    try_accept(scheduler, query, bell).expect("the query is accepted")
}

/// A query whose window is of one batch and that can be resumed.
fn resumable() -> StreamQuery {
    StreamQuery {
        resumable: true,
        window: Some(WindowRequest {
            batches: Some(1),
            bytes: None,
        }),
        ..StreamQuery::new("q")
    }
}

/// Takes everything up to the terminator; returns the number of batches and the outcome.
fn take_all(stream: &Arc<Stream>, bell: &Bell) -> (u64, QueryStreamStatus) {
    let generation = stream.generation();
    let mut n_batches = 0;
    loop {
        match stream.take(generation) {
            Taken::Batch { .. } => n_batches += 1,
            Taken::End(end) => return (n_batches, end.status()),
            Taken::Nothing => bell.wait(),
            Taken::Message(_) | Taken::Discarded(_) => {}
            Taken::Gone(gone) => panic!("{gone:?}"),
        }
    }
}

#[test]
fn shuttle_a_stream_that_is_cancelled_while_it_is_launched_ends() {
    let run = || {
        let (scheduler, threads) = Scheduler::scheduled(2, 1);
        let admin = {
            let scheduler = Arc::clone(&scheduler);
            shuttle::thread::spawn(move || scheduler.cancel_all(CancelReason::Admin))
        };
        let bell = Arc::new(Bell::default());
        let accepted = accept(&scheduler, StreamQuery::new("q"), &bell);
        let stream = Arc::clone(&accepted.stream);
        scheduler.launch(accepted);
        match take_all(&stream, &bell) {
            (2, QueryStreamStatus::Completed) | (_, QueryStreamStatus::Cancelled) => {}
            other => panic!("{other:?}"),
        }
        admin.join().unwrap();
        scheduler.stop();
        threads.join();
        scheduler.check_nothing_is_left();
    };
    shuttle::check_random(run, ORDERS);
    shuttle::check_pct(run, ORDERS, 3);
}

#[test]
fn shuttle_a_stream_that_is_launched_while_the_scheduler_stops_ends() {
    let run = || {
        let (scheduler, threads) = Scheduler::scheduled(2, 1);
        let stopper = {
            let scheduler = Arc::clone(&scheduler);
            shuttle::thread::spawn(move || scheduler.stop())
        };
        let bell = Arc::new(Bell::default());
        if let Ok(accepted) = try_accept(&scheduler, StreamQuery::new("q"), &bell) {
            let stream = Arc::clone(&accepted.stream);
            scheduler.launch(accepted);
            let _either_way = take_all(&stream, &bell);
        }
        stopper.join().unwrap();
        threads.join();
        scheduler.check_nothing_is_left();
    };
    shuttle::check_random(run, ORDERS);
    shuttle::check_pct(run, ORDERS, 3);
}

#[test]
fn shuttle_of_several_streams_and_workers_each_gets_its_own_end() {
    let run = || {
        let (scheduler, threads) = Scheduler::scheduled(3, 2);
        let (closing, to_close) = bounded(2);
        *scheduler.core.closing.lock() = Some(closing);
        let clients = [(); 2].map(|()| {
            let bell = Arc::new(Bell::default());
            let accepted = accept(&scheduler, StreamQuery::new("q"), &bell);
            let stream = Arc::clone(&accepted.stream);
            scheduler.launch(accepted);
            let taken = Arc::clone(&stream);
            let client = shuttle::thread::spawn(move || take_all(&taken, &bell));
            (stream, client)
        });
        let [(first, cancelled), (second, whole)] = clients;
        first.cancel(CancelReason::Client);
        // Whatever has to be closed is in the channel now, so that the closer ends without having waited.
        *scheduler.core.closing.lock() = None;
        let core = Arc::clone(&scheduler.core);
        let closer = shuttle::thread::spawn(move || worker::run_errands_until_disconnected(&core, &to_close));
        let (n_batches, status) = cancelled.join().unwrap();
        assert!(status == QueryStreamStatus::Cancelled || (n_batches, status) == (3, QueryStreamStatus::Completed));
        assert_eq!(whole.join().unwrap(), (3, QueryStreamStatus::Completed));
        closer.join().unwrap();
        drop((first, second));
        scheduler.stop();
        threads.join();
        scheduler.check_nothing_is_left();
        let figures = scheduler.statistics();
        assert_eq!((figures.started, figures.completed + figures.cancelled), (2, 2));
    };
    shuttle::check_random(run, ORDERS);
    shuttle::check_pct(run, ORDERS, 3);
}

#[test]
fn shuttle_a_pause_holds_up_nothing_once_it_is_over() {
    let run = || {
        let (scheduler, threads) = Scheduler::scheduled(3, 1);
        let bell = Arc::new(Bell::default());
        let accepted = accept(&scheduler, StreamQuery::new("q"), &bell);
        let stream = Arc::clone(&accepted.stream);
        scheduler.launch(accepted);
        let paused = Arc::clone(&stream);
        let reader = shuttle::thread::spawn(move || {
            paused.set_paused(true);
            paused.set_paused(false);
        });
        assert_eq!(take_all(&stream, &bell), (3, QueryStreamStatus::Completed));
        reader.join().unwrap();
        scheduler.stop();
        threads.join();
        scheduler.check_nothing_is_left();
    };
    shuttle::check_random(run, ORDERS);
    shuttle::check_pct(run, ORDERS, 3);
}

#[test]
fn shuttle_a_cancel_ends_a_paused_stream_wherever_its_engine_is() {
    let run = |query: fn() -> StreamQuery| {
        let (scheduler, threads) = Scheduler::scheduled(1, 1);
        let bell = Arc::new(Bell::default());
        let accepted = accept(&scheduler, query(), &bell);
        let stream = Arc::clone(&accepted.stream);
        scheduler.launch(accepted);
        let paused = Arc::clone(&stream);
        let reader = shuttle::thread::spawn(move || {
            paused.set_paused(true);
            paused.cancel(CancelReason::Client);
        });
        let _either_way = take_all(&stream, &bell);
        reader.join().unwrap();
        stream.expire();
        scheduler.stop();
        threads.join();
        scheduler.check_nothing_is_left();
    };
    shuttle::check_random(move || run(|| StreamQuery::new("q")), ORDERS);
    shuttle::check_random(move || run(resumable), ORDERS);
    shuttle::check_pct(move || run(resumable), ORDERS, 3);
}

/// A client of one resumable stream, over all its connections.
#[derive(Default)]
struct Resumer {
    token: Option<ResumeToken>,
    /// Numbers of the batches processed, which must come in order.
    n_batches: u64,
    n_from_the_first_connection: u64,
    ended: Option<QueryStreamStatus>,
}

impl Resumer {
    /// Takes and acknowledges until the terminator, or until the stream is gone from the connection.
    fn take(&mut self, stream: &Arc<Stream>, connection: u64, bell: &Bell) {
        let generation = stream.generation();
        let connection = ConnectionId::new(connection);
        loop {
            match stream.take(generation) {
                Taken::Message(note) => {
                    let message: Value = serde_json::from_slice(&note.message).expect("messages are JSON");
                    if let Some(token) = message["resume_token"].as_str() {
                        self.token = Some(ResumeToken::from(token.to_owned()));
                    }
                }
                Taken::Batch { batch, .. } => {
                    let message: Value = serde_json::from_slice(batch.message()).expect("batches are JSON");
                    assert_eq!(message["batch_number"], self.n_batches, "{message}");
                    self.n_batches += 1;
                    let _gone_is_seen_at_the_next_take = stream.ack(connection, Some(self.n_batches - 1), false);
                }
                Taken::End(end) => {
                    self.ended = Some(end.status());
                    let _too_late_either_way = stream.ack(connection, None, true);
                    return;
                }
                Taken::Gone(_) => return,
                Taken::Nothing => bell.wait(),
                Taken::Discarded(_) => {}
            }
        }
    }
}

#[test]
fn shuttle_whoever_resumes_gets_the_rest_wherever_the_connection_was_cut() {
    let cut_after = Arc::new(std::sync::Mutex::new(HashSet::new()));
    let seen = Arc::clone(&cut_after);
    let run = move || {
        let (scheduler, threads) = Scheduler::scheduled(3, 1);
        let bells = [(); 2].map(|()| Arc::new(Bell::default()));
        let accepted = accept(&scheduler, resumable(), &bells[0]);
        let stream = Arc::clone(&accepted.stream);
        scheduler.launch(accepted);
        let cutter = {
            let (stream, bell) = (Arc::clone(&stream), Arc::clone(&bells[0]));
            shuttle::thread::spawn(move || {
                stream.detach(ConnectionId::new(1));
                bell.notify(Urgency::Now, 0);
            })
        };
        let mut client = Resumer::default();
        client.take(&stream, 1, &bells[0]);
        client.n_from_the_first_connection = client.n_batches;
        if client.ended.is_none()
            && let Some(token) = client.token.clone()
        {
            let query = ResumeQuery {
                resume_token: token,
                last_batch: client.n_batches.checked_sub(1),
                window: None,
                request_id: None,
            };
            let sink = Arc::clone(&bells[1]) as Arc<dyn StreamSink>;
            let resumed = scheduler.resume(Arc::clone(&stream), &query, &origin(&scheduler, 2), sink);
            resumed.expect("the token is good");
            client.take(&stream, 2, &bells[1]);
            assert!(client.ended.is_some());
            seen.lock().unwrap().insert(client.n_from_the_first_connection);
        }
        if client.token.is_some() {
            assert_eq!(
                (client.n_batches, client.ended),
                (3, Some(QueryStreamStatus::Completed))
            );
        }
        cutter.join().unwrap();
        // Cut between the terminator and its acknowledgement, it is held until its time is up.
        stream.expire();
        scheduler.stop();
        threads.join();
        scheduler.check_nothing_is_left();
    };
    shuttle::check_random(run.clone(), ORDERS);
    shuttle::check_pct(run, ORDERS, 3);
    assert!(
        cut_after.lock().unwrap().len() > 2,
        "not cut at enough places: {cut_after:?}"
    );
}

#[test]
fn shuttle_nothing_starts_once_a_drain_is_over() {
    let run = || {
        let (scheduler, threads) = Scheduler::scheduled(1, 1);
        let drain = {
            let scheduler = Arc::clone(&scheduler);
            shuttle::thread::spawn(move || {
                scheduler.refuse_queries();
                let n_before = scheduler.n_undelivered();
                let n_left = scheduler.wait_until_delivered(clock::now());
                (n_before, n_left, scheduler.statistics().started)
            })
        };
        let bell = Arc::new(Bell::default());
        let n_accepted = match try_accept(&scheduler, StreamQuery::new("q"), &bell) {
            Ok(accepted) => {
                let stream = Arc::clone(&accepted.stream);
                scheduler.launch(accepted);
                assert_eq!(take_all(&stream, &bell), (1, QueryStreamStatus::Completed));
                1
            }
            Err(error) => {
                assert_eq!(error.code, ErrorCode::ShuttingDown);
                0
            }
        };
        let (n_before, n_left, n_started) = drain.join().unwrap();
        assert_eq!((n_left, n_started), (0, n_accepted));
        assert!(n_before <= n_accepted as usize);
        scheduler.stop();
        threads.join();
        scheduler.check_nothing_is_left();
    };
    shuttle::check_random(run, ORDERS);
    shuttle::check_pct(run, ORDERS, 3);
}

#[test]
fn shuttle_what_crosses_a_stop_ends_once() {
    let run = || {
        let (scheduler, threads) = Scheduler::scheduled(1, 1);
        let stop = {
            let scheduler = Arc::clone(&scheduler);
            shuttle::thread::spawn(move || {
                scheduler.refuse_all();
                scheduler.cancel_all(CancelReason::Shutdown);
            })
        };
        let n_answers = Arc::new(AtomicUsize::new(0));
        let answer = {
            let n_answers = Arc::clone(&n_answers);
            move |_: &ServerMessage| {
                n_answers.fetch_add(1, Ordering::SeqCst);
            }
        };
        let query = DescribeQuery {
            query: "q".to_owned(),
            engine: None,
            request_id: None,
        };
        scheduler.describe(query, &origin(&scheduler, 1), &Rights::everyones(), Box::new(answer));
        let bell = Arc::new(Bell::default());
        if let Ok(accepted) = try_accept(&scheduler, StreamQuery::new("q"), &bell) {
            let stream = Arc::clone(&accepted.stream);
            scheduler.launch(accepted);
            take_all(&stream, &bell);
        }
        stop.join().unwrap();
        scheduler.stop();
        threads.join();
        assert_eq!(n_answers.load(Ordering::SeqCst), 1);
        scheduler.check_nothing_is_left();
    };
    shuttle::check_random(run, ORDERS);
    shuttle::check_pct(run, ORDERS, 3);
}
