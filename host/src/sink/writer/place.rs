//! Gives each record of a batch its microsecond, and finds those that the entry has already.
//!
//! Guarantees: nothing is placed before it is known what the entry holds there; each look into the store reads at most
//! [`HEADS`] records, and is shared by all records of the batch whose times are near.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tracing::warn;

use super::Writer;
use super::pending::PendingWrite;
use super::repair::Hidden;
use crate::record::{Identity, TopicPartition};
use crate::sink::Shared;
use crate::sink::occupied::{SEARCHED_US, TimestampChoice};
use crate::sink::store::StoreError;

/// Records whose times are at most this far apart are looked up with one query, in microseconds.
pub(in crate::sink) const NEAR_US: u64 = 2_000_000;
/// How far behind the last wanted time a query reads on, so that the next batch needn't ask again, in microseconds.
const AHEAD_US: u64 = 1_000_000;
/// How many records one query reads at most, without and with their bytes.
pub(super) const HEADS: usize = 1_000;
const WHOLE: usize = 200;
/// How many records of a partition and generation are read back although `store.verify_writes` is off, because a host
/// before this one may have left an unfinished record at the same microsecond. It can have left at most one request's
/// worth (`store.batch_records`, 85 at most); the margin is for partitions that share an entry and are read again in another order.
const SHOWN_BESIDE_OTHERS: u32 = 1_000;

/// How often a record whose bytes differ from what its plugins answer now is written again.
const MOST_REWRITES: u8 = 3;
/// When this many records are remembered, all are forgotten; each takes some 100 bytes.
const REWRITTEN_KEPT: usize = 20_000;

/// How often each record was written again because its bytes differed. A plugin that uses the clock or random numbers answers differently
/// each time. Without a bound, such a record would be taken for damaged and removed in each re-read, and each removal
/// demands another re-read.
#[derive(Debug, Default)]
pub(super) struct Rewritten(HashMap<(TopicPartition, u64, Option<u32>), u8>);

impl Rewritten {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn is_worth_it(&self, identity: &Identity) -> bool {
        self.0.get(&Self::key(identity)).is_none_or(|times| *times < MOST_REWRITES)
    }

    fn count(&mut self, identity: &Identity) {
        if self.0.len() >= REWRITTEN_KEPT {
            self.0.clear();
        }
        let times = self.0.entry(Self::key(identity)).or_default();
        *times = times.saturating_add(1);
    }

    fn key(identity: &Identity) -> (TopicPartition, u64, Option<u32>) {
        (identity.source.clone(), identity.offset, identity.index)
    }
}

/// What one step made of a record that wants its microsecond.
enum Placed {
    /// It goes on in the batch, with its microsecond, or without one where its partition was taken away.
    ToBeWritten(PendingWrite),
    /// It was in the entry already.
    AlreadyStored,
    /// It has to be placed once more, because more is known of the entry now.
    Again(PendingWrite),
    /// The store was asked, and failed.
    Failed(PendingWrite, StoreError),
}

impl Writer {
    /// Begins a new generation if the batch has records of one: other hosts may have written this entry since the last one began, so that
    /// what is known of the entry is forgotten.
    pub(super) async fn begin_generation(&mut self, batch: &VecDeque<PendingWrite>) -> Result<(), StoreError> {
        let generation = batch.iter().map(|pending| pending.state().generation()).max();
        if generation > self.generation {
            // Where there are thousands of entries most of them are new, and one list of the bucket's entries tells that of many.
            let Shared { store, entry_list, .. } = &*self.shared;
            let is_absent = entry_list.is_absent(store, &self.entry, generation.unwrap_or(u64::MAX)).await;
            let newest = if is_absent { None } else { store.newest_of(&self.entry).await? };
            self.occupied.begin_generation(newest.max(self.newest_sent));
            self.written_beside_others.clear();
            // The microseconds at which records are hidden are forgotten as well: a record that gets one of them meets the hidden one
            // again.
            self.hidden = Hidden::default();
            self.states.retain(|_, state| state.may_write());
            self.generation = generation;
        }
        // Only states of partitions are kept, because a removal demands a re-read of each. A letter's partition is known here if its live
        // records are written here; otherwise `require_reread_of_entry` reaches it as one that shares the entry.
        for state in batch.iter().map(PendingWrite::state).filter(|state| !state.is_of_letter_beside_live()) {
            if self.states.get(&state.source).is_none_or(|known| !Arc::ptr_eq(known, state)) {
                self.states.insert(state.source.clone(), Arc::clone(state));
            }
        }
        Ok(())
    }

    /// Gives every record of the batch its microsecond, and acknowledges those that are in the entry already.
    pub(super) async fn place(&mut self, batch: &mut VecDeque<PendingWrite>) -> Result<(), StoreError> {
        let answer = self.place_each(batch).await;
        self.settle();
        answer
    }

    async fn place_each(&mut self, batch: &mut VecDeque<PendingWrite>) -> Result<(), StoreError> {
        let mut wanted: Vec<u64> = batch.iter().map(|pending| pending.prepared.base_us).collect();
        wanted.sort_unstable();
        let compares = batch.iter().any(|pending| self.compares_contents(pending));
        if let Some(last) = wanted.last().filter(|_| compares) {
            // After a crash of the store, a record can stand where the store's newest record says that nothing is yet.
            self.occupied.read_below(last.saturating_add(SEARCHED_US));
        }
        let mut waiting = std::mem::take(batch);
        while let Some(pending) = waiting.pop_front() {
            match self.place_one(pending, &wanted, compares).await {
                Placed::ToBeWritten(pending) => batch.push_back(pending),
                Placed::AlreadyStored => {}
                Placed::Again(pending) => waiting.push_front(pending),
                Placed::Failed(pending, error) => {
                    waiting.push_front(pending);
                    batch.append(&mut waiting);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// One step for one record. `wanted` and `with_bytes`: see [`Self::look`].
    async fn place_one(&mut self, mut pending: PendingWrite, wanted: &[u64], with_bytes: bool) -> Placed {
        if let Some(time) = self.hidden.at(&pending.prepared.identity)
            && let Err(error) = self.uncover(&pending, time).await
        {
            return Placed::Failed(pending, error);
        }
        let answer = match self.occupied.choose(&pending.prepared.identity, pending.prepared.base_us) {
            TimestampChoice::Free(time) => {
                self.occupied.occupy(time);
                pending.time_us = Some(time);
                pending.must_be_shown |= self.occupied.may_be_hidden(time) && self.count_beside_others(&pending);
                return Placed::ToBeWritten(pending);
            }
            // A record of another partition, which needed no bytes, made the writer look here.
            TimestampChoice::Present(time) if self.compares_contents(&pending) && self.occupied.is_unread(time) => {
                self.occupied.doubt(time);
                return Placed::Again(pending);
            }
            TimestampChoice::Present(time)
                if self.compares_contents(&pending)
                    && self.occupied.is_damaged(time, &pending.prepared.payload)
                    && self.rewritten.is_worth_it(&pending.prepared.identity) =>
            {
                // This process may have been suspended while it looked, and the partition have moved to another host.
                self.shared.membership.assured().await;
                if !pending.state().may_write() {
                    return Placed::ToBeWritten(pending);
                }
                warn!(entry = %self.entry, record = %pending.prepared.identity, "damaged in the store: writing it again");
                let removed = self.remove_damaged(time).await;
                if removed.is_ok() {
                    self.rewritten.count(&pending.prepared.identity);
                }
                removed
            }
            TimestampChoice::Present(time) => {
                pending.time_us = Some(time);
                self.note_stored(pending, true);
                return Placed::AlreadyStored;
            }
            TimestampChoice::Unknown(from) => self.look(from, wanted, with_bytes).await,
        };
        match answer {
            Ok(()) => Placed::Again(pending),
            Err(error) => Placed::Failed(pending, error),
        }
    }

    fn compares_contents(&self, pending: &PendingWrite) -> bool {
        pending.state().compare_contents()
    }

    fn count_beside_others(&mut self, pending: &PendingWrite) -> bool {
        let late = self.written_beside_others.entry(pending.prepared.identity.source.clone()).or_default();
        *late = late.saturating_add(1);
        *late <= SHOWN_BESIDE_OTHERS
    }

    async fn remove_damaged(&mut self, time: u64) -> Result<(), StoreError> {
        // The re-read is demanded first, because the answer may be lost although the record is removed.
        self.require_reread_of_entry();
        self.shared.store.remove_all(&self.entry, &[time]).await?;
        self.shared.counters.repaired(1);
        self.occupied.doubt(time);
        Ok(())
    }

    /// Reads what the entry holds from `from` on, for all records of the batch whose times are near.
    async fn look(&mut self, from: u64, wanted: &[u64], with_bytes: bool) -> Result<(), StoreError> {
        let mut last = from;
        for base in wanted.iter().copied().filter(|base| *base > from) {
            if base - last > NEAR_US {
                break;
            }
            last = base;
        }
        // Backwards too: where time runs against the offsets, each record would otherwise cost a query of its own.
        let mut first = from;
        for base in wanted.iter().rev().copied().filter(|base| *base < from) {
            if first - base > NEAR_US || !self.occupied.is_unknown(base) {
                break;
            }
            first = base;
        }
        let range = first..last.saturating_add(if with_bytes { SEARCHED_US } else { AHEAD_US });
        let page = if with_bytes {
            self.shared.store.records(&self.entry, range.clone(), WHOLE).await?
        } else {
            self.shared.store.heads(&self.entry, range.clone(), HEADS).await?
        };
        self.note_strangers(&page.seen);
        self.occupied.learn(range.start..page.until, page.seen);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_always_differs_is_not_written_again_for_ever() {
        let source = TopicPartition { topic: "t".into(), partition: 0 };
        let id = |offset| Identity { source: source.clone(), topic_id: None, offset, index: None };
        let mut rewritten = Rewritten::default();
        for _ in 0..MOST_REWRITES {
            assert!(rewritten.is_worth_it(&id(1)));
            rewritten.count(&id(1));
        }
        assert!(!rewritten.is_worth_it(&id(1)));
        assert!(rewritten.is_worth_it(&id(2)));
        for offset in 2..2 + REWRITTEN_KEPT as u64 {
            rewritten.count(&id(offset));
        }
        assert!(rewritten.0.len() <= REWRITTEN_KEPT);
    }
}
