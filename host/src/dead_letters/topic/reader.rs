//! Reads a dead-letter topic for a replay, and remembers in a consumer group of its own what is done with.
//!
//! Guarantees: every committed letter that was in the topic when it was opened, and isn't done with, is read once, save
//! for those behind a transaction that was open then: a host that was killed may leave one for 20 s, and the next replay
//! reads them; no group is joined; an offset is committed only when all before it are done with, and the done ones behind
//! it are noted beside it, as far as there is room.

use std::time::Duration;

use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::config;
use crate::dead_letters::replay::Done;
use crate::kafka::check::{self, CheckError, told};
use crate::kafka::client::ask;
use crate::kafka::message::input_record;
use crate::kafka::scan::Reading;
use crate::kafka::start_offset as start;
use crate::record::{InputRecord, TopicPartition};

const BROKER_TIMEOUT: Duration = Duration::from_secs(10);
/// Behind the sink's group.
const GROUP: &str = ".replay";

pub struct Letters {
    reading: Reading,
    topic: String,
    partitions: Vec<Partition>,
    /// The one that is being read, and whether it was begun.
    at: usize,
    assigned: bool,
}

struct Partition {
    source: TopicPartition,
    done: Done,
    /// The next offset to read, and where to stop.
    next: u64,
    end: u64,
}

/// A part of one partition.
pub struct Read {
    pub partition: u32,
    pub records: Vec<InputRecord>,
}

impl Letters {
    pub fn open(config: &config::Kafka, topic: &str) -> Result<Self, CheckError> {
        let failed = |reason: String| CheckError::Letters { topic: topic.to_owned(), reason };
        let count = check::topic(config, topic)?.map_err(|error| failed(error.to_string()))?.partitions;
        let mut client = crate::kafka::client::client_config(config);
        client
            .set("group.id", format!("{}{GROUP}", config.group))
            .set("isolation.level", "read_committed")
            .set("allow.auto.create.topics", "false");
        let reading = Reading::new(&client).map_err(|error| CheckError::Property(told(&error)))?;
        let mut letters = Self { reading, topic: topic.to_owned(), partitions: Vec::new(), at: 0, assigned: false };
        letters.partitions = letters.find(count).map_err(|error| failed(told(&error)))?;
        Ok(letters)
    }

    /// The next letters that aren't done with, all of one partition, as many as fit into both bounds, and at least one;
    /// `None`: there are no more.
    pub fn page(&mut self, most: usize, most_bytes: usize) -> Result<Option<Read>, CheckError> {
        let failed = |reason: String| CheckError::Letters { topic: self.topic.clone(), reason };
        while let Some(partition) = self.partitions.get_mut(self.at) {
            if !self.assigned {
                let (number, from) = (partition.source.partition.cast_signed(), partition.next.cast_signed());
                let assigned = self.reading.assign(&self.topic, number, Offset::Offset(from));
                assigned.map_err(|error| failed(told(&error)))?;
                self.assigned = true;
            }
            let records = read(&mut self.reading, partition, most, most_bytes).map_err(failed)?;
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
    pub fn done(&mut self, partition: u32, offsets: impl Iterator<Item = u64>) -> Result<(), CheckError> {
        let found = self.partitions.iter_mut().find(|found| found.source.partition == partition);
        let Some(Partition { source, done, .. }) = found else { return Ok(()) };
        offsets.for_each(|offset| done.add(offset..offset.saturating_add(1)));
        commit(&self.reading, source, done)
            .map_err(|error| CheckError::Letters { topic: self.topic.clone(), reason: told(&error) })
    }

    fn find(&self, count: usize) -> KafkaResult<Vec<Partition>> {
        let mut asked = TopicPartitionList::new();
        let numbers = 0..i32::try_from(count).unwrap_or(i32::MAX);
        for number in numbers.clone() {
            asked.add_partition(&self.topic, number);
        }
        let committed = ask(|| self.reading.consumer.committed_offsets(asked.clone(), BROKER_TIMEOUT))?;
        let mut partitions = Vec::new();
        for number in numbers {
            let (low, high) = ask(|| self.reading.consumer.fetch_watermarks(&self.topic, number, BROKER_TIMEOUT))?;
            let (low, end) = (low.max(0).cast_unsigned(), high.max(0).cast_unsigned());
            let done = match committed.find_partition(&self.topic, number) {
                Some(found) if let Some(position) = start::committed(found.offset()) => {
                    let mut done = Done::read(position, found.metadata());
                    done.add(0..low);
                    done
                }
                _ => Done::read(low, ""),
            };
            let source = TopicPartition { topic: self.topic.as_str().into(), partition: number.cast_unsigned() };
            partitions.push(Partition { source, next: done.position(), done, end });
        }
        Ok(partitions)
    }
}

/// Reads on until a page is full, or to the end of the partition.
fn read(
    reading: &mut Reading,
    partition: &mut Partition,
    most: usize,
    most_bytes: usize,
) -> Result<Vec<InputRecord>, String> {
    let Partition { source, done, next, end } = partition;
    let (mut records, mut bytes) = (Vec::new(), 0);
    while *next < *end && records.len() < most && bytes < most_bytes {
        let mut at = *end;
        if let Some(message) = reading.next()? {
            // One whose headers can't be parsed wasn't written by a sink, and is told as no letter.
            let (record, _) = input_record(&message, source);
            at = record.offset;
            if at < *end && !done.contains(at) {
                bytes += record.size();
                records.push(record);
            }
        }
        // What transactions and compaction leave holds no letters.
        done.add(*next..at.min(*end));
        *next = at.saturating_add(1).min(*end);
    }
    Ok(records)
}

fn commit(reading: &Reading, source: &TopicPartition, done: &Done) -> KafkaResult<()> {
    let mut list = TopicPartitionList::new();
    let mut element = list.add_partition(&source.topic, source.partition.cast_signed());
    element.set_offset(Offset::Offset(done.position().cast_signed()))?;
    element.set_metadata(done.metadata());
    ask(|| reading.consumer.commit(&list, CommitMode::Sync))
}
