//! `reduct-sink check`: one line for each thing that was checked, on standard output.
//!
//! Guarantees: a failure doesn't keep the rest from being checked; nothing is consumed, written or created; a line says
//! what is wrong and what would be right, and in `--json` output carries the error's code.

use std::fmt::Display;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use reduct_sink::config::{self, Config, PluginSource, StoreConfig};
use reduct_sink::kafka::check as kafka;
use reduct_sink::plugin::Runtime;
use reduct_sink::record::entry_name::{EntriesAllowed, Naming, Template, topic_segment};
use reduct_sink::record::{Header, InputRecord, OutputRecord, TopicPartition};
use reduct_sink::sink::Attachments;
use reduct_sink::sink::check as store;
use serde::Serialize;

use super::options::{ConfigFlags, LoadedConfig};
use super::progress::Progress;
use super::running_host::RunningHost;
use super::{CommandError, ErrorCode, Exit, is_json, print};

#[derive(Debug, Args)]
pub struct Check {
    #[command(flatten)]
    options: ConfigFlags,
    /// Check the configuration and the plugins only; ask neither Kafka nor ReductStore
    #[arg(long)]
    offline: bool,
}

impl Check {
    pub fn execute(self) -> Result<(), CommandError> {
        let progress = Progress::start("checking the configuration");
        let mut report = CheckReport { pipeline: None, worst: None };
        let LoadedConfig { pipelines, warnings, .. } = self.options.load()?;
        for config in pipelines.all() {
            report.pipeline.clone_from(&config.pipeline);
            report.ok("configuration", summary(config));
        }
        report.pipeline = None;
        warnings.iter().for_each(|warning| report.warning("configuration", warning));
        if !self.offline {
            if let Some(warning) = config::warning_of_process() {
                report.warning("process", warning);
            }
            if let Some(config) = pipelines.all().first() {
                check_status(config, &mut report);
            }
        }
        for config in pipelines.all() {
            report.pipeline.clone_from(&config.pipeline);
            progress.now("loading the plugins");
            check_plugins(config, &mut report);
            check_attachments(config, &mut report);
            if !self.offline {
                progress.now(format!("asking Kafka at {}", config.kafka.brokers));
                check_kafka(config, &mut report);
                progress.now(format!("asking ReductStore at {}", config.store.url));
                check_store(&config.store, &mut report);
            }
        }
        drop(progress);
        report.worst.map_or(Ok(()), |exit| Err(CommandError::reported(exit)))
    }
}

struct CheckReport {
    /// The one of several that is being checked.
    pipeline: Option<Arc<str>>,
    /// The failure with the lowest exit code: what has to be corrected first.
    worst: Option<ErrorCode>,
}

/// A line of `--json` output.
#[derive(Serialize)]
struct Line<'a> {
    outcome: &'a str,
    /// The one of several that it concerns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pipeline: Option<&'a str>,
    /// What was checked, such as `kafka`.
    subject: &'a str,
    /// Of a failure: its name in the table of error codes.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'a str>,
    text: &'a str,
}

impl CheckReport {
    fn ok(&mut self, subject: &str, text: impl Display) {
        self.line("ok", subject, None, text);
    }

    fn warning(&mut self, subject: &str, text: impl Display) {
        self.line("warning", subject, None, text);
    }

    fn failed(&mut self, subject: &str, code: impl Into<ErrorCode>, text: impl Display) {
        let code = code.into();
        self.line("failed", subject, Some(code), text);
        if self.worst.is_none_or(|worst| code.exit() < worst.exit()) {
            self.worst = Some(code);
        }
    }

    fn line(&self, outcome: &str, subject: &str, code: Option<ErrorCode>, text: impl Display) {
        let text = text.to_string();
        // Compilers and servers answer in several lines at times.
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let text = lines.join("; ");
        if is_json() {
            let pipeline = self.pipeline.as_deref();
            let line = Line { outcome, pipeline, subject, code: code.map(ErrorCode::name), text: &text };
            return print(serde_json::to_string(&line).unwrap_or_default());
        }
        let mark = match outcome {
            "failed" => "FAILED",
            "warning" => "warn",
            outcome => outcome,
        };
        let mark = match &self.pipeline {
            Some(pipeline) => format!("{mark:<8}{pipeline}: "),
            None => format!("{mark:<8}"),
        };
        // A plugin's text names its plugin itself, and a warning its key.
        match subject {
            "plugin" | "process" => print(format_args!("{mark}{text}")),
            "configuration" if outcome == "warning" => print(format_args!("{mark}{text}")),
            subject => print(format_args!("{mark}{subject}: {text}")),
        }
    }
}

fn summary(config: &Config) -> String {
    let names: Vec<&str> = config.plugins.iter().map(|plugin| plugin.name.as_str()).collect();
    let chain = if names.is_empty() { "no plugin".into() } else { names.join(" → ") };
    let (topics, bucket) = (config.kafka.topics.join(", "), &config.store.bucket);
    format!("{topics} → {chain} → bucket {bucket}, consumer group {}", config.kafka.group)
}

fn check_attachments(config: &Config, report: &mut CheckReport) {
    if config.attachments.is_empty() {
        return;
    }
    match Attachments::load(&config.attachments) {
        Ok(_) => report.ok("attachments", format_args!("{} can be read", config.attachments.len())),
        Err(error) => report.failed("attachments", ErrorCode::from(&error), error),
    }
}

fn check_plugins(config: &Config, report: &mut CheckReport) {
    if config.plugins.is_empty() {
        return;
    }
    let runtime = match Runtime::for_config(config) {
        Ok(runtime) => runtime,
        Err(error) => {
            return report.failed("plugin", Exit::Plugin, format_args!("no engine to run plugins: {error:#}"));
        }
    };
    for plugin in &config.plugins {
        let started = Instant::now();
        match runtime.load(plugin) {
            Ok(loaded) => {
                let from = match &plugin.source {
                    PluginSource::Builtin => "builtin".into(),
                    PluginSource::Remote(remote) => remote.address.to_string(),
                    PluginSource::File(path) => {
                        std::path::absolute(path).as_ref().unwrap_or(path).display().to_string()
                    }
                };
                let (name, bytes, digest) = (&plugin.name, loaded.bytes, loaded.digest.short());
                let ms = started.elapsed().as_millis();
                let entries = match &plugin.entries {
                    EntriesAllowed::Any => String::new(),
                    allowed => format!(", may choose entries: {allowed}"),
                };
                let text =
                    format!("plugin `{name}` ({from}): {bytes} bytes, sha256 {digest}…, ready in {ms} ms{entries}");
                report.ok("plugin", text);
            }
            Err(error) => report.failed("plugin", ErrorCode::from(&error), error),
        }
    }
}

/// Whether the address can be listened on. A host that runs there already may be the one that is to be restarted.
fn check_status(config: &Config, report: &mut CheckReport) {
    let Some(address) = &config.status.listen else { return };
    // Another check that runs at the same time holds the address for a moment.
    let bound = TcpListener::bind(address).or_else(|_| {
        std::thread::sleep(Duration::from_millis(200));
        TcpListener::bind(address)
    });
    match bound {
        Ok(_) => report.ok("status", format_args!("{address} is free")),
        Err(error) if error.kind() == ErrorKind::AddrInUse && RunningHost::answers_at(address) => {
            let text = "a reduct-sink runs there already; a second one on this machine needs another status.listen";
            report.warning("status", format_args!("{address}: {text}"));
        }
        Err(error) => {
            let remedy = "set status.listen to an address that is free, or to \"\" for none";
            report.failed(
                "status",
                ErrorCode::StatusAddress,
                format_args!("cannot listen on {address}: {error}; {remedy}"),
            );
        }
    }
}

fn check_kafka(config: &Config, report: &mut CheckReport) {
    let topics = match kafka::check_reading(&config.kafka) {
        Ok(topics) => topics,
        Err(error) => return report.failed("kafka", ErrorCode::from(&error), error),
    };
    report.ok("kafka", format_args!("{} answers", config.kafka.brokers));
    for topic in topics {
        let subject = format!("topic {}", topic.wanted);
        match topic.found {
            Ok(found) => {
                let told = found.iter().map(|topic| match topic.partitions {
                    1 => format!("{}, 1 partition", topic.name),
                    partitions => format!("{}, {partitions} partitions", topic.name),
                });
                report.ok(&subject, told.collect::<Vec<_>>().join("; "));
                for topic in &found {
                    check_entries(config, topic, report);
                }
            }
            Err(error) => report.failed(&subject, ErrorCode::from(&error), error),
        }
    }
    check_labels(config, report);
    let group = format!("group {}", config.kafka.group);
    match kafka::check_group(&config.kafka) {
        Ok(Ok(())) => report.ok(&group, "its coordinator answers"),
        Ok(Err(error)) => report.failed(&group, ErrorCode::from(&error), error),
        Err(error) => report.failed(&group, ErrorCode::from(&error), error),
    }
    if let Some(topic) = &config.dead_letters.topic {
        check_dead_letter_topic(config, topic, report);
    }
}

/// Says what labels a record gets, by the names that queries need.
fn check_labels(config: &Config, report: &mut CheckReport) {
    let header = |key: &'static str, value: &'static str| Header { key: key.into(), value: Some(value.into()) };
    let input = InputRecord {
        source: TopicPartition { topic: "TOPIC".into(), partition: 0 },
        topic_id: None,
        offset: 7,
        timestamp_ms: Some(0),
        key: Some("KEY".into()),
        headers: vec![header("deviceId", "d1"), header("traceparent", "00-1")],
        payload: Some("x".into()),
    };
    let labels = config.labels.all_labels(&OutputRecord::unchanged(input.into()));
    let mut labels: Vec<String> = labels.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    labels.sort();
    let sample =
        "of a record with the key KEY and the headers deviceId=d1 and traceparent=00-1, without those of plugins";
    report.ok("labels", format_args!("{} ({sample})", labels.join(" ")));
}

/// Says what the topic's entries will be called, and warns where two hosts would write one entry.
fn check_entries(config: &Config, topic: &kafka::TopicInfo, report: &mut CheckReport) {
    let several_topics = config.kafka.several_topics();
    // The configuration's templates were parsed when it was validated.
    let template = config.store.entry.as_deref().and_then(|text| Template::parse(text).ok());
    let naming = match &template {
        Some(template) => Naming::configured(template),
        None => Naming::default_for(topic.partitions, several_topics),
    };
    let subject = format!("entries of {}", topic.name);
    let last = u32::try_from(topic.partitions.saturating_sub(1)).unwrap_or(u32::MAX);
    match entries(&naming, &topic.name, last) {
        Ok(text) => report.ok(&subject, text),
        Err(error) => report.failed(&subject, ErrorCode::EntryName, format_args!("{error}; set store.entry")),
    }
    let dead_letters = Template::parse(&config.dead_letters.entry).ok().filter(|_| config.dead_letters.topic.is_none());
    for (key, template) in [("store.entry", template), ("dead_letters.entry", dead_letters)] {
        if !config.store.shared_entries
            && template.is_some_and(|template| template.shares_entries(topic.partitions, several_topics))
        {
            report.warning(
                &subject,
                format_args!(
                    "{key} puts records of several partitions into one entry, so a second host of this group will refuse \
                     to run; put {{topic}} and {{partition}} into {key}, or set store.shared_entries = true if your keys \
                     tie each entry to one partition"
                ),
            );
        }
    }
}

fn entries(naming: &Naming, topic: &str, last: u32) -> Result<String, String> {
    let of = |template: &Template, name: &str, partition| {
        let source = TopicPartition { topic: topic.into(), partition };
        template.render(name, &source).map(|entry| entry.to_string()).map_err(|error| error.to_string())
    };
    let range = |template: &Template, name: &str| {
        let (first, last) = (of(template, name, 0)?, of(template, name, last)?);
        Ok::<_, String>(if first == last { first } else { format!("{first} to {last}") })
    };
    let derived = range(&naming.derived, &topic_segment(topic))?;
    let chosen = range(&naming.chosen, "ENTRY")?;
    Ok(format!("{derived}; an entry ENTRY that a plugin chooses becomes {chosen}"))
}

fn check_dead_letter_topic(config: &Config, topic: &str, report: &mut CheckReport) {
    let subject = format!("dead-letter topic {topic}");
    match kafka::topic(&config.kafka, topic) {
        Ok(Ok(info)) if info.partitions == 1 => report.ok(&subject, "1 partition"),
        Ok(Ok(info)) => report.ok(&subject, format_args!("{} partitions", info.partitions)),
        Ok(Err(kafka::TopicError::Missing)) => report.failed(
            &subject,
            ErrorCode::KafkaTopic,
            "there is no such topic; create it, or correct dead_letters.topic (brokers with auto.create.topics.enable \
             create it for the first dead letter)",
        ),
        Ok(Err(error)) => report.failed(&subject, ErrorCode::KafkaTopic, error),
        Err(error) => report.failed(&subject, ErrorCode::from(&error), error),
    }
}

fn check_store(config: &StoreConfig, report: &mut CheckReport) {
    if config.discard {
        return report.ok("store", "not asked, because store.discard is set and nothing will be written");
    }
    match store::check(config) {
        Ok(store::StoreInfo { version, token, bucket_exists }) => {
            report.ok("store", format_args!("ReductStore {version} at {}, token {token:?}", config.url));
            let state = if bucket_exists { "there, and left as it is" } else { "not there, will be created" };
            report.ok(&format!("bucket {}", config.bucket), state);
        }
        Err(error) => report.failed("store", ErrorCode::from(&error), error),
    }
    if let Some(ca) = config.ca.as_deref().filter(|ca| !Path::exists(ca)) {
        let ca = std::path::absolute(ca).unwrap_or_else(|_| ca.into());
        report.failed(
            "store",
            ErrorCode::StoreClient,
            format_args!("there is no file {}; correct store.tls.ca", ca.display()),
        );
    }
}
