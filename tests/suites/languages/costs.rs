//! Measures what each language costs: the component's size, loading and compiling, microseconds a record, and memory. A
//! million records (a hundred thousand with `--all`, thirty thousand without) must go through each component without a loss, and
//! without memory that grows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use reduct_sink::chain::{Chain, Outcome, SharedChain};
use reduct_sink::config::{FailurePolicy, PluginConfig};
use reduct_sink::plugin::Runtime;
use reduct_sink::record::{Header, InputRecord};
use reduct_sink_testbed::verify::DIFFER;
use reduct_sink_testbed::{figures, sized};

use super::guests::{component, header, languages, plugin, runtime, runtime_with_cache};

/// The memory that an instance may take; the host replaces it at three quarters of that.
const MEMORY_BYTES: u64 = 96 << 20;
/// How much the process may grow meanwhile: by an instance and its successor, and by the allocator's own memory.
const FLAT_BYTES: u64 = 2 * MEMORY_BYTES;
const BATCH: u64 = 1000;

#[test]
fn records_go_through_every_language_and_memory_stays_flat() -> Result<()> {
    let records = sized(30_000, 100_000, 1_000_000);
    let mut lost = 0;
    println!(
        "| language | component KB | compiled in s | ready from the cache in s | µs a record, best | mean | an instance's MB | \
         the process grew by MB |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for language in languages()? {
        let file = component("conformance", &language);
        let size = std::fs::metadata(&file)?.len();
        let mut plugin = plugin(&language, &file, "{}");
        plugin.memory_bytes = MEMORY_BYTES;
        plugin.on_failure = FailurePolicy::Skip;
        // The component is loaded without the cache, then with an empty one, and then as the next host finds the cache.
        let compile = load(&Runtime::new()?, &plugin)?.0;
        load(&runtime(), &plugin)?;
        let (ready, mut chain) = load(&runtime_with_cache()?, &plugin)?;
        let Cost { fastest, mean, instance, grown, lost: lost_here } = run(&mut chain, records)?;
        println!(
            "| {language} | {} | {compile:.2} | {ready:.3} | {fastest:.2} | {mean:.2} | {:.1} | {:.1} |",
            size / 1000,
            instance as f64 / 1e6,
            grown as f64 / 1e6
        );
        lost += lost_here;
        figures::record(&format!("us_{language}"), fastest)?;
        figures::record(&format!("us_mean_{language}"), mean)?;
        figures::record(&format!("size_kb_{language}"), (size / 1000) as f64)?;
        figures::record(&format!("compile_s_{language}"), compile)?;
        figures::record(&format!("ready_s_{language}"), ready)?;
        figures::record(&format!("instance_mb_{language}"), instance as f64 / 1e6)?;
        figures::record(&format!("grown_mb_{language}"), grown as f64 / 1e6)?;
        ensure!(grown < FLAT_BYTES, "{language}: the process grew by {grown} bytes over {records} records");
    }
    figures::record("lost", lost as f64)?;
    ensure!(lost == 0, "{DIFFER}: {lost} records were lost");
    Ok(())
}

/// The seconds until the plugin was ready for its first record, and a chain of it.
fn load(runtime: &Arc<Runtime>, plugin: &PluginConfig) -> Result<(f64, Chain)> {
    let start = Instant::now();
    let chain = Chain::new(SharedChain::load(runtime.clone(), std::slice::from_ref(plugin))?)?;
    Ok((start.elapsed().as_secs_f64(), chain))
}

struct Cost {
    /// Microseconds a record in the fastest batch.
    fastest: f64,
    mean: f64,
    /// The most memory that an instance had between two batches, in bytes.
    instance: usize,
    /// How much the process has grown since the first tenth of the records, in bytes.
    grown: u64,
    /// How many records had an outcome that was not expected.
    lost: u64,
}

/// Puts records of 1 KB through the chain, which makes four labels of four headers.
fn run(chain: &mut Chain, records: u64) -> Result<Cost> {
    let inputs: Vec<Arc<InputRecord>> = (0..BATCH).map(|offset| Arc::new(record(offset))).collect();
    let (mut lost, mut fastest, mut total, mut before, mut instance) = (0, Duration::MAX, Duration::ZERO, 0, 0);
    // A fast component handles more records in this time, so that a moment in which the machine is busy counts little.
    let at_least = Duration::from_secs(sized(1, 3, 3));
    let mut batch = 0;
    while batch * BATCH < records || total < at_least {
        let start = Instant::now();
        for input in &inputs {
            let outcome = chain.transform(input);
            let good =
                matches!(&outcome, Outcome::Outputs(outputs) if outputs.len() == 1 && outputs[0].labels.len() == 4);
            lost += u64::from(!good);
        }
        fastest = fastest.min(start.elapsed());
        total += start.elapsed();
        instance = chain.memory_bytes().max(instance);
        if batch == records / BATCH / 10 {
            before = resident()?;
        }
        batch += 1;
    }
    let us = |time: Duration, records: u64| time.as_secs_f64() * 1e6 / records as f64;
    let grown = resident()?.saturating_sub(before);
    Ok(Cost { fastest: us(fastest, BATCH), mean: us(total, batch * BATCH), instance, grown, lost })
}

fn record(offset: u64) -> InputRecord {
    let headers: Vec<Header> = [("size", "1024"), ("kind", "binary"), ("camera", "front-left"), ("line", "7")]
        .map(|(key, value)| header(key, value))
        .into();
    InputRecord { offset, ..super::guests::record(headers, vec![7; 1024]) }
}

/// The resident memory of this process, in bytes.
fn resident() -> Result<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = statm.split(' ').nth(1).context("statm")?.parse()?;
    Ok(pages * 4096)
}
