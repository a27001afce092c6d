//! What a writer does about requests that were cut off: by a kill of the host, a timeout, a broken connection.
//!
//! Such a request leaves records in ReductStore that were never finished. A query doesn't show them, and they stay for as
//! long as the server's data does. Where their block is the one that a record of their microsecond is written to, the
//! server refuses that (409). Where it isn't, because late records began a block between, the server accepts it, and
//! then a query passes over it: of one microsecond it looks at the first record only, finished or not.
//! Source: ReductStore 1.21.5, `write_record.rs`, `query/filters/time_range.rs`; tried against the server.
//!
//! Guarantees: what may be hidden so is settled only once a query shows it; of what is finished, only records that this
//! writer is about to write again are removed.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tracing::warn;

use super::{SCAN_GAP_US, Writer, doubt};
use crate::record::Identity;
use crate::sink::item::Prepared;
use crate::sink::store::{Seen, StoreError, TakenBy};

/// How long an unfinished record is given to be finished by whoever is writing it, before it is removed.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long a record that isn't shown is given to be finished: the server answers before it is.
const FINISHING: Duration = Duration::from_millis(100);
/// How often one microsecond is cleared before it is tried again to write it; each block may have one record there.
const MOST_COPIES: usize = 8;

impl Writer {
    /// Settles only what a query shows, whole: of the records that were acknowledged those for which a request may have
    /// been cut off before, and all of them in the verifying mode.
    pub(super) async fn read_back(&mut self, batch: &mut VecDeque<Prepared>) -> Result<(), StoreError> {
        let mut times: Vec<u64> = batch.iter().filter(|p| p.written).filter_map(|p| p.time_us).collect();
        if times.is_empty() {
            return Ok(());
        }
        times.sort_unstable();
        let mut seen = self.seen_at(&times, batch).await?;
        if batch.iter().any(|prepared| prepared.written && !is_shown(prepared, &seen)) {
            tokio::time::sleep(FINISHING).await;
            seen = self.seen_at(&times, batch).await?;
        }
        for mut prepared in std::mem::take(batch) {
            if prepared.written && is_shown(&prepared, &seen) {
                self.acknowledge(prepared);
            } else {
                if prepared.written {
                    warn!(entry = %self.entry, record = %prepared.identity, "acknowledged but not shown: writing it again");
                }
                doubt(&mut self.view, &mut prepared);
                batch.push_back(prepared);
            }
        }
        Ok(())
    }

    /// What a query shows at these times and between them, by time.
    async fn seen_at(
        &mut self,
        times: &[u64],
        batch: &mut VecDeque<Prepared>,
    ) -> Result<BTreeMap<u64, Seen>, StoreError> {
        let mut seen = BTreeMap::new();
        for times in times.chunk_by(|one, next| next - one <= SCAN_GAP_US) {
            match self.shared.store.scan(&self.entry, around(times)).await {
                Ok(found) => seen.extend(found.into_iter().map(|seen| (seen.timestamp_us, seen))),
                Err(error) => {
                    let view = &mut self.view;
                    batch.iter_mut().for_each(|prepared| doubt(view, prepared));
                    return Err(error);
                }
            }
        }
        Ok(seen)
    }

    /// Frees microseconds that are taken by what a query doesn't show, so that they can be written.
    pub(super) async fn repair(&mut self, taken: Vec<u64>, batch: &VecDeque<Prepared>) -> Result<(), StoreError> {
        tokio::time::sleep(PATIENCE).await;
        let (mut unfinished, mut hidden) = (Vec::new(), Vec::new());
        for time in taken {
            match self.shared.store.taken_by(&self.entry, time).await? {
                TakenBy::Unfinished => unfinished.push(time),
                // It was finished since.
                TakenBy::Record(_) if self.is_shown(time).await? => {}
                TakenBy::Record(seen) if batch.iter().any(|p| is_of(&seen, &p.identity)) => {
                    hidden.push(time);
                }
                TakenBy::Record(_) => {
                    warn!(entry = %self.entry, time, "a record that isn't ours is hidden by an unfinished one; leaving it");
                    self.view.take(time);
                    self.view.scanned(time..time.saturating_add(1));
                }
                TakenBy::Nothing => {
                    let taken = format!("{time} µs is taken (409), though nothing can be read there");
                    return Err(StoreError::Conflict(taken));
                }
            }
        }
        // Somebody else may be writing here by now.
        self.shared.membership.assured().await;
        if batch.iter().any(Prepared::is_stale) || unfinished.is_empty() && hidden.is_empty() {
            return Ok(());
        }
        warn!(
            entry = %self.entry,
            unfinished = unfinished.len(),
            hidden = hidden.len(),
            "removing unfinished records and what they hide, to write them again"
        );
        // The server rewrites the whole block, and spoils it if the request that was cut off is still at work there:
        // what the block holds is going to be read again and compared.
        self.shared.removals.fetch_add(1, Ordering::SeqCst);
        if !unfinished.is_empty() {
            self.shared.store.remove(&self.entry, &unfinished).await?;
        }
        for time in &hidden {
            self.clear(*time).await?;
        }
        self.shared.counters.repaired((unfinished.len() + hidden.len()) as u64);
        Ok(())
    }

    /// Whether a query over more than this microsecond shows a record there.
    async fn is_shown(&self, time: u64) -> Result<bool, StoreError> {
        let seen = self.shared.store.scan(&self.entry, around(&[time])).await?;
        Ok(seen.iter().any(|seen| seen.timestamp_us == time))
    }

    /// Removes a record and whatever hides it: the server removes one of them at a time, the one that can be read first.
    async fn clear(&self, time: u64) -> Result<(), StoreError> {
        for _ in 0..MOST_COPIES {
            self.shared.store.remove(&self.entry, &[time]).await?;
            if matches!(self.shared.store.taken_by(&self.entry, time).await?, TakenBy::Nothing) {
                break;
            }
        }
        Ok(())
    }
}

/// Whether the record is among what a query showed, whole.
fn is_shown(prepared: &Prepared, seen: &BTreeMap<u64, Seen>) -> bool {
    let seen = prepared.time_us.and_then(|time| seen.get(&time));
    seen.is_some_and(|seen| is_of(seen, &prepared.identity) && seen.size == prepared.payload.len())
}

/// Whether what was seen is the record of this identity.
fn is_of(seen: &Seen, identity: &Identity) -> bool {
    seen.identity.as_ref().is_some_and(|seen| seen.matches(identity))
}

/// From before the first to behind the last of these times, which are in order: what hides the first record of a block may
/// stand at the end of the block before.
fn around(times: &[u64]) -> Range<u64> {
    let (first, last) = (times.first().copied().unwrap_or_default(), times.last().copied().unwrap_or_default());
    first.saturating_sub(1)..last.saturating_add(1)
}
