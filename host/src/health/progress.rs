//! Looks after the running host: how far each partition is, whether all goes well, and whether what is left at the ends of
//! idle partitions holds any records. Writes the log's line of each minute.
//!
//! Guarantees: it only looks and reports; the one thing it asks for is that an idle partition with an unread tail is read
//! again from its position, which can lose nothing. A look comes every few seconds, whether Kafka answers or not. A symptom of a
//! problem that is known is no second problem.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::causes::{has_kafka_gone, keeps_from_joining, stops_everything, waits_for_group};
use super::lag::{LagMemory, LagNews, LagTrend, LagWatch};
use super::look::{Look, PartitionView};
use super::problems::Tracker;
use super::rates::{LastMinute, RateDelta, TimeLag, Totals};
use super::watchdog::{Excuse, Standing, Stuck, Watchdog};
use crate::kafka::group::{GroupState, GroupTimes};
use crate::kafka::observer::{Finding, KafkaLook, Observer};
use crate::record::TopicPartition;

/// How often the host is looked at. Each look asks the brokers a handful of questions.
const EVERY: Duration = Duration::from_secs(5);
/// A partition that is idle for this long before its end is read again there.
const PROBE_AFTER: Duration = Duration::from_secs(8);
/// How often the log says what was done.
const SAY_EVERY: Duration = Duration::from_secs(60);
/// How long a host may be without a partition before that is worth a word: joining a group takes a while.
const JOINED_WITHIN: Duration = Duration::from_secs(20);
/// How long the group may take to give out its partitions before that is a problem: as a rule it takes three seconds.
const GIVEN_WITHIN: Duration = Duration::from_secs(8);

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
    /// Whether one of [`Self::findings`] says why nothing is read of it.
    fn is_explained(&self, source: &TopicPartition) -> bool;
    /// Since when the host waits for the group to give out its partitions; `None`: it has.
    fn awaits_group(&self) -> Option<Instant>;
    /// Whether [`Self::standings`] are all partitions that the group has given to this host. `unable_at`: when the group was last unable to
    /// give any.
    fn is_assignment_known(&self, unable_at: Option<Instant>) -> bool;
    /// How long the group waits for a member that says nothing.
    fn session(&self) -> Duration;
    /// What the brokers say of how long they wait, with the newer protocol.
    fn learn_group_times(&self, times: GroupTimes);
    /// Where records wait for long, which part they wait for.
    fn behind(&self, look: &Look) -> Option<String>;
    /// Takes the look into the lines of the last minutes. `is_known`: see [`LagMemory::look`].
    fn remember(&self, standings: &[Standing], totals: Totals, is_known: bool);
    /// What the host itself knows to be wrong.
    fn findings(&self) -> Vec<Finding>;
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
    lag_memory: LagMemory,
    lag_watch: LagWatch,
    lag_trend: LagTrend,
    last_minute: LastMinute,
    tracker: Tracker,
    said: Instant,
    /// Since when no partition is assigned.
    without: Option<Instant>,
    started: Instant,
    /// When Kafka didn't answer last.
    kafka_gone: Option<Instant>,
    /// When the group was last unable to give this host partitions: Kafka didn't answer, or the host could not join.
    unable_at: Option<Instant>,
}

impl Supervisor {
    fn new(stuck_after: Duration) -> Self {
        Self {
            watchdog: Watchdog::new(stuck_after),
            time_lag: TimeLag::default(),
            lag_memory: LagMemory::default(),
            lag_watch: LagWatch::default(),
            lag_trend: LagTrend::default(),
            last_minute: LastMinute::default(),
            tracker: Tracker::default(),
            said: Instant::now(),
            without: None,
            started: Instant::now(),
            kafka_gone: None,
            unable_at: None,
        }
    }

    fn look(&mut self, host: &dyn Supervised, observer: Option<&mut Observer>) -> Look {
        let (asks_kafka, asked) = (observer.is_some(), Instant::now());
        let (standings, of_kafka) = ask_kafka(host, observer);
        of_kafka.group_times.into_iter().for_each(|times| host.learn_group_times(times));
        let (now, totals) = (Instant::now(), host.totals());
        let since_asked = |finding: Finding| Finding { since: finding.since.or(Some(asked)), ..finding };
        let mut findings: Vec<Finding> = of_kafka.findings.into_iter().map(since_asked).collect();
        findings.extend(host.findings());
        let has_cause = findings.iter().any(|finding| stops_everything(finding.code));
        let waits_since = host.awaits_group();
        let has_kafka_gone = has_kafka_gone(&findings);
        if has_kafka_gone {
            self.kafka_gone = Some(now);
            findings.retain(|finding| !["kafka.commit-refused", "kafka.waiting"].contains(&finding.code));
        }
        if has_kafka_gone || findings.iter().any(|finding| keeps_from_joining(finding.code)) {
            self.unable_at = Some(now);
        }
        let waits_since_answer = waits_since.filter(|_| !has_kafka_gone);
        let waits_for_group =
            waits_since_answer.map(|since| self.note_group_wait(now, since, host, of_kafka.group, &mut findings));
        let is_known = asks_kafka && !has_kafka_gone && has_all_partitions(host, self.unable_at);
        host.remember(&standings, totals, is_known);
        let awake = awake(host, &standings, has_cause);
        let stuck = self.watchdog.look(now, &standings, |source| excuse(host, source, has_cause));
        let behind = self.time_lag.look(now, &standings, is_known);
        let lag = self.lag_memory.look(now, &standings, &behind, is_known);
        let to_go = self.lag_trend.look(lag.now);
        let last_minute = self.last_minute.look(now, totals);
        self.probe_tails(host, &awake);
        findings.extend(stuck.iter().map(does_not_move));
        findings.extend(all_dead_letters([last_minute, self.last_minute.recent()]));
        self.say_without_partitions(now, standings.is_empty(), findings.is_empty());
        let problems = self.tracker.look(now, findings);
        let stuck: HashSet<TopicPartition> = stuck.into_iter().map(|stuck| stuck.standing.source).collect();
        let partitions = standings
            .into_iter()
            .map(|standing| PartitionView {
                behind: behind.get(&standing.source).copied(),
                last_known: self.lag_memory.last_of(&standing.source),
                stuck: stuck.contains(&standing.source),
                standing,
            })
            .collect();
        let look = Look { at: Some(now), partitions, problems, last_minute, lag, to_go, waits_for_group };
        self.say_of_lag(host, &look, has_cause);
        self.say(now, host, &look);
        look
    }

    /// What the host waits for that has no partitions from the group; after a while that is a problem.
    fn note_group_wait(
        &self,
        now: Instant,
        since: Instant,
        host: &dyn Supervised,
        group: Option<GroupState>,
        findings: &mut Vec<Finding>,
    ) -> String {
        // While Kafka is away the group can't do anything: its time begins when the brokers answer again.
        let since = self.kafka_gone.map_or(since, |gone| gone.max(since));
        let waits = now.saturating_duration_since(since);
        let text = waits_for_group(waits, host.session(), group);
        // Where the host may not use the group, that is the problem.
        let is_explained = findings.iter().any(|finding| keeps_from_joining(finding.code));
        if waits >= GIVEN_WITHIN && !is_explained {
            findings.push(Finding::new("kafka.assignment", text.clone()).since(since));
        }
        text
    }

    /// Has the tails of idle partitions read again that Kafka says have not been read to the end.
    fn probe_tails(&self, host: &dyn Supervised, awake: &[Standing]) {
        for standing in awake.iter().filter(|standing| standing.in_flight == 0) {
            if let Some(end) = standing.end.filter(|end| *end > standing.position)
                && self.watchdog.still_for(&standing.source) >= PROBE_AFTER
            {
                host.probe(&standing.source, end);
            }
        }
    }

    /// Being without a partition is fine where the group has more members than partitions, so it is no problem and only said.
    fn say_without_partitions(&mut self, now: Instant, is_without: bool, is_well: bool) {
        if !is_without {
            self.without = None;
            return;
        }
        let since = *self.without.get_or_insert(now);
        let is_long = now.duration_since(since.max(self.started)) >= JOINED_WITHIN;
        if is_long && is_well && now.duration_since(self.said) >= SAY_EVERY {
            info!(
                "no partition is assigned to this host; the group may have more members than the topics have partitions"
            );
        }
    }

    /// Says when the host is behind, and when it has caught up.
    fn say_of_lag(&mut self, host: &dyn Supervised, look: &Look, has_cause: bool) {
        let is_paused = look.partitions.iter().all(|seen| host.is_paused(&seen.standing.source));
        let news = self.lag_watch.look(look.lag.now, has_cause || is_paused);
        let (lag, behind_s) = (look.lag.now.map(|lag| lag.records), look.lag.now.map(|lag| lag.behind.as_secs()));
        match news {
            None => {}
            Some(LagNews::Behind) => {
                let why = host.behind(look).unwrap_or_default();
                warn!(lag, behind_s, "the host is {why}");
            }
            Some(LagNews::Still) => {
                let why = host.behind(look).unwrap_or_default();
                warn!(lag, behind_s, "the host still is {why}");
            }
            Some(LagNews::Over { after, most }) => {
                let (after_s, most_s) = (after.as_secs(), most.as_secs());
                info!(
                    lag,
                    behind_s,
                    after_s,
                    "caught up, {after_s} s after it was said that the host is behind; it was {most_s} s behind at most"
                );
            }
        }
    }

    /// Says what was done within the last minute, also when that is nothing.
    fn say(&mut self, now: Instant, host: &dyn Supervised, look: &Look) {
        if now.duration_since(self.said) < SAY_EVERY {
            return;
        }
        self.said = now;
        let RateDelta { totals, seconds } = look.last_minute;
        let written = totals.records.saturating_sub(totals.found);
        let (in_flight, _) = host.in_flight();
        let (lag, behind_s) = (look.lag.now.map(|lag| lag.records), look.lag.now.map(|lag| lag.behind.as_secs()));
        info!(
            seconds = seconds.round() as u64,
            // Neither dead letters nor records that were found are among them.
            written,
            bytes = totals.bytes,
            written_per_s = look.last_minute.per_second(written).round() as u64,
            found = totals.found,
            dead_letters = totals.dead_letters,
            // Both are absent while Kafka doesn't say where the partitions end.
            lag,
            behind_s,
            in_flight,
            partitions = look.partitions.len(),
            problems = look.problems.len(),
            "progress"
        );
    }
}

/// Where each assigned partition stands, sorted, and what Kafka says.
fn ask_kafka(host: &dyn Supervised, observer: Option<&mut Observer>) -> (Vec<Standing>, KafkaLook) {
    let mut positions = host.standings();
    positions.sort();
    let sources: Vec<TopicPartition> = positions.iter().map(|(source, _, _)| source.clone()).collect();
    let seen = observer.map(|observer| observer.look(&sources)).unwrap_or_default();
    let standing = |(source, position, in_flight)| {
        let bounds = seen.bounds.get(&source);
        let (begin, end) = (bounds.and_then(|(begin, _)| *begin), bounds.map(|(_, end)| *end));
        Standing { source, position, in_flight, begin, end }
    };
    (positions.into_iter().map(standing).collect(), seen)
}

/// Whether the host has what the group gave it: before that, having no partition doesn't mean that nothing waits.
fn has_all_partitions(host: &dyn Supervised, unable_at: Option<Instant>) -> bool {
    host.awaits_group().is_none() && host.is_assignment_known(unable_at)
}

/// The partitions that ought to move. What is paused is neither stuck, nor is its tail looked at; and what stands still for a known
/// cause isn't stuck.
fn awake(host: &dyn Supervised, standings: &[Standing], has_cause: bool) -> Vec<Standing> {
    let is_awake = |standing: &&Standing| excuse(host, &standing.source, has_cause) == Excuse::Without;
    standings.iter().filter(is_awake).cloned().collect()
}

fn excuse(host: &dyn Supervised, source: &TopicPartition, has_cause: bool) -> Excuse {
    if host.is_paused(source) {
        Excuse::Pause
    } else if has_cause || host.is_explained(source) {
        Excuse::Cause
    } else {
        Excuse::Without
    }
}

fn does_not_move(stuck: &Stuck) -> Finding {
    let Standing { source, position, .. } = &stuck.standing;
    let message = format!("{source} does not move on from offset {position}");
    Finding::new("partition.stuck", message).since(stuck.since)
}

/// A problem if nothing but dead letters was made within one of these times.
fn all_dead_letters(times: [RateDelta; 2]) -> Option<Finding> {
    let bad = times.into_iter().find(RateDelta::is_all_dead_letters)?;
    let message = format!(
        "all or almost all of the last {} records became dead letters; `reduct-sink status`, the page and their label sink.reason say \
         why; correct the plugin or its configuration, then `reduct-sink replay --running --write` (with the host's --config FILE) writes them",
        bad.totals.dead_letters
    );
    Some(Finding::new("dead-letters.all", message))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;
    use std::sync::atomic::Ordering::SeqCst;

    use super::super::lag::TotalLag;
    use super::*;

    #[derive(Default)]
    struct FakeHost {
        dead_letters: AtomicU64,
        partitions: Mutex<Vec<(TopicPartition, u64, usize)>>,
        findings: Mutex<Vec<Finding>>,
        waits_since: Option<Instant>,
        is_unknown: bool,
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
        fn is_explained(&self, _: &TopicPartition) -> bool {
            false
        }
        fn awaits_group(&self) -> Option<Instant> {
            self.waits_since
        }
        fn is_assignment_known(&self, unable_at: Option<Instant>) -> bool {
            !self.is_unknown && unable_at.is_none()
        }
        fn session(&self) -> Duration {
            Duration::from_secs(45)
        }
        fn learn_group_times(&self, _: GroupTimes) {}
        fn behind(&self, _: &Look) -> Option<String> {
            None
        }
        fn remember(&self, _: &[Standing], _: Totals, _: bool) {}
        fn findings(&self) -> Vec<Finding> {
            self.findings.lock().unwrap().clone()
        }
    }

    #[test]
    fn a_symptom_of_a_known_problem_is_no_second_one_also_right_after_its_end() {
        let host = FakeHost::default();
        let source = TopicPartition { topic: "t".into(), partition: 0 };
        *host.partitions.lock().unwrap() = vec![(source, 5, 3)];
        let stuck_after = 900;
        let mut supervisor = Supervisor::new(Duration::from_millis(stuck_after));
        let mut look = |findings: &[&'static str], after_ms| {
            let finding = |code: &&'static str| Finding::new(code, "");
            *host.findings.lock().unwrap() = findings.iter().map(finding).collect();
            std::thread::sleep(Duration::from_millis(after_ms));
            let codes = supervisor.look(&host, None).problems.into_iter().map(|problem| problem.code);
            codes.collect::<Vec<_>>()
        };
        for _ in 0..4 {
            assert_eq!(look(&["store"], stuck_after / 3), ["store"]);
        }
        assert!(look(&[], 1).is_empty(), "the store is back, and the partition has its time");
        assert_eq!(look(&[], stuck_after), ["partition.stuck"]);
        assert_eq!(look(&["traces"], 0), ["partition.stuck", "traces"]);
    }

    #[test]
    fn waiting_for_the_group_is_told_with_its_cause_and_its_end() {
        let since = Instant::now().checked_sub(Duration::from_secs(12));
        let host = FakeHost { waits_since: since, ..FakeHost::default() };
        let mut supervisor = Supervisor::new(Duration::from_secs(60));
        let look = supervisor.look(&host, None);
        let [problem] = look.problems.as_slice() else { panic!("{look:?}") };
        assert_eq!((problem.code, Some(&problem.message)), ("kafka.assignment", look.waits_for_group.as_ref()));
        assert!(problem.message.contains("for 12 s now, up to 45 s"), "{}", problem.message);
        let rebalancing = waits_for_group(
            Duration::from_secs(3),
            Duration::from_secs(45),
            Some(GroupState { is_rebalancing: true, members: 2 }),
        );
        assert!(rebalancing.contains("its 2 members"), "{rebalancing}");
        let longer = waits_for_group(Duration::from_secs(63), Duration::from_secs(45), None);
        assert!(longer.contains("for 63 s now, because") && !longer.contains("45"), "{longer}");
        // While Kafka is away that is the problem.
        let finding = |code| Finding::new(code, "");
        *host.findings.lock().unwrap() = vec![finding("kafka.unreachable"), finding("kafka.commit-refused")];
        let look = supervisor.look(&host, None);
        assert_eq!((look.problems.len(), look.problems[0].code, look.waits_for_group), (1, "kafka.unreachable", None));
        assert_eq!(look.lag, TotalLag::default());
        // The group's time begins when Kafka is back, however long the host has waited for it.
        host.findings.lock().unwrap().clear();
        let look = supervisor.look(&host, None);
        assert!(look.problems.is_empty(), "{look:?}");
        assert!(look.waits_for_group.is_some_and(|text| text.contains("for 0 s now, up to 45 s")));
    }

    /// With the newer group protocol nobody says that the group is about to give partitions.
    #[test]
    fn no_lag_is_told_before_it_is_known_which_partitions_the_host_has() {
        let is_known = |waits_since, is_unknown| {
            has_all_partitions(&FakeHost { waits_since, is_unknown, ..FakeHost::default() }, None)
        };
        assert!(is_known(None, false) && !is_known(None, true) && !is_known(Some(Instant::now()), false));
        for code in ["kafka.unreachable", "kafka.group-denied", "kafka.coordinator"] {
            let host = FakeHost::default();
            let mut supervisor = Supervisor::new(Duration::from_secs(60));
            drop(supervisor.look(&host, None));
            assert!(has_all_partitions(&host, supervisor.unable_at));
            *host.findings.lock().unwrap() = vec![Finding::new(code, "")];
            drop(supervisor.look(&host, None));
            host.findings.lock().unwrap().clear();
            drop(supervisor.look(&host, None));
            assert!(!has_all_partitions(&host, supervisor.unable_at), "{code}");
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
