//! What a crash of the store, or the removal of a record, may have harmed of what was acknowledged.
//!
//! Guarantees: a record counts as whole only if the store shows it at its time, with its identity and its bytes; a store that
//! is away gives no answer instead of a wrong one, and one that fails at an entry has harmed that entry's last records;
//! partitions that a removal may have harmed are kept until somebody has taken them to be re-read.

use std::collections::{HashMap, HashSet};
use std::sync::{MutexGuard, PoisonError};
use std::time::Instant;

use tracing::warn;

use super::recent::{Recent, Written};
use super::store::{Content, QueriedRecord, StoreError};
use super::{COMPARED_AT_ONCE, Shared, Sink, writer};
use crate::flow::block_margin::OPEN_BLOCKS;
use crate::record::entry_name::EntryName;
use crate::record::{Identity, TopicPartition};

/// Entries in which an old record is looked for after the store has restarted.
const SETTLED_ASKED: usize = 8;

impl Sink {
    /// Asks how many records a block of the bucket holds, and from now on remembers as many of each entry as the open blocks can hold; never
    /// fewer than before.
    pub async fn look_at_blocks(&self) -> Result<u64, StoreError> {
        let records = self.0.store.block_records().await?;
        self.remember_blocks(records);
        Ok(records)
    }

    /// The same, where the answer is known.
    pub fn remember_blocks(&self, records: u64) {
        let depth = usize::try_from(records.max(1).saturating_mul(OPEN_BLOCKS)).unwrap_or(usize::MAX);
        self.0.recent().deepen(depth, Instant::now());
    }

    /// Compares the remembered records below the given offsets of their partitions with the store: those that were at risk at `ran_at`, when
    /// the store was last known to run. Answers with the first offset of each partition that is missing or damaged.
    pub async fn harmed(
        &self,
        before: &HashMap<TopicPartition, u64>,
        ran_at: Instant,
    ) -> Result<HashMap<TopicPartition, u64>, StoreError> {
        let is_before = |identity: &Identity| before.get(&identity.source).is_some_and(|to| identity.offset < *to);
        let at_risk = self.0.recent().at_risk(ran_at, is_before);
        let mut harmed: HashMap<TopicPartition, u64> = HashMap::new();
        for (entry, records) in at_risk {
            let mut by_time: Vec<Written> = records;
            by_time.sort_by_key(|record| record.time_us);
            for near in by_time.chunk_by(|one, next| next.time_us - one.time_us <= writer::NEAR_US) {
                let damaged = match self.0.damaged(&entry, near).await {
                    // A store that is away is asked again. One that fails at this entry may have lost what it holds, and must
                    // not keep the others from being re-read.
                    Err(error @ StoreError::Unavailable(_)) => return Err(error),
                    Err(error) => {
                        warn!(%entry, %error, "the entry can't be read: taking its last records for damaged");
                        near.iter().collect()
                    }
                    Ok(damaged) => damaged,
                };
                for record in damaged {
                    warn!(%entry, record = %record.identity, "ReductStore doesn't have it any more as it was acknowledged");
                    let Identity { source, offset, .. } = &record.identity;
                    let first = harmed.entry(source.clone()).or_insert(*offset);
                    *first = (*offset).min(*first);
                }
            }
        }
        Ok(harmed)
    }

    /// A record that this host wrote, that no crash of the store can take, and that the store doesn't have; `None`: none of
    /// those that are looked for. A store that lost one isn't the one that acknowledged it.
    pub async fn lost_without_a_crash(&self) -> Result<Option<(EntryName, Identity)>, StoreError> {
        let settled = self.0.recent().settled(SETTLED_ASKED);
        for (entry, Written { time_us, identity, .. }) in settled {
            let page = self.0.store.heads(&entry, time_us..time_us.saturating_add(1), 1).await?;
            let is_there = |seen: &QueriedRecord| seen.identity.as_ref().is_some_and(|seen| seen.matches(&identity));
            if !page.seen.iter().any(is_there) {
                return Ok(Some((entry, identity)));
            }
        }
        Ok(None)
    }

    /// The partitions, since the last call, that share an entry from which a record of another one was removed: the store
    /// rewrote a block that may hold records of theirs. Until they are re-read the gate is closed by a failure.
    pub fn take_harmed_by_removal(&self) -> HashSet<TopicPartition> {
        std::mem::take(&mut self.0.harmed_by_removal())
    }

    /// Gives those back that can't be re-read yet: this host doesn't read them at present. The gate doesn't wait for them.
    pub fn keep_harmed_by_removal(&self, harmed: HashSet<TopicPartition>) {
        self.0.harmed_by_removal().extend(harmed);
    }

    /// The store was asked at this moment whether it has restarted, and what followed from its answer was done. `has_crashed`: partitions are
    /// re-read because of it.
    pub fn looked(&self, asked: Instant, has_crashed: bool) {
        self.0.recent().looked(asked, has_crashed);
    }

    /// The lowest offset of each partition that a crash of the store may harm at present.
    pub fn lowest_at_risk(&self) -> HashMap<TopicPartition, u64> {
        self.0.recent().lowest(Instant::now())
    }
}

impl Shared {
    pub(crate) fn remember(&self, entry: &EntryName, written: impl IntoIterator<Item = Written>) {
        self.recent().wrote(entry, written, Instant::now());
    }

    /// Dead letters are about to be removed from their entry.
    pub(crate) fn forget_removed(&self, entry: &EntryName, times: &[u64]) {
        self.recent().forget(entry, times);
    }

    /// The store rewrites a block of this entry, because a record of it is to be removed, or may do so, because a removal failed. The
    /// entry's own partitions, which the writer knows, are `known`.
    pub(crate) fn require_reread_beside(&self, entry: &EntryName, known: impl Fn(&TopicPartition) -> bool) {
        let mut others = self.recent().sources(entry);
        others.retain(|source| !known(source));
        if !others.is_empty() {
            self.harmed_by_removal().extend(others);
            // Nothing is committed before the recovery has looked.
            self.gate.report_removal();
        }
    }

    fn harmed_by_removal(&self) -> MutexGuard<'_, HashSet<TopicPartition>> {
        self.harmed_by_removal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which of these records, in their order of time, the store doesn't have as they were acknowledged.
    async fn damaged<'a>(&self, entry: &EntryName, records: &'a [Written]) -> Result<Vec<&'a Written>, StoreError> {
        let (Some(first), Some(last)) = (records.first(), records.last()) else { return Ok(Vec::new()) };
        let mut seen: HashMap<u64, QueriedRecord> = HashMap::new();
        let (mut from, end) = (first.time_us, last.time_us.saturating_add(1));
        while from < end {
            let page = self.store.records(entry, from..end, COMPARED_AT_ONCE).await?;
            seen.extend(page.seen.into_iter().map(|seen| (seen.timestamp_us, seen)));
            from = page.until;
        }
        let is_whole = |record: &Written| {
            seen.get(&record.time_us).is_some_and(|seen| {
                seen.identity.as_ref().is_some_and(|seen| seen.matches(&record.identity))
                    && matches!(seen.content, Content::Read { sketch, .. } if sketch == record.sketch)
            })
        };
        Ok(records.iter().filter(|record| !is_whole(record)).collect())
    }
}
