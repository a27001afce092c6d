//! Tests records that a producer makes to do harm: no topic stops, and the records around them are stored exactly.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use reduct_sink_testbed::verify::compare;
use reduct_sink_testbed::{KafkaClient, Message, Sink, bed, figures, payload, process, read_back, sized, unique};

use super::{CATCH_UP, has_died};

const BOUND: Duration = Duration::from_secs(60);

type Make = fn(&KafkaClient, &str) -> Result<()>;

/// The kinds of harmful records, each with the function that produces them into a topic of its own.
const SHAPES: [(&str, Make); 19] = [
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
    ("snappy-20-mb", |kafka, topic| compressed(kafka, topic, "snappy", 1, 20 << 20)),
    ("gzip-20-mb", |kafka, topic| compressed(kafka, topic, "gzip", 1, 20 << 20)),
    ("zstd-20-mb", |kafka, topic| compressed(kafka, topic, "zstd", 1, 20 << 20)),
    ("lz4-20-mb", |kafka, topic| compressed(kafka, topic, "lz4", 1, 20 << 20)),
    ("gzip-many-records", |kafka, topic| compressed(kafka, topic, "gzip", sized(20_000, 100_000, 100_000), 1)),
];

fn send(kafka: &KafkaClient, topic: &str, message: Message) -> Result<()> {
    kafka.produce(topic, [message]).map(drop)
}

fn config(kafka: &KafkaClient, compression: &str) -> ClientConfig {
    let mut config = kafka.config();
    config
        .set("compression.type", compression)
        .set("message.max.bytes", (512 << 20).to_string())
        .set("queue.buffering.max.kbytes", "1048576")
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

/// Batches that unpack to much more than librdkafka takes in a response, each in a topic of its own.
const BOMBS: [(&str, usize); 3] = [("gzip", 400 << 20), ("lz4", 200 << 20), ("zstd", 400 << 20)];
/// What is still too much.
const LEAST_BOMB: usize = 160 << 20;
/// Batches that are within it each, and come in one response.
const HOARD: usize = 20;
const HOARDED: usize = 40 << 20;
/// What the host may take if all of it comes at once: 100 MB for each of the four topics, three quarters more while the buffer for lz4
/// grows, and 200 MB for everything else. Without the limit it took 1,522 MB.
const MEMORY_MB: u64 = 700;

#[test]
fn no_compressed_batch_takes_the_memory() -> Result<()> {
    let bed = bed()?;
    let kafka = bed.kafka.client();
    let (hoard, neighbour) = (unique("hoard"), unique("neighbour"));
    let bombs: Vec<String> = BOMBS.iter().map(|(how, _)| unique(how)).collect();
    let topics: Vec<&str> = bombs.iter().chain([&hoard, &neighbour]).map(String::as_str).collect();
    for topic in &topics {
        kafka.create_topic(topic, 1)?;
    }
    for ((how, size), topic) in BOMBS.iter().zip(&bombs) {
        kafka.produce(topic, [Message::new("before")])?;
        compressed(&kafka, topic, how, 1, sized(LEAST_BOMB, *size, *size))?;
        kafka.produce(topic, [Message::new("after")])?;
    }
    (0..HOARD).try_for_each(|_| compressed(&kafka, &hoard, "gzip", 1, HOARDED))?;
    let produced = kafka.produce(&neighbour, (0..500).map(|n| Message::new(payload(n, 1000))))?;
    let folder = process::data_folder("bombs")?;
    let dropping = folder.path().join("dropping.wasm");
    std::fs::write(&dropping, crate::guest::guest("(call $drop)"))?;
    let config = bed
        .sink_config("none")
        .topics(&topics)
        .set("cache.path", "")
        .set("kafka.on_unreadable", "skip")
        .plugin_with("dropping", &dropping, &format!("when.topics = ['{hoard}']"))?;
    let mut sink = Sink::start(&config)?;
    for topic in &topics {
        sink.wait_caught_up(&kafka, config.group(), &[topic], CATCH_UP).with_context(|| topic.to_string())?;
    }
    let peak = sink.process().peak_memory()? >> 20;
    figures::record("compressed_bombs_peak_mb", peak as f64)?;
    sink.stop_cleanly()?;
    let stored = tokio::runtime::Runtime::new()?
        .block_on(async { read_back(&bed.store.client()?, config.bucket(), "*").await })?;
    let (of_neighbour, rest): (Vec<_>, Vec<_>) = stored.into_iter().partition(|record| record.entry == neighbour);
    compare(&produced, &of_neighbour)?.exact()?;
    for topic in &bombs {
        let sizes: Vec<usize> = rest.iter().filter(|one| one.entry == *topic).map(|one| one.size).collect();
        ensure!(sizes == ["before".len(), "after".len()], "{topic} has records of {sizes:?} bytes");
    }
    ensure!(peak <= MEMORY_MB, "the host took {peak} MB");
    Ok(())
}
