//! One replay under way: a page of dead letters at a time, from the entry through the chain to the sink.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use super::asking::ReplayQuestions;
use super::shown::reasons_to_stay;
use super::{Fate, FoundLetter, LeftReason, LetterPlace, ReplayError, ReplayedLetter};
use crate::chain::{Chain, Outcome, PluginFailure};
use crate::config::Config;
use crate::dead_letters::format::DeadLetter;
use crate::flow::backoff::Backoff;
use crate::flow::{Begin, Budget, LetterRefusal, PartitionState, StoredOutput};
use crate::kafka::check as kafka;
use crate::record::entry_name::{EntryName, Naming, Template};
use crate::record::{Identity, InputRecord, TopicPartition};
use crate::sink::item::{Item, Mapping, Prepared};
use crate::sink::store::StoreError;
use crate::sink::{Sink, entry_of, hand_over};

/// How long requests under way are waited for when the replay is told to stop.
const LAST_REQUESTS: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(50);

/// Answers with a partition as this host reads it; `None`: it doesn't.
pub type OwnPartitions = Arc<dyn Fn(&TopicPartition) -> Option<Arc<PartitionState>> + Send + Sync>;

/// Answers with why the plugins aren't asked for a record; `None`: they are.
pub type NotAsked = Arc<dyn Fn(&InputRecord) -> Option<PluginFailure> + Send + Sync>;

pub struct ReplayRun<'a> {
    config: &'a Config,
    chain: Chain,
    /// What writes; `None`: nothing is changed.
    sink: Option<Sink>,
    /// What this host reads, where letters are written beside live records.
    owned: Option<OwnPartitions>,
    /// The partitions of which this host had letters during the replay.
    had: HashSet<TopicPartition>,
    /// Whether the group has other hosts, once that was asked.
    has_others: Option<bool>,
    not_asked: Option<NotAsked>,
    budget: Arc<Budget>,
    mapping: Mapping,
    entry: Option<Template>,
    dead_letter_entry: Template,
    /// How many partitions each topic has that was asked for, or why that can't be known.
    partitions: HashMap<Arc<str>, Result<usize, String>>,
    runtime: Handle,
    questions: ReplayQuestions,
}

/// A letter's fate, and its own state where it is done with.
pub type LetterWithState = (ReplayedLetter, Option<Arc<PartitionState>>);

/// A dead letter that was handed to the sink.
struct PendingLetter {
    state: Arc<PartitionState>,
    entries: Vec<EntryName>,
}

enum Begun {
    Decided(Fate),
    Dropped(Arc<PartitionState>),
    Pending(PendingLetter),
}

impl<'a> ReplayRun<'a> {
    /// Writes to `sink`; without one it only tells what would be written.
    pub fn new(
        config: &'a Config,
        chain: Chain,
        sink: Option<Sink>,
        runtime: Handle,
        questions: ReplayQuestions,
    ) -> Result<Self, ReplayError> {
        let template = |key: &str, text: &str| {
            Template::parse(text).map_err(|error| ReplayError::Failed(format!("{key}: {error}")))
        };
        Ok(Self {
            chain,
            sink,
            owned: None,
            had: HashSet::new(),
            has_others: None,
            not_asked: None,
            // A page is what bounds this.
            budget: Arc::new(Budget::new(usize::MAX, usize::MAX)),
            mapping: Mapping { labels: config.labels.clone(), content_types: config.store.content_types.clone() },
            entry: config.store.entry.as_deref().map(|text| template("store.entry", text)).transpose()?,
            dead_letter_entry: template("dead_letters.entry", &config.dead_letters.entry)?,
            partitions: HashMap::new(),
            runtime,
            questions,
            config,
        })
    }

    /// Writes only letters of partitions that this host has, through the sink that writes their live records.
    pub fn beside_live(self, owned: OwnPartitions) -> Self {
        Self { owned: Some(owned), ..self }
    }

    /// Doesn't ask the plugins for these records.
    pub fn without(self, not_asked: NotAsked) -> Self {
        Self { not_asked: Some(not_asked), ..self }
    }

    /// Sends a page through chain and sink, and waits until each one's fate is known.
    pub fn page(&mut self, page: Vec<FoundLetter>) -> Result<Vec<LetterWithState>, ReplayError> {
        let (mut told, mut begun) = (Vec::new(), Vec::new());
        let mut records = HashSet::new();
        for FoundLetter { place, letter } in page {
            let identity = letter.as_ref().ok().map(DeadLetter::identity);
            let record = identity.as_ref().map(|identity| (identity.source.clone(), identity.offset));
            if record.is_some_and(|record| !records.insert(record)) {
                // Two letters of one record: what the first one writes has to be found when the second one comes.
                told.extend(begun.drain(..).map(|begun| self.tell(begun)));
            }
            let one = match letter {
                _ if self.stopped() => Begun::Decided(Fate::Left(LeftReason::Stopped)),
                Err(unreadable) => Begun::Decided(Fate::Failing(unreadable.to_string())),
                Ok(letter) => match self.begin_letter(&place, letter) {
                    Err(ReplayError::Stopped) => Begun::Decided(Fate::Left(LeftReason::Stopped)),
                    begun => begun?,
                },
            };
            begun.push((place, identity, one));
        }
        told.extend(begun.into_iter().map(|begun| self.tell(begun)));
        Ok(told)
    }

    /// Leaves the letters whose outputs the store doesn't show as the chain made them: they may be the last good copy.
    pub fn left_unless_shown(&self, told: Vec<LetterWithState>) -> Result<Vec<ReplayedLetter>, StoreError> {
        let outputs = |(told, state): &LetterWithState| match (&told.fate, state) {
            (Fate::Written(_), Some(state)) => state.take_stored(),
            _ => Vec::new(),
        };
        let outputs: Vec<Vec<StoredOutput>> = told.iter().map(outputs).collect();
        let reasons = match &self.sink {
            Some(sink) => reasons_to_stay(sink, &outputs)?,
            None => vec![None; told.len()],
        };
        let leave = |((told, _), reason): (LetterWithState, Option<LeftReason>)| match reason {
            Some(reason) => ReplayedLetter { fate: Fate::Left(reason), ..told },
            None => told,
        };
        Ok(told.into_iter().zip(reasons).map(leave).collect())
    }

    /// Waits until the letter's fate is known.
    fn tell(&self, (place, identity, begun): (LetterPlace, Option<Identity>, Begun)) -> LetterWithState {
        let (fate, state) = match begun {
            Begun::Decided(fate) => (fate, None),
            Begun::Dropped(state) => (Fate::Dropped, Some(state)),
            Begun::Pending(pending) => {
                let state = Arc::clone(&pending.state);
                (self.finish_letter(pending), Some(state))
            }
        };
        (ReplayedLetter { place, identity, fate }, state)
    }

    /// Waits for the last requests, and tells how many outputs were in their entry already.
    pub fn end(self) -> u64 {
        let Some(sink) = self.sink else { return 0 };
        self.runtime.block_on(async {
            // What they leave unfinished is mended by the next writer.
            let _ = tokio::time::timeout(LAST_REQUESTS, sink.idle()).await;
        });
        sink.counters().found
    }

    fn stopped(&self) -> bool {
        self.questions.is_stopped()
    }

    fn begin_letter(&mut self, place: &LetterPlace, letter: DeadLetter) -> Result<Begun, ReplayError> {
        let failing = |reason: String| Ok(Begun::Decided(Fate::Failing(reason)));
        let DeadLetter { input, index } = letter;
        let state = match &self.owned {
            Some(owned) => match admitted(owned(&input.source), place, &input) {
                Ok(live) => {
                    self.had.insert(input.source.clone());
                    Arc::new(live.for_letter_beside_live(&self.budget))
                }
                Err(NotAdmitted::Not(reason)) => return Ok(Begun::Decided(Fate::Left(reason))),
                Err(NotAdmitted::Elsewhere) => {
                    return Ok(Begun::Decided(Fate::Left(self.why_elsewhere(&input.source))));
                }
            },
            None => match self.state_alone(&input.source)? {
                Ok(state) => state,
                Err(reason) => return failing(reason),
            },
        };
        if let Some(failure) = self.not_asked.as_ref().and_then(|not_asked| not_asked(&input)) {
            return failing(told(&failure));
        }
        self.chain.refresh();
        let input = Arc::new(input);
        let mut outputs = match self.transform(&input) {
            Outcome::Outputs(outputs) => outputs,
            Outcome::Dropped => return Ok(Begun::Dropped(state)),
            Outcome::DeadLetter(failure)
            | Outcome::Skipped(failure)
            | Outcome::Stop(failure)
            | Outcome::Wait(failure, _) => return failing(told(&failure)),
            Outcome::Retry(failure) => return failing(format!("{} (it asks for a retry)", told(&failure))),
        };
        if let Some(index) = index {
            // The other parts were written, or have dead letters of their own.
            outputs.retain(|output| output.index == Some(index));
            if outputs.is_empty() {
                return failing(format!("it is part {index} of a split, and now the chain makes no such part"));
            }
        }
        let entries = outputs.iter().map(|output| entry_of(&state, output)).collect::<Result<Vec<_>, _>>();
        let entries = match entries {
            Ok(entries) => entries,
            Err(error) => return failing(error.to_string()),
        };
        let Some(ack) = state.receive(input.offset, input.size()) else {
            return failing("it was received before".into());
        };
        if let Some(sink) = &self.sink {
            hand_over(sink, &state, outputs, ack);
            return Ok(Begun::Pending(PendingLetter { state, entries }));
        }
        for (record, entry) in outputs.into_iter().zip(&entries) {
            let item = Item { record, entry: entry.clone(), ack: ack.share() };
            if let Err(refused) = Prepared::new(item, &self.mapping) {
                let (_, reason) = *refused;
                return failing(reason);
            }
        }
        Ok(Begun::Decided(Fate::Written(entries)))
    }

    /// Waits until the sink is done with it. A store that is away is waited for.
    fn finish_letter(&self, PendingLetter { state, entries }: PendingLetter) -> Fate {
        while !state.wait_drained(TICK) {
            if state.is_record_lost() && state.may_write() {
                return Fate::Failing("it was lost on its way; the log says more".into());
            }
            if !state.may_write() {
                // The partition was taken away: the next replay looks again.
                state.end();
                return Fate::Left(LeftReason::Taken);
            }
            if self.stopped() {
                state.end();
                return Fate::Left(LeftReason::Stopped);
            }
        }
        match state.letter_refusal() {
            Some(LetterRefusal::Failing(reason)) => Fate::Failing(reason.clone()),
            Some(LetterRefusal::NotNow(_)) if state.live_partition().is_some_and(|live| !live.may_replay_letters()) => {
                Fate::Left(LeftReason::Taken)
            }
            Some(LetterRefusal::NotNow(reason)) => Fate::Left(LeftReason::Store(reason.clone())),
            None => Fate::Written(entries),
        }
    }

    /// Why this host doesn't have the partition of a letter. That the group has other hosts is asked once: where Kafka is away, the
    /// answer takes long.
    fn why_elsewhere(&mut self, source: &TopicPartition) -> LeftReason {
        if self.had.contains(source) {
            return LeftReason::Taken;
        }
        let (kafka, questions) = (self.config.kafka.clone(), &self.questions);
        let members = || questions.ask(move || kafka::members_beside(&kafka));
        let has_others = || members().is_ok_and(|members| members.is_ok_and(|members| members > 1));
        if *self.has_others.get_or_insert_with(has_others) { LeftReason::OtherHost } else { LeftReason::NotHere }
    }

    /// As a worker does; only a replay while no host runs waits for a plugin that asks for a retry.
    fn transform(&mut self, input: &Arc<InputRecord>) -> Outcome {
        let mut backoff = Backoff::default();
        let mut attempt = 1;
        loop {
            match self.chain.attempt(input, attempt) {
                Outcome::Retry(_) if self.sink.is_some() && self.owned.is_none() && !self.stopped() => {
                    std::thread::sleep(backoff.wait())
                }
                outcome => return outcome,
            }
            attempt += 1;
        }
    }

    /// The state of a letter that is replayed alone. Its entries are named as a host that reads the partition would name them.
    fn state_alone(&mut self, source: &TopicPartition) -> Result<Result<Arc<PartitionState>, String>, ReplayError> {
        let naming = match &self.entry {
            Some(template) => Naming::configured(template),
            None => match self.partitions_of(&source.topic)? {
                Ok(partitions) => Naming::default_for(partitions, self.config.kafka.several_topics()),
                Err(reason) => return Ok(Err(reason)),
            },
        };
        let budget = Arc::clone(&self.budget);
        let state = PartitionState::new(source.clone(), naming, &self.dead_letter_entry, budget, Begin::default());
        Ok(state.map(|state| Arc::new(state.for_letter_alone())).map_err(|error| error.to_string()))
    }

    /// On this the default entry's name depends.
    fn partitions_of(&mut self, topic: &Arc<str>) -> Result<Result<usize, String>, ReplayError> {
        if let Some(known) = self.partitions.get(topic) {
            return Ok(known.clone());
        }
        let (kafka, name) = (self.config.kafka.clone(), Arc::clone(topic));
        let found = match self.questions.ask(move || kafka::topic(&kafka, &name))?? {
            Ok(info) => Ok(info.partitions),
            Err(error) => Err(format!(
                "how many partitions topic {topic} has decides on the entry's name, and can't be known: {error}; or set \
                 store.entry"
            )),
        };
        self.partitions.insert(Arc::clone(topic), found.clone());
        Ok(found)
    }
}

/// Why a letter isn't written beside live records.
enum NotAdmitted {
    /// This host doesn't have its partition.
    Elsewhere,
    Not(LeftReason),
}

/// Whether a letter may be written beside live records, and the partition that it belongs to.
fn admitted(
    live: Option<Arc<PartitionState>>,
    place: &LetterPlace,
    input: &InputRecord,
) -> Result<Arc<PartitionState>, NotAdmitted> {
    let live = live.ok_or(NotAdmitted::Elsewhere)?;
    match place {
        LetterPlace::Entry { entry, .. } if *entry != live.dead_letter_entry => {
            Err(NotAdmitted::Not(LeftReason::OtherEntry))
        }
        _ if !live.may_replay_letters() || !live.has_passed(input.offset, input.topic_id) => {
            Err(NotAdmitted::Not(LeftReason::Early))
        }
        _ => Ok(live),
    }
}

fn told(failure: &PluginFailure) -> String {
    format!("plugin {} ({}): {}", failure.plugin, failure.digest.short(), failure.reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::SharedChain;
    use crate::config;
    use crate::plugin::Runtime;

    #[test]
    fn another_host_is_named_only_where_there_is_one() {
        let environment =
            [("REDUCT_SINK_BROKERS", "127.0.0.1:1"), ("REDUCT_SINK_TOPICS", "t"), ("REDUCT_SINK_BUCKET", "b")];
        let environment = environment.map(|(name, value)| (name.into(), value.into())).into_iter().collect();
        let sources = config::Sources { environment, ..config::Sources::default() };
        let config = config::load(sources).config.unwrap().only().unwrap();
        let chain = Chain::new(SharedChain::load(Runtime::new().unwrap(), &config.plugins).unwrap()).unwrap();
        let tokio = tokio::runtime::Runtime::new().unwrap();
        let questions = ReplayQuestions::start(Arc::default()).unwrap();
        let mut run = ReplayRun::new(&config, chain, None, tokio.handle().clone(), questions).unwrap();
        let of = |partition| TopicPartition { topic: "t".into(), partition };
        run.has_others = Some(true);
        assert_eq!(run.why_elsewhere(&of(0)), LeftReason::OtherHost);
        run.had.insert(of(1));
        assert_eq!(run.why_elsewhere(&of(1)), LeftReason::Taken, "this host had it a moment ago");
        run.has_others = Some(false);
        assert_eq!(run.why_elsewhere(&of(0)), LeftReason::NotHere);
        for reason in [LeftReason::NotHere, LeftReason::Taken] {
            let words = reason.words();
            assert!(
                words.contains("start the replay again once this host") || words.contains("once it has them"),
                "{words}"
            );
            assert!(!words.contains("another host"), "{words}");
        }
    }
}
