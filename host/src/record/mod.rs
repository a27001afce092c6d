//! The values that travel through the pipeline: input records (Kafka side), output records (ReductStore side) and the
//! identity that ties the two together. Plain data: nothing here does I/O.
//!
//! Guarantees: an [`InputRecord`] is never changed after it was read; an [`OutputRecord`] keeps what the plugins decided
//! as changes on top of its input, so that a record no plugin touched costs nothing to carry.

pub mod content_type;
pub mod entry_name;
mod identity;
pub mod labels;
pub mod text;
mod topic_id;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

pub use self::identity::{Identity, IdentityMap};
pub use self::topic_id::{NoTopicId, TopicId};

/// A partition of a topic: the unit of order, of assignment and of commit.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition's number.
    pub partition: u32,
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// A Kafka header as it was received. Keys are bytes: Kafka doesn't promise UTF-8, and they may repeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The header's key; Kafka demands UTF-8, and some producers send other bytes.
    pub key: Bytes,
    /// The header's value, which may be null.
    pub value: Option<Bytes>,
}

/// One record as Kafka delivered it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputRecord {
    /// The partition that it comes from.
    pub source: TopicPartition,
    /// The topic's id; `None`: not known.
    pub topic_id: Option<TopicId>,
    /// The offset in the partition.
    pub offset: u64,
    /// Milliseconds since the Unix epoch; `None` when the record carries no timestamp.
    pub timestamp_ms: Option<u64>,
    /// The key, if the record has one.
    pub key: Option<Bytes>,
    /// The headers in Kafka's order.
    pub headers: Vec<Header>,
    /// `None` is a tombstone (a null value), which is not the same as an empty payload.
    pub payload: Option<Bytes>,
}

impl InputRecord {
    /// What this record occupies in memory, in bytes, for the in-flight budget.
    pub fn size(&self) -> usize {
        let headers: usize = self.headers.iter().map(|h| h.key.len() + h.value.as_ref().map_or(0, Bytes::len)).sum();
        size_of::<Self>()
            + self.headers.len() * size_of::<Header>()
            + headers
            + self.key.as_ref().map_or(0, Bytes::len)
            + self.payload.as_ref().map_or(0, Bytes::len)
    }

    /// The time that an output of the record has where no plugin chooses one, in microseconds since the Unix epoch: the
    /// record's own. A record without a timestamp has its offset for one. Outputs that share a time are written one
    /// microsecond after the other.
    pub fn default_timestamp_us(&self) -> u64 {
        match self.timestamp_ms {
            Some(ms) => ms.saturating_mul(1000),
            None => self.offset,
        }
    }
}

/// A plugin's wish for one label: `Some` sets it, `None` removes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelChange {
    /// The label's name.
    pub name: String,
    /// The label's value; `None` removes it.
    pub value: Option<String>,
}

impl LabelChange {
    /// The bytes of its texts.
    pub fn size(&self) -> usize {
        self.name.len() + self.value.as_ref().map_or(0, String::len)
    }
}

/// Label changes in the order they were made. What one plugin made is shared by all parts of a later split.
#[derive(Debug, Clone, Default)]
pub struct LabelChanges(Vec<Arc<[LabelChange]>>);

impl LabelChanges {
    /// Puts one plugin's changes behind those that are there.
    pub fn add(&mut self, changes: Vec<LabelChange>) {
        if !changes.is_empty() {
            self.0.push(changes.into());
        }
    }

    /// Each change, in order.
    pub fn iter(&self) -> impl Iterator<Item = &LabelChange> {
        self.0.iter().flat_map(|changes| changes.iter())
    }

    /// How many changes there are.
    pub fn len(&self) -> usize {
        self.0.iter().map(|changes| changes.len()).sum()
    }

    /// Whether no label was changed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes that these changes take in memory beside those that are `known`, which are noted there.
    fn bytes_beside(&self, known: &mut Vec<*const LabelChange>) -> usize {
        let mut bytes = 0;
        for changes in &self.0 {
            // Parts of one split follow each other, so what they share was noted last.
            if !known.iter().rev().take(SHARED_BY_PARTS).any(|one| *one == changes.as_ptr()) {
                known.push(changes.as_ptr());
                bytes += changes.iter().map(|change| size_of::<LabelChange>() + change.size()).sum::<usize>();
            }
        }
        bytes
    }
}

/// How many label changes of earlier plugins are looked for among those of the parts before.
const SHARED_BY_PARTS: usize = 16;

impl PartialEq<Vec<LabelChange>> for LabelChanges {
    fn eq(&self, other: &Vec<LabelChange>) -> bool {
        self.iter().eq(other)
    }
}

impl From<Vec<LabelChange>> for LabelChanges {
    fn from(changes: Vec<LabelChange>) -> Self {
        let mut all = Self::default();
        all.add(changes);
        all
    }
}

/// One record on its way to ReductStore: its input, and what the chain changed.
#[derive(Debug, Clone)]
pub struct OutputRecord {
    /// The Kafka record it was made of.
    pub input: Arc<InputRecord>,
    /// The output's place in a split; `None` for a record that wasn't split.
    pub index: Option<u32>,
    /// The entry's name as a plugin chose it, before the configured template; `None`: derived from the topic.
    pub entry: Option<String>,
    /// Microseconds since the Unix epoch as a plugin chose them; `None`: derived from the input.
    pub timestamp_us: Option<u64>,
    /// Label changes of the plugins in the order they were made, on top of the labels made from the headers.
    pub labels: LabelChanges,
    /// The content type, if one was chosen.
    pub content_type: Option<String>,
    /// A payload that a plugin replaced; `None`: the input's.
    pub payload: Option<Bytes>,
    /// The plugins that decided on this record, `name@digest` joined by `+`; one string shared by all of a version.
    pub handled_by: Option<Arc<str>>,
    /// Why this is a dead letter; `None` on every other record.
    pub rejection: Option<Arc<Rejection>>,
}

/// Why a record became a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Why, in a sentence.
    pub reason: String,
    /// The plugin that failed on it and its version, `DIGEST:CONFIG`; `None` where it was the sink.
    pub plugin: Option<(Arc<str>, String)>,
}

impl OutputRecord {
    /// The record as it is without plugins.
    pub fn unchanged(input: Arc<InputRecord>) -> Self {
        Self {
            input,
            index: None,
            entry: None,
            timestamp_us: None,
            labels: LabelChanges::default(),
            content_type: None,
            payload: None,
            handled_by: None,
            rejection: None,
        }
    }

    /// The dead letter of this record, or of this part of a split: the record as it came, without what plugins made of it.
    pub fn rejected(&self, rejection: Rejection) -> Self {
        Self { index: self.index, rejection: Some(Arc::new(rejection)), ..Self::unchanged(Arc::clone(&self.input)) }
    }

    /// The content type that a plugin chose, or else that of the record's header, where either says one.
    pub fn content_type(&self) -> Option<&str> {
        self.content_type.as_deref().or_else(|| content_type::of_headers(&self.input))
    }

    /// Which Kafka record it was made of, and the position within a split.
    pub fn identity(&self) -> Identity {
        let InputRecord { source, topic_id, offset, .. } = &*self.input;
        Identity { source: source.clone(), topic_id: *topic_id, offset: *offset, index: self.index }
    }

    /// What the plugins' changes of one record's outputs occupy in memory, in bytes, for the in-flight budget. What the
    /// parts of a split share counts once.
    pub fn changed_bytes(outputs: &[Self]) -> usize {
        let mut known = Vec::new();
        let mut bytes = 0;
        for output in outputs {
            let texts = [&output.entry, &output.content_type].into_iter().flatten().map(String::len).sum::<usize>();
            let labels = output.labels.bytes_beside(&mut known);
            bytes += output.payload.as_ref().map_or(0, Bytes::len) + texts + labels;
        }
        bytes
    }

    /// The bytes to write: a tombstone has none.
    pub fn payload(&self) -> Bytes {
        self.payload.clone().or_else(|| self.input.payload.clone()).unwrap_or_default()
    }
}
