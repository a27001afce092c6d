//! `reduct-sink run --dry-run`: one line a record on standard output, and a summary.

use clap::Args;
use reduct_sink::config::Config;
use reduct_sink::devkit::answer::{AnswerVerdict, Output};
use reduct_sink::devkit::dry_run::{DryRunRecord, DryRunSummary, dry_run};

use super::{CommandError, is_json, print};

#[derive(Debug, Args)]
pub struct DryRun {
    /// Tell what would become of the records that are there now, and end; nothing is written or committed
    #[arg(long)]
    dry_run: bool,
    /// With --dry-run: end after this number of records
    #[arg(long, value_name = "N", requires = "dry_run")]
    count: Option<u64>,
}

impl DryRun {
    pub fn is_wanted(&self) -> bool {
        self.dry_run
    }

    pub fn execute(&self, config: &Config) -> Result<(), CommandError> {
        let summary = dry_run(config, self.count, &mut |told| if is_json() { tell_json(told) } else { tell(told) });
        let summary = summary.map_err(CommandError::of)?;
        let DryRunSummary { records, written, outputs, dropped, failed, retried } = summary;
        let conclusion = format!(
            "{records} records: {written} would be written as {outputs}, {dropped} dropped, {failed} failed, {retried} \
             tried again later; nothing was written or committed"
        );
        // A program that reads the JSON lines on standard output expects nothing else there.
        if is_json() {
            tracing::info!("{conclusion}")
        } else {
            print(&conclusion)
        }
        Ok(())
    }
}

fn tell_json(told: &DryRunRecord) {
    match serde_json::to_string(told) {
        Ok(line) => print(&line),
        Err(error) => tracing::error!(%error, "a record can't be written as JSON"),
    }
}

fn tell(told: &DryRunRecord) {
    let DryRunRecord { topic, partition, offset, bytes, answer, plugin } = told;
    let who = format!("{topic}/{partition}@{offset}");
    let reason = answer.reason.as_deref().unwrap_or_default().replace(['\n', '\r'], " ");
    let by = plugin.as_ref().map_or_else(String::new, |plugin| format!(" by plugin `{plugin}`"));
    match answer.verdict {
        AnswerVerdict::Write => {
            for (index, output) in answer.outputs.iter().enumerate() {
                let part = if answer.outputs.len() > 1 { format!("#{index}") } else { String::new() };
                print(format!("write  {who}{part}  {}", told_output(output, *bytes)));
            }
        }
        AnswerVerdict::Drop => print(format!("drop   {who}")),
        AnswerVerdict::Fail => print(format!("fail   {who}{by}: {reason}")),
        AnswerVerdict::Retry => print(format!("retry  {who}{by}: {reason}")),
    }
}

fn told_output(output: &Output, bytes: usize) -> String {
    let Output { entry, timestamp, content_type, payload, labels } = output;
    let payload =
        payload.as_ref().map_or_else(|| format!("{bytes} bytes"), |payload| format!("payload {}", payload.summary()));
    let content_type = content_type.as_ref().map_or_else(String::new, |text| format!(", {text}"));
    let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    format!("to {entry} at {}, {payload}{content_type}, labels {}", timestamp.0, labels.join(" "))
}
