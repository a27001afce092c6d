//! Whether this host may still write: a process that was stopped (SIGSTOP), or whose machine was suspended, may wake up
//! after the group has given its partitions to others.
//!
//! Guarantees: after the process stood still for longer than [`SUSPENDED`] no new request is sent to the store until the group has
//! confirmed the membership, or a rebalance has taken the partitions away. That is noticed whichever clock shows it: a suspended machine's
//! monotonic clock stands still, so the clocks that count the suspension are compared as well. A request that was under way when the
//! process was stopped can't be called back: the server gives it up when nothing of its body comes for 30 s, which is less than Kafka's 45
//! s until the partitions move on.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tracing::{info, warn};

use crate::config::threads;

/// A thread that should tick every [`TICK`] and did not for this long was stopped, or starved: shorter than the shortest
/// session time-out that brokers allow by default (6 s).
const SUSPENDED: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(200);

/// One moment as several clocks show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Stands still while the machine is suspended.
    pub monotonic: Duration,
    /// Goes on while the machine is suspended.
    pub boot: Duration,
    /// The time of day: a virtual machine that was suspended from outside learns of it from this clock only.
    pub real: Duration,
}

impl Moment {
    /// The longest time that any of the clocks counts since `earlier`. A clock that was set back counts nothing.
    fn since(&self, earlier: &Self) -> Duration {
        let monotonic = self.monotonic.saturating_sub(earlier.monotonic);
        let boot = self.boot.saturating_sub(earlier.boot);
        monotonic.max(boot).max(self.real.saturating_sub(earlier.real))
    }
}

/// Tells the present moment.
pub trait Clocks: Send + Sync {
    /// The present moment.
    fn now(&self) -> Moment;
}

/// The machine's clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClocks;

impl Clocks for SystemClocks {
    fn now(&self) -> Moment {
        Moment {
            monotonic: read(libc::CLOCK_MONOTONIC),
            boot: read(libc::CLOCK_BOOTTIME),
            real: read(libc::CLOCK_REALTIME),
        }
    }
}

/// A clock that the kernel doesn't have stands at zero: it never shows a suspension.
#[expect(unsafe_code, reason = "the standard library reads the monotonic clock and the time of day only")]
fn read(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writing.
    if unsafe { libc::clock_gettime(clock, &mut time) } != 0 {
        return Duration::ZERO;
    }
    let nanos = u32::try_from(time.tv_nsec).unwrap_or_default();
    Duration::new(u64::try_from(time.tv_sec).unwrap_or_default(), nanos)
}

/// Whether the group still counts this host among its members, as far as this host can know.
pub struct Membership {
    clocks: Box<dyn Clocks>,
    doubted: AtomicBool,
    confirmed: Notify,
    /// When this process was last known to run; `None`: nobody watches.
    ran: Mutex<Option<Moment>>,
}

impl Default for Membership {
    fn default() -> Self {
        Self::new(SystemClocks)
    }
}

impl fmt::Debug for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Membership").field("doubted", &self.doubted).finish_non_exhaustive()
    }
}

impl Membership {
    /// A membership that nobody doubts yet. [`watch_for_suspensions`] begins to look for suspensions.
    pub fn new(clocks: impl Clocks + 'static) -> Self {
        Self {
            clocks: Box::new(clocks),
            doubted: AtomicBool::new(false),
            confirmed: Notify::new(),
            ran: Mutex::default(),
        }
    }

    /// Looks whether the process stood still, and answers whether writing has to wait. Each caller looks for itself, because it may have
    /// woken up before the thread that ticks.
    pub fn look_for_suspension(&self) -> bool {
        let suspended = self.ran().map_or(Duration::ZERO, |ran| self.clocks.now().since(&ran));
        if suspended > SUSPENDED && !self.doubted.swap(true, Ordering::SeqCst) {
            warn!(
                suspended_s = suspended.as_secs_f64(),
                "this process was stopped or its machine suspended; writing waits until the group confirms the membership"
            );
        }
        self.doubted.load(Ordering::SeqCst)
    }

    /// Takes note that the group confirmed this host as a member of the present generation, or that it has no partition any more.
    pub fn confirm(&self) {
        if let Some(ran) = self.ran().as_mut() {
            *ran = self.clocks.now();
        }
        if self.doubted.swap(false, Ordering::SeqCst) {
            info!("the group confirmed the membership; writing goes on");
        }
        self.confirmed.notify_waiters();
    }

    /// Waits while the membership is in doubt.
    pub async fn assured(&self) {
        while self.look_for_suspension() {
            let confirmed = self.confirmed.notified();
            // Checked again, because it may have been confirmed before we listened.
            if self.look_for_suspension() {
                // The longest wait that a lost notification costs.
                let _ = tokio::time::timeout(Duration::from_millis(200), confirmed).await;
            }
        }
    }

    /// Notes that this process runs now, after looking whether it stood still.
    fn tick(&self) {
        self.look_for_suspension();
        *self.ran() = Some(self.clocks.now());
    }

    fn ran(&self) -> MutexGuard<'_, Option<Moment>> {
        self.ran.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Watches for suspensions of the process, or of its machine, until the membership is dropped.
pub fn watch_for_suspensions(membership: &Arc<Membership>) -> std::io::Result<()> {
    *membership.ran() = Some(membership.clocks.now());
    let membership: Weak<Membership> = Arc::downgrade(membership);
    let watch = move || {
        while let Some(membership) = membership.upgrade() {
            std::thread::sleep(TICK);
            membership.tick();
        }
    };
    threads::spawn("suspensions", watch).map(drop)
}

/// For tests of code that asks for the membership.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// Clocks that a test sets.
    #[derive(Clone)]
    pub(crate) struct Set(pub(super) Arc<Mutex<Moment>>);

    impl Clocks for Set {
        fn now(&self) -> Moment {
            *self.0.lock().unwrap()
        }
    }

    impl Set {
        /// By milliseconds.
        pub(crate) fn advance(&self, monotonic: u64, boot: u64, real: u64) {
            let mut now = self.0.lock().unwrap();
            now.monotonic += Duration::from_millis(monotonic);
            now.boot += Duration::from_millis(boot);
            now.real += Duration::from_millis(real);
        }
    }

    /// A membership that is watched and not doubted.
    pub(crate) fn watched() -> (Set, Membership) {
        let start = Duration::from_secs(1_000_000);
        let clocks = Set(Arc::new(Mutex::new(Moment { monotonic: start, boot: start, real: start })));
        let membership = Membership::new(clocks.clone());
        membership.tick();
        (clocks, membership)
    }
}

#[cfg(test)]
mod tests {
    use super::testing::watched;
    use super::*;

    #[test]
    fn a_host_that_ticks_is_not_doubted() {
        let (clocks, membership) = watched();
        for _ in 0..1000 {
            clocks.advance(250, 250, 250);
            assert!(!membership.look_for_suspension());
            membership.tick();
        }
    }

    /// The monotonic clock stands still meanwhile: only the others show the suspension.
    #[test]
    fn a_machine_that_was_suspended_for_a_minute_is_noticed_before_the_next_request() {
        for (boot, real) in [(60_000, 60_000), (60_000, 0), (0, 60_000)] {
            let (clocks, membership) = watched();
            clocks.advance(100, 100 + boot, 100 + real);
            assert!(membership.look_for_suspension(), "boot {boot} ms, real {real} ms");
            membership.tick();
            assert!(membership.look_for_suspension(), "ticking again doesn't end the doubt");
            membership.confirm();
            assert!(!membership.look_for_suspension());
        }
    }

    #[test]
    fn a_clock_that_was_set_back_shows_no_suspension() {
        let (clocks, membership) = watched();
        clocks.0.lock().unwrap().real -= Duration::from_secs(3600);
        clocks.advance(200, 200, 200);
        assert!(!membership.look_for_suspension());
    }

    #[tokio::test]
    async fn writing_waits_for_the_confirmation() {
        let (clocks, membership) = watched();
        let membership = Arc::new(membership);
        membership.assured().await;
        clocks.advance(3000, 3000, 3000);
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
