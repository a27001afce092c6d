//! Which of the records that wait are next.
//!
//! Guarantees: a batch fits the limits, or is a single record; records of a partition that was taken away aren't kept; finding that out
//! doesn't cost more where more records wait.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Writer;
use super::pending::PendingWrite;
use crate::flow::{PartitionState, UnderWay};
use crate::sink::BatchLimits;
use crate::sink::parts::{SMALL, SMALL_BYTES};

/// Up to this number of partitions it isn't looked whether all of them still have records.
const FEW_STATES: usize = 64;

impl Writer {
    /// The topic whose record waits here for longest: its turn is the next one.
    pub(super) fn topic(&self) -> Arc<str> {
        let first = self.pending.front().or(self.unverified.first()).or(self.letters.front());
        let topic = first.map(|first| Arc::clone(&first.state().source.topic));
        let of_removal = || Some(Arc::clone(&self.removals.front()?.owners.first()?.source.topic));
        let of_entry = || self.states.keys().next().map(|source| Arc::clone(&source.topic));
        topic.or_else(of_removal).or_else(of_entry).unwrap_or_default()
    }

    /// Drops the records of partitions that were taken away. Thousands may wait, and this is done for each batch: they are gone through
    /// only where one of their partitions was.
    pub(super) fn drop_taken_away(&mut self) {
        // Each letter of a replay has a partition state of its own: those of letters that were written aren't kept.
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

    /// Whether its records are to share a request with those of other writers.
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

/// Adds the partition unless it is there.
pub(super) fn note_state(states: &mut Vec<Arc<PartitionState>>, state: &Arc<PartitionState>) {
    // Of most entries it is always the same.
    if !states.iter().rev().any(|known| Arc::ptr_eq(known, state)) {
        states.push(Arc::clone(state));
    }
}

/// One for each partition that has records in the batch.
pub(super) fn under_way(batch: &VecDeque<PendingWrite>) -> Vec<UnderWay> {
    let mut under_way: Vec<UnderWay> = Vec::new();
    for state in batch.iter().map(PendingWrite::state) {
        if !under_way.iter().any(|request| request.is_of(state)) {
            under_way.push(state.request());
        }
    }
    under_way
}
