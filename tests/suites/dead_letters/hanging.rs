//! Tests what open transactions in the topic of dead letters do to a host: one that Kafka left hanging, which means that it counts
//! as completed and its end isn't marked in the topic, and one of another program.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use reduct_sink_testbed::process::{self, wait_for};
use reduct_sink_testbed::{Kafka, KafkaClient, Message, Sink, SinkConfig, bed, payload, unique};

use super::{BOUND, letters};
use crate::guest;

/// A source partition, whose records all become dead letters.
struct Source {
    topic: String,
    dead: String,
    config: SinkConfig,
    records: u64,
    _folder: tempfile::TempDir,
}

impl Source {
    fn new(client: &KafkaClient, records: u64) -> Result<Self> {
        let (topic, dead) = (unique("source"), unique("dead"));
        client.create_topic(&topic, 1)?;
        client.create_topic(&dead, 1)?;
        let folder = process::data_folder("hanging")?;
        let file = folder.path().join("plugin.wasm");
        std::fs::write(&file, guest::guest(r#"(call $reject $"always")"#))?;
        let config = SinkConfig::new(client.brokers(), &bed()?.store.url(), &unique("bucket"))
            .topics(&[&topic])
            .plugin("picky", &file, "")?
            .set("dead_letters.topic", dead.as_str());
        client.produce(&topic, (0..records).map(|n| Message::new(payload(n, 500))))?;
        Ok(Self { topic, dead, config, records, _folder: folder })
    }

    /// A producer with the transactional id of the host.
    fn producer(&self, client: &KafkaClient) -> Result<BaseProducer> {
        let id = format!("reduct-sink/{}/{}/0", self.config.group(), self.topic);
        let producer: BaseProducer = client.config().set("transactional.id", id).create()?;
        producer.init_transactions(BOUND)?;
        Ok(producer)
    }

    /// Writes the letters of these records as the host does, in a transaction that stays open.
    fn begin(&self, producer: &BaseProducer, offsets: std::ops::Range<u64>) -> Result<()> {
        producer.begin_transaction()?;
        for offset in offsets {
            let (source, at) = (format!("{}/0", self.topic), offset.to_string());
            let header = |key, value| Header { key, value: Some(value) };
            let headers = OwnedHeaders::new()
                .insert(header("kafka.source", source.as_str()))
                .insert(header("kafka.offset", at.as_str()));
            let bytes = payload(offset, 500);
            let record = BaseRecord::<(), [u8]>::to(&self.dead).partition(0).payload(&bytes).headers(headers);
            producer.send(record).map_err(|(error, _)| error)?;
        }
        Ok(producer.flush(BOUND)?)
    }

    /// Runs the host until all records are dead letters, of which each must be there once.
    fn run_through(&self, client: &KafkaClient) -> Result<()> {
        let mut sink = Sink::start(&self.config)?;
        sink.wait_caught_up(client, self.config.group(), &[&self.topic], BOUND)?;
        sink.stop_cleanly()?;
        let letters = letters(client.read_all(&self.dead)?)?;
        for offset in 0..self.records {
            let copies = letters.get(&(format!("{}/0", self.topic), offset, None));
            let bytes: Vec<&Bytes> = copies.into_iter().flatten().flat_map(|letter| &letter.payload).collect();
            ensure!(bytes == [&payload(offset, 500)], "{} letters of record {offset}", bytes.len());
        }
        Ok(())
    }
}

/// The files in which Kafka keeps the state of its transactions, and how long each is.
fn state_of_transactions(kafka: &Kafka) -> Result<BTreeMap<PathBuf, u64>> {
    let mut files = BTreeMap::new();
    for folder in std::fs::read_dir(kafka.data())? {
        let folder = folder?;
        if folder.file_name().to_string_lossy().starts_with("__transaction_state-") {
            let file = folder.path().join("00000000000000000000.log");
            files.insert(file.clone(), file.metadata()?.len());
        }
    }
    Ok(files)
}

/// The same when Kafka writes no more: it notes the end of a transaction after it has said that it is committed.
fn settled_state(kafka: &Kafka) -> Result<BTreeMap<PathBuf, u64>> {
    wait_for("the state of the transactions", BOUND, || {
        let before = state_of_transactions(kafka)?;
        std::thread::sleep(Duration::from_secs(1));
        Ok((state_of_transactions(kafka)? == before).then_some(before))
    })
}

/// Kafka is killed while transactions are open, and loses what it knew of them, but not their letters.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_kafka_left_hanging_is_ended() -> Result<()> {
    let mut kafka = Kafka::start()?;
    let client = kafka.client();
    // All letters hang.
    let all = Source::new(&client, 5)?;
    // There are letters before, of records that are committed and of others, more than one transaction of the host carries.
    let some = Source::new(&client, 700)?;
    let sources = [(&all, 0..0, 0..5), (&some, 0..400, 400..500)];
    client.commit(some.config.group(), &some.topic, &[(0, 100)])?;
    let producers = sources.iter().map(|(source, ..)| source.producer(&client)).collect::<Result<Vec<_>>>()?;
    for ((source, before, _), producer) in sources.iter().zip(&producers) {
        if !before.is_empty() {
            source.begin(producer, before.clone())?;
            producer.commit_transaction(BOUND)?;
        }
    }
    let known = settled_state(&kafka)?;
    for ((source, _, hidden), producer) in sources.iter().zip(&producers) {
        source.begin(producer, hidden.clone())?;
    }
    kafka.kill9()?;
    drop(producers);
    for (file, length) in known {
        OpenOptions::new().write(true).open(file)?.set_len(length)?;
    }
    kafka.restart()?;
    for (source, before, _) in sources {
        wait_for("the topic's leader", BOUND, || Ok(client.end_offsets(&source.dead).ok()))?;
        let committed = client.read_all(&source.dead)?.len() as u64;
        ensure!(committed == before.end, "{committed} letters can be seen");
        source.run_through(&client)?;
    }
    Ok(())
}

/// A letter behind another program's open transaction is not acknowledged: nobody can read it yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_letter_that_nobody_can_see_is_not_acknowledged() -> Result<()> {
    let client = bed()?.kafka.client();
    let source = Source::new(&client, 10)?;
    let group = client.group(source.config.group())?;
    let mut sink = Sink::start(&source.config)?;
    let committed = || group.committed(&source.topic).map(|all| all.first().map_or(0, |(_, offset)| *offset));
    wait_for("the first letters", BOUND, || Ok((committed()? == 10).then_some(())))?;
    let other: BaseProducer = client.config().set("transactional.id", unique("other")).create()?;
    other.init_transactions(BOUND)?;
    other.begin_transaction()?;
    other.send(BaseRecord::<(), str>::to(&source.dead).payload("another's")).map_err(|(error, _)| error)?;
    other.flush(BOUND)?;
    client.produce(&source.topic, (10..20).map(|n| Message::new(payload(n, 500))))?;
    wait_for("the host's complaint", BOUND, || Ok(sink.log()?.contains("open transaction").then_some(())))?;
    ensure!(committed()? == 10, "letters are acknowledged that nobody can read");
    other.commit_transaction(BOUND)?;
    wait_for("the other letters", BOUND, || Ok((committed()? == 20).then_some(())))?;
    sink.stop_cleanly()?;
    let mut records = client.read_all(&source.dead)?;
    records.retain(|(_, _, message)| message.payload.as_deref() != Some(b"another's"));
    ensure!(letters(records)?.values().map(Vec::len).collect::<Vec<_>>() == [1; 20], "not each letter once");
    Ok(())
}
