//! Where records go that can't be written as they are, if not to an entry of the bucket.
//!
//! Guarantees: the sink knows only this trait; who implements it is decided where the sink is made.

use crate::flow::{AckHandle, DeadLetterIndex};
use crate::record::{OutputRecord, TopicPartition};

/// Where dead letters go instead of an entry.
pub trait DeadLetterTarget: Send + Sync {
    /// Takes charge of a dead letter, without blocking: acknowledges it when it is safe.
    fn take(&self, dead_letter: OutputRecord, ack: AckHandle);
    /// A partition is read from this offset on. `index` was committed beside the offset.
    fn partition_begins(&self, _source: &TopicPartition, _offset: u64, _index: Option<&DeadLetterIndex>) {}
    /// What to commit beside an offset.
    fn index(&self, _source: &TopicPartition, _offset: u64) -> Option<DeadLetterIndex> {
        None
    }
}
