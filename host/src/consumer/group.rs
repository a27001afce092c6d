//! What librdkafka calls back: the group's assignments, on the polling thread, and its log.
//!
//! Guarantees: a callback asks the brokers nothing about the partitions that are assigned, so that one without a leader holds up no other;
//! a partition that the group takes back isn't read any more when its callback ends. A revocation does wait, each time with a bound: for
//! records in flight, for answers of the store, and for the group's answer to the commit.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Instant;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;
use tracing::info;

use super::GroupHandler;
use super::commits::Commits;
use super::partition_reader::ReaderControl;
use super::topic_ids::TopicIds;
use crate::config::threads;
use crate::flow::{CommitPoint, PartitionState, ReadingStop};
use crate::kafka::client::{error_of_member, log_of_member};
use crate::record::TopicPartition;

/// Where librdkafka begins with a partition until the polling thread knows better. What it fetches there is discarded.
///
/// It must be a number. For a name such as the end, librdkafka 2.12.1 asks the broker, and where the answer comes after the
/// seek, or after another rebalance, it asks again half a second later and leaps to the end from wherever it reads by then
/// (`rd_kafka_toppar_handle_Offset` with an outdated version): the records between would be lost.
pub(super) const UNDECIDED: Offset = Offset::Offset(0);

/// The client's context. See the module.
pub struct GroupContext {
    pub(super) handler: Arc<dyn GroupHandler>,
    pub(super) consumer: OnceLock<Weak<BaseConsumer<GroupContext>>>,
    pub(super) assigned: Mutex<HashMap<TopicPartition, AssignedPartition>>,
    pub(super) commits: Mutex<Commits>,
    pub(super) ids: Arc<TopicIds>,
    /// Whether all partitions were given up for good: then nobody hears what the group says.
    pub(super) has_left: AtomicBool,
    /// The pipeline under whose name librdkafka's threads write to the log.
    pipeline: Option<Arc<str>>,
}

/// A partition that the group gave to this host.
pub(super) enum AssignedPartition {
    /// It isn't decided yet where it begins.
    Waiting(Box<Waiting>),
    /// A worker reads it.
    Reading { state: Arc<PartitionState>, control: ReaderControl },
}

/// A partition that isn't read yet, or that is about to be read from another offset.
pub(super) struct Waiting {
    pub queue: PartitionQueue<GroupContext>,
    /// Where this host, which has read the partition already, wants to go on; `None`: the committed offset decides.
    pub known: Option<CommitPoint>,
    /// From which offset on this host has read it already; `None`: it hasn't.
    pub owned_from: Option<u64>,
    /// Why librdkafka had stopped reading it; `None`: it hadn't.
    pub stopped: Option<ReadingStop>,
    /// The number of the question to the brokers about the partition; `None`: it is still to be asked.
    pub question: Option<u64>,
    /// The offset at which the partition was assigned to librdkafka once more; `None`: it wasn't.
    pub assigned_at: Option<u64>,
    /// How often in a row it wasn't assigned to librdkafka once more, because a rebalance may have been announced.
    pub refusals: u32,
    /// Since when it waits, or when it was assigned to librdkafka once more.
    pub since: Instant,
}

impl GroupContext {
    pub fn new(handler: Arc<dyn GroupHandler>) -> Self {
        Self {
            handler,
            consumer: OnceLock::new(),
            assigned: Mutex::default(),
            commits: Mutex::default(),
            ids: Arc::default(),
            has_left: AtomicBool::new(false),
            pipeline: threads::pipeline(),
        }
    }

    pub fn assigned(&self) -> MutexGuard<'_, HashMap<TopicPartition, AssignedPartition>> {
        self.assigned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn commits(&self) -> MutexGuard<'_, Commits> {
        self.commits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Splits the queue of each new partition off, so that no record of it arrives elsewhere. The polling thread seeks once
    /// it knows where to begin.
    fn take(&self, partitions: &[TopicPartition], list: &mut TopicPartitionList) -> Result<(), String> {
        let Some(consumer) = self.consumer.get().and_then(Weak::upgrade) else { return Ok(()) };
        for source in partitions {
            let (topic, partition) = (&*source.topic, source.partition.cast_signed());
            list.set_partition_offset(topic, partition, UNDECIDED)
                .map_err(|error| format!("can't assign {source}: {error}"))?;
            let queue = consumer
                .split_partition_queue(topic, partition)
                .ok_or_else(|| format!("{source} has no queue of its own"))?;
            let waiting = Waiting {
                queue,
                known: None,
                owned_from: None,
                stopped: None,
                question: None,
                assigned_at: None,
                refusals: 0,
                since: Instant::now(),
            };
            self.handler.awaits_begin(source);
            self.assigned().insert(source.clone(), AssignedPartition::Waiting(Box::new(waiting)));
        }
        Ok(())
    }

    /// Ends the reading of these partitions, lets the handler finish their records in flight, and commits. `lost`: the partitions belong
    /// to other hosts already, and nothing is committed.
    fn give_up(&self, consumer: &BaseConsumer<Self>, partitions: &[TopicPartition], lost: bool) {
        let points = self.take_back(partitions, lost);
        if !lost {
            self.commits().commit_last(consumer, points);
        }
        self.commits().forget(partitions);
    }

    /// Ends the reading of these partitions and lets the handler finish their records in flight. Returns what may be committed.
    pub fn take_back(&self, partitions: &[TopicPartition], lost: bool) -> Vec<(TopicPartition, CommitPoint)> {
        let taken: Vec<(TopicPartition, AssignedPartition)> = {
            let mut assigned = self.assigned();
            partitions.iter().filter_map(|source| assigned.remove_entry(source)).collect()
        };
        let mut points = Vec::new();
        let mut states = Vec::new();
        for (source, partition) in taken {
            match partition {
                AssignedPartition::Waiting(waiting) => points.extend(waiting.known.map(|point| (source, point))),
                AssignedPartition::Reading { state, control } => {
                    drop(control.close());
                    states.push(state);
                }
            }
        }
        points.extend(self.handler.revoked(partitions, &states, lost));
        points
    }
}

impl ClientContext for GroupContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.ids.hear(facility, message);
        threads::within(self.pipeline.clone(), || log_of_member(level, facility, message));
    }

    fn error(&self, error: KafkaError, reason: &str) {
        threads::within(self.pipeline.clone(), || error_of_member(&error, reason));
    }
}

impl ConsumerContext for GroupContext {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, event: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let partitions = partitions(list);
        let names: Vec<String> = partitions.iter().map(TopicPartition::to_string).collect();
        let cooperative = matches!(consumer.rebalance_protocol(), RebalanceProtocol::Cooperative);
        let done = if event == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            info!(partitions = ?names, "assigned");
            if !self.has_left.load(Ordering::SeqCst) {
                if let Err(reason) = self.take(&partitions, list) {
                    self.handler.failed(reason);
                }
                self.handler.given_out(true);
            }
            if cooperative { consumer.incremental_assign(list) } else { consumer.assign(list) }
        } else {
            let lost = consumer.assignment_lost();
            info!(partitions = ?names, lost, "revoked");
            if !self.has_left.load(Ordering::SeqCst) {
                self.give_up(consumer, &partitions, lost);
                // With the cooperative protocol the host keeps the other ones.
                if lost || !cooperative {
                    self.handler.given_out(false);
                }
            }
            if cooperative { consumer.incremental_unassign(list) } else { consumer.unassign() }
        };
        if let Err(error) = done
            && !self.has_left.load(Ordering::SeqCst)
        {
            self.handler.failed(format!("the group's new assignment can't be taken over: {error}"));
        }
    }
}

pub(super) fn partitions(list: &TopicPartitionList) -> Vec<TopicPartition> {
    list.elements()
        .iter()
        .map(|element| TopicPartition { topic: element.topic().into(), partition: element.partition().cast_unsigned() })
        .collect()
}
