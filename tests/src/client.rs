//! A Kafka client for tests: topics, records of every shape, offsets.
//!
//! Guarantees: what `produce` returns was acknowledged by the broker, each record with its partition and offset; a
//! record goes to Kafka exactly as it was given, header keys that aren't UTF-8, null values and tombstones included.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::ops::Range;
use std::ptr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use bytes::Bytes;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::bindings::{self as native, rd_kafka_resp_err_t as ErrorCode, rd_kafka_vtype_t as Part};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, DeliveryResult};
use rdkafka::producer::{BaseProducer, Producer, ProducerContext};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientConfig, ClientContext, Message as _, Offset, TopicPartitionList};
use sha2::{Digest, Sha256};

use crate::process::wait_for;

const BOUND: Duration = Duration::from_secs(30);

/// A record to produce.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// `None`: the partitioner chooses, by the key if there is one.
    pub partition: Option<i32>,
    pub key: Option<Bytes>,
    /// `None`: a tombstone.
    pub payload: Option<Bytes>,
    pub headers: Vec<(Bytes, Option<Bytes>)>,
    pub timestamp_ms: Option<i64>,
}

impl Message {
    pub fn new(payload: impl Into<Bytes>) -> Self {
        Self { payload: Some(payload.into()), ..Self::default() }
    }

    pub fn tombstone(key: impl Into<Bytes>) -> Self {
        Self { key: Some(key.into()), ..Self::default() }
    }

    pub fn key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    pub fn header(mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.headers.push((key.into(), Some(value.into())));
        self
    }

    pub fn null_header(mut self, key: impl Into<Bytes>) -> Self {
        self.headers.push((key.into(), None));
        self
    }

    pub fn timestamp_ms(mut self, timestamp: i64) -> Self {
        self.timestamp_ms = Some(timestamp);
        self
    }

    pub fn partition(mut self, partition: i32) -> Self {
        self.partition = Some(partition);
        self
    }
}

/// A record that the broker acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Produced {
    pub topic: Arc<str>,
    pub partition: u32,
    pub offset: u64,
    pub size: usize,
    pub sha256: [u8; 32],
}

/// Speaks to one Kafka. Cheap to clone; each call makes the connection it needs.
#[derive(Debug, Clone)]
pub struct KafkaClient {
    brokers: String,
    properties: Vec<(String, String)>,
}

impl KafkaClient {
    pub fn new(brokers: &str) -> Self {
        Self { brokers: brokers.to_owned(), properties: Vec::new() }
    }

    /// Adds a librdkafka property to everything that this client makes.
    pub fn with(mut self, key: &str, value: &str) -> Self {
        self.properties.push((key.to_owned(), value.to_owned()));
        self
    }

    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    /// Checks once, quickly, whether Kafka is ready: it answers with metadata, and its controller would create a topic.
    pub fn probe(&self) -> Result<()> {
        let bound = Duration::from_secs(2);
        let admin = self.admin()?;
        let metadata = admin.inner().fetch_metadata(None, bound)?;
        ensure!(!metadata.brokers().is_empty(), "no broker is registered");
        let topic = NewTopic::new("probe", 1, TopicReplication::Fixed(1));
        let options = AdminOptions::new().validate_only(true).request_timeout(Some(bound));
        settle(futures::executor::block_on(admin.create_topics([&topic], &options))?)
    }

    pub fn create_topic(&self, name: &str, partitions: i32) -> Result<()> {
        self.create_topic_with(name, partitions, &[])
    }

    /// Creates a topic with configuration such as `cleanup.policy`, and returns when it can be written to.
    pub fn create_topic_with(&self, name: &str, partitions: i32, settings: &[(&str, &str)]) -> Result<()> {
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        for (key, value) in settings {
            topic = topic.set(key, value);
        }
        self.create(&topic)
    }

    /// Creates a topic whose partitions have their replicas on these brokers.
    pub fn create_topic_on(&self, name: &str, replicas: &[&[i32]]) -> Result<()> {
        self.create(&NewTopic::new(name, replicas.len() as i32, TopicReplication::Variable(replicas)))
    }

    fn create(&self, topic: &NewTopic<'_>) -> Result<()> {
        let (name, partitions) = (topic.name, topic.num_partitions);
        let admin = self.admin()?;
        let options = AdminOptions::new().operation_timeout(Some(BOUND));
        settle(futures::executor::block_on(admin.create_topics([topic], &options))?)?;
        crate::process::wait_for(&format!("topic {name} to have leaders"), BOUND, || {
            let metadata = admin.inner().fetch_metadata(Some(name), BOUND)?;
            let ready = metadata.topics().iter().any(|topic| {
                topic.error().is_none()
                    && topic.partitions().len() == partitions as usize
                    && topic.partitions().iter().all(|p| p.leader() >= 0)
            });
            Ok(ready.then_some(()))
        })
    }

    /// Produces to one topic and waits until the broker has acknowledged every record, in the order given.
    pub fn produce(&self, topic: &str, messages: impl IntoIterator<Item = Message>) -> Result<Vec<Produced>> {
        let mut stream = self.producer(topic)?;
        for message in messages {
            stream.send(&message)?;
        }
        stream.finish()
    }

    /// A producer for records that are produced one by one.
    pub fn producer(&self, topic: &str) -> Result<ProducerStream> {
        self.lingering_producer(topic, Duration::from_millis(5))
    }

    /// One that waits for as long for more records before it sends a batch.
    pub fn lingering_producer(&self, topic: &str, linger: Duration) -> Result<ProducerStream> {
        let topic: Arc<str> = topic.into();
        let acks = Acks { topic: topic.clone(), done: Mutex::default() };
        let producer = self
            .config()
            .set("enable.idempotence", "true")
            .set("linger.ms", linger.as_millis().to_string())
            .set("message.max.bytes", (32 << 20).to_string())
            .set("queue.buffering.max.kbytes", "262144")
            .set("compression.type", "none")
            .create_with_context(acks)?;
        Ok(ProducerStream { producer, name: CString::new(&*topic)?, sent: Vec::new() })
    }

    /// Every record of the topic from the beginning to the end that it has now, a partition after the other.
    pub fn read_all(&self, topic: &str) -> Result<Vec<(u32, u64, Message)>> {
        let ends = self.end_offsets(topic)?;
        // The markers of transactions take offsets, too, so the last offset may not be that of a record.
        let consumer: BaseConsumer =
            self.config().set("group.id", "testbed-reader").set("enable.partition.eof", "true").create()?;
        let mut records = Vec::new();
        for (partition, end) in ends.into_iter().filter(|&(_, end)| end > 0) {
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(topic, partition as i32, Offset::Beginning)?;
            consumer.assign(&list)?;
            let mut since = Instant::now();
            loop {
                // The consumer recovers by itself from an error such as a broken connection.
                let message = match consumer.poll(Duration::from_secs(1)) {
                    Some(Ok(message)) => message,
                    Some(Err(KafkaError::PartitionEOF(of))) if of == partition as i32 => break,
                    None | Some(Err(_)) if since.elapsed() < BOUND => continue,
                    None => bail!("partition {partition} of {topic} delivers no more"),
                    Some(Err(error)) => return Err(error.into()),
                };
                since = Instant::now();
                let offset = message.offset() as u64;
                records.push((partition, offset, copy(&message)));
                if offset + 1 >= end {
                    break;
                }
            }
        }
        Ok(records)
    }

    /// The offset that the next record of each partition will get.
    pub fn end_offsets(&self, topic: &str) -> Result<Vec<(u32, u64)>> {
        self.group("testbed-reader")?.end_offsets(topic)
    }

    /// Looks at a consumer group without joining it.
    pub fn group(&self, group: &str) -> Result<Group> {
        Ok(Group { consumer: self.config().set("group.id", group).set("enable.auto.commit", "false").create()? })
    }

    /// Sets where a group without members begins to read.
    pub fn commit(&self, group: &str, topic: &str, offsets: &[(u32, u64)]) -> Result<()> {
        let consumer: BaseConsumer = self.config().set("group.id", group).create()?;
        let mut list = TopicPartitionList::new();
        for (partition, offset) in offsets {
            list.add_partition_offset(topic, *partition as i32, Offset::Offset(*offset as i64))?;
        }
        // The first commit of a new cluster makes it create the topic of the commits.
        wait_for("the group's coordinator", BOUND, || match consumer.commit(&list, CommitMode::Sync) {
            Err(error) if is_coordinator_away(&error) => Ok(None),
            done => Ok(Some(done?)),
        })
    }

    pub fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers);
        for (key, value) in &self.properties {
            config.set(key, value);
        }
        config
    }

    pub fn admin(&self) -> Result<AdminClient<DefaultClientContext>> {
        Ok(self.config().create()?)
    }
}

fn is_coordinator_away(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{CoordinatorLoadInProgress, CoordinatorNotAvailable, NotCoordinator};
    matches!(error.rdkafka_error_code(), Some(CoordinatorLoadInProgress | CoordinatorNotAvailable | NotCoordinator))
}

/// What a consumer group has committed.
pub struct Group {
    consumer: BaseConsumer,
}

impl Group {
    /// The committed offset (the next to read) of each partition that has one.
    pub fn committed(&self, topic: &str) -> Result<Vec<(u32, u64)>> {
        let mut list = TopicPartitionList::new();
        for partition in self.partitions(topic)? {
            list.add_partition(topic, partition);
        }
        let committed = wait_for("the group's coordinator", BOUND, || {
            match self.consumer.committed_offsets(list.clone(), BOUND) {
                // A Kafka that has just been started hasn't loaded the groups yet.
                Err(error) if is_coordinator_away(&error) => Ok(None),
                answer => Ok(Some(answer?)),
            }
        })?;
        let offsets = committed.elements().into_iter().filter_map(|element| match element.offset() {
            Offset::Offset(offset) => Some((element.partition() as u32, offset as u64)),
            _ => None,
        });
        Ok(offsets.collect())
    }

    /// The offset that the next record of each partition will get.
    pub fn end_offsets(&self, topic: &str) -> Result<Vec<(u32, u64)>> {
        let ends = self.partitions(topic)?.into_iter().map(|partition| {
            // While another broker begins to lead, the answer is an error.
            let end = wait_for("the end of a partition", BOUND, || {
                match self.consumer.fetch_watermarks(topic, partition, BOUND) {
                    Ok((_, end)) => Ok(Some(end)),
                    Err(error) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::NotLeaderForPartition) => {
                        Ok(None)
                    }
                    Err(error) => Err(error.into()),
                }
            })?;
            Ok((partition as u32, end as u64))
        });
        ends.collect()
    }

    /// Where each partition begins and ends now.
    pub fn bounds(&self, topic: &str) -> Result<Vec<(u32, Range<u64>)>> {
        let bounds = self.partitions(topic)?.into_iter().map(|partition| {
            let (start, end) = self.consumer.fetch_watermarks(topic, partition, BOUND)?;
            Ok((partition as u32, start as u64..end as u64))
        });
        bounds.collect()
    }

    /// How many records the topic holds that the group hasn't committed.
    pub fn lag(&self, topic: &str) -> Result<u64> {
        self.lag_within(topic, &self.bounds(topic)?)
    }

    /// How many of the records within these bounds the group hasn't committed.
    pub fn lag_within(&self, topic: &str, bounds: &[(u32, Range<u64>)]) -> Result<u64> {
        let committed: BTreeMap<u32, u64> = self.committed(topic)?.into_iter().collect();
        let lag = |(partition, bounds): &(u32, Range<u64>)| {
            bounds.end.saturating_sub(committed.get(partition).copied().unwrap_or(bounds.start))
        };
        Ok(bounds.iter().map(lag).sum())
    }

    /// The topic's partitions. If there are none, that is an error, because a broker that is just starting may not know
    /// its topics yet.
    fn partitions(&self, topic: &str) -> Result<Vec<i32>> {
        let metadata = self.consumer.fetch_metadata(Some(topic), BOUND)?;
        let found = metadata.topics().iter().find(|t| t.name() == topic).context("no such topic")?;
        ensure!(found.error().is_none() && !found.partitions().is_empty(), "topic {topic} isn't ready");
        Ok(found.partitions().iter().map(|p| p.id()).collect())
    }
}

/// A producer that is sending. A record counts as produced only when `finish` has returned it.
pub struct ProducerStream {
    producer: BaseProducer<Acks>,
    name: CString,
    sent: Vec<(usize, [u8; 32])>,
}

impl ProducerStream {
    /// Sends a record; waits while librdkafka's queue is full.
    pub fn send(&mut self, message: &Message) -> Result<()> {
        let payload = message.payload.as_deref().unwrap_or_default();
        self.sent.push((payload.len(), Sha256::digest(payload).into()));
        let id = self.sent.len() - 1;
        let start = Instant::now();
        loop {
            match enqueue(&self.producer, &self.name, message, id) {
                ErrorCode::RD_KAFKA_RESP_ERR_NO_ERROR => break,
                ErrorCode::RD_KAFKA_RESP_ERR__QUEUE_FULL if start.elapsed() < 4 * BOUND => {
                    self.producer.poll(Duration::from_millis(10));
                }
                error => bail!("can't produce: {:?}", RDKafkaErrorCode::from(error)),
            }
        }
        self.producer.poll(Duration::ZERO);
        Ok(())
    }

    /// Waits for the missing acknowledgements, and returns all of them in the order in which the records were sent.
    pub fn finish(self) -> Result<Vec<Produced>> {
        self.producer.flush(4 * BOUND)?;
        let acks = self.producer.context();
        let mut done = std::mem::take(&mut *acks.done.lock().expect("no thread panics holding the lock"));
        ensure!(done.len() == self.sent.len(), "{} records sent, {} acknowledged", self.sent.len(), done.len());
        done.sort_unstable_by_key(|(id, _)| *id);
        let produced = done.into_iter().zip(&self.sent).map(|((_, ack), &(size, sha256))| {
            let (partition, offset) = ack.map_err(|error| anyhow!("a record wasn't acknowledged: {error}"))?;
            Ok(Produced { topic: acks.topic.clone(), partition, offset, size, sha256 })
        });
        produced.collect()
    }
}

struct Acks {
    topic: Arc<str>,
    #[expect(clippy::type_complexity, reason = "the record's number, and where it is or why not")]
    done: Mutex<Vec<(usize, Result<(u32, u64), String>)>>,
}

impl ClientContext for Acks {}

impl ProducerContext for Acks {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, id: usize) {
        let result = match result {
            Ok(message) => Ok((message.partition() as u32, message.offset() as u64)),
            Err((error, _)) => Err(error.to_string()),
        };
        self.done.lock().expect("no thread panics holding the lock").push((id, result));
    }
}

/// Passes a record to librdkafka directly, because rdkafka accepts header keys only as `&str`.
fn enqueue(producer: &BaseProducer<Acks>, topic: &CString, message: &Message, id: usize) -> ErrorCode {
    fn parts(bytes: Option<&Bytes>) -> (*mut libc::c_void, usize) {
        bytes.map_or((ptr::null_mut(), 0), |b| (b.as_ptr().cast_mut().cast(), b.len()))
    }
    let (payload, payload_len) = parts(message.payload.as_ref());
    let (key, key_len) = parts(message.key.as_ref());
    // SAFETY: every pointer outlives the call, which copies the key and the payload (F_COPY); the headers belong to
    // librdkafka once it took the record and are freed here otherwise.
    unsafe {
        let headers = native::rd_kafka_headers_new(message.headers.len());
        for (name, value) in &message.headers {
            let (value, value_len) = parts(value.as_ref());
            native::rd_kafka_header_add(headers, name.as_ptr().cast(), name.len() as isize, value, value_len as isize);
        }
        let error = native::rd_kafka_producev(
            producer.client().native_ptr(),
            Part::RD_KAFKA_VTYPE_TOPIC,
            topic.as_ptr(),
            Part::RD_KAFKA_VTYPE_PARTITION,
            message.partition.unwrap_or(-1),
            Part::RD_KAFKA_VTYPE_MSGFLAGS,
            native::RD_KAFKA_MSG_F_COPY,
            Part::RD_KAFKA_VTYPE_VALUE,
            payload,
            payload_len,
            Part::RD_KAFKA_VTYPE_KEY,
            key,
            key_len,
            Part::RD_KAFKA_VTYPE_OPAQUE,
            id as *mut libc::c_void,
            Part::RD_KAFKA_VTYPE_TIMESTAMP,
            message.timestamp_ms.unwrap_or(0),
            Part::RD_KAFKA_VTYPE_HEADERS,
            headers,
            Part::RD_KAFKA_VTYPE_END,
        );
        if error != ErrorCode::RD_KAFKA_RESP_ERR_NO_ERROR {
            native::rd_kafka_headers_destroy(headers);
        }
        error
    }
}

/// Copies a message. Its headers are read from librdkafka directly, because rdkafka panics on header keys that aren't
/// UTF-8.
fn copy(message: &BorrowedMessage<'_>) -> Message {
    let bytes = |slice: &[u8]| Bytes::copy_from_slice(slice);
    let mut headers = Vec::new();
    // SAFETY: the message owns its headers and outlives this function; names end with a zero byte. librdkafka puts a value
    // behind its name, so that the distance tells the length of a name with a zero byte in it.
    unsafe {
        let (mut list, mut at) = (ptr::null_mut(), 0);
        if native::rd_kafka_message_headers(message.ptr(), &mut list) == ErrorCode::RD_KAFKA_RESP_ERR_NO_ERROR {
            let (mut name, mut value, mut len) = (ptr::null(), ptr::null(), 0);
            while native::rd_kafka_header_get_all(list, at, &mut name, &mut value, &mut len)
                == ErrorCode::RD_KAFKA_RESP_ERR_NO_ERROR
            {
                let key = match value.is_null() {
                    true => bytes(CStr::from_ptr(name).to_bytes()),
                    false => bytes(std::slice::from_raw_parts(name.cast(), value.addr() - name.addr() - 1)),
                };
                let value = (!value.is_null()).then(|| bytes(std::slice::from_raw_parts(value.cast(), len)));
                headers.push((key, value));
                at += 1;
            }
        }
    }
    Message {
        partition: Some(message.partition()),
        key: message.key().map(bytes),
        payload: message.payload().map(bytes),
        headers,
        timestamp_ms: message.timestamp().to_millis(),
    }
}

fn settle(results: Vec<rdkafka::admin::TopicResult>) -> Result<()> {
    for result in results {
        result.map_err(|(topic, error)| anyhow!("topic {topic}: {error}"))?;
    }
    Ok(())
}
