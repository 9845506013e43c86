//! The codecs that batches may travel in: one payload in, one payload out, with nothing kept from one to the next.
//!
//! Must not know messages, streams or who asks.

#[cfg(feature = "compression")]
use std::io::Write as _;
use std::io::{self, Read};

use flate2::{Compress, FlushCompress, Status};
use serde::{Deserialize, Serialize};

/// How a batch's payload is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// DEFLATE without a frame (RFC 1951): what a browser's `DecompressionStream` calls `deflate-raw`.
    DeflateRaw,
    /// gzip (RFC 1952), one member.
    Gzip,
    /// One frame of Zstandard (RFC 8878). With the feature `compression`.
    Zstd,
    /// One frame of LZ4 (its frame format 1.6.4). With the feature `compression`.
    Lz4,
}

/// Payloads smaller than this are not compressed: they gain nothing.
pub(crate) const COMPRESSED_BYTES_MIN: usize = 1024;

/// The head of a gzip member without name or time, from an unknown system (RFC 1952 section 2.3).
const GZIP_HEAD: [u8; 10] = [0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 0xFF];

impl Compression {
    /// All that this build can do, `None` left out.
    pub(crate) const OFFERED: &'static [Self] = if cfg!(feature = "compression") {
        &[Self::DeflateRaw, Self::Gzip, Self::Zstd, Self::Lz4]
    } else {
        &[Self::DeflateRaw, Self::Gzip]
    };

    /// The name in messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::DeflateRaw => "deflate-raw",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Lz4 => "lz4",
        }
    }

    /// The codec of that name, if this build has it.
    pub(crate) fn offered(name: &str) -> Option<Self> {
        Self::OFFERED.iter().copied().find(|codec| codec.as_str() == name)
    }
}

/// Compresses payloads, one after the other. What it keeps between them is working memory, some hundreds of KiB: one per thread is
/// enough.
pub(crate) struct Compressor {
    level: u8,
    deflate: Option<Compress>,
    #[cfg(feature = "compression")]
    zstd: Option<zstd::bulk::Compressor<'static>>,
}

impl std::fmt::Debug for Compressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compressor").finish_non_exhaustive()
    }
}

impl Compressor {
    /// One for this level, as far as a codec has it: 1 to 9 for DEFLATE, 1 to 19 for Zstandard, none for LZ4.
    pub(crate) fn new(level: u8) -> Self {
        Self {
            level,
            deflate: None,
            #[cfg(feature = "compression")]
            zstd: None,
        }
    }

    /// Appends `input` to `out`, compressed. False, and `out` as it was, where that would be no smaller.
    pub(crate) fn compress(&mut self, codec: Compression, input: &[u8], out: &mut Vec<u8>) -> bool {
        let start = out.len();
        let done = match codec {
            Compression::None => false,
            Compression::DeflateRaw => self.deflate(input, input.len(), out),
            Compression::Gzip => {
                out.extend_from_slice(&GZIP_HEAD);
                let room = input.len().saturating_sub(GZIP_HEAD.len() + 8);
                let done = self.deflate(input, room, out);
                out.extend_from_slice(&crc32fast::hash(input).to_le_bytes());
                // The size modulo 2^32, as the format has it.
                out.extend_from_slice(&(input.len() as u32).to_le_bytes());
                done
            }
            #[cfg(feature = "compression")]
            Compression::Zstd => self.zstd(input, out),
            #[cfg(feature = "compression")]
            Compression::Lz4 => lz4(input, out),
            #[cfg(not(feature = "compression"))]
            Compression::Zstd | Compression::Lz4 => false,
        };
        let is_smaller = done && out.len() - start < input.len();
        if !is_smaller {
            out.truncate(start);
        }
        is_smaller
    }

    fn deflate(&mut self, input: &[u8], room: usize, out: &mut Vec<u8>) -> bool {
        let level = flate2::Compression::new(u32::from(self.level.clamp(1, 9)));
        let deflate = self.deflate.get_or_insert_with(|| Compress::new(level, false));
        deflate.reset();
        let start = out.len();
        out.resize(start + room, 0);
        let status = deflate.compress(input, &mut out[start..], FlushCompress::Finish);
        out.truncate(start + usize::try_from(deflate.total_out()).unwrap_or(0));
        matches!(status, Ok(Status::StreamEnd))
    }

    #[cfg(feature = "compression")]
    fn zstd(&mut self, input: &[u8], out: &mut Vec<u8>) -> bool {
        if self.zstd.is_none() {
            self.zstd = zstd::bulk::Compressor::new(i32::from(self.level.clamp(1, 19))).ok();
        }
        let Some(zstd) = &mut self.zstd else {
            return false;
        };
        // Behind what is there, into memory that nobody has to clear before.
        let start = out.len();
        out.reserve(input.len());
        let mut rest = io::Cursor::new(out);
        rest.set_position(start as u64);
        zstd.compress_to_buffer(input, &mut rest).is_ok()
    }
}

#[cfg(feature = "compression")]
fn lz4(input: &[u8], out: &mut Vec<u8>) -> bool {
    let mut encoder = lz4_flex::frame::FrameEncoder::new(out);
    encoder.write_all(input).is_ok() && encoder.finish().is_ok()
}

/// Gives back what was compressed, which has to have exactly `len` bytes: no more is ever written, whatever `input` would grow to.
///
/// # Errors
/// `InvalidData` for what is not of this codec or has another length, `Unsupported` for a codec that this build does not have.
pub(crate) fn decompress(codec: Compression, input: &[u8], len: usize) -> io::Result<Vec<u8>> {
    match codec {
        Compression::None => read_exactly(input, len),
        Compression::DeflateRaw => read_exactly(flate2::bufread::DeflateDecoder::new(input), len),
        Compression::Gzip => read_exactly(flate2::bufread::GzDecoder::new(input), len),
        #[cfg(feature = "compression")]
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
            decoder.window_log_max(zstd_window_log_max(len))?;
            read_exactly(decoder, len)
        }
        #[cfg(feature = "compression")]
        Compression::Lz4 => read_exactly(lz4_flex::frame::FrameDecoder::new(input), len),
        #[cfg(not(feature = "compression"))]
        Compression::Zstd | Compression::Lz4 => {
            let text = format!("this build cannot read {}", codec.as_str());
            Err(io::Error::new(io::ErrorKind::Unsupported, text))
        }
    }
}

/// A frame claims its window before anything comes out of it, 128 MiB if it likes. Taken is what all decoders are to take, 8 MiB (RFC
/// 8878 section 3.1.1.1.2), or as much as the payload: a frame of one segment has that as its window.
#[cfg(feature = "compression")]
fn zstd_window_log_max(len: usize) -> u32 {
    (usize::BITS - len.leading_zeros()).clamp(23, 30)
}

fn read_exactly(input: impl Read, len: usize) -> io::Result<Vec<u8>> {
    // What the peer says it is may be a lie: memory is taken as bytes come.
    const RESERVED_MAX: usize = 1024 * 1024;
    let mut out = Vec::with_capacity(len.min(RESERVED_MAX));
    let limit = (len as u64).saturating_add(1);
    input.take(limit).read_to_end(&mut out).map_err(|error| {
        let text = format!("a payload cannot be decompressed: {error}");
        io::Error::new(io::ErrorKind::InvalidData, text)
    })?;
    if out.len() == len {
        Ok(out)
    } else {
        let text = format!("a payload of {len} bytes has another length");
        Err(io::Error::new(io::ErrorKind::InvalidData, text))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

    use super::*;

    fn rows(n: usize) -> Vec<u8> {
        (0..n)
            .flat_map(|n| format!("[{n},\"row number {n}\"],").into_bytes())
            .collect()
    }

    #[test]
    fn what_is_compressed_comes_back() {
        for level in [0, 1, 6, 255] {
            let mut compressor = Compressor::new(level);
            for &codec in Compression::OFFERED {
                let input = rows(1_000);
                let mut out = b"before".to_vec();
                assert!(compressor.compress(codec, &input, &mut out), "{codec:?}");
                let (before, payload) = out.split_at(6);
                assert_eq!(before, b"before");
                assert!(payload.len() < input.len() / 2, "{codec:?}: {}", payload.len());
                assert_eq!(decompress(codec, payload, input.len()).unwrap(), input, "{codec:?}");
            }
        }
        assert_eq!(decompress(Compression::None, b"x", 1).unwrap(), b"x");
    }

    #[test]
    fn what_does_not_shrink_is_left_alone() {
        let mut compressor = Compressor::new(1);
        // A linear congruential generator's bytes: nothing repeats.
        let mut state = 1_u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .take(4_096)
        .collect();
        for &codec in Compression::OFFERED {
            for input in [noise.as_slice(), b"", b"x"] {
                let mut out = b"before".to_vec();
                assert!(!compressor.compress(codec, input, &mut out), "{codec:?}");
                assert_eq!(out, b"before");
                // And it can go on.
                assert!(compressor.compress(codec, &rows(100), &mut out));
            }
        }
    }

    #[test]
    fn a_payload_of_another_length_is_refused_before_it_is_read() {
        let bomb = vec![b'x'; 4 * 1024 * 1024];
        let mut compressor = Compressor::new(1);
        for &codec in Compression::OFFERED {
            let mut out = Vec::new();
            assert!(compressor.compress(codec, &bomb, &mut out), "{codec:?}");
            for len in [0, 1_000, bomb.len() + 1] {
                let error = decompress(codec, &out, len).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{codec:?} {len}: {error}");
            }
            for cut in [0, 1, out.len() / 2, out.len() - 1] {
                // LZ4 has all bytes before the mark that ends its frame.
                let cut_off = decompress(codec, &out[..cut], bomb.len());
                assert!(
                    cut_off.is_err() || codec == Compression::Lz4 && cut_off.unwrap() == bomb,
                    "{codec:?} {cut}"
                );
            }
        }
        assert!(decompress(Compression::None, b"xy", 1).is_err());
    }

    /// A frame of one raw block, that claims a window of 2^`window_log` bytes.
    #[cfg(feature = "compression")]
    fn zstd_frame(window_log: u8, payload: &[u8]) -> Vec<u8> {
        let block_header = (payload.len() as u32) << 3 | 1;
        let head = [0x28, 0xB5, 0x2F, 0xFD, 0, (window_log - 10) << 3];
        [&head, &block_header.to_le_bytes()[..3], payload].concat()
    }

    #[test]
    #[cfg(feature = "compression")]
    fn a_claimed_window_takes_no_memory() {
        let payload = b"[[1]]";
        let read = |window_log| decompress(Compression::Zstd, &zstd_frame(window_log, payload), payload.len());
        assert_eq!(read(23).unwrap(), payload);
        for window_log in [24, 27, 31] {
            let error = read(window_log).unwrap_err();
            assert!(error.to_string().contains("cannot be decompressed"), "{error}");
        }
        // Nor is a long payload refused that is its own window.
        let long = vec![b'x'; 9 * 1024 * 1024];
        let mut out = Vec::new();
        assert!(Compressor::new(19).compress(Compression::Zstd, &long, &mut out));
        assert_eq!(decompress(Compression::Zstd, &out, long.len()).unwrap(), long);
    }

    #[test]
    fn names_are_those_of_the_wire() {
        for &codec in Compression::OFFERED {
            assert_eq!(Compression::offered(codec.as_str()), Some(codec));
            assert_eq!(
                serde_json::to_string(&codec).unwrap(),
                format!("\"{}\"", codec.as_str())
            );
        }
        assert_eq!(Compression::offered("none"), None);
        assert_eq!(Compression::offered("br"), None);
    }
}
