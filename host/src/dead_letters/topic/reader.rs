//! Reads a dead-letter topic for a replay, and remembers in a consumer group of its own what is done with.
//!
//! Guarantees: every committed letter that was in the topic when it was opened, and isn't done with, is read once, save
//! for those behind a transaction that was open then: a host that was killed may leave one for 20 s, and the next replay
//! reads them; no group is joined; an offset is committed only when all before it are done with, and the done ones behind
//! it are noted beside it, as far as there is room.

use crate::config;
use crate::dead_letters::replay::DoneOffsets;
use crate::kafka::check;
use crate::kafka::error::KafkaCheckError;
use crate::kafka::scan::{ScanError, ScanReader};
use crate::record::{InputRecord, TopicPartition};

/// Behind the sink's group.
const GROUP: &str = ".replay";

/// Reads Kafka's topic of dead letters.
pub struct Letters {
    reader: ScanReader,
    topic: String,
    partitions: Vec<LetterPartition>,
    /// The one that is being read, and whether it was begun.
    at: usize,
    assigned: bool,
}

struct LetterPartition {
    source: TopicPartition,
    done: DoneOffsets,
    /// The next offset to read, and where to stop.
    next: u64,
    end: u64,
}

/// A part of one partition.
pub struct Read {
    /// The partition they come from.
    pub partition: u32,
    /// The dead letters as Kafka records.
    pub records: Vec<InputRecord>,
}

impl Letters {
    /// Connects, with the offsets that earlier replays committed.
    pub fn open(config: &config::Kafka, topic: &str) -> Result<Self, KafkaCheckError> {
        let failed = |reason: String| KafkaCheckError::Letters { topic: topic.to_owned(), reason };
        let count = check::topic(config, topic)?.map_err(|error| failed(error.to_string()))?.partitions;
        let reader = ScanReader::of_group(config, &format!("{}{GROUP}", config.group))?;
        let mut letters = Self { reader, topic: topic.to_owned(), partitions: Vec::new(), at: 0, assigned: false };
        letters.partitions = letters.find(u32::try_from(count).unwrap_or(u32::MAX)).map_err(|e| failed(e.reason))?;
        Ok(letters)
    }

    /// How many letters are left at most: offsets without a letter, such as those of transactions, count as well.
    pub fn left(&self) -> u64 {
        self.partitions.iter().map(|partition| partition.end.saturating_sub(partition.next)).sum()
    }

    /// The next letters that aren't done with, all of one partition, as many as fit into both bounds, and at least one;
    /// `None`: there are no more.
    pub fn page(&mut self, most: usize, most_bytes: usize) -> Result<Option<Read>, KafkaCheckError> {
        let failed = |reason: String| KafkaCheckError::Letters { topic: self.topic.clone(), reason };
        while let Some(partition) = self.partitions.get_mut(self.at) {
            if !self.assigned {
                let range = partition.next..partition.end;
                self.reader.assign([(partition.source.clone(), range)]).map_err(|error| failed(error.reason))?;
                self.assigned = true;
            }
            let records = read(&mut self.reader, partition, most, most_bytes).map_err(|error| failed(error.reason))?;
            let number = partition.source.partition;
            if partition.next >= partition.end {
                (self.at, self.assigned) = (self.at + 1, false);
            }
            if !records.is_empty() {
                return Ok(Some(Read { partition: number, records }));
            }
        }
        Ok(None)
    }

    /// These are done with, and won't be read by another replay.
    pub fn done(&mut self, partition: u32, offsets: impl Iterator<Item = u64>) -> Result<(), KafkaCheckError> {
        let found = self.partitions.iter_mut().find(|found| found.source.partition == partition);
        let Some(LetterPartition { source, done, .. }) = found else { return Ok(()) };
        offsets.for_each(|offset| done.add(offset..offset.saturating_add(1)));
        self.reader
            .commit(source, done.position(), &done.metadata())
            .map_err(|error| KafkaCheckError::Letters { topic: self.topic.clone(), reason: error.reason })
    }

    fn find(&self, count: u32) -> Result<Vec<LetterPartition>, ScanError> {
        let topic: std::sync::Arc<str> = self.topic.as_str().into();
        let source = |partition| TopicPartition { topic: topic.clone(), partition };
        let sources: Vec<TopicPartition> = (0..count).map(source).collect();
        let committed = self.reader.committed(&self.topic, count)?;
        let bounds = self.reader.bounds_of(&sources)?;
        let partitions = sources.into_iter().zip(committed).zip(bounds).map(|((source, committed), bounds)| {
            let done = match committed.position {
                Some(position) => {
                    let mut done = DoneOffsets::read(position, &committed.metadata);
                    done.add(0..bounds.start);
                    done
                }
                None => DoneOffsets::read(bounds.start, ""),
            };
            LetterPartition { source, next: done.position(), done, end: bounds.end }
        });
        Ok(partitions.collect())
    }
}

/// Reads on until a page is full, or to the end of the partition.
fn read(
    reader: &mut ScanReader,
    partition: &mut LetterPartition,
    most: usize,
    most_bytes: usize,
) -> Result<Vec<InputRecord>, ScanError> {
    let LetterPartition { done, next, end, .. } = partition;
    let (mut records, mut bytes) = (Vec::new(), 0);
    while *next < *end && records.len() < most && bytes < most_bytes {
        let mut at = *end;
        // A record whose headers can't be parsed wasn't written by a sink, and is reported as no dead letter.
        if let Some(scanned) = reader.read_next()? {
            at = scanned.record.offset;
            if !done.contains(at) {
                bytes += scanned.record.size();
                records.push(scanned.record);
            }
        }
        // What transactions and compaction leave holds no letters.
        done.add(*next..at.min(*end));
        *next = at.saturating_add(1).min(*end);
    }
    Ok(records)
}
