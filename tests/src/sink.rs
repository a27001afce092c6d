//! The host as a child process, with its configuration in a temporary folder.
//!
//! Guarantees: the host gets exactly the configuration, flags and variables of the test, and no `REDUCT_SINK_…` or `OTEL_…` variable of
//! the machine.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;
use toml::{Table, Value};

use crate::client::KafkaClient;
use crate::process::{self, Process, unique};

/// The host must end within 25 s of SIGTERM. The bound is longer, so that a late end is reported as late.
const STOP_WITHIN: Duration = Duration::from_secs(40);

/// The names of the pipelines of a configuration with a [`Beside`].
const JOB: &str = "job";
const BESIDE: &str = "beside";

/// A configuration to be written to a file. Any key can be set.
#[derive(Debug, Clone)]
pub struct SinkConfig {
    table: Table,
    beside: Option<Beside>,
}

/// A second pipeline in the hosts of a configuration: with the same settings, but without plugins, and with a topic, a group
/// and a bucket of its own.
#[derive(Debug, Clone)]
pub struct Beside {
    pub brokers: String,
    pub topic: String,
    pub group: String,
    pub bucket: String,
}

impl Beside {
    /// The pipeline beside this one.
    fn of(&self, job: &Table) -> Table {
        let mut config = SinkConfig { table: job.clone(), beside: None };
        for key in ["plugins", "dead_letters"] {
            config.table.remove(key);
        }
        // It would leave out what was produced before the host's start.
        config.table.get_mut("kafka").and_then(Value::as_table_mut).and_then(|kafka| kafka.remove("start"));
        let config = config.set("kafka.brokers", self.brokers.as_str()).topics(&[&self.topic]);
        config.set("kafka.group", self.group.as_str()).set("store.bucket", self.bucket.as_str()).table
    }
}

impl SinkConfig {
    /// The passthrough into `bucket`, in a new consumer group, without an HTTP port.
    pub fn new(brokers: &str, url: &str, bucket: &str) -> Self {
        let config = Self { table: Table::new(), beside: None };
        let config = config
            .set("kafka.brokers", brokers)
            .set("kafka.group", unique("group"))
            .set("store.url", url)
            .set("store.bucket", bucket)
            .set("status.listen", "");
        // Runs any suite with hosts that have names.
        match std::env::var("TESTBED_MEMBER") {
            Ok(member) => config.set("kafka.member", member),
            Err(_) => config,
        }
    }

    /// A configuration with several pipelines. The keys for the whole process are taken from the first one.
    pub fn several(pipelines: &[(&str, &Self)]) -> Self {
        const OF_PROCESS: [&str; 3] = ["status", "cache", "trust"];
        let (mut table, mut tables) = (Table::new(), Table::new());
        for (name, pipeline) in pipelines {
            let mut own = pipeline.table.clone();
            for key in OF_PROCESS {
                if let Some(value) = own.remove(key) {
                    table.entry(key).or_insert(value);
                }
            }
            if let Some(beside) = &pipeline.beside {
                tables.insert(format!("{name}-{BESIDE}"), beside.of(&own).into());
            }
            tables.insert((*name).to_owned(), own.into());
        }
        table.insert("pipelines".into(), tables.into());
        Self { table, beside: None }
    }

    /// Gives the hosts a second pipeline.
    pub fn beside(mut self, beside: Option<Beside>) -> Self {
        self.beside = beside;
        self
    }

    pub fn topics(self, topics: &[&str]) -> Self {
        self.set("kafka.topics", topics.iter().map(|&topic| topic.into()).collect::<Vec<Value>>())
    }

    /// Sets a key by its path, such as `kafka.group`; tables on the way are made.
    pub fn set(mut self, path: &str, value: impl Into<Value>) -> Self {
        let mut names: Vec<&str> = path.split('.').collect();
        let last = names.pop().expect("a split has a part");
        let mut table = &mut self.table;
        for name in names {
            let inner = table.entry(name).or_insert_with(|| Table::new().into());
            table = inner.as_table_mut().expect("the path leads through tables");
        }
        table.insert(last.to_owned(), value.into());
        self
    }

    /// Sets a librdkafka property.
    pub fn property(mut self, name: &str, value: &str) -> Self {
        self = self.set("kafka.properties._", "");
        let properties = self.table["kafka"]["properties"].as_table_mut().expect("just made");
        properties.remove("_");
        properties.insert(name.to_owned(), value.into());
        self
    }

    /// Sets a librdkafka property to what a file holds.
    pub fn property_file(mut self, name: &str, file: &Path) -> Self {
        self = self.property(name, "");
        let properties = self.table["kafka"]["properties"].as_table_mut().expect("just made");
        let reference = Table::from_iter([("file".to_owned(), file.display().to_string().into())]);
        properties.insert(name.to_owned(), reference.into());
        self
    }

    /// Takes a librdkafka property out again.
    pub fn without_property(mut self, name: &str) -> Self {
        let properties = self.table.get_mut("kafka").and_then(|kafka| kafka.get_mut("properties"));
        properties.and_then(Value::as_table_mut).and_then(|properties| properties.remove(name));
        self
    }

    /// No plugin at all, not even the passthrough.
    pub fn without_plugins(self) -> Self {
        self.set("plugins", Vec::<Value>::new())
    }

    /// Adds a plugin to the chain: a component's file and its configuration, in TOML.
    pub fn plugin(self, name: &str, path: &Path, config: &str) -> Result<Self> {
        let config = config.parse::<Table>()?;
        self.plugin_table(name, path, Table::from_iter([("config".to_owned(), config.into())]))
    }

    /// Adds a plugin with other keys than its configuration, in TOML.
    pub fn plugin_with(self, name: &str, path: &Path, keys: &str) -> Result<Self> {
        self.plugin_table(name, path, keys.parse()?)
    }

    fn plugin_table(mut self, name: &str, path: &Path, mut plugin: Table) -> Result<Self> {
        plugin.insert("name".into(), name.into());
        plugin.insert("path".into(), path.to_str().context("a path that is UTF-8")?.into());
        let plugins = self.table.entry("plugins").or_insert_with(|| Value::Array(Vec::new()));
        plugins.as_array_mut().expect("plugins are an array").push(plugin.into());
        Ok(self)
    }

    pub fn get(&self, path: &str) -> Option<&str> {
        let mut value = self.table.get(path.split('.').next()?)?;
        for name in path.split('.').skip(1) {
            value = value.get(name)?;
        }
        value.as_str()
    }

    pub fn group(&self) -> &str {
        self.get("kafka.group").unwrap_or_default()
    }

    pub fn bucket(&self) -> &str {
        self.get("store.bucket").unwrap_or_default()
    }

    pub fn text(&self) -> String {
        match self.beside {
            Some(_) => Self::several(&[(JOB, self)]).text(),
            None => self.table.to_string(),
        }
    }
}

/// A running `reduct-sink run`.
pub struct Sink {
    folder: TempDir,
    log: PathBuf,
    /// The length of the log when the current process was started.
    log_begin: usize,
    process: Process,
}

impl Sink {
    pub fn start(config: &SinkConfig) -> Result<Self> {
        let folder = process::data_folder("sink")?;
        std::fs::write(folder.path().join("sink.toml"), config.text())?;
        let log = process::new_log("sink")?;
        let process = Process::spawn("reduct-sink", run_with(folder.path())?, &log)?;
        Ok(Self { folder, log, log_begin: 0, process })
    }

    /// Starts `reduct-sink run` with flags and variables alone.
    pub fn start_with(args: &[&str], environment: &[(&str, &str)]) -> Result<Self> {
        let folder = process::data_folder("sink")?;
        let log = process::new_log("sink")?;
        let mut command = command()?;
        command.arg("run").args(args).envs(environment.iter().copied()).current_dir(folder.path());
        let process = Process::spawn("reduct-sink", command, &log)?;
        Ok(Self { folder, log, log_begin: 0, process })
    }

    /// Replaces the configuration file of a running host.
    pub fn reconfigure(&self, config: &SinkConfig) -> Result<()> {
        let (new, file) = (self.folder.path().join("sink.toml.new"), self.folder.path().join("sink.toml"));
        std::fs::write(&new, config.text())?;
        Ok(std::fs::rename(new, file)?)
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The folder of the configuration. Relative paths in the configuration begin here.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The log without the lines of a pipeline [`Beside`] the test's own.
    pub fn log(&self) -> Result<String> {
        log_of(&self.log)
    }

    /// How many records the host gave up when it stopped, because the store had not acknowledged them in time.
    pub fn unacknowledged(&self) -> Result<u64> {
        let log = self.log()?;
        let given_up = log.lines().filter(|line| line.contains("not acknowledged in time"));
        Ok(given_up.filter_map(|line| line.split_once("in_flight=")?.1.trim().parse::<u64>().ok()).sum())
    }

    /// Waits until the log contains `text`.
    pub fn wait_log(&mut self, text: &str, bound: Duration) -> Result<()> {
        process::wait_for(&format!("the sink to say {text:?}"), bound, || {
            let found = log_of(&self.log)?.contains(text);
            if !found {
                self.process.expect_running()?;
            }
            Ok(found.then_some(()))
        })
        .with_context(|| format!("the sink's log says:\n{}", process::tail(&self.log, 20)))
    }

    /// Waits until the group has committed all that these topics hold now. `bound` is how long it may go on without committing
    /// anything more: how long it takes in all depends on the machine.
    pub fn wait_caught_up(&mut self, kafka: &KafkaClient, group: &str, topics: &[&str], bound: Duration) -> Result<()> {
        // One question for each partition, and so not asked each time; but a log may be cut off in the meantime.
        const ENDS_FOR: Duration = Duration::from_secs(3);
        let view = kafka.group(group)?;
        let (mut ends, mut left, mut moved) = (HashMap::new(), None, Instant::now());
        let mut last = String::new();
        process::wait_for(&format!("group {group} to reach the end"), Duration::MAX, || {
            self.process.expect_running()?;
            for topic in topics {
                ends.retain(|_, (asked, _): &mut (Instant, Vec<_>)| asked.elapsed() < ENDS_FOR);
                let lag = match ends.entry(*topic) {
                    Entry::Occupied(known) => view.lag_within(topic, &known.get().1),
                    Entry::Vacant(unknown) => view.bounds(topic).and_then(|bounds| {
                        let (_, bounds) = unknown.insert((Instant::now(), bounds));
                        view.lag_within(topic, bounds)
                    }),
                };
                // Kafka may be busy or coming back: an error is an answer that isn't there yet.
                last = match lag {
                    Ok(0) => continue,
                    Ok(lag) => {
                        // Less than at the last look: after a restart of the store it may be more than it was once.
                        if left.is_none_or(|(of, before)| of != *topic || lag < before) {
                            moved = Instant::now();
                        }
                        left = Some((*topic, lag));
                        format!("{topic} has {lag} records left")
                    }
                    Err(error) => format!("{error:#}"),
                };
                ensure!(moved.elapsed() < bound, "nothing was committed for {:.1} s", bound.as_secs_f64());
                return Ok(None);
            }
            Ok(Some(()))
        })
        .with_context(|| format!("{last}; the sink's log says:\n{}", process::tail(&self.log, 20)))
    }

    /// Sends SIGTERM and returns how the sink ended. It waits for the sink to handle signals first, because an earlier
    /// SIGTERM would kill it.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        process::wait_for("the sink to start", STOP_WITHIN, || {
            let log = std::fs::read(&self.log)?;
            let started = String::from_utf8_lossy(log.get(self.log_begin..).unwrap_or_default()).contains("starting");
            if !started {
                self.process.expect_running()?;
            }
            Ok(started.then_some(()))
        })?;
        self.process.signal(libc::SIGTERM)?;
        self.process.wait(STOP_WITHIN)
    }

    /// SIGTERM; an error unless the sink ends with 0.
    pub fn stop_cleanly(&mut self) -> Result<()> {
        let status = self.stop()?;
        ensure!(status.success(), "the sink ended with {status}; its log says:\n{}", process::tail(&self.log, 20));
        Ok(())
    }

    pub fn kill9(&mut self) -> Result<()> {
        self.process.kill9()?;
        Ok(())
    }

    /// Kills the sink if it runs, and starts it again with the same configuration.
    pub fn start_again(&mut self) -> Result<()> {
        self.process.kill9()?;
        self.log_begin = std::fs::read(&self.log)?.len();
        self.process = Process::spawn("reduct-sink", run_with(self.folder.path())?, &self.log)?;
        Ok(())
    }
}

/// Runs the host to its end, as for `check`. A host that does not end within `bound` is killed, which is an error.
pub fn run_to_end(args: &[&str], environment: &[(&str, &str)], bound: Duration) -> Result<Output> {
    let mut command = command()?;
    command.args(args).envs(environment.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn()?;
    let pid = child.id() as libc::pid_t;
    let (done, result) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(child.wait_with_output()));
    if let Ok(output) = result.recv_timeout(bound) {
        return Ok(output?);
    }
    // SAFETY: plain system call; the thread above hasn't reaped the child, or it would have answered.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    bail!("reduct-sink {} didn't end within {} s", args.join(" "), bound.as_secs())
}

fn log_of(file: &Path) -> Result<String> {
    let text = String::from_utf8_lossy(&std::fs::read(file)?).into_owned();
    let is_beside = |line: &&str| {
        let pipeline = line.split_once("pipeline=\"").and_then(|(_, rest)| rest.split('"').next());
        pipeline.is_some_and(|name| name.ends_with(&format!("-{BESIDE}")))
    };
    Ok(text.split_inclusive('\n').filter(|line| !is_beside(line)).collect())
}

/// The host's binary, beside the one that runs now.
pub fn binary() -> Result<PathBuf> {
    let here = std::env::current_exe()?;
    let found = here.ancestors().skip(1).take(3).map(|folder| folder.join("reduct-sink")).find(|path| path.is_file());
    found.context("no reduct-sink beside the test binary: run cargo build --release first")
}

fn command() -> Result<Command> {
    let mut command = Command::new(binary()?);
    for (name, _) in std::env::vars_os().filter(|(name, _)| {
        name.to_string_lossy().starts_with("REDUCT_SINK_") || name.to_string_lossy().starts_with("OTEL_")
    }) {
        command.env_remove(name);
    }
    Ok(command)
}

fn run_with(folder: &Path) -> Result<Command> {
    let mut command = command()?;
    command.arg("run").arg("--config").arg(folder.join("sink.toml")).current_dir(folder);
    Ok(command)
}
