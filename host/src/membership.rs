//! Whether this host may still write: a process that was stopped (SIGSTOP, a suspended machine) may wake up after the
//! group has given its partitions away.
//!
//! Guarantees: after a pause longer than [`PAUSE`] no new request is sent to the store until the group has confirmed the
//! membership, or a rebalance has taken the partitions away. A request that was under way when the process was stopped
//! can't be called back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
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
}

impl Membership {
    pub fn is_doubted(&self) -> bool {
        self.doubted.load(Ordering::SeqCst)
    }

    /// The group confirmed that we are a member of the present generation, or gave us new partitions.
    pub fn confirm(&self) {
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
    let membership: Weak<Membership> = Arc::downgrade(membership);
    let watch = move || {
        let mut last = Instant::now();
        while let Some(membership) = membership.upgrade() {
            std::thread::sleep(TICK);
            let paused = last.elapsed();
            last = Instant::now();
            if paused > PAUSE {
                membership.doubt(paused);
            }
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
        membership.doubt(PAUSE);
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
