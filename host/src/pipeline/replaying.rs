//! Replays the dead letters while the host runs, or makes a dry run of that, which tells what would become of each letter.
//!
//! Guarantees: one replay or dry run goes on at a time; it has a thread and plugin instances of its own, and neither circuit breakers nor
//! the bake window of a new version count its calls; a dry run changes nothing; a replay loses no letter, as [`beside_live`] says; a stop
//! of the host ends it; a panic in it ends it, and not the host.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tracing::{debug, error, info};

use super::host::Host;
use super::lock;
use crate::chain::Chain;
use crate::config::threads;
use crate::dead_letters::replay::{
    Fate, HostReplay, NotAsked, ReplayListener, ReplaySummary, ReplayedLetter, Settling, beside_live, count, dry_run,
};
use crate::health::report::ReplayProgress;
use crate::record::TopicPartition;

/// How many different reasons are counted by themselves.
const REASONS: usize = 16;
const FURTHER: &str = "further reasons of ReductStore; start the replay again";

/// The replay that runs, or the last one.
#[derive(Default)]
pub(super) struct Replaying(Mutex<Option<ReplayProgress>>);

/// Notes that a replay has ended when it is dropped, so also where the replay panics.
struct Ending {
    host: Arc<Host>,
    outcome: Result<(), String>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.host.replay.ended(std::mem::replace(&mut self.outcome, Ok(())));
    }
}

impl Replaying {
    pub fn progress(&self) -> Option<ReplayProgress> {
        let mut progress = lock(&self.0).clone()?;
        // More letters may have come since they were counted.
        let known = progress.letters + progress.settling;
        progress.total = progress.total.map(|total| total.max(known));
        let remaining = progress.total.map(|total| total.saturating_sub(progress.letters));
        progress.remaining = remaining.filter(|_| progress.running);
        Some(progress)
    }

    fn counted(&self, letters: u64) {
        if let Some(progress) = lock(&self.0).as_mut() {
            progress.total = Some(letters);
        }
    }

    /// Begins a replay, or where not `write`, a dry run. The answer says, in words, that it has begun, or why it hasn't.
    pub fn start(&self, host: Arc<Host>, write: bool) -> Result<String, String> {
        {
            let mut progress = lock(&self.0);
            if progress.as_ref().is_some_and(|progress| progress.running) {
                return Err("a replay is running already; /status shows how far it is".into());
            }
            *progress = Some(ReplayProgress { running: true, write, ..ReplayProgress::default() });
        }
        let thread = threads::spawn("replay", move || {
            let mut ending = Ending { host, outcome: Err("it panicked; the log says where".into()) };
            ending.outcome = if write { write_now(&ending.host) } else { try_it(&ending.host) };
        });
        let what = if write { "the replay" } else { "the dry run of a replay" };
        match thread {
            Ok(_) => Ok(format!("{what} has begun; /status shows how far it is")),
            Err(error) => {
                self.ended(Err(error.to_string()));
                Err(format!("no thread for it: {error}"))
            }
        }
    }

    fn told(&self, summary: ReplaySummary, told: &ReplayedLetter) {
        let ReplaySummary { letters, written, dropped, failing, untouched, .. } = summary;
        let mut progress = lock(&self.0);
        let Some(progress) = progress.as_mut() else { return };
        (progress.letters, progress.written, progress.dropped) = (letters, written, dropped);
        (progress.failing, progress.untouched) = (failing, untouched);
        let who = || told.identity.as_ref().map_or_else(|| told.place.to_string(), ToString::to_string);
        match &told.fate {
            Fate::Failing(reason) if progress.first_failing.is_none() => {
                progress.first_failing = Some(format!("{}: {reason}", who()));
            }
            Fate::Left(reason) => {
                count_reason(&mut progress.left_because, reason.words().into_owned());
                progress.first_left.get_or_insert_with(|| format!("{}: {reason}", who()));
            }
            _ => {}
        }
    }

    fn settling(&self, settling: Settling) {
        let mut progress = lock(&self.0);
        let Some(progress) = progress.as_mut() else { return };
        (progress.settling, progress.settling_found) = (settling.letters, settling.found);
        progress.settled_in_s = settling.left.map(|left| left.as_secs());
    }

    fn ended(&self, outcome: Result<(), String>) {
        let mut progress = lock(&self.0);
        let Some(progress) = progress.as_mut() else { return };
        progress.running = false;
        (progress.settling, progress.settling_found, progress.settled_in_s) = (0, 0, None);
        progress.error = outcome.err();
        let ReplayProgress { letters, written, dropped, failing, untouched: left, .. } = *progress;
        match (&progress.error, progress.write) {
            (Some(reason), true) => {
                error!(reason, "the replay failed; no dead letter is lost, start it again");
            }
            (Some(reason), false) => {
                error!(reason, "the dry run of a replay failed; nothing was changed, start it again")
            }
            (None, true) => info!(letters, written, dropped, failing, left, "the replay has ended"),
            (None, false) => {
                info!(
                    letters,
                    written, dropped, failing, left, "the dry run of a replay has ended; nothing was changed"
                );
            }
        }
    }
}

/// Counts a reason. What the store says may differ from letter to letter, so only some are told apart.
fn count_reason(reasons: &mut BTreeMap<String, u64>, reason: String) {
    let is_known = reasons.contains_key(&reason) || reasons.len() < REASONS;
    let reason = if is_known { reason } else { FURTHER.to_owned() };
    *reasons.entry(reason).or_default() += 1;
}

fn chain_of(host: &Host) -> Result<Chain, String> {
    Chain::for_replay(Arc::clone(&host.chain)).map_err(|error| format!("can't start the plugins: {error:#}"))
}

/// The records that the replay asks no plugin about: a plugin hung on them, and this thread would hang, too.
fn not_asked(host: &Host) -> NotAsked {
    let hung = host.workers.hung_records();
    Arc::new(move |record| hung.of(record).map(|call| call.failure))
}

/// Counts the dead letters, to show how many remain. Where that fails the replay goes on without it.
fn count_letters(host: &Host) {
    match count(&host.config, host.sink.store(), host.sink.runtime(), host.end_flag()) {
        Ok(letters) => host.replay.counted(letters),
        Err(error) => debug!(%error, "the dead letters can't be counted"),
    }
}

fn try_it(host: &Host) -> Result<(), String> {
    info!("trying what a replay would make of the dead letters");
    count_letters(host);
    let chain = chain_of(host)?;
    let mut summary = ReplaySummary::default();
    let tell = &mut |told: &ReplayedLetter| {
        summary.count(&told.fate);
        host.replay.told(summary, told);
    };
    dry_run(&host.config, chain, host.sink.store(), host.sink.runtime(), host.end_flag(), not_asked(host), tell)
        .map(drop)
        .map_err(|error| error.to_string())
}

/// Shows in the status what becomes of the letters of a replay.
struct Shown<'a> {
    host: &'a Host,
    summary: ReplaySummary,
}

impl ReplayListener for Shown<'_> {
    fn told(&mut self, letter: &ReplayedLetter) {
        self.summary.count(&letter.fate);
        self.host.replay.told(self.summary, letter);
    }

    fn settling(&mut self, settling: Settling) {
        self.host.replay.settling(settling);
    }
}

fn write_now(host: &Arc<Host>) -> Result<(), String> {
    info!("replaying the dead letters of the partitions that this host has");
    count_letters(host);
    let chain = chain_of(host)?;
    let owner = Arc::clone(host);
    let owned = move |source: &TopicPartition| owner.assignments().get(source).map(|owned| Arc::clone(&owned.state));
    let replay = HostReplay {
        config: &host.config,
        chain,
        sink: host.sink.clone(),
        owned: Arc::new(owned),
        stop: host.end_flag(),
        not_asked: not_asked(host),
    };
    let summary = beside_live(replay, &mut Shown { host, summary: ReplaySummary::default() });
    summary.map(drop).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dead_letters::replay::{LeftReason, LetterPlace};

    #[test]
    fn a_letter_that_stays_is_counted_with_the_reason_that_the_store_gave() {
        let replaying = Replaying(Mutex::new(Some(ReplayProgress::default())));
        let place = LetterPlace::Topic { partition: TopicPartition { topic: "t".into(), partition: 0 }, offset: 1 };
        let tell = |reason| {
            let told = ReplayedLetter { place: place.clone(), identity: None, fate: Fate::Left(reason) };
            replaying.told(ReplaySummary::default(), &told);
        };
        tell(LeftReason::Store("away".into()));
        tell(LeftReason::NotHere);
        (0..50).for_each(|number| tell(LeftReason::Store(format!("{number} s"))));
        let told = replaying.progress().unwrap().left_because;
        assert_eq!(told.get("ReductStore: away; start the replay again"), Some(&1), "{told:?}");
        assert!(told.len() <= REASONS + 1 && told.values().sum::<u64>() == 52, "{told:?}");
        let here = told.keys().find(|reason| reason.contains("doesn't have their partitions")).unwrap();
        assert!(!here.contains("another host"), "{here}");
    }

    #[test]
    fn progress_says_how_many_letters_remain() {
        let running = ReplayProgress { running: true, letters: 30, settling: 64, ..ReplayProgress::default() };
        let replaying = Replaying(Mutex::new(Some(running)));
        let told = || replaying.progress().map(|progress| (progress.total, progress.remaining));
        assert_eq!(told(), Some((None, None)), "they aren't counted yet");
        replaying.counted(960);
        assert_eq!(told(), Some((Some(960), Some(930))), "those that wait to be removed remain");
        replaying.counted(50);
        assert_eq!(told(), Some((Some(94), Some(64))), "more came while they were counted");
        replaying.ended(Ok(()));
        assert_eq!(told(), Some((Some(50), None)));
    }
}
