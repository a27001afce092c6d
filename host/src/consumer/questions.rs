//! Asks the brokers, on a thread of its own, what the polling thread has to know before a partition can be read.
//!
//! Guarantees: a partition that can't be asked about (no leader, a topic that was just deleted, a missing right) delays
//! no other partition; it is asked about again, after waits that grow, until there is an answer or nobody wants it any
//! more; an error of a topic or partition is never taken for an answer.

use std::collections::{HashMap, HashSet};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tracing::{debug, warn};

use super::GroupHandler;
use super::group::GroupContext;
use crate::config::threads;
use crate::flow::backoff::Backoff;
use crate::flow::{CommitMetadata, CommitPoint};
use crate::kafka::admin::{self, Edge};
use crate::kafka::client::told;
use crate::kafka::group::members_beside;
use crate::kafka::start::Facts;
use crate::record::{TopicId, TopicPartition};

/// How long one question may take, and how long the question to the leaders of partitions where these begin and end. The second is
/// shorter, because the leader of one partition may be away while the others wait.
const TIMEOUT: Duration = Duration::from_secs(10);
const LEADER_TIMEOUT: Duration = Duration::from_secs(3);
/// How often the ids of the topics are looked at, to notice a topic that was deleted and created again.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A reason why a partition can't be read yet is a warning at most this often.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// A question about one partition.
#[derive(Debug, Clone)]
pub(super) struct Question {
    pub source: TopicPartition,
    /// Tells the answers apart if the partition is asked about several times.
    pub number: u64,
    /// Whether the committed offset has to be asked for, too.
    pub wants_committed: bool,
    /// The topic's id as far as this host knows it.
    pub topic_id: Option<TopicId>,
}

/// The answer to a [`Question`], or a reason why there is none yet.
#[derive(Debug)]
pub(super) struct BeginAnswer {
    pub source: TopicPartition,
    pub number: u64,
    pub found: Result<FoundBegin, String>,
}

#[derive(Debug)]
pub(super) struct FoundBegin {
    pub facts: Facts,
    pub committed: Option<CommitPoint>,
}

/// What the thread learns from the brokers.
#[derive(Debug)]
pub(super) enum BrokerNews {
    Answer(Box<BeginAnswer>),
    /// The ids of topics as they are now.
    Ids(HashMap<String, TopicId>),
}

/// What the polling thread sends to the thread `kafka-questions`.
enum Asked {
    About(Question),
    /// Nobody wants an answer to the question of this number any more.
    Never(u64),
    /// The topics whose ids are looked at.
    Watch(HashSet<String>),
}

/// The polling thread's half.
pub(super) struct Questions {
    asked: Sender<Asked>,
    told: Receiver<BrokerNews>,
}

impl Questions {
    /// Starts the thread. It ends when this value is dropped, or the consumer.
    pub fn start(
        consumer: Weak<BaseConsumer<GroupContext>>,
        handler: Arc<dyn GroupHandler>,
        group: String,
    ) -> std::io::Result<Self> {
        let (asked, inbox) = channel();
        let (outbox, told) = channel();
        let asker = Asker {
            consumer,
            handler,
            group,
            inbox,
            outbox,
            open: Vec::new(),
            watched: Watched { topics: HashSet::new(), looked: Instant::now() },
            backoff: Backoff::default(),
            next: Instant::now(),
            complained: HashMap::new(),
        };
        threads::spawn("kafka-questions", move || asker.run())?;
        Ok(Self { asked, told })
    }

    pub fn ask(&self, question: Question) {
        // Without the thread nothing is answered; it ends with the consumer only.
        let _ = self.asked.send(Asked::About(question));
    }

    pub fn forget(&self, number: u64) {
        let _ = self.asked.send(Asked::Never(number));
    }

    pub fn watch(&self, topics: HashSet<String>) {
        let _ = self.asked.send(Asked::Watch(topics));
    }

    /// What the thread has learned since this was last called, without waiting.
    pub fn told(&self) -> Vec<BrokerNews> {
        self.told.try_iter().collect()
    }
}

struct Asker {
    consumer: Weak<BaseConsumer<GroupContext>>,
    handler: Arc<dyn GroupHandler>,
    group: String,
    inbox: Receiver<Asked>,
    outbox: Sender<BrokerNews>,
    open: Vec<Question>,
    watched: Watched,
    backoff: Backoff,
    /// When open questions are asked next.
    next: Instant,
    complained: HashMap<TopicPartition, Instant>,
}

/// The topics whose ids are looked at; none while this host has no partition.
struct Watched {
    topics: HashSet<String>,
    looked: Instant,
}

impl Watched {
    /// When the next look is due.
    fn next(&self) -> Instant {
        self.looked + LOOK_EVERY
    }

    /// What is to be looked at now. Where that is nothing the next look is [`LOOK_EVERY`] away, too: one that stayed due would
    /// be waited for without a pause.
    fn due(&mut self, now: Instant) -> Vec<&str> {
        if now < self.next() {
            return Vec::new();
        }
        self.looked = now;
        self.topics.iter().map(String::as_str).collect()
    }
}

impl Asker {
    fn run(mut self) {
        while self.gather() {
            let Some(consumer) = self.consumer.upgrade() else { return };
            if !self.open.is_empty() && Instant::now() >= self.next {
                self.round(&consumer);
                let wait = if self.open.is_empty() { Duration::ZERO } else { self.backoff.wait() };
                self.next = Instant::now() + wait;
            }
            if self.open.is_empty() {
                self.backoff.reset();
            }
            let topics = self.watched.due(Instant::now());
            if !topics.is_empty() {
                match admin::describe_topics(consumer.client(), &topics, TIMEOUT) {
                    Ok(topics) => {
                        let ids = topics.into_iter().filter(|topic| topic.error.is_none());
                        let ids = ids.filter_map(|topic| Some((topic.name, topic.id?)));
                        let _ = self.outbox.send(BrokerNews::Ids(ids.collect()));
                    }
                    Err(error) => debug!(%error, "can't ask for the ids of the topics"),
                }
            }
        }
    }

    /// Waits until there is something to ask. `false`: the polling thread asks nothing any more.
    fn gather(&mut self) -> bool {
        let until = if self.open.is_empty() { self.watched.next() } else { self.next };
        match self.inbox.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(asked) => self.accept(asked),
            Err(RecvTimeoutError::Timeout) => return true,
            Err(RecvTimeoutError::Disconnected) => return false,
        }
        while let Ok(asked) = self.inbox.try_recv() {
            self.accept(asked);
        }
        true
    }

    fn accept(&mut self, asked: Asked) {
        match asked {
            Asked::About(question) => {
                self.open.retain(|open| open.source != question.source);
                self.open.push(question);
                // A new question doesn't wait because earlier ones failed.
                self.next = Instant::now();
            }
            Asked::Never(number) => self.open.retain(|open| open.number != number),
            Asked::Watch(topics) => self.watched.topics = topics,
        }
    }

    /// Asks once about everything that is open.
    fn round(&mut self, consumer: &BaseConsumer<GroupContext>) {
        let mut failed: HashMap<TopicPartition, String> = HashMap::new();
        let topics = self.topics(consumer, &mut failed);
        let not_failed = |failed: &HashMap<TopicPartition, String>| -> Vec<TopicPartition> {
            let open = self.open.iter().map(|question| &question.source);
            open.filter(|source| !failed.contains_key(source)).cloned().collect()
        };
        let committed = self.committed(consumer, &mut failed);
        let mut edge = |edge| {
            let asked = not_failed(&failed);
            match admin::offsets(consumer.client(), &asked, edge, LEADER_TIMEOUT) {
                Ok(offsets) => offsets,
                Err(error) => {
                    let reason = format!("can't ask where the partition begins and ends: {error}");
                    failed.extend(asked.into_iter().map(|source| (source, reason.clone())));
                    HashMap::new()
                }
            }
        };
        let (lows, highs) = (edge(Edge::Begin), edge(Edge::End));
        for Question { source, number, wants_committed, topic_id } in std::mem::take(&mut self.open) {
            let found = match failed.remove(&source) {
                Some(reason) => Err(reason),
                None => found(&source, &topics, &lows, &highs).and_then(|facts| {
                    let committed = match wants_committed {
                        true => committed.get(&source).cloned().unwrap_or_else(|| Err("no answer".to_owned()))?,
                        false => None,
                    };
                    let before = topic_id.or(committed.as_ref().and_then(|point| point.metadata.topic_id));
                    if consumer.context().ids.is_outdated(&source.topic, before, facts.topic_id) {
                        return Err("the topic was created again, and a broker doesn't know of it yet".into());
                    }
                    Ok(FoundBegin { facts, committed })
                }),
            };
            if let Err(reason) = &found {
                self.complain(&source, reason);
                self.open.push(Question { source: source.clone(), number, wants_committed, topic_id });
            }
            let _ = self.outbox.send(BrokerNews::Answer(Box::new(BeginAnswer { source, number, found })));
        }
    }

    fn complain(&mut self, source: &TopicPartition, reason: &str) {
        let now = Instant::now();
        let last = self.complained.entry(source.clone()).or_insert(now);
        // The first failure is common in a rebalance, when the brokers are busy or have only just come back.
        if now.duration_since(*last) >= COMPLAIN_EVERY {
            *last = now;
            warn!(partition = %source, reason, "the partition can't be read yet; asking again");
        } else {
            debug!(partition = %source, reason, "the partition can't be read yet; asking again");
        }
    }

    /// The topics of the open questions: their ids, and how many partitions each has.
    fn topics(
        &self,
        consumer: &BaseConsumer<GroupContext>,
        failed: &mut HashMap<TopicPartition, String>,
    ) -> HashMap<String, (Option<TopicId>, usize)> {
        let names: HashSet<&str> = self.open.iter().map(|question| &*question.source.topic).collect();
        let names: Vec<&str> = names.into_iter().collect();
        let mut found = HashMap::new();
        let mut fail = |source: &TopicPartition, reason: String| drop(failed.insert(source.clone(), reason));
        let described = match admin::describe_topics(consumer.client(), &names, TIMEOUT) {
            Ok(topics) => topics,
            Err(error) if error.code == RDKafkaErrorCode::UnsupportedFeature => return self.counted(consumer, failed),
            Err(error) => {
                let reason = format!("can't ask for the topic: {error}");
                self.open.iter().for_each(|question| fail(&question.source, reason.clone()));
                return found;
            }
        };
        for topic in described {
            let open = self.open.iter().map(|question| &question.source).filter(|source| *source.topic == topic.name);
            if let Some(code) = topic.error {
                open.for_each(|source| fail(source, format!("the topic: {code}")));
                continue;
            }
            for source in open {
                let leader = topic.leaders.iter().find(|(partition, _)| *partition == source.partition);
                if leader.is_none_or(|(_, address)| address.is_none()) {
                    fail(source, "the partition has no leader".to_owned());
                }
            }
            match self.require_sole_member(consumer, &topic.name, topic.leaders.len()) {
                Ok(()) => drop(found.insert(topic.name, (topic.id, topic.leaders.len()))),
                Err(reason) => {
                    let open = self.open.iter().map(|question| &question.source);
                    open.filter(|source| *source.topic == topic.name).for_each(|source| fail(source, reason.clone()));
                }
            }
        }
        found
    }

    /// The same as [`Self::topics`], from brokers that can't describe topics.
    fn counted(
        &self,
        consumer: &BaseConsumer<GroupContext>,
        failed: &mut HashMap<TopicPartition, String>,
    ) -> HashMap<String, (Option<TopicId>, usize)> {
        let mut found = HashMap::new();
        for question in &self.open {
            let name = &question.source.topic;
            if found.contains_key(&**name) {
                continue;
            }
            let answer = consumer.fetch_metadata(Some(name), TIMEOUT).map_err(|error| told(&error));
            let count = answer.and_then(|metadata| match metadata.topics().first() {
                Some(topic) => match topic.error() {
                    None => Ok(topic.partitions().len()),
                    Some(error) => Err(RDKafkaErrorCode::from(error).to_string()),
                },
                None => Err("the brokers don't tell".to_owned()),
            });
            match count.and_then(|count| self.require_sole_member(consumer, name, count).map(|()| count)) {
                Ok(count) => drop(found.insert(name.to_string(), (None, count))),
                Err(reason) => drop(failed.insert(question.source.clone(), format!("the topic: {reason}"))),
            }
        }
        found
    }

    /// Fails the host if the topic's entries must have one writer and the group has other members. An error: the group couldn't be asked.
    fn require_sole_member(
        &self,
        consumer: &BaseConsumer<GroupContext>,
        topic: &str,
        count: usize,
    ) -> Result<(), String> {
        let Some(reason) = self.handler.requires_sole_member(topic, count) else { return Ok(()) };
        let members = members_beside(consumer, &self.group, TIMEOUT).map_err(|error| {
            format!("nobody can tell who else is in group {:?}: {error}. This matters because {reason}", self.group)
        })?;
        if members > 1 {
            self.handler.failed(format!("group {:?} has {members} members, and {reason}", self.group));
        }
        Ok(())
    }

    fn committed(
        &self,
        consumer: &BaseConsumer<GroupContext>,
        failed: &mut HashMap<TopicPartition, String>,
    ) -> HashMap<TopicPartition, Result<Option<CommitPoint>, String>> {
        let mut list = TopicPartitionList::new();
        let wanted: Vec<&TopicPartition> =
            self.open.iter().filter(|question| question.wants_committed).map(|question| &question.source).collect();
        if wanted.is_empty() {
            return HashMap::new();
        }
        for source in &wanted {
            list.add_partition(&source.topic, source.partition.cast_signed());
        }
        match consumer.committed_offsets(list, TIMEOUT) {
            Ok(answer) => {
                let elements = answer.elements();
                let each = elements.iter().map(|element| {
                    let partition = element.partition().cast_unsigned();
                    let source = TopicPartition { topic: element.topic().into(), partition };
                    let point = match (element.error(), element.offset()) {
                        (Err(error), _) => Err(format!("can't ask for its committed offset: {}", told(&error))),
                        (Ok(()), Offset::Offset(offset)) if let Ok(offset) = u64::try_from(offset) => {
                            Ok(Some(CommitPoint { offset, metadata: CommitMetadata::read(element.metadata()) }))
                        }
                        (Ok(()), _) => Ok(None),
                    };
                    (source, point)
                });
                each.collect()
            }
            Err(error) => {
                let reason = format!("can't ask for the committed offsets: {}", told(&error));
                failed.extend(wanted.into_iter().map(|source| (source.clone(), reason.clone())));
                HashMap::new()
            }
        }
    }
}

type Offsets = HashMap<TopicPartition, Result<u64, RDKafkaErrorCode>>;

fn found(
    source: &TopicPartition,
    topics: &HashMap<String, (Option<TopicId>, usize)>,
    lows: &Offsets,
    highs: &Offsets,
) -> Result<Facts, String> {
    let (topic_id, partitions) = *topics.get(&*source.topic).ok_or("the brokers don't tell of the topic")?;
    let offset = |offsets: &Offsets| match offsets.get(source) {
        Some(Ok(offset)) => Ok(*offset),
        Some(Err(code)) => Err(format!("can't ask where the partition begins and ends: {code}")),
        None => Err("the brokers don't tell where the partition begins and ends".to_owned()),
    };
    Ok(Facts { topic_id, partitions, low: offset(lows)?, high: offset(highs)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A member without a partition, such as one that stands by, has nothing to look at.
    #[test]
    fn a_look_is_due_once_also_where_nothing_is_watched() {
        let start = Instant::now();
        for topics in [HashSet::new(), HashSet::from(["t".to_owned()])] {
            let mut watched = Watched { topics: topics.clone(), looked: start };
            assert!(watched.due(start).is_empty());
            let later = start + LOOK_EVERY;
            assert_eq!(watched.due(later), topics.iter().collect::<Vec<_>>());
            assert!(watched.due(later).is_empty());
            assert_eq!(watched.next(), later + LOOK_EVERY, "{topics:?}");
        }
    }
}
