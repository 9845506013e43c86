//! A text that must not be seen.

use std::fmt;
use std::hint::black_box;

use sha2::{Digest, Sha256};

/// A token, or another text that belongs into no log, no error and no dump. `Debug` does not show it, and nothing else does but
/// [`expose`](Self::expose); when it is dropped, its memory is overwritten.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// The text itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// What is kept of a token by which somebody has come in: its SHA-256, which lets nobody in. `Debug` does not show it either: of a token
/// that was not made at random it could be guessed.
#[derive(Clone, Copy)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// That of a token.
    #[must_use]
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    /// The SHA-256.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint(…)")
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// In the same time for all secrets of one length.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.len() == other.0.len() && are_equal(self.0.as_bytes(), other.0.as_bytes())
    }
}

impl Eq for Secret {}

impl Drop for Secret {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.0).into_bytes();
        bytes.fill(0);
        // Somebody looks at it, as far as the compiler knows: the zeros have to be there.
        black_box(&bytes);
    }
}

/// Whether the bytes are the same, as far as the shorter goes, in a time that does not depend on them.
pub(super) fn are_equal(left: &[u8], right: &[u8]) -> bool {
    // Without `black_box` the compiler might stop at the first difference.
    let difference = left
        .iter()
        .zip(right)
        .fold(0, |difference, (left, right)| black_box(difference | (left ^ right)));
    difference == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bit_makes_the_difference_wherever_it_is() {
        let digest = [0xA5; 32];
        assert!(are_equal(&digest, &digest));
        for bit in 0..256 {
            let mut other = digest;
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(!are_equal(&digest, &other), "bit {bit}");
        }
        assert_eq!(Secret::from("a"), Secret::from("a".to_owned()));
        assert_ne!(Secret::from("a"), Secret::from("b"));
        assert_ne!(Secret::from("a"), Secret::from("aa"));
    }
}
