//! Looks a partition of the dead-letter topic through for the letters of a source partition.
//!
//! Guarantees: every committed letter that the partition held when the look-up began is seen, or the look-up fails; it
//! joins no group and commits nothing. It begins where a mark says, or else at the partition's beginning.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tracing::debug;

use crate::config;
use crate::dead_letter::identity_of_headers;
use crate::record::{Identity, TopicPartition};
use crate::source::message::raw_headers;
use crate::source::{check, client_config};

const BROKER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long nothing may come before the look-up fails.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long another source's open transaction may hide what stands behind it before the look-up fails. It is tried again
/// when the other sources, whose turn ends such a transaction, had theirs.
const HIDDEN_PATIENCE: Duration = Duration::from_secs(1);

/// The letters of a source partition from an offset on.
#[derive(Debug)]
pub struct Wanted<'a> {
    pub source: &'a TopicPartition,
    pub from: u64,
}

/// What matters comes with the look-up's answer; the end of a partition isn't even an error.
struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        debug!(target: "librdkafka", facility, "{message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        debug!(target: "librdkafka", %error, "{reason}");
    }
}

impl ConsumerContext for Quiet {}

/// The wanted letters that are in the partition, with where each stands first, and the partition's end. Blocks while it
/// reads.
pub fn look_up(
    config: &config::Kafka,
    topic: &str,
    partition: u32,
    from: Option<u64>,
    wanted: &Wanted<'_>,
) -> Result<(HashMap<Identity, u64>, u64), String> {
    let told = |error: KafkaError| format!("it can't be looked through: {}", check::told(&error));
    let reader = |isolation: &str| -> Result<BaseConsumer<Quiet>, String> {
        client_config(config).set("isolation.level", isolation).create_with_context(Quiet).map_err(told)
    };
    let partition = partition.cast_signed();
    let mut found = HashMap::new();
    // The real end: that of committed records is held back by any transaction that is open.
    let (low, high) = reader("read_uncommitted")?.fetch_watermarks(topic, partition, BROKER_TIMEOUT).map_err(told)?;
    let end = high.max(0).cast_unsigned();
    // A mark behind the end is of a topic that was made anew since.
    let begin = from.map(u64::cast_signed).filter(|from| *from <= high).map_or(low, |from| from.max(low));
    if begin >= high {
        return Ok((found, end));
    }
    let consumer = reader("read_committed")?;
    let asked = Instant::now();
    while consumer.fetch_watermarks(topic, partition, BROKER_TIMEOUT).map_err(told)?.1 < high {
        if asked.elapsed() > HIDDEN_PATIENCE {
            return Err("it can't be looked through: someone's open transaction hides its end".into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Offset(begin)).map_err(told)?;
    consumer.assign(&list).map_err(told)?;
    let mut moved = Instant::now();
    loop {
        let message = match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => message,
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok((found, end)),
            // librdkafka goes on by itself.
            None | Some(Err(_)) if moved.elapsed() < PATIENCE => continue,
            Some(Err(error)) => return Err(told(error)),
            None => return Err(format!("nothing of it came for {} s while looking it through", PATIENCE.as_secs())),
        };
        moved = Instant::now();
        let headers = raw_headers(&message)?;
        if let Some(identity) = identity_of_headers(headers.iter().copied())
            && wanted.source == &identity.source
            && wanted.from <= identity.offset
        {
            found.entry(identity).or_insert(message.offset().max(0).cast_unsigned());
        }
        if message.offset() + 1 >= high {
            return Ok((found, end));
        }
    }
}
