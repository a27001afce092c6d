//! What a writer does about requests that were cut off: by a kill of the host, a timeout, a broken connection.
//!
//! Such a request leaves records in ReductStore that were never finished. A query doesn't show them, and they stay for as
//! long as the server's data does. Where their block is the one that a record of their microsecond is written to, the
//! server refuses that (409). Where it isn't, because late records began a block between, the server accepts it, and
//! then a query passes over it: of one microsecond it looks at the first record only, finished or not.
//! Source: ReductStore 1.21.5, `write_record.rs`, `query/filters/time_range.rs`; tried against the server.
//!
//! Guarantees: no finished record is removed but a hidden one that this writer is about to write again, has written elsewhere and not
//! acknowledged yet, or was shown elsewhere; a hidden record that comes again isn't there twice.

use std::collections::VecDeque;
use std::time::Duration;

use tracing::warn;

use super::Writer;
use super::pending::PendingWrite;
use super::verify::around;
use crate::record::Identity;
use crate::sink::store::{Occupant, QueriedRecord, StoreError};

/// How long an unfinished record is given to be finished by whatever is writing it, before it is removed.
const PATIENCE: Duration = Duration::from_millis(500);
/// How many records are removed at one microsecond before the writer tries to write there again; each block may have one record there.
const MOST_COPIES: usize = 8;
/// How many hidden records of an entry are remembered.
const MOST_HIDDEN: usize = 1_000;

/// Records that unfinished ones hide, by what they are and where they stand. A query doesn't show them, so that one which comes again
/// isn't found by looking for it.
#[derive(Debug, Default)]
pub(super) struct Hidden(VecDeque<(Identity, u64)>);

impl Hidden {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn note(&mut self, identity: Option<Identity>, time: u64) {
        let Some(identity) = identity else { return };
        self.forget(&identity);
        self.0.push_back((identity, time));
        if self.0.len() > MOST_HIDDEN {
            self.0.pop_front();
        }
    }

    fn forget(&mut self, identity: &Identity) {
        self.0.retain(|(known, _)| !known.matches(identity));
    }

    /// The microsecond at which this record is hidden; `None`: none is known.
    pub fn at(&self, identity: &Identity) -> Option<u64> {
        self.0.iter().find(|(known, _)| known.matches(identity)).map(|(_, time)| *time)
    }
}

impl Writer {
    /// Frees microseconds that are occupied by what a query doesn't show, so that they can be written.
    pub(super) async fn repair(
        &mut self,
        occupied: Vec<u64>,
        batch: &VecDeque<PendingWrite>,
    ) -> Result<(), StoreError> {
        tokio::time::sleep(PATIENCE).await;
        let (mut unfinished, mut hidden) = (Vec::new(), Vec::new());
        for time in occupied {
            match self.shared.store.occupant(&self.entry, time).await? {
                Occupant::Unfinished => unfinished.push(time),
                // The record was finished meanwhile.
                Occupant::Record(_) if self.is_shown_at(time).await? => {}
                Occupant::Record(seen) if self.is_in_hand(&seen, batch) => hidden.push(time),
                Occupant::Record(seen) => {
                    warn!(entry = %self.entry, time, "another record is hidden by an unfinished one; leaving it");
                    self.occupied.learn(time..time.saturating_add(1), Vec::new());
                    self.occupied.occupy(time);
                    self.note_strangers(std::slice::from_ref(&seen));
                    self.hidden.note(seen.identity, time);
                }
                Occupant::Nothing => {
                    let text = format!("{time} µs is occupied (409), though nothing can be read there");
                    return Err(StoreError::Conflict(text));
                }
            }
        }
        // This process may have been suspended meanwhile, and another host may be writing here by now.
        self.shared.membership.assured().await;
        if batch.iter().any(|pending| !pending.state().may_write()) || unfinished.is_empty() && hidden.is_empty() {
            return Ok(());
        }
        warn!(
            entry = %self.entry,
            unfinished = unfinished.len(),
            hidden = hidden.len(),
            "removing unfinished records and what they hide, to write them again"
        );
        // The server rewrites the whole block. It damages it if the request that was cut off is still at work there, and can give it up
        // altogether ([`crate::sink::removal`]): what the block holds is re-read and compared.
        self.require_reread_of_entry();
        if !unfinished.is_empty() {
            self.shared.store.remove(&self.entry, &unfinished).await?;
        }
        for time in &hidden {
            self.clear(*time, batch).await?;
        }
        self.shared.counters.repaired((unfinished.len() + hidden.len()) as u64);
        Ok(())
    }

    /// Whether this writer is about to write this record, has just written it elsewhere and not read it back yet, or was shown it
    /// elsewhere. Then the hidden copy isn't needed, and the record would be there twice if whatever hides it were removed.
    fn is_in_hand(&self, seen: &QueriedRecord, batch: &VecDeque<PendingWrite>) -> bool {
        let unverified = self.unverified.iter().filter(|record| record.time_us != Some(seen.timestamp_us));
        let is_shown = |identity| self.occupied.is_found_beside(identity, seen.timestamp_us);
        batch.iter().chain(&self.pending).chain(unverified).any(|pending| pending.is_of(seen))
            || seen.identity.as_ref().is_some_and(is_shown)
    }

    /// Removes the hidden copy of a record that is about to be written.
    pub(super) async fn uncover(&mut self, pending: &PendingWrite, time: u64) -> Result<(), StoreError> {
        // This process may have been suspended meanwhile, and another host may be writing here by now.
        self.shared.membership.assured().await;
        if !pending.state().may_write() {
            return Ok(());
        }
        warn!(entry = %self.entry, record = %pending.prepared.identity, time, "hidden by an unfinished record: writing it again");
        self.require_reread_of_entry();
        self.clear(time, [pending]).await?;
        self.shared.counters.repaired(1);
        self.hidden.forget(&pending.prepared.identity);
        self.occupied.doubt(time);
        Ok(())
    }

    /// Whether a query over more than this microsecond shows a record there.
    pub(super) async fn is_shown_at(&self, time: u64) -> Result<bool, StoreError> {
        let page = self.shared.store.heads(&self.entry, around(time, time), 3).await?;
        Ok(page.seen.iter().any(|seen| seen.timestamp_us == time))
    }

    /// Removes a record and whatever hides it: the server removes one of them at a time, the one that can be read first.
    async fn clear<'a>(
        &self,
        time: u64,
        batch: impl IntoIterator<Item = &'a PendingWrite> + Clone,
    ) -> Result<(), StoreError> {
        for _ in 0..MOST_COPIES {
            // This process may have been suspended meanwhile, and the partition have moved to another host.
            self.shared.membership.assured().await;
            if batch.clone().into_iter().any(|pending| !pending.state().may_write()) {
                return Ok(());
            }
            self.shared.store.remove(&self.entry, &[time]).await?;
            if matches!(self.shared.store.occupant(&self.entry, time).await?, Occupant::Nothing) {
                break;
            }
        }
        Ok(())
    }
}
