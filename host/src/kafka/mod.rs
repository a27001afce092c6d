//! Kafka clients that are not members of the consumer group: configuration, metadata, bounded reading, producing.

pub mod admin;
pub mod check;
pub mod client;
pub mod message;
pub mod peek;
pub mod producer;
pub mod scan;
pub mod start_offset;

pub use self::admin::topic_ids;
