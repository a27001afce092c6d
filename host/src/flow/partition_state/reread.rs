//! Why a partition is read again, and from where. Plain values.

use crate::flow::store_start::Started;

/// Why records of a partition have to be read from Kafka again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RereadCause {
    /// A record was removed from one of the partition's entries: the store rewrites the block, which can damage other
    /// records of it.
    Removal,
}

/// A re-read that the recovery decided on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reread {
    /// The first offset to read.
    pub from: u64,
    /// See [`super::Phase::AwaitingReread`].
    pub discard_unsent: bool,
    /// The store's start as it is now.
    pub store_start: Option<Started>,
}
