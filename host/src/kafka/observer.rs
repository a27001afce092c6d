//! Looks at Kafka from outside of the group's member: whether it answers, whether this host may read, where partitions
//! begin and end.
//!
//! Guarantees: one look asks a bounded number of questions, however many partitions there are, and ends within
//! [`LONGEST`]; what is wrong is named with its cause and a remedy; a look joins no group and creates no topic. It has a
//! client of its own, so that a member that is stuck doesn't hide what is wrong.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use regex::Regex;
use tracing::debug;

use super::admin::{self, Edge, TopicDescription};
use super::client::{Reports, is_newer_protocol, is_refusal, reader, reader_of_group};
use super::client_files::ClientFiles;
use super::error::KafkaCheckError;
use super::group::{self, GroupError, GroupState, GroupTimes};
use crate::config;
use crate::record::TopicPartition;

/// How long one question may take.
const ANSWER: Duration = Duration::from_secs(3);
/// How long a look may take: six questions and a little.
pub const LONGEST: Duration = Duration::from_secs(20);
/// How long librdkafka may take to say why a question has failed.
const REASON_WITHIN: Duration = Duration::from_secs(1);

/// How often the brokers are asked how long they wait for members, while this host has no partition.
const TIMES_EVERY: Duration = Duration::from_secs(60);

const COORDINATOR: &str = "kafka.coordinator";
const TOPIC_MISSING: &str = "kafka.topic-missing";
/// After this many looks without an answer of Kafka or of the coordinator, Kafka is asked over new connections.
const MOST_SILENT: u32 = 3;

/// What is wrong, for a person and for a program.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// A stable name of the kind.
    pub code: &'static str,
    /// Cause and remedy.
    pub message: String,
    /// Since when it is so, where that is known better than when it was noticed.
    pub since: Option<Instant>,
}

impl Finding {
    /// One that is as old as the look that notices it.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), since: None }
    }

    /// The right to use the consumer group is missing.
    pub fn group_denied(group: &str) -> Self {
        Self::new(
            "kafka.group-denied",
            format!("group {group}: we may not use it; allow the principal READ on this group"),
        )
    }

    /// The same, since this moment.
    pub fn since(self, since: Instant) -> Self {
        Self { since: Some(since), ..self }
    }
}

/// What a look brought.
#[derive(Debug, Default)]
pub struct KafkaLook {
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// First offset, if it is known, and end of each partition that could be asked about.
    pub bounds: HashMap<TopicPartition, (Option<u64>, u64)>,
    /// The group, which is asked about only while this host has no partition; `None`: nobody answers that, or it has the newer protocol.
    pub group: Option<GroupState>,
    /// How long a group of the newer protocol waits for its members, where the brokers were asked and say it.
    pub group_times: Option<GroupTimes>,
}

/// Looks at Kafka.
pub struct Observer {
    consumer: BaseConsumer<Reports>,
    config: config::Kafka,
    /// Has the group's id, without joining it.
    of_group: Option<BaseConsumer<Reports>>,
    /// The coordinator refused that client, and has not answered it since.
    was_denied: bool,
    /// How long the group's coordinator may take to answer.
    coordinator_within: Duration,
    /// How many looks in a row it, or Kafka, didn't answer.
    silent: u32,
    /// When the brokers were last asked how long they wait for members.
    times_asked: Option<Instant>,
    files: Arc<ClientFiles>,
    brokers: String,
    group: String,
    /// Configured topics without a pattern.
    named: Vec<String>,
    patterns: Vec<(String, Option<Regex>)>,
}

impl Observer {
    /// Asks nothing yet.
    pub fn new(config: &config::Kafka, files: Arc<ClientFiles>) -> Result<Self, KafkaCheckError> {
        let is_pattern = |topic: &&String| topic.starts_with('^');
        Ok(Self {
            consumer: reader(config)?,
            of_group: None,
            was_denied: false,
            config: config.clone(),
            coordinator_within: ANSWER,
            silent: 0,
            times_asked: None,
            files,
            brokers: config.brokers.clone(),
            group: config.group.clone(),
            named: config.topics.iter().filter(|topic| !is_pattern(topic)).cloned().collect(),
            patterns: config.topics.iter().filter(is_pattern).map(|p| (p.clone(), Regex::new(p).ok())).collect(),
        })
    }

    /// Looks at the configured topics, the group, and the partitions that are assigned to this host.
    pub fn look(&mut self, assigned: &[TopicPartition]) -> KafkaLook {
        if let Some(renewed) = self.files.look(self.named.first().map(String::as_str)) {
            self.consumer = renewed;
            (self.of_group, self.was_denied) = (None, false);
        }
        let mut look = KafkaLook::default();
        look.findings.extend(self.files.refusal().map(|reason| {
            let message = format!(
                "the changed certificates, keys or passwords of kafka.properties aren't taken: {reason}; the present \
                 connections stay, and the files are tried again"
            );
            Finding::new("kafka.new-files", message)
        }));
        let names: BTreeSet<&str> =
            self.named.iter().map(String::as_str).chain(assigned.iter().map(|source| &*source.topic)).collect();
        let names: Vec<&str> = names.into_iter().collect();
        let described = match self.describe(&names) {
            Ok(described) => described,
            Err(finding) => {
                self.note_silence(finding.code != TOPIC_MISSING);
                look.findings.push(finding);
                return look;
            }
        };
        let mut leaders = HashMap::new();
        for topic in &described {
            look.findings.extend(wrong_with(topic));
            leaders.extend(
                topic
                    .leaders
                    .iter()
                    .filter_map(|(partition, leader)| Some(((topic.name.as_str(), *partition), leader.as_deref()?))),
            );
        }
        let leader_of = |source: &TopicPartition| leaders.get(&(&*source.topic, source.partition)).copied();
        let (led, leaderless): (Vec<_>, Vec<_>) = assigned
            .iter()
            .filter(|source| described.iter().any(|topic| topic.error.is_none() && *topic.name == *source.topic))
            .cloned()
            .partition(|source| leader_of(source).is_some());
        if !leaderless.is_empty() {
            let message = format!("{} has no leader; a broker may be away", names_of(&leaderless));
            look.findings.push(Finding::new("kafka.no-leader", message));
        }
        let one = led.first().cloned().or_else(|| some_partition(&described));
        let wrong = one.as_ref().and_then(|one| self.wrong_with_group(one));
        // Also where it once refused: only a new client is told so again.
        let is_silent = wrong.is_some();
        if assigned.is_empty() && wrong.is_none() {
            if is_newer_protocol(&self.config) {
                look.group_times = one.and_then(|one| self.group_times(&one.topic));
            } else {
                look.group = group::state(&self.consumer, &self.group, ANSWER);
            }
        }
        look.findings.extend(wrong);
        self.ask_bounds(&led, &leader_of, &mut look);
        self.note_silence(is_silent);
        look
    }

    /// After looks in a row without an answer the next one asks over new connections: after a hang of Kafka a connection was seen to stay
    /// silent for minutes, while the host's own worked, and a client does not report the same error again.
    fn note_silence(&mut self, is_silent: bool) {
        self.silent = if is_silent { self.silent.saturating_add(1) } else { 0 };
        if self.silent >= MOST_SILENT
            // A new client would be made of the changed files.
            && self.files.refusal().is_none()
            && let Ok(renewed) = reader(&self.config)
        {
            (self.consumer, self.of_group, self.was_denied, self.silent) = (renewed, None, false, 0);
        }
    }

    /// The topics, or why nothing can be known.
    fn describe(&self, names: &[&str]) -> Result<Vec<TopicDescription>, Finding> {
        // Shows whether anybody answers at all, and what the patterns match.
        let wanted = if self.patterns.is_empty() { names.first().copied() } else { None };
        let metadata =
            self.consumer.fetch_metadata(wanted, ANSWER).map_err(|error| self.away(&super::client::told(&error)))?;
        // Callbacks are served while the client is polled: what one broker has reported is no reason for what another one does later.
        self.reports();
        self.consumer.context().forget();
        if let Some((pattern, _)) = self.patterns.iter().find(|(_, regex)| {
            regex.as_ref().is_some_and(|regex| !metadata.topics().iter().any(|topic| regex.is_match(topic.name())))
        }) && names.is_empty()
        {
            let message = format!("the pattern {pattern} matches no topic; create one, or correct kafka.topics");
            return Err(Finding::new(TOPIC_MISSING, message));
        }
        admin::describe_topics(self.consumer.client(), names, ANSWER).map_err(|error| {
            let reason = self.reason().unwrap_or(error.reason);
            let brokers = metadata.brokers().iter().map(|broker| format!("{}:{}", broker.host(), broker.port()));
            let addresses: Vec<String> = brokers.collect();
            // Where they name the very address that we asked, it is no matter of names: they answer one question and not the next.
            if addresses.iter().any(|address| self.brokers.split(',').any(|ours| ours.trim() == address)) {
                return self.away(&reason);
            }
            let addresses = addresses.join(", ");
            let message = format!(
                "Kafka answers at {}, but not at the address that the brokers name themselves, {addresses}: {reason}; that \
                 address (advertised.listeners) has to be reachable from here",
                self.brokers
            );
            Finding::new("kafka.advertised", message)
        })
    }

    fn away(&self, otherwise: &str) -> Finding {
        let mut reports = self.reports();
        let asked = Instant::now();
        // librdkafka may report a moment after the question has failed.
        while reports.is_empty() && asked.elapsed() < REASON_WITHIN {
            std::thread::sleep(REASON_WITHIN / 20);
            reports = self.reports();
        }
        let refusal = reports.into_iter().find(|(code, _)| is_refusal(*code)).map(|(_, reason)| reason);
        if let Some(reason) = refusal.or_else(|| self.consumer.context().last_refusal()) {
            let message = format!(
                "Kafka at {} refuses us: {reason}; check security.protocol, the SASL and the SSL settings in \
                 kafka.properties",
                self.brokers
            );
            return Finding::new("kafka.refused", message);
        }
        let reason = self.consumer.context().last_reason();
        let reason = reason.as_deref().unwrap_or(otherwise);
        // librdkafka's words for it leave open who has timed out.
        let message =
            unreachable(&self.brokers, if reason.contains("OperationTimedOut") { "it doesn't answer" } else { reason });
        Finding::new("kafka.unreachable", message)
    }

    /// What is wrong with the group. `one`: a partition that somebody leads.
    fn wrong_with_group(&mut self, one: &TopicPartition) -> Option<Finding> {
        let group = self.group.clone();
        let client = match self.of_group.take().map_or_else(|| reader_of_group(&self.config, &group, None), Ok) {
            Ok(client) => self.of_group.insert(client),
            Err(error) => return Some(Finding::new(COORDINATOR, error.to_string())),
        };
        let answer = group::answers(client, one, self.coordinator_within);
        // What the coordinator refuses comes as a message, and only once as long as it stays the same.
        let denied = |error: KafkaError| error.rdkafka_error_code() == Some(RDKafkaErrorCode::GroupAuthorizationFailed);
        while let Some(said) = client.poll(Duration::ZERO) {
            self.was_denied |= said.is_err_and(denied);
        }
        let reason = client.context().last_reason();
        self.was_denied &= answer.is_err();
        Some(match answer.err()? {
            GroupError::Other(said) if !self.was_denied => {
                let reason = reason.or_else(|| self.reason()).unwrap_or(said);
                let message = format!("group {group} has no coordinator that answers: {reason}; check the brokers");
                Finding::new(COORDINATOR, message)
            }
            GroupError::Other(_) | GroupError::Unnamed | GroupError::Denied => Finding::group_denied(&group),
        })
    }

    /// What the brokers say, if it is time to ask them.
    fn group_times(&mut self, topic: &str) -> Option<GroupTimes> {
        if self.times_asked.is_some_and(|at| at.elapsed() < TIMES_EVERY) {
            return None;
        }
        let times = admin::group_times(self.consumer.client(), &self.group, topic, ANSWER);
        let is_denied = |code| {
            matches!(code, RDKafkaErrorCode::GroupAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed)
        };
        // Each question that we may not ask leaves a line in the brokers' log.
        if times.as_ref().map_or_else(|error| is_denied(error.code), |_| true) {
            self.times_asked = Some(Instant::now());
        }
        times.inspect_err(|error| debug!(%error, "the brokers don't say how long they wait for members")).ok()
    }

    fn ask_bounds<'a>(
        &self,
        led: &[TopicPartition],
        leader_of: &impl Fn(&TopicPartition) -> Option<&'a str>,
        look: &mut KafkaLook,
    ) {
        let client = self.consumer.client();
        let ends = admin::offsets(client, led, Edge::End, ANSWER);
        let begins = ends.as_ref().ok().and_then(|_| admin::offsets(client, led, Edge::Begin, ANSWER).ok());
        let ends = match ends {
            Ok(ends) => ends,
            Err(error) => {
                let addresses: BTreeSet<&str> = led.iter().filter_map(leader_of).collect();
                let addresses = addresses.into_iter().collect::<Vec<_>>().join(", ");
                let reason = self.reason().unwrap_or(error.reason);
                let message =
                    format!("the leaders of our partitions ({addresses}) don't answer: {reason}; check these brokers");
                look.findings.push(Finding::new("kafka.leader", message));
                return;
            }
        };
        let mut wrong: BTreeMap<(String, String), Vec<TopicPartition>> = BTreeMap::new();
        for source in led {
            let begin = begins.as_ref().and_then(|begins| begins.get(source)?.as_ref().ok().copied());
            match ends.get(source) {
                Some(Ok(end)) => {
                    look.bounds.insert(source.clone(), (begin, *end));
                }
                Some(Err(code)) => {
                    let leader = leader_of(source).unwrap_or_default().to_owned();
                    wrong.entry((leader, code.to_string())).or_default().push(source.clone());
                }
                None => {}
            }
        }
        for ((leader, reason), sources) in wrong {
            let message = format!("{}: the leader at {leader} says: {reason}", names_of(&sources));
            look.findings.push(Finding::new("kafka.leader", message));
        }
    }

    fn reports(&self) -> Vec<(RDKafkaErrorCode, String)> {
        // Only serves the callbacks: without a subscription there is nothing to receive.
        while self.consumer.poll(Duration::ZERO).is_some() {}
        self.consumer.context().take()
    }

    /// What librdkafka has reported since the last question, which says more than that it wasn't answered.
    fn reason(&self) -> Option<String> {
        self.reports().pop().map(|(_, reason)| reason)
    }
}

/// A partition that somebody leads.
fn some_partition(described: &[TopicDescription]) -> Option<TopicPartition> {
    described.iter().filter(|topic| topic.error.is_none()).find_map(|topic| {
        let (partition, _) = topic.leaders.iter().find(|(_, leader)| leader.is_some())?;
        Some(TopicPartition { topic: topic.name.as_str().into(), partition: *partition })
    })
}

/// Who refuses what, and what to do about it.
fn unreachable(brokers: &str, reason: &str) -> String {
    if reason.contains("Connection refused") {
        return format!(
            "Kafka at {brokers} can't be reached: the machine there is reached, but no broker listens at that port (Connection refused); \
             start Kafka, or correct kafka.brokers"
        );
    }
    format!("Kafka at {brokers} can't be reached: {reason}; check that it runs and can be reached from here")
}

fn wrong_with(topic: &TopicDescription) -> Option<Finding> {
    let name = &topic.name;
    let denied = || {
        let message = format!("topic {name}: we may not read it; allow the principal DESCRIBE and READ on this topic");
        Some(Finding::new("kafka.topic-denied", message))
    };
    match topic.error {
        Some(RDKafkaErrorCode::TopicAuthorizationFailed) => denied(),
        None if topic.may_read == Some(false) => denied(),
        None => None,
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
            let message = format!("topic {name}: there is no such topic; create it, or correct kafka.topics");
            Some(Finding::new(TOPIC_MISSING, message))
        }
        Some(code) => Some(Finding::new("kafka.topic", format!("topic {name}: {code}"))),
    }
}

/// The first few of the partitions, and how many more there are.
fn names_of(sources: &[TopicPartition]) -> String {
    const NAMED: usize = 3;
    let names = sources.iter().take(NAMED).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match sources.len().saturating_sub(NAMED) {
        0 => names,
        more => format!("{names} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

    use super::*;
    use crate::config::Kafka;

    /// Brokers that answer everything but who coordinates a group.
    #[test]
    fn after_three_looks_without_an_answer_of_the_coordinator_new_connections_are_made() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("camera", 1, 1).unwrap();
        let none = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE; 1000];
        cluster.request_errors(RDKafkaApiKey::FindCoordinator, &none);
        let config = Kafka::for_test(cluster.bootstrap_servers(), &["camera"]);
        let mut observer = Observer::new(&config, Arc::new(ClientFiles::new(&config))).unwrap();
        // However long it is waited for, no answer comes.
        observer.coordinator_within = Duration::from_millis(100);
        let mut client = observer.consumer.client().native_ptr();
        for (look, renewed) in [(1, false), (2, false), (3, true), (4, false)] {
            let seen = observer.look(&[]);
            assert!(seen.findings.iter().any(|finding| finding.code == COORDINATOR), "{seen:?}");
            assert_eq!(seen.group, None);
            let after = observer.consumer.client().native_ptr();
            assert_eq!(after != client, renewed, "look {look}");
            client = after;
        }
        cluster.clear_request_errors(RDKafkaApiKey::FindCoordinator);
        observer.coordinator_within = ANSWER;
        let seen = observer.look(&[]);
        assert!(seen.findings.is_empty(), "{seen:?}");
    }
}
