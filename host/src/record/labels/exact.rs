//! The text of the label `kafka.headers`: what plain labels can't express of a record's headers and key.
//!
//! It is written like the query of a URL. Each header is a part, in the headers' order, and `&` stands between parts. A
//! part begins with the header's key, in which every byte but `A-Z a-z 0-9 _ . -` is `%XX`. What follows tells the value:
//!
//! | part | value |
//! |---|---|
//! | `KEY` | the text of the label that has the key's name |
//! | `KEY*` | the same label's text, percent-decoded |
//! | `KEY=VALUE` | this text, percent-decoded; nothing behind `=` is an empty value |
//! | `KEY!` | null |
//!
//! `@` in place of a key means the record's own key, whose label is `kafka.key`; that part comes first, and only where the
//! label alone doesn't tell the key. Without any other part the headers are those of the plain labels.
//!
//! Guarantees: the text is printable ASCII without `"` and without a comma; what [`parse`] makes of it are the parts that
//! were put in.

use super::encode::{decoded, push_encoded};

/// How a part tells a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ExactValue<B> {
    /// The label of that name is the value.
    Label,
    /// The label of that name is the value, percent-encoded.
    EncodedLabel,
    Null,
    Bytes(B),
}

/// A part of the text: of which header (`None`: the record's key), and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ExactPart {
    pub key: Option<Vec<u8>>,
    pub told: ExactValue<Vec<u8>>,
}

pub(super) fn push(text: &mut String, key: Option<&[u8]>, told: &ExactValue<&[u8]>) {
    if !text.is_empty() {
        text.push('&');
    }
    match key {
        Some(key) => {
            push_encoded(text, key, |_, byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
        }
        None => text.push('@'),
    }
    match told {
        ExactValue::Label => {}
        ExactValue::EncodedLabel => text.push('*'),
        ExactValue::Null => text.push('!'),
        ExactValue::Bytes(value) => {
            text.push('=');
            push_encoded(text, value, |_, byte| {
                matches!(byte, b'!'..=b'~') && !matches!(byte, b'%' | b'&' | b'"' | b',')
            });
        }
    }
}

/// `None`: it isn't such a text.
pub(super) fn parse(text: &str) -> Option<Vec<ExactPart>> {
    text.split('&').map(part).collect()
}

fn part(text: &str) -> Option<ExactPart> {
    let (key, told) = match text.find(['=', '*', '!']) {
        None => (text, ExactValue::Label),
        Some(at) => {
            let (key, rest) = text.split_at(at);
            let told = match rest {
                "*" => ExactValue::EncodedLabel,
                "!" => ExactValue::Null,
                _ => ExactValue::Bytes(decoded(rest.strip_prefix('=')?)?),
            };
            (key, told)
        }
    };
    let key = if key == "@" { None } else { Some(decoded(key)?) };
    Some(ExactPart { key, told })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_back() {
        let mut text = String::new();
        push(&mut text, None, &ExactValue::EncodedLabel);
        push(&mut text, Some(b"deviceId"), &ExactValue::Label);
        push(&mut text, Some(b"tag"), &ExactValue::Bytes(b"a,b & 50 %"));
        push(&mut text, Some(b"@"), &ExactValue::Bytes(b""));
        push(&mut text, Some(b""), &ExactValue::Null);
        assert_eq!(text, "@*&deviceId&tag=a%2Cb%20%26%2050%20%25&%40=&!");
        let of = |key: &[u8], told| ExactPart { key: Some(key.to_vec()), told };
        let parts = parse(&text).unwrap();
        assert_eq!(
            parts,
            [
                ExactPart { key: None, told: ExactValue::EncodedLabel },
                of(b"deviceId", ExactValue::Label),
                of(b"tag", ExactValue::Bytes(b"a,b & 50 %".to_vec())),
                of(b"@", ExactValue::Bytes(Vec::new())),
                of(b"", ExactValue::Null),
            ]
        );
        for wrong in ["a%", "a%4", "a=%zz", "a*b", "a!!", "a=1&%"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
