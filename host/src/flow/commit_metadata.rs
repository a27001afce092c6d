//! The text that is committed to Kafka beside an offset: what the next owner of the partition has to know.
//!
//! The text is a list of parts, `name=value`, separated by spaces, for example
//! `store=1000-1050 durable=4990 letters=30@dead naming=topic`. A host of another version may have written it.
//!
//! Guarantees: reading what [`CommitMetadata`] displays gives an equal value, unless it has more replayed ranges than fit
//! into [`MAX_BYTES`], of which the last are left out; parts that this version doesn't know are kept; text that somebody
//! else committed is kept as unknown parts and means nothing. A plain value without I/O.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use super::crash_risk::CrashRisks;
use super::range_set::RangeSet;
use super::store_start::Started;
use crate::record::TopicId;

/// Kafka's brokers take this many bytes beside a committed offset, unless `offset.metadata.max.bytes` says otherwise.
pub const MAX_BYTES: usize = 4096;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommitMetadata {
    /// When the store was started, as it was when the offset was committed.
    pub store_start: Option<Started>,
    /// All records below this offset had been acknowledged when the store was last known to run with that start. After a
    /// crash of the store, its open blocks may have lost records from a little below this offset on.
    pub durable: Option<u64>,
    /// The present owner re-reads what was read before, up to this offset, and the next owner goes on with it.
    pub reread_until: Option<u64>,
    /// How many offsets before `durable` the owner that committed it would have gone back. The next owner goes back as far at
    /// least, because `durable` may be the lowest offset at risk with this margin added.
    pub margin: Option<u64>,
    /// Records below this offset are compared with what the store has, bytes included: they may have been written, and
    /// harmed. An owner that was killed may have written further than anybody read since, up to where the topic ended.
    pub compare_below: Option<u64>,
    /// What earlier owners and the present one wrote to blocks that the store may still have open, where the partition's records go to
    /// several entries.
    pub risks: CrashRisks,
    /// Requests of an owner that was killed may still arrive at the store.
    pub late: Option<LateRequests>,
    /// Where the dead letters of records that aren't committed begin.
    pub dead_letters: Option<DeadLetterIndex>,
    /// Offsets above the committed one that a replay has finished.
    pub replayed: RangeSet,
    /// The topic's id: a topic that was deleted and created again has another one.
    pub topic_id: Option<TopicId>,
    /// The leader epoch of Kafka under which the last record before the offset was written: a log that was truncated below
    /// the offset has no such record any more.
    pub leader_epoch: Option<u32>,
    /// How the entries of the partition are named.
    pub naming: Option<EntryNaming>,
    /// Parts that this version doesn't know.
    pub unknown: Vec<String>,
}

/// An owner of the partition was killed, and another one took its place at once. What the first one sent may be on its
/// way, and harm what the second one writes. When no more of it can come, the partition is re-read and compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LateRequests {
    /// Everything below this offset was written before.
    pub from: u64,
    /// After this moment no more of them come, in milliseconds since the Unix epoch.
    pub until_ms: u64,
}

/// An offset in the dead-letter topic below which no dead letter of an uncommitted record stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetterIndex {
    /// The dead-letter topic.
    pub topic: String,
    /// The offset in its partition.
    pub offset: u64,
}

/// Whether the default entry names of a partition end in its number. A partition keeps its names when its topic grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryNaming {
    /// The topic had one partition when its first record was read: `camera`.
    Topic,
    /// The topic had several partitions: `camera/0`.
    TopicAndPartition,
}

impl EntryNaming {
    /// The naming of a partition that is read for the first time.
    pub fn for_topic_with(partitions: usize) -> Self {
        if partitions <= 1 { Self::Topic } else { Self::TopicAndPartition }
    }
}

impl fmt::Display for CommitMetadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        parts.extend(self.store_start.map(|start| format!("store={start}")));
        parts.extend(self.durable.map(|offset| format!("durable={offset}")));
        parts.extend(self.margin.map(|offsets| format!("margin={offsets}")));
        parts.extend(self.reread_until.map(|offset| format!("reread={offset}")));
        parts.extend(self.compare_below.map(|offset| format!("compare={offset}")));
        parts.extend((!self.risks.is_empty()).then(|| format!("risk={}", self.risks)));
        parts.extend(self.late.map(|late| format!("late={}@{}", late.from, late.until_ms)));
        parts.extend(self.dead_letters.as_ref().map(|index| format!("letters={}@{}", index.offset, index.topic)));
        parts.extend(self.topic_id.map(|id| format!("topic={id}")));
        parts.extend(self.leader_epoch.map(|epoch| format!("epoch={epoch}")));
        parts.extend(self.naming.map(|naming| {
            let naming = match naming {
                EntryNaming::Topic => "topic",
                EntryNaming::TopicAndPartition => "partition",
            };
            format!("naming={naming}")
        }));
        parts.extend(self.unknown.iter().cloned());
        let length: usize = parts.iter().map(|part| part.len() + 1).sum();
        let replayed = displayed(&self.replayed, MAX_BYTES.saturating_sub(length));
        parts.extend((!replayed.is_empty()).then_some(replayed));
        f.write_str(&parts.join(" "))
    }
}

/// As many of the first ranges as fit.
fn displayed(replayed: &RangeSet, max_bytes: usize) -> String {
    let mut text = String::new();
    for range in replayed.ranges() {
        let separator = if text.is_empty() { "done=" } else { "," };
        let next = format!("{separator}{}-{}", range.start, range.end.saturating_sub(1));
        if text.len() + next.len() > max_bytes {
            break;
        }
        text += &next;
    }
    text
}

impl FromStr for CommitMetadata {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        let mut metadata = Self::default();
        for part in text.split(' ').filter(|part| !part.is_empty()) {
            if metadata.take(part).is_none() {
                metadata.unknown.push(part.to_owned());
            }
        }
        Ok(metadata)
    }
}

impl CommitMetadata {
    /// Reads what was committed.
    pub fn read(text: &str) -> Self {
        let Ok(metadata) = text.parse();
        metadata
    }

    /// `None`: this part isn't known, or its value can't be read.
    fn take(&mut self, part: &str) -> Option<()> {
        let (name, value) = part.split_once('=')?;
        match name {
            "store" => self.store_start = Some(value.parse().ok()?),
            "durable" => self.durable = Some(value.parse().ok()?),
            "margin" => self.margin = Some(value.parse().ok()?),
            "reread" => self.reread_until = Some(value.parse().ok()?),
            "compare" => self.compare_below = Some(value.parse().ok()?),
            "risk" => self.risks = value.parse().ok()?,
            "late" => {
                let (from, until) = value.split_once('@')?;
                self.late = Some(LateRequests { from: from.parse().ok()?, until_ms: until.parse().ok()? });
            }
            "letters" => {
                let (offset, topic) = value.split_once('@')?;
                self.dead_letters = Some(DeadLetterIndex { topic: topic.to_owned(), offset: offset.parse().ok()? });
            }
            "topic" => self.topic_id = Some(value.parse().ok()?),
            "epoch" => self.leader_epoch = Some(value.parse().ok()?),
            "naming" => {
                self.naming = Some(match value {
                    "topic" => EntryNaming::Topic,
                    "partition" => EntryNaming::TopicAndPartition,
                    _ => return None,
                });
            }
            "done" => self.replayed = ranges(value)?,
            _ => return None,
        }
        Some(())
    }
}

fn ranges(text: &str) -> Option<RangeSet> {
    let mut set = RangeSet::default();
    for range in text.split(',') {
        let (first, last) = range.split_once('-')?;
        let (first, last) = (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?);
        set.insert(first..last.saturating_add(1));
    }
    Some(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> CommitMetadata {
        let mut replayed = RangeSet::default();
        replayed.insert(7..9);
        replayed.insert(20..21);
        CommitMetadata {
            store_start: Some(Started { from: 1000, to: 1050 }),
            durable: Some(4990),
            margin: Some(256),
            reread_until: Some(5500),
            compare_below: Some(6000),
            risks: "30@1600,4000@1700".parse().unwrap(),
            late: Some(LateRequests { from: 4000, until_ms: 1700 }),
            dead_letters: Some(DeadLetterIndex { topic: "dead".into(), offset: 30 }),
            replayed,
            topic_id: TopicId::from_halves(0, 1),
            leader_epoch: Some(7),
            naming: Some(EntryNaming::Topic),
            unknown: vec!["later=1".into()],
        }
    }

    #[test]
    fn it_is_read_as_it_was_written() {
        let text = "store=1000-1050 durable=4990 margin=256 reread=5500 compare=6000 risk=30@1600,4000@1700 late=4000@1700 \
                    letters=30@dead topic=AAAAAAAAAAAAAAAAAAAAAQ epoch=7 naming=topic later=1 done=7-8,20-20";
        assert_eq!(full().to_string(), text);
        assert_eq!(CommitMetadata::read(text), full());
        assert_eq!(CommitMetadata::default().to_string(), "");
    }

    #[test]
    fn what_somebody_else_committed_means_nothing_and_is_kept() {
        for text in [
            "store=x",
            "hello world",
            "done=9",
            "naming=other",
            "topic=a",
            "letters=1",
            "late=4",
            "risk=4",
            "=",
            "durable=-1",
            "epoch=-1",
        ] {
            let metadata = CommitMetadata::read(text);
            let expected =
                CommitMetadata { unknown: text.split(' ').map(String::from).collect(), ..CommitMetadata::default() };
            assert_eq!(metadata, expected, "{text:?}");
            assert_eq!(metadata.to_string(), text);
        }
    }

    #[test]
    fn ranges_that_do_not_fit_are_left_out() {
        let mut metadata = full();
        (1..5_000).for_each(|n| metadata.replayed.insert(n * 2..n * 2 + 1));
        let text = metadata.to_string();
        assert!(text.len() <= MAX_BYTES, "{}", text.len());
        let read = CommitMetadata::read(&text);
        assert!(read.replayed.contains(2) && !read.replayed.contains(9_998));
        assert_eq!((read.durable, read.dead_letters), (metadata.durable, metadata.dead_letters));
    }
}
