//! How the time that a stop may take, `limits.shutdown`, is shared among its steps.
//!
//! Guarantees: the bounds of all steps together are `limits.shutdown`, counted from the signal; a step that needs less leaves
//! the rest to those that follow. Plain values but for the clock.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// For committing, leaving the group and the last requests.
const LEAVING: Duration = Duration::from_secs(6);
/// For the answers to requests that are under way when nothing more may be sent.
const ANSWERS: Duration = Duration::from_secs(3);
/// For what follows once the group is left.
const AFTER_LEAVING: Duration = Duration::from_secs(1);

/// When this process was told to stop.
static TOLD_AT: OnceLock<Instant> = OnceLock::new();

/// Takes note that the process is told to stop.
pub(super) fn told_to_stop() {
    TOLD_AT.get_or_init(Instant::now);
}

/// See the module. One for each run of a pipeline: one that can't go on has all of the time, whatever others do.
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

    /// When the stop began; now, if it hadn't.
    pub fn begins(&self) -> Instant {
        *self.began.get_or_init(|| TOLD_AT.get().copied().unwrap_or_else(Instant::now))
    }

    /// When nothing more is sent to the store, and when the answers must have come, if giving partitions up began now, or if
    /// the stop began at `stopped_at`.
    pub fn giving_up(&self, now: Instant, stopped_at: Option<Instant>) -> (Instant, Instant) {
        let end = stopped_at.unwrap_or(now) + self.total;
        // A short time is shared in the same parts.
        let leaving = LEAVING.min(self.total / 4);
        let answered_by = end.checked_sub(leaving).unwrap_or(now);
        let drained_by = answered_by.checked_sub(ANSWERS.min(self.total / 8)).unwrap_or(now);
        (drained_by, answered_by)
    }

    /// How long leaving the group may take.
    pub fn for_leaving(&self) -> Duration {
        self.left().saturating_sub(AFTER_LEAVING.min(self.total / 8))
    }

    /// How long `bound` is in the time that is left.
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
