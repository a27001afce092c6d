//! How the time that a stop may take, `limits.shutdown`, is shared among its steps.
//!
//! Guarantees: the bounds of all steps together are `limits.shutdown`, counted from the signal; a step that needs less leaves
//! the rest to those that follow. Plain values but for the clock.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The time that is kept for committing, leaving the group and the last requests.
const LEAVING: Duration = Duration::from_secs(6);
/// The time that is kept for the answers to requests that are under way when nothing more may be sent.
const ANSWERS: Duration = Duration::from_secs(3);
/// The time that is kept for what follows once the group is left.
const AFTER_LEAVING: Duration = Duration::from_secs(1);

/// When this process was told to stop.
static TOLD_AT: OnceLock<Instant> = OnceLock::new();

/// Takes note that the process is told to stop.
pub(super) fn told_to_stop() {
    TOLD_AT.get_or_init(Instant::now);
}

/// See the module. There is one for each run of a pipeline: a run that can't go on has the whole time, whatever other pipelines do.
#[derive(Debug)]
pub(super) struct StopTime {
    /// `limits.shutdown`.
    total: Duration,
    /// When the process was told to stop, or the pipeline first knew that it can't go on.
    began: OnceLock<Instant>,
}

impl StopTime {
    pub fn new(total: Duration) -> Self {
        Self { total, began: OnceLock::new() }
    }

    /// When the stop began; if it hadn't begun yet, it begins now.
    pub fn begins(&self) -> Instant {
        *self.began.get_or_init(|| TOLD_AT.get().copied().unwrap_or_else(Instant::now))
    }

    /// When nothing more is sent to the store, and when the answers must have come, if giving partitions up began now, or if
    /// the stop began at `stopped_at`.
    pub fn giving_up(&self, now: Instant, stopped_at: Option<Instant>) -> (Instant, Instant) {
        let end = stopped_at.unwrap_or(now) + self.total;
        // Where `limits.shutdown` is short, each step has the same fraction of it.
        let leaving = LEAVING.min(self.total / 4);
        let answered_by = end.checked_sub(leaving).unwrap_or(now);
        let drained_by = answered_by.checked_sub(ANSWERS.min(self.total / 8)).unwrap_or(now);
        (drained_by, answered_by)
    }

    /// How long leaving the group may take.
    pub fn for_leaving(&self) -> Duration {
        self.left().saturating_sub(AFTER_LEAVING.min(self.total / 8))
    }

    /// The bound, or the time that is left if that is shorter.
    pub fn within(&self, bound: Duration) -> Duration {
        bound.min(self.left())
    }

    fn left(&self) -> Duration {
        (self.begins() + self.total).saturating_duration_since(Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steps_take_no_longer_than_the_whole() {
        for total in [1, 4, 25, 600].map(Duration::from_secs) {
            let (time, now) = (StopTime::new(total), Instant::now());
            let (drained_by, answered_by) = time.giving_up(now, Some(now));
            assert!(now < drained_by && drained_by < answered_by && answered_by < now + total, "{total:?}");
            // A stop that begins while partitions are being given up.
            let late = now + total / 2;
            assert!(time.giving_up(now, None).1 < late + total - LEAVING.min(total / 4) / 2, "{total:?}");
            assert_eq!(time.giving_up(late, Some(now)).1, answered_by, "and goes on until the same moment");
        }
        let time = StopTime::new(Duration::from_secs(25));
        let now = Instant::now();
        assert_eq!(time.giving_up(now, Some(now)).0, now + Duration::from_secs(16));
        assert_eq!(time.within(Duration::from_secs(3)), Duration::from_secs(3));
        assert!(time.within(Duration::from_secs(600)) <= Duration::from_secs(25));
        assert!(time.for_leaving() <= Duration::from_secs(24));
    }
}
