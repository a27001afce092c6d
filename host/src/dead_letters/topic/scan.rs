//! Looks a partition of the dead-letter topic through for the letters of a source partition.
//!
//! Guarantees: every committed letter that the partition held when the look-up began is seen, or the look-up fails; it
//! joins no group and commits nothing. It begins where a mark says, or else at the partition's beginning.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::topic_partition_list::Offset;

use crate::config;
use crate::dead_letters::format::identity_of_headers;
use crate::kafka::check;
use crate::kafka::client::client_config;
use crate::kafka::message::raw_headers;
use crate::kafka::scan::Reading;
use crate::record::{Identity, TopicPartition};

const BROKER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long another source's open transaction may hide what stands behind it before the look-up fails. It is tried again
/// when the other sources, whose turn ends such a transaction, had theirs.
const HIDDEN_PATIENCE: Duration = Duration::from_secs(1);

/// The letters of a source partition from an offset on.
#[derive(Debug)]
pub struct Wanted<'a> {
    pub source: &'a TopicPartition,
    pub from: u64,
}

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
    let reader = |isolation: &str| Reading::new(client_config(config).set("isolation.level", isolation)).map_err(told);
    let partition = partition.cast_signed();
    let mut found = HashMap::new();
    // The real end: that of committed records is held back by any transaction that is open.
    let uncommitted = reader("read_uncommitted")?.consumer;
    let (low, high) = uncommitted.fetch_watermarks(topic, partition, BROKER_TIMEOUT).map_err(told)?;
    let end = high.max(0).cast_unsigned();
    // A mark behind the end is of a topic that was made anew since.
    let begin = from.map(u64::cast_signed).filter(|from| *from <= high).map_or(low, |from| from.max(low));
    if begin >= high {
        return Ok((found, end));
    }
    let mut reading = reader("read_committed")?;
    let asked = Instant::now();
    while reading.consumer.fetch_watermarks(topic, partition, BROKER_TIMEOUT).map_err(told)?.1 < high {
        if asked.elapsed() > HIDDEN_PATIENCE {
            return Err("it can't be looked through: someone's open transaction hides its end".into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    reading.assign(topic, partition, Offset::Offset(begin)).map_err(told)?;
    while let Some(message) = reading.next()? {
        let headers = raw_headers(&message)?;
        if let Some(identity) = identity_of_headers(headers.iter().copied())
            && wanted.source == &identity.source
            && wanted.from <= identity.offset
        {
            found.entry(identity).or_insert(message.offset().max(0).cast_unsigned());
        }
        if message.offset() + 1 >= high {
            break;
        }
    }
    Ok((found, end))
}
