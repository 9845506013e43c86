//! Proof that what was received is what was sent: a checksum for each batch, a digest for the whole result.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

/// The checksum of a batch: CRC-32 as in zlib, gzip and PNG (ISO 3309) of the text of `rows`, brackets included.
pub(crate) fn checksum(rows: &[u8]) -> u32 {
    crc32fast::hash(rows)
}

/// The digest of a result: SHA-256 (FIPS 180-4). Of JSON, of the texts of all rows with a comma between each two, which does not
/// depend on where one batch ends and the next begins; of Arrow, of all payloads.
#[derive(Debug, Clone, Default)]
pub(crate) struct RowsDigest {
    hash: Sha256,
    has_rows: bool,
}

impl RowsDigest {
    /// Adds a batch of Arrow: its payload.
    pub(crate) fn add_bytes(&mut self, payload: &[u8]) {
        self.hash.update(payload);
    }

    /// Adds a batch of JSON: the text of its `rows`, brackets included. A batch has at least one row.
    pub(crate) fn add_rows(&mut self, rows: &[u8]) {
        let inner = rows.strip_prefix(b"[").unwrap_or(rows);
        let inner = inner.strip_suffix(b"]").unwrap_or(inner);
        if self.has_rows {
            self.hash.update(b",");
        }
        self.has_rows = true;
        self.hash.update(inner);
    }

    /// 64 hexadecimal digits.
    pub(crate) fn hex(&self) -> String {
        let mut hex = String::with_capacity(64);
        for byte in self.hash.clone().finalize() {
            write!(hex, "{byte:02x}").expect("a String takes every text");
        }
        hex
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_zlib() {
        // The check value of CRC-32 in the catalogue of parametrised CRC algorithms.
        assert_eq!(checksum(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn a_digest_does_not_know_batches() {
        let digest = |batches: &[&[u8]]| {
            let mut digest = RowsDigest::default();
            batches.iter().for_each(|batch| digest.add_rows(batch));
            digest.hex()
        };
        assert_eq!(digest(&[b"[[1],[2],[3]]"]), digest(&[b"[[1]]", b"[[2],[3]]"]));
        assert_ne!(digest(&[b"[[1],[2]]"]), digest(&[b"[[2],[1]]"]));
        // FIPS 180-4's example for one block.
        assert_eq!(
            digest(&[b"[abc]"]),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(
            digest(&[]),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }
}
