//! Writes output records to ReductStore and acknowledges them.
//!
//! Guarantees: one writer per entry at any time in this process, one request in flight per entry; at most [`MAX_TURNS`]
//! large requests over all entries, few that carry what writers with few records ask together ([`parts`]), and so few
//! connections; handing a record in never blocks (what is in flight is bounded by [`crate::flow::Budget`] upstream).

mod at_risk;
pub mod attachments;
mod batch_limits;
mod batch_trace;
pub mod check;
mod connections;
pub mod counters;
pub mod dead_letter_target;
mod entry_list;
mod error;
mod hand_over;
mod intermediaries;
pub mod item;
mod joint;
mod letters;
mod many_entries;
mod occupied;
pub mod open_requests;
pub mod pages;
mod parts;
pub mod problems;
pub mod recent;
mod removal;
pub mod request_times;
mod sharing;
pub mod store;
mod turns;
mod unreachable;
mod writer;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tracing::{debug, error, warn};

pub use self::attachments::{AttachmentError, Attachments};
pub use self::batch_limits::BatchLimits;
use self::batch_limits::LearnedLimits;
pub use self::batch_trace::{BatchTarget, TracedBatch, TracedMessage};
use self::counters::SinkCounters;
pub use self::counters::{CountersNow, DeadLetterClass, DeadLetterNote};
pub use self::dead_letter_target::DeadLetterTarget;
use self::entry_list::EntryList;
pub use self::hand_over::{entry_of, hand_over};
pub use self::item::Item;
use self::item::Mapping;
use self::joint::Joint;
pub use self::letters::ShownOutput;
use self::letters::Work;
use self::parts::{ShownPart, WritePart};
pub use self::problems::WriteProblem;
use self::problems::{STORE, WriteProblems};
use self::recent::Recent;
use self::request_times::RequestHistogram;
use self::sharing::Sharing;
use self::store::{Store, StoreError};
use self::turns::{Turn, Turns};
use self::writer::Writer;
use crate::config;
use crate::flow::membership::Membership;
use crate::flow::store_start::Started;
use crate::flow::{CommitGate, LetterRefusal};
use crate::record::entry_name::EntryName;
use crate::record::{OutputRecord, Rejection, TopicPartition};

/// Writers that talk to the store at once; the others wait, and gather larger batches meanwhile.
const MAX_TURNS: usize = 32;
/// How many of these may be writers whose last request failed, or whose entry is slow: each may wait for its time-out.
const MAX_FAILING: usize = 16;
/// How many of these may be writers that find out who made a shared request fail. Most of them did nothing.
const MAX_DIVIDED: usize = 8;
/// Writers with few records that talk to the store at once: they share requests.
const MAX_SMALL_TURNS: usize = 512;
/// How many of these send by themselves what can't be shared.
const MAX_SINGLE: usize = 16;
/// Records that are compared with the store at once, bytes included.
const COMPARED_AT_ONCE: usize = 200;
/// Header bytes of one batch. Source: the server takes 512,000 B of metadata by default, its HTTP library about 400 KB.
pub const BATCH_HEADER_BYTES: usize = 256 * 1024;

/// The sink's handle, shared by all workers.
#[derive(Clone)]
pub struct Sink(Arc<Shared>);

/// What every writer needs.
pub struct Shared {
    pub(crate) store: Store,
    limits: BatchLimits,
    learned_limits: LearnedLimits,
    pub(crate) problems: WriteProblems,
    pub(crate) mapping: Mapping,
    pub(crate) attachments: Arc<Attachments>,
    pub(crate) verify: bool,
    pub(crate) counters: SinkCounters,
    pub(crate) membership: Arc<Membership>,
    /// Where dead letters go; `None`: to the entry that their partition's state names.
    dead_letters: Option<Arc<dyn DeadLetterTarget>>,
    discard: bool,
    runtime: Handle,
    turns: Turns,
    failing_turns: Turns,
    divided_turns: Turns,
    small_turns: Turns,
    single_turns: Turns,
    sharing: Sharing,
    /// The same for what is read back together.
    sharing_reads: Sharing,
    joint_writes: Joint<WritePart>,
    joint_reads: Joint<ShownPart>,
    entry_list: EntryList,
    writers: Mutex<HashMap<EntryName, mpsc::UnboundedSender<Work>>>,
    /// When a request failed last: the store may still be at work on it.
    failed_request: Mutex<Option<Instant>>,
    /// How many ranges of microseconds the writers keep together.
    kept_ranges: Arc<AtomicUsize>,
    failed: OnceLock<String>,
    /// Who wants to know of each batch.
    pub(crate) batches: OnceLock<Arc<dyn BatchTarget>>,
    pub(crate) gate: Arc<CommitGate>,
    recent: Mutex<Recent>,
    /// Partitions that share an entry from which a record of another one was removed.
    harmed_by_removal: Mutex<HashSet<TopicPartition>>,
    this: Weak<Shared>,
}

impl Sink {
    /// The writers run on `runtime`. `attachments`: what entries get beside their records. `dead_letters`: where these go instead of an entry.
    pub fn new(
        store: Store,
        config: &config::StoreConfig,
        labels: &config::Labels,
        attachments: Arc<Attachments>,
        membership: Arc<Membership>,
        dead_letters: Option<Arc<dyn DeadLetterTarget>>,
        runtime: Handle,
    ) -> Self {
        Self(Arc::new_cyclic(|this| Shared {
            store,
            limits: BatchLimits {
                records: config.batch_records,
                bytes: config.batch_bytes,
                header_bytes: BATCH_HEADER_BYTES,
            },
            learned_limits: LearnedLimits::default(),
            problems: WriteProblems::default(),
            mapping: Mapping { labels: labels.clone(), content_types: config.content_types.clone() },
            attachments,
            verify: config.verify_writes,
            counters: SinkCounters::default(),
            membership,
            dead_letters,
            discard: config.discard,
            runtime,
            turns: Turns::new(MAX_TURNS),
            failing_turns: Turns::new(MAX_FAILING),
            divided_turns: Turns::new(MAX_DIVIDED),
            small_turns: Turns::new(MAX_SMALL_TURNS),
            single_turns: Turns::new(MAX_SINGLE),
            sharing: Sharing::default(),
            sharing_reads: Sharing::default(),
            joint_writes: Joint::default(),
            joint_reads: Joint::default(),
            entry_list: EntryList::default(),
            writers: Mutex::default(),
            // What an earlier process, or the host that had a partition before, sent last isn't known.
            failed_request: Mutex::new(Some(Instant::now())),
            kept_ranges: Arc::default(),
            failed: OnceLock::new(),
            batches: OnceLock::new(),
            gate: Arc::default(),
            recent: Mutex::default(),
            harmed_by_removal: Mutex::default(),
            this: this.clone(),
        }))
    }

    /// From now on tells this one of each batch; a second one learns nothing.
    pub fn tell_of_batches(&self, target: Arc<dyn BatchTarget>) {
        let _ = self.0.batches.set(target);
    }

    /// Takes charge of a record: it will be written, or become a dead letter, and then be acknowledged.
    pub fn submit(&self, item: Item) {
        self.0.submit(item);
    }

    /// Takes charge of a record that can't be handled.
    pub fn dead_letter(&self, item: Item, rejection: Rejection, class: DeadLetterClass) {
        self.0.submit_dead_letter(item, rejection, class);
    }

    /// Where dead letters go, if not to an entry.
    pub fn dead_letter_target(&self) -> Option<&dyn DeadLetterTarget> {
        self.0.dead_letters.as_deref()
    }

    /// What keeps records from being written at present.
    pub fn problems(&self) -> Vec<WriteProblem> {
        let mut problems = self.0.problems.list();
        if problems.iter().all(|problem| problem.code != STORE) {
            problems.extend(self.0.store.hang());
        }
        problems.extend(self.0.attachments.problem());
        problems
    }

    /// How long the oldest request to the store has waited for its answer.
    pub fn oldest_request(&self) -> Option<Duration> {
        self.0.store.open_requests().oldest(Instant::now())
    }

    /// Closed while a failure of the store isn't explained.
    pub fn gate(&self) -> &Arc<CommitGate> {
        &self.0.gate
    }

    /// When the store was started, as far as one answer tells.
    pub async fn store_started(&self) -> Result<Started, StoreError> {
        self.0.store.started().await
    }

    /// The same, as closely as it can be known.
    pub async fn store_started_exactly(&self) -> Result<Started, StoreError> {
        self.0.store.started_exactly().await
    }

    /// What was done since the start.
    pub fn counters(&self) -> CountersNow {
        self.0.counters.snapshot()
    }

    /// The labels that the record would be written with.
    pub fn labels_of(&self, record: &OutputRecord) -> HashMap<String, String> {
        self.0.mapping.labels.all_labels(record)
    }

    /// What the writers run on.
    pub fn runtime(&self) -> &Handle {
        &self.0.runtime
    }

    /// The store that is written to.
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// The last dead letters, the newest first.
    pub fn last_dead_letters(&self) -> Vec<DeadLetterNote> {
        self.0.counters.last_dead_letters()
    }

    /// How long requests to the store took.
    pub fn request_times(&self) -> Vec<RequestHistogram> {
        self.0.store.request_times().histograms()
    }

    /// Waits until no request is under way.
    pub async fn idle(&self) {
        // Those that have a failing, a divided or a single turn have one of these too.
        let small = self.0.small_turns.all().await;
        drop((self.0.turns.all().await, small));
    }

    #[cfg(test)]
    fn shared(&self) -> &Arc<Shared> {
        &self.0
    }

    /// Why the sink can't go on, if it can't.
    pub fn failure(&self) -> Option<&str> {
        self.0.failed.get().map(String::as_str)
    }
}

impl Shared {
    fn submit(&self, item: Item) {
        if self.discard {
            match &item.record.rejection {
                Some(_) => self.counters.written_letters(1),
                None => self.counters.written(1, item.record.payload().len() as u64),
            }
            item.ack.acknowledge();
            return;
        }
        let entry = item.entry.clone();
        self.hand(&entry, Work::Write(Box::new(item)));
    }

    /// Gives the entry's one writer something to do.
    fn hand(&self, entry: &EntryName, work: Work) {
        let mut writers = self.writers();
        let work = match writers.get(entry) {
            Some(writer) => match writer.send(work) {
                Ok(()) => return,
                // Only a writer that panicked leaves the registry without retiring.
                Err(unsent) => unsent.0,
            },
            None => work,
        };
        let Some(shared) = self.this.upgrade() else { return };
        let (sender, inbox) = mpsc::unbounded_channel();
        // The receiver is at hand, so this can't fail.
        let _ = sender.send(work);
        self.runtime.spawn(Box::new(Writer::new(entry.clone(), shared, inbox)).run());
        writers.insert(entry.clone(), sender);
    }

    pub(crate) fn dead_letter(&self, item: Item, reason: &str, class: DeadLetterClass) {
        self.submit_dead_letter(item, Rejection { reason: reason.to_owned(), plugin: None }, class);
    }

    fn submit_dead_letter(&self, item: Item, rejection: Rejection, class: DeadLetterClass) {
        let Item { record, ack, .. } = item;
        if ack.state().refuse_letter(LetterRefusal::Failing(rejection.reason.clone())) {
            // It is a dead letter already, and stays where it is.
            ack.acknowledge();
            return;
        }
        if let Some(first) = &record.rejection {
            // Where not even the dead letter can be written, going on would lose the record.
            let failure = format!(
                "the dead letter of {} can't be written: {} (first: {})",
                record.identity(),
                rejection.reason,
                first.reason
            );
            error!("{failure}");
            let _ = self.failed.set(failure);
            return;
        }
        // The failures of plugins are logged by kind, in the chain.
        match &rejection.plugin {
            Some(_) => debug!(record = %record.identity(), reason = rejection.reason, "to the dead letters"),
            None => warn!(record = %record.identity(), reason = rejection.reason, "to the dead letters"),
        }
        self.counters.dead_letter(&record, &rejection, class);
        let dead_letter = record.rejected(rejection);
        match &self.dead_letters {
            Some(target) if !self.discard => target.take(dead_letter, ack),
            _ => {
                let entry = ack.state().dead_letter_entry.clone();
                self.submit(Item { record: dead_letter, entry, ack });
            }
        }
    }

    /// How many entries have a writer.
    pub(crate) fn writer_count(&self) -> usize {
        self.writers().len()
    }

    /// Lets a writer go that has nothing to do. `false`: something arrived in the meantime.
    pub(crate) fn retire(&self, entry: &EntryName, inbox: &mpsc::UnboundedReceiver<Work>) -> bool {
        let mut writers = self.writers();
        // Nothing can arrive while the lock is held.
        if inbox.is_empty() {
            writers.remove(entry);
        }
        inbox.is_empty()
    }

    /// What a batch may hold: as configured, or less where something before the store takes less.
    pub(crate) fn limits(&self) -> BatchLimits {
        self.learned_limits.apply(self.limits)
    }

    /// A batch of this size was too large for something before the store.
    pub(crate) fn learn_limit(&self, error: &StoreError, header_bytes: usize, bytes: u64) {
        self.learned_limits.learn(error, header_bytes, bytes);
    }

    /// Waits until few enough others talk to the store whose last request failed, as the caller's did.
    pub(crate) async fn failing_turn(&self, topic: &Arc<str>) -> Turn {
        self.failing_turns.next(topic).await
    }

    /// Waits until few enough others find out whether it was they that made a shared request fail.
    pub(crate) async fn divided_turn(&self, topic: &Arc<str>) -> Turn {
        self.divided_turns.next(topic).await
    }

    /// Waits until few enough others send by themselves what was to go together with others.
    pub(crate) async fn single_turn(&self, topic: &Arc<str>) -> Turn {
        self.single_turns.next(topic).await
    }

    /// Waits for a turn to talk to the store, for records of this topic.
    pub(crate) async fn turn(&self, is_small: bool, topic: &Arc<str>) -> Turn {
        if is_small { self.small_turns.next(topic).await } else { self.turns.next(topic).await }
    }

    fn writers(&self) -> MutexGuard<'_, HashMap<EntryName, mpsc::UnboundedSender<Work>>> {
        self.writers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
