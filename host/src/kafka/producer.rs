//! The producer of dead letters.
//!
//! Guarantees: every byte of key, headers and payload arrives as it was, header keys that aren't UTF-8 included (the safe
//! wrapper of `rdkafka` 0.39 takes text only); a commit answers for all letters since its begin, or none of them counts;
//! after [`Producer::init`] no earlier producer of the same transactional id can write any more.

use std::ffi::CString;
use std::ptr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::bindings::{self as ffi, rd_kafka_resp_err_t as Code, rd_kafka_vtype_t as Part};
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::{BaseProducer, Producer as _, ProducerContext};
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};
use tracing::debug;

use super::admin::{self, Edge};
use super::client::{self, ANSWER, Reports, TRANSACTION};
use super::error::KafkaCheckError;
use crate::config;
use crate::record::{OutputRecord, TopicPartition};

const BROKER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait between two questions for what can be seen: the markers of a transaction take about a millisecond.
const VISIBLE_AGAIN: Duration = Duration::from_millis(5);

/// A transactional producer.
pub struct Producer {
    producer: BaseProducer<Deliveries>,
    topic: String,
    native_topic: CString,
}

/// Why a letter wasn't taken.
pub enum Refused {
    /// The client's queue is full; a later call may succeed.
    QueueFull,
    /// Another reason, as the client tells it.
    Other(String),
}

impl Producer {
    /// Nothing is asked of Kafka yet.
    pub fn transactional(config: &config::Kafka, topic: &str, id: &str) -> Result<Self, KafkaCheckError> {
        let producer = client_config(config, id)
            .create_with_context(Deliveries::default())
            .map_err(|error| KafkaCheckError::Property(client::told(&error)))?;
        let native_topic = CString::new(topic).map_err(|error| KafkaCheckError::Property(error.to_string()))?;
        Ok(Self { producer, topic: topic.to_owned(), native_topic })
    }

    /// Shuts out the previous user of the transactional id, and ends what it began.
    pub fn init(&self) -> Result<(), String> {
        self.producer.init_transactions(TRANSACTION).map_err(|error| match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::TransactionalIdAuthorizationFailed) => {
                "we may not use transactions; allow the principal DESCRIBE and WRITE on the transactional ids that \
                 begin with \"reduct-sink/\""
                    .into()
            }
            _ => client::told(&error),
        })
    }

    /// Begins a transaction.
    pub fn begin_transaction(&self) -> Result<(), String> {
        self.producer.begin_transaction().map_err(|error| client::told(&error))
    }

    /// Makes everything since the begin count; answers with the letters' offsets and where each stands in the topic.
    pub fn commit(&self) -> Result<Vec<(u64, u64)>, String> {
        self.flush()?;
        let kept = self.deliveries()?;
        self.producer.commit_transaction(TRANSACTION).map_err(|error| client::told(&error))?;
        Ok(kept)
    }

    /// Makes nothing since the begin count, once the brokers have all of it.
    pub fn abort(&self) -> Result<(), String> {
        self.flush()?;
        self.deliveries()?;
        self.producer.abort_transaction(TRANSACTION).map_err(|error| client::told(&error))
    }

    /// Waits until a reader of committed records can see an offset of the topic, which no open transaction hides then.
    pub fn wait_visible(&self, partition: u32, offset: u64, patience: Duration) -> Result<(), String> {
        let place = TopicPartition { topic: self.topic.as_str().into(), partition };
        let asked = Instant::now();
        loop {
            let answers = admin::offsets(self.producer.client(), std::slice::from_ref(&place), Edge::End, ANSWER);
            match answers.map_err(|error| error.reason)?.remove(&place) {
                Some(Ok(end)) if end > offset => return Ok(()),
                Some(Err(code)) if asked.elapsed() > patience => return Err(code.to_string()),
                _ if asked.elapsed() > patience => {
                    return Err(format!("an open transaction hides offset {offset} of {place}"));
                }
                _ => std::thread::sleep(VISIBLE_AGAIN),
            }
        }
    }

    /// Waits until the brokers have answered for every letter.
    pub fn flush(&self) -> Result<(), String> {
        let flushed = self.producer.flush(TRANSACTION);
        // A refused letter says more than the time that ran out.
        let mut deliveries = self.producer.context().0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = deliveries.iter().position(Result::is_err)
            && let Err(reason) = deliveries.swap_remove(at)
        {
            return Err(reason);
        }
        flushed.map_err(|error| client::told(&error))
    }

    fn deliveries(&self) -> Result<Vec<(u64, u64)>, String> {
        let mut deliveries = self.producer.context().0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *deliveries).into_iter().collect()
    }

    /// How many partitions the topic has. Brokers that create topics by themselves create it on being asked.
    pub fn partitions(&self) -> Result<u32, String> {
        let metadata = self.producer.client().fetch_metadata(Some(&self.topic), BROKER_TIMEOUT);
        let metadata = metadata.map_err(|error| client::told(&error))?;
        let found = metadata.topics().iter().find(|topic| topic.name() == self.topic);
        match found.map(|topic| (topic.error(), topic.partitions().len())) {
            Some((None, count @ 1..)) => u32::try_from(count).map_err(|error| error.to_string()),
            Some((Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED), _)) => {
                Err("we may not see it; allow the principal DESCRIBE, READ and WRITE on this topic".into())
            }
            Some((Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE), _)) => {
                Err("it has no leader yet".into())
            }
            _ => Err("there is no such topic; create it, or correct dead_letters.topic".into()),
        }
    }

    /// Hands a copy over, with further headers; [`Self::commit`] answers for it under the record's `offset`.
    #[expect(unsafe_code, reason = "the safe wrapper takes header keys as text only")]
    pub fn send(
        &self,
        letter: &OutputRecord,
        further: &[(&str, String)],
        partition: u32,
        offset: u64,
    ) -> Result<(), Refused> {
        let parts = |bytes: Option<&[u8]>| bytes.map_or((ptr::null(), 0), |bytes| (bytes.as_ptr(), bytes.len()));
        let own = letter.input.headers.iter().map(|header| (&header.key[..], header.value.as_deref()));
        let headers = own.chain(further.iter().map(|(key, value)| (key.as_bytes(), Some(value.as_bytes()))));
        // SAFETY: makes a list that is either handed over with the message or destroyed below.
        let list = unsafe { ffi::rd_kafka_headers_new(letter.input.headers.len() + further.len()) };
        for (key, value) in headers {
            let (value, size) = parts(value);
            // SAFETY: the list is ours; key and value are valid for their lengths, and are copied.
            let added = unsafe {
                ffi::rd_kafka_header_add(
                    list,
                    key.as_ptr().cast(),
                    key.len().cast_signed(),
                    value.cast(),
                    size.cast_signed(),
                )
            };
            if added != Code::RD_KAFKA_RESP_ERR_NO_ERROR {
                // SAFETY: the list is still ours, and isn't used after this.
                unsafe { ffi::rd_kafka_headers_destroy(list) };
                return Err(Refused::Other(RDKafkaErrorCode::from(added).to_string()));
            }
        }
        let (payload, payload_size) = parts(letter.input.payload.as_deref());
        let (key, key_size) = parts(letter.input.key.as_deref());
        // SAFETY: the client lives; each tag is followed by the arguments that librdkafka documents for it; key and payload
        // are valid for their lengths, and are copied (F_COPY); the list belongs to librdkafka where it answers no error.
        let answer = unsafe {
            ffi::rd_kafka_producev(
                self.producer.client().native_ptr(),
                Part::RD_KAFKA_VTYPE_TOPIC,
                self.native_topic.as_ptr(),
                Part::RD_KAFKA_VTYPE_PARTITION,
                partition.cast_signed(),
                Part::RD_KAFKA_VTYPE_MSGFLAGS,
                ffi::RD_KAFKA_MSG_F_COPY,
                Part::RD_KAFKA_VTYPE_KEY,
                key,
                key_size,
                Part::RD_KAFKA_VTYPE_VALUE,
                payload,
                payload_size,
                Part::RD_KAFKA_VTYPE_HEADERS,
                list,
                Part::RD_KAFKA_VTYPE_OPAQUE,
                ptr::without_provenance::<u8>(offset as usize),
                Part::RD_KAFKA_VTYPE_END,
            )
        };
        if answer == Code::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Ok(());
        }
        // SAFETY: librdkafka refused the message, so the list is still ours.
        unsafe { ffi::rd_kafka_headers_destroy(list) };
        Err(match RDKafkaErrorCode::from(answer) {
            RDKafkaErrorCode::QueueFull => Refused::QueueFull,
            code => Refused::Other(code.to_string()),
        })
    }
}

/// Properties that only consumers know; librdkafka would warn of each.
const CONSUMERS_ONLY: [&str; 11] = [
    "session.timeout.ms",
    "heartbeat.interval.ms",
    "max.poll.interval.ms",
    "coordinator.query.interval.ms",
    "partition.assignment.strategy",
    "isolation.level",
    "check.crcs",
    "group.",
    "fetch.",
    "queued.",
    "consume.",
];

/// The user's properties, and what makes an acknowledgement mean that the letter is safe.
fn client_config(config: &config::Kafka, transactional_id: &str) -> ClientConfig {
    let mut client = ClientConfig::new();
    client
        .set("client.id", "reduct-sink")
        .set("linger.ms", "5")
        .set("socket.keepalive.enable", "true")
        // The topic's own limit decides.
        .set("message.max.bytes", "1000000000");
    let for_all = |name: &&String| !CONSUMERS_ONLY.iter().any(|prefix| name.starts_with(prefix));
    for (name, value) in config.present_properties() {
        if for_all(&&name) {
            client.set(name, value);
        }
    }
    client
        .set("bootstrap.servers", &config.brokers)
        .set("transactional.id", transactional_id)
        .set("enable.idempotence", "true")
        .set("transaction.timeout.ms", TRANSACTION.as_millis().to_string())
        // What isn't answered by then is given up with its transaction.
        .set("message.timeout.ms", TRANSACTION.as_millis().to_string());
    client
}

/// Collects the answers: a record's offset and where its letter stands, or why it doesn't.
#[derive(Default)]
struct Deliveries(Mutex<Vec<Result<(u64, u64), String>>>);

impl ClientContext for Deliveries {
    // What matters comes with a dead letter's answer.
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        Reports::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        debug!(target: "librdkafka", %error, "{reason}");
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, offset: usize) {
        let answer = match result {
            Ok(message) => Ok((offset as u64, message.offset().max(0).cast_unsigned())),
            Err((error, _)) => Err(client::told(error)),
        };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(answer);
    }
}
