//! Writes output records to ReductStore and acknowledges them.
//!
//! Guarantees: one writer per entry at any time in this process, one request in flight per entry; at most [`MAX_TURNS`]
//! large requests over all entries, few that carry what writers with few records ask together ([`parts`]), and so few
//! connections; handing a record in never blocks (what is in flight is bounded by [`crate::flow::Budget`] upstream).

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
mod writer;

use std::collections::{HashMap, HashSet};
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
use self::recent::{Recent, Written};
use self::request_times::RequestHistogram;
use self::sharing::Sharing;
use self::store::{Content, QueriedRecord, Store, StoreError};
use self::turns::{Turn, Turns};
use self::writer::Writer;
use crate::config;
use crate::flow::membership::Membership;
use crate::flow::store_start::Started;
use crate::flow::{CommitGate, ReplayRefusal};
use crate::record::entry_name::EntryName;
use crate::record::{Identity, OutputRecord, Rejection, TopicPartition};

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
/// Entries in which an old record is looked for after the store has restarted.
const SETTLED_ASKED: usize = 8;
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
    failed: OnceLock<String>,
    /// Who wants to know of each batch.
    pub(crate) batches: OnceLock<Arc<dyn BatchTarget>>,
    pub(crate) gate: Arc<CommitGate>,
    recent: Mutex<Recent>,
    /// Partitions that share an entry from which a record of another one was removed.
    neighbours: Mutex<HashSet<TopicPartition>>,
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
            failed: OnceLock::new(),
            batches: OnceLock::new(),
            gate: Arc::default(),
            recent: Mutex::default(),
            neighbours: Mutex::default(),
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

    /// From now on remembers what was written last into each entry: `depth` records.
    pub fn remember(&self, depth: usize) {
        *self.0.recent() = Recent::new(depth);
    }

    /// Compares the remembered records below the given offsets of their partitions with the store. Answers with the first
    /// offset of each partition that is missing or damaged.
    pub async fn harmed(
        &self,
        before: &HashMap<TopicPartition, u64>,
    ) -> Result<HashMap<TopicPartition, u64>, StoreError> {
        let is_before = |identity: &Identity| before.get(&identity.source).is_some_and(|to| identity.offset < *to);
        let at_risk = self.0.recent().at_risk(Instant::now(), is_before);
        let mut harmed: HashMap<TopicPartition, u64> = HashMap::new();
        for (entry, records) in at_risk {
            let mut by_time: Vec<Written> = records;
            by_time.sort_by_key(|record| record.time_us);
            for near in by_time.chunk_by(|one, next| next.time_us - one.time_us <= writer::NEAR_US) {
                let damaged = match self.0.damaged(&entry, near).await {
                    // A store that is away is asked again. One that fails at this entry may have lost what it holds, and must
                    // not keep the others from being re-read.
                    Err(error @ StoreError::Unavailable(_)) => return Err(error),
                    Err(error) => {
                        warn!(%entry, %error, "the entry can't be read: taking its last records for damaged");
                        near.iter().collect()
                    }
                    Ok(damaged) => damaged,
                };
                for record in damaged {
                    warn!(%entry, record = %record.identity, "ReductStore doesn't have it any more as it was acknowledged");
                    let Identity { source, offset, .. } = &record.identity;
                    let first = harmed.entry(source.clone()).or_insert(*offset);
                    *first = (*offset).min(*first);
                }
            }
        }
        Ok(harmed)
    }

    /// A record that this host wrote, that no crash of the store can take, and that the store doesn't have; `None`: none of
    /// those that are looked for. A store that lost one isn't the one that acknowledged it.
    pub async fn lost_without_a_crash(&self) -> Result<Option<(EntryName, Identity)>, StoreError> {
        let settled = self.0.recent().settled(SETTLED_ASKED);
        for (entry, Written { time_us, identity, .. }) in settled {
            let page = self.0.store.heads(&entry, time_us..time_us.saturating_add(1), 1).await?;
            let is_there = |seen: &QueriedRecord| seen.identity.as_ref().is_some_and(|seen| seen.matches(&identity));
            if !page.seen.iter().any(is_there) {
                return Ok(Some((entry, identity)));
            }
        }
        Ok(None)
    }

    /// The partitions, since the last call, that share an entry from which a record of another one was removed: the store
    /// rewrote a block that may hold records of theirs. Until they are re-read the gate is closed by a failure.
    pub fn take_neighbours(&self) -> HashSet<TopicPartition> {
        std::mem::take(&mut self.0.neighbours())
    }

    /// Gives those back that can't be re-read yet: this host doesn't read them at present. The gate doesn't wait for them.
    pub fn keep_neighbours(&self, neighbours: HashSet<TopicPartition>) {
        self.0.neighbours().extend(neighbours);
    }

    /// The lowest offset of each partition that a crash of the store may harm at present.
    pub fn lowest_at_risk(&self) -> HashMap<TopicPartition, u64> {
        self.0.recent().lowest(Instant::now())
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
        self.hand(&entry, Work::Write(item));
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
        self.runtime.spawn(Writer::new(entry.clone(), shared, inbox).run());
        writers.insert(entry.clone(), sender);
    }

    pub(crate) fn dead_letter(&self, item: Item, reason: &str, class: DeadLetterClass) {
        self.submit_dead_letter(item, Rejection { reason: reason.to_owned(), plugin: None }, class);
    }

    fn submit_dead_letter(&self, item: Item, rejection: Rejection, class: DeadLetterClass) {
        let Item { record, ack, .. } = item;
        if ack.partition().refuse_replay(ReplayRefusal::Failing(rejection.reason.clone())) {
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
                let entry = ack.partition().dead_letter_entry.clone();
                self.submit(Item { record: dead_letter, entry, ack });
            }
        }
    }

    pub(crate) fn remember(&self, entry: &EntryName, written: &mut Vec<Written>) {
        self.recent().wrote(entry, written.drain(..), Instant::now());
    }

    /// Dead letters are about to be removed from their entry.
    pub(crate) fn forget_removed(&self, entry: &EntryName, times: &[u64]) {
        self.recent().forget(entry, times);
    }

    /// A record was removed from an entry; its own partitions, which the writer knows, are `known`.
    pub(crate) fn removed_beside_others(&self, entry: &EntryName, known: impl Fn(&TopicPartition) -> bool) {
        let mut others = self.recent().sources(entry);
        others.retain(|source| !known(source));
        if !others.is_empty() {
            self.neighbours().extend(others);
            // Nothing is committed before the recovery has looked.
            self.gate.report_removal();
        }
    }

    fn neighbours(&self) -> MutexGuard<'_, HashSet<TopicPartition>> {
        self.neighbours.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Which of these records, in their order of time, the store doesn't have as they were acknowledged.
    async fn damaged<'a>(&self, entry: &EntryName, records: &'a [Written]) -> Result<Vec<&'a Written>, StoreError> {
        let (Some(first), Some(last)) = (records.first(), records.last()) else { return Ok(Vec::new()) };
        let mut seen: HashMap<u64, QueriedRecord> = HashMap::new();
        let (mut from, end) = (first.time_us, last.time_us.saturating_add(1));
        while from < end {
            let page = self.store.records(entry, from..end, COMPARED_AT_ONCE).await?;
            seen.extend(page.seen.into_iter().map(|seen| (seen.timestamp_us, seen)));
            from = page.until;
        }
        let is_whole = |record: &Written| {
            seen.get(&record.time_us).is_some_and(|seen| {
                seen.identity.as_ref().is_some_and(|seen| seen.matches(&record.identity))
                    && matches!(seen.content, Content::Read { sketch, .. } if sketch == record.sketch)
            })
        };
        Ok(records.iter().filter(|record| !is_whole(record)).collect())
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
