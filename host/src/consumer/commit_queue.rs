//! Sends commits to the group and hears what became of each: rdkafka's safe wrapper tells no outcome of a commit that
//! isn't waited for.
//!
//! Guarantees: a commit is handed to librdkafka before [`CommitQueue::send`] returns, so that it comes before whatever the
//! same thread does to the assignment later; each commit has one answer.

use std::ffi::CStr;
use std::ptr::NonNull;
use std::sync::Arc;

use rdkafka::bindings as ffi;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::TopicPartitionList;

use super::group::GroupContext;
use crate::record::TopicPartition;

/// See the module.
pub(super) struct CommitQueue {
    queue: NonNull<ffi::rd_kafka_queue_t>,
    consumer: Arc<BaseConsumer<GroupContext>>,
}

/// What became of one commit.
#[derive(Debug)]
pub(super) struct CommitAnswer {
    /// As it was sent.
    pub number: usize,
    /// The partitions whose offsets weren't taken, with the reasons; one without a partition concerns all of them.
    pub refused: Vec<(Option<TopicPartition>, RDKafkaErrorCode)>,
}

// SAFETY: librdkafka's queues may be used from any thread; this one is only moved, and used by one at a time.
#[expect(unsafe_code, reason = "rdkafka's safe wrapper tells no outcome of a commit that isn't waited for")]
unsafe impl Send for CommitQueue {}

#[expect(unsafe_code, reason = "rdkafka's safe wrapper tells no outcome of a commit that isn't waited for")]
impl CommitQueue {
    /// `None`: librdkafka makes no queue.
    pub fn new(consumer: Arc<BaseConsumer<GroupContext>>) -> Option<Self> {
        // SAFETY: the client is alive; it outlives the queue, which is destroyed with this value.
        let queue = unsafe { ffi::rd_kafka_queue_new(consumer.client().native_ptr()) };
        NonNull::new(queue).map(|queue| Self { queue, consumer })
    }

    /// Sends a commit; the answer will carry `number`.
    pub fn send(&self, list: &TopicPartitionList, number: usize) -> KafkaResult<()> {
        let client = self.consumer.client().native_ptr();
        // A number in the place of a pointer, which librdkafka hands back as it is.
        let opaque = std::ptr::without_provenance_mut(number);
        // SAFETY: client, list and queue are alive; librdkafka copies the list and counts the queue.
        let error = unsafe { ffi::rd_kafka_commit_queue(client, list.ptr(), self.queue.as_ptr(), None, opaque) };
        match error {
            ffi::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
            error => Err(KafkaError::ConsumerCommit(error.into())),
        }
    }

    /// The answers that came since, without waiting.
    pub fn answers(&self) -> Vec<CommitAnswer> {
        let mut answers = Vec::new();
        // SAFETY: the queue is alive; each event is destroyed once, after it was read.
        unsafe {
            while let Some(event) = NonNull::new(ffi::rd_kafka_queue_poll(self.queue.as_ptr(), 0)) {
                answers.push(answer(event.as_ptr()));
                ffi::rd_kafka_event_destroy(event.as_ptr());
            }
        }
        answers
    }
}

#[expect(unsafe_code, reason = "see the value's own functions")]
impl Drop for CommitQueue {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and destroyed once, while the client is alive.
        unsafe { ffi::rd_kafka_queue_destroy(self.queue.as_ptr()) };
    }
}

/// Whether librdkafka takes itself for a member of the group: it forgets its id when it tells the group that it leaves.
#[expect(unsafe_code, reason = "rdkafka's safe wrapper doesn't tell the member's id")]
pub(super) fn is_member(consumer: &BaseConsumer<GroupContext>) -> bool {
    let client = consumer.client().native_ptr();
    // SAFETY: the client is alive; the text is a copy, which is freed once, after it was read.
    unsafe {
        let id = ffi::rd_kafka_memberid(client);
        if id.is_null() {
            return false;
        }
        let is_member = !CStr::from_ptr(id).is_empty();
        ffi::rd_kafka_mem_free(client, id.cast());
        is_member
    }
}

/// SAFETY: `event` is valid during the call.
#[expect(unsafe_code, reason = "reads what librdkafka gives")]
unsafe fn answer(event: *mut ffi::rd_kafka_event_t) -> CommitAnswer {
    let refusal = |error| match RDKafkaErrorCode::from(error) {
        RDKafkaErrorCode::NoError => None,
        code => Some(code),
    };
    // SAFETY: as the function's own; all that is read belongs to the event and is copied.
    unsafe {
        let number = ffi::rd_kafka_event_opaque(event).addr();
        let mut refused = Vec::new();
        let list = ffi::rd_kafka_event_topic_partition_list(event);
        if !list.is_null() && !(*list).elems.is_null() {
            let count = usize::try_from((*list).cnt).unwrap_or_default();
            for element in std::slice::from_raw_parts((*list).elems, count) {
                if let Some(code) = refusal(element.err) {
                    let topic = CStr::from_ptr(element.topic).to_string_lossy();
                    let partition = element.partition.cast_unsigned();
                    refused.push((Some(TopicPartition { topic: topic.as_ref().into(), partition }), code));
                }
            }
        }
        if refused.is_empty() {
            refused.extend(refusal(ffi::rd_kafka_event_error(event)).map(|code| (None, code)));
        }
        CommitAnswer { number, refused }
    }
}
