//! The flags that make up a configuration, for every command that needs one.

use std::path::PathBuf;

use clap::Args;
use reduct_sink::config::{self, Config, Flag, Loaded, Place, Sources};

use super::{Exit, Failure};

/// Flags win over the environment (REDUCT_SINK_BROKERS, …), the environment over the file.
#[derive(Debug, Default, Args)]
pub struct Options {
    /// Configuration file in TOML [env: REDUCT_SINK_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Kafka's brokers, host:port[,host:port…]
    #[arg(long)]
    brokers: Option<String>,
    /// Topic to read; a pattern if it begins with ^ (repeatable)
    #[arg(long, value_name = "TOPIC")]
    topic: Vec<String>,
    /// Consumer group [default: reduct-sink]
    #[arg(long)]
    group: Option<String>,
    /// Where a partition without a committed offset begins: earliest, latest or fail [default: earliest]
    #[arg(long)]
    start: Option<String>,
    /// ReductStore's address [default: http://127.0.0.1:8383]
    #[arg(long)]
    url: Option<String>,
    /// Access token; others may see a command line, so REDUCT_SINK_TOKEN or store.token_file are better places
    #[arg(long)]
    token: Option<String>,
    /// Bucket to write to
    #[arg(long)]
    bucket: Option<String>,
    /// Entry's name, from {name}, {topic} and {partition}
    #[arg(long, value_name = "TEMPLATE")]
    entry: Option<String>,
    /// Component to run each record through (repeatable: a chain in this order, instead of the file's) [default: the
    /// builtin passthrough]
    #[arg(long, value_name = "FILE")]
    plugin: Vec<String>,
    /// Run no plugin at all
    #[arg(long, conflicts_with = "plugin")]
    no_plugins: bool,
    /// Property for librdkafka (repeatable)
    #[arg(long, value_name = "NAME=VALUE")]
    property: Vec<String>,
    /// Write nothing and call it settled: for measuring the host itself
    #[arg(long)]
    discard: bool,
    /// Address for /health and /status over HTTP; "" for none [default: 127.0.0.1:9640]
    #[arg(long, value_name = "HOST:PORT")]
    status: Option<String>,
}

impl Options {
    /// For a command that only reads Kafka: what the configuration says of the store doesn't matter.
    pub fn reading_only(
        config: Option<PathBuf>,
        brokers: Option<String>,
        topic: Vec<String>,
        property: Vec<String>,
    ) -> Self {
        let bucket = Some("none".into());
        Self { config, brokers, topic, property, bucket, no_plugins: true, ..Self::default() }
    }

    /// The validated configuration; warnings are logged.
    pub fn load(self) -> Result<Config, Failure> {
        self.load_from().map(|(config, _)| config)
    }

    /// The same with what it came from, to be read again.
    pub fn load_from(self) -> Result<(Config, Sources), Failure> {
        const VARIABLE: &str = "REDUCT_SINK_CONFIG";
        let by_flag = self.config.clone().map(|path| (path, Place::Flag("--config")));
        let by_variable = || {
            let path = std::env::var_os(VARIABLE).filter(|path| !path.is_empty())?;
            Some((path.into(), Place::Environment(VARIABLE.into())))
        };
        let file = by_flag.or_else(by_variable);
        let environment = std::env::vars_os().collect();
        let sources = Sources { file, environment, flags: self.flags() };
        let Loaded { warnings, config } = config::load(sources.clone());
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        let config = config.map_err(|problems| Failure::new(Exit::Usage, problems))?;
        Ok((config, sources))
    }

    fn flags(self) -> Vec<Flag> {
        let one = |key, value: Option<String>| value.map(|value| Flag { key, values: vec![value] });
        let several = |key, values: Vec<String>| (!values.is_empty()).then_some(Flag { key, values });
        let flags = [
            one("kafka.brokers", self.brokers),
            several("kafka.topics", self.topic),
            one("kafka.group", self.group),
            one("kafka.start", self.start),
            several("kafka.properties", self.property),
            one("store.url", self.url),
            one("store.token", self.token),
            one("store.bucket", self.bucket),
            one("store.entry", self.entry),
            one("status.listen", self.status),
            one("store.discard", self.discard.then(|| "true".into())),
            several("plugins", self.plugin),
            self.no_plugins.then(|| Flag { key: "plugins", values: Vec::new() }),
        ];
        flags.into_iter().flatten().collect()
    }
}
