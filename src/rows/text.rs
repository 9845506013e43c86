//! Text as JSON strings, appended to a buffer.

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = ONES * 0x80;

/// What the scan found: where the plain run ends.
#[inline]
fn plain_len(text: &[u8]) -> usize {
    let mut at = 0;
    while let Some(word) = text[at..].first_chunk::<8>() {
        let marks = special(u64::from_le_bytes(*word));
        if marks != 0 {
            return at + (marks.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    // The last bytes, together with plain ones so that they make a word.
    let rest = &text[at..];
    let mut word = [b' '; 8];
    word[..rest.len()].copy_from_slice(rest);
    let marks = special(u64::from_le_bytes(word));
    at + if marks == 0 {
        rest.len()
    } else {
        (marks.trailing_zeros() / 8) as usize
    }
}

/// Has the high bit set in the lowest byte of `word` that is not plain: a quote, a backslash, a control character, or not
/// ASCII. (Bytes above the lowest one may be marked too, by a borrow.)
#[inline]
const fn special(word: u64) -> u64 {
    let quote = word ^ (ONES * b'"' as u64);
    let backslash = word ^ (ONES * b'\\' as u64);
    let is_quote = quote.wrapping_sub(ONES) & !quote;
    let is_backslash = backslash.wrapping_sub(ONES) & !backslash;
    let is_control = word.wrapping_sub(ONES * 0x20) & !word;
    (is_quote | is_backslash | is_control | word) & HIGHS
}

/// Appends `text` in quotes. False where it is not UTF-8: what has been appended then is of no use.
#[inline]
pub(super) fn push_text(text: &[u8], out: &mut Vec<u8>) -> bool {
    out.reserve(text.len() + 2);
    out.push(b'"');
    let plain = plain_len(text);
    out.extend_from_slice(&text[..plain]);
    let is_utf8 = plain == text.len() || push_rest(&text[plain..], out);
    out.push(b'"');
    is_utf8
}

#[cold]
fn push_rest(text: &[u8], out: &mut Vec<u8>) -> bool {
    // Everything before is ASCII, so the rest can be judged by itself. A text without a byte above 0x7F passes fast.
    let Ok(text) = std::str::from_utf8(text) else {
        return false;
    };
    let bytes = text.as_bytes();
    let mut copied = 0;
    for (at, byte) in bytes.iter().enumerate() {
        let Some(escape) = escape(*byte) else { continue };
        out.extend_from_slice(&bytes[copied..at]);
        copied = at + 1;
        match escape {
            Escape::Short(letter) => out.extend_from_slice(&[b'\\', letter]),
            Escape::Hex => {
                const DIGITS: &[u8; 16] = b"0123456789abcdef";
                let (high, low) = (DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]);
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
            }
        }
    }
    out.extend_from_slice(&bytes[copied..]);
    true
}

enum Escape {
    Short(u8),
    Hex,
}

/// How a byte is escaped (RFC 8259 section 7), if it has to be.
const fn escape(byte: u8) -> Option<Escape> {
    Some(match byte {
        b'"' | b'\\' => Escape::Short(byte),
        b'\n' => Escape::Short(b'n'),
        b'\r' => Escape::Short(b'r'),
        b'\t' => Escape::Short(b't'),
        0x08 => Escape::Short(b'b'),
        0x0C => Escape::Short(b'f'),
        0x00..=0x1F => Escape::Hex,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

    use proptest::prelude::*;

    use super::*;

    fn written(text: &[u8]) -> Option<String> {
        let mut out = Vec::new();
        push_text(text, &mut out).then(|| String::from_utf8(out).unwrap())
    }

    #[test]
    fn every_byte_at_every_place_of_a_word() {
        for byte in 0..=0x7F_u8 {
            for at in 0..17 {
                let mut text = vec![b'x'; 17];
                text[at] = byte;
                let expected = serde_json::to_string(std::str::from_utf8(&text).unwrap()).unwrap();
                assert_eq!(written(&text).unwrap(), expected);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_048))]

        #[test]
        fn text_is_written_as_serde_writes_it(text: String) {
            prop_assert_eq!(written(text.as_bytes()).unwrap(), serde_json::to_string(&text).unwrap());
        }

        #[test]
        fn bytes_are_text_exactly_if_they_are_utf8(bytes: Vec<u8>) {
            let expected = std::str::from_utf8(&bytes).ok().map(|text| serde_json::to_string(text).unwrap());
            prop_assert_eq!(written(&bytes), expected);
        }
    }
}
