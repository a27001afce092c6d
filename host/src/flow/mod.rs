//! Flow control as plain values: what of each partition was read, what is acknowledged, and how much is in flight.
//!
//! Guarantees: no network or file I/O. Clocks are read only to bound waits, to date re-reads and the store's start, and to notice that the
//! process was suspended ([`membership`], on a thread of its own).

mod ack_handle;
pub mod backoff;
pub mod block_margin;
mod budget;
mod checkpoint;
mod commit_gate;
mod commit_metadata;
pub mod crash_risk;
mod leader_epochs;
pub mod membership;
mod partition_state;
pub mod pauses;
mod range_set;
pub mod sharded;
pub mod store_start;

pub use self::ack_handle::{AckHandle, UnderWay};
pub use self::budget::{Budget, BudgetShare};
pub use self::checkpoint::Checkpoint;
pub use self::commit_gate::CommitGate;
pub use self::commit_metadata::{CommitMetadata, DeadLetterIndex, EntryNaming, LateRequests};
pub use self::partition_state::{
    Begin, CommitPoint, LetterRefusal, MAX_AHEAD, PartitionState, Phase, ReadingStop, Reread, StoredOutput,
};
pub use self::range_set::RangeSet;
