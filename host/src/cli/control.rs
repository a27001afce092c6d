//! `reduct-sink pause`, `resume` and `tap`: what a running host is asked for that concerns its records.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::running_host::{RunningPipeline, escaped};
use super::status::word;
use super::stdout::write;
use super::{CommandError, is_json};

#[derive(Debug, Args)]
pub struct PauseCommand {
    /// Only this topic [default: all topics]
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
    #[command(flatten)]
    host: RunningPipeline,
}

impl PauseCommand {
    pub fn pause(&self) -> Result<(), CommandError> {
        self.ask("pause")
    }

    pub fn resume(&self) -> Result<(), CommandError> {
        self.ask("resume")
    }

    fn ask(&self, what: &str) -> Result<(), CommandError> {
        let path = match &self.topic {
            Some(topic) => format!("topics/{}/{what}", escaped(topic)),
            None => what.to_owned(),
        };
        let done = self.host.ask(reqwest::Method::POST, &path)?.text;
        if is_json() {
            return write(&format!("{}\n", serde_json::json!({ "done": what, "topic": self.topic, "text": done })));
        }
        write(&format!("{done}\n"))
    }
}

#[derive(Debug, Args)]
pub struct TapCommand {
    /// Only records of this topic
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
    /// Only records of which a plugin or the chain made this: keep, change, split, drop, failure, retry, not-asked, written,
    /// dropped, skipped, dead-letter
    #[arg(long, value_name = "VERDICT")]
    verdict: Option<String>,
    /// Only records that are written with this label, or with this value of it
    #[arg(long, value_name = "NAME[=VALUE]")]
    label: Option<String>,
    /// End after this number of records [default: until interrupted]
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    #[command(flatten)]
    host: RunningPipeline,
}

/// How often the host is asked; it keeps what comes in between.
const ASK_EVERY: Duration = Duration::from_millis(500);

impl TapCommand {
    pub fn execute(&self) -> Result<(), CommandError> {
        let mut query = vec![format!("id={}-{}", std::process::id(), fastrand::u32(..))];
        for (name, value) in [("topic", &self.topic), ("verdict", &self.verdict), ("label", &self.label)] {
            query.extend(value.as_ref().map(|value| format!("{name}={}", escaped(value))));
        }
        let query = query.join("&");
        let (mut after, mut shown, mut left_out) = (0, 0, 0);
        loop {
            let answer = self.host.ask(reqwest::Method::GET, &format!("tap?{query}&after={after}"))?.json()?;
            for record in answer.get("records").and_then(serde_json::Value::as_array).into_iter().flatten() {
                after = record["number"].as_u64().unwrap_or(after);
                write(&if is_json() { format!("{record}\n") } else { lines(record) })?;
                shown += 1;
                if self.count.is_some_and(|count| shown >= count) {
                    return Ok(());
                }
            }
            let missed = answer.get("left_out").and_then(serde_json::Value::as_u64).unwrap_or(0);
            if missed > left_out && !is_json() {
                write(&format!("… {} more, which are too many to show\n", missed - left_out))?;
            }
            left_out = missed;
            std::thread::sleep(ASK_EVERY);
        }
    }
}

/// What a person wants to see of a record.
fn lines(record: &Value) -> String {
    let plugins = record["plugins"].as_array().into_iter().flatten();
    let mut steps: Vec<String> = plugins
        .map(|plugin| {
            format!("{} {} ({} µs)", word(&plugin["plugin"]), word(&plugin["verdict"]), word(&plugin["took_us"]))
        })
        .collect();
    steps.push(word(&record["outcome"]));
    let (topic, partition, offset) = (&record["topic"], &record["partition"], &record["offset"]);
    let mut text = format!("{}/{}@{}  {}\n", word(topic), word(partition), word(offset), steps.join(" → "));
    if let Some(reason) = record["reason"].as_str() {
        text += &format!("    because {reason}\n");
    }
    if let Some(key) = record["key"].as_str() {
        text += &format!("    key {key}\n");
    }
    text += &format!("    {} bytes: {}\n", word(&record["bytes"]), one_line(&record["payload"]));
    for output in record["outputs"].as_array().into_iter().flatten() {
        let labels: BTreeMap<String, String> = serde_json::from_value(output["labels"].clone()).unwrap_or_default();
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let entry = output["entry"].as_str().map_or(String::new(), |entry| format!("entry {entry}, "));
        text += &format!("    to {entry}labels {}\n", labels.join(" "));
        if output["payload"].is_string() {
            text += &format!("    payload becomes {}\n", one_line(&output["payload"]));
        }
    }
    text
}

fn one_line(text: &Value) -> String {
    text.as_str().unwrap_or_default().replace('\n', " ")
}
