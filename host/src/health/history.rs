//! Rates and lag over the last minutes, so that the page shows lines as soon as it is opened.
//!
//! Guarantees: memory is bounded by [`POINTS`] and [`PARTITIONS`]; a partition that was given up is gone with the next look, but
//! while Kafka is away its line only has a gap.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::SystemTime;

use serde::Serialize;

use super::rates::Totals;
use super::watchdog::Standing;
use crate::record::TopicPartition;

/// At a look every five seconds, a quarter of an hour.
const POINTS: usize = 180;
/// Of more partitions only the first ones have lines.
const PARTITIONS: usize = 256;

/// What was seen at each look.
#[derive(Debug, Clone, Default)]
pub struct History {
    at_ms: VecDeque<u64>,
    records_per_s: VecDeque<Option<f64>>,
    lags: HashMap<TopicPartition, VecDeque<Option<u64>>>,
    last: Option<(u64, u64)>,
}

/// The same for the page; each list has one value for each time.
#[derive(Debug, Default, Serialize)]
pub struct HistoryShown {
    at_ms: Vec<u64>,
    /// `null` at the first look, which has none before it.
    records_per_s: Vec<Option<f64>>,
    partitions: Vec<PartitionLine>,
}

#[derive(Debug, Serialize)]
struct PartitionLine {
    topic: String,
    partition: u32,
    /// `null` where it was unknown, or the partition not assigned.
    lag: Vec<Option<u64>>,
}

impl History {
    /// Takes a look. `is_known`: these are all partitions that the group wants this host to have.
    pub fn look(&mut self, standings: &[Standing], totals: Totals, is_known: bool) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.take(u64::try_from(now.as_millis()).unwrap_or(u64::MAX), standings, totals, is_known);
    }

    fn take(&mut self, now_ms: u64, standings: &[Standing], totals: Totals, is_known: bool) {
        let rate = self.last.and_then(|(before_ms, before)| {
            let seconds = now_ms.saturating_sub(before_ms) as f64 / 1000.0;
            (seconds > 0.0).then(|| totals.records.saturating_sub(before) as f64 / seconds)
        });
        self.last = Some((now_ms, totals.records));
        self.at_ms.push_back(now_ms);
        self.records_per_s.push_back(rate);
        let assigned: HashSet<&TopicPartition> = standings.iter().map(|standing| &standing.source).collect();
        self.lags.retain(|source, _| !is_known || assigned.contains(source));
        self.lags
            .iter_mut()
            .filter(|(source, _)| !assigned.contains(source))
            .for_each(|(_, line)| line.push_back(None));
        for standing in standings {
            if self.lags.len() >= PARTITIONS && !self.lags.contains_key(&standing.source) {
                continue;
            }
            let seen = self.at_ms.len().saturating_sub(1);
            let line = self.lags.entry(standing.source.clone()).or_insert_with(|| vec![None; seen].into());
            line.push_back(standing.lag());
        }
        if self.at_ms.len() > POINTS {
            self.at_ms.pop_front();
            self.records_per_s.pop_front();
            for line in self.lags.values_mut() {
                line.pop_front();
            }
        }
    }

    /// The rate of the last look; `None`: it isn't known yet.
    pub fn records_per_s(&self) -> Option<f64> {
        self.records_per_s.back().copied().flatten()
    }

    /// For the page.
    pub fn shown(&self) -> HistoryShown {
        let mut partitions: Vec<PartitionLine> = self
            .lags
            .iter()
            .map(|(source, lag)| PartitionLine {
                topic: source.topic.to_string(),
                partition: source.partition,
                lag: lag.iter().copied().collect(),
            })
            .collect();
        partitions.sort_by(|one, other| (&one.topic, one.partition).cmp(&(&other.topic, other.partition)));
        HistoryShown {
            at_ms: self.at_ms.iter().copied().collect(),
            records_per_s: self.records_per_s.iter().copied().collect(),
            partitions,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(partition: u32, position: u64, end: u64) -> Standing {
        let source = TopicPartition { topic: "t".into(), partition };
        Standing { source, position, in_flight: 0, begin: Some(0), end: Some(end) }
    }

    #[test]
    fn each_line_has_a_value_for_each_time_and_all_are_bounded() {
        let mut history = History::default();
        let totals = |records| Totals { records, ..Totals::default() };
        history.take(0, &[standing(0, 1, 5)], totals(0), true);
        history.take(5_000, &[standing(0, 5, 5), standing(1, 0, 7)], totals(50), true);
        let shown = history.shown();
        assert_eq!((shown.at_ms, shown.records_per_s), (vec![0, 5_000], vec![None, Some(10.0)]));
        let lines: Vec<_> = shown.partitions.iter().map(|line| (line.partition, line.lag.clone())).collect();
        assert_eq!(lines, [(0, vec![Some(4), Some(0)]), (1, vec![None, Some(7)])]);
        history.take(10_000, &[], totals(50), false);
        let lines: Vec<_> = history.shown().partitions.into_iter().map(|line| (line.partition, line.lag)).collect();
        assert_eq!(lines, [(0, vec![Some(4), Some(0), None]), (1, vec![None, Some(7), None])], "Kafka is away");
        for second in 3..1000 {
            history.take(second * 5_000, &[standing(1, 0, 7)], totals(50), true);
        }
        let shown = history.shown();
        assert_eq!((shown.at_ms.len(), shown.partitions.len(), shown.partitions[0].lag.len()), (POINTS, 1, POINTS));
        let many: Vec<Standing> = (0..1000).map(|partition| standing(partition, 0, 0)).collect();
        history.take(9_000_000, &many, totals(50), true);
        assert_eq!(history.shown().partitions.len(), PARTITIONS);
    }
}
