//! Looks a partition of the dead-letter topic through for letters that are there already.
//!
//! Guarantees: everything that the partition held when the look-up began is seen, or the look-up fails; it joins no group
//! and commits nothing. It reads the partition from its beginning, because nothing tells where an earlier host's letters
//! begin: dead letters are few, or something is wrong that costs more.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::config;
use crate::dead_letter::identity_of_headers;
use crate::record::{Identity, TopicPartition};
use crate::source::message::raw_headers;
use crate::source::{check, client_config};

const BROKER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long nothing may come before the look-up fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// The letters of a source partition from an offset on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub source: TopicPartition,
    pub from: u64,
}

/// The wanted letters that are in the partition. Blocks while it reads.
pub fn look_up(
    config: &config::Kafka,
    topic: &str,
    partition: u32,
    wanted: &[Wanted],
) -> Result<HashMap<TopicPartition, HashSet<Identity>>, String> {
    let told = |error: KafkaError| format!("it can't be looked through: {}", check::told(&error));
    let consumer: BaseConsumer = client_config(config).create().map_err(told)?;
    let partition = partition.cast_signed();
    let (low, high) = consumer.fetch_watermarks(topic, partition, BROKER_TIMEOUT).map_err(told)?;
    let mut found: HashMap<TopicPartition, HashSet<Identity>> = HashMap::new();
    if low >= high {
        return Ok(found);
    }
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Offset(low)).map_err(told)?;
    consumer.assign(&list).map_err(told)?;
    let mut moved = Instant::now();
    loop {
        let message = match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => message,
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(found),
            // librdkafka goes on by itself.
            None | Some(Err(_)) if moved.elapsed() < PATIENCE => continue,
            Some(Err(error)) => return Err(told(error)),
            None => return Err(format!("nothing of it came for {} s while looking it through", PATIENCE.as_secs())),
        };
        moved = Instant::now();
        let headers = raw_headers(&message)?;
        if let Some(identity) = identity_of_headers(headers.iter().copied())
            && wanted.iter().any(|wanted| wanted.source == identity.source && wanted.from <= identity.offset)
        {
            found.entry(identity.source.clone()).or_default().insert(identity);
        }
        if message.offset() + 1 >= high {
            return Ok(found);
        }
    }
}
