//! The model: Kafka, the store and a host around one partition, as plain values.

mod audit;
mod entries;
mod faults;
mod rule;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use fastrand::Rng;
use reduct_sink::config::StartPolicy;
use reduct_sink::flow::block_margin::{BlockMargin, OPEN_BLOCKS};
use reduct_sink::flow::crash_risk::CrashRisks;
use reduct_sink::flow::store_start::Started;
use reduct_sink::flow::{
    AckHandle, Begin, Budget, CommitGate, CommitMetadata, CommitPoint, EntryNaming, PartitionState, ReadingStop, Reread,
};
use reduct_sink::kafka::start::{Facts, choose_begin};
use reduct_sink::record::entry_name::Naming;
use reduct_sink::record::{TopicId, TopicPartition};
use reduct_sink::recovery::Recovery;

use self::entries::{Routes, keep_last};
pub use self::rule::Rule;

/// How many records the store's open blocks of an entry hold: a crash may lose or damage them.
const OPEN: usize = 6;

/// How many offsets the records in the open blocks span at most, because offsets have gaps.
const OPEN_OFFSETS: u64 = 4 * OPEN as u64;

/// The topic: the records that it holds, and what it held earlier.
struct Topic {
    id: u64,
    partitions: usize,
    low: u64,
    high: u64,
    /// The records' contents by offset. Offsets have gaps.
    records: BTreeMap<u64, u64>,
}

/// A record in the store.
struct Stored {
    content: u64,
    whole: bool,
}

/// The identity of a record in the store: entry, topic id, offset.
type Key = (String, u64, u64);

struct Host {
    recovery: Recovery,
    gate: Arc<CommitGate>,
    state: Arc<PartitionState>,
    /// The next offset that the reader will deliver.
    reader: u64,
    /// The records that were received and not acknowledged.
    queue: Vec<(u64, u64, AckHandle)>,
    received: bool,
    /// The records that this host wrote last to each entry, and those that it found there last, as the sink remembers them.
    wrote: Vec<Key>,
    found: Vec<Key>,
    /// Those that others pushed out since the store was last looked at.
    displaced: Vec<Key>,
}

pub struct World {
    rng: Rng,
    rule: Option<Rule>,
    policy: StartPolicy,
    topic: Topic,
    next_content: u64,
    store: HashMap<Key, Vec<Stored>>,
    routes: Routes,
    /// The records in the open blocks: those that were written last to each entry, the oldest first.
    open: Vec<Key>,
    store_start: u64,
    committed: Option<CommitPoint>,
    /// The requests of a killed host that have not reached the store yet, each with the latest time at which it may
    /// arrive.
    late: Vec<(Key, u64)>,
    late_until: u64,
    /// The present time, in milliseconds.
    now: u64,
    /// When the group began to read this topic, which is where `latest` begins.
    begun_at: Option<u64>,
    host: Option<Host>,
    /// Whether the faults have stopped.
    has_finished: bool,
}

fn source() -> TopicPartition {
    TopicPartition { topic: "t".into(), partition: 0 }
}

fn started(number: u64) -> Started {
    Started { from: number * 10_000, to: number * 10_000 + 50 }
}

impl World {
    pub fn new(mut rng: Rng, rule: Option<Rule>) -> Self {
        let policy = if rng.bool() { StartPolicy::Earliest } else { StartPolicy::Latest };
        let (low, has_seldom_entry) = (rng.u64(..5), rng.bool());
        let topic = Topic { id: 1, partitions: 1, low, high: low, records: BTreeMap::new() };
        Self {
            rng,
            rule,
            policy,
            topic,
            next_content: 0,
            store: HashMap::new(),
            routes: Routes { has_seldom_entry, other_from: u64::MAX },
            open: Vec::new(),
            store_start: 1,
            committed: None,
            late: Vec::new(),
            late_until: 0,
            now: 1,
            begun_at: None,
            host: None,
            has_finished: false,
        }
    }

    fn follows(&self, rule: Rule) -> bool {
        self.rule == Some(rule)
    }

    /// Lets one random event happen, and returns its name.
    pub fn step(&mut self) -> &'static str {
        self.now += 1;
        if !self.late.is_empty() && (self.now >= self.late_until || self.rng.u8(..6) == 0) {
            return self.late_request();
        }
        if self.host.is_none() {
            self.start();
            return "start";
        }
        match self.rng.u8(..40) {
            0 if self.routes.go_elsewhere() => self.work_for_a_while(),
            0..6 => self.produce(),
            6..16 => self.receive(),
            16..23 => self.write(),
            23..26 => self.commit(),
            26..29 => self.look(),
            29..31 => self.take_again(),
            31 => self.crash_of_the_store(),
            32 => self.removal(),
            33 => self.failure(),
            34 => self.kill(),
            35 => self.reassign(),
            36 => self.lose(),
            37 => self.rare(),
            38 => self.confirm_membership(),
            _ => self.other_partition_is_reread(),
        }
    }

    fn rare(&mut self) -> &'static str {
        match self.rng.u8(..5) {
            0 => self.recreate(),
            4 => self.reroute(),
            1 => self.grow(),
            2 => self.stop_fetching(),
            _ => self.retain(),
        }
    }

    /// Nothing goes wrong for a while: then a re-read by the block margin doesn't reach back to the begin of that while.
    fn work_for_a_while(&mut self) -> &'static str {
        for _ in 0..OPEN_OFFSETS {
            self.produce();
            self.receive();
            self.write();
        }
        self.commit();
        self.look();
        "work for a while"
    }

    // ---- Kafka ----

    /// As librdkafka does at an offset that was refused, though the event that says so is never seen.
    fn stop_fetching(&mut self) -> &'static str {
        let Some(host) = &self.host else { return "" };
        host.state.begin_again();
        "stop fetching"
    }

    fn produce(&mut self) -> &'static str {
        for _ in 0..self.rng.u64(1..4) {
            self.topic.high += if self.rng.u8(..4) == 0 { self.rng.u64(..3) } else { 0 };
            self.topic.records.insert(self.topic.high, self.next_content);
            self.topic.high += 1;
            self.next_content += 1;
        }
        "produce"
    }

    fn recreate(&mut self) -> &'static str {
        let partitions = self.topic.partitions;
        self.topic = Topic { id: self.topic.id + 1, partitions, low: 0, high: 0, records: BTreeMap::new() };
        // Brokers delete the committed offsets of a topic that is deleted.
        self.committed = None;
        self.begun_at = None;
        if self.rng.bool() {
            self.produce();
        }
        "recreate"
    }

    fn grow(&mut self) -> &'static str {
        self.topic.partitions += 1;
        "grow"
    }

    /// Retention deletes records that were read, or some that weren't.
    fn retain(&mut self) -> &'static str {
        let low = self.rng.u64(self.topic.low..=self.topic.high);
        self.topic.low = low;
        self.topic.records = self.topic.records.split_off(&low);
        "retain"
    }

    fn facts(&self) -> Facts {
        let Topic { id, partitions, low, high, .. } = self.topic;
        Facts { topic_id: TopicId::from_halves(0, id), partitions, low, high }
    }

    // ---- The host ----

    fn start(&mut self) {
        // The store may not have answered when the host asked for its start; now the host asks again.
        let knows = !self.follows(Rule::StartUnknown) || self.rng.bool();
        // A host may have seen the bucket with larger blocks than another one.
        let margin = BlockMargin::of_blocks(OPEN_OFFSETS / OPEN_BLOCKS * self.rng.u64(1..=2));
        let recovery = Recovery::new(knows.then(|| started(self.store_start)), margin);
        let (known, gate) = (self.committed.clone(), Arc::default());
        let state = self.begin(&recovery, &gate, known, false, false, None);
        self.commit_first(&state);
        let reader = state.next_offset();
        self.host = Some(Host {
            recovery,
            gate,
            state,
            reader,
            queue: Vec::new(),
            received: false,
            wrote: Vec::new(),
            displaced: Vec::new(),
            found: Vec::new(),
        });
    }

    /// Until when requests of a killed host may arrive, as far as its successor knows. It expects them at each begin until then: also
    /// at that of a topic that was created again, of whose committed offset nothing is left.
    fn late_until(&self) -> Option<u64> {
        Some(self.late_until).filter(|until| self.now < *until && !self.follows(Rule::LateRequestsUnexpected))
    }

    /// Commits a first offset, as the source does for a partition for which the group has none, and while late requests are expected.
    fn commit_first(&mut self, state: &PartitionState) {
        let of_topic = self.facts().topic_id;
        let is_first = self.committed.as_ref().is_none_or(|point| point.metadata.topic_id != of_topic);
        if is_first && !self.follows(Rule::NoPositionAtFirst) || self.late_until().is_some() {
            self.committed = Some(state.first_commit());
        }
    }

    /// Begins to read the partition, as the source and the host do it.
    fn begin(
        &mut self,
        recovery: &Recovery,
        gate: &Arc<CommitGate>,
        known: Option<CommitPoint>,
        was_out_of_range: bool,
        is_reread: bool,
        owned_from: Option<u64>,
    ) -> Arc<PartitionState> {
        let facts = self.facts();
        // If retention has deleted the committed offset, `kafka.start` decides: `latest` leaves out the records that
        // are there.
        let passed_by_retention = known.as_ref().is_some_and(|CommitPoint { offset, metadata }| {
            metadata.topic_id == facts.topic_id && metadata.reread_until.unwrap_or(0).max(*offset) < facts.low
        });
        let mut point =
            choose_begin(&source(), known, &facts, self.policy, was_out_of_range).expect("the policy decides");
        if passed_by_retention && self.policy == StartPolicy::Latest {
            self.begun_at = Some(point.offset);
        }
        self.begun_at.get_or_insert(point.offset);
        if let Some(until) = self.late_until() {
            point.expect_late_requests(until);
        }
        recovery.move_begin_back(&source(), &mut point, facts.low, facts.high, self.now);
        let by_count = EntryNaming::for_topic_with(facts.partitions);
        let naming = *point.metadata.naming.get_or_insert(by_count);
        let naming = if self.follows(Rule::NamedByTheCount) { by_count } else { naming };
        let naming = Naming::default_for(if naming == EntryNaming::Topic { 1 } else { 2 }, false);
        let dead_letters = naming.derived.clone();
        let written_before = point.metadata.compare_below.filter(|_| is_reread).unwrap_or(facts.high);
        let begin = Begin {
            point,
            written_before,
            owned_from,
            gate: Arc::clone(gate),
            block_margin: recovery.block_margin.clone(),
        };
        let budget = Arc::new(Budget::new(1000, 1_000_000));
        Arc::new(PartitionState::new(source(), naming, &dead_letters, budget, begin).expect("the names are legal"))
    }

    fn receive(&mut self) -> &'static str {
        let forgets = self.follows(Rule::StateOutlivesTheTopic);
        let Some(host) = &mut self.host else { return "" };
        let id = host.state.topic_id();
        let recreated = id != TopicId::from_halves(0, self.topic.id);
        if recreated || !(self.topic.low..=self.topic.high).contains(&host.reader) {
            if recreated && forgets {
                host.reader = self.topic.low;
            } else {
                host.state.report_out_of_range();
                return "out of range";
            }
        }
        if !host.state.may_read() {
            return "stopped";
        }
        let Some((offset, content)) = self.topic.records.range(host.reader..).next() else {
            host.state.skip_to(self.topic.high);
            host.reader = self.topic.high;
            return "end";
        };
        host.reader = offset + 1;
        host.received = true;
        if let Some(ack) = host.state.receive(*offset, 1) {
            host.queue.push((*offset, *content, ack));
        }
        "receive"
    }

    /// The sink writes the next record. If the store has the record already, it is compared if the partition's state
    /// demands that; a damaged one is removed and written again.
    fn write(&mut self) -> &'static str {
        let Some(host) = &mut self.host else { return "" };
        if !host.state.may_write() {
            host.queue.clear();
            return "dropped";
        }
        if host.queue.is_empty() {
            return "idle";
        }
        let (offset, content, ack) = host.queue.swap_remove(self.rng.usize(..host.queue.len()));
        let state = Arc::clone(&host.state);
        let id = state
            .topic_id()
            .map_or(0, |id| (1..=self.topic.id).find(|n| TopicId::from_halves(0, *n) == Some(id)).unwrap());
        let key = (self.routes.entry(&state, offset), id, offset);
        if key.0 != state.entry.to_string() {
            state.note_other_entry();
        }
        let there = self.store.entry(key.clone()).or_default();
        match there.first() {
            Some(stored) if state.compare_contents() && (!stored.whole || stored.content != content) => {
                there.clear();
                state.require_reread_after_removal();
                // Few removals coincide with a request that was cut off.
                self.commit();
                if !self.has_finished && self.rng.u8(..8) == 0 {
                    self.harm(false);
                }
                if state.may_write() {
                    self.host
                        .iter_mut()
                        .for_each(|host| host.displaced.extend(keep_last(&mut host.wrote, key.clone())));
                    self.keep(key, content);
                    ack.acknowledge();
                }
            }
            Some(_) => {
                host.displaced.extend(keep_last(&mut host.found, key));
                ack.acknowledge();
            }
            None => {
                host.displaced.extend(keep_last(&mut host.wrote, key.clone()));
                self.keep(key, content);
                ack.acknowledge();
            }
        }
        "write"
    }

    fn keep(&mut self, key: Key, content: u64) {
        self.store.entry(key.clone()).or_default().push(Stored { content, whole: true });
        keep_last(&mut self.open, key);
    }

    /// Loses or damages some of the records in the open blocks.
    fn harm(&mut self, may_lose: bool) {
        for key in self.open.clone() {
            match self.rng.u8(..4) {
                0 if may_lose => drop(self.store.remove(&key)),
                1 => self.store.entry(key).or_default().iter_mut().for_each(|stored| stored.whole = false),
                _ => {}
            }
        }
    }

    fn commit(&mut self) -> &'static str {
        let Some(host) = &self.host else { return "" };
        if self.rule == Some(Rule::NoPositionAtFirst) && !host.received {
            return "nothing to commit";
        }
        let Some(mut point) = host.state.commit_point() else { return "withheld" };
        if self.rule == Some(Rule::RereadForgotten) {
            (point.metadata.reread_until, point.metadata.compare_below) = (None, None);
        }
        if self.rule == Some(Rule::EarlierOwnersForgotten) {
            point.metadata.risks = CrashRisks::default();
        }
        self.committed = Some(point);
        "commit"
    }

    fn confirm_membership(&mut self) -> &'static str {
        let Some(host) = &self.host else { return "" };
        if self.rule == Some(Rule::MembershipCommitsThePosition) {
            let metadata = CommitMetadata {
                reread_until: None,
                compare_below: None,
                ..host.state.commit_point().unwrap_or_default().metadata
            };
            self.committed = Some(CommitPoint { offset: host.state.position(), metadata });
        }
        "confirm"
    }

    /// The recovery asks the store for its start.
    fn look(&mut self) -> &'static str {
        let Some(host) = &self.host else { return "" };
        host.state.reread_after_late_requests(self.now);
        let (position, failures, start) = (host.state.position(), host.gate.failures(), started(self.store_start));
        let start = host.recovery.learn(start, 0);
        let of_topic = |key: &&Key| TopicId::from_halves(0, key.1) == host.state.topic_id();
        let remembered = || host.wrote.iter().chain(&host.found).chain(&host.displaced).filter(of_topic);
        let at_risk = remembered().map(|key| key.2).min();
        let is_harmed =
            |key: &&Key| self.store.get(*key).is_none_or(|there| there.first().is_none_or(|stored| !stored.whole));
        let harmed = remembered().filter(is_harmed).map(|key| key.2).min().unwrap_or(u64::MAX);
        let restarted = host.state.store_start().is_some_and(|before| before.narrow(start).is_none());
        if restarted {
            let from = host.state.reread_from_after_crash().min(harmed);
            host.state.announce_reread(Reread { from, discard_unsent: false, store_start: Some(start) });
        } else if let Some(from) = host.state.required_reread() {
            let from = from.min(harmed);
            host.state.announce_reread(Reread { from, discard_unsent: true, store_start: None });
        }
        host.state.looked(start, position, at_risk, self.now);
        host.gate.resolve(failures);
        self.host.iter_mut().for_each(|host| host.displaced.clear());
        "look"
    }

    fn take_again(&mut self) -> &'static str {
        let Some(mut host) = self.host.take() else { return "" };
        let stopped = host.state.reading_stop();
        let was_out_of_range = stopped == Some(ReadingStop::OutOfRange);
        // The worker discards the records that it holds if they must not be written any more.
        if !host.state.may_write() {
            host.queue.clear();
        }
        let ended = host.state.try_end();
        if let Some(point) = ended {
            let is_new_topic = point.metadata.topic_id != self.facts().topic_id;
            let known = Some(point);
            let owned = Some(host.state.owned_from());
            host.state = self.begin(&host.recovery, &host.gate, known, was_out_of_range, stopped.is_none(), owned);
            if is_new_topic || self.late_until().is_some() {
                self.commit_first(&host.state);
            }
            host.reader = host.state.next_offset();
        }
        self.host = Some(host);
        "take again"
    }

    fn other_partition_is_reread(&mut self) -> &'static str {
        let rule = self.follows(Rule::OthersRereadMovesTheReader);
        let committed = self.committed.as_ref().map(|point| point.offset);
        let Some(host) = &mut self.host else { return "" };
        host.reader = match committed.filter(|_| rule) {
            Some(committed) => committed.max(self.topic.low),
            None => host.state.next_offset(),
        };
        "another partition is re-read"
    }
}
