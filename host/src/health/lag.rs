//! How far the host is behind over all its partitions, and what the log says of that.
//!
//! Guarantees: what isn't known now is told as unknown, with the last figures that were known and their age, and never as 0; the
//! log has one line when the host is behind and doesn't catch up, one a minute while it is behind, and one when it has caught up, which
//! isn't said before it has kept up for two looks. Plain values, no I/O.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use super::watchdog::Standing;
use crate::record::TopicPartition;

/// A host that is less far behind keeps up.
pub const BEHIND: Duration = Duration::from_secs(10);
/// A host that was behind has caught up when it is less far behind than this: well below [`BEHIND`], so that it isn't said twice a minute.
const CAUGHT_UP: Duration = Duration::from_secs(3);
/// Over how long it is seen whether the lag shrinks.
const TREND: Duration = Duration::from_secs(15);
/// A lag that shrinks more slowly isn't being caught up with.
const TO_GO_MOST: Duration = Duration::from_secs(24 * 60 * 60);
/// How often the log says that the host still is behind.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// How far something was behind at a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownLag {
    /// Offsets between position and end.
    pub records: u64,
    /// How old the first record is that waits.
    pub behind: Duration,
    /// When it was seen.
    pub at: Instant,
}

/// How far the host is behind over all its partitions.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct TotalLag {
    /// What is known now; `None`: Kafka doesn't tell, or the group hasn't given partitions yet.
    pub now: Option<KnownLag>,
    /// What was known last.
    pub last: Option<KnownLag>,
}

/// Remembers what was known last.
#[derive(Debug, Default)]
pub struct LagMemory {
    total: Option<KnownLag>,
    partitions: HashMap<TopicPartition, KnownLag>,
}

impl LagMemory {
    /// Takes a look. `behind`: of each partition with a known end. `is_known`: Kafka answers, and the assignment is the group's last word.
    pub fn look(
        &mut self,
        at: Instant,
        standings: &[Standing],
        behind: &HashMap<TopicPartition, Duration>,
        is_known: bool,
    ) -> TotalLag {
        let assigned: HashSet<&TopicPartition> = standings.iter().map(|standing| &standing.source).collect();
        self.partitions.retain(|source, _| assigned.contains(source));
        for standing in standings {
            if let (Some(records), Some(behind)) = (standing.lag(), behind.get(&standing.source)) {
                self.partitions.insert(standing.source.clone(), KnownLag { records, behind: *behind, at });
            }
        }
        let records: Option<u64> = standings.iter().map(Standing::lag).sum();
        let worst = behind.values().max().copied().unwrap_or_default();
        let now = records.filter(|_| is_known).map(|records| KnownLag { records, behind: worst, at });
        self.total = now.or(self.total);
        TotalLag { now, last: self.total }
    }

    /// What was known last of an assigned partition.
    pub fn last_of(&self, source: &TopicPartition) -> Option<KnownLag> {
        self.partitions.get(source).copied()
    }
}

/// Tells a lag that shrinks from one that grows.
#[derive(Debug, Default)]
pub struct LagTrend(VecDeque<(Instant, u64)>);

impl LagTrend {
    /// Takes a look. While the lag shrinks, answers with the time until nothing is left of it at this pace.
    pub fn look(&mut self, lag: Option<KnownLag>) -> Option<Duration> {
        let Some(KnownLag { records, at, .. }) = lag else {
            self.0.clear();
            return None;
        };
        self.0.push_back((at, records));
        while self.0.get(1).is_some_and(|(since, _)| at.saturating_duration_since(*since) >= TREND) {
            self.0.pop_front();
        }
        let (since, before) = self.0.front()?;
        let fell = before.checked_sub(records).filter(|fell| *fell > 0)?;
        let seconds = at.saturating_duration_since(*since).as_secs_f64() * records as f64 / fell as f64;
        Duration::try_from_secs_f64(seconds).ok().filter(|to_go| *to_go < TO_GO_MOST)
    }
}

/// What the log should say of the lag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LagNews {
    /// The host is further behind than [`BEHIND`], and doesn't catch up.
    Behind,
    /// The host still is behind.
    Still,
    /// The host has caught up: how long it was behind, and how far at most.
    Over {
        /// From the first line on.
        after: Duration,
        /// The furthest.
        most: Duration,
    },
}

/// Decides when the log says something of the lag.
#[derive(Debug, Default)]
pub struct LagWatch {
    before: Duration,
    told: Option<Told>,
}

#[derive(Debug)]
struct Told {
    since: Instant,
    said: Instant,
    most: Duration,
    /// The last look was below [`CAUGHT_UP`].
    is_near: bool,
}

impl LagWatch {
    /// Takes how far the host is behind now. `is_explained`: by a problem that is known, or because somebody paused it.
    pub fn look(&mut self, lag: Option<KnownLag>, is_explained: bool) -> Option<LagNews> {
        let KnownLag { behind, at: now, .. } = lag?;
        let grows = behind >= std::mem::replace(&mut self.before, behind);
        match &mut self.told {
            None if behind > BEHIND && grows && !is_explained => {
                self.told = Some(Told { since: now, said: now, most: behind, is_near: false });
                Some(LagNews::Behind)
            }
            None => None,
            Some(told) if behind >= CAUGHT_UP || !told.is_near => {
                told.is_near = behind < CAUGHT_UP;
                told.most = told.most.max(behind);
                let is_time = behind > BEHIND && now.duration_since(told.said) >= SAY_EVERY && !is_explained;
                is_time.then(|| {
                    told.said = now;
                    LagNews::Still
                })
            }
            Some(Told { since, most, .. }) => {
                let news = LagNews::Over { after: now.duration_since(*since), most: *most };
                self.told = None;
                Some(news)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(partition: u32, position: u64, end: Option<u64>) -> Standing {
        let source = TopicPartition { topic: "t".into(), partition };
        Standing { source, position, in_flight: 0, begin: None, end }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn what_is_unknown_is_not_zero_and_what_was_known_last_has_its_age() {
        let (mut memory, start) = (LagMemory::default(), Instant::now());
        let behind = |of: &[(u32, u64)]| {
            let one = |(partition, s): &(u32, u64)| (standing(*partition, 0, None).source, seconds(*s));
            of.iter().map(one).collect::<HashMap<_, _>>()
        };
        assert_eq!(memory.look(start, &[], &behind(&[]), false), TotalLag::default(), "before the first assignment");
        let two = [standing(0, 5, Some(9)), standing(1, 0, Some(3))];
        let known = KnownLag { records: 7, behind: seconds(4), at: start };
        assert_eq!(memory.look(start, &two, &behind(&[(0, 4), (1, 2)]), true).now, Some(known));
        // One end is unknown.
        let later = start + seconds(5);
        let total = memory.look(later, &[standing(0, 5, Some(9)), standing(1, 0, None)], &behind(&[(0, 9)]), true);
        assert_eq!(total, TotalLag { now: None, last: Some(known) });
        assert_eq!(memory.last_of(&two[1].source).map(|last| (last.records, last.at)), Some((3, start)));
        // The partitions were lost with the connection to Kafka.
        let total = memory.look(later, &[], &behind(&[]), false);
        assert_eq!(total, TotalLag { now: None, last: Some(known) });
        // The group gives this host none.
        let total = memory.look(later, &[], &behind(&[]), true);
        assert_eq!(total.now, Some(KnownLag { records: 0, behind: Duration::ZERO, at: later }));
    }

    #[test]
    fn a_host_that_is_behind_is_told_at_its_beginning_each_minute_and_at_its_end() {
        let (mut watch, start) = (LagWatch::default(), Instant::now());
        let mut look = |at: u64, behind: u64, is_explained| {
            let lag = KnownLag { records: 1, behind: seconds(behind), at: start + seconds(at) };
            watch.look(Some(lag), is_explained)
        };
        assert_eq!(look(0, 10, false), None);
        assert_eq!(look(5, 15, true), None, "the problem is told already");
        assert_eq!(look(10, 12, false), None, "catching up after a problem");
        assert_eq!(look(15, 16, false), Some(LagNews::Behind));
        assert_eq!(look(20, 90, false), None);
        assert_eq!(look(75, 40, false), Some(LagNews::Still));
        assert_eq!(look(80, 10, false), None);
        assert_eq!((look(85, 0, false), look(90, 2, false)), (None, Some(over(75, 90))));
        assert_eq!(look(95, 0, false), None);
        assert_eq!(watch.look(None, false), None, "unknown");
    }

    fn over(after: u64, most: u64) -> LagNews {
        LagNews::Over { after: seconds(after), most: seconds(most) }
    }

    #[test]
    fn a_lag_around_the_bound_is_told_once_and_not_by_turns() {
        let (mut watch, start) = (LagWatch::default(), Instant::now());
        let mut look = |at: u64, behind: u64| {
            let lag = KnownLag { records: 1, behind: seconds(behind), at: start + seconds(at) };
            watch.look(Some(lag), false)
        };
        assert_eq!((look(0, 8), look(5, 12)), (None, Some(LagNews::Behind)));
        for round in 1..5 {
            let told = (look(round * 10, 5), look(round * 10 + 5, 11));
            assert_eq!(told, (None, None), "round {round}");
        }
        assert_eq!((look(55, 2), look(58, 4), look(59, 1)), (None, None, None), "near the end, but not yet there");
        assert_eq!(look(64, 0), Some(over(59, 12)));
    }

    #[test]
    fn a_lag_that_shrinks_has_a_time_to_go() {
        let (mut trend, start) = (LagTrend::default(), Instant::now());
        let mut look =
            |at: u64, records| trend.look(Some(KnownLag { records, behind: seconds(60), at: start + seconds(at) }));
        assert_eq!((look(0, 4000), look(5, 5000)), (None, None), "it grows");
        assert_eq!(look(10, 6000), None);
        assert_eq!(look(15, 5000), None, "more than a quarter of a minute before");
        assert_eq!(look(20, 4000), Some(seconds(60)), "1000 less than 15 s before");
        assert_eq!(look(25, 3000), Some(seconds(15)));
        assert_eq!(look(30, 0), Some(Duration::ZERO));
        assert_eq!(trend.look(None), None, "unknown");
    }

    #[test]
    fn a_lag_that_shrinks_by_next_to_nothing_is_not_being_caught_up_with() {
        let (mut trend, start) = (LagTrend::default(), Instant::now());
        let look = |at: u64, records| KnownLag { records, behind: seconds(60), at: start + seconds(at) };
        assert_eq!(trend.look(Some(look(0, 1_000_000))), None);
        assert_eq!(trend.look(Some(look(15, 999_999))), None);
    }
}
