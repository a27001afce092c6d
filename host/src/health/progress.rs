//! Looks after the running host: how far each partition is, whether all goes well, and whether what is left at the ends of
//! idle partitions holds any records. Writes the log's line of each minute.
//!
//! Guarantees: it only looks and reports; the one thing it asks for is that an idle partition with an unread tail is read
//! again from its position, which can lose nothing. A look comes every few seconds, whether Kafka answers or not.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::info;

use super::problems::{HealthProblem, Tracker};
use super::rates::{LastMinute, RateDelta, TimeLag, Totals};
use super::watchdog::{Standing, Watchdog};
use crate::kafka::observer::{Finding, Observer};
use crate::record::TopicPartition;

/// How often the host is looked at. Each look asks the brokers a handful of questions.
const EVERY: Duration = Duration::from_secs(5);
/// A partition that is idle for this long before its end is read again there.
const PROBE_AFTER: Duration = Duration::from_secs(8);
/// How often the log says what was done.
const SAY_EVERY: Duration = Duration::from_secs(60);
/// How long a host may be without a partition before that is worth a word: joining a group takes a while.
const JOINED_WITHIN: Duration = Duration::from_secs(20);

/// The host that is looked after.
pub trait Supervised: Send + Sync + 'static {
    /// Position and records in flight of each partition that is assigned now.
    fn standings(&self) -> Vec<(TopicPartition, u64, usize)>;
    /// To read a partition's tail again from its position.
    fn probe(&self, source: &TopicPartition, end: u64);
    /// Whether the host has ended.
    fn ended(&self) -> bool;
    /// What was done so far.
    fn totals(&self) -> Totals;
    /// Records and bytes in flight.
    fn in_flight(&self) -> (usize, usize);
    /// Whether nothing is read of it for now, because somebody wants so.
    fn is_paused(&self, source: &TopicPartition) -> bool;
    /// Takes the look into the lines of the last minutes.
    fn remember(&self, standings: &[Standing], totals: Totals);
    /// What the host itself knows to be wrong.
    fn findings(&self) -> Vec<Finding>;
}

/// The last look at the host.
#[derive(Debug, Default, Clone)]
pub struct Look {
    /// Each assigned partition, sorted.
    pub partitions: Vec<PartitionView>,
    /// What is wrong.
    pub problems: Vec<HealthProblem>,
    /// What was done within the last minute.
    pub last_minute: RateDelta,
}

/// A partition as the last look saw it.
#[derive(Debug, Clone)]
pub struct PartitionView {
    /// Where it stands.
    pub standing: Standing,
    /// How old the first record is that waits; `None` where the end isn't known.
    pub behind: Option<Duration>,
    /// It has work and doesn't move.
    pub stuck: bool,
}

/// Looks until the host has ended.
pub fn supervise(
    host: Arc<dyn Supervised>,
    mut observer: Option<Observer>,
    stuck_after: Duration,
    last: Arc<Mutex<Look>>,
) {
    let mut supervisor = Supervisor::new(stuck_after);
    let mut next = Instant::now();
    while !host.ended() {
        std::thread::sleep(Duration::from_millis(200));
        if Instant::now() < next {
            continue;
        }
        let look = supervisor.look(&*host, observer.as_mut());
        *last.lock().unwrap_or_else(PoisonError::into_inner) = look;
        next = Instant::now() + EVERY;
    }
}

struct Supervisor {
    watchdog: Watchdog,
    time_lag: TimeLag,
    last_minute: LastMinute,
    tracker: Tracker,
    said: Instant,
    /// Since when no partition is assigned.
    without: Option<Instant>,
    started: Instant,
}

impl Supervisor {
    fn new(stuck_after: Duration) -> Self {
        Self {
            watchdog: Watchdog::new(stuck_after),
            time_lag: TimeLag::default(),
            last_minute: LastMinute::default(),
            tracker: Tracker::default(),
            said: Instant::now(),
            without: None,
            started: Instant::now(),
        }
    }

    fn look(&mut self, host: &dyn Supervised, observer: Option<&mut Observer>) -> Look {
        let mut positions = host.standings();
        positions.sort();
        let sources: Vec<TopicPartition> = positions.iter().map(|(source, _, _)| source.clone()).collect();
        let seen = observer.map(|observer| observer.look(&sources)).unwrap_or_default();
        let standings: Vec<Standing> = positions
            .into_iter()
            .map(|(source, position, in_flight)| {
                let bounds = seen.bounds.get(&source);
                let (begin, end) = (bounds.map(|(begin, _)| *begin), bounds.map(|(_, end)| *end));
                Standing { source, position, in_flight, begin, end }
            })
            .collect();
        let now = Instant::now();
        let totals = host.totals();
        host.remember(&standings, totals);
        // What is paused is neither stuck, nor is its tail looked at.
        let awake: Vec<Standing> =
            standings.iter().filter(|standing| !host.is_paused(&standing.source)).cloned().collect();
        let stuck = self.watchdog.look(now, &awake);
        let behind = self.time_lag.look(now, &standings);
        let done = self.last_minute.look(now, totals);
        for standing in awake.iter().filter(|standing| standing.in_flight == 0) {
            if let Some(end) = standing.end.filter(|end| *end > standing.position)
                && self.watchdog.still_for(now, &standing.source) >= PROBE_AFTER
            {
                host.probe(&standing.source, end);
            }
        }
        let mut findings = seen.findings;
        findings.extend(host.findings());
        findings.extend(stuck.iter().map(|stuck| {
            let Standing { source, position, .. } = &stuck.standing;
            Finding { code: "partition.stuck", message: format!("{source} does not move on from offset {position}") }
        }));
        let recent = self.last_minute.recent();
        if let Some(bad) = [done, recent].into_iter().find(RateDelta::is_all_dead_letters) {
            let message = format!(
                "all or almost all of the last {} records became dead letters; `reduct-sink status`, the page and their label sink.reason say \
                 why; correct the plugin or its configuration, then `reduct-sink replay --running --write` writes them",
                bad.totals.dead_letters
            );
            findings.push(Finding { code: "dead-letters.all", message });
        }
        findings.extend(self.without_partitions(now, standings.is_empty(), findings.is_empty()));
        let problems = self.tracker.look(now, findings);
        let partitions = standings
            .into_iter()
            .map(|standing| PartitionView {
                behind: behind.get(&standing.source).copied(),
                stuck: stuck.iter().any(|stuck| stuck.standing.source == standing.source),
                standing,
            })
            .collect();
        let look = Look { partitions, problems, last_minute: done };
        self.say(now, host, &look);
        look
    }

    /// Being without a partition is fine where the group has more members than partitions, so it is only said.
    fn without_partitions(&mut self, now: Instant, is_without: bool, is_well: bool) -> Option<Finding> {
        if !is_without {
            self.without = None;
            return None;
        }
        let since = *self.without.get_or_insert(now);
        let is_long = now.duration_since(since.max(self.started)) >= JOINED_WITHIN;
        if is_long && is_well && now.duration_since(self.said) >= SAY_EVERY {
            info!(
                "no partition is assigned to this host; the group may have more members than the topics have partitions"
            );
        }
        None
    }

    /// Says what was done within the last minute, also when that is nothing.
    fn say(&mut self, now: Instant, host: &dyn Supervised, look: &Look) {
        if now.duration_since(self.said) < SAY_EVERY {
            return;
        }
        self.said = now;
        let RateDelta { totals, seconds } = look.last_minute;
        let (in_flight, _) = host.in_flight();
        let lags = look.partitions.iter().map(|seen| seen.standing.lag());
        let lag: Option<u64> = lags.sum();
        let behind_s = look.partitions.iter().filter_map(|seen| seen.behind).max().unwrap_or_default().as_secs();
        info!(
            seconds = seconds.round() as u64,
            records = totals.records,
            bytes = totals.bytes,
            records_per_s = look.last_minute.per_second(totals.records).round() as u64,
            dead_letters = totals.dead_letters,
            // Absent while Kafka doesn't say where the partitions end.
            lag,
            behind_s,
            in_flight,
            partitions = look.partitions.len(),
            problems = look.problems.len(),
            "progress"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;
    use std::sync::atomic::Ordering::SeqCst;

    use super::*;

    #[derive(Default)]
    struct FakeHost {
        dead_letters: AtomicU64,
        partitions: Mutex<Vec<(TopicPartition, u64, usize)>>,
    }

    impl Supervised for FakeHost {
        fn standings(&self) -> Vec<(TopicPartition, u64, usize)> {
            self.partitions.lock().unwrap().clone()
        }
        fn probe(&self, _: &TopicPartition, _: u64) {}
        fn ended(&self) -> bool {
            false
        }
        fn totals(&self) -> Totals {
            Totals { dead_letters: self.dead_letters.load(SeqCst), ..Totals::default() }
        }
        fn in_flight(&self) -> (usize, usize) {
            (0, 0)
        }
        fn is_paused(&self, _: &TopicPartition) -> bool {
            false
        }
        fn remember(&self, _: &[Standing], _: Totals) {}
        fn findings(&self) -> Vec<Finding> {
            Vec::new()
        }
    }

    #[test]
    fn each_assigned_partition_is_seen_sorted_before_its_first_record() {
        let host = FakeHost::default();
        let of = |partition| TopicPartition { topic: "t".into(), partition };
        *host.partitions.lock().unwrap() = vec![(of(10), 0, 0), (of(2), 7, 1)];
        let look = Supervisor::new(Duration::from_secs(60)).look(&host, None);
        let seen: Vec<u32> = look.partitions.iter().map(|seen| seen.standing.source.partition).collect();
        assert_eq!(seen, [2, 10]);
        assert!(look.problems.is_empty());
    }

    #[test]
    fn dead_letters_alone_are_a_problem() {
        let host = FakeHost::default();
        let mut supervisor = Supervisor::new(Duration::from_secs(60));
        assert!(supervisor.look(&host, None).problems.is_empty());
        host.dead_letters.store(500, SeqCst);
        assert_eq!(supervisor.look(&host, None).problems[0].code, "dead-letters.all");
    }
}
