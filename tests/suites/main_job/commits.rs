//! Tests commits: an offset is committed only if its record and all records before it are acknowledged, however the
//! host ends.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use reduct_sink_testbed::client::Group;
use reduct_sink_testbed::process::wait_for;
use reduct_sink_testbed::verify::compare;
use reduct_sink_testbed::{
    Load, Message, Sink, Stored, bed, figures, long, payload, process, read_back, sized, unique,
};

use super::{CATCH_UP, assert_exact};
use crate::guest::Guest;

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_under_load_drains_commits_and_ends_with_0() -> Result<()> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let topic = unique("sigterm");
    kafka.create_topic(&topic, 4)?;
    let config = bed.sink_config(&topic);
    let group = kafka.group(config.group())?;
    let load = Load::start(&kafka, &topic, sized(150, 500, 500), |n| Message::new(payload(n, 1000)))?;
    let mut slowest = Duration::ZERO;
    for _ in 0..if long() { 20 } else { 3 } {
        let sent = load.sent();
        let mut sink = Sink::start(&config)?;
        wait_for("the sink to be at work", CATCH_UP, || {
            sink.process().expect_running()?;
            Ok((committed_so_far(&group, &topic) > sent).then_some(()))
        })?;
        let start = Instant::now();
        sink.stop_cleanly()?;
        slowest = slowest.max(start.elapsed());
        let stored = read_back(&bed.store.client()?, config.bucket(), "*").await?;
        // The written records are exactly the committed ones, so that the next host reads none again. A store that is too slow may
        // have some more of those that the host said it gave up, and no others.
        let (committed, given_up) = (sum(&group.committed(&topic)?), sink.unacknowledged()?);
        assert!(
            (committed..=committed + given_up).contains(&(stored.len() as u64)),
            "{committed} committed and {given_up} given up, but {} stored",
            stored.len()
        );
        assert_committed_is_stored(&group.committed(&topic)?, &stored)?;
    }
    assert!(slowest < Duration::from_secs(25), "stopping took {slowest:?}");
    let produced = load.finish()?;
    let mut sink = Sink::start(&config)?;
    sink.wait_caught_up(&kafka, config.group(), &[&topic], CATCH_UP)?;
    sink.stop_cleanly()?;
    figures::record("sigterm_slowest_s", slowest.as_secs_f64())?;
    assert_exact(&produced, &read_back(&bed.store.client()?, config.bucket(), "*").await?)
}

/// A stop while a plugin is being loaded, which takes longer than a stop may.
#[tokio::test(flavor = "multi_thread")]
async fn sigterm_while_plugins_are_loaded_ends_with_0() -> Result<()> {
    let folder = process::data_folder("endless")?;
    let file = folder.path().join("endless.wasm");
    let endless = Guest::new("(call $keep)").configure("(loop $again (br $again)) (i32.const 0)");
    std::fs::write(&file, endless.build())?;
    let config = bed()?.sink_config(&unique("endless")).plugin("endless", &file, "")?;
    stopped_before_anything_was_consumed(Sink::start(&config)?)
}

/// A stop while the store accepts connections and answers nothing, so that a request lasts longer than the stop may.
#[tokio::test(flavor = "multi_thread")]
async fn sigterm_while_a_held_store_is_asked_ends_with_0() -> Result<()> {
    let held = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}", held.local_addr()?);
    let mut sink = Sink::start(&bed()?.sink_config(&unique("no-store")).set("store.url", url))?;
    let (_question, _) = held.accept()?;
    sink.wait_log("starting", CATCH_UP)?;
    stopped_before_anything_was_consumed(sink)
}

fn stopped_before_anything_was_consumed(mut sink: Sink) -> Result<()> {
    let start = Instant::now();
    sink.stop_cleanly()?;
    ensure!(start.elapsed() < Duration::from_secs(25), "stopping took {:?}", start.elapsed());
    let log = sink.log()?;
    ensure!(log.contains("stopped before anything was consumed"), "it was stopped too late:\n{log}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_host_has_committed_only_what_is_stored() -> Result<()> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let topic = unique("kill");
    kafka.create_topic(&topic, 4)?;
    // The group waits for the end of a killed member's session before it gives the partitions to another member.
    let config = bed.sink_config(&topic).property("session.timeout.ms", "6000");
    let group = kafka.group(config.group())?;
    let load = Load::start(&kafka, &topic, sized(150, 500, 500), |n| Message::new(payload(n, 1000)))?;
    let mut sink = Sink::start(&config)?;
    for _ in 0..if long() { 20 } else { 3 } {
        let before = committed_so_far(&group, &topic);
        wait_for("the sink to move on", CATCH_UP, || {
            sink.process().expect_running()?;
            Ok((committed_so_far(&group, &topic) > before + 300).then_some(()))
        })?;
        sink.kill9()?;
        let stored = read_back(&bed.store.client()?, config.bucket(), "*").await?;
        assert_committed_is_stored(&group.committed(&topic)?, &stored)?;
        sink.start_again()?;
    }
    let produced = load.finish()?;
    sink.wait_caught_up(&kafka, config.group(), &[&topic], CATCH_UP)?;
    sink.stop_cleanly()?;
    assert_exact(&produced, &read_back(&bed.store.client()?, config.bucket(), "*").await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_never_run_ahead_of_the_store() -> Result<()> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let topic = unique("ahead");
    kafka.create_topic(&topic, 2)?;
    let config = bed.sink_config(&topic);
    let group = kafka.group(config.group())?;
    let load = Load::start(&kafka, &topic, sized(90, 300, 300), |n| Message::new(payload(n, 2000)))?;
    let mut sink = Sink::start(&config)?;
    let mut looks = 0;
    let begin = Instant::now();
    // On a busy machine the first commit comes late.
    while begin.elapsed() < Duration::from_secs(8) || looks < 3 && begin.elapsed() < CATCH_UP {
        // The committed offsets are read before the store, so that all records below them must be stored by then.
        let committed = group.committed(&topic)?;
        if sum(&committed) > 0 {
            let stored = read_back(&bed.store.client()?, config.bucket(), "*").await?;
            assert_committed_is_stored(&committed, &stored)?;
            looks += 1;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    ensure!(looks >= 3, "only {looks} looks at a sink under way");
    let produced = load.finish()?;
    sink.wait_caught_up(&kafka, config.group(), &[&topic], CATCH_UP)?;
    sink.stop_cleanly()?;
    assert_exact(&produced, &read_back(&bed.store.client()?, config.bucket(), "*").await?)
}

#[tokio::test]
async fn a_new_group_from_the_earliest_offset_writes_nothing_twice() -> Result<()> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let topic = unique("again");
    kafka.create_topic(&topic, 2)?;
    let one_instant = |n: u64| Message::new(payload(n, 500)).timestamp_ms(1_700_000_000_000);
    let produced = kafka.produce(&topic, (0..3000).map(one_instant))?;
    let config = bed.sink_config(&topic);
    for _ in 0..3 {
        let config = config.clone().set("kafka.group", unique("group"));
        let stored = super::run_through(bed, &config, &[&topic]).await?;
        assert_exact(&produced, &stored)?;
    }
    Ok(())
}

#[tokio::test]
async fn memory_in_flight_is_bounded() -> Result<()> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let topic = unique("backlog");
    kafka.create_topic(&topic, 4)?;
    let produced = kafka.produce(&topic, (0..400).map(|n| Message::new(payload(n, 1 << 20))))?;
    let config = bed.sink_config(&topic).set("limits.in_flight_bytes", "16MiB");
    let mut sink = Sink::start(&config)?;
    sink.wait_caught_up(&kafka, config.group(), &[&topic], CATCH_UP)?;
    let peak = sink.process().peak_memory()?;
    sink.stop_cleanly()?;
    let stored = read_back(&bed.store.client()?, config.bucket(), "*").await?;
    compare(&produced, &stored)?.exact()?;
    figures::record("rss_mb_backlog_400_mb", peak as f64 / 1e6)?;
    assert!(peak < 300 << 20, "{} MB resident for a backlog of 400 MB", peak / 1_000_000);
    Ok(())
}

/// Huge pages would keep much more resident than is in use. The kernel gives them to every process on some systems, and on others to
/// those that ask, as the host's allocator does.
#[tokio::test]
async fn the_host_has_no_huge_pages() -> Result<()> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let topic = unique("pages");
    kafka.create_topic(&topic, 1)?;
    kafka.produce(&topic, [Message::new(payload(0, 100))])?;
    let config = bed.sink_config(&topic);
    let mut sink = Sink::start(&config)?;
    sink.wait_caught_up(&kafka, config.group(), &[&topic], CATCH_UP)?;
    let status = std::fs::read_to_string(format!("/proc/{}/status", sink.process().pid()))?;
    let setting = status.lines().find(|line| line.starts_with("THP_enabled:")).context("THP_enabled")?;
    ensure!(setting.ends_with('0'), "{setting}");
    sink.stop_cleanly()
}

/// How many offsets the group has committed; 0 if Kafka is busy and doesn't answer, so that the caller asks again.
fn committed_so_far(group: &Group, topic: &str) -> u64 {
    sum(&group.committed(topic).unwrap_or_default())
}

fn sum(offsets: &[(u32, u64)]) -> u64 {
    offsets.iter().map(|(_, offset)| offset).sum()
}

/// Every offset below a partition's committed one is stored.
fn assert_committed_is_stored(committed: &[(u32, u64)], stored: &[Stored]) -> Result<()> {
    let mut offsets: BTreeMap<u32, BTreeSet<u64>> = BTreeMap::new();
    for record in stored {
        let identity = record.identity()?.context("a record without an identity")?;
        let partition = identity.source.rsplit('/').next().context("topic/partition")?.parse()?;
        offsets.entry(partition).or_default().insert(identity.offset);
    }
    for (partition, end) in committed {
        let there = offsets.get(partition).map_or(0, |offsets| offsets.range(..end).count() as u64);
        ensure!(there == *end, "partition {partition} is committed up to {end}, but {there} of these are stored");
    }
    Ok(())
}
