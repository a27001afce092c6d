//! What may be committed for a partition, and what the next owner is told with it.
//!
//! Guarantees: while a partition is read, [`PartitionState::commit_point`] alone decides what may be committed; while a failure of the
//! store isn't explained, that is only what had been acknowledged before an earlier look at the store, or the begin of a re-read that is
//! owed.

use std::sync::atomic::Ordering;

use super::{CommitPoint, Inner, OwedReread, PartitionState, Phase};
use crate::flow::commit_metadata::CommitMetadata;
use crate::flow::crash_risk::{self, CrashRisk, CrashRisks};
use crate::flow::store_start::Started;

impl PartitionState {
    /// Takes note of a look at the store: it ran with this start, and everything below `position` had been acknowledged before the look.
    /// `at_risk`: the lowest offset of a record of this process that a crash of the store may harm; `None`: there is none. `asked_ms`: when
    /// it was, in milliseconds since the Unix epoch.
    pub fn looked(&self, store_start: Started, position: u64, at_risk: Option<u64>, asked_ms: u64) {
        let mut inner = self.lock();
        inner.inherited_risks = inner.inherited_risks.at(asked_ms, asked_ms);
        inner.risk_before.take_if(|risk| risk.until_ms <= asked_ms);
        inner.own_risk_until_ms = crash_risk::until(asked_ms);
        inner.looked_positions = [inner.looked_positions[1], position];
        inner.store_start = Some(store_start);
        inner.at_risk = at_risk;
        if inner.phase == Phase::Reading && !inner.is_rereading() && inner.owed.is_none() {
            inner.durable = position;
            // More may have been committed since the position was taken.
            inner.committable_while_closed = inner.committable_while_closed.max(Some(position));
        }
    }

    /// Takes note that a record of the partition is written to another entry than [`Self::entry`]. Called before it is acknowledged.
    pub fn note_other_entry(&self) {
        self.writes_to_several.store(true, Ordering::SeqCst);
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
        let risks = self.risks(inner, position);
        let owed = inner.owed.unwrap_or(OwedReread { from: position, until: 0, compare_below: 0, is_decided: true });
        // The next owner can't look at what this process remembers.
        let at_risk = risks.lowest().filter(|_| !owed.is_decided).unwrap_or(u64::MAX);
        let offset = owed.from.min(at_risk).min(position);
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
            risks,
            late: inner.late,
            leader_epoch: inner.epochs.at(offset),
            ..self.metadata.clone()
        };
        CommitPoint { offset, metadata }
    }

    /// What a crash of the store may harm of what was written before this value began, though the block margin doesn't reach it.
    pub(super) fn risks_before(&self, inner: &Inner) -> CrashRisks {
        let mut risks = inner.inherited_risks.clone();
        if self.writes_to_several.load(Ordering::SeqCst) {
            inner.risk_before.into_iter().for_each(|risk| risks.add(risk));
        }
        risks
    }

    /// The same, with what this value wrote.
    fn risks(&self, inner: &Inner, position: u64) -> CrashRisks {
        let mut risks = self.risks_before(inner);
        // What was acknowledged a moment before the last look may not have been remembered yet.
        let [earlier, _] = inner.looked_positions;
        let is_new = inner.at_risk.is_some() || position > earlier;
        if is_new && self.writes_to_several.load(Ordering::SeqCst) {
            let from = inner.at_risk.into_iter().fold(earlier, u64::min);
            risks.add(CrashRisk { from, until_ms: inner.own_risk_until_ms });
        }
        risks
    }
}
