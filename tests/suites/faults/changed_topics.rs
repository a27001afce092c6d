//! Tests changes of topics while all processes run: a topic is deleted and created again, gets more partitions, or is
//! read from its end.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use rdkafka::admin::{AdminOptions, NewPartitions};
use reduct_sink_testbed::process::wait_for;
use reduct_sink_testbed::verify::{DIFFER, Ledger};
use reduct_sink_testbed::{Message, Produced, Sink, Store, figures, payload};

use super::{CATCH_UP, STEP, Trial, kafka, size, sized, wait_progress, with_each_assignor};

/// How many times each of these records is stored. The records are compared by content, because those of two topics
/// with one name have the same offsets.
pub(super) async fn counts(trial: &Trial, store: &Store, produced: &[Produced]) -> Result<BTreeMap<[u8; 32], usize>> {
    let mut counts: BTreeMap<[u8; 32], usize> = produced.iter().map(|record| (record.sha256, 0)).collect();
    for stored in reduct_sink_testbed::read_back(&store.client()?, trial.config.bucket(), "*").await? {
        *counts.entry(stored.sha256).or_default() += 1;
    }
    Ok(counts)
}

/// The host is stopped while the topic is deleted and created again, so that it only notices that the offsets begin at
/// 0 again.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_created_again_is_read_from_its_begin() -> Result<()> {
    with_each_assignor(created_again)
}

async fn created_again(assignor: &str) -> Result<()> {
    let store = Store::start()?;
    let trial = Trial::new(kafka()?.client(), &store, &format!("created-again-{assignor}"), 1)?.configure(|config| {
        config.property("session.timeout.ms", "30000").property("partition.assignment.strategy", assignor)
    });
    let group = trial.group()?;
    let send = |from: u64, to: u64| {
        trial.kafka.produce(&trial.topic, (from..to).map(|n| Message::new(payload(n, 1000)).partition(0)))
    };
    let mut produced = send(0, 1000)?;
    let mut sink = Sink::start(&trial.config)?;
    wait_progress(&mut sink, &trial, &group, 999)?;

    sink.process().signal(libc::SIGSTOP)?;
    let admin = trial.kafka.admin()?;
    for deleted in admin.delete_topics(&[&trial.topic], &AdminOptions::new()).await? {
        deleted.map_err(|(topic, code)| anyhow::anyhow!("{topic} can't be deleted: {code}"))?;
    }
    wait_for("the topic to be created again", STEP, || Ok(trial.kafka.create_topic(&trial.topic, 1).ok()))?;
    produced.extend(send(1000, 1500)?);
    sink.process().signal(libc::SIGCONT)?;

    let before = sink.process().peak_memory()?;
    println!("{before} bytes at most before the topic was created again");
    wait_for("the new topic's records", CATCH_UP, || {
        sink.process().expect_running()?;
        Ok(trial.committed(&group).ok().filter(|committed| *committed == 500))
    })?;
    produced.extend(send(1500, 2100)?);
    sink.wait_caught_up(&trial.kafka, trial.config.group(), &[&trial.topic], CATCH_UP)?;
    sink.stop_cleanly()?;
    figures::add("ordinary_rows", produced.len() as f64)?;
    let counts = counts(&trial, &store, &produced).await?;
    let missing = counts.values().filter(|count| **count == 0).count();
    figures::add("recreated_missing", missing as f64)?;
    ensure!(missing == 0, "{DIFFER}: {missing} of {} records are missing", counts.len());
    ensure!(counts.values().all(|count| *count == 1), "{DIFFER}: records are there twice");
    ensure!(counts.len() == produced.len(), "{DIFFER}: {} records instead of {}", counts.len(), produced.len());
    trial.audit_second(&store).await
}

/// The new topic outgrows the old offset at once, so that the next offset to read is there, in another topic.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_created_again_and_grows_at_once_is_read_once() -> Result<()> {
    let store = Store::start()?;
    let trial = Trial::new(kafka()?.client(), &store, "outgrown", 1)?;
    let group = trial.group()?;
    let send = |from: u64, to: u64| {
        trial.kafka.produce(&trial.topic, (from..to).map(|n| Message::new(payload(n, 200)).partition(0)))
    };
    let mut produced = send(0, 300)?;
    let mut sink = Sink::start(&trial.config)?;
    let (admin, mut from) = (trial.kafka.admin()?, 300);
    for round in 1..=sized(2, 3, 20) {
        wait_for("the commit", CATCH_UP, || {
            sink.process().expect_running()?;
            Ok(trial.committed(&group).ok().filter(|committed| *committed == from))
        })?;
        // Otherwise it would look at the new topic while that is still short.
        sink.process().signal(libc::SIGSTOP)?;
        for deleted in admin.delete_topics(&[&trial.topic], &AdminOptions::new()).await? {
            deleted.map_err(|(topic, code)| anyhow::anyhow!("{topic} can't be deleted: {code}"))?;
        }
        wait_for("the topic to be created again", STEP, || Ok(trial.kafka.create_topic(&trial.topic, 1).ok()))?;
        // The offsets begin at 0, so the new topic has as many more than the old one.
        let more = from + 600;
        produced.extend(send(1_000_000 * round, 1_000_000 * round + more)?);
        sink.process().signal(libc::SIGCONT)?;
        from = more;
    }
    sink.wait_caught_up(&trial.kafka, trial.config.group(), &[&trial.topic], CATCH_UP)?;
    // A host that looked at the id only now would read it again.
    tokio::time::sleep(Duration::from_secs(6)).await;
    sink.wait_caught_up(&trial.kafka, trial.config.group(), &[&trial.topic], CATCH_UP)?;
    sink.stop_cleanly()?;
    let counts = counts(&trial, &store, &produced).await?;
    let missing = counts.values().filter(|count| **count == 0).count();
    figures::add("recreated_missing", missing as f64)?;
    ensure!(missing == 0, "{DIFFER}: {missing} of {} records are missing:\n{}", counts.len(), sink.log()?);
    let twice = counts.values().filter(|count| **count > 1).count();
    ensure!(twice == 0, "{DIFFER}: {twice} records are there twice:\n{}", sink.log()?);
    trial.audit_second(&store).await
}

/// When a topic gets more partitions, the entry of partition 0 keeps its name, so that the host finds records there
/// that were written but not committed.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_grows_keeps_the_names_of_its_entries() -> Result<()> {
    with_each_assignor(grown)
}

async fn grown(assignor: &str) -> Result<()> {
    let store = Store::start()?;
    let mut trial = Trial::new(kafka()?.client(), &store, &format!("grown-{assignor}"), 1)?.configure(|config| {
        config
            .property("topic.metadata.refresh.interval.ms", "1000")
            .property("partition.assignment.strategy", assignor)
    });
    let group = trial.group()?;
    let load = trial.load(200)?;
    let mut sink = Sink::start(&trial.config)?;
    wait_progress(&mut sink, &trial, &group, 100)?;
    let (admin, grown) = (trial.kafka.admin()?, [NewPartitions::new(&trial.topic, 2)]);
    for answer in admin.create_partitions(&grown, &AdminOptions::new()).await? {
        answer.map_err(|(topic, code)| anyhow::anyhow!("{topic} can't grow: {code}"))?;
    }
    let second = format!("{}/1", trial.topic);
    wait_for("the second partition to be assigned", STEP, || {
        sink.process().expect_running()?;
        Ok(sink.log()?.contains(&second).then_some(()))
    })?;
    for _ in 0..size(2, 5) {
        let before = trial.committed(&group)?;
        wait_progress(&mut sink, &trial, &group, before)?;
        sink.kill9()?;
        sink.start_again()?;
    }
    let produced = trial.finish(load, 0)?;
    sink.wait_caught_up(&trial.kafka, trial.config.group(), &[&trial.topic], CATCH_UP)?;
    trial.weigh(&mut sink);
    sink.stop_cleanly()?;
    figures::add("ordinary_rows", produced.len() as f64)?;
    let twice = counts(&trial, &store, &produced).await?.values().filter(|count| **count > 1).count();
    figures::add("grown_twice", twice as f64)?;
    let entries = reduct_sink_testbed::read_back(&store.client()?, trial.config.bucket(), "*").await?;
    let name = trial.topic.clone();
    let of_first = entries.iter().filter(|stored| stored.source() == Some(&format!("{name}/0")));
    ensure!(of_first.clone().count() > 0, "nothing of the first partition is stored");
    for stored in of_first {
        ensure!(stored.entry == name, "the first partition's records are in {}", stored.entry);
    }
    trial.audit(&store, Ledger::of(&produced)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn latest_holds_from_the_first_start_on() -> Result<()> {
    let store = Store::start()?;
    let trial =
        Trial::new(kafka()?.client(), &store, "latest", 2)?.configure(|config| config.set("kafka.start", "latest"));
    let group = trial.group()?;
    let send = |partition: i32, from: u64, to: u64| {
        trial.kafka.produce(&trial.topic, (from..to).map(|n| Message::new(payload(n, 500)).partition(partition)))
    };
    send(0, 0, 50)?;
    let mut sink = Sink::start(&trial.config)?;
    // The host commits an offset for an idle partition as soon as it is assigned.
    wait_for("the begin of both partitions to be committed", STEP, || {
        sink.process().expect_running()?;
        Ok(group.committed(&trial.topic).ok().filter(|committed| committed.len() == 2 && committed[0].1 == 50))
    })?;
    let mut produced = send(0, 50, 150)?;
    wait_progress(&mut sink, &trial, &group, 149)?;
    sink.stop_cleanly()?;
    produced.extend(send(1, 150, 160)?);
    let mut sink = Sink::start(&trial.config)?;
    sink.wait_caught_up(&trial.kafka, trial.config.group(), &[&trial.topic], CATCH_UP)?;
    trial.settle(&mut [&mut sink], &store, Ledger::of(&produced)).await
}

/// An eager strategy can only assign all partitions at once; still each partition is re-read by itself, and no other
/// one loses its position.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_of_the_store_is_survived_with_an_eager_strategy() -> Result<()> {
    let mut store = Store::start()?;
    let trial = Trial::new(kafka()?.client(), &store, "eager-crash", 4)?
        .configure(|config| config.set("limits.workers", 1).property("partition.assignment.strategy", "range"));
    let group = trial.group()?;
    let load = trial.load(500)?;
    let mut sink = Sink::start(&trial.config)?;
    for _ in 0..size(2, 10) {
        wait_progress(&mut sink, &trial, &group, trial.committed(&group)?)?;
        tokio::time::sleep(Duration::from_millis(700)).await;
        store.kill9()?;
        store.restart()?;
    }
    let produced = trial.finish(load, 0)?;
    trial.settle(&mut [&mut sink], &store, Ledger::of(&produced)).await
}
