//! Removes records of an entry.
//!
//! To remove records, the server copies what else their block holds into a new file, which is exactly as long as that. Of records whose
//! write was interrupted it copies the bytes, too. Those that were begun after an earlier removal may lie behind the end of the file: then
//! the server fails with 500 and gives up the block, with everything in it. Source: ReductStore 1.21.5, `block_manager/records.rs`; tried
//! against the server (`dead_letters::unfinished`).
//!
//! Guarantees: what is removed is exactly what was asked for, and the copy that was written for it; the other records of the block stay whole
//! where a copy was written before ([`Store::remove_letters`], [`Store::write_behind`]), also beside unfinished ones.

use std::collections::BTreeMap;

use reduct_rs::{ErrorCode, ReductError};

use super::pages::EntryRecord;
use super::request_times::StoreOperation;
use super::store::{Store, StoreError, Write};
use crate::record::entry_name::EntryName;

/// Timestamps that one request removes: they travel in its headers.
const REMOVED_AT_ONCE: usize = 80;
/// How many microseconds are tried for a copy.
const TRIED: usize = 100;
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
        // One place is for the copy.
        for times in times.chunks(REMOVED_AT_ONCE - 1) {
            let copy = self.copy_letter(entry, times).await?;
            let times: Vec<u64> = times.iter().copied().chain(copy).collect();
            self.remove_all(entry, &times).await?;
        }
        Ok(())
    }

    /// Writes one of these letters a second time, behind the last of them, and answers with the copy's time. Where the removal doesn't
    /// follow, the copy is a dead letter like others: its record is found when it is replayed.
    async fn copy_letter(&self, entry: &EntryName, times: &[u64]) -> Result<Option<u64>, StoreError> {
        let (Some(first), Some(last)) = (times.first(), times.last()) else { return Ok(None) };
        let shown = self.heads(entry, *first..last.saturating_add(1), HEADS).await?.seen;
        let letters = shown.iter().filter(|seen| seen.size > 0 && times.binary_search(&seen.timestamp_us).is_ok());
        // Of letters without bytes the file needs none.
        let Some(smallest) = letters.min_by_key(|seen| seen.size).map(|seen| seen.timestamp_us) else {
            return Ok(None);
        };
        let page = self.page(entry, smallest, 1, 1).await?;
        let Some(letter) = page.into_iter().find(|letter| letter.timestamp_us == smallest) else { return Ok(None) };
        let EntryRecord { labels, payload, content_type, .. } = letter;
        let copy = Write { timestamp_us: *last, labels, content_type: Some(content_type), payload };
        self.write_behind(entry, copy).await.map(Some)
    }

    /// Writes a record to the first free microsecond behind its time, and answers with that. Its bytes make the file of the block as long as
    /// all that was begun in it, so that the server can copy the rest in a removal; or the block is full, and the server does that by
    /// itself.
    pub async fn write_behind(&self, entry: &EntryName, record: Write) -> Result<u64, StoreError> {
        let mut free = self.free_behind(entry, record.timestamp_us).await?;
        for _ in 0..TRIED {
            let copy = Write { timestamp_us: free, ..record.clone() };
            match self.write(entry, BTreeMap::from([(free, copy)]), Vec::new()).await?.remove(&free) {
                None => return Ok(free),
                // An unfinished record, which no query shows.
                Some(StoreError::Conflict(_)) => free = self.free_behind(entry, free).await?,
                Some(error) => return Err(error),
            }
        }
        let text = format!(
            "none of {TRIED} microseconds behind {} is free, though a query shows nothing there",
            record.timestamp_us
        );
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
