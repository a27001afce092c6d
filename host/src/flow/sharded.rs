//! A number that many threads add to, and few read.
//!
//! Guarantees: nothing added is lost; adding touches a cache line that the adding thread has nearly for itself, so that
//! workers don't slow each other down; a sum read while others add is one that stood at some moment around it.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

const SHARDS: usize = 16;

/// A counter that many threads increase without slowing each other.
#[derive(Debug, Default)]
pub struct Sharded([Shard; SHARDS]);

#[derive(Debug, Default)]
#[repr(align(64))]
struct Shard(AtomicU64);

impl Sharded {
    /// Adds to the calling thread's share.
    pub fn add(&self, number: u64) {
        self.mine().fetch_add(number, Ordering::Relaxed);
    }

    /// Subtracts from the calling thread's share. Another thread may have added the number: then a single share wraps around, but the sum
    /// of all doesn't.
    pub fn subtract(&self, number: u64) {
        self.mine().fetch_sub(number, Ordering::Relaxed);
    }

    /// The sum of all shares.
    pub fn sum(&self) -> u64 {
        let sum = self.0.iter().fold(0u64, |sum, shard| sum.wrapping_add(shard.0.load(Ordering::Relaxed)));
        // Read between an addition and its subtraction on two shards, it may seem negative.
        if sum > u64::MAX / 2 { 0 } else { sum }
    }

    fn mine(&self) -> &AtomicU64 {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static MINE: usize = NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS;
        }
        let [first, ..] = &self.0;
        &MINE.with(|mine| self.0.get(*mine)).unwrap_or(first).0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_add_and_subtract_without_loss() {
        let number = Sharded::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|_| number.add(3)));
                scope.spawn(|| (0..10_000).for_each(|_| number.subtract(2)));
            }
        });
        assert_eq!(number.sum(), 40_000);
    }
}
