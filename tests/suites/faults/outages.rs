//! Tests outages: the store is away for longer than Kafka waits for a poll, a token is refused, dead letters can't be
//! written.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use rdkafka::admin::{AdminOptions, AlterConfig, ResourceSpecifier};
use reduct_sink_testbed::client::Group;
use reduct_sink_testbed::verify::Ledger;
use reduct_sink_testbed::{Sink, Store, process, source_of, unique};

use super::{CATCH_UP, STEP, Trial, guests, kafka, size, start_kafka, wait_progress};

/// Kafka gives a member's partitions to others if the member has not polled for this time.
const POLL_INTERVAL: Duration = Duration::from_secs(10);

/// A dead letter has more than 1000 bytes. A transaction's markers have 78 bytes, and a broker that can't write one
/// leaves the transaction open until it is restarted ("Received fatal error … while sending txn marker", Kafka 4.4.0).
const LESS_THAN_A_LETTER: u32 = 500;

/// Some of the records become dead letters, whose store is away, too.
#[tokio::test(flavor = "multi_thread")]
async fn the_store_is_away_for_longer_than_the_poll_interval() -> Result<()> {
    let mut store = Store::start()?;
    let folder = process::data_folder("poison")?;
    let file = folder.path().join("poison.wasm");
    std::fs::write(&file, guests::poisoned())?;
    let mut trial = patient(&store, "away")?;
    trial.config = trial.config.plugin("poison", &file, "")?;
    let group = trial.group()?;
    let load = trial.load(1000)?;
    let mut sink = Sink::start(&trial.config)?;
    wait_progress(&mut sink, &trial, &group, 0)?;

    store.kill9()?;
    held_through(&mut sink, &trial, Duration::from_secs(size(20, 70))).await?;
    store.restart()?;
    wait_progress(&mut sink, &trial, &group, trial.committed(&group)?)?;

    // The connections stay open, and the store doesn't answer.
    store.suspend()?;
    held_through(&mut sink, &trial, Duration::from_secs(size(15, 70))).await?;
    store.resume()?;
    wait_progress(&mut sink, &trial, &group, trial.committed(&group)?)?;

    let produced = trial.finish(load, 0)?;
    let mut ledger = Ledger::default();
    for record in &produced {
        match guests::is_poison(record.offset) {
            true => ledger.expect_dead(record),
            false => ledger.expect(record),
        }
    }
    expect_one_assignment(&sink)?;
    trial.settle(&mut [&mut sink], &store, ledger).await
}

/// The dead letters' topic refuses every dead letter as too large. The host goes on with all other records, and doesn't
/// commit past the first dead letter.
#[tokio::test(flavor = "multi_thread")]
async fn the_dead_letter_topic_is_down_for_longer_than_the_poll_interval() -> Result<()> {
    let store = Store::start()?;
    let folder = process::data_folder("poison")?;
    let file = folder.path().join("poison.wasm");
    std::fs::write(&file, guests::poisoned())?;
    let mut trial = patient(&store, "letters-away")?;
    let dead = unique("dead");
    trial.kafka.create_topic(&dead, 2)?;
    trial.config = trial.config.plugin("poison", &file, "")?.set("dead_letters.topic", dead.as_str());
    let group = trial.group()?;
    let load = trial.load(500)?;
    let mut sink = Sink::start(&trial.config)?;
    wait_progress(&mut sink, &trial, &group, 100)?;
    take_up_to(&trial, &dead, LESS_THAN_A_LETTER).await?;
    sink.wait_log("dead letters can't be written", STEP)?;
    tokio::time::sleep(Duration::from_secs(size(15, 60))).await;
    sink.process().expect_running()?;
    expect_no_commit_past_a_missing_letter(&trial, &group, &dead)?;
    take_up_to(&trial, &dead, 1 << 20).await?;
    wait_progress(&mut sink, &trial, &group, trial.committed(&group)?)?;
    let produced = trial.finish(load, 0)?;
    sink.wait_caught_up(&trial.kafka, trial.config.group(), &[&trial.topic], CATCH_UP)?;
    expect_one_assignment(&sink)?;
    let (poison, good): (Vec<_>, Vec<_>) = produced.into_iter().partition(|record| guests::is_poison(record.offset));
    let mut letters = letters_in(&trial, &dead)?;
    for record in &poison {
        let of = (format!("{}/{}", record.topic, record.partition), record.offset);
        ensure!(letters.remove(&of) == Some(1), "{}@{} isn't there once", record.partition, record.offset);
    }
    ensure!(letters.is_empty(), "letters of records that aren't poison: {letters:?}");
    trial.settle(&mut [&mut sink], &store, Ledger::of(&good)).await
}

/// How many dead letters the topic holds of each record that a host could not handle: its source and offset.
fn letters_in(trial: &Trial, dead: &str) -> Result<BTreeMap<(String, u64), u32>> {
    let mut letters = BTreeMap::new();
    for (_, _, letter) in trial.kafka.read_all(dead)? {
        let last = |name: &str| letter.headers.iter().rfind(|(key, _)| key == name.as_bytes())?.1.clone();
        let text = |name: &str| Some(String::from_utf8_lossy(&last(name)?).into_owned());
        let source = text("kafka.source").map(|source| source_of(&source).to_owned());
        let (source, offset) = source.zip(text("kafka.offset")).context("a letter without an identity")?;
        *letters.entry((source, offset.parse()?)).or_insert(0) += 1;
    }
    Ok(letters)
}

/// A partition that is behind goes on committing until it comes to its first record whose dead letter isn't there.
fn expect_no_commit_past_a_missing_letter(trial: &Trial, group: &Group, dead: &str) -> Result<()> {
    // Before the letters are read: one that is written in between must not hide a commit that came too early.
    let committed = group.committed(&trial.topic)?;
    let letters = letters_in(trial, dead)?;
    for (partition, committed) in committed {
        let source = format!("{}/{partition}", trial.topic);
        let missing = (0..committed)
            .find(|offset| guests::is_poison(*offset) && !letters.contains_key(&(source.clone(), *offset)));
        ensure!(missing.is_none(), "{source} is committed up to {committed}, without the letter of {missing:?}");
    }
    Ok(())
}

async fn take_up_to(trial: &Trial, topic: &str, bytes: u32) -> Result<()> {
    let bytes = bytes.to_string();
    let change = AlterConfig::new(ResourceSpecifier::Topic(topic)).set("max.message.bytes", &bytes);
    for answer in trial.kafka.admin()?.alter_configs([&change], &AdminOptions::new()).await? {
        answer.map_err(|(_, code)| anyhow!("the topic's settings can't be changed: {code}"))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_is_refused_for_a_while() -> Result<()> {
    let mut store = Store::start_with(Some("right"), &[])?;
    let trial = patient(&store, "token")?.configure(|config| config.set("store.token", "right"));
    let group = trial.group()?;
    let load = trial.load(1000)?;
    let mut sink = Sink::start(&trial.config)?;
    wait_progress(&mut sink, &trial, &group, 0)?;
    store.set_token("another");
    store.restart()?;
    held_through(&mut sink, &trial, Duration::from_secs(size(15, 30))).await?;
    sink.wait_log("the token is refused", STEP)?;
    store.set_token("right");
    store.restart()?;
    wait_progress(&mut sink, &trial, &group, trial.committed(&group)?)?;
    let produced = trial.finish(load, 0)?;
    expect_one_assignment(&sink)?;
    trial.settle(&mut [&mut sink], &store, Ledger::of(&produced)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_is_obeyed_in_time_with_the_store_away() -> Result<()> {
    let mut store = Store::start()?;
    let trial = patient(&store, "stop-store")?.configure(|config| config.set("store.timeout", "30s"));
    let group = trial.group()?;
    let load = trial.load(1000)?;
    for hold in [true, false] {
        let mut sink = Sink::start(&trial.config)?;
        wait_progress(&mut sink, &trial, &group, trial.committed(&group)?)?;
        if hold {
            store.suspend()?
        } else {
            store.kill9()?
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let start = Instant::now();
        sink.stop_cleanly()?;
        ensure!(start.elapsed() < Duration::from_secs(25), "stopping took {:?}", start.elapsed());
        if hold { store.resume()? } else { store.restart()? }
    }
    let produced = trial.finish(load, 0)?;
    let mut sink = Sink::start(&trial.config)?;
    trial.settle(&mut [&mut sink], &store, Ledger::of(&produced)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_is_obeyed_in_time_with_kafka_away() -> Result<()> {
    let mut kafka = start_kafka()?;
    let store = Store::start()?;
    let trial = Trial::new(kafka.client(), &store, "stop-kafka", 4)?;
    let group = trial.group()?;
    let load = trial.load(1000)?;
    for hold in [true, false] {
        let mut sink = Sink::start(&trial.config)?;
        wait_progress(&mut sink, &trial, &group, trial.committed(&group)?)?;
        if hold {
            kafka.suspend()?
        } else {
            kafka.kill9()?
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let start = Instant::now();
        sink.stop_cleanly()?;
        ensure!(start.elapsed() < Duration::from_secs(25), "stopping took {:?}", start.elapsed());
        if hold { kafka.resume()? } else { kafka.restart()? }
    }
    let produced = trial.finish(load, 0)?;
    let mut sink = Sink::start(&trial.config)?;
    trial.settle(&mut [&mut sink], &store, Ledger::of(&produced)).await
}

fn patient(store: &Store, name: &str) -> Result<Trial> {
    let trial = Trial::new(kafka()?.client(), store, name, 4)?;
    Ok(trial.configure(|config| {
        config
            .property("session.timeout.ms", "6000")
            .property("max.poll.interval.ms", &POLL_INTERVAL.as_millis().to_string())
            .set("store.timeout", "5s")
    }))
}

/// Lets an outage last, and expects that the host keeps running and commits nothing.
async fn held_through(sink: &mut Sink, trial: &Trial, lasting: Duration) -> Result<()> {
    let group = trial.group()?;
    // Records that were acknowledged just before the outage are still committed.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = trial.committed(&group)?;
    tokio::time::sleep(lasting.saturating_sub(Duration::from_secs(3))).await;
    sink.process().expect_running()?;
    let after = trial.committed(&group)?;
    ensure!(before == after, "committed {before} at the outage's beginning and {after} at its end");
    Ok(())
}

/// Expects that the first assignment was the only one, because no partition was revoked.
fn expect_one_assignment(sink: &Sink) -> Result<()> {
    let log = sink.log()?;
    let assigned = log.matches("assigned partitions=[\"").count();
    ensure!(assigned == 1 && !log.contains("revoked partitions="), "there was a rebalance:\n{log}");
    Ok(())
}
