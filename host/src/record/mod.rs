//! The values that pass through the pipeline: input records (Kafka side), output records (ReductStore side), and the
//! identity that connects an output to its input. Plain values, no I/O.
//!
//! Guarantees: an [`InputRecord`] never changes after it was read; an [`OutputRecord`] holds what the plugins decided
//! as changes to its input, so that a record that no plugin changed is not copied.

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

/// A Kafka header as it was received. A record may have several headers with the same key.
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
    /// The partition that it was read from.
    pub source: TopicPartition,
    /// The topic's id; `None`: it isn't known.
    pub topic_id: Option<TopicId>,
    /// The offset in the partition.
    pub offset: u64,
    /// The record's timestamp in milliseconds since the Unix epoch; `None`: the record has no timestamp.
    pub timestamp_ms: Option<u64>,
    /// The key; `None`: Kafka's null.
    pub key: Option<Bytes>,
    /// The headers in the order in which the producer set them.
    pub headers: Vec<Header>,
    /// The value; `None`: the record is a tombstone (Kafka's null), which is not the same as an empty payload.
    pub payload: Option<Bytes>,
}

impl InputRecord {
    /// How much memory this record takes, in bytes, for the budget of records in flight.
    pub fn size(&self) -> usize {
        let headers: usize = self.headers.iter().map(|h| h.key.len() + h.value.as_ref().map_or(0, Bytes::len)).sum();
        size_of::<Self>()
            + self.headers.len() * size_of::<Header>()
            + headers
            + self.key.as_ref().map_or(0, Bytes::len)
            + self.payload.as_ref().map_or(0, Bytes::len)
    }

    /// The timestamp of the record's outputs if no plugin chooses another one, in microseconds since the Unix epoch:
    /// the record's own timestamp, or its offset if it has none. The sink writes outputs with the same timestamp one
    /// microsecond after the other.
    pub fn default_timestamp_us(&self) -> u64 {
        match self.timestamp_ms {
            Some(ms) => ms.saturating_mul(1000),
            None => self.offset,
        }
    }
}

/// How a plugin changes one label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelChange {
    /// The label's name.
    pub name: String,
    /// The label's new value; `None`: the label is removed.
    pub value: Option<String>,
}

impl LabelChange {
    /// How many bytes the name and the value have together.
    pub fn size(&self) -> usize {
        self.name.len() + self.value.as_ref().map_or(0, String::len)
    }
}

/// Label changes in the order in which they were made. If a later plugin splits the record, all parts share the changes
/// of the earlier plugins.
#[derive(Debug, Clone, Default)]
pub struct LabelChanges(Vec<Arc<[LabelChange]>>);

impl LabelChanges {
    /// Appends the changes that one plugin made.
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

    /// Whether there is no change.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How much memory these changes take, in bytes, without those that are in `known`. The changes are added to
    /// `known`.
    fn bytes_beside(&self, known: &mut Vec<*const LabelChange>) -> usize {
        let mut bytes = 0;
        for changes in &self.0 {
            // The parts of a split follow each other, so the changes that they share are the last ones in `known`.
            if !known.iter().rev().take(SHARED_BY_PARTS).any(|one| *one == changes.as_ptr()) {
                known.push(changes.as_ptr());
                bytes += changes.iter().map(|change| size_of::<LabelChange>() + change.size()).sum::<usize>();
            }
        }
        bytes
    }
}

/// How far back in `known` shared label changes are looked for: more plugins than this rarely change labels before a
/// split.
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

/// A record on its way to ReductStore: its input, and what the chain changed.
#[derive(Debug, Clone)]
pub struct OutputRecord {
    /// The Kafka record that it was made of.
    pub input: Arc<InputRecord>,
    /// The output's position in a split, counted from 0; `None`: the record wasn't split.
    pub index: Option<u32>,
    /// The entry's name that a plugin chose, to which the configured template is still applied; `None`: no plugin chose
    /// one, and the topic names the entry.
    pub entry: Option<String>,
    /// The timestamp that a plugin chose, in microseconds since the Unix epoch; `None`:
    /// [`InputRecord::default_timestamp_us`] holds.
    pub timestamp_us: Option<u64>,
    /// The plugins' changes to the labels that were made of the headers.
    pub labels: LabelChanges,
    /// The content type that a plugin chose; `None`: no plugin chose one.
    pub content_type: Option<String>,
    /// The payload that a plugin put in the place of the input's; `None`: the input's payload is written.
    pub payload: Option<Bytes>,
    /// The plugins that decided about this record, as `name@digest` joined by `+`; `None`: only the builtin one did.
    /// All records with the same text share it.
    pub handled_by: Option<Arc<str>>,
    /// Why this record is a dead letter; `None`: it isn't one.
    pub rejection: Option<Arc<Rejection>>,
}

/// Why a record became a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Why it became one, in a sentence.
    pub reason: String,
    /// The plugin that failed on it, and that plugin's version as `DIGEST:CONFIG`; `None`: the sink could not write it.
    pub plugin: Option<(Arc<str>, String)>,
}

impl OutputRecord {
    /// The output of a record that no plugin changed.
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

    /// The dead letter of this record, or of this part of a split: the record as Kafka delivered it, without the
    /// changes of the plugins.
    pub fn rejected(&self, rejection: Rejection) -> Self {
        Self { index: self.index, rejection: Some(Arc::new(rejection)), ..Self::unchanged(Arc::clone(&self.input)) }
    }

    /// The content type that a plugin chose, or else the one in the record's header; `None`: there is neither.
    pub fn content_type(&self) -> Option<&str> {
        self.content_type.as_deref().or_else(|| content_type::of_headers(&self.input))
    }

    /// Which Kafka record this output was made of, and its position within a split.
    pub fn identity(&self) -> Identity {
        let InputRecord { source, topic_id, offset, .. } = &*self.input;
        Identity { source: source.clone(), topic_id: *topic_id, offset: *offset, index: self.index }
    }

    /// How much memory the plugins' changes to one record's outputs take, in bytes, for the budget of records in
    /// flight. Changes that the parts of a split share count once.
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

    /// The payload to write; it is empty for a tombstone.
    pub fn payload(&self) -> Bytes {
        self.payload.clone().or_else(|| self.input.payload.clone()).unwrap_or_default()
    }
}
