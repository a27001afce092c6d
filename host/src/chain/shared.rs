//! The active plugins and their versions, shared by all workers and changed while records flow.
//!
//! Guarantees: a change is atomic (a worker sees the whole chain before it or after it); a worker notices it by one
//! atomic load for each record; no function here blocks a worker for longer than a few clones take.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::meter::{Histogram, Latency, Meters};
use super::stage::StageObserver;
use crate::config::{PluginConfig, PluginSource, threads};
use crate::plugin::{
    ConfigVersion, CounterSet, Counts, Digest, Instance, LoadError, LoadedPlugin, RecentFailure, Runtime,
};

/// How many replaced versions are remembered.
const REMEMBERED: usize = 32;

/// The chain as all workers see it: its stages, and a number that grows with each change of them.
pub struct SharedChain {
    runtime: Arc<Runtime>,
    /// How many changes there were.
    generation: AtomicU64,
    /// How many workers there are, each with a chain of its own.
    workers: AtomicUsize,
    stages: Mutex<Stages>,
}

struct Stages {
    present: Vec<StageSpec>,
    retired: VecDeque<Retired>,
    /// By the plugin's name: the totals of those replaced versions that `retired` no longer holds.
    forgotten: HashMap<Arc<str>, PluginTotals>,
}

/// A plugin at its place in the chain: its configuration and the active version.
#[derive(Clone)]
pub struct StageSpec {
    /// The plugin's row of the configuration.
    pub config: Arc<PluginConfig>,
    /// The component and its counters.
    pub version: Version,
    /// When this version became the active one.
    pub since: SystemTime,
    /// The shadow trial that samples this stage's records, if one is running.
    pub(super) observer: Option<Arc<dyn StageObserver>>,
}

/// A loaded plugin, what was measured of it, and instances that were started ahead of time for the workers.
#[derive(Clone)]
pub struct Version {
    /// The compiled component, with its configuration and limits.
    pub plugin: LoadedPlugin,
    pub(super) meters: Arc<Meters>,
    pub(super) spares: Arc<Mutex<Vec<Instance>>>,
}

/// What all versions of a plugin did together since the host started. The counts never fall, also not when a version is
/// swapped or rolled back.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PluginTotals {
    /// Calls by verdict.
    pub counts: Counts,
    /// Records that its `when` left out.
    pub passed_over: u64,
    /// How long the measured calls took.
    pub histogram: Histogram,
}

/// What the host remembers of a replaced version: its description and its counts, but not its compiled code.
struct Retired {
    version: PluginVersion,
    counters: Arc<CounterSet>,
    meters: Arc<Meters>,
}

/// A plugin's version and what it did so far.
#[derive(Debug, Clone)]
pub struct PluginVersion {
    /// The plugin's name in the configuration.
    pub name: Arc<str>,
    /// The digest of its component.
    pub digest: Digest,
    /// Identifies its configuration; `None`: it has none.
    pub config: Option<ConfigVersion>,
    /// Where it was loaded from.
    pub source: PluginSource,
    /// The file's size.
    pub bytes: usize,
    /// When this version became the active one.
    pub since: SystemTime,
    /// How many of its calls ended with each verdict since then.
    pub counts: Counts,
    /// The kinds of failures that it had, the latest first.
    pub failures: Vec<RecentFailure>,
    /// Whether its circuit breaker is open; the chain doesn't ask the plugin while it is.
    pub breaker_open: bool,
    /// How many records its `when` left out.
    pub passed_over: u64,
    /// How long its calls took, measured on one record in 64.
    pub latency: Latency,
    /// The same measurements, spread over buckets.
    pub histogram: Histogram,
    /// The memory of all its instances together, in bytes.
    pub memory_bytes: u64,
    /// How long the slowest worker took to change over to it.
    pub taking_over: Duration,
}

/// An error: the chain has no plugin of this name.
#[derive(Debug, thiserror::Error)]
#[error("the chain has no plugin `{0}`")]
pub struct NotInChain(pub String);

impl SharedChain {
    /// Loads all plugins, in their order.
    pub fn load(runtime: Arc<Runtime>, plugins: &[PluginConfig]) -> Result<Arc<Self>, LoadError> {
        let load =
            |plugin: &PluginConfig| Ok(StageSpec::new(Arc::new(plugin.clone()), Version::new(runtime.load(plugin)?)));
        let present = plugins.iter().map(load).collect::<Result<Vec<_>, LoadError>>()?;
        let stages = Mutex::new(Stages { present, retired: VecDeque::new(), forgotten: HashMap::new() });
        Ok(Arc::new(Self { runtime, generation: AtomicU64::new(0), workers: AtomicUsize::new(0), stages }))
    }

    /// The runtime that compiles and starts the chain's plugins.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// The chain as it is now.
    pub fn stages(&self) -> Vec<StageSpec> {
        self.lock().present.clone()
    }

    /// The stage of this name, if the chain has one.
    pub fn stage(&self, name: &str) -> Option<StageSpec> {
        self.lock().present.iter().find(|stage| stage.config.name == name).cloned()
    }

    /// The present version of each plugin, in the chain's order.
    pub fn versions(&self) -> Vec<PluginVersion> {
        self.lock().present.iter().map(StageSpec::describe).collect()
    }

    /// What all versions of a plugin did together.
    pub fn totals(&self, name: &str) -> PluginTotals {
        self.lock().totals(name)
    }

    /// The versions that were replaced, the latest last. A worker that hasn't come to its next record may still add to
    /// their counts.
    pub fn retired(&self) -> Vec<PluginVersion> {
        self.lock().retired.iter().map(Retired::describe).collect()
    }

    /// Activates another version, or another configuration, of the plugin that `stage` names: each worker takes it over
    /// before its next record. Returns the stage that it replaced.
    pub fn replace(&self, mut stage: StageSpec) -> Result<StageSpec, NotInChain> {
        self.warm(&stage.version);
        stage.since = SystemTime::now();
        let mut stages = self.lock();
        let place = stages.present.iter_mut().find(|present| present.config.name == stage.config.name);
        let place = place.ok_or_else(|| NotInChain(stage.config.name.clone()))?;
        let before = std::mem::replace(place, stage);
        stages.retire(&before);
        self.changed();
        Ok(before)
    }

    /// Activates another chain, in one step. Stages that stay in it are kept as they are.
    pub fn install(&self, chain: Vec<StageSpec>) {
        chain.iter().for_each(|stage| self.warm(&stage.version));
        let mut stages = self.lock();
        let before = std::mem::replace(&mut stages.present, chain);
        for stage in before {
            if !stages.present.iter().any(|present| present.version.plugin.is(&stage.version.plugin)) {
                stages.retire(&stage);
            }
        }
        self.changed();
    }

    /// Lets `observer` see a sample of this plugin's records; `None` ends the observation.
    pub(crate) fn observe(&self, name: &str, observer: Option<Arc<dyn StageObserver>>) -> Result<(), NotInChain> {
        let mut stages = self.lock();
        let place = stages.present.iter_mut().find(|present| present.config.name == name);
        place.ok_or_else(|| NotInChain(name.into()))?.observer = observer;
        self.changed();
        Ok(())
    }

    /// Starts an instance for each worker ahead of time, so that a worker changes over without waiting for a start. If
    /// an instance doesn't start here, the worker tries again and logs the failure.
    fn warm(&self, version: &Version) {
        let present = |stage: &StageSpec| stage.version.plugin.is(&version.plugin);
        if self.lock().present.iter().any(present) {
            return;
        }
        let workers = self.workers.load(Ordering::Relaxed);
        let start = || (0..workers).map_while(|_| Instance::start(&version.plugin).ok()).collect();
        // The start has a thread of its own, because WASI's functions block and the caller may be a thread of tokio.
        let spares: Vec<Instance> = threads::aside(start).unwrap_or_default();
        *version.spares.lock().unwrap_or_else(PoisonError::into_inner) = spares;
    }

    /// Announces a change to the workers. The caller holds the lock, so that a worker that sees the new generation also
    /// sees the change.
    fn changed(&self) {
        self.generation.fetch_add(1, Ordering::Release);
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(super) fn present(&self) -> (u64, Vec<StageSpec>) {
        let stages = self.lock();
        (self.generation(), stages.present.clone())
    }

    pub(super) fn worker_joined(&self) {
        self.workers.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn worker_left(&self) {
        self.workers.fetch_sub(1, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Stages> {
        self.stages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stages {
    fn retire(&mut self, stage: &StageSpec) {
        let counters = stage.version.plugin.counter_set();
        self.retired.push_back(Retired {
            version: stage.describe(),
            counters,
            meters: Arc::clone(&stage.version.meters),
        });
        if self.retired.len() > REMEMBERED
            && let Some(gone) = self.retired.pop_front()
        {
            self.forget(&gone);
        }
    }

    /// Adds the counts of a version that is no longer remembered to its plugin's totals, except those that it shares
    /// with a version that is still remembered: [`Stages::totals`] counts these there.
    fn forget(&mut self, gone: &Retired) {
        let counted = self.counted(&gone.version.name);
        let totals = self.forgotten.entry(gone.version.name.clone()).or_default();
        if !counted.iter().any(|(counters, _)| Arc::ptr_eq(counters, &gone.counters)) {
            totals.counts += gone.counters.sum();
        }
        if !counted.iter().any(|(_, meters)| Arc::ptr_eq(meters, &gone.meters)) {
            totals.passed_over += gone.meters.passed_over();
            totals.histogram += &gone.meters.histogram();
        }
    }

    /// The counters and meters of this plugin's remembered versions, the active one first.
    fn counted(&self, name: &str) -> Vec<(Arc<CounterSet>, Arc<Meters>)> {
        let present = self.present.iter().filter(|stage| stage.config.name == name);
        let present = present.map(|stage| (stage.version.plugin.counter_set(), Arc::clone(&stage.version.meters)));
        let retired = self.retired.iter().filter(|retired| *retired.version.name == *name);
        present.chain(retired.map(|retired| (retired.counters.clone(), Arc::clone(&retired.meters)))).collect()
    }

    /// The totals of a plugin. A version that was rolled back to shares its counters with its earlier record in
    /// `retired`, so each counter set is added once.
    fn totals(&self, name: &str) -> PluginTotals {
        let mut totals = self.forgotten.get(name).cloned().unwrap_or_default();
        let counted = self.counted(name);
        for (at, (counters, meters)) in counted.iter().enumerate() {
            let before = counted.get(..at).unwrap_or_default();
            if !before.iter().any(|(other, _)| Arc::ptr_eq(other, counters)) {
                totals.counts += counters.sum();
            }
            if !before.iter().any(|(_, other)| Arc::ptr_eq(other, meters)) {
                totals.passed_over += meters.passed_over();
                totals.histogram += &meters.histogram();
            }
        }
        totals
    }
}

impl StageSpec {
    /// A stage whose version becomes active now.
    pub fn new(config: Arc<PluginConfig>, version: Version) -> Self {
        Self { config, version, since: SystemTime::now(), observer: None }
    }

    /// The same version under another configuration.
    pub fn configured(&self, config: Arc<PluginConfig>) -> Self {
        Self { config, ..self.clone() }
    }

    /// The same version with new meters: what was measured of it before is left out from now on.
    pub fn restarted(&self) -> Self {
        Self::new(Arc::clone(&self.config), Version::new(self.version.plugin.clone()))
    }

    /// The stage's version with what it did so far, as the status page shows it.
    pub fn describe(&self) -> PluginVersion {
        let Version { plugin, meters, .. } = &self.version;
        PluginVersion {
            name: plugin.name.clone(),
            digest: plugin.digest,
            config: plugin.config,
            source: self.config.source.clone(),
            bytes: plugin.bytes,
            since: self.since,
            counts: plugin.counts(),
            failures: plugin.recent_failures(),
            breaker_open: plugin.breaker_is_open(),
            passed_over: meters.passed_over(),
            latency: meters.latency(),
            histogram: meters.histogram(),
            memory_bytes: meters.memory(),
            taking_over: meters.taking_over(),
        }
    }
}

impl Version {
    /// A version that was not called yet.
    pub fn new(plugin: LoadedPlugin) -> Self {
        Self { plugin, meters: Arc::default(), spares: Arc::default() }
    }

    /// Takes an instance that [`SharedChain::warm`] started ahead of time, if one is left.
    pub(super) fn spare(&self) -> Option<Instance> {
        self.spares.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }
}

impl Retired {
    fn describe(&self) -> PluginVersion {
        PluginVersion {
            counts: self.counters.sum(),
            breaker_open: false,
            passed_over: self.meters.passed_over(),
            latency: self.meters.latency(),
            histogram: self.meters.histogram(),
            memory_bytes: self.meters.memory(),
            ..self.version.clone()
        }
    }
}
