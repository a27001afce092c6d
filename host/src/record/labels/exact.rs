//! The text of the label `kafka.headers`, which holds what plain labels can't express of a record's headers and key.
//!
//! The text is written like the query of a URL. Each header is a part, in the headers' order, and `&` stands between
//! parts. A part begins with the header's key, in which every byte but `A-Z a-z 0-9 _ . -` is `%XX`. The rest of the
//! part gives the value:
//!
//! | part | value |
//! |---|---|
//! | `KEY` | the text of the label that has the key's name |
//! | `KEY*` | that label's text, percent-decoded |
//! | `KEY=VALUE` | `VALUE`, percent-decoded; without text after `=` the value is empty |
//! | `KEY!` | null |
//!
//! `@` in place of a header's key means the record's own key, whose label is `kafka.key`. That part comes first, and is
//! there only if the label alone doesn't give the key. If it is the only part, the headers are those of the plain
//! labels.
//!
//! Guarantees: the text is printable ASCII without `"` and without a comma; [`parse`] returns the parts that [`push`]
//! wrote.

use super::encode::{decoded, push_encoded};

/// The value in a part of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ExactValue<B> {
    /// The text of the label that has the key's name.
    Label,
    /// The text of the label that has the key's name, percent-decoded.
    EncodedLabel,
    /// Kafka's null.
    Null,
    /// These bytes, which are in the part itself.
    Bytes(B),
}

/// A part of the text: a header's key (`None`: the part is about the record's own key), and the value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ExactPart {
    pub key: Option<Vec<u8>>,
    pub value: ExactValue<Vec<u8>>,
}

pub(super) fn push(text: &mut String, key: Option<&[u8]>, value: &ExactValue<&[u8]>) {
    if !text.is_empty() {
        text.push('&');
    }
    match key {
        Some(key) => {
            push_encoded(text, key, |_, byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
        }
        None => text.push('@'),
    }
    match value {
        ExactValue::Label => {}
        ExactValue::EncodedLabel => text.push('*'),
        ExactValue::Null => text.push('!'),
        ExactValue::Bytes(bytes) => {
            text.push('=');
            push_encoded(text, bytes, |_, byte| {
                matches!(byte, b'!'..=b'~') && !matches!(byte, b'%' | b'&' | b'"' | b',')
            });
        }
    }
}

/// The parts of the text; `None`: it isn't a text that [`push`] can have written.
pub(super) fn parse(text: &str) -> Option<Vec<ExactPart>> {
    text.split('&').map(part).collect()
}

fn part(text: &str) -> Option<ExactPart> {
    let (key, value) = match text.find(['=', '*', '!']) {
        None => (text, ExactValue::Label),
        Some(at) => {
            let (key, rest) = text.split_at(at);
            let value = match rest {
                "*" => ExactValue::EncodedLabel,
                "!" => ExactValue::Null,
                _ => ExactValue::Bytes(decoded(rest.strip_prefix('=')?)?),
            };
            (key, value)
        }
    };
    let key = if key == "@" { None } else { Some(decoded(key)?) };
    Some(ExactPart { key, value })
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
        let of = |key: &[u8], value| ExactPart { key: Some(key.to_vec()), value };
        let parts = parse(&text).unwrap();
        assert_eq!(
            parts,
            [
                ExactPart { key: None, value: ExactValue::EncodedLabel },
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
