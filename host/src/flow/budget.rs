//! Bounds what is in flight in this process: records that were read and aren't acknowledged.
//!
//! Guarantees: what was taken is given back by its taker; a worker that waits for room is woken when there is some; a
//! partition that cannot move leaves room for the others, see [`Budget::has_share`].

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::Thread;

use super::sharded::Sharded;

/// How many times what nobody uses a partition may have. One partition alone may take two thirds of the budget, and each
/// further one that cannot move at most two thirds of what is left.
const SHARE: usize = 2;

/// Records and bytes in flight over all partitions, including what plugins made of the records.
#[derive(Debug)]
pub struct Budget {
    max_records: usize,
    max_bytes: usize,
    records: Sharded,
    bytes: Sharded,
    /// Set by a worker that found no room: a release wakes workers only while one waits.
    wanted: AtomicBool,
    waiters: Mutex<Vec<Thread>>,
}

impl Budget {
    /// A budget of which nothing is used.
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

    /// Whether another record may be read. A record's size is known only after it was read, so the last one may exceed
    /// the bound.
    pub fn has_room(&self) -> bool {
        let (records, bytes) = self.used();
        records < self.max_records && bytes < self.max_bytes
    }

    /// Whether a partition that has this many records and bytes of the budget may read more: the less is left over, the
    /// less it may have.
    pub fn has_share(&self, (records, bytes): (usize, usize)) -> bool {
        let (all_records, all_bytes) = self.used();
        let share = |most: usize, used: usize| most.saturating_sub(used).saturating_mul(SHARE);
        records < share(self.max_records, all_records) && bytes < share(self.max_bytes, all_bytes)
    }

    /// Asks for the calling thread to be unparked when there is room again. Check [`Self::has_room`] once more after it.
    pub fn wake_when_free(&self) {
        let this = std::thread::current();
        let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        // It asks again after each nap.
        if !waiters.iter().any(|waiter| waiter.id() == this.id()) {
            waiters.push(this);
        }
        drop(waiters);
        self.wanted.store(true, Ordering::SeqCst);
    }

    pub(super) fn take(&self, records: usize, bytes: usize) {
        self.records.add(records as u64);
        self.bytes.add(bytes as u64);
    }

    pub(super) fn give_back(&self, records: usize, bytes: usize) {
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

/// What one partition has of the budget.
#[derive(Debug, Default)]
pub(super) struct Usage {
    records: AtomicUsize,
    bytes: AtomicUsize,
}

impl Usage {
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
        // One after the other, which leaves the least.
        for stuck in [1, 2, 4] {
            let budget = Budget::new(usize::MAX, 64 << 20);
            let mut used = vec![0; stuck];
            while used.iter_mut().any(|used| {
                let may_take = budget.has_share((1, *used));
                if may_take {
                    budget.take(1, 100_000);
                    *used += 100_000;
                }
                may_take
            }) {}
            assert!(budget.has_room() && budget.has_share((0, 0)), "{stuck} have taken everything");
        }
        let budget = Budget::new(1, 100);
        assert!(budget.has_share((0, 0)), "the smallest budget");
        assert!(Budget::new(usize::MAX, usize::MAX).has_share((1 << 40, 1 << 40)), "no budget at all");
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
