//! Makes librdkafka read a partition from an offset on, and check first that the log wasn't truncated below it.
//!
//! Guarantees: where the leader epoch at the offset is known, librdkafka asks the leader, before it reads, up to which offset that epoch
//! reaches; if that is less, the partition's queue says that the offset is out of range. From brokers that don't know the
//! question librdkafka reads without it.

use std::ffi::CString;
use std::time::Duration;

use rdkafka::bindings as ffi;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::group::GroupContext;
use crate::record::TopicPartition;

/// Moves an assigned partition.
#[expect(unsafe_code, reason = "rdkafka's safe wrapper seeks without a leader epoch")]
pub(super) fn seek(
    consumer: &BaseConsumer<GroupContext>,
    source: &TopicPartition,
    offset: u64,
    epoch: Option<u32>,
    timeout: Duration,
) -> Result<(), RDKafkaErrorCode> {
    let list = list(source, offset, epoch).map_err(code)?;
    let milliseconds = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: client and list are alive; an error is ours, and is destroyed once, after it was read.
    let failed = unsafe {
        let error = ffi::rd_kafka_seek_partitions(consumer.client().native_ptr(), list.ptr(), milliseconds);
        if error.is_null() {
            None
        } else {
            let code = ffi::rd_kafka_error_code(error);
            ffi::rd_kafka_error_destroy(error);
            Some(RDKafkaErrorCode::from(code))
        }
    };
    let refused = list.elements().first().and_then(|element| match element.error() {
        Ok(()) => None,
        Err(error) => error.rdkafka_error_code(),
    });
    failed.or(refused).map_or(Ok(()), Err)
}

/// The code of an error that librdkafka told.
pub(super) fn code(error: KafkaError) -> RDKafkaErrorCode {
    error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail)
}

/// A list of the one partition.
#[expect(unsafe_code, reason = "rdkafka's safe wrapper sets no leader epoch")]
fn list(source: &TopicPartition, offset: u64, epoch: Option<u32>) -> KafkaResult<TopicPartitionList> {
    let (topic, partition) = (&*source.topic, source.partition.cast_signed());
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Offset(offset.cast_signed()))?;
    let epoch = epoch.and_then(|epoch| i32::try_from(epoch).ok());
    if let (Some(epoch), Ok(name)) = (epoch, CString::new(topic)) {
        // SAFETY: the list is alive, and the element that is found in it belongs to it.
        unsafe {
            let element = ffi::rd_kafka_topic_partition_list_find(list.ptr(), name.as_ptr(), partition);
            if !element.is_null() {
                ffi::rd_kafka_topic_partition_set_leader_epoch(element, epoch);
            }
        }
    }
    Ok(list)
}
