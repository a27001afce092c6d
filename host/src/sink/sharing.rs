//! Whether writers share requests at present, and how large those may be.
//!
//! A proxy in front of the store may take requests for one entry and refuse those for several, or take smaller headers than a shared
//! request has.
//!
//! Guarantees: after [`FAILURES`] shared requests in a row that failed, no shared request is sent for [`UNSHARED_FOR`]; what is learned of
//! the size of shared requests makes requests for single entries no smaller.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::warn;

use super::batch_limits::{BatchLimits, LearnedLimits};
use super::store::StoreError;

/// After this many shared requests in a row that failed, sharing ends for a while. Some of them may have been under way at the same time.
const FAILURES: u32 = 8;
/// For how long each writer then sends its requests by itself.
const UNSHARED_FOR: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Sharing {
    failures: AtomicU32,
    unshared_until: Mutex<Option<Instant>>,
    limits: LearnedLimits,
}

impl Sharing {
    /// Whether requests are to be shared.
    pub fn is_on(&self) -> bool {
        self.failures.load(Ordering::Relaxed) < FAILURES || self.is_over(Instant::now())
    }

    /// Whether requests may be shared again. One more failure ends the sharing again.
    fn is_over(&self, now: Instant) -> bool {
        self.unshared_until.lock().unwrap_or_else(PoisonError::into_inner).is_none_or(|until| now >= until)
    }

    /// The most that a shared request may hold, where one for a single entry may hold this.
    pub fn most(&self, single: BatchLimits) -> BatchLimits {
        self.limits.apply(single)
    }

    /// A shared request was answered.
    pub fn succeeded(&self) {
        // Read first: this is done for each request, and by several threads.
        if self.failures.load(Ordering::Relaxed) > 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    /// A shared request of this size failed.
    pub fn failed(&self, error: &StoreError, size: BatchLimits) {
        if matches!(error, StoreError::TooLarge(_) | StoreError::Doubtful(_)) {
            self.limits.learn(error, size.header_bytes, size.bytes);
        }
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if failures >= FAILURES {
            let now = Instant::now();
            if self.is_over(now) {
                let for_s = UNSHARED_FOR.as_secs();
                warn!(%error, for_s, "requests for several entries fail; each entry is written by itself for a while");
            }
            *self.unshared_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(now + UNSHARED_FOR);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sharing_ends_for_a_while_after_failures_in_a_row() {
        let (sharing, size) = (Sharing::default(), BatchLimits { records: 9, bytes: 9, header_bytes: 9 });
        let fail = || sharing.failed(&StoreError::Unavailable("away".into()), size);
        (1..FAILURES).for_each(|_| fail());
        sharing.succeeded();
        (1..FAILURES).for_each(|_| fail());
        assert!(sharing.is_on(), "not in a row");
        fail();
        assert!(!sharing.is_on());
        assert!(!sharing.is_over(Instant::now()) && sharing.is_over(Instant::now() + UNSHARED_FOR));
        // As if that time were over: one more failure ends the sharing again.
        *sharing.unshared_until.lock().unwrap() = Some(Instant::now());
        assert!(sharing.is_on());
        fail();
        assert!(!sharing.is_on());
        *sharing.unshared_until.lock().unwrap() = Some(Instant::now());
        sharing.succeeded();
        fail();
        assert!(sharing.is_on());
    }

    #[test]
    fn a_shared_request_that_is_too_large_makes_the_next_ones_smaller() {
        let single = BatchLimits { records: 80, bytes: 1 << 20, header_bytes: 1 << 18 };
        let sharing = Sharing::default();
        sharing.failed(&StoreError::Doubtful("400".into()), BatchLimits { header_bytes: 40_000, ..single });
        let most = sharing.most(single);
        assert_eq!((most.records, most.bytes, most.header_bytes), (80, 1 << 20, 20_000));
        sharing.failed(&StoreError::Unavailable("away".into()), BatchLimits { header_bytes: 1_000, ..single });
        assert_eq!(sharing.most(single).header_bytes, 20_000, "it says nothing about the size");
    }
}
