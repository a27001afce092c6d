//! Reads Kafka as a member of a consumer group. No other folder but `kafka` knows `rdkafka`.
//!
//! The thread that runs [`GroupConsumer::run`] polls, and alone assigns, seeks and commits, except the last commit, which the
//! thread `leaving` sends. A partition that the group gives to
//! this host waits until its begin is known, then a worker reads it. A re-read takes the partition away from its worker and lets it
//! begin again at another offset, as if another host had committed that one.
//!
//! Guarantees: only commit points that a [`crate::flow::PartitionState`] made are committed; where a partition begins is decided by
//! [`crate::kafka::start`] from what Kafka has, and moved back by the recovery if the store has restarted; before a partition is given
//! up, its reading ends and its records in flight are finished, as far as time allows; one that can't be begun holds up no other.

mod begin;
mod commit_queue;
mod commits;
mod group;
mod handler;
mod main_queue;
mod member;
mod partition_reader;
mod questions;
mod seek;
#[cfg(test)]
mod tests;
mod topic_ids;
mod unreadable;

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::types::RDKafkaErrorCode;
use tracing::{debug, error, info, warn};

use self::begin::SEEK_TIMEOUT;
use self::commit_queue::CommitQueue;
use self::group::{AssignedPartition, GroupContext, partitions};
pub use self::handler::{Beginning, ConsumerEnd, ConsumerError, GroupHandler};
pub use self::member::{Member, session};
pub use self::partition_reader::{PartitionReader, Polled};
use self::questions::Questions;
use self::unreadable::Skipping;
use crate::config::{self, OnUnreadable, StartPolicy, threads};
use crate::flow::CommitPoint;
use crate::flow::store_start::now_ms;
use crate::kafka::client::{QUEUE, client_config, is_newer_protocol, told};
use crate::kafka::client_files::ClientFiles;
use crate::record::TopicPartition;

/// How long one poll of the main queue waits, and how long while partitions wait to be begun.
const POLL: Duration = Duration::from_millis(100);
const POLL_WAITING: Duration = Duration::from_millis(10);
/// How often progress is committed.
const COMMIT_EVERY: Duration = Duration::from_secs(1);
/// How many KiB of records may wait in librdkafka, where the host's budget doesn't count them: in all partitions together, and the least
/// and the most in each of them.
const QUEUES_KBYTES: usize = 32 << 10;
const QUEUE_KBYTES: RangeInclusive<usize> = 1 << 10..=16 << 10;
/// How long leaving the group may take; with the brokers away it can hang.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(4);
/// How often the thread `leaving` looks whether nobody else uses the consumer any more.
const LET_GO_EVERY: Duration = Duration::from_millis(10);
/// How long this host waits before it begins partitions, where it may have taken the name of a host that runs: that host learns of it with
/// its next heartbeat (3 s apart by default), and may be writing until then.
const NAMESAKE_NOTICES: Duration = Duration::from_secs(5);

/// A member of the consumer group.
pub struct GroupConsumer {
    consumer: Arc<BaseConsumer<GroupContext>>,
    handler: Arc<dyn GroupHandler>,
    policy: StartPolicy,
    on_unreadable: OnUnreadable,
    skipping: Skipping,
    questions: Questions,
    next_question: u64,
    commit_queue: CommitQueue,
    /// The number of the commit that asks whether this host is still a member.
    confirming: Option<usize>,
    /// Whether this host has a name in its group.
    is_named: bool,
    /// Whether leaving needs an `unsubscribe` first: in the classic protocol closing alone may not leave the group.
    leaves_by_unsubscribing: bool,
    /// Until this moment, in milliseconds since the Unix epoch, requests of the host that had this one's name before may still reach the
    /// store; `None`: there was no such host.
    late_until_ms: Option<u64>,
    /// No partition begins before this moment.
    begin_after: Instant,
    files: Arc<ClientFiles>,
    /// What [`ClientFiles::renewals`] was when the client was made.
    renewals: u64,
}

impl GroupConsumer {
    /// Subscribes to the topics, so that librdkafka joins the group. Until [`Self::run`] is called no partition is taken. `partitions`: how
    /// many partitions share the memory of the queues.
    pub fn new(
        config: &config::Kafka,
        member: &Member,
        partitions: usize,
        files: Arc<ClientFiles>,
        handler: Arc<dyn GroupHandler>,
    ) -> Result<Self, ConsumerError> {
        let renewals = files.renewals();
        let mut client = client_config(config);
        if let Some(name) = member.name() {
            client.set("group.instance.id", name);
        }
        if !config.properties.contains_key(QUEUE) {
            client.set(QUEUE, queue_kbytes(partitions).to_string());
        }
        // librdkafka tells the ids of topics in these lines of its log only, see `topic_ids`.
        let debug = config.properties.get("debug").filter(|list| !list.is_empty());
        client.set(
            "debug",
            debug.into_iter().map(String::as_str).chain([topic_ids::DEBUG]).collect::<Vec<_>>().join(","),
        );
        client.set_log_level(RDKafkaLogLevel::Debug);
        let consumer: BaseConsumer<GroupContext> = client
            .create_with_context(GroupContext::new(Arc::clone(&handler)))
            .map_err(|e| ConsumerError::Configuration(told(&e)))?;
        let consumer = Arc::new(consumer);
        let _ = consumer.context().consumer.set(Arc::downgrade(&consumer));
        let topics: Vec<&str> = config.topics.iter().map(String::as_str).collect();
        // A host that had this name and didn't leave the group was killed, or it runs and loses the name now.
        let succeeds = member.name().is_some_and(|name| member::finds(&consumer, &config.group, name));
        let session = u64::try_from(member::session(config).as_millis()).unwrap_or(u64::MAX);
        consumer
            .subscribe(&topics)
            .map_err(|error| ConsumerError::Subscribe { topics: config.topics.clone(), error })?;
        let questions = Questions::start(Arc::downgrade(&consumer), Arc::clone(&handler), config.group.clone())
            .map_err(ConsumerError::Thread)?;
        let commit_queue = CommitQueue::new(Arc::clone(&consumer))
            .ok_or_else(|| ConsumerError::Configuration("no queue for the answers to commits".to_owned()))?;
        let policy = config.start;
        Ok(Self {
            consumer,
            handler,
            policy,
            on_unreadable: config.on_unreadable,
            skipping: Skipping::new(config),
            questions,
            next_question: 0,
            commit_queue,
            confirming: None,
            is_named: member.name().is_some(),
            leaves_by_unsubscribing: !is_newer_protocol(config),
            late_until_ms: succeeds.then(|| now_ms().saturating_add(session)),
            begin_after: Instant::now()
                + if succeeds && member.may_be_shared() { NAMESAKE_NOTICES } else { Duration::ZERO },
            files,
            renewals,
        })
    }

    /// Serves the group until [`GroupHandler::should_stop`], then gives all partitions back, commits and leaves.
    pub fn run(mut self) -> ConsumerEnd {
        let mut committed_at = Instant::now();
        while !self.handler.should_stop() {
            if self.has_lost_its_name() {
                self.leave(true, CLOSE_TIMEOUT);
                return ConsumerEnd::NameTaken;
            }
            if self.files.renewals() != self.renewals {
                info!("joining the group again with the replaced certificates, keys and passwords");
                let lost = self.consumer.assignment_lost();
                self.leave(lost, CLOSE_TIMEOUT);
                return ConsumerEnd::FilesReplaced;
            }
            let is_waiting =
                self.context().assigned().values().any(|partition| matches!(partition, AssignedPartition::Waiting(_)));
            self.poll(if is_waiting { POLL_WAITING } else { POLL });
            self.check_logs();
            self.end_rereads();
            self.ask();
            self.hear();
            self.probe();
            self.look_at_unreadable();
            self.skip();
            self.hear_of_commits();
            self.confirm_membership();
            if committed_at.elapsed() >= COMMIT_EVERY {
                committed_at = Instant::now();
                self.commit();
                self.watch_topics();
            }
        }
        let lost = self.consumer.assignment_lost();
        let within = CLOSE_TIMEOUT.min(self.handler.time_to_leave());
        self.leave(lost, within);
        ConsumerEnd::Stopped
    }

    fn has_lost_its_name(&self) -> bool {
        let fatal = || self.consumer.client().fatal_error();
        self.is_named && matches!(fatal(), Some((RDKafkaErrorCode::FencedInstanceId, _)))
    }

    fn context(&self) -> &Arc<GroupContext> {
        self.consumer.context()
    }

    fn poll(&self, timeout: Duration) {
        match self.consumer.poll(timeout) {
            None => {}
            Some(Ok(message)) => self.handler.failed(format!(
                "a record of {}/{} arrived outside of its partition's queue",
                message.topic(),
                message.partition()
            )),
            // `run` looks for that before the next poll.
            Some(Err(_)) if self.has_lost_its_name() => {}
            Some(Err(KafkaError::MessageConsumptionFatal(code))) => {
                self.handler.failed(format!("Kafka refuses to go on: {code}"));
            }
            // A host that may describe the group but not read it learns of the refusal in no other way.
            Some(Err(KafkaError::MessageConsumption(RDKafkaErrorCode::GroupAuthorizationFailed))) => {
                self.handler.group_denied();
            }
            // The client's context has logged it already.
            Some(Err(error)) => debug!(%error, "Kafka reports a problem; librdkafka goes on trying"),
        }
    }

    fn watch_topics(&self) {
        let topics: HashSet<String> = self.context().assigned().keys().map(|source| source.topic.to_string()).collect();
        self.questions.watch(topics);
    }

    /// Finds out whether any records are left before an end that Kafka named a while ago: reads again from the next
    /// offset on, which brings either a record or the end of the partition. librdkafka tells the end only once otherwise.
    fn probe(&self) {
        for (source, end) in self.handler.take_probes() {
            let assigned = self.context().assigned();
            let Some(AssignedPartition::Reading { state, control }) = assigned.get(&source) else { continue };
            let seek = || seek::seek(&self.consumer, &source, state.next_offset(), state.leader_epoch(), SEEK_TIMEOUT);
            match control.probe(end, seek) {
                Ok(()) => {}
                // librdkafka stopped reading the partition, and a rebalance dropped the event that says so: it pauses all partitions.
                Err(RDKafkaErrorCode::State) if control.unchecked_since().is_none() => state.begin_again(),
                Err(error) => warn!(partition = %source, %error, "can't read the end of the partition again"),
            }
        }
    }

    /// What may be committed now.
    fn points(&self) -> Vec<(TopicPartition, CommitPoint)> {
        let assigned = self.context().assigned();
        let point = |(source, partition): (&TopicPartition, &AssignedPartition)| {
            let point = match partition {
                AssignedPartition::Waiting(waiting) => waiting.known.clone(),
                AssignedPartition::Reading { state, .. } => self.handler.commit_point(state),
            };
            point.map(|point| (source.clone(), point))
        };
        assigned.iter().filter_map(point).collect()
    }

    fn commit(&self) {
        let points = self.points();
        if !self.consumer.assignment_lost() {
            self.context().commits().send_changed(&self.commit_queue, points);
        }
    }

    fn hear_of_commits(&mut self) {
        for answer in self.commit_queue.answers() {
            let outcome = self.context().commits().answered(&answer);
            if self.confirming.take_if(|number| *number == answer.number).is_some() {
                match &outcome {
                    Ok(()) => self.handler.membership_confirmed(),
                    Err(refusal) => warn!(refusal.reason, "the group doesn't confirm the membership yet"),
                }
            }
            match outcome {
                Err(refusal) if refusal.is_past => {
                    debug!(refusal.reason, "the group refused a commit for partitions that were given up since");
                }
                outcome => self.handler.committed(outcome.map_err(|refusal| refusal.reason)),
            }
        }
    }

    /// Asks the group's coordinator by committing: it refuses a member that isn't in the present generation.
    fn confirm_membership(&mut self) {
        if self.confirming.is_some() || !self.handler.look_for_doubt() {
            return;
        }
        if self.context().assigned().is_empty() {
            // Without a partition there is nothing that another member could be writing, too.
            return self.handler.membership_confirmed();
        }
        let mut points = self.points();
        if points.is_empty() {
            points = self.context().commits().sent();
        }
        if !points.is_empty() {
            let number = self.context().commits().send(&self.commit_queue, points);
            self.confirming = number;
        }
    }

    /// Gives all partitions back, commits and leaves the group. `lost`: they belong to others already.
    fn leave(self, lost: bool, within: Duration) {
        let (done, closed) = channel();
        let (consumer, assigned) = (Arc::clone(&self.consumer), self.consumer.assignment());
        let (unsubscribes, context) = (self.leaves_by_unsubscribing && !lost, Arc::clone(self.consumer.context()));
        let assigned = match assigned {
            Ok(assigned) => partitions(&assigned),
            Err(error) => {
                error!(%error, "can't tell the assignment while leaving the group");
                context.assigned().keys().cloned().collect()
            }
        };
        let points = context.take_back(&assigned, lost);
        context.has_left.store(true, Ordering::SeqCst);
        drop(self);
        let leaving = threads::spawn("leaving", move || {
            if !lost {
                context.commits().commit_last(&consumer, points);
            }
            drop(context);
            if unsubscribes {
                member::say_farewell(&consumer);
            }
            // The consumer leaves the group when the last reference to it is dropped, and a question to the brokers may still hold one.
            let mut consumer = consumer;
            while let Err(shared) = Arc::try_unwrap(consumer).map(drop) {
                consumer = shared;
                std::thread::sleep(LET_GO_EVERY);
            }
            let _ = done.send(());
        });
        if leaving.is_err() || closed.recv_timeout(within).is_err() {
            warn!("leaving the group takes too long; the broker will notice by the session's timeout");
        }
    }
}

/// How many KiB the queue of one partition may hold. All queues together hold [`QUEUES_KBYTES`] at most even if this host gets all
/// partitions; but each may hold what a steady stream of large records needs, and with very many partitions that is more in all.
fn queue_kbytes(partitions: usize) -> usize {
    (QUEUES_KBYTES / partitions.max(1)).clamp(*QUEUE_KBYTES.start(), *QUEUE_KBYTES.end())
}
