//! Converts the times in payloads to microseconds since the Unix epoch.
//!
//! Guarantees: decimal digits are converted exactly, without floating-point numbers; digits finer than a microsecond
//! are cut off; a time before 1970 counts as missing.

use chrono::DateTime;
use serde::Deserialize;

use crate::value::{Stamp, Value};

/// How a field expresses a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Unit {
    #[serde(rename = "s")]
    Seconds,
    #[serde(rename = "ms")]
    Milliseconds,
    #[serde(rename = "us")]
    Microseconds,
    #[serde(rename = "ns")]
    Nanoseconds,
    /// `2026-11-23T12:00:00.5+01:00`
    #[serde(rename = "rfc3339")]
    Rfc3339,
    /// An object of seconds and nanoseconds.
    #[serde(rename = "ros")]
    Ros,
}

impl Unit {
    /// What the field must hold, for an error's text.
    pub fn description(self) -> &'static str {
        match self {
            Unit::Seconds => "seconds since 1970",
            Unit::Milliseconds => "milliseconds since 1970",
            Unit::Microseconds => "microseconds since 1970",
            Unit::Nanoseconds => "nanoseconds since 1970",
            Unit::Rfc3339 => "a time of RFC 3339, such as 2026-11-23T12:00:00Z",
            Unit::Ros => "an object of sec and nanosec (or secs and nsecs, seconds and nanos)",
        }
    }

    /// The power of ten by which the number is multiplied to get microseconds; `None`: the unit isn't a single number.
    fn exponent(self) -> Option<i32> {
        match self {
            Unit::Seconds => Some(6),
            Unit::Milliseconds => Some(3),
            Unit::Microseconds => Some(0),
            Unit::Nanoseconds => Some(-3),
            Unit::Rfc3339 | Unit::Ros => None,
        }
    }
}

/// The time in microseconds since the Unix epoch; `None`: the value isn't a time in this unit.
pub fn microseconds(value: &Value, unit: Unit) -> Option<u64> {
    match (value, unit.exponent(), unit) {
        (Value::Number(text) | Value::Text(text) | Value::Untyped(text), Some(exponent), _) => scaled(text, exponent),
        (Value::Text(text) | Value::Untyped(text), None, Unit::Rfc3339) => {
            DateTime::parse_from_rfc3339(text.trim()).ok()?.timestamp_micros().try_into().ok()
        }
        (Value::Stamp(Stamp { sec, nanosec }), ..) => {
            let seconds = i128::from(*sec) * 1_000_000;
            (seconds + i128::from(*nanosec).div_euclid(1000)).try_into().ok()
        }
        _ => None,
    }
}

/// A decimal number times ten to the power of `exponent`, without its fraction.
fn scaled(text: &str, exponent: i32) -> Option<u64> {
    let text = text.trim();
    let (mantissa, power) = match text.split_once(['e', 'E']) {
        Some((mantissa, power)) => (mantissa, power.parse().ok()?),
        None => (text, 0_i32),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let whole = whole.strip_prefix('+').unwrap_or(whole);
    if whole.is_empty() || !whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // This is how many digits stand before the point after it was moved.
    let length = i32::try_from(whole.len()).ok()?.checked_add(power)?.checked_add(exponent)?;
    let length = usize::try_from(length.max(0)).ok()?;
    let digits = whole.bytes().chain(fraction.bytes()).chain(std::iter::repeat(b'0'));
    let mut number = 0_u64;
    for digit in digits.take(length.min(whole.len() + fraction.len() + 40)) {
        number = number.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
    }
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_times_of_a_unit() {
        use Unit::{Microseconds, Milliseconds, Nanoseconds, Seconds};
        for (text, unit, expected) in [
            ("1700000000", Seconds, Some(1_700_000_000_000_000)),
            ("1700000000.1234567", Seconds, Some(1_700_000_000_123_456)),
            ("1.7e9", Seconds, Some(1_700_000_000_000_000)),
            ("17e+8", Seconds, Some(1_700_000_000_000_000)),
            ("1700000000123", Milliseconds, Some(1_700_000_000_123_000)),
            ("1700000000123.25", Milliseconds, Some(1_700_000_000_123_250)),
            ("1700000000123456", Microseconds, Some(1_700_000_000_123_456)),
            ("1700000000123456.9", Microseconds, Some(1_700_000_000_123_456)),
            ("1700000000123456789", Nanoseconds, Some(1_700_000_000_123_456)),
            ("999", Nanoseconds, Some(0)),
            ("9", Nanoseconds, Some(0)),
            ("0", Seconds, Some(0)),
            (" 12 ", Seconds, Some(12_000_000)),
            ("-1", Seconds, None),
            ("", Seconds, None),
            (".5", Seconds, None),
            ("1e", Seconds, None),
            ("12a", Seconds, None),
            ("1e99", Seconds, None),
            ("1e-99", Seconds, Some(0)),
            ("1e2147483647", Seconds, None),
            ("0e2147483", Seconds, Some(0)),
            ("18446744073709551616", Microseconds, None),
        ] {
            assert_eq!(microseconds(&Value::Number(text.into()), unit), expected, "{text} {unit:?}");
            assert_eq!(microseconds(&Value::Text(text.into()), unit), expected, "{text} {unit:?}");
        }
        assert_eq!(microseconds(&Value::Boolean(true), Seconds), None);
    }

    #[test]
    fn texts_are_times_of_rfc_3339() {
        for (text, expected) in [
            ("2023-11-14T22:13:20Z", Some(1_700_000_000_000_000)),
            ("2023-11-14T23:13:20.123456789+01:00", Some(1_700_000_000_123_456)),
            ("2023-11-14 22:13:20Z", Some(1_700_000_000_000_000)),
            ("1969-12-31T23:59:59Z", None),
            ("2023-11-14T22:13:20", None),
            ("2023-02-30T22:13:20Z", None),
            ("yesterday", None),
        ] {
            assert_eq!(microseconds(&Value::Text(text.into()), Unit::Rfc3339), expected, "{text}");
        }
        assert_eq!(microseconds(&Value::Number("1700000000".into()), Unit::Rfc3339), None);
    }

    #[test]
    fn two_numbers_are_a_time_of_ros() {
        let stamp = |sec, nanosec| microseconds(&Value::Stamp(Stamp { sec, nanosec }), Unit::Ros);
        assert_eq!(stamp(1_700_000_000, 123_456_789), Some(1_700_000_000_123_456));
        assert_eq!(stamp(-1, 0), None);
        assert_eq!(stamp(i64::MAX, 0), None);
        assert_eq!(microseconds(&Value::Number("1".into()), Unit::Ros), None);
    }
}
