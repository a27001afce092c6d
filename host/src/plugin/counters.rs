//! What a plugin's version decided, counted.
//!
//! Guarantees: each worker counts for itself, on a cache line of its own, so that counting costs a plain addition; the
//! sum over the workers is what is told. Nothing is lost when a worker ends or takes over another version.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

/// How many calls ended how. A record that an earlier plugin split is one call a part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Calls whose record went on unchanged.
    pub kept: u64,
    /// Calls whose record was dropped.
    pub dropped: u64,
    /// Calls whose record was changed.
    pub changed: u64,
    /// Calls whose record was split.
    pub split: u64,
    /// Traps, exceeded limits, wrong answers and `reject`s.
    pub failed: u64,
    /// `retry` answers.
    pub retried: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.kept += other.kept;
        self.dropped += other.dropped;
        self.changed += other.changed;
        self.split += other.split;
        self.failed += other.failed;
        self.retried += other.retried;
    }
}

/// One worker's counters of one version. Only that worker writes them.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct PluginCounters {
    kept: AtomicU64,
    dropped: AtomicU64,
    changed: AtomicU64,
    split: AtomicU64,
    failed: AtomicU64,
    retried: AtomicU64,
}

impl PluginCounters {
    pub fn kept(&self) {
        increment(&self.kept);
    }
    pub fn dropped(&self) {
        increment(&self.dropped);
    }
    pub fn changed(&self) {
        increment(&self.changed);
    }
    pub fn split(&self) {
        increment(&self.split);
    }
    pub fn failed(&self) {
        increment(&self.failed);
    }
    pub fn retried(&self) {
        increment(&self.retried);
    }
}

/// With a single writer a load and a store do, and are cheaper than a locked addition.
pub(crate) fn increment(counter: &AtomicU64) {
    counter.store(counter.load(Relaxed).wrapping_add(1), Relaxed);
}

/// All workers' counters of one version.
#[derive(Debug, Default)]
pub(crate) struct CounterSet(Mutex<Vec<Arc<PluginCounters>>>);

impl CounterSet {
    /// Counters for one more worker.
    pub fn join(&self) -> Arc<PluginCounters> {
        let counters = Arc::new(PluginCounters::default());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(counters.clone());
        counters
    }

    pub fn sum(&self) -> Counts {
        let mut sum = Counts::default();
        for counters in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            sum.kept += counters.kept.load(Relaxed);
            sum.dropped += counters.dropped.load(Relaxed);
            sum.changed += counters.changed.load(Relaxed);
            sum.split += counters.split.load(Relaxed);
            sum.failed += counters.failed.load(Relaxed);
            sum.retried += counters.retried.load(Relaxed);
        }
        sum
    }
}
