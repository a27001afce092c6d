//! Makes a label's name and value of a header's key and value.
//!
//! Guarantees: all clients of ReductStore show a name alike; no header gets the name of one of the host's own labels;
//! every value is text that ReductStore accepts.

use std::borrow::Cow;
use std::fmt::Write;

/// The prefixes of the host's own labels. In any other label's name with such a prefix, in any letter case, the dot
/// becomes `_`: a client that reads a single record gets all names in lower case.
const RESERVED: [&str; 2] = ["kafka.", "sink."];
/// A label's name that clients in JavaScript can't show, and the name that the label gets instead.
const PROTO: (&str, &str) = ("__proto__", "_proto_");
/// The label's name for an empty key.
const EMPTY: &str = "_";

/// The label's name for a header's key. The characters `a-z 0-9 _ . -` stay, `A-Z` become lower case if `lowercase` is
/// set, and each other character becomes `_`.
pub fn label_name(key: &[u8], lowercase: bool) -> Cow<'_, str> {
    let plain = |byte: &u8| {
        matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-') || (!lowercase && byte.is_ascii_uppercase())
    };
    match std::str::from_utf8(key) {
        Ok(text) if !text.is_empty() && key.iter().all(plain) => free(Cow::Borrowed(text)),
        _ => free(Cow::Owned(replaced(key, lowercase))),
    }
}

/// The name, changed if it is reserved for the host or can't be shown by clients.
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

/// A header's value or a record's key as the value of a label.
#[derive(Debug, PartialEq, Eq)]
pub enum LabelValue<'a> {
    /// Text that ReductStore accepts as it is.
    Plain(&'a str),
    /// Percent-encoded text: `%XX` stands for each byte that ReductStore doesn't accept, and for each `%`.
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

/// The label's value for these bytes; `None`: there are no bytes, and ReductStore has no empty labels.
///
/// ReductStore accepts printable ASCII without `"` and without a space at its ends.
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

/// Appends the bytes to `text`: a byte for which `is_literal` holds stays as it is, any other becomes `%XX`.
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
