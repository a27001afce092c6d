//! Tests records that a producer makes to do harm: no topic stops, and the records around them are stored exactly.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use reduct_sink_testbed::{KafkaClient, Message, Sink, bed, figures, payload, unique};

use super::{CATCH_UP, has_died};

const BOUND: Duration = Duration::from_secs(60);

type Make = fn(&KafkaClient, &str) -> Result<()>;

/// The kinds of harmful records, each with the function that produces them into a topic of its own.
const SHAPES: [(&str, Make); 18] = [
    ("key-of-900-kb", |kafka, topic| send(kafka, topic, Message::new("x").key(payload(1, 900_000)))),
    ("key-of-2500-segments", |kafka, topic| send(kafka, topic, Message::new("x").key("a/".repeat(2500)))),
    ("headers-100000", |kafka, topic| {
        send(kafka, topic, (0..100_000).fold(Message::new("x"), |message, n| message.header(format!("h{n}"), "v")))
    }),
    ("header-of-900-kb", |kafka, topic| send(kafka, topic, Message::new("x").header("h", payload(2, 900_000)))),
    ("header-key-of-60-kb", |kafka, topic| send(kafka, topic, Message::new("x").header("k".repeat(60_000), "v"))),
    ("control-characters", |kafka, topic| {
        let evil = "\x1b[2J\x1b]0;owned\x07\r\nforged: 1\r\n\r\n\0\u{202e}\u{2028}";
        send(kafka, topic, Message::new(evil).key(evil).header(evil, evil).header("content-type", evil))
    }),
    ("no-text", |kafka, topic| {
        let bytes: Vec<u8> = (0..=255).rev().collect();
        send(kafka, topic, Message::new(bytes.clone()).key(bytes.clone()).header(bytes.clone(), bytes))
    }),
    ("null-everything", |kafka, topic| {
        send(kafka, topic, Message { headers: vec![("".into(), None), ("a".into(), None)], ..Message::default() })
    }),
    ("one-header-a-thousand-times", |kafka, topic| {
        send(kafka, topic, (0..1000).fold(Message::new("x"), |message, n| message.header("same", n.to_string())))
    }),
    ("reserved-names", |kafka, topic| {
        let names = ["kafka.offset", "kafka.source", "sink.plugins", "sink.reason", "kafka.index", "@x", "%41"];
        send(kafka, topic, names.iter().fold(Message::new("x"), |message, name| message.header(*name, "999999")))
    }),
    ("names-of-http-headers", |kafka, topic| {
        let names =
            ["content-length", "transfer-encoding", "host", "x-reduct-error", "x-reduct-time-1", "authorization"];
        send(kafka, topic, names.iter().fold(Message::new("x"), |message, name| message.header(*name, "0")))
    }),
    ("time-last", |kafka, topic| send(kafka, topic, Message::new("x").timestamp_ms(i64::MAX))),
    ("time-in-nanoseconds", |kafka, topic| {
        send(kafka, topic, Message::new("x").timestamp_ms(1_700_000_000_000_000_000))
    }),
    ("aborted-transaction", |kafka, topic| {
        let producer: BaseProducer = config(kafka, "none").set("transactional.id", topic).create()?;
        producer.init_transactions(BOUND)?;
        for _ in 0..3 {
            producer.begin_transaction()?;
            (0..100).try_for_each(|_| {
                producer.send(BaseRecord::<(), str>::to(topic).payload("never")).map_err(|(error, _)| error)
            })?;
            producer.flush(BOUND)?;
            producer.abort_transaction(BOUND)?;
        }
        Ok(())
    }),
    ("gzip-20-mb", |kafka, topic| compressed(kafka, topic, "gzip", 1, 20 << 20)),
    ("zstd-20-mb", |kafka, topic| compressed(kafka, topic, "zstd", 1, 20 << 20)),
    ("lz4-20-mb", |kafka, topic| compressed(kafka, topic, "lz4", 1, 20 << 20)),
    ("gzip-100000-records", |kafka, topic| compressed(kafka, topic, "gzip", 100_000, 1)),
];

fn send(kafka: &KafkaClient, topic: &str, message: Message) -> Result<()> {
    kafka.produce(topic, [message]).map(drop)
}

fn config(kafka: &KafkaClient, compression: &str) -> ClientConfig {
    let mut config = kafka.config();
    config
        .set("compression.type", compression)
        .set("message.max.bytes", (64 << 20).to_string())
        .set("queue.buffering.max.kbytes", "262144")
        .set("queue.buffering.max.messages", "1000000");
    config
}

/// Produces `count` records of zeroes, in compressed batches that are small on the wire.
fn compressed(kafka: &KafkaClient, topic: &str, how: &str, count: usize, size: usize) -> Result<()> {
    let producer: BaseProducer = config(kafka, how).create()?;
    let zeroes = vec![0_u8; size];
    for _ in 0..count {
        producer.send(BaseRecord::<(), [u8]>::to(topic).payload(&zeroes[..])).map_err(|(error, _)| error)?;
    }
    producer.flush(BOUND)?;
    ensure!(producer.in_flight_count() == 0, "not acknowledged");
    Ok(())
}

#[test]
fn no_record_stops_a_topic() -> Result<()> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let mut topics = Vec::new();
    for (name, make) in SHAPES {
        let topic = unique(name);
        // Brokers before 3.6 accept such timestamps; newer ones do so with this setting.
        kafka.create_topic_with(&topic, 1, &[("message.timestamp.after.max.ms", "9223372036854775807")])?;
        kafka.produce(&topic, [Message::new("before")])?;
        make(&kafka, &topic).with_context(|| format!("{name} can't be produced"))?;
        kafka.produce(&topic, [Message::new("after")])?;
        topics.push(topic);
    }
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
    let config = bed.sink_config("none").topics(&names);
    let mut sink = Sink::start(&config)?;
    let mut stopped = Vec::new();
    for topic in &names {
        if sink.wait_caught_up(&kafka, config.group(), &[topic], CATCH_UP).is_err() {
            stopped.push(*topic);
        }
        if has_died(&mut sink) {
            break;
        }
    }
    let died = has_died(&mut sink);
    let peak = sink.process().peak_memory().unwrap_or_default() >> 20;
    figures::record("hostile_producers", SHAPES.len() as f64)?;
    figures::record("topics_stopped", stopped.len() as f64)?;
    figures::record("hostile_producers_peak_mb", peak as f64)?;
    figures::add("host_deaths", f64::from(u8::from(died)))?;
    ensure!(!died && stopped.is_empty(), "died: {died}, stopped: {stopped:?}");
    sink.stop_cleanly()?;
    let log = sink.log()?;
    ensure!(
        !log.contains(['\u{1b}', '\u{202e}']) && !log.lines().any(|line| line.starts_with("forged")),
        "a forged line"
    );
    Ok(())
}
