//! Looking again at those who are in, when what they may do may have changed: a token is gone, or its rights are others.
//!
//! Must not know who says so, or where it is written.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::admission::{Admission, Denial, Timeout};
use super::session::Session;
use super::{ConnectionContext, ConnectionHandle};
use crate::auth::{AuthError, Bearer, Identity, Rights};
use crate::clock;
use crate::error::CancelReason;
use crate::protocol::{ErrorMessage, ServerMessage};
use crate::scheduler::{Scheduler, Stream};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};

/// How long the terminators of somebody's streams may take who is turned out, before the connection is closed without them.
const TURN_OUT_GRACE: Duration = Duration::from_secs(2);

/// How often all have been looked at again. Who is let in while that happens compares: of a round that begins and somebody who comes, one
/// finds the other.
#[derive(Debug, Default)]
pub(crate) struct Rounds(AtomicU64);

/// Somebody who is in, and the session that has their rights.
#[derive(Debug, Clone)]
pub(super) struct Guest {
    bearer: Arc<Bearer>,
    session: Arc<Mutex<Session>>,
}

impl Rounds {
    pub(super) fn current(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    /// Before anybody is looked at.
    fn begin(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Admission {
    /// Has those who come at this moment look for themselves.
    pub(crate) fn begin_recheck(&self) {
        self.rounds.begin();
    }

    /// Who that is now, who has to go, or `None` where that cannot be found out. Blocks as the authenticator does.
    fn look_again(&self, bearer: &Bearer) -> Option<Result<Identity, Denial>> {
        let authenticator = self.authenticator.as_ref()?;
        let looked = catch_unwind(AssertUnwindSafe(|| {
            authenticator.recheck(&bearer.token, &bearer.identity)
        }));
        let principal = bearer.identity.name();
        match looked {
            Ok(Ok(identity)) if identity.name() != principal => Some(Err(Denial::SomebodyElse)),
            Ok(Ok(identity)) => Some(Ok(identity)),
            Ok(Err(AuthError::Rejected)) => Some(Err(Denial::Revoked)),
            Ok(Err(AuthError::Forbidden)) => Some(Err(Denial::Forbidden)),
            Ok(Err(AuthError::Unavailable(text))) => {
                log::error!(principal = principal, error = text; "whether a client may stay cannot be found out");
                None
            }
            Err(_) => {
                log::error!(principal = principal; "the authenticator panicked when it looked again");
                None
            }
        }
    }

    /// Cancels the streams that no connection has and that whoever had them last may not have any more.
    pub(crate) fn recheck_detached(&self, scheduler: &Scheduler) {
        for stream in scheduler.streams() {
            let Some(bearer) = stream.bearer().filter(|_| !stream.figures().is_attached) else {
                continue;
            };
            let may_stay = match self.look_again(&bearer) {
                None => true,
                Some(Ok(identity)) => may_have(identity.rights(), &stream),
                Some(Err(_)) => false,
            };
            // Who has resumed it meanwhile is looked at as who they are.
            let is_theirs = || stream.bearer().is_some_and(|now| Arc::ptr_eq(&now, &bearer));
            if !may_stay && !stream.figures().is_attached && is_theirs() {
                stream.cancel(CancelReason::Admin);
            }
        }
    }
}

impl ConnectionHandle {
    /// Who is in from now on.
    pub(super) fn set_guest(&self, bearer: Bearer, session: &Arc<Mutex<Session>>) {
        let guest = Guest {
            bearer: Arc::new(bearer),
            session: Arc::clone(session),
        };
        let before = self.guest.lock().replace(guest);
        drop(before);
    }

    /// Who is in; `None` where nobody is asked, or nobody knows yet.
    pub(super) fn bearer(&self) -> Option<Arc<Bearer>> {
        self.guest.lock().as_ref().map(|guest| Arc::clone(&guest.bearer))
    }

    /// Whether nothing counts any more of what the peer says.
    pub(super) fn is_turned_out(&self) -> bool {
        self.is_turned_out.load(Ordering::SeqCst)
    }

    /// Looks again at who is in: their rights are what they are now, and streams beyond them are cancelled; or they are turned out, which is
    /// when this is true. Blocks as the authenticator does.
    pub(crate) fn recheck(self: &Arc<Self>, context: &ConnectionContext) -> bool {
        loop {
            let round = context.admission.rounds.current();
            let Some(Guest { bearer, session }) = self.guest.lock().clone() else {
                return false;
            };
            let Some(looked) = context.admission.look_again(&bearer) else {
                return false;
            };
            if !self.is_in_by(&bearer) {
                // They have shown another token meanwhile, and see to that themselves.
                return false;
            }
            match looked {
                Ok(identity) => self.set_identity(&bearer, &identity, &session, context),
                Err(denial) => return self.turn_out(denial, &session, context),
            }
            if context.admission.rounds.current() == round {
                return false;
            }
            // What was found out may be older than what another round has.
        }
    }

    /// Whether it is by the same token that somebody is in.
    fn is_in_by(&self, bearer: &Bearer) -> bool {
        self.bearer().is_some_and(|now| now.has_token_of(bearer))
    }

    /// Who came in with `bearer` is `identity` now, unless they have shown another token.
    fn set_identity(
        &self,
        bearer: &Bearer,
        identity: &Identity,
        session: &Mutex<Session>,
        context: &ConnectionContext,
    ) {
        let rights = identity.rights();
        {
            // One lock over both: who shows another token at this moment has its rights at the end.
            let mut guest = self.guest.lock();
            let Some(guest) = guest.as_mut().filter(|guest| guest.bearer.has_token_of(bearer)) else {
                return;
            };
            if guest.bearer.identity == *identity {
                return;
            }
            guest.bearer = Arc::new(Bearer {
                identity: identity.clone(),
                token: bearer.token,
            });
            session.lock().admit(rights.clone());
        }
        self.cancel_streams(session, &context.scheduler, |stream| !may_have(rights, stream));
    }

    /// Nothing that the peer says counts any more; it is told why, its streams have their terminators, and the connection is closed. False
    /// where all of that has been done before.
    fn turn_out(self: &Arc<Self>, denial: Denial, session: &Mutex<Session>, context: &ConnectionContext) -> bool {
        // First of all: a stream that is started now is cancelled by whoever starts it.
        if self.is_turned_out.swap(true, Ordering::SeqCst) {
            return false;
        }
        log::warn!(connection = self.id.number(), reason = denial.text(); "a client that was in is turned out");
        let (error_code, close_code) = denial.codes();
        let error = ErrorMessage::new(error_code, denial.text());
        let _closed_either_way = self.outbox.send(&ServerMessage::Error(error));
        self.cancel_streams(session, &context.scheduler, |_| true);
        context.scheduler.cancel_questions(self.id, CancelReason::Admin);
        self.outbox.close_refused(close_code, denial.text());
        let alarm = Timeout::new(self, close_code, denial.text());
        let at = clock::after(clock::now(), TURN_OUT_GRACE);
        let guard = context.scheduler.timekeeper().set(at, Arc::new(alarm));
        let before = self.closing.lock().replace(guard);
        drop(before);
        true
    }

    fn cancel_streams(&self, session: &Mutex<Session>, scheduler: &Scheduler, is_to_go: impl Fn(&Stream) -> bool) {
        let known = session.lock().known();
        for stream in known.into_iter().filter_map(|id| scheduler.find(id)) {
            if stream.is_at(self.id) && is_to_go(&stream) {
                stream.cancel(CancelReason::Admin);
            }
        }
    }

    /// A stream has come to this connection while [`recheck`](Self::recheck) may have been looking at those that it had.
    pub(super) fn recheck_stream(&self, session: &Mutex<Session>, stream: &Arc<Stream>) {
        let may_stay = !self.is_turned_out() && may_have(session.lock().rights(), stream);
        if !may_stay {
            stream.cancel(CancelReason::Admin);
        }
    }
}

fn may_have(rights: &Rights, stream: &Stream) -> bool {
    rights.may_query() && rights.may_ask(&stream.plan.engine_name)
}
