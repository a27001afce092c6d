//! Content types: which texts are valid ones, and which content type a record has.
//!
//! Guarantees: ReductStore and all its clients carry a [`ContentType`] unchanged; verdicts of plugins, headers, the
//! configuration and the sink all use this one rule.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

use super::{InputRecord, OutputRecord};

/// The longest content type, in bytes: it shares one line of an answer's header with the record's labels.
pub const MAX_CONTENT_TYPE: usize = 255;
/// In the configuration's table of content types, this key stands for every topic that isn't listed.
pub const ANY_TOPIC: &str = "*";
const HEADER: &[u8] = b"content-type";

/// A valid content type: printable ASCII without a comma, not empty, no space at its ends, at most 255 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ContentType(Arc<str>);

/// An error: the text isn't a valid content type.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{0:?} isn't a content type: it must be printable ASCII without a comma, not empty, without a space at its ends, and \
     at most {MAX_CONTENT_TYPE} bytes long"
)]
pub struct NoContentType(String);

impl ContentType {
    /// Whether the text is a valid content type.
    pub fn is_legal(text: &str) -> bool {
        let legal = |byte: u8| matches!(byte, b' '..=b'~') && byte != b',';
        !text.is_empty() && text.trim() == text && text.len() <= MAX_CONTENT_TYPE && text.bytes().all(legal)
    }

    /// The content type as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ContentType {
    type Err = NoContentType;

    fn from_str(text: &str) -> Result<Self, NoContentType> {
        if Self::is_legal(text) {
            return Ok(Self(text.into()));
        }
        Err(NoContentType(text.chars().take(MAX_CONTENT_TYPE).collect()))
    }
}

impl fmt::Display for ContentType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The content type that a topic's records get if neither a plugin nor a header gives one, by topic; [`ANY_TOPIC`]
/// stands for the topics that aren't listed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContentTypes(pub BTreeMap<String, ContentType>);

impl ContentTypes {
    /// The record's content type: the one that a plugin chose, or else the one in its header, or else its topic's
    /// default. `None`: it has none, and ReductStore serves it as `application/octet-stream`.
    pub fn of<'a>(&'a self, output: &'a OutputRecord) -> Option<&'a str> {
        let default = || {
            let found = self.0.get(&*output.input.source.topic).or_else(|| self.0.get(ANY_TOPIC));
            found.map(ContentType::as_str)
        };
        output.content_type().or_else(default)
    }
}

/// The value of the record's header `content-type`, if it is a valid content type. The letter case of the key doesn't
/// matter, and of several such headers the last one counts.
pub(super) fn of_headers(input: &InputRecord) -> Option<&str> {
    let header = input.headers.iter().rfind(|header| header.key.eq_ignore_ascii_case(HEADER))?;
    let text = std::str::from_utf8(header.value.as_deref()?).ok()?.trim();
    ContentType::is_legal(text).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Header, TopicPartition};

    fn output(headers: &[(&'static str, Option<&'static [u8]>)]) -> OutputRecord {
        let header = |(key, value): &(&'static str, Option<&'static [u8]>)| Header {
            key: (*key).into(),
            value: value.map(bytes::Bytes::from_static),
        };
        OutputRecord::unchanged(Arc::new(InputRecord {
            source: TopicPartition { topic: "t".into(), partition: 0 },
            topic_id: None,
            offset: 0,
            timestamp_ms: None,
            key: None,
            headers: headers.iter().map(header).collect(),
            payload: None,
        }))
    }

    #[test]
    fn there_is_one_rule() {
        let longest = "a".repeat(MAX_CONTENT_TYPE);
        for legal in ["image/jpeg", "text/plain; charset=\"utf-8\"", "x", &longest] {
            assert_eq!(legal.parse::<ContentType>().map(|parsed| parsed.to_string()), Ok(legal.into()));
        }
        let longer = "a".repeat(MAX_CONTENT_TYPE + 1);
        for illegal in ["", " ", " a", "a ", "a,b", "ä", "a\nb", "a\tb", "\u{7f}", &longer] {
            assert!(illegal.parse::<ContentType>().is_err(), "{illegal:?} was taken");
        }
    }

    #[test]
    fn a_plugin_comes_before_the_header_and_the_header_before_the_topic() {
        let types = |pairs: &[(&str, &str)]| {
            ContentTypes(pairs.iter().map(|(topic, kind)| ((*topic).into(), kind.parse().unwrap())).collect())
        };
        let (none, one, any) = (types(&[]), types(&[("t", "a/topic"), ("*", "a/any")]), types(&[("*", "a/any")]));
        let plain = output(&[]);
        assert_eq!((none.of(&plain), one.of(&plain), any.of(&plain)), (None, Some("a/topic"), Some("a/any")));
        let with_header = output(&[("content-type", Some(b"a/first")), ("Content-Type", Some(b" image/png "))]);
        assert_eq!(one.of(&with_header), Some("image/png"));
        let chosen = OutputRecord { content_type: Some("a/plugin".into()), ..with_header };
        assert_eq!(one.of(&chosen), Some("a/plugin"));
        for illegal in [None, Some(&b"a,b"[..]), Some(b"\xff"), Some(b"")] {
            assert_eq!(one.of(&output(&[("content-type", illegal)])), Some("a/topic"), "{illegal:?}");
        }
    }
}
