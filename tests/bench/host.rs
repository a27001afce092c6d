//! (b), (c), (d) The host as a user runs it, with the defaults of its configuration; and two looks at the host alone:
//! into a sink that discards, and with a large backlog.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use reduct_rs::BucketSettings;
use reduct_sink_testbed::process::{free_port, wait_for};
use reduct_sink_testbed::{Sink, SinkConfig, unique};

use crate::bed::Bench;
use crate::held::{Rate, Watched, cpu_seconds, peak_memory, thread_cpu_ns, watch};
use crate::note;
use crate::plan::{BACKLOG_BYTES, BACKLOG_RECORD, DISCARD_LONG_RUNS, DISCARD_RECORDS, DISCARD_RUNS};
use crate::scraper::Scraper;

/// How the host writes a record, for the direct writer to write the same.
#[derive(Debug, Clone)]
pub struct Style {
    /// Those that are the same on every record.
    pub labels: HashMap<String, String>,
    pub content_type: String,
    pub settings: BucketSettings,
    pub first_timestamp_us: u64,
}

#[derive(Debug, Clone, Copy)]
pub enum Plugins {
    None,
    /// The default.
    Passthrough,
    RelabelRoute,
}

/// The host's thread that answers over HTTP.
const STATUS_THREAD: &str = "status";
const WARM_UP_RECORDS: u64 = 500;
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(180);

/// Runs the host with the passthrough once and looks at what it wrote.
pub fn style(bench: &Bench) -> Result<Style> {
    let topic = bench.preload(1_000, WARM_UP_RECORDS)?;
    let bucket = unique("bench");
    let mut sink = Sink::start(&config(bench, &topic, &bucket, Plugins::Passthrough)?)?;
    wait_for("the host to write its first records", CAUGHT_UP_WITHIN, || {
        sink.process().expect_running()?;
        Ok((bench.held(&bucket)? == WARM_UP_RECORDS).then_some(()))
    })?;
    sink.stop_cleanly()?;
    bench.wait_finished(&bucket, WARM_UP_RECORDS)?;
    let style = bench.ask(&bucket, async |_, bucket| {
        let entries = bucket.entries().await?;
        let entry = entries.iter().find(|entry| entry.record_count > 0).context("the host wrote no entry")?;
        let records = bucket.query(&*entry.name).head_only(true).send().await?;
        let mut records = std::pin::pin!(records);
        let first = records.next().await.context("the host wrote no record")??;
        let mut labels = first.labels().clone();
        for own in ["size", "type", "kafka.source", "kafka.offset"] {
            labels.remove(own).with_context(|| format!("the host wrote no label {own:?}"))?;
        }
        Ok(Style {
            labels,
            content_type: first.content_type().to_owned(),
            settings: bucket.settings().await?,
            first_timestamp_us: first.timestamp_us(),
        })
    })?;
    bench.checked(&bucket, WARM_UP_RECORDS, 1_000)?;
    bench.remove_topics(&[&topic])?;
    Ok(style)
}

/// From a topic that is full before the host starts, into a new bucket.
pub fn run(bench: &Bench, records: u64, bucket: &str, topic: &str, plugins: Plugins) -> Result<Rate> {
    let mut sink = Sink::start(&config(bench, topic, bucket, plugins)?)?;
    let watched = watched(bench, &mut sink);
    let rate = watch(bench, bucket, records, &watched, || sink.process().expect_running())?;
    sink.stop_cleanly()?;
    Ok(rate)
}

/// The same with the passthrough, while a Prometheus and a browser look at the host.
///
/// The difference of two rates is mostly noise, at this size. So what answering takes is measured itself: as a part of the
/// CPU time of all that shares the cores, which is the part of the throughput that it takes where they are all busy.
pub fn watched_run(bench: &Bench, records: u64, bucket: &str, topic: &str) -> Result<Rate> {
    let address = format!("127.0.0.1:{}", free_port()?);
    let config = config(bench, topic, bucket, Plugins::Passthrough)?.set("status.listen", address.as_str());
    let mut sink = Sink::start(&config)?;
    let watched = watched(bench, &mut sink);
    let used = || watched.iter().map(|it| cpu_seconds(it.pid)).sum::<Result<f64>>();
    let before = used()?;
    let scraper = Scraper::start(address);
    let rate = watch(bench, bucket, records, &watched, || sink.process().expect_running())?;
    let pid = sink.process().pid();
    let looks_percent = Some(thread_cpu_ns(pid, STATUS_THREAD)? as f64 / 1e9 / (used()? - before) * 100.0);
    ensure!(scraper.stop()? > 1, "the run was too short to be watched");
    sink.stop_cleanly()?;
    Ok(Rate { looks_percent, ..rate })
}

/// What the host does into a sink that discards.
#[derive(Debug, Clone, Copy)]
pub struct Discard {
    /// By the CPU time of the whole process from its start, user and system.
    pub per_core: f64,
    /// By the clock, starting included.
    pub per_second: f64,
}

pub fn discard(bench: &Bench, long: bool) -> Result<Vec<Discard>> {
    let topic = bench.preload(1_000, DISCARD_RECORDS)?;
    let mut runs = Vec::new();
    for _ in 0..if long { DISCARD_LONG_RUNS } else { DISCARD_RUNS } {
        let config = config(bench, &topic, &unique("bench"), Plugins::Passthrough)?.set("store.discard", true);
        let start = Instant::now();
        let mut sink = Sink::start(&config)?;
        sink.wait_caught_up(&bench.kafka, config.group(), &[&topic], CAUGHT_UP_WITHIN)?;
        let seconds = start.elapsed().as_secs_f64();
        let cpu = cpu_seconds(sink.process().pid())?;
        sink.stop_cleanly()?;
        let run = Discard { per_core: DISCARD_RECORDS as f64 / cpu, per_second: DISCARD_RECORDS as f64 / seconds };
        note(&format!("{:.0} records a second and core, {cpu:.2} s of CPU in {seconds:.2} s", run.per_core));
        runs.push(run);
    }
    bench.remove_topics(&[&topic])?;
    Ok(runs)
}

/// The host's peak of resident memory, in bytes, while it brings 2 GB of large records from the topic to the store.
pub fn backlog(bench: &Bench) -> Result<u64> {
    let records = BACKLOG_BYTES.div_ceil(BACKLOG_RECORD as u64);
    let topic = bench.preload(BACKLOG_RECORD, records)?;
    let bucket = unique("bench");
    let mut sink = Sink::start(&config(bench, &topic, &bucket, Plugins::Passthrough)?)?;
    let watched = watched(bench, &mut sink);
    watch(bench, &bucket, records, &watched, || sink.process().expect_running())?;
    let peak = peak_memory(sink.process().pid())?;
    sink.stop_cleanly()?;
    bench.checked(&bucket, records, BACKLOG_RECORD)?;
    bench.remove_topics(&[&topic])?;
    note(&format!("{:.1} MB at most", peak as f64 / 1e6));
    Ok(peak)
}

fn watched(bench: &Bench, sink: &mut Sink) -> Vec<Watched> {
    bench.servers.into_iter().chain([Watched { name: "host", pid: sink.process().pid() }]).collect()
}

/// Everything else is as the host has it by default.
fn config(bench: &Bench, topic: &str, bucket: &str, plugins: Plugins) -> Result<SinkConfig> {
    let config = SinkConfig::new(bench.kafka.brokers(), &bench.url, bucket).topics(&[topic]);
    match plugins {
        Plugins::None => Ok(config.without_plugins()),
        Plugins::Passthrough => Ok(config),
        Plugins::RelabelRoute => {
            config.plugin("relabel", &component("relabel")?, RELABEL)?.plugin("route", &component("route")?, ROUTE)
        }
    }
}

/// A label from a header, and a constant one.
const RELABEL: &str = r#"
steps = [
    { set = "kind", value = "{header:type}" },
    { set = "site", value = "bench" },
]
"#;

/// The default template puts the partition behind it, so there are as many entries as without.
const ROUTE: &str = r#"
rules = [{ when = [{ field = "header:type", equals = "binary" }], entry = "{topic}/{header:type}" }]
default = "other"
"#;

fn component(name: &str) -> Result<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../plugins/dist/{name}.wasm"));
    ensure!(path.is_file(), "{} isn't built: tests/run builds it", path.display());
    Ok(path)
}
