//! One assigned partition as a worker reads it.
//!
//! Guarantees: a feed yields the partition's records in order; when the broker no longer has the offset to read next
//! (retention went past it), the configured policy decides and the number of missed offsets is reported; dropping a feed
//! drops its queue, which has to happen before the same partition is split again.

use std::sync::Arc;
use std::thread::Thread;
use std::time::Duration;

use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::topic_partition_list::Offset;
use rdkafka::types::RDKafkaErrorCode;
use tracing::{error, warn};

use super::Context;
use super::message::input_record;
use crate::config::StartPolicy;
use crate::record::{InputRecord, TopicPartition};

const BROKER_TIMEOUT: Duration = Duration::from_secs(10);

pub struct Feed {
    pub source: TopicPartition,
    queue: PartitionQueue<Context>,
    consumer: Arc<BaseConsumer<Context>>,
    policy: StartPolicy,
    /// The next offset after the last record that was yielded.
    position: Option<u64>,
}

/// What a look into the feed brought.
#[derive(Debug)]
pub enum Polled {
    Record(InputRecord),
    /// A record that can't be read as one; it has an offset all the same.
    Unreadable { offset: u64, reason: String },
    Nothing,
    /// The partition can't be read on, and the configuration says not to choose.
    Fatal(String),
}

impl Feed {
    pub(super) fn new(
        source: TopicPartition,
        queue: PartitionQueue<Context>,
        consumer: Arc<BaseConsumer<Context>>,
        policy: StartPolicy,
        start: Option<u64>,
    ) -> Self {
        Self { source, queue, consumer, policy, position: start }
    }

    /// Unparks `worker` when records arrive at an empty feed. Poll once after setting it.
    pub fn wake(&mut self, worker: Thread) {
        self.queue.set_nonempty_callback(move || worker.unpark());
    }

    /// Takes the next record, if one is there; doesn't wait.
    pub fn poll(&mut self) -> Polled {
        let message = match self.queue.poll(Duration::ZERO) {
            None => return Polled::Nothing,
            Some(Ok(message)) => message,
            Some(Err(KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset))) => return self.reset(),
            Some(Err(KafkaError::MessageConsumptionFatal(code))) => return Polled::Fatal(code.to_string()),
            Some(Err(error)) => {
                // librdkafka goes on by itself after these.
                warn!(partition = %self.source, %error, "reading from Kafka");
                return Polled::Nothing;
            }
        };
        let offset = u64::try_from(message.offset()).unwrap_or_default();
        self.position = Some(offset.saturating_add(1));
        match input_record(&message, &self.source) {
            Ok(record) => Polled::Record(record),
            Err(reason) => Polled::Unreadable { offset, reason },
        }
    }

    /// The broker doesn't have the offset to read next.
    fn reset(&mut self) -> Polled {
        let (topic, partition) = (&self.source.topic, self.source.partition.cast_signed());
        let (low, high) = match self.consumer.fetch_watermarks(topic, partition, BROKER_TIMEOUT) {
            Ok(watermarks) => watermarks,
            Err(error) => return Polled::Fatal(format!("can't ask for the watermarks of {}: {error}", self.source)),
        };
        let position = self.position.map_or(-1, u64::cast_signed);
        let missed = if position < 0 { 0 } else { (low - position).max(0) };
        let to = match self.policy {
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
        error!(
            partition = %self.source, position, low, high, missed, to,
            "the offset to read next isn't there any more; going on by kafka.start"
        );
        match self.consumer.seek(topic, partition, Offset::Offset(to), BROKER_TIMEOUT) {
            Ok(()) => Polled::Nothing,
            Err(error) => Polled::Fatal(format!("can't set {} to offset {to}: {error}", self.source)),
        }
    }
}
