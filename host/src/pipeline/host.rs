//! The host: owns the workers, and the assignments that Kafka gives.
//!
//! Guarantees: a partition belongs to one worker; it is taken back, and what is in flight is settled as far as that goes
//! within `limits.shutdown`, before it is given up.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tracing::warn;

use super::workers::Workers;
use super::{Failure, RunError, failed, lock};
use crate::chain::SharedChain;
use crate::config::Config;
use crate::flow::membership::Membership;
use crate::flow::partition_state::{Budget, PartitionState};
use crate::health::progress::Look;
use crate::pipeline::worker::Command;
use crate::record::TopicPartition;
use crate::record::entry_name::{Naming, Template};
use crate::recovery::Restarts;
use crate::rollout::Control;
use crate::sink::Sink;
use crate::source::{Owner, PartitionReader};

/// How long a worker may take to let a partition go: it may be inside a plugin.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);
/// What of it is left for the answers to requests that are under way when nothing more may be sent.
const ANSWERS: Duration = Duration::from_secs(3);
/// What of `limits.shutdown` is left for committing, leaving the group and the last requests.
const LEAVING: Duration = Duration::from_secs(6);

pub(super) struct Host {
    config: Config,
    /// The configured template; `None`: the default one.
    entry: Option<Template>,
    dead_letter_entry: Template,
    several_topics: bool,
    pub sink: Sink,
    pub budget: Arc<Budget>,
    pub membership: Arc<Membership>,
    restarts: Arc<Restarts>,
    pub chain: Arc<SharedChain>,
    pub control: Control,
    pub started: Instant,
    pub look: Arc<Mutex<Look>>,
    pub ended: AtomicBool,
    pub workers: Workers,
    assignments: Mutex<HashMap<TopicPartition, Owned>>,
    stop: Arc<AtomicBool>,
    failure: Failure,
}

pub(super) struct Owned {
    pub assignment: Arc<PartitionState>,
    pub worker: usize,
}

impl Host {
    pub fn start(
        config: &Config,
        chain: Arc<SharedChain>,
        control: Control,
        sink: Sink,
        membership: Arc<Membership>,
        restarts: Arc<Restarts>,
        stop: Arc<AtomicBool>,
    ) -> Result<Self, RunError> {
        let budget = Arc::new(Budget::new(config.limits.in_flight_records, config.limits.in_flight_bytes));
        let failure = Failure::default();
        Ok(Self {
            workers: Workers::start(config.limits.workers, &chain, &sink, &budget, &failure)?,
            config: config.clone(),
            entry: config.store.entry.as_deref().map(Template::parse).transpose().map_err(failed("store.entry"))?,
            dead_letter_entry: Template::parse(&config.dead_letters.entry).map_err(failed("dead_letters.entry"))?,
            several_topics: config.kafka.several_topics(),
            sink,
            budget,
            membership,
            restarts,
            chain,
            control,
            started: Instant::now(),
            look: Arc::default(),
            ended: AtomicBool::new(false),
            assignments: Mutex::default(),
            stop,
            failure,
        })
    }

    pub fn failure(&self) -> Option<String> {
        self.failure.get().map(String::from)
    }

    pub fn assignments(&self) -> MutexGuard<'_, HashMap<TopicPartition, Owned>> {
        lock(&self.assignments)
    }

    pub fn join_workers(&self) {
        self.ended.store(true, Ordering::SeqCst);
        if !self.workers.join() {
            self.failure.set("a worker panicked".into());
        }
    }
}

impl Owner for Host {
    fn assigning(&self) {
        // Does not confirm the membership: the assignment may have been decided before a pause of this process.
    }

    fn membership_doubted(&self) -> bool {
        self.membership.look_for_pause()
    }

    fn membership_confirmed(&self) {
        self.membership.confirm();
    }

    fn company_refused(&self, topic: &str, partitions: usize) -> Option<String> {
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

    fn assigned(&self, feed: PartitionReader, partitions: usize) {
        let source = feed.source.clone();
        let naming = match &self.entry {
            None => Naming::default_for(partitions, self.several_topics),
            Some(template) => Naming::configured(template),
        };
        let assignment = PartitionState::new(source.clone(), naming, &self.dead_letter_entry, Arc::clone(&self.budget));
        let assignment = match assignment {
            Ok(assignment) => Arc::new(assignment),
            Err(error) => return self.failed(format!("{source} can't be written: {error}")),
        };
        let mut assignments = self.assignments();
        let load = |index| assignments.values().filter(|owned| owned.worker == index).count();
        let worker = self.workers.least_loaded(load);
        self.workers.send(worker, Command::Add(feed, Arc::clone(&assignment)));
        assignments.insert(source, Owned { assignment, worker });
    }

    fn revoked(&self, partitions: &[TopicPartition], lost: bool) -> Vec<(TopicPartition, u64)> {
        let owned: Vec<Owned> = {
            let mut assignments = self.assignments();
            partitions.iter().filter_map(|source| assignments.remove(source)).collect()
        };
        if lost {
            owned.iter().for_each(|owned| owned.assignment.cancel());
        }
        let (done, released) = channel();
        let asked = owned.iter().filter(|owned| {
            let remove = Command::Remove(owned.assignment.source.clone(), done.clone());
            self.workers.send(owned.worker, remove)
        });
        let drained_by =
            Instant::now() + self.config.limits.shutdown.saturating_sub(LEAVING + ANSWERS).max(Duration::from_secs(1));
        let answered_by = drained_by + ANSWERS;
        let deadline = drained_by.min(Instant::now() + RELEASE_TIMEOUT);
        for _ in 0..asked.count() {
            if released.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_err() {
                warn!("a worker doesn't let its partition go; a plugin may be holding it");
                break;
            }
        }
        let mut positions = Vec::new();
        for Owned { assignment, .. } in owned {
            let left = drained_by.saturating_duration_since(Instant::now());
            if !lost && !assignment.wait_drained(left) {
                let in_flight = assignment.in_flight();
                warn!(partition = %assignment.source, in_flight, "not settled in time; these records will be read again");
            }
            assignment.cancel();
            // Two writers of an entry could harm each other's records: the next one begins when we have our answer.
            if !lost && !assignment.wait_answered(answered_by.saturating_duration_since(Instant::now())) {
                warn!(partition = %assignment.source, "given up with a request to ReductStore under way");
            }
            if let Some(position) = assignment.commit_position().filter(|_| !lost && !assignment.is_rewinding()) {
                positions.push((assignment.source.clone(), position));
            }
        }
        positions
    }

    fn is_shaken(&self) -> bool {
        self.sink.is_shaken()
    }

    fn is_rewinding(&self, source: &TopicPartition) -> bool {
        self.assignments().get(source).is_some_and(|owned| owned.assignment.is_rewinding())
    }

    fn mark(&self, source: &TopicPartition, position: u64) -> Option<String> {
        let letters = self.sink.dead_letter_target().and_then(|target| target.mark(source, position));
        let marks: Vec<String> = self.restarts.mark(source, position).into_iter().chain(letters).collect();
        (!marks.is_empty()).then(|| marks.join(" "))
    }

    fn begin(&self, source: &TopicPartition, committed: u64, mark: &str) -> Option<u64> {
        let begin = self.restarts.begin(source, committed, mark);
        if begin.is_some() {
            self.sink.distrust();
        }
        if let Some(target) = self.sink.dead_letter_target() {
            // The mark speaks of records from the committed position on.
            target.begin(source, committed, begin.is_none().then_some(mark));
        }
        begin
    }

    fn positions(&self) -> Vec<(TopicPartition, u64)> {
        let assignments = self.assignments();
        let position = |owned: &Owned| Some((owned.assignment.source.clone(), owned.assignment.commit_position()?));
        assignments.values().filter_map(position).collect()
    }

    fn failed(&self, reason: String) {
        self.failure.set(reason);
    }

    fn stopping(&self) -> bool {
        if let Some(reason) = self.sink.failure() {
            self.failure.set(reason.to_owned());
        }
        if let Some(owned) = self.assignments().values().find(|owned| owned.assignment.is_broken()) {
            self.failure.set(format!("a record of {} was lost on its way", owned.assignment.source));
        }
        if self.workers.any_gone() {
            self.failure.set("a worker panicked".into());
        }
        self.stop.load(Ordering::SeqCst) || self.failure.get().is_some()
    }
}
