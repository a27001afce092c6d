//! Asks Kafka for what `check` wants to know, without joining the group and without reading a record.
//!
//! Guarantees: no topic is created by asking for it; no message shows a password; an unreachable broker is told of in
//! librdkafka's own words, within [`PATIENCE`].

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::Metadata;
use rdkafka::types::RDKafkaRespErr;
use regex::Regex;
use thiserror::Error;
use tracing::warn;

use crate::config;

/// How long to wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to go on after a first failure: a host's name may have another address that answers.
const PATIENCE_AFTER_ERROR: Duration = Duration::from_secs(3);
/// How long one request may take before what librdkafka reported in the meantime is looked at.
const SLICE: Duration = Duration::from_millis(500);

/// A topic that would be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicInfo {
    pub name: String,
    pub partitions: usize,
}

/// What became of one topic or pattern of the configuration.
#[derive(Debug)]
pub struct TopicCheck {
    pub wanted: String,
    pub found: Result<Vec<TopicInfo>, TopicError>,
}

/// Why nothing can be known.
#[derive(Debug, Error)]
pub enum CheckError {
    #[error("librdkafka refuses the configuration: {0}; mend kafka.properties")]
    Property(String),
    #[error(
        "{brokers} can't be reached: {reason}; check kafka.brokers, and that Kafka runs and can be reached from here"
    )]
    Unreachable { brokers: String, reason: String },
    #[error(
        "{brokers} refuses us: {reason}; check security.protocol, the SASL and the SSL settings in kafka.properties"
    )]
    Refused { brokers: String, reason: String },
    #[error("the dead letters in topic {topic} can't be read: {reason}; check dead_letters.topic")]
    Letters { topic: String, reason: String },
}

#[derive(Debug, Error)]
pub enum TopicError {
    #[error("there is no such topic; create it, or mend kafka.topics")]
    Missing,
    #[error("the pattern matches none of the {0} topics that we may see; mend kafka.topics, or create one")]
    NoMatch(usize),
    #[error("we may not read it; allow the principal DESCRIBE and READ on this topic")]
    Denied,
    #[error("{0}")]
    Other(String),
}

/// Looks up every configured topic and pattern.
pub fn check(config: &config::Kafka) -> Result<Vec<TopicCheck>, CheckError> {
    let consumer = consumer(config)?;
    let all = fetch(&consumer, None, &config.brokers)?;
    let topics = config.topics.iter().map(|wanted| TopicCheck {
        wanted: wanted.clone(),
        found: if wanted.starts_with('^') { matching(&all, wanted) } else { named(&consumer, config, wanted) },
    });
    Ok(topics.collect())
}

/// Waits until the brokers answer, and says which topics are missing; those may come yet. Tells how many partitions the
/// others have. An error: they refuse us, or it is time to stop.
pub fn wait_ready(config: &config::Kafka, stop: &AtomicBool) -> Result<usize, CheckError> {
    loop {
        match check(config) {
            Ok(topics) => {
                let mut partitions = 0;
                for TopicCheck { wanted, found } in topics {
                    match found {
                        Ok(found) => partitions += found.iter().map(|topic| topic.partitions).sum::<usize>(),
                        Err(error) => warn!(topic = wanted, "{error}; going on without it until then"),
                    }
                }
                return Ok(partitions);
            }
            Err(error @ CheckError::Unreachable { .. }) if !stop.load(Ordering::SeqCst) => {
                warn!("Kafka at {error}; waiting for it");
            }
            Err(error) => return Err(error),
        }
    }
}

/// Looks one topic up, whether it is configured or not.
pub fn topic(config: &config::Kafka, name: &str) -> Result<Result<TopicInfo, TopicError>, CheckError> {
    let consumer = consumer(config)?;
    fetch(&consumer, None, &config.brokers)?;
    let info = |found: Vec<TopicInfo>| found.into_iter().next().ok_or(TopicError::Missing);
    Ok(named(&consumer, config, name).and_then(info))
}

/// How many members the consumer group has now.
pub fn members(config: &config::Kafka) -> Result<usize, CheckError> {
    let consumer = consumer(config)?;
    fetch(&consumer, None, &config.brokers)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match consumer.fetch_group_list(Some(&config.group), PATIENCE) {
            Ok(groups) => return Ok(groups.groups().iter().map(|group| group.members().len()).sum()),
            // Right after the brokers' start the group may have no coordinator.
            Err(_) if Instant::now() < deadline => std::thread::sleep(SLICE),
            Err(error) => {
                return Err(CheckError::Unreachable { brokers: config.brokers.clone(), reason: told(&error) });
            }
        }
    }
}

fn consumer(config: &config::Kafka) -> Result<BaseConsumer<Reports>, CheckError> {
    let consumer = client_config(config).create_with_context(Reports::default());
    consumer.map_err(|error| CheckError::Property(told(&error)))
}

/// As the source's, but without a group: nothing is joined, and closing can't hang on one.
fn client_config(config: &config::Kafka) -> ClientConfig {
    let mut client = super::client::client_config(config);
    client.remove("group.id");
    client.set("allow.auto.create.topics", "false");
    client
}

fn matching(all: &Metadata, pattern: &str) -> Result<Vec<TopicInfo>, TopicError> {
    let regex = Regex::new(pattern).map_err(|error| TopicError::Other(error.to_string()))?;
    let matches: Vec<_> = all
        .topics()
        .iter()
        .filter(|topic| topic.error().is_none() && regex.is_match(topic.name()))
        .map(|topic| TopicInfo { name: topic.name().into(), partitions: topic.partitions().len() })
        .collect();
    if matches.is_empty() { Err(TopicError::NoMatch(all.topics().len())) } else { Ok(matches) }
}

/// Asks for the one topic, because the list of all hides those that we may not see.
fn named(consumer: &BaseConsumer<Reports>, config: &config::Kafka, name: &str) -> Result<Vec<TopicInfo>, TopicError> {
    let metadata =
        fetch(consumer, Some(name), &config.brokers).map_err(|error| TopicError::Other(error.to_string()))?;
    let topic = metadata.topics().iter().find(|topic| topic.name() == name).ok_or(TopicError::Missing)?;
    match topic.error() {
        None => Ok(vec![TopicInfo { name: name.into(), partitions: topic.partitions().len() }]),
        Some(
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART | RDKafkaRespErr::RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC,
        ) => Err(TopicError::Missing),
        Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED) => Err(TopicError::Denied),
        Some(error) => Err(TopicError::Other(RDKafkaErrorCode::from(error).to_string())),
    }
}

/// Metadata of one topic or of all. Between the attempts librdkafka's reports are collected: they, and not the
/// request's "broker transport failure", say what is wrong.
fn fetch(consumer: &BaseConsumer<Reports>, topic: Option<&str>, brokers: &str) -> Result<Metadata, CheckError> {
    let mut deadline = Instant::now() + PATIENCE;
    loop {
        let error = match consumer.fetch_metadata(topic, SLICE) {
            Ok(metadata) => return Ok(metadata),
            Err(error) => error,
        };
        // Only serves the callbacks: without a subscription there is nothing to receive.
        while consumer.poll(Duration::ZERO).is_some() {}
        let reports = consumer.context().take();
        let brokers = || brokers.to_owned();
        if let Some((_, reason)) = reports.iter().find(|(code, _)| is_refusal(*code)) {
            return Err(CheckError::Refused { brokers: brokers(), reason: reason.clone() });
        }
        if !reports.is_empty() {
            deadline = deadline.min(Instant::now() + PATIENCE_AFTER_ERROR);
        }
        if Instant::now() >= deadline {
            let reason = consumer.context().last_reason().unwrap_or_else(|| told(&error));
            return Err(CheckError::Unreachable { brokers: brokers(), reason });
        }
        std::thread::sleep(SLICE / 5);
    }
}

fn is_refusal(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::Authentication
            | RDKafkaErrorCode::SaslAuthenticationFailed
            | RDKafkaErrorCode::SSL
            | RDKafkaErrorCode::ClusterAuthorizationFailed
            | RDKafkaErrorCode::UnsupportedSASLMechanism
    )
}

/// An error's words. rdkafka would add the property's value, which may be a password; librdkafka's own reason shows only
/// values that it tried to understand, as a number or one of a few words.
pub fn told(error: &KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(_, reason, _, _) => reason.clone(),
        error => error.rdkafka_error_code().map_or_else(|| error.to_string(), |code| code.to_string()),
    }
}

/// Collects what librdkafka reports on the side.
#[derive(Default)]
struct Reports {
    new: Mutex<Vec<(RDKafkaErrorCode, String)>>,
    last: Mutex<Option<String>>,
}

impl Reports {
    fn take(&self) -> Vec<(RDKafkaErrorCode, String)> {
        std::mem::take(&mut *self.new.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn last_reason(&self) -> Option<String> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ClientContext for Reports {
    /// What matters comes as an error too; the rest is for `--log-level debug`.
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(facility, message, "librdkafka");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
        // "1/1 brokers are down" says less than what came before it.
        if code != RDKafkaErrorCode::AllBrokersDown {
            *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.into());
        }
        self.new.lock().unwrap_or_else(PoisonError::into_inner).push((code, reason.into()));
    }
}

impl ConsumerContext for Reports {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rdkafka::mocking::MockCluster;

    use super::*;
    use crate::config::{Kafka, StartPolicy};

    fn kafka(brokers: &str, topics: &[&str], properties: &[(&str, &str)]) -> Kafka {
        Kafka {
            brokers: brokers.into(),
            topics: topics.iter().map(ToString::to_string).collect(),
            group: "group".into(),
            start: StartPolicy::Earliest,
            properties: properties.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect::<BTreeMap<_, _>>(),
        }
    }

    #[test]
    fn topics_and_patterns_are_looked_up_and_none_is_created() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("camera", 1, 1).unwrap();
        cluster.create_topic("sensor-a", 2, 1).unwrap();
        cluster.create_topic("sensor-b", 3, 1).unwrap();
        let wanted = ["camera", "nowhere", "^sensor-.*", "^lidar"];
        for _ in 0..2 {
            let config = kafka(&cluster.bootstrap_servers(), &wanted, &[("allow.auto.create.topics", "true")]);
            let found = check(&config).unwrap();
            let info = |name: &str, partitions| TopicInfo { name: name.into(), partitions };
            assert_eq!(found[0].found.as_ref().unwrap(), &[info("camera", 1)]);
            assert!(matches!(found[1].found, Err(TopicError::Missing)), "{:?}", found[1]);
            let mut sensors = found[2].found.as_ref().unwrap().clone();
            sensors.sort_by(|a, b| a.name.cmp(&b.name));
            assert_eq!(sensors, [info("sensor-a", 2), info("sensor-b", 3)]);
            assert!(matches!(found[3].found, Err(TopicError::NoMatch(3))), "{:?}", found[3]);
        }
    }

    #[test]
    fn an_unreachable_broker_is_told_of_in_librdkafkas_words() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        match check(&kafka(&address, &["camera"], &[])) {
            Err(CheckError::Unreachable { reason, .. }) => assert!(reason.contains("Connection refused"), "{reason}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_property_that_is_not_there_is_told_without_its_value() {
        match check(&kafka("127.0.0.1:1", &["camera"], &[("sasl.pasword", "geheim")])) {
            Err(error @ CheckError::Property(_)) => {
                let told = error.to_string();
                assert!(told.contains("sasl.pasword") && !told.contains("geheim"), "{told}");
            }
            other => panic!("{other:?}"),
        }
    }
}
