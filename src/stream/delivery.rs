//! What of a stream is still to be delivered, and to which connection: attach, detach, resume, acknowledge, pause, expire.
//!
//! A state machine without locks, clocks or sockets. Batches (`B`), other messages (`M`) and the terminator (`E`) are whatever
//! its owner makes of them. Must not know how they are made or written.

use std::collections::VecDeque;

use super::window::{BeyondSent, Made, RewindError, Window, WindowLimits};

/// Which attachment of a stream: each connection that a stream is attached to gets a number of its own, so that whatever an
/// older one still says or asks is known to be old.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Generation(u64);

/// What a worker puts into a stream's channel.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Item<B, M, E> {
    /// A message that is no batch and no terminator.
    Message(M),
    /// A batch, which was [announced](Delivery::made) before.
    Batch(B),
    /// The terminator: always the last.
    End(E),
}

/// What a connection's writer is given.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Taken<B, M, E> {
    Message(M),
    Batch {
        batch: B,
        /// Whether it was sent before, on another connection.
        is_replay: bool,
    },
    /// The terminator: nothing follows on this attachment.
    End(E),
    /// A batch that nobody wants any more: to be dropped; there may be more.
    Discarded(B),
    /// Nothing now.
    Nothing,
    /// The stream is not this connection's any more.
    Gone(Gone),
}

/// Why a stream has left a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Gone {
    /// A newer connection has it.
    Superseded,
    /// The client took nothing for too long.
    Stalled,
}

/// Why a stream cannot be resumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum AttachError {
    /// Batches before `oldest` have been acknowledged.
    Gap { oldest: u64 },
    /// The client says that it has what was never sent.
    Beyond(BeyondSent),
    /// Nothing is held any more.
    Expired,
}

/// Why an acknowledgement is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum AckError {
    /// The stream is not this connection's.
    NotAttached,
    Beyond(BeyondSent),
}

/// A stream that has been attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Attached {
    pub(crate) generation: Generation,
    /// The first batch that comes again; equal to `next_batch` where none does.
    pub(crate) resend_from: u64,
    /// The first batch that was never sent.
    pub(crate) next_batch: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Link {
    Attached,
    Detached(Option<Gone>),
    /// Nothing is held, and nothing can be resumed.
    Released,
}

/// Everything of one stream between its worker and its client.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Delivery<B, E> {
    window: Window,
    is_resumable: bool,
    /// The batches from the first unacknowledged one on, as far as they have left the channel. Empty unless resumable.
    retained: VecDeque<B>,
    is_paused: bool,
    is_cancelled: bool,
    end: Option<E>,
    is_end_given: bool,
    generation: u64,
    link: Link,
}

impl<B: Clone, E: Clone> Delivery<B, E> {
    /// A stream attached to the connection that asked for it. A resumable one needs `limits`, so that it comes to a stop when its
    /// client does not acknowledge.
    pub(crate) fn new(limits: Option<WindowLimits>, is_resumable: bool) -> Self {
        debug_assert!(limits.is_some() || !is_resumable, "what is retained is bounded");
        Self {
            window: Window::new(limits),
            is_resumable,
            retained: VecDeque::new(),
            is_paused: false,
            is_cancelled: false,
            end: None,
            is_end_given: false,
            generation: 0,
            link: Link::Attached,
        }
    }

    /// A batch is about to go into the channel.
    pub(crate) fn made(&mut self, made: Made) {
        self.window.made(made);
    }

    /// The stream has been cancelled and its engine has stopped: from now on there is only the terminator. Returns what is to be
    /// dropped.
    pub(crate) fn cancelled(&mut self) -> VecDeque<B> {
        self.is_cancelled = true;
        self.window.give_up();
        std::mem::take(&mut self.retained)
    }

    /// What the client is told at the end, whatever comes out of the channel.
    pub(crate) fn replace_end(&mut self, end: E) {
        self.end = Some(end);
    }

    /// What the writer of attachment `generation` is to write next; `pull` takes from the channel.
    pub(crate) fn take<M>(
        &mut self,
        generation: Generation,
        mut pull: impl FnMut() -> Option<Item<B, M, E>>,
    ) -> Taken<B, M, E> {
        if let Some(gone) = self.gone(generation) {
            return Taken::Gone(gone);
        }
        loop {
            if let Some(end) = &self.end
                && !self.is_end_given
                && (self.is_cancelled || (self.window.pending() == 0 && !self.is_paused))
            {
                self.is_end_given = true;
                return Taken::End(end.clone());
            }
            let may_send = self.window.may_send() && !self.is_paused;
            if let Some(batch) = self.retained.get(self.idx_of_next()) {
                if !may_send {
                    return Taken::Nothing;
                }
                let batch = batch.clone();
                let (_, is_first) = self.window.send();
                return Taken::Batch {
                    batch,
                    is_replay: !is_first,
                };
            }
            // Where a batch waits in the channel it must be one that may go; what else waits there may go anyway.
            if self.window.pending() > 0 && !may_send && !self.is_cancelled {
                return Taken::Nothing;
            }
            match pull() {
                None => return Taken::Nothing,
                Some(Item::Message(message)) => return Taken::Message(message),
                Some(Item::End(end)) => {
                    self.end.get_or_insert(end);
                }
                Some(Item::Batch(batch)) if self.is_cancelled => return Taken::Discarded(batch),
                Some(Item::Batch(batch)) => {
                    if self.is_resumable {
                        self.retained.push_back(batch.clone());
                    }
                    let (_, is_first) = self.window.send();
                    return Taken::Batch {
                        batch,
                        is_replay: !is_first,
                    };
                }
            }
        }
    }

    /// Takes in what a worker made while no connection takes it. Gives back what is not kept: messages, and batches that nobody
    /// wants.
    pub(crate) fn absorb<M>(&mut self, item: Item<B, M, E>) -> Option<Item<B, M, E>> {
        match item {
            Item::Batch(batch) if self.is_resumable && !self.is_cancelled && self.link != Link::Released => {
                self.retained.push_back(batch);
                None
            }
            Item::End(end) => {
                self.end.get_or_insert(end);
                None
            }
            other @ (Item::Message(_) | Item::Batch(_)) => Some(other),
        }
    }

    /// The client has processed all up to batch `number`. Gives back what need not be held any more.
    pub(crate) fn ack(&mut self, generation: Generation, number: u64) -> Result<Vec<B>, AckError> {
        if !self.is_attached_as(generation) {
            return Err(AckError::NotAttached);
        }
        let freed = self.window.ack(number).map_err(AckError::Beyond)?;
        Ok(self.free(freed))
    }

    /// A connection takes the stream over; its client has processed all before batch `from`. Whoever had it before has it no more.
    pub(crate) fn attach(
        &mut self,
        from: u64,
        limits: Option<WindowLimits>,
    ) -> Result<(Attached, Vec<B>), AttachError> {
        if !self.is_resumable || self.link == Link::Released {
            return Err(AttachError::Expired);
        }
        let freed = if self.is_cancelled {
            // Nothing but the terminator comes, wherever the client was.
            let sent = self.window.sent();
            if from > sent {
                return Err(AttachError::Beyond(BeyondSent { sent }));
            }
            0
        } else {
            self.window.rewind(from).map_err(|error| match error {
                RewindError::Gap { oldest } => AttachError::Gap { oldest },
                RewindError::Beyond(beyond) => AttachError::Beyond(beyond),
            })?
        };
        if let Some(limits) = limits {
            self.window.set_limits(limits);
        }
        self.generation += 1;
        self.link = Link::Attached;
        self.is_end_given = false;
        let attached = Attached {
            generation: Generation(self.generation),
            resend_from: if self.is_cancelled { self.window.sent() } else { from },
            next_batch: self.window.sent(),
        };
        Ok((attached, self.free(freed)))
    }

    /// The connection of attachment `generation` is gone, or gives the stream up. False where it had it no more.
    pub(crate) fn detach(&mut self, generation: Generation, why: Option<Gone>) -> bool {
        let was_attached = self.is_attached_as(generation);
        if was_attached {
            self.link = Link::Detached(why);
            // A client that comes back has forgotten that it paused, or pauses again.
            self.is_paused = false;
        }
        was_attached
    }

    /// Nobody comes back, or nobody needs to: nothing is held from now on. Gives back what was.
    pub(crate) fn release(&mut self) -> VecDeque<B> {
        self.link = Link::Released;
        self.window.give_up();
        std::mem::take(&mut self.retained)
    }

    /// Says whether that changes anything.
    pub(crate) fn set_paused(&mut self, is_paused: bool) -> bool {
        std::mem::replace(&mut self.is_paused, is_paused) != is_paused
    }

    /// Whether the engine may make another batch. While nobody is there, up to `retention_bytes`.
    pub(crate) fn may_make(&self, retention_bytes: u64) -> bool {
        if self.is_paused || self.is_cancelled {
            return false;
        }
        match self.link {
            Link::Attached => self.window.may_make(),
            Link::Detached(_) => self.window.unacked() == 0 || self.window.unacked_bytes() < retention_bytes,
            Link::Released => false,
        }
    }

    /// The present attachment.
    pub(crate) fn generation(&self) -> Generation {
        Generation(self.generation)
    }

    pub(crate) fn is_attached(&self) -> bool {
        self.link == Link::Attached
    }

    pub(crate) fn is_attached_as(&self, generation: Generation) -> bool {
        self.is_attached() && generation == Generation(self.generation)
    }

    pub(crate) fn is_released(&self) -> bool {
        self.link == Link::Released
    }

    pub(crate) fn is_resumable(&self) -> bool {
        self.is_resumable
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// Whether the terminator has been given to the present connection.
    pub(crate) fn is_end_given(&self) -> bool {
        self.is_end_given
    }

    /// The terminator, once it has been given to the present connection.
    pub(crate) fn end_given(&self) -> Option<&E> {
        self.end.as_ref().filter(|_| self.is_end_given)
    }

    /// Whether something waits that a connection could be given at once or once its window opens.
    pub(crate) fn has_pending(&self) -> bool {
        self.window.pending() > 0 || (self.end.is_some() && !self.is_end_given)
    }

    pub(crate) fn window(&self) -> &Window {
        &self.window
    }

    /// Batches that are in the channel.
    pub(crate) fn in_channel(&self) -> u64 {
        let from = self.window.acked() + self.retained.len() as u64;
        let taken = from.max(self.window.next());
        self.window.next() + self.window.pending() - taken
    }

    fn gone(&self, generation: Generation) -> Option<Gone> {
        if generation != Generation(self.generation) {
            return Some(Gone::Superseded);
        }
        match self.link {
            Link::Attached => None,
            Link::Detached(why) => Some(why.unwrap_or(Gone::Superseded)),
            Link::Released => Some(Gone::Superseded),
        }
    }

    fn idx_of_next(&self) -> usize {
        usize::try_from(self.window.next() - self.window.acked()).unwrap_or(usize::MAX)
    }

    fn free(&mut self, n_freed: u64) -> Vec<B> {
        let n = usize::try_from(n_freed).unwrap_or(usize::MAX).min(self.retained.len());
        self.retained.drain(..n).collect()
    }
}
