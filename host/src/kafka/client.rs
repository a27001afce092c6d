//! How every Kafka client of this process is configured, how long it waits, and what becomes of librdkafka's reports.
//!
//! Guarantees: the properties that the host relies on cannot be overridden; everything else that librdkafka knows can be;
//! no message shows the value of a property, which may be a password.

use std::cell::RefCell;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use tracing::{debug, warn};

use super::error::KafkaCheckError;
use crate::config;

/// How long one question to the brokers may take.
pub const ANSWER: Duration = Duration::from_secs(10);
/// For how long a question is repeated that a rebalance can't do without.
pub const REPEAT_FOR: Duration = Duration::from_secs(60);
/// How long to wait between two attempts.
const REPEAT_AFTER: Duration = Duration::from_millis(100);
/// How long nothing may come of a partition that is read to its end.
pub const SILENCE: Duration = Duration::from_secs(30);
/// How long a transaction of the dead-letter topic may stay open, or beginning or ending one may take. For this long a
/// host that crashed can hide what stands behind its open transaction.
pub const TRANSACTION: Duration = Duration::from_secs(20);

/// librdkafka's bound on a partition's queue, in kilobytes.
pub const QUEUE: &str = "queued.max.messages.kbytes";
/// Kafka's own topics, which a pattern never matches.
const INTERNAL: [&str; 4] = ["__consumer_offsets", "__transaction_state", "__share_group_state", "__cluster_metadata"];
/// librdkafka's list of topics that it takes for missing.
const HIDDEN: &str = "topic.blacklist";

/// Asks the brokers until they answer, for [`REPEAT_FOR`]: a rebalance happens when they are busy, or have only just come
/// back.
pub fn ask<T>(mut question: impl FnMut() -> KafkaResult<T>) -> KafkaResult<T> {
    let started = Instant::now();
    loop {
        match question() {
            Err(error) if started.elapsed() < REPEAT_FOR => {
                debug!(%error, "the brokers do not answer yet; asking again");
                std::thread::sleep(REPEAT_AFTER);
            }
            answer => return answer,
        }
    }
}

/// The version of librdkafka that was compiled in.
pub fn library_version() -> String {
    rdkafka::util::get_rdkafka_version().1
}

/// Whether the group uses Kafka's newer protocol, with which the broker decides who gets what, at its own pace.
pub fn is_newer_protocol(config: &config::Kafka) -> bool {
    config.properties.get("group.protocol").is_some_and(|protocol| protocol.eq_ignore_ascii_case("consumer"))
}

/// librdkafka's properties: the host's defaults, the user's on top, and what the host must own.
pub fn client_config(config: &config::Kafka) -> ClientConfig {
    let mut client = ClientConfig::new();
    // Kafka's newer protocol lets the brokers assign partitions, and librdkafka refuses a strategy beside it.
    if !is_newer_protocol(config) {
        client.set("partition.assignment.strategy", "cooperative-sticky");
    }
    client
        .set("client.id", "reduct-sink")
        // Enough for a reader of one partition after the other; the group's member divides its own among all.
        .set(QUEUE, "8192")
        // A response's part of one partition: librdkafka's default of 1 MB brings large records one at a time. It keeps a
        // whole response within the bytes that one partition may queue.
        .set("fetch.message.max.bytes", "4194304")
        // After the queue was full; its default of 1 s stalls the stream.
        .set("fetch.queue.backoff.ms", "10")
        // A request that waits for partitions without records holds up those whose queues were full when it was sent;
        // its default is 500 ms. Shorter ones cost an idle host time: with 50 ms it took over 1 % of a core.
        .set("fetch.wait.max.ms", "100")
        // Topics and partitions that are new, and rights that were granted again, are found by this. Its default is five minutes, in which a
        // host that joined while it might not read its topic had no partition, and nothing was wrong any more.
        .set("topic.metadata.refresh.interval.ms", "30000")
        // Without it a byte that was changed on a broker's disk arrives as good.
        .set("check.crcs", "true")
        .set("socket.keepalive.enable", "true");
    for (key, value) in config.present_properties() {
        client.set(key, value);
    }
    if let Some(hidden) = hidden(config) {
        client.set(HIDDEN, hidden);
    }
    client
        .set("bootstrap.servers", &config.brokers)
        .set("group.id", &config.group)
        // Tells a partition's tail that holds no records (control records, compacted ones) from one not read yet.
        .set("enable.partition.eof", "true")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        // An offset that isn't there any more is an error, which the configured policy answers.
        .set("auto.offset.reset", "error");
    client
}

/// Where topics are chosen by a pattern, Kafka's own ones are hidden from it, save for those that are named. Reading
/// `__consumer_offsets`, each commit would make the next record.
fn hidden(config: &config::Kafka) -> Option<String> {
    if !config.topics.iter().any(|topic| topic.starts_with('^')) {
        return None;
    }
    let is_named = |internal: &&str| config.topics.iter().any(|topic| topic == internal);
    let own = INTERNAL.iter().filter(|internal| !is_named(internal)).map(|internal| format!("^{internal}$"));
    let users = config.properties.get(HIDDEN).filter(|list| !list.is_empty()).cloned();
    Some(users.into_iter().chain(own).collect::<Vec<_>>().join(","))
}

/// A client that is no member of the group: nothing is joined, so that closing it can't hang on a group; nor does it
/// create topics by asking for them.
pub fn reader(config: &config::Kafka) -> Result<BaseConsumer<Reports>, KafkaCheckError> {
    let mut client = client_config(config);
    client.remove("group.id");
    consumer(client)
}

/// A client that reads partitions and can commit offsets of a group, which it does not join.
pub(super) fn reader_of_group(
    config: &config::Kafka,
    group: &str,
    isolation: Option<&str>,
) -> Result<BaseConsumer<Reports>, KafkaCheckError> {
    let mut client = client_config(config);
    client.set("group.id", group);
    if let Some(isolation) = isolation {
        client.set("isolation.level", isolation);
    }
    consumer(client)
}

fn consumer(mut client: ClientConfig) -> Result<BaseConsumer<Reports>, KafkaCheckError> {
    client.set("allow.auto.create.topics", "false");
    client.create_with_context(Reports::default()).map_err(|error| KafkaCheckError::Property(told(&error)))
}

/// An error's words. rdkafka would add the property's value, which may be a password; librdkafka's own reason shows only
/// values that it tried to understand, as a number or one of a few words.
pub fn told(error: &KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(_, reason, _, _) => reason.clone(),
        error => error.rdkafka_error_code().map_or_else(|| error.to_string(), |code| code.to_string()),
    }
}

/// Whether the brokers refuse us, as opposed to not being there.
pub fn is_refusal(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::Authentication
            | RDKafkaErrorCode::SaslAuthenticationFailed
            | RDKafkaErrorCode::SSL
            | RDKafkaErrorCode::ClusterAuthorizationFailed
            | RDKafkaErrorCode::UnsupportedSASLMechanism
    )
}

/// A line of librdkafka's own log. What says that brokers are away is left to the [`super::observer`], which says it once;
/// the rest is rare, and may matter.
pub fn log_of_member(level: RDKafkaLogLevel, facility: &str, message: &str) {
    /// Connections that fail, end or are refused.
    const CONNECTIONS: [&str; 6] = ["FAIL", "ERROR", "DISCONNECT", "CONNECT", "REQTMOUT", "SESSTMOUT"];
    let is_warning = matches!(
        level,
        RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning
    );
    if is_warning && !CONNECTIONS.contains(&facility) {
        warn!(target: "librdkafka", facility, "{message}");
    } else {
        debug!(target: "librdkafka", ?level, facility, "{message}");
    }
}

thread_local! {
    /// What librdkafka said of the last error that it reported on this thread.
    static REASON: RefCell<String> = const { RefCell::new(String::new()) };
}

/// What librdkafka said of the last error that it reported to the group's member on this thread: it does so while a queue
/// is polled, right before the poll answers with the error's code.
pub fn last_reason_here() -> String {
    REASON.with_borrow(String::clone)
}

/// Whether an error says that a batch can't be read, so that its records would be missing if reading went on.
pub fn is_unreadable(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::BadMessage
            | Code::InvalidMessage
            | Code::InvalidMessageSize
            | Code::BadCompression
            | Code::MessageSizeTooLarge
            | Code::NotImplemented
            | Code::CriticalSystemResource
    )
}

/// An error that librdkafka reports to the group's member. What the observer finds out by itself is for `debug` only.
pub fn error_of_member(error: &KafkaError, reason: &str) {
    use RDKafkaErrorCode as Code;
    REASON.with_borrow_mut(|last| reason.clone_into(last));
    match error.rdkafka_error_code() {
        // The reader reports these with the offset, once.
        Some(code) if is_unreadable(code) => debug!(target: "librdkafka", %error, "{reason}"),
        // The end of a partition is asked for, and no problem.
        Some(Code::PartitionEOF) => {}
        Some(
            Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::Resolve
            | Code::OperationTimedOut
            | Code::RequestTimedOut
            | Code::MessageTimedOut
            | Code::TimedOutQueue
            | Code::WaitingForCoordinator
            | Code::CoordinatorNotAvailable
            | Code::CoordinatorLoadInProgress
            | Code::NotCoordinator
            | Code::LeaderNotAvailable
            | Code::NotLeaderForPartition
            | Code::UnknownTopicOrPartition
            | Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::Authentication
            | Code::SaslAuthenticationFailed
            | Code::SSL,
        ) => debug!(target: "librdkafka", %error, "{reason}"),
        _ => warn!(target: "librdkafka", %error, "{reason}"),
    }
}

/// Collects what librdkafka reports on the side. What matters comes as an error of some question too; the log gets the
/// reports at the level `debug`, under the target `librdkafka`.
#[derive(Debug, Default)]
pub struct Reports {
    new: Mutex<Vec<(RDKafkaErrorCode, String)>>,
    last: Mutex<Option<(RDKafkaErrorCode, String)>>,
}

/// Reports that nobody looks at need not be kept.
const KEPT: usize = 64;

impl Reports {
    /// What was reported since the last call.
    pub(super) fn take(&self) -> Vec<(RDKafkaErrorCode, String)> {
        std::mem::take(&mut *self.new.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The last reason that says more than that a question was not answered.
    pub(super) fn last_reason(&self) -> Option<String> {
        self.last().map(|(_, reason)| reason)
    }

    /// The same, if brokers refuse us. librdkafka reports an error once, and not again while it repeats.
    pub(super) fn last_refusal(&self) -> Option<String> {
        self.last().filter(|(code, _)| is_refusal(*code)).map(|(_, reason)| reason)
    }

    fn last(&self) -> Option<(RDKafkaErrorCode, String)> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The brokers have answered: what was reported before is no reason for what comes.
    pub(super) fn forget(&self) {
        self.take();
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// For a context of another kind, which has to do more than this.
    pub fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
        debug!(target: "librdkafka", ?level, facility, "{message}");
    }

    /// Takes note of an error that librdkafka reports.
    pub fn note(&self, error: &KafkaError, reason: &str) {
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
        if code == RDKafkaErrorCode::PartitionEOF {
            return;
        }
        debug!(target: "librdkafka", %error, "{reason}");
        // "1/1 brokers are down" says less than what came before it.
        if code != RDKafkaErrorCode::AllBrokersDown {
            *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((code, reason.into()));
        }
        let mut new = self.new.lock().unwrap_or_else(PoisonError::into_inner);
        if new.len() < KEPT {
            new.push((code, reason.into()));
        }
    }
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        Self::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.note(&error, reason);
    }
}

impl ConsumerContext for Reports {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Kafka;

    #[test]
    fn a_pattern_does_not_match_kafkas_own_topics_unless_they_are_named() {
        let hidden = |topics: &[&str], properties: &[(&str, &str)]| {
            let mut config = Kafka::for_test("127.0.0.1:1", topics);
            config.properties = properties.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
            client_config(&config).get(HIDDEN).unwrap_or_default().to_owned()
        };
        assert_eq!(hidden(&["camera"], &[]), "");
        let all = "^__consumer_offsets$,^__transaction_state$,^__share_group_state$,^__cluster_metadata$";
        assert_eq!(hidden(&["^.*"], &[]), all);
        assert_eq!(hidden(&["^.*"], &[(HIDDEN, "^old-.*")]), format!("^old-.*,{all}"));
        assert!(!hidden(&["^.*", "__consumer_offsets"], &[]).contains("__consumer_offsets"));
    }
}
