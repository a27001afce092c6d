//! Everything that is known of one partition while this host has it: what was received and acknowledged, whether more may
//! be read, written and committed, and from where it has to be re-read. One value behind one lock.
//!
//! A partition that is assigned gets a [`PartitionState`]. A re-read ends that value and begins a new one at an earlier
//! offset, with what [`PartitionState::try_end`] says, exactly as another host would begin with what was committed.
//!
//! A dead letter that a replay sends again has a [`PartitionState`] of its own (see `letter.rs`), because the sink handles it like a
//! record of its partition. Functions that only concern such a letter have `letter` in their names.
//!
//! Guarantees: no commit point passes a record that isn't acknowledged (see the glossary); an owner that begins at a commit point re-reads
//! whatever the previous owner still owed; after [`PartitionState::end`] nothing is received, written or committed. No I/O.

mod at_risk;
mod commit;
mod letter;
mod requests;
mod reread;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use self::at_risk::AtRisk;
use self::letter::LetterState;
pub use self::letter::{LetterRefusal, StoredOutput};
pub use self::reread::Reread;
use super::ack_handle::AckHandle;
use super::block_margin::BlockMargin;
use super::budget::{Budget, BudgetShare, Usage};
use super::checkpoint::Checkpoint;
use super::commit_gate::CommitGate;
use super::commit_metadata::{CommitMetadata, LateRequests};
use super::crash_risk::CrashRisks;
use super::leader_epochs::LeaderEpochs;
use super::store_start::{Started, now_ms};
use crate::record::entry_name::{EntryName, NameError, Naming, Template, topic_segment};
use crate::record::{TopicId, TopicPartition};

/// A partition is read no further than this many records ahead of its oldest unacknowledged one: they take memory, and
/// are read again after a restart.
pub const MAX_AHEAD: usize = 65_536;

/// A partition for as long as it is assigned to this host and isn't re-read; or one dead letter that is sent again, see the module.
#[derive(Debug)]
pub struct PartitionState {
    /// The topic and the partition's number.
    pub source: TopicPartition,
    /// How this partition's entries are named where a plugin chose the name.
    pub template: Template,
    /// The entry of records whose entry no plugin chose.
    pub entry: EntryName,
    /// The entry of this partition's dead letters.
    pub dead_letter_entry: EntryName,
    generation: u64,
    budget: Arc<Budget>,
    /// How much of the budget the records of this partition take.
    usage: Usage,
    gate: Arc<CommitGate>,
    /// How many offsets the blocks that the store has open may reach back.
    block_margin: BlockMargin,
    /// Earlier owners wrote nothing at or above this offset.
    written_before: u64,
    /// What is committed beside every offset, apart from what changes while the partition is read.
    metadata: CommitMetadata,
    /// The lowest offset from which on this process has read the partition. What it wrote or found there it remembers, as far as it has read
    /// again what a re-read brings.
    owned_from: u64,
    /// `None`: this is the state of a partition, not of a dead letter.
    letter: Option<LetterState>,
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Debug)]
struct Inner {
    phase: Phase,
    checkpoint: Checkpoint,
    epochs: LeaderEpochs,
    /// Records whose [`AckHandle`] somebody has.
    held: usize,
    /// Requests to the store that aren't answered.
    requests: usize,
    /// Threads that wait for `changed`: waking nobody would cost a system call for each record.
    waiting: usize,
    /// Whether the worker that has the partition's reader was abandoned. It keeps the handle of one record at most.
    abandoned: bool,
    /// Whether a record's handle was dropped without an acknowledgement. The record can be acknowledged only after it is read again.
    record_lost: bool,
    /// The present re-read is complete when the position has reached this offset.
    reread_until: u64,
    /// Records below this offset are compared with what the store has.
    compare_below: u64,
    /// When the re-read that is awaited was announced.
    awaits_since: Option<Instant>,
    /// See [`PartitionState::reading_stop`].
    reading_stop: Option<ReadingStop>,
    /// A re-read that is still to come.
    owed: Option<OwedReread>,
    /// See [`CommitMetadata::late`].
    late: Option<LateRequests>,
    store_start: Option<Started>,
    /// See [`CommitMetadata::durable`].
    durable: u64,
    at_risk: AtRisk,
    /// Everything below this offset had been acknowledged when the store was last looked at and hadn't restarted, or was
    /// committed before: a failure since then doesn't concern it, and it may be committed while the gate is closed.
    committable_while_closed: Option<u64>,
}

/// What happens with a partition now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Records are read, written and committed.
    Reading,
    /// A record had to be removed from one of the partition's entries. Reading has stopped, unsent records are dropped,
    /// and the recovery decides from where to re-read.
    RereadRequired,
    /// A re-read was announced. It begins when no record is in flight.
    AwaitingReread {
        /// Whether records that were not sent yet are dropped. After an outage they are written: retention may have
        /// deleted them from the topic meanwhile, and the queue holds the last copy.
        discard_unsent: bool,
    },
    /// The broker doesn't have the next offset, or librdkafka has stopped reading. Records in flight are still written; then the polling
    /// thread decides where to go on.
    Stopped,
    /// The group takes the partition back. Records in flight are still written, as far as time allows.
    Revoked,
    /// Another host may own the partition, or a newer value took this one's place.
    Ended,
}

/// Why librdkafka has stopped reading a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReadingStop {
    /// For another reason than the next offset: the partition goes on there.
    Other,
    /// The broker refused the next offset.
    OutOfRange,
}

/// A re-read that is still to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct OwedReread {
    from: u64,
    /// It is complete when everything below this offset was read again. Nothing at or above this offset was read before.
    until: u64,
    /// Everything below this offset may have been written, and is compared whenever it is read.
    compare_below: u64,
    /// Whether `from` was decided by a look at what this process remembers. If not, more that is at risk may be harmed.
    is_decided: bool,
}

/// What may be committed for a partition, and where its next owner begins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommitPoint {
    /// All records below it are acknowledged.
    pub offset: u64,
    /// What the next owner has to know.
    pub metadata: CommitMetadata,
}

impl CommitPoint {
    /// Takes note that an owner that was killed may have requests under way until this moment, with records from this offset on.
    pub fn expect_late_requests(&mut self, until_ms: u64) {
        let known = self.metadata.late.unwrap_or(LateRequests { from: self.offset, until_ms });
        let (from, until_ms) = (known.from.min(self.offset), known.until_ms.max(until_ms));
        self.metadata.late = Some(LateRequests { from, until_ms });
    }
}

/// Where a partition begins to be read.
#[derive(Debug, Clone, Default)]
pub struct Begin {
    /// The first offset to read, with what was committed beside it.
    pub point: CommitPoint,
    /// Earlier owners wrote nothing at or above this offset.
    pub written_before: u64,
    /// From which offset on this process has read the partition already; `None`: it hasn't.
    pub owned_from: Option<u64>,
    /// While it is closed, only what had been acknowledged before the last look at the store is committed, and after a removal nothing.
    pub gate: Arc<CommitGate>,
    /// How many offsets the blocks that the store has open may reach back.
    pub block_margin: BlockMargin,
}

static GENERATIONS: AtomicU64 = AtomicU64::new(1);

impl PartitionState {
    /// A partition that is read from `begin` on.
    pub fn new(
        source: TopicPartition,
        naming: Naming,
        dead_letters: &Template,
        budget: Arc<Budget>,
        begin: Begin,
    ) -> Result<Self, NameError> {
        let name = topic_segment(&source.topic);
        let Begin { point: CommitPoint { offset, metadata }, written_before, owned_from, gate, block_margin } = begin;
        let durable = metadata.durable.unwrap_or(offset);
        let covered_from = durable.min(offset).saturating_sub(block_margin.offsets());
        let inner = Inner {
            reread_until: metadata.reread_until.unwrap_or_default(),
            compare_below: metadata.compare_below.unwrap_or_default(),
            late: metadata.late,
            epochs: LeaderEpochs::starting_at(offset, metadata.leader_epoch),
            store_start: metadata.store_start,
            durable,
            at_risk: AtRisk::begin(offset, metadata.risks.clone(), covered_from, now_ms()),
            ..Inner::starting_at(offset)
        };
        Ok(Self {
            entry: naming.derived.render(&name, &source)?,
            dead_letter_entry: dead_letters.render(&name, &source)?,
            source,
            template: naming.chosen,
            generation: GENERATIONS.fetch_add(1, Ordering::SeqCst),
            usage: Usage::of(&budget),
            budget,
            gate,
            block_margin,
            written_before,
            owned_from: owned_from.map_or(offset, |owned| owned.min(offset)),
            metadata,
            letter: None,
            inner: Mutex::new(inner),
            changed: Condvar::new(),
        })
    }

    /// The number of this value, unique in this process and greater than those of all earlier ones.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The id of the topic; `None`: the brokers give none.
    pub fn topic_id(&self) -> Option<TopicId> {
        self.metadata.topic_id
    }

    /// What happens with the partition now.
    pub fn phase(&self) -> Phase {
        self.lock().phase
    }

    /// Whether the next record may be read.
    pub fn may_read(&self) -> bool {
        let inner = self.lock();
        inner.phase == Phase::Reading && inner.checkpoint.span() < MAX_AHEAD
    }

    /// Whether records of this partition may be written now.
    pub fn may_write(&self) -> bool {
        if self.live_partition().is_some_and(|live| !live.may_replay_letters()) {
            return false;
        }
        match self.lock().phase {
            Phase::Reading | Phase::Stopped | Phase::Revoked => true,
            Phase::AwaitingReread { discard_unsent } => !discard_unsent,
            Phase::RereadRequired | Phase::Ended => false,
        }
    }

    /// Whether a record that is in the store already is compared with what the store has, bytes included: as long as offsets are read whose
    /// records may have been written, and harmed, before.
    pub fn compare_contents(&self) -> bool {
        let inner = self.lock();
        inner.checkpoint.position() < inner.compare_below
    }

    /// Takes a record in. `None`: its offset was received before, or the partition is no longer read.
    #[must_use]
    pub fn receive(self: &Arc<Self>, offset: u64, bytes: usize) -> Option<AckHandle> {
        self.receive_under(offset, bytes, None)
    }

    /// The same as [`Self::receive`] for a record that Kafka wrote under this leader epoch; `None`: the broker doesn't tell.
    #[must_use]
    pub fn receive_under(self: &Arc<Self>, offset: u64, bytes: usize, epoch: Option<u32>) -> Option<AckHandle> {
        let mut inner = self.lock();
        if inner.phase != Phase::Reading || !inner.checkpoint.receive(offset) {
            return None;
        }
        let position = inner.checkpoint.position();
        inner.epochs.read(offset, epoch, position);
        inner.held += 1;
        drop(inner);
        Some(AckHandle::new(Arc::clone(self), offset, bytes))
    }

    /// See [`Checkpoint::skip_to`]. `false`: the partition is about to be read from elsewhere, and nothing is skipped.
    pub fn skip_to(&self, offset: u64) -> bool {
        let mut inner = self.lock();
        let is_reading = inner.phase == Phase::Reading;
        if is_reading {
            inner.checkpoint.skip_to(offset);
            inner.finish_reread();
        }
        is_reading
    }

    pub(super) fn acknowledge(&self, offset: u64) {
        let mut inner = self.lock();
        inner.checkpoint.acknowledge(offset);
        inner.finish_reread();
    }

    /// A record's handle was dropped.
    pub(super) fn released(&self, acknowledged: bool) {
        let mut inner = self.lock();
        inner.held = inner.held.saturating_sub(1);
        // In the other phases the record is read again, by a newer value or by the next owner.
        inner.record_lost |= !acknowledged && matches!(inner.phase, Phase::Reading | Phase::Stopped);
        self.notify(&inner);
    }

    /// Whether this partition has not used up its share of the budget, so that another record of it may be read.
    pub fn has_share_left(&self) -> bool {
        self.is_within(self.share())
    }

    /// How much of the budget this partition may use now.
    pub fn share(&self) -> BudgetShare {
        self.budget.share()
    }

    /// Whether another record may be read under this share: asking this is cheap.
    pub fn is_within(&self, share: BudgetShare) -> bool {
        share.has_room_beside(self.usage.now())
    }

    pub(super) fn take_budget(&self, records: usize, bytes: usize) {
        self.usage.take(records, bytes);
        self.budget.take(records, bytes);
    }

    pub(super) fn give_budget_back(&self, records: usize, bytes: usize) {
        self.usage.give_back(records, bytes);
        self.budget.give_back(records, bytes);
    }

    /// The oldest offset that isn't acknowledged.
    pub fn position(&self) -> u64 {
        self.lock().checkpoint.position()
    }

    /// The next offset to read.
    pub fn next_offset(&self) -> u64 {
        self.lock().checkpoint.next_offset()
    }

    /// The leader epoch at the next offset to read; `None`: it isn't known.
    pub fn leader_epoch(&self) -> Option<u32> {
        let inner = self.lock();
        inner.epochs.at(inner.checkpoint.next_offset())
    }

    /// Records received and not acknowledged.
    pub fn in_flight(&self) -> usize {
        self.lock().checkpoint.in_flight()
    }

    /// Whether a record's handle was dropped without an acknowledgement, as by a panic: this value can never commit anything above that
    /// record.
    pub fn is_record_lost(&self) -> bool {
        self.lock().record_lost
    }

    /// The start of the store under which this partition's records were written; `None`: it isn't known.
    pub fn store_start(&self) -> Option<Started> {
        self.lock().store_start
    }

    /// Takes note that the broker doesn't have the next offset.
    pub fn report_out_of_range(&self) {
        self.lock().stop(ReadingStop::OutOfRange);
    }

    /// Takes note that librdkafka has stopped reading: the partition begins again at the next offset, if the broker has that.
    pub fn begin_again(&self) {
        self.lock().stop(ReadingStop::Other);
    }

    /// Why librdkafka has stopped reading, whatever happened to the partition since; `None`: it hasn't.
    pub fn reading_stop(&self) -> Option<ReadingStop> {
        self.lock().reading_stop
    }

    /// Ends this value if it waits for a newer one and nothing of it is in flight any more, and tells where the newer one
    /// begins. That point may be committed although the gate is closed: beside it stands the start of the store that its
    /// records were written under, and who begins there goes back if the store has another one.
    pub fn try_end(&self) -> Option<CommitPoint> {
        let mut inner = self.lock();
        let is_waiting = matches!(inner.phase, Phase::AwaitingReread { .. } | Phase::Stopped);
        if !is_waiting || inner.is_held() || inner.requests > 0 {
            return None;
        }
        let point = self.point(&inner);
        inner.phase = Phase::Ended;
        Some(point)
    }

    /// The group takes the partition back: nothing more is read.
    pub fn revoke(&self) {
        let mut inner = self.lock();
        if inner.phase != Phase::Ended {
            inner.phase = Phase::Revoked;
        }
    }

    /// Ends this value, because another host may own the partition from now on: nothing more is received, written or committed.
    pub fn end(&self) {
        let mut inner = self.lock();
        inner.phase = Phase::Ended;
        self.notify(&inner);
    }

    fn notify(&self, inner: &Inner) {
        if inner.waiting > 0 {
            self.changed.notify_all();
        }
    }

    /// A panic elsewhere must not spread: what the lock guards is valid at every step.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Takes note that librdkafka has stopped reading, unless that is no matter of this value any more.
    fn stop(&mut self, reason: ReadingStop) {
        match self.phase {
            Phase::Reading => self.phase = Phase::Stopped,
            Phase::RereadRequired | Phase::AwaitingReread { .. } | Phase::Stopped => {}
            Phase::Revoked | Phase::Ended => return,
        }
        self.reading_stop = self.reading_stop.max(Some(reason));
    }

    fn starting_at(offset: u64) -> Self {
        Self {
            phase: Phase::Reading,
            checkpoint: Checkpoint::starting_at(offset),
            epochs: LeaderEpochs::default(),
            held: 0,
            requests: 0,
            waiting: 0,
            abandoned: false,
            record_lost: false,
            reread_until: 0,
            compare_below: 0,
            awaits_since: None,
            reading_stop: None,
            owed: None,
            late: None,
            store_start: None,
            durable: offset,
            at_risk: AtRisk::begin(offset, CrashRisks::default(), offset, now_ms()),
            committable_while_closed: None,
        }
    }

    fn is_rereading(&self) -> bool {
        self.checkpoint.position() < self.reread_until
    }

    /// Whether anybody has the handle of a record, apart from an abandoned worker.
    fn is_held(&self) -> bool {
        self.held > usize::from(self.abandoned)
    }

    /// After a re-read in which a record was removed, another one is required.
    fn finish_reread(&mut self) {
        if self.phase == Phase::Reading && self.owed.is_some() && !self.is_rereading() {
            self.phase = Phase::RereadRequired;
        }
    }
}

#[cfg(test)]
mod tests;
