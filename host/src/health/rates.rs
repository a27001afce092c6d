//! How fast the host is, and how far behind in time.
//!
//! Guarantees: a partition that has nothing left to read is 0 seconds behind, also when nothing comes for hours; one that
//! was given up is forgotten, but not while Kafka is away: it may come back; what is remembered of a partition is bounded. Plain
//! values, no I/O.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use crate::health::watchdog::Standing;
use crate::record::TopicPartition;

/// Ends that are remembered of a partition: at a look every five seconds an hour, or more where it is often idle.
const REMEMBERED: usize = 720;

/// When each partition had which end: a host that is at a former end is as far behind as that end is old.
#[derive(Debug, Default)]
pub struct TimeLag(HashMap<TopicPartition, VecDeque<(Instant, u64)>>);

impl TimeLag {
    /// Takes the partitions as they stand now; answers with how far behind each one is that has a known end. `is_known`: these
    /// are all partitions that the group wants this host to have.
    pub fn look(&mut self, now: Instant, standings: &[Standing], is_known: bool) -> HashMap<TopicPartition, Duration> {
        let assigned: HashSet<&TopicPartition> = standings.iter().map(|standing| &standing.source).collect();
        self.0.retain(|source, _| !is_known || assigned.contains(source));
        let mut behind = HashMap::new();
        for Standing { source, position, end, .. } in standings {
            let Some(end) = end else { continue };
            let ends = self.0.entry(source.clone()).or_default();
            if ends.back().is_none_or(|(_, last)| last != end) {
                ends.push_back((now, *end));
            }
            // What lies before the position was read.
            while ends.front().is_some_and(|(_, end)| end <= position) {
                ends.pop_front();
            }
            if ends.len() > REMEMBERED {
                // The oldest stays: it says since when the host is behind at least.
                ends.remove(1);
            }
            let lag = ends.front().map_or(Duration::ZERO, |(since, _)| now.duration_since(*since));
            behind.insert(source.clone(), lag);
        }
        behind
    }
}

/// What the host has done at one moment, counted from its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Records that were written, or found in the store; dead letters aren't among them.
    pub records: u64,
    /// How many of them were found.
    pub found: u64,
    /// How many of them were dead letters before, which a replay sent again.
    pub replayed: u64,
    /// Their bytes, of those that were written.
    pub bytes: u64,
    /// Records that became dead letters.
    pub dead_letters: u64,
}

/// What was done over the last minute.
#[derive(Debug, Default)]
pub struct LastMinute(VecDeque<(Instant, Totals)>);

/// The difference over a time.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RateDelta {
    /// In this time.
    pub seconds: f64,
    /// See [`Totals`].
    pub totals: Totals,
}

impl LastMinute {
    /// Takes the present totals; answers with what was done within the last minute.
    pub fn look(&mut self, now: Instant, totals: Totals) -> RateDelta {
        const MINUTE: Duration = Duration::from_secs(60);
        self.0.push_back((now, totals));
        while self.0.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= MINUTE) {
            self.0.pop_front();
        }
        self.0.front().map_or_else(RateDelta::default, |(since, before)| RateDelta::of(*before, totals, now - *since))
    }

    /// What was done within the last quarter of it, so that a change shows soon.
    pub fn recent(&self) -> RateDelta {
        const QUARTER: Duration = Duration::from_secs(15);
        let Some((now, totals)) = self.0.back() else { return RateDelta::default() };
        let before = self.0.iter().rev().find(|(at, _)| now.duration_since(*at) >= QUARTER).or(self.0.front());
        before.map_or_else(RateDelta::default, |(since, before)| RateDelta::of(*before, *totals, *now - *since))
    }
}

impl RateDelta {
    fn of(before: Totals, now: Totals, passed: Duration) -> Self {
        Self {
            seconds: passed.as_secs_f64(),
            totals: Totals {
                records: now.records.saturating_sub(before.records),
                found: now.found.saturating_sub(before.found),
                replayed: now.replayed.saturating_sub(before.replayed),
                bytes: now.bytes.saturating_sub(before.bytes),
                dead_letters: now.dead_letters.saturating_sub(before.dead_letters),
            },
        }
    }

    /// Whether all that came from Kafka for a while ended in the dead letters, or all but one in twenty. What a replay writes meanwhile
    /// says nothing about the records that come.
    pub fn is_all_dead_letters(&self) -> bool {
        const ENOUGH: u64 = 20;
        let Totals { records, replayed, dead_letters, .. } = self.totals;
        dead_letters >= ENOUGH && records.saturating_sub(replayed) <= dead_letters / 20
    }

    /// The same as [`Self::per_second`]; `None`: there was one look so far.
    pub fn rate(&self, number: u64) -> Option<f64> {
        (self.seconds > 0.0).then(|| self.per_second(number))
    }

    /// A number of things a second.
    pub fn per_second(&self, number: u64) -> f64 {
        if self.seconds > 0.0 { number as f64 / self.seconds } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_now_is_not_hidden_by_what_went_well_before() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let totals = |records, dead_letters| Totals { records, dead_letters, ..Totals::default() };
        let mut minute = LastMinute::default();
        for seconds in 0..6 {
            minute.look(at(seconds * 5), totals(seconds * 500, 0));
        }
        assert!(!minute.recent().is_all_dead_letters());
        for more in 1..=3 {
            let told = minute.look(at(25 + more * 5), totals(2500, more * 100));
            assert!(!told.is_all_dead_letters(), "most of the minute went well");
        }
        assert!(minute.recent().is_all_dead_letters());
        assert_eq!((minute.recent().seconds, minute.recent().totals.dead_letters), (15.0, 300));
    }

    #[test]
    fn one_record_in_twenty_that_is_written_hides_nothing() {
        let start = Instant::now();
        let mut minute = LastMinute::default();
        let mut look = |seconds, records, dead_letters| {
            let done = minute
                .look(start + Duration::from_secs(seconds), Totals { records, dead_letters, ..Totals::default() });
            done.is_all_dead_letters()
        };
        look(0, 90, 100);
        assert!(look(15, 105, 400));
        assert!(!look(16, 106, 400), "more than one in twenty was written");
    }

    #[test]
    fn what_a_replay_writes_hides_nothing() {
        let start = Instant::now();
        let mut minute = LastMinute::default();
        let replayed = Totals { records: 3000, replayed: 3000, dead_letters: 400, ..Totals::default() };
        minute.look(start, Totals::default());
        assert!(minute.look(start + Duration::from_secs(15), replayed).is_all_dead_letters());
        let live = Totals { records: 6000, replayed: 5000, dead_letters: 800, ..Totals::default() };
        assert!(!minute.look(start + Duration::from_secs(30), live).is_all_dead_letters(), "live records are written");
    }

    fn standing(position: u64, end: u64) -> Standing {
        let source = TopicPartition { topic: "t".into(), partition: 0 };
        Standing { source, position, in_flight: 0, begin: None, end: Some(end) }
    }

    #[test]
    fn a_host_is_as_far_behind_as_the_first_end_that_it_has_not_reached_is_old() {
        let mut lag = TimeLag::default();
        let start = Instant::now();
        let mut look = |seconds, position, end| {
            let behind = lag.look(start + Duration::from_secs(seconds), &[standing(position, end)], true);
            behind.into_values().next().unwrap().as_secs()
        };
        assert_eq!(look(0, 10, 10), 0);
        assert_eq!(look(7200, 10, 10), 0, "idle is not behind");
        assert_eq!(look(7205, 10, 30), 0, "just come");
        assert_eq!(look(7215, 10, 50), 10);
        assert_eq!(look(7220, 30, 60), 5, "at the end of 7205, and 50 was there at 7215");
        assert_eq!(look(7225, 60, 60), 0);
        assert!(lag.look(start + Duration::from_secs(7230), &[], false).is_empty());
        assert_eq!(lag.0.len(), 1, "Kafka is away, and the partition may come back");
        assert!(lag.look(start + Duration::from_secs(7235), &[], true).is_empty());
        assert!(lag.0.is_empty(), "given up, forgotten");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut lag = TimeLag::default();
        let start = Instant::now();
        for second in 0..5000 {
            let behind = lag.look(start + Duration::from_secs(second), &[standing(0, second + 1)], true);
            assert_eq!(behind.into_values().next().unwrap().as_secs(), second);
        }
        assert!(lag.0.values().all(|ends| ends.len() <= REMEMBERED));
    }

    #[test]
    fn the_last_minute_forgets_what_was_before() {
        let mut minute = LastMinute::default();
        let start = Instant::now();
        let totals = |records, dead_letters| Totals { records, bytes: records * 10, dead_letters, ..Totals::default() };
        assert_eq!(minute.look(start, totals(0, 0)).rate(0), None, "one look tells no rate");
        assert_eq!(minute.look(start + Duration::from_secs(10), totals(100, 0)).per_second(100), 10.0);
        for second in 11..200 {
            minute.look(start + Duration::from_secs(second), totals(100, 0));
        }
        let done = minute.look(start + Duration::from_secs(200), totals(100, 0));
        assert_eq!((done.totals.records, done.seconds), (0, 60.0));
        assert!(!done.is_all_dead_letters());
        assert!(minute.look(start + Duration::from_secs(201), totals(100, 50)).is_all_dead_letters());
        assert!(!minute.look(start + Duration::from_secs(202), totals(900, 60)).is_all_dead_letters());
    }
}
