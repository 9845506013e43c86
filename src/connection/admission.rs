//! Who is let in, and what somebody is told who is not: with the upgrade or by `hello`, before it is too late.
//!
//! Must not know what is asked for once somebody is in.

use std::net::Shutdown;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::application::ConnectionSender;
use super::http::Answer;
use super::reader::{Messages, ShutDown};
use super::recheck::Rounds;
use super::report::welcome;
use super::{ConnectionContext, ConnectionHandle};
use crate::auth::{
    AuthError, Authenticator, Bearer, Credentials, FailureLimit, Fingerprint, Identity, Rights, Secret, Shown,
};
use crate::clock;
use crate::error::ErrorCode;
use crate::id::{Principal, RequestId};
use crate::protocol::{CloseCode, ErrorMessage, Hello, ServerMessage};
use crate::scheduler::{Alarm, AlarmGuard, Origin, Seat};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::transport::http::refuse;

/// How long somebody who has not said who they are may take to leave, once told that it is too late.
const LEAVE_GRACE: Duration = Duration::from_millis(500);

/// What a server asks of those who come.
pub(crate) struct Admission {
    /// Says who they are; `None` where nobody is asked.
    pub(crate) authenticator: Option<Arc<dyn Authenticator>>,
    /// For saying so, after the upgrade; and for the authenticator to find out.
    pub(crate) deadline: Duration,
    pub(crate) failures: FailureLimit,
    pub(crate) rounds: Rounds,
}

/// Who comes.
#[derive(Debug)]
pub(super) enum Visitor {
    /// Nobody is asked.
    Anybody,
    Known(Shower, Seat),
    /// A `hello` has to follow.
    Stranger,
}

/// Who has shown a good token.
#[derive(Debug)]
pub(super) struct Shower {
    bearer: Bearer,
    /// The [round](Rounds) in which it was looked at.
    round: u64,
}

/// Why somebody is not let in, or not let stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Denial {
    /// They ask for something before they have said who they are.
    Stranger,
    Rejected,
    /// Their token was somebody's when they came.
    Revoked,
    Forbidden,
    /// They were somebody else before.
    SomebodyElse,
    Unavailable,
    /// They have as many connections as they may.
    Crowded,
    /// Too many of this address were nobody; after this time one is looked at again.
    TooMany(Duration),
}

impl Denial {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Stranger => "this server wants to know who you are: say hello with a token first",
            Self::Rejected => "nobody has this token",
            Self::Revoked => "the token is good no more",
            Self::Forbidden => "who has this token may not come in",
            Self::SomebodyElse => "this token is somebody else's than the one before on this connection",
            Self::Unavailable => "whose token this is cannot be found out now; try again soon",
            Self::Crowded => "this client has as many connections as it may",
            Self::TooMany(_) => "too many tokens from this address were nobody's; try again later",
        }
    }

    fn response(self) -> Vec<u8> {
        let (status, headers) = match self {
            Self::Stranger | Self::Rejected | Self::Revoked => (
                "401 Unauthorized",
                "WWW-Authenticate: Bearer realm=\"rowstream\", error=\"invalid_token\"\r\n".to_owned(),
            ),
            Self::Forbidden | Self::SomebodyElse => ("403 Forbidden", String::new()),
            Self::Unavailable => ("503 Service Unavailable", "Retry-After: 5\r\n".to_owned()),
            Self::Crowded => ("429 Too Many Requests", "Retry-After: 1\r\n".to_owned()),
            Self::TooMany(wait) => {
                let seconds = wait.as_millis().div_ceil(1_000);
                ("429 Too Many Requests", format!("Retry-After: {seconds}\r\n"))
            }
        };
        refuse(status, &headers, self.text(), false)
    }

    pub(super) fn codes(self) -> (ErrorCode, CloseCode) {
        match self {
            Self::Stranger | Self::Rejected | Self::Revoked => (ErrorCode::Unauthenticated, CloseCode::Unauthenticated),
            Self::Forbidden | Self::SomebodyElse => (ErrorCode::PermissionDenied, CloseCode::Forbidden),
            Self::Unavailable => (ErrorCode::Internal, CloseCode::TryAgainLater),
            Self::Crowded => (ErrorCode::LimitExceeded, CloseCode::TooMany),
            Self::TooMany(_) => (ErrorCode::Unauthenticated, CloseCode::TooMany),
        }
    }
}

impl Admission {
    /// Looks at the token that came with an upgrade, if one did; who has a wrong one is answered in HTTP.
    ///
    /// Blocks as the authenticator does; at the deadline the client is cut off.
    pub(super) fn screen(
        &self,
        answer: Answer,
        handle: &ConnectionHandle,
        context: &ConnectionContext,
    ) -> (Answer, Visitor) {
        let Answer::Upgrade { shown, .. } = &answer else {
            return (answer, Visitor::Anybody);
        };
        let judged = match (&self.authenticator, shown) {
            (None, _) => Ok(Visitor::Anybody),
            (Some(_), Shown::Nothing) => Ok(Visitor::Stranger),
            (Some(authenticator), shown) => {
                let alarm = ShutDown(Arc::clone(&handle.control));
                let timekeeper = context.scheduler.timekeeper();
                let _guard = timekeeper.set(clock::after(clock::now(), self.deadline), Arc::new(alarm));
                let token = match shown {
                    Shown::Token(token) => Some(token),
                    Shown::Nothing | Shown::Unusable => None,
                };
                self.judge(authenticator.as_ref(), token, handle).and_then(|shower| {
                    take_seat(context, &shower.bearer.identity).map(|seat| Visitor::Known(shower, seat))
                })
            }
        };
        match judged {
            Ok(visitor) => (answer, visitor),
            Err(denial) => (Answer::Respond(denial.response()), Visitor::Stranger),
        }
    }

    /// Who has this token; `None` stands for what cannot be one.
    fn judge(
        &self,
        authenticator: &dyn Authenticator,
        token: Option<&Secret>,
        handle: &ConnectionHandle,
    ) -> Result<Shower, Denial> {
        let round = self.rounds.current();
        let (id, peer) = (handle.id.number(), handle.peer_ip);
        let fingerprint = token.map(|token| Fingerprint::of(token.expose()));
        let admitted = self.failures.check(peer, fingerprint.as_ref(), clock::now());
        if let Err(wait) = admitted
            && !authenticator.is_guess_proof()
        {
            log::debug!(connection = id; "token not verified: too many wrong tokens from this address");
            return Err(Denial::TooMany(wait));
        }
        let judged = match token.zip(fingerprint) {
            None => Ok(Err(AuthError::Rejected)),
            Some((token, fingerprint)) => {
                let credentials = Credentials::new(token.expose(), peer);
                let identity = catch_unwind(AssertUnwindSafe(|| authenticator.authenticate(&credentials)));
                identity.map(|identity| {
                    identity.map(|identity| Bearer {
                        identity,
                        token: fingerprint,
                    })
                })
            }
        };
        match judged {
            Ok(Ok(bearer)) => {
                self.failures.succeeded(&bearer.token);
                log::debug!(connection = id, principal = bearer.identity.name(); "connection admitted");
                Ok(Shower { bearer, round })
            }
            Ok(Err(AuthError::Rejected)) => {
                self.failures.failed(peer, fingerprint.as_ref(), clock::now());
                if let Err(wait) = admitted {
                    log::debug!(connection = id; "wrong token, after too many from this address");
                    return Err(Denial::TooMany(wait));
                }
                let peer = peer.map(|peer| peer.to_string());
                log::warn!(connection = id, peer = peer; "shows a token that nobody has");
                Err(Denial::Rejected)
            }
            Ok(Err(AuthError::Forbidden)) => {
                log::warn!(connection = id; "shows a token of somebody who may not come in");
                Err(Denial::Forbidden)
            }
            Ok(Err(AuthError::Unavailable(text))) => {
                log::error!(connection = id, error = text; "whose token is shown cannot be found out");
                Err(Denial::Unavailable)
            }
            Err(_) => {
                log::error!(connection = id; "the authenticator panicked");
                Err(Denial::Unavailable)
            }
        }
    }
}

/// One more connection of somebody, if they may have one more.
fn take_seat(context: &ConnectionContext, identity: &Identity) -> Result<Seat, Denial> {
    context
        .principals
        .take(&identity.principal())
        .map_err(|_| Denial::Crowded)
}

/// Somebody who is in.
pub(super) struct Admitted {
    /// As streams know the connection.
    pub(super) origin: Origin,
    /// As the application does.
    pub(super) sender: ConnectionSender,
    /// Among the connections of the principal, where that is somebody in particular.
    _seat: Option<Seat>,
}

impl Messages<'_> {
    /// Lets in who comes, unless it is a stranger: then the time runs.
    pub(super) fn receive(&self, visitor: Visitor) {
        match visitor {
            Visitor::Anybody => self.admit(Principal::anonymous(), Rights::everyones(), None),
            Visitor::Known(shower, seat) => self.admit_bearer(shower, Some(seat)),
            Visitor::Stranger => {
                let text = "the time for saying who you are is up";
                let timeout = Timeout::new(self.handle, CloseCode::AuthTimeout, text);
                let at = clock::after(clock::now(), self.context.admission.deadline);
                let guard = self.context.scheduler.timekeeper().set(at, Arc::new(timeout));
                self.session.lock().wait_for_hello();
                self.timeout.replace(Some(guard));
            }
        }
    }

    fn admit_bearer(&self, Shower { bearer, round }: Shower, seat: Option<Seat>) {
        let (principal, rights) = (bearer.identity.principal(), bearer.identity.rights().clone());
        self.handle.set_guest(bearer, &self.session);
        self.admit(principal, rights, seat);
        // All are looked at again meanwhile, and this one may not have been among them.
        if self.context.admission.rounds.current() != round {
            self.handle.recheck(self.context);
        }
    }

    fn admit(&self, principal: Principal, rights: Rights, seat: Option<Seat>) {
        self.session.lock().admit(rights);
        let _for_good = self.admitted.get_or_init(|| {
            let origin = self.handle.origin.with_principal(principal);
            let sender = ConnectionSender::new(self.handle.id, origin.principal().clone(), Arc::clone(self.outbox));
            if let Some(handler) = &self.context.handler {
                handler.connected(&sender);
            }
            Admitted {
                origin,
                sender,
                _seat: seat,
            }
        });
        drop::<Option<AlarmGuard>>(self.timeout.take());
    }

    /// Says what the server is and can do, to who is in or shows a good token now.
    ///
    /// Blocks as the authenticator does.
    pub(super) fn hello(&self, hello: Hello) -> ControlFlow<()> {
        let Hello { token, request_id, .. } = hello;
        if let Some(authenticator) = &self.context.admission.authenticator
            && let Err(denial) = self.judge_hello(authenticator.as_ref(), token.map(Secret::from))
        {
            return self.turn_away(denial, request_id);
        }
        let rights = self.session.lock().rights().clone();
        self.reply(&welcome(self.context, &rights, request_id))
    }

    fn judge_hello(&self, authenticator: &dyn Authenticator, token: Option<Secret>) -> Result<(), Denial> {
        let admitted = self.admitted.get();
        let Some(token) = token else {
            return admitted.map(|_| ()).ok_or(Denial::Stranger);
        };
        let shower = self.context.admission.judge(authenticator, Some(&token), self.handle)?;
        let principal = shower.bearer.identity.principal();
        if admitted.is_some_and(|admitted| *admitted.origin.principal() != principal) {
            return Err(Denial::SomebodyElse);
        }
        let seat = match admitted {
            Some(_) => None,
            None => Some(take_seat(self.context, &shower.bearer.identity)?),
        };
        self.admit_bearer(shower, seat);
        Ok(())
    }

    /// Says why, and closes.
    pub(super) fn turn_away(&self, denial: Denial, request_id: Option<RequestId>) -> ControlFlow<()> {
        let (error_code, close_code) = denial.codes();
        let error = ServerMessage::Error(ErrorMessage {
            request_id,
            ..ErrorMessage::new(error_code, denial.text())
        });
        let _closed_either_way = self.reply(&error);
        self.outbox.close_now(close_code, denial.text());
        ControlFlow::Break(())
    }
}

/// Ends a connection that is to be gone by now, be it that its peer has not said who it is: first with a word, then without.
pub(super) struct Timeout {
    handle: Weak<ConnectionHandle>,
    code: CloseCode,
    text: &'static str,
    is_told: AtomicBool,
}

impl Timeout {
    pub(super) fn new(handle: &Arc<ConnectionHandle>, code: CloseCode, text: &'static str) -> Self {
        Self {
            handle: Arc::downgrade(handle),
            code,
            text,
            is_told: AtomicBool::new(false),
        }
    }
}

impl Alarm for Timeout {
    fn ring(&self, now: Instant) -> Option<Instant> {
        let handle = self.handle.upgrade()?;
        if self.is_told.swap(true, Ordering::Relaxed) {
            handle.control.shutdown(Shutdown::Both);
            return None;
        }
        log::debug!(connection = handle.id.number(), reason = self.text; "the peer is closed at its deadline");
        handle.outbox.close_now(self.code, self.text);
        Some(now + LEAVE_GRACE)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

    use super::*;

    #[test]
    fn a_denial_is_told_in_http_and_in_the_protocol() {
        let check = |denial: Denial, status: &str, error: ErrorCode, close: u16| {
            let response = String::from_utf8(denial.response()).unwrap();
            assert_eq!(&response[9..12], status);
            assert!(
                response.ends_with(&format!("\r\n\r\n{}\n", denial.text())),
                "{response}"
            );
            let (error_code, close_code) = denial.codes();
            assert_eq!((error_code, close_code.number()), (error, close));
            response
        };
        let rejected = check(Denial::Rejected, "401", ErrorCode::Unauthenticated, 4401);
        assert!(rejected.contains("\r\nWWW-Authenticate: Bearer realm="), "{rejected}");
        check(Denial::Stranger, "401", ErrorCode::Unauthenticated, 4401);
        check(Denial::Revoked, "401", ErrorCode::Unauthenticated, 4401);
        check(Denial::Forbidden, "403", ErrorCode::PermissionDenied, 4403);
        check(Denial::SomebodyElse, "403", ErrorCode::PermissionDenied, 4403);
        check(Denial::Unavailable, "503", ErrorCode::Internal, 1013);
        let wait = Duration::from_millis(5_001);
        check(Denial::Crowded, "429", ErrorCode::LimitExceeded, 4429);
        let too_many = check(Denial::TooMany(wait), "429", ErrorCode::Unauthenticated, 4429);
        assert!(too_many.contains("\r\nRetry-After: 6\r\n"), "{too_many}");
    }
}
