//! Swaps under full load: good versions and bad ones, on the real servers, beside a control without swaps.
//!
//! What must be (nothing lost, nothing twice, one version a record) is asserted; what depends on the machine (the ratio
//! of the throughputs, the longest pause) is a figure.

mod guests;

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use reduct_sink_testbed::verify::compare;
use reduct_sink_testbed::{
    Load, Message, Produced, Sink, Stored, bed, figures, guest, long, payload, process, read_back, unique,
};
use toml::Table;

const CATCH_UP: Duration = Duration::from_secs(600);
const PARTITIONS: i32 = 4;
/// More than the store takes of small records on the machines that this runs on: there is always something to do.
const PER_SECOND: u32 = 5000;

/// What one run left behind.
struct Run {
    produced: Vec<Produced>,
    stored: Vec<Stored>,
    log: String,
}

#[tokio::test(flavor = "multi_thread")]
async fn under_full_load_each_record_is_handled_by_exactly_one_version() -> Result<()> {
    let (swaps, bad) = if long() { (200, 60) } else { (20, 6) };
    let start = Instant::now();
    let swapped = run(|sink, file| swap(sink, file, swaps, bad)).await?;
    let took = start.elapsed();
    let control = run(|sink, _| {
        // About as long as the swaps took, without the time to catch up.
        let until = Instant::now() + took / 2;
        while Instant::now() < until {
            sink.process().expect_running()?;
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    })
    .await?;
    let report = compare(&swapped.produced, &swapped.stored)?;
    let (lost, twice) = (report.missing.len(), report.twice.len());
    let two_versions = two_versions(&swapped.stored)?;
    let pause = longest_pause_ms(&swapped.stored)? - longest_pause_ms(&control.stored)?;
    let ratio = per_second(&swapped.stored) / per_second(&control.stored);
    let refused = swapped.log.matches("doesn't load").count() + swapped.log.matches("rolled back").count();
    for (name, value) in [
        ("swaps", swaps as f64),
        ("bad_swaps", refused as f64),
        ("lost", lost as f64),
        ("twice", twice as f64),
        ("two_versions", two_versions as f64),
        ("ratio_throughput", ratio),
        ("pause_ms_above_control", pause),
    ] {
        figures::record(name, value)?;
    }
    compare(&control.produced, &control.stored)?.exact()?;
    report.exact()?;
    assert_eq!((two_versions, refused), (0, bad));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_traps_on_one_record_in_a_hundred_is_back_out() -> Result<()> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let topic = unique("relapse");
    kafka.create_topic(&topic, 2)?;
    let folder = process::data_folder("plugin")?;
    let file = folder.path().join("plugin.wasm");
    std::fs::write(&file, guests::good(0))?;
    let config = bed.sink_config(&topic).plugin("swapped", &file, "")?;
    let mut sink = Sink::start(&config)?;
    sink.wait_log("running", CATCH_UP)?;
    let load = Load::start(&kafka, &topic, 1000, |n| Message::new(payload(n, 200)))?;
    process::wait_for("records", CATCH_UP, || Ok((load.sent() > 500).then_some(())))?;
    guest::replace(&file, &guests::trapping(1))?;
    let start = Instant::now();
    sink.wait_log("rolled back", CATCH_UP)?;
    figures::record("rolled_back_after_s", start.elapsed().as_secs_f64())?;
    let after = load.sent();
    process::wait_for("records under the old version", CATCH_UP, || Ok((load.sent() > after + 500).then_some(())))?;
    let produced = load.finish()?;
    sink.wait_caught_up(&kafka, config.group(), &[&topic], CATCH_UP)?;
    sink.stop_cleanly()?;
    let all = read_back(&bed.store.client()?, config.bucket(), "*").await?;
    let (letters, stored): (Vec<Stored>, Vec<Stored>) =
        all.into_iter().partition(|record| record.entry.starts_with("dead-letters/"));
    assert!(letters.len() > 5, "the bound was passed");
    for letter in &letters {
        let identity = letter.identity()?.context("a letter without an identity")?;
        assert!(guests::is_trapped(identity.offset), "{identity} was no record to fail on");
        assert_eq!(letter.label("sink.plugin"), Some("swapped"));
    }
    figures::record("relapse_dead_letters", letters.len() as f64)?;
    let everything: Vec<Stored> = letters.into_iter().chain(stored).collect();
    compare(&produced, &everything)?.exact()?;
    Ok(())
}

/// Runs the sink under load until `meanwhile` is through.
async fn run(meanwhile: impl FnOnce(&mut Sink, &std::path::Path) -> Result<()>) -> Result<Run> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let topic = unique("swaps");
    kafka.create_topic(&topic, PARTITIONS)?;
    let folder = process::data_folder("plugin")?;
    let (file, clock) = (folder.path().join("plugin.wasm"), folder.path().join("clock.wasm"));
    std::fs::write(&file, guests::good(0))?;
    std::fs::write(&clock, guests::clock())?;
    let mut stamps = Table::new();
    stamps.insert("name".into(), "clock".into());
    stamps.insert("path".into(), clock.to_str().context("a path that is UTF-8")?.into());
    stamps.insert("grants".into(), "clocks = true".parse::<Table>()?.into());
    let config = bed.sink_config(&topic).set("cache.path", "").plugin("swapped", &file, "")?.plugin_table(stamps);
    let load = Load::start(&kafka, &topic, PER_SECOND, |n| Message::new(payload(n, 200)))?;
    let mut sink = Sink::start(&config)?;
    sink.wait_log("running", CATCH_UP)?;
    process::wait_for("a backlog", CATCH_UP, || Ok((load.sent() > 5000).then_some(())))?;
    meanwhile(&mut sink, &file)?;
    let produced = load.finish()?;
    sink.wait_caught_up(&kafka, config.group(), &[&topic], CATCH_UP)?;
    sink.stop_cleanly()?;
    let stored = read_back(&bed.store.client()?, config.bucket(), "*").await?;
    Ok(Run { produced, stored, log: sink.log()? })
}

/// Puts one version after the other there, bad ones among them, and waits for the host's word of each.
fn swap(sink: &mut Sink, file: &std::path::Path, swaps: usize, bad: usize) -> Result<()> {
    let every = swaps / bad;
    let (mut good_ones, mut bad_ones) = (0, 0);
    for number in 1..=swaps {
        let is_bad = number % every == 0 && bad_ones < bad;
        let (bytes, word) = if is_bad {
            bad_ones += 1;
            guests::bad(number)
        } else {
            good_ones += 1;
            (guests::good(number as u64), "swapped: ")
        };
        let before = sink.log()?.matches(word).count();
        guest::replace(file, &bytes)?;
        process::wait_for(&format!("{word:?} of version {number}"), CATCH_UP, || {
            sink.process().expect_running()?;
            Ok((sink.log()?.matches(word).count() > before).then_some(()))
        })?;
    }
    ensure!((good_ones, bad_ones) == (swaps - bad, bad), "{good_ones} good and {bad_ones} bad versions");
    Ok(())
}

/// Records whose mark names another version than the one that left its number on them, or more than one.
fn two_versions(stored: &[Stored]) -> Result<usize> {
    let mut marks: BTreeMap<&str, HashSet<&str>> = BTreeMap::new();
    let mut wrong = 0;
    for record in stored {
        let mark = record.label("sink.plugins").context("a record that no plugin handled")?;
        let own = mark.split('+').filter(|plugin| plugin.starts_with("swapped@")).collect::<Vec<_>>();
        match (own.as_slice(), record.label("version")) {
            ([mark], Some(version)) => drop(marks.entry(version).or_default().insert(mark)),
            _ => wrong += 1,
        }
    }
    Ok(wrong + marks.values().filter(|marks| marks.len() > 1).count())
}

/// The longest time between two records of one partition, by the clock of the plugin that stamped them.
fn longest_pause_ms(stored: &[Stored]) -> Result<f64> {
    let mut partitions: BTreeMap<String, BTreeMap<u64, u64>> = BTreeMap::new();
    for record in stored {
        let identity = record.identity()?.context("a record without an identity")?;
        partitions.entry(identity.source).or_default().insert(identity.offset, record.timestamp_us);
    }
    let gaps = partitions.values().flat_map(|offsets| {
        let times: Vec<u64> = offsets.values().copied().collect();
        times.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).collect::<Vec<_>>()
    });
    Ok(gaps.max().unwrap_or(0) as f64 / 1000.0)
}

fn per_second(stored: &[Stored]) -> f64 {
    let times = || stored.iter().map(|record| record.timestamp_us);
    let took = times().max().unwrap_or(0).saturating_sub(times().min().unwrap_or(0));
    stored.len() as f64 / (took.max(1) as f64 / 1e6)
}
