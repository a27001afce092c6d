//! A worker: a thread that owns the plugin instances and the partitions pinned to it, and takes each record from its
//! feed through the chain to the sink.
//!
//! Guarantees: the records of a partition go through the chain in order, one after the other; nothing is read while the
//! budget is used up; every record that was read ends in exactly one of: handed to the sink, settled by a verdict, or
//! left unsettled because the host is stopping.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::time::{Duration, Instant};

use tracing::{debug, warn};

use crate::chain::{Chain, Failure, Outcome};
use crate::flow::backoff::Backoff;
use crate::flow::partition_state::{AckHandle, Budget, PartitionState};
use crate::record::entry_name::{EntryName, NameError};
use crate::record::{InputRecord, OutputRecord, Rejection, TopicPartition};
use crate::sink::{Item, Sink};
use crate::source::{PartitionReader, Polled};

/// Records of one partition in a row, so that others get their turn.
const TURN: usize = 256;
/// After so many records, or so many bytes, the budget is looked at again: looking at it each time would make the
/// workers wait for each other. It may be exceeded by that much a worker.
const BUDGET_RECORDS: usize = 32;
const BUDGET_BYTES: usize = 256 * 1024;
/// The longest wait for something to do: a lost wake-up costs no more than this.
const NAP: Duration = Duration::from_millis(50);
/// A record that waits for a plugin's circuit breaker is looked at again after so long.
const LONGEST_WAIT: Duration = Duration::from_millis(200);

pub enum Command {
    Add(PartitionReader, Arc<PartitionState>),
    /// Stops reading a partition, drops its feed, and says so.
    Remove(TopicPartition, Sender<()>),
    /// Nothing is in flight, and yet Kafka says that the partition reaches up to here.
    Probe(TopicPartition, u64),
    /// Reads the partition again from this offset on, once what is in flight is settled.
    Rewind(TopicPartition, u64),
    Stop,
}

pub struct Worker {
    pub commands: Receiver<Command>,
    pub chain: Chain,
    pub sink: Sink,
    pub budget: Arc<Budget>,
    /// Tells the host that it can't go on.
    pub fail: Arc<dyn Fn(String) + Send + Sync>,
    pub partitions: Vec<Partition>,
}

pub struct Partition {
    feed: PartitionReader,
    assignment: Arc<PartitionState>,
    /// A record that has to be tried again before the next one is read.
    held: Option<Held>,
    /// Where to begin anew when nothing is in flight any more.
    rewind: Option<u64>,
    stopped: bool,
}

struct Held {
    input: Arc<InputRecord>,
    ack: AckHandle,
    attempts: u32,
    backoff: Backoff,
    /// When to try again; `None`: at once.
    next: Option<Instant>,
}

impl Worker {
    /// Runs until told to stop.
    pub fn run(mut self) {
        loop {
            match self.commands.try_recv() {
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return,
                Ok(Command::Add(feed, assignment)) => self.add(feed, assignment),
                Ok(Command::Remove(source, done)) => {
                    self.partitions.retain(|partition| partition.assignment.source != source);
                    // The other side waits no longer than it likes.
                    let _ = done.send(());
                }
                Ok(Command::Probe(source, end)) => {
                    if let Some(idle) = self.partitions.iter_mut().find(|p| p.assignment.source == source) {
                        idle.feed.probe(end);
                    }
                }
                Ok(Command::Rewind(source, to)) => {
                    if let Some(partition) = self.partitions.iter_mut().find(|p| p.assignment.source == source) {
                        partition.rewind = Some(to);
                    }
                }
                Err(TryRecvError::Empty) => {
                    if !self.turn() {
                        self.nap();
                    }
                }
            }
        }
    }

    fn add(&mut self, mut feed: PartitionReader, assignment: Arc<PartitionState>) {
        feed.wake(std::thread::current());
        self.partitions.push(Partition { feed, assignment, held: None, rewind: None, stopped: false });
    }

    fn nap(&self) {
        if !self.budget.has_room() {
            self.budget.wake_when_free();
            if self.budget.has_room() {
                return;
            }
        }
        std::thread::park_timeout(NAP);
    }

    /// Gives each partition its turn. `false`: there was nothing to do.
    fn turn(&mut self) -> bool {
        let mut busy = false;
        let (mut records, mut bytes) = (BUDGET_RECORDS, 0);
        // Another one is first each time: the budget may not suffice for all.
        let next_first = 1.min(self.partitions.len());
        self.partitions.rotate_left(next_first);
        for partition in &mut self.partitions {
            for _ in 0..TURN {
                if records >= BUDGET_RECORDS || bytes >= BUDGET_BYTES {
                    if !self.budget.has_room() {
                        return busy;
                    }
                    (records, bytes) = (0, 0);
                }
                if partition.stopped {
                    break;
                }
                self.chain.refresh();
                match partition.next(&mut self.chain, &self.sink) {
                    Step::Idle => break,
                    Step::Done(more, size) => {
                        busy = true;
                        records += more;
                        bytes += size;
                    }
                    Step::Fatal(reason) => {
                        partition.stopped = true;
                        (self.fail)(reason);
                    }
                }
            }
        }
        busy
    }
}

enum Step {
    /// Something was done, with so many records of so many bytes.
    Done(usize, usize),
    Idle,
    Fatal(String),
}

impl Partition {
    fn next(&mut self, chain: &mut Chain, sink: &Sink) -> Step {
        if self.rewind.is_some() && self.assignment.is_stale() {
            self.held = None;
        }
        if let Some(held) = self.held.take() {
            if held.next.is_some_and(|next| Instant::now() < next) {
                self.held = Some(held);
                return Step::Idle;
            }
            return self.transform(chain, sink, held);
        }
        if let Some(to) = self.rewind {
            if !self.assignment.rewind(to) {
                return Step::Idle;
            }
            self.feed.rewind(to);
            self.rewind = None;
        }
        // Nothing is committed before the others have been read again, too: they get the whole of the budget.
        if sink.removals() > 0 && self.assignment.was_read_again() {
            return Step::Idle;
        }
        match self.feed.poll() {
            Polled::Nothing => Step::Idle,
            Polled::NothingBefore(end) => {
                self.assignment.skip_to(end);
                Step::Done(1, 0)
            }
            Polled::Fatal(reason) => Step::Fatal(reason),
            Polled::Unreadable(record, reason) => {
                let size = record.size();
                if let Some(ack) = self.receive(&record) {
                    reject(sink, &self.assignment, Arc::new(record), ack, Rejection { reason, plugin: None });
                }
                Step::Done(1, size)
            }
            Polled::Record(record) => {
                let Some(ack) = self.receive(&record) else { return Step::Done(1, 0) };
                let now = Held { input: Arc::new(record), ack, attempts: 0, backoff: Backoff::default(), next: None };
                self.transform(chain, sink, now)
            }
        }
    }

    /// `None`: it was received before, and is accounted for.
    fn receive(&self, record: &InputRecord) -> Option<AckHandle> {
        let ack = self.assignment.receive(record.offset, record.size());
        if ack.is_none() {
            debug!(partition = %self.assignment.source, offset = record.offset, "received again");
        }
        ack
    }

    fn transform(&mut self, chain: &mut Chain, sink: &Sink, held: Held) -> Step {
        let (mut records, size) = (1, held.input.size());
        match chain.attempt(&held.input, held.attempts + 1) {
            Outcome::Outputs(outputs) => {
                records = outputs.len().max(1);
                hand_over(sink, &self.assignment, outputs, held.ack);
            }
            Outcome::Dropped | Outcome::Skipped(_) => held.ack.acknowledge(),
            Outcome::DeadLetter(failure) => {
                reject(sink, &self.assignment, held.input, held.ack, rejection(failure));
            }
            Outcome::Retry(failure) => {
                let mut held = held;
                let wait = held.backoff.wait();
                held.attempts += 1;
                held.next = Some(Instant::now() + wait);
                let (offset, reason) = (held.input.offset, failure.reason);
                warn!(partition = %self.assignment.source, offset, reason, ?wait, "a plugin asks for a retry");
                self.held = Some(held);
            }
            Outcome::Wait(failure, wait) => {
                // Looked at again from time to time: another partition's trial may have gone well.
                let wait = wait.min(LONGEST_WAIT);
                let (offset, reason) = (held.input.offset, failure.reason);
                debug!(partition = %self.assignment.source, offset, plugin = %failure.plugin, reason, ?wait, "waiting");
                self.held = Some(Held { next: Some(Instant::now() + wait), ..held });
            }
            Outcome::Stop(failure) => {
                let at = format!("{}@{}", self.assignment.source, held.input.offset);
                return Step::Fatal(format!(
                    "plugin {} failed on {at}: {} (its on_failure is \"stop\")",
                    failure.plugin, failure.reason
                ));
            }
        }
        Step::Done(records, size)
    }
}

/// Hands a record's outputs to the sink; its ack is settled with the last of them.
pub(crate) fn hand_over(sink: &Sink, assignment: &Arc<PartitionState>, outputs: Vec<OutputRecord>, ack: AckHandle) {
    let own = outputs.iter().map(OutputRecord::changed_bytes).sum();
    let more = outputs.len().saturating_sub(1);
    if more > 0 || own > 0 {
        ack.grow(more, own);
    }
    let mut outputs = outputs.into_iter().peekable();
    let mut ack = Some(ack);
    while let Some(record) = outputs.next() {
        let Some(own) = (if outputs.peek().is_some() { ack.as_ref().map(AckHandle::share) } else { ack.take() }) else {
            return;
        };
        match entry_of(assignment, &record) {
            Ok(entry) => sink.submit(Item { record, entry, ack: own }),
            Err(error) => {
                let item = Item { record, entry: assignment.dead_letter_entry.clone(), ack: own };
                sink.dead_letter(item, Rejection { reason: error.to_string(), plugin: None });
            }
        }
    }
    // No outputs at all: nothing is left to be written.
    if let Some(ack) = ack {
        ack.acknowledge();
    }
}

pub(crate) fn entry_of(assignment: &PartitionState, record: &OutputRecord) -> Result<EntryName, NameError> {
    match &record.entry {
        None => Ok(assignment.entry.clone()),
        Some(name) => assignment.template.render(name, &assignment.source),
    }
}

fn reject(sink: &Sink, assignment: &Arc<PartitionState>, input: Arc<InputRecord>, ack: AckHandle, why: Rejection) {
    let item = Item { record: OutputRecord::unchanged(input), entry: assignment.dead_letter_entry.clone(), ack };
    sink.dead_letter(item, why);
}

fn rejection(failure: Failure) -> Rejection {
    Rejection { reason: failure.reason, plugin: Some((failure.plugin, failure.digest.to_string())) }
}
