//! Tests topics with missing offsets: compacted, written in transactions, or emptied by retention beyond the committed
//! offset.

use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use rdkafka::admin::AdminOptions;
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::{ClientContext, Message as _, Offset, TopicPartitionList};
use reduct_sink_testbed::process::wait_for;
use reduct_sink_testbed::verify::Ledger;
use reduct_sink_testbed::{Message, Produced, Sink, Store, payload};
use sha2::{Digest, Sha256};

use super::{CATCH_UP, STEP, Trial, kafka, size, wait_progress};

#[tokio::test(flavor = "multi_thread")]
async fn a_compacted_topic_is_read_to_its_end() -> Result<()> {
    let store = Store::start()?;
    let settings = [
        ("cleanup.policy", "compact"),
        ("segment.ms", "500"),
        ("min.cleanable.dirty.ratio", "0.01"),
        ("delete.retention.ms", "100"),
    ];
    let trial = Trial::with_settings(kafka()?.client(), &store, "compacted", 2, &settings)?;
    let keyed = |n: u64| Message::new(payload(n, 500)).key(format!("key {}", n % 50)).partition((n % 2) as i32);
    let mut produced = Vec::new();
    for round in 0..size(5, 20) {
        produced.extend(trial.kafka.produce(&trial.topic, (round * 400..round * 400 + 400).map(keyed))?);
        // The next record opens a new segment, because only closed segments are compacted.
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    let left = wait_for("the topic to be compacted", STEP, || {
        let left = trial.kafka.read_all(&trial.topic)?;
        Ok((left.len() < produced.len() / 2).then_some(left))
    })?;
    println!("{} of {} records are left", left.len(), produced.len());
    let mut sink = Sink::start(&trial.config)?;
    sink.wait_caught_up(&trial.kafka, trial.config.group(), &[&trial.topic], CATCH_UP)?;
    // Compaction may have continued while the host read, so only records that are still there must be stored.
    let left = trial.kafka.read_all(&trial.topic)?;
    sink.stop_cleanly()?;
    let stored = reduct_sink_testbed::read_back(&store.client()?, trial.config.bucket(), "*").await?;
    let mut ledger = Ledger::default();
    for record in &produced {
        let source = format!("{}/{}", record.topic, record.partition);
        let is_stored = stored.iter().any(|stored| {
            stored.source() == Some(&source) && stored.label("kafka.offset") == Some(&record.offset.to_string())
        });
        if is_stored
            || left.iter().any(|(partition, offset, _)| (*partition, *offset) == (record.partition, record.offset))
        {
            ledger.expect(record);
        }
    }
    ensure!(stored.len() < produced.len(), "nothing was missing from the topic");
    trial.audit(&store, ledger).await
}

#[tokio::test(flavor = "multi_thread")]
async fn aborted_transactions_are_left_out_and_the_commit_reaches_the_end() -> Result<()> {
    let store = Store::start()?;
    let trial = Trial::new(kafka()?.client(), &store, "transactions", 2)?;
    let producer: BaseProducer<Acks> = trial
        .kafka
        .config()
        .set("transactional.id", &trial.topic)
        .create_with_context(Acks { topic: trial.topic.clone(), ..Acks::default() })?;
    producer.init_transactions(STEP)?;
    let mut sink = Sink::start(&trial.config)?;
    let mut committed = Vec::new();
    for round in 0..size(8, 100) {
        producer.begin_transaction()?;
        for n in 0..50 {
            let bytes = payload(round * 50 + n, 700);
            let record = BaseRecord::<(), [u8]>::to(&trial.topic).payload(&bytes).partition((n % 2) as i32);
            producer.send(record).map_err(|(error, _)| error)?;
        }
        producer.flush(STEP)?;
        let acknowledged = producer.context().take()?;
        ensure!(acknowledged.len() == 50, "{} of 50 acknowledged", acknowledged.len());
        // The last transaction is aborted, so that the topic ends with records that no consumer gets.
        if round % 2 == 0 {
            producer.commit_transaction(STEP)?;
            committed.extend(acknowledged);
        } else {
            producer.abort_transaction(STEP)?;
        }
    }
    sink.wait_caught_up(&trial.kafka, trial.config.group(), &[&trial.topic], STEP)?;
    sink.stop_cleanly()?;
    // A second host finds all records in the store already.
    let mut again = Trial { config: trial.config.clone().set("kafka.group", "again"), ..trial };
    let mut sink = Sink::start(&again.config)?;
    sink.wait_caught_up(&again.kafka, "again", &[&again.topic], STEP)?;
    again.weigh(&mut sink);
    again.settle(&mut [&mut sink], &store, Ledger::of(&committed)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_retention_took_before_it_was_read_is_named() -> Result<()> {
    let store = Store::start()?;
    let trial = Trial::new(kafka()?.client(), &store, "retention", 1)?;
    let group = trial.group()?;
    let send = |from: u64, to: u64| {
        trial.kafka.produce(&trial.topic, (from..to).map(|n| Message::new(payload(n, 1000)).partition(0)))
    };
    let mut produced = send(0, 1000)?;
    let mut sink = Sink::start(&trial.config)?;
    sink.wait_caught_up(&trial.kafka, trial.config.group(), &[&trial.topic], STEP)?;
    sink.stop_cleanly()?;
    ensure!(trial.committed(&group)? == 1000, "not all was committed");

    // While the host is down, retention deletes the records 1000 to 1399.
    produced.extend(send(1000, 2000)?);
    delete_before(&trial, 0, 1400).await?;
    let mut sink = Sink::start(&trial.config)?;
    sink.wait_caught_up(&trial.kafka, trial.config.group(), &[&trial.topic], STEP)?;
    let log = sink.log()?;
    ensure!(log.contains("missed=400"), "the log doesn't name the 400 that are gone:\n{log}");
    produced.retain(|record| !(1000..1400).contains(&record.offset));
    trial.settle(&mut [&mut sink], &store, Ledger::of(&produced)).await
}

/// The store is away, so the host stops reading, and retention deletes records that it hasn't read yet.
#[tokio::test(flavor = "multi_thread")]
async fn what_retention_took_from_a_running_host_is_named() -> Result<()> {
    let mut store = Store::start()?;
    let trial = Trial::new(kafka()?.client(), &store, "retention-live", 1)?
        .configure(|config| config.set("limits.in_flight_bytes", "2MB").property("queued.max.messages.kbytes", "1024"));
    let group = trial.group()?;
    let send = |from: u64, to: u64| {
        trial.kafka.produce(&trial.topic, (from..to).map(|n| Message::new(payload(n, 20_000)).partition(0)))
    };
    let mut produced = send(0, 100)?;
    let mut sink = Sink::start(&trial.config)?;
    wait_progress(&mut sink, &trial, &group, 99)?;
    store.kill9()?;
    produced.extend(send(100, 3000)?);
    // The host reads as much as it may hold in flight.
    tokio::time::sleep(Duration::from_secs(3)).await;
    delete_before(&trial, 0, 2500).await?;
    store.restart()?;
    sink.wait_caught_up(&trial.kafka, trial.config.group(), &[&trial.topic], CATCH_UP)?;
    let log = sink.log()?;
    let stored = reduct_sink_testbed::read_back(&store.client()?, trial.config.bucket(), "*").await?;
    let mut offsets: Vec<u64> = stored.iter().filter_map(|record| record.label("kafka.offset")?.parse().ok()).collect();
    offsets.sort_unstable();
    // The host continues at the topic's new begin, and reports how many records are missing.
    let hole = offsets.windows(2).find(|pair| pair[1] > pair[0] + 1).context("nothing is missing")?;
    ensure!(hole[1] == 2500, "it went on at {}", hole[1]);
    let missed = format!("missed={}", hole[1] - hole[0] - 1);
    ensure!(log.contains(&missed), "the log doesn't say {missed}:\n{log}");
    produced.retain(|record| record.offset <= hole[0] || record.offset >= 2500);
    trial.settle(&mut [&mut sink], &store, Ledger::of(&produced)).await
}

/// librdkafka stops reading each partition, because the host lets it begin at offset 0 until it knows better. An eager strategy assigns all of
/// them again for each.
#[tokio::test(flavor = "multi_thread")]
async fn many_partitions_without_their_first_records_begin_with_each_strategy() -> Result<()> {
    const PARTITIONS: i32 = 40;
    for (strategy, debug) in
        [("range", "metadata"), ("cooperative-sticky", "metadata"), ("cooperative-sticky", "topic,consumer,cgrp")]
    {
        let store = Store::start()?;
        let trial = Trial::new(kafka()?.client(), &store, "headless", PARTITIONS)?
            .configure(|config| config.property("partition.assignment.strategy", strategy).property("debug", debug));
        let send = |from: u64, to: u64| {
            let message = |n: u64| Message::new(payload(n, 500)).partition((n % PARTITIONS as u64) as i32);
            trial.kafka.produce(&trial.topic, (from..to).map(message))
        };
        let mut produced = send(0, 10 * PARTITIONS as u64)?;
        for partition in 0..PARTITIONS {
            delete_before(&trial, partition, 5).await?;
        }
        produced.retain(|record| record.offset >= 5);
        // The first host finds nothing committed, the second an offset with its leader epoch.
        for round in 1..3 {
            let mut sink = Sink::start(&trial.config)?;
            sink.wait_caught_up(&trial.kafka, trial.config.group(), &[&trial.topic], CATCH_UP)?;
            sink.stop_cleanly()?;
            produced.extend(send(1000 * round, 1000 * round + 5 * PARTITIONS as u64)?);
        }
        let mut sink = Sink::start(&trial.config)?;
        sink.wait_caught_up(&trial.kafka, trial.config.group(), &[&trial.topic], CATCH_UP)?;
        trial.settle(&mut [&mut sink], &store, Ledger::of(&produced)).await?;
    }
    Ok(())
}

/// Has Kafka delete a partition's records before this offset.
pub(super) async fn delete_before(trial: &Trial, partition: i32, offset: i64) -> Result<()> {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&trial.topic, partition, Offset::Offset(offset))?;
    let deleted = trial.kafka.admin()?.delete_records(&list, &AdminOptions::new()).await?;
    for element in deleted.elements() {
        element.error()?;
    }
    Ok(())
}

/// The records of a transactional producer that were acknowledged since they were last taken from here.
#[derive(Default)]
struct Acks {
    topic: String,
    done: Mutex<Vec<Result<Produced, String>>>,
}

impl Acks {
    fn take(&self) -> Result<Vec<Produced>> {
        let done = std::mem::take(&mut *self.done.lock().expect("nobody panics with it"));
        done.into_iter().map(|result| result.map_err(|error| anyhow!(error))).collect()
    }
}

impl ClientContext for Acks {}

impl ProducerContext for Acks {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, _: ()) {
        let result = match result {
            Ok(message) => {
                let bytes = message.payload().unwrap_or_default();
                Ok(Produced {
                    topic: self.topic.as_str().into(),
                    partition: message.partition() as u32,
                    offset: message.offset() as u64,
                    size: bytes.len(),
                    sha256: Sha256::digest(bytes).into(),
                })
            }
            Err((error, _)) => Err(error.to_string()),
        };
        self.done.lock().expect("nobody panics with it").push(result);
    }
}
