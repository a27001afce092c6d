//! Apache Kafka as a child process: one node in KRaft mode, broker and controller in one, and further brokers of its
//! cluster.
//!
//! Guarantees: a started Kafka answers and can create a topic; `restart` keeps its data and its address;
//! it accepts payloads of 16 MiB.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::client::KafkaClient;
use crate::process::{self, Process};

const READY_WITHIN: Duration = Duration::from_secs(90);
const STOP_WITHIN: Duration = Duration::from_secs(30);
const LOG_SETTINGS: &str = include_str!("../kafka/log4j2.properties");

pub struct Kafka {
    home: TempDir,
    log: PathBuf,
    port: u16,
    /// Where the cluster's controller listens.
    controller: u16,
    listeners: Vec<(&'static str, u16)>,
    /// Options of the JVM that runs it.
    options: Vec<String>,
    process: Process,
}

/// What a Kafka has besides its plain listener.
#[derive(Default)]
pub struct Security<'a> {
    /// Names and protocols, such as `MTLS` and `SSL`.
    pub listeners: &'a [(&'static str, &'a str)],
    pub properties: &'a [(&'a str, &'a str)],
    /// User names and passwords for SCRAM-SHA-512.
    pub scram_users: &'a [(&'a str, &'a str)],
    /// Options of the JVM that runs it.
    pub options: Vec<String>,
}

impl Kafka {
    pub fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// Starts a Kafka with further server properties, which win over those set here.
    pub fn start_with(properties: &[(&str, &str)]) -> Result<Self> {
        let mut kafka = Self::start_unready(properties)?;
        kafka.wait_ready()?;
        Ok(kafka)
    }

    /// Starts a Kafka with more server properties and doesn't wait until it is ready, because the tests' own client
    /// can't reach it or may not use it.
    pub fn start_unready(properties: &[(&str, &str)]) -> Result<Self> {
        Self::start_secured(&Security { properties, ..Security::default() })
    }

    /// Starts a Kafka with further listeners, and doesn't wait until it is ready.
    pub fn start_secured(security: &Security<'_>) -> Result<Self> {
        let home = process::data_folder("kafka")?;
        let log = process::new_log("kafka")?;
        let (port, controller) = (process::free_port()?, process::free_port()?);
        let mut listeners = Vec::new();
        for (name, _) in security.listeners {
            listeners.push((*name, process::free_port()?));
        }
        let settings = server_properties(home.path(), port, controller, &listeners, security);
        let mut format = vec!["--standalone".to_owned()];
        for (user, password) in security.scram_users {
            format.extend(["--add-scram".into(), format!("SCRAM-SHA-512=[name={user},password={password}]")]);
        }
        let options = security.options.clone();
        let process = start_new(home.path(), &log, &settings, &format, &options)?;
        Ok(Self { home, log, port, controller, listeners, options, process })
    }

    /// Starts another broker of this cluster, and waits until it is registered. It has no part in the controller.
    pub fn start_broker(&self, node: i32, properties: &[(&str, &str)]) -> Result<Self> {
        let home = process::data_folder("kafka")?;
        let log = process::new_log("kafka")?;
        let port = process::free_port()?;
        let (id, address) = (node.to_string(), format!("PLAINTEXT://127.0.0.1:{port}"));
        let own = [("process.roles", "broker"), ("node.id", &id), ("listeners", &address)];
        let properties: Vec<_> = own.into_iter().chain(properties.iter().copied()).collect();
        let security = Security { properties: &properties, ..Security::default() };
        let settings = server_properties(home.path(), port, self.controller, &[], &security);
        let process = start_new(home.path(), &log, &settings, &[], &[])?;
        let (listeners, options) = (Vec::new(), Vec::new());
        let mut broker = Self { home, log, port, controller: self.controller, listeners, options, process };
        broker.wait_registered(node)?;
        Ok(broker)
    }

    /// Waits until this broker is registered in the cluster.
    pub fn wait_registered(&mut self, node: i32) -> Result<()> {
        let client = self.client();
        process::wait_for("the broker to be registered", READY_WITHIN, || {
            self.process.expect_running()?;
            let admin = client.admin()?;
            let Ok(metadata) = admin.inner().fetch_metadata(None, Duration::from_secs(2)) else { return Ok(None) };
            Ok(metadata.brokers().iter().any(|broker| broker.id() == node).then_some(()))
        })
    }

    /// The value for `bootstrap.servers`.
    pub fn brokers(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The value for `bootstrap.servers` to reach one of the further listeners.
    pub fn brokers_at(&self, listener: &str) -> Result<String> {
        let found = self.listeners.iter().find(|(name, _)| *name == listener);
        let (_, port) = found.with_context(|| format!("this Kafka has no listener {listener}"))?;
        Ok(format!("127.0.0.1:{port}"))
    }

    /// The folder of its topics' logs.
    pub fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    pub fn client(&self) -> KafkaClient {
        KafkaClient::new(&self.brokers())
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    pub fn stop(&mut self) -> Result<()> {
        self.process.stop(STOP_WITHIN)?;
        Ok(())
    }

    pub fn kill9(&mut self) -> Result<()> {
        self.process.kill9()?;
        Ok(())
    }

    /// Starts Kafka again on its port and data; one that still runs is stopped first.
    pub fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.start_again()?;
        self.wait_ready()
    }

    /// Starts Kafka again and doesn't wait until it is ready.
    pub fn start_again(&mut self) -> Result<()> {
        self.process = Process::spawn("Kafka", server(self.home.path(), &self.options)?, &self.log)?;
        Ok(())
    }

    pub fn suspend(&mut self) -> Result<()> {
        self.process.signal(libc::SIGSTOP)
    }

    pub fn resume(&mut self) -> Result<()> {
        self.process.signal(libc::SIGCONT)
    }

    /// Waits until Kafka is ready. An open port isn't enough: the broker must be registered, and the controller must
    /// accept requests.
    pub fn wait_ready(&mut self) -> Result<()> {
        let client = self.client();
        process::wait_for("Kafka to be ready", READY_WITHIN, || {
            self.process.expect_running()?;
            Ok(client.probe().ok())
        })
    }
}

/// The version in `kafka/pom.xml`, which is the one place that names it, unless `TESTBED_KAFKA` names another.
pub fn version() -> Result<String> {
    if let Some(version) = process::another_version("TESTBED_KAFKA") {
        return Ok(version);
    }
    let pom = include_str!("../kafka/pom.xml");
    let start = pom.split("<kafka.version>").nth(1).context("kafka/pom.xml names no kafka.version")?;
    Ok(start.split('<').next().context("kafka/pom.xml names no kafka.version")?.to_owned())
}

fn start_new(home: &Path, log: &Path, settings: &str, format: &[String], options: &[String]) -> Result<Process> {
    std::fs::write(home.join("server.properties"), settings)?;
    std::fs::write(home.join("log4j2.properties"), LOG_SETTINGS)?;
    format_storage(home, format)?;
    Process::spawn("Kafka", server(home, options)?, log)
}

fn format_storage(home: &Path, args: &[String]) -> Result<()> {
    let output = java(home, 128)?
        .args(["kafka.tools.StorageTool", "format", "--cluster-id", "cmVkdWN0LXNpbmstdGVzdA"])
        .args(args)
        .arg("--config")
        .arg(home.join("server.properties"))
        .output()
        .context("can't start java")?;
    if !output.status.success() {
        bail!("Kafka's storage can't be formatted: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

fn server(home: &Path, options: &[String]) -> Result<Command> {
    let mut command = java(home, 512)?;
    command.args(options).arg("kafka.Kafka").arg(home.join("server.properties"));
    Ok(command)
}

/// The command that runs Java. With the serial collector, only the first compiler tier and the archive of classes that tests/setup made,
/// Kafka starts sooner on two cores and leaves more of them to others.
fn java(home: &Path, heap_mb: u32) -> Result<Command> {
    let jars = process::cache()?.join(format!("kafka-{}", version()?));
    ensure!(jars.is_dir(), "Kafka isn't in {}: run tests/setup kafka", jars.display());
    let archive = jars.with_file_name(format!("kafka-{}.jsa", version()?));
    let mut command = Command::new("java");
    command
        .arg(format!("-Xmx{heap_mb}m"))
        .args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"])
        .args(archive.is_file().then(|| format!("-XX:SharedArchiveFile={}", archive.display())))
        // The libraries that it unpacks stay there when it is killed.
        .arg(format!("-Djava.io.tmpdir={}", home.display()))
        .arg(format!("-Dlog4j2.configurationFile={}", home.join("log4j2.properties").display()))
        .arg("-cp")
        .arg(jars.join("*"));
    Ok(command)
}

/// The server's properties. The broker's session is shorter than by default, because after a kill the controller
/// accepts the broker again only when the killed one's session is over. Without records that say nothing, which the controller writes twice a
/// second by default, an idle Kafka takes two thirds of the processor time.
fn server_properties(
    home: &Path,
    port: u16,
    controller: u16,
    listeners: &[(&str, u16)],
    security: &Security<'_>,
) -> String {
    let data = home.join("data");
    let addresses: String = listeners.iter().map(|(name, port)| format!(",{name}://127.0.0.1:{port}")).collect();
    let protocols: String = security.listeners.iter().map(|(name, protocol)| format!(",{name}:{protocol}")).collect();
    let mut text = format!(
        "process.roles=broker,controller\n\
         node.id=1\n\
         controller.quorum.bootstrap.servers=127.0.0.1:{controller}\n\
         listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}{addresses}\n\
         controller.listener.names=CONTROLLER\n\
         listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT{protocols}\n\
         log.dirs={data}\n\
         message.max.bytes={LARGEST}\n\
         replica.fetch.max.bytes={LARGEST}\n\
         socket.request.max.bytes=104857600\n\
         num.partitions=1\n\
         default.replication.factor=1\n\
         min.insync.replicas=1\n\
         offsets.topic.replication.factor=1\n\
         offsets.topic.num.partitions=4\n\
         transaction.state.log.replication.factor=1\n\
         transaction.state.log.min.isr=1\n\
         transaction.state.log.num.partitions=4\n\
         share.coordinator.state.topic.replication.factor=1\n\
         share.coordinator.state.topic.min.isr=1\n\
         group.initial.rebalance.delay.ms=0\n\
         broker.session.timeout.ms=6000\n\
         broker.heartbeat.interval.ms=500\n\
         metadata.max.idle.interval.ms=0\n\
         auto.create.topics.enable=false\n\
         log.retention.check.interval.ms=1000\n\
         log.retention.ms=-1\n",
        data = data.display(),
    );
    for (key, value) in security.properties {
        text.push_str(&format!("{key}={value}\n"));
    }
    text
}

/// The largest message Kafka takes, in bytes.
const LARGEST: u32 = 32 << 20;
