//! Reads partitions between two offsets, without being a member of a consumer group: the one way in which `check`,
//! `peek`, the dead letters' look-up and their replay read Kafka.
//!
//! Guarantees: every record that the isolation level shows is seen, those of one partition in order, from the first
//! offset of its range to the end of the range or to the partition's end, whichever comes first; where nothing comes for
//! [`SILENCE`], or something can't be read, reading fails and never just ends; nothing is committed unless its user does.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use thiserror::Error;

use super::admin::{self, Edge};
use super::client::{self, ANSWER, Reports, SILENCE, ask, told};
use super::error::KafkaCheckError;
use super::message::input_record;
use crate::config;
use crate::flow::{CommitMetadata, CommitPoint};
use crate::record::{InputRecord, TopicId, TopicPartition};

/// How long one poll waits for something to come.
const POLL: Duration = Duration::from_millis(20);

/// Why a partition can't be read.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
#[error("can't read {what}: {reason}")]
pub struct ScanError {
    /// The topic or partition.
    pub what: String,
    /// In librdkafka's words.
    pub reason: String,
    /// librdkafka's code, where there is one.
    pub code: Option<RDKafkaErrorCode>,
}

/// A record, and what of it couldn't be read, if anything.
#[derive(Debug)]
pub struct Scanned {
    /// The record.
    pub record: InputRecord,
    /// What is wrong with it, such as headers that can't be parsed.
    pub problem: Option<String>,
}

/// What a group has committed for a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The next offset to read; `None`: nothing was committed.
    pub position: Option<u64>,
    /// What was committed beside it.
    pub metadata: String,
}

impl Committed {
    /// As a host of the group reads it; `None`: nothing was committed.
    pub fn point(self) -> Option<CommitPoint> {
        let metadata = CommitMetadata::read(&self.metadata);
        self.position.map(|offset| CommitPoint { offset, metadata })
    }
}

/// What a reader of committed records sees of a partition.
#[derive(Debug)]
pub struct Readable {
    /// The offsets that it sees.
    pub committed: Range<u64>,
    /// Those behind them, which an open transaction hides.
    pub hidden: Range<u64>,
}

/// A client that reads.
pub struct ScanReader {
    /// In front of the consumer, so that the queues are dropped first.
    parts: Vec<ScannedPartition>,
    consumer: Arc<BaseConsumer<Reports>>,
    /// The partition that is asked first the next time, so that all get their turn.
    turn: usize,
}

/// A partition that is being read.
struct ScannedPartition {
    source: TopicPartition,
    queue: PartitionQueue<Reports>,
    /// The next offset.
    next: u64,
    /// Where to end; `u64::MAX`: never.
    end: u64,
    done: bool,
}

impl ScanReader {
    /// A reader that sees what a host with this configuration would see. It does not join the group.
    pub fn new(config: &config::Kafka) -> Result<Self, KafkaCheckError> {
        Ok(Self::with(client::reader_of_group(config, &config.group, None)?))
    }

    /// A reader that also sees records of transactions that are open or were aborted.
    pub fn of_uncommitted(config: &config::Kafka) -> Result<Self, KafkaCheckError> {
        Ok(Self::with(client::reader_of_group(config, &config.group, Some("read_uncommitted"))?))
    }

    /// A reader of committed records that can commit offsets of this group, which it does not join.
    pub fn of_group(config: &config::Kafka, group: &str) -> Result<Self, KafkaCheckError> {
        Ok(Self::with(client::reader_of_group(config, group, Some("read_committed"))?))
    }

    fn with(consumer: BaseConsumer<Reports>) -> Self {
        Self { parts: Vec::new(), consumer: Arc::new(consumer), turn: 0 }
    }

    /// The first offset of a partition and the next one after its last visible record.
    pub fn bounds(&self, source: &TopicPartition) -> Result<Range<u64>, ScanError> {
        Ok(self.edge(source, Edge::Begin)?..self.edge(source, Edge::End)?)
    }

    /// The first offset of a partition, and its end as it is now once no open transaction hides what stands before it.
    /// Where one still does after `patience`, the end is where that transaction begins.
    pub fn wait_for_transactions(&self, source: &TopicPartition, patience: Duration) -> Result<Readable, ScanError> {
        let end = self.edge(source, Edge::HighWatermark)?;
        let asked = Instant::now();
        loop {
            let committed = self.edge(source, Edge::End)?;
            if committed >= end || asked.elapsed() > patience {
                let committed = self.edge(source, Edge::Begin)?..committed.min(end);
                return Ok(Readable { hidden: committed.end..end, committed });
            }
            std::thread::sleep(POLL);
        }
    }

    /// The bounds of several partitions, in their order.
    pub fn bounds_of(&self, sources: &[TopicPartition]) -> Result<Vec<Range<u64>>, ScanError> {
        let begins = self.edges(sources, Edge::Begin)?;
        let ends = self.edges(sources, Edge::End)?;
        Ok(begins.into_iter().zip(ends).map(|(begin, end)| begin..end).collect())
    }

    fn edge(&self, source: &TopicPartition, edge: Edge) -> Result<u64, ScanError> {
        let edges = self.edges(std::slice::from_ref(source), edge)?;
        edges.first().copied().ok_or_else(|| ScanError::new(source, "the brokers do not answer for it".into(), None))
    }

    fn edges(&self, sources: &[TopicPartition], edge: Edge) -> Result<Vec<u64>, ScanError> {
        let started = Instant::now();
        loop {
            let answers = admin::offsets(self.consumer.client(), sources, edge, ANSWER);
            let answers =
                answers.map_err(|error| ScanError::new(&topics(sources), self.reason(error.reason), Some(error.code)));
            let edge = |answers: &HashMap<_, Result<u64, RDKafkaErrorCode>>, source: &TopicPartition| match answers
                .get(source)
            {
                Some(Ok(offset)) => Ok(*offset),
                Some(Err(code)) => Err(ScanError::new(source, code.to_string(), Some(*code))),
                None => Err(ScanError::new(source, "the brokers do not answer for it".into(), None)),
            };
            let edges = answers.and_then(|answers| sources.iter().map(|source| edge(&answers, source)).collect());
            let error = match edges {
                Ok(edges) => return Ok(edges),
                Err(error) => error,
            };
            // A leader may have moved a moment ago.
            if started.elapsed() > ANSWER || error.is_final() {
                return Err(error);
            }
            std::thread::sleep(POLL);
        }
    }

    /// librdkafka's own report says more than that a question was not answered.
    fn reason(&self, otherwise: String) -> String {
        self.consumer.poll(Duration::ZERO);
        self.consumer.context().last_reason().unwrap_or(otherwise)
    }

    /// What librdkafka said of the last error.
    pub(super) fn last_reason(&self) -> Option<String> {
        self.consumer.context().last_reason()
    }

    /// What the group has committed for each partition of a topic.
    pub fn committed(&self, topic: &str, partitions: u32) -> Result<Vec<Committed>, ScanError> {
        let mut list = TopicPartitionList::new();
        for partition in 0..partitions {
            list.add_partition(topic, partition.cast_signed());
        }
        let failed = |error: &KafkaError| ScanError::of(topic, error);
        let answer = ask(|| self.consumer.committed_offsets(list.clone(), ANSWER)).map_err(|error| failed(&error))?;
        let element = |partition: u32| {
            let Some(found) = answer.find_partition(topic, partition.cast_signed()) else {
                return Ok(Committed { position: None, metadata: String::new() });
            };
            found.error().map_err(|error| failed(&error))?;
            let position = match found.offset() {
                Offset::Offset(offset) => u64::try_from(offset).ok(),
                _ => None,
            };
            Ok(Committed { position, metadata: found.metadata().to_owned() })
        };
        (0..partitions).map(element).collect()
    }

    /// The topic's id; `None`: the brokers know no ids.
    pub fn topic_id(&self, topic: &str) -> Result<Option<TopicId>, ScanError> {
        match admin::topic_ids(&self.consumer, &[topic], ANSWER) {
            Ok(mut ids) => Ok(ids.remove(topic)),
            Err(error) if error.code == RDKafkaErrorCode::UnsupportedFeature => Ok(None),
            Err(error) => Err(ScanError::new(&topic, error.reason, Some(error.code))),
        }
    }

    /// Commits a position of the reader's group.
    pub fn commit(&self, source: &TopicPartition, position: u64, metadata: &str) -> Result<(), ScanError> {
        let failed = |error: KafkaError| ScanError::of(source, &error);
        let mut list = TopicPartitionList::new();
        let mut element = list.add_partition(&source.topic, source.partition.cast_signed());
        element.set_offset(Offset::Offset(position.cast_signed())).map_err(failed)?;
        element.set_metadata(metadata);
        ask(|| self.consumer.commit(&list, CommitMode::Sync)).map_err(failed)
    }

    /// Reads these partitions from now on, and no others. A range that ends at `u64::MAX` has no end.
    pub fn assign(&mut self, ranges: impl IntoIterator<Item = (TopicPartition, Range<u64>)>) -> Result<(), ScanError> {
        // A queue must be gone before the same partition is split off again.
        self.parts.clear();
        let mut list = TopicPartitionList::new();
        for (source, range) in ranges {
            let (topic, partition) = (&source.topic, source.partition.cast_signed());
            list.add_partition_offset(topic, partition, Offset::Offset(range.start.cast_signed()))
                .map_err(|error| ScanError::of(&source, &error))?;
            let queue = self.consumer.split_partition_queue(topic, partition);
            let queue = queue.ok_or_else(|| ScanError::new(&source, "it has no queue of its own".into(), None))?;
            let done = range.start >= range.end;
            self.parts.push(ScannedPartition { source, queue, next: range.start, end: range.end, done });
        }
        self.consumer.assign(&list).map_err(|error| ScanError::of(&"the partitions", &error))
    }

    /// The next record, waiting for it; `None`: everything was read. Fails when nothing comes for [`SILENCE`].
    pub fn read_next(&mut self) -> Result<Option<Scanned>, ScanError> {
        let asked = Instant::now();
        while !self.is_done() {
            if let Some(scanned) = self.poll()? {
                return Ok(Some(scanned));
            }
            if asked.elapsed() > SILENCE {
                let what = self.parts.iter().find(|part| !part.done).map(|part| part.source.to_string());
                let reason = self.reason(format!("nothing of it came for {} s", SILENCE.as_secs()));
                return Err(ScanError { what: what.unwrap_or_default(), reason, code: None });
            }
        }
        Ok(None)
    }

    /// Whether every partition was read to its end.
    pub fn is_done(&self) -> bool {
        self.parts.iter().all(|part| part.done)
    }

    /// The next record if one comes within a moment.
    pub fn poll(&mut self) -> Result<Option<Scanned>, ScanError> {
        let count = self.parts.len();
        for turn in 0..count {
            let at = (self.turn + turn) % count;
            let Some(part) = self.parts.get_mut(at).filter(|part| !part.done) else { continue };
            if let Some(scanned) = part.poll()? {
                self.turn = at + 1;
                return Ok(Some(scanned));
            }
        }
        self.turn = self.turn.wrapping_add(1) % count.max(1);
        // Serves the callbacks; the records are in the partitions' own queues.
        match self.consumer.poll(POLL) {
            Some(Err(error @ KafkaError::MessageConsumptionFatal(_))) => Err(ScanError::of(&"the topic", &error)),
            _ => Ok(None),
        }
    }
}

fn topics(sources: &[TopicPartition]) -> String {
    let names: BTreeSet<&str> = sources.iter().map(|source| &*source.topic).collect();
    names.into_iter().collect::<Vec<_>>().join(", ")
}

impl ScannedPartition {
    fn poll(&mut self) -> Result<Option<Scanned>, ScanError> {
        match self.queue.poll(Duration::ZERO) {
            None => Ok(None),
            Some(Ok(message)) => {
                let (record, problem) = input_record(&message, &self.source);
                self.next = record.offset.saturating_add(1);
                self.done |= self.next >= self.end;
                Ok((record.offset < self.end).then_some(Scanned { record, problem }))
            }
            // What may be left before the end of the range are control records, or ones that were compacted away.
            Some(Err(KafkaError::PartitionEOF(_))) => {
                self.done |= self.end != u64::MAX;
                Ok(None)
            }
            Some(Err(error)) => {
                let what = format!("{} from offset {} on", self.source, self.next);
                let error = ScanError::of(&what, &error);
                // After any other error librdkafka goes on by itself.
                if error.is_final() { Err(error) } else { Ok(None) }
            }
        }
    }
}

impl ScanError {
    fn new(what: &impl ToString, reason: String, code: Option<RDKafkaErrorCode>) -> Self {
        Self { what: what.to_string(), reason, code }
    }

    fn of(what: &(impl ToString + ?Sized), error: &KafkaError) -> Self {
        Self { what: what.to_string(), reason: told(error), code: error.rdkafka_error_code() }
    }

    /// Whether trying again can't help.
    fn is_final(&self) -> bool {
        self.code.is_some_and(|code| {
            matches!(
                code,
                RDKafkaErrorCode::BadMessage
                    | RDKafkaErrorCode::InvalidMessage
                    | RDKafkaErrorCode::BadCompression
                    | RDKafkaErrorCode::NotImplemented
                    | RDKafkaErrorCode::MessageSizeTooLarge
                    | RDKafkaErrorCode::TopicAuthorizationFailed
                    | RDKafkaErrorCode::GroupAuthorizationFailed
                    | RDKafkaErrorCode::UnknownTopic
                    | RDKafkaErrorCode::UnknownPartition
                    | RDKafkaErrorCode::OffsetOutOfRange
                    | RDKafkaErrorCode::AutoOffsetReset
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

    use super::*;
    use crate::config::Kafka;

    fn of(partition: u32) -> TopicPartition {
        TopicPartition { topic: "camera".into(), partition }
    }

    #[test]
    fn a_range_is_read_to_its_end_and_not_further() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("camera", 2, 1).unwrap();
        let config = Kafka::for_test(cluster.bootstrap_servers(), &["camera"]);
        let producer: BaseProducer = client::client_config(&config).create().unwrap();
        for n in 0..20 {
            let record = BaseRecord::<(), str>::to("camera").partition(n % 2).payload("payload");
            producer.send(record).map_err(|(error, _)| error).unwrap();
        }
        producer.flush(Duration::from_secs(300)).unwrap();
        let mut reader = ScanReader::new(&config).unwrap();
        assert_eq!(reader.bounds(&of(0)).unwrap(), 0..10);
        let read = |reader: &mut ScanReader| {
            let mut seen = Vec::new();
            while let Some(scanned) = reader.read_next().unwrap() {
                seen.push((scanned.record.source.partition, scanned.record.offset));
            }
            seen.sort();
            seen
        };
        reader.assign([(of(0), 3..6), (of(1), 8..11)]).unwrap();
        // Partition 1 ends before its range does.
        assert_eq!(read(&mut reader), [(0, 3), (0, 4), (0, 5), (1, 8), (1, 9)]);
        // The same partition once more, and one without anything to read.
        reader.assign([(of(0), 9..10), (of(1), 10..10)]).unwrap();
        assert_eq!(read(&mut reader), [(0, 9)]);
        reader.assign([(of(1), 10..11)]).unwrap();
        assert_eq!(read(&mut reader), [], "at the end there is nothing, and that is found out");
    }

    #[test]
    fn a_group_remembers_what_is_committed() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("camera", 2, 1).unwrap();
        let config = Kafka::for_test(cluster.bootstrap_servers(), &["camera"]);
        let reader = ScanReader::of_group(&config, "group.replay").unwrap();
        reader.commit(&of(1), 7, "12-14").unwrap();
        let committed = reader.committed("camera", 2).unwrap();
        assert_eq!(committed[0], Committed { position: None, metadata: String::new() });
        assert_eq!(committed[1], Committed { position: Some(7), metadata: "12-14".into() });
    }
}
