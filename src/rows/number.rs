//! Numbers as JSON, appended to a buffer.

/// Appends the digits of `value`.
#[inline]
pub(super) fn push_integer(value: i64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// What stands for a double that has no digits.
pub(crate) const fn non_finite(value: f64) -> &'static str {
    if value.is_nan() {
        "NaN"
    } else if value > 0.0 {
        "Infinity"
    } else {
        "-Infinity"
    }
}

/// Hundredths below this have at most 15 significant digits.
const HUNDREDTHS_MAX: f64 = 1e15;

/// Appends the shortest digits that read back as the same finite double; integral values keep a `.0`.
///
/// Most reals in tables have at most two decimals. Such a value is `n / 100` for an integer `n`, and the division below finds
/// it: IEEE 754 division is correctly rounded, so `n / 100 == value` means that the decimal `n / 100` reads back as `value`.
/// A double tells decimals of up to 15 significant digits apart (`DBL_DIG` of C), so with `|n| < 10^15` no other decimal
/// that short is `value`, and the digits without trailing zeros are the shortest.
#[inline]
pub(super) fn push_real(value: f64, out: &mut Vec<u8>) {
    let hundredths = (value * 100.0).round();
    if hundredths.abs() < HUNDREDTHS_MAX && hundredths / 100.0 == value && (value != 0.0 || value.is_sign_positive()) {
        push_hundredths(hundredths as i64, out);
    } else {
        out.extend_from_slice(zmij::Buffer::new().format_finite(value).as_bytes());
    }
}

#[inline]
fn push_hundredths(hundredths: i64, out: &mut Vec<u8>) {
    if hundredths < 0 {
        out.push(b'-');
    }
    let hundredths = hundredths.unsigned_abs();
    out.extend_from_slice(itoa::Buffer::new().format(hundredths / 100).as_bytes());
    let rest = (hundredths % 100) as u8;
    let (tenths, last) = (b'0' + rest / 10, b'0' + rest % 10);
    if last == b'0' {
        out.extend_from_slice(&[b'.', tenths]);
    } else {
        out.extend_from_slice(&[b'.', tenths, last]);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

    use proptest::prelude::*;

    use super::*;

    fn real(value: f64) -> String {
        let mut out = Vec::new();
        push_real(value, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[track_caller]
    fn check(value: f64, expected: &str) {
        assert_eq!(real(value), expected);
    }

    #[test]
    fn reals_have_their_shortest_digits() {
        check(0.0, "0.0");
        check(-0.0, "-0.0");
        check(17.0, "17.0");
        check(-0.5, "-0.5");
        check(0.07, "0.07");
        check(24386.67, "24386.67");
        check(-0.01, "-0.01");
        check(0.1 + 0.2, "0.30000000000000004");
        check(9_999_999_999_999.99, "9999999999999.99");
        check(1.0 / 3.0, "0.3333333333333333");
        check(f64::MIN_POSITIVE, "2.2250738585072014e-308");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_096))]

        #[test]
        fn every_double_reads_back_and_none_is_longer_than_it_must_be(bits: u64) {
            let value = f64::from_bits(bits);
            prop_assume!(value.is_finite());
            let text = real(value);
            prop_assert_eq!(text.parse::<f64>().unwrap().to_bits(), bits);
            prop_assert!(text.len() <= zmij::Buffer::new().format_finite(value).len());
            prop_assert!(serde_json::from_str::<serde_json::Number>(&text).is_ok(), "{}", text);
        }

        #[test]
        fn decimals_are_written_as_the_general_printer_writes_them(n in -1_000_000_000_000_000_i64..1_000_000_000_000_000) {
            let value = n as f64 / 100.0;
            prop_assert_eq!(real(value).parse::<f64>().unwrap().to_bits(), value.to_bits());
            if value.abs() < 1e15 && n != 0 {
                let general = zmij::Buffer::new().format_finite(value).to_owned();
                prop_assert_eq!(real(value), general);
            }
        }
    }
}
