//! What a look at the host saw.
//!
//! Guarantees: what isn't known is absent; a look that is refreshed never shows a partition's end before a record that was read.
//! Plain values, no I/O.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::lag::{KnownLag, TotalLag};
use super::problems::HealthProblem;
use super::rates::RateDelta;
use super::watchdog::Standing;
use crate::record::TopicPartition;

/// The last look at the host.
#[derive(Debug, Default, Clone)]
pub struct Look {
    /// When it was; `None`: there was none yet.
    pub at: Option<Instant>,
    /// Each assigned partition, sorted.
    pub partitions: Vec<PartitionView>,
    /// What is wrong.
    pub problems: Vec<HealthProblem>,
    /// What was done within the last minute.
    pub last_minute: RateDelta,
    /// How far all partitions together are behind.
    pub lag: TotalLag,
    /// While the lag shrinks: in how long it is gone at this pace.
    pub to_go: Option<Duration>,
    /// The host waits for the group to give out its partitions: for how long, how long that can take, and why.
    pub waits_for_group: Option<String>,
}

impl Look {
    /// Takes where each partition stands now. What is in flight was read, so it lies before the end, also if that was asked for a
    /// while ago.
    pub fn refresh(&mut self, standings: &[(TopicPartition, u64, usize)]) {
        let now: HashMap<&TopicPartition, (u64, usize)> =
            standings.iter().map(|(source, position, in_flight)| (source, (*position, *in_flight))).collect();
        for seen in &mut self.partitions {
            let Some((position, in_flight)) = now.get(&seen.standing.source).copied() else { continue };
            (seen.standing.position, seen.standing.in_flight) = (position, in_flight);
            let read = position.saturating_add(in_flight as u64);
            seen.standing.end = seen.standing.end.map(|end| end.max(read));
        }
        let records: Option<u64> = self.partitions.iter().map(|seen| seen.standing.lag()).sum();
        if let (Some(now), Some(records)) = (&mut self.lag.now, records) {
            now.records = records;
        }
    }
}

/// A partition as the last look saw it.
#[derive(Debug, Clone)]
pub struct PartitionView {
    /// Where it stands.
    pub standing: Standing,
    /// How old the first record is that waits; `None` where the end isn't known.
    pub behind: Option<Duration>,
    /// What was known last of how far it is behind.
    pub last_known: Option<KnownLag>,
    /// It has work and doesn't move.
    pub stuck: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_flight_lies_behind_though_the_end_was_asked_for_before() {
        let of = |partition| TopicPartition { topic: "t".into(), partition };
        let view = |partition, position, end| PartitionView {
            standing: Standing { source: of(partition), position, in_flight: 0, begin: Some(0), end },
            behind: None,
            last_known: None,
            stuck: false,
        };
        let now = KnownLag { records: 0, behind: Duration::ZERO, at: Instant::now() };
        let lag = TotalLag { now: Some(now), last: None };
        let partitions = vec![view(0, 9, Some(9)), view(1, 4, Some(9)), view(2, 3, Some(9))];
        let mut look = Look { partitions, lag, ..Look::default() };
        // The third was given up since.
        look.refresh(&[(of(0), 20, 746), (of(1), 6, 2)]);
        let told: Vec<_> = look.partitions.iter().map(|seen| (seen.standing.in_flight, seen.standing.lag())).collect();
        assert_eq!(told, [(746, Some(746)), (2, Some(3)), (0, Some(6))]);
        assert_eq!(look.lag.now.map(|now| now.records), Some(755));
        // What isn't known stays unknown.
        let mut look = Look { partitions: vec![view(0, 9, None)], ..Look::default() };
        look.refresh(&[(of(0), 20, 746)]);
        assert_eq!((look.partitions[0].standing.lag(), look.lag), (None, TotalLag::default()));
    }
}
