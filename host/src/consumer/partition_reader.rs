//! One assigned partition as a worker reads it.
//!
//! The worker has a [`PartitionReader`]; the polling thread keeps the other half, [`ReaderControl`], and alone moves the
//! partition to another offset.
//!
//! Guarantees: a reader yields the partition's records in order; once its control has closed it, it yields nothing, even
//! where librdkafka uses the same queue for a later assignment; closing waits for no plugin.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;
use tracing::debug;

use super::group::GroupContext;
use super::topic_ids::TopicIds;
use crate::kafka::client::{is_unreadable, last_reason_here};
use crate::kafka::message::{input_record, leader_epoch};
use crate::record::{InputRecord, TopicId, TopicPartition};

/// The worker's half. See the module.
pub struct PartitionReader {
    /// The topic and the partition's number.
    pub source: TopicPartition,
    topic_id: Option<TopicId>,
    /// See [`Self::leader_epoch`].
    leader_epoch: Option<u32>,
    ids: Arc<TopicIds>,
    /// What [`TopicIds::changes`] was when this topic's id was last compared.
    compared: Option<u64>,
    slot: Arc<Mutex<ReaderSlot>>,
}

/// The polling thread's half. See the module.
pub(super) struct ReaderControl(Arc<Mutex<ReaderSlot>>);

struct ReaderSlot {
    /// `None`: closed.
    queue: Option<PartitionQueue<GroupContext>>,
    /// The polling thread sought the partition at its next offset, to find out whether any records stand before this offset.
    probing: Option<u64>,
    /// A batch can't be read. No record is taken before the partition was sought again, because librdkafka may go on behind the batch.
    unreadable: Option<UnreadableBatch>,
    /// Since when librdkafka has the partition once more without the leader epoch at its next offset. Records that come before the partition
    /// was sought there are dropped, because the log may have been truncated.
    unchecked: Option<Instant>,
}

/// A batch that can't be read.
#[derive(Debug, Clone)]
pub(super) struct UnreadableBatch {
    pub since: Instant,
    /// librdkafka's words.
    pub reason: String,
    /// Whether the handler knows of it.
    pub is_reported: bool,
}

/// What [`PartitionReader::poll`] found.
#[derive(Debug)]
pub enum Polled {
    /// The next record.
    Record(InputRecord),
    /// A record of which a part can't be read, and why that is.
    Unreadable(InputRecord, String),
    /// No record is there now.
    Nothing,
    /// No record stands between the last one and this offset.
    NothingBefore(u64),
    /// The broker doesn't have the next offset, or has it in another topic of the same name.
    OutOfRange,
    /// The partition can't be read any further, for this reason.
    Fatal(String),
}

impl PartitionReader {
    pub(super) fn new(
        source: TopicPartition,
        topic_id: Option<TopicId>,
        ids: Arc<TopicIds>,
        queue: PartitionQueue<GroupContext>,
    ) -> (Self, ReaderControl) {
        let slot =
            Arc::new(Mutex::new(ReaderSlot { queue: Some(queue), probing: None, unreadable: None, unchecked: None }));
        (
            Self { source, topic_id, leader_epoch: None, ids, compared: None, slot: Arc::clone(&slot) },
            ReaderControl(slot),
        )
    }

    /// Unparks `worker` when records arrive while none was there. Poll once after setting it.
    pub fn wake(&mut self, worker: Thread) {
        if let Some(queue) = &mut lock(&self.slot).queue {
            queue.set_nonempty_callback(move || worker.unpark());
        }
    }

    /// The leader epoch under which the last record was written; `None`: the broker doesn't tell.
    pub fn leader_epoch(&self) -> Option<u32> {
        self.leader_epoch
    }

    /// Takes the next record, if one is there; doesn't wait.
    pub fn poll(&mut self) -> Polled {
        let mut slot = lock(&self.slot);
        let ReaderSlot { queue: Some(queue), probing, unreadable, unchecked } = &mut *slot else {
            return Polled::Nothing;
        };
        if unreadable.is_some() {
            return Polled::Nothing;
        }
        let message = match queue.poll(Duration::ZERO) {
            None => return Polled::Nothing,
            Some(Err(KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset))) => return Polled::OutOfRange,
            Some(Ok(_) | Err(KafkaError::PartitionEOF(_))) if unchecked.is_some() => return Polled::Nothing,
            Some(Ok(message)) => message,
            Some(Err(KafkaError::PartitionEOF(_))) => {
                // Since `end` was asked for, the log may have been truncated, or a replica may have answered that lags behind.
                let told = end_told(&last_reason_here());
                let proven = probing.take().zip(told).map(|(end, told)| end.min(told));
                return proven.map_or(Polled::Nothing, Polled::NothingBefore);
            }
            Some(Err(KafkaError::MessageConsumptionFatal(code))) => return Polled::Fatal(code.to_string()),
            Some(Err(KafkaError::MessageConsumption(code))) if is_unreadable(code) => {
                // An end of the partition that librdkafka tells behind the batch would prove nothing.
                *probing = None;
                let reason = last_reason_here();
                let reason = if reason.is_empty() { code.to_string() } else { reason };
                *unreadable = Some(UnreadableBatch { since: Instant::now(), reason, is_reported: false });
                return Polled::Nothing;
            }
            Some(Err(error)) => {
                // librdkafka goes on by itself after these.
                debug!(partition = %self.source, %error, "reading from Kafka");
                return Polled::Nothing;
            }
        };
        *probing = None;
        if is_of_another_topic(&self.ids, &self.source, self.topic_id, &mut self.compared) {
            return Polled::OutOfRange;
        }
        let (record, problem) = input_record(&message, &self.source);
        self.leader_epoch = leader_epoch(&message);
        let record = InputRecord { topic_id: self.topic_id, ..record };
        match problem {
            None => Polled::Record(record),
            Some(problem) => Polled::Unreadable(record, problem),
        }
    }
}

impl ReaderControl {
    /// Takes the queue away from the reader.
    pub fn close(&self) -> Option<PartitionQueue<GroupContext>> {
        lock(&self.0).queue.take()
    }

    /// The batch that can't be read, if there is one.
    pub fn unreadable(&self) -> Option<UnreadableBatch> {
        lock(&self.0).unreadable.clone()
    }

    /// Takes note that the handler knows of the unreadable batch.
    pub fn unreadable_is_reported(&self) {
        if let Some(unreadable) = &mut lock(&self.0).unreadable {
            unreadable.is_reported = true;
        }
    }

    /// Calls `seek` to fetch the unreadable batch again. The reader can't read meanwhile.
    pub fn try_again<E>(&self, seek: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        let mut slot = lock(&self.0);
        seek()?;
        (slot.unreadable, slot.probing, slot.unchecked) = (None, None, None);
        Ok(())
    }

    /// Takes note that the partition is about to be given to librdkafka once more without the leader epoch at its next offset.
    pub fn becomes_unchecked(&self) {
        lock(&self.0).unchecked = Some(Instant::now());
    }

    /// Since when librdkafka has the partition once more; `None`: the partition was sought since.
    pub fn unchecked_since(&self) -> Option<Instant> {
        lock(&self.0).unchecked
    }

    /// Calls `seek` to have librdkafka look whether the log was truncated below the next offset. The reader can't read meanwhile.
    pub fn check<E>(&self, seek: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        let mut slot = lock(&self.0);
        seek()?;
        slot.unchecked = None;
        Ok(())
    }

    /// Calls `seek` to read again from the next offset on. The reader can't read meanwhile. If librdkafka then finds the end of the
    /// partition before it brings a record, no record stands before where it found it; up to `end` that is told.
    pub fn probe<E>(&self, end: u64, seek: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        let mut slot = lock(&self.0);
        seek()?;
        (slot.probing, slot.unchecked) = (Some(end), None);
        Ok(())
    }
}

/// At which offset librdkafka found the partition's end: rdkafka's error doesn't have it, and librdkafka's text is "Fetch from broker 1 reached
/// end of partition at offset 5 (HighwaterMark 5)" (2.12, rdkafka_fetcher.c). `None`: the text is another one.
fn end_told(reason: &str) -> Option<u64> {
    let (_, offset) = reason.split_once("end of partition at offset ")?;
    offset.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
}

/// Whether what was just taken from librdkafka may have been fetched from a topic that was created again.
fn is_of_another_topic(
    ids: &TopicIds,
    source: &TopicPartition,
    id: Option<TopicId>,
    compared: &mut Option<u64>,
) -> bool {
    let changes = ids.changes();
    if *compared == Some(changes) {
        return false;
    }
    let is_other = id.is_some() && ids.of(&source.topic).is_some_and(|fetched| Some(fetched) != id);
    *compared = Some(changes).filter(|_| !is_other);
    is_other
}

fn lock(slot: &Mutex<ReaderSlot>) -> MutexGuard<'_, ReaderSlot> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}
