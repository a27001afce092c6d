//! The test bed: real servers (Apache Kafka, ReductStore) and the host as child processes on free loopback ports, what
//! is needed to produce to the one and read back from the other, and a verifier that shares no code with the host.
//!
//! Guarantees: a server that was started answers; whatever was started ends with the process that started it, even if
//! that one is killed; data is temporary, and logs stay when a run failed.

pub mod client;
pub mod kafka;
pub mod process;
pub mod store;

pub use client::{KafkaClient, Message, Produced};
pub use kafka::Kafka;
pub use store::Store;
