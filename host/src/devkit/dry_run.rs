//! `run --dry-run`: reports what `reduct-sink run` would do with the records of a live topic.
//!
//! Guarantees: nothing is written, committed or created, and no request goes to ReductStore; the chain, the template of
//! the entries and the labels are those of a real run.

use std::ops::ControlFlow;
use std::sync::Arc;

use serde::Serialize;
use thiserror::Error;

use super::answer::{AnswerVerdict, PluginAnswer};
use crate::chain::{Chain, Outcome, SharedChain};
use crate::config::Config;
use crate::kafka::peek::{From, PeekError, PeekedRecord, Until, peek};
use crate::plugin::{LoadError, Runtime};
use crate::record::entry_name::{Naming, Template, topic_segment};
use crate::record::{InputRecord, OutputRecord};

/// Why a dry run ended early.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "each message says it")]
pub enum DryRunError {
    #[error(transparent)]
    Plugin(#[from] LoadError),
    #[error(transparent)]
    Kafka(#[from] PeekError),
    #[error("{0}")]
    Failed(String),
}

/// What `reduct-sink run` would do with one record.
#[derive(Debug, Serialize)]
pub struct DryRunRecord {
    /// The record's topic.
    pub topic: String,
    /// The record's partition.
    pub partition: u32,
    /// The record's offset.
    pub offset: u64,
    /// The payload's size.
    pub bytes: usize,
    /// What the host would do with the record.
    #[serde(flatten)]
    pub answer: PluginAnswer,
    /// The name of the plugin that failed; `None`: no plugin failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plugin: Option<String>,
}

/// How many records were read, and how many of them `reduct-sink run` would write, drop and so on.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct DryRunSummary {
    /// How many records were read.
    pub records: u64,
    /// How many records would be written.
    pub written: u64,
    /// How many records ReductStore would get: more than `written` if records are split.
    pub outputs: u64,
    /// How many records would be dropped.
    pub dropped: u64,
    /// How many records a plugin would fail on, or the host couldn't handle.
    pub failed: u64,
    /// How many records would be tried again.
    pub retried: u64,
}

/// Reads the topics from where `reduct-sink run` would begin to their present ends, or at most `count` records, and
/// calls `tell` with each of them.
pub fn dry_run(
    config: &Config,
    count: Option<u64>,
    tell: &mut dyn FnMut(&DryRunRecord),
) -> Result<DryRunSummary, DryRunError> {
    let failed = |error: anyhow::Error| DryRunError::Failed(format!("{error:#}"));
    let runtime = Runtime::for_config(config).map_err(failed)?;
    let mut chain = Chain::new(SharedChain::load(runtime, &config.plugins)?).map_err(failed)?;
    let entry = config.store.entry.as_deref().map(Template::parse).transpose();
    let entry = entry.map_err(|error| DryRunError::Failed(format!("store.entry: {error}")))?;
    let mut summary = DryRunSummary::default();
    let mut see = |seen: PeekedRecord| {
        let report = report(config, &mut chain, entry.as_ref(), seen);
        summary.count(&report);
        tell(&report);
        if count.is_some_and(|count| summary.records >= count) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    if count != Some(0) {
        peek(&config.kafka, From::Group, Until::End, &mut see)?;
    }
    Ok(summary)
}

fn report(config: &Config, chain: &mut Chain, entry: Option<&Template>, seen: PeekedRecord) -> DryRunRecord {
    let PeekedRecord { record, partitions, problem } = seen;
    let input = Arc::new(record);
    let mut report = DryRunRecord {
        topic: input.source.topic.to_string(),
        partition: input.source.partition,
        offset: input.offset,
        bytes: input.payload.as_ref().map_or(0, bytes::Bytes::len),
        answer: PluginAnswer::failure(problem.clone().unwrap_or_default()),
        plugin: None,
    };
    if problem.is_some() {
        return report;
    }
    let naming = match entry {
        Some(template) => Naming::configured(template),
        None => Naming::default_for(partitions, config.kafka.several_topics()),
    };
    let outcome = chain.transform(&input);
    report.answer = PluginAnswer::of(&outcome);
    match &outcome {
        Outcome::Outputs(outputs) => {
            for (record, output) in outputs.iter().zip(&mut report.answer.outputs) {
                match entry_of(&naming, &input, record) {
                    Ok(entry) => output.entry = entry,
                    Err(reason) => {
                        report.answer = PluginAnswer::failure(reason);
                        break;
                    }
                }
                output.content_type = config.store.content_types.of(record).map(str::to_owned);
                output.labels = config.labels.all_labels(record).into_iter().collect();
            }
        }
        Outcome::Dropped => {}
        Outcome::Skipped(failure)
        | Outcome::DeadLetter(failure)
        | Outcome::Retry(failure)
        | Outcome::Wait(failure, _)
        | Outcome::Stop(failure) => {
            report.plugin = Some(failure.plugin.to_string());
        }
    }
    report
}

fn entry_of(naming: &Naming, input: &InputRecord, output: &OutputRecord) -> Result<String, String> {
    let entry = match &output.entry {
        Some(chosen) => naming.chosen.render(chosen, &input.source),
        None => naming.derived.render(&topic_segment(&input.source.topic), &input.source),
    };
    entry.map(|entry| entry.to_string()).map_err(|error| error.to_string())
}

impl DryRunSummary {
    fn count(&mut self, report: &DryRunRecord) {
        self.records += 1;
        match report.answer.verdict {
            AnswerVerdict::Write => {
                self.written += 1;
                self.outputs += report.answer.outputs.len() as u64;
            }
            AnswerVerdict::Drop => self.dropped += 1,
            AnswerVerdict::Fail => self.failed += 1,
            AnswerVerdict::Retry => self.retried += 1,
        }
    }
}
