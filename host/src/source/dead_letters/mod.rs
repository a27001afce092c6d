//! Dead letters to a Kafka topic.
//!
//! A thread of its own holds the letters that wait and an idempotent producer. All letters of one source partition go to
//! one partition of the topic (the source's number modulo the topic's), so that before the first letter of a new
//! assignment, and after any answer that leaves it open, that partition can be looked through for letters that are there
//! already.
//!
//! Guarantees: a ticket is settled when all in-sync replicas have the letter, or when the letter was found in the topic;
//! while the topic is missing, refuses or can't be reached, letters wait, and their offsets and budget with them; letters
//! of a cancelled assignment aren't handed to librdkafka any more, and those in its queue are taken back. Not guaranteed:
//! exactly once where the topic loses letters (retention, compaction) or gets more partitions between a crash and the
//! look-up, or where a request that was under way reaches the broker only after the look-up; who must know for sure
//! compares `kafka.source`, `kafka.offset` and `kafka.index`, which are the same on both copies.

mod look_up;
mod producer;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use tracing::{debug, error, info};

use self::look_up::{Wanted, look_up};
use self::producer::{Outcome, Producer, Refused};
use super::SourceError;
use crate::assignment::{Assignment, Ticket};
use crate::config;
use crate::dead_letter::Target;
use crate::membership::Membership;
use crate::record::{Identity, OutputRecord, TopicPartition};
use crate::sink::backoff::Backoff;

/// What librdkafka is given at once: little, for what it has can't always be taken back.
const MAX_SENT: usize = 256;
const MAX_SENT_BYTES: usize = 16 << 20;
/// How long to wait for an answer, or for something to change.
const TICK: Duration = Duration::from_millis(10);
/// While letters can't be kept, this is said at most this often.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// The way to the topic; when it is dropped, what waits is given up.
pub struct DeadLetterTopic {
    inbox: Sender<Letter>,
}

impl DeadLetterTopic {
    /// Nothing is asked of Kafka before the first letter comes.
    pub fn start(config: &config::Kafka, topic: &str, membership: Arc<Membership>) -> Result<Self, SourceError> {
        let (inbox, letters) = channel();
        let worker = Worker {
            config: config.clone(),
            topic: topic.to_owned(),
            membership,
            inbox: letters,
            // Made now, for what is wrong with the properties to be told at once.
            producer: Some(Producer::new(config, topic)?),
            waiting: VecDeque::new(),
            sent: HashMap::new(),
            sent_bytes: 0,
            next_id: 0,
            looked_up: HashMap::new(),
            partitions: None,
            backoff: Backoff::default(),
            not_before: None,
            answered: Instant::now(),
            complained: None,
        };
        let thread = thread::Builder::new().name("dead-letters".into()).spawn(move || worker.run());
        thread.map_err(|error| SourceError::Configuration(format!("no thread for the dead letters: {error}")))?;
        Ok(Self { inbox })
    }
}

impl Target for DeadLetterTopic {
    fn take(&self, letter: OutputRecord, ticket: Ticket) {
        // If the thread is gone, the lost ticket stops the host.
        let _ = self.inbox.send(Letter { record: letter, ticket });
    }
}

struct Letter {
    record: OutputRecord,
    ticket: Ticket,
}

impl Letter {
    fn source(&self) -> &TopicPartition {
        &self.record.input.source
    }

    fn is_cancelled(&self) -> bool {
        self.ticket.assignment().is_cancelled()
    }
}

/// What stands in the topic of one source partition, as far as this assignment may come to it again.
struct LookedUp {
    assignment: Weak<Assignment>,
    found: HashSet<Identity>,
}

struct Worker {
    config: config::Kafka,
    topic: String,
    membership: Arc<Membership>,
    inbox: Receiver<Letter>,
    producer: Option<Producer>,
    waiting: VecDeque<Letter>,
    /// What librdkafka has, by the number it was given.
    sent: HashMap<usize, Letter>,
    sent_bytes: usize,
    next_id: usize,
    looked_up: HashMap<TopicPartition, LookedUp>,
    /// How many partitions the topic has, as long as nothing failed.
    partitions: Option<u32>,
    backoff: Backoff,
    not_before: Option<Instant>,
    /// When librdkafka began to have letters, or last answered for one.
    answered: Instant,
    complained: Option<Instant>,
}

impl Worker {
    fn run(mut self) {
        while self.gather() {
            self.waiting.retain(|letter| !letter.is_cancelled());
            if !self.take_cancelled_back() && self.may_send() {
                self.send_waiting();
            }
            self.take_answers();
        }
    }

    /// Waits for letters if there are none. `false`: there won't be any more.
    fn gather(&mut self) -> bool {
        if self.waiting.is_empty() && self.sent.is_empty() {
            match self.inbox.recv() {
                Ok(letter) => self.waiting.push_back(letter),
                Err(_) => return false,
            }
        }
        loop {
            match self.inbox.try_recv() {
                Ok(letter) => self.waiting.push_back(letter),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    /// Whether librdkafka has letters of an assignment that ended. Those of its queue come back; whatever a request
    /// carries has to be waited for, because only then a look-up tells the truth.
    fn take_cancelled_back(&self) -> bool {
        let cancelled = self.sent.values().any(Letter::is_cancelled);
        if let (true, Some(producer)) = (cancelled, &self.producer) {
            producer.empty_queue();
        }
        cancelled
    }

    fn may_send(&self) -> bool {
        !self.waiting.is_empty()
            && !self.membership.is_doubted()
            && self.not_before.is_none_or(|not_before| Instant::now() >= not_before)
    }

    fn send_waiting(&mut self) {
        if let Err(reason) = self.try_to_send() {
            self.complain(&reason);
            self.wait();
        }
    }

    fn wait(&mut self) {
        self.partitions = None;
        self.not_before = Some(Instant::now() + self.backoff.wait());
    }

    fn try_to_send(&mut self) -> Result<(), String> {
        let producer = match self.producer.take() {
            Some(producer) => producer,
            None => Producer::new(&self.config, &self.topic).map_err(|error| error.to_string())?,
        };
        let answer = self.look_up_new(&producer).and_then(|partitions| self.send_by(&producer, partitions));
        self.producer = Some(producer);
        answer
    }

    /// Looks the waiting letters' sources up where that wasn't done for the present assignment. Tells how many
    /// partitions the topic has.
    fn look_up_new(&mut self, producer: &Producer) -> Result<u32, String> {
        let partitions = match self.partitions {
            Some(partitions) => partitions,
            None => producer.partitions()?,
        };
        self.partitions = Some(partitions);
        let mut wanted: HashMap<u32, Vec<Wanted>> = HashMap::new();
        let mut assignments: HashMap<TopicPartition, Weak<Assignment>> = HashMap::new();
        for letter in &self.waiting {
            let assignment = letter.ticket.assignment();
            let is_known = self
                .looked_up
                .get(letter.source())
                .is_some_and(|known| known.assignment.as_ptr() == Arc::as_ptr(assignment));
            if !is_known && assignments.insert(letter.source().clone(), Arc::downgrade(assignment)).is_none() {
                // Whatever lies before is committed, and doesn't come again in this assignment.
                let from = assignment.commit_position().unwrap_or(0);
                let source = letter.source().clone();
                wanted.entry(source.partition % partitions).or_default().push(Wanted { source, from });
            }
        }
        for (partition, wanted) in wanted {
            let mut found = look_up(&self.config, &self.topic, partition, &wanted)?;
            for Wanted { source, .. } in wanted {
                let found = found.remove(&source).unwrap_or_default();
                debug!(%source, topic = self.topic, partition, letters = found.len(), "looked for dead letters of before");
                if let Some(assignment) = assignments.remove(&source) {
                    self.looked_up.insert(source, LookedUp { assignment, found });
                }
            }
        }
        Ok(partitions)
    }

    fn send_by(&mut self, producer: &Producer, partitions: u32) -> Result<(), String> {
        while self.sent.len() < MAX_SENT && self.sent_bytes < MAX_SENT_BYTES {
            let Some(letter) = self.waiting.pop_front() else { break };
            let identity = letter.record.identity();
            if self.looked_up.get(letter.source()).is_some_and(|known| known.found.contains(&identity)) {
                debug!(record = %identity, "its dead letter is in the topic already");
                letter.ticket.settle();
                continue;
            }
            match producer.send(&letter.record, letter.source().partition % partitions, self.next_id) {
                Ok(()) => {
                    if self.sent.is_empty() {
                        self.answered = Instant::now();
                    }
                    self.sent_bytes += letter.record.input.size();
                    self.sent.insert(self.next_id, letter);
                    self.next_id = self.next_id.wrapping_add(1);
                }
                Err(refused) => {
                    self.waiting.push_front(letter);
                    return match refused {
                        Refused::QueueFull => Ok(()),
                        Refused::Other(reason) => Err(reason),
                    };
                }
            }
        }
        Ok(())
    }

    fn take_answers(&mut self) {
        let Some(producer) = &self.producer else {
            thread::sleep(TICK);
            return;
        };
        let mut failed = false;
        for (id, outcome) in producer.poll(TICK) {
            let Some(letter) = self.sent.remove(&id) else { continue };
            self.answered = Instant::now();
            self.sent_bytes -= letter.record.input.size();
            match outcome {
                Outcome::Kept => {
                    letter.ticket.settle();
                    self.recovered();
                }
                Outcome::Failed { reason, perhaps_kept } => {
                    if perhaps_kept {
                        self.looked_up.remove(letter.source());
                    }
                    if !letter.is_cancelled() {
                        self.waiting.push_back(letter);
                    }
                    if let Some(reason) = reason {
                        self.complain(&reason);
                        failed = true;
                    }
                }
            }
        }
        if failed {
            self.wait();
        }
        if !self.sent.is_empty() && self.answered.elapsed() > COMPLAIN_EVERY {
            self.complain("the brokers don't answer");
        }
        // It can't be used any more; when all that it had came back, another one goes on.
        if self.producer.as_ref().is_some_and(Producer::is_broken) {
            if self.sent.is_empty() {
                self.producer = None;
                self.looked_up.clear();
            } else if let Some(producer) = &self.producer {
                producer.give_all_back();
            }
        }
    }

    fn complain(&mut self, reason: &str) {
        if self.complained.is_none_or(|at| at.elapsed() > COMPLAIN_EVERY) {
            let waiting = self.waiting.len() + self.sent.len();
            error!(
                topic = self.topic,
                reason, waiting, "dead letters can't be written to their topic; nothing is lost, trying again"
            );
            self.complained = Some(Instant::now());
        }
    }

    fn recovered(&mut self) {
        self.backoff.reset();
        if self.complained.take().is_some() {
            info!(topic = self.topic, "dead letters are written again");
        }
    }
}
