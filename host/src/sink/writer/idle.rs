//! A writer that has nothing to do: what it keeps, and when it ends.
//!
//! Guarantees: a writer that waits takes some 3 KB; it ends after ten minutes at the latest, unless it keeps dead letters that the store
//! refuses; it ends only when nothing arrived for it.

use std::collections::VecDeque;
use std::time::Duration;

use super::Writer;
use crate::sink::parts::SMALL;

/// A writer without work for this long retires if there are many others, or if it knows much of its entry.
const IDLE: Duration = Duration::from_secs(30);
/// For how many times [`IDLE`] another one stays. A new writer has to ask the store what its entry holds: that would cost
/// devices that send a record every few minutes more than the record.
const IDLE_TIMES: u32 = 20;
/// The most writers that stay though they are idle.
const MANY: usize = 20_000;
/// The most partitions that an idle writer stays with: of each something is kept.
const FEW_PARTITIONS: usize = 8;
/// A writer that waits gives back its buffers if they are for no more than this number of records. It is one of many, or
/// gets few records.
const SMALL_BUFFER: usize = 2 * SMALL;

impl Writer {
    /// `false`: there is no work, and this writer has left the registry.
    pub(super) async fn wait_for_work(&mut self) -> bool {
        let mut idle_times = 0;
        loop {
            self.retry_parked();
            let is_replaying = !self.letters.is_empty() || !self.removals.is_empty();
            if is_replaying || !self.pending.is_empty() || !self.unverified.is_empty() {
                return true;
            }
            if self.inbox.is_empty() {
                self.give_back_buffers();
            }
            let patience = self.parked.patience().unwrap_or(IDLE);
            let look_in = self.attachments.due_in().filter(|due| *due <= patience);
            match tokio::time::timeout(look_in.unwrap_or(patience), self.inbox.recv()).await {
                Ok(Some(work)) => self.accept(work),
                Ok(None) => return false,
                Err(_) if look_in.is_some() => Box::pin(self.attach_again()).await,
                Err(_) => {
                    self.release_memory();
                    idle_times += 1;
                    let goes = idle_times >= IDLE_TIMES || self.knows_much() || self.shared.writer_count() > MANY;
                    if goes && self.parked.is_empty() && self.shared.retire(&self.entry, &self.inbox) {
                        return false;
                    }
                }
            }
        }
    }

    pub(super) fn give_back_buffers(&mut self) {
        if self.pending.capacity() <= SMALL_BUFFER && self.unverified.capacity() <= SMALL_BUFFER {
            self.pending = VecDeque::new();
            self.unverified = Vec::new();
        }
    }

    /// Nothing waits to be written: gives back all that a new writer doesn't have, but what it knows of its entry.
    pub(super) fn release_memory(&mut self) {
        self.pending.shrink_to_fit();
        self.unverified.shrink_to_fit();
        self.letters.shrink_to_fit();
        if self.parked.is_empty() {
            self.waiting_states = Vec::new();
        }
        self.attachments.forget_files();
    }

    /// Whether it knows more of its entry than where it wrote last, or holds on to many partitions or to such as were taken away.
    pub(super) fn knows_much(&self) -> bool {
        !self.occupied.is_small()
            || !self.hidden.is_empty()
            || !self.rewritten.is_empty()
            || self.states.len() > FEW_PARTITIONS
            || !self.states.values().all(|state| state.may_write())
    }
}
