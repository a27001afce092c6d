//! Dead letters to a Kafka topic.
//!
//! A thread of its own holds the letters that wait, and writes them in transactions, one source partition after the
//! other. A partition's transactional id is the same on whatever host owns it, so that the host that takes it over shuts
//! the one before out and then sees in the topic all that that one will ever have written (see [`writer`]). All letters of
//! one source partition go to one partition of the topic: the source's number modulo the topic's.
//!
//! Guarantees: an ack is settled when all in-sync replicas have the letter and readers of committed records can see it;
//! while the topic is missing, refuses or can't be reached, letters wait, and their offsets and budget with them; a reader
//! of committed records finds each letter once. Not guaranteed: that, where the topic loses letters (retention,
//! compaction) or gets more partitions between a crash and the look-up.

mod index;
pub mod reader;
mod scan;
mod writer;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::time::{Duration, Instant};

use tracing::{debug, error, info};

use self::index::LookupStarts;
use self::writer::{HangingEnds, PartitionWriter};
use crate::config::{self, threads};
use crate::flow::backoff::Backoff;
use crate::flow::membership::Membership;
use crate::flow::{AckHandle, DeadLetterIndex};
use crate::kafka::error::KafkaCheckError;
use crate::kafka::producer::Producer;
use crate::record::{OutputRecord, TopicPartition};
use crate::sink::DeadLetterTarget;

/// What one transaction carries at most.
const BATCH: usize = 256;
const BATCH_BYTES: usize = 16 << 20;
/// How long to wait for something to change while letters can't be written.
const TICK: Duration = Duration::from_millis(10);
/// A source partition that had no dead letters for this time gives its producer up.
const IDLE: Duration = Duration::from_secs(60);
/// A take-over may have to wait for what a crashed host has begun: no reason to complain.
const GRACE: Duration = Duration::from_secs(1);
/// While letters can't be kept, this is said at most this often.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// The way to the topic; when it is dropped, what waits is given up.
pub struct DeadLetterTopic {
    inbox: Sender<QueuedLetter>,
    topic: String,
    lookup_starts: Arc<LookupStarts>,
}

impl DeadLetterTopic {
    /// Nothing is asked of Kafka before the first letter comes.
    pub fn start(config: &config::Kafka, topic: &str, membership: Arc<Membership>) -> Result<Self, KafkaCheckError> {
        // For what is wrong with the properties to be told at once.
        Producer::transactional(config, topic, "reduct-sink")?;
        let (inbox, letters) = channel();
        let lookup_starts = Arc::new(LookupStarts::default());
        let worker = TopicThread {
            config: config.clone(),
            topic: topic.to_owned(),
            membership,
            inbox: letters,
            lookup_starts: Arc::clone(&lookup_starts),
            waiting: BTreeMap::new(),
            last: None,
            writers: HashMap::new(),
            ends: HangingEnds::default(),
            backoff: Backoff::default(),
            not_before: None,
            failing_since: HashMap::new(),
            complained: None,
        };
        let thread = threads::spawn("dead-letters", move || worker.run());
        thread.map_err(|error| KafkaCheckError::Property(format!("no thread for the dead letters: {error}")))?;
        Ok(Self { inbox, topic: topic.to_owned(), lookup_starts })
    }
}

impl DeadLetterTarget for DeadLetterTopic {
    fn take(&self, letter: OutputRecord, ack: AckHandle) {
        // If the thread is gone, the lost ack stops the host.
        let _ = self.inbox.send(QueuedLetter { record: letter, ack });
    }

    fn partition_begins(&self, source: &TopicPartition, offset: u64, index: Option<&DeadLetterIndex>) {
        self.lookup_starts.partition_begins(source, &self.topic, offset, index);
    }

    fn index(&self, source: &TopicPartition, offset: u64) -> Option<DeadLetterIndex> {
        let offset = self.lookup_starts.index(source, offset)?;
        Some(DeadLetterIndex { topic: self.topic.clone(), offset })
    }
}

struct QueuedLetter {
    record: OutputRecord,
    ack: AckHandle,
}

impl QueuedLetter {
    fn source(&self) -> &TopicPartition {
        &self.record.input.source
    }

    fn is_stale(&self) -> bool {
        !self.ack.state().may_write()
    }
}

struct TopicThread {
    config: config::Kafka,
    topic: String,
    membership: Arc<Membership>,
    inbox: Receiver<QueuedLetter>,
    lookup_starts: Arc<LookupStarts>,
    /// In the order in which they came, by source partition; none of the queues is empty.
    waiting: BTreeMap<TopicPartition, VecDeque<QueuedLetter>>,
    /// Whose turn it was last.
    last: Option<TopicPartition>,
    writers: HashMap<TopicPartition, PartitionWriter>,
    ends: HangingEnds,
    backoff: Backoff,
    not_before: Option<Instant>,
    /// Since when the letters of a source partition can't be written.
    failing_since: HashMap<TopicPartition, Instant>,
    complained: Option<Instant>,
}

impl TopicThread {
    fn run(mut self) {
        while self.gather() {
            self.drop_stale();
            self.writers.retain(|_, writer| !writer.is_idle(IDLE));
            if !self.may_write() {
                std::thread::sleep(TICK);
            } else if let Some(source) = self.next_source() {
                self.write_some(source);
            }
        }
    }

    /// Takes what came, and waits if there is nothing at all. `false`: there won't be any more.
    fn gather(&mut self) -> bool {
        if self.waiting.is_empty() {
            match self.inbox.recv_timeout(IDLE) {
                Ok(letter) => self.queue(letter),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
        loop {
            match self.inbox.try_recv() {
                Ok(letter) => self.queue(letter),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn queue(&mut self, letter: QueuedLetter) {
        self.waiting.entry(letter.source().clone()).or_default().push_back(letter);
    }

    fn drop_stale(&mut self) {
        self.waiting.retain(|_, letters| {
            letters.retain(|letter| !letter.is_stale());
            !letters.is_empty()
        });
        self.failing_since.retain(|source, _| self.waiting.contains_key(source));
    }

    fn may_write(&self) -> bool {
        !self.membership.look_for_suspension() && self.not_before.is_none_or(|not_before| Instant::now() >= not_before)
    }

    /// The partitions take turns.
    fn next_source(&mut self) -> Option<TopicPartition> {
        let after = |source: &&TopicPartition| self.last.as_ref().is_none_or(|last| *source > last);
        let next = self.waiting.keys().find(after).or_else(|| self.waiting.keys().next()).cloned();
        self.last.clone_from(&next);
        next
    }

    fn write_some(&mut self, source: TopicPartition) {
        let batch = self.take_batch(&source);
        match self.write(&source, &batch) {
            Ok(()) => {
                batch.into_iter().for_each(|letter| letter.ack.acknowledge());
                self.recovered(&source);
            }
            Err(reason) => {
                // Whether anything was written is found out by looking the topic through again.
                self.writers.remove(&source);
                let waiting = self.waiting.entry(source.clone()).or_default();
                batch.into_iter().rev().for_each(|letter| waiting.push_front(letter));
                self.complain(source, &reason);
                self.not_before = Some(Instant::now() + self.backoff.wait());
            }
        }
    }

    fn take_batch(&mut self, source: &TopicPartition) -> Vec<QueuedLetter> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        let Some(waiting) = self.waiting.get_mut(source) else { return batch };
        while batch.len() < BATCH && bytes < BATCH_BYTES {
            let Some(letter) = waiting.pop_front() else { break };
            bytes += letter.record.input.size();
            batch.push(letter);
        }
        if waiting.is_empty() {
            self.waiting.remove(source);
        }
        batch
    }

    fn write(&mut self, source: &TopicPartition, batch: &[QueuedLetter]) -> Result<(), String> {
        let Some(state) = batch.first().map(|letter| letter.ack.state()) else { return Ok(()) };
        if let Some(writer) = self.writers.get_mut(source).filter(|writer| writer.serves(state)) {
            return writer.write(batch, &self.lookup_starts);
        }
        self.writers.remove(source);
        let (starts, ends) = (&self.lookup_starts, &mut self.ends);
        let mut writer = PartitionWriter::open(&self.config, &self.topic, source, state, batch, starts, ends)?;
        let written = writer.write(batch, &self.lookup_starts);
        self.writers.insert(source.clone(), writer);
        written
    }

    fn complain(&mut self, source: TopicPartition, reason: &str) {
        let failing_since = *self.failing_since.entry(source).or_insert_with(Instant::now);
        let is_new = self.complained.is_none_or(|at| at.elapsed() > COMPLAIN_EVERY);
        if is_new && failing_since.elapsed() > GRACE {
            let waiting = self.waiting.values().map(VecDeque::len).sum::<usize>();
            error!(
                topic = self.topic,
                reason, waiting, "dead letters can't be written to their topic; nothing is lost, trying again"
            );
            self.complained = Some(Instant::now());
        } else {
            debug!(topic = self.topic, reason, "dead letters can't be written to their topic");
        }
    }

    fn recovered(&mut self, source: &TopicPartition) {
        self.backoff.reset();
        self.not_before = None;
        self.failing_since.remove(source);
        if self.failing_since.is_empty() && self.complained.take().is_some() {
            info!(topic = self.topic, "dead letters are written again");
        }
    }
}
