//! Tries a replay of the dead letters while the host runs: what would become of each. It doesn't write: that is for
//! `reduct-sink replay --write`, while no host of the group runs.
//!
//! Guarantees: one trial at a time; it has a thread and plugin instances of its own, changes nothing, and neither circuit
//! breakers nor the bake window of a new version learn of its calls; a stop of the host ends it; a panic ends it, too.

use std::sync::{Arc, Mutex};

use tracing::{error, info};

use super::host::Host;
use super::lock;
use crate::chain::Chain;
use crate::config::threads;
use crate::dead_letters::replay::{Fate, ReplaySummary, ReplayedLetter, trial};
use crate::health::report::ReplayProgress;

/// The trial that runs, or the last one.
#[derive(Default)]
pub(super) struct Replaying(Mutex<Option<ReplayProgress>>);

/// Says that a trial has ended, also where it panics.
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
        lock(&self.0).clone()
    }

    /// Begins one. The answer says so, or why not.
    pub fn start(&self, host: Arc<Host>) -> Result<String, String> {
        {
            let mut progress = lock(&self.0);
            if progress.as_ref().is_some_and(|progress| progress.running) {
                return Err("a trial of a replay is running already; /status shows how far it is".into());
            }
            *progress = Some(ReplayProgress { running: true, ..ReplayProgress::default() });
        }
        let thread = threads::spawn("replay", move || {
            let mut ending = Ending { host, outcome: Err("it panicked; the log says where".into()) };
            ending.outcome = run(&ending.host);
        });
        match thread {
            Ok(_) => Ok("the trial of a replay has begun; /status shows how far it is".into()),
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
        if let Fate::Failing(reason) = &told.fate
            && progress.first_failing.is_none()
        {
            let who = told.identity.as_ref().map_or_else(|| told.place.to_string(), ToString::to_string);
            progress.first_failing = Some(format!("{who}: {reason}"));
        }
    }

    fn ended(&self, outcome: Result<(), String>) {
        let mut progress = lock(&self.0);
        let Some(progress) = progress.as_mut() else { return };
        progress.running = false;
        progress.error = outcome.err();
        match &progress.error {
            Some(reason) => error!(reason, "the trial of a replay failed; nothing was changed, start it again"),
            None => info!(
                letters = progress.letters,
                written = progress.written,
                dropped = progress.dropped,
                failing = progress.failing,
                left = progress.untouched,
                "the trial of a replay has ended; nothing was changed"
            ),
        }
    }
}

fn run(host: &Host) -> Result<(), String> {
    info!("trying what a replay would make of the dead letters");
    let chain =
        Chain::for_replay(Arc::clone(&host.chain)).map_err(|error| format!("can't start the plugins: {error:#}"))?;
    let mut summary = ReplaySummary::default();
    let tell = &mut |told: &ReplayedLetter| {
        summary.count(&told.fate);
        host.replay.told(summary, told);
    };
    trial(&host.config, chain, host.sink.store(), host.sink.runtime(), host.stop_flag(), tell)
        .map(drop)
        .map_err(|error| error.to_string())
}
