//! What a replay by the running host asks of the sink beside writing: to look whether records are still there, and to remove dead
//! letters that are done with.
//!
//! Guarantees: a letter is removed by its entry's one writer, between two of its requests, and only while every partition that
//! the letters belong to is this host's; nothing is removed while the store may still be at work on a request that failed, nor where
//! the store was started again since the letters' records were written.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::item::Item;
use super::store::{Content, StoreError};
use super::{COMPARED_AT_ONCE, Shared, Sink};
use crate::flow::store_start::Started;
use crate::flow::{PartitionState, StoredOutput};
use crate::record::entry_name::EntryName;

/// For how long the store may be at work on a request that failed. Source: it gives up a request whose records don't come after 30 s by
/// default.
const AT_WORK: Duration = Duration::from_secs(60);

/// Outputs whose times are at most this far apart are looked for with one query, which reads the records between them, too, in microseconds.
const CLOSE_US: u64 = 5_000;

/// What a writer has to do. It is small, because the queue of each of thousands of writers has room for many.
#[derive(Debug)]
pub(crate) enum Work {
    /// To write a record.
    Write(Box<Item>),
    /// To remove dead letters.
    Remove(Box<LetterRemoval>),
}

/// How the store shows an output of a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShownOutput {
    /// As the chain made it.
    Whole,
    /// A record of the same identity whose bytes differ or can't be read: it is damaged, or another version of a plugin made it.
    Differs,
    /// Not at all.
    Missing,
}

/// Dead letters of one entry that are done with.
#[derive(Debug)]
pub(crate) struct LetterRemoval {
    /// The partitions that they belong to, as this host reads them.
    pub owners: Vec<Arc<PartitionState>>,
    /// Their times.
    pub times: Vec<u64>,
    /// How the store had started before their records were written. After another start it may have lost them.
    pub store_start: Started,
    /// Gets the reason where they aren't removed.
    pub answer: oneshot::Sender<Result<(), String>>,
}

impl LetterRemoval {
    /// Nothing is removed.
    pub fn refuse(self, reason: String) {
        // Nobody waits any more where the replay was ended.
        let _ = self.answer.send(Err(reason));
    }
}

impl Sink {
    /// Removes dead letters. `owners`: the partitions that they belong to; `store_start`: how the store had started before their records
    /// were written.
    pub async fn remove_letters(
        &self,
        entry: &EntryName,
        owners: Vec<Arc<PartitionState>>,
        times: Vec<u64>,
        store_start: Started,
    ) -> Result<(), String> {
        let (answer, answered) = oneshot::channel();
        let removal = LetterRemoval { owners, times, store_start, answer };
        self.0.hand(entry, Work::Remove(Box::new(removal)));
        answered.await.unwrap_or_else(|_| Err("the sink ends".into()))
    }

    /// An error where the store was started again since, or doesn't answer.
    pub async fn require_same_start(&self, store_start: Started) -> Result<(), String> {
        self.0.require_same_start(store_start).await
    }

    /// How the store shows each of these outputs, all of one entry, now.
    pub async fn shows(&self, entry: &EntryName, outputs: &[StoredOutput]) -> Result<Vec<ShownOutput>, StoreError> {
        let mut order: Vec<usize> = (0..outputs.len()).collect();
        order.sort_by_key(|at| outputs.get(*at).map(|output| output.time_us));
        let mut shown = vec![ShownOutput::Missing; outputs.len()];
        let time_of = |at: &usize| outputs.get(*at).map_or(0, |output| output.time_us);
        for near in order.chunk_by(|one, next| time_of(next) - time_of(one) <= CLOSE_US) {
            let (Some(first), Some(last)) = (near.first().map(time_of), near.last().map(time_of)) else { continue };
            let (mut from, end) = (first, last.saturating_add(1));
            while from < end {
                let page = self.0.store.records(entry, from..end, COMPARED_AT_ONCE).await?;
                for seen in page.seen {
                    for at in near.iter().copied().filter(|at| time_of(at) == seen.timestamp_us) {
                        let (Some(output), Some(shown)) = (outputs.get(at), shown.get_mut(at)) else { continue };
                        if !seen.identity.as_ref().is_some_and(|seen| seen.matches(&output.identity)) {
                            continue;
                        }
                        // Also what was found there: the letter may be the last good copy of what a crash damaged.
                        *shown = match seen.content {
                            Content::Read { checksum, .. } if checksum == output.checksum => ShownOutput::Whole,
                            Content::Read { .. } | Content::Unread | Content::Unreadable => ShownOutput::Differs,
                        };
                    }
                }
                from = page.until;
            }
        }
        Ok(shown)
    }

    /// A partition begins that another host may have had: how its last requests went isn't known.
    pub fn partition_begins(&self) {
        self.0.note_failed_request();
    }

    /// For how long the store may still be at work on a request that failed, or whose end isn't known; `None`: on none.
    pub fn may_be_at_work_for(&self) -> Option<Duration> {
        self.0.may_be_at_work_for()
    }
}

impl Shared {
    /// A request failed: what the store makes of it isn't known for a while.
    pub(super) fn note_failed_request(&self) {
        *self.failed_request.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Since when the store doesn't do what fails with this error: also another writer's request can have been the first.
    pub(super) fn failing_since(&self, error: &StoreError) -> Instant {
        let unanswered = self.store.open_requests().unanswered_since();
        unanswered.filter(|_| matches!(error, StoreError::Unavailable(_))).unwrap_or_else(Instant::now)
    }

    pub(super) async fn require_same_start(&self, before: Started) -> Result<(), String> {
        let now = self.store.started().await.map_err(|error| error.to_string())?;
        match before.narrow(now) {
            Some(_) => Ok(()),
            None => Err("the store was started again since their records were written, and may have lost them".into()),
        }
    }

    pub(super) fn may_be_at_work_for(&self) -> Option<Duration> {
        let failed = (*self.failed_request.lock().unwrap_or_else(PoisonError::into_inner))?;
        AT_WORK.checked_sub(failed.elapsed()).filter(|left| !left.is_zero())
    }
}
