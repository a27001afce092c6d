//! Reads one partition on from an offset, without a consumer group, to the end that it has.
//!
//! Guarantees: every record is seen that the isolation level shows, up to the partition's end; reading ends with an
//! error when nothing comes for [`PATIENCE`], never by itself; nothing is committed unless its user does it.

use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::BorrowedMessage;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tracing::debug;

use super::check::told;

const POLL: Duration = Duration::from_millis(100);
/// How long nothing may come before reading fails.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Reading {
    pub consumer: BaseConsumer<Quiet>,
    moved: Instant,
}

impl Reading {
    /// `client` has to tell the ends of partitions, as the source's does.
    pub fn new(client: &ClientConfig) -> KafkaResult<Self> {
        Ok(Self { consumer: client.create_with_context(Quiet)?, moved: Instant::now() })
    }

    /// Reads this partition from now on, and no other.
    pub fn assign(&mut self, topic: &str, partition: i32, from: Offset) -> KafkaResult<()> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, from)?;
        self.moved = Instant::now();
        self.consumer.assign(&list)
    }

    /// The next record; `None`: the partition's end is reached. Blocks.
    pub fn next(&mut self) -> Result<Option<BorrowedMessage<'_>>, String> {
        loop {
            match self.consumer.poll(POLL) {
                Some(Ok(message)) => {
                    self.moved = Instant::now();
                    return Ok(Some(message));
                }
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(None),
                // librdkafka goes on by itself.
                None | Some(Err(_)) if self.moved.elapsed() < PATIENCE => {}
                Some(Err(error)) => return Err(told(&error)),
                None => return Err(format!("nothing of it came for {} s", PATIENCE.as_secs())),
            }
        }
    }
}

/// What matters comes with the answers; the end of a partition isn't even an error.
pub struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        debug!(target: "librdkafka", facility, "{message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        debug!(target: "librdkafka", %error, "{reason}");
    }
}

impl ConsumerContext for Quiet {}
