//! The test bed: real servers (Apache Kafka, ReductStore) and the host as child processes on free loopback ports, what
//! is needed to produce to the one and read back from the other, and a verifier that shares no code with the host.
//!
//! Guarantees: a server that was started answers; whatever was started ends with the process that started it, even if
//! that one is killed; data is temporary, and logs stay when a run failed.

pub mod client;
pub mod dice;
pub mod figures;
pub mod guest;
pub mod kafka;
pub mod ledger;
pub mod load;
pub mod process;
pub mod proxy;
pub mod sink;
pub mod store;
pub mod verify;

use std::sync::OnceLock;

use anyhow::{Result, anyhow};

pub use client::{KafkaClient, Message, Produced};
pub use kafka::Kafka;
pub use load::{Load, payload};
pub use process::unique;
pub use sink::{Sink, SinkConfig};
pub use store::Store;
pub use verify::{Stored, read_back};

/// Whether the suites are to run at full size (`tests/run SUITE --long`).
pub fn long() -> bool {
    std::env::var_os("TESTBED_LONG").is_some_and(|value| !value.is_empty())
}

/// Servers that tests share: each uses topics, groups and buckets of its own ([`unique`]), and leaves the servers alone.
pub struct Bed {
    pub kafka: Kafka,
    pub store: Store,
}

/// The shared servers, started for the first who asks.
pub fn bed() -> Result<&'static Bed> {
    static BED: OnceLock<Result<Bed>> = OnceLock::new();
    let bed = BED.get_or_init(|| Ok(Bed { kafka: Kafka::start()?, store: Store::start()? }));
    bed.as_ref().map_err(|error| anyhow!("the shared servers don't start: {error:#}"))
}

impl Bed {
    /// A configuration that reads `topic` into a new bucket, in a new group.
    pub fn sink_config(&self, topic: &str) -> SinkConfig {
        SinkConfig::new(&self.kafka.brokers(), &self.store.url(), &unique("bucket")).topics(&[topic])
    }
}
