//! A connection's writer, its outbox and the streams behind it, and all that wakes it soon, scheduled by shuttle: everything
//! reaches the wire, and in the end the connection is closed.

#![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

use std::io::{self, Write};
use std::sync::Arc;

use shuttle::thread::JoinHandle;

use super::outbox::{Lane, Outbox, Patience, Taken};
use super::session::{Session, SessionLimits};
use super::soon::SoonList;
use super::writer::{Writer, WriterEnd};
use crate::auth::Rights;
use crate::clock;
use crate::engine::CancelReason;
use crate::id::{ConnectionId, Principal};
use crate::protocol::{CloseCode, StreamQuery};
use crate::scheduler::{Account, Scheduler, Stream, StreamSink, Urgency};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::transport::WriteHalf;
use crate::transport::websocket::{FrameWriter, MessageKind, Side};

const ORDERS: usize = 1_000;

/// What was written.
#[derive(Clone, Default)]
struct Wire(Arc<std::sync::Mutex<Vec<u8>>>);

impl WriteHalf for Wire {}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Whoever waits for the socket lets the others go on.
        shuttle::thread::yield_now();
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Wire {
    /// How many messages of this type there are.
    fn count(&self, message_type: &str) -> usize {
        let written = self.0.lock().unwrap();
        let text = String::from_utf8_lossy(&written);
        text.matches(&format!("\"type\":\"{message_type}\"")).count()
    }
}

const LIMITS: SessionLimits = SessionLimits {
    streams_max: 2,
    query_bytes_max: 16,
    batch_size_max: 10,
    batch_bytes_max: 1_000,
    window_batches_max: 8,
    window_bytes_max: 1_000,
    message_rate: None,
    query_rate: None,
};

/// One connection without a reader.
struct Connected {
    outbox: Arc<Outbox>,
    session: Arc<Mutex<Session>>,
    scheduler: Arc<Scheduler>,
    wire: Wire,
    writer: JoinHandle<WriterEnd>,
}

impl Connected {
    fn new(scheduler: &Arc<Scheduler>) -> Self {
        let soon = Arc::new(SoonList::new(scheduler));
        let outbox = Arc::new(Outbox::new(soon, Account::alone(1 << 20)));
        let session = Arc::new(Mutex::new(Session::new(LIMITS, clock::now())));
        let wire = Wire::default();
        let frames = FrameWriter::new(Box::new(wire.clone()), Side::Server);
        let writer = Writer::new(Arc::clone(&outbox), Arc::clone(&session), Arc::clone(scheduler), frames);
        Self {
            outbox,
            session,
            scheduler: Arc::clone(scheduler),
            wire,
            writer: shuttle::thread::spawn(move || writer.write_until_closed()),
        }
    }

    /// Does what a reader does when its client asks.
    fn ask(&self) -> Arc<Stream> {
        self.try_ask().expect("the query is accepted")
    }

    /// As [`ask`](Self::ask); `None` where the query is refused.
    fn try_ask(&self) -> Option<Arc<Stream>> {
        let origin = self.scheduler.origin(ConnectionId::new(1), Principal::anonymous());
        let bell = self.outbox.lane_bell();
        let sink = Arc::clone(&bell) as Arc<dyn StreamSink>;
        let accepted = self
            .scheduler
            .accept(StreamQuery::new("q"), &origin, &Rights::everyones(), sink);
        let Ok(accepted) = accepted else {
            self.outbox.no_lane();
            return None;
        };
        let stream = Arc::clone(&accepted.stream);
        self.session.lock().on_accepted(stream.id, None);
        self.outbox.open_lane(Lane {
            generation: stream.generation(),
            stream: Arc::clone(&stream),
            bell,
        });
        self.scheduler.launch(accepted);
        Some(stream)
    }

    fn close_after_streams(&self) {
        let code = Some(CloseCode::GoingAway.number());
        self.outbox.close(code, "the server is going away", true);
    }
}

#[test]
fn shuttle_every_batch_and_terminator_is_on_the_wire_before_the_close() {
    let run = || {
        let (scheduler, threads) = Scheduler::scheduled(4, 2);
        let connected = Connected::new(&scheduler);
        let time = {
            let scheduler = Arc::clone(&scheduler);
            shuttle::thread::spawn(move || scheduler.timekeeper().let_time_pass())
        };
        let streams = [connected.ask(), connected.ask()];
        connected.close_after_streams();
        let end = connected.writer.join().unwrap();
        assert!(matches!(end, WriterEnd::Closed), "{end:?}");
        let wire = &connected.wire;
        let counts = ["query_started", "query_batch", "query_completed"].map(|name| wire.count(name));
        assert_eq!(counts, [2, 8, 2]);
        time.join().unwrap();
        drop(streams);
        scheduler.stop();
        threads.join();
        scheduler.check_nothing_is_left();
    };
    shuttle::check_random(run, ORDERS);
    shuttle::check_pct(run, ORDERS, 3);
}

#[test]
fn shuttle_a_query_that_crosses_a_drain_is_refused_or_has_its_terminator_before_the_close() {
    let run = || {
        let (scheduler, threads) = Scheduler::scheduled(2, 1);
        let connected = Connected::new(&scheduler);
        let drain = {
            let (scheduler, outbox) = (Arc::clone(&scheduler), Arc::clone(&connected.outbox));
            shuttle::thread::spawn(move || {
                scheduler.refuse_queries();
                let code = Some(CloseCode::ServiceRestart.number());
                outbox.close(code, "the server is going away", true);
            })
        };
        let n_accepted = connected.try_ask().iter().count();
        let end = connected.writer.join().unwrap();
        assert!(matches!(end, WriterEnd::Closed), "{end:?}");
        let wire = &connected.wire;
        let counts = ["query_started", "query_batch", "query_completed"].map(|name| wire.count(name));
        // Whether it was accepted before the drain began or refused, the client has not been left in the dark.
        assert_eq!(counts, [n_accepted, 2 * n_accepted, n_accepted]);
        drain.join().unwrap();
        scheduler.stop();
        threads.join();
        scheduler.check_nothing_is_left();
    };
    shuttle::check_random(run, ORDERS);
    shuttle::check_pct(run, ORDERS, 3);
}

#[test]
fn shuttle_a_cancelled_stream_has_one_terminator_on_the_wire_wherever_it_was() {
    let run = || {
        let (scheduler, threads) = Scheduler::scheduled(3, 1);
        let connected = Connected::new(&scheduler);
        let stream = connected.ask();
        let reader = shuttle::thread::spawn(move || stream.cancel(CancelReason::Client));
        connected.close_after_streams();
        let end = connected.writer.join().unwrap();
        assert!(matches!(end, WriterEnd::Closed), "{end:?}");
        let wire = &connected.wire;
        let terminators = [wire.count("query_completed"), wire.count("query_cancelled")];
        assert_eq!(terminators.iter().sum::<usize>(), 1, "{terminators:?}");
        reader.join().unwrap();
        scheduler.stop();
        threads.join();
        scheduler.check_nothing_is_left();
    };
    shuttle::check_random(run, ORDERS);
    shuttle::check_pct(run, ORDERS, 3);
}

#[test]
fn shuttle_what_is_not_urgent_leaves_once_time_has_passed() {
    let run = || {
        let (scheduler, threads) = Scheduler::scheduled(0, 0);
        let soon = Arc::new(SoonList::new(&scheduler));
        let [first, second] = [(); 2].map(|()| Arc::new(Outbox::new(Arc::clone(&soon), Account::alone(1 << 20))));
        let announce = |outbox: &Arc<Outbox>| {
            let bell = outbox.lane_bell();
            move || bell.notify(Urgency::Soon, 1)
        };
        let (announce_first, announce_second) = (announce(&first), announce(&second));
        let n_left = Arc::new(AtomicUsize::new(0));
        let leave = |outbox: Arc<Outbox>| {
            let n_left = Arc::clone(&n_left);
            move || {
                let mut taken = Taken::default();
                outbox.take(&mut taken, Patience::Long);
                assert_eq!(taken.ready.len(), 1);
                n_left.fetch_add(1, Ordering::SeqCst);
            }
        };
        let (leave_first, leave_second) = (leave(first), leave(second));
        let workers = [
            shuttle::thread::spawn(announce_first),
            // When the first has left there may have been quiet for a while.
            shuttle::thread::spawn(move || {
                leave_first();
                announce_second();
            }),
        ];
        let writer = shuttle::thread::spawn(leave_second);
        let time = {
            let scheduler = Arc::clone(&scheduler);
            shuttle::thread::spawn(move || (0..4).for_each(|_| scheduler.timekeeper().let_time_pass()))
        };
        time.join().unwrap();
        let mut patience = 1_000;
        while n_left.load(Ordering::SeqCst) < 2 {
            assert!(patience > 0, "an alarm was lost");
            patience -= 1;
            scheduler.timekeeper().let_time_pass();
            shuttle::thread::yield_now();
        }
        for thread in workers.into_iter().chain([writer]) {
            thread.join().unwrap();
        }
        scheduler.stop();
        threads.join();
    };
    shuttle::check_random(run, ORDERS);
    shuttle::check_pct(run, 10 * ORDERS, 2);
}

#[test]
fn shuttle_an_echo_that_waits_for_room_goes_on_or_ends_with_the_writer() {
    let run = |n_taken: usize| {
        let (scheduler, threads) = Scheduler::scheduled(0, 0);
        let soon = Arc::new(SoonList::new(&scheduler));
        let outbox = Arc::new(Outbox::new(soon, Account::alone(1 << 20)));
        let reader = {
            let outbox = Arc::clone(&outbox);
            let payload = vec![0; 200 * 1024];
            shuttle::thread::spawn(move || (0..3).for_each(|_| outbox.echo(MessageKind::Binary, &payload)))
        };
        let mut taken = Taken::default();
        let mut n_messages = 0;
        while n_messages < n_taken {
            outbox.take(&mut taken, Patience::Long);
            n_messages += taken.messages.drain(..).count();
        }
        outbox.writer_gone();
        reader.join().unwrap();
        scheduler.stop();
        threads.join();
    };
    for n_taken in 0..=3 {
        shuttle::check_random(move || run(n_taken), ORDERS / 2);
    }
}
