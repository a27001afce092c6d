//! A shadow trial: on a thread of its own, a candidate is asked about a sample of the records that the active version
//! of its plugin is asked about. Its answers are compared with those of the active version, and discarded.
//!
//! Guarantees: a worker never waits for a trial (if the queue is full, the sample is left out); the queue is bounded in
//! samples and in bytes; the candidate's answers are not written, and its calls aren't counted.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::chain::{Latency, Meters, Stage, StageObserver, StageSpec};
use crate::config::threads;
use crate::plugin::{RecordView, Trouble, header_keys};
use crate::record::OutputRecord;
use crate::record::labels::LabelRules;

/// The most samples in the queue.
const QUEUE: usize = 64;
/// No sample is taken while those in the queue hold at least this many bytes. A larger sample is taken if there is room
/// when it comes.
const QUEUE_BYTES: usize = 16 << 20;

/// A running trial, as the workers and the rollout see it.
pub(super) struct ShadowTrial {
    /// One record in this many is sampled, by chance.
    every: u64,
    samples: SyncSender<Sample>,
    /// How many bytes the samples in the queue hold.
    waiting: Arc<AtomicUsize>,
    /// Whether the candidate was asked about all records of the trial.
    ended: Arc<AtomicBool>,
    found: Arc<Mutex<TrialComparison>>,
}

struct Sample {
    /// What the active version was asked about.
    given: Vec<OutputRecord>,
    active: VersionAnswer,
    bytes: usize,
}

/// What a version made of a record.
struct VersionAnswer {
    outputs: Result<Vec<OutputRecord>, String>,
    took: Duration,
}

/// What a trial found.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct TrialComparison {
    /// Records that both versions were asked about.
    pub records: u64,
    /// Records of which both versions made the same.
    pub same: u64,
    /// Records of which one version made more outputs than the other, because one of them dropped or split the record.
    pub outputs_differ: u64,
    /// Records for which the two chose different entries.
    pub entries_differ: u64,
    /// Records for which the two chose different timestamps.
    pub timestamps_differ: u64,
    /// Records to which the two gave different labels.
    pub labels_differ: u64,
    /// Records to which the two gave different content types.
    pub content_types_differ: u64,
    /// Records of which the two made different payloads.
    pub payloads_differ: u64,
    /// Records on which the candidate failed.
    pub failed: u64,
    /// Records on which the active version failed.
    pub failed_present: u64,
    /// The candidate's latency.
    pub latency: Latency,
    /// The active version's latency.
    pub latency_present: Latency,
    /// The first record of which the two made something different, and what.
    pub first_difference: Option<String>,
    /// The first record on which only the candidate failed, and why.
    pub first_failure: Option<String>,
}

/// Starts a trial of `candidate` on one record in `every`. It ends after `records` samples, or when its last handle is
/// dropped.
pub(super) fn start_trial(candidate: StageSpec, records: u64, every: u64) -> std::io::Result<Arc<ShadowTrial>> {
    let (samples, inbox) = sync_channel(QUEUE);
    let trial = ShadowTrial { every, samples, waiting: Arc::default(), ended: Arc::default(), found: Arc::default() };
    let (waiting, ended, found) = (trial.waiting.clone(), trial.ended.clone(), trial.found.clone());
    let run = move || {
        compare_all(&candidate, &inbox, &waiting, &found, records);
        ended.store(true, Ordering::Release);
    };
    threads::spawn("plugin-trial", run)?;
    Ok(Arc::new(trial))
}

impl StageObserver for ShadowTrial {
    /// Chooses by chance, because a fixed step through records of alternating kinds would see only one kind.
    fn wants_next(&self) -> bool {
        fastrand::u64(0..self.every) == 0
            && self.waiting.load(Ordering::Relaxed) < QUEUE_BYTES
            && !self.ended.load(Ordering::Relaxed)
    }

    fn observe(&self, given: Vec<OutputRecord>, made: Result<&[OutputRecord], &Trouble>, took: Duration) {
        let active = VersionAnswer::of(made, took);
        let outputs = given.iter().chain(made.unwrap_or_default());
        let bytes =
            outputs.map(|output| output.input.size() + OutputRecord::changed_bytes(std::slice::from_ref(output))).sum();
        self.waiting.fetch_add(bytes, Ordering::Relaxed);
        if self.samples.try_send(Sample { given, active, bytes }).is_err() {
            self.waiting.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

impl ShadowTrial {
    pub fn found(&self) -> TrialComparison {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the candidate was asked about all records of the trial.
    pub fn is_complete(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}

impl VersionAnswer {
    fn of(made: Result<&[OutputRecord], &Trouble>, took: Duration) -> Self {
        let outputs = made.map(<[OutputRecord]>::to_vec).map_err(|trouble| trouble.text().to_owned());
        Self { outputs, took }
    }
}

/// Asks the candidate about each sample and notes how its answer compares, until `records` samples were compared or no
/// worker can send more.
fn compare_all(
    candidate: &StageSpec,
    samples: &Receiver<Sample>,
    waiting: &AtomicUsize,
    found: &Mutex<TrialComparison>,
    records: u64,
) {
    let mut stage = Stage::shadow(candidate);
    let (times, times_active) = (Meters::default(), Meters::default());
    let (meter, meter_active) = (times.join(), times_active.join());
    for _ in 0..records {
        let Ok(Sample { given, active, bytes }) = samples.recv() else { return };
        waiting.fetch_sub(bytes, Ordering::Relaxed);
        let Some(input) = given.first().map(|output| output.input.clone()) else { continue };
        let keys = header_keys(&input);
        let view = RecordView::new(&input, &keys);
        let mut outputs = given;
        let start = Instant::now();
        let answer = stage.decide(&view, &mut outputs);
        let took = start.elapsed();
        meter.took(took);
        meter_active.took(active.took);
        let answer = VersionAnswer::of(answer.as_ref().map(|_| outputs.as_slice()), took);
        let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
        found.add(&format!("{}@{}", input.source, input.offset), &active, &answer);
        (found.latency, found.latency_present) = (times.latency(), times_active.latency());
    }
}

impl TrialComparison {
    fn add(&mut self, record: &str, present: &VersionAnswer, candidate: &VersionAnswer) {
        self.records += 1;
        self.failed_present += u64::from(present.outputs.is_err());
        self.failed += u64::from(candidate.outputs.is_err());
        let difference = match (&present.outputs, &candidate.outputs) {
            (Err(_), Err(_)) => None,
            (Ok(_), Err(reason)) => {
                self.first_failure.get_or_insert_with(|| format!("{record}: {reason}"));
                None
            }
            (Err(reason), Ok(outputs)) => {
                Some(format!("the active version failed ({reason}), the candidate made {} outputs", outputs.len()))
            }
            (Ok(present), Ok(candidate)) => self.compare(present, candidate),
        };
        match difference {
            Some(difference) => {
                self.first_difference.get_or_insert_with(|| format!("{record}: {difference}"));
            }
            None if present.outputs.is_err() == candidate.outputs.is_err() => self.same += 1,
            None => {}
        }
    }

    /// Counts in which respects the two versions' outputs differ, and returns the first difference as text.
    fn compare(&mut self, present: &[OutputRecord], candidate: &[OutputRecord]) -> Option<String> {
        if present.len() != candidate.len() {
            self.outputs_differ += 1;
            return Some(format!("{} outputs, the candidate's {}", present.len(), candidate.len()));
        }
        let mut first = None;
        let mut tell = |count: &mut u64, differs: bool, told: &dyn Fn() -> String| {
            *count += u64::from(differs);
            if differs {
                first.get_or_insert_with(told);
            }
        };
        let pairs = || present.iter().zip(candidate);
        let differs =
            |differ: fn(&OutputRecord, &OutputRecord) -> bool| pairs().find(|(one, other)| differ(one, other));
        let entries = differs(|one, other| one.entry != other.entry);
        tell(&mut self.entries_differ, entries.is_some(), &|| two("entry", entries, |output| output.entry.clone()));
        let times = differs(|one, other| one.timestamp_us != other.timestamp_us);
        tell(&mut self.timestamps_differ, times.is_some(), &|| {
            two("timestamp", times, |output| output.timestamp_us.map(|time| time.to_string()))
        });
        let types = differs(|one, other| one.content_type != other.content_type);
        tell(&mut self.content_types_differ, types.is_some(), &|| {
            two("type", types, |output| output.content_type.clone())
        });
        // Labels that differ only in letter case count as different.
        let rules = LabelRules { lowercase: false, ..LabelRules::default() };
        let labels = |output| rules.record_labels(output);
        let labels = pairs().map(|(one, other)| (labels(one), labels(other))).find(|(a, b)| a != b);
        tell(&mut self.labels_differ, labels.is_some(), &|| {
            labels.as_ref().map_or(String::new(), |(one, other)| differing_labels(one, other))
        });
        let payloads = differs(|one, other| one.payload() != other.payload());
        tell(&mut self.payloads_differ, payloads.is_some(), &|| {
            two("payload's bytes", payloads, |output| Some(output.payload().len().to_string()))
        });
        first
    }
}

fn two(
    what: &str,
    pair: Option<(&OutputRecord, &OutputRecord)>,
    of: impl Fn(&OutputRecord) -> Option<String>,
) -> String {
    pair.map_or(String::new(), |(one, other)| {
        format!("{what} {}, the candidate's {}", chosen(of(one).as_ref()), chosen(of(other).as_ref()))
    })
}

fn differing_labels(present: &BTreeMap<String, String>, candidate: &BTreeMap<String, String>) -> String {
    let names = present.keys().chain(candidate.keys());
    let name = names.into_iter().find(|name| present.get(*name) != candidate.get(*name));
    name.map_or(String::new(), |name| {
        format!("label {name} {}, the candidate's {}", chosen(present.get(name)), chosen(candidate.get(name)))
    })
}

/// What a plugin chose, for a person.
fn chosen(value: Option<&String>) -> String {
    value.map_or_else(|| "none".into(), |value| format!("{value:?}"))
}
