//! Flow control as plain values: what of each partition was read, what is acknowledged, and how much is in flight.
//!
//! Guarantees: nothing here does I/O.

pub mod backoff;
pub mod checkpoint;
pub mod membership;
pub mod partition_state;
pub mod sharded;
pub mod store_start;
