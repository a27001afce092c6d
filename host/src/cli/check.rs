//! `reduct-sink check`: one line a thing checked, on standard output; what is wrong doesn't keep the rest from being
//! checked.

use std::fmt::Display;
use std::io::Write;
use std::time::Instant;

use clap::Args;
use reduct_sink::config::{Config, PluginSource, Store};
use reduct_sink::kafka::metadata as kafka;
use reduct_sink::plugin::Runtime;
use reduct_sink::sink::check as store;

use super::options::Options;
use super::{Exit, Failure};

#[derive(Debug, Args)]
pub struct Check {
    #[command(flatten)]
    options: Options,
    /// Check the configuration and the plugins only; ask neither Kafka nor ReductStore
    #[arg(long)]
    offline: bool,
}

impl Check {
    pub fn execute(self) -> Result<(), Failure> {
        let config = self.options.load()?;
        let mut report = Report::default();
        report.ok(format_args!("configuration: {}", summary(&config)));
        check_plugins(&config, &mut report);
        if !self.offline {
            check_kafka(&config, &mut report);
            check_store(&config.store, &mut report);
        }
        report.worst.map_or(Ok(()), |exit| Err(Failure { exit, error: None }))
    }
}

#[derive(Default)]
struct Report {
    /// Of several failures the lowest code tells: what has to be mended first.
    worst: Option<Exit>,
}

impl Report {
    fn ok(&mut self, text: impl Display) {
        self.line("ok    ", text);
    }

    fn failed(&mut self, exit: Exit, text: impl Display) {
        self.line("FAILED", text);
        self.worst = Some(self.worst.map_or(exit, |worst| worst.min(exit)));
    }

    /// Whoever closes the pipe has read enough; the exit code still tells.
    fn line(&self, outcome: &str, text: impl Display) {
        let text = text.to_string();
        // Compilers and servers answer in several lines at times.
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let _ = writeln!(std::io::stdout(), "{outcome}  {}", lines.join("; "));
    }
}

fn summary(config: &Config) -> String {
    let names: Vec<&str> = config.plugins.iter().map(|plugin| plugin.name.as_str()).collect();
    let chain = if names.is_empty() { "no plugin".into() } else { names.join(" → ") };
    format!("{} → {chain} → bucket {}", config.kafka.topics.join(", "), config.store.bucket)
}

fn check_plugins(config: &Config, report: &mut Report) {
    if config.plugins.is_empty() {
        return;
    }
    let runtime = match Runtime::for_config(config) {
        Ok(runtime) => runtime,
        Err(error) => return report.failed(Exit::Plugin, format_args!("no engine to run plugins: {error:#}")),
    };
    for plugin in &config.plugins {
        let started = Instant::now();
        match runtime.load(plugin) {
            Ok(loaded) => {
                let from = match &plugin.source {
                    PluginSource::Builtin => "builtin".into(),
                    PluginSource::File(path) => path.display().to_string(),
                };
                let (name, bytes, digest) = (&plugin.name, loaded.bytes, loaded.digest.short());
                let ms = started.elapsed().as_millis();
                report.ok(format_args!("plugin `{name}` ({from}): {bytes} bytes, sha256 {digest}…, ready in {ms} ms"));
            }
            Err(error) => report.failed(Exit::Plugin, error),
        }
    }
}

fn check_kafka(config: &Config, report: &mut Report) {
    let topics = match kafka::check_reading(&config.kafka) {
        Ok(topics) => topics,
        Err(error @ kafka::CheckError::Property(_)) => {
            return report.failed(Exit::Usage, format_args!("kafka: {error}"));
        }
        Err(error) => return report.failed(Exit::Unreachable, format_args!("kafka: {error}")),
    };
    report.ok(format_args!("kafka: {} answers", config.kafka.brokers));
    for topic in topics {
        let wanted = &topic.wanted;
        match topic.found {
            Ok(found) => {
                let found = found.iter().map(|topic| match topic.partitions {
                    1 => format!("{}, 1 partition", topic.name),
                    partitions => format!("{}, {partitions} partitions", topic.name),
                });
                report.ok(format_args!("topic {wanted}: {}", found.collect::<Vec<_>>().join("; ")));
            }
            Err(error) => report.failed(Exit::Unreachable, format_args!("topic {wanted}: {error}")),
        }
    }
    match kafka::check_group(&config.kafka) {
        Ok(Ok(())) => report.ok(format_args!("group {}: its coordinator answers", config.kafka.group)),
        Ok(Err(error)) => report.failed(Exit::Unreachable, format_args!("group {}: {error}", config.kafka.group)),
        Err(error) => report.failed(Exit::Unreachable, format_args!("group {}: {error}", config.kafka.group)),
    }
    if let Some(topic) = &config.dead_letters.topic {
        check_dead_letter_topic(config, topic, report);
    }
}

fn check_dead_letter_topic(config: &Config, topic: &str, report: &mut Report) {
    match kafka::topic(&config.kafka, topic) {
        Ok(Ok(info)) if info.partitions == 1 => report.ok(format_args!("dead-letter topic {topic}: 1 partition")),
        Ok(Ok(info)) => report.ok(format_args!("dead-letter topic {topic}: {} partitions", info.partitions)),
        Ok(Err(kafka::TopicError::Missing)) => report.failed(
            Exit::Unreachable,
            format_args!(
                "dead-letter topic {topic}: there is no such topic; create it, or mend dead_letters.topic (brokers with \
                 auto.create.topics.enable create it for the first dead letter)"
            ),
        ),
        Ok(Err(error)) => report.failed(Exit::Unreachable, format_args!("dead-letter topic {topic}: {error}")),
        Err(error) => report.failed(Exit::Unreachable, format_args!("dead-letter topic {topic}: {error}")),
    }
}

fn check_store(config: &Store, report: &mut Report) {
    if config.discard {
        return report.ok("store: not asked, because store.discard is set and nothing will be written");
    }
    match store::check(config) {
        Ok(store::StoreInfo { version, token, bucket_exists }) => {
            report.ok(format_args!("store: ReductStore {version} at {}, token {token:?}", config.url));
            let state = if bucket_exists { "there, and left as it is" } else { "not there, will be created" };
            report.ok(format_args!("bucket {}: {state}", config.bucket));
        }
        Err(error @ store::CheckError::Client(_)) => report.failed(Exit::Usage, format_args!("store: {error}")),
        Err(error) => report.failed(Exit::Unreachable, format_args!("store: {error}")),
    }
}
