//! Removes records of an entry.
//!
//! To remove records, the server copies what else their block holds into a new file, which is exactly as long as that. Of records whose
//! write was interrupted it copies the bytes, too. Those that were begun after an earlier removal may lie behind the end of the file: then
//! the server fails with 500 and gives up the block, with everything in it. Source: ReductStore 1.21.5, `block_manager/records.rs`; tried
//! against the server (`dead_letters::unfinished`).
//!
//! Guarantees: what is removed is exactly what was asked for, and the copies that were written for it. The removal of dead letters leaves the
//! other records of the blocks of the first and the last of them whole, also beside unfinished ones. Other removals don't: what the block
//! held has to be re-read.

use std::collections::BTreeMap;

use reduct_rs::{ErrorCode, ReductError};

use super::pages::EntryRecord;
use super::request_times::StoreOperation;
use super::store::{Store, StoreError, Write};
use crate::record::entry_name::EntryName;

/// Timestamps that one request removes: they travel in its headers.
const REMOVED_AT_ONCE: usize = 80;
/// How often another microsecond is tried for a copy, each twice as far away as the one before.
const TRIED: u32 = 16;
/// How far the search for a free microsecond looks at a time, in microseconds and in records.
const AHEAD_US: u64 = 1_000_000;
const HEADS: usize = 1_000;

impl Store {
    /// Removes the records at exactly these timestamps, unfinished ones included.
    pub async fn remove(&self, entry: &EntryName, times: &[u64]) -> Result<(), StoreError> {
        // What isn't there any more needn't be removed; what couldn't be shows as a conflict at the next write.
        self.remove_each(entry, times, |_| Ok(())).await
    }

    /// Removes these records; an error where one of them couldn't be.
    pub async fn remove_all(&self, entry: &EntryName, times: &[u64]) -> Result<(), StoreError> {
        let first = |failed: BTreeMap<u64, ReductError>| {
            failed.into_values().find(|error| error.status != ErrorCode::NotFound).map_or(Ok(()), Err)
        };
        self.remove_each(entry, times, first).await
    }

    async fn remove_each(
        &self,
        entry: &EntryName,
        times: &[u64],
        judge: impl Fn(BTreeMap<u64, ReductError>) -> Result<(), ReductError> + Copy + Send + 'static,
    ) -> Result<(), StoreError> {
        for times in times.chunks(REMOVED_AT_ONCE) {
            let (name, times) = (entry.to_string(), times.to_vec());
            let removed = self.with_bucket(0, move |bucket| {
                let mut request = bucket.remove_batch(&name);
                request.append_timestamps_us(times.clone());
                async move {
                    let failed = request.send().await?;
                    judge(failed)
                }
            });
            self.timed(StoreOperation::Remove, removed).await?;
        }
        Ok(())
    }

    /// Removes dead letters of this entry, whose times are in order; an error where one of them couldn't be removed.
    pub async fn remove_letters(&self, entry: &EntryName, times: &[u64]) -> Result<(), StoreError> {
        // Two places are for copies.
        for times in times.chunks(REMOVED_AT_ONCE - 2) {
            let copies = self.copy_letters(entry, times).await?;
            let times: Vec<u64> = times.iter().copied().chain(copies).collect();
            self.remove_all(entry, &times).await?;
        }
        Ok(())
    }

    /// Writes one of these letters once more behind the first and behind the last of them, and answers with the times of the copies. Where
    /// the removal doesn't follow, a copy is a dead letter like others: its record is found when it is replayed.
    async fn copy_letters(&self, entry: &EntryName, times: &[u64]) -> Result<Vec<u64>, StoreError> {
        let (Some(first), Some(last)) = (times.first(), times.last()) else { return Ok(Vec::new()) };
        let shown = self.heads(entry, *first..last.saturating_add(1), HEADS).await?.seen;
        let letters = shown.iter().filter(|seen| seen.size > 0 && times.binary_search(&seen.timestamp_us).is_ok());
        // Letters without bytes need no room in the file.
        let Some(smallest) = letters.min_by_key(|seen| seen.size).map(|seen| seen.timestamp_us) else {
            return Ok(Vec::new());
        };
        let page = self.page(entry, smallest, 1, 1).await?;
        let Some(letter) = page.into_iter().find(|letter| letter.timestamp_us == smallest) else {
            return Ok(Vec::new());
        };
        let mut copies = Vec::new();
        for time in [Some(first), Some(last).filter(|last| *last != first)].into_iter().flatten() {
            let EntryRecord { labels, payload, content_type, .. } = letter.clone();
            let copy = Write { timestamp_us: *time, labels, content_type: Some(content_type), payload };
            match self.write_behind(entry, copy).await {
                Ok(time) => copies.push(time),
                // The removal makes room.
                Err(StoreError::Full(_)) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(copies)
    }

    /// Writes a record to a free microsecond behind its time, and answers with that. The bytes make the file of the block as long as all that
    /// was begun in it, so that the server can copy the rest in a removal. If the block is full instead, the server lengthens the file when
    /// it begins the next block.
    async fn write_behind(&self, entry: &EntryName, record: Write) -> Result<u64, StoreError> {
        let mut free = self.free_behind(entry, record.timestamp_us).await?;
        for tried in 0..TRIED {
            let copy = Write { timestamp_us: free, ..record.clone() };
            match self.write(entry, vec![copy], Vec::new()).await?.remove(&free) {
                None => return Ok(free),
                // An unfinished record, which no query shows.
                Some(StoreError::Conflict(_)) => {
                    free = self.free_behind(entry, free.saturating_add(1 << tried)).await?;
                }
                Some(error) => return Err(error),
            }
        }
        let text = format!("no microsecond is free behind {}, though a query shows nothing there", record.timestamp_us);
        Err(StoreError::Conflict(text))
    }

    /// The first microsecond behind this one where a query shows nothing.
    async fn free_behind(&self, entry: &EntryName, time: u64) -> Result<u64, StoreError> {
        let mut free = time.saturating_add(1);
        loop {
            let page = self.heads(entry, free..free.saturating_add(AHEAD_US), HEADS).await?;
            let begin = free;
            for seen in &page.seen {
                if seen.timestamp_us != free {
                    return Ok(free);
                }
                free = free.saturating_add(1);
            }
            if free == begin || page.seen.len() < HEADS {
                return Ok(free);
            }
        }
    }
}
