//! What the host tells of itself: one moment of it, as `/status` shows it and as the metrics are made of it.
//!
//! Guarantees: what may show parts of records is left out for callers who may not act, see [`HostReport::redact`]. Plain values.

use std::collections::BTreeMap;

use serde::Serialize;

use super::lag::{KnownLag, TotalLag};
use super::problems::HealthProblem;
use super::traces::SpanCounts;
use crate::chain::{Latency, PluginTotals};
use crate::flow::pauses::Paused;
use crate::plugin::{Counts, RecentFailure};
use crate::rollout::{PluginActions, RolloutOutcome, SwapReport};
use crate::sink::request_times::RequestHistogram;

/// One moment of the host.
#[derive(Debug, Clone, Default, Serialize)]
pub struct HostReport {
    /// The pipeline's name, where the process has several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pipeline: Option<String>,
    /// How often the pipeline failed and was started again since the process started.
    pub pipeline_failures: u64,
    /// Of the host.
    pub version: &'static str,
    /// Names and values of what it was built with, its version included.
    #[serde(skip)]
    pub build: [(&'static str, &'static str); 5],
    /// The process's id.
    pub pid: u32,
    /// The consumer group.
    pub group: String,
    /// As configured.
    pub topics: Vec<String>,
    /// ReductStore's address.
    pub store: String,
    /// The bucket that is written to.
    pub bucket: String,
    /// Seconds since the host started.
    pub uptime_s: u64,
    /// Empty: all is well.
    pub problems: Vec<HealthProblem>,
    /// What callers who may not act see of problems whose texts may hold what a plugin said, by their codes.
    #[serde(skip)]
    pub public_texts: Vec<(&'static str, String)>,
    /// Whether the host is stopping.
    pub stopping: bool,
    /// Records that were written; dead letters aren't among them.
    pub written: u64,
    /// Their bytes.
    pub written_bytes: u64,
    /// Records that were found in the store, and so not written again.
    pub found: u64,
    /// Unfinished records that were removed and written again.
    pub repaired: u64,
    /// Offsets of Kafka that were skipped because they can't be read.
    pub skipped_offsets: u64,
    /// Records that became dead letters since the host started.
    pub dead_letters: u64,
    /// The same by class.
    pub dead_letters_by_class: Vec<(&'static str, u64)>,
    /// How often a write was tried again, by the class of the store's answer.
    pub store_retries: Vec<(&'static str, u64)>,
    /// How long requests to the store took.
    #[serde(skip)]
    pub store_requests: Vec<RequestHistogram>,
    /// Commits that the group took, and that it refused.
    pub commits_taken: u64,
    /// See there.
    pub commits_refused: u64,
    /// Spans for OpenTelemetry; absent where none are made.
    #[serde(skip)]
    pub spans: Option<SpanCounts>,
    /// How many swaps ended how, since the host started.
    #[serde(skip)]
    pub swaps_ended: Vec<(&'static str, u64)>,
    /// What isn't read because somebody paused it.
    pub paused: Paused,
    /// The replay of dead letters, or the dry run of one, that runs, or the last one.
    pub replay: Option<ReplayProgress>,
    /// Records that were read and aren't done with.
    pub in_flight_records: usize,
    /// Their bytes.
    pub in_flight_bytes: usize,
    /// Records a second over the last minute; absent in the first seconds of the host, as with the next two.
    pub records_per_s: Option<f64>,
    /// Records a second over the last five seconds.
    pub records_per_s_now: Option<f64>,
    /// Bytes a second over the last minute.
    pub bytes_per_s: Option<f64>,
    /// What the host waits for and what helps; absent where it keeps up.
    pub behind: Option<String>,
    /// How far all partitions together are behind.
    pub lag: LagReport,
    /// That the host waits for the group to give out its partitions, how long that can take, and why; absent where it doesn't.
    pub waits_for_group: Option<String>,
    /// Each assigned partition, sorted.
    pub partitions: Vec<PartitionReport>,
    /// In the chain's order.
    pub plugins: Vec<PluginReport>,
    /// The last of them, the oldest first.
    pub swaps: Vec<SwapReport>,
}

/// How far all partitions together are behind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct LagReport {
    /// Offsets between the positions and the ends; absent while that isn't known.
    pub records: Option<u64>,
    /// How many seconds ago the first record came that waits; 0 where none waits, absent while that isn't known.
    pub seconds: Option<f64>,
    /// What was known last; absent where it is known now.
    pub last_known: Option<LastKnownLag>,
}

/// A lag that isn't known any more.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LastKnownLag {
    /// As it was.
    pub records: u64,
    /// As it was.
    pub seconds: f64,
    /// How many seconds ago that was.
    pub ago_s: u64,
}

impl LagReport {
    /// As it is told.
    pub fn of(lag: TotalLag) -> Self {
        Self {
            records: lag.now.map(|now| now.records),
            seconds: lag.now.map(|now| now.behind.as_secs_f64()),
            last_known: lag.last.filter(|_| lag.now.is_none()).map(LastKnownLag::of),
        }
    }
}

impl LastKnownLag {
    /// As it is told.
    pub fn of(known: KnownLag) -> Self {
        let (seconds, ago_s) = (known.behind.as_secs_f64(), known.at.elapsed().as_secs());
        Self { records: known.records, seconds, ago_s }
    }
}

/// An assigned partition.
#[derive(Debug, Clone, Serialize)]
pub struct PartitionReport {
    /// The topic's name.
    pub topic: String,
    /// Its number.
    pub partition: u32,
    /// The first offset that Kafka has; absent while Kafka doesn't answer.
    pub begin: Option<u64>,
    /// The first offset that isn't done with, which is what is committed.
    pub position: u64,
    /// The next offset that a reader can't have yet; absent while Kafka doesn't answer.
    pub end: Option<u64>,
    /// From the position to the end.
    pub lag: Option<u64>,
    /// How many seconds ago the first record came that waits; 0 where none waits, absent while Kafka doesn't answer.
    pub lag_s: Option<f64>,
    /// The lag that was known last; absent where it is known now.
    pub last_known: Option<LastKnownLag>,
    /// Records that were read and aren't done with.
    pub in_flight: usize,
    /// It has work and does not move.
    pub stuck: bool,
}

/// A plugin at work.
#[derive(Debug, Clone, Serialize)]
pub struct PluginReport {
    /// As configured.
    pub name: String,
    /// Of its file.
    pub digest: String,
    /// Identifies its configuration; absent where it has none.
    pub config: Option<String>,
    /// The file's absolute path; absent for the builtin plugin, and for callers who may not act.
    pub file: Option<String>,
    /// Its circuit breaker is open: it isn't asked.
    pub breaker_open: bool,
    /// When it was put to work: seconds since the Unix epoch.
    pub since_s: u64,
    /// Calls by verdict, of all its versions since the host started.
    #[serde(flatten)]
    pub counts: Counts,
    /// Records that its `when` left out, with all its versions.
    pub passed_over: u64,
    /// Of one call in 64, and of each that ran into its time limit.
    pub latency: Latency,
    /// What its instances have together.
    pub memory_bytes: u64,
    /// The kinds of failures of this version, the latest first.
    pub failures: Vec<RecentFailure>,
    /// What a person can have done with it now.
    pub can: PluginActions,
    /// What all its versions did, for the metrics.
    #[serde(skip)]
    pub totals: PluginTotals,
}

/// How far the running host is with a replay of its dead letters, or with a dry run, which changes nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ReplayProgress {
    /// It hasn't ended yet.
    pub running: bool,
    /// It is no dry run: outputs are written, and dead letters that are done with are removed.
    pub write: bool,
    /// How many dead letters there were at its beginning; absent until they are counted. In a topic there may be fewer.
    pub total: Option<u64>,
    /// Those that are neither handled nor stay yet; absent until they are counted.
    pub remaining: Option<u64>,
    /// Dead letters whose fate is decided.
    pub letters: u64,
    /// Those whose outputs are written, or would be.
    pub written: u64,
    /// Those that a plugin drops.
    pub dropped: u64,
    /// Those that fail again.
    pub failing: u64,
    /// Those that were left.
    pub untouched: u64,
    /// Those that are written or dropped and wait to be removed; they are among `remaining`.
    pub settling: u64,
    /// Those of them whose records were in ReductStore before this replay.
    pub settling_found: u64,
    /// In about how many seconds they are removed; absent while more are written.
    pub settled_in_s: Option<u64>,
    /// Why letters were left, and how many.
    pub left_because: BTreeMap<String, u64>,
    /// The first one that was left, and why.
    pub first_left: Option<String>,
    /// The first one that failed again, and why.
    pub first_failing: Option<String>,
    /// Why it ended before its end.
    pub error: Option<String>,
}

impl HostReport {
    /// Takes out what may show parts of records or of the configuration (how two versions of a plugin differed on a record,
    /// why one failed or wasn't taken, why the host ends), and where the plugins' files are.
    pub fn redact(&mut self) {
        self.plugins.iter_mut().for_each(|plugin| plugin.file = None);
        for problem in self.problems.iter_mut().filter(|problem| MAY_QUOTE.contains(&problem.code)) {
            let public = self.public_texts.iter().find(|(code, _)| *code == problem.code);
            problem.message = public.map_or(HIDDEN, |(_, text)| text.as_str()).to_owned();
        }
        let may_quote =
            |swap: &&mut SwapReport| matches!(swap.outcome, RolloutOutcome::Refused | RolloutOutcome::FailedTrial);
        for swap in self.swaps.iter_mut().filter(may_quote) {
            swap.reason = swap.reason.take().map(|_| HIDDEN.to_owned());
        }
        for trial in self.swaps.iter_mut().filter_map(|swap| swap.trial.as_mut()) {
            trial.first_difference = trial.first_difference.take().map(|_| HIDDEN.to_owned());
            // Said once.
            trial.first_failure =
                trial.first_failure.take().filter(|_| trial.first_difference.is_none()).map(|_| HIDDEN.to_owned());
        }
        // Without their reasons they are one kind.
        for plugin in &mut self.plugins {
            let hidden = plugin.failures.drain(..).reduce(|one, other| RecentFailure {
                count: one.count + other.count,
                last_at_ms: one.last_at_ms.max(other.last_at_ms),
                ..one
            });
            plugin.failures.extend(hidden.map(|failure| RecentFailure { reason: HIDDEN.to_owned(), ..failure }));
        }
        if let Some(replay) = &mut self.replay {
            replay.first_left = replay.first_left.take().map(|_| HIDDEN.to_owned());
            replay.first_failing =
                replay.first_failing.take().filter(|_| replay.first_left.is_none()).map(|_| HIDDEN.to_owned());
            replay.error = replay.error.take().map(|_| HIDDEN.to_owned());
            let mut of_store = 0;
            replay.left_because.retain(|reason, letters| {
                let stays = !reason.starts_with(OF_THE_STORE);
                of_store += if stays { 0 } else { *letters };
                stays
            });
            if of_store > 0 {
                replay.left_because.insert(format!("{OF_THE_STORE}{HIDDEN}"), of_store);
            }
        }
    }

    /// Whether what is wrong keeps the host from taking part, and what it is.
    pub fn not_ready(&self) -> Vec<&HealthProblem> {
        // What was skipped is told, and over.
        let keeps = |problem: &&HealthProblem| {
            problem.code != "kafka.skipped"
                && ["kafka.", "store", "membership", "host.", "pipeline."]
                    .iter()
                    .any(|kind| problem.code.starts_with(kind))
        };
        self.problems.iter().filter(keeps).collect()
    }
}

/// How reasons begin that ReductStore gave for letters that stay.
pub const OF_THE_STORE: &str = "ReductStore: ";
/// What stands in place of a part of a record.
const HIDDEN: &str = "(shown to callers who may act)";
/// The codes of problems whose messages may hold what a plugin or the configuration says.
const MAY_QUOTE: [&str; 3] = ["host.failed", "next-start", "pipeline.failed"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::{Cause, Steps};

    const SECRET: &str = "what a plugin said of a record";

    fn swap(outcome: RolloutOutcome, reason: &str) -> SwapReport {
        SwapReport {
            number: 1,
            plugin: "p".into(),
            at_ms: 0,
            cause: Cause::File,
            old: "a".into(),
            new: "b".into(),
            old_config: None,
            new_config: None,
            outcome,
            reason: Some(reason.into()),
            steps: Steps::default(),
            trial: None,
            bake: None,
        }
    }

    #[test]
    fn a_caller_who_may_not_act_sees_nothing_that_a_plugin_said() {
        let problem = HealthProblem::new;
        let mut report = HostReport {
            problems: vec![
                problem("host.failed", SECRET),
                problem("next-start", SECRET),
                problem("store", "the store is full"),
            ],
            public_texts: vec![("host.failed", "plugin p failed on t/0@5".into())],
            swaps: vec![
                swap(RolloutOutcome::Refused, SECRET),
                swap(RolloutOutcome::FailedTrial, SECRET),
                swap(RolloutOutcome::RolledBack, "a person asked for it"),
            ],
            replay: Some(ReplayProgress {
                first_left: Some(SECRET.into()),
                first_failing: Some(SECRET.into()),
                error: Some(SECRET.into()),
                left_because: BTreeMap::from([(format!("{OF_THE_STORE}{SECRET}"), 3), ("it was stopped".into(), 1)]),
                ..ReplayProgress::default()
            }),
            ..HostReport::default()
        };
        report.redact();
        let messages: Vec<&str> = report.problems.iter().map(|problem| problem.message.as_str()).collect();
        assert_eq!(messages, ["plugin p failed on t/0@5", HIDDEN, "the store is full"]);
        let shown = serde_json::to_string(&report).unwrap();
        assert!(!shown.contains(SECRET), "{shown}");
        let left = report.replay.unwrap().left_because;
        assert_eq!(left.values().collect::<Vec<_>>(), [&3, &1], "{left:?}");
        assert!(shown.contains("a person asked for it") && shown.contains("refused"), "{shown}");
    }

    #[test]
    fn what_is_hidden_is_one_line() {
        let failure = |count, last_at_ms| RecentFailure { reason: SECRET.into(), count, last_at_ms };
        let plugin = PluginReport {
            name: "p".into(),
            digest: String::new(),
            config: None,
            file: None,
            breaker_open: false,
            since_s: 0,
            counts: Counts::default(),
            passed_over: 0,
            latency: Latency::default(),
            memory_bytes: 0,
            failures: vec![failure(2, 50), failure(3, 90)],
            can: PluginActions::default(),
            totals: PluginTotals::default(),
        };
        let mut report = HostReport { plugins: vec![plugin], ..HostReport::default() };
        report.redact();
        let [RecentFailure { reason, count, last_at_ms }] = report.plugins[0].failures.as_slice() else { panic!() };
        assert_eq!((reason.as_str(), *count, *last_at_ms), (HIDDEN, 5, 90));
    }
}
