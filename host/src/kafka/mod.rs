//! Kafka clients: how they are configured, what they ask the brokers, how they read a range of a partition, and how they
//! write dead letters. The member of the consumer group is in [`crate::consumer`].

pub mod admin;
pub mod check;
pub mod client;
pub mod client_files;
pub mod error;
pub mod group;
pub mod message;
pub mod observer;
pub mod peek;
pub mod producer;
pub mod scan;
pub mod start;
pub mod unreadable;

pub use self::admin::topic_ids;

/// A cluster within the process.
#[cfg(test)]
pub(crate) mod testing {
    pub use rdkafka::mocking::MockCluster;
}
