//! What the supervisor, the recovery and the status over HTTP see of the host, and what they may ask it to do.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tracing::info;

use super::host::Host;
use super::{lock, plugin_views};
use crate::consumer::session;
use crate::flow::PartitionState;
use crate::health::build;
use crate::health::history::HistoryShown;
use crate::health::lag::BEHIND;
use crate::health::look::{Look, PartitionView};
use crate::health::problems::HealthProblem;
use crate::health::progress::Supervised;
use crate::health::rates::Totals;
use crate::health::report::{self, HostReport};
use crate::health::server::{Action, Reporter};
use crate::health::tap::{TapAnswer, TapQuestion};
use crate::health::watchdog::Standing;
use crate::kafka::group::GroupTimes;
use crate::kafka::observer::Finding;
use crate::record::TopicPartition;
use crate::recovery::Partitions;
use crate::sink::DeadLetterNote;

/// A polling thread that stands still for this long counts as dead. Kafka, too, gives the partitions of a member away that hasn't polled
/// for five minutes.
const DEAD_AFTER: Duration = Duration::from_secs(300);
/// The code of the problem that the operator has paused something.
const PAUSED: &str = "paused";
/// A store that keeps up answers each request within this time.
const ANSWERED_SOON: Duration = Duration::from_secs(3);
/// How many of the partitions that can't be read yet are named in the problem's text.
const NAMED: usize = 3;

impl Supervised for Host {
    fn standings(&self) -> Vec<(TopicPartition, u64, usize)> {
        let standing = |state: &Arc<PartitionState>| (state.source.clone(), state.position(), state.in_flight());
        self.states().iter().map(standing).collect()
    }

    fn totals(&self) -> Totals {
        let counters = self.sink.counters();
        Totals {
            records: counters.written + counters.found,
            found: counters.found,
            replayed: counters.replayed,
            bytes: counters.written_bytes,
            dead_letters: counters.dead_letters,
        }
    }

    fn is_paused(&self, source: &TopicPartition) -> bool {
        self.pauses.is_paused(&source.topic)
    }

    fn is_explained(&self, source: &TopicPartition) -> bool {
        lock(&self.unreadable).contains_key(source) || lock(&self.waiting).get(source).is_some_and(Option::is_some)
    }

    fn awaits_group(&self) -> Option<Instant> {
        lock(&self.group_wait).awaited_since()
    }

    fn is_assignment_known(&self, unable_at: Option<Instant>) -> bool {
        // Partitions that were assigned and haven't begun yet aren't among the standings.
        let has_none = self.assignments().is_empty();
        let all_begun = lock(&self.waiting).is_empty();
        lock(&self.group_wait).is_assignment_known(Instant::now(), unable_at) && (all_begun || !has_none)
    }

    fn session(&self) -> Duration {
        session(&self.config.kafka)
    }

    fn learn_group_times(&self, times: GroupTimes) {
        if lock(&self.group_wait).learn(times) {
            let (session_s, heartbeat_s) = (times.session.as_secs_f64(), times.heartbeat.as_secs_f64());
            info!(session_s, heartbeat_s, "the brokers say how long the group waits for a member that is gone");
        }
    }

    fn behind(&self, look: &Look) -> Option<String> {
        self.why_behind(look, self.budget.used())
    }

    fn remember(&self, standings: &[Standing], totals: Totals, is_known: bool) {
        lock(&self.history).look(standings, totals, is_known);
    }

    fn in_flight(&self) -> (usize, usize) {
        self.budget.used()
    }

    fn findings(&self) -> Vec<Finding> {
        let finding = |code, message: String| Finding::new(code, message);
        let mut findings: Vec<Finding> =
            self.sink.problems().into_iter().map(|of| finding(of.code, of.message).since(of.since)).collect();
        findings.extend(self.failure().map(|reason| finding("host.failed", reason.full.clone())));
        if self.membership.look_for_suspension() {
            let message = "the group hasn't confirmed the membership since this process was stopped or suspended";
            findings.push(finding("membership", message.into()));
        }
        // A host without partitions commits nothing, so that nothing shows when the refusals end.
        if let Some(reason) = &*lock(&self.commits_refused)
            && !self.assignments().is_empty()
        {
            findings.push(finding("kafka.commit-refused", format!("the group doesn't take the commits: {reason}")));
        }
        if lock(&self.group_refusal).holds(Instant::now()) {
            findings.push(Finding::group_denied(&self.config.kafka.group));
        }
        if let Some(name) = &*lock(&self.lost_name) {
            let message = format!(
                "another host of the group is called {name:?}, too, and this one goes on without a name; give each host a \
                 kafka.member of its own, and restart this one"
            );
            findings.push(finding("kafka.name-taken", message));
        }
        findings.extend(self.paused().map(|message| finding(PAUSED, message)));
        let spans = self.traces.get().and_then(|traces| traces.problem());
        findings.extend(spans.map(|message| finding("traces", message)));
        findings.extend(self.control.next_start.reasons().into_iter().map(|reason| finding("next-start", reason)));
        findings.extend(plugin_views::open_breakers(&self.chain));
        findings.extend(self.workers.hung().into_iter().map(|what| {
            let message = format!("{what}; its thread was replaced; restart the host to free what it holds");
            finding("plugin.hung", message)
        }));
        let mut unreadable = lock(&self.unreadable);
        // A partition whose position is behind the batch has passed it, and one that was given up is another host's.
        let positions = self.standings();
        let stays = |source: &TopicPartition, offset: u64| {
            positions.iter().any(|(of, position, _)| of == source && *position <= offset)
        };
        unreadable.retain(|source, (offset, _)| stays(source, *offset));
        findings.extend(unreadable.iter().map(|(source, (_, reason))| {
            let message = format!(
                "{source}: {reason}; repair the broker, let another replica lead, raise receive.message.max.bytes in \
                 kafka.properties if it is too large, or delete it with Kafka's kafka-delete-records (its records are lost)"
            );
            finding("kafka.unreadable", message)
        }));
        findings.extend(lock(&self.skipped).iter().map(|(source, (count, last))| {
            let (from, to) = (last.start, last.end.saturating_sub(1));
            let message = format!(
                "{source}: {count} offsets were skipped because they can't be read, {from} to {to} last \
                 (kafka.on_unreadable is \"skip\"); restart the host once you have taken note"
            );
            finding("kafka.skipped", message)
        }));
        let waiting = lock(&self.waiting);
        // Each assignment begins with a question to Kafka: that its answer is still to come is no problem.
        let failed = waiting.iter().filter_map(|(source, why)| Some((source, why.as_ref()?)));
        let mut named: Vec<String> = failed.map(|(source, why)| format!("{source}: {why}")).collect();
        named.sort();
        if named.len() > NAMED {
            let more = named.len() - NAMED;
            named.truncate(NAMED);
            named.push(format!("{more} more"));
        }
        if !named.is_empty() {
            findings.push(finding("kafka.waiting", format!("partitions that can't be read yet: {}", named.join("; "))));
        }
        findings
    }

    fn probe(&self, source: &TopicPartition, end: u64) {
        lock(&self.probes).push((source.clone(), end));
    }

    fn ended(&self) -> bool {
        self.workers_ended.load(Ordering::SeqCst)
    }
}

impl Partitions for Host {
    fn states(&self) -> Vec<Arc<PartitionState>> {
        self.assignments().values().map(|owned| Arc::clone(&owned.state)).collect()
    }

    fn first_offset(&self, source: &TopicPartition) -> Option<u64> {
        let look = lock(&self.look);
        look.partitions.iter().find(|seen| seen.standing.source == *source)?.standing.begin
    }

    fn has_ended(&self) -> bool {
        self.workers_ended.load(Ordering::SeqCst)
    }
}

impl Reporter for Host {
    fn report(&self) -> HostReport {
        let counters = self.sink.counters();
        let (in_flight_records, in_flight_bytes) = self.budget.used();
        let mut look = lock(&self.look).clone();
        look.refresh(&self.standings());
        // The end of a pause is shown at once, and its begin, too, below.
        look.problems.retain(|problem| problem.code != PAUSED || !self.pauses.now().is_nothing());
        // The last look may be some time ago, where Kafka is away.
        let age_s = look.at.map_or(0, |at| at.elapsed().as_secs());
        look.problems.iter_mut().for_each(|problem| problem.for_s += age_s);
        let is_told = look.problems.iter().any(|problem| problem.code == PAUSED);
        look.problems.extend(self.paused().filter(|_| !is_told).map(|text| HealthProblem::new(PAUSED, text)));
        let done = look.last_minute;
        let behind = self.why_behind(&look, (in_flight_records, in_flight_bytes));
        HostReport {
            pipeline: self.config.pipeline.as_ref().map(ToString::to_string),
            pipeline_failures: 0,
            version: env!("CARGO_PKG_VERSION"),
            build: build::facts(),
            pid: std::process::id(),
            group: self.config.kafka.group.clone(),
            topics: self.config.kafka.topics.clone(),
            store: self.config.store.url.clone(),
            bucket: self.config.store.bucket.clone(),
            uptime_s: self.started.elapsed().as_secs(),
            problems: look.problems,
            public_texts: self.public_texts(),
            stopping: self.is_told_to_stop(),
            written: counters.written,
            written_bytes: counters.written_bytes,
            found: counters.found,
            repaired: counters.repaired,
            skipped_offsets: lock(&self.skipped).values().map(|(count, _)| count).sum(),
            dead_letters: counters.dead_letters,
            dead_letters_by_class: counters.dead_letters_by_class.to_vec(),
            store_retries: counters.retries,
            store_requests: self.sink.request_times(),
            commits_taken: self.commits.first().map_or(0, |taken| taken.load(Ordering::Relaxed)),
            commits_refused: self.commits.last().map_or(0, |refused| refused.load(Ordering::Relaxed)),
            spans: self.traces.get().map(|traces| traces.counts()),
            swaps_ended: self.control.swaps.ended().to_vec(),
            paused: self.pauses.now(),
            replay: self.replay.progress(),
            in_flight_records,
            in_flight_bytes,
            records_per_s: done.rate(done.totals.records),
            records_per_s_now: lock(&self.history).records_per_s(),
            bytes_per_s: done.rate(done.totals.bytes),
            behind,
            lag: report::LagReport::of(look.lag),
            waits_for_group: look.waits_for_group,
            partitions: look.partitions.iter().map(partition).collect(),
            plugins: self
                .chain
                .versions()
                .into_iter()
                .map(|version| {
                    let can = self.control.actions.of(&version.name);
                    plugin_views::plugin(version, &self.chain, can)
                })
                .collect(),
            swaps: self.control.swaps.last(),
        }
    }

    fn is_dead(&self) -> Option<String> {
        self.hangs().or_else(|| self.failure().map(|reason| reason.public.clone()))
    }

    fn act(&self, plugin: &str, action: Action) -> Result<String, String> {
        match action {
            Action::Promote => self.control.promote(plugin),
            Action::Rollback => self.control.rollback(plugin),
        }
    }

    fn pause(&self, topic: Option<&str>) -> Result<String, String> {
        self.know(topic)?;
        self.pauses.pause(topic);
        let what = topic.map_or_else(|| "all topics are".to_owned(), |topic| format!("topic {topic} is"));
        info!(topic, "paused: nothing more is read of it");
        Ok(format!("{what} paused until somebody resumes or this host is started again"))
    }

    fn resume(&self, topic: Option<&str>) -> Result<String, String> {
        self.pauses.resume(topic)?;
        info!(topic, "resumed");
        Ok(topic.map_or_else(|| "all topics are read again".to_owned(), |topic| format!("topic {topic} is read again")))
    }

    fn replay(&self, write: bool) -> Result<String, String> {
        let host = self.this.get().and_then(Weak::upgrade).ok_or("the host isn't ready yet")?;
        self.replay.start(host, write)
    }

    fn dead_letters(&self) -> Vec<DeadLetterNote> {
        self.sink.last_dead_letters()
    }

    fn history(&self) -> HistoryShown {
        lock(&self.history).shown()
    }

    fn tap(&self, question: TapQuestion) -> Result<TapAnswer, String> {
        self.taps.ask(question)
    }
}

impl Host {
    /// Says that the thread that polls Kafka doesn't move any more; `None`: it moves.
    pub fn hangs(&self) -> Option<String> {
        let quiet = self.polled.elapsed();
        let text = || format!("the thread that polls Kafka has not moved for {} s", quiet.as_secs());
        (quiet > DEAD_AFTER).then(text)
    }

    /// Says what the operator has paused; `None`: nothing.
    fn paused(&self) -> Option<String> {
        let paused = self.pauses.now();
        if paused.is_nothing() {
            return None;
        }
        let topics: Vec<&str> = paused.topics.iter().map(String::as_str).collect();
        let what = match &topics[..] {
            _ if paused.all => "all topics are".to_owned(),
            [topic] => format!("topic {topic} is"),
            topics => format!("topics {} are", topics.join(", ")),
        };
        Some(format!(
            "{what} paused until `reduct-sink resume`, because somebody asked for it; meanwhile the records wait in Kafka as long as \
             its retention keeps them"
        ))
    }

    /// Says how far the host is behind, and what the records wait for; `None`: it isn't far behind.
    fn why_behind(&self, look: &Look, (records, bytes): (usize, usize)) -> Option<String> {
        let worst = look.lag.now.map(|lag| lag.behind).filter(|worst| *worst > BEHIND)?;
        let limits = &self.config.limits;
        // One partition that waits for the store gets half of the budget at most.
        let is_much = |used: usize, most: usize| used >= most / 4;
        let is_much_in_flight = is_much(records, limits.in_flight_records) || is_much(bytes, limits.in_flight_bytes);
        let why = why_behind(&Signs {
            problems: &look.problems,
            is_paused: !self.pauses.now().is_nothing(),
            waits_for_store: is_much_in_flight || is_read(&look.partitions, limits.workers),
            oldest_request: self.sink.oldest_request(),
        });
        let catches_up = look.to_go.map(|to_go| format!(" and catching up (about {} s to go)", to_go.as_secs()));
        Some(format!("{} s behind{}: {why}", worst.as_secs(), catches_up.unwrap_or_default()))
    }

    /// Other texts, for callers who may not act, of the problems whose messages may hold what a plugin said of records.
    fn public_texts(&self) -> Vec<(&'static str, String)> {
        let failed = self.failure().map(|reason| ("host.failed", reason.public.clone()));
        failed.into_iter().chain(self.control.next_start.public().map(|text| ("next-start", text))).collect()
    }

    /// Refuses a topic of which this host has no partition: it may be misspelt.
    fn know(&self, topic: Option<&str>) -> Result<(), String> {
        let Some(topic) = topic else { return Ok(()) };
        let is_named = self.config.kafka.topics.iter().any(|named| named == topic);
        if is_named || self.assignments().keys().any(|source| *source.topic == *topic) {
            return Ok(());
        }
        Err(format!("this host reads no topic {topic}; it reads {}", self.config.kafka.topics.join(", ")))
    }
}

/// Whether the lagging partitions' records wait for the store: most of those that aren't acknowledged were read already. Of the records that
/// were read each worker has one at most that doesn't wait for the store.
fn is_read(partitions: &[PartitionView], workers: usize) -> bool {
    let lagging = || partitions.iter().filter(|seen| seen.behind.is_some_and(|behind| behind > BEHIND));
    let read: usize = lagging().map(|seen| seen.standing.in_flight).sum();
    let lag: u64 = lagging().filter_map(|seen| seen.standing.lag()).sum();
    read > workers && read as u64 >= lag / 2
}

/// The facts that show what records wait for.
struct Signs<'a> {
    problems: &'a [HealthProblem],
    is_paused: bool,
    /// Most records of the lagging partitions were read, or much of the budget is used.
    waits_for_store: bool,
    /// For how long the oldest request to the store has had no answer; `None`: no request is under way.
    oldest_request: Option<Duration>,
}

/// What records wait for, in words. A pause comes first, then a known problem of Kafka or the store, then the store, where it owes an
/// answer or most records were read already. If it is none of these, it is Kafka or the plugins.
fn why_behind(signs: &Signs) -> String {
    let is_of_server =
        |problem: &&HealthProblem| ["store", "kafka"].contains(&problem.code.split('.').next().unwrap_or_default());
    if signs.is_paused {
        "something is paused".into()
    } else if let Some(problem) = signs.problems.iter().find(is_of_server) {
        format!("see the problem `{}`, which says what to do", problem.code)
    } else if let Some(waited) = signs.oldest_request.filter(|waited| *waited > ANSWERED_SOON) {
        format!(
            "ReductStore has not answered a request for {} s; see whether it is stopped, overloaded or waits for its disk",
            waited.as_secs()
        )
    } else if signs.waits_for_store {
        "what was read waits for ReductStore; a faster store or network helps, or topics with more partitions, which are written side \
         by side"
            .into()
    } else {
        "little waits for ReductStore, so Kafka or the plugins are what takes the time; look at the plugins' times, raise \
         limits.workers, or run more hosts in the group"
            .into()
    }
}

fn partition(seen: &PartitionView) -> report::PartitionReport {
    let standing = &seen.standing;
    report::PartitionReport {
        topic: standing.source.topic.to_string(),
        partition: standing.source.partition,
        begin: standing.begin,
        position: standing.position,
        end: standing.end,
        lag: standing.lag(),
        lag_s: seen.behind.map(|behind| behind.as_secs_f64()),
        last_known: seen.last_known.filter(|_| standing.end.is_none()).map(report::LastKnownLag::of),
        in_flight: standing.in_flight,
        stuck: seen.stuck,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_wait_for_what_is_known_to_be_wrong() {
        let problem = |code| HealthProblem::new(code, "away");
        for code in ["store", "kafka.unreachable"] {
            // Shortly after the store has gone away little is in flight.
            let why = why_behind(&Signs { problems: &[problem("plugin"), problem(code)], ..NONE });
            assert!(why.starts_with(&format!("see the problem `{code}`")), "{why}");
        }
        let of = [problem("dead-letters.all")];
        let why = |waits_for_store, oldest_request| {
            why_behind(&Signs { problems: &of, waits_for_store, oldest_request, ..NONE })
        };
        let oldest = Some(Duration::from_millis(2_900));
        assert!(why(true, oldest).starts_with("what was read waits for ReductStore"), "{}", why(true, oldest));
        assert!(why(false, oldest).starts_with("little waits for ReductStore"), "{}", why(false, oldest));
        assert_eq!(
            why_behind(&Signs { problems: &[problem("store")], is_paused: true, ..NONE }),
            "something is paused"
        );
    }

    const NONE: Signs = Signs { problems: &[], is_paused: false, waits_for_store: false, oldest_request: None };

    #[test]
    fn a_store_that_owes_an_answer_is_named_however_little_is_in_flight() {
        let why = why_behind(&Signs { oldest_request: Some(Duration::from_secs(12)), ..NONE });
        assert!(why.starts_with("ReductStore has not answered a request for 12 s"), "{why}");
    }

    fn late(lag: u64, in_flight: usize, behind: u64) -> PartitionView {
        let source = TopicPartition { topic: "t".into(), partition: 0 };
        let standing = Standing { source, position: 10, in_flight, begin: Some(0), end: Some(10 + lag) };
        PartitionView { standing, behind: Some(Duration::from_secs(behind)), last_known: None, stuck: false }
    }

    #[test]
    fn what_lags_and_was_read_waits_for_the_store_however_little_of_the_budget_it_takes() {
        assert!(is_read(&[late(40, 38, 12)], 2), "the store has it");
        assert!(!is_read(&[late(40, 2, 12)], 2), "each worker may have one in a plugin");
        assert!(!is_read(&[late(4_000, 38, 12)], 2), "the rest isn't read yet");
        assert!(!is_read(&[late(40, 2, 12), late(90, 90, 1)], 2), "a partition that keeps up says nothing");
    }
}
