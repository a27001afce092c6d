//! How every Kafka client of this process is configured, and how a broker is asked a question.
//!
//! Guarantees: the properties that the host relies on cannot be overridden; everything else that librdkafka knows can be.

use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaResult;
use tracing::debug;

use crate::config;

/// For how long a question is repeated that a rebalance can't do without.
const ASK_FOR: Duration = Duration::from_secs(60);
/// The pause between two attempts.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// librdkafka's bound on a partition's queue, in kilobytes.
pub const QUEUE: &str = "queued.max.messages.kbytes";

/// Asks the brokers until they answer, for a while: a rebalance happens when they are busy, or have only just come back.
pub fn ask<T>(mut question: impl FnMut() -> KafkaResult<T>) -> KafkaResult<T> {
    let started = Instant::now();
    loop {
        match question() {
            Err(error) if started.elapsed() < ASK_FOR => {
                debug!(%error, "the brokers don't answer yet; asking again");
                std::thread::sleep(ASK_AGAIN_AFTER);
            }
            answer => return answer,
        }
    }
}

/// librdkafka's properties: the host's defaults, the user's on top, and what the host must own.
pub fn client_config(config: &config::Kafka) -> ClientConfig {
    let mut client = ClientConfig::new();
    client
        .set("client.id", "reduct-sink")
        .set("partition.assignment.strategy", "cooperative-sticky")
        // Enough for who reads one partition after the other; the group's member shares its own among all.
        .set(QUEUE, "8192")
        // A response's part of one partition: librdkafka's default of 1 MB brings large records one at a time. It keeps a
        // whole response within the bytes that one partition may queue.
        .set("fetch.message.max.bytes", "4194304")
        // After the queue was full; its default of 1 s stalls the stream.
        .set("fetch.queue.backoff.ms", "10")
        // A request that waits for partitions without records holds up those whose queues were full when it was sent;
        // its default is 500 ms. Shorter ones cost an idle host time: with 50 ms it took over 1 % of a core.
        .set("fetch.wait.max.ms", "100")
        .set("socket.keepalive.enable", "true");
    for (key, value) in &config.properties {
        client.set(key, value);
    }
    client
        .set("bootstrap.servers", &config.brokers)
        .set("group.id", &config.group)
        // Tells a partition's tail that holds no records (control records, compacted ones) from one not read yet.
        .set("enable.partition.eof", "true")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        // An offset that isn't there any more is an error, which the configured policy answers.
        .set("auto.offset.reset", "error");
    client
}
