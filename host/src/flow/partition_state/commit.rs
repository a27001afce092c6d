//! What may be committed for a partition, and what the next owner is told with it.
//!
//! Guarantees: while a partition is read, [`PartitionState::commit_point`] alone decides what may be committed; while a failure of the
//! store isn't explained, that is only what had been acknowledged before an earlier look at the store, or the begin of a re-read that is
//! owed.

use super::{CommitPoint, Inner, OwedReread, PartitionState, Phase};
use crate::flow::commit_metadata::CommitMetadata;
use crate::flow::store_start::Started;

impl PartitionState {
    /// Takes note of a look at the store: it ran with this start, and everything below `position` had been acknowledged before the look.
    /// `at_risk`: the lowest offset of a record of this process that a crash of the store may harm; `None`: there is none. `asked_ms`: when
    /// it was, in milliseconds since the Unix epoch.
    pub fn looked(&self, store_start: Started, position: u64, at_risk: Option<u64>, asked_ms: u64) {
        let mut inner = self.lock();
        inner.at_risk.looked(position, at_risk, asked_ms);
        inner.store_start = Some(store_start);
        if inner.phase == Phase::Reading && !inner.is_rereading() && inner.owed.is_none() {
            inner.durable = position;
            // More may have been committed since the position was taken.
            inner.committable_while_closed = inner.committable_while_closed.max(Some(position));
        }
    }

    /// Takes note that a record of the partition is written to another entry than [`Self::entry`]. Called before it is acknowledged.
    pub fn note_other_entry(&self) {
        self.lock().at_risk.note_other_entry();
    }

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
        let risks = inner.at_risk.all(position);
        let owed = inner.owed.unwrap_or(OwedReread { from: position, until: 0, compare_below: 0, is_decided: true });
        // The next owner can't look at what this process remembers.
        let at_risk = risks.lowest().filter(|_| !owed.is_decided).unwrap_or(u64::MAX);
        let offset = owed.from.min(at_risk).min(position);
        let (reread_until, compare_below) =
            (inner.reread_until.max(owed.until), inner.compare_below.max(owed.compare_below));
        // The next owner goes back by the block margin from what is durable.
        let at_risk = inner.at_risk.remembered().map(|lowest| lowest.saturating_add(self.block_margin.offsets()));
        let durable = at_risk.into_iter().fold(inner.durable, u64::min);
        let metadata = CommitMetadata {
            store_start: inner.store_start,
            durable: inner.store_start.map(|_| durable),
            margin: inner.store_start.map(|_| self.block_margin.offsets()),
            reread_until: Some(reread_until).filter(|until| offset < *until),
            compare_below: Some(compare_below).filter(|below| offset < *below),
            risks,
            late: inner.late,
            leader_epoch: inner.epochs.at(offset),
            ..self.metadata.clone()
        };
        CommitPoint { offset, metadata }
    }
}
