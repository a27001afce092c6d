//! What a tap sees of a record that goes through the chain.
//!
//! Guarantees: only what the tap shows is copied of the record; nothing of this is done for a record that nobody wants to see.

use crate::chain::{Outcome, StageSeen};
use crate::health::tap::{SHOWN_BYTES, TappedOutput, TappedRecord, TappedVerdict};
use crate::record::{InputRecord, OutputRecord};
use crate::sink::Sink;
use crate::sink::counters::beginning;

/// Outputs of one record that are shown.
const OUTPUTS: usize = 8;

/// What became of the record.
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
        verdict,
        took_us: (took.as_secs_f64() * 1e7).round() / 10.0,
    };
    let output = |output: &OutputRecord| TappedOutput {
        entry: output.entry.clone(),
        labels: sink.labels_of(output).into_iter().collect(),
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
