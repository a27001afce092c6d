//! A replay by a host that runs, beside its live records.
//!
//! The host takes the letters of the partitions that it has at this moment: it is their entries' only writer in the group. Each
//! goes through the present chain in a thread of its own, and its outputs through the same writers as live records. A letter that is
//! done with stays until the last one was written and [`SETTLED_AFTER`] is over (or until [`MOST_SETTLING`] are done with): the store may lose what it acknowledged a moment ago in a crash, and Kafka may have the
//! record no more. Then the host asks the store whether it was started again and still shows the outputs, and removes the letter,
//! again through its entry's writer: both for [`REMOVED_AT_ONCE`] letters at a time, so that what was proved is no older than a request.
//!
//! Guarantees: a letter goes only when its outputs were read back, then settled without a restart of the store, and are shown then with the
//! bytes that the chain makes, also those that were there before; a letter
//! whose partition is taken away meanwhile stays; after an interruption at any point a replay finds what was written and doesn't
//! write it twice, as long as the chain makes the same of it; live records come first: letters come in small pages, and after each page
//! the replay rests for as long as the page took; what is remembered of letters that settle is bounded by [`MOST_SETTLING`]. Not guaranteed: any of this where
//! the store crashes during a replay or shortly after it, for records of old times reopen blocks that were complete.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use tracing::warn;

use super::asking::ReplayQuestions;
use super::run::{NotAsked, OwnPartitions, ReplayRun};
use super::shown::reasons_to_stay;
use super::{
    Fate, FoundLetter, LeftReason, LetterPlace, ReplayError, ReplaySummary, ReplayedLetter, entries, topic,
    unless_stopped, wrong,
};
use crate::chain::Chain;
use crate::config::Config;
use crate::flow::store_start::Started;
use crate::flow::{PartitionState, StoredOutput};
use crate::kafka::check as kafka;
use crate::sink::Sink;

/// How long what was written is left alone before its dead letter is removed. Source: the server saves what it holds open every 60 s by
/// default.
const SETTLED_AFTER: Duration = Duration::from_secs(75);
/// How long it is waited for at most, where requests to the store fail again and again.
const SETTLED_WITHIN: Duration = Duration::from_secs(900);
/// Letters that settle at a time, and their outputs, but for those of the last page: a split makes up to a thousand of a letter. Each takes
/// some 300 bytes.
const MOST_SETTLING: usize = 10_000;
/// Letters that are removed with one request.
const REMOVED_AT_ONCE: usize = 64;
const TICK: Duration = Duration::from_millis(200);
const LEAST_REST: Duration = Duration::from_millis(10);

/// What a host has for a replay.
pub struct HostReplay<'a> {
    /// The configuration that it runs with.
    pub config: &'a Config,
    /// For the replay alone, see [`Chain::for_replay`].
    pub chain: Chain,
    /// The sink that writes its live records.
    pub sink: Sink,
    /// The partitions that it has.
    pub owned: OwnPartitions,
    /// The records that its plugins aren't asked for.
    pub not_asked: NotAsked,
    /// Ends the replay.
    pub stop: Arc<AtomicBool>,
}

/// How far the letters are that are written and not removed yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Settling {
    /// How many there are.
    pub letters: u64,
    /// How many of them had all their outputs in the store before this replay.
    pub found: u64,
    /// How long until they are removed; `None`: more are being written.
    pub left: Option<Duration>,
}

/// What gets each letter's fate, and how many wait to be removed.
pub trait ReplayListener {
    /// A letter's fate is decided.
    fn told(&mut self, letter: &ReplayedLetter);
    /// Letters wait to be removed.
    fn settling(&mut self, settling: Settling);
}

/// Removes letters of one partition, or answers with why they stay.
pub(super) type RemoveLetters<'r> =
    dyn FnMut(&BesideLive<'_>, &Arc<PartitionState>, &[&LetterPlace]) -> Result<(), String> + 'r;

/// A letter that is done with but for its removal.
struct DoneLetter {
    told: ReplayedLetter,
    /// Its partition as this host had it when the letter was read. Where this value has ended, another host may have removed the letter
    /// and put another one in its place.
    live: Arc<PartitionState>,
    outputs: Vec<StoredOutput>,
}

impl DoneLetter {
    fn was_found(&self) -> bool {
        !self.outputs.is_empty() && self.outputs.iter().all(|output| output.found)
    }
}

/// How many of them were in the store before the replay.
fn found(letters: &[DoneLetter]) -> u64 {
    letters.iter().filter(|letter| letter.was_found()).count() as u64
}

pub(super) struct BesideLive<'a> {
    pub config: &'a Config,
    run: ReplayRun<'a>,
    pub sink: Sink,
    pub questions: ReplayQuestions,
    listener: &'a mut dyn ReplayListener,
    pub summary: ReplaySummary,
    done: Vec<DoneLetter>,
    /// How many outputs they have.
    outputs: usize,
    /// When the last of them was written, and how the store had started before the first one was.
    written: Option<Instant>,
    store_start: Option<Started>,
}

/// Writes what can be written of the dead letters now, and removes what is done with. Blocks.
pub fn beside_live(host: HostReplay<'_>, listener: &mut dyn ReplayListener) -> Result<ReplaySummary, ReplayError> {
    let HostReplay { config, chain, sink, owned, not_asked, stop } = host;
    if config.store.discard {
        return Err(ReplayError::Discard);
    }
    if config.store.shared_entries {
        return Err(ReplayError::SharedEntries);
    }
    let runtime = sink.runtime().clone();
    let questions = ReplayQuestions::start(stop)?;
    let run = ReplayRun::new(config, chain, Some(sink.clone()), runtime, questions.clone())?;
    let run = run.beside_live(owned).without(not_asked);
    let mut replay = BesideLive {
        config,
        run,
        sink,
        questions,
        listener,
        summary: ReplaySummary::default(),
        done: Vec::new(),
        outputs: 0,
        written: None,
        store_start: None,
    };
    unless_stopped(match &config.dead_letters.topic {
        Some(topic) => topic::replay_beside_live(&mut replay, topic),
        None => entries::replay_beside_live(&mut replay),
    })?;
    if replay.stopped() {
        warn!("the replay was stopped before the end; run it again for the rest");
    }
    Ok(replay.summary)
}

impl BesideLive<'_> {
    pub fn stopped(&self) -> bool {
        self.questions.is_stopped()
    }

    /// Refuses to go on beside other hosts of the group.
    pub fn require_alone(&self, topic: &str) -> Result<(), ReplayError> {
        let group = &self.config.kafka.group;
        let kafka = self.config.kafka.clone();
        match self.questions.ask(move || kafka::members_beside(&kafka))?? {
            0 | 1 => Ok(()),
            members => Err(ReplayError::NotAlone { topic: topic.to_owned(), group: group.clone(), members }),
        }
    }

    /// Writes a page, and rests for as long as that took.
    pub fn page(&mut self, page: Vec<FoundLetter>) -> Result<(), ReplayError> {
        let begun = Instant::now();
        if self.done.is_empty() && self.require_same_start().is_err() {
            self.store_start = Some(self.ask_start()?);
        }
        for (told, state) in self.run.page(page)? {
            self.take(told, state);
        }
        self.settling(None);
        self.rest(begun.elapsed().max(LEAST_REST));
        Ok(())
    }

    fn settling(&mut self, left: Option<Duration>) {
        let settling = Settling { letters: self.done.len() as u64, found: found(&self.done), left };
        self.listener.settling(settling);
    }

    fn take(&mut self, told: ReplayedLetter, state: Option<Arc<PartitionState>>) {
        let live = state.as_ref().and_then(|state| state.live_partition()).map(Arc::clone);
        match (&told.fate, live) {
            (Fate::Written(_) | Fate::Dropped, Some(live)) => {
                let outputs = state.map(|state| state.take_stored()).unwrap_or_default();
                self.summary.found += outputs.iter().filter(|output| output.found).count() as u64;
                self.outputs += outputs.len();
                self.done.push(DoneLetter { told, live, outputs });
                self.written = Some(Instant::now());
            }
            _ => self.tell(told),
        }
    }

    fn tell(&mut self, told: ReplayedLetter) {
        self.summary.count(&told.fate);
        self.listener.told(&told);
    }

    fn leave(&mut self, letter: DoneLetter, reason: LeftReason) {
        self.tell(ReplayedLetter { fate: Fate::Left(reason), ..letter.told });
    }

    fn rest(&self, long: Duration) {
        let until = Instant::now() + long;
        while !self.stopped() && Instant::now() < until {
            std::thread::sleep(TICK.min(until.saturating_duration_since(Instant::now())));
        }
    }

    fn ask_start(&self) -> Result<Started, ReplayError> {
        let asked = self.sink.runtime().block_on(self.sink.store_started_exactly());
        asked.map_err(|error| wrong(self.config, error))
    }

    /// How the store had started before the first of the letters that settle was written.
    pub fn store_start(&self) -> Result<Started, String> {
        self.store_start.ok_or_else(|| "when the store was started isn't known".into())
    }

    /// An error where the store was started again since then: it may have lost what was written.
    pub fn require_same_start(&self) -> Result<(), String> {
        self.sink.runtime().block_on(self.sink.require_same_start(self.store_start()?))
    }

    /// Whether as many letters or outputs settle as may: they are removed before others are written.
    pub fn is_full(&self) -> bool {
        self.done.len().max(self.outputs) >= MOST_SETTLING
    }

    /// Waits until what was written can be taken for safe, and removes its letters with `remove`, which gets those of one partition and
    /// answers with why they stay.
    pub fn settle(&mut self, remove: &mut RemoveLetters<'_>) -> Result<(), ReplayError> {
        let Some(written) = self.written.take() else { return Ok(()) };
        self.wait_settled(written);
        let done = std::mem::take(&mut self.done);
        self.outputs = 0;
        if self.stopped() {
            done.into_iter().for_each(|letter| self.leave(letter, LeftReason::Stopped));
            return Ok(());
        }
        if let Err(reason) = self.require_same_start() {
            done.into_iter().for_each(|letter| self.leave(letter, LeftReason::Store(reason.clone())));
            return Ok(());
        }
        let (mut count, mut count_found) = (done.len() as u64, found(&done));
        let mut by_partition = BTreeMap::<u64, Vec<DoneLetter>>::new();
        for letter in done {
            by_partition.entry(letter.live.generation()).or_default().push(letter);
        }
        for letters in by_partition.into_values() {
            let mut letters = letters.into_iter().peekable();
            while letters.peek().is_some() {
                let some: Vec<DoneLetter> = letters.by_ref().take(REMOVED_AT_ONCE).collect();
                let begun = Instant::now();
                count = count.saturating_sub(some.len() as u64);
                count_found = count_found.saturating_sub(found(&some));
                // Right before they are removed: the store may lose records while thousands are gone through.
                let some = self.shown(some)?;
                let places: Vec<&LetterPlace> = some.iter().map(|letter| &letter.told.place).collect();
                let removed = match some.first().map(|letter| &letter.live).filter(|live| live.may_replay_letters()) {
                    None => Err(LeftReason::Taken),
                    Some(_) if self.stopped() => Err(LeftReason::Stopped),
                    Some(live) => remove(self, live, &places).map_err(|reason| match live.may_replay_letters() {
                        // It may be the stop that the removal didn't wait for.
                        _ if self.stopped() => LeftReason::Stopped,
                        true => LeftReason::Store(reason),
                        false => LeftReason::Taken,
                    }),
                };
                for letter in some {
                    match &removed {
                        Ok(()) => self.tell(letter.told),
                        Err(reason) => self.leave(letter, reason.clone()),
                    }
                }
                let left = Some(Duration::ZERO);
                self.listener.settling(Settling { letters: count, found: count_found, left });
                self.rest(begun.elapsed().max(LEAST_REST));
            }
        }
        Ok(())
    }

    fn wait_settled(&mut self, written: Instant) {
        while !self.stopped() && written.elapsed() < SETTLED_WITHIN {
            let left = SETTLED_AFTER.saturating_sub(written.elapsed());
            let left = left.max(self.sink.may_be_at_work_for().unwrap_or_default());
            if left.is_zero() {
                break;
            }
            self.settling(Some(left));
            self.rest(left.min(Duration::from_secs(1)));
        }
    }

    /// Those whose outputs the store shows as the chain made them; the others are left.
    fn shown(&mut self, done: Vec<DoneLetter>) -> Result<Vec<DoneLetter>, ReplayError> {
        let outputs: Vec<Vec<StoredOutput>> = done.iter().map(|letter| letter.outputs.clone()).collect();
        let reasons = reasons_to_stay(&self.sink, &outputs).map_err(|error| wrong(self.config, error))?;
        let mut shown = Vec::new();
        for (letter, reason) in done.into_iter().zip(reasons) {
            match reason {
                Some(reason) => self.leave(letter, reason),
                None => shown.push(letter),
            }
        }
        Ok(shown)
    }
}
