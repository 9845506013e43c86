//! Dates and times of day as ISO 8601 text, counted as Arrow counts them.
//!
//! The calendar is the proleptic Gregorian one with years 0000 to 9999. A text of another form, or with a day, hour or zone
//! that does not exist, has no number: nothing is rounded or corrected.

const MICROS_OF_SECOND: i64 = 1_000_000;
const MICROS_OF_MINUTE: i64 = 60 * MICROS_OF_SECOND;
const MICROS_OF_DAY: i64 = 24 * 60 * MICROS_OF_MINUTE;

/// Days since 1970-01-01 of `YYYY-MM-DD`.
#[inline]
pub(super) fn date(text: &[u8]) -> Option<i32> {
    let (&[y1, y2, y3, y4, b'-', m1, m2, b'-'], &[d1, d2]) = text.split_first_chunk()? else {
        return None;
    };
    // All digits at once: a byte below '0' wraps to one above 9.
    let digits = [y1, y2, y3, y4, m1, m2, d1, d2].map(|byte| byte.wrapping_sub(b'0'));
    if digits.iter().fold(false, |is_bad, digit| is_bad | (*digit > 9)) {
        return None;
    }
    let [y1, y2, y3, y4, m1, m2, d1, d2] = digits.map(i32::from);
    let year = (y1 * 10 + y2) * 100 + y3 * 10 + y4;
    let (month, day) = (m1 * 10 + m2, d1 * 10 + d2);
    if day == 0 || day > days_of_month(year, month)? {
        return None;
    }
    Some(days_from_civil(year, month, day))
}

/// Microseconds since midnight of `HH:MM[:SS[.f]]`, with one to six digits `f`.
pub(super) fn time(text: &[u8]) -> Option<i64> {
    let (clock, rest) = text.split_at_checked(5)?;
    let minutes = clock_minutes(clock)?;
    let (seconds, fraction) = match rest {
        [] => (0, 0),
        &[b':', s1, s2] => (number(&[s1, s2])?, 0),
        &[b':', s1, s2, b'.', ref digits @ ..] => (number(&[s1, s2])?, fraction_micros(digits)?),
        _ => return None,
    };
    (seconds < 60).then_some(minutes * MICROS_OF_MINUTE + seconds * MICROS_OF_SECOND + fraction)
}

/// Microseconds since 1970-01-01 00:00 of a date and a time of day with a blank or `T` between them.
pub(super) fn timestamp(text: &[u8]) -> Option<i64> {
    let (day, rest) = text.split_at_checked(10)?;
    let [b' ' | b'T', clock @ ..] = rest else { return None };
    Some(i64::from(date(day)?) * MICROS_OF_DAY + time(clock)?)
}

/// Microseconds since 1970-01-01 00:00 UTC of a timestamp with its zone behind: `Z`, `±HH`, `±HHMM` or `±HH:MM`.
pub(super) fn timestamp_with_zone(text: &[u8]) -> Option<i64> {
    // The date has hyphens too.
    let (_, clock) = text.split_at_checked(11)?;
    let zone_at = 11 + clock.iter().position(|byte| matches!(byte, b'Z' | b'+' | b'-'))?;
    let (local, zone) = text.split_at_checked(zone_at)?;
    let (sign, minutes) = match zone {
        b"Z" => (1, 0),
        &[sign, h1, h2] => (sign_of(sign)?, clock_minutes(&[h1, h2, b':', b'0', b'0'])?),
        &[sign, h1, h2, m1, m2] | &[sign, h1, h2, b':', m1, m2] => {
            (sign_of(sign)?, clock_minutes(&[h1, h2, b':', m1, m2])?)
        }
        _ => return None,
    };
    Some(timestamp(local)? - sign * minutes * MICROS_OF_MINUTE)
}

/// Minutes of `HH:MM`.
fn clock_minutes(text: &[u8]) -> Option<i64> {
    let &[h1, h2, b':', m1, m2] = text else { return None };
    let (hours, minutes) = (number(&[h1, h2])?, number(&[m1, m2])?);
    (hours < 24 && minutes < 60).then_some(hours * 60 + minutes)
}

fn fraction_micros(digits: &[u8]) -> Option<i64> {
    if !(1..=6).contains(&digits.len()) {
        return None;
    }
    Some((digits.len()..6).fold(number(digits)?, |value, _| value * 10))
}

fn sign_of(sign: u8) -> Option<i64> {
    match sign {
        b'+' => Some(1),
        b'-' => Some(-1),
        _ => None,
    }
}

/// The value of at most six digits.
fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0, |value, digit| {
        digit
            .is_ascii_digit()
            .then(|| value * 10 + i64::from(digit.wrapping_sub(b'0')))
    })
}

fn days_of_month(year: i32, month: i32) -> Option<i32> {
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => Some(31),
        4 | 6 | 9 | 11 => Some(30),
        2 => Some(if is_leap { 29 } else { 28 }),
        _ => None,
    }
}

/// Days since 1970-01-01 of a date that exists, of a year from 0 on: after Howard Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms" (howardhinnant.github.io/date_algorithms.html). Years begin in March, so that the leap day is their last; they are counted
/// from 400 years before year 0, so that no division is of a negative number.
fn days_from_civil(year: i32, month: i32, day: i32) -> i32 {
    let (year, month_from_march) = if month <= 2 {
        (year + 399, month + 9)
    } else {
        (year + 400, month - 3)
    };
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    year * 365 + year / 4 - year / 100 + year / 400 + day_of_year - 719_468 - 146_097
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_counted_from_1970_in_both_directions() {
        for (text, days) in [
            ("1970-01-01", 0),
            ("1970-01-02", 1),
            ("1969-12-31", -1),
            ("2000-02-29", 11_016),
            ("2000-03-01", 11_017),
            ("2100-03-01", 47_541),
            ("0001-01-01", -719_162),
            ("0000-02-29", -719_469),
            ("9999-12-31", 2_932_896),
        ] {
            assert_eq!(date(text.as_bytes()), Some(days), "{text}");
        }
    }

    #[test]
    fn each_day_of_the_calendar_follows_the_one_before() {
        let mut expected = date(b"0000-01-01");
        for year in 0..=9999 {
            for month in 1..=12 {
                for day in 1..=days_of_month(year, month).unwrap_or_default() {
                    let text = format!("{year:04}-{month:02}-{day:02}");
                    assert_eq!(date(text.as_bytes()), expected, "{text}");
                    expected = expected.map(|days| days + 1);
                }
            }
        }
    }

    #[test]
    fn a_day_that_does_not_exist_is_none() {
        for text in [
            "1900-02-29",
            "2023-02-29",
            "2023-02-30",
            "2023-04-31",
            "2023-00-01",
            "2023-13-01",
            "2023-01-00",
            "2023-01-32",
            "",
            "2023-1-01",
            "2023-01-1",
            "2023/01/01",
            "20230101",
            "+2023-01-01",
            "-001-01-01",
            "2023-01-01 ",
            " 2023-01-01",
            "2023-01-0x",
            "12023-01-01",
            "2023-01-01T00:00",
        ] {
            assert_eq!(date(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_time_has_up_to_six_digits_behind_the_second() {
        for (text, micros) in [
            ("00:00", 0),
            ("00:01", 60_000_000),
            ("23:59:59", 86_399_000_000),
            ("23:59:59.999999", 86_399_999_999),
            ("00:00:00.5", 500_000),
            ("00:00:00.050", 50_000),
            ("00:00:00.000001", 1),
        ] {
            assert_eq!(time(text.as_bytes()), Some(micros), "{text}");
        }
        for text in [
            "",
            "0:00",
            "24:00",
            "23:60",
            "23:59:60",
            "23:59:5",
            "23:59:",
            "23:59.5",
            "00:00:00.",
            "00:00:00.1234567",
            "00:00:00,5",
            "00:00:00Z",
            "00:00:00.-1",
            "é0:00",
        ] {
            assert_eq!(time(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_timestamp_is_a_day_and_a_time() {
        for (text, micros) in [
            ("1970-01-01 00:00", 0),
            ("1970-01-01T00:00:00.000001", 1),
            ("1969-12-31T23:59:59.999999", -1),
            ("0001-01-01 00:00:00", -62_135_596_800_000_000),
            ("9999-12-31T23:59:59.999999", 253_402_300_799_999_999),
        ] {
            assert_eq!(timestamp(text.as_bytes()), Some(micros), "{text}");
        }
        for text in [
            "",
            "1970-01-01",
            "1970-01-01 ",
            "1970-01-01t00:00",
            "1970-01-01  00:00",
            "1970-01-01 00:00Z",
            "1970-02-30 00:00",
            "1970-01-01 24:00",
        ] {
            assert_eq!(timestamp(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_point_in_time_needs_its_zone() {
        for (text, micros) in [
            ("1970-01-01T00:00Z", 0),
            ("1970-01-01 01:00+01", 0),
            ("1970-01-01 01:30:00+0130", 0),
            ("1969-12-31 18:30:00.5-05:30", 500_000),
            ("0000-01-01T00:00+23:59", -62_167_305_540_000_000),
        ] {
            assert_eq!(timestamp_with_zone(text.as_bytes()), Some(micros), "{text}");
        }
        for text in [
            "",
            "1970-01-01T00:00",
            "1970-01-01Z",
            "1970-01-01T00:00z",
            "1970-01-01T00:00+1",
            "1970-01-01T00:00+24:00",
            "1970-01-01T00:00+01:60",
            "1970-01-01T00:00 +01:00",
            "1970-01-01T00:00+01:00Z",
            "1970-01-01T00:00Z+01",
            "1970-01-01T00:00-01:00:00",
        ] {
            assert_eq!(timestamp_with_zone(text.as_bytes()), None, "{text}");
        }
    }
}
