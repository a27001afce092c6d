//! Reads a record's identity, key and headers back from its labels.
//!
//! Guarantees: if the host wrote the labels and no plugin changed them, the key and the headers are read back byte for
//! byte; labels that another writer made cause an error or meaningless values, but never a panic.

use std::collections::HashMap;

use bytes::Bytes;
use thiserror::Error;

use super::encode::{decoded, is_reserved, label_name};
use super::exact::{self, ExactPart, ExactValue};
use super::{BEFORE_ID, HEADERS, INDEX, KEY, OFFSET, SOURCE};
use crate::record::{Header, Identity, TopicPartition};

/// A record's key and headers as they came from Kafka.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Original {
    /// The key; `None`: Kafka's null.
    pub key: Option<Bytes>,
    /// The headers, in the order in which the producer set them.
    pub headers: Vec<Header>,
}

/// An error: the key and the headers can't be read from the labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the record's label kafka.headers is malformed, or names a label that the record doesn't have")]
pub struct Malformed;

/// The identity in these labels; `None`: they have none, or a malformed one.
pub fn read_identity(found: &HashMap<String, String>) -> Option<Identity> {
    let source = found.get(SOURCE)?;
    let (source, topic_id) = match source.split_once(BEFORE_ID) {
        Some((source, id)) => (source, Some(id.parse().ok()?)),
        None => (source.as_str(), None),
    };
    let (topic, partition) = source.rsplit_once('/')?;
    let index = match found.get(INDEX) {
        Some(index) => Some(index.parse().ok()?),
        None => None,
    };
    Some(Identity {
        source: TopicPartition { topic: topic.into(), partition: partition.parse().ok()? },
        topic_id,
        offset: found.get(OFFSET)?.parse().ok()?,
        index,
    })
}

/// Reads the key and headers of a record whose labels no plugin changed. Headers that `labels.include` and
/// `labels.exclude` left out are missing, except on dead letters.
pub fn read_original(found: &HashMap<String, String>) -> Result<Original, Malformed> {
    let plain_key = || found.get(KEY).map(|key| Bytes::copy_from_slice(key.as_bytes()));
    let Some(text) = found.get(HEADERS) else {
        return Ok(Original { key: plain_key(), headers: plain_headers(found) });
    };
    let mut parts = exact::parse(text).ok_or(Malformed)?;
    let key = match parts.first() {
        Some(ExactPart { key: None, .. }) => {
            Some(read_value(parts.remove(0).value, || found.get(KEY))?.ok_or(Malformed)?)
        }
        _ => plain_key(),
    };
    if parts.is_empty() {
        return Ok(Original { key, headers: plain_headers(found) });
    }
    Ok(Original { key, headers: headers(parts, |key| label_of(found, key))? })
}

/// Reads the key and headers from a text of [`super::whole_text`], in which every part holds its value itself.
pub fn read_text(text: &str) -> Result<Original, Malformed> {
    if text.is_empty() {
        return Ok(Original::default());
    }
    let mut parts = exact::parse(text).ok_or(Malformed)?;
    let key = match parts.first() {
        Some(ExactPart { key: None, .. }) => Some(read_value(parts.remove(0).value, || None)?.ok_or(Malformed)?),
        _ => None,
    };
    Ok(Original { key, headers: headers(parts, |_| None)? })
}

/// The headers of a record that has no label `kafka.headers`: its plain labels, in the order of their names.
fn plain_headers(found: &HashMap<String, String>) -> Vec<Header> {
    let mut headers: Vec<Header> = found
        .iter()
        .filter(|(name, _)| !is_reserved(name))
        .map(|(name, value)| Header {
            key: Bytes::copy_from_slice(name.as_bytes()),
            value: Some(Bytes::copy_from_slice(value.as_bytes())),
        })
        .collect();
    headers.sort_by(|one, other| one.key.cmp(&other.key));
    headers
}

fn headers<'a>(parts: Vec<ExactPart>, label: impl Fn(&[u8]) -> Option<&'a String>) -> Result<Vec<Header>, Malformed> {
    let header = |ExactPart { key, value }| {
        let key: Vec<u8> = key.ok_or(Malformed)?;
        let value = read_value(value, || label(&key))?;
        Ok(Header { key: key.into(), value })
    };
    parts.into_iter().map(header).collect()
}

fn read_value<'a>(
    value: ExactValue<Vec<u8>>,
    label: impl FnOnce() -> Option<&'a String>,
) -> Result<Option<Bytes>, Malformed> {
    Ok(match value {
        ExactValue::Null => None,
        ExactValue::Bytes(bytes) => Some(bytes.into()),
        ExactValue::Label => Some(Bytes::copy_from_slice(label().ok_or(Malformed)?.as_bytes())),
        ExactValue::EncodedLabel => Some(decoded(label().ok_or(Malformed)?).ok_or(Malformed)?.into()),
    })
}

/// The label of the header with this key. Its name is looked for both with and without capitals, because
/// `labels.lowercase` may have had either value when the record was written.
fn label_of<'a>(found: &'a HashMap<String, String>, key: &[u8]) -> Option<&'a String> {
    found.get(&*label_name(key, false)).or_else(|| found.get(&*label_name(key, true)))
}
