//! Dead letters that a replay sends beside live records: written in batches of their own, after the live ones.
//!
//! Guarantees: before each batch of letters, and again after it, the writer forgets what it knows of the entry, so that a record that was
//! written as a live one isn't written again for its letter, nor the other way round; a letter is tried once, and stays a dead letter
//! where that fails, so that it holds up no live record; nothing is ever removed to make room for a letter; right before each request it
//! is asked whether the letters' partition is still this host's. Letters are removed only while the store is known not to have been
//! started again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{debug, info};

use super::Writer;
use super::batch::under_way;
use super::pending::PendingWrite;
use crate::flow::store_start::Started;
use crate::flow::{LetterRefusal, PartitionState};
use crate::sink::item::Prepared;
use crate::sink::letters::LetterRemoval;
use crate::sink::store::{Occupant, StoreError};

/// How many letters are written together at most: each may need a look at another time of the entry, and live records wait meanwhile.
const AT_ONCE: usize = 16;
/// How often a batch is placed and sent: a second time where a microsecond turned out to be occupied, and a third one where
/// what occupies it was passed over.
const ROUNDS: usize = 3;
/// How often a replay without a host looks whether an earlier request can still be at work.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A store needs longer than this to be started again.
const RESTART: Duration = Duration::from_secs(1);
const UNFINISHED: &str = "a record that was begun and never finished stands at its time, and the request may still be at work; replay it \
                          again in a minute";
const HIDDEN: &str = "an unfinished record hides it; `replay --write` mends that while the group is stopped";

impl Writer {
    /// Writes some letters. A letter that can't be written stays a dead letter.
    pub(super) async fn write_letters(&mut self) -> Result<(), StoreError> {
        let shared = Arc::clone(&self.shared);
        // Letters share no request with records of other writers.
        self.is_small_turn = false;
        let _turn = shared.turn(false, &self.topic()).await;
        let limits = shared.limits();
        let (mut batch, mut bytes) = (VecDeque::new(), 0);
        while let Some(next) = self.letters.front() {
            bytes += next.bytes();
            if !batch.is_empty() && (batch.len() >= AT_ONCE.min(limits.records) || bytes > limits.bytes) {
                break;
            }
            batch.extend(self.letters.pop_front());
        }
        // From here on a revocation waits for the answer; letters of partitions that were revoked before aren't sent.
        let _under_way = under_way(&batch);
        batch.retain(|letter| letter.state().may_write());
        let answer = self.write_batch_of_letters(&mut batch).await;
        // Whether the letters are in the entry by now isn't known of each of them, so the writer reads again what the entry holds.
        self.generation = None;
        let reason = answer.as_ref().err().map_or(UNFINISHED.to_owned(), ToString::to_string);
        for mut letter in batch {
            letter.withdraw(&mut self.occupied);
            leave(letter, &reason);
        }
        for letter in std::mem::take(&mut self.unverified) {
            if letter.state().is_of_letter_beside_live() {
                leave(letter, &reason);
            } else {
                self.unverified.push(letter);
            }
        }
        match answer {
            // The letter stays a dead letter, and the error says nothing about the entry.
            Err(error) if error.concerns_only_the_record() => {
                debug!(entry = %self.entry, %error, "a dead letter isn't taken now");
                Ok(())
            }
            answer => answer,
        }
    }

    async fn write_batch_of_letters(&mut self, batch: &mut VecDeque<PendingWrite>) -> Result<(), StoreError> {
        // A live record that the store has acknowledged, and that isn't read back yet, may be the same as a letter's.
        self.verify_if_any().await?;
        self.generation = None;
        for _ in 0..ROUNDS {
            if batch.is_empty() {
                break;
            }
            self.write_traced(batch).await?;
        }
        self.verify_if_any().await
    }

    async fn verify_if_any(&mut self) -> Result<(), StoreError> {
        if self.unverified.is_empty() { Ok(()) } else { self.verify().await }
    }

    /// Passes over microseconds that are occupied by what no query shows, so that the records get others. It does so only when no request
    /// of an earlier process can be at work there any more: such a request could still finish a record that is written elsewhere by then.
    /// Nothing is removed, because a removal can take the whole block with it ([`super::super::removal`]): where an earlier replay wrote
    /// to that block, the dead letters of its records are gone already.
    pub(super) async fn pass_over(&mut self, occupied: Vec<u64>, is_beside_live: bool) -> Result<(), StoreError> {
        if let Some(left) = self.shared.may_be_at_work_for() {
            // Live records don't wait for a letter: it stays a dead letter.
            if !is_beside_live {
                self.wait_for_earlier_requests(left).await;
            }
            return Ok(());
        }
        for time in occupied {
            match self.shared.store.occupant(&self.entry, time).await? {
                Occupant::Nothing => {}
                // The record was finished meanwhile, and the next look finds it.
                Occupant::Record(_) if self.is_shown_at(time).await? => {}
                Occupant::Unfinished | Occupant::Record(_) => {
                    self.occupied.learn(time..time.saturating_add(1), Vec::new());
                    self.occupied.occupy(time);
                }
            }
        }
        Ok(())
    }

    async fn wait_for_earlier_requests(&mut self, left: Duration) {
        if !self.waits_for_earlier {
            self.waits_for_earlier = true;
            info!(
                entry = %self.entry,
                seconds = left.as_secs(),
                "an interrupted request left unfinished records; waiting until ReductStore can't be at work on it any more"
            );
        }
        tokio::time::sleep(left.min(LOOK_EVERY)).await;
    }

    /// The store acknowledged the letter's record and doesn't show it.
    pub(super) fn leave_hidden(letter: PendingWrite) {
        leave(letter, HIDDEN);
    }

    /// Removes dead letters of this entry that are done with.
    pub(super) async fn remove_letters(&mut self, removal: LetterRemoval) {
        let LetterRemoval { owners, times, store_start, answer } = removal;
        let removed = self.removed_letters(&owners, &times, store_start).await;
        // Nobody waits any more where the replay was ended.
        let _ = answer.send(removed);
    }

    async fn removed_letters(
        &mut self,
        owners: &[Arc<PartitionState>],
        times: &[u64],
        store_start: Started,
    ) -> Result<(), String> {
        let shared = Arc::clone(&self.shared);
        // A removal shares no request with those of other writers.
        self.is_small_turn = false;
        let _turn = shared.turn(false, &self.topic()).await;
        self.verify_if_any().await.map_err(|error| error.to_string())?;
        loop {
            shared.require_same_start(store_start).await?;
            let asked = Instant::now();
            shared.membership.assured().await;
            // While this process was suspended, the store may have been started again: then it is asked once more.
            if asked.elapsed() < RESTART {
                break;
            }
        }
        let _under_way: Vec<_> = owners.iter().map(|owner| owner.request()).collect();
        if !owners.iter().all(|owner| owner.may_replay_letters()) {
            return Err("its partition was taken away or is read again".into());
        }
        if let Some(left) = shared.may_be_at_work_for() {
            return Err(format!("a request to the store failed, which may be at work for {} s more", left.as_secs()));
        }
        // By what is known of the entry the letters are still there.
        self.generation = None;
        shared.forget_removed(&self.entry, times);
        let removed = shared.store.remove_letters(&self.entry, times).await;
        if let Err(error) = &removed {
            shared.note_failed_request();
            if error.may_mean_a_crash() {
                shared.gate.report_failure();
            }
            // The server may be rewriting a block of theirs, or have given it up. A removal that goes well leaves the blocks whole.
            owners.iter().for_each(|owner| owner.require_reread_after_removal());
            self.require_reread_of_entry();
        }
        removed.map_err(|error| error.to_string())
    }
}

/// Leaves the letter as it is: it stays a dead letter, and can be replayed again.
fn leave(letter: PendingWrite, reason: &str) {
    let Prepared { ack, .. } = *letter.prepared;
    ack.state().refuse_letter(LetterRefusal::NotNow(reason.to_owned()));
    ack.acknowledge();
}
