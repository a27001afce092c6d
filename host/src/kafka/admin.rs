//! Questions to the brokers that librdkafka answers through its admin interface, which the safe wrapper does not offer:
//! what topics are (with their ids, leaders and our rights), where partitions begin and end, our rights in the group, and how long the
//! brokers wait for its members.
//!
//! Guarantees: one question covers all topics or partitions; an error of a single topic or partition is part of the
//! answer and never taken for an empty topic; nothing is created, joined or committed; a question ends within its
//! time-out.

mod group_times;

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char};
use std::ptr::NonNull;
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::bindings::{self as ffi, rd_kafka_admin_op_t as Operation, rd_kafka_resp_err_t as Code};
use rdkafka::client::Client;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;
use thiserror::Error;

pub use self::group_times::group_times;
use crate::record::{TopicId, TopicPartition};

/// A question that got no answer as a whole.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
#[error("{reason}")]
pub struct AskError {
    /// librdkafka's code.
    pub code: RDKafkaErrorCode,
    /// librdkafka's words.
    pub reason: String,
}

/// What the brokers say of one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicDescription {
    /// The topic's name.
    pub name: String,
    /// Why the topic can't be described; the other fields then mean nothing.
    pub error: Option<RDKafkaErrorCode>,
    /// `None`: brokers before Kafka 2.8 know no ids.
    pub id: Option<TopicId>,
    /// Kafka's own topic, such as `__consumer_offsets`.
    pub internal: bool,
    /// Whether our principal may read it; `None`: the brokers do not say.
    pub may_read: Option<bool>,
    /// Its partitions and where each one's leader listens; `None`: the partition has no leader.
    pub leaders: Vec<(u32, Option<String>)>,
}

/// Which end of partitions [`offsets`] asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    /// The first offset that is there.
    Begin,
    /// The next offset that a reader cannot have yet; with open transactions, where the first one begins.
    End,
    /// The next offset that Kafka will give out, whatever transactions are open.
    HighWatermark,
}

/// What the brokers say of our consumer group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupDescription {
    /// Why the group can't be described, such as a right that is missing.
    pub error: Option<RDKafkaErrorCode>,
    /// Whether our principal may read (join and commit in) it; `None`: the brokers do not say.
    pub may_read: Option<bool>,
    /// How many members it has.
    pub members: usize,
}

/// Describes these topics in one question.
pub fn describe_topics<C: ClientContext>(
    client: &Client<C>,
    topics: &[&str],
    timeout: Duration,
) -> Result<Vec<TopicDescription>, AskError> {
    if topics.is_empty() {
        return Ok(Vec::new());
    }
    let names = c_strings(topics)?;
    let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    let wanted = NativeHandle::new(
        // SAFETY: the pointers are valid for the call, which copies the names.
        unsafe { ffi::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len()) },
        ffi::rd_kafka_TopicCollection_destroy,
    )?;
    let broker = some_broker(client, topics, timeout)?;
    let answer = ask(client, Operation::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS, timeout, |client, options, queue| {
        let mut words = [0; 128];
        // SAFETY: the options are alive, and the buffer is as long as it is said to be.
        unsafe { ffi::rd_kafka_AdminOptions_set_broker(options, broker, words.as_mut_ptr(), words.len()) };
        // SAFETY: all four are alive during the call, which keeps none of them but the queue, which it counts.
        unsafe { ffi::rd_kafka_DescribeTopics(client, wanted.ptr(), options, queue) };
    })?;
    let mut count = 0;
    // SAFETY: the event is alive until `answer` is dropped; the results belong to it and are copied below.
    let described = unsafe {
        let result = ffi::rd_kafka_event_DescribeTopics_result(answer.ptr());
        if result.is_null() {
            return Err(unexpected());
        }
        let list = ffi::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        slice(list, count).iter().map(|topic| described_topic(*topic)).collect()
    };
    Ok(described)
}

/// The ids of these topics, by name, for those that have one. An error of a topic (it is missing, or we may not see it)
/// is an error.
pub fn topic_ids<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topics: &[&str],
    timeout: Duration,
) -> Result<HashMap<String, TopicId>, AskError> {
    let mut ids = HashMap::new();
    for topic in describe_topics(consumer.client(), topics, timeout)? {
        if let Some(code) = topic.error {
            return Err(AskError { code, reason: format!("topic {}: {code}", topic.name) });
        }
        ids.extend(topic.id.map(|id| (topic.name, id)));
    }
    Ok(ids)
}

/// Where each of these partitions begins or ends, or why that isn't known, in one question for each leader.
pub fn offsets<C: ClientContext>(
    client: &Client<C>,
    partitions: &[TopicPartition],
    edge: Edge,
    timeout: Duration,
) -> Result<HashMap<TopicPartition, Result<u64, RDKafkaErrorCode>>, AskError> {
    let mut answers = HashMap::new();
    if partitions.is_empty() {
        return Ok(answers);
    }
    let size = i32::try_from(partitions.len()).unwrap_or(i32::MAX);
    let list = NativeHandle::new(
        // SAFETY: makes a list that `NativeHandle` destroys.
        unsafe { ffi::rd_kafka_topic_partition_list_new(size) },
        ffi::rd_kafka_topic_partition_list_destroy,
    )?;
    let spec = match edge {
        Edge::Begin => ffi::rd_kafka_OffsetSpec_t::RD_KAFKA_OFFSET_SPEC_EARLIEST,
        Edge::End | Edge::HighWatermark => ffi::rd_kafka_OffsetSpec_t::RD_KAFKA_OFFSET_SPEC_LATEST,
    };
    let isolation = match edge {
        Edge::HighWatermark => ffi::rd_kafka_IsolationLevel_t::RD_KAFKA_ISOLATION_LEVEL_READ_UNCOMMITTED,
        Edge::Begin | Edge::End => ffi::rd_kafka_IsolationLevel_t::RD_KAFKA_ISOLATION_LEVEL_READ_COMMITTED,
    };
    for source in partitions {
        let topic = c_string(&source.topic)?;
        // SAFETY: the list is ours; the name is copied; the new element is valid until the next one is added.
        unsafe {
            let element =
                ffi::rd_kafka_topic_partition_list_add(list.ptr(), topic.as_ptr(), source.partition.cast_signed());
            (*element).offset = i64::from(spec as i32);
        }
    }
    let answer = ask(client, Operation::RD_KAFKA_ADMIN_OP_LISTOFFSETS, timeout, |client, options, queue| {
        // SAFETY: all four are alive during the call, which copies the list.
        unsafe {
            let error = ffi::rd_kafka_AdminOptions_set_isolation_level(options, isolation);
            if !error.is_null() {
                ffi::rd_kafka_error_destroy(error);
            }
            ffi::rd_kafka_ListOffsets(client, list.ptr(), options, queue);
        }
    })?;
    let mut count = 0;
    // SAFETY: the event is alive until `answer` is dropped; what belongs to it is copied here.
    unsafe {
        let result = ffi::rd_kafka_event_ListOffsets_result(answer.ptr());
        if result.is_null() {
            return Err(unexpected());
        }
        let infos = ffi::rd_kafka_ListOffsets_result_infos(result, &mut count);
        for info in slice(infos, count) {
            let element = ffi::rd_kafka_ListOffsetsResultInfo_topic_partition(*info);
            let topic = text((*element).topic);
            let source = TopicPartition { topic: topic.into(), partition: (*element).partition.cast_unsigned() };
            let offset = match code((*element).err) {
                Some(code) => Err(code),
                None => u64::try_from((*element).offset).map_err(|_| RDKafkaErrorCode::NoOffset),
            };
            answers.insert(source, offset);
        }
    }
    Ok(answers)
}

/// Describes the group to which this principal would belong; the question goes to the group's coordinator.
pub fn describe_group<C: ClientContext>(
    client: &Client<C>,
    group: &str,
    timeout: Duration,
) -> Result<GroupDescription, AskError> {
    let name = c_string(group)?;
    let mut names = [name.as_ptr()];
    let operation = Operation::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS;
    let answer = ask(client, operation, timeout, |client, options, queue| {
        // SAFETY: all are alive during the call, which copies the name.
        unsafe { ffi::rd_kafka_DescribeConsumerGroups(client, names.as_mut_ptr(), names.len(), options, queue) };
    })?;
    let mut count = 0;
    // SAFETY: the event is alive until `answer` is dropped; what belongs to it is copied here.
    unsafe {
        let result = ffi::rd_kafka_event_DescribeConsumerGroups_result(answer.ptr());
        if result.is_null() {
            return Err(unexpected());
        }
        let groups = ffi::rd_kafka_DescribeConsumerGroups_result_groups(result, &mut count);
        let group = *slice(groups, count).first().ok_or_else(unexpected)?;
        let error = error_code(ffi::rd_kafka_ConsumerGroupDescription_error(group));
        let mut count = 0;
        let operations = ffi::rd_kafka_ConsumerGroupDescription_authorized_operations(group, &mut count);
        let members = ffi::rd_kafka_ConsumerGroupDescription_member_count(group);
        Ok(GroupDescription { error, may_read: may_read(operations, count), members })
    }
}

/// The id of a broker that answers. Without one librdkafka would wait for the controller, which may be another broker
/// that is away.
fn some_broker<C: ClientContext>(client: &Client<C>, topics: &[&str], timeout: Duration) -> Result<i32, AskError> {
    let failed = |error: KafkaError| AskError {
        code: error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail),
        reason: super::client::told(&error),
    };
    let metadata = client.fetch_metadata(topics.first().copied(), timeout).map_err(failed)?;
    let answered = metadata.orig_broker_id();
    let known = metadata.brokers().iter().map(rdkafka::metadata::MetadataBroker::id);
    // A broker that was only reached by its bootstrap address has no id yet.
    let none = || AskError { code: RDKafkaErrorCode::AllBrokersDown, reason: "no broker is known to be there".into() };
    known.clone().find(|id| *id == answered).or_else(|| known.clone().next()).ok_or_else(none)
}

/// SAFETY: `topic` is a valid description, alive during the call.
unsafe fn described_topic(topic: *const ffi::rd_kafka_TopicDescription_t) -> TopicDescription {
    // SAFETY: as the function's own; what belongs to the description is copied here.
    unsafe {
        let id = ffi::rd_kafka_TopicDescription_topic_id(topic);
        let half = |half: unsafe extern "C" fn(*const ffi::rd_kafka_Uuid_t) -> i64| half(id).cast_unsigned();
        let id = (!id.is_null()).then(|| {
            let (most, least) =
                (half(ffi::rd_kafka_Uuid_most_significant_bits), half(ffi::rd_kafka_Uuid_least_significant_bits));
            TopicId::from_halves(most, least)
        });
        let mut count = 0;
        let partitions = ffi::rd_kafka_TopicDescription_partitions(topic, &mut count);
        let leaders = slice(partitions, count).iter().map(|partition| {
            let number = ffi::rd_kafka_TopicPartitionInfo_partition(*partition).cast_unsigned();
            let leader = ffi::rd_kafka_TopicPartitionInfo_leader(*partition);
            let address = |leader| {
                let host = ffi::rd_kafka_Node_host(leader);
                // A leader that is named but isn't among the brokers that are alive has no host.
                (!host.is_null()).then(|| format!("{}:{}", text(host), ffi::rd_kafka_Node_port(leader)))
            };
            (number, if leader.is_null() { None } else { address(leader) })
        });
        let leaders = leaders.collect();
        let mut count = 0;
        let operations = ffi::rd_kafka_TopicDescription_authorized_operations(topic, &mut count);
        TopicDescription {
            name: text(ffi::rd_kafka_TopicDescription_name(topic)),
            error: error_code(ffi::rd_kafka_TopicDescription_error(topic)),
            id: id.flatten(),
            internal: ffi::rd_kafka_TopicDescription_is_internal(topic) != 0,
            may_read: may_read(operations, count),
            leaders,
        }
    }
}

/// Asks through `submit` and waits for the answer.
fn ask<C: ClientContext>(
    client: &Client<C>,
    operation: Operation,
    timeout: Duration,
    submit: impl FnOnce(*mut ffi::rd_kafka_t, *mut ffi::rd_kafka_AdminOptions_t, *mut ffi::rd_kafka_queue_t),
) -> Result<NativeHandle<ffi::rd_kafka_event_t>, AskError> {
    let native = client.native_ptr();
    let milliseconds = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    let options = NativeHandle::new(
        // SAFETY: the client is alive; the options are destroyed by `NativeHandle`.
        unsafe { ffi::rd_kafka_AdminOptions_new(native, operation) },
        ffi::rd_kafka_AdminOptions_destroy,
    )?;
    let mut words = [0; 128];
    // SAFETY: the options are ours, and the buffer is as long as it is said to be.
    unsafe {
        ffi::rd_kafka_AdminOptions_set_request_timeout(options.ptr(), milliseconds, words.as_mut_ptr(), words.len());
        if operation != Operation::RD_KAFKA_ADMIN_OP_LISTOFFSETS {
            let error = ffi::rd_kafka_AdminOptions_set_include_authorized_operations(options.ptr(), 1);
            if !error.is_null() {
                ffi::rd_kafka_error_destroy(error);
            }
        }
    }
    // SAFETY: the client is alive; the queue is destroyed by `NativeHandle`.
    let queue = NativeHandle::new(unsafe { ffi::rd_kafka_queue_new(native) }, ffi::rd_kafka_queue_destroy)?;
    submit(native, options.ptr(), queue.ptr());
    // librdkafka answers within the request's time-out, with an error then; a second more for the way back.
    let wait = milliseconds.saturating_add(1000);
    // SAFETY: the queue is alive; the event is destroyed by `NativeHandle`.
    let event = unsafe { ffi::rd_kafka_queue_poll(queue.ptr(), wait) };
    let late = || AskError { code: RDKafkaErrorCode::OperationTimedOut, reason: "the brokers do not answer".into() };
    let event = NativeHandle::new(event, ffi::rd_kafka_event_destroy).map_err(|_| late())?;
    // SAFETY: the event is alive.
    let (error, words) =
        unsafe { (ffi::rd_kafka_event_error(event.ptr()), ffi::rd_kafka_event_error_string(event.ptr())) };
    match code(error) {
        None => Ok(event),
        // SAFETY: the words belong to the event, which is alive.
        Some(code) => Err(AskError { code, reason: unsafe { text(words) } }),
    }
}

/// Something that librdkafka allocated, destroyed with this value.
struct NativeHandle<T> {
    value: NonNull<T>,
    destroy: unsafe extern "C" fn(*mut T),
}

impl<T> NativeHandle<T> {
    fn new(value: *mut T, destroy: unsafe extern "C" fn(*mut T)) -> Result<Self, AskError> {
        NonNull::new(value).map(|value| Self { value, destroy }).ok_or_else(unexpected)
    }

    fn ptr(&self) -> *mut T {
        self.value.as_ptr()
    }
}

impl<T> Drop for NativeHandle<T> {
    fn drop(&mut self) {
        // SAFETY: the value was allocated for us, and is destroyed once, by its own function.
        unsafe { (self.destroy)(self.value.as_ptr()) };
    }
}

fn unexpected() -> AskError {
    AskError { code: RDKafkaErrorCode::Fail, reason: "librdkafka gives an answer of another kind".into() }
}

fn c_string(text: &str) -> Result<CString, AskError> {
    let wrong = |_| AskError { code: RDKafkaErrorCode::InvalidArgument, reason: format!("{text:?} holds a NUL") };
    CString::new(text).map_err(wrong)
}

fn c_strings(texts: &[&str]) -> Result<Vec<CString>, AskError> {
    texts.iter().map(|text| c_string(text)).collect()
}

/// SAFETY: `text` is null, or ends with NUL and is alive during the call.
unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: as the function's own.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// SAFETY: `list` is null or holds `count` elements, which are alive for `'a`.
unsafe fn slice<'a, T>(list: *mut T, count: usize) -> &'a [T] {
    if list.is_null() || count == 0 {
        return &[];
    }
    // SAFETY: as the function's own.
    unsafe { std::slice::from_raw_parts(list, count) }
}

/// SAFETY: `operations` is null or holds `count` elements.
unsafe fn may_read(operations: *const ffi::rd_kafka_AclOperation_t, count: usize) -> Option<bool> {
    use ffi::rd_kafka_AclOperation_t as Right;
    if operations.is_null() {
        return None;
    }
    // SAFETY: as the function's own.
    let granted = unsafe { slice(operations.cast_mut(), count) };
    Some(
        granted
            .iter()
            .any(|right| matches!(right, Right::RD_KAFKA_ACL_OPERATION_READ | Right::RD_KAFKA_ACL_OPERATION_ALL)),
    )
}

fn code(code: Code) -> Option<RDKafkaErrorCode> {
    (code != Code::RD_KAFKA_RESP_ERR_NO_ERROR).then(|| RDKafkaErrorCode::from(code))
}

/// SAFETY: `error` is null or a valid error.
unsafe fn error_code(error: *const ffi::rd_kafka_error_t) -> Option<RDKafkaErrorCode> {
    if error.is_null() {
        return None;
    }
    // SAFETY: as the function's own.
    code(unsafe { ffi::rd_kafka_error_code(error) })
}

#[cfg(test)]
mod tests {
    use rdkafka::ClientConfig;
    use rdkafka::mocking::MockCluster;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(300);

    #[test]
    fn topics_and_offsets_come_with_their_own_errors() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("camera", 2, 1).unwrap();
        let consumer: BaseConsumer =
            ClientConfig::new().set("bootstrap.servers", cluster.bootstrap_servers()).create().unwrap();
        let ids = topic_ids(&consumer, &["camera"], PATIENCE).unwrap();
        assert_ne!(ids["camera"].to_string(), "");
        assert!(topic_ids(&consumer, &["camera", "nowhere"], PATIENCE).is_err());
        let topics = describe_topics(consumer.client(), &["camera", "nowhere"], PATIENCE).unwrap();
        assert_eq!((topics.len(), topics[0].error, topics[0].leaders.len()), (2, None, 2));
        assert!(topics[1].error.is_some());
        assert_eq!(topics[0].leaders[0].1.as_deref(), Some(cluster.bootstrap_servers().as_str()));
        let of = |partition| TopicPartition { topic: "camera".into(), partition };
        let ends = offsets(consumer.client(), &[of(0), of(1)], Edge::End, PATIENCE).unwrap();
        assert_eq!((&ends[&of(0)], &ends[&of(1)]), (&Ok(0), &Ok(0)));
    }

    #[test]
    fn brokers_that_are_away_are_an_error_in_time() {
        let consumer: BaseConsumer = ClientConfig::new().set("bootstrap.servers", "127.0.0.1:1").create().unwrap();
        assert!(describe_topics(consumer.client(), &["camera"], Duration::from_millis(200)).is_err());
        let group = describe_group(consumer.client(), "group", Duration::from_millis(200));
        assert!(group.as_ref().map_or(true, |group| group.error.is_some()), "{group:?}");
    }
}
