//! The producer of dead letters.
//!
//! Guarantees: every byte of key, headers and payload arrives as it was, header keys that aren't UTF-8 included (the safe
//! wrapper of `rdkafka` 0.39 takes text only); each letter that was taken is answered once; within a producer's life
//! librdkafka's own retries write nothing twice.

use std::ffi::CString;
use std::ptr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rdkafka::bindings::{self as ffi, rd_kafka_resp_err_t as Code, rd_kafka_vtype_t as Part};
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, Producer as _, ProducerContext, PurgeConfig};
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};
use tracing::debug;

use crate::config;
use crate::dead_letter;
use crate::record::OutputRecord;
use crate::source::{SourceError, check};

const BROKER_TIMEOUT: Duration = Duration::from_secs(5);

pub struct Producer {
    producer: BaseProducer<Deliveries>,
    topic: String,
    native_topic: CString,
}

/// What became of a letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Kept,
    Failed {
        /// `None`: it was taken back.
        reason: Option<String>,
        /// A request carried it, and no answer says what came of that.
        perhaps_kept: bool,
    },
}

/// Why a letter wasn't taken.
pub enum Refused {
    QueueFull,
    Other(String),
}

impl Producer {
    pub fn new(config: &config::Kafka, topic: &str) -> Result<Self, SourceError> {
        let producer = client_config(config)
            .create_with_context(Deliveries::default())
            .map_err(|error| SourceError::Configuration(check::told(&error)))?;
        let native_topic = CString::new(topic).map_err(|error| SourceError::Configuration(error.to_string()))?;
        Ok(Self { producer, topic: topic.to_owned(), native_topic })
    }

    /// How many partitions the topic has. Brokers that create topics by themselves create it on being asked.
    pub fn partitions(&self) -> Result<u32, String> {
        let metadata = self.producer.client().fetch_metadata(Some(&self.topic), BROKER_TIMEOUT);
        let metadata = metadata.map_err(|error| check::told(&error))?;
        let found = metadata.topics().iter().find(|topic| topic.name() == self.topic);
        match found.map(|topic| (topic.error(), topic.partitions().len())) {
            Some((None, count @ 1..)) => u32::try_from(count).map_err(|error| error.to_string()),
            Some((Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED), _)) => {
                Err("we may not see it; allow the principal DESCRIBE, READ and WRITE on this topic".into())
            }
            Some((Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE), _)) => {
                Err("it has no leader yet".into())
            }
            _ => Err("there is no such topic; create it, or mend dead_letters.topic".into()),
        }
    }

    /// Hands a copy over; the answer comes by [`Self::poll`] under `id`.
    #[expect(unsafe_code, reason = "the safe wrapper takes header keys as text only")]
    pub fn send(&self, letter: &OutputRecord, partition: u32, id: usize) -> Result<(), Refused> {
        let parts = |bytes: Option<&[u8]>| bytes.map_or((ptr::null(), 0), |bytes| (bytes.as_ptr(), bytes.len()));
        let ours = dead_letter::headers(letter);
        let own = letter.input.headers.iter().map(|header| (&header.key[..], header.value.as_deref()));
        let headers = own.chain(ours.iter().map(|(key, value)| (key.as_bytes(), Some(value.as_bytes()))));
        // SAFETY: makes a list that is either handed over with the message or destroyed below.
        let list = unsafe { ffi::rd_kafka_headers_new(letter.input.headers.len() + ours.len()) };
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
                ptr::without_provenance::<u8>(id),
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

    /// The answers that came, and those that come within `wait`.
    pub fn poll(&self, wait: Duration) -> Vec<(usize, Outcome)> {
        self.producer.poll(wait);
        std::mem::take(&mut *self.producer.context().0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What isn't in a request comes back.
    pub fn empty_queue(&self) {
        self.producer.purge(PurgeConfig::default().queue());
    }

    /// Everything comes back.
    pub fn give_all_back(&self) {
        self.producer.purge(PurgeConfig::default().queue().inflight());
    }

    /// Whether it can't go on, because the brokers don't know its sequence any more.
    pub fn is_broken(&self) -> bool {
        self.producer.client().fatal_error().is_some()
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
fn client_config(config: &config::Kafka) -> ClientConfig {
    let mut client = ClientConfig::new();
    client
        .set("client.id", "reduct-sink")
        .set("linger.ms", "5")
        .set("socket.keepalive.enable", "true")
        // The topic's own limit decides.
        .set("message.max.bytes", "1000000000");
    let for_all = |name: &&String| !CONSUMERS_ONLY.iter().any(|prefix| name.starts_with(prefix));
    for name in config.properties.keys().filter(for_all) {
        if let Some(value) = config.properties.get(name) {
            client.set(name, value);
        }
    }
    client
        .set("bootstrap.servers", &config.brokers)
        .set("enable.idempotence", "true")
        // librdkafka goes on trying by itself: what it gives up may have been written.
        .set("message.timeout.ms", "0");
    client
}

/// Collects the answers.
#[derive(Default)]
struct Deliveries(Mutex<Vec<(usize, Outcome)>>);

impl ClientContext for Deliveries {
    /// What matters comes with a letter's answer; the rest is for `--log-level debug`.
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        debug!(target: "librdkafka", facility, "{message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        debug!(target: "librdkafka", %error, "{reason}");
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    #[expect(unsafe_code, reason = "rdkafka doesn't tell whether a letter that failed may have been written")]
    fn delivery(&self, result: &DeliveryResult<'_>, id: usize) {
        let outcome = match result {
            Ok(_) => Outcome::Kept,
            Err((error, message)) => {
                // SAFETY: the message is alive for as long as it is borrowed.
                let status = unsafe { ffi::rd_kafka_message_status(message.ptr()) };
                let taken_back = matches!(
                    error.rdkafka_error_code(),
                    Some(RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight)
                );
                Outcome::Failed {
                    reason: (!taken_back).then(|| check::told(error)),
                    perhaps_kept: status != ffi::rd_kafka_msg_status_t::RD_KAFKA_MSG_STATUS_NOT_PERSISTED,
                }
            }
        };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((id, outcome));
    }
}
