//! kill -9 under load: of the host, of ReductStore, of Kafka, and of all three.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use reduct_rs::BucketSettings;
use reduct_sink_testbed::dice::Dice;
use reduct_sink_testbed::process::wait_for;
use reduct_sink_testbed::verify::Ledger;
use reduct_sink_testbed::{Message, Sink, Store, figures, long, payload, process};
use tempfile::TempDir;

use super::{CATCH_UP, Load, STEP, Trial, guests, kafka, pause, size, sized, start_kafka, wait_progress};

/// The host is a static member of its group, so that it gets its partitions back at once.
#[tokio::test(flavor = "multi_thread")]
async fn the_host_is_killed_and_comes_back_as_the_same_member() -> Result<()> {
    let store = Store::start()?;
    let trial =
        Trial::new(kafka()?.client(), &store, "kill-static", 8)?.configure(|config| config.set("kafka.member", "one"));
    kill_hosts(trial, &store, sized(4, 6, 25), false).await
}

/// Each record becomes three. The partitions come back when the group notices that the killed member is gone.
#[tokio::test(flavor = "multi_thread")]
async fn the_host_is_killed_while_a_plugin_splits() -> Result<()> {
    let store = Store::start()?;
    let folder = process::data_folder("split")?;
    let file = folder.path().join("split.wasm");
    std::fs::write(&file, guests::split())?;
    let mut trial = Trial::new(kafka()?.client(), &store, "kill-split", 8)?;
    trial.config = trial.config.plugin("split", &file, "")?;
    kill_hosts(trial, &store, size(4, 25), true).await
}

async fn kill_hosts(mut trial: Trial, store: &Store, kills: u64, split: bool) -> Result<()> {
    let mut dice = Dice::new(&trial.topic)?;
    let group = trial.group()?;
    let load = trial.load(if split { 500 } else { 1500 })?;
    let mut sink = Sink::start(&trial.config)?;
    for _ in 0..kills {
        // Some are killed while they start.
        if !dice.one_in(4) {
            let before = trial.committed(&group)?;
            wait_progress(&mut sink, &trial, &group, before)?;
        }
        pause(&mut dice, 0..1200).await;
        trial.weigh(&mut sink);
        sink.kill9()?;
        figures::add("kills_host", 1.0)?;
        sink.start_again()?;
    }
    let records = if split { size(5_000, 100_000) } else { sized(8_000, 20_000, 400_000) };
    let produced = trial.finish(load, records)?;
    let mut ledger = Ledger::default();
    for (n, record) in produced.iter().enumerate() {
        match split {
            true => ledger.expect_parts(record, guests::thirds(&payload(n as u64, 1000))),
            false => ledger.expect(record),
        }
    }
    trial.settle(&mut [&mut sink], store, ledger).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_is_killed() -> Result<()> {
    let mut store = Store::start()?;
    let trial = Trial::new(kafka()?.client(), &store, "kill-store", 8)?;
    let mut dice = Dice::new(&trial.topic)?;
    let group = trial.group()?;
    let load = trial.load(1000)?;
    let mut sink = Sink::start(&trial.config)?;
    for _ in 0..sized(3, 4, 30) {
        let before = trial.committed(&group)?;
        wait_progress(&mut sink, &trial, &group, before)?;
        pause(&mut dice, 0..1500).await;
        store.kill9()?;
        figures::add("kills_store", 1.0)?;
        pause(&mut dice, 0..1000).await;
        store.restart()?;
    }
    let produced = trial.finish(load, 0)?;
    trial.settle(&mut [&mut sink], &store, Ledger::of(&produced)).await
}

/// Requests for many entries are cut off: of the host and of the store, in turn.
#[tokio::test(flavor = "multi_thread")]
async fn host_and_store_are_killed_while_many_entries_share_requests() -> Result<()> {
    let mut store = Store::start()?;
    let mut trial = Trial::new(kafka()?.client(), &store, "kill-many", 2)?;
    let route = reduct_sink_testbed::guest::plugin("route")?;
    let settings = "limits.entries = ['by-key/*']\nconfig.default = 'by-key/{key}'";
    trial.config = trial.config.set("kafka.member", "one").plugin_with("route", &route, settings)?;
    let mut dice = Dice::new(&trial.topic)?;
    let group = trial.group()?;
    let keyed = |n: u64| Message::new(payload(n, 300)).key(format!("e{}", n * 7 % 300));
    let load = Load::start(&trial.kafka, &trial.topic, size(200, 500) as u32, keyed)?;
    let mut sink = Sink::start(&trial.config)?;
    for round in 0..size(4, 30) {
        let before = trial.committed(&group)?;
        wait_progress(&mut sink, &trial, &group, before)?;
        pause(&mut dice, 0..1000).await;
        if round % 2 == 0 {
            trial.weigh(&mut sink);
            sink.kill9()?;
            figures::add("kills_host", 1.0)?;
            sink.start_again()?;
        } else {
            store.kill9()?;
            figures::add("kills_store", 1.0)?;
            store.restart()?;
        }
    }
    let produced = trial.finish(load, size(2_000, 100_000))?;
    trial.settle(&mut [&mut sink], &store, Ledger::of(&produced)).await
}

/// The records of a block of a [`torn_log`]. Each request costs the store time that grows with its block, and all counts below are
/// multiples of it, as the host's re-reads are.
fn torn_block() -> u64 {
    sized(256, 1024, 1024)
}

/// A store that saves blocks once an hour, so that what is at risk stays at risk, and a topic of one partition.
fn torn_log(name: &str) -> Result<(Store, Trial)> {
    let store = Store::start_with(None, &[("RS_ENGINE_COMPACTION_INTERVAL", "3600")])?;
    let trial = Trial::new(kafka()?.client(), &store, name, 1)?;
    Ok((store, trial.configure(|config| config.set("store.create.max_block_records", torn_block() as i64))))
}

/// How many records a second are produced: few, because ten crashes take minutes and one partition has to catch up on a
/// shared machine.
fn torn_load() -> u32 {
    if long() { 400 } else { 1000 }
}

/// A [`torn_log`] with a plugin that sends one record in fifty to a separate entry. The plugin's file is in the folder.
fn torn_log_with_a_seldom_entry(name: &str) -> Result<(Store, Trial, TempDir)> {
    let (store, mut trial) = torn_log(name)?;
    let folder = process::data_folder("seldom")?;
    let file = folder.path().join("seldom.wasm");
    std::fs::write(&file, guests::seldom())?;
    trial.config = trial.config.plugin_with("seldom", &file, "limits.entries = ['seldom']")?;
    Ok((store, trial, folder))
}

/// A [`torn_log`] with small blocks, and a plugin that sends each record to the entry of its key.
fn torn_log_with_an_entry_for_each_key(name: &str) -> Result<(Store, Trial)> {
    let (store, mut trial) = torn_log(name)?;
    let route = reduct_sink_testbed::guest::plugin("route")?;
    let settings = "limits.entries = ['by-key/*']\nconfig.default = 'by-key/{key}'";
    trial.config = trial.config.set("store.create.max_block_records", 16).plugin_with("route", &route, settings)?;
    Ok((store, trial))
}

/// The store is killed at the worst moment, every time. An entry that gets few of the records loses records that are
/// older than the range which a host re-reads in any case.
#[tokio::test(flavor = "multi_thread")]
async fn the_store_is_killed_and_its_log_is_torn() -> Result<()> {
    let (mut store, trial, _folder) = torn_log_with_a_seldom_entry("torn-log")?;
    let group = trial.group()?;
    let load = trial.load(torn_load())?;
    let mut sink = Sink::start(&trial.config)?;
    for _ in 0..size(2, 10) {
        wait_progress(&mut sink, &trial, &group, trial.committed(&group)? + 4 * torn_block())?;
        store.kill9()?;
        figures::add("kills_store", 1.0)?;
        ensure!(store.tear_logs()? > 0, "there was no log");
        store.restart()?;
    }
    let produced = trial.finish(load, 0)?;
    ensure!(sink.log()?.contains("doesn't have it any more as it was acknowledged"), "nothing old was lost");
    trial.settle(&mut [&mut sink], &store, Ledger::of(&produced)).await
}

/// After the first crash the host writes the lost records into an old block, and then finds more newer records than two
/// blocks hold. The second crash takes the same records once more.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_again_after_a_crash_is_lost_in_the_next() -> Result<()> {
    let (mut store, trial) = torn_log("torn-twice")?;
    let mut sink = Sink::start(&trial.config)?;
    let mut produced = Vec::new();
    // A pair of crashes takes records twice only if a block ended between them: about one pair in three does.
    let block = torn_block();
    for (count, while_away) in [(block * 3 / 2, 4 * block), (block / 10, block * 3 / 10)].repeat(size(2, 10) as usize) {
        let produce = |from: u64, count| {
            let messages = (from..from + count).map(|n| Message::new(payload(n, 1000)));
            trial.kafka.produce(&trial.topic, messages)
        };
        produced.extend(produce(produced.len() as u64, count)?);
        sink.wait_caught_up(&trial.kafka, trial.config.group(), &[&trial.topic], CATCH_UP)?;
        store.kill9()?;
        figures::add("kills_store", 1.0)?;
        ensure!(store.tear_logs()? > 0, "there was no log");
        // The host holds these records when the store is back, and writes them first.
        produced.extend(produce(produced.len() as u64, while_away)?);
        store.restart()?;
        sink.wait_caught_up(&trial.kafka, trial.config.group(), &[&trial.topic], CATCH_UP)?;
    }
    trial.settle(&mut [&mut sink], &store, Ledger::of(&produced)).await
}

/// The store gives up a block, because it meets records without bytes when one of them is removed. They are written again, in another
/// block. When the store starts again it brings the first block back (trap 27): by itself each record can be read, and a query breaks off.
#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_the_store_gave_up_and_brings_back_is_repaired() -> Result<()> {
    let (mut store, trial) = torn_log("given-up")?;
    let mut sink = Sink::start(&trial.config)?;
    // The open block is half full.
    let messages = (0..torn_block() * 5 / 2).map(|n| Message::new(payload(n, 1000)));
    let mut produced = trial.kafka.produce(&trial.topic, messages)?;
    sink.wait_caught_up(&trial.kafka, trial.config.group(), &[&trial.topic], CATCH_UP)?;
    sink.kill9()?;
    let bucket = store.client()?.get_bucket(trial.config.bucket()).await?;
    let entry = trial.topic.as_str();
    let newest = bucket.read_record(entry).head_only(true).send().await?.timestamp_us();
    let mut last = Vec::new();
    let query = bucket.query(entry).start_us(0).stop_us(newest + 1).send().await?;
    futures::pin_mut!(query);
    while let Some(record) = query.next().await {
        let record = record?;
        let (time, labels) = (record.timestamp_us(), record.labels().clone());
        last.push((time, labels, record.bytes().await?));
    }
    let last = last.split_off(last.len() - 2);
    // The bytes of the last two records are gone. The block's descriptions of its records are in the store's log only.
    let bytes = 1000 * torn_block() / 2 - 1500;
    ensure!(store.cut_newest_blocks(trial.config.bucket(), bytes)? > 0, "there was no block");
    let mut removal = bucket.remove_batch(entry);
    removal.append_timestamps_us(vec![last[0].0]);
    let error = removal.send().await.err().context("the store gave up no block")?;
    ensure!(error.to_string().contains("EOF"), "{error}");
    for (time, labels, bytes) in last {
        bucket.write_record(entry).timestamp_us(time).labels(labels).data(bytes).send().await?;
    }
    store.kill9()?;
    store.restart()?;
    figures::add("kills_store", 1.0)?;
    sink.start_again()?;
    // The offset of one more record is committed when no re-read is owed any more.
    let one = Message::new(payload(produced.len() as u64, 1000));
    produced.extend(trial.kafka.produce(&trial.topic, [one].into_iter())?);
    trial.settle(&mut [&mut sink], &store, Ledger::of(&produced)).await
}

/// Somebody makes the bucket's blocks larger while the host runs, and the next crash takes more than two of the blocks that it knew. The
/// host has caught up for longer than it takes to look at the store's uptime: then only the size of blocks makes it go back.
#[tokio::test(flavor = "multi_thread")]
async fn blocks_that_were_made_larger_are_re_read_whole() -> Result<()> {
    let (mut store, mut trial) = torn_log("larger-blocks")?;
    trial.config = trial.config.set("store.create.max_block_records", 16);
    let mut sink = Sink::start(&trial.config)?;
    let mut produced = Vec::new();
    let mut produce_and_wait = |sink: &mut Sink, count: u64| -> Result<()> {
        let from = produced.len() as u64;
        let messages = (from..from + count).map(|n| Message::new(payload(n, 1000)));
        produced.extend(trial.kafka.produce(&trial.topic, messages)?);
        sink.wait_caught_up(&trial.kafka, trial.config.group(), &[&trial.topic], CATCH_UP)
    };
    produce_and_wait(&mut sink, 100)?;
    let settings = BucketSettings { max_block_records: Some(torn_block()), ..BucketSettings::default() };
    store.client()?.get_bucket(trial.config.bucket()).await?.set_settings(settings).await?;
    // Until a re-read has begun the host is caught up, and a stop would leave the re-read to the next host.
    let rereads = |sink: &Sink| anyhow::Ok(sink.log()?.matches("reading from another offset").count());
    for _ in 0..size(2, 10) {
        produce_and_wait(&mut sink, 2 * torn_block() + torn_block() / 2)?;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let before = rereads(&sink)?;
        store.kill9()?;
        figures::add("kills_store", 1.0)?;
        ensure!(store.tear_logs()? > 0, "there was no log");
        store.restart()?;
        wait_for("the re-read", STEP, || Ok((rereads(&sink)? > before).then_some(())))?;
    }
    produce_and_wait(&mut sink, 50)?;
    trial.settle(&mut [&mut sink], &store, Ledger::of(&produced)).await
}

/// Records are spread over entries of which each gets few, so that their blocks stay open. A host that takes the place of an earlier one
/// doesn't remember what that wrote, and goes on for some time before the store crashes.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_host_wrote_is_re_read_after_a_crash() -> Result<()> {
    const ENTRIES: u64 = 64;
    let (mut store, trial) = torn_log_with_an_entry_for_each_key("earlier-host")?;
    let mut sink = Sink::start(&trial.config)?;
    let mut produced = Vec::new();
    let mut produce_and_wait = |sink: &mut Sink, count: u64| -> Result<()> {
        let from = produced.len() as u64;
        let keyed = |n: u64| Message::new(payload(n, 300)).key(format!("e{}", n % ENTRIES));
        produced.extend(trial.kafka.produce(&trial.topic, (from..from + count).map(keyed))?);
        sink.wait_caught_up(&trial.kafka, trial.config.group(), &[&trial.topic], CATCH_UP)
    };
    // Each entry's open block is half full, and the next hosts write one record to each.
    produce_and_wait(&mut sink, 8 * ENTRIES)?;
    for _ in 0..2 {
        sink.kill9()?;
        figures::add("kills_host", 1.0)?;
        sink.start_again()?;
        produce_and_wait(&mut sink, ENTRIES)?;
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    store.kill9()?;
    figures::add("kills_store", 1.0)?;
    ensure!(store.tear_logs()? > 0, "there was no log");
    store.restart()?;
    wait_for("the re-read", STEP, || Ok(sink.log()?.contains("reading from another offset").then_some(())))?;
    produce_and_wait(&mut sink, 50)?;
    trial.settle(&mut [&mut sink], &store, Ledger::of(&produced)).await
}

/// The store is away for longer than a running one has a block open. Nothing is written to most of its entries any more, before the crash
/// or after it.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_before_a_long_outage_is_compared() -> Result<()> {
    let (mut store, trial) = torn_log_with_an_entry_for_each_key("long-outage")?;
    let mut sink = Sink::start(&trial.config)?;
    let mut produced = Vec::new();
    let mut produce_and_wait = |sink: &mut Sink, count: u64, entries: u64| -> Result<()> {
        let from = produced.len() as u64;
        let keyed = |n: u64| Message::new(payload(n, 300)).key(format!("e{}", n % entries));
        produced.extend(trial.kafka.produce(&trial.topic, (from..from + count).map(keyed))?);
        sink.wait_caught_up(&trial.kafka, trial.config.group(), &[&trial.topic], CATCH_UP)
    };
    produce_and_wait(&mut sink, 500, 64)?;
    produce_and_wait(&mut sink, 100, 1)?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    store.kill9()?;
    figures::add("kills_store", 1.0)?;
    ensure!(store.tear_logs()? > 0, "there was no log");
    tokio::time::sleep(Duration::from_secs(size(1, 310))).await;
    store.restart()?;
    wait_for("the re-read", STEP, || Ok(sink.log()?.contains("reading from another offset").then_some(())))?;
    produce_and_wait(&mut sink, 50, 1)?;
    trial.settle(&mut [&mut sink], &store, Ledger::of(&produced)).await
}

/// The restarted host learns from the commit metadata how far it must re-read for an entry that gets few of the
/// records.
#[tokio::test(flavor = "multi_thread")]
async fn the_host_and_the_store_are_killed_and_the_log_is_torn() -> Result<()> {
    let (mut store, mut trial, _folder) = torn_log_with_a_seldom_entry("torn-both")?;
    let group = trial.group()?;
    let load = trial.load(torn_load())?;
    let mut sink = Sink::start(&trial.config)?;
    for _ in 0..size(2, 10) {
        wait_progress(&mut sink, &trial, &group, trial.committed(&group)? + 4 * torn_block())?;
        trial.weigh(&mut sink);
        sink.kill9()?;
        store.kill9()?;
        figures::add("kills_host", 1.0)?;
        figures::add("kills_store", 1.0)?;
        ensure!(store.tear_logs()? > 0, "there was no log");
        store.restart()?;
        sink.start_again()?;
    }
    let produced = trial.finish(load, 0)?;
    trial.settle(&mut [&mut sink], &store, Ledger::of(&produced)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_is_killed() -> Result<()> {
    let mut kafka = start_kafka()?;
    let store = Store::start()?;
    let trial = Trial::new(kafka.client(), &store, "kill-kafka", 8)?;
    let mut dice = Dice::new(&trial.topic)?;
    let group = trial.group()?;
    let load = trial.load(1000)?;
    let mut sink = Sink::start(&trial.config)?;
    for _ in 0..size(2, 20) {
        let before = trial.committed(&group)?;
        wait_progress(&mut sink, &trial, &group, before)?;
        pause(&mut dice, 0..1500).await;
        kafka.kill9()?;
        figures::add("kills_kafka", 1.0)?;
        pause(&mut dice, 0..3000).await;
        kafka.restart()?;
    }
    let produced = trial.finish(load, 0)?;
    trial.settle(&mut [&mut sink], &store, Ledger::of(&produced)).await
}

/// Host, store and Kafka die and come back at random, also while the others are away or starting. After each round the
/// sink must make progress.
#[tokio::test(flavor = "multi_thread")]
async fn all_three_are_killed_at_random() -> Result<()> {
    let mut kafka = start_kafka()?;
    let mut store = Store::start()?;
    let mut trial = Trial::new(kafka.client(), &store, "kill-all", 8)?;
    let mut dice = Dice::new(&trial.topic)?;
    let group = trial.group()?;
    let load = trial.load(500)?;
    let mut sink = Sink::start(&trial.config)?;
    let end = Instant::now() + Duration::from_secs(sized(30, 120, 1200));
    while Instant::now() < end {
        let before = trial.committed(&group)?;
        let mut down = [false; 3];
        for _ in 0..=dice.below(4) {
            let which = dice.below(3) as usize;
            match (which, down[which]) {
                (0, false) => {
                    trial.weigh(&mut sink);
                    sink.kill9()?;
                    figures::add("kills_host", 1.0)?;
                }
                (1, false) => {
                    store.kill9()?;
                    figures::add("kills_store", 1.0)?;
                }
                (_, false) => {
                    kafka.kill9()?;
                    figures::add("kills_kafka", 1.0)?;
                }
                (0, true) => sink.start_again()?,
                (1, true) => store.start_again()?,
                (_, true) => kafka.start_again()?,
            }
            down[which] = !down[which];
            pause(&mut dice, 0..3000).await;
            // A host keeps running while servers are away.
            if !down[0] {
                sink.process().expect_running()?;
            }
        }
        if down[2] {
            kafka.start_again()?;
        }
        if down[1] {
            store.start_again()?;
        }
        if down[0] {
            sink.start_again()?;
        }
        kafka.wait_ready()?;
        store.wait_ready()?;
        wait_progress(&mut sink, &trial, &group, before)?;
        figures::add("rounds_of_all_three", 1.0)?;
    }
    let produced = trial.finish(load, 0)?;
    trial.settle(&mut [&mut sink], &store, Ledger::of(&produced)).await
}
