//! Sends dead letters through the present chain again.
//!
//! A dry run asks the plugins what would become of each, and changes nothing. Writing goes through the same [`crate::sink::Sink`] as
//! ever, under the same identity and with the same timestamps: what an interrupted replay wrote is found and not written
//! again. A dead letter is done with when its outputs are acknowledged, or when a plugin dropped it; what fails again
//! stays where it is, as it is.
//!
//! Guarantees: nothing is lost: a dead letter goes only after its outputs are safe; nothing is written twice, also when a
//! replay is interrupted and run again, as long as the chain makes the same of a record as before; two writers of one entry
//! would lose records, so [`replay`] writes nothing while the consumer group has members, and a running host writes only letters
//! of its own partitions, through its own writers ([`beside_live()`]); [`dry_run`] changes nothing.

mod asking;
mod beside_live;
mod done;
mod entries;
mod run;
mod shown;
mod topic;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use thiserror::Error;
use tracing::warn;

use self::asking::ReplayQuestions;
pub use self::beside_live::{HostReplay, ReplayListener, Settling, beside_live};
pub use self::done::DoneOffsets;
use self::run::ReplayRun;
pub use self::run::{NotAsked, OwnPartitions};
use crate::chain::{Chain, SharedChain};
use crate::config::Config;
use crate::dead_letters::format::{DeadLetter, UnreadableLetter};
use crate::flow::membership::Membership;
use crate::health::report::OF_THE_STORE;
use crate::health::stop_signals::stop_on_signal;
use crate::kafka::check as kafka;
use crate::kafka::error::KafkaCheckError;
use crate::plugin::{LoadError, Runtime};
use crate::record::entry_name::EntryName;
use crate::record::{Identity, TopicPartition};
use crate::sink::store::{Store, StoreError};
use crate::sink::{AttachmentError, Sink, attachments};

/// What became of a dead letter, or would become of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// To these entries, one for each output.
    Written(Vec<EntryName>),
    /// A plugin's verdict.
    Dropped,
    /// It stays in the dead letters, for this reason.
    Failing(String),
    /// It stays in the dead letters for now, as it is.
    Left(LeftReason),
}

/// Why a dead letter was left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeftReason {
    /// The replay was told to stop first.
    Stopped,
    /// Its partition was taken away or is read again meanwhile.
    Taken,
    /// This host doesn't have its partition, and the group has other hosts.
    OtherHost,
    /// This host doesn't have its partition, and isn't known to share its group.
    NotHere,
    /// It is in an entry that isn't its partition's entry of dead letters.
    OtherEntry,
    /// Its partition isn't ready for it: it hasn't passed the record, is read again, or an earlier host may still be writing.
    Early,
    /// What is in the store isn't what the chain makes of it.
    Differs,
    /// The store has a reason.
    Store(String),
}

impl LeftReason {
    /// What somebody who operates the host has to know of it.
    pub fn words(&self) -> Cow<'static, str> {
        let words = match self {
            Self::Stopped => "the replay was stopped",
            Self::Taken => {
                "their partition was taken away meanwhile or is read again; start the replay again once this host has it and has read it"
            }
            Self::OtherHost => "another host of the group reads their partitions; run it there, too",
            Self::NotHere => "this host doesn't have their partitions now; start the replay again once it has them",
            Self::OtherEntry => {
                "they are in entries that no partition of this host has; stop the group and run replay --write"
            }
            Self::Early => {
                "their partition is read again, or an earlier host may still be writing; replay in some minutes"
            }
            Self::Differs => {
                "what is in ReductStore under their identity differs from what the plugins make of them now; remove it there and replay \
                 again, or, to keep it, remove the dead letters (those in a topic go with its retention)"
            }
            Self::Store(reason) => return Cow::Owned(format!("{OF_THE_STORE}{reason}; start the replay again")),
        };
        Cow::Borrowed(words)
    }
}

impl fmt::Display for LeftReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(reason) => f.write_str(reason),
            other => f.write_str(&other.words()),
        }
    }
}

/// Where a dead letter is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LetterPlace {
    /// In an entry of the store, at this time in microseconds.
    Entry {
        /// The entry's name.
        entry: EntryName,
        /// Microseconds since 1970.
        timestamp_us: u64,
    },
    /// In Kafka's topic of dead letters, at this offset.
    Topic {
        /// The partition of that topic.
        partition: TopicPartition,
        /// The offset in it.
        offset: u64,
    },
}

impl fmt::Display for LetterPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entry { entry, timestamp_us } => write!(f, "{entry}@{timestamp_us}"),
            Self::Topic { partition, offset } => write!(f, "{partition}@{offset}"),
        }
    }
}

/// A dead letter as it was found.
pub struct FoundLetter {
    /// Where it was found.
    pub place: LetterPlace,
    /// The letter, or why it can't be read.
    pub letter: Result<DeadLetter, UnreadableLetter>,
}

/// One dead letter's line in the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayedLetter {
    /// Where it is kept.
    pub place: LetterPlace,
    /// `None` where it doesn't say who it is.
    pub identity: Option<Identity>,
    /// What became of it.
    pub fate: Fate,
}

impl ReplayedLetter {
    fn is_done(&self) -> bool {
        matches!(self.fate, Fate::Written(_) | Fate::Dropped)
    }
}

/// How many dead letters had which fate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReplaySummary {
    /// All that were found.
    pub letters: u64,
    /// Those whose record is in the store now.
    pub written: u64,
    /// Those that the plugins drop now.
    pub dropped: u64,
    /// Those that failed again; they are kept.
    pub failing: u64,
    /// Those that were left alone.
    pub untouched: u64,
    /// Outputs that were in their entry already.
    pub found: u64,
    /// Records beside them that are no dead letters.
    pub others: u64,
}

/// Why a replay ended early.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "each message says it")]
pub enum ReplayError {
    #[error(transparent)]
    Plugin(#[from] LoadError),
    #[error(transparent)]
    Kafka(#[from] KafkaCheckError),
    #[error(
        "consumer group {group:?} has live members ({members}), and a running sink and a replay must not write at once; stop \
         every reduct-sink of this group, then run this again (one that was killed leaves the group after \
         session.timeout.ms)"
    )]
    Members { group: String, members: usize },
    #[error("ReductStore at {url}, bucket {bucket:?}: {error}; check store.url, store.bucket and store.token")]
    Store { url: String, bucket: String, error: StoreError },
    #[error("store.discard is set, so nothing would be written and the dead letters would be lost; unset it")]
    Discard,
    #[error(
        "the dead letters are in topic {topic:?}, where a replay's notes have room for one host's only, and consumer group \
         {group:?} has {members} members; let one host run alone, or stop all and run `reduct-sink replay --write`"
    )]
    NotAlone { topic: String, group: String, members: usize },
    #[error(
        "store.shared_entries is set, so that other hosts may write the same entries; stop every reduct-sink of the group and run \
         `reduct-sink replay --write`"
    )]
    SharedEntries,
    #[error(transparent)]
    Attachment(#[from] AttachmentError),
    #[error("the replay was told to stop")]
    Stopped,
    #[error("{0}")]
    Failed(String),
}

/// Goes through the dead letters: of the configured topic, or of all entries that match `pattern` (`*` stands for
/// anything) or the configured template. `tell` gets each one's fate. Blocks; call it from a plain thread.
pub fn replay(
    config: &Config,
    pattern: Option<&str>,
    write: bool,
    tell: &mut dyn FnMut(&ReplayedLetter),
) -> Result<ReplaySummary, ReplayError> {
    let failed = |what: &'static str| move |error: &dyn fmt::Display| ReplayError::Failed(format!("{what}: {error}"));
    if write && config.store.discard {
        return Err(ReplayError::Discard);
    }
    let engine = Runtime::for_config(config);
    let engine = engine.map_err(|error| failed("can't start the WebAssembly engine")(&format!("{error:#}")))?;
    let shared = SharedChain::load(engine, &config.plugins)?;
    let chain = Chain::new(shared).map_err(|error| failed("can't start the plugins")(&format!("{error:#}")))?;
    let stop = Arc::new(AtomicBool::new(false));
    let questions = ReplayQuestions::start(Arc::clone(&stop))?;
    if write {
        refuse_company(config, &questions)?;
    }
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("sink")
        .build()
        .map_err(|error| failed("can't start the sink's threads")(&error))?;
    tokio
        .block_on(async { stop_on_signal(&stop, || ()) })
        .map_err(|error| failed("can't listen to signals")(&error))?;

    let store = Store::new(&config.store).map_err(|error| wrong(config, error))?;
    let sink = if write { Some(sink(config, store.clone(), tokio.handle())?) } else { None };
    let run = ReplayRun::new(config, chain, sink, tokio.handle().clone(), questions.clone())?;
    let replay = Replay { config, run, write, questions, tell, summary: ReplaySummary::default() };
    let summary = replay.all(&store, tokio.handle(), pattern);
    tokio.shutdown_background();
    summary
}

/// How many dead letters there are now, for somebody who wants to know how far a replay is. Letters in a topic are counted by their
/// offsets, so that there may be fewer. `stop` ends the waiting for Kafka ([`ReplayError::Stopped`]).
pub fn count(
    config: &Config,
    store: &Store,
    runtime: &tokio::runtime::Handle,
    stop: Arc<AtomicBool>,
) -> Result<u64, ReplayError> {
    match &config.dead_letters.topic {
        Some(topic) => topic::count(config, &ReplayQuestions::start(stop)?, topic),
        None => entries::count(config, store, runtime),
    }
}

/// Tells what a replay would make of the dead letters now, for a host that runs: nothing is written, removed or marked.
/// `chain` is for it alone, see [`Chain::for_replay`]; `stop` ends it;
/// the plugins aren't asked for the records of `not_asked`.
pub fn dry_run(
    config: &Config,
    chain: Chain,
    store: &Store,
    runtime: &tokio::runtime::Handle,
    stop: Arc<AtomicBool>,
    not_asked: NotAsked,
    tell: &mut dyn FnMut(&ReplayedLetter),
) -> Result<ReplaySummary, ReplayError> {
    let questions = ReplayQuestions::start(stop)?;
    let run = ReplayRun::new(config, chain, None, runtime.clone(), questions.clone())?.without(not_asked);
    let replay = Replay { config, run, write: false, questions, tell, summary: ReplaySummary::default() };
    replay.all(store, runtime, None)
}

/// A replay under way, wherever the letters come from.
struct Replay<'a> {
    config: &'a Config,
    run: ReplayRun<'a>,
    write: bool,
    questions: ReplayQuestions,
    tell: &'a mut dyn FnMut(&ReplayedLetter),
    summary: ReplaySummary,
}

impl Replay<'_> {
    /// Goes through all dead letters.
    fn all(
        mut self,
        store: &Store,
        runtime: &tokio::runtime::Handle,
        pattern: Option<&str>,
    ) -> Result<ReplaySummary, ReplayError> {
        let answer = match &self.config.dead_letters.topic {
            Some(topic) if pattern.is_none() => topic::replay(&mut self, topic),
            _ => entries::replay(&mut self, store, runtime, pattern),
        };
        unless_stopped(answer)?;
        let Replay { run, questions, mut summary, .. } = self;
        summary.found = run.end();
        if questions.is_stopped() {
            warn!("stopped before the end; run it again for the rest");
        }
        Ok(summary)
    }

    fn stopped(&self) -> bool {
        self.questions.is_stopped()
    }

    /// What becomes of a page. `finish` gets the letters that are done with, before anyone is told.
    fn page(
        &mut self,
        page: Vec<FoundLetter>,
        finish: impl FnOnce(Vec<&LetterPlace>) -> Result<(), ReplayError>,
    ) -> Result<(), ReplayError> {
        if self.write {
            // A sink may have been started in the meantime.
            refuse_company(self.config, &self.questions)?;
        }
        let told = self.run.page(page)?;
        let mut told = self.run.left_unless_shown(told).map_err(|error| wrong(self.config, error))?;
        if self.write {
            match finish(told.iter().filter(|told| told.is_done()).map(|told| &told.place).collect()) {
                // Whether it is noted that they are done isn't known. If it isn't, the next replay finds what was written.
                Err(ReplayError::Stopped) => told
                    .iter_mut()
                    .filter(|told| told.is_done())
                    .for_each(|told| told.fate = Fate::Left(LeftReason::Stopped)),
                finished => finished?,
            }
        }
        for told in &told {
            self.summary.count(&told.fate);
            (self.tell)(told);
        }
        Ok(())
    }
}

/// For a replay that writes while no host of the group runs.
fn sink(config: &Config, store: Store, runtime: &tokio::runtime::Handle) -> Result<Sink, ReplayError> {
    let membership = Arc::new(Membership::default());
    let attachments = attachments::watched(&config.attachments, runtime)?;
    Ok(Sink::new(store, &config.store, &config.labels, attachments, membership, None, runtime.clone()))
}

fn wrong(config: &Config, error: StoreError) -> ReplayError {
    ReplayError::Store { url: config.store.url.clone(), bucket: config.store.bucket.clone(), error }
}

impl ReplaySummary {
    /// Adds one dead letter.
    pub fn count(&mut self, fate: &Fate) {
        self.letters += 1;
        match fate {
            Fate::Written(_) => self.written += 1,
            Fate::Dropped => self.dropped += 1,
            Fate::Failing(_) => self.failing += 1,
            Fate::Left(_) => self.untouched += 1,
        }
    }
}

/// A stop is no failure.
fn unless_stopped(answer: Result<(), ReplayError>) -> Result<(), ReplayError> {
    match answer {
        Err(ReplayError::Stopped) => Ok(()),
        answer => answer,
    }
}

fn refuse_company(config: &Config, questions: &ReplayQuestions) -> Result<(), ReplayError> {
    let kafka = config.kafka.clone();
    match questions.ask(move || kafka::members(&kafka))?? {
        0 => Ok(()),
        members => Err(ReplayError::Members { group: config.kafka.group.clone(), members }),
    }
}
