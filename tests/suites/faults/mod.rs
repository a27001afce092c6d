//! No record is lost or written twice when processes die: hosts and servers are killed, suspended and disconnected under
//! load, and then every record that Kafka acknowledged is compared with what ReductStore holds.
//!
//! With `TESTBED_PIPELINES=2` each host that a test starts has a second pipeline, whose records are compared as well.
//!
//! Each test prints the seed of its random choices; `TESTBED_SEED` repeats them. `tests/run faults` runs some tests in
//! the shortest form, `--all` all tests in a short form, `--long` all tests at full size.

mod attacks;
mod beside;
mod changed_topics;
mod clusters;
mod guests;
mod kills;
mod members;
mod network;
mod outages;
mod pipelines;
mod replays;
mod restarts;
mod topics;

use std::io::Write;
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use beside::SecondPipeline;
use reduct_sink_testbed::client::Group;
use reduct_sink_testbed::dice::Dice;
use reduct_sink_testbed::process::wait_for;
use reduct_sink_testbed::verify::Ledger;
use reduct_sink_testbed::{
    Kafka, KafkaClient, Load, Message, Produced, Sink, SinkConfig, Store, all, figures, long, payload, sized, unique,
};

/// The resident memory that a host may have at any time. Its own budget in flight is 64 MiB, that of librdkafka 32 MiB.
const MEMORY: u64 = 300 << 20;
/// How long the sink may take to reach the end of the topic after the last fault. This is a bound, not an expectation.
const CATCH_UP: Duration = Duration::from_secs(600);
/// How long one step may take under load.
const STEP: Duration = Duration::from_secs(90);

/// The size of a test: in its short form, and in full.
fn size(short: u64, full: u64) -> u64 {
    if long() { full } else { short }
}

/// A Kafka with short sessions and an eager log cleaner, shared by the tests that do not stop it.
fn kafka() -> Result<&'static Kafka> {
    static KAFKA: OnceLock<Result<Kafka>> = OnceLock::new();
    KAFKA.get_or_init(start_kafka).as_ref().map_err(|error| anyhow!("Kafka doesn't start: {error:#}"))
}

fn start_kafka() -> Result<Kafka> {
    Kafka::start_with(&[
        ("group.min.session.timeout.ms", "1000"),
        ("log.cleaner.backoff.ms", "200"),
        // In the newer group protocol the brokers set these times, not the members.
        ("group.consumer.min.session.timeout.ms", "1000"),
        ("group.consumer.session.timeout.ms", "3000"),
        ("group.consumer.min.heartbeat.interval.ms", "100"),
        ("group.consumer.heartbeat.interval.ms", "300"),
    ])
}

const ASSIGNORS: [&str; 3] = ["range", "roundrobin", "cooperative-sticky"];

/// Runs a test once with each assignor, side by side.
fn with_each_assignor<F: Future<Output = Result<()>>>(
    test: impl Fn(&'static str) -> F + Copy + Send + 'static,
) -> Result<()> {
    let runtime = tokio::runtime::Handle::current();
    let running = ASSIGNORS.map(|assignor| {
        let runtime = runtime.clone();
        thread::spawn(move || runtime.block_on(test(assignor)).with_context(|| format!("with {assignor}")))
    });
    running.into_iter().try_for_each(|test| test.join().map_err(|_| anyhow!("the test panicked"))?)
}

/// A topic, the configuration that reads it into a bucket, and the most memory that a host took.
struct Trial {
    kafka: KafkaClient,
    topic: String,
    config: SinkConfig,
    peak: u64,
    second: Option<SecondPipeline>,
}

impl Trial {
    /// A new topic, and a configuration with a session timeout of 2 s.
    fn new(kafka: KafkaClient, store: &Store, name: &str, partitions: i32) -> Result<Self> {
        Self::with_settings(kafka, store, name, partitions, &[])
    }

    fn with_settings(
        kafka: KafkaClient,
        store: &Store,
        name: &str,
        partitions: i32,
        settings: &[(&str, &str)],
    ) -> Result<Self> {
        let topic = unique(name);
        kafka.create_topic_with(&topic, partitions, settings)?;
        Self::of_topic(kafka, store, name, topic)
    }

    /// A trial with an existing topic.
    fn of_topic(kafka: KafkaClient, store: &Store, name: &str, topic: String) -> Result<Self> {
        let second = SecondPipeline::if_wanted(&kafka, &topic)?;
        let config = SinkConfig::new(kafka.brokers(), &store.url(), name)
            .topics(&[&topic])
            .set("status.listen", "")
            .property("session.timeout.ms", "2000")
            .property("heartbeat.interval.ms", "200")
            .beside(second.as_ref().map(SecondPipeline::config));
        Ok(Self { kafka, topic, config, peak: 0, second })
    }

    /// Without a second pipeline in its hosts.
    fn alone(self) -> Result<Self> {
        self.second.map(SecondPipeline::end).transpose()?;
        Ok(Self { second: None, config: self.config.beside(None), ..self })
    }

    fn configure(mut self, change: impl FnOnce(SinkConfig) -> SinkConfig) -> Self {
        self.config = change(self.config);
        self
    }

    /// Records of 1 KB that depend on their number alone. In the shortest form there are a quarter of them, because several tests and
    /// their servers share two cores, and what isn't written yet at the end of a load takes longer than the load.
    fn load(&self, per_second: u32) -> Result<Load> {
        let per_second = if all() { per_second } else { per_second / 4 };
        Load::start(&self.kafka, &self.topic, per_second, |n| Message::new(payload(n, 1000)))
    }

    fn group(&self) -> Result<Group> {
        self.kafka.group(self.config.group())
    }

    /// What the group has committed, over all partitions. A Kafka that has just started has no coordinator yet.
    fn committed(&self, group: &Group) -> Result<u64> {
        let committed = wait_for("the group's coordinator", STEP, || Ok(group.committed(&self.topic).ok()))?;
        Ok(committed.iter().map(|(_, offset)| offset).sum())
    }

    /// Records how much memory the host has taken. It must be called before the host is killed.
    fn weigh(&mut self, sink: &mut Sink) {
        if let Ok(peak) = sink.process().peak_memory() {
            self.peak = self.peak.max(peak);
        }
    }

    /// Lets the load run until it has sent `records`, and returns what was acknowledged.
    fn finish(&self, load: Load, records: u64) -> Result<Vec<Produced>> {
        wait_for(&format!("{records} records to be sent"), CATCH_UP, || {
            thread::sleep(Duration::from_millis(80));
            Ok((load.sent() >= records).then_some(()))
        })?;
        load.finish()
    }

    /// Waits for the commit to reach the end, stops the hosts and compares the bucket with the ledger.
    async fn settle(mut self, sinks: &mut [&mut Sink], store: &Store, ledger: Ledger) -> Result<()> {
        let (first, _) = sinks.split_first_mut().context("a host")?;
        first.wait_caught_up(&self.kafka, self.config.group(), &[&self.topic], CATCH_UP)?;
        if let Some(second) = &self.second {
            second.settle(first)?;
        }
        for sink in sinks.iter_mut() {
            self.weigh(sink);
            sink.stop_cleanly()?;
        }
        self.audit(store, ledger).await
    }

    async fn audit(&self, store: &Store, ledger: Ledger) -> Result<()> {
        let diff = ledger.audit(&store.client()?, self.config.bucket()).await?;
        // This is written directly, because the test harness would hold it back until all tests are done.
        writeln!(std::io::stderr(), "{}: {diff}; {} MB at most in a host", self.topic, self.peak / 1_000_000)?;
        figures::add("records", diff.expected as f64)?;
        figures::record(&format!("records_{}", self.config.bucket().replace('-', "_")), diff.expected as f64)?;
        figures::add("missing", diff.missing.len() as f64)?;
        figures::add("twice", diff.twice.len() as f64)?;
        figures::add("wrong_bytes", diff.wrong_bytes.len() as f64)?;
        diff.exact().with_context(|| format!("bucket {} at {}", self.config.bucket(), store.url()))?;
        let memory = if self.second.is_some() { 2 * MEMORY } else { MEMORY };
        ensure!(self.peak < memory, "{} MB were resident in a host", self.peak / 1_000_000);
        self.audit_second(store).await
    }

    /// Compares what the second pipeline has written, if there is one.
    async fn audit_second(&self, store: &Store) -> Result<()> {
        let Some(second) = &self.second else { return Ok(()) };
        if !second.is_settled() {
            let mut sink = Sink::start(&self.config)?;
            second.settle(&mut sink)?;
            sink.stop_cleanly()?;
        }
        second.audit(store).await
    }
}

/// Waits until the group has committed more than `from`.
fn wait_progress(sink: &mut Sink, trial: &Trial, group: &Group, from: u64) -> Result<()> {
    wait_for("the sink to move on", STEP, || {
        sink.process().expect_running()?;
        Ok((trial.committed(group)? > from).then_some(()))
    })
}

/// Sleeps for a random time.
async fn pause(dice: &mut Dice, millis: std::ops::Range<u64>) {
    tokio::time::sleep(dice.millis(millis)).await;
}

/// Where a store listens.
fn address(store: &Store) -> Result<SocketAddr> {
    Ok(store.url().trim_start_matches("http://").parse()?)
}
