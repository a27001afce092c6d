//! Asks Kafka for what `check` and the start want to know, without joining the group.
//!
//! Guarantees: no topic is created by asking for it; no message shows a password; brokers that can't be reached are
//! reported in librdkafka's own words, within [`ANSWER`]; an error that the brokers give for one topic is an error of that
//! topic, never "no partitions".

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::metadata::Metadata;
use rdkafka::types::RDKafkaRespErr;
use regex::Regex;
use thiserror::Error;
use tracing::{info, warn};

use super::admin::{self, AskError, Edge};
use super::client::{ANSWER, Reports, is_refusal, reader, told};
use super::error::KafkaCheckError;
use super::group::{self, GroupError};
use super::scan::ScanReader;
use crate::config;
use crate::record::TopicPartition;

/// How long to go on after a first failure: a host's name may have another address that answers.
const AFTER_ERROR: Duration = Duration::from_secs(3);
/// How long one request may take before what librdkafka reported in the meantime is looked at.
const SLICE: Duration = Duration::from_millis(500);

/// A topic that would be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicInfo {
    /// The topic's name.
    pub name: String,
    /// How many partitions it has.
    pub partitions: usize,
}

/// What was found for one topic or pattern of the configuration.
#[derive(Debug)]
pub struct TopicCheck {
    /// As the configuration has it.
    pub wanted: String,
    /// The topics, or why there are none.
    pub found: Result<Vec<TopicInfo>, TopicError>,
}

/// Why a topic can't be read.
#[derive(Debug, Error)]
pub enum TopicError {
    /// The brokers don't know it.
    #[error("there is no such topic; create it, or correct kafka.topics")]
    Missing,
    /// The brokers don't know it, and know one that is called much the same.
    #[error("there is no such topic, did you mean {0}? Correct kafka.topics, or create the topic")]
    Misspelt(String),
    /// The pattern matches nothing.
    #[error("the pattern matches none of the {0} topics that we may see; correct kafka.topics, or create one")]
    NoMatch(usize),
    /// A right is missing.
    #[error("we may not read it; allow the principal DESCRIBE and READ on this topic")]
    Denied,
    /// Metadata comes, but a fetch gets no answer.
    #[error(
        "partition {partition} can't be read: its leader is at {leader}, and {reason}; the brokers name that address \
         themselves (advertised.listeners), so it has to be reachable from here"
    )]
    Leader {
        /// Of the topic.
        partition: u32,
        /// Where the brokers say that its leader listens.
        leader: String,
        /// In librdkafka's words.
        reason: String,
    },
    /// No broker leads it.
    #[error("partition {0} has no leader; a broker may be away")]
    NoLeader(u32),
    /// Anything else that the brokers say.
    #[error("{0}")]
    Other(String),
}

/// Looks up every configured topic and pattern.
pub fn check(config: &config::Kafka) -> Result<Vec<TopicCheck>, KafkaCheckError> {
    let consumer = reader(config)?;
    let all = fetch(&consumer, None, &config.brokers)?;
    let topics = config.topics.iter().map(|wanted| TopicCheck {
        wanted: wanted.clone(),
        found: match wanted.starts_with('^') {
            true => matching(&all, wanted),
            false => named(&consumer, config, wanted).map_err(|error| or_similar(error, &all, wanted)),
        },
    });
    Ok(topics.collect())
}

/// Looks up every configured topic and pattern, and tries to read: the rights are asked for, and each partition is
/// fetched from at its end, which brings no record but shows that its leader can be reached and lets us read.
pub fn check_reading(config: &config::Kafka) -> Result<Vec<TopicCheck>, KafkaCheckError> {
    let mut checks = check(config)?;
    let consumer = reader(config)?;
    fetch(&consumer, None, &config.brokers)?;
    for TopicCheck { found, .. } in &mut checks {
        let Ok(topics) = found else { continue };
        let wrong = topics.iter().find_map(|topic| may_read(&consumer, config, topic).err());
        if let Some(error) = wrong {
            *found = Err(error);
        }
    }
    Ok(checks)
}

/// Asks the group's coordinator whether we may join the group and commit in it.
pub fn check_group(config: &config::Kafka) -> Result<Result<(), GroupError>, KafkaCheckError> {
    let consumer = reader(config)?;
    fetch(&consumer, None, &config.brokers)?;
    Ok(group::may_use(consumer.client(), &config.group, ANSWER))
}

/// Waits until the brokers answer, and says which topics are missing; those may come yet. Answers with how many
/// partitions the others have. An error: they refuse us, or it is time to stop.
pub fn wait_ready(config: &config::Kafka, stop: &AtomicBool) -> Result<usize, KafkaCheckError> {
    let mut away: Option<Instant> = None;
    loop {
        match check(config) {
            Ok(topics) => {
                if let Some(since) = away {
                    info!(after_s = since.elapsed().as_secs(), "Kafka answers");
                }
                let mut partitions = 0;
                for TopicCheck { wanted, found } in topics {
                    match found {
                        Ok(found) => partitions += found.iter().map(|topic| topic.partitions).sum::<usize>(),
                        Err(error) => warn!(topic = wanted, "{error}; it is read as soon as it can be"),
                    }
                }
                return Ok(partitions);
            }
            Err(error @ KafkaCheckError::Unreachable { .. }) if !stop.load(Ordering::SeqCst) => {
                // Once: what is said at the beginning holds until the end is said.
                if away.is_none() {
                    away = Some(Instant::now());
                    warn!("{error}; waiting for it");
                }
            }
            Err(error) => return Err(error),
        }
    }
}

/// Looks one topic up, whether it is configured or not.
pub fn topic(config: &config::Kafka, name: &str) -> Result<Result<TopicInfo, TopicError>, KafkaCheckError> {
    let consumer = reader(config)?;
    fetch(&consumer, None, &config.brokers)?;
    let info = |found: Vec<TopicInfo>| found.into_iter().next().ok_or(TopicError::Missing);
    Ok(named(&consumer, config, name).and_then(info))
}

/// What the cluster calls itself. `None`: it doesn't say.
pub fn cluster_id(config: &config::Kafka) -> Result<Option<String>, KafkaCheckError> {
    let consumer = reader(config)?;
    fetch(&consumer, None, &config.brokers)?;
    Ok(consumer.client().fetch_cluster_id(ANSWER))
}

/// How many members the consumer group has now. Not for a running host.
pub fn members(config: &config::Kafka) -> Result<usize, KafkaCheckError> {
    count(config, |consumer| group::members(consumer.client(), &config.group, ANSWER))
}

/// How many members the consumer group of this running host has now.
pub fn members_beside(config: &config::Kafka) -> Result<usize, KafkaCheckError> {
    let deadline = Instant::now() + ANSWER;
    loop {
        match count(config, |consumer| group::members_beside(consumer, &config.group, ANSWER)) {
            // Right after the brokers' start the group may have no coordinator.
            Err(KafkaCheckError::Group { .. }) if Instant::now() < deadline => std::thread::sleep(SLICE),
            answer => return answer,
        }
    }
}

fn count(
    config: &config::Kafka,
    members: impl FnOnce(&BaseConsumer<Reports>) -> Result<usize, GroupError>,
) -> Result<usize, KafkaCheckError> {
    let consumer = reader(config)?;
    fetch(&consumer, None, &config.brokers)?;
    members(&consumer).map_err(|error| KafkaCheckError::Group { group: config.group.clone(), error })
}

/// How many partitions a topic has, from an answer that may carry an error for it.
pub fn partitions_of(metadata: &Metadata, name: &str) -> Result<usize, TopicError> {
    let topic = metadata.topics().iter().find(|topic| topic.name() == name).ok_or(TopicError::Missing)?;
    match topic.error() {
        None if topic.partitions().is_empty() => Err(TopicError::Other("the brokers name no partition of it".into())),
        None => Ok(topic.partitions().len()),
        Some(
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART | RDKafkaRespErr::RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC,
        ) => Err(TopicError::Missing),
        Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED) => Err(TopicError::Denied),
        Some(error) => Err(TopicError::Other(RDKafkaErrorCode::from(error).to_string())),
    }
}

fn may_read(consumer: &BaseConsumer<Reports>, config: &config::Kafka, topic: &TopicInfo) -> Result<(), TopicError> {
    let other = |reason: String| TopicError::Other(reason);
    // Brokers that are only reachable at their bootstrap address give no answer to this: the leaders below say why.
    let described = admin::describe_topics(consumer.client(), &[&topic.name], ANSWER / 2).unwrap_or_default();
    let mut leaders = BTreeMap::new();
    if let Some(described) = described.first() {
        if described.may_read == Some(false) {
            return Err(TopicError::Denied);
        }
        if let Some((partition, _)) = described.leaders.iter().find(|(_, leader)| leader.is_none()) {
            return Err(TopicError::NoLeader(*partition));
        }
        leaders.extend(described.leaders.iter().filter_map(|(number, leader)| Some((*number, leader.clone()?))));
    }
    let count = u32::try_from(topic.partitions).unwrap_or(u32::MAX);
    let name: std::sync::Arc<str> = topic.name.as_str().into();
    let sources: Vec<_> = (0..count).map(|partition| TopicPartition { topic: name.clone(), partition }).collect();
    let unreachable = |partition: u32, reason: String| TopicError::Leader {
        partition,
        leader: leaders.get(&partition).cloned().unwrap_or_else(|| advertised(consumer)),
        reason,
    };
    let answers = ends_of(consumer, &sources);
    let answers = answers.map_err(|error| unreachable(0, consumer.context().last_reason().unwrap_or(error.reason)))?;
    let mut ends = Vec::new();
    for source in sources {
        match answers.get(&source) {
            Some(Ok(end)) => ends.push((source, *end..end.saturating_add(1))),
            Some(Err(RDKafkaErrorCode::TopicAuthorizationFailed)) => return Err(TopicError::Denied),
            Some(Err(code)) => return Err(unreachable(source.partition, code.to_string())),
            None => return Err(unreachable(source.partition, "it does not answer".into())),
        }
    }
    let mut reader = ScanReader::new(config).map_err(|error| other(error.to_string()))?;
    reader.assign(ends).map_err(|error| other(error.to_string()))?;
    let deadline = Instant::now() + ANSWER;
    while !reader.is_done() {
        match reader.poll() {
            Err(error) if error.code == Some(RDKafkaErrorCode::TopicAuthorizationFailed) => {
                return Err(TopicError::Denied);
            }
            Err(error) => return Err(other(error.to_string())),
            Ok(_) if Instant::now() > deadline => {
                return Err(other(format!("a fetch gets no answer within {} s", ANSWER.as_secs())));
            }
            Ok(_) => {}
        }
    }
    Ok(())
}

/// Where the partitions end, or why one can't say. Right after a topic was created, and while another broker begins to lead a
/// partition, the brokers don't agree for a moment on who leads it: then they are asked again.
fn ends_of(
    consumer: &BaseConsumer<Reports>,
    sources: &[TopicPartition],
) -> Result<HashMap<TopicPartition, Result<u64, RDKafkaErrorCode>>, AskError> {
    use RDKafkaErrorCode::{FencedLeaderEpoch, LeaderNotAvailable, NotLeaderForPartition, UnknownLeaderEpoch};
    let started = Instant::now();
    loop {
        let answers = admin::offsets(consumer.client(), sources, Edge::HighWatermark, ANSWER)?;
        let may_pass = |answer: &Result<u64, RDKafkaErrorCode>| {
            matches!(answer, Err(NotLeaderForPartition | LeaderNotAvailable | FencedLeaderEpoch | UnknownLeaderEpoch))
        };
        if started.elapsed() >= AFTER_ERROR || !answers.values().any(may_pass) {
            return Ok(answers);
        }
        std::thread::sleep(SLICE);
    }
}

/// The addresses that the brokers name as their own.
fn advertised(consumer: &BaseConsumer<Reports>) -> String {
    let Ok(metadata) = consumer.fetch_metadata(None, SLICE) else { return "an address that the brokers name".into() };
    let addresses = metadata.brokers().iter().map(|broker| format!("{}:{}", broker.host(), broker.port()));
    addresses.collect::<Vec<_>>().join(" or ")
}

/// A missing topic is most often a misspelt one.
fn or_similar(error: TopicError, all: &Metadata, wanted: &str) -> TopicError {
    let names = all.topics().iter().map(|topic| topic.name()).filter(|name| !name.starts_with("__"));
    match (&error, config::nearest(wanted, names)) {
        (TopicError::Missing, Some(near)) => TopicError::Misspelt(near.into()),
        _ => error,
    }
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
    Ok(vec![TopicInfo { name: name.into(), partitions: partitions_of(&metadata, name)? }])
}

/// Metadata of one topic or of all. Between the attempts librdkafka's reports are collected: they, and not the
/// request's "broker transport failure", say what is wrong.
fn fetch(consumer: &BaseConsumer<Reports>, topic: Option<&str>, brokers: &str) -> Result<Metadata, KafkaCheckError> {
    let mut deadline = Instant::now() + ANSWER;
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
            return Err(KafkaCheckError::Refused { brokers: brokers(), reason: reason.clone() });
        }
        if !reports.is_empty() {
            deadline = deadline.min(Instant::now() + AFTER_ERROR);
        }
        if Instant::now() >= deadline {
            let reason = consumer.context().last_reason().unwrap_or_else(|| told(&error));
            return Err(KafkaCheckError::Unreachable { brokers: brokers(), reason });
        }
        std::thread::sleep(SLICE / 5);
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;

    use super::*;
    use crate::config::Kafka;

    fn kafka(brokers: &str, topics: &[&str], properties: &[(&str, &str)]) -> Kafka {
        let properties = properties.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        Kafka { properties, ..Kafka::for_test(brokers, topics) }
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

    /// The brokers disagree for a moment on who leads a partition that was just created.
    #[test]
    fn a_leader_that_is_not_known_yet_is_asked_again() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("camera", 1, 1).unwrap();
        let errors = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION; 2];
        cluster.request_errors(rdkafka::types::RDKafkaApiKey::ListOffsets, &errors);
        let consumer = reader(&kafka(&cluster.bootstrap_servers(), &["camera"], &[])).unwrap();
        let source = TopicPartition { topic: "camera".into(), partition: 0 };
        let ends = ends_of(&consumer, std::slice::from_ref(&source)).unwrap();
        assert_eq!(ends.get(&source), Some(&Ok(0)));
    }

    #[test]
    fn an_unreachable_broker_is_reported_in_librdkafkas_words() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        match check(&kafka(&address, &["camera"], &[])) {
            Err(KafkaCheckError::Unreachable { reason, .. }) => {
                assert!(reason.contains("Connection refused"), "{reason}")
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_unknown_property_is_reported_without_its_value() {
        match check(&kafka("127.0.0.1:1", &["camera"], &[("sasl.pasword", "geheim")])) {
            Err(error @ KafkaCheckError::Property(_)) => {
                let told = error.to_string();
                assert!(told.contains("sasl.pasword") && !told.contains("geheim"), "{told}");
            }
            other => panic!("{other:?}"),
        }
    }
}
