//! `plugin bench`: measures what a plugin costs on this machine, beside the builtin passthrough and, if the author
//! names one, another component, in the same run.
//!
//! Guarantees: records go through the host's own chain; each figure is the median of several rounds, in which the
//! components take turns, so that other work on the machine slows all of them alike; if a plugin fails on a record, the
//! benchmark fails, too, because a failure would look like a fast call.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use serde::Serialize;

use super::answer::AnswerVerdict;
use super::fixtures;
use super::testing::plugin_name;
use crate::chain::{Chain, Outcome, SharedChain};
use crate::config::{FailurePolicy, PluginConfig, PluginSource, in_full};
use crate::plugin::Runtime;
use crate::record::{Header, InputRecord, TopicPartition};

/// How many rounds each component is measured for, with each kind of record.
const ROUNDS: usize = 7;
/// How many calls precede the measurement of a round, because the first calls are slow: the system still has to map
/// memory.
const WARM_UP: usize = 200;
/// How many copies of one record a round goes through, each with its own offset.
const COPIES: u64 = 64;

/// What to measure.
pub struct BenchOptions {
    /// The plugin's configuration, as JSON text for `configure`. A fixture that has its own configuration is measured
    /// with that.
    pub config: String,
    /// For each of these sizes, in bytes, one record whose payload counts from 0 to 255 again and again.
    pub sizes: Vec<usize>,
    /// For each of these files, one record with the file as its payload.
    pub payloads: Vec<PathBuf>,
    /// A folder of fixtures. Fixtures that expect a failure are left out.
    pub fixtures: Option<PathBuf>,
    /// The headers of the records that aren't fixtures.
    pub headers: Vec<(String, String)>,
    /// Another component to compare with, such as the previous version.
    pub against: Option<PathBuf>,
    /// How long one round of one component with one kind of record lasts.
    pub round: Duration,
}

/// The costs of all components, with the same kinds of records in the same order.
#[derive(Debug, Serialize)]
pub struct BenchComparison {
    /// The component that was asked for.
    pub plugin: Cost,
    /// The component to compare with, if one was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub against: Option<Cost>,
    /// The builtin plugin that changes nothing, which shows the host's own part of the cost.
    pub passthrough: Cost,
    /// How many fixtures were left out because they expect a failure.
    pub left_out: usize,
}

/// What one component costs.
#[derive(Debug, Serialize)]
pub struct Cost {
    /// The component's file name.
    pub name: String,
    /// The component's digest.
    pub digest: String,
    /// The component's size.
    pub bytes: usize,
    /// How long reading, compiling, checking and starting took, in milliseconds.
    pub load_ms: f64,
    /// How long the same took with the cache of compiled plugins, in milliseconds. On a system where the cache can't be
    /// used, the component was compiled again.
    pub load_cached_ms: f64,
    /// How long starting and configuring one more instance took, in milliseconds.
    pub start_ms: f64,
    /// The instance's memory after its start, in bytes.
    pub memory_at_start: usize,
    /// The instance's memory after the last call, in bytes.
    pub memory_at_end: usize,
    /// The costs of each kind of record.
    pub records: Vec<RecordCost>,
}

/// What one kind of record costs.
#[derive(Debug, Serialize)]
pub struct RecordCost {
    /// The payload's size (`1000 B`), the name of the payload's file, or the fixture's name.
    pub record: String,
    /// The payload's size.
    pub payload_bytes: usize,
    /// The median of the rounds, in microseconds a call.
    pub us_a_record: f64,
    /// The fastest of the rounds, in microseconds a call.
    pub fastest_us: f64,
    /// The slowest of the rounds, in microseconds a call.
    pub slowest_us: f64,
    /// How many records the component was asked about.
    pub count: u64,
    /// The instance's memory after these calls, in bytes.
    pub memory: usize,
}

/// One kind of record.
struct Workload {
    name: String,
    config: String,
    payload_bytes: usize,
    records: Vec<Arc<InputRecord>>,
}

/// Measures the component in `file`. It blocks, so it must not be called on a thread of tokio.
pub fn bench(file: &Path, options: &BenchOptions) -> anyhow::Result<BenchComparison> {
    let (workloads, left_out) = workloads(options)?;
    let first = workloads.first().context("there is no record to measure with")?;
    let (plain, cached) = (Runtime::new()?, super::cached_runtime()?);
    let load = |name, source| MeasuredComponent::load(&plain, &cached, name, source, &first.config);
    let mut subjects = vec![load(plugin_name(file), PluginSource::File(file.to_owned()))?];
    if let Some(against) = &options.against {
        subjects.push(load(plugin_name(against), PluginSource::File(against.clone()))?);
    }
    subjects.push(load("passthrough".into(), PluginSource::Builtin)?);
    for workload in &workloads {
        let mut rounds = vec![Vec::new(); subjects.len()];
        for subject in &mut subjects {
            subject.configure(&cached, &workload.config)?;
        }
        for _ in 0..ROUNDS {
            for (subject, rounds) in subjects.iter_mut().zip(&mut rounds) {
                rounds.push(subject.round(workload, options.round)?);
            }
        }
        for (subject, rounds) in subjects.iter_mut().zip(rounds) {
            let memory = subject.chain.memory_bytes();
            subject.cost.memory_at_end = memory;
            subject.cost.records.push(record_cost(workload, rounds, memory));
        }
    }
    let mut costs = subjects.into_iter().map(|subject| subject.cost);
    let (Some(plugin), Some(passthrough)) = (costs.next(), costs.next_back()) else {
        bail!("nothing was measured");
    };
    Ok(BenchComparison { plugin, against: costs.next(), passthrough, left_out })
}

/// A component that is measured.
struct MeasuredComponent {
    plugin: PluginConfig,
    chain: Chain,
    cost: Cost,
}

impl MeasuredComponent {
    fn load(
        plain: &Arc<Runtime>,
        cached: &Arc<Runtime>,
        name: String,
        source: PluginSource,
        config: &str,
    ) -> anyhow::Result<Self> {
        // The passthrough accepts any configuration.
        let plugin = PluginConfig {
            config: config.into(),
            on_failure: FailurePolicy::Stop,
            ..PluginConfig::new(name.clone(), source)
        };
        let timed = |runtime: &Arc<Runtime>| -> anyhow::Result<(f64, Arc<SharedChain>)> {
            let started = Instant::now();
            let shared = SharedChain::load(Arc::clone(runtime), std::slice::from_ref(&plugin))?;
            Ok((started.elapsed().as_secs_f64() * 1e3, shared))
        };
        let (load_ms, _) = timed(plain)?;
        // The first load fills the cache.
        timed(cached)?;
        let (load_cached_ms, shared) = timed(cached)?;
        let version = shared.versions().into_iter().next();
        let started = Instant::now();
        let chain = Chain::new(shared)?;
        let start_ms = started.elapsed().as_secs_f64() * 1e3;
        let cost = Cost {
            name,
            digest: version.as_ref().map_or(String::new(), |version| version.digest.to_string()),
            bytes: version.map_or(0, |version| version.bytes),
            load_ms,
            load_cached_ms,
            start_ms,
            memory_at_start: chain.memory_bytes(),
            memory_at_end: 0,
            records: Vec::new(),
        };
        Ok(Self { plugin, chain, cost })
    }

    /// Starts an instance with `config`, unless the present one has it already.
    fn configure(&mut self, runtime: &Arc<Runtime>, config: &str) -> anyhow::Result<()> {
        if self.plugin.config != config {
            self.plugin.config = config.into();
            let shared = SharedChain::load(Arc::clone(runtime), std::slice::from_ref(&self.plugin))?;
            self.chain = Chain::new(shared)?;
        }
        Ok(())
    }

    /// Measures one round. Returns the microseconds a record and the number of records.
    fn round(&mut self, workload: &Workload, time: Duration) -> anyhow::Result<(f64, u64)> {
        for record in workload.records.iter().cycle().take(WARM_UP) {
            self.ask(workload, record)?;
        }
        let (started, mut asked) = (Instant::now(), 0_u64);
        while started.elapsed() < time {
            for record in &workload.records {
                self.ask(workload, record)?;
                asked += 1;
            }
        }
        Ok((started.elapsed().as_secs_f64() * 1e6 / asked.max(1) as f64, asked))
    }

    fn ask(&mut self, workload: &Workload, record: &Arc<InputRecord>) -> anyhow::Result<()> {
        self.chain.refresh();
        match black_box(self.chain.transform(record)) {
            Outcome::Outputs(_) | Outcome::Dropped => Ok(()),
            Outcome::Skipped(failure)
            | Outcome::DeadLetter(failure)
            | Outcome::Retry(failure)
            | Outcome::Wait(failure, _)
            | Outcome::Stop(failure) => {
                bail!(
                    "plugin `{}` failed on the record {}: {}; name records that it handles with --payload FILE or \
                     --fixtures DIR, and give the headers (--header) and the configuration (--config) that it needs",
                    failure.plugin,
                    workload.name,
                    failure.reason
                )
            }
        }
    }
}

/// The records to measure with, and how many fixtures were left out.
fn workloads(options: &BenchOptions) -> anyhow::Result<(Vec<Workload>, usize)> {
    let made = |name: String, payload: Bytes| Workload {
        name,
        config: options.config.clone(),
        payload_bytes: payload.len(),
        records: copies(&plain_record(payload, &options.headers)),
    };
    let bytes = |size: usize| Bytes::from((0..=255_u8).cycle().take(size).collect::<Vec<u8>>());
    let mut workloads: Vec<Workload> =
        options.sizes.iter().map(|size| made(format!("{size} B"), bytes(*size))).collect();
    for path in &options.payloads {
        let payload = std::fs::read(path).with_context(|| format!("cannot read {}", in_full(path)))?;
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        workloads.push(made(name, payload.into()));
    }
    let Some(folder) = &options.fixtures else { return Ok((workloads, 0)) };
    let (handled, failing): (Vec<_>, Vec<_>) = fixtures::read(folder)?.into_iter().partition(|case| {
        let verdict = case.expected.as_ref().map(|expected| expected.verdict);
        !matches!(verdict, Some(AnswerVerdict::Fail | AnswerVerdict::Retry))
    });
    ensure!(!handled.is_empty(), "every case in {} expects a failure, so none can be measured", in_full(folder));
    // A fixture without a configuration of its own gets that of the command line.
    let config = |config: String| if config == "{}" { options.config.clone() } else { config };
    workloads.extend(handled.into_iter().map(|case| Workload {
        payload_bytes: case.input.payload.as_ref().map_or(0, Bytes::len),
        records: copies(&case.input),
        config: config(case.config),
        name: case.name,
    }));
    Ok((workloads, failing.len()))
}

fn plain_record(payload: Bytes, headers: &[(String, String)]) -> InputRecord {
    let header = |(key, value): &(String, String)| Header {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
    };
    InputRecord {
        source: TopicPartition { topic: "bench".into(), partition: 0 },
        topic_id: None,
        offset: 0,
        timestamp_ms: Some(1_700_000_000_000),
        key: None,
        headers: headers.iter().map(header).collect(),
        payload: Some(payload),
    }
}

fn copies(record: &InputRecord) -> Vec<Arc<InputRecord>> {
    let copy = |number| {
        let timestamp_ms = record.timestamp_ms.map(|ms| ms.saturating_add(number));
        InputRecord { offset: record.offset.saturating_add(number), timestamp_ms, ..record.clone() }
    };
    (0..COPIES).map(|number| Arc::new(copy(number))).collect()
}

fn record_cost(workload: &Workload, mut rounds: Vec<(f64, u64)>, memory: usize) -> RecordCost {
    rounds.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    let us = |at: usize| rounds.get(at).map_or(0.0, |(us, _)| *us);
    RecordCost {
        record: workload.name.clone(),
        payload_bytes: workload.payload_bytes,
        us_a_record: us(rounds.len() / 2),
        fastest_us: us(0),
        slowest_us: us(rounds.len().saturating_sub(1)),
        count: rounds.iter().map(|(_, count)| count).sum(),
        memory,
    }
}
