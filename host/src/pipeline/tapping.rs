//! Makes a tap's sample of a record that goes through the chain.
//!
//! Guarantees: of the record only what the tap shows is kept, however large its labels are; for a record that nobody wants to see
//! nothing of this is done.

use std::collections::{BTreeMap, HashMap};

use crate::chain::{Outcome, StageSeen};
use crate::health::tap::{SHOWN_BYTES, SHOWN_LABEL_BYTES, SHOWN_LABELS, TappedOutput, TappedRecord, TappedVerdict};
use crate::record::{InputRecord, OutputRecord};
use crate::sink::Sink;
use crate::sink::counters::beginning;

/// How many outputs of one record are shown.
const OUTPUTS: usize = 8;

/// The record, what each plugin made of it, and what became of it.
pub(super) fn tapped(sink: &Sink, input: &InputRecord, seen: Vec<StageSeen>, outcome: &Outcome) -> TappedRecord {
    let (name, failure, outputs) = match outcome {
        Outcome::Outputs(outputs) => ("written", None, outputs.as_slice()),
        Outcome::Dropped => ("dropped", None, Default::default()),
        Outcome::Skipped(failure) => ("skipped", Some(failure), Default::default()),
        Outcome::DeadLetter(failure) => ("dead-letter", Some(failure), Default::default()),
        Outcome::Retry(failure) => ("retry", Some(failure), Default::default()),
        Outcome::Wait(failure, _) => ("wait", Some(failure), Default::default()),
        Outcome::Stop(failure) => ("stop", Some(failure), Default::default()),
    };
    let payload = input.payload.as_deref().unwrap_or_default();
    let verdict = |StageSeen { plugin, verdict, took }| TappedVerdict {
        plugin,
        verdict: cut(&verdict),
        took_us: (took.as_secs_f64() * 1e7).round() / 10.0,
    };
    let output = |output: &OutputRecord| TappedOutput {
        entry: output.entry.as_deref().map(cut),
        labels: shown_labels(sink.labels_of(output)),
        payload: output.payload.as_deref().map(|payload| beginning(payload, SHOWN_BYTES)),
    };
    TappedRecord {
        number: 0,
        topic: input.source.topic.to_string(),
        partition: input.source.partition,
        offset: input.offset,
        key: input.key.as_deref().map(|key| beginning(key, SHOWN_BYTES)),
        payload: beginning(payload, SHOWN_BYTES),
        bytes: payload.len(),
        plugins: seen.into_iter().map(verdict).collect(),
        outcome: name,
        reason: failure.map(|failure| format!("{}: {}", failure.plugin, failure.reason)),
        outputs: outputs.iter().take(OUTPUTS).map(output).collect(),
    }
}

/// The first labels by name, and how many more there are.
fn shown_labels(labels: HashMap<String, String>) -> BTreeMap<String, String> {
    let (all, mut bytes) = (labels.len(), 0);
    let sorted: BTreeMap<String, String> = labels.into_iter().collect();
    let shortened = sorted.iter().map(|(name, value)| (cut(name), cut(value)));
    let mut shown: BTreeMap<String, String> = shortened
        .take(SHOWN_LABELS)
        .take_while(|(name, value)| {
            bytes += name.len() + value.len();
            bytes <= SHOWN_LABEL_BYTES
        })
        .collect();
    let more = all - shown.len();
    if more > 0 {
        shown.insert(MORE.into(), format!("{more} more"));
    }
    shown
}

/// The name under which a tap says that there are more labels.
const MORE: &str = "…";

fn cut(text: &str) -> String {
    match text.get(..text.floor_char_boundary(SHOWN_BYTES)) {
        Some(beginning) if beginning.len() < text.len() => format!("{beginning}…"),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_tap_keeps_of_labels_is_bounded() {
        let few = HashMap::from([("camera".to_owned(), "left".to_owned())]);
        assert_eq!(shown_labels(few), BTreeMap::from([("camera".to_owned(), "left".to_owned())]));

        let many: HashMap<_, _> = (0..1_000).map(|number| (format!("l{number:04}"), "x".to_owned())).collect();
        let shown = shown_labels(many);
        assert_eq!((shown.len(), &*shown[MORE]), (SHOWN_LABELS + 1, "936 more"));
        assert!(shown.contains_key("l0000") && shown.contains_key("l0063"));

        let long: HashMap<_, _> = (0..1_000).map(|number| (format!("{number:04}"), "é".repeat(100_000))).collect();
        let shown = shown_labels(long);
        let bytes: usize = shown.iter().map(|(name, value)| name.len() + value.len()).sum();
        assert!(shown.len() > 10 && bytes <= SHOWN_LABEL_BYTES + 20, "{} labels, {bytes} bytes", shown.len());
        assert!(shown["0000"].starts_with('é') && shown["0000"].ends_with('…'));
    }
}
