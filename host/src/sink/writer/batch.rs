//! Chooses the next batch among the records that wait, and drops those of partitions that were taken away.
//!
//! Guarantees: a batch fits the limits, or is a single record; records of a partition that was taken away aren't kept; to find out that no
//! partition was taken away costs the same however many records wait.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Writer;
use super::pending::PendingWrite;
use crate::flow::{PartitionState, UnderWay};
use crate::sink::BatchLimits;
use crate::sink::parts::{SMALL, SMALL_BYTES};

/// A writer that knows no more partitions than this doesn't look whether all of them still have records.
const FEW_STATES: usize = 64;

impl Writer {
    /// The topic whose record has waited here for longest: the writer's next turn counts as one of this topic.
    pub(super) fn topic(&self) -> Arc<str> {
        let first = self.pending.front().or(self.unverified.first()).or(self.letters.front());
        let topic = first.map(|first| Arc::clone(&first.state().source.topic));
        let of_removal = || Some(Arc::clone(&self.removals.front()?.owners.first()?.source.topic));
        let of_entry = || self.states.keys().next().map(|source| Arc::clone(&source.topic));
        topic.or_else(of_removal).or_else(of_entry).unwrap_or_default()
    }

    /// Drops the records of partitions that were taken away. This is done before each batch, and thousands of records may wait: they are
    /// gone through only where one of their partitions was taken away.
    pub(super) fn drop_taken_away(&mut self) {
        // Each letter of a replay has a state of its own, and those of letters that were written mustn't be kept.
        let are_few = self.waiting_states.len() <= FEW_STATES.max(self.pending.len());
        if are_few && self.waiting_states.iter().all(|state| state.may_write()) {
            return;
        }
        self.pending.retain(|pending| pending.state().may_write());
        self.waiting_states.clear();
        for pending in &self.pending {
            note_state(&mut self.waiting_states, pending.state());
        }
    }

    /// Whether this writer's records are few and small enough to share a request with those of other writers.
    pub(super) fn has_few(&self) -> bool {
        let is_few = |records: usize| records <= SMALL;
        is_few(self.pending.len())
            && is_few(self.unverified.len())
            && self.pending.iter().map(PendingWrite::bytes).sum::<u64>() <= SMALL_BYTES
    }

    pub(super) fn take_batch(&mut self) -> VecDeque<PendingWrite> {
        let mut limits = self.shared.limits();
        if self.is_small_turn {
            limits = BatchLimits { records: limits.records.min(SMALL), bytes: limits.bytes.min(SMALL_BYTES), ..limits };
        }
        let (mut bytes, mut header_bytes) = (0, 0);
        let mut batch = VecDeque::new();
        while let Some(next) = self.pending.front() {
            bytes += next.bytes();
            header_bytes += next.prepared.header_bytes();
            let full = batch.len() >= limits.records || bytes > limits.bytes || header_bytes > limits.header_bytes;
            if full && !batch.is_empty() {
                break;
            }
            batch.extend(self.pending.pop_front());
        }
        batch
    }
}

/// Adds the state unless it is there.
pub(super) fn note_state(states: &mut Vec<Arc<PartitionState>>, state: &Arc<PartitionState>) {
    // In most entries all records are of one partition, so the search ends at once.
    if !states.iter().rev().any(|known| Arc::ptr_eq(known, state)) {
        states.push(Arc::clone(state));
    }
}

/// A mark for each partition that has records in the batch: while it isn't dropped, a request of the partition is under way.
pub(super) fn under_way(batch: &VecDeque<PendingWrite>) -> Vec<UnderWay> {
    let mut under_way: Vec<UnderWay> = Vec::new();
    for state in batch.iter().map(PendingWrite::state) {
        if !under_way.iter().any(|request| request.is_of(state)) {
            under_way.push(state.request());
        }
    }
    under_way
}
