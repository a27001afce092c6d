//! Lets somebody see records on their way, live: a sample of them, each with what every plugin made of it.
//!
//! Guarantees: without a tap a record costs one load; with one, workers wait for each other only for the records that are
//! kept, of which there are at most [`PER_SECOND`] a second; memory is bounded ([`KEPT`] records, which taps share,
//! [`SHOWN_BYTES`] of each payload, [`SHOWN_LABELS`] of each output); a tap that nobody asks any more ends after [`ENDS_AFTER`]. Contents are for callers who may act.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};

/// Records that one tap keeps in a second.
const PER_SECOND: u32 = 20;
/// Records that wait to be asked for.
const KEPT: usize = 200;
/// What is shown of a payload, of a label's name and of its value.
pub const SHOWN_BYTES: usize = 300;
/// As many labels of an output are shown at most.
pub const SHOWN_LABELS: usize = 64;
/// As many bytes of an output's labels are shown at most, names and values together.
pub const SHOWN_LABEL_BYTES: usize = 4 << 10;
const ENDS_AFTER: Duration = Duration::from_secs(10);
/// Taps at once.
const TAPS: usize = 4;

/// Which records somebody wants to see: those that meet all of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TapFilter {
    /// Of this topic.
    pub topic: Option<String>,
    /// A plugin's answer or the whole chain's: keep, change, split, drop, failure, retry, not-asked; written, dropped,
    /// dead-letter, skipped.
    pub verdict: Option<String>,
    /// With this label (`NAME`) or this label of this value (`NAME=VALUE`), as it would be written, among those that a tap
    /// shows, see [`SHOWN_LABELS`].
    pub label: Option<String>,
}

/// What somebody asks for: the records of a tap behind the last one that they have seen.
#[derive(Debug, Clone, Default)]
pub struct TapQuestion {
    /// Chosen by the caller; the same for each question of one tap.
    pub id: String,
    /// The number of the last record that was seen.
    pub after: u64,
    /// See [`TapFilter::topic`].
    pub topic: Option<String>,
    /// See [`TapFilter::verdict`].
    pub verdict: Option<String>,
    /// See [`TapFilter::label`].
    pub label: Option<String>,
}

impl TapQuestion {
    /// From the parameters of a request.
    pub fn read(parameters: impl Iterator<Item = (String, String)>) -> Result<Self, String> {
        let mut question = Self::default();
        for (name, value) in parameters {
            match name.as_str() {
                "id" => question.id = value,
                "after" => question.after = value.parse().map_err(|_| format!("after={value} is no number"))?,
                "topic" => question.topic = Some(value),
                "verdict" if VERDICTS.contains(&value.as_str()) => question.verdict = Some(value),
                "verdict" => return Err(format!("there is no verdict {value}; there are {}", VERDICTS.join(", "))),
                "label" => question.label = Some(value),
                _ => return Err(format!("there is no parameter {name}; there are id, after, topic, verdict, label")),
            }
        }
        if question.id.is_empty() {
            Err("the parameter id is missing: choose one for your tap".into())
        } else {
            Ok(question)
        }
    }
}

/// What can be asked for as a verdict: a plugin's answer, or what the chain made of the record.
const VERDICTS: &[&str] = &[
    "keep",
    "change",
    "split",
    "drop",
    "failure",
    "retry",
    "not-asked",
    "written",
    "dropped",
    "skipped",
    "dead-letter",
    "wait",
    "stop",
];

/// A record on its way.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TappedRecord {
    /// Counts up over all taps.
    pub number: u64,
    /// The topic's name.
    pub topic: String,
    /// Its partition.
    pub partition: u32,
    /// Its offset.
    pub offset: u64,
    /// How its key begins.
    pub key: Option<String>,
    /// How its payload begins.
    pub payload: String,
    /// The size of its payload.
    pub bytes: usize,
    /// What each plugin that was asked made of it, in the chain's order.
    pub plugins: Vec<TappedVerdict>,
    /// What the chain made of it: written, dropped, skipped, dead-letter, retry, wait, stop.
    pub outcome: &'static str,
    /// Why, where it failed.
    pub reason: Option<String>,
    /// What is to be written.
    pub outputs: Vec<TappedOutput>,
}

/// What one plugin made of a record.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TappedVerdict {
    /// Its name.
    pub plugin: String,
    /// Joined by `+` where it was asked about several parts.
    pub verdict: String,
    /// How long it took.
    pub took_us: f64,
}

/// A record as it would be written.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TappedOutput {
    /// The entry's name as a plugin chose it; absent: derived from the topic.
    pub entry: Option<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// How its payload begins, where a plugin replaced it.
    pub payload: Option<String>,
}

/// All taps of the host.
#[derive(Debug, Default)]
pub struct Taps {
    any: AtomicBool,
    /// The number of the second in which workers look again, since a tap had enough in this one.
    full_until: AtomicU64,
    /// The number of the last record that was looked at.
    numbered: AtomicU64,
    open: Mutex<Vec<Tap>>,
    since: Since,
}

#[derive(Debug)]
struct Since(Instant);

impl Default for Since {
    fn default() -> Self {
        Self(Instant::now())
    }
}

#[derive(Debug)]
struct Tap {
    id: String,
    filter: TapFilter,
    asked: Instant,
    second: u64,
    in_second: u32,
    kept: VecDeque<Arc<TappedRecord>>,
    /// Left out because nobody fetched them.
    left_out: u64,
}

/// The answer to a [`TapQuestion`].
#[derive(Debug, Serialize)]
pub struct TapAnswer {
    /// The oldest first.
    #[serde(serialize_with = "pointed_to")]
    pub records: Vec<Arc<TappedRecord>>,
    /// Records that met the filter and were left out since the tap was opened, because there were too many.
    pub left_out: u64,
}

fn pointed_to<S: Serializer>(records: &[Arc<TappedRecord>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(records.iter().map(|record| &**record))
}

impl TapFilter {
    fn takes(&self, record: &TappedRecord) -> bool {
        let of_topic = self.topic.as_ref().is_none_or(|topic| *topic == record.topic);
        let of_verdict = self.verdict.as_ref().is_none_or(|wanted| {
            record.outcome == wanted
                || record.plugins.iter().any(|plugin| plugin.verdict.split('+').any(|verdict| verdict == wanted))
        });
        let of_label = self.label.as_ref().is_none_or(|wanted| {
            record.outputs.iter().any(|output| match wanted.split_once('=') {
                Some((name, value)) => output.labels.get(name).is_some_and(|found| found == value),
                None => output.labels.contains_key(wanted),
            })
        });
        of_topic && of_verdict && of_label
    }
}

impl Taps {
    /// Whether somebody may want to see the next record of this topic. Cheap, and wrong for a moment at most.
    pub fn wants(&self, topic: &str) -> bool {
        if !self.any.load(Ordering::Relaxed) || self.second() < self.full_until.load(Ordering::Relaxed) {
            return false;
        }
        let mut open = self.lock();
        open.retain(|tap| tap.asked.elapsed() < ENDS_AFTER);
        self.any.store(!open.is_empty(), Ordering::Relaxed);
        open.iter().any(|tap| tap.filter.topic.as_ref().is_none_or(|wanted| wanted == topic))
    }

    /// Takes a record that was on its way; its number doesn't matter.
    pub fn take(&self, mut record: TappedRecord) {
        let second = self.second();
        let mut open = self.lock();
        record.number = self.numbered.fetch_add(1, Ordering::Relaxed) + 1;
        let record = Arc::new(record);
        for tap in open.iter_mut().filter(|tap| tap.filter.takes(&record)) {
            if tap.second != second {
                (tap.second, tap.in_second) = (second, 0);
            }
            if tap.in_second >= PER_SECOND {
                tap.left_out += 1;
                continue;
            }
            tap.in_second += 1;
            tap.kept.push_back(Arc::clone(&record));
            if tap.kept.len() > KEPT {
                tap.kept.pop_front();
                tap.left_out += 1;
            }
        }
        if open.iter().all(|tap| tap.second == second && tap.in_second >= PER_SECOND) {
            self.full_until.store(second + 1, Ordering::Relaxed);
        }
    }

    /// The records of this tap that the caller hasn't seen; opens it at the first question.
    pub fn ask(&self, question: TapQuestion) -> Result<TapAnswer, String> {
        let TapQuestion { id, after, topic, verdict, label } = question;
        let filter = TapFilter { topic, verdict, label };
        let mut open = self.lock();
        open.retain(|tap| tap.asked.elapsed() < ENDS_AFTER);
        let at = open.iter().position(|tap| tap.id == id);
        if at.is_none() && open.len() >= TAPS {
            return Err(format!(
                "{TAPS} taps are open already; a tap ends {} s after its last question",
                ENDS_AFTER.as_secs()
            ));
        }
        let mut tap = match at {
            Some(at) => open.swap_remove(at),
            None => Tap {
                id,
                filter: filter.clone(),
                asked: Instant::now(),
                second: 0,
                in_second: 0,
                kept: VecDeque::new(),
                left_out: 0,
            },
        };
        (tap.filter, tap.asked) = (filter, Instant::now());
        tap.kept.retain(|record| record.number > after);
        let answer = TapAnswer { records: tap.kept.iter().cloned().collect(), left_out: tap.left_out };
        open.push(tap);
        self.any.store(true, Ordering::Relaxed);
        Ok(answer)
    }

    fn second(&self) -> u64 {
        self.since.0.elapsed().as_secs() + 1
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Tap>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(topic: &str, verdict: &str, camera: &str) -> TappedRecord {
        TappedRecord {
            number: 0,
            topic: topic.into(),
            partition: 0,
            offset: 7,
            key: None,
            payload: "x".into(),
            bytes: 1,
            plugins: vec![TappedVerdict { plugin: "p".into(), verdict: verdict.into(), took_us: 1.0 }],
            outcome: "written",
            reason: None,
            outputs: vec![TappedOutput {
                entry: None,
                labels: BTreeMap::from([("camera".into(), camera.into())]),
                payload: None,
            }],
        }
    }

    fn question(after: u64, filter: TapFilter) -> TapQuestion {
        let TapFilter { topic, verdict, label } = filter;
        TapQuestion { id: "me".into(), after, topic, verdict, label }
    }

    #[test]
    fn a_tap_keeps_what_meets_its_filter_and_gives_each_record_once() {
        let taps = Taps::default();
        assert!(!taps.wants("a"), "nobody asks");
        let filter =
            TapFilter { topic: Some("a".into()), verdict: Some("change".into()), label: Some("camera=left".into()) };
        assert!(taps.ask(question(0, filter.clone())).unwrap().records.is_empty());
        assert!(taps.wants("a") && !taps.wants("b"));
        taps.take(record("a", "keep+change", "left"));
        taps.take(record("a", "keep", "left"));
        taps.take(record("a", "change", "right"));
        taps.take(record("b", "change", "left"));
        let answer = taps.ask(question(0, filter.clone())).unwrap();
        assert_eq!(answer.records.iter().map(|record| record.number).collect::<Vec<_>>(), [1]);
        assert!(taps.ask(question(1, filter)).unwrap().records.is_empty());
        let by_name = TapFilter { label: Some("camera".into()), ..TapFilter::default() };
        assert!(by_name.takes(&record("a", "keep", "left")));
        let by_outcome = TapFilter { verdict: Some("written".into()), ..TapFilter::default() };
        assert!(by_outcome.takes(&record("a", "keep", "left")));
    }

    #[test]
    fn a_flood_is_bounded_and_so_is_the_number_of_taps() {
        let taps = Taps::default();
        taps.ask(question(0, TapFilter::default())).unwrap();
        for _ in 0..10_000 {
            if taps.wants("a") {
                taps.take(record("a", "keep", "left"));
            }
        }
        let kept = taps.ask(question(0, TapFilter::default())).unwrap().records.len();
        assert!((1..=3 * PER_SECOND as usize).contains(&kept), "{kept}");
        let other = |id: &str| taps.ask(TapQuestion { id: id.into(), ..question(0, TapFilter::default()) });
        assert!(other("2").is_ok() && other("3").is_ok() && other("4").is_ok());
        assert!(other("5").unwrap_err().contains("taps are open"));
    }
}
