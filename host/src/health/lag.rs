//! How far the host is behind over all its partitions, and what the log says of that.
//!
//! Guarantees: what isn't known now is told as unknown, with the last figures that were known and their age, and never as 0; the
//! log has one line when the lag begins to grow, one a minute while the host is behind, and one when it has caught up. Plain
//! values, no I/O.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::watchdog::Standing;
use crate::record::TopicPartition;

/// A host that is less far behind keeps up.
pub const BEHIND: Duration = Duration::from_secs(10);
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
        self.partitions.retain(|source, _| standings.iter().any(|standing| standing.source == *source));
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

/// What the log should say of the lag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LagNews {
    /// It grows and is beyond [`BEHIND`].
    Grows,
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
}

impl LagWatch {
    /// Takes how far the host is behind now. `is_explained`: by a problem that is known, or because somebody paused it.
    pub fn look(&mut self, lag: Option<KnownLag>, is_explained: bool) -> Option<LagNews> {
        let KnownLag { behind, at: now, .. } = lag?;
        let grows = behind >= std::mem::replace(&mut self.before, behind);
        match &mut self.told {
            None if behind > BEHIND && grows && !is_explained => {
                self.told = Some(Told { since: now, said: now, most: behind });
                Some(LagNews::Grows)
            }
            None => None,
            Some(told) if behind > BEHIND => {
                told.most = told.most.max(behind);
                let is_time = now.duration_since(told.said) >= SAY_EVERY && !is_explained;
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
    fn growing_lag_is_told_at_its_beginning_each_minute_and_at_its_end() {
        let (mut watch, start) = (LagWatch::default(), Instant::now());
        let mut look = |at: u64, behind: u64, is_explained| {
            let lag = KnownLag { records: 1, behind: seconds(behind), at: start + seconds(at) };
            watch.look(Some(lag), is_explained)
        };
        assert_eq!(look(0, 10, false), None);
        assert_eq!(look(5, 15, true), None, "the problem is told already");
        assert_eq!(look(10, 12, false), None, "catching up after a problem");
        assert_eq!(look(15, 16, false), Some(LagNews::Grows));
        assert_eq!(look(20, 90, false), None);
        assert_eq!(look(75, 40, false), Some(LagNews::Still));
        assert_eq!(look(80, 10, false), Some(LagNews::Over { after: seconds(65), most: seconds(90) }));
        assert_eq!(look(85, 0, false), None);
        assert_eq!(watch.look(None, false), None, "unknown");
    }
}
