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
    /// Where to begin. The handler may choose an earlier offset that Kafka still has.
    pub point: CommitPoint,
    /// What the brokers say of the partition.
    pub facts: Facts,
    /// Whether this host has the partition already and re-reads it, so that no other host has written its records since.
    pub is_reread: bool,
    /// From which offset on this host has read the partition already; `None`: it hasn't.
    pub owned_from: Option<u64>,
}

/// Handles the partitions that the group gives to this host. The thread that runs [`super::GroupConsumer::run`] calls the methods, unless a
/// method's comment names another.
pub trait GroupHandler: Send + Sync {
    /// The group has given out its partitions (`done`), perhaps none of them to this host; or it is about to give them out again.
    fn given_out(&self, done: bool);
    /// The group has given the partition to this host, or the partition is to be read again: Kafka is asked where it begins. It isn't read
    /// before [`Self::begin_reading`].
    fn awaits_begin(&self, source: &TopicPartition);
    /// The partition can't be read yet, for this reason. Kafka is asked again.
    fn cannot_begin(&self, source: &TopicPartition, reason: &str);
    /// Makes the partition's state, and may move its begin back from where Kafka's facts put it.
    fn make_state(&self, source: &TopicPartition, beginning: Beginning) -> Result<Arc<PartitionState>, String>;
    /// The batch at this offset of the partition can't be read, for this reason. It is fetched again from time to time.
    fn unreadable(&self, source: &TopicPartition, offset: u64, reason: &str);
    /// These offsets were skipped, because the batch that has them can't be read, for this reason.
    fn skipped(&self, source: &TopicPartition, offsets: Range<u64>, reason: &str);
    /// The partition can be read now, for the first time or again: a worker reads it from here on.
    fn begin_reading(&self, reader: PartitionReader, state: &Arc<PartitionState>);
    /// The group takes the partitions back, and nothing more is read of them; `states` are the states of those that had begun. The handler
    /// finishes the records in flight as far as time allows, and returns what may be committed. `lost`: the partitions belong to other
    /// hosts already, so nothing more may be written.
    fn revoked(
        &self,
        partitions: &[TopicPartition],
        states: &[Arc<PartitionState>],
        lost: bool,
    ) -> Vec<(TopicPartition, CommitPoint)>;
    /// What may be committed for the partition now: what its state says, with what else the next owner has to know.
    fn commit_point(&self, state: &PartitionState) -> Option<CommitPoint>;
    /// A right is missing: the group refuses to let this host in, or the brokers refuse to name the group's coordinator. librdkafka goes on
    /// trying. It raises the error again and again if the group refuses, and only once if the brokers refuse to name the coordinator.
    fn group_denied(&self);
    /// The group took a commit, or refused it for this reason.
    fn committed(&self, outcome: Result<(), String>);
    /// Why no other member of the group may have partitions of this topic: several of its partitions are written to one entry. `None`:
    /// other members may have some. Called by any thread.
    fn requires_sole_member(&self, topic: &str, partitions: usize) -> Option<String>;
    /// The consumer can't go on. Called by any thread.
    fn failed(&self, reason: String);
    /// Looks after the host (its workers, its failures), and returns whether to stop. Called in each round of the polling loop: as a rule
    /// every 100 ms, later while a seek or a revocation goes on.
    fn should_stop(&self) -> bool;
    /// How long leaving the group may take at a stop.
    fn time_to_leave(&self) -> Duration;
    /// Idle partitions, each with the end that Kafka named, of which nobody knows whether any records are left before that end.
    fn take_probes(&self) -> Vec<(TopicPartition, u64)>;
    /// Looks whether the process was suspended, and returns whether the group is to be asked if this host is still a member.
    fn look_for_doubt(&self) -> bool;
    /// The group says that this host is still a member.
    fn membership_confirmed(&self);
}

/// Why the consumer doesn't start.
#[derive(Debug, Error)]
pub enum ConsumerError {
    /// librdkafka refuses one of the properties.
    #[error("librdkafka refuses the configuration: {0}")]
    Configuration(String),
    /// Kafka doesn't answer, or refuses.
    #[error(transparent)]
    Away(#[from] KafkaCheckError),
    /// librdkafka refuses one of the topics.
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
    /// Another host has taken this one's name in the group, and with it all partitions that this one had.
    NameTaken,
    /// The certificates, keys or passwords were replaced. A client can't take new ones over, so the host has left the group, to join it
    /// again with a client that is made of them.
    FilesReplaced,
}
