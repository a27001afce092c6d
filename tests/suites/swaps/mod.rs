//! Tests swaps under full load, of good and bad versions, on the real servers, between two control runs without swaps.
//!
//! The tests assert what must be true on every machine: no record is lost or stored twice, and one version decides
//! about each record. What depends on the machine (the ratio of the throughputs, the longest pause) is recorded as a
//! figure, together with the difference between the two control runs.

mod guests;

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use reduct_sink_testbed::verify::compare;
use reduct_sink_testbed::{
    Load, Message, Produced, Sink, Stored, all, bed, figures, guest, long, payload, process, read_back, unique,
};
use tokio::sync::Mutex;

const CATCH_UP: Duration = Duration::from_secs(600);
const PARTITIONS: i32 = 4;
/// How many small records a second are produced: more than the store can take on usual machines, so that there are
/// always records to handle.
const PER_SECOND: u32 = 8000;
/// How long the load runs before the measurement. The short form measures no speed.
fn warm_up() -> Duration {
    Duration::from_secs(if all() { 5 } else { 1 })
}

/// The time from one swap to the next: longer than a swap takes.
const PACE: Duration = Duration::from_secs(1);

/// Held by the test that runs, because these tests measure and must not run side by side.
static ALONE: Mutex<()> = Mutex::const_new(());

/// What one run stored and measured.
struct Run {
    produced: Vec<Produced>,
    stored: Vec<Stored>,
    log: String,
    /// The measured time, between the warm-up and the end of the load, in microseconds since the Unix epoch.
    measured: Range<u64>,
}

#[tokio::test(flavor = "multi_thread")]
async fn under_full_load_each_record_is_handled_by_exactly_one_version() -> Result<()> {
    let _alone = ALONE.lock().await;
    let (swaps, bad) = match (long(), all()) {
        (true, _) => (200, 60),
        (_, true) => (20, 6),
        _ => (6, 2),
    };
    // The short form runs no controls, and compares no speeds.
    let control =
        async || if all() { run(|sink, _| idle(sink, PACE * swaps as u32)).await.map(Some) } else { Ok(None) };
    let before = control().await?;
    let swapped = run(|sink, file| swap(sink, file, swaps, bad)).await?;
    let after = control().await?;

    let diff = compare(&swapped.produced, &swapped.stored)?;
    let two_versions = two_versions(&swapped.stored)?;
    let refused = swapped.log.matches("doesn't load").count() + swapped.log.matches("rolled back").count();
    for (name, value) in [
        ("swaps", swaps as f64),
        ("bad_swaps", refused as f64),
        ("lost", diff.missing.len() as f64),
        ("twice", diff.twice.len() as f64),
        ("two_versions", two_versions as f64),
    ] {
        figures::record(name, value)?;
    }
    if let (Some(before), Some(after)) = (before, after) {
        record_speed(&before, &swapped, &after)?;
        for control in [before, after] {
            compare(&control.produced, &control.stored)?.exact()?;
        }
    }
    diff.exact()?;
    assert_eq!((two_versions, refused), (0, bad));
    Ok(())
}

/// Records what swaps cost in relation to the two control runs, and how much these differ from each other.
fn record_speed(before: &Run, swapped: &Run, after: &Run) -> Result<()> {
    let [rate_before, rate, rate_after] = [before, swapped, after].map(Run::per_second);
    let [pause_before, pause, pause_after] =
        [before.longest_pause_ms()?, swapped.longest_pause_ms()?, after.longest_pause_ms()?];
    for (name, value) in [
        ("records_per_second_control", f64::midpoint(rate_before, rate_after)),
        ("ratio_throughput", rate / f64::midpoint(rate_before, rate_after)),
        ("ratio_throughput_a_a", rate_after / rate_before),
        ("pause_ms_control", pause_before.max(pause_after)),
        ("pause_ms_above_control", pause - pause_before.max(pause_after)),
        ("pause_ms_a_a", (pause_after - pause_before).abs()),
    ] {
        figures::record(name, value)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_traps_on_one_record_in_a_hundred_is_back_out() -> Result<()> {
    let _alone = ALONE.lock().await;
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

/// Runs the sink under more load than it can take until `meanwhile` has ended, and then until it has written all
/// records.
async fn run(meanwhile: impl FnOnce(&mut Sink, &Path) -> Result<()>) -> Result<Run> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let topic = unique("swaps");
    kafka.create_topic(&topic, PARTITIONS)?;
    let folder = process::data_folder("plugin")?;
    let (file, clock) = (folder.path().join("plugin.wasm"), folder.path().join("clock.wasm"));
    std::fs::write(&file, guests::good(0))?;
    std::fs::write(&clock, guests::clock())?;
    let config = bed.sink_config(&topic).set("cache.path", "").plugin("swapped", &file, "")?.plugin_with(
        "clock",
        &clock,
        "grants.clocks = true",
    )?;
    let load = Load::start(&kafka, &topic, PER_SECOND, |n| Message::new(payload(n, 200)))?;
    let mut sink = Sink::start(&config)?;
    sink.wait_log("running", CATCH_UP)?;
    idle(&mut sink, warm_up())?;
    let begin = now_us()?;
    meanwhile(&mut sink, &file)?;
    let measured = begin..now_us()?;
    let group = kafka.group(config.group())?;
    let settled: u64 = group.committed(&topic)?.iter().map(|(_, offset)| offset).sum();
    ensure!(load.sent() > settled + u64::from(PER_SECOND), "the host kept up: that is no full load");
    let produced = load.finish()?;
    sink.wait_caught_up(&kafka, config.group(), &[&topic], CATCH_UP)?;
    sink.stop_cleanly()?;
    let stored = read_back(&bed.store.client()?, config.bucket(), "*").await?;
    Ok(Run { produced, stored, log: sink.log()?, measured })
}

fn idle(sink: &mut Sink, time: Duration) -> Result<()> {
    let until = Instant::now() + time;
    while Instant::now() < until {
        sink.process().expect_running()?;
        std::thread::sleep(Duration::from_millis(100).min(until.saturating_duration_since(Instant::now())));
    }
    Ok(())
}

fn now_us() -> Result<u64> {
    Ok(SystemTime::UNIX_EPOCH.elapsed()?.as_micros() as u64)
}

/// Replaces the plugin's file by one version after the other, some of them bad, and waits for the host's log line about
/// each.
fn swap(sink: &mut Sink, file: &Path, swaps: usize, bad: usize) -> Result<()> {
    let begin = Instant::now();
    let (mut good_ones, mut bad_ones) = (0, 0);
    for number in 1..=swaps {
        // The bad versions are spread evenly among the good ones.
        let is_bad = number * bad / swaps > bad_ones;
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
        idle(sink, (PACE * number as u32).saturating_sub(begin.elapsed()))?;
    }
    ensure!((good_ones, bad_ones) == (swaps - bad, bad), "{good_ones} good and {bad_ones} bad versions");
    Ok(())
}

/// How many records have a label `sink.plugins` that names another version than the one that marked them with its
/// number, or more than one version.
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

impl Run {
    /// The longest time between two records of one partition, by the clock of the plugin that stamped them.
    fn longest_pause_ms(&self) -> Result<f64> {
        let mut partitions: BTreeMap<String, BTreeMap<u64, u64>> = BTreeMap::new();
        for record in self.stored.iter().filter(|record| self.measured.contains(&record.timestamp_us)) {
            let identity = record.identity()?.context("a record without an identity")?;
            partitions.entry(identity.source).or_default().insert(identity.offset, record.timestamp_us);
        }
        ensure!(partitions.len() == PARTITIONS as usize, "records of {} partitions only", partitions.len());
        let gaps = partitions.values().flat_map(|offsets| {
            offsets.values().zip(offsets.values().skip(1)).map(|(one, next)| next.saturating_sub(*one))
        });
        Ok(gaps.max().unwrap_or(0) as f64 / 1000.0)
    }

    fn per_second(&self) -> f64 {
        let records = self.stored.iter().filter(|record| self.measured.contains(&record.timestamp_us)).count();
        records as f64 / ((self.measured.end - self.measured.start) as f64 / 1e6)
    }
}
