//! The duty to acknowledge one record, and the mark of a request that is under way.
//!
//! Guarantees: a record's offset is acknowledged when all of its outputs are, and not before; an [`AckHandle`] that is
//! dropped without it (a panic, a partition that was revoked) leaves the offset unacknowledged, so the record is read
//! again; the budget is given back in any case.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use super::partition_state::PartitionState;

/// The duty to acknowledge one record, shared by its outputs.
#[derive(Debug)]
pub struct AckHandle(Arc<TrackedRecord>);

/// A record in flight.
#[derive(Debug)]
struct TrackedRecord {
    state: Arc<PartitionState>,
    offset: u64,
    /// How many records and bytes of the budget are taken for it.
    records: AtomicUsize,
    bytes: AtomicUsize,
    /// Outputs that aren't acknowledged yet.
    outputs: AtomicU32,
}

impl AckHandle {
    pub(super) fn new(state: Arc<PartitionState>, offset: u64, bytes: usize) -> Self {
        state.take_budget(1, bytes);
        let (records, bytes) = (AtomicUsize::new(1), AtomicUsize::new(bytes));
        Self(Arc::new(TrackedRecord { state, offset, records, bytes, outputs: AtomicU32::new(1) }))
    }

    /// The state of the partition that the record was read from, or of the dead letter that is sent again.
    pub fn state(&self) -> &Arc<PartitionState> {
        &self.0.state
    }

    /// A handle for one more output of the same record.
    #[must_use]
    pub fn share(&self) -> Self {
        self.0.outputs.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(&self.0))
    }

    /// Takes this much more of the budget, because a plugin made more of the record. It is taken even where that exceeds the budget.
    pub fn grow(&self, records: usize, bytes: usize) {
        self.0.records.fetch_add(records, Ordering::Relaxed);
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.0.state.take_budget(records, bytes);
    }

    /// This output is written, or nothing has to be written for it.
    pub fn acknowledge(self) {
        if self.0.outputs.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.state.acknowledge(self.0.offset);
        }
    }
}

impl Drop for TrackedRecord {
    fn drop(&mut self) {
        self.state.released(*self.outputs.get_mut() == 0);
        self.state.give_budget_back(*self.records.get_mut(), *self.bytes.get_mut());
    }
}

/// A request to the store with records of a partition or a dead letter, until it is answered.
#[derive(Debug)]
pub struct UnderWay(Arc<PartitionState>);

impl UnderWay {
    pub(super) fn new(state: Arc<PartitionState>) -> Self {
        Self(state)
    }

    /// The state of the partition or dead letter.
    pub fn state(&self) -> &Arc<PartitionState> {
        &self.0
    }

    /// Whether the request has records of this partition or dead letter.
    pub fn is_of(&self, state: &Arc<PartitionState>) -> bool {
        Arc::ptr_eq(&self.0, state)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.answered();
    }
}
