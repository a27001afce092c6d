//! How many offsets of a partition the blocks that the store has open can reach back. A re-read after a crash begins so far before what is
//! durable.
//!
//! Guarantees: the margin never gets smaller while the process runs, because a block may be open that was begun with the larger size.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Blocks of an entry that the store has open at once.
pub const OPEN_BLOCKS: u64 = 2;

/// See the module. Copies share one value, because the size of blocks is a setting of the bucket.
#[derive(Debug, Clone, Default)]
pub struct BlockMargin(Arc<AtomicU64>);

impl BlockMargin {
    /// The margin where a block holds this many records at most.
    pub fn of_blocks(records: u64) -> Self {
        let margin = Self::default();
        margin.cover(records);
        margin
    }

    /// How many offsets before what is durable a re-read begins.
    pub fn offsets(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    /// From now on a block may hold this many records. Returns whether that is more than before.
    pub fn cover(&self, records: u64) -> bool {
        // A block takes a record even where the setting is 0.
        let offsets = records.max(1).saturating_mul(OPEN_BLOCKS);
        self.0.fetch_max(offsets, Ordering::SeqCst) < offsets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_margin_grows_for_all_copies_and_never_shrinks() {
        let margin = BlockMargin::of_blocks(64);
        let copy = margin.clone();
        assert!(!margin.cover(32) && !margin.cover(64));
        assert_eq!(copy.offsets(), 128);
        assert!(margin.cover(333) && !margin.cover(333));
        assert_eq!(copy.offsets(), 666);
        assert_eq!(BlockMargin::of_blocks(0).offsets(), OPEN_BLOCKS);
    }
}
