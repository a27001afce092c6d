//! A look at what topics hold: reads records without being a member of the group.
//!
//! Guarantees: nothing is committed and no group is joined, so that no other reader is disturbed; no topic is created;
//! what can't be read of a record is told with it; what begins where a group would has the topics' ids, as the group's records have.

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use thiserror::Error;

use super::check::{self, TopicError};
use super::error::KafkaCheckError;
use super::scan::{Committed, ScanError, ScanReader, Scanned};
use super::start::{self, Facts};
use crate::config::Kafka;
use crate::record::{InputRecord, TopicId, TopicPartition};

/// Where to begin, in each partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// Where a host of the configured group would: at the committed offset, or else by the policy.
    Group,
    /// With the oldest record that the topic still has.
    Earliest,
    /// At the end: only what comes from now on.
    Latest,
    /// At this offset, or the first one after it that is there.
    Offset(u64),
}

/// Where to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// At the ends that the partitions had when the look began.
    End,
    /// Never: go on with what comes.
    Stopped,
}

/// Why nothing could be read.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "each message says it")]
pub enum PeekError {
    #[error(transparent)]
    Kafka(#[from] KafkaCheckError),
    #[error("topic {wanted}: {error}")]
    Topic { wanted: String, error: TopicError },
    #[error("{0}")]
    Start(String),
    #[error(transparent)]
    Scan(#[from] ScanError),
}

/// One record, how many partitions its topic has, and what of it couldn't be read.
#[derive(Debug)]
pub struct PeekedRecord {
    /// The record.
    pub record: InputRecord,
    /// How many partitions its topic has.
    pub partitions: usize,
    /// What of the record couldn't be read.
    pub problem: Option<String>,
}

/// Shows the records of all configured topics to `see`, those of a partition in order, until it breaks off.
pub fn peek(
    config: &Kafka,
    from: From,
    until: Until,
    see: &mut dyn FnMut(PeekedRecord) -> ControlFlow<()>,
) -> Result<(), PeekError> {
    let mut counts = BTreeMap::new();
    for topic in check::check(config)? {
        let found = topic.found.map_err(|error| PeekError::Topic { wanted: topic.wanted, error })?;
        counts.extend(found.into_iter().map(|topic| (topic.name, u32::try_from(topic.partitions).unwrap_or(u32::MAX))));
    }
    let mut reader = ScanReader::new(config)?;
    let ids = if from == From::Group { topic_ids(&reader, counts.keys())? } else { BTreeMap::new() };
    let ranges = ranges(&reader, config, from, until, &counts, &ids)?;
    reader.assign(ranges)?;
    let mut shown = |Scanned { record, problem }: Scanned| {
        let partitions = counts.get(&*record.source.topic).map_or(1, |count| *count as usize);
        let topic_id = ids.get(&*record.source.topic).copied();
        see(PeekedRecord { record: InputRecord { topic_id, ..record }, partitions, problem })
    };
    loop {
        let scanned = match until {
            Until::End => match reader.read_next()? {
                Some(scanned) => scanned,
                None => return Ok(()),
            },
            Until::Stopped => match reader.poll()? {
                Some(scanned) => scanned,
                None => continue,
            },
        };
        if shown(scanned).is_break() {
            return Ok(());
        }
    }
}

/// The ids of those topics that have one.
fn topic_ids<'a>(
    reader: &ScanReader,
    topics: impl Iterator<Item = &'a String>,
) -> Result<BTreeMap<String, TopicId>, PeekError> {
    let mut ids = BTreeMap::new();
    for topic in topics {
        ids.extend(reader.topic_id(topic)?.map(|id| (topic.clone(), id)));
    }
    Ok(ids)
}

/// Where each partition is read from, and to where.
fn ranges(
    reader: &ScanReader,
    config: &Kafka,
    from: From,
    until: Until,
    counts: &BTreeMap<String, u32>,
    ids: &BTreeMap<String, TopicId>,
) -> Result<Vec<(TopicPartition, Range<u64>)>, PeekError> {
    let mut ranges = Vec::new();
    for (topic, count) in counts {
        let name: Arc<str> = topic.as_str().into();
        let sources: Vec<_> =
            (0..*count).map(|partition| TopicPartition { topic: Arc::clone(&name), partition }).collect();
        let committed = if from == From::Group { reader.committed(topic, *count)? } else { Vec::new() };
        let topic_id = ids.get(topic).copied();
        let partitions = usize::try_from(*count).unwrap_or(usize::MAX);
        let mut points = committed.into_iter().map(Committed::point);
        for (source, Range { start: low, end: high }) in sources.iter().zip(reader.bounds_of(&sources)?) {
            let known = points.next().flatten();
            let begin = match from {
                From::Group => {
                    let facts = Facts { topic_id, partitions, low, high };
                    start::choose_begin(source, known, &facts, config.start, false).map_err(PeekError::Start)?.offset
                }
                From::Earliest => low,
                From::Latest => high,
                From::Offset(offset) => offset.clamp(low, high),
            };
            ranges.push((source.clone(), begin..if until == Until::End { high } else { u64::MAX }));
        }
    }
    Ok(ranges)
}
