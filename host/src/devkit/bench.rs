//! What a plugin costs on this machine, beside the embedded passthrough in the same run.
//!
//! Guarantees: records go through the host's own chain; each figure is the median of several rounds, in which plugin and
//! passthrough take turns, so that what else runs on the machine weighs on both; a record that isn't handled is an error,
//! not a fast record.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::bail;
use bytes::Bytes;
use serde::Serialize;

use super::testing::plugin_name;
use crate::chain::{Chain, Outcome, SharedChain};
use crate::config::{FailurePolicy, Plugin, PluginSource};
use crate::plugin::Runtime;
use crate::record::{Header, InputRecord, TopicPartition};

const ROUNDS: usize = 7;
/// Before a round counts: the first calls fault pages in.
const WARM_UP: usize = 200;

pub struct Options {
    /// JSON text for `configure`.
    pub config: String,
    pub sizes: Vec<usize>,
    pub headers: Vec<(String, String)>,
    /// How long one round takes, of one plugin at one size.
    pub round: Duration,
}

#[derive(Debug, Serialize)]
pub struct Report {
    pub plugin: Cost,
    pub passthrough: Cost,
}

#[derive(Debug, Serialize)]
pub struct Cost {
    pub name: String,
    pub digest: String,
    pub bytes: usize,
    /// Reading, compiling, checking and starting.
    pub load_ms: f64,
    /// The same from the cache of compiled plugins; compiled again where there can be none.
    pub load_cached_ms: f64,
    /// One more instance, configured.
    pub start_ms: f64,
    /// The memory of one instance, after its start and after all records.
    pub memory_at_start: usize,
    pub memory_at_end: usize,
    pub sizes: Vec<SizeCost>,
}

#[derive(Debug, Serialize)]
pub struct SizeCost {
    pub payload_bytes: usize,
    /// The median of the rounds.
    pub us_a_record: f64,
    pub fastest_us: f64,
    pub slowest_us: f64,
    pub records: u64,
}

/// Not to be called from one of tokio's threads.
pub fn bench(file: &Path, options: &Options) -> anyhow::Result<Report> {
    let (plain, cached) = (Runtime::new()?, super::cached_runtime()?);
    let load = |name, source| Subject::load(&plain, &cached, name, source, options);
    let mut plugin = load(plugin_name(file), PluginSource::File(file.to_owned()))?;
    let mut passthrough = load("passthrough".into(), PluginSource::Builtin)?;
    for size in &options.sizes {
        let records = records(*size, &options.headers);
        let (mut of_plugin, mut of_passthrough) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            of_plugin.push(plugin.round(&records, options.round)?);
            of_passthrough.push(passthrough.round(&records, options.round)?);
        }
        plugin.cost.sizes.push(size_cost(*size, of_plugin));
        passthrough.cost.sizes.push(size_cost(*size, of_passthrough));
    }
    plugin.cost.memory_at_end = plugin.chain.memory_bytes();
    passthrough.cost.memory_at_end = passthrough.chain.memory_bytes();
    Ok(Report { plugin: plugin.cost, passthrough: passthrough.cost })
}

struct Subject {
    chain: Chain,
    cost: Cost,
}

impl Subject {
    fn load(
        plain: &Arc<Runtime>,
        cached: &Arc<Runtime>,
        name: String,
        source: PluginSource,
        options: &Options,
    ) -> anyhow::Result<Self> {
        let plugin = Plugin {
            // The passthrough takes any.
            config: options.config.clone(),
            on_failure: FailurePolicy::Stop,
            ..Plugin::new(name, source)
        };
        let timed = |runtime: &Arc<Runtime>| -> anyhow::Result<(f64, Arc<SharedChain>)> {
            let started = Instant::now();
            let shared = SharedChain::load(Arc::clone(runtime), std::slice::from_ref(&plugin))?;
            Ok((started.elapsed().as_secs_f64() * 1e3, shared))
        };
        let (load_ms, _) = timed(plain)?;
        // The first fills the cache.
        timed(cached)?;
        let (load_cached_ms, shared) = timed(cached)?;
        let version = shared.versions().into_iter().next();
        let started = Instant::now();
        let chain = Chain::new(shared)?;
        let start_ms = started.elapsed().as_secs_f64() * 1e3;
        let cost = Cost {
            name: plugin.name,
            digest: version.as_ref().map_or(String::new(), |version| version.digest.to_string()),
            bytes: version.map_or(0, |version| version.bytes),
            load_ms,
            load_cached_ms,
            start_ms,
            memory_at_start: chain.memory_bytes(),
            memory_at_end: 0,
            sizes: Vec::new(),
        };
        Ok(Self { chain, cost })
    }

    /// Microseconds a record, and how many records.
    fn round(&mut self, records: &[Arc<InputRecord>], time: Duration) -> anyhow::Result<(f64, u64)> {
        for record in records.iter().cycle().take(WARM_UP.min(records.len() * 8)) {
            self.ask(record)?;
        }
        let (started, mut asked) = (Instant::now(), 0_u64);
        while started.elapsed() < time {
            for record in records {
                self.ask(record)?;
                asked += 1;
            }
        }
        Ok((started.elapsed().as_secs_f64() * 1e6 / asked.max(1) as f64, asked))
    }

    fn ask(&mut self, record: &Arc<InputRecord>) -> anyhow::Result<()> {
        self.chain.refresh();
        match black_box(self.chain.transform(record)) {
            Outcome::Outputs(_) | Outcome::Dropped => Ok(()),
            Outcome::Skipped(failure)
            | Outcome::DeadLetter(failure)
            | Outcome::Retry(failure)
            | Outcome::Wait(failure, _)
            | Outcome::Stop(failure) => {
                bail!(
                    "plugin `{}` doesn't handle a record of {} bytes: {}; give it the headers (--header) and the \
                     configuration (--config) that it needs",
                    failure.plugin,
                    record.payload.as_ref().map_or(0, Bytes::len),
                    failure.reason
                )
            }
        }
    }
}

/// Records of one size, as the source makes them.
fn records(size: usize, headers: &[(String, String)]) -> Vec<Arc<InputRecord>> {
    let payload = Bytes::from((0..=255_u8).cycle().take(size).collect::<Vec<u8>>());
    let header = |(key, value): &(String, String)| Header {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
    };
    let headers: Vec<Header> = headers.iter().map(header).collect();
    let record = |offset| InputRecord {
        source: TopicPartition { topic: "bench".into(), partition: 0 },
        topic_id: None,
        offset,
        timestamp_ms: Some(1_700_000_000_000 + offset),
        key: None,
        headers: headers.clone(),
        payload: Some(payload.clone()),
    };
    (0..64).map(|offset| Arc::new(record(offset))).collect()
}

fn size_cost(payload_bytes: usize, mut rounds: Vec<(f64, u64)>) -> SizeCost {
    rounds.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    let us = |at: usize| rounds.get(at).map_or(0.0, |(us, _)| *us);
    SizeCost {
        payload_bytes,
        us_a_record: us(rounds.len() / 2),
        fastest_us: us(0),
        slowest_us: us(rounds.len().saturating_sub(1)),
        records: rounds.iter().map(|(_, records)| records).sum(),
    }
}
