//! Stored form: how bytes are written in a label's name and value, and what such text stands for.
//!
//! Guarantees: [`encode`] and [`encode_name`] write what the host writes for a header of the same bytes, and
//! [`decode`] gives back exactly the bytes that [`encode`] was given.

use std::borrow::Cow;

const EMPTY: &str = "%empty";
const NULL: &str = "%null";

/// Bytes as a label's value.
pub fn encode(bytes: &[u8]) -> Cow<'_, str> {
    if bytes.is_empty() {
        return Cow::Borrowed(EMPTY);
    }
    let word = bytes == EMPTY.as_bytes() || bytes == NULL.as_bytes();
    let escape = |at: usize, byte: u8| match byte {
        b' ' => at == 0 || at + 1 == bytes.len(),
        b'%' => word || hex_pair(bytes, at + 1).is_some(),
        byte => !matches!(byte, 0x20..=0x7e) || byte == b'"',
    };
    escaped(bytes, escape)
}

/// Bytes as a label's name.
pub fn encode_name(bytes: &[u8]) -> Cow<'_, str> {
    if bytes.is_empty() {
        return Cow::Borrowed(EMPTY);
    }
    let reserved = is_reserved(bytes);
    let plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-');
    escaped(bytes, |at, byte| !plain(byte) || (at == 0 && reserved))
}

/// Whether a label's name belongs to the host.
pub fn is_reserved(name: &[u8]) -> bool {
    name.starts_with(b"@") || name.starts_with(b"kafka.") || name.starts_with(b"sink.")
}

/// The bytes that a label's value stands for; `None` for a null.
pub fn decode(value: &str) -> Option<Cow<'_, [u8]>> {
    match value {
        NULL => return None,
        EMPTY => return Some(Cow::Borrowed(b"")),
        _ => {}
    }
    let bytes = value.as_bytes();
    if !bytes.contains(&b'%') {
        return Some(Cow::Borrowed(bytes));
    }
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match (byte, hex_pair(bytes, at + 1)) {
            (b'%', Some(decoded)) => {
                plain.push(decoded);
                at += 3;
            }
            _ => {
                plain.push(byte);
                at += 1;
            }
        }
    }
    Some(Cow::Owned(plain))
}

fn escaped(bytes: &[u8], escape: impl Fn(usize, u8) -> bool) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes)
        && !bytes.iter().enumerate().any(|(at, byte)| escape(at, *byte))
    {
        return Cow::Borrowed(text);
    }
    let mut text = String::with_capacity(bytes.len() + 16);
    for (at, &byte) in bytes.iter().enumerate() {
        if escape(at, byte) {
            text.push('%');
            text.extend([byte >> 4, byte & 15].iter().filter_map(|digit| char::from_digit((*digit).into(), 16)));
        } else {
            text.push(char::from(byte));
        }
    }
    Cow::Owned(text)
}

/// The byte that two hexadecimal digits at `at` stand for.
fn hex_pair(bytes: &[u8], at: usize) -> Option<u8> {
    let digit = |at: usize| char::from(*bytes.get(at)?).to_digit(16);
    u8::try_from(digit(at)? * 16 + digit(at + 1)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_as_the_host_writes_them() {
        let cases: [(&[u8], &str); 10] = [
            (b"1024", "1024"),
            (b"50 %", "50 %"),
            (b"50%25", "50%2525"),
            (b"%ff", "%25ff"),
            (b"", "%empty"),
            (b"%empty", "%25empty"),
            (b"%null", "%25null"),
            (b" a b ", "%20a b%20"),
            (b"\xc3\xa4\"\n", "%c3%a4%22%0a"),
            (b"\xff", "%ff"),
        ];
        for (bytes, text) in cases {
            assert_eq!(encode(bytes), text);
            assert_eq!(decode(text).as_deref(), Some(bytes), "{text}");
        }
        assert_eq!(decode("%null"), None);
    }

    #[test]
    fn names_are_written_as_the_host_writes_them() {
        for (bytes, text) in [
            ("size", "size"),
            ("Camera", "%43amera"),
            ("kafka.offset", "%6bafka.offset"),
            ("sink.x", "%73ink.x"),
            ("@id", "%40id"),
            ("a b", "a%20b"),
            ("", "%empty"),
        ] {
            assert_eq!(encode_name(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn every_two_bytes_come_back() {
        for first in 0..=255 {
            for second in 0..=255 {
                let bytes = [b'%', first, second];
                assert_eq!(decode(&encode(&bytes)).as_deref(), Some(bytes.as_slice()));
                assert_eq!(decode(&encode(&[first, second])).as_deref(), Some([first, second].as_slice()));
            }
        }
    }
}
