//! Tells partitions that move from those that don't.
//!
//! Guarantees: a partition that has something to do (records in flight, or offsets before its end) and whose position
//! didn't move for the configured time is stuck; it stays so until it moves, has nothing to do or is paused. Time for which a known cause
//! excuses it doesn't count, and what counted before isn't forgotten: a problem that comes and goes hides no partition for ever. A pause
//! is somebody's wish, and what stood still before it is no sign of what comes after it. Plain values, no I/O.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use crate::record::TopicPartition;

/// How a partition stands at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The partition.
    pub source: TopicPartition,
    /// The first offset that isn't done with, from the assignment on.
    pub position: u64,
    /// Records that were read and aren't done with.
    pub in_flight: usize,
    /// The first offset that Kafka has; `None` when it couldn't be asked.
    pub begin: Option<u64>,
    /// The next offset that a reader can't have yet; `None` when Kafka couldn't be asked.
    pub end: Option<u64>,
}

impl Standing {
    /// Offsets between the position and the end: at least as many as there are records.
    pub fn lag(&self) -> Option<u64> {
        self.end.map(|end| end.saturating_sub(self.position))
    }

    fn has_work(&self) -> bool {
        self.in_flight > 0 || self.lag().is_some_and(|lag| lag > 0)
    }

    /// Whether it is known to have nothing to do.
    fn is_idle(&self) -> bool {
        self.in_flight == 0 && self.lag() == Some(0)
    }
}

/// A partition that doesn't move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stuck {
    /// The partition as the last look saw it.
    pub standing: Standing,
    /// Since when it hasn't moved.
    pub since: Instant,
}

/// Remembers when each partition moved last.
#[derive(Debug)]
pub struct Watchdog {
    stuck_after: Duration,
    looked: Option<Instant>,
    clocks: HashMap<TopicPartition, Clock>,
}

/// Why a partition may stand still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Excuse {
    /// Nothing excuses it: it ought to move.
    Without,
    /// A known cause keeps it from moving.
    Cause,
    /// Somebody has paused it.
    Pause,
}

/// For how long a partition has stood still.
#[derive(Debug)]
struct Clock {
    position: u64,
    /// When it was seen to move, to have nothing to do or to be paused.
    since: Instant,
    /// How much of the time since then has no excuse.
    still: Duration,
}

impl Watchdog {
    /// A watchdog that reports a partition after this long without progress.
    pub fn new(stuck_after: Duration) -> Self {
        Self { stuck_after, looked: None, clocks: HashMap::new() }
    }

    /// Looks at all partitions that are assigned now; answers with those that are stuck. Those that `excuse` excuses aren't, because it is
    /// known why they stand still.
    pub fn look(
        &mut self,
        now: Instant,
        standings: &[Standing],
        excuse: impl Fn(&TopicPartition) -> Excuse,
    ) -> Vec<Stuck> {
        let passed = self.looked.replace(now).map_or(Duration::ZERO, |looked| now.duration_since(looked));
        let assigned: HashSet<&TopicPartition> = standings.iter().map(|standing| &standing.source).collect();
        self.clocks.retain(|source, _| assigned.contains(source));
        let mut stuck = Vec::new();
        for standing in standings {
            let Standing { source, position, .. } = standing;
            let begun = || Clock { position: *position, since: now, still: Duration::ZERO };
            let Some(clock) = self.clocks.get_mut(source) else {
                self.clocks.insert(source.clone(), begun());
                continue;
            };
            let excuse = excuse(source);
            if clock.position != *position || standing.is_idle() || excuse == Excuse::Pause {
                *clock = begun();
            } else if standing.has_work() && excuse == Excuse::Without {
                clock.still = clock.still.saturating_add(passed);
                if clock.still >= self.stuck_after {
                    stuck.push(Stuck { standing: standing.clone(), since: clock.since });
                }
            }
        }
        stuck
    }

    /// For how long a partition hasn't moved though it has work and no excuse.
    pub fn still_for(&self, source: &TopicPartition) -> Duration {
        self.clocks.get(source).map_or(Duration::ZERO, |clock| clock.still)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_work_without_progress_is_stuck() {
        let source = TopicPartition { topic: "t".into(), partition: 0 };
        let standing = |position, in_flight, end| Standing {
            source: source.clone(),
            position,
            in_flight,
            begin: Some(0),
            end: Some(end),
        };
        let mut watchdog = Watchdog::new(Duration::from_secs(60));
        let start = Instant::now();
        let mut look = |seconds, standings: &[Standing]| {
            watchdog.look(start + Duration::from_secs(seconds), standings, |_| Excuse::Without).len()
        };
        assert_eq!(look(0, &[standing(5, 0, 5)]), 0);
        assert_eq!(look(100, &[standing(5, 0, 5)]), 0, "nothing to do isn't stuck");
        assert_eq!(look(110, &[standing(5, 0, 5)]), 0);
        assert_eq!(look(169, &[standing(5, 3, 9)]), 0);
        assert_eq!(look(170, &[standing(5, 3, 9)]), 1);
        assert_eq!(look(175, &[standing(6, 2, 9)]), 0, "it moved");
        assert_eq!(look(300, &[]), 0);
        assert_eq!(look(301, &[standing(6, 2, 9)]), 0, "a new assignment starts from zero");
    }

    /// A store that fails every other moment mustn't hide a partition that stands still for another reason.
    #[test]
    fn a_cause_that_comes_and_goes_hides_no_partition_for_ever() {
        let source = TopicPartition { topic: "t".into(), partition: 0 };
        let standing = |end| Standing { source: source.clone(), position: 5, in_flight: 0, begin: Some(0), end };
        let mut watchdog = Watchdog::new(Duration::from_secs(60));
        let start = Instant::now();
        let mut look = |seconds, end, is_excused: bool| {
            let excuse = if is_excused { Excuse::Cause } else { Excuse::Without };
            let stuck = watchdog.look(start + Duration::from_secs(seconds), &[standing(end)], |_| excuse);
            stuck.first().map(|stuck| stuck.since.duration_since(start).as_secs())
        };
        for at in 0..23 {
            assert_eq!(look(5 * at, Some(9), at % 2 == 1), None, "{at}");
        }
        assert_eq!(look(115, Some(9), true), None, "the cause says it");
        assert_eq!(look(120, Some(9), false), Some(0), "it has stood still since then, an excuse or not");
        assert_eq!(look(125, None, false), None, "while Kafka is away it isn't known whether there is work");
        assert_eq!(look(130, Some(9), false), Some(0));
        assert_eq!(look(135, Some(5), false), None);
        assert_eq!(look(140, Some(9), false), None, "it had nothing to do");
    }

    #[test]
    fn what_stood_still_before_a_pause_has_its_time_again_after_it() {
        let source = TopicPartition { topic: "t".into(), partition: 0 };
        let standing = Standing { source, position: 5, in_flight: 0, begin: Some(0), end: Some(9) };
        let mut watchdog = Watchdog::new(Duration::from_secs(60));
        let start = Instant::now();
        let mut look = |seconds, excuse| {
            let at = start + Duration::from_secs(seconds);
            let stuck = watchdog.look(at, std::slice::from_ref(&standing), |_| excuse);
            stuck.first().map(|stuck| stuck.since.duration_since(start).as_secs())
        };
        assert_eq!((look(0, Excuse::Without), look(55, Excuse::Without)), (None, None));
        assert_eq!((look(60, Excuse::Pause), look(10_000, Excuse::Pause)), (None, None));
        assert_eq!(look(10_005, Excuse::Without), None, "it was resumed a moment ago");
        assert_eq!((look(10_059, Excuse::Without), look(10_060, Excuse::Without)), (None, Some(10_000)));
    }
}
