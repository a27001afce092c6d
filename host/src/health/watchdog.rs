//! Tells partitions that move from those that don't.
//!
//! Guarantees: a partition that has something to do (records in flight, or offsets before its end) and whose position
//! didn't move for the configured time is stuck; it stays so until it moves or has nothing to do. Plain values, no I/O.

use std::collections::HashMap;
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
    moved: HashMap<TopicPartition, (u64, Instant)>,
}

impl Watchdog {
    /// A watchdog that reports a partition after this long without progress.
    pub fn new(stuck_after: Duration) -> Self {
        Self { stuck_after, moved: HashMap::new() }
    }

    /// Looks at all partitions that are assigned now; answers with those that are stuck.
    pub fn look(&mut self, now: Instant, standings: &[Standing]) -> Vec<Stuck> {
        self.moved.retain(|source, _| standings.iter().any(|standing| standing.source == *source));
        let mut stuck = Vec::new();
        for standing in standings {
            let moved = self.moved.entry(standing.source.clone()).or_insert((standing.position, now));
            if moved.0 != standing.position || !standing.has_work() {
                *moved = (standing.position, now);
            } else if now.duration_since(moved.1) >= self.stuck_after {
                stuck.push(Stuck { standing: standing.clone(), since: moved.1 });
            }
        }
        stuck
    }

    /// For how long a partition hasn't moved though it has work.
    pub fn still_for(&self, now: Instant, source: &TopicPartition) -> Duration {
        self.moved.get(source).map_or(Duration::ZERO, |(_, since)| now.duration_since(*since))
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
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(watchdog.look(at(0), &[standing(5, 0, 5)]).is_empty());
        assert!(watchdog.look(at(100), &[standing(5, 0, 5)]).is_empty(), "nothing to do isn't stuck");
        assert!(watchdog.look(at(110), &[standing(5, 3, 9)]).is_empty());
        assert_eq!(watchdog.look(at(161), &[standing(5, 3, 9)]).len(), 1);
        assert!(watchdog.look(at(170), &[standing(6, 2, 9)]).is_empty(), "it moved");
        assert!(watchdog.look(at(300), &[]).is_empty());
        assert!(watchdog.look(at(301), &[standing(6, 2, 9)]).is_empty(), "a new assignment starts from zero");
    }
}
