//! A look at what topics hold: reads records without being a member of the group.
//!
//! Guarantees: nothing is committed and no group is joined, so that no other reader is disturbed; no topic is created;
//! what can't be read of a record is told with it.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use thiserror::Error;

use super::check::{self, CheckError, TopicError};
use super::client::{ask, client_config};
use super::message::input_record;
use super::start_offset as start;
use crate::config::Kafka;
use crate::record::{InputRecord, TopicPartition};

const POLL: Duration = Duration::from_millis(20);
const BROKER_TIMEOUT: Duration = Duration::from_secs(10);
/// So long may nothing come although something is there.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where to begin, in each partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// Where a host of the configured group would: at the committed offset, or else by the policy.
    Group,
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

#[derive(Debug, Error)]
pub enum PeekError {
    #[error(transparent)]
    Kafka(#[from] CheckError),
    #[error("topic {wanted}: {error}")]
    Topic { wanted: String, error: TopicError },
    #[error("{0}")]
    Start(String),
    #[error("can't read {what}: {reason}")]
    Failed { what: String, reason: String },
}

/// One record, how many partitions its topic has, and what of it couldn't be read.
#[derive(Debug)]
pub struct Seen {
    pub record: InputRecord,
    pub partitions: usize,
    pub problem: Option<String>,
}

/// Shows the records of all configured topics to `see`, those of a partition in order, until it breaks off.
pub fn peek(
    config: &Kafka,
    from: From,
    until: Until,
    see: &mut dyn FnMut(Seen) -> ControlFlow<()>,
) -> Result<(), PeekError> {
    let mut counts = HashMap::new();
    for topic in check::check(config)? {
        let found = topic.found.map_err(|error| PeekError::Topic { wanted: topic.wanted, error })?;
        counts.extend(found.into_iter().map(|topic| (topic.name, topic.partitions)));
    }
    let consumer = Arc::new(consumer(config)?);
    let mut partitions = assign(&consumer, config, from, &counts)?;
    let mut heard = Instant::now();
    while until == Until::Stopped || partitions.iter().any(|partition| !partition.done) {
        // Serves the callbacks; the records are in the partitions' own queues.
        let mut wait = POLL;
        for partition in &mut partitions {
            if partition.done && until == Until::End {
                continue;
            }
            if let Some(seen) = partition.next()? {
                (wait, heard) = (Duration::ZERO, Instant::now());
                if until == Until::End && seen.record.offset >= partition.end {
                    continue;
                }
                if see(seen).is_break() {
                    return Ok(());
                }
            }
        }
        if let Some(Err(error @ KafkaError::MessageConsumptionFatal(_))) = consumer.poll(wait) {
            return Err(failed(&config.topics.join(", "), &error));
        }
        if until == Until::End && heard.elapsed() > PATIENCE {
            let reason = format!("nothing came within {PATIENCE:?}, and the end isn't reached");
            return Err(PeekError::Failed { what: config.topics.join(", "), reason });
        }
    }
    Ok(())
}

/// A partition that is looked at.
struct Partition {
    source: TopicPartition,
    queue: PartitionQueue<Logged>,
    /// How many its topic has.
    count: usize,
    /// Where it ended when the look began.
    end: u64,
    done: bool,
}

impl Partition {
    /// The next record, if one is there.
    fn next(&mut self) -> Result<Option<Seen>, PeekError> {
        match self.queue.poll(Duration::ZERO) {
            None => Ok(None),
            Some(Ok(message)) => {
                let (record, problem) = input_record(&message, &self.source);
                self.done |= record.offset.saturating_add(1) >= self.end;
                Ok(Some(Seen { record, partitions: self.count, problem }))
            }
            // What may be left before the end are control records.
            Some(Err(KafkaError::PartitionEOF(_))) => {
                self.done = true;
                Ok(None)
            }
            Some(Err(error)) => Err(failed(&self.source.to_string(), &error)),
        }
    }
}

/// As the source's, but it may not create topics.
fn consumer(config: &Kafka) -> Result<BaseConsumer<Logged>, PeekError> {
    let mut client = client_config(config);
    client.set("allow.auto.create.topics", "false");
    let consumer = client.create_with_context(Logged);
    Ok(consumer.map_err(|error| CheckError::Property(check::told(&error)))?)
}

/// Assigns all partitions, each with a queue of its own.
fn assign(
    consumer: &Arc<BaseConsumer<Logged>>,
    config: &Kafka,
    from: From,
    counts: &HashMap<String, usize>,
) -> Result<Vec<Partition>, PeekError> {
    let mut list = TopicPartitionList::new();
    for (topic, count) in counts {
        for partition in 0..*count {
            list.add_partition(topic, i32::try_from(partition).unwrap_or(i32::MAX));
        }
    }
    let all = || config.topics.join(", ");
    let asked = match from {
        From::Group => ask(|| consumer.committed_offsets(list.clone(), BROKER_TIMEOUT)),
        From::Earliest | From::Latest | From::Offset(_) => Ok(list.clone()),
    };
    let asked = asked.map_err(|error| failed(&format!("the committed offsets of {}", all()), &error))?;
    let mut partitions = Vec::new();
    for element in asked.elements() {
        let (topic, partition) = (element.topic(), element.partition());
        let source = TopicPartition { topic: topic.into(), partition: partition.cast_unsigned() };
        let wrong = |error: &KafkaError| failed(&source.to_string(), error);
        let watermarks = ask(|| consumer.fetch_watermarks(topic, partition, BROKER_TIMEOUT));
        let (low, high) = watermarks.map_err(|error| wrong(&error))?;
        let (low, high) = (low.max(0).cast_unsigned(), high.max(0).cast_unsigned());
        let begin = match from {
            From::Group => start::start(&source, start::committed(element.offset()), (low, high), config.start)
                .map_err(PeekError::Start)?,
            From::Earliest => low,
            From::Latest => high,
            From::Offset(offset) => offset.clamp(low, high),
        };
        let placed = list.set_partition_offset(topic, partition, Offset::Offset(begin.cast_signed()));
        placed.map_err(|error| wrong(&error))?;
        let queue = consumer.split_partition_queue(topic, partition).ok_or_else(|| PeekError::Failed {
            what: source.to_string(),
            reason: "it has no queue of its own".into(),
        })?;
        let count = counts.get(topic).copied().unwrap_or(1);
        partitions.push(Partition { source, queue, count, end: high, done: begin >= high });
    }
    partitions.sort_by(|a, b| a.source.cmp(&b.source));
    consumer.assign(&list).map_err(|error| failed(&all(), &error))?;
    Ok(partitions)
}

/// librdkafka's reports go to the log.
struct Logged;

impl ClientContext for Logged {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(target: "librdkafka", facility, "{message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::PartitionEOF) {
            tracing::warn!(target: "librdkafka", %error, "{reason}");
        }
    }
}

impl ConsumerContext for Logged {}

fn failed(what: &str, error: &KafkaError) -> PeekError {
    PeekError::Failed { what: what.into(), reason: check::told(error) }
}
