//! What peers may do to a server, apart from what they may ask of a query.

use std::time::Duration;

pub use crate::rate::Rate;

/// How much a server puts up with from its peers, before and beside their queries: the bounds of a query itself are in
/// [`StreamingConfig`](crate::StreamingConfig).
///
/// ```
/// use rowstream::server::Limits;
///
/// let mut limits = Limits::default();
/// limits.connections_per_address_max = None; // behind a proxy
/// let builder = rowstream::Server::builder().limits(limits);
/// # drop(builder);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Time from the first moment of a connection until its request is there, in whatever pieces it comes: then HTTP 408, and half a
    /// second later the end whatever is still on its way. Defaults to 5 seconds.
    pub head_deadline: Duration,
    /// How long a connection may be without a stream and without a message: then it is closed with 1001. `ping` is a message; control
    /// frames are none. Does not apply where there is a [message handler](super::MessageHandler): only the application knows who
    /// still listens. Defaults to 5 minutes; `None` for ever.
    pub idle_timeout: Option<Duration>,
    /// Frames that one message may come in; of more, the connection is closed with 1008. Defaults to 64.
    pub fragments_max: usize,
    /// Time from the first frame of a message to its last byte: then the connection is closed with 1008. Defaults to 10 seconds.
    pub assembly_timeout: Duration,
    /// Pings and pongs of a connection; beyond that it is closed with 1008. Defaults to 10 a second, 40 at once.
    pub ping_rate: Option<Rate>,
    /// Messages of a connection; beyond that it is told `LIMIT_EXCEEDED` and closed with 4429. Not counted are an `ack` that
    /// acknowledges something, and a query that has come to its end, which a client has to acknowledge where the stream is
    /// resumable. Defaults to 200 a second, 400 at once.
    pub message_rate: Option<Rate>,
    /// Queries that a connection may start; beyond that it is told `LIMIT_EXCEEDED` and closed with 4429. Not counted are those that
    /// have come to their end and of which nothing is held: what it is there against is starting only to cancel, or to have streams
    /// held. Defaults to 50 a second and 256 at once, which is all the streams that a connection may have, twice.
    pub query_rate: Option<Rate>,
    /// Connections of one address (of IPv6, one /64) at once; those beyond are refused with HTTP 429. Behind a proxy all come from
    /// its address: set it to `None` there. Addresses of the machine itself are never counted: a proxy may be there, and who is on
    /// the machine has other ways. Defaults to 32.
    pub connections_per_address_max: Option<usize>,
    /// New connections of one address; those beyond are refused with HTTP 429. As with the number of them, `None` behind a proxy, and
    /// never for the machine itself. Defaults to 20 a second, 40 at once.
    pub connection_rate_per_address: Option<Rate>,
    /// Connections of one principal; those beyond are closed with 4429. Where nobody is asked who they are, there is none. Defaults to
    /// 64.
    pub connections_per_principal_max: usize,
    /// Streams of one principal that wait or run, cancelled ones until their engine has stopped, and queries that are being described;
    /// those beyond are refused with `TOO_MANY_STREAMS`. Where nobody is asked who they are, there is none. Defaults to 256.
    pub streams_per_principal_max: usize,
    /// Streams of the server that wait or run, cancelled ones until their engine has stopped, and queries that are being described; those
    /// beyond are refused with `TOO_MANY_STREAMS`. Defaults to 1,024, or what the host's memory has [room](super::Capacity) for.
    pub streams_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_deadline: Duration::from_secs(5),
            idle_timeout: Some(Duration::from_secs(300)),
            fragments_max: 64,
            assembly_timeout: Duration::from_secs(10),
            ping_rate: Some(Rate::new(10, 40)),
            message_rate: Some(Rate::new(200, 400)),
            query_rate: Some(Rate::new(50, 256)),
            connections_per_address_max: Some(32),
            connection_rate_per_address: Some(Rate::new(20, 40)),
            connections_per_principal_max: 64,
            streams_per_principal_max: 256,
            streams_max: 1_024,
        }
    }
}

impl Limits {
    /// # Errors
    /// What makes no sense, with its bounds.
    pub(super) fn check(&self) -> Result<(), String> {
        let Self {
            head_deadline,
            idle_timeout,
            fragments_max,
            assembly_timeout,
            ping_rate,
            message_rate,
            query_rate,
            connections_per_address_max,
            connection_rate_per_address,
            connections_per_principal_max,
            streams_per_principal_max,
            streams_max,
        } = self;
        let times = [
            ("head_deadline", Some(*head_deadline)),
            ("idle_timeout", *idle_timeout),
            ("assembly_timeout", Some(*assembly_timeout)),
        ];
        if let Some((name, _)) = times.iter().find(|(_, time)| time.is_some_and(|time| time.is_zero())) {
            return Err(format!("{name}: more than 0"));
        }
        let rates = [
            ("ping_rate", ping_rate),
            ("message_rate", message_rate),
            ("query_rate", query_rate),
            ("connection_rate_per_address", connection_rate_per_address),
        ];
        if let Some((name, _)) = rates
            .iter()
            .find(|(_, rate)| rate.is_some_and(|rate| !rate.is_sensible()))
        {
            return Err(format!("{name}: at least 1 a second, and 1 at once"));
        }
        let counts = [
            ("fragments_max", *fragments_max),
            ("connections_per_address_max", connections_per_address_max.unwrap_or(1)),
            ("connections_per_principal_max", *connections_per_principal_max),
            ("streams_per_principal_max", *streams_per_principal_max),
            ("streams_max", *streams_max),
        ];
        match counts.iter().find(|(_, count)| *count == 0) {
            Some((name, _)) => Err(format!("{name}: at least 1")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_named() {
        assert_eq!(Limits::default().check(), Ok(()));
        let check = |change: fn(&mut Limits), name: &str| {
            let mut limits = Limits::default();
            change(&mut limits);
            let text = limits.check().expect_err(name);
            assert!(text.starts_with(&format!("{name}: ")), "{text}");
        };
        check(|limits| limits.head_deadline = Duration::ZERO, "head_deadline");
        check(|limits| limits.idle_timeout = Some(Duration::ZERO), "idle_timeout");
        check(|limits| limits.query_rate = Some(Rate::new(0, 1)), "query_rate");
        check(|limits| limits.message_rate = Some(Rate::new(1, 0)), "message_rate");
        check(|limits| limits.fragments_max = 0, "fragments_max");
        check(
            |limits| limits.connections_per_address_max = Some(0),
            "connections_per_address_max",
        );
    }
}
