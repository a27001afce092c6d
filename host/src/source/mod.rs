//! Reads Kafka as a member of a consumer group: the only place that knows `rdkafka` besides `kafka`.
//!
//! The thread that runs [`Source::run`] polls, and alone assigns, seeks and commits. A partition that the group gives to
//! this host waits until its begin is known, then a worker reads it. A re-read takes it away from the worker and lets it
//! begin again, as if another host had committed where.
//!
//! Guarantees: what is committed is what [`PartitionState::commit_point`] says; where a partition begins is decided in one
//! place, see [`start`]; a partition is taken back before it is given up; one that can't be begun holds up no other.

mod commit_queue;
mod commits;
mod group;
mod member;
mod partition_reader;
mod questions;
mod seek;
#[cfg(test)]
mod tests;
mod topic_ids;
mod unreadable;

use std::collections::{HashMap, HashSet};
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaErrorCode;
use thiserror::Error;
use tracing::{debug, error, info, warn};

use self::commit_queue::CommitQueue;
use self::group::{AssignedPartition, GroupContext, UNDECIDED, Waiting, partitions};
pub use self::member::Member;
pub use self::partition_reader::{PartitionReader, Polled};
use self::questions::{BeginAnswer, BrokerNews, FoundBegin, Question, Questions};
use self::unreadable::Skipping;
use crate::config::{self, OnUnreadable, StartPolicy, threads};
use crate::flow::store_start::now_ms;
use crate::flow::{CommitPoint, PartitionState};

use crate::kafka::client::{QUEUE, client_config, told};
use crate::kafka::client_files::ClientFiles;
use crate::kafka::metadata::KafkaCheckError;
use crate::kafka::start::{self, Facts};
use crate::record::{TopicId, TopicPartition};

/// How long one poll of the main queue waits, and how long while partitions wait to be begun.
const POLL: Duration = Duration::from_millis(100);
const POLL_WAITING: Duration = Duration::from_millis(10);
/// How often progress is committed.
const COMMIT_EVERY: Duration = Duration::from_secs(1);
/// How long a seek may take, which asks no broker.
const SEEK_TIMEOUT: Duration = Duration::from_secs(2);
/// librdkafka may refuse to seek in a partition that was assigned a moment ago.
const SEEK_PATIENCE: Duration = Duration::from_secs(2);
/// What may wait in librdkafka before the host's own budget counts it: in all partitions together, and in each.
const QUEUES_KBYTES: usize = 32 << 10;
const QUEUE_KBYTES: RangeInclusive<usize> = 1 << 10..=16 << 10;
/// How long leaving the group may take; with the brokers away it can hang.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(4);
/// How often it is tried whether nobody else uses the consumer any more.
const LET_GO_EVERY: Duration = Duration::from_millis(10);
/// Another host that lost its name to this one learns of it with its next heartbeat, 3 s apart by default; until then it may
/// be writing.
const NAMESAKE_NOTICES: Duration = Duration::from_secs(5);

/// Where a partition begins, with what the brokers say of it.
#[derive(Debug, Clone)]
pub struct Beginning {
    /// Where to begin; the handler may choose an earlier offset that is still there.
    pub point: CommitPoint,
    /// What the brokers say of the partition.
    pub facts: Facts,
    /// This host goes on with the partition, to re-read it: nobody else has written since.
    pub is_reread: bool,
}

/// Has the partitions that the group gives to this host. Called by the thread that runs [`Source::run`], where nothing
/// else is said.
pub trait GroupHandler: Send + Sync {
    /// The partition isn't read yet, for this reason.
    fn waiting(&self, source: &TopicPartition, reason: &str);
    /// Decides where exactly the partition begins.
    fn begin(&self, source: &TopicPartition, beginning: Beginning) -> Result<Arc<PartitionState>, String>;
    /// The batch at this offset of the partition can't be read, for this reason. It is fetched again from time to time.
    fn unreadable(&self, source: &TopicPartition, offset: u64, reason: &str);
    /// Nothing is read of these offsets, because the batch that has them can't be read, for this reason.
    fn skipped(&self, source: &TopicPartition, offsets: Range<u64>, reason: &str);
    /// The partition is ready to be read.
    fn assigned(&self, reader: PartitionReader, state: &Arc<PartitionState>);
    /// The group takes the partitions back; `states` are those that had begun, and nothing is read for them any more.
    /// Finishes what is in flight as far as that goes, and answers with what may be committed. `lost`: the partitions
    /// belong to others already, so nothing more may be written.
    fn revoked(
        &self,
        partitions: &[TopicPartition],
        states: &[Arc<PartitionState>],
        lost: bool,
    ) -> Vec<(TopicPartition, CommitPoint)>;
    /// What may be committed for the partition now. Adds what the state doesn't know.
    fn commit_point(&self, state: &PartitionState) -> Option<CommitPoint>;
    /// The group took a commit, or refused it.
    fn committed(&self, outcome: Result<(), String>);
    /// The reason if no other member of the group may own partitions of this topic, because several partitions of it
    /// write to one entry. Called by any thread.
    fn requires_sole_member(&self, topic: &str, partitions: usize) -> Option<String>;
    /// The source can't go on. Called by any thread.
    fn failed(&self, reason: String);
    /// Whether to stop.
    fn is_stopping(&self) -> bool;
    /// How long leaving the group may take at a stop.
    fn time_to_leave(&self) -> Duration;
    /// Idle partitions whose tails may hold no records, with the ends that Kafka named.
    fn take_probes(&self) -> Vec<(TopicPartition, u64)>;
    /// Whether the group should be asked if this host is still a member.
    fn is_membership_doubted(&self) -> bool;
    /// The group says that it is.
    fn membership_confirmed(&self);
}

/// Why a source doesn't start.
#[derive(Debug, Error)]
pub enum SourceError {
    /// librdkafka takes one of the properties for wrong.
    #[error("librdkafka refuses the configuration: {0}")]
    Configuration(String),
    /// Kafka doesn't answer, or refuses.
    #[error("Kafka at {0}")]
    Away(#[from] KafkaCheckError),
    /// librdkafka takes one of the topics for wrong.
    #[error("can't subscribe to {topics:?}: {error}")]
    Subscribe {
        /// As configured.
        topics: Vec<String>,
        /// librdkafka's words.
        error: KafkaError,
    },
    /// The system gives no thread.
    #[error("can't start a thread: {0}")]
    Thread(std::io::Error),
}

/// Why a source has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceEnd {
    /// The host stops.
    Stopped,
    /// Another host has taken this one's name in the group. Nothing of what this one had is its own any more.
    NameTaken,
    /// The certificates, keys or passwords were replaced, which a client can't take over: all was given back, for a member that
    /// is made of the new ones.
    FilesReplaced,
}

/// A member of the consumer group.
pub struct Source {
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
    /// Until this moment, in milliseconds since the Unix epoch, requests of a host that had the name before may come.
    late_until_ms: Option<u64>,
    /// Partitions begin after this moment.
    begin_after: Instant,
    files: Arc<ClientFiles>,
    /// What `files` counted when the client was made.
    made_of: u64,
}

impl Source {
    /// Joins nothing yet; [`Self::run`] does. `partitions`: how many there are to share the queues' memory.
    pub fn new(
        config: &config::Kafka,
        member: &Member,
        partitions: usize,
        files: Arc<ClientFiles>,
        handler: Arc<dyn GroupHandler>,
    ) -> Result<Self, SourceError> {
        let made_of = files.renewals();
        let mut client = client_config(config);
        if let Some(name) = member.name() {
            client.set("group.instance.id", name);
        }
        if !config.properties.contains_key(QUEUE) {
            client.set(QUEUE, queue_kbytes(partitions).to_string());
        }
        // What it says to that is for the topics' ids.
        let debug = config.properties.get("debug").filter(|list| !list.is_empty());
        client.set(
            "debug",
            debug.into_iter().map(String::as_str).chain([topic_ids::DEBUG]).collect::<Vec<_>>().join(","),
        );
        client.set_log_level(RDKafkaLogLevel::Debug);
        let consumer: BaseConsumer<GroupContext> = client
            .create_with_context(GroupContext::new(Arc::clone(&handler)))
            .map_err(|e| SourceError::Configuration(told(&e)))?;
        let consumer = Arc::new(consumer);
        let _ = consumer.context().consumer.set(Arc::downgrade(&consumer));
        let topics: Vec<&str> = config.topics.iter().map(String::as_str).collect();
        // A host of this name that didn't leave was killed, or lives and loses the name now.
        let succeeds = member.name().is_some_and(|name| member::finds(&consumer, &config.group, name));
        let session = u64::try_from(member::session(config).as_millis()).unwrap_or(u64::MAX);
        consumer.subscribe(&topics).map_err(|error| SourceError::Subscribe { topics: config.topics.clone(), error })?;
        let questions = Questions::start(Arc::downgrade(&consumer), Arc::clone(&handler), config.group.clone())
            .map_err(SourceError::Thread)?;
        let commit_queue = CommitQueue::new(Arc::clone(&consumer))
            .ok_or_else(|| SourceError::Configuration("no queue for the answers to commits".to_owned()))?;
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
            late_until_ms: succeeds.then(|| now_ms().saturating_add(session)),
            begin_after: Instant::now()
                + if succeeds && member.may_be_shared() { NAMESAKE_NOTICES } else { Duration::ZERO },
            files,
            made_of,
        })
    }

    /// Serves the group until [`GroupHandler::is_stopping`], then gives all partitions back, commits and leaves.
    pub fn run(mut self) -> SourceEnd {
        let mut committed_at = Instant::now();
        while !self.handler.is_stopping() {
            if self.has_lost_its_name() {
                self.leave(true, CLOSE_TIMEOUT);
                return SourceEnd::NameTaken;
            }
            if self.files.renewals() != self.made_of {
                info!("joining the group again with the replaced certificates, keys and passwords");
                let lost = self.consumer.assignment_lost();
                self.leave(lost, CLOSE_TIMEOUT);
                return SourceEnd::FilesReplaced;
            }
            let is_waiting =
                self.context().places().values().any(|place| matches!(place, AssignedPartition::Waiting(_)));
            self.poll(if is_waiting { POLL_WAITING } else { POLL });
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
        SourceEnd::Stopped
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
            // The caller looks for it.
            Some(Err(_)) if self.has_lost_its_name() => {}
            Some(Err(KafkaError::MessageConsumptionFatal(code))) => {
                self.handler.failed(format!("Kafka refuses to go on: {code}"));
            }
            // Said by the client's context already.
            Some(Err(error)) => debug!(%error, "Kafka reports a problem; librdkafka goes on trying"),
        }
    }

    /// Takes partitions away from their workers that have to begin at another offset and have nothing in flight.
    fn end_rereads(&self) {
        let mut places = self.context().places();
        for (source, place) in places.iter_mut() {
            let AssignedPartition::Reading { state, control } = place else { continue };
            let Some(point) = state.try_end() else { continue };
            let was_out_of_range = state.was_out_of_range();
            let Some(queue) = control.close() else { continue };
            info!(partition = %source, offset = point.offset, was_out_of_range, "reading from another offset");
            self.handler.waiting(source, "asking Kafka where to go on");
            let known = Some(point);
            let since = Instant::now();
            let waiting = Waiting { queue, known, was_out_of_range, question: None, assigned_at: None, since };
            *place = AssignedPartition::Waiting(Box::new(waiting));
        }
    }

    fn ask(&mut self) {
        if Instant::now() < self.begin_after {
            return;
        }
        let mut places = self.consumer.context().places();
        for (source, place) in places.iter_mut() {
            if let AssignedPartition::Waiting(waiting) = place
                && waiting.question.is_none()
            {
                self.next_question += 1;
                let number = self.next_question;
                waiting.question = Some(number);
                let wants_committed = waiting.known.is_none();
                let topic_id = waiting.known.as_ref().and_then(|point| point.metadata.topic_id);
                self.questions.ask(Question { source: source.clone(), number, wants_committed, topic_id });
            }
        }
    }

    fn hear(&mut self) {
        for told in self.questions.told() {
            match told {
                BrokerNews::Answer(answer) => self.answered(*answer),
                BrokerNews::Ids(ids) => self.compare_ids(&ids),
            }
        }
    }

    fn answered(&mut self, answer: BeginAnswer) {
        let BeginAnswer { source, number, found } = answer;
        let is_open = |place: &AssignedPartition| matches!(place, AssignedPartition::Waiting(waiting) if waiting.question == Some(number));
        let taken = {
            let mut places = self.context().places();
            if places.get(&source).is_some_and(is_open) { places.remove(&source) } else { None }
        };
        let Some(AssignedPartition::Waiting(waiting)) = taken else { return self.questions.forget(number) };
        match found {
            Err(reason) => {
                self.handler.waiting(&source, &reason);
                self.put(source, AssignedPartition::Waiting(waiting));
            }
            Ok(found) => self.begin(source, waiting, found),
        }
    }

    fn put(&self, source: TopicPartition, place: AssignedPartition) {
        self.context().places().insert(source, place);
    }

    /// Begins a partition whose begin can be decided now.
    fn begin(&mut self, source: TopicPartition, mut waiting: Box<Waiting>, found: FoundBegin) {
        let FoundBegin { facts, committed } = found;
        if let Some(committed) = &committed {
            self.context().commits().known(&source, committed.clone());
        }
        let known = waiting.known.clone().or(committed);
        // The group has no offset for a topic that was created again.
        let is_first = known.as_ref().is_none_or(|point| point.metadata.topic_id != facts.topic_id);
        let is_reread = waiting.known.is_some() && !waiting.was_out_of_range;
        let mut point = start::begin(&source, known, &facts, self.policy, waiting.was_out_of_range);
        let late_until_ms = self.late_until_ms.filter(|until_ms| now_ms() < *until_ms);
        if let (Ok(point), Some(until_ms)) = (&mut point, late_until_ms) {
            point.expect_late_requests(until_ms);
        }
        let begun = point.and_then(|point| self.handler.begin(&source, Beginning { point, facts, is_reread }));
        let state = match begun {
            Ok(state) => state,
            Err(reason) => return self.handler.failed(reason),
        };
        match self.move_to(&source, &mut waiting, state.next_offset(), state.leader_epoch()) {
            Ok(()) => {
                if is_first || late_until_ms.is_some() {
                    // For the next reader, too, `latest` holds from now on, and late requests are expected.
                    let first = vec![(source.clone(), state.first_commit())];
                    self.context().commits().send_changed(&self.commit_queue, first);
                }
                let (reader, control) = PartitionReader::new(
                    source.clone(),
                    state.topic_id(),
                    Arc::clone(&self.context().ids),
                    waiting.queue,
                );
                self.handler.assigned(reader, &state);
                self.put(source, AssignedPartition::Reading { state, control });
            }
            Err(error) => {
                debug!(partition = %source, %error, "can't read from there yet; trying again");
                state.end();
                waiting.question = None;
                self.put(source, AssignedPartition::Waiting(waiting));
            }
        }
    }

    /// Makes librdkafka read the partition from this offset on. An error: it can't be done yet.
    fn move_to(
        &self,
        source: &TopicPartition,
        waiting: &mut Waiting,
        offset: u64,
        epoch: Option<u32>,
    ) -> KafkaResult<()> {
        // What is queued is of another offset. Errors in there would be taken for ones of the new.
        let mut has_stopped = waiting.was_out_of_range;
        while let Some(queued) = waiting.queue.poll(Duration::ZERO) {
            has_stopped |= matches!(queued, Err(KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset)));
        }
        match seek::seek(&self.consumer, source, offset, epoch, SEEK_TIMEOUT) {
            Err(refused) if has_stopped || waiting.since.elapsed() > SEEK_PATIENCE => {
                // librdkafka has stopped reading the partition, and seeks only in those that it reads. That happens at each
                // start where Kafka has deleted the partition's first records.
                self.assign_again(source, Offset::Offset(offset.cast_signed()))?;
                if epoch.is_none() {
                    return Ok(());
                }
                // Only a seek has librdkafka ask whether the log was truncated below the offset, so it is tried again.
                (waiting.assigned_at, waiting.since) = (Some(offset), Instant::now());
                Err(refused)
            }
            sought => sought,
        }
    }

    fn assign_again(&self, source: &TopicPartition, offset: Offset) -> KafkaResult<()> {
        let partition = source.partition.cast_signed();
        if matches!(self.consumer.rebalance_protocol(), RebalanceProtocol::Cooperative) {
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(&source.topic, partition, offset)?;
            self.consumer.incremental_unassign(&list)?;
            return self.consumer.incremental_assign(&list);
        }
        // Eager protocols know only whole assignments. The others go on where they are; a record that comes twice is
        // ignored by the state, and none is left out.
        let mut all = TopicPartitionList::new();
        all.add_partition_offset(&source.topic, partition, offset)?;
        for (other, place) in self.context().places().iter().filter(|(other, _)| *other != source) {
            let next = match place {
                // At the beginning librdkafka might find nothing and stop again, and so would take turns with this one.
                AssignedPartition::Waiting(waiting) => {
                    waiting.assigned_at.map_or(UNDECIDED, |offset| Offset::Offset(offset.cast_signed()))
                }
                AssignedPartition::Reading { state, .. } => Offset::Offset(state.next_offset().cast_signed()),
            };
            all.add_partition_offset(&other.topic, other.partition.cast_signed(), next)?;
        }
        self.consumer.assign(&all)
    }

    /// Lets partitions begin again whose topics were deleted and created again.
    fn compare_ids(&self, ids: &HashMap<String, TopicId>) {
        for place in self.context().places().values() {
            if let AssignedPartition::Reading { state, .. } = place
                && let (Some(before), Some(now)) = (state.topic_id(), ids.get(&*state.source.topic))
                && before != *now
            {
                state.report_out_of_range();
            }
        }
    }

    fn watch_topics(&self) {
        let topics: HashSet<String> = self.context().places().keys().map(|source| source.topic.to_string()).collect();
        self.questions.watch(topics);
    }

    /// Finds out whether any records are left before an end that Kafka named a while ago: reads again from the next
    /// offset on, which brings either a record or the end of the partition. librdkafka tells the end only once otherwise,
    /// and doesn't tell where it is.
    fn probe(&self) {
        for (source, end) in self.handler.take_probes() {
            let places = self.context().places();
            let Some(AssignedPartition::Reading { state, control }) = places.get(&source) else { continue };
            let next = Offset::Offset(state.next_offset().cast_signed());
            let seek = || self.consumer.seek(&source.topic, source.partition.cast_signed(), next, SEEK_TIMEOUT);
            if let Err(error) = control.probe(end, seek) {
                warn!(partition = %source, %error, "can't read the end of the partition again");
            }
        }
    }

    /// What may be committed now.
    fn points(&self) -> Vec<(TopicPartition, CommitPoint)> {
        let places = self.context().places();
        let point = |(source, place): (&TopicPartition, &AssignedPartition)| {
            let point = match place {
                AssignedPartition::Waiting(waiting) => waiting.known.clone(),
                AssignedPartition::Reading { state, .. } => self.handler.commit_point(state),
            };
            point.map(|point| (source.clone(), point))
        };
        places.iter().filter_map(point).collect()
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
                    Err(reason) => warn!(reason, "the group doesn't confirm the membership yet"),
                }
            }
            self.handler.committed(outcome);
        }
    }

    /// Asks the group's coordinator by committing: it refuses a member that isn't in the present generation.
    fn confirm_membership(&mut self) {
        if self.confirming.is_some() || !self.handler.is_membership_doubted() {
            return;
        }
        if self.context().places().is_empty() {
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
        let (is_named, context) = (self.is_named && !lost, Arc::clone(self.consumer.context()));
        let assigned = match assigned {
            Ok(assigned) => partitions(&assigned),
            Err(error) => {
                error!(%error, "can't tell the assignment while leaving the group");
                context.places().keys().cloned().collect()
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
            if is_named {
                member::say_farewell(&consumer);
            }
            // Only the last one to let go of the consumer leaves the group; a question to the brokers may be under way.
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

/// So that this host's queues hold [`QUEUES_KBYTES`] at most even if it gets all partitions, and each still what keeps a
/// stream of large records going.
fn queue_kbytes(partitions: usize) -> usize {
    (QUEUES_KBYTES / partitions.max(1)).clamp(*QUEUE_KBYTES.start(), *QUEUE_KBYTES.end())
}
