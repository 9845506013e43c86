//! Who can reach an address, and whether that is meant.
//!
//! Pure. Must not know sockets.

use std::net::SocketAddr;

/// The first of these that other machines can reach. Loopback is no proof of who somebody is either, but there the machine's own
/// users are all there is.
pub(super) fn exposed(addresses: &[SocketAddr]) -> Option<SocketAddr> {
    addresses
        .iter()
        .find(|address| !address.ip().to_canonical().is_loopback())
        .copied()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

    use super::*;

    #[test]
    fn only_loopback_is_for_this_machine_alone() {
        let of = |texts: &[&str]| exposed(&texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>());
        for local in ["127.0.0.1:8080", "127.9.9.9:0", "[::1]:8080", "[::ffff:127.0.0.1]:1"] {
            assert_eq!(of(&[local]), None);
        }
        for reachable in [
            "0.0.0.0:0",
            "[::]:8080",
            "192.0.2.1:1",
            "10.0.0.1:1",
            "[::ffff:0.0.0.0]:1",
        ] {
            assert_eq!(of(&["127.0.0.1:1", reachable]), Some(reachable.parse().unwrap()));
        }
        assert_eq!(of(&[]), None);
    }
}
