//! What a dead letter looks like, in an entry and in a Kafka topic, and how its record is restored.
//!
//! In an entry the body is the original payload; key and headers are labels, as on every record; the reason, the plugin
//! and its digest, and the record's time are labels too. Where key and headers are too large for labels, they follow the
//! payload, written like the label `kafka.headers`, and the label `sink.headers-at` tells where they begin. In a topic
//! payload, key and headers are the original ones, and the host's own headers follow them: see [`headers`].
//!
//! Guarantees: [`read`] and [`read_from_topic`] restore the record byte for byte, its headers in their order; what isn't a
//! dead letter is told apart from a dead letter that lacks something.

use std::collections::HashMap;

use bytes::Bytes;
use thiserror::Error;

use crate::record::labels::{self, Original};
use crate::record::{Identity, InputRecord, OutputRecord};

/// What a dead letter in a Kafka topic says behind the record's own headers, under the names of the labels.
pub fn headers(dead_letter: &OutputRecord) -> Vec<(&'static str, String)> {
    let input = &dead_letter.input;
    let source = labels::source_text(&input.source, input.topic_id);
    let mut headers = vec![(labels::SOURCE, source), (labels::OFFSET, input.offset.to_string())];
    headers.extend(dead_letter.index.map(|index| (labels::INDEX, index.to_string())));
    headers.extend(input.timestamp_ms.map(|time| (labels::TIMESTAMP, time.to_string())));
    if let Some(rejection) = &dead_letter.rejection {
        headers.push((labels::REASON, rejection.reason.clone()));
        if let Some((plugin, digest)) = &rejection.plugin {
            headers.extend([(labels::PLUGIN, plugin.to_string()), (labels::DIGEST, digest.clone())]);
        }
    }
    headers
}

/// The identity that [`headers`] wrote: the last header of a name counts, for the record's own may have the same names.
pub fn identity_of_headers<'a>(headers: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>) -> Option<Identity> {
    let mut found = HashMap::new();
    for (key, value) in headers {
        // The host's headers come in this order: an index before them belongs to another dead letter.
        if key == labels::SOURCE.as_bytes() {
            found.clear();
        }
        let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::to_owned);
        if let (Some(key), Some(value)) = (text(key), value.and_then(text)) {
            found.insert(key, value);
        }
    }
    labels::read_identity(&found)
}

/// A dead letter as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The record as it came from Kafka.
    pub input: InputRecord,
    /// The part of a split that couldn't be written, where it was only a part; the others were.
    pub index: Option<u32>,
}

impl DeadLetter {
    /// Which Kafka record it is.
    pub fn identity(&self) -> Identity {
        let InputRecord { source, topic_id, offset, .. } = &self.input;
        Identity { source: source.clone(), topic_id: *topic_id, offset: *offset, index: self.index }
    }
}

/// Why no record can be made of it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UnreadableLetter {
    /// The record can't be identified.
    #[error("its kafka.source, kafka.offset and kafka.index don't tell which record it is")]
    Identity,
    /// The record has no time.
    #[error("its kafka.timestamp is missing or no number")]
    Timestamp,
    /// The record's headers can't be restored.
    #[error("its label kafka.headers is malformed, or names a label that isn't there")]
    Headers,
    /// The record's key and headers can't be restored from its body.
    #[error("its label sink.headers-at points at no key and headers in its body")]
    Body,
}

/// Makes the record of a dead letter again; `None`: it isn't one.
pub fn read(found: &HashMap<String, String>, body: Bytes) -> Option<Result<DeadLetter, UnreadableLetter>> {
    found.contains_key(labels::REASON).then(|| read_dead_letter(found, body))
}

/// Makes the record of a dead letter in a topic again; `None`: it isn't one.
pub fn read_from_topic(mut record: InputRecord) -> Option<Result<DeadLetter, UnreadableLetter>> {
    // The record's own headers may have the same names: the host's are behind them.
    let own = record.headers.iter().rposition(|header| &header.key[..] == labels::SOURCE.as_bytes())?;
    let text = |bytes: Bytes| String::from_utf8(bytes.into()).ok();
    let said = record.headers.split_off(own).into_iter();
    let said: HashMap<_, _> = said.filter_map(|header| Some((text(header.key)?, text(header.value?)?))).collect();
    said.contains_key(labels::REASON).then(|| {
        let Identity { source, topic_id, offset, index } =
            labels::read_identity(&said).ok_or(UnreadableLetter::Identity)?;
        let time = said.get(labels::TIMESTAMP).map(|time| time.parse().map_err(|_| UnreadableLetter::Timestamp));
        Ok(DeadLetter {
            input: InputRecord { source, topic_id, offset, timestamp_ms: time.transpose()?, ..record },
            index,
        })
    })
}

fn read_dead_letter(found: &HashMap<String, String>, mut body: Bytes) -> Result<DeadLetter, UnreadableLetter> {
    let Identity { source, topic_id, offset, index } =
        labels::read_identity(found).ok_or(UnreadableLetter::Identity)?;
    let timestamp = found.get(labels::TIMESTAMP).ok_or(UnreadableLetter::Timestamp)?;
    let timestamp_ms = match timestamp.as_str() {
        labels::NO_TIMESTAMP => None,
        timestamp => Some(timestamp.parse().map_err(|_| UnreadableLetter::Timestamp)?),
    };
    let original = match found.get(labels::HEADERS_AT) {
        None => labels::read_original(found).map_err(|_| UnreadableLetter::Headers)?,
        Some(at) => {
            let at = at.parse().ok().filter(|at| *at <= body.len()).ok_or(UnreadableLetter::Body)?;
            let text = body.split_off(at);
            let text = std::str::from_utf8(&text).map_err(|_| UnreadableLetter::Body)?;
            labels::read_text(text).map_err(|_| UnreadableLetter::Body)?
        }
    };
    let Original { key, headers } = original;
    let payload = (!found.contains_key(labels::TOMBSTONE)).then_some(body);
    Ok(DeadLetter { input: InputRecord { source, topic_id, offset, timestamp_ms, key, headers, payload }, index })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::record::labels::LabelRules;
    use crate::record::{Header, Rejection, TopicId, TopicPartition};

    fn letter(header_size: usize, payload: Option<&'static [u8]>, timestamp_ms: Option<u64>) -> OutputRecord {
        let header = |key: &'static [u8], value: Option<&'static [u8]>| Header {
            key: Bytes::from_static(key),
            value: value.map(Bytes::from_static),
        };
        let mut headers = vec![
            header(b"A", Some(b"1")),
            header(b"A", None),
            header(b"kafka.source", Some(b"other/9")),
            header(b"kafka.offset", Some(b"8")),
            header(b"kafka.index", Some(b"7")),
            header(b"\xff", Some(b"\x00\"")),
        ];
        headers.push(Header { key: "big".into(), value: Some(vec![b'x'; header_size].into()) });
        let input = InputRecord {
            source: TopicPartition { topic: "a.b".into(), partition: 3 },
            topic_id: TopicId::from_halves(1, 2),
            offset: 12_345,
            timestamp_ms,
            key: Some(Bytes::from_static(b"%41")),
            headers,
            payload: payload.map(Bytes::from_static),
        };
        let rejection = Rejection { reason: " bad:\n\"x\"".into(), plugin: Some(("filter".into(), "abc".into())) };
        OutputRecord { index: Some(2), ..OutputRecord::unchanged(Arc::new(input)) }.rejected(rejection)
    }

    #[test]
    fn what_was_written_to_an_entry_is_read_back() {
        for (payload, timestamp_ms) in [(Some(&b"body"[..]), Some(17)), (Some(b""), Some(0)), (None, None)] {
            let letter = letter(3, payload, timestamp_ms);
            let read = read(&LabelRules::default().all_labels(&letter), letter.payload()).unwrap().unwrap();
            assert_eq!((read.input, read.index), ((*letter.input).clone(), Some(2)));
        }
    }

    #[test]
    fn headers_too_large_for_labels_are_read_from_behind_the_payload() {
        for payload in [Some(&b"body"[..]), None] {
            let letter = letter(100_000, payload, Some(1));
            let mut found = labels::own_labels(&letter);
            found.insert(labels::HEADERS_AT.into(), letter.payload().len().to_string());
            let body: Bytes = [&letter.payload(), labels::whole_text(&letter.input).as_bytes()].concat().into();
            let whole = read(&found, body.clone()).unwrap().unwrap();
            assert_eq!(whole.input, *letter.input);
            for wrong in ["", "-1", "1000000000"] {
                found.insert(labels::HEADERS_AT.into(), wrong.into());
                assert_eq!(read(&found, body.clone()).unwrap(), Err(UnreadableLetter::Body), "{wrong}");
            }
        }
    }

    #[test]
    fn what_is_no_dead_letter_is_told_apart_from_one_that_lacks_something() {
        let letter = letter(3, Some(b"x"), Some(1));
        let without = |name: &str| {
            let mut found = LabelRules::default().all_labels(&letter);
            found.remove(name);
            read(&found, Bytes::new())
        };
        assert_eq!(without(labels::REASON), None);
        assert_eq!(without(labels::OFFSET), Some(Err(UnreadableLetter::Identity)));
        assert_eq!(without(labels::TIMESTAMP), Some(Err(UnreadableLetter::Timestamp)));
        assert_eq!(without("kafka_source"), Some(Err(UnreadableLetter::Headers)));
    }

    #[test]
    fn what_was_written_to_a_topic_is_read_back() {
        for (payload, timestamp_ms) in [(Some(&b"body"[..]), Some(17)), (Some(b""), None), (None, Some(0))] {
            let letter = letter(3, payload, timestamp_ms);
            let said = headers(&letter).into_iter();
            let said = said.map(|(key, value)| Header { key: key.into(), value: Some(value.into()) });
            let mut record = (*letter.input).clone();
            assert_eq!(read_from_topic(record.clone()), None, "not a letter before the sink's headers");
            record.source = TopicPartition { topic: "letters".into(), partition: 0 };
            record.offset = 99;
            record.headers.extend(said);
            let read = read_from_topic(record).unwrap().unwrap();
            assert_eq!((read.input, read.index), ((*letter.input).clone(), Some(2)));
        }
    }

    #[test]
    fn a_letter_in_a_topic_tells_who_it_is_behind_its_own_headers() {
        let of = |letter: &OutputRecord| {
            let ours = headers(letter);
            let own = letter.input.headers.iter().map(|h| (&h.key[..], h.value.as_deref()));
            identity_of_headers(own.chain(ours.iter().map(|(k, v)| (k.as_bytes(), Some(v.as_bytes())))))
        };
        let part = letter(3, Some(b"x"), Some(1));
        assert_eq!(of(&part), Some(part.identity()));
        let whole = OutputRecord { index: None, ..part };
        assert_eq!(of(&whole), Some(whole.identity()));
        assert_eq!(headers(&whole).last(), Some(&(labels::DIGEST, "abc".into())));
    }
}
