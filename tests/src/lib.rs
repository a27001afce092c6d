//! The test bed: real servers (Apache Kafka, ReductStore) and the host as child processes on free loopback ports, clients
//! that produce to Kafka and read back from ReductStore, and a comparison of both that shares no code with the host.
//!
//! Guarantees: a started server answers requests; every child process ends with the process that started it, even if that
//! process is killed; data is temporary, and the logs are kept if a test failed.

pub mod acls;
pub mod certificates;
pub mod client;
pub mod collector;
pub mod dice;
pub mod figures;
pub mod guest;
pub mod kafka;
pub mod load;
pub mod original;
pub mod process;
pub mod proxy;
pub mod sink;
pub mod store;
pub mod stored;
pub mod verify;

use std::sync::OnceLock;

use anyhow::{Result, anyhow};

pub use client::{KafkaClient, Message, Produced};
pub use kafka::Kafka;
pub use load::{Load, payload};
pub use process::unique;
pub use sink::{Sink, SinkConfig};
pub use store::Store;
pub use stored::{Stored, read_back, source_of};

/// Whether the suites run at full size (`tests/run --long`).
pub fn long() -> bool {
    is_set("TESTBED_LONG")
}

/// Whether the suites run in more than the shortest form (`tests/run --all` or `--long`).
pub fn all() -> bool {
    long() || is_set("TESTBED_ALL")
}

/// The size of a test in the run of every suite, with `--all`, and with `--long`.
pub fn sized<T>(least: T, short: T, full: T) -> T {
    if long() {
        full
    } else if all() {
        short
    } else {
        least
    }
}

fn is_set(name: &str) -> bool {
    std::env::var_os(name).is_some_and(|value| !value.is_empty())
}

/// Servers that tests share. Each test uses topics, groups and buckets of its own ([`unique`]) and does not stop them.
pub struct Bed {
    pub kafka: SharedKafka,
    pub store: Store,
}

/// The shared servers. The first call starts them.
pub fn bed() -> Result<&'static Bed> {
    static BED: OnceLock<Result<Bed>> = OnceLock::new();
    let bed = BED.get_or_init(|| Ok(Bed { kafka: SharedKafka::find()?, store: Store::start()? }));
    bed.as_ref().map_err(|error| anyhow!("the shared servers don't start: {error:#}"))
}

impl Bed {
    /// A configuration that reads `topic` into a new bucket, in a new group.
    pub fn sink_config(&self, topic: &str) -> SinkConfig {
        SinkConfig::new(&self.kafka.brokers(), &self.store.url(), &unique("bucket")).topics(&[topic])
    }
}

/// A Kafka with the usual settings, which nobody stops.
pub struct SharedKafka {
    client: KafkaClient,
    _own: Option<Kafka>,
}

impl SharedKafka {
    /// The one that `tests/run` started for all suites, or one of this process.
    fn find() -> Result<Self> {
        if let Some(brokers) = std::env::var("TESTBED_BROKERS").ok().filter(|brokers| !brokers.is_empty()) {
            return Ok(Self { client: KafkaClient::new(&brokers), _own: None });
        }
        let own = Kafka::start()?;
        Ok(Self { client: own.client(), _own: Some(own) })
    }

    pub fn client(&self) -> KafkaClient {
        self.client.clone()
    }

    /// The value for `bootstrap.servers`.
    pub fn brokers(&self) -> String {
        self.client.brokers().to_owned()
    }
}
