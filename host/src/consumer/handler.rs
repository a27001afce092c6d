//! What the group's consumer tells the host, and what it asks the host: the interface between `consumer` and `pipeline`.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::error::KafkaError;
use thiserror::Error;

use super::PartitionReader;
use crate::flow::{CommitPoint, PartitionState};
use crate::kafka::error::KafkaCheckError;
use crate::kafka::start::Facts;
use crate::record::TopicPartition;

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

/// Has the partitions that the group gives to this host. The thread that runs [`super::GroupConsumer::run`] calls the methods, unless a method's
/// comment names another.
pub trait GroupHandler: Send + Sync {
    /// The group has given out its partitions, to this host perhaps none; or, `false`, it is about to give them out again.
    fn given_out(&self, done: bool);
    /// The group has given the partition to this host, or it is to be read again: Kafka is asked where it begins. It is not read before
    /// the answer, and [`Self::begin_reading`].
    fn awaits_begin(&self, source: &TopicPartition);
    /// The partition can't be read yet, for this reason. Kafka is asked again.
    fn cannot_begin(&self, source: &TopicPartition, reason: &str);
    /// Makes the partition's state, and may move its begin back from where Kafka's facts put it.
    fn make_state(&self, source: &TopicPartition, beginning: Beginning) -> Result<Arc<PartitionState>, String>;
    /// The batch at this offset of the partition can't be read, for this reason. It is fetched again from time to time.
    fn unreadable(&self, source: &TopicPartition, offset: u64, reason: &str);
    /// Nothing is read of these offsets, because the batch that has them can't be read, for this reason.
    fn skipped(&self, source: &TopicPartition, offsets: Range<u64>, reason: &str);
    /// The partition can be read now, for the first time or again: a worker reads it from here on.
    fn begin_reading(&self, reader: PartitionReader, state: &Arc<PartitionState>);
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
    /// The group refuses to let this host in, or the brokers to name its coordinator: a right is missing. librdkafka goes on trying;
    /// it repeats the former, and says the latter once.
    fn group_denied(&self);
    /// The group took a commit, or refused it.
    fn committed(&self, outcome: Result<(), String>);
    /// The reason if no other member of the group may own partitions of this topic, because several partitions of it
    /// write to one entry. Called by any thread.
    fn requires_sole_member(&self, topic: &str, partitions: usize) -> Option<String>;
    /// The consumer can't go on. Called by any thread.
    fn failed(&self, reason: String);
    /// Looks after the host (its workers, its failures), and answers whether to stop. Called at least every 100 ms.
    fn should_stop(&self) -> bool;
    /// How long leaving the group may take at a stop.
    fn time_to_leave(&self) -> Duration;
    /// Idle partitions whose tails may hold no records, with the ends that Kafka named.
    fn take_probes(&self) -> Vec<(TopicPartition, u64)>;
    /// Looks whether the process was suspended, and answers whether the group should be asked if this host is still a member.
    fn look_for_doubt(&self) -> bool;
    /// The group says that it is.
    fn membership_confirmed(&self);
}

/// Why the consumer doesn't start.
#[derive(Debug, Error)]
pub enum ConsumerError {
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

/// Why the consumer has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsumerEnd {
    /// The host stops.
    Stopped,
    /// Another host has taken this one's name in the group. Nothing of what this one had is its own any more.
    NameTaken,
    /// The certificates, keys or passwords were replaced, which a client can't take over: all was given back, for a member that
    /// is made of the new ones.
    FilesReplaced,
}
