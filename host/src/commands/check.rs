//! `reduct-sink check`: one line a thing checked, on standard output; what is wrong doesn't keep the rest from being
//! checked.

use std::fmt::Display;
use std::time::Instant;

use clap::Args;
use reduct_sink::config::{Config, Plugin, PluginSource, Store};
use reduct_sink::plugin::Runtime;
use reduct_sink::sink::check as store;
use reduct_sink::source::check as kafka;

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
        report.ok("configuration", summary(&config));
        check_plugins(&config.plugins, &mut report);
        if !self.offline {
            check_kafka(&config, &mut report);
            check_store(&config.store, &mut report);
        }
        // Of several failures the first tells the exit code: plugins come before servers.
        report.first_failure.map_or(Ok(()), |exit| Err(Failure { exit, error: None }))
    }
}

#[derive(Default)]
struct Report {
    first_failure: Option<Exit>,
}

impl Report {
    fn ok(&mut self, what: impl Display, text: impl Display) {
        println!("ok      {what}: {}", one_line(text));
    }

    fn failed(&mut self, exit: Exit, what: impl Display, text: impl Display) {
        println!("FAILED  {what}: {}", one_line(text));
        self.first_failure.get_or_insert(exit);
    }
}

/// Compilers and servers answer in several lines at times.
fn one_line(text: impl Display) -> String {
    let text = text.to_string();
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join("; ")
}

fn summary(config: &Config) -> String {
    let names: Vec<&str> = config.plugins.iter().map(|plugin| plugin.name.as_str()).collect();
    let chain = if names.is_empty() { "no plugin".into() } else { names.join(" → ") };
    format!("{} → {chain} → bucket {}", config.kafka.topics.join(", "), config.store.bucket)
}

fn check_plugins(plugins: &[Plugin], report: &mut Report) {
    if plugins.is_empty() {
        return;
    }
    let runtime = match Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return report.failed(Exit::Plugin, "plugins", format!("no engine to run them: {error:#}")),
    };
    for plugin in plugins {
        let what = format!("plugin {}", plugin.name);
        let started = Instant::now();
        match runtime.load(plugin) {
            Ok(loaded) => {
                let from = match &plugin.source {
                    PluginSource::Builtin => "builtin".into(),
                    PluginSource::File(path) => path.display().to_string(),
                };
                let (bytes, digest) = (loaded.bytes, loaded.digest.short());
                let ms = started.elapsed().as_millis();
                report.ok(what, format!("{from}, {bytes} bytes, sha256 {digest}…, ready in {ms} ms"));
            }
            Err(error) => report.failed(Exit::Plugin, what, error),
        }
    }
}

fn check_kafka(config: &Config, report: &mut Report) {
    let topics = match kafka::check(&config.kafka) {
        Ok(topics) => topics,
        Err(error) => return report.failed(Exit::Unreachable, "kafka", error),
    };
    report.ok("kafka", format!("{} answers", config.kafka.brokers));
    for topic in topics {
        let what = format!("topic {}", topic.wanted);
        match topic.found {
            Ok(found) => {
                let found = found.iter().map(|topic| match topic.partitions {
                    1 => format!("{}, 1 partition", topic.name),
                    partitions => format!("{}, {partitions} partitions", topic.name),
                });
                report.ok(what, found.collect::<Vec<_>>().join("; "));
            }
            Err(error) => report.failed(Exit::Unreachable, what, error),
        }
    }
}

fn check_store(config: &Store, report: &mut Report) {
    if config.discard {
        return report.ok("store", "not asked: store.discard is set, nothing will be written");
    }
    match store::check(config) {
        Ok(info) => {
            report.ok("store", format!("ReductStore {} at {}, token {:?}", info.version, config.url, info.token));
            let bucket = if info.bucket_exists { "there, and left as it is" } else { "not there, will be created" };
            report.ok(format!("bucket {}", config.bucket), bucket);
        }
        Err(error) => report.failed(Exit::Unreachable, "store", error),
    }
}
