//! The host of one run of a pipeline: owns the workers, and the partitions that the group has assigned.
//!
//! Guarantees: a partition belongs to one worker; before a partition is given up, nothing more of it is read, and its records in flight
//! are finished as far as `limits.shutdown` allows.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::time::{Duration, Instant};

use tracing::{error, warn};

use super::failure::FailureReason;
use super::group_refusal::GroupRefusal;
use super::group_wait::GroupWait;
use super::heartbeat::Heartbeat;
use super::replaying::Replaying;
use super::run::Lasting;
use super::stop_time::StopTime;
use super::workers::Workers;
use super::{HostFailure, RunError, failed, lock};
use crate::chain::SharedChain;
use crate::config::Config;
use crate::consumer::{Beginning, GroupHandler, PartitionReader};
use crate::flow::membership::Membership;
use crate::flow::pauses::Pauses;
use crate::flow::store_start::now_ms;
use crate::flow::{Begin, Budget, CommitPoint, EntryNaming, PartitionState};
use crate::health::history::History;
use crate::health::look::Look;
use crate::health::tap::Taps;
use crate::health::traces::Traces;
use crate::kafka::client::is_newer_protocol;
use crate::pipeline::worker::WorkerCommand;
use crate::record::TopicPartition;
use crate::record::entry_name::{Naming, Template};
use crate::recovery::Recovery;
use crate::rollout::Control;
use crate::sink::Sink;

/// How long the host waits at its end for calls to plugins that are running.
const FINAL_WAIT_FOR_CALLS: Duration = Duration::from_secs(3);

pub(super) struct Host {
    pub config: Config,
    /// The configured template; `None`: the default one.
    entry: Option<Template>,
    dead_letter_entry: Template,
    several_topics: bool,
    pub sink: Sink,
    pub budget: Arc<Budget>,
    pub membership: Arc<Membership>,
    recovery: Arc<Recovery>,
    pub chain: Arc<SharedChain>,
    pub control: Control,
    pub started: Instant,
    pub look: Arc<Mutex<Look>>,
    pub history: Mutex<History>,
    pub pauses: Arc<Pauses>,
    pub taps: Arc<Taps>,
    pub replay: Replaying,
    /// Commits that the group took, and that it refused.
    pub commits: [AtomicU64; 2],
    /// This host, to be handed to threads; set once the host is shared.
    pub this: OnceLock<Weak<Host>>,
    /// Set where spans are sent.
    pub traces: OnceLock<Arc<Traces>>,
    /// When the polling thread last looked after the host.
    pub polled: Heartbeat,
    /// Set once the workers have ended, or were left behind.
    pub workers_ended: AtomicBool,
    pub stop_time: StopTime,
    pub workers: Workers,
    assignments: Mutex<HashMap<TopicPartition, Owned>>,
    pub group_wait: Mutex<GroupWait>,
    /// Partitions that aren't read yet, because Kafka was asked where they begin. `Some`: why they can't be read; `None`: there is no
    /// answer yet.
    pub waiting: Mutex<HashMap<TopicPartition, Option<String>>>,
    /// Partitions with a batch that can't be read: the batch's offset, and why it can't be read.
    pub unreadable: Mutex<HashMap<TopicPartition, (u64, String)>>,
    /// Offsets that were skipped because they can't be read, by partition: how many, and the last ones.
    pub skipped: Mutex<BTreeMap<TopicPartition, (u64, Range<u64>)>>,
    /// The name that this host had in its group until another host took it.
    pub lost_name: Mutex<Option<String>>,
    /// Why the group refuses the commits; `None`: it takes them, as far as this host knows.
    pub commits_refused: Mutex<Option<String>>,
    /// Whether the group doesn't let this host in.
    pub group_refusal: Mutex<GroupRefusal>,
    /// Idle partitions, each with the end that Kafka named: the polling thread finds out whether any records are left before it.
    pub probes: Mutex<Vec<(TopicPartition, u64)>>,
    /// Set when the process was told to stop.
    stop: Arc<AtomicBool>,
    /// Set when this host begins to end, for whatever reason.
    is_ending: Arc<AtomicBool>,
    failure: HostFailure,
}

/// A partition that this host has.
pub(super) struct Owned {
    pub state: Arc<PartitionState>,
    worker: usize,
}

impl Host {
    pub fn start(
        config: &Config,
        chain: Arc<SharedChain>,
        control: Control,
        sink: Sink,
        membership: Arc<Membership>,
        recovery: Arc<Recovery>,
        lasting: &Lasting,
    ) -> Result<Self, RunError> {
        let budget = Arc::new(Budget::new(config.limits.in_flight_records, config.limits.in_flight_bytes));
        let failure = HostFailure::default();
        let taps = Arc::default();
        Ok(Self {
            workers: Workers::start(config.limits.workers, &chain, &sink, &budget, lasting, &taps, &failure)?,
            config: config.clone(),
            entry: config.store.entry.as_deref().map(Template::parse).transpose().map_err(failed("store.entry"))?,
            dead_letter_entry: Template::parse(&config.dead_letters.entry).map_err(failed("dead_letters.entry"))?,
            several_topics: config.kafka.several_topics(),
            sink,
            budget,
            membership,
            recovery,
            chain,
            control,
            started: Instant::now(),
            look: Arc::default(),
            history: Mutex::default(),
            pauses: Arc::clone(&lasting.pauses),
            taps,
            replay: Replaying::default(),
            commits: Default::default(),
            this: OnceLock::new(),
            traces: OnceLock::new(),
            polled: Heartbeat::default(),
            workers_ended: AtomicBool::new(false),
            stop_time: StopTime::new(config.limits.shutdown),
            assignments: Mutex::default(),
            group_wait: Mutex::new(GroupWait::new(is_newer_protocol(&config.kafka))),
            waiting: Mutex::default(),
            unreadable: Mutex::default(),
            skipped: Mutex::default(),
            lost_name: Mutex::default(),
            commits_refused: Mutex::default(),
            group_refusal: Mutex::new(GroupRefusal::new(is_newer_protocol(&config.kafka))),
            probes: Mutex::default(),
            stop: Arc::clone(&lasting.stop),
            is_ending: Arc::default(),
            failure,
        })
    }

    /// The flag for threads that work beside the workers: it is set when this host begins to end, with the process or without it.
    pub fn end_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_ending)
    }

    pub fn is_told_to_stop(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    pub fn failure(&self) -> Option<&FailureReason> {
        self.failure.get()
    }

    pub fn assignments(&self) -> MutexGuard<'_, HashMap<TopicPartition, Owned>> {
        lock(&self.assignments)
    }

    /// Looks whether anything has failed, and remembers the first reason.
    fn find_failure(&self) -> bool {
        if let Some(reason) = self.sink.failure() {
            self.failure.set(reason.to_owned());
        }
        if let Some(owned) = self.assignments().values().find(|owned| owned.state.is_record_lost()) {
            self.failure.set(format!("a record of {} was lost on its way", owned.state.source));
        }
        if self.workers.any_gone() {
            self.failure.set("a worker panicked".to_owned());
        }
        self.failure.get().is_some()
    }

    /// Another host has taken this one's name in the group.
    pub fn lose_name(&self, name: &str) {
        error!(
            name,
            "another host of the group has the same name and took its partitions; going on without a name. Give each host a \
             kafka.member of its own, and restart this one"
        );
        *lock(&self.commits_refused) = None;
        *lock(&self.lost_name) = Some(name.to_owned());
    }

    /// Gives the partitions of a worker that hangs in a plugin to a fresh one.
    fn replace_hung_workers(&self) {
        for index in self.workers.replace_hung() {
            let assignments = self.assignments();
            assignments.values().filter(|owned| owned.worker == index).for_each(|owned| owned.state.abandon());
        }
    }

    /// Ends all partitions at once: their records in flight are neither written nor committed any more.
    pub fn abandon(&self) {
        self.is_ending.store(true, Ordering::SeqCst);
        self.assignments().drain().for_each(|(_, owned)| owned.state.end());
    }

    pub fn join_workers(&self) {
        self.is_ending.store(true, Ordering::SeqCst);
        self.workers_ended.store(true, Ordering::SeqCst);
        if !self.workers.join(self.stop_time.within(FINAL_WAIT_FOR_CALLS)) {
            self.failure.set("a worker panicked".to_owned());
        }
    }
}

impl GroupHandler for Host {
    fn given_out(&self, done: bool) {
        if done {
            lock(&self.group_refusal).end();
        }
        lock(&self.group_wait).given_out(done, Instant::now());
    }

    fn awaits_begin(&self, source: &TopicPartition) {
        lock(&self.waiting).insert(source.clone(), None);
    }

    fn cannot_begin(&self, source: &TopicPartition, reason: &str) {
        lock(&self.waiting).insert(source.clone(), Some(reason.to_owned()));
    }

    fn unreadable(&self, source: &TopicPartition, offset: u64, reason: &str) {
        lock(&self.unreadable).insert(source.clone(), (offset, reason.to_owned()));
    }

    fn skipped(&self, source: &TopicPartition, offsets: Range<u64>, reason: &str) {
        let (from, to) = (offsets.start, offsets.end.saturating_sub(1));
        error!(
            partition = %source, from, to, reason,
            "skipped: these offsets can't be read, and kafka.on_unreadable is \"skip\"; their records are not written"
        );
        let mut skipped = lock(&self.skipped);
        let (count, last) = skipped.entry(source.clone()).or_default();
        (*count, *last) = (*count + offsets.end.saturating_sub(offsets.start), offsets);
    }

    fn make_state(&self, source: &TopicPartition, beginning: Beginning) -> Result<Arc<PartitionState>, String> {
        let Beginning { mut point, facts, is_reread, owned_from } = beginning;
        let committed = point.offset;
        if !is_reread {
            self.sink.partition_begins();
        }
        self.recovery.move_begin_back(source, &mut point, facts.low, facts.high, now_ms());
        // What the previous owner knew of the dead letters is about records from the committed offset on; it is of no use if the partition
        // begins elsewhere.
        let dead_letters = point.metadata.dead_letters.take().filter(|_| point.offset == committed);
        if let Some(target) = self.sink.dead_letter_target() {
            target.partition_begins(source, point.offset, dead_letters.as_ref());
        }
        let naming = *point.metadata.naming.get_or_insert_with(|| EntryNaming::for_topic_with(facts.partitions));
        let naming = match &self.entry {
            Some(template) => Naming::configured(template),
            None => Naming::default_for(
                if naming == EntryNaming::Topic { 1 } else { facts.partitions.max(2) },
                self.several_topics,
            ),
        };
        let (gate, block_margin) = (Arc::clone(self.sink.gate()), self.recovery.block_margin.clone());
        // In a re-read this host knows up to which offset something was written. Otherwise an earlier owner may have written all that
        // the partition has.
        let written_before = point.metadata.compare_below.filter(|_| is_reread).unwrap_or(facts.high);
        let begin = Begin { point, written_before, owned_from, gate, block_margin };
        let budget = Arc::clone(&self.budget);
        let state = PartitionState::new(source.clone(), naming, &self.dead_letter_entry, budget, begin)
            .map_err(|error| format!("{source} can't be written: {error}"))?;
        Ok(Arc::new(state))
    }

    fn begin_reading(&self, reader: PartitionReader, state: &Arc<PartitionState>) {
        lock(&self.waiting).remove(&state.source);
        // It may begin before the batch, which then has to be found again.
        lock(&self.unreadable).remove(&state.source);
        let mut assignments = self.assignments();
        let load = |index| assignments.values().filter(|owned| owned.worker == index).count();
        let before = assignments.get(&state.source).map(|owned| owned.worker);
        let worker = before.unwrap_or_else(|| self.workers.least_loaded(load));
        self.workers.send(worker, WorkerCommand::Add(reader, Arc::clone(state)));
        assignments.insert(state.source.clone(), Owned { state: Arc::clone(state), worker });
    }

    fn revoked(
        &self,
        partitions: &[TopicPartition],
        states: &[Arc<PartitionState>],
        lost: bool,
    ) -> Vec<(TopicPartition, CommitPoint)> {
        for state in states {
            if lost { state.end() } else { state.revoke() }
        }
        // A commit of a partition that stays is sent again if it was refused, and a new refusal is noted again.
        *lock(&self.commits_refused) = None;
        {
            let (mut assignments, mut waiting) = (self.assignments(), lock(&self.waiting));
            for source in partitions {
                waiting.remove(source);
                if let Some(owned) = assignments.remove(source) {
                    self.workers.wake(owned.worker);
                }
            }
        }
        if lost {
            return Vec::new();
        }
        lock(&self.group_wait).gives_back(true);
        let stopped_at = self.is_told_to_stop().then(|| self.stop_time.begins());
        let (drained_by, answered_by) = self.stop_time.giving_up(Instant::now(), stopped_at);
        let left = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
        let mut points = Vec::new();
        for state in states {
            if !state.wait_drained(left(drained_by)) {
                let in_flight = state.in_flight();
                warn!(partition = %state.source, in_flight, "not acknowledged in time; these records will be read again");
            }
            let point = self.commit_point(state);
            state.end();
            // The next owner's writer and this one's could harm each other's records, so the next owner begins only when this host has
            // the answers to its requests.
            if !state.wait_answered(left(answered_by)) {
                warn!(partition = %state.source, "the partition is given up while a request to ReductStore is under way");
            }
            points.extend(point.map(|point| (state.source.clone(), point)));
        }
        // A host that ends gets no other partitions.
        lock(&self.group_wait).gives_back(self.is_ending.load(Ordering::SeqCst));
        points
    }

    fn commit_point(&self, state: &PartitionState) -> Option<CommitPoint> {
        let mut point = state.commit_point()?;
        if let Some(target) = self.sink.dead_letter_target() {
            point.metadata.dead_letters = target.index(&state.source, point.offset);
        }
        Some(point)
    }

    fn group_denied(&self) {
        lock(&self.group_refusal).raised(Instant::now());
    }

    fn committed(&self, outcome: Result<(), String>) {
        if outcome.is_ok() {
            lock(&self.group_refusal).end();
        }
        let [taken, refused] = &self.commits;
        (if outcome.is_ok() { taken } else { refused }).fetch_add(1, Ordering::Relaxed);
        // The supervisor logs when refusals begin and when they end.
        *lock(&self.commits_refused) = outcome.err();
    }

    fn requires_sole_member(&self, topic: &str, partitions: usize) -> Option<String> {
        let shares = |template: &Template| template.shares_entries(partitions, self.several_topics);
        let (key, template) = match (&self.entry, &self.dead_letter_entry) {
            _ if self.config.store.shared_entries => return None,
            (Some(template), _) if shares(template) => ("store.entry", template),
            (_, template) if self.config.dead_letters.topic.is_none() && shares(template) => {
                ("dead_letters.entry", template)
            }
            _ => return None,
        };
        Some(format!(
            "{key} = \"{template}\" puts records of several partitions of {topic} into one entry, which two hosts must \
             not write at once; run a single host, or put {{topic}} and {{partition}} into {key}, or set \
             store.shared_entries = true if your keys tie each entry to one partition"
        ))
    }

    fn failed(&self, reason: String) {
        self.failure.set(reason);
    }

    fn should_stop(&self) -> bool {
        self.polled.beat();
        self.replace_hung_workers();
        let should_stop = self.stop.load(Ordering::SeqCst) || self.find_failure();
        if should_stop {
            self.is_ending.store(true, Ordering::SeqCst);
            self.stop_time.begins();
        }
        should_stop
    }

    fn time_to_leave(&self) -> Duration {
        self.stop_time.for_leaving()
    }

    fn take_probes(&self) -> Vec<(TopicPartition, u64)> {
        std::mem::take(&mut lock(&self.probes))
    }

    fn look_for_doubt(&self) -> bool {
        self.membership.look_for_suspension()
    }

    fn membership_confirmed(&self) {
        self.membership.confirm();
    }
}
