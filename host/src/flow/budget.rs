//! Bounds what is in flight in this process: records that were read and aren't acknowledged.
//!
//! Guarantees: what was taken is given back by its taker; a worker that waits for room is woken when there is some.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::Thread;

use super::sharded::Sharded;

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

    /// Asks for the calling thread to be unparked when there is room again. Check [`Self::has_room`] once more after it.
    pub fn wake_when_free(&self) {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner).push(std::thread::current());
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

#[cfg(test)]
mod tests {
    use super::*;

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
