//! A worker: a thread that owns plugin instances and the readers of some partitions, and takes each record from its reader through the
//! chain to the sink.
//!
//! Guarantees: the records of a partition go through the chain in order, one after the other; nothing is read from a partition that has
//! used up its share of the budget; a record that comes a second time is ignored, and every other one is handed to the sink, or acknowledged
//! (a verdict dropped it, or a failure policy skipped it), or held for another attempt, or left unacknowledged because its partition isn't
//! read any more or the host stops; the worker looks at its commands and at the state of the partition before each record; no plugin instance is started
//! before the worker has a partition.

use std::sync::mpsc::{Receiver, TryRecvError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tracing::{debug, warn};

use super::failure::FailureReason;
use super::hung::{HungCall, HungRecords, RecordAsked};
use super::lock;
use super::tapping::tapped;
use crate::chain::{Chain, Outcome, PluginFailure, SharedChain};
use crate::config::FailurePolicy;
use crate::consumer::{PartitionReader, Polled};
use crate::flow::backoff::Backoff;
use crate::flow::pauses::Pauses;
use crate::flow::{AckHandle, Budget, PartitionState, Phase};
use crate::health::tap::Taps;
use crate::plugin::CallSlot;
use crate::record::{InputRecord, OutputRecord, Rejection};
use crate::sink::{DeadLetterClass, Item, Sink, hand_over};

/// How many records of one partition are handled in a row, before the next partition has its turn.
const TURN: usize = 256;
/// After this many records, or this many bytes, the budget is looked at again: looking at it before each record would make the
/// workers wait for each other. Each worker may exceed the budget by as much.
const BUDGET_RECORDS: usize = 32;
const BUDGET_BYTES: usize = 256 * 1024;
/// The longest wait for something to do: a lost wake-up costs no more than this.
const NAP: Duration = Duration::from_millis(50);
/// A record that waits for a plugin's circuit breaker is tried again after this time at the latest.
const LONGEST_WAIT: Duration = Duration::from_millis(200);

/// What the host tells a worker.
pub enum WorkerCommand {
    /// Reads this partition until its state says otherwise.
    Add(PartitionReader, Arc<PartitionState>),
    /// Ends the worker.
    Stop,
}

/// What a worker is doing, for others to see.
#[derive(Debug, Default)]
pub(super) struct WorkerActivity {
    /// The plugin call that it is in.
    pub calls: Arc<CallSlot>,
    /// The record that it asks the plugins about, or asked them about last.
    pub record: Mutex<Option<RecordAsked>>,
}

/// See the module.
pub(super) struct Worker {
    pub activity: Arc<WorkerActivity>,
    pub hung: Arc<HungRecords>,
    pub commands: Receiver<WorkerCommand>,
    pub shared: Arc<SharedChain>,
    pub sink: Sink,
    pub budget: Arc<Budget>,
    /// The topics that the operator has paused.
    pub pauses: Arc<Pauses>,
    /// The callers who want to see records on their way.
    pub taps: Arc<Taps>,
    /// Tells the host that it can't go on.
    pub fail: Arc<dyn Fn(FailureReason) + Send + Sync>,
}

struct WorkerPartition {
    reader: PartitionReader,
    state: Arc<PartitionState>,
    /// A record that has to be tried again before the next one is read.
    held: Option<Held>,
    /// Whether the host can't go on because of this partition. Then nothing more of it is handled.
    stopped: bool,
}

/// A record that waits for its next attempt.
struct Held {
    input: Arc<InputRecord>,
    ack: AckHandle,
    attempts: u32,
    backoff: Backoff,
    /// When to try again; `None`: at once.
    next: Option<Instant>,
}

impl Worker {
    /// Runs until it is told to stop.
    pub fn run(self) {
        // Before the first partition there is nothing to do, and no instance is started.
        let Ok(WorkerCommand::Add(reader, state)) = self.commands.recv() else { return };
        self.activity.calls.watch_this_thread();
        let chain = match Chain::new(Arc::clone(&self.shared)) {
            Ok(chain) => chain,
            Err(error) => {
                let full = format!("can't start the plugins: {error:#}");
                return (self.fail)(FailureReason { full, public: "can't start the plugins; the log says why".into() });
            }
        };
        self.activity.calls.rest();
        let mut running = Running { worker: self, chain, partitions: Vec::new() };
        let mut command = Some(WorkerCommand::Add(reader, state));
        loop {
            match command.take() {
                Some(WorkerCommand::Stop) => return,
                Some(WorkerCommand::Add(reader, state)) => running.add(reader, state),
                None => {}
            }
            command = match running.worker.commands.try_recv() {
                Ok(command) => Some(command),
                Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) => running.turn(),
            };
        }
    }

    /// Asks the plugins about the record, and shows to taps what they answered.
    fn ask(&self, chain: &mut Chain, held: &Held) -> Outcome {
        let is_tapped = self.taps.wants(&held.input.source.topic);
        if is_tapped {
            chain.watch_next();
        }
        *lock(&self.activity.record) = Some(RecordAsked::of(&held.input));
        let outcome = chain.attempt(&held.input, held.attempts + 1);
        self.activity.calls.rest();
        if is_tapped {
            self.taps.take(tapped(&self.sink, &held.input, chain.take_seen(), &outcome));
        }
        outcome
    }
}

/// A worker with a chain of its own.
struct Running {
    worker: Worker,
    chain: Chain,
    partitions: Vec<WorkerPartition>,
}

impl Running {
    fn add(&mut self, mut reader: PartitionReader, state: Arc<PartitionState>) {
        reader.wake(std::thread::current());
        self.partitions.push(WorkerPartition { reader, state, held: None, stopped: false });
    }

    /// Gives each partition its turn, and naps if none had anything to do. A command ends it early.
    fn turn(&mut self) -> Option<WorkerCommand> {
        let (mut busy, mut is_held_up) = (false, false);
        let (mut records, mut bytes) = (BUDGET_RECORDS, 0);
        // Each time another partition comes first, because the budget may not suffice for all.
        let next_first = 1.min(self.partitions.len());
        self.partitions.rotate_left(next_first);
        self.partitions.retain(|partition| !partition.is_finished());
        for partition in &mut self.partitions {
            let mut share = partition.state.share();
            for _ in 0..TURN {
                // A plugin may take long for each record, and a command shall not wait for a whole turn.
                if let Ok(command) = self.worker.commands.try_recv() {
                    return Some(command);
                }
                if records >= BUDGET_RECORDS || bytes >= BUDGET_BYTES {
                    share = partition.state.share();
                    (records, bytes) = (0, 0);
                }
                if partition.stopped {
                    break;
                }
                let has_share = partition.state.is_within(share);
                is_held_up |= !has_share;
                self.chain.refresh();
                self.worker.activity.calls.rest();
                match partition.next(&mut self.chain, &self.worker, has_share) {
                    Step::Idle => break,
                    Step::Done(more, size) => {
                        busy = true;
                        records += more;
                        bytes += size;
                    }
                    Step::Fatal(reason) => {
                        partition.stopped = true;
                        (self.worker.fail)(reason);
                    }
                }
            }
        }
        if !busy {
            let has_share = || self.partitions.iter().all(|partition| partition.state.has_share_left());
            nap(&self.worker.budget, is_held_up, has_share, NAP);
        }
        None
    }
}

/// Waits until the thread is woken, at most for `longest`. `is_held_up`: a partition had used up its share of the budget, so that room in
/// the budget has to wake the thread, too. `has_share`: whether every partition has some of its share left by now.
fn nap(budget: &Budget, is_held_up: bool, has_share: impl FnOnce() -> bool, longest: Duration) {
    if is_held_up {
        budget.wake_when_free();
        // Room that was given back before this thread asked to be woken woke nobody.
        if has_share() {
            return;
        }
    }
    std::thread::park_timeout(longest);
}

enum Step {
    /// Something was done, with this many records of this many bytes.
    Done(usize, usize),
    Idle,
    Fatal(FailureReason),
}

impl WorkerPartition {
    /// Whether nothing is left to do here: the partition isn't read any more, and the record that is held, if there is one, is read again
    /// by the partition's next reader.
    fn is_finished(&self) -> bool {
        match self.state.phase() {
            Phase::Reading => false,
            Phase::Revoked | Phase::Ended => true,
            Phase::RereadRequired | Phase::AwaitingReread { .. } | Phase::Stopped => {
                self.held.is_none() || !self.state.may_write()
            }
        }
    }

    /// Handles the record that is held, or the next one. `may_read`: whether the budget allows to read another record.
    fn next(&mut self, chain: &mut Chain, worker: &Worker, may_read: bool) -> Step {
        if self.is_finished() {
            self.held = None;
            return Step::Idle;
        }
        if let Some(held) = self.held.take() {
            if held.next.is_some_and(|next| Instant::now() < next) {
                self.held = Some(held);
                return Step::Idle;
            }
            return self.transform(chain, worker, held);
        }
        if !may_read || worker.pauses.is_paused(&self.state.source.topic) || !self.state.may_read() {
            return Step::Idle;
        }
        match self.reader.poll() {
            Polled::Nothing => Step::Idle,
            Polled::NothingBefore(end) => {
                self.state.skip_to(end);
                Step::Done(1, 0)
            }
            Polled::OutOfRange => {
                self.state.report_out_of_range();
                Step::Idle
            }
            Polled::Fatal(reason) => Step::Fatal(reason.into()),
            Polled::Unreadable(record, reason) => {
                let size = record.size();
                if let Some(ack) = self.receive(&record) {
                    let why = Rejection { reason, plugin: None };
                    reject(&worker.sink, &self.state, Arc::new(record), ack, why, DeadLetterClass::Record);
                }
                Step::Done(1, size)
            }
            Polled::Record(record) => {
                let Some(ack) = self.receive(&record) else { return Step::Done(1, 0) };
                let now = Held { input: Arc::new(record), ack, attempts: 0, backoff: Backoff::default(), next: None };
                self.transform(chain, worker, now)
            }
        }
    }

    /// Takes a record in. `None`: it isn't taken, because it was received before or the partition is about to be read again.
    fn receive(&self, record: &InputRecord) -> Option<AckHandle> {
        let ack = self.state.receive_under(record.offset, record.size(), self.reader.leader_epoch());
        if ack.is_none() {
            debug!(partition = %self.state.source, offset = record.offset, "the record isn't taken");
        }
        ack
    }

    fn transform(&mut self, chain: &mut Chain, worker: &Worker, held: Held) -> Step {
        let (mut records, size) = (1, held.input.size());
        let sink = &worker.sink;
        let outcome = match worker.hung.of(&held.input).filter(|hung| chain.has_version(&hung.failure)) {
            Some(HungCall { failure, policy: FailurePolicy::Stop }) => Outcome::Stop(failure),
            Some(HungCall { failure, policy: FailurePolicy::Skip }) => Outcome::Skipped(failure),
            Some(HungCall { failure, policy: FailurePolicy::DeadLetter | FailurePolicy::Pass }) => {
                Outcome::DeadLetter(failure)
            }
            None => worker.ask(chain, &held),
        };
        match outcome {
            Outcome::Outputs(outputs) => {
                records = outputs.len().max(1);
                hand_over(sink, &self.state, outputs, held.ack);
            }
            Outcome::Dropped | Outcome::Skipped(_) => held.ack.acknowledge(),
            Outcome::DeadLetter(failure) => {
                reject(sink, &self.state, held.input, held.ack, rejection(failure), DeadLetterClass::Plugin);
            }
            Outcome::Retry(failure) => {
                let mut held = held;
                let wait = held.backoff.wait();
                held.attempts += 1;
                held.next = Some(Instant::now() + wait);
                let (offset, reason) = (held.input.offset, failure.reason);
                warn!(partition = %self.state.source, offset, reason, ?wait, "a plugin asks for a retry");
                self.held = Some(held);
            }
            Outcome::Wait(failure, wait) => {
                // It is tried again from time to time, because the probe of another partition may have closed the breaker.
                let wait = wait.min(LONGEST_WAIT);
                let (offset, reason) = (held.input.offset, failure.reason);
                debug!(partition = %self.state.source, offset, plugin = %failure.plugin, reason, ?wait, "the record waits for a plugin");
                self.held = Some(Held { next: Some(Instant::now() + wait), ..held });
            }
            Outcome::Stop(failure) => {
                let failed = format!("plugin {} failed on {}@{}", failure.plugin, self.state.source, held.input.offset);
                return Step::Fatal(FailureReason {
                    full: format!("{failed}: {} (its on_failure is \"stop\")", failure.reason),
                    public: format!("{failed}; its on_failure is \"stop\", and the log says why"),
                });
            }
        }
        Step::Done(records, size)
    }
}

fn reject(
    sink: &Sink,
    state: &Arc<PartitionState>,
    input: Arc<InputRecord>,
    ack: AckHandle,
    why: Rejection,
    class: DeadLetterClass,
) {
    let item = Item { record: OutputRecord::unchanged(input), entry: state.dead_letter_entry.clone(), ack };
    sink.dead_letter(item, why, class);
}

fn rejection(failure: PluginFailure) -> Rejection {
    let version = failure.version();
    Rejection { reason: failure.reason, plugin: Some((failure.plugin, version)) }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    /// Longer than any test: a wake-up that is lost shows as a test that fails, not as one that is slow.
    const FOREVER: Duration = Duration::from_secs(24 * 3600);

    /// Naps in a thread of its own; fails if the thread isn't woken.
    fn must_be_woken(nap: impl FnOnce() + Send + 'static, wake: impl FnOnce(&std::thread::Thread)) {
        let (done, ended) = channel();
        let thread = std::thread::spawn(move || {
            nap();
            let _ = done.send(());
        });
        wake(thread.thread());
        ended.recv_timeout(Duration::from_secs(300)).expect("the wake-up was lost");
        thread.join().unwrap();
    }

    #[test]
    fn room_in_the_budget_wakes_a_worker_whenever_it_comes() {
        for round in 0..500 {
            let budget = Arc::new(Budget::new(1, usize::MAX));
            budget.take(1, 1);
            let napping = Arc::clone(&budget);
            must_be_woken(
                move || nap(&napping, true, || napping.has_room(), FOREVER),
                |_| {
                    // Before it naps, on its way there, or while it does.
                    (0..round % 50 * 200).for_each(|_| std::hint::spin_loop());
                    budget.give_back(1, 1);
                },
            );
        }
    }

    /// A command, a record or the end of a pause may come just before the worker naps.
    #[test]
    fn a_wake_up_before_the_nap_is_not_lost() {
        for is_held_up in [false, true] {
            let budget = Budget::new(1, usize::MAX);
            budget.take(1, 1);
            must_be_woken(move || nap(&budget, is_held_up, || false, FOREVER), std::thread::Thread::unpark);
        }
    }
}
