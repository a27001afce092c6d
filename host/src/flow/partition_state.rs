//! What is in flight: the budget shared by all partitions, one [`PartitionState`] for as long as a partition is ours, and one
//! [`AckHandle`] for each record on its way.
//!
//! Guarantees: a record's offset is settled when all of its outputs are, and not before; a ack that is lost (a panic,
//! a cancelled assignment) leaves its offset unsettled, so the record is read again; the budget is given back in any case.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use crate::flow::checkpoint::Checkpoint;
use crate::flow::commit_metadata::CommitMetadata;
use crate::flow::sharded::Sharded;
use crate::record::TopicPartition;
use crate::record::entry_name::{EntryName, NameError, Naming, Template, topic_segment};

/// Bounds what is read and not yet settled, in records and bytes, over all partitions, with what plugins made of it.
#[derive(Debug)]
pub struct Budget {
    max_records: usize,
    max_bytes: usize,
    records: Sharded,
    bytes: Sharded,
    /// Set by a worker that found no room, so that a release wakes the workers only when one waits.
    wanted: AtomicBool,
    waiters: Mutex<Vec<Thread>>,
}

impl Budget {
    pub fn new(max_records: usize, max_bytes: usize) -> Self {
        Self {
            max_records,
            max_bytes,
            records: Sharded::default(),
            bytes: Sharded::default(),
            wanted: AtomicBool::new(false),
            waiters: Mutex::default(),
        }
    }

    /// Whether another record may be read. A record's size is known only after reading it, so the last one may exceed
    /// the bound.
    pub fn has_room(&self) -> bool {
        let (records, bytes) = self.used();
        records < self.max_records && bytes < self.max_bytes
    }

    /// Asks for the calling thread to be unparked when there is room again. Check [`Self::has_room`] once more after.
    pub fn wake_when_free(&self) {
        lock(&self.waiters).push(std::thread::current());
        self.wanted.store(true, Ordering::SeqCst);
    }

    fn take(&self, records: usize, bytes: usize) {
        self.records.add(records as u64);
        self.bytes.add(bytes as u64);
    }

    fn give_back(&self, records: usize, bytes: usize) {
        self.records.subtract(records as u64);
        self.bytes.subtract(bytes as u64);
        if self.wanted.load(Ordering::SeqCst) && self.has_room() && self.wanted.swap(false, Ordering::SeqCst) {
            lock(&self.waiters).drain(..).for_each(|worker| worker.unpark());
        }
    }

    /// Records and bytes in flight now.
    pub fn used(&self) -> (usize, usize) {
        let count = |number: &Sharded| usize::try_from(number.sum()).unwrap_or(usize::MAX);
        (count(&self.records), count(&self.bytes))
    }
}

/// A partition for as long as it is assigned to this host. A new assignment of the same partition is a new value.
#[derive(Debug)]
pub struct PartitionState {
    pub source: TopicPartition,
    /// How this partition's entries are named where a plugin chose the name.
    pub template: Template,
    /// Where records go whose entry no plugin chose.
    pub entry: EntryName,
    pub dead_letter_entry: EntryName,
    budget: Arc<Budget>,
    checkpoint: Mutex<Checkpoint>,
    /// Records whose tickets are held by someone.
    held: AtomicUsize,
    settled: Condvar,
    /// Someone waits on `settled`: waking nobody would cost a system call for each record.
    draining: AtomicBool,
    cancelled: AtomicBool,
    rewinding: AtomicBool,
    /// What waits needn't be written before the partition is read again.
    dropping: AtomicBool,
    /// How far it has to be read again; 0: it needn't be.
    again_until: AtomicU64,
    rewinds: AtomicU32,
    /// Requests under way that carry records of this assignment.
    requests: AtomicUsize,
    /// A record was lost on its way: only reading it again can settle it.
    broken: AtomicBool,
    generation: AtomicU64,
    reread_required: Mutex<Option<RereadCause>>,
}

/// Why records of a partition have to be read from Kafka again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RereadCause {
    /// The store restarted: it may have lost what its open blocks held.
    StoreRestart,
    /// A record was removed from one of the partition's entries: the store rewrites the block, which can damage other
    /// records of it.
    Removal,
}

/// What may be committed for a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitPoint {
    /// All records below it are written, dropped by a plugin, or in the dead letters.
    pub offset: u64,
    /// What the next owner has to know.
    pub metadata: CommitMetadata,
}

static GENERATIONS: AtomicU64 = AtomicU64::new(1);

impl PartitionState {
    /// The number of this value, unique in this process and greater than those of all earlier ones.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// Whether records of this partition may be written now.
    pub fn may_write(&self) -> bool {
        !self.is_stale()
    }

    /// Whether records that the store has already are compared with it, bytes included: while a re-read isn't complete.
    pub fn compare_contents(&self) -> bool {
        self.position() < self.again_until.load(Ordering::SeqCst)
    }

    /// Demands that the partition be re-read. Nothing of it is committed until that has begun.
    pub fn require_reread(&self, cause: RereadCause) {
        lock(&self.reread_required).get_or_insert(cause);
    }

    /// The oldest offset that isn't acknowledged.
    pub fn position(&self) -> u64 {
        self.commit_position().unwrap_or_default()
    }

    /// What may be committed now; `None`: nothing.
    pub fn commit_point(&self) -> Option<CommitPoint> {
        if self.is_stale() || self.is_rewinding() || lock(&self.reread_required).is_some() {
            return None;
        }
        Some(CommitPoint { offset: self.commit_position()?, metadata: CommitMetadata::default() })
    }

    pub fn new(
        source: TopicPartition,
        naming: Naming,
        dead_letters: &Template,
        budget: Arc<Budget>,
    ) -> Result<Self, NameError> {
        let name = topic_segment(&source.topic);
        Ok(Self {
            entry: naming.derived.render(&name, &source)?,
            dead_letter_entry: dead_letters.render(&name, &source)?,
            source,
            template: naming.chosen,
            budget,
            checkpoint: Mutex::default(),
            held: AtomicUsize::new(0),
            settled: Condvar::new(),
            draining: AtomicBool::new(false),
            cancelled: AtomicBool::new(false),
            rewinding: AtomicBool::new(false),
            dropping: AtomicBool::new(false),
            again_until: AtomicU64::new(0),
            rewinds: AtomicU32::new(0),
            requests: AtomicUsize::new(0),
            broken: AtomicBool::new(false),
            generation: AtomicU64::new(GENERATIONS.fetch_add(1, Ordering::SeqCst)),
            reread_required: Mutex::default(),
        })
    }

    /// The partition is going to be read again, when nobody holds a ack any more, up to `until` at least. `drop`: what
    /// isn't on its way to the store yet needn't go. Not after an outage: by now the topic may have lost what waits here.
    pub fn expect_rewind(&self, until: u64, drop: bool) {
        self.again_until.store(until, Ordering::SeqCst);
        let was_expected = self.rewinding.swap(true, Ordering::SeqCst);
        let before = self.dropping.load(Ordering::SeqCst);
        self.dropping.store(drop && (before || !was_expected), Ordering::SeqCst);
    }

    /// Whether nothing is to be written now: the partition isn't ours any more, or is going to be read again anyway.
    pub fn is_stale(&self) -> bool {
        self.is_cancelled() || (self.is_rewinding() && self.dropping.load(Ordering::SeqCst))
    }

    pub fn is_rewinding(&self) -> bool {
        self.rewinding.load(Ordering::SeqCst)
    }

    /// Whether it had to be read again, and has been.
    pub fn was_read_again(&self) -> bool {
        let until = self.again_until.load(Ordering::SeqCst);
        until > 0 && !self.is_rewinding() && self.commit_position().is_some_and(|position| position >= until)
    }

    /// How often it was set back: what was known of its records' outputs before doesn't hold any more.
    pub fn rewinds(&self) -> u32 {
        self.rewinds.load(Ordering::SeqCst)
    }

    /// Forgets what was received: the next offset is `to`. `false`: someone holds a ack.
    pub fn rewind(&self, to: u64) -> bool {
        let mut checkpoint = lock(&self.checkpoint);
        if self.held.load(Ordering::SeqCst) > 0 {
            return false;
        }
        *checkpoint = Checkpoint::default();
        checkpoint.skip_to(to);
        self.rewinds.fetch_add(1, Ordering::SeqCst);
        self.generation.store(GENERATIONS.fetch_add(1, Ordering::SeqCst), Ordering::SeqCst);
        *lock(&self.reread_required) = None;
        self.rewinding.store(false, Ordering::SeqCst);
        self.dropping.store(false, Ordering::SeqCst);
        true
    }

    /// Takes a record in. `None`: its offset was received before in this assignment, and is accounted for already.
    #[must_use]
    pub fn receive(self: &Arc<Self>, offset: u64, bytes: usize) -> Option<AckHandle> {
        if !lock(&self.checkpoint).receive(offset) {
            return None;
        }
        self.held.fetch_add(1, Ordering::SeqCst);
        self.budget.take(1, bytes);
        let (records, bytes) = (AtomicUsize::new(1), AtomicUsize::new(bytes));
        Some(AckHandle(Arc::new(Inner {
            assignment: Arc::clone(self),
            offset,
            records,
            bytes,
            outputs: AtomicU32::new(1),
        })))
    }

    /// See [`Checkpoint::skip_to`].
    pub fn skip_to(&self, offset: u64) {
        lock(&self.checkpoint).skip_to(offset);
    }

    pub fn commit_position(&self) -> Option<u64> {
        lock(&self.checkpoint).commit_position()
    }

    pub fn in_flight(&self) -> usize {
        lock(&self.checkpoint).in_flight()
    }

    /// Waits until nothing is in flight; `false` when that took longer than `bound`, or can't be any more.
    pub fn wait_drained(&self, bound: Duration) -> bool {
        let deadline = Instant::now() + bound;
        let mut checkpoint = lock(&self.checkpoint);
        self.draining.store(true, Ordering::SeqCst);
        while checkpoint.in_flight() > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.held.load(Ordering::SeqCst) == 0 {
                return false;
            }
            checkpoint = self.settled.wait_timeout(checkpoint, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// A request with records of this assignment is under way until the answer is dropped.
    #[must_use]
    pub fn request(self: &Arc<Self>) -> UnderWay {
        self.requests.fetch_add(1, Ordering::SeqCst);
        UnderWay(Arc::clone(self))
    }

    /// Waits until no request is under way; `false` when that took longer than `bound`.
    pub fn wait_answered(&self, bound: Duration) -> bool {
        let deadline = Instant::now() + bound;
        while self.requests.load(Ordering::SeqCst) > 0 {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }

    /// The partition isn't ours any more: what is in flight must not be written.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
    }

    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }

    /// Whether a record was lost on its way (a panic): nothing behind it can ever be committed.
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::SeqCst)
    }
}

/// A request to the store that hasn't been answered.
#[derive(Debug)]
pub struct UnderWay(Arc<PartitionState>);

impl UnderWay {
    pub fn is_of(&self, assignment: &Arc<PartitionState>) -> bool {
        Arc::ptr_eq(&self.0, assignment)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The duty to settle one record's offset, held by each of its outputs.
#[derive(Debug)]
pub struct AckHandle(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    assignment: Arc<PartitionState>,
    offset: u64,
    /// What it has of the budget.
    records: AtomicUsize,
    bytes: AtomicUsize,
    /// Outputs that aren't settled yet.
    outputs: AtomicU32,
}

impl AckHandle {
    pub fn assignment(&self) -> &Arc<PartitionState> {
        &self.0.assignment
    }

    /// A ack for one more output of the same record.
    #[must_use]
    pub fn share(&self) -> Self {
        self.0.outputs.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(&self.0))
    }

    /// A plugin made this much more of the record. It is in flight even where that exceeds the budget.
    pub fn grow(&self, records: usize, bytes: usize) {
        self.0.records.fetch_add(records, Ordering::Relaxed);
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.0.assignment.budget.take(records, bytes);
    }

    /// This output is written, or nothing is to be written for it.
    pub fn acknowledge(self) {
        if self.0.outputs.fetch_sub(1, Ordering::AcqRel) == 1 {
            let mut checkpoint = lock(&self.0.assignment.checkpoint);
            checkpoint.acknowledge(self.0.offset);
            if checkpoint.in_flight() == 0 && self.0.assignment.draining.load(Ordering::SeqCst) {
                self.0.assignment.settled.notify_all();
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let assignment = &self.assignment;
        // Of a partition that is read again nothing is lost.
        let is_lost = *self.outputs.get_mut() > 0 && !assignment.is_cancelled() && !assignment.is_rewinding();
        if is_lost {
            assignment.broken.store(true, Ordering::SeqCst);
        }
        if assignment.held.fetch_sub(1, Ordering::SeqCst) == 1 && assignment.draining.load(Ordering::SeqCst) {
            // Under the lock, so that who is about to wait can't miss it.
            let _checkpoint = lock(&assignment.checkpoint);
            assignment.settled.notify_all();
        }
        self.assignment.budget.give_back(*self.records.get_mut(), *self.bytes.get_mut());
    }
}

/// A panic elsewhere must not spread: what these locks guard is valid at every step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assignment(budget: &Arc<Budget>) -> Arc<PartitionState> {
        let source = TopicPartition { topic: "t".into(), partition: 0 };
        let naming = Naming::default_for(1, false);
        let dead_letters = naming.derived.clone();
        Arc::new(PartitionState::new(source, naming, &dead_letters, Arc::clone(budget)).unwrap())
    }

    #[test]
    fn an_offset_settles_with_the_last_of_its_outputs() {
        let budget = Arc::new(Budget::new(2, 100));
        let assignment = assignment(&budget);
        let ack = assignment.receive(4, 60).unwrap();
        let part = ack.share();
        ack.acknowledge();
        assert_eq!((assignment.commit_position(), budget.used()), (Some(4), (1, 60)));
        part.acknowledge();
        assert_eq!((assignment.commit_position(), budget.used()), (Some(5), (0, 0)));
        assert!(assignment.wait_drained(Duration::ZERO));
    }

    #[test]
    fn what_a_plugin_makes_of_a_record_counts_until_all_of_it_is_settled() {
        let budget = Arc::new(Budget::new(3, 100));
        let assignment = assignment(&budget);
        let ack = assignment.receive(4, 10).unwrap();
        ack.grow(2, 30);
        let part = ack.share();
        assert_eq!((budget.used(), budget.has_room()), ((3, 40), false));
        ack.acknowledge();
        assert_eq!(budget.used(), (3, 40));
        part.acknowledge();
        assert_eq!((budget.used(), budget.has_room()), ((0, 0), true));
    }

    #[test]
    fn a_lost_ticket_holds_the_offset_and_frees_the_budget() {
        let budget = Arc::new(Budget::new(1, 100));
        let assignment = assignment(&budget);
        drop(assignment.receive(4, 100).unwrap());
        assert!(budget.has_room());
        assert_eq!((assignment.commit_position(), assignment.in_flight()), (Some(4), 1));
        assert!(!assignment.wait_drained(Duration::from_millis(1)));
        assert!(assignment.receive(4, 1).is_none());
        assert!(assignment.is_broken());
    }

    #[test]
    fn what_is_to_be_read_again_may_be_dropped() {
        let budget = Arc::new(Budget::new(9, 100));
        let assignment = assignment(&budget);
        assignment.expect_rewind(9, false);
        assignment.expect_rewind(9, true);
        assert!(!assignment.is_stale(), "once it has to be written it has to");
        let assignment = self::assignment(&budget);
        let (first, second) = (assignment.receive(4, 1).unwrap(), assignment.receive(5, 1).unwrap());
        assignment.expect_rewind(5, true);
        assert!(assignment.is_stale());
        drop(first);
        assert!(!assignment.rewind(2), "one is on its way");
        second.acknowledge();
        assert_eq!(assignment.commit_position(), Some(4), "what was dropped isn't settled");
        assert!(!assignment.wait_drained(Duration::from_secs(3600)), "nobody can settle the first any more");
        assert!(assignment.rewind(2) && !assignment.is_broken() && !assignment.is_stale());
        assert_eq!((assignment.commit_position(), budget.used()), (Some(2), (0, 0)));
    }

    #[test]
    fn a_partition_was_read_again_when_it_is_settled_up_to_where_it_stood() {
        let assignment = assignment(&Arc::new(Budget::new(9, 100)));
        assignment.receive(4, 1).unwrap().acknowledge();
        assert!(!assignment.was_read_again(), "it needn't be");
        assignment.expect_rewind(5, false);
        assert!(!assignment.was_read_again(), "it stands there from before");
        assert!(assignment.rewind(3));
        let (first, second) = (assignment.receive(3, 1).unwrap(), assignment.receive(4, 1).unwrap());
        second.acknowledge();
        assert!(!assignment.was_read_again(), "the first is on its way");
        first.acknowledge();
        assert!(assignment.was_read_again());
    }

    #[test]
    fn a_request_under_way_is_waited_for() {
        let assignment = assignment(&Arc::new(Budget::new(1, 100)));
        let request = assignment.request();
        assert!(!assignment.wait_answered(Duration::from_millis(1)));
        drop(request);
        assert!(assignment.wait_answered(Duration::ZERO));
    }

    #[test]
    fn a_waiting_worker_is_woken_by_room() {
        let budget = Arc::new(Budget::new(1, 100));
        let assignment = assignment(&budget);
        let ack = assignment.receive(1, 1).unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                while !budget.has_room() {
                    budget.wake_when_free();
                    if !budget.has_room() {
                        std::thread::park();
                    }
                }
            });
            std::thread::sleep(Duration::from_millis(20));
            ack.acknowledge();
            waiter.join().unwrap();
        });
    }
}
