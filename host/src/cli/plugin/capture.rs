//! `reduct-sink plugin capture`.

use std::path::PathBuf;

use clap::Args;
use reduct_sink::config::Flag;
use reduct_sink::devkit::capture::capture;
use reduct_sink::kafka::peek::From;
use serde_json::json;

use super::super::options::ConfigFlags;
use super::{CommandError, ErrorCode, tell_done};

#[derive(Debug, Args)]
pub struct Capture {
    /// Configuration file in TOML, of which [kafka] is used [env: REDUCT_SINK_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The pipeline of the file whose [kafka] is used, where it has several
    #[arg(long, value_name = "NAME")]
    pipeline: Option<String>,
    /// Kafka's brokers, host:port[,host:port…]
    #[arg(long)]
    brokers: Option<String>,
    /// Topic to read; a pattern if it begins with ^ (repeatable)
    #[arg(long, value_name = "TOPIC")]
    topic: Vec<String>,
    /// Property for librdkafka (repeatable)
    #[arg(long, value_name = "NAME=VALUE")]
    property: Vec<String>,
    /// Where to begin in each partition: earliest, latest (wait for new records), or an offset
    #[arg(long, value_name = "PLACE", default_value = "earliest", value_parser = place)]
    from: From,
    /// How many records to write at most
    #[arg(long, value_name = "N", default_value_t = 10)]
    count: u64,
    /// Folder for the fixtures: each record gets a folder in it
    #[arg(short, long, value_name = "DIR", default_value = "fixtures")]
    output: PathBuf,
}

impl Capture {
    pub fn execute(self) -> Result<(), CommandError> {
        let flags = vec![
            Flag::new("kafka.brokers", self.brokers.into_iter().collect()),
            Flag::new("kafka.topics", self.topic),
            Flag::new("kafka.properties", self.property),
        ];
        let options = ConfigFlags::reading_only(self.config, self.pipeline, flags);
        let kafka = options.load()?.only()?.kafka;
        let captured = capture(&kafka, self.from, self.count, &self.output, &mut |path| {
            let path = path.display();
            tell_done(format_args!("{path}"), &json!({ "fixture": path.to_string() }));
        });
        let captured = captured.map_err(CommandError::of)?;
        if captured == 0 && self.count > 0 {
            return Err(CommandError::new(
                ErrorCode::NoRecords,
                anyhow::anyhow!("{} has no record there", kafka.topics.join(", ")),
            ));
        }
        Ok(())
    }
}

fn place(text: &str) -> Result<From, String> {
    match text {
        "earliest" => Ok(From::Earliest),
        "latest" => Ok(From::Latest),
        offset => offset.parse().map(From::Offset).map_err(|_| "expected earliest, latest or an offset".into()),
    }
}
