//! Reads Kafka: the only place that knows `rdkafka` (besides a dead-letter topic).
//!
//! Guarantees: offsets are committed only as [`Owner::positions`] tells, through librdkafka's store, which refuses those
//! of a partition that isn't assigned any more; a partition is handed over with the offset it begins at, chosen by the
//! committed offset and the configured policy and by nothing else; a partition is taken back before it is given up.

mod partition_reader;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};
use thiserror::Error;
use tracing::{debug, error, info, warn};

pub use self::partition_reader::{PartitionReader, Polled};
use crate::config;
use crate::kafka::client::{QUEUE, ask, client_config, told};
use crate::kafka::metadata::CheckError;
use crate::kafka::start_offset as start;
use crate::record::TopicPartition;

/// How long one poll of the main queue waits.
const POLL: Duration = Duration::from_millis(100);
/// How often progress is committed.
const COMMIT_EVERY: Duration = Duration::from_secs(1);
/// How long a question to the brokers may take, of which a rebalance asks a few.
const BROKER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long asking for the end of a partition may take, which only reports depend on.
const END_TIMEOUT: Duration = Duration::from_secs(2);
/// What may wait in librdkafka before the host's own budget counts it: in all partitions together, and in each.
const QUEUES_KBYTES: usize = 32 << 10;
const QUEUE_KBYTES: RangeInclusive<usize> = 1 << 10..=16 << 10;
/// How long leaving the group may take; with the brokers away it can hang.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(4);

/// Who gets the partitions. Called from the thread that runs [`Source::run`].
pub trait Owner: Send + Sync {
    /// A partition is ours. `partitions`: how many its topic has.
    fn assigned(&self, feed: PartitionReader, partitions: usize);
    /// These partitions are to be given up: stop reading them, settle what is in flight as far as that goes, drop their
    /// feeds; answers with their last positions. `lost`: they belong to someone else already, so nothing more may be
    /// written or committed.
    fn revoked(&self, partitions: &[TopicPartition], lost: bool) -> Vec<(TopicPartition, u64)>;
    /// All new partitions of an assignment are about to be handed over.
    fn assigning(&self);
    /// Why no other member of the group may own partitions while we own some of this topic; `None`: it may.
    fn company_refused(&self, topic: &str, partitions: usize) -> Option<String>;
    /// The next offset to read of each partition that has one.
    fn positions(&self) -> Vec<(TopicPartition, u64)>;
    /// Whether nothing may be committed now: what the store acknowledged may be lost.
    fn is_shaken(&self) -> bool;
    /// Whether this partition is about to be read again, from before its position.
    fn is_rewinding(&self, source: &TopicPartition) -> bool;
    /// What to commit beside a position.
    fn mark(&self, source: &TopicPartition, position: u64) -> Option<String>;
    /// Where to begin with a partition that was committed with this mark, if not at what was committed.
    fn begin(&self, source: &TopicPartition, committed: u64, mark: &str) -> Option<u64>;
    /// The source can't go on.
    fn failed(&self, reason: String);
    /// Whether to stop.
    fn stopping(&self) -> bool;
    /// Whether the group should be asked if we are still a member.
    fn membership_doubted(&self) -> bool;
    /// The group says that we are.
    fn membership_confirmed(&self);
}

#[derive(Debug, Error)]
pub enum SourceError {
    #[error("librdkafka refuses the configuration: {0}")]
    Configuration(String),
    #[error("Kafka at {0}")]
    Away(#[from] CheckError),
    #[error("can't subscribe to {topics:?}: {error}")]
    Subscribe { topics: Vec<String>, error: KafkaError },
}

/// A member of the consumer group.
pub struct Source {
    consumer: Arc<BaseConsumer<Context>>,
    owner: Arc<dyn Owner>,
    /// What was stored for committing last.
    stored: HashMap<TopicPartition, u64>,
}

impl Source {
    /// Joins nothing yet; [`Self::run`] does. `partitions`: how many there are to share the queues' memory.
    pub fn new(config: &config::Kafka, partitions: usize, owner: Arc<dyn Owner>) -> Result<Self, SourceError> {
        let context = Context {
            owner: Arc::clone(&owner),
            policy: config.start,
            group: config.group.clone(),
            consumer: OnceLock::new(),
        };
        let mut client = client_config(config);
        if !config.properties.contains_key(QUEUE) {
            client.set(QUEUE, queue_kbytes(partitions).to_string());
        }
        let consumer: BaseConsumer<Context> =
            client.create_with_context(context).map_err(|e| SourceError::Configuration(told(&e)))?;
        let consumer = Arc::new(consumer);
        let _ = consumer.context().consumer.set(Arc::downgrade(&consumer));
        let topics: Vec<&str> = config.topics.iter().map(String::as_str).collect();
        consumer.subscribe(&topics).map_err(|error| SourceError::Subscribe { topics: config.topics.clone(), error })?;
        Ok(Self { consumer, owner, stored: HashMap::new() })
    }

    /// Serves the group until [`Owner::stopping`], then gives all partitions back, commits and leaves.
    pub fn run(mut self) {
        let mut committed_at = Instant::now();
        while !self.owner.stopping() {
            match self.consumer.poll(POLL) {
                None => {}
                Some(Ok(message)) => self.owner.failed(format!(
                    "a record of {}/{} arrived outside of its partition's queue",
                    message.topic(),
                    message.partition()
                )),
                Some(Err(KafkaError::MessageConsumptionFatal(code))) => {
                    self.owner.failed(format!("Kafka refuses to go on: {code}"));
                }
                Some(Err(error)) => warn!(%error, "Kafka reports a problem; librdkafka goes on trying"),
            }
            if self.owner.membership_doubted() {
                self.confirm_membership();
            }
            if committed_at.elapsed() >= COMMIT_EVERY {
                committed_at = Instant::now();
                self.commit();
            }
        }
        self.leave();
    }

    /// Asks the group's coordinator by committing: it refuses a member that isn't in the present generation.
    fn confirm_membership(&self) {
        let positions = self.owner.positions();
        // Without a position there is nothing that another member could be writing too.
        let answer = if positions.is_empty() {
            Ok(())
        } else {
            self.consumer.commit(&list(&*self.owner, &positions), CommitMode::Sync)
        };
        match answer {
            Ok(()) => self.owner.membership_confirmed(),
            Err(error) => warn!(%error, "the group doesn't confirm the membership yet"),
        }
    }

    /// A handle for asking how far a partition reaches.
    pub fn ends(&self) -> Ends {
        Ends(Arc::downgrade(&self.consumer))
    }

    /// Commits what is settled, without waiting for the answer. Asked for even when nothing was settled since: nobody is
    /// told of a commit that failed, and librdkafka sends one only for what isn't committed yet.
    fn commit(&mut self) {
        if self.owner.is_shaken() {
            return;
        }
        let mut positions = self.owner.positions();
        let owned = positions.len();
        positions.retain(|(of, _)| !self.owner.is_rewinding(of));
        let is_rewinding = positions.len() < owned;
        let changed: Vec<_> = positions.into_iter().filter(|(of, at)| self.stored.get(of) != Some(at)).collect();
        // What was stored of a partition that is about to be read again needn't be committed now.
        if changed.is_empty() && is_rewinding {
            return;
        }
        store(&self.consumer, &*self.owner, &changed);
        match self.consumer.commit_consumer_state(CommitMode::Async) {
            Ok(()) | Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::NoOffset)) => self.stored.extend(changed),
            Err(error) => warn!(%error, "can't commit; trying again"),
        }
    }

    fn leave(self) {
        let positions = match self.consumer.assignment() {
            Ok(assignment) => self.owner.revoked(&partitions(&assignment), self.consumer.assignment_lost()),
            Err(error) => {
                error!(%error, "can't tell the assignment while leaving the group");
                Vec::new()
            }
        };
        let (done, closed) = std::sync::mpsc::channel();
        let (consumer, owner) = (self.consumer, self.owner);
        std::thread::spawn(move || {
            commit_last(&consumer, &*owner, &positions);
            drop(consumer);
            let _ = done.send(());
        });
        if closed.recv_timeout(CLOSE_TIMEOUT).is_err() {
            warn!("leaving the group takes too long; the broker will notice by the session's timeout");
        }
    }
}

/// Asks for the ends of partitions, for as long as the source lives.
#[derive(Clone)]
pub struct Ends(Weak<BaseConsumer<Context>>);

impl Ends {
    /// The next offset that a reader can't have yet: with transactions, where the first open one begins. `None`: the
    /// brokers don't answer.
    pub fn end(&self, source: &TopicPartition) -> Option<u64> {
        let consumer = self.0.upgrade()?;
        let (_, end) = consumer.fetch_watermarks(&source.topic, source.partition.cast_signed(), END_TIMEOUT).ok()?;
        u64::try_from(end).ok()
    }
}

/// What librdkafka calls back.
pub struct Context {
    owner: Arc<dyn Owner>,
    policy: config::StartPolicy,
    group: String,
    consumer: OnceLock<Weak<BaseConsumer<Context>>>,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
                error!(target: "librdkafka", facility, "{message}");
            }
            RDKafkaLogLevel::Warning => warn!(target: "librdkafka", facility, "{message}"),
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => info!(target: "librdkafka", facility, "{message}"),
            RDKafkaLogLevel::Debug => debug!(target: "librdkafka", facility, "{message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // The end of a partition is asked for, and no problem.
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::PartitionEOF) {
            return;
        }
        error!(target: "librdkafka", %error, "{reason}");
    }
}

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, event: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let partitions = partitions(list);
        let cooperative = matches!(consumer.rebalance_protocol(), RebalanceProtocol::Cooperative);
        let done = if event == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            info!(partitions = ?names(&partitions), "assigned");
            if let Err(reason) = self.take(consumer, &partitions, list) {
                self.owner.failed(reason);
            }
            if cooperative { consumer.incremental_assign(list) } else { consumer.assign(list) }
        } else {
            let lost = consumer.assignment_lost();
            info!(partitions = ?names(&partitions), lost, "revoked");
            give_up(consumer, &*self.owner, &partitions, lost);
            if cooperative { consumer.incremental_unassign(list) } else { consumer.unassign() }
        };
        if let Err(error) = done {
            self.owner.failed(format!("the group's new assignment can't be taken over: {error}"));
        }
    }
}

impl Context {
    /// Splits the queue of each new partition off, decides where it begins, and hands it over.
    fn take(
        &self,
        consumer: &BaseConsumer<Self>,
        partitions: &[TopicPartition],
        list: &mut TopicPartitionList,
    ) -> Result<(), String> {
        let Some(shared) = self.consumer.get().and_then(Weak::upgrade) else { return Ok(()) };
        if partitions.is_empty() {
            return Ok(());
        }
        self.owner.assigning();
        let asked = ask(|| consumer.committed_offsets(list.clone(), BROKER_TIMEOUT))
            .map_err(|error| format!("can't ask for the committed offsets: {error}"))?;
        let mut counts: HashMap<&str, usize> = HashMap::new();
        for source in partitions {
            let (topic, partition) = (&*source.topic, source.partition.cast_signed());
            let count = match counts.get(topic) {
                Some(count) => *count,
                None => {
                    let metadata = ask(|| consumer.fetch_metadata(Some(topic), BROKER_TIMEOUT))
                        .map_err(|error| format!("can't ask for the partitions of {topic}: {error}"))?;
                    let count = metadata.topics().first().map_or(0, |topic| topic.partitions().len());
                    if let Some(reason) = self.owner.company_refused(topic, count) {
                        self.insist_on_being_alone(consumer, &reason)?;
                    }
                    counts.insert(topic, count);
                    count
                }
            };
            let (low, high) = ask(|| consumer.fetch_watermarks(topic, partition, BROKER_TIMEOUT))
                .map_err(|error| format!("can't ask for the watermarks of {source}: {error}"))?;
            let found = asked.find_partition(topic, partition);
            let committed = found.as_ref().and_then(|found| start::committed(found.offset()));
            let mut begin = start::start(
                source,
                committed,
                (low.max(0).cast_unsigned(), high.max(0).cast_unsigned()),
                self.policy,
            )?;
            let mark = found.filter(|_| committed == Some(begin)).map(|found| found.metadata().to_owned());
            if let Some(earlier) = self.owner.begin(source, begin, &mark.unwrap_or_default()) {
                begin = earlier.max(low.max(0).cast_unsigned());
            }
            list.set_partition_offset(topic, partition, Offset::Offset(begin.cast_signed()))
                .map_err(|error| format!("can't set where {source} begins: {error}"))?;
            let queue = shared
                .split_partition_queue(topic, partition)
                .ok_or_else(|| format!("{source} has no queue of its own"))?;
            self.owner
                .assigned(PartitionReader::new(source.clone(), queue, Arc::clone(&shared), self.policy, begin), count);
        }
        Ok(())
    }
}

impl Context {
    fn insist_on_being_alone(&self, consumer: &BaseConsumer<Self>, reason: &str) -> Result<(), String> {
        let groups = ask(|| consumer.fetch_group_list(Some(&self.group), BROKER_TIMEOUT))
            .map_err(|error| format!("can't ask who else is in group {:?}: {error}", self.group))?;
        match groups.groups().iter().map(|group| group.members().len()).sum::<usize>() {
            0 | 1 => Ok(()),
            members => Err(format!("group {:?} has {members} members, and {reason}", self.group)),
        }
    }
}

/// Takes partitions back and commits what of them is settled.
fn give_up(consumer: &BaseConsumer<Context>, owner: &dyn Owner, partitions: &[TopicPartition], lost: bool) {
    let positions = owner.revoked(partitions, lost);
    commit_last(consumer, owner, &positions);
}

/// Commits for the last time before partitions are given up, and waits for the answer.
fn commit_last(consumer: &BaseConsumer<Context>, owner: &dyn Owner, positions: &[(TopicPartition, u64)]) {
    if positions.is_empty() || owner.is_shaken() {
        return;
    }
    store(consumer, owner, positions);
    match consumer.commit_consumer_state(CommitMode::Sync) {
        Ok(()) | Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::NoOffset)) => {}
        Err(error) => warn!(%error, "can't commit on giving partitions up; their records will be read again"),
    }
}

/// Hands positions to librdkafka, which refuses those of partitions that aren't assigned any more.
fn store(consumer: &BaseConsumer<Context>, owner: &dyn Owner, positions: &[(TopicPartition, u64)]) {
    if let Err(error) = consumer.store_offsets(&list(owner, positions)) {
        warn!(%error, "positions can't be stored for committing");
    }
}

fn list(owner: &dyn Owner, positions: &[(TopicPartition, u64)]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(positions.len());
    for (source, position) in positions {
        let offset = Offset::Offset(position.cast_signed());
        let mut element = list.add_partition(&source.topic, source.partition.cast_signed());
        if let Err(error) = element.set_offset(offset) {
            error!(partition = %source, position, %error, "a position can't be committed");
        }
        if let Some(mark) = owner.mark(source, *position) {
            element.set_metadata(mark);
        }
    }
    list
}

fn partitions(list: &TopicPartitionList) -> Vec<TopicPartition> {
    list.elements()
        .iter()
        .map(|element| TopicPartition { topic: element.topic().into(), partition: element.partition().cast_unsigned() })
        .collect()
}

fn names(partitions: &[TopicPartition]) -> Vec<String> {
    partitions.iter().map(TopicPartition::to_string).collect()
}

/// So that this host's queues hold [`QUEUES_KBYTES`] at most even if it gets all partitions, and each still what keeps a
/// stream of large records going.
fn queue_kbytes(partitions: usize) -> usize {
    (QUEUES_KBYTES / partitions.max(1)).clamp(*QUEUE_KBYTES.start(), *QUEUE_KBYTES.end())
}
