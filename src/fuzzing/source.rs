//! Where the bytes of a case come from: a transport that gives them in pieces, a stream of random numbers, a reader of values.
//!
//! Must not know what is read.

use std::io::{self, Read};
use std::time::Duration;

use crate::transport::ReadHalf;

/// SplitMix64 (Steele, Lea and Flood, 2014).
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `n`; 0 where `n` is 0.
    pub(super) fn below(&mut self, n: usize) -> usize {
        let n = u64::try_from(n).unwrap().max(1);
        usize::try_from(self.next() % n).unwrap()
    }

    /// A number below `2^bits_max`, and each power of two as likely as the next: mostly small.
    pub(super) fn small(&mut self, bits_max: usize) -> usize {
        let bits = self.below(bits_max + 1);
        self.below(1 << bits)
    }
}

/// A transport that gives some bytes, in pieces, and then the end of file.
pub(super) struct Pieces {
    bytes: Vec<u8>,
    n_taken: usize,
    /// How long the pieces are; `None` gives as much as there is room for.
    cuts: Option<Random>,
}

impl Pieces {
    pub(super) fn whole(bytes: &[u8]) -> Self {
        Self {
            bytes: bytes.to_vec(),
            n_taken: 0,
            cuts: None,
        }
    }

    /// Cut at places that follow from the bytes: the same case is cut in the same way, and one that differs in any other.
    pub(super) fn cut(bytes: &[u8]) -> Self {
        Self {
            cuts: Some(Random::new(u64::from(crc32fast::hash(bytes)))),
            ..Self::whole(bytes)
        }
    }

    /// How many bytes have been read.
    pub(super) fn n_taken(&self) -> usize {
        self.n_taken
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = &self.bytes[self.n_taken..];
        let mut n = rest.len().min(buffer.len());
        if let Some(cuts) = &mut self.cuts {
            // Mostly short ones: headers are short, and are to be cut too.
            n = n.min(1 + cuts.small(11));
        }
        buffer[..n].copy_from_slice(&rest[..n]);
        self.n_taken += n;
        Ok(n)
    }
}

impl ReadHalf for Pieces {
    fn set_read_timeout(&mut self, _: Option<Duration>) -> io::Result<()> {
        Ok(())
    }
}

/// Reads what a case says; zeros where it says nothing more.
pub(super) struct Script<'a>(pub(super) &'a [u8]);

impl<'a> Script<'a> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn array<const N: usize>(&mut self) -> [u8; N] {
        let bytes = self.bytes(N);
        let mut array = [0; N];
        array[..bytes.len()].copy_from_slice(bytes);
        array
    }

    pub(super) fn byte(&mut self) -> u8 {
        let [byte] = self.array();
        byte
    }

    /// As many as there are, and `n` at the most.
    pub(super) fn bytes(&mut self, n: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        bytes
    }
}
