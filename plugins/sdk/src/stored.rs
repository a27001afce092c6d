//! Makes names and values of labels of any bytes, by the rules by which the host makes labels of headers.
//!
//! Guarantees: [`encode`] and [`encode_name`] return what the host writes for a header with the same bytes.

use std::borrow::Cow;
use std::fmt::Write;

/// The label's value for these bytes: the same text if ReductStore accepts it, otherwise percent-encoded. No bytes give
/// an empty text, and setting a label to that removes it, because ReductStore has no empty labels.
pub fn encode(bytes: &[u8]) -> Cow<'_, str> {
    let taken = |at: usize, byte: u8| match byte {
        b' ' => at != 0 && at + 1 != bytes.len(),
        byte => matches!(byte, b'!'..=b'~') && byte != b'"',
    };
    match std::str::from_utf8(bytes) {
        Ok(text) if bytes.iter().enumerate().all(|(at, byte)| taken(at, *byte)) => Cow::Borrowed(text),
        _ => {
            let mut text = String::with_capacity(bytes.len() + 16);
            for (at, byte) in bytes.iter().enumerate() {
                if taken(at, *byte) && *byte != b'%' {
                    text.push(char::from(*byte));
                } else {
                    // Writing to a String can't fail.
                    let _ = write!(text, "%{byte:02X}");
                }
            }
            Cow::Owned(text)
        }
    }
}

/// The label's name for these bytes: in lower case, with `_` for each character other than `a-z 0-9 _ . -`.
pub fn encode_name(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "_".into();
    }
    let mut name = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        name.extend(chunk.valid().chars().map(|c| match c.to_ascii_lowercase() {
            c @ ('a'..='z' | '0'..='9' | '_' | '.' | '-') => c,
            _ => '_',
        }));
        name.extend(chunk.invalid().iter().map(|_| '_'));
    }
    if is_reserved(name.as_bytes()) {
        return name.replacen('.', "_", 1);
    }
    if name == "__proto__" { "_proto_".into() } else { name }
}

/// Whether the name is reserved for the host's own labels.
pub fn is_reserved(name: &[u8]) -> bool {
    name.starts_with(b"kafka.") || name.starts_with(b"sink.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_as_the_host_writes_them() {
        let cases: [(&[u8], &str); 9] = [
            (b"left", "left"),
            (b"50 %", "50 %"),
            (b"%41", "%41"),
            (b"a,b=c", "a,b=c"),
            (b" x ", "%20x%20"),
            (b"\xc3\xa4\"\n", "%C3%A4%22%0A"),
            (b"\"50 %\"", "%2250 %25%22"),
            (b"\xff", "%FF"),
            (b"", ""),
        ];
        for (bytes, text) in cases {
            assert_eq!(encode(bytes), text);
        }
    }

    #[test]
    fn names_are_written_as_the_host_writes_them() {
        for (bytes, text) in [
            ("size", "size"),
            ("Camera", "camera"),
            ("kafka.offset", "kafka_offset"),
            ("Sink.x.y", "sink_x.y"),
            ("@id", "_id"),
            ("a b", "a_b"),
            ("größe", "gr__e"),
            ("__proto__", "_proto_"),
            ("", "_"),
        ] {
            assert_eq!(encode_name(bytes.as_bytes()), text);
        }
        assert_eq!(encode_name(b"\xff\xfea"), "__a");
    }
}
