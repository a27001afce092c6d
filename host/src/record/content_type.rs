//! Content types: what counts as one, and which one a record has.
//!
//! Guarantees: a [`ContentType`] is one that ReductStore and all its clients carry unchanged; this is the only place that
//! decides so, for plugins' verdicts, headers, configuration and the sink alike.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

use super::{InputRecord, OutputRecord};

/// The longest content type, in bytes: it shares one line of an answer's header with the record's labels.
pub const MAX_CONTENT_TYPE: usize = 255;
/// In the table of defaults this name stands for every topic that isn't listed.
pub const ANY_TOPIC: &str = "*";
const HEADER: &[u8] = b"content-type";

/// A legal content type: printable ASCII without a comma, not empty, no space at its ends, at most 255 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ContentType(Arc<str>);

/// A text is no content type.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{0:?} can't be a content type: that is printable ASCII without a comma, not empty, with no space at its ends, of at \
     most {MAX_CONTENT_TYPE} bytes"
)]
pub struct NoContentType(String);

impl ContentType {
    /// Whether the text is a legal content type.
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

/// The content types of topics whose records say nothing themselves, by topic; [`ANY_TOPIC`] for all that aren't listed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContentTypes(pub BTreeMap<String, ContentType>);

impl ContentTypes {
    /// The record's content type: a plugin's choice, or else that of its header, or else its topic's default. `None`:
    /// ReductStore then says `application/octet-stream`.
    pub fn of<'a>(&'a self, output: &'a OutputRecord) -> Option<&'a str> {
        let default = || {
            let found = self.0.get(&*output.input.source.topic).or_else(|| self.0.get(ANY_TOPIC));
            found.map(ContentType::as_str)
        };
        output.content_type().or_else(default)
    }
}

/// What the record's header `content-type` says (in any letter case; the last one counts), where it is legal.
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
