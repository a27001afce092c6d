//! A plugin's verdict: checked against the contract's rules, then applied to the output record it was asked about.
//!
//! Guarantees: a verdict that breaks a rule changes nothing, and the violation names the rule; what was checked is applied
//! without fail, and ReductStore accepts its entry, its content type and the size of its labels.

use bytes::Bytes;

pub(crate) use super::bindings::reduct_sink::transform::types::Verdict;
use super::bindings::reduct_sink::transform::types::{self, Change};
use crate::config::PluginLimits;
use crate::record::content_type::ContentType;
use crate::record::entry_name::{EntriesAllowed, EntryName};
use crate::record::{LabelChange, OutputRecord};

/// The most outputs that one input record may become, over all plugins of the chain.
pub(crate) const MAX_OUTPUTS: usize = 1024;

/// The most bytes of label names and values that the plugins of a chain may give to one output: what ReductStore takes in
/// the headers of one record.
const MAX_LABEL_BYTES: usize = 64 * 1024;

/// What is wrong with a verdict.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Violation {
    /// It breaks a rule of the contract.
    Rule(String),
    /// It exceeds one of the plugin's limits.
    Limit(String),
}

/// Whether the verdict keeps the contract's rules and the plugin's limits. Returns its size in bytes.
pub(super) fn check(
    verdict: &Verdict,
    limits: &PluginLimits,
    entries: &EntriesAllowed,
    output: &OutputRecord,
) -> Result<usize, Violation> {
    match verdict {
        Verdict::Keep | Verdict::Drop => Ok(0),
        Verdict::Change(change) => check_changes(std::slice::from_ref(change), limits, entries, output),
        Verdict::Split(parts) if parts.is_empty() => {
            Err(Violation::Rule("it split the record into no parts; `drop` writes none".into()))
        }
        Verdict::Split(parts) if parts.len() > limits.outputs => Err(Violation::Limit(format!(
            "it split the record into {} parts; the most are {}",
            parts.len(),
            limits.outputs
        ))),
        Verdict::Split(parts) => check_changes(parts, limits, entries, output),
    }
}

/// Puts what `verdict` makes of `output` behind `outputs`.
pub(crate) fn apply(verdict: Verdict, output: OutputRecord, outputs: &mut Vec<OutputRecord>) {
    match verdict {
        Verdict::Keep => outputs.push(output),
        Verdict::Drop => {}
        Verdict::Change(change) => outputs.push(changed(output, change)),
        Verdict::Split(parts) => outputs.extend(parts.into_iter().map(|part| changed(output.clone(), part))),
    }
}

fn changed(mut output: OutputRecord, change: Change) -> OutputRecord {
    output.entry = change.entry.or(output.entry);
    output.timestamp_us = change.timestamp.or(output.timestamp_us);
    output.content_type = change.content_type.or(output.content_type);
    output.payload = change.payload.map(Bytes::from).or(output.payload);
    let labels = change.labels.into_iter();
    output.labels.add(labels.map(|label| LabelChange { name: label.name, value: label.value }).collect());
    output
}

fn check_changes(
    changes: &[Change],
    limits: &PluginLimits,
    entries: &EntriesAllowed,
    output: &OutputRecord,
) -> Result<usize, Violation> {
    let before: usize = output.labels.iter().map(LabelChange::size).sum();
    let mut bytes = 0_usize;
    for change in changes {
        if change.labels.len() > limits.labels {
            return Err(Violation::Limit(format!(
                "it changed {} labels of one record; the most are {}",
                change.labels.len(),
                limits.labels
            )));
        }
        check_names(change).map_err(Violation::Rule)?;
        check_entry(change, entries, output).map_err(Violation::Rule)?;
        let labels = change.labels.iter().map(label_size).fold(before, usize::saturating_add);
        if labels > MAX_LABEL_BYTES {
            return Err(Violation::Limit(format!(
                "with it the plugins' labels of one record have {labels} bytes; the most are {MAX_LABEL_BYTES}"
            )));
        }
        bytes = bytes.saturating_add(size(change));
    }
    if bytes > limits.verdict_bytes {
        let most = limits.verdict_bytes;
        return Err(Violation::Limit(format!("its verdict has {bytes} bytes; the most are {most}")));
    }
    Ok(bytes)
}

fn check_entry(change: &Change, allowed: &EntriesAllowed, output: &OutputRecord) -> Result<(), String> {
    let Some(entry) = &change.entry else { return Ok(()) };
    if allowed.allows(entry, &output.input.source.topic) {
        return Ok(());
    }
    let default = if *allowed == EntriesAllowed::OfTopic { ", which is the default" } else { "" };
    Err(format!(
        "it chose the entry {entry}, and its `limits.entries` allow {allowed}{default}; to allow this one, set \
         limits.entries = [{entry:?}] for the plugin, in which `*` stands for anything"
    ))
}

fn check_names(change: &Change) -> Result<(), String> {
    if let Some(entry) = &change.entry {
        EntryName::parse(entry).map_err(|problem| format!("it chose an illegal entry: {problem}"))?;
    }
    match change.content_type.as_deref().map(str::parse::<ContentType>) {
        Some(Err(problem)) => Err(format!("it chose an illegal content type: {problem}")),
        _ => Ok(()),
    }
}

fn label_size(label: &types::LabelChange) -> usize {
    label.name.len() + label.value.as_ref().map_or(0, String::len)
}

fn size(change: &Change) -> usize {
    change.payload.as_ref().map_or(0, Vec::len)
        + change.entry.as_ref().map_or(0, String::len)
        + change.content_type.as_ref().map_or(0, String::len)
        + change.labels.iter().map(label_size).sum::<usize>()
}
