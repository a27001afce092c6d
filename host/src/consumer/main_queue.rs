//! Looks into the queue in which librdkafka puts rebalances, errors, answers and lines of its log for the polling thread.
//!
//! Guarantees: looking takes nothing out of the queue.

use std::ptr::NonNull;

use rdkafka::bindings as ffi;
use rdkafka::consumer::{BaseConsumer, Consumer};

use super::group::GroupContext;

/// Whether anything is in the queue, such as a rebalance that the polling thread doesn't know of yet.
#[expect(unsafe_code, reason = "rdkafka's safe wrapper doesn't tell the length of a queue")]
pub(super) fn has_events(consumer: &BaseConsumer<GroupContext>) -> bool {
    // SAFETY: the client is alive; the reference to its queue is given back once, after the last use.
    unsafe {
        let Some(queue) = NonNull::new(ffi::rd_kafka_queue_get_consumer(consumer.client().native_ptr())) else {
            return false;
        };
        let length = ffi::rd_kafka_queue_length(queue.as_ptr());
        ffi::rd_kafka_queue_destroy(queue.as_ptr());
        length > 0
    }
}
