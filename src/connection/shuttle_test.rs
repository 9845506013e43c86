//! The outbox, its writer and all who put something in, scheduled in thousands of orders: nothing is missed.

use std::sync::Arc;

use super::application::Overflow;
use super::outbox::{Outbox, Patience, Taken};
use super::soon::SoonList;
use crate::protocol::{PongMessage, ServerMessage};
use crate::scheduler::{Account, StreamSink, Urgency};
use crate::transport::websocket::ControlLane;

const ORDERS: usize = 3_000;

fn outbox() -> Arc<Outbox> {
    Arc::new(Outbox::new(Arc::new(SoonList::still()), Account::alone(1 << 20)))
}

#[test]
fn shuttle_a_writer_sees_everything_that_is_put_in() {
    let run = || {
        let outbox = outbox();
        let bells = [outbox.lane_bell(), outbox.lane_bell()];
        let [first, second] = bells.clone();
        let notifiers = [
            {
                let outbox = Arc::clone(&outbox);
                shuttle::thread::spawn(move || {
                    first.notify(Urgency::Now, 10);
                    assert!(outbox.send(&ServerMessage::Pong(PongMessage::default())));
                    first.notify(Urgency::Now, 10);
                })
            },
            {
                let outbox = Arc::clone(&outbox);
                shuttle::thread::spawn(move || {
                    outbox.pong(b"p");
                    // Not urgent, but more than is worth waiting with.
                    second.notify(Urgency::Soon, 1 << 20);
                    outbox.send_application(b"{}".to_vec(), Overflow::DropNewest);
                    outbox.ping();
                })
            },
        ];
        let closer = {
            let outbox = Arc::clone(&outbox);
            shuttle::thread::spawn(move || {
                for notifier in notifiers {
                    notifier.join().unwrap();
                }
                outbox.reader_gone();
            })
        };
        let mut taken = Taken::default();
        let (mut n_ready, mut n_messages, mut n_application, mut n_pongs, mut pinged) = (0, 0, 0, 0, false);
        loop {
            outbox.take(&mut taken, Patience::Long);
            for key in taken.ready.drain(..) {
                assert!((1..=2).contains(&key));
                n_ready += 1;
            }
            bells.iter().for_each(|bell| bell.reset());
            n_messages += taken.messages.drain(..).count();
            n_application += taken.application.drain(..).count();
            n_pongs += taken.pongs.drain(..).count();
            pinged |= std::mem::take(&mut taken.ping_due);
            if taken.reader_gone {
                break;
            }
        }
        assert!((2..=3).contains(&n_ready), "each bell at least once: {n_ready}");
        assert_eq!((n_messages, n_application, n_pongs, pinged), (1, 1, 1, true));
        closer.join().unwrap();
        outbox.writer_gone();
    };
    shuttle::check_random(run, ORDERS);
    shuttle::check_pct(run, ORDERS, 3);
}
