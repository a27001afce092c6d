//! Replays dead letters while the host runs.
//!
//! Guarantees: one replay at a time; it has a thread and plugin instances of its own, and writes through the host's writers,
//! only for partitions that the host reads; a stop of the host ends it, and what it had not finished stays a dead letter.

use std::sync::{Arc, Mutex};

use tracing::{error, info};

use super::host::Host;
use super::lock;
use crate::chain::Chain;
use crate::dead_letters::replay::{Beside, Fate, PartitionOwner, ReplaySummary, ReplayedLetter, replay_beside};
use crate::flow::PartitionState;
use crate::health::report::ReplayProgress;
use crate::record::TopicPartition;

/// The replay that runs, or the last one.
#[derive(Default)]
pub(super) struct Replaying(Mutex<Option<ReplayProgress>>);

impl PartitionOwner for Host {
    fn owned(&self, source: &TopicPartition) -> Option<Arc<PartitionState>> {
        self.assignments().get(source).map(|owned| Arc::clone(&owned.state))
    }
}

impl Replaying {
    pub fn progress(&self) -> Option<ReplayProgress> {
        lock(&self.0).clone()
    }

    /// Begins one. The answer says so, or why not.
    pub fn start(&self, host: Arc<Host>, write: bool) -> Result<String, String> {
        {
            let mut progress = lock(&self.0);
            if progress.as_ref().is_some_and(|progress| progress.running) {
                return Err("a replay is running already; /status shows how far it is".into());
            }
            *progress = Some(ReplayProgress { running: true, write, ..ReplayProgress::default() });
        }
        let thread = std::thread::Builder::new().name("replay".into()).spawn(move || {
            let outcome = run(&host, write);
            host.replay.ended(outcome);
        });
        match thread {
            Ok(_) => {
                Ok(format!("the replay{} has begun; /status shows how far it is", if write { "" } else { "'s trial" }))
            }
            Err(error) => {
                self.ended(Err(error.to_string()));
                Err(format!("no thread for it: {error}"))
            }
        }
    }

    fn told(&self, summary: ReplaySummary, told: &ReplayedLetter) {
        let ReplaySummary { letters, written, dropped, failing, untouched, elsewhere, .. } = summary;
        let mut progress = lock(&self.0);
        let Some(progress) = progress.as_mut() else { return };
        (progress.letters, progress.written, progress.dropped) = (letters, written, dropped);
        (progress.failing, progress.untouched, progress.elsewhere) = (failing, untouched, elsewhere);
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
            Some(reason) => error!(reason, "the replay of dead letters failed; nothing is lost, start it again"),
            None => info!(
                write = progress.write,
                letters = progress.letters,
                written = progress.written,
                dropped = progress.dropped,
                failing = progress.failing,
                left = progress.untouched + progress.elsewhere,
                "the replay of dead letters has ended"
            ),
        }
    }
}

fn run(host: &Host, write: bool) -> Result<(), String> {
    info!(write, "replaying dead letters beside the host's own work");
    let chain = Chain::new(Arc::clone(&host.chain)).map_err(|error| format!("can't start the plugins: {error:#}"))?;
    let beside = Beside {
        config: &host.config,
        chain,
        sink: host.sink.clone(),
        owner: host,
        runtime: host.sink.runtime().clone(),
        stop: host.stop_flag(),
    };
    let mut summary = ReplaySummary::default();
    let tell = &mut |told: &ReplayedLetter| {
        summary.count(&told.fate);
        host.replay.told(summary, told);
    };
    replay_beside(beside, write, tell).map(drop).map_err(|error| error.to_string())
}
