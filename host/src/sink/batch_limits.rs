//! What one request may hold: as configured, or less where something before the store was seen to take less.
//!
//! Guarantees: a limit that is learned only becomes smaller, and never smaller than [`LEAST_LIMIT`].

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tracing::info;

use super::store::StoreError;

/// What a batch is never made smaller than for a proxy's limits.
const LEAST_LIMIT: usize = 1024;

/// The most that one request may hold.
#[derive(Debug, Clone, Copy)]
pub struct BatchLimits {
    /// In records.
    pub records: usize,
    /// In bytes of payload.
    pub bytes: u64,
    /// In bytes of labels.
    pub header_bytes: usize,
}

/// What something before the store was seen to take.
#[derive(Debug)]
pub(super) struct LearnedLimits {
    header_bytes: AtomicUsize,
    bytes: AtomicU64,
}

impl Default for LearnedLimits {
    fn default() -> Self {
        Self { header_bytes: AtomicUsize::new(usize::MAX), bytes: AtomicU64::new(u64::MAX) }
    }
}

impl LearnedLimits {
    /// The lower of both.
    pub fn apply(&self, limits: BatchLimits) -> BatchLimits {
        BatchLimits {
            records: limits.records,
            bytes: limits.bytes.min(self.bytes.load(Ordering::Relaxed)),
            header_bytes: limits.header_bytes.min(self.header_bytes.load(Ordering::Relaxed)),
        }
    }

    /// A batch of this size was too large for something before the store.
    pub fn learn(&self, error: &StoreError, header_bytes: usize, bytes: u64) {
        let is_body = error.to_string().contains("413");
        if is_body {
            self.bytes.fetch_min((bytes / 2).max(LEAST_LIMIT as u64), Ordering::Relaxed);
        } else {
            self.header_bytes.fetch_min((header_bytes / 2).max(LEAST_LIMIT), Ordering::Relaxed);
        }
        let (bytes, header_bytes) = (self.bytes.load(Ordering::Relaxed), self.header_bytes.load(Ordering::Relaxed));
        info!(%error, bytes, header_bytes, "batches become smaller; {}", error.remedy());
    }
}
