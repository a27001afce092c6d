//! Flow control as plain values: what of each partition was read, what is acknowledged, and how much is in flight.
//!
//! Guarantees: nothing here does I/O.

pub mod backoff;
pub mod checkpoint;
pub mod commit_metadata;
pub mod membership;
pub mod partition_state;
pub mod range_set;
pub mod sharded;
pub mod store_start;

pub use self::commit_metadata::CommitMetadata;
pub use self::partition_state::{AckHandle, Budget, CommitPoint, PartitionState, RereadCause};
pub use self::range_set::RangeSet;
