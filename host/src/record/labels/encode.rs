//! From a header's key and value to a label's name and value.
//!
//! Guarantees: every name is one that all clients of ReductStore show alike and that no header can use to pass for one of
//! the host's own labels; every value is text that ReductStore takes.

use std::borrow::Cow;
use std::fmt::Write;

/// Prefixes of the host's own labels. In the name of any other label the dot behind them is `_`, in whatever case they
/// are written: a client that reads a single record gets names in lower case.
const RESERVED: [&str; 2] = ["kafka.", "sink."];
/// Clients in JavaScript can't show a label of this name.
const PROTO: (&str, &str) = ("__proto__", "_proto_");
/// The name of an empty key.
const EMPTY: &str = "_";

/// A header's key as a label's name: `a-z 0-9 _ . -`, with `A-Z` in lower case unless they are kept, and `_` for each
/// other character.
pub fn label_name(key: &[u8], lowercase: bool) -> Cow<'_, str> {
    let plain = |byte: &u8| {
        matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-') || (!lowercase && byte.is_ascii_uppercase())
    };
    match std::str::from_utf8(key) {
        Ok(text) if !text.is_empty() && key.iter().all(plain) => free(Cow::Borrowed(text)),
        _ => free(Cow::Owned(replaced(key, lowercase))),
    }
}

/// A label's name that is none of the host's.
fn free(name: Cow<'_, str>) -> Cow<'_, str> {
    if let Some(prefix) = RESERVED.iter().find(|prefix| starts_with(&name, prefix)) {
        let mut name = name.into_owned();
        name.replace_range(prefix.len() - 1..prefix.len(), "_");
        return Cow::Owned(name);
    }
    if name.eq_ignore_ascii_case(PROTO.0) { Cow::Borrowed(PROTO.1) } else { name }
}

fn replaced(key: &[u8], lowercase: bool) -> String {
    if key.is_empty() {
        return EMPTY.into();
    }
    let mut name = String::with_capacity(key.len());
    for chunk in key.utf8_chunks() {
        name.extend(chunk.valid().chars().map(|c| match c {
            'A'..='Z' if lowercase => c.to_ascii_lowercase(),
            'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '.' | '-' => c,
            _ => '_',
        }));
        name.extend(chunk.invalid().iter().map(|_| '_'));
    }
    name
}

/// Whether the label belongs to the host.
pub(super) fn is_reserved(name: &str) -> bool {
    RESERVED.iter().any(|prefix| starts_with(name, prefix))
}

fn starts_with(name: &str, prefix: &str) -> bool {
    name.get(..prefix.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(prefix))
}

/// Bytes as a label's value.
#[derive(Debug, PartialEq, Eq)]
pub enum LabelValue<'a> {
    /// Text that ReductStore takes as it is.
    Plain(&'a str),
    /// Percent-encoded: each byte that ReductStore doesn't take, and each `%`, as `%XX`.
    Encoded(String),
}

impl From<LabelValue<'_>> for String {
    fn from(value: LabelValue<'_>) -> Self {
        match value {
            LabelValue::Plain(text) => text.to_owned(),
            LabelValue::Encoded(text) => text,
        }
    }
}

/// Bytes as a label's value; `None`: there are none, and ReductStore has no empty label.
///
/// ReductStore takes printable ASCII without `"` and without a space at its ends.
pub fn label_value(value: &[u8]) -> Option<LabelValue<'_>> {
    let last = value.len().checked_sub(1)?;
    let taken = |(at, byte): (usize, &u8)| match byte {
        b' ' => at != 0 && at != last,
        byte => matches!(byte, b'!'..=b'~') && *byte != b'"',
    };
    if value.iter().enumerate().all(taken)
        && let Ok(text) = std::str::from_utf8(value)
    {
        return Some(LabelValue::Plain(text));
    }
    let mut text = String::with_capacity(value.len() + 16);
    push_encoded(&mut text, value, |at, byte| byte != b'%' && taken((at, &byte)));
    Some(LabelValue::Encoded(text))
}

/// Puts the bytes behind `text`: those for which `is_literal` holds as they are, the others as `%XX`.
pub(super) fn push_encoded(text: &mut String, bytes: &[u8], is_literal: impl Fn(usize, u8) -> bool) {
    for (at, byte) in bytes.iter().enumerate() {
        if byte.is_ascii() && is_literal(at, *byte) {
            text.push(char::from(*byte));
        } else {
            // Writing to a String can't fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
}

/// The bytes of percent-encoded text; `None` where a `%` isn't followed by two hexadecimal digits.
pub(super) fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        rest = tail;
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let (digits, tail) = rest.split_first_chunk::<2>()?;
        let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let [high, low] = *digits;
        bytes.push(digit(high)? << 4 | digit(low)?);
        rest = tail;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_out_as_the_tutorials_do() {
        for (key, name) in [
            ("size", "size"),
            ("deviceId", "deviceid"),
            ("Content-Type", "content-type"),
            ("trace id", "trace_id"),
            ("a/b:c", "a_b_c"),
            ("größe", "gr__e"),
            ("%41", "_41"),
            ("@x", "_x"),
            ("", "_"),
            ("kafka.offset", "kafka_offset"),
            ("Kafka.Offset", "kafka_offset"),
            ("sink.plugins", "sink_plugins"),
            ("kafkas", "kafkas"),
            ("__proto__", "_proto_"),
        ] {
            assert_eq!(label_name(key.as_bytes(), true), name, "{key}");
        }
        assert_eq!(label_name(b"\xff\xfea", true), "__a");
        assert_eq!(label_name(b"deviceId", false), "deviceId");
        assert_eq!(label_name(b"KAFKA.offset", false), "KAFKA_offset");
    }

    #[test]
    fn values_stay_text_where_reductstore_takes_them() {
        for plain in ["1", "50 %", "a=b,c", "%41", "{'a': 1}", "~!"] {
            assert_eq!(label_value(plain.as_bytes()), Some(LabelValue::Plain(plain)));
        }
        for (value, text) in
            [("Zürich", "Z%C3%BCrich"), (" x ", "%20x%20"), ("\"50 %\"", "%2250 %25%22"), ("a\r\nb", "a%0D%0Ab")]
        {
            assert_eq!(label_value(value.as_bytes()), Some(LabelValue::Encoded(text.into())));
            assert_eq!(decoded(text).as_deref(), Some(value.as_bytes()));
        }
        assert_eq!(label_value(b""), None);
        assert_eq!((decoded("%4"), decoded("%"), decoded("%zz"), decoded("%+1")), (None, None, None, None));
    }
}
