//! Tells how long ago a thread last came by, to notice one that hangs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// When a thread last came by. See the module.
#[derive(Debug)]
pub(super) struct Heartbeat {
    /// When this value was made.
    since: Instant,
    /// When the thread last came by, in milliseconds after `since`.
    last: AtomicU64,
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self { since: Instant::now(), last: AtomicU64::new(0) }
    }
}

impl Heartbeat {
    /// The thread comes by now.
    pub fn beat(&self) {
        self.last.store(self.now(), Ordering::Relaxed);
    }

    /// How long ago the thread last came by.
    pub fn elapsed(&self) -> Duration {
        Duration::from_millis(self.now().saturating_sub(self.last.load(Ordering::Relaxed)))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
