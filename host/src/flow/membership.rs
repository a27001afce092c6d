//! Whether this host may still write: a process that was stopped (SIGSTOP, a suspended machine) may wake up after the
//! group has given its partitions away.
//!
//! Guarantees: after a pause longer than [`PAUSE`] no new request is sent to the store until the group has confirmed the
//! membership, or a rebalance has taken the partitions away. A request that was under way when the process was stopped
//! can't be called back: the server gives it up when nothing of its body comes for 30 s, which is less than Kafka's 45 s
//! until the partitions move on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tracing::{info, warn};

/// A thread that should tick every [`TICK`] and didn't for so long was stopped, or starved: shorter than the shortest
/// session timeout that brokers allow by default (6 s).
const PAUSE: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(200);

#[derive(Debug, Default)]
pub struct Membership {
    doubted: AtomicBool,
    confirmed: Notify,
    /// When this process was last known to run; `None`: nobody watches.
    ran: Mutex<Option<Instant>>,
}

impl Membership {
    /// Looks for a pause by itself: whoever asks may have been woken up before the thread that ticks.
    pub fn is_doubted(&self) -> bool {
        let paused = self.ran().map_or(Duration::ZERO, |ran| ran.elapsed());
        if paused > PAUSE && !self.doubted.load(Ordering::SeqCst) {
            self.doubt(paused);
        }
        self.doubted.load(Ordering::SeqCst)
    }

    fn ran(&self) -> MutexGuard<'_, Option<Instant>> {
        self.ran.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The group confirmed that we are a member of the present generation, or gave us new partitions.
    pub fn confirm(&self) {
        if let Some(ran) = self.ran().as_mut() {
            *ran = Instant::now();
        }
        if self.doubted.swap(false, Ordering::SeqCst) {
            info!("the group confirmed the membership; writing goes on");
        }
        self.confirmed.notify_waiters();
    }

    fn doubt(&self, paused: Duration) {
        warn!(?paused, "this process was stopped or starved; writing waits until the group confirms the membership");
        self.doubted.store(true, Ordering::SeqCst);
    }

    /// Waits while the membership is in doubt.
    pub async fn assured(&self) {
        while self.is_doubted() {
            let confirmed = self.confirmed.notified();
            // Checked again, because it may have been confirmed before we listened.
            if self.is_doubted() {
                // The longest wait that a lost notification costs.
                let _ = tokio::time::timeout(Duration::from_millis(200), confirmed).await;
            }
        }
    }
}

/// Watches for pauses until the membership is dropped.
pub fn watch_for_pauses(membership: &Arc<Membership>) -> std::io::Result<()> {
    *membership.ran() = Some(Instant::now());
    let membership: Weak<Membership> = Arc::downgrade(membership);
    let watch = move || {
        while let Some(membership) = membership.upgrade() {
            std::thread::sleep(TICK);
            membership.is_doubted();
            *membership.ran() = Some(Instant::now());
        }
    };
    std::thread::Builder::new().name("pauses".into()).spawn(watch).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn writing_waits_for_the_confirmation() {
        let membership = Arc::new(Membership::default());
        membership.assured().await;
        *membership.ran() = Instant::now().checked_sub(PAUSE + TICK);
        let waiting = tokio::spawn({
            let membership = Arc::clone(&membership);
            async move { membership.assured().await }
        });
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!waiting.is_finished());
        membership.confirm();
        waiting.await.unwrap();
    }
}
