//! A host that runs on fetched plugins, and the files and commands around it.
//!
//! Guarantees: every command has Docker's configuration and its cache in the test's own folder; a host that ends has written each
//! record exactly once, with the version of the plugin that the test says.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reduct_sink_testbed::process::{data_folder, wait_for};
use reduct_sink_testbed::sink::run_to_end;
use reduct_sink_testbed::verify::compare;
use reduct_sink_testbed::{Message, Produced, Sink, SinkConfig, bed, figures, read_back, unique};
use tempfile::TempDir;

use crate::guest::guest;

pub const BOUND: Duration = Duration::from_secs(60);

/// Files of a test: components, Docker's configuration, caches.
pub struct Desk(TempDir);

impl Desk {
    pub fn new() -> Result<Self> {
        Ok(Self(data_folder("plugins")?))
    }

    pub fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().context("a folder")?)?;
        fs::write(&path, bytes)?;
        Ok(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A component that gives records its number.
    pub fn version(&self, number: u32) -> Result<PathBuf> {
        self.file(&format!("{number}.wasm"), versioned(number))
    }

    /// Runs a command of the host, with Docker's configuration from the folder of this name.
    pub fn run(&self, docker: &str, args: &[&str]) -> Result<Output> {
        let (docker, cache, path) = (self.path(docker), self.path("user-cache"), std::env::var("PATH")?);
        let path = format!("{}:{path}", self.path("helpers").display());
        let texts = [&docker, &cache].map(|path| path.display().to_string());
        let environment =
            [("DOCKER_CONFIG", texts[0].as_str()), ("XDG_CACHE_HOME", texts[1].as_str()), ("PATH", path.as_str())];
        run_to_end(args, &environment, BOUND)
    }

    /// Pushes a file and returns the address with its digest.
    pub fn push(&self, docker: &str, file: &Path, address: &str, options: &[&str]) -> Result<String> {
        let file = file.display().to_string();
        let output = self.run(docker, &[&["plugin", "push", file.as_str(), address][..], options].concat())?;
        let text = done(&output)?;
        let (_, pinned) = text.trim().rsplit_once(' ').context("an address")?;
        ensure!(pinned.starts_with(&format!("{address}@sha256:")), "{text}");
        Ok(pinned.to_owned())
    }

    /// What `check` says about a configuration without Kafka and ReductStore, and whether it is content.
    pub fn check(&self, docker: &str, config: &SinkConfig) -> Result<(bool, String)> {
        let file = self.file("check.toml", config.text())?;
        let output = self.run(docker, &["check", "--offline", "--config", &file.display().to_string()])?;
        Ok((output.status.success(), text_of(&output)))
    }

    /// A configuration with one plugin, whose cache is the folder of this name.
    pub fn config(&self, cache: &str, path: &str, keys: &str) -> Result<SinkConfig> {
        let config = SinkConfig::new("127.0.0.1:1", "http://127.0.0.1:1", "b").topics(&["t"]);
        let config = config.set("cache.path", self.path(cache).display().to_string());
        config.plugin_with("fetched", Path::new(path), keys)
    }
}

pub fn versioned(number: u32) -> Vec<u8> {
    guest(&format!(r#"(call $label $"version" $"{number}") (call $change)"#))
}

pub fn text_of(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
}

pub fn done(output: &Output) -> Result<String> {
    ensure!(output.status.success(), "{}: {}", output.status, text_of(output));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A host that reads a topic of its own.
pub struct Host {
    pub sink: Sink,
    _folder: TempDir,
    topic: String,
    bucket: String,
    produced: Vec<Produced>,
}

impl Host {
    pub fn start(config: SinkConfig) -> Result<Self> {
        Self::start_in(config, &[])
    }

    /// With variables in its environment; such a host isn't started again.
    pub fn start_in(config: SinkConfig, environment: &[(&str, &str)]) -> Result<Self> {
        let bed = bed()?;
        let (topic, bucket) = (unique("fetched"), unique("fetched"));
        bed.kafka.client().create_topic(&topic, 1)?;
        let config =
            config.topics(&[&topic]).set("kafka.brokers", bed.kafka.brokers()).set("kafka.group", topic.as_str());
        let config = config.set("store.url", bed.store.url()).set("store.bucket", bucket.as_str());
        let folder = data_folder("config")?;
        let file = folder.path().join("sink.toml");
        let sink = if environment.is_empty() {
            Sink::start(&config)?
        } else {
            fs::write(&file, config.text())?;
            Sink::start_with(&["--config", &file.display().to_string()], environment)?
        };
        Ok(Self { sink, _folder: folder, topic, bucket, produced: Vec::new() })
    }

    /// Sends it records and waits until they are handled.
    pub fn handle(&mut self, count: usize) -> Result<()> {
        let kafka = bed()?.kafka.client();
        let from = self.produced.len();
        let messages = (from..from + count).map(|n| Message::new(format!("record {n}")));
        self.produced.extend(kafka.produce(&self.topic, messages)?);
        self.sink.wait_caught_up(&kafka, &self.topic, &[&self.topic], BOUND)
    }

    /// Waits until the log has this text once more than before.
    pub fn wait_more(&mut self, text: &str, before: usize) -> Result<()> {
        wait_for(&format!("the host to say {text:?} again"), BOUND, || {
            self.sink.process().expect_running()?;
            Ok((self.sink.log()?.matches(text).count() > before).then_some(()))
        })
    }

    pub fn said(&self, text: &str) -> Result<usize> {
        Ok(self.sink.log()?.matches(text).count())
    }

    /// Stops it, and compares the versions that the records were given with these numbers of records.
    pub async fn end(mut self, versions: &[(&str, usize)]) -> Result<()> {
        self.sink.stop_cleanly()?;
        figures::add("registry_pulls", self.said("fetched the plugin's component")? as f64)?;
        let stored = read_back(&bed()?.store.client()?, &self.bucket, "*").await?;
        compare(&self.produced, &stored)?.exact()?;
        for (version, count) in versions {
            let found =
                stored.iter().filter(|record| record.labels.get("version").is_some_and(|label| label == version));
            let found = found.count();
            ensure!(found == *count, "{found} records have the version {version}, expected {count}");
        }
        Ok(())
    }
}
