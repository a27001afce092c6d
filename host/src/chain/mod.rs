//! The chain asks the configured plugins, in their order, what is to become of each input record.
//!
//! Guarantees: each attempt at an input record has one [`Outcome`], decided by one version of each plugin; if a plugin fails on one
//! part of a split record, its failure policy decides about the whole record, so that no record is written in part; a
//! failure affects no record but the one on which the plugin failed.

mod instances;
mod marks;
mod meter;
mod shared;
mod stage;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::{FailurePolicy, WhileOpen};
use crate::plugin::{ConfigVersion, Digest, RecordView, Trouble, calls_stage, header_keys};
use crate::record::{InputRecord, OutputRecord};

use marks::Marks;
pub(crate) use meter::Meters;
pub use meter::{Histogram, Latency};
pub use shared::{NotInChain, PluginTotals, PluginVersion, SharedChain, StageSpec, Version};
pub use stage::StageSeen;
pub(crate) use stage::{Stage, StageObserver};

/// What the host has to do with an input record after its plugins were asked.
#[derive(Debug)]
pub enum Outcome {
    /// The host writes these records: at least one, in order, numbered if the input record was split.
    Outputs(Vec<OutputRecord>),
    /// A plugin dropped the record: the host acknowledges it without writing it.
    Dropped,
    /// A plugin failed, and its policy is `skip`: the host acknowledges the record without writing it.
    Skipped(PluginFailure),
    /// A plugin failed, and its policy is `dead-letter`: the host writes a dead letter.
    DeadLetter(PluginFailure),
    /// A plugin asked for the record to be tried again later, and the allowed attempts are not used up.
    Retry(PluginFailure),
    /// A plugin's circuit breaker is open and its `then` is `wait`: the record waits at least this long.
    Wait(PluginFailure, Duration),
    /// A plugin failed, and its policy is `stop`: the host stops.
    Stop(PluginFailure),
}

/// Which version of which plugin failed, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginFailure {
    /// The plugin's name in the configuration.
    pub plugin: Arc<str>,
    /// The digest of its component.
    pub digest: Digest,
    /// Identifies the plugin's configuration; `None`: it has none.
    pub config: Option<ConfigVersion>,
    /// Why the plugin failed, as one line of at most a few kilobytes.
    pub reason: String,
}

impl PluginFailure {
    /// `DIGEST:CONFIG`, both in hexadecimal; the digest alone where the plugin isn't configured.
    pub fn version(&self) -> String {
        self.config.map_or_else(|| self.digest.to_string(), |config| format!("{}:{config}", self.digest))
    }
}

/// One worker's chain: an instance of each plugin. Used by one thread at a time, which must not be one of tokio's: what
/// plugins ask of WASI blocks.
pub struct Chain {
    shared: Arc<SharedChain>,
    /// The generation of `shared` that `stages` has taken over.
    generation: u64,
    stages: Vec<Stage>,
    /// See [`Chain::for_replay`].
    is_replay: bool,
    marks: Marks,
    /// What each stage made of the watched record; `None` while no record is watched (see [`Chain::watch_next`]).
    seen: Option<Vec<StageSeen>>,
}

impl Chain {
    /// Starts an instance of each plugin's present version.
    pub fn new(shared: Arc<SharedChain>) -> anyhow::Result<Self> {
        Self::start(shared, false)
    }

    /// Starts a chain for a replay of the dead letters in a running host, or a dry run of one: its calls are neither counted nor
    /// timed with those of the workers, and circuit breakers neither count its failures nor refuse its records.
    pub fn for_replay(shared: Arc<SharedChain>) -> anyhow::Result<Self> {
        Self::start(shared, true)
    }

    fn start(shared: Arc<SharedChain>, is_replay: bool) -> anyhow::Result<Self> {
        let (generation, present) = shared.present();
        let start = if is_replay { Stage::for_replay } else { Stage::new };
        let stages = present.iter().map(start).collect::<anyhow::Result<Vec<_>>>()?;
        shared.worker_joined();
        Ok(Self { shared, generation, marks: Marks::of(&stages), stages, is_replay, seen: None })
    }

    /// Takes over a change of the chain, if there is one. The worker calls it between two records; without a change it
    /// costs one atomic load.
    ///
    /// If a version doesn't start on this worker, the previous one stays active here, and the log says why.
    pub fn refresh(&mut self) {
        if self.shared.generation() == self.generation {
            return;
        }
        let started = Instant::now();
        let (generation, present) = self.shared.present();
        self.generation = generation;
        let mut before = std::mem::take(&mut self.stages);
        for spec in &present {
            let known = before.iter().position(|stage| stage.name() == spec.config.name);
            self.stages.push(match known.map(|at| before.swap_remove(at)) {
                Some(mut stage) => {
                    stage.take_over(spec, started);
                    stage
                }
                None => Stage::added(spec, started, self.is_replay),
            });
        }
        self.marks = Marks::of(&self.stages);
    }

    /// Whether the version that failed is still the active one here, under the same configuration.
    pub fn has_version(&self, failed: &PluginFailure) -> bool {
        self.stages
            .iter()
            .any(|stage| stage.failure(String::new()).version() == failed.version() && stage.name() == &*failed.plugin)
    }

    /// Makes the next call of [`Chain::attempt`] note what each plugin makes of the record.
    pub fn watch_next(&mut self) {
        self.seen = Some(Vec::new());
    }

    /// Returns what each plugin that was asked made of the watched record, and ends the watching.
    pub fn take_seen(&mut self) -> Vec<StageSeen> {
        self.seen.take().unwrap_or_default()
    }

    /// The memory of this chain's instances, in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.stages.iter().map(Stage::memory_bytes).sum()
    }

    /// Asks each plugin in order what is to become of the record, for the first time.
    pub fn transform(&mut self, input: &Arc<InputRecord>) -> Outcome {
        self.attempt(input, 1)
    }

    /// Asks each plugin in order what is to become of the record. `attempt` says how many times the record was tried
    /// with this one, counted from 1; a plugin that asks for more attempts than its configuration allows has failed on
    /// the record.
    pub fn attempt(&mut self, input: &Arc<InputRecord>, attempt: u32) -> Outcome {
        let keys = header_keys(input);
        let record = RecordView::new(input, &keys);
        let mut outputs = vec![OutputRecord::unchanged(input.clone())];
        let mut was_split = false;
        // The places of the plugins that did not handle the record: their `when` left it out, or they failed with the
        // policy `pass`. There are rarely any.
        let mut passed = Vec::new();
        for (at, stage) in self.stages.iter_mut().enumerate() {
            if !stage.asks_about(input) {
                passed.push(at);
                continue;
            }
            calls_stage(at);
            let begun = self.seen.is_some().then(Instant::now);
            let answer = stage.transform(&record, &mut outputs);
            if let (Some(seen), Some(begun)) = (&mut self.seen, begun) {
                seen.push(stage.seen(&answer, begun.elapsed()));
            }
            let (reason, policy) = match answer {
                Ok(split) => {
                    was_split |= split;
                    (None, stage.policy())
                }
                Err(Trouble::Retry(reason)) if attempt < stage.attempts() => {
                    return Outcome::Retry(stage.failure(reason));
                }
                Err(Trouble::Retry(reason)) => (Some(format!("{reason} (tried {attempt} times)")), stage.policy()),
                Err(Trouble::Failed(reason) | Trouble::Broken(reason) | Trouble::TimedOut(reason, _)) => {
                    (Some(reason), stage.policy())
                }
                Err(Trouble::NotAsked(wait)) => {
                    let reason =
                        "its circuit breaker is open: it failed too often in a row, and isn't asked".to_owned();
                    let policy = match stage.while_open() {
                        WhileOpen::Wait => return Outcome::Wait(stage.failure(reason), wait),
                        WhileOpen::DeadLetter => FailurePolicy::DeadLetter,
                        WhileOpen::Skip => FailurePolicy::Skip,
                        WhileOpen::Pass => FailurePolicy::Pass,
                        WhileOpen::Stop => FailurePolicy::Stop,
                    };
                    (Some(reason), policy)
                }
            };
            if let Some(reason) = reason {
                stage.report_failure(input, policy, &reason);
                match policy {
                    FailurePolicy::Pass => passed.push(at),
                    FailurePolicy::Skip => return Outcome::Skipped(stage.failure(reason)),
                    FailurePolicy::DeadLetter => return Outcome::DeadLetter(stage.failure(reason)),
                    FailurePolicy::Stop => return Outcome::Stop(stage.failure(reason)),
                }
            }
            if outputs.is_empty() {
                return Outcome::Dropped;
            }
        }
        let handled_by = self.marks.without(&passed, &self.stages);
        for (index, output) in (0..).zip(&mut outputs) {
            output.index = was_split.then_some(index);
            output.handled_by.clone_from(&handled_by);
        }
        Outcome::Outputs(outputs)
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        self.shared.worker_left();
    }
}
