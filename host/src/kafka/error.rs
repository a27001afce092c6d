//! Why the brokers can't be asked.
//!
//! Guarantees: each message says what is wrong and which key of the configuration is to be corrected, and shows no password.

use thiserror::Error;

use super::group::GroupError;

/// Why nothing can be known.
#[derive(Debug, Error)]
pub enum KafkaCheckError {
    /// A property is unknown or has an impossible value.
    #[error("librdkafka refuses the configuration: {0}; correct kafka.properties")]
    Property(String),
    /// Nobody answers.
    #[error(
        "Kafka at {brokers} can't be reached: {reason}; check kafka.brokers, and that Kafka runs and can be reached from here"
    )]
    Unreachable {
        /// `kafka.brokers`.
        brokers: String,
        /// In librdkafka's words.
        reason: String,
    },
    /// The brokers are there and refuse us.
    #[error(
        "Kafka at {brokers} refuses us: {reason}; check security.protocol, the SASL and the SSL settings in kafka.properties"
    )]
    Refused {
        /// `kafka.brokers`.
        brokers: String,
        /// In librdkafka's words.
        reason: String,
    },
    /// The consumer group.
    #[error("consumer group {group:?}: {error}")]
    Group {
        /// `kafka.group`.
        group: String,
        /// What is wrong.
        error: GroupError,
    },
    /// The dead-letter topic.
    #[error("the dead letters in topic {topic} can't be read: {reason}; check dead_letters.topic")]
    Letters {
        /// `dead_letters.topic`.
        topic: String,
        /// What is wrong.
        reason: String,
    },
}
