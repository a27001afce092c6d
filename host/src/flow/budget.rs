//! Bounds what is in flight in a pipeline: records that were read and aren't acknowledged, with what plugins made of them.
//!
//! Guarantees: a worker that waits for room is woken when there is some; partitions that cannot move leave room for the others, however
//! many they are, unless their records are larger than a partition's equal part of what is kept, see [`Budget::share`].

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Thread;

use super::sharded::Sharded;

/// A partition may use this many times what is free. One partition alone may therefore take two thirds of what isn't kept for the others,
/// and each further one that cannot move at most two thirds of the rest.
const SHARE: usize = 2;
/// This fraction of the budget (a fourth) is kept for partitions that use less than their equal part of it, so that partitions that
/// cannot move never take all.
const KEPT: usize = 4;

/// Records and bytes in flight over all partitions, including what plugins made of the records.
#[derive(Debug)]
pub struct Budget {
    max_records: usize,
    max_bytes: usize,
    records: Sharded,
    bytes: Sharded,
    /// How many partitions take from it.
    partitions: AtomicUsize,
    /// Set by a worker that found no room: a release wakes workers only while one waits.
    wanted: AtomicBool,
    waiters: Mutex<Vec<Thread>>,
}

/// How many records and bytes in flight one partition may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BudgetShare {
    records: usize,
    bytes: usize,
}

impl BudgetShare {
    /// Whether a partition that has this many records and bytes may read another record.
    pub fn has_room_beside(self, (records, bytes): (usize, usize)) -> bool {
        records < self.records && bytes < self.bytes
    }
}

impl Budget {
    /// A budget of which nothing is used.
    pub fn new(max_records: usize, max_bytes: usize) -> Self {
        Self {
            max_records,
            max_bytes,
            records: Sharded::default(),
            bytes: Sharded::default(),
            partitions: AtomicUsize::new(0),
            wanted: AtomicBool::new(false),
            waiters: Mutex::default(),
        }
    }

    /// Whether the budget isn't used up. A record's size is known only after it was read, so the last one may exceed the bound.
    /// [`Self::share`] says how much of it one partition may use.
    pub fn has_room(&self) -> bool {
        let (records, bytes) = self.used();
        records < self.max_records && bytes < self.max_bytes
    }

    /// How much one partition may use now, for another record of it to be read. The share shrinks with what is free, but it is at least the
    /// partition's equal part of what is kept, until the budget is exceeded by as much as is kept. That happens only where records are
    /// larger than such a part.
    pub fn share(&self) -> BudgetShare {
        let (all_records, all_bytes) = self.used();
        let partitions = self.partitions.load(Ordering::Relaxed).max(1);
        let share = |most: usize, used: usize| {
            let kept = most / KEPT;
            let equal = (kept / partitions).max(1);
            match used {
                used if used < most => (most - kept).saturating_sub(used).saturating_mul(SHARE).max(equal),
                used if used < most.saturating_add(kept) => equal,
                _ => 0,
            }
        };
        BudgetShare { records: share(self.max_records, all_records), bytes: share(self.max_bytes, all_bytes) }
    }

    /// Asks for the calling thread to be unparked when there is room again. Check the partition's share once more after it.
    pub fn wake_when_free(&self) {
        let this = std::thread::current();
        let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        // A worker asks again after each nap, and mustn't be noted twice.
        if !waiters.iter().any(|waiter| waiter.id() == this.id()) {
            waiters.push(this);
        }
        drop(waiters);
        self.wanted.store(true, Ordering::SeqCst);
    }

    pub(crate) fn take(&self, records: usize, bytes: usize) {
        self.records.add(records as u64);
        self.bytes.add(bytes as u64);
    }

    pub(crate) fn give_back(&self, records: usize, bytes: usize) {
        self.records.subtract(records as u64);
        self.bytes.subtract(bytes as u64);
        if self.wanted.load(Ordering::SeqCst) && self.has_room() && self.wanted.swap(false, Ordering::SeqCst) {
            let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
            waiters.drain(..).for_each(|worker| worker.unpark());
        }
    }

    /// Records and bytes in flight now.
    pub fn used(&self) -> (usize, usize) {
        let count = |number: &Sharded| usize::try_from(number.sum()).unwrap_or(usize::MAX);
        (count(&self.records), count(&self.bytes))
    }
}

/// How much of the budget one partition uses.
#[derive(Debug)]
pub(super) struct Usage {
    budget: Arc<Budget>,
    records: AtomicUsize,
    bytes: AtomicUsize,
}

impl Drop for Usage {
    fn drop(&mut self) {
        self.budget.partitions.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Usage {
    pub fn of(budget: &Arc<Budget>) -> Self {
        budget.partitions.fetch_add(1, Ordering::Relaxed);
        Self { budget: Arc::clone(budget), records: AtomicUsize::new(0), bytes: AtomicUsize::new(0) }
    }

    pub fn take(&self, records: usize, bytes: usize) {
        self.records.fetch_add(records, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn give_back(&self, records: usize, bytes: usize) {
        self.records.fetch_sub(records, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub fn now(&self) -> (usize, usize) {
        (self.records.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_that_cannot_move_leave_room_for_another() {
        // They take from the budget one after the other, which leaves the least.
        for stuck in [1, 2, 4] {
            let budget = Arc::new(Budget::new(usize::MAX, 64 << 20));
            let _all: Vec<Usage> = (0..=stuck).map(|_| Usage::of(&budget)).collect();
            let mut used = vec![0; stuck];
            while used.iter_mut().any(|used| {
                let may_take = budget.share().has_room_beside((1, *used));
                if may_take {
                    budget.take(1, 100_000);
                    *used += 100_000;
                }
                may_take
            }) {}
            assert!(budget.has_room() && budget.share().has_room_beside((0, 0)), "{stuck} have taken everything");
        }
        // However many they are, each of the others has its equal part.
        let budget = Arc::new(Budget::new(4_000, 64 << 20));
        let all: Vec<Usage> = (0..50).map(|_| Usage::of(&budget)).collect();
        let (mut stuck, mut moving) = (vec![(0, 0); 20], vec![(0, 0); 30]);
        let fill = |partitions: &mut [(usize, usize)]| {
            for used in partitions {
                while budget.share().has_room_beside(*used) {
                    budget.take(1, 10_000);
                    *used = (used.0 + 1, used.1 + 10_000);
                }
            }
        };
        fill(&mut stuck);
        fill(&mut moving);
        assert!(moving.iter().all(|(records, _)| *records >= 20), "{moving:?}");
        let (records, bytes) = budget.used();
        assert!(records <= 4_000 && bytes <= 64 << 20, "{records} records, {bytes} bytes");
        // Records that are larger than an equal part: each of the others gets one, and they don't add up without end.
        let (mut stuck, mut moving) = (vec![0; 20], vec![0; 30]);
        let budget = Arc::new(Budget::new(usize::MAX, 8_000_000));
        let few: Vec<Usage> = (0..50).map(|_| Usage::of(&budget)).collect();
        let fill = |partitions: &mut [usize]| {
            for used in partitions {
                while budget.share().has_room_beside((0, *used)) {
                    budget.take(1, 100_000);
                    *used += 100_000;
                }
            }
        };
        fill(&mut stuck);
        // One after the other, as their records are written.
        for used in &mut moving {
            fill(std::slice::from_mut(used));
            assert!(*used > 0, "{} bytes are taken", budget.used().1);
            budget.give_back(*used / 100_000, *used);
        }
        assert!(budget.used().1 <= 10_000_000 + 100_000);
        drop(few);
        drop(all);
        assert_eq!(budget.partitions.load(Ordering::Relaxed), 0);
        let budget = Budget::new(1, 100);
        assert!(budget.share().has_room_beside((0, 0)), "the smallest budget");
        assert!(Budget::new(usize::MAX, usize::MAX).share().has_room_beside((1 << 40, 1 << 40)), "no budget at all");
    }

    #[test]
    fn a_worker_that_asks_again_and_again_waits_once() {
        let budget = Budget::new(1, 100);
        budget.take(1, 1);
        (0..10).for_each(|_| budget.wake_when_free());
        assert_eq!(budget.waiters.lock().unwrap().len(), 1);
    }

    #[test]
    fn a_waiting_worker_is_woken_by_room() {
        let budget = Budget::new(1, 100);
        budget.take(1, 1);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                while !budget.has_room() {
                    budget.wake_when_free();
                    if !budget.has_room() {
                        std::thread::park();
                    }
                }
            });
            std::thread::sleep(std::time::Duration::from_millis(20));
            budget.give_back(1, 1);
            waiter.join().unwrap();
        });
    }
}
