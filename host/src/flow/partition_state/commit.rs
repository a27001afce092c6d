//! What may be committed for a partition, and what the next owner is told with it.
//!
//! Guarantees: while a partition is read, [`PartitionState::commit_point`] alone decides what may be committed; while a failure of the
//! store isn't explained, that is only what had been acknowledged before an earlier look at the store, or the begin of a re-read that is
//! owed.

use super::{CommitPoint, Inner, OwedReread, PartitionState, Phase};
use crate::flow::commit_metadata::CommitMetadata;

impl PartitionState {
    /// What may be committed now; `None`: nothing.
    pub fn commit_point(&self) -> Option<CommitPoint> {
        let mut inner = self.lock();
        if inner.phase == Phase::Ended {
            return None;
        }
        // Where a re-read is owed, the commit point lies before it, so the next owner has to do it, whatever the store did.
        if self.gate.is_open() || inner.owed.is_some() {
            if inner.owed.is_none() {
                inner.committable_while_closed = inner.committable_while_closed.max(Some(inner.checkpoint.position()));
            }
            return Some(self.point(&inner));
        }
        // Entries that fail for good must not hold up the commits of all others.
        let committable = inner.committable_while_closed.filter(|_| !self.gate.is_removal_unexplained())?;
        Some(self.point_at(&inner, committable.min(inner.checkpoint.position())))
    }

    /// What to commit before the first record is read: where the group has no offset for the partition, or where requests of
    /// an earlier owner may still arrive. It is the same whatever the store does.
    pub fn first_commit(&self) -> CommitPoint {
        self.point(&self.lock())
    }

    pub(super) fn point(&self, inner: &Inner) -> CommitPoint {
        self.point_at(inner, inner.checkpoint.position())
    }

    fn point_at(&self, inner: &Inner, position: u64) -> CommitPoint {
        let owed = inner.owed.unwrap_or(OwedReread { from: position, until: 0, compare_below: 0 });
        let offset = owed.from.min(position);
        let (reread_until, compare_below) =
            (inner.reread_until.max(owed.until), inner.compare_below.max(owed.compare_below));
        // The next owner goes back by the block margin from what is durable.
        let at_risk = inner.at_risk.map(|lowest| lowest.saturating_add(self.block_margin.offsets()));
        let durable = at_risk.into_iter().fold(inner.durable, u64::min);
        let metadata = CommitMetadata {
            store_start: inner.store_start,
            durable: inner.store_start.map(|_| durable),
            margin: inner.store_start.map(|_| self.block_margin.offsets()),
            reread_until: Some(reread_until).filter(|until| offset < *until),
            compare_below: Some(compare_below).filter(|below| offset < *below),
            late: inner.late,
            leader_epoch: inner.epochs.at(offset),
            ..self.metadata.clone()
        };
        CommitPoint { offset, metadata }
    }
}
