//! The one writer of an entry: takes the records that arrive for it, in batches, with one request in flight, until each
//! is acknowledged.
//!
//! Guarantees: a record is acknowledged only when it was read back from the store ([`verify`]; with
//! `store.verify_writes = false`, when the store acknowledged it and nothing can hide it), when it was found there, or
//! when its dead letter was stored; a record that may have been written before is looked up before it is written
//! ([`place`]); a record that the store refuses harms no other of its batch ([`refuse`]); records of a partition that was
//! taken away aren't written.

mod attach;
mod batch;
mod idle;
mod letters;
mod pending;
mod place;
mod ranges;
mod refuse;
mod repair;
mod request_sharing;
#[cfg(test)]
mod tests;
mod verify;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tracing::{error, info, warn};

use self::attach::AttachmentState;
use self::batch::{note_state, under_way};
use self::pending::PendingWrite;
pub(super) use self::place::NEAR_US;
use self::place::Rewritten;
use self::ranges::KeptRanges;
use self::refuse::Parked;
use self::repair::Hidden;
use self::request_sharing::{Apart, RequestSharing};
use self::verify::Verifier;
pub(super) use self::verify::around;
use super::Shared;
use super::batch_trace::TracedBatch;
use super::counters::DeadLetterClass;
use super::item::Prepared;
use super::joint;
use super::letters::{LetterRemoval, Work};
use super::occupied::OccupiedTimestamps;
use super::parts::{self, WriteAnswer, WritePart};
use super::problems::RefusedSubject;
use super::recent::{Written, sketch};
use super::store::{StoreError, Write, checksum};
use crate::flow::backoff::Backoff;
use crate::flow::{AckHandle, PartitionState, StoredOutput, UnderWay};
use crate::record::TopicPartition;
use crate::record::entry_name::EntryName;

/// While it fails, a writer logs at most this often.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// See the module.
pub struct Writer {
    entry: EntryName,
    shared: Arc<Shared>,
    inbox: mpsc::UnboundedReceiver<Work>,
    /// Records that wait to be written, in their order; none has a microsecond.
    pending: VecDeque<PendingWrite>,
    /// The states of all `pending` records, and perhaps of others that waited before.
    waiting_states: Vec<Arc<PartitionState>>,
    /// Dead letters that a replay sends beside live records.
    letters: VecDeque<PendingWrite>,
    /// Dead letters of this entry that are to be removed.
    removals: VecDeque<LetterRemoval>,
    /// Records to which the store answered 200, and that weren't read back yet.
    unverified: Vec<PendingWrite>,
    /// Dead letters that the store refuses.
    parked: Parked,
    occupied: OccupiedTimestamps,
    ranges: KeptRanges,
    /// The highest generation of the states whose records came. What is known of the entry was read since that one began; `None`: nothing
    /// is known.
    generation: Option<u64>,
    /// The newest timestamp that this writer ever sent: a request of an earlier generation may have been under way when
    /// the present one began.
    newest_sent: Option<u64>,
    /// How many records of each partition were written where others may have left unfinished ones.
    written_beside_others: HashMap<TopicPartition, u32>,
    /// The partitions whose records were written to this entry.
    states: HashMap<TopicPartition, Arc<PartitionState>>,
    rewritten: Rewritten,
    hidden: Hidden,
    verifier: Verifier,
    attachments: AttachmentState,
    /// Records that are in the store, until [`Self::settle`] acknowledges them.
    stored: Vec<(Written, AckHandle)>,
    request_sharing: RequestSharing,
    apart: Apart,
    /// How many records this writer has written.
    written: u64,
    /// Whether this turn is a small one, as writers with few records have them.
    is_small_turn: bool,
    backoff: Backoff,
    complained: Option<Instant>,
    /// Whether it has logged that it waits for the end of an earlier process's requests.
    waits_for_earlier: bool,
}

impl Writer {
    pub fn new(entry: EntryName, shared: Arc<Shared>, inbox: mpsc::UnboundedReceiver<Work>) -> Self {
        let ranges = KeptRanges::new(&shared.kept_ranges);
        Self {
            entry,
            shared,
            inbox,
            pending: VecDeque::new(),
            waiting_states: Vec::new(),
            letters: VecDeque::new(),
            removals: VecDeque::new(),
            unverified: Vec::new(),
            parked: Parked::default(),
            occupied: OccupiedTimestamps::default(),
            ranges,
            generation: None,
            newest_sent: None,
            written_beside_others: HashMap::new(),
            states: HashMap::new(),
            rewritten: Rewritten::default(),
            hidden: Hidden::default(),
            verifier: Verifier::default(),
            attachments: AttachmentState::default(),
            stored: Vec::new(),
            request_sharing: RequestSharing::default(),
            apart: Apart::default(),
            written: 0,
            is_small_turn: false,
            backoff: Backoff::default(),
            complained: None,
            waits_for_earlier: false,
        }
    }

    /// Runs until the sink is closed, or nothing came for a while. What only a turn needs is on the heap, because most of
    /// thousands of writers wait.
    pub async fn run(mut self: Box<Self>) {
        while self.wait_for_work().await {
            // This process may have been suspended, and other hosts may have the partitions by now.
            self.shared.membership.assured().await;
            let answer = match self.turn().await {
                // A shared request failed: letters wait until the next turn has shown what the entry holds.
                Ok(()) if self.request_sharing == RequestSharing::JustFailed => Ok(()),
                Ok(()) if self.letters.is_empty() => Ok(()),
                Ok(()) => Box::pin(self.write_letters()).await,
                error => error,
            };
            match (&answer, self.removals.pop_front()) {
                (Ok(()), Some(removal)) => Box::pin(self.remove_letters(removal)).await,
                // The replay learns of it, and leaves the letters.
                (Err(error), Some(removal)) => removal.refuse(error.to_string()),
                (_, None) => {}
            }
            match answer {
                // The store may still be at work on the request that failed.
                Ok(()) if self.request_sharing == RequestSharing::JustFailed => {
                    tokio::time::sleep(self.backoff.wait()).await
                }
                Ok(()) => self.recovered(),
                Err(error) => self.wait_after(&error).await,
            }
        }
    }

    fn accept(&mut self, work: Work) {
        let item = match work {
            Work::Write(item) => *item,
            Work::Remove(removal) => return self.removals.push_back(*removal),
        };
        match Prepared::new(item, &self.shared.mapping) {
            Ok(prepared) if prepared.ack.state().is_of_letter_beside_live() => {
                self.letters.push_back(PendingWrite::new(prepared));
            }
            Ok(prepared) => {
                note_state(&mut self.waiting_states, prepared.ack.state());
                self.pending.push_back(PendingWrite::new(prepared));
            }
            Err(refused) => {
                let (item, reason) = *refused;
                self.shared.dead_letter(item, &reason, DeadLetterClass::Record);
            }
        }
    }

    /// Writes one batch, and reads back what was written when there is nothing else to write, or enough.
    async fn turn(&mut self) -> Result<(), StoreError> {
        let (shared, topic) = (Arc::clone(&self.shared), self.topic());
        if self.request_sharing == RequestSharing::JustFailed {
            self.request_sharing = RequestSharing::Own;
        }
        let is_failing = self.complained.is_some() || !self.apart.is_over(Instant::now());
        let is_alone = is_failing || self.request_sharing == RequestSharing::Own;
        let _few = match (is_failing, is_alone) {
            (true, _) => Some(shared.failing_turn(&topic).await),
            (false, true) => Some(shared.divided_turn(&topic).await),
            (false, false) => None,
        };
        self.take_in();
        self.is_small_turn = !is_alone && shared.sharing.is_on() && self.has_few();
        let _turn = shared.turn(self.is_small_turn, &topic).await;
        let by_others = |own: u64| shared.counters.written_now().saturating_sub(own);
        let (begin, before) = (Instant::now(), by_others(self.written));
        let answer = Box::pin(self.write_and_verify()).await;
        let is_slow = || begin.elapsed() > request_sharing::SLOW;
        // If no other writer could write meanwhile, the store is away, and this entry isn't to blame.
        if is_alone && (answer.is_err() || is_slow()) && by_others(self.written) > before {
            self.apart.begin(Instant::now());
        }
        answer
    }

    /// What a writer does in its turn.
    async fn write_and_verify(&mut self) -> Result<(), StoreError> {
        // While it waited for its turn, more may have come.
        self.take_in();
        self.drop_taken_away();
        let mut batch = self.take_batch();
        self.refuse_too_large(&mut batch).await;
        // From here on a revocation waits for the answer; records of partitions that were revoked before aren't sent.
        let _under_way = under_way(&batch);
        batch.retain(|pending| pending.state().may_write());
        let answer = if batch.is_empty() { Ok(()) } else { self.write_traced(&mut batch).await };
        for mut pending in batch.into_iter().rev() {
            pending.withdraw(&mut self.occupied);
            self.pending.push_front(pending);
        }
        if answer.as_ref().is_err_and(StoreError::concerns_only_the_record) && !self.unverified.is_empty() {
            // Whether the store fails at one record or at all of them shows only when others are proved to be written.
            self.verify().await?;
        }
        answer?;
        if self.is_time_to_verify() { self.verify().await } else { Ok(()) }
    }

    /// Writes the batch, and makes a span of it where spans are sent.
    async fn write_traced(&mut self, batch: &mut VecDeque<PendingWrite>) -> Result<(), StoreError> {
        let Some(target) = self.shared.batches.get().map(Arc::clone) else { return self.write(batch).await };
        let bytes = batch.iter().map(PendingWrite::bytes).sum();
        let messages = batch.iter().map(|pending| pending.prepared.traced()).collect();
        let traced = TracedBatch::begin(&self.entry, messages, bytes);
        let answer = self.write(batch).await;
        target.wrote(traced.ended(&answer));
        answer
    }

    async fn write(&mut self, batch: &mut VecDeque<PendingWrite>) -> Result<(), StoreError> {
        self.attach().await?;
        self.begin_generation(batch).await?;
        self.ranges.make_room(&mut self.occupied, || self.shared.writer_count());
        self.place(batch).await?;
        self.send(batch).await
    }

    fn take_in(&mut self) {
        while let Ok(work) = self.inbox.try_recv() {
            self.accept(work);
        }
    }

    /// Sends a batch whose records have their microseconds; leaves in it what has to be tried again.
    async fn send(&mut self, batch: &mut VecDeque<PendingWrite>) -> Result<(), StoreError> {
        let shared = Arc::clone(&self.shared);
        batch.iter_mut().for_each(|pending| pending.prepared.restore_labels(&shared.mapping));
        let is_shared = self.is_small_turn
            && self.request_sharing == RequestSharing::Shared
            && parts::may_share(batch.iter().map(|pending| &pending.prepared.labels));
        // There are more small turns than there may be connections.
        let topic = batch.front().map(|first| Arc::clone(&first.state().source.topic)).unwrap_or_default();
        let single = if self.is_small_turn && !is_shared { Some(shared.single_turn(&topic).await) } else { None };
        // This process may have been suspended since its turn began.
        self.shared.membership.assured().await;
        for pending in batch.iter_mut().filter(|pending| !pending.state().may_write()) {
            pending.withdraw(&mut self.occupied);
        }
        batch.retain(|pending| pending.state().may_write());
        let mut writes: Vec<Write> = batch.iter_mut().filter_map(PendingWrite::take_write).collect();
        writes.sort_unstable_by_key(|write| write.timestamp_us);
        writes.dedup_by_key(|write| write.timestamp_us);
        if writes.len() < batch.len() {
            // Two records have one microsecond, and the second would be taken for written. That must not happen, and never did so far.
            error!(entry = %self.entry, "records of a batch have the same microsecond; placing them again");
            return Ok(());
        }
        if writes.is_empty() {
            return Ok(());
        }
        self.newest_sent = self.newest_sent.max(writes.last().map(|write| write.timestamp_us));
        batch.iter_mut().for_each(|pending| pending.sent = true);
        let under_way = under_way(batch);
        let answer = if is_shared {
            self.write_with_others(writes, under_way).await
        } else {
            WriteAnswer::Sent(self.shared.store.write(&self.entry, writes, under_way).await)
        };
        drop(single);
        match answer {
            WriteAnswer::Sent(Ok(failed)) => self.take_answers(batch, failed).await,
            WriteAnswer::Sent(Err(error)) if error.concerns_only_the_record() => self.narrow_down(batch, error).await,
            // No answer doesn't mean that nothing was written.
            WriteAnswer::Sent(Err(error)) => Err(error),
            WriteAnswer::Unsent => {
                for pending in batch.iter_mut() {
                    pending.sent = false;
                    pending.withdraw(&mut self.occupied);
                }
                Ok(())
            }
            // What was written of it is found by the next turn.
            WriteAnswer::Divided(error) => {
                self.divide(&error);
                Ok(())
            }
        }
    }

    async fn write_with_others(&self, batch: Vec<Write>, under_way: Vec<UnderWay>) -> WriteAnswer {
        let answer = joint::ask(&self.shared, WritePart { entry: self.entry.clone(), batch, under_way }).await;
        answer.unwrap_or_else(|| WriteAnswer::Divided(StoreError::Unavailable("a shared request broke off".into())))
    }

    /// A request that was shared with other entries failed: the next turn asks by itself.
    fn divide(&mut self, error: &StoreError) {
        self.request_sharing = RequestSharing::JustFailed;
        self.attachments.look_again();
        self.shared.note_failed_request();
        if error.may_mean_a_crash() {
            self.shared.gate.report_failure();
        }
    }

    /// Decides about each record of a batch by what the server said of it.
    async fn take_answers(
        &mut self,
        batch: &mut VecDeque<PendingWrite>,
        mut failed: BTreeMap<u64, StoreError>,
    ) -> Result<(), StoreError> {
        let mut first_error = None;
        let mut occupied_again = Vec::new();
        for mut pending in std::mem::take(batch) {
            match pending.time_us.and_then(|time| failed.remove(&time)) {
                None if self.shared.verify || pending.must_be_shown => self.unverified.push(pending),
                None => self.note_stored(pending, false),
                Some(StoreError::Conflict(_)) => {
                    // The microsecond is occupied for the second time, though a query in between showed nothing there.
                    occupied_again.extend(pending.time_us.filter(|time| pending.conflict_us == Some(*time)));
                    pending.conflict_us = pending.time_us;
                    pending.withdraw(&mut self.occupied);
                    batch.push_back(pending);
                }
                Some(error) => {
                    pending.withdraw(&mut self.occupied);
                    if let Some(pending) = self.refuse_if_hopeless(pending, &error) {
                        batch.push_back(pending);
                        first_error = Some(error);
                    }
                }
            }
        }
        self.settle();
        if !occupied_again.is_empty() && batch.iter().any(|pending| pending.state().is_of_letter()) {
            let is_beside_live = batch.iter().any(|pending| pending.state().is_of_letter_beside_live());
            self.pass_over(occupied_again, is_beside_live).await?;
        } else if !occupied_again.is_empty() {
            self.repair(occupied_again, batch).await?;
        }
        first_error.map_or(Ok(()), Err)
    }

    /// Takes note of a record that is in the store: [`Self::settle`] acknowledges it. `already_present`: it was there before.
    fn note_stored(&mut self, pending: PendingWrite, already_present: bool) {
        let time_us = pending.time_us.unwrap_or(pending.prepared.base_us);
        let is_dead_letter = pending.prepared.is_dead_letter();
        let Prepared { identity, payload, ack, .. } = *pending.prepared;
        self.written += u64::from(!already_present);
        match (is_dead_letter, already_present) {
            (true, true) => {}
            (true, false) => self.shared.counters.written_letters(1),
            (false, true) => self.shared.counters.found(1),
            (false, false) => self.shared.counters.written(1, payload.len() as u64),
        }
        if ack.state().is_of_letter() {
            self.shared.counters.replayed(1);
            // The dead letter stays until the store was asked once more for this output, so that no re-read has to cover it.
            let (entry, checksum) = (self.entry.clone(), checksum(&payload));
            ack.state().note_stored(StoredOutput { entry, time_us, identity, checksum, found: already_present });
            return ack.acknowledge();
        }
        if self.entry != ack.state().entry {
            ack.state().note_other_entry();
        }
        self.verifier.note(&identity);
        self.stored.push((Written { time_us, identity, sketch: sketch(&payload), found: already_present }, ack));
    }

    /// Acknowledges what is in the store. It is remembered first: if the store crashes, the recovery compares what is remembered of all that
    /// was acknowledged.
    fn settle(&mut self) {
        if !self.stored.is_empty() {
            let (written, acks): (Vec<Written>, Vec<AckHandle>) = std::mem::take(&mut self.stored).into_iter().unzip();
            self.shared.remember(&self.entry, written);
            acks.into_iter().for_each(AckHandle::acknowledge);
        }
    }

    /// Demands a re-read of the entry's partitions, because records are about to be removed or their removal has failed: the server
    /// rewrites the whole block, and can damage other records of it. Called before the request to remove them, because its answer may be
    /// lost although the records are removed.
    fn require_reread_of_entry(&self) {
        for state in self.states.values() {
            state.require_reread_after_removal();
        }
        // This writer may not know all partitions that share the entry: an earlier one that was idle has retired.
        let is_known = |source: &TopicPartition| {
            self.states.get(source).is_some_and(|state| state.phase() != crate::flow::Phase::Ended)
        };
        self.shared.require_reread_beside(&self.entry, is_known);
    }

    fn recovered(&mut self) {
        if self.request_sharing == RequestSharing::Own {
            self.request_sharing = RequestSharing::Shared;
        }
        self.backoff.reset();
        if self.complained.take().is_some() {
            info!(entry = %self.entry, "writing again");
        }
        self.shared.problems.clear(&self.entry, RefusedSubject::Entry);
    }

    async fn wait_after(&mut self, error: &StoreError) {
        self.attachments.look_again();
        self.shared.note_failed_request();
        if error.may_mean_a_crash() {
            self.shared.gate.report_failure();
        }
        self.shared.problems.report(&self.entry, RefusedSubject::Entry, error, self.shared.failing_since(error));
        self.shared.counters.retried(error);
        if self.complained.is_none_or(|at| at.elapsed() > COMPLAIN_EVERY) {
            let (waiting, remedy) = (self.pending.len() + self.unverified.len(), error.remedy());
            error!(entry = %self.entry, %error, remedy, waiting, "can't write to ReductStore; nothing is lost, trying again");
            self.complained = Some(Instant::now());
        }
        if matches!(error, StoreError::NotFound(_))
            && let Err(error) = self.shared.store.ensure_bucket().await
        {
            warn!(%error, "can't create the bucket");
        }
        tokio::time::sleep(self.backoff.wait()).await;
    }
}
