//! Begins partitions: those that the group gave to this host, those that are read again from another offset, and those whose
//! topic was created again.
//!
//! Guarantees: a partition is read only after the brokers answered the question for it that was asked last; one that can't be begun
//! yet waits with its reason, and is tried again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{Consumer, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaErrorCode;
use tracing::{debug, info};

use super::group::{AssignedPartition, UNDECIDED, Waiting};
use super::questions::{BeginAnswer, BrokerNews, FoundBegin, Question};
use super::{Beginning, GroupConsumer, PartitionReader, main_queue, seek};
use crate::flow::store_start::now_ms;
use crate::flow::{Phase, ReadingStop};
use crate::kafka::start;
use crate::record::{TopicId, TopicPartition};

/// How long a seek may take, which asks no broker.
pub(super) const SEEK_TIMEOUT: Duration = Duration::from_secs(2);
/// librdkafka may refuse to seek in a partition that was assigned a moment ago.
const SEEK_PATIENCE: Duration = Duration::from_secs(2);
/// How many events in a row, each of which may be a rebalance, keep a partition from being assigned again; each is taken before the next
/// try. With all of librdkafka's debug log on, the queue is hardly ever empty.
const REFUSALS: u32 = 100;
/// How long librdkafka may refuse to look for a truncated log, as it does while commits are open, before the partition begins again.
const CHECK_PATIENCE: Duration = Duration::from_secs(30);

impl GroupConsumer {
    /// Takes the partitions that have to begin at another offset, and have nothing in flight any more, away from their workers.
    pub(super) fn end_rereads(&self) {
        let mut assigned = self.context().assigned();
        for (source, partition) in assigned.iter_mut() {
            let AssignedPartition::Reading { state, control } = partition else { continue };
            let Some(point) = state.try_end() else { continue };
            let stopped = state.reading_stop();
            let Some(queue) = control.close() else { continue };
            let was_out_of_range = stopped == Some(ReadingStop::OutOfRange);
            info!(partition = %source, offset = point.offset, was_out_of_range, "reading from another offset");
            self.handler.awaits_begin(source);
            let waiting = Waiting {
                queue,
                known: Some(point),
                owned_from: Some(state.owned_from()),
                stopped,
                question: None,
                assigned_at: None,
                refusals: 0,
                since: Instant::now(),
            };
            *partition = AssignedPartition::Waiting(Box::new(waiting));
        }
    }

    /// Asks the brokers where the partitions begin that wait, unless that was asked already.
    pub(super) fn ask(&mut self) {
        if Instant::now() < self.begin_after {
            return;
        }
        let mut assigned = self.consumer.context().assigned();
        for (source, partition) in assigned.iter_mut() {
            if let AssignedPartition::Waiting(waiting) = partition
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

    /// Takes the answers of the brokers.
    pub(super) fn hear(&mut self) {
        for told in self.questions.told() {
            match told {
                BrokerNews::Answer(answer) => self.answered(*answer),
                BrokerNews::Ids(ids) => self.compare_ids(&ids),
            }
        }
    }

    fn answered(&mut self, answer: BeginAnswer) {
        let BeginAnswer { source, number, found } = answer;
        let is_open = |partition: &AssignedPartition| matches!(partition, AssignedPartition::Waiting(waiting) if waiting.question == Some(number));
        let taken = {
            let mut assigned = self.context().assigned();
            if assigned.get(&source).is_some_and(is_open) { assigned.remove(&source) } else { None }
        };
        let Some(AssignedPartition::Waiting(waiting)) = taken else { return self.questions.forget(number) };
        match found {
            Err(reason) => {
                self.handler.cannot_begin(&source, &reason);
                self.put(source, AssignedPartition::Waiting(waiting));
            }
            Ok(found) => self.begin_partition(source, waiting, found),
        }
    }

    fn put(&self, source: TopicPartition, partition: AssignedPartition) {
        self.context().assigned().insert(source, partition);
    }

    /// Begins a partition whose begin can be decided now.
    fn begin_partition(&mut self, source: TopicPartition, mut waiting: Box<Waiting>, found: FoundBegin) {
        if waiting.stopped.is_some() && !self.may_assign(waiting.refusals) {
            waiting.refusals += 1;
            waiting.question = None;
            return self.put(source, AssignedPartition::Waiting(waiting));
        }
        let FoundBegin { facts, committed } = found;
        if let Some(committed) = &committed {
            self.context().commits().known(&source, committed.clone());
        }
        let known = waiting.known.clone().or(committed);
        // The group has no offset for a topic that was created again.
        let is_first = known.as_ref().is_none_or(|point| point.metadata.topic_id != facts.topic_id);
        let is_reread = waiting.known.is_some() && waiting.stopped.is_none();
        let was_out_of_range = waiting.stopped == Some(ReadingStop::OutOfRange);
        let mut point = start::choose_begin(&source, known, &facts, self.policy, was_out_of_range);
        let late_until_ms = self.late_until_ms.filter(|until_ms| now_ms() < *until_ms);
        if let (Ok(point), Some(until_ms)) = (&mut point, late_until_ms) {
            point.expect_late_requests(until_ms);
        }
        let owned_from = waiting.owned_from;
        let beginning = |point| Beginning { point, facts, is_reread, owned_from };
        let begun = point.and_then(|point| self.handler.make_state(&source, beginning(point)));
        let state = match begun {
            Ok(state) => state,
            Err(reason) => return self.handler.failed(reason),
        };
        match self.move_to(&source, &mut waiting, state.next_offset(), state.leader_epoch()) {
            Ok(()) => {
                if is_first || late_until_ms.is_some() {
                    // So that the next owner, too, begins at this offset if `kafka.start` is "latest", and expects the late requests.
                    let first = vec![(source.clone(), state.first_commit())];
                    self.context().commits().send_changed(&self.commit_queue, first);
                }
                let (reader, control) = PartitionReader::new(
                    source.clone(),
                    state.topic_id(),
                    Arc::clone(&self.context().ids),
                    waiting.queue,
                );
                self.handler.begin_reading(reader, &state);
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
    ) -> Result<(), RDKafkaErrorCode> {
        // What is queued was fetched from another offset. An error among it would be taken for one at the new offset.
        let mut has_stopped = waiting.stopped.is_some();
        while let Some(queued) = waiting.queue.poll(Duration::ZERO) {
            has_stopped |= matches!(queued, Err(KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset)));
        }
        // Asked before what makes librdkafka write to its log, if `debug` is set.
        let may_assign = self.may_assign(waiting.refusals);
        self.end_pause(source)?;
        let must_assign = has_stopped || waiting.refusals > 0 || waiting.since.elapsed() > SEEK_PATIENCE;
        match seek::seek(&self.consumer, source, offset, epoch, SEEK_TIMEOUT) {
            Err(refused) if must_assign && (!may_assign || self.consumer.assignment_lost()) => {
                waiting.refusals += 1;
                Err(refused)
            }
            Err(refused) if must_assign => {
                // librdkafka has stopped reading the partition, and seeks only in those that it reads. That happens at each
                // start where Kafka has deleted the partition's first records.
                self.assign_again(source, Offset::Offset(offset.cast_signed())).map_err(seek::code)?;
                waiting.refusals = 0;
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

    /// Whether partitions may be assigned again now. Not while the group may have taken partitions away without this thread having heard of
    /// it: librdkafka would take a cooperative assignment for the answer, and give the partitions to other hosts while their records are in
    /// flight here; after any assignment it would no longer say that partitions were lost. `refusals`: how often in a row it was refused.
    pub(super) fn may_assign(&self, refusals: u32) -> bool {
        !self.consumer.assignment_lost() && (refusals >= REFUSALS || !main_queue::has_events(&self.consumer))
    }

    /// Gives librdkafka a partition that it has stopped reading once more.
    pub(super) fn assign_again(&self, source: &TopicPartition, offset: Offset) -> KafkaResult<()> {
        let list = self.assignment_with(source, offset)?;
        if !self.is_cooperative() {
            return self.consumer.assign(&list);
        }
        self.consumer.incremental_unassign(&list)?;
        self.consumer.incremental_assign(&list)
    }

    fn is_cooperative(&self) -> bool {
        matches!(self.consumer.rebalance_protocol(), RebalanceProtocol::Cooperative)
    }

    /// What to assign so that librdkafka reads the partition from this offset on: with the cooperative protocol this one alone. Eager
    /// protocols know only whole assignments. The other partitions go on where they are; a record that comes twice is ignored by the state,
    /// and none is left out.
    fn assignment_with(&self, source: &TopicPartition, offset: Offset) -> KafkaResult<TopicPartitionList> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&source.topic, source.partition.cast_signed(), offset)?;
        if self.is_cooperative() {
            return Ok(list);
        }
        for (other, partition) in self.context().assigned().iter().filter(|(other, _)| *other != source) {
            let next = match partition {
                // If this one began at offset 0, librdkafka might find no record there and stop reading it again. The two partitions would
                // then be assigned again by turns.
                AssignedPartition::Waiting(waiting) => {
                    waiting.assigned_at.map_or(UNDECIDED, |offset| Offset::Offset(offset.cast_signed()))
                }
                AssignedPartition::Reading { state, control } => {
                    control.becomes_unchecked();
                    Offset::Offset(state.next_offset().cast_signed())
                }
            };
            list.add_partition_offset(&other.topic, other.partition.cast_signed(), next)?;
        }
        Ok(list)
    }

    /// Has librdkafka look for truncated logs in the partitions that it was given once more beside another one, which only a seek does.
    pub(super) fn check_logs(&self) {
        let assigned = self.context().assigned();
        for (source, partition) in assigned.iter() {
            let AssignedPartition::Reading { state, control } = partition else { continue };
            let Some(since) = control.unchecked_since().filter(|_| state.phase() == Phase::Reading) else { continue };
            let seek = || seek::seek(&self.consumer, source, state.next_offset(), state.leader_epoch(), SEEK_TIMEOUT);
            match control.check(seek) {
                Ok(()) => {}
                // As a rule the reader hears before that if librdkafka has stopped reading.
                Err(RDKafkaErrorCode::State) if since.elapsed() > CHECK_PATIENCE => state.begin_again(),
                Err(error) => debug!(partition = %source, %error, "can't look for a truncated log yet"),
            }
        }
    }

    /// Lets partitions begin again whose topics were deleted and created again.
    fn compare_ids(&self, ids: &HashMap<String, TopicId>) {
        for partition in self.context().assigned().values() {
            if let AssignedPartition::Reading { state, .. } = partition
                && let (Some(before), Some(now)) = (state.topic_id(), ids.get(&*state.source.topic))
                && before != *now
            {
                state.report_out_of_range();
            }
        }
    }
}
