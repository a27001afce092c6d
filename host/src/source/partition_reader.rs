//! One assigned partition as a worker reads it.
//!
//! Guarantees: a feed yields the partition's records in order; when the broker no longer has the offset to read next
//! (retention went past it), the configured policy decides and the number of missed offsets is reported; dropping a feed
//! drops its queue, which has to happen before the same partition is split again.

use std::sync::Arc;
use std::thread::Thread;
use std::time::{Duration, Instant};

use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaErrorCode;
use tracing::{error, warn};

use super::Context;
use crate::config::StartPolicy;
use crate::kafka::message::input_record;
use crate::record::{InputRecord, TopicPartition};

const BROKER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait after the brokers couldn't say where a partition begins.
const ASK_AGAIN: Duration = Duration::from_secs(1);

pub struct PartitionReader {
    pub source: TopicPartition,
    queue: PartitionQueue<Context>,
    consumer: Arc<BaseConsumer<Context>>,
    policy: StartPolicy,
    /// The next offset after the last record that was yielded.
    position: u64,
    /// Reading anew from `position` up to here, to see whether any records are left.
    probing: Option<u64>,
    /// Reading has to begin anew at `position`, or where the broker's records begin now; when to try next.
    lost: Option<Instant>,
    /// `position` was chosen to read again; up to here it was read before.
    read_to: Option<u64>,
}

/// What a look into the feed brought.
#[derive(Debug)]
pub enum Polled {
    Record(InputRecord),
    /// A record of which a part can't be read, and why.
    Unreadable(InputRecord, String),
    Nothing,
    /// There are no records before this offset that weren't yielded.
    NothingBefore(u64),
    /// The partition can't be read on, and the configuration says not to choose.
    Fatal(String),
}

impl PartitionReader {
    pub(super) fn new(
        source: TopicPartition,
        queue: PartitionQueue<Context>,
        consumer: Arc<BaseConsumer<Context>>,
        policy: StartPolicy,
        start: u64,
    ) -> Self {
        Self { source, queue, consumer, policy, position: start, probing: None, lost: None, read_to: None }
    }

    /// Unparks `worker` when records arrive at an empty feed. Poll once after setting it.
    pub fn wake(&mut self, worker: Thread) {
        self.queue.set_nonempty_callback(move || worker.unpark());
    }

    /// Takes the next record, if one is there; doesn't wait.
    pub fn poll(&mut self) -> Polled {
        if let Some(next) = self.lost {
            return if Instant::now() < next { Polled::Nothing } else { self.begin_anew() };
        }
        let message = match self.queue.poll(Duration::ZERO) {
            None => return Polled::Nothing,
            Some(Ok(message)) => message,
            Some(Err(KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset))) => return self.begin_anew(),
            Some(Err(KafkaError::PartitionEOF(_))) => {
                return self.probing.take().map_or(Polled::Nothing, Polled::NothingBefore);
            }
            Some(Err(KafkaError::MessageConsumptionFatal(code))) => return Polled::Fatal(code.to_string()),
            Some(Err(error)) => {
                // librdkafka goes on by itself after these.
                warn!(partition = %self.source, %error, "reading from Kafka");
                return Polled::Nothing;
            }
        };
        let (record, problem) = input_record(&message, &self.source);
        self.position = record.offset.saturating_add(1);
        self.probing = None;
        match problem {
            None => Polled::Record(record),
            Some(problem) => Polled::Unreadable(record, problem),
        }
    }

    /// Finds out whether any records are left before `end`, which Kafka named a while ago: reads anew from the position
    /// on, which brings either a record or the end of the partition. librdkafka tells the end only once otherwise, and
    /// doesn't tell where it is.
    pub fn probe(&mut self, end: u64) {
        let (topic, partition) = (&self.source.topic, self.source.partition.cast_signed());
        match self.consumer.seek(topic, partition, Offset::Offset(self.position.cast_signed()), BROKER_TIMEOUT) {
            Ok(()) => self.probing = Some(end),
            Err(error) => warn!(partition = %self.source, %error, "can't read the end of the partition anew"),
        }
    }

    /// Reads again from here, or from the partition's beginning where that is later.
    pub fn rewind(&mut self, to: u64) {
        self.read_to = Some(self.read_to.unwrap_or_default().max(self.position));
        (self.position, self.probing, self.lost) = (to, None, Some(Instant::now()));
    }

    /// Begins anew: librdkafka has stopped reading because the broker doesn't have the offset to read next, or the
    /// partition is to be read again.
    fn begin_anew(&mut self) -> Polled {
        self.lost = Some(Instant::now() + ASK_AGAIN);
        let (topic, partition) = (&self.source.topic, self.source.partition.cast_signed());
        let (low, high) = match self.consumer.fetch_watermarks(topic, partition, BROKER_TIMEOUT) {
            Ok(watermarks) => watermarks,
            Err(error) => {
                warn!(partition = %self.source, %error, "can't ask where the partition begins now; trying again");
                return Polled::Nothing;
            }
        };
        let position = match self.read_to.map(u64::cast_signed) {
            None => self.position.cast_signed(),
            Some(read_to) if low <= read_to => self.position.cast_signed().max(low),
            // Not only what was read is gone.
            Some(read_to) => read_to,
        };
        let missed = (low - position).max(0);
        let to = match self.policy {
            _ if (low..=high).contains(&position) => position,
            StartPolicy::Earliest => low,
            StartPolicy::Latest => high,
            StartPolicy::Fail => {
                return Polled::Fatal(format!(
                    "{}: offset {position} isn't there any more ({low} to {high} are; {missed} offsets are lost), and \
                     kafka.start is \"fail\"",
                    self.source
                ));
            }
        };
        if to != position {
            error!(
                partition = %self.source, position, low, high, missed, to,
                "the offset to read next isn't there any more; going on by kafka.start"
            );
        }
        match self.begin_at(Offset::Offset(to)) {
            Ok(()) => {
                self.position = to.max(0).cast_unsigned();
                (self.lost, self.read_to) = (None, None);
            }
            Err(error) => warn!(partition = %self.source, to, %error, "can't read on from there; trying again"),
        }
        Polled::Nothing
    }

    /// Makes librdkafka read from here. It refuses to seek in a partition that it has stopped reading, so the partition
    /// is assigned once more.
    fn begin_at(&self, offset: Offset) -> KafkaResult<()> {
        let (topic, partition) = (&self.source.topic, self.source.partition.cast_signed());
        if matches!(self.consumer.rebalance_protocol(), RebalanceProtocol::Cooperative) {
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(topic, partition, offset)?;
            self.consumer.incremental_unassign(&list)?;
            return self.consumer.incremental_assign(&list);
        }
        // Eager protocols know only whole assignments; the other partitions go on where they are.
        let mut all = self.consumer.position()?;
        all.set_partition_offset(topic, partition, offset)?;
        self.consumer.assign(&all)
    }
}
