//! (f), (i) A consumer as a good engineer writes it by hand in an afternoon: `rdkafka`'s StreamConsumer, a task a
//! partition, batches of 80 by `reduct-rs`, automatic commits. The same entries and headers as labels as the host's; no
//! identity, no look-ups, nothing read back. A crash makes it lose records or write them twice. In (f) its bucket has the
//! settings that the host chooses, in (i) those that ReductStore gives a bucket that is created without any.
//!
//! It is a process of its own, as the host is: this program, started with [`COMMAND`].

use std::collections::HashMap;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use rdkafka::consumer::stream_consumer::StreamPartitionQueue;
use rdkafka::consumer::{Consumer, DefaultConsumerContext, StreamConsumer};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use reduct_rs::{Bucket, BucketSettings, RecordBuilder};
use reduct_sink_testbed::process::{self, Process};
use reduct_sink_testbed::{KafkaClient, store, unique};

use crate::bed::Bench;
use crate::held::{Rate, Watched, watch};
use crate::plan::Size;

/// The first argument of the consumer's process; behind it stand brokers, topic, group, URL and bucket.
pub const COMMAND: &str = "by-hand";
const BATCH: usize = 80;
/// A batch that isn't full is written when nothing came for this time.
const LINGER: Duration = Duration::from_millis(50);

pub fn run(bench: &Bench, size: &Size, bucket: &str, topic: &str, settings: &BucketSettings) -> Result<Rate> {
    bench.create_bucket(bucket, settings)?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args([COMMAND, bench.kafka.brokers(), topic, &unique("group"), &bench.url, bucket]);
    let mut consumer = Process::spawn("the consumer by hand", command, &process::new_log("by-hand")?)?;
    let watched: Vec<Watched> =
        bench.servers.into_iter().chain([Watched { name: "by hand", pid: consumer.pid() }]).collect();
    let rate = watch(bench, bucket, size.records, &watched, || consumer.expect_running())?;
    consumer.kill9()?;
    Ok(rate)
}

/// The consumer itself. Runs until it is ended, or something fails.
pub fn consume(args: &[String]) -> Result<()> {
    let [brokers, topic, group, url, bucket] = args else {
        anyhow::bail!("{COMMAND} takes BROKERS TOPIC GROUP URL BUCKET")
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let bucket = Arc::new(store::client(url, None)?.get_bucket(bucket).await?);
        let consumer: StreamConsumer = KafkaClient::new(brokers)
            .config()
            .set("group.id", group)
            .set("auto.offset.reset", "earliest")
            .set("enable.auto.commit", "true")
            .create()?;
        let consumer = Arc::new(consumer);
        consumer.subscribe(&[topic.as_str()])?;
        let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(10))?;
        let partitions = metadata.topics().first().context("no such topic")?.partitions().len();
        for partition in 0..partitions as i32 {
            let queue = consumer.split_partition_queue(topic, partition).context("a partition has a queue")?;
            let entry = if partitions == 1 { topic.clone() } else { format!("{topic}/{partition}") };
            tokio::spawn(end_with(write(queue, bucket.clone(), entry)));
        }
        // Every message comes in its partition's queue; this serves the group.
        let message = consumer.recv().await?;
        anyhow::bail!("a message of partition {} came outside of its queue", message.partition())
    })
}

/// A partition that fails ends the process: then the run fails, too.
async fn end_with(partition: impl Future<Output = Result<()>>) {
    if let Err(error) = partition.await {
        eprintln!("{error:#}");
        std::process::exit(1);
    }
}

async fn write(queue: StreamPartitionQueue<DefaultConsumerContext>, bucket: Arc<Bucket>, entry: String) -> Result<()> {
    loop {
        let mut batch = vec![record(&queue.recv().await?)];
        while batch.len() < BATCH {
            let Ok(message) = tokio::time::timeout(LINGER, queue.recv()).await else { break };
            batch.push(record(&message?));
        }
        let mut request = bucket.write_batch(&entry);
        for (timestamp, labels, payload) in batch {
            request.append_record(RecordBuilder::new().timestamp_us(timestamp).labels(labels).data(payload).build());
        }
        let failed = request.send().await.with_context(|| format!("can't write to {entry}"))?;
        ensure!(failed.is_empty(), "{} records failed, one of them: {:?}", failed.len(), failed.first_key_value());
    }
}

/// The time of a record is Kafka's, and the offset tells those of one millisecond apart.
fn record(message: &BorrowedMessage<'_>) -> (u64, HashMap<String, String>, Bytes) {
    let timestamp_ms = message.timestamp().to_millis().unwrap_or_default() as u64;
    let labels = message.headers().into_iter().flat_map(Headers::iter).map(|header| {
        let value = String::from_utf8_lossy(header.value.unwrap_or_default()).into_owned();
        (header.key.to_owned(), value)
    });
    let payload = Bytes::copy_from_slice(message.payload().unwrap_or_default());
    (timestamp_ms * 1000 + message.offset() as u64 % 1000, labels.collect(), payload)
}
